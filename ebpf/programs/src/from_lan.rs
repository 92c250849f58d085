//! tc ingress of an uplink: what the LAN sends.
//!
//! A search, broadcast or to the uplink's address, goes to the members that listen and on to the node's own sockets.
//! A packet to an external port becomes one to the pod it stands for, and goes on through the node's stack, where
//! conntrack, FORWARD rules and NetworkPolicy see client and pod.

use abi::{
    Endpoint, FlowKey, LIMITED_BROADCAST, Relay, RelayKey, Searcher, SearcherKey, Uplink, Verdict, relay,
};

use crate::{
    ca,
    count::{count, count_other},
    fan,
    maps::{EXTERNALS, FLOWS, LAN_RELAYS, POD_RELAYS, SEARCHERS, UPLINKS},
    packet::Packet,
    skb::{DROP, NEXT, OWN_NETNS, Skb, now},
};

#[inline(always)]
pub fn run(skb: Skb) -> i32 {
    let Some(mut packet) = Packet::parse(skb) else { return NEXT };
    let interface = skb.interface();
    // SAFETY: not preallocated, so the entry lives as long as this run may read it.
    let Some(uplink) = (unsafe { UPLINKS.get(interface) }) else { return NEXT };
    let to = packet.destination;
    if to.address == uplink.address && (uplink.first_port..=uplink.last_port).contains(&to.port) {
        return to_external_port(&mut packet, uplink);
    }
    if !packet.is_udp() {
        return NEXT;
    }
    let broadcast = is_broadcast(to.address, uplink);
    // SAFETY: copied at once.
    match unsafe { LAN_RELAYS.get(RelayKey { scope: interface, port: to.port, reserved: 0 }) }.copied() {
        Some(relay) if relay.flags & relay::LAN_TO_PODS != 0 => {
            search(&mut packet, uplink, &relay, broadcast)
        }
        _ => {
            if broadcast {
                count_other(uplink.domain, Verdict::Unrelayed);
            }
            NEXT
        }
    }
}

/// Whether `address` means every host on the uplink's network.
#[inline(always)]
pub fn is_broadcast(address: [u8; 4], uplink: &Uplink) -> bool {
    address == LIMITED_BROADCAST || address == uplink.broadcast
}

/// A datagram to a relayed port: to all members that listen, and on to the node's own sockets.
#[inline(always)]
fn search(packet: &mut Packet, uplink: &Uplink, relay: &Relay, broadcast: bool) -> i32 {
    if let Some(fault) = fault(packet, uplink, broadcast) {
        count(relay.domain, relay.protocol, fault);
        return NEXT;
    }
    if relay.flags & relay::ANSWERED != 0 {
        learn_searcher(packet.source, relay);
    }
    count(relay.domain, relay.protocol, fan::hand_over(packet, relay.domain, relay.port));
    // An address list names the node: where no socket of its own listens, the node would answer "port unreachable".
    if broadcast || packet.skb.socket(&packet.source, &packet.destination, OWN_NETNS) { NEXT } else { DROP }
}

/// Why a datagram to a relayed port is not relayed.
#[inline(always)]
fn fault(packet: &Packet, uplink: &Uplink, broadcast: bool) -> Option<Verdict> {
    if !broadcast && packet.destination.address != uplink.address {
        Some(Verdict::Elsewhere)
    } else if packet.fragment {
        Some(Verdict::Fragment)
    } else if !ca::is_search(packet) {
        Some(Verdict::Malformed)
    } else {
        None
    }
}

/// Remembers who asked, so that answers to it are translated.
#[inline(always)]
fn learn_searcher(Endpoint { address, port, .. }: Endpoint, relay: &Relay) {
    let key = SearcherKey { address, port, domain: relay.domain };
    let _ = SEARCHERS.insert(key, Searcher { seen: now(), protocol: relay.protocol as u64 }, 0);
}

/// A packet to an external port: translates it to the pod it stands for.
#[inline(always)]
fn to_external_port(packet: &mut Packet, uplink: &Uplink) -> i32 {
    let external = packet.destination;
    // SAFETY: copied at once.
    let Some(claim) = (unsafe { EXTERNALS.get(external) }).copied() else {
        count_other(uplink.domain, Verdict::Unowned);
        return NEXT;
    };
    let domain = claim.domain as u16;
    if packet.fragment {
        count_other(domain, Verdict::Fragment);
        return NEXT;
    }
    if packet.is_udp() {
        learn_unicast_searcher(packet.source, &claim.pod, domain);
    } else {
        remember_flow(packet.source, claim.pod, external);
    }
    packet.set_destination(claim.pod);
    count_other(domain, Verdict::TranslatedIn);
    NEXT
}

/// A search may be sent to one pod by its external port: whoever does that wants its answer translated, too.
#[inline(always)]
fn learn_unicast_searcher(source: Endpoint, pod: &Endpoint, domain: u16) {
    let key = RelayKey { scope: domain as u32, port: pod.port, reserved: 0 };
    // SAFETY: copied at once.
    match unsafe { POD_RELAYS.get(key) }.copied() {
        Some(relay) if relay.flags & relay::ANSWERED != 0 => learn_searcher(source, &relay),
        _ => {}
    }
}

/// Remembers a TCP flow, so that its answers are translated back at the uplink; flows to the pod's own address are not
/// in the table and stay as they are. Looking the flow up keeps it from being forgotten.
#[inline(always)]
fn remember_flow(peer: Endpoint, pod: Endpoint, external: Endpoint) {
    let key = FlowKey { peer: peer.address, pod: pod.address, peer_port: peer.port, pod_port: pod.port };
    // SAFETY: compared at once.
    if unsafe { FLOWS.get(key) } != Some(&external) {
        let _ = FLOWS.insert(key, external, 0);
    }
}
