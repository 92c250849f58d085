//! Limits: how fast a pod, a LAN host and a domain may have datagrams relayed, so that none of them floods the others.

use abi::{BucketKey, limited};

use crate::{
    maps::{BUCKETS, DOMAINS},
    skb::now,
};

/// Whether one more datagram of a member is relayed.
#[inline(always)]
pub fn admits_pod(domain: u16, interface: u32) -> bool {
    admits(domain, limited::POD, interface) && admits(domain, limited::DOMAIN, 0)
}

/// Whether one more datagram of a LAN host is relayed.
#[inline(always)]
pub fn admits_host(domain: u16, address: [u8; 4]) -> bool {
    admits(domain, limited::SOURCE, u32::from_ne_bytes(address)) && admits(domain, limited::DOMAIN, 0)
}

/// Two processors at the same bucket may both be admitted where one is left: a limit is no exact number.
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
    // SAFETY: the memory stays a number; an entry that is forgotten meanwhile may be another bucket's then, which is off by
    // one datagram.
    unsafe {
        let next = limit.admit(*bucket, now());
        if next != 0 {
            *bucket = next;
        }
        next != 0
    }
}
