//! Pinned ports that the node has come to use itself, by a process or by a NAT rule: looked for from time to time, because
//! the node's rules may be many.

use std::time::{Duration, Instant};

use abi::{TCP, text};
use datapath::{External, State, printable};
use membership::pins::{self, Conflict};

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(10);
/// How many times as long as a look takes the agent waits for the next: it uses a hundredth of a processor at most.
const REST: u32 = 100;

/// What the last look found.
pub(crate) struct Conflicts {
    due: Instant,
    found: Vec<String>,
}

impl Conflicts {
    pub(crate) fn new() -> Self {
        Self { due: Instant::now(), found: vec![] }
    }

    /// Looks if it is time to, and describes each conflict.
    pub(crate) fn pass(&mut self, state: &State) -> &[String] {
        let begin = Instant::now();
        if begin >= self.due {
            self.found = look(state).unwrap_or_else(|error| vec![error]);
            self.due = begin + PERIOD.max(begin.elapsed() * REST);
        }
        &self.found
    }
}

/// Describes each conflict as it is now, with what to do about it.
pub(crate) fn look(state: &State) -> Result<Vec<String>, String> {
    let found = pins::conflicts(state).map_err(|error| error.to_string())?;
    let members = state.attachments().map_err(|error| error.to_string())?;
    Ok(found
        .iter()
        .map(|Conflict { external: External { external, claim }, receiver }| {
            let holder = members.iter().find(|(_, attachment)| attachment.member == claim.member);
            let pod = holder.map_or_else(
                || "a pod".to_owned(),
                |(_, holder)| {
                    let [namespace, pod] =
                        [&holder.namespace[..], &holder.pod].map(|name| printable(text(name)));
                    format!("pod {namespace}/{pod}")
                },
            );
            let protocol = if external.protocol == u16::from(TCP) { "tcp" } else { "udp" };
            format!("{pod} has pinned {protocol}/{}, but {receiver}", external.port)
        })
        .collect())
}
