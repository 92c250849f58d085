//! Ports that are asked for, or configured: pinned external ports, and LAN ports that differ from those in pods.

use lab::{
    Lab, NODE, Options, Process, Result, Topology, WORKSTATION,
    epics::{Client, Server, shows},
};

lab::in_both_topologies! {
    a_pinned_port_is_the_pods_own_from_the_start
    a_pinned_port_is_taken_once_and_given_back
    a_port_that_is_not_the_domains_to_give_is_refused
    a_pin_follows_the_uplinks_address
    two_domains_of_one_uplink_have_the_same_names_on_other_lan_ports
}

/// A pod with these pins.
fn pinned(lab: &Lab, name: &str, ports: &str) -> Result<lab::Pod> {
    lab.pod_with(name, &[("iocast.io/domain", lab::DOMAIN), ("iocast.io/ports", ports)])
}

/// What ADD says to these pins.
fn refusal(lab: &Lab, ports: &str) -> String {
    pinned(lab, "refused", ports).map_or_else(|error| error.to_string(), |_| "no refusal".into())
}

/// Reads a PV over Channel Access by a list or a name server, and nothing else.
fn caget(lab: &Lab, pv: &str, variable: &str, server: &str) -> Result<String> {
    let variables = [("EPICS_CA_AUTO_ADDR_LIST", "NO"), (variable, server)];
    lab.epics_output(WORKSTATION, &format!("caget -t -w 5 {pv}"), &variables)
}

fn a_pinned_port_is_the_pods_own_from_the_start(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::with_pins(topology))?;
    let pod = pinned(&lab, "ioc-a", "tcp/5064=15064, udp/5064=15064, tcp/5075=15075")?;
    let _ioc = lab.ioc_of(Server::Pvxs, &pod.netns, "A")?;
    // Before anything was searched: no answer has taken a port yet.
    assert_eq!(caget(&lab, "A:NAME", "EPICS_CA_NAME_SERVERS", "172.23.0.10:15064")?, "A\n");
    let variables = [("EPICS_PVA_AUTO_ADDR_LIST", "NO"), ("EPICS_PVA_NAME_SERVERS", "172.23.0.10:15075")];
    assert!(shows(&lab.pvget(Client::Pvxs, WORKSTATION, "A:NAME", &variables)?, "A"));
    assert_eq!(caget(&lab, "A:NAME", "EPICS_CA_ADDR_LIST", "172.23.0.10:15064")?, "A\n");
    assert_eq!(lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &[])?, "A\n", "and by broadcast");
    assert_eq!(lab.external_port("ioc-a", "tcp", 5064)?, Some(15064), "the same one");
    Ok(())
}

fn a_pinned_port_is_taken_once_and_given_back(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::with_pins(topology))?;
    let pod = pinned(&lab, "ioc-a", "tcp/5064=15064")?;
    let refused = refusal(&lab, "tcp/5064=15063,tcp/5065=15064");
    assert!(refused.contains("tcp/15064 is taken by pod beamline/ioc-a"), "{refused}");
    assert_eq!(lab.external_port("refused", "tcp", 5064)?, None, "nothing is left of the refused one");
    let left = lab.leftovers()?;
    assert_eq!((left.members, left.roster_entries), (1, 1), "{left:?}");
    lab.delete_pod(&pod)?;
    pinned(&lab, "ioc-b", "tcp/5064=15064,tcp/5065=15063")?;
    Ok(())
}

fn a_port_that_is_not_the_domains_to_give_is_refused(topology: Topology) -> Result<()> {
    let mut lab = Lab::without_agent(Options::new(topology))?;
    let configuration = |more: &str| format!("[domain.{}]\nuplink = \"eth0\"\n{more}", lab::DOMAIN);
    lab.start_agent_with(&configuration(""))?;
    let refused = refusal(&lab, "tcp/5064=15064");
    let why = "pods may pin 65000-65535; an admin can allow others by `pins`";
    assert!(refused.contains(why), "by default: {refused}");
    pinned(&lab, "ioc-a", "tcp/5064=65064")?;
    lab.terminate_agent()?;
    lab.start_agent_with(&configuration("pins = \"5000-29999\"\n"))?;
    let database = "record(ai, \"$(P):X\") {}";
    let _ioc = lab.ioc_with(NODE, "N", database, &[("EPICS_CAS_SERVER_PORT", "15064")])?;
    for (ports, why) in [
        ("tcp/22=22", "pods may pin 5000-29999"),
        ("udp/5064=5064", "UDP searches to this port go to all pods"),
        ("udp/7000=7000", "does not relay UDP port 7000 of pods"),
        ("tcp/5064=15064", "a process on the node listens there"),
        ("tcp/5064", "write tcp/5064=65064"),
    ] {
        let refused = refusal(&lab, ports);
        assert!(refused.contains(why) && refused.contains("iocast.io/ports"), "{ports}: {refused}");
    }
    Ok(())
}

fn a_pin_follows_the_uplinks_address(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::with_pins(topology))?;
    let pod = pinned(&lab, "ioc-a", "tcp/5064=15064")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    lab.sandbox.sh(NODE, "ip address del 172.23.0.10/24 dev eth0")?;
    lab.sandbox.sh(NODE, "ip address add 172.23.0.20/24 broadcast + dev eth0")?;
    let read = || caget(&lab, "A:NAME", "EPICS_CA_NAME_SERVERS", "172.23.0.20:15064");
    let followed = (0..3).map(|_| read()).find(|read| read.as_ref().is_ok_and(|read| read == "A\n"));
    assert!(followed.is_some(), "{}", lab.status()?);
    Ok(())
}

/// An IOC of every protocol in a pod of this domain, whose PVs have the same names in every domain.
fn ioc_in(lab: &Lab, domain: &str) -> Result<(lab::Pod, Process)> {
    let pod = lab.pod_with(&format!("ioc-{domain}"), &[("iocast.io/domain", domain)])?;
    let database =
        format!("record(stringin, \"$(P):NAME\") {{ field(VAL, \"{domain}\") field(PINI, \"YES\") }}");
    let ioc = lab.ioc_from(&database, Server::PvAccessCpp, &pod.netns, "X", &[])?;
    Ok((pod, ioc))
}

fn two_domains_of_one_uplink_have_the_same_names_on_other_lan_ports(topology: Topology) -> Result<()> {
    let mut lab = Lab::without_agent(Options::new(topology))?;
    lab.start_agent_with(
        "[domain.hall]\nuplink = \"eth0\"\nports = \"61000-61999\"\n\
         [domain.workshop]\nuplink = \"eth0\"\nports = \"62000-62999\"\n\
         lan_ports = { 5064 = 8064, 5065 = 8065, 5076 = 8076 }\n",
    )?;
    let _iocs = [ioc_in(&lab, "hall")?, ioc_in(&lab, "workshop")?];
    let workshop = [("EPICS_CA_SERVER_PORT", "8064"), ("EPICS_CA_REPEATER_PORT", "8065")];
    let pva = [("EPICS_PVA_BROADCAST_PORT", "8076")];
    for (domain, ca, pva) in [("hall", &[][..], &[][..]), ("workshop", &workshop[..], &pva[..])] {
        assert_eq!(lab.epics_output(WORKSTATION, "caget -t -w 5 X:NAME", ca)?, format!("{domain}\n"));
        for client in [Client::PvAccessCpp, Client::Pvxs] {
            let read = lab.pvget(client, WORKSTATION, "X:NAME", pva)?;
            assert!(shows(&read, domain), "{domain} by {client:?}: {read}");
        }
        let client = lab.pod_with(&format!("client-{domain}"), &[("iocast.io/domain", domain)])?;
        let read = lab.epics_output(&client.netns, "caget -t -w 5 X:NAME", &[])?;
        assert_eq!(read, format!("{domain}\n"), "in a pod of the domain, with its usual ports");
    }
    Ok(())
}
