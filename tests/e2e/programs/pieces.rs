//! Packets that the kernel does not have in one piece, as from drivers that put frames into pages.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use abi::{Protocol, Verdict};
use datapath::{Hook, State, link};
use lab::{NODE, Result};
use nix::{
    libc,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket},
};

use super::{
    cases::{CLIENT, Case, from_lan},
    frame::udp,
    rig::{BPFFS, Rig},
};

/// Each frame follows a header that says how much of it is in one piece (linux/if_packet.h).
const PACKET_VNET_HDR: libc::c_int = 15;
/// Such a header (linux/virtio_net.h): of the frame that follows, that is the Ethernet header. A frame of less than a page is
/// in one piece nevertheless.
const IN_PIECES: [u8; 10] = [0, 0, 14, 0, 0, 0, 0, 0, 0, 0];
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn headers_that_are_not_in_one_piece_are_read() -> Result<()> {
    let rig = Rig::new()?;
    let run = from_lan(udp(CLIENT, "172.23.0.255:9999", &[0; 5000]));
    let frame = run.packet.bytes();
    rig.time(&Case::new("to a port that is not relayed", run), 1, 0)?; // fills the maps
    for netns in [NODE, "lan"] {
        rig.sandbox.sh(netns, "ip link set eth0 mtu 9000")?;
    }
    rig.sandbox.run_in(NODE, || {
        datapath::attach(Path::new(BPFFS), Hook::FromLan, &link::by_name("eth0").unwrap().unwrap()).unwrap();
    })?;
    rig.sandbox.run_in("lan", move || {
        send(sender().as_raw_fd(), &[&IN_PIECES[..], &frame].concat(), MsgFlags::empty()).unwrap();
    })?;
    assert!(rig.sandbox.run_in(NODE, is_counted)?, "not read");
    Ok(())
}

/// A packet socket on `eth0` whose frames are in pieces.
fn sender() -> OwnedFd {
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap();
    let on: libc::c_int = 1;
    let size = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the kernel reads a number of this size.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, (&raw const on).cast(), size)
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    let interfaces = nix::ifaddrs::getifaddrs().unwrap();
    let addresses = interfaces.filter(|interface| interface.interface_name == "eth0");
    let address =
        addresses.filter_map(|interface| interface.address?.as_link_addr().copied()).next().unwrap();
    bind(socket.as_raw_fd(), &address).unwrap();
    socket
}

/// Whether a broadcast to a port that is not relayed is counted, before long.
fn is_counted() -> bool {
    let state = State::open(Path::new(BPFFS)).unwrap();
    let counted = || {
        let counters = state.counters().unwrap();
        counters.iter().any(|counter| {
            (counter.protocol, counter.verdict) == (Protocol::Other, Verdict::Unrelayed)
                && counter.packets > 0
        })
    };
    let start = Instant::now();
    while !counted() && start.elapsed() < PATIENCE {
        sleep(Duration::from_millis(10));
    }
    counted()
}
