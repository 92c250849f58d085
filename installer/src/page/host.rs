//! By which names the page may be asked for.
//!
//! A browser lets a page of elsewhere read what its own host name leads to. Whoever owns that name can make it lead here, so the
//! page answers only to names that he cannot own (DNS rebinding).

use std::net::IpAddr;

/// Names other than addresses, in lower case.
#[derive(Debug)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    pub(super) fn new(node: &str, more: &[String]) -> Self {
        let names = more.iter().map(String::as_str).chain([node]).filter(|name| !name.is_empty());
        Self(names.map(str::to_ascii_lowercase).collect())
    }

    /// Whether the page answers to `host`, a header's value, on a connection to `address`.
    pub(super) fn allows(&self, host: &str, address: IpAddr) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let address = address.to_canonical();
        match name.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(named) if named.to_canonical() == address => true,
            _ => self.0.contains(&name) || name == "localhost" && address.is_loopback(),
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !is_cut(name) => name,
        _ => host,
    }
}

/// Whether it is the beginning of an address of IPv6.
fn is_cut(name: &str) -> bool {
    name.starts_with('[') && !name.ends_with(']') || !name.starts_with('[') && name.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_answers_to_the_nodes_name_its_address_and_what_is_configured() {
        let hosts = Hosts::new("Node-1", &["page.example.org".into(), "192.0.2.9".into()]);
        for (host, address, expected) in [
            ("172.23.0.10:9443", "172.23.0.10", true),
            ("172.23.0.10", "172.23.0.10", true),
            ("172.23.0.10:9443", "::ffff:172.23.0.10", true),
            ("172.23.0.11:9443", "172.23.0.10", false),
            ("[2001:db8::1]:9443", "2001:db8::1", true),
            ("[2001:db8::1]", "2001:db8::1", true),
            ("[2001:db8::2]:9443", "2001:db8::1", false),
            ("node-1:9443", "172.23.0.10", true),
            ("NODE-1", "172.23.0.10", true),
            ("PAGE.example.org:443", "172.23.0.10", true),
            ("192.0.2.9", "172.23.0.10", true),
            ("localhost:9443", "127.0.0.1", true),
            ("localhost:9443", "172.23.0.10", false),
            ("evil.example", "172.23.0.10", false),
            ("node-1.evil.example", "172.23.0.10", false),
            ("node-1:evil", "172.23.0.10", false),
            ("", "172.23.0.10", false),
            (":9443", "172.23.0.10", false),
        ] {
            assert_eq!(hosts.allows(host, address.parse().unwrap()), expected, "{host:?} at {address}");
        }
    }
}
