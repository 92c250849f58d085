//! Opens, reads and changes pinned maps, with errors that name the map. Knows nothing about their contents.

use std::{os::fd::AsFd, path::Path};

use aya::{
    Pod,
    maps::{Array, HashMap, IterableMap, Map, MapData, MapError},
};

use nix::errno::Errno;

use crate::{Error, Result, bpf};

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
    let foreign = |error: MapError| Error::ForeignMap { path: maps.join(name), reason: error.to_string() };
    T::try_from(kind(data(maps, name)?)).map_err(foreign)
}

pub(crate) fn data(maps: &Path, name: &str) -> Result<MapData> {
    let path = maps.join(name);
    if !path.exists() {
        return Err(Error::NotLoaded(path)); // or only partly loaded: the agent completes it
    }
    MapData::from_pin(&path).map_err(|error| Error::bpf(format!("cannot open {}", path.display()), &error))
}

pub(crate) fn keys<K: Pod, V: Pod>(name: &str, map: &HashMap<MapData, K, V>) -> Result<Vec<K>> {
    Ok(all(name, map)?.into_iter().map(|(key, _)| key).collect())
}

/// Every entry.
pub(crate) fn all<K: Pod, V: Pod>(name: &str, map: &HashMap<MapData, K, V>) -> Result<Vec<(K, V)>> {
    bpf::entries(IterableMap::map(map).fd().as_fd()).map_err(|error| cannot_read(name, error))
}

/// The values of an array from index `first`, at most `count`.
pub(crate) fn range<V: Pod>(name: &str, map: &Array<MapData, V>, first: u32, count: u32) -> Result<Vec<V>> {
    let map = IterableMap::map(map).fd().as_fd();
    bpf::values(map, first, count, 1).map_err(|error| cannot_read(name, error))
}

fn cannot_read(name: &str, error: std::io::Error) -> Error {
    Error::kernel(format!("cannot read {name}"), error)
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

/// Whether nothing more fits into a map.
pub(crate) fn is_full(error: &MapError) -> bool {
    let is_room = |errno| [Errno::ENOSPC, Errno::E2BIG].map(|full| full as i32).contains(&errno);
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error().is_some_and(is_room))
}

fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
