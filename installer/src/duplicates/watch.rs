//! The agent's own look for duplicates, if it is configured: a short one every few minutes, beside the agent's loop.

use std::{
    collections::BTreeMap,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::warn;
use view::{Duplicate, Duplicates};

use super::{
    NAP, answer,
    probe::{Memory, Probe, Remembered},
};
use crate::{
    ask::wait::wait,
    config::{Config, DomainConfig, DuplicatesConfig},
    log::DUPLICATES,
};
/// Time between the beginnings of two looks.
const PERIOD: Duration = Duration::from_secs(300);
/// How long one takes.
const LOOK: Duration = Duration::from_secs(30);
/// New ones that are logged after a look.
const LOGGED: usize = 10;

/// What the last look, or the present one so far, has found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) duplicates: Duplicates,
    /// PVs that clients keep asking for in vain, by domain.
    pub(crate) unanswered: BTreeMap<String, usize>,
}

/// Looks, beside the agent's loop.
pub(crate) struct Watch {
    shared: Arc<Mutex<Shared>>,
    wake: Sender<()>,
}

#[derive(Default)]
struct Shared {
    wanted: Option<Wanted>,
    found: Option<Found>,
    problem: Option<String>,
}

#[derive(Clone, PartialEq)]
struct Wanted {
    settings: DuplicatesConfig,
    domains: Vec<DomainConfig>,
}

impl Watch {
    /// Begins to look once it is wanted.
    pub(crate) fn start(bpffs: &Path) -> std::io::Result<Self> {
        let (wake, woken) = channel();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let watcher = Watcher {
            bpffs: bpffs.into(),
            shared: Arc::clone(&shared),
            memory: Memory::default(),
            logged: vec![],
        };
        thread::Builder::new().name("duplicates".into()).spawn(move || watcher.run(&woken))?;
        Ok(Self { shared, wake })
    }

    /// Looks from now on as `config` says, if it does.
    pub(crate) fn want(&self, config: &Config) {
        let (settings, domains) = (config.duplicates.clone(), config.domains.clone());
        let wanted = (settings.rate > 0).then_some(Wanted { settings, domains });
        let mut shared = lock(&self.shared);
        if shared.wanted != wanted {
            *shared = Shared { wanted, ..Shared::default() };
            let _ = self.wake.send(()); // it lives as long as we do
        }
    }

    /// What was found; none while it is not wanted, or nothing is known yet.
    pub(crate) fn found(&self) -> Option<Found> {
        lock(&self.shared).found.clone()
    }

    /// Why it could not be looked.
    pub(crate) fn problem(&self) -> Option<String> {
        lock(&self.shared).problem.clone()
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that looks.
struct Watcher {
    bpffs: PathBuf,
    shared: Arc<Mutex<Shared>>,
    memory: Memory,
    /// What has been logged, and is still so.
    logged: Vec<Duplicate>,
}

impl Watcher {
    fn run(mut self, woken: &Receiver<()>) {
        loop {
            let wanted = lock(&self.shared).wanted.clone();
            if let Some(wanted) = &wanted {
                let problem = self.look(wanted).unwrap_or_else(|error| vec![error.to_string()]).join("; ");
                let mut shared = lock(&self.shared);
                if shared.wanted.as_ref() == Some(wanted) {
                    shared.problem =
                        (!problem.is_empty()).then(|| format!("cannot look for duplicates: {problem}"));
                }
            }
            match woken.recv_timeout(PERIOD.saturating_sub(LOOK)) {
                Err(RecvTimeoutError::Disconnected) => return,
                _ => while woken.try_recv().is_ok() {},
            }
        }
    }

    /// Looks, and says which domains were left out.
    fn look(&mut self, wanted: &Wanted) -> datapath::Result<Vec<String>> {
        let memory = std::mem::take(&mut self.memory);
        let suspects: Vec<_> = memory.0.values().flat_map(Remembered::suspects).collect();
        let mut probe = Probe::begin(&self.bpffs, &wanted.domains, None, (memory, true))?;
        probe.ask_for(&suspects);
        let end = Instant::now() + LOOK;
        let mut published = Instant::now();
        while Instant::now() < end && lock(&self.shared).wanted.as_ref() == Some(wanted) {
            wait(&[probe.events().as_fd()], NAP);
            probe.step(wanted.settings.rate)?;
            if published.elapsed() >= Duration::from_secs(1) {
                self.publish(wanted, &probe)?;
                published = Instant::now();
            }
        }
        self.publish(wanted, &probe)?;
        let troubles = probe.troubles().collect();
        self.memory = probe.end()?;
        Ok(troubles)
    }

    fn publish(&mut self, wanted: &Wanted, probe: &Probe) -> datapath::Result<()> {
        let duplicates = answer(probe, &wanted.settings.allowed)?;
        self.log(&duplicates.duplicates);
        let mut shared = lock(&self.shared);
        if shared.wanted.as_ref() == Some(wanted) {
            shared.found = Some(Found { duplicates, unanswered: probe.unanswered() });
        }
        Ok(())
    }

    /// Logs those that are new, but not more of them than somebody reads.
    fn log(&mut self, found: &[Duplicate]) {
        let is_same = |one: &Duplicate, other: &Duplicate| {
            (&one.domain, &one.protocol, &one.pv) == (&other.domain, &other.protocol, &other.pv)
        };
        self.logged.retain(|logged| found.iter().any(|found| is_same(found, logged)));
        for new in found {
            if self.logged.len() < LOGGED && !self.logged.iter().any(|logged| is_same(logged, new)) {
                let Duplicate { domain, protocol, pv, servers } = new;
                let servers = servers.len();
                warn!(target: DUPLICATES, domain, protocol, pv, "domain `{domain}`: {servers} servers have {pv} by {protocol}");
                self.logged.push(new.clone());
            }
        }
    }
}
