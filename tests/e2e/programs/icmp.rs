//! Cases of ICMP errors: where they come from, what they are about, and whether that is known.

use abi::Verdict::{Limited, TranslatedIn, TranslatedOut};
use lab::ca::{reply, search};

use super::{
    cases::{
        ASKED, CLIENT, Case, DROP, EXTERNAL, IOC, LAN, NEXT, PODS, REDIRECT, Run, SERVER, from_lan, from_pod,
        to_lan,
    },
    circuits::{established, syn, syn_ack, told},
    frame::{ACK, Frame, SYN, SYN_ACK, icmp, tcp, udp},
};

const ROUTER: &str = "172.23.0.1:0";
const NODE: &str = "172.23.0.10:0";
const POD: &str = "10.244.1.2:0";
const UNREACHABLE_PORT: (u8, u8) = (3, 3);
const TOO_BIG: (u8, u8) = (3, 4);
/// All of the errors that hosts act upon, by type and code: RFC 792 and 1812.
const ERRORS: &[(&str, (u8, u8))] = &[
    ("network unreachable", (3, 0)),
    ("host unreachable", (3, 1)),
    ("protocol unreachable", (3, 2)),
    ("port unreachable", UNREACHABLE_PORT),
    ("fragmentation needed", TOO_BIG),
    ("prohibited", (3, 13)),
    ("time exceeded", (11, 0)),
    ("parameter problem", (12, 0)),
];
/// The header and eight bytes, which is the least; the header and all of TCP's; everything.
const LENGTHS: [usize; 3] = [28, 40, usize::MAX];

/// What the pod says in a circuit, as it is on the LAN, or as the pod sent it.
fn data(from: &str) -> Frame {
    tcp(from, CLIENT, ACK, 101, b"odd").acknowledging(2)
}

fn answer(from: &str) -> Frame {
    udp(from, CLIENT, &reply(5064))
}

/// An error arrives at the uplink.
fn arrives(from: &str, error: (u8, u8), about: &Frame, length: usize) -> Run {
    from_lan(icmp(from, NODE, error, about, length))
}

impl Case {
    /// An error from the LAN reaches the pod, quoting what it sent.
    fn reaches_the_pod(self, from: &str, error: (u8, u8), about: &Frame, length: usize) -> Self {
        self.becomes(REDIRECT, icmp(from, POD, error, about, length)).other(&[TranslatedIn])
    }

    /// An error leaves for the LAN, quoting what its host sent.
    fn reaches_the_lan(self, to: &str, error: (u8, u8), about: &Frame, length: usize) -> Self {
        self.becomes(NEXT, icmp(NODE, to, error, about, length)).other(&[TranslatedOut])
    }
}

pub(super) fn cases() -> Vec<Case> {
    [about_circuits(), about_datagrams_of_pods(), what_is_left_alone(), to_the_lan()].concat()
}

fn about_circuits() -> Vec<Case> {
    let each = ERRORS.iter().flat_map(|(name, error)| {
        LENGTHS.map(|length| {
            Case::new(name, arrives(ROUTER, *error, &data(EXTERNAL), length))
                .after(established())
                .reaches_the_pod(ROUTER, *error, &data(IOC), length)
        })
    });
    let answers = |from| tcp(from, CLIENT, SYN_ACK, 100, &[]).acknowledging(2);
    let error = arrives(ROUTER, TOO_BIG, &data(EXTERNAL), 28);
    let opening = || told().into_iter().chain([syn(CLIENT), syn_ack(CLIENT)]);
    let other = [
        Case::new(
            "an error about an answer to a connection",
            arrives(ROUTER, (3, 1), &answers(EXTERNAL), 28),
        )
        .after(opening())
        .reaches_the_pod(ROUTER, (3, 1), &answers(IOC), 28),
        Case::new("an error about a connection that is not the client's", {
            arrives(ROUTER, TOO_BIG, &data(EXTERNAL).to("172.23.0.2:40001"), 28)
        })
        .after(established()),
        Case::new("an error about a circuit where there is none", error.clone()).after(told()),
        Case::new("an error about a port that nobody has", error.clone()),
        Case::new("an error too many", error.clone())
            .with(|setup| setup.interval = 1_000_000_000)
            .after(established().into_iter().chain([error]))
            .other(&[Limited]),
    ];
    each.chain(other).collect()
}

fn about_datagrams_of_pods() -> Vec<Case> {
    let asked = || from_lan(udp(CLIENT, LAN, &search(&["A:NAME"])));
    let answered = || [asked(), from_pod(answer(IOC))];
    let each = ERRORS.iter().flat_map(|(name, error)| {
        [28, usize::MAX].map(|length| {
            Case::new(name, arrives(CLIENT, *error, &answer(ASKED), length))
                .after(answered())
                .reaches_the_pod(CLIENT, *error, &answer(IOC), length)
        })
    });
    let unchecked = |from| answer(from).without_checksum();
    let searched = |port| from_pod(udp(IOC, &format!("172.23.0.3:{port}"), &search(&["N:NAME"])));
    let ask = |from: &str, port| udp(from, &format!("172.23.0.3:{port}"), &search(&["N:NAME"]));
    let other = [
        Case::new("an error about an answer without a checksum", {
            arrives(CLIENT, UNREACHABLE_PORT, &unchecked(ASKED), 28)
        })
        .after(answered())
        .reaches_the_pod(CLIENT, UNREACHABLE_PORT, &unchecked(IOC), 28),
        Case::new("an error about an answer to nobody who asked", {
            arrives(CLIENT, UNREACHABLE_PORT, &answer(ASKED).to("172.23.0.2:40001"), 28)
        })
        .after(answered()),
        Case::new("an error about an answer from a port that was not asked", {
            arrives(CLIENT, UNREACHABLE_PORT, &answer("172.23.0.10:5076"), 28)
        })
        .after(answered()),
        Case::new("an error about an answer that nobody gave", {
            arrives(CLIENT, UNREACHABLE_PORT, &answer(ASKED), 28)
        })
        .after([asked()]),
        Case::new("an error about a search", arrives(SERVER, UNREACHABLE_PORT, &ask(EXTERNAL, 5064), 28))
            .after([searched(5064)])
            .reaches_the_pod(SERVER, UNREACHABLE_PORT, &ask(IOC, 5064), 28),
        Case::new("an error about a search to a port that is another one in pods", {
            arrives(SERVER, UNREACHABLE_PORT, &ask(EXTERNAL, 8064), usize::MAX)
        })
        .after([searched(7064)])
        .reaches_the_pod(SERVER, UNREACHABLE_PORT, &ask(IOC, 7064), usize::MAX),
        Case::new("an error about a datagram that is no search", {
            arrives(SERVER, UNREACHABLE_PORT, &ask(EXTERNAL, 123), 28)
        })
        .after([searched(5064)]),
        Case::new("an error about a search off the LAN", {
            arrives(ROUTER, (3, 1), &ask(EXTERNAL, 5064).to("198.51.100.7:5064"), 28)
        })
        .after([searched(5064)]),
    ];
    each.chain(other).collect()
}

/// With a circuit that they could be about.
fn what_is_left_alone() -> Vec<Case> {
    let error = || icmp(ROUTER, NODE, TOO_BIG, &data(EXTERNAL), 28);
    let of = |kind| icmp(ROUTER, NODE, (kind, 0), &data(EXTERNAL), 28);
    let about = |packet: &Frame, length| icmp(ROUTER, NODE, TOO_BIG, packet, length);
    [
        ("a source quench", of(4)),
        ("a redirect", of(5)),
        ("an echo that looks like an error", of(8)),
        ("an error with seven bytes of TCP", about(&data(EXTERNAL), 27)),
        ("an error with nothing", about(&data(EXTERNAL), 0)),
        ("an error about a packet with IP options", about(&data(EXTERNAL).options(&[1; 4]), 40)),
        ("an error about a later fragment", about(&data(EXTERNAL).fragment(0x0010), 40)),
        ("an error about an error", about(&icmp(EXTERNAL, CLIENT, TOO_BIG, &data(CLIENT), 28), 40)),
        ("a fragment of an error", error().fragment(0x2000)),
        ("an error with IP options", error().options(&[1; 4])),
        ("an error in a tagged frame", error().ethertype(0x8100)),
        ("an error in a frame for another host", error().mac_to([2, 0, 0, 0, 9, 9])),
        ("an error for the pod itself", error().to(POD)),
        ("an error about what another host sent", about(&data("172.23.0.11:61000"), 28)),
        ("an error about what the pod sent from its own address", about(&data(IOC), 28)),
    ]
    .map(|(name, packet)| Case::new(name, from_lan(packet)).after(established()))
    .into()
}

fn to_the_lan() -> Vec<Case> {
    let word = |to| udp(SERVER, to, &reply(5064));
    let came = || [from_pod(udp(IOC, PODS, &search(&["N:NAME"]))), from_lan(word(EXTERNAL))];
    let connects = |to| tcp(CLIENT, to, SYN, 1, &[]);
    let leaves = |from: &str, error, about: &Frame, length| {
        let to = if about.is_from(SERVER) { SERVER } else { CLIENT };
        to_lan(icmp(from, to, error, about, length))
    };
    let each = ERRORS.iter().flat_map(|(name, error)| {
        [(POD, 28), (POD, usize::MAX), (NODE, usize::MAX)].into_iter().flat_map(move |(from, length)| {
            [
                Case::new(name, leaves(from, *error, &word(IOC), length)).after(came()).reaches_the_lan(
                    SERVER,
                    *error,
                    &word(EXTERNAL),
                    length,
                ),
                Case::new(name, leaves(from, *error, &connects(IOC), length))
                    .after(told().into_iter().chain([syn(CLIENT)]))
                    .reaches_the_lan(CLIENT, *error, &connects(EXTERNAL), length),
            ]
        })
    });
    let asks = |to: &str| udp(CLIENT, to, &search(&["A:NAME"]));
    let says = |to| tcp(CLIENT, to, ACK, 2, b"odd").acknowledging(101);
    let other = [
        Case::new("the node's error about a segment of a circuit", leaves(NODE, (3, 1), &says(IOC), 548))
            .after(established())
            .reaches_the_lan(CLIENT, (3, 1), &says(EXTERNAL), 548),
        Case::new("an error about a datagram to the pod's own address", {
            leaves(POD, UNREACHABLE_PORT, &word(IOC), 28)
        })
        .after([from_pod(udp(IOC, PODS, &search(&["N:NAME"])))]),
        Case::new("an error about a connection to the pod's own address", {
            leaves(NODE, (3, 13), &connects(IOC), 40)
        })
        .after(told()),
        Case::new("the node's error about a search that went to the pods", {
            leaves(NODE, UNREACHABLE_PORT, &asks("172.23.0.10:5064"), 60)
        })
        .after([from_lan(asks("172.23.0.10:5064"))])
        .becomes(DROP, icmp(NODE, CLIENT, UNREACHABLE_PORT, &asks("172.23.0.10:5064"), 60)),
        Case::new("the node's error about what is no search", {
            leaves(NODE, UNREACHABLE_PORT, &asks("172.23.0.10:5064").with(b"noise"), 60)
        })
        .after([from_lan(asks("172.23.0.10:5064").with(b"noise"))]),
        Case::new("the node's error about a port that is not relayed", {
            leaves(NODE, UNREACHABLE_PORT, &asks("172.23.0.10:123"), 60)
        })
        .after([from_lan(asks("172.23.0.10:5064"))]),
        Case::new("an error of the node's own", leaves(NODE, UNREACHABLE_PORT, &word(EXTERNAL), 28)),
    ];
    each.chain(other).collect()
}
