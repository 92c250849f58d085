//! The demo: real IOCs in pods, real clients on a workstation, and a picture of what happened.

use std::time::{Duration, Instant};

use lab::{DOMAIN, Lab, Options, Pod, Process, Result, WORKSTATION, epics::PATIENCE};
use serde_json::Value;

use crate::{Topology, paint::Paint};

const IOCS: [&str; 3] = ["IOC1", "IOC2", "IOC3"];
/// The IOC in the pod that has an address of its own, and that moves.
const MOTOR: &str = "MOTOR";
const MOTOR_ADDRESS: &str = "172.23.0.50";
const CAMERA_ADDRESS: &str = "172.23.0.51";
const NODE_ADDRESSES: [&str; 2] = ["172.23.0.10", "172.23.0.11"];

/// What runs in the pods.
struct Stage {
    pods: Vec<Pod>,
    /// The pod that moves, and its IOC.
    motor: (Pod, Process),
    _others: Vec<Process>,
}

pub(crate) fn run(topology: Topology) -> Result<()> {
    let paint = Paint::new();
    println!("{}\n", paint.bold("iocast: a workstation on the LAN uses IOCs and a camera in ordinary pods"));
    let what =
        format!("1/5  a LAN, a workstation, two nodes with a {} pod network, iocast-node", topology.name());
    let lab = paint.step(&what, || raise(topology))?;
    let what = "2/5  6 pods by the real CNI plugins, iocast chained; 2 of them with addresses on the LAN";
    let mut stage = paint.step(what, || start_pods(&lab))?;
    println!("3/5  on the workstation, in libca's default environment:");
    use_clients(&lab, &paint)?;
    println!("4/5  what happened:\n");
    picture(&lab, &stage.pods, &paint)?;
    println!("\n5/5  the pod with the address {MOTOR_ADDRESS} moves, and its monitor goes on:");
    move_pod(&lab, &mut stage, &paint)?;
    paint.step("\ntearing down", || {
        drop((stage, lab));
        Ok::<_, lab::Error>(())
    })
}

fn raise(topology: Topology) -> Result<Lab> {
    let mut lab = Lab::without_agent(Options { nodes: 2, ..topology.options() })?;
    lab.start_agent_with(&format!(
        "[domain.{DOMAIN}]\nuplink = \"eth0\"\nprotocols = [\"ca\", \"pva\", \"gvcp\"]\naddresses = [\"172.23.0.48/28\"]\n"
    ))?;
    Ok(lab)
}

fn start_pods(lab: &Lab) -> Result<Stage> {
    let (mut pods, mut others) = (vec![], vec![]);
    for prefix in IOCS {
        let pod = lab.pod(&prefix.to_lowercase())?;
        others.push(lab.ioc(&pod.netns, prefix)?);
        pods.push(pod);
    }
    pods.push(lab.pod("idle")?);
    let motor = start_motor(lab, 0)?;
    let camera = lab.pod_at(0, "camera", Some(CAMERA_ADDRESS))?;
    let command = lab::program("arv-fake-gv-camera-0.8", &["-i", CAMERA_ADDRESS, "-s", "DEMO"])?;
    others.push(lab.sandbox.spawn(&camera.netns, command)?);
    pods.extend([motor.0.clone(), camera]);
    Ok(Stage { pods, motor, _others: others })
}

fn start_motor(lab: &Lab, node: usize) -> Result<(Pod, Process)> {
    let pod = lab.pod_at(node, "motor", Some(MOTOR_ADDRESS))?;
    let ioc = lab.ioc(&pod.netns, MOTOR)?;
    Ok((pod, ioc))
}

/// Reads, writes, and looks at images, printing each command and what it prints.
fn use_clients(lab: &Lab, paint: &Paint) -> Result<()> {
    for line in ["caget IOC1:NAME IOC2:NAME IOC3:NAME MOTOR:NAME", "caput IOC2:SETPOINT 7.5"] {
        command(paint, line);
        show(&lab.epics_output(WORKSTATION, line, &[])?);
    }
    for (line, key) in [("cainfo IOC1:NAME", "Host:"), ("cainfo MOTOR:NAME", "Host:")] {
        command(paint, line);
        show_lines(&lab.epics_output(WORKSTATION, line, &[])?, key);
    }
    let arguments = ["-n", "Aravis-Fake-DEMO", "-f", "25", "--duration=3"];
    command(paint, &format!("arv-camera-test {}", arguments.join(" ")));
    let client = lab.sandbox.spawn(WORKSTATION, lab::program("arv-camera-test-0.8", &arguments)?)?;
    show_lines(&client.finish()?.success()?, "frames/s");
    Ok(())
}

fn command(paint: &Paint, line: &str) {
    println!("     {}", paint.bold(&format!("$ {line}")));
}

/// Shows the lines that have this in them.
fn show_lines(output: &str, key: &str) {
    show(&output.lines().filter(|line| line.contains(key)).collect::<Vec<_>>().join("\n"));
}

/// Deletes the pod with its monitor watching, and creates it on the other node.
fn move_pod(lab: &Lab, stage: &mut Stage, paint: &Paint) -> Result<()> {
    let line = format!("camonitor {MOTOR}:COUNT");
    command(paint, &line);
    let mut monitor = lab.epics(WORKSTATION, &line, &[])?;
    monitor.wait_for("ten values", PATIENCE, |output| values(output).count() >= 10)?;
    show_last(&monitor);
    stage.motor.1.terminate(); // first, as a runtime does: its clients are told
    while stage.motor.1.is_running() {
        std::thread::sleep(Duration::from_millis(5));
    }
    lab.delete_pod(&stage.motor.0)?;
    let gone = Instant::now();
    let had = values(&monitor.output()).count();
    stage.motor = start_motor(lab, 1)?;
    let ready = Instant::now();
    lab.epics_output(WORKSTATION, "caget MOTOR:NAME", &[])?;
    let read = ready.elapsed();
    monitor.wait_for("values again", PATIENCE, |output| values(output).count() > had)?;
    show_last(&monitor);
    let [from, to] = NODE_ADDRESSES;
    println!(
        "     node {from} -> node {to}: serving again after {:.1} s; a new client reads {} later,",
        (ready - gone).as_secs_f32(),
        paint.good(&format!("{:.2} s", read.as_secs_f32())),
    );
    println!(
        "     the old monitor goes on {:.1} s later {}",
        ready.elapsed().as_secs_f32(),
        paint.dim("(libca looks for a server that it lost after 10 s)")
    );
    Ok(())
}

/// The values among what the monitor has printed.
fn values(output: &str) -> impl Iterator<Item = &str> {
    output.lines().filter(|line| line.starts_with(MOTOR) && !line.contains("***"))
}

fn show_last(monitor: &Process) {
    show(values(&monitor.output()).last().unwrap_or_default());
}

fn show(output: &str) {
    for line in output.lines() {
        println!("     {line}");
    }
}

/// Who asked, who heard, and which external port stands for which pod.
fn picture(lab: &Lab, pods: &[Pod], paint: &Paint) -> Result<()> {
    let status = lab.status()?;
    println!("     workstation 172.23.0.2");
    println!("      |  searches, by UDP broadcast to 172.23.0.255:5064");
    println!(
        "     node 172.23.0.10  {}",
        paint.dim("uplink eth0, no hostNetwork, no gateway, no address list")
    );
    for pod in pods {
        let heard = heard(lab, pod)?;
        let circuit = match (own_address(pod), lab.external_port(&pod.name, "tcp", 5064)?) {
            (Some(address), _) => format!("{} is its own address", paint.bold(address)),
            (None, Some(port)) => {
                format!("circuits to {} reach it", paint.bold(&format!("172.23.0.10:{port}")))
            }
            (None, None) => paint.dim("no socket on UDP 5064, so no copy"),
        };
        println!("      +-- pod {:<6} {:<11} heard {heard:>2} datagrams; {circuit}", pod.name, pod.address);
    }
    println!("\n     {}", paint.dim("counters of the domain (iocast-node status):"));
    for counter in status["counters"].as_array().unwrap_or(&vec![]) {
        let text = |key: &str| counter[key].as_str().unwrap_or_default().to_owned();
        println!(
            "     {:<6} {:<15} {:>6}",
            text("protocol"),
            text("verdict"),
            counter["packets"].as_u64().unwrap_or(0)
        );
    }
    println!(
        "\n     {}",
        paint.dim("a circuit as its IOC sees it (the client's own address, no NAT in between):")
    );
    println!("     {}", established(lab, pods)?);
    Ok(())
}

/// The pod's address on the LAN, if it has one.
fn own_address(pod: &Pod) -> Option<&'static str> {
    match pod.name.as_str() {
        "motor" => Some(MOTOR_ADDRESS),
        "camera" => Some(CAMERA_ADDRESS),
        _ => None,
    }
}

/// Datagrams that sockets in the pod received.
fn heard(lab: &Lab, pod: &Pod) -> Result<u64> {
    let text = lab.sandbox.sh(&pod.netns, "nstat -asz --json UdpInDatagrams")?;
    let counters: Value = serde_json::from_str(&text).unwrap_or_default();
    Ok(counters["kernel"]["UdpInDatagrams"].as_u64().unwrap_or(0))
}

/// The peer of a circuit of the first pod while a client reads from it.
fn established(lab: &Lab, pods: &[Pod]) -> Result<String> {
    let mut monitor = lab.epics(WORKSTATION, "camonitor IOC1:COUNT", &[])?;
    monitor.wait_for("first value", Duration::from_secs(10), |output| output.lines().count() >= 1)?;
    let sockets = lab.sandbox.sh(&pods[0].netns, "ss -Htn state established")?;
    let words: Vec<_> = sockets.split_whitespace().collect();
    Ok(match words[..] {
        [_, _, local, peer, ..] => format!("in pod {}: {local} <- {peer}", pods[0].name),
        _ => "none".into(),
    })
}
