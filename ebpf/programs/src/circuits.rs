//! Circuits: TCP connections through external ports, from the client's first segment to the last one of either side.
//!
//! What anybody can send without an answer must not hold, evict or end what somebody lives on. So a connection that is being
//! opened is apart, in OPENINGS, where only its handshake is translated. It becomes a circuit when the client acknowledges
//! the sequence number that the pod chose: someone who forges an address never learns it. Circuits are not evicted: when
//! they or a share of them are full, the new one is refused. Each has a place in PLACES, so that whoever establishes one
//! looks at a few others, and takes the places of those that are over; those that have ended wait in ENDED.
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
        CIRCUIT_COUNTS, CIRCUITS, CONFIG, DOMAINS, ENDED, ENDED_COUNTS, MEMBERS, NEXT_PLACE, OPENINGS,
        PLACES, SHARES, STREAMS, contains, lookup,
    },
    name_server,
    packet::{Packet, Segment},
    skb::seconds,
};

/// Places that are looked at when a circuit is established.
const LOOKS: u32 = 32;
/// Circuits that have ended and are removed then, at most.
const ENDS: u32 = 8;
/// Indexes of the map of counts of these: put into the ring, and taken out.
const PUT: u32 = 0;
const TAKEN: u32 = 1;
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
        // SAFETY: the memory stays a circuit. If the entry is removed concurrently, it may be another's already: that one is
        // renewed, or at worst ends when it is silent for a while.
        let circuit = unsafe { &mut *circuit };
        if circuit.is_through(&external, claim.generation) {
            note(&key, circuit, &segment, reset::CLIENT);
            return Verdict::TranslatedIn;
        }
    }
    handshake(&key, &segment, claim, &external)
}

/// Where a segment from a pod to the LAN comes from, if it belongs to a circuit: the external endpoint, and the domain.
/// Translates what a name server says.
#[inline(always)]
pub fn depart(packet: &Packet) -> Option<(Endpoint, u16)> {
    let key = FlowKey::between(&packet.destination, &packet.source);
    let Some(circuit) = CIRCUITS.get_ptr_mut(key) else { return answer(packet, &key) };
    let segment = packet.segment()?;
    // SAFETY: as in `arrive`.
    let circuit = unsafe { &mut *circuit };
    if segment.begins() {
        if !segment.answers() || segment.next() != circuit.first && circuit.first != 0 {
            remove(&key, circuit.place);
            return answer(packet, &key);
        }
        circuit.first = segment.next();
    }
    if is_past(circuit) || segment.resets() && !exists(circuit) {
        return answer(packet, &key);
    }
    note(&key, circuit, &segment, reset::POD);
    if circuit.followed != 0 && !name_server::follow(packet, &segment, &key, circuit) {
        circuit.followed = 0;
    }
    Some((circuit.external, circuit.domain))
}

/// Whether a circuit has ended so long ago that what a pod sends is something else's.
#[inline(always)]
fn is_past(circuit: &Circuit) -> bool {
    circuit.has_ended() && seconds().wrapping_sub(circuit.seen) >= Circuit::LINGER
}

/// Whether there is such a connection through `external`, established or being opened.
#[inline(always)]
pub fn is_known(key: &FlowKey, external: &Endpoint, generation: u32) -> bool {
    let opening = |known: Opening| known.external == *external && known.generation == generation;
    lookup(&CIRCUITS, *key).is_some_and(|circuit: Circuit| circuit.is_through(external, generation))
        || lookup(&OPENINGS, *key).is_some_and(opening)
}

/// The external endpoint and the domain of a connection, established or being opened.
#[inline(always)]
pub fn external(key: &FlowKey) -> Option<(Endpoint, u16)> {
    if let Some(circuit) = lookup(&CIRCUITS, *key).filter(|circuit| !is_past(circuit)) {
        return Some((circuit.external, circuit.domain));
    }
    lookup(&OPENINGS, *key).map(|opening: Opening| (opening.external, opening.domain))
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
        domain: claim.domain,
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

/// The same of a pod's answer to a connection that a client begins.
#[inline(always)]
fn answer(packet: &Packet, key: &FlowKey) -> Option<(Endpoint, u16)> {
    let segment = packet.segment()?;
    if segment.finishes() || !segment.begins() && packet.skb.length() > segment.payload {
        return None;
    }
    let opening = lookup(&OPENINGS, *key)?;
    if segment.is_bare() {
        return doubts(packet, &opening).then_some((opening.external, opening.domain));
    }
    if !segment.acknowledges(opening.client) {
        return None; // it answers a connection to the pod's own address
    }
    if segment.answers() {
        let answered = Opening { pod: segment.next(), answered: 1, ..opening };
        let _ = OPENINGS.insert(key, answered, BPF_EXIST as u64);
    }
    Some((opening.external, opening.domain))
}

/// Whether a pod asks a client if it really means to connect, as a connection from the same port is still there: a forged
/// SYN (RFC 5961), or a finished one. The client's RST clears the way. A connection to the pod's own address may have the
/// same port: the pod's socket knows.
#[inline(always)]
fn doubts(packet: &Packet, opening: &Opening) -> bool {
    lookup(&MEMBERS, opening.member).is_some_and(|member| {
        member.generation == opening.generation
            && packet.skb.is_in_doubt(&packet.destination, &packet.source, member.netns)
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
    if let Some(known) = lookup(&CIRCUITS, *key) {
        if known.is_through(&opening.external, claim.generation) && known.first == opening.pod {
            return true; // another CPU was faster
        }
        remove(key, known.place); // of the same port of the client, through another external port
    }
    let now = seconds();
    let place = look(now);
    if place == NO_PLACE || !admits(key, claim) {
        return false;
    }
    let circuit = Circuit {
        external: opening.external,
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
    };
    if CIRCUITS.insert(key, circuit, BPF_NOEXIST as u64).is_err() {
        return contains(&CIRCUITS, *key); // as above
    }
    let _ = PLACES.set(place, key, 0);
    let _ = OPENINGS.remove(key); // or what comes late could establish it once more
    let _ = STREAMS.remove(key); // of an earlier circuit
    add(key, &circuit, 1);
    true
}

/// Removes the circuit at `place`, unless its key is another's meanwhile.
#[inline(always)]
fn remove(key: &FlowKey, place: u32) {
    let Some(circuit) = lookup(&CIRCUITS, *key) else { return };
    if circuit.place == place && CIRCUITS.remove(key).is_ok() {
        add(key, &circuit, -1);
    }
}

/// Notes that a segment came, and what it ends. One that resets nothing shows that the other side did not believe an earlier
/// RST of the client. A circuit that has ended stays so, and nobody renews it.
#[inline(always)]
fn note(key: &FlowKey, circuit: &mut Circuit, segment: &Segment, side: u16) {
    if circuit.has_ended() {
        return;
    }
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
    if circuit.has_ended() {
        end(key);
    }
}

/// Puts a circuit that has ended into the ring of those to be removed. If that is full, it is found by its place.
#[inline(always)]
fn end(key: &FlowKey) {
    let (Some(put), Some(taken)) = (ENDED_COUNTS.get_ptr_mut(PUT), ENDED_COUNTS.get(TAKEN)) else { return };
    // SAFETY: a number of a map.
    if unsafe { put.read() }.wrapping_sub(*taken) < abi::ENDED as u64 {
        let at = atomic::fetch_add(put, 1) as u32 % abi::ENDED;
        let _ = ENDED.set(at, key, 0);
    }
}

/// Removes the next circuit of the ring, if it ended long enough ago; 0 to go on.
extern "C" fn remove_ended(_index: u32, look: *mut Look) -> i64 {
    let (Some(put), Some(taken)) = (ENDED_COUNTS.get(PUT), ENDED_COUNTS.get_ptr_mut(TAKEN)) else { return 1 };
    // SAFETY: a number of a map, and the state passed to bpf_loop, alive during the loop.
    let (at, now) = unsafe { (taken.read(), (*look).now) };
    if at == *put {
        return 1;
    }
    let Some(key) = ENDED.get(at as u32 % abi::ENDED).copied() else { return 1 };
    if let Some(circuit) = lookup(&CIRCUITS, key)
        && circuit.has_ended()
    {
        if now.wrapping_sub(circuit.seen) < Circuit::LINGER {
            return 1;
        }
        remove(&key, circuit.place);
    }
    atomic::fetch_add(taken, 1);
    0
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
        if change > 0 && !contains(&SHARES, share) {
            let _ = SHARES.insert(share, 0, BPF_NOEXIST as u64);
        }
        if let Some(count) = SHARES.get_ptr_mut(share) {
            atomic::add(count, change);
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

/// Removes circuits that have ended, looks at the next places, removes circuits that are over, and returns a free place or
/// [`NO_PLACE`].
#[inline(always)]
fn look(now: u32) -> u32 {
    let (Some(next), Some(config)) = (NEXT_PLACE.get_ptr_mut(0), CONFIG.get(0)) else { return NO_PLACE };
    let first = atomic::fetch_add(next, LOOKS as u64) as u32;
    let mut look = Look { first, now, idle: config.circuit_idle, free: NO_PLACE };
    let pointer = &raw mut look;
    // SAFETY: the callbacks have the type that bpf_loop calls, and the state outlives the loops.
    unsafe {
        bpf_loop(ENDS, remove_ended as *mut c_void, pointer.cast(), 0);
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
        remove(&key, place);
    }
    look.free = place;
    0
}

/// Whether the circuit's pod still exists.
#[inline(always)]
fn exists(circuit: &Circuit) -> bool {
    lookup(&MEMBERS, circuit.member).is_some_and(|member| member.generation == circuit.generation)
}
