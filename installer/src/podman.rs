//! What podman runs, as crun records it: for each container a directory with its configuration and its first process.

use std::{
    fs,
    path::{Path, PathBuf},
};

use membership::{
    annotation,
    podman::{NAMESPACE, name, parent},
};
use serde::Deserialize;
use serde_json::Value;

use crate::cri::{Sandbox, in_spec};

/// Where crun keeps its records.
pub(crate) const RECORDS: &str = "/run/crun";

/// A container's `status`, as far as it is needed (`libcrun_write_container_status` in crun's `src/libcrun/status.c`).
#[derive(Deserialize)]
struct Status {
    pid: u32,
    /// Ticks after boot.
    #[serde(rename = "process-start-time")]
    start: u64,
}

/// The containers recorded in `directory`; none if there is no such directory.
pub(crate) fn containers(directory: &Path) -> Vec<Sandbox> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| container(&entry.path())).collect()
}

/// The network namespace of a container recorded in `directory`; none if it uses the node's.
pub(crate) fn netns(directory: &Path, id: &str) -> Option<PathBuf> {
    in_spec(&config(&directory.join(id))?).map(Into::into)
}

fn config(record: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(record.join("config.json")).ok()?).ok()
}

/// One that runs, or is created.
fn container(record: &Path) -> Option<Sandbox> {
    let pid = process(record)?;
    let config = config(record)?;
    let id = record.file_name()?.to_string_lossy().into_owned();
    let annotation = |key: &str| config["annotations"][key].as_str().map(str::to_owned);
    Some(Sandbox {
        namespace: NAMESPACE.into(),
        name: name(&id, parent(pid)?), // the process itself is the container's, and may call itself what it likes
        ready: true,
        domain: annotation(annotation::DOMAIN),
        ports: annotation(annotation::PORTS).unwrap_or_default(),
        address: annotation(annotation::ADDRESS),
        pvs: annotation(annotation::PVS),
        id,
    })
}

/// The first process of a container, unless it has ended and another has its number.
fn process(record: &Path) -> Option<u32> {
    let Status { pid, start } = serde_json::from_slice(&fs::read(record.join("status")).ok()?).ok()?;
    (started(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)? == start).then_some(pid)
}

/// When a process began, in ticks after boot: the 22nd field of its `stat` (proc(5)), where the second may hold anything.
fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_says_when_it_began() {
        let fields: Vec<_> = (3..=30).map(|field| field.to_string()).collect();
        assert_eq!(started(&format!("7 (a) b) {}", fields.join(" "))), Some(22));
        assert_eq!(started("7 (a"), None);
    }
}
