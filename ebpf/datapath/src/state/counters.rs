//! What the programs count: packets, which user space resets for a reused protocol number, circuits, and how long answers
//! took. Maps `COUNTERS`, `CIRCUIT_COUNTS`, `LATENCIES`. And what the plugin counts: ADDs
//! that failed, map `REFUSED`.

use std::{os::fd::AsFd, time::Duration};

use abi::{
    COUNTERS, DOMAINS, Protocol, Verdict, counter_index,
    latency::{ANSWERING, BUCKETS, LATENCY},
    refused::REASONS,
};
use aya::{
    maps::{IterableMap, MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};

use super::State;
use crate::{
    Error, Result, bpf,
    maps::{range, wrote},
};

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

/// How long the answers of a domain took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// In which protocol.
    pub protocol: Protocol,
    /// How many there were by [`abi::latency::bucket`], all CPUs together.
    pub buckets: [u64; BUCKETS as usize],
    /// The sum of their times.
    pub sum: Duration,
}

impl State {
    /// How long the answers of a domain's pods to the LAN took, by protocol.
    pub fn latencies(&self, domain: u16) -> Result<Vec<Latency>> {
        let first = u32::from(domain) * ANSWERING.len() as u32 * LATENCY;
        let values = of_all_cpus("LATENCIES", &self.latencies, first, ANSWERING.len() as u32 * LATENCY)?;
        let histograms = ANSWERING.iter().zip(values.chunks(LATENCY as usize));
        Ok(histograms
            .filter_map(|(&protocol, values)| {
                let (buckets, rest) = values.split_first_chunk()?;
                Some(Latency { protocol, buckets: *buckets, sum: Duration::from_nanos(*rest.first()?) })
            })
            .collect())
    }

    /// Counts an ADD that failed, for a reason from [`abi::refused`]. Of two at the same moment one may not be counted.
    pub fn count_refused(&mut self, reason: u32) -> Result<()> {
        let before = self.refused.get(&reason, 0).unwrap_or(0);
        wrote("REFUSED", self.refused.set(reason, before + 1, 0))
    }

    /// How many ADDs failed since the datapath was loaded, by reason.
    pub fn refused(&self) -> Result<Vec<(&'static str, u64)>> {
        let counted = range("REFUSED", &self.refused, 0, REASONS.len() as u32)?;
        Ok(REASONS.into_iter().zip(counted).collect())
    }

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
        of_all_cpus("COUNTERS", &self.counters, domain * OF_DOMAIN, OF_DOMAIN)
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

/// So many values of a map from index `first`, each summed over all CPUs.
fn of_all_cpus(name: &str, map: &PerCpuArray<MapData, u64>, first: u32, count: u32) -> Result<Vec<u64>> {
    let fault = |error: &dyn std::error::Error| Error::bpf(format!("cannot read {name}"), error);
    let cpus = nr_cpus().map_err(|(_, error)| fault(&error))?;
    let map = IterableMap::map(map).fd().as_fd();
    let values: Vec<u64> = bpf::values(map, first, count, cpus).map_err(|error| fault(&error))?;
    Ok(values.chunks(cpus).map(|of_cpus| of_cpus.iter().sum()).collect())
}
