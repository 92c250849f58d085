//! The nat table of legacy iptables, in the form in which the kernel has it (linux/netfilter_ipv4/ip_tables.h,
//! linux/netfilter/x_tables.h). Numbers are in the processor's byte order, addresses in the network's.

use std::{
    collections::BTreeSet,
    fs::read_to_string,
    io::Error as IoError,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
};

use nix::libc;

use super::{
    packet::Arrival,
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
/// `sizeof(struct ipt_getinfo)`, of `ipt_get_entries`, of `ipt_entry`, of `xt_entry_match`.
const INFO: usize = 84;
const BEFORE_ENTRIES: usize = 40;
const ENTRY: usize = 112;
const MATCH: usize = 32;

/// The rules of the table.
#[derive(Debug, Default)]
pub(super) struct Legacy {
    entries: Vec<u8>,
    /// Where the chain PREROUTING begins.
    base: usize,
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
        let (base, size) = (number(36), number(80)); // hook_entry[NF_INET_PRE_ROUTING], size
        let mut answer = named(BEFORE_ENTRIES + size);
        answer[32..36].copy_from_slice(&(size as u32).to_ne_bytes());
        ask(&socket, GET_ENTRIES, &mut answer)?;
        Ok(Self { entries: answer.split_off(BEFORE_ENTRIES), base })
    }

    /// The chain that forwards what arrives, of all those in which it may get.
    pub(super) fn forwards(&self, arrival: Arrival<'_>) -> Option<String> {
        let mut known = BTreeSet::from([self.base]);
        let mut next = vec![self.base];
        while let Some(chain) = next.pop() {
            for rule in self.chain(chain) {
                match rule.step(arrival) {
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
        before.and_then(|(_, entry)| entry.names_chain()).unwrap_or("PREROUTING").into()
    }
}

/// A rule, or the name of the chain that begins after it; followed by all others.
#[derive(Clone, Copy)]
struct Entry<'a>(&'a [u8]);

impl<'a> Entry<'a> {
    fn step(self, arrival: Arrival<'_>) -> Step<usize> {
        let Some(verdict) = self.conditions(arrival) else { return Step::Next };
        let step = match self.target() {
            Some(("", code)) => usize::try_from(code).map_or(Step::Ends, |chain| Step::Chains(vec![chain])),
            Some((name, _)) if xt::forwards(name) => Step::Forwards,
            _ => Step::Next,
        };
        conclude(verdict, step)
    }

    fn conditions(self, arrival: Arrival<'_>) -> Option<Verdict> {
        let fields = self.0.get(..ENTRY)?;
        let negates = |flag: u8| fields[83] & flag != 0;
        let equal = |at: usize, mask: usize, value: &[u8]| {
            value
                .iter()
                .enumerate()
                .all(|(byte, value)| (value ^ fields[at + byte]) & fields[mask + byte] == 0)
        };
        let mut name = [0; 16];
        name.iter_mut().zip(arrival.uplink.bytes()).for_each(|(byte, value)| *byte = value);
        let protocol = half(fields, 80)?;
        let known = [
            equal(4, 12, &arrival.at.address) != negates(0x10), // IPT_INV_DSTIP
            equal(16, 48, &name) != negates(1),                 // IPT_INV_VIA_IN
            protocol == 0 || (protocol == arrival.at.protocol) != negates(0x40), // IPT_INV_PROTO
        ];
        let from_all = fields[8..12] == [0; 4] && !negates(8); // IPT_INV_SRCIP
        let fields = Verdict {
            holds: if known.contains(&false) { Some(false) } else { from_all.then_some(true) },
            names_port: false,
        };
        Some(self.matches().fold(fields, |all, (name, info)| all.and(xt::judge(name, info, arrival))))
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
