//! The plugin killed at any moment, again and again: a DEL that ends leaves nothing, whatever was cut off before it.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    io::{Seek, Write},
    process::{Child, Command, Stdio},
    thread::{scope, sleep},
    time::{Duration, Instant, SystemTime},
};

use lab::{Attachment, DOMAIN, Dice, Lab, NODE, NOTHING, Options, Pod, Result, Topology, WORKSTATION, tried};
use serde_json::json;

lab::in_both_topologies! {
    kills_of_the_plugin_at_any_moment_leave_nothing
}

/// How many pods come and go at the same time.
const PODS: u16 = 16;
/// How often each does, with the agent and again without: 512 times in each topology.
const ROUNDS: usize = 16;

fn kills_of_the_plugin_at_any_moment_leave_nothing(topology: Topology) -> Result<()> {
    let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = std::env::var("SEED").map_or(seed, |seed| seed.parse().unwrap());
    println!("SEED={seed} kills at about the same moments");
    let mut lab = Lab::up(Options::with_pins(topology))?;
    let (pins, veths) = (pins(&lab)?, veths(&lab)?);
    let pods: Vec<_> =
        (0..PODS).map(|number| lab.plain_pod(&format!("pod-{number}"))).collect::<Result<_>>()?;
    let start = Instant::now();
    let mut cut = Cut::default();
    for agent in ["with the agent", "without it"] {
        if agent == "without it" {
            lab.terminate_agent()?;
        }
        cut += come_and_go(&lab, &pods, &mut Dice(seed))?;
        assert_eq!(lab.leftovers()?, NOTHING, "{agent}");
        assert_eq!(self::pins(&lab)?, pins, "{agent}");
    }
    let Cut { adds, half, dels } = cut;
    let all = 2 * usize::from(PODS) * ROUNDS;
    let took = start.elapsed().as_secs_f32();
    lab::report(
        &format!("pods that came and went, {PODS} at a time ({topology:?})"),
        &format!("{all} in {took:.1} s; {adds} ADDs, {half} of them half way, and {dels} DELs were cut off"),
    );
    assert!(half > all / 32 && dels > all / 32, "the kills missed: {cut:?}");
    for pod in &pods {
        lab.delete_pod(pod)?;
    }
    assert_eq!(self::veths(&lab)?, veths);
    serves(&mut lab)
}

/// What is pinned on the node, but for what a bridge keeps after the first pod with an address.
fn pins(lab: &Lab) -> Result<Vec<String>> {
    let found = lab.sandbox.sh(NODE, "find /sys/fs/bpf -not -name to_bridge-*")?;
    let mut found: Vec<_> = found.lines().map(Into::into).collect();
    found.sort();
    Ok(found)
}

/// Names and hardware addresses of the node's veths. Not their states: whether a link has a carrier the kernel finds a little
/// later.
fn veths(lab: &Lab) -> Result<Vec<[String; 2]>> {
    let links = lab.sandbox.sh(NODE, "ip -o -br link show type veth")?;
    let lines = links.lines().map(|line| line.split_whitespace().map(Into::into).collect::<Vec<String>>());
    Ok(lines.map(|words| [words[0].clone(), words[2].clone()]).collect())
}

/// A member that comes now has the ports that it asks for, and is found.
fn serves(lab: &mut Lab) -> Result<()> {
    lab.start_agent()?;
    let pod = lab.pod_with("ioc-a", &[("iocast.io/domain", DOMAIN), ("iocast.io/ports", &ports(0))])?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    assert_eq!(lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &[])?, "A\n");
    assert_eq!(lab.external_port("ioc-a", "tcp", 5064)?, Some(15000));
    Ok(())
}

/// The ports that a pod asks for.
fn ports(number: u16) -> String {
    let external = 15000 + number;
    format!("tcp/5064={external}, udp/5064={external}, tcp/5075={}", external + PODS)
}

/// What a pod asks for: every other one has an address on the LAN.
fn annotations(number: u16) -> serde_json::Value {
    let mut asked = json!({ "iocast.io/domain": DOMAIN, "iocast.io/ports": ports(number) });
    if number.is_multiple_of(2) {
        asked["iocast.io/address"] = format!("172.23.0.{}", 48 + number).into();
    }
    asked
}

/// How many verbs were cut off before their end.
#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    adds: usize,
    /// ADDs of which something was there.
    half: usize,
    dels: usize,
}

impl std::ops::AddAssign for Cut {
    fn add_assign(&mut self, other: Self) {
        self.adds += other.adds;
        self.half += other.half;
        self.dels += other.dels;
    }
}

/// All pods at the same time.
fn come_and_go(lab: &Lab, pods: &[Pod], dice: &mut Dice) -> Result<Cut> {
    scope(|scope| {
        let workers = (0..).zip(pods).map(|(number, pod)| {
            let usual = [Duration::from_millis(20); 3];
            let mut worker = Worker { lab, pod, number, dice: Dice(dice.roll()), usual };
            scope.spawn(move || worker.come_and_go())
        });
        let workers: Vec<_> = workers.collect(); // all are started before the first is waited for
        let mut cut = Cut::default();
        for worker in workers {
            cut += worker.join().unwrap()?;
        }
        Ok(cut)
    })
}

const VERBS: [&str; 3] = ["ADD", "CHECK", "DEL"];

fn place(verb: &str) -> usize {
    VERBS.iter().position(|known| *known == verb).unwrap()
}

/// What a runtime does for one pod.
struct Worker<'a> {
    lab: &'a Lab,
    pod: &'a Pod,
    number: u16,
    dice: Dice,
    /// How long each verb of [`VERBS`] took that was not cut off.
    usual: [Duration; 3],
}

impl Worker<'_> {
    /// ADD and DEL, each cut off now and then; DEL again until one ends.
    fn come_and_go(&mut self) -> Result<Cut> {
        let mut cut = Cut::default();
        for _ in 0..ROUNDS {
            let attachment = Attachment {
                netns: self.pod.attachment.netns.clone(),
                ..self.lab.attachment(&self.pod.name, &[])
            };
            self.renew_address()?;
            if self.attempt("ADD", &attachment)? {
                self.verb("CHECK", &attachment)?;
            } else {
                cut.adds += 1;
                cut.half += usize::from(self.has_begun()?);
            }
            while !self.attempt("DEL", &attachment)? {
                cut.dels += 1;
            }
        }
        Ok(cut)
    }

    /// Gives the pod an address and a way out as the first plugin of the chain would, without what an ADD has done to it.
    fn renew_address(&self) -> Result<()> {
        let address = self.pod.result["ips"][0]["address"].as_str().unwrap();
        for line in [
            "address flush dev eth0",
            &format!("address add {address} dev eth0"),
            "route replace default via 10.244.1.1 dev eth0 onlink",
        ] {
            self.lab.sandbox.sh(&self.pod.netns, &format!("ip {line}"))?;
        }
        Ok(())
    }

    /// Whether the maps know the pod.
    fn has_begun(&self) -> Result<bool> {
        let name = self.pod.name.clone();
        self.lab.state(move |state| {
            state.attachments().unwrap().iter().any(|(_, attachment)| abi::text(&attachment.pod) == name)
        })
    }

    /// Runs a verb, and most times kills it before its usual end: whether it ended by itself.
    fn attempt(&mut self, verb: &str, attachment: &Attachment) -> Result<bool> {
        if self.dice.roll().is_multiple_of(4) {
            return self.verb(verb, attachment).map(|()| true);
        }
        let mut child = self.start(verb, attachment)?;
        sleep(self.usual[place(verb)].mul_f64(self.dice.roll() as f64 / u64::MAX as f64));
        tried("kill the plugin", child.kill())?;
        let output = tried("wait for the plugin", child.wait_with_output())?;
        let said = String::from_utf8_lossy(&output.stdout);
        assert_ne!(output.status.code(), Some(1), "{verb}: {said}");
        Ok(output.status.success())
    }

    /// Runs a verb to its end, which is success.
    fn verb(&mut self, verb: &str, attachment: &Attachment) -> Result<()> {
        let start = Instant::now();
        let output = tried("wait for the plugin", self.start(verb, attachment)?.wait_with_output())?;
        self.usual[place(verb)] = start.elapsed();
        assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    }

    fn start(&self, verb: &str, attachment: &Attachment) -> Result<Child> {
        let mut input = tried("create a file for input", tempfile::tempfile())?;
        let configuration = json!({
            "cniVersion": "1.0.0", "name": "lab", "type": "iocast", "prevResult": self.pod.result,
            "runtimeConfig": { "io.kubernetes.cri.pod-annotations": annotations(self.number) },
        });
        let written = write!(input, "{configuration}").and_then(|()| input.rewind());
        tried("write the plugin's input", written)?;
        let mut command = Command::new(lab::binary("iocast")?);
        command.env_clear().stdin(input).stdout(Stdio::piped());
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", &attachment.container);
        command.env("CNI_NETNS", &attachment.netns).env("CNI_IFNAME", &attachment.interface);
        command.env("CNI_ARGS", &attachment.arguments);
        let child = self.lab.sandbox.run_in(NODE, move || lab::start(&mut command))?;
        tried("start the plugin", child)
    }
}
