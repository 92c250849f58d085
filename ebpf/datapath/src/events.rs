//! Events of the datapath, for `iocast-node snoop`: the ring, and the switch that makes the programs fill it.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::Duration,
};

use abi::{Event, LONG, Snoop};
use aya::maps::{Array, Map, MapData, PerCpuArray, RingBuf};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    time::{ClockId, clock_gettime},
};

use crate::{
    Error, Result,
    maps::{array, typed, wrote},
    pinned::{MAPS, pin_directory},
};

/// The ring, with this process as its reader.
pub struct Events {
    ring: RingBuf<MapData>,
    switch: Array<MapData, Snoop>,
    lost: PerCpuArray<MapData, u64>,
    lost_before: u64,
    _only: Flock<File>,
}

impl Events {
    /// Opens the ring and discards what an earlier reader left in it. A ring has one reader: it is an error if there is
    /// another one.
    pub fn open(bpffs: &Path) -> Result<Self> {
        let maps = pin_directory(bpffs).join(MAPS);
        let lost = typed(&maps, "EVENTS_LOST", Map::PerCpuArray)?;
        let mut events = Self {
            ring: typed(&maps, "EVENTS", Map::RingBuf)?,
            switch: array(&maps, "SNOOP")?,
            lost_before: sum(&lost)?,
            lost,
            _only: only_one(&maps)?,
        };
        while events.ring.next().is_some() {}
        Ok(events)
    }

    /// Makes the programs emit events for `time` from now, with `deliveries` also for the fan's copies.
    pub fn watch(&mut self, time: Duration, deliveries: bool) -> Result<()> {
        let until = (kernel_clock()? + time).as_nanos();
        let until = u64::try_from(until).unwrap_or(u64::MAX);
        wrote("SNOOP", self.switch.set(0, Snoop { until, deliveries: deliveries.into() }, 0))
    }

    /// Stops the programs from emitting events.
    pub fn stop(&mut self) -> Result<()> {
        wrote("SNOOP", self.switch.set(0, Snoop { until: 0, deliveries: 0 }, 0))
    }

    /// The next event and its payload, if there is one now.
    pub fn take(&mut self) -> Option<(Event, Vec<u8>)> {
        loop {
            if let Some(event) = split(&self.ring.next()?) {
                return Some(event);
            }
        }
    }

    /// How many events the ring had no room for since it was opened.
    pub fn lost(&self) -> Result<u64> {
        Ok(sum(&self.lost)? - self.lost_before)
    }
}

/// Readable when there are events.
impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// The lock of the ring's reader, released by the kernel when this process ends.
fn only_one(maps: &Path) -> Result<Flock<File>> {
    let fault = |error| Error::kernel(format!("cannot lock {}", maps.display()), error);
    match Flock::lock(File::open(maps).map_err(fault)?, FlockArg::LockExclusiveNonblock) {
        Err((_, Errno::EWOULDBLOCK)) => Err(Error::Watched),
        locked => locked.map_err(|(_, error)| fault(error.into())),
    }
}

fn sum(lost: &PerCpuArray<MapData, u64>) -> Result<u64> {
    let values = lost.get(&0, 0).map_err(|error| Error::bpf("cannot read EVENTS_LOST", &error))?;
    Ok(values.iter().sum())
}

/// The kernel's monotonic clock, which timestamps events.
pub fn kernel_clock() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC);
    Ok(time.map_err(|error| Error::kernel("cannot read the clock", error))?.into())
}

/// The event and the payload in a record of the ring.
fn split(record: &[u8]) -> Option<(Event, Vec<u8>)> {
    let (event, payload) = record.split_at_checked(size_of::<Event>())?;
    // SAFETY: there are enough bytes for an event, and any bit pattern is valid.
    let event = unsafe { event.as_ptr().cast::<Event>().read_unaligned() };
    let length = usize::try_from(event.length).ok()?.min(LONG);
    Some((event, payload.get(..length)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_too_short_for_what_it_says_is_no_event() {
        let mut record = vec![0; size_of::<Event>() + 8];
        assert_eq!(split(&record).map(|(_, payload)| payload.len()), Some(0));
        let length = std::mem::offset_of!(Event, length);
        record[length..length + 4].copy_from_slice(&8u32.to_ne_bytes());
        assert_eq!(split(&record).map(|(_, payload)| payload.len()), Some(8));
        assert_eq!(split(&record[..record.len() - 1]), None);
        assert_eq!(split(&record[..10]), None);
    }
}
