//! What is asked of the page, from the path and the query of a request.

use std::net::Ipv4Addr;

use percent_encoding::percent_decode_str;

/// The longest name that a search can have.
const LONGEST: usize = 1000;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Members,
    Seen,
    Why { pv: String, from: Option<Ipv4Addr>, protocol: Option<abi::Protocol> },
}

/// Who is to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// This node.
    Node,
    /// All of them.
    Cluster,
}

impl Question {
    /// `None` if there is no such thing, an error if it is asked in a wrong way.
    pub(super) fn read(path: &str, query: &str) -> Option<Result<(Self, Scope), String>> {
        let name = path.strip_prefix("/api/")?;
        let (name, scope) =
            name.strip_prefix("node/").map_or((name, Scope::Cluster), |name| (name, Scope::Node));
        let question = match name {
            "members" => Ok(Self::Members),
            "seen" => Ok(Self::Seen),
            "why" => why(query),
            _ => return None,
        };
        Some(question.map(|question| (question, scope)))
    }
}

fn why(query: &str) -> Result<Question, String> {
    let (mut name, mut client, mut spoken) = (String::new(), None, None);
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = percent_decode_str(value).decode_utf8().map_err(|_| format!("{key} is not UTF-8"))?;
        match (key, value.as_ref()) {
            ("pv", pv) => name = pv.into(),
            ("from" | "protocol", "") => {}
            ("from", from) => client = Some(address(from)?),
            ("protocol", protocol) => spoken = Some(protocol_of(protocol)?),
            _ => return Err(format!("there is no {key}: only pv, from and protocol")),
        }
    }
    match name.len() {
        0 => Err("pv is missing: the name of a PV".into()),
        1..=LONGEST => Ok(Question::Why { pv: name, from: client, protocol: spoken }),
        _ => Err(format!("no server has a name of more than {LONGEST} bytes")),
    }
}

fn address(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| "from is the client's IPv4 address on the LAN, such as 172.23.0.2".into())
}

fn protocol_of(name: &str) -> Result<abi::Protocol, String> {
    match name {
        "ca" => Ok(abi::Protocol::Ca),
        "pva" => Ok(abi::Protocol::Pva),
        _ => Err("protocol is ca or pva".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_question_or_says_what_is_wrong_with_it() {
        let why = |pv: &str| Question::Why { pv: pv.into(), from: None, protocol: None };
        let long = format!("pv={}", "x".repeat(1001));
        for (path, query, expected) in [
            ("/api/members", "", Some(Ok((Question::Members, Scope::Cluster)))),
            ("/api/node/members", "", Some(Ok((Question::Members, Scope::Node)))),
            ("/api/seen", "x=y", Some(Ok((Question::Seen, Scope::Cluster)))),
            ("/api/why", "pv=A%3ANAME", Some(Ok((why("A:NAME"), Scope::Cluster)))),
            ("/api/why", "pv=%3Cb%3E%26+&from=&protocol=", Some(Ok((why("<b>&+"), Scope::Cluster)))),
            ("/api/node/why", "pv=%E2%80%AEx", Some(Ok((why("\u{202e}x"), Scope::Node)))),
            ("/api/why", "", Some(Err("pv is missing"))),
            ("/api/why", "pv=%FF", Some(Err("not UTF-8"))),
            ("/api/why", &long, Some(Err("1000 bytes"))),
            ("/api/why", "pv=x&from=evil", Some(Err("172.23.0.2"))),
            ("/api/why", "pv=x&protocol=gvcp", Some(Err("ca or pva"))),
            ("/api/why", "pv=x&token=y", Some(Err("there is no token"))),
            ("/api/status", "", None),
            ("/api/node/node/seen", "", None),
            ("/members", "", None),
        ] {
            match (Question::read(path, query), expected) {
                (Some(Err(found)), Some(Err(expected))) => assert!(found.contains(expected), "{found}"),
                (found, Some(Ok(expected))) => assert_eq!(found, Some(Ok(expected)), "{path}?{query}"),
                (found, expected) => {
                    assert!(found.is_none() && expected.is_none(), "{path}?{query}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn a_question_about_a_client_names_it() {
        let found = Question::read("/api/why", "pv=x&from=172.23.0.2&protocol=pva");
        let (pv, from) = ("x".into(), Some(Ipv4Addr::new(172, 23, 0, 2)));
        let expected = Question::Why { pv, from, protocol: Some(abi::Protocol::Pva) };
        assert_eq!(found, Some(Ok((expected, Scope::Cluster))));
    }
}
