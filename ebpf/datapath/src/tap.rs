//! Packet sockets that see what passes an interface from one host or to it, what is sent to everybody, or what asks everybody at
//! some ports, and nothing else: the kernel leaves out the rest. They need CAP_NET_RAW.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    libc,
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockType, SockaddrLike, bind, recvfrom, setsockopt, socket,
        sockopt,
    },
};

use crate::{Error, Result};

/// Bytes of a frame that are kept: as many as a search has.
const SNAPPED: u32 = 2048;
/// The same of [`Whose::Us`]: headers, with IP options.
const HEADERS: u32 = 82;
/// `PACKET_OUTGOING` (linux/if_packet.h).
const OUTGOING: u8 = 4;

/// Bytes that may wait in the socket of one who keeps up with a storm: some thousand searches.
const ROOM: usize = 8 << 20;

/// Whose frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// IPv4 from or to this address, and ARP from it.
    Host(Ipv4Addr),
    /// IPv4 to a broadcast or group address.
    Everybody,
    /// Whole UDP datagrams over IPv4 that may go further than one hop, to one of these ports, of everybody or of this host.
    Asking {
        /// The host.
        host: Ipv4Addr,
        /// At most [`Whose::PORTS`].
        ports: Vec<u16>,
    },
    /// UDP over IPv4 that this host sends.
    Us,
}

impl Whose {
    /// The most ports that a filter can tell apart: its jumps are a byte long.
    pub const PORTS: usize = 200;
}

/// A frame that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whether it left.
    pub outgoing: bool,
    /// Its first bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// Sees what passes an interface.
#[derive(Debug)]
pub struct Tap(OwnedFd);

impl Tap {
    /// Sees it from now on.
    pub fn open(interface: u32, whose: &Whose) -> Result<Self> {
        let fault = |error: nix::errno::Errno| match error {
            nix::errno::Errno::EPERM => Error::NoPackets { interface: format!("interface {interface}") },
            error => Error::kernel(format!("cannot watch interface number {interface}"), error),
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Without a protocol it receives nothing before it has its filter.
        let made = socket(AddressFamily::Packet, SockType::Raw, flags, None).map_err(fault)?;
        restrict(&made, &program(whose)).map_err(fault)?;
        if matches!(whose, Whose::Asking { .. }) {
            let _ = setsockopt(&made, sockopt::RcvBufForce, &ROOM); // without it, it loses more in a storm
        }
        bind(made.as_raw_fd(), &all_at(interface).map_err(fault)?).map_err(fault)?;
        Ok(Self(made))
    }

    /// The next frame, if one has passed.
    pub fn take(&self) -> Option<Frame> {
        let mut bytes = vec![0; SNAPPED as usize];
        let (length, from) = recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut bytes).ok()?;
        bytes.truncate(length);
        Some(Frame { outgoing: from.is_some_and(|from| from.pkttype() == OUTGOING), bytes })
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Everything at an interface.
fn all_at(interface: u32) -> nix::Result<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: interface.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: it points to an address of this length and family.
    unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) }.ok_or(nix::errno::Errno::EINVAL)
}

fn restrict(socket: &OwnedFd, program: &[libc::sock_filter]) -> nix::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads a program of this length, and writes nothing.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(set).map(drop)
}

/// Codes of classic BPF (linux/bpf_common.h): load a half word, a word, a byte; compare; test bits; return.
const HALF: u16 = 0x28;
const WORD: u16 = 0x20;
const BYTE: u16 = 0x30;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const SET: u16 = 0x45;
const RETURN: u16 = 0x06;
/// Offsets in a frame.
const ETHERTYPE: u32 = 12;
const VERSION: u32 = 14;
const FRAGMENT: u32 = 20;
const TTL: u32 = 22;
const PROTOCOL: u32 = 23;
const SOURCE: u32 = 26;
const DESTINATION: u32 = 30;
const ARP_SENDER: u32 = 28;
/// Where the header has no options.
const PORT: u32 = 36;
/// What the kernel says of a frame: `SKF_AD_OFF + SKF_AD_PKTTYPE` (linux/filter.h).
const KIND: u32 = 0xffff_f004;

/// What of a frame is kept: [`SNAPPED`] bytes or nothing.
fn program(whose: &Whose) -> Vec<libc::sock_filter> {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let ipv4 = libc::ETH_P_IP as u32;
    match whose {
        Whose::Host(address) => {
            let host = u32::from(*address);
            vec![
                step(HALF, 0, 0, ETHERTYPE),
                step(EQUAL, 0, 4, ipv4),
                step(WORD, 0, 0, SOURCE),
                step(EQUAL, 5, 0, host),
                step(WORD, 0, 0, DESTINATION),
                step(EQUAL, 3, 4, host),
                step(EQUAL, 0, 3, libc::ETH_P_ARP as u32),
                step(WORD, 0, 0, ARP_SENDER),
                step(EQUAL, 0, 1, host),
                step(RETURN, 0, 0, SNAPPED),
                step(RETURN, 0, 0, 0),
            ]
        }
        Whose::Everybody => vec![
            step(HALF, 0, 0, ETHERTYPE),
            step(EQUAL, 0, 3, ipv4),
            step(BYTE, 0, 0, 0),
            step(SET, 0, 1, 1), // the bit of group addresses
            step(RETURN, 0, 0, SNAPPED),
            step(RETURN, 0, 0, 0),
        ],
        Whose::Asking { host, ports } => {
            let ports = &ports[..ports.len().min(Whose::PORTS)];
            let no = ports.len() as u8 + 1; // from the first port to the end that keeps nothing
            let mut code = vec![
                step(HALF, 0, 0, ETHERTYPE),
                step(EQUAL, 0, no + 13, ipv4),
                step(BYTE, 0, 0, VERSION),
                step(EQUAL, 0, no + 11, 0x45), // 4, and no options
                step(BYTE, 0, 0, TTL),
                step(GREATER, 0, no + 9, 1),
                step(BYTE, 0, 0, PROTOCOL),
                step(EQUAL, 0, no + 7, libc::IPPROTO_UDP as u32),
                step(HALF, 0, 0, FRAGMENT),
                step(SET, no + 5, 0, 0x3fff), // more of them, or an offset
                step(BYTE, 0, 0, 0),
                step(SET, 2, 0, 1), // the bit of group addresses
                step(WORD, 0, 0, DESTINATION),
                step(EQUAL, 0, no + 1, u32::from(*host)),
                step(HALF, 0, 0, PORT),
            ];
            let last = ports.len();
            code.extend(ports.iter().enumerate().map(|(index, port)| {
                let rest = (last - index - 1) as u8;
                step(EQUAL, rest, u8::from(rest == 0), u32::from(*port))
            }));
            code.extend([step(RETURN, 0, 0, SNAPPED), step(RETURN, 0, 0, 0)]);
            code
        }
        Whose::Us => vec![
            step(BYTE, 0, 0, KIND),
            step(EQUAL, 0, 5, OUTGOING.into()),
            step(HALF, 0, 0, ETHERTYPE),
            step(EQUAL, 0, 3, ipv4),
            step(BYTE, 0, 0, PROTOCOL),
            step(EQUAL, 0, 1, libc::IPPROTO_UDP as u32),
            step(RETURN, 0, 0, HEADERS),
            step(RETURN, 0, 0, 0),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: [u8; 4] = [172, 23, 0, 2];
    const OTHER: [u8; 4] = [172, 23, 0, 3];

    /// What the kernel would make of a frame.
    fn keeps(whose: &Whose, frame: &[u8]) -> bool {
        keeps_of_kind(OUTGOING, whose, frame)
    }

    fn keeps_of_kind(kind: u8, whose: &Whose, frame: &[u8]) -> bool {
        let program = program(whose);
        let (mut at, mut value) = (0, 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = program[at];
            let offset = k as usize;
            let bytes = |count: usize| {
                frame[offset..][..count].iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte))
            };
            let jump = |yes: bool| 1 + usize::from(if yes { jt } else { jf });
            at += match code {
                HALF => {
                    value = bytes(2);
                    1
                }
                WORD => {
                    value = bytes(4);
                    1
                }
                BYTE => {
                    value = if k == KIND { kind.into() } else { bytes(1) };
                    1
                }
                EQUAL => jump(value == k),
                SET => jump(value & k != 0),
                GREATER => jump(value > k),
                RETURN => return k != 0,
                other => panic!("{other:#x}"),
            };
        }
    }

    fn ipv4(mac: u8, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![mac, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend([source, destination].concat());
        frame
    }

    fn arp(sender: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 6];
        frame.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2]);
        frame.extend([&sender[..], &[0; 10]].concat());
        frame
    }

    #[test]
    fn of_a_host_what_it_sends_and_gets_is_kept() {
        let host = &Whose::Host(HOST.into());
        assert!(
            keeps(host, &ipv4(2, HOST, OTHER))
                && keeps(host, &ipv4(2, OTHER, HOST))
                && keeps(host, &arp(HOST))
        );
        assert!(!keeps(host, &ipv4(2, OTHER, OTHER)) && !keeps(host, &arp(OTHER)));
        let mut other = ipv4(2, HOST, OTHER);
        other[12] = 0x86;
        assert!(!keeps(host, &other));
    }

    #[test]
    fn of_everybody_only_what_is_for_many_is_kept() {
        assert!(
            keeps(&Whose::Everybody, &ipv4(0xff, HOST, OTHER))
                && keeps(&Whose::Everybody, &ipv4(1, HOST, OTHER))
        );
        assert!(!keeps(&Whose::Everybody, &ipv4(2, HOST, OTHER)) && !keeps(&Whose::Everybody, &arp(HOST)));
    }

    /// A datagram from port 40000 with this TTL, fragment field and destination port.
    fn datagram(mac: u8, destination: [u8; 4], (ttl, fragment, port): (u8, u16, u16)) -> Vec<u8> {
        let mut frame = ipv4(mac, OTHER, destination);
        frame[TTL as usize] = ttl;
        frame[20..22].copy_from_slice(&fragment.to_be_bytes());
        frame.extend([40000u16, port, 8, 0].map(u16::to_be_bytes).concat());
        frame
    }

    #[test]
    fn of_what_asks_only_whole_datagrams_to_the_ports_are_kept_that_may_go_on() {
        let asking = Whose::Asking { host: HOST.into(), ports: vec![5064, 5065, 5076] };
        let all = [255; 4];
        for (frame, expected) in [
            (datagram(0xff, all, (64, 0, 5064)), true),
            (datagram(0xff, all, (2, 0x4000, 5065)), true),
            (datagram(2, HOST, (64, 0, 5076)), true),
            (datagram(2, OTHER, (64, 0, 5076)), false),
            (datagram(0xff, all, (64, 0, 5075)), false),
            (datagram(2, HOST, (64, 0, 5077)), false),
            (datagram(0xff, all, (1, 0, 5064)), false),
            (datagram(0xff, all, (0, 0, 5064)), false),
            (datagram(0xff, all, (64, 0x2000, 5064)), false),
            (datagram(0xff, all, (64, 1, 5064)), false),
            (arp(HOST), false),
        ] {
            assert_eq!(keeps(&asking, &frame), expected, "{frame:x?}");
        }
        let mut tcp = datagram(0xff, all, (64, 0, 5064));
        tcp[PROTOCOL as usize] = 6;
        let mut options = datagram(0xff, all, (64, 0, 5064));
        options[VERSION as usize] = 0x46;
        assert!(!keeps(&asking, &tcp) && !keeps(&asking, &options));
        for count in [1, Whose::PORTS] {
            let ports: Vec<u16> = (1..=count as u16).collect();
            let asking = Whose::Asking { host: HOST.into(), ports };
            assert!(keeps(&asking, &datagram(0xff, all, (64, 0, 1))));
            assert!(keeps(&asking, &datagram(0xff, all, (64, 0, count as u16))));
            assert!(!keeps(&asking, &datagram(0xff, all, (64, 0, count as u16 + 1))));
        }
    }

    #[test]
    fn of_us_only_datagrams_that_leave_are_kept() {
        let datagram = ipv4(2, HOST, OTHER);
        let mut segment = datagram.clone();
        segment[23] = 6;
        assert!(keeps(&Whose::Us, &datagram) && !keeps_of_kind(0, &Whose::Us, &datagram));
        assert!(!keeps(&Whose::Us, &segment) && !keeps(&Whose::Us, &arp(HOST)));
    }
}
