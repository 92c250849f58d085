//! Taking the datapath down: the programs off every device, the fan device away, then the pins, and with them the maps.
//!
//! It needs none of the state, so that what an incomplete load or another version left is taken down as well.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::Path,
};

use nix::fcntl::{Flock, FlockArg};

use crate::{Error, Hook, Result, detach, link, load::FAN, pinned::pin_directory};

/// Takes down what is pinned under `bpffs`, as far as that goes; that nothing is there is no error. Returns what could not
/// be done; after that it can be called again.
///
/// A qdisc that was made for a program stays: others may use it by now. Whoever calls this sees to it that no plugin and no
/// agent runs any more.
pub fn unload(bpffs: &Path) -> Vec<Error> {
    let mut failures = vec![];
    match link::names() {
        Ok(names) => failures.extend(names.iter().filter_map(|name| release(bpffs, name).err())),
        Err(error) => failures.push(error),
    }
    failures.extend(link::delete(FAN.0).err());
    if failures.is_empty() {
        failures.extend(unpin(bpffs).err());
    }
    failures
}

/// Takes our programs off the device called `name`.
fn release(bpffs: &Path, name: &str) -> Result<()> {
    let Some(device) = link::by_name(name)? else { return Ok(()) };
    Hook::ALL.iter().try_for_each(|hook| detach(bpffs, *hook, device.index))
}

/// Removes the pins. The directory's lock is taken, so that a plugin that was called before can end.
fn unpin(bpffs: &Path) -> Result<()> {
    let directory = pin_directory(bpffs);
    let fault = |error: io::Error| Error::kernel(format!("cannot remove {}", directory.display()), error);
    let _lock = match File::open(&directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => Flock::lock(file.map_err(fault)?, FlockArg::LockExclusive)
            .map_err(|(_, error)| fault(error.into()))?,
    };
    fs::remove_dir_all(&directory).map_err(fault)?;
    let _ = fs::remove_dir(bpffs.join("iocast")); // stays if another version is there
    Ok(())
}
