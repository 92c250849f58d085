//! Rate limits: how fast datagrams of a pod, a LAN host and a domain are relayed, so that none of them floods the others.

use abi::{BucketKey, limited};

use crate::{
    maps::{BUCKETS, DOMAINS},
    skb::now,
};

/// Whether one more datagram from a member may be relayed.
#[inline(always)]
pub fn admits_pod(domain: u16, interface: u32) -> bool {
    admits(domain, limited::POD, interface) && admits(domain, limited::DOMAIN, 0)
}

/// Whether one more datagram from a LAN host may be relayed.
#[inline(always)]
pub fn admits_host(domain: u16, address: [u8; 4]) -> bool {
    admits(domain, limited::SOURCE, u32::from_ne_bytes(address)) && admits(domain, limited::DOMAIN, 0)
}

/// Two CPUs using the same bucket at once may both be admitted where only one should: a limit is approximate.
#[inline(always)]
fn admits(domain: u16, kind: usize, who: u32) -> bool {
    let Some(limit) = DOMAINS.get(domain as u32).and_then(|domain| domain.limits.get(kind)).copied() else {
        return true;
    };
    if limit.interval == 0 {
        return true;
    }
    let key = BucketKey { domain, kind: kind as u16, who };
    let Some(bucket) = BUCKETS.get_ptr_mut(key) else {
        let _ = BUCKETS.insert(key, limit.admit(0, now()), 0);
        return true;
    };
    // SAFETY: the memory stays a number; if the entry is evicted concurrently, another bucket may be off by one datagram.
    unsafe {
        let next = limit.admit(*bucket, now());
        if next != 0 {
            *bucket = next;
        }
        next != 0
    }
}
