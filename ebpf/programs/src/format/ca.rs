//! Channel Access: a chain of messages, walked once to read and once to rewrite it.

use core::ffi::c_void;

use abi::{Endpoint, Verdict};
use aya_ebpf::{bindings::__sk_buff, helpers::bpf_loop};
use wire::{Direction, Step, ca};

use super::content::{Content, Format, length, put};
use crate::{
    packet::{PAYLOAD, Packet},
    skb::Skb,
};

/// Channel Access.
pub struct Ca;

impl Format for Ca {
    #[inline(always)]
    fn inspect(packet: &Packet, direction: Direction, _: u16) -> Result<Content, Verdict> {
        let chain = ca::Chain::new(length(packet)?);
        let mut scan = Scan { skb: packet.skb.raw(), chain, content: Content::new(direction), sound: true };
        let pointer = &raw mut scan;
        // SAFETY: the callback has the type that bpf_loop calls, and the state outlives the loop.
        let scan = unsafe {
            bpf_loop(ca::MAX_MESSAGES, read_message as *mut c_void, pointer.cast(), 0);
            pointer.read()
        };
        let content = scan.content.read();
        if scan.sound && scan.chain.finish(direction).is_ok() { Ok(content) } else { Err(Verdict::Malformed) }
    }

    #[inline(always)]
    fn rename(packet: &Packet, content: &Content, from: &Endpoint, to: &Endpoint) {
        let Some(length) = packet.payload else { return };
        let chain = ca::Chain::new(length);
        let mut rewrite = Rewrite { packet, chain, direction: content.direction, from: *from, to: *to };
        // SAFETY: as in `inspect`.
        unsafe { bpf_loop(ca::MAX_MESSAGES, rename_message as *mut c_void, (&raw mut rewrite).cast(), 0) };
    }
}

/// The first walk along the messages, which reads them; passed through `bpf_loop`.
struct Scan {
    skb: *mut __sk_buff,
    chain: ca::Chain,
    content: Content,
    sound: bool,
}

/// Reads one message; returns 1 to stop.
extern "C" fn read_message(_index: u32, scan: *mut Scan) -> i64 {
    // SAFETY: `scan` is the state passed to bpf_loop, alive during the loop.
    let scan = unsafe { &mut *scan };
    if !scan.chain.has_next() {
        return 1;
    }
    let skb = Skb::from_raw(scan.skb);
    let header = skb.load(PAYLOAD + scan.chain.offset);
    let load = |at| skb.load(PAYLOAD + at);
    match header.map(|header| ca::step(&mut scan.chain, &header, scan.content.direction, load)) {
        Some(Ok(Step::Opaque)) => 0,
        Some(Ok(Step::Plain(kind))) => {
            scan.content.add_kind(kind);
            0
        }
        Some(Ok(Step::Names(kind, named))) => {
            scan.content.add(kind, &named);
            0
        }
        _ => {
            scan.sound = false;
            1
        }
    }
}

/// The second walk, which rewrites them; passed through `bpf_loop`.
struct Rewrite<'a> {
    packet: &'a Packet,
    chain: ca::Chain,
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
    match ca::step(&mut rewrite.chain, &header, rewrite.direction, |at| skb.load(PAYLOAD + at)) {
        Ok(Step::Names(_, named)) => put(rewrite.packet, &named, &rewrite.from, &rewrite.to),
        Ok(_) => {}
        Err(_) => return 1,
    }
    0
}
