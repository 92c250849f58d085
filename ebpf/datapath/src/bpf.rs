//! bpf(2) where aya lacks a call, as for reading maps in batches and running a program, or first asks the kernel for its
//! features, as for a program from a pin: 18 calls, which load programs and make maps.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::Pod;
use nix::{errno::Errno, libc};

/// Commands (linux/bpf.h).
const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
/// Runs a program.
pub const PROG_TEST_RUN: libc::c_int = 10;
const PROG_QUERY: libc::c_int = 16;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
/// Attaches a program.
pub const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
/// Flag of an attachment: ahead of all others.
const BPF_F_BEFORE: u32 = 1 << 3;

/// Entries that a call reads, unless those with the same hash are more.
const BATCH: usize = 1024;

/// Attributes of a command, zero beyond what it reads; longer than those of any.
pub type Attributes = [u64; 16];

/// Where a TCX program sits (`BPF_TCX_INGRESS`, `BPF_TCX_EGRESS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It sees what comes in.
    Ingress = 46,
    /// It sees what goes out.
    Egress = 47,
}

/// Carries out a command for which there is no function here; what it returns.
///
/// # Safety
///
/// What the attributes point to has to live until it returns, and to be as large as they say.
pub unsafe fn command(number: libc::c_int, attributes: &mut Attributes) -> io::Result<libc::c_long> {
    call(number, attributes)
}

fn call(command: libc::c_int, attributes: &mut Attributes) -> io::Result<libc::c_long> {
    // SAFETY: what the attributes point to lives in the caller's frame, and is as large as the caller says.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of::<Attributes>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// What a command has opened.
fn descriptor(result: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just made it, for us alone.
    unsafe { OwnedFd::from_raw_fd(result as libc::c_int) }
}

/// Two halves of a word, the lower one first.
pub fn halves(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn number(object: &impl AsRawFd) -> u32 {
    object.as_raw_fd().cast_unsigned()
}

/// An instruction: its code, destination and source register, offset, immediate value.
pub const fn instruction(code: u64, to: u64, from: u64, offset: i16, value: i32) -> u64 {
    code | to << 8 | from << 12 | (offset as u16 as u64) << 16 | (value as u32 as u64) << 32
}

/// Sets a register.
pub const fn set(to: u64, value: i32) -> u64 {
    instruction(0xb7, to, 0, 0, value)
}

/// The end of a program.
pub const EXIT: u64 = 0x95;

/// Loads a program for the hooks of tc.
pub fn load(code: &[u64]) -> io::Result<OwnedFd> {
    const SCHED_CLS: u32 = 3;
    let mut attributes = Attributes::default();
    attributes[0] = halves(SCHED_CLS, code.len() as u32);
    attributes[1] = code.as_ptr() as u64;
    attributes[2] = c"GPL".as_ptr() as u64;
    call(PROG_LOAD, &mut attributes).map(descriptor)
}

/// Runs a program once on `frame`, which then is as the program left it; what it returned.
pub(crate) fn run(program: &OwnedFd, frame: &mut [u8]) -> io::Result<i32> {
    let mut attributes = Attributes::default();
    let (length, place) = (frame.len() as u32, frame.as_mut_ptr() as u64);
    attributes[0] = halves(number(program), 0);
    attributes[1] = halves(length, length);
    (attributes[2], attributes[3]) = (place, place);
    attributes[4] = halves(1, 0); // how often
    call(PROG_TEST_RUN, &mut attributes)?;
    Ok((attributes[0] >> 32) as i32)
}

/// Opens what is pinned at `path`.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Attributes::default();
    attributes[0] = path.as_ptr() as u64;
    call(OBJ_GET, &mut attributes).map(descriptor)
}

/// Pins `object` at `path`.
pub fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Attributes::default();
    attributes[0] = path.as_ptr() as u64;
    attributes[1] = halves(number(object), 0);
    call(OBJ_PIN, &mut attributes).map(drop)
}

/// Attaches `program` to interface number `interface` by TCX, ahead of all others, for as long as the link is open or pinned.
pub(crate) fn link(program: &OwnedFd, interface: u32, side: Side) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes[0] = halves(number(program), interface);
    attributes[1] = halves(side as u32, BPF_F_BEFORE);
    call(LINK_CREATE, &mut attributes).map(descriptor)
}

/// Replaces the program of `link` by `program`, between two packets.
pub(crate) fn update(link: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    let mut attributes = Attributes::default();
    attributes[0] = halves(number(link), number(program));
    call(LINK_UPDATE, &mut attributes).map(drop)
}

/// How many TCX programs are attached to interface number `interface`.
pub(crate) fn attached(interface: u32, side: Side) -> io::Result<u32> {
    let mut attributes = Attributes::default();
    attributes[0] = halves(interface, side as u32);
    call(PROG_QUERY, &mut attributes).map(|_| attributes[3] as u32)
}

/// Every entry of a hash map, each once, by a call for about [`BATCH`] of them.
pub(crate) fn entries<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut place = vec![0u8; size_of::<K>().max(size_of::<u32>())]; // where it goes on, as the kernel writes it
    let (mut found, mut begun, mut room) = (vec![], false, BATCH);
    loop {
        let from = if begun { place.as_ptr() as u64 } else { 0 };
        let Batch { keys, values, end } = match batch(map, from, place.as_mut_ptr() as u64, (room, 1)) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOSPC as i32) => {
                room *= 2;
                continue;
            }
            read => read?,
        };
        found.extend(keys.into_iter().zip(values));
        begun = true;
        if end {
            return Ok(found);
        }
    }
}

/// The values of an array from index `first`, at most `count`; of each, that many in a row as `width` says.
pub(crate) fn values<V: Pod>(
    map: BorrowedFd<'_>,
    first: u32,
    count: u32,
    width: usize,
) -> io::Result<Vec<V>> {
    assert!(width == 1 || size_of::<V>().is_multiple_of(8), "the kernel rounds a processor's values up");
    let (before, mut place) = (first.wrapping_sub(1), 0u32);
    let from = if first == 0 { 0 } else { &raw const before as u64 };
    let read: Batch<u32, V> = batch(map, from, &raw mut place as u64, (count as usize, width))?;
    Ok(read.values)
}

/// Entries, and whether there are no more.
struct Batch<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    end: bool,
}

/// Reads as many entries as there is room for, from the place at `from`, 0 for the beginning, and writes to `place` where it
/// goes on. An entry has as many values as `width` says.
fn batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    from: u64,
    place: u64,
    (room, width): (usize, usize),
) -> io::Result<Batch<K, V>> {
    let (mut keys, mut values) = (Vec::<K>::with_capacity(room), Vec::<V>::with_capacity(room * width));
    let mut attributes = Attributes::default();
    attributes[..4].copy_from_slice(&[from, place, keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64]);
    attributes[4] = halves(room as u32, number(&map));
    let end = match call(MAP_LOOKUP_BATCH, &mut attributes) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => true,
        outcome => outcome.map(|_| false)?,
    };
    let count = (attributes[4] as u32 as usize).min(room);
    // SAFETY: the kernel has written so many; every pattern of bits is one.
    unsafe {
        keys.set_len(count);
        values.set_len(count * width);
    }
    Ok(Batch { keys, values, end })
}
