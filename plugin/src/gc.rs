//! GC: removes attachments of this network that the runtime no longer knows.

use datapath::{Error, State, member};

use crate::{
    error::CniError,
    request::{self, Request},
};

pub(crate) fn run(request: &Request) -> Result<String, CniError> {
    let (bpffs, network) = (request.bpffs()?, request.network()?);
    let Some(valid) = request.valid_attachments()? else { return Ok(String::new()) };
    let mut keep = vec![];
    for attachment in &valid {
        keep.push(request::key(&attachment.container, &attachment.interface)?);
    }
    let mut state = match State::open(&bpffs) {
        Err(Error::NotLoaded(_)) => return Ok(String::new()),
        state => state?,
    };
    let mut failures = vec![];
    for (key, attachment) in state.attachments()? {
        if abi::text(&attachment.network) == network && !keep.contains(&key) {
            failures.extend(member::remove(&bpffs, &mut state, &key).err().map(|error| error.to_string()));
        }
    }
    if failures.is_empty() { Ok(String::new()) } else { Err(CniError::io(failures.join("; "))) }
}
