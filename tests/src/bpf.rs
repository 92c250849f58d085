//! bpf(2) as tests and benchmark need it beside aya: programs made of a few instructions, and what programs cost.

use std::{
    io::{Error, Result},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use datapath::bpf::{Attributes, LINK_CREATE, PROG_TEST_RUN, command, halves};
pub use datapath::bpf::{EXIT, Side, instruction, load, open, pin, set};
use nix::libc;

const ENABLE_STATS: libc::c_int = 32;

fn call(number: libc::c_int, attributes: &mut Attributes) -> Result<libc::c_long> {
    // SAFETY: what the attributes point to lives in the caller's frame, and is as large as the caller says.
    unsafe { command(number, attributes) }
}

fn descriptor(result: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just made it, for us alone.
    unsafe { OwnedFd::from_raw_fd(result as libc::c_int) }
}

/// Runs a program once on a frame, in the calling thread's network namespace.
pub fn run(program: &OwnedFd, frame: &[u8]) -> Result<()> {
    let mut attributes = Attributes::default();
    attributes[0] = halves(program.as_raw_fd() as u32, 0);
    attributes[1] = halves(frame.len() as u32, 0);
    attributes[2] = frame.as_ptr() as u64;
    attributes[4] = halves(1, 0); // repeat
    call(PROG_TEST_RUN, &mut attributes).map(|_| ())
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
    call(PROG_TEST_RUN, &mut attributes)?;
    Ok(((attributes[0] >> 32) as u32 as i32, (attributes[4] >> 32) as u32))
}

/// Attaches a program to an interface by TCX, behind all others, for as long as the descriptor is open.
pub fn attach(program: &OwnedFd, interface: u32, side: Side) -> Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes[0] = halves(program.as_raw_fd() as u32, interface);
    attributes[1] = halves(side as u32, 0);
    call(LINK_CREATE, &mut attributes).map(descriptor)
}

/// Has the kernel measure programs for as long as the descriptor is open.
pub fn enable_statistics() -> Result<OwnedFd> {
    call(ENABLE_STATS, &mut Attributes::default()).map(descriptor) // 0: run time
}

/// How many nanoseconds a program has run while it was measured, and how often.
pub fn runs(program: &OwnedFd) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    let (time, count) = (field("run_time_ns:"), field("run_cnt:"));
    time.zip(count)
        .ok_or_else(|| Error::other(format!("the kernel does not say how long a program ran: {text}")))
}
