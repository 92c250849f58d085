//! What is taken over from maps of another layout is put where there is nothing yet, while the programs run. Maps `CONFIG`,
//! `UPLINKS`, `EXTERNALS`, `INTERNALS`, `EXTERNAL_PORTS`, `RECEIVERS`, `CIRCUITS`, `PLACES`, `CIRCUIT_COUNTS`, `SHARES`.

use std::{collections::BTreeMap, time::Duration};

use abi::{BucketKey, Circuit, Claim, Config, Endpoint, FlowKey, SearcherKey, Uplink, limited};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError},
};

use super::State;
use crate::{
    Error, Result, kernel_clock,
    maps::{BPF_NOEXIST, absent_is_none, array, range, typed, wrote},
    pinned::MAPS,
};

impl State {
    /// Lets the programs drop what they do not know yet, for `time` at most; no longer if that is `None`.
    pub(crate) fn set_taking_over(&mut self, time: Option<Duration>) -> Result<()> {
        let (config, now) = (self.config()?, kernel_clock()?);
        let taking_over = time.map_or(0, |time| (now + time).as_secs() as u32);
        self.set_config(Config { taking_over, ..config })
    }

    /// Knows an uplink as it was, if it is not known: it may have no address at the moment.
    pub(crate) fn inherit_uplink(&mut self, interface: u32, uplink: Uplink) -> Result<()> {
        put("UPLINKS", &mut self.uplinks, interface, uplink).map(|_| ())
    }

    /// Lets these ports be external, too, 64 in a word.
    pub(crate) fn allow_external_ports(&mut self, words: &[u64]) -> Result<()> {
        (0..).zip(words).try_for_each(|(index, word)| self.change_port_word(index, |now| now | word))
    }

    /// Gives a claim its external port, unless a member has it; whether it was given. `is_known` if the pod's port is known by it.
    pub(crate) fn inherit_claim(&mut self, external: Endpoint, claim: Claim, is_known: bool) -> Result<bool> {
        let present = absent_is_none("EXTERNALS", self.externals.get(&external, 0))?;
        if present.map(|present| self.is_current(&present)).transpose()? == Some(true) {
            return Ok(false);
        }
        wrote("EXTERNALS", self.externals.insert(external, claim, 0))?;
        if is_known {
            wrote("INTERNALS", self.internals.insert(claim.owner(), external, 0))?;
        }
        Ok(true)
    }

    /// Lets the member that holds `camera` stream to a LAN socket.
    pub(crate) fn inherit_receiver(&mut self, receiver: SearcherKey, camera: &Claim) -> Result<()> {
        let mut map: HashMap<_, _, u32> = self.map("RECEIVERS", Map::LruHashMap)?;
        let receiver = SearcherKey { domain: camera.domain, ..receiver };
        put("RECEIVERS", &mut map, receiver, camera.member).map(|_| ())
    }

    /// Puts circuits where there are none, or only others that are over, each in a place of its own; how many were put. The last
    /// places are taken first: the programs begin with the first ones.
    pub(crate) fn inherit_circuits(&mut self, circuits: Vec<(FlowKey, Circuit)>, idle: u32) -> Result<usize> {
        let mut map: HashMap<_, _, Circuit> = self.map("CIRCUITS", Map::HashMap)?;
        let mut places: Array<_, FlowKey> = array(&self.directory.join(MAPS), "PLACES")?;
        let all = range("PLACES", &places, 0, abi::PLACES)?;
        let mut free = (0..abi::PLACES).rev().filter(|place| all[*place as usize].pod_port == 0);
        let mut taken = vec![];
        for (key, circuit) in circuits {
            let present = absent_is_none("CIRCUITS", map.get(&key, 0))?;
            if present.is_some_and(|known| {
                known.is_through(&circuit.external, circuit.generation) && !known.is_over(circuit.seen, idle)
            }) {
                continue;
            }
            let Some(place) = present.map(|known| known.place).or_else(|| free.next()) else { break };
            wrote("CIRCUITS", map.insert(key, Circuit { place, ..circuit }, 0))?;
            wrote("PLACES", places.set(place, key, 0))?;
            taken.extend(present.is_none().then_some((key, circuit)));
        }
        self.count_circuits(&taken)?;
        Ok(taken.len())
    }

    /// Counts circuits that came, as the programs do.
    fn count_circuits(&mut self, circuits: &[(FlowKey, Circuit)]) -> Result<()> {
        let (mut domains, mut shares) = (BTreeMap::new(), BTreeMap::new());
        for (key, circuit) in circuits {
            *domains.entry(u32::from(circuit.domain)).or_insert(0i64) += 1;
            let host = (limited::SOURCE, u32::from_ne_bytes(key.peer));
            for (kind, who) in [host, (limited::POD, circuit.member)] {
                *shares.entry((circuit.domain, kind as u16, who)).or_insert(0i64) += 1;
            }
        }
        for (domain, more) in domains {
            let before = self.circuit_counts.get(&domain, 0);
            let before = before.map_err(|error| Error::bpf("cannot read CIRCUIT_COUNTS", &error))?;
            wrote("CIRCUIT_COUNTS", self.circuit_counts.set(domain, before + more, 0))?;
        }
        let mut map: HashMap<_, BucketKey, i64> = self.map("SHARES", Map::LruHashMap)?;
        for ((domain, kind, who), more) in shares {
            let key = BucketKey { domain, kind, who };
            let before = absent_is_none("SHARES", map.get(&key, 0))?.unwrap_or(0);
            wrote("SHARES", map.insert(key, before + more, 0))?;
        }
        Ok(())
    }

    fn map<T: TryFrom<Map, Error = MapError>>(&self, name: &str, kind: fn(MapData) -> Map) -> Result<T> {
        typed(&self.directory.join(MAPS), name, kind)
    }
}

/// Puts an entry where there is none; whether it was put.
fn put<K: Pod, V: Pod>(name: &str, map: &mut HashMap<MapData, K, V>, key: K, value: V) -> Result<bool> {
    match map.insert(key, value, BPF_NOEXIST) {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::AlreadyExists => {
            Ok(false)
        }
        outcome => wrote(name, outcome).map(|()| true),
    }
}
