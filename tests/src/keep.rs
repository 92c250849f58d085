//! Labs that outlive the command that raised them.
//!
//! `up` starts a guard, the guard starts the holder. The holder owns the lab and publishes its network namespaces under
//! `/run/netns`, so that `ip netns exec` finds them. When it ends, even by a kill, the lab vanishes with it and the guard
//! removes the published names, which the kernel would keep.

use std::{
    fs::{self, File},
    io::Write,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use lab::{
    Error, Lab, NATIVE, NODE, Result, WORKSTATION,
    epics::{self, Server},
    tried,
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};

use crate::{Kept, Named};

const NETNS: &str = "/run/netns";
/// What the holder prints when the lab is up.
const READY: &str = "the lab is up";
/// Raising 110 pods with IOCs takes a while.
const PATIENCE: Duration = Duration::from_secs(180);

/// Files of a kept lab.
struct Files(PathBuf);

impl Files {
    fn of(lab: &Named) -> Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if lab.name.is_empty() || lab.name.len() > 12 || !lab.name.chars().all(plain) {
            return Err(Error::Missing(format!(
                "`{}`: a lab's name is 1 to 12 lower-case letters and digits",
                lab.name
            )));
        }
        Ok(Self(Path::new("/run/iocast-lab").join(&lab.name)))
    }

    /// The guard's process id.
    fn guard(&self) -> PathBuf {
        self.0.join("guard")
    }

    /// The process id of the lab's first process.
    fn first(&self) -> PathBuf {
        self.0.join("first")
    }

    /// What guard and holder print.
    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// A process id in one of the files, if that process runs.
    fn running(path: &Path) -> Option<Pid> {
        let pid = Pid::from_raw(fs::read_to_string(path).ok()?.trim().parse().ok()?);
        kill(pid, None).is_ok().then_some(pid)
    }
}

pub(crate) fn up(kept: &Kept) -> Result<()> {
    let files = Files::of(&kept.lab)?;
    let name = &kept.lab.name;
    if Files::running(&files.guard()).is_some() {
        return Err(Error::Missing(format!(
            "lab `{name}` is up already: `make lab-down NAME={name}`, or take another NAME"
        )));
    }
    sweep(&kept.lab)?; // what a lab left whose guard was killed, too
    tried("create the lab's files", fs::create_dir_all(&files.0))?;
    let log = tried("create the log", File::create(files.log()))?;
    let mut guard = own_command("guard", kept)?;
    let errors = tried("clone", log.try_clone())?;
    guard.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
    let mut guard = tried("start the guard", guard.spawn())?;
    tried("write", fs::write(files.guard(), guard.id().to_string()))?;
    println!("raising lab `{name}`: {} pods, {}", kept.pods, kept.topology.name());
    let start = Instant::now();
    loop {
        let ended = matches!(guard.try_wait(), Ok(Some(_)));
        let output = fs::read_to_string(files.log()).unwrap_or_default();
        if output.contains(READY) {
            print!("{output}");
            return Ok(());
        }
        if ended || start.elapsed() > PATIENCE {
            down(&kept.lab)?;
            return Err(Error::Command { command: "raising the lab".into(), output });
        }
        sleep(Duration::from_millis(20));
    }
}

pub(crate) fn down(lab: &Named) -> Result<()> {
    let files = Files::of(lab)?;
    if let Some(guard) = Files::running(&files.guard()) {
        let _ = kill(guard, Signal::SIGTERM); // it may end by itself meanwhile
        let start = Instant::now();
        while Files::running(&files.guard()).is_some() && start.elapsed() < Duration::from_secs(10) {
            sleep(Duration::from_millis(20));
        }
    }
    sweep(lab)?;
    println!("lab `{}` is down", lab.name);
    Ok(())
}

pub(crate) fn exec(lab: &Named, host: &str, command: &[String]) -> Result<()> {
    let files = Files::of(lab)?;
    let first = Files::running(&files.first());
    let first =
        first.ok_or_else(|| Error::Missing(format!("lab `{}` is not up: `make lab-up`", lab.name)))?;
    let binaries = lab::binary("iocast-node")?;
    let path = [epics::directory(), binaries.parent().unwrap_or(Path::new("/")).into()];
    let given = std::env::var_os("PATH").unwrap_or_default();
    let path = path.into_iter().chain(std::env::split_paths(&given));
    let path = std::env::join_paths(path).map_err(|error| Error::Missing(error.to_string()))?;
    let error = Command::new("nsenter")
        .args([
            "--target",
            &first.to_string(),
            "--mount",
            "--root", // or a chroot would be left with the namespace
            "--pid",
            &format!("--net={NETNS}/{}", published(lab, host)),
        ])
        .args(command)
        .env("PATH", path)
        .exec();
    Err(Error::System { what: "nsenter".into(), source: error })
}

/// Starts the holder, waits for its end, and removes what it published.
pub(crate) fn guard(kept: &Kept) -> Result<()> {
    let stop = stop_signals()?;
    let mut holder = tried("start the holder", own_command("hold", kept)?.spawn())?;
    loop {
        match stop.wait() {
            Ok(Signal::SIGCHLD) => break,
            _ => {
                let _ = kill(Pid::from_raw(holder.id().cast_signed()), Signal::SIGTERM);
            }
        }
    }
    let _ = holder.wait();
    sweep(&kept.lab)
}

/// Raises the lab, tells how to use it, and waits to be told to end.
pub(crate) fn hold(kept: &Kept) -> Result<()> {
    let stop = stop_signals()?;
    let files = Files::of(&kept.lab)?;
    let lab = Lab::installed(kept.topology.options())?;
    let mut iocs = vec![lab.ioc_of(Server::PvAccessCpp, NATIVE, "NATIVE")?];
    let mut hosts = vec![WORKSTATION.to_owned(), NATIVE.into(), NODE.into()];
    for number in 1..=kept.pods {
        let pod = lab.pod(&format!("ioc{number}"))?;
        iocs.push(lab.ioc_of(Server::PvAccessCpp, &pod.netns, &format!("IOC{number}"))?);
        hosts.push(pod.netns);
    }
    tried("write", fs::write(files.first(), lab.sandbox.first_process().to_string()))?;
    for host in &hosts {
        publish(&lab, &published(&kept.lab, host), host)?;
    }
    print!("{}", instructions(kept, &hosts));
    println!("{READY}");
    let _ = std::io::stdout().flush();
    while !matches!(stop.wait(), Ok(Signal::SIGTERM | Signal::SIGINT)) {}
    Ok(())
}

/// Which hosts there are, what runs there, and how to use it.
fn instructions(kept: &Kept, hosts: &[String]) -> String {
    let name = &kept.lab.name;
    let options = if name == "lab" { String::new() } else { format!(" --name {name}") };
    let program =
        std::env::current_exe().map_or_else(|_| "iocast-lab".into(), |path| path.display().to_string());
    format!(
        "hosts (or ip netns exec {prefix}HOST ...): {hosts}\n\
         IOCs, by Channel Access and PV Access: NATIVE on native, IOC1 in pod-ioc1 and so on; records NAME, COUNT, SETPOINT\n\
         for example:\n  \
         {exec} ws caget IOC1:NAME NATIVE:NAME\n  \
         {exec} ws pvget IOC1:NAME NATIVE:NAME\n  \
         {exec} pod-ioc1 pvget NATIVE:NAME\n  \
         {exec} node iocast-node status\n  \
         {exec} node iocast-node doctor\n\
         down with: make lab-down NAME={name}\n",
        prefix = published(&kept.lab, ""),
        hosts = hosts.join(" "),
        exec = format!("{program} exec{options}"),
    )
}

/// The name under which a host's network namespace is published.
fn published(lab: &Named, host: &str) -> String {
    format!("iocast-{}-{host}", lab.name)
}

fn publish(lab: &Lab, name: &str, host: &str) -> Result<()> {
    let path = Path::new(NETNS).join(name);
    tried("create /run/netns", fs::create_dir_all(NETNS))?;
    tried(format!("create {}", path.display()), File::create(&path))?;
    let namespace = lab.sandbox.open_netns(host)?;
    let from = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    tried(
        format!("mount {}", path.display()),
        mount(Some(from.as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>),
    )
}

/// Removes the published names and the files of a lab.
fn sweep(lab: &Named) -> Result<()> {
    let prefix = published(lab, "");
    for entry in fs::read_dir(NETNS).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let path = entry.path();
            let _ = umount2(&path, MntFlags::MNT_DETACH); // a name whose mount is gone already
            tried(format!("remove {}", path.display()), fs::remove_file(&path))?;
        }
    }
    match fs::remove_dir_all(Files::of(lab)?.0) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tried("remove the lab's files", Err(error))
        }
        _ => Ok(()),
    }
}

/// This program with the arguments of `kept` under another command.
fn own_command(name: &str, kept: &Kept) -> Result<Command> {
    let mut command = Command::new(tried("find this program", std::env::current_exe())?);
    command.args([
        name,
        "--name",
        &kept.lab.name,
        "--topology",
        kept.topology.name(),
        "--pods",
        &kept.pods.to_string(),
    ]);
    Ok(command)
}

fn stop_signals() -> Result<SigSet> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    tried("block signals", signals.thread_block())?;
    Ok(signals)
}
