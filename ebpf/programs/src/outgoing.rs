//! A member's outgoing datagram: what `from_pod` found out about it, how it reaches the other members and the LAN, and what
//! happens to the packet itself.

use abi::{
    Domain, Endpoint, Member, NO_ADDRESS, Point, Protocol, RelayKey, Sending, TCP, UDP, Uplink, Verdict,
    hold, paths, route,
};
use wire::Direction;

use crate::{
    copies,
    count::count,
    event::{Seen, emit},
    format::{Content, Format},
    lan_address,
    maps::{DOMAINS, POD_RELAYS, SENDING, UPLINKS, contains, lookup},
    packet::Packet,
    peers,
    ports::{self, Holder},
    skb::{DROP, NEXT, Skb},
};

/// Stands for a missing uplink: with an Option the compiler would spill registers that were never written, which the
/// verifier rejects.
const NO_UPLINK: Uplink = Uplink { address: NO_ADDRESS, broadcast: NO_ADDRESS, mac: [0; 6], domain: 0 };

/// A datagram sent by a member.
pub struct Outgoing {
    /// The datagram.
    pub packet: Packet,
    /// What `from_pod` found out about it and its sender.
    pub sending: &'static Sending,
}

/// The external endpoints of a datagram: what its receivers on the LAN see.
struct Externals {
    /// The pod's endpoint that it names.
    own: Endpoint,
    /// The external endpoint that stands for it.
    external: Endpoint,
    /// The external endpoint that stands for its source.
    source: Endpoint,
}

/// What happens to the packet itself.
enum Fate {
    /// It continues as it would without iocast.
    Pass,
    /// It goes to the node's own sockets only: a bridge would flood it to pods that already got a copy.
    KeepToNode,
    /// It leaves through the uplink.
    Leave,
    /// The node's stack takes it to the LAN, unless the domain has it pass by that.
    Route,
    /// It goes to the pod on this node that it asks.
    Neighbour,
    /// It is dropped.
    Drop,
}

impl Outgoing {
    /// The datagram that the previous program passed on.
    #[inline(always)]
    pub fn resume(skb: Skb) -> Option<Self> {
        let sending = SENDING.get(0).filter(|sending| sending.interface == skb.interface())?;
        Some(Self { packet: Packet::with(skb, &sending.headers), sending })
    }

    /// The member that sent it.
    #[inline(always)]
    pub fn member(&self) -> &'static Member {
        &self.sending.member
    }

    /// Whether its source is no address of the member's.
    #[inline(always)]
    pub fn is_spoofed(&self) -> bool {
        self.packet.source.address != self.member().address && !self.is_from_lan_address()
    }

    /// Whether its source is the member's address on the LAN.
    #[inline(always)]
    pub fn is_from_lan_address(&self) -> bool {
        let Member { lan_address, .. } = *self.member();
        lan_address != NO_ADDRESS && self.packet.source.address == lan_address
    }

    /// Its domain and the domain's uplink; the uplink's address is [`NO_ADDRESS`] while there is none.
    #[inline(always)]
    pub fn domain(&self) -> Option<(&'static Domain, Uplink)> {
        let domain = DOMAINS.get(self.member().domain as u32)?;
        Some((domain, lookup(&UPLINKS, domain.uplink).unwrap_or(NO_UPLINK)))
    }

    /// Gives copies to the other members, and turns the datagram into one for the LAN; of a broadcast the LAN gets a copy as
    /// well, and the packet is left unchanged.
    #[inline(always)]
    pub fn forward<F: Format>(&mut self) -> Verdict {
        if self.is_spoofed() {
            return Verdict::Spoofed;
        }
        let answers = self.sending.route == route::ANSWER;
        let direction = if answers { Direction::Answer } else { Direction::Announce };
        let content = match F::inspect(&self.packet, direction, self.sending.protocol) {
            Ok(content) => content,
            Err(fault) => return fault,
        };
        let Some((domain, uplink)) = self.domain() else { return Verdict::NoUplink };
        let broadcast = self.sending.route == route::BROADCAST;
        if broadcast && content.is_directed() {
            return Verdict::Malformed;
        }
        if self.neighbour().is_some() {
            return Verdict::Delivered;
        }
        let to_node = self.packet.destination.address == uplink.address;
        if broadcast || to_node {
            let verdict = self.copy_to_members();
            if to_node || self.sending.flags & paths::POD_TO_LAN == 0 {
                return verdict; // the original is for the node's own sockets
            }
            self.count(verdict);
        }
        self.send::<F>(&content, domain, &uplink)
    }

    /// The member whose LAN address a pod asks from its own address, if it is on this node: it answers directly, as to all pods
    /// here. The LAN would not answer the node's question where it is, and the node would masquerade the search.
    #[inline(always)]
    pub fn neighbour(&self) -> Option<u32> {
        let is_own = self.packet.source.address == self.member().address;
        (is_own && self.sending.neighbour != 0).then_some(self.sending.neighbour)
    }

    /// Gives the other members a copy.
    #[inline(always)]
    fn copy_to_members(&mut self) -> Verdict {
        if self.sending.flags & paths::POD_TO_PODS == 0 {
            return Verdict::Relayed;
        }
        let (domain, port) = (self.member().domain, self.packet.destination.port);
        let source = self.packet.source;
        if let Some(on_lan) = self.at_lan_address(source) {
            self.packet.set_source(on_lan); // the fan takes the own one for those that know the pod by that
        }
        let verdict = copies::enqueue(&mut self.packet, domain, port);
        self.packet.set_source(source);
        verdict
    }

    /// Makes the datagram, payload included, come from the uplink and from external ports that lead back to the pod. Of a
    /// broadcast, it sends such a copy.
    #[inline(always)]
    fn send<F: Format>(&mut self, content: &Content, domain: &Domain, uplink: &Uplink) -> Verdict {
        let ends = match self.externals(content, uplink) {
            Ok(ends) => ends,
            Err(fault) => return fault,
        };
        self.rename::<F>(content, &ends.own, &ends.external);
        let port = self.sending.port;
        if self.sending.route != route::BROADCAST {
            let from = self.packet.source.port;
            self.packet.set_source(ends.source);
            if self.sending.route == route::ANSWER {
                let (domain, interface) = (self.member().domain, self.sending.interface);
                peers::learn_answer(self.packet.destination, domain, interface, from);
                return Verdict::Answered;
            }
            self.packet.set_destination(Endpoint { port, ..self.packet.destination });
            return Verdict::Sent;
        }
        let to = Endpoint { address: self.sending.to, port, protocol: UDP as u16 };
        let verdict = copies::send(&mut self.packet, domain.uplink, uplink.mac, (ends.source, to));
        self.rename::<F>(content, &ends.external, &ends.own);
        verdict
    }

    /// External endpoints for what the datagram names and for its source.
    #[inline(always)]
    fn externals(&self, content: &Content, uplink: &Uplink) -> Result<Externals, Verdict> {
        if uplink.address == NO_ADDRESS {
            return Err(Verdict::NoUplink);
        }
        let Member { address, lan_address, .. } = *self.member();
        let other = if self.is_from_lan_address() { address } else { lan_address };
        let own = content.own(self.packet.source.address, other).ok_or(Verdict::Foreign)?;
        // A stream has a socket of its own each time, which nobody finds again.
        let lasts = !content.is_search() && self.sending.protocol != Protocol::Gvsp as u16;
        let hold = if lasts { hold::SERVER } else { hold::CLIENT };
        let mut external = Endpoint { address: uplink.address, ..own };
        if own.port != 0 {
            external = self.external(uplink, own, hold).ok_or(Verdict::NoPort)?;
        }
        // Nobody answers a beacon, nor an answer that names a server: they take no port for their source. A beacon is sent from
        // the external port that it names, an answer from the one that was asked, as firewalls before the client expect.
        let asked = if own.protocol == TCP as u16 { self.sending.port } else { 0 };
        let mut source = Endpoint { protocol: UDP as u16, ..external };
        if external.address == lan_address {
            source.port = self.packet.source.port;
        }
        if self.sending.route == route::ANSWER {
            source.port = asked;
        }
        if content.is_search() || own.port == 0 || source.port == 0 {
            // Many servers answer from a new socket each time they start, which nobody finds again.
            let hold = if self.is_relayed(self.packet.source.port) { hold } else { hold::CLIENT };
            source = self.external(uplink, self.packet.source, hold).ok_or(Verdict::NoPort)?;
        }
        Ok(Externals { own, external, source })
    }

    /// Whether a UDP port of the domain's pods is relayed: where servers are asked.
    #[inline(always)]
    fn is_relayed(&self, port: u16) -> bool {
        contains(&POD_RELAYS, RelayKey::of_pods(self.member().domain, port))
    }

    #[inline(always)]
    fn rename<F: Format>(&self, content: &Content, from: &Endpoint, to: &Endpoint) {
        if content.is_named() {
            F::rename(&self.packet, content, from, to);
        }
    }

    /// What stands for the pod's endpoint on the LAN.
    #[inline(always)]
    fn external(&self, uplink: &Uplink, pod: Endpoint, hold: u8) -> Option<Endpoint> {
        if let Some(own) = self.at_lan_address(pod) {
            return Some(own);
        }
        let Sending { ref member, interface, protocol, flags, port, .. } = *self.sending;
        if flags & paths::SYMMETRIC != 0 {
            return Some(Endpoint { address: uplink.address, port, ..pod });
        }
        let holder = Holder { member, interface, uplink: uplink.address };
        ports::external(self.packet.skb, &holder, pod, protocol, hold)
    }

    /// The same port of the member's address on the LAN, if it has one and a socket hears there.
    #[inline(always)]
    pub fn at_lan_address(&self, pod: Endpoint) -> Option<Endpoint> {
        let Member { lan_address, netns, .. } = *self.member();
        let there = Endpoint { address: lan_address, ..pod };
        let hears = lan_address != NO_ADDRESS
            && (pod.address == lan_address || self.packet.skb.socket(&ports::ANYONE, &there, netns));
        hears.then_some(there)
    }

    /// Counts the datagram.
    #[inline(always)]
    pub fn count(&self, verdict: Verdict) {
        count(self.member().domain, self.sending.protocol, verdict);
    }

    /// Counts the datagram and emits it as an event.
    #[inline(always)]
    pub fn report(&self, verdict: Verdict) {
        let Sending { headers, member, interface, protocol, .. } = self.sending;
        self.count(verdict);
        let (source, domain) = (headers.source, member.domain);
        let seen =
            Seen { point: Point::FromPod, member: *interface, source, domain, protocol: *protocol, verdict };
        emit(&self.packet, &seen);
    }

    /// Whether it takes the way of all that is from the member's LAN address, as its answer does: it is untranslated.
    #[inline(always)]
    fn is_routed(&self) -> bool {
        self.is_from_lan_address() && self.sending.headers.source.address == self.packet.source.address
    }

    /// Hands it to the node's stack, or past that to where it goes.
    #[inline(always)]
    fn pass_on(&self) -> i32 {
        if !lan_address::is_direct(self.member().domain) {
            NEXT
        } else if self.sending.neighbour != 0 {
            self.packet.skb.redirect_to_neighbouring_pod(self.sending.neighbour)
        } else {
            self.leave()
        }
    }

    /// Sends it out of the uplink.
    #[inline(always)]
    fn leave(&self) -> i32 {
        let uplink = DOMAINS.get(self.member().domain as u32).map_or(0, |domain| domain.uplink);
        self.packet.skb.redirect_to_neighbour(uplink)
    }

    /// The program's return code.
    #[inline(always)]
    pub fn finish(&self, verdict: Verdict) -> i32 {
        match fate(verdict, self.sending.route == route::BROADCAST, self.is_routed()) {
            Fate::Pass => NEXT,
            Fate::KeepToNode => {
                if is_for_all(self.packet.mac_destination()) {
                    self.packet.set_mac_destination(self.member().mac);
                }
                NEXT
            }
            Fate::Leave => self.leave(),
            Fate::Route => self.pass_on(),
            Fate::Neighbour => self.packet.skb.redirect_to_neighbouring_pod(self.sending.neighbour),
            Fate::Drop => DROP,
        }
    }
}

/// Whether a bridge floods a frame to this address. One to the LAN's broadcast address is for the node, pod's gateway, already.
#[inline(always)]
const fn is_for_all(mac: [u8; 6]) -> bool {
    mac[0] & 1 != 0
}

/// What happens to a datagram after this verdict; `routed` if it is from the pod's LAN address, untranslated.
#[inline(always)]
const fn fate(verdict: Verdict, broadcast: bool, routed: bool) -> Fate {
    use Verdict::*;
    match verdict {
        // Not a message of the protocol, or not the pod's own: not ours to decide on.
        Malformed | Fragment | Spoofed | Local | Unrelayed => Fate::Pass,
        Relayed | Overrun | NoUplink | Foreign | Sent | NoPort | Limited | Denied if broadcast => {
            Fate::KeepToNode
        }
        Relayed | Overrun | NoUplink | Foreign => Fate::Pass,
        Sent if routed => Fate::Route,
        Sent | Answered => Fate::Leave,
        Delivered => Fate::Neighbour,
        Repeated => Fate::Drop,
        // It would reach the LAN untranslated and unchecked, and no answer could come back.
        NoPort | Limited | Denied => Fate::Drop,
        // Verdicts that only other programs give.
        TranslatedIn | TranslatedOut | Unowned | Unrelated | NoCircuit | Elsewhere | TooBig | OffLan
        | Direct => Fate::Pass,
    }
}
