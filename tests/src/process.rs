//! A program that runs in the lab, and what it prints.

use std::{
    fs::{self, File},
    os::unix::{fs::FileExt, process::ExitStatusExt},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::RwLock,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Error, Result, tried};

/// A program that ends by itself has ended by then.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);
/// Environment variable that says how many times slower than a real machine this one is, where it is emulated.
const SLOWNESS: &str = "LAB_SLOWNESS";

/// Held while a child starts: until it runs its program it has a copy of every file descriptor, so that what another
/// thread closes meanwhile stays open.
static STARTING: RwLock<()> = RwLock::new(());

/// Starts a child; every child of a process that has labs is to be started here.
pub fn start(command: &mut Command) -> std::io::Result<Child> {
    let _starting = STARTING.read();
    command.spawn()
}

/// What a child prints until its end.
pub fn output_of(command: &mut Command) -> std::io::Result<Output> {
    start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?.wait_with_output()
}

/// Waits until no child begins that has a copy of what this thread has closed: only then, or a moment later, is a port free.
pub fn settle() {
    drop(STARTING.write());
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    command: String,
    child: Child,
    // A file, not a pipe: a daemon that the program leaves behind may hold it open without anybody waiting for it.
    output: File,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed, stdout and stderr in the order written.
    pub output: String,
}

impl Process {
    pub(crate) fn new(command: String, child: Child, output: File) -> Self {
        Self { command, child, output }
    }

    /// Its process id, as the machine numbers it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory, kB.
    pub fn resident(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.id());
        let status = tried(format!("read {path}"), fs::read_to_string(&path))?;
        let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let value = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok());
        value.ok_or_else(|| Error::Missing(format!("{path} has no VmRSS: it has ended")))
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        self.output_from(0)
    }

    /// What it has printed so far, without the first `offset` bytes.
    pub fn output_from(&self, offset: u64) -> String {
        let length = self.output.metadata().map_or(0, |metadata| metadata.len().saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let read = self.output.read_at(&mut bytes, offset).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..read]).into()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether a signal has ended it.
    pub fn has_crashed(&mut self) -> bool {
        self.ended().is_some_and(|status| status.signal().is_some())
    }

    /// Whether a socket of another has a UDP port that it has on all addresses.
    pub(crate) fn shares_a_port(&self) -> bool {
        const LOCAL_ADDRESS: usize = 1;
        const INODE: usize = 9;
        let table = fs::read_to_string(format!("/proc/{}/net/udp", self.id())).unwrap_or_default();
        let sockets: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        let own = self.descriptors();
        let has = |socket: &Vec<&str>| own.contains(&format!("socket:[{}]", socket[INODE]));
        let everywhere = |socket: &&Vec<&str>| socket[LOCAL_ADDRESS].starts_with("00000000:");
        sockets.iter().filter(everywhere).filter(|socket| has(socket)).any(|socket| {
            sockets.iter().filter(|other| other[LOCAL_ADDRESS] == socket[LOCAL_ADDRESS]).count() > 1
        })
    }

    /// What its file descriptors refer to.
    fn descriptors(&self) -> Vec<String> {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.id())).into_iter().flatten().flatten();
        let links = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        links.map(|link| link.to_string_lossy().into_owned()).collect()
    }

    /// How it ended, if it has.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until its output satisfies `test`; an error with all of the output if it does not in time.
    pub fn wait_for(
        &mut self,
        what: &str,
        patience: Duration,
        test: impl Fn(&str) -> bool,
    ) -> Result<Duration> {
        let (start, patience) = (Instant::now(), patience * slowness());
        loop {
            let running = self.is_running(); // before the output, which a last line may still reach
            if test(&self.output()) {
                return Ok(start.elapsed());
            }
            if !running || start.elapsed() > patience {
                return Err(self.timeout(what, start.elapsed()));
            }
            sleep(PAUSE);
        }
    }

    /// The error that there was nothing of `what` for so long, with all of its output.
    pub(crate) fn timeout(&mut self, what: &str, waited: Duration) -> Error {
        let ended = self.ended().map_or(String::new(), |status| format!(", and it has ended ({status})"));
        let (command, output, waited) = (&self.command, self.output(), waited.as_secs_f32());
        Error::Timeout(format!("`{command}`: no {what} after {waited:.1} s{ended}; it printed:\n{output}"))
    }

    /// Waits for its end; an error if that takes too long.
    pub fn finish(mut self) -> Result<Finished> {
        let start = Instant::now();
        loop {
            if let Some(status) = tried(&self.command, self.child.try_wait())? {
                return Ok(Finished { command: self.command.clone(), status, output: self.output() });
            }
            if start.elapsed() > PATIENCE * slowness() {
                return Err(Error::Timeout(format!(
                    "`{}` does not end; it printed:\n{}",
                    self.command,
                    self.output()
                )));
            }
            sleep(PAUSE);
        }
    }

    /// Sends it SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Kills it and waits for its end.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn slowness() -> u32 {
    std::env::var(SLOWNESS).ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl Finished {
    /// What it printed; an error if it failed.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.output);
        }
        Err(Error::Command { command: self.command, output: format!("{}\n{}", self.status, self.output) })
    }
}
