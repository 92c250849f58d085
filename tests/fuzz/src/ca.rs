//! Datagrams of Channel Access. The first byte chooses the direction.
#![no_main]

mod named;

use libfuzzer_sys::fuzz_target;
use wire::{
    Direction, Step, ca,
    names::{ca_reply, ca_search},
};

fuzz_target!(|input: &[u8]| {
    let Some((first, datagram)) = input.split_first() else { return };
    let direction = if first & 1 == 0 { Direction::Announce } else { Direction::Answer };
    let _ = ca::walk(datagram, direction, |step| {
        if let Step::Names(_, found) = step {
            named::check(&found, datagram);
        }
    });
    ca_search(datagram).for_each(|(_, name)| named::check_name(name, datagram));
    assert!(ca_reply(datagram).count() <= datagram.len() / 16);
});
