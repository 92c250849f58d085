//! Events of the datapath, for `iocast-node snoop`: the ring, and the switch that makes the programs fill it.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::Duration,
};

use abi::{Event, LONG, SHORT, Snoop};
use aya::maps::{Array, Map, MapData, PerCpuArray};
use nix::{
    fcntl::{Flock, FlockArg},
    time::{ClockId, clock_gettime},
};

use crate::{
    Error, Result,
    maps::{array, data, typed, wrote},
    pinned::{MAPS, pin_directory},
    ring::Ring,
};

/// The ring, with this process as one of those who watch.
pub struct Events {
    ring: Ring,
    switch: Array<MapData, Snoop>,
    lost: PerCpuArray<MapData, u64>,
    lost_before: u64,
    /// Who watches holds it shared, so whoever can have it for himself is the last; released when the process ends.
    watchers: Option<Flock<File>>,
}

impl Events {
    /// Opens the ring, from the next event on.
    pub fn open(bpffs: &Path) -> Result<Self> {
        let maps = pin_directory(bpffs).join(MAPS);
        let lost = typed(&maps, "EVENTS_LOST", Map::PerCpuArray)?;
        Ok(Self {
            ring: Ring::new(data(&maps, "EVENTS")?)?,
            switch: array(&maps, "SNOOP")?,
            lost_before: sum(&lost)?,
            lost,
            watchers: File::open(&maps)
                .ok()
                .and_then(|file| Flock::lock(file, FlockArg::LockSharedNonblock).ok()),
        })
    }

    /// Makes the programs emit events for `time` from now, with `deliveries` also for the fan's copies. What others want to
    /// see meanwhile stays.
    pub fn watch(&mut self, time: Duration, deliveries: bool) -> Result<()> {
        let now = kernel_clock()?;
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let present = self.switch()?;
        let others = present.until > nanoseconds(now);
        let until = nanoseconds(now + time).max(if others { present.until } else { 0 });
        let deliveries = deliveries || others && present.deliveries != 0;
        wrote("SNOOP", self.switch.set(0, Snoop { until, deliveries: deliveries.into() }, 0))
    }

    /// Stops watching: if nobody else does, the programs emit nothing from now on. Otherwise all stays as it is: others may need
    /// deliveries as well.
    pub fn stop(&mut self) -> Result<()> {
        let alone = |lock: &Flock<File>| lock.relock(FlockArg::LockExclusiveNonblock).is_ok();
        if !self.watchers.as_ref().is_none_or(alone) {
            return Ok(());
        }
        wrote("SNOOP", self.switch.set(0, Snoop { until: 0, deliveries: 0 }, 0))
    }

    fn switch(&self) -> Result<Snoop> {
        self.switch.get(&0, 0).map_err(|error| Error::bpf("cannot read SNOOP", &error))
    }

    /// The next event and its payload, if there is one now.
    pub fn take(&mut self) -> Option<(Event, Vec<u8>)> {
        loop {
            if let Some(event) = split(&self.ring.next()?) {
                return Some(event);
            }
        }
    }

    /// Passes over all events that there are now; how many they were.
    pub fn skip(&mut self) -> u64 {
        self.ring.skip()
    }

    /// How many events the ring had no room for since it was opened. Of those that were gone before this process could read
    /// them the number is estimated from their bytes.
    pub fn lost(&self) -> Result<u64> {
        Ok(sum(&self.lost)?.saturating_sub(self.lost_before) + self.ring.missed(size_of::<Event>() + SHORT))
    }
}

/// Readable when there are events that nobody has read; another watcher may be faster.
impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// How many events the ring has had no room for since the datapath was loaded.
pub fn events_lost(bpffs: &Path) -> Result<u64> {
    sum(&typed(&pin_directory(bpffs).join(MAPS), "EVENTS_LOST", Map::PerCpuArray)?)
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
