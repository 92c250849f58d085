//! Two nodes on one LAN: pods of each find those of the other, once, and nothing is relayed twice.

use std::time::Duration;

use lab::{Lab, NODE, NODE2, Options, Result, Topology, WORKSTATION, ca, epics::Server, udp::Socket};

const QUIET: Duration = Duration::from_millis(500);

lab::in_both_topologies! {
    a_search_of_a_pod_is_answered_once_by_each_pod_of_both_nodes
    a_search_of_a_pod_is_heard_once_everywhere_and_relayed_by_its_own_node_only
    a_beacon_of_a_pod_is_heard_once_in_pods_of_both_nodes
}

/// Where a pod's search goes.
fn pod_broadcast(topology: Topology) -> &'static str {
    if topology == Topology::Bridge { "10.244.1.255:5064" } else { "255.255.255.255:5064" }
}

fn a_search_of_a_pod_is_answered_once_by_each_pod_of_both_nodes(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options { nodes: 2, ..Options::new(topology) })?;
    let (here, there, client) = (lab.pod_on(0, "here")?, lab.pod_on(1, "there")?, lab.pod_on(0, "client")?);
    let _iocs = [lab.ioc(&here.netns, "X")?, lab.ioc(&there.netns, "X")?];
    let socket = Socket::bind(&lab.sandbox, &client.netns, "0.0.0.0:0")?;
    socket.send(&ca::search(&["X:NAME"]), pod_broadcast(topology))?;
    let answers = socket.drain(QUIET);
    let mut from: Vec<_> = answers.iter().map(|(_, from)| from.ip().to_string()).collect();
    from.sort();
    assert_eq!(from, [here.address.as_str(), "172.23.0.11"]);
    Ok(())
}

fn a_search_of_a_pod_is_heard_once_everywhere_and_relayed_by_its_own_node_only(
    topology: Topology,
) -> Result<()> {
    let lab = Lab::up(Options { nodes: 2, ..Options::new(topology) })?;
    // Sockets instead of IOCs, whose beacons would be counted, too.
    let listen = |netns: &str| Socket::bind(&lab.sandbox, netns, "0.0.0.0:5064");
    let (here, there, client) = (lab.pod_on(0, "here")?, lab.pod_on(1, "there")?, lab.pod_on(0, "client")?);
    let listeners =
        [listen(&here.netns)?, listen(&there.netns)?, listen(WORKSTATION)?, listen(NODE)?, listen(NODE2)?];
    let socket = Socket::bind(&lab.sandbox, &client.netns, "0.0.0.0:0")?;
    socket.send(&ca::search(&["X:NAME"]), pod_broadcast(topology))?;
    let heard = listeners.each_ref().map(|listener| {
        listener.drain(QUIET).iter().map(|(_, from)| from.ip().to_string()).collect::<Vec<_>>()
    });
    let node = vec!["172.23.0.10".to_owned()];
    let pod = vec![client.address.clone()];
    assert_eq!(heard, [pod.clone(), node.clone(), node.clone(), pod, node]);
    assert_eq!([sent(&lab, 0)?, sent(&lab, 1)?], [1, 0]);
    Ok(())
}

/// Broadcasts that a node has sent to the LAN for its pods over Channel Access.
fn sent(lab: &Lab, node: usize) -> Result<u64> {
    let status = lab.status_on(node)?;
    let counters = status["counters"].as_array().cloned().unwrap_or_default();
    let mut sent =
        counters.iter().filter(|counter| counter["protocol"] == "ca" && counter["verdict"] == "sent");
    Ok(sent.next().and_then(|counter| counter["packets"].as_u64()).unwrap_or(0))
}

fn a_beacon_of_a_pod_is_heard_once_in_pods_of_both_nodes(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options { nodes: 2, ..Options::new(topology) })?;
    let (server, here, there) = (lab.pod_on(0, "server")?, lab.pod_on(0, "here")?, lab.pod_on(1, "there")?);
    let listen = |netns: &str| Socket::bind(&lab.sandbox, netns, "0.0.0.0:5076");
    let sockets = [listen(&here.netns)?, listen(&there.netns)?];
    let _ioc = lab.ioc_of(Server::Pvxs, &server.netns, "X")?;
    let [here, there] = sockets.each_ref().map(|socket| socket.drain(Duration::from_secs(1)));
    assert_eq!((here.len(), there.len()), (1, 1), "{here:?} {there:?}");
    assert_eq!(here[0].0[8..20], there[0].0[8..20], "the same GUID");
    assert_eq!(u16::from_be_bytes([here[0].0[40], here[0].0[41]]), 5075, "the pod's own port on its node");
    let port = lab.external_port_on(0, "server", "tcp", 5075)?;
    assert_eq!(
        Some(u16::from_be_bytes([there[0].0[40], there[0].0[41]])),
        port,
        "the external one elsewhere"
    );
    Ok(())
}
