//! `kubectl iocast`: three nodes with real agents in the DaemonSet's containers answer one command, by the real kubectl.
//! docs/kubectl.md has what it prints, and what a newcomer does from "PV not found" to the mended cause.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use lab::{
    NODE2, NODES, Result, WORKSTATION,
    cluster::{ApiServer, Cluster, PATIENCE, Ran, Runtime, Wanted, wait_until},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use view::wrapped;

/// Two domains; the uplink of the other one is a cable to nowhere.
const CONFIGURATION: &str = "[domain.lab]\nuplink = \"eth0\"\n\n[domain.other]\nuplink = \"eth1\"\n";
const CLIENT: &str = "--from 172.23.0.2 --ask";

#[test]
fn three_nodes_are_answered_by_one_command() -> Result<()> {
    let cluster = Cluster::with(Runtime::CONTAINERD_1_6, 3)?;
    let containers = install(&cluster)?;
    let mut api = ApiServer::start(&cluster, &containers)?;
    cluster.ioc_pod(2, "ioc-a", "A")?;
    let mut page = Page::default();
    a_pv_of_another_node_is_found(&api, &mut page)?;
    every_node_is_asked(&api, &mut page)?;
    live_lines_are_merged(&cluster, &api)?;
    a_newcomer_mends_five_causes(&cluster, &api, &mut page)?;
    nodes_that_do_not_answer_are_named(&cluster, &mut api, &containers, &mut page)?;
    page.assert()
}

/// Installs iocast on all nodes: their agents' containers.
fn install(cluster: &Cluster) -> Result<Vec<String>> {
    cluster.load_daemonset_image(0)?;
    let one = |node: usize| {
        cluster.write(node, "/etc/iocast/config.toml", CONFIGURATION)?;
        for line in [
            "ip link add eth1 type veth peer name nowhere".into(),
            format!("ip address add 172.25.{node}.1/24 broadcast + dev eth1"),
            "ip link set eth1 up".into(),
            "ip link set nowhere up".into(),
        ] {
            cluster.lab.sandbox.sh(NODES[node], &line)?;
        }
        if node > 0 {
            cluster.share_daemonset_image(0, node)?;
        }
        Ok(cluster.daemonset(node)?.1)
    };
    thread::scope(|scope| {
        let started: Vec<_> = (0..3).map(|node| scope.spawn(move || one(node))).collect();
        started
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn a_pv_of_another_node_is_found(api: &ApiServer<'_>, page: &mut Page) -> Result<()> {
    let line = format!("iocast why A:NAME {CLIENT}");
    let ran = as_recorded(api, &line)?;
    assert!(ran.code == 0 && ran.err.is_empty() && ran.out.starts_with("node3:\nOK    datapath"), "{ran:?}");
    assert!(ran.out.contains("\n?     node       not through this node: 172.23.0.12:"), "{ran:?}");
    assert!(ran.out.ends_with("172.23.0.2 can see A:NAME through node3.\n"), "{ran:?}");
    assert_fits(&ran);
    page.keep("WHY", &[(&line, &ran)]);
    let found = object(&api.kubectl(&format!("{line} --json"))?);
    let nodes: Vec<_> =
        found["nodes"].as_array().into_iter().flatten().map(|asked| asked["node"].as_str()).collect();
    assert_eq!(nodes, NODES.map(Some), "{found}");
    assert_eq!(
        (&found["state"], &found["node"], &found["cause"]),
        (&json!("ok"), &json!("node3"), &Value::Null)
    );
    assert_eq!(found["others"][1]["cause"], "elsewhere", "{found}");
    let only = api.kubectl(&format!("{line} --node node2"))?;
    let says = "172.23.0.2 may not see A:NAME: not through this node: 172.23.0.12:";
    assert!(only.code == 2 && only.out.contains(says), "{only:?}");
    Ok(())
}

fn every_node_is_asked(api: &ApiServer<'_>, page: &mut Page) -> Result<()> {
    let status = api.kubectl("iocast status")?;
    assert!(status.code == 0 && status.out.lines().count() == 7, "{status:?}");
    assert!(status.out.contains("node3  lab     eth0    172.23.0.12  1 "), "{status:?}");
    page.keep("STATUS", &[("iocast status", &status)]);
    let doctor = api.kubectl("iocast doctor --json")?;
    let found = object(&doctor);
    let findings = found["findings"].as_array().cloned().unwrap_or_default();
    let kernel = findings.iter().find(|finding| finding["check"] == "kernel").cloned().unwrap_or_default();
    assert_eq!(kernel["nodes"], json!(NODES), "{doctor:?}");
    let failed = findings.iter().any(|finding| finding["level"] == "FAIL");
    assert_eq!(doctor.code, i32::from(failed), "{doctor:?}");
    let members = object(&api.kubectl("iocast members --json")?);
    let of_a = members["members"].as_array().into_iter().flatten().find(|member| member["pod"] == "ioc-a");
    assert_eq!(of_a.map(|member| &member["node"]), Some(&json!("node3")), "{members}");
    for line in ["map --for 1", "duplicates A:NAME", "top --every 1 --for 3"] {
        let ran = api.kubectl(&format!("iocast {line} --json"))?;
        let last = ran.out.lines().rfind(|line| line.starts_with('{')).map(serde_json::from_str::<Value>);
        let found = if line.starts_with("top") { last.and_then(Result::ok) } else { Some(object(&ran)) };
        let nodes = found.as_ref().map(|found| found["nodes"].as_array().map_or(0, Vec::len));
        assert_eq!((ran.code, nodes), (0, Some(NODES.len())), "{line}: {ran:?}");
        let text = api.kubectl(&format!("iocast {line}"))?;
        assert!(text.code == 0 && !text.out.is_empty(), "{line}: {text:?}");
    }
    let wrong = api.kubectl("iocast why A:NAME --form 172.23.0.2")?;
    let said = "no answer from node, node2, node3: unexpected argument '--form' found";
    assert!(wrong.code == 2 && wrong.err.contains(said), "{wrong:?}");
    Ok(())
}

/// An interrupt ends `snoop`, and what it runs in the agents.
fn live_lines_are_merged(cluster: &Cluster, api: &ApiServer<'_>) -> Result<()> {
    let (mut snoop, complaints) = api.spawn("iocast snoop --json")?;
    let reader = cluster.lab.epics(WORKSTATION, "caget -w 30 A:COUNT NOBODY", &[])?;
    let of = |line: &str, node: &str| line.contains(&format!("\"node\":\"{node}\""));
    let all = |said: &str| NODES.iter().all(|node| said.lines().any(|line| of(line, node)));
    snoop.wait_for("line of each node", PATIENCE, all)?;
    drop(reader);
    snoop.signal(Signal::SIGINT);
    let ran = api.finish(snoop, &complaints)?;
    assert_eq!(ran.code, 130, "{ran:?}");
    wait_until("the end of what it ran", || {
        Ok(cluster.lab.sandbox.sh(WORKSTATION, "pgrep --full iocast-node.snoop").is_err())
    })
}

/// A cause: what does not work, and how it is mended.
struct Story<'a> {
    heading: &'a str,
    pv: &'a str,
    /// What the command says about it.
    says: &'a str,
    /// What the newcomer does about it, as a shell would show it.
    mend: &'a str,
    /// The PV that is read then.
    then: &'a str,
}

fn a_newcomer_mends_five_causes(cluster: &Cluster, api: &ApiServer<'_>, page: &mut Page) -> Result<()> {
    let plain = cluster.pod(1, &Wanted::plain("ioc-plain"))?;
    cluster.start_ioc(&plain, "softIoc", "PLAIN")?;
    let other = cluster
        .pod(2, &Wanted { annotations: &[("iocast.io/domain", "other")], ..Wanted::plain("ioc-other") })?;
    cluster.start_ioc(&other, "softIoc", "OTHER")?;
    let deaf = cluster.pod(0, &Wanted::member("ioc-deaf"))?;
    cluster.start_ioc_with(&deaf, "softIoc", "DEAF", &[("EPICS_CAS_INTF_ADDR_LIST", "127.0.0.1")])?;
    let barred = cluster.ioc_pod(1, "ioc-barred", "BARRED")?;
    let rule = format!("nft add rule ip filter FORWARD ip daddr {} tcp dport 5064 drop", barred.address);
    for line in [
        "nft add table ip filter",
        "nft add chain ip filter FORWARD { type filter hook forward priority 0 ; }",
        &rule,
    ] {
        cluster.lab.sandbox.sh(NODE2, line)?;
    }
    let again = |pod, node, name, prefix| {
        cluster.delete(pod)?;
        cluster.ioc_pod(node, name, prefix).map(drop)
    };
    type Mend<'a> = Box<dyn Fn() -> Result<()> + 'a>;
    let stories: [(Story<'_>, Mend<'_>); 5] = [
        (
            Story {
                heading: "The pod has no annotation",
                pv: "PLAIN:NAME",
                says: "FAIL  given      beamline/ioc-plain has it, and is in no domain",
                mend: "# in the pod's template: annotations: { iocast.io/domain: lab }; kubectl apply creates the pod again",
                then: "PLAIN:NAME",
            },
            Box::new(|| again(&plain, 1, "ioc-plain", "PLAIN")),
        ),
        (
            Story {
                heading: "The pod is in another domain",
                pv: "OTHER:NAME",
                says: "FAIL  given      beamline/ioc-other has it and is in domain `other`",
                mend: "# in the pod's template: iocast.io/domain: lab instead of other; kubectl apply creates the pod again",
                then: "OTHER:NAME",
            },
            Box::new(|| again(&other, 2, "ioc-other", "OTHER")),
        ),
        (
            Story {
                heading: "The name is mistyped",
                pv: "A:NMAE",
                says: "nobody has A:NMAE, but beamline/ioc-a has A:NAME",
                mend: "# the name is A:NAME",
                then: "A:NAME",
            },
            Box::new(|| Ok(())),
        ),
        (
            Story {
                heading: "The IOC listens on loopback only",
                pv: "DEAF:NAME",
                says: "FAIL  heard      beamline/ioc-deaf listens on loopback only",
                mend: "# EPICS_CAS_INTF_ADDR_LIST is taken out of the pod's template; kubectl apply creates the pod again",
                then: "DEAF:NAME",
            },
            Box::new(|| again(&deaf, 0, "ioc-deaf", "DEAF")),
        ),
        (
            Story {
                heading: "A rule of the node's firewall drops connections",
                pv: "BARRED:NAME",
                says: "172.23.0.2 cannot see BARRED:NAME: node2: a connection",
                mend: "# the cluster admin, on node2: nft list ruleset shows the rule, and it is deleted",
                then: "BARRED:NAME",
            },
            Box::new(|| cluster.lab.sandbox.sh(NODE2, "nft flush chain ip filter FORWARD").map(drop)),
        ),
    ];
    let mut text = String::new();
    for (story, mend) in &stories {
        text += &told(cluster, api, story, mend)?;
    }
    page.text.push(("STORIES", text));
    Ok(())
}

/// The PV is not found, the command says why, it is mended, the PV is read.
fn told(
    cluster: &Cluster,
    api: &ApiServer<'_>,
    story: &Story<'_>,
    mend: impl Fn() -> Result<()>,
) -> Result<String> {
    let Story { heading, pv, says, then, .. } = story;
    let failed = cluster.lab.epics(WORKSTATION, &format!("caget -w 0.5 {pv}"), &[])?.finish()?;
    assert!(!failed.status.success(), "{heading}: {}", failed.output);
    let line = format!("iocast why {pv} {CLIENT}");
    let ran = as_recorded(api, &line)?;
    assert!(ran.code == 1 && ran.out.contains(says), "{heading}: {ran:?}");
    assert_fits(&ran);
    mend()?;
    let read = cluster.lab.epics(WORKSTATION, &format!("caget -w 5 {then}"), &[])?.finish()?;
    assert!(read.status.success(), "{heading}: {}", read.output);
    Ok(format!(
        "### {heading}\n\n```\n$ caget -w 0.5 {pv}\n{}{}$ {}\n$ caget {then}\n{}```\n\n",
        failed.output,
        shown(&line, &ran),
        story.mend,
        read.output
    ))
}

fn nodes_that_do_not_answer_are_named(
    cluster: &Cluster,
    api: &mut ApiServer<'_>,
    containers: &[String],
    page: &mut Page,
) -> Result<()> {
    let line = format!("iocast why A:NAME {CLIENT}");
    cluster.kill_container(1, &containers[1])?;
    let running = api.world["pods"].clone();
    api.world["pods"][1]["state"] = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
    api.world["pods"][0]["forbidden"] = true.into();
    api.tell()?;
    let ran = api.kubectl(&line)?;
    assert!(ran.code == 0 && ran.out.contains("can see A:NAME"), "{ran:?}");
    let dead = "no answer from node2: the pod iocast-1 is not running (CrashLoopBackOff); see: kubectl -n iocast describe pod iocast-1\n";
    let barred = "no answer from node: you may not execute commands in pods of namespace iocast; check: kubectl auth can-i create pods --subresource=exec -n iocast; docs/kubectl.md has the Role to ask for\n";
    assert_eq!(ran.err, format!("kubectl-iocast: {barred}kubectl-iocast: {dead}"));
    page.keep("SILENT", &[(&line, &ran)]);
    api.world["pods"] = running;
    api.world["pods"][1]["entry"] = json!(["sh", "-c", "sleep 30"]);
    api.tell()?;
    let late = api.kubectl(&format!("{line} --node node2 --timeout 1"))?;
    assert!(
        late.code == 2 && late.out.is_empty() && late.err.contains("node2: no answer in 1 s"),
        "{late:?}"
    );
    for (forbidden, says) in
        [("exec", "can-i create pods --subresource=exec"), ("list", "can-i list pods -n iocast")]
    {
        api.world["forbidden"] = json!([forbidden]);
        api.tell()?;
        let ran = api.kubectl(&line)?;
        assert!(ran.code == 2 && ran.out.is_empty() && ran.err.contains(says), "{ran:?}");
        page.keep(if forbidden == "exec" { "EXEC" } else { "LIST" }, &[(&line, &ran)]);
    }
    api.world["forbidden"] = json!([]);
    api.tell()?;
    let none = api.kubectl(&format!("{line} -l app=other"))?;
    assert!(none.code == 2 && none.err.contains("has no pod with the label app=other"), "{none:?}");
    Ok(())
}

/// The JSON that a command printed.
fn object(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

fn assert_fits(ran: &Ran) {
    assert!(ran.out.lines().all(|line| line.chars().count() <= 80) && !ran.out.contains('\u{1b}'), "{ran:?}");
}

/// What a command printed, as docs/kubectl.md has it: it is run again, twice at most, because on a busy machine a server may take
/// longer to answer than it is waited for, and one of three nodes then says so.
fn as_recorded(api: &ApiServer<'_>, line: &str) -> Result<Ran> {
    let recorded = fs::read_to_string(docs()).unwrap_or_default();
    let mut ran = api.kubectl(line)?;
    for _ in 0..2 {
        if recorded.contains(&shown(line, &ran)) {
            break;
        }
        ran = api.kubectl(line)?;
    }
    Ok(ran)
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubectl.md")
}

/// What docs/kubectl.md has of this run.
#[derive(Default)]
struct Page {
    text: Vec<(&'static str, String)>,
}

impl Page {
    /// Keeps commands and what they printed.
    fn keep(&mut self, name: &'static str, commands: &[(&str, &Ran)]) {
        let commands: String = commands.iter().map(|(line, ran)| shown(line, ran)).collect();
        self.text.push((name, format!("```\n{commands}```\n")));
    }

    /// Compares with docs/kubectl.md, which UPDATE_GOLDEN=1 writes.
    fn assert(&self) -> Result<()> {
        let mut page = include_str!("kubectl.md").to_owned();
        for (name, text) in &self.text {
            page = page.replace(&format!("\n{name}\n"), &format!("\n{}\n", text.trim_end()));
        }
        let path = docs();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            lab::tried("write docs/kubectl.md", fs::write(&path, &page))?;
        }
        let recorded = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(page, recorded, "docs/kubectl.md differs; UPDATE_GOLDEN=1 writes it anew");
        Ok(())
    }
}

/// A command and what it printed, with letters in place of what is another one each time.
fn shown(line: &str, ran: &Ran) -> String {
    let text = format!("{}{}", ran.out, ran.err);
    format!(
        "$ kubectl {line}\n{}",
        text.lines().fold(vec![], joined).iter().map(|line| lasting(line)).collect::<String>()
    )
}

/// Puts what continues a line back to its end.
fn joined(mut lines: Vec<String>, line: &str) -> Vec<String> {
    match lines.last_mut() {
        Some(last) if line.starts_with("     ") => *last += &format!(" {}", line.trim_start()),
        _ => lines.push(line.into()),
    }
    lines
}

/// A line without what is another each time, wrapped as it was.
fn lasting(line: &str) -> String {
    let words = line.split(' ').collect::<Vec<_>>();
    let word = |(at, word): (usize, &&str)| {
        let (core, end) = word.split_at(word.trim_end_matches([',', ':', ';', '.']).len());
        let address = core.split_once(':').map_or(core, |(address, _)| address);
        match words.get(at + 1).map(|next| next.trim_end_matches([',', ';', '.'])) {
            Some("ms") => "N".into(),
            _ if address.starts_with("10.244.") => core.replacen(address, "POD", 1) + end,
            _ if address.starts_with("172.23.0.1") && address != core => format!("{address}:PORT{end}"),
            _ => (*word).to_owned(),
        }
    };
    let text = words.iter().enumerate().map(word).collect::<Vec<_>>().join(" ");
    let indent =
        if ["OK    ", "FAIL  ", "?     "].iter().any(|sign| text.starts_with(sign)) { 17 } else { 5 };
    if text.chars().count() <= 80 {
        return text + "\n";
    }
    let head: String = text.chars().take(indent).collect();
    let rest: String = text.chars().skip(indent).collect();
    format!("{head}{}\n", wrapped(&rest, 80 - indent, indent))
}
