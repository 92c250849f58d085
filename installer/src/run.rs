//! `iocast-node run`: loads the datapath, then reconciles the node with the configuration until a signal stops it.

use std::{
    error::Error,
    net::SocketAddr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use abi::text;
use datapath::{Former, Held, Pins, State, Taken, load, pin_directory};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signalfd::SignalFd,
};
use tracing::{debug, error, info, trace, warn};

use crate::{
    addresses::Addresses,
    adopt::Adoption,
    cni::{self, Keeper},
    config::Config,
    conflicts::Conflicts,
    duplicates,
    exhausted::Exhausted,
    log::{self, ADOPT, AGENT, CHAIN, CONFIG, DATAPATH, DUPLICATES, PAGE, RELAY, event},
    metrics::{Chain, Progress},
    page,
    reconcile::{Programs, Reconciled, reconcile},
    relay::{Relay, Report},
    reload::Live,
    runtime::Place,
    serve::{self, SharedProgress},
    signals::stop_signals,
    uplink::{self, Uplinks},
};

/// Time between two passes.
const PERIOD: Duration = Duration::from_secs(2);

/// Options of `run`.
#[derive(clap::Args, Debug)]
#[group(id = "run")]
pub(crate) struct Options {
    /// Configuration file: the domains and their uplinks.
    #[arg(long, value_name = "FILE", default_value = "/etc/iocast/config.toml")]
    config: PathBuf,
    /// Run one reconciliation pass and exit; the datapath works without this process.
    #[arg(long)]
    once: bool,
    /// Do not install or chain the CNI plugin.
    #[arg(long)]
    no_cni: bool,
    #[command(flatten)]
    cni: cni::Options,
    /// CRI socket of the container runtime, to adopt pods that started before iocast [default: adopt none].
    #[arg(long, value_name = "SOCKET")]
    cri: Option<PathBuf>,
    /// Adopt containers of podman that started before iocast, which crun has recorded in /run/crun.
    #[arg(long, conflicts_with = "cri")]
    podman: bool,
    /// Serve /metrics, /healthz and /readyz on this address.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    page: page::Options,
    #[command(flatten)]
    log: log::Options,
}

/// Runs the agent, and logs why it ended if that was for an error.
pub(crate) fn run(bpffs: &Path, options: &Options) -> ExitCode {
    log::start(&options.log);
    match try_run(bpffs, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(target: AGENT, "{error}");
            ExitCode::FAILURE
        }
    }
}

/// Loads the datapath, then keeps the node as configured and the plugin chained.
fn try_run(bpffs: &Path, options: &Options) -> Result<(), Box<dyn Error>> {
    let live = Live::read(&options.config)?;
    let stop = stop_signals()?;
    let shared = SharedProgress::new();
    options.listen.map(|address| serve::start(address, bpffs, &shared)).transpose()?;
    let mut state = load(bpffs)?;
    let former = Former::find(bpffs)?;
    if let Err(error) = page::start(&options.page, bpffs, &options.config, options.cri.as_deref()) {
        error!(target: PAGE, "{error}"); // the node does not depend on it
    }
    let exhausted = Exhausted::new(&state)?;
    let mut conflicts = Conflicts::new();
    let mut addresses = Addresses::new(bpffs)?;
    let Reconciled { mut problems, next } = match former {
        Some(former) => take_over(bpffs, &mut state, &live.config, former)?,
        None => reconcile(bpffs, &mut state, &live.config, Programs::Replace)?,
    };
    problems.extend(addresses.pass(&mut state)?);
    problems.extend_from_slice(conflicts.pass(&state));
    let held = Held::open(bpffs)?; // what has just been attached, too
    let keeper = (!options.no_cni).then(|| Keeper::new(&options.cni, bpffs));
    let place = options.cri.clone().map(Place::Cri).or(options.podman.then_some(Place::Podman));
    let adoption = place.map(|place| Adoption::start(&place, bpffs, options.once)).transpose()?;
    let mut agent = Agent {
        bpffs,
        live,
        state,
        held,
        failing: None,
        programs: next,
        keeper,
        adoption,
        duplicates: (!options.once).then(|| duplicates::Watch::start(bpffs)).transpose()?,
        relay: (!options.once).then(Relay::start).transpose()?,
        addresses,
        conflicts,
        exhausted,
        shared,
        reporter: Reporter::default(),
        uplinks: Uplinks::default(),
        problems,
    };
    agent
        .problems
        .extend(agent.uplinks.look(&agent.live.config, &agent.state).err().map(|error| error.to_string()));
    // The datapath first: without it the plugin rejects members.
    agent.chain(if options.once { Keeper::pass_until_settled } else { Keeper::pass });
    info!(target: AGENT, "{}", agent.readiness()?);
    if options.once { Ok(()) } else { agent.keep(&stop) }
}

/// The first pass, in which the members of an earlier version become ours.
fn take_over(
    bpffs: &Path,
    state: &mut State,
    config: &Config,
    former: Former,
) -> Result<Reconciled, Box<dyn Error>> {
    let (begun, idle) = (Instant::now(), config.circuit_idle);
    let mut taken = former.hand_over(state, idle)?;
    let reconciled = reconcile(bpffs, state, config, Programs::Replace)?;
    taken += former.finish(state, idle)?;
    let Taken { members, ports, circuits } = taken;
    let took = begun.elapsed().as_secs_f64();
    info!(
        target: DATAPATH,
        "took over {members} members, {ports} external ports and {circuits} circuits of an earlier version, in {took:.2} s"
    );
    Ok(reconciled)
}

/// The state of the agent's loop.
struct Agent<'a> {
    bpffs: &'a Path,
    live: Live,
    state: State,
    held: Held,
    /// What the next pass does about programs that are attached.
    programs: Programs,
    /// Why passes fail, and since when.
    failing: Option<(Instant, String)>,
    keeper: Option<Keeper>,
    adoption: Option<Adoption>,
    duplicates: Option<duplicates::Watch>,
    relay: Option<Relay>,
    addresses: Addresses,
    conflicts: Conflicts,
    exhausted: Exhausted,
    shared: SharedProgress,
    reporter: Reporter,
    uplinks: Uplinks,
    /// The problems of the last pass over the datapath.
    problems: Vec<String>,
}

impl Agent<'_> {
    /// That the first pass is over, and which domains have a LAN.
    fn readiness(&self) -> Result<String, datapath::Error> {
        let (mut attached, mut others) = (vec![], vec![]);
        for (_, domain) in self.state.domains()? {
            let list = if uplink::trouble(self.bpffs, domain.uplink)?.is_none() {
                &mut attached
            } else {
                &mut others
            };
            list.push(text(&domain.name).to_owned());
        }
        let but = |others: &[String]| format!("not attached: {}", names(others));
        Ok(match (attached.is_empty(), others.is_empty()) {
            (_, true) => format!("ready, {} attached", names(&attached)),
            (true, _) => format!("ready, but {}", but(&others)),
            _ => format!("ready, {} attached, but {}", names(&attached), but(&others)),
        })
    }

    fn keep(&mut self, stop: &SignalFd) -> Result<(), Box<dyn Error>> {
        let mut due = Instant::now() + PERIOD;
        loop {
            match wait(stop, self.keeper.as_ref(), due)? {
                Wake::Stop => return Ok(()),
                Wake::Conflist => {}
                Wake::Period => {
                    self.pass();
                    due = Instant::now() + PERIOD;
                }
            }
            self.chain(Keeper::pass);
        }
    }

    /// Reconciles the node with the current configuration. A failed pass is retried: interfaces and namespaces come and go.
    fn pass(&mut self) {
        let changed = self.live.refresh();
        // An agent that is started anew holds nothing, so what keeps us from pinning is no failure of this one.
        trace!(target: DATAPATH, "a pass");
        self.problems = match self.keep_pinned() {
            Ok(()) => self.reconcile(),
            Err(error) => vec![format!("{error}; will retry, and holds what was pinned meanwhile")],
        };
        // Only once it is in effect: whoever waits for this line may rely on it.
        if changed {
            let domains: Vec<_> = self.live.config.domains.iter().map(|domain| domain.name.clone()).collect();
            info!(target: CONFIG, "the configuration has changed: {}", names(&domains));
        }
    }

    /// Makes sure that everything is pinned, and that it is what we work with.
    fn keep_pinned(&mut self) -> Result<(), datapath::Error> {
        let place = || pin_directory(self.bpffs).display().to_string();
        match self.held.keep()? {
            Pins::Intact => {}
            Pins::Restored => warn!(target: DATAPATH, "{} had lost pins: all is pinned again", place()),
            Pins::Replaced => {
                self.state = State::open(self.bpffs)?;
                warn!(target: DATAPATH, "something else is pinned in {}: continuing with that", place());
            }
        }
        Ok(())
    }

    fn reconcile(&mut self) -> Vec<String> {
        let passed = reconcile(self.bpffs, &mut self.state, &self.live.config, self.programs);
        match passed.and_then(|passed| Ok((passed, self.addresses.pass(&mut self.state)?))) {
            Ok((Reconciled { mut problems, next }, of_addresses)) => {
                self.programs = next;
                problems.extend(of_addresses);
                self.failing = None;
                problems.extend_from_slice(self.conflicts.pass(&self.state));
                problems.extend(self.tell().err().map(|error| error.to_string()));
                problems
            }
            Err(error) => {
                let since = self.failing.as_ref().map_or_else(Instant::now, |(since, _)| *since);
                self.failing = Some((since, error.to_string()));
                vec![format!("{error}; will retry")]
            }
        }
    }

    /// Says what has happened to uplinks and ports since the last pass.
    fn tell(&mut self) -> Result<(), datapath::Error> {
        let changes = self.uplinks.look(&self.live.config, &self.state)?;
        changes.iter().for_each(|change| info!(target: DATAPATH, "{change}"));
        self.exhausted.pass(&self.state)?.iter().for_each(|line| warn!(target: DATAPATH, "{line}"));
        Ok(())
    }

    /// Keeps the plugin chained, then reports all problems.
    fn chain(&mut self, pass: fn(&mut Keeper) -> Vec<String>) {
        let mut problems = of(CONFIG, self.live.fault().map(str::to_owned));
        problems.extend(of(DATAPATH, self.problems.iter().cloned()));
        let writes = self.keeper.as_ref().map(Keeper::writes);
        problems.extend(of(CHAIN, self.keeper.as_mut().map(pass).unwrap_or_default()));
        if let Some(adoption) = &self.adoption {
            if self.keeper.as_ref().map(Keeper::writes) != writes {
                debug!(target: CHAIN, "the configuration of the runtime has been written");
                adoption.ask(); // until now pods were created without us
            }
            problems.extend(of(ADOPT, adoption.outcome().problems));
        }
        if let Some(watch) = &self.duplicates {
            watch.want(&self.live.config);
            problems.extend(of(DUPLICATES, watch.problem()));
        }
        if let Some(relay) = &self.relay {
            relay.want(&self.live.config);
            problems.extend(of(RELAY, relay.reports().iter().flat_map(Report::problems)));
        }
        self.reporter.problems(problems);
        self.shared.publish(self.progress());
    }

    fn progress(&self) -> Progress {
        let uplinks =
            self.live.config.domains.iter().map(|domain| (domain.name.clone(), domain.uplink.clone()));
        let chain = self.keeper.as_ref().map(|keeper| Chain {
            installed: keeper.is_installed(),
            chained: keeper.is_chained(),
            writes: keeper.writes(),
        });
        let adoption = self.adoption.as_ref().map(Adoption::outcome).unwrap_or_default();
        Progress {
            problems: self.reporter.reported.iter().map(|(_, problem)| problem.clone()).collect(),
            failing: self.failing.clone(),
            chain,
            adopted: adoption.adopted,
            not_adopted: adoption.failed,
            uplinks: uplinks.collect(),
            conflicts: self.addresses.conflicts().clone(),
            duplicates: self.duplicates.as_ref().and_then(duplicates::Watch::found),
            relay: self.relay.as_ref().map(Relay::reports).unwrap_or_default(),
        }
    }
}

/// Domains by their names.
fn names(names: &[String]) -> String {
    format!("{} {}", if names.len() == 1 { "domain" } else { "domains" }, names.join(", "))
}

/// Why the loop woke up.
enum Wake {
    /// A signal to stop.
    Stop,
    /// The runtime's configuration directory has changed.
    Conflist,
    /// It is time for a pass.
    Period,
}

/// Waits for an event, until `due`.
fn wait(signals: &SignalFd, keeper: Option<&Keeper>, due: Instant) -> nix::Result<Wake> {
    let left = due.saturating_duration_since(Instant::now()).as_millis();
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let conflist = keeper.and_then(Keeper::descriptor);
    let mut ready = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    ready.extend(conflist.map(|watch| PollFd::new(watch, PollFlags::POLLIN)));
    match poll(&mut ready, timeout) {
        Err(Errno::EINTR) => {}
        polled => drop(polled?),
    }
    let came = |index: usize| ready.get(index).and_then(PollFd::any).unwrap_or(false);
    Ok(match (came(0), Instant::now() >= due, came(1)) {
        (true, _, _) => Wake::Stop,
        (_, false, true) => Wake::Conflist,
        _ => Wake::Period,
    })
}

/// A problem, and the part of the agent that has it: a target of the log.
type Problem = (&'static str, String);

/// These problems, of the part `target`.
fn of(target: &'static str, problems: impl IntoIterator<Item = String>) -> Vec<Problem> {
    problems.into_iter().map(|problem| (target, problem)).collect()
}

/// Logs each problem once when it appears, and once when it is resolved.
#[derive(Default)]
struct Reporter {
    reported: Vec<Problem>,
}

impl Reporter {
    fn problems(&mut self, problems: Vec<Problem>) {
        for (target, problem) in problems.iter().filter(|problem| !self.reported.contains(problem)) {
            event!(warn, *target, problem, resolved = false, "{problem}");
        }
        for (target, problem) in self.reported.iter().filter(|problem| !problems.contains(problem)) {
            event!(info, *target, problem, resolved = true, "resolved: {problem}");
        }
        self.reported = problems;
    }
}
