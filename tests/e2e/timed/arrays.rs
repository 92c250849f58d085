//! Big PVs.

use std::time::Duration;

use lab::{Lab, Options, Result, Topology, WORKSTATION, epics::PATIENCE, turn};

lab::in_both_topologies! { four_megabytes_arrive_intact_for_a_minute }

fn four_megabytes_arrive_intact_for_a_minute(topology: Topology) -> Result<()> {
    const BYTES: usize = 4_000_000;
    const SECONDS: usize = 60;
    turn::take(turn::Kind::KeepsUp);
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let mut server = lab.python(&pod.netns, "array_server.py", &format!("A:ARRAY {BYTES} 5"))?;
    server.wait_for("server", PATIENCE, |output| output.contains("serving"))?;
    let mut client = lab.python(WORKSTATION, "array_client.py", &format!("A:ARRAY {BYTES} {SECONDS}"))?;
    client.wait_for("end of the client", Duration::from_secs(SECONDS as u64) + PATIENCE, |output| {
        output.contains("disconnects=")
    })?;
    let output = client.finish()?.success()?;
    let count = |key: &str| {
        let text = output.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        text.and_then(|text| text.parse::<usize>().ok()).unwrap_or_else(|| panic!("no {key} in {output}"))
    };
    assert_eq!((count("wrong"), count("disconnects")), (0, 0), "{output}");
    assert!(count("updates") >= 2 * SECONDS, "{output}");
    lab::report(
        &format!("arrays of 4 MB in {SECONDS} s, every element checked ({topology:?})"),
        output.trim_end(),
    );
    for netns in [WORKSTATION, &pod.netns] {
        assert_eq!(lab.checksum_errors(netns)?, 0, "checksum errors in {netns}");
    }
    Ok(())
}
