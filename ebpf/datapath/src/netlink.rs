//! Netlink requests in the calling thread's network namespace.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};

/// Larger than any single answer of the kernel to these requests.
const BUFFER: usize = 64 * 1024;

/// How often a list is asked for that changes while it is read.
const ATTEMPTS: usize = 8;

/// A message that can be sent and received.
pub(crate) trait Exchanged: NetlinkSerializable + NetlinkDeserializable {}
impl<M: NetlinkSerializable + NetlinkDeserializable> Exchanged for M {}

/// Requests all objects that match `request`.
pub(crate) fn dump(request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    exchange(NETLINK_ROUTE, request, NLM_F_DUMP)
}

/// Requests one object.
pub(crate) fn get(request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    exchange(NETLINK_ROUTE, request, NLM_F_ACK)
}

/// Requests a change, with `flags` such as `NLM_F_CREATE`.
pub(crate) fn change(request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    exchange(NETLINK_ROUTE, request, NLM_F_ACK | flags).map(|_| ())
}

/// Requests all netfilter objects that match `request`.
pub(crate) fn dump_netfilter<M: Exchanged>(request: M) -> io::Result<Vec<M>> {
    exchange(NETLINK_NETFILTER, request, NLM_F_DUMP)
}

fn exchange<M: Exchanged>(protocol: isize, request: M, flags: u16) -> io::Result<Vec<M>> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    // Without it the kernel ignores the filters of an address dump, including the namespace.
    socket.set_netlink_get_strict_chk(true)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(request));
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = 1;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    for _ in 0..ATTEMPTS {
        socket.send(&bytes, 0)?;
        if let Some(answers) = collect(&socket)? {
            return Ok(answers);
        }
    }
    Err(io::Error::other("it changed each time that it was listed"))
}

/// Reads until the kernel signals the end, or an error; `None` if something changed meanwhile, so that parts may be missing.
fn collect<M: Exchanged>(socket: &Socket) -> io::Result<Option<Vec<M>>> {
    let (mut answers, mut whole) = (vec![], true);
    let mut buffer = Vec::with_capacity(BUFFER); // not filled: that would be most of the time that an answer takes
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
            whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
            rest = rest.get(message.header.length.next_multiple_of(4) as usize..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(whole.then_some(answers)),
                _ => {}
            }
        }
    }
}
