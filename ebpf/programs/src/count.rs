//! Counters: every datagram to a relayed or external port is counted.

use abi::{
    Protocol, Verdict, counter_index,
    latency::{BUCKETS, bucket, latency_index},
};

use crate::maps::{COUNTERS, LATENCIES};

/// Increments the counter of (domain, protocol, verdict).
#[inline(always)]
pub fn count(domain: u16, protocol: u16, verdict: Verdict) {
    if let Some(counter) = COUNTERS.get_ptr_mut(counter_index(domain as u32, protocol as u32, verdict)) {
        // SAFETY: a per-CPU value that only this CPU writes, and tc programs are not preempted by one another.
        unsafe { *counter += 1 };
    }
}

/// Counts an answer that took so many nanoseconds.
#[inline(always)]
pub fn count_answer(domain: u16, protocol: u32, time: u64) {
    let Some(first) = latency_index(domain as u32, protocol) else { return };
    for (index, addend) in [(first + bucket(time), 1), (first + BUCKETS, time)] {
        if let Some(value) = LATENCIES.get_ptr_mut(index) {
            // SAFETY: as in `count`.
            unsafe { *value += addend };
        }
    }
}

/// Increments the domain's counter for packets that belong to no protocol.
#[inline(always)]
pub fn count_other(domain: u16, verdict: Verdict) {
    count(domain, Protocol::Other as u16, verdict);
}
