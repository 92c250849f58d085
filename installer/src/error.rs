//! What can go wrong in the agent, with messages that say what to do. Errors in the configuration are in `config`.

use std::{io, net::SocketAddr, path::PathBuf};

/// A failure of the agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The datapath failed.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// A pod may not be a member as it requests.
    #[error(transparent)]
    Membership(#[from] membership::Error),
    /// A domain's uplink is missing, or has no address.
    #[error("domain `{domain}`: {what}; set `uplink` to the node's interface on that LAN")]
    NoUplink { domain: String, what: String },
    /// The kernel may assign external ports to processes on the node.
    #[error("cannot reserve ports {ports} in {sysctl}: {source}; reserve them with sysctl on the node")]
    NotReserved { ports: String, sysctl: &'static str, source: io::Error },
    /// Metrics and probes cannot be served.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen { address: SocketAddr, source: io::Error },

    /// The page cannot be served.
    #[error("cannot serve the page: {what}: {reason}")]
    Page { what: String, reason: String },

    /// The container runtime does not answer.
    #[error(
        "cannot query the container runtime at {socket}: {cause}; until it answers, pods that started before iocast do not \
         join; pass its socket with --cri"
    )]
    Runtime { socket: PathBuf, cause: String },
    /// There is none to ask.
    #[error("there is no container runtime where one usually is; pass its socket with --cri")]
    NoRuntime,
    /// The processes of pods are those of another namespace.
    #[error(
        "processes of pods are not visible from here: run it with the node's process ids, as by kubectl apply -k \
         manifests/survey and kubectl iocast survey"
    )]
    NoProcesses,
    /// Its answer has more pages, which we do not read.
    #[error("the container runtime at {0} lists only some of its pods")]
    SomePods(PathBuf),
    /// It does not report a pod's network namespace.
    #[error("the runtime does not report the pod's network namespace")]
    NoNamespace,
    /// A pod's container id does not fit into its record.
    #[error("the container id of the pod is too long")]
    LongId,

    /// A file or directory of CNI cannot be read.
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    /// A network configuration cannot be written.
    #[error("cannot write {path}: {source}; the agent needs write access there")]
    Write { path: PathBuf, source: io::Error },
    /// The directory of network configurations cannot be watched.
    #[error("cannot watch {path}: {source}; changes are noticed with a delay")]
    Watch { path: PathBuf, source: io::Error },
    /// The plugin to install is missing.
    #[error("cannot read the plugin {path}: {source}; pass its path with --plugin")]
    NoPlugin { path: PathBuf, source: io::Error },
    /// The plugin cannot be installed where the runtime finds it.
    #[error(
        "cannot install the plugin in {directory}: {source}; pass the runtime's plugin directory with --cni-bin-dir"
    )]
    NotInstalled { directory: PathBuf, source: io::Error },
    /// The plugin does not run here.
    #[error("the plugin {path} does not answer CNI_COMMAND=VERSION: {found}; is it built for this node?")]
    NoAnswer { path: PathBuf, found: String },
    /// There is no network configuration to chain into.
    #[error("waiting for the primary CNI: {directory} {why}")]
    NoNetwork { directory: PathBuf, why: &'static str },
    /// The plugin cannot be chained into a network configuration.
    #[error("cannot chain into {path}: {reason}")]
    NotChained { path: PathBuf, reason: String },
    /// Another program undoes the removal.
    #[error("another program keeps putting iocast back into {0}: stop it first")]
    PutBack(PathBuf),
}
