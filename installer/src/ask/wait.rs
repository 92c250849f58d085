//! Waits for what comes.

use std::{os::fd::BorrowedFd, time::Duration};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits until there is something to read at one of these, or until the time is over.
pub(crate) fn wait(sources: &[BorrowedFd<'_>], time: Duration) {
    let mut ready: Vec<_> = sources.iter().map(|source| PollFd::new(*source, PollFlags::POLLIN)).collect();
    let time = PollTimeout::try_from(time.as_millis() + 1).unwrap_or(PollTimeout::MAX); // rounded up
    let _ = poll(&mut ready, time); // a signal is as good as something to read
}
