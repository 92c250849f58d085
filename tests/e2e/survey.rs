//! `iocast-node survey`: six kinds of pods on a node's network, each with its verdict; and the way that it leads to, walked by an
//! IOC and a gateway. docs/migrate.md has what was printed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use lab::{
    NATIVE, Result, WORKSTATION,
    cluster::{ApiServer, Cluster, Container, Ran, RunningPod, Set, Wanted, wait_until},
    epics::{Client, shows},
};
use serde_json::{Value, json};

/// What must not be seen.
const SECRET: &str = "hunter2-is-secret";
const LISTED: [(&str, &str); 4] = [
    ("EPICS_CA_ADDR_LIST", "127.0.0.1 172.23.0.10 172.23.0.255 172.23.0.3"),
    ("EPICS_CA_AUTO_ADDR_LIST", "NO"),
    ("EPICS_CAS_INTF_ADDR_LIST", "172.23.0.10"),
    ("DATABASE_PASSWORD", SECRET),
];
/// A master of EtherCAT, as far as the kernel is concerned.
const ETHERCAT: &str = "import socket, time
bus = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88a4))
bus.bind(('eth0', 0x88a4))
print('the bus is open', flush=True)
time.sleep(1000)";
/// The gateway's configuration: from the LAN to clients that use other ports.
const GATEWAY: &str = r#"{
    "version": 2,
    "clients": [{ "name": "lan", "provider": "pva", "autoaddrlist": true }],
    "servers": [{ "name": "other", "clients": ["lan"], "serverport": 5175, "bcastport": 5176 }]
}"#;

#[test]
fn each_kind_of_pod_on_the_nodes_network_has_its_verdict() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.load_daemonset_image(0)?;
    let camera = lab::program("arv-fake-gv-camera-0.8", &["-i", "eth0", "-s", "LAB"])?;
    let _camera = cluster.lab.sandbox.spawn(NATIVE, camera)?;
    let (_, container) = cluster.pod_of(0, Set::SURVEY)?;
    let pods = start_pods(&cluster)?;
    let survey =
        |line: &str| cluster.execute_in(0, Set::SURVEY, &container, &format!("/iocast-node survey {line}"));
    let (code, said) = survey("--json --for 3")?;
    assert!(!said.contains(SECRET), "{said}");
    let found: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((code, &found["version"]), (1, &json!(1)), "{said}");
    the_verdicts_are_right(&found);
    unicast_goes_where_it_says(&cluster, &found)?;
    what_cannot_be_seen_is_said(&cluster)?;
    let mut page = Page::default();
    let api = ApiServer::over(&cluster, Set::SURVEY, std::slice::from_ref(&container))?;
    let line = "iocast survey --for 3";
    let ran = api.kubectl(line)?;
    assert!(ran.code == 1 && !format!("{ran:?}").contains(SECRET), "{ran:?}");
    assert!(ran.out.lines().all(|line| line.chars().count() <= 80), "{ran:?}");
    page.keep("SURVEY", line, &ran);
    assert_eq!(pods.len(), 6);
    page.assert()
}

/// Variables of an environment.
type Variables = &'static [(&'static str, &'static str)];

/// The six kinds. The last one that starts an IOC is the one with the bus.
fn start_pods(cluster: &Cluster) -> Result<Vec<RunningPod>> {
    let on_host = |name| cluster.pod(0, &Wanted::on_host(name));
    let mut pods = vec![];
    let settings: [(_, _, Variables); 5] = [
        ("ioc-plain", "PLAIN", &[("DATABASE_PASSWORD", SECRET)]),
        ("ioc-second", "SECOND", &[]),
        ("ioc-listed", "LISTED", &LISTED),
        ("ioc-camera", "CAMERA", &[]),
        ("ioc-bus", "BUS", &[]),
    ];
    for (name, prefix, variables) in settings {
        let pod = on_host(name)?;
        cluster.start_ioc_with(&pod, "softIoc", prefix, variables)?;
        pods.push(pod);
    }
    let machine = Container { directories: &["/usr"], ..Container::default() };
    let client = ["/usr/bin/arv-camera-test-0.8", "-n", "172.23.0.3", "-f", "5"];
    cluster.run_with(&pods[3], "camera", &client, &machine)?;
    let bus = ["/usr/bin/python3", "-c", ETHERCAT];
    cluster.run_with(&pods[4], "bus", &bus, &Container { capabilities: &["NET_RAW"], ..machine })?;
    cluster.wait_for_log(&pods[4], "bus", |log| log.contains("the bus is open"))?;
    // It says nothing before it ends: one socket is for the camera's control, one for its stream.
    wait_until("the camera's client", || {
        Ok(cluster.exec(0, "ss --udp --numeric --no-header --all src 172.23.0.10")?.lines().count() >= 2)
    })?;
    let gateway = on_host("gateway")?;
    start_gateway(cluster, &gateway)?;
    pods.push(gateway);
    Ok(pods)
}

/// Starts p4p's gateway in a pod.
fn start_gateway(cluster: &Cluster, pod: &RunningPod) -> Result<()> {
    cluster.write(0, "/run/gateway/gateway.json", GATEWAY)?;
    let library = root().join("target/lab/pvxs").canonicalize().unwrap_or_default().display().to_string();
    let program = format!("{library}/bin/pvagw");
    let with = Container {
        variables: &[
            ("PYTHONPATH", &library),
            ("OPENBLAS_NUM_THREADS", "1"),
            ("HOME", "/tmp"),
            ("TMPDIR", "/dev/shm"),
            ("PASSWORD", SECRET),
        ],
        directories: &["/usr", &library, "/run/gateway"],
        capabilities: &[],
    };
    cluster.run_with(pod, "gateway", &[&program, "-v", "/run/gateway/gateway.json"], &with)?;
    cluster.wait_for_log(pod, "gateway", |log| log.contains("ignore GW servers"))
}

fn the_verdicts_are_right(found: &Value) {
    let of = |pod: &str| {
        let pods = found["found"].as_array().into_iter().flatten();
        let mut pods = pods.filter(|one| one["pod"] == format!("beamline/{pod}"));
        pods.next().unwrap_or_else(|| panic!("no {pod}: {found}"))
    };
    for (pod, verdict) in [
        ("ioc-plain", "move"),
        ("ioc-second", "move"),
        ("ioc-listed", "move"),
        ("ioc-camera", "move"),
        ("ioc-bus", "stay"),
        ("gateway", "move"),
    ] {
        assert_eq!(of(pod)["verdict"], verdict, "{pod}: {found}");
        let annotations = if verdict == "move" { json!({ "iocast.io/domain": "lab" }) } else { json!({}) };
        assert_eq!(of(pod)["annotations"], annotations, "{pod}");
    }
    assert_eq!(found["found"].as_array().map(Vec::len), Some(6), "{found}");
    assert_eq!(found["others"], 1, "the pod that looks: {found}");
    let settings: Vec<_> = of("ioc-listed")["settings"].as_array().into_iter().flatten().collect();
    let works: Vec<_> =
        settings.iter().map(|one| (one["entry"].as_str().unwrap_or(""), one["works"] == true)).collect();
    let expected = [
        ("172.23.0.10", false),
        ("127.0.0.1", false),
        ("172.23.0.10", false),
        ("172.23.0.255", true),
        ("172.23.0.3", true),
    ];
    assert_eq!(works, expected, "{settings:?}");
    let camera = of("ioc-camera");
    assert_eq!(camera["configuration"], json!([r#"protocols = ["ca", "pva", "gvcp"]"#]), "{camera}");
    let peers = camera["peers"].as_array().cloned().unwrap_or_default();
    assert!(peers.iter().any(|peer| peer["role"] == "camera" && peer["address"] == "172.23.0.3"), "{camera}");
    assert!(
        of("ioc-bus")["why"][0].as_str().is_some_and(|why| why.contains("EtherCAT") && why.contains("eth0")),
        "{found}"
    );
    assert!(of("gateway")["notes"][0].as_str().is_some_and(|note| note.starts_with("a gateway")), "{found}");
    assert_eq!(of("gateway")["programs"], json!(["pvagw"]));
}

/// A search that is sent to the node's address reaches the one of those that share the port that it names.
fn unicast_goes_where_it_says(cluster: &Cluster, found: &Value) -> Result<()> {
    let list = [("EPICS_CA_ADDR_LIST", "172.23.0.10"), ("EPICS_CA_AUTO_ADDR_LIST", "NO")];
    for (pod, pv) in
        [("ioc-plain", "PLAIN"), ("ioc-second", "SECOND"), ("ioc-camera", "CAMERA"), ("ioc-bus", "BUS")]
    {
        let one = found["found"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["pod"] == format!("beamline/{pod}"));
        let held = one.map(|one| &one["ports"][0]).cloned().unwrap_or_default();
        assert_eq!(
            (&held["port"], held["shared"].as_array().map(Vec::len)),
            (&json!(5064), Some(4)),
            "{held}"
        );
        let wait = if held["unicast"] == "all" { 20 } else { 1 };
        let read =
            cluster.lab.epics(WORKSTATION, &format!("caget -t -w {wait} {pv}:NAME"), &list)?.finish()?;
        assert_eq!(read.status.success(), held["unicast"] == "all", "{pod}: {held}: {}", read.output);
        let all = cluster.lab.epics_output(WORKSTATION, &format!("caget -t -w 20 {pv}:NAME"), &[])?;
        assert_eq!(all, format!("{pv}\n"), "by broadcast");
    }
    Ok(())
}

/// Without the node's process ids, and without the right to look into processes.
fn what_cannot_be_seen_is_said(cluster: &Cluster) -> Result<()> {
    let line = "survey --for 0 --cri /run/containerd/containerd.sock";
    let program = lab::binary("iocast-node")?;
    let run = |before: &str| cluster.spawn(0, &format!("{before} {} {line}", program.display()))?.finish();
    let blind = run("unshare --mount --pid --fork --mount-proc")?;
    assert_eq!(blind.status.code(), Some(2), "{}", blind.output);
    assert!(blind.output.contains("kubectl apply -k manifests/survey"), "{}", blind.output);
    let barred = run("setpriv --bounding-set=-all")?;
    assert_eq!(barred.status.code(), Some(2), "{}", barred.output);
    assert!(
        barred.output.contains("could not be looked into") && barred.output.contains("SYS_PTRACE"),
        "{}",
        barred.output
    );
    Ok(())
}

#[test]
fn an_ioc_moves_and_goes_back_and_a_gateway_reads_it_wherever_both_are() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.write(
        0,
        "/etc/iocast/config.toml",
        "[domain.lab]\nuplink = \"eth0\"\nsearch_ports = { 5176 = \"pva\" }\n",
    )?;
    cluster.start_agent(0)?;
    let far = [("EPICS_PVA_BROADCAST_PORT", "5176")];
    let read = |by: &str, variables: &[(&str, &str)]| {
        wait_until(&format!("a value by {by}"), || {
            Ok(shows(
                &cluster.lab.pvget(Client::Pvxs, WORKSTATION, "A:NAME", variables).unwrap_or_default(),
                "A",
            ))
        })
    };
    let ioc = |wanted: &Wanted<'_>| {
        let pod = cluster.pod(0, wanted)?;
        cluster.start_ioc(&pod, "softIocPVA", "A").map(|()| pod)
    };
    let before = ioc(&Wanted::on_host("ioc"))?;
    let gateway = cluster.pod(0, &Wanted::on_host("gateway"))?;
    start_gateway(&cluster, &gateway)?;
    read("the LAN, of an IOC on the node's network", &[])?;
    read("a gateway on the node's network", &far)?;
    cluster.delete(&before)?;
    let member = ioc(&Wanted::member("ioc"))?;
    read("the LAN, of a member", &[])?;
    read("a gateway on the node's network, of a member", &far)?;
    cluster.delete(&gateway)?;
    let gateway = cluster.pod(0, &Wanted::member("gateway"))?;
    start_gateway(&cluster, &gateway)?;
    read("a gateway that is a member", &far)?;
    cluster.delete(&member)?;
    ioc(&Wanted::on_host("ioc"))?;
    read("the LAN, of an IOC that went back", &[])?;
    read("a gateway that is a member, of an IOC that went back", &far)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What docs/migrate.md has of this run.
#[derive(Default)]
struct Page {
    text: Vec<(&'static str, String)>,
}

impl Page {
    /// Keeps a command and what it printed.
    fn keep(&mut self, name: &'static str, line: &str, ran: &Ran) {
        self.text.push((name, format!("```\n$ kubectl {line}\n{}{}```", ran.out, ran.err)));
    }

    /// Compares with docs/migrate.md, which UPDATE_GOLDEN=1 writes.
    fn assert(&self) -> Result<()> {
        let mut page = include_str!("migrate.md").to_owned();
        for (name, text) in &self.text {
            page = page.replace(&format!("\n{name}\n"), &format!("\n{text}\n"));
        }
        let path = root().join("docs/migrate.md");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            lab::tried("write docs/migrate.md", fs::write(&path, &page))?;
        }
        let recorded = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(page, recorded, "docs/migrate.md differs; UPDATE_GOLDEN=1 writes it anew");
        Ok(())
    }
}
