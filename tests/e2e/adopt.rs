//! Pods that started before iocast, on nodes with a real container runtime.

use lab::{
    Process, Result, WORKSTATION,
    cluster::{Cluster, PATIENCE, RunningPod, Runtime, Wanted, wait_until},
};

lab::with_every_runtime! {
    a_pod_that_started_before_is_adopted_and_leaves_like_any_other
}

/// The agent with the privileges it has in its DaemonSet; installs the plugin, too.
fn agent(cluster: &Cluster) -> Result<Process> {
    let program = lab::binary("iocast-node")?;
    let line = format!(
        "setpriv --bounding-set={} {} run --cri /run/containerd/containerd.sock --listen 127.0.0.1:9402",
        lab::AGENT_CAPABILITIES,
        program.display()
    );
    let mut agent = cluster.spawn(0, &line)?;
    agent.wait_for("ready agent", PATIENCE, |output| output.contains("ready"))?;
    Ok(agent)
}

fn caget(cluster: &Cluster, pv: &str) -> Result<String> {
    cluster.lab.epics_output(WORKSTATION, &format!("caget -t -w 5 {pv}"), &[])
}

fn members(cluster: &Cluster) -> Result<Vec<String>> {
    let members = cluster.lab.status()?["members"].as_array().cloned().unwrap_or_default();
    Ok(members.iter().filter_map(|member| member["pod"].as_str().map(Into::into)).collect())
}

fn a_pod_that_started_before_is_adopted_and_leaves_like_any_other(runtime: Runtime) -> Result<()> {
    let cluster = Cluster::with(runtime, 1)?;
    let ioc = cluster.ioc_pod(0, "ioc-a", "A")?;
    cluster.pod(0, &Wanted::plain("other"))?;
    let host_network = Wanted { host_network: true, ..Wanted::member("of-node") };
    cluster.pod(0, &host_network)?;
    let mut agent = agent(&cluster)?;
    agent.wait_for("adoption", PATIENCE, |output| {
        output.contains("adopted beamline/ioc-a into domain `lab`")
    })?;
    assert_eq!(caget(&cluster, "A:NAME")?, "A\n");
    assert_eq!(members(&cluster)?, ["ioc-a"]);
    wait_until("the metric", || Ok(cluster.get(0, "/metrics")?.contains("\niocast_adopted_pods_total 1\n")))?;
    let memory = agent.resident()?;
    lab::report("memory of the agent, resident, MB", &format!("{:.1}", memory as f32 / 1024.0));
    assert!(memory < 24 * 1024, "{memory} kB"); // most of it is the binary, here one for tests
    let said = agent.output();
    agent.kill(); // which would collect what the plugin leaves
    cluster.delete(&ioc)?;
    assert_eq!(members(&cluster)?, [""; 0], "{said}");
    Ok(())
}

/// What a client in a pod prints.
fn pod_caget(cluster: &Cluster, pod: &RunningPod, pv: &str) -> Result<String> {
    let line = ["caget", "-t", "-w", "5", pv];
    cluster.run(pod, "caget", &line)?;
    cluster.wait_for_log(pod, "caget", |log| log.contains(" F "))?;
    Ok(cluster.log(pod, "caget"))
}

#[test]
fn an_adopted_pod_without_a_broadcast_address_is_served_and_told_what_it_lacks() -> Result<()> {
    let cluster = Cluster::routed()?;
    let ioc = cluster.ioc_pod(0, "ioc-a", "A")?;
    let mut agent = agent(&cluster)?;
    agent.wait_for("adoption", PATIENCE, |output| output.contains("adopted beamline/ioc-a"))?;
    agent.wait_for("the problem", PATIENCE, |output| {
        output.contains("beamline/ioc-a has no broadcast address")
    })?;
    assert_eq!(caget(&cluster, "A:NAME")?, "A\n");
    let new = cluster.ioc_pod(0, "ioc-b", "B")?;
    assert!(pod_caget(&cluster, &new, "A:NAME")?.contains(" A\n"), "others find it");
    let alone = pod_caget(&cluster, &ioc, "B:NAME")?;
    assert!(alone.contains("'B:NAME' not found"), "{alone}");
    let doctor = cluster.iocast_node(0, "doctor")?;
    assert!(doctor.contains("WARN  members        beamline/ioc-a: no broadcast address"), "{doctor}");
    Ok(())
}
