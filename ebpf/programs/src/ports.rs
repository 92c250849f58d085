//! External ports: finds the one that stands for a pod's endpoint, or allocates one, before the answer that names it leaves
//! the node.
//!
//! The claim in EXTERNALS is authoritative, and inserted only if absent; INTERNALS is an index for finding it faster. The
//! search for a port starts at a position derived from the pod's identity and port. If none is free, a port whose pod has no
//! socket behind it any more is taken over: this is how the ports of finished clients and restarted servers are reclaimed. A
//! pod at its limit only takes over its own.

use core::ffi::c_void;

use abi::{Address, Claim, Domain, Endpoint, Member, NO_ADDRESS, preferred_port};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::bpf_loop,
};

use crate::{
    maps::{EXTERNALS, INTERNALS, MEMBERS, PORT_COUNTS, lookup},
    skb::{OWN_NETNS, Skb},
};

/// No peer: for looking up any socket on a port.
const ANYONE: Endpoint = Endpoint { address: [0; 4], port: 0, protocol: 0 };

/// A search for a free external port, passed through `bpf_loop`.
struct Search {
    skb: *mut __sk_buff,
    claim: Claim,
    uplink: Address,
    first: u32,
    count: u32,
    start: u32,
    found: u32,
    /// Not 0 if the member is at its limit of ports.
    full: u32,
}

/// Who gets an external port, and on which uplink.
pub struct Holder<'a> {
    /// The member.
    pub member: &'a Member,
    /// Interface index of its host-side veth.
    pub interface: u32,
    /// Its domain.
    pub domain: &'a Domain,
    /// The uplink's address.
    pub uplink: Address,
}

impl Holder<'_> {
    /// A claim for `pod`, for datagrams of `protocol` from any peer.
    #[inline(always)]
    fn claim(&self, pod: Endpoint, protocol: u16) -> Claim {
        Claim {
            pod,
            member: self.interface,
            generation: self.member.generation,
            domain: self.member.domain,
            protocol: protocol as u8,
            pinned: 0,
            peer: NO_ADDRESS,
            trouble: 0,
        }
    }
}

/// The external endpoint on the uplink that stands for `pod`, an endpoint of the holder, for datagrams of `protocol`; `None`
/// if no port is left.
#[inline(always)]
pub fn external(skb: Skb, holder: &Holder, pod: Endpoint, protocol: u16) -> Option<Endpoint> {
    if let Some(known) = known(holder, pod) {
        return Some(known);
    }
    let first = holder.domain.first_port as u32;
    let count = (holder.domain.last_port as u32).checked_sub(first)? + 1;
    let mut search = Search {
        skb: skb.raw(),
        claim: holder.claim(pod, protocol),
        uplink: holder.uplink,
        first,
        count,
        start: preferred_port(holder.member.identity, pod.port, count),
        found: 0,
        full: (port_count(holder.interface) >= holder.domain.ports_per_pod) as u32,
    };
    let pointer = &raw mut search;
    // SAFETY: the callbacks have the type that bpf_loop calls, and the state outlives both loops.
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
    let external = Endpoint { address: holder.uplink, port: found as u16, protocol: pod.protocol };
    let _ = INTERNALS.insert(pod, external, 0); // if full: the search finds the claim again next time
    Some(external)
}

/// The external endpoint that the pod's endpoint already has, if it is pinned or still in the domain's range.
#[inline(always)]
fn known(holder: &Holder, pod: Endpoint) -> Option<Endpoint> {
    let external = lookup(&INTERNALS, pod)?;
    let known = lookup(&EXTERNALS, external)?;
    let ours =
        known.is_of(pod, holder.interface, holder.member.generation) && external.address == holder.uplink;
    let in_range = holder.domain.first_port <= external.port && external.port <= holder.domain.last_port;
    (ours && (in_range || known.pinned != 0)).then_some(external)
}

/// Restricts a port to datagrams of `protocol` from `peer`, whatever its socket was used for before.
#[inline(always)]
pub fn restrict(external: Endpoint, protocol: u16, peer: Address) {
    let Some(claim) = EXTERNALS.get_ptr_mut(external) else { return };
    // SAFETY: the memory stays a claim; if the entry is removed concurrently, the write is lost with it.
    let claim = unsafe { &mut *claim };
    (claim.protocol, claim.peer, claim.trouble) = (protocol as u8, peer, 0);
}

/// Whether the member that claimed the port still exists.
#[inline(always)]
pub fn is_current(claim: &Claim) -> bool {
    lookup(&MEMBERS, claim.member).is_some_and(|member| member.generation == claim.generation)
}

/// Gives the holder exactly `external`, pinned, unless an existing member has it.
#[inline(always)]
pub fn claim(holder: &Holder, external: Endpoint, pod: Endpoint, protocol: u16) -> bool {
    let wanted = Claim { pinned: 1, ..holder.claim(pod, protocol) };
    if let Some(claim) = lookup(&EXTERNALS, external) {
        if is_current(&claim) {
            return claim.is_same(&wanted);
        }
        let _ = EXTERNALS.remove(external);
    }
    EXTERNALS.insert(external, wanted, BPF_NOEXIST as u64).is_ok()
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

    /// Claims a free port; false if another CPU was faster.
    #[inline(always)]
    fn insert(&self, candidate: Endpoint) -> bool {
        let inserted = EXTERNALS.insert(candidate, self.claim, BPF_NOEXIST as u64).is_ok();
        if inserted {
            add_port_count(self.claim.member, 1);
        }
        inserted
    }
}

/// Takes the candidate if it is free or already ours; returns 1 to stop.
extern "C" fn take_free(index: u32, search: *mut Search) -> i64 {
    // SAFETY: `search` is the state passed to bpf_loop, alive during the loop.
    let search = unsafe { &mut *search };
    let candidate = search.candidate(index);
    let taken = match lookup(&EXTERNALS, candidate) {
        Some(claim) => claim.is_same(&search.claim),
        // A process on the node may have bound this very port.
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
    let Some(claim) = lookup(&EXTERNALS, candidate) else { return 0 };
    let foreign = claim.member != search.claim.member;
    if foreign && search.full != 0 || is_alive(search.skb, &claim) || EXTERNALS.remove(candidate).is_err() {
        return 0;
    }
    add_port_count(claim.member, -1);
    if !search.insert(candidate) {
        return 0;
    }
    let _ = INTERNALS.remove(claim.pod);
    search.found = candidate.port as u32;
    1
}

/// How many external ports a member has taken.
#[inline(always)]
fn port_count(interface: u32) -> u32 {
    lookup(&PORT_COUNTS, interface).unwrap_or(0)
}

/// If two CPUs change the same count at once, one change may be lost: the limit is approximate.
#[inline(always)]
fn add_port_count(interface: u32, change: i32) {
    if let Some(count) = PORT_COUNTS.get_ptr_mut(interface) {
        // SAFETY: the memory stays a number; the count of a removed member is not used.
        unsafe { *count = (*count).saturating_add_signed(change) };
    } else if change > 0 {
        let _ = PORT_COUNTS.insert(interface, 1, 0);
    }
}

/// Whether the claim is pinned, or its member still has a socket on the port. A socket connected to a single peer does not
/// count.
#[inline(always)]
fn is_alive(skb: *mut __sk_buff, claim: &Claim) -> bool {
    if claim.pinned != 0 {
        return true;
    }
    let holder = lookup(&MEMBERS, claim.member).filter(|member| member.generation == claim.generation);
    holder.is_some_and(|member| Skb::from_raw(skb).socket(&ANYONE, &claim.pod, member.netns))
}
