//! Watches a node: reads events and maps, as much as it may.

use std::{
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use datapath::{Events, Result, State, kernel_clock};
use view::Seen;

use super::{report::Report, scene::Scene, tallies::Tallies};
use crate::{
    say::node_name,
    snoop::{
        datagram::Datagram,
        lease::{LEASE, Renewal},
    },
};

/// Between two looks: what comes meanwhile waits in the ring, or is lost if there is no room.
const PAUSE: Duration = Duration::from_millis(50);
/// Names, and datagrams beside, that are looked at in a second.
const BUDGET: u32 = 20_000;

/// Somebody who looks: the programs emit events while it is there.
pub(crate) struct Watch {
    bpffs: PathBuf,
    state: State,
    events: Events,
    scene: Scene,
    tallies: Tallies,
    node: String,
    /// When the kernel's clock started, since the Unix epoch.
    boot: Duration,
    renewal: Renewal,
    /// What is left of the budget, and when that was so; below 0 if the last datagram had many names.
    left: i64,
    filled: Instant,
    skipped: u64,
    /// Datagrams that were not looked at.
    lost: u64,
}

impl Watch {
    /// Starts to look at the datapath under `bpffs`.
    pub(crate) fn start(bpffs: &Path) -> Result<Self> {
        let now = kernel_clock()?;
        let mut watch = Self {
            bpffs: bpffs.into(),
            state: State::open(bpffs)?,
            events: Events::open(bpffs)?,
            scene: Scene::default(),
            tallies: Tallies::new(now),
            node: node_name(),
            boot: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().saturating_sub(now),
            renewal: Renewal::default(),
            left: BUDGET.into(),
            filled: Instant::now(),
            skipped: 0,
            lost: 0,
        };
        watch.look()?;
        Ok(watch)
    }

    /// Looks for so long.
    pub(crate) fn turn(&mut self, time: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            self.look()?;
            let left = time.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            sleep(left.min(PAUSE));
        }
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> Seen {
        let Self { node, scene, tallies, boot, lost, .. } = self;
        let now = kernel_clock().unwrap_or(tallies.began);
        Report { node, scene, tallies, now, boot: *boot, lost: *lost }.seen()
    }

    /// Looks at what there is now.
    fn look(&mut self) -> Result<()> {
        if self.renewal.is_due() {
            self.events.watch(LEASE, true)?;
            self.tallies.forget(kernel_clock()?);
        }
        self.scene.refresh(&self.bpffs, &self.state)?;
        self.fill();
        while self.left > 0 {
            let Some((event, payload)) = self.events.take() else { break };
            let work = Datagram::read(&event, &payload).map(|datagram| self.tallies.take_in(&datagram));
            self.left -= i64::from(work.unwrap_or(1));
        }
        if self.left <= 0 {
            self.skipped += self.events.skip();
        }
        let lost = self.events.lost()? + self.skipped;
        self.tallies.lose(kernel_clock()?, lost.saturating_sub(self.lost));
        self.lost = lost;
        Ok(())
    }

    /// Adds what the time since the last look has earned, up to that of a second.
    fn fill(&mut self) {
        let earned = self.filled.elapsed().as_secs_f64() * f64::from(BUDGET);
        self.filled = Instant::now();
        self.left = (self.left + earned as i64).min(BUDGET.into());
    }
}

/// If nobody else looks, the programs emit nothing from now on.
impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.events.stop(); // else the lease ends soon
    }
}
