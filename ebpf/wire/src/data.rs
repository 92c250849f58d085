//! Protocols as data: datagrams of a fixed layout, described by a few numbers instead of a parser.
//!
//! A [`Descriptor`] says which bytes identify a datagram, and where it names its sender's address and port. A datagram may
//! name only one transport address, but repeatedly. Numbers are in host order, offsets count from the start of the UDP
//! payload.

use crate::Order;

/// The most fields that a descriptor can have.
pub const FIELDS: usize = 8;

/// What a field is, and flags of a port; the values of [`Field::kind`].
pub mod kind {
    /// The field is unused.
    pub const NONE: u16 = 0;
    /// Four bytes of an IPv4 address.
    pub const ADDRESS: u16 = 1;
    /// Two bytes of a port.
    pub const PORT: u16 = 2;
    /// The port is in little-endian order.
    pub const LITTLE: u16 = 4;
    /// The port is a UDP port, not a TCP port.
    pub const UDP: u16 = 8;
    /// The port has four bytes, the two more significant ones zero.
    pub const WIDE: u16 = 16;
}

/// Bytes that must match: those of the big-endian word at `at` that `mask` selects.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// Offset of four bytes.
    pub at: u16,
    /// Zero.
    pub reserved: u16,
    /// Which bits are compared; if none, every datagram matches.
    pub mask: u32,
    /// Their values.
    pub value: u32,
}

/// A field that holds an address or a port, if its condition matches.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// From [`kind`].
    pub kind: u16,
    /// Offset of the address, or of the two less significant bytes of the port.
    pub at: u16,
    /// The condition.
    pub when: Bytes,
}

/// The layout of a protocol's datagrams.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Identifies a datagram of the protocol.
    pub must: Bytes,
    /// Not 0 if a datagram to the protocol's port may expect an answer.
    pub search: u32,
    /// Where datagrams name a transport address.
    pub fields: [Field; FIELDS],
}

/// Stands for two bytes past the end of a datagram.
pub const MISSING: u32 = u32::MAX;

/// What a field of a datagram holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Nothing: its condition is not met.
    Nothing,
    /// An address; zeros where it is left to the source, which a datagram expresses as zeros or 255.255.255.255.
    Address,
    /// A port.
    Port,
    /// Four bytes that are not a port.
    Unsupported,
    /// It reaches past the end of the datagram.
    Truncated,
}

/// What a field holds, with the number: a port, or an address as a big-endian word.
///
/// Plain numbers, here and where bytes are loaded: for an enum with contents, or an option, the compiler spills registers
/// that were never written, which the kernel's verifier rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// What it is.
    pub what: What,
    /// The number; 0 where there is none.
    pub number: u32,
}

impl Bytes {
    /// Matches every datagram.
    pub const ANY: Self = Self { at: 0, reserved: 0, mask: 0, value: 0 };

    /// Whether they match in a datagram; `load` returns its big-endian half word at an offset, or [`MISSING`].
    #[inline(always)]
    pub fn match_in(&self, load: impl Fn(u32) -> u32) -> bool {
        if self.mask == 0 {
            return true;
        }
        let (high, low) = (load(u32::from(self.at)), load(u32::from(self.at) + 2));
        high != MISSING && low != MISSING && (high << 16 | low) & self.mask == self.value
    }
}

impl Field {
    /// An unused field.
    pub const NONE: Self = Self { kind: kind::NONE, at: 0, when: Bytes::ANY };

    /// What it holds in a datagram; `load` returns its big-endian half word at an offset, or [`MISSING`].
    #[inline(always)]
    pub fn read(&self, load: impl Fn(u32) -> u32) -> Value {
        if self.kind == kind::NONE || !self.when.match_in(&load) {
            return Value { what: What::Nothing, number: 0 };
        }
        let half = load(u32::from(self.at));
        let other = if self.is_double() { load(self.other()) } else { 0 };
        if half == MISSING || other == MISSING {
            return Value { what: What::Truncated, number: 0 };
        }
        if self.kind == kind::ADDRESS {
            return Value { what: What::Address, number: own(half << 16 | other) };
        }
        if other != 0 {
            return Value { what: What::Unsupported, number: 0 };
        }
        let [a, b] = (half as u16).to_be_bytes();
        Value { what: What::Port, number: u32::from(self.order().port([a, b])) }
    }

    /// Whether it has four bytes.
    #[inline(always)]
    const fn is_double(&self) -> bool {
        self.kind == kind::ADDRESS || self.kind & kind::WIDE != 0
    }

    /// Where the other two of four bytes are: before the less significant ones of a big-endian port, otherwise after `at`.
    #[inline(always)]
    fn other(&self) -> u32 {
        let at = u32::from(self.at);
        if self.kind == kind::ADDRESS || self.is_little() { at + 2 } else { at.wrapping_sub(2) }
    }

    /// The byte order of the port.
    #[inline(always)]
    pub const fn order(&self) -> Order {
        if self.is_little() { Order::Little } else { Order::Big }
    }

    /// Whether the port is a UDP port.
    #[inline(always)]
    pub const fn is_udp(&self) -> bool {
        self.kind & kind::UDP != 0
    }

    #[inline(always)]
    const fn is_little(&self) -> bool {
        self.kind & kind::LITTLE != 0
    }
}

/// The address; zeros if it is left to the source.
#[inline(always)]
const fn own(address: u32) -> u32 {
    if address == u32::MAX { 0 } else { address }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captured::bytes;
    use proptest::prelude::*;

    /// RecSync's announcement, as RecCeiver's `Announce` struct packs it: TCP port 41277 of whoever sends it, key 7.
    const RECSYNC: &str = "5243 0000 ffffffff a13d 0000 00000007";

    fn load(payload: &[u8]) -> impl Fn(u32) -> u32 {
        move |at| {
            let half = payload.get(at as usize..).and_then(|rest| rest.first_chunk());
            half.map_or(MISSING, |half| u32::from(u16::from_be_bytes(*half)))
        }
    }

    fn read(kind: u16, at: u16, payload: &[u8]) -> (What, u32) {
        let Value { what, number } = Field { kind, at, when: Bytes::ANY }.read(load(payload));
        (what, number)
    }

    /// Puts `to` where `payload` names `from`, as the programs do.
    fn rename(fields: &[Field], payload: &mut [u8], from: (u32, u16), to: (u32, u16)) {
        for field in fields {
            let at = usize::from(field.at);
            match field.read(load(payload)) {
                Value { what: What::Address, number } if number == from.0 => {
                    payload[at..at + 4].copy_from_slice(&to.0.to_be_bytes());
                }
                Value { what: What::Port, number } if number == u32::from(from.1) => {
                    payload[at..at + 2].copy_from_slice(&field.order().bytes(to.1));
                }
                _ => {}
            }
        }
    }

    const POD: (u32, u16) = (0x0a58_0005, 5075);
    const UPLINK: (u32, u16) = (0xac17_000a, 61000);

    #[test]
    fn an_announcement_names_the_port_of_its_sender() {
        let payload = bytes(RECSYNC);
        assert_eq!(read(kind::ADDRESS, 4, &payload), (What::Address, 0));
        assert_eq!(read(kind::PORT, 8, &payload), (What::Port, 41277));
    }

    #[test]
    fn ports_have_two_or_four_bytes_in_either_order() {
        let payload = bytes("0000a13d 3da10000 0001a13d");
        assert_eq!(read(kind::PORT | kind::WIDE, 2, &payload), (What::Port, 41277));
        assert_eq!(read(kind::PORT | kind::WIDE | kind::LITTLE, 4, &payload), (What::Port, 41277));
        assert_eq!(read(kind::PORT | kind::WIDE, 10, &payload), (What::Unsupported, 0));
        assert_eq!(read(kind::PORT, 11, &payload), (What::Truncated, 0));
        assert_eq!(read(kind::ADDRESS, 10, &payload), (What::Truncated, 0));
    }

    #[test]
    fn a_field_is_one_only_where_the_bytes_beside_it_match() {
        let when = Bytes { at: 0, reserved: 0, mask: 0xffff_0000, value: 0x8104_0000 };
        let field = Field { kind: kind::PORT, at: 8, when };
        let what = |payload: &[u8]| field.read(load(payload)).what;
        let forwarded = bytes("8104 0012 0a580005 bac0 0100");
        assert_eq!(field.read(load(&forwarded)), Value { what: What::Port, number: 47808 });
        assert_eq!(what(&bytes("810b 0012 0a580005 bac0 0100")), What::Nothing);
        assert_eq!(what(&forwarded[..3]), What::Nothing, "too short to match");
    }

    /// An arbitrary field, with its condition next to it or overlapping it.
    fn any_field() -> impl Strategy<Value = Field> {
        let bytes = (0u16..40, any::<u32>(), any::<u32>());
        (0u16..32, 0u16..40, bytes, any::<bool>()).prop_map(|(flags, at, (when, mask, value), always)| {
            let kind = if flags & kind::ADDRESS == 0 { flags | kind::PORT } else { kind::ADDRESS };
            let mask = if always { 0 } else { mask & 0x0101_0101 };
            Field { kind, at, when: Bytes { at: when, reserved: 0, mask, value: value & mask } }
        })
    }

    proptest! {
        #[test]
        fn nothing_but_the_fields_is_touched(
            fields in prop::collection::vec(any_field(), 0..FIELDS),
            mut payload in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..48),
            names in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..3),
        ) {
            for (index, little) in names {
                let at = index.index(payload.len().max(1));
                let port = if little { Order::Little.bytes(POD.1) } else { Order::Big.bytes(POD.1) };
                if let Some(place) = payload.get_mut(at..at + 2) { place.copy_from_slice(&port); }
            }
            let before = payload.clone();
            rename(&fields, &mut payload, POD, UPLINK);
            prop_assert_eq!(before.len(), payload.len());
            let declared = |at: usize| fields.iter().any(|field| {
                let (first, length) = (usize::from(field.at), if field.kind == kind::ADDRESS { 4 } else { 2 });
                (first..first + length).contains(&at)
            });
            for (at, (old, new)) in before.iter().zip(&payload).enumerate() {
                prop_assert!(old == new || declared(at), "byte {} changed", at);
            }
        }

        #[test]
        fn a_rewrite_of_fields_that_do_not_overlap_is_undone_by_its_inverse(
            wide: bool, little: bool, own_address: bool, mut payload in prop::collection::vec(any::<u8>(), 20..48),
        ) {
            let order = if little { kind::LITTLE } else { 0 };
            let port = kind::PORT | order | if wide { kind::WIDE } else { 0 };
            let fields = [
                Field { kind: kind::ADDRESS, at: 4, when: Bytes::ANY },
                Field { kind: port, at: 12, when: Bytes::ANY },
            ];
            payload[4..8].copy_from_slice(&if own_address { POD.0.to_be_bytes() } else { [255; 4] });
            payload[10..16].fill(0);
            payload[12..14].copy_from_slice(&fields[1].order().bytes(POD.1));
            let before = payload.clone();
            rename(&fields, &mut payload, POD, UPLINK);
            prop_assert_eq!(fields[1].read(load(&payload)), Value { what: What::Port, number: 61000 });
            rename(&fields, &mut payload, UPLINK, POD);
            prop_assert_eq!(before, payload);
        }
    }
}
