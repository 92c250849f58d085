//! Channel Access: a chain of messages, walked once to read and once to rewrite it.

use core::ffi::c_void;

use abi::{Endpoint, Verdict};
use aya_ebpf::{bindings::__sk_buff, helpers::bpf_loop, macros::map, maps::PerCpuArray};
use wire::{Direction, Step, ca};

use super::content::{Content, Format, length, put};
use crate::{
    maps::own,
    packet::{PAYLOAD, Packet},
    skb::Skb,
};

/// Channel Access.
pub struct Ca;

impl Format for Ca {
    #[inline(always)]
    fn inspect(packet: &Packet, direction: Direction, _: u16) -> Result<Content, Verdict> {
        let chain = ca::Chain::new(length(packet)?);
        let read = own(&CA_READ).ok_or(Verdict::Malformed)?;
        *read = Read { chain, content: Content::new(direction), sound: true };
        let mut scan = Scan { skb: packet.skb.raw(), read };
        // SAFETY: the callback has the type that bpf_loop calls, and the state outlives the loop.
        unsafe { bpf_loop(ca::MAX_MESSAGES, read_message as *mut c_void, (&raw mut scan).cast(), 0) };
        let Read { chain, content, sound } = scan.read;
        if *sound && chain.finish(direction).is_ok() { Ok(*content) } else { Err(Verdict::Malformed) }
    }

    #[inline(always)]
    fn rename(packet: &Packet, content: &Content, from: &Endpoint, to: &Endpoint) {
        let (Some(length), Some(read)) = (packet.payload, own(&CA_READ)) else { return };
        read.chain = ca::Chain::new(length);
        let chain = &mut read.chain;
        let mut rewrite = Rewrite { packet, chain, direction: content.direction, from: *from, to: *to };
        // SAFETY: as in `inspect`.
        unsafe { bpf_loop(ca::MAX_MESSAGES, rename_message as *mut c_void, (&raw mut rewrite).cast(), 0) };
    }
}

/// One entry: what was read on this CPU so far.
#[map]
static CA_READ: PerCpuArray<Read> = PerCpuArray::with_max_entries(1, 0);

/// What was read of a datagram so far.
struct Read {
    chain: ca::Chain,
    content: Content,
    sound: bool,
}

/// The first walk along the messages, which reads them; passed through `bpf_loop`.
struct Scan {
    skb: *mut __sk_buff,
    read: &'static mut Read,
}

/// Reads one message; returns 1 to stop.
extern "C" fn read_message(_index: u32, scan: *mut Scan) -> i64 {
    // SAFETY: `scan` is the state passed to bpf_loop, alive during the loop.
    let Scan { skb, ref mut read } = *unsafe { &mut *scan };
    if !read.chain.has_next() {
        return 1;
    }
    let skb = Skb::from_raw(skb);
    let header = skb.load(PAYLOAD + read.chain.offset);
    let load = |at| skb.load(PAYLOAD + at);
    match header.map(|header| ca::step(&mut read.chain, &header, read.content.direction, load)) {
        Some(Ok(Step::Opaque)) => 0,
        Some(Ok(Step::Plain(kind))) => {
            read.content.add_kind(kind);
            0
        }
        Some(Ok(Step::Names(kind, named))) => {
            read.content.add(kind, &named);
            0
        }
        _ => {
            read.sound = false;
            1
        }
    }
}

/// The second walk, which rewrites them; passed through `bpf_loop`.
struct Rewrite<'a> {
    packet: &'a Packet,
    chain: &'static mut ca::Chain,
    direction: Direction,
    from: Endpoint,
    to: Endpoint,
}

/// Rewrites what one message names; returns 1 to stop.
extern "C" fn rename_message(_index: u32, rewrite: *mut Rewrite) -> i64 {
    // SAFETY: `rewrite` is the state passed to bpf_loop, alive during the loop.
    let rewrite = unsafe { &mut *rewrite };
    if !rewrite.chain.has_next() {
        return 1;
    }
    let skb = rewrite.packet.skb;
    let Some(header) = skb.load(PAYLOAD + rewrite.chain.offset) else { return 1 };
    match ca::step(rewrite.chain, &header, rewrite.direction, |at| skb.load(PAYLOAD + at)) {
        Ok(Step::Names(_, named)) => put(rewrite.packet, &named, &rewrite.from, &rewrite.to),
        Ok(_) => {}
        Err(_) => return 1,
    }
    0
}
