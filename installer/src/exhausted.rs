//! Packets that were dropped for lack of an external port: how many, and what ran out. Said once a minute at most.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use abi::{Attachment, Domain, TCP, UDP, Verdict, share, text};
use datapath::{Counter, Error, State};

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
                let why = why(&domain, domain_share(state, number)?, &pods(state, number)?);
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

/// How many external ports the pods of a domain have taken, TCP or UDP, whichever is more.
fn domain_share(state: &State, domain: u16) -> Result<u32, Error> {
    let taken = |protocol: u8| state.taken(share::of_domain(domain, protocol.into()));
    Ok(taken(TCP)?.max(taken(UDP)?))
}

/// The members of a domain, and how many each has taken.
fn pods(state: &State, domain: u16) -> Result<Vec<(String, u32)>, Error> {
    let members = state.attachments()?.into_iter().filter(|(_, member)| member.domain == domain);
    let pod = |member: &Attachment| format!("{}/{}", text(&member.namespace), text(&member.pod));
    members.map(|(_, member)| Ok((pod(&member), state.taken(share::of_pod(member.member))?))).collect()
}

/// What ran out, and what to do: the range, the share of a pod, or neither any more.
fn why(domain: &Domain, taken: u32, pods: &[(String, u32)]) -> String {
    let Domain { first_port: first, last_port: last, ports_per_pod, ports, .. } = *domain;
    if taken >= ports && ports > u32::from(last - first) {
        return format!("all external ports {first}-{last} are taken; widen `ports`");
    }
    if taken >= ports {
        return format!("its pods have all {ports} external ports that one of the node's domains may have");
    }
    let full = pods.iter().filter(|(_, taken)| *taken >= ports_per_pod);
    let full: Vec<_> = full.map(|(pod, _)| pod.as_str()).collect();
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
    use abi::{Limit, field, limited};

    use super::*;

    #[test]
    fn only_what_ran_out_is_named() {
        let domain = Domain {
            uplink: 2,
            first_port: 61000,
            last_port: 61003,
            first_pin: 1,
            last_pin: 0,
            ports_per_pod: 2,
            ports: 4,
            circuits: 0,
            direct: 0,
            limits: [Limit { interval: 0, burst: 0 }; limited::KINDS],
            name: field("lab").unwrap(),
        };
        let pods = |a: u32, b: u32| [("bl07/ioc-a".to_owned(), a), ("bl07/ioc-b".to_owned(), b)];
        let of_a_pod = why(&domain, 2, &pods(2, 1));
        assert_eq!(
            of_a_pod,
            "each of these pods has its 2 external ports: bl07/ioc-a; raise `ports_per_pod`"
        );
        let of_all = why(&domain, 4, &pods(2, 2));
        assert_eq!(of_all, "all external ports 61000-61003 are taken; widen `ports`");
        let share = Domain { ports: 3, ..domain };
        assert!(why(&share, 3, &pods(1, 2)).contains("have all 3 external ports"));
        assert!(why(&domain, 1, &pods(1, 1)).contains("status"), "neither now");
    }
}
