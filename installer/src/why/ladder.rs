//! From facts to the ladder: pure, no I/O. One function a rung, in the order in which a search, its answer and the connection
//! go; each says what was found, and one that is broken what mends it.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use abi::{Protocol, Verdict};
use view::why::{Cause, Rung, State};

use super::{
    facts::{Connection, Ear, Facts, Hearing, Outcome, Passing, Place, Pod, Search, Server, Sort},
    rung::{doubtful, fail, ok, unknown},
};
use crate::ask::domains::Domain;

/// Names in a list at most.
const MOST: usize = 3;

/// All rungs.
pub(super) fn climb(facts: &Facts) -> Vec<Rung> {
    let datapath = datapath(facts);
    if datapath.state == State::Fail {
        return vec![datapath];
    }
    let Some(case) = Case::new(facts) else {
        let none = "the agent has configured no domain";
        return vec![datapath, unknown("uplink", none)];
    };
    vec![
        datapath,
        uplink(&case),
        asked(&case),
        lan(&case),
        relayed(&case),
        given(&case),
        heard(&case),
        answered(&case),
        connected(&case),
    ]
}

/// The facts about one client and one domain.
struct Case<'a> {
    facts: &'a Facts,
    domain: &'a Domain,
    /// The search to follow: the client's, or what was put in on its behalf.
    search: Option<&'a Search>,
    /// The servers that the client could find.
    servers: Vec<&'a Server>,
}

impl<'a> Case<'a> {
    /// `None` if there is no domain.
    fn new(facts: &'a Facts) -> Option<Self> {
        let search = facts.search();
        let domain = facts.domain()?;
        let servers = facts.servers.iter().filter(|server| is_within(facts, server, domain)).collect();
        Some(Self { facts, domain, search, servers })
    }

    /// The pods that have the PV, wherever they are.
    fn holders(&self) -> impl Iterator<Item = &'a Pod> {
        let has = |pod: &&Pod| {
            self.facts.servers.iter().any(|server| server.place == Place::Pod(pod.name.clone()))
                || pod.ears.iter().any(|ear| matches!(ear.hearing, Hearing::Port(_)))
        };
        self.facts.pods.iter().filter(has)
    }

    fn members(&self) -> impl Iterator<Item = &'a Pod> {
        let name = &self.domain.name;
        self.facts.pods.iter().filter(move |pod| pod.domain.as_ref() == Some(name))
    }

    /// Whether nobody was seen to ask, so that no answer means nothing.
    fn is_unasked(&self) -> bool {
        self.facts.passive && self.search.is_none()
    }

    fn is_member(&self, pod: &Pod) -> bool {
        pod.domain.as_ref() == Some(&self.domain.name)
    }
}

impl Facts {
    /// The search to follow: a client's rather than one on its behalf; one that got further rather than another.
    pub(super) fn search(&self) -> Option<&Search> {
        let progress =
            |search: &&Search| (!search.ours, search.verdict == Verdict::Relayed, search.given.len());
        let concerned = |search: &&Search| self.from.is_none_or(|from| search.asker == from);
        self.searches.iter().filter(concerned).max_by_key(progress)
    }

    /// The domain that the client searches in, or would.
    pub(super) fn domain(&self) -> Option<&Domain> {
        let named = |name: &str| self.domains.iter().find(|domain| domain.name == name);
        let asked = || named(&self.search()?.domain);
        let on_lan = || {
            let from = self.from?;
            self.domains.iter().find(|domain| domain.network_of(from).is_some())
        };
        let has = || {
            self.servers.iter().find_map(|server| match &server.place {
                Place::Pod(name) => named(self.pods.iter().find(|pod| pod.name == *name)?.domain.as_deref()?),
                Place::Lan(domain) => named(domain),
                Place::Node => None,
            })
        };
        asked().or_else(on_lan).or_else(has).or_else(|| self.domains.first())
    }
}

/// Whether clients in `domain` find the server.
fn is_within(facts: &Facts, server: &Server, domain: &Domain) -> bool {
    match &server.place {
        Place::Pod(name) => {
            let is = |pod: &&Pod| pod.name == *name && pod.domain.as_ref() == Some(&domain.name);
            facts.pods.iter().find(is).is_some_and(|pod| pod.wants(&facts.pv))
        }
        Place::Node => true,
        Place::Lan(of) => *of == domain.name,
    }
}

fn datapath(facts: &Facts) -> Rung {
    match &facts.no_datapath {
        None => ok("datapath", "is loaded"),
        Some(error) => fail(
            "datapath",
            Cause::NoDatapath,
            format!("the programs are not there: {error}"),
            "run the agent on this node: kubectl -n iocast get pods -o wide; see iocast-node doctor",
        ),
    }
}

fn uplink(Case { domain, .. }: &Case<'_>) -> Rung {
    let Domain { name, uplink, address, fault, .. } = domain;
    match (fault, address) {
        (Some((found, mend)), _) => {
            fail("uplink", Cause::Uplink, format!("uplink {uplink} of domain `{name}` {found}"), mend)
        }
        (None, Some(address)) => ok("uplink", format!("{uplink}, {address}, of domain `{name}`")),
        (None, None) => unknown("uplink", format!("domain `{name}` has none")),
    }
}

fn asked(case: &Case<'_>) -> Rung {
    const RUNG: &str = "asked";
    let facts = case.facts;
    if let Some(search) = case.search.filter(|search| !search.ours) {
        let who = search.pod.clone().unwrap_or_else(|| search.asker.to_string());
        let Search { to, protocol, times, .. } = search;
        let how = if is_for_many(case.domain, *to.ip()) { "by broadcast" } else { "by unicast" };
        return ok(RUNG, format!("{who} {how} to {to} ({}), {}", protocol.name(), often(*times)));
    }
    if let Some((from, protocol, to)) = misdirected(facts) {
        let ports = ports(case.domain, protocol);
        let variable =
            if protocol == Protocol::Pva { "EPICS_PVA_BROADCAST_PORT" } else { "EPICS_CA_SERVER_PORT" };
        return fail(
            RUNG,
            Cause::OtherPort,
            format!(
                "{from} searches at {to}, and domain `{}` relays {} to {ports}",
                case.domain.name,
                protocol.name()
            ),
            format!(
                "unset {variable} at the client, or let the domain relay it: search_ports = {{ {} = \"{}\" }}",
                to.port(),
                protocol.name()
            ),
        );
    }
    if let Some(search) = case.search.filter(|_| facts.at_once) {
        return ok(RUNG, format!("by us, in the name of {}", search.asker));
    }
    let seconds = facts.waited.as_secs_f32().round();
    let Some(from) = facts.from else {
        let found = format!("no client asked for it in {seconds} s");
        let mend = if facts.passive {
            format!("start the client and ask again, or {}", probe(facts))
        } else {
            format!("name a client that does not see it: {}", again("HOST"))
        };
        return doubtful(RUNG, Cause::Silent, found, mend);
    };
    let found = format!("no search for it came from {from} in {seconds} s; {}", arrivals(facts, from));
    doubtful(RUNG, Cause::Silent, found, address_lists(case.domain))
}

/// The command again, for this client.
fn again(host: &str) -> String {
    format!("iocast-node why PV --from {host}")
}

/// How to find out what is not known, because nobody was asked.
fn probe(facts: &Facts) -> String {
    let host = facts.from.map_or("HOST".into(), |from| from.to_string());
    format!("let an admin ask on the node: {}", again(&host))
}

/// What a client's address lists have to be, so that its searches come here.
fn address_lists(domain: &Domain) -> String {
    let addresses = [domain.broadcast, domain.address].into_iter().flatten();
    let addresses: Vec<_> = addresses.map(|address| address.to_string()).collect();
    format!(
        "start the client and ask again; its EPICS_CA_ADDR_LIST or EPICS_PVA_ADDR_LIST must be empty, or have {}",
        addresses.join(" or ")
    )
}

/// A client's search for the PV that goes where no domain listens.
fn misdirected(facts: &Facts) -> Option<(Ipv4Addr, Protocol, std::net::SocketAddrV4)> {
    facts.passing.iter().find_map(|Passing { from, what, .. }| match what {
        Sort::Search(protocol, to) if facts.from.is_none_or(|wanted| wanted == *from) => {
            Some((*from, *protocol, *to))
        }
        _ => None,
    })
}

/// What came from a host instead.
fn arrivals(facts: &Facts, from: Ipv4Addr) -> String {
    let of_host = facts.passing.iter().filter(|passing| passing.from == from);
    let texts: Vec<_> = of_host
        .map(|Passing { what, .. }| match what {
            Sort::Search(_, to) => format!("a search for it to {to}"),
            Sort::OtherSearch(to) => format!("searches for other names to {to}"),
            Sort::Udp(to) => format!("datagrams to {to}"),
            Sort::Tcp(to) => format!("a connection to {to}"),
            Sort::Other => "ARP or the like".into(),
        })
        .collect();
    if texts.is_empty() {
        "nothing else came from it".into()
    } else {
        format!("what came from it: {}", list(&texts))
    }
}

fn is_for_many(domain: &Domain, address: Ipv4Addr) -> bool {
    address.is_broadcast() || address.is_multicast() || domain.broadcast == Some(address)
}

/// The ports on the LAN of a protocol's searches.
fn ports(domain: &Domain, protocol: Protocol) -> String {
    let of_protocol = domain.ports.iter().filter(|(spoken, ..)| *spoken == protocol);
    let ports: BTreeSet<_> = of_protocol.map(|(.., lan)| lan.to_string()).collect();
    if ports.is_empty() {
        "no port".into()
    } else {
        format!("UDP {}", list(&ports.into_iter().collect::<Vec<_>>()))
    }
}

fn lan(case: &Case<'_>) -> Rung {
    const RUNG: &str = "lan";
    let Domain { name, .. } = case.domain;
    if let Some(search) = case.search.filter(|search| search.verdict == Verdict::OffLan) {
        let asker = search.asker;
        let [a, b, c, _] = asker.octets();
        return fail(
            RUNG,
            Cause::OffLan,
            format!("{asker} is in no network of domain `{name}`, so no pod may answer it"),
            format!("add its network to [domain.{name}] in the configuration: lan = [\"{a}.{b}.{c}.0/24\"]"),
        );
    }
    if let Some(pod) = case.search.and_then(|search| search.pod.as_ref()) {
        return ok(RUNG, format!("{pod} is a member of domain `{name}`"));
    }
    let client = case.search.map(|search| search.asker).or(case.facts.from);
    match client.map(|client| (client, case.domain.network_of(client))) {
        Some((client, Some((network, prefix)))) => ok(RUNG, format!("{client} is in {network}/{prefix}")),
        Some((client, None)) => unknown(RUNG, format!("{client} is in no network of domain `{name}`")),
        None => unknown(RUNG, "no client is known"),
    }
}

fn relayed(case: &Case<'_>) -> Rung {
    const RUNG: &str = "relayed";
    let Some(search) = case.search else { return unknown(RUNG, "no search came") };
    let is_limited = search.limited > search.times / 2;
    match if is_limited { Verdict::Limited } else { search.verdict } {
        Verdict::Relayed | Verdict::Sent | Verdict::Direct | Verdict::TranslatedIn => {
            let whose = if search.ours { ", as a search of ours in its name" } else { "" };
            ok(RUNG, format!("to the pods of domain `{}`{whose}", search.domain))
        }
        Verdict::OffLan => unknown(RUNG, "not to clients that are not on the LAN"),
        Verdict::Limited => fail(
            RUNG,
            Cause::Limited,
            format!("searches of {} exceed the rates of domain `{}`", search.asker, search.domain),
            format!(
                "find out what asks so often (iocast-node snoop --client {}), or raise `rates`",
                search.asker
            ),
        ),
        verdict => fail(
            RUNG,
            Cause::NotRelayed,
            format!("its search is not relayed, but {}", verdict.name()),
            "docs/admin.md says what this verdict means",
        ),
    }
}

fn given(case: &Case<'_>) -> Rung {
    const RUNG: &str = "given";
    if case.is_unasked() {
        return unknown(RUNG, "no search came");
    }
    if case.servers.is_empty()
        && let Some(pod) = case.holders().find(|pod| !case.is_member(pod))
    {
        return stranger(case, pod);
    }
    if case.servers.is_empty()
        && let Some(pod) = case.holders().find(|pod| !pod.wants(&case.facts.pv))
    {
        return withheld(pod);
    }
    if case.servers.is_empty()
        && case.facts.near.is_empty()
        && let Some(pod) = case.facts.pods.iter().find(|pod| asks_in_vain(case, pod))
    {
        return stranger(case, pod);
    }
    let Some(search) = case.search else { return unknown(RUNG, "no search came") };
    let mut given = search.given.clone();
    given.sort();
    let members = case.members().count();
    if given.is_empty() {
        unknown(RUNG, format!("to none of the {members} pods of domain `{}`", case.domain.name))
    } else {
        ok(RUNG, format!("to {} of the {members} pods: {}", given.len(), list(&given)))
    }
}

/// What a pod's own annotation keeps from it.
fn withheld(Pod { name, prefixes, .. }: &Pod) -> Rung {
    let found = format!("{name} has it, and gets only searches for names that begin with {}", list(prefixes));
    let mend =
        "add its beginning to the annotation iocast.io/pvs of the pod's template, or remove the annotation";
    fail("given", Cause::Withheld, found, mend)
}

/// Whether a pod asks for this domain and is no member.
fn asks_in_vain(case: &Case<'_>, pod: &Pod) -> bool {
    pod.absent.as_ref().is_some_and(|(domain, _)| *domain == case.domain.name)
}

/// Why a pod that has the PV, or may have it, is not among those that get searches.
fn stranger(case: &Case<'_>, pod: &Pod) -> Rung {
    const RUNG: &str = "given";
    let (name, domain) = (&pod.name, &case.domain.name);
    let annotate = format!("annotate its template: iocast.io/domain: {domain}");
    if let Some(other) = &pod.domain {
        let found = format!("{name} has it and is in domain `{other}`; the client asks in domain `{domain}`");
        return fail(RUNG, Cause::OtherDomain, found, format!("{annotate}, or ask on the LAN of `{other}`"));
    }
    if let Some((wanted, why)) = &pod.absent {
        let found = format!("{name} asks for domain `{wanted}` and is no member: {why}");
        return fail(RUNG, Cause::NoMember, found, "mend that, and delete the pod to have it recreated");
    }
    let found = format!("{name} has it, and is in no domain: it has no annotation");
    fail(RUNG, Cause::NotAnnotated, found, annotate)
}

fn heard(case: &Case<'_>) -> Rung {
    const RUNG: &str = "heard";
    let mut listeners: Vec<_> = case.members().filter(|pod| hears(pod)).map(|pod| pod.name.clone()).collect();
    listeners.sort();
    let well = |found: String| ok(RUNG, found);
    if let Some(server) = case.servers.first() {
        return match &server.place {
            Place::Pod(name) => deaf(case, name).unwrap_or_else(|| well(format!("{name} listens"))),
            _ => well("not by a pod of this node".into()),
        };
    }
    if let Some(rung) = case.members().find_map(|pod| misplaced(case, pod)) {
        return rung;
    }
    if !case.facts.near.is_empty() {
        return well(format!("{} listen", list(&listeners)));
    }
    if !case.is_unasked()
        && let Some(rung) = loopback(case).or_else(|| silent(case))
    {
        return rung;
    }
    match listeners.as_slice() {
        [] => unknown(RUNG, "no pod of the domain listens"),
        [one] => well(format!("{one} listens")),
        _ => well(format!("{} pods listen: {}", listeners.len(), list(&listeners))),
    }
}

fn hears(pod: &Pod) -> bool {
    pod.ears.iter().any(|ear| ear.hearing == Hearing::Hears)
}

/// A pod that has the PV, and hears only what is sent to its own address.
fn deaf(case: &Case<'_>, name: &str) -> Option<Rung> {
    let pod = case.members().find(|pod| pod.name == name)?;
    if case.search.is_some_and(|search| search.replies.iter().any(|reply| reply.pod == name)) {
        return None; // the client asks that address
    }
    let ear = pod.ears.iter().find(|ear| ear.hearing == Hearing::Unicast).filter(|_| !hears(pod))?;
    Some(fail(
        "heard",
        Cause::Unicast,
        format!("{name} hears at UDP {} only what is sent to {}", ear.port, pod.address),
        interfaces(ear.protocol),
    ))
}

/// A pod that has the PV, at another port.
fn misplaced(case: &Case<'_>, pod: &Pod) -> Option<Rung> {
    let (ear, port) = pod.ears.iter().find_map(|ear| match ear.hearing {
        Hearing::Port(port) => Some((ear, port)),
        _ => None,
    })?;
    let (name, protocol) = (&pod.name, ear.protocol.name());
    let variable =
        if ear.protocol == Protocol::Pva { "EPICS_PVAS_BROADCAST_PORT" } else { "EPICS_CAS_SERVER_PORT" };
    Some(fail(
        "heard",
        Cause::PodPort,
        format!("{name} has it, but listens at UDP {port}, not at {} ({protocol})", ear.port),
        format!(
            "unset {variable} in the pod, or let domain `{}` relay it: search_ports = {{ {port} = \"{protocol}\" }}",
            case.domain.name
        ),
    ))
}

/// Pods whose server is on loopback only.
fn loopback(case: &Case<'_>) -> Option<Rung> {
    let deaf = |pod: &&Pod| pod.ears.iter().any(|ear| ear.hearing == Hearing::Loopback);
    let ear = |pod: &Pod| pod.ears.iter().find(|ear| ear.hearing == Hearing::Loopback).copied();
    let pods: Vec<_> = case.members().filter(deaf).collect();
    let Ear { protocol, port, .. } = ear(pods.first()?)?;
    let names: Vec<_> = pods.iter().map(|pod| pod.name.clone()).collect();
    let found = format!("{} listens on loopback only, at UDP {port}", list(&names));
    Some(fail("heard", Cause::Loopback, found, interfaces(protocol)))
}

fn interfaces(protocol: Protocol) -> String {
    let variable =
        if protocol == Protocol::Pva { "EPICS_PVAS_INTF_ADDR_LIST" } else { "EPICS_CAS_INTF_ADDR_LIST" };
    format!("unset {variable} in the pod")
}

/// Pods in which no server runs.
fn silent(case: &Case<'_>) -> Option<Rung> {
    let deaf =
        |pod: &&Pod| !pod.ears.is_empty() && pod.ears.iter().all(|ear| ear.hearing == Hearing::Nothing);
    let pods: Vec<_> = case.members().filter(deaf).collect();
    let pod = pods.iter().min_by_key(|pod| pod.answered.unwrap_or(Duration::MAX))?;
    let ports: BTreeSet<_> = pod.ears.iter().map(|ear| ear.port.to_string()).collect();
    let at = format!("nothing listens at UDP {}", list(&ports.into_iter().collect::<Vec<_>>()));
    let (namespace, name) = pod.name.split_once('/').unwrap_or(("NAMESPACE", &pod.name));
    let logs =
        format!("if the PV is its own, see why its server does not run: kubectl -n {namespace} logs {name}");
    let others = match pods.len() - 1 {
        0 => String::new(),
        others => format!(" (nor in {others} other pods)"),
    };
    Some(match pod.answered {
        Some(ago) => {
            let found = format!("{} answered {} s ago, and now {at} in it{others}", pod.name, ago.as_secs());
            fail("heard", Cause::Restarting, found, format!("wait until it has started again; {logs}"))
        }
        None if case.members().any(hears) => {
            let found = format!("no server that runs has it, and none runs in {}: {at}{others}", pod.name);
            fail("heard", Cause::NotRunning, found, format!("check the PV's name; {logs}"))
        }
        None => {
            fail("heard", Cause::NotRunning, format!("no server runs in {}: {at}{others}", pod.name), logs)
        }
    })
}

fn answered(case: &Case<'_>) -> Rung {
    const RUNG: &str = "answered";
    let facts = case.facts;
    if case.servers.is_empty() {
        return nobody(case);
    }
    let reply = case.search.and_then(|search| search.replies.first());
    if let Some(reply) = reply.filter(|reply| reply.verdict == Verdict::NoPort) {
        let (first, last) = case.domain.externals;
        return fail(
            RUNG,
            Cause::NoPort,
            format!("{} answers, but no external port is free for it ({first}-{last})", reply.pod),
            format!(
                "widen `ports` or `ports_per_pod` of [domain.{}]; iocast-node status counts them",
                case.domain.name
            ),
        );
    }
    if let Some(rung) = duplicate(case) {
        return rung;
    }
    let server = case.servers[0];
    let who = party(server);
    let lost = case.search.is_some_and(|search| {
        search.verdict == Verdict::Relayed && search.given.contains(&who) && search.replies.is_empty()
    });
    if lost {
        let found = format!(
            "{who} answers this node, but not {}",
            case.search.map_or(Ipv4Addr::UNSPECIFIED, |search| search.asker)
        );
        return fail(
            RUNG,
            Cause::NoAnswer,
            found,
            format!("look at what it sends: iocast-node snoop --pv '{}'", facts.pv),
        );
    }
    let after = reply.and_then(|reply| reply.after).unwrap_or(server.after);
    ok(RUNG, format!("by {who} after {:.1} ms", after.as_secs_f64() * 1e3))
}

/// Nobody has the PV who would be found.
fn nobody(case: &Case<'_>) -> Rung {
    const RUNG: &str = "answered";
    let pv = &case.facts.pv;
    if case.facts.passive {
        return unseen(case);
    }
    if let Some((name, who)) = case.facts.near.first() {
        return fail(
            RUNG,
            Cause::Mistyped,
            format!("nobody has {pv}, but {who} has {name}"),
            "check the PV's name",
        );
    }
    if case.holders().next().is_some() {
        return unknown(RUNG, "not where the client asks");
    }
    let found =
        format!("no pod in domain `{}` and no host on its LAN says that it has {pv}", case.domain.name);
    fail(
        RUNG,
        Cause::Nobody,
        found,
        "check the PV's name, and that its IOC runs on this LAN: iocast-node status lists the pods here",
    )
}

/// Nobody was seen to answer, and nobody was asked: servers elsewhere on the LAN may have it.
fn unseen(case: &Case<'_>) -> Rung {
    const RUNG: &str = "answered";
    let found = match (case.facts.near.first(), case.search) {
        (Some((name, who)), _) => format!("nobody was seen to have it, but {who} has {name}"),
        (None, Some(_)) => "by no pod of this node; other servers on the LAN are not seen".into(),
        (None, None) => "nobody asked, so nobody answered".into(),
    };
    doubtful(RUNG, Cause::Nobody, found, format!("check the PV's name, or {}", probe(case.facts)))
}

/// More than one server of a protocol.
fn duplicate(case: &Case<'_>) -> Option<Rung> {
    for protocol in [Protocol::Ca, Protocol::Pva] {
        let of_protocol = case.servers.iter().filter(|server| server.protocol == protocol);
        let parties: BTreeSet<_> = of_protocol.map(|server| party(server)).collect();
        if parties.len() > 1 {
            let parties: Vec<_> = parties.into_iter().collect();
            return Some(fail(
                "answered",
                Cause::Duplicate,
                format!("{} servers have it ({}): {}", parties.len(), protocol.name(), list(&parties)),
                "stop all but one, or give their records other names",
            ));
        }
    }
    None
}

/// A server for people: the pod, or the host and its port.
fn party(server: &Server) -> String {
    match &server.place {
        Place::Pod(name) => name.clone(),
        Place::Node => format!("a process of this node (TCP {})", server.at.port()),
        Place::Lan(_) => server.at.to_string(),
    }
}

fn connected(case: &Case<'_>) -> Rung {
    const RUNG: &str = "connected";
    let Some(connection) = &case.facts.connection else { return untried(case) };
    let Connection { from, to, pod, inside, outcome, .. } = connection;
    let way = format!("a connection of {from} to {to}, for {pod},");
    match outcome {
        Outcome::Accepted(after) => {
            ok(RUNG, format!("{from} to {to}, accepted by {pod} after {:.1} ms", after.as_secs_f64() * 1e3))
        }
        Outcome::Refused => fail(
            RUNG,
            Cause::Refused,
            format!("{way} is refused: no server is at {inside}, or the node rejects it"),
            "see the logs of its server, and rules with `reject` on the node",
        ),
        Outcome::Dropped => dropped(case.facts, connection, &way),
        Outcome::Silent => fail(
            RUNG,
            Cause::Unanswered,
            format!("{way} comes to the pod, and nothing comes back"),
            "see whether its server hangs, and firewall rules in the pod or at its interface",
        ),
        Outcome::AnswerLost => fail(
            RUNG,
            Cause::AnswerLost,
            format!("{way} is accepted, but the answer does not leave the uplink"),
            format!(
                "see whether {from} is there (it must answer ARP), rules on the node for what pods send, and `iocast-node doctor`"
            ),
        ),
    }
}

/// Why no connection was tried.
fn untried(case: &Case<'_>) -> Rung {
    const RUNG: &str = "connected";
    match case.servers.first().map(|server| &server.place) {
        Some(_) if case.facts.passive => {
            doubtful(RUNG, Cause::Untried, "a page tries no connection", probe(case.facts))
        }
        None => unknown(RUNG, "there is nobody to connect to"),
        Some(Place::Pod(_)) if case.search.is_none_or(|search| search.pod.is_some()) => doubtful(
            RUNG,
            Cause::Untried,
            "no client on the LAN is known in whose name to try it",
            format!("name one: {}", again("HOST")),
        ),
        Some(Place::Pod(_)) => unknown(RUNG, "no port of the pod's is known to connect to"),
        Some(_) => doubtful(
            RUNG,
            Cause::Elsewhere,
            format!("not through this node: {} has it", party(case.servers[0])),
            "ask on the node that has it, if it is one with iocast",
        ),
    }
}

/// A connection request that the node drops.
fn dropped(facts: &Facts, Connection { inside, programs, .. }: &Connection, way: &str) -> Rung {
    const RUNG: &str = "connected";
    let accept = |what: &str| {
        format!("{what}: iptables -I FORWARD -p tcp -d {} --dport {} -j ACCEPT", inside.ip(), inside.port())
    };
    if !programs.is_empty() {
        let found = format!("{way} is dropped on the node, perhaps by {} at the pod's veth", list(programs));
        return fail(RUNG, Cause::Firewall, found, "let the NetworkPolicy of the pod admit the LAN");
    }
    if facts.dropping.is_empty() {
        let found = format!(
            "{way} is dropped on the node, by a rule or a NetworkPolicy, or by iocast if `iocast-node status` counts no_circuit"
        );
        return fail(
            RUNG,
            Cause::Firewall,
            found,
            accept("find the rule (nft list ruleset), or accept before it"),
        );
    }
    let found =
        format!("{way} is dropped on the node, where the policy of {} is drop", list(&facts.dropping));
    fail(RUNG, Cause::FirewallPolicy, found, accept("accept connections from the LAN to pods"))
}

fn often(times: u32) -> String {
    if times == 1 { "once".into() } else { format!("{times} times") }
}

/// Names as in a sentence, not too many.
fn list(names: &[String]) -> String {
    let shown = names.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > MOST { format!("{shown} and {} more", names.len() - MOST) } else { shown }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddrV4;

    use view::why::broken;

    use super::{super::facts::Reply, *};

    const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 23, 0, 2);

    fn socket(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    fn pod(name: &str, domain: Option<&str>, hearing: Hearing) -> Pod {
        Pod {
            name: format!("bl07/{name}"),
            address: [10, 244, 1, 2].into(),
            lan_address: None,
            domain: domain.map(str::to_owned),
            absent: None,
            ears: vec![Ear { protocol: Protocol::Ca, port: 5064, hearing }],
            answered: None,
            prefixes: vec![],
        }
    }

    fn server(place: Place, at: &str) -> Server {
        Server {
            protocol: Protocol::Ca,
            at: socket(at),
            place,
            after: Duration::from_micros(400),
            guid: vec![],
        }
    }

    /// A client that asks, a pod that answers, a connection that is accepted.
    pub(in super::super) fn well() -> Facts {
        let name = "bl07/ioc-a".to_owned();
        let reply = Reply {
            pod: name.clone(),
            verdict: Verdict::Answered,
            port: Some(61000),
            after: Some(Duration::from_micros(700)),
        };
        Facts {
            pv: "A:NAME".into(),
            from: Some(CLIENT),
            waited: Duration::from_secs(3),
            domains: vec![Domain {
                name: "lab".into(),
                uplink: "eth0".into(),
                address: Some([172, 23, 0, 10].into()),
                broadcast: Some([172, 23, 0, 255].into()),
                networks: vec![([172, 23, 0, 10].into(), 24)],
                ports: vec![(Protocol::Ca, 5064, 5064), (Protocol::Pva, 5076, 5076)],
                externals: (61000, 64999),
                fault: None,
            }],
            searches: vec![Search {
                asker: CLIENT,
                pod: None,
                to: socket("172.23.0.255:5064"),
                protocol: Protocol::Ca,
                domain: "lab".into(),
                verdict: Verdict::Relayed,
                times: 3,
                limited: 0,
                ours: false,
                given: vec![name.clone()],
                replies: vec![reply],
            }],
            pods: vec![pod("ioc-a", Some("lab"), Hearing::Hears)],
            servers: vec![server(Place::Pod(name.clone()), "10.244.1.2:5064")],
            connection: Some(Connection {
                from: CLIENT,
                to: socket("172.23.0.10:61000"),
                pod: name,
                inside: socket("10.244.1.2:5064"),
                outcome: Outcome::Accepted(Duration::from_micros(200)),
                programs: vec![],
            }),
            ..Facts::default()
        }
    }

    /// Nobody has the PV, and nobody answered.
    fn unanswered(facts: &mut Facts) {
        facts.servers.clear();
        facts.searches[0].replies.clear();
        facts.connection = None;
    }

    fn outcome(facts: &mut Facts, outcome: Outcome) {
        facts.connection.iter_mut().for_each(|connection| connection.outcome = outcome);
    }

    /// The pod is this one, has the PV, and got no search.
    fn only(facts: &mut Facts, pod: Pod) {
        unanswered(facts);
        facts.searches[0].given.clear();
        facts.servers = vec![server(Place::Pod(pod.name.clone()), "10.244.1.2:5064")];
        facts.pods = vec![pod];
    }

    /// A rung, whether it is so and why not, and what makes it so.
    type Seen = ((&'static str, State, Option<Cause>), fn(&mut Facts));

    #[test]
    fn without_asking_only_what_was_seen_is_broken_and_the_rest_says_how_to_ask() {
        let cases: [Seen; 6] = [
            (("connected", State::Unknown, Some(Cause::Untried)), |_| {}),
            (("asked", State::Unknown, Some(Cause::Silent)), |facts| {
                unanswered(facts);
                facts.searches.clear();
            }),
            (("answered", State::Unknown, Some(Cause::Nobody)), unanswered),
            (("uplink", State::Fail, Some(Cause::Uplink)), |facts| {
                facts.domains[0].fault = Some(("is down".into(), "up".into()));
            }),
            (("relayed", State::Fail, Some(Cause::Limited)), |facts| facts.searches[0].limited = 3),
            (("answered", State::Fail, Some(Cause::Duplicate)), |facts| {
                facts.servers.push(server(Place::Lan("lab".into()), "172.23.0.3:5064"));
            }),
        ];
        for ((rung, state, cause), change) in cases {
            let mut facts = Facts { passive: true, connection: None, ..well() };
            change(&mut facts);
            let rungs = climb(&facts);
            let found = broken(&rungs).unwrap();
            assert_eq!((found.rung.as_ref(), found.state, found.cause), (rung, state, cause), "{rungs:?}");
            let asks =
                found.mend.as_ref().is_some_and(|mend| mend.contains("iocast-node why PV --from 172.23.0.2"));
            assert!(state == State::Fail || asks || found.cause == Some(Cause::Silent), "{found:?}");
        }
    }

    #[test]
    fn nothing_is_broken_because_nobody_asked() {
        for hearing in [Hearing::Hears, Hearing::Unicast, Hearing::Loopback, Hearing::Nothing] {
            for from in [None, Some(CLIENT)] {
                let mut facts = Facts { passive: true, from, ..well() };
                unanswered(&mut facts);
                facts.searches.clear();
                facts.pods[0].ears[0].hearing = hearing;
                facts.near = vec![("A:NAMES".into(), "bl07/ioc-a".into())];
                let absent = Some(("lab".into(), "it may not".into()));
                facts.pods.push(Pod { absent, ..pod("ioc-b", None, hearing) });
                let rungs = climb(&facts);
                assert!(rungs.iter().all(|rung| rung.state != State::Fail), "{hearing:?}: {rungs:?}");
            }
        }
    }

    type Case = (&'static str, Cause, fn(&mut Facts));

    const CASES: &[Case] = &[
        ("datapath", Cause::NoDatapath, |facts| facts.no_datapath = Some("gone".into())),
        ("uplink", Cause::Uplink, |facts| facts.domains[0].fault = Some(("is down".into(), "up".into()))),
        ("asked", Cause::Silent, |facts| facts.searches.clear()),
        ("asked", Cause::OtherPort, |facts| {
            facts.searches.clear();
            let what = Sort::Search(Protocol::Ca, socket("172.23.0.255:6064"));
            facts.passing = vec![Passing { from: CLIENT, what, times: 1 }];
        }),
        ("lan", Cause::OffLan, |facts| facts.searches[0].verdict = Verdict::OffLan),
        ("relayed", Cause::Limited, |facts| facts.searches[0].limited = 2),
        ("relayed", Cause::NotRelayed, |facts| facts.searches[0].verdict = Verdict::Malformed),
        ("given", Cause::NotAnnotated, |facts| only(facts, pod("ioc-b", None, Hearing::Hears))),
        ("given", Cause::OtherDomain, |facts| only(facts, pod("ioc-b", Some("other"), Hearing::Hears))),
        ("given", Cause::Withheld, |facts| {
            let prefixes = vec!["B:".into(), "A:NAMES".into()];
            only(facts, Pod { prefixes, ..pod("ioc-a", Some("lab"), Hearing::Hears) });
        }),
        ("given", Cause::NoMember, |facts| {
            let absent = Some(("lab".into(), "it may not".into()));
            only(facts, Pod { absent, ..pod("ioc-b", None, Hearing::Hears) });
        }),
        ("heard", Cause::Unicast, |facts| {
            facts.searches[0].replies.clear();
            facts.pods[0].ears[0].hearing = Hearing::Unicast;
        }),
        ("heard", Cause::Loopback, |facts| {
            unanswered(facts);
            facts.pods[0].ears[0].hearing = Hearing::Loopback;
        }),
        ("heard", Cause::PodPort, |facts| {
            unanswered(facts);
            facts.pods[0].ears[0].hearing = Hearing::Port(7064);
        }),
        ("heard", Cause::NotRunning, |facts| {
            unanswered(facts);
            facts.pods[0].ears[0].hearing = Hearing::Nothing;
        }),
        ("heard", Cause::Restarting, |facts| {
            unanswered(facts);
            facts.pods[0].ears[0].hearing = Hearing::Nothing;
            facts.pods[0].answered = Some(Duration::from_secs(7));
        }),
        ("answered", Cause::Mistyped, |facts| {
            unanswered(facts);
            facts.near = vec![("A:NAMES".into(), "bl07/ioc-a".into())];
        }),
        ("answered", Cause::Nobody, unanswered),
        ("answered", Cause::NoPort, |facts| facts.searches[0].replies[0].verdict = Verdict::NoPort),
        ("answered", Cause::NoAnswer, |facts| facts.searches[0].replies.clear()),
        ("answered", Cause::Duplicate, |facts| {
            facts.servers.push(server(Place::Lan("lab".into()), "172.23.0.3:5064"));
        }),
        ("answered", Cause::Duplicate, |facts| facts.servers.push(server(Place::Node, "172.23.0.10:5064"))),
        ("connected", Cause::Firewall, |facts| outcome(facts, Outcome::Dropped)),
        ("connected", Cause::FirewallPolicy, |facts| {
            outcome(facts, Outcome::Dropped);
            facts.dropping = vec!["ip filter FORWARD".into()];
        }),
        ("connected", Cause::Refused, |facts| outcome(facts, Outcome::Refused)),
        ("connected", Cause::Unanswered, |facts| outcome(facts, Outcome::Silent)),
        ("connected", Cause::AnswerLost, |facts| outcome(facts, Outcome::AnswerLost)),
        ("connected", Cause::Elsewhere, |facts| {
            unanswered(facts);
            facts.servers = vec![server(Place::Lan("lab".into()), "172.23.0.3:5064")];
        }),
        ("asked", Cause::Silent, |facts| {
            (facts.from, facts.connection) = (None, None);
            facts.searches.clear();
        }),
    ];

    #[test]
    fn a_client_that_sees_the_pv_is_found_well() {
        let rungs = climb(&well());
        assert!(rungs.iter().all(|rung| rung.state == State::Ok), "{rungs:#?}");
        assert_eq!(broken(&rungs), None);
    }

    #[test]
    fn the_first_broken_rung_has_the_cause_and_what_mends_it() {
        for (at, cause, plant) in CASES {
            let mut facts = well();
            plant(&mut facts);
            let rungs = climb(&facts);
            let rung = broken(&rungs).unwrap_or_else(|| panic!("{cause:?} is not found"));
            assert_eq!((&*rung.rung, rung.cause), (*at, Some(*cause)), "{rungs:#?}");
            assert!(rung.mend.as_ref().is_some_and(|mend| !mend.is_empty()), "{rung:?}");
        }
    }

    #[test]
    fn a_search_of_a_client_is_followed_rather_than_ours() {
        let mut facts = well();
        let ours = Search { ours: true, given: vec![], ..facts.searches[0].clone() };
        facts.searches.insert(0, ours);
        assert!(facts.search().is_some_and(|search| !search.ours));
        facts.from = Some([172, 23, 0, 9].into());
        assert_eq!(facts.search(), None, "another client's");
    }

    #[test]
    fn a_server_that_speaks_both_protocols_is_no_duplicate_and_neither_is_one_of_another_domain() {
        let mut facts = well();
        facts.servers.push(Server { protocol: Protocol::Pva, ..facts.servers[0].clone() });
        facts.pods.push(Pod { name: "bl07/ioc-b".into(), ..pod("ioc-b", Some("other"), Hearing::Hears) });
        facts.servers.push(server(Place::Pod("bl07/ioc-b".into()), "10.244.1.3:5064"));
        assert_eq!(broken(&climb(&facts)), None);
    }

    #[test]
    fn a_list_is_not_too_long() {
        let names: Vec<_> = (1..=5).map(|number| number.to_string()).collect();
        assert_eq!((list(&names).as_str(), list(&names[..3]).as_str()), ("1, 2, 3 and 2 more", "1, 2, 3"));
    }
}
