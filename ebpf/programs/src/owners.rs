//! Which members may have the names that a search asks for: the owners of their beginnings, and all members that declare none.
//!
//! Found out once a datagram, before it comes to the first member. The answer waits in an entry of `WANTED`, and the datagram has
//! its ticket in place of its source MAC address, so that it ends with the packet wherever that is lost. Where the answer was
//! overwritten meanwhile, because so many datagrams are in the fan, or there is none, all members are visited: no name is
//! ever kept from a pod that has it.

use core::{ffi::c_void, mem::MaybeUninit};

use abi::{IN_FLIGHT, NESTED, Owned, PREFIX, Protocol, WORDS, Wanted, mac_ticket, owned_bits, ticket_mac};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::bpf_loop,
    macros::map,
    maps::{Array, PerCpuArray, lpm_trie::Key},
};
use wire::asked::{Asked, CaAsked, Found, Load, PvaAsked};

use crate::{
    atomic,
    maps::{DECLARED, OWNED, own},
    packet::{MAC_SOURCE, PAYLOAD},
    skb::Skb,
};

/// The answers, by ticket.
#[map]
static WANTED: Array<Wanted> = Array::with_max_entries(IN_FLIGHT, 0);
/// One entry: how many tickets were given.
#[map]
static TICKET: Array<u64> = Array::with_max_entries(1, 0);
/// One entry: how far this CPU is in a search of Channel Access.
#[map]
static CA_ASKED: PerCpuArray<CaAsked> = PerCpuArray::with_max_entries(1, 0);
/// One entry: the same for PV Access.
#[map]
static PVA_ASKED: PerCpuArray<PvaAsked> = PerCpuArray::with_max_entries(1, 0);
/// One entry: what this CPU has found so far, then what it recalls.
#[map]
static MATCHED: PerCpuArray<Matched> = PerCpuArray::with_max_entries(1, 0);

/// What was found of a datagram's names.
struct Matched {
    /// Who may have them.
    places: [u64; WORDS],
    /// The beginning that is looked up.
    key: Key<Owned>,
    /// Not 0 if the end was reached. Numbers: the verifier does not know that a bool is one of two.
    complete: u32,
    /// Not 0 if a name is everybody's.
    open: u32,
    /// Not 0 if there was a name.
    any: u32,
}

/// Finds out who may have the names in a datagram of `protocol` with `length` bytes of payload for members of `domain`, and gives
/// it a ticket; 0 if all may. As `recall` and `forget`, a function that the verifier looks at once: it would follow each way
/// through it through the rest of the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn find_owners(skb: *mut __sk_buff, domain: u32, protocol: u32, length: u32) -> u32 {
    let skb = Skb::from_raw(skb);
    let (Some(declared), Some(matched)) = (DECLARED.get(domain), own(&MATCHED)) else { return 0 };
    for word in 0..WORDS {
        matched.places[word] = !declared.places[word];
    }
    (matched.complete, matched.open, matched.any) = (0, 0, 0);
    let known = if protocol == Protocol::Ca as u32 {
        walk(skb, domain as u16, length, &CA_ASKED)
    } else if protocol == Protocol::Pva as u32 {
        walk(skb, domain as u16, length, &PVA_ASKED)
    } else {
        false
    };
    (known && note(skb)) as u32
}

/// Whether a member of `domain` says which names it has.
#[inline(always)]
pub fn are_declared(domain: u32) -> bool {
    DECLARED.get(domain).is_some_and(|declared| declared.members != 0)
}

/// Walks along the names; true if it is known who may have them.
#[inline(always)]
fn walk<A: Asked + 'static>(skb: Skb, domain: u16, length: u32, place: &PerCpuArray<A>) -> bool {
    let (Some(asked), Some(matched)) = (own(place), own(&MATCHED)) else { return false };
    if !asked.begin(length, &Payload(skb)) {
        return false;
    }
    let mut walk = Walk { skb: skb.raw(), domain, asked, matched };
    // SAFETY: the callback has the type that bpf_loop calls, and the state outlives the loop.
    unsafe { bpf_loop(A::STEPS, go_on::<A> as *mut c_void, (&raw mut walk).cast(), 0) };
    walk.matched.complete != 0 && walk.matched.any != 0 && walk.matched.open == 0
}

/// The payload of a packet.
struct Payload(Skb);

impl Load for Payload {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.load(PAYLOAD + offset)
    }
}

/// A walk along the names, passed through `bpf_loop`.
struct Walk<A: 'static> {
    skb: *mut __sk_buff,
    domain: u16,
    asked: &'static mut A,
    matched: &'static mut Matched,
}

/// Takes one step; returns 1 to stop.
extern "C" fn go_on<A: Asked>(_index: u32, walk: *mut Walk<A>) -> i64 {
    // SAFETY: `walk` is what was passed to bpf_loop, alive during the loop.
    let Walk { skb, domain, ref mut asked, ref mut matched } = *unsafe { &mut *walk };
    let skb = Skb::from_raw(skb);
    match asked.step(&Payload(skb)) {
        Found::Other => 0,
        Found::End => {
            matched.complete = 1;
            1
        }
        Found::Name { at, length } => {
            matched.any = 1;
            add_owners(skb, domain, (at, length), matched);
            (matched.open != 0) as i64
        }
    }
}

/// Adds the owners of a name: of all its beginnings, the longest first.
#[inline(always)]
fn add_owners(skb: Skb, domain: u16, (at, length): (u32, u32), matched: &mut Matched) {
    let length = if length < PREFIX as u32 { length } else { PREFIX as u32 };
    let key = &mut matched.key;
    key.prefix_len = owned_bits(length);
    key.data.domain = domain;
    if length > 0 {
        // SAFETY: bytes are bytes, set or not.
        let prefix = unsafe { &mut *(&raw mut key.data.prefix).cast::<[MaybeUninit<u8>; PREFIX]>() };
        if !skb.load_some(PAYLOAD + at, length, prefix) {
            matched.open = 1;
            return;
        }
    }
    matched.open = 1; // until the last of its beginnings is found
    let mut adding = Adding { matched };
    // SAFETY: as in `walk`.
    unsafe { bpf_loop(NESTED, add_owner as *mut c_void, (&raw mut adding).cast(), 0) };
}

/// A walk along the beginnings of a name, passed through `bpf_loop`, which takes pointers to the stack alone.
struct Adding<'a> {
    matched: &'a mut Matched,
}

/// Adds those of the longest beginning that is left; returns 1 to stop.
extern "C" fn add_owner(_index: u32, adding: *mut Adding<'_>) -> i64 {
    // SAFETY: `adding` is what was passed to bpf_loop, alive during the loop.
    let Adding { ref mut matched } = *unsafe { &mut *adding };
    let Some(owners) = OWNED.get(&matched.key) else {
        matched.open = 0;
        return 1;
    };
    for word in 0..WORDS {
        matched.places[word] |= owners.places[word];
    }
    matched.key.prefix_len = owners.bits.saturating_sub(8);
    0
}

/// Keeps what was found for the next runs, and gives the datagram a ticket for it.
#[inline(always)]
fn note(skb: Skb) -> bool {
    let (Some(last), Some(matched)) = (TICKET.get_ptr_mut(0), own(&MATCHED)) else { return false };
    let ticket = atomic::fetch_add(last, 1) as u32 + 1; // not 0, which entries have at first
    let Some(wanted) = WANTED.get_ptr_mut(ticket % IN_FLIGHT) else { return false };
    let place = ticket_of(wanted);
    atomic::swap(place, 0);
    // SAFETY: a map's memory stays a value as long as the program runs; who reads it meanwhile finds no ticket.
    let to = unsafe { &mut *wanted };
    to.mac = skb.load(MAC_SOURCE).unwrap_or_default();
    to.places = matched.places;
    atomic::swap(place, ticket as u64);
    skb.store(MAC_SOURCE, ticket_mac(ticket));
    true
}

/// Where the ticket of an entry is, which guards the rest of it: on some processors writes are seen in another order.
#[inline(always)]
fn ticket_of(wanted: *mut Wanted) -> *mut u64 {
    // SAFETY: a field's place, which is not read.
    unsafe { &raw mut (*wanted).ticket }
}

/// Whether the entry is that of the ticket; looked at before and after its reading.
#[inline(always)]
fn is_of(wanted: *mut Wanted, ticket: u32) -> bool {
    atomic::fetch_add(ticket_of(wanted), 0) == ticket as u64
}

/// Recalls who may have the names in a datagram, all if that is forgotten; not if it is not `known`. Always 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn recall(skb: *mut __sk_buff, known: u32) -> u32 {
    if known == 0 {
        return 0;
    }
    let Some(matched) = own(&MATCHED) else { return 0 };
    let ticket = mac_ticket(Skb::from_raw(skb).load(MAC_SOURCE).unwrap_or_default());
    let Some(wanted) = WANTED.get_ptr_mut(ticket % IN_FLIGHT) else { return 0 };
    let was_its = is_of(wanted, ticket);
    // SAFETY: as in `note`.
    matched.places = unsafe { (*wanted).places };
    if !was_its || !is_of(wanted, ticket) {
        matched.places = [u64::MAX; WORDS];
    }
    0
}

/// Who may have the names, after `recall`.
#[inline(always)]
pub fn recalled() -> Option<&'static [u64; WORDS]> {
    own(&MATCHED).map(|matched| &matched.places)
}

/// Gives a datagram its own source MAC address again, if that is still known. Always 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn forget(skb: *mut __sk_buff, known: u32) -> u32 {
    if known == 0 {
        return 0;
    }
    let skb = Skb::from_raw(skb);
    let ticket = mac_ticket(skb.load(MAC_SOURCE).unwrap_or_default());
    let Some(wanted) = WANTED.get_ptr_mut(ticket % IN_FLIGHT) else { return 0 };
    let was_its = is_of(wanted, ticket);
    // SAFETY: as in `note`.
    let mac = unsafe { (*wanted).mac };
    if was_its && is_of(wanted, ticket) {
        skb.store(MAC_SOURCE, mac);
    }
    0
}
