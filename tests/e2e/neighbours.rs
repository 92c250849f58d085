//! Living with others: what else there is on a node, and what uplinks can be.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use lab::{
    DOMAIN, Lab, NODE, Options, Pod, Process, Result, Topology, WORKSTATION,
    bpf::{self, Side},
    epics::{PATIENCE, Server},
    tried,
    udp::Socket,
};

lab::in_both_topologies! {
    reverse_path_filters_of_every_kind_are_passed
    a_firewall_that_drops_what_is_not_allowed_sees_nothing_invalid
    a_bridge_is_an_uplink
    two_domains_on_two_uplinks_have_the_same_names
    programs_that_end_the_chain_work_before_beside_and_after_ours
    filters_of_another_work_before_beside_and_after_ours
}

/// A value that tells whose it is.
const DATABASE: &str = "record(stringin, \"X:NAME\") { field(VAL, \"$(P)\") field(PINI, \"YES\") }";

/// A pod of the domain with an IOC of both protocols.
fn ioc(lab: &Lab, domain: &str) -> Result<(Pod, Process)> {
    let pod = lab.pod_with(&format!("ioc-{domain}"), &[("iocast.io/domain", domain)])?;
    let ioc = lab.ioc_from(DATABASE, Server::PvAccessCpp, &pod.netns, domain, &[])?;
    Ok((pod, ioc))
}

/// What `caget` and `pvget` on the workstation read there, whose searches go to this address.
fn read(lab: &Lab, broadcast: &str) -> Result<[String; 2]> {
    let variables = [
        ("EPICS_CA_AUTO_ADDR_LIST", "NO"),
        ("EPICS_CA_ADDR_LIST", broadcast),
        ("EPICS_PVA_AUTO_ADDR_LIST", "NO"),
        ("EPICS_PVA_ADDR_LIST", broadcast),
    ];
    let output = |line: &str| {
        let mut client = lab.epics(WORKSTATION, line, &variables)?;
        client.wait_for("a value", PATIENCE, |output| !output.trim().is_empty())?;
        client.finish()?.success()
    };
    let caget = output("caget -t -w 10 X:NAME")?;
    let pvget = output("pvget -w 10 -r value X:NAME")?;
    Ok([caget, pvget].map(|output| output.split_whitespace().last().unwrap_or_default().replace('"', "")))
}

const LAN: &str = "172.23.0.255";
const OTHER_LAN: &str = "172.24.0.255";

fn assert_read(lab: &Lab, broadcast: &str, expected: &str) -> Result<()> {
    assert_eq!(read(lab, broadcast)?, [expected, expected], "by {broadcast}");
    Ok(())
}

fn domain(name: &str, uplink: &str) -> String {
    format!("[domain.{name}]\nuplink = \"{uplink}\"\n")
}

/// Gives workstation and node another LAN.
fn add_lan(lab: &Lab) -> Result<()> {
    lab.sandbox.sh(WORKSTATION, "ip link add eth1 type veth peer name eth1 netns node")?;
    for (netns, address) in [(WORKSTATION, "172.24.0.2"), (NODE, "172.24.0.10")] {
        lab.sandbox.sh(netns, &format!("ip address add {address}/24 broadcast + dev eth1"))?;
        lab.sandbox.sh(netns, "ip link set eth1 up")?;
    }
    Ok(())
}

/// Sets a sysctl of every interface of the calling thread's network namespace.
pub(crate) fn set_everywhere(key: &str, value: u8) -> std::io::Result<()> {
    for interface in std::fs::read_dir("/proc/sys/net/ipv4/conf")? {
        std::fs::write(interface?.path().join(key), value.to_string())?;
    }
    Ok(())
}

fn reverse_path_filters_of_every_kind_are_passed(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let _ioc = ioc(&lab, DOMAIN)?;
    for mode in 0..3 {
        let set = lab.sandbox.run_in(NODE, move || set_everywhere("rp_filter", mode))?;
        tried("set rp_filter", set)?;
        assert_read(&lab, LAN, DOMAIN)?;
    }
    Ok(())
}

fn a_firewall_that_drops_what_is_not_allowed_sees_nothing_invalid(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (pod, _ioc) = ioc(&lab, DOMAIN)?;
    for line in [
        "nft add table ip guard",
        "nft add chain ip guard forward { type filter hook forward priority 0 ; policy drop ; }",
        "nft add rule ip guard forward ct state invalid counter drop",
        "nft add rule ip guard forward ct state established,related accept",
        &format!(
            "nft add rule ip guard forward ip saddr 172.23.0.0/24 ip daddr {} tcp dport 5064 accept",
            pod.address
        ),
        &format!(
            "nft add rule ip guard forward ip saddr 172.23.0.0/24 ip daddr {} tcp dport 5075 accept",
            pod.address
        ),
    ] {
        lab.sandbox.sh(NODE, line)?;
    }
    assert_read(&lab, LAN, DOMAIN)?;
    let rules = lab.sandbox.sh(NODE, "nft list chain ip guard forward")?;
    assert!(rules.contains("invalid counter packets 0 bytes 0 drop"), "{rules}");
    Ok(())
}

/// Makes a bridge of the node's uplink.
pub(crate) fn bridge_the_uplink(lab: &Lab) -> Result<()> {
    for line in [
        "ip link add br-lan type bridge",
        "ip link set br-lan up",
        // Else conntrack sees a packet at the bridge's port, before it is translated.
        "sysctl -e -q -w net.bridge.bridge-nf-call-iptables=0",
        "ip address flush dev eth0",
        "ip link set eth0 master br-lan",
        "ip address add 172.23.0.10/24 broadcast + dev br-lan",
    ] {
        lab.sandbox.sh(NODE, line)?;
    }
    Ok(())
}

fn a_bridge_is_an_uplink(topology: Topology) -> Result<()> {
    let mut lab = Lab::without_agent(Options::new(topology))?;
    bridge_the_uplink(&lab)?;
    lab.start_agent_with(&domain(DOMAIN, "br-lan"))?;
    let _ioc = ioc(&lab, DOMAIN)?;
    assert_read(&lab, LAN, DOMAIN)
}

/// On the LAN's wire, beside it.
#[test]
#[ignore = "needs a kernel with 8021q: `make kernels` boots some"]
fn a_vlan_is_an_uplink() -> Result<()> {
    let mut lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    for (netns, address) in [(WORKSTATION, "172.24.0.2"), (NODE, "172.24.0.10")] {
        lab.sandbox.sh(netns, "ip link add link eth0 name eth0.7 type vlan id 7")?;
        lab.sandbox.sh(netns, &format!("ip address add {address}/24 broadcast + dev eth0.7"))?;
        lab.sandbox.sh(netns, "ip link set eth0.7 up")?;
    }
    lab.start_agent_with(&domain(DOMAIN, "eth0.7"))?;
    let _ioc = ioc(&lab, DOMAIN)?;
    assert_read(&lab, OTHER_LAN, DOMAIN)
}

fn two_domains_on_two_uplinks_have_the_same_names(topology: Topology) -> Result<()> {
    let mut lab = Lab::without_agent(Options::new(topology))?;
    add_lan(&lab)?;
    lab.start_agent_with(&(domain("one", "eth0") + &domain("two", "eth1")))?;
    let _iocs = [ioc(&lab, "one")?, ioc(&lab, "two")?];
    assert_read(&lab, LAN, "one")?;
    assert_read(&lab, OTHER_LAN, "two")
}

/// How another owner has its programs on interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Links.
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

/// Programs that let every packet pass and end the chain, as Cilium's do.
struct Neighbour {
    way: Way,
    programs: Vec<OwnedFd>,
    /// What need only be open.
    kept: Vec<OwnedFd>,
}

impl Neighbour {
    fn new(way: Way) -> Result<Self> {
        let statistics = tried("count runs of programs", bpf::enable_statistics())?;
        Ok(Self { way, programs: vec![], kept: vec![statistics] })
    }

    /// Puts a program on this interface.
    fn settle(&mut self, lab: &Lab, interface: &str, side: Side) -> Result<()> {
        let program = tried("load a program", bpf::load(&[bpf::set(0, 0), bpf::EXIT]))?; // TCX_PASS, TC_ACT_OK
        match self.way {
            Way::Tcx => self.kept.push(attach(lab, &program, interface, side)?),
            Way::Clsact => add_filter(lab, &program, interface, side)?,
        }
        self.programs.push(program);
        Ok(())
    }

    /// How often each program has run.
    fn runs(&self) -> Result<Vec<u64>> {
        let counts = self.programs.iter().map(|program| bpf::runs(program).map(|(_, count)| count));
        tried("read a program's statistics", counts.collect::<std::io::Result<_>>())
    }

    /// What concerns nobody reaches all programs.
    fn assert_works(&self, lab: &Lab, pod: Option<&Pod>, when: &str) -> Result<()> {
        let before = self.runs()?;
        Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?.send(b"hello", "172.23.0.10:9999")?; // refused by ICMP
        if let Some(pod) = pod {
            Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:0")?.send(b"hello", "172.23.0.2:9999")?;
        }
        let begin = Instant::now();
        loop {
            let after = self.runs()?;
            if before.iter().zip(&after).all(|(before, after)| after > before) {
                return Ok(());
            }
            assert!(begin.elapsed() < PATIENCE, "{when}, {:?}: {before:?} {after:?}", self.way);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

pub(crate) fn attach(lab: &Lab, program: &OwnedFd, interface: &str, side: Side) -> Result<OwnedFd> {
    let (program, interface) = (tried("clone", program.try_clone())?, interface.to_owned());
    let link = lab.sandbox.run_in(NODE, move || {
        bpf::attach(&program, nix::net::if_::if_nametoindex(interface.as_str())?, side)
    })?;
    tried("attach a program", link)
}

pub(crate) fn add_filter(lab: &Lab, program: &OwnedFd, interface: &str, side: Side) -> Result<()> {
    let side = if matches!(side, Side::Ingress) { "ingress" } else { "egress" };
    let pin = format!("/sys/fs/bpf/{interface}-{side}");
    let (cloned, path) = (tried("clone", program.try_clone())?, pin.clone());
    tried("pin a program", lab.sandbox.run(move || bpf::pin(&cloned, path.as_ref())))?;
    if !lab.sandbox.sh(NODE, &format!("tc qdisc show dev {interface}"))?.contains("clsact") {
        lab.sandbox.sh(NODE, &format!("tc qdisc add dev {interface} clsact"))?;
    }
    let filter =
        format!("tc filter add dev {interface} {side} prio 10 bpf direct-action object-pinned {pin}");
    lab.sandbox.sh(NODE, &filter).map(|_| ())
}

/// Settles on the uplink before ours comes, on a pod's veth after it, and stays when ours goes.
fn live_beside(topology: Topology, way: Way) -> Result<()> {
    let mut neighbour = Neighbour::new(way)?;
    let mut lab = Lab::without_agent(Options::new(topology))?;
    for side in [Side::Ingress, Side::Egress] {
        neighbour.settle(&lab, "eth0", side)?;
    }
    neighbour.assert_works(&lab, None, "before ours")?;
    lab.start_agent()?;
    let (pod, ioc) = ioc(&lab, DOMAIN)?;
    assert_read(&lab, LAN, DOMAIN)?;
    neighbour.settle(&lab, &lab.host_veth(&pod), Side::Ingress)?;
    std::thread::sleep(Duration::from_secs(3)); // the agent looks every two seconds
    assert_read(&lab, LAN, DOMAIN)?;
    neighbour.assert_works(&lab, Some(&pod), "beside ours")?;
    drop(ioc);
    lab.terminate_agent()?;
    let uninstall = "uninstall --cni-conf-dir /run/net.d --cni-bin-dir /run/bin";
    lab.agent_command(uninstall)?.finish()?.success()?;
    neighbour.assert_works(&lab, Some(&pod), "after ours")
}

fn programs_that_end_the_chain_work_before_beside_and_after_ours(topology: Topology) -> Result<()> {
    live_beside(topology, Way::Tcx)
}

fn filters_of_another_work_before_beside_and_after_ours(topology: Topology) -> Result<()> {
    live_beside(topology, Way::Clsact)
}
