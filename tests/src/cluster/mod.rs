//! Nodes with a real container runtime: containerd and runc, which create pods as kubelet asks for them, and call the
//! CNI plugins of the node's conflist.
//!
//! Cgroups, which would stay, are removed by a process that outlives this one.

mod api;
pub mod cri;
mod daemonset;
mod pod;
mod workload;

use std::{
    fs,
    io::PipeWriter,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    DOMAIN, Error, Lab, Options, Process, Result, Topology,
    host::{Host, project},
    node::{binary, conflist},
    start, tried, turn,
};
pub use api::{ApiServer, Ran};
pub use cri::Cri;
pub use daemonset::Set;
pub use pod::{Container, RunningPod, Wanted};

/// Something that happens by itself has happened by then.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Where the primary CNI has its conflist.
pub const CONFLIST: &str = "/etc/cni/net.d/10-lab.conflist";

/// Where containerd listens.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// A LAN with a workstation and nodes that run pods. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Cluster {
    // In this order they end.
    nodes: Vec<Node>,
    /// The LAN, the workstation, the nodes' networks.
    pub lab: Lab,
    cgroups: Cgroups,
}

/// One node.
#[derive(Debug)]
struct Node {
    host: Host,
    containerd: Mutex<Option<Process>>,
    agent: Mutex<Option<Process>>,
    cri: Cri,
}

/// A container runtime, with the CNI plugins of its time.
#[derive(Clone, Copy, Debug)]
pub struct Runtime {
    /// Its name, which is that of its directory in `target/lab`.
    pub name: &'static str,
    /// The highest version of CNI that it and the plugins speak.
    cni_version: &'static str,
    /// Whether it forgets what it created for a pod whose ADD it did not see the end of.
    pub forgets: bool,
}

impl Runtime {
    /// Of Debian 12.
    pub const CONTAINERD_1_6: Self = Self { name: "containerd-1.6", cni_version: "1.0.0", forgets: false };
    /// Of Debian 13.
    pub const CONTAINERD_1_7: Self = Self { name: "containerd-1.7", cni_version: "1.0.0", forgets: true };
    /// Of Debian's unstable suite. It asks plugins for their STATUS.
    pub const CONTAINERD_2: Self = Self { name: "containerd-2", cni_version: "1.1.0", forgets: true };
}

impl Cluster {
    /// Nodes as they are after the runtime and the primary CNI were installed: no iocast, no pods.
    pub fn up(nodes: usize) -> Result<Self> {
        Self::with(Runtime::CONTAINERD_1_6, nodes)
    }

    /// A node whose pods have a route each, and a /32 without a broadcast address.
    pub fn routed() -> Result<Self> {
        let cluster = Self::up(1)?;
        let plugin = concat!(env!("CARGO_MANIFEST_DIR"), "/cni/slash32");
        cluster.exec(0, &format!("cp {plugin} /opt/cni/bin/"))?;
        let mut conflist = cluster.primary(0);
        let ipam = conflist["plugins"][0]["ipam"].clone();
        conflist["plugins"] = json!([{ "type": "ptp", "ipam": ipam }, { "type": "slash32" }]);
        cluster.write(0, CONFLIST, conflist.to_string())?;
        cluster.kill_containerd(0);
        cluster.start_containerd(0)?;
        Ok(cluster)
    }

    /// The same with another runtime.
    pub fn with(runtime: Runtime, nodes: usize) -> Result<Self> {
        let cni_version = runtime.cni_version;
        let lab = Lab::without_agent(Options { nodes, cni_version, ..Options::new(Topology::Bridge) })?;
        let mut cluster = Self { nodes: vec![], lab, cgroups: Cgroups::new()? };
        for node in 0..nodes {
            let started = cluster.start_node(node, runtime)?;
            cluster.nodes.push(started);
            cluster.write(
                node,
                "/etc/iocast/config.toml",
                format!("[domain.{DOMAIN}]\nuplink = \"eth0\"\n"),
            )?;
            cluster.write(node, CONFLIST, cluster.primary(node).to_string())?;
            cluster.start_containerd(node)?;
            let image = project().join("target/lab/epics.tar");
            cluster.exec(node, &format!("ctr --namespace k8s.io images import {}", image.display()))?;
        }
        Ok(cluster)
    }

    fn start_node(&self, node: usize, runtime: Runtime) -> Result<Node> {
        let host = Host::start(&self.lab, node, runtime.name, "usr/bin/containerd")?;
        let cri = Cri::new(&host.path(SOCKET))?;
        Ok(Node { host, containerd: Mutex::default(), agent: Mutex::default(), cri })
    }

    /// Starts containerd on a node, and waits until it answers.
    pub fn start_containerd(&self, node: usize) -> Result<()> {
        let mut containerd = self.spawn(node, "containerd")?;
        containerd
            .wait_for("socket of containerd", PATIENCE, |output| output.contains("successfully booted"))?;
        *lock(&self.nodes[node].containerd) = Some(containerd);
        // It refuses until it has found the sandboxes of its predecessor.
        wait_until("an answer of containerd", || Ok(self.cri(node).sandboxes().is_ok()))
    }

    /// Kills containerd on a node; pods go on.
    pub fn kill_containerd(&self, node: usize) {
        *lock(&self.nodes[node].containerd) = None;
    }

    /// What containerd on a node has said.
    pub fn containerd_output(&self, node: usize) -> String {
        lock(&self.nodes[node].containerd).as_ref().map(Process::output).unwrap_or_default()
    }

    /// Starts iocast-node on a node with the DaemonSet's arguments, but as a process, and waits until it is ready.
    pub fn start_agent(&self, node: usize) -> Result<()> {
        let program = binary("iocast-node")?;
        let _loading = turn::loading();
        let mut agent = self.spawn(node, &format!("{} run --cri {SOCKET}", program.display()))?;
        agent.wait_for("ready agent", PATIENCE, |output| output.contains("ready"))?;
        *lock(&self.nodes[node].agent) = Some(agent);
        Ok(())
    }

    /// Kills iocast-node on a node; datapath and plugin stay.
    pub fn kill_agent(&self, node: usize) {
        *lock(&self.nodes[node].agent) = None;
    }

    /// What iocast-node on a node has said.
    pub fn agent_output(&self, node: usize) -> String {
        lock(&self.nodes[node].agent).as_ref().map(Process::output).unwrap_or_default()
    }

    /// Runs iocast-node on a node to its end: `install`, `uninstall` and the like.
    pub fn iocast_node(&self, node: usize, line: &str) -> Result<String> {
        self.exec(node, &format!("{} {line}", binary("iocast-node")?.display()))
    }

    /// The runtime of a node.
    pub fn cri(&self, node: usize) -> &Cri {
        &self.nodes[node].cri
    }

    /// The conflist that a node's primary CNI installs.
    pub fn primary(&self, node: usize) -> Value {
        let mut primary = conflist(&self.lab.options, node).0;
        if let Some(plugins) = primary["plugins"].as_array_mut() {
            plugins.retain(|plugin| plugin["type"] != "iocast");
        }
        primary
    }

    /// Starts a program on a node; words without quoting.
    pub fn spawn(&self, node: usize, line: &str) -> Result<Process> {
        self.nodes[node].host.spawn(&self.lab, line)
    }

    /// Runs a program on a node to its end; what it printed, or an error if it failed.
    pub fn exec(&self, node: usize, line: &str) -> Result<String> {
        self.spawn(node, line)?.finish()?.success()
    }

    /// Where the test itself finds a file of a node.
    pub fn path(&self, node: usize, path: &str) -> PathBuf {
        self.nodes[node].host.path(path)
    }

    /// Writes a file of a node: a temporary one beside it, renamed, as everything does that containerd watches.
    pub fn write(&self, node: usize, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        self.nodes[node].host.write(path, content)
    }

    /// Reads a file of a node.
    pub fn read(&self, node: usize, path: &str) -> Result<String> {
        let path = self.path(node, path);
        tried(format!("read {}", path.display()), fs::read_to_string(&path))
    }

    /// The names in a directory of a node, sorted; none if there is no such directory.
    pub fn names(&self, node: usize, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(node, directory)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// Makes a test of each function, once with each runtime. A function takes the [`Runtime`] and returns a [`Result`].
#[macro_export]
macro_rules! with_every_runtime {
    ($($name:ident)*) => {
        mod containerd_1_6 {
            $(#[test] fn $name() -> lab::Result<()> { super::$name(lab::cluster::Runtime::CONTAINERD_1_6) })*
        }
        mod containerd_1_7 {
            $(#[test] fn $name() -> lab::Result<()> { super::$name(lab::cluster::Runtime::CONTAINERD_1_7) })*
        }
        mod containerd_2 {
            $(#[test] fn $name() -> lab::Result<()> { super::$name(lab::cluster::Runtime::CONTAINERD_2) })*
        }
    };
}

/// A test that fails meanwhile says more than a poisoned lock.
fn lock(daemon: &Mutex<Option<Process>>) -> MutexGuard<'_, Option<Process>> {
    daemon.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `test` is true.
pub fn wait_until(what: &str, test: impl Fn() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !test()? {
        if start.elapsed() > PATIENCE {
            return Err(Error::Timeout(format!("{what}: not after {} s", PATIENCE.as_secs())));
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The cgroups of a cluster's pods, under a name that no other cluster has. They are removed when this is dropped, or
/// when this process is killed.
#[derive(Debug)]
struct Cgroups {
    name: String,
    /// Its end starts the removal.
    alive: Option<PipeWriter>,
    remover: Child,
}

impl Cgroups {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("iocast-lab-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (end, alive) = tried("make a pipe", std::io::pipe())?;
        let mut remover = Command::new(project().join("tests/cluster/cgroups.sh"));
        // A terminal's interrupt is not for it.
        std::os::unix::process::CommandExt::process_group(remover.arg(&name), 0);
        let remover = tried("start cgroups.sh", start(remover.stdin(end).stdout(Stdio::null())))?;
        Ok(Self { name, alive: Some(alive), remover })
    }

    /// The cgroup to create pods in.
    fn parent(&self) -> String {
        format!("/{}", self.name)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        drop(self.alive.take());
        let _ = self.remover.wait();
    }
}
