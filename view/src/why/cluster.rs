//! The answers of several nodes as one: the rungs of the node that explains most, and a line for each other node.
//!
//! The answer does not depend on the order in which nodes are taken in: which of two nodes explains more is a total order,
//! and everything else is a union that is sorted.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{Cause, Report, Rung, Server, State, UNIQUE, Verdict, broken, line};
use crate::{Answer, Asked, Style, VERSION, printable};

/// What a node without a pod that has the PV may find broken, from what says least about the cluster to what says most. Of a
/// node whose pod has the PV everything says more.
const CAUSES: [&[Cause]; 9] = [
    // The client is on another node's LAN.
    &[Cause::OffLan],
    // No pod there has the PV: it asks them whether or not its uplink works.
    &[Cause::Uplink],
    &[Cause::Nobody],
    // What its pods have is not known.
    &[Cause::NoDatapath],
    // A pod that may have it, or may have nothing to do with it.
    &[Cause::NotRunning],
    &[Cause::NoMember, Cause::Loopback],
    &[Cause::Restarting],
    &[Cause::Mistyped],
    // What holds for the client holds wherever the PV is.
    &[Cause::OtherPort, Cause::Limited, Cause::NotRelayed],
];

impl Answer for Report {
    fn nothing(nodes: Vec<Asked>) -> Self {
        Self {
            version: VERSION,
            pv: String::new(),
            client: None,
            domain: None,
            state: State::Unknown,
            cause: None,
            rungs: vec![],
            servers: vec![],
            seconds: 0.0,
            nodes,
            node: None,
            others: vec![],
        }
    }

    fn merge(&mut self, other: Self) {
        merge(self, other);
    }

    fn text(&self, style: &Style) -> String {
        if self.rungs.is_empty() {
            return String::new();
        }
        let mut out = String::new();
        if let Some(node) = self.node.as_deref().filter(|_| !self.others.is_empty()) {
            out += &format!("{}:\n", printable(node));
        }
        for Rung { rung, state, found, .. } in &self.rungs {
            out += &line(*state, rung, found, style);
        }
        out + "\n" + &self.verdicts(style) + &self.conclusion(style.width)
    }
}

/// Takes `other` in.
fn merge(report: &mut Report, mut other: Report) {
    [&mut *report, &mut other].into_iter().for_each(forget_unique);
    if explains_more(&other, report) {
        std::mem::swap(report, &mut other);
    }
    report.others.extend(verdict(&other));
    report.others.append(&mut other.others);
    report.others.sort_by(|a, b| a.node.cmp(&b.node));
    report.nodes.append(&mut other.nodes);
    report.nodes.sort_by(|a, b| a.node.cmp(&b.node));
    report.servers.append(&mut other.servers);
    report.servers.sort_by(|a, b| key(a).cmp(&key(b)));
    report.seconds = report.seconds.max(other.seconds);
    let is_told = broken(&report.rungs).is_some_and(|rung| rung.cause == Some(Cause::Duplicate));
    report.rungs.extend(duplicate(&report.servers).filter(|_| !is_told));
    settle(report);
}

/// Removes what was found about an earlier part of the nodes.
fn forget_unique(report: &mut Report) {
    report.rungs.retain(|rung| rung.rung != UNIQUE);
    settle(report);
}

fn settle(report: &mut Report) {
    if !report.rungs.is_empty() {
        let explains = broken(&report.rungs);
        (report.state, report.cause) =
            (explains.map_or(State::Ok, |rung| rung.state), explains.and_then(|rung| rung.cause));
    }
}

/// Whether `one` explains more than `other`; of two that explain the same, the one that climbed further.
fn explains_more(one: &Report, other: &Report) -> bool {
    let rank = |report: &Report| {
        let climbed = report.rungs.iter().take_while(|rung| rung.state == State::Ok).count();
        (weight(report), climbed, Reverse(report.node.clone()))
    };
    rank(one) > rank(other)
}

/// How much a node's answer explains.
fn weight(report: &Report) -> usize {
    const MOST: usize = 2 * CAUSES.len();
    let has_it = report.servers.iter().any(|server| server.pod.is_some());
    match (report.state, report.cause) {
        _ if report.rungs.is_empty() => 0,
        (_, Some(Cause::Duplicate)) => MOST + 5,
        (State::Ok, _) => MOST + 4,
        // A pod has it that the client could not find even if all else were well.
        (_, Some(Cause::NotAnnotated | Cause::OtherDomain | Cause::PodPort)) => MOST + 1,
        (_, Some(Cause::NoMember)) if has_it => MOST + 1,
        (State::Fail, _) if has_it => MOST + 3,
        (State::Unknown, _) if has_it => MOST + 2,
        // Somebody else has it: more than that nobody has, less than a pod that may have it.
        (State::Unknown, _) if !report.servers.is_empty() => 2 * rung_of(Cause::NoDatapath) + 1,
        (State::Unknown, _) => 1,
        (State::Fail, cause) => 2 * cause.map_or(0, rung_of),
    }
}

/// The place of a cause among [`CAUSES`], from 1.
fn rung_of(cause: Cause) -> usize {
    CAUSES.iter().position(|causes| causes.contains(&cause)).map_or(CAUSES.len(), |place| place + 1)
}

/// What a node found, in a line; none if it did not answer.
fn verdict(report: &Report) -> Option<Verdict> {
    let rung = report.broken().or(report.rungs.last())?;
    let Rung { state, cause, found, .. } = rung.clone();
    Some(Verdict { node: report.node.clone()?, state, cause, found })
}

/// More than one server of a protocol in a domain, at different hosts; those of one host its own node tells.
fn duplicate(servers: &[Server]) -> Option<Rung> {
    let mut hosts = BTreeMap::<_, BTreeMap<_, BTreeSet<String>>>::new();
    for server in servers {
        if let (Some(domain), Some(host)) = (&server.domain, server.host) {
            let of_host = hosts.entry((&server.protocol, domain)).or_default().entry(host).or_default();
            of_host.extend(server.pod.as_ref().map(|pod| format!("{pod} on {}", server.node)));
        }
    }
    let ((protocol, domain), hosts) = hosts.into_iter().find(|(_, hosts)| hosts.len() > 1)?;
    let party = |(host, pods): (_, BTreeSet<String>)| pods.first().cloned().unwrap_or(format!("{host}"));
    let parties: Vec<_> =
        hosts.into_iter().map(|(host, pods): (std::net::Ipv4Addr, _)| party((host, pods))).collect();
    Some(Rung {
        rung: UNIQUE.into(),
        state: State::Fail,
        cause: Some(Cause::Duplicate),
        found: format!(
            "{} servers have it ({protocol}, domain `{domain}`): {}",
            parties.len(),
            parties.join(", ")
        ),
        mend: Some("stop all but one, or give their records other names".into()),
    })
}

/// The order of servers.
fn key(server: &Server) -> (&str, Option<&String>, &str, std::net::SocketAddrV4) {
    (&server.protocol, server.domain.as_ref(), &server.node, server.address)
}

#[cfg(test)]
mod tests {
    use Cause::*;

    use super::*;

    /// A server, as a node sees it.
    #[derive(Clone, Copy)]
    enum Sees {
        /// A pod of its own.
        Pod,
        /// A pod of its own that is no member.
        Stranger,
        /// What is at this host on the LAN.
        Host(u8),
    }

    /// A node: its number, which ends its address, what is broken, and whom it sees.
    type Node = (u8, Option<Cause>, &'static [Sees]);
    /// Nodes, and what the cluster's answer is: which node's rungs, and why.
    type Case = (&'static str, &'static [Node], (u8, Option<Cause>));

    const UNKNOWN: [Cause; 3] = [Silent, Elsewhere, Untried];

    const CASES: &[Case] = &[
        ("one node", &[(1, Some(Nobody), &[])], (1, Some(Nobody))),
        (
            "a pod of another node",
            &[(1, Some(Elsewhere), &[Sees::Host(3)]), (3, None, &[Sees::Pod])],
            (3, None),
        ),
        (
            "the others do not find it",
            &[(1, Some(Nobody), &[]), (2, Some(Nobody), &[]), (3, None, &[Sees::Pod])],
            (3, None),
        ),
        (
            "the others hear no client",
            &[(1, Some(Silent), &[Sees::Host(3)]), (3, None, &[Sees::Pod])],
            (3, None),
        ),
        ("nobody anywhere", &[(1, Some(Nobody), &[]), (2, Some(Nobody), &[])], (1, Some(Nobody))),
        (
            "a host on the LAN",
            &[(1, Some(Elsewhere), &[Sees::Host(99)]), (2, Some(Nobody), &[])],
            (1, Some(Elsewhere)),
        ),
        (
            "the client does not ask",
            &[(1, Some(Silent), &[Sees::Host(3)]), (3, Some(Silent), &[Sees::Pod])],
            (3, Some(Silent)),
        ),
        (
            "no answer comes through",
            &[(1, Some(Elsewhere), &[Sees::Host(3)]), (3, Some(Firewall), &[Sees::Pod])],
            (3, Some(Firewall)),
        ),
        (
            "the pod is no member",
            &[(1, Some(Nobody), &[]), (3, Some(NotAnnotated), &[Sees::Stranger])],
            (3, Some(NotAnnotated)),
        ),
        (
            "no member, and a host has it",
            &[(1, Some(Elsewhere), &[Sees::Host(99)]), (3, Some(NoMember), &[])],
            (3, Some(NoMember)),
        ),
        (
            "a server does not run",
            &[(1, Some(Nobody), &[]), (3, Some(NotRunning), &[])],
            (3, Some(NotRunning)),
        ),
        (
            "one of two answered lately",
            &[(1, Some(NotRunning), &[]), (3, Some(Restarting), &[])],
            (3, Some(Restarting)),
        ),
        (
            "a server restarts",
            &[(1, Some(Elsewhere), &[Sees::Host(99)]), (3, Some(Restarting), &[])],
            (3, Some(Restarting)),
        ),
        ("loopback", &[(1, Some(Nobody), &[]), (3, Some(Loopback), &[])], (3, Some(Loopback))),
        (
            "a dead pod that has nothing to do with it",
            &[(1, Some(NotRunning), &[]), (3, None, &[Sees::Pod])],
            (3, None),
        ),
        ("mistyped", &[(1, Some(Nobody), &[]), (3, Some(Mistyped), &[])], (3, Some(Mistyped))),
        (
            "mistyped, and a dead pod",
            &[(1, Some(NotRunning), &[]), (3, Some(Mistyped), &[])],
            (3, Some(Mistyped)),
        ),
        ("another node's uplink", &[(1, Some(Uplink), &[]), (3, None, &[Sees::Pod])], (3, None)),
        (
            "the pod's node's uplink",
            &[(1, Some(Nobody), &[]), (3, Some(Uplink), &[Sees::Pod])],
            (3, Some(Uplink)),
        ),
        (
            "nobody, and a node without a LAN",
            &[(1, Some(Uplink), &[]), (3, Some(Nobody), &[])],
            (3, Some(Nobody)),
        ),
        (
            "nobody, and a node without a datapath",
            &[(1, Some(NoDatapath), &[]), (3, Some(Nobody), &[])],
            (1, Some(NoDatapath)),
        ),
        ("another LAN's node", &[(1, Some(OffLan), &[]), (3, Some(Nobody), &[])], (3, Some(Nobody))),
        (
            "a pod on another LAN",
            &[(1, Some(Nobody), &[]), (3, Some(OffLan), &[Sees::Pod])],
            (3, Some(OffLan)),
        ),
        ("off the LAN everywhere", &[(1, Some(OffLan), &[]), (3, Some(OffLan), &[])], (1, Some(OffLan))),
        (
            "another port",
            &[(1, Some(OtherPort), &[Sees::Host(3)]), (3, Some(OtherPort), &[Sees::Pod])],
            (3, Some(OtherPort)),
        ),
        (
            "another port, and a dead pod",
            &[(1, Some(OtherPort), &[]), (3, Some(NotRunning), &[])],
            (1, Some(OtherPort)),
        ),
        ("a search that is limited", &[(1, Some(Limited), &[]), (3, Some(Nobody), &[])], (1, Some(Limited))),
        (
            "in a pod of another domain, and of the client's",
            &[(1, Some(OtherDomain), &[Sees::Stranger]), (3, Some(Refused), &[Sees::Pod])],
            (3, Some(Refused)),
        ),
        (
            "two pods of a node",
            &[(1, Some(Elsewhere), &[Sees::Host(3)]), (3, Some(Duplicate), &[Sees::Pod, Sees::Pod])],
            (3, Some(Duplicate)),
        ),
        (
            "two pods that see each other",
            &[
                (1, Some(Duplicate), &[Sees::Pod, Sees::Host(3)]),
                (3, Some(Duplicate), &[Sees::Pod, Sees::Host(1)]),
            ],
            (1, Some(Duplicate)),
        ),
        ("two pods on two nodes", &[(1, None, &[Sees::Pod]), (3, None, &[Sees::Pod])], (1, Some(Duplicate))),
        (
            "a host that only another node saw",
            &[(1, Some(Elsewhere), &[Sees::Host(99)]), (3, None, &[Sees::Pod])],
            (3, Some(Duplicate)),
        ),
        (
            "two hosts",
            &[(1, Some(Elsewhere), &[Sees::Host(99)]), (3, Some(Elsewhere), &[Sees::Host(98)])],
            (1, Some(Duplicate)),
        ),
        (
            "a pod that is no member is no duplicate",
            &[(1, None, &[Sees::Pod]), (3, Some(NotAnnotated), &[Sees::Stranger])],
            (1, None),
        ),
    ];

    fn server(number: u8, sees: Sees) -> Server {
        let (pod, domain, host) = match sees {
            Sees::Pod => (Some("bl07/ioc".into()), Some("lab".into()), Some(number)),
            Sees::Stranger => (Some("bl07/other".into()), None, None),
            Sees::Host(host) => (None, Some("lab".into()), Some(host)),
        };
        let host = host.map(|host| [172, 23, 0, host].into());
        let address = std::net::SocketAddrV4::new(host.unwrap_or([10, 244, number, 2].into()), 5064);
        let node = format!("node-{number}");
        Server { protocol: "ca".into(), address, pod, milliseconds: 0.5, node, domain, host }
    }

    fn answer((number, cause, sees): &Node) -> Report {
        let rung = |name: &'static str, state, cause| Rung {
            rung: name.into(),
            state,
            cause,
            found: format!("{name} at {number}"),
            mend: cause.map(|_| "mend it".into()),
        };
        let state = |cause: &Cause| if UNKNOWN.contains(cause) { State::Unknown } else { State::Fail };
        let broken = cause.map(|cause| rung("connected", state(&cause), Some(cause)));
        let last = broken.unwrap_or(rung("connected", State::Ok, None));
        let rungs = vec![rung("datapath", State::Ok, None), last];
        let servers = sees.iter().map(|sees| server(*number, *sees)).collect();
        Report { servers, ..Report::of(format!("node-{number}"), "A:NAME".into(), rungs) }
    }

    /// All orders of these.
    fn orders(of: &[Report]) -> Vec<Vec<Report>> {
        let [first, rest @ ..] = of else { return vec![vec![]] };
        let all = orders(rest).into_iter();
        all.flat_map(|order| {
            (0..=order.len()).map(move |at| {
                let mut order = order.clone();
                order.insert(at, first.clone());
                order
            })
        })
        .collect()
    }

    #[test]
    fn the_node_that_explains_most_is_shown_in_whatever_order_nodes_answer() {
        for (what, nodes, (node, cause)) in CASES {
            let dead = Asked { node: "node-9".into(), error: Some("it is dead".into()) };
            let mut answers: Vec<_> = nodes.iter().map(answer).collect();
            answers.push(Report::nothing(vec![dead]));
            let merged: Vec<_> = orders(&answers).into_iter().map(all).collect();
            let first = &merged[0];
            assert_eq!((first.node.clone(), first.cause), (Some(format!("node-{node}")), *cause), "{what}");
            assert_eq!(first.cause, first.broken().and_then(|rung| rung.cause), "{what}");
            assert_eq!((first.others.len(), first.nodes.len()), (nodes.len() - 1, nodes.len() + 1), "{what}");
            assert!(merged.iter().all(|other| other == first), "{what}: depends on the order");
            let [one, rest @ ..] = answers.as_slice() else { continue };
            let mut grouped = one.clone();
            grouped.merge(all(rest.to_vec()));
            assert_eq!(&grouped, first, "{what}: depends on what was merged before");
        }
    }

    fn all(answers: Vec<Report>) -> Report {
        let mut merged = Report::nothing(vec![]);
        answers.into_iter().for_each(|answer| merged.merge(answer));
        merged
    }

    #[test]
    fn the_text_names_the_node_and_has_a_line_for_each_other_one() {
        let found =
            all(vec![answer(&(1, Some(Elsewhere), &[Sees::Host(3)])), answer(&(3, None, &[Sees::Pod]))]);
        assert_eq!(
            found.text(&Style::default()),
            "node-3:\nOK    datapath   datapath at 3\nOK    connected  connected at 3\n\n\
             ?     node-1     connected at 1\n\na client can see A:NAME through node-3.\n"
        );
        let found = all(vec![answer(&(1, None, &[Sees::Pod])), answer(&(3, None, &[Sees::Pod]))]);
        let text = found.text(&Style::default());
        let last = "a client cannot see A:NAME: 2 servers have it (ca, domain `lab`): bl07/ioc on\nnode-1, bl07/ioc on node-3.\n";
        assert!(text.contains(last), "{text}");
        assert_eq!(Report::nothing(vec![]).text(&Style::default()), "");
    }
}
