//! Messages of GigE Vision's control protocol. The first byte chooses the direction.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{Direction, gvcp};

fuzz_target!(|input: &[u8]| {
    let Some((first, datagram)) = input.split_first() else { return };
    let direction = if first & 1 == 0 { Direction::Announce } else { Direction::Answer };
    let _ = gvcp::values(datagram, direction, |value| {
        let at = value.at as usize;
        assert!(at >= gvcp::HEADER as usize + 4 && at + 4 <= datagram.len(), "a value is in the message");
    });
});
