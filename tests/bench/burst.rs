//! Datagrams that arrive all at once.
//!
//! Datagrams that a socket sends one after another are received one after another. A network card hands over many at
//! once, and this is where queues overflow. So a program of a few instructions puts them all into an interface's
//! receive queue in one go, before the kernel takes the first one out.

use std::{io::Result, os::fd::OwnedFd};

use lab::bpf::{self, EXIT, instruction, set};

const CLONE_REDIRECT: i32 = 13;
const STORE_BYTES: i32 = 9;
const INGRESS: i32 = 1;
/// Bytes in which frames of a burst may differ: Ethernet, IPv4, UDP; whole words.
const HEADERS: usize = 44;

/// Datagrams that reach an interface at once.
pub(crate) struct Burst {
    program: OwnedFd,
    frame: Vec<u8>,
}

impl Burst {
    /// `count` times all the frames, in turn, which differ in nothing but their headers.
    pub(crate) fn new(frames: &[Vec<u8>], count: usize, interface: u32) -> Result<Self> {
        let program = bpf::load(&instructions(frames, count as i32, interface as i32))?;
        Ok(Self { program, frame: frames[0].clone() })
    }

    /// Lets them arrive, in the calling thread's network namespace. Returns when the kernel has taken care of them, as far
    /// as it does so at once.
    pub(crate) fn arrive(&self) -> Result<()> {
        bpf::run(&self.program, &self.frame)
    }
}

/// The program: for each frame, write its headers over the packet and queue a copy; all of it `count` times.
fn instructions(frames: &[Vec<u8>], count: i32, interface: i32) -> Vec<u64> {
    let copy = |to, from| instruction(0xbf, to, from, 0, 0);
    let call = |helper| instruction(0x85, 0, 0, 0, helper);
    let mut code = vec![copy(6, 1), set(7, count)];
    let place = |frame: usize| -((48 * (frame + 1)) as i32);
    for (number, frame) in frames.iter().enumerate() {
        for (word, bytes) in frame[..HEADERS].chunks_exact(4).enumerate() {
            let value = i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            code.push(instruction(0x62, 10, 0, (place(number) + 4 * word as i32) as i16, value));
        }
    }
    let start = code.len();
    for number in 0..frames.len() {
        code.extend([copy(1, 6), set(2, 0), copy(3, 10), instruction(0x07, 3, 0, 0, place(number))]);
        code.extend([set(4, HEADERS as i32), set(5, 0), call(STORE_BYTES)]);
        code.extend([copy(1, 6), set(2, interface), set(3, INGRESS), call(CLONE_REDIRECT)]);
    }
    let back = start as i16 - (code.len() as i16 + 2);
    code.extend([instruction(0x17, 7, 0, 0, 1), instruction(0x55, 7, 0, back, 0), set(0, 0), EXIT]);
    code
}
