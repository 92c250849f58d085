//! Membership: what ADD writes into the datapath for a pod, and how it is taken back.

use std::path::Path;

use abi::{Attachment, AttachmentKey, field};
use datapath::{Hook, State, detach};

use crate::{error::CniError, request::Environment};

/// The key of the attachment in `environment`.
pub(crate) fn key(container: &str, interface: &str) -> Result<AttachmentKey, CniError> {
    field(container)
        .zip(field(interface))
        .map(|(container, interface)| AttachmentKey { container, interface })
        .ok_or_else(|| {
            CniError::environment(format!(
                "container id `{container}` or interface `{interface}` is too long"
            ))
        })
}

/// The key of the attachment that the environment names.
pub(crate) fn key_of(environment: &Environment) -> Result<AttachmentKey, CniError> {
    key(&environment.container, &environment.interface)
}

/// Removes all that is left of an attachment. That nothing is left is no failure, and costs no wait for the lock: DEL comes
/// for every pod, most of which never were members.
pub(crate) fn remove(bpffs: &Path, state: &mut State, key: &AttachmentKey) -> Result<(), CniError> {
    if state.attachment(key)?.is_none() {
        return Ok(());
    }
    let lock = state.lock()?;
    let Some(attachment) = state.attachment(key)? else { return Ok(()) };
    let removed = remove_locked(bpffs, state, key, &attachment);
    drop(lock);
    state.forget_circuits(attachment.address)?;
    removed
}

/// Removes the program first, so that nothing is learned any more, then the state. Goes on after a failure and reports the
/// first one. The caller holds the lock.
pub(crate) fn remove_locked(
    bpffs: &Path,
    state: &mut State,
    key: &AttachmentKey,
    attachment: &Attachment,
) -> Result<(), CniError> {
    let detached = detach(bpffs, Hook::FromPod, attachment.member);
    state.leave(key, attachment)?;
    Ok(detached?)
}
