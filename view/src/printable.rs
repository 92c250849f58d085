//! Text that others chose, made fit to be shown. Hosts on the LAN name PVs, users name pods and write annotations, and a
//! terminal obeys what is sent to it.
//!
//! Everything that is printed for people, or goes into a message, passes here; nothing else escapes text.

/// The longest text that is shown whole, in characters; of a longer one only its beginning and its end are shown.
const LONGEST: usize = 2000;
/// How much of a longer one's end is shown: messages end with what to do.
const END: usize = 500;

/// `text` on one line, with what a terminal obeys, or a reader cannot see, as in Rust: `\u{1b}`, `\n`. This is whatever
/// Unicode has as control, format, separator, combining, private or unassigned character, but the space.
pub fn printable(text: &str) -> String {
    let length = text.chars().count();
    if length <= LONGEST {
        return escaped(text.chars());
    }
    let (start, end) = (text.chars().take(LONGEST - END), text.chars().skip(length - END));
    format!("{} [...] {}", escaped(start), escaped(end))
}

/// A message that has line breaks of our own, as between several faults; all lines but the first are indented, so that none
/// looks like a message of its own. What others chose in it is [`printable`] already, or it could break lines, too.
pub fn message(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(printable).collect();
    lines.join("\n  ")
}

/// A MAC address as it is usually written.
pub fn mac(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

/// The same JSON for a terminal. What [`printable`] escapes can only be part of a string, but the line breaks between values.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || is_plain(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            out += &format!("\\u{unit:04x}");
        }
    }
    out
}

fn escaped(text: impl Iterator<Item = char>) -> String {
    let mut out = String::new();
    for c in text {
        if is_plain(c) { out.push(c) } else { out.extend(c.escape_debug()) }
    }
    out
}

/// Whether a reader sees the character, and a terminal only shows it.
fn is_plain(c: char) -> bool {
    matches!(c, '\\' | '\'' | '"') || c.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What must not reach a terminal as it is: from, to.
    const KINDS: [(char, char); 14] = [
        ('\0', '\x1f'),             // C0, with ESC, newline and carriage return
        ('\x7f', '\u{9f}'),         // DEL and C1, with CSI in one character
        ('\u{ad}', '\u{ad}'),       // soft hyphen
        ('\u{300}', '\u{36f}'),     // combining marks, which pile up on other lines
        ('\u{61c}', '\u{61c}'),     // Arabic letter mark
        ('\u{180e}', '\u{180e}'),   // Mongolian vowel separator
        ('\u{200b}', '\u{200f}'),   // zero width, and direction marks
        ('\u{2028}', '\u{202e}'),   // line and paragraph separators, and bidirectional overrides
        ('\u{2060}', '\u{206f}'),   // word joiner, isolates, deprecated format characters
        ('\u{fe00}', '\u{fe0f}'),   // variation selectors
        ('\u{feff}', '\u{feff}'),   // byte order mark
        ('\u{fff9}', '\u{fffb}'),   // interlinear annotation
        ('\u{e000}', '\u{f8ff}'),   // private use
        ('\u{e0001}', '\u{e007f}'), // tags
    ];

    #[test]
    fn nothing_that_a_terminal_obeys_or_a_reader_cannot_see_is_printed() {
        for (from, to) in KINDS {
            for c in from..=to {
                let text = format!("a{c}b");
                let shown = printable(&text);
                assert!(shown.starts_with("a\\") && shown.ends_with('b'), "{c:?}: {shown:?}");
                assert!(!shown.contains(c) && shown.is_ascii(), "{c:?}: {shown:?}");
                let object = serde_json::to_string(&[&text]).map(|text| json(&text)).unwrap_or_default();
                assert!(object.is_ascii() && !object.contains(c), "{object:?}");
                assert_eq!(serde_json::from_str::<[String; 1]>(&object).ok(), Some([text]), "{object:?}");
            }
        }
    }

    #[test]
    fn what_people_write_stays_as_it_is() {
        for text in ["BL07:Motor-1.RBV", "Größe", "温度", "\"quoted\" \\ 'and' so", "😀", ""] {
            assert_eq!(printable(text), text);
            assert_eq!(json(text), text);
        }
    }

    #[test]
    fn what_is_not_utf8_is_seen_to_be_wrong() {
        let text = String::from_utf8_lossy(b"A\xff\x9b2J");
        assert_eq!(printable(&text), "A\u{fffd}\u{fffd}2J");
    }

    #[test]
    fn a_text_without_end_is_cut_in_its_middle() {
        let shown = printable(&format!("begin{}end", "\x1b".repeat(1_000_000)));
        assert!(shown.starts_with("begin\\u{1b}") && shown.ends_with("\\u{1b}end"), "{shown}");
        assert!(shown.contains("} [...] \\") && shown.len() < 7 * LONGEST, "{}", shown.len());
    }

    #[test]
    fn a_message_in_a_message_does_not_look_like_one_of_its_own() {
        assert_eq!(
            message("1 fault\n^ here\n  ready\r\u{2028}x"),
            "1 fault\n  ^ here\n    ready\\r\\u{2028}x"
        );
    }
}
