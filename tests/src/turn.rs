//! When a test runs. Most of a test's time is waiting, so tests run beside each other, more than there are processors
//! (`RUST_TEST_THREADS` in `.cargo/config.toml`). Those that a busy machine would disturb have times of their own. The only
//! hard work of most is to load the programs, which the kernel verifies: one a processor does that at once.
//!
//! A test has one turn, of one [`Kind`], from its first lab, or from [`take`] before it, to the end of its thread. Turns of
//! one kind are beside each other, turns of different kinds never. Nobody who has a turn waits for another one, and a turn
//! ends with its test, however that ends: so each test has its turn at last.

use std::{
    cell::RefCell,
    fs,
    path::Path,
    sync::{
        Condvar, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

/// What a test does to others, and what they may do to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It waits, most of the time; a busy machine makes it slower and nothing else. What a lab is without [`take`].
    Waits,
    /// It has to keep up with something, such as a camera: beside others like it.
    KeepsUp,
    /// It measures, or loads the machine: alone.
    Alone,
}

/// Whose turn it is: their kind, and how many they are.
static NOW: Mutex<(Kind, usize)> = Mutex::new((Kind::Waits, 0));
static ENDED: Condvar = Condvar::new();

thread_local! {
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

/// A turn of the test on this thread.
struct Turn {
    kind: Kind,
    test: Option<String>,
    begin: Instant,
}

/// Waits for a turn of this kind for the test on this thread. To be called before the test makes a lab.
pub fn take(kind: Kind) {
    TURN.with_borrow_mut(|turn| {
        if turn.as_ref().is_none_or(|turn| turn.kind != kind) {
            *turn = None; // of the test before, where one thread runs all
            *turn = Some(Turn::wait(kind));
        }
    });
}

/// The same for a test that makes a lab without having taken one.
pub(crate) fn ensure() {
    if TURN.with_borrow(Option::is_none) {
        take(Kind::Waits);
    }
}

impl Turn {
    fn wait(kind: Kind) -> Self {
        let mut now = now();
        while now.1 > 0 && (now.0 != kind || kind == Kind::Alone) {
            now = ENDED.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
        *now = (kind, now.1 + 1);
        let test = thread::current().name().filter(|name| name.contains("::")).map(Into::into);
        Self { kind, test, begin: Instant::now() }
    }

    /// Keeps how long it was, for the table at the end of `make test`.
    fn record(&self) -> std::io::Result<()> {
        let Some(test) = &self.test else { return Ok(()) };
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/times");
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(test), format!("{test} {:.1}\n", self.begin.elapsed().as_secs_f32()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = self.record(); // a figure
        now().1 -= 1;
        ENDED.notify_all();
    }
}

/// Held while an agent loads the programs.
pub(crate) fn loading() -> MutexGuard<'static, ()> {
    static ONE_A_PROCESSOR: LazyLock<Vec<Mutex<()>>> = LazyLock::new(|| {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        (0..processors).map(|_| Mutex::new(())).collect()
    });
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed) % ONE_A_PROCESSOR.len();
    ONE_A_PROCESSOR[next].lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> MutexGuard<'static, (Kind, usize)> {
    NOW.lock().unwrap_or_else(PoisonError::into_inner)
}
