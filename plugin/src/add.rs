//! ADD: makes a pod that requests it a member.

use datapath::{Netns, Pod, State, member};
use membership::Admission;

use crate::{
    error::CniError,
    inside::inside,
    request::{Environment, Request},
};

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
    let pins = request.pins()?;
    let mut state = State::open(&bpffs)?;
    let admission = Admission::new(&state, domain, &pins)?; // the most likely errors, so they are checked first
    let netns = Netns::open(&environment.netns)?;
    let pod = Pod::find(&netns, &environment.interface)?;
    // Without a CRI the container id stands for the pod's name.
    let (namespace, name) = match &environment.pod {
        Some((namespace, name)) => (namespace.as_str(), name.as_str()),
        None => ("", environment.container.as_str()),
    };
    let joining = member::Joining { domain, network: request.network()?, namespace, pod: name };
    member::join(&bpffs, &mut state, &key, &joining, &pod, &admission)?;
    ensure_broadcast(&netns, &pod).inspect_err(|_| {
        let _ = member::remove(&bpffs, &mut state, &key); // the runtime needs the error of the step that failed
    })
}

/// Gives the pod's address a broadcast address if it has none: without one its clients have no address to search, and its
/// servers do not bind it. This is only possible inside the pod's namespace.
fn ensure_broadcast(netns: &Netns, pod: &Pod) -> Result<(), CniError> {
    if pod.address.broadcast.is_some() {
        return Ok(());
    }
    inside(netns, || Ok(datapath::link::ensure_broadcast(pod.interface.index, pod.address).map(|_| ())?))
}
