//! Counters: every datagram to a relayed or external port is counted.

use abi::{Protocol, Verdict, counter_index};

use crate::maps::COUNTERS;

/// Increments the counter of (domain, protocol, verdict).
#[inline(always)]
pub fn count(domain: u16, protocol: u16, verdict: Verdict) {
    if let Some(counter) = COUNTERS.get_ptr_mut(counter_index(domain as u32, protocol as u32, verdict)) {
        // SAFETY: a per-CPU value that only this CPU writes, and tc programs are not preempted by one another.
        unsafe { *counter += 1 };
    }
}

/// Increments the domain's counter for packets that belong to no protocol.
#[inline(always)]
pub fn count_other(domain: u16, verdict: Verdict) {
    count(domain, Protocol::Other as u16, verdict);
}
