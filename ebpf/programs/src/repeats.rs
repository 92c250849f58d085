//! Broadcasts that a pod sends twice: one with a LAN address has two broadcast addresses, and clients search at both.
//!
//! The first one is relayed, whichever it is: a program may use only one of them, and not the one that others use.

use abi::{Broadcast, BroadcasterKey, REPETITION_NS};

use crate::{
    maps::{BROADCASTS, lookup},
    packet::{PAYLOAD, Packet},
    skb::now,
};

/// Whether the same socket has just sent the same datagram to another broadcast address; remembers it otherwise.
#[inline(always)]
pub fn is_repeated(packet: &Packet, member: u32) -> bool {
    let key = BroadcasterKey { member, source: packet.source.port, destination: packet.destination.port };
    let Some(length) = packet.payload.filter(|_| !packet.fragment) else { return false };
    let this = Broadcast {
        seen: now(),
        to: packet.destination.address,
        length,
        head: packet.skb.load(PAYLOAD).unwrap_or([0; 32]),
        tail: packet.skb.load(PAYLOAD + length.saturating_sub(16)).unwrap_or([0; 16]),
    };
    let repeated = lookup(&BROADCASTS, key).is_some_and(|last| repeats(&this, &last));
    if !repeated {
        let _ = BROADCASTS.insert(key, this, 0);
    }
    repeated
}

#[inline(always)]
fn repeats(this: &Broadcast, last: &Broadcast) -> bool {
    this.to != last.to
        && this.length == last.length
        && this.head == last.head
        && this.tail == last.tail
        && this.seen.saturating_sub(last.seen) < REPETITION_NS
}
