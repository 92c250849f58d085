//! What the relay of a domain is doing: as the agent tells it to `status`, `doctor` and metrics, and how it is shown. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::Ipv4Addr,
};

use datapath::printable;
use serde::{Deserialize, Serialize};

/// The relay of a domain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) domain: String,
    /// Why it does not work at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
    /// Of the uplink.
    pub(crate) subnet: Option<String>,
    /// The address of the node that relays for this subnet.
    pub(crate) leader: Option<Ipv4Addr>,
    /// Whether that is this one.
    pub(crate) leads: bool,
    /// Copies sent to other subnets.
    pub(crate) sent: u64,
    /// Copies of other subnets said here.
    pub(crate) received: u64,
    /// The same a second, lately.
    pub(crate) sent_per_second: u64,
    pub(crate) received_per_second: u64,
    /// Copies, or what was to become or to be one, that were refused, by reason.
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) peers: Vec<PeerReport>,
    /// Names that lead to no address, with the reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) lost: Vec<(String, String)>,
}

/// Another agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeerReport {
    /// Where it is, with the port.
    pub(crate) address: String,
    /// As it says.
    pub(crate) node: Option<String>,
    pub(crate) subnet: Option<String>,
    /// Whether it relays for its subnet.
    pub(crate) leads: bool,
    /// Whether it says so itself.
    #[serde(default)]
    pub(crate) claims: bool,
    /// How long ago it was heard last.
    pub(crate) heard_ms: Option<u64>,
    /// What is wrong with it.
    pub(crate) state: State,
    /// Whether its subnet lies in `lan`.
    pub(crate) on_lan: bool,
}

/// How it is with another agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It is heard.
    Heard,
    /// It says that its uplink carries nothing.
    Unable,
    /// It may be heard soon: the relay has just begun.
    Expected,
    /// It is not heard.
    #[default]
    Silent,
    /// It has another key.
    WrongKey,
}

impl State {
    pub(crate) const ALL: [Self; 5] =
        [Self::Heard, Self::Unable, Self::Expected, Self::Silent, Self::WrongKey];

    /// Its name, for programs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Heard => "heard",
            Self::Unable => "unable",
            Self::Expected => "expected",
            Self::Silent => "silent",
            Self::WrongKey => "wrong_key",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Heard => "heard",
            Self::Unable => "its uplink carries nothing",
            Self::Expected => "not heard yet",
            Self::Silent => "silent",
            Self::WrongKey => "has another key",
        }
    }
}

impl Report {
    /// What is wrong, a line for each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let domain = &self.domain;
        if let Some(problem) = &self.problem {
            return vec![format!("domain `{domain}`: no searches to other subnets: {problem}")];
        }
        let lost = self.lost.iter().map(|(name, why)| {
            format!("domain `{domain}`: `subnets.peers` has {name}, which leads nowhere: {why}")
        });
        let of_peers = self
            .peers
            .iter()
            .filter_map(|peer| Some(format!("domain `{domain}`: peer {} {}", peer.address, peer.trouble()?)));
        let parted = self.parted();
        let parted = parted.iter().map(|(subnet, peers)| {
            format!(
                "domain `{domain}`: {peers} all relay for subnet {subnet}, so each search crosses that often: they do not hear \
                 each other; `subnets.peers` has to name all nodes, also those of the same subnet"
            )
        });
        let alone = self.heard().is_empty().then(|| {
            format!("domain `{domain}`: no node of another subnet is heard, so no search crosses: is `subnets.peers` right?")
        });
        let nobody = self.leader.is_none().then(|| {
            format!("domain `{domain}`: no node of this subnet can relay: the uplinks of all that are heard carry nothing")
        });
        let found: Vec<_> = lost.chain(of_peers).chain(parted).chain(nobody).collect();
        if found.is_empty() { alone.into_iter().collect() } else { found }
    }

    /// The other subnets with a node that is heard.
    pub(crate) fn heard(&self) -> BTreeSet<&str> {
        let heard = self.peers.iter().filter(|peer| peer.state == State::Heard);
        heard.filter(|peer| peer.subnet != self.subnet).filter_map(|peer| peer.subnet.as_deref()).collect()
    }

    /// Subnets for which several peers say that they relay, and these.
    fn parted(&self) -> BTreeMap<&str, String> {
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for peer in self.peers.iter().filter(|peer| peer.claims) {
            found.entry(peer.subnet.as_deref().unwrap_or("?")).or_default().push(peer.address.as_str());
        }
        let several = found.into_iter().filter(|(_, peers)| peers.len() > 1);
        several.map(|(subnet, peers)| (subnet, peers.join(" and "))).collect()
    }
}

impl PeerReport {
    /// What is wrong with it, and what to do.
    pub(crate) fn trouble(&self) -> Option<String> {
        let subnet = self.subnet.as_deref().unwrap_or("?");
        match (self.state, self.on_lan) {
            (State::WrongKey, _) => {
                Some("has another key: give all nodes of the domain the same file `subnets.key`".into())
            }
            (State::Silent, _) => Some(
                "is not heard: does its agent run with `subnets`, is this node one of its peers, and does the network let its \
                 UDP datagrams through?"
                    .into(),
            ),
            (_, false) => Some(format!(
                "is in subnet {subnet}, which is not in `lan`, so its searches are refused: add it on all nodes"
            )),
            (State::Heard | State::Unable | State::Expected, true) => None,
        }
    }
}

/// Lines about it for people.
pub(crate) fn text(report: &Report) -> String {
    let mut out = String::new();
    let Report { subnet, leader, leads, sent, received, sent_per_second, received_per_second, .. } = report;
    if let Some(problem) = &report.problem {
        let _ = writeln!(out, "  other subnets: {}", printable(problem)); // to a string that cannot fail
        return out;
    }
    let who = match leader {
        Some(_) if *leads => "this node relays".to_owned(),
        Some(leader) => format!("{leader} relays"),
        None => "nobody relays".to_owned(),
    };
    let _ = writeln!(
        out,
        "  subnet {}: {who}; {sent} copies sent ({sent_per_second}/s), {received} received ({received_per_second}/s)",
        subnet.as_deref().unwrap_or("?")
    );
    for (reason, count) in report.refused.iter().filter(|(_, count)| **count > 0) {
        let _ = writeln!(out, "    {count} refused: {reason}");
    }
    if !report.peers.is_empty() {
        let _ = writeln!(out, "  {:<22} {:<24} {:<19} {:<8} STATE", "PEER", "NODE", "SUBNET", "RELAYS");
    }
    for PeerReport { address, node, subnet, leads, heard_ms, state, on_lan, claims: _ } in &report.peers {
        let last =
            heard_ms.map(|ms| format!(", {}.{} s ago", ms / 1000, ms % 1000 / 100)).unwrap_or_default();
        let off = if *on_lan { "" } else { "; its subnet is not in `lan`" };
        let _ = writeln!(
            out,
            "  {address:<22} {:<24} {:<19} {:<8} {}{last}{off}",
            printable(node.as_deref().unwrap_or("?")),
            subnet.as_deref().unwrap_or("?"),
            if *leads { "yes" } else { "no" },
            state.text()
        );
    }
    for (name, why) in &report.lost {
        let _ = writeln!(out, "  {} leads nowhere: {}", printable(name), printable(why));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_relay_for_one_subnet_are_named_and_so_is_being_alone() {
        let peer = |address: &str, subnet: &str, claims| PeerReport {
            address: address.into(),
            subnet: Some(subnet.into()),
            claims,
            state: State::Heard,
            on_lan: true,
            ..PeerReport::default()
        };
        for (peers, expected) in [
            (vec![peer("1", "b", true), peer("2", "b", false), peer("3", "c", true)], None),
            (vec![peer("1", "b", true), peer("2", "b", true)], Some("1 and 2 all relay for subnet b")),
            (vec![peer("1", "a", false)], Some("no node of another subnet")),
            (vec![], Some("no node of another subnet")),
            (vec![PeerReport { state: State::Unable, ..peer("1", "b", false) }], Some("no node of another")),
        ] {
            let leader = Some(Ipv4Addr::LOCALHOST);
            let report = Report { subnet: Some("a".into()), leader, peers, ..Report::default() };
            let found = report.problems();
            assert!(found.len() == usize::from(expected.is_some()), "{found:?}");
            assert!(
                found.iter().zip(expected).all(|(found, expected)| found.contains(expected)),
                "{found:?}"
            );
        }
        let found = Report { peers: vec![peer("1", "b", false)], ..Report::default() }.problems();
        assert!(found.len() == 1 && found[0].contains("no node of this subnet can relay"), "{found:?}");
    }

    #[test]
    fn people_see_who_relays_and_what_is_wrong() {
        let peer = PeerReport {
            address: "172.23.1.10:5077".into(),
            node: Some("node\u{1b}2".into()),
            subnet: Some("172.23.1.0/24".into()),
            leads: true,
            claims: true,
            heard_ms: Some(4240),
            state: State::WrongKey,
            on_lan: false,
        };
        let report = Report {
            subnet: Some("172.23.0.0/24".into()),
            leader: Some(Ipv4Addr::new(172, 23, 0, 10)),
            leads: true,
            sent: 7,
            refused: [("prefix".to_owned(), 3), ("foreign".to_owned(), 0)].into(),
            peers: vec![peer],
            lost: vec![("nodes.svc".into(), "no such name".into())],
            ..Report::default()
        };
        let shown = text(&report);
        for expected in [
            "subnet 172.23.0.0/24: this node relays; 7 copies sent (0/s), 0 received",
            "    3 refused: prefix\n",
            "node\\u{1b}2",
            "yes      has another key, 4.2 s ago; its subnet is not in `lan`",
            "nodes.svc leads nowhere: no such name",
        ] {
            assert!(shown.contains(expected), "{shown}");
        }
        assert!(!shown.contains("foreign"));
        let broken = Report { problem: Some("key x: gone".into()), ..Report::default() };
        assert_eq!(text(&broken), "  other subnets: key x: gone\n");
    }
}
