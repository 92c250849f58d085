//! A node as it is used: a real container runtime creates and deletes pods, iocast is installed beside a primary CNI,
//! and daemons die at any time.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use lab::{
    NODE, Result, WORKSTATION,
    cluster::{CONFLIST, Cluster, RunningPod, Runtime, Wanted, wait_until},
    epics::PATIENCE,
    monitors::{assert_unbroken, wait_for_values},
};

lab::with_every_runtime! {
    a_lan_client_reads_an_ioc_on_a_node_that_was_empty_and_its_pod_leaves_nothing
    only_pods_with_the_annotation_are_members_and_a_pod_with_the_nodes_network_never_is
    a_member_before_the_datapath_is_loaded_fails_with_what_to_do_and_others_start
    the_daemonset_needs_no_more_privileges_than_its_manifest_says
    a_pod_that_started_before_iocast_was_installed_is_adopted
    no_pod_fails_while_the_primary_cni_writes_its_conflist_again_and_again
    a_primary_cni_that_installs_itself_again_is_chained_again
    pods_that_are_created_and_deleted_under_kills_of_containerd_and_agent_leave_nothing
    after_uninstalling_pods_are_created_and_older_ones_deleted
}

/// A cluster of one node on which iocast is installed.
fn installed(runtime: Runtime) -> Result<Cluster> {
    let cluster = Cluster::with(runtime, 1)?;
    cluster.start_agent(0)?;
    Ok(cluster)
}

/// Reads a PV at the workstation.
fn caget(cluster: &Cluster, pv: &str) -> Result<String> {
    cluster.lab.epics_output(WORKSTATION, &format!("caget -t -w 5 {pv}"), &[])
}

/// The names of the pods that are members on a node.
fn members(cluster: &Cluster, node: usize) -> Result<Vec<String>> {
    let members = cluster.lab.status_on(node)?["members"].as_array().cloned().unwrap_or_default();
    Ok(members.iter().filter_map(|member| member["pod"].as_str().map(Into::into)).collect())
}

/// What is left of pods in the first node's pinned maps.
fn our_leftovers(cluster: &Cluster) -> Result<Vec<String>> {
    let counts = cluster.lab.state(|state| {
        let (attachments, places) = (state.attachments()?.len(), state.roster_entries()?);
        let ports = lab::held_ports(state)?;
        Ok([("attachments", attachments), ("places", places), ("external ports", ports)])
    })?;
    let counts = counts.map_err(|error: datapath::Error| lab::Error::Missing(error.to_string()))?;
    let left = counts.into_iter().filter(|(_, count)| *count > 0);
    Ok(left.map(|(what, count)| format!("{count} {what}")).collect())
}

/// What is left of pods for which plugins were called: in the pinned maps, of interfaces and addresses.
fn plugins_leftovers(cluster: &Cluster) -> Result<Vec<String>> {
    let links = cluster.lab.sandbox.sh(NODE, "ip -o link show type veth")?;
    let veths = links.split_whitespace().filter(|word| word.starts_with("veth")).map(ToOwned::to_owned);
    let addresses = cluster.names(0, "/run/ipam-0/lab").into_iter().filter(|name| name.starts_with("10."));
    Ok(our_leftovers(cluster)?.into_iter().chain(veths).chain(addresses).collect())
}

/// What is left of pods on the first node: the same, and namespaces.
fn leftovers(cluster: &Cluster) -> Result<Vec<String>> {
    Ok(plugins_leftovers(cluster)?.into_iter().chain(cluster.names(0, "/run/netns")).collect())
}

fn a_lan_client_reads_an_ioc_on_a_node_that_was_empty_and_its_pod_leaves_nothing(
    runtime: Runtime,
) -> Result<()> {
    let cluster = Cluster::with(runtime, 1)?;
    let start = Instant::now();
    cluster.start_agent(0)?;
    let ready = start.elapsed();
    let pod = cluster.ioc_pod(0, "ioc-a", "A")?;
    assert_eq!(caget(&cluster, "A:NAME")?, "A\n");
    let (all, ready) = (start.elapsed().as_secs_f32(), ready.as_secs_f32());
    let what = format!("from installing iocast to the first value of a new pod ({})", runtime.name);
    lab::report(&what, &format!("{all:.2} s, {ready:.2} s of it until the node is ready"));
    assert_eq!(members(&cluster, 0)?, ["ioc-a"]);
    cluster.delete(&pod)?;
    assert_eq!(leftovers(&cluster)?, [""; 0]);
    Ok(())
}

fn only_pods_with_the_annotation_are_members_and_a_pod_with_the_nodes_network_never_is(
    runtime: Runtime,
) -> Result<()> {
    let cluster = installed(runtime)?;
    cluster.pod(0, &Wanted::plain("plain"))?;
    cluster.pod(0, &Wanted { annotations: &[("example.com/other", "lab")], ..Wanted::plain("other") })?;
    let host = cluster.pod(0, &Wanted { host_network: true, ..Wanted::member("host") })?;
    assert_eq!((members(&cluster, 0)?, host.address.as_str()), (vec![], ""));
    cluster.ioc_pod(0, "ioc-a", "A")?;
    assert_eq!(members(&cluster, 0)?, ["ioc-a"]);
    assert_eq!(read_in_pod(&cluster, &host, "A:NAME")?, "A");
    Ok(())
}

#[test]
fn pods_on_two_nodes_read_each_other() -> Result<()> {
    let cluster = Cluster::up(2)?;
    let mut pods = vec![];
    for (node, prefix) in [(0, "A"), (1, "B")] {
        cluster.start_agent(node)?;
        pods.push(cluster.ioc_pod(node, &format!("ioc-{node}"), prefix)?);
    }
    assert_eq!(read_in_pod(&cluster, &pods[0], "B:NAME")?, "B");
    assert_eq!(read_in_pod(&cluster, &pods[1], "A:NAME")?, "A");
    assert_eq!(caget(&cluster, "A:NAME B:NAME")?, "A\nB\n");
    Ok(())
}

/// Reads a PV by a client in a container of a pod.
fn read_in_pod(cluster: &Cluster, pod: &RunningPod, pv: &str) -> Result<String> {
    cluster.run(pod, "client", &["caget", "-t", "-w", "5", pv])?;
    cluster.wait_for_log(pod, "client", |log| log.contains(" stdout F "))?;
    let log = cluster.log(pod, "client");
    let value = log.lines().find_map(|line| line.split_once(" stdout F ")).map(|(_, value)| value);
    Ok(value.unwrap_or_default().into())
}

fn a_member_before_the_datapath_is_loaded_fails_with_what_to_do_and_others_start(
    runtime: Runtime,
) -> Result<()> {
    let cluster = Cluster::with(runtime, 1)?;
    cluster.iocast_node(0, "install")?;
    let error = cluster.pod(0, &Wanted::member("ioc-a")).map(|pod| pod.id);
    let error = error.map_err(|error| error.to_string()).err().unwrap_or_default();
    let expected = r#"plugin type="iocast" failed (add): the datapath is not loaded"#;
    assert!(error.contains(expected) && error.contains("iocast-node"), "{error}");
    cluster.pod(0, &Wanted::plain("plain"))?;

    cluster.start_agent(0)?;
    cluster.ioc_pod(0, "ioc-a", "A")?;
    assert_eq!(caget(&cluster, "A:NAME")?, "A\n");
    Ok(())
}

#[test]
fn monitors_see_nothing_of_an_agent_that_is_killed_and_started_again() -> Result<()> {
    let cluster = installed(Runtime::CONTAINERD_1_6)?;
    let pod = cluster.pod(0, &Wanted::member("ioc-a"))?;
    cluster.start_ioc(&pod, "softIocPVA", "A")?;
    let mut monitors = cluster.lab.begun_monitors(WORKSTATION, "A:COUNT")?;
    cluster.kill_agent(0);
    wait_for_values(&mut monitors, PATIENCE)?;
    cluster.start_agent(0)?;
    wait_for_values(&mut monitors, PATIENCE)?;
    assert_unbroken(&mut monitors);
    Ok(())
}

fn the_daemonset_needs_no_more_privileges_than_its_manifest_says(runtime: Runtime) -> Result<()> {
    let cluster = Cluster::with(runtime, 1)?;
    cluster.load_daemonset_image(0)?;
    let start = Instant::now();
    let (_, container) = cluster.daemonset(0)?;
    let ready = start.elapsed().as_secs_f32();
    let pod = cluster.ioc_pod(0, "ioc-a", "A")?;
    assert_eq!(caget(&cluster, "A:NAME")?, "A\n");
    let all = start.elapsed().as_secs_f32();
    let what = format!("from the DaemonSet's start to the first value of a new pod ({})", runtime.name);
    lab::report(&what, &format!("{all:.2} s, {ready:.2} s of it until the DaemonSet is ready"));
    let (code, said) = cluster.execute(0, &container, "/iocast-node doctor")?;
    assert!(code == 0 && said.lines().all(|line| line.starts_with("OK ")), "{said}");
    cluster.delete(&pod)?;
    assert_eq!(our_leftovers(&cluster)?, [""; 0]);
    Ok(())
}

/// With the manifest's privileges and mounts.
#[test]
fn the_daemonset_pins_again_what_a_remount_on_the_node_hid_and_its_probe_says_what_is_wrong() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.load_daemonset_image(0)?;
    let (_, container) = cluster.daemonset(0)?;
    let pod = cluster.ioc_pod(0, "ioc-a", "A")?;
    assert_eq!(caget(&cluster, "A:NAME")?, "A\n");
    let status = || cluster.iocast_node(0, "status").unwrap_or_default();
    let port = |status: &str| {
        let line = status.lines().find(|line| line.contains("ioc-a"));
        line.and_then(|line| line.split("tcp ").nth(1)).map(str::to_owned)
    };
    let before = port(&status());
    assert!(before.is_some());
    cluster.exec(0, "umount /sys/fs/bpf")?;
    wait_until("a reason", || {
        let (code, said) = cluster.probe(0, &container)?;
        Ok(code != 0 && said.contains("the datapath is not loaded"))
    })?;
    assert_eq!(caget(&cluster, "A:NAME")?, "A\n", "members do not notice");
    cluster.exec(0, "mount -t bpf bpf /sys/fs/bpf")?;
    let start = Instant::now();
    wait_until("pins", || Ok(port(&status()).is_some()))?;
    let took = start.elapsed().as_secs_f32();
    assert_eq!(port(&status()), before);
    assert_eq!(cluster.probe(0, &container)?.0, 0);
    assert_eq!(caget(&cluster, "A:NAME")?, "A\n");
    lab::report("until the DaemonSet has pinned all again after a remount of bpffs", &format!("{took:.1} s"));
    let other = cluster.pod(0, &Wanted::member("ioc-b"))?;
    cluster.delete(&other)?;
    cluster.delete(&pod)
}

#[test]
fn pods_that_ask_and_are_no_members_are_listed_with_the_reason() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.pod(0, &Wanted::member("early"))?;
    cluster.pod(0, &Wanted { host_network: true, ..Wanted::member("host") })?;
    cluster.pod(0, &Wanted { annotations: &[("iocast.io/domain", "lb")], ..Wanted::plain("lost") })?;
    cluster.iocast_node(0, "run --once --no-cni")?; // and without --cri
    let status = cluster.iocast_node(0, "status")?;
    let doctor =
        cluster.spawn(0, &format!("{} doctor", lab::binary("iocast-node")?.display()))?.finish()?.output;
    for (pod, why) in [
        ("early", "it started before iocast"),
        ("host", "it uses the node's network"),
        ("lost", "the domain `lb` is not configured on this node (configured: lab)"),
    ] {
        let listed = |line: &str, start: &str| {
            line.trim().starts_with(start) && line.contains(&format!("/{pod}")) && line.contains(why)
        };
        assert!(status.lines().any(|line| listed(line, "no member: ")), "{pod}: {status}");
        assert!(doctor.lines().any(|line| listed(line, "WARN  members")), "{pod}: {doctor}");
    }
    Ok(())
}

#[test]
fn the_first_member_of_a_node_that_boots_waits_for_the_datapath() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.iocast_node(0, "install")?;
    let (created, ready) = scope(|scope| -> Result<_> {
        let pod = scope.spawn(|| cluster.pod(0, &Wanted::member("ioc-a")).map(|pod| (pod, Instant::now())));
        sleep(Duration::from_secs(3)); // it waits for the datapath by now
        cluster.start_agent(0)?;
        let ready = Instant::now();
        Ok((pod.join().map_err(|_| lab::Error::Missing("a panic".into()))??, ready))
    })?;
    let took = created.1.saturating_duration_since(ready);
    assert_eq!(members(&cluster, 0)?, ["ioc-a"]);
    assert!(took < Duration::from_secs(2), "{took:?}");
    lab::report(
        "from the agent's load to the first member of a booting node",
        &format!("{:.2} s", took.as_secs_f32()),
    );
    cluster.delete(&created.0)
}

fn a_pod_that_started_before_iocast_was_installed_is_adopted(runtime: Runtime) -> Result<()> {
    let cluster = Cluster::with(runtime, 1)?;
    let pod = cluster.ioc_pod(0, "ioc-a", "A")?;
    cluster.start_agent(0)?;
    wait_until("a member", || Ok(members(&cluster, 0)? == ["ioc-a"]))?;
    assert_eq!(caget(&cluster, "A:NAME")?, "A\n");
    cluster.delete(&pod)?;
    assert_eq!(leftovers(&cluster)?, [""; 0]);
    Ok(())
}

fn no_pod_fails_while_the_primary_cni_writes_its_conflist_again_and_again(runtime: Runtime) -> Result<()> {
    let cluster = installed(runtime)?;
    let (done, primary) = (AtomicBool::new(false), cluster.primary(0).to_string());
    let create = |worker: usize| {
        (0..4).try_for_each(|number| {
            let pod = cluster.pod(0, &Wanted::member(&format!("pod-{worker}-{number}")))?;
            cluster.delete(&pod)
        })
    };
    let (created, written) = scope(|scope| {
        let writer = scope.spawn(|| -> Result<u32> {
            let mut times = 0;
            while !done.load(Ordering::Relaxed) {
                cluster.write(0, CONFLIST, &primary)?;
                times += 1;
                sleep(Duration::from_millis(50));
            }
            Ok(times)
        });
        let creators = [0, 1, 2].map(|worker| scope.spawn(move || create(worker)));
        let created = creators.map(|creator| creator.join().map_err(|_| "a panic"));
        done.store(true, Ordering::Relaxed);
        (created, writer.join().map_err(|_| "a panic"))
    });
    for outcome in created {
        assert!(matches!(outcome, Ok(Ok(()))), "{outcome:?}");
    }
    assert!(matches!(written, Ok(Ok(5..))), "{written:?}");
    Ok(())
}

fn a_primary_cni_that_installs_itself_again_is_chained_again(runtime: Runtime) -> Result<()> {
    let cluster = installed(runtime)?;
    for _ in 0..3 {
        cluster.write(0, CONFLIST, cluster.primary(0).to_string())?;
        wait_until("chained again", || Ok(cluster.read(0, CONFLIST)?.contains("iocast")))?;
    }
    // The runtime takes its time to notice, the agent none.
    wait_until("a member", || {
        let pod = cluster.pod(0, &Wanted::member("ioc-a"))?;
        let joined = !members(&cluster, 0)?.is_empty();
        cluster.delete(&pod).map(|()| joined)
    })?;
    cluster.ioc_pod(0, "ioc-a", "A")?;
    assert_eq!(caget(&cluster, "A:NAME")?, "A\n");
    Ok(())
}

fn pods_that_are_created_and_deleted_under_kills_of_containerd_and_agent_leave_nothing(
    runtime: Runtime,
) -> Result<()> {
    let cluster = installed(runtime)?;
    const ENOUGH: u32 = 6;
    let (done, created) = (AtomicBool::new(false), AtomicU32::new(0));
    let come_and_go = |worker: usize| {
        for number in 0.. {
            if done.load(Ordering::Relaxed) {
                break;
            }
            match cluster.pod(0, &Wanted::member(&format!("pod-{worker}-{number}"))) {
                Ok(pod) => {
                    created.fetch_add(1, Ordering::Relaxed);
                    let _ = cluster.delete(&pod);
                }
                // What fails now, kubelet would try again: not at once, as long as nobody listens.
                Err(_) => sleep(Duration::from_millis(10)),
            }
        }
    };
    scope(|scope| -> Result<()> {
        for worker in [0, 1] {
            scope.spawn(move || come_and_go(worker));
        }
        // More rounds where the machine is slow.
        let too_few = |round: &u64| *round < 6 || created.load(Ordering::Relaxed) < ENOUGH && *round < 30;
        let outcome = (0..).take_while(too_few).try_for_each(|round| {
            sleep(Duration::from_millis(700 + 130 * (round % 6))); // somewhere else in their work each time
            cluster.kill_containerd(0);
            cluster.kill_agent(0);
            cluster.start_agent(0)?;
            cluster.start_containerd(0)
        });
        done.store(true, Ordering::Relaxed);
        outcome
    })?;
    let created = created.into_inner();
    assert!(created >= ENOUGH, "only {created} pods were created");
    assert!(!leftovers(&cluster)?.is_empty(), "the kills cut nothing off");
    // As kubelet does with sandboxes of pods that it does not know.
    for sandbox in cluster.cri(0).sandboxes()? {
        cluster.cri(0).stop_sandbox(&sandbox.id)?;
        cluster.cri(0).remove_sandbox(&sandbox.id)?;
    }
    // What a runtime forgets stays until the node restarts; what is ours does not. An empty namespace it may always forget:
    // one that it made just before it was killed, and for which it called no plugin yet.
    let left = if runtime.forgets { our_leftovers } else { plugins_leftovers };
    let gone = wait_until("nothing left", || Ok(left(&cluster)?.is_empty()));
    assert_eq!(left(&cluster)?, [""; 0], "{}", cluster.agent_output(0));
    gone
}

fn after_uninstalling_pods_are_created_and_older_ones_deleted(runtime: Runtime) -> Result<()> {
    let cluster = installed(runtime)?;
    let before = cluster.ioc_pod(0, "before", "A")?;
    assert!(cluster.path(0, "/sys/fs/bpf/iocast").exists());
    cluster.kill_agent(0);
    cluster.iocast_node(0, "uninstall")?;
    assert!(!cluster.read(0, CONFLIST)?.contains("iocast"));
    let after = cluster.pod(0, &Wanted::member("after"))?;
    cluster.delete(&before)?;
    cluster.delete(&after)?;
    assert!(!cluster.path(0, "/sys/fs/bpf/iocast").exists());
    Ok(())
}
