//! Multicast groups: who hears what is sent to one, what a switch is told, and real programs of the protocols that use them.

use std::time::{Duration, Instant};

use lab::{
    DOMAIN, Lab, NATIVE, NODE, NODE2, Options, Pod, Result, SWITCH, Topology, WORKSTATION, settle,
    udp::Socket,
};

mod table;

lab::in_both_topologies! {
    a_group_is_heard_on_the_lan_and_in_pods_that_joined_it_and_by_no_other
    what_is_sent_to_a_group_on_one_of_two_nodes_is_heard_once_everywhere
}

const GROUP: &str = "224.0.0.251";
const MDNS: &str = "224.0.0.251:5353";
const PATIENCE: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_millis(300);
/// How soon a switch has to know.
const SOON: Duration = Duration::from_secs(2);

fn configuration(more: &str) -> String {
    format!("[domain.{DOMAIN}]\nuplink = \"eth0\"\n{more}")
}

fn lab(options: Options) -> Result<Lab> {
    let mut lab = Lab::without_agent(options)?;
    lab.start_agent_with(&configuration("protocols = [\"mdns\"]\n"))?;
    Ok(lab)
}

/// A socket of mDNS in `netns`, which joined its group at `address`.
fn member(lab: &Lab, netns: &str, address: &str) -> Result<Socket> {
    let socket = Socket::bind(&lab.sandbox, netns, "0.0.0.0:5353")?;
    socket.join(GROUP, address)?;
    Ok(socket)
}

fn of(lab: &Lab, pod: &Pod) -> Result<Socket> {
    member(lab, &pod.netns, &pod.address)
}

/// Who sent what a socket hears.
fn heard(socket: &Socket) -> Vec<String> {
    socket.drain(QUIET).iter().map(|(_, from)| from.to_string()).collect()
}

fn a_group_is_heard_on_the_lan_and_in_pods_that_joined_it_and_by_no_other(topology: Topology) -> Result<()> {
    let lab = lab(Options::new(topology))?;
    let pods = [lab.pod("first")?, lab.pod("second")?, lab.pod("third")?];
    let [first, second] = [of(&lab, &pods[0])?, of(&lab, &pods[1])?];
    let third = Socket::bind(&lab.sandbox, &pods[2].netns, "0.0.0.0:5353")?;
    let [host, node] = [member(&lab, WORKSTATION, "172.23.0.2")?, member(&lab, NODE, "172.23.0.10")?];
    let deaf = Socket::bind(&lab.sandbox, NATIVE, "0.0.0.0:5353")?;
    let (at_first, at_node) = (format!("{}:5353", pods[0].address), "172.23.0.10:5353".to_owned());
    for snooping in bridges(topology) {
        lab.sandbox.sh(NODE, snooping)?;
        host.send(b"who?", MDNS)?;
        let from = vec!["172.23.0.2:5353".to_owned()];
        assert_eq!([heard(&first), heard(&second), heard(&node)], [from.clone(), from.clone(), from], "LAN");
        host.drain(QUIET); // its own voice
        first.send(b"who?", MDNS)?;
        assert_eq!([heard(&host), heard(&second)], [vec![at_node.clone()], vec![at_first.clone()]], "pod");
        assert_eq!(heard(&first), [at_first.as_str()], "its own voice, once, as on a host");
        node.send(b"who?", MDNS)?;
        assert_eq!([heard(&first), heard(&second)], [vec![at_node.clone()], vec![at_node.clone()]], "node");
        assert_eq!([heard(&third), heard(&deaf)], [vec![""; 0], vec![""; 0]], "who did not join");
        host.send(b"I am", &at_node)?;
        assert_eq!(heard(&first).len(), 1, "an answer to the port that the question came from");
        host.drain(QUIET);
        second.drain(QUIET);
        node.drain(QUIET);
        third.drain(QUIET); // what is sent to the node is for all of its pods
    }
    first.leave(GROUP, &pods[0].address)?;
    host.send(b"who?", MDNS)?;
    assert_eq!([heard(&first).len(), heard(&second).len()], [0, 1], "who left");
    Ok(())
}

/// What makes the node's bridge follow memberships, or not.
fn bridges(topology: Topology) -> &'static [&'static str] {
    match topology {
        Topology::Bridge => &[
            "ip link set cni0 type bridge mcast_snooping 1 mcast_querier 1",
            "ip link set cni0 type bridge mcast_snooping 0",
        ],
        Topology::Routed => &["true"],
    }
}

fn what_is_sent_to_a_group_on_one_of_two_nodes_is_heard_once_everywhere(topology: Topology) -> Result<()> {
    let lab = lab(Options { nodes: 2, ..Options::new(topology) })?;
    let (asking, here, there) = (lab.pod_on(0, "asking")?, lab.pod_on(0, "here")?, lab.pod_on(1, "there")?);
    let first = of(&lab, &asking)?;
    let others = [
        of(&lab, &here)?,
        of(&lab, &there)?,
        member(&lab, WORKSTATION, "172.23.0.2")?,
        member(&lab, NODE2, "172.23.0.11")?,
    ];
    first.send(b"who?", MDNS)?;
    let (pod, node) = (vec![format!("{}:5353", asking.address)], vec!["172.23.0.10:5353".to_owned()]);
    assert_eq!(others.each_ref().map(heard), [pod, node.clone(), node.clone(), node]);
    let sent = |node| -> Result<u64> {
        let status = lab.status_on(node)?;
        let counters = status["counters"].as_array().cloned().unwrap_or_default();
        let is_it = |of: &&serde_json::Value| of["protocol"] == "mdns" && of["verdict"] == "sent";
        Ok(counters.iter().find(is_it).and_then(|of| of["packets"].as_u64()).unwrap_or(0))
    };
    assert_eq!([sent(0)?, sent(1)?], [1, 0], "nothing goes back to the LAN");
    Ok(())
}

/// 256 datagrams as close together as they can be, as when a facility powers up.
#[test]
fn a_burst_to_a_group_reaches_all_members() -> Result<()> {
    const PODS: usize = 110;
    const BURST: usize = 256;
    let lab = lab(Options::new(Topology::Routed))?;
    let (mut listeners, mut others) = (vec![], vec![]);
    for number in 0..PODS {
        let pod = lab.pod(&format!("pod-{number}"))?;
        listeners.push(of(&lab, &pod)?);
    }
    for number in 0..5 {
        let pod = lab.pod(&format!("other-{number}"))?;
        others.push(Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:5353")?);
    }
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    client.join(GROUP, "172.23.0.2")?;
    client.send_burst(b"who is it?", MDNS, BURST)?;
    for (number, listener) in listeners.iter().enumerate() {
        let patience = if number == 0 { Duration::from_secs(2) } else { Duration::from_millis(20) };
        assert_eq!(listener.drain(patience).len(), BURST, "listener {number}");
    }
    assert!(others.iter().all(|other| other.receive(Duration::from_millis(1)).is_none()), "who did not join");
    assert_eq!(lab.counter("mdns", "overrun")?, 0);
    Ok(())
}

/// A LAN whose switch asks who is in which group, and forwards to them alone.
fn make_switch_ask(lab: &Lab) -> Result<()> {
    let line = "ip link set lan0 type bridge mcast_snooping 1 mcast_querier 1 mcast_query_interval 100 \
                mcast_query_response_interval 50";
    lab.sandbox.sh(SWITCH, line).map(drop)
}

/// Whether the switch knows that the node is in a group.
fn is_known(lab: &Lab, group: &str) -> Result<bool> {
    let members = lab.sandbox.sh(SWITCH, "bridge mdb show dev lan0")?;
    Ok(members.lines().any(|line| line.contains(&format!("port {NODE} grp {group}"))))
}

/// How long it takes until the switch knows that the node is in a group, or is not.
fn until_known(lab: &Lab, group: &str, known: bool) -> Result<Duration> {
    let start = Instant::now();
    while is_known(lab, group)? != known {
        assert!(start.elapsed() < PATIENCE * 2, "{group}: the switch does not know");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(start.elapsed())
}

#[test]
fn a_switch_that_snoops_forwards_groups_to_the_node_as_long_as_they_are_relayed() -> Result<()> {
    const OTHER: &str = "239.255.255.250";
    let mut lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    make_switch_ask(&lab)?;
    lab.start_agent_with(&configuration(
        "search_ports = { 9999 = \"relay\" }\ngroups = { 9999 = \"239.255.255.250\" }\n",
    ))?;
    let joined = until_known(&lab, OTHER, true)?;
    assert!(joined < SOON, "{joined:?}");
    let pod = lab.pod("ioc")?;
    let listener = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:9999")?;
    listener.join(OTHER, &pod.address)?;
    let host = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    host.join(OTHER, "172.23.0.2")?;
    let hears = || -> Result<usize> {
        host.send(b"who?", &format!("{OTHER}:9999"))?;
        Ok(heard(&listener).len())
    };
    assert_eq!(hears()?, 1);
    lab.stop_agent();
    std::thread::sleep(SOON + SOON); // several questions of the switch
    assert_eq!(hears()?, 1, "without an agent");
    lab.sandbox.sh(NODE, "ip link set eth0 down")?;
    lab.sandbox.sh(NODE, "ip link set eth0 up")?;
    until_known(&lab, OTHER, true)?;
    let leaked = reports_of_others(&lab, || {
        let pod = lab.pod("another")?;
        let socket = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:9999")?;
        socket.join(OTHER, &pod.address)?;
        settle();
        std::thread::sleep(QUIET);
        Ok(())
    })?;
    assert_eq!(leaked, 0, "reports of pods on the LAN");
    lab.start_agent_with(&configuration(""))?;
    let left = until_known(&lab, OTHER, false)?;
    println!("joined after {joined:?}, left after {left:?}");
    let addresses = lab.sandbox.sh(NODE, "ip -4 address show dev eth0")?;
    assert!(!addresses.contains("autojoin"), "{addresses}");
    lab.terminate_agent()?;
    lab.start_agent_with(&configuration("protocols = [\"ssdp\"]\n"))?;
    until_known(&lab, OTHER, true)?;
    lab.terminate_agent()?;
    lab.agent_command("uninstall")?.finish()?.success()?;
    let addresses = lab.sandbox.sh(NODE, "ip -4 address show dev eth0")?;
    assert!(!addresses.contains("autojoin") && addresses.contains("172.23.0.10/24"), "{addresses}");
    Ok(())
}

/// How many IGMP messages of others than the node pass the LAN's port of the node while `work` is done.
fn reports_of_others(lab: &Lab, work: impl FnOnce() -> Result<()>) -> Result<usize> {
    use socket2::{Domain, Protocol, Socket, Type};
    const IGMP: i32 = 2;
    let socket = lab.sandbox.run_in(WORKSTATION, || {
        // To all routers and hosts: the switch forwards reports where routers are, which this one says it is.
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IGMP)))?;
        socket.set_read_timeout(Some(QUIET))?;
        Ok::<_, std::io::Error>(socket)
    })?;
    let socket = lab::tried("hear IGMP", socket)?;
    lab.sandbox.sh(SWITCH, &format!("bridge link set dev {WORKSTATION} mcast_router 2"))?;
    work()?;
    let (mut buffer, mut others, end) = ([0; 2048], 0, Instant::now() + QUIET);
    while Instant::now() < end {
        let Ok(length) = std::io::Read::read(&mut &socket, &mut buffer) else { break };
        let source = buffer[12..16].to_vec();
        others += usize::from(length > 20 && source != [172, 23, 0, 10] && source[0] == 10);
    }
    Ok(others)
}

#[test]
fn malformed_and_foreign_groups_are_refused_with_a_message() -> Result<()> {
    let lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    for (line, message) in [
        (
            "groups = { 5064 = \"ff02::fb\" }",
            "`groups.5064` is `ff02::fb`: expected the IPv4 address of a multicast group",
        ),
        ("groups = { 5064 = \"224.0.0.5\" }", "`groups.5064` is `224.0.0.5`: this group is OSPF's"),
        (
            "groups = { 9999 = \"239.1.1.1\" }",
            "`groups` has 9999, which is not a UDP port of the domain's protocols",
        ),
        (
            "groups = { 5064 = 7 }",
            "line 3: invalid type: integer `7`, expected a multicast group as text, or a list of them",
        ),
        ("groups = { x = \"239.1.1.1\" }", "`groups` has `x`: expected a UDP port"),
    ] {
        lab.configure(&configuration(line))?;
        let agent = lab.agent_command("run --once --no-cni --config /run/iocast/config.toml")?;
        let output = agent.finish()?.output;
        assert!(output.contains(message), "{line}: {output}");
    }
    Ok(())
}
