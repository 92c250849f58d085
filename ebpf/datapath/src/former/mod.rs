//! What an earlier version has pinned with maps of another layout: its members, their external ports and circuits, and where its programs are
//! attached, are taken over while packets flow.
//!
//! 1. [`Former::hand_over`] copies the state into the maps of this version, and pins the links beside its programs.
//! 2. The caller replaces the programs, each in place.
//! 3. [`Former::finish`] copies what the former programs have learned meanwhile, and removes what they had pinned.
//!
//! From 1 to 3 the programs drop what belongs to no circuit or port that they know, for it may be one that they will know:
//! it is sent again, whereas the node would reset it. Whoever is killed on the way leaves the former pins, and the next one
//! starts again; what has been copied stays as it is.

mod schema1;

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    net::SocketAddrV4,
    ops::AddAssign,
    path::{Path, PathBuf},
    time::Duration,
};

use abi::{
    Address, Attachment, Circuit, Endpoint, FlowKey, Identity, Protocol, UDP, Uplink, hold, identity, text,
};

use crate::{
    Error, External, Result, State, bpf, kernel_clock,
    pinned::{LINKS, MAPS, PARENT, directory_of, pin_directory},
    probe::Connections,
    state::Lock,
};

/// The UDP port of cameras: GigE Vision's control protocol.
const CAMERA: u16 = 3956;
/// How long it may take, at most, until the caller has replaced all programs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an earlier version has pinned.
pub struct Former {
    bpffs: PathBuf,
    directory: PathBuf,
    maps: schema1::Maps,
    /// The former plugin waits meanwhile.
    _lock: Lock,
}

/// How much was taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Members.
    pub members: usize,
    /// External ports.
    pub ports: usize,
    /// Circuits.
    pub circuits: usize,
}

impl AddAssign for Taken {
    fn add_assign(&mut self, other: Self) {
        self.members += other.members;
        self.ports += other.ports;
        self.circuits += other.circuits;
    }
}

/// The schemas that something is pinned of.
pub(crate) fn schemas(bpffs: &Path) -> Result<Vec<u32>> {
    let parent = bpffs.join(PARENT);
    let fault = |error| Error::kernel(format!("cannot read {}", parent.display()), error);
    let entries = match fs::read_dir(&parent) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.map_err(fault)?,
    };
    let schema = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix('v')?.parse().ok();
    Ok(entries.flatten().filter_map(schema).collect())
}

/// An error if a later version has pinned something.
pub(crate) fn refuse_later(bpffs: &Path) -> Result<()> {
    match schemas(bpffs)?.into_iter().find(|schema| *schema > abi::SCHEMA) {
        Some(later) => Err(Error::LaterVersion { path: directory_of(bpffs, later) }),
        None => Ok(()),
    }
}

impl Former {
    /// What an earlier version has pinned, if it can be taken over, and locks it.
    pub fn find(bpffs: &Path) -> Result<Option<Self>> {
        if !schemas(bpffs)?.contains(&schema1::SCHEMA) {
            return Ok(None);
        }
        let directory = directory_of(bpffs, schema1::SCHEMA);
        let lock = Lock::take(&directory)?;
        match schema1::Maps::open(&directory.join(MAPS)) {
            Ok(maps) => Ok(Some(Self { bpffs: bpffs.into(), directory, maps, _lock: lock })),
            // Loading, or removing it, was interrupted, so there are no members, or none any more.
            Err(Error::NotLoaded(_)) => remove(&directory).map(|()| None),
            Err(error) => Err(error),
        }
    }

    /// Copies its state into `state`, and pins its links beside the new programs. A circuit that is silent for `idle` seconds is over.
    pub fn hand_over(&self, state: &mut State, idle: u32) -> Result<Taken> {
        state.set_taking_over(Some(PATIENCE))?;
        let taken = self.copy(state, idle)?;
        self.pin_links()?;
        Ok(taken)
    }

    /// Copies what has been learned since, ends the taking over, and removes the former pins.
    pub fn finish(self, state: &mut State, idle: u32) -> Result<Taken> {
        let taken = self.copy(state, idle)?;
        state.set_taking_over(None)?;
        remove(&self.directory)?;
        Ok(taken)
    }

    fn copy(&self, state: &mut State, idle: u32) -> Result<Taken> {
        let _lock = state.lock()?;
        let numbers = self.copy_domains(state)?;
        for (interface, uplink) in self.maps.uplinks()? {
            let domain = numbers.get(&uplink.domain).copied().unwrap_or(uplink.domain);
            state.inherit_uplink(interface, Uplink { domain, ..uplink })?;
        }
        let members = self.copy_members(state, &numbers)?;
        state.allow_external_ports(&self.maps.ports()?)?;
        let ports = self.copy_claims(state)?;
        self.copy_receivers(state, &numbers)?;
        let circuits = state.inherit_circuits(self.circuits(state)?, idle)?;
        Ok(Taken { members, ports, circuits })
    }

    /// Makes its members ours. Their generation tells them from those that had their interface indexes earlier.
    fn copy_members(&self, state: &mut State, numbers: &BTreeMap<u16, u16>) -> Result<usize> {
        let (mut taken, generation) = (0, kernel_clock()?.as_millis() as u32);
        for (key, former, member) in self.maps.attachments()? {
            let Some(domain) = numbers.get(&former.domain) else { continue };
            if state.attachment(&key)?.is_some() || state.member(former.member)?.is_some() {
                continue; // taken over already, or another pod's by now
            }
            let schema1::OldAttachment { member: interface, address, network, namespace, pod, .. } = former;
            let member = member.renewed(*domain, generation, name(&namespace, &pod));
            let attachment = Attachment {
                member: interface,
                generation,
                domain: *domain,
                slot: 0,
                address,
                network,
                namespace,
                pod,
            };
            state.join(key, attachment, member, &[])?;
            taken += 1;
        }
        Ok(taken)
    }

    /// Gives its domains the numbers that they have, or others if these are taken: the present number by the former one.
    fn copy_domains(&self, state: &mut State) -> Result<BTreeMap<u16, u16>> {
        let mut numbers = BTreeMap::new();
        for (former, domain) in self.maps.domains()? {
            let present = state.domains()?;
            let is_free = |number: &u16| present.iter().all(|(taken, _)| taken != number);
            let same = present.iter().find(|(_, present)| present.name == domain.name);
            let number = match same {
                Some((number, _)) => Some(*number),
                None => [former].into_iter().chain(0..abi::DOMAINS as u16).find(is_free),
            };
            let Some(number) = number else { continue };
            if same.is_none() {
                state.set_domain(number, domain.renewed())?;
            }
            numbers.insert(former, number);
        }
        Ok(numbers)
    }

    fn copy_claims(&self, state: &mut State) -> Result<usize> {
        let (mut taken, described) = (0, self.copy_described(state)?);
        for (external, former, is_known) in self.maps.claims()? {
            let Some(member) = state.member(former.member)? else { continue };
            if member.address != former.pod.address {
                continue; // an earlier member's
            }
            let place = former.protocol.checked_sub(schema1::DESCRIBED).map(usize::from);
            let described = place.map(|place| described.get(place).copied().unwrap_or(Protocol::Other as u8));
            let udp = former.pod.protocol == u16::from(UDP);
            let is_relayed = udp && self.maps.is_relayed(former.domain, former.pod.port);
            let claim = former.renewed(&member, described.unwrap_or(former.protocol), is_relayed);
            taken += usize::from(state.inherit_claim(external, claim, is_known)?);
        }
        Ok(taken)
    }

    /// Lets the protocols that its configuration describes keep their order: their present numbers, in that.
    fn copy_described(&self, state: &mut State) -> Result<Vec<u8>> {
        let (former, present) = (self.maps.described()?, state.described()?);
        if present.iter().all(|described| described.name[0] == 0) {
            state.set_described(&former)?;
        }
        let present = state.described()?;
        let number = |name: [u8; 32]| {
            let place = present.iter().position(|described| described.name == name && name[0] != 0);
            place.map_or(Protocol::Other as u8, |place| (abi::DESCRIBED as usize + place) as u8)
        };
        Ok(former.iter().map(|described| number(described.name)).collect())
    }

    /// Its circuits as they are now, if the pod still has the connection: the former programs remember many that are over.
    fn circuits(&self, state: &State) -> Result<Vec<(FlowKey, Circuit)>> {
        let externals = state.externals()?.into_iter();
        let claims: BTreeMap<_, _> = externals.map(|entry| (at(&entry.external), entry.claim)).collect();
        let members: BTreeMap<_, _> = state.members()?.into_iter().collect();
        let (now, connections) = (kernel_clock()?.as_secs() as u32, Connections::new()?);
        let mut found = vec![];
        for (key, former) in self.maps.circuits()? {
            let claim = claims.get(&at(&former.external));
            let claim = claim.filter(|claim| (claim.pod.address, claim.pod.port) == (key.pod, key.pod_port));
            let Some((claim, member)) = claim.and_then(|claim| Some((claim, members.get(&claim.member)?)))
            else {
                continue;
            };
            let peer = SocketAddrV4::new(key.peer.into(), key.peer_port);
            if connections.has(member.netns, peer, SocketAddrV4::new(key.pod.into(), key.pod_port))? {
                found.push((key, former.renewed(claim, now)));
            }
        }
        Ok(found)
    }

    /// Its cameras in pods go on streaming. The one that clients find has the port that all cameras have.
    fn copy_receivers(&self, state: &mut State, numbers: &BTreeMap<u16, u16>) -> Result<()> {
        let is_camera = |entry: &External| {
            entry.claim.hold == hold::PINNED && entry.claim.protocol == Protocol::Gvcp as u8
        };
        let mut cameras: Vec<_> = state.externals()?.into_iter().filter(is_camera).collect();
        cameras.sort_by_key(|entry| entry.external.port != CAMERA);
        for receiver in self.maps.receivers()? {
            let domain = numbers.get(&receiver.domain);
            if let Some(camera) = cameras.iter().find(|entry| Some(&entry.claim.domain) == domain) {
                state.inherit_receiver(receiver, &camera.claim)?;
            }
        }
        Ok(())
    }

    /// Pins its links where ours are looked for, beside where they are.
    fn pin_links(&self) -> Result<()> {
        let links = self.directory.join(LINKS);
        let fault = |path: &Path, error| Error::kernel(format!("cannot take over {}", path.display()), error);
        let entries = match fs::read_dir(&links) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()), // removing was interrupted
            entries => entries.map_err(|error| fault(&links, error))?,
        };
        for entry in entries.flatten() {
            let pin = pin_directory(&self.bpffs).join(LINKS).join(entry.file_name());
            if !pin.exists() {
                let link = bpf::open(&entry.path()).map_err(|error| fault(&entry.path(), error))?;
                bpf::pin(&link, &pin).map_err(|error| fault(&pin, error))?;
            }
        }
        Ok(())
    }
}

/// An endpoint, in an order.
fn at(endpoint: &Endpoint) -> (Address, u16, u16) {
    (endpoint.address, endpoint.port, endpoint.protocol)
}

/// Hash of a pod's name.
fn name(namespace: &[u8], pod: &[u8]) -> Identity {
    identity(text(namespace), text(pod))
}

/// Removes a pin directory, the maps first: without them there is nothing to take over.
fn remove(directory: &Path) -> Result<()> {
    let removed = match fs::remove_dir_all(directory.join(MAPS)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => fs::remove_dir_all(directory),
    };
    removed.map_err(|error| Error::kernel(format!("cannot remove {}", directory.display()), error))
}
