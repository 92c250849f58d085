//! `iocast-node why`: causes are planted one after the other on a node with a real container runtime, and named by one command
//! in the DaemonSet's container, with its privileges and mounts. docs/why.md has what it prints.

use std::{fs, os::fd::OwnedFd, path::Path, process::Command};

use lab::{
    NATIVE, NODE, Process, Result, SWITCH, Topology, WORKSTATION,
    bpf::{self, Side},
    cluster::{Cluster, RunningPod, Wanted, wait_until},
    epics::{PATIENCE, Server},
};
use serde_json::Value;

lab::in_both_topologies! { each_planted_cause_is_named }

const CLIENT: &str = "--from 172.23.0.2";
/// Two domains; the uplink of the other one is a cable to nowhere.
const CONFIGURATION: &str =
    "[domain.lab]\nuplink = \"eth0\"\nrates = { host = 400 }\n\n[domain.other]\nuplink = \"eth1\"\n";

/// A node on which iocast is installed, and what was found there.
struct Scene {
    cluster: Cluster,
    container: String,
    /// Cause in words, its name, what was found, what mends it.
    rows: Vec<[String; 4]>,
    /// What was not found as it should be.
    wrong: Vec<String>,
    seconds: Vec<f64>,
}

/// What the command is to find.
struct Expected<'a> {
    /// The cause in words, for the table.
    cause: &'a str,
    /// The command's arguments.
    line: &'a str,
    /// Its exit code and its name for the cause; empty if everything is in order.
    outcome: (i32, &'a str),
    /// What the sentence has.
    says: &'a str,
}

impl Scene {
    fn new(topology: Topology) -> Result<Self> {
        let cluster = if topology == Topology::Bridge { Cluster::up(1)? } else { Cluster::routed()? };
        cluster.write(0, "/etc/iocast/config.toml", CONFIGURATION)?;
        for line in [
            "ip link add eth1 type veth peer name nowhere",
            "ip address add 172.25.0.1/24 broadcast + dev eth1",
            "ip link set eth1 up",
            "ip link set nowhere up",
        ] {
            cluster.lab.sandbox.sh(NODE, line)?;
        }
        Ok(Self { cluster, container: String::new(), rows: vec![], wrong: vec![], seconds: vec![] })
    }

    fn install(&mut self) -> Result<()> {
        self.cluster.load_daemonset_image(0)?;
        self.container = self.cluster.daemonset(0)?.1;
        Ok(())
    }

    /// The command in the DaemonSet's container: its exit code, and what it printed.
    fn why(&self, line: &str) -> Result<(i32, String)> {
        self.cluster.execute(0, &self.container, &format!("/iocast-node why {line}"))
    }

    /// Runs the command, compares, and keeps a row of the table.
    fn expect(&mut self, expected: &Expected<'_>) -> Result<()> {
        let (code, said) = self.why(&format!("{} --json", expected.line))?;
        let found: Value = serde_json::from_str(&said).unwrap_or_default();
        let named = found["cause"].as_str().unwrap_or_default();
        let rungs = found["rungs"].as_array().cloned().unwrap_or_default();
        let explains = rungs.iter().find(|rung| !named.is_empty() && rung["cause"] == named);
        let text = |key: &str| explains.and_then(|rung| rung[key].as_str()).unwrap_or_default().to_owned();
        if (code, named) != expected.outcome || !text("found").contains(expected.says) {
            self.wrong
                .push(format!("{}: expected {:?}, found {code} {said}", expected.cause, expected.outcome));
        }
        self.seconds.extend(found["seconds"].as_f64());
        if !named.is_empty() {
            self.rows.push([expected.cause.into(), named.into(), text("found"), text("mend")]);
        }
        Ok(())
    }

    fn sh(&self, netns: &str, line: &str) -> Result<()> {
        self.cluster.lab.sandbox.sh(netns, line).map(drop)
    }

    fn pod(&self, name: &str, domain: &str) -> Result<RunningPod> {
        let annotations = [("iocast.io/domain", domain)];
        self.cluster.pod(0, &Wanted { annotations: &annotations, ..Wanted::plain(name) })
    }

    fn member(&self, name: &str, prefix: &str) -> Result<RunningPod> {
        self.cluster.ioc_pod(0, name, prefix)
    }

    /// A client at the workstation that keeps asking.
    fn client(&self, pv: &str, variables: &[(&str, &str)]) -> Result<Process> {
        self.cluster.lab.epics(WORKSTATION, &format!("caget -w 30 {pv}"), variables)
    }
}

fn each_planted_cause_is_named(topology: Topology) -> Result<()> {
    let mut scene = Scene::new(topology)?;
    let before = scene.pod("ioc-before", "bl99")?;
    scene.cluster.start_ioc(&before, "softIoc", "BEFORE")?;
    scene.install()?;
    let ioc = scene.member("ioc-a", "A")?;
    what_is_in_order(&mut scene)?;
    membership(&mut scene)?;
    clients(&mut scene)?;
    servers(&mut scene)?;
    duplicates(&mut scene)?;
    the_way_of_a_connection(&mut scene, &ioc)?;
    the_node(&mut scene)?;
    ports(&mut scene)?;
    the_datapath(&mut scene)?;
    scene.seconds.sort_by(f64::total_cmp);
    let [median, longest] = [scene.seconds.len() / 2, scene.seconds.len() - 1].map(|at| scene.seconds[at]);
    let figure = format!("median {median:.1} s, longest {longest:.1} s, of {}", scene.seconds.len());
    lab::report(&format!("time to name a cause ({topology:?})"), &figure);
    assert!(scene.wrong.is_empty(), "{}", scene.wrong.join("\n"));
    assert_table(&scene.rows)
}

fn what_is_in_order(scene: &mut Scene) -> Result<()> {
    let line = &format!("A:NAME {CLIENT} --ask");
    scene.expect(&Expected { cause: "", line, outcome: (0, ""), says: "" })?;
    let mut client = scene.client("A:NAME", &[])?;
    client.wait_for("value", PATIENCE, |said| said.contains("A:NAME"))?;
    // Whoever has found it asks no more, so it is tried in the name of a host that is known.
    let (code, said) = scene.why("A:NAME")?;
    let [first, last] =
        ["OK    datapath   is loaded\n", "a client may not see A:NAME: no client asked for it in 3 s."];
    assert!(code == 2 && said.starts_with(first) && said.contains(last), "{said}");
    assert!(said.contains("OK    connected  172.23.0.2 to 172.23.0.10:"), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 80) && !said.contains('\u{1b}'), "{said}");
    let client = scene.client("NOBODY", &[])?;
    let (code, said) = scene.why("NOBODY")?;
    assert!(
        code == 1 && said.contains("OK    asked      172.23.0.2 by broadcast to 172.23.0.255:5064 (ca)"),
        "{said}"
    );
    drop(client);
    Ok(())
}

fn membership(scene: &mut Scene) -> Result<()> {
    let plain = scene.cluster.pod(0, &Wanted::plain("ioc-plain"))?;
    scene.cluster.start_ioc(&plain, "softIoc", "PLAIN")?;
    scene.expect(&Expected {
        cause: "the pod has no annotation",
        line: &format!("PLAIN:NAME {CLIENT} --ask"),
        outcome: (1, "not_annotated"),
        says: "beamline/ioc-plain has it",
    })?;
    scene.expect(&Expected {
        cause: "the pod has an annotation, and is no member",
        line: &format!("BEFORE:NAME {CLIENT} --ask"),
        outcome: (1, "no_member"),
        says: "beamline/ioc-before asks for domain `bl99` and is no member: the domain `bl99` is not configured",
    })?;
    let annotations = [("iocast.io/domain", "lab"), ("iocast.io/pvs", "ELSE:, SOME:")];
    let withheld = scene.cluster.pod(0, &Wanted { annotations: &annotations, ..Wanted::plain("ioc-pvs") })?;
    scene.cluster.start_ioc(&withheld, "softIocPVA", "PVS")?;
    scene.expect(&Expected {
        cause: "the pod says that its PVs begin differently",
        line: &format!("PVS:NAME {CLIENT} --ask"),
        outcome: (1, "withheld"),
        says: "beamline/ioc-pvs has it, and gets only searches for names that begin with ELSE:, SOME:",
    })?;
    let other = scene.pod("ioc-other", "other")?;
    scene.cluster.start_ioc(&other, "softIocPVA", "OTHER")?;
    scene.expect(&Expected {
        cause: "the pod is in another domain",
        line: &format!("OTHER:NAME {CLIENT} --ask"),
        outcome: (1, "other_domain"),
        says: "beamline/ioc-other has it and is in domain `other`",
    })?;
    for pod in [&plain, &withheld, &other] {
        scene.cluster.delete(pod)?;
    }
    Ok(())
}

fn clients(scene: &mut Scene) -> Result<()> {
    scene.expect(&Expected {
        cause: "the client's network is not in `lan`",
        line: "A:NAME --from 10.9.9.9 --ask",
        outcome: (1, "off_lan"),
        says: "10.9.9.9 is in no network of domain `lab`",
    })?;
    let client = scene.client("A:NAME", &[("EPICS_CA_SERVER_PORT", "6064")])?;
    scene.expect(&Expected {
        cause: "the client's server port is wrong",
        line: &format!("A:NAME {CLIENT}"),
        outcome: (1, "other_port"),
        says: "172.23.0.2 searches at 172.23.0.255:6064",
    })?;
    drop(client);
    let variables = [("EPICS_CA_ADDR_LIST", "172.23.0.3"), ("EPICS_CA_AUTO_ADDR_LIST", "NO")];
    let client = scene.client("A:NAME", &variables)?;
    scene.expect(&Expected {
        cause: "the client's address list is wrong",
        line: &format!("A:NAME {CLIENT}"),
        outcome: (2, "silent"),
        says: "no search for it came from 172.23.0.2 in 3 s",
    })?;
    drop(client);
    scene.expect(&Expected {
        cause: "the name is mistyped",
        line: &format!("A:NMAE {CLIENT} --ask"),
        outcome: (1, "mistyped"),
        says: "beamline/ioc-a has A:NAME",
    })?;
    let flood = flood(scene)?;
    scene.expect(&Expected {
        cause: "the client asks too often",
        line: &format!("A:NAME {CLIENT}"),
        outcome: (1, "limited"),
        says: "searches of 172.23.0.2 exceed the rates of domain `lab`",
    })?;
    drop(flood);
    Ok(())
}

/// A client that asks for the PV far more often than its host may.
fn flood(scene: &Scene) -> Result<Process> {
    const SCRIPT: &str = "
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
name = b'A:NAME\\0\\0'
data = bytes([0,0,0,0,0,1,0,13,0,0,0,1,0,0,0,0, 0,6,0,8,0,5,0,13,0,0,0,1,0,0,0,1]) + name
while True:
    for _ in range(20): s.sendto(data, ('172.23.0.255', 5064))
    time.sleep(0.01)
";
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", SCRIPT]);
    let flood = scene.cluster.lab.sandbox.spawn(WORKSTATION, command)?;
    wait_until("searches that exceed the rate", || Ok(scene.cluster.lab.counter("ca", "limited")? > 0))?;
    Ok(flood)
}

fn servers(scene: &mut Scene) -> Result<()> {
    let line = &format!("DEAD:NAME {CLIENT} --ask");
    let pod = scene.pod("ioc-dead", "lab")?;
    scene.expect(&Expected {
        cause: "the IOC does not run",
        line,
        outcome: (1, "not_running"),
        says: "no server that runs has it, and none runs in beamline/ioc-dead: nothing listens at UDP 5064",
    })?;
    let ioc = scene.cluster.start_ioc_with(&pod, "softIoc", "DEAD", &[])?;
    scene.expect(&Expected { cause: "", line, outcome: (0, ""), says: "" })?;
    scene.cluster.kill_container(0, &ioc)?;
    scene.expect(&Expected {
        cause: "the IOC restarts",
        line,
        outcome: (1, "restarting"),
        says: "beamline/ioc-dead answered",
    })?;
    scene.cluster.delete(&pod)?;
    for (cause, name, variables, outcome, says) in [
        (
            "the IOC listens on loopback only",
            "ioc-deaf",
            ("EPICS_CAS_INTF_ADDR_LIST", "127.0.0.1"),
            "loopback",
            "beamline/ioc-deaf listens on loopback only, at UDP 5064",
        ),
        (
            "the IOC listens at another port",
            "ioc-port",
            ("EPICS_CAS_SERVER_PORT", "7064"),
            "pod_port",
            "beamline/ioc-port has it, but listens at UDP 7064",
        ),
    ] {
        let pod = scene.pod(name, "lab")?; // each has a log of its own
        scene.cluster.start_ioc_with(&pod, "softIoc", "DEAF", &[variables])?;
        let line = &format!("DEAF:NAME {CLIENT} --ask");
        scene.expect(&Expected { cause, line, outcome: (1, outcome), says })?;
        scene.cluster.delete(&pod)?;
    }
    scene.expect(&Expected {
        cause: "nobody has the PV",
        line: &format!("NOBODY:VALUE {CLIENT} --ask"),
        outcome: (1, "nobody"),
        says: "no pod in domain `lab` and no host on its LAN says that it has NOBODY:VALUE",
    })
}

fn duplicates(scene: &mut Scene) -> Result<()> {
    let twin = scene.member("ioc-twin", "A")?;
    let line = &format!("A:NAME {CLIENT} --ask");
    scene.expect(&Expected {
        cause: "two pods have the PV",
        line,
        outcome: (1, "duplicate"),
        says: "2 servers have it (ca): beamline/ioc-a, beamline/ioc-twin",
    })?;
    scene.cluster.delete(&twin)?;
    let native = scene.cluster.lab.ioc_of(Server::PvAccessCpp, NATIVE, "A")?;
    scene.expect(&Expected {
        cause: "a pod and a host on the LAN have the PV",
        line,
        outcome: (1, "duplicate"),
        says: "2 servers have it (ca): 172.23.0.3:5064, beamline/ioc-a",
    })?;
    drop(native);
    let line = &format!("N:NAME {CLIENT} --ask");
    let native = scene.cluster.lab.ioc_of(Server::PvAccessCpp, NATIVE, "N")?;
    scene.expect(&Expected {
        cause: "the PV is not on this node",
        line,
        outcome: (2, "elsewhere"),
        says: "not through this node: 172.23.0.3:",
    })?;
    let _second = scene.cluster.lab.ioc_of(Server::PvAccessCpp, WORKSTATION, "N")?;
    scene.expect(&Expected {
        cause: "two hosts on the LAN have the PV",
        line,
        outcome: (1, "duplicate"),
        says: "2 servers have it (ca): 172.23.0.2:5064, 172.23.0.3:5064",
    })?;
    drop(native);
    Ok(())
}

fn the_way_of_a_connection(scene: &mut Scene, ioc: &RunningPod) -> Result<()> {
    let line = &format!("A:NAME {CLIENT} --ask");
    scene.sh(NODE, "nft add table ip filter")?;
    scene.sh(
        NODE,
        "nft add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }",
    )?;
    scene.expect(&Expected {
        cause: "the node's FORWARD policy is drop",
        line,
        outcome: (1, "firewall_policy"),
        says: "is dropped on the node, where the policy of ip filter FORWARD is drop",
    })?;
    scene.sh(NODE, "nft add chain ip filter FORWARD { policy accept ; }")?;
    scene
        .sh(NODE, &format!("nft add rule ip filter FORWARD ip daddr {} tcp dport 5064 drop", ioc.address))?;
    scene.expect(&Expected {
        cause: "a FORWARD rule drops connections",
        line,
        outcome: (1, "firewall"),
        says: "is dropped on the node, by a rule or a NetworkPolicy",
    })?;
    scene.sh(NODE, "nft flush chain ip filter FORWARD")?;
    scene
        .sh(NODE, &format!("nft add rule ip filter FORWARD ip saddr {} tcp sport 5064 drop", ioc.address))?;
    scene.expect(&Expected {
        cause: "a FORWARD rule drops answers",
        line,
        outcome: (1, "answer_lost"),
        says: "is accepted, but the answer does not leave the uplink",
    })?;
    scene.sh(NODE, "nft delete table ip filter")?;
    let veth = veth(scene, "ioc-a")?;
    let policy = drop_at(scene, &veth)?;
    scene.expect(&Expected {
        cause: "a NetworkPolicy at the pod's veth drops connections",
        line,
        outcome: (1, "firewall"),
        says: "is dropped on the node",
    })?;
    drop(policy);
    Ok(())
}

/// Drops what goes to a pod by the node's stack, as NetworkPolicies do that are programs at its veth.
fn drop_at(scene: &Scene, veth: &str) -> Result<[OwnedFd; 2]> {
    const DROP: i32 = 2; // TC_ACT_SHOT
    let index = scene.cluster.lab.sandbox.sh(NODE, &format!("ip -o link show {veth}"))?;
    let index: u32 = index.split(':').next().and_then(|index| index.parse().ok()).unwrap_or_default();
    let attached = scene.cluster.lab.sandbox.run_in(NODE, move || {
        let program = bpf::load(&[bpf::set(0, DROP), bpf::EXIT])?;
        let link = bpf::attach(&program, index, Side::Egress)?;
        Ok::<_, std::io::Error>([program, link])
    })?;
    lab::tried(format!("drop at {veth}"), attached)
}

/// The host-side veth of a member.
fn veth(scene: &Scene, pod: &str) -> Result<String> {
    let status = scene.cluster.lab.status()?;
    let members = status["members"].as_array().cloned().unwrap_or_default();
    let member = members.iter().find(|member| member["pod"] == pod);
    Ok(member.and_then(|member| member["veth"].as_str()).unwrap_or_default().into())
}

fn the_node(scene: &mut Scene) -> Result<()> {
    let line = &format!("A:NAME {CLIENT} --ask");
    for (cause, netns, link, says) in [
        ("the uplink has no carrier", SWITCH, "node", "uplink eth0 of domain `lab` has no carrier"),
        ("the uplink is down", NODE, "eth0", "uplink eth0 of domain `lab` is down"),
    ] {
        scene.sh(netns, &format!("ip link set {link} down"))?;
        scene.expect(&Expected { cause, line, outcome: (1, "uplink"), says })?;
        scene.sh(netns, &format!("ip link set {link} up"))?;
    }
    Ok(())
}

/// The external ports are all taken: by the first pod that answers.
fn ports(scene: &mut Scene) -> Result<()> {
    let full = CONFIGURATION.replace("\n\n", "\nports = \"61000-61000\"\n\n");
    scene.cluster.write(0, "/etc/iocast/config.toml", full)?;
    wait_until("the new range", || Ok(scene.cluster.lab.status()?["last_port"] == 61000))?;
    scene.why(&format!("A:NAME {CLIENT} --ask"))?;
    scene.member("ioc-late", "LATE")?;
    scene.expect(&Expected {
        cause: "no external port is free",
        line: &format!("LATE:NAME {CLIENT} --ask"),
        outcome: (1, "no_port"),
        says: "beamline/ioc-late answers, but no external port is free for it (61000-61000)",
    })
}

/// Without an agent that would mend it, and without what it had loaded.
fn the_datapath(scene: &mut Scene) -> Result<()> {
    let tasks = scene.cluster.exec(0, "ctr --namespace k8s.io task list")?;
    let agent = tasks.lines().find_map(|line| line.strip_prefix(&scene.container)?.split_whitespace().next());
    scene.sh(NODE, &format!("kill -STOP {}", agent.unwrap_or_default()))?;
    scene.cluster.exec(0, "rm -r /sys/fs/bpf/iocast")?;
    scene.expect(&Expected {
        cause: "the datapath is gone",
        line: &format!("A:NAME {CLIENT} --ask"),
        outcome: (1, "no_datapath"),
        says: "the programs are not there: the datapath is not loaded",
    })
}

/// Compares the table with that of docs/why.md, which UPDATE_GOLDEN=1 writes.
fn assert_table(rows: &[[String; 4]]) -> Result<()> {
    let mut table = String::from("| cause | name | what is printed | what mends it |\n|---|---|---|---|\n");
    for [cause, name, found, mend] in rows {
        let [found, mend] = [found, mend].map(|text| lasting(text).replace('|', "\\|"));
        table += &format!("| {cause} | `{name}` | {found} | {mend} |\n");
    }
    let text = include_str!("why.md").replace("CAUSES\n", &table);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/why.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        lab::tried("write docs/why.md", fs::write(&path, &text))?;
    }
    let recorded = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, recorded, "docs/why.md differs; UPDATE_GOLDEN=1 writes it anew");
    Ok(())
}

/// The text with letters in place of what is another one each time: addresses of pods, external and dynamic ports, seconds.
fn lasting(text: &str) -> String {
    let word = |word: &str| {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (core, end) = word.split_at(word.trim_end_matches([',', ':', ';']).len());
        match core.split_once(':') {
            Some((pod, port)) if pod.starts_with("10.244.") && is_number(port) => format!("POD:{port}{end}"),
            Some(("172.23.0.10", port)) if is_number(port) => format!("172.23.0.10:PORT{end}"),
            Some(("172.23.0.3", port)) if is_number(port) && !["5064", "6064"].contains(&port) => {
                format!("172.23.0.3:PORT{end}")
            }
            None if core.starts_with("10.244.") => format!("POD{end}"),
            _ => word.to_owned(),
        }
    };
    let words: Vec<_> = text.split(' ').map(word).collect();
    let mut text = words.join(" ");
    if let Some((before, _)) = text.clone().split_once(" in 3 s; ") {
        text = format!("{before} in 3 s; (what came instead)");
    }
    if let Some((before, after)) = text.clone().split_once(" answered ")
        && let Some((_, after)) = after.split_once(" s ago")
    {
        text = format!("{before} answered N s ago{after}");
    }
    text
}
