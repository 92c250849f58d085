//! What is done to a node, and whom it may concern.

use std::{thread::sleep, time::Duration};

use lab::{Dice, Error, NATIVE, NODE, Result, SWITCH, ca, udp::Socket};

use super::{
    attack,
    scene::{IOCS, Scene, Subject, configuration},
};

/// Something that happens to a node.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) name: &'static str,
    /// Whose clients may lose something by it.
    pub(crate) explains: &'static str,
    /// It is part of each round whose number this divides.
    pub(crate) every: usize,
    /// Does it; tells whom it concerns.
    pub(crate) make: Make,
}

/// All of them; a round does each at most once. The agent is left alone in most, so that what it would leak is seen.
pub(crate) const TROUBLES: [Trouble; 16] = [
    trouble("an IOC restarts", "its own clients", 1, restart_ioc),
    trouble("a pod is deleted and created again", "its own clients", 1, recreate_pod),
    trouble("five pods come, read a PV and go", "nobody", 1, churn),
    trouble("the agent is killed and started again", "nobody", 10, kill_agent),
    trouble("the agent is replaced", "nobody", 10, replace_agent),
    trouble("the configuration changes", "nobody", 1, reconfigure),
    trouble("the uplink has no carrier for 2 s", "the camera's client", 1, flap),
    trouble("all pins are removed", "nobody", 1, remove_pins),
    trouble("another BPF file system is mounted", "nobody", 10, mount_bpffs),
    trouble("a LAN host sends 25 000 searches in 5 s", "nobody", 1, storm_of_the_lan),
    trouble("a pod sends 25 000 searches in 5 s", "nobody", 1, storm_of_a_pod),
    trouble("a LAN host forges 200 000 connections", "nobody", 1, attack::forge_connections),
    trouble("a LAN host forges ends of each circuit", "nobody", 1, attack::forge_ends),
    trouble("a pod sends 100 000 answers in 5 s", "nobody", 1, attack::flood_of_answers),
    trouble("six pods pin all ports that they may, and more", "nobody", 1, attack::flood_of_pins),
    trouble("300 clients of the agent say nothing", "nobody", 1, attack::slow_clients),
];

type Make = fn(&mut Scene, &mut Dice) -> Result<Vec<Subject>>;

const fn trouble(name: &'static str, explains: &'static str, every: usize, make: Make) -> Trouble {
    Trouble { name, explains, every, make }
}

fn restart_ioc(scene: &mut Scene, dice: &mut Dice) -> Result<Vec<Subject>> {
    let number = dice.below(IOCS);
    scene.places[number].ioc = None;
    sleep(Duration::from_secs(1)); // what is on its way is read
    scene.start_ioc(number)?;
    Ok(vec![Subject::Ioc(number)])
}

fn recreate_pod(scene: &mut Scene, dice: &mut Dice) -> Result<Vec<Subject>> {
    let number = dice.below(IOCS);
    scene.places[number].ioc = None;
    scene.lab.delete_pod(&scene.places[number].pod)?;
    sleep(Duration::from_secs(1));
    scene.place(number)?;
    Ok(vec![Subject::Ioc(number)])
}

fn churn(scene: &mut Scene, _: &mut Dice) -> Result<Vec<Subject>> {
    for number in 0..5 {
        let pod = scene.lab.pod(&format!("guest-{number}"))?;
        let read = scene.lab.epics_output(&pod.netns, "caget -t -w 10 N:NAME", &[])?;
        if read != "N\n" {
            return Err(Error::Missing(format!("caget in {} read `{read}`", pod.name)));
        }
        scene.lab.delete_pod(&pod)?;
    }
    Ok(vec![])
}

fn kill_agent(scene: &mut Scene, _: &mut Dice) -> Result<Vec<Subject>> {
    scene.lab.stop_agent();
    sleep(Duration::from_secs(1));
    scene.start_agent()?;
    Ok(vec![])
}

fn replace_agent(scene: &mut Scene, _: &mut Dice) -> Result<Vec<Subject>> {
    scene.lab.terminate_agent()?;
    scene.start_agent()?;
    Ok(vec![])
}

fn reconfigure(scene: &mut Scene, _: &mut Dice) -> Result<Vec<Subject>> {
    for other in [true, false] {
        let said = |output: &str| output.matches("the configuration has changed").count();
        let before = said(&scene.lab.agent_output());
        scene.lab.configure(&configuration(other))?;
        scene.lab.wait_for_agent("change", |output| said(output) > before)?;
    }
    Ok(vec![])
}

fn flap(scene: &mut Scene, _: &mut Dice) -> Result<Vec<Subject>> {
    // At the switch: the kernel would forget what it masquerades if the interface itself were taken down.
    scene.lab.sandbox.sh(SWITCH, "ip link set node down")?;
    sleep(Duration::from_secs(2));
    scene.lab.sandbox.sh(SWITCH, "ip link set node up")?;
    sleep(Duration::from_secs(10)); // a client of a camera takes a while to find that it has lost control
    Ok(vec![Subject::Camera])
}

fn remove_pins(scene: &mut Scene, _: &mut Dice) -> Result<Vec<Subject>> {
    lose_pins(scene, "rm -r /sys/fs/bpf/iocast")
}

fn mount_bpffs(scene: &mut Scene, _: &mut Dice) -> Result<Vec<Subject>> {
    lose_pins(scene, "mount -t bpf bpf /sys/fs/bpf")
}

/// Does something to the pins, and waits for the agent to mend it.
fn lose_pins(scene: &mut Scene, line: &str) -> Result<Vec<Subject>> {
    let mended = |output: &str| output.matches("all is pinned again").count();
    let before = mended(&scene.lab.agent_output());
    scene.lab.sandbox.sh(NODE, line)?;
    scene.lab.wait_for_agent("pins", |output| mended(output) > before)?;
    Ok(vec![])
}

fn storm_of_the_lan(scene: &mut Scene, _: &mut Dice) -> Result<Vec<Subject>> {
    storm(&Socket::bind(&scene.lab.sandbox, NATIVE, "0.0.0.0:0")?, "172.23.0.255:5064")
}

fn storm_of_a_pod(scene: &mut Scene, dice: &mut Dice) -> Result<Vec<Subject>> {
    let pod = &scene.places[dice.below(IOCS)].pod.netns;
    storm(&Socket::bind(&scene.lab.sandbox, pod, "0.0.0.0:0")?, "255.255.255.255:5064")
}

/// An archiver that looks for its missing PVs.
fn storm(socket: &Socket, to: &str) -> Result<Vec<Subject>> {
    for _ in 0..50 {
        socket.send_burst(&ca::search(&["NOT:THERE"]), to, 500)?;
        sleep(Duration::from_millis(100));
    }
    Ok(vec![])
}
