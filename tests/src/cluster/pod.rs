//! Pods of a cluster, created as kubelet does it: sandbox, then containers, with the privileges of Pod Security's
//! *restricted* unless something else is wanted.

use std::{fs, time::Instant};

use super::{
    Cluster, PATIENCE,
    cri::{
        Capabilities, ContainerConfig, ContainerMetadata, ContainerSecurity, HOST, Image, LinuxContainer,
        LinuxSandbox, Metadata, Mount, Namespaces, Number, Profile, SandboxConfig, SandboxSecurity, Variable,
        processes,
    },
    wait_until,
};
use crate::{DOMAIN, Error, Result};

/// The image of everything but the DaemonSet, `tests/cluster/image.sh`.
pub(super) const IMAGE: &str = "lab.local/epics:1";
/// The user of a restricted container.
const USER: i64 = 1000;
/// What IOCs print when they serve.
const SERVING: &str = "iocRun: All initialization complete";

/// A pod to create.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its annotations.
    pub annotations: &'a [(&'a str, &'a str)],
    /// Whether it has the node's network.
    pub host_network: bool,
    /// Whether its containers see each other's processes.
    pub shares_processes: bool,
    /// Whether it sees the node's processes.
    pub host_pid: bool,
}

/// What a container has beside its program.
#[derive(Clone, Debug, Default)]
pub struct Container<'a> {
    /// Its environment.
    pub variables: &'a [(&'a str, &'a str)],
    /// Directories of the node that it sees at the same place.
    pub directories: &'a [&'a str],
    /// Capabilities, which it then has as root.
    pub capabilities: &'a [&'a str],
}

impl<'a> Wanted<'a> {
    /// A pod that joins the lab's domain.
    pub fn member(name: &'a str) -> Self {
        Self { annotations: &[("iocast.io/domain", DOMAIN)], ..Self::plain(name) }
    }

    /// A pod that does not.
    pub fn plain(name: &'a str) -> Self {
        Self { name, annotations: &[], host_network: false, shares_processes: false, host_pid: false }
    }

    /// A pod with the node's network.
    pub fn on_host(name: &'a str) -> Self {
        Self { host_network: true, ..Self::plain(name) }
    }
}

/// A pod whose sandbox is up.
#[derive(Clone, Debug)]
pub struct RunningPod {
    /// The number of its node, from 0.
    pub node: usize,
    /// Its sandbox's id.
    pub id: String,
    /// Its IPv4 address; empty with the node's network.
    pub address: String,
    config: SandboxConfig,
}

impl RunningPod {
    /// Its name.
    pub fn name(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |metadata| &metadata.name)
    }
}

impl Cluster {
    /// Creates a pod, without containers.
    pub fn pod(&self, node: usize, wanted: &Wanted<'_>) -> Result<RunningPod> {
        let config = self.sandbox_config(wanted);
        let id = self.cri(node).run_sandbox(&config)?;
        let status = self.cri(node).sandbox_status(&id)?;
        let address = status.network.unwrap_or_default().address;
        Ok(RunningPod { node, id, address, config })
    }

    /// Creates a member with an IOC whose records begin with `prefix`, and waits until it serves.
    pub fn ioc_pod(&self, node: usize, name: &str, prefix: &str) -> Result<RunningPod> {
        let pod = self.pod(node, &Wanted::member(name))?;
        self.start_ioc(&pod, "softIoc", prefix)?;
        Ok(pod)
    }

    /// Starts an IOC of this program in a pod, and waits until it serves.
    pub fn start_ioc(&self, pod: &RunningPod, program: &str, prefix: &str) -> Result<()> {
        self.start_ioc_with(pod, program, prefix, &[]).map(drop)
    }

    /// The same with an environment; returns the container's id.
    pub fn start_ioc_with(
        &self,
        pod: &RunningPod,
        program: &str,
        prefix: &str,
        variables: &[(&str, &str)],
    ) -> Result<String> {
        let macros = format!("P={prefix}");
        let mut config = restricted("ioc", &[program, "-S", "-m", &macros, "-d", "/ioc/demo.db"]);
        let variable = |(key, value): &(&str, &str)| Variable { key: (*key).into(), value: (*value).into() };
        config.variables = variables.iter().map(variable).collect();
        let id = self.run_container(pod, config)?;
        self.wait_for_log(pod, "ioc", |log| log.contains(SERVING))?;
        Ok(id)
    }

    /// Kills what runs in a container of a node, and waits until it has ended.
    pub fn kill_container(&self, node: usize, id: &str) -> Result<()> {
        self.exec(node, &format!("ctr --namespace k8s.io task kill --signal SIGKILL {id}"))?;
        wait_until("the end of a container", || {
            let tasks = self.exec(node, "ctr --namespace k8s.io task list")?;
            Ok(!tasks.lines().any(|line| line.starts_with(id) && line.contains("RUNNING")))
        })
    }

    /// Starts a program of the image in a container of a pod; returns the container's id.
    pub fn run(&self, pod: &RunningPod, container: &str, line: &[&str]) -> Result<String> {
        self.run_container(pod, restricted(container, line))
    }

    /// The same with what it has besides.
    pub fn run_with(
        &self,
        pod: &RunningPod,
        container: &str,
        line: &[&str],
        with: &Container<'_>,
    ) -> Result<String> {
        let mut config = restricted(container, line);
        let variable = |(key, value): &(&str, &str)| Variable { key: (*key).into(), value: (*value).into() };
        config.variables = with.variables.iter().map(variable).collect();
        config.mounts = with
            .directories
            .iter()
            .map(|directory| Mount {
                host_path: (*directory).into(),
                container_path: (*directory).into(),
                readonly: true,
                propagation: 0,
            })
            .collect();
        let security = config.linux.as_mut().and_then(|linux| linux.security.as_mut());
        if let Some(security) = security.filter(|_| !with.capabilities.is_empty()) {
            security.user = Some(Number { value: 0 });
            let add = with.capabilities.iter().map(|name| (*name).to_owned()).collect();
            security.capabilities = Some(Capabilities { add, drop: vec!["ALL".into()] });
        }
        self.run_container(pod, config)
    }

    /// Starts a container of a pod; returns its id.
    pub(super) fn run_container(&self, pod: &RunningPod, config: ContainerConfig) -> Result<String> {
        let id = self.cri(pod.node).create_container(&pod.id, config, &pod.config)?;
        self.cri(pod.node).start_container(&id)?;
        Ok(id)
    }

    /// What a container has printed, in the runtime's format.
    pub fn log(&self, pod: &RunningPod, container: &str) -> String {
        let path = format!("{}/{container}.log", pod.config.log_directory);
        fs::read_to_string(self.path(pod.node, &path)).unwrap_or_default()
    }

    /// Waits until a container's log satisfies `test`.
    pub fn wait_for_log(&self, pod: &RunningPod, container: &str, test: impl Fn(&str) -> bool) -> Result<()> {
        let start = Instant::now();
        while !test(&self.log(pod, container)) {
            if start.elapsed() > PATIENCE {
                let log = self.log(pod, container);
                return Err(Error::Timeout(format!("{}/{container}: it printed:\n{log}", pod.name())));
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Ok(())
    }

    /// Deletes a pod with its containers.
    pub fn delete(&self, pod: &RunningPod) -> Result<()> {
        self.cri(pod.node).stop_sandbox(&pod.id)?;
        self.cri(pod.node).remove_sandbox(&pod.id)
    }

    /// What kubelet gives the runtime for a pod.
    pub fn sandbox_config(&self, wanted: &Wanted<'_>) -> SandboxConfig {
        let Wanted { name, annotations, host_network, shares_processes, host_pid } = wanted;
        let annotations =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let network = if *host_network { HOST } else { 0 };
        let namespaces = Namespaces { network, pid: processes(*host_pid, *shares_processes) };
        SandboxConfig {
            metadata: Some(Metadata {
                name: (*name).into(),
                uid: format!("uid-{name}"),
                namespace: "beamline".into(),
            }),
            hostname: if *host_network { String::new() } else { (*name).into() },
            log_directory: format!("/var/log/pods/{name}"),
            annotations,
            linux: Some(LinuxSandbox {
                cgroup_parent: self.cgroups.parent(),
                security: Some(SandboxSecurity {
                    namespaces: Some(namespaces),
                    user: Some(Number { value: USER }),
                    seccomp: Some(Profile::default()),
                }),
            }),
        }
    }
}

/// A container as Pod Security *restricted* demands it, whose root cannot be written either.
fn restricted(name: &str, line: &[&str]) -> ContainerConfig {
    let security = ContainerSecurity {
        capabilities: Some(Capabilities { add: vec![], drop: vec!["ALL".into()] }),
        namespaces: Some(Namespaces { network: 0, pid: 1 }),
        user: Some(Number { value: USER }),
        readonly_root: true,
        no_new_privileges: true,
        seccomp: Some(Profile::default()),
        ..default_security()
    };
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into() }),
        image: Some(Image { image: IMAGE.into() }),
        command: line.iter().map(|word| (*word).to_owned()).collect(),
        arguments: vec![],
        variables: vec![],
        mounts: vec![],
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainer { resources: None, security: Some(security) }),
    }
}

/// What kubelet asks for in every container that is not privileged.
pub(super) fn default_security() -> ContainerSecurity {
    let masked = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"];
    let readonly = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
    ContainerSecurity {
        masked_paths: masked.map(Into::into).into(),
        readonly_paths: readonly.map(Into::into).into(),
        ..ContainerSecurity::default()
    }
}
