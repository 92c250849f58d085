//! What hosts on the LAN, pods and local clients do to a node on purpose. Nobody else may lose anything by it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use lab::{
    DOMAIN, Dice, Error, NATIVE, NODE, Result, WORKSTATION, ca,
    tcp::{Forger, flag},
    tried,
    udp::Socket,
};

use super::scene::{ADDRESSED, AGENT, IOCS, Scene, Subject};

const NOBODY: Vec<Subject> = vec![];
/// The node's address on the LAN.
const UPLINK: Ipv4Addr = Ipv4Addr::new(172, 23, 0, 10);
const SYNS: usize = 200_000;
/// Pins that one pod may have.
const PINS: u16 = 32;
const SLOW: usize = 300;
/// As long as kubelet waits for a probe.
const PROBE: Duration = Duration::from_secs(1);

/// The addresses are those of the workstation and of hosts that do not exist; the ports are all.
pub(super) fn forge_connections(scene: &mut Scene, dice: &mut Dice) -> Result<Vec<Subject>> {
    let ioc = format!("ioc-{}", dice.below(ADDRESSED)); // the others have no external ports
    let port = scene.lab.external_port(&ioc, "tcp", 5064)?;
    let port = port.ok_or_else(|| Error::Missing(format!("{ioc} has no external port")))?;
    let forger = Forger::new(&scene.lab.sandbox, NATIVE)?;
    for _ in 0..SYNS {
        let host = [2].into_iter().chain(11..254).nth(dice.below(244)).unwrap_or(2);
        let from = SocketAddrV4::new(Ipv4Addr::new(172, 23, 0, host), dice.roll() as u16);
        forger.send(from, SocketAddrV4::new(UPLINK, port), flag::SYN, (dice.roll() as u32, 0))?;
    }
    Ok(NOBODY)
}

/// Ten RSTs, FINs and SYNs at each circuit, with numbers that are guessed.
pub(super) fn forge_ends(scene: &mut Scene, dice: &mut Dice) -> Result<Vec<Subject>> {
    let established = scene.lab.sandbox.sh(WORKSTATION, "ss -Htn state established dst 172.23.0.10")?;
    let forger = Forger::new(&scene.lab.sandbox, NATIVE)?;
    for line in established.lines() {
        let ends: Vec<SocketAddrV4> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [client, external] = ends[..] else { return Err(Error::Missing(format!("ss said: {line}"))) };
        for flags in [flag::RST, flag::FIN | flag::ACK, flag::SYN].repeat(10) {
            forger.send(client, external, flags, (dice.roll() as u32, dice.roll() as u32))?;
        }
    }
    Ok(NOBODY)
}

/// To a client that asked, from a socket beside the IOC's.
pub(super) fn flood_of_answers(scene: &mut Scene, dice: &mut Dice) -> Result<Vec<Subject>> {
    let sandbox = &scene.lab.sandbox;
    let client = Socket::bind(sandbox, WORKSTATION, "0.0.0.0:0")?;
    client.send(&ca::search(&["NOT:THERE"]), "172.23.0.255:5064")?;
    let pod = &scene.places[dice.below(IOCS)].pod.netns;
    let to = format!("172.23.0.2:{}", client.address().port());
    let liar = Socket::bind(sandbox, pod, "0.0.0.0:0")?;
    for _ in 0..200 {
        liar.send_burst(&ca::reply(5064), &to, 500)?;
        sleep(Duration::from_millis(25));
    }
    Ok(NOBODY)
}

/// Five pods with all the pins that they may have, and one that wants more.
pub(super) fn flood_of_pins(scene: &mut Scene, _: &mut Dice) -> Result<Vec<Subject>> {
    let pins = |first: u16, count: u16| {
        let pins = (0..count).map(|number| format!("tcp/{}={}", number + 1, first + number));
        pins.collect::<Vec<_>>().join(",")
    };
    let pod = |name: &str, ports: &str| {
        scene.lab.pod_with(name, &[("iocast.io/domain", DOMAIN), ("iocast.io/ports", ports)])
    };
    for number in 0..5 {
        let pod = pod(&format!("pins-{number}"), &pins(65_000 + 100 * number, PINS))?;
        scene.lab.delete_pod(&pod)?;
    }
    match pod("pins-more", &pins(65_000, PINS + 1)) {
        Err(_) => Ok(NOBODY),
        Ok(pod) => Err(Error::Missing(format!("{} has {} pins", pod.name, PINS + 1))),
    }
}

/// Clients of the agent that say nothing, or half of it; a probe beside them.
pub(super) fn slow_clients(scene: &mut Scene, _: &mut Dice) -> Result<Vec<Subject>> {
    let connect = || scene.lab.sandbox.run_in(NODE, || TcpStream::connect(AGENT));
    let mut slow = vec![];
    for number in 0..SLOW {
        let mut client = tried("connect to the agent", connect()?)?;
        if number % 2 == 0 {
            tried("say half of it", client.write_all(b"GET /hea"))?;
        }
        slow.push(client);
    }
    let begin = Instant::now();
    let (mut probe, mut answer) = (tried("connect to the agent", connect()?)?, String::new());
    tried("probe", probe.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n"))?;
    tried("probe", probe.read_to_string(&mut answer))?;
    if answer.starts_with("HTTP/1.1 200") && begin.elapsed() < PROBE {
        return Ok(NOBODY);
    }
    Err(Error::Timeout(format!("a probe took {:?}: {answer}", begin.elapsed())))
}
