//! What the programs count: packets, which user space resets for a reused protocol number, and circuits. Maps `COUNTERS`,
//! `CIRCUIT_COUNTS`.

use abi::{Protocol, Verdict, counter_index};
use aya::{maps::PerCpuValues, util::nr_cpus};

use super::State;
use crate::{Error, Result, maps::wrote};

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
            for &protocol in Protocol::ALL {
                for &verdict in Verdict::ALL {
                    let index = counter_index(u32::from(domain), protocol as u32, verdict);
                    let values = self
                        .counters
                        .get(&index, 0)
                        .map_err(|error| Error::bpf("cannot read COUNTERS", &error))?;
                    let packets = values.iter().sum();
                    if packets > 0 {
                        found.push(Counter { domain, protocol, verdict, packets });
                    }
                }
            }
        }
        Ok(found)
    }

    /// How many circuits a domain has. One that was only reset by its client, or is silent, counts until its place is given away.
    pub fn circuits(&self, domain: u16) -> Result<u64> {
        let count = self.circuit_counts.get(&u32::from(domain), 0);
        let count = count.map_err(|error| Error::bpf("cannot read CIRCUIT_COUNTS", &error))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Sets all counters of a protocol to zero.
    pub(super) fn clear_counters(&mut self, protocol: u32) -> Result<()> {
        let fault = |error: &dyn std::error::Error| Error::bpf("cannot clear COUNTERS", error);
        let cpus = nr_cpus().map_err(|(_, error)| fault(&error))?;
        for (domain, verdict) in
            (0..abi::DOMAINS).flat_map(|domain| Verdict::ALL.iter().map(move |v| (domain, *v)))
        {
            let zeros = PerCpuValues::try_from(vec![0; cpus]).map_err(|error| fault(&error))?;
            wrote("COUNTERS", self.counters.set(counter_index(domain, protocol, verdict), zeros, 0))?;
        }
        Ok(())
    }
}
