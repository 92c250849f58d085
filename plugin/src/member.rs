//! Membership: what ADD writes into the datapath for a pod, and how it is taken back.

use std::path::Path;

use abi::{AttachmentKey, field};
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

/// Removes all that is left of an attachment: the program first, so that nothing is learned any more, then the state.
/// Goes on after a failure and reports the first one. That nothing is left is no failure.
pub(crate) fn remove(bpffs: &Path, state: &mut State, key: &AttachmentKey) -> Result<(), CniError> {
    let _lock = state.lock()?;
    let Some(attachment) = state.attachment(key)? else { return Ok(()) };
    let detached = detach(bpffs, Hook::FromPod, attachment.member);
    state.leave(key, &attachment)?;
    Ok(detached?)
}
