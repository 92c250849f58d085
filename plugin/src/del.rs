//! DEL: removes everything that ADD set up; idempotent, whatever is already gone.

use datapath::{Error, State, member};

use crate::{
    error::CniError,
    request::{Environment, Request},
};

pub(crate) fn run(environment: &Environment, request: &Request) -> Result<String, CniError> {
    // An invalid configuration never added anything, and a failing DEL would keep the pod forever.
    let Ok(bpffs) = request.bpffs() else { return Ok(String::new()) };
    match State::open(&bpffs) {
        // The last reboot removed the datapath, and all state with it.
        Err(Error::NotLoaded(_)) => {}
        state => member::remove(&bpffs, &mut state?, &environment.key()?)?,
    }
    Ok(String::new())
}
