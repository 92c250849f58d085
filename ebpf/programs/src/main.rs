//! iocast's tc programs. One packet's way through them is told in ARCHITECTURE.md.
//!
//! Every program returns [`skb::NEXT`] for what is not ours, so that other programs on the hook still run.
#![no_std]
#![no_main]

mod circuit;
mod count;
mod data;
mod event;
mod fan;
mod from_lan;
mod from_pod;
mod gvcp;
mod limit;
mod maps;
mod packet;
mod payload;
mod ports;
mod skb;
mod to_lan;

use aya_ebpf::{macros::classifier, programs::TcContext};
use skb::Skb;

/// tc ingress of a member's host-side veth.
#[classifier]
pub fn from_pod(context: TcContext) -> i32 {
    from_pod::run(&context)
}

/// `from_pod` for a datagram of Channel Access.
#[classifier]
pub fn from_pod_ca(context: TcContext) -> i32 {
    from_pod::relay::<payload::Ca>(Skb::new(&context))
}

/// `from_pod` for a datagram of PV Access.
#[classifier]
pub fn from_pod_pva(context: TcContext) -> i32 {
    from_pod::relay::<payload::Pva>(Skb::new(&context))
}

/// `from_pod` for a message of GigE Vision.
#[classifier]
pub fn from_pod_gvcp(context: TcContext) -> i32 {
    gvcp::from_pod(&context)
}

/// `from_pod` for a datagram of a protocol that is described by configuration.
#[classifier]
pub fn from_pod_data(context: TcContext) -> i32 {
    from_pod::relay::<data::Data>(Skb::new(&context))
}

/// What `from_pod_gvcp` goes on with.
#[classifier]
pub fn from_pod_gvcp_send(context: TcContext) -> i32 {
    from_pod::relay::<gvcp::Gvcp>(Skb::new(&context))
}

/// `from_pod` for a packet of a GigE Vision stream.
#[classifier]
pub fn from_pod_gvsp(context: TcContext) -> i32 {
    from_pod::relay::<gvcp::Gvsp>(Skb::new(&context))
}

/// tc ingress of an uplink.
#[classifier]
pub fn from_lan(context: TcContext) -> i32 {
    from_lan::run(&context)
}

/// `from_lan` for a message of GigE Vision at an external port.
#[classifier]
pub fn from_lan_gvcp(context: TcContext) -> i32 {
    gvcp::at_external_port(Skb::new(&context))
}

/// tc egress of an uplink.
#[classifier]
pub fn to_lan(context: TcContext) -> i32 {
    to_lan::run(Skb::new(&context))
}

/// tc ingress of the fan device.
#[classifier]
pub fn fan(context: TcContext) -> i32 {
    fan::run(Skb::new(&context))
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
