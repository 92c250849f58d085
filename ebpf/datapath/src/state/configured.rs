//! Configuration: the agent writes it, programs and plugin read it. Maps `CONFIG`, `DOMAINS`, `UPLINKS`, `LAN`,
//! `NAMESPACES`, `LAN_RELAYS`, `POD_RELAYS`, `RELAYED_PORTS`, `DESCRIPTORS`.

use std::{collections::BTreeMap, net::Ipv4Addr};

use abi::{Config, Described, Domain, NamespaceKey, Protocol, Relay, RelayKey, Uplink};
use aya::maps::lpm_trie::Key;

use super::State;
use crate::{
    Error, Result,
    maps::{absent_is_none, all, keys, range, removed, replace_all, wrote},
};

impl State {
    /// The settings for all programs.
    pub fn config(&self) -> Result<Config> {
        self.config.get(&0, 0).map_err(|error| Error::bpf("cannot read CONFIG", &error))
    }

    /// Sets the settings for all programs.
    pub fn set_config(&mut self, config: Config) -> Result<()> {
        wrote("CONFIG", self.config.set(0, config, 0))
    }

    /// The configured domains, with their numbers.
    pub fn domains(&self) -> Result<Vec<(u16, Domain)>> {
        let domains = (0..).zip(range("DOMAINS", &self.domains, 0, abi::DOMAINS)?);
        Ok(domains.filter(|(_, domain)| domain.name[0] != 0).collect())
    }

    /// The number of the domain called `name`.
    pub fn domain_number(&self, name: &str) -> Result<u16> {
        let domains = self.domains()?;
        let named: Vec<_> =
            domains.iter().map(|(number, domain)| (*number, abi::text(&domain.name))).collect();
        number_of(name, &named)
    }

    /// Sets domain `number`. Resets its counters if another one had the number.
    pub fn set_domain(&mut self, number: u16, domain: Domain) -> Result<()> {
        let present = self.domains.get(&u32::from(number), 0);
        let present = present.map_err(|error| Error::bpf("cannot read DOMAINS", &error))?;
        if present == domain {
            return Ok(());
        }
        if present.name != domain.name {
            self.clear_counters(&[u32::from(number)], Protocol::ALL)?;
        }
        wrote("DOMAINS", self.domains.set(u32::from(number), domain, 0))
    }

    /// The uplinks by interface index.
    pub fn uplinks(&self) -> Result<Vec<(u32, Uplink)>> {
        all("UPLINKS", &self.uplinks)
    }

    /// Replaces all uplinks by these, keyed by interface index.
    pub fn set_uplinks(&mut self, uplinks: &[(u32, Uplink)]) -> Result<()> {
        replace_all("UPLINKS", &mut self.uplinks, uplinks)
    }

    /// Replaces all LAN networks by these: domain, address, prefix length, and flags from [`abi::lan`].
    pub fn set_networks(&mut self, networks: &[(u16, [u8; 4], u8, u32)]) -> Result<()> {
        let present: Result<Vec<_>, _> = self.lan.iter().collect();
        let present = present.map_err(|error| Error::bpf("cannot read LAN", &error))?;
        let wanted: Vec<_> = networks
            .iter()
            .map(|(domain, address, prefix, flags)| (abi::network(*domain, *address, *prefix), *flags))
            .collect();
        let same = |(bits, key): &(u32, [u8; 6]), found: &Key<[u8; 6]>| {
            *bits == found.prefix_len() && covers(*key, found.data(), *bits)
        };
        for (network, flags) in &wanted {
            if !present.iter().any(|(found, has)| same(network, found) && has == flags) {
                wrote("LAN", self.lan.insert(&Key::new(network.0, network.1), flags, 0))?;
            }
        }
        for (found, _) in &present {
            if !wanted.iter().any(|(network, _)| same(network, found)) {
                removed("LAN", self.lan.remove(found))?;
            }
        }
        Ok(())
    }

    /// The networks on the LAN of `domain` that [`State::set_networks`] set, in no order: address, prefix length, and flags
    /// from [`abi::lan`].
    pub fn networks(&self, domain: u16) -> Result<Vec<(Ipv4Addr, u8, u32)>> {
        let networks: Result<Vec<_>, _> = self.lan.iter().collect();
        let networks = networks.map_err(|error| Error::bpf("cannot read LAN", &error))?;
        let of_domain = networks.iter().filter_map(|(key, flags)| {
            let [high, low, address @ ..] = key.data();
            let prefix = key.prefix_len().saturating_sub(16) as u8;
            ([high, low] == domain.to_be_bytes()).then(|| (address.into(), prefix, *flags))
        });
        Ok(of_domain.collect())
    }

    /// The namespaces that [`State::set_namespaces`] set for a domain, in no order. A [`Policy`](crate::member::Policy)
    /// interprets them.
    pub fn namespaces(&self, domain: u16) -> Result<Vec<String>> {
        let keys = keys("NAMESPACES", &self.namespaces)?;
        let of_domain = keys.iter().filter(|key| key.domain == u32::from(domain));
        Ok(of_domain.map(|key| abi::text(&key.pattern).to_owned()).collect())
    }

    /// Replaces the namespaces of all domains by these.
    pub fn set_namespaces(&mut self, namespaces: &[(u16, String)]) -> Result<()> {
        let entry = |(domain, pattern): &(u16, String)| {
            Some((NamespaceKey { pattern: abi::field(pattern)?, domain: u32::from(*domain) }, 1))
        };
        let entries: Vec<_> = namespaces.iter().filter_map(entry).collect();
        replace_all("NAMESPACES", &mut self.namespaces, &entries)
    }

    /// Replaces all relayed ports by these, as the LAN and as pods see them.
    pub fn set_relays(&mut self, lan: &[(RelayKey, Relay)], pods: &[(RelayKey, Relay)]) -> Result<()> {
        self.set_relayed_ports(lan.iter().chain(pods).map(|(key, _)| key.port))?;
        replace_all("LAN_RELAYS", &mut self.lan_relays, lan)?;
        replace_all("POD_RELAYS", &mut self.pod_relays, pods)
    }

    /// Sets the bits of these ports, and clears those of ports that are relayed so far.
    fn set_relayed_ports(&mut self, ports: impl Iterator<Item = u16>) -> Result<()> {
        let mut present = keys("LAN_RELAYS", &self.lan_relays)?;
        present.extend(keys("POD_RELAYS", &self.pod_relays)?);
        let mut words: BTreeMap<_, u64> = present.iter().map(|key| (u32::from(key.port / 64), 0)).collect();
        for port in ports {
            *words.entry(u32::from(port / 64)).or_default() |= 1 << (port % 64);
        }
        for (index, word) in words {
            wrote("RELAYED_PORTS", self.relayed_ports.set(index, word, 0))?;
        }
        Ok(())
    }

    /// The UDP ports that are relayed in the pods of `domain`, in no order.
    pub fn pod_relays(&self, domain: u16) -> Result<Vec<(u16, Relay)>> {
        let relays = all("POD_RELAYS", &self.pod_relays)?;
        let of_domain = relays.iter().filter(|(key, _)| *key == RelayKey::of_pods(domain, key.port));
        Ok(of_domain.map(|(key, relay)| (key.port, *relay)).collect())
    }

    /// How a UDP port in the pods of `domain` is relayed; `None` if it is not.
    pub fn pod_relay(&self, domain: u16, port: u16) -> Result<Option<Relay>> {
        let key = RelayKey::of_pods(domain, port);
        absent_is_none("POD_RELAYS", self.pod_relays.get(&key, 0))
    }

    /// How a UDP port on the LAN of the uplink with this interface index is relayed; `None` if it is not.
    pub fn lan_relay(&self, uplink: u32, port: u16) -> Result<Option<Relay>> {
        absent_is_none("LAN_RELAYS", self.lan_relays.get(&RelayKey::on_lan(uplink, port), 0))
    }

    /// The described protocols, in order of their numbers.
    pub fn described(&self) -> Result<Vec<Described>> {
        range("DESCRIPTORS", &self.descriptors, 0, abi::DESCRIPTORS)
    }

    /// Sets the described protocols. Resets the counters of a number whose protocol changes.
    pub fn set_described(&mut self, described: &[Described]) -> Result<()> {
        for ((number, wanted), present) in (0..).zip(described).zip(self.described()?) {
            if *wanted == present {
                continue;
            }
            if wanted.name != present.name {
                let of_number = |protocol: &&Protocol| **protocol as u32 == abi::DESCRIBED + number;
                let protocol: Vec<_> = Protocol::ALL.iter().filter(of_number).copied().collect();
                self.clear_counters(&(0..abi::DOMAINS).collect::<Vec<_>>(), &protocol)?;
            }
            wrote("DESCRIPTORS", self.descriptors.set(number, wanted, 0))?;
        }
        Ok(())
    }

    /// The name of a protocol, for people and for metrics.
    pub fn protocol_name(&self, protocol: Protocol) -> Result<String> {
        let Some(number) = (protocol as u32).checked_sub(abi::DESCRIBED) else {
            return Ok(protocol.name().into());
        };
        let described = self.described()?;
        let name = described.get(number as usize).map_or("", |described| abi::text(&described.name));
        Ok(if name.is_empty() { protocol.name().into() } else { name.into() })
    }
}

/// The number of the one of `domains` that is called `name`.
fn number_of(name: &str, domains: &[(u16, &str)]) -> Result<u16> {
    match domains.iter().find(|(_, known)| *known == name) {
        Some((number, _)) => Ok(*number),
        None if domains.is_empty() => Err(Error::NotConfigured),
        None => {
            let known: Vec<_> = domains.iter().map(|(_, known)| *known).collect();
            Err(Error::NoSuchDomain { name: name.into(), known: known.join(", ") })
        }
    }
}

/// Whether two keys of a trie have the same first `bits` bits, which is all that the kernel keeps.
fn covers(a: [u8; 6], b: [u8; 6], bits: u32) -> bool {
    let number = |bytes: [u8; 6]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    (number(a) ^ number(b)) >> (48 - bits) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_not_configured_yet_is_told_from_one_that_lacks_a_domain() {
        assert_eq!(number_of("lab", &[(3, "lab")]).ok(), Some(3));
        let error = |domains: &[(u16, &str)]| number_of("lb", domains).unwrap_err().to_string();
        assert!(error(&[(3, "lab")]).contains("`lb` is not configured on this node (configured: lab)"));
        assert!(error(&[]).contains("no domain is configured on this node yet"));
    }
}
