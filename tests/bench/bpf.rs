//! bpf(2) as the benchmark needs it: datagrams that arrive all at once, and what programs cost.
//!
//! Datagrams that a socket sends one after another are received one after another. A network card hands over many at
//! once, and this is where queues overflow. So a program of a few instructions puts them all into an interface's
//! receive queue in one go, before the kernel takes the first one out.

use std::{
    ffi::CString,
    io::{Error, Result},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::libc;

const PROG_LOAD: libc::c_int = 5;
const OBJ_GET: libc::c_int = 7;
const PROG_TEST_RUN: libc::c_int = 10;
const ENABLE_STATS: libc::c_int = 32;
const SCHED_CLS: u32 = 3;
const CLONE_REDIRECT: i32 = 13;
const STORE_BYTES: i32 = 9;
const INGRESS: i32 = 1;
/// Bytes in which frames of a burst may differ: Ethernet, IPv4, UDP; whole words.
const HEADERS: usize = 44;

/// Attributes of a bpf(2) command, zero beyond what the command reads.
type Attributes = [u64; 16];

fn bpf(command: libc::c_int, attributes: &mut Attributes) -> Result<libc::c_long> {
    // SAFETY: the attributes are larger than what any of the commands reads or writes, and what they point to lives in
    // the caller's frame.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of::<Attributes>()) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just made it, for us alone.
    unsafe { OwnedFd::from_raw_fd(result as libc::c_int) }
}

/// Two halves of a word, the lower one first.
fn halves(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// Datagrams that reach an interface at once.
pub(crate) struct Burst {
    program: OwnedFd,
    frame: Vec<u8>,
}

impl Burst {
    /// `count` times all the frames, in turn, which differ in nothing but their headers.
    pub(crate) fn new(frames: &[Vec<u8>], count: usize, interface: u32) -> Result<Self> {
        let code = instructions(frames, count as i32, interface as i32);
        let mut attributes = Attributes::default();
        attributes[0] = halves(SCHED_CLS, code.len() as u32);
        attributes[1] = code.as_ptr() as u64;
        attributes[2] = c"GPL".as_ptr() as u64;
        let program = descriptor(bpf(PROG_LOAD, &mut attributes)?);
        Ok(Self { program, frame: frames[0].clone() })
    }

    /// Lets them arrive, in the calling thread's network namespace. Returns when the kernel has taken care of them, as far
    /// as it does so at once.
    pub(crate) fn arrive(&self) -> Result<()> {
        let mut attributes = Attributes::default();
        attributes[0] = halves(self.program.as_raw_fd() as u32, 0);
        attributes[1] = halves(self.frame.len() as u32, 0);
        attributes[2] = self.frame.as_ptr() as u64;
        attributes[4] = halves(1, 0); // repeat
        bpf(PROG_TEST_RUN, &mut attributes).map(|_| ())
    }
}

/// The program: for each frame, write its headers over the packet and queue a copy; all of it `count` times.
fn instructions(frames: &[Vec<u8>], count: i32, interface: i32) -> Vec<u64> {
    let insn = |code: u64, to: u64, from: u64, offset: i16, value: i32| {
        code | to << 8 | from << 12 | u64::from(offset as u16) << 16 | u64::from(value as u32) << 32
    };
    let set = |to, value| insn(0xb7, to, 0, 0, value);
    let copy = |to, from| insn(0xbf, to, from, 0, 0);
    let call = |helper| insn(0x85, 0, 0, 0, helper);
    let mut code = vec![copy(6, 1), set(7, count)];
    let place = |frame: usize| -((48 * (frame + 1)) as i32);
    for (number, frame) in frames.iter().enumerate() {
        for (word, bytes) in frame[..HEADERS].chunks_exact(4).enumerate() {
            let value = i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            code.push(insn(0x62, 10, 0, (place(number) + 4 * word as i32) as i16, value));
        }
    }
    let start = code.len();
    for number in 0..frames.len() {
        code.extend([copy(1, 6), set(2, 0), copy(3, 10), insn(0x07, 3, 0, 0, place(number))]);
        code.extend([set(4, HEADERS as i32), set(5, 0), call(STORE_BYTES)]);
        code.extend([copy(1, 6), set(2, interface), set(3, INGRESS), call(CLONE_REDIRECT)]);
    }
    let back = start as i16 - (code.len() as i16 + 2);
    code.extend([insn(0x17, 7, 0, 0, 1), insn(0x55, 7, 0, back, 0), set(0, 0), insn(0x95, 0, 0, 0, 0)]);
    code
}

/// Has the kernel measure programs for as long as the descriptor is open.
pub(crate) fn enable_statistics() -> Result<OwnedFd> {
    bpf(ENABLE_STATS, &mut Attributes::default()).map(descriptor) // 0: run time
}

/// A program that is pinned at `path`.
pub(crate) fn pinned(path: &str) -> Result<OwnedFd> {
    let path = CString::new(path)?;
    let mut attributes = Attributes::default();
    attributes[0] = path.as_ptr() as u64;
    bpf(OBJ_GET, &mut attributes).map(descriptor)
}

/// How many nanoseconds a program has run while it was measured, and how often.
pub(crate) fn runs(program: &OwnedFd) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    let (time, count) = (field("run_time_ns:"), field("run_cnt:"));
    time.zip(count)
        .ok_or_else(|| Error::other(format!("the kernel does not say how long a program ran: {text}")))
}
