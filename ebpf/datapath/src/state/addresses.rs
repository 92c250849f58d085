//! Addresses of pods on the LAN: which may be given out, written by the agent; whose they are, written by plugin and agent;
//! and who else claims them, written by the programs. Maps `ADDRESS_RANGES`, `LAN_ADDRESSES`, `RIVALS`.

use std::net::Ipv4Addr;

use abi::{Address, AddressRange, LanAddress, Rival};

use super::State;
use crate::{
    Result,
    maps::{absent_is_none, all, keys, removed, replace_all, wrote},
};

impl State {
    /// The addresses that [`State::set_address_ranges`] set for a domain, in no order: the first one, the last one, and the
    /// namespaces whose pods may have them. A [`Policy`](crate::member::Policy) interprets them.
    pub fn address_ranges(&self, domain: u16) -> Result<Vec<(Ipv4Addr, Ipv4Addr, String)>> {
        let ranges = keys("ADDRESS_RANGES", &self.address_ranges)?;
        let of_domain = ranges.iter().filter(|range| range.domain == u32::from(domain));
        Ok(of_domain
            .map(|range| (range.first.into(), range.last.into(), abi::text(&range.pattern).to_owned()))
            .collect())
    }

    /// Replaces the addresses that pods of all domains may have by these: domain, first one, last one, namespaces.
    pub fn set_address_ranges(&mut self, ranges: &[(u16, [u8; 4], [u8; 4], String)]) -> Result<()> {
        let entry = |(domain, first, last, pattern): &(u16, [u8; 4], [u8; 4], String)| {
            let pattern = abi::field(pattern)?;
            Some((AddressRange { first: *first, last: *last, domain: u32::from(*domain), pattern }, 1))
        };
        let entries: Vec<_> = ranges.iter().filter_map(entry).collect();
        replace_all("ADDRESS_RANGES", &mut self.address_ranges, &entries)
    }

    /// Whose a LAN address is; `None` if it is nobody's.
    pub fn lan_address(&self, address: Address) -> Result<Option<LanAddress>> {
        absent_is_none("LAN_ADDRESSES", self.lan_addresses.get(&address, 0))
    }

    /// The LAN addresses of all pods, and whose they are.
    pub fn lan_addresses(&self) -> Result<Vec<(Address, LanAddress)>> {
        all("LAN_ADDRESSES", &self.lan_addresses)
    }

    /// Says whose a LAN address is. The caller holds the lock.
    pub fn set_lan_address(&mut self, address: Address, entry: LanAddress) -> Result<()> {
        wrote("LAN_ADDRESSES", self.lan_addresses.insert(address, entry, 0))
    }

    /// Makes a LAN address nobody's; not an error if it is already. The caller holds the lock.
    pub fn remove_lan_address(&mut self, address: Address) -> Result<()> {
        removed("LAN_ADDRESSES", self.lan_addresses.remove(&address))
    }

    /// The host that claimed a LAN address last.
    pub fn rival(&self, address: Address) -> Result<Option<Rival>> {
        absent_is_none("RIVALS", self.rivals.get(&address, 0))
    }

    /// The hosts that claimed LAN addresses, by the address.
    pub fn rivals(&self) -> Result<Vec<(Address, Rival)>> {
        all("RIVALS", &self.rivals)
    }

    /// Forgets who claimed a LAN address; not an error if nobody did.
    pub fn forget_rival(&mut self, address: Address) -> Result<()> {
        removed("RIVALS", self.rivals.remove(&address))
    }
}
