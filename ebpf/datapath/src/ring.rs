//! A BPF ring buffer that several processes read: each has a position of its own, and whoever is ahead makes room.
//!
//! The kernel knows one position, up to which it may write again. So a reader that stays behind may find that what it was
//! to read next is gone, but never holds up the others. Layout: linux/kernel/bpf/ringbuf.c.

use std::{
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd},
    ptr::{NonNull, copy_nonoverlapping},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::maps::{MapData, MapError};
use nix::{
    libc::c_void,
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    unistd::{SysconfVar, sysconf},
};

use crate::{Error, Result};

/// Flags in a record's header, beside its length (linux/bpf.h): it is still being written; it was given up.
const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
/// Bytes of a header, and what records are aligned to.
const HEADER: u64 = 8;

/// The ring, and how far this process has read it.
pub(crate) struct Ring {
    map: MapData,
    /// The page with the position up to which the kernel may write again.
    consumer: Mapping,
    /// The page with the position up to which it has written, then the records, twice in a row.
    producer: Mapping,
    page: usize,
    size: u64,
    next: u64,
    /// Bytes that were gone before they could be read.
    missed: u64,
}

impl Ring {
    /// The ring in `map`, from its present end.
    pub(crate) fn new(map: MapData) -> Result<Self> {
        let fault = |error: &dyn std::error::Error| Error::bpf("cannot map the ring EVENTS", error);
        let size = map.info().map_err(|error: MapError| fault(&error))?.max_entries();
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|page| usize::try_from(page).ok());
        let (page, length) = (page.unwrap_or(4096), size as usize);
        let both = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let consumer = Mapping::new(&map, page, both, 0).map_err(|error| fault(&error))?;
        let all = page + 2 * length;
        let producer = Mapping::new(&map, all, ProtFlags::PROT_READ, page).map_err(|error| fault(&error))?;
        let mut ring = Self { map, consumer, producer, page, size: size.into(), next: 0, missed: 0 };
        ring.next = ring.written();
        ring.make_room();
        Ok(ring)
    }

    /// How many records of `size` bytes, without header, were gone before they could be read.
    pub(crate) fn missed(&self, size: usize) -> u64 {
        self.missed.div_ceil((size as u64).next_multiple_of(HEADER) + HEADER)
    }

    /// Passes over all records that there are now; how many they were.
    pub(crate) fn skip(&mut self) -> u64 {
        let (end, mut skipped) = (self.written(), 0);
        while self.next < end {
            let header = self.header();
            if self.catch_up() {
                continue;
            }
            if header & BUSY != 0 {
                break;
            }
            self.next += length(header);
            skipped += u64::from(header & DISCARD == 0);
        }
        self.make_room();
        skipped
    }

    /// The next record, if there is one now.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        while self.next < self.written() {
            let (header, record) = self.record()?;
            if self.catch_up() {
                continue;
            }
            self.next += length(header);
            self.make_room();
            if header & DISCARD == 0 {
                return Some(record);
            }
        }
        None
    }

    /// Goes on where there is something to read, if what was to be read next is written over.
    fn catch_up(&mut self) -> bool {
        if self.written() - self.next <= self.size {
            return false;
        }
        let next = self.consumer.position().load(Ordering::Acquire);
        self.missed += next.saturating_sub(self.next);
        self.next = next;
        true
    }

    fn header(&self) -> u32 {
        self.producer.word(self.page + (self.next % self.size) as usize).load(Ordering::Acquire)
    }

    /// Header and bytes at the next position, which may be nonsense if the ring has gone round; `None` while the record is
    /// being written.
    fn record(&self) -> Option<(u32, Vec<u8>)> {
        let start = self.page + (self.next % self.size) as usize;
        let header = self.header();
        let length = u64::from(header & !(BUSY | DISCARD)).min(self.size - HEADER) as usize;
        let is_current = self.written() - self.next <= self.size;
        (header & BUSY == 0 || !is_current)
            .then(|| (header, self.producer.bytes(start + HEADER as usize, length)))
    }

    fn written(&self) -> u64 {
        self.producer.position().load(Ordering::Acquire)
    }

    /// Lets the kernel write over what this process has read, unless another one has read further.
    fn make_room(&self) {
        self.consumer.position().fetch_max(self.next, Ordering::AcqRel);
    }
}

/// Readable when there are records that no process has read.
impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }
}

/// Bytes from a record with this header to the next.
fn length(header: u32) -> u64 {
    (u64::from(header & !(BUSY | DISCARD)) + HEADER).next_multiple_of(HEADER)
}

/// A part of the ring in this process's memory.
struct Mapping {
    start: NonNull<c_void>,
    length: NonZeroUsize,
}

// SAFETY: memory that the process shares with the kernel, not with a thread of its own.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(map: &MapData, length: usize, access: ProtFlags, offset: usize) -> nix::Result<Self> {
        let length = NonZeroUsize::new(length).ok_or(nix::errno::Errno::EINVAL)?;
        let offset = offset.try_into().map_err(|_| nix::errno::Errno::EINVAL)?;
        // SAFETY: a new mapping, where the kernel finds room.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, map.fd().as_fd(), offset) }?;
        Ok(Self { start, length })
    }

    /// The position at the beginning.
    fn position(&self) -> &AtomicU64 {
        // SAFETY: it is mapped as long as this is, aligned to a page, and only ever used as an atomic. What is mapped
        // without the right to write is only loaded.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().cast()) }
    }

    /// The header at `offset`, which is a multiple of 8 and inside the mapping.
    fn word(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset.is_multiple_of(8) && offset + 4 <= self.length.get());
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().byte_add(offset).cast()) }
    }

    /// A copy of these bytes, which are inside the mapping. The kernel may write to them meanwhile: then they are thrown
    /// away.
    fn bytes(&self, offset: usize, length: usize) -> Vec<u8> {
        debug_assert!(offset + length <= self.length.get());
        let mut bytes = vec![0; length];
        // SAFETY: both are there and do not overlap; every value is a byte.
        unsafe {
            copy_nonoverlapping(self.start.as_ptr().byte_add(offset).cast(), bytes.as_mut_ptr(), length);
        }
        bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from it any more.
        let _ = unsafe { munmap(self.start, self.length.get()) };
    }
}
