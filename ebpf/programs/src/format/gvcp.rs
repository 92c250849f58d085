//! GigE Vision: nothing in messages and stream packets is renamed here; `registers` translates the values of a camera's
//! registers.

use abi::{Endpoint, Verdict};
use wire::{
    Direction,
    gvcp::{self, Layout, MAX_REGISTERS, Message, command},
};

use super::content::{Content, Format, length};
use crate::packet::{PAYLOAD, Packet};

/// GigE Vision's control protocol.
pub struct Gvcp;
/// GigE Vision's streams.
pub struct Gvsp;

impl Format for Gvcp {
    #[inline(always)]
    fn inspect(packet: &Packet, direction: Direction, _: u16) -> Result<Content, Verdict> {
        let message = message(packet, direction)?;
        Ok(Content::plain(direction, is_directed(message.command)))
    }

    #[inline(always)]
    fn rename(_: &Packet, _: &Content, _: &Endpoint, _: &Endpoint) {}
}

impl Format for Gvsp {
    #[inline(always)]
    fn inspect(packet: &Packet, direction: Direction, _: u16) -> Result<Content, Verdict> {
        length(packet).map(|_| Content::plain(direction, false))
    }

    #[inline(always)]
    fn rename(_: &Packet, _: &Content, _: &Endpoint, _: &Endpoint) {}
}

/// The header of a message, if it has no more registers than a message can hold.
#[inline(always)]
pub fn message(packet: &Packet, direction: Direction) -> Result<Message, Verdict> {
    let header = packet.skb.load(PAYLOAD).ok_or(Verdict::Malformed)?;
    let message = gvcp::message(&header, length(packet)?, direction).map_err(|_| Verdict::Malformed)?;
    if Layout::of(&message, direction).count > MAX_REGISTERS { Err(Verdict::Malformed) } else { Ok(message) }
}

/// Whether a command is for a single camera, never for all.
#[inline(always)]
fn is_directed(command: u16) -> bool {
    !matches!(command, command::DISCOVERY | command::FORCE_IP | command::ACTION)
}
