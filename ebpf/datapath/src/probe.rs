//! Small programs of our own that run once, when they are asked to, and are attached nowhere: one looks for a socket in the
//! namespace of a pod as the programs of the datapath do, one for a connection, and one makes a frame arrive at an interface as if it
//! came over the wire.
//!
//! All need CAP_BPF and CAP_NET_ADMIN, and neither enters a namespace.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
};

use abi::TCP;

use crate::{
    Error, Result,
    bpf::{self, EXIT, instruction, set},
};

/// Helpers (linux/bpf.h).
const SKB_STORE_BYTES: i32 = 9;
const CLONE_REDIRECT: i32 = 13;
const SKB_LOAD_BYTES: i32 = 26;
const SK_LOOKUP_TCP: i32 = 84;
const SK_LOOKUP_UDP: i32 = 85;
const SK_RELEASE: i32 = 86;
const SKC_LOOKUP_TCP: i32 = 99;
const F_INGRESS: i32 = 1;
/// Offsets in `struct bpf_sock`.
const SRC_IP4: i16 = 24;
const DST_PORT: i16 = 48;
/// What the kernel demands of a frame that it is given.
const ETHERNET: usize = 14;
/// An `EtherType` for experiments, so that the kernel looks no further into a frame that only carries a question.
const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];
/// Bytes of a question: a `bpf_sock_tuple`, a namespace's id, and whether TCP is meant.
const QUESTION: usize = 20;
/// Where a program has the question: below the frame pointer, aligned to 8.
const ASKED: i16 = -(QUESTION as i16) - 4;

/// A program that runs when it is told to.
#[derive(Debug)]
struct Program(OwnedFd);

impl Program {
    fn load(code: &[u64]) -> Result<Self> {
        let loaded = bpf::load(code);
        loaded.map(Self).map_err(|error| Error::kernel("cannot load a program that looks", error))
    }

    /// Runs it once on `frame`, which then is as the program left it; what it returned.
    fn run(&self, frame: &mut [u8]) -> Result<i32> {
        let ran = bpf::run(&self.0, frame);
        ran.map_err(|error| Error::kernel("cannot run a program that looks", error))
    }
}

/// Looks for sockets in any namespace that has an id here.
#[derive(Debug)]
pub struct Lookup(Program);

impl Lookup {
    /// Loads the program.
    pub fn new() -> Result<Self> {
        let found = [
            load_word(7, 10, ASKED + 16), // whether TCP is meant
            unless_zero(7, 2),
            call(SK_LOOKUP_UDP),
            jump(1),
            call(SK_LOOKUP_TCP),
            if_zero(0, 0), // to the end: nothing found; `looking` says how far
            load_word(7, 0, SRC_IP4),
            store_word(10, ASKED, 7),
            copy(1, 0),
            call(SK_RELEASE),
            // The address that it is bound to, in the place of the question.
            copy(1, 6),
            set(2, ETHERNET as i32),
            copy(3, 10),
            add(3, ASKED.into()),
            set(4, 4),
            set(5, 0),
            call(SKB_STORE_BYTES),
            set(0, 1),
            EXIT,
        ];
        Program::load(&looking(&found, 5)).map(Self)
    }

    /// The address that the socket in `netns` is bound to, zeros for any, that would receive a datagram, or with protocol
    /// [`TCP`] a connection request, `from` -> `to`; `None` if there is none.
    pub fn bound(
        &self,
        netns: i32,
        protocol: u8,
        from: SocketAddrV4,
        to: SocketAddrV4,
    ) -> Result<Option<Ipv4Addr>> {
        let mut frame = asking(netns, protocol, from, to);
        let found = self.0.run(&mut frame)? == 1;
        let address = || [frame[ETHERNET], frame[ETHERNET + 1], frame[ETHERNET + 2], frame[ETHERNET + 3]];
        Ok(found.then(|| address().into()))
    }
}

/// Looks for connections in any namespace that has an id here.
#[derive(Debug)]
pub(crate) struct Connections(Program);

impl Connections {
    /// Loads the program.
    pub(crate) fn new() -> Result<Self> {
        let found = [
            call(SKC_LOOKUP_TCP),
            if_zero(0, 0),             // as above
            load_word(7, 0, DST_PORT), // a listener has none
            copy(1, 0),
            call(SK_RELEASE),
            copy(0, 7),
            EXIT,
        ];
        Program::load(&looking(&found, 1)).map(Self)
    }

    /// Whether `netns` has a connection between a peer and a port of its own, established, being opened or ending.
    pub(crate) fn has(&self, netns: i32, peer: SocketAddrV4, own: SocketAddrV4) -> Result<bool> {
        Ok(self.0.run(&mut asking(netns, TCP, peer, own))? != 0)
    }
}

/// A program that looks for a socket: it takes the question from behind the Ethernet header, makes a lookup's arguments of it, and goes
/// on with `rest`. It ends with 0 if there is no question, and where the jump at `nothing` in `rest` leads.
fn looking(rest: &[u64], nothing: usize) -> Vec<u64> {
    let begin = [
        copy(6, 1),
        set(2, ETHERNET as i32),
        copy(3, 10),
        add(3, ASKED.into()),
        set(4, QUESTION as i32),
        call(SKB_LOAD_BYTES),
        unless_zero(0, 0), // to the end
        copy(1, 6),
        copy(2, 10),
        add(2, ASKED.into()),
        set(3, 12),
        load_word(4, 10, ASKED + 12), // the namespace
        set(5, 0),
    ];
    let end = [set(0, 0), EXIT];
    let mut code = [&begin, rest, &end].concat();
    let target = code.len() - end.len();
    for place in [6, begin.len() + nothing] {
        code[place] |= ((target - place - 1) as u64) << 16; // the offset, which was 0
    }
    code
}

/// A frame that carries a question.
fn asking(netns: i32, protocol: u8, from: SocketAddrV4, to: SocketAddrV4) -> [u8; ETHERNET + QUESTION] {
    let mut frame = [0; ETHERNET + QUESTION];
    frame[ETHERNET - 2..ETHERNET].copy_from_slice(&EXPERIMENTAL);
    let parts: [&[u8]; 6] = [
        &from.ip().octets(),
        &to.ip().octets(),
        &from.port().to_be_bytes(),
        &to.port().to_be_bytes(),
        &netns.to_ne_bytes(),
        &u32::from(protocol == TCP).to_ne_bytes(),
    ];
    frame[ETHERNET..].copy_from_slice(&parts.concat());
    frame
}

/// Makes frames arrive at an interface.
#[derive(Debug)]
pub struct Arrival(Program);

impl Arrival {
    /// Loads the program for the interface with this index.
    pub fn at(interface: u32) -> Result<Self> {
        let code = [set(2, interface.cast_signed()), set(3, F_INGRESS), call(CLONE_REDIRECT), EXIT];
        Program::load(&code).map(Self)
    }

    /// Makes a copy of `frame`, from its Ethernet header on, arrive; false if there was no room for it.
    pub fn put(&self, frame: &[u8]) -> Result<bool> {
        Ok(self.0.run(&mut frame.to_vec())? == 0)
    }
}

const fn copy(to: u64, from: u64) -> u64 {
    instruction(0xbf, to, from, 0, 0)
}

const fn add(to: u64, value: i32) -> u64 {
    instruction(0x07, to, 0, 0, value)
}

const fn call(helper: i32) -> u64 {
    instruction(0x85, 0, 0, 0, helper)
}

const fn jump(offset: i16) -> u64 {
    instruction(0x05, 0, 0, offset, 0)
}

const fn if_zero(register: u64, offset: i16) -> u64 {
    instruction(0x15, register, 0, offset, 0)
}

const fn unless_zero(register: u64, offset: i16) -> u64 {
    instruction(0x55, register, 0, offset, 0)
}

const fn load_word(to: u64, from: u64, offset: i16) -> u64 {
    instruction(0x61, to, from, offset, 0)
}

const fn store_word(to: u64, offset: i16, from: u64) -> u64 {
    instruction(0x63, to, from, offset, 0)
}
