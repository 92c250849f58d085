//! Members: written by the plugin, and by the agent for pods that it adopts. Maps `ATTACHMENTS`, `MEMBERS`, `ROSTER`,
//! `ROSTER_LENGTH`. Circuits of deleted pods are not removed: their generation tells the programs that they are over.

use std::{collections::BTreeMap, time::Duration};

use abi::{Attachment, AttachmentKey, Member, Searcher, SearcherKey, roster_index, share};
use aya::maps::{HashMap, Map};

use super::State;
use crate::{
    Error, Result,
    maps::{absent_is_none, all, range, removed, typed, wrote},
    pinned::MAPS,
};

impl State {
    /// The attachment recorded under `key`.
    pub fn attachment(&self, key: &AttachmentKey) -> Result<Option<Attachment>> {
        absent_is_none("ATTACHMENTS", self.attachments.get(key, 0))
    }

    /// All recorded attachments.
    pub fn attachments(&self) -> Result<Vec<(AttachmentKey, Attachment)>> {
        all("ATTACHMENTS", &self.attachments)
    }

    /// The member whose host-side veth has this interface index.
    pub fn member(&self, interface: u32) -> Result<Option<Member>> {
        absent_is_none("MEMBERS", self.members.get(&interface, 0))
    }

    /// The members, by the interface index of their host-side veths.
    pub fn members(&self) -> Result<Vec<(u32, Member)>> {
        all("MEMBERS", &self.members)
    }

    /// When members answered a search last, by the interface index of their host-side veths; the kernel's monotonic clock.
    /// Only of clients that are remembered.
    pub fn last_answers(&self) -> Result<BTreeMap<u32, Duration>> {
        let searchers: HashMap<_, SearcherKey, Searcher> =
            typed(&self.directory.join(MAPS), "SEARCHERS", Map::LruHashMap)?;
        let mut found = BTreeMap::new();
        for (_, searcher) in all("SEARCHERS", &searchers)?.iter().filter(|(_, by)| by.member != 0) {
            let last: &mut Duration = found.entry(searcher.member).or_default();
            *last = Duration::from_nanos(searcher.seen).max(*last);
        }
        Ok(found)
    }

    /// How many slots of all rosters are taken.
    pub fn roster_entries(&self) -> Result<usize> {
        let roster = range("ROSTER", &self.roster, 0, self.roster.len())?;
        Ok(roster.iter().filter(|interface| **interface != 0).count())
    }

    /// Makes a pod a member: records the attachment, declares its names, then makes the member visible to the
    /// programs. The caller holds the lock.
    pub fn join(
        &mut self,
        key: AttachmentKey,
        mut attachment: Attachment,
        member: Member,
        prefixes: &[String],
    ) -> Result<()> {
        let domain = u32::from(member.domain);
        let slot = self.free_slot(domain)?;
        attachment.slot = slot as u16;
        wrote("ATTACHMENTS", self.attachments.insert(key, attachment, 0))?;
        self.declare(&attachment, prefixes)?;
        wrote("MEMBERS", self.members.insert(attachment.member, member, 0))?;
        wrote("ROSTER", self.roster.set(roster_index(domain, slot), attachment.member, 0))?;
        if slot >= self.roster_length(domain)? {
            wrote("ROSTER_LENGTH", self.roster_length.set(domain, slot + 1, 0))?;
        }
        Ok(())
    }

    /// Undoes [`State::join`]. Not an error if parts are already gone. The pod's external ports lead nowhere from now on; its
    /// owner gets them back, or [`State::tend_ports`] ends them. The caller holds the lock.
    pub fn leave(&mut self, key: &AttachmentKey, attachment: &Attachment) -> Result<()> {
        let place = roster_index(u32::from(attachment.domain), u32::from(attachment.slot));
        if self.roster.get(&place, 0).is_ok_and(|interface| interface == attachment.member) {
            wrote("ROSTER", self.roster.set(place, 0, 0))?;
        }
        self.undeclare(attachment)?;
        let member = self.member(attachment.member)?;
        if member.is_none_or(|member| member.generation == attachment.generation) {
            removed("MEMBERS", self.members.remove(&attachment.member))?;
            removed("PORT_COUNTS", self.port_counts.remove(&share::of_pod(attachment.member)))?;
        }
        removed("ATTACHMENTS", self.attachments.remove(key))
    }

    fn free_slot(&self, domain: u32) -> Result<u32> {
        let roster = range("ROSTER", &self.roster, roster_index(domain, 0), abi::SLOTS)?;
        if let Some(free) = roster.iter().position(|interface| *interface == 0) {
            return Ok(free as u32);
        }
        let name =
            self.domains.get(&domain, 0).map(|domain| abi::text(&domain.name).to_owned()).unwrap_or_default();
        Err(Error::DomainFull { domain: name, limit: abi::SLOTS })
    }

    fn roster_length(&self, domain: u32) -> Result<u32> {
        self.roster_length.get(&domain, 0).map_err(|error| Error::bpf("cannot read ROSTER_LENGTH", &error))
    }
}
