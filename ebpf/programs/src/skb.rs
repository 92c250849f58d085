//! The kernel's helpers for packets, as safe calls: only this module calls them.

use core::mem::{MaybeUninit, zeroed};

use abi::{Address, Endpoint, UDP};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        __sk_buff, BPF_F_CURRENT_NETNS, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_TCP_NEW_SYN_RECV, BPF_TCP_TIME_WAIT,
        TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_fib_lookup, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as Ipv4Tuple,
    },
    helpers::{
        bpf_clone_redirect, bpf_fib_lookup as fib_lookup, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns,
        bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer,
        bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release, bpf_skb_change_type, bpf_skb_load_bytes,
        bpf_skb_pull_data, bpf_skb_store_bytes, bpf_skc_lookup_tcp,
    },
    programs::TcContext,
};

/// Verdict: not ours, pass it to the next program or the stack (`TC_ACT_UNSPEC`, the same number as `TCX_NEXT`).
pub const NEXT: i32 = TC_ACT_UNSPEC;
/// Verdict: drop.
pub const DROP: i32 = TC_ACT_SHOT;
/// The namespace the program runs in, for [`Skb::socket`].
pub const OWN_NETNS: i32 = BPF_F_CURRENT_NETNS;

/// `PACKET_HOST` and `PACKET_OTHERHOST` (linux/if_packet.h).
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;
/// Size of the IPv4 part of `bpf_sock_tuple`, from which the kernel tells that it is IPv4.
const TUPLE: u32 = size_of::<Ipv4Tuple>() as u32;
/// The VLAN in a tag; the rest is the priority (IEEE 802.1Q).
const VLAN_ID: u32 = 0x0fff;
const ETHERTYPE_IPV4: u32 = 0x0800u16.to_be() as u32;
const ETHERTYPE_ARP: u32 = 0x0806u16.to_be() as u32;
/// `AF_INET` (linux/socket.h).
const AF_INET: u8 = 2;

/// A packet in the kernel. Offsets count from the Ethernet header.
#[derive(Clone, Copy)]
pub struct Skb(*mut __sk_buff);

impl Skb {
    /// The packet that a program was called for.
    #[inline(always)]
    pub fn new(context: &TcContext) -> Self {
        Self(context.as_ptr().cast())
    }

    /// The interface whose hook runs.
    #[inline(always)]
    pub fn interface(self) -> u32 {
        // SAFETY: a field of the context, valid as long as the program runs.
        unsafe { (*self.0).ifindex }
    }

    /// Length in bytes, from the Ethernet header on.
    #[inline(always)]
    pub fn length(self) -> u32 {
        // SAFETY: as in `interface`.
        unsafe { (*self.0).len }
    }

    /// Whether it is IPv4 of no VLAN. The tag is not in the packet's bytes: a packet for a VLAN sub-interface looks untagged at
    /// the parent's hook. A tag of VLAN 0 only has a priority, and the stack takes it off.
    #[inline(always)]
    pub fn is_untagged_ipv4(self) -> bool {
        self.is_untagged(ETHERTYPE_IPV4)
    }

    /// The same for ARP.
    #[inline(always)]
    pub fn is_untagged_arp(self) -> bool {
        self.is_untagged(ETHERTYPE_ARP)
    }

    #[inline(always)]
    fn is_untagged(self, ethertype: u32) -> bool {
        // SAFETY: as in `interface`.
        unsafe {
            (*self.0).protocol == ethertype
                && ((*self.0).vlan_present == 0 || (*self.0).vlan_tci & VLAN_ID == 0)
        }
    }

    /// Whether it came in a frame for another host, which the node's stack does not take.
    #[inline(always)]
    pub fn is_for_another_host(self) -> bool {
        // SAFETY: as in `interface`.
        unsafe { (*self.0).pkt_type == PACKET_OTHERHOST }
    }

    /// The packet's mark.
    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: as in `interface`.
        unsafe { (*self.0).mark }
    }

    /// Sets the packet's mark.
    #[inline(always)]
    pub fn set_mark(self, mark: u32) {
        // SAFETY: as in `interface`; tc programs may write the mark.
        unsafe { (*self.0).mark = mark };
    }

    /// `N` bytes at `offset`; `None` past the end.
    #[inline(always)]
    pub fn load<const N: usize>(self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes N bytes into a buffer of N bytes, or fails; they are read only if it did not.
        unsafe {
            let result = bpf_skb_load_bytes(self.0.cast(), offset, bytes.as_mut_ptr().cast(), N as u32);
            (result == 0).then(|| bytes.assume_init())
        }
    }

    /// The first `N` bytes, if there are so many. Where the kernel does not have them in one piece, it puts them together, as the
    /// stack would later.
    #[inline(always)]
    pub fn front<const N: u32>(self) -> Option<Front<N>> {
        if let Some(front) = self.in_one_piece() {
            return Some(front);
        }
        // SAFETY: only the packet is touched; pointers into it are taken anew.
        unsafe { bpf_skb_pull_data(self.0, N) };
        self.in_one_piece()
    }

    #[inline(always)]
    fn in_one_piece<const N: u32>(self) -> Option<Front<N>> {
        // SAFETY: as in `interface`. The kernel makes pointers of the two numbers, which lie on the same packet.
        unsafe {
            let start = (*self.0).data as usize as *const u8;
            let end = (*self.0).data_end as usize as *const u8;
            (start.add(N as usize) <= end).then_some(Front(start))
        }
    }

    /// Loads `length` bytes at `offset`, not 0 and at most `N`, a power of two; false if they reach past the end.
    #[inline(always)]
    pub fn load_some<const N: usize>(
        self,
        offset: u32,
        length: u32,
        bytes: &mut [MaybeUninit<u8>; N],
    ) -> bool {
        // The verifier must see the bounds on the very register that is passed: the compiler knows
        // nothing about a volatile read, and cannot leave these out as redundant.
        // SAFETY: a local variable.
        let length = unsafe { core::ptr::read_volatile(&raw const length) };
        let length = (length.wrapping_sub(1) & (N as u32 - 1)) + 1;
        // SAFETY: the helper writes at most N bytes into a buffer of N bytes.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, bytes.as_mut_ptr().cast(), length) == 0 }
    }

    /// Writes `bytes` at `offset`. Past the end nothing is written.
    #[inline(always)]
    pub fn store<const N: usize>(self, offset: u32, bytes: [u8; N]) {
        // SAFETY: the helper reads N bytes from a buffer of N bytes.
        unsafe { bpf_skb_store_bytes(self.0, offset, bytes.as_ptr().cast(), N as u32, 0) };
    }

    /// Updates the IPv4 header checksum at `offset` for four bytes that changed.
    #[inline(always)]
    pub fn fix_ip_checksum(self, offset: u32, old: [u8; 4], new: [u8; 4]) {
        let (old, new) = (u32::from_ne_bytes(old), u32::from_ne_bytes(new));
        // SAFETY: only the packet is touched.
        unsafe { bpf_l3_csum_replace(self.0, offset, old as u64, new as u64, 4) };
    }

    /// Updates the TCP or UDP checksum at `offset` for a changed address in the pseudo header.
    #[inline(always)]
    pub fn fix_checksum_address(self, offset: u32, protocol: u16, old: [u8; 4], new: [u8; 4]) {
        self.fix_l4_checksum(offset, protocol, old, new, BPF_F_PSEUDO_HDR as u64);
    }

    /// Updates the TCP or UDP checksum at `offset` for two or four bytes that changed, at an even offset.
    #[inline(always)]
    pub fn fix_checksum<const N: usize>(self, offset: u32, protocol: u16, old: [u8; N], new: [u8; N]) {
        self.fix_l4_checksum(offset, protocol, old, new, 0);
    }

    #[inline(always)]
    fn fix_l4_checksum<const N: usize>(
        self,
        offset: u32,
        protocol: u16,
        old: [u8; N],
        new: [u8; N],
        flags: u64,
    ) {
        let flags = N as u64 | flags | mangled(protocol);
        // SAFETY: only the packet is touched.
        unsafe { bpf_l4_csum_replace(self.0, offset, word(old), word(new), flags) };
    }

    /// Sends a copy out of `interface`; false if its queue was full.
    #[inline(always)]
    pub fn clone_out(self, interface: u32) -> bool {
        // SAFETY: only the packet is touched.
        unsafe { bpf_clone_redirect(self.0, interface, 0) == 0 }
    }

    /// Makes a copy arrive at `interface`; false if the backlog was full.
    #[inline(always)]
    pub fn clone_in(self, interface: u32) -> bool {
        // SAFETY: only the packet is touched.
        unsafe { bpf_clone_redirect(self.0, interface, BPF_F_INGRESS as u64) == 0 }
    }

    /// Verdict: arrive at the other end of veth `interface`, in its namespace.
    #[inline(always)]
    pub fn redirect_to_peer(self, interface: u32) -> i32 {
        // SAFETY: no memory is passed.
        unsafe { bpf_redirect_peer(interface, 0) as i32 }
    }

    /// The same, from the network of another pod: the frame may have been for a bridge between them.
    #[inline(always)]
    pub fn redirect_to_neighbouring_pod(self, interface: u32) -> i32 {
        // SAFETY: only the packet is touched.
        unsafe { bpf_skb_change_type(self.0, PACKET_HOST) };
        self.redirect_to_peer(interface)
    }

    /// Verdict: leave through `interface` as it is.
    #[inline(always)]
    pub fn redirect_out(self, interface: u32) -> i32 {
        // SAFETY: no memory is passed.
        unsafe { bpf_redirect(interface, 0) as i32 }
    }

    /// Where the node's routes lead from `source`, arriving at `interface`, to `destination`; `None` if it is the node's own, if
    /// there is no route, if the packet is too large for it, or if it leads to an IPv6 address.
    #[inline(always)]
    pub fn next_hop(self, source: Address, destination: Address) -> Option<NextHop> {
        // SAFETY: numbers and arrays of them, for which zeros are values.
        let mut route: bpf_fib_lookup = unsafe { zeroed() };
        route.family = AF_INET;
        route.ifindex = self.interface();
        route.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(source);
        route.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination);
        let size = size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: the parameters outlive the call, which makes the destination the next hop.
        let (result, address) = unsafe {
            let result = fib_lookup(self.0.cast(), &raw mut route, size, 0);
            (result, route.__bindgen_anon_4.ipv4_dst)
        };
        let found = result == BPF_FIB_LKUP_RET_SUCCESS as i64 || result == BPF_FIB_LKUP_RET_NO_NEIGH as i64;
        let is_ipv4 = route.family == AF_INET; // a gateway may have an IPv6 address only
        (found && is_ipv4).then_some(NextHop { interface: route.ifindex, address })
    }

    /// Verdict: leave by this next hop; the kernel resolves it.
    #[inline(always)]
    pub fn redirect_to(self, hop: &NextHop) -> i32 {
        let mut neighbour = bpf_redir_neigh {
            nh_family: AF_INET as u32,
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: [hop.address, 0, 0, 0] },
        };
        let size = size_of::<bpf_redir_neigh>() as i32;
        // SAFETY: the parameters outlive the call.
        unsafe { bpf_redirect_neigh(hop.interface, &raw mut neighbour, size, 0) as i32 }
    }

    /// Verdict: leave through `interface` towards the destination; the kernel resolves the neighbour.
    #[inline(always)]
    pub fn redirect_to_neighbour(self, interface: u32) -> i32 {
        // SAFETY: a null parameter block means "look the route up".
        unsafe { bpf_redirect_neigh(interface, core::ptr::null_mut(), 0, 0) as i32 }
    }

    /// Whether `netns` has a socket that would receive a datagram, or a connection request, `from` -> `to`.
    #[inline(always)]
    pub fn socket(self, from: &Endpoint, to: &Endpoint, netns: i32) -> bool {
        self.bound_address(from, to, netns).is_some()
    }

    /// The address that this socket is bound to, zeros for any; `None` if there is no socket.
    #[inline(always)]
    pub fn bound_address(self, from: &Endpoint, to: &Endpoint, netns: i32) -> Option<Address> {
        let mut tuple = tuple(from, to);
        let tuple = (&raw mut tuple).cast();
        // The kernel takes the lower 32 bits of the id as an int.
        let netns = netns as u32 as u64;
        // SAFETY: the tuple outlives the call; a socket that is found is read before it is released.
        unsafe {
            let found = if to.protocol == UDP as u16 {
                bpf_sk_lookup_udp(self.0.cast(), tuple, TUPLE, netns, 0)
            } else {
                bpf_sk_lookup_tcp(self.0.cast(), tuple, TUPLE, netns, 0)
            };
            if found.is_null() {
                return None;
            }
            let bound = (*found).src_ip4.to_ne_bytes();
            bpf_sk_release(found.cast());
            Some(bound)
        }
    }

    /// Whether `netns` has a TCP connection `from` -> `to` that waits for the end of its handshake, or is finished.
    #[inline(always)]
    pub fn is_in_doubt(self, from: &Endpoint, to: &Endpoint, netns: i32) -> bool {
        let mut tuple = tuple(from, to);
        // SAFETY: as in `socket`.
        unsafe {
            let found =
                bpf_skc_lookup_tcp(self.0.cast(), (&raw mut tuple).cast(), TUPLE, netns as u32 as u64, 0);
            if found.is_null() {
                return false;
            }
            let state = (*found).state;
            bpf_sk_release(found.cast());
            state == BPF_TCP_NEW_SYN_RECV || state == BPF_TCP_TIME_WAIT
        }
    }

    /// The raw context, for callbacks that receive it in a struct.
    #[inline(always)]
    pub fn raw(self) -> *mut __sk_buff {
        self.0
    }

    /// The packet behind a raw context that [`Skb::raw`] returned in the same program run.
    #[inline(always)]
    pub fn from_raw(raw: *mut __sk_buff) -> Self {
        Self(raw)
    }
}

/// The first `N` bytes of a packet, read where they are: a segment that is not ours takes 27 ns so, and 42 with two calls of the
/// kernel. Valid until the packet is changed. The verifier rejects a program that reads past them.
#[derive(Clone, Copy)]
pub struct Front<const N: u32>(*const u8);

impl<const N: u32> Front<N> {
    /// The byte at `offset`.
    #[inline(always)]
    pub fn byte(self, offset: u32) -> u8 {
        self.read(offset)
    }

    /// The two bytes at `offset`, even, as a number.
    #[inline(always)]
    pub fn number(self, offset: u32) -> u16 {
        u16::from_be(self.read(offset))
    }

    /// The four bytes at `offset`, two more than a multiple of four, as a number.
    #[inline(always)]
    pub fn long(self, offset: u32) -> u32 {
        u32::from_be(self.read(offset))
    }

    /// The address at `offset`, two more than a multiple of four, as in an IP header.
    #[inline(always)]
    pub fn address(self, offset: u32) -> Address {
        self.read::<u32>(offset).to_ne_bytes()
    }

    /// The `M` bytes at `offset`.
    #[inline(always)]
    pub fn bytes<const M: usize>(self, offset: u32) -> [u8; M] {
        self.read(offset)
    }

    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> T {
        // SAFETY: these bytes are there. Where a machine minds, the kernel aligns IP headers to four bytes.
        unsafe { self.0.add(offset as usize).cast::<T>().read() }
    }
}

/// Where a packet goes next.
pub struct NextHop {
    /// The interface that it leaves by.
    pub interface: u32,
    /// The host's address as the kernel has it: in network order.
    address: u32,
}

/// How the kernel is asked for a socket. Not the whole union: stack is scarce, and the kernel only reads this much.
#[inline(always)]
fn tuple(from: &Endpoint, to: &Endpoint) -> Ipv4Tuple {
    Ipv4Tuple {
        saddr: u32::from_ne_bytes(from.address),
        daddr: u32::from_ne_bytes(to.address),
        sport: from.port.to_be(),
        dport: to.port.to_be(),
    }
}

/// Two or four bytes as the number that the checksum helpers take.
#[inline(always)]
fn word<const N: usize>(bytes: [u8; N]) -> u64 {
    if N == 2 {
        u16::from_ne_bytes([bytes[0], bytes[1]]) as u64
    } else {
        u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as u64
    }
}

/// For UDP a checksum that becomes zero is written as ffff: zero would mean "no checksum" (RFC 768).
#[inline(always)]
fn mangled(protocol: u16) -> u64 {
    if protocol == UDP as u16 { BPF_F_MARK_MANGLED_0 as u64 } else { 0 }
}

/// The kernel's monotonic clock, nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The same in seconds, a few milliseconds late at most, and cheaper.
#[inline(always)]
pub fn seconds() -> u32 {
    const NANOSECONDS: u64 = 1_000_000_000;
    // SAFETY: no arguments.
    (unsafe { bpf_ktime_get_coarse_ns() } / NANOSECONDS) as u32
}
