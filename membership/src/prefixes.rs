//! How the names of a pod's PVs begin: a pod that says so gets no searches for other names.
//!
//! `BL07I-EA-, BL07I-DI-`: beginnings, compared byte by byte. Nothing is learnt from what a server answers: a name that was
//! wrongly kept from it would be missing for a second or more, and one that it adds later for ever.

use crate::{annotation::PVS, error::Error};

/// The longest beginning, bytes.
const LONGEST: usize = abi::PREFIX;
/// The longest list, bytes.
const LIST: usize = abi::DECLARED;

/// The beginnings in an annotation.
pub fn parse(text: &str) -> Result<Vec<String>, Error> {
    let fault = |what: String| Err(Error::Refused(format!("annotation {PVS}: {what}")));
    let mut prefixes: Vec<String> = text.split(',').map(|prefix| prefix.trim().to_owned()).collect();
    prefixes.retain(|prefix| !prefix.is_empty());
    prefixes.sort();
    prefixes.dedup();
    if prefixes.is_empty() {
        return fault("it names nothing; write how the names of the pod's PVs begin, or remove it".into());
    }
    if let Some(what) = prefixes.iter().find_map(|prefix| objection(prefix)) {
        return fault(format!("{what}; separate beginnings by commas"));
    }
    let length = prefixes.iter().map(|prefix| prefix.len() + 1).sum::<usize>() - 1;
    if length > LIST {
        return fault(format!("it has {length} bytes of beginnings; at most {LIST} are kept"));
    }
    Ok(prefixes)
}

/// Why a text is no beginning of names.
pub fn objection(prefix: &str) -> Option<String> {
    if prefix.is_empty() {
        return Some("an empty beginning stands for all names".into());
    }
    if prefix.len() > LONGEST {
        return Some(format!("`{prefix}` has {} bytes; a beginning has at most {LONGEST}", prefix.len()));
    }
    if prefix.contains(['*', '?', '[']) {
        return Some(format!(
            "`{prefix}` is no beginning of a name: write it without wildcards, it stands for all names that begin so"
        ));
    }
    let is_blank = |c: char| c.is_whitespace() || c.is_control();
    prefix.contains(is_blank).then(|| format!("`{prefix}` has a space or a control character"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_separated_by_commas_and_named_once() {
        assert_eq!(parse("BL07I-EA-, BL07I-DI-").unwrap(), ["BL07I-DI-", "BL07I-EA-"]);
        assert_eq!(parse(" A:,,A: ,\n").unwrap(), ["A:"]);
        assert_eq!(parse("\u{b5}:").unwrap(), ["\u{b5}:"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let long = "x".repeat(65);
        let many = vec!["x".repeat(60); 1]
            .into_iter()
            .chain((0..20).map(|n| format!("{n:060}")))
            .collect::<Vec<_>>()
            .join(",");
        for (text, expected) in [
            ("", "it names nothing"),
            (" , ", "it names nothing"),
            ("A:*", "without wildcards"),
            ("A: B:", "separate beginnings by commas"),
            ("A\u{0}", "control character"),
            (long.as_str(), "65 bytes"),
            (many.as_str(), "at most 1024"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with("annotation iocast.io/pvs: ") && error.contains(expected),
                "{text}: {error}"
            );
        }
    }
}
