//! ADD: makes a pod that requests it a member.

use std::{
    net::Ipv4Addr,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use abi::{AttachmentKey, text};
use datapath::{
    Error, Netns, Pod, State,
    arp::Sender,
    lan_address,
    member::{self, Joining},
};
use membership::Admission;

use crate::{
    annotations::Annotations,
    error::CniError,
    inside::{ensure_broadcast, give_address, take_address},
    request::{Environment, Request},
};

/// How long to wait for the agent to load and configure the datapath, as after a reboot: the runtime would take longer to try
/// again. The kubelet gives a pod's sandbox two minutes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Makes the pod a member if it requests it, and returns the previous result.
pub(crate) fn run(environment: &Environment, request: &Request) -> Result<String, CniError> {
    let Some(previous) = &request.previous else {
        return Err(CniError::config(
            "prevResult is missing: iocast is a chained plugin and must come after the plugin that creates the interface",
        ));
    };
    let annotations = request.annotations();
    if let Some(domain) = annotations.domain()? {
        // Without a CRI the container id stands for the pod's name.
        let (namespace, name) = match &environment.pod {
            Some((namespace, name)) => (namespace.as_str(), name.as_str()),
            None => ("", environment.container.as_str()),
        };
        let (bpffs, key, network) = (&request.bpffs()?, environment.key()?, request.network()?);
        let netns = &environment.netns;
        join(&Candidate { bpffs, key, netns, network, namespace, name, annotations }, domain)?;
    }
    Ok(previous.get().to_owned())
}

/// A pod that asks to join a domain.
#[derive(Debug)]
pub(crate) struct Candidate<'a> {
    /// The BPF file system where the datapath is pinned.
    pub(crate) bpffs: &'a Path,
    /// Its attachment: container id and interface.
    pub(crate) key: AttachmentKey,
    /// Its network namespace.
    pub(crate) netns: &'a Path,
    /// The CNI network that it comes from; empty if it is none.
    pub(crate) network: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) annotations: Annotations<'a>,
}

/// Validates everything, then acts, and undoes all of it if a step fails.
pub(crate) fn join(candidate: &Candidate<'_>, domain: &str) -> Result<(), CniError> {
    let Candidate { bpffs, key, network, namespace, name, annotations, .. } = candidate;
    let (pins, prefixes) = (annotations.pins()?, annotations.prefixes()?);
    let address = annotations.address(name)?;
    let mut state = loaded(bpffs)?;
    let admission = Admission::new(&state, domain, &pins)?; // the most likely errors, so they are checked first
    let netns = Netns::open(candidate.netns)?;
    let pod = Pod::find(&netns, text(&key.interface))?;
    let joining = Joining { domain, network, namespace, pod: name, address, prefixes: &prefixes };
    member::join(bpffs, &mut state, key, &joining, &pod, &admission)?;
    let finished = match address {
        None => ensure_broadcast(&netns, &pod),
        Some(address) => settle(bpffs, &mut state, &netns, &pod, address),
    };
    finished.inspect_err(|_| {
        // The runtime needs the error of the step that failed.
        let _ = member::remove(bpffs, &mut state, key);
        let _ = address.map(|address| take_address(&netns, &pod, address));
    })
}

/// Gives a member the address that is reserved for it, if no other host has it.
fn settle(
    bpffs: &Path,
    state: &mut State,
    netns: &Netns,
    pod: &Pod,
    address: Ipv4Addr,
) -> Result<(), CniError> {
    let sender = Sender::default();
    let lan = lan_address::probe(&sender, state, &pod.veth, address)?;
    ensure_broadcast(netns, pod)?; // before: it adds the pod's own address anew, which has to stay the first one
    give_address(netns, pod, &lan, address)?;
    Ok(lan_address::hold(&sender, bpffs, state, &lan, &pod.veth, address)?)
}

/// The state, once the agent has loaded the datapath and configured its domains.
fn loaded(bpffs: &Path) -> Result<State, Error> {
    let begin = Instant::now();
    loop {
        let state = State::open(bpffs);
        let is_loading = match &state {
            Ok(state) => state.domains()?.is_empty(),
            Err(error) => matches!(error, Error::NotLoaded(_)),
        };
        if !is_loading || begin.elapsed() >= PATIENCE {
            return state;
        }
        sleep(PAUSE);
    }
}

/// Counts an ADD that failed, for the agent's metrics; if it cannot be, the runtime is told all the same.
pub(crate) fn count(bpffs: &Path, error: &CniError) {
    if let Ok(mut state) = State::open(bpffs) {
        let _ = state.count_refused(error.reason());
    }
}
