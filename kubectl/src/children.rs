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
/// How long the rest of its output is waited for after a program's end.
const LEFT: Duration = Duration::from_secs(2);
/// How long a program may take before somebody hears what it says.
const SILENCE: Duration = Duration::from_secs(1);
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
        self.wait_aloud(time, |_| {})
    }

    /// The same; meanwhile `say` gets what comes from its stderr once it takes a while, such as the place to log in at.
    pub(crate) fn wait_aloud(self, time: Duration, say: impl Fn(&str)) -> io::Result<Ended> {
        let (began, mut said) = (Instant::now(), 0);
        let (out, err) = self.pipes();
        let (out, err) = (Reading::start(out)?, Reading::start(err)?);
        let mut status = None;
        while status.is_none() && began.elapsed() < time {
            sleep(PAUSE);
            status = lock(&self.0).try_wait()?;
            if began.elapsed() > SILENCE {
                said += err
                    .lines_after(said)
                    .inspect(|lines| say(&String::from_utf8_lossy(lines)))
                    .map_or(0, |lines| lines.len());
            }
        }
        drop(self);
        Ok(Ended { status, out: out.end(), err: err.end() })
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

/// A pipe that is read.
struct Reading {
    reader: JoinHandle<()>,
    read: Arc<Mutex<Vec<u8>>>,
}

impl Reading {
    fn start(mut pipe: Box<dyn Read + Send>) -> io::Result<Self> {
        let read = Arc::new(Mutex::new(vec![]));
        let into = Arc::clone(&read);
        let reader = thread::Builder::new().spawn(move || {
            let mut part = [0; 8192];
            while let Ok(length @ 1..) = pipe.read(&mut part) {
                lock(&into).extend_from_slice(&part[..length]);
            }
        })?;
        Ok(Self { reader, read })
    }

    /// Whole lines after the first `said` bytes.
    fn lines_after(&self, said: usize) -> Option<Vec<u8>> {
        let read = lock(&self.read);
        let new = read.get(said..)?;
        let end = new.iter().rposition(|byte| *byte == b'\n')?;
        Some(new[..=end].to_vec())
    }

    /// What came. Not all of it, if the program has ended and left the pipe to another one, such as one that asks for a password.
    fn end(self) -> String {
        let began = Instant::now();
        while !self.reader.is_finished() && began.elapsed() < LEFT {
            sleep(PAUSE);
        }
        String::from_utf8_lossy(&lock(&self.read)).into()
    }
}
