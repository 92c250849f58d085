//! Which names members declare to have: written by whoever makes a pod a member, or removes it. Maps `PREFIXES`, `OWNED`,
//! `DECLARED`.
//!
//! In an order in which no name is kept from a member that has it: it counts as declaring only while all that it declares is
//! there.

use abi::{Attachment, DECLARED, Declared, Owned, Owners, PREFIX, Prefixes, owned_bits};
use aya::maps::lpm_trie::Key;

use super::State;
use crate::{
    Error, Result,
    maps::{absent_is_none, is_full, removed, wrote},
};

impl State {
    /// The beginnings of names that a member declares; none if it gets searches for all names.
    pub fn prefixes(&self, member: &Attachment) -> Result<Vec<String>> {
        if self.is_declaring(member)? { self.declared_by(member) } else { Ok(vec![]) }
    }

    /// Whether a member declares names without effect, because there was no room for them: it gets searches for all.
    pub fn lacks_room(&self, member: &Attachment) -> Result<bool> {
        Ok(!self.is_declaring(member)? && !self.declared_by(member)?.is_empty())
    }

    fn is_declaring(&self, member: &Attachment) -> Result<bool> {
        let (word, bit) = place(member);
        Ok(self.of_domain(member.domain)?.places[word] & bit != 0)
    }

    fn declared_by(&self, member: &Attachment) -> Result<Vec<String>> {
        let declared = absent_is_none("PREFIXES", self.prefixes.get(&member.member, 0))?;
        let declared = declared.filter(|declared| declared.generation == member.generation);
        Ok(declared.as_ref().map(split).unwrap_or_default())
    }

    fn of_domain(&self, domain: u16) -> Result<Declared> {
        self.declared.get(&domain.into(), 0).map_err(|error| Error::bpf("cannot read DECLARED", &error))
    }

    /// All beginnings of names that members declare, each with its domain.
    pub fn owned(&self) -> Result<Vec<(u16, String)>> {
        let read = |key: Key<Owned>| {
            let Owned { domain, prefix } = key.data();
            (domain, abi::text(&prefix).to_owned())
        };
        let keys = self.owned.keys().map(|key| key.map(read));
        keys.collect::<Result<_, _>>().map_err(|error| Error::bpf("cannot read OWNED", &error))
    }

    /// How many members of a domain declare their names.
    pub fn declaring(&self, domain: u16) -> Result<u64> {
        Ok(self.of_domain(domain)?.members)
    }

    /// Declares that a member has only names that begin so; without effect if there is no room for them. The caller holds the lock.
    pub(crate) fn declare(&mut self, attachment: &Attachment, prefixes: &[String]) -> Result<()> {
        if prefixes.is_empty() {
            return self.mark(attachment, false); // or what an earlier member left would hold
        }
        let declared = joined(attachment.generation, prefixes).ok_or(Error::LongPrefixes)?;
        wrote("PREFIXES", self.prefixes.insert(attachment.member, declared, 0))?;
        for (at, prefix) in prefixes.iter().enumerate() {
            if !self.change_owners(attachment, prefix, |word, bit| word | bit)? {
                return self.disown(attachment, &prefixes[..at]);
            }
        }
        self.mark(attachment, true)
    }

    /// Undoes [`State::declare`]. Not an error if parts are already gone. The caller holds the lock.
    pub(crate) fn undeclare(&mut self, attachment: &Attachment) -> Result<()> {
        let declared = absent_is_none("PREFIXES", self.prefixes.get(&attachment.member, 0))?;
        let Some(declared) = declared.filter(|declared| declared.generation == attachment.generation) else {
            return Ok(());
        };
        self.disown(attachment, &split(&declared))?;
        removed("PREFIXES", self.prefixes.remove(&attachment.member))
    }

    fn disown(&mut self, attachment: &Attachment, prefixes: &[String]) -> Result<()> {
        self.mark(attachment, false)?;
        for prefix in prefixes {
            self.change_owners(attachment, prefix, |word, bit| word & !bit)?;
        }
        Ok(())
    }

    /// Makes the member one that declares its names, or one that does not.
    fn mark(&mut self, attachment: &Attachment, declares: bool) -> Result<()> {
        let mut declared = self.of_domain(attachment.domain)?;
        let (word, bit) = place(attachment);
        let before = declared.places[word];
        declared.places[word] = if declares { before | bit } else { before & !bit };
        if declared.places[word] == before {
            return Ok(());
        }
        declared.members = declared.places.iter().map(|word| u64::from(word.count_ones())).sum();
        wrote("DECLARED", self.declared.set(attachment.domain.into(), declared, 0))
    }

    /// Changes whether the member owns `prefix`; one without owners is removed. False if there is no room for it.
    fn change_owners(
        &mut self,
        attachment: &Attachment,
        prefix: &str,
        change: fn(u64, u64) -> u64,
    ) -> Result<bool> {
        let key = key(attachment.domain, prefix);
        let found = absent_is_none("OWNED", self.owned.get(&key, 0))?;
        // A look-up finds a shorter one, too.
        let found = found.filter(|owners| owners.bits == key.prefix_len());
        let mut owners = found.unwrap_or(Owners { bits: key.prefix_len(), ..Owners::NONE });
        let (word, bit) = place(attachment);
        owners.places[word] = change(owners.places[word], bit);
        if owners.places == Owners::NONE.places {
            return removed("OWNED", self.owned.remove(&key)).map(|()| true);
        }
        match self.owned.insert(&key, owners, 0) {
            Err(error) if is_full(&error) => Ok(false),
            written => wrote("OWNED", written).map(|()| true),
        }
    }
}

/// The word and the bit of a member's place.
fn place(attachment: &Attachment) -> (usize, u64) {
    (usize::from(attachment.slot / 64), 1 << (attachment.slot % 64))
}

fn key(domain: u16, prefix: &str) -> Key<Owned> {
    let mut owned = Owned { domain, prefix: [0; PREFIX] };
    let length = prefix.len().min(PREFIX);
    owned.prefix[..length].copy_from_slice(&prefix.as_bytes()[..length]);
    Key::new(owned_bits(length as u32), owned)
}

/// The prefixes as a record; `None` if they are too long.
fn joined(generation: u32, prefixes: &[String]) -> Option<Prefixes> {
    let bytes = prefixes.join("\0").into_bytes();
    let mut text = [0; DECLARED];
    text.get_mut(..bytes.len())?.copy_from_slice(&bytes);
    Some(Prefixes { generation, length: bytes.len() as u32, text })
}

fn split(declared: &Prefixes) -> Vec<String> {
    let text = declared.text.get(..declared.length as usize).unwrap_or_default();
    text.split(|byte| *byte == 0).map(|prefix| String::from_utf8_lossy(prefix).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_back_as_they_were_written() {
        let prefixes = ["BL07I-EA-".to_owned(), "A".to_owned(), "x".repeat(PREFIX)];
        assert_eq!(joined(7, &prefixes).as_ref().map(split).as_deref(), Some(&prefixes[..]));
        assert_eq!(joined(7, &["x".repeat(DECLARED + 1)]).map(|declared| declared.generation), None);
    }

    #[test]
    fn a_key_has_the_domain_and_the_first_bytes() {
        let key = key(0x0102, "BL");
        assert_eq!((key.prefix_len(), { key.data().domain }), (32, 0x0102));
        assert_eq!(&key.data().prefix[..3], b"BL\0");
    }
}
