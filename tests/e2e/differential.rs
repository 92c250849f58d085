//! Our parsers beside another project's, over what real peers send: caproto reads the same from the same bytes.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{os::fd::AsRawFd, time::Duration};

use lab::{
    Lab, NATIVE, Options, Result, Topology, WORKSTATION,
    epics::{Client, PATIENCE, Server},
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use serde_json::{Value, json};
use wire::{Direction, Kind, Named, Step, ca, names, pva};

/// UDP ports of servers, and which protocol theirs is.
const PORTS: [(u16, &str); 3] = [(5064, "ca"), (5065, "ca"), (5076, "pva")];
/// CA beacons come after 0.02, 0.04, 0.08 s and so on, those of PV Access each few seconds.
const ENOUGH: Duration = Duration::from_secs(5);

#[test]
fn caproto_reads_the_same() -> Result<()> {
    let lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    let heard = listen(&lab)?;
    let servers = [(Server::Rsrv, "A"), (Server::PvAccessCpp, "B"), (Server::Pvxs, "C")];
    let servers = servers.map(|(server, prefix)| lab.ioc_of(server, NATIVE, prefix));
    let _servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    lab.epics_output(WORKSTATION, "caget -w 10 A:NAME B:NAME C:NAME", &[])?;
    for client in [Client::PvAccessCpp, Client::Pvxs] {
        lab.pvget(client, WORKSTATION, "B:NAME C:NAME", &[])?;
    }
    std::thread::sleep(ENOUGH);
    let datagrams = heard();
    let theirs = read_by_caproto(&lab, &datagrams)?;
    let ours: Vec<_> = datagrams.iter().map(read).collect();
    assert_eq!(ours.len(), theirs.len());
    for ((datagram, ours), theirs) in datagrams.iter().zip(&ours).zip(&theirs) {
        assert_eq!(ours, theirs, "{datagram:?}");
    }
    for expected in [r#"["search",1,"A:NAME"]"#, r#"["reply",1,"#, r#"["beacon",5064,"#] {
        assert!(ours.iter().any(|ours| ours.to_string().contains(expected)), "no {expected} among {ours:?}");
    }
    // Of PV Access in both byte orders: PVXS sends big endian, pvAccessCPP its machine's.
    for order in [0x80, 0] {
        for command in [0, 3, 4] {
            let found = datagrams.iter().any(|datagram| {
                let bytes = &datagram.payload;
                datagram.protocol == "pva" && bytes[2] & 0x80 == order && bytes[3] == command
            });
            assert!(found, "no message {command} in byte order {order:#x}");
        }
    }
    lab::report("datagrams of real peers that caproto and iocast read alike", &ours.len().to_string());
    Ok(())
}

/// A datagram to or from a server's port.
#[derive(Debug)]
struct Datagram {
    protocol: &'static str,
    direction: Direction,
    payload: Vec<u8>,
}

/// Captures at the workstation from now on; gives what came until then when it is called.
fn listen(lab: &Lab) -> Result<impl FnOnce() -> Vec<Datagram>> {
    let capture = lab.sandbox.run_in(WORKSTATION, || {
        let all = SockProtocol::EthAll;
        let capture = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_NONBLOCK, all)?;
        setsockopt(&capture, sockopt::RcvBufForce, &(16 << 20))?;
        Ok::<_, nix::Error>(capture)
    })?;
    let capture = lab::tried("capture", capture)?;
    Ok(move || {
        let mut buffer = vec![0; 65536];
        let mut receive = || {
            recv(capture.as_raw_fd(), &mut buffer, MsgFlags::empty())
                .ok()
                .map(|length| buffer[..length].to_vec())
        };
        std::iter::from_fn(&mut receive).filter_map(|packet| datagram(&packet)).collect()
    })
}

/// What an IPv4 packet holds, if it is a whole datagram to or from a server's port.
fn datagram(packet: &[u8]) -> Option<Datagram> {
    let field = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let (Some(0x45), Some(17), 0) = (packet.first(), packet.get(9), field(6)? & 0x3fff) else { return None };
    let protocol = |port: u16| PORTS.iter().find(|(known, _)| *known == port).map(|(_, name)| *name);
    let (from, to) = (protocol(field(20)?), protocol(field(22)?));
    let payload = packet.get(28..20 + usize::from(field(24)?))?.to_vec();
    match (from, to) {
        (_, Some(protocol)) => Some(Datagram { protocol, direction: Direction::Announce, payload }),
        (Some(protocol), None) => Some(Datagram { protocol, direction: Direction::Answer, payload }),
        // pvAccessCPP answers from a port that nobody knows.
        (None, None) => names::begins_pva_reply(*payload.first_chunk()?).then_some(Datagram {
            protocol: "pva",
            direction: Direction::Answer,
            payload,
        }),
    }
}

/// What caproto reads, a list of messages for each datagram.
fn read_by_caproto(lab: &Lab, datagrams: &[Datagram]) -> Result<Vec<Value>> {
    let line = |datagram: &Datagram| {
        let direction = if datagram.direction == Direction::Answer { "answer" } else { "announce" };
        let hex: String = datagram.payload.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} {direction} {hex}\n", datagram.protocol)
    };
    lab.sandbox.write("/run/datagrams", datagrams.iter().map(line).collect::<String>())?;
    let mut reader = lab.python(WORKSTATION, "caproto_reader.py", "/run/datagrams")?;
    reader.wait_for("end", PATIENCE, |output| output.lines().count() >= datagrams.len())?;
    let output = reader.finish()?.success()?;
    Ok(output.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// What we read, in the same form.
fn read(datagram: &Datagram) -> Value {
    match datagram.protocol {
        "ca" => read_ca(&datagram.payload, datagram.direction),
        _ => read_pva(&datagram.payload, datagram.direction),
    }
}

fn read_ca(payload: &[u8], direction: Direction) -> Value {
    let mut found: Vec<Value> =
        names::ca_search(payload).map(|(id, name)| json!(["search", id, text(name)])).collect();
    let mut ids = names::ca_reply(payload);
    let mut chain = ca::Chain::new(payload.len() as u32);
    while chain.has_next() {
        let header = payload[chain.offset as usize..].first_chunk().unwrap();
        let load = |at: u32| payload.get(at as usize..)?.first_chunk().copied();
        match ca::step(&mut chain, header, direction, load).unwrap() {
            Step::Names(Kind::Reply, named) => {
                found.push(json!(["reply", ids.next(), named.port, hex(&named)]));
            }
            Step::Names(_, named) => found.push(json!(["beacon", named.port, hex(&named)])),
            Step::Plain(_) | Step::Opaque => {}
        }
    }
    found.into()
}

fn read_pva(payload: &[u8], direction: Direction) -> Value {
    let body = &payload[pva::HEADER as usize..];
    let mut found = vec![];
    match pva::message(payload.first_chunk().unwrap(), payload.len() as u32, direction).unwrap() {
        pva::Body::Search(order) => {
            let named = pva::search(body.first_chunk().unwrap(), order);
            found.push(json!(["search to", named.port, hex(&named)]));
        }
        pva::Body::Server(_, order) => {
            let named = pva::server(body.first_chunk().unwrap(), order);
            found.push(json!(["server", named.port, hex(&named)]));
        }
        pva::Body::Local => panic!("it was to stay on its host: {payload:?}"),
    }
    found.extend(names::pva_search(payload).map(|(id, name)| json!(["search", id, text(name)])));
    found.extend(names::pva_reply(payload).map(|id| json!(["reply", id])));
    found.into()
}

fn text(name: &[u8]) -> String {
    String::from_utf8(name.to_vec()).unwrap()
}

fn hex(named: &Named) -> String {
    named.address.iter().map(|byte| format!("{byte:02x}")).collect()
}
