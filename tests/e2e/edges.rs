//! What is refused or left alone, and what happens when there is much of everything.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use lab::{
    DOMAIN, Lab, NATIVE, NODE, Options, Pod, Result, Topology, WORKSTATION,
    ca::{self, message},
    pva,
    udp::Socket,
};

/// Longer than any copy takes, also on a busy machine.
const QUIET: Duration = Duration::from_millis(300);
/// What is sent has come by then, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1);
const LAN_BROADCAST: &str = "172.23.0.255:5064";

lab::in_both_topologies! {
    malformed_searches_from_the_lan_reach_no_pod
    malformed_answers_of_a_pod_are_left_alone
    an_answer_that_speaks_for_another_server_is_left_alone
    fragments_are_not_relayed
    a_pods_false_source_address_does_not_reach_the_lan
    a_datagram_routed_through_the_node_stays_as_it_is
    external_ports_that_nobody_owns_are_left_to_the_node
    an_answer_to_the_nodes_nat_is_not_taken_for_a_pods
    ports_that_are_not_relayed_are_left_alone
    an_answer_after_too_long_is_not_translated
    a_full_port_range_refuses_newcomers_and_says_so
    finished_clients_give_their_ports_back
    a_burst_reaches_every_listener_and_nobody_else
    a_search_to_be_answered_off_the_lan_reaches_no_pod
    a_pod_that_wants_all_ports_leaves_some_to_the_others
    a_host_or_a_pod_that_floods_is_limited_and_the_others_are_served
    all_together_are_limited_too
    storms_of_real_facilities_are_not_limited
}

/// A pod with a socket where an IOC would have one.
fn stand_in(lab: &Lab, name: &str) -> Result<(Pod, Socket)> {
    let pod = lab.pod(name)?;
    let socket = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:5064")?;
    Ok((pod, socket))
}

/// A datagram that a pod's broadcast goes to.
pub(crate) fn pod_broadcast(topology: Topology, port: u16) -> String {
    let address = if topology == Topology::Bridge { "10.244.1.255" } else { "255.255.255.255" };
    format!("{address}:{port}")
}

fn malformed_searches_from_the_lan_reach_no_pod(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (_pod, ioc) = stand_in(&lab, "ioc-a")?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    let good = ca::search(&["A:NAME"]);
    let mut overlong = good.clone();
    overlong[18..20].copy_from_slice(&[0xff, 0xff]);
    let malformed: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("one byte", vec![0]),
        ("half a header", good[..8].to_vec()),
        ("a version only", good[..16].to_vec()),
        ("a search without its name", good[..32].to_vec()),
        ("a search cut short", good[..good.len() - 1].to_vec()),
        ("a payload of 65535 bytes", overlong),
        ("no search at all", message(15, 0, 0, 0, 0, &[])),
        ("129 messages", vec![0; 129 * 16]),
        ("noise", (0..200u16).map(|index| (index * 37 % 251) as u8).collect()),
    ];
    // 129 messages do not fit a frame of 1500 bytes; the fragments of it are another test's business.
    let sent: Vec<_> = malformed.iter().filter(|(_, bytes)| bytes.len() <= 1472).collect();
    for (_, bytes) in &sent {
        client.send(bytes, LAN_BROADCAST)?;
        client.send(bytes, "172.23.0.10:5064")?;
    }
    let heard = ioc.drain(QUIET);
    assert!(heard.is_empty(), "{heard:?}");
    assert_eq!(lab.counter("ca", "malformed")?, 2 * sent.len() as u64);
    client.send(&good, LAN_BROADCAST)?;
    assert_eq!(ioc.drain(QUIET).len(), 1, "a good one still gets through");
    Ok(())
}

/// Lets a pod answer a search from the LAN with these bytes; what the client gets, and from which port.
fn answer(lab: &Lab, name: &str, bytes: &[u8]) -> Result<Vec<(Vec<u8>, u16)>> {
    let (_pod, ioc) = stand_in(lab, name)?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    client.send(&ca::search(&["A:NAME"]), LAN_BROADCAST)?;
    let (_, asker) = ioc.receive(QUIET).unwrap_or_else(|| panic!("the search did not reach the pod"));
    assert_eq!(asker.ip().to_string(), "172.23.0.2", "the client's own address");
    ioc.send(bytes, &asker.to_string())?;
    Ok(client.drain(QUIET).into_iter().map(|(bytes, from)| (bytes, from.port())).collect())
}

fn malformed_answers_of_a_pod_are_left_alone(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let good = ca::reply(5064);
    let mut malformed = 0;
    for length in [0, 7, 16, 20, good.len() - 1] {
        let got = answer(&lab, &format!("ioc-{length}"), &good[..length])?;
        malformed += 1;
        // It leaves like any other datagram of a pod: masqueraded, and not one byte changed.
        assert!(got.iter().all(|(bytes, _)| *bytes == good[..length]), "{length}: {got:?}");
        assert_eq!(lab.counter("ca", "malformed")?, malformed);
    }
    let got = answer(&lab, "ioc-good", &good)?;
    let port = lab.external_port("ioc-good", "tcp", 5064)?.unwrap_or_else(|| panic!("no external port"));
    assert_eq!(got.len(), 1);
    assert_eq!(ca::servers(&got[0].0)[0].0, port);
    assert_eq!(got[0].1, 5064, "from the port that was asked");
    assert_eq!(lab.external_port("ioc-good", "udp", 5064)?, None, "it takes none for that");
    Ok(())
}

fn an_answer_that_speaks_for_another_server_is_left_alone(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let mut other = ca::reply(5064);
    other[24..28].copy_from_slice(&[172, 23, 0, 3]);
    let got = answer(&lab, "ioc-a", &other)?;
    assert!(got.iter().all(|(bytes, _)| *bytes == other), "{got:?}");
    let mut two = ca::reply(5064);
    two.extend(&ca::reply(5099)[16..]);
    let got = answer(&lab, "ioc-b", &two)?;
    assert!(got.iter().all(|(bytes, _)| *bytes == two), "{got:?}");
    assert_eq!(lab.counter("ca", "foreign")?, 2);
    assert_eq!(lab.external_port("ioc-a", "tcp", 5064)?, None);
    Ok(())
}

fn fragments_are_not_relayed(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (_pod, ioc) = stand_in(&lab, "ioc-a")?;
    let names: Vec<String> = (0..60).map(|number| format!("A:LONG:NAME:OF:A:CHANNEL:{number}")).collect();
    let large = ca::search(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(large.len() > 1500);
    Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?.send(&large, LAN_BROADCAST)?;
    assert!(ioc.drain(QUIET).is_empty());
    assert_eq!(lab.counter("ca", "fragment")?, 1);
    Ok(())
}

fn a_pods_false_source_address_does_not_reach_the_lan(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("liar")?;
    let native = Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:5064")?;
    lab.sandbox.sh(&pod.netns, "ip address add 10.244.1.250/24 broadcast + dev eth0")?;
    let liar = Socket::bind(&lab.sandbox, &pod.netns, "10.244.1.250:0")?;
    liar.send(&ca::search(&["A:NAME"]), &pod_broadcast(topology, 5064))?;
    assert!(native.drain(QUIET).is_empty());
    assert_eq!(lab.counter("ca", "spoofed")?, 1);
    let honest = Socket::bind(&lab.sandbox, &pod.netns, &format!("{}:0", pod.address))?;
    honest.send(&ca::search(&["A:NAME"]), &pod_broadcast(topology, 5064))?;
    let heard = native.drain(QUIET);
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].1.ip().to_string(), "172.23.0.10", "in the node's name");
    Ok(())
}

fn a_datagram_routed_through_the_node_stays_as_it_is(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (pod, ioc) = stand_in(&lab, "ioc-a")?;
    let (_other, bystander) = stand_in(&lab, "ioc-b")?;
    lab.sandbox.sh(WORKSTATION, "ip route add 10.244.1.0/24 via 172.23.0.10")?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    client.send(&ca::search(&["A:NAME"]), &format!("{}:5064", pod.address))?;
    assert_eq!(ioc.drain(QUIET).len(), 1, "routed as ever");
    assert!(bystander.drain(QUIET).is_empty());
    assert_eq!(lab.counter("ca", "elsewhere")?, 1);
    Ok(())
}

fn external_ports_that_nobody_owns_are_left_to_the_node(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (_pod, ioc) = stand_in(&lab, "ioc-a")?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    client.send(&ca::search(&["A:NAME"]), "172.23.0.10:62000")?;
    let refused = lab.sandbox.run_in(WORKSTATION, || std::net::TcpStream::connect("172.23.0.10:62001"))?;
    assert_eq!(refused.map_err(|error| error.kind()).err(), Some(std::io::ErrorKind::ConnectionRefused));
    assert!(ioc.drain(QUIET).is_empty());
    assert_eq!(lab.counter("other", "unowned")?, 2);
    Ok(())
}

fn an_answer_to_the_nodes_nat_is_not_taken_for_a_pods(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options { ports: (61000, 61000), ..Options::new(topology) })?;
    let (ioc, other) = (lab.pod("ioc-a")?, lab.pod_with("no-member", &[])?);
    let _ioc = lab.ioc(&ioc.netns, "A")?;
    assert_eq!(lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &[])?, "A\n");
    // Now 61000 is the IOC's, and NAT gives the same port to connections of another pod, to a port of its own choice.
    let nat = "nft insert rule ip nat post ip saddr";
    lab.sandbox.sh(NODE, &format!("{nat} {} tcp dport 7777 masquerade to :61000", other.address))?;
    lab.sandbox.sh(NODE, &format!("{nat} {} udp dport 7777 masquerade to :61000", other.address))?;
    let server = lab.sandbox.run_in(NATIVE, || std::net::TcpListener::bind("0.0.0.0:7777"))?.unwrap();
    let client = lab.sandbox.run_in(&other.netns, || std::net::TcpStream::connect("172.23.0.3:7777"))?;
    assert_eq!(server.accept().unwrap().1.to_string(), "172.23.0.10:61000", "the lab does what it should");
    client.unwrap();
    let echo = Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:7777")?;
    let client = Socket::bind(&lab.sandbox, &other.netns, "0.0.0.0:0")?;
    client.send(b"time?", "172.23.0.3:7777")?;
    let (_, from) = echo.receive(QUIET).unwrap();
    assert_eq!(from.to_string(), "172.23.0.10:61000");
    echo.send(b"noon", &from.to_string())?;
    assert_eq!(client.receive(QUIET).unwrap().0, b"noon");
    assert!(lab.counter("other", "unrelated")? >= 2);
    Ok(())
}

fn ports_that_are_not_relayed_are_left_alone(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let in_pod = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:9999")?;
    let on_lan = Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:9999")?;
    let before = lab.counter("other", "unrelayed")?; // caRepeater and others may have broadcast
    Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?
        .send(&ca::search(&["A:NAME"]), "172.23.0.255:9999")?;
    assert_eq!(on_lan.drain(QUIET).len(), 1, "the LAN's own business");
    in_pod.send(&ca::search(&["A:NAME"]), &pod_broadcast(topology, 9999))?;
    assert!(on_lan.drain(QUIET).is_empty());
    assert!(in_pod.drain(QUIET).iter().all(|(_, from)| from.ip().to_string() == pod.address));
    assert_eq!(lab.counter("other", "unrelayed")? - before, 2);
    Ok(())
}

fn an_answer_after_too_long_is_not_translated(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (_pod, ioc) = stand_in(&lab, "ioc-a")?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    client.send(&ca::search(&["A:NAME"]), LAN_BROADCAST)?;
    let (_, asker) = ioc.receive(QUIET).unwrap_or_else(|| panic!("the search did not reach the pod"));
    std::thread::sleep(Duration::from_nanos(abi::SEARCHER_AGE_NS) + QUIET);
    ioc.send(&ca::reply(5064), &asker.to_string())?;
    let _ = client.drain(QUIET);
    assert_eq!(lab.counter("ca", "answered")?, 0);
    Ok(())
}

fn a_full_port_range_refuses_newcomers_and_says_so(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options { ports: (61000, 61001), ..Options::new(topology) })?;
    let mut iocs = vec![];
    for name in ["A", "B"] {
        let pod = lab.pod(&format!("ioc-{name}"))?;
        iocs.push(lab.ioc(&pod.netns, name)?);
    }
    let read = |pv: &str| lab.epics(WORKSTATION, &format!("caget -t -w 2 {pv}"), &[])?.finish();
    assert_eq!(read("A:NAME B:NAME")?.output, "A\nB\n");
    let pod = lab.pod("ioc-C")?;
    iocs.push(lab.ioc(&pod.netns, "C")?);
    assert!(read("C:NAME")?.output.contains("Channel connect timed out"));
    assert!(lab.counter("ca", "no_port")? > 0);
    assert_eq!(read("A:NAME B:NAME")?.output, "A\nB\n", "those that have ports keep them");
    let ports = lab.state(|state| {
        state.externals().unwrap().iter().map(|entry| entry.external.port).collect::<HashSet<_>>()
    })?;
    assert_eq!(ports, HashSet::from([61000, 61001]), "never outside the range");
    std::thread::sleep(Duration::from_secs(3)); // the agent looks every two seconds
    let said = lab.agent_output();
    assert!(
        said.contains("all external ports 61000-61001 are taken") && said.contains("widen `ports`"),
        "{said}"
    );
    Ok(())
}

fn finished_clients_give_their_ports_back(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options { ports: (61000, 61003), ..Options::new(topology) })?;
    let pod = lab.pod("client")?;
    let native = Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:5064")?;
    for round in 0..20 {
        let client = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:0")?;
        client.send(&ca::search(&["N:NAME"]), &pod_broadcast(topology, 5064))?;
        let (_, asker) =
            native.receive(QUIET).unwrap_or_else(|| panic!("search {round} did not reach the LAN"));
        assert!((61000..=61003).contains(&asker.port()), "{asker}");
        native.send(&ca::reply(5064), &asker.to_string())?;
        let (answer, from) =
            client.receive(QUIET).unwrap_or_else(|| panic!("answer {round} did not reach the client"));
        assert_eq!((answer, from.to_string()), (ca::reply(5064), "172.23.0.3:5064".into()));
    }
    assert_eq!(lab.counter("ca", "no_port")?, 0);
    Ok(())
}

fn a_burst_reaches_every_listener_and_nobody_else(topology: Topology) -> Result<()> {
    const PODS: usize = 110;
    const BURST: usize = 64;
    let lab = Lab::up(Options::new(topology))?;
    let mut listeners = vec![];
    let mut others = vec![];
    for number in 0..PODS {
        let pod = lab.pod(&format!("pod-{number}"))?;
        if number % 10 == 9 {
            others.push(pod);
        } else {
            listeners.push(Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:5064")?);
        }
    }
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    client.send_burst(&ca::search(&["A:NAME"]), LAN_BROADCAST, BURST)?;
    for (number, listener) in listeners.iter().enumerate() {
        let patience = if number == 0 { Duration::from_secs(2) } else { Duration::from_millis(20) };
        assert_eq!(listener.drain(patience).len(), BURST, "listener {number}");
    }
    assert_eq!(lab.counter("ca", "delivered")?, (listeners.len() * BURST) as u64);
    assert_eq!(lab.counter("ca", "overrun")?, 0);
    for pod in &others {
        let counters = lab.sandbox.sh(&pod.netns, "nstat -asz UdpInDatagrams UdpNoPorts")?;
        let numbers: Vec<f64> = counters.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert!(
            numbers.len() == 4 && numbers.iter().all(|number| *number == 0.0),
            "{}: {counters}",
            pod.name
        );
    }
    let ours = lab.sandbox.sh(NODE, "ip -s -j link show iocast-fan")?;
    assert!(ours.contains("\"dropped\":0"), "{ours}");
    Ok(())
}

/// Whoever sends a search in a victim's name, or names the victim in it, would have all pods send their answers there.
fn a_search_to_be_answered_off_the_lan_reaches_no_pod(topology: Topology) -> Result<()> {
    let mut lab = Lab::up(Options::new(topology))?;
    let (pod, ca) = stand_in(&lab, "ioc-a")?;
    let pva = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:5076")?;
    lab.sandbox.sh(WORKSTATION, "ip address add 198.51.100.7/32 dev eth0")?;
    let spoofed = Socket::bind(&lab.sandbox, WORKSTATION, "198.51.100.7:0")?;
    let naming = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    let search = || -> Result<()> {
        spoofed.send(&ca::search(&["A:NAME"]), LAN_BROADCAST)?;
        spoofed.send(&ca::search(&["A:NAME"]), "172.23.0.10:5064")?;
        naming.send(&pva::search(2, 0, [198, 51, 100, 7], 4000), "172.23.0.255:5076")
    };
    search()?;
    assert!(ca.receive(QUIET).is_none() && pva.receive(QUIET).is_none(), "they reach no pod");
    assert_eq!((lab.counter("ca", "off_lan")?, lab.counter("pva", "off_lan")?), (2, 1));
    lab.terminate_agent()?;
    lab.start_agent_with(&format!("[domain.{DOMAIN}]\nuplink = \"eth0\"\nlan = [\"198.51.100.0/24\"]\n"))?;
    search()?;
    assert_eq!(ca.drain(QUIET).len(), 2, "clients of a network that is listed are served");
    assert!(pva.receive(QUIET).is_some());
    Ok(())
}

/// A lab whose domain has these lines besides.
fn lab_with(topology: Topology, lines: &str) -> Result<Lab> {
    let mut lab = Lab::without_agent(Options::new(topology))?;
    lab.start_agent_with(&format!("[domain.{DOMAIN}]\nuplink = \"eth0\"\n{lines}"))?;
    Ok(lab)
}

fn a_pod_that_wants_all_ports_leaves_some_to_the_others(topology: Topology) -> Result<()> {
    let lab = lab_with(topology, "ports = \"61000-61019\"\nports_per_pod = 12\n")?;
    let (greedy, modest) = (lab.pod("greedy")?, lab.pod("modest")?);
    let outside = Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:5064")?;
    let broadcast = pod_broadcast(topology, 5064);
    let search = |pod: &Pod| -> Result<Option<Socket>> {
        let client = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:0")?;
        client.send(&ca::search(&["A:NAME"]), &broadcast)?;
        Ok(outside.receive(PATIENCE).map(|_| client))
    };
    let mut kept = vec![];
    for _ in 0..20 {
        kept.extend(search(&greedy)?);
    }
    assert_eq!(
        (kept.len(), lab.counter("ca", "no_port")?),
        (12, 8),
        "as many as it may, the rest is counted"
    );
    assert!(search(&modest)?.is_some(), "there are ports for others");
    kept.truncate(11);
    assert!(search(&greedy)?.is_some(), "a port that it gave back it has again");
    lab.delete_pod(&greedy)?;
    let again = lab.pod("greedy")?;
    for _ in 0..12 {
        kept.extend(search(&again)?);
    }
    assert_eq!(kept.len(), 11 + 12, "what a deleted pod had does not count");
    Ok(())
}

fn a_host_or_a_pod_that_floods_is_limited_and_the_others_are_served(topology: Topology) -> Result<()> {
    let lab = lab_with(topology, "rates = { pod = 20, host = 10 }\n")?;
    let ((_a, heard), (noisy, _b)) = (stand_in(&lab, "ioc-a")?, stand_in(&lab, "ioc-b")?);
    let outside = Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:5064")?;
    let search = ca::search(&["A:NAME"]);
    let host = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    host.send_burst(&search, LAN_BROADCAST, 200)?;
    let passed = heard.drain(QUIET).len();
    assert!((50..=55).contains(&passed), "five seconds' worth of 10 a second, not {passed}");
    assert_eq!(lab.counter("ca", "limited")?, 200 - passed as u64, "and what is beyond it is counted");
    outside.drain(QUIET);
    let other = Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:0")?;
    other.send(&search, LAN_BROADCAST)?;
    assert!(heard.receive(QUIET).is_some(), "another host is served");
    outside.drain(QUIET);
    let pod = Socket::bind(&lab.sandbox, &noisy.netns, "0.0.0.0:0")?;
    pod.send_burst(&search, &pod_broadcast(topology, 5064), 300)?;
    let passed = outside.drain(QUIET).len();
    assert!((100..=110).contains(&passed), "five seconds' worth of 20 a second, not {passed}");
    assert_eq!(heard.drain(QUIET).len(), passed, "other pods hear as many as the LAN");
    let quiet = lab.pod("ioc-c")?;
    let quiet = Socket::bind(&lab.sandbox, &quiet.netns, "0.0.0.0:0")?;
    quiet.send(&search, &pod_broadcast(topology, 5064))?;
    assert!(outside.receive(QUIET).is_some(), "another pod is served");
    Ok(())
}

fn all_together_are_limited_too(topology: Topology) -> Result<()> {
    let lab = lab_with(topology, "rates = { pod = 0, host = 0, domain = 10 }\n")?;
    let (_pod, heard) = stand_in(&lab, "ioc-a")?;
    let begin = Instant::now();
    for host in [WORKSTATION, NATIVE] {
        let host = Socket::bind(&lab.sandbox, host, "0.0.0.0:0")?;
        host.send_burst(&ca::search(&["A:NAME"]), LAN_BROADCAST, 40)?;
    }
    let most = 50 + (10.0 * begin.elapsed().as_secs_f64()).ceil() as usize;
    let passed = heard.drain(QUIET).len();
    assert!((50..=most).contains(&passed), "five seconds' worth of 10 a second, not {passed}");
    assert_eq!(lab.counter("ca", "limited")?, 80 - passed as u64);
    Ok(())
}

/// An archiver that asks for its missing PVs: 25 000 searches in a few seconds. A hall that comes up: a thousand IOCs on one
/// host, each with ten beacons in its first seconds.
fn storms_of_real_facilities_are_not_limited(topology: Topology) -> Result<()> {
    const BURST: usize = 100; // another test may fill the same processor's queue of 1000
    let lab = Lab::up(Options::new(topology))?;
    let pods = (0..10).map(|number| lab.pod(&format!("ioc-{number}"))).collect::<Result<Vec<_>>>()?;
    let listen = |port: u16| -> Result<Vec<Socket>> {
        pods.iter().map(|pod| Socket::bind(&lab.sandbox, &pod.netns, &format!("0.0.0.0:{port}"))).collect()
    };
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    let beacon = message(13, 13, 5064, 0, 0, &[]);
    for (port, count, datagram) in [(5064, 25_000, ca::search(&["A:NAME"])), (5065, 10_000, beacon)] {
        let listeners = listen(port)?;
        for _ in 0..count / BURST {
            client.send_burst(&datagram, &format!("172.23.0.255:{port}"), BURST)?;
            for (number, listener) in listeners.iter().enumerate() {
                let heard = std::iter::from_fn(|| listener.receive(QUIET)).take(BURST).count();
                assert_eq!(heard, BURST, "pod {number}, port {port}");
            }
        }
    }
    assert_eq!((lab.counter("ca", "limited")?, lab.counter("ca", "overrun")?), (0, 0));
    assert_eq!(lab.counter("ca", "delivered")?, 10 * 35_000);
    Ok(())
}
