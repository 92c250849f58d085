//! tc ingress of an uplink: what the LAN sends.
//!
//! A search, broadcast or to the uplink's address, goes to the members that listen and on to the node's own sockets.
//! A packet to an external port becomes one to the pod it stands for, and goes on through the node's stack, where
//! conntrack, FORWARD rules and NetworkPolicy see client and pod.

use abi::{
    Circuit, Claim, Endpoint, FlowKey, LIMITED_BROADCAST, Point, Protocol, Relay, RelayKey, Searcher,
    SearcherKey, Uplink, Verdict, lan, relay, trouble,
};
use aya_ebpf::programs::TcContext;
use wire::{Direction, gvcp};

use crate::{
    count::{count, count_other},
    event::{Seen, tell},
    fan,
    from_pod::on_lan,
    limit,
    maps::{EXTERNAL_PORTS, EXTERNALS, FLOWS, FROM_LAN, LAN_RELAYS, MEMBERS, POD_RELAYS, SEARCHERS, UPLINKS},
    packet::{IP, Packet},
    payload::{self, Content},
    ports,
    skb::{NEXT, Skb, now},
};

const GVCP: u8 = Protocol::Gvcp as u8;
const GVSP: u8 = Protocol::Gvsp as u8;

#[inline(always)]
pub fn run(context: &TcContext) -> i32 {
    let skb = Skb::new(context);
    let Some(mut packet) = Packet::parse(skb) else { return NEXT };
    let interface = skb.interface();
    // SAFETY: copied at once.
    let Some(uplink) = (unsafe { UPLINKS.get(interface) }).copied() else { return NEXT };
    let to = packet.destination;
    let may_be_external = to.address == uplink.address && may_be_external(to.port);
    let done = may_be_external && to_external_port(context, &mut packet)
        || packet.is_udp()
            && packet.source.address != uplink.address
            && to_relayed_port(&mut packet, &uplink, interface);
    if may_be_external && !done {
        count_other(uplink.domain, Verdict::Unowned);
    }
    NEXT // the node's own sockets, and its stack, get all of it
}

/// A datagram of another host, to a port that may be relayed; false if it is not ours.
#[inline(always)]
fn to_relayed_port(packet: &mut Packet, uplink: &Uplink, interface: u32) -> bool {
    let broadcast = is_broadcast(packet.destination.address, uplink);
    let key = RelayKey { scope: interface, port: packet.destination.port, reserved: 0 };
    // SAFETY: copied at once.
    match unsafe { LAN_RELAYS.get(key) }.copied() {
        Some(relay) if relay.flags & relay::LAN_TO_PODS != 0 => relayed(packet, uplink, &relay, broadcast),
        _ if broadcast => count_other(uplink.domain, Verdict::Unrelayed),
        _ => return false,
    }
    true
}

/// Whether `port` is in a domain's range of external ports, or pinned.
#[inline(always)]
fn may_be_external(port: u16) -> bool {
    EXTERNAL_PORTS.get(port as u32 / 64).is_some_and(|word| word >> (port % 64) & 1 != 0)
}

/// Whether `address` means every host on the uplink's network.
#[inline(always)]
pub fn is_broadcast(address: [u8; 4], uplink: &Uplink) -> bool {
    address == LIMITED_BROADCAST || address == uplink.broadcast
}

/// A datagram to a relayed port: to all members that listen.
#[inline(always)]
fn relayed(packet: &mut Packet, uplink: &Uplink, relay: &Relay, broadcast: bool) {
    let verdict = match content(packet, uplink, relay, broadcast) {
        Ok(_) if !limit::admits_host(relay.domain, packet.source.address) => Verdict::Limited,
        Ok(content) => {
            if content.is_search() && relay.flags & relay::ANSWERED != 0 {
                learn_searcher(content.reply_to(packet.source), relay.domain, relay.protocol);
            }
            fan::hand_over(packet, &content, relay.domain, relay.port)
        }
        Err(fault) => fault,
    };
    let Relay { domain, protocol, .. } = *relay;
    count(domain, protocol, verdict);
    let seen = Seen { point: Point::FromLan, member: 0, source: packet.source, domain, protocol, verdict };
    tell(packet, &seen);
}

/// What a datagram to a relayed port holds, or why it is not relayed.
#[inline(always)]
fn content(packet: &Packet, uplink: &Uplink, relay: &Relay, broadcast: bool) -> Result<Content, Verdict> {
    if !broadcast && packet.destination.address != uplink.address {
        return Err(Verdict::Elsewhere);
    }
    let content = payload::inspect(packet, relay.protocol, Direction::Announce)?;
    // A camera's commands are for the one that has the port, and that is no external one.
    if content.is_directed() || relay.protocol == Protocol::Gvcp as u16 && !broadcast {
        return Err(Verdict::Unowned);
    }
    let camera = relay.protocol == Protocol::Gvcp as u16; // a camera's own network may be another one
    let reply_to = content.reply_to(packet.source).address;
    if content.is_search() && !camera && on_lan(reply_to, relay.domain) & lan::HOSTS == 0 {
        return Err(Verdict::OffLan);
    }
    Ok(content)
}

/// Remembers where a search is to be answered to, so that such answers are translated.
#[inline(always)]
pub fn learn_searcher(Endpoint { address, port, .. }: Endpoint, domain: u16, protocol: u16) {
    let key = SearcherKey { address, port, domain };
    let _ = SEARCHERS.insert(key, Searcher { seen: now(), protocol: protocol as u64 }, 0);
}

/// A packet to an external port: translates it to the pod it stands for; false if it stands for none.
///
/// The node's NAT may have chosen the same port for a connection of any pod: it knows nothing of ours. So only what begins
/// here, or goes on, is taken: circuits by their first segment, datagrams by what they say.
#[inline(always)]
fn to_external_port(context: &TcContext, packet: &mut Packet) -> bool {
    let external = packet.destination;
    // SAFETY: copied at once.
    let Some(claim) = (unsafe { EXTERNALS.get(external) }).copied().filter(ports::is_current) else {
        return false;
    };
    let domain = claim.domain;
    if packet.is_udp() && matches!(claim.protocol, GVCP | GVSP) {
        // What a camera sends from its port for commands is an answer, also to a socket that streams, too.
        if claim.protocol == GVSP && packet.source.address == claim.peer && packet.source.port != gvcp::PORT {
            stream(packet, &claim);
        } else {
            // SAFETY: comes back only if there is no such program.
            let _ = unsafe { FROM_LAN.tail_call(context, Protocol::Gvcp as u32) };
        }
        return true;
    }
    let ours =
        if packet.is_udp() { is_message(packet, &claim) } else { is_circuit(packet, &claim.pod, &external) };
    if ours {
        packet.set_destination(claim.pod);
    }
    let verdict = if ours { Verdict::TranslatedIn } else { Verdict::Unrelated };
    count_other(domain, verdict);
    if packet.is_udp() {
        let (source, protocol) = (packet.source, claim.protocol as u16);
        let seen = Seen { point: Point::ToExternal, member: claim.member, source, domain, protocol, verdict };
        tell(packet, &seen);
    }
    true
}

/// A packet of a camera's stream. That the pod cannot take it as it is, is noted for people to see: it would be lost silently.
#[inline(always)]
fn stream(packet: &mut Packet, claim: &Claim) {
    // SAFETY: copied at once.
    let mtu = unsafe { MEMBERS.get(claim.member) }.map_or(u32::MAX, |member| member.mtu);
    let (verdict, found) = if packet.fragment {
        (Verdict::Fragment, trouble::FRAGMENTS)
    } else if packet.skb.length() - IP > mtu {
        (Verdict::TooBig, trouble::TOO_BIG)
    } else {
        (Verdict::TranslatedIn, 0)
    };
    if found != 0
        && let Some(claim) = EXTERNALS.get_ptr_mut(packet.destination)
    {
        // SAFETY: the memory stays a claim; if the entry is removed meanwhile, the write is lost with it.
        unsafe { (*claim).trouble |= found };
    }
    if verdict != Verdict::Fragment {
        packet.set_destination(claim.pod);
    }
    count(claim.domain, Protocol::Gvsp as u16, verdict);
}

/// Whether a datagram to an external port is an answer, or a search; who searches wants its answer translated, too.
#[inline(always)]
fn is_message(packet: &Packet, claim: &Claim) -> bool {
    let protocol = claim.protocol as u16;
    let Ok(content) = payload::inspect(packet, protocol, Direction::Announce) else {
        return payload::inspect(packet, protocol, Direction::Answer).is_ok();
    };
    let reply_to = content.reply_to(packet.source);
    if content.is_search() && on_lan(reply_to.address, claim.domain) & lan::HOSTS == 0 {
        return false; // as in `content`
    }
    let key = RelayKey { scope: claim.domain as u32, port: claim.pod.port, reserved: 0 };
    // SAFETY: copied at once.
    if let Some(relay) = unsafe { POD_RELAYS.get(key) }.copied()
        && content.is_search()
    {
        learn_searcher(reply_to, relay.domain, relay.protocol);
    }
    true
}

/// Whether a segment opens a circuit through an external port, or belongs to one. Circuits are remembered, so that their
/// answers are translated back at the uplink; flows to the pod's own address are not, and stay as they are. Looking one
/// up keeps it from being forgotten.
#[inline(always)]
fn is_circuit(packet: &Packet, pod: &Endpoint, external: &Endpoint) -> bool {
    let key = FlowKey::between(&packet.source, pod);
    // SAFETY: compared at once.
    if unsafe { FLOWS.get(key) }.is_some_and(|circuit| circuit.external == *external) {
        return true;
    }
    packet.opens_circuit() && FLOWS.insert(key, Circuit { external: *external, followed: 1 }, 0).is_ok()
}
