//! Multicast groups that an uplink has joined, so that its hardware and the switches before it let them through.
//!
//! A socket would leave them with its process. So they are addresses that the kernel joins (`autojoin`): the group as the
//! peer of an address of this host alone. Were the group itself the address, the kernel would route to this host what its
//! own processes send to the group.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
};
use nix::errno::Errno;

use crate::{
    Error, Result,
    link::{JOINING, Link, dump_addresses},
    netlink,
};

/// The longest name of a device, or label of an address (`IFNAMSIZ` without the zero).
const LABEL: usize = 15;

/// The groups that all devices have joined for us: interface index and group.
pub fn joined() -> Result<Vec<(u32, Ipv4Addr)>> {
    let found = dump_addresses(0, None)
        .map_err(|error| Error::kernel("cannot list the groups that uplinks have joined", error))?;
    Ok(found.iter().filter_map(|message| Some((message.header.index, parse(message)?))).collect())
}

/// Makes `device` join `group`.
pub fn join(device: &Link, group: Ipv4Addr) -> Result<()> {
    let mut message = message(device.index, group);
    message.header.scope = AddressScope::Host;
    let flags = AddressFlags::Mcautojoin | AddressFlags::Noprefixroute;
    message.attributes.push(AddressAttribute::Flags(flags));
    // Programs that ask for the address of the device by its name get its own.
    let label: String = format!("{}:iocast", device.name).chars().take(LABEL).collect();
    message.attributes.push(AddressAttribute::Label(label));
    match netlink::change(Message::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if is(&error, Errno::ENOBUFS) => {
            Err(Error::GroupsJoined { device: device.name.clone(), group })
        }
        Err(error) if !is(&error, Errno::EEXIST) => {
            Err(Error::kernel(format!("{} cannot join the group {group}", device.name), error))
        }
        _ => Ok(()),
    }
}

/// Makes the device with this interface index leave `group`; not an error if it has not joined it for us.
pub fn leave(device: u32, group: Ipv4Addr) -> Result<()> {
    match netlink::change(Message::DelAddress(message(device, group)), 0) {
        Err(error) if !is(&error, Errno::EADDRNOTAVAIL) && !is(&error, Errno::ENODEV) => {
            Err(Error::kernel(format!("interface number {device} cannot leave the group {group}"), error))
        }
        _ => Ok(()),
    }
}

/// Makes all devices leave what they have joined for us.
pub(crate) fn leave_all() -> Result<()> {
    joined()?.into_iter().try_for_each(|(device, group)| leave(device, group))
}

fn is(error: &io::Error, code: Errno) -> bool {
    error.raw_os_error() == Some(code as i32)
}

fn message(device: u32, group: Ipv4Addr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = device;
    message.header.prefix_len = 32;
    message.attributes =
        vec![AddressAttribute::Local(IpAddr::V4(JOINING)), AddressAttribute::Address(IpAddr::V4(group))];
    message
}

/// The group that an address joins for us.
fn parse(message: &AddressMessage) -> Option<Ipv4Addr> {
    let attributes = &message.attributes;
    attributes.contains(&AddressAttribute::Local(IpAddr::V4(JOINING))).then_some(())?;
    attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(IpAddr::V4(group)) => Some(*group),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_is_read_as_it_is_written_and_other_addresses_are_none() {
        let group = Ipv4Addr::new(224, 0, 0, 251);
        let mut message = message(7, group);
        assert_eq!(parse(&message), Some(group));
        message.attributes[0] = AddressAttribute::Local(IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(parse(&message), None, "an address with a peer");
    }
}
