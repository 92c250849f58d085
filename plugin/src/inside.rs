//! What has to be done inside a pod's network namespace: everything else is done from the node's.

use std::{net::Ipv4Addr, thread};

use datapath::{
    Netns, Pod,
    lan_address::Lan,
    link::{self, Address},
    route::{self, Route},
};
use nix::sched::{CloneFlags, setns};

use crate::error::CniError;

/// Gives the pod's address a broadcast address if it has none: without one its clients have no address to search, and its
/// servers do not bind it.
pub(crate) fn ensure_broadcast(netns: &Netns, pod: &Pod) -> Result<(), CniError> {
    if pod.address.broadcast.is_some() {
        return Ok(());
    }
    inside(netns, || Ok(link::ensure_broadcast(pod.interface.index, pod.address).map(drop)?))
}

/// Gives the pod an address on the LAN, after its own, and makes it the source of what the pod sends there.
pub(crate) fn give_address(netns: &Netns, pod: &Pod, lan: &Lan, address: Ipv4Addr) -> Result<(), CniError> {
    let Pod { interface, .. } = pod;
    let given = Address { address, prefix: 32, broadcast: Some(lan.broadcast) };
    inside(netns, || {
        let default = route::default_route(interface.index)?.ok_or_else(|| {
            CniError::pod(format!(
                "the pod has no default route through {}, so there is no way to the LAN for its address {address}; an address \
                 needs a primary plugin that gives pods a gateway",
                interface.name
            ))
        })?;
        link::give_address(interface.index, given)?;
        let routes = lan.networks.iter().map(|(network, prefix)| Route {
            address: *network,
            prefix: *prefix,
            source: Some(address),
            ..default
        });
        Ok(routes.into_iter().try_for_each(|route| route::set(&route))?)
    })
}

/// Undoes [`give_address`], as far as it came.
pub(crate) fn take_address(netns: &Netns, pod: &Pod, address: Ipv4Addr) -> Result<(), CniError> {
    let taken = Address { address, prefix: 32, broadcast: None };
    inside(netns, || Ok(link::take_address(pod.interface.index, taken)?))
}

/// Runs `work` on a thread of its own inside the network namespace.
fn inside<T: Send>(netns: &Netns, work: impl FnOnce() -> Result<T, CniError> + Send) -> Result<T, CniError> {
    let there = || {
        setns(netns, CloneFlags::CLONE_NEWNET)
            .map_err(|error| CniError::io(format!("cannot enter the pod's network namespace: {error}")))?;
        work()
    };
    thread::scope(|scope| scope.spawn(there).join())
        .unwrap_or_else(|_| Err(CniError::io("the thread in the pod's network namespace panicked")))
}
