//! A datagram of a member on its way: what `from_pod` found out about it, how it gets to the other members and to the LAN,
//! and what becomes of the packet itself then.

use abi::{
    Domain, Endpoint, Headers, LIMITED_BROADCAST, Member, NO_ADDRESS, Point, Sending, UDP, Uplink, Verdict,
    paths, route,
};
use wire::Direction;

use crate::{
    copies,
    count::count,
    event::{Seen, emit},
    format::{Content, Format},
    maps::{DOMAINS, SENDING, UPLINKS, lookup},
    packet::Packet,
    ports::{self, Holder},
    skb::{DROP, NEXT, Skb},
};

/// What stands for an uplink that is not there: an Option would leave the compiler registers to spill that were never
/// written, which the verifier refuses.
const NO_UPLINK: Uplink = Uplink { address: NO_ADDRESS, broadcast: NO_ADDRESS, mac: [0; 6], domain: 0 };

/// A datagram of a member.
pub struct Outgoing {
    /// The datagram.
    pub packet: Packet,
    /// What is known of it and of its sender.
    pub sending: &'static Sending,
    /// What it is, from [`route`].
    pub route: u16,
    /// Directions of the relayed port, from [`paths`].
    flags: u16,
    /// Not 0 if it names anything.
    names: u32,
    /// Whether it is a broadcast of which everybody has a copy who is to have one.
    copied: bool,
}

/// The external endpoints of a datagram: what its receivers on the LAN are to see.
struct Names {
    /// What it names, in the pod.
    own: Endpoint,
    /// The external endpoint that stands for it.
    external: Endpoint,
    /// The one that stands for its source.
    source: Endpoint,
}

/// What becomes of the packet itself.
enum Fate {
    /// It goes on as if there were no iocast.
    Pass,
    /// It goes on to the node's own sockets only: a bridge would flood it to pods that had their copy.
    KeepToNode,
    /// It leaves by the uplink.
    Leave,
    /// Nobody gets it.
    Drop,
}

impl Outgoing {
    /// The datagram that the program before this one passed on.
    #[inline(always)]
    pub fn resume(skb: Skb) -> Option<Self> {
        let sending = SENDING.get(0).filter(|sending| sending.interface == skb.interface())?;
        let Sending { headers, route, flags, .. } = sending;
        let packet = Packet::with(skb, headers);
        Some(Self { packet, sending, route: *route, flags: *flags, names: 0, copied: false })
    }

    /// Who sent it.
    #[inline(always)]
    pub fn member(&self) -> &'static Member {
        &self.sending.member
    }

    /// Whether it is in another's name.
    #[inline(always)]
    pub fn is_spoofed(&self) -> bool {
        self.packet.source.address != self.member().address
    }

    /// Its domain, and the domain's uplink, whose address is [`NO_ADDRESS`] while there is none.
    #[inline(always)]
    pub fn domain(&self) -> Option<(&'static Domain, Uplink)> {
        let domain = DOMAINS.get(self.member().domain as u32)?;
        Some((domain, lookup(&UPLINKS, domain.uplink).unwrap_or(NO_UPLINK)))
    }

    /// Gives copies to the other members, and makes the datagram one for the LAN; a broadcast is copied for that, too, and
    /// stays as it is.
    #[inline(always)]
    pub fn forward<F: Format>(&mut self) -> Verdict {
        if self.is_spoofed() {
            return Verdict::Spoofed;
        }
        let answers = self.route == route::ANSWER;
        let direction = if answers { Direction::Answer } else { Direction::Announce };
        let content = match F::inspect(&self.packet, direction, self.sending.protocol) {
            Ok(content) => content,
            Err(fault) => return fault,
        };
        let names = content.named();
        let Some(content) = content.put_aside() else { return Verdict::Malformed };
        self.names = names & content.named(); // 0 at compile time for a format that names nothing
        let Some((domain, uplink)) = self.domain() else { return Verdict::NoUplink };
        let broadcast = self.route == route::BROADCAST;
        if broadcast && content.is_directed() {
            return Verdict::Malformed;
        }
        let to_node = self.packet.destination.address == uplink.address;
        let stays = broadcast || to_node; // for the node's own sockets
        self.copied = broadcast;
        let macs = self.packet.macs();
        let mut verdict = Verdict::Relayed;
        if stays {
            verdict = self.copy_to_members(content);
        }
        if !to_node && self.flags & paths::POD_TO_LAN != 0 {
            if stays {
                self.count(verdict);
            }
            verdict = self.send::<F>(content, domain, &uplink, stays);
        }
        if stays {
            let Headers { source, destination, .. } = self.sending.headers;
            copies::restore(&mut self.packet, content, macs, source, destination);
        }
        verdict
    }

    /// A copy to the other members. The packet stays as the copy is.
    #[inline(always)]
    fn copy_to_members(&mut self, content: &Content) -> Verdict {
        if self.flags & paths::POD_TO_PODS == 0 {
            return Verdict::Relayed;
        }
        let (domain, port) = (self.member().domain, self.packet.destination.port);
        copies::to_fan(&mut self.packet, content, domain, port)
    }

    /// Makes the datagram come from the uplink, payload included, by external ports that lead back; of a broadcast a copy,
    /// and the packet's headers stay as the copy's are.
    #[inline(always)]
    fn send<F: Format>(
        &mut self,
        content: &Content,
        domain: &Domain,
        uplink: &Uplink,
        broadcast: bool,
    ) -> Verdict {
        let names = match self.names(content, domain, uplink) {
            Ok(names) => names,
            Err(fault) => return fault,
        };
        self.rename::<F>(content, &names.own, &names.external);
        self.packet.set_source(names.source);
        let port = self.sending.port;
        if !broadcast {
            self.packet.set_destination(Endpoint { port, ..self.packet.destination });
            return if self.route == route::ANSWER { Verdict::Answered } else { Verdict::Sent };
        }
        let address = if self.flags & paths::CAMERAS != 0 { LIMITED_BROADCAST } else { uplink.broadcast };
        self.packet.set_destination(Endpoint { address, port, protocol: UDP as u16 });
        let verdict = copies::to_lan(&self.packet, content, domain.uplink, uplink.mac);
        // At once: to remember what the packet names now is more than the verifier can follow.
        self.rename::<F>(content, &names.external, &names.own);
        verdict
    }

    /// External endpoints for what the datagram names and for its source.
    #[inline(always)]
    fn names(&self, content: &Content, domain: &Domain, uplink: &Uplink) -> Result<Names, Verdict> {
        if uplink.address == NO_ADDRESS {
            return Err(Verdict::NoUplink);
        }
        let own = content.own(self.packet.source.address).ok_or(Verdict::Foreign)?;
        let mut external = Endpoint { address: uplink.address, ..own };
        if self.names != 0 && own.port != 0 {
            external = self.external(domain, uplink, own).ok_or(Verdict::NoPort)?;
        }
        // Nobody answers a beacon: it comes from the port that it names, and takes no other.
        let mut source = Endpoint { protocol: UDP as u16, ..external };
        if self.route == route::ANSWER || content.is_search() || own.port == 0 {
            source = self.external(domain, uplink, self.packet.source).ok_or(Verdict::NoPort)?;
        }
        Ok(Names { own, external, source })
    }

    #[inline(always)]
    fn rename<F: Format>(&self, content: &Content, from: &Endpoint, to: &Endpoint) {
        if self.names != 0 {
            F::rename(&self.packet, content, from, to);
        }
    }

    #[inline(always)]
    fn external(&self, domain: &Domain, uplink: &Uplink, pod: Endpoint) -> Option<Endpoint> {
        let Sending { ref member, interface, protocol, .. } = *self.sending;
        let holder = Holder { member, interface, domain, uplink: uplink.address };
        ports::external(self.packet.skb, &holder, pod, protocol)
    }

    /// Counts the datagram.
    #[inline(always)]
    pub fn count(&self, verdict: Verdict) {
        count(self.member().domain, self.sending.protocol, verdict);
    }

    /// Counts the datagram, and emits it as an event.
    #[inline(always)]
    pub fn report(&self, verdict: Verdict) {
        let Sending { headers, member, interface, protocol, .. } = self.sending;
        self.count(verdict);
        let (source, domain) = (headers.source, member.domain);
        let seen =
            Seen { point: Point::FromPod, member: *interface, source, domain, protocol: *protocol, verdict };
        emit(&self.packet, &seen);
    }

    /// The program's return code.
    #[inline(always)]
    pub fn finish(&self, verdict: Verdict) -> i32 {
        // Not by the verdict, of which the verifier would follow each through all that comes after it.
        let fate = if self.copied { Fate::KeepToNode } else { fate(verdict, self.route == route::BROADCAST) };
        match fate {
            Fate::Pass => NEXT,
            Fate::KeepToNode => {
                self.packet.set_mac_destination(self.member().mac);
                NEXT
            }
            Fate::Leave => {
                let uplink = DOMAINS.get(self.member().domain as u32).map_or(0, |domain| domain.uplink);
                self.packet.skb.redirect_to_neighbour(uplink)
            }
            Fate::Drop => DROP,
        }
    }
}

/// What becomes of a datagram after this verdict.
#[inline(always)]
const fn fate(verdict: Verdict, broadcast: bool) -> Fate {
    use Verdict::*;
    match verdict {
        // What is no message of the protocol, or not the pod's own, is not ours to decide about.
        Malformed | Fragment | Spoofed | Local | Unrelayed => Fate::Pass,
        Relayed | Overrun | NoUplink | Foreign => Fate::Pass,
        Sent | Answered => Fate::Leave,
        NoPort | Limited | Denied if broadcast => Fate::KeepToNode,
        // It would leave for the LAN untranslated: nobody could come back, and nobody judged it.
        NoPort | Limited | Denied => Fate::Drop,
        // Verdicts of other programs.
        Delivered | TranslatedIn | TranslatedOut | Unowned | Unrelated | Elsewhere | TooBig | OffLan
        | Direct => Fate::Pass,
    }
}
