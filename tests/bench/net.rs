//! Sockets in the lab's namespaces, threads blocked in them, and frames made by hand.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

use lab::{Result, Sandbox, tried};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::socket::{
        AddressFamily, Shutdown, SockFlag, SockType, SockaddrIn, bind, recvfrom, setsockopt, shutdown,
        socket, sockopt,
    },
    unistd::Pid,
};

/// No datagram in this time, and in that which all those would take that are still missing: no more will come.
pub(crate) const QUIET: Duration = Duration::from_millis(20);
const SLOW: Duration = Duration::from_micros(2);
/// What comes twice comes in this time.
pub(crate) const DUPLICATES: Duration = Duration::from_millis(1);

/// A datagram socket in `netns` on `address`, which it shares with others; on one device, if one is named.
pub(crate) fn datagrams(
    sandbox: &Sandbox,
    netns: &str,
    address: &str,
    device: Option<String>,
) -> Result<UdpSocket> {
    let wanted: SocketAddrV4 =
        address.parse().map_err(|_| lab::Error::Missing(format!("{address}: not IP:PORT")))?;
    let made = sandbox.run_in(netns, move || -> nix::Result<UdpSocket> {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        setsockopt(&socket, sockopt::Broadcast, &true)?;
        setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20))?; // more than any burst
        if let Some(device) = device {
            setsockopt(&socket, sockopt::BindToDevice, &device.into())?;
        }
        bind(socket.as_raw_fd(), &SockaddrIn::from(wanted))?;
        Ok(socket.into())
    })?;
    tried(format!("bind {address} in {netns}"), made)
}

/// A thread that is blocked in a socket, as a server is, and does something with each datagram.
pub(crate) struct Listener {
    socket: Arc<UdpSocket>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    pub(crate) fn start(
        socket: UdpSocket,
        hear: impl FnMut(&UdpSocket, &[u8], SocketAddrV4) + Send + 'static,
    ) -> Result<Self> {
        Self::start_with(socket, || (), hear)
    }

    /// The same, kept on a processor.
    pub(crate) fn start_on(
        side: Side,
        socket: UdpSocket,
        hear: impl FnMut(&UdpSocket, &[u8], SocketAddrV4) + Send + 'static,
    ) -> Result<Self> {
        Self::start_with(socket, move || side.keep(), hear)
    }

    fn start_with(
        socket: UdpSocket,
        begin: impl FnOnce() + Send + 'static,
        mut hear: impl FnMut(&UdpSocket, &[u8], SocketAddrV4) + Send + 'static,
    ) -> Result<Self> {
        let socket = Arc::new(socket);
        let own = Arc::clone(&socket);
        let run = move || {
            begin();
            let mut buffer = [0; 9216];
            // Not the standard library's, which does not expect the end.
            while let Ok((length @ 1.., Some(from))) = recvfrom::<SockaddrIn>(own.as_raw_fd(), &mut buffer) {
                hear(&own, &buffer[..length], at(from.ip(), from.port()));
            }
        };
        let thread = tried("start a thread", thread::Builder::new().stack_size(1 << 16).spawn(run))?;
        Ok(Self { socket, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // An error, because the socket has no peer; the thread wakes up all the same.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Counts what many threads receive, and wakes one that waits for all of it.
pub(crate) struct Tally {
    count: AtomicU64,
    target: AtomicU64,
    waiter: Thread,
}

impl Tally {
    /// One whose waiter is the calling thread.
    pub(crate) fn new() -> Arc<Self> {
        let (count, target) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Arc::new(Self { count, target, waiter: thread::current() })
    }

    pub(crate) fn add(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == self.target.load(Ordering::Relaxed) {
            self.waiter.unpark();
        }
    }

    /// How many came so far, when for `quiet` none has come.
    pub(crate) fn total(&self, quiet: Duration) -> u64 {
        let mut seen = self.count.load(Ordering::Relaxed);
        loop {
            thread::sleep(quiet);
            let count = self.count.load(Ordering::Relaxed);
            if count == seen {
                return count;
            }
            seen = count;
        }
    }

    /// Does `work`, and waits until `wanted` came of it, or no more comes; how many came.
    pub(crate) fn during(&self, wanted: u64, work: impl FnOnce() -> Result<()>) -> Result<u64> {
        let start = self.count.load(Ordering::Relaxed);
        self.target.store(start + wanted, Ordering::Relaxed);
        work()?;
        let (mut seen, mut since) = (start, Instant::now());
        loop {
            let count = self.count.load(Ordering::Relaxed);
            if count != seen {
                (seen, since) = (count, Instant::now());
            }
            let missing = (start + wanted).saturating_sub(count);
            if missing == 0 || since.elapsed() > QUIET + SLOW * missing as u32 {
                return Ok(count - start);
            }
            thread::park_timeout(QUIET);
        }
    }
}

/// Where the parties of an exchange run, so that the scheduler's choice is no part of a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Each has a processor: a client.
    Client,
    /// A server.
    Server,
    /// Both share one: between two, waking a processor that sleeps takes longer than all that is compared.
    Both,
}

impl Side {
    /// Keeps the calling thread there, as far as there are enough processors; threads that it starts, too.
    pub(crate) fn keep(self) {
        let processors = processors();
        let place = if self == Self::Client { 0 } else { 1 % processors };
        let mut set = CpuSet::new();
        if set.set(place).is_ok() {
            let _ = sched_setaffinity(Pid::from_raw(0), &set); // a matter of precision only
        }
    }
}

/// How many processors there are.
pub(crate) fn processors() -> usize {
    static COUNT: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    // Once: later the calling thread may be kept on one of them.
    *COUNT.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

/// Lets every thread of this process run on the first so many processors only.
pub(crate) fn run_on(count: usize) {
    let mut set = CpuSet::new();
    let _ = (0..count).try_for_each(|processor| set.set(processor));
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for thread in threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok()) {
        let _ = sched_setaffinity(Pid::from_raw(thread), &set); // one that has ended needs none
    }
}

/// Lets the calling thread run everywhere.
pub(crate) fn roam() {
    let mut set = CpuSet::new();
    let _ = (0..CpuSet::count()).try_for_each(|processor| set.set(processor));
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}

/// An Ethernet address of the benchmark's own.
pub(crate) type Mac = [u8; 6];

/// An Ethernet frame with a datagram, without a UDP checksum.
pub(crate) fn frame(mac: Mac, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    packet(17, mac, from, to, payload)
}

/// An Ethernet frame with a segment of TCP, without a checksum, that acknowledges something.
pub(crate) fn segment(mac: Mac, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    // From where UDP's header would end: the acknowledged number, the header's length, flags, window, checksum, urgent pointer.
    let rest = [0, 0, 0, 1, 5 << 4, 0x10, 1, 0, 0, 0, 0, 0];
    packet(6, mac, from, to, &[&rest, payload].concat())
}

fn packet(protocol: u8, mac: Mac, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let length = |header: usize| (header + payload.len()) as u16;
    let mut ip = vec![0x45, 0];
    ip.extend(length(28).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    ip.extend(from.ip().octets());
    ip.extend(to.ip().octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = mac.to_vec();
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    frame.extend(ip);
    for field in [from.port(), to.port(), length(8), 0] {
        frame.extend(field.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

/// The address as a socket's.
pub(crate) fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frames_header_sums_up_to_nothing() {
        let frame = frame(
            [0xff; 6],
            at(Ipv4Addr::new(10, 60, 0, 2), 9),
            at(Ipv4Addr::BROADCAST, 5064),
            b"twelve bytes",
        );
        let words = frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum: u32 = words.sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(frame.len(), 14 + 20 + 8 + 12);
    }
}
