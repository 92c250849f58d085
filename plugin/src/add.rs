//! ADD: makes a pod that requests it a member.

use std::{
    net::Ipv4Addr,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use datapath::{
    Error, Netns, Pod, State,
    arp::Sender,
    lan_address,
    member::{self, Joining},
};
use membership::Admission;

use crate::{
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
    if let Some(domain) = request.domain()? {
        join(environment, request, domain)?;
    }
    Ok(previous.get().to_owned())
}

/// Validates everything, then acts, and undoes all of it if a step fails.
fn join(environment: &Environment, request: &Request, domain: &str) -> Result<(), CniError> {
    let bpffs = request.bpffs()?;
    let key = environment.key()?;
    let (pins, prefixes) = (request.pins()?, request.prefixes()?);
    // Without a CRI the container id stands for the pod's name.
    let (namespace, name) = match &environment.pod {
        Some((namespace, name)) => (namespace.as_str(), name.as_str()),
        None => ("", environment.container.as_str()),
    };
    let address = request.address(name)?;
    let mut state = loaded(&bpffs)?;
    let admission = Admission::new(&state, domain, &pins)?; // the most likely errors, so they are checked first
    let netns = Netns::open(&environment.netns)?;
    let pod = Pod::find(&netns, &environment.interface)?;
    let network = request.network()?;
    let joining = Joining { domain, network, namespace, pod: name, address, prefixes: &prefixes };
    member::join(&bpffs, &mut state, &key, &joining, &pod, &admission)?;
    let finished = match address {
        None => ensure_broadcast(&netns, &pod),
        Some(address) => settle(&bpffs, &mut state, &netns, &pod, address),
    };
    finished.inspect_err(|_| {
        // The runtime needs the error of the step that failed.
        let _ = member::remove(&bpffs, &mut state, &key);
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
