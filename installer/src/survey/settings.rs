//! EPICS settings that name addresses and ports, and what becomes of each when a pod leaves the node's network. No other variable
//! is known by name, so none is ever read.

use std::net::{Ipv4Addr, SocketAddrV4};

use view::survey::Setting;

use super::facts::{CA, Facts, Holder, Lan, PVA, PVA_SEARCH};

/// Entries of a list that are looked at, and characters of each that are shown.
const ENTRIES: usize = 64;
const SHOWN: usize = 64;

/// What a variable is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Where a client sends its searches.
    Searches,
    /// Where a server announces itself.
    Beacons,
    /// Servers that a client asks by TCP.
    NameServers,
    /// Where a server listens.
    Listens,
    /// Whether addresses of interfaces are added to the list of this name.
    Adds(&'static str),
    /// The port at which a server of Channel Access is searched, by UDP and TCP, or of PV Access by UDP.
    SearchPort(u16, &'static str),
    /// Another port.
    Port(u16),
}

const VARIABLES: &[(&str, Use)] = &[
    ("EPICS_CA_ADDR_LIST", Use::Searches),
    ("EPICS_CA_AUTO_ADDR_LIST", Use::Adds("EPICS_CA_ADDR_LIST")),
    ("EPICS_CA_NAME_SERVERS", Use::NameServers),
    ("EPICS_CA_SERVER_PORT", Use::SearchPort(CA, "ca")),
    ("EPICS_CA_REPEATER_PORT", Use::Port(5065)),
    ("EPICS_CAS_INTF_ADDR_LIST", Use::Listens),
    ("EPICS_CAS_BEACON_ADDR_LIST", Use::Beacons),
    ("EPICS_CAS_AUTO_BEACON_ADDR_LIST", Use::Adds("EPICS_CAS_BEACON_ADDR_LIST")),
    ("EPICS_CAS_SERVER_PORT", Use::SearchPort(CA, "ca")),
    ("EPICS_CAS_BEACON_PORT", Use::Port(5065)),
    ("EPICS_PVA_ADDR_LIST", Use::Searches),
    ("EPICS_PVA_AUTO_ADDR_LIST", Use::Adds("EPICS_PVA_ADDR_LIST")),
    ("EPICS_PVA_NAME_SERVERS", Use::NameServers),
    ("EPICS_PVA_BROADCAST_PORT", Use::SearchPort(PVA_SEARCH, "pva")),
    ("EPICS_PVA_SERVER_PORT", Use::Port(PVA)),
    ("EPICS_PVAS_INTF_ADDR_LIST", Use::Listens),
    ("EPICS_PVAS_BEACON_ADDR_LIST", Use::Beacons),
    ("EPICS_PVAS_AUTO_BEACON_ADDR_LIST", Use::Adds("EPICS_PVAS_BEACON_ADDR_LIST")),
    ("EPICS_PVAS_BROADCAST_PORT", Use::SearchPort(PVA_SEARCH, "pva")),
    ("EPICS_PVAS_SERVER_PORT", Use::Port(PVA)),
];

/// What an address is to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Loopback,
    Node,
    /// All addresses: of a server; of a client that sends there, itself.
    Any,
    /// The LAN's broadcast address, or that of any network, and the port if that is not relayed.
    Everybody(Option<u16>),
    /// The broadcast address of another interface.
    Elsewhere(String),
    Group(SocketAddrV4),
    /// A host on the LAN, or behind a router.
    Host,
    Name,
}

/// Whether a variable is one of those that are looked at.
pub(super) fn is_known(variable: &str) -> bool {
    VARIABLES.iter().any(|(name, _)| *name == variable)
}

/// The ports at which a pod's servers listen because they are told to.
pub(super) fn server_ports(holder: &Holder) -> impl Iterator<Item = u16> {
    let is_servers = |name: &str| name.starts_with("EPICS_") && name.ends_with("SERVER_PORT");
    holder
        .settings
        .iter()
        .filter(move |(name, _)| is_servers(name))
        .filter_map(|(_, value)| value.trim().parse().ok())
}

/// What becomes of each entry of a pod's settings on this LAN.
pub(super) fn judge(holder: &Holder, facts: &Facts, lan: &Lan) -> Vec<Setting> {
    let fates = |(variable, value): &(String, String)| {
        let used = VARIABLES.iter().find(|(name, _)| name == variable).map(|(_, used)| *used);
        let entries = used
            .into_iter()
            .flat_map(|used| entries(used, value).into_iter().map(move |entry| (used, entry)));
        let fate = |(used, entry): (Use, String)| {
            let (works, becomes) = becomes(used, &entry, holder, facts, lan)?;
            Some(Setting { variable: variable.clone(), entry: shown(&entry), works, becomes })
        };
        entries.filter_map(fate).collect::<Vec<_>>()
    };
    holder.settings.iter().flat_map(fates).collect()
}

/// The entries of a value.
fn entries(used: Use, value: &str) -> Vec<String> {
    match used {
        Use::Searches | Use::Beacons | Use::NameServers | Use::Listens => {
            value.split_whitespace().take(ENTRIES).map(str::to_owned).collect()
        }
        Use::Adds(_) | Use::SearchPort(..) | Use::Port(_) => vec![value.trim().to_owned()],
    }
}

/// What is shown of an entry: what is no address may be something that was written there by mistake.
fn shown(entry: &str) -> String {
    let is_address = |c: char| c.is_ascii_alphanumeric() || ".:-_[]@,".contains(c);
    if entry.len() <= SHOWN && entry.chars().all(is_address) { entry.into() } else { "(no address)".into() }
}

/// Whether an entry does what it did, and what becomes of it; none if there is nothing to say.
fn becomes(used: Use, entry: &str, holder: &Holder, facts: &Facts, lan: &Lan) -> Option<(bool, String)> {
    let said = |works: bool, text: &str| Some((works, text.to_owned()));
    match used {
        Use::Searches | Use::Beacons => list_entry(used == Use::Searches, &place(entry, facts, lan), lan),
        Use::NameServers => match place(entry, facts, lan) {
            Place::Loopback | Place::Any => {
                said(false, "is the pod itself then; name the server's own address, or remove it")
            }
            Place::Node => said(
                false,
                "is this node: a server that moves has another port there; remove it, broadcasts find the server",
            ),
            Place::Name => said(true, "is not looked up here; it must not lead to this node"),
            _ => said(true, "is a server elsewhere"),
        },
        Use::Listens => match place(entry, facts, lan) {
            Place::Loopback => {
                said(false, "is heard by the pod alone then, and now by this node; remove it to be heard")
            }
            Place::Name => said(false, "is not looked up here; remove it: a pod has one address"),
            Place::Group(_) => list_entry(false, &place(entry, facts, lan), lan),
            Place::Any => None,
            _ => said(false, "is no address of the pod's, so the server would not start; remove it"),
        },
        Use::Adds(list) => adds(list, entry, holder, facts, lan),
        Use::SearchPort(usual, _) if entry == usual.to_string() => None,
        Use::SearchPort(usual, protocol) => match entry.parse::<u16>() {
            Ok(port) if lan.ports.contains_key(&port) => said(true, "is relayed in this domain"),
            Ok(port) => Some((
                false,
                format!(
                    "is not relayed; remove it: a pod has port {usual} to itself; or, in the domain: search_ports = {{ {port} = \
                     \"{protocol}\" }}"
                ),
            )),
            Err(_) => said(false, "is no port"),
        },
        Use::Port(usual) if entry == usual.to_string() => None,
        Use::Port(_) => said(true, "is the pod's own; on the LAN an external port stands for it"),
    }
}

/// What becomes of an entry in a list of those to whom something is sent.
fn list_entry(searches: bool, place: &Place, lan: &Lan) -> Option<(bool, String)> {
    let (works, text): (bool, String) = match place {
        Place::Loopback | Place::Any if searches => {
            (false, "is the pod alone then; remove it: broadcasts find the node's IOCs and the pods".into())
        }
        Place::Node if searches => (
            false,
            "is this node: it finds those on the node's network, and no pod; remove it: broadcasts find both"
                .into(),
        ),
        Place::Loopback | Place::Any | Place::Node => {
            (false, "reaches no client on the LAN; remove it".into())
        }
        Place::Everybody(None) => (true, "works as before".into()),
        Place::Everybody(Some(port)) => (
            false,
            format!(
                "is not relayed at port {port}: remove it, or list the port in the domain's search_ports"
            ),
        ),
        Place::Elsewhere(interface) => (
            false,
            format!("is the network of {interface}, which the pod is not on; remove it, or let the pod stay"),
        ),
        Place::Group(group) if lan.groups.contains(&(*group.ip(), group.port())) => {
            (true, "is relayed in this domain".into())
        }
        Place::Group(group) => {
            let port = if group.port() == 0 { PVA_SEARCH } else { group.port() };
            (false, format!("is not relayed; in the domain: groups = {{ {port} = \"{}\" }}", group.ip()))
        }
        Place::Host => (true, "works as before".into()),
        Place::Name => (true, "is not looked up here; it must not lead to this node".into()),
    };
    Some((works, text))
}

/// What becomes of a list to which no interfaces are added.
fn adds(list: &str, entry: &str, holder: &Holder, facts: &Facts, lan: &Lan) -> Option<(bool, String)> {
    if !entry.eq_ignore_ascii_case("no") {
        return None;
    }
    let listed = holder.settings.iter().filter(|(name, _)| name == list);
    let listed = listed.flat_map(|(_, value)| entries(Use::Searches, value));
    let is_left = listed.map(|entry| place(&entry, facts, lan)).any(|place| {
        let searches = !list.contains("BEACON");
        list_entry(searches, &place, lan).is_some_and(|(works, _)| works)
    });
    (!is_left).then(|| (false, format!("leaves nothing of {list} then; remove it")))
}

/// What an entry of a list is: an address or a name, with a port or not; of PV Access with `,TTL@INTERFACE`.
fn place(entry: &str, facts: &Facts, lan: &Lan) -> Place {
    let entry = entry.split([',', '@']).next().unwrap_or_default();
    let (host, port) = entry.split_once(':').unwrap_or((entry, ""));
    let Ok(address) = host.parse::<Ipv4Addr>() else {
        return if host.eq_ignore_ascii_case("localhost") { Place::Loopback } else { Place::Name };
    };
    match facts.interface_of(address) {
        _ if address.is_loopback() => Place::Loopback,
        _ if address.is_unspecified() => Place::Any,
        _ if address.is_multicast() => {
            Place::Group(SocketAddrV4::new(address, port.parse().unwrap_or(PVA_SEARCH)))
        }
        _ if address == lan.broadcast || address.is_broadcast() => {
            Place::Everybody(port.parse().ok().filter(|port| !lan.ports.contains_key(port)))
        }
        Some(own) if own.address.address != address => Place::Elsewhere(own.interface.clone()),
        Some(_) => Place::Node,
        None => Place::Host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::sample::{facts, lan};

    fn judged(settings: &[(&str, &str)]) -> Vec<(String, bool, String)> {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let holder = Holder { settings: settings.collect(), ..Holder::default() };
        let found = judge(&holder, &facts(), &lan());
        found.into_iter().map(|Setting { entry, works, becomes, .. }| (entry, works, becomes)).collect()
    }

    #[test]
    fn every_kind_of_entry_has_its_fate() {
        for (variable, entry, works, says) in [
            ("EPICS_CA_ADDR_LIST", "172.23.0.255", true, "as before"),
            ("EPICS_CA_ADDR_LIST", "255.255.255.255", true, "as before"),
            ("EPICS_CA_ADDR_LIST", "172.23.0.255:9064", false, "is not relayed at port 9064"),
            ("EPICS_CA_ADDR_LIST", "255.255.255.255:9064", false, "is not relayed at port 9064"),
            ("EPICS_CA_ADDR_LIST", "172.23.0.255:5064", true, "as before"),
            ("EPICS_CA_ADDR_LIST", "172.23.0.3", true, "as before"),
            ("EPICS_CA_ADDR_LIST", "172.23.0.3:5066", true, "as before"),
            ("EPICS_CA_ADDR_LIST", "10.9.9.9", true, "as before"),
            ("EPICS_CA_ADDR_LIST", "172.23.0.10", false, "is this node"),
            ("EPICS_CA_ADDR_LIST", "172.23.0.10:5064", false, "is this node"),
            ("EPICS_CA_ADDR_LIST", "192.168.250.1", false, "is this node"),
            ("EPICS_CA_ADDR_LIST", "192.168.250.255", false, "the network of eth1"),
            ("EPICS_CA_ADDR_LIST", "localhost", false, "the pod alone"),
            ("EPICS_CA_ADDR_LIST", "127.0.0.1", false, "the pod alone"),
            ("EPICS_CA_ADDR_LIST", "ioc-host.example", true, "not looked up"),
            ("EPICS_PVA_ADDR_LIST", "224.0.2.3@eth0", false, "groups = { 5076 = \"224.0.2.3\" }"),
            ("EPICS_PVA_ADDR_LIST", "224.0.2.3,1@eth0", false, "groups = { 5076 = \"224.0.2.3\" }"),
            ("EPICS_PVA_ADDR_LIST", "224.0.5.5:5076", true, "is relayed"),
            ("EPICS_CAS_BEACON_ADDR_LIST", "172.23.0.255", true, "as before"),
            ("EPICS_CAS_BEACON_ADDR_LIST", "127.0.0.1", false, "no client"),
            ("EPICS_CA_NAME_SERVERS", "172.23.0.10:5064", false, "another port"),
            ("EPICS_PVA_NAME_SERVERS", "172.23.0.3:5075", true, "elsewhere"),
            ("EPICS_CAS_INTF_ADDR_LIST", "172.23.0.10", false, "would not start"),
            ("EPICS_CAS_INTF_ADDR_LIST", "127.0.0.1", false, "by the pod alone"),
            ("EPICS_CAS_SERVER_PORT", "5066", false, "search_ports = { 5066 = \"ca\" }"),
            ("EPICS_CAS_SERVER_PORT", "8064", true, "is relayed"),
            ("EPICS_PVAS_BROADCAST_PORT", "5077", false, "search_ports = { 5077 = \"pva\" }"),
            ("EPICS_PVAS_SERVER_PORT", "5080", true, "the pod's own"),
            ("EPICS_CA_AUTO_ADDR_LIST", "NO", false, "leaves nothing of EPICS_CA_ADDR_LIST"),
        ] {
            let found = judged(&[(variable, entry)]);
            assert_eq!(found.len(), 1, "{variable}={entry}: {found:?}");
            assert!(found[0].1 == works && found[0].2.contains(says), "{variable}={entry}: {found:?}");
        }
    }

    #[test]
    fn defaults_are_not_mentioned() {
        for (variable, value) in [
            ("EPICS_CAS_SERVER_PORT", "5064"),
            ("EPICS_CA_AUTO_ADDR_LIST", "YES"),
            ("EPICS_CA_ADDR_LIST", " "),
            ("EPICS_CAS_INTF_ADDR_LIST", "0.0.0.0"),
        ] {
            assert_eq!(judged(&[(variable, value)]), [], "{variable}");
        }
    }

    #[test]
    fn a_list_keeps_its_only_entry_if_that_works() {
        let no = ("EPICS_CA_AUTO_ADDR_LIST", "NO");
        assert_eq!(judged(&[no, ("EPICS_CA_ADDR_LIST", "127.0.0.1 172.23.0.255")]).len(), 2);
        assert_eq!(judged(&[no, ("EPICS_CA_ADDR_LIST", "127.0.0.1\n172.23.0.10")]).len(), 3);
    }

    #[test]
    fn what_is_no_address_is_not_shown() {
        let found = judged(&[("EPICS_CA_ADDR_LIST", "pass;word")]);
        assert_eq!(found[0].0, "(no address)");
        assert_eq!(judged(&[("EPICS_CA_ADDR_LIST", &"a".repeat(65))])[0].0, "(no address)");
    }

    #[test]
    fn a_list_is_read_to_a_bound() {
        assert_eq!(judged(&[("EPICS_CA_ADDR_LIST", &"10.0.0.1 ".repeat(1000))]).len(), ENTRIES);
    }
}
