//! The CNI plugin: every verb in every version, every error, and nothing left behind.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{ffi::OsStr, process::Command};

use lab::{
    Attachment, DOMAIN, Lab, Leftovers, NODE, NOTHING, Options, Pod, Result, Sandbox, Topology, WORKSTATION,
    cni_pipe,
};
use serde_json::{Value, json};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

lab::in_both_topologies! {
    a_members_previous_result_comes_back_to_the_letter_in_every_version
    a_pod_without_the_annotation_touches_no_map
    check_finds_what_is_missing
    del_leaves_nothing_however_it_is_called
    gc_removes_what_is_not_listed_and_nothing_else
    an_add_that_fails_half_way_leaves_nothing
    a_second_add_replaces_the_first
    adds_in_parallel_get_places_of_their_own
    a_pod_that_another_plugin_filters_joins_all_the_same
}

/// Runs the plugin itself in the node's namespace: whether it succeeded, and its stdout.
pub(crate) fn plugin(
    sandbox: &Sandbox,
    variables: &[(&str, impl AsRef<OsStr>)],
    stdin: &str,
) -> Result<(bool, String)> {
    let mut command = Command::new(lab::binary("iocast")?);
    command.env_clear().envs(variables.iter().map(|(name, value)| (name, value)));
    let stdin = stdin.to_owned();
    let output = sandbox.run_in(NODE, move || cni_pipe(command, &stdin))?;
    lab::tried("run the plugin", output)
}

/// The environment of a verb for an attachment.
pub(crate) fn environment<'a>(verb: &'a str, attachment: &'a Attachment) -> [(&'a str, &'a str); 5] {
    [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", &attachment.container),
        ("CNI_NETNS", &attachment.netns),
        ("CNI_IFNAME", &attachment.interface),
        ("CNI_ARGS", &attachment.arguments),
    ]
}

/// A network configuration for our plugin alone.
pub(crate) fn configuration(
    version: &str,
    previous: Option<&str>,
    domain: Option<&str>,
    more: &str,
) -> String {
    let previous = previous.map(|previous| format!(r#","prevResult":{previous}"#)).unwrap_or_default();
    let annotations = domain.map_or("null".into(), |domain| format!(r#"{{"iocast.io/domain":"{domain}"}}"#));
    format!(
        r#"{{"cniVersion":"{version}","name":"lab","type":"iocast"{previous}{more},"runtimeConfig":{{"io.kubernetes.cri.pod-annotations":{annotations}}}}}"#
    )
}

/// A result as a bridge plugin prints it in `version`, with spaces and keys that nobody knows.
pub(crate) fn previous_result(version: &str) -> String {
    let family = if version < "1.0.0" { r#""version":"4","# } else { "" };
    format!(
        r#"{{ "cniVersion":"{version}","interfaces":[{{"name":"cni0","mac":"0a:00:00:00:00:01"}},{{"name":"eth0","sandbox":"/run/netns/x"}}],
  "ips":[{{{family}"address":"10.244.1.7/24","gateway":"10.244.1.1","interface":1}}],"dns":{{}},"x.example/number":1.50,"x.example/order":{{"b":1,"a":2}} }}"#
    )
}

#[test]
fn every_verb_answers_as_recorded_in_every_version() -> Result<()> {
    let sandbox = Sandbox::new()?;
    sandbox.add_netns(NODE)?;
    let attachment = Attachment {
        container: "c1".into(),
        netns: "/run/netns/gone".into(),
        interface: "eth0".into(),
        ..Attachment::default()
    };
    let mut found = String::new();
    for verb in ["VERSION", "ADD", "CHECK", "DEL", "GC", "STATUS"] {
        for version in VERSIONS {
            let stdin = configuration(
                version,
                Some(&previous_result(version)),
                None,
                r#","cni.dev/valid-attachments":[]"#,
            );
            let (success, stdout) = plugin(&sandbox, &environment(verb, &attachment), &stdin)?;
            let expected = (verb == "ADD" && success).then(|| previous_result(version));
            assert!(expected.is_none_or(|expected| expected == stdout), "{verb} {version}: {stdout}");
            let shown = if verb == "ADD" { "prevResult, to the letter" } else { &stdout };
            found += &format!("{verb} {version}: {} {shown}\n", if success { "ok" } else { "failed" });
        }
    }
    for stdin in [r#"{"cniVersion":"9.9.9"}"#, "{}"] {
        let (success, stdout) = plugin(&sandbox, &[("CNI_COMMAND", "VERSION")], stdin)?;
        found += &format!("VERSION with {stdin}: {} {stdout}\n", if success { "ok" } else { "failed" });
    }
    let (success, stdout) = plugin(&sandbox, &[("CNI_COMMAND", "VERSION")], "")?;
    found += &format!("VERSION without stdin: {} {stdout}\n", if success { "ok" } else { "failed" });
    lab::assert_golden("verbs.txt", &found)
}

#[test]
fn bad_input_is_named_with_the_codes_of_the_specification() -> Result<()> {
    let sandbox = Sandbox::new()?;
    sandbox.add_netns(NODE)?;
    let result = previous_result("1.0.0");
    let member = configuration("1.0.0", Some(&result), Some("bl07"), "");
    let with = |more: &str| configuration("1.0.0", Some(&result), Some("bl07"), more);
    let attachment = Attachment {
        container: "c1".into(),
        netns: "/run/netns/gone".into(),
        interface: "eth0".into(),
        ..Attachment::default()
    };
    let good = environment("ADD", &attachment);
    let other = |name: &'static str, value: &'static str| {
        let mut variables = good;
        for variable in &mut variables {
            if variable.0 == name {
                variable.1 = value;
            }
        }
        variables
    };
    let cases = [
        ("a version from the future", good, configuration("2.0.0", Some(&result), None, "")),
        ("no version", good, r#"{"name":"lab"}"#.into()),
        ("no such verb", other("CNI_COMMAND", "REMOVE"), member.clone()),
        ("no container", other("CNI_CONTAINERID", ""), member.clone()),
        ("an odd container", other("CNI_CONTAINERID", "../../etc"), member.clone()),
        ("no namespace", other("CNI_NETNS", ""), member.clone()),
        ("an odd interface", other("CNI_IFNAME", "much-too-long-a-name"), member.clone()),
        ("stdin that is cut short", good, member[..40].into()),
        ("stdin that is no object", good, "[]".into()),
        ("no prevResult", good, configuration("1.0.0", None, Some("bl07"), "")),
        (
            "no prevResult for CHECK",
            other("CNI_COMMAND", "CHECK"),
            configuration("1.0.0", None, Some("bl07"), ""),
        ),
        ("an empty annotation", good, configuration("1.0.0", Some(&result), Some(""), "")),
        ("a relative bpffs", good, with(r#","bpffs":"bpf""#)),
        ("a bpffs that is a number", good, with(r#","bpffs":42"#)),
        ("no datapath", good, member.clone()),
        ("no datapath for CHECK", other("CNI_COMMAND", "CHECK"), member.clone()),
        (
            "a list for GC that is none",
            other("CNI_COMMAND", "GC"),
            configuration("1.1.0", None, None, r#","cni.dev/valid-attachments":{"containerID":"c1"}"#),
        ),
    ];
    let mut found = String::new();
    for (what, variables, stdin) in cases {
        let (success, stdout) = plugin(&sandbox, &variables, &stdin)?;
        assert!(!success, "{what}: {stdout}");
        let error: Value = serde_json::from_str(&stdout).unwrap_or_default();
        found += &format!(
            "{what}\n  {} {} {}\n",
            error["cniVersion"],
            error["code"],
            error["msg"].as_str().unwrap_or(&stdout)
        );
    }
    lab::assert_golden("errors.txt", &found)
}

#[test]
fn a_pod_without_the_annotation_passes_whatever_else_is_broken() -> Result<()> {
    let sandbox = Sandbox::new()?;
    sandbox.add_netns(NODE)?;
    sandbox.run(|| nix::mount::umount("/sys/fs/bpf")).unwrap();
    let attachment = Attachment {
        container: "c1".into(),
        netns: "/x".into(),
        interface: "eth0".into(),
        ..Attachment::default()
    };
    let result = previous_result("1.0.0");
    for broken in [
        "",
        r#","bpffs":42"#,
        r#","bpffs":"/nonexistent""#,
        r#","bpffs":{"a":[]}"#,
        r#","capabilities":7,"args":[null]"#,
        r#","cni.dev/valid-attachments":"all""#,
    ] {
        for verb in ["ADD", "CHECK"] {
            let stdin = configuration("1.0.0", Some(&result), None, broken);
            let (success, stdout) = plugin(&sandbox, &environment(verb, &attachment), &stdin)?;
            let expected = if verb == "ADD" { result.as_str() } else { "" };
            assert!(success && stdout == expected, "{verb} with {broken}: {stdout}");
        }
    }
    for broken in [r#","bpffs":42"#, r#","bpffs":"/nonexistent""#] {
        let stdin = configuration("1.0.0", None, None, broken);
        assert_eq!(
            plugin(&sandbox, &environment("DEL", &attachment), &stdin)?,
            (true, String::new()),
            "DEL {broken}"
        );
    }
    let odd = format!(r#"{{"cniVersion":"1.0.0","name":7,"runtimeConfig":"?","prevResult":{result}}}"#);
    assert_eq!(plugin(&sandbox, &environment("ADD", &attachment), &odd)?, (true, result));
    Ok(())
}

fn a_members_previous_result_comes_back_to_the_letter_in_every_version(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.plain_pod("ioc-a")?;
    let routes = lab.sandbox.sh(&pod.netns, "ip route")?;
    for version in VERSIONS {
        let result = previous_result(version);
        let stdin = configuration(version, Some(&result), Some(DOMAIN), "");
        let added = plugin(&lab.sandbox, &environment("ADD", &pod.attachment), &stdin)?;
        assert_eq!(added, (true, result.clone()), "{version}");
        let checked = plugin(&lab.sandbox, &environment("CHECK", &pod.attachment), &stdin)?;
        assert_eq!(checked.0, version >= "0.4.0", "CHECK {version}: {}", checked.1);
        assert_eq!(
            plugin(&lab.sandbox, &environment("DEL", &pod.attachment), &stdin)?,
            (true, String::new()),
            "{version}"
        );
        assert_eq!(lab.leftovers()?, NOTHING, "after {version}");
    }
    assert_eq!(lab.sandbox.sh(&pod.netns, "ip route")?, routes, "routes changed");
    let addresses = lab.sandbox.sh(&pod.netns, "ip -4 address show dev eth0")?;
    assert_eq!(addresses.matches(" inet ").count(), 1, "{addresses}");
    assert!(addresses.contains(" brd "), "{addresses}");
    Ok(())
}

fn a_pod_without_the_annotation_touches_no_map(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let plain = lab.plain_pod("plain")?;
    let pod = lab.pod_with("other", &[("example.com/other", "x")])?;
    assert_eq!(lab.leftovers()?, NOTHING);
    let keys = |pod: &Pod| pod.result.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&pod), keys(&plain), "the result is the earlier plugins'");
    lab.delete_pod(&pod)
}

fn check_finds_what_is_missing(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options { cni_version: "1.0.0", ..Options::new(topology) })?;
    let pod = lab.pod("ioc-a")?;
    let stdin = configuration("1.0.0", Some(&previous_result("1.0.0")), Some(DOMAIN), "");
    let check = || plugin(&lab.sandbox, &environment("CHECK", &pod.attachment), &stdin);
    assert_eq!(check()?, (true, String::new()));

    let veth = lab.host_veth(&pod);
    lab.sandbox.sh(NODE, &format!("tc filter del dev {veth} ingress"))?;
    let (success, stdout) = check()?;
    assert!(
        !success && stdout.contains(r#""code":101"#) && stdout.contains("from_pod is not attached"),
        "{stdout}"
    );

    lab.delete_pod(&pod)?;
    lab.sandbox.add_netns(&pod.netns)?;
    let (success, stdout) = check()?;
    assert!(!success && stdout.contains("no ADD is recorded"), "{stdout}");
    Ok(())
}

fn del_leaves_nothing_however_it_is_called(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    for how in
        ["in order", "twice", "without a namespace", "without prevResult", "after the namespace is gone"]
    {
        let pod = lab.pod("ioc-a")?;
        let ioc = lab.ioc(&pod.netns, "A")?;
        lab.epics_output(WORKSTATION, "caget -w 5 A:NAME", &[])?;
        assert_ne!(lab.leftovers()?, NOTHING);
        ioc.kill();
        let mut attachment = pod.attachment.clone();
        match how {
            "without a namespace" => attachment.netns = String::new(),
            "without prevResult" => {
                let forgotten = attachment.clone();
                lab.execute(move |executor| executor.forget(&forgotten));
            }
            "after the namespace is gone" => lab.sandbox.delete_netns(&pod.netns)?,
            _ => {}
        }
        lab.del(&attachment)?;
        assert_eq!(lab.leftovers()?, NOTHING, "DEL {how}");
        lab.del(&attachment)?;
        if how != "after the namespace is gone" {
            lab.sandbox.delete_netns(&pod.netns)?;
        }
    }
    Ok(())
}

fn gc_removes_what_is_not_listed_and_nothing_else(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options { cni_version: "1.0.0", ..Options::new(topology) })?;
    let (kept, lost) = (lab.pod("kept")?, lab.pod("lost")?);
    let gc = |name: &str, valid: Option<&[&Pod]>| {
        let valid = valid.map(|pods| {
            pods.iter()
                .map(|pod| json!({ "containerID": pod.attachment.container, "ifname": "eth0" }))
                .collect::<Value>()
        });
        let mut stdin = json!({ "cniVersion": "1.1.0", "name": name, "type": "iocast" });
        if let Some(valid) = valid {
            stdin["cni.dev/valid-attachments"] = valid;
        }
        plugin(&lab.sandbox, &[("CNI_COMMAND", "GC"), ("CNI_PATH", "/")], &stdin.to_string())
    };
    let members = || lab.state(|state| state.attachments().unwrap().len());
    assert_eq!(gc("lab", None)?, (true, String::new()));
    assert_eq!(gc("another-network", Some(&[]))?, (true, String::new()));
    assert_eq!(gc("lab", Some(&[&kept, &lost]))?, (true, String::new()));
    assert_eq!(members()?, 2, "nothing to remove");
    assert_eq!(gc("lab", Some(&[&kept]))?, (true, String::new()));
    assert_eq!(members()?, 1, "the lost one");
    let names = lab.status()?["members"][0]["pod"].clone();
    assert_eq!(names, "kept");
    assert_eq!(gc("lab", Some(&[]))?, (true, String::new()));
    assert_eq!(lab.leftovers()?, NOTHING);
    lab.delete_pod(&kept)?;
    lab.delete_pod(&lost)
}

fn an_add_that_fails_half_way_leaves_nothing(topology: Topology) -> Result<()> {
    let mut lab = Lab::up(Options::new(topology))?;
    lab.terminate_agent()?;
    let addresses = |pod: &Pod| lab.sandbox.sh(&pod.netns, "ip -4 address show dev eth0");
    let pod = lab.plain_pod("ioc-a")?;
    // An address without a broadcast address, and one in the way of giving it one: the last step of ADD fails.
    let ip = |line: &str| lab.sandbox.sh(&pod.netns, &format!("ip address {line} dev eth0"));
    ip("flush")?;
    ip(&format!("add {}/24", pod.address))?;
    ip(&format!("add {}/31", pod.address))?;
    let before = addresses(&pod)?;
    let stdin = configuration("1.0.0", Some(&previous_result("1.0.0")), Some(DOMAIN), "");
    let add = || plugin(&lab.sandbox, &environment("ADD", &pod.attachment), &stdin);
    let (success, stdout) = add()?;
    assert!(
        !success && stdout.contains(r#""code":5"#) && stdout.contains("cannot add a twin of"),
        "{stdout}"
    );
    assert_eq!(lab.leftovers()?, NOTHING);
    assert_eq!(addresses(&pod)?, before, "the pod is as it was");

    lab.sandbox.run(|| std::fs::remove_file("/sys/fs/bpf/iocast/v4/programs/from_pod")).unwrap();
    let (success, stdout) = add()?;
    assert!(
        !success && stdout.contains(r#""code":11"#) && stdout.contains("programs/from_pod is missing"),
        "{stdout}"
    );
    assert_eq!(lab.leftovers()?, NOTHING);
    Ok(())
}

fn a_second_add_replaces_the_first(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let stdin = configuration("1.0.0", Some(&previous_result("1.0.0")), Some(DOMAIN), "");
    let (success, stdout) = plugin(&lab.sandbox, &environment("ADD", &pod.attachment), &stdin)?;
    assert!(success, "{stdout}");
    let expected = Leftovers { attachments: 1, members: 1, roster_entries: 1, filters: 1, ..NOTHING };
    assert_eq!(lab.leftovers()?, expected);
    let _ioc = lab.ioc(&pod.netns, "A")?;
    assert!(lab.epics_output(WORKSTATION, "caget -w 5 A:NAME", &[])?.contains('A'));
    Ok(())
}

fn adds_in_parallel_get_places_of_their_own(topology: Topology) -> Result<()> {
    const PODS: usize = 16;
    let lab = Lab::up(Options::new(topology))?;
    let stdin = configuration("1.0.0", Some(&previous_result("1.0.0")), Some(DOMAIN), "");
    lab.sandbox.write("/run/stdin", stdin)?;
    let mut script = String::new();
    for number in 0..PODS {
        let pod = lab.plain_pod(&format!("ioc-{number}"))?;
        let variables: Vec<_> = environment("ADD", &pod.attachment)
            .iter()
            .map(|(name, value)| format!("{name}='{value}'"))
            .collect();
        script += &format!(
            "{} {} </run/stdin >/dev/null &\n",
            variables.join(" "),
            lab::binary("iocast")?.display()
        );
    }
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script + "wait");
    lab.sandbox.exec(NODE, shell)?;
    let slots = lab.state(|state| {
        let mut slots: Vec<_> = state.attachments().unwrap().iter().map(|(_, entry)| entry.slot).collect();
        slots.sort_unstable();
        slots
    })?;
    assert_eq!(slots, (0..16).collect::<Vec<u16>>());
    Ok(())
}

fn a_pod_that_another_plugin_filters_joins_all_the_same(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.plain_pod("ioc-a")?;
    let veth = lab.host_veth(&pod);
    // As the bandwidth plugin does it: another kind of filter, of the priority that ours would take.
    lab.sandbox.sh(NODE, &format!("tc qdisc add dev {veth} ingress"))?;
    lab.sandbox
        .sh(NODE, &format!("tc filter add dev {veth} parent ffff: prio 1 u32 match u32 0 0 flowid 1:1"))?;
    let stdin = configuration("1.0.0", Some(&previous_result("1.0.0")), Some(DOMAIN), "");
    let run = |verb| plugin(&lab.sandbox, &environment(verb, &pod.attachment), &stdin);
    let (joined, said) = run("ADD")?;
    assert!(joined, "{said}");
    assert_eq!(run("CHECK")?, (true, String::new()));
    let ioc = lab.ioc(&pod.netns, "A")?;
    assert_eq!(lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &[])?, "A\n");
    ioc.kill();
    assert!(run("DEL")?.0);
    assert_eq!(lab.leftovers()?, NOTHING);
    let theirs = lab.sandbox.sh(NODE, &format!("tc filter show dev {veth} ingress"))?;
    assert!(theirs.contains("u32"), "{theirs}");
    let pins =
        lab.sandbox.run(|| std::fs::read_dir("/sys/fs/bpf/iocast/v4/links").unwrap().flatten().count());
    assert_eq!(pins, 3, "fan, from_lan and to_lan");
    Ok(())
}

#[test]
fn a_pod_without_a_veth_is_told_what_it_has() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let stdin = configuration("1.0.0", Some(&previous_result("1.0.0")), Some(DOMAIN), "");
    for (name, make, expected) in [
        ("none", "", "has no interface eth0"),
        ("bridge", "ip link add eth0 type bridge", "no IPv4 address"),
        (
            "alone",
            "ip link add eth0 type veth peer name other",
            "its other end is not in the node's namespace",
        ),
    ] {
        let attachment = lab.attachment(name, &[]);
        let netns = format!("pod-{name}");
        lab.sandbox.add_netns(&netns)?;
        if !make.is_empty() {
            lab.sandbox.sh(&netns, make)?;
        }
        if name == "alone" {
            lab.sandbox.sh(&netns, "ip address add 10.244.1.77/24 dev eth0")?;
        }
        let (success, stdout) = plugin(&lab.sandbox, &environment("ADD", &attachment), &stdin)?;
        assert!(
            !success && stdout.contains(r#""code":100"#) && stdout.contains(expected),
            "{name}: {stdout}"
        );
    }
    lab.sandbox.add_netns("pod-macvlan")?;
    lab.sandbox.sh(NODE, "ip link add eth0 link eth0 netns pod-macvlan type macvlan")?;
    lab.sandbox.sh("pod-macvlan", "ip address add 172.23.0.77/24 dev eth0")?;
    let attachment = lab.attachment("macvlan", &[]);
    let (success, stdout) = plugin(&lab.sandbox, &environment("ADD", &attachment), &stdin)?;
    assert!(!success && stdout.contains("it is a device of type macvlan"), "{stdout}");
    assert_eq!(lab.leftovers()?, NOTHING);
    Ok(())
}

#[test]
fn a_pod_of_a_namespace_that_may_not_join_is_refused() -> Result<()> {
    let mut lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    let with =
        |namespaces: &str| format!("[domain.{DOMAIN}]\nuplink = \"eth0\"\nnamespaces = {namespaces}\n");
    lab.start_agent_with(&with("[\"bl07\", \"hall-*\"]"))?;
    let error = lab.pod("ioc-a").unwrap_err().to_string();
    assert!(error.contains("code 7") && error.contains("namespace `beamline` may not join"), "{error}");
    assert!(error.contains("bl07, hall-*"), "{error}");
    assert_eq!(lab.leftovers()?, NOTHING);
    lab.terminate_agent()?;
    lab.start_agent_with(&with("[\"beam*\"]"))?;
    lab.pod("ioc-a").map(|_| ())
}

#[test]
fn a_domain_that_is_not_configured_is_named_beside_those_that_are() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let error = lab.pod_with("ioc-a", &[("iocast.io/domain", "bl99")]).unwrap_err().to_string();
    assert!(
        error.contains("code 7") && error.contains("`bl99`") && error.contains("(configured: lab)"),
        "{error}"
    );
    assert_eq!(lab.leftovers()?, NOTHING);
    Ok(())
}
