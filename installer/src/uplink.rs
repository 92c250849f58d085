//! Finds a domain's uplink: the interface of that name, the one with an address in that network, or, with `auto`, the one of
//! the default route.

use std::fs;

use datapath::{
    Error,
    link::{self, Link},
};

use crate::config::{AUTO, Network, parse_network};

/// The routes of the process's network namespace (Linux `Documentation/filesystems/proc`).
const ROUTES: &str = "/proc/net/route";

/// The interface that `uplink` refers to at the moment; `None` if there is none.
pub(crate) fn find(uplink: &str) -> Result<Option<Link>, Error> {
    if let Some(network) = parse_network(uplink) {
        return by_network(network);
    }
    if uplink != AUTO {
        return link::by_name(uplink);
    }
    let routes = fs::read_to_string(ROUTES).unwrap_or_default();
    default_route(&routes).map_or(Ok(None), link::by_name)
}

/// Why [`find`] found nothing.
pub(crate) fn absence(uplink: &str) -> String {
    match parse_network(uplink) {
        Some(_) => format!("no interface has an address in {uplink}"),
        None if uplink == AUTO => "there is no default route".into(),
        None => format!("there is no interface `{uplink}`"),
    }
}

/// The first interface that has an address in `network`.
fn by_network(network: Network) -> Result<Option<Link>, Error> {
    for name in link::names()? {
        let Some(device) = link::by_name(&name)? else { continue };
        let inside = |address: [u8; 4]| network.contains(&Network { address, prefix: 32 });
        if link::addresses(device.index)?.iter().any(|found| inside(found.address.octets())) {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// The interface of the default route with the lowest metric. Columns: interface, destination, gateway, flags, references,
/// use, metric, mask.
fn default_route(routes: &str) -> Option<&str> {
    let found = routes.lines().filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [interface, "00000000", _, _, _, _, metric, "00000000", ..] = columns[..] else { return None };
        Some((metric.parse::<u32>().ok()?, interface))
    });
    found.min().map(|(_, interface)| interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_with_the_lowest_metric_counts() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                      wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                      eth0\t00000000\t010017AC\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                      eth0\t000017AC\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_route(routes), Some("eth0"));
        assert_eq!(default_route(""), None);
    }
}
