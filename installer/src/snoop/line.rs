//! What is printed: a line for a datagram, or for a PV that nobody answers; text for people, an object for programs.

use std::{net::SocketAddrV4, time::Duration};

use abi::Point;
use view::snoop::{Line, Row};

use super::{datagram::Datagram, directory::Directory, questions::Unanswered};

/// The line for a datagram about `pvs`; `boot` is when the kernel's clock started, since the Unix epoch.
pub(super) fn line(
    datagram: &Datagram,
    directory: &Directory,
    boot: Duration,
    (pvs, latency): (Vec<String>, Option<Duration>),
) -> Line {
    let [source_pod, destination_pod] = pods(datagram, directory).map(|pod| pod.map(str::to_owned));
    Line {
        time: (boot + datagram.time).as_secs_f64(),
        domain: directory.domain(datagram.domain),
        protocol: directory.protocol(datagram.protocol),
        message: datagram.message.name().into(),
        source: datagram.source,
        source_pod,
        destination: datagram.destination,
        destination_pod,
        pvs,
        verdict: datagram.verdict.name().into(),
        latency_ms: latency.map(|time| time.as_secs_f64() * 1e3),
        server_port: datagram.server_port,
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

/// The row of a PV as of `now`, the kernel's clock.
pub(super) fn row(found: Unanswered, directory: &Directory, now: Duration) -> Row {
    Row {
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use abi::Verdict;
    use view::snoop::table;

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
        super::line(&Datagram::read(&event, payload).unwrap(), &directory(), BOOT, (pvs, latency))
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
            row(unanswered, &directory(), Duration::from_secs(17))
        };
        let rows = [row("NOPE", [172, 23, 0, 2], 12), row("A:LONGER:NAME", [10, 244, 1, 2], 3)];
        assert_eq!(
            table(&rows, 100),
            "PV             DOMAIN  PROTOCOL  CLIENT                       ASKED  FOR   LAST\n\
             NOPE           lab     ca        172.23.0.2                   12     12 s  4 s ago\n\
             A:LONGER:NAME  lab     ca        beamline/ioc-a (10.244.1.2)  3      12 s  4 s ago\n"
        );
        assert!(table(&rows, 80).lines().all(|line| line.chars().count() <= 80), "{}", table(&rows, 80));
    }
}
