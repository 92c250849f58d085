//! Entries that others left in the datapath's tables: circuits on which nothing is sent, sockets that searched lately. They are
//! copies of a real one, so that their layout is of no account here.

use std::path::Path;

use abi::{Circuit, FlowKey, Searcher, SearcherKey};
use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use datapath::pin_directory;
use lab::{Error, Result, Sandbox};

/// The lab's first node's file system of pins.
const BPFFS: &str = "/sys/fs/bpf";
/// Ports of each host that the copies are of.
const PORTS: usize = 50_000;

/// The address of a host that nobody is, and one of its ports, for copy `number`.
fn other(number: usize) -> ([u8; 4], u16) {
    ([198, 18, 0, (number / PORTS) as u8], (1024 + number % PORTS) as u16) // RFC 2544
}

/// Makes so many circuits out of one that is there.
pub(crate) fn set_circuits(sandbox: &Sandbox, count: usize) -> Result<()> {
    copy::<FlowKey, Circuit>(
        sandbox,
        ("CIRCUITS", Map::HashMap),
        |key| key.peer[..2] == [198, 18],
        move |key| {
            let of = move |number| {
                let (peer, peer_port) = other(number);
                FlowKey { peer, peer_port, ..key }
            };
            (0..count).map(of).collect()
        },
    )
}

/// Makes so many searchers out of one that is there.
pub(crate) fn set_searchers(sandbox: &Sandbox, count: usize) -> Result<()> {
    copy::<SearcherKey, Searcher>(
        sandbox,
        ("SEARCHERS", Map::LruHashMap),
        |key| key.address[..2] == [198, 18],
        move |key| {
            let of = move |number| {
                let (address, port) = other(number);
                SearcherKey { address, port, ..key }
            };
            (0..count).map(of).collect()
        },
    )
}

/// Replaces earlier copies of an entry by others.
fn copy<K: Pod + Send, V: Pod>(
    sandbox: &Sandbox,
    (name, kind): (&'static str, fn(MapData) -> Map),
    is_copy: fn(&K) -> bool,
    copies: impl FnOnce(K) -> Vec<K> + Send + 'static,
) -> Result<()> {
    let work = move || -> std::result::Result<(), MapError> {
        let path = pin_directory(Path::new(BPFFS)).join("maps").join(name);
        let mut map: HashMap<_, K, V> = kind(MapData::from_pin(path)?).try_into()?;
        let (old, real): (Vec<_>, Vec<_>) = map.keys().flatten().partition(is_copy);
        old.iter().for_each(|key| drop(map.remove(key))); // one may have been evicted meanwhile
        let real = real.first().ok_or(MapError::KeyNotFound)?;
        let value = map.get(real, 0)?;
        copies(*real).into_iter().try_for_each(|key| map.insert(key, value, 0))
    };
    sandbox.run(work).map_err(|error| Error::Missing(format!("{name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_of_different_sockets() {
        let all: std::collections::HashSet<_> = (0..65_000).map(other).collect();
        assert_eq!(all.len(), 65_000);
        assert!(all.iter().all(|(_, port)| *port >= 1024));
    }
}
