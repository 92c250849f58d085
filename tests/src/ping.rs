//! Echo requests of the test itself, from namespaces of the lab.

use std::{
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{Result, Sandbox, tried};

/// How long the first answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between requests.
const PAUSE: Duration = Duration::from_millis(100);
/// Length of the header of an IPv4 packet without options.
const IP: usize = 20;
/// Type 8, its checksum, number 7.
const REQUEST: [u8; 8] = [8, 0, 0xf7, 0xf8, 0, 0, 0, 7];

/// Whether `to` answers an echo request from `netns` in a packet of so many bytes, which is not to be fragmented.
pub fn ping(sandbox: &Sandbox, netns: &str, to: Ipv4Addr, size: usize) -> Result<bool> {
    let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4));
    let socket = tried("open a raw socket", sandbox.run_in(netns, open)?)?;
    tried("SO_RCVTIMEO", socket.set_read_timeout(Some(PAUSE)))?;
    let mut request = REQUEST.to_vec();
    request.resize(size - IP, 0);
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        // What cannot be sent, for want of a route or because it is too large, is not answered.
        if socket.send_to(&request, &SocketAddr::from((to, 0)).into()).is_ok()
            && is_answered(&socket, to, size)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether there is an answer of so many bytes from `from` until nothing comes for a while.
fn is_answered(mut socket: &Socket, from: Ipv4Addr, size: usize) -> bool {
    let mut buffer = vec![0; size];
    while let Ok(length) = socket.read(&mut buffer) {
        if length == size && buffer[12..16] == from.octets() && buffer[IP] == 0 {
            return true;
        }
    }
    false
}
