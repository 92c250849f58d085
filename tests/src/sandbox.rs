//! A thread with mount, pid and network namespaces of its own, on which everything of a lab is done.
//!
//! The namespaces belong to that one thread: the rest of the process keeps the machine's view, and can start threads
//! (which a thread whose children live in another pid namespace cannot). When the thread ends, or the process is
//! killed, the kernel kills the pid namespace's first process and with it everything that runs in the lab; network
//! namespaces, mounts and files in them go with the last process.

use std::{
    fs::{self, File},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

use crate::{
    Error, Result,
    process::{Process, output_of, start},
    tried, turn,
};

type Job = Box<dyn FnOnce() + Send>;

/// Directory of named network namespaces, as ip(8) uses it; inside the sandbox it is empty at first.
const NETNS: &str = "/run/netns";

/// The namespaces of one lab. Dropping it ends everything that runs in them.
#[derive(Debug)]
pub struct Sandbox {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// What every job begins with.
    base: Arc<Base>,
}

/// The namespaces that jobs run in.
#[derive(Debug)]
struct Base {
    /// The base network namespace.
    network: File,
    /// The first process of the pid namespace, as the machine numbers it.
    first: u32,
}

impl Sandbox {
    /// Makes the namespaces, when it is the test's [turn](turn). Needs root.
    pub fn new() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::Missing(
                "the lab makes network namespaces and loads BPF programs: run it as root".into(),
            ));
        }
        turn::ensure();
        let (jobs, queue) = channel::<Job>();
        let thread = std::thread::spawn(move || queue.into_iter().for_each(|job| job()));
        let base = Arc::new(run_on(&jobs, isolate)?);
        Ok(Self { jobs: Some(jobs), thread: Some(thread), base })
    }

    /// Runs `work` on the sandbox's thread, in its base network namespace.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match &self.jobs {
            Some(jobs) => run_on(jobs, work),
            None => unreachable!("only drop takes it"),
        }
    }

    /// The first process of the sandbox, as the machine numbers it: a door to its namespaces.
    pub fn first_process(&self) -> u32 {
        self.base.first
    }

    /// Runs `work` on the sandbox's thread, in network namespace `netns`. Sockets it makes stay there.
    pub fn run_in<T: Send + 'static>(
        &self,
        netns: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (path, base) = (Path::new(NETNS).join(netns), Arc::clone(&self.base));
        self.run(move || {
            let there = tried(format!("open {}", path.display()), File::open(&path))?;
            tried("enter a namespace", setns(there, CloneFlags::CLONE_NEWNET))?;
            let outcome = catch_unwind(AssertUnwindSafe(work));
            tried("return to the base namespace", setns(&base.network, CloneFlags::CLONE_NEWNET))?;
            outcome.map_err(|panic| resume_unwind(panic))
        })
    }

    /// Starts a program in network namespace `netns`; its output is kept.
    pub fn spawn(&self, netns: &str, mut command: Command) -> Result<Process> {
        let line = command_line(&command);
        let output = tried("create a file for output", tempfile::tempfile())?;
        let writers = (output.try_clone(), output.try_clone());
        let (stdout, stderr) = (tried("clone", writers.0)?, tried("clone", writers.1)?);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child: std::io::Result<Child> = self.run_in(netns, move || start(&mut command))?;
        Ok(Process::new(line.clone(), tried(line, child)?, output))
    }

    /// Runs a program to its end in network namespace `netns`; an error if it fails.
    pub fn exec(&self, netns: &str, command: Command) -> Result<String> {
        self.spawn(netns, command)?.finish()?.success()
    }

    /// Runs a command line of words without quoting, as [`Sandbox::exec`].
    pub fn sh(&self, netns: &str, line: &str) -> Result<String> {
        self.exec(netns, words(line))
    }

    /// Creates network namespace `name`, with loopback up.
    pub fn add_netns(&self, name: &str) -> Result<()> {
        let (add, up) = (words(&format!("ip netns add {name}")), words("ip link set lo up"));
        self.run(move || run_here(add))?;
        self.exec(name, up).map(|_| ())
    }

    /// Deletes network namespace `name` and every interface in it.
    pub fn delete_netns(&self, name: &str) -> Result<()> {
        let delete = words(&format!("ip netns delete {name}"));
        self.run(move || run_here(delete))
    }

    /// The namespace itself, for a mount elsewhere.
    pub fn open_netns(&self, name: &str) -> Result<File> {
        let path = Path::new(NETNS).join(name);
        self.run(move || tried(format!("open {}", path.display()), File::open(&path)))
    }

    /// Writes a file that only processes in the sandbox see.
    pub fn write(&self, path: &str, content: impl Into<Vec<u8>>) -> Result<()> {
        let (path, content) = (path.to_owned(), content.into());
        self.run(move || {
            if let Some(parent) = Path::new(&path).parent() {
                tried(format!("create {}", parent.display()), fs::create_dir_all(parent))?;
            }
            tried(format!("write {path}"), fs::write(&path, content))
        })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // The thread's end kills the first process of the pid namespace.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Runs `work` on the thread that takes `jobs`.
fn run_on<T: Send + 'static>(jobs: &Sender<Job>, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (answer, outcome) = channel();
    let sent = jobs.send(Box::new(move || {
        let _ = answer.send(catch_unwind(AssertUnwindSafe(work)));
    }));
    match outcome.recv() {
        Ok(Ok(value)) if sent.is_ok() => value,
        Ok(Err(panic)) => resume_unwind(panic),
        _ => panic!("the sandbox's thread has ended"),
    }
}

/// A command line of words without quoting.
pub(crate) fn words(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn run_here(mut command: Command) -> Result<()> {
    let line = command_line(&command);
    let output = tried(line.clone(), output_of(&mut command))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command { command: line, output: String::from_utf8_lossy(&output.stderr).into() })
}

/// Gives the calling thread namespaces of its own, an empty `/run`, a BPF file system, and a first process.
fn isolate() -> Result<Base> {
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC;
    tried("make namespaces", unshare(flags))?;
    let none = None::<&str>;
    make_mounts_private()?;
    tried("mount /run", mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none))?;
    tried("mount a BPF file system", mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none))?;
    tried("create /run/netns", fs::create_dir(NETNS))?;
    let mut first = words("setpriv --pdeathsig KILL sleep infinity");
    first.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Never waited for: it lives as long as this thread.
    let first = tried("start the first process", start(&mut first))?.id();
    // Before /proc is the new pid namespace's, in which this thread has no number; only a child can mount that one.
    let network = tried("open the base namespace", File::open("/proc/thread-self/ns/net"))?;
    run_here(words("mount -t proc proc /proc"))?;
    Ok(Base { network, first })
}

/// Keeps what is mounted here from appearing elsewhere.
fn make_mounts_private() -> Result<()> {
    let private = |path: &str| {
        mount(None::<&str>, path, None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
    };
    match private("/") {
        // The root of a chroot is no mount point: then those we mount upon, as far as they are.
        Err(Errno::EINVAL) => {
            for path in ["/run", "/proc", "/sys", "/sys/fs/bpf"] {
                match private(path) {
                    Ok(()) | Err(Errno::EINVAL) => {}
                    error => tried(format!("make {path} private"), error)?,
                }
            }
            Ok(())
        }
        outcome => tried("make mounts private", outcome),
    }
}
