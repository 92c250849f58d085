//! Fan-out: one datagram to every member of a domain that listens, without losing any to a full queue.
//!
//! A loop of clones to N interfaces would put N packets into this CPU's backlog, which holds 1000. Instead one copy
//! circulates through the fan device: each run queues one copy of itself for the places that are left and then becomes
//! the present member's own, entering the pod past the backlog. The queue is as long as datagrams are in flight,
//! however many pods there are. The mark leads to the state of a datagram ([`FanMark`], [`FanState`]), of which there is
//! one copy in the queue at a time; members without a socket on the port are passed over.

use core::ffi::c_void;

use abi::{Endpoint, FanMark, FanState, Member, Point, Protocol, RelayKey, Verdict, roster_index};
use aya_ebpf::{bindings::__sk_buff, helpers::bpf_loop};

use crate::{
    count::count,
    event::{Seen, emit},
    maps::{CONFIG, FAN_STATES, MEMBERS, POD_RELAYS, ROSTER, ROSTER_LENGTH, lookup},
    packet::Packet,
    skb::{DROP, Skb},
};

/// One run of the fan: deliver to the next member that listens.
#[inline(always)]
pub fn run(skb: Skb) -> i32 {
    let Some(mark) = FanMark::unpack(skb.mark()) else { return DROP };
    let (Some(config), Some(mut packet)) = (CONFIG.get(0), Packet::parse(skb)) else { return DROP };
    let Some(&length) = ROSTER_LENGTH.get(mark.domain) else { return DROP };
    let protocol = protocol(mark.domain, packet.destination.port);
    let Some(state) = state(mark) else {
        count(mark.domain as u16, protocol, Verdict::Overrun);
        return DROP;
    };
    let mut visit = Visit {
        skb: skb.raw(),
        source: packet.source,
        destination: packet.destination,
        domain: mark.domain,
        remaining: state.remaining,
        slot: state.slot,
        length,
        found: 0,
    };
    let pointer = &raw mut visit;
    // SAFETY: the callback has the type bpf_loop calls, and the state outlives the loop.
    let visit = unsafe {
        bpf_loop(state.remaining, find_listener as *mut c_void, pointer.cast(), 0);
        pointer.read()
    };
    let Some(member) = lookup(&MEMBERS, visit.found) else { return DROP };
    if visit.remaining > 0 {
        (state.remaining, state.slot) = (visit.remaining, visit.slot);
        if !packet.skb.clone_in(config.fan) {
            count(member.domain, protocol, Verdict::Overrun);
        }
    }
    deliver(&mut packet, &member, visit.found, protocol)
}

/// The state of the datagram at hand, unless its place was given to a later one: more were in the fan than there are places.
#[inline(always)]
fn state(mark: FanMark) -> Option<&'static mut FanState> {
    // SAFETY: the entry of an array stays; a datagram's is changed by the only copy of it that is in the queue.
    let state = unsafe { &mut *FAN_STATES.get_ptr_mut(mark.place())? };
    (state.ticket == mark.ticket).then_some(state)
}

/// A visit of the roster, passed through `bpf_loop`.
struct Visit {
    skb: *mut __sk_buff,
    source: Endpoint,
    destination: Endpoint,
    domain: u32,
    /// Places not yet visited, and the next of them.
    remaining: u32,
    slot: u32,
    length: u32,
    /// Interface index of the host-side veth of a member that listens; 0 while there is none.
    found: u32,
}

/// Visits one place of the roster; returns 1 to stop.
extern "C" fn find_listener(_index: u32, visit: *mut Visit) -> i64 {
    // SAFETY: `visit` is the state passed to bpf_loop, alive during the loop.
    let visit = unsafe { &mut *visit };
    let slot = if visit.slot < visit.length { visit.slot } else { 0 };
    visit.remaining -= 1;
    visit.slot = slot + 1;
    let interface = ROSTER.get(roster_index(visit.domain, slot)).copied().unwrap_or(0);
    if interface != 0 && listens(visit, interface) {
        visit.found = interface;
        return 1;
    }
    0
}

/// Whether the member behind `interface` did not send the datagram and has a socket for it.
#[inline(always)]
fn listens(visit: &Visit, interface: u32) -> bool {
    let Some(member) = lookup(&MEMBERS, interface) else { return false };
    let destination = Endpoint { address: member.broadcast, ..visit.destination };
    member.address != visit.source.address
        && Skb::from_raw(visit.skb).socket(&visit.source, &destination, member.netns)
}

/// Turns the packet into the member's own.
#[inline(always)]
fn deliver(packet: &mut Packet, member: &Member, interface: u32, protocol: u16) -> i32 {
    packet.skb.set_mark(0);
    // Only this form reaches every kind of server in the pod: one bound to the pod's broadcast address does not hear
    // 255.255.255.255, and one of several on a port does not hear unicast.
    packet.set_destination(Endpoint { address: member.broadcast, ..packet.destination });
    let (source, domain, verdict) = (packet.source, member.domain, Verdict::Delivered);
    count(domain, protocol, verdict);
    let seen = Seen { point: Point::ToPod, member: interface, source, domain, protocol, verdict };
    emit(packet, &seen);
    packet.skb.redirect_to_peer(interface)
}

/// The protocol of what comes to `port` of the domain's pods.
#[inline(always)]
fn protocol(domain: u32, port: u16) -> u16 {
    let key = RelayKey { scope: domain, port, reserved: 0 };
    lookup(&POD_RELAYS, key).map_or(Protocol::Other as u16, |relay| relay.protocol)
}
