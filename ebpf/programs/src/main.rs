//! iocast's tc programs. ARCHITECTURE.md follows one packet through them.
//!
//! Every program returns [`skb::NEXT`] for packets that are not ours, so other programs on the hook still run.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))] // for `atomic`

mod arp;
mod atomic;
mod camera;
mod circuits;
mod copies;
mod count;
mod event;
mod fan;
mod format;
mod from_lan;
mod from_pod;
mod groups;
mod icmp;
mod lan_address;
mod limit;
mod listeners;
mod maps;
mod name_server;
mod outgoing;
mod owners;
mod packet;
mod peers;
mod ports;
mod quote;
mod registers;
mod repeats;
mod skb;
mod to_bridge;
mod to_lan;

use aya_ebpf::{macros::classifier, programs::TcContext};
use skb::Skb;

/// tc ingress of a member's host-side veth.
#[classifier]
pub fn from_pod(context: TcContext) -> i32 {
    from_pod::run(&context)
}

/// Tail call of `from_pod` for protocols that the configuration describes.
#[classifier]
pub fn from_pod_described(context: TcContext) -> i32 {
    from_pod::process::<format::Described>(&context)
}

/// tc ingress of an uplink.
#[classifier]
pub fn from_lan(context: TcContext) -> i32 {
    from_lan::run(&context)
}

/// Tail call of `from_lan` for datagrams to relayed ports.
#[classifier]
pub fn from_lan_relayed(context: TcContext) -> i32 {
    from_lan::relayed(Skb::new(&context))
}

/// tc egress of an uplink.
#[classifier]
pub fn to_lan(context: TcContext) -> i32 {
    to_lan::run(Skb::new(&context))
}

/// tc egress of a bridge.
#[classifier]
pub fn to_bridge(context: TcContext) -> i32 {
    to_bridge::run(Skb::new(&context))
}

/// tc ingress of the fan device.
#[classifier]
pub fn fan(context: TcContext) -> i32 {
    fan::run(Skb::new(&context))
}

macro_rules! programs {
    ($($(#[$doc:meta])* $format:ident = $number:literal, $name:literal, $ports:expr,
        from_pod: [$($from_pod:ident: $run_from_pod:path),*], from_lan: [$($from_lan:ident: $run_from_lan:path),*];)*) => {
        $($(
            #[doc = concat!("Tail call of `from_pod` for ", $name, ".")]
            #[classifier]
            pub fn $from_pod(context: TcContext) -> i32 {
                $run_from_pod(&context)
            }
        )*
        $(
            #[doc = concat!("Tail call of `from_lan` for ", $name, " at an external port.")]
            #[classifier]
            pub fn $from_lan(context: TcContext) -> i32 {
                $run_from_lan(&context)
            }
        )*)*
    };
}
abi::protocols!(programs);

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
