//! CHECK: verifies that what ADD set up is still in place.

use std::{net::Ipv4Addr, path::Path};

use abi::{Attachment, AttachmentKey, Member, NO_ADDRESS, standing, text};
use datapath::{Hook, Netns, Pod, State, is_attached, link, printable, route};

use crate::{
    error::CniError,
    request::{Environment, Request},
};

pub(crate) fn run(environment: &Environment, request: &Request) -> Result<String, CniError> {
    if request.previous.is_none() {
        return Err(CniError::config("prevResult is missing: there is nothing to check against"));
    }
    if request.annotations().domain()?.is_some() {
        check(&request.bpffs()?, &environment.key()?, &environment.netns)?;
    }
    Ok(String::new())
}

/// Checks the attachment `key`, of the pod with this network namespace.
pub(crate) fn check(bpffs: &Path, key: &AttachmentKey, netns: &Path) -> Result<(), CniError> {
    let state = State::open(bpffs)?;
    let (container, interface) = (text(&key.container), text(&key.interface));
    let missing = |what: &str| {
        CniError::not_as_added(format!(
            "container {container} interface {interface}: {what}; delete the pod to have it recreated"
        ))
    };
    let attachment = state.attachment(key)?.ok_or_else(|| missing("no ADD is recorded for it"))?;
    let recorded =
        state.member(attachment.member)?.ok_or_else(|| missing("it is not a member of its domain"))?;
    let pod = Pod::find(&Netns::open(netns)?, interface)?;
    if pod.veth.index != attachment.member || pod.address.address.octets() != recorded.address {
        return Err(missing("its address or veth differs from what ADD recorded"));
    }
    if pod.address.broadcast != Some(recorded.broadcast.into()) {
        return Err(missing("its broadcast address differs from what ADD recorded"));
    }
    if !is_attached(bpffs, Hook::FromPod, &pod.veth)? {
        return Err(missing("from_pod is not attached to its veth"));
    }
    match amiss(&state, &attachment, &recorded, &pod)? {
        Some(what) => Err(missing(&what)),
        None => Ok(()),
    }
}

/// What is wrong with a member's address on the LAN, if it has one.
fn amiss(
    state: &State,
    attachment: &Attachment,
    member: &Member,
    pod: &Pod,
) -> Result<Option<String>, CniError> {
    if member.lan_address == NO_ADDRESS {
        return Ok(None);
    }
    let address = Ipv4Addr::from(member.lan_address);
    let inside = link::addresses_in(pod.netns, pod.interface.index)?;
    if !inside.iter().any(|found| found.address == address) {
        return Ok(Some(format!("its LAN address {address} is not in the pod")));
    }
    let entry = state.lan_address(member.lan_address)?;
    match entry.filter(|entry| entry.is_of(attachment.member, attachment.generation)) {
        Some(entry) if entry.is_answered() => {}
        Some(entry) if entry.standing == standing::LOST => return Ok(Some(lost(state, address)?)),
        _ => return Ok(Some(format!("its LAN address {address} is not recorded as its own"))),
    }
    let is_routed = route::routes()?.iter().any(|route| route.address == address);
    Ok((!is_routed).then(|| format!("the node has no route to its LAN address {address}")))
}

fn lost(state: &State, address: Ipv4Addr) -> Result<String, CniError> {
    let rival = state.rival(address.octets())?;
    let mac = rival.map_or_else(|| "unknown".into(), |rival| printable::mac(rival.mac));
    Ok(format!("its LAN address {address} is in use by the host with the MAC address {mac}"))
}
