//! What of ours is on a node: for tests of what a verb leaves behind, and pods that ours has not seen.

use datapath::State;
use serde_json::Value;

use crate::{Error, Lab, NODE, Pod, Result};

/// How much of ours is on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Entries of `ATTACHMENTS`.
    pub attachments: usize,
    /// Of these, those with an entry in `MEMBERS`.
    pub members: usize,
    /// Entries of `EXTERNALS` that a member has.
    pub external_ports: usize,
    /// Places of `ROSTER` that are taken.
    pub roster_entries: usize,
    /// Veths with our filter.
    pub filters: usize,
    /// Entries of `LAN_ADDRESSES`.
    pub addresses: usize,
    /// Routes to these.
    pub routes: usize,
}

/// A node without members.
pub const NOTHING: Leftovers = Leftovers {
    attachments: 0,
    members: 0,
    external_ports: 0,
    roster_entries: 0,
    filters: 0,
    addresses: 0,
    routes: 0,
};

/// How many external ports members have, not counting those that are kept for deleted pods.
pub fn held_ports(state: &State) -> datapath::Result<usize> {
    let held = state.externals()?.into_iter().map(|entry| state.is_current(&entry.claim).map(usize::from));
    held.sum()
}

impl Lab {
    /// A pod that the other plugins made, without ours, on the first node.
    pub fn plain_pod(&self, name: &str) -> Result<Pod> {
        self.plain_pod_on(0, name)
    }

    /// The same on a node.
    pub fn plain_pod_on(&self, node: usize, name: &str) -> Result<Pod> {
        let ours = self.execute_on(node, |executor| {
            let mut list = executor.conflist().clone();
            let plugins = list.0["plugins"].as_array_mut().and_then(Vec::pop);
            executor.set_conflist(list);
            plugins
        });
        let pod = self.pod_on(node, name);
        self.execute_on(node, move |executor| {
            let mut list = executor.conflist().clone();
            if let (Some(plugins), Some(ours)) = (list.0["plugins"].as_array_mut(), ours) {
                plugins.push(ours);
            }
            executor.set_conflist(list);
        });
        pod
    }

    /// What is left of ours on the first node: in maps, and of filters on veths.
    pub fn leftovers(&self) -> Result<Leftovers> {
        let filters = self.filters()?;
        let routes = self.sandbox.sh(NODE, "ip route show proto 105")?.lines().count();
        let found = self.state(move |state| {
            let attachments = state.attachments()?;
            let members = attachments.iter().filter_map(|(_, entry)| state.member(entry.member).transpose());
            let (members, external_ports) = (members.count(), held_ports(state)?);
            Ok(Leftovers {
                attachments: attachments.len(),
                members,
                external_ports,
                roster_entries: state.roster_entries()?,
                filters,
                addresses: state.lan_addresses()?.len(),
                routes,
            })
        })?;
        found.map_err(|error: datapath::Error| Error::Missing(error.to_string()))
    }

    /// How many circuits the first node has, all domains together.
    pub fn circuits(&self) -> Result<u64> {
        let count = |state: &State| {
            let domains = state.domains()?;
            domains.iter().map(|(number, _)| state.circuits(*number)).sum::<datapath::Result<u64>>()
        };
        self.state(count)?.map_err(|error| Error::Missing(error.to_string()))
    }

    /// How many veths of the first node have our filter.
    fn filters(&self) -> Result<usize> {
        let links = self.sandbox.sh(NODE, "ip -j link show type veth")?;
        let links: Value = serde_json::from_str(&links).unwrap_or_default();
        let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        names.map(|name| self.filters_of(name)).sum()
    }

    /// The same of one; it goes by itself, a little later than its namespace.
    fn filters_of(&self, veth: &str) -> Result<usize> {
        match self.sandbox.sh(NODE, &format!("tc filter show dev {veth} ingress")) {
            Err(Error::Command { output, .. }) if output.contains("Cannot find device") => Ok(0),
            shown => Ok(shown?.matches("from_pod direct-action").count()),
        }
    }
}
