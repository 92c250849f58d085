//! Where a search names PVs: a walk from one name to the next, a step at a time, as a loop in the kernel takes them. Names with
//! their ids, for user space, are in [`crate::names`].

use crate::{
    Direction, Kind, Order, Step,
    ca::{self, Chain, EXTENDED, EXTENSION},
    pva::{self, MAGIC, SEARCH, SEARCH_BODY},
};

/// Bytes of a datagram's payload.
pub trait Load {
    /// `N` bytes at `offset`; `None` past the end.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

/// What a step finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A name, or a name and zeros.
    Name {
        /// Its offset, from the start of the UDP payload.
        at: u32,
        /// Its bytes, all in the datagram.
        length: u32,
    },
    /// Something else: more may follow.
    Other,
    /// The end.
    End,
}

/// A walk along the names in a search.
pub trait Asked: Sized {
    /// The most steps that a datagram needs.
    const STEPS: u32;

    /// Before a walk.
    const NEW: Self;

    /// Begins a walk along a UDP payload of `length` bytes that was found to be sound; false if it is no search.
    fn begin(&mut self, length: u32, load: &impl Load) -> bool;

    /// One step.
    fn step(&mut self, load: &impl Load) -> Found;
}

/// A search of Channel Access.
#[derive(Clone, Copy, Debug)]
pub struct CaAsked(Chain);

impl Asked for CaAsked {
    const STEPS: u32 = ca::MAX_MESSAGES;
    const NEW: Self = Self(Chain::new(0));

    #[inline(always)]
    fn begin(&mut self, length: u32, _: &impl Load) -> bool {
        *self = Self(Chain::new(length));
        true
    }

    #[inline(always)]
    fn step(&mut self, load: &impl Load) -> Found {
        let Self(chain) = self;
        let offset = chain.offset;
        let Some(header) = load.load(offset).filter(|_| chain.has_next()) else { return Found::End };
        let extended = u16::from_be_bytes([header[2], header[3]]) == EXTENDED;
        let at = offset + ca::HEADER + if extended { EXTENSION } else { 0 };
        match ca::step(chain, &header, Direction::Announce, |at| load.load(at)) {
            Ok(Step::Plain(Kind::Search)) => Found::Name { at, length: chain.offset.saturating_sub(at) },
            Ok(_) => Found::Other,
            Err(_) => Found::End,
        }
    }
}

/// A search of PV Access.
#[derive(Clone, Copy, Debug)]
pub struct PvaAsked {
    /// Of what comes next.
    offset: u32,
    end: u32,
    /// How many of the protocols, or of the names, are left.
    left: u32,
    in_names: bool,
    order: Order,
}

impl Asked for PvaAsked {
    /// What the largest datagram on a network with jumbo frames holds.
    const STEPS: u32 = 2048;
    const NEW: Self = Self { offset: 0, end: 0, left: 0, in_names: false, order: Order::Big };

    #[inline(always)]
    fn begin(&mut self, length: u32, load: &impl Load) -> bool {
        let Some([magic, _, flags, command]) = load.load(0) else { return false };
        if magic != MAGIC || command != SEARCH {
            return false;
        }
        self.order = if pva::is_big_endian(flags) { Order::Big } else { Order::Little };
        (self.offset, self.end, self.in_names) = (pva::HEADER + SEARCH_BODY, length, false);
        let protocols = self.size(load);
        self.left = protocols.unwrap_or(0);
        protocols.is_some()
    }

    #[inline(always)]
    fn step(&mut self, load: &impl Load) -> Found {
        if self.left == 0 {
            return if self.in_names { Found::End } else { self.begin_names(load).unwrap_or(Found::End) };
        }
        self.left -= 1;
        self.offset += if self.in_names { 4 } else { 0 }; // the id
        let Some(length) = self.size(load) else { return Found::End };
        let at = self.offset;
        if length > self.end.saturating_sub(at) {
            return Found::End;
        }
        self.offset += length;
        if self.in_names { Found::Name { at, length } } else { Found::Other }
    }
}

impl PvaAsked {
    #[inline(always)]
    fn begin_names(&mut self, load: &impl Load) -> Option<Found> {
        self.left = u32::from(self.order.port(load.load(self.offset)?));
        self.offset += 2;
        self.in_names = true;
        Some(Found::Other)
    }

    /// Reads a size: one byte, or 254 and four bytes; 255 means null.
    #[inline(always)]
    fn size(&mut self, load: &impl Load) -> Option<u32> {
        let [first] = load.load(self.offset)?;
        self.offset += 1;
        if first < 254 {
            return Some(u32::from(first));
        }
        if first == 255 {
            return Some(0);
        }
        let bytes = load.load(self.offset)?;
        self.offset += 4;
        Some(match self.order {
            Order::Big => u32::from_be_bytes(bytes),
            Order::Little => u32::from_le_bytes(bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        captured::{CPP_SEARCH, PVXS_REPLY, PVXS_SEARCH, bytes},
        names::{ca_search, pva_search},
    };
    use proptest::prelude::*;

    impl Load for &[u8] {
        fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
            self.get(offset as usize..)?.first_chunk().copied()
        }
    }

    /// All names, up to the first zero.
    fn names<A: Asked>(datagram: &[u8]) -> Option<Vec<&[u8]>> {
        let mut asked = A::NEW;
        if !asked.begin(datagram.len() as u32, &datagram) {
            return None;
        }
        let mut found = vec![];
        for _ in 0..A::STEPS {
            match asked.step(&datagram) {
                Found::Name { at, length } => {
                    let name = &datagram[at as usize..(at + length) as usize];
                    found.push(name.split(|byte| *byte == 0).next().unwrap_or_default());
                }
                Found::Other => {}
                Found::End => break,
            }
        }
        Some(found)
    }

    fn same<'a>(names: impl Iterator<Item = (u32, &'a [u8])>) -> Vec<&'a [u8]> {
        names.map(|(_, name)| name).collect()
    }

    #[test]
    fn captured_searches_give_the_names_that_user_space_reads() {
        for search in [PVXS_SEARCH, CPP_SEARCH] {
            let search = bytes(search);
            assert_eq!(names::<PvaAsked>(&search), Some(same(pva_search(&search))));
        }
        assert_eq!(names::<PvaAsked>(&bytes(PVXS_REPLY)), None);
    }

    proptest! {
        #[test]
        fn searches_of_channel_access_give_the_names_that_user_space_reads(
            asked in prop::collection::vec("[A-Z:]{0,60}", 0..8),
            extended in any::<bool>(),
        ) {
            let mut datagram = vec![0; 16];
            for name in &asked {
                let size = name.len() as u16 / 8 * 8 + 8;
                let (short, long) = if extended { (EXTENDED, &u32::from(size).to_be_bytes()[..]) } else { (size, &[][..]) };
                datagram.extend([[0, 6], short.to_be_bytes(), [0, 5], [0, 13]].concat());
                datagram.extend([0; 8]);
                datagram.extend(long);
                datagram.extend(if extended { &[0; 4][..] } else { &[] });
                datagram.extend(name.as_bytes());
                datagram.resize(datagram.len() + usize::from(size) - name.len(), 0);
            }
            prop_assert_eq!(names::<CaAsked>(&datagram), Some(same(ca_search(&datagram))));
        }

        #[test]
        fn whatever_arrives_names_lie_inside_the_datagram(
            mut datagram in prop::collection::vec(prop_oneof![Just(0u8), Just(6), Just(3), Just(8), any::<u8>()], 40..300),
            sound in any::<bool>(),
        ) {
            if sound {
                datagram[..8].copy_from_slice(&[0xca, 2, 0x80, 3, 0, 0, 0, 0]);
                let length = (datagram.len() as u32 - 8).to_be_bytes();
                datagram[4..8].copy_from_slice(&length);
            }
            let _ = names::<CaAsked>(&datagram);
            if let Some(found) = names::<PvaAsked>(&datagram) {
                let read = same(pva_search(&datagram));
                let cut: Vec<_> = read.iter().map(|name| name.split(|byte| *byte == 0).next().unwrap_or_default()).collect();
                prop_assert_eq!(found, cut);
            }
        }
    }
}
