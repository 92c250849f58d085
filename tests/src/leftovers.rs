//! What of ours is on a node: for tests of what a verb leaves behind, and pods that ours has not seen.

use serde_json::Value;

use crate::{DOMAIN, Error, Lab, NODE, Pod, Result};

/// What [`Lab::leftovers`] says of a node without members.
pub const NOTHING: &str = "0 attachments, 0 members, 0 external ports, 0 roster entries, 0 flows, 0 filters";

impl Lab {
    /// A pod that the other plugins made, without ours.
    pub fn plain_pod(&self, name: &str) -> Result<Pod> {
        let ours = self.execute(|executor| {
            let mut list = executor.conflist().clone();
            let plugins = list.0["plugins"].as_array_mut().and_then(Vec::pop);
            executor.set_conflist(list);
            plugins
        });
        let pod = self.pod_with(name, &[("iocast.io/domain", DOMAIN)]);
        self.execute(move |executor| {
            let mut list = executor.conflist().clone();
            if let (Some(plugins), Some(ours)) = (list.0["plugins"].as_array_mut(), ours) {
                plugins.push(ours);
            }
            executor.set_conflist(list);
        });
        pod
    }

    /// What is left of ours on the first node: in maps, and of filters on veths.
    pub fn leftovers(&self) -> Result<String> {
        let maps = self.state(|state| {
            let attachments = state.attachments()?;
            let members =
                attachments.iter().filter_map(|(_, entry)| state.member(entry.member).transpose()).count();
            Ok(format!(
                "{} attachments, {members} members, {} external ports, {} roster entries, {} flows",
                attachments.len(),
                state.externals()?.len(),
                state.roster_entries()?,
                state.flow_count()?,
            ))
        })?;
        let maps = maps.map_err(|error: datapath::Error| Error::Missing(error.to_string()))?;
        Ok(format!("{maps}, {} filters", self.filters()?))
    }

    /// How many veths of the first node have our filter.
    fn filters(&self) -> Result<usize> {
        let links = self.sandbox.sh(NODE, "ip -j link show type veth")?;
        let links: Value = serde_json::from_str(&links).unwrap_or_default();
        let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        let filters = names.map(|name| self.sandbox.sh(NODE, &format!("tc filter show dev {name} ingress")));
        filters.map(|shown| Ok(shown?.matches("from_pod direct-action").count())).sum()
    }
}
