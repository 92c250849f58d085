//! Processor time: of this process, in whose threads all parties of the fan-out live, and of the kernel threads that
//! work for them.

use std::{collections::HashMap, fs};

use nix::time::{ClockId, clock_gettime};

/// Kernel threads in which packets may be delivered: the softirqs', and workers (macvlan's broadcasts).
const THREADS: [&str; 2] = ["ksoftirqd/", "kworker/"];

/// The time spent up to some moment.
pub(crate) struct Spent {
    threads: HashMap<u32, u64>,
    process: u64,
}

impl Spent {
    /// Up to now.
    pub(crate) fn now() -> Self {
        let threads = kernel_threads();
        Self { threads, process: process() }
    }

    /// Nanoseconds spent since.
    pub(crate) fn elapsed(&self) -> f64 {
        let process = process() - self.process;
        let threads = kernel_threads();
        let since = |(id, time): (&u32, &u64)| time.saturating_sub(*self.threads.get(id).unwrap_or(time));
        (process + threads.iter().map(since).sum::<u64>()) as f64
    }
}

fn process() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID);
    time.map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Nanoseconds that each of the kernel threads has run.
fn kernel_threads() -> HashMap<u32, u64> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| {
        let name = fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
        THREADS.iter().find(|prefix| name.starts_with(**prefix))?;
        let statistics = fs::read_to_string(format!("/proc/{id}/schedstat")).ok()?;
        Some((id, statistics.split_whitespace().next()?.parse().ok()?))
    })
    .collect()
}
