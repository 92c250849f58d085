//! The manifests: every overlay and the chart are rendered by kubectl's and Helm's own code and judged by Kubernetes'
//! schemas, the policy by a CEL engine, the alerts by promtool. Needs no root and no cluster.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

use lab::turn;
use serde_json::{Value, json};

pub(super) const OVERLAYS: [&str; 4] = ["kubeadm", "debian-containerd", "k3s", "crio-openshift"];
/// The oldest Kubernetes that docs/admin.md names, and the newest with schemas.
pub(super) const KUBERNETES: [&str; 2] = ["1.30", "1.37"];
/// Kinds of the Prometheus operator, which Kubernetes has no schemas for.
const FOREIGN: [&str; 3] = ["PodMonitor", "PrometheusRule", "ServiceMonitor"];

pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(super) fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs a program of `target/lab/kubernetes` with `stdin`: its stdout, or what it complained about.
fn run(program: &str, arguments: &[&str], stdin: &str) -> Result<String, String> {
    turn::take(turn::Kind::Waits);
    let tools = root().join("target/lab/kubernetes");
    assert!(tools.exists(), "there is no {}: run tests/tools.sh", tools.display());
    let mut command = Command::new(if program == "python" {
        "/usr/bin/python3".into()
    } else {
        tools.join("bin").join(program)
    });
    command.args(arguments).env("PYTHONPATH", tools).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(root());
    let mut child =
        lab::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    if output.status.success() { Ok(stdout) } else { Err(stdout + &stderr) }
}

/// A verb of `tests/kubernetes.py`.
pub(super) fn python(arguments: &[&str], stdin: &str) -> Result<Value, String> {
    let output = run("python", &[&["tests/kubernetes.py"], arguments].concat(), stdin)?;
    Ok(serde_json::from_str(&output).unwrap())
}

pub(super) fn objects(value: Value) -> Vec<Value> {
    serde_json::from_value(value).unwrap()
}

/// The objects of YAML text.
fn parse(yaml: &str) -> Vec<Value> {
    objects(python(&["yaml"], yaml).unwrap())
}

/// What `kubectl kustomize manifests/DIRECTORY` prints, rendered once.
pub(super) fn kustomize(directory: &str) -> Vec<Value> {
    static RENDERED: Mutex<BTreeMap<String, Vec<Value>>> = Mutex::new(BTreeMap::new());
    let render = || parse(&run("kubectl", &["kustomize", &format!("manifests/{directory}")], "").unwrap());
    RENDERED.lock().unwrap().entry(directory.into()).or_insert_with(render).clone()
}

/// The overlay with a component of `manifests`.
fn with_component(overlay: &str, component: &str) -> Vec<Value> {
    let site = root().join(format!("target/with-{component}-{overlay}"));
    let content = format!(
        "resources: [../../manifests/overlays/{overlay}]\ncomponents: [../../manifests/{component}]\n"
    );
    fs::create_dir_all(&site).unwrap();
    fs::write(site.join("kustomization.yaml"), content).unwrap();
    parse(&run("kubectl", &["kustomize", site.to_str().unwrap()], "").unwrap())
}

/// What Helm makes of the chart with the values that stand for `overlay`, and `more` of them; with the overlays'
/// configuration, if these say nothing of one.
pub(super) fn release(overlay: &str, more: &Value) -> Result<Vec<Value>, String> {
    let mut more = more.clone();
    if more["config"].is_null() && more["domains"].is_null() {
        more["config"] = text("manifests/base/config.toml").into();
    }
    let values = format!("manifests/helm/iocast/values-{overlay}.yaml");
    let files = if overlay == "kubeadm" { vec![] } else { vec![values.as_str()] };
    let arguments = [&["chart", "manifests/helm/iocast"], files.as_slice()].concat();
    python(&arguments, &more.to_string()).map(objects)
}

/// The same without what is made for `helm test` only.
pub(super) fn chart(overlay: &str, more: &Value) -> Result<Vec<Value>, String> {
    let stays = |object: &Value| object["metadata"]["annotations"]["helm.sh/hook"].is_null();
    Ok(release(overlay, more)?.into_iter().filter(stays).collect())
}

/// What Kubernetes' schemas of `version` have against `objects`.
pub(super) fn faults(objects: &[Value], version: &str) -> Vec<String> {
    let known: Vec<_> =
        objects.iter().filter(|object| !FOREIGN.contains(&object["kind"].as_str().unwrap())).collect();
    serde_json::from_value(python(&["validate", version], &json!(known).to_string()).unwrap()).unwrap()
}

pub(super) fn find<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<_> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "one {kind} expected");
    found[0]
}

pub(super) fn pod(objects: &[Value]) -> &Value {
    &find(objects, "DaemonSet")["spec"]["template"]["spec"]
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn strings(value: &Value) -> Vec<&str> {
    list(value).iter().map(|item| item.as_str().unwrap()).collect()
}

/// The node's directory behind each volume of the DaemonSet.
fn host_paths(objects: &[Value]) -> BTreeMap<&str, &str> {
    let volumes = list(&pod(objects)["volumes"]).iter();
    volumes
        .filter_map(|volume| Some((volume["name"].as_str()?, volume["hostPath"]["path"].as_str()?)))
        .collect()
}

/// First cells, without backticks, of the rows of the table under `header` in a document.
pub(super) fn table<'a>(document: &'a str, header: &str) -> Vec<&'a str> {
    let (_, rows) = document.split_once(header).unwrap_or_else(|| panic!("no table {header}"));
    let rows = rows.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('|').nth(1).unwrap().trim().trim_matches('`')).collect()
}

/// Labels and annotations that only Helm's objects have.
const OF_HELM: [&str; 5] = [
    "checksum/config",
    "helm.sh/chart",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
];

/// Objects by kind and name, with what kustomize and Helm do differently taken out: the hash in the name of a ConfigMap
/// or in an annotation, labels about the release, and the order of lists whose entries have names.
pub(super) fn normalized(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let key = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
    objects.into_iter().map(normal).map(|object| (key(&object), object)).collect()
}

fn normal(value: Value) -> Value {
    match value {
        Value::String(name) if name.starts_with("iocast-config-") => json!("iocast-config"),
        Value::Array(items) => {
            let mut items: Vec<_> = items.into_iter().map(normal).collect();
            items.sort_by_key(|item| item["name"].as_str().map(str::to_owned));
            json!(items)
        }
        Value::Object(fields) => {
            let ours = fields.into_iter().filter(|(key, _)| !OF_HELM.contains(&key.as_str()));
            let fields = ours.map(|(key, value)| (key, normal(value)));
            fields.filter(|(key, value)| key != "annotations" || *value != json!({})).collect()
        }
        other => other,
    }
}

#[test]
fn every_manifest_fits_the_schemas_of_kubernetes() {
    let overlays = OVERLAYS.iter().flat_map(|name| [format!("overlays/{name}"), format!("uninstall/{name}")]);
    for directory in
        overlays.chain(["example", "kubectl", "policy", "monitoring", "survey"].map(String::from))
    {
        let objects = kustomize(&directory);
        assert!(!objects.is_empty(), "{directory}");
        for version in KUBERNETES {
            assert_eq!(faults(&objects, version), [""; 0], "{directory}, Kubernetes {version}");
        }
    }
}

#[test]
fn a_misspelt_field_does_not_fit_the_schemas() {
    let mut objects = kustomize("overlays/kubeadm");
    let set = objects.iter_mut().find(|object| object["kind"] == "DaemonSet").unwrap();
    set["spec"]["template"]["spec"]["hostNetwrk"] = json!(true);
    let found = faults(&objects, KUBERNETES[1]);
    assert!(found.len() == 1 && found[0].contains("hostNetwrk"), "{found:?}");
}

#[test]
fn the_chart_renders_what_the_overlays_have() {
    for overlay in OVERLAYS {
        for (directory, values) in [("overlays", json!({})), ("uninstall", json!({"uninstall": true}))] {
            let mut expected = normalized(kustomize(&format!("{directory}/{overlay}")));
            // A chart cannot make the namespace that it is installed into.
            assert!(expected.remove(r#""Namespace" "iocast""#).is_some());
            assert_eq!(normalized(chart(overlay, &values).unwrap()), expected, "{directory}/{overlay}");
        }
    }
}

/// Components that are off, with their names in the chart's values.
const COMPONENTS: [&str; 2] = ["page", "subnets"];

#[test]
fn components_are_off_and_the_chart_renders_what_they_have() {
    for component in COMPONENTS {
        let has = |objects: &[Value]| json!(objects).to_string().contains(component);
        assert!(!has(&kustomize("overlays/kubeadm")) && !has(&chart("kubeadm", &json!({})).unwrap()));
        for overlay in OVERLAYS {
            let objects = with_component(overlay, component);
            for version in KUBERNETES {
                assert_eq!(
                    faults(&objects, version),
                    [""; 0],
                    "{overlay}, {component}, Kubernetes {version}"
                );
            }
            let mut expected = normalized(objects);
            assert!(expected.remove(r#""Namespace" "iocast""#).is_some());
            let values = json!({component: {"enabled": true}});
            assert_eq!(normalized(chart(overlay, &values).unwrap()), expected, "{overlay}, {component}");
            let gone = json!({component: {"enabled": true}, "uninstall": true});
            assert!(!has(&chart(overlay, &gone).unwrap()), "{overlay}, {component}");
        }
    }
}

#[test]
fn agents_find_each_other_also_where_one_is_not_ready() {
    for component in COMPONENTS {
        let objects = with_component("kubeadm", component);
        let (service, spec) = (find(&objects, "Service"), pod(&objects));
        assert_eq!(
            (&service["spec"]["clusterIP"], &service["spec"]["publishNotReadyAddresses"]),
            (&json!("None"), &json!(true))
        );
        let labels = &find(&objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"];
        assert_eq!(&service["spec"]["selector"], labels);
        assert_eq!(service["metadata"]["namespace"], "iocast");
        assert_eq!(service["metadata"]["name"], format!("iocast-{component}"));
        let peers = strings(&spec["containers"][0]["args"]).contains(&"--page-peers=iocast-page");
        assert_eq!(peers, component == "page");
        assert_eq!(
            spec["dnsPolicy"], "ClusterFirstWithHostNet",
            "or a pod on the node's network does not know Services"
        );
    }
}

#[test]
fn the_charts_values_are_checked() {
    for wrong in [
        json!({"confg": "x"}),
        json!({"cni": {"binDir": "opt/cni/bin"}}),
        json!({"config": "no domain here"}),
        json!({"listen": {"port": 0}}),
        json!({"listen": {"address": "::"}}),
        json!({"image": {"digest": "sha256:12"}}),
        json!({"page": {"port": 0}}),
        json!({"page": {"hosts": ["https://x"]}}),
        json!({"subnets": {"keySecret": ""}}),
        json!({"runtime": {"socket": "/run/x.sock"}}),
    ] {
        let refused = chart("kubeadm", &wrong).expect_err(&wrong.to_string());
        let key = wrong.as_object().unwrap().keys().next().unwrap();
        assert!(refused.contains("HelmValuesError") && refused.contains(key), "{wrong}: {refused}");
    }
}

#[test]
fn the_chart_without_a_runtime_has_no_access_to_one() {
    let rendered = chart("kubeadm", &json!({"runtime": {"directory": ""}})).unwrap();
    assert_eq!(faults(&rendered, KUBERNETES[1]), [""; 0]);
    let left: BTreeSet<_> = host_paths(&rendered).into_keys().collect();
    assert_eq!(left, BTreeSet::from(["bpffs", "cni-bin", "cni-conf", "netns"]));
    let container = &pod(&rendered)["containers"][0];
    assert_eq!(strings(&container["args"]), ["run", "--listen=0.0.0.0:9402"]);
    assert!(list(&container["volumeMounts"]).iter().all(|mount| mount["name"] != "runtime"));
}

#[test]
fn the_chart_takes_an_image_by_digest() {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let rendered =
        chart("kubeadm", &json!({"image": {"repository": "r.example/n", "digest": digest}})).unwrap();
    assert_eq!(pod(&rendered)["containers"][0]["image"], format!("r.example/n@{digest}"));
}

#[test]
fn another_configuration_rolls_the_daemonset() {
    let template = |config: &str| {
        let rendered = chart("kubeadm", &json!({"config": config})).unwrap();
        find(&rendered, "DaemonSet")["spec"]["template"].clone()
    };
    assert_ne!(template("[domain.a]\nuplink = \"eth0\""), template("[domain.a]\nuplink = \"eth1\""));
    let overlay = kustomize("overlays/kubeadm");
    let name = find(&overlay, "ConfigMap")["metadata"]["name"].as_str().unwrap();
    assert!(name.strip_prefix("iocast-config-").is_some_and(|hash| hash.len() == 10), "{name}");
}

#[test]
fn the_daemonset_has_exactly_the_privileges_that_the_docs_explain() {
    let overlay = kustomize("overlays/kubeadm");
    let spec = pod(&overlay);
    let container = &spec["containers"][0];
    let document = text("docs/admin.md");
    let security = &container["securityContext"];
    assert_eq!(strings(&security["capabilities"]["add"]), table(&document, "| capability | for |"));
    assert_eq!(strings(&security["capabilities"]["drop"]), ["ALL"]);
    for (field, expected) in
        [("privileged", false), ("allowPrivilegeEscalation", false), ("readOnlyRootFilesystem", true)]
    {
        assert_eq!(security[field], expected, "{field}");
    }
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    let explained: BTreeSet<_> = table(&document, "| directory | access | for |").into_iter().collect();
    assert_eq!(host_paths(&overlay).into_values().collect::<BTreeSet<_>>(), explained);
    assert_eq!(spec["hostNetwork"], true);
    assert!(["hostPID", "hostIPC", "initContainers"].iter().all(|field| spec[*field].is_null()));
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(find(&overlay, "ServiceAccount")["automountServiceAccountToken"], false);
}

#[test]
fn only_what_the_docs_say_is_writable() {
    let overlay = kustomize("overlays/kubeadm");
    let paths = host_paths(&overlay);
    let mounts = list(&pod(&overlay)["containers"][0]["volumeMounts"]).iter();
    let writable: BTreeSet<_> = mounts
        .filter(|mount| mount["readOnly"] != true)
        .map(|mount| paths[mount["name"].as_str().unwrap()])
        .collect();
    let document = text("docs/admin.md");
    let (_, rows) = document.split_once("| directory | access | for |").unwrap();
    let rows =
        rows.lines().take_while(|line| !line.starts_with("and")).filter(|row| row.contains("| write |"));
    let explained: BTreeSet<_> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
    assert_eq!(writable, explained);
}

#[test]
fn the_survey_has_exactly_the_privileges_that_the_docs_explain_and_leaves_nothing() {
    let objects = kustomize("survey");
    let spec = pod(&objects);
    let security = &spec["containers"][0]["securityContext"];
    let fields = ["hostPID", "hostNetwork", "hostIPC"].into_iter().filter(|field| spec[*field] == true);
    let granted =
        fields.chain(strings(&security["capabilities"]["add"])).chain(host_paths(&objects).into_values());
    let document = text("docs/migrate.md");
    let explained = table(&document, "| privilege | for |").into_iter().flat_map(|cell| cell.split("`, `"));
    assert_eq!(granted.collect::<BTreeSet<_>>(), explained.collect());
    assert_eq!(strings(&security["capabilities"]["drop"]), ["ALL"]);
    assert_eq!((&security["privileged"], &security["readOnlyRootFilesystem"]), (&json!(false), &json!(true)));
    assert!(list(&spec["containers"][0]["volumeMounts"]).iter().all(|mount| mount["readOnly"] == true));
    assert_eq!(spec["automountServiceAccountToken"], false);
    let own = json!("iocast-survey");
    let is_own = |object: &Value| match object["kind"].as_str() {
        Some("Namespace") => object["metadata"]["name"] == own,
        _ => object["metadata"]["namespace"] == own,
    };
    assert!(objects.iter().all(is_own), "{objects:?}");
    assert_eq!(spec["containers"][0]["image"], pod(&kustomize("overlays/kubeadm"))["containers"][0]["image"]);
}

#[test]
fn the_agent_runs_on_every_node_first_and_never_through_the_network_it_makes() {
    let overlay = kustomize("overlays/kubeadm");
    let spec = pod(&overlay);
    assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(spec["priorityClassName"], "system-node-critical");
    assert_eq!(spec["nodeSelector"], json!({"kubernetes.io/os": "linux"}));
    let container = &spec["containers"][0];
    assert_eq!(container["livenessProbe"]["httpGet"], json!({"path": "/healthz", "port": "metrics"}));
    let ready = &container["readinessProbe"]["exec"]["command"];
    assert_eq!(strings(ready), ["/iocast-node", "ready", "--listen=0.0.0.0:9402"]);
    assert_eq!(container["terminationMessagePolicy"], "FallbackToLogsOnError");
    assert_eq!(container["ports"], json!([{"name": "metrics", "containerPort": 9402, "protocol": "TCP"}]));
    assert!(container["resources"]["limits"]["cpu"].is_null(), "a limit of CPU only delays an agent");
}

#[test]
fn a_node_that_cannot_become_ready_holds_up_no_other() {
    for objects in [kustomize("overlays/kubeadm"), chart("kubeadm", &json!({})).unwrap()] {
        let strategy = &find(&objects, "DaemonSet")["spec"]["updateStrategy"];
        assert_eq!(strategy, &json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}));
    }
    let document = text("docs/admin.md");
    assert!(document.contains("kubectl label node") && document.contains("iocast.io/lan=true"));
}

#[test]
fn a_bpf_file_system_that_is_mounted_later_is_seen() {
    let overlay = kustomize("overlays/kubeadm");
    let mounts = list(&pod(&overlay)["containers"][0]["volumeMounts"]);
    let mount = mounts.iter().find(|mount| mount["name"] == "bpffs").unwrap();
    assert_eq!(
        (&mount["mountPath"], &mount["mountPropagation"]),
        (&json!("/sys/fs"), &json!("HostToContainer"))
    );
    assert_eq!(host_paths(&overlay)["bpffs"], "/sys/fs");
}

#[test]
fn the_docs_name_the_directories_of_each_overlay() {
    let document = text("docs/admin.md");
    for overlay in OVERLAYS {
        let objects = kustomize(&format!("overlays/{overlay}"));
        let paths = host_paths(&objects);
        let [bin, conf, runtime] = ["cni-bin", "cni-conf", "runtime"].map(|volume| paths[volume]);
        let row = format!("| `{overlay}` | `{bin}` | `{conf}` | `{runtime}` |");
        assert!(document.contains(&row), "no row {row}");
    }
}

#[test]
fn the_uninstaller_replaces_the_agent_with_the_same_rights_on_the_same_files() {
    for overlay in OVERLAYS {
        let (agent, remover) =
            (kustomize(&format!("overlays/{overlay}")), kustomize(&format!("uninstall/{overlay}")));
        let (before, after) = (pod(&agent), pod(&remover));
        let (run, uninstall) = (&before["containers"][0], &after["initContainers"][0]);
        assert_eq!(uninstall["args"], json!(["uninstall"]));
        for same in ["image", "securityContext", "volumeMounts", "resources"] {
            assert_eq!(uninstall[same], run[same], "{overlay}: {same}");
        }
        assert_eq!(after["volumes"], before["volumes"]);
        assert_eq!(find(&remover, "DaemonSet")["metadata"], find(&agent, "DaemonSet")["metadata"]);
        let [done] = list(&after["containers"]) else { panic!("{overlay}: one container is left") };
        assert_eq!(done["image"], run["image"], "{overlay}: an image that is there");
        assert_eq!((&done["name"], strings(&done["args"])), (&json!("done"), vec!["idle"]));
        assert_eq!(done["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
        assert!(done["volumeMounts"].is_null(), "{overlay}");
    }
}

#[test]
fn the_kustomization_of_the_docs_sets_a_sites_configuration() {
    let document = text("docs/admin.md");
    let example = document.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let site = tempfile::tempdir().unwrap();
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(root().join("manifests")).arg(site.path().join("iocast"));
    assert!(lab::output_of(&mut copy).unwrap().status.success());
    let example = example.replace("iocast/manifests/", "iocast/");
    fs::write(site.path().join("config.toml"), "[domain.bl99]\nuplink = \"lan\"\n").unwrap();
    for (more, role) in [("", "containers"), ("components: [iocast/uninstall/component]\n", "initContainers")]
    {
        fs::write(site.path().join("kustomization.yaml"), format!("{example}{more}")).unwrap();
        let rendered = parse(&run("kubectl", &["kustomize", site.path().to_str().unwrap()], "").unwrap());
        let image = format!("registry.example/iocast-node:{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(pod(&rendered)[role][0]["image"], image);
        let config = find(&rendered, "ConfigMap");
        assert!(config["data"]["config.toml"].as_str().unwrap().contains("bl99"));
        let volumes = list(&pod(&rendered)["volumes"]).iter();
        assert!(
            volumes
                .map(|volume| &volume["configMap"]["name"])
                .any(|name| *name == config["metadata"]["name"])
        );
    }
}

/// What Pod Security's profile `restricted` (Kubernetes 1.37) has against a pod: its rules for Linux, in the order of
/// kubernetes.io/docs/concepts/security/pod-security-standards.
pub(super) fn restricted(pod: &Value) -> Vec<String> {
    let mut found = vec![];
    let mut rule = |broken: bool, text: String| found.extend(broken.then_some(text));
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        rule(pod[field] == true, field.into());
    }
    for volume in list(&pod["volumes"]) {
        let kinds = volume.as_object().unwrap().keys().filter(|key| *key != "name");
        for kind in kinds.filter(|kind| !VOLUMES.contains(&kind.as_str())) {
            rule(true, format!("volume {kind}"));
        }
    }
    for sysctl in list(&pod["securityContext"]["sysctls"]) {
        rule(!SYSCTLS.contains(&sysctl["name"].as_str().unwrap()), format!("sysctl {}", sysctl["name"]));
    }
    let containers = ["initContainers", "containers", "ephemeralContainers"];
    for container in containers.iter().flat_map(|kind| list(&pod[*kind])) {
        restricted_container(&pod["securityContext"], container, &mut rule);
    }
    found
}

const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
];

fn restricted_container(of_pod: &Value, container: &Value, rule: &mut impl FnMut(bool, String)) {
    let own = &container["securityContext"];
    // A container's own value counts before the pod's.
    let effective = |field: &str| if own[field].is_null() { &of_pod[field] } else { &own[field] };
    let profile = |field: &str| effective(field)["type"].as_str();
    rule(own["privileged"] == true, "privileged".into());
    for port in list(&container["ports"]) {
        rule(!port["hostPort"].is_null() && port["hostPort"] != 0, "hostPort".into());
    }
    let hooks = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
    let hooks = hooks.into_iter().chain(["postStart", "preStop"].map(|hook| &container["lifecycle"][hook]));
    for host in hooks.flat_map(|hook| [&hook["httpGet"]["host"], &hook["tcpSocket"]["host"]]) {
        rule(host.as_str().is_some_and(|host| !host.is_empty()), "host of a probe".into());
    }
    rule(profile("appArmorProfile") == Some("Unconfined"), "appArmorProfile".into());
    let selinux = effective("seLinuxOptions");
    let types = [None, Some(""), Some("container_t"), Some("container_init_t"), Some("container_kvm_t")];
    let types = [&types[..], &[Some("container_engine_t")]].concat();
    rule(!types.contains(&selinux["type"].as_str()), "seLinuxOptions.type".into());
    rule(!selinux["user"].is_null() || !selinux["role"].is_null(), "seLinuxOptions.user or role".into());
    rule(!matches!(own["procMount"].as_str(), None | Some("Default")), "procMount".into());
    rule(own["allowPrivilegeEscalation"] != false, "allowPrivilegeEscalation".into());
    rule(*effective("runAsNonRoot") != true, "runAsNonRoot".into());
    rule(*effective("runAsUser") == 0, "runAsUser".into());
    rule(!matches!(profile("seccompProfile"), Some("RuntimeDefault" | "Localhost")), "seccompProfile".into());
    rule(!strings(&own["capabilities"]["drop"]).contains(&"ALL"), "capabilities.drop".into());
    let added = strings(&own["capabilities"]["add"]);
    rule(added.iter().any(|name| *name != "NET_BIND_SERVICE"), "capabilities.add".into());
}

#[test]
fn the_example_runs_under_pod_securitys_restricted_profile() {
    let example = kustomize("example");
    let spec = &find(&example, "StatefulSet")["spec"]["template"]["spec"];
    assert_eq!(restricted(spec), [""; 0]);
    assert_eq!(
        find(&example, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        "restricted"
    );
}

#[test]
fn the_check_of_the_restricted_profile_finds_what_breaks_it() {
    let example = kustomize("example");
    let good = &find(&example, "StatefulSet")["spec"]["template"]["spec"];
    for (pointer, value, expected) in [
        ("", json!({"hostNetwork": true}), "hostNetwork"),
        ("", json!({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}), "volume hostPath"),
        ("/securityContext", json!({"sysctls": [{"name": "kernel.msgmax"}]}), "sysctl \"kernel.msgmax\""),
        ("/securityContext", json!({"runAsNonRoot": null}), "runAsNonRoot"),
        ("/securityContext", json!({"runAsUser": 0}), "runAsUser"),
        ("/securityContext", json!({"seccompProfile": null}), "seccompProfile"),
        ("/containers/0", json!({"ports": [{"hostPort": 5064}]}), "hostPort"),
        ("/containers/0/securityContext", json!({"privileged": true}), "privileged"),
        (
            "/containers/0/securityContext",
            json!({"allowPrivilegeEscalation": null}),
            "allowPrivilegeEscalation",
        ),
        ("/containers/0/securityContext", json!({"capabilities": {}}), "capabilities.drop"),
        (
            "/containers/0/securityContext",
            json!({"seLinuxOptions": {"type": "spc_t"}}),
            "seLinuxOptions.type",
        ),
        ("/containers/0/securityContext", json!({"procMount": "Unmasked"}), "procMount"),
        ("/containers/0/securityContext/capabilities", json!({"add": ["NET_ADMIN"]}), "capabilities.add"),
    ] {
        let mut bad = good.clone();
        let place = bad.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
        place.extend(value.as_object().unwrap().clone());
        assert_eq!(restricted(&bad), [expected], "{pointer} {value}");
    }
    assert!(restricted(pod(&kustomize("overlays/kubeadm"))).len() > 5);
}

/// What the policy answers when a pod with these annotations is made in a namespace with these labels, or when it had
/// others `before`.
fn refusals(annotations: &Value, labels: &Value, before: Option<&Value>) -> Vec<String> {
    refusals_of(&json!({"containers": []}), annotations, labels, before)
}

/// The same of a pod with this `spec`.
fn refusals_of(spec: &Value, annotations: &Value, labels: &Value, before: Option<&Value>) -> Vec<String> {
    let policy = kustomize("policy");
    let with = |annotations: &Value| {
        let mut pod = json!({"metadata": {"name": "ioc"}, "spec": spec});
        if !annotations.is_null() {
            pod["metadata"]["annotations"] = annotations.clone();
        }
        pod
    };
    let mut namespace = json!({"metadata": {"name": "bl07"}});
    if !labels.is_null() {
        namespace["metadata"]["labels"] = labels.clone();
    }
    let asked = json!({
        "policy": find(&policy, "ValidatingAdmissionPolicy"),
        "object": with(annotations),
        "oldObject": before.map(with),
        "namespaceObject": namespace,
    });
    serde_json::from_value(python(&["admit"], &asked.to_string()).unwrap()).unwrap()
}

#[test]
fn a_pod_may_join_only_the_domain_its_namespace_is_labelled_with() {
    let joins = json!({"iocast.io/domain": "bl07"});
    assert_eq!(refusals(&joins, &json!({"iocast.io/domain": "bl07"}), None), [""; 0]);
    let refused = refusals(&joins, &json!({"iocast.io/domain": "bl08"}), None);
    assert!(refused.len() == 1 && refused[0].contains("may use only `bl08`"), "{refused:?}");
    for unlabelled in [Value::Null, json!({"other": "x"})] {
        let refused = refusals(&joins, &unlabelled, None);
        assert!(refused.len() == 1 && refused[0].contains("`bl07` may use no domain"), "{refused:?}");
    }
    for stranger in [Value::Null, json!({"other": "x"})] {
        assert_eq!(refusals(&stranger, &Value::Null, None), [""; 0]);
    }
}

#[test]
fn the_policy_judges_only_what_an_update_changes() {
    let [one, other] = ["bl07", "bl08"].map(|domain| json!({"iocast.io/domain": domain}));
    assert_eq!(refusals(&one, &Value::Null, Some(&one)), [""; 0]);
    assert_eq!(refusals(&Value::Null, &Value::Null, Some(&one)), [""; 0]);
    assert_eq!(refusals(&json!({"iocast.io/domain": "bl07", "x": "y"}), &other, Some(&one)), [""; 0]);
}

#[test]
fn annotations_that_come_too_late_or_to_the_nodes_network_are_refused() {
    let [one, other] = ["bl07", "bl08"].map(|domain| json!({"iocast.io/domain": domain}));
    let labels = json!({"iocast.io/domain": "bl07", "iocast.io/ports": "15000-15999"});
    for before in [&Value::Null, &other] {
        let late = refusals(&one, &labels, Some(before));
        assert!(late.len() == 1 && late[0].contains("a pod joins when it is created"), "{late:?}");
    }
    let pinned = json!({"iocast.io/domain": "bl07", "iocast.io/ports": "tcp/1=15000"});
    let late = refusals(&pinned, &labels, Some(&one));
    assert!(
        late.len() == 1 && late[0].contains("iocast.io/ports has no effect on a pod that exists"),
        "{late:?}"
    );
    let of_node = json!({"containers": [], "hostNetwork": true});
    let refused = refusals_of(&of_node, &one, &labels, None);
    assert!(refused.len() == 1 && refused[0].contains("a pod with hostNetwork"), "{refused:?}");
    assert_eq!(refusals_of(&of_node, &one, &labels, Some(&one)), [""; 0], "a pod older than the policy");
    assert_eq!(refusals_of(&of_node, &Value::Null, &labels, None), [""; 0]);
    assert_eq!(refusals_of(&json!({"hostNetwork": false}), &one, &labels, None), [""; 0]);
}

#[test]
fn a_pod_may_pin_only_ports_of_the_range_its_namespace_is_labelled_with() {
    let pins = |ports: &str, range: Option<&str>, before: Option<&Value>| {
        let mut labels = json!({"iocast.io/domain": "bl07"});
        if let Some(range) = range {
            labels["iocast.io/ports"] = range.into();
        }
        refusals(&json!({"iocast.io/domain": "bl07", "iocast.io/ports": ports}), &labels, before)
    };
    for (ports, range) in
        [("tcp/1=15000", "15000-15999"), ("tcp/1=15000, udp/9=15999", "15000-15999"), ("udp/1=9", "9-9")]
    {
        assert_eq!(pins(ports, Some(range), None), [""; 0], "{ports} {range}");
    }
    let unlabelled = pins("tcp/1=15000", None, None);
    assert!(unlabelled.len() == 1 && unlabelled[0].contains("`bl07` may pin no ports"), "{unlabelled:?}");
    for (ports, range) in [
        ("tcp/1=14999", "15000-15999"),
        ("tcp/1=15000,udp/2=16000", "15000-15999"),
        ("tcp/1=15000", "15999-15000"),
        ("tcp/1=15000", "15000"),
        ("tcp/1=15000", "any"),
    ] {
        let refused = pins(ports, Some(range), None);
        let why = format!("may pin only ports of `{range}`");
        assert!(refused.len() == 1 && refused[0].contains(&why), "{ports} {range}: {refused:?}");
    }
    let before = json!({"iocast.io/domain": "bl07", "iocast.io/ports": "tcp/1=15000"});
    assert_eq!(pins("tcp/1=15000", None, Some(&before)), [""; 0], "a pod older than the policy");
    assert_eq!(pins("tcp/1=15001", None, Some(&before)).len(), 2, "too late, and not allowed");
    let list = |count: u32| (1..=count).map(|port| format!("tcp/{port}=15000")).collect::<Vec<_>>().join(",");
    assert_eq!(pins(&list(32), Some("15000-15999"), None), [""; 0]);
    assert_eq!(pins(&list(33), Some("15000-15999"), None), ["iocast.io/ports pins more than 32 ports"]);
    let long = pins(&list(2000), Some("15000-15999"), None);
    assert!(long.len() == 1 && long[0].contains("at most 1024 bytes"), "{long:?}");
}

#[test]
fn the_policy_knows_the_syntax_of_ports() {
    let labels = json!({"iocast.io/domain": "bl07", "iocast.io/ports": "1-65535"});
    let ports =
        |ports: &str| refusals(&json!({"iocast.io/domain": "bl07", "iocast.io/ports": ports}), &labels, None);
    for right in ["tcp/5064=15064", "tcp/5064=15064, udp/5064=15064", "udp/1=65535,tcp/65535=1"] {
        assert_eq!(ports(right), [""; 0], "{right}");
    }
    for wrong in [
        "x",
        "5064=15064",
        "tcp/5064",
        "tcp/5064=0",
        "tcp/5064=65536",
        "tcp/5064=99999",
        "sctp/1=2",
        "tcp/1=2;udp/1=2",
        "tcp/1=2,",
        "tcp/1=2 udp/1=2",
        "TCP/1=2",
        "tcp/01=2",
    ] {
        let refused = ports(wrong);
        assert!(refused.len() == 1 && refused[0].contains(&format!("is `{wrong}`")), "{wrong}: {refused:?}");
    }
    let alone = refusals(&json!({"iocast.io/ports": "tcp/1=2"}), &labels, None);
    assert_eq!(alone, ["iocast.io/ports has no effect without iocast.io/domain"]);
}

/// What the policy answers to a pod that asks for `address` in a namespace that may have those in `range`.
fn asks(address: &str, range: Option<&str>, before: Option<&Value>) -> Vec<String> {
    let mut labels = json!({"iocast.io/domain": "bl07"});
    if let Some(range) = range {
        labels["iocast.io/address"] = range.into();
    }
    refusals(&json!({"iocast.io/domain": "bl07", "iocast.io/address": address}), &labels, before)
}

#[test]
fn a_pod_may_have_only_an_address_of_the_range_its_namespace_is_labelled_with() {
    const RANGE: &str = "172.23.0.48-172.23.0.63";
    for address in
        ["172.23.0.48", " 172.23.0.63 ", "172.23.0.50-172.23.0.59", "172.23.0.48/28", "172.23.0.56/32"]
    {
        assert_eq!(asks(address, Some(RANGE), None), [""; 0], "{address}");
    }
    assert_eq!(asks("172.23.0.230", Some("172.23.0.230"), None), [""; 0]);
    assert_eq!(asks("0.0.0.0/0", Some("0.0.0.0-255.255.255.255"), None), [""; 0]);
    for address in
        ["172.23.0.47", "172.23.0.64", "172.23.0.60-172.23.0.64", "172.23.0.48/27", "172.23.0.60-1.1.1.1"]
    {
        let refused = asks(address, Some(RANGE), None);
        let why = format!("may have only LAN addresses of `{RANGE}`");
        assert!(refused.len() == 1 && refused[0].contains(&why), "{address}: {refused:?}");
    }
    let unlabelled = asks("172.23.0.50", None, None);
    assert!(
        unlabelled.len() == 1 && unlabelled[0].contains("`bl07` may have no LAN address"),
        "{unlabelled:?}"
    );
    for odd in ["any", "172.23.0", "172.23.0.63-172.23.0.48"] {
        assert_eq!(asks("172.23.0.50", Some(odd), None).len(), 1, "{odd}");
    }
}

#[test]
fn the_policy_judges_an_address_when_the_pod_is_created() {
    let before = json!({"iocast.io/domain": "bl07", "iocast.io/address": "172.23.0.50"});
    assert_eq!(asks("172.23.0.50", None, Some(&before)), [""; 0], "a pod older than the policy");
    let late = asks("172.23.0.51", Some("172.23.0.51"), Some(&before));
    assert!(
        late.len() == 1 && late[0].contains("iocast.io/address has no effect on a pod that exists"),
        "{late:?}"
    );
    let alone = refusals(
        &json!({"iocast.io/address": "172.23.0.50"}),
        &json!({"iocast.io/address": "172.23.0.50"}),
        None,
    );
    assert_eq!(alone, ["iocast.io/address has no effect without iocast.io/domain"]);
}

#[test]
fn the_policy_knows_the_syntax_of_beginnings_of_names() {
    let labels = json!({"iocast.io/domain": "bl07"});
    let asks = |pvs: &str, before: Option<&Value>| {
        refusals(&json!({"iocast.io/domain": "bl07", "iocast.io/pvs": pvs}), &labels, before)
    };
    for right in ["BL07I-EA-", "BL07I-EA-, BL07I-DI-", " A:,B: ", "A:,", &"x".repeat(64)] {
        assert_eq!(asks(right, None), [""; 0], "{right}");
    }
    for wrong in ["", "A:*", "A:[0-9]", "A: B:", ",", &"x".repeat(65), &"x,".repeat(600)] {
        let refused = asks(wrong, None);
        assert!(
            refused.len() == 1 && refused[0].contains("expected beginnings of names"),
            "{wrong}: {refused:?}"
        );
    }
    let before = json!({"iocast.io/domain": "bl07", "iocast.io/pvs": "A:"});
    assert_eq!(asks("A:", Some(&before)), [""; 0]);
    assert!(asks("B:", Some(&before))[0].contains("has no effect on a pod that exists"));
    let alone = refusals(&json!({"iocast.io/pvs": "A:"}), &labels, None);
    assert_eq!(alone, ["iocast.io/pvs has no effect without iocast.io/domain"]);
}

#[test]
fn the_policy_knows_the_syntax_of_addresses() {
    for wrong in [
        "x",
        "172.23.0",
        "172.23.0.256",
        "172.23.0.50/33",
        "172.23.0.050",
        "172.23.0.50-59",
        "172.23.0.50,172.23.0.51",
        "::1",
    ] {
        let refused = asks(wrong, Some("0.0.0.0-255.255.255.255"), None);
        assert!(refused.len() == 1 && refused[0].contains(&format!("is `{wrong}`")), "{wrong}: {refused:?}");
    }
}

/// Writes the rules of the PrometheusRule, and `more` files, where promtool can read them.
fn promtool(verb: &[&str], files: &[(&str, String)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(directory.path().join(name), content).unwrap();
    }
    let file = directory.path().join(files[0].0);
    run("promtool", &[verb, &[file.to_str().unwrap()]].concat(), "").unwrap_or_else(|fault| panic!("{fault}"))
}

fn alerts() -> String {
    find(&kustomize("monitoring"), "PrometheusRule")["spec"].to_string()
}

#[test]
fn every_alert_fires_when_it_should_and_only_then() {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &[("rules.yaml", alerts())]);
    promtool(&["test", "rules"], &[("alerts.yaml", text("tests/alerts.yaml")), ("rules.yaml", alerts())]);
    for alert in alerts().split(r#""alert":""#).skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let tested = text("tests/alerts.yaml").matches(&format!("alertname: {alert}")).count();
        assert!(tested > 0, "tests/alerts.yaml does not test {alert}");
    }
}

/// The queries of the dashboard, its variables replaced.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&text("manifests/monitoring/dashboard.json")).unwrap();
    let targets = list(&dashboard["panels"]).iter().flat_map(|panel| list(&panel["targets"]));
    targets.map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "5m")).collect()
}

#[test]
fn prometheus_understands_every_query_of_the_dashboard() {
    let rules: Vec<_> = queries().iter().map(|query| json!({"record": "a:b", "expr": query})).collect();
    assert!(rules.len() > 10);
    let file = json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string();
    promtool(&["check", "rules", "--lint=none"], &[("rules.yaml", file)]);
}

#[test]
fn dashboard_and_alerts_use_documented_metrics_only() {
    let document = text("docs/admin.md");
    let known: BTreeSet<_> = table(&document, "| metric | |").into_iter().collect();
    let used = queries().join("\n") + &alerts();
    let words = used.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let used: BTreeSet<_> = words.filter(|word| word.starts_with("iocast_")).collect();
    assert_eq!(used, known, "what is used, and what docs/admin.md lists");
}
