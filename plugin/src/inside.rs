//! Runs code inside a pod's network namespace.

use std::{fs::File, path::Path, thread};

use nix::sched::{CloneFlags, setns};

use crate::error::CniError;

/// Runs `work` on a thread of its own inside the network namespace at `path`.
pub(crate) fn inside<T: Send>(
    path: &Path,
    work: impl FnOnce() -> Result<T, CniError> + Send,
) -> Result<T, CniError> {
    let enter = || {
        let netns = File::open(path)?;
        setns(netns, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
    };
    let there = || {
        enter().map_err(|error| {
            CniError::io(format!("cannot enter the pod's network namespace {}: {error}", path.display()))
        })?;
        work()
    };
    thread::scope(|scope| scope.spawn(there).join())
        .unwrap_or_else(|_| Err(CniError::io("the thread in the pod's network namespace panicked")))
}
