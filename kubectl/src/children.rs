//! The programs that run for us: none outlives this one, however it ends, as far as it can see to that.

use std::{
    io::{self, Read},
    process::{Child, ExitStatus, exit},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use nix::sys::signal::{SigSet, Signal};

const PAUSE: Duration = Duration::from_millis(10);
/// How programs end that were interrupted.
const INTERRUPTED: i32 = 130;

/// All that run.
static RUNNING: Mutex<Vec<Arc<Mutex<Child>>>> = Mutex::new(vec![]);
/// Whether we end.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Has signals that would end this program end the others first. To be called before any thread is started.
pub(crate) fn end_with_us() -> io::Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block()?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        let _ = signals.wait();
        end_all();
        exit(INTERRUPTED)
    })?;
    Ok(())
}

/// Ends all that run.
pub(crate) fn end_all() {
    ENDING.store(true, Ordering::SeqCst);
    for child in lock(&RUNNING).drain(..) {
        let mut child = lock(&child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program that runs. Dropping it kills it.
pub(crate) struct Running(Arc<Mutex<Child>>);

/// What a program printed, and how it ended; nothing if it took too long and was killed.
pub(crate) struct Ended {
    pub(crate) status: Option<ExitStatus>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Running {
    pub(crate) fn new(child: Child) -> Self {
        let child = Arc::new(Mutex::new(child));
        lock(&RUNNING).push(Arc::clone(&child));
        if ENDING.load(Ordering::SeqCst) {
            end_all();
        }
        Self(child)
    }

    /// Its stdout and its stderr; nothing where somebody took them before.
    pub(crate) fn pipes(&self) -> (Box<dyn Read + Send>, Box<dyn Read + Send>) {
        let mut child = lock(&self.0);
        let (out, err) = (child.stdout.take(), child.stderr.take());
        (
            out.map_or_else(|| Box::new(io::empty()) as _, |pipe| Box::new(pipe) as _),
            err.map_or_else(|| Box::new(io::empty()) as _, |pipe| Box::new(pipe) as _),
        )
    }

    /// Waits for its end, at most so long; of what takes longer there is no status.
    pub(crate) fn wait(self, time: Duration) -> io::Result<Ended> {
        let began = Instant::now();
        let (out, err) = self.pipes();
        let (out, err) = (read(out)?, read(err)?);
        let mut status = None;
        while status.is_none() && began.elapsed() < time {
            sleep(PAUSE);
            status = lock(&self.0).try_wait()?;
        }
        drop(self);
        Ok(Ended { status, out: out.join().unwrap_or_default(), err: err.join().unwrap_or_default() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut child = lock(&self.0);
        let _ = child.kill();
        let _ = child.wait();
        drop(child);
        lock(&RUNNING).retain(|other| !Arc::ptr_eq(other, &self.0));
    }
}

/// Reads all of a pipe.
fn read(mut pipe: Box<dyn Read + Send>) -> io::Result<JoinHandle<String>> {
    thread::Builder::new().spawn(move || {
        let mut bytes = vec![];
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into()
    })
}
