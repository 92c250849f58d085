//! Matches and targets of iptables that are in rules as iptables knows them (struct xt_tcp, xt_udp,
//! xt_multiport, xt_mark_mtinfo1).

use abi::{TCP, UDP};

use super::{packet::Packet, verdict::Verdict};

/// Whether a target gives a packet that arrives another destination, or one that leaves another source.
pub(super) fn translates(target: &str, packet: Packet<'_>) -> bool {
    match packet {
        Packet::In(_) => ["DNAT", "REDIRECT", "NETMAP"].contains(&target),
        Packet::Out(_) => ["SNAT", "MASQUERADE", "NETMAP"].contains(&target),
    }
}

/// What a match says of a packet.
pub(super) fn judge(name: &str, info: &[u8], packet: Packet<'_>) -> Verdict {
    let known = match (name, packet.protocol(), packet.port()) {
        ("comment", ..) => Some(Verdict::MATCHES),
        ("tcp", TCP, Some(port)) => header(info, 11, port),
        ("udp", UDP, Some(port)) => header(info, 8, port),
        ("tcp" | "udp", _, Some(_)) => Some(Verdict::DIFFERS),
        ("multiport", _, Some(port)) => multiport(info, port),
        ("mark", _, None) => unmarked(info),
        _ => None,
    };
    known.unwrap_or(Verdict::UNKNOWN)
}

/// A mark, which of its bits count, and whether it is negated; for a packet without a mark.
fn unmarked(info: &[u8]) -> Option<Verdict> {
    let mark = u32::from_ne_bytes(info.get(0..4)?.try_into().ok()?);
    let is_negated = *info.get(8)? != 0;
    Some(if (mark == 0) == is_negated { Verdict::DIFFERS } else { Verdict::MATCHES })
}

/// Two source ports, two destination ports, what else is asked for, and at `inverted` what of all that is negated.
fn header(info: &[u8], inverted: usize, port: u16) -> Option<Verdict> {
    const NEGATED: u8 = 2;
    const ANY: (u16, u16) = (0, u16::MAX);
    let range = |at: usize| Some((number(info, at)?, number(info, at + 2)?));
    let (from, to, flags) = (range(0)?, range(4)?, *info.get(inverted)?);
    let is_alone =
        from == ANY && flags & !NEGATED == 0 && info.get(8..inverted)?.iter().all(|byte| *byte == 0);
    let fits = (to.0..=to.1).contains(&port) != (flags & NEGATED != 0);
    let holds = if fits { is_alone.then_some(true) } else { Some(false) };
    Some(if to == ANY { Verdict { holds, names_port: false } } else { Verdict::names_port(holds) })
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
