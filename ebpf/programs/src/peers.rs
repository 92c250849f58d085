//! Peers: which addresses are broadcasts, who is on the LAN, and who searched there.

use abi::{
    Address, Claim, Endpoint, FlowKey, LIMITED_BROADCAST, Member, Protocol, SEARCHER_AGE_NS, Searcher,
    SearcherKey, UDP, Uplink, network,
};
use aya_ebpf::maps::lpm_trie::Key;

use crate::{
    count::count_answer,
    maps::{DOMAINS, LAN, MEMBERS, RECEIVERS, SEARCHERS, SENDERS, UPLINKS, lookup},
    packet::Packet,
    skb::now,
};

/// Whether `address` is a broadcast address in the member's network.
#[inline(always)]
pub fn is_broadcast_of_pod(address: Address, member: &Member) -> bool {
    address == member.broadcast || address == LIMITED_BROADCAST
}

/// Whether `address` is the broadcast address of the domain's LAN, which pods know from address lists.
#[inline(always)]
pub fn is_broadcast_of_domain(address: Address, domain: u16) -> bool {
    uplink(domain).is_some_and(|uplink| uplink.broadcast == address)
}

/// The domain's uplink, if it has one at the moment.
#[inline(always)]
pub fn uplink(domain: u16) -> Option<Uplink> {
    lookup(&UPLINKS, DOMAINS.get(domain as u32)?.uplink)
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

/// The protocol of what a member sends to a LAN socket that searched recently, and the port that this one asked; the latter is
/// 0 for one that receives its stream.
#[inline(always)]
pub fn searcher(address: Address, port: u16, domain: u16, interface: u32) -> Option<(u16, u16)> {
    if let Some(searched) = searched(address, port, domain) {
        return Some(searched);
    }
    let key = SearcherKey { address, port, domain };
    (lookup(&RECEIVERS, key) == Some(interface)).then_some((Protocol::Gvsp as u16, 0))
}

/// The protocol in which a LAN socket searched recently, and the port that it asked.
#[inline(always)]
pub fn searched(address: Address, port: u16, domain: u16) -> Option<(u16, u16)> {
    let searcher = recent(SearcherKey { address, port, domain })?;
    Some((searcher.protocol as u16, searcher.asked))
}

#[inline(always)]
fn recent(key: SearcherKey) -> Option<Searcher> {
    lookup(&SEARCHERS, key).filter(|searcher| searcher.seen.saturating_add(SEARCHER_AGE_NS) > now())
}

/// Remembers from which endpoint of a member a LAN socket was answered last, and counts how long that took.
#[inline(always)]
pub fn learn_answer(to: Endpoint, domain: u16, interface: u32, from: u16) {
    if let Some(searcher) = SEARCHERS.get_ptr_mut(key(to, domain)) {
        // SAFETY: the memory stays a searcher; if the entry is removed concurrently, the write is lost with it.
        let (protocol, seen) = unsafe {
            ((*searcher).member, (*searcher).port) = (interface, from);
            ((*searcher).protocol, (*searcher).seen)
        };
        count_answer(domain, protocol, now().saturating_sub(seen));
    }
}

/// The member that answered a LAN socket last, by interface index, and its endpoint, if the socket asked this port.
#[inline(always)]
pub fn answerer(to: Endpoint, domain: u16, asked: u16) -> Option<(u32, Endpoint)> {
    let searcher = recent(key(to, domain)).filter(|searcher| searcher.asked == asked)?;
    let Member { address, .. } = lookup(&MEMBERS, searcher.member)?;
    Some((searcher.member, Endpoint { address, port: searcher.port, protocol: UDP as u16 }))
}

/// Remembers where a search to port `asked` expects its answers, so that these are translated.
#[inline(always)]
pub fn learn_searcher(reply_to: Endpoint, domain: u16, protocol: u16, asked: u16) {
    let searcher =
        Searcher { seen: now(), member: 0, port: 0, asked, protocol: protocol as u32, reserved: 0 };
    let key = key(reply_to, domain);
    match SEARCHERS.get_ptr_mut(key) {
        // SAFETY: as in `learn_answer`. To put in a new one takes several times as long.
        Some(known) => unsafe { known.write(searcher) },
        None => _ = SEARCHERS.insert(key, searcher, 0),
    }
}

/// Remembers a LAN socket that a member streams to, apart from searchers, of which strangers can send many. It does not
/// expire: a stream may pause for any time.
#[inline(always)]
pub fn learn_receiver(receiver: Endpoint, domain: u16, interface: u32) {
    let _ = RECEIVERS.insert(key(receiver, domain), interface, 0);
}

/// Remembers through which external port a datagram comes to a pod: errors about those that came to its own address stay.
#[inline(always)]
pub fn learn_sender(packet: &Packet, claim: &Claim) {
    let key = FlowKey::between(&packet.source, &claim.pod);
    if lookup(&SENDERS, key) != Some(packet.destination) {
        let _ = SENDERS.insert(key, packet.destination, 0);
    }
}

#[inline(always)]
const fn key(Endpoint { address, port, .. }: Endpoint, domain: u16) -> SearcherKey {
    SearcherKey { address, port, domain }
}
