//! DEL: removes everything of ours; idempotent, and indifferent to what is already gone.

use datapath::{Error, State, member};

use crate::{
    error::CniError,
    request::{Environment, Request},
};

pub(crate) fn run(environment: &Environment, request: &Request) -> Result<String, CniError> {
    // With a configuration that makes no sense nothing was ever added, and a DEL that fails keeps the pod for ever.
    let Ok(bpffs) = request.bpffs() else { return Ok(String::new()) };
    match State::open(&bpffs) {
        // The datapath went with the node's last boot, and all state with it.
        Err(Error::NotLoaded(_)) => {}
        state => member::remove(&bpffs, &mut state?, &environment.key()?)?,
    }
    Ok(String::new())
}
