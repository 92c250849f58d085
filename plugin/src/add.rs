//! ADD: make a pod that asks for it a member.

use std::path::Path;

use abi::{Attachment, AttachmentKey, Member, field, identity};
use datapath::{Hook, State, attach};

use crate::{
    error::CniError,
    member,
    pins::{self, Pin},
    pod::Pod,
    request::{Environment, Request},
};

/// The previous result, with the pod a member if it asks.
pub(crate) fn run(environment: &Environment, request: &Request) -> Result<String, CniError> {
    let Some(previous) = &request.previous else {
        return Err(CniError::config(
            "there is no prevResult: iocast is a chained plugin and must come after the one that makes the interface",
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
    let key = member::key_of(environment)?;
    let pins = request.pins()?;
    let mut state = State::open(&bpffs)?;
    domain_number(&state, domain)?; // the most likely fault, before anything is looked at
    let pod = Pod::find(&environment.netns, &environment.interface)?;
    let attachment = attachment(environment, request, &pod)?;
    member::remove(&bpffs, &mut state, &key)?; // left by an ADD that the runtime gave up on

    let _lock = state.lock()?;
    let attachment = Attachment { domain: domain_number(&state, domain)?, ..attachment };
    let done = act(&bpffs, &mut state, (key, attachment), &pod, &pins);
    if done.is_err() {
        // The step that failed is what the runtime must hear of; DEL, which follows, tries again.
        let _ = member::remove_locked(&bpffs, &mut state, &key, &attachment);
    }
    done
}

/// Records the attachment, lets the programs see the member, gives it the ports it asks for, attaches to its veth and
/// completes its address. The caller holds the lock.
fn act(
    bpffs: &Path,
    state: &mut State,
    (key, attachment): (AttachmentKey, Attachment),
    pod: &Pod,
    pins: &[Pin],
) -> Result<(), CniError> {
    let member = Member {
        address: pod.address().octets(),
        broadcast: pod.broadcast().octets(),
        netns: pod.netns_id,
        identity: identity(abi::text(&attachment.namespace), abi::text(&attachment.pod)),
        mac: pod.veth.mac,
        domain: attachment.domain,
    };
    state.join(key, attachment, member)?;
    pins::pin(state, pins, attachment.member, &member)?;
    attach(bpffs, Hook::FromPod, &pod.veth)?;
    pod.ensure_broadcast()
}

/// The record by which DEL and GC find everything again. Without a CRI the container id stands for the pod's name.
fn attachment(environment: &Environment, request: &Request, pod: &Pod) -> Result<Attachment, CniError> {
    let (namespace, name) = match &environment.pod {
        Some((namespace, name)) => (namespace.as_str(), name.as_str()),
        None => ("", environment.container.as_str()),
    };
    let too_long =
        || CniError::environment(format!("the pod's name {namespace}/{name} in CNI_ARGS is too long"));
    Ok(Attachment {
        member: pod.veth.index,
        domain: 0, // and the slot: known under the lock
        slot: 0,
        address: pod.address().octets(),
        network: field(request.network()?).ok_or_else(too_long)?,
        namespace: field(namespace).ok_or_else(too_long)?,
        pod: field(name).ok_or_else(too_long)?,
    })
}

fn domain_number(state: &State, name: &str) -> Result<u16, CniError> {
    let domains = state.domains()?;
    if let Some((number, _)) = domains.iter().find(|(_, domain)| abi::text(&domain.name) == name) {
        return Ok(*number);
    }
    let known: Vec<_> = domains.iter().map(|(_, domain)| abi::text(&domain.name)).collect();
    Err(CniError::config(format!(
        "annotation {} names the domain `{name}`, which is not configured on this node (configured: {})",
        crate::request::ANNOTATION,
        if known.is_empty() { "none".into() } else { known.join(", ") },
    )))
}
