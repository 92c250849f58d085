//! `iocast-node top` and `map`.

use std::{
    error::Error,
    io,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signalfd::SignalFd;
use view::{Answer as _, Seen};

use super::Watch;
use crate::{
    say::{clear, is_over, is_terminal, print, print_json, print_line, redraw, size, style},
    signals::stop_signals,
    snoop::{UNATTENDED, give_up_after},
};

/// How soon a signal is noticed.
const NOTICE: Duration = Duration::from_millis(100);
/// Lines of a table if there is no terminal.
const LINES: usize = 1000;

/// How `top` shows what.
#[derive(clap::Args)]
pub(crate) struct TopOptions {
    /// Print JSON, one object per line: see docs/seeing.md.
    #[arg(long)]
    json: bool,
    /// Stop after this many seconds, 0 for never [default: never on a terminal, else 600].
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Show it again every so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

/// How `map` shows what.
#[derive(clap::Args)]
pub(crate) struct MapOptions {
    /// Print JSON: see docs/seeing.md.
    #[arg(long)]
    json: bool,
    /// Watch for so many seconds which PVs are asked for.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

/// Shows what is seen, again and again.
pub(crate) fn top(bpffs: &Path, options: &TopOptions) -> Result<(), Box<dyn Error>> {
    let (began, every) = (Instant::now(), Duration::from_secs(options.every));
    let end = options.end().and_then(|time| began.checked_add(time));
    let mut watch = begin(bpffs, options.end())?;
    if is_terminal() && !options.json {
        clear()?;
    }
    let mut due = began + every;
    loop {
        let until = end.map_or(due, |end| end.min(due));
        let stopped = watch.watch(until)?;
        if !stopped || !is_terminal() {
            options.show(&watch.watch.seen())?;
        }
        if stopped || end.is_some_and(|end| Instant::now() >= end) {
            return Ok(());
        }
        due = (due + every).max(Instant::now());
    }
}

/// Shows once who reads from whom.
pub(crate) fn map(bpffs: &Path, options: &MapOptions) -> Result<(), Box<dyn Error>> {
    let time = Duration::from_secs(options.seconds);
    let mut watch = begin(bpffs, Some(time))?;
    watch.watch(Instant::now() + time)?;
    let seen = watch.watch.seen();
    Ok(if options.json { print_json(&seen) } else { print(&seen.map(&style())) }?)
}

impl TopOptions {
    /// How long to watch. Nobody may be left to stop what writes to no terminal.
    fn end(&self) -> Option<Duration> {
        let seconds = self.seconds.or((!is_terminal()).then_some(UNATTENDED));
        seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    fn show(&self, seen: &Seen) -> io::Result<()> {
        match size() {
            _ if self.json => print_line(seen),
            Some((_, lines)) if is_terminal() => redraw(&seen.screen(&style(), lines - 1)),
            _ => print(&(seen.screen(&style(), LINES) + "\n")),
        }
    }
}

/// A watch that a signal ends.
struct Attended {
    watch: Watch,
    stop: SignalFd,
}

fn begin(bpffs: &Path, end: Option<Duration>) -> Result<Attended, Box<dyn Error>> {
    let stop = stop_signals()?;
    end.map(give_up_after).transpose()?;
    Ok(Attended { watch: Watch::start(bpffs)?, stop })
}

impl Attended {
    /// Watches until then; true if it is time to stop.
    fn watch(&mut self, until: Instant) -> datapath::Result<bool> {
        while let left = until.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            self.watch.turn(left.min(NOTICE))?;
            if is_over(&self.stop) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
