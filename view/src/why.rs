//! Why a client cannot see a PV: the ladder of what must be true, as far as it was climbed, and its explanation.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, SocketAddrV4},
};

use serde::{Deserialize, Serialize};

use crate::{Answer as _, Asked, Style, printable, wrapped};

mod cluster;

/// Columns before what was found.
const INDENT: usize = 17;
const RESET: &str = "\x1b[0m";
/// The rung that only all nodes together can judge: that one server has the PV.
const UNIQUE: &str = "unique";

/// Whether it is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is.
    Ok,
    /// It is not.
    Fail,
    /// Not known.
    Unknown,
}

/// Why it is not, by names that programs may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The programs are not loaded.
    NoDatapath,
    /// The uplink of the domain does not work.
    Uplink,
    /// The client does not search.
    Silent,
    /// It searches at a port that is not relayed.
    OtherPort,
    /// It is in no network of the domain.
    OffLan,
    /// It searches too often.
    Limited,
    /// The search was not relayed.
    NotRelayed,
    /// The pod that has the PV has no annotation.
    NotAnnotated,
    /// The pod asks for a domain, and is no member.
    NoMember,
    /// The pod is in another domain.
    OtherDomain,
    /// The pod says that its PVs begin differently.
    Withheld,
    /// Its server listens on loopback only.
    Loopback,
    /// Its server hears no broadcasts.
    Unicast,
    /// Its server listens at another port.
    PodPort,
    /// No server runs in it.
    NotRunning,
    /// Its server answered a moment ago, and does not run.
    Restarting,
    /// Somebody has a PV of nearly this name.
    Mistyped,
    /// Nobody has the PV.
    Nobody,
    /// No external port is free.
    NoPort,
    /// The server does not answer.
    NoAnswer,
    /// Several servers have it.
    Duplicate,
    /// The policy of a chain of the node drops connections.
    FirewallPolicy,
    /// A rule, or a NetworkPolicy, drops connections.
    Firewall,
    /// Connections are refused.
    Refused,
    /// Nobody answers connections.
    Unanswered,
    /// Connections are accepted, and the answer is lost.
    AnswerLost,
    /// A server that is not on this node has it.
    Elsewhere,
    /// A connection could not be tried.
    Untried,
}

/// A step, and what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    /// What must be true, in one word.
    pub rung: Cow<'static, str>,
    /// Whether it is.
    pub state: State,
    /// Why not.
    pub cause: Option<Cause>,
    /// What was found, as a part of a sentence.
    pub found: String,
    /// What to do about it.
    pub mend: Option<String>,
}

/// All that is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`crate::VERSION`].
    pub version: u32,
    /// The PV that it is about.
    pub pv: String,
    /// The client, if one was named or has asked.
    pub client: Option<Ipv4Addr>,
    /// The domain in which it asks.
    pub domain: Option<String>,
    /// `fail` if a rung is broken, else `unknown` if one is not known, else `ok`.
    pub state: State,
    /// Of the rung that explains it.
    pub cause: Option<Cause>,
    /// What must be true, in the order in which a search needs it.
    pub rungs: Vec<Rung>,
    /// Who has the PV.
    pub servers: Vec<Server>,
    /// How long it took.
    pub seconds: f64,
    /// Who was asked.
    pub nodes: Vec<Asked>,
    /// The node whose rungs these are; none if none answered.
    pub node: Option<String>,
    /// What others found.
    pub others: Vec<Verdict>,
}

/// A server of the PV.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// `ca` or `pva`.
    pub protocol: String,
    /// Its TCP socket, as the node that was asked sees it.
    pub address: SocketAddrV4,
    /// Its pod on the node that was asked, as `namespace/name`.
    pub pod: Option<String>,
    /// How long it took to answer.
    pub milliseconds: f64,
    /// The node that was asked.
    #[serde(default)]
    pub node: String,
    /// The domain in which clients find it; none if its pod is no member.
    #[serde(default)]
    pub domain: Option<String>,
    /// The address by which the LAN knows it: for a pod without one of its own, that of its node.
    #[serde(default)]
    pub host: Option<Ipv4Addr>,
}

/// What another node found, in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The node.
    pub node: String,
    /// Whether the client can see the PV through it.
    pub state: State,
    /// Why not.
    pub cause: Option<Cause>,
    /// The same as a part of a sentence.
    pub found: String,
}

impl Report {
    /// What follows from the rungs of a node.
    pub fn of(node: String, pv: String, rungs: Vec<Rung>) -> Self {
        let explains = broken(&rungs);
        let (state, cause) =
            (explains.map_or(State::Ok, |rung| rung.state), explains.and_then(|rung| rung.cause));
        let nodes = vec![Asked::answered(&node)];
        Self { pv, state, cause, rungs, node: Some(node), ..Self::nothing(nodes) }
    }

    /// The rung that explains the state: see [`broken`].
    pub fn broken(&self) -> Option<&Rung> {
        broken(&self.rungs)
    }

    /// What the other nodes found, a line each.
    fn verdicts(&self, style: &Style) -> String {
        if self.others.is_empty() {
            return String::new();
        }
        let verdict = |Verdict { node, state, found, .. }: &Verdict| line(*state, node, found, style);
        self.others.iter().map(verdict).collect::<String>() + "\n"
    }

    /// What is broken, and what mends it.
    fn conclusion(&self, width: usize) -> String {
        let client = self.client.map_or("a client".into(), |client| client.to_string());
        let node = self.node.as_deref().filter(|_| !self.others.is_empty());
        let Some(rung) = self.broken() else {
            let node = node.map(|node| format!(" through {node}")).unwrap_or_default();
            return wrapped(&printable(&format!("{client} can see {}{node}.", self.pv)), width, 0) + "\n";
        };
        let verb = if rung.state == State::Fail { "cannot see" } else { "may not see" };
        let node = node.filter(|_| rung.rung != UNIQUE).map(|node| format!("{node}: ")).unwrap_or_default();
        let sentence = format!("{client} {verb} {}: {node}{}.", self.pv, rung.found);
        let mend =
            rung.mend.as_ref().map(|mend| format!("  -> {}\n", wrapped(&printable(mend), width - 5, 5)));
        wrapped(&printable(&sentence), width, 0) + "\n" + &mend.unwrap_or_default()
    }
}

/// The rung that explains the rest: the first one that is broken, else the first that is not known, for a cause if there is one.
pub fn broken(rungs: &[Rung]) -> Option<&Rung> {
    let first = |state| rungs.iter().find(|rung| rung.state == state);
    let doubtful = || rungs.iter().find(|rung| rung.state == State::Unknown && rung.cause.is_some());
    first(State::Fail).or_else(doubtful).or_else(|| first(State::Unknown))
}

/// A line about a rung, or about a node.
fn line(state: State, name: &str, found: &str, style: &Style) -> String {
    let (name, (sign, colour)) = (printable(name), sign(state));
    let indent = INDENT.max(INDENT - 10 + name.chars().count());
    let found = wrapped(&printable(found), style.width.saturating_sub(indent).max(INDENT), indent);
    let (on, off) = if style.coloured { (colour, RESET) } else { ("", "") };
    format!("{on}{sign:<5}{off} {name:<10} {found}\n")
}

/// A state for people, and its colour.
fn sign(state: State) -> (&'static str, &'static str) {
    match state {
        State::Ok => ("OK", "\x1b[32m"),
        State::Fail => ("FAIL", "\x1b[1;31m"),
        State::Unknown => ("?", "\x1b[33m"),
    }
}
