//! Cases while the agent takes over from maps of another layout: what is not known may be known in a moment, and is sent again.

use abi::Verdict::{Relayed, TranslatedIn, TranslatedOut, Unowned, Unrelated};
use lab::ca::search;

use super::{
    cases::{CLIENT, Case, EXTERNAL, IOC, NEXT, from_lan, to_lan},
    circuits::{established, told},
    frame::{ACK, Frame, SYN, tcp, udp},
};

/// The node itself.
const NODE: &str = "172.23.0.10:22";

fn from_client(to: &str) -> Frame {
    tcp(CLIENT, to, ACK, 2, &[]).acknowledging(101)
}

fn from_ioc(from: &str) -> Frame {
    tcp(from, CLIENT, ACK, 101, &[]).acknowledging(2)
}

pub(super) fn cases() -> Vec<Case> {
    let cases = vec![
        Case::new("a connection to a port that nobody has yet", from_lan(tcp(CLIENT, EXTERNAL, SYN, 1, &[])))
            .denied()
            .other(&[Unowned]),
        Case::new("a datagram to a port that nobody has yet", from_lan(udp(CLIENT, EXTERNAL, b"noon")))
            .denied()
            .other(&[Unowned]),
        Case::new("a segment of no circuit yet", from_lan(from_client(EXTERNAL)))
            .after(told())
            .denied()
            .other(&[Unrelated]),
        Case::new("a pod's segment of no circuit yet", to_lan(from_ioc(IOC))).after(told()).denied(),
        Case::new("a connection that a pod opens", to_lan(tcp(IOC, CLIENT, SYN, 1, &[]))),
        Case::new("a client's segment of a circuit", from_lan(from_client(EXTERNAL)))
            .after(established())
            .becomes(NEXT, from_client(IOC))
            .other(&[TranslatedIn]),
        Case::new("a pod's segment of a circuit", to_lan(from_ioc(IOC)))
            .after(established())
            .becomes(NEXT, from_ioc(EXTERNAL))
            .other(&[TranslatedOut]),
        Case::new("a search", from_lan(udp(CLIENT, "172.23.0.10:5064", &search(&["A:NAME"]))))
            .fans(|copy| copy)
            .ca(&[Relayed]),
        Case::new("a segment to the node itself", from_lan(from_client(NODE))),
        Case::new("a segment of the node itself", to_lan(from_ioc(NODE))),
    ];
    cases.into_iter().map(|case| case.with(|setup| setup.taking_over = true)).collect()
}
