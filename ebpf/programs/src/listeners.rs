//! Which members had a socket for such datagrams, so that pods that do not listen cost nothing.
//!
//! Only a hint: whether a member gets a copy is decided by looking for its socket. Except in a storm all members are visited, and
//! in a storm every tenth of a second ([`Listeners::look`]).

use abi::{Endpoint, Listeners, ListenersKey};
use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::{
    atomic,
    maps::{LISTENERS, own},
    skb::now,
};

/// One entry: what stands for what is known where there is no room for that.
#[map]
static NOBODY: PerCpuArray<Listeners> = PerCpuArray::with_max_entries(1, 0);

/// What is known of those who listen for what goes `to` members of `domain`.
#[inline(always)]
pub fn of(domain: u32, to: &Endpoint) -> Option<*mut Listeners> {
    let key = ListenersKey { domain: domain as u16, port: to.port, address: to.address };
    if let Some(known) = LISTENERS.get_ptr_mut(key) {
        return Some(known);
    }
    let _ = LISTENERS.insert(key, Listeners::NONE, 0);
    LISTENERS.get_ptr_mut(key).or_else(nobody)
}

/// What is known of nobody.
#[inline(always)]
fn nobody() -> Option<*mut Listeners> {
    let known = own(&NOBODY)?;
    *known = Listeners::NONE;
    Some(known)
}

/// Whether a datagram that begins now visits all members.
#[inline(always)]
pub fn looks_at_all(known: *mut Listeners) -> bool {
    // SAFETY: a map's memory stays a value as long as the program runs. Of looks at the same time one may not be counted.
    unsafe { (*known).look(now()) }
}

/// The word of 64 places with `slot`, of which a bit is set for each that listens.
#[inline(always)]
pub fn places(known: *mut Listeners, slot: u32) -> u64 {
    // SAFETY: as above; the index is below 16.
    unsafe { *word(known, slot) }
}

/// Notes whether the member at `slot` listens.
#[inline(always)]
pub fn note(known: *mut Listeners, slot: u32, listens: bool) {
    let (word, bit) = (word(known, slot), 1 << (slot % 64));
    if listens { atomic::set(word, bit) } else { atomic::clear(word, bit) }
}

#[inline(always)]
fn word(known: *mut Listeners, slot: u32) -> *mut u64 {
    // SAFETY: the index is below 16.
    unsafe { (&raw mut (*known).places).cast::<u64>().add(((slot / 64) & 15) as usize) }
}
