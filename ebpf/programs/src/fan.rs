//! Fan-out: delivers one datagram to every listening member of a domain, without losing any to a full queue.
//!
//! Cloning to N interfaces in a loop would put N packets into this CPU's backlog, which holds 1000. Instead one copy
//! circulates through the fan device: each run queues one copy for the remaining slots and then turns itself into the
//! current member's packet, which enters the pod past the backlog. So the queue only grows with the datagrams in flight,
//! not with the number of pods. The state travels in the mark ([`FanMark`]); members without a socket on the port are
//! skipped; the start is random, so that overload is shared fairly.

use core::ffi::c_void;

use abi::{Endpoint, FanMark, Member, Point, Protocol, RelayKey, Verdict, roster_index};
use aya_ebpf::{bindings::__sk_buff, helpers::bpf_loop};

use crate::{
    count::count,
    event::{Seen, emit},
    maps::{CONFIG, MEMBERS, POD_RELAYS, ROSTER, ROSTER_LENGTH, lookup},
    packet::Packet,
    skb::{DROP, Skb},
};

/// One run of the fan: delivers to the next member that listens.
#[inline(always)]
pub fn run(skb: Skb) -> i32 {
    let Some(state) = FanMark::unpack(skb.mark()) else { return DROP };
    let (Some(config), Some(mut packet)) = (CONFIG.get(0), Packet::parse(skb)) else { return DROP };
    let Some(&length) = ROSTER_LENGTH.get(state.domain) else { return DROP };
    let mut visit = Visit {
        skb: skb.raw(),
        source: packet.source,
        destination: packet.destination,
        state,
        length,
        found: 0,
    };
    let pointer = &raw mut visit;
    // SAFETY: the callback has the type that bpf_loop calls, and the state outlives the loop.
    let visit = unsafe {
        bpf_loop(state.remaining, find_listener as *mut c_void, pointer.cast(), 0);
        pointer.read()
    };
    match lookup(&MEMBERS, visit.found) {
        Some(member) => deliver(&mut packet, &member, visit.found, visit.state, config.fan),
        None => DROP,
    }
}

/// A walk over the roster, passed through `bpf_loop`.
struct Visit {
    skb: *mut __sk_buff,
    source: Endpoint,
    destination: Endpoint,
    state: FanMark,
    length: u32,
    /// Interface index of the host-side veth of the member found; 0 until then.
    found: u32,
}

/// Visits one slot of the roster; returns 1 to stop.
extern "C" fn find_listener(_index: u32, visit: *mut Visit) -> i64 {
    // SAFETY: `visit` is the state passed to bpf_loop, alive during the loop.
    let visit = unsafe { &mut *visit };
    let slot = if visit.state.slot < visit.length { visit.state.slot } else { 0 };
    visit.state.remaining -= 1;
    visit.state.slot = slot + 1;
    let interface = ROSTER.get(roster_index(visit.state.domain, slot)).copied().unwrap_or(0);
    if interface != 0 && listens(visit, interface) {
        visit.found = interface;
        return 1;
    }
    0
}

/// Whether the member behind `interface` has a socket for the datagram and did not send it.
#[inline(always)]
fn listens(visit: &Visit, interface: u32) -> bool {
    let Some(member) = lookup(&MEMBERS, interface) else { return false };
    let destination = Endpoint { address: member.broadcast, ..visit.destination };
    member.address != visit.source.address
        && Skb::from_raw(visit.skb).socket(&visit.source, &destination, member.netns)
}

/// Turns the packet into the member's and delivers it.
#[inline(always)]
fn deliver(packet: &mut Packet, member: &Member, interface: u32, state: FanMark, fan: u32) -> i32 {
    let protocol = protocol(member.domain, packet.destination.port);
    if state.remaining > 0 {
        packet.skb.set_mark(state.pack());
        if !packet.skb.clone_in(fan) {
            count(member.domain, protocol, Verdict::Overrun);
        }
    }
    packet.skb.set_mark(0);
    // Only this address reaches every kind of server in the pod: one bound to the pod's broadcast address does not receive
    // 255.255.255.255, and of several servers on a port only one receives unicast.
    packet.set_destination(Endpoint { address: member.broadcast, ..packet.destination });
    let (source, domain, verdict) = (packet.source, member.domain, Verdict::Delivered);
    count(domain, protocol, verdict);
    let seen = Seen { point: Point::ToPod, member: interface, source, domain, protocol, verdict };
    emit(packet, &seen);
    packet.skb.redirect_to_peer(interface)
}

/// The protocol of datagrams to `port` of the domain's pods.
#[inline(always)]
fn protocol(domain: u16, port: u16) -> u16 {
    let key = RelayKey { scope: domain as u32, port, reserved: 0 };
    lookup(&POD_RELAYS, key).map_or(Protocol::Other as u16, |relay| relay.protocol)
}
