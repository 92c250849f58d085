//! Addresses of pods on the LAN after they were given: what the agent keeps, restores and names, and what an admin can do.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    net::UdpSocket,
    thread::sleep,
    time::{Duration, Instant},
};

use lab::{
    Lab, Leftovers, NATIVE, NODE, NOTHING, Options, Pod, Process, Result, SWITCH, Topology, WORKSTATION,
    tried,
};
use serde_json::Value;

const ADDRESS: &str = "172.23.0.50";
/// More than a pass of the agent takes to come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Hardware addresses that are lower, and higher, than any of the lab's.
const LOW: &str = "02:00:00:00:00:01";
const HIGH: &str = "fe:ff:ff:ff:ff:fe";

lab::in_both_topologies! {
    the_nodes_part_of_an_address_is_restored
    the_lan_is_told_where_an_address_is_when_the_uplink_changes
    what_is_left_of_pods_that_went_without_del_is_removed
    pods_outside_of_a_renumbered_lan_are_named
    an_address_that_a_host_with_a_lower_mac_claims_is_lost_until_an_admin_takes_it
    a_host_with_a_higher_mac_that_claims_an_address_is_named
    an_admin_takes_an_address_before_its_pod_comes
}

/// The lab with a pod that has [`ADDRESS`].
fn with_pod(topology: Topology) -> Result<(Lab, Pod)> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod_at(0, "ioc-a", Some(ADDRESS))?;
    Ok((lab, pod))
}

/// Whether it becomes true in time.
fn comes(test: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while !test() {
        if begin.elapsed() > PATIENCE {
            return false;
        }
        sleep(Duration::from_millis(100));
    }
    true
}

/// Waits until a command on a host prints something with `text` in it.
#[track_caller]
fn shows(lab: &Lab, netns: &str, line: &str, text: &str) {
    let look = || lab.sandbox.sh(netns, line).is_ok_and(|said| said.contains(text));
    assert!(comes(look), "{line}: {:?}", lab.sandbox.sh(netns, line));
}

fn route(lab: &Lab) -> Result<String> {
    lab.sandbox.sh(NODE, "ip route show proto 105")
}

/// Makes a host claim [`ADDRESS`]: it asks for another one as the one that has it.
fn claim(lab: &Lab, mac: &str) -> Result<()> {
    lab.sandbox.sh(NATIVE, &format!("ip link set eth0 address {mac}"))?;
    let _ = lab.sandbox.sh(NATIVE, &format!("ip address add {ADDRESS}/32 dev eth0"));
    let ask = || UdpSocket::bind((ADDRESS, 0)).and_then(|socket| socket.send_to(b"?", "172.23.0.99:9"));
    tried("send from the claimed address", lab.sandbox.run_in(NATIVE, ask)?).map(drop)
}

/// What `status` says of the only pod's address.
fn lan_address(lab: &Lab) -> Result<Value> {
    Ok(lab.status()?["members"][0]["lan_address"].clone())
}

fn the_nodes_part_of_an_address_is_restored(topology: Topology) -> Result<()> {
    let (mut lab, _pod) = with_pod(topology)?;
    let whole = route(&lab)?;
    lab.sandbox.sh(NODE, &format!("ip route del {ADDRESS}"))?;
    lab.sandbox.sh(NODE, "ip route add 172.23.0.60 dev eth0 proto 105")?; // as of a pod that is gone
    assert!(comes(|| route(&lab).is_ok_and(|now| now == whole)), "{} instead of {whole}", route(&lab)?);
    lab.sandbox.sh(NODE, "ip address del 172.23.0.10/24 dev eth0")?; // which takes the route away
    lab.sandbox.sh(NODE, "ip address add 172.23.0.11/24 dev eth0")?;
    shows(&lab, NODE, "ip route show proto 105", "src 172.23.0.11");
    lab.terminate_agent()?;
    lab.sandbox.sh(NODE, &format!("ip route del {ADDRESS}"))?;
    lab.start_agent()?;
    shows(&lab, NODE, "ip route show proto 105", "src 172.23.0.11");
    Ok(())
}

fn the_lan_is_told_where_an_address_is_when_the_uplink_changes(topology: Topology) -> Result<()> {
    let (lab, _pod) = with_pod(topology)?;
    let ask = || UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"?", (ADDRESS, 9)));
    tried("send to the address", lab.sandbox.run_in(WORKSTATION, ask)?)?;
    let neighbour = format!("ip neigh show {ADDRESS}");
    shows(&lab, WORKSTATION, &neighbour, "lladdr");
    lab.sandbox.sh(NODE, &format!("ip link set eth0 address {LOW}"))?;
    shows(&lab, WORKSTATION, &neighbour, LOW);
    lab.sandbox.sh(SWITCH, &format!("ip link set {NODE} down"))?;
    shows(&lab, NODE, "ip link show eth0", "NO-CARRIER");
    sleep(Duration::from_secs(3)); // a pass sees it
    lab.sandbox.sh(WORKSTATION, &format!("ip neigh replace {ADDRESS} lladdr {HIGH} dev eth0 nud stale"))?;
    lab.sandbox.sh(SWITCH, &format!("ip link set {NODE} up"))?;
    shows(&lab, WORKSTATION, &neighbour, LOW);
    Ok(())
}

fn what_is_left_of_pods_that_went_without_del_is_removed(topology: Topology) -> Result<()> {
    let (lab, pod) = with_pod(topology)?;
    lab.sandbox.sh(NODE, &format!("ip link del {}", lab.host_veth(&pod)))?;
    let is_clean = || {
        let left = lab.leftovers().unwrap();
        (left.addresses, left.routes, left.attachments) == (NOTHING.addresses, NOTHING.routes, 0)
    };
    assert!(comes(is_clean), "{:?}", lab.leftovers()?);
    lab.pod_at(0, "ioc-b", Some(ADDRESS)).map(drop)
}

fn pods_outside_of_a_renumbered_lan_are_named(topology: Topology) -> Result<()> {
    let (mut lab, pod) = with_pod(topology)?;
    lab.sandbox.sh(NODE, "ip address add 172.24.0.10/24 dev eth0")?;
    lab.sandbox.sh(NODE, "ip address del 172.23.0.10/24 dev eth0")?;
    lab.wait_for_agent("the pod", |said| {
        said.contains("pod beamline/ioc-a has the address 172.23.0.50, which is now outside of 172.24.0.0/24")
            && said.contains("delete the pod")
    })?;
    lab.delete_pod(&pod)?;
    lab.wait_for_agent("the end", |said| said.contains("resolved: pod beamline/ioc-a has the address"))?;
    Ok(())
}

fn an_address_that_a_host_with_a_lower_mac_claims_is_lost_until_an_admin_takes_it(
    topology: Topology,
) -> Result<()> {
    let (mut lab, _pod) = with_pod(topology)?;
    claim(&lab, LOW)?;
    lab.wait_for_agent("the loss", |said| {
        said.contains(&format!("pod beamline/ioc-a has lost its address {ADDRESS} to the host {LOW}"))
    })?;
    assert_eq!(route(&lab)?, "");
    let found = lan_address(&lab)?;
    assert_eq!((&found["standing"], &found["claimed_by"]), (&"lost".into(), &LOW.into()), "{found}");
    let doctor = lab.agent_command("doctor --config /run/iocast/config.toml")?.finish()?.output;
    assert!(doctor.contains("WARN  addresses") && doctor.contains("has lost its address"), "{doctor}");

    lab.sandbox.sh(NATIVE, &format!("ip address del {ADDRESS}/32 dev eth0"))?;
    let said = take(&lab, ADDRESS)?.finish()?.success()?;
    assert!(said.contains("for pod beamline/ioc-a"), "{said}");
    assert_eq!(lan_address(&lab)?["standing"], "taken");
    assert!(route(&lab)?.contains(ADDRESS));
    lab.wait_for_agent("the end", |said| said.contains("resolved: pod beamline/ioc-a has lost"))?;
    Ok(())
}

fn a_host_with_a_higher_mac_that_claims_an_address_is_named(topology: Topology) -> Result<()> {
    let (mut lab, _pod) = with_pod(topology)?;
    claim(&lab, HIGH)?;
    lab.wait_for_agent("the claim", |said| {
        said.contains(&format!(
            "pod beamline/ioc-a has the address {ADDRESS}, which the host {HIGH} claims, too"
        ))
    })?;
    let found = lan_address(&lab)?;
    assert_eq!((&found["standing"], &found["claimed_by"]), (&"held".into(), &HIGH.into()), "{found}");
    Ok(())
}

fn take(lab: &Lab, address: &str) -> Result<Process> {
    lab.agent_command(&format!("take {address}"))
}

fn an_admin_takes_an_address_before_its_pod_comes(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    claim(&lab, LOW)?;
    let refused = lab.pod_at(0, "ioc-a", Some(ADDRESS)).unwrap_err().to_string();
    assert!(refused.contains(LOW), "{refused}");
    let said = take(&lab, ADDRESS)?.finish()?.success()?;
    assert!(said.contains("if that comes within 10 minutes"), "{said}");
    sleep(Duration::from_secs(3)); // a pass leaves it
    lab.pod_at(0, "ioc-b", Some(ADDRESS))?;
    assert_eq!(lan_address(&lab)?["standing"], "taken");
    let Leftovers { addresses, .. } = lab.leftovers()?;
    assert_eq!(addresses, 1);
    for (wrong, why) in [
        ("172.23.0.10", "no domain of this node has it among its `addresses`"),
        ("172.23.0", "invalid value"),
    ] {
        let refused = take(&lab, wrong)?.finish()?;
        assert!(!refused.status.success() && refused.output.contains(why), "{}", refused.output);
    }
    Ok(())
}
