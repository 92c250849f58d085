//! The pinned maps, typed, and the changes that user space makes to them; one file per writer.
//!
//! They are the only source of truth. A process that changes several of them holds the lock; if it dies half-way, DEL and GC
//! find the rest through the attachment record.

mod addresses;
mod circuits;
mod configured;
mod counters;
mod externals;
mod groups;
mod inherited;
mod members;
mod owners;

pub use counters::{Counter, Latency};
pub use externals::{External, Home};

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use abi::{
    Address, AddressRange, Attachment, AttachmentKey, Claim, Config, Declared, Described, Domain, Endpoint,
    GroupKey, LanAddress, Member, NamespaceKey, Owned, Owner, Owners, Prefixes, Relay, RelayKey, Rival,
    Share, Uplink,
};
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::stat::{major, minor},
};

use crate::{
    Error, Result,
    maps::{array, hash, typed},
    pinned::{MAPS, pin_directory},
};

/// How long to wait for the lock; kubelet retries an ADD that timed out.
const LOCK_PATIENCE: Duration = Duration::from_secs(4);
/// Holders keep the lock for well under a millisecond.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// The lock for changing several maps at once; released when dropped.
#[derive(Debug)]
pub struct Lock {
    _directory: Flock<File>,
}

/// The pinned maps.
pub struct State {
    directory: PathBuf,
    // configured
    config: Array<MapData, Config>,
    domains: Array<MapData, Domain>,
    uplinks: HashMap<MapData, u32, Uplink>,
    lan: LpmTrie<MapData, [u8; 6], u32>,
    namespaces: HashMap<MapData, NamespaceKey, u32>,
    lan_relays: HashMap<MapData, RelayKey, Relay>,
    pod_relays: HashMap<MapData, RelayKey, Relay>,
    relayed_ports: Array<MapData, u64>,
    descriptors: Array<MapData, Described>,
    // groups
    groups: HashMap<MapData, GroupKey, u32>,
    // addresses
    address_ranges: HashMap<MapData, AddressRange, u32>,
    lan_addresses: HashMap<MapData, Address, LanAddress>,
    rivals: HashMap<MapData, Address, Rival>,
    // members
    attachments: HashMap<MapData, AttachmentKey, Attachment>,
    members: HashMap<MapData, u32, Member>,
    roster: Array<MapData, u32>,
    roster_length: Array<MapData, u32>,
    // owners
    prefixes: HashMap<MapData, u32, Prefixes>,
    owned: LpmTrie<MapData, Owned, Owners>,
    declared: Array<MapData, Declared>,
    // externals
    externals: HashMap<MapData, Endpoint, Claim>,
    internals: HashMap<MapData, Owner, Endpoint>,
    changing: HashMap<MapData, Owner, u64>,
    external_ports: Array<MapData, u64>,
    port_counts: HashMap<MapData, u32, Share>,
    // counters
    counters: PerCpuArray<MapData, u64>,
    latencies: PerCpuArray<MapData, u64>,
    circuit_counts: Array<MapData, i64>,
    refused: Array<MapData, u64>,
}

impl State {
    /// Opens the pinned maps under `bpffs`.
    pub fn open(bpffs: &Path) -> Result<Self> {
        let directory = pin_directory(bpffs);
        let maps = directory.join(MAPS);
        Ok(Self {
            config: array(&maps, "CONFIG")?,
            domains: array(&maps, "DOMAINS")?,
            uplinks: hash(&maps, "UPLINKS")?,
            lan: typed(&maps, "LAN", Map::LpmTrie)?,
            namespaces: hash(&maps, "NAMESPACES")?,
            lan_relays: hash(&maps, "LAN_RELAYS")?,
            pod_relays: hash(&maps, "POD_RELAYS")?,
            relayed_ports: array(&maps, "RELAYED_PORTS")?,
            descriptors: array(&maps, "DESCRIPTORS")?,
            groups: hash(&maps, "GROUPS")?,
            address_ranges: hash(&maps, "ADDRESS_RANGES")?,
            lan_addresses: hash(&maps, "LAN_ADDRESSES")?,
            rivals: typed(&maps, "RIVALS", Map::LruHashMap)?,
            attachments: hash(&maps, "ATTACHMENTS")?,
            members: hash(&maps, "MEMBERS")?,
            roster: array(&maps, "ROSTER")?,
            roster_length: array(&maps, "ROSTER_LENGTH")?,
            prefixes: hash(&maps, "PREFIXES")?,
            owned: typed(&maps, "OWNED", Map::LpmTrie)?,
            declared: array(&maps, "DECLARED")?,
            externals: hash(&maps, "EXTERNALS")?,
            internals: hash(&maps, "INTERNALS")?,
            changing: hash(&maps, "CHANGING")?,
            external_ports: array(&maps, "EXTERNAL_PORTS")?,
            port_counts: hash(&maps, "PORT_COUNTS")?,
            counters: typed(&maps, "COUNTERS", Map::PerCpuArray)?,
            latencies: typed(&maps, "LATENCIES", Map::PerCpuArray)?,
            circuit_counts: array(&maps, "CIRCUIT_COUNTS")?,
            refused: array(&maps, "REFUSED")?,
            directory,
        })
    }

    /// Takes the lock for changing several maps at once; waits a few seconds at most.
    pub fn lock(&self) -> Result<Lock> {
        Lock::take(&self.directory)
    }
}

impl Lock {
    /// Takes the one of a pin directory.
    pub(crate) fn take(directory: &Path) -> Result<Self> {
        let what = || format!("cannot lock {}", directory.display());
        let mut file = File::open(directory).map_err(|error| Error::kernel(what(), error))?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(directory) => return Ok(Self { _directory: directory }),
                Err((file, Errno::EWOULDBLOCK)) if Instant::now() > deadline => {
                    return Err(Error::Busy { path: directory.into(), holder: holder(&file) });
                }
                Err((back, Errno::EWOULDBLOCK)) => file = back,
                Err((_, error)) => return Err(Error::kernel(what(), error)),
            }
            sleep(LOCK_PAUSE);
        }
    }
}

/// Who keeps `file` locked, as far as /proc says: the name and the number of a process.
fn holder(file: &File) -> String {
    let look = || {
        let metadata = file.metadata().ok()?;
        let (major, minor) = (major(metadata.dev()), minor(metadata.dev()));
        let id = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
        let process = holder_of(&id, &fs::read_to_string("/proc/locks").ok()?)?;
        let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
        Some(format!("process {process} ({})", name.trim_end()))
    };
    look().unwrap_or_else(|| "another process".into())
}

/// The process that holds the flock of a file, from the text of /proc/locks (proc_locks(5)).
fn holder_of(id: &str, locks: &str) -> Option<u32> {
    locks.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", _, _, process, file, ..] if file == id => process.parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_the_lock_is_found_among_other_locks_and_those_who_wait() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:1f:99 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 00:1f:9 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 00:1f:99 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 14 00:1f:99 0 EOF\n";
        assert_eq!(holder_of("00:1f:99", locks), Some(13));
        assert_eq!(holder_of("00:1e:99", locks), None);
    }
}
