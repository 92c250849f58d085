//! The page: two agents that serve it, real IOCs and clients, curl for its protocol, and headless Chromium for what people see.

use std::{
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use lab::{
    Lab, NATIVE, NODE, NODE2, Options, Process, Result, Topology, WORKSTATION, ca, epics::PATIENCE, tried,
    udp::Socket,
};
use serde_json::Value;

use crate::tap::Tap;

const TOKEN: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0ff0e1d2c3b4a59687";
const WRONG: &str = "00000000000000000000000000000000";
const PAGE: &str = "https://172.23.0.10:9443";
/// A name that markup, a terminal and a reader would fall for.
const HOSTILE: &str =
    "BL07:<img src=x onerror=alert(1)><script>alert(2)</script>\u{7}\u{1b}[2J\u{202e}\"'&amp;";
const CONFIGURATION: &str = "[domain.lab]\nuplink = \"eth0\"\n";
const LINE: &str = "run --no-cni --config /run/iocast/config.toml --page 0.0.0.0:9443 --page-token /run/iocast/token \
                    --page-peers iocast-page --page-host page.example";

/// Two nodes whose agents serve the page, and find each other by a name.
struct Scene {
    lab: Lab,
    _iocs: Vec<Process>,
    /// A client of the pod on the first node.
    _client: Process,
}

impl Scene {
    fn new() -> Result<Self> {
        let mut lab = Lab::without_agent(Options { nodes: 2, ..Options::new(Topology::Bridge) })?;
        lab.configure(CONFIGURATION)?;
        lab.sandbox.write("/run/iocast/token", format!("{TOKEN}\n"))?;
        lab.sandbox
            .write("/run/hosts", "127.0.0.1 localhost\n172.23.0.10 iocast-page\n172.23.0.11 iocast-page\n")?;
        lab.sandbox.sh(NODE, "mount --bind /run/hosts /etc/hosts")?;
        lab.start_agent_by(LINE)?;
        only_looks(&lab)?;
        let (one, two) = (lab.pod_on(0, "one")?, lab.pod_on(1, "two")?);
        let iocs = vec![lab.ioc(&one.netns, "ONE")?, lab.ioc(&two.netns, "ONE")?];
        let mut client = lab.epics(WORKSTATION, "camonitor ONE:COUNT", &[])?;
        client.wait_for("value", PATIENCE, |output| output.contains("\nONE:COUNT "))?;
        Ok(Self { lab, _iocs: iocs, _client: client })
    }

    /// What curl gets on the workstation: status and body.
    fn curl(&self, arguments: &[&str]) -> Result<(u32, String)> {
        curl(&self.lab, WORKSTATION, arguments)
    }

    /// What the page answers to who has the token.
    fn get(&self, question: &str) -> Result<Value> {
        get(&self.lab, WORKSTATION, &format!("{PAGE}{question}"))
    }
}

/// What curl gets on a host: status and body.
fn curl(lab: &Lab, netns: &str, arguments: &[&str]) -> Result<(u32, String)> {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--insecure", "--max-time", "20", "--write-out", "\n%{http_code}"])
        .args(arguments);
    let output = lab.sandbox.spawn(netns, command)?.finish()?.output;
    let (body, status) = output.rsplit_once('\n').unwrap_or_default();
    Ok((status.parse().unwrap_or(0), body.to_owned()))
}

/// What a page answers to who has the token.
fn get(lab: &Lab, netns: &str, url: &str) -> Result<Value> {
    let (status, body) = curl(lab, netns, &["-H", &format!("Authorization: Bearer {TOKEN}"), url])?;
    assert_eq!(status, 200, "{url}: {body}");
    Ok(serde_json::from_str(&body).unwrap_or_default())
}

/// Who was asked, and why not all answered.
fn asked(answer: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nodes = answer["nodes"].as_array().cloned().unwrap_or_default();
    let mut asked: Vec<_> = nodes.iter().map(|node| (text(&node["node"]), text(&node["error"]))).collect();
    asked.sort();
    asked
}

fn column(rows: &Value, key: &str) -> Vec<String> {
    let rows = rows.as_array().cloned().unwrap_or_default();
    let mut found: Vec<_> = rows.iter().filter_map(|row| row[key].as_str().map(str::to_owned)).collect();
    found.sort();
    found
}

#[test]
fn who_has_the_token_sees_all_nodes_and_nobody_else_sees_anything() -> Result<()> {
    let mut scene = Scene::new()?;
    is_guarded(&scene)?;
    answers_for_all_nodes(&scene)?;
    a_browser_shows_it(&scene)?;
    scene.lab.stop_agent_on(1);
    let (stopped, mut nodes) = (Instant::now(), asked(&scene.get("/api/members")?));
    // What the browser was told shortly before is told again for a second.
    while nodes.iter().all(|(_, error)| error.is_empty()) && stopped.elapsed() < PATIENCE {
        sleep(Duration::from_millis(500));
        nodes = asked(&scene.get("/api/members")?);
    }
    assert_eq!((nodes.len(), nodes[0].clone()), (2, (NODE.into(), String::new())), "{nodes:?}");
    assert!(nodes[1].0 == NODE2 && nodes[1].1.contains("refused"), "the broken node is named: {nodes:?}");
    assert!(!scene.lab.agent_output().contains(TOKEN), "it is never logged");
    Ok(())
}

/// Each way to be refused, from addresses of their own where they are limited.
fn is_guarded(scene: &Scene) -> Result<()> {
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    let (right, wrong, data) = (bearer(TOKEN), bearer(WRONG), format!("{PAGE}/api/node/members"));
    let cases: [(&str, &[&str], u32); 12] = [
        ("the page needs no token", &[PAGE], 200),
        ("data does", &[&data], 401),
        ("the right one", &["-H", &right, &data], 200),
        ("one in the query", &[&format!("{data}?token={TOKEN}")], 401),
        ("a name of elsewhere", &["-H", &right, "-H", "Host: evil.example", &data], 421),
        ("a name that is configured", &["-H", &right, "-H", "Host: page.example", &data], 200),
        ("the node's name", &["-H", &right, "-H", "Host: node:9443", &data], 200),
        (
            "a target of elsewhere",
            &["-H", &right, "--request-target", "http://evil.example/api/members", &data],
            421,
        ),
        ("a change", &["-X", "POST", "-d", "x", "-H", &right, &data], 405),
        ("a question of a browser", &["-X", "OPTIONS", &data], 405),
        ("what is not there", &[&format!("{PAGE}/../etc/passwd")], 404),
        ("without TLS", &["http://172.23.0.10:9443/"], 0),
    ];
    for (case, arguments, expected) in cases {
        let (status, body) = scene.curl(arguments)?;
        assert_eq!(status, expected, "{case}: {body}");
    }
    let guess = || Ok(curl(&scene.lab, NATIVE, &["-H", &wrong, &data])?.0);
    let guesses: Result<Vec<u32>> = (0..30).map(|_| guess()).collect(); // one more is allowed each ten seconds
    let guesses = guesses?;
    assert!(guesses[..5] == [401; 5] && guesses.contains(&429), "{guesses:?}");
    assert_eq!(scene.curl(&["-H", &right, &data])?.0, 200, "others are not disturbed");
    let (_, head) = scene.curl(&["--head", "-X", "GET", PAGE])?;
    for header in [
        "content-security-policy: default-src 'none'; script-src 'self';",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
    let (_, head) = scene.curl(&["--head", "-X", "GET", "-H", &right, &data])?;
    assert!(head.contains("cache-control: no-store"), "{head}");
    Ok(())
}

fn answers_for_all_nodes(scene: &Scene) -> Result<()> {
    let ok = |node: &str| (node.to_owned(), String::new());
    for page in [PAGE, "https://172.23.0.11:9443"] {
        let members = get(&scene.lab, WORKSTATION, &format!("{page}/api/members"))?;
        assert_eq!(asked(&members), [ok(NODE), ok(NODE2)], "{page}");
        assert_eq!(column(&members["members"], "pod"), ["one", "two"]);
    }
    let members = scene.get("/api/node/members")?;
    assert_eq!(
        (asked(&members), column(&members["members"], "pod")),
        (vec![ok(NODE)], vec!["one".to_owned()])
    );
    let seen = scene.get("/api/seen")?;
    assert_eq!(asked(&seen), [ok(NODE), ok(NODE2)]);
    let why = scene.get("/api/why?pv=NOBODY:HAS")?;
    assert_eq!((asked(&why), &why["state"]), (vec![ok(NODE), ok(NODE2)], &Value::from("unknown")), "{why}");
    Ok(())
}

/// A question about a PV sends nothing and changes nothing, on a node where everything that could be asked listens.
fn only_looks(lab: &Lab) -> Result<()> {
    let pod = lab.pod_on(0, "one")?;
    let listen = |netns: &str, port: u16| Socket::bind(&lab.sandbox, netns, &format!("0.0.0.0:{port}"));
    let listeners: Result<Vec<_>> = [pod.netns.as_str(), WORKSTATION, NATIVE]
        .iter()
        .flat_map(|netns| [listen(netns, 5064), listen(netns, 5076)])
        .collect();
    let listeners = listeners?;
    let taps = [Tap::new(lab, NODE, "eth0")?, Tap::new(lab, &pod.netns, "eth0")?];
    let maps = |lab: &Lab| {
        lab.state(|state| {
            format!(
                "{:?}",
                (
                    state.attachments(),
                    state.members(),
                    state.externals(),
                    state.counters(),
                    state.circuits(0)
                )
            )
        })
    };
    let (before, state) = (lab.status()?, maps(lab)?);
    let asked = [
        "https://127.0.0.1:9443/api/node/why?pv=QUIET:NAME&from=172.23.0.2",
        "https://127.0.0.1:9443/api/node/members",
    ];
    for url in asked {
        let answer = get(lab, NODE, url)?;
        assert!(answer["version"] == 1 && answer["state"] != "fail", "{answer}");
    }
    let why = get(lab, NODE, asked[0])?;
    let mends = column(&why["rungs"], "mend").join("\n");
    assert!(why["state"] == "unknown" && mends.contains("iocast-node why PV --from 172.23.0.2"), "{why}");
    for tap in &taps {
        let sent: Vec<_> = tap.packets().into_iter().filter(|packet| packet.from.port() != 0).collect();
        assert!(sent.is_empty(), "{sent:?}");
    }
    assert!(listeners.iter().all(|socket| socket.drain(Duration::from_millis(50)).is_empty()));
    assert_eq!((lab.status()?, maps(lab)?), (before, state));
    lab.delete_pod(&pod)
}

fn a_browser_shows_it(scene: &Scene) -> Result<()> {
    let socket = Socket::bind(&scene.lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    let directory = tried("make a directory", tempfile::tempdir())?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser.py");
    let mut command = Command::new("/usr/bin/python3");
    command.arg(script).args([PAGE, TOKEN, "ONE:COUNT", HOSTILE]).arg(directory.path());
    let mut browser = scene.lab.sandbox.spawn(WORKSTATION, command)?;
    while browser.is_running() {
        socket.send(&ca::search(&[HOSTILE, "BL07:Vacuum:Gauge-1", "ONE:COUNT"]), "172.23.0.255:5064")?;
        sleep(Duration::from_millis(300));
    }
    let output = browser.finish()?.success()?;
    let found: Value = serde_json::from_str(&output).unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    assert_eq!(text("rejected"), "the token is wrong");
    assert!(text("members").contains("beamline/one") && text("members").contains("node2"), "{found}");
    assert!(text("unanswered").contains("\\u{202e}") && text("unanswered").contains("<img src=x"), "{found}");
    assert!(text("readers").contains("172.23.0.2"), "{found}");
    assert!(text("hostile").contains("<script>alert(2)</script>\\u{7}\\u{1b}[2J\\u{202e}"), "{found}");
    assert_eq!(found["foreign"], 0);
    assert!(
        found["narrow"].as_i64() <= Some(320) && found["narrow_hostile"].as_i64() <= Some(320),
        "{found}"
    );
    assert_eq!(text("dark"), "rgb(18, 22, 28)");
    assert_eq!(found["complaints"], Value::Array(vec![]), "nothing in the console, no violation");
    assert_eq!(found["stored"], serde_json::json!([0, 1, "", format!("{PAGE}/")]));
    for request in found["requests"].as_array().into_iter().flatten() {
        assert!(
            request.as_str().is_some_and(|url| url.starts_with(PAGE) && !url.contains(TOKEN)),
            "{request}"
        );
    }
    let tabs = found["tabs"].as_array().cloned().unwrap_or_default();
    assert!(tabs.iter().all(|stop| stop[1] == true), "what has the focus is seen: {tabs:?}");
    assert_eq!(tabs[0][0], "skip");
    for stop in ["forget", "pv", "from", "protocol", "map"] {
        assert!(tabs.iter().any(|tab| tab[0] == stop), "{stop} is reached by the keyboard: {tabs:?}");
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        for name in ["page-light.png", "page-dark.png", "page-narrow.png"] {
            tried("write a picture", std::fs::copy(directory.path().join(name), docs.join(name)))?;
        }
    }
    Ok(())
}
