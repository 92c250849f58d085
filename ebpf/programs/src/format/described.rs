//! Protocols that the configuration describes: reads and rewrites their fields, which `wire::data` finds.

use core::ffi::c_void;

use abi::{Endpoint, Verdict};
use aya_ebpf::{helpers::bpf_loop, macros::map, maps::PerCpuArray};
use wire::{
    Direction,
    data::{Field, MISSING, Value, What},
};

use super::content::{Content, Format, length};
use crate::{
    maps::{DESCRIPTORS, own},
    packet::{PAYLOAD, Packet},
    skb::Skb,
};

/// All described protocols.
pub struct Described;

impl Format for Described {
    #[inline(always)]
    fn inspect(packet: &Packet, direction: Direction, protocol: u16) -> Result<Content, Verdict> {
        let payload = Payload { skb: packet.skb, length: length(packet)? };
        let descriptor = &described(protocol).ok_or(Verdict::Malformed)?.descriptor;
        if !descriptor.must.match_in(|at| payload.load(at)) {
            return Err(Verdict::Malformed);
        }
        let search = descriptor.search != 0 && matches!(direction, Direction::Announce);
        let read = own(&DESCRIBED_READ).ok_or(Verdict::Malformed)?;
        *read = Read { content: Content::of(protocol, direction, search), sound: true };
        let mut scan = Scan { payload, read };
        // SAFETY: the callback has the type that bpf_loop calls, and the state outlives the loop.
        unsafe {
            bpf_loop(wire::data::FIELDS as u32, read_field as *mut c_void, (&raw mut scan).cast(), 0);
        }
        if scan.read.sound { Ok(scan.read.content) } else { Err(Verdict::Malformed) }
    }

    #[inline(always)]
    fn rename(packet: &Packet, content: &Content, from: &Endpoint, to: &Endpoint) {
        let payload = Payload { skb: packet.skb, length: packet.payload.unwrap_or(0) };
        let mut rewrite = Rewrite { packet, payload, protocol: content.protocol, from: *from, to: *to };
        // SAFETY: as in `inspect`.
        unsafe {
            bpf_loop(wire::data::FIELDS as u32, rename_field as *mut c_void, (&raw mut rewrite).cast(), 0);
        }
    }
}

#[inline(always)]
fn described(protocol: u16) -> Option<&'static abi::Described> {
    DESCRIPTORS.get((protocol as u32).wrapping_sub(abi::DESCRIBED))
}

#[inline(always)]
fn field(protocol: u16, index: u32) -> Option<&'static Field> {
    described(protocol)?.descriptor.fields.get(index as usize)
}

/// The payload of a datagram, without the frame's padding.
#[derive(Clone, Copy)]
struct Payload {
    skb: Skb,
    length: u32,
}

impl Payload {
    #[inline(always)]
    fn load(&self, at: u32) -> u32 {
        if at > 0xffff || at + 2 > self.length {
            return MISSING;
        }
        self.skb.load(PAYLOAD + at).map_or(MISSING, |half| u16::from_be_bytes(half) as u32)
    }
}

/// One entry: what was read on this CPU so far.
#[map]
static DESCRIBED_READ: PerCpuArray<Read> = PerCpuArray::with_max_entries(1, 0);

/// What was read of a datagram so far.
struct Read {
    content: Content,
    sound: bool,
}

/// The first walk along the fields, which reads them; passed through `bpf_loop`.
struct Scan {
    payload: Payload,
    read: &'static mut Read,
}

/// Reads one field; returns 1 to stop.
extern "C" fn read_field(index: u32, scan: *mut Scan) -> i64 {
    // SAFETY: `scan` is the state passed to bpf_loop, alive during the loop.
    let Scan { payload, ref mut read } = *unsafe { &mut *scan };
    let Some(field) = field(read.content.protocol, index) else { return 1 };
    let Value { what, number } = field.read(|at| payload.load(at));
    match what {
        What::Nothing => {}
        What::Address => read.content.add_address(number.to_be_bytes()),
        What::Port => read.content.add_port(number as u16, field.is_udp()),
        What::Unsupported => read.content.add_unsupported(),
        What::Truncated => read.sound = false,
    }
    0
}

/// The second walk, which rewrites them; passed through `bpf_loop`.
struct Rewrite<'a> {
    packet: &'a Packet,
    payload: Payload,
    protocol: u16,
    from: Endpoint,
    to: Endpoint,
}

/// Rewrites one field; returns 1 to stop.
extern "C" fn rename_field(index: u32, rewrite: *mut Rewrite) -> i64 {
    // SAFETY: as in `read_field`.
    let Rewrite { packet, payload, protocol, from, to } = unsafe { &*rewrite };
    let Some(field) = field(*protocol, index) else { return 1 };
    let at = field.at as u32;
    let Value { what, number } = field.read(|at| payload.load(at));
    match what {
        What::Address if number.to_be_bytes() == from.address => {
            packet.set_payload(at, from.address, to.address);
        }
        What::Port if number == from.port as u32 => {
            packet.set_payload(at, field.order().bytes(from.port), field.order().bytes(to.port));
        }
        _ => {}
    }
    0
}
