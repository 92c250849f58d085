//! `iocast-node snoop`: who searches for what, and who answers, live.
//!
//! The programs emit events only until a deadline in a map. It is extended every second, so that events stop with this
//! process, however it ends.

pub(crate) mod datagram;
pub(crate) mod directory;
mod filter;
pub(crate) mod lease;
mod line;
pub(crate) mod questions;

use std::{
    error::Error,
    io::{self, BufWriter, ErrorKind, IsTerminal as _, Write},
    os::fd::AsFd as _,
    path::Path,
    process::exit,
    thread::{self, sleep},
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use datapath::{Events, State, kernel_clock, printable, printable::json};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signalfd::SignalFd,
};

use self::{
    datagram::{Datagram, Message},
    directory::Directory,
    filter::Filter,
    lease::{LEASE, RENEWAL},
    line::{line, pods, row},
    questions::Questions,
};
use crate::{
    say::{complain, width},
    signals::stop_signals,
};

/// Seconds until it ends by itself, if the output is not a terminal.
pub(crate) const UNATTENDED: u64 = 600;
/// How long after its end it may still hang.
const GRACE: Duration = Duration::from_secs(5);
/// How long to sleep at most: another watcher may have read first what would wake us.
const NAP: Duration = Duration::from_millis(100);
/// The most events read at once before anything else gets its turn.
const BATCH: usize = 1024;
/// Extensions between two lists of unanswered PVs, if the output is not a terminal.
const LISTING: u64 = 10;
/// Clears a terminal and moves the cursor to the top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What to show, and how.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    filter: Filter,
    /// List the PVs that clients keep asking for without an answer, instead of each datagram.
    #[arg(long)]
    unanswered: bool,
    /// Also show which pods receive a copy of a search or beacon; `--pod` implies it for that pod.
    #[arg(long)]
    deliveries: bool,
    /// Stop after this many seconds, 0 for never; with `--unanswered`, print the list then instead of repeatedly
    /// [default: never on a terminal, else 600].
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Print JSON, one object per line.
    #[arg(long)]
    json: bool,
}

/// Shows events until a signal, or until the given time is over.
pub(crate) fn run(bpffs: &Path, options: &Options) -> Result<(), Box<dyn Error>> {
    let state = State::open(bpffs)?;
    let stop = stop_signals()?;
    let mut events = Events::open(bpffs)?;
    let mut watcher = Watcher::new(options)?;
    options.limit().map(give_up_after).transpose()?;
    let outcome = watcher.watch(&state, &mut events, &stop);
    events.stop()?;
    let outcome = outcome.and_then(|()| watcher.end(&mut events));
    let lost = events.lost()?;
    match outcome {
        Err(error) if is_closed(error.as_ref()) => return Ok(()), // as by `| head`
        outcome => outcome?,
    }
    complain(watcher.tally.summary(watcher.began.elapsed(), lost));
    Ok(())
}

impl Options {
    /// How long to watch. Nobody may be left to stop what writes to no terminal.
    fn limit(&self) -> Option<Duration> {
        let seconds = self.seconds.or((!io::stdout().is_terminal()).then_some(UNATTENDED));
        seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    fn deliveries(&self) -> bool {
        self.deliveries || self.filter.pod.is_some()
    }
}

/// Ends the process some time after `limit`, if it hangs because nobody reads what it writes.
pub(crate) fn give_up_after(limit: Duration) -> io::Result<()> {
    let hung = move || {
        sleep(limit.saturating_add(GRACE));
        exit(1)
    };
    thread::Builder::new().name("limit".into()).spawn(hung).map(drop)
}

/// Whether the reader of the output has closed it, or its terminal is gone.
fn is_closed(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| {
        error.kind() == ErrorKind::BrokenPipe || error.raw_os_error() == Some(Errno::EIO as i32)
    })
}

/// The state of a running `snoop`.
struct Watcher<'a> {
    options: &'a Options,
    directory: Directory,
    questions: Questions,
    tally: Tally,
    out: BufWriter<io::StdoutLock<'static>>,
    began: Instant,
    /// When the kernel's clock started, since the Unix epoch.
    boot: Duration,
}

impl<'a> Watcher<'a> {
    fn new(options: &'a Options) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            options,
            directory: Directory::default(),
            questions: Questions::default(),
            tally: Tally::default(),
            out: BufWriter::new(io::stdout().lock()),
            began: Instant::now(),
            boot: SystemTime::UNIX_EPOCH.elapsed()?.saturating_sub(kernel_clock()?),
        })
    }

    /// Reads events until it is time to stop, and extends the deadline meanwhile.
    fn watch(&mut self, state: &State, events: &mut Events, stop: &SignalFd) -> Result<(), Box<dyn Error>> {
        let deliveries = self.options.deliveries();
        let end = self.options.limit().and_then(|limit| self.began.checked_add(limit));
        let (mut reported, mut passes) = (0, 0);
        events.watch(LEASE, deliveries)?;
        complain("watching; press Ctrl-C to stop");
        loop {
            self.directory = Directory::read(state)?;
            let renewal = Instant::now() + RENEWAL;
            let due = end.map_or(renewal, |end| end.min(renewal));
            while Instant::now() < due {
                if wait(stop, events, due.min(Instant::now() + NAP))? {
                    return Ok(());
                }
                self.take_in(events, BATCH)?;
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok(());
            }
            self.questions.forget(kernel_clock()?);
            passes += 1;
            self.refresh(passes)?;
            reported = report_lost(reported, events.lost()?);
            events.watch(LEASE, deliveries)?;
        }
    }

    /// Reads the pending events, at most `most`.
    fn take_in(&mut self, events: &mut Events, most: usize) -> Result<(), Box<dyn Error>> {
        for _ in 0..most {
            let Some((event, payload)) = events.take() else { break };
            if let Some(datagram) = Datagram::read(&event, &payload) {
                self.show(&datagram)?;
            }
        }
        Ok(self.out.flush()?)
    }

    fn show(&mut self, datagram: &Datagram) -> Result<(), Box<dyn Error>> {
        self.tally.take_in(datagram);
        let (mut pvs, latency) = self.questions.take_in(datagram);
        let filter = &self.options.filter;
        let domain = self.directory.domain(datagram.domain);
        let client = datagram.client.map(|client| *client.ip());
        pvs.retain(|pv| filter.shows_pv(pv));
        if self.options.unanswered
            || datagram.is_delivery() && !self.options.deliveries() // which somebody else wants to see
            || filter.pv.is_some() && pvs.is_empty()
            || !filter.shows(&domain, client, &pods(datagram, &self.directory))
        {
            return Ok(());
        }
        let line = line(datagram, &self.directory, self.boot, (pvs, latency));
        if self.options.json {
            self.print_json(&line)
        } else {
            Ok(writeln!(self.out, "{}", printable(&line.to_string()))?)
        }
    }

    /// Lists the unanswered PVs again, if it is time.
    fn refresh(&mut self, passes: u64) -> Result<(), Box<dyn Error>> {
        let Options { unanswered, json, seconds, .. } = self.options;
        if !unanswered || *json || seconds.is_some() {
            return Ok(());
        }
        let terminal = io::stdout().is_terminal();
        if terminal {
            write!(self.out, "{CLEAR}")?;
        }
        if terminal || passes.is_multiple_of(LISTING) { self.list() } else { Ok(()) }
    }

    /// Prints what remains when no more events come.
    fn end(&mut self, events: &mut Events) -> Result<(), Box<dyn Error>> {
        self.take_in(events, usize::MAX)?;
        if self.options.unanswered { self.list() } else { Ok(()) }
    }

    /// Lists the unanswered PVs.
    fn list(&mut self) -> Result<(), Box<dyn Error>> {
        let now = kernel_clock()?;
        let filter = &self.options.filter;
        let mut rows = vec![];
        for found in self.questions.unanswered() {
            let domain = self.directory.domain(found.domain);
            let pod = self.directory.at(found.client);
            if filter.shows_pv(&found.name) && filter.shows(&domain, Some(found.client), &[pod]) {
                rows.push(row(found, &self.directory, now));
            }
        }
        if self.options.json {
            rows.iter().try_for_each(|row| self.print_json(row))?;
        } else {
            write!(self.out, "{}", view::snoop::table(&rows, width()))?;
        }
        Ok(self.out.flush()?)
    }

    fn print_json(&mut self, object: &impl serde::Serialize) -> Result<(), Box<dyn Error>> {
        Ok(writeln!(self.out, "{}", json(&serde_json::to_string(object)?))?)
    }
}

/// Waits for events, until `due`; true if it is time to stop, because of a signal or because the output was closed: an
/// interrupted `kubectl exec` does nothing else.
pub(crate) fn wait(stop: &SignalFd, events: &Events, due: Instant) -> nix::Result<bool> {
    let left = due.saturating_duration_since(Instant::now()).as_millis() + 1; // rounded up
    let out = io::stdout();
    let mut ready = [
        PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        PollFd::new(out.as_fd(), PollFlags::empty()),
        PollFd::new(events.as_fd(), PollFlags::POLLIN),
    ];
    poll(&mut ready, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))?;
    Ok(ready[..2].iter().any(|ready| ready.any().unwrap_or(false)))
}

/// Reports how many events were lost, if that has grown; returns how many have been reported.
fn report_lost(reported: u64, lost: u64) -> u64 {
    if lost > reported {
        complain(format!("{lost} events lost so far: there is more traffic than can be shown"));
    }
    lost
}

/// Counts of all events, shown or not.
#[derive(Default)]
struct Tally {
    searches: u64,
    replies: u64,
    beacons: u64,
    others: u64,
}

impl Tally {
    fn take_in(&mut self, datagram: &Datagram) {
        if datagram.is_delivery() {
            return;
        }
        *match datagram.message {
            Message::Search(_) => &mut self.searches,
            Message::Reply(_) => &mut self.replies,
            Message::Beacon => &mut self.beacons,
            Message::Other => &mut self.others,
        } += 1;
    }

    fn summary(&self, time: Duration, lost: u64) -> String {
        let Self { searches, replies, beacons, others } = self;
        format!(
            "{:.1} s: {searches} searches, {replies} replies, {beacons} beacons, {others} other datagrams; \
             {lost} events lost",
            time.as_secs_f64()
        )
    }
}
