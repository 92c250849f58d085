//! How often a host may do something.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Instant,
};

/// Hosts that are remembered, at most.
const HOSTS: usize = 1024;

/// So many times at once, and then so many a second.
pub(super) struct Limit {
    at_once: f64,
    a_second: f64,
    /// How much of it a host has used, and when that was so.
    used: HashMap<IpAddr, (f64, Instant)>,
}

impl Limit {
    pub(super) fn new(at_once: f64, a_second: f64) -> Self {
        Self { at_once, a_second, used: HashMap::new() }
    }

    /// Whether a host may do it once more.
    pub(super) fn allows(&self, host: IpAddr, now: Instant) -> bool {
        self.used(host, now) + 1.0 <= self.at_once
    }

    /// Counts that it did.
    pub(super) fn count(&mut self, host: IpAddr, now: Instant) {
        let used = self.used(host, now) + 1.0;
        if self.used.len() >= HOSTS {
            self.forget(now);
        }
        self.used.insert(place(host), (used, now));
    }

    fn used(&self, host: IpAddr, now: Instant) -> f64 {
        self.used.get(&place(host)).map_or(0.0, |entry| self.left(*entry, now))
    }

    fn left(&self, (used, then): (f64, Instant), now: Instant) -> f64 {
        (used - self.a_second * now.saturating_duration_since(then).as_secs_f64()).max(0.0)
    }

    /// Forgets hosts that have nothing left to be remembered for, or else the one that did it longest ago.
    fn forget(&mut self, now: Instant) {
        let mut used = std::mem::take(&mut self.used);
        used.retain(|_, entry| self.left(*entry, now) > 0.0);
        if used.len() >= HOSTS
            && let Some(oldest) = used.iter().min_by_key(|(_, (_, then))| *then).map(|(host, _)| *host)
        {
            used.remove(&oldest);
        }
        self.used = used;
    }
}

/// A host of IPv6 has as many addresses as it likes in its network.
fn place(host: IpAddr) -> IpAddr {
    match host.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_host_may_do_it_as_often_as_the_time_allows() {
        let (mut limit, start) = (Limit::new(2.0, 0.5), Instant::now());
        let [one, two] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
        let mut may = |host, seconds| {
            let now = start + Duration::from_secs(seconds);
            let allowed = limit.allows(host, now);
            if allowed {
                limit.count(host, now);
            }
            allowed
        };
        for (host, seconds, expected) in [
            (one, 0, true),
            (one, 0, true),
            (one, 0, false),
            (two, 0, true),
            (one, 1, false),
            (one, 2, true),
            (one, 2, false),
            (one, 100, true),
            (one, 100, true),
            (one, 100, false),
        ] {
            assert_eq!(may(host, seconds), expected, "{host} after {seconds} s");
        }
    }

    #[test]
    fn any_number_of_hosts_needs_little_memory() {
        let (mut limit, now) = (Limit::new(1.0, 0.1), Instant::now());
        for host in 0..3 * HOSTS as u32 {
            limit.count(IpAddr::from(host.to_be_bytes()), now + Duration::from_millis(host.into()));
        }
        assert_eq!(limit.used.len(), HOSTS);
        let last = IpAddr::from((3 * HOSTS as u32 - 1).to_be_bytes());
        assert!(!limit.allows(last, now + Duration::from_secs(3)));
    }

    #[test]
    fn an_address_is_one_host_however_it_is_written() {
        for (one, other) in [("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::2:3")] {
            assert_eq!(place(one.parse().unwrap()), place(other.parse().unwrap()));
        }
    }
}
