//! The signals to stop.

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::SignalFd,
};

/// Readable once one has come.
pub(crate) fn stop_signals() -> nix::Result<SignalFd> {
    SignalFd::new(&blocked_signals()?)
}

/// The signals to stop, which from now on are only waited for.
pub(crate) fn blocked_signals() -> nix::Result<SigSet> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    Ok(signals)
}
