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
    ops::AddAssign,
    path::{Path, PathBuf},
};

use abi::{
    Address, Attachment, Circuit, Claim, Endpoint, FlowKey, Identity, Protocol, UDP, hold, identity, text,
};

use crate::{
    Error, Result, State, bpf, kernel_clock,
    pinned::{LINKS, MAPS, PARENT, directory_of, pin_directory},
    state::Lock,
};

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
    /// Circuits, of which some may have ended before.
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

impl Former {
    /// What an earlier version has pinned, if it can be taken over, and locks it. An error if a later one has pinned something.
    pub fn find(bpffs: &Path) -> Result<Option<Self>> {
        let present = schemas(bpffs)?;
        if let Some(later) = present.iter().find(|schema| **schema > abi::SCHEMA) {
            return Err(Error::LaterVersion { path: directory_of(bpffs, *later) });
        }
        if !present.contains(&schema1::SCHEMA) {
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

    /// Copies its state into `state`, and pins its links beside the new programs. A circuit that is silent for `idle` seconds is over;
    /// those that are taken over have to show sooner that they are not.
    pub fn hand_over(&self, state: &mut State, idle: u32) -> Result<Taken> {
        state.set_taking_over(true)?;
        let taken = self.copy(state, idle)?;
        self.pin_links()?;
        Ok(taken)
    }

    /// Copies what has been learned since, ends the taking over, and removes the former pins.
    pub fn finish(self, state: &mut State, idle: u32) -> Result<Taken> {
        let taken = self.copy(state, idle)?;
        state.set_taking_over(false)?;
        remove(&self.directory)?;
        Ok(taken)
    }

    fn copy(&self, state: &mut State, idle: u32) -> Result<Taken> {
        let _lock = state.lock()?;
        let members = self.copy_members(state)?;
        state.allow_external_ports(&self.maps.ports()?)?;
        let ports = self.copy_claims(state)?;
        self.copy_receivers(state)?;
        let circuits = state.inherit_circuits(self.circuits(state, idle)?)?;
        Ok(Taken { members, ports, circuits })
    }

    /// Makes its members ours. Their generation tells them from those that had their interface indexes earlier.
    fn copy_members(&self, state: &mut State) -> Result<usize> {
        let numbers = self.copy_domains(state)?;
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
        let mut taken = 0;
        for (external, former, is_known) in self.maps.claims()? {
            let Some(member) = state.member(former.member)? else { continue };
            if member.address != former.pod.address {
                continue; // an earlier member's
            }
            let udp = former.pod.protocol == u16::from(UDP);
            let is_relayed = udp && self.maps.is_relayed(former.domain, former.pod.port);
            let claim = former.renewed(&member, is_relayed);
            taken += usize::from(state.inherit_claim(external, claim, is_known)?);
        }
        Ok(taken)
    }

    /// Its circuits, as they are now; of those that a member has.
    fn circuits(&self, state: &State, idle: u32) -> Result<Vec<(FlowKey, Circuit)>> {
        let externals = state.externals()?.into_iter();
        let claims: BTreeMap<_, _> = externals.map(|entry| (at(&entry.external), entry.claim)).collect();
        let now = kernel_clock()?.as_secs() as u32;
        let seen = now.wrapping_sub(idle.saturating_sub(Circuit::DOUBT));
        let renew = |(key, former): (FlowKey, schema1::OldCircuit)| {
            let claim = claims.get(&at(&former.external))?;
            let is_its = (claim.pod.address, claim.pod.port) == (key.pod, key.pod_port);
            is_its.then(|| (key, former.renewed(claim, seen)))
        };
        Ok(self.maps.circuits()?.into_iter().filter_map(renew).collect())
    }

    /// Its cameras in pods go on streaming.
    fn copy_receivers(&self, state: &mut State) -> Result<()> {
        let externals = state.externals()?;
        for receiver in self.maps.receivers()? {
            let is_camera =
                |claim: &Claim| claim.hold == hold::PINNED && claim.protocol == Protocol::Gvcp as u8;
            if let Some(camera) = externals.iter().map(|entry| entry.claim).find(is_camera) {
                state.inherit_receiver(receiver, &camera)?;
            }
        }
        Ok(())
    }

    /// Pins its links where ours are looked for, beside where they are.
    fn pin_links(&self) -> Result<()> {
        let links = self.directory.join(LINKS);
        let fault = |path: &Path, error| Error::kernel(format!("cannot take over {}", path.display()), error);
        for entry in fs::read_dir(&links).map_err(|error| fault(&links, error))?.flatten() {
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

fn remove(directory: &Path) -> Result<()> {
    fs::remove_dir_all(directory)
        .map_err(|error| Error::kernel(format!("cannot remove {}", directory.display()), error))
}
