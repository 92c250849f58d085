//! Camera registers: translates the transport addresses that a message reads from or writes to registers.

use core::ffi::c_void;

use abi::{Address, Claim, Endpoint, Protocol, Read, ReadKey, UDP, Verdict, hold};
use aya_ebpf::helpers::bpf_loop;
use wire::{
    Direction,
    gvcp::{self, Layout, MAX_REGISTERS, Message, Register, command},
};

use crate::{
    maps::{EXTERNALS, READS, lookup},
    packet::{PAYLOAD, Packet},
    peers,
    ports::{self, Holder},
    skb::Skb,
};

const GVSP: u16 = Protocol::Gvsp as u16;
/// Bits of a [`Read`].
const READ_BITS: u32 = 32;
/// The most ports that one message may write: real ones write one.
const MAX_PORTS: u32 = 4;

/// A walk along the registers of a message; passed through `bpf_loop`.
struct Walk<'a, C> {
    packet: &'a Packet,
    layout: Layout,
    context: &'a C,
}

impl<'a, C> Walk<'a, C> {
    /// Calls `visit` for each register in the message.
    #[inline(always)]
    fn run(packet: &'a Packet, layout: Layout, context: &'a C, visit: extern "C" fn(u32, *mut Self) -> i64) {
        let mut walk = Walk { packet, layout, context };
        let pointer = &raw mut walk;
        // SAFETY: `visit` has the type bpf_loop calls, and the state outlives the loop.
        unsafe { bpf_loop(layout.count, visit as *mut c_void, pointer.cast(), 0) };
    }
}

/// What register `index` of a message holds.
#[inline(always)]
fn register(packet: &Packet, layout: &Layout, index: u32) -> Register {
    let (at, add) = layout.address(index);
    let address = packet.skb.load(PAYLOAD + at).map_or(0, u32::from_be_bytes);
    gvcp::register(address.wrapping_add(add))
}

/// Replaces what a pod writes into registers by the uplink's address and external ports of the `holder`, which only accept
/// packets from that camera.
#[inline(always)]
pub fn direct_to(packet: &Packet, message: &Message, holder: &Holder) -> Result<(), Verdict> {
    let layout = Layout::of(message, Direction::Announce);
    let addresses = [holder.member.address, holder.uplink];
    let mut written = Written { packet, layout, addresses, passed: 0, port_at: 0, port: 0 };
    // External ports are allocated here, not inside the walk: a callback has little stack left.
    for _ in 0..MAX_PORTS {
        written.go_on();
        if written.port_at == 0 {
            return Ok(());
        }
        let port = written.port as u16;
        let pod = Endpoint { address: holder.member.address, port, protocol: UDP as u16 };
        let camera = packet.destination.address;
        let external = ports::external(packet.skb, holder, pod, GVSP, hold::CLIENT).ok_or(Verdict::NoPort)?;
        ports::restrict(external, GVSP, camera);
        packet.set_payload(written.port_at, port.to_be_bytes(), external.port.to_be_bytes());
    }
    Err(Verdict::NoPort)
}

/// A walk along the registers that a pod writes, passed through `bpf_loop`: translates addresses, and stops at ports.
struct Written<'a> {
    packet: &'a Packet,
    layout: Layout,
    /// The pod's, and the uplink's.
    addresses: [Address; 2],
    /// Registers visited so far.
    passed: u32,
    /// Offset of the port found; 0 if there is none.
    port_at: u32,
    port: u32,
}

impl Written<'_> {
    /// Walks on to the next port.
    #[inline(always)]
    fn go_on(&mut self) {
        self.port_at = 0;
        let pointer = &raw mut *self;
        // SAFETY: as in `Walk::run`.
        unsafe { bpf_loop(MAX_REGISTERS, written as *mut c_void, pointer.cast(), 0) };
    }
}

/// Looks at one register; returns 1 to stop.
extern "C" fn written(_index: u32, written: *mut Written<'_>) -> i64 {
    // SAFETY: `written` is the state passed to bpf_loop, alive during the loop.
    let written = unsafe { &mut *written };
    if written.passed >= written.layout.count {
        return 1;
    }
    let (at, register) =
        (written.layout.value(written.passed), register(written.packet, &written.layout, written.passed));
    written.passed += 1;
    let Some(value) = written.packet.skb.load::<4>(PAYLOAD + at) else { return 1 };
    let [pod, uplink] = written.addresses;
    if register == Register::Address && value == pod {
        written.packet.set_payload(at, value, uplink);
    }
    let port = u16::from_be_bytes([value[2], value[3]]);
    if register != Register::Port || port == 0 {
        return 0;
    }
    (written.port_at, written.port) = (at + 2, port as u32);
    1
}

/// A request to read registers: which of them hold transport addresses.
struct Asked<'a> {
    skb: Skb,
    read: Read,
    packet: &'a Packet,
}

/// Remembers a request to read registers, so that the answer can be translated.
#[inline(always)]
pub fn remember_read(packet: &Packet, message: &Message) {
    let mut asked = Asked { skb: packet.skb, read: Read { ports: 0, addresses: 0 }, packet };
    let pointer = &raw mut asked;
    // SAFETY: as in `Walk::run`.
    let read = unsafe {
        bpf_loop((message.size / 4).min(READ_BITS), ask as *mut c_void, pointer.cast(), 0);
        (*pointer).read
    };
    if read.ports | read.addresses != 0 {
        let key = read_key(asked.packet.destination.address, &packet.source, message.id);
        let _ = READS.insert(key, read, 0);
    }
}

/// Records whether one register holds a transport address.
extern "C" fn ask(index: u32, asked: *mut Asked<'_>) -> i64 {
    // SAFETY: as in `written`.
    let asked = unsafe { &mut *asked };
    let Some(address) = asked.skb.load(PAYLOAD + gvcp::HEADER + 4 * index) else { return 1 };
    let register = gvcp::register(u32::from_be_bytes(address));
    asked.read.ports |= ((register == Register::Port) as u32) << (index & 31);
    asked.read.addresses |= ((register == Register::Address) as u32) << (index & 31);
    0
}

#[inline(always)]
fn read_key(camera: Address, pod: &Endpoint, id: u16) -> ReadKey {
    ReadKey { camera, pod: pod.address, port: pod.port, id }
}

/// Remembers the sockets that a client directs the stream of a camera in a pod to.
#[inline(always)]
pub fn learn_streams(packet: &Packet, claim: &Claim, message: &Message) {
    Walk::run(packet, Layout::of(message, Direction::Announce), claim, learn_stream);
}

/// Remembers one socket, if it is on the client itself.
extern "C" fn learn_stream(index: u32, walk: *mut Walk<'_, Claim>) -> i64 {
    // SAFETY: as in `written`.
    let walk = unsafe { &mut *walk };
    let Some([_, _, p0, p1]) = walk.packet.skb.load(PAYLOAD + walk.layout.value(index)) else { return 1 };
    let port = u16::from_be_bytes([p0, p1]);
    if register(walk.packet, &walk.layout, index) == Register::Port && port != 0 {
        let receiver = Endpoint { port, ..walk.packet.source };
        peers::learn_receiver(receiver, walk.context.domain, walk.context.member);
    }
    0
}

/// A camera's answer to a pod, with what is needed to translate it back.
struct Answer<'a> {
    claim: &'a Claim,
    uplink: Address,
    read: Read,
}

/// Translates register values in a camera's answer back to the pod's own.
#[inline(always)]
pub fn restore(packet: &Packet, claim: &Claim, message: &Message, uplink: Address) {
    let mut layout = Layout::of(message, Direction::Answer);
    let mut read = Read { ports: 0, addresses: 0 };
    if message.command == command::READ_REGISTERS
        && let Some(known) = lookup(&READS, read_key(packet.source.address, &claim.pod, message.id))
    {
        read = known;
        let count = (message.size / 4).min(READ_BITS);
        layout = Layout { count, stride: 4, address_at: gvcp::HEADER - 4, addressed: false };
    }
    Walk::run(packet, layout, &Answer { claim, uplink, read }, restore_register);
}

/// Translates one register's value back.
extern "C" fn restore_register(index: u32, walk: *mut Walk<'_, Answer<'_>>) -> i64 {
    // SAFETY: as in `written`.
    let walk = unsafe { &mut *walk };
    let Answer { claim, uplink, read } = walk.context;
    let at = walk.layout.value(index);
    let Some(value) = walk.packet.skb.load::<4>(PAYLOAD + at) else { return 1 };
    let asked = read.ports | read.addresses != 0;
    let is = |bits: u32| bits >> (index & 31) & 1 != 0;
    let register = register(walk.packet, &walk.layout, index);
    let is_port = if asked { is(read.ports) } else { register == Register::Port };
    let is_address = if asked { is(read.addresses) } else { register == Register::Address };
    if is_address && value == *uplink {
        walk.packet.set_payload(at, value, claim.pod.address);
    }
    if is_port {
        let port = u16::from_be_bytes([value[2], value[3]]);
        let external = Endpoint { address: *uplink, port, protocol: UDP as u16 };
        if let Some(own) = lookup(&EXTERNALS, external)
            && (own.member, own.generation) == (claim.member, claim.generation)
        {
            walk.packet.set_payload(at + 2, port.to_be_bytes(), own.pod.port.to_be_bytes());
        }
    }
    0
}
