//! What was seen of searches, answers and connections while somebody looked: what `top`, `map`, `duplicates` and the page show.

mod merge;
mod text;

pub(crate) use merge::join;

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use crate::{Asked, VERSION};

/// What nodes saw. Times are seconds since the Unix epoch, rates a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// [`VERSION`].
    pub version: u32,
    /// Who was asked.
    pub nodes: Vec<Asked>,
    /// When this was so.
    pub time: f64,
    /// For how long it was looked; rates are over the last of them.
    pub seconds: f64,
    /// Datagrams that were not looked at, because there were too many.
    pub lost: u64,
    /// By name.
    pub domains: Vec<Domain>,
    /// Who searches most, the most active first.
    pub talkers: Vec<Talker>,
    /// Beginnings of PVs that are searched for, the most frequent first.
    pub prefixes: Vec<Prefix>,
    /// Member pods.
    pub pods: Vec<Pod>,
    /// PVs that somebody keeps searching for, those of most searches first.
    pub unanswered: Vec<Unanswered>,
    /// PVs that several servers have.
    pub duplicates: Vec<Duplicate>,
    /// Who reads from whom.
    pub readers: Vec<Reader>,
    /// What servers answered, the last ones first: so that other nodes know what is answered, and by whom else.
    pub answers: Vec<Answered>,
}

/// A domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Domain {
    /// Its node.
    pub node: String,
    /// Its name.
    pub name: String,
    /// The uplink's interface.
    pub uplink: Option<String>,
    /// The uplink's address.
    pub address: Option<Ipv4Addr>,
    /// Why it has no LAN.
    pub problem: Option<String>,
    /// How many members it has there.
    pub members: u32,
    /// How many clients searched.
    pub clients: u32,
    /// Searches.
    pub searches: f64,
    /// Answers.
    pub answers: f64,
    /// Announcements of servers.
    pub beacons: f64,
    /// What was not relayed, because it exceeded a rate.
    pub limited: f64,
    /// TCP connections that are established.
    pub circuits: u32,
}

/// Somebody who searches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Talker {
    /// The domain in which it searches.
    pub domain: String,
    /// Its address.
    pub host: Ipv4Addr,
    /// The pod, as `namespace/name`.
    pub pod: Option<String>,
    /// Datagrams that search.
    pub searches: f64,
    /// Names in them.
    pub names: f64,
}

/// A beginning of PVs, up to the first separator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prefix {
    /// The domain.
    pub domain: String,
    /// The beginning, with the separator.
    pub prefix: String,
    /// Names that were searched for.
    pub names: f64,
}

/// A member pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// Its node.
    pub node: String,
    /// Its domain.
    pub domain: String,
    /// `namespace/name`.
    pub pod: String,
    /// Its address in the pod network.
    pub address: Ipv4Addr,
    /// Its own address on the LAN.
    pub lan_address: Option<Ipv4Addr>,
    /// Relayed UDP ports on which it listens.
    pub listens: Vec<u16>,
    /// Searches that it got.
    pub heard: f64,
    /// Its answers.
    pub answers: f64,
    /// TCP connections to it that are established.
    pub circuits: u32,
    /// Milliseconds from search to answer, the median; none without an answer.
    pub latency_ms: Option<f64>,
}

/// A PV that a client keeps searching for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unanswered {
    /// The domain.
    pub domain: String,
    /// `ca` or `pva`.
    pub protocol: String,
    /// Its name.
    pub pv: String,
    /// Who searches.
    pub client: Ipv4Addr,
    /// The pod that searches, as `namespace/name`.
    pub client_pod: Option<String>,
    /// How often it did.
    pub asked: u32,
    /// Since when.
    pub since: f64,
    /// When last.
    pub last: f64,
}

/// A PV that several servers have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Duplicate {
    /// The domain.
    pub domain: String,
    /// `ca` or `pva`.
    pub protocol: String,
    /// Its name.
    pub pv: String,
    /// All that have it, at least two.
    pub servers: Vec<Server>,
}

/// A server of a PV.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Server {
    /// Its TCP socket, as the LAN sees it.
    pub address: SocketAddrV4,
    /// Its pod, as `namespace/name`.
    pub pod: Option<String>,
    /// The pod's node.
    pub node: Option<String>,
}

impl Server {
    /// Takes in what another node knows about it: one that knows its pod, and one that does not, in any order.
    pub(crate) fn know(&mut self, other: Self) {
        self.pod = self.pod.take().max(other.pod);
        self.node = self.node.take().max(other.node);
    }
}

/// A client that reads from a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reader {
    /// The domain.
    pub domain: String,
    /// Its address.
    pub client: Ipv4Addr,
    /// Its pod, as `namespace/name`.
    pub client_pod: Option<String>,
    /// The pod that it reads from, as `namespace/name`.
    pub pod: String,
    /// The pod's node.
    pub node: String,
    /// TCP connections through external ports that are established. Those inside the cluster, and those to a LAN address, are
    /// not counted.
    pub circuits: u32,
    /// PVs that it asked for while it was looked, and that the pod answered.
    pub pvs: Vec<String>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// The domain.
    pub domain: String,
    /// `ca` or `pva`.
    pub protocol: String,
    /// The PV's name.
    pub pv: String,
    /// Who asked.
    pub client: Ipv4Addr,
    /// Who has it.
    pub server: Server,
    /// When it said so last.
    pub last: f64,
}

impl Seen {
    /// Nothing, seen by nobody.
    pub fn nothing(nodes: Vec<Asked>) -> Self {
        Self {
            version: VERSION,
            nodes,
            time: 0.0,
            seconds: 0.0,
            lost: 0,
            domains: vec![],
            talkers: vec![],
            prefixes: vec![],
            pods: vec![],
            unanswered: vec![],
            duplicates: vec![],
            readers: vec![],
            answers: vec![],
        }
    }
}
