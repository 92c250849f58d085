//! The pods of iocast's DaemonSets on a node, as kubelet makes it of the manifest: same image, arguments, privileges and
//! mounts. Image and manifests are those of this checkout, or of the release in the directory `$RELEASE`.

use std::{
    env,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{
    Cluster, RunningPod, Wanted,
    cri::{
        Capabilities, ContainerConfig, ContainerMetadata, ContainerSecurity, HOST, Image, LinuxContainer,
        Mount, Namespaces, Number, Profile, Resources, Variable, processes,
    },
    pod::default_security,
    project, wait_until,
};
use crate::{Error, Result, node::NODES, node::binary, start, tried};

/// Where the agent answers.
const ADDRESS: &str = "127.0.0.1:9402";

/// Where the image is that a node has built.
const ARCHIVE: &str = "/run/buildah/image.tar";
/// How many probes, of ten seconds each, an agent may take to start on a busy machine.
const PROBES: usize = 6;
/// Builds images on a node, in file systems that are gone with it.
const BUILDAH: &str = "buildah --root /run/buildah/root --runroot /run/buildah/run --storage-driver vfs";

/// A DaemonSet of the manifests.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    manifest: &'static str,
    released: &'static str,
}

impl Set {
    /// The agents.
    pub const AGENT: Self =
        Self { name: "iocast", manifest: "manifests/base/daemonset.yaml", released: "install-kubeadm.yaml" };
    /// Those that survey nodes.
    pub const SURVEY: Self =
        Self { name: "iocast-survey", manifest: "manifests/survey/daemonset.yaml", released: "survey.yaml" };

    /// The template of its pods, as `kubectl` would send it.
    fn spec(self) -> Result<Value> {
        let file =
            release().map_or_else(|| project().join(self.manifest), |release| release.join(self.released));
        Ok(manifest(&file)?["spec"]["template"]["spec"].clone())
    }
}

/// The release to try instead of this checkout.
fn release() -> Option<PathBuf> {
    Some(project().join(env::var_os("RELEASE")?))
}

/// What gives a node's runtime the released image under the names that it has in a registry: by its tag, and by its digest.
fn import(release: &Path, image: &str) -> [String; 2] {
    let tagged = image.split('@').next().unwrap_or_default();
    let (_, version) = tagged.rsplit_once(':').unwrap_or_default();
    let archive = release.join(format!("iocast-node-{version}.oci.tar"));
    [format!("import {}", archive.display()), format!("tag {tagged} {}", found(image))]
        .map(|line| format!("ctr --namespace k8s.io images {line}"))
}

impl Cluster {
    /// Builds the DaemonSet's image of its Containerfile, if there is no release, and gives it to a node's runtime, which could
    /// not pull it.
    pub fn load_daemonset_image(&self, node: usize) -> Result<()> {
        let image = text(&Set::AGENT.spec()?["containers"][0]["image"]);
        if let Some(release) = release() {
            return import(&release, &image).iter().try_for_each(|line| self.exec(node, line).map(drop));
        }
        if !Path::new("/usr/bin/buildah").exists() {
            return Err(Error::Missing("there is no /usr/bin/buildah: run `make lab-tools`".into()));
        }
        let project = project();
        let file = project.join("manifests/Containerfile");
        let (file, context) = (file.display(), binary("iocast-node")?);
        let context = context.parent().unwrap_or(&project).display();
        for line in [
            format!("{BUILDAH} bud --isolation chroot --pull-never --tag {image} --file {file} {context}"),
            format!("{BUILDAH} push {image} docker-archive:{ARCHIVE}:{image}"),
            format!("ctr --namespace k8s.io images import {ARCHIVE}"),
        ] {
            self.exec(node, &line)?;
        }
        Ok(())
    }

    /// Gives the image that one node has built to another.
    pub fn share_daemonset_image(&self, from: usize, to: usize) -> Result<()> {
        let archive = self.path(from, ARCHIVE);
        let image = tried(format!("read {}", archive.display()), std::fs::read(&archive))?;
        self.write(to, ARCHIVE, image)?;
        self.exec(to, &format!("ctr --namespace k8s.io images import {ARCHIVE}")).map(drop)
    }

    /// Creates a DaemonSet's pod on a node that has its image. Returns the pod and its container's id.
    pub fn pod_of(&self, node: usize, set: Set) -> Result<(RunningPod, String)> {
        let spec = set.spec()?;
        let is = |field: &str| spec[field] == true;
        let (host_network, host_pid) = (is("hostNetwork"), is("hostPID"));
        let pod = self.pod(node, &Wanted { host_network, host_pid, ..Wanted::plain(set.name) })?;
        let id = self.run_container(&pod, container(&spec, NODES[node])?)?;
        Ok((pod, id))
    }

    /// The same for the agent, which is probed, as kubelet does, until it is ready.
    pub fn daemonset(&self, node: usize) -> Result<(RunningPod, String)> {
        let (pod, id) = self.pod_of(node, Set::AGENT)?;
        let mut said = String::new();
        for _ in 0..PROBES {
            match self.probe(node, &id)? {
                (0, _) => return Ok((pod, id)),
                (_, reasons) => said = reasons,
            }
        }
        let log = self.log(&pod, "iocast");
        Err(Error::Timeout(format!("not ready; the probe printed:\n{said}\nand the agent:\n{log}")))
    }

    /// What the agent on a node answers to a GET, with its head; nothing while it does not listen.
    pub fn get(&self, node: usize, path: &str) -> Result<String> {
        let Ok(mut stream) = self.lab.sandbox.run_in(NODES[node], || TcpStream::connect(ADDRESS))? else {
            return Ok(String::new());
        };
        let mut answer = String::new();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nConnection: close\r\n\r\n");
        let read = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
        tried(format!("GET {path}"), read).map(|_| answer)
    }

    /// The DaemonSet's readiness probe, in its container: its exit code, and what it printed.
    pub fn probe(&self, node: usize, container: &str) -> Result<(i32, String)> {
        let spec = Set::AGENT.spec()?;
        let probe = &spec["containers"][0]["readinessProbe"];
        self.execute(node, container, &texts(&probe["exec"]["command"]).join(" "))
    }

    /// Runs a program in the container of the DaemonSet's pod, with its privileges: its exit code, and what it printed.
    /// The runtime could not: it enters the root of the mount namespace, which in the lab is the machine's.
    pub fn execute(&self, node: usize, container: &str, line: &str) -> Result<(i32, String)> {
        self.execute_in(node, Set::AGENT, container, line)
    }

    /// The same in the container of another DaemonSet's pod.
    pub fn execute_in(&self, node: usize, set: Set, container: &str, line: &str) -> Result<(i32, String)> {
        let entry = self.entry(node, set, container)?.join(" ");
        let finished = self.spawn(node, &format!("{entry} {line}"))?.finish()?;
        Ok((finished.status.code().unwrap_or(-1), finished.output))
    }

    /// What, before a program on a node, runs it in the container of a DaemonSet's pod.
    fn entry(&self, node: usize, set: Set, container: &str) -> Result<Vec<String>> {
        let tasks = self.exec(node, "ctr --namespace k8s.io task list")?;
        let task = tasks.lines().find_map(|line| line.strip_prefix(container)?.split_whitespace().next());
        let first = task.ok_or_else(|| Error::Missing(format!("no container {container}:\n{tasks}")))?;
        // Until the container's own program runs, the process is the runtime's, which lets nobody in.
        wait_until("the container's program", || {
            let exe = self.exec(node, &format!("readlink /proc/{first}/exe"));
            Ok(!exe.is_ok_and(|exe| exe.contains("runc")))
        })?;
        let spec = &set.spec()?["containers"][0];
        let variables = variables(spec, NODES[node]);
        let added = texts(&spec["securityContext"]["capabilities"]["add"]);
        let added: String = added.iter().map(|name| format!(",+{}", name.to_lowercase())).collect();
        let privileges = format!("--bounding-set=-all{added},+sys_chroot");
        let words = ["setpriv", &privileges, "--no-new-privs", "env"].map(str::to_owned).into_iter();
        let words = words.chain(variables.iter().map(|Variable { key, value }| format!("{key}={value}")));
        Ok(words.chain(["chroot".into(), format!("/proc/{first}/root")]).collect())
    }

    /// The same before a program outside, in the sandbox.
    pub fn entry_from_outside(&self, node: usize, set: Set, container: &str) -> Result<Vec<String>> {
        let network = format!("--net=/run/netns/{}", NODES[node]);
        let enter = ["nsenter", &network].into_iter().chain(self.nodes[node].host.entry());
        Ok(enter.map(str::to_owned).chain(self.entry(node, set, container)?).collect())
    }
}

/// The DaemonSet in a manifest.
fn manifest(path: &Path) -> Result<Value> {
    let file = tried(format!("open {}", path.display()), std::fs::File::open(path))?;
    let mut command = Command::new("/usr/bin/python3");
    command.arg(project().join("tests/kubernetes.py")).arg("yaml");
    command.env("PYTHONPATH", project().join("target/lab/kubernetes")).stdin(file).stderr(Stdio::inherit());
    let output = start(command.stdout(Stdio::piped())).and_then(std::process::Child::wait_with_output);
    let output = tried("run kubernetes.py", output)?;
    let objects: Vec<Value> = serde_json::from_slice(&output.stdout)
        .map_err(|error| Error::Missing(format!("{}: {error}", path.display())))?;
    let set = objects.into_iter().find(|object| object["kind"] == "DaemonSet");
    set.ok_or_else(|| Error::Missing(format!("{}: no DaemonSet", path.display())))
}

/// The environment that kubelet gives a container on a node: what its manifest says, or names of the node.
fn variables(container: &Value, node: &str) -> Vec<Variable> {
    let variables = container["env"].as_array().cloned().unwrap_or_default();
    let variable = |variable: &Value| {
        let is_node = variable["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName";
        let value = if is_node { node.to_owned() } else { text(&variable["value"]) };
        Variable { key: text(&variable["name"]), value }
    };
    variables.iter().map(variable).collect()
}

/// The name by which kubelet has a container made, once the runtime has found its image: beside a digest a tag says nothing.
fn found(image: &str) -> String {
    let Some((tagged, digest)) = image.split_once('@') else { return image.into() };
    let name = tagged.rsplit_once(':').map_or(tagged, |(name, _)| name);
    format!("{name}@{digest}")
}

/// What kubelet makes of the only container of a pod's `spec` on a node.
pub(super) fn container(spec: &Value, node: &str) -> Result<ContainerConfig> {
    let container = &spec["containers"][0];
    let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: text(&container["name"]) }),
        image: Some(Image { image: found(&text(&container["image"])) }),
        command: texts(&container["command"]),
        arguments: texts(&container["args"]),
        variables: variables(container, node),
        mounts: mounts.iter().map(|mount| volume(spec, mount)).collect(),
        log_path: format!("{}.log", text(&container["name"])),
        linux: Some(LinuxContainer {
            resources: Some(Resources { memory_limit: bytes(&container["resources"]["limits"]["memory"])? }),
            security: Some(security(spec, &container["securityContext"])),
        }),
    })
}

/// A mount of a volume: a path of the node, or the ConfigMap, which is the directory of the same name on the lab's nodes.
fn volume(spec: &Value, mount: &Value) -> Mount {
    let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    let source = volumes.iter().find(|volume| volume["name"] == mount["name"]);
    let host_path = source.and_then(|volume| volume["hostPath"]["path"].as_str());
    let container_path = text(&mount["mountPath"]);
    Mount {
        host_path: host_path.map_or_else(|| container_path.clone(), Into::into),
        container_path,
        readonly: mount["readOnly"] == true,
        propagation: i32::from(mount["mountPropagation"] == "HostToContainer"),
    }
}

/// The privileges of a container; what it does not say itself, its pod does.
fn security(spec: &Value, context: &Value) -> ContainerSecurity {
    let capabilities = &context["capabilities"];
    let effective = |field: &str| match &context[field] {
        Value::Null => &spec["securityContext"][field],
        own => own,
    };
    let is = |field: &str| spec[field] == true;
    let network = if is("hostNetwork") { HOST } else { 0 };
    ContainerSecurity {
        capabilities: Some(Capabilities {
            add: texts(&capabilities["add"]),
            drop: texts(&capabilities["drop"]),
        }),
        namespaces: Some(Namespaces { network, pid: processes(is("hostPID"), is("shareProcessNamespace")) }),
        user: effective("runAsUser").as_i64().map(|value| Number { value }),
        readonly_root: context["readOnlyRootFilesystem"] == true,
        no_new_privileges: context["allowPrivilegeEscalation"] == false,
        seccomp: (effective("seccompProfile")["type"] == "RuntimeDefault").then(Profile::default),
        ..default_security()
    }
}

/// A quantity of memory in mebibytes; 0 if there is none.
fn bytes(quantity: &Value) -> Result<i64> {
    let Some(quantity) = quantity.as_str() else { return Ok(0) };
    let mebibytes = quantity.strip_suffix("Mi").and_then(|number| number.parse::<i64>().ok());
    let unknown = || Error::Missing(format!("`{quantity}`: the lab reads limits in Mi only"));
    Ok(mebibytes.ok_or_else(unknown)? << 20)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().map(|values| values.iter().map(text).collect()).unwrap_or_default()
}
