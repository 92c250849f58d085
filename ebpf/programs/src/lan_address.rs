//! LAN addresses of pods: whose one is, and the way past the node's stack of a domain that has it so.
//!
//! Otherwise the node's stack routes what comes for such an address and what comes from it, untouched.

use abi::{Address, LanAddress, Member, NO_ADDRESS, lan, standing};

use crate::{
    maps::{DOMAINS, LAN_ADDRESSES, MEMBERS, lookup},
    packet::IP,
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

/// `from_lan` for what goes to an address of a pod: into the pod, if both directions pass by the node's stack.
#[inline(always)]
pub fn arrive(skb: Skb, from: Address, to: Address) -> i32 {
    match at(to, skb.interface()) {
        Some(of)
            if is_direct(of.domain) && is_held(&of) && peers::on_lan(from, of.domain) & lan::HOSTS != 0 =>
        {
            skb.redirect_to_peer(of.member)
        }
        _ => NEXT,
    }
}

/// The same for what is neither TCP nor UDP, or a later fragment.
#[inline(always)]
pub fn arrive_other(skb: Skb) -> i32 {
    addresses(skb).map_or(NEXT, |(from, to)| arrive(skb, from, to))
}

/// `from_pod` for what is not translated: out of the uplink, or into a neighbour with an address of the domain, if it is from the pod's LAN
/// address to the LAN and passes by the node's stack. What is for the node, for other pods on it, or too large for the LAN, is
/// the stack's to handle.
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
    if let Some(to) = lookup(&LAN_ADDRESSES, destination).filter(|to| to.domain == domain && is_held(to)) {
        return skb.redirect_to_neighbouring_pod(to.member);
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
