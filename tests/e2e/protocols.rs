//! Protocols that are data: RecSync, ADS, BACnet and plain relay as they are shipped, and one of one's own.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    time::Duration,
};

use lab::{DOMAIN, Lab, NATIVE, Options, Result, Topology, WORKSTATION, tried, udp::Socket};

lab::in_both_topologies! {
    an_announcer_in_a_pod_is_heard_on_the_lan_and_connected_to
    an_announcer_on_the_lan_is_heard_in_pods_and_connected_to
    a_pod_asks_the_lan_and_the_lan_asks_pods
    what_a_forwarded_message_names_is_translated_where_the_condition_holds
    a_real_bacnet_client_reads_a_real_device_either_way
    a_protocol_of_ones_own_is_a_few_lines
    what_is_not_of_the_protocol_does_not_cross
}

const PATIENCE: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_millis(300);

/// A lab whose domain relays these protocols, and has these lines besides.
fn lab(topology: Topology, protocols: &str, more: &str) -> Result<Lab> {
    let mut lab = Lab::without_agent(Options::new(topology))?;
    lab.start_agent_with(&format!(
        "[domain.{DOMAIN}]\nuplink = \"eth0\"\nprotocols = [{protocols}]\n{more}"
    ))?;
    Ok(lab)
}

/// Where a pod's broadcast to `port` goes.
fn pod_broadcast(topology: Topology, port: u16) -> String {
    let address = if topology == Topology::Bridge { "10.244.1.255" } else { "255.255.255.255" };
    format!("{address}:{port}")
}

/// RecCeiver's announcement of a TCP port at the sender's address.
fn announcement(port: u16) -> Vec<u8> {
    let mut bytes = vec![0x52, 0x43, 0, 0, 255, 255, 255, 255];
    bytes.extend(port.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 0, 7]);
    bytes
}

/// A server in `netns` that says hello to whoever connects first, and its port.
fn greeter(lab: &Lab, netns: &str) -> Result<(u16, std::thread::JoinHandle<std::io::Result<SocketAddr>>)> {
    let listener = lab.sandbox.run_in(netns, || TcpListener::bind("0.0.0.0:0"))?;
    let listener = tried("listen", listener)?;
    let port = tried("local address", listener.local_addr())?.port();
    let serve = move || {
        let (mut stream, peer) = listener.accept()?;
        stream.write_all(b"hello")?;
        Ok(peer)
    };
    Ok((port, std::thread::spawn(serve)))
}

/// What the server at `address` says to a client in `netns`.
fn greeting(lab: &Lab, netns: &str, address: SocketAddrV4) -> Result<String> {
    let said = lab.sandbox.run_in(netns, move || {
        let mut stream = TcpStream::connect_timeout(&address.into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok::<_, std::io::Error>(said)
    })?;
    tried(format!("connect to {address}"), said)
}

fn heard(socket: &Socket) -> (Vec<u8>, SocketAddrV4) {
    socket.receive(PATIENCE).unwrap_or_else(|| panic!("no datagram on {}", socket.address()))
}

fn an_announcer_in_a_pod_is_heard_on_the_lan_and_connected_to(topology: Topology) -> Result<()> {
    let lab = lab(topology, "\"recsync\"", "")?;
    let pod = lab.pod("recceiver")?;
    let caster = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:5049")?;
    let (port, server) = greeter(&lab, &pod.netns)?;
    let announcer = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:0")?;
    announcer.send(&announcement(port), &pod_broadcast(topology, 5049))?;
    let (bytes, from) = heard(&caster);
    let external = u16::from_be_bytes([bytes[8], bytes[9]]);
    assert_eq!(bytes, announcement(external), "nothing but the port has changed");
    assert_eq!(from.ip(), &std::net::Ipv4Addr::new(172, 23, 0, 10), "the node is who can be connected to");
    assert_eq!(lab.external_port("recceiver", "tcp", port)?, Some(external));
    assert_eq!(greeting(&lab, WORKSTATION, SocketAddrV4::new(*from.ip(), external))?, "hello");
    let peer = tried("accept", server.join().unwrap_or_else(|_| panic!("the server failed")))?;
    assert_eq!(peer.ip().to_string(), "172.23.0.2", "the client's own address is kept");
    assert!(caster.receive(QUIET).is_none(), "one announcement is heard once");
    assert_eq!(lab.counter("recsync", "sent")?, 1);
    Ok(())
}

fn an_announcer_on_the_lan_is_heard_in_pods_and_connected_to(topology: Topology) -> Result<()> {
    let lab = lab(topology, "\"recsync\"", "")?;
    let (first, second) = (lab.pod("ioc-a")?, lab.pod("ioc-b")?);
    let casters = [&first, &second].map(|pod| Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:5049"));
    let (port, server) = greeter(&lab, NATIVE)?;
    let announcer = Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:0")?;
    announcer.send(&announcement(port), "172.23.0.255:5049")?;
    for caster in casters {
        let caster = caster?;
        let (bytes, from) = heard(&caster);
        assert_eq!(bytes, announcement(port), "the LAN's announcements stay as they are");
        assert_eq!(from.port(), announcer.address().port());
        if !server.is_finished() {
            assert_eq!(greeting(&lab, &first.netns, SocketAddrV4::new(*from.ip(), port))?, "hello");
        }
        assert!(caster.receive(QUIET).is_none(), "one announcement is heard once");
    }
    Ok(())
}

/// A search of Beckhoff's ADS: a cookie, an invoke id, the service, and the asking router's AMS Net ID.
const ADS_SEARCH: [u8; 24] =
    [3, 0x66, 0x14, 0x71, 0, 0, 0, 0, 1, 0, 0, 0, 10, 88, 0, 5, 1, 1, 0x10, 0x27, 0, 0, 0, 0];

fn a_pod_asks_the_lan_and_the_lan_asks_pods(topology: Topology) -> Result<()> {
    let lab = lab(topology, "\"ads\"", "")?;
    let pod = lab.pod("ioc-a")?;
    for (server, client, target) in [
        (NATIVE, pod.netns.as_str(), pod_broadcast(topology, 48899)),
        (pod.netns.as_str(), WORKSTATION, "172.23.0.255:48899".into()),
    ] {
        let router = Socket::bind(&lab.sandbox, server, "0.0.0.0:48899")?;
        let asking = Socket::bind(&lab.sandbox, client, "0.0.0.0:0")?;
        asking.send(&ADS_SEARCH, &target)?;
        let (question, from) = heard(&router);
        assert_eq!(question, ADS_SEARCH, "{client}: it names no address");
        let mut reply = ADS_SEARCH.to_vec();
        reply[11] = 0x80; // the bit that says "response"
        router.send(&reply, &from.to_string())?;
        assert_eq!(heard(&asking).0, reply, "{client} has its answer");
        assert!(asking.receive(QUIET).is_none() && router.receive(QUIET).is_none(), "{client}: once");
    }
    Ok(())
}

fn what_a_forwarded_message_names_is_translated_where_the_condition_holds(topology: Topology) -> Result<()> {
    let lab = lab(topology, "\"bacnet\"", "")?;
    let pod = lab.pod("bbmd")?;
    let device = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:47808")?;
    let sender = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:47808")?;
    let octets = pod.address.parse::<std::net::Ipv4Addr>().unwrap_or_else(|error| panic!("{error}")).octets();
    let message = |function: u8| {
        let mut bytes = vec![0x81, function, 0, 18];
        bytes.extend(octets);
        bytes.extend(47808u16.to_be_bytes());
        bytes.extend([1, 0x20, 0xff, 0xff, 0, 0xff, 0x10, 8]);
        bytes
    };
    sender.send(&message(0x0b), &pod_broadcast(topology, 47808))?;
    assert_eq!(heard(&device).0, message(0x0b), "an Original-Broadcast-NPDU names nobody");
    sender.send(&message(0x04), &pod_broadcast(topology, 47808))?;
    let (bytes, from) = heard(&device);
    let external = lab.external_port("bbmd", "udp", 47808)?.unwrap_or_default();
    let mut expected = message(0x04);
    expected[4..8].copy_from_slice(&from.ip().octets());
    expected[8..10].copy_from_slice(&external.to_be_bytes());
    assert_eq!((bytes, from.port()), (expected, external), "a Forwarded-NPDU names the way back");
    Ok(())
}

fn a_real_bacnet_client_reads_a_real_device_either_way(topology: Topology) -> Result<()> {
    let lab = lab(topology, "\"bacnet\"", "")?;
    let pod = lab.pod("building")?;
    // The stack takes its broadcast address from the prefix: that of a routed pod is 255.255.255.255.
    let prefix = if topology == Topology::Bridge { 24 } else { 0 };
    let in_pod = (pod.netns.as_str(), format!("{}/{prefix}", pod.address));
    let outside = (NATIVE, "172.23.0.3/24".to_owned());
    for (device, client) in [(&in_pod, &outside), (&outside, &in_pod)] {
        let mut serving = lab.python(device.0, "bacnet.py", &format!("device {} 7", device.1))?;
        serving.wait_for("device", lab::epics::PATIENCE, |said| said.contains("serving"))?;
        let client = lab.python(client.0, "bacnet.py", &format!("client {} 7", client.1))?;
        let said = client.finish()?.success()?;
        assert_eq!(said.matches("found 7 the-device-7 at").count(), 1, "a device in {}: {said}", device.0);
    }
    Ok(())
}

fn a_protocol_of_ones_own_is_a_few_lines(topology: Topology) -> Result<()> {
    let own = "[protocol.motion]\nports = [9100]\ndirection = \"announce\"\nfields = [{ offset = 2, kind = \"port32\", \
               order = \"little\" }, { offset = 8, kind = \"ipv4\" }]\n";
    let lab = lab(topology, "\"motion\"", own)?;
    let pod = lab.pod("controller")?;
    let panel = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:9100")?;
    let (port, _server) = greeter(&lab, &pod.netns)?;
    let address: std::net::Ipv4Addr = pod.address.parse().unwrap_or_else(|error| panic!("{error}"));
    let message = |port: u16, address: std::net::Ipv4Addr| {
        let mut bytes = vec![b'M', 1];
        bytes.extend(u32::from(port).to_le_bytes());
        bytes.extend([0xee, 0xee]);
        bytes.extend(address.octets());
        bytes
    };
    let announcer = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:0")?;
    announcer.send(&message(port, address), &pod_broadcast(topology, 9100))?;
    let (bytes, from) = heard(&panel);
    let external = u16::from_le_bytes([bytes[2], bytes[3]]);
    assert_eq!(bytes, message(external, *from.ip()));
    assert_eq!(greeting(&lab, WORKSTATION, SocketAddrV4::new(*from.ip(), external))?, "hello");
    Ok(())
}

fn what_is_not_of_the_protocol_does_not_cross(topology: Topology) -> Result<()> {
    let lab = lab(topology, "\"recsync\"", "search_ports = { 9999 = \"relay\" }\n")?;
    let pod = lab.pod("ioc-a")?;
    let [caster, plain] = [5049, 9999].map(|port| {
        Socket::bind(&lab.sandbox, &pod.netns, &format!("0.0.0.0:{port}")).map(|socket| (port, socket))
    });
    let (caster, plain) = (caster?.1, plain?.1);
    let stranger = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    let cut = &announcement(4000)[..9];
    for wrong in [&b"hello"[..], b"", cut] {
        stranger.send(wrong, "172.23.0.255:5049")?;
    }
    let beside = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    beside.send(b"anything", "172.23.0.255:9999")?;
    assert_eq!(heard(&plain).0, b"anything", "a plain relay takes everything");
    assert!(caster.receive(QUIET).is_none(), "these are no announcements");
    assert_eq!(lab.counter("recsync", "malformed")?, 3);
    let outside = Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:5049")?;
    let sender = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:0")?;
    let mut foreign = announcement(4000);
    foreign[4..8].copy_from_slice(&[172, 23, 0, 99]);
    sender.send(&foreign, &pod_broadcast(topology, 5049))?;
    assert!(outside.receive(QUIET).is_none(), "it speaks for another host");
    assert_eq!(lab.counter("recsync", "foreign")?, 1);
    Ok(())
}
