//! tc ingress of an uplink: traffic from the LAN.
//!
//! A search, broadcast, or sent to a group or to the uplink's address, goes to the listening members and on to the node's own sockets.
//! A packet to an external port is translated to the pod behind it, and continues through the node's stack, where
//! conntrack, FORWARD rules and NetworkPolicy see client and pod.

use abi::{Claim, Headers, Point, RELAYED_PLACE, Relay, RelayKey, Uplink, Verdict, is_group, lan, paths};
use aya_ebpf::programs::TcContext;
use wire::Direction;

use crate::{
    arp, circuits, copies,
    count::{count, count_other},
    event::{Seen, emit},
    format::{self, Content},
    groups, icmp, lan_address, limit,
    maps::{
        ARRIVING, EXTERNAL_PORTS, EXTERNALS, FROM_LAN, LAN_ADDRESSES, LAN_RELAYS, POD_RELAYS, RELAYED_PORTS,
        UPLINKS, contains, has_port, is_taking_over, lookup,
    },
    packet::Packet,
    peers, ports,
    skb::{DROP, NEXT, Skb},
};

#[inline(always)]
pub fn run(context: &TcContext) -> i32 {
    let skb = Skb::new(context);
    if skb.is_for_another_host() {
        return NEXT;
    }
    let Some(mut packet) = Packet::parse(skb) else { return other(skb) };
    let to = packet.destination;
    let concerns_pods =
        has_port(&EXTERNAL_PORTS, to.port) || packet.is_udp() && has_port(&RELAYED_PORTS, to.port);
    if !concerns_pods {
        return to_other_port(&packet); // nearly everything that a node receives
    }
    let interface = skb.interface();
    let Some(uplink) = lookup(&UPLINKS, interface) else { return NEXT };
    // Whose it is, is looked up again at the end: with an Option the compiler would spill registers that were never written.
    let of_a_pod = to.address != uplink.address && contains(&LAN_ADDRESSES, to.address);
    let may_be_external = to.address == uplink.address && has_port(&EXTERNAL_PORTS, to.port);
    let external = if may_be_external { to_external_port(context, &mut packet) } else { None };
    if matches!(external, Some(Verdict::NoCircuit | Verdict::Limited)) {
        return DROP; // the client sends it again; a reset would end what the pod has accepted
    }
    let done = external.is_some()
        || packet.is_udp()
            && packet.source.address != uplink.address
            && to_relayed_port(context, &packet, &uplink, interface);
    if may_be_external && !done {
        count_other(uplink.domain, Verdict::Unowned);
    }
    if may_be_external && matches!(external, None | Some(Verdict::Unrelated)) && is_taking_over() {
        return DROP; // it is sent again; a reset would end what the former programs know
    }
    if of_a_pod {
        return lan_address::arrive(skb, packet.source.address, to.address);
    }
    NEXT // the node's stack and sockets get everything
}

/// Handles a packet to a port that is neither external nor relayed. Only a pod may have its address, which one look-up
/// tells; a datagram may be a broadcast besides.
#[inline(always)]
fn to_other_port(packet: &Packet) -> i32 {
    let (skb, from, to) = (packet.skb, packet.source.address, packet.destination.address);
    if packet.is_udp() {
        let Some(uplink) = lookup(&UPLINKS, skb.interface()) else { return NEXT };
        if to == uplink.address {
            return NEXT;
        }
        if peers::is_broadcast_of_lan(to, &uplink) {
            if from != uplink.address {
                count_other(uplink.domain, Verdict::Unrelayed);
            }
            return NEXT;
        }
    }
    lan_address::arrive(skb, from, to)
}

/// Handles what is neither TCP nor UDP.
#[inline(always)]
fn other(skb: Skb) -> i32 {
    if skb.is_untagged_arp() {
        return arp::arrive(skb);
    }
    match lan_address::arrive_other(skb) {
        NEXT => icmp::arrive(skb),
        verdict => verdict,
    }
}

/// Handles a datagram from another host, if its port is relayed or it is a broadcast; false otherwise.
#[inline(always)]
fn to_relayed_port(context: &TcContext, packet: &Packet, uplink: &Uplink, interface: u32) -> bool {
    let to = packet.destination;
    if groups::foreign_on_lan(interface, &to) {
        return false;
    }
    if lan_relay(interface, to.port).is_some() {
        tail_call(context, packet.headers(), RELAYED_PLACE);
        return true;
    }
    let broadcast = peers::is_broadcast_of_lan(to.address, uplink);
    if broadcast {
        count_other(uplink.domain, Verdict::Unrelayed);
    }
    broadcast
}

/// Relays a datagram to a relayed port. A program of its own, with its own stack.
#[inline(always)]
pub fn relayed(skb: Skb) -> i32 {
    let interface = skb.interface();
    let (Some(headers), Some(uplink)) = (ARRIVING.get(0), lookup(&UPLINKS, interface)) else { return NEXT };
    let mut packet = Packet::with(skb, headers);
    let to = packet.destination;
    let broadcast = is_group(to.address) || peers::is_broadcast_of_lan(to.address, &uplink);
    let of_a_pod = to.address != uplink.address && contains(&LAN_ADDRESSES, to.address);
    if let Some(relay) = lan_relay(interface, to.port) {
        relay_to_pods(&mut packet, &uplink, &relay, (broadcast, of_a_pod));
    }
    if of_a_pod { lan_address::arrive(skb, packet.source.address, to.address) } else { NEXT }
}

/// How a port is relayed from the LAN to the pods.
#[inline(always)]
fn lan_relay(interface: u32, port: u16) -> Option<Relay> {
    lookup(&LAN_RELAYS, RelayKey::on_lan(interface, port))
        .filter(|relay| relay.flags & paths::LAN_TO_PODS != 0)
}

/// Relays a datagram to all members that listen. One `of_a_pod`, to a LAN address, goes there by itself; whom the pod answers is
/// remembered all the same, because a server may answer from the pod's own address.
#[inline(always)]
fn relay_to_pods(packet: &mut Packet, uplink: &Uplink, relay: &Relay, (broadcast, of_a_pod): (bool, bool)) {
    let Relay { domain, protocol, flags, port } = *relay;
    let mut verdict = match content(packet, uplink, relay, (broadcast, of_a_pod)) {
        Ok(_) if !limit::admits_host(domain, packet.source.address) => Verdict::Limited,
        Ok(content) => {
            if content.is_search() && flags & paths::ANSWERED != 0 {
                let asked = packet.destination.port;
                peers::learn_searcher(content.reply_to(packet.source), domain, protocol, asked);
            }
            if of_a_pod { Verdict::Direct } else { copies::enqueue(packet, domain, port) }
        }
        Err(fault) => fault,
    };
    if of_a_pod {
        verdict = Verdict::Direct;
    } else {
        count(domain, protocol, verdict);
    }
    let seen = Seen { point: Point::FromLan, member: 0, source: packet.source, domain, protocol, verdict };
    emit(packet, &seen);
}

/// The content of a datagram to a relayed port, or why it is not relayed.
#[inline(always)]
fn content(
    packet: &Packet,
    uplink: &Uplink,
    relay: &Relay,
    (broadcast, of_a_pod): (bool, bool),
) -> Result<Content, Verdict> {
    if !broadcast && !of_a_pod && packet.destination.address != uplink.address {
        return Err(Verdict::Elsewhere);
    }
    let content = format::inspect(packet, relay.protocol, Direction::Announce)?;
    let cameras = relay.flags & paths::CAMERAS != 0;
    // A command is for the camera that has the port, but here the port is not claimed as an external one.
    if content.is_directed() || cameras && !broadcast {
        return Err(Verdict::Unowned);
    }
    let reply_to = content.reply_to(packet.source).address;
    if content.is_search() && !cameras && peers::on_lan(reply_to, relay.domain) & lan::HOSTS == 0 {
        return Err(Verdict::OffLan);
    }
    Ok(content)
}

/// Translates a packet to an external port to the pod behind it; what became of it, `None` if there is no such pod.
///
/// The node's NAT does not know about external ports and may have chosen the same port for a pod's outgoing connection. So
/// only traffic that starts or continues here is translated: circuits known by their first segment, datagrams by content.
#[inline(always)]
fn to_external_port(context: &TcContext, packet: &mut Packet) -> Option<Verdict> {
    let external = packet.destination;
    let claim = lookup(&EXTERNALS, external).filter(ports::is_current)?;
    let udp = packet.is_udp();
    if udp {
        tail_call(context, packet.headers(), claim.protocol as u32);
    }
    let verdict = if udp { message(packet, &claim) } else { circuits::arrive(packet, &claim) };
    if verdict == Verdict::TranslatedIn {
        if udp {
            peers::learn_sender(packet, &claim);
        }
        packet.set_destination(claim.pod);
    }
    let Claim { domain, member, .. } = claim;
    count_other(domain, verdict);
    if udp {
        let (source, protocol) = (packet.source, claim.protocol as u16);
        emit(packet, &Seen { point: Point::ToExternal, member, source, domain, protocol, verdict });
    }
    Some(verdict)
}

/// Tail-calls a program: that of the protocol that an external port was taken for, or [`relayed`]; returns if there is none.
#[inline(always)]
fn tail_call(context: &TcContext, headers: Headers, place: u32) {
    if let Some(place) = ARRIVING.get_ptr_mut(0) {
        // SAFETY: this CPU's own entry, which only the tail-called program reads.
        unsafe { place.write(headers) };
    }
    // SAFETY: comes back only if there is no such program.
    unsafe { FROM_LAN.tail_call(context, place) };
}

/// What is done with a datagram to an external port: an answer or a search is translated. Remembers searchers, so that
/// answers are translated.
#[inline(always)]
fn message(packet: &Packet, claim: &Claim) -> Verdict {
    let protocol = claim.protocol as u16;
    let content = match format::inspect(packet, protocol, Direction::Announce) {
        Ok(content) => Some(content),
        Err(_) if format::inspect(packet, protocol, Direction::Answer).is_ok() => None,
        Err(_) => return Verdict::Unrelated,
    };
    let search = content.filter(Content::is_search).map(|content| content.reply_to(packet.source));
    if search.is_some_and(|reply_to| peers::on_lan(reply_to.address, claim.domain) & lan::HOSTS == 0) {
        return Verdict::Unrelated; // as in `content`
    }
    if !limit::admits_to_port(claim.domain, packet.source.address, claim.member) {
        return Verdict::Limited;
    }
    let key = RelayKey::of_pods(claim.domain, claim.pod.port);
    if let (Some(reply_to), Some(relay)) = (search, lookup(&POD_RELAYS, key)) {
        peers::learn_searcher(reply_to, relay.domain, relay.protocol, packet.destination.port);
    }
    Verdict::TranslatedIn
}
