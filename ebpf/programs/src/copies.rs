//! Copies of a packet for several receivers.
//!
//! The kernel copies a packet as it is and returns no handle to the copy. So the packet itself is rewritten for one receiver
//! after another, directly from one to the next, and restored once all have their copies.

use abi::{Endpoint, FanMark, FanState, Verdict};

use crate::{
    format::Content,
    maps::{CONFIG, FAN_COUNT, FAN_STATES, ROSTER_LENGTH},
    packet::{BROADCAST_MAC, Macs, Packet},
    skb::{count_on, random_below},
};

/// Restores `packet` after copies were made: its MAC addresses, source and destination.
#[inline(always)]
pub fn restore(packet: &mut Packet, content: &Content, macs: Macs, source: Endpoint, destination: Endpoint) {
    packet.set_macs(macs);
    packet.set_source(source);
    packet.set_destination(destination);
    content.set_unicast(packet, true);
}

/// Gives the fan a copy of `packet` for all members of `domain` except its sender, with `port` as the destination port;
/// `packet` itself is left unchanged.
#[inline(always)]
pub fn enqueue(packet: &mut Packet, content: &Content, domain: u16, port: u16) -> Verdict {
    let (macs, source, destination) = (packet.macs(), packet.source, packet.destination);
    let verdict = to_fan(packet, content, domain, port);
    restore(packet, content, macs, source, destination);
    verdict
}

/// The same, but leaves `packet` rewritten like the copy.
#[inline(always)]
pub fn to_fan(packet: &mut Packet, content: &Content, domain: u16, port: u16) -> Verdict {
    let (Some(config), Some(&length)) = (CONFIG.get(0), ROSTER_LENGTH.get(domain as u32)) else {
        return Verdict::Relayed;
    };
    if length == 0 {
        return Verdict::Relayed;
    }
    content.set_unicast(packet, false);
    packet.set_destination(Endpoint { port, ..packet.destination });
    packet.set_mac_destination(BROADCAST_MAC); // otherwise the fan device would treat it as another host's
    let mark = packet.skb.mark();
    packet.skb.set_mark(begin(domain, length).pack());
    let queued = packet.skb.clone_in(config.fan);
    packet.skb.set_mark(mark);
    if queued { Verdict::Relayed } else { Verdict::Overrun }
}

/// Starts a visit of all `length` roster slots of the domain. The first one is random, so that overload is shared fairly.
#[inline(always)]
fn begin(domain: u16, length: u32) -> FanMark {
    let count = FAN_COUNT.get_ptr_mut(0).map_or(0, count_on);
    let mark = FanMark::new(domain as u32, count as u32);
    let state = FanState { ticket: mark.ticket, remaining: length, slot: random_below(length) };
    let _ = FAN_STATES.set(mark.place(), state, 0); // cannot fail: the index is within the map
    mark
}

/// Broadcasts a copy of `packet` on the uplink's network, from the uplink's `mac`; leaves `packet` rewritten like the copy.
#[inline(always)]
pub fn to_lan(packet: &Packet, content: &Content, uplink: u32, mac: [u8; 6]) -> Verdict {
    content.set_unicast(packet, true);
    packet.set_mac_source(mac);
    packet.set_mac_destination(BROADCAST_MAC);
    if packet.skb.clone_out(uplink) { Verdict::Sent } else { Verdict::Overrun }
}
