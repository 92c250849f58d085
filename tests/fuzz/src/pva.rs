//! Datagrams of PV Access. The first byte chooses the direction.
#![no_main]

mod named;

use libfuzzer_sys::fuzz_target;
use wire::{
    Direction,
    names::{pva_reply, pva_search},
    pva,
};

fuzz_target!(|input: &[u8]| {
    let Some((first, datagram)) = input.split_first() else { return };
    let direction = if first & 1 == 0 { Direction::Announce } else { Direction::Answer };
    if let Ok(Some((_, found))) = pva::parse(datagram, direction) {
        named::check(&found, datagram);
    }
    pva_search(datagram).for_each(|(_, name)| named::check_name(name, datagram));
    assert!(pva_reply(datagram).count() <= datagram.len() / 4);
});
