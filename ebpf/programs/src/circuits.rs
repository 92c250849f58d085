//! Circuits: TCP connections through external ports, from the client's first segment to the last one of either side.
//!
//! What anybody can send without an answer must not hold, evict or end what somebody lives on. So a connection that is being
//! opened is apart, in OPENINGS, where only its handshake is translated. It becomes a circuit when the client acknowledges
//! the sequence number that the pod chose: who forges his address never learns it. Circuits are not evicted: when they or a
//! share of them are full, the new one is refused. Each has a place in PLACES, so that whoever establishes one looks at a few
//! others, and takes the places of those that are over.
//!
//! Only the pod knows which of its connections with a client's port is the current one: the client may have come directly
//! to the pod's address since. A SYN of the pod that does not open the circuit shows that the circuit is over.

use core::ffi::c_void;

use abi::{
    BucketKey, Circuit, Claim, Endpoint, FlowKey, HOST_PART, Opening, POD_PART, Verdict, limited, reset,
};
use aya_ebpf::{
    bindings::{BPF_EXIST, BPF_NOEXIST},
    helpers::bpf_loop,
};

use crate::{
    atomic,
    maps::{
        CIRCUIT_COUNTS, CIRCUITS, CONFIG, DOMAINS, MEMBERS, NEXT_PLACE, OPENINGS, PLACES, SHARES, STREAMS,
        contains, lookup,
    },
    name_server,
    packet::{Packet, Segment},
    skb::seconds,
};

/// Places that are looked at when a circuit is established.
const LOOKS: u32 = 32;
/// In place of a place: none.
const NO_PLACE: u32 = u32::MAX;

/// What is done with a segment from the LAN to an external port that a pod holds. Remembers connections that begin, and
/// establishes circuits.
#[inline(always)]
pub fn arrive(packet: &Packet, claim: &Claim) -> Verdict {
    let external = packet.destination;
    let key = FlowKey::between(&packet.source, &claim.pod);
    let Some(segment) = packet.segment() else { return Verdict::Unrelated };
    if segment.opens() {
        return open(packet, &key, &segment, claim);
    }
    if let Some(circuit) = CIRCUITS.get_ptr_mut(key) {
        // SAFETY: the memory stays a circuit; if the entry is removed concurrently, what is noted is lost with it.
        let circuit = unsafe { &mut *circuit };
        if circuit.is_through(&external, claim.generation) {
            note(&key, circuit, &segment, reset::CLIENT);
            return Verdict::TranslatedIn;
        }
    }
    handshake(&key, &segment, claim, &external)
}

/// The external endpoint that a segment from a pod to the LAN comes from; `None` if it belongs to no circuit. Translates what
/// a name server says.
#[inline(always)]
pub fn depart(packet: &Packet, domain: u16) -> Option<Endpoint> {
    let key = FlowKey::between(&packet.destination, &packet.source);
    if let Some(circuit) = CIRCUITS.get_ptr_mut(key) {
        let segment = packet.segment()?;
        // SAFETY: as in `arrive`.
        let circuit = unsafe { &mut *circuit };
        if !segment.begins() || segment.answers() && segment.next() == circuit.first {
            note(&key, circuit, &segment, reset::POD);
            if circuit.followed != 0 && !name_server::follow(packet, &segment, &key, circuit, domain) {
                circuit.followed = 0;
            }
            return Some(circuit.external);
        }
        remove(&key);
    }
    answer(packet, &key)
}

/// Whether there is such a connection through `external`, established or being opened.
#[inline(always)]
pub fn is_known(key: &FlowKey, external: &Endpoint, generation: u32) -> bool {
    let opening = |known: Opening| known.external == *external && known.generation == generation;
    lookup(&CIRCUITS, *key).is_some_and(|circuit: Circuit| circuit.is_through(external, generation))
        || lookup(&OPENINGS, *key).is_some_and(opening)
}

/// The external endpoint of a connection, established or being opened.
#[inline(always)]
pub fn external(key: &FlowKey) -> Option<Endpoint> {
    if let Some(circuit) = lookup(&CIRCUITS, *key) {
        return Some(circuit.external);
    }
    lookup(&OPENINGS, *key).map(|opening| opening.external)
}

/// Remembers a connection that a client begins.
#[inline(always)]
fn open(packet: &Packet, key: &FlowKey, segment: &Segment, claim: &Claim) -> Verdict {
    if packet.fragment {
        return Verdict::Unrelated;
    }
    if !contains(&CIRCUITS, *key) && !admits(key, claim) {
        look(seconds()); // the places of circuits that are over may be in the way
        if !admits(key, claim) {
            return Verdict::NoCircuit;
        }
    }
    let mut opening = Opening {
        external: packet.destination,
        member: claim.member,
        generation: claim.generation,
        client: segment.next(),
        pod: 0,
        answered: 0,
    };
    if let Some(known) = lookup(&OPENINGS, *key)
        && (known.external, known.generation, known.client)
            == (opening.external, opening.generation, opening.client)
    {
        opening = known; // sent again
    }
    let _ = OPENINGS.insert(key, opening, 0);
    Verdict::TranslatedIn
}

/// The external endpoint of a pod's answer to a connection that a client begins.
#[inline(always)]
fn answer(packet: &Packet, key: &FlowKey) -> Option<Endpoint> {
    let segment = packet.segment()?;
    if segment.finishes() || !segment.begins() && packet.skb.length() > segment.payload {
        return None;
    }
    let opening = lookup(&OPENINGS, *key)?;
    if segment.is_bare() {
        return doubts(packet, &opening).then_some(opening.external);
    }
    if !segment.acknowledges(opening.client) {
        return None; // it answers a connection to the pod's own address
    }
    if segment.answers() {
        let answered = Opening { pod: segment.next(), answered: 1, ..opening };
        let _ = OPENINGS.insert(key, answered, BPF_EXIST as u64);
    }
    Some(opening.external)
}

/// Whether a pod asks a client if it really means to connect, as a forged SYN from the same port came before (RFC 5961). The
/// client's RST clears the way. A connection to the pod's own address may have the same port: the pod's socket knows.
#[inline(always)]
fn doubts(packet: &Packet, opening: &Opening) -> bool {
    lookup(&MEMBERS, opening.member).is_some_and(|member| {
        member.generation == opening.generation
            && packet.skb.is_half_open(&packet.destination, &packet.source, member.netns)
    })
}

/// The rest of a client's handshake: what acknowledges the pod's answer establishes the circuit.
#[inline(always)]
fn handshake(key: &FlowKey, segment: &Segment, claim: &Claim, external: &Endpoint) -> Verdict {
    let Some(opening) = lookup(&OPENINGS, *key) else { return Verdict::Unrelated };
    if opening.external != *external || opening.generation != claim.generation {
        return Verdict::Unrelated;
    }
    if segment.resets() {
        return Verdict::TranslatedIn; // the pod knows whether to believe it
    }
    if opening.answered == 0 || !segment.acknowledges(opening.pod) {
        return Verdict::Unrelated;
    }
    if establish(key, claim, &opening) { Verdict::TranslatedIn } else { Verdict::NoCircuit }
}

/// Makes a circuit of a connection; false if there is no room.
#[inline(always)]
fn establish(key: &FlowKey, claim: &Claim, opening: &Opening) -> bool {
    remove(key); // of the same port of the client, through another external port
    let now = seconds();
    let place = look(now);
    if place == NO_PLACE || !admits(key, claim) {
        return false;
    }
    let circuit = Circuit {
        external: opening.external,
        counted: 1,
        member: claim.member,
        generation: claim.generation,
        first: opening.pod,
        seen: now,
        place,
        domain: claim.domain,
        client_finished: 0,
        pod_finished: 0,
        reset: reset::NOBODY,
        followed: 1,
        reserved: 0,
    };
    if CIRCUITS.insert(key, circuit, BPF_NOEXIST as u64).is_err() {
        return contains(&CIRCUITS, *key); // another CPU was faster
    }
    let _ = PLACES.set(place, key, 0);
    let _ = OPENINGS.remove(key); // or what comes late could establish it once more
    let _ = STREAMS.remove(key); // of an earlier circuit
    add(key, &circuit, 1);
    true
}

/// Removes a circuit that is over, if there is one.
#[inline(always)]
fn remove(key: &FlowKey) {
    if let Some(circuit) = CIRCUITS.get_ptr_mut(key) {
        // SAFETY: as in `arrive`.
        uncount(key, unsafe { &mut *circuit });
        let _ = CIRCUITS.remove(key);
    }
}

/// Counts a circuit no longer; once, whoever finds out that it has ended.
#[inline(always)]
fn uncount(key: &FlowKey, circuit: &mut Circuit) {
    if atomic::take(&raw mut circuit.counted) != 0 {
        add(key, circuit, -1);
    }
}

/// Notes that a segment came, and what it ends. One that does not reset the connection shows that the other side did not
/// believe an earlier RST.
#[inline(always)]
fn note(key: &FlowKey, circuit: &mut Circuit, segment: &Segment, side: u16) {
    let now = seconds();
    if circuit.seen != now {
        circuit.seen = now;
    }
    let reset = if segment.resets() { side } else { reset::NOBODY };
    if circuit.reset != reset {
        circuit.reset = reset;
    }
    if segment.finishes() {
        if side == reset::CLIENT {
            circuit.client_finished = 1;
        } else {
            circuit.pod_finished = 1;
        }
    }
    if circuit.counted != 0 && circuit.has_ended() {
        uncount(key, circuit);
    }
}

/// Whether the domain, the client's host and the pod may have one more circuit.
#[inline(always)]
fn admits(key: &FlowKey, claim: &Claim) -> bool {
    let Some(domain) = DOMAINS.get(claim.domain as u32) else { return false };
    let limit = domain.circuits as i64;
    let all = CIRCUIT_COUNTS.get(claim.domain as u32).copied().unwrap_or(0);
    let [host, pod] =
        shares(key, claim.domain, claim.member).map(|share| lookup(&SHARES, share).unwrap_or(0));
    all < limit && host < limit / HOST_PART && pod < limit / POD_PART
}

/// Counts a circuit that came or went.
#[inline(always)]
fn add(key: &FlowKey, circuit: &Circuit, change: i64) {
    if let Some(count) = CIRCUIT_COUNTS.get_ptr_mut(circuit.domain as u32) {
        atomic::add(count, change);
    }
    for share in shares(key, circuit.domain, circuit.member) {
        if let Some(count) = SHARES.get_ptr_mut(share) {
            atomic::add(count, change);
        } else if change > 0 {
            let _ = SHARES.insert(share, change, 0);
        }
    }
}

/// The keys of the counts of a circuit's client and pod.
#[inline(always)]
fn shares(key: &FlowKey, domain: u16, member: u32) -> [BucketKey; 2] {
    [
        BucketKey { domain, kind: limited::SOURCE as u16, who: u32::from_ne_bytes(key.peer) },
        BucketKey { domain, kind: limited::POD as u16, who: member },
    ]
}

/// A look at some places, passed through `bpf_loop`.
struct Look {
    first: u32,
    now: u32,
    idle: u32,
    /// The last free place found.
    free: u32,
}

/// Looks at the next places, removes circuits that are over, and returns a free place or [`NO_PLACE`].
#[inline(always)]
fn look(now: u32) -> u32 {
    let (Some(next), Some(config)) = (NEXT_PLACE.get_ptr_mut(0), CONFIG.get(0)) else { return NO_PLACE };
    let first = atomic::fetch_add(next, LOOKS as u64) as u32;
    let mut look = Look { first, now, idle: config.circuit_idle, free: NO_PLACE };
    let pointer = &raw mut look;
    // SAFETY: the callback has the type that bpf_loop calls, and the state outlives the loop.
    unsafe {
        bpf_loop(LOOKS, look_at as *mut c_void, pointer.cast(), 0);
        (*pointer).free
    }
}

/// Looks at one place; 0 to go on.
extern "C" fn look_at(index: u32, look: *mut Look) -> i64 {
    // SAFETY: `look` is the state passed to bpf_loop, alive during the loop.
    let look = unsafe { &mut *look };
    let place = look.first.wrapping_add(index) % abi::PLACES;
    let Some(key) = PLACES.get(place).copied() else { return 0 };
    if key.pod_port != 0
        && let Some(circuit) = lookup(&CIRCUITS, key)
        && circuit.place == place
    {
        if !circuit.is_over(look.now, look.idle) && exists(&circuit) {
            return 0;
        }
        remove(&key);
    }
    look.free = place;
    0
}

/// Whether the circuit's pod still exists.
#[inline(always)]
fn exists(circuit: &Circuit) -> bool {
    lookup(&MEMBERS, circuit.member).is_some_and(|member| member.generation == circuit.generation)
}
