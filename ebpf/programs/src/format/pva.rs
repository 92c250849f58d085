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
        let (kind, named, unicast) = message(packet.skb, length(packet)?, direction)?;
        let mut content = Content::new(direction);
        content.add(kind, &named);
        if unicast {
            content.add_unicast(pva::SEARCH_FLAGS, pva::UNICAST);
        }
        Ok(content)
    }

    #[inline(always)]
    fn rename(packet: &Packet, content: &Content, from: &Endpoint, to: &Endpoint) {
        if let Ok((_, named, _)) = message(packet.skb, packet.payload.unwrap_or(0), content.direction) {
            put(packet, &named, from, to);
        }
    }
}

/// The kind of a message, the address it names, and whether it is a search sent to one server.
#[inline(always)]
fn message(skb: Skb, length: u32, direction: Direction) -> Result<(Kind, Named, bool), Verdict> {
    const BODY: u32 = PAYLOAD + pva::HEADER;
    let header = skb.load(PAYLOAD).ok_or(Verdict::Malformed)?;
    match pva::message(&header, length, direction) {
        Ok(pva::Body::Search(order)) => {
            let (named, unicast) = pva::search(&skb.load(BODY).ok_or(Verdict::Malformed)?, order);
            Ok((Kind::Search, named, unicast))
        }
        Ok(pva::Body::Server(kind, order)) => {
            let named = pva::server(&skb.load(BODY).ok_or(Verdict::Malformed)?, order);
            if matches!(kind, Kind::Reply) {
                let tail = skb.load(BODY + pva::SERVER_BODY).ok_or(Verdict::Malformed)?;
                if !pva::ends_with_channels(length, tail, order) {
                    return Err(Verdict::Malformed);
                }
            }
            Ok((kind, named, false))
        }
        Ok(pva::Body::Local) => Err(Verdict::Local),
        Err(_) => Err(Verdict::Malformed),
    }
}
