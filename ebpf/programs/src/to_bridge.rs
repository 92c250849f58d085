//! tc egress of a bridge whose ports are pods with a LAN address.
//!
//! The node routes between pods of one bridge that talk to each other's LAN addresses, and would tell them that there is a
//! shorter way (ICMP redirect). They would keep to it for minutes after the pod is gone to another node.

use crate::{
    maps::{LAN_ADDRESSES, contains},
    packet::{IP, IP_PROTOCOL, L4, PLAIN},
    skb::{DROP, NEXT, Skb},
};

const ICMP: u8 = 1;
/// Type of a redirect (RFC 792).
const REDIRECT: u8 = 5;
/// Offset of the destination of the packet that a message quotes.
const QUOTED_DESTINATION: u32 = L4 + 8 + 16;

#[inline(always)]
pub fn run(skb: Skb) -> i32 {
    if is_redirect(skb).unwrap_or(false)
        && let Some(destination) = skb.load::<4>(QUOTED_DESTINATION)
        && contains(&LAN_ADDRESSES, destination)
    {
        return DROP;
    }
    NEXT
}

#[inline(always)]
fn is_redirect(skb: Skb) -> Option<bool> {
    if !skb.is_untagged_ipv4() {
        return None;
    }
    let front = skb.front::<{ L4 + 1 }>()?;
    Some(front.byte(IP) == PLAIN && front.byte(IP_PROTOCOL) == ICMP && front.byte(L4) == REDIRECT)
}
