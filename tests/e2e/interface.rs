//! What other people's programs read of ours, by name: a change of it is seen in review, in `tests/golden/interface.txt`.
//! (Metrics and their labels are listed where they are made, in `installer/src/metrics.rs`.)

use std::{collections::BTreeSet, fmt::Write, time::Duration};

use lab::{DOMAIN, Lab, Options, Process, Result, Topology, WORKSTATION};
use membership::annotation;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn the_names_that_programs_read_are_those_recorded() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let annotations = [(annotation::DOMAIN, DOMAIN), (annotation::PORTS, "tcp/5064=65064")];
    let pod = lab.pod_with("ioc-a", &annotations)?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    lab.pod_with("ioc-b", &[(annotation::DOMAIN, DOMAIN), (annotation::ADDRESS, "172.23.0.50")])?;
    let mut packets = snoop(&lab, "--json")?;
    lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &[])?;
    packets.wait_for("an answer", PATIENCE, |said| said.contains("answered"))?;
    packets.terminate();
    let packets = packets.finish()?.success()?;
    let searches = snoop(&lab, "--unanswered --for 5 --json")?;
    lab.epics(WORKSTATION, "caget -w 4 A:NONE", &[])?.finish()?;
    let run = |line: &str| Ok::<_, lab::Error>(lab.agent_command(line)?.finish()?.output);
    let annotations = [annotation::DOMAIN, annotation::PORTS, annotation::ADDRESS];
    let mut found = format!("annotations\n  {}\n", annotations.join("\n  "));
    for (what, said) in [
        ("iocast-node status --json", run("status --json")?),
        ("iocast-node members --json", run("members --json")?),
        ("iocast-node doctor --json", run("doctor --json --config /run/iocast/config.toml")?),
        ("iocast-node why --json", run("why A:NAME --from 172.23.0.2 --ask --json")?),
        ("iocast-node snoop --json", packets),
        ("iocast-node snoop --unanswered --json", searches.finish()?.success()?),
    ] {
        let _ = writeln!(found, "{what}"); // to a string that cannot fail
        let keys = keys(&said);
        assert!(!keys.is_empty(), "{what} printed: {said}");
        keys.iter().for_each(|key| found += &format!("  {key}\n"));
    }
    lab::assert_golden("interface.txt", &found)
}

/// Starts to watch the first node.
fn snoop(lab: &Lab, line: &str) -> Result<Process> {
    let mut snoop = lab.agent_command(&format!("snoop {line}"))?;
    snoop.wait_for("watch", PATIENCE, |said| said.contains("watching"))?;
    Ok(snoop)
}

/// The paths of all keys and of what they hold, in a program's lines or documents of JSON.
fn keys(output: &str) -> BTreeSet<String> {
    let start = output.find(['[', '{']).unwrap_or(output.len());
    let documents = serde_json::Deserializer::from_str(&output[start..]).into_iter::<Value>();
    let mut found = BTreeSet::new();
    documents.map_while(std::result::Result::ok).for_each(|document| collect("", &document, &mut found));
    found
}

fn collect(path: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            object.iter().for_each(|(key, value)| collect(&format!("{path}.{key}"), value, found));
        }
        Value::Array(values) => {
            values.iter().for_each(|value| collect(&format!("{path}[]"), value, found));
        }
        _ => _ = found.insert(path.to_owned()),
    }
}
