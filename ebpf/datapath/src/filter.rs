//! Classic filters of the clsact qdisc, as far as ours need: to list them, and to set and remove one.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage as Message,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use nix::{errno::Errno, libc::ETH_P_ALL};

use crate::{Error, Result, link::is_one_of, netlink};

/// The kind of the qdisc that filters of both directions hang from.
const CLSACT: &str = "clsact";

/// Where a filter is, which also identifies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Interface index.
    pub(crate) device: u32,
    /// Ingress or egress.
    pub(crate) parent: TcHandle,
    /// Filters of a lower one come first.
    pub(crate) priority: u16,
    /// Its number among those of the priority.
    pub(crate) handle: TcHandle,
}

impl Place {
    fn message(&self) -> TcMessage {
        let mut message = TcMessage::with_index(self.device.cast_signed());
        message.header.parent = self.parent;
        message.header.handle = self.handle;
        message.header.info = u32::from(self.priority) << 16 | u32::from((ETH_P_ALL as u16).to_be());
        message
    }
}

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) priority: u32,
    pub(crate) handle: TcHandle,
    pub(crate) kind: String,
}

/// The filters of device `index` under `parent` (ingress or egress); none if there is no device or no qdisc.
pub(crate) fn filters(index: u32, parent: TcHandle) -> Result<Vec<Filter>> {
    let mut request = TcMessage::with_index(index.cast_signed());
    request.header.parent = parent;
    let answers = match netlink::dump(Message::GetTrafficFilter(request)) {
        Err(error) if is_one_of(&error, &[Errno::EINVAL, Errno::ENODEV]) => vec![],
        answers => answers.map_err(|error| {
            Error::kernel(format!("cannot list the filters of interface number {index}"), error)
        })?,
    };
    Ok(answers.iter().filter_map(parse).collect())
}

fn parse(message: &Message) -> Option<Filter> {
    let Message::NewTrafficFilter(filter) = message else { return None };
    let kind = filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.clone()),
        _ => None,
    });
    Some(Filter { priority: filter.header.info >> 16, handle: filter.header.handle, kind: kind? })
}

/// Adds a filter that is `program`, and the qdisc if it is missing: one that somebody else created works just as well.
pub(crate) fn add(place: &Place, name: &str, program: &OwnedFd) -> io::Result<()> {
    let mut qdisc = TcMessage::with_index(place.device.cast_signed());
    qdisc.header.handle = TcHandle { minor: 0, ..TcHandle::CLSACT };
    qdisc.header.parent = TcHandle::CLSACT;
    qdisc.attributes.push(TcAttribute::Kind(CLSACT.into()));
    match netlink::change(Message::NewQueueDiscipline(qdisc), NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if !is_one_of(&error, &[Errno::EEXIST]) => return Err(error),
        _ => {}
    }
    set(place, name, program, NLM_F_CREATE | NLM_F_EXCL)
}

/// Makes the filter that is there `program`, between two packets.
pub(crate) fn replace(place: &Place, name: &str, program: &OwnedFd) -> io::Result<()> {
    set(place, name, program, 0)
}

fn set(place: &Place, name: &str, program: &OwnedFd, flags: u16) -> io::Result<()> {
    let options = [
        TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned()),
        TcFilterBpfOption::ProgName(name.into()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    let mut message = place.message();
    message.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.into()),
        TcAttribute::Options(options.map(TcOption::Bpf).into()),
    ];
    netlink::change(Message::NewTrafficFilter(message), flags)
}

/// Removes a filter; not an error if it is gone, alone or with its device.
pub(crate) fn remove(place: &Place) -> io::Result<()> {
    match netlink::change(Message::DelTrafficFilter(place.message()), 0) {
        Err(error) if !is_one_of(&error, &[Errno::ENOENT, Errno::ENODEV, Errno::EINVAL]) => Err(error),
        _ => Ok(()),
    }
}
