//! A member's own address on the LAN, as the node sees it: reserved when the pod joins, held once no other host has it, and
//! released when the pod leaves.

use std::{
    net::Ipv4Addr,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use abi::{Attachment, LanAddress, Member, Rival, lan, rival, seconds, standing};

use crate::{
    Error, Hook, Result, State,
    arp::Sender,
    attach, is_attached, kernel_clock,
    link::{self, Link},
    route,
};

/// How long a command of an admin that takes an address to this node waits for the pod, seconds.
pub const TAKEN: u32 = 600;
/// When hosts are asked whether they have an address.
const PROBES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(150), Duration::from_millis(300)];
/// How long one has to say so.
const PATIENCE: Duration = Duration::from_millis(400);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// A domain's LAN, and how the node is connected to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lan {
    /// The node's interface on it.
    pub uplink: Link,
    /// The node's address.
    pub address: Ipv4Addr,
    /// The broadcast address of the uplink's network.
    pub broadcast: Ipv4Addr,
    /// Its networks: address, and prefix length.
    pub networks: Vec<(Ipv4Addr, u8)>,
}

impl Lan {
    /// The LAN of domain `number`; an error if the domain has no uplink at the moment.
    pub fn of(state: &State, number: u16) -> Result<Self> {
        let domains = state.domains()?;
        let domain = domains.into_iter().find(|(found, _)| *found == number).map(|(_, domain)| domain);
        let name = domain.map(|domain| abi::text(&domain.name).to_owned()).unwrap_or_default();
        let index = domain.map_or(0, |domain| domain.uplink);
        let addresses = state.uplinks()?.into_iter().find(|(found, _)| *found == index);
        let (Some((_, addresses)), Some(uplink)) = (addresses, link::by_index(index)?) else {
            return Err(Error::NoUplink(name));
        };
        let networks = state.networks(number)?.into_iter().filter(|(_, _, flags)| flags & lan::HOSTS != 0);
        Ok(Self {
            uplink,
            address: addresses.address.into(),
            broadcast: addresses.broadcast.into(),
            networks: networks.map(|(address, prefix, _)| (link::network(address, prefix), prefix)).collect(),
        })
    }
}

/// Reserves its address for a member, unless it waits for the member already. The caller holds the lock.
pub(crate) fn reserve(state: &mut State, interface: u32, member: &Member) -> Result<()> {
    let Member { lan_address, generation, domain, .. } = *member;
    if lan_address == abi::NO_ADDRESS || awaited(state, lan_address)?.is_some() {
        return Ok(());
    }
    let entry =
        LanAddress { member: interface, generation, since: now()?, domain, standing: standing::RESERVED };
    state.set_lan_address(lan_address, entry)
}

/// Asks the LAN whether another host has `address`, for less than half a second, and returns that LAN; an error that names
/// the host that has it. It is not asked about an address that an admin has taken to this node. The caller does not hold the
/// lock.
pub fn probe(sender: &Sender, state: &mut State, veth: &Link, address: Ipv4Addr) -> Result<Lan> {
    let domain = state.member(veth.index)?.ok_or(Error::AddressGone { address })?.domain;
    let lan = Lan::of(state, domain)?;
    if awaited(state, address.octets())?.is_some() {
        return Ok(lan);
    }
    state.forget_rival(address.octets())?;
    let begin = Instant::now();
    let mut due = PROBES.into_iter().peekable();
    while begin.elapsed() < PATIENCE {
        if due.next_if(|due| *due <= begin.elapsed()).is_some() {
            sender.probe(&lan.uplink, address)?;
        }
        sleep(PAUSE);
        check_rival(state, &lan, address)?;
    }
    Ok(lan)
}

/// An error if another host has shown since the rival was forgotten that `address` is its own.
fn check_rival(state: &State, lan: &Lan, address: Ipv4Addr) -> Result<()> {
    match state.rival(address.octets())?.filter(|rival| prevails(rival, &lan.uplink)) {
        Some(Rival { mac, .. }) => Err(Error::AddressInUse { address, mac }),
        None => Ok(()),
    }
}

/// Whether another host has the address, or is to have it: of two nodes that look for it at the same time, the one with the
/// lower MAC address.
fn prevails(rival: &Rival, uplink: &Link) -> bool {
    rival.flags & rival::PROBES == 0 || rival.mac < uplink.mac
}

/// Makes the address that the member behind `veth` has reserved its own: the node answers for it, sends what comes for it to
/// the pod, and tells the LAN. The pod has the address already. An error if a host has answered the [`probe`] late.
pub fn hold(
    sender: &Sender,
    bpffs: &Path,
    state: &mut State,
    lan: &Lan,
    veth: &Link,
    address: Ipv4Addr,
) -> Result<()> {
    let _lock = state.lock()?;
    let entry = held(state, veth.index, address.octets())?.ok_or(Error::AddressGone { address })?;
    if entry.standing != standing::TAKEN {
        check_rival(state, lan, address)?;
    }
    state.set_lan_address(address.octets(), entry)?;
    set_route(bpffs, lan, veth, address)?;
    sender.announce(&lan.uplink, address, entry.standing == standing::TAKEN)
}

/// The entry by which the member behind a veth has its address; `None` if that is another's.
fn held(state: &State, interface: u32, address: abi::Address) -> Result<Option<LanAddress>> {
    let Some(Member { generation, .. }) = state.member(interface)? else { return Ok(None) };
    if let Some(taken) = awaited(state, address)? {
        return Ok(Some(LanAddress { member: interface, generation, ..taken }));
    }
    let entry = state.lan_address(address)?;
    let own = entry.filter(|entry| entry.is_of(interface, generation));
    Ok(own.map(|entry| match entry.standing {
        standing::RESERVED => LanAddress { standing: standing::HELD, ..entry },
        _ => entry,
    }))
}

/// Sends what comes to the node for `address` to the pod behind `veth`: through the bridge, if that is a port of one.
pub fn set_route(bpffs: &Path, lan: &Lan, veth: &Link, address: Ipv4Addr) -> Result<()> {
    let Some(bridge) = bridge_of(veth)? else {
        return route::set_route(address, veth.index, lan.address);
    };
    if !is_attached(bpffs, Hook::ToBridge, &bridge)? {
        attach(bpffs, Hook::ToBridge, &bridge)?;
    }
    route::set_route(address, bridge.index, lan.address)?;
    link::forget_neighbour(bridge.index, address) // the node would go on sending to the pod that had it before
}

/// The bridge that a device is a port of.
pub fn bridge_of(device: &Link) -> Result<Option<Link>> {
    let controller = device.controller.map(link::by_index).transpose()?.flatten();
    Ok(controller.filter(|device| device.kind == "bridge"))
}

/// Releases the address that a member has, or has reserved. The caller holds the lock.
pub(crate) fn release(state: &mut State, attachment: &Attachment) -> Result<()> {
    let Some(Member { lan_address, .. }) = state.member(attachment.member)? else { return Ok(()) };
    let entry = state.lan_address(lan_address)?;
    if entry.is_some_and(|entry| entry.is_of(attachment.member, attachment.generation)) {
        route::remove_route(lan_address.into())?;
        state.remove_lan_address(lan_address)?;
        state.forget_rival(lan_address)?;
    }
    Ok(())
}

/// The entry of an address that an admin has taken to this node before its pod comes.
fn awaited(state: &State, address: abi::Address) -> Result<Option<LanAddress>> {
    let (entry, now) = (state.lan_address(address)?, now()?);
    Ok(entry.filter(|entry| is_awaited(entry, now)))
}

/// Whether an entry is of an address that waits for its pod at the time `now`, in [`seconds`].
pub fn is_awaited(entry: &LanAddress, now: u32) -> bool {
    entry.standing == standing::TAKEN && entry.member == 0 && now.saturating_sub(entry.since) < TAKEN
}

/// Whether an entry is of an address that an admin took so long ago, at the time `now`, that it is held as any other.
pub fn is_settled(entry: &LanAddress, now: u32) -> bool {
    entry.standing == standing::TAKEN && entry.member != 0 && now.saturating_sub(entry.since) >= TAKEN
}

fn now() -> Result<u32> {
    Ok(seconds(kernel_clock()?.as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_that_look_at_once_the_lower_mac_address_prevails_and_one_that_has_it_always() {
        let of = |mac, flags| Rival { seen: 1, defended: 0, mac: [mac; 6], flags };
        let mut uplink = Link { mac: [5; 6], ..Link::default() };
        assert!(prevails(&of(4, rival::PROBES), &uplink) && !prevails(&of(6, rival::PROBES), &uplink));
        assert!(prevails(&of(4, 0), &uplink) && prevails(&of(6, 0), &uplink));
        uplink.mac = [6; 6];
        assert!(prevails(&of(5, rival::PROBES), &uplink));
    }

    #[test]
    fn what_an_admin_took_waits_for_its_pod_and_not_for_ever() {
        let entry = LanAddress { member: 0, generation: 0, since: 100, domain: 0, standing: standing::TAKEN };
        assert!(is_awaited(&entry, 699) && !is_awaited(&entry, 700));
        assert!(!is_awaited(&LanAddress { member: 7, ..entry }, 100));
        assert!(!is_awaited(&LanAddress { standing: standing::RESERVED, ..entry }, 100));
    }

    #[test]
    fn what_an_admin_took_for_a_pod_that_is_here_is_settled_after_a_while() {
        let entry = LanAddress { member: 7, generation: 3, since: 100, domain: 0, standing: standing::TAKEN };
        assert!(!is_settled(&entry, 699) && is_settled(&entry, 700));
        assert!(!is_settled(&LanAddress { member: 0, ..entry }, 700), "it waited for its pod in vain");
        assert!(!is_settled(&LanAddress { standing: standing::LOST, ..entry }, 700));
    }
}
