//! A domain in several subnets, with a router between them that takes no broadcasts: searches and beacons cross, once each, and nothing
//! comes back.

use std::{
    net::SocketAddrV4,
    thread::sleep,
    time::{Duration, Instant},
};

use lab::{
    Lab, NATIVE, NODE, Options, ROUTER, Result, SWITCH, Topology, WORKSTATION, ca,
    epics::{Client, Server},
    on_lan, switch, turn,
    udp::Socket,
};
use serde_json::Value;

lab::in_both_topologies! {
    everybody_finds_everybody_in_another_subnet
}

const KEY: &str = "0123456789abcdef0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(20);
/// What is sent has come, or will not come.
const SOON: Duration = Duration::from_millis(700);

/// A lab with a node on each of these LANs.
fn up(topology: Topology, lans: &[usize]) -> Result<Lab> {
    up_with(topology, lans, "")
}

/// The same with these keys more in the configuration.
fn up_with(topology: Topology, lans: &[usize], more: &str) -> Result<Lab> {
    let mut lab = Lab::without_agent(Options::on_lans(topology, lans))?;
    lab.sandbox.write("/run/iocast/key", KEY)?;
    lab.start_agent_with(&configuration(lans, more))?;
    for node in 0..lans.len() {
        wait_for(&lab, node, "all to be heard", |subnets| peers(subnets, "heard") == lans.len() - 1)?;
    }
    Ok(lab)
}

/// What all nodes have, with these keys more.
fn configuration(lans: &[usize], more: &str) -> String {
    let peers: Vec<_> =
        lans.iter().enumerate().map(|(node, lan)| format!("\"172.23.{lan}.{}\"", 10 + node)).collect();
    format!(
        "[domain.lab]\nuplink = \"eth0\"\nlan = [\"172.23.0.0/16\"]\n{more}\n\
         subnets = {{ peers = [{}], key = \"/run/iocast/key\" }}\n",
        peers.join(", ")
    )
}

/// What a node says of other subnets.
fn subnets(lab: &Lab, node: usize) -> Result<Value> {
    Ok(lab.status_on(node)?["subnets"].clone())
}

/// How many peers are in this state.
fn peers(subnets: &Value, state: &str) -> usize {
    subnets["peers"].as_array().map_or(0, |peers| peers.iter().filter(|peer| peer["state"] == state).count())
}

fn wait_for(lab: &Lab, node: usize, what: &str, test: impl Fn(&Value) -> bool) -> Result<Value> {
    let start = Instant::now();
    loop {
        let said = subnets(lab, node)?;
        if test(&said) {
            return Ok(said);
        }
        if start.elapsed() > PATIENCE {
            return Err(lab::Error::Timeout(format!("node {node} waits for {what}: {said:#}")));
        }
        sleep(Duration::from_millis(100));
    }
}

/// Whether a client has printed this value, in quotes or as a word: `pvget` may print two PVs at a time, in one line.
fn is_shown(output: &str, value: &str) -> bool {
    output.split_whitespace().any(|word| word.trim_matches('\'') == value)
}

/// What a client prints of each PV: of several at once pvAccessCPP's threads print into each other's lines.
fn each(pvs: &[String], get: impl Fn(&str) -> Result<String>) -> Result<String> {
    pvs.iter().map(|pv| get(pv)).collect()
}

fn everybody_finds_everybody_in_another_subnet(topology: Topology) -> Result<()> {
    let lab = up(topology, &[0, 1])?;
    let (pod, far_pod) = (lab.pod_on(0, "ioc")?, lab.pod_on(1, "far-ioc")?);
    let (client, far_client) = (lab.pod_on(0, "client")?, lab.pod_on(1, "far-client")?);
    let (native, far_native) = (on_lan(NATIVE, 0), on_lan(NATIVE, 1));
    let mut iocs = vec![];
    for (server, netns, name) in [
        (Server::PvAccessCpp, &pod.netns, "P0"),
        (Server::Pvxs, &far_pod.netns, "P1"),
        (Server::Pvxs, &native, "N0"),
        (Server::PvAccessCpp, &far_native, "N1"),
        (Server::PvAccessCpp, &"node2".to_owned(), "H1"),
    ] {
        iocs.push(lab.ioc_of(server, netns, name)?);
    }
    let (workstation, far_workstation) = (on_lan(WORKSTATION, 0), on_lan(WORKSTATION, 1));
    for (from, names) in [
        (&workstation, &["P1", "N1", "H1"][..]),
        (&client.netns, &["P1", "N1", "H1"]),
        (&"node".to_owned(), &["P1", "N1", "H1"]),
        (&far_workstation, &["P0", "N0"]),
        (&far_client.netns, &["P0", "N0"]),
        (&"node2".to_owned(), &["P0", "N0"]),
    ] {
        let pvs: Vec<_> = names.iter().map(|name| format!("{name}:NAME")).collect();
        let read = lab.epics_output(from, &format!("caget -t -w 10 {}", pvs.join(" ")), &[])?;
        assert_eq!(read.lines().collect::<Vec<_>>(), names, "{from}: exactly one answer each");
        for way in [Client::PvAccessCpp, Client::Pvxs] {
            let value = each(&pvs, |pv| lab.pvget(way, from, pv, &[]))?;
            let all = names.iter().all(|name| is_shown(&value, name));
            assert!(
                all && !value.contains("ore than one") && !value.contains("uplicate"),
                "{from} {way:?}: {value}"
            );
        }
    }
    Ok(())
}

/// Four bytes that only one datagram of a test has.
type Token = [u8; 4];

/// A search with a token in its name, which begins as a configuration may want it.
fn search_with(token: Token) -> Vec<u8> {
    ca::search(&[&format!("BL07I-{}", String::from_utf8_lossy(&token))])
}

/// A beacon with a token.
fn beacon_with(token: Token) -> Vec<u8> {
    ca::message(13, 13, 5064, u32::from_be_bytes(token), 0, &[])
}

/// Sockets that hear what crosses, and one in the first LAN, which says after all else what they have to hear: what was said before has
/// come by then. Since any datagram may be lost on a busy machine, what has to be heard is said until it is.
struct Listeners {
    sockets: Vec<Socket>,
    /// What each of them has heard, and from where.
    heard: Vec<Vec<(Vec<u8>, String)>>,
    marker: Socket,
    port: u16,
    tokens: u16,
}

impl Listeners {
    fn new(lab: &Lab, places: &[String], port: u16) -> Result<Self> {
        let bind = |netns: &String| Socket::bind(&lab.sandbox, netns, &format!("0.0.0.0:{port}"));
        let sockets: Vec<_> = places.iter().map(bind).collect::<Result<_>>()?;
        let heard = vec![vec![]; sockets.len()];
        let marker = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
        Ok(Self { sockets, heard, marker, port, tokens: 0 })
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        let digit = |power: u16| b'0' + (self.tokens / power % 10) as u8;
        [1000, 100, 10, 1].map(digit)
    }

    /// From where the socket of this number has heard a token, each time.
    fn sources(&self, socket: usize, token: Token) -> Vec<&str> {
        let heard = self.heard[socket].iter();
        let those = heard.filter(|(bytes, _)| bytes.windows(token.len()).any(|part| part == token));
        those.map(|(_, from)| from.as_str()).collect()
    }

    /// Waits until all have heard what was said before, if it came.
    fn mark(&mut self) -> Result<()> {
        let (mark, start) = (self.token(), Instant::now());
        let said = if self.port == 5065 { beacon_with(mark) } else { search_with(mark) };
        while (0..self.sockets.len()).any(|socket| self.sources(socket, mark).is_empty()) {
            if start.elapsed() > PATIENCE {
                return Err(lab::Error::Timeout("no mark is heard".into()));
            }
            self.marker.send(&said, &format!("172.23.0.255:{}", self.port))?;
            for socket in 0..self.sockets.len() {
                while self.sources(socket, mark).is_empty()
                    && let Some((bytes, from)) = self.sockets[socket].receive(SOON)
                {
                    self.heard[socket].push((bytes, from.ip().to_string()));
                }
            }
        }
        Ok(())
    }

    /// From where each has heard what is said once.
    fn hear(&mut self, by: &Socket, to: &str, say: impl Fn(Token) -> Vec<u8>) -> Result<Vec<Vec<&str>>> {
        let token = self.token();
        by.send(&say(token), to)?;
        self.mark()?;
        Ok((0..self.sockets.len()).map(|socket| self.sources(socket, token)).collect())
    }

    /// All hear what is said, from `from`, and at most `most` times each; in the end, once.
    fn all_hear(
        &mut self,
        (by, to): (&Socket, &str),
        (from, most): (&str, usize),
        say: impl Fn(Token) -> Vec<u8>,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            let heard = self.hear(by, to, &say)?;
            let is_right =
                |heard: &Vec<&str>| heard.len() <= most && heard.iter().all(|source| *source == from);
            assert!(heard.iter().all(is_right) && start.elapsed() < PATIENCE, "{from} to {to}: {heard:?}");
            if heard.iter().all(|heard| heard.len() == 1) {
                return Ok(());
            }
        }
    }

    /// Nobody hears what is said.
    fn nobody_hears(&mut self, by: &Socket, to: &str, say: impl Fn(Token) -> Vec<u8>) -> Result<()> {
        let heard = self.hear(by, to, say)?;
        assert!(heard.iter().all(Vec::is_empty), "to {to}: {heard:?}");
        Ok(())
    }
}

/// A workstation, and a pod, in the first of eight subnets find servers in pods, and on hosts, of all others.
#[test]
fn all_of_eight_subnets_are_one_namespace_of_pvs() -> Result<()> {
    let lans: Vec<usize> = (0..8).collect();
    let lab = up(Topology::Routed, &lans)?;
    let client = lab.pod_on(0, "client")?;
    let (mut iocs, mut names) = (vec![], vec![]);
    for lan in 1..8 {
        let pod = lab.pod_on(lan, &format!("ioc{lan}"))?;
        let server = if lan % 2 == 0 { Server::PvAccessCpp } else { Server::Pvxs };
        iocs.push(lab.ioc_of(server, &pod.netns, &format!("P{lan}"))?);
        iocs.push(lab.ioc_of(server, &on_lan(NATIVE, lan), &format!("N{lan}"))?);
        names.extend([format!("P{lan}"), format!("N{lan}")]);
    }
    let pvs: Vec<_> = names.iter().map(|name| format!("{name}:NAME")).collect();
    for from in [WORKSTATION, &client.netns] {
        let read = lab.epics_output(from, &format!("caget -t -w 20 {}", pvs.join(" ")), &[])?;
        assert_eq!(read.lines().collect::<Vec<_>>(), names, "{from}: exactly one answer each");
        for way in [Client::PvAccessCpp, Client::Pvxs] {
            let value = each(&pvs, |pv| lab.pvget(way, from, pv, &[]))?;
            assert!(names.iter().all(|name| is_shown(&value, name)), "{from} {way:?}: {value}");
        }
    }
    Ok(())
}

#[test]
fn whatever_searches_is_heard_once_in_each_of_four_subnets() -> Result<()> {
    let lab = up(Topology::Routed, &[0, 1, 2, 3])?;
    let pods: Vec<_> = (0..4).map(|node| lab.pod_on(node, &format!("pod{node}"))).collect::<Result<_>>()?;
    let stations = (1..pods.len()).map(|lan| on_lan(WORKSTATION, lan));
    let places: Vec<_> = stations.chain(pods[1..].iter().map(|pod| pod.netns.clone())).collect();
    let mut searches = Listeners::new(&lab, &places, 5064)?;
    for (netns, to, from) in [
        (WORKSTATION, "172.23.0.255:5064", "172.23.0.2"),
        (WORKSTATION, "255.255.255.255:5064", "172.23.0.2"),
        (WORKSTATION, "172.23.0.10:5064", "172.23.0.2"),
        (NATIVE, "172.23.0.255:5064", "172.23.0.3"),
        (NODE, "172.23.0.255:5064", "172.23.0.10"),
        (&pods[0].netns, "255.255.255.255:5064", "172.23.0.10"),
    ] {
        let socket = Socket::bind(&lab.sandbox, netns, "0.0.0.0:0")?;
        searches.all_hear((&socket, to), (from, 1), search_with)?;
    }
    let mut beacons = Listeners::new(&lab, &places, 5065)?;
    let server = Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:0")?;
    beacons.all_hear((&server, "172.23.0.255:5065"), ("172.23.0.3", 1), beacon_with)?;
    let nonsense = |token: Token| [&token[..], &[0; 36]].concat();
    searches.nobody_hears(&server, "172.23.0.255:5064", nonsense)?;
    searches.nobody_hears(&server, "172.23.0.3:5064", search_with) // one host
}

#[test]
fn only_searches_with_a_configured_prefix_cross() -> Result<()> {
    let lans = [0, 1];
    let lab = up(Topology::Routed, &lans)?;
    lab.configure(&configuration(&lans, "search_prefixes = [\"BL07I-\"]"))?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    let mut listener = Listeners::new(&lab, &[on_lan(WORKSTATION, 1)], 5064)?;
    let all = "172.23.0.255:5064";
    let other = |token: Token| ca::search(&[&format!("NONE:{}", String::from_utf8_lossy(&token))]);
    // Either end may be the first to know, and to refuse.
    for refusals in [1, 2] {
        wait_for(&lab, 0, "a refusal", |subnets| {
            let _ = client.send(&other(*b"none"), all); // or it is not refused
            let of_other = self::subnets(&lab, 1).map_or(0, |subnets| refused(&subnets, "prefix"));
            refused(subnets, "prefix") + of_other >= refusals
        })?;
    }
    listener.mark()?;
    listener.nobody_hears(&client, all, other)?;
    let small = |token: Token| search_with(token).to_ascii_lowercase();
    listener.nobody_hears(&client, all, small)?;
    let both = |token: Token| {
        let name = String::from_utf8_lossy(&token).into_owned();
        ca::search(&[&format!("NONE:{name}"), &format!("BL07I-{name}")])
    };
    listener.all_hear((&client, all), ("172.23.0.2", 1), search_with)?;
    listener.all_hear((&client, all), ("172.23.0.2", 1), both)
}

/// Searches of the first workstation that a socket in another subnet hears, one after the other.
fn hears_within(lab: &Lab, listener: &Socket, patience: Duration) -> Result<Option<Duration>> {
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    listener.drain(Duration::from_millis(1));
    let start = Instant::now();
    while start.elapsed() < patience {
        client.send(&ca::search(&["X:NAME"]), "172.23.0.255:5064")?;
        if listener.receive(Duration::from_millis(50)).is_some() {
            return Ok(Some(start.elapsed()));
        }
    }
    Ok(None)
}

#[test]
fn another_node_takes_over_from_a_relaying_node_that_dies() -> Result<()> {
    let lans = [0, 0, 1];
    let mut lab = up(Topology::Routed, &lans)?;
    let (far, ioc) = (on_lan(WORKSTATION, 1), lab.pod_on(0, "ioc")?);
    let _ioc = lab.ioc(&ioc.netns, "A")?;
    let mut monitors = vec![lab.monitor("camonitor", &far, "A:COUNT")?];
    lab::monitors::wait_for_values(&mut monitors, PATIENCE)?;
    let said = wait_for(&lab, 1, "a leader", |subnets| subnets["leader"] == "172.23.0.10")?;
    assert_eq!(said["leads"], false);
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    let mut listeners = Listeners::new(&lab, std::slice::from_ref(&far), 5064)?;
    for to in ["172.23.0.255:5064", "172.23.0.10:5064", "172.23.0.11:5064"] {
        // Of two nodes in the subnet, one relays; for a moment both, if they do not hear each other.
        listeners.all_hear((&client, to), ("172.23.0.2", 2), search_with)?;
    }
    drop(listeners);
    let listener = Socket::bind(&lab.sandbox, &far, "0.0.0.0:5064")?;
    lab.stop_agent_on(0);
    let took = hears_within(&lab, &listener, PATIENCE)?.expect("searches cross again");
    lab::report("takeover of the relay between subnets", &format!("{:.1} s", took.as_secs_f32()));
    lab::monitors::wait_for_values(&mut monitors, PATIENCE)?;
    lab::monitors::assert_unbroken(&mut monitors);
    Ok(())
}

/// What a node has refused for this reason.
fn refused(subnets: &Value, reason: &str) -> u64 {
    subnets["refused"][reason].as_u64().unwrap_or(0)
}

#[test]
fn who_has_another_key_is_named_and_what_strangers_send_is_refused() -> Result<()> {
    let lans = [0, 1];
    let mut lab = up(Topology::Routed, &lans)?;
    let stranger = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    let before = refused(&subnets(&lab, 0)?, "foreign");
    stranger.send(&[7; 100], "172.23.0.10:5077")?;
    stranger.send(&[], "172.23.0.10:5077")?;
    wait_for(&lab, 0, "two foreign datagrams", |subnets| refused(subnets, "foreign") >= before + 2)?;
    replay(&lab)?;
    wait_for(&lab, 1, "replayed datagrams", |subnets| refused(subnets, "replayed") > 0)?;
    let listener = Socket::bind(&lab.sandbox, &on_lan(WORKSTATION, 1), "0.0.0.0:5064")?;
    assert!(hears_within(&lab, &listener, PATIENCE)?.is_some(), "all is as before");

    lab.stop_agent_on(1);
    lab.sandbox.write("/run/iocast/other-key", KEY.to_uppercase())?;
    let other = configuration(&lans, "").replace("/run/iocast/key", "/run/iocast/other-key");
    lab.sandbox.write("/run/iocast/other.toml", other)?;
    let _other = lab.agent_command_on(1, "run --no-cni --config /run/iocast/other.toml")?;
    let said = wait_for(&lab, 0, "another key", |subnets| peers(subnets, "wrong_key") == 1)?;
    assert!(refused(&said, "wrong_key") > 0);
    assert_eq!(hears_within(&lab, &listener, SOON)?, None);
    let doctor = lab.agent_command("doctor --config /run/iocast/config.toml")?.finish()?.output;
    assert!(doctor.contains("peer 172.23.1.11:5077 has another key"), "{doctor}");
    let status = lab.agent_command("status")?.finish()?.success()?;
    assert!(status.contains("this node relays") && status.contains("has another key"), "{status}");
    Ok(())
}

/// Somebody on the way sends what goes to the second node once more.
fn replay(lab: &Lab) -> Result<()> {
    let outcome = lab.sandbox.run_in(ROUTER, || {
        let Some(out) = datapath::link::by_name("eth1")? else { return Ok(0) };
        let tap = datapath::Tap::open(out.index, &datapath::Whose::Host([172, 23, 1, 11].into()))?;
        let outlet = datapath::Outlet::at(&out)?;
        let (mut frames, start) = (vec![], Instant::now());
        while frames.len() < 3 && start.elapsed() < PATIENCE {
            sleep(Duration::from_millis(100));
            let passed =
                std::iter::from_fn(|| tap.take()).filter(|frame| frame.outgoing && frame.bytes[23] == 17);
            frames.extend(passed.map(|frame| frame.bytes));
        }
        for frame in &mut frames {
            frame[40..42].fill(0); // what is left to the hardware is no checksum yet; none is right
            outlet.put(frame)?;
        }
        Ok::<_, datapath::Error>(frames.len())
    })?;
    let count = outcome.map_err(|error| lab::Error::Missing(error.to_string()))?;
    assert!(count > 0, "nothing to say again");
    Ok(())
}

/// How many searches a socket hears, in all, once nothing more comes.
fn count(socket: &Socket) -> usize {
    socket.drain(SOON).len()
}

#[test]
fn what_crosses_dies_out_whatever_was_mixed_up() -> Result<()> {
    let lans = [0, 1, 0, 1];
    let mut lab = up(Topology::Routed, &lans)?;
    let listeners = [WORKSTATION.to_owned(), on_lan(WORKSTATION, 1)]
        .map(|netns| Socket::bind(&lab.sandbox, &netns, "0.0.0.0:5064"));
    let [near, far] = listeners;
    let (near, far) = (near?, far?);
    let client = Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:0")?;
    let heard = || {
        client.send(&ca::search(&["X:NAME"]), "255.255.255.255:5064")?;
        Ok::<_, lab::Error>((count(&near), count(&far)))
    };
    let until = |expected: (usize, usize)| {
        let start = Instant::now();
        loop {
            let (near, far) = heard()?;
            if (near, far) == expected {
                return Ok::<_, lab::Error>(());
            }
            // In each subnet of a domain, two may relay for a moment.
            let is_right = near <= 1 && far <= 2 * expected.1;
            assert!(is_right && start.elapsed() < PATIENCE, "{near} {far}, not {expected:?}");
        }
    };
    until((1, 1))?;
    // Two domains that are one: nodes 2 and 3 relay the same pair of subnets under another name.
    [3, 2].into_iter().for_each(|node| lab.stop_agent_on(node));
    let other = configuration(&lans, "").replace("domain.lab", "domain.other");
    lab.sandbox.write("/run/iocast/other.toml", other)?;
    let line = "run --no-cni --config /run/iocast/other.toml";
    let _others = [lab.agent_command_on(2, line)?, lab.agent_command_on(3, line)?];
    until((1, 2))?;
    // Both subnets on one wire.
    let wire = format!("ip link add wire type veth peer name wire netns {}", switch(1));
    lab.sandbox.sh(SWITCH, &wire)?;
    for lan in [SWITCH.to_owned(), switch(1)] {
        lab.sandbox.sh(&lan, "ip link set wire master lan0 up")?;
    }
    let original = Socket::bind(&lab.sandbox, &on_lan(NATIVE, 1), "255.255.255.255:5064")?; // copies have another destination
    let start = Instant::now();
    loop {
        let (near, far) = heard()?;
        assert!(near <= 3 && far <= 3, "the search, and a copy of each domain: {near} {far}");
        if near > 0 && far > 0 && count(&original) > 0 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "the wire carries nothing: {near} {far}");
    }
    Ok(())
}

/// Beacons of an IOC within the first seconds.
const FIRST: usize = 6;

#[test]
fn beacons_cross_as_they_are_and_bring_a_client_back_at_once() -> Result<()> {
    let lab = up(Topology::Bridge, &[0, 1])?;
    let far = on_lan(WORKSTATION, 1);
    let listen = |netns: &str| Socket::bind(&lab.sandbox, netns, "0.0.0.0:5065");
    let (here, there) = (listen(WORKSTATION)?, listen(&far)?);
    let ioc = lab.ioc(NATIVE, "A")?;
    let beacons = |socket: &Socket| {
        let first = (0..FIRST).map(|_| socket.receive(PATIENCE)).collect::<Option<Vec<_>>>();
        first.ok_or_else(|| lab::Error::Timeout(format!("{FIRST} beacons")))
    };
    assert_eq!(beacons(&there)?, beacons(&here)?, "as many, from the same sockets");
    drop((here, there)); // so that the client's repeater has the port
    let mut monitors =
        vec![lab.monitor("camonitor", WORKSTATION, "A:COUNT")?, lab.monitor("camonitor", &far, "A:COUNT")?];
    lab::monitors::wait_for_values(&mut monitors, PATIENCE)?;
    ioc.kill();
    sleep(Duration::from_secs(6)); // by now it asks less and less often
    let _ioc = lab.ioc(NATIVE, "A")?;
    let took = lab::monitors::wait_for_values(&mut monitors, PATIENCE)?;
    lab::report("clients are back after", &format!("{:.1} s, in another subnet {:.1} s", took[0], took[1]));
    Ok(())
}

#[test]
fn a_storm_reaches_the_others_within_the_rates_and_starves_nobody() -> Result<()> {
    const SEARCHES: usize = 25_000;
    const RATE: u32 = 1000;
    turn::take(turn::Kind::Alone);
    let lans = [0, 1];
    let lab = up_with(Topology::Bridge, &lans, &format!("rates = {{ host = {RATE} }}"))?;
    let (pod, far_pod) = (lab.pod_on(0, "ioc")?, lab.pod_on(1, "far-ioc")?);
    let _iocs = [lab.ioc(&pod.netns, "A")?, lab.ioc(&far_pod.netns, "B")?];
    let (far, client) = (on_lan(NATIVE, 1), Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:0")?);
    let listener = Socket::bind(&lab.sandbox, &far, "0.0.0.0:5064")?;
    let start = Instant::now();
    let storm = std::thread::spawn(move || {
        let search = ca::search(&["X:NAME"]);
        for _ in 0..SEARCHES / 100 {
            client.send_burst(&search, "172.23.0.255:5064", 100)?;
            sleep(Duration::from_millis(3));
        }
        Ok::<_, lab::Error>(())
    });
    for (from, pv, value) in
        [(WORKSTATION.to_owned(), "A:NAME", "A\n"), (on_lan(WORKSTATION, 1), "B:NAME", "B\n")]
    {
        assert_eq!(lab.epics_output(&from, &format!("caget -t -w 10 {pv}"), &[])?, value);
    }
    storm.join().expect("it only sends")?;
    let crossed = count(&listener);
    let most = RATE as usize * (6 + start.elapsed().as_secs() as usize);
    assert!(crossed > RATE as usize && crossed <= most, "{crossed} of {SEARCHES}, at most {most}");
    lab::report("searches of a storm that cross", &format!("{crossed} of {SEARCHES} at {RATE}/s"));
    let is_counted =
        |subnets: &Value| refused(subnets, "limited") > 0 && subnets["sent"].as_u64() > Some(RATE.into());
    wait_for(&lab, 0, "a count", is_counted)?;
    Ok(())
}

#[test]
fn peers_are_found_by_their_names_and_followed() -> Result<()> {
    const HOSTS: &str = "/run/iocast/hosts";
    let lans = [0, 1];
    let mut lab = Lab::without_agent(Options::on_lans(Topology::Routed, &lans))?;
    let (one, both) = ("172.23.0.10 nodes.test\n", "172.23.0.10 nodes.test\n172.23.1.11 nodes.test\n");
    lab.sandbox.write("/run/iocast/key", KEY)?;
    lab.sandbox.write(HOSTS, both)?;
    lab.sandbox.run(|| {
        let (none, bind) = (None::<&str>, nix::mount::MsFlags::MS_BIND);
        nix::mount::mount(Some(HOSTS), "/etc/hosts", none, bind, none)
            .map_err(|error| lab::Error::Missing(error.to_string()))
    })?;
    let by_name = |more: &str| {
        let listed = "\"172.23.0.10\", \"172.23.1.11\"";
        configuration(&lans, "").replace(listed, &format!("\"nodes.test\"{more}"))
    };
    lab.start_agent_with(&by_name(""))?;
    let is_heard = |subnets: &Value| peers(subnets, "heard") == 1;
    wait_for(&lab, 0, "its peer", is_heard)?;
    wait_for(&lab, 1, "its peer", is_heard)?;
    lab.sandbox.write(HOSTS, one)?;
    wait_for(&lab, 0, "nobody", |subnets| subnets["peers"] == serde_json::json!([]))?;
    lab.sandbox.write(HOSTS, both)?;
    wait_for(&lab, 0, "its peer again", is_heard)?;
    // A name that leads nowhere is told, and hides nobody.
    lab.configure(&by_name(", \"nobody.invalid\""))?;
    let said = wait_for(&lab, 0, "a lost name", |subnets| subnets["lost"][0][0] == "nobody.invalid")?;
    assert!(is_heard(&said), "{said:#}");
    Ok(())
}

#[test]
fn described_protocols_cross_if_their_description_says_so() -> Result<()> {
    let lans = [0, 1];
    let lab = up(Topology::Routed, &lans)?;
    lab.configure(&configuration(&lans, "protocols = [\"recsync\", \"ads\"]"))?;
    let listen = |port: u16| Socket::bind(&lab.sandbox, &on_lan(WORKSTATION, 1), &format!("0.0.0.0:{port}"));
    let (recsync, ads) = (listen(5049)?, listen(48899)?);
    let server = Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:0")?;
    let announcement = [&b"RC\0\0"[..], &[255; 4], &[0xa1, 0x3d, 0, 0, 0, 0, 0, 7]].concat();
    let start = Instant::now();
    loop {
        server.send(&announcement, "172.23.0.255:5049")?;
        let heard = recsync.drain(SOON);
        if !heard.is_empty() {
            let from = SocketAddrV4::new([172, 23, 0, 3].into(), server.address().port());
            assert!(heard.iter().all(|one| *one == (announcement.clone(), from)), "{heard:?}");
            break;
        }
        assert!(start.elapsed() < PATIENCE, "the new configuration is never in effect");
    }
    server.send(&[3, 0x66, 0x14, 0x71, 0, 0, 0, 0], "172.23.0.255:48899")?;
    assert_eq!(ads.drain(SOON), []);
    Ok(())
}
