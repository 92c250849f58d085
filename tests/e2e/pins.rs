//! Pins and what the node itself has on the same ports: sockets, and rules that forward. A pin never takes a port from
//! them, and what comes later is noticed.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{fmt::Debug, net::SocketAddr, process::Command};

use lab::{DOMAIN, Lab, NODE, Options, Pod, Result, Topology};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use serde_json::json;

/// The pins of a pod that asks for one port.
const TCP: &str = "tcp/5064=15064";
const UDP: &str = "udp/5064=15064";

/// A pod with these pins.
fn pinned(lab: &Lab, ports: &str) -> Result<Pod> {
    lab.pod_with("ioc-a", &[("iocast.io/domain", DOMAIN), ("iocast.io/ports", ports)])
}

/// What ADD says to these pins.
fn refusal(lab: &Lab, ports: &str) -> String {
    match pinned(lab, ports) {
        Err(error) => error.to_string(),
        Ok(pod) => {
            lab.delete_pod(&pod).unwrap();
            "no refusal".into()
        }
    }
}

/// What the doctor says of pins.
fn warnings(lab: &Lab) -> Result<String> {
    let said = lab.agent_command("doctor --config /run/iocast/config.toml")?.finish()?.output;
    Ok(said.lines().filter(|line| line.contains(" pins ")).collect())
}

/// Shows that what `begin` begins keeps a pin from being given, that nothing is left once it has ended, and that the doctor
/// tells of it when it comes after the pin.
#[track_caller]
fn keeps_the_port<T>(lab: &Lab, name: &str, ports: &str, says: &str, begin: impl Fn() -> T, end: impl Fn(T)) {
    let there = begin();
    let refused = refusal(lab, ports);
    assert!(refused.contains(says) && refused.contains("external port 15064"), "{name}: {refused}");
    end(there);
    let pod = pinned(lab, ports).unwrap_or_else(|error| panic!("after {name}: {error}"));
    assert_eq!(warnings(lab).unwrap(), "", "{name}");
    let there = begin();
    let warned = warnings(lab).unwrap();
    assert!(warned.contains("pod beamline/ioc-a has pinned") && warned.contains(says), "{name}: {warned}");
    end(there);
    assert_eq!(warnings(lab).unwrap(), "", "{name}");
    lab.delete_pod(&pod).unwrap();
}

/// A socket of the node.
fn bound(lab: &Lab, kind: SockType, address: &str, shared: bool) -> impl Debug + use<> {
    let address: SocketAddr = address.parse().unwrap();
    let make = move || {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let made = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&made, sockopt::ReusePort, &shared).unwrap();
        setsockopt(&made, sockopt::ReuseAddr, &true).unwrap();
        bind(std::os::fd::AsRawFd::as_raw_fd(&made), &SockaddrStorage::from(address)).unwrap();
        if kind == SockType::Stream {
            listen(&made, Backlog::new(1).unwrap()).unwrap();
        }
        made
    };
    lab.sandbox.run_in(NODE, make).unwrap()
}

#[test]
fn a_pin_takes_no_port_from_a_socket_of_the_node() -> Result<()> {
    let lab = Lab::up(Options::with_pins(Topology::Bridge))?;
    let (stream, datagram) = (SockType::Stream, SockType::Datagram);
    for (name, ports, kind, address, shared) in [
        ("all addresses", TCP, stream, "0.0.0.0:15064", false),
        ("the uplink's address", TCP, stream, "172.23.0.10:15064", false),
        ("IPv6 and IPv4", TCP, stream, "[::]:15064", false),
        ("IPv4 as IPv6", TCP, stream, "[::ffff:172.23.0.10]:15064", false),
        ("SO_REUSEPORT", TCP, stream, "0.0.0.0:15064", true),
        ("UDP", UDP, datagram, "0.0.0.0:15064", false),
        ("UDP, the uplink's address", UDP, datagram, "172.23.0.10:15064", false),
        ("UDP, IPv6 and IPv4", UDP, datagram, "[::]:15064", false),
        ("UDP, SO_REUSEPORT", UDP, datagram, "0.0.0.0:15064", true),
    ] {
        let says = format!("a process on the node listens there ({address})");
        keeps_the_port(&lab, name, ports, &says, || bound(&lab, kind, address, shared), drop);
    }
    for (name, kind, address) in [
        ("loopback", stream, "127.0.0.1:15064"),
        ("IPv6 loopback", stream, "[::1]:15064"),
        ("another port", stream, "0.0.0.0:15065"),
        ("another protocol", datagram, "0.0.0.0:15064"),
    ] {
        let _there = bound(&lab, kind, address, false);
        assert_eq!(refusal(&lab, TCP), "no refusal", "{name}");
    }
    Ok(())
}

/// Rules, a line each: `i` stands for iptables in its table nat, `n` for nft with a table of the test's own.
struct Rules {
    name: &'static str,
    ports: &'static str,
    lines: &'static [&'static str],
    /// The chain that is named; none if the port is free.
    chain: Option<&'static str>,
}

const fn rules(name: &'static str, lines: &'static [&'static str], chain: &'static str) -> Rules {
    Rules { name, ports: TCP, lines, chain: Some(chain) }
}

const fn harmless(name: &'static str, lines: &'static [&'static str]) -> Rules {
    Rules { name, ports: TCP, lines, chain: None }
}

/// The prerouting chain of the test's own table.
const PRE: &str = "chain P { type nat hook prerouting priority dstnat ; }";

const RULES: &[Rules] = &[
    rules(
        "tcp",
        &["i -A PREROUTING -p tcp --dport 15064 -j DNAT --to 10.244.1.9:80"],
        "ip nat, chain PREROUTING",
    ),
    rules(
        "a range",
        &["i -A PREROUTING -p tcp --dport 15000:15100 -j DNAT --to 10.244.1.9:80"],
        "ip nat, chain PREROUTING",
    ),
    rules(
        "the match tcp",
        &["i -A PREROUTING -p tcp -m tcp --dport 15000:15100 --tcp-option 2 -j DNAT --to 10.244.1.9:80"],
        "ip nat, chain PREROUTING",
    ),
    rules(
        "all but a port",
        &["i -A PREROUTING -p tcp ! --dport 22 -j DNAT --to 10.244.1.9:80"],
        "ip nat, chain PREROUTING",
    ),
    rules(
        "several",
        &["i -A PREROUTING -p tcp -m multiport --dports 80,15064 -j REDIRECT"],
        "ip nat, chain PREROUTING",
    ),
    rules(
        "ranges",
        &["i -A PREROUTING -p tcp -m multiport --dports 80,15000:15100,22 -j REDIRECT"],
        "ip nat, chain PREROUTING",
    ),
    rules(
        "not several",
        &["i -A PREROUTING -p tcp -m multiport ! --dports 80,22 -j REDIRECT"],
        "ip nat, chain PREROUTING",
    ),
    rules(
        "any port",
        &["i -A PREROUTING -d 172.23.0.10/32 -j DNAT --to 10.244.1.9"],
        "ip nat, chain PREROUTING",
    ),
    rules(
        "a network",
        &["i -A PREROUTING -d 172.16.0.0/12 -p tcp --dport 15064 -j REDIRECT"],
        "ip nat, chain PREROUTING",
    ),
    rules(
        "the uplink",
        &["i -A PREROUTING -i eth+ -p tcp --dport 15064 -j REDIRECT"],
        "ip nat, chain PREROUTING",
    ),
    rules(
        "all interfaces but one",
        &["i -A PREROUTING ! -i docker0 -p tcp -m tcp --dport 15064 -j DNAT --to 10.244.1.9:80"],
        "ip nat, chain PREROUTING",
    ),
    rules(
        "a hostPort",
        &[
            "i -N CNI-DN-1",
            "i -N CNI-HOSTPORT-DNAT",
            "i -A CNI-DN-1 -p tcp --dport 15064 -j DNAT --to-destination 10.244.1.9:80",
            "i -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment x -m multiport --destination-ports 15064 -j CNI-DN-1",
            "i -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
        ],
        "ip nat, chain CNI-HOSTPORT-DNAT",
    ),
    rules(
        "a NodePort",
        &[
            "i -N KUBE-SVC-1",
            "i -N KUBE-NODEPORTS",
            "i -N KUBE-SERVICES",
            "i -A KUBE-NODEPORTS -p tcp -m comment --comment x -m tcp --dport 15064 -j KUBE-SVC-1",
            "i -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-1",
            "i -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
            "i -A PREROUTING -j KUBE-SERVICES",
        ],
        "ip nat, chain KUBE-NODEPORTS",
    ),
    Rules {
        name: "udp",
        ports: UDP,
        lines: &["i -A PREROUTING -p udp --dport 15064 -j DNAT --to 10.244.1.9:80"],
        chain: Some("ip nat, chain PREROUTING"),
    },
    rules("nft", &[PRE, "rule P tcp dport 15064 dnat to 10.244.1.9:80"], "ip t, chain P"),
    rules("nft, a range", &[PRE, "rule P tcp dport 15000-15100 redirect to :80"], "ip t, chain P"),
    rules("nft, ports", &[PRE, "rule P tcp dport { 80, 15064 } redirect to :80"], "ip t, chain P"),
    rules(
        "nft, ranges",
        &[PRE, "rule P tcp dport { 80, 15000-15100, 60000-65535 } redirect to :80"],
        "ip t, chain P",
    ),
    rules("nft, other ports", &[PRE, "rule P tcp dport != { 22, 80 } redirect to :80"], "ip t, chain P"),
    rules(
        "nft, the uplink",
        &[PRE, "rule P iif eth0 iifname eth0 tcp dport 15064 redirect to :80"],
        "ip t, chain P",
    ),
    rules(
        "nft, any port",
        &[PRE, "rule P ip daddr 172.23.0.0/24 counter dnat to 10.244.1.9"],
        "ip t, chain P",
    ),
    rules(
        "nft, a set",
        &[
            PRE,
            "set S { type inet_service ; flags interval ; elements = { 15000-15100 } ; }",
            "rule P tcp dport @S dnat to 10.244.1.9",
        ],
        "ip t, chain P",
    ),
    rules("nft, a map", &[PRE, "rule P dnat to tcp dport map { 15064 : 10.244.1.9 }"], "ip t, chain P"),
    rules("nft, verdicts", &[PRE, "chain X", "rule P tcp dport vmap { 15064 : jump X }"], "ip t, chain P"),
    rules(
        "nft, addresses",
        &[PRE, "chain X", "rule X redirect", "rule P ip daddr vmap { 172.23.0.10 : goto X }"],
        "ip t, chain X",
    ),
    rules(
        "nft, the rest",
        &[PRE, "chain X", "rule X redirect", "rule P tcp dport vmap { 80-90 : return , * : jump X }"],
        "ip t, chain X",
    ),
    rules(
        "nft, a NodePort",
        &[
            PRE,
            "chain X",
            "set A { type ipv4_addr ; elements = { 172.23.0.10 } ; }",
            "map N { type inet_proto . inet_service : verdict ; elements = { tcp . 15064 : goto X } ; }",
            "rule P ip daddr @A meta l4proto . th dport vmap @N",
        ],
        "ip t, chain P",
    ),
    rules(
        "nft, fields and ranges",
        &[
            PRE,
            "set S { typeof ip daddr . tcp dport ; flags interval ; elements = { 172.23.0.0/24 . 15000-15100 } ; }",
            "rule P ip daddr . tcp dport @S redirect",
        ],
        "ip t, chain P",
    ),
    harmless(
        "nft, not the rest",
        &[PRE, "chain X", "rule X redirect", "rule P tcp dport vmap { 15000-15999 : return , * : jump X }"],
    ),
    harmless("another port", &["i -A PREROUTING -p tcp --dport 15065 -j DNAT --to 10.244.1.9:80"]),
    harmless("another protocol", &["i -A PREROUTING -p udp --dport 15064 -j DNAT --to 10.244.1.9:80"]),
    harmless("several others", &["i -A PREROUTING -p tcp -m multiport --dports 80,15065:15100 -j REDIRECT"]),
    harmless("sources", &["i -A PREROUTING -p tcp -m multiport --sports 15064 -j MARK --set-mark 1"]),
    harmless("another interface", &["i -A PREROUTING -i cni0 -p tcp --dport 15064 -j REDIRECT"]),
    harmless("a Service's address", &["i -A PREROUTING -d 10.96.0.1/32 -p tcp --dport 15064 -j REDIRECT"]),
    harmless("a source's address", &["i -A POSTROUTING -p tcp --dport 15064 -j MASQUERADE"]),
    harmless(
        "exempt",
        &["i -A PREROUTING -p tcp --dport 15064 -j RETURN", "i -A PREROUTING -p tcp -j DNAT --to 10.244.1.9"],
    ),
    harmless("nft, others", &[PRE, "rule P tcp dport { 80, 15000-15063, 15065-16000 } redirect to :80"]),
    harmless("nft, not it", &[PRE, "rule P tcp dport != { 22, 15064 } redirect to :80"]),
    harmless(
        "nft, a filter beside it",
        &[
            PRE,
            "chain F { type filter hook input priority 0 ; }",
            "chain X",
            "rule X tcp dport 15064 accept",
            "rule F tcp dport vmap { 15064 : jump X }",
        ],
    ),
    harmless(
        "nft, Services",
        &[
            PRE,
            "chain X",
            "map M { type ipv4_addr . inet_proto . inet_service : verdict ; elements = { 10.96.0.1 . tcp . 15064 : goto X } ; }",
            "rule P ip daddr . meta l4proto . th dport vmap @M",
        ],
    ),
];

/// Adds the rules.
fn add(lab: &Lab, iptables: &str, lines: &[&str]) {
    lab.sandbox.sh(NODE, "nft add table ip t").unwrap();
    for line in lines {
        let command = match line.split_once(' ') {
            Some(("i", rest)) => format!("{iptables} -t nat {rest}"),
            Some((what, rest)) => format!("nft add {what} ip t {rest}"),
            None => unreachable!("{line}"),
        };
        lab.sandbox.sh(NODE, &command).unwrap();
    }
}

/// Removes all of them.
fn remove(lab: &Lab, iptables: &str) {
    lab.sandbox.sh(NODE, "nft delete table ip t").unwrap();
    lab.sandbox.sh(NODE, &format!("{iptables} -t nat -F")).unwrap();
    lab.sandbox.sh(NODE, &format!("{iptables} -t nat -X")).unwrap();
}

/// Tries all rules that `program` can add, or that are nft's.
fn try_rules(program: &str) -> Result<()> {
    let lab = Lab::up(Options::with_pins(Topology::Bridge))?;
    lab.sandbox.sh(NODE, "nft delete table ip nat")?; // iptables makes its own
    let is_nft = program == "iptables-nft";
    for Rules { name, ports, lines, chain } in
        RULES.iter().filter(|rules| is_nft || rules.lines[0].starts_with("i "))
    {
        let (begin, end) = (|| add(&lab, program, lines), |()| remove(&lab, program));
        if let Some(chain) = chain {
            let table = if is_nft { "ip nat" } else { "nat of legacy iptables" };
            let says = format!("table {}) already forwards it", chain.replace("ip nat", table));
            keeps_the_port(&lab, name, ports, &says, begin, end);
        } else {
            begin();
            assert_eq!(refusal(&lab, ports), "no refusal", "{name}");
            end(());
        }
    }
    Ok(())
}

#[test]
fn a_pin_takes_no_port_that_the_node_forwards() -> Result<()> {
    try_rules("iptables-nft")
}

#[test]
fn a_pin_takes_no_port_that_the_node_forwards_by_legacy_iptables() -> Result<()> {
    try_rules("iptables-legacy")
}

/// Gives a pod a hostPort, or takes it, by the plugin that does it in clusters.
fn portmap(lab: &Lab, pod: &Pod, verb: &str, port: u16) -> Result<()> {
    let mapping = json!([{ "hostPort": port, "containerPort": 80, "protocol": "tcp" }]);
    let configuration = json!({ "cniVersion": "1.0.0", "name": "lab", "type": "portmap", "snat": true,
                                "runtimeConfig": { "portMappings": mapping }, "prevResult": pod.result });
    let mut command = Command::new("/usr/lib/cni/portmap");
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("CNI_PATH", "/usr/lib/cni").envs([
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", &pod.attachment.container),
        ("CNI_NETNS", &pod.attachment.netns),
        ("CNI_IFNAME", &pod.attachment.interface),
    ]);
    let ran = lab.sandbox.run_in(NODE, move || lab::cni_pipe(command, &configuration.to_string()))?;
    let (success, output) = lab::tried("run portmap", ran)?;
    if success { Ok(()) } else { Err(lab::Error::Command { command: format!("portmap {verb}"), output }) }
}

#[test]
fn a_pin_takes_no_port_from_another_pods_host_port() -> Result<()> {
    let lab = Lab::up(Options::with_pins(Topology::Bridge))?;
    let other = lab.pod("other")?;
    let (begin, end) =
        (|| portmap(&lab, &other, "ADD", 15064).unwrap(), |()| portmap(&lab, &other, "DEL", 15064).unwrap());
    keeps_the_port(&lab, "portmap", TCP, "CNI-HOSTPORT-DNAT) already forwards it", begin, end);
    portmap(&lab, &other, "ADD", 15065)?;
    assert_eq!(refusal(&lab, TCP), "no refusal", "beside another hostPort");
    Ok(())
}

#[test]
fn the_pins_of_a_domain_leave_ports_for_others() -> Result<()> {
    let lab = Lab::up(Options::with_pins(Topology::Bridge))?;
    let pins =
        |pod: u16| (0..32).map(|at| format!("tcp/{}={},", 1 + at, 15000 + 32 * pod + at)).collect::<String>();
    let pod = |number: u16, ports: &str| {
        lab.pod_with(&format!("pod-{number}"), &[("iocast.io/domain", DOMAIN), ("iocast.io/ports", ports)])
    };
    let pods = (0..16).map(|number| pod(number, &pins(number))).collect::<Result<Vec<_>>>()?;
    let refused = refusal(&lab, "tcp/1=15900");
    assert!(
        refused.contains("the domain's pods have pinned 512 ports on this node, the maximum"),
        "{refused}"
    );
    lab.pod("without-pins")?;
    lab.delete_pod(&pods[3])?;
    pod(16, &pins(16)).map(|_| ())
}
