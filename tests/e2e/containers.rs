//! The cases in which epics-containers tried port mapping of a container: both protocols, found by broadcast, by unicast and
//! by name server; with equal ports, with ports changed at both ends, and remapped. Here with a LAN client and a pod, where
//! all eighteen work. (With port mapping PV Access works by name server and equal ports alone: "EPICS Protocols and
//! Containers" in the epics-containers documentation.)

use lab::{
    Lab, Options, Result, Topology, WORKSTATION,
    epics::{Client, Server, shows},
};

lab::in_both_topologies! { every_case_of_port_mapping_works }

/// An arrangement of ports: what the IOC and the client are told, and what the pod pins.
struct Arrangement {
    name: &'static str,
    /// Ports in the pod: CA for both TCP and UDP, PVA TCP, PVA UDP.
    pod: [u16; 3],
    /// Ports that a client names, in the same order.
    outside: [u16; 3],
    pins: &'static str,
}

const ARRANGEMENTS: [Arrangement; 3] = [
    Arrangement {
        name: "equal",
        pod: [5064, 5075, 5076],
        outside: [5064, 5075, 5076],
        pins: "tcp/5064=5064,tcp/5075=5075",
    },
    Arrangement {
        name: "changed",
        pod: [8064, 8075, 8076],
        outside: [8064, 8075, 8076],
        pins: "tcp/8064=8064,tcp/8075=8075",
    },
    Arrangement {
        name: "remapped",
        pod: [5064, 5075, 5076],
        outside: [9064, 9075, 9076],
        pins: "tcp/5064=9064,udp/5064=9064,tcp/5075=9075,udp/5076=9076",
    },
];

/// A way of finding, and the variable that tells it.
const WAYS: [(&str, Option<&str>); 3] =
    [("broadcast", None), ("unicast", Some("ADDR_LIST")), ("name server", Some("NAME_SERVERS"))];

fn every_case_of_port_mapping_works(topology: Topology) -> Result<()> {
    let mut lab = Lab::without_agent(Options::new(topology))?;
    lab.start_agent_with(&format!(
        "[domain.{}]\nuplink = \"eth0\"\npins = \"5000-9999\"\nsearch_ports = {{ 8064 = \"ca\", 8076 = \"pva\" }}\n",
        lab::DOMAIN
    ))?;
    let mut cases = 0;
    for arrangement in &ARRANGEMENTS {
        let Arrangement { name, pod: [ca, pva, pva_udp], pins, .. } = arrangement;
        let pod = lab.pod_with(name, &[("iocast.io/domain", lab::DOMAIN), ("iocast.io/ports", pins)])?;
        let [ca, pva, pva_udp] = [ca, pva, pva_udp].map(u16::to_string);
        let variables = [
            ("EPICS_CAS_SERVER_PORT", ca.as_str()),
            ("EPICS_PVAS_SERVER_PORT", &pva),
            ("EPICS_PVAS_BROADCAST_PORT", &pva_udp),
        ];
        let ioc = lab.ioc_of_with(Server::Pvxs, &pod.netns, "A", &variables)?;
        for (way, variable) in WAYS {
            let tried = try_case(&lab, arrangement, variable);
            cases += tried.unwrap_or_else(|error| panic!("{name} ports, {way}: {error}"));
        }
        ioc.kill();
        lab.delete_pod(&pod)?;
    }
    assert_eq!(cases, 18);
    Ok(())
}

/// Reads by one way with both protocols; how many cases that were.
fn try_case(lab: &Lab, arrangement: &Arrangement, variable: Option<&str>) -> Result<usize> {
    let Arrangement { pod, outside: [ca, pva, pva_udp], .. } = arrangement;
    let variables = |protocol: &str, port: &u16| match variable {
        Some(variable) => vec![
            (format!("EPICS_{protocol}_AUTO_ADDR_LIST"), "NO".to_owned()),
            (format!("EPICS_{protocol}_{variable}"), format!("172.23.0.10:{port}")),
        ],
        // A broadcast goes to the port that the client has as its default; with remapped ports that is the usual one.
        None if protocol == "CA" => vec![("EPICS_CA_SERVER_PORT".into(), pod[0].to_string())],
        None => vec![("EPICS_PVA_BROADCAST_PORT".into(), pod[2].to_string())],
    };
    let of_ca = variables("CA", ca);
    let read = lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &borrowed(&of_ca))?;
    assert_eq!(read, "A\n", "CA");
    let by_name_server = variable == Some("NAME_SERVERS");
    let of_pva = variables("PVA", if by_name_server { pva } else { pva_udp });
    for client in [Client::Pvxs, Client::PvAccessCpp] {
        if by_name_server && client == Client::PvAccessCpp {
            continue; // has no name servers: docs/matrix.md
        }
        let read = lab.pvget(client, WORKSTATION, "A:NAME", &borrowed(&of_pva))?;
        assert!(shows(&read, "A"), "PVA, {client:?}: {read}");
    }
    Ok(2)
}

fn borrowed(variables: &[(String, String)]) -> Vec<(&str, &str)> {
    variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}
