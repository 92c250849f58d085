//! `iocast-node take`: an admin gives a LAN address to this node, whoever else answers for it.

use std::{error::Error, net::Ipv4Addr, path::Path};

use abi::{LanAddress, seconds, standing};
use datapath::{
    State,
    arp::Sender,
    kernel_clock,
    lan_address::{self, Lan},
    link,
};
use membership::address;

use crate::say::say;

/// Makes `address` this node's: its pod's if that is here, otherwise that of the pod that comes in the next ten minutes.
pub(crate) fn run(bpffs: &Path, address: Ipv4Addr) -> Result<(), Box<dyn Error>> {
    let mut state = State::open(bpffs)?;
    let sender = Sender::default(); // closed after the lock is released
    let _lock = state.lock()?;
    let pod = address::holder(&state, address)?;
    let present = state.lan_address(address.octets())?.filter(|_| pod.is_some());
    let taken = taken(address, present, || address::domain(&state, address), now()?)?;
    let lan = Lan::of(&state, taken.domain)?;
    state.forget_rival(address.octets())?;
    state.set_lan_address(address.octets(), taken)?;
    if let Some(veth) = present.map(|entry| link::by_index(entry.member)).transpose()?.flatten() {
        lan_address::set_route(bpffs, &lan, &veth, address)?;
    }
    let Some(pod) = pod else {
        say(format!(
            "{address} is this node's for its pod, if that comes within {} minutes",
            lan_address::TAKEN / 60
        ));
        return Ok(());
    };
    sender.announce(&lan.uplink, address, true)?;
    say(format!("{address} is this node's, for {pod}; other nodes that answered for it were told to stop"));
    Ok(())
}

fn now() -> datapath::Result<u32> {
    Ok(seconds(kernel_clock()?.as_nanos() as u64))
}

/// The entry by which an address is taken: that of the member that has it, or one that waits for its pod, in the `domain` that
/// gives the address.
fn taken(
    address: Ipv4Addr,
    present: Option<LanAddress>,
    domain: impl FnOnce() -> Result<u16, membership::Error>,
    since: u32,
) -> Result<LanAddress, Box<dyn Error>> {
    let standing = standing::TAKEN;
    match present {
        Some(entry) if entry.standing == standing::RESERVED => {
            Err(format!("{address} is being given to a pod on this node; try again in a few seconds").into())
        }
        Some(entry) => Ok(LanAddress { since, standing, ..entry }),
        None => Ok(LanAddress { member: 0, generation: 0, since, domain: domain()?, standing }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 23, 0, 50);

    fn entry(standing: u16) -> LanAddress {
        LanAddress { member: 7, generation: 3, since: 5, domain: 1, standing }
    }

    fn take(present: Option<LanAddress>) -> Result<LanAddress, String> {
        taken(ADDRESS, present, || Ok(2), 100).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pod_that_is_here_keeps_its_address_whatever_its_standing() {
        for standing in [standing::HELD, standing::LOST, standing::TAKEN] {
            assert_eq!(take(Some(entry(standing))), Ok(LanAddress { since: 100, ..entry(standing::TAKEN) }));
        }
    }

    #[test]
    fn an_address_waits_for_a_pod_that_is_not_here_yet() {
        let waiting =
            LanAddress { member: 0, generation: 0, since: 100, domain: 2, standing: standing::TAKEN };
        assert_eq!(take(None), Ok(waiting));
    }

    #[test]
    fn what_is_just_being_given_is_not_taken() {
        assert!(take(Some(entry(standing::RESERVED))).unwrap_err().contains("try again"));
    }

    #[test]
    fn an_address_that_no_domain_gives_is_refused() {
        let refuse = || Err(membership::Error::Refused("no domain".into()));
        assert_eq!(taken(ADDRESS, None, refuse, 100).unwrap_err().to_string(), "no domain");
    }
}
