//! Pods with LAN addresses beside others: firewalls, proxies, primary plugins and settings that real nodes have.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use lab::{
    DOMAIN, Lab, NATIVE, NODE, Options, Pod, Process, Result, SWITCH, Topology, WORKSTATION,
    bpf::{self, Side},
    ping::ping,
    tried,
};

use serde_json::json;

use crate::{
    doctor,
    lan_address::{self, client_of},
    neighbours::{Way, add_filter, attach, bridge_the_uplink, set_everywhere},
};

lab::in_both_topologies! {
    rules_and_settings_of_others_are_passed
    pods_of_one_node_keep_to_the_gateway
    a_bridge_as_uplink_may_change_its_port
    jumbo_frames_fit
    past_the_stack_everybody_reaches_a_pod
    who_drops_foreign_sources_is_named_and_passed_by_directly
}

/// What else is configured on a node.
struct Surroundings {
    name: &'static str,
    /// For nft(8), a table called `beside`.
    nft: &'static str,
    /// For iptables-legacy-restore(8).
    iptables: &'static str,
    /// Settings of an interface, or of each, `*`.
    settings: &'static [(&'static str, &'static str, u8)],
    /// Whom the LAN takes the pod for, and the pod the workstation.
    sources: [&'static str; 2],
    /// Who cannot read then. What is wrong is the doctor's to say.
    breaks: &'static [&'static str],
}

const ADDRESS: &str = "172.23.0.50";
const HOST: Ipv4Addr = Ipv4Addr::new(172, 23, 0, 50);
const NATIVE_HOST: Ipv4Addr = Ipv4Addr::new(172, 23, 0, 3);
const NEIGHBOUR: &str = "172.23.0.51";
const NEIGHBOUR_HOST: Ipv4Addr = Ipv4Addr::new(172, 23, 0, 51);
const NODE_ADDRESS: &str = "172.23.0.10";
const TRUE: [&str; 2] = [ADDRESS, "172.23.0.2"];
const NOTHING_ELSE: Surroundings =
    Surroundings { name: "nothing else", nft: "", iptables: "", settings: &[], sources: TRUE, breaks: &[] };

const SURROUNDINGS: &[Surroundings] = &[
    NOTHING_ELSE,
    Surroundings {
        name: "masquerade by interface",
        nft: "chain post { type nat hook postrouting priority 99; oifname eth0 masquerade; }",
        sources: [NODE_ADDRESS, TRUE[1]],
        ..NOTHING_ELSE
    },
    Surroundings {
        name: "ip-masq-agent, to which the LAN is a foreign network",
        iptables: "*nat
-N IP-MASQ-AGENT
-A POSTROUTING -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT
-A IP-MASQ-AGENT -d 169.254.0.0/16 -j RETURN
-A IP-MASQ-AGENT -d 10.0.0.0/8 -j RETURN
-A IP-MASQ-AGENT -j MASQUERADE
COMMIT
",
        sources: [NODE_ADDRESS, "10.244.1.1"],
        breaks: &[
            "a LAN client, by address list",
            "a pod with an address, by address list",
            "a pod with an address, by broadcast",
            "the pod itself, by broadcast",
        ],
        ..NOTHING_ELSE
    },
    Surroundings {
        name: "ip-masq-agent that leaves the LAN alone",
        iptables: "*nat
-N IP-MASQ-AGENT
-A POSTROUTING -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT
-A IP-MASQ-AGENT -d 10.0.0.0/8 -j RETURN
-A IP-MASQ-AGENT -d 172.23.0.0/24 -j RETURN
-A IP-MASQ-AGENT -j MASQUERADE
COMMIT
",
        ..NOTHING_ELSE
    },
    Surroundings {
        name: "kube-proxy with iptables",
        iptables: "*filter
:FORWARD DROP
-N KUBE-FORWARD
-N KUBE-FIREWALL
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -s 10.244.0.0/16 -j ACCEPT
-A FORWARD -d 10.244.0.0/16 -j ACCEPT
-A FORWARD -s 172.23.0.0/24 -j ACCEPT
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
-N KUBE-SERVICES
-N KUBE-NODEPORTS
-N KUBE-SVC-IOC
-N KUBE-SEP-IOC
-N KUBE-MARK-MASQ
-N KUBE-POSTROUTING
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 5064 -j KUBE-SVC-IOC
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30064 -j KUBE-SVC-IOC
-A KUBE-SVC-IOC ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVC-IOC -j KUBE-SEP-IOC
-A KUBE-SEP-IOC -s 10.244.1.2/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-IOC -p tcp -j DNAT --to-destination 10.244.1.2:5064
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
",
        ..NOTHING_ELSE
    },
    Surroundings {
        name: "kube-proxy with nftables",
        nft: "
chain mark-for-masquerade { mark set mark or 0x4000; }
chain endpoint { ip saddr 10.244.1.2 jump mark-for-masquerade; meta l4proto tcp dnat to 10.244.1.2:5064; }
chain service { ip daddr 10.96.0.10 ip saddr != 10.244.0.0/16 jump mark-for-masquerade; goto endpoint; }
map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; elements = { 10.96.0.10 . tcp . 5064 : goto service }; }
chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
chain filter-forward { type filter hook forward priority -110; ct state invalid counter drop; ct state new ip daddr 10.96.0.0/12 reject; }
chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
chain nat-output { type nat hook output priority -100; jump services; }
chain masquerading { mark and 0x4000 == 0 return; mark set mark xor 0x4000; masquerade fully-random; }
chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
",
        ..NOTHING_ELSE
    },
    Surroundings {
        name: "a firewall that drops what it does not know",
        nft: "
chain forward {
    type filter hook forward priority 0; policy drop;
    ct state invalid counter drop
    ct state established,related accept
    ip saddr 10.244.0.0/16 accept
    ip saddr 172.23.0.50 accept
    ip daddr 172.23.0.48/28 accept
}",
        ..NOTHING_ELSE
    },
    Surroundings {
        name: "a strict reverse path filter in raw PREROUTING",
        nft: "chain raw { type filter hook prerouting priority raw; fib saddr . iif oif missing counter drop; }",
        ..NOTHING_ELSE
    },
    Surroundings {
        name: "rp_filter off",
        settings: &[("*", "rp_filter", 0)],
        ..NOTHING_ELSE
    },
    Surroundings {
        name: "rp_filter strict",
        settings: &[("*", "rp_filter", 1)],
        ..NOTHING_ELSE
    },
    Surroundings {
        name: "rp_filter loose",
        settings: &[("*", "rp_filter", 2)],
        ..NOTHING_ELSE
    },
    Surroundings {
        name: "an uplink that answers for others",
        settings: &[("eth0", "proxy_arp", 1)],
        ..NOTHING_ELSE
    },
    Surroundings {
        name: "ARP for the interface's addresses only",
        settings: &[("*", "arp_ignore", 1), ("*", "arp_announce", 1)],
        ..NOTHING_ELSE
    },
    Surroundings {
        name: "ARP for addresses of the asker's network only",
        settings: &[("*", "arp_ignore", 2), ("*", "arp_announce", 2)],
        ..NOTHING_ELSE
    },
];

impl Surroundings {
    fn begin(&self, lab: &Lab) -> Result<()> {
        if !self.nft.is_empty() {
            lab.sandbox.write("/run/beside.nft", format!("table ip beside {{\n{}\n}}\n", self.nft))?;
            lab.sandbox.sh(NODE, "nft -f /run/beside.nft")?;
        }
        self.restore(lab, self.iptables)?;
        self.settings.iter().try_for_each(|(interface, key, value)| set(lab, interface, key, *value))
    }

    fn end(&self, lab: &Lab) -> Result<()> {
        if !self.nft.is_empty() {
            lab.sandbox.sh(NODE, "nft delete table ip beside")?;
        }
        self.restore(lab, "*filter\n:FORWARD ACCEPT\nCOMMIT\n*nat\nCOMMIT\n")?;
        self.settings.iter().try_for_each(|(interface, key, _)| set(lab, interface, key, 0))
    }

    fn restore(&self, lab: &Lab, rules: &str) -> Result<()> {
        if self.iptables.is_empty() {
            return Ok(());
        }
        lab.sandbox.write("/run/beside.rules", rules)?;
        lab.sandbox.sh(NODE, "iptables-legacy-restore /run/beside.rules").map(|_| ())
    }

    /// What its rules have dropped that nobody forbids.
    fn dropped(&self, lab: &Lab) -> Result<Option<String>> {
        if !self.nft.contains("counter drop") {
            return Ok(None);
        }
        let rules = lab.sandbox.sh(NODE, "nft list table ip beside")?;
        Ok((!rules.contains("counter packets 0 bytes 0 drop")).then_some(rules))
    }
}

/// Sets a setting of an interface of the node, or of each.
fn set(lab: &Lab, interface: &str, key: &'static str, value: u8) -> Result<()> {
    if interface == "*" {
        return tried(format!("set {key}"), lab.sandbox.run_in(NODE, move || set_everywhere(key, value))?);
    }
    lab.sandbox.sh(NODE, &format!("sysctl -q -w net.ipv4.conf.{interface}.{key}={value}")).map(|_| ())
}

/// A lab with an IOC in a pod that has an address, one on the LAN, and clients everywhere.
struct Bench {
    lab: Lab,
    server: Pod,
    /// Without an address.
    plain: Pod,
    neighbour: Pod,
    /// Kept running.
    _iocs: [Process; 2],
}

/// A client that looks for an IOC.
struct Attempt {
    who: String,
    process: Process,
    /// All that it has to print.
    expected: &'static str,
}

/// A client: as called here, and its namespace.
type Client<'a> = (&'a str, &'a str);
/// How a client looks for an IOC: as called here, and what its environment says.
type Looks = (&'static str, &'static [(&'static str, &'static str)]);

const BROADCAST: Looks = ("broadcast", &[]);
const LIST: Looks = ("address list", &[("EPICS_CA_AUTO_ADDR_LIST", "NO"), ("EPICS_CA_ADDR_LIST", ADDRESS)]);
const NAME_SERVER: Looks =
    ("name server", &[("EPICS_CA_AUTO_ADDR_LIST", "NO"), ("EPICS_CA_NAME_SERVERS", ADDRESS)]);
const LIST_OF_NATIVE: Looks =
    ("address list", &[("EPICS_CA_AUTO_ADDR_LIST", "NO"), ("EPICS_CA_ADDR_LIST", "172.23.0.3")]);

impl Bench {
    fn new(lab: Lab) -> Result<Self> {
        let server = lab.pod_at(0, "server", Some(ADDRESS))?;
        let neighbour = lab.pod_at(0, "neighbour", Some(NEIGHBOUR))?;
        let plain = lab.pod("plain")?;
        let iocs = [lab.ioc(&server.netns, "POD")?, lab.ioc(NATIVE, "LAN")?];
        Ok(Self { lab, server, plain, neighbour, _iocs: iocs })
    }

    /// Everybody who reads the IOC in the pod: as called here, and the namespace.
    fn clients(&self) -> [Client<'_>; 4] {
        [
            ("a LAN client", WORKSTATION),
            ("a pod with an address", &self.neighbour.netns),
            ("a pod without an address", &self.plain.netns),
            ("a process of the node", NODE),
        ]
    }

    /// Those who look for an IOC: these clients, and the pod itself.
    fn attempts(&self, clients: &[Client<'_>]) -> Result<Vec<Attempt>> {
        let all = clients
            .iter()
            .flat_map(|client| [BROADCAST, LIST, NAME_SERVER].map(|way| (*client, way, "POD\n")));
        let pod = ("the pod itself", self.server.netns.as_str());
        let all = all.chain([BROADCAST, LIST_OF_NATIVE].map(|way| (pod, way, "LAN\n")));
        let start = |((who, netns), (way, variables), expected): (Client<'_>, Looks, &'static str)| {
            let line = format!("caget -t -w 5 {}:NAME", expected.trim_end());
            Ok(Attempt {
                who: format!("{who}, by {way}"),
                process: self.lab.epics(netns, &line, variables)?,
                expected,
            })
        };
        all.map(start).collect()
    }

    /// What of all this these clients, or the pod itself as one, cannot do.
    fn complaints(&self, clients: &[Client<'_>]) -> Result<Vec<String>> {
        for netns in [WORKSTATION, NATIVE] {
            self.lab.sandbox.sh(netns, "ip neigh flush all")?;
        }
        let attempts = self.attempts(clients)?;
        let mut complaints = vec![];
        let pings = clients.iter().map(|client| (*client, HOST));
        for ((who, netns), to) in pings.chain([(("the pod itself", self.server.netns.as_str()), NATIVE_HOST)])
        {
            if !ping(&self.lab.sandbox, netns, to, 84)? {
                complaints.push(format!("{who}, by ping"));
            }
        }
        for Attempt { who, process, expected } in attempts {
            let output = process.finish()?.output;
            if output != expected {
                complaints.push(format!("{who}: {}", output.trim()));
            }
        }
        Ok(complaints)
    }

    #[track_caller]
    fn assert_all_is_well(&self, when: &str) -> Result<()> {
        let complaints = self.complaints(&self.clients())?;
        assert!(complaints.is_empty(), "{when}:\n{}", complaints.join("\n"));
        Ok(())
    }

    /// Whom a host on the LAN takes the pod for, and the pod the workstation.
    fn sources(&self) -> Result<[String; 2]> {
        let native = Pod { netns: NATIVE.into(), ..self.server.clone() };
        Ok([
            client_of(&self.lab, &native, &self.server.netns, "172.23.0.3")?,
            client_of(&self.lab, &self.server, WORKSTATION, ADDRESS)?,
        ])
    }
}

fn rules_and_settings_of_others_are_passed(topology: Topology) -> Result<()> {
    let bench = Bench::new(Lab::up(Options::new(topology))?)?;
    let mut wrong = vec![];
    for surroundings in SURROUNDINGS {
        surroundings.begin(&bench.lab)?;
        let mut complaints = bench.complaints(&bench.clients())?;
        let is_known =
            |complaint: &String| surroundings.breaks.iter().any(|known| complaint.starts_with(known));
        complaints.retain(|complaint| !is_known(complaint));
        complaints.extend(surroundings.dropped(&bench.lab)?);
        if surroundings.sources != TRUE {
            doctor::says(&doctor::doctor(&bench.lab, "+all")?, "WARN  addresses", "by a NAT rule");
        }
        let sources = bench.sources()?;
        if sources != surroundings.sources {
            complaints.push(format!("sources are {sources:?}"));
        }
        wrong.extend(complaints.iter().map(|complaint| format!("{}: {complaint}", surroundings.name)));
        surroundings.end(&bench.lab)?;
    }
    assert!(wrong.is_empty(), "{topology:?}:\n{}", wrong.join("\n"));
    Ok(())
}

/// The node would tell pods of a shorter way to each other, and they keep to it for minutes after one has moved.
fn pods_of_one_node_keep_to_the_gateway(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pods = [
        lab.pod_at(0, "a", Some(ADDRESS))?,
        lab.pod_at(0, "b", Some(NEIGHBOUR))?,
        lab.pod("plain")?,
        lab.plain_pod("no-member")?,
    ];
    lab.sandbox.sh(NODE, "sysctl -q -w net.ipv4.conf.all.send_redirects=1")?;
    for pod in &pods {
        lab.sandbox.sh(&pod.netns, "sysctl -q -w net.ipv4.conf.all.accept_redirects=1")?;
        for to in [HOST, NEIGHBOUR_HOST] {
            for _ in 0..2 {
                assert!(ping(&lab.sandbox, &pod.netns, to, 84)?, "{} to {to}", pod.name);
            }
        }
    }
    for pod in &pods {
        for to in [HOST, NEIGHBOUR_HOST] {
            let route = lab.sandbox.sh(&pod.netns, &format!("ip route get {to}"))?;
            assert!(!route.contains("redirected"), "{}: {route}", pod.name);
        }
        let counters = lab.sandbox.sh(&pod.netns, "nstat -asz --json IcmpInRedirects")?;
        assert!(counters.contains("\"IcmpInRedirects\":0"), "{}: {counters}", pod.name);
    }
    Ok(())
}

/// A domain of which pods may have addresses.
fn domain(uplink: &str, more: &str) -> String {
    format!("[domain.{DOMAIN}]\nuplink = \"{uplink}\"\naddresses = [\"172.23.0.48/28\"]\n{more}")
}

/// As when a bond's other port takes over: the switch sees the node elsewhere.
fn a_bridge_as_uplink_may_change_its_port(topology: Topology) -> Result<()> {
    let mut lab = Lab::without_agent(Options::new(topology))?;
    bridge_the_uplink(&lab)?;
    lab.sandbox.sh(NODE, "ip link set br-lan address 02:00:00:00:00:10")?; // else it becomes that of another port
    lab.start_agent_with(&domain("br-lan", ""))?;
    let bench = Bench::new(lab)?;
    bench.assert_all_is_well("a bridge")?;
    let lab = &bench.lab;
    lab.sandbox.sh(SWITCH, "ip link add second type veth peer name eth1 netns node")?;
    lab.sandbox.sh(SWITCH, "ip link set second master lan0 up")?;
    for line in ["ip link set eth0 down", "ip link set eth1 master br-lan up"] {
        lab.sandbox.sh(NODE, line)?;
    }
    assert!(ping(&lab.sandbox, WORKSTATION, HOST, 84)?, "at once");
    bench.assert_all_is_well("another port")
}

fn jumbo_frames_fit(topology: Topology) -> Result<()> {
    let bench = Bench::new(Lab::up(Options { mtu: 9000, ..Options::new(topology) })?)?;
    bench.assert_all_is_well("MTU 9000")?;
    for (client, to) in [(WORKSTATION, HOST), (&bench.server.netns, NATIVE_HOST)] {
        assert!(ping(&bench.lab.sandbox, client, to, 9000)?, "{client}");
    }
    Ok(())
}

fn past_the_stack_everybody_reaches_a_pod(topology: Topology) -> Result<()> {
    let mut lab = Lab::without_agent(Options::new(topology))?;
    lab.start_agent_with(&domain("eth0", "path = \"direct\"\n"))?;
    Bench::new(lab)?.assert_all_is_well("path = \"direct\"")
}

/// A pod network like Calico's.
fn link_local_gateway() -> Result<Lab> {
    let mut lab = Lab::without_agent(Options::new(Topology::Routed))?;
    lab.execute(|executor| {
        let mut list = executor.conflist().clone();
        if let Some(plugins) = list.0["plugins"].as_array_mut() {
            plugins.insert(plugins.len() - 1, json!({ "type": "linklocal" }));
        }
        executor.set_conflist(list);
    });
    lab.start_agent()?;
    Ok(lab)
}

/// A policy at the veth of the pod, in which only one host of the LAN is an `ipBlock`, and Calico's reverse path filter.
fn policy(veth: &str) -> String {
    format!(
        "table ip beside {{
chain raw {{ type filter hook prerouting priority raw; fib saddr . iif oif missing counter drop; }}
chain forward {{ type filter hook forward priority 0; policy drop; iifname {veth} goto from-pod; oifname {veth} goto to-pod; accept; }}
chain from-pod {{ ct state invalid counter drop; accept; }}
chain to-pod {{
    ct state invalid counter drop
    ct state established,related accept
    ip saddr 172.23.0.2 accept
    drop
}}
}}
"
    )
}

#[test]
fn a_policy_at_the_veth_judges_hosts_of_the_lan() -> Result<()> {
    let bench = Bench::new(link_local_gateway()?)?;
    bench.assert_all_is_well("without a policy")?;
    let lab = &bench.lab;
    lab.sandbox.write("/run/beside.nft", policy(&lab.host_veth(&bench.server)))?;
    lab.sandbox.sh(NODE, "nft -f /run/beside.nft")?;
    let [allowed, .., node] = bench.clients();
    let complaints = bench.complaints(&[allowed, node])?;
    // An answer to a broadcast is a packet that nobody asked for, to conntrack and so to the policy.
    let answered = |complaint: &String| !complaint.starts_with("the pod itself, by broadcast");
    assert!(!complaints.iter().any(answered), "{}", complaints.join("\n"));
    assert_eq!(bench.sources()?, TRUE);
    let rules = lab.sandbox.sh(NODE, "nft list table ip beside")?;
    assert_eq!(rules.matches("counter packets 0 bytes 0 drop").count(), 3, "{rules}");

    let refused = [BROADCAST, LIST, NAME_SERVER]
        .map(|(_, variables)| lab.epics(NATIVE, "caget -t -w 1 POD:NAME", variables));
    for process in refused {
        let output = process?.finish()?.output;
        assert!(!output.starts_with("POD"), "{output}");
    }
    assert!(!ping(&lab.sandbox, NATIVE, HOST, 84)?);
    Ok(())
}

#[test]
#[ignore = "needs a kernel with bonding"]
fn a_bond_that_fails_over_answers_at_once() -> Result<()> {
    let mut lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    lab.sandbox.sh(SWITCH, "ip link add second type veth peer name eth1 netns node")?;
    lab.sandbox.sh(SWITCH, "ip link set second master lan0 up")?;
    for line in [
        "ip link add bond0 type bond mode active-backup miimon 50",
        "ip address flush dev eth0",
        "ip link set eth0 down",
        "ip link set eth0 master bond0",
        "ip link set eth1 master bond0",
        "ip link set bond0 up",
        "ip address add 172.23.0.10/24 broadcast + dev bond0",
    ] {
        lab.sandbox.sh(NODE, line)?;
    }
    lab.start_agent_with(&domain("bond0", ""))?;
    let bench = Bench::new(lab)?;
    bench.assert_all_is_well("a bond")?;
    bench.lab.sandbox.sh(SWITCH, "ip link set node down")?;
    assert!(ping(&bench.lab.sandbox, WORKSTATION, HOST, 84)?, "at once");
    bench.assert_all_is_well("another port")
}

#[test]
#[ignore = "needs a kernel with 8021q"]
fn a_vlan_has_addresses() -> Result<()> {
    let mut lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    for (netns, address) in [(WORKSTATION, "172.23.0.2"), (NATIVE, "172.23.0.3"), (NODE, NODE_ADDRESS)] {
        for line in [
            "ip address flush dev eth0",
            "ip link add link eth0 name eth0.7 type vlan id 7",
            &format!("ip address add {address}/24 broadcast + dev eth0.7"),
            "ip link set eth0.7 up",
        ] {
            lab.sandbox.sh(netns, line)?;
        }
    }
    lab.start_agent_with(&domain("eth0.7", ""))?;
    Bench::new(lab)?.assert_all_is_well("a VLAN")
}

/// A program that lets only what comes from `own` pass, and what is not IPv4, as Cilium's on the veth.
fn only_from(own: [u8; 4]) -> [u64; 9] {
    let load = |size: u64, offset: i32| bpf::instruction(0x20 | size, 0, 0, 0, offset);
    [
        bpf::instruction(0xbf, 6, 1, 0, 0), // where loads from the packet look for it
        load(0x08, 12),
        bpf::instruction(0x55, 0, 0, 2, 0x0800), // not IPv4
        load(0x00, 26),
        bpf::instruction(0x55, 0, 0, 2, i32::from_be_bytes(own)),
        bpf::set(0, 0), // TCX_PASS
        bpf::EXIT,
        bpf::set(0, 2), // TCX_DROP
        bpf::EXIT,
    ]
}

/// Puts a program behind ours on the pod's veth, for as long as what is returned is kept.
fn drop_foreign_sources(lab: &Lab, pod: &Pod, way: Way) -> Result<OwnedFd> {
    let own: Ipv4Addr = pod.address.parse().unwrap_or_else(|error| panic!("{}: {error}", pod.address));
    let program = tried("load a program", bpf::load(&only_from(own.octets())))?;
    match way {
        Way::Tcx => attach(lab, &program, &lab.host_veth(pod), Side::Ingress),
        Way::Clsact => add_filter(lab, &program, &lab.host_veth(pod), Side::Ingress).map(|()| program),
    }
}

fn who_drops_foreign_sources_is_named_and_passed_by_directly(topology: Topology) -> Result<()> {
    let mut bench = Bench::new(Lab::up(Options::new(topology))?)?;
    let way = if topology == Topology::Bridge { Way::Tcx } else { Way::Clsact };
    let _program = drop_foreign_sources(&bench.lab, &bench.server, way)?;
    let native = Pod { netns: NATIVE.into(), ..bench.server.clone() };
    let refused =
        client_of(&bench.lab, &native, &bench.server.netns, "172.23.0.3").map_err(|error| error.to_string());
    assert!(refused.as_ref().is_err_and(|error| error.contains("connect")), "{refused:?}");
    let said = doctor::doctor(&bench.lab, "+all")?;
    doctor::says(&said, "WARN  addresses", "set `path = \"direct\"`");

    bench.lab.terminate_agent()?;
    bench.lab.start_agent_with(&domain("eth0", "path = \"direct\"\n"))?;
    let complaints = bench.complaints(&bench.clients()[..2])?;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert_eq!(bench.sources()?, TRUE);
    // These go through the stack, and find the pod by its own address.
    for client in &bench.clients()[2..] {
        let output = bench.lab.epics_output(client.1, "caget -t -w 5 POD:NAME", BROADCAST.1)?;
        assert_eq!(output, "POD\n", "{}", client.0);
    }
    Ok(())
}

/// As many as the lab's LAN has room for.
const MANY: usize = 250;
const PORT: u16 = 5064;
const PATIENCE: Duration = Duration::from_secs(3);

#[test]
fn so_many_addresses_on_one_node_all_answer() -> Result<()> {
    lab::turn::take(lab::turn::Kind::Alone); // the plugins wait for each other's lock
    let mut lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    lab.start_agent_with(&domain("eth0", "").replace("172.23.0.48/28", "172.23.0.1-172.23.0.254"))?;
    let _bridge = lab.plain_pod("first")?; // makes it
    let is_free = |host: &u8| ![2, 3, 10].contains(host);
    let hosts: Vec<u8> = (1..255).filter(is_free).take(MANY).collect();
    make_pods(&lab, &hosts)?;
    let begin = Instant::now();
    for hosts in hosts.chunks(25) {
        join(&lab, hosts)?;
    }
    let joined = begin.elapsed();
    let _listeners: Vec<_> = hosts.iter().map(|host| listen(&lab, *host)).collect::<Result<_>>()?;
    let begin = Instant::now();
    let silent: Vec<_> = lab.sandbox.run_in(WORKSTATION, move || {
        let connect = |host| TcpStream::connect_timeout(&([172, 23, 0, host], PORT).into(), PATIENCE);
        hosts.into_iter().filter(|host| connect(*host).is_err()).collect()
    })?;
    assert!(silent.is_empty(), "{silent:?}");
    let connected = begin.elapsed();
    assert_eq!(lab.state(|state| state.lan_addresses().map(|all| all.len()))?.ok(), Some(MANY));
    assert_eq!(lab.sandbox.sh(NODE, "ip route show proto 105")?.lines().count(), MANY);
    lab::report(
        &format!("{MANY} pods with LAN addresses on one node"),
        &format!(
            "ADD, 25 at a time, {:.1} s; a connection to each {:.2} s",
            joined.as_secs_f32(),
            connected.as_secs_f32()
        ),
    );
    Ok(())
}

fn many(host: u8) -> String {
    format!("many-{host}")
}

/// Makes a pod for each of these as the bridge plugin would, only faster.
fn make_pods(lab: &Lab, hosts: &[u8]) -> Result<()> {
    let make = |host: &u8| {
        format!(
            "netns add pod-many-{host}\nlink add many-{host} type veth peer name eth0 netns pod-many-{host}\n\
             link set many-{host} master cni0 up\n"
        )
    };
    lab.sandbox.write("/run/many", hosts.iter().map(make).collect::<String>())?;
    lab.sandbox.sh(NODE, "ip -batch /run/many")?;
    for (own, host) in (3..).zip(hosts) {
        let lines = format!(
            "link set eth0 up\naddress add 10.244.1.{own}/24 broadcast + dev eth0\nroute add default via 10.244.1.1\n"
        );
        lab.sandbox.write("/run/many", lines)?;
        lab.sandbox.sh(&format!("pod-{}", many(*host)), "ip -batch /run/many")?;
    }
    Ok(())
}

/// ADD of all of these at once.
fn join(lab: &Lab, hosts: &[u8]) -> Result<()> {
    let start = |host: &u8| {
        let attachment = lab.attachment(&many(*host), &[]);
        lan_address::start(lab, "ADD", NODE, &attachment, &format!("172.23.0.{host}"))
    };
    let children: Vec<_> = hosts.iter().map(start).collect::<Result<_>>()?;
    for (host, child) in hosts.iter().zip(children) {
        let (added, said) = lan_address::finish(child);
        assert!(added, "172.23.0.{host}: {said}");
    }
    Ok(())
}

fn listen(lab: &Lab, host: u8) -> Result<TcpListener> {
    let listen = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT));
    tried("listen", lab.sandbox.run_in(&format!("pod-{}", many(host)), listen)?)
}
