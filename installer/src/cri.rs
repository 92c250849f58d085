//! What the container runtime knows of its pods, over the Container Runtime Interface (CRI, `runtime.v1`).
//!
//! Messages hold only the fields that are used here; their numbers are those of `pkg/apis/runtime/v1/api.proto` in
//! kubernetes/cri-api. Nothing is ever changed in the runtime.

use std::{
    collections::HashMap,
    error,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use membership::{address, annotation, prefixes};
use prost::Message;
use serde_json::Value;
use tokio::{net::UnixStream, runtime};
use tonic::{
    Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::error::Error;

/// Timeout of each query. The runtime answers from its own memory.
const PATIENCE: Duration = Duration::from_secs(10);
/// Annotations can be long, and a node can have many pods: the same limit as kubelet's.
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;
/// `SANDBOX_READY`.
const READY: i32 = 0;
/// `CONTAINER_RUNNING`.
const RUNNING: i32 = 1;
/// `NamespaceMode::NODE`.
const OF_NODE: i32 = 2;

#[derive(Clone, PartialEq, Eq, Message)]
struct ListPodSandboxRequest {}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
    /// Not empty if there are more.
    #[prost(string, tag = "2")]
    next_page_token: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(map = "string, string", tag = "6")]
    annotations: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct PodSandboxStatusRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(bool, tag = "2")]
    verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct PodSandboxStatus {
    #[prost(message, optional, tag = "6")]
    linux: Option<LinuxPodSandboxStatus>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct LinuxPodSandboxStatus {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<Namespace>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Namespace {
    #[prost(message, optional, tag = "2")]
    options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct NamespaceOption {
    #[prost(int32, tag = "1")]
    network: i32,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ListContainersRequest {}

#[derive(Clone, PartialEq, Eq, Message)]
struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Container>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    pod_sandbox_id: String,
    #[prost(int32, tag = "6")]
    state: i32,
}

/// A pod as the runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// The container id in CNI.
    pub(crate) id: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ready: bool,
    /// The domain that it requests to join.
    pub(crate) domain: Option<String>,
    /// The external ports that it pins.
    pub(crate) ports: String,
    /// The address on the LAN that it asks for.
    pub(crate) address: Option<String>,
    /// How the names of its PVs begin, as it says.
    pub(crate) pvs: Option<String>,
}

/// A connection to the runtime.
pub(crate) struct Cri {
    runtime: runtime::Runtime,
    channel: Channel,
    socket: PathBuf,
}

impl Cri {
    /// Connects to the runtime that listens at `socket`.
    pub(crate) fn connect(socket: &Path) -> Result<Self, Error> {
        let fault = |error: &dyn error::Error| fault(socket, error);
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().map_err(|error| fault(&error))?;
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is not used: the connector has its own.
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(PATIENCE).timeout(PATIENCE);
        let channel =
            runtime.block_on(endpoint.connect_with_connector(connector)).map_err(|error| fault(&error))?;
        Ok(Self { runtime, channel, socket: socket.into() })
    }

    /// All pods that the runtime knows, ready or not.
    pub(crate) fn sandboxes(&self) -> Result<Vec<Sandbox>, Error> {
        let answer: ListPodSandboxResponse = self.ask("ListPodSandbox", ListPodSandboxRequest {})?;
        if !answer.next_page_token.is_empty() {
            return Err(Error::SomePods(self.socket.clone()));
        }
        Ok(answer.items.into_iter().map(Sandbox::from).collect())
    }

    /// All containers that run: their ids, and those of their pods.
    pub(crate) fn containers(&self) -> Result<Vec<(String, String)>, Error> {
        let answer: ListContainersResponse = self.ask("ListContainers", ListContainersRequest {})?;
        let running = answer.containers.into_iter().filter(|container| container.state == RUNNING);
        Ok(running.map(|container| (container.id, container.pod_sandbox_id)).collect())
    }

    /// The network namespace of the pod with this id; none if it uses the node's.
    pub(crate) fn netns(&self, id: &str) -> Result<Option<PathBuf>, Error> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
        netns(&self.ask("PodSandboxStatus", request)?)
    }

    fn ask<Q, A>(&self, method: &str, request: Q) -> Result<A, Error>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.runtime.block_on(self.call(method, request)).map_err(|status| fault(&self.socket, &status))
    }

    async fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER);
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_maybe_shared(format!("/runtime.v1.RuntimeService/{method}"))
            .map_err(|error| Status::internal(error.to_string()))?;
        let codec = ProstCodec::<Q, A>::default();
        Ok(client.unary(Request::new(request), path, codec).await?.into_inner())
    }
}

/// What is wrong with the runtime at `socket`: the error's root cause is the most specific.
fn fault(socket: &Path, error: &dyn error::Error) -> Error {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Error::Runtime { socket: socket.into(), cause: cause.to_string() }
}

impl Sandbox {
    /// The address on the LAN that it asks for; an error if it cannot be read.
    pub(crate) fn address(&self) -> Result<Option<Ipv4Addr>, membership::Error> {
        self.address.as_ref().map(|text| address::parse(text, &self.name)).transpose()
    }

    /// How the names of its PVs begin; empty if it does not say so, an error if it cannot be read.
    pub(crate) fn prefixes(&self) -> Result<Vec<String>, membership::Error> {
        self.pvs.as_deref().map_or(Ok(vec![]), prefixes::parse)
    }
}

impl From<PodSandbox> for Sandbox {
    fn from(mut sandbox: PodSandbox) -> Self {
        let PodSandboxMetadata { name, namespace } = sandbox.metadata.unwrap_or_default();
        Self {
            id: sandbox.id,
            namespace,
            name,
            ready: sandbox.state == READY,
            domain: sandbox.annotations.remove(annotation::DOMAIN),
            ports: sandbox.annotations.remove(annotation::PORTS).unwrap_or_default(),
            address: sandbox.annotations.remove(annotation::ADDRESS),
            pvs: sandbox.annotations.remove(annotation::PVS),
        }
    }
}

/// The network namespace in a verbose status; none if it is the node's.
fn netns(answer: &PodSandboxStatusResponse) -> Result<Option<PathBuf>, Error> {
    let linux = answer.status.clone().unwrap_or_default().linux.unwrap_or_default();
    let options = linux.namespaces.unwrap_or_default().options.unwrap_or_default();
    if options.network == OF_NODE {
        return Ok(None);
    }
    let info = answer.info.get("info").map(String::as_str).unwrap_or_default();
    let info: Value = serde_json::from_str(info).unwrap_or_default();
    match in_spec(&info["runtimeSpec"]).or(info["sandboxMetadata"]["Metadata"]["NetNSPath"].as_str()) {
        // /var/run is a link to /run everywhere, except in an image without it.
        Some(path) => Ok(Some(
            path.strip_prefix("/var").filter(|path| path.starts_with("/run/")).unwrap_or(path).into(),
        )),
        None => Err(Error::NoNamespace),
    }
}

/// The path of the network namespace in an OCI specification, which containerd and CRI-O report, and crun records.
pub(crate) fn in_spec(spec: &Value) -> Option<&str> {
    let mut namespaces = spec["linux"]["namespaces"].as_array()?.iter();
    let network = namespaces.find(|namespace| namespace["type"] == "network")?;
    network["path"].as_str().filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(network: i32, info: &str) -> PodSandboxStatusResponse {
        let options = Some(NamespaceOption { network });
        let linux = LinuxPodSandboxStatus { namespaces: Some(Namespace { options }) };
        let status = Some(PodSandboxStatus { linux: Some(linux) });
        PodSandboxStatusResponse { status, info: [("info".to_owned(), info.to_owned())].into() }
    }

    #[test]
    fn the_namespace_is_in_the_specification() {
        let info = r#"{"pid":1,"runtimeSpec":{"linux":{"namespaces":[{"type":"pid"},
            {"type":"network","path":"/var/run/netns/cni-1"}]}}}"#;
        assert_eq!(netns(&status(0, info)).unwrap(), Some("/run/netns/cni-1".into()));
    }

    #[test]
    fn or_in_the_metadata_of_newer_runtimes() {
        let info = r#"{"runtimeSpec":null,"sandboxMetadata":{"Metadata":{"NetNSPath":"/run/netns/cni-2"}}}"#;
        assert_eq!(netns(&status(0, info)).unwrap(), Some("/run/netns/cni-2".into()));
    }

    #[test]
    fn a_pod_of_the_nodes_network_has_none() {
        assert_eq!(netns(&status(OF_NODE, r#"{"runtimeSpec":{"linux":{}}}"#)).unwrap(), None);
    }

    #[test]
    fn an_answer_without_it_is_a_fault() {
        for info in ["", "[]", "{}", r#"{"runtimeSpec":{"linux":{"namespaces":[{"type":"network"}]}}}"#] {
            assert!(netns(&status(0, info)).is_err(), "{info}");
        }
    }
}
