//! Payloads: what a datagram of a protocol names, and making it name something else. The formats are `wire`'s; here they
//! are read from a packet in the kernel.

use core::ffi::c_void;

use abi::{Endpoint, Protocol, TCP, UDP, Uplink, Verdict};
use aya_ebpf::{bindings::__sk_buff, helpers::bpf_loop};
use wire::{Direction, Kind, Named, Step, ca, pva};

use crate::{
    data::Data,
    from_pod::FromPod,
    gvcp::Gvcp,
    packet::{PAYLOAD, Packet},
    skb::Skb,
};

/// What a datagram holds.
///
/// Plain numbers, combined without branches: the verifier would follow every combination of flags through every step of a
/// walk.
#[derive(Clone, Copy)]
pub struct Content {
    direction: Direction,
    /// Number of its protocol, if that is described by configuration.
    protocol: u16,
    /// Not 0 if it searches; it announces or answers otherwise.
    search: u32,
    /// All ones if it names a transport address, 0 otherwise.
    names: u32,
    /// The port named.
    port: u32,
    /// Not 0 if that is a port of UDP.
    udp: u32,
    /// The address named, as it stands; 0 where it is left to the source.
    address: u32,
    /// Not 0 if it names several addresses, or one that is not IPv4.
    odd: u32,
    /// Offset of a search's flags, where they say "unicast"; 0 otherwise.
    unicast_at: u32,
    /// Not 0 if it is for one server alone, never for all.
    directed: u32,
}

impl Content {
    /// A datagram of which nothing is known yet.
    #[inline(always)]
    const fn new(direction: Direction) -> Self {
        Self {
            direction,
            protocol: 0,
            search: 0,
            names: 0,
            port: 0,
            udp: 0,
            address: 0,
            odd: 0,
            unicast_at: 0,
            directed: 0,
        }
    }

    /// A datagram of a protocol that is described by configuration, which names nothing yet.
    #[inline(always)]
    pub const fn of(protocol: u16, direction: Direction, search: bool) -> Self {
        Self { protocol, search: search as u32, ..Self::new(direction) }
    }

    /// A datagram that names nothing: one that wants an answer, or is one.
    #[inline(always)]
    pub const fn plain(direction: Direction, directed: bool) -> Self {
        let search = matches!(direction, Direction::Announce) as u32;
        Self { search, directed: directed as u32, ..Self::new(direction) }
    }

    /// Whether it is for one server alone, never for all.
    #[inline(always)]
    pub fn is_directed(&self) -> bool {
        self.directed != 0
    }

    /// Whether it searches; it announces or answers otherwise.
    #[inline(always)]
    pub fn is_search(&self) -> bool {
        self.search != 0
    }

    /// What is named, if `sender` names itself, with port 0 if nothing is; `None` if it speaks for another host.
    #[inline(always)]
    pub fn own(&self, sender: [u8; 4]) -> Option<Endpoint> {
        let foreign = self.address != 0 && self.address != u32::from_ne_bytes(sender);
        if self.odd != 0 || foreign || (self.names != 0 && self.port == 0) {
            return None;
        }
        let protocol = if self.udp != 0 { UDP } else { TCP } as u16;
        Some(Endpoint { address: sender, port: self.port as u16, protocol })
    }

    /// Where a search from `source` is to be answered to.
    #[inline(always)]
    pub fn reply_to(&self, source: Endpoint) -> Endpoint {
        if self.names == 0 || self.odd != 0 {
            return source;
        }
        let address = if self.address == 0 { source.address } else { self.address.to_ne_bytes() };
        Endpoint { address, port: self.port as u16, protocol: source.protocol }
    }

    /// Whether it names a port, or an address other than its source.
    #[inline(always)]
    pub fn is_named(&self) -> bool {
        (self.port | self.address) != 0
    }

    /// Number of its protocol, if that is described by configuration.
    #[inline(always)]
    pub fn protocol(&self) -> u16 {
        self.protocol
    }

    /// Takes in that it names an address, zeros if that is left to the source.
    #[inline(always)]
    pub fn add_address(&mut self, address: [u8; 4]) {
        let address = u32::from_ne_bytes(address);
        let another = self.address != 0 && address != 0 && self.address != address;
        self.odd |= another as u32;
        self.address |= address;
    }

    /// Takes in that it names a port.
    #[inline(always)]
    pub fn add_port(&mut self, port: u16, udp: bool) {
        let (port, udp) = (port as u32, udp as u32);
        self.odd |= self.names & (port ^ self.port | udp ^ self.udp);
        self.names = u32::MAX;
        self.port = port;
        self.udp = udp;
    }

    /// Takes in that it names what is no transport address.
    #[inline(always)]
    pub fn add_odd(&mut self) {
        self.odd = 1;
    }

    /// Takes in what a message names. Real datagrams name one address, however often: another beside it is odd.
    #[inline(always)]
    fn add(&mut self, kind: Kind, named: &Named) {
        let address = u32::from_ne_bytes(named.address);
        let port = named.port as u32;
        self.odd |= named.odd as u32 | self.names & (port ^ self.port | address ^ self.address);
        let search = matches!(kind, Kind::Search) as u32;
        self.search |= search;
        self.udp |= search;
        self.names = u32::MAX;
        self.port = port;
        self.address = address;
    }
}

/// A protocol's way to read and rewrite a payload.
pub trait Format {
    /// Whether it is that of cameras: what is sent to a host is for that host alone, and what is for all goes to 255.255.255.255,
    /// since a camera's own network may be another one.
    const CAMERAS: bool = false;
    /// Whether it is that of streams: too many packets to tell of each.
    const STREAM: bool = false;

    /// What `packet`, a datagram of `protocol`, holds; an error if that is not for others to see.
    fn inspect(packet: &Packet, direction: Direction, protocol: u16) -> Result<Content, Verdict>;

    /// Makes `packet` name the transport address `to` where it names `from`; an address left to the source stays so. With
    /// both exchanged it is undone.
    fn rename(packet: &Packet, content: &Content, from: &Endpoint, to: &Endpoint);

    /// Translates what else a datagram from a pod holds; any verdict but `Sent` and `Answered` keeps it from the LAN.
    #[inline(always)]
    fn rewrite(_: &FromPod, _: &Uplink) -> Verdict {
        Verdict::Sent
    }
}

/// Channel Access.
pub struct Ca;
/// PV Access.
pub struct Pva;

/// What `packet`, a datagram of `protocol`, holds.
#[inline(always)]
pub fn inspect(packet: &Packet, protocol: u16, direction: Direction) -> Result<Content, Verdict> {
    if protocol == Protocol::Pva as u16 {
        Pva::inspect(packet, direction, protocol)
    } else if protocol == Protocol::Gvcp as u16 {
        Gvcp::inspect(packet, direction, protocol)
    } else if protocol as u32 >= abi::DATA {
        Data::inspect(packet, direction, protocol)
    } else {
        Ca::inspect(packet, direction, protocol)
    }
}

/// Bytes of payload, where the packet is whole.
#[inline(always)]
pub fn length(packet: &Packet) -> Result<u32, Verdict> {
    if packet.fragment { Err(Verdict::Fragment) } else { packet.payload.ok_or(Verdict::Malformed) }
}

impl Format for Pva {
    #[inline(always)]
    fn inspect(packet: &Packet, direction: Direction, _: u16) -> Result<Content, Verdict> {
        let (kind, named, unicast) = pva(packet.skb, length(packet)?, direction)?;
        let mut content = Content::new(direction);
        content.add(kind, &named);
        if unicast {
            content.unicast_at = pva::SEARCH_FLAGS;
        }
        Ok(content)
    }

    #[inline(always)]
    fn rename(packet: &Packet, content: &Content, from: &Endpoint, to: &Endpoint) {
        if let Ok((_, named, _)) = pva(packet.skb, packet.payload.unwrap_or(0), content.direction) {
            put(packet, &named, from, to);
        }
    }
}

impl Format for Ca {
    #[inline(always)]
    fn inspect(packet: &Packet, direction: Direction, _: u16) -> Result<Content, Verdict> {
        let chain = ca::Chain::new(length(packet)?);
        let mut scan = Scan { skb: packet.skb.raw(), chain, content: Content::new(direction), sound: true };
        let pointer = &raw mut scan;
        // SAFETY: the callback has the type bpf_loop calls, and the state outlives the loop.
        let scan = unsafe {
            bpf_loop(ca::MAX_MESSAGES, take_in_ca as *mut c_void, pointer.cast(), 0);
            pointer.read()
        };
        if scan.sound && scan.chain.finish().is_ok() { Ok(scan.content) } else { Err(Verdict::Malformed) }
    }

    #[inline(always)]
    fn rename(packet: &Packet, content: &Content, from: &Endpoint, to: &Endpoint) {
        let Some(length) = packet.payload else { return };
        let chain = ca::Chain::new(length);
        let mut rewrite = Rewrite { packet, chain, direction: content.direction, from: *from, to: *to };
        // SAFETY: as in `inspect`.
        unsafe { bpf_loop(ca::MAX_MESSAGES, put_ca as *mut c_void, (&raw mut rewrite).cast(), 0) };
    }
}

/// Sets or clears a search's "unicast" flag, where `content` has it set: a copy that is broadcast in a pod must not say so.
#[inline(always)]
pub fn set_unicast(packet: &Packet, content: &Content, unicast: bool) {
    if content.unicast_at == 0 {
        return;
    }
    let Some(old) = packet.skb.load::<2>(PAYLOAD + content.unicast_at) else { return };
    let flags = if unicast { old[0] | pva::UNICAST } else { old[0] & !pva::UNICAST };
    packet.set_payload(content.unicast_at, old, [flags, old[1]]);
}

/// Puts `to` where a message names `from`.
#[inline(always)]
fn put(packet: &Packet, named: &Named, from: &Endpoint, to: &Endpoint) {
    packet.set_payload(named.port_at, named.order.bytes(from.port), named.order.bytes(to.port));
    if named.address == from.address {
        packet.set_payload(named.address_at, named.address, to.address);
    }
}

/// What the message in a PV Access datagram is and names, and whether it is a search sent to one server.
#[inline(always)]
fn pva(skb: Skb, length: u32, direction: Direction) -> Result<(Kind, Named, bool), Verdict> {
    const BODY: u32 = PAYLOAD + pva::HEADER;
    let header = skb.load(PAYLOAD).ok_or(Verdict::Malformed)?;
    match pva::message(&header, length, direction) {
        Ok(pva::Body::Search(order)) => {
            let (named, unicast) = pva::search(&skb.load(BODY).ok_or(Verdict::Malformed)?, order);
            Ok((Kind::Search, named, unicast))
        }
        Ok(pva::Body::Server(kind, order)) => {
            Ok((kind, pva::server(&skb.load(BODY).ok_or(Verdict::Malformed)?, order), false))
        }
        Ok(pva::Body::Local) => Err(Verdict::Local),
        Err(_) => Err(Verdict::Malformed),
    }
}

/// A first walk along a Channel Access datagram, which learns what it holds; passed through `bpf_loop`.
struct Scan {
    skb: *mut __sk_buff,
    chain: ca::Chain,
    content: Content,
    sound: bool,
}

/// Takes in one message; returns 1 to stop.
extern "C" fn take_in_ca(_index: u32, scan: *mut Scan) -> i64 {
    // SAFETY: `scan` is the state passed to bpf_loop, alive during the loop.
    let scan = unsafe { &mut *scan };
    if !scan.chain.has_next() {
        return 1;
    }
    let header = Skb::from_raw(scan.skb).load(PAYLOAD + scan.chain.offset);
    match header.map(|header| ca::step(&mut scan.chain, &header, scan.content.direction)) {
        Some(Ok(Step::Opaque)) => 0,
        Some(Ok(Step::Plain(kind))) => {
            scan.content.search |= matches!(kind, Kind::Search) as u32;
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

/// A second walk along a Channel Access datagram, which rewrites what it names; passed through `bpf_loop`.
struct Rewrite<'a> {
    packet: &'a Packet,
    chain: ca::Chain,
    direction: Direction,
    from: Endpoint,
    to: Endpoint,
}

/// Rewrites what one message names; returns 1 to stop.
extern "C" fn put_ca(_index: u32, rewrite: *mut Rewrite) -> i64 {
    // SAFETY: `rewrite` is the state passed to bpf_loop, alive during the loop.
    let rewrite = unsafe { &mut *rewrite };
    if !rewrite.chain.has_next() {
        return 1;
    }
    let Some(header) = rewrite.packet.skb.load(PAYLOAD + rewrite.chain.offset) else { return 1 };
    match ca::step(&mut rewrite.chain, &header, rewrite.direction) {
        Ok(Step::Names(_, named)) => put(rewrite.packet, &named, &rewrite.from, &rewrite.to),
        Ok(_) => {}
        Err(_) => return 1,
    }
    0
}
