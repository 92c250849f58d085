//! LAN addresses of pods: whose one is, and the way past the node's stack of a domain that has it so.
//!
//! Otherwise the node's stack routes what comes for such an address and what comes from it, untouched.

use abi::{Address, LanAddress, Member, NO_ADDRESS, Verdict, lan};

use crate::{
    count::count_other,
    maps::{DOMAINS, LAN_ADDRESSES, MEMBERS, lookup},
    packet::{IP_DESTINATION, IP_SOURCE, L4},
    peers,
    skb::{DROP, NEXT, Skb},
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
    address.is_answered() && is_current(address)
}

/// Whether its pod is there.
#[inline(always)]
fn is_current(address: &LanAddress) -> bool {
    lookup(&MEMBERS, address.member).is_some_and(|member| member.generation == address.generation)
}

/// Whether `address` is the LAN address of another pod than the one behind `interface`.
#[inline(always)]
pub fn is_of_another(address: Address, interface: u32) -> bool {
    lookup(&LAN_ADDRESSES, address).is_some_and(|of| of.member != interface && is_held(&of))
}

/// The member behind `interface`, without its LAN address if another host has that: then it has external ports, as pods without
/// one have.
#[inline(always)]
pub fn as_held(member: Member, interface: u32) -> Member {
    let is_held = |of: LanAddress| of.is_answered() && of.is_of(interface, member.generation);
    let is_lost =
        member.lan_address != NO_ADDRESS && !lookup(&LAN_ADDRESSES, member.lan_address).is_some_and(is_held);
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

/// `from_pod` for what is not translated, from an address of a pod on the LAN: out of the uplink, or into a neighbour with such
/// an address, if it goes to the LAN and passes by the node's stack. What is for the node, or too large for the LAN, is the
/// stack's to handle. Nobody has another pod's address as a source, nor one that another host has.
#[inline(always)]
pub fn depart(skb: Skb, source: Address, destination: Address) -> i32 {
    let Some(of) = lookup(&LAN_ADDRESSES, source).filter(is_current) else { return NEXT };
    let is_own = of.member == skb.interface();
    if is_own && of.is_answered() {
        return depart_held(skb, of.domain, source, destination);
    }
    if is_own && peers::on_lan(destination, of.domain) & lan::HOSTS == 0 {
        return NEXT;
    }
    count_other(of.domain, Verdict::Spoofed);
    DROP
}

/// The same for what is known to be from the address that the pod behind this interface holds.
#[inline(always)]
pub fn depart_held(skb: Skb, domain: u16, source: Address, destination: Address) -> i32 {
    let uplink = DOMAINS.get(domain as u32).filter(|domain| domain.direct != 0).map(|domain| domain.uplink);
    let Some(uplink) = uplink.filter(|_| peers::on_lan(destination, domain) & lan::HOSTS != 0) else {
        return NEXT;
    };
    if let Some(pod) = neighbour(destination, domain) {
        return skb.redirect_to_neighbouring_pod(pod);
    }
    match skb.next_hop(source, destination) {
        Some(hop) if hop.interface == uplink => skb.redirect_to(&hop),
        _ => NEXT,
    }
}

/// The same for what is neither TCP nor UDP, or a later fragment.
#[inline(always)]
pub fn depart_other(skb: Skb) -> i32 {
    addresses(skb).map_or(NEXT, |(source, destination)| depart(skb, source, destination))
}

/// The member of the domain on this node whose LAN address this is, by the interface index of its host-side veth.
#[inline(always)]
pub fn neighbour(address: Address, domain: u16) -> Option<u32> {
    lookup(&LAN_ADDRESSES, address).filter(|of| of.domain == domain && is_held(of)).map(|of| of.member)
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
    let front = skb.front::<L4>()?;
    Some((front.address(IP_SOURCE), front.address(IP_DESTINATION)))
}
