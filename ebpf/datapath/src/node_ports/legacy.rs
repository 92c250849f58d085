//! The nat table of legacy iptables, in the form in which the kernel has it (linux/netfilter_ipv4/ip_tables.h,
//! linux/netfilter/x_tables.h). Numbers are in the processor's byte order, addresses in the network's.

use std::{
    collections::BTreeSet,
    fs::read_to_string,
    io::Error as IoError,
    iter::repeat,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
};

use nix::libc;

use super::{
    packet::Packet,
    verdict::{Step, Verdict, conclude},
    xt,
};
use crate::{Error, Result};

/// Which tables there are. To ask for one that is not there would make it.
const TABLES: &str = "/proc/thread-self/net/ip_tables_names";
const NAT: &str = "nat";
/// `IPT_SO_GET_INFO`, `IPT_SO_GET_ENTRIES`.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// `IFNAMSIZ`.
const NAME: usize = 16;
/// `sizeof(struct ipt_getinfo)`, of `ipt_get_entries`, of `ipt_entry`, of `xt_entry_match`.
const INFO: usize = 84;
const BEFORE_ENTRIES: usize = 40;
const ENTRY: usize = 112;
const MATCH: usize = 32;

/// The rules of the table.
#[derive(Debug, Default)]
pub(super) struct Legacy {
    entries: Vec<u8>,
    /// Where the chains PREROUTING and POSTROUTING begin.
    bases: [usize; 2],
}

impl Legacy {
    /// Reads the table; it is empty if there is none.
    pub(super) fn read() -> Result<Self> {
        if !read_to_string(TABLES).is_ok_and(|names| names.lines().any(|name| name == NAT)) {
            return Ok(Self::default());
        }
        let fault = |error: IoError| Error::kernel("cannot read the nat table of legacy iptables", error);
        // Again, if its length has changed between the two questions.
        Self::try_read().or_else(|_| Self::try_read()).map_err(fault)
    }

    fn try_read() -> Result<Self, IoError> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let mut info = named(INFO);
        ask(&socket, GET_INFO, &mut info)?;
        let number = |at: usize| word(&info, at).unwrap_or(0) as usize;
        let (bases, size) = ([number(36), number(52)], number(80)); // hook_entry[NF_INET_PRE_ROUTING, _POST_ROUTING], size
        let mut answer = named(BEFORE_ENTRIES + size);
        answer[32..36].copy_from_slice(&(size as u32).to_ne_bytes());
        ask(&socket, GET_ENTRIES, &mut answer)?;
        Ok(Self { entries: answer.split_off(BEFORE_ENTRIES), bases })
    }

    /// The chain that translates a packet, of all those in which it may get.
    pub(super) fn translates(&self, packet: Packet<'_>) -> Option<String> {
        let base = self.bases[usize::from(matches!(packet, Packet::Out(_)))];
        let mut known = BTreeSet::from([base]);
        let mut next = vec![base];
        while let Some(chain) = next.pop() {
            for rule in self.chain(chain) {
                match rule.step(packet) {
                    Step::Next => {}
                    Step::Forwards => return Some(self.name(chain)),
                    Step::Ends => break,
                    Step::Chains(chains) => next.extend(chains.iter().filter(|chain| known.insert(**chain))),
                }
            }
        }
        None
    }

    /// The entries from `at` on.
    fn entries(&self, at: usize) -> impl Iterator<Item = (usize, Entry<'_>)> {
        let mut at = at;
        std::iter::from_fn(move || {
            let entry = Entry(self.entries.get(at..)?);
            let begin = at;
            at += half(entry.0, 90).map(usize::from).filter(|length| *length >= ENTRY)?; // next_offset
            Some((begin, entry))
        })
    }

    /// The rules of the chain that begins at `at`: after its last one another chain's name comes.
    fn chain(&self, at: usize) -> impl Iterator<Item = Entry<'_>> {
        self.entries(at).map(|(_, entry)| entry).take_while(|entry| entry.names_chain().is_none())
    }

    /// The name of the chain that begins at `at`, which stands before it.
    fn name(&self, at: usize) -> String {
        let before = self.entries(0).take_while(|(begin, _)| *begin < at).last();
        before
            .and_then(|(_, entry)| entry.names_chain())
            .unwrap_or(if at == self.bases[0] { "PREROUTING" } else { "POSTROUTING" })
            .into()
    }
}

/// A part of a packet that a rule compares.
struct Compared {
    /// Where the wanted value is in the rule, and where its mask.
    at: usize,
    mask: usize,
    length: usize,
    /// The flag of `IPT_INV_` that negates it.
    negated: u8,
}

const SOURCE: Compared = Compared { at: 0, mask: 8, length: 4, negated: 0x08 };
const DESTINATION: Compared = Compared { at: 4, mask: 12, length: 4, negated: 0x10 };
const INPUT: Compared = Compared { at: 16, mask: 48, length: NAME, negated: 0x01 };
const OUTPUT: Compared = Compared { at: 32, mask: 64, length: NAME, negated: 0x02 };

impl Compared {
    /// Whether the rule with these fields wants what the packet has, which may not be known.
    fn holds(&self, fields: &[u8], value: Option<Vec<u8>>) -> Option<bool> {
        let Self { at, mask, length, negated } = *self;
        let (wanted, mask) = (&fields[at..at + length], &fields[mask..mask + length]);
        let is_negated = fields[83] & negated != 0;
        let Some(value) = value else {
            let any = mask.iter().all(|byte| *byte == 0) && !is_negated;
            return any.then_some(true);
        };
        let mut bytes = wanted.iter().zip(mask).zip(value);
        let is_equal = bytes.all(|((wanted, mask), value)| (wanted ^ value) & mask == 0);
        Some(is_equal != is_negated)
    }
}

/// A rule, or the name of the chain that begins after it; followed by all others.
#[derive(Clone, Copy)]
struct Entry<'a>(&'a [u8]);

impl<'a> Entry<'a> {
    fn step(self, packet: Packet<'_>) -> Step<usize> {
        let Some(verdict) = self.conditions(packet) else { return Step::Next };
        let step = match self.target() {
            Some(("", code)) => usize::try_from(code).map_or(Step::Ends, |chain| Step::Chains(vec![chain])),
            Some((name, _)) if xt::translates(name, packet) => Step::Forwards,
            _ => Step::Next,
        };
        conclude(verdict, step)
    }

    fn conditions(self, packet: Packet<'_>) -> Option<Verdict> {
        let fields = self.0.get(..ENTRY)?;
        let protocol = half(fields, 80)?;
        let address = |address: abi::Address| address.to_vec();
        let name = |name: &str| name.bytes().chain(repeat(0)).take(NAME).collect();
        let of_protocol =
            protocol == 0 || (protocol == u16::from(packet.protocol())) != (fields[83] & 0x40 != 0); // IPT_INV_PROTO
        let known = [
            Some(of_protocol),
            SOURCE.holds(fields, packet.source().map(address)),
            DESTINATION.holds(fields, Some(address(packet.destination()))),
            INPUT.holds(fields, packet.input().map(name)),
            OUTPUT.holds(fields, packet.output().map(name)),
        ];
        let known = known.into_iter().map(|holds| Verdict { holds, names_port: false });
        let matches = self.matches().map(|(name, info)| xt::judge(name, info, packet));
        Some(known.chain(matches).fold(Verdict::MATCHES, Verdict::and))
    }

    /// Names of matches, and what they compare with.
    fn matches(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let end = half(self.0, 88).map_or(0, usize::from); // target_offset
        let mut rest = self.0.get(ENTRY..end).unwrap_or_default();
        std::iter::from_fn(move || {
            let length = half(rest, 0).map(usize::from).filter(|length| *length >= MATCH)?;
            let (name, info) = (text(rest.get(2..31)?)?, rest.get(MATCH..length)?);
            rest = &rest[length..];
            Some((name, info))
        })
    }

    fn at_target(self) -> Option<&'a [u8]> {
        self.0.get(usize::from(half(self.0, 88)?)..)
    }

    /// The chain that begins here, if a rule does not.
    fn names_chain(self) -> Option<&'a str> {
        let (target, _) = self.target()?;
        (target == "ERROR").then(|| text(self.at_target()?.get(MATCH..)?))?
    }

    /// The target's name, and where it leads or what it decides if it has none.
    fn target(self) -> Option<(&'a str, i32)> {
        let target = self.at_target()?;
        let name = text(target.get(2..31)?)?;
        let code = if name.is_empty() { word(target, MATCH)?.cast_signed() } else { 0 };
        Some((name, code))
    }
}

/// A question about the table, with room for an answer of this length.
fn named(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[..NAT.len()].copy_from_slice(NAT.as_bytes());
    bytes
}

fn ask(socket: &UdpSocket, option: libc::c_int, bytes: &mut [u8]) -> Result<(), IoError> {
    let mut length = bytes.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, and `bytes` has as many.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(IoError::last_os_error()) }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// What stands before the first zero.
fn text(bytes: &[u8]) -> Option<&str> {
    bytes.split(|byte| *byte == 0).next().and_then(|text| str::from_utf8(text).ok())
}
