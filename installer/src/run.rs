//! `iocast-node run`: load, then make the node as configured, again and again, until told to stop.

use std::{collections::HashMap, error::Error, net::SocketAddr, path::Path};

use abi::Verdict;
use datapath::{Counter, State, load};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::SignalFd,
    },
};
use std::os::fd::AsFd;

use crate::{
    config::{Config, DomainConfig},
    metrics::Progress,
    reconcile::{Programs, reconcile},
    serve::{self, Board},
};

/// Milliseconds between two passes.
const PERIOD: u16 = 2000;

pub(crate) fn run(
    bpffs: &Path,
    config: &Path,
    once: bool,
    listen: Option<SocketAddr>,
) -> Result<(), Box<dyn Error>> {
    let config = Config::read(config)?;
    let stop = stop_signals()?;
    let board = Board::new();
    listen.map(|address| serve::start(address, bpffs, &board)).transpose()?;
    let mut state = load(bpffs)?;
    let mut reporter = Reporter { known: vec![], dropped: dropped(&state)? };
    reporter.problems(reconcile(bpffs, &mut state, &config, Programs::Replace)?);
    board.publish(progress(&config, &reporter));
    println!("iocast-node: ready, {} attached", names(&config));
    while !once && !told_to_stop(&stop)? {
        // A pass that fails is repeated: interfaces and namespaces come and go while it runs.
        match reconcile(bpffs, &mut state, &config, Programs::Keep) {
            Ok(problems) => reporter.problems(problems),
            Err(error) => eprintln!("iocast-node: {error}; trying again"),
        }
        reporter.exhausted_ports(&config, &state)?;
        board.publish(progress(&config, &reporter));
    }
    Ok(())
}

fn progress(config: &Config, reporter: &Reporter) -> Progress {
    let uplinks = config.domains.iter().map(|domain| (domain.name.clone(), domain.uplink.clone()));
    Progress { problems: reporter.known.clone(), uplinks: uplinks.collect(), ..Progress::default() }
}

fn names(config: &Config) -> String {
    let names: Vec<_> = config.domains.iter().map(|domain| domain.name.as_str()).collect();
    format!("{} {}", if names.len() == 1 { "domain" } else { "domains" }, names.join(", "))
}

fn stop_signals() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    SignalFd::new(&signals)
}

/// Waits one period; true if a signal to stop came.
fn told_to_stop(signals: &SignalFd) -> nix::Result<bool> {
    let mut ready = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut ready, PollTimeout::from(PERIOD))? > 0)
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
