//! What monitoring sees: the node's state as metrics, and the reasons why it is not ready. Pure, no I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::{Duration, Instant},
};

use abi::latency;
use datapath::{Latency, printable};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet, text::encode},
    metrics::{MetricType, TypedMetric, counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use crate::{
    duplicates::Found,
    relay::{Report, State},
};

/// Why a node is not ready at first.
pub(crate) const STARTING: &str = "the agent has not completed a pass yet";

/// How long after its last pass the agent counts as alive.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the agent's loop publishes after each pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// What it could not do.
    pub(crate) problems: Vec<String>,
    /// Why passes over the datapath fail, and since when.
    pub(crate) failing: Option<(Instant, String)>,
    /// The state of the CNI configuration; none with `--no-cni`.
    pub(crate) chain: Option<Chain>,
    /// Pods that were adopted since the agent started.
    pub(crate) adopted: u64,
    /// How often one could not be adopted.
    pub(crate) not_adopted: u64,
    /// The configured domains and the names of their uplinks.
    pub(crate) uplinks: Vec<(String, String)>,
    /// How often another host has claimed the LAN address of a pod since the agent started, by domain.
    pub(crate) conflicts: BTreeMap<String, u64>,
    /// What a look for duplicates has found; none if the agent does not look.
    pub(crate) duplicates: Option<Found>,
    /// How searches cross to other subnets, of the domains that have any.
    pub(crate) relay: Vec<Report>,
}

/// Whether the runtime calls our plugin.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chain {
    /// Whether the plugin is in place and has answered.
    pub(crate) installed: bool,
    /// Whether the network that the runtime uses has the plugin in its chain.
    pub(crate) chained: bool,
    /// How often a configuration was written.
    pub(crate) writes: u64,
}

/// What the maps say of a domain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Domain {
    /// Why it has no LAN through its uplink; none if it has.
    pub(crate) uplink_trouble: Option<String>,
    pub(crate) members: usize,
    /// External ports in use or kept, TCP or UDP, whichever is more: each has as many. Not counting pinned ones.
    pub(crate) ports: usize,
    /// How many of each it may have.
    pub(crate) ports_limit: usize,
    /// Circuits.
    pub(crate) circuits: usize,
    /// How many it may have.
    pub(crate) circuits_limit: usize,
    /// How many LAN addresses of its pods have each standing.
    pub(crate) addresses: Vec<(&'static str, usize)>,
    /// How long answers took.
    pub(crate) latencies: Vec<Latency>,
    /// (protocol, verdict) -> packets.
    pub(crate) packets: Vec<(String, &'static str, u64)>,
}

/// The domains by name.
pub(crate) type Domains = BTreeMap<String, Domain>;

/// How full the node's table of tracked connections is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conntrack {
    pub(crate) entries: i64,
    pub(crate) limit: i64,
}

/// Why the node cannot serve pods as configured; empty if it can.
pub(crate) fn not_ready(progress: &Progress, domains: &Domains) -> Vec<String> {
    if progress.uplinks.is_empty() {
        return vec![STARTING.into()]; // a valid configuration has a domain
    }
    let mut reasons = vec![];
    if progress.chain.is_some_and(|chain| !chain.installed) {
        reasons.push("the CNI plugin is not installed".to_owned());
    }
    if progress.chain.is_some_and(|chain| !chain.chained) {
        reasons.push("the runtime's network does not have iocast in its chain".to_owned());
    }
    for (domain, uplink) in &progress.uplinks {
        let trouble =
            domains.get(domain).map_or(Some("is not attached"), |domain| domain.uplink_trouble.as_deref());
        reasons.extend(trouble.map(|trouble| format!("domain `{domain}`: uplink {uplink} {trouble}")));
    }
    reasons
}

/// Why the agent counts as dead; `None` while it makes passes that succeed now and then.
pub(crate) fn not_alive(since_last_pass: Duration, progress: Option<&Progress>) -> Option<String> {
    if since_last_pass >= PATIENCE {
        return Some(format!("the last pass was {} s ago", since_last_pass.as_secs()));
    }
    let (since, error) = progress?.failing.as_ref()?;
    let time = since.elapsed();
    (time >= PATIENCE).then(|| format!("passes have failed for {} s: {error}", time.as_secs()))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDomain {
    domain: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProtocol {
    domain: String,
    protocol: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfUplink {
    domain: String,
    uplink: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAddresses {
    domain: String,
    standing: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCopies {
    domain: String,
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRefusals {
    domain: String,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSubnet {
    domain: String,
    subnet: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPeers {
    domain: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPackets {
    domain: String,
    protocol: String,
    verdict: &'static str,
}

/// All metrics, in the OpenMetrics text format. `domains` is none if the maps cannot be read, `conntrack` if the node does not
/// track connections, `events_lost` if there is no datapath; `refused` is
/// empty then.
pub(crate) fn render(
    progress: &Progress,
    domains: Option<&Domains>,
    conntrack: Option<Conntrack>,
    events_lost: Option<u64>,
    refused: &[(&'static str, u64)],
) -> String {
    let mut registry = Registry::with_prefix("iocast");
    registry.register("build", "Version of the agent", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    let problems = gauge(&mut registry, "problems", "Current problems; the agent's log names each");
    problems.set(progress.problems.len().cast_signed() as i64);
    let adopted = counter(&mut registry, "adopted_pods", "Pods that started before iocast and were adopted");
    adopted.inc_by(progress.adopted);
    counter(&mut registry, "failed_adoptions", "Times that a pod could not be adopted")
        .inc_by(progress.not_adopted);
    if let Some(lost) = events_lost {
        counter(&mut registry, "events_lost", "Datagrams that those who watch did not get to see")
            .inc_by(lost);
    }
    register_refused(&mut registry, refused);
    if let Some(chain) = progress.chain {
        let chained =
            gauge(&mut registry, "chained", "Whether the runtime's network has iocast in its chain");
        chained.set(chain.chained.into());
        counter(&mut registry, "conflist_writes", "Times that the agent has written a CNI configuration")
            .inc_by(chain.writes);
    }
    if let Some(domains) = domains {
        register_uplinks(&mut registry, progress, domains);
        register_addresses(&mut registry, progress, domains);
        register_domains(&mut registry, domains);
        register_latencies(&mut registry, domains);
    }
    if let (Some(found), Some(domains)) = (&progress.duplicates, domains) {
        register_duplicates(&mut registry, found, domains);
    }
    if !progress.relay.is_empty() {
        register_relay(&mut registry, &progress.relay);
    }
    if let Some(Conntrack { entries, limit }) = conntrack {
        gauge(&mut registry, "conntrack_entries", "Connections that the node tracks, all pods included")
            .set(entries);
        gauge(&mut registry, "conntrack_limit", "How many the node can track").set(limit);
    }
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter<u64, AtomicU64> {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn register_uplinks(registry: &mut Registry, progress: &Progress, domains: &Domains) {
    let up = Family::<OfUplink, Gauge>::default();
    registry.register(
        "uplink_up",
        "Whether the domain's uplink is up, with carrier and address, and has our programs attached",
        up.clone(),
    );
    for (domain, uplink) in &progress.uplinks {
        let is_up = domains.get(domain).is_some_and(|domain| domain.uplink_trouble.is_none());
        up.get_or_create(&OfUplink { domain: printable(domain), uplink: printable(uplink) })
            .set(is_up.into());
    }
}

fn register_addresses(registry: &mut Registry, progress: &Progress, domains: &Domains) {
    let addresses = Family::<OfAddresses, Gauge>::default();
    let conflicts = Family::<OfDomain, Counter>::default();
    registry.register("lan_addresses", "LAN addresses of pods by standing", addresses.clone());
    registry.register(
        "lan_address_conflicts",
        "Times that another host has claimed the LAN address of a pod",
        conflicts.clone(),
    );
    for (name, found) in domains {
        let domain = printable(name);
        let claimed = progress.conflicts.get(name).copied().unwrap_or(0);
        conflicts.get_or_create(&OfDomain { domain: domain.clone() }).inc_by(claimed);
        for (standing, number) in &found.addresses {
            let label = OfAddresses { domain: domain.clone(), standing };
            addresses.get_or_create(&label).set(number.cast_signed() as i64);
        }
    }
}

fn register_refused(registry: &mut Registry, refused: &[(&'static str, u64)]) {
    let family = Family::<OfReason, Counter>::default();
    let help = "Pods that the plugin did not make members, so that they did not start; runtimes try again";
    registry.register("refused_pods", help, family.clone());
    for (reason, count) in refused {
        family.get_or_create(&OfReason { reason }).inc_by(*count);
    }
}

/// A histogram that somebody else has counted.
#[derive(Clone, Debug, Default)]
struct Histogram(Arc<OnceLock<Latency>>);

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Some(Latency { buckets, sum, .. }) = self.0.get() else { return Ok(()) };
        let ends = (latency::FIRST..).map(|exponent| (1u64 << exponent) as f64 / 1e9);
        let mut counted: Vec<_> = ends.zip(buckets.iter().copied()).collect();
        if let Some((end, _)) = counted.last_mut() {
            *end = f64::INFINITY;
        }
        encoder.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), buckets.iter().sum(), &counted, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

fn register_latencies(registry: &mut Registry, domains: &Domains) {
    let family = Family::<OfProtocol, Histogram>::default();
    let help = "Time from a search of the LAN to an answer of a pod";
    registry.register_with_unit("answer", help, Unit::Seconds, family.clone());
    for (name, found) in domains {
        for latency in &found.latencies {
            let label = OfProtocol { domain: printable(name), protocol: latency.protocol.name() };
            let _ = family.get_or_create(&label).0.set(*latency); // each is set once
        }
    }
}

fn register_duplicates(registry: &mut Registry, found: &Found, domains: &Domains) {
    let [duplicates, unanswered] = [
        ("duplicates", "PVs that more than one server has, as far as they were asked for"),
        ("unanswered", "PVs that clients kept asking for in vain when it was last looked"),
    ]
    .map(|(name, help)| {
        let family = Family::<OfDomain, Gauge>::default();
        registry.register(name, help, family.clone());
        family
    });
    for name in domains.keys() {
        let label = OfDomain { domain: printable(name) };
        let of_domain = found.duplicates.duplicates.iter().filter(|duplicate| duplicate.domain == *name);
        let pvs: BTreeSet<_> = of_domain.map(|duplicate| &duplicate.pv).collect();
        duplicates.get_or_create(&label).set(pvs.len().cast_signed() as i64);
        let asked = found.unanswered.get(name).copied().unwrap_or(0);
        unanswered.get_or_create(&label).set(asked.cast_signed() as i64);
    }
}

fn register_relay(registry: &mut Registry, reports: &[Report]) {
    let leads = Family::<OfSubnet, Gauge>::default();
    registry.register("subnet_leads", "Whether this node relays for its subnet of the domain", leads.clone());
    let peers = Family::<OfPeers, Gauge>::default();
    registry.register("subnet_peers", "Other agents of the domain by state", peers.clone());
    let copies = Family::<OfCopies, Counter>::default();
    let help = "Copies of searches and beacons that went to other subnets, or came from them";
    registry.register("subnet_copies", help, copies.clone());
    let refused = Family::<OfRefusals, Counter>::default();
    let help = "Datagrams between subnets that were refused, by reason";
    registry.register("subnet_refused", help, refused.clone());
    for report in reports {
        let domain = printable(&report.domain);
        let subnet = report.subnet.clone().unwrap_or_default();
        let relays = report.leads && report.problem.is_none();
        leads.get_or_create(&OfSubnet { domain: domain.clone(), subnet }).set(relays.into());
        for state in State::ALL {
            let count = report.peers.iter().filter(|peer| peer.state == state).count();
            let label = OfPeers { domain: domain.clone(), state: state.name() };
            peers.get_or_create(&label).set(count.cast_signed() as i64);
        }
        for (direction, count) in [("sent", report.sent), ("received", report.received)] {
            copies.get_or_create(&OfCopies { domain: domain.clone(), direction }).inc_by(count);
        }
        for (reason, count) in &report.refused {
            let label = OfRefusals { domain: domain.clone(), reason: reason.clone() };
            refused.get_or_create(&label).inc_by(*count);
        }
    }
}

fn register_domains(registry: &mut Registry, domains: &Domains) {
    let families = [
        ("members", "Member pods on this node"),
        ("external_ports", "External ports in use, TCP or UDP, whichever is more"),
        ("external_ports_limit", "External ports available to TCP and UDP each"),
        ("circuits", "TCP connections from the LAN to pods"),
        ("circuits_limit", "How many of these there may be"),
    ]
    .map(|(name, help)| {
        let family = Family::<OfDomain, Gauge>::default();
        registry.register(name, help, family.clone());
        family
    });
    let packets = Family::<OfPackets, Counter>::default();
    registry.register("packets", "Packets by verdict: what the datapath did with them", packets.clone());
    for (name, found) in domains {
        let label = OfDomain { domain: printable(name) };
        let values = [found.members, found.ports, found.ports_limit, found.circuits, found.circuits_limit];
        for (family, value) in families.iter().zip(values) {
            family.get_or_create(&label).set(value.cast_signed() as i64);
        }
        for (protocol, verdict, number) in &found.packets {
            let label = OfPackets { domain: printable(name), protocol: printable(protocol), verdict };
            packets.get_or_create(&label).inc_by(*number);
        }
    }
}

#[cfg(test)]
mod tests {
    use abi::Protocol;
    use view::{Duplicate, Duplicates};

    use super::*;

    fn progress() -> Progress {
        Progress {
            problems: vec!["a".into(), "b".into()],
            failing: None,
            chain: Some(Chain { installed: true, chained: true, writes: 3 }),
            adopted: 4,
            not_adopted: 6,
            uplinks: vec![("bl07".into(), "eth0".into())],
            conflicts: [("bl07".to_owned(), 2)].into(),
            duplicates: Some(Found { duplicates: duplicates(), unanswered: [("bl07".to_owned(), 5)].into() }),
            relay: vec![relay()],
        }
    }

    fn relay() -> Report {
        Report {
            domain: "bl07".into(),
            subnet: Some("172.23.0.0/24".into()),
            leads: true,
            sent: 11,
            received: 12,
            refused: [("prefix".to_owned(), 13)].into(),
            ..Report::default()
        }
    }

    /// One PV, in two protocols.
    fn duplicates() -> Duplicates {
        let mut found = Duplicates::default();
        found.duplicates.extend(["ca", "pva"].map(|protocol| Duplicate {
            domain: "bl07".into(),
            protocol: protocol.into(),
            pv: "A".into(),
            servers: vec![],
        }));
        found
    }

    fn domains() -> Domains {
        let domain = Domain {
            uplink_trouble: None,
            members: 2,
            ports: 5,
            ports_limit: 4000,
            circuits: 7,
            circuits_limit: 100,
            addresses: vec![("held", 3), ("lost", 1)],
            latencies: vec![Latency {
                protocol: Protocol::Ca,
                buckets: std::array::from_fn(|at| u64::from(at == 1 || at == 15)),
                sum: Duration::from_millis(3500),
            }],
            packets: vec![("ca".into(), "relayed", 6)],
        };
        [("bl07".to_owned(), domain)].into()
    }

    #[test]
    fn the_metrics_are_those_that_dashboards_and_alerts_name() {
        let text = render(
            &progress(),
            Some(&domains()),
            Some(Conntrack { entries: 8, limit: 9 }),
            Some(2),
            &[("later", 3)],
        );
        let is_bucket = |line: &&str| line.contains("_bucket{le=\"");
        let buckets: Vec<_> = text.lines().filter(is_bucket).collect();
        assert_eq!(buckets.len(), 16, "{text}");
        let first = "iocast_answer_seconds_bucket{le=\"0.000131072\",domain=\"bl07\",protocol=\"ca\"} 0";
        let last = "iocast_answer_seconds_bucket{le=\"+Inf\",domain=\"bl07\",protocol=\"ca\"} 2";
        assert_eq!((buckets[0], buckets[15]), (first, last));
        let mut values: Vec<_> =
            text.lines().filter(|line| !line.starts_with('#') && !is_bucket(line)).collect();
        values.sort_unstable(); // those of one metric come in any order
        let version = env!("CARGO_PKG_VERSION");
        let mut expected = [
            &format!("iocast_build_info{{version=\"{version}\"}} 1"),
            "iocast_problems 2",
            "iocast_adopted_pods_total 4",
            "iocast_failed_adoptions_total 6",
            "iocast_events_lost_total 2",
            "iocast_refused_pods_total{reason=\"later\"} 3",
            "iocast_answer_seconds_sum{domain=\"bl07\",protocol=\"ca\"} 3.5",
            "iocast_answer_seconds_count{domain=\"bl07\",protocol=\"ca\"} 2",
            "iocast_chained 1",
            "iocast_conflist_writes_total 3",
            "iocast_uplink_up{domain=\"bl07\",uplink=\"eth0\"} 1",
            "iocast_lan_addresses{domain=\"bl07\",standing=\"held\"} 3",
            "iocast_lan_addresses{domain=\"bl07\",standing=\"lost\"} 1",
            "iocast_lan_address_conflicts_total{domain=\"bl07\"} 2",
            "iocast_members{domain=\"bl07\"} 2",
            "iocast_external_ports{domain=\"bl07\"} 5",
            "iocast_external_ports_limit{domain=\"bl07\"} 4000",
            "iocast_circuits{domain=\"bl07\"} 7",
            "iocast_circuits_limit{domain=\"bl07\"} 100",
            "iocast_packets_total{domain=\"bl07\",protocol=\"ca\",verdict=\"relayed\"} 6",
            "iocast_duplicates{domain=\"bl07\"} 1",
            "iocast_unanswered{domain=\"bl07\"} 5",
            "iocast_subnet_leads{domain=\"bl07\",subnet=\"172.23.0.0/24\"} 1",
            "iocast_subnet_peers{domain=\"bl07\",state=\"expected\"} 0",
            "iocast_subnet_peers{domain=\"bl07\",state=\"heard\"} 0",
            "iocast_subnet_peers{domain=\"bl07\",state=\"silent\"} 0",
            "iocast_subnet_peers{domain=\"bl07\",state=\"unable\"} 0",
            "iocast_subnet_peers{domain=\"bl07\",state=\"wrong_key\"} 0",
            "iocast_subnet_copies_total{domain=\"bl07\",direction=\"sent\"} 11",
            "iocast_subnet_copies_total{domain=\"bl07\",direction=\"received\"} 12",
            "iocast_subnet_refused_total{domain=\"bl07\",reason=\"prefix\"} 13",
            "iocast_conntrack_entries 8",
            "iocast_conntrack_limit 9",
        ];
        expected.sort_unstable();
        assert_eq!(values, expected);
        assert!(text.contains("# TYPE iocast_packets counter\n") && text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn what_is_not_known_is_not_said_to_be_zero() {
        let text = render(
            &Progress { chain: None, duplicates: None, relay: vec![], ..progress() },
            None,
            None,
            None,
            &[],
        );
        assert!(
            ["chained", "conflist", "events", "answer", "duplicates", "unanswered", "domain", "conntrack"]
                .iter()
                .all(|name| !text.contains(name)),
            "{text}"
        );
    }

    #[test]
    fn a_node_is_ready_when_nothing_is_in_the_way() {
        assert!(not_ready(&progress(), &domains()).is_empty());
        assert!(
            not_ready(&Progress { chain: None, ..progress() }, &domains()).is_empty(),
            "chaining is not ours"
        );
    }

    #[test]
    fn before_the_first_pass_a_node_is_not_ready() {
        assert_eq!(not_ready(&Progress::default(), &domains()).len(), 1);
    }

    #[test]
    fn every_reason_for_not_being_ready_is_told() {
        let progress = Progress { chain: Some(Chain::default()), ..progress() };
        let reasons = not_ready(&progress, &Domains::new());
        assert_eq!(reasons.len(), 3, "{reasons:#?}");
        assert!(reasons[2].contains("domain `bl07`: uplink eth0"), "{reasons:#?}");
    }

    #[test]
    fn an_agent_that_makes_no_passes_is_dead() {
        assert_eq!(not_alive(Duration::from_secs(29), None), None);
        assert!(not_alive(Duration::from_secs(31), None).is_some_and(|reason| reason.contains("31 s")));
    }

    #[test]
    fn an_agent_whose_passes_fail_for_long_is_dead_and_says_why() {
        let failing = |seconds| {
            let since = Instant::now().checked_sub(Duration::from_secs(seconds));
            Progress { failing: since.map(|since| (since, "no lock".to_owned())), ..progress() }
        };
        assert_eq!(not_alive(Duration::ZERO, Some(&failing(29))), None);
        let reason = not_alive(Duration::ZERO, Some(&failing(31)));
        assert_eq!(reason.as_deref(), Some("passes have failed for 31 s: no lock"));
    }
}
