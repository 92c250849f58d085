//! GigE Vision: cameras are told by registers where to stream to, and tell by themselves where they are.
//!
//! A pod that commands a camera on the LAN: its address and ports in registers become the uplink's and external ones, and what
//! the camera tells of these registers becomes the pod's again. A camera in a pod: its address in answers to a discovery
//! becomes the uplink's, whose GVCP port is then that pod's alone, since clients know no other; its stream leaves in the
//! uplink's name.

use core::ffi::c_void;

use abi::{
    Claim, Domain, Endpoint, Member, Protocol, Read, ReadKey, Searcher, SearcherKey, UDP, Uplink, Verdict,
    lan,
};
use aya_ebpf::{helpers::bpf_loop, programs::TcContext};
use wire::{
    Direction,
    gvcp::{self, Layout, MAX_REGISTERS, Message, Register, command},
};

use crate::{
    count::count,
    from_lan,
    from_pod::{self, FromPod, Way},
    maps::{DOMAINS, EXTERNALS, FROM_POD, READS, SEARCHERS, UPLINKS},
    packet::{PAYLOAD, Packet},
    payload::{Content, Format, length},
    ports,
    skb::{DROP, NEXT, Skb},
};

/// Bits of a [`Read`].
const READ_BITS: u32 = 32;
/// Ports that one message may write, at most: real ones write one.
const MAX_PORTS: u32 = 4;

/// GigE Vision's control protocol.
pub struct Gvcp;
/// GigE Vision's streams, of which nothing is changed but where they come from.
pub struct Gvsp;

impl Format for Gvcp {
    const CAMERAS: bool = true;

    #[inline(always)]
    fn inspect(packet: &Packet, direction: Direction, _: u16) -> Result<Content, Verdict> {
        let message = message(packet, direction)?;
        Ok(Content::plain(direction, is_directed(message.command)))
    }

    #[inline(always)]
    fn rename(_: &Packet, _: &Content, _: &Endpoint, _: &Endpoint) {}

    #[inline(always)]
    fn rewrite(from: &FromPod, uplink: &Uplink) -> Verdict {
        match from.way {
            Way::Answer => acknowledgement(from, uplink),
            _ => Verdict::Sent, // registers are translated already
        }
    }
}

impl Format for Gvsp {
    const STREAM: bool = true;

    #[inline(always)]
    fn inspect(packet: &Packet, direction: Direction, _: u16) -> Result<Content, Verdict> {
        length(packet).map(|_| Content::plain(direction, false))
    }

    #[inline(always)]
    fn rename(_: &Packet, _: &Content, _: &Endpoint, _: &Endpoint) {}
}

#[inline(always)]
fn message(packet: &Packet, direction: Direction) -> Result<Message, Verdict> {
    let header = packet.skb.load(PAYLOAD).ok_or(Verdict::Malformed)?;
    let message = gvcp::message(&header, length(packet)?, direction).map_err(|_| Verdict::Malformed)?;
    if Layout::of(&message, direction).count > MAX_REGISTERS { Err(Verdict::Malformed) } else { Ok(message) }
}

/// Whether a command is for one camera alone, never for all.
#[inline(always)]
fn is_directed(command: u16) -> bool {
    !matches!(command, command::DISCOVERY | command::FORCE_IP | command::ACTION)
}

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

/// A command of a pod to a camera on the LAN, with all that is known of it.
struct Command<'a> {
    member: &'a Member,
    interface: u32,
    uplink: [u8; 4],
    domain: &'a Domain,
}

/// `from_pod` for GVCP, as far as registers go; what is to be sent then is sent by the program after it, which has a stack of
/// its own.
#[inline(always)]
pub fn from_pod(context: &TcContext) -> i32 {
    let Some((packet, member, interface)) = from_pod::datagram(Skb::new(context)) else { return NEXT };
    if packet.destination.port == gvcp::PORT && !from_pod::is_broadcast(packet.destination.address, &member) {
        let verdict = commands(&packet, &member, interface);
        if verdict != Verdict::Sent {
            count(member.domain, Protocol::Gvcp as u16, verdict);
            return if matches!(verdict, Verdict::Denied | Verdict::NoPort) { DROP } else { NEXT };
        }
    }
    // SAFETY: comes back only if there is no such program.
    let _ = unsafe { FROM_POD.tail_call(context, abi::FROM_POD_GVCP_SEND) };
    NEXT
}

/// A pod's command to one camera: `Sent` if it may be sent.
#[inline(always)]
fn commands(packet: &Packet, member: &Member, interface: u32) -> Verdict {
    if packet.source.address != member.address {
        return Verdict::Spoofed;
    }
    let Some(domain) = DOMAINS.get(member.domain as u32) else { return Verdict::NoUplink };
    // SAFETY: copied at once.
    let uplink = unsafe { UPLINKS.get(domain.uplink) }.map_or([0; 4], |uplink| uplink.address);
    if uplink == [0; 4] {
        return Verdict::NoUplink;
    }
    if packet.destination.address == uplink {
        return Verdict::Foreign; // the node's own, if it has one
    }
    if from_pod::on_lan(packet.destination.address, member.domain) & lan::CAMERAS == 0 {
        return Verdict::Denied;
    }
    command(packet, &Command { member, interface, uplink, domain })
}

/// Makes registers that a pod writes lead to external ports; remembers which it reads.
#[inline(always)]
fn command(packet: &Packet, command: &Command<'_>) -> Verdict {
    let Ok(message) = message(packet, Direction::Announce) else { return Verdict::Malformed };
    if message.command == command::READ_REGISTERS {
        remember(packet, &message);
        return Verdict::Sent;
    }
    let layout = Layout::of(&message, Direction::Announce);
    let addresses = [command.member.address, command.uplink];
    let mut written = Written { packet, layout, addresses, passed: 0, port_at: 0, port: 0 };
    // External ports are taken here, not inside the walk: a callback has little stack left.
    for _ in 0..MAX_PORTS {
        written.go_on();
        if written.port_at == 0 {
            return Verdict::Sent;
        }
        let port = written.port as u16;
        let pod = Endpoint { address: command.member.address, port, protocol: UDP as u16 };
        let stream = (pod, Protocol::Gvsp as u16, packet.destination.address);
        let member = (command.member, command.interface);
        let external = ports::external(packet.skb, member, command.domain, command.uplink, stream);
        let Some(external) = external else { return Verdict::NoPort };
        packet.set_payload(written.port_at, port.to_be_bytes(), external.port.to_be_bytes());
    }
    Verdict::NoPort
}

/// A walk along the registers that a pod writes, passed through `bpf_loop`: addresses are translated, and it stops at ports.
struct Written<'a> {
    packet: &'a Packet,
    layout: Layout,
    /// The pod's, and the uplink's.
    addresses: [[u8; 4]; 2],
    /// Registers that were looked at.
    passed: u32,
    /// Offset of a port that was found; 0 if there is none.
    port_at: u32,
    port: u32,
}

impl Written<'_> {
    /// Goes on to the next port.
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
fn remember(packet: &Packet, message: &Message) {
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

/// Notes what one register holds.
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
fn read_key(camera: [u8; 4], pod: &Endpoint, id: u16) -> ReadKey {
    ReadKey { camera, pod: pod.address, port: pod.port, id }
}

/// A camera in a pod tells a client on the LAN where it is: at the uplink, whose GVCP port becomes its own.
#[inline(always)]
fn acknowledgement(from: &FromPod, uplink: &Uplink) -> Verdict {
    let Ok(message) = message(&from.packet, Direction::Answer) else { return Verdict::Malformed };
    if message.command != command::DISCOVERY || message.size == 0 {
        return Verdict::Answered;
    }
    let external = Endpoint { address: uplink.address, port: gvcp::PORT, protocol: UDP as u16 };
    if !ports::claim(from.member.domain, from.interface, external, from.packet.source) {
        return Verdict::NoPort; // another camera has it: this one could not be commanded
    }
    if from.packet.skb.load(PAYLOAD + gvcp::CURRENT_ADDRESS) == Some(from.member.address) {
        from.packet.set_payload(gvcp::CURRENT_ADDRESS, from.member.address, uplink.address);
    }
    Verdict::Answered
}

/// `from_lan` for a message at an external port.
#[inline(always)]
pub fn at_external_port(skb: Skb) -> i32 {
    let Some(mut packet) = Packet::parse(skb) else { return NEXT };
    // SAFETY: copied at once.
    let Some(uplink) = (unsafe { UPLINKS.get(skb.interface()) }).copied() else { return NEXT };
    // SAFETY: copied at once.
    let Some(claim) = (unsafe { EXTERNALS.get(packet.destination) }).copied() else { return NEXT };
    let verdict = match (message(&packet, Direction::Announce), message(&packet, Direction::Answer)) {
        (Ok(message), _) => commanded(&packet, &claim, &message),
        (_, Ok(message)) => answered(&packet, &claim, &message, &uplink),
        _ => Verdict::Unrelated,
    };
    if verdict == Verdict::TranslatedIn {
        packet.set_destination(claim.pod);
    }
    count(claim.domain, Protocol::Gvcp as u16, verdict);
    NEXT
}

/// A client on the LAN commands a camera in a pod: it wants answers, and perhaps a stream.
#[inline(always)]
fn commanded(packet: &Packet, claim: &Claim, message: &Message) -> Verdict {
    from_lan::learn_searcher(packet.source, claim.domain, Protocol::Gvcp as u16);
    Walk::run(packet, Layout::of(message, Direction::Announce), claim, learn_stream);
    Verdict::TranslatedIn
}

/// Remembers where a camera in a pod is told to stream to, if it is the client itself.
extern "C" fn learn_stream(index: u32, walk: *mut Walk<'_, Claim>) -> i64 {
    // SAFETY: as in `written`.
    let walk = unsafe { &mut *walk };
    let Some([_, _, p0, p1]) = walk.packet.skb.load(PAYLOAD + walk.layout.value(index)) else { return 1 };
    let port = u16::from_be_bytes([p0, p1]);
    if register(walk.packet, &walk.layout, index) == Register::Port && port != 0 {
        let key = SearcherKey { address: walk.packet.source.address, port, domain: walk.context.domain };
        // A stream may rest for as long as it likes.
        let _ = SEARCHERS.insert(key, Searcher { seen: u64::MAX, protocol: Protocol::Gvsp as u64 }, 0);
    }
    0
}

/// An answer of a camera to a pod, with all that is known of it.
struct Answer<'a> {
    claim: &'a Claim,
    uplink: [u8; 4],
    read: Read,
}

/// Makes what a camera tells of its registers the pod's own again.
#[inline(always)]
fn answered(packet: &Packet, claim: &Claim, message: &Message, uplink: &Uplink) -> Verdict {
    let mut layout = Layout::of(message, Direction::Answer);
    let mut read = Read { ports: 0, addresses: 0 };
    if message.command == command::READ_REGISTERS {
        let key = read_key(packet.source.address, &claim.pod, message.id);
        // SAFETY: copied at once.
        if let Some(known) = unsafe { READS.get(key) }.copied() {
            read = known;
            let count = (message.size / 4).min(READ_BITS);
            layout = Layout { count, stride: 4, address_at: gvcp::HEADER - 4, addressed: false };
        }
    }
    let answer = Answer { claim, uplink: uplink.address, read };
    Walk::run(packet, layout, &answer, restore);
    Verdict::TranslatedIn
}

/// Translates one register's value back.
extern "C" fn restore(index: u32, walk: *mut Walk<'_, Answer<'_>>) -> i64 {
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
        // SAFETY: copied at once.
        let own =
            unsafe { EXTERNALS.get(Endpoint { address: *uplink, port, protocol: UDP as u16 }) }.copied();
        if let Some(own) = own
            && own.member == claim.member
        {
            walk.packet.set_payload(at + 2, port.to_be_bytes(), own.pod.port.to_be_bytes());
        }
    }
    0
}
