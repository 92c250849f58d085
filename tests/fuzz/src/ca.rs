//! Datagrams of Channel Access. The first byte chooses the direction.
#![no_main]

mod named;

use libfuzzer_sys::fuzz_target;
use wire::{Direction, Step, ca};

fuzz_target!(|input: &[u8]| {
    let Some((first, datagram)) = input.split_first() else { return };
    let direction = if first & 1 == 0 { Direction::Announce } else { Direction::Answer };
    let _ = ca::walk(datagram, direction, |step| {
        if let Step::Names(_, found) = step {
            named::check(&found, datagram);
        }
    });
});
