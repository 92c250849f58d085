//! Channel Access payloads: the walk of `wire::ca` over a packet in the kernel.

use core::ffi::c_void;

use abi::Verdict;
use aya_ebpf::{bindings::__sk_buff, helpers::bpf_loop};
use wire::ca::{self, Direction, Malformed, Step, Walk};

use crate::{
    packet::{PAYLOAD, Packet},
    skb::Skb,
};

/// State of a walk, passed through `bpf_loop`.
struct Scan {
    skb: *mut __sk_buff,
    walk: Walk,
    direction: Direction,
    error: Option<Malformed>,
    pod: [u8; 4],
    port: u16,
    servers: u32,
    foreign: bool,
}

/// Whether the payload is a chain of searches.
#[inline(always)]
pub fn is_search(packet: &Packet) -> bool {
    scan(packet, Direction::Request, [0; 4]).is_some()
}

/// The TCP port of the one server that a search reply from `pod` names.
#[inline(always)]
pub fn server(packet: &Packet, pod: [u8; 4]) -> Result<u16, Verdict> {
    let scan = scan(packet, Direction::Reply, pod).ok_or(Verdict::Malformed)?;
    if scan.foreign {
        return Err(Verdict::Foreign);
    }
    Ok(scan.port)
}

#[inline(always)]
fn scan(packet: &Packet, direction: Direction, pod: [u8; 4]) -> Option<Scan> {
    let mut scan = Scan {
        skb: packet.skb.raw(),
        walk: Walk::new(packet.payload?),
        direction,
        error: None,
        pod,
        port: 0,
        servers: 0,
        foreign: false,
    };
    let pointer = &raw mut scan;
    // SAFETY: the callback has the type bpf_loop calls, and the state outlives the loop.
    unsafe { bpf_loop(ca::MAX_MESSAGES, visit as *mut c_void, pointer.cast(), 0) };
    // SAFETY: the loop has ended; nothing else refers to the state.
    let scan = unsafe { pointer.read() };
    (scan.error.is_none() && scan.walk.finish().is_ok()).then_some(scan)
}

/// One message of the chain; returns 1 to stop.
extern "C" fn visit(_index: u32, scan: *mut Scan) -> i64 {
    // SAFETY: `scan` is the state passed to bpf_loop, alive during the loop.
    let scan = unsafe { &mut *scan };
    if !scan.walk.has_next() {
        return 1;
    }
    let Some(header) = Skb::from_raw(scan.skb).load(PAYLOAD + scan.walk.offset) else {
        scan.error = Some(Malformed::Truncated);
        return 1;
    };
    match scan.walk.step(&header, scan.direction) {
        Ok(Step::Opaque) => 0,
        Ok(Step::Server { port, address, .. }) => {
            // A server names one port: another one beside it is not the pod's own.
            let known = ca::address_on_lan(address, scan.pod, scan.pod).is_some();
            scan.foreign |= !known || (scan.servers > 0 && port != scan.port);
            scan.port = port;
            scan.servers += 1;
            0
        }
        Err(error) => {
            scan.error = Some(error);
            1
        }
    }
}

/// State of a rewrite, passed through `bpf_loop`.
struct Rewrite<'a> {
    packet: &'a Packet,
    walk: Walk,
    pod: [u8; 4],
    uplink: [u8; 4],
    port: u16,
}

/// Makes a reply that [`server`] found sound name `uplink` and the external `port` instead of `pod` and its own.
#[inline(always)]
pub fn rename_server(packet: &Packet, pod: [u8; 4], uplink: [u8; 4], port: u16) {
    let Some(length) = packet.payload else { return };
    let mut rewrite = Rewrite { packet, walk: Walk::new(length), pod, uplink, port };
    // SAFETY: as in `scan`.
    unsafe { bpf_loop(ca::MAX_MESSAGES, rename as *mut c_void, (&raw mut rewrite).cast(), 0) };
}

/// One message of a reply; returns 1 to stop.
extern "C" fn rename(_index: u32, rewrite: *mut Rewrite) -> i64 {
    // SAFETY: `rewrite` is the state passed to bpf_loop, alive during the loop.
    let rewrite = unsafe { &mut *rewrite };
    if !rewrite.walk.has_next() {
        return 1;
    }
    let Some(header) = rewrite.packet.skb.load(PAYLOAD + rewrite.walk.offset) else { return 1 };
    let Ok(step) = rewrite.walk.step(&header, Direction::Reply) else { return 1 };
    if let Step::Server { offset, port, address } = step {
        rewrite.packet.set_payload_port(offset + ca::REPLY_PORT, port, rewrite.port);
        if let Some(new) = ca::address_on_lan(address, rewrite.pod, rewrite.uplink) {
            rewrite.packet.set_payload_address(offset + ca::REPLY_ADDRESS, address, new);
        }
    }
    0
}
