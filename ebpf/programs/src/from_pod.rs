//! tc ingress of a member's host-side veth: traffic from a pod.
//!
//! A broadcast to a relayed port, in the pod's network or in the LAN's, or to a group, goes to the other members, to the LAN
//! with the uplink as source, and to the node's own sockets. A unicast search to a host on the LAN, and a unicast answer to a
//! LAN socket that searched, are translated and leave through the uplink. Everything else passes unchanged.
//!
//! `from_pod` itself only classifies a datagram and tail-calls the program of its protocol: each program has its own 512
//! bytes of stack and its own budget with the verifier.

use abi::{
    Address, Endpoint, LIMITED_BROADCAST, Member, NO_ADDRESS, Protocol, Relay, RelayKey, Sending, Verdict,
    is_group, lan, paths, route,
};
use aya_ebpf::programs::TcContext;

use crate::{
    arp,
    count::{count, count_other},
    event::emit_direct,
    format::Format,
    groups, lan_address, limit,
    maps::{FROM_POD, MEMBERS, POD_RELAYS, RELAYED_PORTS, SENDING, has_port, lookup},
    outgoing::Outgoing,
    packet::Packet,
    peers, repeats,
    skb::{DROP, NEXT, Skb},
};

const GVSP: u16 = Protocol::Gvsp as u16;

/// Classifies a datagram and tail-calls the program of its protocol.
#[inline(always)]
pub fn run(context: &TcContext) -> i32 {
    let skb = Skb::new(context);
    let Some(mut packet) = Packet::parse(skb) else { return other(skb) };
    if !packet.is_udp() {
        return pass(&packet); // TCP is only translated at the uplink
    }
    let interface = skb.interface();
    let Some(member) = lookup(&MEMBERS, interface) else { return pass(&packet) };
    let held = lan_address::as_held(member, interface);
    if held.lan_address != member.lan_address && packet.source.address == member.lan_address {
        packet.set_source(Endpoint { address: member.address, ..packet.source }); // the other one is another host's
    }
    let member = held;
    let is_own = packet.source.address == member.address;
    let is_held = member.lan_address != NO_ADDRESS && packet.source.address == member.lan_address;
    if !is_own && !is_held && lan_address::is_of_another(packet.source.address, interface) {
        count_other(member.domain, Verdict::Spoofed);
        return DROP;
    }
    let broadcast = peers::is_broadcast_of_pod(packet.destination.address, &member);
    let Some(sending) = classify(&packet, member, interface, broadcast) else {
        if broadcast {
            count_other(member.domain, Verdict::Unrelayed);
            return NEXT;
        }
        emit_direct(skb, &member);
        if is_held {
            return pass_held(&mut packet, &member);
        }
        return if is_own { NEXT } else { pass(&packet) };
    };
    let verdict = verdict(&packet, &sending);
    let protocol = sending.protocol;
    pass_on(sending);
    if verdict == Verdict::Unrelayed {
        // SAFETY: comes back only if there is no such program.
        unsafe { FROM_POD.tail_call(context, protocol as u32) };
    }
    let Some(outgoing) = Outgoing::resume(skb) else { return NEXT };
    outgoing.report(verdict);
    outgoing.finish(verdict)
}

/// Handles what is not translated.
#[inline(always)]
fn pass(packet: &Packet) -> i32 {
    lan_address::depart(packet.skb, packet.source.address, packet.destination.address)
}

/// The same for what is from the pod's LAN address. An answer of Channel Access to a process on the node comes from the pod's own
/// address: on a bridge the node's searches reach the pod there, too, and a client that hears of two addresses takes them for
/// two servers.
#[inline(always)]
fn pass_held(packet: &mut Packet, member: &Member) -> i32 {
    let Packet { source, destination, .. } = *packet;
    let to_node = || peers::uplink(member.domain).is_some_and(|uplink| uplink.address == destination.address);
    if relay(member.domain, source.port).protocol == Protocol::Ca as u16 && to_node() {
        packet.set_source(Endpoint { address: member.address, ..source });
        return NEXT;
    }
    lan_address::depart_held(packet.skb, member.domain, source.address, destination.address)
}

/// Why a datagram goes no further; [`Verdict::Unrelayed`] if only for want of a program of its protocol.
#[inline(always)]
fn verdict(packet: &Packet, sending: &Sending) -> Verdict {
    let Sending { member, interface, route, protocol, .. } = sending;
    if *route == route::BROADCAST
        && member.lan_address != NO_ADDRESS
        && !is_group(packet.destination.address) // others hear there than at a broadcast address
        && repeats::is_repeated(packet, *interface)
    {
        return Verdict::Repeated;
    }
    let admitted = match (*route, *protocol) {
        (route::ANSWER, GVSP) => true,
        (route::ANSWER, _) => limit::admits_answer(member.domain, *interface),
        _ => limit::admits_pod(member.domain, *interface),
    };
    if admitted { Verdict::Unrelayed } else { Verdict::Limited }
}

/// Handles a datagram of a protocol whose payloads have format `F`.
#[inline(always)]
pub fn process<F: Format>(context: &TcContext) -> i32 {
    let Some(mut outgoing) = Outgoing::resume(Skb::new(context)) else { return NEXT };
    let verdict = outgoing.forward::<F>();
    outgoing.report(verdict);
    outgoing.finish(verdict)
}

/// What the program of its protocol needs to know of a datagram; `None` if it is not ours to handle.
#[inline(always)]
fn classify(packet: &Packet, member: Member, interface: u32, broadcast: bool) -> Option<Sending> {
    let Endpoint { address, port, .. } = packet.destination;
    let domain = member.domain;
    let sending = |route, protocol, flags, port| Sending {
        headers: packet.headers(),
        member,
        interface,
        neighbour: if route == route::UNICAST {
            lan_address::neighbour(address, domain).unwrap_or(0)
        } else {
            0
        },
        route,
        protocol,
        flags,
        to: if route == route::BROADCAST { to_all(address, domain, flags) } else { address },
        port,
    };
    let to = relay(domain, port);
    // A host that searched from the port of cameras may still be commanded as a camera only.
    if !broadcast
        && to.flags & paths::CAMERAS == 0
        && let Some((protocol, asked)) = peers::searcher(address, port, domain, interface)
    {
        let from = relay(domain, packet.source.port);
        let symmetric = if from.port == asked { from.flags & paths::SYMMETRIC } else { 0 };
        return Some(sending(route::ANSWER, protocol, paths::POD_TO_LAN | symmetric, asked));
    }
    if to.flags == 0 {
        return None;
    }
    let broadcast = broadcast
        || peers::is_broadcast_of_domain(address, domain)
        || groups::of_pods(domain, &packet.destination);
    if !broadcast && peers::on_lan(address, domain) & lan::HOSTS == 0 {
        return None;
    }
    let symmetric = if packet.source.port == port { to.flags } else { to.flags & !paths::SYMMETRIC };
    Some(if broadcast {
        sending(route::BROADCAST, to.protocol, symmetric, to.port)
    } else {
        sending(route::UNICAST, to.protocol, symmetric | paths::POD_TO_LAN, to.port)
    })
}

/// Where on the LAN a broadcast to `address` goes.
#[inline(always)]
fn to_all(address: Address, domain: u16, flags: u16) -> Address {
    if is_group(address) {
        address
    } else if flags & paths::CAMERAS != 0 {
        LIMITED_BROADCAST
    } else {
        peers::uplink(domain).map_or(NO_ADDRESS, |uplink| uplink.broadcast)
    }
}

/// What is no UDP datagram that `Packet` reads. One with IP options must not pass by what the domain says of cameras.
#[inline(always)]
fn other(skb: Skb) -> i32 {
    if skb.is_untagged_arp() {
        return arp::depart(skb);
    }
    let Some(to) = Packet::destination_behind_options(skb) else { return lan_address::depart_other(skb) };
    let Some(Member { domain, .. }) = lookup(&MEMBERS, skb.interface()) else { return NEXT };
    let relay = relay(domain, to.port);
    if relay.flags & paths::CAMERAS == 0 || peers::on_lan(to.address, domain) & lan::HOSTS == 0 {
        return lan_address::depart_other(skb);
    }
    count(domain, relay.protocol, Verdict::Denied);
    DROP
}

/// How a port of the domain's pods is relayed; no flag is set if it is not.
#[inline(always)]
fn relay(domain: u16, port: u16) -> Relay {
    let none = Relay { domain, port, protocol: 0, flags: 0 };
    if !has_port(&RELAYED_PORTS, port) {
        return none;
    }
    lookup(&POD_RELAYS, RelayKey::of_pods(domain, port)).unwrap_or(none)
}

#[inline(always)]
fn pass_on(sending: Sending) {
    if let Some(place) = SENDING.get_ptr_mut(0) {
        // SAFETY: this CPU's own entry, which only the tail-called program reads.
        unsafe { place.write(sending) };
    }
}
