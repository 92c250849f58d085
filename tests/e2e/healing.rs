//! What the agent notices by itself, and mends: pins that others removed, uplinks that do not carry, counters.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use lab::{
    Lab, NODE, Options, Process, Result, SWITCH, Topology, WORKSTATION, ca,
    epics::Server,
    monitors::{assert_unbroken, wait_for_values},
    udp::Socket,
};

/// How long the agent may take to notice and to mend.
const PATIENCE: Duration = Duration::from_secs(30);

const LISTENING: &str = "run --no-cni --config /run/iocast/config.toml --listen 127.0.0.1:9402";

/// What others may do to the pins of a node that works.
const LOSSES: [(&str, &[&str]); 5] = [
    ("the pin directory is removed", &["rm -r /sys/fs/bpf/iocast"]),
    ("the maps are removed", &["rm -r /sys/fs/bpf/iocast/v4/maps"]),
    (
        "some pins are removed",
        &["rm /sys/fs/bpf/iocast/v4/maps/CIRCUITS /sys/fs/bpf/iocast/v4/programs/from_lan"],
    ),
    ("bpffs is mounted anew", &[UNMOUNT, MOUNT]),
    ("another bpffs is mounted over it", &[MOUNT]),
];
const MOUNT: &str = "mount -t bpf bpf /sys/fs/bpf";
const UNMOUNT: &str = "umount /sys/fs/bpf";

/// A node whose BPF file system has another one below it, so that it can be unmounted, and its agent.
fn node() -> Result<(Lab, Process)> {
    let lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    lab.sandbox.sh(NODE, "mount -t tmpfs tmpfs /sys/fs/bpf")?;
    lab.sandbox.sh(NODE, MOUNT)?;
    lab.configure("[domain.lab]\nuplink = \"eth0\"\n")?;
    let mut agent = lab.agent_command(LISTENING)?;
    agent.wait_for("ready agent", PATIENCE, |output| output.contains("ready"))?;
    Ok((lab, agent))
}

/// What the agent answers.
fn ask(lab: &Lab, path: &str) -> Result<String> {
    let stream = lab.sandbox.run_in(NODE, || TcpStream::connect("127.0.0.1:9402"))?;
    let mut stream = lab::tried("connect to the agent", stream)?;
    let mut answer = String::new();
    lab::tried("ask the agent", write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n"))?;
    lab::tried("hear the agent", stream.read_to_string(&mut answer))?;
    Ok(answer)
}

#[test]
fn pins_that_are_removed_are_pinned_again_and_members_keep_ports_and_circuits() -> Result<()> {
    let (lab, agent) = node()?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc_of(Server::Pvxs, &pod.netns, "A")?;
    let mut monitors = lab.begun_monitors(WORKSTATION, "A:COUNT")?;
    let port = lab.external_port("ioc-a", "tcp", 5064)?;
    assert!(port.is_some());
    for (number, (loss, lines)) in (1..).zip(LOSSES) {
        for line in lines {
            lab.sandbox.sh(NODE, line)?;
        }
        let start = Instant::now();
        wait_until(|| agent.output().matches("all is pinned again").count() == number);
        let took = start.elapsed();
        assert_eq!(lab.external_port("ioc-a", "tcp", 5064)?, port, "{loss}: {}", agent.output());
        assert_eq!(lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &[])?, "A\n", "{loss}");
        wait_for_values(&mut monitors, PATIENCE)?;
        let other = lab.pod("ioc-b")?; // the plugin finds what it needs
        lab.delete_pod(&other)?;
        lab::report(
            &format!("until all is pinned again when {loss}"),
            &format!("{:.1} s", took.as_secs_f32()),
        );
    }
    assert_unbroken(&mut monitors);
    Ok(())
}

#[test]
fn while_there_is_nowhere_to_pin_the_agent_says_so_and_holds_everything() -> Result<()> {
    let (lab, mut agent) = node()?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    let port = lab.external_port("ioc-a", "tcp", 5064)?;
    lab.sandbox.sh(NODE, UNMOUNT)?;
    agent.wait_for("a problem", PATIENCE, |said| said.contains("/sys/fs/bpf is not a BPF file system"))?;
    let doctor = lab.agent_command("doctor --config /run/iocast/config.toml")?.finish()?.output;
    assert!(doctor.contains("FAIL  bpffs") && doctor.contains("FAIL  datapath"), "{doctor}");
    let ready = ask(&lab, "/readyz")?;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("the datapath is not loaded"), "{ready}");
    assert!(ask(&lab, "/healthz")?.starts_with("HTTP/1.1 200"), "a new agent would hold nothing");
    assert_eq!(lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &[])?, "A\n");
    lab.sandbox.sh(NODE, MOUNT)?;
    agent.wait_for("pins", PATIENCE, |said| said.contains("all is pinned again"))?;
    assert!(ask(&lab, "/readyz")?.starts_with("HTTP/1.1 200"));
    assert_eq!(lab.external_port("ioc-a", "tcp", 5064)?, port);
    Ok(())
}

fn wait_until(test: impl Fn() -> bool) {
    let start = Instant::now();
    while !test() && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How an uplink that exists may carry nothing: what happens, what becomes well again, and what is said.
const FAULTS: [([&str; 2], [&str; 2], &str); 3] = [
    ([NODE, "ip link set eth0 down"], [NODE, "ip link set eth0 up"], "is down"),
    ([SWITCH, "ip link set node down"], [SWITCH, "ip link set node up"], "has no carrier"),
    (
        [NODE, "ip address flush dev eth0"],
        [NODE, "ip address add 172.23.0.10/24 broadcast + dev eth0"],
        "has no IPv4 address",
    ),
];

#[test]
fn an_uplink_that_carries_nothing_is_named_by_log_probe_metric_status_and_doctor() -> Result<()> {
    let (lab, mut agent) = node()?;
    let up = "iocast_uplink_up{domain=\"lab\",uplink=\"eth0\"}";
    for ([host, line], [healer, cure], fault) in FAULTS {
        lab.sandbox.sh(host, line)?;
        let problem = format!("domain `lab`: uplink eth0 {fault}, so its members here are cut off");
        let noticed = agent.wait_for("the fault", PATIENCE, |said| said.contains(&problem))?;
        let ready = ask(&lab, "/readyz")?;
        let reason = format!("\r\n\r\ndomain `lab`: uplink eth0 {fault}\n");
        assert!(ready.starts_with("HTTP/1.1 503") && ready.ends_with(&reason), "{ready}");
        assert!(ask(&lab, "/metrics")?.contains(&format!("\n{up} 0\n")), "{fault}");
        let status = lab.agent_command("status")?.finish()?.output;
        assert!(status.lines().any(|line| line.contains("uplink eth0") && line.contains(fault)), "{status}");
        assert_eq!(lab.status()?["problem"], fault);
        let doctor = lab.agent_command("doctor --config /run/iocast/config.toml")?.finish()?.output;
        let said = format!("domain `lab`: uplink eth0 {fault}; ");
        assert!(
            doctor.lines().any(|line| line.starts_with("FAIL  uplink") && line.contains(&said)),
            "{doctor}"
        );
        lab.sandbox.sh(healer, cure)?;
        agent.wait_for("its end", PATIENCE, |said| said.contains(&format!("resolved: {problem}")))?;
        wait_until(|| ask(&lab, "/readyz").is_ok_and(|ready| ready.starts_with("HTTP/1.1 200")));
        assert!(ask(&lab, "/metrics")?.contains(&format!("\n{up} 1\n")), "{fault}");
        lab::report(
            &format!("until an uplink that {fault} is named"),
            &format!("{:.1} s", noticed.as_secs_f32()),
        );
    }
    Ok(())
}

#[test]
fn a_domain_without_a_lan_is_not_said_to_be_attached() -> Result<()> {
    for ([host, line], _, _) in FAULTS {
        let lab = Lab::without_agent(Options::new(Topology::Bridge))?;
        lab.sandbox.sh(host, line)?;
        lab.configure("[domain.lab]\nuplink = \"eth0\"\n")?;
        let said =
            lab.agent_command("run --no-cni --once --config /run/iocast/config.toml")?.finish()?.output;
        assert!(said.contains("ready, but not attached: domain lab\n"), "{line}: {said}");
    }
    Ok(())
}

#[test]
fn ready_says_what_is_wrong_and_waits_for_an_agent_that_starts() -> Result<()> {
    let (lab, agent) = node()?;
    let ready = |line: &str| lab.agent_command(&format!("ready {line}"))?.finish();
    assert_eq!(ready("--listen 0.0.0.0:9402")?.success()?, "ok\n");
    lab.sandbox.sh(SWITCH, "ip link set node down")?;
    wait_until(|| ready("").is_ok_and(|said| !said.status.success()));
    assert_eq!(ready("")?.output, "iocast-node: domain `lab`: uplink eth0 has no carrier\n");
    lab.sandbox.sh(SWITCH, "ip link set node up")?;
    agent.kill();
    let said = ready("--wait 1")?;
    assert!(
        !said.status.success() && said.output.contains("does not answer at 127.0.0.1:9402"),
        "{}",
        said.output
    );
    let probe = lab.agent_command("ready")?; // before there is an agent
    let _agent = lab.agent_command(LISTENING)?;
    assert_eq!(probe.finish()?.success()?, "ok\n");
    Ok(())
}

#[test]
fn what_holds_the_place_of_an_uninstalled_agent_ends_when_it_is_told_to() -> Result<()> {
    let lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    let mut idle = lab.agent_command("idle")?;
    std::thread::sleep(Duration::from_millis(300));
    assert!(idle.is_running());
    idle.terminate();
    idle.finish()?.success().map(drop)
}

#[test]
fn an_uplink_that_becomes_another_is_announced() -> Result<()> {
    let (lab, mut agent) = node()?;
    for (line, said) in [
        (
            "ip link set eth0 address 02:00:00:00:00:99",
            "02:00:00:00:00:99, 172.23.0.10); it was eth0 (number",
        ),
        ("ip address flush dev eth0", "has no IPv4 address"),
        (
            "ip address add 172.23.0.77/24 broadcast + dev eth0",
            "02:00:00:00:00:99, 172.23.0.77); it was eth0",
        ),
    ] {
        lab.sandbox.sh(NODE, line)?;
        agent.wait_for("the change", PATIENCE, |output| output.contains(said))?;
    }
    Ok(())
}

/// A search of each workstation port, to a domain's counters.
fn search(lab: &Lab) -> Result<()> {
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    (0..7).try_for_each(|_| client.send(&ca::search(&["A:NAME"]), "172.23.0.255:5064"))?;
    std::thread::sleep(Duration::from_millis(300));
    Ok(())
}

#[test]
fn a_domain_with_the_number_of_a_former_one_begins_to_count_at_nothing() -> Result<()> {
    let mut lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    lab.start_agent_with("[domain.old]\nuplink = \"eth0\"\n")?;
    search(&lab)?;
    let counters = |lab: &Lab| lab.state(|state| state.counters().map(|counters| counters.len()).ok());
    assert_ne!(counters(&lab)?, Some(0));
    for name in ["new", "third"] {
        lab.configure(&format!("[domain.{name}]\nuplink = \"eth0\"\n"))?;
        lab.wait_for_agent("change", |said| said.contains(&format!("changed: domain {name}")))?;
    }
    assert_eq!(counters(&lab)?, Some(0));
    Ok(())
}

#[test]
fn a_count_that_begins_anew_is_not_taken_for_a_huge_one() -> Result<()> {
    let mut lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    let text = |protocols: &str| {
        format!("[domain.lab]\nuplink = \"eth0\"\nports_per_pod = 1\nprotocols = [{protocols}]\n")
    };
    lab.start_agent_with(&text("\"ca\", \"ads\""))?;
    let pod = lab.pod("ads")?;
    let ads = [3, 0x66, 0x14, 0x71, 0, 0, 0, 0, 1, 0, 0, 0, 10, 88, 0, 5, 1, 1, 0x10, 0x27, 0, 0, 0, 0];
    let mut sockets = vec![];
    for _ in 0..3 {
        let socket = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:0")?;
        socket.send(&ads, "10.244.1.255:48899")?;
        sockets.push(socket);
    }
    lab.wait_for_agent("the loss", |said| {
        said.contains("dropped 2 packets: each of these pods has its 1 external ports: beamline/ads; raise")
    })?;
    assert!(!lab.agent_output().contains("61000-64999"), "the range is innocent: {}", lab.agent_output());
    lab.configure(&text("\"ca\""))?;
    lab.wait_for_agent("change", |said| said.contains("has changed"))?;
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(lab.agent_output().matches("dropped").count(), 1, "{}", lab.agent_output());
    Ok(())
}

#[test]
fn a_problem_is_said_once_however_many_pods_come_and_go() -> Result<()> {
    let lab = Lab::without_agent(Options::new(Topology::Routed))?;
    lab.configure("[domain.lab]\nuplink = \"eth0\"\n[domain.b]\nuplink = \"lan9\"\n")?;
    let mut agent = lab.agent_command(LISTENING)?;
    agent.wait_for("ready agent", PATIENCE, |output| output.contains("ready"))?;
    for number in 0..3 {
        lab.pod(&format!("pod-{number}"))?;
        std::thread::sleep(Duration::from_millis(2500)); // the agent looks every two seconds
    }
    assert_eq!(agent.output().matches("there is no interface `lan9`").count(), 1, "{}", agent.output());
    Ok(())
}
