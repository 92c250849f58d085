//! The maps, pinned by name: all of the programs' state. What a loop changes while it runs is in a map of its own module that is
//! not pinned: of a map the verifier knows nothing, so that each round is the same to it. Of the stack it knows each number, and
//! it would follow each that may come.

use abi::{
    Address, AddressRange, Attachment, AttachmentKey, Broadcast, BroadcasterKey, BucketKey, Circuit, Claim,
    Config, Declared, Described, Domain, Endpoint, FlowKey, Followed, GroupKey, Headers, LanAddress,
    Listeners, ListenersKey, Member, NamespaceKey, Opening, Owned, Owner, Owners, Plain, Prefixes, Read,
    ReadKey, Relay, RelayKey, Rival, Search, Searcher, SearcherKey, Sending, Share, Snoop, Uplink,
};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};

use crate::skb::seconds;

/// One entry: settings for all programs.
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
/// Per domain the members' interface indexes; 0 where a slot is free.
#[map]
pub static ROSTER: Array<u32> = Array::pinned(abi::DOMAINS * abi::SLOTS, 0);
/// Per domain one more than the highest slot ever taken.
#[map]
pub static ROSTER_LENGTH: Array<u32> = Array::pinned(abi::DOMAINS, 0);
/// Who was found to listen, by where a datagram for members goes.
#[map]
pub static LISTENERS: LruHashMap<ListenersKey, Listeners> = LruHashMap::pinned(abi::LISTENERS, 0);
/// Beginnings of names that members declare, and which members.
#[map]
pub static OWNED: LpmTrie<Owned, Owners> = LpmTrie::pinned(abi::OWNED, 0);
/// By domain, which members declare names.
#[map]
pub static DECLARED: Array<Declared> = Array::pinned(abi::DOMAINS, 0);
/// What each member declares, by the interface index of its host-side veth; for user space.
#[map]
pub static PREFIXES: HashMap<u32, Prefixes> = HashMap::pinned(abi::DOMAINS * abi::SLOTS, BPF_F_NO_PREALLOC);
/// Relayed UDP ports as the LAN sees them, by uplink.
#[map]
pub static LAN_RELAYS: HashMap<RelayKey, Relay> = HashMap::pinned(abi::RELAYS, 0);
/// Relayed UDP ports as pods see them, by domain.
#[map]
pub static POD_RELAYS: HashMap<RelayKey, Relay> = HashMap::pinned(abi::RELAYS, 0);
/// UDP ports that are relayed, as the LAN or as pods see them, a bit each: most datagrams are for none of them.
#[map]
pub static RELAYED_PORTS: Array<u64> = Array::pinned(abi::PORT_WORDS, 0);
/// Groups whose datagrams are relayed as broadcasts are, as the LAN and as pods see them.
#[map]
pub static GROUPS: HashMap<GroupKey, u32> = HashMap::pinned(2 * abi::GROUPS, BPF_F_NO_PREALLOC);
/// Protocols that the configuration describes, from [`abi::DESCRIBED`] on.
#[map]
pub static DESCRIPTORS: Array<Described> = Array::pinned(abi::DESCRIPTORS, 0);
/// When a bucket's next datagram is due, nanoseconds of the kernel's monotonic clock.
#[map]
pub static BUCKETS: LruHashMap<BucketKey, u64> = LruHashMap::pinned(abi::BUCKETS, 0);
/// How many external ports members and domains have taken, see [`abi::share`].
#[map]
pub static PORT_COUNTS: HashMap<u32, Share> =
    HashMap::pinned(abi::DOMAINS * (abi::SLOTS + 3), BPF_F_NO_PREALLOC);
/// External endpoint -> who holds it.
#[map]
pub static EXTERNALS: HashMap<Endpoint, Claim> = HashMap::pinned(abi::EXTERNALS, 0);
/// Owner -> its external endpoint; valid only while that one's claim names it back.
#[map]
pub static INTERNALS: HashMap<Owner, Endpoint> = HashMap::pinned(abi::EXTERNALS, 0);
/// Locks: owners whose entries of both maps somebody changes, and since when, in nanoseconds of the kernel's monotonic clock.
#[map]
pub static CHANGING: HashMap<Owner, u64> = HashMap::pinned(abi::CHANGING, 0);
/// One entry: the search for an external port that this CPU makes.
#[map]
pub static SEARCH: PerCpuArray<Search> = PerCpuArray::pinned(1, 0);
/// Ports that may be external, a bit each: packets to all others are passed immediately.
#[map]
pub static EXTERNAL_PORTS: Array<u64> = Array::pinned(abi::PORT_WORDS, 0);
/// Networks on the LAN, see [`abi::network`].
#[map]
pub static LAN: LpmTrie<[u8; 6], u32> = LpmTrie::pinned(abi::NETWORKS, 0);
/// Programs that `from_pod` tail-calls, by protocol; from [`abi::PROTOCOLS`] on those that these tail-call in turn.
#[map]
pub static FROM_POD: ProgramArray = ProgramArray::pinned(2 * abi::PROTOCOLS, 0);
/// Programs that `from_lan` tail-calls for an external port, by protocol.
#[map]
pub static FROM_LAN: ProgramArray = ProgramArray::pinned(abi::PROTOCOLS, 0);
/// One entry: what `from_pod` passes to the program that it tail-calls.
#[map]
pub static SENDING: PerCpuArray<Sending> = PerCpuArray::pinned(1, 0);
/// One entry: the headers that `from_lan` passes to the program that it tail-calls.
#[map]
pub static ARRIVING: PerCpuArray<Headers> = PerCpuArray::pinned(1, 0);
/// Requests to read registers of cameras that hold transport addresses.
#[map]
pub static READS: LruHashMap<ReadKey, Read> = LruHashMap::pinned(abi::READS, 0);
/// LAN sockets that searched.
#[map]
pub static SEARCHERS: LruHashMap<SearcherKey, Searcher> = LruHashMap::pinned(abi::SEARCHERS, 0);
/// LAN sockets that cameras in pods stream to, and the member, by the interface index of its host-side veth.
#[map]
pub static RECEIVERS: LruHashMap<SearcherKey, u32> = LruHashMap::pinned(abi::RECEIVERS, 0);
/// LAN sockets that sent datagrams to a pod, and the external endpoint that they sent them to.
#[map]
pub static SENDERS: LruHashMap<FlowKey, Endpoint> = LruHashMap::pinned(abi::SENDERS, 0);
/// Connections through an external port that are being opened.
#[map]
pub static OPENINGS: LruHashMap<FlowKey, Opening> = LruHashMap::pinned(abi::OPENINGS, 0);
/// Established circuits. Memory is taken as they come.
#[map]
pub static CIRCUITS: HashMap<FlowKey, Circuit> = HashMap::pinned(abi::CIRCUITS, BPF_F_NO_PREALLOC);
/// Their keys by place; zeros, or the key of a circuit with another place, where one is free.
#[map]
pub static PLACES: Array<FlowKey> = Array::pinned(abi::PLACES, 0);
/// One entry: the place after those that were looked at last.
#[map]
pub static NEXT_PLACE: Array<u64> = Array::pinned(1, 0);
/// Keys of circuits that have ended, one after the other in a ring.
#[map]
pub static ENDED: Array<FlowKey> = Array::pinned(abi::ENDED, 0);
/// How many of these were put into the ring since the start, and how many were taken out.
#[map]
pub static ENDED_COUNTS: Array<u64> = Array::pinned(2, 0);
/// Circuits of a domain.
#[map]
pub static CIRCUIT_COUNTS: Array<i64> = Array::pinned(abi::DOMAINS, 0);
/// Of these those of a LAN host and of a pod.
#[map]
pub static SHARES: LruHashMap<BucketKey, i64> = LruHashMap::pinned(abi::SHARES, 0);
/// The ones of PV Access, from the server to the client.
#[map]
pub static STREAMS: LruHashMap<FlowKey, Followed> = LruHashMap::pinned(abi::STREAMS, 0);
/// Counters, see [`abi::counter_index`].
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(abi::COUNTERS, 0);
/// How long answers took, see [`abi::latency`].
#[map]
pub static LATENCIES: PerCpuArray<u64> = PerCpuArray::pinned(abi::latency::LATENCIES, 0);
/// ADDs that failed, by [`abi::refused`]; for user space.
#[map]
pub static REFUSED: Array<u64> = Array::pinned(abi::refused::REASONS.len() as u32, 0);
/// LAN addresses of pods.
#[map]
pub static LAN_ADDRESSES: HashMap<Address, LanAddress> =
    HashMap::pinned(abi::LAN_ADDRESSES, BPF_F_NO_PREALLOC);
/// Hosts that claimed one of these, by the address.
#[map]
pub static RIVALS: LruHashMap<Address, Rival> = LruHashMap::pinned(abi::RIVALS, 0);
/// The last broadcasts of sockets of pods with a LAN address.
#[map]
pub static BROADCASTS: LruHashMap<BroadcasterKey, Broadcast> = LruHashMap::pinned(abi::BROADCASTS, 0);
/// Addresses that pods may have; for user space.
#[map]
pub static ADDRESS_RANGES: HashMap<AddressRange, u32> =
    HashMap::pinned(abi::ADDRESS_RANGES, BPF_F_NO_PREALLOC);
/// Namespaces whose pods may join a domain; without any, all may. For user space.
#[map]
pub static NAMESPACES: HashMap<NamespaceKey, u32> = HashMap::pinned(abi::NAMESPACES, BPF_F_NO_PREALLOC);
/// CNI attachments; for user space.
#[map]
pub static ATTACHMENTS: HashMap<AttachmentKey, Attachment> =
    HashMap::pinned(abi::DOMAINS * abi::SLOTS, BPF_F_NO_PREALLOC);
/// One entry: whether and until when events are emitted.
#[map]
pub static SNOOP: Array<Snoop> = Array::pinned(1, 0);
/// Events for `iocast-node snoop`, see [`abi::Event`].
#[map]
pub static EVENTS: RingBuf = RingBuf::pinned(abi::EVENT_RING, 0);
/// One entry: how many events were lost to a full ring.
#[map]
pub static EVENTS_LOST: PerCpuArray<u64> = PerCpuArray::pinned(1, 0);

/// A hash map, with or without eviction.
pub trait Entries<K, V> {
    /// A pointer to the entry of `key`.
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

/// A copy of the entry of `key`: the kernel may reuse the memory of a removed entry at once.
#[inline(always)]
pub fn lookup<K, V: Plain>(map: &impl Entries<K, V>, key: K) -> Option<V> {
    // SAFETY: a map's memory stays readable while the program runs, and every bit pattern is a value.
    map.find(&key).map(|entry| unsafe { entry.read() })
}

/// This CPU's own entry of a map that has one.
#[inline(always)]
pub fn own<T>(map: &PerCpuArray<T>) -> Option<&'static mut T> {
    // SAFETY: no other CPU has it, none of the programs interrupts another, and each asks for it where it begins to use it.
    map.get_ptr_mut(0).map(|entry| unsafe { &mut *entry })
}

/// Whether the port's bit is set.
#[inline(always)]
pub fn has_port(map: &Array<u64>, port: u16) -> bool {
    map.get(port as u32 / 64).is_some_and(|word| word >> (port % 64) & 1 != 0)
}

/// Whether the agent takes over from maps of another layout, in which more may be known than here.
#[inline(always)]
pub fn is_taking_over() -> bool {
    CONFIG.get(0).is_some_and(|config| config.taking_over != 0 && seconds() < config.taking_over)
}

/// Whether `key` has an entry.
#[inline(always)]
pub fn contains<K, V>(map: &impl Entries<K, V>, key: K) -> bool {
    map.find(&key).is_some()
}
