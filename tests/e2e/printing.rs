//! What others chose commands no terminal, wherever it is shown, and programs get it as it was.

use std::time::Duration;

use lab::{Attachment, Lab, Options, Result, Sandbox, Topology, WORKSTATION, ca, udp::Socket};
use serde_json::Value;

use crate::{
    agent::ask,
    cni::{configuration, environment, plugin, previous_result},
};

/// ESC, CSI in one character, DEL, an override of the direction, a line separator, something without a width, and lines
/// that would look like ours.
const NAME: &str = "a\x1b[31m\u{9b}2J\x7f\u{202e}\u{2028}\u{200b}\r\nOK    kernel";
/// The beginning of the same, shown.
const SHOWN: &str = r"a\u{1b}[31m\u{9b}2J\u{7f}\u{202e}\u{2028}\u{200b}\r";

/// Checks that a terminal only shows `text`, and that no line of it begins with what others chose.
fn assert_plain(what: &str, text: &str) {
    assert!(
        text.chars().all(|c| c == '\n' || (' '..='~').contains(&c) || c == '\u{fffd}'),
        "{what}: {text:?}"
    );
    let forged = text.lines().filter(|line| line.trim_start().starts_with("OK    kernel")).count();
    assert!(forged <= usize::from(what == "doctor"), "{what}: {text}");
}

fn said(lab: &Lab, command: &str) -> Result<String> {
    Ok(lab.agent_command(command)?.finish()?.output)
}

/// A lab with a pod of that name, whatever a runtime may have.
fn lab() -> Result<Lab> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let pod = lab.plain_pod("ioc-a")?;
    let arguments = format!("K8S_POD_NAMESPACE={NAME};K8S_POD_NAME={NAME}");
    let attachment = Attachment { arguments, ..pod.attachment };
    let stdin = configuration("1.0.0", Some(&previous_result("1.0.0")), Some("lab"), "");
    let (joined, said) = plugin(&lab.sandbox, &environment("ADD", &attachment), &stdin)?;
    assert!(joined, "{said}");
    Ok(lab)
}

#[test]
fn a_pod_may_be_called_what_it_likes() -> Result<()> {
    let lab = lab()?;
    let looking = ["status", "members", "top --for 1", "map --for 1"];
    for command in [&looking[..], &["doctor --config /run/iocast/config.toml", "why A:NAME --ask"]].concat() {
        let text = said(&lab, command)?;
        let name = command.split(' ').next().unwrap_or_default();
        assert_plain(name, &text);
        assert!(name != "status" || text.contains(SHOWN), "{text}");
        let json = said(&lab, &format!("{command} --json"))?;
        assert_plain(&format!("{name} --json"), &json);
    }
    assert_eq!(lab.status()?["members"][0]["pod"], NAME, "as it was");
    Ok(())
}

#[test]
fn a_pv_may_be_called_what_it_likes() -> Result<()> {
    let lab = lab()?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    // What is not UTF-8 is shown as such.
    let mut not_text = NAME.as_bytes().to_vec();
    not_text.extend(b"\xff\x9b");
    let mut search = ca::search(&[NAME]);
    not_text.resize((not_text.len() + 1).next_multiple_of(8), 0);
    search.extend(ca::message(6, 5, 13, 2, 2, &not_text));
    for options in ["", "--json", "--unanswered", "--unanswered --json"] {
        let mut snoop = lab.agent_command(&format!("snoop --for 4 {options}"))?;
        snoop.wait_for("watcher", Duration::from_secs(10), |output| output.contains("watching"))?;
        for _ in 0..3 {
            client.send(&search, "172.23.0.255:5064")?;
            std::thread::sleep(Duration::from_millis(600));
        }
        let text = snoop.finish()?.success()?;
        assert_plain(&format!("snoop {options}"), &text);
        let objects: Vec<Value> = text
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect();
        let is_named = |object: &Value| object["pv"] == NAME || object["pvs"][0] == NAME;
        let wrong = format!("{NAME}\u{fffd}\u{fffd}");
        let is_wrong = |object: &Value| object["pv"] == *wrong || object["pvs"][1] == *wrong;
        if options.contains("json") {
            assert!(objects.iter().any(is_named) && objects.iter().any(is_wrong), "{text}");
        } else {
            assert!(text.contains(SHOWN) && text.contains('\u{fffd}'), "{text}");
        }
    }
    Ok(())
}

#[test]
fn annotations_and_arguments_in_an_error_are_fit_for_kubectl_describe() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let pod = lab.plain_pod("ioc-a")?;
    let good = environment("ADD", &pod.attachment);
    let stdin = |annotations: Value| {
        let mut stdin: Value =
            serde_json::from_str(&configuration("1.0.0", Some(&previous_result("1.0.0")), None, ""))
                .unwrap_or_default();
        stdin["runtimeConfig"]["io.kubernetes.cri.pod-annotations"] = annotations;
        stdin
    };
    let with = |key: &str, value: Value| {
        let mut stdin = stdin(serde_json::json!({ "iocast.io/domain": "lab" }));
        stdin[key] = value;
        stdin
    };
    let long = NAME.repeat(100_000);
    for (what, stdin) in [
        ("a domain", stdin(serde_json::json!({ "iocast.io/domain": NAME }))),
        ("a domain in a list", stdin(serde_json::json!({ "iocast.io/domain": [NAME] }))),
        ("a long domain", stdin(serde_json::json!({ "iocast.io/domain": long }))),
        ("ports", stdin(serde_json::json!({ "iocast.io/domain": "lab", "iocast.io/ports": NAME }))),
        (
            "ports in an object",
            stdin(serde_json::json!({ "iocast.io/domain": "lab", "iocast.io/ports": { NAME: 1 } })),
        ),
        ("a version", with("cniVersion", NAME.into())),
        ("a network", with("name", NAME.repeat(10).into())),
        ("a BPF file system", with("bpffs", NAME.into())),
        ("a path of one", with("bpffs", format!("/{NAME}").into())),
    ] {
        let (success, said) = plugin(&lab.sandbox, &good, &stdin.to_string())?;
        assert!(!success, "{what}: {said}");
        let told = format!("{what}: {said:.5000}");
        assert_plain(what, &said);
        let error: Value = serde_json::from_str(&said).unwrap_or_default();
        let message = error["msg"].as_str().unwrap_or_default();
        // What was JSON in the message has that one's escapes.
        assert!(message.contains(r"\u{1b}[31m") || message.contains(r"\u001b[31m"), "{told}");
        assert!(message.len() < 14_000 && message.lines().count() == 1, "{told}");
        assert_plain(what, message);
    }
    let version = format!(r#"{{"cniVersion":{}}}"#, Value::from(NAME));
    let (_, said) = plugin(&lab.sandbox, &[("CNI_COMMAND", "VERSION")], &version)?;
    assert_plain("VERSION", &said);
    assert!(serde_json::from_str::<Value>(&said).is_ok_and(|answer| answer["cniVersion"] == NAME), "{said}");
    Ok(())
}

#[test]
fn files_and_interfaces_may_be_called_what_they_like() -> Result<()> {
    let lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    write_configurations(&lab.sandbox)?;
    let uplink = "a\\u001b[31m\\u009b";
    lab.configure(&format!("[domain.lab]\nuplink = \"{uplink}\"\n"))?;
    let plugin = lab::binary("iocast")?.display().to_string();
    let cni = format!("--cni-conf-dir /run/net.d --cni-bin-dir /run/bin --plugin {plugin}");
    let run = format!("run --config /run/iocast/config.toml {cni} --listen 127.0.0.1:9402");
    let mut agent = lab.agent_command(&run)?;
    agent.wait_for("ready agent", Duration::from_secs(30), |output| {
        output.contains("ready") && output.contains("because of it, containerd")
    })?;
    let doctor = said(&lab, &format!("doctor --config /run/iocast/config.toml {cni}"))?;
    let get = |path: &str| {
        let answer = ask(&lab, &format!("GET /{path}"))?;
        Ok::<_, lab::Error>(
            answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default(),
        )
    };
    for (what, text) in [
        ("the agent", agent.output()),
        ("doctor", doctor),
        ("readyz", get("readyz")?),
        ("metrics", get("metrics")?),
    ] {
        assert_plain(what, &text);
        assert!(text.contains("u{1b}[31m"), "{what}: {text}");
    }
    lab.configure(&format!("[domain.\"{uplink}\"]\nuplink = \"eth0\"\n[{uplink}"))?;
    agent.wait_for("fault", Duration::from_secs(10), |output| {
        output.contains("config.toml: TOML parse error")
    })?;
    assert_plain("a faulty configuration", &agent.output());
    Ok(())
}

fn write_configurations(sandbox: &Sandbox) -> Result<()> {
    let network = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}"#;
    sandbox.write(&format!("/run/net.d/00-{NAME}.conf"), "{")?;
    sandbox.write("/run/net.d/10-a.conflist", network)?;
    sandbox.write("/run/bin/.made", "")
}
