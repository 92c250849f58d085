//! The answer, as text for people and as JSON for programs.

use std::{net::Ipv4Addr, net::SocketAddrV4, time::Duration};

use datapath::printable;
use serde::Serialize;

use super::{
    facts::{Facts, Place},
    ladder::{broken, climb},
    rung::{Cause, Rung, State},
};

/// Changes with the shape of the JSON, but for keys that are added.
const VERSION: u32 = 1;
/// Columns of a terminal.
const WIDTH: usize = 80;
/// Columns before what was found.
const INDENT: usize = 17;
const RESET: &str = "\x1b[0m";

/// All that is answered.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: u32,
    pv: String,
    /// The client, if one was named or has asked.
    client: Option<Ipv4Addr>,
    domain: Option<String>,
    /// `fail` if a rung is broken, else `unknown` if one is not known, else `ok`.
    pub(super) state: State,
    /// Of the rung that explains it.
    cause: Option<Cause>,
    rungs: Vec<Rung>,
    servers: Vec<ServerReport>,
    /// How long it took.
    seconds: f64,
}

/// Who has the PV.
#[derive(Debug, Serialize)]
struct ServerReport {
    protocol: &'static str,
    /// Its TCP socket.
    address: SocketAddrV4,
    /// The pod on this node, as `namespace/name`.
    pod: Option<String>,
    milliseconds: f64,
}

impl Report {
    /// The answer that follows from `facts`.
    pub(super) fn new(facts: &Facts, took: Duration) -> Self {
        let rungs = climb(facts);
        let explains = broken(&rungs);
        Self {
            version: VERSION,
            pv: facts.pv.clone(),
            client: facts.from.or_else(|| Some(facts.search().filter(|search| !search.ours)?.asker)),
            domain: facts.domain().map(|domain| domain.name.clone()),
            state: explains.map_or(State::Ok, |rung| rung.state),
            cause: explains.and_then(|rung| rung.cause),
            servers: servers(facts),
            rungs,
            seconds: took.as_secs_f64(),
        }
    }

    /// For people; coloured on a terminal.
    pub(super) fn text(&self, coloured: bool) -> String {
        let mut out = String::new();
        for Rung { rung, state, found, .. } in &self.rungs {
            let (name, colour) = sign(*state);
            let found = wrapped(&printable(found), WIDTH - INDENT, INDENT);
            let (on, off) = if coloured { (colour, RESET) } else { ("", "") };
            out += &format!("{on}{name:<5}{off} {rung:<11}{found}\n");
        }
        out + "\n" + &self.conclusion()
    }

    /// What is broken, and what mends it.
    fn conclusion(&self) -> String {
        let client = self.client.map_or("a client".into(), |client| client.to_string());
        let Some(rung) = broken(&self.rungs) else {
            return wrapped(&printable(&format!("{client} can see {}.", self.pv)), WIDTH, 0) + "\n";
        };
        let verb = if rung.state == State::Fail { "cannot see" } else { "may not see" };
        let sentence = format!("{client} {verb} {}: {}.", self.pv, rung.found);
        let mend =
            rung.mend.as_ref().map(|mend| format!("  -> {}\n", wrapped(&printable(mend), WIDTH - 5, 5)));
        wrapped(&printable(&sentence), WIDTH, 0) + "\n" + &mend.unwrap_or_default()
    }
}

fn servers(facts: &Facts) -> Vec<ServerReport> {
    let report = |server: &super::facts::Server| ServerReport {
        protocol: server.protocol.name(),
        address: server.at,
        pod: if let Place::Pod(name) = &server.place { Some(name.clone()) } else { None },
        milliseconds: server.after.as_secs_f64() * 1e3,
    };
    facts.servers.iter().map(report).collect()
}

/// A state for people, and its colour.
fn sign(state: State) -> (&'static str, &'static str) {
    match state {
        State::Ok => ("OK", "\x1b[32m"),
        State::Fail => ("FAIL", "\x1b[1;31m"),
        State::Unknown => ("?", "\x1b[33m"),
    }
}

/// `text` in lines of at most `width` characters, all but the first behind `indent` spaces.
fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let length = |text: &str| text.chars().count();
        let last = lines.last().map_or(0, |line| length(line));
        if last > 0 && last + 1 + length(word) > width {
            lines.push(String::new());
        }
        let line = lines.len() - 1;
        if !lines[line].is_empty() {
            lines[line].push(' ');
        }
        for c in word.chars() {
            if lines.last().is_some_and(|line| length(line) >= width) {
                lines.push(String::new());
            }
            lines.iter_mut().next_back().into_iter().for_each(|line| line.push(c));
        }
    }
    lines.join(&format!("\n{:indent$}", ""))
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::{super::ladder::tests::well, *};

    #[test]
    fn lines_are_no_wider_than_they_may_be() {
        assert_eq!(wrapped("one two three", 7, 2), "one two\n  three");
        assert_eq!(wrapped("abcdefghij k", 4, 0), "abcd\nefgh\nij k");
        assert_eq!(wrapped("", 4, 0), "");
        let long = wrapped(&"word ".repeat(100), 30, 17);
        assert!(long.lines().skip(1).all(|line| line.chars().count() <= 47), "{long}");
    }

    #[test]
    fn an_object_has_the_keys_that_programs_expect() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/why.json");
        let report = Report::new(&well(), Duration::from_millis(1500));
        let found = serde_json::to_string_pretty(&report).unwrap() + "\n";
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &found).unwrap();
        }
        assert_eq!(found, fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
    }

    #[test]
    fn the_text_has_a_line_a_rung_and_shows_what_a_terminal_would_obey() {
        let mut facts = well();
        let text = Report::new(&facts, Duration::ZERO).text(false);
        assert_eq!(text.lines().filter(|line| line.starts_with("OK ")).count(), 9, "{text}");
        assert!(text.contains("OK    connected  172.23.0.2 to 172.23.0.10:61000, accepted"), "{text}");
        assert!(text.ends_with("\n172.23.0.2 can see A:NAME.\n"), "{text}");
        facts.pv = "A\u{1b}[2J".into();
        facts.servers.clear();
        facts.pods[0].name = format!("bl07/{}", "x".repeat(200));
        let text = Report::new(&facts, Duration::ZERO).text(false);
        assert!(text.contains(r"cannot see A\u{1b}[2J: ") && !text.contains('\u{1b}'), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(Report::new(&facts, Duration::ZERO).text(true).contains("\u{1b}[1;31mFAIL"));
    }
}
