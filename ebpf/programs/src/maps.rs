//! The maps, pinned by name: the only state there is.

use abi::{
    Attachment, AttachmentKey, BucketKey, Circuit, Claim, Config, Described, Domain, Endpoint, FanState,
    FlowKey, Followed, Headers, Member, NamespaceKey, Read, ReadKey, Relay, RelayKey, Searcher, SearcherKey,
    Sending, Snoop, Uplink,
};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};

/// One entry: what all programs need.
#[map]
pub static CONFIG: Array<Config> = Array::pinned(1, 0);
/// Domains by number.
#[map]
pub static DOMAINS: Array<Domain> = Array::pinned(abi::DOMAINS, 0);
/// Uplinks by interface index.
#[map]
pub static UPLINKS: HashMap<u32, Uplink> = HashMap::pinned(abi::UPLINKS, BPF_F_NO_PREALLOC);
/// Members by the interface index of their host-side veth.
#[map]
pub static MEMBERS: HashMap<u32, Member> = HashMap::pinned(abi::DOMAINS * abi::SLOTS, BPF_F_NO_PREALLOC);
/// Per domain the members' interface indexes, 0 where a place is free.
#[map]
pub static ROSTER: Array<u32> = Array::pinned(abi::DOMAINS * abi::SLOTS, 0);
/// Per domain one more than the last place that was ever taken.
#[map]
pub static ROSTER_LENGTH: Array<u32> = Array::pinned(abi::DOMAINS, 0);
/// Relayed UDP ports as the LAN sees them, by uplink.
#[map]
pub static LAN_RELAYS: HashMap<RelayKey, Relay> = HashMap::pinned(abi::RELAYS, 0);
/// Relayed UDP ports as pods see them, by domain.
#[map]
pub static POD_RELAYS: HashMap<RelayKey, Relay> = HashMap::pinned(abi::RELAYS, 0);
/// Protocols that are described by configuration, from [`abi::DESCRIBED`] on.
#[map]
pub static DESCRIPTORS: Array<Described> = Array::pinned(abi::DESCRIPTORS, 0);
/// When the next datagram is due of whom a limit is for, nanoseconds of the kernel's monotonic clock.
#[map]
pub static BUCKETS: LruHashMap<BucketKey, u64> = LruHashMap::pinned(abi::BUCKETS, 0);
/// How many external ports a member has taken, by the interface index of its host-side veth.
#[map]
pub static PORT_COUNTS: HashMap<u32, u32> = HashMap::pinned(abi::DOMAINS * abi::SLOTS, BPF_F_NO_PREALLOC);
/// External endpoint -> who holds it.
#[map]
pub static EXTERNALS: HashMap<Endpoint, Claim> = HashMap::pinned(abi::EXTERNALS, 0);
/// Pod's endpoint -> its external endpoint; valid only while that one's claim names it back.
#[map]
pub static INTERNALS: HashMap<Endpoint, Endpoint> = HashMap::pinned(abi::EXTERNALS, 0);
/// Ports that may be external, a bit each: anything else is passed on at once.
#[map]
pub static EXTERNAL_PORTS: Array<u64> = Array::pinned(abi::PORT_WORDS, 0);
/// Networks that are LAN, see [`abi::network`].
#[map]
pub static LAN: LpmTrie<[u8; 6], u32> = LpmTrie::pinned(abi::NETWORKS, 0);
/// Programs that `from_pod` goes on with, by protocol; from [`abi::PROTOCOLS`] on those that these go on with.
#[map]
pub static FROM_POD: ProgramArray = ProgramArray::pinned(2 * abi::PROTOCOLS, 0);
/// Programs that `from_lan` goes on with at an external port, by protocol.
#[map]
pub static FROM_LAN: ProgramArray = ProgramArray::pinned(abi::PROTOCOLS, 0);
/// One entry: what `from_pod` passes to the program that it goes on with.
#[map]
pub static SENDING: PerCpuArray<Sending> = PerCpuArray::pinned(1, 0);
/// One entry: the headers that `from_lan` passes to the program that it goes on with.
#[map]
pub static ARRIVING: PerCpuArray<Headers> = PerCpuArray::pinned(1, 0);
/// Datagrams in the fan, by [`abi::FanMark::place`].
#[map]
pub static FAN_STATES: Array<FanState> = Array::pinned(abi::FAN_STATES, 0);
/// One entry: how many there were.
#[map]
pub static FAN_COUNT: Array<u64> = Array::pinned(1, 0);
/// Requests to read registers of cameras that hold transport addresses.
#[map]
pub static READS: LruHashMap<ReadKey, Read> = LruHashMap::pinned(abi::READS, 0);
/// LAN sockets that searched.
#[map]
pub static SEARCHERS: LruHashMap<SearcherKey, Searcher> = LruHashMap::pinned(abi::SEARCHERS, 0);
/// TCP flows that came in through an external port.
#[map]
pub static FLOWS: LruHashMap<FlowKey, Circuit> = LruHashMap::pinned(abi::FLOWS, 0);
/// Those of PV Access, from the server to the client.
#[map]
pub static STREAMS: LruHashMap<FlowKey, Followed> = LruHashMap::pinned(abi::STREAMS, 0);
/// Counters, see [`abi::counter_index`].
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(abi::COUNTERS, 0);
/// Namespaces whose pods may join a domain; all may where there is none. For user space.
#[map]
pub static NAMESPACES: HashMap<NamespaceKey, u32> = HashMap::pinned(abi::NAMESPACES, BPF_F_NO_PREALLOC);
/// CNI attachments; for user space.
#[map]
pub static ATTACHMENTS: HashMap<AttachmentKey, Attachment> =
    HashMap::pinned(abi::DOMAINS * abi::SLOTS, BPF_F_NO_PREALLOC);
/// One entry: whether somebody watches.
#[map]
pub static SNOOP: Array<Snoop> = Array::pinned(1, 0);
/// What is told to who watches, see [`abi::Event`].
#[map]
pub static EVENTS: RingBuf = RingBuf::pinned(abi::EVENT_RING, 0);
/// One entry: events that the ring had no room for.
#[map]
pub static EVENTS_LOST: PerCpuArray<u64> = PerCpuArray::pinned(1, 0);

/// A hash map, whether or not it forgets entries by itself.
pub trait Entries<K, V> {
    /// Where the entry of `key` is.
    fn find(&self, key: &K) -> Option<*const V>;
}

impl<K, V> Entries<K, V> for HashMap<K, V> {
    #[inline(always)]
    fn find(&self, key: &K) -> Option<*const V> {
        self.get_ptr(key)
    }
}

impl<K, V> Entries<K, V> for LruHashMap<K, V> {
    #[inline(always)]
    fn find(&self, key: &K) -> Option<*const V> {
        self.get_ptr(key)
    }
}

/// A copy of the entry of `key`. The kernel may use the memory of a removed entry again at once.
#[inline(always)]
pub fn lookup<K, V: Copy>(map: &impl Entries<K, V>, key: K) -> Option<V> {
    // SAFETY: a map's memory stays readable while the program runs, and every bit pattern is valid.
    map.find(&key).map(|entry| unsafe { entry.read() })
}

/// Whether there is an entry of `key`.
#[inline(always)]
pub fn contains<K, V>(map: &impl Entries<K, V>, key: K) -> bool {
    map.find(&key).is_some()
}
