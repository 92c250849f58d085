//! A lab's hosts: a LAN with a workstation and a host for native IOCs, a node or two, and pods.
//!
//! ```text
//!   ws 172.23.0.2     native 172.23.0.3
//!        |                 |
//!   -----+------ LAN ------+-----
//!                |
//!        eth0 172.23.0.10            node: ip_forward, MASQUERADE of pods, iocast-node
//!                |
//!    cni0, or one route per pod      10.244.1.0/24
//!      |        |        |
//!   pod-ioc-1  pod-ioc-2 ...         created by the real CNI plugins, iocast chained after them
//! ```
//!
//! A second node is 172.23.0.11, with pods in 10.244.2.0/24, a third one 172.23.0.12; each node has a route to the others' pods.
//! Where nodes are on several LANs, the others are 172.23.1.0/24 and so on, each with a workstation and a host for native IOCs, and a
//! router (.1) between them that takes no broadcasts and checks sources strictly, as all hosts do then.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::Duration,
};

use datapath::State;
use serde_json::{Map, Value, json};

use crate::{
    Error, Result, Sandbox,
    cni::{Attachment, CniError, Conflist, Executor},
    process::Process,
    tried, turn,
};

/// The workstation's namespace.
pub const WORKSTATION: &str = "ws";
/// The LAN's switch, which has a port with the name of each host.
pub const SWITCH: &str = "lan";
/// The namespace of native IOCs on the LAN.
pub const NATIVE: &str = "native";
/// The node's namespace.
pub const NODE: &str = "node";
/// The second node's namespace, where there is one.
pub const NODE2: &str = "node2";
/// The third node's namespace, where there is one.
pub const NODE3: &str = "node3";

/// The namespace of the router, where there are several LANs.
pub const ROUTER: &str = "router";
/// The most nodes that a lab can have.
const MOST: usize = 8;
/// All of them.
const ALL_NODES: [&str; MOST] = [NODE, NODE2, NODE3, "node4", "node5", "node6", "node7", "node8"];
/// The nodes of a cluster: their namespaces, which are their names.
pub const NODES: [&str; 3] = [NODE, NODE2, NODE3];
/// The domain that the lab's node has.
pub const DOMAIN: &str = "lab";
/// The LAN addresses that its pods may have.
pub(crate) const ADDRESSES: &str = "172.23.0.32-172.23.0.127";
/// Where each node's datapath is pinned: file systems of the sandbox's own.
pub(crate) const BPFFS: [&str; MOST] = [
    "/sys/fs/bpf",
    "/run/bpf-node2",
    "/run/bpf-node3",
    "/run/bpf-node4",
    "/run/bpf-node5",
    "/run/bpf-node6",
    "/run/bpf-node7",
    "/run/bpf-node8",
];
/// The CRI capability by which annotations reach plugins.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// How pods are connected to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// A bridge on the node; pods have a /24.
    Bridge,
    /// A route to each pod; pods have a /32 without a broadcast address, as Calico gives it.
    Routed,
}

impl Topology {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Bridge, Self::Routed];

    /// Plugins before ours, on a node.
    fn plugins(self, node: usize, mtu: u16) -> Vec<Value> {
        let ipam = json!({ "type": "host-local", "subnet": format!("10.244.{}.0/24", node + 1),
                           "dataDir": format!("/run/ipam-{node}"), "routes": [{ "dst": "0.0.0.0/0" }] });
        match self {
            Self::Bridge => {
                vec![
                    json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "mtu": mtu, "ipam": ipam }),
                ]
            }
            Self::Routed => {
                vec![json!({ "type": "ptp", "mtu": mtu, "ipam": ipam }), json!({ "type": "slash32" })]
            }
        }
    }
}

/// What a lab is to be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// How pods are connected.
    pub topology: Topology,
    /// External ports of the domain.
    pub ports: (u16, u16),
    /// Ports that pods may pin besides those.
    pub pins: Option<(u16, u16)>,
    /// The CNI version of the conflist.
    pub cni_version: &'static str,
    /// How many nodes there are, one to eight.
    pub nodes: usize,
    /// The number of the LAN that each node is on.
    pub lans: [usize; MOST],
    /// Whether veths leave checksums to the (absent) hardware.
    pub checksum_offload: bool,
    /// The MTU of pods, and of the LAN.
    pub mtu: u16,
}

impl Options {
    /// A lab whose admin also lets pods pin ports 15000 to 15999.
    pub fn with_pins(topology: Topology) -> Self {
        Self { pins: Some((15000, 15999)), ..Self::new(topology) }
    }

    /// A lab with a node on each of these LANs.
    pub fn on_lans(topology: Topology, lans: &[usize]) -> Self {
        let mut all = [0; MOST];
        all[..lans.len()].copy_from_slice(lans);
        Self { nodes: lans.len(), lans: all, ..Self::new(topology) }
    }

    /// A plain lab.
    pub fn new(topology: Topology) -> Self {
        Self {
            topology,
            ports: (61000, 64999),
            pins: None,
            cni_version: "1.0.0",
            nodes: 1,
            lans: [0; MOST],
            checksum_offload: true,
            mtu: 1500,
        }
    }
}

/// A lab that is up. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Lab {
    /// Its namespaces.
    pub sandbox: Sandbox,
    /// What it is like.
    pub options: Options,
    agents: Vec<Process>,
    executors: Vec<Mutex<Executor>>,
    /// Where iocast's programs are; beside this one if nothing else was said.
    programs: Option<PathBuf>,
}

/// A pod of the lab.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The number of its node, from 0.
    pub node: usize,
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub netns: String,
    /// Its IPv4 address.
    pub address: String,
    /// The result of ADD.
    pub result: Value,
    /// The parameters of its attachment.
    pub attachment: Attachment,
}

impl Lab {
    /// A lab with a LAN and a node on which iocast-node runs; pods come later.
    pub fn up(options: Options) -> Result<Self> {
        let mut lab = Self::without_agent(options)?;
        lab.start_agent()?;
        Ok(lab)
    }

    /// A lab whose nodes have no datapath.
    pub fn without_agent(options: Options) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let hosts = options.hosts();
        make_lans(&sandbox, &hosts)?;
        let mut executors = vec![];
        for (node, netns) in ALL_NODES.iter().enumerate().take(options.nodes) {
            make_router(&sandbox, netns, node, &options)?;
            executors.push(Mutex::new(Executor::new(conflist(&options, node), plugin_path()?.into())));
        }
        let lab = Self { sandbox, options, agents: vec![], executors, programs: None };
        lab.set_lan_mtu(lab.options.mtu)?;
        for host in hosts.iter().filter(|host| host.name != ROUTER) {
            lab.set_offload(&host.name, "eth0")?;
            lab.set_offload(&switch(host.lan), &host.name)?;
        }
        Ok(lab)
    }

    /// Takes iocast's programs from this directory from now on, as of another version; from beside this program if it is `None`.
    pub fn take_programs_from(&mut self, directory: Option<&Path>) -> Result<()> {
        let [debian, lab, ours] = plugin_path()?;
        let ours = directory.map_or(ours, |directory| directory.display().to_string());
        for executor in &mut self.executors {
            let executor = executor.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
            executor.set_path([&debian, &lab, &ours].map(Clone::clone).into());
        }
        self.programs = directory.map(Path::to_owned);
        Ok(())
    }

    /// Starts iocast-node on every node and waits until it is ready.
    pub fn start_agent(&mut self) -> Result<()> {
        self.start_agent_with(&self.configuration())
    }

    /// What is configured if nothing else is wanted.
    pub(crate) fn configuration(&self) -> String {
        let key = |name: &str, (first, last): (u16, u16)| format!("{name} = \"{first}-{last}\"\n");
        let Options { ports, pins, .. } = self.options;
        let ranges = key("ports", ports) + &pins.map(|pins| key("pins", pins)).unwrap_or_default();
        format!("[domain.{DOMAIN}]\nuplink = \"eth0\"\naddresses = [\"{ADDRESSES}\"]\n{ranges}")
    }

    /// Starts iocast-node with this configuration on every node and waits until it is ready.
    pub fn start_agent_with(&mut self, configuration: &str) -> Result<()> {
        self.configure(configuration)?;
        self.start_agent_by("run --no-cni --config /run/iocast/config.toml")
    }

    /// Starts iocast-node with this command line on every node and waits until it is ready.
    pub fn start_agent_by(&mut self, line: &str) -> Result<()> {
        (0..self.options.nodes).try_for_each(|node| self.start_agent_on(node, line))
    }

    /// Starts iocast-node on every node, each with its own of these configurations, and waits until it is ready.
    pub fn start_agents_with(&mut self, configurations: &[String]) -> Result<()> {
        for (node, configuration) in configurations.iter().enumerate() {
            let path = format!("/run/iocast/{}.toml", NODES[node]);
            self.sandbox.write(&path, configuration.as_str())?;
            self.start_agent_on(node, &format!("run --no-cni --config {path}"))?;
        }
        Ok(())
    }

    fn start_agent_on(&mut self, node: usize, line: &str) -> Result<()> {
        let _loading = turn::loading();
        let mut agent = self.agent_command_on(node, line)?;
        agent.wait_for("ready agent", Duration::from_secs(30), |output| output.contains("ready"))?;
        self.agents.push(agent);
        Ok(())
    }

    /// Ends iocast-node by SIGTERM; the datapath stays.
    pub fn terminate_agent(&mut self) -> Result<()> {
        for agent in self.agents.drain(..) {
            agent.terminate();
            agent.finish()?.success()?;
        }
        Ok(())
    }

    /// Kills iocast-node; the datapath stays.
    pub fn stop_agent(&mut self) {
        self.agents.clear();
    }

    /// Kills iocast-node on one of several nodes.
    pub fn stop_agent_on(&mut self, node: usize) {
        self.agents.remove(node).kill();
    }

    /// The first node's agent, if it runs.
    pub fn agent(&self) -> Option<&Process> {
        self.agents.first()
    }

    /// What the first node's agent has printed.
    pub fn agent_output(&self) -> String {
        self.agents.first().map(Process::output).unwrap_or_default()
    }

    /// Waits until what the first node's agent has printed satisfies `test`.
    pub fn wait_for_agent(&mut self, what: &str, test: impl Fn(&str) -> bool) -> Result<Duration> {
        let agent = self.agents.first_mut().ok_or_else(|| Error::Missing("no agent was started".into()))?;
        agent.wait_for(what, Duration::from_secs(10), test)
    }

    /// Writes the agent's configuration.
    pub fn configure(&self, content: &str) -> Result<()> {
        self.sandbox.write("/run/iocast/config.toml", content)
    }

    /// Starts iocast-node on the first node with a command line of its own.
    pub fn agent_command(&self, line: &str) -> Result<Process> {
        self.agent_command_on(0, line)
    }

    /// Starts iocast-node on a node with a command line of its own.
    pub fn agent_command_on(&self, node: usize, line: &str) -> Result<Process> {
        let mut command = Command::new(match &self.programs {
            Some(directory) => directory.join("iocast-node"),
            None => binary("iocast-node")?,
        });
        if node > 0 {
            command.args(["--bpffs", BPFFS[node]]); // the first has the default
        }
        command.args(line.split_whitespace()).env("NODE_NAME", ALL_NODES[node]);
        self.sandbox.spawn(ALL_NODES[node], command)
    }

    /// What `iocast-node status --json` says of the lab's domain on the first node.
    pub fn status(&self) -> Result<Value> {
        self.status_on(0)
    }

    /// What `iocast-node status --json` says of the lab's domain on a node.
    pub fn status_on(&self, node: usize) -> Result<Value> {
        let output = self.agent_command_on(node, "status --json")?.finish()?.success()?;
        let status: Value = serde_json::from_str(&output).map_err(|error| Error::Command {
            command: "iocast-node status".into(),
            output: error.to_string(),
        })?;
        Ok(status[0].clone())
    }

    /// A counter of the lab's domain; 0 if nothing was counted.
    pub fn counter(&self, protocol: &str, verdict: &str) -> Result<u64> {
        let status = self.status()?;
        let counters = status["counters"].as_array().cloned().unwrap_or_default();
        let found =
            counters.iter().find(|counter| counter["protocol"] == protocol && counter["verdict"] == verdict);
        Ok(found.and_then(|counter| counter["packets"].as_u64()).unwrap_or(0))
    }

    /// The external port that stands for port `port` of `pod`, if there is one.
    pub fn external_port(&self, pod: &str, protocol: &str, port: u16) -> Result<Option<u16>> {
        self.external_port_on(0, pod, protocol, port)
    }

    /// The external port of a node that stands for port `port` of its pod `pod`, if there is one.
    pub fn external_port_on(&self, node: usize, pod: &str, protocol: &str, port: u16) -> Result<Option<u16>> {
        let status = self.status_on(node)?;
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let ports = members
            .iter()
            .filter(|member| member["pod"] == pod)
            .flat_map(|member| member["external_ports"].as_array().cloned().unwrap_or_default());
        let mut found = ports.filter(|entry| entry["protocol"] == protocol && entry["pod"] == port);
        Ok(found.next().and_then(|entry| entry["external"].as_u64()).and_then(|port| port.try_into().ok()))
    }

    /// Looks into the pinned maps.
    pub fn state<T: Send + 'static>(&self, look: impl FnOnce(&State) -> T + Send + 'static) -> Result<T> {
        let state = self.sandbox.run(|| State::open(Path::new(BPFFS[0])));
        let state = state.map_err(|error| Error::Missing(error.to_string()))?;
        self.sandbox.run_in(NODE, move || look(&state))
    }

    /// Creates a pod that is a member of the domain, on the first node.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        self.pod_on(0, name)
    }

    /// Creates a pod that is a member of the domain, on a node.
    pub fn pod_on(&self, node: usize, name: &str) -> Result<Pod> {
        self.create_pod(node, name, &[("iocast.io/domain", DOMAIN)])
    }

    /// Creates a pod that is a member of the domain, on a node, with this address on the LAN if one is named.
    pub fn pod_at(&self, node: usize, name: &str, address: Option<&str>) -> Result<Pod> {
        let address = address.map(|address| ("iocast.io/address", address));
        let annotations: Vec<_> = [("iocast.io/domain", DOMAIN)].into_iter().chain(address).collect();
        self.create_pod(node, name, &annotations)
    }

    /// Creates a pod with these annotations, on the first node.
    pub fn pod_with(&self, name: &str, annotations: &[(&str, &str)]) -> Result<Pod> {
        self.create_pod(0, name, annotations)
    }

    /// Creates a pod with these annotations, on a node.
    pub fn create_pod(&self, node: usize, name: &str, annotations: &[(&str, &str)]) -> Result<Pod> {
        let attachment = self.attachment(name, annotations);
        self.sandbox.add_netns(&netns(name))?;
        let (added, deleted) = (attachment.clone(), attachment.clone());
        match self.execute_on(node, move |executor| executor.add(&added)) {
            Ok(result) => self.finish_pod(node, name, attachment, result),
            Err(error) => {
                // As a runtime does after a failed ADD; its own outcome changes nothing.
                let _ = self.execute_on(node, move |executor| executor.del(&deleted));
                self.sandbox.delete_netns(&netns(name))?;
                Err(error.into())
            }
        }
    }

    fn finish_pod(&self, node: usize, name: &str, attachment: Attachment, result: Value) -> Result<Pod> {
        let address = result["ips"][0]["address"].as_str().unwrap_or_default();
        let address = address.split('/').next().unwrap_or_default().to_owned();
        let pod = Pod { node, name: name.into(), netns: netns(name), address, result, attachment };
        self.set_offload(&pod.netns, "eth0")?;
        if !self.options.checksum_offload {
            let veth = self.host_veth(&pod);
            self.set_offload(ALL_NODES[node], &veth)?;
        }
        Ok(pod)
    }

    /// Deletes a pod: its processes are the caller's business, as they are the runtime's.
    pub fn delete_pod(&self, pod: &Pod) -> Result<()> {
        let attachment = pod.attachment.clone();
        self.execute_on(pod.node, move |executor| executor.del(&attachment))?;
        self.sandbox.delete_netns(&pod.netns)
    }

    /// The parameters of an attachment of a pod called `name`; a new container id every time.
    pub fn attachment(&self, name: &str, annotations: &[(&str, &str)]) -> Attachment {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let annotations: Map<_, _> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
        Attachment {
            container: format!("{name}-{number:064x}"),
            netns: format!("/run/netns/{}", netns(name)),
            interface: "eth0".into(),
            arguments: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=beamline;K8S_POD_NAME={name}"),
            capabilities: Map::from_iter([(ANNOTATIONS.to_owned(), annotations.into())]),
        }
    }

    /// DEL on the node.
    pub fn del(&self, attachment: &Attachment) -> Result<(), CniError> {
        let attachment = attachment.clone();
        self.execute(move |executor| executor.del(&attachment))
    }

    /// Does something with the first node's CNI executor, on that node.
    pub fn execute<T: Send + 'static>(&self, work: impl FnOnce(&mut Executor) -> T + Send + 'static) -> T {
        self.execute_on(0, work)
    }

    pub(crate) fn execute_on<T: Send + 'static>(
        &self,
        node: usize,
        work: impl FnOnce(&mut Executor) -> T + Send + 'static,
    ) -> T {
        let mut guard = self.executors[node].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut executor = guard.clone();
        let ran = self.sandbox.run_in(ALL_NODES[node], move || {
            let outcome = work(&mut executor);
            (outcome, executor)
        });
        let (outcome, executor) =
            ran.unwrap_or_else(|error| panic!("the node's namespace is there: {error}"));
        *guard = executor;
        outcome
    }

    /// Name of the host-side veth of `pod`.
    pub fn host_veth(&self, pod: &Pod) -> String {
        let interfaces = pod.result["interfaces"].as_array().cloned().unwrap_or_default();
        let host = interfaces
            .iter()
            .filter(|interface| interface["sandbox"].as_str().unwrap_or_default().is_empty());
        let mut names =
            host.filter_map(|interface| interface["name"].as_str()).filter(|name| *name != "cni0");
        names.next().unwrap_or_default().into()
    }

    /// Checksum errors of TCP, UDP and IP that the kernel counted in `netns`.
    pub fn checksum_errors(&self, netns: &str) -> Result<u64> {
        const COUNTERS: &str = "TcpInCsumErrors UdpInCsumErrors IpInHdrErrors IpExtInCsumErrors";
        let counters = self.sandbox.sh(netns, &format!("nstat -asz --json {COUNTERS}"))?;
        if !counters.contains("UdpInCsumErrors") {
            return Err(Error::Missing(format!("nstat does not count checksum errors: {counters}")));
        }
        let numbers =
            counters.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse::<u64>().ok());
        Ok(numbers.sum())
    }

    /// UDP datagrams that came to `netns`, but for which their socket's buffer had no room.
    pub fn full_buffers(&self, netns: &str) -> Result<u64> {
        let counters = self.sandbox.sh(netns, "nstat -asz --json UdpRcvbufErrors")?;
        let counters: Value = serde_json::from_str(&counters).unwrap_or_default();
        let count = counters["kernel"]["UdpRcvbufErrors"].as_u64();
        count.ok_or_else(|| Error::Missing(format!("nstat does not count full buffers: {counters}")))
    }

    /// Sets the MTU of the LAN, and of all that is on it.
    pub fn set_lan_mtu(&self, mtu: u16) -> Result<()> {
        for Host { name, lan, device, .. } in &self.options.hosts() {
            self.sandbox.sh(&switch(*lan), &format!("ip link set {name} mtu {mtu}"))?;
            self.sandbox.sh(name, &format!("ip link set {device} mtu {mtu}"))?;
            self.sandbox.sh(&switch(*lan), &format!("ip link set lan0 mtu {mtu}"))?;
        }
        Ok(())
    }

    fn set_offload(&self, netns: &str, interface: &str) -> Result<()> {
        if self.options.checksum_offload {
            return Ok(());
        }
        self.sandbox.sh(netns, &format!("ethtool -K {interface} tx off")).map(|_| ())
    }
}

/// The namespace of the pod called `name`.
fn netns(name: &str) -> String {
    format!("pod-{name}")
}

/// A host on a LAN.
struct Host {
    name: String,
    lan: usize,
    /// Its device there.
    device: String,
    address: String,
}

impl Options {
    /// All hosts on LANs; the router is one on each.
    fn hosts(&self) -> Vec<Host> {
        let host = |name: &str, lan: usize, device: &str, last: usize| {
            let (name, device) = (name.to_owned(), device.to_owned());
            Host { name, lan, device, address: format!("172.23.{lan}.{last}") }
        };
        let lans = &self.lans[..self.nodes];
        let count = lans.iter().max().map_or(1, |last| last + 1);
        let mut hosts = vec![];
        for lan in 0..count {
            hosts.extend(
                [(WORKSTATION, 2), (NATIVE, 3)]
                    .map(|(name, last)| host(&on_lan(name, lan), lan, "eth0", last)),
            );
            hosts.extend((count > 1).then(|| host(ROUTER, lan, &format!("eth{lan}"), 1)));
        }
        hosts.extend(
            lans.iter().enumerate().map(|(node, lan)| host(ALL_NODES[node], *lan, "eth0", 10 + node)),
        );
        hosts
    }
}

/// The namespace of [`WORKSTATION`], or of [`NATIVE`], on a LAN.
pub fn on_lan(name: &str, lan: usize) -> String {
    if lan == 0 { name.into() } else { format!("{name}{lan}") }
}

/// The namespace of a LAN's switch.
pub fn switch(lan: usize) -> String {
    on_lan(SWITCH, lan)
}

fn make_lans(sandbox: &Sandbox, hosts: &[Host]) -> Result<()> {
    for lan in hosts.iter().filter(|host| host.name.starts_with(WORKSTATION)).map(|host| switch(host.lan)) {
        sandbox.add_netns(&lan)?;
        sandbox.sh(&lan, "ip link add lan0 type bridge")?;
        sandbox.sh(&lan, "ip link set lan0 up")?;
    }
    let routed = hosts.iter().any(|host| host.name == ROUTER);
    for Host { name, lan, device, address } in hosts {
        let switch = switch(*lan);
        if name != ROUTER || *lan == 0 {
            sandbox.add_netns(name)?;
        }
        sandbox.sh(&switch, &format!("ip link add {name} type veth peer name {device} netns {name}"))?;
        sandbox.sh(&switch, &format!("ip link set {name} master lan0 up"))?;
        sandbox.sh(name, &format!("ip address add {address}/24 broadcast + dev {device}"))?;
        sandbox.sh(name, &format!("ip link set {device} up"))?;
        if routed {
            make_strict(sandbox, name, device)?;
            if name != ROUTER {
                sandbox.sh(name, &format!("ip route add default via 172.23.{lan}.1"))?;
            }
        }
    }
    if routed { sandbox.sh(ROUTER, "sysctl -q -w net.ipv4.ip_forward=1").map(drop) } else { Ok(()) }
}

/// Makes a host refuse packets from where it would not answer to.
fn make_strict(sandbox: &Sandbox, host: &str, device: &str) -> Result<()> {
    for name in ["all", "default", device] {
        sandbox.sh(host, &format!("sysctl -q -w net.ipv4.conf.{name}.rp_filter=1"))?;
    }
    Ok(())
}

/// Makes a node forward and masquerade as a real one does, with a route to the pods of the others.
fn make_router(sandbox: &Sandbox, netns: &str, node: usize, options: &Options) -> Result<()> {
    sandbox.sh(netns, "sysctl -q -w net.ipv4.ip_forward=1")?;
    sandbox.sh(netns, "nft add table ip nat")?;
    sandbox.sh(netns, "nft add chain ip nat post { type nat hook postrouting priority srcnat ; }")?;
    sandbox
        .sh(netns, "nft add rule ip nat post ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade")?;
    let lans = &options.lans;
    for other in (0..options.nodes).filter(|other| *other != node && lans[*other] == lans[node]) {
        sandbox.sh(
            netns,
            &format!("ip route add 10.244.{}.0/24 via 172.23.{}.{}", other + 1, lans[node], other + 10),
        )?;
    }
    let bpffs = BPFFS[node];
    if node > 0 {
        sandbox.write(&format!("{bpffs}/.keep"), "")?; // makes the directory
        sandbox
            .run(move || {
                let none = None::<&str>;
                nix::mount::mount(Some("bpf"), bpffs, Some("bpf"), nix::mount::MsFlags::empty(), none)
            })
            .map_err(|error| Error::System { what: format!("mount {bpffs}"), source: error.into() })?;
    }
    Ok(())
}

pub(crate) fn conflist(options: &Options, node: usize) -> Conflist {
    let mut plugins = options.topology.plugins(node, options.mtu);
    let mut ours = json!({ "type": "iocast", "capabilities": { ANNOTATIONS: true } });
    if node > 0 {
        ours["bpffs"] = BPFFS[node].into();
    }
    plugins.push(ours);
    Conflist(json!({ "cniVersion": options.cni_version, "name": "lab", "plugins": plugins }))
}

/// Where plugins are: Debian's, the lab's own, ours.
pub(crate) fn plugin_path() -> Result<[String; 3]> {
    let debian = "/usr/lib/cni";
    if !Path::new(debian).join("host-local").exists() {
        return Err(Error::Missing(format!(
            "there are no CNI plugins in {debian}: run `make lab-tools` (Debian's containernetworking-plugins)"
        )));
    }
    let ours = binary("iocast")?;
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("cni");
    let ours = ours.parent().unwrap_or(Path::new("/")).display().to_string();
    Ok([debian.into(), lab.display().to_string(), ours])
}

/// One of our programs, of the same build as this one.
pub fn binary(name: &str) -> Result<PathBuf> {
    // A lab that is kept is in a PID namespace of its own, where /proc does not know it.
    let started_as = |_| Path::new(&std::env::args_os().next().unwrap_or_default()).canonicalize();
    let this = tried("find this program", std::env::current_exe().or_else(started_as))?;
    // Tests are one directory below.
    let found =
        this.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.exists());
    found.ok_or_else(|| {
        Error::Missing(format!("there is no {name} beside {}: run `make lab`", this.display()))
    })
}
