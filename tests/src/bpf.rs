//! bpf(2) as tests and benchmark need it beside aya: programs made of a few instructions, and what programs cost.

use std::{
    ffi::CString,
    io::{Error, Result},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::libc;

const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const PROG_TEST_RUN: libc::c_int = 10;
const LINK_CREATE: libc::c_int = 28;
const ENABLE_STATS: libc::c_int = 32;
const SCHED_CLS: u32 = 3;

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

/// An instruction: its code, destination and source register, offset, immediate value.
pub fn instruction(code: u64, to: u64, from: u64, offset: i16, value: i32) -> u64 {
    code | to << 8 | from << 12 | u64::from(offset as u16) << 16 | u64::from(value as u32) << 32
}

/// Sets a register.
pub fn set(to: u64, value: i32) -> u64 {
    instruction(0xb7, to, 0, 0, value)
}

/// The end of a program.
pub const EXIT: u64 = 0x95;

/// Loads a program for the hooks of tc.
pub fn load(code: &[u64]) -> Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes[0] = halves(SCHED_CLS, code.len() as u32);
    attributes[1] = code.as_ptr() as u64;
    attributes[2] = c"GPL".as_ptr() as u64;
    bpf(PROG_LOAD, &mut attributes).map(descriptor)
}

/// Runs a program once on a frame, in the calling thread's network namespace.
pub fn run(program: &OwnedFd, frame: &[u8]) -> Result<()> {
    let mut attributes = Attributes::default();
    attributes[0] = halves(program.as_raw_fd() as u32, 0);
    attributes[1] = halves(frame.len() as u32, 0);
    attributes[2] = frame.as_ptr() as u64;
    attributes[4] = halves(1, 0); // repeat
    bpf(PROG_TEST_RUN, &mut attributes).map(|_| ())
}

/// Runs a program `repeat` times on a frame that is at `interface`, in the calling thread's network namespace: its verdict, and
/// how many nanoseconds a run takes.
pub fn time(program: &OwnedFd, frame: &[u8], interface: u32, repeat: u32) -> Result<(i32, u32)> {
    const INTERFACE: usize = 10; // a word of `__sk_buff` (linux/bpf.h)
    let mut context = [0_u32; 48];
    context[INTERFACE] = interface;
    let mut attributes = Attributes::default();
    attributes[0] = halves(program.as_raw_fd() as u32, 0);
    attributes[1] = halves(frame.len() as u32, 0);
    attributes[2] = frame.as_ptr() as u64;
    attributes[4] = halves(repeat, 0);
    attributes[5] = halves(size_of_val(&context) as u32, 0);
    attributes[6] = context.as_ptr() as u64;
    bpf(PROG_TEST_RUN, &mut attributes)?;
    Ok(((attributes[0] >> 32) as u32 as i32, (attributes[4] >> 32) as u32))
}

/// Attaches a program to an interface by TCX, behind all others, for as long as the descriptor is open.
pub fn attach(program: &OwnedFd, interface: u32, side: Side) -> Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes[0] = halves(program.as_raw_fd() as u32, interface);
    attributes[1] = halves(side as u32, 0);
    bpf(LINK_CREATE, &mut attributes).map(descriptor)
}

/// Where a TCX program sits.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    /// It sees what comes in.
    Ingress = 46,
    /// It sees what goes out.
    Egress = 47,
}

/// Has the kernel measure programs for as long as the descriptor is open.
pub fn enable_statistics() -> Result<OwnedFd> {
    bpf(ENABLE_STATS, &mut Attributes::default()).map(descriptor) // 0: run time
}

/// Pins a program at `path`.
pub fn pin(program: &OwnedFd, path: &str) -> Result<()> {
    let path = CString::new(path)?;
    let mut attributes = Attributes::default();
    attributes[0] = path.as_ptr() as u64;
    attributes[1] = halves(program.as_raw_fd() as u32, 0);
    bpf(OBJ_PIN, &mut attributes).map(|_| ())
}

/// A program that is pinned at `path`.
pub fn pinned(path: &str) -> Result<OwnedFd> {
    let path = CString::new(path)?;
    let mut attributes = Attributes::default();
    attributes[0] = path.as_ptr() as u64;
    bpf(OBJ_GET, &mut attributes).map(descriptor)
}

/// How many nanoseconds a program has run while it was measured, and how often.
pub fn runs(program: &OwnedFd) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    let (time, count) = (field("run_time_ns:"), field("run_cnt:"));
    time.zip(count)
        .ok_or_else(|| Error::other(format!("the kernel does not say how long a program ran: {text}")))
}
