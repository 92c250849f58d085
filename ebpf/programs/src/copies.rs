//! Copies of a packet for several receivers.
//!
//! The kernel copies a packet as it stands and gives no handle on the copy. So the packet itself is made what one receiver
//! is to see after the other, straight from one to the next, and what it was once all have their copies.

use abi::{Endpoint, FanMark, FanState, Verdict};

use crate::{
    format::Content,
    maps::{CONFIG, FAN_COUNT, FAN_STATES, ROSTER_LENGTH},
    packet::{BROADCAST_MAC, Macs, Packet},
    skb::{count_on, random_below},
};

/// Makes `packet` what it was before copies of it were made: its MAC addresses, its source and its destination.
#[inline(always)]
pub fn restore(packet: &mut Packet, content: &Content, macs: Macs, source: Endpoint, destination: Endpoint) {
    packet.set_macs(macs);
    packet.set_source(source);
    packet.set_destination(destination);
    content.set_unicast(packet, true);
}

/// Gives the fan a copy of `packet` for all members of `domain` but the one that sent it, with `port` as the destination
/// port; the packet itself stays as it is.
#[inline(always)]
pub fn enqueue(packet: &mut Packet, content: &Content, domain: u16, port: u16) -> Verdict {
    let (macs, source, destination) = (packet.macs(), packet.source, packet.destination);
    let verdict = to_fan(packet, content, domain, port);
    restore(packet, content, macs, source, destination);
    verdict
}

/// The same, but the packet stays as the copy is.
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
    packet.set_mac_destination(BROADCAST_MAC); // or the fan device would take it for another host's
    let mark = packet.skb.mark();
    packet.skb.set_mark(begin(domain, length).pack());
    let queued = packet.skb.clone_in(config.fan);
    packet.skb.set_mark(mark);
    if queued { Verdict::Relayed } else { Verdict::Overrun }
}

/// Notes that all of the domain's `length` roster places are to be visited. The start is random, so that overload is shared
/// fairly.
#[inline(always)]
fn begin(domain: u16, length: u32) -> FanMark {
    let count = FAN_COUNT.get_ptr_mut(0).map_or(0, count_on);
    let mark = FanMark::new(domain as u32, count as u32);
    let state = FanState { ticket: mark.ticket, remaining: length, slot: random_below(length) };
    let _ = FAN_STATES.set(mark.place(), state, 0); // cannot fail: the place is in the map
    mark
}

/// Sends a copy of `packet` to everybody on the uplink's network, from the uplink's `mac`; the packet stays as the copy is.
#[inline(always)]
pub fn to_lan(packet: &Packet, content: &Content, uplink: u32, mac: [u8; 6]) -> Verdict {
    content.set_unicast(packet, true);
    packet.set_mac_source(mac);
    packet.set_mac_destination(BROADCAST_MAC);
    if packet.skb.clone_out(uplink) { Verdict::Sent } else { Verdict::Overrun }
}
