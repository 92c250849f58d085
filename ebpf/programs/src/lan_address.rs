//! LAN addresses of pods: whose one is, and the way past the node's stack of a domain that has it so.
//!
//! Otherwise the node's stack routes what comes for such an address and what comes from it, untouched.

use abi::{Address, LanAddress, Member, NO_ADDRESS, Relay, RelayKey, lan, paths, standing};
use wire::Direction;

use crate::{
    format, limit,
    maps::{DOMAINS, LAN_ADDRESSES, LAN_RELAYS, MEMBERS, lookup},
    packet::{IP, Packet},
    peers,
    skb::{NEXT, Skb},
};

/// Whose `address` is, if it is one of a domain whose uplink is `interface`.
#[inline(always)]
pub fn at(address: Address, interface: u32) -> Option<LanAddress> {
    let found = lookup(&LAN_ADDRESSES, address)?;
    let domain = DOMAINS.get(found.domain as u32)?;
    (domain.uplink == interface).then_some(found)
}

/// Whether its pod is there, and the node answers for it.
#[inline(always)]
pub fn is_held(address: &LanAddress) -> bool {
    (address.standing == standing::HELD || address.standing == standing::TAKEN)
        && lookup(&MEMBERS, address.member).is_some_and(|member| member.generation == address.generation)
}

/// The member, without its LAN address if another host has that: then it has external ports, as pods without one have.
#[inline(always)]
pub fn as_held(member: Member) -> Member {
    let is_lost = member.lan_address != NO_ADDRESS
        && lookup(&LAN_ADDRESSES, member.lan_address).is_none_or(|address| !is_held(&address));
    Member { lan_address: if is_lost { NO_ADDRESS } else { member.lan_address }, ..member }
}

/// `from_lan` for what is to the LAN address of a pod; `None` for anything else.
#[inline(always)]
pub fn arrive(packet: &Packet, interface: u32) -> Option<i32> {
    let to = at(packet.destination.address, interface)?;
    if packet.is_udp() {
        learn(packet, interface);
    }
    Some(pass_in(packet.skb, &to, packet.source.address))
}

/// The same for what is neither TCP nor UDP, and for fragments.
#[inline(always)]
pub fn arrive_other(skb: Skb) -> Option<i32> {
    let (source, destination) = addresses(skb)?;
    let to = at(destination, skb.interface())?;
    Some(pass_in(skb, &to, source))
}

/// Remembers who asks, because a server may answer from the pod's own address.
#[inline(always)]
fn learn(packet: &Packet, interface: u32) {
    let asked = packet.destination.port;
    let Some(Relay { domain, protocol, flags, .. }) = lookup(&LAN_RELAYS, RelayKey::on_lan(interface, asked))
    else {
        return;
    };
    let Ok(content) = format::inspect(packet, protocol, Direction::Announce) else { return };
    let reply_to = content.reply_to(packet.source);
    if content.is_search()
        && flags & paths::ANSWERED != 0
        && peers::on_lan(reply_to.address, domain) & lan::HOSTS != 0
        && limit::admits_host(domain, packet.source.address)
    {
        peers::learn_searcher(reply_to, domain, protocol, asked);
    }
}

/// Into the pod, if both directions pass by the node's stack.
#[inline(always)]
fn pass_in(skb: Skb, to: &LanAddress, from: Address) -> i32 {
    if is_direct(to.domain) && is_held(to) && peers::on_lan(from, to.domain) & lan::HOSTS != 0 {
        skb.redirect_to_peer(to.member)
    } else {
        NEXT
    }
}

/// `from_pod` for what is not translated: out of the uplink, if it is from the pod's LAN address to the LAN and passes by the
/// node's stack. What is for the node, for pods on it, or too large for the LAN, is the stack's to handle.
#[inline(always)]
pub fn depart(skb: Skb) -> i32 {
    let interface = skb.interface();
    let Some(Member { lan_address, domain, .. }) = lookup(&MEMBERS, interface) else { return NEXT };
    if lan_address == NO_ADDRESS || !is_direct(domain) {
        return NEXT;
    }
    let Some((source, destination)) = addresses(skb) else { return NEXT };
    if source != lan_address || peers::on_lan(destination, domain) & lan::HOSTS == 0 {
        return NEXT;
    }
    let uplink = DOMAINS.get(domain as u32).map_or(0, |domain| domain.uplink);
    if uplink != 0 && skb.leads_to(source, destination, interface) == uplink {
        skb.redirect_to_neighbour(uplink)
    } else {
        NEXT
    }
}

/// The member on this node whose LAN address this is, by the interface index of its host-side veth.
#[inline(always)]
pub fn neighbour(address: Address) -> Option<u32> {
    lookup(&LAN_ADDRESSES, address).filter(is_held).map(|found| found.member)
}

/// Whether packets of the domain's LAN addresses pass by the node's stack.
#[inline(always)]
pub fn is_direct(domain: u16) -> bool {
    DOMAINS.get(domain as u32).is_some_and(|domain| domain.direct != 0)
}

/// Source and destination of an IPv4 packet.
#[inline(always)]
fn addresses(skb: Skb) -> Option<(Address, Address)> {
    if !skb.is_untagged_ipv4() {
        return None;
    }
    let [s0, s1, s2, s3, destination @ ..] = skb.load::<8>(IP + 12)?;
    Some(([s0, s1, s2, s3], destination))
}
