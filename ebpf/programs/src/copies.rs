//! Copies of a packet for several receivers.
//!
//! The kernel copies a packet as it is and returns no handle to the copy. So the packet itself is rewritten for one receiver
//! after another, directly from one to the next, and restored once all have their copies.

use abi::{Endpoint, FanMark, Verdict};

use crate::{
    format::Content,
    maps::{CONFIG, ROSTER_LENGTH},
    packet::{BROADCAST_MAC, Macs, Packet},
    skb::random_below,
};

/// Puts a copy of `packet` into the fan for all members of `domain` but the one that sent it, with `port` as the destination
/// port; the packet itself stays as it is.
#[inline(always)]
pub fn enqueue(packet: &mut Packet, content: &Content, domain: u16, port: u16) -> Verdict {
    if members(domain) == 0 {
        return Verdict::Relayed;
    }
    let (macs, source, destination) = (packet.macs(), packet.source, packet.destination);
    let verdict = to_fan(packet, content, domain, port);
    restore(packet, content, macs, source, destination);
    verdict
}

/// The same, but leaves `packet` rewritten like the copy.
#[inline(always)]
pub fn to_fan(packet: &mut Packet, content: &Content, domain: u16, port: u16) -> Verdict {
    let length = members(domain);
    let Some(config) = CONFIG.get(0).filter(|_| length > 0) else { return Verdict::Relayed };
    content.set_unicast(packet, false);
    packet.set_destination(Endpoint { port, ..packet.destination });
    packet.set_mac_destination(BROADCAST_MAC); // otherwise the fan device would treat it as another host's
    let mark = packet.skb.mark();
    let state = FanMark { domain: domain as u32, remaining: length, slot: random_below(length) };
    packet.skb.set_mark(state.pack());
    let queued = packet.skb.clone_in(config.fan);
    packet.skb.set_mark(mark);
    if queued { Verdict::Relayed } else { Verdict::Overrun }
}

/// The length of the domain's roster: 0 if it never had a member.
#[inline(always)]
fn members(domain: u16) -> u32 {
    ROSTER_LENGTH.get(domain as u32).copied().unwrap_or(0)
}

/// Sends a copy of `packet` to everybody on the uplink's network, from the uplink's `mac`; the packet stays as the copy is.
#[inline(always)]
pub fn to_lan(packet: &Packet, content: &Content, uplink: u32, mac: [u8; 6]) -> Verdict {
    content.set_unicast(packet, true);
    packet.set_mac_source(mac);
    packet.set_mac_destination(BROADCAST_MAC);
    if packet.skb.clone_out(uplink) { Verdict::Sent } else { Verdict::Overrun }
}

/// Makes `packet` what it was before the copies: its MAC addresses, source, destination, and the flag "sent to one server".
#[inline(always)]
pub fn restore(packet: &mut Packet, content: &Content, macs: Macs, source: Endpoint, destination: Endpoint) {
    packet.set_macs(macs);
    packet.set_source(source);
    packet.set_destination(destination);
    content.set_unicast(packet, true);
}
