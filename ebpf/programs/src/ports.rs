//! External ports: finding the one that stands for a pod's endpoint, or taking one, before the answer that names it
//! leaves the node.
//!
//! The claim in EXTERNALS is the truth, taken by a compare-and-insert; INTERNALS only finds it faster. A port is looked
//! for from the place that the pod's identity and port prefer. Where none is free, one whose pod no longer has a socket
//! behind it is taken over: this is how the ports of finished clients and restarted servers come back. A pod that has as
//! many as it may takes over its own only.

use core::ffi::c_void;

use abi::{Claim, Domain, Endpoint, Member, Protocol, preferred_port};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::bpf_loop,
};

use crate::{
    maps::{EXTERNALS, INTERNALS, MEMBERS, TAKEN},
    skb::{OWN_NETNS, Skb},
};

/// Nobody: the peer in a look-up of any socket on a port.
const ANYONE: Endpoint = Endpoint { address: [0; 4], port: 0, protocol: 0 };

/// A search for a free external port, passed through `bpf_loop`.
struct Search {
    skb: *mut __sk_buff,
    claim: Claim,
    uplink: [u8; 4],
    first: u32,
    count: u32,
    start: u32,
    found: u32,
    /// Not 0 if the member has all the ports that it may.
    full: u32,
}

/// The external endpoint on `uplink` that stands for `pod`, an endpoint of `member`; `None` if none is left.
#[inline(always)]
pub fn external(
    skb: Skb,
    (member, interface): (&Member, u32),
    domain: &Domain,
    uplink: [u8; 4],
    (pod, protocol, peer): (Endpoint, u16, [u8; 4]),
) -> Option<Endpoint> {
    if let Some(known) = known(domain, uplink, pod, interface) {
        if protocol == Protocol::Gvsp as u16 {
            make_stream(known, peer);
        }
        return Some(known);
    }
    let first = domain.first_port as u32;
    let count = (domain.last_port as u32).checked_sub(first)? + 1;
    let mut search = Search {
        skb: skb.raw(),
        claim: Claim {
            pod,
            member: interface,
            domain: member.domain,
            protocol: protocol as u8,
            pinned: 0,
            peer,
            trouble: 0,
        },
        uplink,
        first,
        count,
        start: preferred_port(member.identity, pod.port, count),
        found: 0,
        full: (taken(interface) >= domain.ports_per_pod) as u32,
    };
    let pointer = &raw mut search;
    // SAFETY: the callbacks have the type bpf_loop calls, and the state outlives both loops.
    let found = unsafe {
        if search.full == 0 {
            bpf_loop(count, take_free as *mut c_void, pointer.cast(), 0);
        }
        if (*pointer).found == 0 {
            bpf_loop(count, take_over as *mut c_void, pointer.cast(), 0);
        }
        (*pointer).found
    };
    if found == 0 {
        return None;
    }
    let external = Endpoint { address: uplink, port: found as u16, protocol: pod.protocol };
    let _ = INTERNALS.insert(pod, external, 0); // full: found again by the search next time
    Some(external)
}

/// The external endpoint on `uplink` that already stands for `pod`, if it is pinned, or still one of the domain's.
#[inline(always)]
fn known(domain: &Domain, uplink: [u8; 4], pod: Endpoint, interface: u32) -> Option<Endpoint> {
    // SAFETY: copied at once, and checked against its claim below.
    let external = unsafe { INTERNALS.get(pod) }.copied()?;
    // SAFETY: copied at once.
    let claim = unsafe { EXTERNALS.get(external) }.copied()?;
    let ours = claim.pod == pod && claim.member == interface && external.address == uplink;
    let in_range = domain.first_port <= external.port && external.port <= domain.last_port;
    (ours && (in_range || claim.pinned != 0)).then_some(external)
}

/// Makes a port that the pod has already, as for a socket that it uses otherwise now, one for a stream from `peer`.
#[inline(always)]
fn make_stream(external: Endpoint, peer: [u8; 4]) {
    let Some(claim) = EXTERNALS.get_ptr_mut(external) else { return };
    // SAFETY: the memory stays a claim; if the entry is removed meanwhile, the write is lost with it.
    let claim = unsafe { &mut *claim };
    claim.protocol = Protocol::Gvsp as u8;
    claim.peer = peer;
    claim.trouble = 0;
}

/// Whether the pod that took the port still has the address.
#[inline(always)]
pub fn is_current(claim: &Claim) -> bool {
    // SAFETY: compared at once.
    unsafe { MEMBERS.get(claim.member) }.is_some_and(|member| member.address == claim.pod.address)
}

/// Gives the member `port` itself, for good, if nobody has it who is still there: a camera's clients know no other.
#[inline(always)]
pub fn claim(domain: u16, interface: u32, external: Endpoint, pod: Endpoint) -> bool {
    // SAFETY: copied at once.
    if let Some(claim) = unsafe { EXTERNALS.get(external) }.copied() {
        if is_current(&claim) {
            return claim.pod == pod && claim.member == interface;
        }
        let _ = EXTERNALS.remove(external);
    }
    let protocol = Protocol::Gvcp as u8;
    let claim = Claim { pod, member: interface, domain, protocol, pinned: 1, peer: [0; 4], trouble: 0 };
    EXTERNALS.insert(external, claim, BPF_NOEXIST as u64).is_ok()
        && INTERNALS.insert(pod, external, 0).is_ok()
}

impl Search {
    #[inline(always)]
    fn candidate(&self, index: u32) -> Endpoint {
        let offset = (self.start + index).checked_rem(self.count).unwrap_or(0);
        Endpoint {
            address: self.uplink,
            port: (self.first + offset) as u16,
            protocol: self.claim.pod.protocol,
        }
    }

    /// Claims a port that nobody has; false if somebody was faster.
    #[inline(always)]
    fn insert(&self, candidate: Endpoint) -> bool {
        let inserted = EXTERNALS.insert(candidate, self.claim, BPF_NOEXIST as u64).is_ok();
        if inserted {
            add_taken(self.claim.member, 1);
        }
        inserted
    }
}

/// Takes the candidate if it is free or already ours; returns 1 to stop.
extern "C" fn take_free(index: u32, search: *mut Search) -> i64 {
    // SAFETY: `search` is the state passed to bpf_loop, alive during the loop.
    let search = unsafe { &mut *search };
    let candidate = search.candidate(index);
    // SAFETY: copied at once.
    let taken = match unsafe { EXTERNALS.get(candidate) }.copied() {
        Some(claim) => claim.pod == search.claim.pod && claim.member == search.claim.member,
        // A process of the node may have asked for this very port.
        None => !Skb::from_raw(search.skb).socket(&ANYONE, &candidate, OWN_NETNS) && search.insert(candidate),
    };
    if taken {
        search.found = candidate.port as u32;
    }
    taken as i64
}

/// Takes the candidate if its holder has no socket behind it any more; returns 1 to stop.
extern "C" fn take_over(index: u32, search: *mut Search) -> i64 {
    // SAFETY: as in `take_free`.
    let search = unsafe { &mut *search };
    let candidate = search.candidate(index);
    // SAFETY: copied at once.
    let Some(claim) = (unsafe { EXTERNALS.get(candidate) }).copied() else { return 0 };
    let foreign = claim.member != search.claim.member;
    if foreign && search.full != 0 || is_alive(search.skb, &claim) || EXTERNALS.remove(candidate).is_err() {
        return 0;
    }
    add_taken(claim.member, -1);
    if !search.insert(candidate) {
        return 0;
    }
    let _ = INTERNALS.remove(claim.pod);
    search.found = candidate.port as u32;
    1
}

/// External ports that a member has taken.
#[inline(always)]
fn taken(interface: u32) -> u32 {
    // SAFETY: copied at once.
    unsafe { TAKEN.get(interface) }.copied().unwrap_or(0)
}

/// Two processors at the same number may miss one of their changes: the limit is no exact number.
#[inline(always)]
fn add_taken(interface: u32, change: i32) {
    if let Some(count) = TAKEN.get_ptr_mut(interface) {
        // SAFETY: the memory stays a number; that of a member that is gone counts for nobody.
        unsafe { *count = (*count).saturating_add_signed(change) };
    } else if change > 0 {
        let _ = TAKEN.insert(interface, 1, 0);
    }
}

/// Whether the claim is pinned, or its member still has a socket on the port. One that is connected to a single peer does
/// not count.
#[inline(always)]
fn is_alive(skb: *mut __sk_buff, claim: &Claim) -> bool {
    if claim.pinned != 0 {
        return true;
    }
    // SAFETY: copied at once.
    let Some(netns) = (unsafe { MEMBERS.get(claim.member) }).map(|member| member.netns) else { return false };
    Skb::from_raw(skb).socket(&ANYONE, &claim.pod, netns)
}
