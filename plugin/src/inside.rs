//! What has to be done inside a pod's network namespace: everything else is done from the node's.

use std::{net::Ipv4Addr, thread};

use datapath::{
    Netns, Pod,
    lan_address::Lan,
    link::{self, Address},
    route::{self, Route},
};
use membership::annotation::ADDRESS;
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
        let own = [Some(pod.address.address), default.gateway];
        if let Some(refusal) = refusal(lan, &own, address) {
            return Err(CniError::config(refusal));
        }
        link::give_address(interface, given)?;
        let routes = lan.networks.iter().map(|(network, prefix)| Route {
            address: *network,
            prefix: *prefix,
            source: Some(address),
            ..default
        });
        Ok(routes.into_iter().try_for_each(|route| route::set(&route))?)
    })
}

/// Why a pod that has the addresses `own`, for itself and for its gateway, may not have `address`: routes to the LAN would
/// lead traffic of the cluster there. `None` if it may.
fn refusal(lan: &Lan, own: &[Option<Ipv4Addr>], address: Ipv4Addr) -> Option<String> {
    let network_of = |own: Ipv4Addr| {
        let found = lan.networks.iter().find(|(network, prefix)| link::network(own, *prefix) == *network);
        found.map(|(network, prefix)| (own, network, prefix))
    };
    let (own, network, prefix) = own.iter().flatten().find_map(|own| network_of(*own))?;
    Some(format!(
        "annotation {ADDRESS}, {address}: the domain's LAN has the network {network}/{prefix}, in which is {own}, the pod's own \
         address or its gateway, so that traffic of the cluster would leave from the LAN address; an admin has to write \
         networks without it in `lan`, or give pods another network"
    ))
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

#[cfg(test)]
mod tests {
    use datapath::link::Link;

    use super::*;

    #[test]
    fn networks_of_the_lan_do_not_have_what_is_the_clusters() {
        let refusal = |network: [u8; 4], prefix, gateway: [u8; 4]| {
            let lan = Lan {
                uplink: Link::default(),
                address: [172, 23, 0, 10].into(),
                broadcast: [172, 23, 0, 255].into(),
                networks: vec![([172, 23, 0, 0].into(), 24), (network.into(), prefix)],
            };
            refusal(&lan, &[Some([10, 1, 2, 3].into()), Some(gateway.into())], [172, 23, 0, 50].into())
        };
        for (network, prefix) in [([172, 24, 0, 0], 16), ([10, 1, 3, 0], 24), ([10, 1, 2, 4], 32)] {
            assert_eq!(refusal(network, prefix, [10, 1, 2, 1]), None);
        }
        for (network, prefix, gateway, named) in [
            ([10, 0, 0, 0], 8, [10, 1, 2, 1], "10.0.0.0/8, in which is 10.1.2.3"),
            ([0; 4], 0, [10, 1, 2, 1], "0.0.0.0/0, in which is 10.1.2.3"),
            ([169, 254, 0, 0], 16, [169, 254, 1, 1], "169.254.0.0/16, in which is 169.254.1.1"),
        ] {
            let said = refusal(network, prefix, gateway).unwrap();
            assert!(said.contains(named) && said.contains("172.23.0.50"), "{said}");
        }
    }
}
