//! `--cri` and `--podman`: adopts pods that started before iocast, without restarting them, and cleans up after pods that never
//! got a DEL.
//!
//! The runtime is queried on a separate thread: a runtime that hangs must not keep the agent from following its uplinks.

use std::{
    collections::HashSet,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use abi::{Attachment, AttachmentKey, text};
use datapath::{Netns, Pod, State, arp::Sender as Arp, lan_address, link, member, printable};
use membership::{Admission, pins};
use tracing::{debug, info};

use crate::{
    cri::Sandbox,
    error::Error,
    log::ADOPT,
    runtime::{Place, Runtime},
};

/// Time between two queries of the runtime.
const PERIOD: Duration = Duration::from_secs(30);
/// How long a pod must be unknown to the runtime before its attachment is cleaned up. A pod that is being created is not
/// known yet; kubelet times that out after four minutes.
const GRACE: Duration = Duration::from_secs(300);
/// The interface of a pod's primary network.
pub(crate) const INTERFACE: &str = "eth0";

/// An attachment that the runtime does not know, and since when.
type Unknown = (AttachmentKey, Instant);

/// What to do.
#[derive(Debug, PartialEq, Eq)]
struct Actions<'a> {
    /// Pods that request a domain but are in none.
    adopt: Vec<&'a Sandbox>,
    /// Attachments of pods that are gone.
    collect: Vec<AttachmentKey>,
    /// To remember until the next pass.
    unknown: Vec<Unknown>,
}

/// Decides what to do, from all `sandboxes` that the runtime knows and all recorded `attachments`.
fn decide<'a>(
    sandboxes: &'a [Sandbox],
    attachments: &[AttachmentKey],
    unknown: &[Unknown],
    now: Instant,
) -> Actions<'a> {
    let is_known = |key: &AttachmentKey| sandboxes.iter().any(|sandbox| sandbox.id == text(&key.container));
    let since =
        |key: &AttachmentKey| unknown.iter().find(|(known, _)| known == key).map_or(now, |(_, since)| *since);
    let unknown = attachments.iter().filter(|key| !is_known(key)).map(|key| (*key, since(key)));
    let (gone, unknown): (Vec<_>, Vec<_>) =
        unknown.partition(|(_, since)| now.duration_since(*since) >= GRACE);
    Actions {
        adopt: absent(sandboxes, attachments),
        collect: gone.into_iter().map(|(key, _)| key).collect(),
        unknown,
    }
}

/// The pods that request a domain but are in none.
pub(crate) fn absent<'a>(sandboxes: &'a [Sandbox], attachments: &[AttachmentKey]) -> Vec<&'a Sandbox> {
    let is_absent =
        |sandbox: &&Sandbox| sandbox.ready && sandbox.domain.is_some() && !is_member(sandbox, attachments);
    sandboxes.iter().filter(is_absent).collect()
}

/// The interfaces of members that the runtime still knows: another container with that network, as in a pod of podman, is a
/// member with them.
pub(crate) fn held(sandboxes: &[Sandbox], recorded: &[(AttachmentKey, Attachment)]) -> HashSet<u32> {
    let is_known = |key: &AttachmentKey| sandboxes.iter().any(|sandbox| sandbox.id == text(&key.container));
    recorded.iter().filter(|(key, _)| is_known(key)).map(|(_, held)| held.member).collect()
}

/// Whether one of these attachments is the pod's.
pub(crate) fn is_member(sandbox: &Sandbox, attachments: &[AttachmentKey]) -> bool {
    attachments.iter().any(|key| text(&key.container) == sandbox.id && text(&key.interface) == INTERFACE)
}

/// The outcome of adoption so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// What could not be done in the last pass.
    pub(crate) problems: Vec<String>,
    /// How many pods have been adopted since the agent started.
    pub(crate) adopted: u64,
    /// How often one could not be.
    pub(crate) failed: u64,
}

/// Adoption, running alongside the agent's loop.
pub(crate) struct Adoption {
    outcome: Arc<Mutex<Outcome>>,
    wake: Sender<()>,
}

impl Adoption {
    /// Queries the runtime at `place` now and periodically, or, with `once`, once before this returns.
    pub(crate) fn start(place: &Place, bpffs: &Path, once: bool) -> std::io::Result<Self> {
        let mut adopter = Adopter::new(place, bpffs);
        let (wake, woken) = channel();
        let first = if once { adopter.pass() } else { Outcome::default() };
        let adoption = Self { outcome: Arc::new(Mutex::new(first)), wake };
        if !once {
            let outcome = Arc::clone(&adoption.outcome);
            thread::Builder::new().name("adopt".into()).spawn(move || {
                loop {
                    let now = adopter.pass();
                    *outcome.lock().unwrap_or_else(PoisonError::into_inner) = now;
                    if woken.recv_timeout(PERIOD) == Err(RecvTimeoutError::Disconnected) {
                        return;
                    }
                }
            })?;
        }
        Ok(adoption)
    }

    /// The outcome so far.
    pub(crate) fn outcome(&self) -> Outcome {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Queries the runtime now.
    pub(crate) fn ask(&self) {
        let _ = self.wake.send(()); // with `once` nobody receives it
    }
}

/// Adopts pods, one query after another.
struct Adopter {
    place: Place,
    bpffs: PathBuf,
    unknown: Vec<Unknown>,
    adopted: u64,
    failed: u64,
}

impl Adopter {
    fn new(place: &Place, bpffs: &Path) -> Self {
        Self { place: place.clone(), bpffs: bpffs.into(), unknown: vec![], adopted: 0, failed: 0 }
    }

    /// Queries once, and acts on the answer.
    fn pass(&mut self) -> Outcome {
        let mut problems = vec![];
        if let Err(error) = self.try_pass(&mut problems) {
            problems.push(error.to_string());
        }
        Outcome { problems, adopted: self.adopted, failed: self.failed }
    }

    fn try_pass(&mut self, problems: &mut Vec<String>) -> Result<(), Error> {
        let runtime = Runtime::open(&self.place)?;
        let sandboxes = runtime.sandboxes()?;
        let mut state = State::open(&self.bpffs)?;
        let recorded = state.attachments()?;
        debug!(target: ADOPT, sandboxes = sandboxes.len(), members = recorded.len(), "asked the runtime");
        let keys: Vec<_> =
            recorded.iter().filter(|(_, held)| self.place.knows(held)).map(|(key, _)| *key).collect();
        let Actions { adopt, collect, unknown } = decide(&sandboxes, &keys, &self.unknown, Instant::now());
        self.unknown = unknown;
        let held = held(&sandboxes, &recorded);
        for sandbox in adopt {
            match self.adopt((&runtime, &held), &mut state, sandbox, problems) {
                Ok(adopted) => self.adopted += u64::from(adopted),
                Err(error) => {
                    self.failed += 1;
                    problems.push(printable(&format!("cannot adopt {}: {error}", pod(sandbox))));
                }
            }
        }
        for key in collect.into_iter().filter(|_| self.place.is_complete()) {
            problems
                .extend(member::remove(&self.bpffs, &mut state, &key).err().map(|error| error.to_string()));
        }
        problems.extend(
            state
                .attachments()
                .into_iter()
                .flatten()
                .filter_map(|(_, attachment)| silent(&state, &attachment)),
        );
        problems.extend(sandboxes.iter().filter_map(|sandbox| without_address(&state, sandbox)));
        Ok(())
    }

    /// Does what the plugin does for a new pod, without its address if that is refused. False if the pod needs nothing: it uses the
    /// node's network, or that of a member whose interface is `held`.
    fn adopt(
        &self,
        (runtime, held): (&Runtime, &HashSet<u32>),
        state: &mut State,
        sandbox: &Sandbox,
        problems: &mut Vec<String>,
    ) -> Result<bool, Error> {
        let Some(netns) = runtime.netns(&sandbox.id)? else { return Ok(false) };
        let key = member::key(&sandbox.id, INTERFACE).ok_or(Error::LongId)?;
        let found = Pod::find(&Netns::open(&netns)?, INTERFACE)?;
        if held.contains(&found.veth.index) {
            return Ok(false);
        }
        let (pins, prefixes) = (pins::parse(&sandbox.ports)?, sandbox.prefixes()?);
        let domain = sandbox.domain.as_deref().unwrap_or_default();
        let admission = Admission::new(state, domain, &pins)?;
        let joining = member::Joining {
            domain,
            network: "", // not known here, so GC, which selects by network, ignores this attachment
            namespace: &sandbox.namespace,
            pod: &sandbox.name,
            address: sandbox.address()?.filter(|address| has(&found, *address)),
            prefixes: &prefixes,
        };
        match self.join(state, &key, &joining, &found, &admission) {
            Err(error) if joining.address.is_some() && is_refusal(&error) => {
                problems.push(printable(&format!("cannot adopt {} with its address: {error}", pod(sandbox))));
                let without = member::Joining { address: None, ..joining };
                self.join(state, &key, &without, &found, &admission)?;
            }
            joined => joined?,
        }
        let (pod, domain) = (pod(sandbox), joining.domain);
        info!(target: ADOPT, pod, domain, "adopted {pod} into domain `{domain}`");
        Ok(true)
    }

    /// Makes a pod a member, with its address if it has one.
    fn join(
        &self,
        state: &mut State,
        key: &AttachmentKey,
        joining: &member::Joining<'_>,
        found: &Pod,
        admission: &Admission<'_>,
    ) -> Result<(), Error> {
        member::join(&self.bpffs, state, key, joining, found, admission)?;
        let held = joining.address.map_or(Ok(()), |address| self.hold(state, found, address));
        held.inspect_err(|_| drop(member::remove(&self.bpffs, state, key))) // to be tried again
    }

    /// Makes the address that a new member has already its own, if no other host has it.
    fn hold(&self, state: &mut State, found: &Pod, address: Ipv4Addr) -> Result<(), Error> {
        let sender = Arp::default();
        let lan = lan_address::probe(&sender, state, &found.veth, address)?;
        Ok(lan_address::hold(&sender, &self.bpffs, state, &lan, &found.veth, address)?)
    }
}

/// Whether a pod is refused its address, rather than having to wait for it.
fn is_refusal(error: &Error) -> bool {
    use membership::Error::{Datapath, Refused, Taken};
    match error {
        Error::Membership(Refused(_) | Taken(_)) => true,
        Error::Membership(Datapath(error)) | Error::Datapath(error) => {
            matches!(error, datapath::Error::AddressInUse { .. })
        }
        _ => false,
    }
}

/// Whether the pod's interface has this address: it cannot be given one from outside.
fn has(pod: &Pod, address: Ipv4Addr) -> bool {
    let addresses = link::addresses_in(pod.netns, pod.interface.index).unwrap_or_default();
    addresses.iter().any(|found| found.address == address)
}

/// The problem of a member that asks for an address on the LAN and has none: only ADD can give it, inside the pod.
fn without_address(state: &State, sandbox: &Sandbox) -> Option<String> {
    let wanted = sandbox.address.as_ref().filter(|_| sandbox.ready)?;
    let attachment = state.attachment(&member::key(&sandbox.id, INTERFACE)?).ok()??;
    let member = state.member(attachment.member).ok()??;
    (member.lan_address == abi::NO_ADDRESS).then(|| {
        printable(&format!(
            "{} asks for the address {wanted} and has none, because it started before iocast: it is found through external \
             ports; delete the pod to have it recreated",
            pod(sandbox)
        ))
    })
}

fn pod(sandbox: &Sandbox) -> String {
    format!("{}/{}", sandbox.namespace, sandbox.name)
}

/// The problem of a member without a broadcast address: only ADD can add one, because that requires entering the pod.
fn silent(state: &State, attachment: &Attachment) -> Option<String> {
    let [namespace, pod] = [&attachment.namespace[..], &attachment.pod].map(|name| printable(text(name)));
    lacks_broadcast(state, attachment).then(|| {
        format!(
            "{namespace}/{pod} has no broadcast address, because it started before iocast: its servers are found but send no \
             beacons, and its clients have no address to search; delete the pod to have it recreated"
        )
    })
}

/// Whether a member's address lacks a broadcast address.
pub(crate) fn lacks_broadcast(state: &State, attachment: &Attachment) -> bool {
    let look = || {
        let member = state.member(attachment.member).ok()??;
        let peer = link::by_index(attachment.member).ok()??.peer?;
        let addresses = link::addresses_in(member.netns, peer).ok()?;
        addresses.into_iter().find(|address| address.address.octets() == member.address)
    };
    look().is_some_and(|address| address.broadcast.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(id: &str) -> Sandbox {
        let (namespace, name) = ("bl07".into(), id.into());
        Sandbox {
            id: id.into(),
            namespace,
            name,
            ready: true,
            domain: Some("lab".into()),
            ports: String::new(),
            address: None,
            pvs: None,
        }
    }

    fn key(container: &str) -> AttachmentKey {
        member::key(container, INTERFACE).unwrap()
    }

    fn adopted(sandboxes: &[Sandbox], attachments: &[AttachmentKey]) -> Vec<String> {
        let actions = decide(sandboxes, attachments, &[], Instant::now());
        actions.adopt.into_iter().map(|sandbox| sandbox.id.clone()).collect()
    }

    #[test]
    fn ready_pods_that_ask_and_are_no_members_are_adopted() {
        let ended = Sandbox { ready: false, ..sandbox("ended") };
        let silent = Sandbox { domain: None, ..sandbox("silent") };
        let sandboxes = [sandbox("new"), sandbox("member"), ended, silent];
        assert_eq!(adopted(&sandboxes, &[key("member")]), ["new"]);
    }

    #[test]
    fn an_attachment_of_another_interface_makes_no_member_of_the_pod() {
        let other = member::key("new", "net1").unwrap();
        assert_eq!(adopted(&[sandbox("new")], &[other]), ["new"]);
    }

    #[test]
    fn what_the_runtime_does_not_know_is_collected_after_a_while() {
        let now = Instant::now();
        let first = decide(&[], &[key("gone")], &[], now);
        assert_eq!((first.collect.len(), first.unknown.as_slice()), (0, [(key("gone"), now)].as_slice()));
        let soon = decide(&[], &[key("gone")], &first.unknown, now + GRACE / 2);
        assert_eq!((soon.collect.len(), soon.unknown.as_slice()), (0, [(key("gone"), now)].as_slice()));
        let late = decide(&[], &[key("gone")], &soon.unknown, now + GRACE);
        assert_eq!((late.collect, late.unknown), (vec![key("gone")], vec![]));
    }

    #[test]
    fn a_pod_that_is_known_again_begins_anew() {
        let now = Instant::now();
        let sandboxes = [sandbox("slow")];
        let known = decide(&sandboxes, &[key("slow")], &[(key("slow"), now)], now + GRACE);
        assert_eq!((known.collect.len(), known.unknown.len()), (0, 0));
    }

    #[test]
    fn a_pod_that_has_ended_but_is_known_keeps_its_attachment_for_its_del() {
        let ended = Sandbox { ready: false, ..sandbox("ended") };
        let (now, since) = (Instant::now() + GRACE, Instant::now());
        let actions = decide(std::slice::from_ref(&ended), &[key("ended")], &[(key("ended"), since)], now);
        assert_eq!((actions.collect.len(), actions.adopt.len()), (0, 0));
    }

    #[test]
    fn only_a_refused_address_is_left_out() {
        let (address, mac) = ([172, 23, 0, 50].into(), [2; 6]);
        assert!(is_refusal(&datapath::Error::AddressInUse { address, mac }.into()));
        assert!(is_refusal(&membership::Error::Refused(String::new()).into()));
        assert!(is_refusal(&membership::Error::Taken(String::new()).into()));
        assert!(!is_refusal(&datapath::Error::NoUplink("bl07".into()).into()), "it may come back");
    }

    #[test]
    fn a_socket_that_is_not_there_is_named() {
        let mut adopter = Adopter::new(&Place::Cri("/nowhere/runtime.sock".into()), Path::new("/nowhere"));
        let problems = adopter.pass().problems;
        assert!(
            problems[0].contains("/nowhere/runtime.sock: No such file") && problems[0].contains("--cri"),
            "{problems:?}"
        );
    }
}
