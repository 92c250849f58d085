//! Copies of a packet for several receivers.
//!
//! The kernel copies a packet as it is and returns no handle to the copy. So the packet itself is rewritten for each
//! receiver, and restored before the next: going straight from one to the next and restoring once, after the last, took
//! the verifier of Linux 6.1 past its limit of a million instructions.

use abi::{Endpoint, FanMark, LEAVING, Verdict};

use crate::{
    groups,
    maps::{CONFIG, ROSTER_LENGTH},
    packet::Packet,
    skb::now,
};

/// Puts a copy of `packet` into the fan for all members of `domain` but the one that sent it, with `port` as the destination
/// port; the packet itself stays as it is.
#[inline(always)]
pub fn enqueue(packet: &mut Packet, domain: u16, port: u16) -> Verdict {
    let length = members(domain);
    let Some(config) = CONFIG.get(0).filter(|_| length > 0) else { return Verdict::Relayed };
    let (mark, mac, destination) = (packet.skb.mark(), packet.mac_destination(), packet.destination);
    packet.set_destination(Endpoint { port, ..destination });
    packet.set_mac_destination(groups::mac_of(destination.address)); // otherwise the fan device would treat it as another host's
    packet.skb.set_mark(FanMark::begin(domain as u32, length, now()).pack());
    let queued = packet.skb.clone_in(config.fan);
    packet.skb.set_mark(mark);
    packet.set_mac_destination(mac);
    packet.set_destination(destination);
    if queued { Verdict::Relayed } else { Verdict::Overrun }
}

/// The length of the domain's roster: 0 if it never had a member.
#[inline(always)]
pub fn members(domain: u16) -> u32 {
    ROSTER_LENGTH.get(domain as u32).copied().unwrap_or(0)
}

/// Sends a copy of `packet` to everybody on the uplink's network, or to a group there, `from` and `to` these endpoints and from
/// the uplink's `mac`; the packet itself stays as it is.
#[inline(always)]
pub fn send(packet: &mut Packet, uplink: u32, mac: [u8; 6], (from, to): (Endpoint, Endpoint)) -> Verdict {
    let (source, destination) = (packet.source, packet.destination);
    let (mac_source, mac_destination) = (packet.mac_source(), packet.mac_destination());
    packet.set_source(from);
    packet.set_destination(to);
    packet.set_mac_source(mac);
    packet.set_mac_destination(groups::mac_of(to.address));
    let mark = packet.skb.mark();
    packet.skb.set_mark(LEAVING);
    let sent = packet.skb.clone_out(uplink);
    packet.skb.set_mark(mark);
    packet.set_mac_destination(mac_destination);
    packet.set_mac_source(mac_source); // or a bridge would learn the uplink's at the pod's port
    packet.set_source(source);
    packet.set_destination(destination);
    if sent { Verdict::Sent } else { Verdict::Overrun }
}
