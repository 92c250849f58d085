//! CHECK: verifies that what ADD set up is still in place.

use datapath::{Hook, Netns, Pod, State, is_attached};

use crate::{
    error::CniError,
    request::{Environment, Request},
};

pub(crate) fn run(environment: &Environment, request: &Request) -> Result<String, CniError> {
    if request.previous.is_none() {
        return Err(CniError::config("prevResult is missing: there is nothing to check against"));
    }
    if request.domain()?.is_some() {
        check(environment, request)?;
    }
    Ok(String::new())
}

fn check(environment: &Environment, request: &Request) -> Result<(), CniError> {
    let bpffs = request.bpffs()?;
    let state = State::open(&bpffs)?;
    let missing = |what: &str| {
        CniError::not_as_added(format!(
            "container {} interface {}: {what}; delete the pod to have it recreated",
            environment.container, environment.interface
        ))
    };
    let attachment =
        state.attachment(&environment.key()?)?.ok_or_else(|| missing("no ADD is recorded for it"))?;
    let recorded =
        state.member(attachment.member)?.ok_or_else(|| missing("it is not a member of its domain"))?;
    let pod = Pod::find(&Netns::open(&environment.netns)?, &environment.interface)?;
    if pod.veth.index != attachment.member || pod.address.address.octets() != recorded.address {
        return Err(missing("its address or veth differs from what ADD recorded"));
    }
    if pod.address.broadcast != Some(recorded.broadcast.into()) {
        return Err(missing("its broadcast address differs from what ADD recorded"));
    }
    if !is_attached(&bpffs, Hook::FromPod, &pod.veth)? {
        return Err(missing("from_pod is not attached to its veth"));
    }
    Ok(())
}
