//! TCP of the test itself, in namespaces of the lab: a server that echoes, many connections, and segments that are forged.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    resource::{Resource, getrlimit, setrlimit},
    socket::{setsockopt, sockopt},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Result, Sandbox, tried};

/// What is sent to have it echoed.
const WORD: [u8; 4] = *b"ping";

/// Flags of a segment.
pub mod flag {
    /// The last one.
    pub const FIN: u8 = 0x01;
    /// The first one.
    pub const SYN: u8 = 0x02;
    /// The connection is reset.
    pub const RST: u8 = 0x04;
    /// It acknowledges.
    pub const ACK: u8 = 0x10;
}

/// Lets this process have as many descriptors as the system allows.
pub fn raise_descriptors() -> Result<()> {
    let (_, most) = tried("RLIMIT_NOFILE", getrlimit(Resource::RLIMIT_NOFILE))?;
    tried("RLIMIT_NOFILE", setrlimit(Resource::RLIMIT_NOFILE, most, most))
}

/// Starts a server at `address` in `netns` that sends back what it gets, to any number of clients, until the process ends.
pub fn echo(sandbox: &Sandbox, netns: &str, address: &str) -> Result<()> {
    let wanted: SocketAddr = address.parse().unwrap_or_else(|error| panic!("{address}: {error}"));
    let listener = tried(format!("listen at {address}"), sandbox.run_in(netns, move || listen(wanted))?)?;
    thread::spawn(move || serve(&listener));
    Ok(())
}

/// Listens with room for many that connect at once.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn serve(listener: &TcpListener) -> io::Result<()> {
    const LISTENER: u64 = u64::MAX;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut clients: Vec<Option<TcpStream>> = vec![];
    let mut events = vec![EpollEvent::empty(); 1024];
    loop {
        let found = epoll
            .wait(&mut events, EpollTimeout::NONE)
            .or_else(|error| if error == nix::errno::Errno::EINTR { Ok(0) } else { Err(error) })?;
        for event in &events[..found] {
            if event.data() == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    client.set_nonblocking(true)?;
                    epoll.add(&client, EpollEvent::new(EpollFlags::EPOLLIN, clients.len() as u64))?;
                    clients.push(Some(client));
                }
            } else if let Some(client) = clients.get_mut(event.data() as usize)
                && client.as_mut().is_none_or(|client| !answer(client))
            {
                *client = None; // closed, which ends epoll's interest
            }
        }
    }
}

/// Sends back what is there; false if the client has ended.
fn answer(client: &mut TcpStream) -> bool {
    let mut buffer = [0; 256];
    match client.read(&mut buffer) {
        Ok(0) => false,
        Ok(length) => client.write_all(&buffer[..length]).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Connections from `count` ports of each of these addresses of `netns`, one after the other, each within `patience`: those
/// that came about, until the first that did not.
pub fn connect(
    sandbox: &Sandbox,
    netns: &str,
    from: &[Ipv4Addr],
    count: usize,
    to: SocketAddrV4,
    patience: Duration,
) -> Result<Vec<TcpStream>> {
    let from = from.to_vec();
    sandbox.run_in(netns, move || {
        let each = from.iter().flat_map(|address| std::iter::repeat_n(*address, count));
        each.map_while(|address| connect_one(address, to, patience).ok()).collect()
    })
}

fn connect_one(from: Ipv4Addr, to: SocketAddrV4, patience: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?; // connect(2) chooses one for each peer
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&SocketAddr::V4(to).into(), patience)?;
    Ok(socket.into())
}

/// How many of these connections do not echo a word within `patience`.
pub fn silent(streams: &mut [TcpStream], patience: Duration) -> usize {
    for stream in &mut *streams {
        let _ = stream.write_all(&WORD); // who lost his circuit does not answer
    }
    streams.iter_mut().filter_map(|stream| (!echoes(stream, patience)).then_some(())).count()
}

fn echoes(stream: &mut TcpStream, patience: Duration) -> bool {
    let mut word = [0; WORD.len()];
    stream.set_read_timeout(Some(patience)).is_ok() && stream.read_exact(&mut word).is_ok() && word == WORD
}

/// Who sends segments that he has no connection for.
#[derive(Debug)]
pub struct Forger(Socket);

impl Forger {
    /// One in `netns`.
    pub fn new(sandbox: &Sandbox, netns: &str) -> Result<Self> {
        let raw = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(nix::libc::IPPROTO_RAW)));
        Ok(Self(tried("open a raw socket", sandbox.run_in(netns, raw)?)?))
    }

    /// Sends a segment with no data.
    pub fn send(&self, from: SocketAddrV4, to: SocketAddrV4, flags: u8, numbers: (u32, u32)) -> Result<()> {
        let segment = segment(from, to, flags, numbers);
        loop {
            match self.0.send_to(&segment, &SocketAddr::V4(to).into()) {
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => thread::yield_now(),
                sent => return tried("send a forged segment", sent).map(|_| ()),
            }
        }
    }
}

/// An IPv4 packet with a TCP header of these flags, and sequence and acknowledgement numbers.
fn segment(from: SocketAddrV4, to: SocketAddrV4, flags: u8, (sequence, acknowledged): (u32, u32)) -> Vec<u8> {
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let mut tcp = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    tcp.extend([sequence.to_be_bytes(), acknowledged.to_be_bytes()].concat());
    tcp.extend([5 << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    let summed = [&addresses[..], &[0, abi::TCP, 0, 20], &tcp].concat();
    let sum = ones_complement(&summed);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, abi::TCP, 0, 0]; // the kernel adds the checksum
    packet.extend(addresses);
    packet.extend(tcp);
    packet
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn ones_complement(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
