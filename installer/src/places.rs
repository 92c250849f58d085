//! Where other agents are: names with an address for each, such as a headless Service's, or addresses.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

/// The most agents that are found.
const MOST: usize = 1000;

/// A name or an address, and a port.
pub(crate) type Place = (String, u16);
/// Names that lead nowhere, with the reasons.
pub(crate) type Lost = Vec<(String, String)>;
/// Addresses, and names that lead nowhere.
pub(crate) type Found = (Vec<SocketAddr>, Lost);

/// The place that a text names, with a port or at `port`.
pub(crate) fn parse(place: &str, port: u16) -> Place {
    match place.parse::<SocketAddr>() {
        Ok(address) => (address.ip().to_string(), address.port()),
        Err(_) => match place.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?))) {
            Some((name, port)) if !name.contains(':') => (name.into(), port),
            _ => (place.into(), port),
        },
    }
}

/// All addresses of `places` that are not this node's. May take as long as a look-up hangs.
pub(crate) fn resolve(places: &[Place]) -> Found {
    let own: Vec<IpAddr> = own_addresses();
    let (mut found, mut lost) = (vec![], vec![]);
    for (name, port) in places {
        match (name.as_str(), *port).to_socket_addrs() {
            Ok(addresses) => found.extend(addresses.filter(|address| !own.contains(&address.ip()))),
            Err(error) => lost.push((name.clone(), error.to_string())),
        }
    }
    found.sort();
    found.dedup();
    found.truncate(MOST);
    (found, lost)
}

/// The addresses of this node.
pub(crate) fn own_addresses() -> Vec<IpAddr> {
    let addresses = datapath::link::all_addresses().unwrap_or_default();
    addresses.into_iter().map(|(_, address)| address.address.into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_name_or_an_address_with_a_port_or_without() {
        for (place, expected) in [
            ("iocast-page.iocast.svc", ("iocast-page.iocast.svc", 9443)),
            ("iocast-page:1443", ("iocast-page", 1443)),
            ("172.23.0.11", ("172.23.0.11", 9443)),
            ("172.23.0.11:1443", ("172.23.0.11", 1443)),
            ("[2001:db8::1]:1443", ("2001:db8::1", 1443)),
            ("2001:db8::1", ("2001:db8::1", 9443)),
        ] {
            assert_eq!(parse(place, 9443), (expected.0.to_owned(), expected.1), "{place}");
        }
    }
}
