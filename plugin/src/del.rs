//! DEL: removes everything that ADD set up; idempotent, whatever is already gone.

use std::path::Path;

use abi::AttachmentKey;
use datapath::{Error, State, member};

use crate::{
    error::CniError,
    request::{Environment, Request},
};

pub(crate) fn run(environment: &Environment, request: &Request) -> Result<String, CniError> {
    // An invalid configuration never added anything, and a failing DEL would keep the pod forever.
    let Ok(bpffs) = request.bpffs() else { return Ok(String::new()) };
    leave(&bpffs, &environment.key()?)?;
    Ok(String::new())
}

/// Removes the attachment `key`, if there is one.
pub(crate) fn leave(bpffs: &Path, key: &AttachmentKey) -> Result<(), CniError> {
    match State::open(bpffs) {
        // The last reboot removed the datapath, and all state with it.
        Err(Error::NotLoaded(_)) => Ok(()),
        state => Ok(member::remove(bpffs, &mut state?, key)?),
    }
}
