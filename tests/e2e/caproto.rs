//! Both protocols by peers in pure Python, which run on whatever machine has Python: caproto, as server in a pod and as client.

use lab::{Lab, Options, Result, Topology, WORKSTATION, epics::PATIENCE};

lab::in_both_topologies! {
    a_lan_client_in_python_finds_and_reads_pods_by_each_protocol
}

/// The protocol, the server's TCP port, and the pod's address on the LAN, if it has one.
const CASES: [(&str, u16, Option<&str>); 4] = [
    ("ca", 5064, None),
    ("pva", 5075, None),
    ("ca", 5064, Some("172.23.0.50")),
    ("pva", 5075, Some("172.23.0.51")),
];

fn a_lan_client_in_python_finds_and_reads_pods_by_each_protocol(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    for (protocol, port, address) in CASES {
        let pv = address.unwrap_or(protocol);
        let run =
            |netns: &str, role| lab.python(netns, "caproto_peer.py", &format!("{role} {protocol} {pv}"));
        let pod = lab.pod_at(0, &format!("ioc-{pv}"), address)?;
        let mut server = run(&pod.netns, "serve")?;
        server.wait_for("running server", PATIENCE, |output| output.contains("startup complete"))?;
        assert_eq!(run(WORKSTATION, "read")?.finish()?.success()?, format!("{pv}\n"));
        let external = lab.external_port(&pod.name, "tcp", port)?;
        assert_eq!(external.is_some(), address.is_none(), "{protocol} of {pv} at {external:?}");
    }
    Ok(())
}
