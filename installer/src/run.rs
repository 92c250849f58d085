//! `iocast-node run`: loads the datapath, then reconciles the node with the configuration until a signal stops it.

use std::{
    collections::HashMap,
    error::Error,
    net::SocketAddr,
    os::fd::AsFd,
    path::{Path, PathBuf},
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
    adopt::Adoption,
    cni::{self, Keeper},
    config::{Config, DomainConfig},
    conflicts::Conflicts,
    metrics::{Chain, Progress},
    reconcile::{Programs, reconcile},
    reload::Live,
    say::{complain, say},
    serve::{self, SharedProgress},
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
    /// Serve /metrics, /healthz and /readyz on this address.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
}

/// Loads the datapath, then keeps the node as configured and the plugin chained.
pub(crate) fn run(bpffs: &Path, options: &Options) -> Result<(), Box<dyn Error>> {
    let live = Live::read(&options.config)?;
    let stop = stop_signals()?;
    let shared = SharedProgress::new();
    options.listen.map(|address| serve::start(address, bpffs, &shared)).transpose()?;
    let mut state = load(bpffs)?;
    let reporter = Reporter { reported: vec![], dropped: dropped(&state)? };
    let mut conflicts = Conflicts::new();
    let mut problems = reconcile(bpffs, &mut state, &live.config, Programs::Replace)?;
    problems.extend_from_slice(conflicts.pass(&state));
    let keeper = (!options.no_cni).then(|| Keeper::new(&options.cni, bpffs));
    let adoption =
        options.cri.as_ref().map(|socket| Adoption::start(socket, bpffs, options.once)).transpose()?;
    let mut agent = Agent { bpffs, live, state, keeper, adoption, conflicts, shared, reporter, problems };
    // The datapath first: without it the plugin rejects members.
    agent.chain(if options.once { Keeper::pass_until_settled } else { Keeper::pass });
    say(format!("ready, {} attached", names(&agent.live.config)));
    if options.once { Ok(()) } else { agent.keep(&stop) }
}

/// The state of the agent's loop.
struct Agent<'a> {
    bpffs: &'a Path,
    live: Live,
    state: State,
    keeper: Option<Keeper>,
    adoption: Option<Adoption>,
    conflicts: Conflicts,
    shared: SharedProgress,
    reporter: Reporter,
    /// The problems of the last pass over the datapath.
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

    /// Reconciles the node with the current configuration. A failed pass is retried: interfaces and namespaces come and go.
    fn pass(&mut self) {
        let changed = self.live.refresh();
        match reconcile(self.bpffs, &mut self.state, &self.live.config, Programs::Keep) {
            Ok(problems) => self.problems = problems,
            Err(error) => self.problems = vec![format!("{error}; will retry")],
        }
        self.problems.extend_from_slice(self.conflicts.pass(&self.state));
        // Only once it is in effect: whoever waits for this line may rely on it.
        if changed {
            say(format!("the configuration has changed: {}", names(&self.live.config)));
        }
    }

    /// Keeps the plugin chained, then reports all problems.
    fn chain(&mut self, pass: fn(&mut Keeper) -> Vec<String>) {
        let mut problems: Vec<String> = self.live.fault().map(str::to_owned).into_iter().collect();
        problems.extend(self.problems.iter().cloned());
        let writes = self.keeper.as_ref().map(Keeper::writes);
        problems.extend(self.keeper.as_mut().map(pass).unwrap_or_default());
        if let Some(adoption) = &self.adoption {
            if self.keeper.as_ref().map(Keeper::writes) != writes {
                adoption.ask(); // until now pods were created without us
            }
            problems.extend(adoption.outcome().problems);
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
        let adopted = self.adoption.as_ref().map_or(0, |adoption| adoption.outcome().adopted);
        Progress { problems: self.reporter.reported.clone(), chain, adopted, uplinks: uplinks.collect() }
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
    poll(&mut ready, timeout)?;
    let came = |index: usize| ready.get(index).and_then(PollFd::any).unwrap_or(false);
    Ok(match (came(0), Instant::now() >= due, came(1)) {
        (true, _, _) => Wake::Stop,
        (_, false, true) => Wake::Conflist,
        _ => Wake::Period,
    })
}

/// Packets dropped for lack of an external port since the datapath was loaded, by domain.
fn dropped(state: &State) -> Result<HashMap<u16, u64>, datapath::Error> {
    let mut dropped = HashMap::new();
    for Counter { domain, verdict, packets, .. } in state.counters()? {
        if verdict == Verdict::NoPort {
            *dropped.entry(domain).or_default() += packets;
        }
    }
    Ok(dropped)
}

/// Logs each problem once when it appears, and once when it is resolved.
struct Reporter {
    reported: Vec<String>,
    dropped: HashMap<u16, u64>,
}

impl Reporter {
    fn problems(&mut self, problems: Vec<String>) {
        for new in problems.iter().filter(|problem| !self.reported.contains(problem)) {
            complain(new);
        }
        for gone in self.reported.iter().filter(|problem| !problems.contains(problem)) {
            complain(format!("resolved: {gone}"));
        }
        self.reported = problems;
    }

    /// Logs how many packets were dropped since the last call for lack of an external port.
    fn exhausted_ports(&mut self, config: &Config, state: &State) -> Result<(), datapath::Error> {
        let dropped = dropped(state)?;
        for (number, domain) in state.domains()? {
            let name = abi::text(&domain.name);
            let new =
                dropped.get(&number).copied().unwrap_or(0) - self.dropped.get(&number).copied().unwrap_or(0);
            if let (true, Some(DomainConfig { ports, .. })) =
                (new > 0, config.domains.iter().find(|domain| domain.name == name))
            {
                complain(format!(
                    "domain `{name}`: dropped {new} packets: all external ports {}-{} are taken, or a pod has \
                     reached `ports_per_pod`; widen `ports`, or raise `ports_per_pod`",
                    ports.first, ports.last
                ));
            }
        }
        self.dropped = dropped;
        Ok(())
    }
}
