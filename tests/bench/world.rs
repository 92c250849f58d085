//! The lab as the benchmark needs it: each contender has a LAN of its own between the workstation and its node, and all
//! share the pods.
//!
//! ```text
//!   ws     to-iocast   to-nft     to-native   to-macvlan   to-bridge   to-relay       10.N.0.2
//!              |          |           |            |           |           |
//!          up-iocast   up-nft     up-native   up-macvlan   up-bridge   up-relay       10.N.0.10
//!   node   from_lan      DNAT     sockets          |          br1 ------ process
//!              |          |                        |           |
//!   pods     eth0       eth0                     eth1        eth2                     10.N.1.1 ...
//!                    (no member)               macvlan      a port
//! ```
//!
//! A pod with a LAN address, through the node's stack or past it, has a LAN of its own in the same way (`to-address`,
//! `to-direct`); so have a pod that the LAN has a route to, without iocast (`to-routed`), and a second domain of ours, of ten
//! pods (`to-few`). `iocast`, these and `nft` have the lab's node, the others a namespace with the same settings.

use std::{fmt::Write, fs::File, net::Ipv4Addr, os::fd::AsFd, time::Duration};

use lab::{
    DOMAIN, Lab, NATIVE as NATIVE_HOST, NODE, Options, Pod, Process, Result, SWITCH, Topology, WORKSTATION,
    ca, tried,
};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns},
};

use crate::{
    burst::Burst,
    net::{Mac, at, frame},
    row::{IOCAST, NATIVE},
};

/// The port of searches.
pub(crate) const SEARCH_PORT: u16 = 5064;
const PATIENCE: Duration = Duration::from_secs(30);

/// A way for datagrams from the LAN to reach servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Ours.
    Iocast,
    /// The servers run in the node's namespace.
    Native,
    /// Pods have a macvlan interface on the uplink, as Multus gives it.
    Macvlan,
    /// Pods and uplink are ports of one bridge.
    Bridge,
    /// A process on the node receives broadcasts and sends them on to the pods' bridge.
    Relay,
    /// A rule on the node translates what comes to a port.
    Nft,
    /// Ours, a pod with a LAN address, through the node's stack.
    Address,
    /// The same past it.
    Direct,
    /// A pod without iocast, to whose own address the LAN has a route.
    Routed,
    /// Ours, a domain of its own that has ten pods however many `iocast` has.
    Few,
}

impl Way {
    pub(crate) const ALL: [Self; 10] = [
        Self::Iocast,
        Self::Native,
        Self::Macvlan,
        Self::Bridge,
        Self::Relay,
        Self::Nft,
        Self::Address,
        Self::Direct,
        Self::Routed,
        Self::Few,
    ];
    /// Pods with a LAN address.
    const ADDRESSED: [Self; 2] = [Self::Address, Self::Direct];
    /// Those that can carry a broadcast.
    pub(crate) const BROADCAST: [Self; 5] =
        [Self::Iocast, Self::Native, Self::Macvlan, Self::Bridge, Self::Relay];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Iocast => IOCAST,
            Self::Native => NATIVE,
            Self::Macvlan => "macvlan",
            Self::Bridge => "bridge",
            Self::Relay => "relay",
            Self::Nft => "nft DNAT",
            Self::Address => "LAN address",
            Self::Direct => "direct",
            Self::Routed => "routed",
            Self::Few => "10",
        }
    }

    pub(crate) fn slug(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Address => "address",
            Self::Few => "few",
            _ => self.name(),
        }
    }

    /// The namespace of its node.
    pub(crate) fn host(self) -> &'static str {
        match self {
            Self::Iocast | Self::Nft | Self::Address | Self::Direct | Self::Routed | Self::Few => NODE,
            Self::Native => "h-native",
            Self::Macvlan => "h-macvlan",
            Self::Bridge | Self::Relay => "h-bridge",
        }
    }

    pub(crate) fn uplink(self) -> String {
        format!("up-{}", self.slug())
    }

    fn address(self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 60 + self as u8, third, fourth)
    }

    pub(crate) fn client(self) -> Ipv4Addr {
        self.address(0, 2)
    }

    pub(crate) fn node(self) -> Ipv4Addr {
        self.address(0, 10)
    }

    pub(crate) fn broadcast(self) -> Ipv4Addr {
        self.address(255, 255)
    }

    /// Of pods with an interface, or an address, on this LAN.
    pub(crate) fn pod(self, number: usize) -> Ipv4Addr {
        self.address(1 + (number / 200) as u8, 1 + (number % 200) as u8)
    }

    pub(crate) fn mac(self, third: u8, fourth: u8) -> Mac {
        [2, 0, 0, 60 + self as u8, third, fourth]
    }

    fn pod_mac(self, number: usize) -> Mac {
        self.mac(1 + (number / 200) as u8, 1 + (number % 200) as u8)
    }
}

/// Pods of the domain that does not grow.
const FEW: usize = 10;
/// Of everything: cameras send packets as large as that.
const MTU: u16 = 9000;

/// The lab, with everybody in it.
pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) pods: Vec<Pod>,
    /// A pod of the node that is no member.
    pub(crate) plain: Pod,
    /// Pods with a LAN address, as [`Way::ADDRESSED`] names them.
    addressed: Vec<Pod>,
    /// A pod that is no member, for [`Way::Routed`].
    routed: Pod,
    /// The pods of [`Way::Few`].
    few: Vec<Pod>,
    pub(crate) agent: Process,
    home: File,
}

impl World {
    /// Without pods yet.
    pub(crate) fn raise() -> Result<Self> {
        let lab = Lab::without_agent(Options { mtu: MTU, ..Options::new(Topology::Bridge) })?;
        widen(&lab);
        [WORKSTATION, SWITCH, NATIVE_HOST, NODE].into_iter().try_for_each(|host| quiet(&lab, host))?;
        for host in ["h-native", "h-macvlan", "h-bridge"] {
            lab.sandbox.add_netns(host)?;
            quiet(&lab, host)?;
            lab.sandbox.sh(host, "sysctl -q -w net.ipv4.ip_forward=1")?;
            lab.sandbox.sh(host, "nft add table ip nat")?;
            lab.sandbox
                .sh(host, "nft add chain ip nat post { type nat hook postrouting priority srcnat ; }")?;
        }
        lab.sandbox.sh("h-bridge", "ip link add br1 type bridge")?;
        lab.sandbox.sh("h-bridge", "ip link set br1 up")?;
        Way::ALL.into_iter().try_for_each(|way| make_uplink(&lab, way))?;
        lab.configure(&configuration(0))?;
        let agent = start_agent(&lab)?;
        let plain = pod(&lab, "plain", &[])?;
        redirect(&lab, &plain)?;
        let addressed = Way::ADDRESSED.map(|way| address(&lab, way)).into_iter().collect::<Result<_>>()?;
        let routed = pod(&lab, "routed", &[])?;
        lab.sandbox
            .sh(WORKSTATION, &format!("ip route add {} via {}", routed.address, Way::Routed.node()))?;
        let few =
            (0..FEW).map(|number| pod(&lab, &format!("f{number}"), &[("iocast.io/domain", Way::Few.slug())]));
        let few = few.collect::<Result<_>>()?;
        let home = tried("open this namespace", File::open("/proc/thread-self/ns/net"))?;
        Ok(Self { lab, pods: vec![], plain, addressed, routed, few, agent, home })
    }

    /// Creates pods until there are so many.
    pub(crate) fn grow(&mut self, pods: usize) -> Result<()> {
        let first = self.pods.len();
        for number in first..pods {
            self.pods.push(pod(&self.lab, &format!("p{number}"), &[("iocast.io/domain", DOMAIN)])?);
        }
        let (mut macvlan, mut bridge) = (String::new(), String::new());
        for number in first..pods {
            let [mac1, mac2] = [Way::Macvlan, Way::Bridge].map(|way| text(way.pod_mac(number)));
            // Writing to a string cannot fail.
            let _ = writeln!(
                macvlan,
                "link add eth1 link up-macvlan address {mac1} netns pod-p{number} type macvlan mode bridge"
            );
            let _ = writeln!(
                bridge,
                "link add v{number} type veth peer name eth2 address {mac2} netns pod-p{number}\n\
                 link set v{number} master br1 up"
            );
        }
        self.ip("h-macvlan", macvlan)?;
        self.ip("h-bridge", bridge)?;
        (first..pods).try_for_each(|number| self.connect(number))
    }

    /// Gives a pod addresses on the LANs that it has an interface on.
    fn connect(&self, number: usize) -> Result<()> {
        let mut batch = String::new();
        for (device, way) in [("eth1", Way::Macvlan), ("eth2", Way::Bridge)] {
            let _ = writeln!(
                batch,
                "address add {}/16 broadcast + dev {device}\nlink set {device} up",
                way.pod(number)
            );
        }
        self.ip(&format!("pod-p{number}"), batch)
    }

    fn ip(&self, netns: &str, batch: String) -> Result<()> {
        self.lab.sandbox.write("/run/batch", batch)?;
        self.lab.sandbox.sh(netns, "ip -batch /run/batch").map(|_| ())
    }

    /// Does `work` in the calling thread, in network namespace `netns`.
    pub(crate) fn inside<T>(&self, netns: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let there = self.lab.sandbox.open_netns(netns)?;
        enter(&there)?;
        let outcome = work();
        enter(&self.home)?;
        outcome
    }

    /// The namespace where the servers of `way` are that stand for pod `number`.
    pub(crate) fn server(&self, way: Way, number: usize) -> String {
        match way {
            Way::Native => way.host().into(),
            Way::Nft => self.plain.netns.clone(),
            Way::Address => self.addressed[0].netns.clone(),
            Way::Direct => self.addressed[1].netns.clone(),
            Way::Routed => self.routed.netns.clone(),
            Way::Few => self.few[number].netns.clone(),
            _ => self.pods[number].netns.clone(),
        }
    }

    /// Where the server of `way` is for a client on its LAN: at the address of a pod, or at the node's.
    pub(crate) fn target(&self, way: Way) -> Ipv4Addr {
        match way {
            Way::Macvlan | Way::Address | Way::Direct => way.pod(0),
            Way::Routed => parsed(&self.routed.address),
            _ => way.node(),
        }
    }

    /// Searches that reach the uplink of `way` all at once; with as many datagrams to `bystander` in between, if there is one.
    pub(crate) fn burst(&self, way: Way, count: usize, bystander: Option<(usize, u16)>) -> Result<Burst> {
        self.burst_for(&["BENCH:PV"], way, count, bystander)
    }

    /// The same for these names.
    pub(crate) fn burst_for(
        &self,
        names: &[impl AsRef<str>],
        way: Way,
        count: usize,
        bystander: Option<(usize, u16)>,
    ) -> Result<Burst> {
        let search = ca::search(&names.iter().map(AsRef::as_ref).collect::<Vec<_>>());
        let from = at(way.client(), 40_000);
        let mut frames = vec![frame([0xff; 6], from, at(way.broadcast(), SEARCH_PORT), &search)];
        if let Some((number, port)) = bystander {
            let (mac, address) = self.bystander(way, number);
            frames.push(frame(mac, at(way.client(), 40_001), at(address, port), &search));
        }
        self.inside(way.host(), || {
            let index = tried("find the uplink", if_nametoindex(way.uplink().as_str()))?;
            tried("load a burst", Burst::new(&frames, count, index))
        })
    }

    /// How a datagram from the LAN of `way` finds pod `number` by its own address.
    fn bystander(&self, way: Way, number: usize) -> (Mac, Ipv4Addr) {
        let node = way.mac(0, 10);
        match way {
            Way::Iocast | Way::Nft | Way::Routed | Way::Few => (node, parsed(&self.pods[number].address)),
            Way::Native => (node, way.node()),
            Way::Address | Way::Direct => (node, self.target(way)),
            Way::Macvlan | Way::Bridge => (way.pod_mac(number), way.pod(number)),
            Way::Relay => (node, Way::Bridge.pod(number)),
        }
    }
}

/// Two domains of pods with external ports, two of pods with LAN addresses, and `more` that nobody asks.
pub(crate) fn configuration(more: usize) -> String {
    const RATES: &str = "rates = { pod = 0, host = 0, domain = 0 }";
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (name, way, ports) in
        [(DOMAIN, Way::Iocast, "61000-64999"), (Way::Few.slug(), Way::Few, "60000-60999")]
    {
        let uplink = way.uplink();
        let _ = write!(
            text,
            "[domain.{name}]\nuplink = \"{uplink}\"\nprotocols = [\"ca\", \"pva\", \"gvcp\"]\n{RATES}\n\
             ports = \"{ports}\"\nports_per_pod = 4000\n"
        );
    }
    for (way, path) in Way::ADDRESSED.into_iter().zip(["stack", "direct"]) {
        let _ = write!(
            text,
            "[domain.{}]\nuplink = \"{}\"\npath = \"{path}\"\naddresses = [\"{}-{}\"]\n{RATES}\n",
            way.slug(),
            way.uplink(),
            way.pod(0),
            way.pod(1),
        );
    }
    for number in 0..more {
        let first = 50_000 + 100 * number;
        let _ = write!(
            text,
            "[domain.more{number}]\nuplink = \"more{number}\"\nports = \"{first}-{}\"\n",
            first + 99
        );
    }
    text
}

/// A pod that sends nothing by itself.
fn pod(lab: &Lab, name: &str, annotations: &[(&str, &str)]) -> Result<Pod> {
    let pod = lab.pod_with(name, annotations)?;
    quiet(lab, &pod.netns)?;
    Ok(pod)
}

/// Has a namespace do without IPv6. Hundreds of new hosts that look for neighbours and routers, on bridges of hundreds of ports,
/// fill the queues that bursts of ours are to find empty.
fn quiet(lab: &Lab, netns: &str) -> Result<()> {
    let settings = "net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1";
    lab.sandbox.sh(netns, &format!("sysctl -q -w {settings}")).map(|_| ())
}

/// A pod with an address on the LAN of `way`.
fn address(lab: &Lab, way: Way) -> Result<Pod> {
    let address = way.pod(0).to_string();
    pod(lab, way.slug(), &[("iocast.io/domain", way.slug()), ("iocast.io/address", &address)])
}

/// Starts iocast-node and waits until it is ready.
pub(crate) fn start_agent(lab: &Lab) -> Result<Process> {
    let mut agent = lab.agent_command("run --no-cni --config /run/iocast/config.toml")?;
    agent.wait_for("ready agent", PATIENCE, |output| output.contains("ready"))?;
    Ok(agent)
}

/// Room for more pods than a /24 has.
fn widen(lab: &Lab) {
    lab.execute(|executor| {
        let mut conflist = executor.conflist().clone();
        conflist.0["plugins"][0]["ipam"]["subnet"] = "10.244.0.0/17".into();
        executor.set_conflist(conflist);
    });
}

fn make_uplink(lab: &Lab, way: Way) -> Result<()> {
    let (slug, host, uplink) = (way.slug(), way.host(), way.uplink());
    let sh = |netns: &str, line: String| lab.sandbox.sh(netns, &line).map(|_| ());
    let macs = [way.mac(0, 2), way.mac(0, 10)].map(text);
    sh(
        WORKSTATION,
        format!(
            "ip link add to-{slug} mtu {MTU} address {} type veth peer name {uplink} mtu {MTU} address {} netns {host}",
            macs[0], macs[1]
        ),
    )?;
    sh(WORKSTATION, format!("ip address add {}/16 broadcast + dev to-{slug}", way.client()))?;
    sh(WORKSTATION, format!("ip link set to-{slug} up"))?;
    let mut addressed = uplink.as_str();
    if way == Way::Bridge {
        sh(host, format!("ip link set {uplink} master br1"))?;
        addressed = "br1";
    }
    sh(host, format!("ip address add {}/16 broadcast + dev {addressed}", way.node()))?;
    sh(host, format!("ip link set {uplink} up"))
}

/// What comes to the node's address on the LAN of `nft` goes to a pod.
fn redirect(lab: &Lab, pod: &Pod) -> Result<()> {
    let node = Way::Nft.node();
    lab.sandbox.sh(NODE, "nft add chain ip nat pre { type nat hook prerouting priority dstnat ; }")?;
    for protocol in ["tcp", "udp"] {
        let rule = format!("ip daddr {node} {protocol} dport {SEARCH_PORT} dnat to {}", pod.address);
        lab.sandbox.sh(NODE, &format!("nft add rule ip nat pre {rule}"))?;
    }
    Ok(())
}

/// Moves the calling thread.
pub(crate) fn enter(netns: &File) -> Result<()> {
    tried("enter a namespace", setns(netns.as_fd(), CloneFlags::CLONE_NEWNET))
}

fn parsed(address: &str) -> Ipv4Addr {
    address.parse().unwrap_or(Ipv4Addr::UNSPECIFIED)
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
