//! What a runtime, or somebody in its place, passes to the plugin: namespaces that are none, odd names, input without end,
//! and a second container id for a veth that has a member.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    ffi::{OsStr, OsString},
    os::unix::{ffi::OsStrExt, net::UnixListener},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use lab::{Attachment, DOMAIN, Lab, Leftovers, NODE, NOTHING, Options, Pod, Result, Topology, WORKSTATION};
use serde_json::Value;

use crate::cni::{configuration, environment, plugin, previous_result};

/// No plugin takes that long.
const AT_ONCE: Duration = Duration::from_secs(5);
const ONE_MEMBER: Leftovers =
    Leftovers { attachments: 1, members: 1, roster_entries: 1, filters: 1, ..NOTHING };

fn lab() -> Result<Lab> {
    Lab::up(Options::new(Topology::Bridge))
}

fn stdin() -> String {
    configuration("1.0.0", Some(&previous_result("1.0.0")), Some(DOMAIN), "")
}

fn run(lab: &Lab, verb: &str, attachment: &Attachment) -> Result<(bool, String)> {
    plugin(&lab.sandbox, &environment(verb, attachment), &stdin())
}

/// The code and the message of an error.
fn error(answer: &str) -> (u64, String) {
    let error: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
    (error["code"].as_u64().unwrap_or(0), error["msg"].as_str().unwrap_or_default().into())
}

#[test]
fn what_is_no_namespace_of_a_pod_is_refused_at_once() -> Result<()> {
    let lab = lab()?;
    let pod = lab.plain_pod("ioc-a")?;
    let netns = pod.attachment.netns.clone();
    let _socket = lab.sandbox.run(move || {
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, name).unwrap();
        nix::unistd::mkfifo("/run/fifo", nix::sys::stat::Mode::S_IRWXU).unwrap();
        link("/nowhere", "/run/dangling");
        link("/run/loop", "/run/loop");
        link(&netns, "/run/pod");
        UnixListener::bind("/run/socket").unwrap()
    });
    for (path, code, expected) in [
        ("/run/fifo", 4, "is no network namespace"),
        ("/run", 4, "is no network namespace"),
        ("/etc/passwd", 4, "is no network namespace"),
        ("/dev/zero", 4, "is no network namespace"),
        ("/proc/self/ns/mnt", 4, "is a namespace of another kind"),
        ("/proc/self/ns/net", 4, "is the node's own network namespace"),
        ("/run/dangling", 5, "No such file"),
        ("/run/loop", 5, "Too many levels of symbolic links"),
        ("/run/socket", 5, "No such device or address"),
        ("relative", 5, "No such file"),
    ] {
        let attachment = Attachment { netns: path.into(), ..pod.attachment.clone() };
        let began = Instant::now();
        let (success, said) = run(&lab, "ADD", &attachment)?;
        let (found, message) = error(&said);
        assert!(!success && found == code && message.contains(path), "{path}: {said}");
        assert!(message.contains(expected) && began.elapsed() < AT_ONCE, "{path}: {said}");
        assert_eq!(lab.leftovers()?, NOTHING, "{path}");
        assert_eq!(run(&lab, "DEL", &attachment)?, (true, String::new()), "{path}: DEL needs no namespace");
    }
    let linked = Attachment { netns: "/run/pod".into(), ..pod.attachment };
    assert!(run(&lab, "ADD", &linked)?.0, "a link to a namespace is one");
    assert_eq!(lab.leftovers()?, ONE_MEMBER);
    Ok(())
}

#[test]
fn odd_names_of_interfaces_and_containers_are_refused_in_words_that_can_be_shown() -> Result<()> {
    let lab = lab()?;
    let pod = lab.plain_pod("ioc-a")?;
    let shown = |answer: &str| answer.chars().all(|c| (' '..='~').contains(&c) || c == '\u{fffd}');
    let long = "x".repeat(100_000);
    for (name, value, code) in [
        ("CNI_IFNAME", b".".as_slice(), 4),
        ("CNI_IFNAME", b"..", 4),
        ("CNI_IFNAME", b"../x", 4),
        ("CNI_IFNAME", b"a:b", 4),
        ("CNI_IFNAME", b"a b", 4),
        ("CNI_IFNAME", b"et\nh", 4),
        ("CNI_IFNAME", b"sixteen-bytes-16", 4),
        ("CNI_IFNAME", long.as_bytes(), 4),
        ("CNI_IFNAME", b"eth%d", 100),
        ("CNI_IFNAME", b"\x1b[2J", 100),
        ("CNI_IFNAME", b"\xff\xfe", 100),
        ("CNI_CONTAINERID", b"a\x1b[2J", 4),
        ("CNI_CONTAINERID", b"-a", 4),
        ("CNI_CONTAINERID", b"\xff", 4),
        ("CNI_CONTAINERID", long.as_bytes(), 4),
        ("CNI_COMMAND", b"ADD\x9b", 4),
        ("CNI_COMMAND", long.as_bytes(), 4),
    ] {
        let mut variables =
            environment("ADD", &pod.attachment).map(|(name, value)| (name, OsString::from(value)));
        for variable in variables.iter_mut().filter(|(known, _)| *known == name) {
            variable.1 = OsStr::from_bytes(value).into();
        }
        let (success, said) = plugin(&lab.sandbox, &variables, &stdin())?;
        let value = String::from_utf8_lossy(value);
        assert!(!success && error(&said).0 == code, "{name} {value:.20}: {said}");
        assert!(shown(&said) && said.len() < 3000, "{name} {value:.20}: {said}");
        assert_eq!(lab.leftovers()?, NOTHING, "{name} {value:.20}");
    }
    Ok(())
}

#[test]
fn odd_arguments_of_the_runtime_fail_no_pod_but_those_whose_name_is_too_long() -> Result<()> {
    let lab = lab()?;
    let pod = lab.plain_pod("ioc-a")?;
    let long = format!("K8S_POD_NAMESPACE=b;K8S_POD_NAME={}", "x".repeat(100_000));
    for (arguments, expected) in [
        (b"".as_slice(), Some(pod.attachment.container.as_str())), // as without a CRI
        (b";;=;K8S_POD_NAME;K8S_POD_NAMESPACE", Some(&pod.attachment.container)),
        (b"K8S_POD_NAME=a;K8S_POD_NAME=b;K8S_POD_NAMESPACE=n", Some("a")),
        (b"K8S_POD_NAME=a=b;K8S_POD_NAMESPACE=n", Some("a=b")),
        (b"K8S_POD_NAME=a\xff;K8S_POD_NAMESPACE=n", Some("a\u{fffd}")),
        (b"K8S_POD_NAME=a\x1b[2J\n;K8S_POD_NAMESPACE=n", Some("a\x1b[2J\n")),
        (long.as_bytes(), None),
    ] {
        let mut variables =
            environment("ADD", &pod.attachment).map(|(name, value)| (name, OsString::from(value)));
        variables[4].1 = OsStr::from_bytes(arguments).into();
        let (success, said) = plugin(&lab.sandbox, &variables, &stdin())?;
        assert_eq!(success, expected.is_some(), "{expected:?}: {said}");
        assert!(said.len() < 3000 && (success || said.contains("names is too long")), "{said}");
        let found = lab.status()?["members"][0]["pod"].clone();
        assert_eq!(found.as_str(), expected);
        assert!(run(&lab, "DEL", &pod.attachment)?.0);
    }
    Ok(())
}

#[test]
fn input_without_end_is_refused_and_odd_input_fails_no_pod_that_asks_for_nothing() -> Result<()> {
    let lab = lab()?;
    let pod = lab.plain_pod("ioc-a")?;
    let variables = environment("ADD", &pod.attachment);
    let long = format!(r#"{{"cniVersion":"1.0.0","name":"{}"}}"#, "x".repeat(300_000_000));
    let (success, said) = plugin(&lab.sandbox, &variables, &long)?;
    assert!(!success && error(&said) == (6, STDIN_TOO_LONG.into()), "{said}");

    let command = lab::binary("iocast")?.display().to_string();
    let closed = lab.sandbox.run_in(NODE, move || {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("exec {command} <&-")])
            .env("CNI_COMMAND", "STATUS")
            .stdout(Stdio::piped());
        lab::start(&mut shell).and_then(std::process::Child::wait_with_output)
    })?;
    let said = String::from_utf8_lossy(&closed.unwrap().stdout).into_owned();
    assert!(error(&said).0 == 6 && said.contains("expected a JSON object"), "{said}");

    let result = previous_result("1.0.0");
    let odd = configuration("1.0.0", Some(&result), None, "");
    let odd = odd.replace("\"lab\"", "\"l\u{9b}\u{2028}b\"");
    assert_eq!(plugin(&lab.sandbox, &variables, &odd)?, (true, result));
    Ok(())
}

const STDIN_TOO_LONG: &str = "cannot read stdin: it is longer than 16 MiB";

/// Asks to be a member for a veth that is one already, in some way.
struct Second {
    what: &'static str,
    /// The attachment that asks, after what had to happen before.
    prepare: fn(&Lab, &Pod) -> Result<Attachment>,
}

const SECONDS: [Second; 3] = [
    Second { what: "another container id", prepare: |_, pod| Ok(other(pod)) },
    Second {
        what: "another name of the interface",
        prepare: |lab, pod| {
            for line in ["set eth0 down", "set eth0 name eth1", "set eth1 up"] {
                lab.sandbox.sh(&pod.netns, &format!("ip link {line}"))?;
            }
            lab.sandbox.sh(&pod.netns, "ip route add default via 10.244.1.1")?; // went with the link
            Ok(Attachment {
                interface: "eth1".into(),
                container: pod.attachment.container.clone(),
                ..other(pod)
            })
        },
    },
    Second {
        what: "another veth that has the index of one that is gone",
        prepare: |lab, pod| {
            let veth = lab.host_veth(pod);
            let index = lab.state(|state| state.attachments().map(|all| all[0].1.member))?.unwrap();
            lab.sandbox.sh(NODE, &format!("ip link delete {veth}"))?;
            let new = format!("name {veth} index {index} type veth peer name eth0 netns {}", pod.netns);
            lab.sandbox.sh(NODE, &format!("ip link add {new}"))?;
            lab.sandbox.sh(NODE, &format!("ip link set {veth} master cni0 up"))?;
            lab.sandbox.sh(&pod.netns, "ip link set eth0 up")?;
            let address = format!("ip address add {}/24 dev eth0 broadcast +", pod.address);
            lab.sandbox.sh(&pod.netns, &address)?;
            lab.sandbox.sh(&pod.netns, "ip route add default via 10.244.1.1")?;
            Ok(other(pod))
        },
    },
];

/// The pod under another container id, and another name.
fn other(pod: &Pod) -> Attachment {
    let attachment = pod.attachment.clone();
    Attachment {
        container: format!("other-{}", attachment.container),
        arguments: attachment.arguments.replace(&pod.name, "other"),
        ..attachment
    }
}

#[test]
fn a_veth_has_one_member_whose_add_came_last_and_whose_del_alone_ends_it() -> Result<()> {
    for Second { what, prepare } in SECONDS {
        let mut lab = lab()?;
        let pod = lab.pod("ioc-a")?;
        lab.stop_agent(); // nobody but the plugin shall clean up
        let second = prepare(&lab, &pod)?;
        let (success, said) = run(&lab, "ADD", &second)?;
        assert!(success, "{what}: {said}");
        assert_eq!(lab.leftovers()?, ONE_MEMBER, "{what}");
        assert_eq!(run(&lab, "DEL", &pod.attachment)?, (true, String::new()), "{what}");
        assert_eq!(lab.leftovers()?, ONE_MEMBER, "{what}: the former's DEL");
        assert_eq!(lab.status()?["members"][0]["pod"], "other", "{what}");
        let ioc = lab.ioc(&pod.netns, "A")?;
        assert_eq!(lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &[])?, "A\n", "{what}");
        ioc.kill();
        assert!(run(&lab, "DEL", &second)?.0, "{what}");
        assert_eq!(lab.leftovers()?, NOTHING, "{what}");
    }
    Ok(())
}

#[test]
fn container_ids_that_come_for_one_veth_at_the_same_time_make_one_member() -> Result<()> {
    let lab = lab()?;
    let pod = lab.plain_pod("ioc-a")?;
    lab.sandbox.write("/run/stdin", stdin())?;
    let add = |number: usize| {
        let attachment = Attachment { container: format!("id-{number}"), ..pod.attachment.clone() };
        let variables = environment("ADD", &attachment).map(|(name, value)| format!("{name}='{value}'"));
        let plugin = lab::binary("iocast")?.display().to_string();
        Ok(format!("{} {plugin} </run/stdin >/run/answer-{number} &\n", variables.join(" ")))
    };
    let script: String = (0..16).map(add).collect::<Result<_>>()?;
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script + "wait");
    lab.sandbox.exec(NODE, shell)?;
    assert_eq!(lab.leftovers()?, ONE_MEMBER);
    Ok(())
}
