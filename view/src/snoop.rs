//! Datagrams as they pass, a line each, and PVs that nobody answers.

use std::{
    borrow::Cow,
    fmt::{self, Display, Formatter},
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A datagram, with the names of everything involved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Seconds since the Unix epoch.
    pub time: f64,
    /// The domain.
    pub domain: String,
    /// The protocol's name.
    pub protocol: String,
    /// `search`, `reply`, `beacon` or `other`.
    pub message: Cow<'static, str>,
    /// Who sent it.
    pub source: SocketAddrV4,
    /// The sender's pod, as `namespace/name`.
    pub source_pod: Option<String>,
    /// To whom.
    pub destination: SocketAddrV4,
    /// The receiver's pod, as `namespace/name`.
    pub destination_pod: Option<String>,
    /// The PVs searched for, or answered if the search was seen.
    pub pvs: Vec<String>,
    /// What the programs decided.
    pub verdict: Cow<'static, str>,
    /// Milliseconds after the client's last search that an answer came.
    pub latency_ms: Option<f64>,
    /// The TCP port that a server announces; the external one in an answer to the LAN.
    pub server_port: Option<u16>,
}

impl Display for Line {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { domain, protocol, message, verdict, .. } = self;
        write!(f, "{} {domain} {protocol} {message} ", clock(self.time))?;
        write!(f, "{} -> ", party(self.source, self.source_pod.as_deref()))?;
        write!(f, "{} {verdict}", party(self.destination, self.destination_pod.as_deref()))?;
        if let Some(latency) = self.latency_ms {
            write!(f, " after {latency:.1} ms")?;
        }
        if let Some(port) = self.server_port {
            write!(f, ", server port {port}")?;
        }
        if self.pvs.is_empty() { Ok(()) } else { write!(f, ": {}", self.pvs.join(", ")) }
    }
}

/// A socket and its pod.
fn party(socket: SocketAddrV4, pod: Option<&str>) -> String {
    pod.map_or_else(|| socket.to_string(), |pod| format!("{pod} ({socket})"))
}

/// The time of day in UTC, to the millisecond.
fn clock(time: f64) -> String {
    let time = Duration::try_from_secs_f64(time).unwrap_or_default();
    let (seconds, milliseconds) = (time.as_secs(), time.subsec_millis());
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{milliseconds:03}", seconds % 60)
}

/// A PV that a client keeps searching for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The domain.
    pub domain: String,
    /// The protocol's name.
    pub protocol: String,
    /// The PV.
    pub pv: String,
    /// Who searches.
    pub client: Ipv4Addr,
    /// The pod that searches, as `namespace/name`.
    pub client_pod: Option<String>,
    /// How often it did.
    pub asked: u32,
    /// Since its first search.
    pub seconds: u64,
    /// Since its last search.
    pub seconds_since_last: u64,
}

impl Row {
    fn client(&self) -> String {
        self.client_pod
            .as_ref()
            .map_or_else(|| self.client.to_string(), |pod| format!("{pod} ({})", self.client))
    }
}

/// The rows as a table of so many columns.
pub fn table(rows: &[Row], width: usize) -> String {
    if rows.is_empty() {
        return "no client is waiting for an answer\n".into();
    }
    let cells = |row: &Row| {
        let Row { domain, protocol, pv, asked, seconds, seconds_since_last, .. } = row;
        let (time, last) = (format!("{seconds} s"), format!("{seconds_since_last} s ago"));
        [pv.clone(), domain.clone(), protocol.clone(), row.client(), asked.to_string(), time, last]
    };
    let cells: Vec<_> = rows.iter().map(cells).collect();
    crate::table(["PV", "DOMAIN", "PROTOCOL", "CLIENT", "ASKED", "FOR", "LAST"], &cells, width)
}
