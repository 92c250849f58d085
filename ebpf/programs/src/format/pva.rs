//! PV Access: one message a datagram.

use abi::{Endpoint, Verdict};
use wire::{Direction, Kind, Named, pva};

use super::content::{Content, Format, length, put};
use crate::{
    packet::{PAYLOAD, Packet},
    skb::Skb,
};

/// PV Access.
pub struct Pva;

impl Format for Pva {
    #[inline(always)]
    fn inspect(packet: &Packet, direction: Direction, _: u16) -> Result<Content, Verdict> {
        let (kind, named) = message(packet.skb, length(packet)?, direction)?;
        let mut content = Content::new(direction);
        content.add(kind, &named);
        Ok(content)
    }

    #[inline(always)]
    fn rename(packet: &Packet, content: &Content, from: &Endpoint, to: &Endpoint) {
        if let Ok((_, named)) = message(packet.skb, packet.payload.unwrap_or(0), content.direction) {
            put(packet, &named, from, to);
        }
    }
}

/// Clears the flag of a search that says "sent to one server": a broadcast must not have it.
#[inline(always)]
pub fn make_broadcast(packet: &Packet) {
    let Some([command]) = packet.skb.load(PAYLOAD + pva::COMMAND) else { return };
    let Some([flags, next]) = packet.skb.load(PAYLOAD + pva::SEARCH_FLAGS) else { return };
    if command == pva::SEARCH {
        packet.set_payload(pva::SEARCH_FLAGS, [flags, next], [flags & !pva::UNICAST, next]);
    }
}

/// The kind of a message, and the address it names.
#[inline(always)]
fn message(skb: Skb, length: u32, direction: Direction) -> Result<(Kind, Named), Verdict> {
    const BODY: u32 = PAYLOAD + pva::HEADER;
    let header = skb.load(PAYLOAD).ok_or(Verdict::Malformed)?;
    match pva::message(&header, length, direction) {
        Ok(pva::Body::Search(order)) => {
            let named = pva::search(&skb.load(BODY).ok_or(Verdict::Malformed)?, order);
            Ok((Kind::Search, named))
        }
        Ok(pva::Body::Server(kind, order)) => {
            let named = pva::server(&skb.load(BODY).ok_or(Verdict::Malformed)?, order);
            if matches!(kind, Kind::Reply) {
                let tail = skb.load(BODY + pva::SERVER_BODY).ok_or(Verdict::Malformed)?;
                if !pva::ends_with_channels(length, tail, order) {
                    return Err(Verdict::Malformed);
                }
            }
            Ok((kind, named))
        }
        Ok(pva::Body::Local) => Err(Verdict::Local),
        Err(_) => Err(Verdict::Malformed),
    }
}
