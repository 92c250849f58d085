//! Makes a pod a member of a domain, and undoes it. A [`Policy`] decides whether it may be one.

use std::{net::Ipv4Addr, path::Path};

use abi::{
    Attachment, AttachmentKey, Claim, Endpoint, Member, NO_ADDRESS, Protocol, field, hold, identity, text,
};

use crate::{Error, Hook, Pod, Result, State, attach, detach, kernel_clock, lan_address};

/// The attachment that joins, and its pod.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// The domain's name.
    pub domain: &'a str,
    /// The name of the CNI network.
    pub network: &'a str,
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name.
    pub pod: &'a str,
    /// The address on the LAN that it is to have beside its own.
    pub address: Option<Ipv4Addr>,
    /// Beginnings of the names that its servers have; empty if they may have all.
    pub prefixes: &'a [String],
}

/// An external port that a member keeps for its lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The endpoint on the uplink.
    pub external: Endpoint,
    /// The pod's port, of the same transport.
    pub pod: u16,
    /// The protocol of datagrams to it.
    pub protocol: Protocol,
}

/// Who may be a member, with which address and which ports.
pub trait Policy {
    /// Why a pod is rejected.
    type Error: From<Error>;

    /// The external ports that the pod gets in `domain`; an error if it may not join, or not with its address. The caller holds the lock, so the
    /// state that the answer depends on cannot change before it is applied.
    fn admit(&self, state: &State, domain: u16, joining: &Joining<'_>) -> Result<Vec<Port>, Self::Error>;
}

/// The key of an attachment; `None` if one of the names is too long.
pub fn key(container: &str, interface: &str) -> Option<AttachmentKey> {
    let (container, interface) = field(container).zip(field(interface))?;
    Some(AttachmentKey { container, interface })
}

/// The record of an attachment, except for what is only known under the lock; `None` if one of the names is too long.
fn record(joining: &Joining<'_>, pod: &Pod) -> Option<Attachment> {
    Some(Attachment {
        member: pod.veth.index,
        generation: 0,
        domain: 0,
        slot: 0,
        address: pod.address.address.octets(),
        network: field(joining.network)?,
        namespace: field(joining.namespace)?,
        pod: field(joining.pod)?,
    })
}

/// A generation that no earlier member with the same interface index had: milliseconds since boot, truncated. Maps do not
/// survive a reboot, and interface indexes are not reused at once.
fn generation() -> Result<u32> {
    Ok(kernel_clock()?.as_millis() as u32)
}

/// Makes `pod` a member if `policy` admits it: records the attachment, lets the programs see it, gives it its ports,
/// reserves its address, attaches to its veth. All of it is undone if a step fails.
///
/// It replaces the attachment that had the key, and the one that had the veth: a namespace with another container id, or a
/// veth with the index of one that is gone, means that no DEL came for the former. When it comes, it finds nothing.
pub fn join<P: Policy>(
    bpffs: &Path,
    state: &mut State,
    key: &AttachmentKey,
    joining: &Joining<'_>,
    pod: &Pod,
    policy: &P,
) -> Result<(), P::Error> {
    let attachment = record(joining, pod).ok_or_else(|| {
        let Joining { network, namespace, pod, .. } = joining;
        Error::UnsuitedPod(format!("one of the names is too long: network {network}, pod {namespace}/{pod}"))
    })?;
    let _lock = state.lock()?;
    for (former, attachment) in formers(state, key, pod.veth.index)? {
        remove_locked(bpffs, state, &former, &attachment)?; // or its slot would never be freed
    }
    let (domain, generation) = (state.domain_number(joining.domain)?, generation()?);
    let attachment = Attachment { domain, generation, ..attachment };
    let ports = policy.admit(state, attachment.domain, joining)?;
    let member = Member {
        address: attachment.address,
        broadcast: pod.broadcast().octets(),
        lan_address: joining.address.map_or(NO_ADDRESS, |address| address.octets()),
        generation,
        netns: pod.netns,
        identity: identity(text(&attachment.namespace), text(&attachment.pod)),
        mac: pod.veth.mac,
        domain: attachment.domain,
        mtu: pod.interface.mtu,
        prefixes: joining.prefixes.len() as u32,
    };
    let done = state
        .join(*key, attachment, member, joining.prefixes)
        .and_then(|()| lan_address::reserve(state, attachment.member, &member))
        .and_then(|()| ports.iter().try_for_each(|port| pin(state, port, attachment.member, &member)))
        .and_then(|()| attach(bpffs, Hook::FromPod, &pod.veth));
    if done.is_err()
        && let Ok(Some(recorded)) = state.attachment(key)
    {
        // The caller needs the error of the step that failed; the DEL that follows tries to clean up again.
        let _ = remove_locked(bpffs, state, key, &recorded); // which knows its place in the roster
    }
    Ok(done?)
}

/// The attachments that have this key or this veth.
fn formers(state: &State, key: &AttachmentKey, veth: u32) -> Result<Vec<(AttachmentKey, Attachment)>> {
    if state.member(veth)?.is_none() {
        return Ok(state.attachment(key)?.map(|former| (*key, former)).into_iter().collect());
    }
    let all = state.attachments()?.into_iter(); // takes a while, but is seldom needed
    Ok(all.filter(|(other, former)| other == key || former.member == veth).collect())
}

/// Gives a member a port.
fn pin(state: &mut State, port: &Port, interface: u32, member: &Member) -> Result<()> {
    let claim = Claim {
        identity: member.identity,
        pod: Endpoint { address: member.address, port: port.pod, ..port.external },
        member: interface,
        generation: member.generation,
        vacant: 0,
        peer: NO_ADDRESS,
        trouble: 0,
        domain: member.domain,
        protocol: port.protocol as u8,
        hold: hold::PINNED,
    };
    state.pin(port.external, claim)
}

/// Removes everything that belongs to an attachment. If there is nothing, this is not an error and takes no lock: runtimes
/// call DEL for every pod, and most were never members.
pub fn remove(bpffs: &Path, state: &mut State, key: &AttachmentKey) -> Result<()> {
    if state.attachment(key)?.is_none() {
        return Ok(());
    }
    let _lock = state.lock()?;
    let Some(attachment) = state.attachment(key)? else { return Ok(()) };
    remove_locked(bpffs, state, key, &attachment)
}

/// Detaches the program first, so that it adds no more state, then removes the state. Continues after a failure and reports
/// the first one. The caller holds the lock.
fn remove_locked(
    bpffs: &Path,
    state: &mut State,
    key: &AttachmentKey,
    attachment: &Attachment,
) -> Result<()> {
    let detached = detach(bpffs, Hook::FromPod, attachment.member);
    let released = lan_address::release(state, attachment);
    state.leave(key, attachment)?;
    detached.and(released)
}
