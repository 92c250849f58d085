//! PV Access where peers do what they seldom do, or should not: malformed messages, version 3, addresses that are set,
//! circuits cut at any byte.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use lab::{Lab, NATIVE, Options, Pod, Result, Topology, WORKSTATION, pva, udp::Socket};

const QUIET: Duration = Duration::from_millis(300);
const LAN_BROADCAST: &str = "172.23.0.255:5076";
const ANY: [u8; 4] = [0; 4];

lab::in_both_topologies! {
    malformed_messages_reach_no_pod
    malformed_answers_of_a_pod_are_left_alone
    a_version_3_search_of_a_pod_names_the_port_it_comes_from
    a_search_that_names_another_host_is_answered_there
    an_answer_that_names_the_pods_address_names_the_nodes
    a_circuits_replies_are_translated_wherever_it_is_cut
}

/// A pod with a socket where a server would have one.
fn stand_in(lab: &Lab, name: &str) -> Result<(Pod, Socket)> {
    let pod = lab.pod(name)?;
    let socket = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:5076")?;
    Ok((pod, socket))
}

fn octets(address: &str) -> [u8; 4] {
    address.parse::<Ipv4Addr>().unwrap_or_else(|error| panic!("{address}: {error}")).octets()
}

fn malformed_messages_reach_no_pod(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (_pod, server) = stand_in(&lab, "ioc-a")?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    let good = pva::search(2, 0, ANY, client.address().port());
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let malformed = [
        ("nothing", vec![]),
        ("half a header", good[..4].to_vec()),
        ("a header alone", good[..8].to_vec()),
        ("a search cut before the port", good[..33].to_vec()),
        ("a search cut short", good[..good.len() - 1].to_vec()),
        ("a size in the other byte order", changed(2, 0)),
        ("a size past the end", changed(7, 0xff)),
        ("no magic", changed(0, 0xcb)),
        ("version 0", changed(1, 0)),
        ("a control message", changed(2, 0x81)),
        ("a message of circuits", changed(3, 13)),
        ("a reply", pva::reply(ANY, 5075, true)),
    ];
    for (_, bytes) in &malformed {
        client.send(bytes, LAN_BROADCAST)?;
        client.send(bytes, "172.23.0.10:5076")?;
    }
    assert_eq!(server.drain(QUIET), []);
    assert_eq!(lab.counter("pva", "malformed")?, 2 * malformed.len() as u64);
    client.send(&good, LAN_BROADCAST)?;
    assert_eq!(server.drain(QUIET).len(), 1, "a good one still gets through");
    Ok(())
}

/// Lets a pod answer a search from the workstation; what comes there.
fn answered(lab: &Lab, name: &str, answer: impl Fn(&Pod) -> Vec<u8>) -> Result<Vec<Vec<u8>>> {
    let (pod, server) = stand_in(lab, name)?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    client.send(&pva::search(2, 0, ANY, client.address().port()), LAN_BROADCAST)?;
    let (_, asker) = server.receive(QUIET).unwrap_or_else(|| panic!("the search did not reach the pod"));
    server.send(&answer(&pod), &asker.to_string())?;
    Ok(client.drain(QUIET).into_iter().map(|(bytes, _)| bytes).collect())
}

fn malformed_answers_of_a_pod_are_left_alone(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    for (count, length) in [(1, 7), (2, 41), (3, 52)] {
        let cut = |_: &Pod| pva::reply(ANY, 5075, true)[..length].to_vec();
        // It leaves like any other datagram of a pod: masqueraded, and not one byte changed.
        for got in answered(&lab, &format!("ioc-{length}"), cut)? {
            assert_eq!(got, pva::reply(ANY, 5075, true)[..length]);
        }
        assert_eq!(lab.counter("pva", "malformed")?, count);
    }
    Ok(())
}

fn a_version_3_search_of_a_pod_names_the_port_it_comes_from(topology: Topology) -> Result<()> {
    const REPLY_TO_SOURCE_PORT: u8 = 0x02;
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("client")?;
    let listener = Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:5076")?;
    let client = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:0")?;
    let search = pva::search(3, REPLY_TO_SOURCE_PORT, ANY, client.address().port());
    let to = if topology == Topology::Bridge { "10.244.1.255:5076" } else { "255.255.255.255:5076" };
    client.send(&search, to)?;
    let heard = listener.drain(QUIET);
    let [(found, from)] = &heard[..] else { panic!("heard {heard:?}") };
    assert_eq!((found[1], found[12]), (3, REPLY_TO_SOURCE_PORT), "version and flag as they were");
    assert_eq!(pva::named(found), (from.port(), ANY));
    let mut expected = search;
    expected[32..34].copy_from_slice(&from.port().to_be_bytes());
    assert_eq!(*found, expected, "and nothing else changed");
    listener.send(&pva::reply(ANY, 5075, true), &from.to_string())?;
    assert_eq!(client.drain(QUIET).len(), 1, "the answer to that port comes to the pod");
    Ok(())
}

fn a_search_that_names_another_host_is_answered_there(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (_pod, server) = stand_in(&lab, "ioc-a")?;
    let other = Socket::bind(&lab.sandbox, NATIVE, "172.23.0.3:0")?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    let to = other.address();
    client.send(&pva::search(2, 0, octets("172.23.0.3"), to.port()), LAN_BROADCAST)?;
    let (search, _) = server.receive(QUIET).unwrap_or_else(|| panic!("the search did not reach the pod"));
    assert_eq!(pva::named(&search), (to.port(), octets("172.23.0.3")), "as the client said");
    server.send(&pva::reply(ANY, 5075, true), &to.to_string())?;
    let answers = other.drain(QUIET);
    let external = lab.external_port("ioc-a", "tcp", 5075)?.unwrap_or_else(|| panic!("no external port"));
    assert_eq!(answers.len(), 1);
    assert_eq!(pva::named(&answers[0].0), (external, ANY));
    Ok(())
}

fn an_answer_that_names_the_pods_address_names_the_nodes(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let got = answered(&lab, "ioc-a", |pod| pva::reply(octets(&pod.address), 5075, true))?;
    let external = lab.external_port("ioc-a", "tcp", 5075)?.unwrap_or_else(|| panic!("no external port"));
    assert_eq!(
        got.iter().map(|got| pva::named(got)).collect::<Vec<_>>(),
        [(external, octets("172.23.0.10"))]
    );
    let other = pva::reply(octets("172.23.0.3"), 5075, true);
    let got = answered(&lab, "ioc-b", |_| other.clone())?;
    assert!(got.iter().all(|got| *got == other), "it speaks for another host: {got:?}");
    assert_eq!(lab.counter("pva", "foreign")?, 1);
    Ok(())
}

fn a_circuits_replies_are_translated_wherever_it_is_cut(topology: Topology) -> Result<()> {
    const EXTERNAL: u16 = 15075;
    let lab = Lab::up(Options::with_pins(topology))?;
    let annotations = [("iocast.io/domain", lab::DOMAIN), ("iocast.io/ports", "tcp/5075=15075")];
    let pod = lab.pod_with("ioc-a", &annotations)?;
    // Both byte orders, another host's reply, and data that looks like a reply.
    let messages = |port| {
        [
            pva::message(2, 0x41, 2, &[], true),
            pva::reply(ANY, port, true),
            pva::message(2, 0x40, 13, &pva::reply(ANY, 5075, true), true),
            pva::reply(ANY, port, false),
            pva::reply([10, 0, 0, 1], 5075, true),
        ]
        .concat()
    };
    let (sent, expected) = (messages(5075), messages(EXTERNAL));
    // A port that is cut in two stays as it is: not those cuts.
    let first_port = 8 + 40;
    let cuts: Vec<_> =
        (1..sent.len()).filter(|cut| *cut != first_port + 1).step_by(5).chain([8, 9, 47, 48, 50]).collect();
    let listener = listen(&lab, &pod)?;
    for cut in cuts {
        let got = through(&lab, &listener, &sent, cut)?;
        let ports: Vec<_> = (0..got.len()).filter(|at| got[*at] != expected[*at]).collect();
        assert_eq!(ports, [0; 0], "cut at {cut}");
    }
    assert!(lab.counter("pva", "answered")? > 0);
    Ok(())
}

fn listen(lab: &Lab, pod: &Pod) -> Result<TcpListener> {
    let bound = lab.sandbox.run_in(&pod.netns, || TcpListener::bind("0.0.0.0:5075"))?;
    lab::tried("listen in the pod", bound)
}

/// What a LAN client gets of `bytes` that the pod sends in two segments, the first of `cut` bytes.
fn through(lab: &Lab, listener: &TcpListener, bytes: &[u8], cut: usize) -> Result<Vec<u8>> {
    let to = SocketAddrV4::new([172, 23, 0, 10].into(), 15075);
    let connected = lab.sandbox.run_in(WORKSTATION, move || TcpStream::connect(to))?;
    let mut client = lab::tried("connect", connected)?;
    let (mut server, _) = lab::tried("accept", listener.accept())?;
    lab::tried("nodelay", server.set_nodelay(true))?;
    lab::tried("send", server.write_all(&bytes[..cut]))?;
    thread::sleep(Duration::from_millis(2));
    lab::tried("send", server.write_all(&bytes[cut..]))?;
    drop(server);
    let mut got = vec![];
    lab::tried("receive", client.read_to_end(&mut got))?;
    Ok(got)
}
