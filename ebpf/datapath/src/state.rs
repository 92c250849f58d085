//! The pinned maps, typed, and the changes that user space makes to them.
//!
//! They are the only truth: whoever changes several of them holds the lock, whoever dies half-way leaves an attachment
//! record behind by which DEL and GC find the rest.

use std::{
    collections::BTreeMap,
    fs::File,
    net::Ipv4Addr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use abi::{
    Attachment, AttachmentKey, Circuit, Claim, Config, Described, Domain, Endpoint, FlowKey, Followed,
    Member, NamespaceKey, Protocol, Relay, RelayKey, Uplink, Verdict, counter_index, roster_index,
};
use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie::Key},
    util::nr_cpus,
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::{Error, Result};

/// Directory of pinned maps inside the pin directory.
pub(crate) const MAPS: &str = "maps";
/// Directory of pinned programs inside the pin directory.
pub(crate) const PROGRAMS: &str = "programs";
/// Directory of pinned links inside the pin directory.
pub(crate) const LINKS: &str = "links";

/// How long to wait for the lock; kubelet retries an ADD that gave up.
const LOCK_PATIENCE: Duration = Duration::from_secs(4);
/// Holders keep the lock for well under a millisecond.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// Flag of a map update: only if the key is not there (linux/bpf.h).
const BPF_NOEXIST: u64 = 1;

/// Where everything of this ABI is pinned, under the BPF file system at `bpffs`.
pub fn pin_directory(bpffs: &Path) -> PathBuf {
    bpffs.join("iocast").join(format!("v{}", abi::SCHEMA))
}

/// The right to change several maps at once; given up when dropped.
#[derive(Debug)]
pub struct Lock {
    _directory: Flock<File>,
}

/// A counter that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// The domain's number.
    pub domain: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// What became of the packets.
    pub verdict: Verdict,
    /// How many, on all CPUs together.
    pub packets: u64,
}

/// An external port in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct External {
    /// The endpoint on the uplink.
    pub external: Endpoint,
    /// What it stands for.
    pub claim: Claim,
}

/// The pinned maps.
pub struct State {
    directory: PathBuf,
    config: Array<MapData, Config>,
    domains: Array<MapData, Domain>,
    uplinks: HashMap<MapData, u32, Uplink>,
    members: HashMap<MapData, u32, Member>,
    roster: Array<MapData, u32>,
    roster_length: Array<MapData, u32>,
    lan_relays: HashMap<MapData, RelayKey, Relay>,
    pod_relays: HashMap<MapData, RelayKey, Relay>,
    descriptors: Array<MapData, Described>,
    externals: HashMap<MapData, Endpoint, Claim>,
    internals: HashMap<MapData, Endpoint, Endpoint>,
    taken: HashMap<MapData, u32, u32>,
    lan: LpmTrie<MapData, [u8; 6], u32>,
    external_ports: Array<MapData, u64>,
    flows: HashMap<MapData, FlowKey, Circuit>,
    streams: HashMap<MapData, FlowKey, Followed>,
    counters: PerCpuArray<MapData, u64>,
    attachments: HashMap<MapData, AttachmentKey, Attachment>,
    namespaces: HashMap<MapData, NamespaceKey, u32>,
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
            members: hash(&maps, "MEMBERS")?,
            roster: array(&maps, "ROSTER")?,
            roster_length: array(&maps, "ROSTER_LENGTH")?,
            lan_relays: hash(&maps, "LAN_RELAYS")?,
            pod_relays: hash(&maps, "POD_RELAYS")?,
            descriptors: array(&maps, "DESCRIPTORS")?,
            externals: hash(&maps, "EXTERNALS")?,
            internals: hash(&maps, "INTERNALS")?,
            taken: hash(&maps, "TAKEN")?,
            lan: typed(&maps, "LAN", Map::LpmTrie)?,
            external_ports: array(&maps, "EXTERNAL_PORTS")?,
            flows: hash(&maps, "FLOWS")?,
            streams: hash(&maps, "STREAMS")?,
            counters: typed(&maps, "COUNTERS", Map::PerCpuArray)?,
            attachments: hash(&maps, "ATTACHMENTS")?,
            namespaces: hash(&maps, "NAMESPACES")?,
            directory,
        })
    }

    /// Waits for the right to change several maps at once, a few seconds at most.
    pub fn lock(&self) -> Result<Lock> {
        let what = || format!("cannot lock {}", self.directory.display());
        let mut file = File::open(&self.directory).map_err(|error| Error::kernel(what(), error))?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(directory) => return Ok(Lock { _directory: directory }),
                Err((_, Errno::EWOULDBLOCK)) if Instant::now() > deadline => {
                    return Err(Error::Busy(self.directory.clone()));
                }
                Err((back, Errno::EWOULDBLOCK)) => file = back,
                Err((_, error)) => return Err(Error::kernel(what(), error)),
            }
            sleep(LOCK_PAUSE);
        }
    }

    /// Sets what all programs need to know.
    pub fn set_config(&mut self, config: Config) -> Result<()> {
        wrote("CONFIG", self.config.set(0, config, 0))
    }

    /// The configured domains, with their numbers.
    pub fn domains(&self) -> Result<Vec<(u16, Domain)>> {
        let mut found = vec![];
        for number in 0..abi::DOMAINS {
            let domain =
                self.domains.get(&number, 0).map_err(|error| Error::bpf("cannot read DOMAINS", &error))?;
            if domain.name[0] != 0 {
                found.push((number as u16, domain));
            }
        }
        Ok(found)
    }

    /// The number of the domain called `name`.
    pub fn domain_number(&self, name: &str) -> Result<u16> {
        let domains = self.domains()?;
        let names: Vec<_> = domains.iter().map(|(_, domain)| abi::text(&domain.name)).collect();
        match names.iter().position(|known| *known == name) {
            Some(place) => Ok(domains[place].0),
            None => {
                let known = if names.is_empty() { "none".into() } else { names.join(", ") };
                Err(Error::NoSuchDomain { name: name.into(), known })
            }
        }
    }

    /// Sets domain `number`.
    pub fn set_domain(&mut self, number: u16, domain: Domain) -> Result<()> {
        if self.domains.get(&u32::from(number), 0).is_ok_and(|present| present == domain) {
            return Ok(());
        }
        wrote("DOMAINS", self.domains.set(u32::from(number), domain, 0))
    }

    /// The uplinks by interface index.
    pub fn uplinks(&self) -> Result<Vec<(u32, Uplink)>> {
        all("UPLINKS", &self.uplinks)
    }

    /// Makes `uplinks`, by interface index, the only ones.
    pub fn set_uplinks(&mut self, uplinks: &[(u32, Uplink)]) -> Result<()> {
        replace_all("UPLINKS", &mut self.uplinks, uplinks)
    }

    /// Makes these the only networks that programs know: domain, address, prefix length, and flags from [`abi::lan`].
    pub fn set_networks(&mut self, networks: &[(u16, [u8; 4], u8, u32)]) -> Result<()> {
        let present: Result<Vec<_>, _> = self.lan.iter().collect();
        let present = present.map_err(|error| Error::bpf("cannot read LAN", &error))?;
        let wanted: Vec<_> = networks
            .iter()
            .map(|(domain, address, prefix, flags)| (abi::network(*domain, *address, *prefix), *flags))
            .collect();
        let same = |(bits, key): &(u32, [u8; 6]), found: &Key<[u8; 6]>| {
            *bits == found.prefix_len() && covers(*key, found.data(), *bits)
        };
        for (network, flags) in &wanted {
            if !present.iter().any(|(found, has)| same(network, found) && has == flags) {
                wrote("LAN", self.lan.insert(&Key::new(network.0, network.1), flags, 0))?;
            }
        }
        for (found, _) in &present {
            if !wanted.iter().any(|(network, _)| same(network, found)) {
                removed("LAN", self.lan.remove(found))?;
            }
        }
        Ok(())
    }

    /// The namespaces that [`State::set_namespaces`] set for a domain, in no order. What they mean is for a
    /// [`Policy`](crate::member::Policy) to say.
    pub fn namespaces(&self, domain: u16) -> Result<Vec<String>> {
        let keys = keys("NAMESPACES", &self.namespaces)?;
        let of_domain = keys.iter().filter(|key| key.domain == u32::from(domain));
        Ok(of_domain.map(|key| abi::text(&key.pattern).to_owned()).collect())
    }

    /// Makes these the only namespaces that domains have.
    pub fn set_namespaces(&mut self, namespaces: &[(u16, String)]) -> Result<()> {
        let entry = |(domain, pattern): &(u16, String)| {
            Some((NamespaceKey { pattern: abi::field(pattern)?, domain: u32::from(*domain) }, 1))
        };
        let entries: Vec<_> = namespaces.iter().filter_map(entry).collect();
        replace_all("NAMESPACES", &mut self.namespaces, &entries)
    }

    /// Makes these the only relayed ports, as the LAN and as pods see them.
    pub fn set_relays(&mut self, lan: &[(RelayKey, Relay)], pods: &[(RelayKey, Relay)]) -> Result<()> {
        replace_all("LAN_RELAYS", &mut self.lan_relays, lan)?;
        replace_all("POD_RELAYS", &mut self.pod_relays, pods)
    }

    /// What the numbers of described protocols stand for, in their order.
    pub fn described(&self) -> Result<Vec<Described>> {
        let read = self.descriptors.iter().collect::<Result<_, _>>();
        read.map_err(|error| Error::bpf("cannot read DESCRIPTORS", &error))
    }

    /// Sets what they stand for. A number that stands for another protocol than before counts anew.
    pub fn set_described(&mut self, described: &[Described]) -> Result<()> {
        for ((number, wanted), present) in (0..).zip(described).zip(self.described()?) {
            if *wanted == present {
                continue;
            }
            if wanted.name != present.name {
                self.clear_counters(abi::DATA + number)?;
            }
            wrote("DESCRIPTORS", self.descriptors.set(number, wanted, 0))?;
        }
        Ok(())
    }

    /// The name of a protocol, for people and for metrics.
    pub fn protocol_name(&self, protocol: Protocol) -> Result<String> {
        let Some(number) = (protocol as u32).checked_sub(abi::DATA) else {
            return Ok(protocol.name().into());
        };
        let described = self.described()?;
        let name = described.get(number as usize).map_or("", |described| abi::text(&described.name));
        Ok(if name.is_empty() { protocol.name().into() } else { name.into() })
    }

    fn clear_counters(&mut self, protocol: u32) -> Result<()> {
        let fault = |error: &dyn std::error::Error| Error::bpf("cannot clear COUNTERS", error);
        let cpus = nr_cpus().map_err(|(_, error)| fault(&error))?;
        for (domain, verdict) in
            (0..abi::DOMAINS).flat_map(|domain| Verdict::ALL.iter().map(move |v| (domain, *v)))
        {
            let zeros = PerCpuValues::try_from(vec![0; cpus]).map_err(|error| fault(&error))?;
            wrote("COUNTERS", self.counters.set(counter_index(domain, protocol, verdict), zeros, 0))?;
        }
        Ok(())
    }

    /// How a UDP port of pods in `domain` is relayed; `None` if it is not.
    pub fn pod_relay(&self, domain: u16, port: u16) -> Result<Option<Relay>> {
        let key = RelayKey { scope: u32::from(domain), port, reserved: 0 };
        absent_is_none("POD_RELAYS", self.pod_relays.get(&key, 0))
    }

    /// How a UDP port is relayed that the LAN sees on the uplink with this interface index; `None` if it is not.
    pub fn lan_relay(&self, uplink: u32, port: u16) -> Result<Option<Relay>> {
        absent_is_none("LAN_RELAYS", self.lan_relays.get(&RelayKey { scope: uplink, port, reserved: 0 }, 0))
    }

    /// Makes these ranges, both ends inclusive, and all pinned ports the only ones that may be external. The caller
    /// holds the lock.
    pub fn set_external_ports(&mut self, ranges: &[(u16, u16)]) -> Result<()> {
        let mut words = vec![0u64; abi::PORT_WORDS as usize];
        let pinned: Vec<_> = self.pins()?.iter().map(|pin| pin.external.port).collect();
        for port in ranges.iter().flat_map(|(first, last)| *first..=*last).chain(pinned) {
            words[usize::from(port / 64)] |= 1 << (port % 64);
        }
        for (index, word) in (0..).zip(words) {
            self.change_port_word(index, |_| word)?;
        }
        Ok(())
    }

    fn change_port_word(&mut self, index: u32, change: impl Fn(u64) -> u64) -> Result<()> {
        let read = self.external_ports.get(&index, 0);
        let old = read.map_err(|error| Error::bpf("cannot read EXTERNAL_PORTS", &error))?;
        if change(old) == old {
            return Ok(());
        }
        wrote("EXTERNAL_PORTS", self.external_ports.set(index, change(old), 0))
    }

    /// Gives a member an external port for good. An error names who else has it. The caller holds the lock and has joined the
    /// member.
    pub fn pin(&mut self, external: Endpoint, claim: Claim) -> Result<()> {
        match self.externals.insert(external, claim, BPF_NOEXIST) {
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                return Err(self.taken(external)?);
            }
            outcome => wrote("EXTERNALS", outcome)?,
        }
        wrote("INTERNALS", self.internals.insert(claim.pod, external, 0))?;
        self.change_port_word(u32::from(external.port / 64), |word| word | 1 << (external.port % 64))
    }

    /// The error that tells who holds an external port.
    fn taken(&self, external: Endpoint) -> Result<Error> {
        let claim = absent_is_none("EXTERNALS", self.externals.get(&external, 0))?;
        let attachments = self.attachments()?;
        let holder = attachments
            .iter()
            .find(|(_, attachment)| claim.is_some_and(|claim| claim.member == attachment.member))
            .map(|(_, attachment)| {
                format!("{}/{}", abi::text(&attachment.namespace), abi::text(&attachment.pod))
            });
        let protocol = if external.protocol == u16::from(abi::TCP) { "tcp" } else { "udp" };
        let holder = holder.unwrap_or_else(|| "another pod".into());
        Ok(Error::PortTaken { protocol, port: external.port, holder })
    }

    /// Lets the external ports of a domain follow its uplink to this address: pinned ones move there, others that are elsewhere
    /// are given back. Counts anew how many of `range` each member has: a port of a former range serves on, and does not
    /// count. An error names who else has a pinned port. The caller holds the lock.
    pub fn follow_uplink(&mut self, domain: u16, address: [u8; 4], range: RangeInclusive<u16>) -> Result<()> {
        let (mut pins, mut counts) = (vec![], BTreeMap::<u32, u32>::new());
        for External { external, claim } in self.externals()? {
            if claim.domain != domain {
                continue;
            }
            let is_here = external.address == address;
            if claim.pinned == 0 {
                let counts_now = is_here && range.contains(&external.port);
                *counts.entry(claim.member).or_default() += u32::from(counts_now);
            }
            match (is_here, claim.pinned != 0) {
                (true, _) => {}
                (false, true) => pins.push((external, claim)),
                (false, false) => removed("EXTERNALS", self.externals.remove(&external))?,
            }
        }
        self.set_taken(counts)?;
        for (external, claim) in pins {
            removed("EXTERNALS", self.externals.remove(&external))?;
            self.pin(Endpoint { address, ..external }, claim)?;
        }
        Ok(())
    }

    /// Corrects how many external ports these members have taken.
    fn set_taken(&mut self, counts: BTreeMap<u32, u32>) -> Result<()> {
        for (member, count) in counts {
            if absent_is_none("TAKEN", self.taken.get(&member, 0))?.is_some_and(|known| known != count) {
                wrote("TAKEN", self.taken.insert(member, count, 0))?;
            }
        }
        Ok(())
    }

    fn pins(&self) -> Result<Vec<External>> {
        let mut found = self.externals()?;
        found.retain(|external| external.claim.pinned != 0);
        Ok(found)
    }

    /// The attachment recorded under `key`.
    pub fn attachment(&self, key: &AttachmentKey) -> Result<Option<Attachment>> {
        absent_is_none("ATTACHMENTS", self.attachments.get(key, 0))
    }

    /// All recorded attachments.
    pub fn attachments(&self) -> Result<Vec<(AttachmentKey, Attachment)>> {
        all("ATTACHMENTS", &self.attachments)
    }

    /// The member whose host-side veth has this interface index.
    pub fn member(&self, interface: u32) -> Result<Option<Member>> {
        absent_is_none("MEMBERS", self.members.get(&interface, 0))
    }

    /// The external ports in use.
    pub fn externals(&self) -> Result<Vec<External>> {
        Ok(all("EXTERNALS", &self.externals)?
            .into_iter()
            .map(|(external, claim)| External { external, claim })
            .collect())
    }

    /// How many places of all rosters are taken.
    pub fn roster_entries(&self) -> Result<usize> {
        let mut taken = 0;
        for place in 0..self.roster.len() {
            let interface =
                self.roster.get(&place, 0).map_err(|error| Error::bpf("cannot read ROSTER", &error))?;
            taken += usize::from(interface != 0);
        }
        Ok(taken)
    }

    /// How many translated TCP flows are remembered.
    pub fn flow_count(&self) -> Result<usize> {
        Ok(keys("FLOWS", &self.flows)?.len())
    }

    /// The counters that are not zero.
    pub fn counters(&self) -> Result<Vec<Counter>> {
        let mut found = vec![];
        for (domain, _) in self.domains()? {
            for &protocol in Protocol::ALL {
                for &verdict in Verdict::ALL {
                    let index = counter_index(u32::from(domain), protocol as u32, verdict);
                    let values = self
                        .counters
                        .get(&index, 0)
                        .map_err(|error| Error::bpf("cannot read COUNTERS", &error))?;
                    let packets = values.iter().sum();
                    if packets > 0 {
                        found.push(Counter { domain, protocol, verdict, packets });
                    }
                }
            }
        }
        Ok(found)
    }

    /// Makes a pod a member: records the attachment, then lets the programs see the member.
    /// The caller holds the lock.
    pub fn join(&mut self, key: AttachmentKey, mut attachment: Attachment, member: Member) -> Result<()> {
        let domain = u32::from(member.domain);
        let slot = self.free_slot(domain)?;
        attachment.slot = slot as u16;
        wrote("ATTACHMENTS", self.attachments.insert(key, attachment, 0))?;
        wrote("MEMBERS", self.members.insert(attachment.member, member, 0))?;
        wrote("ROSTER", self.roster.set(roster_index(domain, slot), attachment.member, 0))?;
        if slot >= self.roster_length(domain)? {
            wrote("ROSTER_LENGTH", self.roster_length.set(domain, slot + 1, 0))?;
        }
        Ok(())
    }

    /// Undoes [`State::join`], and gives back all the pod's external ports. The caller holds the lock. That parts of it
    /// are gone already is no error.
    pub fn leave(&mut self, key: &AttachmentKey, attachment: &Attachment) -> Result<()> {
        let place = roster_index(u32::from(attachment.domain), u32::from(attachment.slot));
        if self.roster.get(&place, 0).is_ok_and(|interface| interface == attachment.member) {
            wrote("ROSTER", self.roster.set(place, 0, 0))?;
        }
        removed("MEMBERS", self.members.remove(&attachment.member))?;
        removed("TAKEN", self.taken.remove(&attachment.member))?;
        for External { external, claim } in self.externals()? {
            if claim.member == attachment.member {
                removed("EXTERNALS", self.externals.remove(&external))?;
                removed("INTERNALS", self.internals.remove(&claim.pod))?;
            }
        }
        removed("ATTACHMENTS", self.attachments.remove(key))
    }

    /// Forgets the circuits of the pod at `address`, so that another pod that gets it later is not taken for this one. Takes
    /// a while where there are many, so the caller holds no lock.
    pub fn forget_circuits(&mut self, address: [u8; 4]) -> Result<()> {
        for flow in keys("FLOWS", &self.flows)? {
            if flow.pod == address {
                removed("FLOWS", self.flows.remove(&flow))?;
                removed("STREAMS", self.streams.remove(&flow))?;
            }
        }
        Ok(())
    }

    fn free_slot(&self, domain: u32) -> Result<u32> {
        for slot in 0..abi::SLOTS {
            let interface = self
                .roster
                .get(&roster_index(domain, slot), 0)
                .map_err(|error| Error::bpf("cannot read ROSTER", &error))?;
            if interface == 0 {
                return Ok(slot);
            }
        }
        let name =
            self.domains.get(&domain, 0).map(|domain| abi::text(&domain.name).to_owned()).unwrap_or_default();
        Err(Error::DomainFull { domain: name, limit: abi::SLOTS })
    }

    fn roster_length(&self, domain: u32) -> Result<u32> {
        self.roster_length.get(&domain, 0).map_err(|error| Error::bpf("cannot read ROSTER_LENGTH", &error))
    }
}

/// Whether two keys of a trie are the same in their first `bits` bits, which is all that the kernel keeps of them.
fn covers(a: [u8; 6], b: [u8; 6], bits: u32) -> bool {
    let number = |bytes: [u8; 6]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    (number(a) ^ number(b)) >> (48 - bits) == 0
}

pub(crate) fn array<V: Pod>(maps: &Path, name: &str) -> Result<Array<MapData, V>> {
    typed(maps, name, Map::Array)
}

fn hash<K: Pod, V: Pod>(maps: &Path, name: &str) -> Result<HashMap<MapData, K, V>> {
    // aya reads LRU maps through the same type, and wants the variant that the kernel reports.
    let lru = ["FLOWS", "STREAMS", "SEARCHERS"].contains(&name);
    typed(maps, name, if lru { Map::LruHashMap } else { Map::HashMap })
}

pub(crate) fn typed<T: TryFrom<Map, Error = MapError>>(
    maps: &Path,
    name: &str,
    kind: fn(MapData) -> Map,
) -> Result<T> {
    let path = maps.join(name);
    if !path.exists() {
        return Err(Error::NotLoaded(path)); // or loaded only half: the agent makes it whole
    }
    let data = MapData::from_pin(&path)
        .map_err(|error| Error::bpf(format!("cannot open {}", path.display()), &error))?;
    T::try_from(kind(data)).map_err(|error| Error::ForeignMap { path, reason: error.to_string() })
}

fn keys<K: Pod, V: Pod>(name: &str, map: &HashMap<MapData, K, V>) -> Result<Vec<K>> {
    // The kernel starts over when the key it stands at is removed meanwhile: that must not go on for ever.
    const MOST: usize = 4 * abi::FLOWS as usize;
    map.keys()
        .take(MOST)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::bpf(format!("cannot read {name}"), &error))
}

/// Every entry; those that vanish meanwhile are left out.
fn all<K: Pod, V: Pod>(name: &str, map: &HashMap<MapData, K, V>) -> Result<Vec<(K, V)>> {
    let mut found = vec![];
    for key in keys(name, map)? {
        if let Some(value) = absent_is_none(name, map.get(&key, 0))? {
            found.push((key, value));
        }
    }
    Ok(found)
}

/// Makes `entries` the map's only ones, without a moment in which one that stays is missing.
fn replace_all<K: Pod + PartialEq, V: Pod + PartialEq>(
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

fn removed(name: &str, result: Result<(), MapError>) -> Result<()> {
    match result {
        Err(error) if !is_absent(&error) => Err(Error::bpf(format!("cannot remove from {name}"), &error)),
        _ => Ok(()),
    }
}

fn absent_is_none<V>(name: &str, result: Result<V, MapError>) -> Result<Option<V>> {
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

impl External {
    /// `address:port` on the uplink.
    pub fn external_address(&self) -> (Ipv4Addr, u16) {
        (self.external.address.into(), self.external.port)
    }

    /// `address:port` in the pod.
    pub fn pod_address(&self) -> (Ipv4Addr, u16) {
        (self.claim.pod.address.into(), self.claim.pod.port)
    }
}
