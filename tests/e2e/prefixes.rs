//! Pods that say how the names of their PVs begin get no searches for others, and nothing else changes.

use std::{path::Path, thread::sleep, time::Duration};

use abi::{Owned, Owners, PREFIX, owned_bits};
use aya::maps::{LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use datapath::{BPFFS, pin_directory};
use lab::{
    DOMAIN, Lab, NATIVE, Options, Pod, Result, Topology, WORKSTATION, ca,
    epics::{Client, Server},
    udp::Socket,
};

lab::in_both_topologies! {
    a_search_comes_to_the_pods_that_may_have_its_names_and_to_those_that_do_not_say
    real_clients_read_real_servers_that_say_how_their_pvs_begin
}

fn fill_the_names() -> std::result::Result<(), MapError> {
    let pin = pin_directory(Path::new(BPFFS)).join("maps/OWNED");
    let mut owned = LpmTrie::<_, Owned, Owners>::try_from(Map::LpmTrie(MapData::from_pin(pin)?))?;
    for number in 0..abi::OWNED {
        let mut prefix = [0; PREFIX];
        prefix[..4].copy_from_slice(&number.to_be_bytes());
        owned.insert(&Key::new(owned_bits(4), Owned { domain: 99, prefix }), Owners::NONE, 0)?;
    }
    Ok(())
}

/// A table that is full of the names of others keeps no pod from its place, nor any name from a pod.
#[test]
fn a_pod_whose_names_find_no_room_gets_all_searches() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let filled = lab.sandbox.run(fill_the_names);
    filled.map_err(|error| lab::Error::Missing(error.to_string()))?;
    let crowded = pod(&lab, "a", Some("BL07I-EA-, SIM:"))?;
    let listener = Socket::bind(&lab.sandbox, &crowded.netns, "0.0.0.0:5064")?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    client.send(&ca::search(&["NOBODY:1"]), LAN)?;
    assert_eq!(listener.drain(SOON).len(), 1);
    let said = lab.agent_command("doctor")?.finish()?.output;
    assert!(said.contains("no room for what iocast.io/pvs declares"), "{said}");
    lab.delete_pod(&crowded)?;
    assert_eq!(declared(&lab)?.1, 0);
    Ok(())
}

/// What is sent has come, or will not come.
const SOON: Duration = Duration::from_millis(300);
const LAN: &str = "172.23.0.255:5064";

fn pod(lab: &Lab, name: &str, pvs: Option<&str>) -> Result<Pod> {
    let pvs = pvs.map(|pvs| ("iocast.io/pvs", pvs));
    let annotations: Vec<_> = [("iocast.io/domain", DOMAIN)].into_iter().chain(pvs).collect();
    lab.pod_with(name, &annotations)
}

/// How many entries say who has which names.
fn declared(lab: &Lab) -> Result<(usize, u64)> {
    let found = lab.state(|state| Ok::<_, datapath::Error>((state.owned()?.len(), state.declaring(0)?)))?;
    found.map_err(|error| lab::Error::Missing(error.to_string()))
}

fn a_search_comes_to_the_pods_that_may_have_its_names_and_to_those_that_do_not_say(
    topology: Topology,
) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pods = [("a", Some("BL07I-EA-, SIM:")), ("b", Some("BL07I-")), ("c", Some("BL08")), ("d", None)];
    let pods: Vec<_> = pods.iter().map(|(name, pvs)| pod(&lab, name, *pvs)).collect::<Result<_>>()?;
    let listen = |pod: &Pod| Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:5064");
    let sockets: Vec<_> = pods.iter().map(listen).collect::<Result<_>>()?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    let heard = || -> String {
        let hears = |socket: &&Socket| !socket.drain(SOON).is_empty();
        sockets
            .iter()
            .zip(["a", "b", "c", "d"])
            .filter(|(socket, _)| hears(socket))
            .map(|(_, name)| name)
            .collect()
    };
    for (names, expected) in [
        (&["BL07I-EA-X"][..], "abd"),
        (&["BL07I-MO-X"], "bd"),
        (&["BL07I-"], "bd"),
        (&["BL07I"], "d"),
        (&["BL08I:X"], "cd"),
        (&["SIM:1"], "ad"),
        (&["sim:1"], "d"),
        (&["NOBODY:1", "SIM:1", "BL08"], "acd"),
        (&["NOBODY:1"; 40], "d"),
    ] {
        client.send(&ca::search(names), LAN)?;
        assert_eq!(heard(), expected, "{names:?}");
    }
    client.send(&ca::message(13, 13, 5064, 1, 0, &[]), LAN)?;
    assert_eq!(heard(), "abcd", "a beacon");
    // In a storm, too: who listens is remembered, whichever names were asked for meanwhile.
    for _ in 0..300 {
        client.send(&ca::search(&["NOBODY:1"]), LAN)?;
    }
    sleep(SOON);
    sockets.iter().for_each(|socket| drop(socket.drain(Duration::from_millis(20))));
    for _ in 0..100 {
        client.send(&ca::search(&["NOBODY:1"]), LAN)?;
    }
    client.send(&ca::search(&["SIM:1"]), LAN)?;
    assert_eq!(heard(), "ad", "after a storm for other names");

    assert_eq!(declared(&lab)?, (4, 3));
    let shown = lab.agent_command("status")?.finish()?.success()?;
    assert!(shown.contains("only searches for PVs that begin with BL07I-EA-, SIM:"), "{shown}");
    for pod in &pods {
        lab.delete_pod(pod)?;
    }
    assert_eq!(declared(&lab)?, (0, 0));
    Ok(())
}

fn real_clients_read_real_servers_that_say_how_their_pvs_begin(topology: Topology) -> Result<()> {
    let mut lab = Lab::up(Options::new(topology))?;
    let mut iocs = vec![];
    for (name, prefix, server) in [("ioc-a", "A", Server::PvAccessCpp), ("ioc-b", "B", Server::Pvxs)] {
        let pod = pod(&lab, name, Some(&format!("{prefix}:")))?;
        iocs.push(lab.ioc_of(server, &pod.netns, prefix)?);
    }
    let client_pod = pod(&lab, "client", Some("NONE:"))?;
    for from in [WORKSTATION, NATIVE, &client_pod.netns] {
        assert_eq!(lab.epics_output(from, "caget -t -w 10 A:NAME", &[])?, "A\n", "{from}");
        for (client, pv) in
            [(Client::PvAccessCpp, "A:NAME"), (Client::Pvxs, "B:NAME"), (Client::PvAccessCpp, "B:NAME")]
        {
            let value = lab.pvget(client, from, pv, &[])?;
            assert!(lab::epics::shows(&value, &pv[..1]), "{from} {pv}: {value}");
        }
    }
    lab.stop_agent();
    lab.start_agent()?;
    assert_eq!(declared(&lab)?, (3, 3), "a restart of the agent changes nothing");
    for (pvs, says) in [("", "it names nothing"), ("A:*", "without wildcards"), ("A: B:", "commas")] {
        let said = pod(&lab, "wrong", Some(pvs)).map_or_else(|error| error.to_string(), |pod| pod.name);
        assert!(said.contains("annotation iocast.io/pvs: ") && said.contains(says), "{said}");
    }
    assert_eq!(declared(&lab)?, (3, 3));
    Ok(())
}
