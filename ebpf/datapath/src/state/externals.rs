//! External ports: the programs allocate them, the plugin pins and releases them, the agent configures their ranges. Maps
//! `EXTERNALS`, `INTERNALS`, `EXTERNAL_PORTS`, `PORT_COUNTS`.

use std::{collections::BTreeMap, io::ErrorKind, net::Ipv4Addr, ops::RangeInclusive};

use abi::{Claim, Endpoint};
use aya::maps::MapError;

use super::State;
use crate::{
    Error, Result,
    maps::{BPF_NOEXIST, absent_is_none, all, removed, wrote},
};

/// An external port in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct External {
    /// The endpoint on the uplink.
    pub external: Endpoint,
    /// What it stands for.
    pub claim: Claim,
}

impl External {
    /// `address:port` on the uplink.
    pub fn external_address(&self) -> (Ipv4Addr, u16) {
        (self.external.address.into(), self.external.port)
    }

    /// `address:port` in the pod.
    pub fn pod_address(&self) -> (Ipv4Addr, u16) {
        (self.claim.pod.address.into(), self.claim.pod.port)
    }
}

impl State {
    /// The external ports in use.
    pub fn externals(&self) -> Result<Vec<External>> {
        Ok(all("EXTERNALS", &self.externals)?
            .into_iter()
            .map(|(external, claim)| External { external, claim })
            .collect())
    }

    /// Sets which ports may be external: these ranges, both ends inclusive, and all pinned ports. The caller holds the lock.
    pub fn set_external_ports(&mut self, ranges: &[(u16, u16)]) -> Result<()> {
        let mut words = vec![0u64; abi::PORT_WORDS as usize];
        let pinned: Vec<_> = self.pins()?.iter().map(|pin| pin.external.port).collect();
        for port in ranges.iter().flat_map(|(first, last)| *first..=*last).chain(pinned) {
            words[usize::from(port / 64)] |= 1 << (port % 64);
        }
        for (index, word) in (0..).zip(words) {
            self.change_port_word(index, |_| word)?;
        }
        Ok(())
    }

    fn change_port_word(&mut self, index: u32, change: impl Fn(u64) -> u64) -> Result<()> {
        let read = self.external_ports.get(&index, 0);
        let old = read.map_err(|error| Error::bpf("cannot read EXTERNAL_PORTS", &error))?;
        if change(old) == old {
            return Ok(());
        }
        wrote("EXTERNAL_PORTS", self.external_ports.set(index, change(old), 0))
    }

    /// Pins an external port for a member. If another pod has it, the error names that pod. The caller holds the lock and
    /// has joined the member.
    pub fn pin(&mut self, external: Endpoint, claim: Claim) -> Result<()> {
        match self.externals.insert(external, claim, BPF_NOEXIST) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::AlreadyExists => {
                return Err(self.taken(external)?);
            }
            outcome => wrote("EXTERNALS", outcome)?,
        }
        wrote("INTERNALS", self.internals.insert(claim.pod, external, 0))?;
        self.change_port_word(u32::from(external.port / 64), |word| word | 1 << (external.port % 64))
    }

    /// The error that names the holder of an external port.
    fn taken(&self, external: Endpoint) -> Result<Error> {
        let claim = absent_is_none("EXTERNALS", self.externals.get(&external, 0))?;
        let attachments = self.attachments()?;
        let holder = attachments
            .iter()
            .find(|(_, attachment)| claim.is_some_and(|claim| claim.member == attachment.member))
            .map(|(_, attachment)| {
                format!("{}/{}", abi::text(&attachment.namespace), abi::text(&attachment.pod))
            });
        let protocol = if external.protocol == u16::from(abi::TCP) { "tcp" } else { "udp" };
        let holder = holder.unwrap_or_else(|| "another pod".into());
        Ok(Error::PortTaken { protocol, port: external.port, holder })
    }

    /// Moves a domain's external ports to its uplink's address: pinned ones move, others on another address are released.
    /// Recounts how many ports in `range` each member has: a port of an earlier range keeps working, but does not count. If
    /// another pod has a pinned port, the error names that pod. The caller holds the lock.
    pub fn follow_uplink(&mut self, domain: u16, address: [u8; 4], range: RangeInclusive<u16>) -> Result<()> {
        let (mut pins, mut counts) = (vec![], BTreeMap::<u32, u32>::new());
        for External { external, claim } in self.externals()? {
            if claim.domain != domain {
                continue;
            }
            let is_here = external.address == address;
            if claim.pinned == 0 {
                let counts_now = is_here && range.contains(&external.port);
                *counts.entry(claim.member).or_default() += u32::from(counts_now);
            }
            match (is_here, claim.pinned != 0) {
                (true, _) => {}
                (false, true) => pins.push((external, claim)),
                (false, false) => removed("EXTERNALS", self.externals.remove(&external))?,
            }
        }
        self.set_port_counts(counts)?;
        for (external, claim) in pins {
            removed("EXTERNALS", self.externals.remove(&external))?;
            self.pin(Endpoint { address, ..external }, claim)?;
        }
        Ok(())
    }

    /// Corrects how many external ports these members have taken.
    fn set_port_counts(&mut self, counts: BTreeMap<u32, u32>) -> Result<()> {
        for (member, count) in counts {
            if absent_is_none("PORT_COUNTS", self.port_counts.get(&member, 0))?
                .is_some_and(|known| known != count)
            {
                wrote("PORT_COUNTS", self.port_counts.insert(member, count, 0))?;
            }
        }
        Ok(())
    }

    fn pins(&self) -> Result<Vec<External>> {
        let mut found = self.externals()?;
        found.retain(|external| external.claim.pinned != 0);
        Ok(found)
    }

    /// Releases all external ports of the member with this interface index. The caller holds the lock.
    pub(super) fn release_ports(&mut self, member: u32) -> Result<()> {
        removed("PORT_COUNTS", self.port_counts.remove(&member))?;
        for External { external, claim } in self.externals()? {
            if claim.member == member {
                removed("EXTERNALS", self.externals.remove(&external))?;
                removed("INTERNALS", self.internals.remove(&claim.pod))?;
            }
        }
        Ok(())
    }
}
