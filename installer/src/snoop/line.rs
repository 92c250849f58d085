//! The output: a line for a datagram, or for a PV that nobody answers; text for people, an object for programs.

use std::{
    fmt::{self, Display, Formatter, Write},
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use abi::Point;
use datapath::printable;
use serde::{Serialize, Serializer};

use super::{datagram::Datagram, directory::Directory, questions::Unanswered};

/// A datagram, with the names of everything involved.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    /// Since the Unix epoch.
    #[serde(serialize_with = "seconds")]
    time: Duration,
    domain: String,
    protocol: String,
    message: &'static str,
    source: SocketAddrV4,
    source_pod: Option<String>,
    destination: SocketAddrV4,
    destination_pod: Option<String>,
    /// The PVs searched for, or answered if the search was seen.
    pvs: Vec<String>,
    verdict: &'static str,
    /// How long after the client's last search an answer came.
    #[serde(serialize_with = "milliseconds")]
    latency_ms: Option<Duration>,
    /// The TCP port that a server announces; the external one in an answer to the LAN.
    server_port: Option<u16>,
}

impl Line {
    /// The line for a datagram about `pvs`; `boot` is when the kernel's clock started, since the Unix epoch.
    pub(super) fn new(
        datagram: &Datagram,
        directory: &Directory,
        boot: Duration,
        (pvs, latency_ms): (Vec<String>, Option<Duration>),
    ) -> Self {
        let [source_pod, destination_pod] = pods(datagram, directory).map(|pod| pod.map(str::to_owned));
        Self {
            time: boot + datagram.time,
            domain: directory.domain(datagram.domain),
            protocol: directory.protocol(datagram.protocol),
            message: datagram.message.name(),
            source: datagram.source,
            source_pod,
            destination: datagram.destination,
            destination_pod,
            pvs,
            verdict: datagram.verdict.name(),
            latency_ms,
            server_port: datagram.server_port,
        }
    }
}

/// The pods that sent and that receive a datagram.
pub(super) fn pods<'a>(datagram: &Datagram, directory: &'a Directory) -> [Option<&'a str>; 2] {
    let at = |socket: SocketAddrV4| directory.at(*socket.ip());
    let member = directory.behind(datagram.member);
    match datagram.point {
        Point::FromPod => [member, at(datagram.destination)],
        Point::ToPod => [at(datagram.source), member],
        Point::ToExternal => [None, member],
        Point::FromLan | Point::FromNode => [None, None],
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { domain, protocol, message, verdict, .. } = self;
        write!(f, "{} {domain} {protocol} {message} ", clock(self.time))?;
        write!(f, "{} -> ", party(self.source, self.source_pod.as_deref()))?;
        write!(f, "{} {verdict}", party(self.destination, self.destination_pod.as_deref()))?;
        if let Some(latency) = self.latency_ms {
            write!(f, " after {:.1} ms", latency.as_secs_f64() * 1e3)?;
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
fn clock(time: Duration) -> String {
    let (seconds, milliseconds) = (time.as_secs(), time.subsec_millis());
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{milliseconds:03}", seconds % 60)
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

fn milliseconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64() * 1e3).serialize(serializer)
}

/// A PV that a client keeps searching for.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    domain: String,
    protocol: String,
    pv: String,
    client: Ipv4Addr,
    client_pod: Option<String>,
    asked: u32,
    /// Since its first search.
    seconds: u64,
    /// Since its last search.
    seconds_since_last: u64,
}

impl Row {
    /// The row as of `now`, the kernel's clock.
    pub(super) fn new(found: Unanswered, directory: &Directory, now: Duration) -> Self {
        Self {
            domain: directory.domain(found.domain),
            protocol: directory.protocol(found.protocol),
            client_pod: directory.at(found.client).map(str::to_owned),
            pv: found.name,
            client: found.client,
            asked: found.times,
            seconds: now.saturating_sub(found.first).as_secs(),
            seconds_since_last: now.saturating_sub(found.last).as_secs(),
        }
    }
}

/// The rows as a table.
pub(super) fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no client is waiting for an answer\n".into();
    }
    let cells: Vec<_> =
        rows.iter().map(|row| [&row.pv, &row.domain, &row.client()].map(|text| printable(text))).collect();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(6);
    let (pvs, domains, parties) = (width(0), width(1), width(2));
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{:<pvs$}  {:<domains$}  PROTOCOL  {:<parties$}  ASKED    FOR  LAST",
        "PV", "DOMAIN", "CLIENT"
    );
    for (row, [pv, domain, client]) in rows.iter().zip(&cells) {
        let Row { protocol, asked, seconds, seconds_since_last, .. } = row;
        let _ = writeln!(
            out,
            "{pv:<pvs$}  {domain:<domains$}  {protocol:<8}  {client:<parties$}  {asked:>5}  {seconds:>3} s  \
             {seconds_since_last} s ago"
        );
    }
    out
}

impl Row {
    fn client(&self) -> String {
        self.client_pod
            .as_ref()
            .map_or_else(|| self.client.to_string(), |pod| format!("{pod} ({})", self.client))
    }
}

#[cfg(test)]
mod tests {
    use abi::Verdict;

    use super::{
        super::datagram::tests::{ca_reply, ca_search, event},
        *,
    };

    /// 1 h 2 min 3.5 s after midnight.
    const BOOT: Duration = Duration::from_millis(20_000 * 86_400_000 + 3_723_500);

    fn directory() -> Directory {
        let pod = || "beamline/ioc-a".to_owned();
        Directory {
            described: vec![],
            domains: [(0, "lab".into())].into(),
            members: [(7, pod())].into(),
            addresses: [(Ipv4Addr::new(10, 244, 1, 2), pod())].into(),
        }
    }

    fn line(point: Point, verdict: Verdict, sockets: [&str; 2], payload: &[u8], pvs: &[&str]) -> Line {
        let member = if matches!(point, Point::FromLan) { 0 } else { 7 };
        let event = abi::Event { member, ..event(250, point, verdict, sockets) };
        let latency = matches!(verdict, Verdict::Answered).then(|| Duration::from_micros(1234));
        let pvs = pvs.iter().map(|pv| (*pv).to_owned()).collect();
        Line::new(&Datagram::read(&event, payload).unwrap(), &directory(), BOOT, (pvs, latency))
    }

    #[test]
    fn a_search_and_its_answer_read_like_a_sentence() {
        let [client, pod] = ["172.23.0.2:41234", "10.244.1.2:5064"];
        let search = line(
            Point::FromLan,
            Verdict::Relayed,
            [client, "172.23.0.255:5064"],
            &ca_search(&["A:NAME"]),
            &["A:NAME"],
        );
        assert_eq!(
            search.to_string(),
            "01:02:03.750 lab ca search 172.23.0.2:41234 -> 172.23.0.255:5064 relayed: A:NAME"
        );
        let reply = line(Point::FromPod, Verdict::Answered, [pod, client], &ca_reply(1), &["A:NAME"]);
        assert_eq!(
            reply.to_string(),
            "01:02:03.750 lab ca reply beamline/ioc-a (10.244.1.2:5064) -> 172.23.0.2:41234 answered after 1.2 ms, \
             server port 61000: A:NAME"
        );
        let delivery =
            line(Point::ToPod, Verdict::Delivered, [client, "10.244.1.255:5064"], &ca_search(&["A"]), &["A"]);
        assert_eq!(
            delivery.to_string(),
            "01:02:03.750 lab ca search 172.23.0.2:41234 -> beamline/ioc-a (10.244.1.255:5064) delivered: A"
        );
    }

    #[test]
    fn an_object_has_the_keys_that_programs_expect() {
        let reply = line(
            Point::FromPod,
            Verdict::Answered,
            ["10.244.1.2:5064", "172.23.0.2:1"],
            &ca_reply(1),
            &["A"],
        );
        assert_eq!(
            serde_json::to_string(&reply).unwrap(),
            "{\"time\":1728003723.75,\"domain\":\"lab\",\"protocol\":\"ca\",\"message\":\"reply\",\
             \"source\":\"10.244.1.2:5064\",\"source_pod\":\"beamline/ioc-a\",\"destination\":\"172.23.0.2:1\",\
             \"destination_pod\":null,\"pvs\":[\"A\"],\"verdict\":\"answered\",\"latency_ms\":1.234,\"server_port\":61000}"
        );
    }

    #[test]
    fn the_table_of_the_unanswered_lines_up() {
        let row = |name: &str, client: [u8; 4], times| {
            let unanswered = Unanswered {
                domain: 0,
                protocol: abi::Protocol::Ca,
                name: name.into(),
                client: client.into(),
                times,
                first: Duration::from_secs(5),
                last: Duration::from_secs(13),
            };
            Row::new(unanswered, &directory(), Duration::from_secs(17))
        };
        let rows = [row("NOPE", [172, 23, 0, 2], 12), row("A:LONGER:NAME", [10, 244, 1, 2], 3)];
        assert_eq!(
            table(&rows),
            "PV             DOMAIN  PROTOCOL  CLIENT                       ASKED    FOR  LAST\n\
             NOPE           lab     ca        172.23.0.2                      12   12 s  4 s ago\n\
             A:LONGER:NAME  lab     ca        beamline/ioc-a (10.244.1.2)      3   12 s  4 s ago\n"
        );
    }
}
