//! The doctor, on healthy nodes and on others.

use std::process::Command;

use lab::{Finished, Lab, NODE, Options, Result, Topology};

const CONFLIST: &str =
    r#"{"cniVersion":"1.0.0","name":"lab","plugins":[{"type":"bridge"},{"type":"iocast"}]}"#;

/// What the doctor says, with these capabilities.
pub(crate) fn doctor(lab: &Lab, capabilities: &str) -> Result<Finished> {
    let plugin = lab::binary("iocast")?;
    let mut command = Command::new("setpriv");
    command.arg(format!("--bounding-set={capabilities}")).arg(lab::binary("iocast-node")?);
    command.args(["doctor", "--config", "/run/iocast/config.toml", "--cni-conf-dir", "/run/net.d"]);
    command.arg("--cni-bin-dir").args(plugin.parent());
    lab.sandbox.spawn(NODE, command)?.finish()
}

/// As it would be if a runtime, and not the test, created the lab's pods.
fn chain(lab: &Lab) -> Result<()> {
    lab.sandbox.write("/run/net.d/10-lab.conflist", CONFLIST)
}

/// Asserts that the doctor's output has a line that begins with `start` and contains `text`.
#[track_caller]
pub(crate) fn says(said: &Finished, start: &str, text: &str) {
    let found = said.output.lines().any(|line| line.starts_with(start) && line.contains(text));
    assert!(found, "no line `{start}...{text}` in:\n{}", said.output);
}

fn a_node_that_works_is_found_well(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    lab.pod("ioc-a")?;
    chain(&lab)?;
    let said = doctor(&lab, "+all")?;
    let well = said.output.lines().all(|line| line.starts_with("OK "));
    assert!(well && said.status.success(), "{}", said.output);
    says(&said, "OK    uplink", "domain `lab`: uplink eth0 has 172.23.0.10");
    says(&said, "OK    members", "1 of 1 are healthy");
    Ok(())
}

lab::in_both_topologies! { a_node_that_works_is_found_well }

#[test]
fn a_node_without_the_datapath_fails_with_what_to_do() -> Result<()> {
    let lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    lab.configure("[domain.lab]\nuplink = \"eth7\"\n")?;
    lab.sandbox.sh(NODE, "sysctl -q -w net.ipv4.ip_forward=0")?;
    let said = doctor(&lab, "+all")?;
    assert!(!said.status.success());
    says(&said, "OK    kernel", "has all required BPF helpers");
    says(&said, "FAIL  datapath", "is `iocast-node run` running on this node?");
    says(&said, "FAIL  fan", "does not exist");
    says(&said, "FAIL  uplink", "eth7 does not exist; set `uplink`");
    says(&said, "FAIL  forwarding", "set it to 1");
    says(&said, "FAIL  chain", "--cni-conf-dir");
    says(&said, "iocast-node:", "checks failed");
    Ok(())
}

#[test]
fn what_others_did_to_the_node_is_found() -> Result<()> {
    let mut lab = Lab::up(Options::new(Topology::Bridge))?;
    let pod = lab.pod("ioc-a")?;
    lab.stop_agent(); // it would mend some of it
    let veth = lab.host_veth(&pod);
    for line in [
        "nft add table ip filter",
        "nft add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }",
        "sysctl -q -w net.ipv4.ip_local_reserved_ports=8080",
        "tc qdisc add dev eth0 clsact",
        "tc filter add dev eth0 egress prio 7 u32 match u32 0 0 flowid 1:1",
        "ip link add other type veth peer name other-peer",
        "ip address add 172.24.0.1/16 dev other",
        "ip link set other up",
        "sysctl -q -w net.ipv4.conf.eth0.rp_filter=1",
        &format!("tc qdisc del dev {veth} clsact"),
        "ip link set iocast-fan down",
    ] {
        lab.sandbox.sh(NODE, line)?;
    }
    let chosen = || std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "32768 64000");
    assert!(lab.sandbox.run_in(NODE, chosen)?.is_ok());
    lab.configure("[domain.lab]\nuplink = \"eth0\"\nlan = [\"172.24.0.0/16\"]\n")?;
    let said = doctor(&lab, "+all")?;
    says(&said, "WARN  firewall", "(nf_tables): ip filter FORWARD");
    says(
        &said,
        "FAIL  ports",
        "61000-64999 are not reserved, and the node's own connections use 32768-64000",
    );
    says(&said, "OK    neighbours", "to_lan: before iocast: [], after it: [u32 filter of priority 7]");
    says(&said, "WARN  return path", "172.24.127.255 through other), so the kernel drops packets from there");
    says(&said, "FAIL  members", &format!("beamline/ioc-a: from_pod is not attached to {veth}"));
    says(&said, "FAIL  fan", "iocast-fan is down");
    Ok(())
}

#[test]
fn with_the_agents_capabilities_all_is_found_well() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    lab.pod("ioc-a")?;
    chain(&lab)?;
    let said = doctor(&lab, lab::AGENT_CAPABILITIES)?;
    assert!(said.status.success(), "{}", said.output);
    assert!(said.output.lines().all(|line| line.starts_with("OK ")), "{}", said.output);
    assert_eq!(said.output.matches("CAP_SYS_ADMIN").count(), 1, "{}", said.output);
    Ok(())
}
