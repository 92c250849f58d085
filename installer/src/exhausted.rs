//! Packets that were dropped for lack of an external port: how many, and what ran out. Said once a minute at most.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use abi::{Attachment, Domain, TCP, Verdict, text};
use datapath::{Counter, Error, External, State};

/// Time between two lines about a domain.
const PERIOD: Duration = Duration::from_secs(60);

/// What has been said so far, by the domain's number.
#[derive(Default)]
pub(crate) struct Exhausted {
    dropped: HashMap<u16, u64>,
    said: HashMap<u16, Instant>,
}

impl Exhausted {
    /// Takes what was dropped until now for known.
    pub(crate) fn new(state: &State) -> Result<Self, Error> {
        Ok(Self { dropped: dropped(state)?, said: HashMap::new() })
    }

    /// What is to be said now.
    pub(crate) fn pass(&mut self, state: &State) -> Result<Vec<String>, Error> {
        let (dropped, mut lines) = (dropped(state)?, vec![]);
        for (number, domain) in state.domains()? {
            let now = dropped.get(&number).copied().unwrap_or(0);
            let before = self.dropped.entry(number).or_default();
            let new = now.saturating_sub(*before); // counters of another domain may have begun anew
            let is_early = self.said.get(&number).is_some_and(|said| said.elapsed() < PERIOD);
            if new > 0 && is_early {
                continue;
            }
            *before = now;
            if new > 0 {
                self.said.insert(number, Instant::now());
                let why = why(
                    &domain,
                    number,
                    &state.externals()?,
                    &state.attachments()?.into_iter().map(|(_, attachment)| attachment).collect::<Vec<_>>(),
                );
                lines.push(format!("domain `{}`: dropped {new} packets: {why}", text(&domain.name)));
            }
        }
        Ok(lines)
    }
}

/// Packets dropped since the datapath was loaded, by domain.
fn dropped(state: &State) -> Result<HashMap<u16, u64>, Error> {
    let mut dropped = HashMap::new();
    for Counter { domain, verdict, packets, .. } in state.counters()? {
        if verdict == Verdict::NoPort {
            *dropped.entry(domain).or_default() += packets;
        }
    }
    Ok(dropped)
}

/// What ran out, and what to do: the range, the share of a pod, or neither any more.
fn why(domain: &Domain, number: u16, externals: &[External], members: &[Attachment]) -> String {
    let Domain { first_port: first, last_port: last, ports_per_pod, .. } = *domain;
    let taken = externals.iter().filter(|port| {
        let claim = port.claim;
        claim.domain == number && claim.pinned == 0 && (first..=last).contains(&port.external.port)
    });
    let tcp = taken.clone().filter(|port| port.external.protocol == u16::from(TCP)).count();
    if tcp.max(taken.clone().count() - tcp) > usize::from(last - first) {
        return format!("all external ports {first}-{last} are taken; widen `ports`");
    }
    let mut shares = BTreeMap::<u32, u32>::new();
    taken.for_each(|port| *shares.entry(port.claim.member).or_default() += 1);
    let full = members.iter().filter(|member| shares.get(&member.member) >= Some(&ports_per_pod));
    let full: Vec<_> =
        full.map(|member| format!("{}/{}", text(&member.namespace), text(&member.pod))).collect();
    if full.is_empty() {
        return "there was no external port for them; `iocast-node status` shows who has how many".into();
    }
    format!(
        "each of these pods has its {ports_per_pod} external ports: {}; raise `ports_per_pod`",
        full.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use abi::{Claim, Endpoint, Limit, UDP, field, limited};

    use super::*;

    fn domain(ports_per_pod: u32) -> Domain {
        Domain {
            uplink: 2,
            first_port: 61000,
            last_port: 61003,
            first_pin: 1,
            last_pin: 0,
            ports_per_pod,
            circuits: 0,
            limits: [Limit { interval: 0, burst: 0 }; limited::KINDS],
            name: field("lab").unwrap(),
        }
    }

    fn port(member: u32, protocol: u8, port: u16) -> External {
        let endpoint = |address| Endpoint { address, port, protocol: u16::from(protocol) };
        let claim = Claim {
            pod: endpoint([10, 244, 1, 2]),
            member,
            generation: 0,
            domain: 0,
            protocol: 0,
            pinned: 0,
            peer: [0; 4],
            trouble: 0,
        };
        External { external: endpoint([172, 23, 0, 10]), claim }
    }

    fn member(member: u32, pod: &str) -> Attachment {
        Attachment {
            member,
            domain: 0,
            slot: 0,
            address: [0; 4],
            network: field("n").unwrap(),
            namespace: field("bl07").unwrap(),
            pod: field(pod).unwrap(),
        }
    }

    #[test]
    fn only_what_ran_out_is_named() {
        let members = [member(7, "ioc-a"), member(8, "ioc-b")];
        let two = [port(7, TCP, 61000), port(7, UDP, 61000)];
        let of_a_pod = why(&domain(2), 0, &two, &members);
        assert_eq!(
            of_a_pod,
            "each of these pods has its 2 external ports: bl07/ioc-a; raise `ports_per_pod`"
        );
        let all: Vec<_> =
            (61000..=61003).map(|number| port(7 + u32::from(number % 2), TCP, number)).collect();
        let of_all = why(&domain(3), 0, &all, &members);
        assert_eq!(of_all, "all external ports 61000-61003 are taken; widen `ports`");
        assert!(why(&domain(16), 0, &two, &members).contains("status"), "neither now");
    }
}
