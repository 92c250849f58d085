//! A client of the container runtime interface (CRI, `runtime.v1`), as kubelet is one.
//!
//! Messages hold only the fields that are used here; numbers are those of `pkg/apis/runtime/v1/api.proto` in
//! kubernetes/cri-api. Protocol buffers ignore what they do not know, so this speaks to every runtime.

use std::{collections::HashMap, path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{Error, Result, tried};

/// As long as kubelet waits.
const PATIENCE: Duration = Duration::from_secs(120);

/// `PodSandboxMetadata`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Metadata {
    /// The pod's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The pod's UID.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// The pod's namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
}

/// `PodSandboxConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct SandboxConfig {
    /// Which pod it is.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    /// Its host name.
    #[prost(string, tag = "2")]
    pub hostname: String,
    /// Where its containers' logs are.
    #[prost(string, tag = "3")]
    pub log_directory: String,
    /// Its annotations.
    #[prost(map = "string,string", tag = "7")]
    pub annotations: HashMap<String, String>,
    /// What is Linux's.
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxSandbox>,
}

/// `LinuxPodSandboxConfig`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LinuxSandbox {
    /// The cgroup above the pod's.
    #[prost(string, tag = "1")]
    pub cgroup_parent: String,
    /// The sandbox's privileges.
    #[prost(message, optional, tag = "2")]
    pub security: Option<SandboxSecurity>,
}

/// `LinuxSandboxSecurityContext`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SandboxSecurity {
    /// Namespaces.
    #[prost(message, optional, tag = "1")]
    pub namespaces: Option<Namespaces>,
    /// Its user.
    #[prost(message, optional, tag = "3")]
    pub user: Option<Number>,
    /// System calls allowed.
    #[prost(message, optional, tag = "9")]
    pub seccomp: Option<Profile>,
}

/// `NamespaceOption`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Namespaces {
    /// 0: the pod's own network, [`HOST`]: the node's.
    #[prost(int32, tag = "1")]
    pub network: i32,
    /// 0: the pod's processes, 1: a container's own, [`HOST`]: the node's.
    #[prost(int32, tag = "2")]
    pub pid: i32,
}

/// `NamespaceMode::NODE`.
pub const HOST: i32 = 2;

/// Whose processes a container sees: the node's, its pod's, or its own.
pub fn processes(of_node: bool, of_pod: bool) -> i32 {
    if of_node { HOST } else { i32::from(!of_pod) }
}

/// `Int64Value`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Number {
    /// The number.
    #[prost(int64, tag = "1")]
    pub value: i64,
}

/// `SecurityProfile`; the default is the runtime's own.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Profile {
    /// 0: the runtime's default.
    #[prost(int32, tag = "1")]
    pub kind: i32,
}

/// `ContainerConfig`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ContainerConfig {
    /// Its name.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ContainerMetadata>,
    /// Its image.
    #[prost(message, optional, tag = "2")]
    pub image: Option<Image>,
    /// Its command; the image's if empty.
    #[prost(string, repeated, tag = "3")]
    pub command: Vec<String>,
    /// What follows the command.
    #[prost(string, repeated, tag = "4")]
    pub arguments: Vec<String>,
    /// Its environment, besides the image's.
    #[prost(message, repeated, tag = "6")]
    pub variables: Vec<Variable>,
    /// What it sees of the node's files.
    #[prost(message, repeated, tag = "7")]
    pub mounts: Vec<Mount>,
    /// Its log below the pod's log directory.
    #[prost(string, tag = "11")]
    pub log_path: String,
    /// What is Linux's.
    #[prost(message, optional, tag = "15")]
    pub linux: Option<LinuxContainer>,
}

/// `KeyValue`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Variable {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `ContainerMetadata`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ContainerMetadata {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// `ImageSpec`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Image {
    /// Its name.
    #[prost(string, tag = "1")]
    pub image: String,
}

/// `Mount`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Mount {
    /// Where the container sees it.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Where it is on the node.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Whether it cannot be written.
    #[prost(bool, tag = "3")]
    pub readonly: bool,
    /// 1: later mounts of the node appear in it (HostToContainer).
    #[prost(int32, tag = "5")]
    pub propagation: i32,
}

/// `LinuxContainerConfig`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LinuxContainer {
    /// Its limits.
    #[prost(message, optional, tag = "1")]
    pub resources: Option<Resources>,
    /// Its privileges.
    #[prost(message, optional, tag = "2")]
    pub security: Option<ContainerSecurity>,
}

/// `LinuxContainerResources`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Resources {
    /// Bytes; 0: no limit.
    #[prost(int64, tag = "4")]
    pub memory_limit: i64,
}

/// `LinuxContainerSecurityContext`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ContainerSecurity {
    /// Capabilities.
    #[prost(message, optional, tag = "1")]
    pub capabilities: Option<Capabilities>,
    /// Namespaces.
    #[prost(message, optional, tag = "3")]
    pub namespaces: Option<Namespaces>,
    /// Its user.
    #[prost(message, optional, tag = "5")]
    pub user: Option<Number>,
    /// Whether its image cannot be written.
    #[prost(bool, tag = "7")]
    pub readonly_root: bool,
    /// Whether it cannot gain privileges.
    #[prost(bool, tag = "11")]
    pub no_new_privileges: bool,
    /// Paths that are hidden.
    #[prost(string, repeated, tag = "13")]
    pub masked_paths: Vec<String>,
    /// Paths that cannot be written.
    #[prost(string, repeated, tag = "14")]
    pub readonly_paths: Vec<String>,
    /// System calls allowed.
    #[prost(message, optional, tag = "15")]
    pub seccomp: Option<Profile>,
}

/// `Capability`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Capabilities {
    /// Added.
    #[prost(string, repeated, tag = "1")]
    pub add: Vec<String>,
    /// Dropped; "ALL" is all.
    #[prost(string, repeated, tag = "2")]
    pub drop: Vec<String>,
}

/// What `ContainerStatus` tells.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ContainerStatus {
    /// 2: it has ended.
    #[prost(int32, tag = "3")]
    pub state: i32,
    /// Its program's exit code, or 128 and the signal's number.
    #[prost(int32, tag = "7")]
    pub exit_code: i32,
}

/// What `PodSandboxStatus` tells.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SandboxStatus {
    /// 0: ready.
    #[prost(int32, tag = "3")]
    pub state: i32,
    /// Its network.
    #[prost(message, optional, tag = "5")]
    pub network: Option<SandboxNetwork>,
}

/// `PodSandboxNetworkStatus`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SandboxNetwork {
    /// Its first address.
    #[prost(string, tag = "1")]
    pub address: String,
}

/// `PodSandbox`, as `ListPodSandbox` returns it.
#[derive(Clone, PartialEq, Message)]
pub struct Listed {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Which pod it is.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<Metadata>,
    /// 0: ready.
    #[prost(int32, tag = "3")]
    pub state: i32,
    /// Its annotations.
    #[prost(map = "string,string", tag = "6")]
    pub annotations: HashMap<String, String>,
}

/// `RuntimeCondition`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Condition {
    /// `RuntimeReady` or `NetworkReady`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Whether it is so.
    #[prost(bool, tag = "2")]
    pub status: bool,
    /// Why it is not.
    #[prost(string, tag = "4")]
    pub message: String,
}

/// What `Version` tells.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Version {
    /// The runtime's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The runtime's version.
    #[prost(string, tag = "3")]
    pub version: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<SandboxConfig>,
}

/// A request or an answer that holds an id and nothing else.
#[derive(Clone, PartialEq, Eq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct CreateRequest {
    #[prost(string, tag = "1")]
    sandbox: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<SandboxConfig>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct StopRequest {
    #[prost(string, tag = "1")]
    container: String,
    /// Seconds until it is killed.
    #[prost(int64, tag = "2")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<SandboxStatus>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ContainerStatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<ContainerStatus>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct RuntimeStatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Message)]
struct ListAnswer {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Listed>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Empty {}

/// A runtime's socket. It need not be there yet, and may go and come back.
#[derive(Debug)]
pub struct Cri {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Cri {
    /// The runtime that listens at `socket`.
    pub fn new(socket: &Path) -> Result<Self> {
        let runtime = tried(
            "start a runtime",
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build(),
        )?;
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let _entered = runtime.enter();
        let channel = Endpoint::from_static("http://localhost")
            .timeout(PATIENCE)
            .connect_with_connector_lazy(connector);
        Ok(Self { runtime, channel })
    }

    /// Which runtime it is.
    pub fn version(&self) -> Result<Version> {
        self.call("Version", Empty {})
    }

    /// Whether runtime and network are ready.
    pub fn conditions(&self) -> Result<Vec<Condition>> {
        let answer: RuntimeStatusAnswer = self.call("Status", Empty {})?;
        Ok(answer.status.unwrap_or_default().conditions)
    }

    /// Creates a pod's sandbox, with its network; returns its id.
    pub fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        let created: Id = self.call("RunPodSandbox", RunRequest { config: Some(config.clone()) })?;
        Ok(created.id)
    }

    /// Ends a pod's containers and its network.
    pub fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.call("StopPodSandbox", Id { id: id.into() }).map(|Empty {}| ())
    }

    /// Removes what is left of a stopped pod.
    pub fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.call("RemovePodSandbox", Id { id: id.into() }).map(|Empty {}| ())
    }

    /// What is known of a sandbox.
    pub fn sandbox_status(&self, id: &str) -> Result<SandboxStatus> {
        let answer: StatusAnswer = self.call("PodSandboxStatus", Id { id: id.into() })?;
        Ok(answer.status.unwrap_or_default())
    }

    /// All sandboxes, also those that are not ready.
    pub fn sandboxes(&self) -> Result<Vec<Listed>> {
        let answer: ListAnswer = self.call("ListPodSandbox", Empty {})?;
        Ok(answer.items)
    }

    /// Creates a container in a sandbox; returns its id.
    pub fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: &SandboxConfig,
    ) -> Result<String> {
        let (config, sandbox_config) = (Some(config), Some(sandbox_config.clone()));
        let request = CreateRequest { sandbox: sandbox.into(), config, sandbox_config };
        let created: Id = self.call("CreateContainer", request)?;
        Ok(created.id)
    }

    /// Starts a container.
    pub fn start_container(&self, id: &str) -> Result<()> {
        self.call("StartContainer", Id { id: id.into() }).map(|Empty {}| ())
    }

    /// What is known of a container.
    pub fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let answer: ContainerStatusAnswer = self.call("ContainerStatus", Id { id: id.into() })?;
        Ok(answer.status.unwrap_or_default())
    }

    /// Ends a container: asked to, and killed after so many seconds.
    pub fn stop_container(&self, id: &str, timeout: i64) -> Result<()> {
        self.call("StopContainer", StopRequest { container: id.into(), timeout }).map(|Empty {}| ())
    }

    fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let answer = self.runtime.block_on(self.unary(method, request));
        answer.map_err(|status| Error::Command { command: method.into(), output: status.message().into() })
    }

    async fn unary<Q, A>(&self, method: &str, request: Q) -> Result<A, Status>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_maybe_shared(format!("/runtime.v1.RuntimeService/{method}"));
        let path = path.map_err(|error| Status::internal(error.to_string()))?;
        let codec = ProstCodec::<Q, A>::default();
        Ok(client.unary(Request::new(request), path, codec).await?.into_inner())
    }
}
