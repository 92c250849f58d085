//! The configuration file: which broadcast domains this node has.
//!
//! ```toml
//! circuit_idle_minutes = 180  # silence after which a circuit's place may be given to a new one, default as here
//!
//! [duplicates]
//! rate = 20                 # names a second for which the agent asks, to find PVs that several servers have; default 0: none
//! allow = ["172.23.0.9", "bl07/gateway-*", "BL07:SPARE:*"]  # servers and PVs that do not count, see docs/duplicates.md
//!
//! [domain.bl07]
//! uplink = "eth0"           # the interface on the LAN: its name, a network it has an address in, or "auto" (default route)
//! namespaces = ["bl07", "bl07-*"]  # whose pods may join, default: all
//! protocols = ["ca", "pva", "gvcp"]  # default: ca and pva
//! ports = "61000-64999"     # external ports, default as here
//! pins = "65000-65535"      # ports that pods may pin, apart from `ports`, default as here
//! ports_per_pod = 1000      # external ports that one pod may take, default: a sixteenth of `ports`, at least 16
//! rates = { pod = 10000, host = 10000, domain = 50000 }  # relayed datagrams per second, default as here; 0: no limit
//! cameras = ["172.23.0.128/25"]  # where pods may command cameras (protocol "gvcp"), default: all of the LAN
//! addresses = ["172.23.0.48/28", { range = "172.23.0.200-172.23.0.220", namespaces = ["bl07-*"] }]  # that pods may have,
//!                           # and pods of which namespaces; default: none
//! path = "stack"            # of packets from and to these: through the node's stack, default, or "direct"
//! lan = ["172.24.0.0/16"]   # networks that belong to the LAN besides those of the uplink
//! search_ports = { 8064 = "ca" }  # UDP ports relayed besides the protocols' own
//! groups = { 5076 = "224.0.2.3" }  # multicast groups, one or a list, relayed at these ports as broadcasts to them are
//! lan_ports = { 5064 = 8064, 5065 = 8065 }  # UDP ports in pods, and their counterparts on the LAN
//! subnets = { peers = ["iocast-subnets"], key = "/etc/iocast-subnets/key", port = 5077 }  # nodes of the domain in
//!                           # other subnets, names or addresses; the domain's key and UDP port, defaults as here
//! search_prefixes = ["BL07I-"]  # how names begin whose searches cross to those subnets; default: all do
//! ```
//!
//! Sections `[protocol.NAME]` describe more protocols, see [`crate::protocol`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    net::Ipv4Addr,
    ops::Range,
    path::{Path, PathBuf},
};

use abi::{Protocol, limited};
use membership::{address, namespace::is_pattern, prefixes};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use toml::de::{DeTable, DeValue};
use wire::gvcp::PORT as GVCP_PORT;

use crate::{
    allowed::Allowed,
    groups::{self, Texts},
    places::{self, Place},
    protocol::{self, Described, DomainProtocol, Registry},
};

/// Default external ports of a domain: above the kernel's default range for outgoing connections.
const DEFAULT_PORTS: Ports = Ports { first: 61000, last: 64999 };
/// Default ports that pods may pin: above those.
const DEFAULT_PINS: Ports = Ports { first: 65000, last: 65535 };
/// Default protocols of a domain: without GigE Vision, because the admin should decide who may command cameras.
const DEFAULT_PROTOCOLS: [Protocol; 2] = [Protocol::Ca, Protocol::Pva];

/// Default UDP port at which agents of a domain in several subnets hear each other.
const RELAY_PORT: u16 = 5077;
/// Default file with their key.
const RELAY_KEY: &str = "/etc/iocast-subnets/key";

/// The most minutes that a circuit may be idle: a year.
const MOST_IDLE: u32 = 365 * 24 * 60;

/// The most names a second that are asked for, so that it is no flood.
pub(crate) const MOST_RATE: u32 = 1000;

/// The addresses that hosts can have.
const HOSTS: [address::Range; 2] = [
    address::Range { first: Ipv4Addr::new(1, 0, 0, 0), last: Ipv4Addr::new(126, 255, 255, 255) },
    address::Range { first: Ipv4Addr::new(128, 0, 0, 0), last: Ipv4Addr::new(223, 255, 255, 255) },
];

/// Instead of an uplink's name: the interface of the default route.
pub(crate) const AUTO: &str = "auto";

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}; pass another with --config")]
    Unreadable { path: String, source: std::io::Error },
    /// The file is not TOML of the expected form.
    #[error("{path}: {reason}")]
    Form { path: String, reason: String },
    /// The content is invalid; reports all faults at once.
    #[error("{path}: {}", .faults.join("\n"))]
    Faults { path: String, faults: Vec<String> },
}

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Seconds without a segment after which the place of a circuit may be given to another.
    pub(crate) circuit_idle: u32,
    pub(crate) duplicates: DuplicatesConfig,
    /// The domains, in order of their names.
    pub(crate) domains: Vec<DomainConfig>,
}

/// How PVs that several servers have are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DuplicatesConfig {
    /// Names a second, in each domain, for which the agent asks; 0 if it is not to look.
    pub(crate) rate: u32,
    /// What may have a PV beside others.
    pub(crate) allowed: Vec<Allowed>,
}

/// A broadcast domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DomainConfig {
    pub(crate) name: String,
    /// The interface on the LAN: its name, a network in which it has an address, or [`AUTO`].
    pub(crate) uplink: String,
    /// Namespaces whose pods may join, each may end in `*`; if empty, all may.
    pub(crate) namespaces: Vec<String>,
    pub(crate) protocols: Vec<DomainProtocol>,
    pub(crate) ports: Ports,
    /// Ports that pods may pin besides those.
    pub(crate) pins: Option<Ports>,
    /// External ports that one pod may take.
    pub(crate) ports_per_pod: u32,
    /// Relayed datagrams per second, by [`abi::limited`]; 0 for no limit.
    pub(crate) rates: [u32; limited::KINDS],
    /// UDP ports, besides the protocols' own, to which searches of a protocol are sent.
    pub(crate) search_ports: BTreeMap<u16, DomainProtocol>,
    /// UDP port in pods -> multicast groups that are relayed there, besides those of its protocol.
    pub(crate) groups: BTreeMap<u16, Vec<Ipv4Addr>>,
    /// UDP port in pods -> its counterpart on the LAN, if they differ.
    pub(crate) lan_ports: BTreeMap<u16, u16>,
    /// Networks that belong to the LAN besides those of the uplink.
    pub(crate) lan: Vec<Network>,
    /// Networks in which pods may command cameras; all of the LAN if `None`.
    pub(crate) cameras: Option<Vec<Network>>,
    /// Addresses on the LAN that pods may have.
    pub(crate) addresses: Vec<Addresses>,
    /// Whether packets from and to these pass by the node's stack.
    pub(crate) direct: bool,
    /// How it reaches other subnets; `None` if it has but one.
    pub(crate) subnets: Option<SubnetsConfig>,
    /// How names begin whose searches cross to them; if empty, all do.
    pub(crate) search_prefixes: Vec<String>,
}

/// How a domain reaches other subnets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubnetsConfig {
    /// Other agents: names or addresses, each with a port or at `port`.
    pub(crate) peers: Vec<String>,
    /// The file with their key.
    pub(crate) key: PathBuf,
    /// The UDP port at which they hear each other.
    pub(crate) port: u16,
}

impl SubnetsConfig {
    /// Where the other agents are.
    pub(crate) fn places(&self) -> Vec<Place> {
        self.peers.iter().map(|peer| places::parse(peer, self.port)).collect()
    }
}

/// Addresses on the LAN that pods may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) range: address::Range,
    /// Namespaces whose pods may have one, each may end in `*`; if empty, all that may join.
    pub(crate) namespaces: Vec<String>,
}

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) address: [u8; 4],
    /// Prefix length, bits.
    pub(crate) prefix: u8,
}

impl Network {
    /// Whether it contains all of `other`.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        let number = |network: &Self| u32::from_be_bytes(network.address);
        let differ = number(self) ^ number(other);
        self.prefix <= other.prefix && differ.checked_shr(32 - u32::from(self.prefix)).unwrap_or(0) == 0
    }
}

/// A range of ports, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

/// A relayed UDP port of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relayed<'a> {
    pub(crate) in_pods: u16,
    pub(crate) on_lan: u16,
    pub(crate) protocol: &'a DomainProtocol,
    /// Directions, from [`abi::paths`].
    pub(crate) flags: u16,
}

impl DomainConfig {
    /// The ranges of ports that are iocast's: external ones, and those to pin besides.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Ports> + Clone + use<> {
        [Some(self.ports), self.pins].into_iter().flatten()
    }

    /// Whether the domain relays this protocol.
    pub(crate) fn relays(&self, protocol: Protocol) -> bool {
        self.protocols.iter().any(|spoken| spoken.is(protocol))
    }

    /// The UDP ports of the domain's protocols.
    pub(crate) fn relayed(&self) -> impl Iterator<Item = Relayed<'_>> {
        let own = self.protocols.iter().flat_map(|protocol| {
            protocol.ports().into_iter().map(move |(port, flags)| (port, protocol, flags))
        });
        let others = self.search_ports.iter().map(|(&port, protocol)| (port, protocol, protocol.flags()));
        own.chain(others).map(|(in_pods, protocol, flags)| {
            let on_lan = self.on_lan(in_pods);
            Relayed { in_pods, on_lan, protocol, flags }
        })
    }

    /// The counterpart on the LAN of a UDP port in pods.
    pub(crate) fn on_lan(&self, in_pods: u16) -> u16 {
        self.lan_ports.get(&in_pods).copied().unwrap_or(in_pods)
    }

    /// The multicast groups that are relayed, each with the port in pods.
    pub(crate) fn groups(&self) -> BTreeSet<(Ipv4Addr, u16)> {
        let of_protocols = self
            .relayed()
            .flat_map(|port| port.protocol.groups().iter().map(move |group| (*group, port.in_pods)));
        let others =
            self.groups.iter().flat_map(|(port, groups)| groups.iter().map(move |group| (*group, *port)));
        of_protocols.chain(others).collect()
    }
}

/// Longer than a connection is idle that TCP keepalive finds alive: 2 hours, and nine times 75 seconds.
const fn default_circuit_idle() -> u32 {
    180
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "default_circuit_idle")]
    circuit_idle_minutes: u32,
    #[serde(default)]
    duplicates: Duplicates,
    #[serde(default)]
    domain: BTreeMap<String, Section>,
    #[serde(default)]
    protocol: BTreeMap<String, protocol::Section>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Duplicates {
    rate: u32,
    allow: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    uplink: String,
    #[serde(default)]
    namespaces: Vec<String>,
    protocols: Option<Vec<String>>,
    ports: Option<String>,
    pins: Option<String>,
    ports_per_pod: Option<u32>,
    #[serde(default)]
    rates: Rates,
    #[serde(default)]
    search_ports: BTreeMap<String, String>,
    #[serde(default)]
    groups: BTreeMap<String, Texts>,
    #[serde(default)]
    lan_ports: BTreeMap<String, u16>,
    #[serde(default)]
    lan: Vec<String>,
    cameras: Option<Vec<String>>,
    #[serde(default)]
    addresses: Vec<Given>,
    path: Option<String>,
    subnets: Option<SubnetsSection>,
    #[serde(default)]
    search_prefixes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubnetsSection {
    peers: Vec<String>,
    key: Option<PathBuf>,
    port: Option<u16>,
}

/// Addresses that pods may have: a range, or a table with one.
struct Given {
    range: String,
    namespaces: Vec<String>,
}

/// By hand, because a derived choice between the two would not say which key is unknown.
impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            range: String,
            #[serde(default)]
            namespaces: Vec<String>,
        }

        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Given;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("addresses as text, or a table of a `range` and `namespaces`")
            }

            fn visit_str<E: Error>(self, range: &str) -> Result<Given, E> {
                Ok(Given { range: range.into(), namespaces: vec![] })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Given, A::Error> {
                let Table { range, namespaces } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Given { range, namespaces })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Relayed datagrams per second of a pod, of a host on the LAN, and of the whole domain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rates {
    pod: u32,
    host: u32,
    domain: u32,
}

/// More than an archiver that searches for everything needs, or a facility that powers up.
impl Default for Rates {
    fn default() -> Self {
        Self { pod: 10_000, host: 10_000, domain: 50_000 }
    }
}

impl Config {
    /// Reads and validates the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::validate(path, &read_text(path)?)
    }

    /// The configuration in `text`, the content of the file at `path`.
    pub(crate) fn validate(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        Self::parse(text).map_err(|faults| match faults {
            Faults::Form(reason) => ConfigError::Form { path: name, reason },
            Faults::Content(faults) => ConfigError::Faults { path: name, faults },
        })
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Faults> {
        let mut faults = vec![];
        let file = read_file(text, &mut faults)?;
        if file.domain.is_empty() {
            faults.push("no domain is configured; add a section [domain.NAME] with an `uplink`".into());
        }
        if file.domain.len() > abi::DOMAINS as usize {
            faults.push(format!(
                "{} domains are configured; a node can have {}",
                file.domain.len(),
                abi::DOMAINS
            ));
        }
        let registry = Registry::new(file.protocol, &mut faults);
        let domains = file.domain.into_iter();
        let domains = domains.map(|(name, section)| domain(name, section, &registry, &mut faults)).collect();
        if !(1..=MOST_IDLE).contains(&file.circuit_idle_minutes) {
            faults.push(format!(
                "`circuit_idle_minutes` is {}: expected 1 to {MOST_IDLE}; CA and PVA servers and clients say something every \
                 minute, TCP keepalive every two hours",
                file.circuit_idle_minutes
            ));
        }
        let circuit_idle = file.circuit_idle_minutes.saturating_mul(60);
        let config = Self { circuit_idle, duplicates: duplicates(&file.duplicates, &mut faults), domains };
        check_shared_uplinks(&config.domains, &mut faults);
        check_addresses(&config.domains, &mut faults);
        check_groups(&config.domains, &mut faults);
        let described = config.described().len();
        if described > abi::DESCRIPTORS as usize {
            faults.push(format!(
                "the domains relay {described} described protocols; a node can have {}",
                abi::DESCRIPTORS
            ));
        }
        if faults.is_empty() { Ok(config) } else { Err(Faults::Content(faults)) }
    }

    /// The described protocols that domains relay, in order of their names.
    pub(crate) fn described(&self) -> Vec<&Described> {
        let all = self.domains.iter().flat_map(|domain| domain.relayed().map(|port| port.protocol));
        let described = all.filter_map(|spoken| match spoken {
            DomainProtocol::Described(described) => Some((described.name.as_str(), described.as_ref())),
            DomainProtocol::BuiltIn(_) => None,
        });
        described.collect::<BTreeMap<_, _>>().into_values().collect()
    }
}

/// What the file says. An unknown key becomes a fault, so that all the others are still judged.
fn read_file(text: &str, faults: &mut Vec<String>) -> Result<File, Faults> {
    let form = |error: toml::de::Error| Faults::Form(error.to_string().trim_end().into());
    let mut table = DeTable::parse(text).map_err(form)?;
    loop {
        let error = match File::deserialize(toml::Deserializer::from(table.clone())) {
            Ok(file) => return Ok(file),
            Err(error) => error,
        };
        let key = error.span().filter(|_| error.message().starts_with("unknown field"));
        if !key.clone().is_some_and(|key| remove_key(table.get_mut(), &key)) {
            let reason = format!("{}{}", line(text, error.span()), error.message());
            return Err(Faults::Content(faults.drain(..).chain([reason]).collect()));
        }
        faults.push(format!("{}{}", line(text, key), error.message()));
    }
}

/// Where in `text` something is.
fn line(text: &str, place: Option<Range<usize>>) -> String {
    let before = place.and_then(|place| text.get(..place.start));
    before.map(|before| format!("line {}: ", before.matches('\n').count() + 1)).unwrap_or_default()
}

/// Takes the key at this place in the text out of `table`, or out of one in it. Returns whether there was one.
fn remove_key(table: &mut DeTable<'_>, place: &Range<usize>) -> bool {
    match table.keys().find(|key| key.span() == *place).cloned() {
        Some(key) => table.remove(&key).is_some(),
        None => table.iter_mut().any(|(_, value)| remove_key_below(value.get_mut(), place)),
    }
}

fn remove_key_below(value: &mut DeValue<'_>, place: &Range<usize>) -> bool {
    match value {
        DeValue::Table(table) => remove_key(table, place),
        DeValue::Array(values) => values.iter_mut().any(|value| remove_key_below(value.get_mut(), place)),
        _ => false,
    }
}

/// The content of the file at `path`.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let name = path.display().to_string();
    fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: name, source })
}

/// What is wrong with a configuration's text.
#[derive(Debug)]
pub(crate) enum Faults {
    /// It is not TOML of the expected form.
    Form(String),
    /// The content is invalid.
    Content(Vec<String>),
}

fn duplicates(Duplicates { rate, allow }: &Duplicates, faults: &mut Vec<String>) -> DuplicatesConfig {
    if *rate > MOST_RATE {
        faults.push(format!("`rate` of `duplicates` is {rate}: expected at most {MOST_RATE}"));
    }
    let (allowed, wrong): (Vec<_>, Vec<_>) =
        allow.iter().map(|text| Allowed::parse(text)).partition(Result::is_ok);
    let wrong = wrong.into_iter().filter_map(Result::err);
    faults.extend(wrong.map(|wrong| format!("`allow` of `duplicates`: {wrong}")));
    DuplicatesConfig { rate: *rate, allowed: allowed.into_iter().flatten().collect() }
}

/// The domain that a section describes. Adds faults to `faults`; the value is then a placeholder.
fn domain(name: String, section: Section, registry: &Registry, faults: &mut Vec<String>) -> DomainConfig {
    let mut found = vec![];
    if !is_name(&name) {
        found.push("a name must be 1 to 63 letters, digits, `-`, `_` or `.`".into());
    }
    if (section.uplink.is_empty() || section.uplink.len() > 15) && parse_network(&section.uplink).is_none() {
        found.push(format!(
            "`uplink` is `{}`: expected an interface name, a network such as 172.23.0.0/24, or `auto`",
            section.uplink
        ));
    }
    if section.ports_per_pod == Some(0) {
        found.push("`ports_per_pod` is 0: no client could connect to a pod; expected 1 or more".into());
    }
    check_namespaces("namespaces", &section.namespaces, &mut found);
    let ports = range("ports", section.ports.as_deref(), &mut found).unwrap_or(DEFAULT_PORTS);
    let Rates { pod, host, domain: all } = section.rates;
    let has_addresses = !section.addresses.is_empty();
    let domain = DomainConfig {
        protocols: protocols(section.protocols, registry, &mut found),
        ports,
        ports_per_pod: section
            .ports_per_pod
            .unwrap_or_else(|| (u32::from(ports.last - ports.first) / 16 + 1).max(16)),
        rates: [pod, host, all],
        pins: pins(section.pins.as_deref(), ports, &mut found),
        search_ports: search_ports(section.search_ports, registry, &mut found),
        groups: groups_at(section.groups, &mut found),
        lan_ports: lan_ports(section.lan_ports, &mut found),
        lan: networks("lan", &section.lan, &mut found),
        cameras: section.cameras.map(|texts| networks("cameras", &texts, &mut found)),
        direct: section.path.is_some_and(|path| is_direct(&path, has_addresses, &mut found)),
        addresses: addresses(section.addresses, &mut found),
        search_prefixes: search_prefixes(section.search_prefixes, section.subnets.is_some(), &mut found),
        subnets: section.subnets.map(|section| subnets(section, &mut found)),
        uplink: section.uplink,
        namespaces: section.namespaces,
        name,
    };
    found.extend(contradictions(&domain));
    faults.extend(found.into_iter().map(|what| format!("domain `{}`: {what}", domain.name)));
    domain
}

fn subnets(section: SubnetsSection, faults: &mut Vec<String>) -> SubnetsConfig {
    let SubnetsSection { peers, key, port } = section;
    if peers.is_empty() || peers.iter().any(String::is_empty) {
        faults.push("`subnets.peers` names nobody; expected names or addresses of the domain's nodes".into());
    }
    if port == Some(0) {
        faults.push("`subnets.port` is 0, which is not a UDP port".into());
    }
    let (key, port) = (key.unwrap_or_else(|| RELAY_KEY.into()), port.unwrap_or(RELAY_PORT));
    SubnetsConfig { peers, key, port }
}

fn search_prefixes(prefixes: Vec<String>, has_subnets: bool, faults: &mut Vec<String>) -> Vec<String> {
    if !prefixes.is_empty() && !has_subnets {
        faults.push("`search_prefixes` has no effect without `subnets`".into());
    }
    let objections = prefixes.iter().filter_map(|prefix| prefixes::objection(prefix));
    faults.extend(objections.map(|objection| format!("`search_prefixes`: {objection}")));
    prefixes
}

/// Ports that pods may pin: never those that pods get without asking, or one of these might be gone when it is pinned.
fn pins(text: Option<&str>, ports: Ports, faults: &mut Vec<String>) -> Option<Ports> {
    let overlaps = |pins: &Ports| pins.first <= ports.last && ports.first <= pins.last;
    if text.is_none() {
        return Some(DEFAULT_PINS).filter(|pins| !overlaps(pins));
    }
    let pins = range("pins", text, faults)?;
    if overlaps(&pins) {
        let Ports { first, last } = ports;
        faults.push(format!(
            "`pins` {}-{} overlaps `ports` {first}-{last}, which pods get without asking: keep them apart",
            pins.first, pins.last
        ));
    }
    Some(pins)
}

fn check_namespaces(key: &str, patterns: &[String], faults: &mut Vec<String>) {
    for pattern in patterns.iter().filter(|pattern| !is_pattern(pattern)) {
        faults.push(format!(
            "`{key}` has `{pattern}`: expected a namespace, or the beginning of one followed by `*`"
        ));
    }
}

fn addresses(given: Vec<Given>, faults: &mut Vec<String>) -> Vec<Addresses> {
    let mut found: Vec<Addresses> = vec![];
    for Given { range: text, namespaces } in given {
        check_namespaces("addresses", &namespaces, faults);
        let range = match address::Range::parse(&text) {
            Ok(range) => range,
            Err(reason) => {
                faults.push(format!("`addresses`: {reason}"));
                continue;
            }
        };
        if !HOSTS.iter().any(|hosts| hosts.contains(range.first) && hosts.contains(range.last)) {
            faults.push(format!("`addresses` has `{text}`: no host can have all of these"));
        }
        if let Some(other) = found.iter().find(|other| other.range.overlaps(&range)) {
            faults.push(format!(
                "`addresses` has {} and {range}, which overlap: say once which namespaces may have an address",
                other.range
            ));
        }
        found.push(Addresses { range, namespaces });
    }
    found
}

/// Whether packets of LAN addresses pass by the node's stack.
fn is_direct(path: &str, has_addresses: bool, faults: &mut Vec<String>) -> bool {
    if !["stack", "direct"].contains(&path) {
        faults.push(format!("`path` is `{path}`: expected \"stack\" or \"direct\""));
    }
    if !has_addresses {
        faults.push("`path` has no effect without `addresses`".into());
    }
    path == "direct"
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn protocols(
    names: Option<Vec<String>>,
    registry: &Registry,
    faults: &mut Vec<String>,
) -> Vec<DomainProtocol> {
    let Some(names) = names else { return DEFAULT_PROTOCOLS.map(DomainProtocol::BuiltIn).to_vec() };
    let mut protocols = vec![];
    for name in names {
        match registry.find(&name) {
            Some(protocol) => protocols.push(protocol),
            None => {
                faults.push(format!("unknown protocol `{name}`; known protocols: {}", registry.names()));
            }
        }
    }
    protocols
}

fn search_ports(
    texts: BTreeMap<String, String>,
    registry: &Registry,
    faults: &mut Vec<String>,
) -> BTreeMap<u16, DomainProtocol> {
    let mut found = BTreeMap::new();
    for (port, name) in texts {
        match (port.parse(), registry.find(&name)) {
            (Ok(number), Some(protocol)) if number > 0 => drop(found.insert(number, protocol)),
            _ => faults.push(format!(
                "`search_ports` has `{port} = {name}`: expected a UDP port and one of the protocols {}",
                registry.names()
            )),
        }
    }
    found
}

fn range(key: &str, text: Option<&str>, faults: &mut Vec<String>) -> Option<Ports> {
    let text = text?;
    let parsed = parse_ports(text);
    if parsed.is_none() {
        faults.push(format!(
            "`{key}` is `{text}`: expected FIRST-LAST, two ports from 1024 to 65535 in ascending order"
        ));
    }
    parsed
}

fn lan_ports(texts: BTreeMap<String, u16>, faults: &mut Vec<String>) -> BTreeMap<u16, u16> {
    let mut found = BTreeMap::new();
    for (in_pods, on_lan) in texts {
        match in_pods.parse() {
            Ok(port) if on_lan > 0 => drop(found.insert(port, on_lan)),
            _ => faults.push(format!(
                "`lan_ports` has `{in_pods} = {on_lan}`: expected a UDP port in pods and its counterpart on the LAN"
            )),
        }
    }
    found
}

fn groups_at(texts: BTreeMap<String, Texts>, faults: &mut Vec<String>) -> BTreeMap<u16, Vec<Ipv4Addr>> {
    let mut found = BTreeMap::new();
    for (port, texts) in texts {
        let groups = groups::parse(&format!("groups.{port}"), &texts, faults);
        match port.parse() {
            Ok(port) => drop(found.insert(port, groups)),
            Err(_) => {
                faults.push(format!("`groups` has `{port}`: expected a UDP port in pods, with its groups"));
            }
        }
    }
    found
}

fn networks(key: &str, texts: &[String], faults: &mut Vec<String>) -> Vec<Network> {
    let mut found = vec![];
    for text in texts {
        match parse_network(text) {
            Some(network) => found.push(network),
            None => {
                faults.push(format!("`{key}` has `{text}`: expected an IPv4 network such as 172.24.0.0/16"));
            }
        }
    }
    found
}

/// Settings of a domain that contradict each other.
fn contradictions(domain: &DomainConfig) -> Vec<String> {
    let ports = domain.ports;
    let relayed: Vec<Relayed> = domain.relayed().collect();
    let is_relayed = |port: &u16| relayed.iter().any(|relayed| relayed.in_pods == *port);
    let inside = relayed.iter().filter(|relayed| (ports.first..=ports.last).contains(&relayed.on_lan));
    let mut found: Vec<_> = inside
        .map(|Relayed { on_lan, .. }| {
            format!("`ports` {}-{} includes UDP port {on_lan}, which is relayed", ports.first, ports.last)
        })
        .collect();
    for (index, port) in relayed.iter().enumerate() {
        let same = |other: &&Relayed| other.in_pods == port.in_pods || other.on_lan == port.on_lan;
        if let Some(Relayed { in_pods, on_lan, .. }) = relayed[index + 1..].iter().find(same) {
            found.push(format!("UDP port {in_pods} in pods ({on_lan} on the LAN) is relayed twice"));
        }
    }
    if let Some(port) = domain.subnets.as_ref().map(|subnets| subnets.port) {
        let is_taken = domain.ranges().any(|range| (range.first..=range.last).contains(&port))
            || relayed.iter().any(|relayed| relayed.on_lan == port);
        if is_taken {
            found.push(format!("`subnets.port` {port} is one of the domain's own ports; choose another"));
        }
    }
    for port in domain.groups.keys().filter(|port| **port == GVCP_PORT || !is_relayed(port)) {
        found.push(format!(
            "`groups` has {port}, which is not a UDP port of the domain's protocols other than \"gvcp\"; give it one by \
             `search_ports`"
        ));
    }
    if domain.lan_ports.contains_key(&GVCP_PORT) {
        found.push(format!(
            "`lan_ports`: {GVCP_PORT} cannot be remapped: GigE Vision clients use no other port"
        ));
    }
    for (port, _) in domain.search_ports.iter().filter(|(_, protocol)| protocol.is(Protocol::Gvcp)) {
        found.push(format!(
            "`search_ports` has `{port} = gvcp`: cameras use port {GVCP_PORT} only; add \"gvcp\" to `protocols`"
        ));
    }
    if domain.cameras.is_some() && !domain.relays(Protocol::Gvcp) {
        found.push("`cameras` has no effect without \"gvcp\" in `protocols`".into());
    }
    for port in domain.lan_ports.keys().filter(|port| !is_relayed(port)) {
        found.push(format!("`lan_ports` has {port}, which is not a UDP port of the domain's protocols"));
    }
    found
}

pub(crate) fn parse_network(text: &str) -> Option<Network> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
    (prefix <= 32).then_some(Network { address: address.octets(), prefix })
}

fn parse_ports(text: &str) -> Option<Ports> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (1024 <= first && first <= last).then_some(Ports { first, last })
}

/// A port on a LAN belongs to one domain: two domains on one uplink cannot both relay it.
fn check_shared_uplinks(domains: &[DomainConfig], faults: &mut Vec<String>) {
    for (index, domain) in domains.iter().enumerate() {
        for other in domains[index + 1..].iter().filter(|other| other.uplink == domain.uplink) {
            let mine: Vec<_> = domain.relayed().map(|relayed| relayed.on_lan).collect();
            if let Some(Relayed { on_lan, .. }) =
                other.relayed().find(|relayed| mine.contains(&relayed.on_lan))
            {
                faults.push(format!(
                    "domains `{}` and `{}` both relay UDP port {on_lan} on uplink `{}`, so a search there could be for \
                     either; give one of them other `lan_ports`",
                    domain.name, other.name, domain.uplink,
                ));
            }
        }
    }
}

/// A node has room for so many.
fn check_groups(domains: &[DomainConfig], faults: &mut Vec<String>) {
    let count: usize = domains.iter().map(|domain| domain.groups().len()).sum();
    if count > abi::GROUPS as usize {
        faults.push(format!(
            "the domains relay {count} multicast groups, counting each of a group's ports; a node can have {}",
            abi::GROUPS
        ));
    }
}

/// An address is one pod's on a node, whatever the domain; and a node can have so many ranges.
fn check_addresses(domains: &[DomainConfig], faults: &mut Vec<String>) {
    let all = domains.iter().flat_map(|domain| domain.addresses.iter().map(move |of| (&domain.name, of)));
    let all: Vec<_> = all.collect();
    for (index, (domain, Addresses { range, .. })) in all.iter().enumerate() {
        let overlaps = |(other, of): &&(&String, &Addresses)| other != domain && of.range.overlaps(range);
        if let Some((other, of)) = all[index + 1..].iter().find(overlaps) {
            faults.push(format!(
                "domains `{domain}` and `{other}` both give addresses of {range} and {}, so two pods could have the same \
                 one; keep their `addresses` apart",
                of.range
            ));
        }
    }
    let entries: usize = all.iter().map(|(_, of)| of.namespaces.len().max(1)).sum();
    if entries > abi::ADDRESS_RANGES as usize {
        faults.push(format!(
            "`addresses` of all domains have {entries} entries, counting each namespace; a node can have {}",
            abi::ADDRESS_RANGES
        ));
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;

    fn faults(text: &str) -> Vec<String> {
        match Config::parse(text) {
            Err(Faults::Content(faults)) => faults,
            other => panic!("{other:?}"),
        }
    }

    /// All keys.
    const FULL: &str = include_str!("../../tests/fuzz/seeds/config/all-keys");

    proptest! {
        #[test]
        fn what_is_changed_anywhere_is_valid_or_a_fault_that_says_what(
            cut in any::<Index>(), length in 0usize..9, inserted in "[ -~\\n]{0,5}",
        ) {
            let at = cut.index(FULL.len());
            let end = (at + length).min(FULL.len());
            let text = format!("{}{inserted}{}", &FULL[..at], &FULL[end..]);
            match Config::parse(&text) {
                Ok(config) => prop_assert!(!config.domains.is_empty()),
                Err(Faults::Form(reason)) => prop_assert!(!reason.is_empty()),
                Err(Faults::Content(faults)) => prop_assert!(!faults.is_empty()),
            }
        }
    }

    #[test]
    fn the_text_with_all_keys_is_valid() {
        assert_eq!(Config::parse(FULL).unwrap().described().len(), 1);
    }

    #[test]
    fn a_domain_needs_only_an_uplink() {
        let config = Config::parse("[domain.bl07]\nuplink = \"eth0\"").unwrap();
        let expected = DomainConfig {
            name: "bl07".into(),
            uplink: "eth0".into(),
            namespaces: vec![],
            protocols: vec![DomainProtocol::BuiltIn(Protocol::Ca), DomainProtocol::BuiltIn(Protocol::Pva)],
            ports: DEFAULT_PORTS,
            pins: Some(DEFAULT_PINS),
            ports_per_pod: 250,
            rates: [10_000, 10_000, 50_000],
            search_ports: BTreeMap::new(),
            groups: BTreeMap::new(),
            lan_ports: BTreeMap::new(),
            lan: vec![],
            cameras: None,
            addresses: vec![],
            direct: false,
            subnets: None,
            search_prefixes: vec![],
        };
        assert_eq!(config.domains, [expected]);
    }

    #[test]
    fn addresses_are_ranges_some_of_them_for_some_namespaces() {
        let text = "[domain.a]\nuplink = \"eth0\"\npath = \"direct\"\n\
                    addresses = [\"172.23.0.48/28\", { range = \"172.23.0.230\", namespaces = [\"bl07-*\"] }]";
        let domain = Config::parse(text).unwrap().domains.remove(0);
        let found: Vec<_> =
            domain.addresses.iter().map(|of| (of.range.to_string(), of.namespaces.join(" "))).collect();
        let expected = [("172.23.0.48-172.23.0.63", ""), ("172.23.0.230", "bl07-*")];
        assert_eq!(found, expected.map(|(range, namespaces)| (range.to_owned(), namespaces.to_owned())));
        assert!(domain.direct);
    }

    #[test]
    fn what_is_wrong_with_addresses_is_named() {
        let of = |lines: &str| faults(&format!("[domain.a]\nuplink = \"eth0\"\n{lines}"));
        for (lines, fault) in [
            ("addresses = [\"172.23.0\"]", "`172.23.0` is no address and no range"),
            ("addresses = [\"172.23.0.50/24\"]", "172.23.0.0/24 for the network"),
            ("addresses = [\"224.0.0.0/24\"]", "`224.0.0.0/24`: no host"),
            ("addresses = [\"0.0.0.0/0\"]", "`0.0.0.0/0`: no host"),
            ("addresses = [\"172.23.0.48/28\", \"172.23.0.50\"]", "172.23.0.50, which overlap"),
            ("addresses = [{ range = \"172.23.0.50\", namespaces = [\"A\"] }]", "`addresses` has `A`"),
            (
                "addresses = [{ range = \"172.23.0.50\", namespace = \"a\" }]",
                "line 3: unknown field `namespace`",
            ),
            ("addresses = [{ namespaces = [] }]", "line 3: missing field `range`"),
            ("addresses = [7]", "line 3: invalid type: integer `7`, expected addresses as text"),
            ("addresses = [\"172.23.0.50\"]\npath = \"fast\"", "`path` is `fast`"),
            ("path = \"direct\"", "`path` has no effect"),
        ] {
            let found = of(lines);
            assert!(found.len() == 1 && found[0].contains(fault), "{lines}: {found:#?}");
        }
    }

    #[test]
    fn no_two_domains_give_the_same_address() {
        let domain = |name: &str, addresses: &str| {
            format!("[domain.{name}]\nuplink = \"eth-{name}\"\naddresses = [\"{addresses}\"]\n")
        };
        let found = faults(&(domain("a", "172.23.0.48/28") + &domain("b", "172.23.0.63-172.23.0.70")));
        assert!(
            found.len() == 1 && found[0].contains("`a` and `b` both give addresses of 172.23.0.48-"),
            "{found:#?}"
        );
        assert!(Config::parse(&(domain("a", "172.23.0.48/28") + &domain("b", "172.23.0.64/28"))).is_ok());
    }

    #[test]
    fn a_node_has_room_for_so_many_ranges() {
        let text = |count: u32| {
            let ranges = (0..count).map(|number| format!("\"10.0.{}.{}\", ", number / 256, number % 256));
            format!("[domain.a]\nuplink = \"eth0\"\naddresses = [{}]", ranges.collect::<String>())
        };
        assert!(Config::parse(&text(abi::ADDRESS_RANGES)).is_ok());
        assert!(faults(&text(abi::ADDRESS_RANGES + 1))[0].contains("1025 entries"));
    }

    #[test]
    fn limits_are_set_one_by_one() {
        let config = Config::parse(
            "[domain.a]\nuplink = \"eth0\"\nports = \"61000-61019\"\nrates = { host = 5, domain = 0 }",
        );
        let domain = config.unwrap().domains.remove(0);
        assert_eq!((domain.rates, domain.ports_per_pod), ([10_000, 5, 0], 16));
        let found = faults("[domain.a]\nuplink = \"eth0\"\nports_per_pod = 0");
        assert!(found[0].contains("`ports_per_pod` is 0"), "{found:#?}");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let found = faults(
            "[domain.a]\nuplink = \"\"\nports = \"70000-1\"\n[domain.\"b c\"]\nuplink = \"eth1\"\nprotocols = [\"modbus\"]",
        );
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found[0].contains("domain `a`: `uplink`") && found[1].contains("`70000-1`"), "{found:#?}");
        assert!(
            found[2].contains("domain `b c`: a name") && found[3].contains("unknown protocol `modbus`"),
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
        assert!(found[0].contains("5000-6000 includes UDP port 5064"), "{found:#?}");
    }

    #[test]
    fn two_domains_cannot_share_a_port_of_one_lan() {
        let found = faults("[domain.a]\nuplink = \"eth0\"\n[domain.b]\nuplink = \"eth0\"");
        assert!(found[0].contains("`a` and `b` both relay UDP port 5064 on uplink `eth0`"), "{found:#?}");
        let other_ports = "lan_ports = { 5064 = 8064, 5065 = 8065, 5076 = 8076 }";
        let apart = format!("[domain.a]\nuplink = \"eth0\"\n[domain.b]\nuplink = \"eth0\"\n{other_ports}");
        assert!(Config::parse(&apart).is_ok());
    }

    #[test]
    fn what_is_no_network_is_named() {
        let found = faults("[domain.a]\nuplink = \"eth0\"\nlan = [\"172.24.0.0\", \"172.24.0.0/33\"]");
        assert!(found[0].contains("`172.24.0.0`") && found[1].contains("`172.24.0.0/33`"), "{found:#?}");
    }

    #[test]
    fn ports_on_the_lan_stand_for_relayed_ones() {
        let found = faults("[domain.a]\nuplink = \"eth0\"\nlan_ports = { 80 = 81, 5064 = 0, 5065 = 61000 }");
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(
            found[0].contains("`5064 = 0`") && found[1].contains("includes UDP port 61000"),
            "{found:#?}"
        );
        assert!(found[2].contains("`lan_ports` has 80"), "{found:#?}");
    }

    #[test]
    fn an_uplink_is_a_name_a_network_or_left_to_the_default_route() {
        for uplink in ["eth0", "172.23.0.0/24", "auto"] {
            assert!(Config::parse(&format!("[domain.a]\nuplink = \"{uplink}\"")).is_ok(), "{uplink}");
        }
        assert!(
            faults("[domain.a]\nuplink = \"an-interface-too-long\"")[0]
                .contains("expected an interface name")
        );
    }

    #[test]
    fn namespaces_are_names_or_their_beginnings() {
        let of = |list: &str| Config::parse(&format!("[domain.a]\nuplink = \"eth0\"\nnamespaces = {list}"));
        assert!(of("[\"bl07\", \"bl07-*\", \"*\"]").is_ok());
        for wrong in ["", "BL07", "a*b", "a/b"] {
            assert!(of(&format!("[\"{wrong}\"]")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_port_is_relayed_once() {
        let of = |line: &str| faults(&format!("[domain.a]\nuplink = \"eth0\"\n{line}"));
        let found = of("search_ports = { 5064 = \"ca\" }");
        assert!(found[0].contains("UDP port 5064 in pods (5064 on the LAN) is relayed twice"), "{found:#?}");
        let found = of("lan_ports = { 5064 = 5065 }");
        assert!(found[0].contains("UDP port 5065 in pods (5065 on the LAN) is relayed twice"), "{found:#?}");
        let found = of("search_ports = { 4000 = \"gvcp\" }");
        assert!(found[0].contains("`4000 = gvcp`"), "{found:#?}");
        let found = of("search_ports = { 8064 = \"modbus\" }");
        assert!(found[0].contains("`8064 = modbus`"), "{found:#?}");
    }

    #[test]
    fn a_domain_reaches_other_subnets_through_peers() {
        let of = |lines: &str| Config::parse(&format!("[domain.a]\nuplink = \"eth0\"\n{lines}"));
        let domain =
            of("subnets = { peers = [\"nodes.svc\", \"172.23.1.10:5078\"] }").unwrap().domains.remove(0);
        let subnets = domain.subnets.unwrap();
        assert_eq!((subnets.key, subnets.port), ("/etc/iocast-subnets/key".into(), 5077));
        let subnets = SubnetsConfig { key: "k".into(), port: 6000, ..subnets };
        assert_eq!(subnets.places(), [("nodes.svc".into(), 6000), ("172.23.1.10".into(), 5078)]);
        for (lines, fault) in [
            ("subnets = { peers = [] }", "`subnets.peers` names nobody"),
            ("subnets = { peers = [\"\"] }", "`subnets.peers` names nobody"),
            ("subnets = { peers = [\"a\"], port = 0 }", "`subnets.port` is 0"),
            ("subnets = { peers = [\"a\"], port = 61000 }", "61000 is one of the domain's own"),
            ("subnets = { peers = [\"a\"], port = 5064 }", "5064 is one of the domain's own"),
            ("search_prefixes = [\"A\"]", "`search_prefixes` has no effect"),
            ("subnets = { peers = [\"a\"] }\nsearch_prefixes = [\"A*\"]", "`search_prefixes`: `A*`"),
            ("subnets = { peers = [\"a\"] }\nsearch_prefixes = [\"\"]", "an empty beginning"),
        ] {
            let found = faults(&format!("[domain.a]\nuplink = \"eth0\"\n{lines}"));
            assert!(found.len() == 1 && found[0].contains(fault), "{lines}: {found:#?}");
        }
    }

    #[test]
    fn no_domain_at_all_is_a_fault() {
        assert!(faults("")[0].contains("no domain is configured"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let found = faults("[domain.a]\nuplink = \"eth0\"\nuplnk = 1");
        assert!(
            found[0].starts_with("line 3: unknown field `uplnk`, expected one of `uplink`"),
            "{found:#?}"
        );
    }

    #[test]
    fn unknown_keys_hide_no_other_fault() {
        let found = faults(
            "colour = 1\n[domain.a]\nuplink = \"eth0\"\nprotocls = [\"cb\"]\nports = \"9-1\"\n\
             rates = { pods = 1 }\n[domain.b]\nuplink = \"\"\n[protocol.x]\nports = [1]\nfields = [{ofset = 1}]",
        );
        for expected in [
            "line 1: unknown field `colour`",
            "line 4: unknown field `protocls`",
            "line 6: unknown field `pods`",
        ] {
            assert!(found.iter().any(|fault| fault.starts_with(expected)), "{expected}: {found:#?}");
        }
        let found =
            faults("colour = 1\n[domain.a]\nuplink = \"eth0\"\nports = \"9-1\"\n[domain.b]\nuplink = \"\"");
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(
            found[1].contains("`ports` is `9-1`") && found[2].contains("domain `b`: `uplink`"),
            "{found:#?}"
        );
    }
}
