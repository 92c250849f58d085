//! tc ingress of a member's host-side veth: what a pod sends.
//!
//! A broadcast to a relayed port goes to the other members, to the LAN in the uplink's name, and to the node's own
//! sockets. A unicast search to a host on the LAN, and a unicast answer to a LAN socket that searched, leave by the uplink,
//! translated. All else passes.
//!
//! `from_pod` itself only finds out what a datagram is, and goes on by a tail call to the program of its protocol: each has
//! its own 512 bytes of stack, and its own share of the verifier's patience.

use abi::{
    Domain, Endpoint, LIMITED_BROADCAST, Member, Point, RelayKey, SEARCHER_AGE_NS, SearcherKey, UDP, Uplink,
    Verdict, lan, network, relay,
};
use aya_ebpf::{maps::lpm_trie::Key, programs::TcContext};
use wire::Direction;

use crate::{
    count::{count, count_other},
    event::{Seen, tell, tell_direct},
    fan, limit,
    maps::{DOMAINS, FROM_POD, LAN, MEMBERS, POD_RELAYS, SEARCHERS, UPLINKS},
    packet::{BROADCAST_MAC, Packet},
    payload::{Content, Format},
    ports,
    skb::{DROP, NEXT, Skb, now},
};

/// What a datagram is, by its destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A broadcast to a relayed port.
    Broadcast,
    /// A datagram to a relayed port of a host on the LAN, or of the node.
    Unicast,
    /// An answer to a LAN socket that searched.
    Answer,
}

/// What stands for an uplink that is not there: an Option would leave the compiler registers to spill that were never
/// written, which the verifier refuses.
const NO_UPLINK: Uplink = Uplink { address: [0; 4], broadcast: [0; 4], mac: [0; 6], domain: 0 };

/// A datagram from a member that is ours to treat, with all that is known of both.
pub struct FromPod {
    /// The datagram.
    pub packet: Packet,
    /// Who sent it.
    pub member: Member,
    /// Interface index of its host-side veth.
    pub interface: u32,
    /// What the datagram is.
    pub way: Way,
    protocol: u16,
    /// Directions of the relay.
    flags: u16,
    /// Its destination port on the LAN.
    port: u16,
}

/// Goes on with the program of the datagram's protocol.
#[inline(always)]
pub fn run(context: &TcContext) -> i32 {
    let Some((packet, member, interface)) = datagram(Skb::new(context)) else { return NEXT };
    let broadcast = is_broadcast(packet.destination.address, &member);
    match FromPod::classify(packet, member, interface) {
        Some(from) if from.way != Way::Answer && !limit::admits_pod(member.domain, interface) => {
            return from.refuse();
        }
        Some(from) => {
            // SAFETY: comes back only if there is no such program.
            let _ = unsafe { FROM_POD.tail_call(context, from.protocol as u32) };
        }
        None if broadcast => count_other(member.domain, Verdict::Unrelayed),
        None => tell_direct(Skb::new(context), &member),
    }
    NEXT
}

/// A datagram, the member that sent it, and the interface of its veth. TCP is translated at the uplink only.
#[inline(always)]
pub fn datagram(skb: Skb) -> Option<(Packet, Member, u32)> {
    let packet = Packet::parse(skb)?;
    if !packet.is_udp() {
        return None;
    }
    let interface = skb.interface();
    // SAFETY: copied at once.
    let member = unsafe { MEMBERS.get(interface) }.copied()?;
    Some((packet, member, interface))
}

/// Treats a datagram of the protocol whose payloads have format `F`.
#[inline(always)]
pub fn relay<F: Format>(skb: Skb) -> i32 {
    let Some(mut from) = FromPod::new(skb) else { return NEXT };
    let (source, interface) = (from.packet.source, from.interface);
    let verdict = from.relay::<F>();
    let (domain, protocol) = (from.member.domain, from.protocol);
    count(domain, protocol, verdict);
    if !F::STREAM {
        tell(
            &from.packet,
            &Seen { point: Point::FromPod, member: interface, source, domain, protocol, verdict },
        );
    }
    match (from.way, verdict) {
        (Way::Broadcast, Verdict::Malformed | Verdict::Spoofed | Verdict::Fragment | Verdict::Local) => NEXT,
        (Way::Broadcast, _) => {
            // To the node's own sockets only: a bridge would flood the original to pods that had their copy.
            from.packet.set_mac_destination(from.member.mac);
            NEXT
        }
        (_, Verdict::Sent | Verdict::Answered) => {
            let uplink = DOMAINS.get(from.member.domain as u32).map_or(0, |domain| domain.uplink);
            skb.redirect_to_neighbour(uplink)
        }
        (_, Verdict::NoPort) => DROP, // nobody could come back
        _ => NEXT,
    }
}

impl FromPod {
    /// The datagram in `skb`, if it is ours to treat.
    #[inline(always)]
    pub fn new(skb: Skb) -> Option<Self> {
        let (packet, member, interface) = datagram(skb)?;
        Self::classify(packet, member, interface)
    }

    /// The datagram, if it is ours to treat.
    #[inline(always)]
    fn classify(packet: Packet, member: Member, interface: u32) -> Option<Self> {
        let Endpoint { address, port, .. } = packet.destination;
        let broadcast = is_broadcast(address, &member);
        if !broadcast && let Some(protocol) = searcher(address, port, member.domain) {
            let flags = relay::POD_TO_LAN;
            return Some(Self { packet, member, interface, way: Way::Answer, protocol, flags, port });
        }
        let key = RelayKey { scope: member.domain as u32, port, reserved: 0 };
        // SAFETY: copied at once.
        let relay = unsafe { POD_RELAYS.get(key) }.copied()?;
        if !broadcast && on_lan(address, member.domain) & lan::HOSTS == 0 {
            return None;
        }
        let way = if broadcast { Way::Broadcast } else { Way::Unicast };
        let (protocol, flags, port) = (relay.protocol, relay.flags, relay.port);
        Some(Self { packet, member, interface, way, protocol, flags, port })
    }

    /// Leaves a broadcast too many to the node's own sockets, and drops what would leave for the LAN untranslated and, if it is
    /// a camera's command, unjudged.
    #[inline(always)]
    fn refuse(&self) -> i32 {
        let (domain, protocol, source, verdict) =
            (self.member.domain, self.protocol, self.packet.source, Verdict::Limited);
        count(domain, protocol, verdict);
        let member = self.interface;
        tell(&self.packet, &Seen { point: Point::FromPod, member, source, domain, protocol, verdict });
        if self.way != Way::Broadcast {
            return DROP;
        }
        self.packet.set_mac_destination(self.member.mac); // a bridge would flood it to other members
        NEXT
    }

    /// Gives copies to the other members, and makes the datagram one for the LAN; a broadcast is copied for that, too, and
    /// stays as it is.
    #[inline(always)]
    fn relay<F: Format>(&mut self) -> Verdict {
        if self.packet.source.address != self.member.address {
            return Verdict::Spoofed;
        }
        let direction = if self.way == Way::Answer { Direction::Answer } else { Direction::Announce };
        let content = match F::inspect(&self.packet, direction, self.protocol) {
            Ok(content) => content,
            Err(fault) => return fault,
        };
        if self.way == Way::Broadcast && content.is_directed() {
            return Verdict::Malformed;
        }
        let Some(domain) = DOMAINS.get(self.member.domain as u32) else { return Verdict::NoUplink };
        // SAFETY: copied at once.
        let uplink = unsafe { UPLINKS.get(domain.uplink) }.copied().unwrap_or(NO_UPLINK);
        let to_node = self.packet.destination.address == uplink.address;
        if self.way == Way::Broadcast || to_node {
            let verdict = self.give_to_pods(&content);
            if to_node || self.flags & relay::POD_TO_LAN == 0 {
                return verdict; // and the original to the node's own sockets
            }
            count(self.member.domain, self.protocol, verdict);
        }
        if uplink.address == NO_UPLINK.address {
            return Verdict::NoUplink;
        }
        self.send_to_lan::<F>(&content, domain, &uplink)
    }

    #[inline(always)]
    fn give_to_pods(&mut self, content: &Content) -> Verdict {
        if self.flags & relay::POD_TO_PODS == 0 {
            return Verdict::Relayed;
        }
        let port = self.packet.destination.port;
        fan::hand_over(&mut self.packet, content, self.member.domain, port)
    }

    /// Makes the datagram come from the uplink, payload included, by external ports that lead back, and sends a copy of it
    /// if it is a broadcast.
    #[inline(always)]
    fn send_to_lan<F: Format>(&mut self, content: &Content, domain: &Domain, uplink: &Uplink) -> Verdict {
        let (source, destination) = (self.packet.source, self.packet.destination);
        let Some(named) = content.own(source.address) else { return Verdict::Foreign };
        let rewritten = F::rewrite(self, uplink);
        if !matches!(rewritten, Verdict::Sent | Verdict::Answered) {
            return rewritten;
        }
        let mut external = Endpoint { address: uplink.address, ..named };
        if named.port != 0 {
            let Some(found) = self.external(domain, uplink, named) else { return Verdict::NoPort };
            external = found;
        }
        // Nobody answers a beacon: it comes from the port that it names, and takes no other.
        let mut from = Endpoint { protocol: UDP as u16, ..external };
        if self.way == Way::Answer || content.is_search() || named.port == 0 {
            let Some(found) = self.external(domain, uplink, source) else { return Verdict::NoPort };
            from = found;
        }
        if content.is_named() {
            F::rename(&self.packet, content, &named, &external);
        }
        self.packet.set_source(from);
        if self.way != Way::Broadcast {
            self.packet.set_destination(Endpoint { port: self.port, ..destination });
            return if self.way == Way::Answer { Verdict::Answered } else { Verdict::Sent };
        }
        self.packet.set_destination(Endpoint {
            address: if F::CAMERAS { LIMITED_BROADCAST } else { uplink.broadcast },
            port: self.port,
            protocol: UDP as u16,
        });
        let mac = self.packet.mac_source();
        self.packet.set_mac_source(uplink.mac);
        self.packet.set_mac_destination(BROADCAST_MAC);
        let sent = self.packet.skb.clone_out(domain.uplink);
        self.packet.set_mac_source(mac); // or a bridge would learn the uplink's at the pod's port
        self.packet.set_source(source);
        self.packet.set_destination(destination);
        if content.is_named() {
            F::rename(&self.packet, content, &external, &named);
        }
        if sent { Verdict::Sent } else { Verdict::Overrun }
    }

    #[inline(always)]
    fn external(&self, domain: &Domain, uplink: &Uplink, pod: Endpoint) -> Option<Endpoint> {
        let member = (&self.member, self.interface);
        let peer = self.packet.destination.address;
        ports::external(self.packet.skb, member, domain, uplink.address, (pod, self.protocol, peer))
    }
}

/// Whether `address` means everybody on the member's network.
#[inline(always)]
pub fn is_broadcast(address: [u8; 4], member: &Member) -> bool {
    address == member.broadcast || address == LIMITED_BROADCAST
}

/// The protocol in which a LAN socket searched a short while ago.
#[inline(always)]
fn searcher(address: [u8; 4], port: u16, domain: u16) -> Option<u16> {
    // SAFETY: copied at once.
    let searcher = unsafe { SEARCHERS.get(SearcherKey { address, port, domain }) }.copied()?;
    (searcher.seen.saturating_add(SEARCHER_AGE_NS) > now()).then_some(searcher.protocol as u16)
}

/// What `address` is for the domain. What is not on its LAN, such as a pod on another node, keeps its peers' true addresses.
#[inline(always)]
pub fn on_lan(address: [u8; 4], domain: u16) -> u32 {
    let (bits, key) = network(domain, address, 32);
    LAN.get(Key::new(bits, key)).copied().unwrap_or(0)
}
