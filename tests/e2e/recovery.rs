//! Monitors of all three clients when what they watch goes away and comes back, and how long that takes.

use std::time::Duration;

use lab::{
    Lab, Options, Pod, Process, Result, Topology, WORKSTATION,
    epics::{PATIENCE, Server},
    monitors::{Monitor, assert_unbroken, clients_took, wait_for_values},
};

lab::in_both_topologies! {
    monitors_outlive_the_agent_and_a_reload_of_the_programs
    monitors_recover_when_the_ioc_restarts
    monitors_recover_when_the_pod_is_created_again
}

/// A pod with an IOC, and a monitor by each client on the LAN that has values of it.
fn watched(lab: &Lab) -> Result<(Pod, Process, Vec<Monitor>)> {
    let pod = lab.pod("ioc-a")?;
    let ioc = lab.ioc_of(Server::Pvxs, &pod.netns, "A")?;
    let monitors = lab.begun_monitors(WORKSTATION, "A:COUNT")?;
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
    lab::report(&format!("first values after an IOC is up again ({topology:?})"), &clients_took(&took));
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
    lab::report(&format!("first values after a pod is created again ({topology:?})"), &clients_took(&took));
    Ok(())
}
