//! Monitors of an IOC that is not there for long.

use std::time::Duration;

use lab::{
    Lab, NATIVE, Options, Result, Topology, WORKSTATION,
    epics::Server,
    monitors::{CLIENTS, clients_took, wait_for_values},
};

lab::in_both_topologies! { beacons_shorten_the_wait_for_an_ioc_that_was_long_away }

const PV: &str = "A:COUNT";

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
        &format!("with beacons {}; without {}", clients_took(with), clients_took(without)),
    );
    assert!(
        with.iter().all(|took| *took < 10.0) && with[0] + 5.0 < without[0],
        "{}",
        clients_took(&took[..3])
    );
    Ok(())
}
