//! `kubectl` at the workstation, over the agents of a cluster: the real one, which asks a stand-in of the API server
//! (`tests/cluster/api_server.py`) that lists the DaemonSet's pods and runs programs in them.

use std::{cell::Cell, fs, path::Path, process::Command};

use serde_json::{Value, json};

use super::{Cluster, PATIENCE, Set, project};
use crate::{
    Error, Process, Result, WORKSTATION,
    node::{NODES, binary},
    tried,
};

/// Where the stand-in listens, in the workstation's namespace.
const PORT: &str = "6443";
/// What it knows.
const WORLD: &str = "/run/api/world.json";
const CONFIGURATION: &str = "/run/api/kubeconfig";
/// Of processes of the workstation that kubectl starts.
const HOME: &str = "/run/api/home";

/// The stand-in, and what it knows. Dropping it ends it.
#[derive(Debug)]
pub struct ApiServer<'a> {
    cluster: &'a Cluster,
    /// What it answers: see `tests/cluster/api_server.py`.
    pub world: Value,
    _server: Process,
    runs: Cell<u32>,
}

/// What a command printed, and its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// Its stdout.
    pub out: String,
    /// Its stderr.
    pub err: String,
}

impl<'a> ApiServer<'a> {
    /// Starts it over the agents of these nodes, each in a container of the DaemonSet's pod.
    pub fn start(cluster: &'a Cluster, containers: &[String]) -> Result<Self> {
        Self::over(cluster, Set::AGENT, containers)
    }

    /// The same over the pods of a DaemonSet in a namespace of its name.
    pub fn over(cluster: &'a Cluster, set: Set, containers: &[String]) -> Result<Self> {
        let pods = containers.iter().enumerate().map(|(node, container)| {
            let entry = cluster.entry_from_outside(node, set, container)?;
            let state = json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } });
            Ok(json!({ "name": format!("{}-{node}", set.name), "node": NODES[node], "state": state, "entry": entry }))
        });
        let pods = pods.collect::<Result<Vec<_>>>()?;
        let labels = json!({ "app.kubernetes.io/name": set.name });
        let world = json!({ "namespace": set.name, "labels": labels, "forbidden": [], "pods": pods });
        let configuration = json!({
            "kind": "Config", "apiVersion": "v1", "current-context": "lab",
            "clusters": [{ "name": "lab", "cluster": { "server": format!("http://127.0.0.1:{PORT}") } }],
            "users": [{ "name": "me", "user": {} }],
            "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "me" } }],
        });
        let sandbox = &cluster.lab.sandbox;
        sandbox.write(CONFIGURATION, configuration.to_string())?;
        sandbox.write(WORLD, world.to_string())?;
        let mut command = Command::new("/usr/bin/python3");
        command.arg(project().join("tests/cluster/api_server.py")).args([PORT, WORLD]);
        let mut server = sandbox.spawn(WORKSTATION, command)?;
        server.wait_for("API server", PATIENCE, |said| said.contains("is there"))?;
        Ok(Self { cluster, world, _server: server, runs: Cell::new(0) })
    }

    /// Lets it know what was changed in its world.
    pub fn tell(&self) -> Result<()> {
        self.cluster.lab.sandbox.write(WORLD, self.world.to_string())
    }

    /// Starts kubectl with these words, which have no quotes; its stderr goes to a file.
    pub fn spawn(&self, line: &str) -> Result<(Process, String)> {
        let tools = project().join("target/lab/kubernetes/bin");
        let kubectl = tools.join("kubectl");
        if !kubectl.exists() {
            return Err(Error::Missing(format!("there is no {}: run `make lab-tools`", kubectl.display())));
        }
        let plugin = binary("kubectl-iocast")?;
        let path = [tools.as_path(), plugin.parent().unwrap_or(Path::new("/")), Path::new("/usr/bin")];
        let path = path.map(|directory| directory.display().to_string()).join(":");
        let number = self.runs.replace(self.runs.get() + 1);
        let complaints = format!("/run/api/complaints-{number}");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec kubectl \"$@\" 2>\"$0\"", &complaints]).args(line.split_whitespace());
        command.env_clear().env("PATH", path).env("HOME", HOME).env("KUBECONFIG", CONFIGURATION);
        Ok((self.cluster.lab.sandbox.spawn(WORKSTATION, command)?, complaints))
    }

    /// Runs kubectl to its end.
    pub fn kubectl(&self, line: &str) -> Result<Ran> {
        let (process, complaints) = self.spawn(line)?;
        self.finish(process, &complaints)
    }

    /// What it printed, when it has ended.
    pub fn finish(&self, process: Process, complaints: &str) -> Result<Ran> {
        let finished = process.finish()?;
        let path = complaints.to_owned();
        let err = self.cluster.lab.sandbox.run(move || fs::read_to_string(path));
        let err = tried("read what kubectl complained about", err)?;
        Ok(Ran { code: finished.status.code().unwrap_or(-1), out: finished.output, err })
    }
}
