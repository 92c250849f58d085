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
    Verdict, WORDS, is_group, roster_index, walk,
};
use aya_ebpf::{bindings::__sk_buff, helpers::bpf_loop, macros::map, maps::PerCpuArray};

use crate::{
    copies,
    count::count,
    event::{Seen, emit},
    format, lan_address, listeners,
    maps::{CONFIG, MEMBERS, POD_RELAYS, ROSTER, lookup, own},
    owners,
    packet::Packet,
    peers,
    ports::ANYONE,
    skb::{DROP, Skb},
};

/// One entry: what is delivered on this CPU.
#[map]
static VISIT: PerCpuArray<Visit> = PerCpuArray::with_max_entries(1, 0);

/// The datagram that the fan is about to deliver, and how far it has come.
struct Visit {
    /// Who sent it.
    source: Endpoint,
    /// Where it went.
    destination: Endpoint,
    /// Where to go on.
    state: FanMark,
    /// The length of the domain's roster.
    length: u32,
    /// The node's address on the LAN; [`NO_ADDRESS`] if the domain has no uplink.
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

/// One run of the fan: delivers to the next member that listens.
#[inline(always)]
pub fn run(skb: Skb) -> i32 {
    let (Some(state), Some(mut packet)) = (FanMark::unpack(skb.mark()), Packet::parse(skb)) else {
        return DROP;
    };
    let (Some(config), Some(visit)) = (CONFIG.get(0), begin(state, &packet)) else { return DROP };
    let Some(known) = listeners::of(state.domain, &packet.destination) else { return DROP };
    if state.walk == walk::UNDECIDED {
        visit.state.matched = match packet.payload {
            Some(length) if !packet.fragment && owners::are_declared(state.domain) => {
                let protocol = protocol(state.domain as u16, packet.destination.port);
                owners::find_owners(skb.raw(), state.domain, protocol as u32, length) != 0
            }
            _ => false,
        };
        visit.state.walk = if listeners::looks_at_all(known) { walk::ALL } else { walk::LISTENERS };
    }
    owners::recall(skb.raw(), visit.state.matched as u32);
    let Some(owners) = owners::recalled() else { return DROP };
    let mut walk = Walk { skb: skb.raw(), known, owners, visit };
    // SAFETY: the callback has the type that bpf_loop calls, and the walk outlives the loop.
    unsafe { bpf_loop(state.remaining, go_on as *mut c_void, (&raw mut walk).cast(), 0) };
    match lookup(&MEMBERS, walk.visit.found) {
        Some(member) => deliver(&mut packet, &member, walk.visit, config.fan),
        None => DROP,
    }
}

/// The visit of this CPU, at its beginning.
#[inline(always)]
fn begin(state: FanMark, packet: &Packet) -> Option<&'static mut Visit> {
    let domain = state.domain as u16;
    let (node, broadcast) =
        peers::uplink(domain).map_or((NO_ADDRESS, NO_ADDRESS), |uplink| (uplink.address, uplink.broadcast));
    let visit = Visit {
        source: packet.source,
        destination: packet.destination,
        state,
        length: copies::members(domain),
        node,
        broadcast,
        sender: lan_address::neighbour(packet.source.address, domain).unwrap_or(0),
        found: 0,
        address: NO_ADDRESS,
    };
    let place = own(&VISIT)?;
    *place = visit;
    Some(place)
}

/// A walk over the roster, passed through `bpf_loop`.
struct Walk {
    skb: *mut __sk_buff,
    /// Who is known to listen.
    known: *mut Listeners,
    /// Who may have its names, if that is known.
    owners: &'static [u64; WORDS],
    visit: &'static mut Visit,
}

/// Goes to the next member to visit; returns 1 to stop: at the one after the member found, which the next run visits, or
/// when no place is left.
extern "C" fn go_on(_index: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `walk` is what was passed to bpf_loop, alive during the loop.
    let Walk { skb, known, owners, ref mut visit } = *unsafe { &mut *walk };
    let FanMark { domain, mut slot, .. } = visit.state;
    if slot >= visit.length {
        slot = 0;
    }
    let interface = ROSTER.get(roster_index(domain, slot)).copied().unwrap_or(0);
    let gap = if interface == 0 { 1 } else { gap(visit, known, owners, slot) };
    if gap == 0 {
        if visit.found != 0 {
            return 1;
        }
        visit_member(Skb::from_raw(skb), known, visit, owners, (slot, interface));
    }
    let places = gap.max(1).min(visit.length.wrapping_sub(slot)).min(visit.state.remaining);
    visit.state.slot = slot + places;
    visit.state.remaining -= places;
    (visit.state.remaining == 0) as i64
}

/// How many places from `slot` on, in its word of 64, are passed over: they are known not to listen, or do not have the names.
/// When all are looked at, none is.
#[inline(always)]
fn gap(visit: &Visit, known: *mut Listeners, owners: &[u64; WORDS], slot: u32) -> u32 {
    if visit.state.walk == walk::ALL {
        return 0;
    }
    let word = (listeners::places(known, slot) & places(visit, owners, slot)) >> (slot % 64);
    if word == 0 { 64 - slot % 64 } else { word.trailing_zeros() }
}

/// The word of 64 places with `slot`, of which a bit is set for each that may have the names.
#[inline(always)]
fn places(visit: &Visit, owners: &[u64; WORDS], slot: u32) -> u64 {
    owners[(slot / 64) as usize % WORDS] | (visit.state.matched as u64).wrapping_sub(1)
}

/// Finds out whether the member at `slot`, behind `interface`, hears the datagram, and may have its names. The one that sent it
/// does not get it.
#[inline(always)]
fn visit_member(
    skb: Skb,
    known: *mut Listeners,
    visit: &mut Visit,
    owners: &[u64; WORDS],
    (slot, interface): (u32, u32),
) {
    let from = visit.source.address;
    let Some(member) = lookup(&MEMBERS, interface) else { return };
    if member.address == from || member.lan_address == from {
        return;
    }
    // Combined without a branch: the verifier would follow both ways through all that comes.
    let found = interface * (places(visit, owners, slot) >> (slot % 64) & 1) as u32;
    let heard = heard(skb, visit, &member);
    if let Some(address) = heard {
        (visit.found, visit.address) = (found, address);
    }
    if visit.state.walk == walk::ALL {
        // At that address such a member may hear a neighbour where it does not hear others.
        let may_hear = visit.destination.address == LIMITED_BROADCAST && member.lan_address != NO_ADDRESS;
        listeners::note(known, slot, heard.is_some() || may_hear);
    }
}

/// The address at which the member has a socket for the datagram.
///
/// Of several sockets that are bound to no address only one hears a unicast, so they hear a broadcast instead: each may be
/// another server.
#[inline(always)]
fn heard(skb: Skb, visit: &Visit, member: &Member) -> Option<Address> {
    // A neighbour with a LAN address means the LAN, whichever of its broadcast addresses it asks first.
    let to_lan = visit.destination.address != LIMITED_BROADCAST || visit.sender != 0;
    if member.lan_address != NO_ADDRESS
        && to_lan
        && visit.destination.address != visit.node
        && !is_group(visit.destination.address)
        && bound(skb, visit, visit.broadcast, member).is_some()
    {
        return Some(visit.broadcast);
    }
    let address = match visit.destination.address {
        LIMITED_BROADCAST => LIMITED_BROADCAST,
        node if node == visit.node => member.address,
        group if is_group(group) => group,
        _ => member.broadcast,
    };
    let bound = bound(skb, visit, address, member)?;
    let is_shared = address == member.address && bound == NO_ADDRESS;
    Some(if is_shared { member.broadcast } else { address })
}

/// The address that the member's socket is bound to which hears the datagram at `address`.
#[inline(always)]
fn bound(skb: Skb, visit: &Visit, address: Address, member: &Member) -> Option<Address> {
    let destination = Endpoint { address, ..visit.destination };
    skb.bound_address(&visit.source, &destination, member.netns)
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
    owners::forget(packet.skb.raw(), state.matched as u32);
    if let Some(own) = source_inside(packet.skb, visit, member) {
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
fn source_inside(skb: Skb, visit: &Visit, receiver: &Member) -> Option<Endpoint> {
    if visit.sender == 0 {
        return None;
    }
    let sender = lookup(&MEMBERS, visit.sender)?;
    let on_lan = receiver.lan_address != NO_ADDRESS && visit.destination.address != visit.node;
    if on_lan && bound(skb, visit, visit.broadcast, receiver).is_some() {
        return None;
    }
    let own = Endpoint { address: sender.address, ..visit.source };
    skb.socket(&ANYONE, &own, sender.netns).then_some(own)
}

/// The protocol of datagrams to `port` of the domain's pods.
#[inline(always)]
fn protocol(domain: u16, port: u16) -> u16 {
    let key = RelayKey::of_pods(domain, port);
    lookup(&POD_RELAYS, key).map_or(Protocol::Other as u16, |relay| relay.protocol)
}
