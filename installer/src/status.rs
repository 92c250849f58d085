//! `iocast-node status`: the pinned maps, as a table for people or as JSON for programs.

use std::{error::Error, fmt::Write, net::Ipv4Addr, path::Path, thread::sleep, time::Duration};

use abi::{Attachment, Claim, Domain, Member, TCP, UDP, share, text, trouble};
use datapath::{External, State, link, printable};
use serde::Serialize;

use crate::{
    absent::{self, Absent, Runtime},
    addresses,
    relay::{self, Report},
    say::{complain, print, print_json},
    uplink,
};

/// A domain on this node.
#[derive(Debug, Serialize)]
struct DomainStatus {
    name: String,
    /// Name of the uplink's interface; null while there is none.
    uplink: Option<String>,
    /// The uplink's address; null while there is none.
    address: Option<Ipv4Addr>,
    /// Why the domain has no LAN through it.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    first_port: u16,
    last_port: u16,
    ports: PortsStatus,
    members: Vec<MemberStatus>,
    /// Pods that ask for it and are no members.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    absent: Vec<AbsentStatus>,
    counters: Vec<CounterStatus>,
    /// What the agent says of other subnets; none if the domain has none, or no agent runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    subnets: Option<Report>,
}

/// How many external ports a domain's pods have.
#[derive(Debug, Serialize)]
struct PortsStatus {
    tcp: u32,
    udp: u32,
    /// How many of each they may have.
    limit: u32,
    /// How many one pod may have, TCP and UDP together.
    limit_per_pod: u32,
    /// Pinned ones, which are not among these.
    pinned: u32,
    /// How many of all these are kept for the servers of deleted pods.
    kept: usize,
}

/// A member pod.
#[derive(Debug, Serialize)]
struct MemberStatus {
    namespace: String,
    pod: String,
    address: Ipv4Addr,
    broadcast: Ipv4Addr,
    /// Its own address on the LAN.
    #[serde(skip_serializing_if = "Option::is_none")]
    lan_address: Option<LanAddressStatus>,
    /// Name of the host-side veth.
    veth: String,
    external_ports: Vec<PortStatus>,
    /// How the names of its PVs begin, as it says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pvs: Vec<String>,
}

/// A pod's address on the LAN.
#[derive(Debug, Serialize)]
pub(crate) struct LanAddressStatus {
    pub(crate) address: Ipv4Addr,
    /// What the node does about it: `reserved`, `held`, `taken` or `lost`.
    pub(crate) standing: &'static str,
    /// The MAC address of the other host that claimed it in the last minute, or that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) claimed_by: Option<String>,
}

/// A pod that is no member.
#[derive(Debug, Serialize)]
struct AbsentStatus {
    namespace: String,
    pod: String,
    why: String,
}

impl From<&Absent> for AbsentStatus {
    fn from(Absent { namespace, pod, why, .. }: &Absent) -> Self {
        Self { namespace: namespace.clone(), pod: pod.clone(), why: why.clone() }
    }
}

/// An external port and the pod's port behind it.
#[derive(Debug, Serialize)]
pub(crate) struct PortStatus {
    pub(crate) protocol: &'static str,
    pub(crate) external: u16,
    pub(crate) pod: u16,
    /// What is wrong with the stream to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<&'static str>,
}

/// A counter that is not zero.
#[derive(Debug, Serialize)]
struct CounterStatus {
    protocol: String,
    verdict: &'static str,
    packets: u64,
    /// Packets per second, if they were counted for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
}

pub(crate) fn run(
    bpffs: &Path,
    json: bool,
    seconds: Option<u16>,
    runtime: &Runtime,
) -> Result<(), Box<dyn Error>> {
    let state = State::open(bpffs)?;
    let mut domains = read(bpffs, &state)?;
    if let Some(seconds) = seconds {
        sleep(Duration::from_secs(seconds.into()));
        let before = domains;
        domains = read(bpffs, &state)?;
        add_rates(&mut domains, &before, seconds);
    }
    let absent = absent::look(runtime, &state);
    for domain in &mut domains {
        let of_domain = absent.iter().flatten().filter(|absent| absent.domain == domain.name);
        domain.absent = of_domain.map(AbsentStatus::from).collect();
    }
    if json {
        print_json(&domains)?;
    } else {
        let others = absent
            .iter()
            .flatten()
            .filter(|absent| domains.iter().all(|domain| domain.name != absent.domain));
        let others = others.map(|absent| no_member(&absent.into()));
        print(&(table(&domains) + &others.collect::<String>()))?;
    }
    absent.map(drop).or_else(|error| {
        complain(error);
        Ok(())
    })
}

/// Adds to each counter its rate over the `seconds` since `before`.
fn add_rates(domains: &mut [DomainStatus], before: &[DomainStatus], seconds: u16) {
    for domain in domains {
        let earlier = before.iter().find(|earlier| earlier.name == domain.name);
        for counter in &mut domain.counters {
            let same =
                |old: &&CounterStatus| old.protocol == counter.protocol && old.verdict == counter.verdict;
            let old = earlier.and_then(|earlier| earlier.counters.iter().find(same));
            let counted = counter.packets.saturating_sub(old.map_or(0, |old| old.packets));
            counter.rate = Some(counted as f64 / f64::from(seconds));
        }
    }
}

fn read(bpffs: &Path, state: &State) -> Result<Vec<DomainStatus>, datapath::Error> {
    let mut found = vec![];
    let (counters, externals, reports) = (state.counters()?, state.externals()?, relay::ask());
    for (number, domain) in state.domains()? {
        let uplink = if domain.uplink == 0 { None } else { link::by_index(domain.uplink)? };
        let address = match &uplink {
            Some(uplink) => link::addresses(uplink.index)?.first().map(|address| address.address),
            None => None,
        };
        let counters = counters.iter().filter(|counter| counter.domain == number).map(|counter| {
            Ok::<_, datapath::Error>(CounterStatus {
                protocol: state.protocol_name(counter.protocol)?,
                verdict: counter.verdict.name(),
                packets: counter.packets,
                rate: None,
            })
        });
        let name = text(&domain.name);
        found.push(DomainStatus {
            subnets: reports.iter().find(|report| report.domain == name).cloned(),
            name: name.into(),
            uplink: uplink.map(|uplink| uplink.name),
            address,
            problem: uplink::trouble(bpffs, domain.uplink)?,
            first_port: domain.first_port,
            last_port: domain.last_port,
            ports: ports(state, number, &domain, &externals)?,
            members: members(state, number, &externals)?,
            absent: vec![],
            counters: counters.collect::<Result<_, _>>()?,
        });
    }
    Ok(found)
}

fn ports(
    state: &State,
    number: u16,
    domain: &Domain,
    externals: &[External],
) -> Result<PortsStatus, datapath::Error> {
    let taken = |transport| state.taken(share::of_domain(number, transport));
    let mut kept = 0;
    for External { claim, .. } in externals.iter().filter(|external| external.claim.domain == number) {
        kept += usize::from(!state.is_current(claim)?);
    }
    Ok(PortsStatus {
        tcp: taken(TCP.into())?,
        udp: taken(UDP.into())?,
        limit: domain.ports,
        limit_per_pod: domain.ports_per_pod,
        pinned: taken(share::PINS)?,
        kept,
    })
}

fn members(state: &State, domain: u16, externals: &[External]) -> Result<Vec<MemberStatus>, datapath::Error> {
    let mut found = vec![];
    for (_, attachment) in state.attachments()? {
        let Some(member) = state.member(attachment.member)?.filter(|member| member.domain == domain) else {
            continue;
        };
        found.push(MemberStatus {
            namespace: text(&attachment.namespace).into(),
            pod: text(&attachment.pod).into(),
            address: member.address.into(),
            broadcast: member.broadcast.into(),
            lan_address: lan_address(state, &member, &attachment)?,
            veth: link::by_index(attachment.member)?.map_or_else(|| "gone".into(), |veth| veth.name),
            external_ports: external_ports(externals, &attachment),
            pvs: state.prefixes(&attachment)?,
        });
    }
    found.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
    Ok(found)
}

/// The external ports of a member, by transport and port.
pub(crate) fn external_ports(externals: &[External], attachment: &Attachment) -> Vec<PortStatus> {
    let whose = (attachment.member, attachment.generation);
    let of_member =
        externals.iter().filter(|External { claim, .. }| (claim.member, claim.generation) == whose);
    let mut ports: Vec<_> = of_member.map(port).collect();
    ports.sort_by_key(|port| (port.protocol, port.pod));
    ports
}

/// A member's LAN address, if it has one.
pub(crate) fn lan_address(
    state: &State,
    member: &Member,
    attachment: &Attachment,
) -> Result<Option<LanAddressStatus>, datapath::Error> {
    let whose = (attachment.member, attachment.generation);
    let entry = state.lan_address(member.lan_address)?;
    let Some(entry) = entry.filter(|entry| (entry.member, entry.generation) == whose) else {
        return Ok(None);
    };
    let address = member.lan_address.into();
    Ok(Some(LanAddressStatus {
        address,
        standing: addresses::standing_name(entry.standing),
        claimed_by: addresses::claimant(state, address, entry.standing)?,
    }))
}

fn port(External { external, claim }: &External) -> PortStatus {
    let protocol = if external.protocol == u16::from(TCP) { "tcp" } else { "udp" };
    PortStatus { protocol, external: external.port, pod: claim.pod.port, problem: trouble(claim) }
}

/// What is wrong with the packets of a stream to an external port.
pub(crate) fn trouble(claim: &Claim) -> Option<&'static str> {
    match claim.trouble {
        0 => None,
        flags if flags & trouble::TOO_BIG != 0 => Some("too big for its MTU"),
        _ => Some("fragments"),
    }
}

fn table(domains: &[DomainStatus]) -> String {
    let mut out = String::new();
    for domain in domains {
        // Writing to a string cannot fail.
        let _ = write_domain(&mut out, domain);
    }
    out
}

fn no_member(AbsentStatus { namespace, pod, why }: &AbsentStatus) -> String {
    format!("no member: {}\n", printable(&format!("{namespace}/{pod}: {why}")))
}

/// What stands above LAN addresses; where no pod has one there is no such column.
const LAN_COLUMN: &str = "LAN ADDRESS";

/// A pod's LAN address, and its standing unless it is as it should be.
fn lan_cell(member: &MemberStatus) -> String {
    let Some(LanAddressStatus { address, standing, claimed_by }) = &member.lan_address else {
        return String::new();
    };
    let is_held = *standing == "held";
    match claimed_by {
        Some(mac) => format!("{address} ({standing}, {mac} claims it)"),
        None if is_held => address.to_string(),
        None => format!("{address} ({standing})"),
    }
}

fn write_domain(out: &mut String, domain: &DomainStatus) -> std::fmt::Result {
    let uplink = match (&domain.uplink, domain.address) {
        (Some(name), Some(address)) => format!("{} {address}", printable(name)),
        (Some(name), None) => printable(name),
        _ => "none".into(),
    };
    let problem = domain.problem.as_ref().filter(|_| domain.uplink.is_some());
    let problem = problem.map(|problem| format!(" ({problem})")).unwrap_or_default();
    let DomainStatus { name, first_port, last_port, ports, members, counters, .. } = domain;
    writeln!(
        out,
        "domain {}: uplink {uplink}{problem}, external ports {first_port}-{last_port}, {} members",
        printable(name),
        members.len()
    )?;
    let PortsStatus { tcp, udp, limit, limit_per_pod, pinned, kept } = ports;
    writeln!(
        out,
        "  {tcp} TCP and {udp} UDP ports of {limit} each ({limit_per_pod} for one pod), {pinned} pinned; of these {kept} \
         kept for deleted pods"
    )?;
    let cells: Vec<_> = members.iter().map(lan_cell).collect();
    let longest = cells.iter().map(String::len).max().unwrap_or(0);
    let (lan, width) = if longest == 0 { ("", 0) } else { (LAN_COLUMN, longest.max(LAN_COLUMN.len()) + 1) };
    if !members.is_empty() {
        writeln!(out, "  {:<32} {:<15} {lan:<width$}{:<15} EXTERNAL PORTS", "POD", "ADDRESS", "VETH")?;
    }
    for (member, lan) in members.iter().zip(cells) {
        let MemberStatus { namespace, pod, address, veth, external_ports, .. } = member;
        let ports: Vec<_> = external_ports
            .iter()
            .map(|port| {
                let problem = port.problem.map(|problem| format!(" ({problem})")).unwrap_or_default();
                format!("{} {}->{}{problem}", port.protocol, port.external, port.pod)
            })
            .collect();
        writeln!(
            out,
            "  {:<32} {:<15} {lan:<width$}{:<15} {}",
            printable(&format!("{namespace}/{pod}")),
            address.to_string(),
            printable(veth),
            ports.join(", ")
        )?;
        if !member.pvs.is_empty() {
            writeln!(
                out,
                "  {:<32} only searches for PVs that begin with {}",
                "",
                printable(&member.pvs.join(", "))
            )?;
        }
    }
    out.extend(domain.subnets.iter().map(relay::text));
    out.extend(domain.absent.iter().map(|absent| format!("  {}", no_member(absent))));
    if !counters.is_empty() {
        let rate = if counters[0].rate.is_some() { "         PER SECOND" } else { "" };
        writeln!(out, "  {:<10} {:<16} {:>12}{rate}", "PROTOCOL", "VERDICT", "PACKETS")?;
    }
    for CounterStatus { protocol, verdict, packets, rate } in counters {
        let rate = rate.map(|rate| format!("{rate:>19.1}")).unwrap_or_default();
        writeln!(out, "  {:<10} {verdict:<16} {packets:>12}{rate}", printable(protocol))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(packets: u64) -> DomainStatus {
        DomainStatus {
            name: "bl07".into(),
            uplink: None,
            address: None,
            problem: None,
            first_port: 61000,
            last_port: 64999,
            ports: PortsStatus { tcp: 0, udp: 0, limit: 4000, limit_per_pod: 250, pinned: 0, kept: 0 },
            members: vec![],
            absent: vec![],
            subnets: None,
            counters: vec![CounterStatus { protocol: "ca".into(), verdict: "relayed", packets, rate: None }],
        }
    }

    fn member(pod: &str, lan_address: Option<LanAddressStatus>) -> MemberStatus {
        MemberStatus {
            namespace: "bl07".into(),
            pod: pod.into(),
            address: [10, 244, 1, 2].into(),
            broadcast: [10, 244, 1, 255].into(),
            lan_address,
            veth: "veth1".into(),
            external_ports: vec![],
            pvs: vec![],
        }
    }

    #[test]
    fn a_lan_address_is_shown_with_what_is_wrong_with_it() {
        let with = |standing, claimed_by: Option<&str>| {
            let address = [172, 23, 0, 50].into();
            let lan_address =
                LanAddressStatus { address, standing, claimed_by: claimed_by.map(str::to_owned) };
            table(&[DomainStatus { members: vec![member("ioc-0", Some(lan_address))], ..domain(1) }])
        };
        assert!(with("held", None).contains("10.244.1.2      172.23.0.50 veth1"), "{}", with("held", None));
        assert!(
            with("lost", Some("02:00:00:00:00:09")).contains("50 (lost, 02:00:00:00:00:09 claims it) veth1")
        );
        let without = table(&[DomainStatus { members: vec![member("ioc-0", None)], ..domain(1) }]);
        assert!(without.contains("ADDRESS         VETH") && !without.contains("LAN ADDRESS"), "{without}");
    }

    #[test]
    fn a_rate_is_what_was_counted_meanwhile() {
        let mut now = [domain(130)];
        add_rates(&mut now, &[domain(100)], 4);
        assert_eq!(now[0].counters[0].rate, Some(7.5));
        add_rates(&mut now, &[], 10);
        assert_eq!(now[0].counters[0].rate, Some(13.0), "a domain that is new");
        let table = table(&now);
        assert!(table.contains("PER SECOND") && table.contains("13.0"), "{table}");
    }
}
