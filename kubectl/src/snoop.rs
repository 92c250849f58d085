//! `snoop` of all nodes: their lines in the order of their times, or one list of what nobody answers.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use view::snoop::{Line, Row, table};

use crate::{
    agents,
    kubectl::Request,
    live::{Event, Watch, is_closed},
    say::{complain, complain_about, is_terminal, print, print_line, print_object, width},
};

/// How long a line is held back for earlier ones of other nodes.
const WINDOW: Duration = Duration::from_millis(300);
/// How often it is looked whether lines are due.
const LOOK: Duration = Duration::from_millis(50);
/// Seconds for which unanswered PVs are gathered, if the user names no time.
const GATHER: &str = "10";
/// What agents say to whoever runs them, and what tells nothing here.
const IDLE: &str = "watching; press Ctrl-C to stop";

/// A line, and whose it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Placed {
    /// The node that saw it.
    node: String,
    #[serde(flatten)]
    line: Line,
}

pub(crate) fn run(request: &Request) -> Result<u8, String> {
    let lists = request.line.iter().any(|word| word == "--unanswered");
    let limit = match request.option("--for") {
        Some(_) => vec![],
        None if lists => vec!["--for", GATHER],
        // They write to no terminal, and would end by themselves.
        None if is_terminal() => vec!["--for", "0"],
        None => vec![],
    };
    let request = request.with(&limit);
    let watch = Watch::new(&request, agents::find(&request)?);
    let outcome = if lists { list(&request, watch) } else { follow(&request, watch) };
    outcome.map_err(|error| error.to_string())
}

/// Shows lines as they come.
fn follow(request: &Request, mut watch: Watch) -> io::Result<u8> {
    let width = watch.agents.iter().map(|agent| agent.node.len()).max().unwrap_or(0);
    let show = |placed: &Placed| {
        if request.json {
            print_object(placed)
        } else {
            print_line(&format!("{:<width$} {}", placed.node, placed.line))
        }
    };
    let mut held = Held::default();
    let outcome = each_line(request, &mut watch, |event| {
        if let Some((node, line)) = event
            && let Ok(line) = serde_json::from_str(line)
        {
            held.put(Instant::now(), Placed { node: node.into(), line });
        }
        held.due(Instant::now()).iter().try_for_each(show)
    });
    let outcome = outcome.and_then(|()| held.rest().iter().try_for_each(show));
    let (silent, code) = watch.finish();
    match outcome {
        Err(error) if !is_closed(&error) => return Err(error),
        _ => complain_about(&silent),
    }
    Ok(code)
}

/// Passes on each line with its node, and often nothing, until all agents have ended; what agents say is said.
fn each_line(
    request: &Request,
    watch: &mut Watch,
    mut pass: impl FnMut(Option<(&str, &str)>) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        match watch.next(&request.kubectl.namespace, "snoop", LOOK) {
            Event::Line(at, line) => pass(Some((&watch.agents[at].node, &line)))?,
            Event::Complaint(at, line) => {
                if let Some(said) = line.strip_prefix("iocast-node: ").filter(|said| *said != IDLE) {
                    complain(format!("{}: {said}", watch.agents[at].node));
                }
            }
            Event::Failed(_) | Event::Quiet => pass(None)?,
            Event::End => return Ok(()),
        }
    }
}

/// Lines that wait for earlier ones.
#[derive(Default)]
struct Held {
    /// When each came, in the order in which they did.
    lines: VecDeque<(Instant, Placed)>,
}

impl Held {
    fn put(&mut self, now: Instant, line: Placed) {
        self.lines.push_back((now, line));
    }

    /// The lines that have waited long enough, and what is earlier than one of them, by their times.
    fn due(&mut self, now: Instant) -> Vec<Placed> {
        let is_due = |came: Instant| now.saturating_duration_since(came) >= WINDOW;
        let due = self.lines.iter().filter(|(came, _)| is_due(*came));
        let Some(last) = due.map(|(_, placed)| placed.line.time).reduce(f64::max) else { return vec![] };
        let (due, held) = self.lines.drain(..).partition(|(_, placed)| placed.line.time <= last);
        self.lines = held;
        sorted(due)
    }

    /// All that is left.
    fn rest(&mut self) -> Vec<Placed> {
        sorted(self.lines.drain(..).collect())
    }
}

fn sorted(lines: VecDeque<(Instant, Placed)>) -> Vec<Placed> {
    let mut lines: Vec<_> = lines.into_iter().map(|(_, placed)| placed).collect();
    lines.sort_by(|a, b| a.line.time.total_cmp(&b.line.time));
    lines
}

/// Shows what nobody answered, when all agents have ended.
fn list(request: &Request, mut watch: Watch) -> io::Result<u8> {
    let mut rows = vec![];
    each_line(request, &mut watch, |event| {
        rows.extend(event.and_then(|(_, line)| serde_json::from_str(line).ok()));
        Ok(())
    })?;
    let rows = merged(rows);
    if request.json {
        rows.iter().try_for_each(print_object)?;
    } else {
        print(&table(&rows, width()))?;
    }
    let (silent, code) = watch.finish();
    complain_about(&silent);
    Ok(code)
}

/// One row for each PV and client: all nodes of a LAN see the same searches. Those asked for most are first.
fn merged(rows: Vec<Row>) -> Vec<Row> {
    let mut found = BTreeMap::<_, Row>::new();
    for row in rows {
        let key = (row.domain.clone(), row.protocol.clone(), row.pv.clone(), row.client);
        match found.get_mut(&key) {
            Some(known) => {
                known.asked = known.asked.max(row.asked);
                known.seconds = known.seconds.max(row.seconds);
                known.seconds_since_last = known.seconds_since_last.min(row.seconds_since_last);
                known.client_pod = known.client_pod.take().or(row.client_pod);
            }
            None => _ = found.insert(key, row),
        }
    }
    let mut rows: Vec<_> = found.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.asked));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(node: &str, time: f64) -> Placed {
        let socket = || std::net::SocketAddrV4::new([172, 23, 0, 2].into(), 1);
        let line = Line {
            time,
            domain: "lab".into(),
            protocol: "ca".into(),
            message: "search".into(),
            source: socket(),
            source_pod: None,
            destination: socket(),
            destination_pod: None,
            pvs: vec![],
            verdict: "relayed".into(),
            latency_ms: None,
            server_port: None,
        };
        Placed { node: node.into(), line }
    }

    #[test]
    fn lines_of_several_nodes_are_in_the_order_of_their_times() {
        let (mut held, start) = (Held::default(), Instant::now());
        held.put(start, placed("a", 2.0));
        assert!(held.due(start + WINDOW / 2).is_empty(), "the other node may be late");
        held.put(start + WINDOW / 2, placed("b", 1.0));
        held.put(start + WINDOW / 2, placed("b", 3.0));
        let times = |lines: Vec<Placed>| lines.iter().map(|placed| placed.line.time).collect::<Vec<_>>();
        assert_eq!(times(held.due(start + WINDOW)), [1.0, 2.0]);
        assert_eq!(times(held.rest()), [3.0]);
        let object = serde_json::to_value(placed("a", 2.0)).unwrap_or_default();
        assert_eq!((&object["node"], &object["pvs"]), (&"a".into(), &serde_json::json!([])));
    }

    #[test]
    fn what_several_nodes_saw_unanswered_is_one_row() {
        let row = |pv: &str, asked, seconds_since_last| Row {
            domain: "lab".into(),
            protocol: "ca".into(),
            pv: pv.into(),
            client: [172, 23, 0, 2].into(),
            client_pod: None,
            asked,
            seconds: 9,
            seconds_since_last,
        };
        let found = merged(vec![row("A", 2, 1), row("B", 5, 1), row("A", 3, 0)]);
        assert_eq!(found, [row("B", 5, 1), row("A", 3, 0)]);
    }
}
