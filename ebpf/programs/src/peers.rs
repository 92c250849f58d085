//! Who is who: which member sent a datagram, which address means everybody, who is on the LAN, and who searched there.

use abi::{
    Address, Endpoint, LIMITED_BROADCAST, Member, SEARCHER_AGE_NS, Searcher, SearcherKey, Uplink, network,
};
use aya_ebpf::maps::lpm_trie::Key;

use crate::{
    maps::{LAN, MEMBERS, SEARCHERS, lookup},
    packet::Packet,
    skb::{Skb, now},
};

/// A datagram of a member, the member, and the interface index of its host-side veth; `None` for all else. TCP is translated
/// at the uplink only.
#[inline(always)]
pub fn datagram(skb: Skb) -> Option<(Packet, Member, u32)> {
    let packet = Packet::parse(skb)?;
    if !packet.is_udp() {
        return None;
    }
    let interface = skb.interface();
    Some((packet, lookup(&MEMBERS, interface)?, interface))
}

/// Whether `address` means everybody on the member's network.
#[inline(always)]
pub fn is_broadcast_of_pod(address: Address, member: &Member) -> bool {
    address == member.broadcast || address == LIMITED_BROADCAST
}

/// Whether `address` means every host on the uplink's network.
#[inline(always)]
pub fn is_broadcast_of_lan(address: Address, uplink: &Uplink) -> bool {
    address == uplink.broadcast || address == LIMITED_BROADCAST
}

/// What `address` is for the domain, flags from [`abi::lan`]. What is not on its LAN, such as a pod on another node, keeps
/// its peers' true addresses.
#[inline(always)]
pub fn on_lan(address: Address, domain: u16) -> u32 {
    let (bits, key) = network(domain, address, 32);
    LAN.get(Key::new(bits, key)).copied().unwrap_or(0)
}

/// The protocol in which a LAN socket searched a short while ago.
#[inline(always)]
pub fn searcher(address: Address, port: u16, domain: u16) -> Option<u16> {
    let searcher = lookup(&SEARCHERS, SearcherKey { address, port, domain })?;
    (searcher.seen.saturating_add(SEARCHER_AGE_NS) > now()).then_some(searcher.protocol as u16)
}

/// Remembers where a search is to be answered to, so that such answers are translated.
#[inline(always)]
pub fn learn_searcher(reply_to: Endpoint, domain: u16, protocol: u16) {
    remember_searcher(reply_to, domain, protocol, now());
}

/// Remembers a LAN socket to which a stream was directed: a stream may rest for as long as it likes.
#[inline(always)]
pub fn learn_receiver(receiver: Endpoint, domain: u16, protocol: u16) {
    remember_searcher(receiver, domain, protocol, u64::MAX);
}

#[inline(always)]
fn remember_searcher(Endpoint { address, port, .. }: Endpoint, domain: u16, protocol: u16, seen: u64) {
    let searcher = Searcher { seen, protocol: protocol as u64 };
    let _ = SEARCHERS.insert(SearcherKey { address, port, domain }, searcher, 0);
}
