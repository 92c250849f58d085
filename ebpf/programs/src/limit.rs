//! Rate limits: how fast datagrams of a pod, a LAN host and a domain are relayed and translated, so that none of them floods
//! the others. Streams of cameras have none.

use abi::{Address, BucketKey, limited};

use crate::{
    maps::{BUCKETS, DOMAINS},
    skb::now,
};

/// Whether one more datagram from a member may be relayed.
#[inline(always)]
pub fn admits_pod(domain: u16, interface: u32) -> bool {
    admits(domain, limited::POD, limited::POD, interface) && admits_domain(domain)
}

/// Whether one more answer from a member may be translated.
#[inline(always)]
pub fn admits_answer(domain: u16, interface: u32) -> bool {
    admits(domain, limited::POD, limited::ANSWERS, interface)
}

/// Whether one more datagram from a LAN host may be relayed.
#[inline(always)]
pub fn admits_host(domain: u16, address: Address) -> bool {
    admits(domain, limited::SOURCE, limited::SOURCE, u32::from_ne_bytes(address)) && admits_domain(domain)
}

/// Whether one more datagram from a LAN host to an external port of a member may be translated.
#[inline(always)]
pub fn admits_to_port(domain: u16, address: Address, interface: u32) -> bool {
    admits(domain, limited::SOURCE, limited::TO_PORTS, u32::from_ne_bytes(address))
        && admits(domain, limited::POD, limited::TO_POD, interface)
}

/// Whether one more ICMP error may reach a member.
#[inline(always)]
pub fn admits_error(domain: u16, interface: u32) -> bool {
    admits(domain, limited::POD, limited::ERRORS, interface)
}

#[inline(always)]
fn admits_domain(domain: u16) -> bool {
    admits(domain, limited::DOMAIN, limited::DOMAIN, 0)
}

/// Whether the bucket has room for one more, by the limit of this kind. Two CPUs using the same bucket at once may both be
/// admitted where only one should: a limit is approximate.
#[inline(always)]
fn admits(domain: u16, limit: usize, kind: usize, who: u32) -> bool {
    let Some(limit) = DOMAINS.get(domain as u32).and_then(|domain| domain.limits.get(limit)).copied() else {
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
