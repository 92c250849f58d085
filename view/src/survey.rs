//! Programs that have a node's network and what is relayed: what they hold, whom they talk to, and whether they could be members.

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::{
    Answer, Asked, Style, VERSION,
    answer::{paragraph, silent},
    printable, table, wrapped,
};

/// Columns of what a line of the text is about.
const LABEL: usize = 11;
/// Peers of one kind that the text names.
const NAMED: usize = 6;

/// All of the nodes that were asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// [`VERSION`].
    pub version: u32,
    /// Who was asked.
    pub nodes: Vec<Asked>,
    /// Other pods with their node's network: they have nothing that is relayed.
    pub others: u32,
    /// By node, then pods by name before processes of the node.
    pub found: Vec<Surveyed>,
}

/// A pod, or all processes of the node that are in no pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surveyed {
    /// Its node.
    pub node: String,
    /// `namespace/name`; none for processes of the node.
    pub pod: Option<String>,
    /// What its programs are called, at most 15 bytes of each.
    pub programs: Vec<String>,
    /// What can be done.
    pub verdict: Verdict,
    /// Why it is not `move`.
    pub why: Vec<String>,
    /// What the pod is to be annotated with.
    pub annotations: BTreeMap<String, String>,
    /// What the domain's configuration needs besides.
    pub configuration: Vec<String>,
    /// The relayed ports that it has.
    pub ports: Vec<Held>,
    /// Whom it talks to.
    pub peers: Vec<Peer>,
    /// Peers beyond those that are listed.
    pub more_peers: u32,
    /// Addresses and ports in its EPICS settings.
    pub settings: Vec<Setting>,
    /// What else is to be known before it moves.
    pub notes: Vec<String>,
}

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It can be a member.
    Move,
    /// It can, with an address of its own on the LAN.
    Address,
    /// It cannot.
    Stay,
    /// Nobody needs it once the others have moved.
    Spare,
    /// It is no pod.
    Native,
    /// What it does could not be read.
    Unknown,
}

impl Verdict {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Move => "move",
            Self::Address => "address",
            Self::Stay => "stay",
            Self::Spare => "spare",
            Self::Native => "native",
            Self::Unknown => "unknown",
        }
    }

    /// What it means.
    fn meaning(self) -> &'static str {
        match self {
            Self::Move => "can become a member today",
            Self::Address => "can become a member, with an address of its own on the LAN",
            Self::Stay => "has to keep the node's network",
            Self::Spare => "is not needed once IOCs and clients have moved: each pod has its own",
            Self::Native => "no pod: it stays as it is, and finds members by broadcast",
            Self::Unknown => "could not be looked into",
        }
    }
}

/// Which of the datagrams to the node's address a server gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unicast {
    /// All.
    All,
    /// Those of some clients: the kernel chooses for each of them.
    Some,
    /// None.
    None,
}

/// A relayed port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Held {
    /// The protocol, as in a domain's configuration.
    pub protocol: String,
    /// `udp`, or `tcp` for a server's own port.
    pub transport: String,
    /// The port.
    pub port: u16,
    /// Who else has it, pods as `namespace/name`.
    pub shared: Vec<String>,
    /// Whether it gets what is sent to the node's own address.
    pub unicast: Unicast,
}

/// Somebody it talks to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// `to`, `from` or, if it is nobody in particular, `all`.
    pub way: String,
    /// `tcp` or `udp`.
    pub transport: String,
    /// Its address; a broadcast or group address for `all`.
    pub address: Ipv4Addr,
    /// The port: the peer's, or for `from` the one that it has reached.
    pub port: u16,
    /// What is known to be there: `camera`, `ca`, `pva`.
    pub role: Option<String>,
}

/// An entry of an EPICS variable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    /// The variable.
    pub variable: String,
    /// The entry.
    pub entry: String,
    /// Whether it does after the move what it does now.
    pub works: bool,
    /// What becomes of it.
    pub becomes: String,
}

impl Answer for Survey {
    fn nothing(nodes: Vec<Asked>) -> Self {
        Self { version: VERSION, nodes, others: 0, found: vec![] }
    }

    fn merge(&mut self, other: Self) {
        self.nodes.extend(other.nodes);
        self.nodes.sort_by(|a, b| a.node.cmp(&b.node));
        self.others += other.others;
        self.found.extend(other.found);
        self.found.sort_by_key(Surveyed::place);
    }

    fn text(&self, style: &Style) -> String {
        let mut out = String::new();
        if self.found.is_empty() && self.nodes.iter().any(|node| node.error.is_none()) {
            out += "no pod with its node's network has anything that is relayed\n";
        } else if !self.found.is_empty() {
            out += &self.columns(style.width);
        }
        out += &self.found.iter().map(|found| found.text(style.width)).collect::<String>();
        if self.others > 0 {
            let text = format!(
                "other pods with their node's network, which have nothing that is relayed: {}",
                self.others
            );
            out += &format!("\n{}", paragraph(&text, style.width));
        }
        out + &silent(&self.nodes, style.width)
    }
}

impl Survey {
    /// The exit code: 1 if a pod cannot just move, 2 if one could not be looked into.
    pub fn code(&self) -> u8 {
        let verdicts = self.found.iter().map(|found| found.verdict);
        verdicts.fold(0, |code, verdict| match verdict {
            Verdict::Unknown => 2,
            Verdict::Address | Verdict::Stay => code.max(1),
            Verdict::Move | Verdict::Spare | Verdict::Native => code,
        })
    }

    /// The table; without a column for the node where only one was asked.
    fn columns(&self, width: usize) -> String {
        const HEADING: [&str; 5] = ["NODE", "POD", "PROGRAM", "HOLDS", "VERDICT"];
        let rows: Vec<_> = self.found.iter().map(Surveyed::row).collect();
        if self.nodes.len() > 1 {
            return table(HEADING, &rows, width);
        }
        let [_, rest @ ..] = HEADING;
        let rows: Vec<_> = rows.into_iter().map(|[_, rest @ ..]| rest).collect();
        table(rest, &rows, width)
    }
}

impl Surveyed {
    /// What the list is ordered by.
    fn place(&self) -> (String, bool, Option<String>) {
        (self.node.clone(), self.pod.is_none(), self.pod.clone())
    }

    fn name(&self) -> String {
        self.pod.clone().unwrap_or_else(|| format!("processes of {}", self.node))
    }

    fn row(&self) -> [String; 5] {
        let ports: Vec<_> = self.ports.iter().map(Held::short).collect();
        let or_none = |text: String| if text.is_empty() { "-".into() } else { text };
        [
            self.node.clone(),
            self.name(),
            or_none(self.programs.join(" ")),
            or_none(ports.join(" ")),
            self.verdict.name().into(),
        ]
    }

    /// What is to be said of it, a labelled line for each thing.
    fn text(&self, width: usize) -> String {
        let title = format!("{}: {}", self.name(), self.verdict.meaning());
        let lines = self.lines();
        let lines = lines.iter().map(|(label, text)| labelled(label, text, width));
        format!("\n{}{}", paragraph(&title, width), lines.collect::<String>())
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let each =
            |label, texts: &[String]| texts.iter().map(|text| (label, text.clone())).collect::<Vec<_>>();
        let mut lines = each("because", &self.why);
        lines.extend(self.ports.iter().filter_map(Held::sharing).map(|text| ("shares", text)));
        lines.extend(self.talks());
        if !self.annotations.is_empty() {
            lines.push(("remove", "hostNetwork: true; dnsPolicy: ClusterFirstWithHostNet".into()));
            lines.extend(
                self.annotations.iter().map(|(key, value)| ("annotate", format!("{key}: {}", quoted(value)))),
            );
            lines.push(("or values", self.values()));
        }
        lines.extend(each("domain", &self.configuration));
        lines.extend(self.settings.iter().map(|setting| {
            let Setting { variable, entry, works, becomes } = setting;
            (if *works { "keep" } else { "change" }, format!("{variable}={entry}: {becomes}"))
        }));
        lines.extend(each("note", &self.notes));
        lines
    }

    /// The same for ec-helm-charts.
    fn values(&self) -> String {
        let annotations: Vec<_> =
            self.annotations.iter().map(|(key, value)| format!("{key}: {}", quoted(value))).collect();
        format!("ioc-instance: {{hostNetwork: false, podAnnotations: {{{}}}}}", annotations.join(", "))
    }

    /// Whom it talks to, in a line for each way. That IOCs and clients broadcast their own protocols is known.
    fn talks(&self) -> Vec<(&'static str, String)> {
        let ways = [("to", "talks to"), ("all", "broadcasts"), ("from", "from")];
        let line = |(way, label)| {
            let is_shown = |peer: &&Peer| {
                peer.way == way
                    && (way != "all"
                        || peer.role.as_deref() != Some("ca") && peer.role.as_deref() != Some("pva"))
            };
            let peers: Vec<_> = self.peers.iter().filter(is_shown).collect();
            let named: Vec<_> = peers.iter().take(NAMED).map(|peer| peer.shown()).collect();
            let more = peers.len().saturating_sub(NAMED);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            (!named.is_empty()).then(|| (label, named.join(", ") + &more))
        };
        ways.into_iter().filter_map(line).collect()
    }
}

impl Held {
    fn short(&self) -> String {
        let transport = if self.transport == "tcp" { "/tcp" } else { "" };
        format!("{}:{}{transport}", self.protocol, self.port)
    }

    /// With whom it shares the port, and what that means.
    fn sharing(&self) -> Option<String> {
        let Self { transport, port, shared, unicast, .. } = self;
        let meaning = match (self.protocol.as_str(), unicast) {
            ("pva", _) => "servers of PV Access pass on to each other what is sent to the node's address",
            (_, Unicast::All) => "what is sent to the node's address reaches it alone",
            (_, Unicast::Some) => {
                "what is sent to the node's address reaches one of them, for each client another"
            }
            (_, Unicast::None) => {
                "nothing that is sent to the node's address reaches it, but what is broadcast"
            }
        };
        (!shared.is_empty())
            .then(|| format!("{} {port} with {}: {meaning}", transport.to_uppercase(), few(shared)))
    }
}

/// The first of some names, and how many more there are.
fn few(names: &[String]) -> String {
    const FEW: usize = 2;
    let (named, more) = names.split_at(names.len().min(FEW));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    named.join(", ") + &more
}

impl Peer {
    fn shown(&self) -> String {
        let Self { way, transport, address, port, role } = self;
        let transport = transport.to_uppercase();
        let role = role.as_ref().map(|role| format!(" ({role})")).unwrap_or_default();
        if way == "from" {
            return format!("{address} at {transport} {port}{role}");
        }
        format!("{transport} {address}:{port}{role}")
    }
}

/// A value in YAML, whatever is in it.
fn quoted(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._/".contains(c);
    let is_word = value.starts_with(|c: char| c.is_ascii_alphabetic()) && value.chars().all(is_plain);
    if is_word { value.into() } else { format!("\"{}\"", printable(value).replace('"', "\\\"")) }
}

fn labelled(label: &str, text: &str, width: usize) -> String {
    let indent = 2 + LABEL;
    let text = wrapped(&printable(text), width.saturating_sub(indent).max(1), indent);
    format!("  {label:<LABEL$}{text}\n")
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;

    fn surveyed(pod: Option<&str>, verdict: Verdict) -> Surveyed {
        Surveyed {
            node: "node-1".into(),
            pod: pod.map(str::to_owned),
            programs: vec!["softIoc".into()],
            verdict,
            why: vec![],
            annotations: BTreeMap::new(),
            configuration: vec![],
            ports: vec![Held {
                protocol: "ca".into(),
                transport: "udp".into(),
                port: 5064,
                shared: vec![],
                unicast: Unicast::All,
            }],
            peers: vec![],
            more_peers: 0,
            settings: vec![],
            notes: vec![],
        }
    }

    fn full() -> Surveyed {
        let mut found = surveyed(Some("bl07/ioc-a"), Verdict::Address);
        found.why = vec!["172.23.0.40 connects to its TCP port 7001".into()];
        found.annotations = [("iocast.io/domain", "bl07"), ("iocast.io/address", "ADDRESS")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        found.configuration = vec!["protocols = [\"ca\", \"pva\", \"gvcp\"]".into()];
        found.ports[0].shared = vec!["bl07/ioc-b".into()];
        found.ports[0].unicast = Unicast::None;
        let peer = |way: &str, address: [u8; 4], role: Option<&str>| Peer {
            way: way.into(),
            transport: "udp".into(),
            address: address.into(),
            port: 3956,
            role: role.map(str::to_owned),
        };
        found.peers = vec![peer("all", [172, 23, 0, 255], None), peer("to", [172, 23, 0, 9], Some("camera"))];
        found.settings = vec![Setting {
            variable: "EPICS_CA_ADDR_LIST".into(),
            entry: "127.0.0.1".into(),
            works: false,
            becomes: "is the pod itself then; remove it".into(),
        }];
        found.notes = vec!["it has NET_ADMIN".into()];
        found
    }

    fn survey(found: Vec<Surveyed>) -> Survey {
        Survey { found, ..Survey::nothing(vec![Asked::answered("node-1")]) }
    }

    #[test]
    fn an_object_has_the_keys_that_programs_expect() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/survey.json");
        let answer = survey(vec![full(), surveyed(None, Verdict::Native)]);
        let found = serde_json::to_string_pretty(&answer).unwrap() + "\n";
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &found).unwrap();
        }
        assert_eq!(found, fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
    }

    #[test]
    fn a_pod_has_a_row_and_a_line_for_each_thing_at_80_columns() {
        let text = survey(vec![full()]).text(&Style::default());
        assert_eq!(
            text,
            "POD         PROGRAM  HOLDS    VERDICT\n\
             bl07/ioc-a  softIoc  ca:5064  address\n\
             \n\
             bl07/ioc-a: can become a member, with an address of its own on the LAN\n  \
               because    172.23.0.40 connects to its TCP port 7001\n  \
               shares     UDP 5064 with bl07/ioc-b: nothing that is sent to the node's\n             \
                          address reaches it, but what is broadcast\n  \
               talks to   UDP 172.23.0.9:3956 (camera)\n  \
               broadcasts UDP 172.23.0.255:3956\n  \
               remove     hostNetwork: true; dnsPolicy: ClusterFirstWithHostNet\n  \
               annotate   iocast.io/address: ADDRESS\n  \
               annotate   iocast.io/domain: bl07\n  \
               or values  ioc-instance: {hostNetwork: false, podAnnotations:\n             \
                          {iocast.io/address: ADDRESS, iocast.io/domain: bl07}}\n  \
               domain     protocols = [\"ca\", \"pva\", \"gvcp\"]\n  \
               change     EPICS_CA_ADDR_LIST=127.0.0.1: is the pod itself then; remove it\n  \
               note       it has NET_ADMIN\n"
        );
    }

    #[test]
    fn the_text_fits_and_is_plain_whatever_programs_are_called() {
        let hostile = "a\u{1b}[31m\u{202e}\r\n\"x".repeat(20);
        let mut found = full();
        found.pod = Some(hostile.clone());
        found.programs = vec![hostile.clone()];
        found.annotations.insert("iocast.io/ports".into(), hostile.clone());
        (found.why, found.notes, found.settings[0].entry) =
            (vec![hostile.clone()], vec![hostile.clone()], hostile);
        for width in [40, 80] {
            let text = survey(vec![found.clone()]).text(&Style { width, coloured: false });
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
            assert!(text.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{text:?}");
        }
    }

    #[test]
    fn the_worst_verdict_is_the_exit_code() {
        for (verdicts, code) in [
            (&[][..], 0),
            (&[Verdict::Move, Verdict::Native, Verdict::Spare], 0),
            (&[Verdict::Move, Verdict::Address], 1),
            (&[Verdict::Stay, Verdict::Move], 1),
            (&[Verdict::Unknown, Verdict::Stay], 2),
            (&[Verdict::Stay, Verdict::Unknown], 2),
        ] {
            let found = verdicts.iter().map(|verdict| surveyed(None, *verdict)).collect();
            assert_eq!(survey(found).code(), code, "{verdicts:?}");
        }
    }

    #[test]
    fn answers_of_nodes_become_one_list_with_a_column_for_the_node() {
        let mut all = survey(vec![surveyed(None, Verdict::Native), surveyed(Some("b/x"), Verdict::Move)]);
        let mut other = surveyed(Some("a/x"), Verdict::Move);
        other.node = "node-0".into();
        all.merge(Survey {
            others: 3,
            found: vec![other],
            ..Survey::nothing(vec![Asked::answered("node-0")])
        });
        let text = all.text(&Style::default());
        let rows: Vec<_> = text.lines().take(4).collect();
        assert!(rows[0].starts_with("NODE    POD") && rows[1].starts_with("node-0  a/x"), "{text}");
        assert!(rows[2].starts_with("node-1  b/x") && rows[3].contains("processes of node-1"), "{text}");
        assert!(
            text.ends_with("\nother pods with their node's network, which have nothing that is relayed: 3\n"),
            "{text}"
        );
    }
}
