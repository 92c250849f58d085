//! `iocast-node run`: load, then make the node as configured, again and again, until told to stop.

use std::{
    collections::HashMap,
    error::Error,
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use abi::Verdict;
use datapath::{Counter, State, load};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::SignalFd,
    },
};

use crate::{
    cni::{self, Keeper},
    config::{Config, DomainConfig},
    reconcile::{Programs, reconcile},
    reload::Live,
};

/// Time between two passes.
const PERIOD: Duration = Duration::from_secs(2);

/// Loads the datapath and keeps the node as `config` says; with `cni`, the plugin chained as well.
pub(crate) fn run(
    bpffs: &Path,
    config: &Path,
    once: bool,
    cni: Option<&cni::Options>,
) -> Result<(), Box<dyn Error>> {
    let live = Live::read(config)?;
    let stop = stop_signals()?;
    let mut state = load(bpffs)?;
    let reporter = Reporter { known: vec![], dropped: dropped(&state)? };
    let problems = reconcile(bpffs, &mut state, &live.config, Programs::Replace)?;
    let keeper = cni.map(|options| Keeper::new(options, bpffs));
    let mut agent = Agent { bpffs, live, state, keeper, reporter, problems };
    // The datapath first: a plugin without it turns members away.
    agent.chain(if once { Keeper::pass_until_settled } else { Keeper::pass });
    println!("iocast-node: ready, {} attached", names(&agent.live.config));
    if once { Ok(()) } else { agent.keep(&stop) }
}

/// What the loop works on.
struct Agent<'a> {
    bpffs: &'a Path,
    live: Live,
    state: State,
    keeper: Option<Keeper>,
    reporter: Reporter,
    /// Of the last pass over the datapath.
    problems: Vec<String>,
}

impl Agent<'_> {
    fn keep(&mut self, stop: &SignalFd) -> Result<(), Box<dyn Error>> {
        let mut due = Instant::now() + PERIOD;
        loop {
            match wait(stop, self.keeper.as_ref(), due)? {
                Wake::Stop => return Ok(()),
                Wake::Conflist => {}
                Wake::Period => {
                    self.pass();
                    self.reporter.exhausted_ports(&self.live.config, &self.state)?;
                    due = Instant::now() + PERIOD;
                }
            }
            self.chain(Keeper::pass);
        }
    }

    /// Makes the node as configured now. A pass that fails is repeated: interfaces and namespaces come and go while it runs.
    fn pass(&mut self) {
        if self.live.refresh() {
            println!("iocast-node: the configuration has changed: {}", names(&self.live.config));
        }
        match reconcile(self.bpffs, &mut self.state, &self.live.config, Programs::Keep) {
            Ok(problems) => self.problems = problems,
            Err(error) => eprintln!("iocast-node: {error}; trying again"),
        }
    }

    /// Sees to the chain, and says what is wrong altogether.
    fn chain(&mut self, pass: fn(&mut Keeper) -> Vec<String>) {
        let mut problems: Vec<String> = self.live.fault().map(str::to_owned).into_iter().collect();
        problems.extend(self.problems.iter().cloned());
        problems.extend(self.keeper.as_mut().map(pass).unwrap_or_default());
        self.reporter.problems(problems);
    }
}

fn names(config: &Config) -> String {
    let names: Vec<_> = config.domains.iter().map(|domain| domain.name.as_str()).collect();
    format!("{} {}", if names.len() == 1 { "domain" } else { "domains" }, names.join(", "))
}

pub(crate) fn stop_signals() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    SignalFd::new(&signals)
}

/// Why the loop goes on.
enum Wake {
    /// A signal to stop.
    Stop,
    /// Somebody changed the runtime's configuration directory.
    Conflist,
    /// It is time for a pass.
    Period,
}

/// Waits until something happens, or `due` comes.
fn wait(signals: &SignalFd, keeper: Option<&Keeper>, due: Instant) -> nix::Result<Wake> {
    let left = due.saturating_duration_since(Instant::now()).as_millis();
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let conflist = keeper.and_then(Keeper::descriptor);
    let mut ready = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    ready.extend(conflist.map(|watch| PollFd::new(watch, PollFlags::POLLIN)));
    poll(&mut ready, timeout)?;
    let came = |index: usize| ready.get(index).and_then(PollFd::any).unwrap_or(false);
    Ok(match (came(0), Instant::now() >= due, came(1)) {
        (true, _, _) => Wake::Stop,
        (_, false, true) => Wake::Conflist,
        _ => Wake::Period,
    })
}

/// Packets dropped since the datapath was loaded because a domain had no external port left, by domain.
fn dropped(state: &State) -> Result<HashMap<u16, u64>, datapath::Error> {
    let mut dropped = HashMap::new();
    for Counter { domain, verdict, packets, .. } in state.counters()? {
        if verdict == Verdict::NoPort {
            *dropped.entry(domain).or_default() += packets;
        }
    }
    Ok(dropped)
}

/// Says each problem once, and again only after it was gone.
struct Reporter {
    known: Vec<String>,
    dropped: HashMap<u16, u64>,
}

impl Reporter {
    fn problems(&mut self, problems: Vec<String>) {
        for new in problems.iter().filter(|problem| !self.known.contains(problem)) {
            eprintln!("iocast-node: {new}");
        }
        for gone in self.known.iter().filter(|problem| !problems.contains(problem)) {
            eprintln!("iocast-node: solved: {gone}");
        }
        self.known = problems;
    }

    /// Says how many packets were dropped since last time because a domain has no external port left.
    fn exhausted_ports(&mut self, config: &Config, state: &State) -> Result<(), datapath::Error> {
        let dropped = dropped(state)?;
        for (number, domain) in state.domains()? {
            let name = abi::text(&domain.name);
            let new =
                dropped.get(&number).copied().unwrap_or(0) - self.dropped.get(&number).copied().unwrap_or(0);
            if let (true, Some(DomainConfig { ports, .. })) =
                (new > 0, config.domains.iter().find(|domain| domain.name == name))
            {
                eprintln!(
                    "iocast-node: domain `{name}`: {new} packets dropped, because all external ports {}-{} are taken; \
                     widen `ports`",
                    ports.first, ports.last
                );
            }
        }
        self.dropped = dropped;
        Ok(())
    }
}
