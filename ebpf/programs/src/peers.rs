//! Peers: which member sent a datagram, which addresses are broadcasts, who is on the LAN, and who searched there.

use abi::{
    Address, Endpoint, LIMITED_BROADCAST, Member, SEARCHER_AGE_NS, Searcher, SearcherKey, Uplink, network,
};
use aya_ebpf::maps::lpm_trie::Key;

use crate::{
    maps::{LAN, MEMBERS, SEARCHERS, lookup},
    packet::Packet,
    skb::{Skb, now},
};

/// A member's datagram, the member, and the interface index of its host-side veth; `None` for anything else. TCP is only
/// translated at the uplink.
#[inline(always)]
pub fn datagram(skb: Skb) -> Option<(Packet, Member, u32)> {
    let packet = Packet::parse(skb)?;
    if !packet.is_udp() {
        return None;
    }
    let interface = skb.interface();
    Some((packet, lookup(&MEMBERS, interface)?, interface))
}

/// Whether `address` is a broadcast address in the member's network.
#[inline(always)]
pub fn is_broadcast_of_pod(address: Address, member: &Member) -> bool {
    address == member.broadcast || address == LIMITED_BROADCAST
}

/// Whether `address` is a broadcast address in the uplink's network.
#[inline(always)]
pub fn is_broadcast_of_lan(address: Address, uplink: &Uplink) -> bool {
    address == uplink.broadcast || address == LIMITED_BROADCAST
}

/// What `address` is to the domain, flags from [`abi::lan`]. Peers that are not on its LAN, such as a pod on another node,
/// are not translated.
#[inline(always)]
pub fn on_lan(address: Address, domain: u16) -> u32 {
    let (bits, key) = network(domain, address, 32);
    LAN.get(Key::new(bits, key)).copied().unwrap_or(0)
}

/// The protocol in which a LAN socket searched recently.
#[inline(always)]
pub fn searcher(address: Address, port: u16, domain: u16) -> Option<u16> {
    let searcher = lookup(&SEARCHERS, SearcherKey { address, port, domain })?;
    (searcher.seen.saturating_add(SEARCHER_AGE_NS) > now()).then_some(searcher.protocol as u16)
}

/// Remembers where a search expects its answers, so that these are translated.
#[inline(always)]
pub fn learn_searcher(reply_to: Endpoint, domain: u16, protocol: u16) {
    remember_searcher(reply_to, domain, protocol, now());
}

/// Remembers a LAN socket that a stream is sent to. It does not expire: a stream may pause for any time.
#[inline(always)]
pub fn learn_receiver(receiver: Endpoint, domain: u16, protocol: u16) {
    remember_searcher(receiver, domain, protocol, u64::MAX);
}

#[inline(always)]
fn remember_searcher(Endpoint { address, port, .. }: Endpoint, domain: u16, protocol: u16, seen: u64) {
    let searcher = Searcher { seen, protocol: protocol as u64 };
    let _ = SEARCHERS.insert(SearcherKey { address, port, domain }, searcher, 0);
}
