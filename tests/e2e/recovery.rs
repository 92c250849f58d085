//! Monitors of all three clients when what they watch goes away and comes back, and how long that takes.

use std::time::{Duration, Instant};

use lab::{
    Lab, NATIVE, Options, Process, Result, Topology, WORKSTATION,
    epics::{PATIENCE, Server},
};

lab::in_both_topologies! {
    monitors_outlive_the_agent_and_a_reload_of_the_programs
    monitors_recover_when_the_ioc_restarts
    monitors_recover_when_the_pod_is_created_again
    beacons_shorten_the_wait_for_an_ioc_that_was_long_away
}

const CLIENTS: [&str; 3] = ["camonitor", "pvmonitor", "PVXS"];

/// A monitor of `A:COUNT` by each client, in this namespace.
fn monitors(lab: &Lab, netns: &str) -> Result<Vec<Process>> {
    let start = |client: &&str| match *client {
        "PVXS" => lab.python(netns, "pvxs_monitor.py", "A:COUNT"),
        program => lab.epics(netns, &format!("{program} A:COUNT"), &[]),
    };
    CLIENTS.iter().map(start).collect()
}

/// Values that a monitor has printed: lines that end in a number.
fn values(output: &str) -> usize {
    let number = |word: &str| word.parse::<f64>().is_ok();
    output.lines().filter(|line| line.split_whitespace().last().is_some_and(number)).count()
}

/// Waits until each monitor has a few values more; how long each took, in seconds.
fn wait_for_values(monitors: &[Process], patience: Duration) -> Result<Vec<f64>> {
    let begin = Instant::now();
    let seen: Vec<_> = monitors.iter().map(|monitor| values(&monitor.output())).collect();
    let mut took = vec![f64::NAN; monitors.len()];
    while took.iter().any(|took| took.is_nan()) && begin.elapsed() < patience {
        for ((monitor, seen), took) in monitors.iter().zip(&seen).zip(&mut took) {
            if took.is_nan() && values(&monitor.output()) > seen + 2 {
                *took = begin.elapsed().as_secs_f64();
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    match took.iter().position(|took| took.is_nan()) {
        Some(which) => Err(lab::Error::Timeout(format!(
            "{} has no new values after {} s; it printed:\n{}",
            CLIENTS[which % CLIENTS.len()],
            patience.as_secs(),
            monitors[which].output()
        ))),
        None => Ok(took),
    }
}

fn text(took: &[f64]) -> String {
    let parts: Vec<_> =
        CLIENTS.iter().zip(took).map(|(client, took)| format!("{client} {took:.1} s")).collect();
    parts.join(", ")
}

fn monitors_outlive_the_agent_and_a_reload_of_the_programs(topology: Topology) -> Result<()> {
    let mut lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc_of(Server::Pvxs, &pod.netns, "A")?;
    let monitors = monitors(&lab, WORKSTATION)?;
    wait_for_values(&monitors, PATIENCE)?;
    for _ in 0..3 {
        lab.stop_agent();
        wait_for_values(&monitors, PATIENCE)?;
        lab.start_agent()?; // replaces every program
        wait_for_values(&monitors, PATIENCE)?;
    }
    for (client, monitor) in CLIENTS.iter().zip(&monitors) {
        let output = monitor.output();
        // PVXS says so before it has connected, too.
        let since_connected = output.lines().skip_while(|line| values(line) == 0);
        let lost: Vec<_> =
            since_connected.filter(|line| line.to_lowercase().contains("disconnect")).collect();
        assert_eq!(lost, [""; 0], "{client}");
    }
    Ok(())
}

fn monitors_recover_when_the_ioc_restarts(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let ioc = lab.ioc_of(Server::Pvxs, &pod.netns, "A")?;
    let monitors = monitors(&lab, WORKSTATION)?;
    wait_for_values(&monitors, PATIENCE)?;
    ioc.kill();
    std::thread::sleep(Duration::from_secs(1)); // what is on its way is read
    let _ioc = lab.ioc_of(Server::Pvxs, &pod.netns, "A")?;
    let took = wait_for_values(&monitors, PATIENCE)?;
    lab::report(&format!("first values after an IOC is up again ({topology:?})"), &text(&took));
    Ok(())
}

fn monitors_recover_when_the_pod_is_created_again(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let ioc = lab.ioc_of(Server::Pvxs, &pod.netns, "A")?;
    let monitors = monitors(&lab, WORKSTATION)?;
    wait_for_values(&monitors, PATIENCE)?;
    ioc.kill();
    lab.delete_pod(&pod)?;
    let _other = lab.pod("in-between")?; // so that the pod gets another address
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc_of(Server::Pvxs, &pod.netns, "A")?;
    let took = wait_for_values(&monitors, PATIENCE)?;
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
    let mut all = monitors(&lab, WORKSTATION)?;
    all.extend(monitors(&lab, NATIVE)?);
    std::thread::sleep(AWAY);
    let _ioc = lab.ioc_of(Server::Pvxs, &pod.netns, "A")?;
    let took = wait_for_values(&all, Duration::from_secs(90))?;
    let (with, without) = took.split_at(CLIENTS.len());
    lab::report(
        &format!("first values of an IOC that was away for {} s ({topology:?})", AWAY.as_secs()),
        &format!("with beacons {}; without {}", text(with), text(without)),
    );
    assert!(with.iter().all(|took| *took < 10.0) && with[0] + 5.0 < without[0], "{}", text(&took[..3]));
    Ok(())
}
