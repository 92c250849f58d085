//! What may have a PV beside others: gateways, and one of a redundant pair.

use std::net::Ipv4Addr;

use datapath::link::network;

/// A server that does not count, or names that do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Servers in this network.
    Network(Ipv4Addr, u8),
    /// A pod, as `namespace/name`, or those whose name begins so.
    Pod(String, Ending),
    /// PVs that begin so, or a single one.
    Pv(String, Ending),
}

/// Whether more may follow, as `*` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Any,
    None,
}

impl Allowed {
    /// What `text` stands for: an address, a network, a pod or a PV, the last two with a `*` at the end if more may follow.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (start, ending) =
            text.strip_suffix('*').map_or((text, Ending::None), |start| (start, Ending::Any));
        match (parse_network(text), is_pod(start)) {
            _ if start.is_empty() => Err(format!("`{text}` is no address, network, pod or PV")),
            (Some((address, prefix)), _) => Ok(Self::Network(network(address, prefix), prefix)),
            (None, true) => Ok(Self::Pod(start.into(), ending)),
            (None, false) => Ok(Self::Pv(start.into(), ending)),
        }
    }

    /// Whether a server at this address, in this pod, does not count.
    pub(crate) fn has_server(&self, address: Ipv4Addr, pod: Option<&str>) -> bool {
        match self {
            Self::Network(own, prefix) => network(address, *prefix) == *own,
            Self::Pod(start, ending) => pod.is_some_and(|pod| ending.fits(start, pod)),
            Self::Pv(..) => false,
        }
    }

    /// Whether it does not count who has this PV.
    pub(crate) fn has_pv(&self, name: &str) -> bool {
        matches!(self, Self::Pv(start, ending) if ending.fits(start, name))
    }
}

impl Ending {
    fn fits(self, start: &str, text: &str) -> bool {
        if self == Self::Any { text.starts_with(start) } else { text == start }
    }
}

fn parse_network(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
    Some((address.parse().ok()?, prefix.parse().ok().filter(|prefix| *prefix <= 32)?))
}

/// Whether it is `namespace/name` as Kubernetes allows it, or its beginning.
fn is_pod(text: &str) -> bool {
    let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    text.split_once('/').is_some_and(|(namespace, name)| {
        !namespace.is_empty() && (namespace.to_owned() + name).chars().all(is_of_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_a_network_a_pod_or_a_pv() {
        let server = |allowed: &str, address: &str, pod| {
            Allowed::parse(allowed).unwrap().has_server(address.parse().unwrap(), pod)
        };
        for (allowed, address, pod, expected) in [
            ("172.23.0.9", "172.23.0.9", None, true),
            ("172.23.0.9", "172.23.0.8", None, false),
            ("172.23.0.9/29", "172.23.0.8", Some("bl07/a"), true),
            ("0.0.0.0/0", "172.23.0.8", None, true),
            ("bl07/gateway", "172.23.0.10", Some("bl07/gateway"), true),
            ("bl07/gateway", "172.23.0.10", Some("bl07/gateway-1"), false),
            ("bl07/gateway*", "172.23.0.10", Some("bl07/gateway-1"), true),
            ("bl07/*", "172.23.0.10", None, false),
            ("BL07:*", "172.23.0.10", Some("bl07/a"), false),
        ] {
            assert_eq!(server(allowed, address, pod), expected, "{allowed} {address} {pod:?}");
        }
        let pv = |allowed: &str, name| Allowed::parse(allowed).unwrap().has_pv(name);
        assert!(pv("BL07:*", "BL07:TEMP") && !pv("BL07:*", "BL08:TEMP"));
        assert!(pv("BL07:TEMP", "BL07:TEMP") && !pv("BL07:TEMP", "BL07:TEMP2"));
        assert!(pv("$(P)/Q*", "$(P)/Q1") && !pv("bl07/*", "bl07/x"), "a pod is no PV");
        assert!(Allowed::parse("*").is_err() && Allowed::parse("").is_err());
    }
}
