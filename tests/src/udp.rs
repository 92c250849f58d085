//! Datagram sockets of the test itself, in a namespace of the lab: for exact bytes, and for more listeners than there
//! can be IOCs.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, setsockopt, sockopt};
use socket2::SockRef;

use crate::{Result, Sandbox, settle, tried};

/// Longer than a child takes to release what it has copies of, also on a busy machine.
const RELEASE: Duration = Duration::from_secs(1);

/// A datagram socket in a namespace of the lab. When it is dropped, its port is free.
#[derive(Debug)]
pub struct Socket(UdpSocket, Closed);

/// Dropped after the socket.
#[derive(Debug)]
struct Closed;

impl Drop for Closed {
    fn drop(&mut self) {
        settle();
    }
}

/// Binds a socket, if need be once a child that begins has released its copy of another that this process has closed: the kernel
/// does so at the end of `execve`, after it has let the parent go on.
fn bind_when_free(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let begin = Instant::now();
    loop {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && begin.elapsed() < RELEASE => {
                sleep(Duration::from_millis(1));
            }
            bound => return bound,
        }
    }
}

impl Socket {
    /// A socket in `netns`, bound to `address` (port 0: any), shared with others like it, and allowed to broadcast.
    pub fn bind(sandbox: &Sandbox, netns: &str, address: &str) -> Result<Self> {
        let wanted: SocketAddrV4 =
            address.parse().map_err(|_| crate::Error::Missing(format!("{address}: not IP:PORT")))?;
        let socket = sandbox.run_in(netns, move || bind_when_free(wanted))?;
        let socket = tried(format!("bind {address} in {netns}"), socket)?;
        tried("SO_BROADCAST", socket.set_broadcast(true))?;
        // More than the bursts of the tests; the default is passed over by root's privilege.
        tried("SO_RCVBUFFORCE", setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20)))?;
        Ok(Self(socket, Closed))
    }

    /// Joins a multicast group on the interface with `address`, and sends from there what it sends to groups.
    pub fn join(&self, group: &str, address: &str) -> Result<()> {
        let (group, address) = (ip(group)?, ip(address)?);
        tried(format!("join {group}"), self.0.join_multicast_v4(&group, &address))?;
        tried("IP_MULTICAST_IF", SockRef::from(&self.0).set_multicast_if_v4(&address))
    }

    /// Leaves a group that it joined there.
    pub fn leave(&self, group: &str, address: &str) -> Result<()> {
        tried(format!("leave {group}"), self.0.leave_multicast_v4(&ip(group)?, &ip(address)?))
    }

    /// Its own address.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap_or_else(|error| panic!("a bound socket has an address: {error}"))
    }

    /// Sends a datagram.
    pub fn send(&self, bytes: &[u8], to: &str) -> Result<()> {
        tried(format!("send to {to}"), self.0.send_to(bytes, to)).map(|_| ())
    }

    /// Sends the same datagram many times by one system call, so that they arrive as close together as they can.
    pub fn send_burst(&self, bytes: &[u8], to: &str, count: usize) -> Result<()> {
        let to: SocketAddrV4 = to.parse().map_err(|_| crate::Error::Missing(format!("{to}: not IP:PORT")))?;
        let part = [io::IoSlice::new(bytes)];
        let parts = vec![part; count];
        let targets = vec![Some(SockaddrIn::from(to)); count];
        let mut headers = MultiHeaders::preallocate(count, None);
        let none: [ControlMessage; 0] = [];
        let sent = sendmmsg(self.0.as_raw_fd(), &mut headers, &parts, targets, none, MsgFlags::empty());
        let sent = tried(format!("send to {to}"), sent)?.count();
        if sent == count {
            Ok(())
        } else {
            Err(crate::Error::Timeout(format!("{sent} of {count} datagrams sent")))
        }
    }

    /// The next datagram and who sent it; `None` if there is none in time.
    pub fn receive(&self, patience: Duration) -> Option<(Vec<u8>, SocketAddrV4)> {
        let mut buffer = [0; 2048];
        self.0.set_read_timeout(Some(patience)).ok()?;
        loop {
            return match self.0.recv_from(&mut buffer) {
                Ok((length, SocketAddr::V4(from))) => Some((buffer[..length].to_vec(), from)),
                Ok(_) => None,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
                Err(error) => panic!("recv: {error}"),
            };
        }
    }

    /// All datagrams until none comes for `quiet`.
    pub fn drain(&self, quiet: Duration) -> Vec<(Vec<u8>, SocketAddrV4)> {
        std::iter::from_fn(|| self.receive(quiet)).collect()
    }
}

fn ip(text: &str) -> Result<Ipv4Addr> {
    text.parse().map_err(|_| crate::Error::Missing(format!("{text}: no IPv4 address")))
}
