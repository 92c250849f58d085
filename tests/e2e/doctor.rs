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

/// Rules that leave what comes from a LAN address alone: those of the bridge plugin, of kube-proxy, and of ip-masq-agent
/// where the LAN is among the networks that it leaves alone.
const HARMLESS: [&str; 10] = [
    "-N KUBE-POSTROUTING",
    "-A POSTROUTING -j KUBE-POSTROUTING",
    "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
    "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
    "-A KUBE-POSTROUTING -j MASQUERADE",
    "-A POSTROUTING -s 10.244.1.0/24 ! -d 10.244.0.0/16 -j MASQUERADE",
    "-A POSTROUTING -o eth1 -j MASQUERADE",
    "-N IP-MASQ-AGENT",
    "-A POSTROUTING -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT",
    "-A IP-MASQ-AGENT -d 172.23.0.0/16 -j RETURN",
];

/// Tries the doctor with rules made by this command.
fn finds_masquerading(iptables: &str) -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    lab.pod_at(0, "ioc-a", Some("172.23.0.50"))?;
    let add = |rule: &str| lab.sandbox.sh(NODE, &format!("{iptables} -t nat {rule}")).map(drop);
    HARMLESS.into_iter().try_for_each(add)?;
    add("-A IP-MASQ-AGENT -j MASQUERADE")?;
    let said = doctor(&lab, "+all")?;
    assert!(!said.output.contains("get the node's address"), "{}", said.output);
    add("-D IP-MASQ-AGENT -d 172.23.0.0/16 -j RETURN")?;
    let said = doctor(&lab, "+all")?;
    says(
        &said,
        "WARN  addresses",
        "beamline/ioc-a: packets from 172.23.0.50 to the LAN get the node's address",
    );
    says(&said, "WARN  addresses", "chain IP-MASQ-AGENT");
    Ok(())
}

#[test]
fn rules_of_nf_tables_that_translate_a_lan_address_are_found() -> Result<()> {
    finds_masquerading("iptables-nft")
}

#[test]
fn rules_of_legacy_iptables_that_translate_a_lan_address_are_found() -> Result<()> {
    finds_masquerading("iptables-legacy")
}

#[test]
fn a_native_rule_that_masquerades_by_interface_is_found() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Routed))?;
    lab.pod_at(0, "ioc-a", Some("172.23.0.50"))?;
    for line in [
        "nft add table ip nat",
        "nft add chain ip nat post { type nat hook postrouting priority 100 ; }",
        "nft add rule ip nat post meta mark and 0x4000 == 0 ip saddr 172.23.0.51 masquerade",
    ] {
        lab.sandbox.sh(NODE, line)?;
    }
    assert!(!doctor(&lab, "+all")?.output.contains("get the node's address"));
    lab.sandbox.sh(NODE, "nft add rule ip nat post oifname eth0 ip daddr != 10.0.0.0/8 masquerade")?;
    says(&doctor(&lab, "+all")?, "WARN  addresses", "(table ip nat, chain post)");
    Ok(())
}
