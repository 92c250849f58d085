//! The configuration file: which broadcast domains this node has.
//!
//! ```toml
//! [domain.bl07]
//! uplink = "eth0"           # the interface on the LAN
//! protocols = ["ca", "pva"] # default: all
//! ports = "61000-64999"     # external ports, default as here
//! lan = ["172.24.0.0/16"]   # networks that are LAN besides those of the uplink
//! ```

use std::{collections::BTreeMap, fs, net::Ipv4Addr, path::Path};

use abi::{Protocol, relay};
use serde::Deserialize;

/// External ports of a domain that does not say: above the kernel's default range for outgoing connections.
const DEFAULT_PORTS: Ports = Ports { first: 61000, last: 64999 };
/// Protocols that can be relayed, by the names used in the file.
const PROTOCOLS: [Protocol; 2] = [Protocol::Ca, Protocol::Pva];

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}; pass another with --config")]
    Unreadable { path: String, source: std::io::Error },
    /// The file is not TOML of the expected form.
    #[error("{path}: {reason}")]
    Form { path: String, reason: String },
    /// The file says what cannot be; all faults at once.
    #[error("{path}: {}", .faults.join("\n  "))]
    Faults { path: String, faults: Vec<String> },
}

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The domains, in order of their names.
    pub(crate) domains: Vec<DomainConfig>,
}

/// A broadcast domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DomainConfig {
    pub(crate) name: String,
    /// Name of the interface on the LAN.
    pub(crate) uplink: String,
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) ports: Ports,
    /// Networks that are LAN besides those of the uplink.
    pub(crate) lan: Vec<Network>,
}

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) address: [u8; 4],
    /// Prefix length, bits.
    pub(crate) prefix: u8,
}

/// A range of ports, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

/// UDP ports of a protocol, and where datagrams to them travel.
pub(crate) fn well_known(protocol: Protocol) -> &'static [(u16, u16)] {
    match protocol {
        Protocol::Ca => &[(5064, relay::SEARCH), (5065, relay::ANNOUNCE)],
        Protocol::Pva => &[(5076, relay::SEARCH)],
        Protocol::Other => &[],
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    domain: BTreeMap<String, Section>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    uplink: String,
    protocols: Option<Vec<String>>,
    ports: Option<String>,
    #[serde(default)]
    lan: Vec<String>,
}

impl Config {
    /// Reads and validates the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::validate(path, &read_text(path)?)
    }

    /// The configuration that `text`, the content of the file at `path`, says.
    pub(crate) fn validate(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        Self::parse(text).map_err(|faults| match faults {
            Faults::Form(reason) => ConfigError::Form { path: name, reason },
            Faults::Content(faults) => ConfigError::Faults { path: name, faults },
        })
    }

    fn parse(text: &str) -> Result<Self, Faults> {
        let file: File =
            toml::from_str(text).map_err(|error| Faults::Form(error.to_string().trim_end().into()))?;
        let mut faults = vec![];
        if file.domain.is_empty() {
            faults.push("there is no domain; add a section [domain.NAME] with an `uplink`".into());
        }
        if file.domain.len() > abi::DOMAINS as usize {
            faults.push(format!("there are {} domains; a node can have {}", file.domain.len(), abi::DOMAINS));
        }
        let domains: Vec<_> =
            file.domain.into_iter().map(|(name, section)| domain(name, section, &mut faults)).collect();
        check_shared_uplinks(&domains, &mut faults);
        if faults.is_empty() { Ok(Self { domains }) } else { Err(Faults::Content(faults)) }
    }
}

/// The content of the file at `path`.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let name = path.display().to_string();
    fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: name, source })
}

#[derive(Debug)]
enum Faults {
    Form(String),
    Content(Vec<String>),
}

/// The domain a section describes; faults are added to `faults`, the value is then only a stand-in.
fn domain(name: String, section: Section, faults: &mut Vec<String>) -> DomainConfig {
    let mut fault = |what: String| faults.push(format!("domain `{name}`: {what}"));
    if name.is_empty()
        || name.len() > 63
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    {
        fault("a name has 1 to 63 letters, digits, `-`, `_` or `.`".into());
    }
    if section.uplink.is_empty() || section.uplink.len() > 15 {
        fault(format!("`uplink` is `{}`: expected the name of an interface", section.uplink));
    }
    let mut protocols = vec![];
    for name in section.protocols.iter().flatten() {
        match PROTOCOLS.iter().find(|protocol| protocol.name() == name) {
            Some(protocol) => protocols.push(*protocol),
            None => fault(format!("protocol `{name}` is not known; known are {}", known_protocols())),
        }
    }
    let ports = match section.ports.as_deref().map(parse_ports) {
        None => DEFAULT_PORTS,
        Some(Some(ports)) => ports,
        Some(None) => {
            fault(format!(
                "`ports` is `{}`: expected FIRST-LAST, two ports from 1024 to 65535 in this order",
                section.ports.unwrap_or_default()
            ));
            DEFAULT_PORTS
        }
    };
    if section.protocols.is_none() {
        protocols = PROTOCOLS.to_vec();
    }
    for port in protocols.iter().flat_map(|&protocol| well_known(protocol)).map(|(port, _)| *port) {
        if (ports.first..=ports.last).contains(&port) {
            fault(format!(
                "`ports` {}-{} contains UDP port {port}, which is relayed",
                ports.first, ports.last
            ));
        }
    }
    let mut lan = vec![];
    for text in &section.lan {
        match parse_network(text) {
            Some(network) => lan.push(network),
            None => fault(format!("`lan` has `{text}`: expected an IPv4 network such as 172.24.0.0/16")),
        }
    }
    DomainConfig { name, uplink: section.uplink, protocols, ports, lan }
}

fn parse_network(text: &str) -> Option<Network> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
    (prefix <= 32).then_some(Network { address: address.octets(), prefix })
}

fn known_protocols() -> String {
    PROTOCOLS.map(|protocol| format!("`{}`", protocol.name())).join(", ")
}

fn parse_ports(text: &str) -> Option<Ports> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (1024 <= first && first <= last).then_some(Ports { first, last })
}

/// A port on a LAN belongs to one domain: two domains on one uplink cannot both relay it.
fn check_shared_uplinks(domains: &[DomainConfig], faults: &mut Vec<String>) {
    for (index, domain) in domains.iter().enumerate() {
        for other in &domains[index + 1..] {
            let shared = domain.protocols.iter().find(|protocol| other.protocols.contains(protocol));
            if let (true, Some(protocol)) = (domain.uplink == other.uplink, shared) {
                faults.push(format!(
                    "domains `{}` and `{}` both relay `{}` on uplink `{}`: a search there could not be told apart",
                    domain.name,
                    other.name,
                    protocol.name(),
                    domain.uplink,
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        match Config::parse(text) {
            Err(Faults::Content(faults)) => faults,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_domain_needs_only_an_uplink() {
        let config = Config::parse("[domain.bl07]\nuplink = \"eth0\"").unwrap();
        let expected = DomainConfig {
            name: "bl07".into(),
            uplink: "eth0".into(),
            protocols: vec![Protocol::Ca, Protocol::Pva],
            ports: DEFAULT_PORTS,
            lan: vec![],
        };
        assert_eq!(config.domains, [expected]);
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let found = faults(
            "[domain.a]\nuplink = \"\"\nports = \"70000-1\"\n[domain.\"b c\"]\nuplink = \"eth1\"\nprotocols = [\"modbus\"]",
        );
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found[0].contains("domain `a`: `uplink`") && found[1].contains("`70000-1`"), "{found:#?}");
        assert!(
            found[2].contains("domain `b c`: a name") && found[3].contains("`modbus` is not known"),
            "{found:#?}"
        );
    }

    #[test]
    fn ranges_are_two_unprivileged_ports_in_order() {
        assert_eq!(parse_ports("61000-64999"), Some(Ports { first: 61000, last: 64999 }));
        assert_eq!(parse_ports("61000 - 61000"), Some(Ports { first: 61000, last: 61000 }));
        for wrong in ["", "61000", "61001-61000", "80-90", "1-99999", "a-b"] {
            assert_eq!(parse_ports(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn external_ports_do_not_contain_relayed_ones() {
        let found = faults("[domain.a]\nuplink = \"eth0\"\nports = \"5000-6000\"");
        assert!(found[0].contains("5000-6000 contains UDP port 5064"), "{found:#?}");
    }

    #[test]
    fn two_domains_cannot_share_a_port_of_one_lan() {
        let found = faults("[domain.a]\nuplink = \"eth0\"\n[domain.b]\nuplink = \"eth0\"");
        assert!(found[0].contains("`a` and `b` both relay `ca` on uplink `eth0`"), "{found:#?}");
    }

    #[test]
    fn what_is_no_network_is_named() {
        let found = faults("[domain.a]\nuplink = \"eth0\"\nlan = [\"172.24.0.0\", \"172.24.0.0/33\"]");
        assert!(found[0].contains("`172.24.0.0`") && found[1].contains("`172.24.0.0/33`"), "{found:#?}");
    }

    #[test]
    fn no_domain_at_all_is_a_fault() {
        assert!(faults("")[0].contains("there is no domain"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = Config::parse("[domain.a]\nuplink = \"eth0\"\nuplnk = 1").unwrap_err();
        assert!(
            matches!(&error, Faults::Form(text) if text.contains("uplnk") && text.contains("line 3")),
            "{error:?}"
        );
    }
}
