//! Events for `iocast-node snoop`: while it runs, the programs emit each datagram they decide on, with its payload.
//!
//! While it does not, each datagram costs one array lookup.

use core::mem::MaybeUninit;

use abi::{Endpoint, Event, LONG, Member, Point, Protocol, SHORT, Verdict};
use wire::names;

use crate::{
    maps::{EVENTS, EVENTS_LOST, SNOOP},
    packet::{PAYLOAD, Packet},
    skb::{Skb, now},
};

/// What was decided about a datagram.
pub struct Seen {
    /// Where it was seen.
    pub point: Point,
    /// The member that sent or receives it, by the interface index of its host-side veth; 0 if there is none.
    pub member: u32,
    /// Its sender, untranslated.
    pub source: Endpoint,
    /// Its domain.
    pub domain: u16,
    /// Its protocol.
    pub protocol: u16,
    /// What the program did with it.
    pub verdict: Verdict,
}

/// An event with room for `N` bytes of payload, as stored in the ring.
#[repr(C)]
struct Record<const N: usize> {
    event: Event,
    payload: [MaybeUninit<u8>; N],
}

/// Emits `packet` as an event if `snoop` runs. The destination is the packet's, or the pod's that it is translated to.
#[inline(always)]
pub fn emit(packet: &Packet, seen: &Seen) {
    let Some(snoop) = SNOOP.get(0) else { return };
    if snoop.until == 0 || (matches!(seen.point, Point::ToPod) && snoop.deliveries == 0) {
        return;
    }
    let time = now();
    if time >= snoop.until {
        return;
    }
    let length = if packet.fragment { 0 } else { packet.payload.unwrap_or(0) };
    let event = Event {
        time,
        source: seen.source,
        destination: packet.destination,
        member: seen.member,
        length,
        domain: seen.domain,
        protocol: seen.protocol,
        verdict: seen.verdict as u16,
        point: seen.point as u16,
    };
    if length <= SHORT as u32 { write::<SHORT>(packet.skb, event) } else { write::<LONG>(packet.skb, event) }
}

/// Emits a member's unicast datagram that is passed unchanged, if it looks like an answer.
#[inline(always)]
pub fn emit_direct(skb: Skb, member: &Member) {
    if SNOOP.get(0).is_none_or(|snoop| snoop.until == 0) {
        return;
    }
    let Some(packet) = Packet::parse(skb) else { return };
    let start = skb.load::<4>(PAYLOAD).unwrap_or([0xff; 4]);
    let protocol = if names::begins_pva_reply(start) {
        Protocol::Pva
    } else if names::begins_ca_reply(start) {
        Protocol::Ca
    } else {
        return;
    };
    let seen = Seen {
        point: Point::FromPod,
        member: skb.interface(),
        source: packet.source,
        domain: member.domain,
        protocol: protocol as u16,
        verdict: Verdict::Direct,
    };
    emit(&packet, &seen);
}

/// Puts the event and up to `N` bytes of the payload, a power of two, into the ring.
#[inline(always)]
fn write<const N: usize>(skb: Skb, event: Event) {
    let Some(mut entry) = EVENTS.reserve::<Record<N>>(0) else {
        if let Some(lost) = EVENTS_LOST.get_ptr_mut(0) {
            // SAFETY: as in `count`.
            unsafe { *lost += 1 };
        }
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the entry is memory for a record, and exclusively ours until it is submitted.
    unsafe { (&raw mut (*record).event).write(event) };
    if event.length > 0 {
        // SAFETY: as above.
        unsafe { skb.load_some(PAYLOAD, event.length.min(N as u32), &mut (*record).payload) };
    }
    entry.submit(0);
}
