//! Plans the contents of the maps from the configuration and the interfaces. Pure, no I/O.

use std::{collections::BTreeSet, net::Ipv4Addr};

use abi::{
    Described, Domain, GroupKey, Limit, Protocol, Relay, RelayKey, Uplink, field, lan, limited, paths,
};
use wire::data::{Bytes, Descriptor, FIELDS, Field};

use crate::{
    config::{Addresses, Config, DomainConfig, Network, Ports, Relayed},
    protocol::DomainProtocol,
};

/// An uplink's interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) address: [u8; 4],
    pub(crate) broadcast: [u8; 4],
    /// The networks it is connected to.
    pub(crate) networks: Vec<Network>,
}

/// What the maps should hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// All domains by number; a number without a name is unused.
    pub(crate) domains: Vec<(u16, Domain)>,
    /// All described protocols, in order of their numbers; a number without a name is unused.
    pub(crate) described: Vec<Described>,
    pub(crate) uplinks: Vec<(u32, Uplink)>,
    pub(crate) lan_relays: Vec<(RelayKey, Relay)>,
    pub(crate) pod_relays: Vec<(RelayKey, Relay)>,
    /// Multicast groups, with the ports at which they are relayed, as pods and as the LAN see them.
    pub(crate) groups: Vec<GroupKey>,
    /// The same as uplinks have to join them: interface index and group.
    pub(crate) joins: BTreeSet<(u32, Ipv4Addr)>,
    /// The domains' networks: domain, address, prefix length, flags from [`abi::lan`].
    pub(crate) networks: Vec<(u16, [u8; 4], u8, u32)>,
    /// Ranges of ports, both ends inclusive, that may be external.
    pub(crate) external_ports: Vec<(u16, u16)>,
    /// A UDP port that two domains relay on one uplink.
    pub(crate) doubled: Option<u16>,
    /// Namespaces whose pods may join a domain, unless all may: domain, and a name or a prefix followed by `*`.
    pub(crate) namespaces: Vec<(u16, String)>,
    /// Addresses that pods may have: domain, the first and the last one, and a namespace or a prefix followed by `*`.
    pub(crate) addresses: Vec<(u16, [u8; 4], [u8; 4], String)>,
}

/// How many seconds' worth of a rate may come at once: archivers and whole facilities start with a burst of searches.
const BURST: u32 = 5;

/// An empty range.
const NO_PORTS: Ports = Ports { first: 1, last: 0 };

const NO_DOMAIN: Domain = Domain {
    uplink: 0,
    first_port: 0,
    last_port: 0,
    first_pin: 0,
    last_pin: 0,
    ports_per_pod: 0,
    ports: 0,
    circuits: 0,
    direct: 0,
    limits: [Limit { interval: 0, burst: 0 }; limited::KINDS],
    name: [0; 64],
};

/// What a plan starts from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Present<'a> {
    /// Domains that already have numbers, which they keep.
    pub(crate) domains: &'a [(u16, Domain)],
    /// Described protocols in order of their numbers, which they keep.
    pub(crate) described: &'a [Described],
    /// Numbers of domains that have members, configured or not: no other domain may get them.
    pub(crate) members: &'a [u16],
}

/// The plan for `config`; `interface` returns a domain's uplink (`None`: it is missing, or has no address). A domain for
/// which no number is left is not in the plan.
pub(crate) fn plan(
    config: &Config,
    present: Present<'_>,
    interface: impl Fn(&DomainConfig) -> Option<Interface>,
) -> Plan {
    let mut plan = Plan { described: described(config, present.described), ..Plan::default() };
    let numbers = numbers(config, present);
    let used: BTreeSet<u16> = numbers.iter().flatten().chain(present.members).copied().collect();
    let domains = used.len().max(1) as u32;
    let shares = Shares { ports: abi::share_of(domains), circuits: abi::CIRCUITS / domains };
    for (domain, number) in config.domains.iter().zip(&numbers) {
        let Some(number) = *number else { continue };
        let found = interface(domain);
        let uplink = found.as_ref().map_or(0, |interface| interface.index);
        plan.domains.push((number, entry(domain, uplink, shares)));
        plan.external_ports.push((domain.ports.first, domain.ports.last));
        let cameras = domain.relayed().filter(|relayed| relayed.flags & paths::CAMERAS != 0);
        plan.external_ports.extend(cameras.map(|relayed| (relayed.on_lan, relayed.on_lan))); // of one in a pod
        plan.namespaces.extend(domain.namespaces.iter().map(|pattern| (number, pattern.clone())));
        plan.addresses.extend(addresses(number, domain));
        let connected = found.iter().flat_map(|interface| &interface.networks);
        plan.networks.extend(networks(number, domain, connected.chain(&domain.lan).copied().collect()));
        if let Some(interface) = &found {
            add_uplink(&mut plan.uplinks, number, interface);
        }
        for (group, port) in domain.groups() {
            plan.groups.push(GroupKey::of_pods(number, group.octets(), port));
            if uplink != 0 {
                plan.groups.push(GroupKey::on_lan(uplink, group.octets(), domain.on_lan(port)));
                plan.joins.insert((uplink, group));
            }
        }
        for Relayed { in_pods, on_lan, protocol, flags } in domain.relayed() {
            let protocol = protocol_number(protocol, &plan.described);
            let relay = |port| Relay { domain: number, port, protocol, flags };
            plan.pod_relays.push((RelayKey::of_pods(number, in_pods), relay(on_lan)));
            if uplink != 0 {
                plan.lan_relays.push((RelayKey::on_lan(uplink, on_lan), relay(in_pods)));
            }
        }
    }
    // Domains that name their uplinks differently may still share one.
    let double =
        |index: usize, key: &RelayKey| plan.lan_relays[..index].iter().any(|(other, _)| other == key);
    let doubled = plan.lan_relays.iter().enumerate().find(|(index, (key, _))| double(*index, key));
    plan.doubled = doubled.map(|(_, (key, _))| key.port);
    let gone = present.domains.iter().filter(|(number, _)| !numbers.contains(&Some(*number)));
    plan.domains.extend(gone.map(|(number, _)| (*number, NO_DOMAIN)));
    plan
}

/// A number for each configured domain: the one it already has, otherwise the lowest free one.
fn numbers(config: &Config, present: Present<'_>) -> Vec<Option<u16>> {
    let kept = |name: &str| {
        present.domains.iter().find(|(_, domain)| abi::text(&domain.name) == name).map(|(number, _)| *number)
    };
    let taken = |number: &u16| {
        present.members.contains(number) || present.domains.iter().any(|(taken, _)| taken == number)
    };
    let mut free = (0..abi::DOMAINS as u16).filter(|number| !taken(number));
    config.domains.iter().map(|domain| kept(&domain.name).or_else(|| free.next())).collect()
}

/// The protocol for each number of a described protocol: the same as before if still configured, otherwise a new one.
fn described(config: &Config, present: &[Described]) -> Vec<Described> {
    const NOTHING: Described = Described {
        descriptor: Descriptor { must: Bytes::ANY, search: 0, fields: [Field::NONE; FIELDS] },
        name: [0; 32],
    };
    let entry = |described: &&crate::protocol::Described| Described {
        descriptor: described.descriptor,
        name: field(&described.name).unwrap_or([0; 32]), // validated to fit
    };
    let wanted: Vec<_> = config.described().iter().map(entry).collect();
    let has = |all: &[Described], name| all.iter().any(|described| described.name == name);
    let mut new = wanted.iter().filter(|described| !has(present, described.name));
    let kept = |number: usize| {
        let name = present.get(number)?.name;
        wanted.iter().find(|described| described.name == name)
    };
    let numbers = 0..abi::DESCRIPTORS as usize;
    numbers.map(|number| kept(number).or_else(|| new.next()).copied().unwrap_or(NOTHING)).collect()
}

/// The number of a protocol, given the described ones in order of their numbers.
fn protocol_number(protocol: &DomainProtocol, described: &[Described]) -> u16 {
    match protocol {
        DomainProtocol::BuiltIn(protocol) => *protocol as u16,
        DomainProtocol::Described(wanted) => {
            let place = described.iter().position(|described| abi::text(&described.name) == wanted.name);
            place.map_or(Protocol::Other as u16, |place| abi::DESCRIBED as u16 + place as u16)
        }
    }
}

/// What each domain may have of the tables.
#[derive(Clone, Copy)]
struct Shares {
    /// External ports of one transport.
    ports: u32,
    circuits: u32,
}

fn entry(domain: &DomainConfig, uplink: u32, shares: Shares) -> Domain {
    let pins = domain.pins.unwrap_or(NO_PORTS);
    Domain {
        uplink,
        first_port: domain.ports.first,
        last_port: domain.ports.last,
        first_pin: pins.first,
        last_pin: pins.last,
        ports_per_pod: domain.ports_per_pod,
        ports: u32::from(domain.ports.last - domain.ports.first).saturating_add(1).min(shares.ports),
        circuits: shares.circuits,
        direct: domain.direct.into(),
        limits: domain.rates.map(limit),
        name: field(&domain.name).unwrap_or([0; 64]), // validated to fit
    }
}

/// A limit of `rate` datagrams per second, 0 for none; [`BURST`] seconds' worth may come at once.
pub(crate) fn limit(rate: u32) -> Limit {
    let interval = 1_000_000_000u32.checked_div(rate).unwrap_or(0);
    Limit { interval, burst: rate.saturating_mul(BURST) }
}

/// The networks of a domain, given its LAN. The kernel only returns the longest matching prefix, so each has all flags.
fn networks(number: u16, domain: &DomainConfig, lan: Vec<Network>) -> Vec<(u16, [u8; 4], u8, u32)> {
    let cameras = domain.cameras.as_ref().unwrap_or(&lan).clone();
    let mut all = lan;
    all.extend(cameras.iter().filter(|network| !all.contains(network)).copied().collect::<Vec<_>>());
    let flags = |network: &Network| {
        let commanded = cameras.iter().any(|cameras| cameras.contains(network));
        lan::HOSTS | if commanded { lan::CAMERAS } else { 0 }
    };
    all.iter().map(|network| (number, network.address, network.prefix, flags(network))).collect()
}

/// The addresses that a domain gives: an entry for each namespace.
fn addresses(number: u16, domain: &DomainConfig) -> Vec<(u16, [u8; 4], [u8; 4], String)> {
    let all = ["*".to_owned()];
    let of = |Addresses { range, namespaces }: &Addresses| {
        let patterns = if namespaces.is_empty() { all.as_slice() } else { namespaces };
        let entry = |pattern: &String| (number, range.first.octets(), range.last.octets(), pattern.clone());
        patterns.iter().map(entry).collect::<Vec<_>>()
    };
    domain.addresses.iter().flat_map(of).collect()
}

/// Adds the uplink, unless another domain has it already.
fn add_uplink(uplinks: &mut Vec<(u32, Uplink)>, number: u16, interface: &Interface) {
    let Interface { index, mac, address, broadcast, .. } = *interface;
    if uplinks.iter().all(|(known, _)| *known != index) {
        uplinks.push((index, Uplink { address, broadcast, mac, domain: number }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eth0() -> Interface {
        Interface {
            index: 7,
            mac: [2; 6],
            address: [172, 23, 0, 10],
            broadcast: [172, 23, 0, 255],
            networks: vec![Network { address: [172, 23, 0, 10], prefix: 24 }],
        }
    }

    fn config(names: &[&str]) -> Config {
        let section = |name: &&str| {
            format!(
                "[domain.{name}]\nuplink = \"eth-{name}\"\nprotocols = [\"ca\"]\nlan = [\"172.24.0.0/16\"]\n"
            )
        };
        Config::parse(&names.iter().map(section).collect::<String>()).unwrap()
    }

    #[test]
    fn a_domain_with_an_uplink_relays_both_ways() {
        let plan = plan(&config(&["bl07"]), Present::default(), |_| Some(eth0()));
        assert_eq!(abi::text(&plan.domains[0].1.name), "bl07");
        assert_eq!(plan.domains[0].1.uplink, 7);
        assert_eq!(plan.uplinks[0].1.address, [172, 23, 0, 10]);
        assert_eq!(plan.lan_relays[0].0, RelayKey { scope: 7, port: 5064, reserved: 0 });
        assert_eq!(plan.pod_relays[0].0, RelayKey { scope: 0, port: 5064, reserved: 0 });
        assert_eq!(plan.lan_relays[0].1.flags, paths::SEARCH);
    }

    #[test]
    fn pins_are_apart_from_the_ports_that_pods_get_without_asking() {
        let range = |line: &str| {
            let config = Config::parse(&format!("[domain.a]\nuplink = \"eth0\"\n{line}")).unwrap();
            let Domain { first_pin, last_pin, .. } = plan(&config, Present::default(), |_| None).domains[0].1;
            first_pin..=last_pin
        };
        assert_eq!(range(""), 65000..=65535);
        assert!(range("ports = \"61000-65535\"").is_empty());
        assert_eq!(range("pins = \"15000-15999\""), 15000..=15999);
    }

    #[test]
    fn a_domain_without_its_uplink_still_joins_its_pods() {
        let plan = plan(&config(&["bl07"]), Present::default(), |_| None);
        assert_eq!((plan.uplinks.len(), plan.lan_relays.len(), plan.pod_relays.len()), (0, 0, 2));
        assert_eq!(plan.domains[0].1.uplink, 0);
    }

    #[test]
    fn domains_keep_their_numbers_and_removed_ones_are_cleared() {
        let first = plan(&config(&["b", "c"]), Present::default(), |_| None).domains;
        let present = Present { domains: &first, ..Present::default() };
        let second = plan(&config(&["a", "c"]), present, |_| None).domains;
        let number = |name: &str| {
            second.iter().find(|(_, domain)| abi::text(&domain.name) == name).map(|(number, _)| *number)
        };
        assert_eq!((number("a"), number("c")), (Some(2), Some(1)));
        assert!(second.contains(&(0, NO_DOMAIN)), "{second:?}");
    }

    #[test]
    fn a_number_that_pods_are_members_of_goes_to_nobody_else() {
        let present = Present { members: &[0, 1], ..Present::default() };
        let domains = plan(&config(&["new"]), present, |_| None).domains;
        assert_eq!(domains[0].0, 2, "pods of a removed domain must not wake up in another");
        let all: Vec<u16> = (0..16).collect();
        let present = Present { members: &all, ..Present::default() };
        assert_eq!(plan(&config(&["new"]), present, |_| None).domains, []);
    }

    #[test]
    fn domains_share_the_table_of_external_ports() {
        let names: Vec<_> = (0..16).map(|number| format!("d{number}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let ports = |names: &[&str], members: &[u16]| {
            let present = Present { members, ..Present::default() };
            plan(&config(names), present, |_| None).domains[0].1.ports
        };
        assert_eq!(ports(&names[..1], &[]), 4000, "the range is what there is");
        assert_eq!(ports(&names, &[]), abi::share_of(16));
        assert_eq!(
            ports(&names[..8], &(8..16).collect::<Vec<_>>()),
            abi::share_of(16),
            "with members of removed ones"
        );
    }

    #[test]
    fn two_domains_on_one_uplink_share_its_entry() {
        let plan = plan(&config(&["a", "b"]), Present::default(), |_| Some(eth0()));
        assert_eq!(plan.uplinks.len(), 1);
    }

    #[test]
    fn a_port_on_the_lan_stands_for_another_in_pods() {
        let text = "[domain.a]\nuplink = \"eth0\"\nprotocols = [\"pva\"]\nlan_ports = { 5076 = 8076 }";
        let plan = plan(&Config::parse(text).unwrap(), Present::default(), |_| Some(eth0()));
        let ports = |relays: &[(RelayKey, Relay)]| {
            relays.iter().map(|(key, to)| (key.port, to.port)).collect::<Vec<_>>()
        };
        assert_eq!(
            (ports(&plan.lan_relays), ports(&plan.pod_relays)),
            (vec![(8076, 5076)], vec![(5076, 8076)])
        );
    }

    #[test]
    fn described_protocols_keep_their_numbers() {
        let text = |protocols: &str| format!("[domain.a]\nuplink = \"eth0\"\nprotocols = [{protocols}]");
        let numbers = |protocols, present: &[Described]| {
            let config = Config::parse(&text(protocols)).unwrap();
            let plan = plan(&config, Present { described: present, ..Present::default() }, |_| Some(eth0()));
            let names = plan.described.iter().map(|described| abi::text(&described.name).to_owned());
            let relays = plan.pod_relays.iter().map(|(key, relay)| (key.port, relay.protocol));
            (names.take(2).collect::<Vec<_>>(), relays.collect::<Vec<_>>(), plan.described)
        };
        let first = abi::DESCRIBED as u16;
        let (names, relays, present) = numbers("\"recsync\"", &[]);
        assert_eq!((names, relays), (vec!["recsync".into(), String::new()], vec![(5049, first)]));
        let (names, relays, present) = numbers("\"ads\", \"recsync\"", &present);
        assert_eq!(names, ["recsync", "ads"]);
        assert_eq!(relays, [(48899, first + 1), (5049, first)]);
        assert_eq!(numbers("\"ads\"", &present).0, ["", "ads"]);
    }

    #[test]
    fn connected_and_configured_networks_are_lan() {
        let plan = plan(&config(&["a"]), Present::default(), |_| Some(eth0()));
        let both = lan::HOSTS | lan::CAMERAS;
        assert_eq!(plan.networks, [(0, [172, 23, 0, 10], 24, both), (0, [172, 24, 0, 0], 16, both)]);
    }

    #[test]
    fn groups_are_relayed_at_their_ports_and_joined_once_by_the_uplink() {
        let text = "[domain.a]\nuplink = \"eth0\"\nprotocols = [\"pva\", \"ssdp\", \"ws-discovery\"]\n\
                    groups = { 5076 = [\"224.0.2.3\"] }\nlan_ports = { 5076 = 8076 }";
        let plan = plan(&Config::parse(text).unwrap(), Present::default(), |_| Some(eth0()));
        let both = [239, 255, 255, 250];
        let keys =
            |group, port, on_lan| [GroupKey::of_pods(0, group, port), GroupKey::on_lan(7, group, on_lan)];
        let expected = [keys([224, 0, 2, 3], 5076, 8076), keys(both, 1900, 1900), keys(both, 3702, 3702)];
        assert_eq!(plan.groups, expected.concat());
        let joins: Vec<_> = plan.joins.iter().map(|(index, group)| (*index, group.octets())).collect();
        assert_eq!(joins, [(7, [224, 0, 2, 3]), (7, both)]);
    }

    #[test]
    fn addresses_are_given_to_all_namespaces_or_to_some() {
        let text = "[domain.a]\nuplink = \"eth0\"\npath = \"direct\"\naddresses = [\"172.23.0.50\", \
                    { range = \"172.23.0.60/31\", namespaces = [\"bl07\", \"vac-*\"] }]";
        let plan = plan(&Config::parse(text).unwrap(), Present::default(), |_| Some(eth0()));
        let entry =
            |first, last, pattern: &str| (0, [172, 23, 0, first], [172, 23, 0, last], pattern.to_owned());
        assert_eq!(plan.addresses, [entry(50, 50, "*"), entry(60, 61, "bl07"), entry(60, 61, "vac-*")]);
        assert_eq!(plan.domains[0].1.direct, 1);
    }

    #[test]
    fn cameras_are_commanded_where_the_domain_says() {
        let text = "[domain.a]\nuplink = \"eth0\"\nprotocols = [\"gvcp\"]\ncameras = [\"172.23.0.128/25\", \"10.1.0.0/16\"]";
        let plan = plan(&Config::parse(text).unwrap(), Present::default(), |_| Some(eth0()));
        let both = lan::HOSTS | lan::CAMERAS;
        let expected = [
            (0, [172, 23, 0, 10], 24, lan::HOSTS),
            (0, [172, 23, 0, 128], 25, both),
            (0, [10, 1, 0, 0], 16, both),
        ];
        assert_eq!(plan.networks, expected);
        assert_eq!(
            plan.external_ports,
            [(61000, 64999), (3956, 3956)],
            "a camera in a pod has the port of cameras"
        );
    }
}
