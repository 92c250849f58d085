//! PV Access name servers: they name their own port inside the circuit, which must become the external one.
//!
//! Every circuit is followed from its first byte, message by message (`wire::circuit`), and dropped at once if that is not
//! PV Access. Where bytes are missing, or message boundaries are lost, it is followed on from the next segment that begins
//! like a message. Retransmitted segments lie before the current position, so the positions of the last ports are remembered
//! for them. A port split across two segments stays as it is: the client fails to connect there, and asks again.

use core::ffi::c_void;

use abi::{Circuit, FlowKey, Followed, Protocol, REPLIES, Verdict};
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
    /// Sequence number of its first byte.
    sequence: u32,
    /// Offset of that byte from the Ethernet header.
    payload: u32,
    /// Bytes in it.
    length: u32,
    external: u16,
    domain: u16,
}

/// Translates the ports in the search replies of a segment from a pod, whose source is still the pod's own. False if the
/// circuit does not need to be followed.
#[inline(always)]
pub fn follow(packet: &Packet, segment: &Segment, key: &FlowKey, circuit: &Circuit) -> bool {
    let length = packet.skb.length().saturating_sub(segment.payload);
    if length == 0 || segment.begins() {
        return true;
    }
    let (sequence, payload) = (segment.sequence, segment.payload);
    let Some(followed) = followed(key, sequence == circuit.first, sequence) else { return true };
    let Circuit { external, domain, .. } = *circuit;
    let mut walk = Walk { packet, followed, sequence, payload, length, external: external.port, domain };
    let behind = walk.followed.stream.next.wrapping_sub(sequence).cast_signed();
    let pointer: *mut Walk = &raw mut walk;
    // SAFETY: the callbacks have the type that bpf_loop calls, and the state outlives both loops.
    unsafe {
        if behind > 0 {
            bpf_loop(REPLIES as u32, repeat as *mut c_void, pointer.cast(), 0);
        }
        if behind >= 0 && !(*pointer).followed.stream.is_lost() || (*pointer).resume() {
            bpf_loop(STEPS, step as *mut c_void, pointer.cast(), 0);
        }
    }
    !walk.followed.stream.is_lost() || sequence != circuit.first
}

/// How far a circuit is followed. If that is not known, it is followed from its first byte, or else from where a message
/// begins.
#[inline(always)]
fn followed(key: &FlowKey, begins: bool, first: u32) -> Option<&'static mut Followed> {
    if let Some(known) = STREAMS.get_ptr_mut(key) {
        // SAFETY: the memory stays a `Followed`; if another circuit gets the entry concurrently, one of the two loses its
        // place, and is followed on from its next message.
        return Some(unsafe { &mut *known });
    }
    STREAMS.insert(key, &BEFORE, 0).ok()?;
    // SAFETY: as above.
    let new = unsafe { &mut *STREAMS.get_ptr_mut(key)? };
    if begins {
        new.stream.begin(first);
    }
    Some(new)
}

/// Reads a header or a byte; returns 1 to stop.
extern "C" fn step(_index: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `walk` is the state passed to bpf_loop, alive during the loop.
    let walk = unsafe { &mut *walk };
    let stream = &mut walk.followed.stream;
    let at = stream.next.wrapping_sub(walk.sequence);
    if stream.is_lost() || at >= walk.length {
        return 1;
    }
    let offset = walk.payload + at;
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
        let at = place.wrapping_sub(walk.sequence);
        walk.translate(at, walk.followed.big >> index & 1 != 0);
    }
    0
}

impl Walk<'_> {
    /// Follows on from the beginning of this segment, if it looks like a message; false if not.
    #[inline(always)]
    fn resume(&mut self) -> bool {
        let Some(header) = self.packet.skb.load(self.payload) else { return false };
        self.followed.stream.resume(self.sequence, &header)
    }

    /// Translates a port seen for the first time, and remembers its position.
    #[inline(always)]
    fn found(&mut self, at: u32, big: bool) {
        if !self.translate(at, big) {
            return;
        }
        count(self.domain, Protocol::Pva as u16, Verdict::Answered);
        let index = self.followed.count % REPLIES as u32;
        if let Some(place) = self.followed.replies.get_mut(index as usize) {
            *place = self.sequence.wrapping_add(at);
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
        let offset = self.payload + at;
        let order = if big { wire::Order::Big } else { wire::Order::Little };
        let own = order.bytes(self.packet.source.port);
        let found = self.packet.skb.load::<2>(offset) == Some(own);
        if found {
            self.packet.replace(offset, own, order.bytes(self.external));
        }
        found
    }
}
