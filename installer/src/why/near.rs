//! Names that somebody may have meant who wrote another one.

/// Names that differ from `pv` by a slip: in case, in separators, by two characters in the wrong order, by one too many, or
/// because a field follows. Not by a digit: that is another device, not a slip.
pub(super) fn slips(pv: &str) -> Vec<String> {
    let letters: Vec<char> = pv.chars().collect();
    let mut found = vec![pv.to_uppercase(), pv.to_lowercase()];
    for (separator, others) in [(':', "-_."), ('-', ":_"), ('_', ":-"), ('.', ":")] {
        found.extend(others.chars().map(|other| pv.replace(separator, &other.to_string())));
    }
    found.extend(pv.rsplit_once('.').map(|(record, _)| record.to_owned()));
    for at in 0..letters.len() {
        let mut fewer = letters.clone();
        if !fewer.remove(at).is_ascii_digit() {
            found.push(String::from_iter(fewer));
        }
        let mut swapped = letters.clone();
        if at + 1 < swapped.len() && !swapped[at..at + 2].iter().all(char::is_ascii_digit) {
            swapped.swap(at, at + 1);
            found.push(String::from_iter(swapped));
        }
    }
    found.retain(|name| name != pv && !name.is_empty());
    found.sort();
    found.dedup();
    found
}

/// Whether `name` may be what is meant by `pv`: at most two characters are other ones, too many or missing, and not only digits.
pub(super) fn is_near(pv: &str, name: &str) -> bool {
    const MOST: usize = 2;
    let without_digits = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
    pv != name
        && without_digits(pv) != without_digits(name)
        && pv.len().abs_diff(name.len()) <= MOST
        && distance(pv, name) <= MOST
}

/// How many characters must be inserted, deleted or replaced (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (above, from) in (1..).zip(a.chars()) {
        let mut diagonal = std::mem::replace(&mut row[0], above);
        for (at, to) in b.iter().enumerate() {
            let best = (diagonal + usize::from(from != *to)).min(row[at] + 1).min(row[at + 1] + 1);
            diagonal = std::mem::replace(&mut row[at + 1], best);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_a_hand_are_tried_and_other_devices_are_not() {
        let slips = slips("A:Name12.VAL");
        for name in
            ["A:NAME12.VAL", "A-Name12.VAL", "A:Name12", "A:aNme12.VAL", "A:Nme12.VAL", "A:Nam1e2.VAL"]
        {
            assert!(slips.iter().any(|slip| slip == name), "{name}");
        }
        for name in ["A:Name12.VAL", "A:Name21.VAL", "A:Name1.VAL", ""] {
            assert!(!slips.iter().any(|slip| slip == name), "{name}");
        }
        assert_eq!(super::slips(""), [""; 0]);
        assert_eq!(super::slips("A"), ["a"]);
    }

    #[test]
    fn near_is_what_differs_by_two_characters_at_most() {
        for (name, expected) in [
            ("A:NAME", false),
            ("A:NAMES", true),
            ("A:NME", true),
            ("A:NAMESES", false),
            ("B:MANE", false),
            ("A:NAME1", false),
            ("a:NAMe", true),
        ] {
            assert_eq!(is_near("A:NAME", name), expected, "{name}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!((distance("", "abc"), distance("abc", "")), (3, 3));
    }
}
