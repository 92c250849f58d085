//! Says a datagram of another host to everybody on the LAN, this node and its members included, as if that host had said it there.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{LinkAddr, MsgFlags, sendto},
};

use crate::{
    Error, Result,
    arp::{everybody_behind, packet_socket},
    link::Link,
    probe::Arrival,
};

/// A way out of an uplink, and in at it.
#[derive(Debug)]
pub struct Outlet {
    uplink: Link,
    socket: OwnedFd,
    everybody: LinkAddr,
    arrival: Arrival,
}

impl Outlet {
    /// At this uplink. Needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF.
    pub fn at(uplink: &Link) -> Result<Self> {
        let fault = |error| Error::kernel(format!("cannot open {} to send", uplink.name), error);
        Ok(Self {
            socket: packet_socket().map_err(fault)?,
            everybody: everybody_behind(uplink, libc::ETH_P_IP).map_err(fault)?,
            arrival: Arrival::at(uplink.index)?,
            uplink: uplink.clone(),
        })
    }

    /// Sends a frame with an IPv4 packet, which begins with its Ethernet header, and makes it arrive here; false if it is longer
    /// than the uplink takes, or there is no room for it at the moment.
    ///
    /// A packet socket's own frames do not come back, and programs take what leaves with another host's address for no search of
    /// this node: so it arrives by itself, and everything that hears the LAN here hears it once.
    pub fn put(&self, frame: &[u8]) -> Result<bool> {
        match sendto(self.socket.as_raw_fd(), frame, &self.everybody, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => self.arrival.put(frame),
            Err(Errno::EMSGSIZE | Errno::ENOBUFS | Errno::EAGAIN | Errno::ENETDOWN) => Ok(false),
            Err(error) => Err(Error::kernel(format!("cannot send to {}", self.uplink.name), error)),
        }
    }
}
