//! Circuits: written by the programs alone, read to be shown. Map `CIRCUITS`.

use abi::{Circuit, FlowKey};
use aya::maps::{HashMap, Map};

use super::State;
use crate::{
    Result, kernel_clock,
    maps::{all, typed},
    pinned::MAPS,
};

impl State {
    /// The circuits that are established, with the client and the pod of each. Reading all that a node may have takes some tens of
    /// milliseconds.
    pub fn established(&self) -> Result<Vec<(FlowKey, Circuit)>> {
        let map: HashMap<_, FlowKey, Circuit> = typed(&self.directory.join(MAPS), "CIRCUITS", Map::HashMap)?;
        let config = self.config()?;
        let now = kernel_clock()?.as_secs() as u32; // as the programs count
        let mut found = all("CIRCUITS", &map)?;
        found.retain(|(_, circuit)| !circuit.has_ended() && !circuit.is_over(now, config.circuit_idle));
        Ok(found)
    }
}
