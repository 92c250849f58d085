//! What people want addresses of their own on the LAN for, with real programs and, where there is none, with a stand-in of a
//! few lines. Everything is tried with packets through the node's stack, and past it.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use lab::{
    DOMAIN, Dice, Lab, NATIVE, NODE, Options, Pod, Process, Result, SWITCH, Topology, WORKSTATION, ca,
    epics::{Client, Server, shows},
    ping::ping,
    pva,
    udp::Socket,
};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};

use crate::{
    errors::{self, ARRAY, FAR},
    tap::Tap,
};

lab::in_both_topologies! {
    access_security_tells_pods_by_their_addresses
    bytes_of_another_protocol_at_name_servers_ports_pass_unharmed
    a_device_connects_back_to_the_address_that_a_pod_told_it
    errors_come_and_go_as_with_a_host
    a_client_behind_a_smaller_mtu_reads_a_big_array_from_an_address
    every_search_of_a_client_leaves_its_pod_once
}

const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than an answer takes, also on a busy machine.
const QUIET: Duration = Duration::from_millis(500);
const LAN_BROADCAST: &str = "172.23.0.255";

/// A lab whose domain gives addresses, and has what else `more` says.
pub(crate) fn lab_with(topology: Topology, more: &str) -> Result<Lab> {
    lab_of(Options::new(topology), more)
}

/// The same with other options.
pub(crate) fn lab_of(options: Options, more: &str) -> Result<Lab> {
    let mut lab = Lab::without_agent(options)?;
    lab.start_agent_with(&format!(
        "[domain.{DOMAIN}]\nuplink = \"eth0\"\nlan = [\"10.99.0.0/24\"]\naddresses = [\"172.23.0.32-172.23.0.127\"]\n{more}\n"
    ))?;
    Ok(lab)
}

/// All of that again takes long: in one topology.
#[test]
fn past_the_nodes_stack_it_is_the_same_and_nothing_is_forwarded() -> Result<()> {
    let topology = Topology::Bridge;
    let lab = lab_with(topology, "path = \"direct\"")?;
    for rule in [
        "add table ip count",
        "add chain ip count forward { type filter hook forward priority filter ; }",
        "add rule ip count forward iifname eth0 ip daddr 172.23.0.0/24 counter",
        "add rule ip count forward oifname eth0 ip saddr 172.23.0.0/24 counter",
    ] {
        lab.sandbox.sh(NODE, &format!("nft {rule}"))?;
    }
    try_access_security(&lab)?;
    try_other_protocols(&lab)?;
    try_device(&lab)?;
    try_errors(&lab)?;
    try_mtu(&lab)?;
    try_servers(&lab)?;
    try_searches(&lab)?;
    let rules = lab.sandbox.sh(NODE, "nft list chain ip count forward")?;
    assert_eq!(rules.matches("counter packets 0 bytes 0").count(), 2, "{rules}");
    Ok(())
}

fn access_security_tells_pods_by_their_addresses(topology: Topology) -> Result<()> {
    try_access_security(&lab_with(topology, "")?)
}

/// An IOC in `netns` that lets everybody read, and one host write.
fn guarded_ioc(lab: &Lab, netns: &str, prefix: &str, writer: &str) -> Result<Process> {
    let path = |what: &str| format!("/run/ioc/{prefix}.{what}");
    let script = format!(
        "var asCheckClientIP 1\nasSetFilename(\"{}\")\ndbLoadRecords(\"{}\")\niocInit\n",
        path("acf"),
        path("db")
    );
    let rules = format!(
        "HAG(ours) {{ {writer} }}\nASG(DEFAULT) {{ RULE(1, READ) RULE(1, WRITE) {{ HAG(ours) }} }}\n"
    );
    lab.sandbox.write(&path("acf"), rules)?;
    lab.sandbox.write(&path("db"), format!("record(ao, \"{prefix}:SETPOINT\") {{ }}\n"))?;
    lab.sandbox.write(&path("cmd"), script)?;
    let mut ioc = lab.epics(netns, &format!("softIoc -S {}", path("cmd")), &[])?;
    ioc.wait_for("running IOC", lab::epics::PATIENCE, |output| output.contains("iocRun: All init"))?;
    Ok(ioc)
}

fn try_access_security(lab: &Lab) -> Result<()> {
    let [writer, other, server] = ["172.23.0.40", "172.23.0.41", "172.23.0.42"].map(|address| {
        lab.pod_at(0, &format!("hag-{}", address.rsplit('.').next().unwrap()), Some(address)).unwrap()
    });
    let _iocs = [
        guarded_ioc(lab, NATIVE, "LAN", "172.23.0.40")?,
        guarded_ioc(lab, &server.netns, "POD", "172.23.0.40")?,
    ];
    let variables =
        [vec![], vec![("EPICS_CA_AUTO_ADDR_LIST", "NO"), ("EPICS_CA_ADDR_LIST", "172.23.0.3 172.23.0.42")]];
    for (ioc, variables) in
        ["LAN", "POD"].into_iter().flat_map(|ioc| variables.iter().map(move |way| (ioc, way)))
    {
        let put = |netns: &str, value: &str| {
            lab.epics(netns, &format!("caput -w 5 {ioc}:SETPOINT {value}"), variables)?.finish()
        };
        put(&writer.netns, "7")?.success()?;
        let refused = put(&other.netns, "8")?.output;
        assert!(refused.contains("Write access denied"), "{ioc}: {refused}");
        let value = lab.epics_output(&other.netns, &format!("caget -t -w 5 {ioc}:SETPOINT"), variables)?;
        assert_eq!(value, "7\n", "{ioc} by {variables:?}");
    }
    Ok(())
}

fn bytes_of_another_protocol_at_name_servers_ports_pass_unharmed(topology: Topology) -> Result<()> {
    try_other_protocols(&lab_with(topology, "")?)
}

fn try_other_protocols(lab: &Lab) -> Result<()> {
    let pod = lab.pod_at(0, "opaque", Some("172.23.0.43"))?;
    for port in [5064, 5075] {
        for (server, client, address) in
            [(pod.netns.as_str(), WORKSTATION, "172.23.0.43"), (NATIVE, &pod.netns, "172.23.0.3")]
        {
            let to = SocketAddrV4::new(address.parse().unwrap(), port);
            pass_unharmed(lab, server, client, to)?;
        }
    }
    Ok(())
}

/// Bytes that begin like a message of PV Access, and are none.
fn opaque(seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    let noise = std::iter::repeat_with(|| dice.roll().to_be_bytes()).take(32_000).flatten();
    [0xca, 2, 0x41, 4, 40, 0, 0, 0].into_iter().chain(noise).collect()
}

/// Sends bytes on a circuit, both ways.
fn pass_unharmed(lab: &Lab, server: &str, client: &str, to: SocketAddrV4) -> Result<()> {
    let listener =
        lab.sandbox.run_in(server, move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, to.port())))?.unwrap();
    let client =
        lab.sandbox.run_in(client, move || TcpStream::connect_timeout(&to.into(), PATIENCE))?.unwrap();
    let server = listener.accept().unwrap().0;
    for (mut from, mut into, seed) in [(&client, &server, 1), (&server, &client, 2)] {
        let sent = opaque(seed);
        let mut received = vec![0; sent.len()];
        into.set_read_timeout(Some(PATIENCE)).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| from.write_all(&sent).unwrap());
            into.read_exact(&mut received).unwrap();
        });
        assert!(received == sent, "{to}: bytes of seed {seed}");
    }
    drop((listener, client, server));
    lab::settle();
    Ok(())
}

fn a_device_connects_back_to_the_address_that_a_pod_told_it(topology: Topology) -> Result<()> {
    try_device(&lab_with(topology, "")?)
}

/// The device: whoever tells it an address is sent a value there.
fn device(lab: &Lab) -> Result<()> {
    let socket = lab.sandbox.run_in(NATIVE, || UdpSocket::bind("0.0.0.0:9000"))?.unwrap();
    let mut told = [0; 64];
    let length = socket.recv(&mut told).unwrap();
    let client: SocketAddr = std::str::from_utf8(&told[..length]).unwrap().parse().unwrap();
    lab.sandbox.run_in(NATIVE, move || {
        TcpStream::connect_timeout(&client, PATIENCE).unwrap().write_all(b"21.5 C").unwrap();
    })
}

fn try_device(lab: &Lab) -> Result<()> {
    let pod = lab.pod_at(0, "client", Some("172.23.0.44"))?;
    thread::scope(|scope| {
        scope.spawn(|| device(lab).unwrap());
        let (listener, socket) = lab.sandbox.run_in(&pod.netns, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect("172.23.0.3:9000").unwrap();
            (TcpListener::bind((socket.local_addr().unwrap().ip(), 0)).unwrap(), socket)
        })?;
        let own = listener.local_addr().unwrap().to_string();
        assert!(own.starts_with("172.23.0.44:"), "{own}");
        listener.set_nonblocking(true).unwrap();
        let begin = Instant::now();
        let (mut device, from) = loop {
            let _ = socket.send(own.as_bytes()); // the device may not listen yet
            match listener.accept() {
                Ok(accepted) => break accepted,
                Err(error) => assert!(begin.elapsed() < PATIENCE, "the device does not connect: {error}"),
            }
            thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(from.ip().to_string(), "172.23.0.3");
        let mut value = String::new();
        device.set_nonblocking(false).unwrap();
        device.read_to_string(&mut value).unwrap();
        assert_eq!(value, "21.5 C");
        Ok(())
    })
}

fn errors_come_and_go_as_with_a_host(topology: Topology) -> Result<()> {
    try_errors(&lab_with(topology, "")?)
}

fn try_errors(lab: &Lab) -> Result<()> {
    errors::add_far_host(lab)?;
    let (pod, second) =
        (lab.pod_at(0, "host-a", Some("172.23.0.45"))?, lab.pod_at(0, "host-b", Some("172.23.0.46"))?);
    for (from, to) in [
        (WORKSTATION, "172.23.0.45"),
        (&pod.netns, "172.23.0.2"),
        (NODE, "172.23.0.45"),
        (&pod.netns, "172.23.0.10"),
        (&second.netns, "172.23.0.45"),
        (FAR, "172.23.0.45"),
        (&pod.netns, "10.99.0.2"),
    ] {
        assert!(ping(&lab.sandbox, from, to.parse().unwrap(), 84)?, "{from} pings {to}");
    }
    for (from, to) in
        [(WORKSTATION, "172.23.0.45:9"), (&second.netns, "172.23.0.45:9"), (&pod.netns, "172.23.0.3:9")]
    {
        let to: SocketAddr = to.parse().unwrap();
        let begin = Instant::now();
        let client = errors::bind(lab, from, 0)?;
        errors::assert_refused(errors::outcome(&client, to, b"?"), &format!("UDP {from} -> {to}"));
        let connect = move || TcpStream::connect_timeout(&to, PATIENCE).map(|_| 0);
        errors::assert_refused(lab.sandbox.run_in(from, connect)?, &format!("TCP {from} -> {to}"));
        assert!(begin.elapsed() < Duration::from_secs(1), "{from} -> {to}: {:?}", begin.elapsed());
    }
    let hops = trace(lab, &pod.netns, "10.99.0.2")?;
    assert_eq!(hops.last().unwrap(), "10.99.0.2", "{hops:?}");
    assert_eq!(hops[hops.len() - 2], "172.23.0.3", "the router is seen from the pod: {hops:?}");
    let hops = trace(lab, FAR, "172.23.0.45")?;
    assert_eq!((hops[0].as_str(), hops.last().unwrap().as_str()), ("10.99.0.1", "172.23.0.45"), "{hops:?}");
    Ok(())
}

/// Who says that a datagram from `netns` has come too far, and at last that nobody listens: hop by hop to `to`.
fn trace(lab: &Lab, netns: &str, to: &str) -> Result<Vec<String>> {
    let to: SocketAddr = format!("{to}:33434").parse().unwrap();
    let mut hops = vec![];
    for ttl in 1..9 {
        let socket = errors::bind(lab, netns, 0)?;
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
        socket.set_ttl(ttl).unwrap();
        let error = errors::outcome(&socket, to, b"?").unwrap_err();
        hops.push(
            offender(&socket).unwrap_or_else(|| format!("nobody at hop {ttl}: {error}, after {hops:?}")),
        );
        if error.kind() == ErrorKind::ConnectionRefused {
            return Ok(hops);
        }
    }
    panic!("no end of {hops:?}");
}

/// Who sent the error that a socket has.
fn offender(socket: &UdpSocket) -> Option<String> {
    let (mut space, mut buffer) =
        (nix::cmsg_space!(nix::libc::sock_extended_err, nix::libc::sockaddr_in), [0; 64]);
    let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags).ok()?;
    message.cmsgs().ok()?.find_map(|found| match found {
        ControlMessageOwned::Ipv4RecvErr(_, Some(from)) => {
            Some(Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr)).to_string())
        }
        _ => None,
    })
}

fn a_client_behind_a_smaller_mtu_reads_a_big_array_from_an_address(topology: Topology) -> Result<()> {
    let lab = lab_with(topology, "")?;
    errors::add_far_host(&lab)?;
    try_mtu(&lab)
}

/// A lab in which the far host is there already.
fn try_mtu(lab: &Lab) -> Result<()> {
    let pod = lab.pod_at(0, "big", Some("172.23.0.47"))?;
    let _ioc = lab.ioc_with(&pod.netns, "BIG", ARRAY, &[])?;
    let took = errors::time_to_read(lab, "BIG:ARRAY", "172.23.0.47:5064")?;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(lab.checksum_errors(&pod.netns)?, 0);
    Ok(())
}

/// What a server is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Any,
    Own,
    Lan,
    /// To any address, in a pod that has none on the LAN.
    Plain,
}

/// A server, and where clients on the LAN find it.
struct Bench {
    server: Server,
    bound: Bound,
    on_lan: String,
    prefix: String,
    pod: Pod,
    _ioc: Process,
}

impl Bench {
    /// Whether a client has its protocol.
    fn is_for(&self, client: Option<Client>) -> bool {
        client.is_some() == (self.server != Server::Rsrv)
    }

    /// Whether it hears the LAN's broadcasts. A server of PV Access that is bound to one address of several does not, as on any
    /// host: others in its process hear at the LAN's broadcast address, or it looks at where a datagram was sent.
    fn hears_broadcasts(&self) -> bool {
        self.server == Server::Rsrv || self.bound != Bound::Own
    }
}

const KINDS: [Server; 3] = [Server::Rsrv, Server::PvAccessCpp, Server::Pvxs];
/// A name of its own, and one that all have.
const DATABASE: &str =
    "record(stringin, \"$(P):NAME\") { field(VAL, \"$(P)\") field(PINI, \"YES\") alias(\"X:NAME\") }";

/// In one topology: the matrix has both.
#[test]
fn every_server_answers_a_search_once_wherever_it_is_bound() -> Result<()> {
    let topology = Topology::Routed;
    try_servers(&lab_with(topology, "")?)
}

fn serve(lab: &Lab, number: usize, server: Server, bound: Bound) -> Result<Bench> {
    let prefix = format!("S{number}");
    let address = format!("172.23.0.{}", 60 + number);
    let wanted = Some(address.as_str()).filter(|_| bound != Bound::Plain);
    let pod = lab.pod_at(0, &format!("server-{number}"), wanted)?;
    let interface = match bound {
        Bound::Any | Bound::Plain => None,
        Bound::Own => Some(pod.address.clone()),
        Bound::Lan => Some(address.clone()),
    };
    let names = ["EPICS_CAS_INTF_ADDR_LIST", "EPICS_PVAS_INTF_ADDR_LIST"];
    let variables: Vec<_> =
        interface.iter().flat_map(|interface| names.map(|name| (name, interface.as_str()))).collect();
    let ioc = lab.ioc_from(DATABASE, server, &pod.netns, &prefix, &variables)?;
    let on_lan = if matches!(bound, Bound::Any | Bound::Lan) { address } else { "172.23.0.10".into() };
    Ok(Bench { server, bound, on_lan, prefix, pod, _ioc: ioc })
}

fn try_servers(lab: &Lab) -> Result<()> {
    let kinds = KINDS
        .into_iter()
        .flat_map(|server| [Bound::Any, Bound::Own, Bound::Lan, Bound::Plain].map(|bound| (server, bound)));
    let benches: Vec<_> = kinds
        .enumerate()
        .map(|(number, (server, bound))| serve(lab, number, server, bound))
        .collect::<Result<_>>()?;
    assert_answers(lab, &benches)?;
    let client = lab.pod_at(0, "reader", Some("172.23.0.48"))?;
    for netns in [WORKSTATION, &client.netns] {
        for listed in [false, true] {
            assert_read(lab, netns, &benches, listed)?;
        }
    }
    let restricted = [("EPICS_PVA_INTF_ADDR_LIST", "172.23.0.48")];
    for bench in benches.iter().filter(|bench| bench.server != Server::Rsrv && bench.hears_broadcasts()) {
        let output =
            lab.pvget(Client::Pvxs, &client.netns, &format!("{}:NAME", bench.prefix), &restricted)?;
        assert!(shows(&output, &bench.prefix), "at the LAN's interface only: {output}");
    }
    benches.iter().try_for_each(|bench| lab.delete_pod(&bench.pod))
}

/// One broadcast search on the LAN has one answer of each server, from where it is known there.
fn assert_answers(lab: &Lab, benches: &[Bench]) -> Result<()> {
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    let mut expected: Vec<_> = benches.iter().map(|bench| bench.on_lan.clone()).collect();
    expected.sort();
    client.send(&ca::search(&["X:NAME"]), &format!("{LAN_BROADCAST}:5064"))?;
    assert_eq!(who_answers(&client), expected, "Channel Access");

    let servers = benches.iter().filter(|bench| bench.server != Server::Rsrv && bench.hears_broadcasts());
    let mut expected: Vec<_> = servers.map(|bench| bench.on_lan.clone()).collect();
    expected.sort();
    let search = pva::search(2, 0, [0; 4], client.address().port());
    client.send(&search, &format!("{LAN_BROADCAST}:5076"))?;
    assert_eq!(who_answers(&client), expected, "PV Access");
    Ok(())
}

fn who_answers(client: &Socket) -> Vec<String> {
    let mut from: Vec<_> = client.drain(QUIET).iter().map(|(_, from)| from.ip().to_string()).collect();
    from.sort();
    from
}

/// Every client in `netns` reads every server, and is told of each once: one of a kind at a time, as two of pvAccessCPP may
/// have the same port.
fn assert_read(lab: &Lab, netns: &str, benches: &[Bench], listed: bool) -> Result<()> {
    thread::scope(|scope| {
        let read_all = |client| {
            let is_read = move |bench: &&Bench| bench.is_for(client) && (listed || bench.hears_broadcasts());
            let mut found = benches.iter().filter(is_read);
            scope.spawn(move || found.try_for_each(|bench| read(lab, netns, bench, client, listed)))
        };
        let running = [None, Some(Client::PvAccessCpp), Some(Client::Pvxs)].map(read_all);
        running.into_iter().try_for_each(|thread| thread.join().unwrap())
    })
}

/// Reads one server by `caget`, or by a client of PV Access.
fn read(lab: &Lab, netns: &str, bench: &Bench, client: Option<Client>, listed: bool) -> Result<()> {
    let protocol = if client.is_some() { "PVA" } else { "CA" };
    let names = [format!("EPICS_{protocol}_AUTO_ADDR_LIST"), format!("EPICS_{protocol}_ADDR_LIST")];
    let values = ["NO", bench.on_lan.as_str()];
    let variables: Vec<_> = names.iter().map(String::as_str).zip(values).filter(|_| listed).collect();
    let pv = format!("{}:NAME", bench.prefix);
    let output = match client {
        None => lab.epics_output(netns, &format!("caget -w 5 {pv}"), &variables)?,
        Some(client) => lab.pvget(client, netns, &pv, &variables)?,
    };
    assert!(shows(&output, &bench.prefix), "{pv} from {netns}, {variables:?}: {output}");
    for complaint in ["Identical process variable", "More than one channel", "Duplicate PV name"] {
        assert!(!output.contains(complaint), "{pv} from {netns}, {variables:?}: {output}");
    }
    Ok(())
}

fn every_search_of_a_client_leaves_its_pod_once(topology: Topology) -> Result<()> {
    try_searches(&lab_with(topology, "")?)
}

/// Clients search at both broadcast addresses of a pod, and the LAN hears them once.
fn try_searches(lab: &Lab) -> Result<()> {
    let pod = lab.pod_at(0, "seeker", Some("172.23.0.49"))?;
    for (client, port) in [("caget", 5064), ("pvget", 5076), ("PVXS", 5076)] {
        let (lan, inside) = (Tap::new(lab, SWITCH, "node")?, Tap::new(lab, &pod.netns, "eth0")?);
        let _ = match client {
            "caget" => lab.epics(&pod.netns, "caget -w 1 NOBODY:NAME", &[])?.finish()?.output,
            "pvget" => lab.pvget_within(1, Client::PvAccessCpp, &pod.netns, "NOBODY:NAME", &[])?,
            _ => lab.pvget_within(1, Client::Pvxs, &pod.netns, "NOBODY:NAME", &[])?,
        };
        let mut sent: BTreeMap<Ipv4Addr, usize> = BTreeMap::new();
        for packet in inside.packets().iter().filter(|packet| packet.leaves && packet.to.port() == port) {
            *sent.entry(*packet.to.ip()).or_default() += 1;
        }
        let heard = lan.packets();
        let heard = heard.iter().filter(|packet| !packet.leaves && packet.to.port() == port);
        let heard: Vec<_> =
            heard.map(|packet| (packet.from.ip().to_string(), packet.to.ip().to_string())).collect();
        let expected = ("172.23.0.49".to_owned(), LAN_BROADCAST.to_owned());
        assert!(heard.iter().all(|found| *found == expected), "{client}: {heard:?}");
        assert_eq!(Some(heard.len()), sent.values().copied().max(), "{client}: {sent:?}");
    }
    Ok(())
}
