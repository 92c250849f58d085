//! Matches and targets of iptables that are in rules as iptables knows them (struct xt_tcp, xt_udp, xt_multiport).

use abi::{TCP, UDP};

use super::{packet::Arrival, verdict::Verdict};

/// Targets that give a packet another destination.
const FORWARDING: [&str; 4] = ["DNAT", "REDIRECT", "NETMAP", "TPROXY"];

pub(super) fn forwards(target: &str) -> bool {
    FORWARDING.contains(&target)
}

/// What a match says of a packet.
pub(super) fn judge(name: &str, info: &[u8], arrival: Arrival<'_>) -> Verdict {
    let known = match (name, arrival.protocol()) {
        ("comment", _) => Some(Verdict::MATCHES),
        ("tcp", TCP) => header(info, 11, arrival.at.port),
        ("udp", UDP) => header(info, 8, arrival.at.port),
        ("tcp" | "udp", _) => Some(Verdict::DIFFERS),
        ("multiport", _) => multiport(info, arrival.at.port),
        _ => None,
    };
    known.unwrap_or(Verdict::UNKNOWN)
}

/// Two source ports, two destination ports, and at `inverted` which of them are negated.
fn header(info: &[u8], inverted: usize, port: u16) -> Option<Verdict> {
    let (first, last) = (number(info, 4)?, number(info, 6)?);
    let negated = info.get(inverted)? & 2 != 0;
    let is_any = (first, last, negated) == (0, u16::MAX, false);
    Some(match (first..=last).contains(&port) != negated {
        false => Verdict::DIFFERS,
        true if is_any => Verdict::UNKNOWN, // other conditions may be there
        true => Verdict::names_port(None),
    })
}

/// Which ports, how many, the ports, which of them begin a range, and whether all of it is negated.
fn multiport(info: &[u8], port: u16) -> Option<Verdict> {
    const SOURCE: u8 = 0;
    const DESTINATION: u8 = 1;
    let (kind, count) = (*info.first()?, usize::from(*info.get(1)?));
    let begins = |at: usize| info.get(32 + at).is_some_and(|flag| *flag != 0);
    let negated = info.get(47).is_some_and(|flag| *flag != 0);
    let (mut found, mut at) = (false, 0);
    while at < count {
        let first = number(info, 2 + 2 * at)?;
        at += usize::from(begins(at));
        found |= (first..=number(info, 2 + 2 * at)?).contains(&port);
        at += 1;
    }
    Some(match (kind, found != negated) {
        (SOURCE, _) => Verdict::UNKNOWN,
        (DESTINATION, true) => Verdict::names_port(Some(true)),
        (DESTINATION, false) => Verdict::DIFFERS,
        (_, true) => Verdict::names_port(None),
        (_, false) => Verdict::UNKNOWN,
    })
}

fn number(info: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?))
}
