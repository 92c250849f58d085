//! What the programs count: packets, which user space resets for a reused protocol number, and circuits. Maps `COUNTERS`,
//! `CIRCUIT_COUNTS`.

use std::os::fd::AsFd;

use abi::{COUNTERS, DOMAINS, Protocol, Verdict, counter_index};
use aya::{
    maps::{IterableMap, PerCpuValues},
    util::nr_cpus,
};

use super::State;
use crate::{Error, Result, bpf, maps::wrote};

/// A counter that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// The domain's number.
    pub domain: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// What the programs did with the packets.
    pub verdict: Verdict,
    /// How many, summed over all CPUs.
    pub packets: u64,
}

impl State {
    /// The counters that are not zero.
    pub fn counters(&self) -> Result<Vec<Counter>> {
        let mut found = vec![];
        for (domain, _) in self.domains()? {
            let packets = self.packets(u32::from(domain))?;
            for &protocol in Protocol::ALL {
                for &verdict in Verdict::ALL {
                    match packets.get(counter_index(0, protocol as u32, verdict) as usize) {
                        Some(&packets) if packets > 0 => {
                            found.push(Counter { domain, protocol, verdict, packets });
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(found)
    }

    /// The packets that each counter of a domain has counted on all CPUs, in the order of [`counter_index`].
    fn packets(&self, domain: u32) -> Result<Vec<u64>> {
        const OF_DOMAIN: u32 = COUNTERS / DOMAINS;
        let fault = |error: &dyn std::error::Error| Error::bpf("cannot read COUNTERS", error);
        let cpus = nr_cpus().map_err(|(_, error)| fault(&error))?;
        let map = IterableMap::map(&self.counters).fd().as_fd();
        let counted: Vec<u64> =
            bpf::values(map, domain * OF_DOMAIN, OF_DOMAIN, cpus).map_err(|error| fault(&error))?;
        Ok(counted.chunks(cpus).map(|of_cpus| of_cpus.iter().sum()).collect())
    }

    /// How many circuits a domain has. One that was only reset by its client, or is silent, counts until its place is given away.
    pub fn circuits(&self, domain: u16) -> Result<u64> {
        let count = self.circuit_counts.get(&u32::from(domain), 0);
        let count = count.map_err(|error| Error::bpf("cannot read CIRCUIT_COUNTS", &error))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Sets the counters of these protocols in these domains to zero.
    pub(super) fn clear_counters(&mut self, domains: &[u32], protocols: &[Protocol]) -> Result<()> {
        let fault = |error: &dyn std::error::Error| Error::bpf("cannot clear COUNTERS", error);
        let cpus = nr_cpus().map_err(|(_, error)| fault(&error))?;
        for (domain, protocol) in
            domains.iter().flat_map(|domain| protocols.iter().map(move |p| (*domain, *p)))
        {
            for &verdict in Verdict::ALL {
                let zeros = PerCpuValues::try_from(vec![0; cpus]).map_err(|error| fault(&error))?;
                let index = counter_index(domain, protocol as u32, verdict);
                wrote("COUNTERS", self.counters.set(index, zeros, 0))?;
            }
        }
        Ok(())
    }
}
