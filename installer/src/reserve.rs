//! Reserves the external ports, so that the kernel does not assign them to processes on the node.

use std::{fs, io};

use crate::{config::Ports, error::Error};

/// A sysctl of the process's network namespace: ports that are never assigned to a socket bound without one.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The range from which such ports are assigned.
const CHOSEN: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Adds `ports` to the node's reserved ports, unless they are already reserved. A container may not be permitted to: this is
/// no error if they are outside the range from which ports are assigned.
pub(crate) fn reserve(ports: &[Ports]) -> Result<(), Error> {
    let fault = |source: io::Error| {
        let list: Vec<_> = ports.iter().map(|ports| format!("{}-{}", ports.first, ports.last)).collect();
        Error::NotReserved { ports: list.join(","), sysctl: RESERVED, source }
    };
    let present = fs::read_to_string(RESERVED).map_err(fault)?;
    let Some(list) = merged(&present, ports) else { return Ok(()) };
    let chosen = fs::read_to_string(CHOSEN).unwrap_or_default();
    match fs::write(RESERVED, list) {
        Err(error) if overlaps(&chosen, ports) => Err(fault(error)),
        _ => Ok(()),
    }
}

/// Whether any of `ports` is in the range that the kernel gives as two numbers; true if it cannot be parsed.
fn overlaps(chosen: &str, ports: &[Ports]) -> bool {
    let mut numbers = chosen.split_whitespace().filter_map(|number| number.parse::<u16>().ok());
    let (Some(first), Some(last)) = (numbers.next(), numbers.next()) else { return true };
    ports.iter().any(|ports| ports.first <= last && first <= ports.last)
}

/// The list with `ports` added; `None` if it already has them.
fn merged(present: &str, ports: &[Ports]) -> Option<String> {
    if ports.iter().all(|wanted| are_reserved(present, *wanted)) {
        return None;
    }
    let added = ports.iter().map(|ports| (ports.first, ports.last));
    let list: Vec<_> = ranges(present).chain(added).map(|(first, last)| format!("{first}-{last}")).collect();
    Some(list.join(","))
}

/// Whether all of `ports` are in the sysctl's list.
pub(crate) fn are_reserved(list: &str, ports: Ports) -> bool {
    ranges(list).any(|(first, last)| first <= ports.first && ports.last <= last)
}

fn ranges(list: &str) -> impl Iterator<Item = (u16, u16)> {
    list.trim().split(',').filter_map(range)
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [Ports; 1] = [Ports { first: 61000, last: 64999 }];

    #[test]
    fn what_others_reserved_stays() {
        assert_eq!(merged("8080,30000-32767\n", &OURS).as_deref(), Some("8080-8080,30000-32767,61000-64999"));
        assert_eq!(merged("\n", &OURS).as_deref(), Some("61000-64999"));
    }

    #[test]
    fn ports_outside_the_kernels_range_need_no_reservation() {
        assert!(!overlaps("32768\t60999\n", &OURS));
        assert!(overlaps("32768\t61000\n", &OURS));
        assert!(overlaps("", &OURS));
    }

    #[test]
    fn what_is_reserved_is_not_written_again() {
        assert_eq!(merged("61000-64999", &OURS), None);
        assert_eq!(merged("60000-65000", &OURS), None);
    }
}
