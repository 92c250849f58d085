//! External ports: finds the one that stands for a pod's endpoint, or allocates one, before the answer that names it leaves
//! the node.
//!
//! The claim in EXTERNALS is authoritative; INTERNALS is an index for finding it faster. Whoever makes, changes or removes a
//! claim, or its entry in INTERNALS, holds the lock of its owner (CHANGING); a program that takes another owner's port holds
//! both. A new claim is inserted only if there is none, and replaces one in place only if it is still the one looked at.
//!
//! An owner gets its port back. Otherwise the search for one starts at a position derived from the owner. If none is free, a
//! client's whose socket is closed is taken over, or a server's that had no socket for a while ([`abi::GRACE`]). A pod at its
//! limit only takes over its own. A search takes long if it finds nothing, so the next one has to wait.

use core::ffi::c_void;

use abi::{
    Address, Claim, Domain, Endpoint, Member, NO_ADDRESS, Owner, Search, Share, hold, preferred_port,
    seconds, share,
};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_EXIST, BPF_NOEXIST},
    helpers::bpf_loop,
};

use crate::{
    maps::{CHANGING, DOMAINS, EXTERNALS, INTERNALS, MEMBERS, PORT_COUNTS, SEARCH, lookup, own},
    skb::{OWN_NETNS, Skb, now},
};

/// No peer: for looking up any socket on a port.
pub const ANYONE: Endpoint = Endpoint { address: [0; 4], port: 0, protocol: 0 };
/// The most ports that one search looks at.
const MOST: u32 = 4096;
/// How often a lock is tried: longer than a search takes.
const TRIES: u32 = 1 << 14;
/// How many times as long as a search that found nothing the next one has to wait.
const PAUSE: u64 = 64;
/// The share of who has taken nothing. Not made on the stack, which is scarce.
static NOTHING: Share = Share::NOTHING;
/// What is full: the pod's share, or its domain's.
const POD: u32 = 1;
const DOMAIN: u32 = 2;

/// A search, passed through `bpf_loop`.
struct Looking<'a> {
    skb: *mut __sk_buff,
    search: &'a mut Search,
    /// Not 0 if it has found a port.
    done: u32,
}

/// Who gets an external port, and on which uplink.
pub struct Holder<'a> {
    /// The member.
    pub member: &'a Member,
    /// Interface index of its host-side veth.
    pub interface: u32,
    /// The uplink's address.
    pub uplink: Address,
}

impl Holder<'_> {
    /// A search for a port for `pod`, for datagrams of `protocol` from any peer.
    #[inline(always)]
    fn search(&self, pod: Endpoint, protocol: u16, hold: u8) -> Option<&'static mut Search> {
        let Member { identity, generation, domain, .. } = *self.member;
        let search = this_search()?;
        search.claim = Claim {
            identity,
            pod,
            member: self.interface,
            generation,
            vacant: 0,
            peer: NO_ADDRESS,
            trouble: 0,
            domain,
            protocol: protocol as u8,
            hold,
        };
        search.owner = search.claim.owner();
        search.external = Endpoint { address: self.uplink, port: 0, protocol: pod.protocol };
        Some(search)
    }
}

/// This CPU's search.
#[inline(always)]
fn this_search() -> Option<&'static mut Search> {
    own(&SEARCH)
}

/// The external endpoint on the uplink that stands for `pod`, an endpoint of the holder, for datagrams of `protocol`; `None`
/// if no port is left.
#[inline(always)]
pub fn external(skb: Skb, holder: &Holder, pod: Endpoint, protocol: u16, hold: u8) -> Option<Endpoint> {
    let search = holder.search(pod, protocol, hold)?;
    let domain = DOMAINS.get(search.claim.domain as u32)?;
    let known = search.find_given(domain) && search.found.is_same(&search.claim) && search.found.hold >= hold;
    if known && search.found.vacant != 0 {
        mark(&search.external, 0);
    }
    let port = if known { search.external.port as u32 } else { take_port(skb.raw()) };
    (port != 0).then_some(Endpoint { address: holder.uplink, port: port as u16, protocol: pod.protocol })
}

/// Gives this CPU's search a port, which it returns; 0 if there is none. A function that the verifier looks at once, not for each
/// of its callers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_port(skb: *mut __sk_buff) -> u32 {
    let Some(search) = this_search() else { return 0 };
    let Some(domain) = DOMAINS.get(search.claim.domain as u32) else { return 0 };
    search.read_shares(domain);
    if search.closed != 0 && INTERNALS.get_ptr(&search.owner).is_none() || !search.lock() {
        return 0;
    }
    let taken = search.find_given(domain) && search.regain(skb, domain)
        || search.closed == 0 && search.find(skb, domain);
    if taken {
        let _ = INTERNALS.insert(&search.owner, &search.external, 0); // if full: the search finds the claim again next time
    }
    search.unlock();
    if taken { search.external.port as u32 } else { 0 }
}

/// Restricts a port to datagrams of `protocol` from `peer`, whatever its socket was used for before.
#[inline(always)]
pub fn restrict(external: Endpoint, protocol: u16, peer: Address) {
    let Some(search) = this_search() else { return };
    if !search.look_at(external)
        || (search.found.protocol as u16, search.found.peer, search.found.trouble) == (protocol, peer, 0)
    {
        return;
    }
    // SAFETY: two fields of the same entry.
    unsafe { (&raw const search.found).copy_to_nonoverlapping(&raw mut search.claim, 1) };
    (search.claim.protocol, search.claim.peer, search.claim.trouble) = (protocol as u8, peer, 0);
    search.owner = search.claim.owner();
    change_port();
}

/// Puts the claim of this CPU's search in the place of the one that it found; 0 if somebody has changed that meanwhile. Verified
/// once, as [`take_port`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn change_port() -> u32 {
    let Some(search) = this_search() else { return 0 };
    if !search.lock() {
        return 0;
    }
    let changed = search.replace();
    search.unlock();
    changed as u32
}

/// Gives the holder exactly `external`, pinned, unless an existing member has it.
#[inline(always)]
pub fn claim(holder: &Holder, external: Endpoint, pod: Endpoint, protocol: u16) -> bool {
    let Some(search) = holder.search(pod, protocol, hold::PINNED) else { return false };
    if search.look_at(external) && search.found.is_same(&search.claim) {
        return true;
    }
    if !search.lock() {
        return false;
    }
    let taken = match search.look_at(external) {
        false => search.insert(),
        true if is_current(&search.found) => search.found.is_same(&search.claim),
        true => search.replace(),
    };
    let taken = taken && INTERNALS.insert(&search.owner, &search.external, 0).is_ok();
    search.unlock();
    taken
}

/// Whether the member that claimed the port still exists.
#[inline(always)]
pub fn is_current(claim: &Claim) -> bool {
    netns(claim).is_some()
}

/// The namespace of the member that claimed the port, if it still exists.
#[inline(always)]
fn netns(claim: &Claim) -> Option<i32> {
    let member = lookup(&MEMBERS, claim.member)?;
    (member.generation == claim.generation).then_some(member.netns)
}

/// Whether a process of the node has a socket there.
#[inline(always)]
fn is_of_the_node(skb: *mut __sk_buff, external: &Endpoint) -> bool {
    Skb::from_raw(skb).socket(&ANYONE, external, OWN_NETNS)
}

#[inline(always)]
fn has(domain: &Domain, port: u16) -> bool {
    domain.first_port <= port && port <= domain.last_port
}

/// Steps of a search; it is in a map, so that no step needs much of the stack.
trait Steps {
    /// Looks at an external endpoint; false if nobody has it.
    fn look_at(&mut self, external: Endpoint) -> bool;
    /// Looks at the one that the owner was given; false if it has none that is pinned or still in the domain's range.
    fn find_given(&mut self, domain: &Domain) -> bool;
    /// Makes the claim that was found the wanted one; false if another member has it, or a process of the node.
    fn regain(&mut self, skb: *mut __sk_buff, domain: &Domain) -> bool;
    /// Finds a port, free or to be taken over.
    fn find(&mut self, skb: *mut __sk_buff, domain: &Domain) -> bool;
    /// Reads which shares are used up, and whether there was nothing left a moment ago.
    fn read_shares(&mut self, domain: &Domain);
    /// The share that decides: a pod at its limit does not keep others from searching.
    fn share(&self) -> u32;
    /// After a search that began then and found no free port, perhaps none at all: lets the next ones wait.
    fn pause(&self, begin: u64, in_vain: bool);
    /// Claims a port that nobody has; false if another CPU was faster.
    fn insert(&self) -> bool;
    /// Puts the claim in the place of the one that was found, if nobody has changed that meanwhile.
    fn replace(&mut self) -> bool;
    /// Whether nobody is behind the port that was found any more: its member is gone, or has no socket there. For a server this
    /// counts only after a while, which begins here. A socket connected to a single peer does not count.
    fn is_given_up(&self, skb: *mut __sk_buff) -> bool;
    /// Waits for the lock of the owner; false if somebody keeps it.
    fn lock(&mut self) -> bool;
    /// Gives it back.
    fn unlock(&self);
}

impl Steps for Search {
    #[inline(always)]
    fn look_at(&mut self, external: Endpoint) -> bool {
        self.external = external;
        let Some(claim) = EXTERNALS.get_ptr(&self.external) else { return false };
        // SAFETY: as in `lookup`. Not by way of the stack: the compiler would call a function for it, which needs more of that.
        unsafe { claim.copy_to_nonoverlapping(&raw mut self.found, 1) };
        true
    }

    #[inline(always)]
    fn find_given(&mut self, domain: &Domain) -> bool {
        // SAFETY: as in `lookup`, with a key that is not on the stack.
        let Some(external) = INTERNALS.get_ptr(&self.owner).map(|external| unsafe { external.read() }) else {
            return false;
        };
        external.address == self.external.address
            && self.look_at(external)
            && self.found.owner() == self.owner
            && (has(domain, external.port) || self.found.hold == hold::PINNED)
    }

    #[inline(always)]
    fn regain(&mut self, skb: *mut __sk_buff, domain: &Domain) -> bool {
        if self.found.is_same(&self.claim) {
            let Claim { protocol, peer, trouble, .. } = self.found;
            self.claim =
                Claim { hold: self.claim.hold.max(self.found.hold), protocol, peer, trouble, ..self.claim };
        } else if is_current(&self.found)
            || !has(domain, self.external.port)
            || is_of_the_node(skb, &self.external)
        {
            return false;
        }
        self.replace()
    }

    #[inline(always)]
    fn find(&mut self, skb: *mut __sk_buff, domain: &Domain) -> bool {
        let begin = now();
        self.first = domain.first_port as u32;
        self.count = (domain.last_port as u32 + 1).saturating_sub(self.first);
        self.start = preferred_port(self.claim.identity, self.claim.pod.port, self.count);
        self.now = seconds(begin);
        let most = self.count.min(MOST);
        let mut looking = Looking { skb, search: self, done: 0 };
        let pointer = &raw mut looking;
        // SAFETY: the callbacks have the type that bpf_loop calls, and the state outlives both loops.
        unsafe {
            if (*pointer).search.full == 0 && (*pointer).search.crowded == 0 {
                bpf_loop(most, take_free as *mut c_void, pointer.cast(), 0);
            }
            if (*pointer).done == 0 {
                (*pointer).search.start = (*pointer).search.last;
                bpf_loop(most, take_over as *mut c_void, pointer.cast(), 0);
                (*pointer).search.pause(begin, (*pointer).done == 0);
            }
            (*pointer).done != 0
        }
    }

    #[inline(always)]
    fn read_shares(&mut self, domain: &Domain) {
        let Claim { member, domain: number, pod, .. } = self.claim;
        self.full = if taken(share::of_pod(member)) >= domain.ports_per_pod as i64 {
            POD
        } else if taken(share::of_domain(number, pod.protocol)) >= domain.ports as i64 {
            DOMAIN
        } else {
            0
        };
        (self.closed, self.crowded, self.last) = (0, 0, 0);
        if let Some(share) = PORT_COUNTS.get_ptr(self.share()) {
            // SAFETY: as in `lookup`.
            let Share { closed, crowded, last, .. } = unsafe { share.read() };
            let now = now();
            (self.closed, self.crowded) = ((now < closed) as u32, (now < crowded) as u32);
            self.last = last as u32;
        }
    }

    #[inline(always)]
    fn share(&self) -> u32 {
        let Claim { member, domain, pod, .. } = self.claim;
        if self.full == POD { share::of_pod(member) } else { share::of_domain(domain, pod.protocol) }
    }

    #[inline(always)]
    fn pause(&self, begin: u64, in_vain: bool) {
        let Some(share) = share_of(self.share()) else { return };
        let end = now();
        let until = end + PAUSE * (end - begin);
        if in_vain {
            share.closed = until;
        }
        if self.crowded == 0 {
            share.crowded = until;
        }
        share.last = self.offset as u64;
    }

    #[inline(always)]
    fn insert(&self) -> bool {
        let inserted = EXTERNALS.insert(&self.external, &self.claim, BPF_NOEXIST as u64).is_ok();
        if inserted {
            count(&self.claim, 1);
        }
        inserted
    }

    #[inline(always)]
    fn replace(&mut self) -> bool {
        self.former = self.found.owner();
        let another = self.former != self.owner;
        if another && !try_lock(&self.former) {
            return false;
        }
        let Claim { vacant, hold, .. } = self.found;
        // SAFETY: as in `lookup`.
        let claim = EXTERNALS.get_ptr(&self.external).map(|claim| unsafe { &*claim });
        let unchanged = claim
            .is_some_and(|claim| claim.is_same(&self.found) && claim.vacant == vacant && claim.hold == hold);
        let done = unchanged && EXTERNALS.insert(&self.external, &self.claim, BPF_EXIST as u64).is_ok();
        if done {
            count(&self.found, -1);
            count(&self.claim, 1);
        }
        if another {
            // SAFETY: as in `lookup`.
            let given = INTERNALS.get_ptr(&self.former).map(|external| unsafe { external.read() });
            if done && given == Some(self.external) {
                let _ = INTERNALS.remove(&self.former);
            }
            let _ = CHANGING.remove(&self.former);
        }
        done
    }

    #[inline(always)]
    fn is_given_up(&self, skb: *mut __sk_buff) -> bool {
        let claim = &self.found;
        let used = netns(claim).is_some_and(|netns| {
            claim.hold == hold::PINNED || Skb::from_raw(skb).socket(&ANYONE, &claim.pod, netns)
        });
        if used != (claim.vacant == 0) && claim.hold != hold::CLIENT {
            mark(&self.external, if used { 0 } else { self.now });
        }
        !used && claim.is_over(self.now)
    }

    #[inline(always)]
    fn lock(&mut self) -> bool {
        self.locked = 0;
        let mut search = &raw mut *self; // the kernel wants the state on the stack
        // SAFETY: the callback has the type that bpf_loop calls, and the state outlives the loop.
        unsafe { bpf_loop(TRIES, try_again as *mut c_void, (&raw mut search).cast(), 0) };
        self.locked != 0
    }

    #[inline(always)]
    fn unlock(&self) {
        let _ = CHANGING.remove(&self.owner);
    }
}

/// Tries to get the owner's lock; returns 1 to stop.
extern "C" fn try_again(_index: u32, search: *mut *mut Search) -> i64 {
    // SAFETY: `search` is the state passed to bpf_loop, alive during the loop.
    let search = unsafe { &mut **search };
    search.locked = (CHANGING.get_ptr(&search.owner).is_none() && try_lock(&search.owner)) as u32;
    search.locked as i64
}

#[inline(always)]
fn try_lock(owner: &Owner) -> bool {
    CHANGING.insert(owner, now(), BPF_NOEXIST as u64).is_ok()
}

impl Looking<'_> {
    /// Looks at a candidate; false if nobody has it.
    #[inline(always)]
    fn look_at(&mut self, index: u32) -> bool {
        let Search { start, count, first, external, .. } = *self.search;
        let offset = (start + index).checked_rem(count).unwrap_or(0);
        self.search.offset = offset;
        self.search.look_at(Endpoint { port: (first + offset) as u16, ..external })
    }

    /// Whether the claim is another pod's, of which a pod at its limit gets nothing.
    #[inline(always)]
    fn may_not_have(&self) -> bool {
        let Search { claim, found, full, .. } = &*self.search;
        *full == POD && (found.member, found.generation) != (claim.member, claim.generation)
    }

    #[inline(always)]
    fn finish(&mut self, done: bool) -> i64 {
        self.done = done as u32;
        done as i64
    }
}

/// Takes the candidate if it is free or already ours; returns 1 to stop.
extern "C" fn take_free(index: u32, looking: *mut Looking<'_>) -> i64 {
    // SAFETY: as in `try_again`.
    let looking = unsafe { &mut *looking };
    let taken = if looking.look_at(index) {
        looking.search.found.is_same(&looking.search.claim)
    } else {
        // A process on the node may have bound this very port.
        !is_of_the_node(looking.skb, &looking.search.external) && looking.search.insert()
    };
    looking.finish(taken)
}

/// Takes the candidate if it is given up; returns 1 to stop.
extern "C" fn take_over(index: u32, looking: *mut Looking<'_>) -> i64 {
    // SAFETY: as in `try_again`.
    let looking = unsafe { &mut *looking };
    let taken = looking.look_at(index)
        && !looking.may_not_have()
        && looking.search.is_given_up(looking.skb)
        && !is_of_the_node(looking.skb, &looking.search.external)
        && looking.search.replace();
    looking.finish(taken)
}

/// Notes since when nobody has been behind a port. Without the lock: if the memory has just become another claim's, that is
/// looked at once more before it counts.
#[inline(always)]
fn mark(external: &Endpoint, vacant: u32) {
    if let Some(claim) = EXTERNALS.get_ptr_mut(external) {
        // SAFETY: the memory stays a claim.
        unsafe { (*claim).vacant = vacant };
    }
}

/// How many ports of a share are taken.
#[inline(always)]
fn taken(key: u32) -> i64 {
    lookup(&PORT_COUNTS, key).map_or(0, |share| share.taken)
}

/// Counts a claim for its pod and its domain, or no longer. Pinned ones have bounds of their own.
#[inline(always)]
fn count(claim: &Claim, change: i64) {
    if claim.hold == hold::PINNED {
        return;
    }
    if is_current(claim) {
        add(share::of_pod(claim.member), change);
    }
    add(share::of_domain(claim.domain, claim.pod.protocol), change);
}

/// Adds to a share. If two CPUs change the same one at once, one change may be lost, until the agent counts anew: limits are
/// approximate.
#[inline(always)]
fn add(key: u32, change: i64) {
    if let Some(share) = share_of(key) {
        share.taken += change;
    }
}

/// The share of this key, made if there is none.
#[inline(always)]
fn share_of(key: u32) -> Option<&'static mut Share> {
    let share = PORT_COUNTS.get_ptr_mut(key).or_else(|| {
        let _ = PORT_COUNTS.insert(key, &NOTHING, BPF_NOEXIST as u64);
        PORT_COUNTS.get_ptr_mut(key)
    })?;
    // SAFETY: the memory stays a share; if it becomes another's, that is counted wrong until the agent counts anew.
    Some(unsafe { &mut *share })
}
