//! What must not grow, and what may up to a limit.

use std::collections::BTreeMap;

use lab::{Error, Leftovers, NODE, Result};

use super::scene::Scene;

/// What is read after each round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gauges {
    /// The agent's resident memory, kB.
    resident: u64,
    /// The agent's file descriptors.
    descriptors: usize,
    /// What is pinned on the node.
    pins: usize,
    /// The node's network interfaces.
    interfaces: usize,
    ours: Leftovers,
    circuits: u64,
    /// Memory of the maps, kB.
    maps: u64,
}

/// How a gauge is to behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is the same at the end as at the beginning, about.
    Steady,
    /// It may grow up to this.
    UpTo(u64),
}

impl Gauges {
    pub(crate) fn read(scene: &Scene) -> Result<Self> {
        let lab = &scene.lab;
        let agent = lab.agent().ok_or_else(|| Error::Missing("no agent runs".into()))?;
        let count = |line: &str| Ok::<_, Error>(lab.sandbox.sh(NODE, line)?.lines().count());
        let descriptors = format!("/proc/{}/fd", agent.id());
        Ok(Self {
            resident: agent.resident()?,
            descriptors: lab::tried(&*descriptors, std::fs::read_dir(&descriptors))?.count(),
            pins: count("find /sys/fs/bpf")?,
            interfaces: count("ip -o link show")?,
            ours: lab.leftovers()?,
            circuits: lab.circuits()?,
            maps: maps(agent.id())?,
        })
    }

    /// Each with its name.
    pub(crate) fn all(&self) -> [(&'static str, Kind, u64); 11] {
        let steady = |name, number: usize| (name, Kind::Steady, number as u64);
        let Leftovers { attachments, members, external_ports, roster_entries, filters, addresses, routes } =
            self.ours;
        [
            ("resident memory of the agent, kB", Kind::Steady, self.resident),
            ("file descriptors of the agent", Kind::Steady, self.descriptors as u64),
            ("memory of maps, kB", Kind::UpTo(64 << 10), self.maps),
            steady("pins", self.pins),
            steady("interfaces of the node", self.interfaces),
            steady("attachments and members", attachments + members),
            steady("places in rosters", roster_entries),
            steady("filters on veths", filters),
            steady("addresses on the LAN and routes to them", addresses + routes),
            ("external ports", Kind::UpTo(4000), external_ports as u64),
            ("circuits", Kind::UpTo(u64::from(abi::CIRCUITS)), self.circuits),
        ]
    }
}

/// Memory of the maps that a process has open, each once, kB.
fn maps(process: u32) -> Result<u64> {
    let directory = format!("/proc/{process}/fdinfo");
    let files = lab::tried(&*directory, std::fs::read_dir(&directory))?.flatten();
    // A descriptor may be closed while we look.
    let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let map = |text: String| -> Option<(u64, u64)> {
        let number =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key))?.trim().parse::<u64>().ok();
        Some((number("map_id:")?, number("memlock:")?))
    };
    Ok(texts.filter_map(map).collect::<BTreeMap<_, _>>().values().sum::<u64>() / 1024)
}
