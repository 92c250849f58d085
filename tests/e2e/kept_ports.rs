//! Who has an external port, for how long, and how many: what is promised to a server, and what nobody can take from others.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    collections::BTreeMap,
    net::{TcpListener, UdpSocket},
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use abi::{Claim, Endpoint, GRACE, Owner, Share, TCP, share};
use aya::maps::{HashMap, Map, MapData};
use lab::{
    DOMAIN, Lab, NODE, Options, Pod, Result, Topology, WORKSTATION,
    ca::{reply, search, servers},
    udp::Socket,
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::programs::rig::pinned;

/// Longer than any copy takes, also on a busy machine.
const QUIET: Duration = Duration::from_millis(300);
/// The agent looks every two seconds.
const PASS: Duration = Duration::from_secs(3);

lab::in_both_topologies! {
    a_deleted_servers_ports_are_its_own_again_whoever_asks_meanwhile
    a_server_that_is_away_for_a_moment_keeps_its_port
    a_clients_port_is_free_when_the_client_is_gone
    a_pin_survives_the_sweep_of_an_earlier_pod_with_the_same_address
}

/// A pod that answers a client on the LAN, and what that receives.
struct Talk<'a> {
    lab: &'a Lab,
    client: Socket,
}

impl<'a> Talk<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        let client = Socket::bind(&lab.sandbox, WORKSTATION, "172.23.0.2:0")?;
        client.send(&search(&["A:NAME"]), "172.23.0.255:5064")?; // from now on it is answered
        Ok(Self { lab, client })
    }

    fn socket(&self, pod: &Pod) -> Result<Socket> {
        Socket::bind(&self.lab.sandbox, &pod.netns, "0.0.0.0:5064")
    }

    /// The external port of an answer that names `port`; none if it does not come.
    fn answer(&self, socket: &Socket, port: u16) -> Result<Option<u16>> {
        let to = self.client.address().to_string();
        socket.send(&reply(port), &to)?;
        Ok(self.client.receive(QUIET).map(|(bytes, _)| servers(&bytes)[0].0))
    }
}

/// A lab whose domain has so many external ports of each transport.
fn lab_of(topology: Topology, ports: u16) -> Result<Lab> {
    Lab::up(Options { ports: (61000, 60999 + ports), ..Options::new(topology) })
}

/// A pinned map.
fn map<K: aya::Pod, V: aya::Pod>(name: &str) -> HashMap<MapData, K, V> {
    Map::HashMap(pinned(name)).try_into().unwrap()
}

fn entries<K: aya::Pod, V: aya::Pod>(name: &str) -> Vec<(K, V)> {
    map(name).iter().map(std::result::Result::unwrap).collect()
}

/// What a map of the lab's node holds.
fn held<K: aya::Pod + Send, V: aya::Pod + Send>(lab: &Lab, name: &'static str) -> Result<Vec<(K, V)>> {
    lab.sandbox.run_in(NODE, move || entries(name))
}

/// Lets the grace of a pod's ports that have nobody behind them pass.
fn let_grace_pass(lab: &Lab, pod: &str) -> Result<()> {
    let identity = abi::identity("beamline", pod);
    wait_until(|| {
        let found = held::<Endpoint, Claim>(lab, "EXTERNALS").unwrap();
        found.iter().any(|(_, claim)| claim.identity == identity && claim.vacant != 0)
    });
    sleep(QUIET); // the agent sees to one after the other
    age(lab, pod)
}

/// Makes as if nobody had been behind a pod's ports for as long as the grace, where nobody is.
fn age(lab: &Lab, pod: &str) -> Result<()> {
    let identity = abi::identity("beamline", pod);
    lab.sandbox.run_in(NODE, move || {
        let mut externals = map::<Endpoint, Claim>("EXTERNALS");
        for (external, claim) in entries::<Endpoint, Claim>("EXTERNALS") {
            if claim.vacant != 0 && claim.identity == identity {
                let vacant = claim.vacant.wrapping_sub(GRACE).max(1);
                externals.insert(external, Claim { vacant, ..claim }, 0).unwrap();
            }
        }
    })
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "it did not come");
        sleep(Duration::from_millis(100));
    }
}

fn a_deleted_servers_ports_are_its_own_again_whoever_asks_meanwhile(topology: Topology) -> Result<()> {
    let lab = lab_of(topology, 3)?;
    let talk = Talk::new(&lab)?;
    let first = lab.pod("ioc-a")?;
    let had = talk.answer(&talk.socket(&first)?, 5064)?.unwrap();
    lab.delete_pod(&first)?;
    let others = [lab.pod("ioc-b")?, lab.pod("ioc-c")?, lab.pod("ioc-d")?];
    let mut served = 0;
    let ask_all = |served: &mut usize| -> Result<()> {
        for other in &others {
            let socket = talk.socket(other)?;
            for port in [5064, 5075] {
                let Some(port) = talk.answer(&socket, port)? else { continue };
                assert_ne!(port, had, "{} got a port that is kept", other.name);
                *served += 1;
            }
        }
        Ok(())
    };
    ask_all(&mut served)?; // before the agent has looked
    wait_until(|| lab.status().is_ok_and(|status| status["ports"]["kept"] == 1));
    ask_all(&mut served)?;
    assert!(served > 0, "the others have the rest");
    let again = lab.pod("ioc-a")?;
    assert_ne!(again.address, first.address);
    assert_eq!(talk.answer(&talk.socket(&again)?, 5064)?, Some(had));
    assert_eq!(lab.status()?["ports"]["kept"], 0);
    lab.delete_pod(&again)?;
    wait_until(|| lab.status().is_ok_and(|status| status["ports"]["kept"] == 1));
    let_grace_pass(&lab, "ioc-a")?;
    let heir = talk.answer(&talk.socket(&others[2])?, 5064)?.unwrap();
    assert_eq!(heir, had, "after the grace it is free");
    Ok(())
}

#[test]
fn after_the_grace_nothing_is_left_of_a_deleted_pod() -> Result<()> {
    let lab = lab_of(Topology::Bridge, 1000)?;
    let talk = Talk::new(&lab)?;
    let pod =
        lab.pod_with("ioc-a", &[("iocast.io/domain", DOMAIN), ("iocast.io/ports", "tcp/7000=65500")])?;
    let socket = talk.socket(&pod)?;
    for port in 5064..5084 {
        talk.answer(&socket, port)?.unwrap();
    }
    drop(socket);
    lab.delete_pod(&pod)?;
    wait_until(|| lab.status().is_ok_and(|status| status["ports"]["kept"] == abi::KEPT));
    let_grace_pass(&lab, "ioc-a")?;
    sleep(PASS);
    assert_eq!(held::<Endpoint, Claim>(&lab, "EXTERNALS")?, []);
    assert_eq!(held::<Owner, Endpoint>(&lab, "INTERNALS")?, []);
    assert_eq!(held::<Owner, u64>(&lab, "CHANGING")?, []);
    let shares = held::<u32, Share>(&lab, "PORT_COUNTS")?;
    assert!(shares.iter().all(|(_, share)| share.taken == 0), "{shares:?}");
    Ok(())
}

fn a_server_that_is_away_for_a_moment_keeps_its_port(topology: Topology) -> Result<()> {
    let lab = lab_of(topology, 2)?;
    let talk = Talk::new(&lab)?;
    let (pod, other) = (lab.pod("ioc-a")?, lab.pod("ioc-b")?);
    let socket = talk.socket(&pod)?;
    let listen = |port: u16| {
        lab.sandbox.run_in(&pod.netns, move || {
            let socket = TcpListener::bind(("0.0.0.0", port)).unwrap();
            lab::settle();
            socket
        })
    };
    let (listener, _second) = (listen(5064)?, listen(5075)?);
    let had = talk.answer(&socket, 5064)?.unwrap();
    talk.answer(&socket, 5075)?.unwrap();
    drop(listener);
    lab::settle();
    let others = talk.socket(&other)?;
    for _ in 0..3 {
        assert_eq!(talk.answer(&socket, 6000)?, None, "not even for another socket of the pod");
        assert_eq!(talk.answer(&others, 5064)?, None);
    }
    let listener = listen(5064)?;
    assert_eq!(talk.answer(&socket, 5064)?, Some(had));
    age(&lab, "ioc-a")?;
    assert_eq!(talk.answer(&others, 5064)?, None, "it is back, and what was before is forgotten");
    drop(listener);
    lab::settle();
    assert_eq!(talk.answer(&others, 5064)?, None);
    let_grace_pass(&lab, "ioc-a")?;
    assert_eq!(talk.answer(&others, 5064)?, Some(had), "it stayed away too long");
    Ok(())
}

fn a_clients_port_is_free_when_the_client_is_gone(topology: Topology) -> Result<()> {
    let lab = lab_of(topology, 1)?;
    let (first, second) = (lab.pod("client-a")?, lab.pod("client-b")?);
    let outside = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:5064")?;
    let ask = |pod: &Pod| -> Result<Option<Socket>> {
        let socket = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:0")?;
        socket.send(&search(&["A:NAME"]), "172.23.0.2:5064")?;
        Ok(outside.receive(QUIET).map(|_| socket))
    };
    let socket = ask(&first)?.unwrap();
    assert!(ask(&second)?.is_none());
    drop(socket);
    let _socket = ask(&second)?.unwrap();
    lab.delete_pod(&second)?;
    assert!(ask(&first)?.is_some(), "or its pod");
    Ok(())
}

fn a_pin_survives_the_sweep_of_an_earlier_pod_with_the_same_address(topology: Topology) -> Result<()> {
    let mut lab = Lab::up(Options::with_pins(topology))?;
    let first = lab.pod("ioc-a")?;
    let port = |lab: &Lab, pod: &Pod| -> Result<u16> {
        let talk = Talk::new(lab)?;
        Ok(talk.answer(&talk.socket(pod)?, 5064)?.unwrap())
    };
    port(&lab, &first)?;
    lab.terminate_agent()?;
    let veth = lab.host_veth(&first);
    lab.sandbox.sh(NODE, &format!("ip link del {veth}"))?;
    lab.sandbox.sh(NODE, "find /run/ipam-0 -type f -delete")?;
    let annotations = [("iocast.io/domain", DOMAIN), ("iocast.io/ports", "tcp/5064=15064")];
    let second = lab.pod_with("ioc-b", &annotations)?;
    assert_eq!(second.address, first.address);
    assert_eq!(port(&lab, &second)?, 15064);
    lab.start_agent()?;
    sleep(PASS);
    assert_eq!(port(&lab, &second)?, 15064);
    Ok(())
}

#[test]
fn a_pin_that_cannot_follow_the_uplink_is_kept_and_reported_until_it_can() -> Result<()> {
    let mut lab = Lab::up(Options::with_pins(Topology::Bridge))?;
    let pinned = |name: &str, ports: &str| {
        lab.pod_with(name, &[("iocast.io/domain", DOMAIN), ("iocast.io/ports", ports)])
    };
    let (_pod, other) = (pinned("ioc-a", "tcp/5064=15064")?, pinned("ioc-b", "tcp/5065=15065")?);
    // As a pod of another domain has it that is at the uplink's new address.
    let there = Endpoint { address: [172, 23, 0, 20], port: 15064, protocol: TCP.into() };
    lab.sandbox.run_in(NODE, move || {
        let mut externals = map::<Endpoint, Claim>("EXTERNALS");
        let (_, claim) = entries::<Endpoint, Claim>("EXTERNALS")
            .into_iter()
            .find(|(external, _)| external.port == 15065)
            .unwrap();
        let elsewhere = Claim { domain: 9, pod: Endpoint { port: 7000, ..claim.pod }, ..claim };
        externals.insert(there, elsewhere, 0).unwrap();
    })?;
    lab.sandbox.sh(NODE, "ip address del 172.23.0.10/24 dev eth0")?;
    lab.sandbox.sh(NODE, "ip address add 172.23.0.20/24 broadcast + dev eth0")?;
    let problem = "pinned port 15064 cannot follow the uplink to 172.23.0.20";
    lab.wait_for_agent("problem", |output| output.contains(problem))?;
    sleep(2 * PASS);
    let said = lab.agent_output();
    assert!(said.contains("is taken by pod beamline/ioc-b"), "{said}");
    assert!(!said.contains("resolved: pinned") && said.matches(problem).count() == 1, "{said}");
    assert_eq!(lab.external_port("ioc-b", "tcp", 5065)?, Some(15065), "the others have followed");
    lab.delete_pod(&other)?;
    lab.wait_for_agent("end of it", |output| output.contains(&format!("resolved: {problem}")))?;
    let at: Vec<_> = held::<Endpoint, Claim>(&lab, "EXTERNALS")?
        .into_iter()
        .filter(|(external, claim)| external.port == 15064 && claim.pod.port == 5064)
        .map(|(external, _)| external)
        .collect();
    assert_eq!(at, [there]);
    Ok(())
}

#[test]
fn processors_that_take_ports_at_the_same_time_agree_on_each() -> Result<()> {
    const ROUNDS: u16 = 20;
    const DATAGRAMS: usize = 400;
    let lab = lab_of(Topology::Bridge, 24)?;
    let pods = [lab.pod("client-a")?, lab.pod("client-b")?];
    let (names, start) = ([pods[0].netns.clone(), pods[1].netns.clone()], Instant::now());
    // Each processor uses both pods, and ports that the other one uses at the same time.
    for round in 0..ROUNDS {
        let sockets = names.clone().map(|netns| {
            let sockets = lab.sandbox.run_in(&netns, move || {
                (0..40).map(|number| socket(7000 + 40 * round + number)).collect::<Vec<_>>()
            });
            sockets.unwrap()
        });
        scope(|scope| {
            for processor in 0..2 {
                let sockets = &sockets;
                scope.spawn(move || {
                    let mut processors = CpuSet::new();
                    processors.set(processor).unwrap();
                    sched_setaffinity(Pid::from_raw(0), &processors).unwrap();
                    for number in 0..DATAGRAMS {
                        let socket = &sockets[number / 40 % 2][number * 7 % 40];
                        let _ = socket.send_to(&search(&["A:NAME"]), "172.23.0.2:5064");
                    }
                });
            }
        });
        drop(sockets);
        lab::settle();
    }
    let (externals, internals) = (
        held::<Endpoint, Claim>(&lab, "EXTERNALS")?,
        held::<Owner, Endpoint>(&lab, "INTERNALS")?.into_iter().collect::<Vec<_>>(),
    );
    assert!(externals.len() >= 20, "{}", externals.len());
    let owners: Vec<_> = externals.iter().map(|(external, claim)| (claim.owner(), *external)).collect();
    for entry in &owners {
        assert!(internals.contains(entry), "a port of {:?} that its owner does not know", entry.0);
    }
    for entry in &internals {
        assert!(owners.contains(entry), "{:?} believes to have {:?}", entry.0, entry.1);
    }
    assert_eq!(held::<Owner, u64>(&lab, "CHANGING")?, [], "every lock was given back");
    sleep(PASS);
    let shares: BTreeMap<_, _> = held::<u32, Share>(&lab, "PORT_COUNTS")?.into_iter().collect();
    let udp = shares[&share::of_domain(0, abi::UDP.into())].taken;
    assert_eq!(udp, externals.len() as i64);
    lab::report(
        "sockets that took external ports from each other on two processors",
        &format!(
            "{} datagrams in {:.1} s",
            2 * usize::from(ROUNDS) * DATAGRAMS,
            start.elapsed().as_secs_f32()
        ),
    );
    Ok(())
}

/// A socket that searches.
fn socket(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
    socket.set_broadcast(true).unwrap();
    socket
}
