//! The lab: a LAN with a workstation, a node with an uplink, and pods behind a real CNI chain, all in namespaces of
//! its own. Nothing here touches the machine's interfaces, sysctls, mounts or files, and everything vanishes with the
//! process that made it, even when that one is killed.

pub mod bpf;
pub mod ca;
pub mod cluster;
mod cni;
mod dice;
pub mod epics;
mod host;
mod installed;
pub mod laptop;
mod leftovers;
pub mod monitors;
mod node;
pub mod ping;
mod process;
pub mod pva;
mod sandbox;
pub mod tcp;
pub mod turn;
pub mod udp;

pub use cni::{Attachment, CniError, Conflist, Executor, pipe as cni_pipe};
pub use dice::Dice;
pub use leftovers::{Leftovers, NOTHING, held_ports};
pub use node::{
    DOMAIN, Lab, NATIVE, NODE, NODE2, NODE3, NODES, Options, Pod, ROUTER, SWITCH, Topology, WORKSTATION,
    binary, on_lan, switch,
};
pub use process::{Finished, Process, output_of, settle, start};
pub use sandbox::Sandbox;

/// The capabilities that the node agent needs, as setpriv(1) takes a bounding set. PERFMON: without it the verifier
/// refuses what the programs do with pointers.
pub const AGENT_CAPABILITIES: &str = "-all,+net_admin,+net_raw,+bpf,+perfmon,+dac_override";

/// Why the lab could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something the lab needs is not on this machine.
    #[error("{0}")]
    Missing(String),
    /// A command failed.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// What it printed.
        output: String,
    },
    /// A CNI plugin reported an error.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// A call to the system failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Something did not happen in time.
    #[error("{0}")]
    Timeout(String),
}

/// The lab's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds what was tried to a failed call to the system.
pub fn tried<T>(what: impl Into<String>, result: Result<T, impl Into<std::io::Error>>) -> Result<T> {
    result.map_err(|source| Error::System { what: what.into(), source: source.into() })
}

/// A command that runs a program of a Debian package with nothing in its environment.
pub fn program(name: &str, arguments: &[&str]) -> Result<std::process::Command> {
    let path = std::path::Path::new("/usr/bin").join(name);
    if !path.exists() {
        return Err(Error::Missing(format!("there is no {}: run `make lab-tools`", path.display())));
    }
    let mut command = std::process::Command::new(path);
    command.args(arguments).env_clear();
    Ok(command)
}

/// Reports a figure that a test measured: printed, and kept in `target/figures` for the end of `make test`.
pub fn report(name: &str, figure: &str) {
    println!("{name}: {figure}");
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/figures");
    let file = directory.join(name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
    let written = std::fs::create_dir_all(&directory)
        .and_then(|()| std::fs::write(file, format!("{name}: {figure}\n")));
    if let Err(error) = written {
        println!("the figure is not kept: {error}");
    }
}

/// The machine, as far as it matters for a report.
pub fn machine() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: Vec<_> = release.split('.').take(2).collect();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!("a machine with {processors} processors, Linux {}", kernel.join("."))
}

/// Compares with a recorded text of `tests/golden`; UPDATE_GOLDEN=1 records it anew.
pub fn assert_golden(name: &str, found: &str) -> Result<()> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        tried(format!("write {}", path.display()), std::fs::write(&path, found))?;
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, recorded, "differs from {}; UPDATE_GOLDEN=1 records it anew", path.display());
    Ok(())
}

/// Makes a test of each function, once in each topology. A function takes the [`Topology`] and returns a [`Result`].
#[macro_export]
macro_rules! in_both_topologies {
    ($($(#[$meta:meta])* $name:ident)*) => {
        mod bridge {
            $(#[test] $(#[$meta])* fn $name() -> lab::Result<()> { super::$name(lab::Topology::Bridge) })*
        }
        mod routed {
            $(#[test] $(#[$meta])* fn $name() -> lab::Result<()> { super::$name(lab::Topology::Routed) })*
        }
    };
}
