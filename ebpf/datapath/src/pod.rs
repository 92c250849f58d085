//! A pod as seen from the node: its interface, its address, and the device on the node at the other end.
//!
//! Nothing here enters the pod's namespace, which requires CAP_SYS_ADMIN: with CAP_NET_ADMIN the kernel answers queries
//! about any namespace that the caller can refer to.

use std::{
    fs::{self, File, OpenOptions},
    net::Ipv4Addr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use netlink_packet_route::{
    RouteNetlinkMessage as Message,
    nsid::{NsidAttribute, NsidMessage},
};
use nix::{
    errno::Errno,
    libc,
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

use crate::{
    Error, Result,
    link::{self, Address, Link},
    netlink,
};

/// A namespace without an id yet (`NETNSA_NSID_NOT_ASSIGNED`, linux/net_namespace.h).
const NO_NUMBER: i32 = -1;

/// A pod's network namespace: opened once, so that what is checked is what is used.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// Opens the namespace at `path`; an error if that is something else, or the node's own. Whatever is there, this does
    /// not wait for it.
    pub fn open(path: &Path) -> Result<Self> {
        let fault = |error| fault(path, error);
        // A FIFO would wait for its other end, a terminal would become ours.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(fault)?;
        let this = Self { file, path: path.into() };
        if fstatfs(&this.file).map_err(|error| fault(error.into()))?.filesystem_type() != NSFS_MAGIC {
            return Err(this.refused("is no network namespace"));
        }
        if this.is_ours() {
            return Err(this.refused("is the node's own network namespace: a pod in it needs no iocast"));
        }
        Ok(this)
    }

    fn refused(&self, why: &'static str) -> Error {
        Error::NotNetns { path: self.path.clone(), why }
    }

    /// Whether it is the calling thread's namespace.
    fn is_ours(&self) -> bool {
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let ours = fs::metadata("/proc/thread-self/ns/net").map(id);
        matches!((self.file.metadata().map(id), ours), (Ok(this), Ok(ours)) if this == ours)
    }

    /// Its id in the calling thread's namespace; assigns one if it has none.
    fn number(&self) -> Result<i32> {
        let fault = |error| fault(&self.path, error);
        match known_number(&self.file) {
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                Err(self.refused("is a namespace of another kind"))
            }
            Ok(NO_NUMBER) => {
                let request = about(&self.file, Some(NO_NUMBER)); // any
                netlink::change(Message::NewNsId(request), 0).map_err(fault)?;
                known_number(&self.file).map_err(fault)
            }
            number => number.map_err(fault),
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn fault(path: &Path, error: std::io::Error) -> Error {
    Error::kernel(format!("cannot inspect the pod's network namespace {}", path.display()), error)
}

/// A pod's interface and its peer device on the node.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The interface in the pod.
    pub interface: Link,
    /// Its address.
    pub address: Address,
    /// The host-side veth.
    pub veth: Link,
    /// The id of the pod's network namespace in the node's.
    pub netns: i32,
}

impl Pod {
    /// Finds interface `name` in `netns`, its IPv4 address and its other end.
    pub fn find(netns: &Netns, name: &str) -> Result<Self> {
        let number = netns.number()?;
        let interface = link::by_name_in(number, name)?.ok_or_else(|| {
            let netns = netns.path.display();
            Error::UnsuitedPod(format!(
                "{netns} has no interface {name}: iocast must come after the plugin that creates it"
            ))
        })?;
        let mut addresses = link::addresses_in(number, interface.index)?.into_iter();
        let address = addresses.find(|address| !address.address.is_link_local()).ok_or_else(|| {
            Error::UnsuitedPod(format!("{name} has no IPv4 address; Channel Access needs one"))
        })?;
        let veth = other_end(number, &interface)?;
        Ok(Self { interface, address, veth, netns: number })
    }

    /// The broadcast address that the pod has, or will have after [`link::ensure_broadcast`].
    pub fn broadcast(&self) -> Ipv4Addr {
        self.address.broadcast.unwrap_or_else(|| self.address.natural_broadcast())
    }
}

/// The device on the node whose peer is `interface` in namespace `netns`.
fn other_end(netns: i32, interface: &Link) -> Result<Link> {
    let unsuited = |found: &str| {
        Error::UnsuitedPod(format!(
            "the pod's {} has no host-side veth: {found}; iocast serves pods whose primary network is a veth pair \
             (bridge or routed), not macvlan, ipvlan or SR-IOV",
            interface.name
        ))
    };
    if interface.kind != "veth" {
        let kind = if interface.kind.is_empty() { "physical" } else { &interface.kind };
        return Err(unsuited(&format!("it is a device of type {kind}")));
    }
    let veth = interface.peer.map(link::by_index).transpose()?.flatten();
    let paired = |veth: &Link| veth.peer == Some(interface.index) && veth.peer_netns == Some(netns);
    veth.filter(paired).ok_or_else(|| unsuited("its other end is not in the node's namespace"))
}

fn known_number(netns: &File) -> std::io::Result<i32> {
    let answers = netlink::get(Message::GetNsId(about(netns, None)))?;
    let number = answers.iter().find_map(|answer| match answer {
        Message::NewNsId(message) => message.attributes.iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(number) => Some(*number),
            _ => None,
        }),
        _ => None,
    });
    Ok(number.unwrap_or(NO_NUMBER))
}

fn about(netns: &File, number: Option<i32>) -> NsidMessage {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(netns.as_raw_fd().cast_unsigned()));
    message.attributes.extend(number.map(NsidAttribute::Id));
    message
}
