//! GigE Vision: clients write to a camera's registers where it should stream to, and cameras announce their own address.
//!
//! When a pod commands a camera on the LAN, its address and ports in register values become the uplink's address and
//! external ports, and are translated back in the camera's acknowledgements. When a camera runs in a pod, its address in
//! discovery acknowledgements becomes the uplink's, and the uplink's GVCP port then belongs to that pod alone, since clients
//! use no other; its stream leaves with the uplink as source.
//!
//! `from_pod` and `from_lan` tail-call these programs for the work that GigE Vision needs beyond its format.

use abi::{Claim, Endpoint, NO_ADDRESS, Protocol, UDP, Uplink, Verdict, lan, next_place, route, trouble};
use aya_ebpf::programs::TcContext;
use wire::{
    Direction,
    gvcp::{self, Message, command},
};

use crate::{
    count::count,
    format::{Gvsp, gvcp::message},
    limit,
    maps::{ARRIVING, EXTERNALS, FROM_LAN, FROM_POD, MEMBERS, UPLINKS, lookup},
    outgoing::Outgoing,
    packet::{IP, PAYLOAD, Packet},
    peers,
    ports::{self, Holder},
    registers,
    skb::{DROP, NEXT, Skb},
};

const GVCP: u16 = Protocol::Gvcp as u16;
const GVSP: u16 = Protocol::Gvsp as u16;

/// Translates registers and addresses in a pod's message. The next program, with a stack of its own, sends it.
#[inline(always)]
pub fn from_pod(context: &TcContext) -> i32 {
    let Some(outgoing) = Outgoing::resume(Skb::new(context)) else { return NEXT };
    if let Err(verdict) = translate(&outgoing) {
        outgoing.count(verdict);
        return outgoing.finish(verdict);
    }
    // SAFETY: comes back only if there is no such program.
    unsafe { FROM_POD.tail_call(context, next_place(Protocol::Gvcp)) };
    NEXT
}

/// Translates a pod's message, or returns why it must not be sent.
#[inline(always)]
fn translate(outgoing: &Outgoing) -> Result<(), Verdict> {
    let route = outgoing.sending.route;
    if route != route::BROADCAST && outgoing.packet.destination.port == gvcp::PORT {
        command_of_pod(outgoing)
    } else if route == route::ANSWER {
        acknowledgement_of_pod(outgoing)
    } else {
        Ok(())
    }
}

/// A pod's command to one camera: makes its register values point to external ports.
#[inline(always)]
fn command_of_pod(outgoing: &Outgoing) -> Result<(), Verdict> {
    let packet = &outgoing.packet;
    let camera = packet.destination.address;
    if peers::on_lan(camera, outgoing.member().domain) & lan::CAMERAS == 0 {
        return Err(Verdict::Denied);
    }
    if outgoing.is_from_lan_address() || outgoing.neighbour().is_some() {
        return Ok(()); // the camera reaches it there
    }
    let holder = holder(outgoing)?;
    if camera == holder.uplink {
        return Err(Verdict::Foreign); // the node's own camera, if it has one
    }
    let message = message(packet, Direction::Announce).map_err(|_| Verdict::Malformed)?;
    if message.command == command::READ_REGISTERS {
        registers::remember_read(packet, &message);
        return Ok(());
    }
    registers::direct_to(packet, &message, &holder)
}

/// A camera in a pod answers a discovery from the LAN: it appears at the uplink's address, and gets its GVCP port.
#[inline(always)]
fn acknowledgement_of_pod(outgoing: &Outgoing) -> Result<(), Verdict> {
    let packet = &outgoing.packet;
    let message = message(packet, Direction::Answer)?;
    if message.command != command::DISCOVERY || message.size == 0 {
        return Ok(());
    }
    let holder = holder(outgoing)?;
    if packet.destination.address == holder.uplink {
        return Ok(()); // inside the node nothing is translated
    }
    let mut external = Endpoint { address: holder.uplink, port: gvcp::PORT, protocol: UDP as u16 };
    if let Some(own) = outgoing.at_lan_address(packet.source) {
        external = own;
    } else if !ports::claim(&holder, external, packet.source, GVCP) {
        return Err(Verdict::NoPort); // another camera has the port: clients could not command this one
    }
    if packet.skb.load(PAYLOAD + gvcp::CURRENT_ADDRESS) == Some(holder.member.address) {
        packet.set_payload(gvcp::CURRENT_ADDRESS, holder.member.address, external.address);
    }
    Ok(())
}

/// Who would hold external ports for this message, and on which uplink; an error if its source is spoofed.
#[inline(always)]
fn holder(outgoing: &Outgoing) -> Result<Holder<'static>, Verdict> {
    if outgoing.is_spoofed() {
        return Err(Verdict::Spoofed);
    }
    let (_, uplink) = outgoing.domain().ok_or(Verdict::NoUplink)?;
    if uplink.address == NO_ADDRESS {
        return Err(Verdict::NoUplink);
    }
    let interface = outgoing.sending.interface;
    Ok(Holder { member: outgoing.member(), interface, uplink: uplink.address })
}

/// `from_pod` for a stream packet. There are too many of them to emit events.
#[inline(always)]
pub fn send_stream(context: &TcContext) -> i32 {
    let Some(mut outgoing) = Outgoing::resume(Skb::new(context)) else { return NEXT };
    let verdict = outgoing.forward::<Gvsp>();
    if verdict == Verdict::Answered {
        let Packet { source, destination, .. } = outgoing.packet;
        ports::restrict(source, GVSP, destination.address);
    }
    outgoing.count(verdict);
    outgoing.finish(verdict)
}

/// What `from_lan` passed on: a datagram to an external port, and the port's claim.
#[inline(always)]
fn arriving(skb: Skb) -> Option<(Packet, Claim)> {
    let packet = Packet::with(skb, ARRIVING.get(0)?);
    let claim = lookup(&EXTERNALS, packet.destination)?;
    Some((packet, claim))
}

/// `from_lan` for a datagram to an external port that was taken for a stream. What a camera sends from its GVCP port is an
/// acknowledgement, even to a socket that also receives streams.
#[inline(always)]
pub fn receive_stream(context: &TcContext) -> i32 {
    let Some((mut packet, claim)) = arriving(Skb::new(context)) else { return NEXT };
    if packet.source.address == claim.peer && packet.source.port != gvcp::PORT {
        stream(&mut packet, &claim);
    } else {
        // SAFETY: comes back only if there is no such program.
        unsafe { FROM_LAN.tail_call(context, GVCP as u32) };
    }
    NEXT
}

/// A packet of a camera's stream. If it cannot reach the pod, the claim records why: otherwise it would be lost silently.
#[inline(always)]
fn stream(packet: &mut Packet, claim: &Claim) {
    let mtu = lookup(&MEMBERS, claim.member).map_or(u32::MAX, |member| member.mtu);
    let (verdict, found) = if packet.fragment {
        (Verdict::Fragment, trouble::FRAGMENTS)
    } else if packet.skb.length() - IP > mtu {
        (Verdict::TooBig, trouble::TOO_BIG)
    } else {
        (Verdict::TranslatedIn, 0)
    };
    if found != 0
        && let Some(claim) = EXTERNALS.get_ptr_mut(packet.destination)
    {
        // SAFETY: the memory stays a claim; if the entry is removed concurrently, the write is lost with it.
        unsafe { (*claim).trouble |= found };
    }
    if verdict != Verdict::Fragment {
        peers::learn_sender(packet, claim);
        packet.set_destination(claim.pod);
    }
    count(claim.domain, GVSP, verdict);
}

/// `from_lan` for a message to an external port.
#[inline(always)]
pub fn at_external_port(context: &TcContext) -> i32 {
    let skb = Skb::new(context);
    let Some((mut packet, claim)) = arriving(skb) else { return NEXT };
    let Some(uplink) = lookup(&UPLINKS, skb.interface()) else { return NEXT };
    let verdict = match (message(&packet, Direction::Announce), message(&packet, Direction::Answer)) {
        (Err(_), Err(_)) => Verdict::Unrelated,
        _ if !limit::admits_to_port(claim.domain, packet.source.address, claim.member) => Verdict::Limited,
        (Ok(message), _) => commanded(&packet, &claim, &message),
        (_, Ok(message)) => answered(&packet, &claim, &message, &uplink),
    };
    if verdict == Verdict::TranslatedIn {
        peers::learn_sender(&packet, &claim);
        packet.set_destination(claim.pod);
    }
    count(claim.domain, GVCP, verdict);
    if verdict == Verdict::Limited { DROP } else { NEXT }
}

/// A client on the LAN commands a camera in a pod: it expects acknowledgements, and perhaps a stream.
#[inline(always)]
fn commanded(packet: &Packet, claim: &Claim, message: &Message) -> Verdict {
    peers::learn_searcher(packet.source, claim.domain, GVCP, packet.destination.port);
    registers::learn_streams(packet, claim, message);
    Verdict::TranslatedIn
}

/// A camera on the LAN answers a pod: register values are translated back to the pod's own.
#[inline(always)]
fn answered(packet: &Packet, claim: &Claim, message: &Message, uplink: &Uplink) -> Verdict {
    registers::restore(packet, claim, message, uplink.address);
    Verdict::TranslatedIn
}
