//! The signals that stop a command.

use std::error::Error;

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::SignalFd,
};

/// To be waited for beside other things.
pub(crate) fn stop_signals() -> nix::Result<SignalFd> {
    SignalFd::new(&blocked_signals()?)
}

/// The signals to stop, which from now on are only waited for.
fn blocked_signals() -> nix::Result<SigSet> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    Ok(signals)
}

/// Waits for a signal to stop.
pub(crate) fn idle() -> Result<(), Box<dyn Error>> {
    blocked_signals()?.wait()?;
    Ok(())
}
