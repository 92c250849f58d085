//! Membership: what makes a pod a member of a domain, and how that is taken back.

use std::path::Path;

use abi::{Attachment, AttachmentKey, Member, NO_ADDRESS, field, identity, text};

use crate::{
    Error, Hook, Pod, Result, State, attach, detach, kernel_clock,
    pins::{self, Pin},
};

/// The annotation by which a pod asks to join a domain.
pub const ANNOTATION: &str = "iocast.io/domain";

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
    /// The external ports it asks for.
    pub pins: &'a [Pin],
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

/// Makes `pod` a member: records the attachment, lets the programs see it, gives it the ports it asks for, attaches to its
/// veth. All of it is undone if a step fails.
pub fn join(
    bpffs: &Path,
    state: &mut State,
    key: &AttachmentKey,
    joining: &Joining<'_>,
    pod: &Pod,
) -> Result<()> {
    let attachment = record(joining, pod).ok_or_else(|| {
        let Joining { network, namespace, pod, .. } = joining;
        Error::UnsuitedPod(format!("one of the names is too long: network {network}, pod {namespace}/{pod}"))
    })?;
    let _lock = state.lock()?;
    if let Some(former) = state.attachment(key)? {
        remove_locked(bpffs, state, key, &former)?; // or its place would never be free again
    }
    let attachment = Attachment { domain: state.domain_number(joining.domain)?, ..attachment };
    state.check_namespace(attachment.domain, joining.domain, joining.namespace)?;
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
        .and_then(|()| pins::pin(state, joining.pins, attachment.member, &member))
        .and_then(|()| attach(bpffs, Hook::FromPod, &pod.veth));
    if done.is_err() {
        // The step that failed is what the caller must hear of; DEL, which follows, tries again.
        let _ = remove_locked(bpffs, state, key, &attachment);
    }
    done
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
