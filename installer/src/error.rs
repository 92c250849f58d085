//! What can go wrong in the agent, said so that a person knows what to do. The configuration's errors are in `config`.

use std::{io, net::SocketAddr, path::PathBuf};

/// A failure of the agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The datapath failed.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// A pod may not be a member as it asks.
    #[error(transparent)]
    Membership(#[from] membership::Error),
    /// A domain's uplink is not there, or has no address.
    #[error("domain `{domain}`: {what}; set `uplink` to the node's interface on that LAN")]
    NoUplink { domain: String, what: String },
    /// The kernel may give external ports to processes of the node.
    #[error("cannot reserve ports {ports} in {sysctl}: {source}; reserve them by sysctl on the node")]
    NotReserved { ports: String, sysctl: &'static str, source: io::Error },
    /// Metrics and probes cannot be served.
    #[error("cannot listen on {address}: {source}; choose another with --listen")]
    Listen { address: SocketAddr, source: io::Error },

    /// The container runtime does not answer.
    #[error(
        "cannot ask the container runtime at {socket}: {cause}; pods that started before iocast are no members until then; \
         name its socket with --cri"
    )]
    Runtime { socket: PathBuf, cause: String },
    /// Its answer goes on where we do not read.
    #[error("the container runtime at {0} tells its pods only in part")]
    SomePods(PathBuf),
    /// It does not say in which network namespace a pod is.
    #[error("the runtime does not tell its network namespace")]
    NoNamespace,
    /// A pod's id does not fit a record.
    #[error("its id is too long")]
    LongId,

    /// A file or directory of CNI cannot be read.
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    /// A network configuration cannot be written.
    #[error("cannot write {path}: {source}; the agent needs to write there")]
    Write { path: PathBuf, source: io::Error },
    /// The directory of network configurations cannot be watched.
    #[error("cannot watch {path}: {source}; changes are seen with a delay")]
    Watch { path: PathBuf, source: io::Error },
    /// The plugin to install is not there.
    #[error("cannot read the plugin {path}: {source}; name it with --plugin")]
    NoPlugin { path: PathBuf, source: io::Error },
    /// The plugin cannot be put where the runtime finds it.
    #[error("cannot install the plugin in {directory}: {source}; name the runtime's with --cni-bin-dir")]
    NotInstalled { directory: PathBuf, source: io::Error },
    /// The plugin does not run here.
    #[error("the plugin {path} does not answer to CNI_COMMAND=VERSION: {found}; is it built for this node?")]
    NoAnswer { path: PathBuf, found: String },
    /// There is no network to be chained into.
    #[error("waiting for the primary CNI: {directory} {why}")]
    NoNetwork { directory: PathBuf, why: &'static str },
    /// A network configuration cannot have us in its chain.
    #[error("cannot chain into {path}: {reason}")]
    NotChained { path: PathBuf, reason: String },
    /// Somebody undoes our leaving.
    #[error("another program keeps putting iocast back into {0}: end it first")]
    PutBack(PathBuf),
}
