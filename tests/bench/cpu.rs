//! Processor time: of this process, in whose threads all parties of the fan-out live, and of the kernel threads that
//! work for them.

use std::{collections::HashMap, fs, path::Path};

use nix::{
    sys::resource::{UsageWho, getrusage},
    time::{ClockId, clock_gettime},
};

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

/// How often threads of this process went to sleep.
pub(crate) fn sleeps() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.map_or(0, |usage| usage.voluntary_context_switches() as u64)
}

/// Packets that the processors' queues had no room for, since the machine started: the second hexadecimal number of each line.
pub(crate) fn dropped() -> u64 {
    let text = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let numbers = text.lines().filter_map(|line| line.split_whitespace().nth(1));
    numbers.filter_map(|number| u64::from_str_radix(number, 16).ok()).sum()
}

/// Nanoseconds that all threads of other processes have run.
pub(crate) fn of_processes(ids: &[u32]) -> u64 {
    let tasks =
        ids.iter().flat_map(|id| fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten());
    tasks.filter_map(|task| run_time(&task.path())).sum()
}

/// Nanoseconds that a thread has run, by its directory in /proc.
fn run_time(thread: &Path) -> Option<u64> {
    let statistics = fs::read_to_string(thread.join("schedstat")).ok()?;
    statistics.split_whitespace().next()?.parse().ok()
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
        Some((id, run_time(Path::new(&format!("/proc/{id}")))?))
    })
    .collect()
}
