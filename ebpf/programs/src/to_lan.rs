//! tc egress of an uplink: traffic to the LAN.
//!
//! Segments of flows that were opened through an external port get that port as source again, and so do the ports that PV
//! Access name servers name in them. Searches and beacons that processes on the node broadcast are relayed to the members,
//! so that a client on the node finds pods.

use abi::{LEAVING, Point, Relay, RelayKey, Verdict, is_group, paths};
use wire::Direction;

use crate::{
    circuits, copies,
    count::{count, count_other},
    event::{Seen, emit},
    format, groups, icmp,
    maps::{LAN_RELAYS, RELAYED_PORTS, UPLINKS, has_port, is_taking_over, lookup},
    packet::Packet,
    peers,
    skb::{DROP, NEXT, Skb},
};

#[inline(always)]
pub fn run(skb: Skb) -> i32 {
    if skb.mark() == LEAVING {
        skb.set_mark(0);
        return NEXT;
    }
    let Some(mut packet) = Packet::parse(skb) else { return icmp::depart(skb) };
    let to = packet.destination;
    if packet.is_udp() && !has_port(&RELAYED_PORTS, to.port) {
        return NEXT;
    }
    let interface = skb.interface();
    let Some(uplink) = lookup(&UPLINKS, interface) else { return NEXT };
    let of_the_node = packet.source.address == uplink.address;
    match (packet.is_udp(), of_the_node) {
        (false, false) => return restore_external(&mut packet),
        (true, true) if is_group(to.address) || peers::is_broadcast_of_lan(to.address, &uplink) => {
            relay_to_pods(&mut packet, interface);
        }
        _ => {}
    }
    NEXT
}

/// Gives a segment from a pod the external source that its peer knows.
#[inline(always)]
fn restore_external(packet: &mut Packet) -> i32 {
    let Some((external, domain)) = circuits::depart(packet) else {
        let opens = packet.segment().is_some_and(|segment| segment.opens());
        return if !opens && is_taking_over() { DROP } else { NEXT }; // its peer would reset it under the pod's address
    };
    packet.set_source(external);
    count_other(domain, Verdict::TranslatedOut);
    NEXT
}

/// Relays a broadcast from the node's address to the members.
#[inline(always)]
fn relay_to_pods(packet: &mut Packet, interface: u32) {
    let to = packet.destination;
    let Some(relay) = lookup(&LAN_RELAYS, RelayKey::on_lan(interface, to.port)) else { return };
    let Relay { domain, protocol, flags, port } = relay;
    if groups::foreign_on_lan(interface, &to) || flags & paths::LAN_TO_PODS == 0 {
        return;
    }
    let verdict = match format::inspect(packet, protocol, Direction::Announce) {
        Ok(_) => copies::enqueue(packet, domain, port),
        Err(fault) => fault,
    };
    count(domain, protocol, verdict);
    let seen = Seen { point: Point::FromNode, member: 0, source: packet.source, domain, protocol, verdict };
    emit(packet, &seen);
}
