//! Fan-out: delivers one datagram to every listening member of a domain, without losing any to a full queue.
//!
//! Cloning to N interfaces in a loop would put N packets into this CPU's backlog, which holds 1000. Instead one copy
//! circulates through the fan device: each run queues one copy for the remaining slots and then turns itself into the
//! current member's packet, which enters the pod past the backlog. So the queue only grows with the datagrams in flight,
//! not with the number of pods. The state travels in the mark ([`FanMark`]); members that are not known to listen are
//! passed over (`listeners.rs`), those without a socket on the port get nothing.
//!
//! A copy reaches those sockets of a pod that the datagram itself would reach on a host of the LAN: what was sent to
//! everybody, to everybody on a network, or to the node, gets that address of the pod's. A group is the same everywhere.

use core::ffi::c_void;

use abi::{
    Address, Endpoint, FanMark, LIMITED_BROADCAST, Listeners, Member, NO_ADDRESS, Point, Protocol, RelayKey,
    Verdict, is_group, roster_index, walk,
};
use aya_ebpf::{bindings::__sk_buff, helpers::bpf_loop};

use crate::{
    count::count,
    event::{Seen, emit},
    format, lan_address, listeners,
    maps::{CONFIG, MEMBERS, POD_RELAYS, ROSTER, ROSTER_LENGTH, lookup},
    packet::Packet,
    peers,
    ports::ANYONE,
    skb::{DROP, Skb},
};

/// One run of the fan: delivers to the next member that listens.
#[inline(always)]
pub fn run(skb: Skb) -> i32 {
    let Some(state) = FanMark::unpack(skb.mark()) else { return DROP };
    let (Some(config), Some(mut packet)) = (CONFIG.get(0), Packet::parse(skb)) else { return DROP };
    let Some(&length) = ROSTER_LENGTH.get(state.domain) else { return DROP };
    let Some(known) = listeners::of(state.domain, &packet.destination) else {
        count(state.domain as u16, Protocol::Other as u16, Verdict::Overrun);
        return DROP;
    };
    let (node, broadcast) = peers::uplink(state.domain as u16)
        .map_or((NO_ADDRESS, NO_ADDRESS), |uplink| (uplink.address, uplink.broadcast));
    let mut visit = Visit {
        skb: skb.raw(),
        known,
        source: packet.source,
        destination: packet.destination,
        state: decided(state, known),
        length,
        node,
        broadcast,
        sender: lan_address::neighbour(packet.source.address, state.domain as u16).unwrap_or(0),
        found: 0,
        address: NO_ADDRESS,
    };
    let pointer = &raw mut visit;
    // SAFETY: the callback has the type that bpf_loop calls, and the state outlives the loop.
    let visit = unsafe {
        bpf_loop(state.remaining, go_on as *mut c_void, pointer.cast(), 0);
        pointer.read()
    };
    match lookup(&MEMBERS, visit.found) {
        Some(member) => deliver(&mut packet, &member, &visit, config.fan),
        None => DROP,
    }
}

/// The state of a datagram that knows which members it visits.
#[inline(always)]
fn decided(state: FanMark, known: *mut Listeners) -> FanMark {
    if state.walk != walk::UNDECIDED {
        return state;
    }
    let walk = if listeners::looks_at_all(known) { walk::ALL } else { walk::LISTENERS };
    FanMark { walk, ..state }
}

/// A walk over the roster, passed through `bpf_loop`.
struct Visit {
    skb: *mut __sk_buff,
    /// Who is known to listen.
    known: *mut Listeners,
    source: Endpoint,
    destination: Endpoint,
    state: FanMark,
    length: u32,
    /// The node's address on the LAN, if the domain has an uplink.
    node: Address,
    /// The LAN's broadcast address.
    broadcast: Address,
    /// The member on this node whose LAN address is the source, by the interface index of its host-side veth; 0 if there is none.
    sender: u32,
    /// Interface index of the host-side veth of the member found; 0 until then.
    found: u32,
    /// The address at which its sockets hear the datagram.
    address: Address,
}

/// Goes to the next member to visit; returns 1 to stop: at the one after the member found, which the next run visits, or
/// when no place is left.
extern "C" fn go_on(_index: u32, visit: *mut Visit) -> i64 {
    // SAFETY: `visit` is the state passed to bpf_loop, alive during the loop.
    let visit = unsafe { &mut *visit };
    let slot = if visit.state.slot < visit.length { visit.state.slot } else { 0 };
    let interface = ROSTER.get(roster_index(visit.state.domain, slot)).copied().unwrap_or(0);
    let gap = if interface == 0 { 1 } else { gap(visit, slot) };
    if gap > 0 {
        return advance(visit, slot, gap);
    }
    if visit.found != 0 {
        return 1;
    }
    if let Some(address) = listens(visit, slot, interface) {
        (visit.found, visit.address) = (interface, address);
    }
    advance(visit, slot, 1)
}

/// How many places from `slot` on need no visit.
#[inline(always)]
fn gap(visit: &Visit, slot: u32) -> u32 {
    if visit.state.walk == walk::ALL { 0 } else { listeners::gap(visit.known, slot) }
}

/// Leaves `places` behind, but never goes over the end of the roster at once; returns 1 if none is left.
#[inline(always)]
fn advance(visit: &mut Visit, slot: u32, places: u32) -> i64 {
    let places = places.min(visit.length - slot).min(visit.state.remaining);
    // In the bounds of their bits in the mark, so that the verifier sees one state, however often it goes round.
    visit.state.slot = (slot + places) & FanMark::SLOT;
    visit.state.remaining = (visit.state.remaining - places) & FanMark::REMAINING;
    (visit.state.remaining == 0) as i64
}

/// The address at which the member at `slot` hears the datagram; `None` too if it sent it.
#[inline(always)]
fn listens(visit: &Visit, slot: u32, interface: u32) -> Option<Address> {
    let from = visit.source.address;
    let member =
        lookup(&MEMBERS, interface).filter(|member| member.address != from && member.lan_address != from)?;
    let heard = heard(visit, &member);
    if visit.state.walk == walk::ALL {
        listeners::note(visit.known, slot, heard.is_some());
    }
    heard
}

/// The address at which the member has a socket for the datagram.
///
/// Of several sockets that are bound to no address only one hears a unicast, so they hear a broadcast instead: each may be
/// another server.
#[inline(always)]
fn heard(visit: &Visit, member: &Member) -> Option<Address> {
    // A neighbour with a LAN address means the LAN, whichever of its broadcast addresses it asks first.
    let to_lan = visit.destination.address != LIMITED_BROADCAST || visit.sender != 0;
    if member.lan_address != NO_ADDRESS
        && to_lan
        && visit.destination.address != visit.node
        && !is_group(visit.destination.address)
        && bound(visit, visit.broadcast, member).is_some()
    {
        return Some(visit.broadcast);
    }
    let address = match visit.destination.address {
        LIMITED_BROADCAST => LIMITED_BROADCAST,
        node if node == visit.node => member.address,
        group if is_group(group) => group,
        _ => member.broadcast,
    };
    let bound = bound(visit, address, member)?;
    let is_shared = address == member.address && bound == NO_ADDRESS;
    Some(if is_shared { member.broadcast } else { address })
}

/// The address that the member's socket is bound to which hears the datagram at `address`.
#[inline(always)]
fn bound(visit: &Visit, address: Address, member: &Member) -> Option<Address> {
    let destination = Endpoint { address, ..visit.destination };
    Skb::from_raw(visit.skb).bound_address(&visit.source, &destination, member.netns)
}

/// Turns the packet into the member's and delivers it.
#[inline(always)]
fn deliver(packet: &mut Packet, member: &Member, visit: &Visit, fan: u32) -> i32 {
    let Visit { found: interface, state, address, .. } = *visit;
    let protocol = protocol(member.domain, packet.destination.port);
    if state.remaining > 0 {
        packet.skb.set_mark(state.pack());
        if !packet.skb.clone_in(fan) {
            count(member.domain, protocol, Verdict::Overrun);
        }
    }
    packet.skb.set_mark(0);
    if let Some(own) = source_inside(visit, member) {
        packet.set_source(own);
    }
    packet.set_destination(Endpoint { address, ..packet.destination });
    if address != member.address {
        format::make_broadcast(packet, protocol);
    }
    let (source, domain, verdict) = (packet.source, member.domain, Verdict::Delivered);
    count(domain, protocol, verdict);
    let seen = Seen { point: Point::ToPod, member: interface, source, domain, protocol, verdict };
    emit(packet, &seen);
    packet.skb.redirect_to_peer(interface)
}

/// The own address of the pod on this node that sent the datagram from its address on the LAN, if a socket hears there. Those
/// that do not hear on the LAN themselves know it by that: the node would masquerade an answer to the other.
#[inline(always)]
fn source_inside(visit: &Visit, receiver: &Member) -> Option<Endpoint> {
    if visit.sender == 0 {
        return None;
    }
    let sender = lookup(&MEMBERS, visit.sender)?;
    let on_lan = receiver.lan_address != NO_ADDRESS && visit.destination.address != visit.node;
    if on_lan && bound(visit, visit.broadcast, receiver).is_some() {
        return None;
    }
    let own = Endpoint { address: sender.address, ..visit.source };
    Skb::from_raw(visit.skb).socket(&ANYONE, &own, sender.netns).then_some(own)
}

/// The protocol of datagrams to `port` of the domain's pods.
#[inline(always)]
fn protocol(domain: u16, port: u16) -> u16 {
    let key = RelayKey::of_pods(domain, port);
    lookup(&POD_RELAYS, key).map_or(Protocol::Other as u16, |relay| relay.protocol)
}
