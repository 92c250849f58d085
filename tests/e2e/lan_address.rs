//! Pods with an address of their own on the LAN: how one gets it, who else may have it, and that nothing of it is left.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    io::{Seek, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use abi::{LanAddress, seconds, standing};
use datapath::{BPFFS, State, kernel_clock};
use lab::{
    Attachment, DOMAIN, Lab, Leftovers, NATIVE, NODE, NODE2, NOTHING, Options, Pod, Result, SWITCH, Topology,
    WORKSTATION, tried,
};
use serde_json::json;

use crate::cni::{environment, plugin, previous_result};

const ADDRESS: &str = "172.23.0.50";
/// What a pod with an address is on a node.
const ONE: Leftovers = Leftovers {
    attachments: 1,
    members: 1,
    roster_entries: 1,
    filters: 1,
    addresses: 1,
    routes: 1,
    ..NOTHING
};

lab::in_both_topologies! {
    a_pod_has_its_address_beside_its_own_and_prefers_it_on_the_lan
    everybody_reaches_a_pod_at_its_address_and_hears_it_from_there
    the_previous_result_comes_back_to_the_letter
    del_gc_and_a_second_add_leave_what_they_should
    check_finds_what_is_missing_of_an_address
    a_host_that_has_the_address_is_named_by_its_mac_while_the_runtime_waits
    a_pod_that_has_the_address_is_named
    two_pods_that_want_one_address_at_once_end_with_one_owner
    two_nodes_that_want_one_address_at_once_end_with_one_owner
    a_pod_starts_while_the_uplink_has_no_carrier
    a_pod_without_a_default_route_is_told_so
    what_an_admin_took_is_given_without_asking_the_lan
}

/// A network configuration for our plugin alone, for a pod with these annotations.
fn configuration(previous: &str, annotations: &[(&str, &str)]) -> String {
    let annotations: serde_json::Map<_, _> =
        annotations.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let runtime = json!({ "io.kubernetes.cri.pod-annotations": annotations });
    format!(
        r#"{{"cniVersion":"1.1.0","name":"lab","type":"iocast","prevResult":{previous},"runtimeConfig":{runtime}}}"#
    )
}

/// The same for a pod of the lab's domain that asks for `address`.
fn asking(address: &str) -> String {
    let annotations = [("iocast.io/domain", DOMAIN), ("iocast.io/address", address)];
    configuration(&previous_result("1.1.0"), &annotations)
}

/// Runs a verb for a pod that asks for `address`.
fn run(lab: &Lab, verb: &str, pod: &Pod, address: &str) -> Result<(bool, String)> {
    plugin(&lab.sandbox, &environment(verb, &pod.attachment), &asking(address))
}

fn addresses(lab: &Lab, pod: &Pod) -> Result<Vec<String>> {
    let shown = lab.sandbox.sh(&pod.netns, "ip -4 -o address show dev eth0")?;
    Ok(shown
        .lines()
        .map(|line| line.split_whitespace().skip(3).take(3).collect::<Vec<_>>().join(" "))
        .collect())
}

fn routes(lab: &Lab, netns: &str) -> Result<String> {
    lab.sandbox.sh(netns, "ip route show proto 105")
}

/// The hardware address of a host's interface on the LAN.
fn mac(lab: &Lab, netns: &str) -> Result<String> {
    let shown = lab.sandbox.sh(netns, "ip -o link show dev eth0")?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
    Ok(words.nth(1).unwrap().into())
}

/// Connects to `to` from `netns`, and returns whom the server in `pod` takes the client for.
pub(crate) fn client_of(lab: &Lab, pod: &Pod, netns: &str, to: &str) -> Result<String> {
    let listen = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0));
    let listener = tried("listen", lab.sandbox.run_in(&pod.netns, listen)?)?;
    let to: SocketAddr = format!("{to}:{}", listener.local_addr().unwrap().port()).parse().unwrap();
    let connect = move || TcpStream::connect_timeout(&to, Duration::from_secs(2));
    let _client = tried(format!("connect to {to} from {netns}"), lab.sandbox.run_in(netns, connect)?)?;
    Ok(tried("accept", listener.accept())?.1.ip().to_string())
}

/// Changes the pinned maps, as the agent does.
fn change(lab: &Lab, change: impl FnOnce(&mut State) + Send + 'static) -> Result<()> {
    lab.sandbox.run(move || change(&mut State::open(Path::new(BPFFS)).unwrap()));
    Ok(())
}

fn a_pod_has_its_address_beside_its_own_and_prefers_it_on_the_lan(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod_at(0, "ioc-a", Some(ADDRESS))?;
    let own = if topology == Topology::Bridge {
        format!("{}/24 brd 10.244.1.255", pod.address)
    } else {
        format!("{}/32 brd 255.255.255.255", pod.address)
    };
    assert_eq!(addresses(&lab, &pod)?, [own, format!("{ADDRESS}/32 brd 172.23.0.255")]);
    let inside = routes(&lab, &pod.netns)?;
    assert!(
        inside.contains("172.23.0.0/24 via 10.244.1.1 dev eth0") && inside.contains("src 172.23.0.50"),
        "{inside}"
    );
    let chosen = lab.sandbox.sh(&pod.netns, "ip route get 172.23.0.2")?;
    assert!(chosen.contains("src 172.23.0.50"), "{chosen}");
    let chosen = lab.sandbox.sh(&pod.netns, "ip route get 10.96.0.1")?;
    assert!(chosen.contains(&format!("src {}", pod.address)), "{chosen}");

    let device = if topology == Topology::Bridge { "cni0".into() } else { lab.host_veth(&pod) };
    let outside = routes(&lab, NODE)?;
    assert_eq!(outside.trim_end(), format!("{ADDRESS} dev {device} scope link src 172.23.0.10"));
    assert_eq!(lab.leftovers()?, ONE);
    let entry = lab.state(|state| state.lan_address([172, 23, 0, 50]).unwrap().unwrap())?;
    assert_eq!(entry.standing, standing::HELD);
    lab.delete_pod(&pod)?;
    assert_eq!(lab.leftovers()?, NOTHING);
    Ok(())
}

fn everybody_reaches_a_pod_at_its_address_and_hears_it_from_there(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (pod, plain, second) = (
        lab.pod_at(0, "ioc-a", Some(ADDRESS))?,
        lab.pod("ioc-b")?,
        lab.pod_at(0, "ioc-c", Some("172.23.0.51"))?,
    );
    for (netns, client) in [
        (WORKSTATION, "172.23.0.2"),
        (NATIVE, "172.23.0.3"),
        (NODE, "172.23.0.10"),
        (&plain.netns, "10.244.1.1"), // masqueraded, as when it connects to any host that is no pod
        (&second.netns, "172.23.0.51"),
    ] {
        assert_eq!(client_of(&lab, &pod, netns, ADDRESS)?, client, "{netns}");
    }
    let workstation = Pod { netns: WORKSTATION.into(), ..pod.clone() };
    assert_eq!(client_of(&lab, &workstation, &pod.netns, "172.23.0.2")?, ADDRESS);
    let node = Pod { netns: NODE.into(), ..pod.clone() };
    assert_eq!(client_of(&lab, &node, &pod.netns, "172.23.0.10")?, ADDRESS);

    let _ioc = lab.ioc(&pod.netns, "A")?;
    let listed = [("EPICS_CA_ADDR_LIST", ADDRESS), ("EPICS_CA_AUTO_ADDR_LIST", "NO")];
    for netns in [WORKSTATION, NODE, &second.netns] {
        assert_eq!(lab.epics_output(netns, "caget -t -w 5 A:NAME", &listed)?, "A\n", "{netns}");
    }
    Ok(())
}

fn the_previous_result_comes_back_to_the_letter(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.plain_pod("ioc-a")?;
    assert_eq!(run(&lab, "ADD", &pod, ADDRESS)?, (true, previous_result("1.1.0")));
    assert_eq!(run(&lab, "CHECK", &pod, ADDRESS)?, (true, String::new()));
    assert_eq!(run(&lab, "DEL", &pod, ADDRESS)?, (true, String::new()));
    assert_eq!(lab.leftovers()?, NOTHING);
    Ok(())
}

fn del_gc_and_a_second_add_leave_what_they_should(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod_at(0, "ioc-a", Some(ADDRESS))?;
    let before = addresses(&lab, &pod)?;
    let (added, said) = run(&lab, "ADD", &pod, ADDRESS)?;
    assert!(added, "{said}");
    assert_eq!((lab.leftovers()?, addresses(&lab, &pod)?), (ONE, before), "a second ADD");
    assert_eq!(client_of(&lab, &pod, WORKSTATION, ADDRESS)?, "172.23.0.2");
    assert_eq!(run(&lab, "DEL", &pod, ADDRESS)?, (true, String::new()));
    assert_eq!(lab.leftovers()?, NOTHING, "DEL");
    assert!(run(&lab, "ADD", &pod, "172.23.0.51")?.0, "another address");
    let gc = r#"{"cniVersion":"1.1.0","name":"lab","type":"iocast","cni.dev/valid-attachments":[]}"#;
    assert!(plugin(&lab.sandbox, &[("CNI_COMMAND", "GC")], gc)?.0);
    assert_eq!(lab.leftovers()?, NOTHING, "GC");
    lab.delete_pod(&pod)?;
    lab.pod_at(0, "ioc-b", Some(ADDRESS)).map(drop)
}

fn check_finds_what_is_missing_of_an_address(topology: Topology) -> Result<()> {
    let mut lab = Lab::up(Options::new(topology))?;
    lab.terminate_agent()?; // or it would mend some of it
    let pod = lab.pod_at(0, "ioc-a", Some(ADDRESS))?;
    let misses = |what: &str| {
        let (success, said) = run(&lab, "CHECK", &pod, ADDRESS)?;
        assert!(!success && said.contains(r#""code":101"#) && said.contains(what), "{what}: {said}");
        Ok(())
    };
    assert_eq!(run(&lab, "CHECK", &pod, ADDRESS)?, (true, String::new()));
    lab.sandbox.sh(NODE, &format!("ip route del {ADDRESS}"))?;
    misses("the node has no route to its LAN address 172.23.0.50")?;
    change(&lab, |state| {
        let entry = state.lan_address([172, 23, 0, 50]).unwrap().unwrap();
        state.set_lan_address([172, 23, 0, 50], LanAddress { standing: standing::LOST, ..entry }).unwrap();
    })?;
    misses("its LAN address 172.23.0.50 is in use by the host")?;
    change(&lab, |state| state.remove_lan_address([172, 23, 0, 50]).unwrap())?;
    misses("is not recorded as its own")?;
    lab.sandbox.sh(&pod.netns, &format!("ip address del {ADDRESS}/32 dev eth0"))?;
    misses("is not in the pod")
}

fn a_host_that_has_the_address_is_named_by_its_mac_while_the_runtime_waits(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    lab.sandbox.sh(NATIVE, &format!("ip address add {ADDRESS}/32 dev eth0"))?;
    let pod = lab.plain_pod("ioc-a")?;
    let before = addresses(&lab, &pod)?;
    let begin = Instant::now();
    let (added, said) = run(&lab, "ADD", &pod, ADDRESS)?;
    let took = begin.elapsed();
    assert!(!added && said.contains(r#""code":11"#), "{said}");
    let named = format!(
        "the LAN address {ADDRESS} is in use by the host with the MAC address {}",
        mac(&lab, NATIVE)?
    );
    assert!(said.contains(&named), "{said}");
    assert!(took < Duration::from_secs(5), "{took:?}"); // a busy machine takes its time
    assert_eq!(lab.leftovers()?, NOTHING);
    assert_eq!(addresses(&lab, &pod)?, before, "the pod is as it was");
    lab.sandbox.sh(NATIVE, &format!("ip address del {ADDRESS}/32 dev eth0"))?;
    assert!(run(&lab, "ADD", &pod, ADDRESS)?.0, "it is free now");
    Ok(())
}

fn a_pod_that_has_the_address_is_named(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let first = lab.pod_at(0, "ioc-a", Some(ADDRESS))?;
    let error = lab.pod_at(0, "ioc-b", Some(ADDRESS)).unwrap_err().to_string();
    assert!(error.contains("code 11") && error.contains("pod beamline/ioc-a has it"), "{error}");
    assert_eq!(lab.leftovers()?, ONE);
    assert_eq!(client_of(&lab, &first, WORKSTATION, ADDRESS)?, "172.23.0.2");
    lab.delete_pod(&first)?;
    lab.pod_at(0, "ioc-b", Some(ADDRESS)).map(drop)
}

fn two_pods_that_want_one_address_at_once_end_with_one_owner(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pods = [lab.plain_pod("ioc-a")?, lab.plain_pod("ioc-b")?];
    for _ in 0..5 {
        let outcomes = race(&lab, [(NODE, &pods[0]), (NODE, &pods[1])])?;
        let (winner, loser) = if outcomes[0].0 { (0, 1) } else { (1, 0) };
        assert!(outcomes[winner].0 && !outcomes[loser].0, "{outcomes:?}");
        let named = format!("pod beamline/{} has it", pods[winner].name);
        assert!(outcomes[loser].1.contains(&named), "{outcomes:?}");
        assert_eq!(lab.leftovers()?, ONE);
        assert_eq!(client_of(&lab, &pods[winner], WORKSTATION, ADDRESS)?, "172.23.0.2");
        for pod in &pods {
            assert!(run(&lab, "DEL", pod, ADDRESS)?.0);
        }
        leave(&lab, &pods[winner])?;
    }
    Ok(())
}

fn two_nodes_that_want_one_address_at_once_end_with_one_owner(topology: Topology) -> Result<()> {
    let mut lab = Lab::up(Options { nodes: 2, ..Options::new(topology) })?;
    let pods = [lab.plain_pod_on(0, "ioc-a")?, lab.plain_pod_on(1, "ioc-b")?];
    for _ in 0..5 {
        let outcomes = race(&lab, [(NODE, &pods[0]), (NODE2, &pods[1])])?;
        let (winner, loser) = if outcomes[0].0 { (0, 1) } else { (1, 0) };
        assert!(outcomes[winner].0 && !outcomes[loser].0, "{outcomes:?}");
        let named = format!("in use by the host with the MAC address {}", mac(&lab, NODES[winner])?);
        assert!(outcomes[loser].1.contains(&named), "{outcomes:?}");
        assert_eq!(client_of(&lab, &pods[winner], WORKSTATION, ADDRESS)?, "172.23.0.2");
        for (node, pod) in NODES.into_iter().zip(&pods) {
            assert!(finish(start(&lab, "DEL", node, &pod.attachment, ADDRESS)?).0);
        }
        leave(&lab, &pods[winner])?;
    }
    lab.terminate_agent()
}

const NODES: [&str; 2] = [NODE, NODE2];

/// ADD of two pods that ask for [`ADDRESS`] at the same time: whether each succeeded, and what was said.
fn race(lab: &Lab, pods: [(&'static str, &Pod); 2]) -> Result<Vec<(bool, String)>> {
    let running: Vec<_> = pods
        .into_iter()
        .map(|(node, pod)| start(lab, "ADD", node, &pod.attachment, ADDRESS))
        .collect::<Result<_>>()?;
    Ok(running.into_iter().map(finish).collect())
}

/// Takes the address from the pod, as happens when its namespace is deleted.
fn leave(lab: &Lab, pod: &Pod) -> Result<()> {
    lab.sandbox.sh(&pod.netns, &format!("ip address del {ADDRESS}/32 dev eth0")).map(drop)
}

/// Starts the plugin on a node for a pod that asks for `address`.
pub(crate) fn start(
    lab: &Lab,
    verb: &str,
    node: &'static str,
    attachment: &Attachment,
    address: &str,
) -> Result<Child> {
    let mut input = tried("create a file for input", tempfile::tempfile())?;
    let bpffs = if node == NODE2 { r#","bpffs":"/run/bpf-node2""# } else { "" };
    let asking = asking(address);
    let configuration = format!("{}{bpffs}}}", asking.strip_suffix('}').unwrap());
    tried("write the plugin's input", write!(input, "{configuration}").and_then(|()| input.rewind()))?;
    let mut command = Command::new(lab::binary("iocast")?);
    command.env_clear().envs(environment(verb, attachment)).stdin(input).stdout(Stdio::piped());
    tried("start the plugin", lab.sandbox.run_in(node, move || lab::start(&mut command))?)
}

/// Whether the plugin succeeded, and its output.
pub(crate) fn finish(child: Child) -> (bool, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into())
}

fn a_pod_starts_while_the_uplink_has_no_carrier(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    lab.sandbox.sh(SWITCH, &format!("ip link set {NODE} down"))?;
    let pod = lab.pod_at(0, "ioc-a", Some(ADDRESS))?;
    assert_eq!(client_of(&lab, &pod, NODE, ADDRESS)?, "172.23.0.10");
    lab.sandbox.sh(SWITCH, &format!("ip link set {NODE} up"))?;
    assert_eq!(client_of(&lab, &pod, WORKSTATION, ADDRESS)?, "172.23.0.2");
    Ok(())
}

fn a_pod_without_a_default_route_is_told_so(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.plain_pod("ioc-a")?;
    lab.sandbox.sh(&pod.netns, "ip route del default")?;
    let (added, said) = run(&lab, "ADD", &pod, ADDRESS)?;
    assert!(!added && said.contains(r#""code":100"#), "{said}");
    assert!(said.contains("no default route through eth0") && said.contains(ADDRESS), "{said}");
    assert_eq!((lab.leftovers()?, addresses(&lab, &pod)?.len()), (NOTHING, 1));
    // One without a gateway leads to the LAN, too.
    lab.sandbox.sh(&pod.netns, "ip route add default dev eth0")?;
    let (added, said) = run(&lab, "ADD", &pod, ADDRESS)?;
    assert!(added, "{said}");
    let inside = routes(&lab, &pod.netns)?;
    assert!(inside.starts_with("172.23.0.0/24 dev eth0 scope link src 172.23.0.50"), "{inside}");
    Ok(())
}

fn what_an_admin_took_is_given_without_asking_the_lan(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    lab.sandbox.sh(NATIVE, &format!("ip address add {ADDRESS}/32 dev eth0"))?;
    lab.pod_at(0, "ioc-a", Some(ADDRESS)).unwrap_err();
    let since = seconds(kernel_clock().unwrap().as_nanos() as u64);
    change(&lab, move |state| {
        let taken = LanAddress { member: 0, generation: 0, since, domain: 0, standing: standing::TAKEN };
        state.set_lan_address([172, 23, 0, 50], taken).unwrap();
    })?;
    let pod = lab.pod_at(0, "ioc-a", Some(ADDRESS))?;
    let entry = lab.state(|state| state.lan_address([172, 23, 0, 50]).unwrap().unwrap())?;
    assert_eq!(entry.standing, standing::TAKEN);
    assert_eq!(lab.leftovers()?, ONE);
    lab.delete_pod(&pod)?;
    assert_eq!(lab.leftovers()?, NOTHING);
    Ok(())
}

#[test]
fn an_unloaded_datapath_leaves_no_route() -> Result<()> {
    let mut lab = Lab::up(Options::new(Topology::Bridge))?;
    let _pod = lab.pod_at(0, "ioc-a", Some(ADDRESS))?;
    lab.terminate_agent()?;
    let failures = lab.sandbox.run_in(NODE, || datapath::unload(Path::new(BPFFS)))?;
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(routes(&lab, NODE)?, "");
    Ok(())
}

#[test]
fn what_is_wrong_with_an_address_is_said_and_nothing_is_left() -> Result<()> {
    let mut lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    let with = |more: &str| format!("[domain.{DOMAIN}]\nuplink = \"eth0\"\n{more}");
    lab.start_agent_with(&with("addresses = [\"172.23.0.0/26\", \"172.23.0.255\", \"172.24.0.1\"]\n"))?;
    lab.sandbox.sh(NODE, "ip route add default via 172.23.0.1")?;
    for (name, address, expected) in [
        ("ioc-0", "", "`` is no address"),
        ("ioc-0", "172.23.0", "`172.23.0` is no address"),
        ("ioc-0", "fe80::1", "`fe80::1` is no address"),
        ("ioc-0", "172.23.0.59-172.23.0.50", "ends before it begins"),
        ("ioc-0", "172.23.0.0", "the network address of 172.23.0.0/24"),
        ("ioc-0", "172.23.0.255", "the broadcast address of 172.23.0.0/24"),
        ("ioc-0", "172.23.0.10", "the node's own, on eth0"),
        ("ioc-0", "172.23.0.1", "the node's gateway on eth0"),
        ("ioc-0", "172.23.0.3", "is in use by the host with the MAC address"),
        ("ioc-0", "172.23.0.99", "an admin can allow others by `addresses`"),
        ("ioc-0", "172.24.0.1", "outside of 172.23.0.0/24"),
        ("ioc-2", "172.23.0.50-172.23.0.51", "has 2 addresses"),
        ("ioc", "172.23.0.48/28", "the name `ioc` has none at its end"),
    ] {
        let error = lab.pod_at(0, name, Some(address)).unwrap_err().to_string();
        assert!(
            error.contains("annotation iocast.io/address") && error.contains(expected),
            "{address}: {error}"
        );
        assert_eq!(lab.leftovers()?, NOTHING, "{address}");
    }
    let error = lab.pod_with("ioc-0", &[("iocast.io/address", ADDRESS)]).unwrap_err().to_string();
    assert!(error.contains("without iocast.io/domain"), "{error}");
    lab.terminate_agent()?;
    lab.start_agent_with(&with(""))?;
    let error = lab.pod_at(0, "ioc-0", Some(ADDRESS)).unwrap_err().to_string();
    assert!(error.contains("gives no addresses"), "{error}");
    assert_eq!(lab.leftovers()?, NOTHING);
    Ok(())
}

#[test]
fn only_pods_with_an_address_wait_for_the_probe() -> Result<()> {
    lab::turn::take(lab::turn::Kind::Alone);
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let pod = lab.plain_pod("ioc-a")?;
    let plain = configuration(&previous_result("1.1.0"), &[("iocast.io/domain", DOMAIN)]);
    let time = |stdin: &str| {
        let mut times = vec![];
        for _ in 0..9 {
            let begin = Instant::now();
            let (added, said) = plugin(&lab.sandbox, &environment("ADD", &pod.attachment), stdin)?;
            assert!(added, "{said}");
            times.push(begin.elapsed());
            assert!(run(&lab, "DEL", &pod, ADDRESS)?.0);
        }
        times.sort();
        Ok::<_, lab::Error>(times[4])
    };
    let (without, with) = (time(&plain)?, time(&asking(ADDRESS))?);
    lab::report(
        "ADD of a pod with an address on the LAN",
        &format!("{:.0} ms; without one {:.1} ms", with.as_secs_f64() * 1e3, without.as_secs_f64() * 1e3),
    );
    assert!(with < Duration::from_millis(500), "{with:?}");
    assert!(without < Duration::from_millis(100), "{without:?}");
    Ok(())
}
