//! Datagrams of a described protocol. The first bytes are its description.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::data::{Bytes, Field, MISSING, What, kind};

fuzz_target!(|input: &[u8]| {
    let Some((description, datagram)) = input.split_first_chunk::<14>() else { return };
    let half = |at: usize| u16::from_be_bytes([description[at], description[at + 1]]);
    let word = |at: usize| u32::from(half(at)) << 16 | u32::from(half(at + 2));
    let mask = word(6);
    let when = Bytes { at: half(4), reserved: 0, mask, value: word(10) & mask };
    let field = Field { kind: half(0), at: half(2), when };
    let load = |at: u32| {
        let half = datagram.get(at as usize..).and_then(|rest| rest.first_chunk());
        half.map_or(MISSING, |half| u32::from(u16::from_be_bytes(*half)))
    };
    let value = field.read(load);
    let at = field.at as usize;
    match value.what {
        What::Address => {
            let found = u32::from_be_bytes(datagram[at..at + 4].try_into().unwrap());
            assert!(field.kind == kind::ADDRESS && (value.number == found || value.number == 0));
        }
        What::Port => {
            assert_eq!(field.order().bytes(value.number as u16), datagram[at..at + 2]);
            assert!(value.number <= 0xffff);
        }
        What::Nothing | What::Unsupported | What::Truncated => assert_eq!(value.number, 0),
    }
    assert!(field.kind == kind::NONE || value.what != What::Nothing || !when.match_in(load));
});
