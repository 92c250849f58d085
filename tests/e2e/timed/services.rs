//! What the node's own rules cost a pod that pins ports, where there are many.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use lab::{DOMAIN, Lab, NODE, Options, Result, Topology, turn};

/// Rules and elements such as kube-proxy has for so many Services, a quarter of them with NodePorts.
const SERVICES: u32 = 10_000;

/// As kube-proxy has them with iptables.
fn by_iptables() -> String {
    let mut text = String::from("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n");
    let mut rules = String::new();
    for number in 0..SERVICES {
        let (high, low) = (number / 250, number % 250);
        let _ = writeln!(text, ":KUBE-SVC-{number} - [0:0]\n:KUBE-SEP-{number} - [0:0]");
        let _ = write!(
            rules,
            "-A KUBE-SERVICES -d 10.96.{high}.{low}/32 -p tcp -m comment --comment \"ns/service-{number}:http cluster IP\" \
             -m tcp --dport 80 -j KUBE-SVC-{number}\n-A KUBE-SVC-{number} -j KUBE-SEP-{number}\n\
             -A KUBE-SEP-{number} -p tcp -m tcp -j DNAT --to-destination 10.244.{high}.{low}:8080\n"
        );
        if number % 4 == 0 {
            let port = 20_000 + number / 4;
            let _ = writeln!(rules, "-A KUBE-NODEPORTS -p tcp -m tcp --dport {port} -j KUBE-SVC-{number}");
        }
    }
    text + &rules
        + "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n"
}

/// As kube-proxy has them with nft.
fn by_nft() -> String {
    let ports = (0..SERVICES / 4).map(|number| format!("tcp . {} : goto service", 20_000 + number));
    let services = (0..SERVICES)
        .map(|number| format!("10.96.{}.{} . tcp . 80 : goto service", number / 250, number % 250));
    let join = |elements: Vec<String>| elements.join(", ");
    format!(
        "table ip kube-proxy {{\nchain service {{ dnat to 10.244.1.9; }}\n\
         map ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }}; }}\n\
         map ports {{ type inet_proto . inet_service : verdict; elements = {{ {} }}; }}\n\
         chain pre {{ type nat hook prerouting priority dstnat;\n\
         ip daddr . meta l4proto . th dport vmap @ips;\nfib daddr type local meta l4proto . th dport vmap @ports; }}\n}}\n",
        join(services.collect()),
        join(ports.collect()),
    )
}

#[test]
fn the_rules_of_many_services_are_read_in_time() -> Result<()> {
    turn::take(turn::Kind::Alone);
    for (name, text, program) in
        [("iptables", by_iptables(), "iptables-nft-restore --noflush"), ("nft", by_nft(), "nft -f")]
    {
        let lab = Lab::up(Options { pins: Some((15000, 29999)), ..Options::new(Topology::Bridge) })?;
        lab.sandbox.sh(NODE, "nft delete table ip nat")?;
        lab.sandbox.write("/run/rules", text)?;
        lab.sandbox.sh(NODE, &format!("{program} /run/rules"))?;
        let pod = |name: &str, ports: &str| {
            let begin = Instant::now();
            lab.pod_with(name, &[("iocast.io/domain", DOMAIN), ("iocast.io/ports", ports)])?;
            Ok::<_, lab::Error>(begin.elapsed())
        };
        let refused =
            pod("refused", "tcp/5064=20999").map_or_else(|error| error.to_string(), |_| "no refusal".into());
        assert!(refused.contains("a NAT rule of the node"), "{name}: {refused}");
        let without = pod("without", "")?;
        let more = pod("with", "tcp/5064=15064,tcp/5075=15075")?.saturating_sub(without);
        lab::report(
            &format!("ADD with pins beside {SERVICES} Services ({name})"),
            &format!("{more:?} longer"),
        );
        assert!(more < Duration::from_secs(1), "{name}: {more:?}");
    }
    Ok(())
}
