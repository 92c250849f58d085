//! Multicast groups whose datagrams are relayed: written by the agent. Map `GROUPS`.

use abi::GroupKey;

use super::State;
use crate::{
    Result,
    maps::{keys, replace_all},
};

impl State {
    /// The groups that are relayed, with the ports, in no order.
    pub fn groups(&self) -> Result<Vec<GroupKey>> {
        keys("GROUPS", &self.groups)
    }

    /// Replaces all of them by these.
    pub fn set_groups(&mut self, groups: &[GroupKey]) -> Result<()> {
        let entries: Vec<_> = groups.iter().map(|group| (*group, 1)).collect();
        replace_all("GROUPS", &mut self.groups, &entries)
    }
}
