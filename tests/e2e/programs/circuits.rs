//! Cases of circuits: every way a connection through an external port begins, goes on and ends, and what others try with it.

use abi::Verdict::{Answered, NoCircuit, TranslatedIn, TranslatedOut, Unrelated};
use lab::ca::{reply, search};

use super::{
    cases::{
        CLIENT, Case, DROP, EXTERNAL, IOC, NEXT, PVA_SEARCH, PVXS_REPLY, Run, from_lan, from_pod, pva, to_lan,
    },
    frame::{ACK, FIN, Frame, RST, SYN, SYN_ACK, tcp, udp},
};

/// The client's other port, and another host.
const AGAIN: &str = "172.23.0.2:40001";
const ANOTHER: &str = "172.23.0.9:40000";
/// What a PVA server's first message is: it sets the byte order.
const HELLO: &str = "ca02c10200004000";

/// A client was told the external port of the IOC.
pub(super) fn told() -> Vec<Run> {
    vec![
        from_lan(udp(CLIENT, "172.23.0.255:5064", &search(&["A:NAME"]))),
        from_pod(udp(IOC, CLIENT, &reply(5064))),
    ]
}

/// The client's first sequence number is 1, the pod's 100.
pub(super) fn syn(client: &str) -> Run {
    from_lan(tcp(client, EXTERNAL, SYN, 1, &[]))
}

pub(super) fn syn_ack(client: &str) -> Run {
    to_lan(tcp(IOC, client, SYN_ACK, 100, &[]).acknowledging(2))
}

fn ack(client: &str) -> Run {
    says(client, ACK, 2, 101, &[])
}

fn says(client: &str, flags: u8, sequence: u32, acknowledged: u32, payload: &[u8]) -> Run {
    from_lan(tcp(client, EXTERNAL, flags, sequence, payload).acknowledging(acknowledged))
}

fn pod_says(flags: u8, sequence: u32, acknowledged: u32, payload: &[u8]) -> Run {
    to_lan(tcp(IOC, CLIENT, flags, sequence, payload).acknowledging(acknowledged))
}

/// What a client's handshake comes to.
fn shaken(client: &str) -> [Run; 3] {
    [syn(client), syn_ack(client), ack(client)]
}

pub(super) fn established() -> Vec<Run> {
    told().into_iter().chain(shaken(CLIENT)).collect()
}

fn after<const N: usize>(runs: [Run; N]) -> Vec<Run> {
    established().into_iter().chain(runs).collect()
}

impl Case {
    /// A segment from the LAN gets the pod as destination.
    fn comes_in(self) -> Self {
        let packet: Frame = self.run.packet.clone().to(IOC);
        self.becomes(NEXT, packet).other(&[TranslatedIn])
    }

    /// A segment to the LAN gets the external port as source.
    fn goes_out(self) -> Self {
        let packet: Frame = self.run.packet.clone().from(EXTERNAL);
        self.becomes(NEXT, packet).other(&[TranslatedOut])
    }

    fn refused(self) -> Self {
        let packet = self.run.packet.clone();
        self.becomes(DROP, packet).other(&[NoCircuit])
    }
}

pub(super) fn cases() -> Vec<Case> {
    [
        handshakes(),
        goings_on(),
        ends(),
        connections_to_the_pod_itself(),
        full_tables(),
        places_that_are_given_away(),
    ]
    .concat()
}

fn handshakes() -> Vec<Case> {
    let half = |count: usize| told().into_iter().chain(shaken(CLIENT)).take(2 + count).collect::<Vec<_>>();
    vec![
        Case::new("a connection to an IOC", syn(CLIENT)).after(half(0)).comes_in(),
        Case::new("the same once more", syn(CLIENT)).after(half(1)).comes_in(),
        Case::new("a fragment of one", from_lan(syn(CLIENT).packet.fragment(0x2000)))
            .after(half(0))
            .other(&[Unrelated]),
        Case::new("the pod's answer to a connection", syn_ack(CLIENT)).after(half(1)).goes_out(),
        Case::new("the same once more, as the client's was lost", syn_ack(CLIENT)).after(half(3)).goes_out(),
        Case::new("the client's acknowledgement", ack(CLIENT)).after(half(2)).comes_in(),
        Case::new("data with the acknowledgement", says(CLIENT, ACK, 2, 101, b"odd"))
            .after(half(2))
            .comes_in(),
        Case::new("an acknowledgement of what the pod did not say", says(CLIENT, ACK, 2, 102, &[]))
            .after(half(2))
            .other(&[Unrelated]),
        Case::new("an acknowledgement before the pod's answer", says(CLIENT, ACK, 2, 0, &[]))
            .after(half(1))
            .other(&[Unrelated]),
        Case::new("a segment of no circuit", says(CLIENT, ACK, 2, 101, b"odd"))
            .after(half(0))
            .other(&[Unrelated]),
        Case::new("the pod refuses", pod_says(RST | ACK, 0, 2, &[])).after(half(1)).goes_out(),
        Case::new("the pod refuses another connection", pod_says(RST | ACK, 0, 3, &[])).after(half(1)),
        Case::new("the client gives up", says(CLIENT, RST, 2, 0, &[])).after(half(2)).comes_in(),
        Case::new("the client denies what was forged", says(CLIENT, RST, 7, 0, &[]))
            .after(half(1))
            .comes_in(),
        Case::new("data of the pod in a circuit that is not established", pod_says(ACK, 101, 2, b"odd"))
            .after(half(2)),
    ]
}

fn goings_on() -> Vec<Case> {
    let odd = || says(CLIENT, ACK, 2, 101, b"odd");
    let forged = |flags| says(CLIENT, flags, 0xdead_beef, 0, &[]);
    vec![
        Case::new("a segment of a circuit", odd()).after(established()).comes_in(),
        Case::new("data of a circuit", pod_says(ACK, 101, 2, b"odd")).after(established()).goes_out(),
        Case::new("a segment after a forged RST", odd()).after(after([forged(RST)])).comes_in(),
        Case::new("data after a forged RST", pod_says(ACK, 101, 2, b"odd"))
            .after(after([forged(RST)]))
            .goes_out(),
        Case::new("a segment after a forged FIN", odd()).after(after([forged(FIN | ACK)])).comes_in(),
        Case::new("a forged connection at a circuit", forged(SYN)).after(established()).comes_in(),
        Case::new("what the pod says to a forged connection", pod_says(ACK, 101, 2, &[]))
            .after(after([forged(SYN)]))
            .goes_out(),
        Case::new("a segment after a forged connection", odd()).after(after([forged(SYN)])).comes_in(),
        Case::new("a segment of another client", says(AGAIN, ACK, 2, 101, b"odd"))
            .after(established())
            .other(&[Unrelated]),
    ]
}

fn ends() -> Vec<Case> {
    let client = says(CLIENT, FIN | ACK, 2, 101, &[]);
    let pod = pod_says(FIN | ACK, 101, 3, &[]);
    vec![
        Case::new("the client's last segment", client.clone()).after(established()).comes_in(),
        Case::new("the pod's last segment", pod.clone()).after(after([client.clone()])).goes_out(),
        Case::new("the acknowledgement of the last segment", says(CLIENT, ACK, 3, 102, &[]))
            .after(after([client.clone(), pod.clone()]))
            .comes_in(),
        Case::new("the pod's last segment once more", pod.clone()).after(after([client, pod])).goes_out(),
        Case::new("the pod resets", pod_says(RST, 101, 0, &[])).after(established()).goes_out(),
        Case::new("what was on its way when the pod reset", says(CLIENT, ACK, 2, 101, b"odd"))
            .after(after([pod_says(RST, 101, 0, &[])]))
            .comes_in(),
    ]
}

/// The client comes from the same port, but not through the external one.
fn connections_to_the_pod_itself() -> Vec<Case> {
    let answer = to_lan(tcp(IOC, CLIENT, SYN_ACK, 900, &[]).acknowledging(501));
    vec![
        Case::new("the pod's answer to a direct connection, after a forged one", answer.clone())
            .after(told().into_iter().chain([syn(CLIENT)])),
        Case::new("the pod's answer to a direct connection, after a circuit", answer.clone())
            .after(established()),
        Case::new("data of a direct connection, after a circuit", pod_says(ACK, 901, 501, b"odd"))
            .after(after([answer.clone()])),
        Case::new(
            "a segment of the circuit that the direct connection followed",
            says(CLIENT, ACK, 2, 101, b"odd"),
        )
        .after(after([answer]))
        .other(&[Unrelated]),
        Case::new("a connection of the pod from the port of a circuit", pod_says(SYN, 7, 0, &[]))
            .after(established()),
        Case::new("a circuit once more from the same port", ack(CLIENT))
            .after(after([from_lan(tcp(CLIENT, EXTERNAL, SYN, 1, &[])), syn_ack(CLIENT)]))
            .comes_in(),
    ]
}

fn full_tables() -> Vec<Case> {
    let two = || after([syn(AGAIN), to_lan(tcp(IOC, AGAIN, SYN_ACK, 100, &[]).acknowledging(2))]);
    let early =
        told().into_iter().chain([syn(CLIENT), syn(AGAIN), syn_ack(AGAIN), syn_ack(CLIENT), ack(CLIENT)]);
    let all = |number| move |setup: &mut super::cases::Setup| setup.circuits = number;
    vec![
        Case::new("a connection where the domain has no room", syn(CLIENT))
            .after(told())
            .with(all(0))
            .refused(),
        Case::new("a second connection of a host that may have one", syn(AGAIN))
            .after(established())
            .with(all(4))
            .refused(),
        Case::new("the acknowledgement of one", ack(AGAIN)).after(early).with(all(4)).refused(),
        Case::new("a connection of another host", syn(ANOTHER)).after(established()).with(all(4)).comes_in(),
        Case::new("a circuit beside a full share goes on", says(CLIENT, ACK, 2, 101, b"odd"))
            .after(two())
            .with(all(4))
            .comes_in(),
    ]
}

/// A host that may have one circuit opens another, so many seconds after it has one that came to this.
fn places_that_are_given_away() -> Vec<Case> {
    let finished = || after([says(CLIENT, FIN | ACK, 2, 101, &[]), pod_says(FIN | ACK, 101, 3, &[])]);
    let then = |runs: Vec<Run>, run: Run| runs.into_iter().chain([run]).collect::<Vec<_>>();
    let by_client = || after([says(CLIENT, RST, 2, 0, &[])]);
    let by_pod = || after([pod_says(RST, 101, 0, &[])]);
    let odd = || says(CLIENT, ACK, 2, 101, b"odd");
    let opens = |name: &'static str, before: Vec<Run>, silence: u32| {
        Case::new(name, syn(AGAIN)).after(before).with(move |setup| {
            setup.circuits = 4;
            setup.silence = silence;
        })
    };
    vec![
        opens("a connection beside a circuit that was silent for long", established(), 180 * 60).comes_in(),
        opens("one beside a circuit that was silent for a while", established(), 180 * 60 - 5).refused(),
        opens("one after a circuit that has ended", finished(), 10).comes_in(),
        opens("one just after a circuit that has ended", finished(), 2).refused(),
        opens("one after a circuit that its client does not let end", then(finished(), odd()), 10).comes_in(),
        opens("one after a circuit that the pod has reset", by_pod(), 10).comes_in(),
        opens("one after that, and its client goes on", then(by_pod(), odd()), 10).comes_in(),
        opens("one some time after a client has reset its circuit", by_client(), 300).comes_in(),
        opens("one soon after a client has reset its circuit", by_client(), 200).refused(),
        opens("one after a client's RST that nobody believed", then(by_client(), odd()), 300).refused(),
        Case::new("data of a pod long after the circuit has ended", pod_says(ACK, 102, 3, b"odd"))
            .after(finished())
            .with(|setup| setup.silence = 20),
        Case::new("a second circuit of a pod that may have two", syn(ANOTHER))
            .after(established())
            .with(|setup| setup.circuits = 4)
            .comes_in(),
        Case::new("a third one, of another host", syn("172.23.0.8:40000"))
            .after(after([syn(ANOTHER), syn_ack(ANOTHER), ack(ANOTHER)]))
            .with(|setup| setup.circuits = 4)
            .refused(),
    ]
}

pub(super) fn of_name_servers() -> Vec<Case> {
    const SERVER: &str = "10.244.1.2:5075";
    let circuit = || {
        vec![
            from_lan(udp(CLIENT, "172.23.0.255:5076", &pva(PVA_SEARCH))),
            from_pod(udp("10.244.1.2:37000", CLIENT, &pva(PVXS_REPLY))),
            syn(CLIENT),
            to_lan(tcp(SERVER, CLIENT, SYN_ACK, 100, &[]).acknowledging(2)),
            ack(CLIENT),
        ]
    };
    let tells = |sequence: u32, payload: &[u8]| to_lan(tcp(SERVER, CLIENT, ACK, sequence, payload));
    let reply = pva(PVXS_REPLY);
    let translated = pva(&PVXS_REPLY.replacen("13d3", "ee48", 1));
    let hello = pva(HELLO);
    let [behind, behind_translated] = [&reply, &translated].map(|reply| [&hello[..], &reply[..]].concat());
    let answers = |name: &'static str, run: Run, before: Vec<Run>, payload: &[u8]| {
        let becomes = run.packet.clone().from(EXTERNAL).with(payload);
        Case::new(name, run)
            .after(circuit().into_iter().chain(before))
            .becomes(NEXT, becomes)
            .other(&[TranslatedOut])
    };
    vec![
        answers(
            "a name server's answer in a circuit, which names its port",
            tells(101, &reply),
            vec![],
            &translated,
        )
        .pva(&[Answered]),
        answers(
            "a name server's answer behind another message",
            tells(101, &behind),
            vec![],
            &behind_translated,
        )
        .pva(&[Answered]),
        answers(
            "a name server's answer that is sent again",
            tells(101, &reply),
            vec![tells(101, &reply)],
            &translated,
        ),
        answers(
            "a name server's answer after segments in another order",
            tells(117, &reply),
            vec![tells(109, &hello), tells(101, &hello)],
            &translated,
        )
        .pva(&[Answered]),
        answers(
            "a name server's answer after a gap",
            tells(5000, &reply),
            vec![tells(101, &hello)],
            &translated,
        )
        .pva(&[Answered]),
        answers(
            "a name server's answer after what was no message",
            tells(200, &reply),
            vec![tells(101, &hello), tells(109, &[7; 16])],
            &translated,
        )
        .pva(&[Answered]),
        answers(
            "data that looks like an answer after what is not PV Access",
            tells(117, &reply),
            vec![tells(101, &[7; 16])],
            &reply,
        ),
        answers(
            "data in a message that looks like an answer",
            tells(117, &reply),
            vec![tells(101, &pva("ca02c00d00001000 0000000000000000"))],
            &reply,
        ),
    ]
}
