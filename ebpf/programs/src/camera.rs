//! GigE Vision: cameras are told by registers where to stream to, and tell by themselves where they are.
//!
//! A pod that commands a camera on the LAN: its address and ports in registers become the uplink's and external ones, and what
//! the camera tells of these registers becomes the pod's again. A camera in a pod: its address in answers to a discovery
//! becomes the uplink's, whose GVCP port is then that pod's alone, since clients know no other; its stream leaves in the
//! uplink's name.
//!
//! These programs do what takes more than the format: `from_pod` and `from_lan` go on with them.

use abi::{Claim, Endpoint, NO_ADDRESS, Protocol, UDP, Uplink, Verdict, lan, next_place, route, trouble};
use aya_ebpf::programs::TcContext;
use wire::{
    Direction,
    gvcp::{self, Message, command},
};

use crate::{
    count::count,
    format::{Gvsp, gvcp::message},
    maps::{ARRIVING, EXTERNALS, FROM_LAN, FROM_POD, MEMBERS, UPLINKS, lookup},
    outgoing::Outgoing,
    packet::{IP, PAYLOAD, Packet},
    peers,
    ports::{self, Holder},
    registers,
    skb::{NEXT, Skb},
};

const GVCP: u16 = Protocol::Gvcp as u16;
const GVSP: u16 = Protocol::Gvsp as u16;

/// `from_pod` for a message, as far as registers and addresses go. It is sent by the program after it, which has a stack of
/// its own.
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

/// Translates what a pod's message holds, or says why it must not be sent.
#[inline(always)]
fn translate(outgoing: &Outgoing) -> Result<(), Verdict> {
    let route = outgoing.route;
    if route != route::BROADCAST && outgoing.packet.destination.port == gvcp::PORT {
        command_of_pod(outgoing)
    } else if route == route::ANSWER {
        acknowledgement_of_pod(outgoing)
    } else {
        Ok(())
    }
}

/// A command to one camera: its registers lead to external ports.
#[inline(always)]
fn command_of_pod(outgoing: &Outgoing) -> Result<(), Verdict> {
    let holder = holder(outgoing)?;
    let packet = &outgoing.packet;
    let camera = packet.destination.address;
    if camera == holder.uplink {
        return Err(Verdict::Foreign); // the node's own, if it has one
    }
    if peers::on_lan(camera, outgoing.member().domain) & lan::CAMERAS == 0 {
        return Err(Verdict::Denied);
    }
    let message = message(packet, Direction::Announce).map_err(|_| Verdict::Malformed)?;
    if message.command == command::READ_REGISTERS {
        registers::remember_read(packet, &message);
        return Ok(());
    }
    registers::direct_to(packet, &message, &holder)
}

/// A camera in a pod tells a client on the LAN where it is: at the uplink, whose GVCP port becomes its own.
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
    let external = Endpoint { address: holder.uplink, port: gvcp::PORT, protocol: UDP as u16 };
    if !ports::claim(&holder, external, packet.source, GVCP) {
        return Err(Verdict::NoPort); // another camera has it: this one could not be commanded
    }
    if packet.skb.load(PAYLOAD + gvcp::CURRENT_ADDRESS) == Some(holder.member.address) {
        packet.set_payload(gvcp::CURRENT_ADDRESS, holder.member.address, holder.uplink);
    }
    Ok(())
}

/// Who takes ports for a message that is its sender's own, and where.
#[inline(always)]
fn holder(outgoing: &Outgoing) -> Result<Holder<'static>, Verdict> {
    if outgoing.is_spoofed() {
        return Err(Verdict::Spoofed);
    }
    let (domain, uplink) = outgoing.domain().ok_or(Verdict::NoUplink)?;
    if uplink.address == NO_ADDRESS {
        return Err(Verdict::NoUplink);
    }
    let interface = outgoing.sending.interface;
    Ok(Holder { member: outgoing.member(), interface, domain, uplink: uplink.address })
}

/// `from_pod` for a packet of a stream. There are too many for events.
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

/// What `from_lan` passed on: a datagram to an external port, and who holds that.
#[inline(always)]
fn arriving(skb: Skb) -> Option<(Packet, Claim)> {
    let packet = Packet::with(skb, ARRIVING.get(0)?);
    let claim = lookup(&EXTERNALS, packet.destination)?;
    Some((packet, claim))
}

/// `from_lan` for a datagram to an external port that is for a stream. What a camera sends from its port for commands is an
/// answer, also to a socket that streams, too.
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

/// A packet of a camera's stream. That the pod cannot take it as it is, is noted for people to see: it would be lost silently.
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
        // SAFETY: the memory stays a claim; if the entry is removed meanwhile, the write is lost with it.
        unsafe { (*claim).trouble |= found };
    }
    if verdict != Verdict::Fragment {
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
        (Ok(message), _) => commanded(&packet, &claim, &message),
        (_, Ok(message)) => answered(&packet, &claim, &message, &uplink),
        _ => Verdict::Unrelated,
    };
    if verdict == Verdict::TranslatedIn {
        packet.set_destination(claim.pod);
    }
    count(claim.domain, GVCP, verdict);
    NEXT
}

/// A client on the LAN commands a camera in a pod: it wants answers, and perhaps a stream.
#[inline(always)]
fn commanded(packet: &Packet, claim: &Claim, message: &Message) -> Verdict {
    peers::learn_searcher(packet.source, claim.domain, GVCP);
    registers::learn_streams(packet, claim, message);
    Verdict::TranslatedIn
}

/// A camera on the LAN answers a pod: what it tells of its registers becomes the pod's own again.
#[inline(always)]
fn answered(packet: &Packet, claim: &Claim, message: &Message, uplink: &Uplink) -> Verdict {
    registers::restore(packet, claim, message, uplink.address);
    Verdict::TranslatedIn
}
