//! From facts to findings: pure, no I/O. Every finding says what was found; one that is not OK says what to do.

use std::{collections::BTreeMap, net::Ipv4Addr};

use datapath::{FAN_DEVICE, Hook, Occupant, printable};
use view::{
    Duplicates, Server,
    doctor::{Finding, Level},
};

use super::facts::{Addressed, Fact, Facts, Interface, Member, Network, Uplink};
use crate::{
    absent::Absent,
    cni::conflist::PLUGIN,
    config::{Config, DomainConfig, Ports},
    protocol::DomainProtocol,
    relay::{Report, State},
    reserve,
};

/// An interface's MTU below which searches of libca (1024 bytes in a datagram) do not fit, with IP and UDP headers.
const LEAST_MTU: u32 = 1024 + 28;
/// The same for PVXS (1400 bytes).
const GOOD_MTU: u32 = 1400 + 28;
/// PVs with several servers that are named.
const NAMED: usize = 3;
/// How the finding begins that something could not be checked.
const UNKNOWN: &str = "cannot be checked";
/// The ports of NodePort Services, unless kube-apiserver is told others.
const NODE_PORTS: Ports = Ports { first: 30000, last: 32767 };

/// All findings, in the order in which a person would check.
pub(super) fn diagnose(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        kernel(facts),
        plain("bpffs", &facts.bpffs, "is mounted"),
        datapath(facts),
        fan(&facts.fan),
        plain("configuration", &facts.config, "is valid"),
    ];
    findings.extend(facts.uplinks.iter().flat_map(uplink));
    findings.extend(ports(facts));
    findings.extend(pins(&facts.conflicts));
    findings.push(forwarding(&facts.forwarding));
    findings.push(forward_policy(facts));
    findings.extend(addresses(&facts.addresses));
    findings.extend(facts.members.iter().flatten().flat_map(addressed));
    findings.extend(members(&facts.members));
    findings.extend(names(&facts.members));
    findings.extend(groups(&facts.config, &facts.members));
    findings.extend(absent(&facts.absent));
    findings.extend(duplicates(&facts.duplicates));
    findings.extend(subnets(&facts.config, &facts.subnets));
    findings.push(chain(&facts.network));
    findings.push(plugin(facts));
    if facts.uplinks.iter().any(has_hidden_neighbours) {
        findings.push(ok(
            "neighbours",
            "programs of others on the uplinks are hidden without CAP_SYS_ADMIN: root on the node sees them",
        ));
    }
    if findings.iter().any(is_unknown) {
        findings.push(warn("rights", "not everything could be checked", "run doctor as root on the node"));
    }
    findings
}

fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { level: Level::Ok, check: check.into(), found: found.into(), advice: None }
}

fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { level: Level::Warn, check: check.into(), found: found.into(), advice: Some(advice.into()) }
}

fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { level: Level::Fail, check: check.into(), found: found.into(), advice: Some(advice.into()) }
}

/// A failure whose message already says what to do.
fn passed_on(check: &'static str, error: &str) -> Finding {
    Finding { level: Level::Fail, check: check.into(), found: error.into(), advice: None }
}

/// What could not be checked.
fn unknown(check: &'static str, error: &str) -> Finding {
    Finding { level: Level::Warn, check: check.into(), found: format!("{UNKNOWN}: {error}"), advice: None }
}

fn is_unknown(finding: &Finding) -> bool {
    finding.level == Level::Warn && finding.found.starts_with(UNKNOWN)
}

fn plain<T>(check: &'static str, fact: &Fact<T>, good: &str) -> Finding {
    match fact {
        Ok(_) => ok(check, good),
        Err(error) => passed_on(check, error),
    }
}

fn kernel(facts: &Facts) -> Finding {
    match &facts.kernel {
        Ok(()) => ok("kernel", format!("{} has all required BPF helpers", facts.release)),
        Err(error) => passed_on("kernel", &format!("{}: {error}", facts.release)),
    }
}

fn datapath(facts: &Facts) -> Finding {
    match &facts.datapath {
        Err(error) => passed_on("datapath", error),
        Ok(()) if !facts.other_schemas.is_empty() => warn(
            "datapath",
            format!("schema {} is loaded next to {}", abi::SCHEMA, facts.other_schemas.join(", ")),
            "recreate the pods that joined under the other one",
        ),
        Ok(()) => ok("datapath", format!("schema {} is loaded", abi::SCHEMA)),
    }
}

fn fan(fan: &Fact<Option<(bool, bool)>>) -> Finding {
    let broken =
        |what: &str| fail("fan", format!("{FAN_DEVICE} {what}"), "iocast-node run repairs it within seconds");
    match fan {
        Err(error) => unknown("fan", error),
        Ok(None) => broken("does not exist"),
        Ok(Some((false, _))) => broken("is down"),
        Ok(Some((_, false))) => broken("has no program"),
        Ok(Some((true, true))) => ok("fan", format!("{FAN_DEVICE} is up, program attached")),
    }
}

fn uplink(uplink: &Uplink) -> Vec<Finding> {
    let Uplink { domain, name, found } = uplink;
    let what = format!("domain `{domain}`: uplink {name}");
    let set = "set `uplink` to the node's interface on that LAN";
    let interface = match found {
        Err(error) => return vec![unknown("uplink", &format!("{what}: {error}"))],
        Ok(None) => return vec![fail("uplink", format!("{what} does not exist"), set)],
        Ok(Some(interface)) => interface,
    };
    let state = match (interface.fault, interface.address) {
        (Some(fault), _) => fail("uplink", format!("{what} {fault}"), fault.advice(&interface.name)),
        (_, address) => ok("uplink", format!("{what} has {}", address.unwrap_or(Ipv4Addr::UNSPECIFIED))),
    };
    let hooks = interface.hooks.iter().flat_map(|(hook, attached, occupants)| {
        [program(&what, *hook, *attached)].into_iter().chain(neighbours(&what, *hook, occupants.as_deref()))
    });
    let bridge = tracked_bridge(&what, interface);
    [state].into_iter().chain(bridge).chain(hooks).chain([return_path(&what, interface)]).collect()
}

fn program(what: &str, hook: Hook, attached: bool) -> Finding {
    let said = format!("{what}, {hook}: iocast's program");
    if attached {
        ok("programs", format!("{said} is attached"))
    } else {
        fail("programs", format!("{said} is not attached"), "iocast-node run attaches it within seconds")
    }
}

/// What else is attached to a hook of an uplink. A program before ours may end the chain, so that ours sees nothing.
fn neighbours(what: &str, hook: Hook, occupants: Option<&[Occupant]>) -> Option<Finding> {
    let occupants = occupants?;
    let names =
        |list: &[Occupant]| list.iter().map(|other| other.name.as_str()).collect::<Vec<_>>().join(", ");
    let ours = occupants.iter().position(|occupant| occupant.ours)?;
    let (before, after) = (&occupants[..ours], &occupants[ours + 1..]);
    if before.is_empty() && after.is_empty() {
        return None;
    }
    let found = format!("{what}, {hook}: before iocast: [{}], after it: [{}]", names(before), names(after));
    Some(if before.is_empty() {
        ok("neighbours", found)
    } else {
        warn("neighbours", found, "iocast should come first: attach the other program after it")
    })
}

fn has_hidden_neighbours(uplink: &Uplink) -> bool {
    let Ok(Some(interface)) = &uplink.found else { return false };
    interface.hooks.iter().any(|(.., occupants)| occupants.is_none())
}

/// Whether conntrack sees connections before they are translated: they would fail.
fn tracked_bridge(what: &str, interface: &Interface) -> Option<Finding> {
    let found = || format!("{what} is a bridge, and conntrack sees packets at its ports");
    interface.tracked_bridge.then(|| {
        fail(
            "uplink",
            found(),
            "set net.bridge.bridge-nf-call-iptables=0, or use an interface that is not a bridge",
        )
    })
}

/// Whether answers to LAN clients leave through the interface that the request came in on.
fn return_path(what: &str, interface: &Interface) -> Finding {
    let mode = match &interface.rp_filter {
        Err(error) => return unknown("return path", error),
        Ok(0) => "rp_filter is off",
        Ok(1) => "rp_filter is strict",
        Ok(_) => "rp_filter is loose",
    };
    if interface.elsewhere.is_empty() {
        return ok("return path", format!("{what}: {mode}, answers to its LAN leave through it"));
    }
    let others: Vec<_> =
        interface.elsewhere.iter().map(|(host, name)| format!("{host} through {name}")).collect();
    let drops = if interface.rp_filter == Ok(1) { ", so the kernel drops packets from there" } else { "" };
    warn(
        "return path",
        format!(
            "{what}: {mode}, but some answers would leave through another interface ({}){drops}",
            others.join(", ")
        ),
        "route these networks through the uplink, or remove them from `lan`",
    )
}

/// Whether the kernel could assign external ports to the node's own sockets.
fn ports(facts: &Facts) -> Vec<Finding> {
    let (Ok(config), Ok(local)) = (&facts.config, &facts.local_ports) else { return vec![] };
    let reserved = match &facts.reserved_ports {
        Ok(reserved) => reserved,
        Err(error) => return vec![unknown("ports", error)],
    };
    let check = |(name, ports): (&str, Ports)| {
        let found = format!("domain `{name}`: external ports {}-{}", ports.first, ports.last);
        if reserve::are_reserved(reserved, ports) {
            ok("ports", format!("{found} are reserved"))
        } else if ports.first <= local.last && local.first <= ports.last {
            let range = format!("{}-{}", local.first, local.last);
            fail(
                "ports",
                format!("{found} are not reserved, and the node's own connections use {range}"),
                "reserve them in net.ipv4.ip_local_reserved_ports (iocast-node run does, where it is allowed to)",
            )
        } else {
            ok("ports", format!("{found} are none that the node's own connections use"))
        }
    };
    let all: Vec<_> = config
        .domains
        .iter()
        .flat_map(|domain| domain.ranges().map(|ports| (domain.name.as_str(), ports)))
        .collect();
    all.iter().copied().map(check).chain(all.iter().filter_map(node_ports)).collect()
}

/// Whether Kubernetes may assign ports of a domain to Services.
fn node_ports((name, ports): &(&str, Ports)) -> Option<Finding> {
    let overlap = ports.first <= NODE_PORTS.last && NODE_PORTS.first <= ports.last;
    let Ports { first, last } = NODE_PORTS;
    overlap.then(|| {
        warn(
            "ports",
            format!(
                "domain `{name}`: ports {}-{} overlap those of NodePort Services, by default {first}-{last}",
                ports.first, ports.last
            ),
            "choose others, or none that kube-apiserver's --service-node-port-range has",
        )
    })
}

/// Pinned ports that lead to a pod and were to lead elsewhere.
fn pins(conflicts: &Fact<Vec<String>>) -> Vec<Finding> {
    let advice = "LAN clients reach the pod: let the pod pin another port, or move the other";
    match conflicts {
        Err(error) => vec![unknown("pins", error)],
        Ok(found) => found.iter().map(|found| warn("pins", found, advice)).collect(),
    }
}

fn forwarding(forwarding: &Fact<bool>) -> Finding {
    match forwarding {
        Err(error) => unknown("forwarding", error),
        Ok(true) => ok("forwarding", "net.ipv4.ip_forward is 1"),
        Ok(false) => fail(
            "forwarding",
            "net.ipv4.ip_forward is 0: no packet from the LAN reaches a pod",
            "set it to 1; the pod network needs it too",
        ),
    }
}

/// Circuits pass the node's FORWARD rules. Only policies are read: a person has to check whether a rule accepts.
fn forward_policy(facts: &Facts) -> Finding {
    const CHECK: &str = "firewall";
    let chains = match &facts.forward_chains {
        Err(error) => return unknown(CHECK, error),
        Ok(chains) => chains,
    };
    let dropping: Vec<_> = chains
        .iter()
        .filter(|chain| chain.drops)
        .map(|chain| format!("{} {}", chain.table, chain.name))
        .collect();
    if !dropping.is_empty() {
        return warn(
            CHECK,
            format!("policy drop on the forward hook (nf_tables): {}", dropping.join(", ")),
            "make sure that a rule accepts connections from the LAN to pods",
        );
    }
    if facts.legacy_filter {
        return warn(
            CHECK,
            "legacy iptables has a filter table, whose policy doctor cannot read",
            "check `iptables-legacy -S FORWARD`: its policy should be ACCEPT, or a rule should accept connections from the LAN",
        );
    }
    ok(CHECK, format!("no policy drops forwarded packets ({} nf_tables chains checked)", chains.len()))
}

/// LAN addresses that other hosts claim, or that are on no LAN any more. What is found says what to do.
fn addresses(addresses: &Fact<Vec<String>>) -> Vec<Finding> {
    match addresses {
        Err(error) => vec![unknown("addresses", error)],
        Ok(found) => {
            found.iter().map(|found| Finding { advice: None, ..warn("addresses", found, "") }).collect()
        }
    }
}

/// What of the node may come between a LAN address and its pod.
fn addressed(Member { pod, addressed, .. }: &Member) -> Vec<Finding> {
    let Some(Addressed { address, direct, elsewhere, masquerade, others }) = addressed else { return vec![] };
    let what = format!("{pod}: packets");
    let route = elsewhere.as_ref().map(|device| {
        warn(
            "addresses",
            format!(
                "{what} to {address} would leave through {device}, and a strict rp_filter drops those from it"
            ),
            "another route or rule comes before the node's `proto 105` route: ip route get, ip rule",
        )
    });
    let programs = (!direct && !others.is_empty()).then(|| {
        warn(
            "addresses",
            format!("{what} from {address} pass other programs on its veth: [{}]", others.join(", ")),
            "if they drop what is not from the pod's own address, as Cilium's do, set `path = \"direct\"`",
        )
    });
    let masquerade = masquerade.as_ref().filter(|_| !direct).map(|chain| {
        warn(
            "addresses",
            format!("{what} from {address} to the LAN get the node's address, by a NAT rule ({chain})"),
            "leave the LAN's network alone there, as by ip-masq-agent's nonMasqueradeCIDRs",
        )
    });
    route.into_iter().chain(masquerade).chain(programs).collect()
}

fn members(members: &Fact<Vec<Member>>) -> Vec<Finding> {
    let members = match members {
        Err(error) => return vec![unknown("members", error)],
        Ok(members) => members,
    };
    let mut findings: Vec<_> = members.iter().filter_map(member).collect();
    let wrong = findings.iter().filter(|finding| finding.check == "members").count();
    findings.push(ok("members", format!("{} of {} are healthy", members.len() - wrong, members.len())));
    findings
}

/// Pods that declare names for which there was no room.
fn names(members: &Fact<Vec<Member>>) -> Option<Finding> {
    let pods: Vec<_> =
        members.iter().flatten().filter(|member| member.lacks_room).map(|member| &*member.pod).collect();
    let (named, most) = (pods.iter().take(NAMED).copied().collect::<Vec<_>>().join(", "), abi::OWNED);
    let more = if pods.len() > NAMED { format!(" and {} more", pods.len() - NAMED) } else { String::new() };
    (!pods.is_empty()).then(|| {
        warn(
            "names",
            format!("{named}{more}: no room for what iocast.io/pvs declares, so that all searches come to them"),
            format!("the pods of a node can declare {most} beginnings: declare fewer, shorter ones, then recreate the pods"),
        )
    })
}

/// Pods whose announcements by multicast groups name an address that only the cluster knows.
fn groups(config: &Fact<Config>, members: &Fact<Vec<Member>>) -> Vec<Finding> {
    let (Ok(config), Ok(members)) = (config, members) else { return vec![] };
    let of = |domain: &DomainConfig| {
        let protocols: Vec<_> = domain.protocols.iter().filter_map(DomainProtocol::untranslated).collect();
        let bare = members.iter().filter(|member| member.domain == domain.name && member.addressed.is_none());
        let (count, protocols) = (bare.count(), protocols.join(", "));
        (count > 0 && !protocols.is_empty()).then(|| {
            ok(
                "groups",
                format!(
                    "domain `{}`: {count} of its pods have no LAN address; what these announce by {protocols} is heard on \
                     the LAN, but names an address that it may not reach (iocast.io/address gives a pod one)",
                    domain.name
                ),
            )
        })
    };
    config.domains.iter().filter_map(of).collect()
}

/// Pods that ask for a domain in vain.
fn absent(absent: &Fact<Vec<Absent>>) -> Vec<Finding> {
    let found = |Absent { namespace, pod, domain, why }: &Absent| {
        let found = format!("{namespace}/{pod} asks for domain `{domain}` and is no member: {why}");
        Finding { level: Level::Warn, check: "members".into(), found: printable(&found), advice: None }
    };
    match absent {
        Ok(absent) => absent.iter().map(found).collect(),
        Err(error) => vec![Finding { advice: None, ..warn("members", error, "") }],
    }
}

/// PVs that several servers have: the first ones by name.
fn duplicates(found: &Fact<Option<Duplicates>>) -> Option<Finding> {
    let found = match found {
        Ok(found) => found.as_ref()?,
        Err(error) => return Some(Finding { advice: None, ..warn("duplicates", error, "") }),
    };
    let mut pvs = BTreeMap::new();
    for duplicate in &found.duplicates {
        pvs.entry(&duplicate.pv).or_insert(&duplicate.servers);
    }
    if pvs.is_empty() {
        let found = format!("no PV has more than one server, of {} that were asked for", found.names);
        return Some(ok("duplicates", found));
    }
    let servers = |servers: &Vec<Server>| {
        let server = |server: &Server| server.pod.clone().unwrap_or_else(|| server.address.to_string());
        servers.iter().map(server).collect::<Vec<_>>().join(", ")
    };
    let named = pvs.iter().take(NAMED).map(|(pv, all)| format!("{} ({})", printable(pv), servers(all)));
    let (named, more) =
        (named.collect::<Vec<_>>().join(", "), if pvs.len() > NAMED { " and others" } else { "" });
    let have = if pvs.len() == 1 { "1 PV has".to_owned() } else { format!("{} PVs have", pvs.len()) };
    Some(warn(
        "duplicates",
        format!("{have} more than one server: {named}{more}"),
        "clients get whichever answers first: stop or rename one, or allow it, see docs/duplicates.md",
    ))
}

/// Of each domain with other subnets, whether its searches cross.
fn subnets(config: &Fact<Config>, reports: &[Report]) -> Vec<Finding> {
    let domains = config.iter().flat_map(|config| &config.domains).filter(|domain| domain.subnets.is_some());
    domains
        .flat_map(|domain| match reports.iter().find(|report| report.domain == domain.name) {
            Some(report) => subnet(report),
            None => vec![warn(
                "subnets",
                format!(
                    "domain `{}`: no agent on this node says how searches cross to other subnets",
                    domain.name
                ),
                "run the agent with this configuration",
            )],
        })
        .collect()
}

fn subnet(report: &Report) -> Vec<Finding> {
    let problems = report.problems();
    if problems.is_empty() {
        let heard = report.peers.iter().filter(|peer| peer.state == State::Heard).count();
        let (all, others) = (report.peers.len(), report.heard().len());
        let text = format!("domain `{}`: {heard} of {all} peers are heard, in {others} other", report.domain);
        return vec![ok("subnets", format!("{text} {}", if others == 1 { "subnet" } else { "subnets" }))];
    }
    problems.iter().map(|problem| Finding { advice: None, ..warn("subnets", problem, "") }).collect()
}

fn member(Member { pod, veth, has_broadcast, .. }: &Member) -> Option<Finding> {
    let Some((veth, mtu, attached)) = veth else {
        return Some(warn(
            "members",
            format!("{pod}: its veth is gone, but the runtime sent no DEL"),
            "iocast-node run cleans it up within seconds",
        ));
    };
    if !attached {
        return Some(fail(
            "members",
            format!("{pod}: from_pod is not attached to {veth}"),
            "iocast-node run attaches it within seconds",
        ));
    }
    if !has_broadcast {
        return Some(warn(
            "members",
            format!(
                "{pod}: no broadcast address, because it started before iocast: its clients cannot search"
            ),
            "delete the pod to have it recreated",
        ));
    }
    let small = format!("{pod}: {veth} has an MTU of {mtu}");
    match *mtu {
        0..LEAST_MTU => Some(fail(
            "mtu",
            format!("{small}: searches by libca ({LEAST_MTU} bytes) do not fit"),
            format!("raise the pods' MTU to {GOOD_MTU} or more"),
        )),
        LEAST_MTU..GOOD_MTU => Some(warn(
            "mtu",
            format!("{small}: searches by PVXS ({GOOD_MTU} bytes) do not fit"),
            format!("raise the pods' MTU to {GOOD_MTU} or more"),
        )),
        _ => None,
    }
}

fn chain(network: &Fact<Option<Network>>) -> Finding {
    const CHECK: &str = "chain";
    let network = match network {
        Err(error) => return fail(CHECK, error, "pass the runtime's directory with --cni-conf-dir"),
        Ok(None) => return fail(CHECK, "no network configuration found", "install the primary CNI"),
        Ok(Some(network)) => network,
    };
    let found = format!("{} has the plugins {}", network.path.display(), network.plugins.join(", "));
    if !network.malformed.is_empty() {
        return fail(
            CHECK,
            format!("{found}, but containerd uses no network because of {}", network.malformed.join("; ")),
            "fix or remove it",
        );
    }
    if !network.plugins.iter().any(|plugin| plugin == PLUGIN) {
        return fail(CHECK, found, "iocast-node run adds iocast");
    }
    match &network.multus {
        Some(multus) => warn(
            CHECK,
            format!("{found}, but {multus} delegates to it without passing the pods' annotations"),
            "turn Multus's configuration into a list, so that iocast can come after it",
        ),
        None => ok(CHECK, found),
    }
}

fn plugin(facts: &Facts) -> Finding {
    let (path, ours) = (facts.plugin.display(), env!("CARGO_PKG_VERSION"));
    match &facts.plugin_version {
        Ok(version) if version == ours => ok("plugin", format!("{path} is version {version}")),
        Ok(version) => warn(
            "plugin",
            format!("{path} is version {version}, iocast-node {ours}"),
            "run iocast-node install, or restart the DaemonSet's pod",
        ),
        Err(error) => fail(
            "plugin",
            format!("{path} does not answer VERSION: {error}"),
            "run iocast-node install, or pass the runtime's plugin directory with --cni-bin-dir",
        ),
    }
}

#[cfg(test)]
mod tests {
    use datapath::firewall::Chain;

    use super::*;
    use crate::{relay::PeerReport, uplink::Fault};

    fn occupant(name: &str, ours: bool) -> Occupant {
        Occupant { name: name.into(), ours }
    }

    fn interface() -> Interface {
        let hook = |hook: Hook| (hook, true, Some(vec![occupant("ours", true)]));
        Interface {
            name: "eth0".into(),
            fault: None,
            address: Some([172, 23, 0, 10].into()),
            hooks: vec![hook(Hook::FromLan), hook(Hook::ToLan)],
            rp_filter: Ok(1),
            tracked_bridge: false,
            elsewhere: vec![],
        }
    }

    fn network(plugins: &[&str]) -> Network {
        Network {
            path: "/etc/cni/net.d/10-calico.conflist".into(),
            plugins: plugins.iter().map(|plugin| (*plugin).to_owned()).collect(),
            multus: None,
            malformed: vec![],
        }
    }

    fn healthy() -> Facts {
        let config = Config::parse("[domain.bl07]\nuplink = \"eth0\"\nprotocols = [\"ca\"]").unwrap();
        Facts {
            release: "6.1".into(),
            kernel: Ok(()),
            bpffs: Ok(()),
            datapath: Ok(()),
            other_schemas: vec![],
            fan: Ok(Some((true, true))),
            config: Ok(config),
            uplinks: vec![Uplink {
                domain: "bl07".into(),
                name: "eth0".into(),
                found: Ok(Some(interface())),
            }],
            local_ports: Ok(Ports { first: 32768, last: 60999 }),
            reserved_ports: Ok("61000-64999".into()),
            forwarding: Ok(true),
            forward_chains: Ok(vec![]),
            legacy_filter: false,
            conflicts: Ok(vec![]),
            addresses: Ok(vec![]),
            members: Ok(vec![Member {
                domain: "bl07".into(),
                pod: "bl07/ioc-a".into(),
                veth: Some(("veth1".into(), 1450, true)),
                has_broadcast: true,
                lacks_room: false,
                addressed: None,
            }]),
            absent: Ok(vec![]),
            duplicates: Ok(None),
            subnets: vec![],
            network: Ok(Some(network(&["calico", "iocast"]))),
            plugin: "/opt/cni/bin/iocast".into(),
            plugin_version: Ok(env!("CARGO_PKG_VERSION").into()),
        }
    }

    /// What is not OK once `change` has been made to a healthy node: level, check and text.
    fn complaints(change: impl FnOnce(&mut Facts)) -> Vec<(Level, std::borrow::Cow<'static, str>, String)> {
        let mut facts = healthy();
        change(&mut facts);
        let findings = diagnose(&facts).into_iter().filter(|finding| finding.level != Level::Ok);
        findings
            .map(|Finding { level, check, found, advice }| {
                (level, check, format!("{found}; {}", advice.unwrap_or_default()))
            })
            .collect()
    }

    /// Asserts that `change` brings one complaint, of this level and check, which contains `text`.
    #[track_caller]
    fn complains(change: impl FnOnce(&mut Facts), level: Level, check: &str, text: &str) {
        let found = complaints(change);
        let [(found_level, found_check, found_text)] = found.as_slice() else { panic!("{found:#?}") };
        assert_eq!((*found_level, &**found_check), (level, check), "{found_text}");
        assert!(found_text.contains(text), "{found_text}");
    }

    fn change_uplink(facts: &mut Facts, change: impl FnOnce(&mut Interface)) {
        if let Ok(Some(interface)) = &mut facts.uplinks[0].found {
            change(interface);
        }
    }

    fn change_member(facts: &mut Facts, veth: Option<(&str, u32, bool)>) {
        let veth = veth.map(|(name, mtu, attached)| (name.to_owned(), mtu, attached));
        facts.members = Ok(vec![Member {
            domain: "bl07".into(),
            pod: "bl07/ioc-a".into(),
            veth,
            has_broadcast: true,
            lacks_room: false,
            addressed: None,
        }]);
    }

    #[test]
    fn a_healthy_node_has_a_line_for_every_check() {
        let findings = diagnose(&healthy());
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
        let mut checks: Vec<_> = findings.iter().map(|finding| &*finding.check).collect();
        checks.dedup();
        let expected = [
            "kernel",
            "bpffs",
            "datapath",
            "fan",
            "configuration",
            "uplink",
            "programs",
            "return path",
            "ports",
            "forwarding",
            "firewall",
            "members",
            "chain",
            "plugin",
        ];
        assert_eq!(checks, expected);
    }

    #[test]
    fn errors_that_say_what_to_do_are_passed_on() {
        let error = || Err("cannot; do this".to_owned());
        complains(|facts| facts.kernel = error(), Level::Fail, "kernel", "6.1: cannot; do this");
        complains(|facts| facts.bpffs = error(), Level::Fail, "bpffs", "cannot; do this");
        complains(|facts| facts.datapath = error(), Level::Fail, "datapath", "cannot; do this");
        complains(
            |facts| facts.config = Err("cannot; do this".into()),
            Level::Fail,
            "configuration",
            "do this",
        );
    }

    #[test]
    fn another_schema_is_named() {
        let other = |facts: &mut Facts| facts.other_schemas = vec!["v0".into()];
        complains(other, Level::Warn, "datapath", "next to v0");
    }

    #[test]
    fn a_fan_that_is_missing_down_or_bare_fails() {
        complains(|facts| facts.fan = Ok(None), Level::Fail, "fan", "does not exist");
        complains(|facts| facts.fan = Ok(Some((false, true))), Level::Fail, "fan", "is down");
        complains(|facts| facts.fan = Ok(Some((true, false))), Level::Fail, "fan", "has no program");
    }

    #[test]
    fn an_uplink_that_cannot_serve_fails() {
        complains(|facts| facts.uplinks[0].found = Ok(None), Level::Fail, "uplink", "set `uplink`");
        let has = |fault| move |facts: &mut Facts| change_uplink(facts, |uplink| uplink.fault = Some(fault));
        complains(has(Fault::Down), Level::Fail, "uplink", "is down; bring it up: ip link set eth0 up");
        complains(has(Fault::NoCarrier), Level::Fail, "uplink", "has no carrier; check its cable");
        complains(has(Fault::NoAddress), Level::Fail, "uplink", "has no IPv4 address; give it one");
        let detached = |facts: &mut Facts| change_uplink(facts, |uplink| uplink.hooks[1].1 = false);
        complains(detached, Level::Fail, "programs", "to_lan: iocast's program is not attached");
    }

    #[test]
    fn a_program_that_could_hide_packets_from_ours_is_named() {
        let on = |number: usize, list: [(&'static str, bool); 2]| {
            move |facts: &mut Facts| {
                let list = list.map(|(name, ours)| occupant(name, ours));
                change_uplink(facts, |uplink| uplink.hooks[number].2 = Some(list.into()));
            }
        };
        for hook in 0..2 {
            complains(
                on(hook, [("cil", false), ("us", true)]),
                Level::Warn,
                "neighbours",
                "before iocast: [cil]",
            );
            assert_eq!(complaints(on(hook, [("us", true), ("cil", false)])), []);
        }
    }

    #[test]
    fn hidden_neighbours_are_not_said_to_be_absent() {
        let hidden = |facts: &mut Facts| change_uplink(facts, |uplink| uplink.hooks[0].2 = None);
        assert_eq!(complaints(hidden), [], "an agent that is healthy has no right to see them");
        let mut facts = healthy();
        hidden(&mut facts);
        let told = diagnose(&facts).into_iter().filter(|finding| finding.found.contains("CAP_SYS_ADMIN"));
        assert_eq!(told.count(), 1);
    }

    #[test]
    fn clients_that_would_be_answered_elsewhere_are_named() {
        let elsewhere = |mode: u8| {
            move |facts: &mut Facts| {
                change_uplink(facts, |uplink| {
                    uplink.rp_filter = Ok(mode);
                    uplink.elsewhere = vec![(Ipv4Addr::new(172, 24, 0, 7), "eth1".into())];
                });
            }
        };
        complains(elsewhere(1), Level::Warn, "return path", "172.24.0.7 through eth1), so the kernel drops");
        complains(
            elsewhere(2),
            Level::Warn,
            "return path",
            "rp_filter is loose, but some answers would leave through another interface",
        );
    }

    #[test]
    fn a_bridge_whose_packets_are_tracked_before_us_is_no_uplink() {
        let tracked = |facts: &mut Facts| change_uplink(facts, |uplink| uplink.tracked_bridge = true);
        complains(tracked, Level::Fail, "uplink", "is a bridge, and conntrack sees");
    }

    #[test]
    fn ports_that_the_node_may_take_itself_fail() {
        let unreserved = |facts: &mut Facts| facts.reserved_ports = Ok("8080".into());
        assert_eq!(complaints(unreserved), [], "the node uses others");
        let wide = |facts: &mut Facts| {
            facts.reserved_ports = Ok(String::new());
            facts.local_ports = Ok(Ports { first: 1024, last: 64999 });
        };
        complains(wide, Level::Fail, "ports", "the node's own connections use 1024-64999");
    }

    #[test]
    fn ports_that_services_may_get_are_a_warning() {
        let pins = |range: &str| {
            let text =
                format!("[domain.bl07]\nuplink = \"eth0\"\nports = \"61000-64999\"\npins = \"{range}\"");
            move |facts: &mut Facts| {
                facts.config = Ok(Config::parse(&text).unwrap());
                facts.reserved_ports = Ok("15000-15999,32000-33000,61000-64999".into());
            }
        };
        assert_eq!(complaints(pins("15000-15999")), []);
        complains(
            pins("32000-33000"),
            Level::Warn,
            "ports",
            "32000-33000 overlap those of NodePort Services",
        );
    }

    #[test]
    fn a_pin_that_the_node_uses_is_a_warning() {
        let pinned =
            |facts: &mut Facts| facts.conflicts = Ok(vec!["pod bl07/ioc-a has pinned tcp/9100".into()]);
        complains(pinned, Level::Warn, "pins", "tcp/9100; LAN clients reach the pod");
    }

    #[test]
    fn a_node_that_does_not_forward_fails() {
        complains(|facts| facts.forwarding = Ok(false), Level::Fail, "forwarding", "set it to 1");
    }

    #[test]
    fn a_firewall_that_may_drop_is_a_warning_that_says_how_it_is_known() {
        let drop = Chain { table: "ip filter".into(), name: "FORWARD".into(), drops: true };
        let dropping = |facts: &mut Facts| facts.forward_chains = Ok(vec![drop]);
        complains(dropping, Level::Warn, "firewall", "(nf_tables): ip filter FORWARD");
        complains(|facts| facts.legacy_filter = true, Level::Warn, "firewall", "iptables-legacy -S FORWARD");
        let unreadable = |facts: &mut Facts| facts.forward_chains = Err("denied".into());
        let found = complaints(unreadable);
        let found: Vec<_> =
            found.iter().map(|(level, check, text)| (*level, &**check, text.as_str())).collect();
        let expected = [
            (Level::Warn, "firewall", "cannot be checked: denied; "),
            (Level::Warn, "rights", "not everything could be checked; run doctor as root on the node"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn members_that_are_not_served_are_named() {
        complains(|facts| change_member(facts, None), Level::Warn, "members", "bl07/ioc-a: its veth is gone");
        let bare = |facts: &mut Facts| change_member(facts, Some(("veth1", 1450, false)));
        complains(bare, Level::Fail, "members", "bl07/ioc-a: from_pod is not attached to veth1");
        let silent = |facts: &mut Facts| {
            facts.members.iter_mut().flatten().for_each(|member| member.has_broadcast = false);
        };
        complains(silent, Level::Warn, "members", "delete the pod to have it recreated");
        let crowded = |facts: &mut Facts| {
            facts.members.iter_mut().flatten().for_each(|member| member.lacks_room = true);
        };
        complains(crowded, Level::Warn, "names", "bl07/ioc-a: no room for what iocast.io/pvs declares");
    }

    #[test]
    fn pods_that_announce_an_address_of_the_clusters_are_counted() {
        let found = |text: &str| {
            let mut facts = healthy();
            facts.config = Ok(Config::parse(&format!("[domain.bl07]\nuplink = \"eth0\"\n{text}")).unwrap());
            diagnose(&facts)
                .into_iter()
                .find(|finding| finding.check == "groups")
                .map(|finding| finding.found)
        };
        let said = found("protocols = [\"ca\", \"mdns\", \"ssdp\"]").unwrap();
        assert!(
            said.contains("1 of its pods have no LAN address") && said.contains("by mdns, ssdp"),
            "{said}"
        );
        assert_eq!(found("protocols = [\"pva\", \"bacnet\"]\ngroups = { 5076 = \"239.1.1.1\" }"), None);
    }

    #[test]
    fn a_lan_address_that_another_host_claims_is_a_warning() {
        let lost =
            |facts: &mut Facts| facts.addresses = Ok(vec!["pod bl07/ioc-a has lost its address".into()]);
        complains(lost, Level::Warn, "addresses", "has lost its address");
    }

    #[test]
    fn what_comes_between_a_lan_address_and_its_pod_is_named() {
        let with = |direct, elsewhere: Option<&str>, masquerade: Option<&str>, others: &[&str]| {
            let addressed = Addressed {
                address: [172, 23, 0, 50].into(),
                direct,
                elsewhere: elsewhere.map(str::to_owned),
                masquerade: masquerade.map(str::to_owned),
                others: others.iter().map(|name| (*name).to_owned()).collect(),
            };
            move |facts: &mut Facts| {
                facts
                    .members
                    .iter_mut()
                    .flatten()
                    .for_each(|member| member.addressed = Some(addressed.clone()));
            }
        };
        assert_eq!(complaints(with(false, None, None, &[])), []);
        complains(
            with(false, Some("eth1"), None, &[]),
            Level::Warn,
            "addresses",
            "to 172.23.0.50 would leave through eth1",
        );
        let agent = with(false, None, Some("table ip nat, chain IP-MASQ-AGENT"), &[]);
        complains(
            agent,
            Level::Warn,
            "addresses",
            "(table ip nat, chain IP-MASQ-AGENT); leave the LAN's network alone",
        );
        let program = ["program cil_from_container"];
        complains(with(false, None, None, &program), Level::Warn, "addresses", "set `path = \"direct\"`");
        assert_eq!(complaints(with(true, None, Some("x"), &program)), [], "they do not see it");
    }

    #[test]
    fn pods_that_ask_in_vain_are_named_with_the_reason() {
        let absent = || Absent {
            namespace: "bl07".into(),
            pod: "ioc-b".into(),
            domain: "bl07".into(),
            why: "it uses the node's network".into(),
        };
        complains(
            |facts| facts.absent = Ok(vec![absent()]),
            Level::Warn,
            "members",
            "bl07/ioc-b asks for domain `bl07` and is no member: it uses the node's network",
        );
    }

    #[test]
    fn an_mtu_that_searches_do_not_fit_is_reported_with_whose() {
        let mtu = |mtu: u32| move |facts: &mut Facts| change_member(facts, Some(("veth1", mtu, true)));
        complains(mtu(1051), Level::Fail, "mtu", "libca");
        complains(mtu(1052), Level::Warn, "mtu", "PVXS");
        complains(mtu(1427), Level::Warn, "mtu", "PVXS");
        assert_eq!(complaints(mtu(1428)), []);
    }

    #[test]
    fn a_network_without_us_is_reported_with_its_plugins() {
        complains(|facts| facts.network = Ok(None), Level::Fail, "chain", "no network configuration");
        let without = |facts: &mut Facts| facts.network = Ok(Some(network(&["calico", "bandwidth"])));
        complains(without, Level::Fail, "chain", "10-calico.conflist has the plugins calico, bandwidth;");
        let multus = || Network { multus: Some("00-multus.conf".into()), ..network(&["calico", "iocast"]) };
        complains(
            |facts| facts.network = Ok(Some(multus())),
            Level::Warn,
            "chain",
            "00-multus.conf delegates",
        );
        let broken =
            || Network { malformed: vec!["05-x.conf: odd".into()], ..network(&["calico", "iocast"]) };
        complains(
            |facts| facts.network = Ok(Some(broken())),
            Level::Fail,
            "chain",
            "because of 05-x.conf: odd",
        );
    }

    #[test]
    fn a_plugin_that_is_missing_or_of_another_version_is_passed_on() {
        complains(
            |facts| facts.plugin_version = Err("gone".into()),
            Level::Fail,
            "plugin",
            "iocast does not answer",
        );
        let old = |facts: &mut Facts| facts.plugin_version = Ok("0.0.1".into());
        complains(old, Level::Warn, "plugin", "is version 0.0.1");
    }

    #[test]
    fn peers_that_are_not_heard_have_another_key_or_are_off_the_lan_are_named() {
        let text = "[domain.bl07]\nuplink = \"eth0\"\nprotocols = [\"ca\"]\nsubnets = { peers = [\"a\"] }";
        let with = |peers: &[(&str, State, bool)]| {
            let peers = peers.iter().map(|(address, state, on_lan)| PeerReport {
                address: (*address).into(),
                state: *state,
                on_lan: *on_lan,
                subnet: Some("172.23.1.0/24".into()),
                ..PeerReport::default()
            });
            let leader = Some(Ipv4Addr::new(172, 23, 0, 10));
            let report =
                Report { domain: "bl07".into(), leader, peers: peers.collect(), ..Report::default() };
            let found = complaints(|facts| {
                facts.config = Ok(Config::parse(text).unwrap());
                facts.subnets = vec![report];
            });
            found.into_iter().map(|(.., text)| text).collect::<Vec<_>>()
        };
        assert_eq!(with(&[("1", State::Heard, true)]), [""; 0]);
        let alone = with(&[("1", State::Unable, true)]);
        assert!(alone.len() == 1 && alone[0].contains("no node of another subnet is heard"), "{alone:?}");
        for (state, on_lan, expected) in [
            (State::Silent, true, "peer 1 is not heard"),
            (State::WrongKey, true, "peer 1 has another key"),
            (State::Heard, false, "not in `lan`"),
        ] {
            let found = with(&[("1", state, on_lan), ("2", State::Heard, true)]);
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
        }
        let none = complaints(|facts| facts.config = Ok(Config::parse(text).unwrap()));
        assert!(none[0].2.contains("no agent"), "{none:?}");
    }
}
