//! What to show: PVs, clients, pods, domains.

use std::{net::Ipv4Addr, str::FromStr};

use clap::Args;

/// What to show; everything by default.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Filter {
    /// Only PVs whose name matches; `*` matches any characters, `?` exactly one.
    #[arg(long, value_name = "GLOB")]
    pub(super) pv: Option<String>,
    /// Only searches of this client, or of clients in this network, and answers to them.
    #[arg(long, value_name = "ADDRESS[/PREFIX]")]
    client: Option<Clients>,
    /// Only what this pod asks, receives and answers.
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub(super) pod: Option<String>,
    /// Only this domain.
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
}

impl Filter {
    /// Whether to show what concerns this domain, this client if there is one, and these pods, as `namespace/name`.
    pub(super) fn shows(&self, domain: &str, client: Option<Ipv4Addr>, pods: &[Option<&str>]) -> bool {
        let is_pod = |wanted: &String| pods.iter().flatten().any(|pod| is_called(pod, wanted));
        self.domain.as_ref().is_none_or(|wanted| wanted == domain)
            && self.client.is_none_or(|wanted| client.is_some_and(|client| wanted.contain(client)))
            && self.pod.as_ref().is_none_or(is_pod)
    }

    /// Whether to show this PV.
    pub(super) fn shows_pv(&self, name: &str) -> bool {
        self.pv.as_ref().is_none_or(|glob| matches(glob.as_bytes(), name.as_bytes()))
    }
}

/// Whether the pod `namespace/name` is `wanted`, which may lack the namespace.
fn is_called(pod: &str, wanted: &str) -> bool {
    pod == wanted || pod.split_once('/').is_some_and(|(_, name)| name == wanted)
}

/// Whether `text` matches `glob`. Only backtracks to the last `*`, so that no glob takes long.
fn matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read, mut star) = (0, 0, None);
    while read < text.len() {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[read] => (at, read) = (at + 1, read + 1),
            _ => match star {
                Some((place, taken)) => {
                    star = Some((place, taken + 1));
                    (at, read) = (place + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    glob[at..].iter().all(|byte| *byte == b'*')
}

/// A client, or a network of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clients {
    address: u32,
    mask: u32,
}

impl Clients {
    fn contain(self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ self.address) & self.mask == 0
    }
}

impl FromStr for Clients {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let address: Option<Ipv4Addr> = address.parse().ok();
        let prefix: Option<u32> = prefix.parse().ok().filter(|prefix| *prefix <= 32);
        let (Some(address), Some(prefix)) = (address, prefix) else {
            return Err("not an IPv4 address or network; write 172.23.0.2 or 172.23.0.0/24".into());
        };
        let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
        Ok(Self { address: address.into(), mask })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (glob, name, expected) in [
            ("A:NAME", "A:NAME", true),
            ("A:NAME", "A:NAMES", false),
            ("A:*", "A:NAME", true),
            ("*", "", true),
            ("?", "", false),
            ("*:NAME", "A:B:NAME", true),
            ("A?NAME", "A:NAME", true),
            ("*A*B*", "xAyAzBw", true),
            ("*A*B", "xAyAzBw", false),
            ("", "A", false),
        ] {
            assert_eq!(matches(glob.as_bytes(), name.as_bytes()), expected, "{glob} and {name}");
        }
    }

    #[test]
    fn clients_are_an_address_or_a_network() {
        let contains = |clients: &str, address: &str| {
            clients.parse::<Clients>().unwrap().contain(address.parse().unwrap())
        };
        assert!(contains("172.23.0.2", "172.23.0.2") && !contains("172.23.0.2", "172.23.0.3"));
        assert!(contains("172.23.0.9/24", "172.23.0.2") && !contains("172.23.0.0/24", "172.23.1.2"));
        assert!(contains("0.0.0.0/0", "10.1.2.3"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "ws", "172.23.0.0/33", "172.23.0.0/", "172.23.0/24"] {
            assert!(text.parse::<Clients>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pod_is_found_with_and_without_its_namespace() {
        let filter = |pod: &str| Filter { pod: Some(pod.into()), ..Filter::default() };
        let pods = [None, Some("beamline/ioc-a")];
        assert!(
            filter("ioc-a").shows("lab", None, &pods) && filter("beamline/ioc-a").shows("lab", None, &pods)
        );
        assert!(!filter("ioc").shows("lab", None, &pods) && !filter("other/ioc-a").shows("lab", None, &pods));
    }

    #[test]
    fn a_filter_for_clients_hides_what_has_none() {
        let filter = Filter { client: "172.23.0.2".parse().ok(), ..Filter::default() };
        assert!(filter.shows("lab", Some(Ipv4Addr::new(172, 23, 0, 2)), &[]));
        assert!(!filter.shows("lab", None, &[]));
    }
}
