//! What a pod's start and end cost: our plugin beside others that are chained in the same place.

use std::{path::PathBuf, process::Command, time::Instant};

use lab::{DOMAIN, NODE, Pod, Result, binary, cni_pipe, tried};
use serde_json::{Value, json};

use super::{
    Settings,
    circuits::{Kept, keep_one},
};
use crate::{
    row::{Goal, IOCAST, Measure, Row, Section, Trial},
    tables::set_circuits,
    world::{Way, World},
};

/// Others' circuits on a large node.
const CIRCUITS: usize = 50_000;

/// One plugin's type, and its configuration.
struct Plugin {
    name: &'static str,
    config: Value,
}

fn plugins() -> [Plugin; 7] {
    let annotations = |value: Value| json!({ "io.kubernetes.cri.pod-annotations": value });
    let mapping = json!([{ "hostPort": 18080, "containerPort": 80, "protocol": "tcp" }]);
    let rates =
        json!({ "ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 0, "egressBurst": 0 });
    [
        Plugin {
            name: IOCAST,
            config: json!({ "type": "iocast",
                            "runtimeConfig": annotations(json!({ "iocast.io/domain": DOMAIN })) }),
        },
        Plugin {
            name: "no member",
            config: json!({ "type": "iocast", "runtimeConfig": annotations(Value::Null) }),
        },
        Plugin {
            name: "LAN address",
            config: json!({ "type": "iocast", "runtimeConfig": annotations(json!({
                "iocast.io/domain": "address", "iocast.io/address": Way::Address.pod(1).to_string() })) }),
        },
        Plugin { name: "/bin/true", config: json!({ "type": "true" }) },
        Plugin {
            name: "portmap",
            config: json!({ "type": "portmap", "snat": true, "runtimeConfig": { "portMappings": mapping } }),
        },
        Plugin {
            name: "bandwidth",
            config: json!({ "type": "bandwidth", "runtimeConfig": { "bandwidth": rates } }),
        },
        Plugin {
            name: "tuning",
            config: json!({ "type": "tuning", "sysctl": { "net.ipv4.tcp_keepalive_time": "7200" } }),
        },
    ]
}

/// Where a plugin's program is; /bin/true is none, but what starting any takes.
fn program(name: &str) -> Result<PathBuf> {
    match name {
        "iocast" => binary(name),
        "true" => Ok("/bin/true".into()),
        _ => Ok(format!("/usr/lib/cni/{name}").into()),
    }
}

/// Milliseconds that a verb takes.
fn time(world: &World, pod: &Pod, plugin: &Plugin, verb: &str) -> Result<f64> {
    let name = plugin.config["type"].as_str().unwrap_or_default();
    let program = program(name)?;
    let mut config = plugin.config.clone();
    for (key, value) in [("cniVersion", "1.0.0".into()), ("name", "lab".into())] {
        config[key] = value;
    }
    config["prevResult"] = pod.result.clone();
    let (config, attachment) = (config.to_string(), pod.attachment.clone());
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("CNI_PATH", "/usr/lib/cni").envs([
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", &attachment.container),
        ("CNI_NETNS", &attachment.netns),
        ("CNI_IFNAME", &attachment.interface),
        ("CNI_ARGS", &attachment.arguments),
    ]);
    let (took, outcome) = world.lab.sandbox.run_in(NODE, move || {
        let start = Instant::now();
        let outcome = cni_pipe(command, &config);
        (start.elapsed(), outcome)
    })?;
    let (success, output) = tried(format!("run {name}"), outcome)?;
    if !success {
        return Err(lab::Error::Command { command: format!("{name} {verb}"), output });
    }
    Ok(took.as_secs_f64() * 1e3)
}

/// Removes what DEL leaves to the veth's end: the queueing disciplines, which `bandwidth` does not want to find.
fn bare(world: &World) -> Result<()> {
    let veth = world.lab.host_veth(&world.plain);
    for place in ["root", "ingress"] {
        let mut delete = Command::new("tc");
        delete.args(["qdisc", "delete", "dev", &veth, place]);
        world.lab.sandbox.spawn(NODE, delete)?.finish()?; // fails where there is none
    }
    Ok(())
}

/// ADD and DEL of a pod that has its network already.
pub(crate) fn rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let [member, other, rest @ ..] = plugins().map(|plugin| contender(world, plugin));
    let pods = format!("{} pods", world.pods.len());
    let row = |who: &str, limit, contenders| Row {
        measures: measures(&format!("{who}, {pods}"), &[Goal::AtMost(limit)]),
        contenders,
        repeats: settings.pick(15, 5),
        warm_up: true,
    };
    Ok(vec![
        row("member", 6.0, std::iter::once(member).chain(rest).collect()),
        row("no member", 2.0, vec![(IOCAST, other.1)]),
    ])
}

/// A plugin's turn: ADD and DEL.
fn contender(world: &World, plugin: Plugin) -> (&'static str, Trial<'_>) {
    let name = plugin.name;
    let trial = move || {
        let times = add_and_del(world, &plugin)?;
        bare(world)?;
        Ok(times.into())
    };
    (name, Box::new(trial))
}

fn add_and_del(world: &World, plugin: &Plugin) -> Result<[f64; 2]> {
    Ok([time(world, &world.plain, plugin, "ADD")?, time(world, &world.plain, plugin, "DEL")?])
}

/// The same of a member on a node that has circuits of others, and what of it is above the start of any program.
pub(crate) fn circuit_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let circuits = Circuits::fill(world, CIRCUITS)?;
    let [member, _, _, nothing, ..] = plugins();
    let trial = move || {
        let _there = &circuits;
        let [add, del] = add_and_del(world, &member)?;
        bare(world)?;
        let start = time(world, &world.plain, &nothing, "ADD")?;
        Ok(vec![add, del, add - start, del - start])
    };
    let who = format!("member, {CIRCUITS} circuits");
    let mut measures = measures(&who, &[Goal::AtMost(3.0)]);
    measures.extend(self::measures(&format!("{who}, above /bin/true"), &[]));
    Ok(vec![Row {
        measures,
        contenders: vec![(IOCAST, Box::new(trial))],
        repeats: settings.pick(15, 5),
        warm_up: true,
    }])
}

/// Milliseconds of ADD and of DEL of a member.
pub(crate) fn of_a_member(world: &World) -> Result<[f64; 2]> {
    let [member, ..] = plugins();
    let times = add_and_del(world, &member)?;
    bare(world)?;
    Ok(times)
}

/// Circuits of others, as long as this is there, beside one that is real.
pub(crate) struct Circuits<'a> {
    world: &'a World,
    pub(crate) real: Kept,
}

impl<'a> Circuits<'a> {
    pub(crate) fn fill(world: &'a World, count: usize) -> Result<Self> {
        let real = keep_one(world)?;
        set_circuits(&world.lab.sandbox, count)?;
        Ok(Self { world, real })
    }
}

impl Drop for Circuits<'_> {
    fn drop(&mut self) {
        let _ = set_circuits(&self.world.lab.sandbox, 0);
    }
}

fn measures(who: &str, goals: &[Goal]) -> Vec<Measure> {
    let measure = |verb: &str| Measure::lower(Section::Cni, format!("{verb}, {who}"), "ms", goals);
    ["ADD", "DEL"].map(measure).into()
}
