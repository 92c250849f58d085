//! How long after a search its answer left for the LAN: a histogram for each domain and each protocol that has names.

use crate::{DOMAINS, Protocol};

/// Buckets of a histogram. Bucket n counts what took less than 2^(17 + n) ns, that is 0.13 ms, 0.26 ms ... 2.1 s, and not less
/// than the one before; the last one counts all that took longer.
pub const BUCKETS: u32 = 16;
/// The exponent of the first bucket's end.
pub const FIRST: u32 = 17;
/// Values of a histogram: its buckets, and the sum of all times, nanoseconds.
pub const LATENCY: u32 = BUCKETS + 1;
/// The protocols that have one, in the order of their histograms.
pub const ANSWERING: [Protocol; 2] = [Protocol::Ca, Protocol::Pva];
/// Entries of the map.
pub const LATENCIES: u32 = DOMAINS * ANSWERING.len() as u32 * LATENCY;

/// Where the histogram of a domain and a protocol begins; none if the protocol has none.
#[inline(always)]
pub const fn latency_index(domain: u32, protocol: u32) -> Option<u32> {
    let place = protocol.wrapping_sub(Protocol::Ca as u32);
    if place >= ANSWERING.len() as u32 {
        return None;
    }
    Some((domain * ANSWERING.len() as u32 + place) * LATENCY)
}

/// The bucket of a time, in nanoseconds.
#[inline(always)]
pub const fn bucket(time: u64) -> u32 {
    let parts = time >> FIRST;
    let bits = u64::BITS - parts.leading_zeros();
    if bits < BUCKETS { bits } else { BUCKETS - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_ends_at_twice_the_time_of_the_one_before() {
        for (time, expected) in [
            (0, 0),
            ((1 << FIRST) - 1, 0),
            (1 << FIRST, 1),
            ((2 << FIRST) - 1, 1),
            (2 << FIRST, 2),
            (u64::MAX, 15),
        ] {
            assert_eq!(bucket(time), expected, "{time}");
        }
        assert_eq!(bucket((1 << (FIRST + BUCKETS - 2)) - 1), BUCKETS - 2);
        assert_eq!(bucket(1 << (FIRST + BUCKETS - 2)), BUCKETS - 1);
    }

    #[test]
    fn histograms_do_not_overlap() {
        assert_eq!(latency_index(0, Protocol::Ca as u32), Some(0));
        assert_eq!(latency_index(0, Protocol::Pva as u32), Some(LATENCY));
        assert_eq!(latency_index(DOMAINS - 1, Protocol::Pva as u32), Some(LATENCIES - LATENCY));
        assert_eq!((latency_index(0, Protocol::Other as u32), latency_index(0, 9)), (None, None));
    }
}
