//! Opens, reads and changes pinned maps, with errors that name the map. Knows nothing about their contents.

use std::path::Path;

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError},
};

use crate::{Error, Result};

/// Flag of a map update: only if the key does not exist (linux/bpf.h).
pub(crate) const BPF_NOEXIST: u64 = 1;

pub(crate) fn array<V: Pod>(maps: &Path, name: &str) -> Result<Array<MapData, V>> {
    typed(maps, name, Map::Array)
}

pub(crate) fn hash<K: Pod, V: Pod>(maps: &Path, name: &str) -> Result<HashMap<MapData, K, V>> {
    typed(maps, name, Map::HashMap)
}

pub(crate) fn typed<T: TryFrom<Map, Error = MapError>>(
    maps: &Path,
    name: &str,
    kind: fn(MapData) -> Map,
) -> Result<T> {
    let path = maps.join(name);
    if !path.exists() {
        return Err(Error::NotLoaded(path)); // or only partly loaded: the agent completes it
    }
    let data = MapData::from_pin(&path)
        .map_err(|error| Error::bpf(format!("cannot open {}", path.display()), &error))?;
    T::try_from(kind(data)).map_err(|error| Error::ForeignMap { path, reason: error.to_string() })
}

pub(crate) fn keys<K: Pod, V: Pod>(name: &str, map: &HashMap<MapData, K, V>) -> Result<Vec<K>> {
    // The kernel starts over if the current key is removed concurrently: that must not go on forever.
    const MOST: usize = 4 * abi::EXTERNALS as usize;
    map.keys()
        .take(MOST)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::bpf(format!("cannot read {name}"), &error))
}

/// Every entry, except those removed concurrently.
pub(crate) fn all<K: Pod, V: Pod>(name: &str, map: &HashMap<MapData, K, V>) -> Result<Vec<(K, V)>> {
    let mut found = vec![];
    for key in keys(name, map)? {
        if let Some(value) = absent_is_none(name, map.get(&key, 0))? {
            found.push((key, value));
        }
    }
    Ok(found)
}

/// Replaces all entries by `entries`; those that stay are never missing meanwhile.
pub(crate) fn replace_all<K: Pod + PartialEq, V: Pod + PartialEq>(
    name: &str,
    map: &mut HashMap<MapData, K, V>,
    entries: &[(K, V)],
) -> Result<()> {
    for (key, value) in entries {
        if map.get(key, 0).ok().as_ref() != Some(value) {
            wrote(name, map.insert(key, value, 0))?;
        }
    }
    for key in keys(name, map)? {
        if !entries.iter().any(|(wanted, _)| *wanted == key) {
            removed(name, map.remove(&key))?;
        }
    }
    Ok(())
}

pub(crate) fn wrote(name: &str, result: Result<(), MapError>) -> Result<()> {
    result.map_err(|error| Error::bpf(format!("cannot write {name}"), &error))
}

pub(crate) fn removed(name: &str, result: Result<(), MapError>) -> Result<()> {
    match result {
        Err(error) if !is_absent(&error) => Err(Error::bpf(format!("cannot remove from {name}"), &error)),
        _ => Ok(()),
    }
}

pub(crate) fn absent_is_none<V>(name: &str, result: Result<V, MapError>) -> Result<Option<V>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Error::bpf(format!("cannot read {name}"), &error)),
    }
}

fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
