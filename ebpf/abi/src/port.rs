//! Where the search for an external port starts: always at the same position for the same pod and port, so that a pod
//! recreated under its name gets its ports back as long as they are free.

/// Hash of a pod's namespace and name (FNV-1a).
pub fn identity(namespace: &str, pod: &str) -> u32 {
    let bytes = namespace.bytes().chain([b'/']).chain(pod.bytes());
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Offset into a range of `count` external ports at which the search for one for `pod_port` starts.
#[inline(always)]
pub const fn preferred_port(identity: u32, pod_port: u16, count: u32) -> u32 {
    let mixed = (identity ^ (pod_port as u32).wrapping_mul(0x85eb_ca6b)).wrapping_mul(0x9e37_79b1);
    match (mixed >> 8).checked_rem(count) {
        Some(offset) => offset,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_differ_in_name_or_namespace_differ() {
        assert_ne!(identity("bl07", "ioc-a"), identity("bl07", "ioc-b"));
        assert_ne!(identity("bl07", "ioc-a"), identity("bl08", "ioc-a"));
        assert_ne!(identity("a", "b/c"), identity("a/b", "d"));
    }

    #[test]
    fn a_hundred_pods_spread_over_the_default_range() {
        let mut places: Vec<_> =
            (0..100).map(|pod| preferred_port(identity("bl07", &format!("ioc-{pod}")), 5064, 3999)).collect();
        places.sort_unstable();
        places.dedup();
        assert!(places.len() > 90, "{} places for 100 pods", places.len());
    }
}
