//! A node of a [`Lab`] with a root of its own (`tests/cluster/node.sh`): every path in it is the default one, nothing reaches
//! the machine. What runs there ends with the lab's sandbox.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    Error, Lab, Process, Result,
    node::{BPFFS, NODES},
    tried,
};

/// A node has its root by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// One node.
#[derive(Debug)]
pub(crate) struct Host {
    /// Its number in the lab, from 0.
    node: usize,
    /// Holds its namespaces.
    holder: Process,
    /// The holder, as the sandbox numbers it.
    number: String,
}

impl Host {
    /// Makes the root of a node, with the container runtime that is unpacked in `target/lab` by this name, and in there has
    /// this program.
    pub(crate) fn start(lab: &Lab, node: usize, runtime: &str, program: &str) -> Result<Self> {
        let path = project().join("target/lab").join(runtime).join(program);
        if !path.exists() {
            return Err(Error::Missing(format!("there is no {}: run `make lab-tools`", path.display())));
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "--propagation", "unchanged"]);
        command.arg(project().join("tests/cluster/node.sh")).args([NODES[node], BPFFS[node]]);
        command.arg(project()).arg(runtime);
        let mut holder = lab.sandbox.spawn(NODES[node], command)?;
        holder.wait_for("node", PATIENCE, |output| output.contains("the node is there"))?;
        let number = innermost_number(&holder)?;
        Ok(Self { node, holder, number })
    }

    /// Starts a program; words without quoting.
    pub(crate) fn spawn(&self, lab: &Lab, line: &str) -> Result<Process> {
        let mut command = Command::new("nsenter");
        command.args(self.entry()).args(line.split_whitespace());
        // What a daemon of the system has, and no more.
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        lab.sandbox.spawn(NODES[self.node], command)
    }

    /// What nsenter is told to enter it, in the sandbox.
    pub(crate) fn entry(&self) -> [&str; 6] {
        ["--target", &self.number, "--mount", "--uts", "--root", "--wdns=/"]
    }

    /// Where the test itself finds a file.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        let root = Path::new("/proc").join(self.holder.id().to_string()).join("root");
        root.join(path.trim_start_matches('/'))
    }

    /// Writes a file: a temporary one beside it, renamed, as everything does that containerd watches.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(path);
        let parent = path.parent().unwrap_or(Path::new("/"));
        tried(format!("create {}", parent.display()), fs::create_dir_all(parent))?;
        let temporary = path.with_extension("temporary");
        let written = fs::write(&temporary, content).and_then(|()| fs::rename(&temporary, &path));
        tried(format!("write {}", path.display()), written)
    }
}

/// The directory of this project.
pub(crate) fn project() -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    project.canonicalize().unwrap_or(project)
}

/// The number of a process in its own pid namespace.
fn innermost_number(process: &Process) -> Result<String> {
    let path = format!("/proc/{}/status", process.id());
    let status = tried(format!("read {path}"), fs::read_to_string(&path))?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    let number = numbers.split_whitespace().last().unwrap_or_default();
    Ok(number.into())
}
