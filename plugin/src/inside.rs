//! Runs code inside a pod's network namespace.

use std::thread;

use datapath::Netns;
use nix::sched::{CloneFlags, setns};

use crate::error::CniError;

/// Runs `work` on a thread of its own inside the network namespace.
pub(crate) fn inside<T: Send>(
    netns: &Netns,
    work: impl FnOnce() -> Result<T, CniError> + Send,
) -> Result<T, CniError> {
    let there = || {
        setns(netns, CloneFlags::CLONE_NEWNET)
            .map_err(|error| CniError::io(format!("cannot enter the pod's network namespace: {error}")))?;
        work()
    };
    thread::scope(|scope| scope.spawn(there).join())
        .unwrap_or_else(|_| Err(CniError::io("the thread in the pod's network namespace panicked")))
}
