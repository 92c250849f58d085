//! What can go wrong between user space and the kernel, with messages that say what to do.

use std::{io, net::Ipv4Addr, path::PathBuf};

use nix::errno::Errno;

use crate::printable;

/// What aya puts before the verifier's log.
const VERIFIER: &str = "Verifier output:";

/// A failure of the datapath's user space.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A pin is missing: no agent has loaded the datapath since the node booted.
    #[error("the datapath is not loaded: {0} is missing; is `iocast-node run` running on this node?")]
    NotLoaded(PathBuf),
    /// The directory for pins is not on a BPF file system.
    #[error(
        "{0} is not a BPF file system; mount one there (mount -t bpf bpf {0}) or pass another with --bpffs"
    )]
    NotBpffs(PathBuf),
    /// Somebody else could replace what is pinned.
    #[error(
        "{path} {found}; remove it, and mount the BPF file system with mode=0700, as systemd does, so that only root can \
         write to it"
    )]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// The kernel refuses BPF to this user.
    #[error("{0}: not permitted; run as root, or with CAP_BPF and CAP_NET_ADMIN")]
    NotPermitted(String),
    /// The kernel refuses packets of our own making to this user.
    #[error("cannot send ARP to {interface}: not permitted; run as root, or with CAP_NET_RAW")]
    NoPackets {
        /// The interface.
        interface: String,
    },
    /// The kernel joins no more groups for addresses.
    #[error(
        "{device} cannot join the group {group}: the kernel joins no more; raise net.ipv4.igmp_max_memberships (20), or \
         relay fewer groups"
    )]
    GroupsJoined {
        /// The interface.
        device: String,
        /// The group.
        group: Ipv4Addr,
    },
    /// The kernel lacks something the programs call.
    #[error("this kernel lacks {}: iocast needs Linux 5.17 or newer, or a kernel with these backported", .0.join(", "))]
    MissingFeatures(Vec<&'static str>),
    /// A map pinned by another version of iocast has another layout.
    #[error(
        "{path} does not have the layout that this version expects ({reason}); uninstall the version that pinned it"
    )]
    ForeignMap {
        /// The pin.
        path: PathBuf,
        /// What aya found.
        reason: String,
    },
    /// A later version of iocast has pinned its own maps: this one cannot know what is in them.
    #[error(
        "{path} is from a later version of iocast, whose members this one cannot take over. What that version has loaded goes on \
         working; install it again. To go back to this one, run that version's `iocast-node uninstall`, which ends its \
         members' connections, and delete these pods"
    )]
    LaterVersion {
        /// The pin directory.
        path: PathBuf,
    },
    /// All slots of a domain are taken.
    #[error("domain `{domain}` is full: it has {limit} members on this node, the maximum")]
    DomainFull {
        /// The domain.
        domain: String,
        /// Its limit.
        limit: u32,
    },
    /// A pod declares more than is kept.
    #[error("the beginnings of names that the pod declares have more than {} bytes together", abi::DECLARED)]
    LongPrefixes,
    /// A pod pins an external port that another one has.
    #[error(
        "external port {protocol}/{port} is taken by pod {holder}: request another one, or delete that pod"
    )]
    PortTaken {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The port.
        port: u16,
        /// Who has it.
        holder: String,
    },
    /// A pod pins an external port that is kept for the servers of a deleted one.
    #[error(
        "external port {protocol}/{port} is kept for a pod that was deleted, for {seconds} s more: request another one, or wait"
    )]
    PortKept {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The port.
        port: u16,
        /// How long it is kept.
        seconds: u32,
    },
    /// A pinned port cannot follow the uplink to another address.
    #[error("pinned port {port} cannot follow the uplink to {address}, and does not work: {reason}")]
    PinLeft {
        /// The port.
        port: u16,
        /// The uplink's address.
        address: Ipv4Addr,
        /// Why not.
        reason: String,
    },
    /// A domain's pods have pinned as many ports as they may.
    #[error("the domain's pods have pinned {limit} ports on this node, the maximum")]
    PinsTaken {
        /// The limit.
        limit: u32,
    },
    /// The address that a pod requests is another host's.
    #[error(
        "the LAN address {address} is in use by the host with the MAC address {}: request another one, or release it there",
        printable::mac(*mac)
    )]
    AddressInUse {
        /// The address.
        address: Ipv4Addr,
        /// The host.
        mac: [u8; 6],
    },
    /// The address that a pod reserved became another pod's.
    #[error("the LAN address {address} became another pod's meanwhile: try again")]
    AddressGone {
        /// The address.
        address: Ipv4Addr,
    },
    /// Somebody else has set a route to the address that a pod requests.
    #[error(
        "the node has a route to {address} already, which is not iocast's: remove it, or request another address"
    )]
    RouteTaken {
        /// The address.
        address: Ipv4Addr,
    },
    /// A domain without an uplink is on no LAN.
    #[error(
        "the domain `{0}` has no uplink at the moment, so it has no LAN addresses; see `iocast-node doctor`"
    )]
    NoUplink(String),
    /// The agent has loaded the datapath and has not configured it yet, or its configuration has no domain.
    #[error(
        "no domain is configured on this node yet: `iocast-node run` is starting, or has none to configure; try again"
    )]
    NotConfigured,
    /// No domain of this name is configured, but others are.
    #[error("the domain `{name}` is not configured on this node (configured: {known})")]
    NoSuchDomain {
        /// The name.
        name: String,
        /// The configured ones.
        known: String,
    },
    /// What should be a pod's network namespace is something else.
    #[error("{path} {why}")]
    NotNetns {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The pod's network is of a kind that is not supported.
    #[error("{0}")]
    UnsuitedPod(String),
    /// Another process holds the lock and does not release it.
    #[error("{holder} keeps {path} locked; if it hangs, end it")]
    Busy {
        /// What is locked.
        path: PathBuf,
        /// The process, if it is known.
        holder: String,
    },
    /// A call to the kernel failed.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried, naming the thing.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An operation on a program or a map failed.
    #[error("{what}: {reason}")]
    Bpf {
        /// What was tried, naming the thing.
        what: String,
        /// aya's account of it.
        reason: String,
    },
}

impl Error {
    /// A failed call to the kernel.
    pub(crate) fn kernel(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let (what, source) = (what.into(), source.into());
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted(what),
            _ => Self::Kernel { what, source },
        }
    }

    /// Whether the kernel refused because a capability is missing.
    pub(crate) fn is_not_permitted(&self) -> bool {
        matches!(self, Self::NotPermitted(_))
    }

    /// A failed operation of aya, with the whole chain of causes.
    pub(crate) fn bpf(what: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let what = what.into();
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let errno =
                error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error).map(Errno::from_raw);
            // The verifier also returns EACCES for a program that it rejects.
            if errno == Some(Errno::EPERM) || (errno == Some(Errno::EACCES) && !reason.contains(VERIFIER)) {
                return Self::NotPermitted(what);
            }
            let text = error.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            cause = error.source();
        }
        Self::Bpf { what, reason: shortened(&reason) }
    }
}

/// The verifier logs every step through a program; only the end says what is wrong.
fn shortened(reason: &str) -> String {
    const LINES: usize = 8;
    let Some((before, log)) = reason.split_once(VERIFIER) else { return reason.into() };
    let lines: Vec<_> = log.trim_end().lines().collect();
    let end = lines[lines.len().saturating_sub(LINES)..].join("\n");
    format!("{before}{VERIFIER} ...\n{end}")
}
