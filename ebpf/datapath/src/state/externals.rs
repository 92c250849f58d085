//! External ports: the programs allocate them, the plugin pins them, the agent tends them: it lets go of what deleted pods no
//! longer need, follows uplinks, and counts. Maps `EXTERNALS`, `INTERNALS`, `CHANGING`, `EXTERNAL_PORTS`, `PORT_COUNTS`.
//!
//! As in the programs, whoever makes, changes or removes a claim, or its entry in `INTERNALS`, holds the lock of its owner, and
//! looks again before it acts.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    net::Ipv4Addr,
    ops::RangeInclusive,
    thread::sleep,
    time::Duration,
};

use abi::{Claim, Endpoint, GRACE, KEPT, Owner, PINS, Share, TCP, hold, seconds, share};
use aya::maps::MapError;

use super::State;
use crate::{
    Error, Result, kernel_clock,
    maps::{BPF_NOEXIST, absent_is_none, all, keys, range, removed, wrote},
};

/// A lock that is older was left by a process that was killed: nobody keeps one for as long as this.
const LEFT: Duration = Duration::from_millis(200);
const LOCK_PAUSE: Duration = Duration::from_micros(50);

/// An external port in use, or kept.
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

/// Where a domain's external ports are.
#[derive(Clone, Debug)]
pub struct Home {
    /// The domain.
    pub domain: u16,
    /// Its uplink's address.
    pub address: [u8; 4],
    /// The ports that its pods get, unless they pin others.
    pub range: RangeInclusive<u16>,
}

/// What becomes of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It stays as it is.
    Stay,
    /// Nobody is behind it, from now on.
    Vacate,
    /// It goes with the uplink to this address.
    Move([u8; 4]),
    /// Its port is free.
    End,
}

/// What becomes of a claim whose member is there or not, and whose owner's pod already keeps so many, at a time in [`seconds`].
fn fate(entry: &External, there: bool, home: Option<&Home>, kept: usize, now: u32) -> Fate {
    let External { external, claim } = entry;
    let address = home.map_or(external.address, |home| home.address);
    let lasts = claim.hold != hold::CLIENT;
    // A pin elsewhere is kept from nobody: only those who pin it can have it.
    let is_wanted = claim.hold != hold::PINNED || home.is_none_or(|home| home.range.contains(&external.port));
    match (there, address == external.address) {
        (true, true) => Fate::Stay,
        (true, false) if lasts => Fate::Move(address),
        (false, true) if lasts && is_wanted && kept < KEPT && !claim.is_over(now) => {
            if claim.vacant == 0 {
                Fate::Vacate
            } else {
                Fate::Stay
            }
        }
        _ => Fate::End,
    }
}

impl State {
    /// The external ports in use, and those kept.
    pub fn externals(&self) -> Result<Vec<External>> {
        Ok(all("EXTERNALS", &self.externals)?
            .into_iter()
            .map(|(external, claim)| External { external, claim })
            .collect())
    }

    /// Whether the member that claimed a port is still there.
    pub fn is_current(&self, claim: &Claim) -> Result<bool> {
        Ok(self.member(claim.member)?.is_some_and(|member| member.generation == claim.generation))
    }

    /// How many ports are taken of a share from [`share`].
    pub fn taken(&self, share: u32) -> Result<u32> {
        let found = absent_is_none("PORT_COUNTS", self.port_counts.get(&share, 0))?;
        Ok(found.map_or(0, |share| u32::try_from(share.taken).unwrap_or(0)))
    }

    /// Pins an external port for a member. If another pod has it, the error names that pod. The caller holds the lock and
    /// has joined the member.
    pub fn pin(&mut self, external: Endpoint, claim: Claim) -> Result<()> {
        let pins = share::of_domain(claim.domain, share::PINS);
        let taken = self.taken(pins)?;
        let new = self.claim(&external)?.is_none_or(|found| found.hold != hold::PINNED);
        if new && taken >= PINS && self.pinned(claim.domain)? >= PINS {
            return Err(Error::PinsTaken { limit: PINS });
        }
        let owner = claim.owner();
        self.changing(&owner, |state| {
            state.place(external, claim)?;
            // What the pod had for this port before, pinned or not.
            let former = absent_is_none("INTERNALS", state.internals.get(&owner, 0))?;
            if let Some(former) = former.filter(|former| *former != external)
                && let Some(claim) = state.claim(&former)?
                && claim.owner() == owner
                && !state.is_current(&claim)?
            {
                removed("EXTERNALS", state.externals.remove(&former))?;
            }
            wrote("INTERNALS", state.internals.insert(owner, external, 0))
        })?;
        self.set_taken(pins, taken + u32::from(new))?;
        self.change_port_word(u32::from(external.port / 64), |word| word | 1 << (external.port % 64))
    }

    /// How many ports a domain's members have pinned, not counting those kept for deleted pods.
    fn pinned(&self, domain: u16) -> Result<u32> {
        let mut pinned = 0;
        for External { claim, .. } in self.externals()? {
            let counts = claim.hold == hold::PINNED && claim.domain == domain && self.is_current(&claim)?;
            pinned += u32::from(counts);
        }
        Ok(pinned)
    }

    /// Gives an external port to a claim, unless it is another pod's: nobody has it, or its owner is the same, or whoever had
    /// it is gone and pinned it, or has been gone for long enough. The caller has the lock of the claim's owner.
    fn place(&mut self, external: Endpoint, claim: Claim) -> Result<()> {
        match self.externals.insert(external, claim, BPF_NOEXIST) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::AlreadyExists => {}
            outcome => return wrote("EXTERNALS", outcome),
        }
        let Some(found) = self.claim(&external)? else { return self.place(external, claim) }; // gone meanwhile
        let owner = found.owner();
        if owner == claim.owner() {
            let free = found.is_same(&claim) || !self.is_current(&found)?;
            return if free { self.replace(external, claim) } else { Err(self.refusal(external, &found)?) };
        }
        self.changing(&owner, |state| {
            let found = state.claim(&external)?.filter(|now| now.owner() == owner);
            let Some(found) = found else { return state.place(external, claim) }; // changed meanwhile
            let free = found.hold == hold::PINNED || found.is_over(seconds_now()?);
            if state.is_current(&found)? || !free {
                return Err(state.refusal(external, &found)?);
            }
            state.replace(external, claim)?;
            state.forget_internal(&owner, &external)
        })
    }

    fn replace(&mut self, external: Endpoint, claim: Claim) -> Result<()> {
        wrote("EXTERNALS", self.externals.insert(external, claim, 0))
    }

    /// Removes an owner's entry, if it names this endpoint. The caller has the owner's lock.
    fn forget_internal(&mut self, owner: &Owner, external: &Endpoint) -> Result<()> {
        if absent_is_none("INTERNALS", self.internals.get(owner, 0))?.is_some_and(|found| found == *external)
        {
            removed("INTERNALS", self.internals.remove(owner))?;
        }
        Ok(())
    }

    fn claim(&self, external: &Endpoint) -> Result<Option<Claim>> {
        absent_is_none("EXTERNALS", self.externals.get(external, 0))
    }

    /// The error that says why an external port cannot be had, and names its holder.
    fn refusal(&self, external: Endpoint, claim: &Claim) -> Result<Error> {
        let protocol = if external.protocol == u16::from(TCP) { "tcp" } else { "udp" };
        let port = external.port;
        if !self.is_current(claim)? {
            let gone = if claim.vacant == 0 { 0 } else { seconds_now()?.wrapping_sub(claim.vacant) };
            return Ok(Error::PortKept { protocol, port, seconds: GRACE.saturating_sub(gone) });
        }
        let attachments = self.attachments()?;
        let holder = attachments
            .iter()
            .find(|(_, held)| (held.member, held.generation) == (claim.member, claim.generation))
            .map(|(_, held)| format!("{}/{}", abi::text(&held.namespace), abi::text(&held.pod)));
        Ok(Error::PortTaken { protocol, port, holder: holder.unwrap_or_else(|| "another pod".into()) })
    }

    /// Does what is due: ends what deleted pods no longer need, moves what lasts with its domain's uplink, counts who has how
    /// many ports, and lets these ranges of ports, both ends inclusive, and all pinned ports be external. Returns which pinned
    /// ports could not be moved, and stay where they are; the next call tries again. Takes the lock, but not while it reads.
    pub fn tend_ports(&mut self, homes: &[Home], ranges: &[(u16, u16)]) -> Result<Vec<Error>> {
        let words = self.port_words()?;
        let mut entries = self.externals()?;
        let members = self.generations()?; // after the claims: a member whose claim was seen, but not itself, is gone
        entries.sort_by_key(|entry| (entry.claim.vacant == 0, entry.claim.pod.port)); // who is kept already stays so
        let now = seconds_now()?;
        let _lock = self.lock()?;
        let (mut kept, mut counts) = (BTreeMap::<_, usize>::new(), BTreeMap::new());
        let (mut pinned, mut problems) = (vec![], vec![]);
        for entry in entries {
            let claim = &entry.claim;
            let there = members.contains(&(claim.member, claim.generation));
            let home = homes.iter().find(|home| home.domain == claim.domain);
            let place = kept.entry(claim.identity).or_default();
            let fate = fate(&entry, there, home, *place, now);
            *place += usize::from(!there && fate != Fate::End);
            let met = self.meet(&entry, fate, now).unwrap_or_else(|error| {
                problems.push(error);
                Some(entry)
            });
            let Some(entry) = met else { continue };
            if claim.hold == hold::PINNED {
                pinned.push((entry.external.port, entry.external.port));
            }
            let in_range = home.is_none_or(|home| home.range.contains(&entry.external.port));
            for share in shares(claim, there && in_range) {
                *counts.entry(share).or_default() += 1;
            }
        }
        self.set_counts(&counts)?;
        self.set_port_words(&words, &[ranges, &pinned].concat())?;
        self.unlock_left()?;
        Ok(problems)
    }

    fn generations(&self) -> Result<BTreeSet<(u32, u32)>> {
        let members = self.members()?.into_iter();
        Ok(members.map(|(interface, member)| (interface, member.generation)).collect())
    }

    /// Does to a claim what is due, unless it has changed meanwhile: what there is of it then.
    fn meet(&mut self, entry: &External, fate: Fate, now: u32) -> Result<Option<External>> {
        let External { external, claim } = *entry;
        let owner = claim.owner();
        if fate == Fate::Stay {
            return Ok(Some(*entry));
        }
        self.changing(&owner, |state| {
            let Some(found) = state.claim(&external)?.filter(|found| found.is_same(&claim)) else {
                return Ok(None);
            };
            match fate {
                Fate::Stay => {}
                Fate::Vacate => state.replace(external, Claim { vacant: now, ..found })?,
                Fate::Move(address) => return state.move_to(&External { external, claim: found }, address),
                Fate::End => {
                    removed("EXTERNALS", state.externals.remove(&external))?;
                    state.forget_internal(&owner, &external)?;
                    return Ok(None);
                }
            }
            Ok(Some(*entry))
        })
    }

    /// Moves a claim to another address, if its port is free there. One that is not pinned ends if it is not. The caller has the
    /// lock of its owner.
    fn move_to(&mut self, entry: &External, address: [u8; 4]) -> Result<Option<External>> {
        let External { external, claim } = *entry;
        let there = Endpoint { address, ..external };
        let placed = self.place(there, claim);
        if let (Err(error), hold::PINNED) = (placed.as_ref().map_err(ToString::to_string), claim.hold) {
            let port = external.port;
            return Err(Error::PinLeft { port, address: address.into(), reason: error });
        }
        let owner = claim.owner();
        match placed {
            Ok(()) => wrote("INTERNALS", self.internals.insert(owner, there, 0))?,
            Err(_) => self.forget_internal(&owner, &external)?,
        }
        removed("EXTERNALS", self.externals.remove(&external))?;
        Ok(placed.is_ok().then_some(External { external: there, claim }))
    }

    /// Corrects how many ports members and domains have taken.
    fn set_counts(&mut self, counts: &BTreeMap<u32, u32>) -> Result<()> {
        for share in keys("PORT_COUNTS", &self.port_counts)? {
            if !counts.contains_key(&share) {
                self.set_taken(share, 0)?;
            }
        }
        counts.iter().try_for_each(|(share, count)| self.set_taken(*share, *count))
    }

    fn set_taken(&mut self, share: u32, count: u32) -> Result<()> {
        let known = absent_is_none("PORT_COUNTS", self.port_counts.get(&share, 0))?;
        let new = Share { taken: count.into(), ..known.unwrap_or(Share::NOTHING) };
        if known == Some(new) || known.is_none() && count == 0 {
            return Ok(());
        }
        wrote("PORT_COUNTS", self.port_counts.insert(share, new, 0))
    }

    /// Sets which ports may be external: these ranges, both ends inclusive, and those that somebody added to `before`.
    fn set_port_words(&mut self, before: &[u64], ranges: &[(u16, u16)]) -> Result<()> {
        let mut words = vec![0u64; before.len()];
        for port in ranges.iter().flat_map(|(first, last)| *first..=*last) {
            words[usize::from(port / 64)] |= 1 << (port % 64);
        }
        let mut changes = (0..).zip(before.iter().zip(words));
        changes
            .try_for_each(|(index, (before, word))| self.change_port_word(index, |now| word | now & !before))
    }

    fn port_words(&self) -> Result<Vec<u64>> {
        range("EXTERNAL_PORTS", &self.external_ports, 0, self.external_ports.len())
    }

    pub(super) fn change_port_word(&mut self, index: u32, change: impl Fn(u64) -> u64) -> Result<()> {
        let read = self.external_ports.get(&index, 0);
        let old = read.map_err(|error| Error::bpf("cannot read EXTERNAL_PORTS", &error))?;
        if change(old) == old {
            return Ok(());
        }
        wrote("EXTERNAL_PORTS", self.external_ports.set(index, change(old), 0))
    }

    /// Works while neither a program nor anybody else changes an owner's external ports. The caller holds the lock.
    fn changing<T>(&mut self, owner: &Owner, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        loop {
            match self.changing.insert(owner, kernel_clock()?.as_nanos() as u64, BPF_NOEXIST) {
                Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::AlreadyExists => {}
                outcome => break wrote("CHANGING", outcome)?,
            }
            let since = absent_is_none("CHANGING", self.changing.get(owner, 0))?;
            if since.is_some_and(|since| is_left(since).unwrap_or(false)) {
                break; // and the one that left it does not come back
            }
            sleep(LOCK_PAUSE);
        }
        let done = work(self);
        removed("CHANGING", self.changing.remove(owner))?;
        done
    }

    /// Removes the locks of processes that were killed. The caller holds the lock, so none of those that live has one.
    fn unlock_left(&mut self) -> Result<()> {
        for (owner, since) in all("CHANGING", &self.changing)? {
            if is_left(since)? {
                removed("CHANGING", self.changing.remove(&owner))?;
            }
        }
        Ok(())
    }
}

/// Whether a lock taken at this time was left by a process that was killed.
fn is_left(since: u64) -> Result<bool> {
    Ok(kernel_clock()?.saturating_sub(Duration::from_nanos(since)) > LEFT)
}

fn seconds_now() -> Result<u32> {
    Ok(seconds(kernel_clock()?.as_nanos() as u64))
}

/// The shares that a claim counts in.
fn shares(claim: &Claim, of_pod: bool) -> impl Iterator<Item = u32> {
    let pinned = claim.hold == hold::PINNED;
    let transport = if pinned { share::PINS } else { claim.pod.protocol };
    let pod = (of_pod && !pinned).then_some(share::of_pod(claim.member));
    [share::of_domain(claim.domain, transport)].into_iter().chain(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: [u8; 4] = [172, 23, 0, 10];
    const ELSEWHERE: [u8; 4] = [172, 23, 0, 20];
    const NOW: u32 = 5000;

    fn entry(hold: u8, vacant: u32) -> External {
        let external = Endpoint { address: HERE, port: 61000, protocol: TCP.into() };
        let pod = Endpoint { address: [10, 244, 1, 2], port: 5064, protocol: TCP.into() };
        let claim = Claim {
            identity: [1, 2],
            pod,
            member: 7,
            generation: 1,
            vacant,
            peer: [0; 4],
            trouble: 0,
            domain: 0,
            protocol: 1,
            hold,
        };
        External { external, claim }
    }

    #[test]
    fn what_becomes_of_a_port_depends_on_who_is_behind_it() {
        use Fate::{End, Move, Stay, Vacate};
        let (client, server, pin) = (hold::CLIENT, hold::SERVER, hold::PINNED);
        let (fresh, over) = (NOW - GRACE + 1, NOW - GRACE);
        // hold, vacant since, its member is there, its uplink's address, kept by the pod already
        for (hold, vacant, there, address, kept, expected) in [
            (client, 0, true, HERE, 0, Stay),
            (server, 0, true, HERE, 0, Stay),
            (server, over, true, HERE, 0, Stay), // the programs know whether it has a socket
            (pin, 0, true, HERE, 0, Stay),
            (client, 0, true, ELSEWHERE, 0, End),
            (server, 0, true, ELSEWHERE, 0, Move(ELSEWHERE)),
            (pin, 0, true, ELSEWHERE, 0, Move(ELSEWHERE)),
            (client, 0, false, HERE, 0, End),
            (server, 0, false, HERE, 0, Vacate),
            (pin, 0, false, HERE, 0, Vacate),
            (server, fresh, false, HERE, 0, Stay),
            (server, over, false, HERE, 0, End),
            (pin, over, false, HERE, 0, End),
            (server, 0, false, HERE, KEPT, End),
            (pin, fresh, false, HERE, KEPT, End),
            (server, fresh, false, ELSEWHERE, 0, End),
            (pin, fresh, false, ELSEWHERE, 0, End),
        ] {
            let home = Home { domain: 0, address, range: 61000..=64999 };
            let found = fate(&entry(hold, vacant), there, Some(&home), kept, NOW);
            assert_eq!(found, expected, "{hold} {vacant} {there} {address:?} {kept}");
        }
    }

    #[test]
    fn a_pin_that_only_pins_can_take_is_not_kept() {
        let home = Home { domain: 0, address: HERE, range: 61001..=64999 };
        assert_eq!(fate(&entry(hold::PINNED, 0), false, Some(&home), 0, NOW), Fate::End);
        assert_eq!(fate(&entry(hold::PINNED, 0), true, Some(&home), 0, NOW), Fate::Stay);
        assert_eq!(fate(&entry(hold::SERVER, 0), false, Some(&home), 0, NOW), Fate::Vacate);
    }

    #[test]
    fn without_an_uplink_a_port_stays_where_it_is() {
        assert_eq!(fate(&entry(hold::SERVER, 0), true, None, 0, NOW), Fate::Stay);
        assert_eq!(fate(&entry(hold::SERVER, 0), false, None, 0, NOW), Fate::Vacate);
    }
}
