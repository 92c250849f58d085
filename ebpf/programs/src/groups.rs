//! Multicast groups: which ones are relayed, and under which MAC address they travel.
//!
//! Nobody here follows who joined which group. A pod's own kernel decides that for its sockets, as on any host: it takes
//! what its interface has joined, and drops the rest. So no lost report, and no restart, can make a pod deaf.

use abi::{Address, Endpoint, GroupKey, is_group};

use crate::{
    maps::{GROUPS, contains},
    packet::BROADCAST_MAC,
};

/// Whether datagrams of the domain's pods `to` there are for a group that is relayed.
#[inline(always)]
pub fn of_pods(domain: u16, to: &Endpoint) -> bool {
    is_group(to.address) && contains(&GROUPS, GroupKey::of_pods(domain, to.address, to.port))
}

/// Whether datagrams `to` there, at the uplink `interface`, are for a group that is not relayed.
#[inline(always)]
pub fn foreign_on_lan(interface: u32, to: &Endpoint) -> bool {
    is_group(to.address) && !contains(&GROUPS, GroupKey::on_lan(interface, to.address, to.port))
}

/// The MAC address of a datagram to all of a group, or to everybody (RFC 1112, section 6.4).
#[inline(always)]
pub const fn mac_of(address: Address) -> [u8; 6] {
    let [_, a, b, c] = address;
    if is_group(address) { [0x01, 0x00, 0x5e, a & 0x7f, b, c] } else { BROADCAST_MAC }
}
