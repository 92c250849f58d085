//! A node with podman in place of a cluster's runtime: a laptop, on which iocast's hook is installed.

use std::fs;

use serde_json::Value;

use crate::{
    Error, Lab, Options, Process, Result, Topology,
    cluster::{PATIENCE, wait_until},
    host::{Host, project},
    node::binary,
    tried, turn,
};

/// The image of the lab's containers, `tests/cluster/image.sh`.
const IMAGE: &str = "lab.local/epics:1";
/// Where podman looks for hooks.
const HOOK: &str = "/usr/share/containers/oci/hooks.d/iocast.json";
/// What IOCs print when they serve.
const SERVING: &str = "iocRun: All initialization complete";

/// A LAN with a workstation and one node that has podman. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Laptop {
    agent: Option<Process>,
    host: Host,
    /// The LAN, the workstation, the node's network.
    pub lab: Lab,
}

impl Laptop {
    /// A laptop without the agent, as podman and the hook are there after their installation.
    pub fn up() -> Result<Self> {
        let lab = Lab::without_agent(Options::new(Topology::Bridge))?;
        let laptop = Self { agent: None, host: Host::start(&lab, 0, "podman", "usr/bin/podman")?, lab };
        let hook = laptop.exec(&format!("{} hook --print", binary("iocast")?.display()))?;
        laptop.host.write(HOOK, hook)?;
        laptop.podman(&format!("load --quiet --input {}/target/lab/epics.tar", project().display()))?;
        Ok(laptop)
    }

    /// Starts the agent as systemd does, with the privileges of its unit, and waits until it is ready.
    pub fn start_agent(&mut self) -> Result<()> {
        let path = project().join("manifests/podman/iocast.service");
        let unit = tried(format!("read {}", path.display()), fs::read_to_string(&path))?;
        let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        let privileges =
            value("CapabilityBoundingSet=").to_lowercase().replace(' ', ",").replace("cap_", "+");
        let program = binary("iocast-node")?.display().to_string();
        let command = value("ExecStart=").replace("/usr/local/bin/iocast-node", &program);
        self.write("/etc/iocast/config.toml", self.lab.configuration())?;
        let _loading = turn::loading();
        let mut agent =
            self.spawn(&format!("setpriv --bounding-set=-all,{privileges} --no-new-privs {command}"))?;
        agent.wait_for("ready agent", PATIENCE, |output| output.contains("ready"))?;
        self.agent = Some(agent);
        Ok(())
    }

    /// Kills the agent; the datapath stays.
    pub fn kill_agent(&mut self) {
        self.agent = None;
    }

    /// What the agent has said.
    pub fn agent_output(&self) -> String {
        self.agent.as_ref().map(Process::output).unwrap_or_default()
    }

    /// Starts a program on the laptop; words without quoting.
    pub fn spawn(&self, line: &str) -> Result<Process> {
        self.host.spawn(&self.lab, line)
    }

    /// Runs a program on the laptop to its end; what it printed, or an error if it failed.
    pub fn exec(&self, line: &str) -> Result<String> {
        self.spawn(line)?.finish()?.success()
    }

    /// Writes a file of the laptop.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        self.host.write(path, content)
    }

    /// Runs podman to its end.
    pub fn podman(&self, line: &str) -> Result<String> {
        self.exec(&format!("podman {line}"))
    }

    /// Runs a container of the image with these options of `podman run`, and in it this command.
    pub fn run(&self, options: &str, program: &str, arguments: &str) -> Result<String> {
        self.podman(&format!("run {options} --entrypoint {program} {IMAGE} {arguments}"))
    }

    /// Starts an IOC in a container with these options, whose records begin with `prefix`, and waits until it serves.
    pub fn ioc(&self, name: &str, options: &str, prefix: &str) -> Result<()> {
        let arguments = format!("-S -m P={prefix} -d /ioc/demo.db");
        self.run(&format!("--detach --name {name} {options}"), "softIoc", &arguments)?;
        wait_until("a running IOC", || Ok(self.podman(&format!("logs {name}"))?.contains(SERVING)))
    }

    /// What podman knows of a container.
    pub fn inspect(&self, name: &str) -> Result<Value> {
        let found = self.podman(&format!("inspect {name}"))?;
        let found: Value = serde_json::from_str(&found)
            .map_err(|error| Error::Missing(format!("podman inspect {name}: {error}: {found}")))?;
        Ok(found[0].clone())
    }
}
