//! One watch for all who look at the page: it starts with the first, and ends when nobody has looked for a while.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use view::Seen;

use crate::seen::Watch;

/// How long it goes on after the last look.
const IDLE: Duration = Duration::from_secs(10);
/// How old what is shown may be.
const TURN: Duration = Duration::from_millis(500);
/// How long the first one who looks waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is needed of a watch.
pub(super) trait Look: Sized {
    fn start(bpffs: &Path) -> Result<Self, String>;
    /// Looks for a while.
    fn turn(&mut self) -> Result<(), String>;
    fn seen(&self) -> Seen;
}

impl Look for Watch {
    fn start(bpffs: &Path) -> Result<Self, String> {
        Self::start(bpffs).map_err(|error| error.to_string())
    }

    fn turn(&mut self) -> Result<(), String> {
        self.turn(TURN).map_err(|error| error.to_string())
    }

    fn seen(&self) -> Seen {
        self.seen()
    }
}

/// Those who look, and what they see.
pub(super) struct Viewer {
    bpffs: PathBuf,
    idle: Duration,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    what: Mutex<What>,
    changed: Condvar,
}

#[derive(Default)]
struct What {
    /// When somebody looked last.
    looked: Option<Instant>,
    runs: bool,
    /// What was seen, or why nothing is.
    latest: Option<Result<Seen, String>>,
}

impl Shared {
    fn what(&self) -> MutexGuard<'_, What> {
        self.what.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Viewer {
    pub(super) fn new(bpffs: &Path) -> Self {
        Self { bpffs: bpffs.into(), idle: IDLE, shared: Arc::default() }
    }

    /// What is seen; who is the first waits for it.
    pub(super) fn seen<L: Look>(&self) -> Result<Seen, String> {
        let mut what = self.shared.what();
        what.looked = Some(Instant::now());
        if !what.runs {
            (what.runs, what.latest) = (true, None);
            let (bpffs, idle, shared) = (self.bpffs.clone(), self.idle, Arc::clone(&self.shared));
            let watch = thread::Builder::new().name("page-watch".into());
            if let Err(error) = watch.spawn(move || watch_for::<L>(&bpffs, idle, &shared)) {
                what.runs = false;
                return Err(error.to_string());
            }
        }
        let waited = self.shared.changed.wait_timeout_while(what, PATIENCE, |what| what.latest.is_none());
        let (what, _) = waited.unwrap_or_else(PoisonError::into_inner);
        what.latest.clone().unwrap_or_else(|| Err("nothing was seen in time".into()))
    }
}

/// Watches until nobody has looked for so long, or nothing can be seen.
fn watch_for<L: Look>(bpffs: &Path, idle: Duration, shared: &Shared) {
    let outcome = watch::<L>(bpffs, idle, shared);
    let mut what = shared.what();
    what.runs = false;
    if let Err(error) = outcome {
        what.latest = Some(Err(error));
    }
    shared.changed.notify_all();
}

fn watch<L: Look>(bpffs: &Path, idle: Duration, shared: &Shared) -> Result<(), String> {
    let mut watch = L::start(bpffs)?;
    loop {
        watch.turn()?;
        let seen = watch.seen();
        let mut what = shared.what();
        what.latest = Some(Ok(seen));
        shared.changed.notify_all();
        if what.looked.is_none_or(|looked| looked.elapsed() > idle) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread::sleep,
    };

    use super::*;

    static STARTED: AtomicUsize = AtomicUsize::new(0);
    static ENDED: AtomicUsize = AtomicUsize::new(0);

    struct Fake(f64);

    impl Look for Fake {
        fn start(bpffs: &Path) -> Result<Self, String> {
            STARTED.fetch_add(1, Ordering::SeqCst);
            if bpffs == Path::new("/gone") { Err("it is gone".into()) } else { Ok(Self(0.0)) }
        }

        fn turn(&mut self) -> Result<(), String> {
            sleep(Duration::from_millis(5));
            self.0 += 1.0;
            Ok(())
        }

        fn seen(&self) -> Seen {
            Seen { seconds: self.0, ..Seen::nothing(vec![]) }
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            ENDED.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn all_who_look_share_a_watch_that_ends_after_the_last_and_starts_anew() {
        let viewer = Viewer { idle: Duration::from_secs(2), ..Viewer::new(Path::new("/")) };
        thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| (0..5).for_each(|_| assert!(viewer.seen::<Fake>().is_ok())));
            }
        });
        assert_eq!(STARTED.load(Ordering::SeqCst), 1);
        while ENDED.load(Ordering::SeqCst) == 0 {
            sleep(Duration::from_millis(5));
        }
        while viewer.shared.what().runs {
            sleep(Duration::from_millis(5));
        }
        assert!(viewer.seen::<Fake>().is_ok_and(|seen| seen.seconds >= 1.0), "nothing old is shown");
        assert_eq!(STARTED.load(Ordering::SeqCst), 2);
        let gone = Viewer::new(Path::new("/gone"));
        assert_eq!(gone.seen::<Fake>().map_err(|error| error.to_string()).err(), Some("it is gone".into()));
        assert!(!gone.shared.what().runs);
    }
}
