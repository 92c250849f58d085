//! Circuits of PV Access name servers: they name their own port inside the circuit, which must become the external one.
//!
//! Every circuit through an external port is followed from its first byte, message by message (`wire::circuit`), and dropped
//! as soon as it turns out not to be PV Access. Retransmitted segments lie before the current position, so the positions of
//! the last ports are remembered for them. A port split across two segments stays as it is: the client fails to connect
//! there, and asks again.

use core::ffi::c_void;

use abi::{Endpoint, FlowKey, Followed, Protocol, REPLIES, Verdict};
use aya_ebpf::helpers::bpf_loop;
use wire::{circuit::Stream, pva::HEADER};

use crate::{
    count::count,
    maps::STREAMS,
    packet::{Packet, Segment},
};

/// The most messages and single bytes read from one segment: as many as 64 KiB can hold.
const STEPS: u32 = 1 << 16;
/// A circuit before its first byte.
static BEFORE: Followed = Followed { stream: Stream::UNKNOWN, replies: [0; REPLIES], big: 0, count: 0 };

/// A segment from a pod that is being translated, passed through `bpf_loop`.
struct Walk<'a> {
    packet: &'a Packet,
    followed: &'a mut Followed,
    segment: Segment,
    /// Bytes in it.
    length: u32,
    external: u16,
    domain: u16,
}

/// Translates the ports in the search replies of a segment from a pod, whose source is still the pod's own. False if the
/// circuit no longer needs to be followed.
#[inline(always)]
pub fn follow(packet: &Packet, key: &FlowKey, external: &Endpoint, domain: u16) -> bool {
    let Some(segment) = packet.segment() else { return false };
    #[expect(clippy::needless_borrows_for_generic_args, reason = "a copy would be on the stack")]
    let begun = !segment.begins || STREAMS.insert(key, &BEFORE, 0).is_ok();
    if !begun {
        return false;
    }
    let Some(followed) = STREAMS.get_ptr_mut(key) else { return false };
    // SAFETY: the memory stays a `Followed`; if another circuit gets the entry concurrently, one of the two loses its place.
    let followed = unsafe { &mut *followed };
    if segment.begins {
        followed.stream.begin(segment.sequence.wrapping_add(1));
        return true;
    }
    let length = packet.skb.length().saturating_sub(segment.payload);
    let mut walk = Walk { packet, followed, segment, length, external: external.port, domain };
    let again = walk.followed.stream.next.wrapping_sub(walk.segment.sequence).cast_signed() > 0;
    let pointer = (&raw mut walk).cast();
    // SAFETY: the callbacks have the type that bpf_loop calls, and the state outlives both loops.
    unsafe {
        if again {
            bpf_loop(REPLIES as u32, repeat as *mut c_void, pointer, 0);
        }
        bpf_loop(STEPS, step as *mut c_void, pointer, 0);
    }
    if !walk.followed.stream.is_lost() {
        return true;
    }
    let _ = STREAMS.remove(key);
    false
}

/// Reads a header or a byte; returns 1 to stop.
extern "C" fn step(_index: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `walk` is the state passed to bpf_loop, alive during the loop.
    let walk = unsafe { &mut *walk };
    let stream = &mut walk.followed.stream;
    let at = stream.next.wrapping_sub(walk.segment.sequence);
    if stream.is_lost() || at >= walk.length {
        return 1;
    }
    let offset = walk.segment.payload + at;
    if stream.at_header() && walk.length - at >= HEADER {
        let Some(header) = walk.packet.skb.load(offset) else { return 1 };
        stream.take_header(&header);
    } else {
        let Some([byte]) = walk.packet.skb.load(offset) else { return 1 };
        if stream.take(byte) {
            let big = stream.is_big_endian();
            walk.found(at, big);
        }
    }
    0
}

/// Translates a port that was translated before, if it is in this segment.
extern "C" fn repeat(index: u32, walk: *mut Walk) -> i64 {
    // SAFETY: as in `step`.
    let walk = unsafe { &mut *walk };
    let Some(place) = walk.followed.replies.get(index as usize) else { return 1 };
    if index < walk.followed.count {
        let at = place.wrapping_sub(walk.segment.sequence);
        walk.translate(at, walk.followed.big >> index & 1 != 0);
    }
    0
}

impl Walk<'_> {
    /// Translates a port seen for the first time, and remembers its position.
    #[inline(always)]
    fn found(&mut self, at: u32, big: bool) {
        if !self.translate(at, big) {
            return;
        }
        count(self.domain, Protocol::Pva as u16, Verdict::Answered);
        let index = self.followed.count % REPLIES as u32;
        if let Some(place) = self.followed.replies.get_mut(index as usize) {
            *place = self.segment.sequence.wrapping_add(at);
        }
        let bit = 1 << index;
        self.followed.big = if big { self.followed.big | bit } else { self.followed.big & !bit };
        self.followed.count = self.followed.count.wrapping_add(1).max(1);
    }

    /// Replaces the pod's own port at byte `at` of the segment by the external one; false if it is not there.
    #[inline(always)]
    fn translate(&self, at: u32, big: bool) -> bool {
        if at >= self.length || self.length - at < 2 {
            return false;
        }
        let offset = self.segment.payload + at;
        let order = if big { wire::Order::Big } else { wire::Order::Little };
        let own = order.bytes(self.packet.source.port);
        let found = self.packet.skb.load::<2>(offset) == Some(own);
        if found {
            self.packet.replace(offset, own, order.bytes(self.external));
        }
        found
    }
}
