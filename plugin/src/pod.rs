//! The pod's side: its interface, its address, and which device on the node is the other end.

use std::{
    fs::File,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    thread,
};

use datapath::link::{self, Address, Link};
use nix::sched::{CloneFlags, setns};

use crate::error::CniError;

/// A pod's interface and the device on the node that it is paired with.
#[derive(Debug)]
pub(crate) struct Pod {
    netns: PathBuf,
    interface: Link,
    address: Address,
    /// The host-side veth.
    pub(crate) veth: Link,
    /// The pod's network namespace as the node's numbers it.
    pub(crate) netns_id: i32,
}

impl Pod {
    /// Finds interface `name` in the namespace at `netns`, its IPv4 address and its other end.
    pub(crate) fn find(netns: &Path, name: &str) -> Result<Self, CniError> {
        let (interface, addresses) = inside(netns, || {
            let interface = link::by_name(name)?.ok_or_else(|| {
                CniError::pod(format!(
                    "{} has no interface {name}: iocast must come after the plugin that makes it",
                    netns.display()
                ))
            })?;
            let addresses = link::addresses(interface.index)?;
            Ok((interface, addresses))
        })?;
        let usable = |address: &Address| !address.address.is_link_local();
        let address = addresses
            .into_iter()
            .find(usable)
            .ok_or_else(|| CniError::pod(format!("{name} has no IPv4 address; Channel Access needs one")))?;
        let (veth, netns_id) = other_end(&interface)?;
        Ok(Self { netns: netns.into(), interface, address, veth, netns_id })
    }

    /// The pod's address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address.address
    }

    /// The broadcast address that the pod has, or will have after [`Pod::ensure_broadcast`].
    pub(crate) fn broadcast(&self) -> Ipv4Addr {
        self.address.broadcast.unwrap_or_else(|| self.address.natural_broadcast())
    }

    /// The broadcast address that the pod has.
    pub(crate) fn configured_broadcast(&self) -> Option<Ipv4Addr> {
        self.address.broadcast
    }

    /// Gives the pod's address a broadcast address if it has none: without one its clients find nothing to search on
    /// and its servers do not bind it.
    pub(crate) fn ensure_broadcast(&self) -> Result<(), CniError> {
        inside(&self.netns, || Ok(link::ensure_broadcast(self.interface.index, self.address)?)).map(|_| ())
    }
}

/// The device on the node whose peer is `interface`, and the pod's namespace as the node numbers it.
fn other_end(interface: &Link) -> Result<(Link, i32), CniError> {
    let unsuited = |found: &str| {
        CniError::pod(format!(
            "the pod's {} has no host-side veth: {found}; iocast serves pods whose primary network is a veth pair \
             (bridge or routed), not macvlan, ipvlan or SR-IOV",
            interface.name
        ))
    };
    if interface.kind != "veth" {
        let kind = if interface.kind.is_empty() { "a physical device" } else { &interface.kind };
        return Err(unsuited(&format!("it is of kind {kind}")));
    }
    let Some(veth) = interface.peer.map(link::by_index).transpose()?.flatten() else {
        return Err(unsuited("its other end is not in this namespace"));
    };
    match veth.peer_netns {
        Some(netns) if veth.peer == Some(interface.index) => Ok((veth, netns)),
        _ => Err(unsuited("its other end is not in this namespace")),
    }
}

/// Runs `work` on a thread of its own inside the network namespace at `path`.
fn inside<T: Send>(path: &Path, work: impl FnOnce() -> Result<T, CniError> + Send) -> Result<T, CniError> {
    let enter = || {
        let netns = File::open(path)?;
        setns(netns, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
    };
    let there = || {
        enter().map_err(|error| {
            CniError::io(format!("cannot enter the pod's namespace {}: {error}", path.display()))
        })?;
        work()
    };
    thread::scope(|scope| scope.spawn(there).join())
        .unwrap_or_else(|_| Err(CniError::io("a thread in the pod's namespace died")))
}
