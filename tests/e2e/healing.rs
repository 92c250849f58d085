//! What the agent notices by itself, and mends: pins that others removed, uplinks that do not carry, counters.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use lab::{
    Lab, NODE, Options, Process, Result, Topology, WORKSTATION,
    epics::Server,
    monitors::{assert_unbroken, wait_for_values},
};

/// How long the agent may take to notice and to mend.
const PATIENCE: Duration = Duration::from_secs(10);

const LISTENING: &str = "run --no-cni --config /run/iocast/config.toml --listen 127.0.0.1:9402";

/// What others may do to the pins of a node that works.
const LOSSES: [(&str, &[&str]); 5] = [
    ("the pin directory is removed", &["rm -r /sys/fs/bpf/iocast"]),
    ("the maps are removed", &["rm -r /sys/fs/bpf/iocast/v2/maps"]),
    (
        "some pins are removed",
        &["rm /sys/fs/bpf/iocast/v2/maps/CIRCUITS /sys/fs/bpf/iocast/v2/programs/from_lan"],
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
