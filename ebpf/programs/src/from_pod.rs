//! tc ingress of a member's host-side veth: what a pod sends.
//!
//! A broadcast to a relayed port goes to the other members, to the LAN in the uplink's name, and to the node's own
//! sockets. A unicast answer to a LAN socket that searched leaves by the uplink, translated. All else passes.

use abi::{
    Domain, Endpoint, LIMITED_BROADCAST, Member, Relay, RelayKey, SEARCHER_AGE_NS, SearcherKey, UDP, Uplink,
    Verdict, relay,
};

use crate::{
    ca,
    count::{count, count_other},
    fan,
    maps::{DOMAINS, MEMBERS, POD_RELAYS, SEARCHERS, UPLINKS},
    packet::{BROADCAST_MAC, Packet},
    ports,
    skb::{DROP, NEXT, Skb, now},
};

/// A packet from a member, with all that is known of both.
struct FromPod {
    packet: Packet,
    member: Member,
    interface: u32,
}

#[inline(always)]
pub fn run(skb: Skb) -> i32 {
    let Some(packet) = Packet::parse(skb) else { return NEXT };
    if !packet.is_udp() {
        return NEXT; // TCP is translated at the uplink only
    }
    let interface = skb.interface();
    // SAFETY: copied at once.
    let Some(member) = (unsafe { MEMBERS.get(interface) }).copied() else { return NEXT };
    let destination = packet.destination.address;
    let from = FromPod { packet, member, interface };
    if destination == member.broadcast || destination == LIMITED_BROADCAST {
        from.broadcast()
    } else {
        from.answer()
    }
}

impl FromPod {
    /// A broadcast: relays it if its port is relayed. The original goes on to the node's own sockets.
    #[inline(always)]
    fn broadcast(mut self) -> i32 {
        let domain = self.member.domain;
        let key = RelayKey { scope: domain as u32, port: self.packet.destination.port, reserved: 0 };
        // SAFETY: copied at once.
        let Some(relay) = (unsafe { POD_RELAYS.get(key) }).copied() else {
            count_other(domain, Verdict::Unrelayed);
            return NEXT;
        };
        if let Some(fault) = self.fault() {
            count(domain, relay.protocol, fault);
            return NEXT;
        }
        if relay.flags & relay::POD_TO_PODS != 0 {
            let port = self.packet.destination.port;
            count(domain, relay.protocol, fan::hand_over(&mut self.packet, domain, port));
        }
        if relay.flags & relay::POD_TO_LAN != 0 {
            self.send_to_lan(&relay);
        }
        // To the node's own sockets only: a bridge would flood the original to pods that had their copy.
        self.packet.set_mac_destination(self.member.mac);
        NEXT
    }

    /// Why a broadcast to a relayed port is not relayed.
    #[inline(always)]
    fn fault(&self) -> Option<Verdict> {
        if self.packet.fragment {
            Some(Verdict::Fragment)
        } else if self.packet.source.address != self.member.address {
            Some(Verdict::Spoofed)
        } else if !ca::is_search(&self.packet) {
            Some(Verdict::Malformed)
        } else {
            None
        }
    }

    /// Sends a copy to the LAN from the uplink's address and a port that leads back; the packet stays as it is.
    #[inline(always)]
    fn send_to_lan(&mut self, relay: &Relay) {
        let Some((domain, uplink)) = self.uplink() else {
            count(self.member.domain, relay.protocol, Verdict::NoUplink);
            return;
        };
        let (source, destination) = (self.packet.source, self.packet.destination);
        let Some(external) = self.external(domain, &uplink, source) else {
            count(self.member.domain, relay.protocol, Verdict::NoPort);
            return;
        };
        self.packet.set_source(external);
        self.packet.set_destination(Endpoint {
            address: uplink.broadcast,
            port: relay.port,
            protocol: UDP as u16,
        });
        self.packet.set_mac_source(uplink.mac);
        self.packet.set_mac_destination(BROADCAST_MAC);
        let sent = self.packet.skb.clone_out(domain.uplink);
        self.packet.set_source(source);
        self.packet.set_destination(destination);
        count(self.member.domain, relay.protocol, if sent { Verdict::Sent } else { Verdict::Overrun });
    }

    /// A unicast datagram: translates it if it answers a LAN socket that searched.
    #[inline(always)]
    fn answer(mut self) -> i32 {
        let Some(protocol) = self.searcher() else { return NEXT };
        match self.translate_answer() {
            Ok(uplink) => {
                count(self.member.domain, protocol, Verdict::Answered);
                self.packet.skb.redirect_to_neighbour(uplink)
            }
            Err(verdict) => {
                count(self.member.domain, protocol, verdict);
                if verdict == Verdict::NoPort { DROP } else { NEXT }
            }
        }
    }

    /// The protocol in which the destination searched a short while ago.
    #[inline(always)]
    fn searcher(&self) -> Option<u16> {
        let Endpoint { address, port, .. } = self.packet.destination;
        let key = SearcherKey { address, port, domain: self.member.domain };
        // SAFETY: copied at once.
        let searcher = unsafe { SEARCHERS.get(key) }.copied()?;
        (now() - searcher.seen < SEARCHER_AGE_NS).then_some(searcher.protocol as u16)
    }

    /// Makes the answer come from the uplink, payload included; returns the uplink's interface.
    #[inline(always)]
    fn translate_answer(&mut self) -> Result<u32, Verdict> {
        if self.packet.fragment {
            return Err(Verdict::Fragment);
        }
        let pod = self.packet.source;
        if pod.address != self.member.address {
            return Err(Verdict::Spoofed);
        }
        let port = ca::server(&self.packet, pod.address)?;
        let (domain, uplink) = self.uplink().ok_or(Verdict::NoUplink)?;
        let circuit = Endpoint { port, protocol: abi::TCP as u16, ..pod };
        let circuit = self.external(domain, &uplink, circuit).ok_or(Verdict::NoPort)?;
        let source = self.external(domain, &uplink, pod).ok_or(Verdict::NoPort)?;
        ca::rename_server(&self.packet, pod.address, uplink.address, circuit.port);
        self.packet.set_source(source);
        Ok(domain.uplink)
    }

    #[inline(always)]
    fn external(&self, domain: &Domain, uplink: &Uplink, pod: Endpoint) -> Option<Endpoint> {
        ports::external(self.packet.skb, (&self.member, self.interface), domain, uplink.address, pod)
    }

    /// The member's domain and its uplink, while it has one.
    #[inline(always)]
    fn uplink(&self) -> Option<(&'static Domain, Uplink)> {
        let domain = DOMAINS.get(self.member.domain as u32)?;
        // SAFETY: copied at once.
        let uplink = unsafe { UPLINKS.get(domain.uplink) }.copied()?;
        Some((domain, uplink))
    }
}
