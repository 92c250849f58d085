//! Removes the datapath: detaches the programs from every device, deletes the fan device and the routes to LAN addresses of
//! pods, leaves groups, then removes the pins, and with them the maps.
//!
//! It needs no state, so it also removes what an incomplete load or another version left behind.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::Path,
};

use nix::fcntl::{Flock, FlockArg};

use crate::{
    Error, Hook, Result, detach,
    former::schemas,
    groups, link,
    load::FAN,
    pinned::{PARENT, directory_of},
    route,
};

/// Removes what is pinned under `bpffs`, as far as possible; not an error if there is nothing. Returns what could not be
/// removed; can be called again.
///
/// A qdisc that was created for a program stays: others may use it by now. The caller ensures that no plugin and no agent is
/// running.
pub fn unload(bpffs: &Path) -> Vec<Error> {
    let mut failures = vec![];
    match link::names() {
        Ok(names) => failures.extend(names.iter().filter_map(|name| release(bpffs, name).err())),
        Err(error) => failures.push(error),
    }
    failures.extend(link::delete(FAN.0).err());
    failures.extend(route::remove_all().err());
    failures.extend(groups::leave_all().err());
    if failures.is_empty() {
        failures.extend(unpin(bpffs).err());
    }
    failures
}

/// Detaches our programs from the device called `name`.
fn release(bpffs: &Path, name: &str) -> Result<()> {
    let Some(device) = link::by_name(name)? else { return Ok(()) };
    Hook::ALL.iter().try_for_each(|hook| detach(bpffs, *hook, device.index))
}

/// Removes the pins, of all versions.
fn unpin(bpffs: &Path) -> Result<()> {
    for schema in schemas(bpffs)? {
        unpin_one(&directory_of(bpffs, schema))?;
    }
    let _ = fs::remove_dir(bpffs.join(PARENT)); // stays if it has something else
    Ok(())
}

/// Removes a pin directory. Takes its lock first, so that a plugin called earlier can finish.
fn unpin_one(directory: &Path) -> Result<()> {
    let fault = |error: io::Error| Error::kernel(format!("cannot remove {}", directory.display()), error);
    let _lock = match File::open(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => Flock::lock(file.map_err(fault)?, FlockArg::LockExclusive)
            .map_err(|(_, error)| fault(error.into()))?,
    };
    fs::remove_dir_all(directory).map_err(fault)
}
