//! What makes a pod a member of a domain, and how that is taken back. Whether it may be one is for a [`Policy`] to say.

use std::path::Path;

use abi::{Attachment, AttachmentKey, Claim, Endpoint, Member, NO_ADDRESS, Protocol, field, identity, text};

use crate::{Error, Hook, Pod, Result, State, attach, detach, kernel_clock};

/// Which attachment of which pod is to be a member.
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
}

/// An external port that a member has for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The endpoint on the uplink.
    pub external: Endpoint,
    /// The pod's port, of the same transport.
    pub pod: u16,
    /// The protocol of what comes there.
    pub protocol: Protocol,
}

/// Who may be a member, and with which ports.
pub trait Policy {
    /// Why a pod is turned away.
    type Error: From<Error>;

    /// The external ports that the pod gets in `domain`; an error if it may not join. The caller holds the lock, so that
    /// what the answer is made from is still so when it is carried out.
    fn admit(&self, state: &State, domain: u16, joining: &Joining<'_>) -> Result<Vec<Port>, Self::Error>;
}

/// The key of an attachment; `None` if one of the names is too long.
pub fn key(container: &str, interface: &str) -> Option<AttachmentKey> {
    let (container, interface) = field(container).zip(field(interface))?;
    Some(AttachmentKey { container, interface })
}

/// The record of an attachment, without what is only known under the lock; `None` if one of the names is too long.
fn record(joining: &Joining<'_>, pod: &Pod) -> Option<Attachment> {
    Some(Attachment {
        member: pod.veth.index,
        domain: 0,
        slot: 0,
        address: pod.address.address.octets(),
        network: field(joining.network)?,
        namespace: field(joining.namespace)?,
        pod: field(joining.pod)?,
    })
}

/// A generation that no member of the same interface index had before: milliseconds since boot, as far as they go. Maps do
/// not outlive a boot, and interface indexes are not given again at once.
fn generation() -> Result<u32> {
    Ok(kernel_clock()?.as_millis() as u32)
}

/// Makes `pod` a member if `policy` admits it: records the attachment, lets the programs see it, gives it its ports,
/// attaches to its veth. All of it is undone if a step fails.
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
    if let Some(former) = state.attachment(key)? {
        remove_locked(bpffs, state, key, &former)?; // or its place would never be free again
    }
    let attachment = Attachment { domain: state.domain_number(joining.domain)?, ..attachment };
    let ports = policy.admit(state, attachment.domain, joining)?;
    let member = Member {
        address: attachment.address,
        broadcast: pod.broadcast().octets(),
        lan_address: NO_ADDRESS,
        generation: generation()?,
        netns: pod.netns,
        identity: identity(text(&attachment.namespace), text(&attachment.pod)),
        mac: pod.veth.mac,
        domain: attachment.domain,
        mtu: pod.interface.mtu,
        prefixes: 0,
    };
    let done = state
        .join(*key, attachment, member)
        .and_then(|()| ports.iter().try_for_each(|port| pin(state, port, attachment.member, &member)))
        .and_then(|()| attach(bpffs, Hook::FromPod, &pod.veth));
    if done.is_err() {
        // The step that failed is what the caller must hear of; DEL, which follows, tries again.
        let _ = remove_locked(bpffs, state, key, &attachment);
    }
    Ok(done?)
}

/// Gives a member a port.
fn pin(state: &mut State, port: &Port, interface: u32, member: &Member) -> Result<()> {
    let claim = Claim {
        pod: Endpoint { address: member.address, port: port.pod, ..port.external },
        member: interface,
        generation: member.generation,
        domain: member.domain,
        protocol: port.protocol as u8,
        pinned: 1,
        peer: [0; 4],
        trouble: 0,
    };
    state.pin(port.external, claim)
}

/// Removes all that is left of an attachment. That nothing is left is no failure, and costs no wait for the lock: DEL comes
/// for every pod, most of which never were members.
pub fn remove(bpffs: &Path, state: &mut State, key: &AttachmentKey) -> Result<()> {
    let Some(attachment) = state.attachment(key)? else { return Ok(()) };
    // While it is recorded whose they are: should this be cut off, the next DEL goes on.
    state.forget_circuits(attachment.address)?;
    let lock = state.lock()?;
    let Some(attachment) = state.attachment(key)? else { return Ok(()) };
    let removed = remove_locked(bpffs, state, key, &attachment);
    drop(lock);
    state.forget_circuits(attachment.address)?; // opened meanwhile
    removed
}

/// Removes the program first, so that nothing is learned any more, then the state. Goes on after a failure and reports the
/// first one. The caller holds the lock.
fn remove_locked(
    bpffs: &Path,
    state: &mut State,
    key: &AttachmentKey,
    attachment: &Attachment,
) -> Result<()> {
    let detached = detach(bpffs, Hook::FromPod, attachment.member);
    state.leave(key, attachment)?;
    detached
}
