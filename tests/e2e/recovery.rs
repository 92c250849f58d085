//! Monitors of all three clients when what they watch goes away and comes back, and how long that takes.

use std::time::Duration;

use lab::{
    Lab, NATIVE, Options, Pod, Process, Result, Topology, WORKSTATION,
    epics::{PATIENCE, Server},
    monitors::{CLIENTS, Monitor, assert_unbroken, wait_for_values},
};

lab::in_both_topologies! {
    monitors_outlive_the_agent_and_a_reload_of_the_programs
    monitors_recover_when_the_ioc_restarts
    monitors_recover_when_the_pod_is_created_again
    beacons_shorten_the_wait_for_an_ioc_that_was_long_away
}

const PV: &str = "A:COUNT";

fn text(took: &[f64]) -> String {
    let parts: Vec<_> =
        CLIENTS.iter().zip(took).map(|(client, took)| format!("{client} {took:.1} s")).collect();
    parts.join(", ")
}

/// A pod with an IOC, and a monitor by each client on the LAN that has values of it.
fn watched(lab: &Lab) -> Result<(Pod, Process, Vec<Monitor>)> {
    let pod = lab.pod("ioc-a")?;
    let ioc = lab.ioc_of(Server::Pvxs, &pod.netns, "A")?;
    let monitors = lab.begun_monitors(WORKSTATION, PV)?;
    Ok((pod, ioc, monitors))
}

fn monitors_outlive_the_agent_and_a_reload_of_the_programs(topology: Topology) -> Result<()> {
    let mut lab = Lab::up(Options::new(topology))?;
    let (_pod, _ioc, mut monitors) = watched(&lab)?;
    for _ in 0..3 {
        lab.stop_agent();
        wait_for_values(&mut monitors, PATIENCE)?;
        lab.start_agent()?; // replaces every program
        wait_for_values(&mut monitors, PATIENCE)?;
    }
    assert_unbroken(&mut monitors);
    Ok(())
}

fn monitors_recover_when_the_ioc_restarts(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (pod, ioc, mut monitors) = watched(&lab)?;
    ioc.kill();
    std::thread::sleep(Duration::from_secs(1)); // what is on its way is read
    let _ioc = lab.ioc_of(Server::Pvxs, &pod.netns, "A")?;
    let took = wait_for_values(&mut monitors, PATIENCE)?;
    lab::report(&format!("first values after an IOC is up again ({topology:?})"), &text(&took));
    Ok(())
}

fn monitors_recover_when_the_pod_is_created_again(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (pod, ioc, mut monitors) = watched(&lab)?;
    ioc.kill();
    lab.delete_pod(&pod)?;
    let _other = lab.pod("in-between")?; // so that the pod gets another address
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc_of(Server::Pvxs, &pod.netns, "A")?;
    let took = wait_for_values(&mut monitors, PATIENCE)?;
    lab::report(&format!("first values after a pod is created again ({topology:?})"), &text(&took));
    Ok(())
}

/// Clients that look for an IOC in vain ask less and less often (libca after 0.03, 0.09 ... 30.7, 61.4 s); its beacons tell
/// them to ask soon. One host hears them, the other does not.
fn beacons_shorten_the_wait_for_an_ioc_that_was_long_away(topology: Topology) -> Result<()> {
    const AWAY: Duration = Duration::from_secs(33);
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    for line in [
        "nft add table ip deaf",
        "nft add chain ip deaf input { type filter hook input priority filter ; }",
        "nft add rule ip deaf input udp dport 5065 drop",
        "nft add rule ip deaf input udp dport 5076 @th,88,8 0 drop", // PV Access command 0: a beacon
    ] {
        lab.sandbox.sh(NATIVE, line)?;
    }
    let mut all = lab.monitors(WORKSTATION, PV)?;
    all.extend(lab.monitors(NATIVE, PV)?);
    std::thread::sleep(AWAY);
    let _ioc = lab.ioc_of(Server::Pvxs, &pod.netns, "A")?;
    let took = wait_for_values(&mut all, Duration::from_secs(90))?;
    let (with, without) = took.split_at(CLIENTS.len());
    lab::report(
        &format!("first values of an IOC that was away for {} s ({topology:?})", AWAY.as_secs()),
        &format!("with beacons {}; without {}", text(with), text(without)),
    );
    assert!(with.iter().all(|took| *took < 10.0) && with[0] + 5.0 < without[0], "{}", text(&took[..3]));
    Ok(())
}
