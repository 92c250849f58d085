//! The demo: real IOCs in pods, real clients on a workstation, and a picture of what happened.

use std::time::Duration;

use lab::{Lab, Pod, Process, Result, WORKSTATION, epics::PATIENCE};
use serde_json::Value;

use crate::{Topology, paint::Paint};

const IOCS: [&str; 3] = ["IOC1", "IOC2", "IOC3"];

pub(crate) fn run(topology: Topology) -> Result<()> {
    let paint = Paint::new();
    println!("{}\n", paint.bold("iocast: a workstation on the LAN reads IOCs in ordinary pods"));
    let what =
        format!("1/4  a LAN, a workstation, a node with a {} pod network, iocast-node", topology.name());
    let lab = paint.step(&what, || Lab::up(topology.options()))?;
    let what =
        "2/4  4 pods by the real CNI plugins, iocast chained; softIoc on the default port in 3 of them";
    let (pods, iocs) = paint.step(what, || start_pods(&lab))?;
    println!("3/4  on the workstation, in libca's default environment:");
    use_clients(&lab, &paint)?;
    println!("4/4  what happened:\n");
    picture(&lab, &pods, &paint)?;
    paint.step("\ntearing down", || {
        drop((iocs, lab));
        Ok::<_, lab::Error>(())
    })
}

fn start_pods(lab: &Lab) -> Result<(Vec<Pod>, Vec<Process>)> {
    let mut pods = vec![];
    let mut iocs = vec![];
    for prefix in IOCS {
        let pod = lab.pod(&prefix.to_lowercase())?;
        iocs.push(lab.ioc(&pod.netns, prefix)?);
        pods.push(pod);
    }
    pods.push(lab.pod("idle")?);
    Ok((pods, iocs))
}

/// Reads, writes and monitors, printing each command and what it prints.
fn use_clients(lab: &Lab, paint: &Paint) -> Result<()> {
    for line in ["caget IOC1:NAME IOC2:NAME IOC3:NAME", "caput IOC2:SETPOINT 7.5"] {
        println!("     {}", paint.bold(&format!("$ {line}")));
        show(&lab.epics_output(WORKSTATION, line, &[])?);
    }
    let line = "camonitor IOC3:COUNT";
    println!("     {}", paint.bold(&format!("$ {line}")));
    let mut monitor = lab.epics(WORKSTATION, line, &[])?;
    monitor.wait_for("three values", PATIENCE, |output| output.lines().count() >= 3)?;
    show(&monitor.output());
    Ok(())
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
        let port = lab.external_port(&pod.name, "tcp", 5064)?;
        let circuit = match port {
            Some(port) => format!("circuits to {} reach it", paint.bold(&format!("172.23.0.10:{port}"))),
            None => paint.dim("no socket on UDP 5064, so no copy"),
        };
        println!("      +-- pod {:<5} {:<11} heard {heard} datagrams; {circuit}", pod.name, pod.address);
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
