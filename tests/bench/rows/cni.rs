//! What a pod's start and end cost: our plugin beside others that are chained in the same place.

use std::{process::Command, time::Instant};

use lab::{DOMAIN, NODE, Pod, Result, binary, cni_pipe, tried};
use serde_json::{Value, json};

use super::Settings;
use crate::{
    row::{Goal, IOCAST, Measure, Row, Section, Trial},
    world::{Way, World},
};

/// One plugin's type, and its configuration.
struct Plugin {
    name: &'static str,
    config: Value,
}

fn plugins() -> [Plugin; 6] {
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

/// Milliseconds that a verb takes.
fn time(world: &World, pod: &Pod, plugin: &Plugin, verb: &str) -> Result<f64> {
    let name = plugin.config["type"].as_str().unwrap_or_default();
    let program = if name == "iocast" { binary(name)? } else { format!("/usr/lib/cni/{name}").into() };
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
    let contender = |plugin: Plugin| -> (&'static str, Trial) {
        let name = plugin.name;
        let trial = move || {
            let times = ["ADD", "DEL"].map(|verb| time(world, &world.plain, &plugin, verb));
            bare(world)?;
            times.into_iter().collect()
        };
        (name, Box::new(trial))
    };
    let [member, other, rest @ ..] = plugins().map(contender);
    let (name, repeats) =
        (|what: &str| format!("{what} with {} pods", world.pods.len()), settings.pick(15, 7));
    let (add, del) = (name("ADD"), name("DEL"));
    let (_, other) = other;
    Ok(vec![
        Row {
            measures: vec![
                Measure::lower(Section::Cni, format!("{add}, member"), "ms", &[Goal::AtMost(6.0)]),
                Measure::lower(Section::Cni, format!("{del}, member"), "ms", &[]),
            ],
            contenders: std::iter::once(member).chain(rest).collect(),
            repeats,
            warm_up: true,
        },
        Row {
            measures: vec![
                Measure::lower(Section::Cni, format!("{add}, no member"), "ms", &[Goal::AtMost(2.0)]),
                Measure::lower(Section::Cni, format!("{del}, no member"), "ms", &[]),
            ],
            contenders: vec![(IOCAST, other)],
            repeats,
            warm_up: true,
        },
    ])
}
