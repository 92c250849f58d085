//! The chart beyond what the overlays have: each value reaches what it is for, each switch makes its objects and no others,
//! and its page lists them all. Needs no root and no cluster.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::{Value, json};

use super::manifests::{
    KUBERNETES, OVERLAYS, chart, faults, find, kustomize, list, normalized, pod, python, release, restricted,
    root, strings, table, text,
};

const CHART: &str = "manifests/helm/iocast";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Switches, and the objects that each adds to those that are always there.
const SWITCHES: [(&str, &[&str]); 7] = [
    ("/page/enabled", &["Service iocast-page"]),
    ("/monitoring/podMonitor/enabled", &["PodMonitor iocast"]),
    ("/monitoring/serviceMonitor/enabled", &["Service iocast-metrics", "ServiceMonitor iocast"]),
    ("/monitoring/prometheusRule/enabled", &["PrometheusRule iocast"]),
    ("/monitoring/dashboard/enabled", &["ConfigMap iocast-dashboard"]),
    ("/policy/enabled", &["ValidatingAdmissionPolicy iocast", "ValidatingAdmissionPolicyBinding iocast"]),
    ("/openshift", &["RoleBinding iocast"]),
];

const ALWAYS: [&str; 3] = ["ConfigMap iocast-config", "DaemonSet iocast", "ServiceAccount iocast"];

/// The values with `value` at a JSON pointer.
fn at(pointer: &str, value: impl Into<Value>) -> Value {
    pointer.rsplit('/').filter(|key| !key.is_empty()).fold(value.into(), |inner, key| json!({ key: inner }))
}

/// Both, with what they have in common joined.
fn joined(one: Value, other: Value) -> Value {
    match (one, other) {
        (Value::Object(mut one), Value::Object(other)) => {
            for (key, value) in other {
                let value = joined(one.remove(&key).unwrap_or_default(), value);
                one.insert(key, value);
            }
            json!(one)
        }
        (_, other) => other,
    }
}

/// All switches on, but that of the second monitor.
fn all_on() -> Value {
    let on = SWITCHES.iter().filter(|(pointer, _)| !pointer.contains("serviceMonitor"));
    on.map(|(pointer, _)| at(pointer, true)).fold(json!({}), joined)
}

fn names(objects: &[Value]) -> BTreeSet<String> {
    let name = |object: &Value| {
        format!("{} {}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
    };
    objects.iter().map(name).collect()
}

fn fits(objects: &[Value], what: &str) {
    for version in KUBERNETES {
        assert_eq!(faults(objects, version), [""; 0], "{what}, Kubernetes {version}");
    }
}

#[test]
fn each_switch_makes_its_objects_and_no_others() {
    let always = || ALWAYS.map(str::to_owned).into_iter();
    assert_eq!(names(&chart("kubeadm", &json!({})).unwrap()), always().collect());
    for (pointer, made) in SWITCHES {
        let objects = release("kubeadm", &at(pointer, true)).unwrap();
        fits(&objects, pointer);
        let stays = chart("kubeadm", &at(pointer, true)).unwrap();
        assert_eq!(
            names(&stays),
            always().chain(made.iter().map(ToString::to_string)).collect(),
            "{pointer}"
        );
    }
    let all = chart("kubeadm", &all_on()).unwrap();
    fits(&all, "all on");
    let made = SWITCHES
        .iter()
        .flat_map(|(_, made)| *made)
        .filter(|name| !name.contains("etrics") && !name.starts_with("ServiceMonitor"));
    assert_eq!(names(&all), always().chain(made.map(ToString::to_string)).collect());
}

#[test]
fn only_the_policy_and_the_role_stay_while_iocast_is_uninstalled() {
    let on_delete = json!({"uninstall": true, "updateStrategy": {"type": "OnDelete"}});
    let objects = release("kubeadm", &joined(all_on(), on_delete)).unwrap();
    fits(&objects, "uninstall");
    let strategy = &find(&objects, "DaemonSet")["spec"]["updateStrategy"];
    assert_eq!(strategy["type"], "RollingUpdate", "or no agent would be replaced by the uninstaller");
    let left = SWITCHES[5].1.iter().chain(SWITCHES[6].1).chain(&ALWAYS).map(ToString::to_string);
    assert_eq!(names(&objects), left.collect());
}

#[test]
fn what_kustomize_has_of_monitoring_and_policy_the_chart_has_too() {
    let rendered = normalized(chart("kubeadm", &all_on()).unwrap());
    for (name, expected) in normalized([kustomize("monitoring"), kustomize("policy")].concat()) {
        assert_eq!(rendered[&name], expected, "{name}");
    }
}

#[test]
fn alerts_are_about_the_job_that_the_monitors_make() {
    let job = |kind: &str| {
        let values = joined(at(&format!("/monitoring/{kind}/enabled"), true), json!({"nameOverride": "lan"}));
        let values = joined(values, at("/monitoring/prometheusRule/enabled", true));
        chart("kubeadm", &values).unwrap()
    };
    for kind in ["podMonitor", "serviceMonitor"] {
        let rule = find(&job(kind), "PrometheusRule").to_string();
        assert!(rule.contains(r#"job=\"iocast/lan\""#) && !rule.contains("iocast/iocast"), "{kind}");
    }
    let objects = job("serviceMonitor");
    let monitor = find(&objects, "ServiceMonitor");
    let relabelings = list(&monitor["spec"]["endpoints"][0]["relabelings"]);
    assert!(relabelings.contains(&json!({"targetLabel": "job", "replacement": "iocast/lan"})));
    let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
    let has = &find(&objects, "Service")["metadata"]["labels"];
    assert!(wanted.iter().all(|(key, value)| has[key] == *value), "{has}");
}

#[test]
fn values_that_contradict_each_other_are_refused_with_what_to_do() {
    let domains = json!({"bl07": {"uplink": "eth0"}});
    for (values, expected) in [
        (json!({"domains": domains, "config": "[domain.a]\nuplink = \"eth0\""}), "not both"),
        (
            json!({"settings": {"circuit_idle_minutes": 5}, "config": "[domain.a]\nuplink = \"eth0\""}),
            "not both",
        ),
        (json!({"config": ""}), "which domains?"),
        (json!({"config": "", "settings": {"circuit_idle_minutes": 5}}), "which domains?"),
        (
            json!({"monitoring": {"podMonitor": {"enabled": true}, "serviceMonitor": {"enabled": true}}}),
            "enable one of them",
        ),
    ] {
        let refused = chart("kubeadm", &values).expect_err(&values.to_string());
        assert!(refused.contains(expected), "{values}: {refused}");
    }
}

#[test]
fn the_typed_configuration_becomes_the_same_in_toml() {
    let domains = json!({
        "bl07": {
            "uplink": "172.23.0.0/24",
            "namespaces": ["bl07", "bl07-*"],
            "protocols": ["ca", "pva", "gvcp"],
            "ports": "61000-62999",
            "pins": "65000-65535",
            "ports_per_pod": 1000,
            "rates": {"pod": 10_000_000, "host": 0, "domain": 50_000},
            "lan": ["172.24.0.0/16"],
            "search_ports": {"8064": "ca"},
            "groups": {"5076": ["224.0.2.3", "224.0.2.4"], "5077": "224.0.2.5"},
            "addresses": ["172.23.0.48/28", {"range": "172.23.0.230", "namespaces": ["bl07-*"]}],
            "path": "direct",
            "cameras": ["172.23.0.128/25"],
            "subnets": {"peers": ["iocast-subnets", "172.24.0.10:5078"], "key": "/etc/iocast-subnets/key", "port": 5079},
            "search_prefixes": ["BL07I-"],
        },
        "work.shop": {"uplink": "eth0", "lan_ports": {"5064": 8064, "5065": 8065}},
    });
    let known = schema()["definitions"]["domain"]["properties"].as_object().unwrap().clone();
    let tried: BTreeSet<_> =
        domains.as_object().unwrap().values().flat_map(|d| d.as_object().unwrap().keys()).collect();
    assert_eq!(tried, known.keys().collect(), "every key is tried");
    let settings = json!({
        "circuit_idle_minutes": 240,
        "duplicates": {"rate": 20, "allow": ["172.23.0.9", "odd \"<name>\" \\ Ω"]},
        "protocol": {"toy": {"ports": [5000], "match": [{"offset": 0, "bytes": "TOY?"}]}},
    });
    let objects = chart("kubeadm", &json!({"domains": domains, "settings": settings})).unwrap();
    let toml = find(&objects, "ConfigMap")["data"]["config.toml"].as_str().unwrap();
    let expected = joined(settings, json!({"domain": domains}));
    assert_eq!(python(&["toml"], toml).unwrap(), expected, "{toml}");
}

fn schema() -> Value {
    serde_json::from_str(&text(&format!("{CHART}/values.schema.json"))).unwrap()
}

#[test]
fn the_schema_has_the_keys_that_the_documentation_lists() {
    let (document, schema) = (text("docs/admin.md"), schema());
    let settings = &schema["properties"]["settings"]["properties"];
    for (header, known) in [
        ("| key of `[domain.NAME]` | default | |", &schema["definitions"]["domain"]["properties"]),
        ("| key of `[duplicates]` | default | |", &settings["duplicates"]["properties"]),
    ] {
        let known: BTreeSet<_> = known.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(known, table(&document, header).into_iter().collect(), "{header}");
    }
    let above = table(&document, "| key before all sections | default | |");
    assert!(above.iter().all(|key| !settings[key].is_null()), "{above:?}");
}

#[test]
fn wrong_domains_and_labels_are_refused_by_name() {
    for (wrong, key) in [
        (json!({"domains": {"bl07": {}}}), "uplink"),
        (json!({"domains": {"bl07": {"uplink": "eth0", "port": "1"}}}), "port"),
        (json!({"domains": {"bl07": {"uplink": "eth0", "ports": "61000"}}}), "ports"),
        (json!({"domains": {"bl07": {"uplink": "eth0", "ports_per_pod": 1.5}}}), "ports_per_pod"),
        (json!({"domains": {"bl 07": {"uplink": "eth0"}}}), "bl 07"),
        (json!({"domains": {"bl07": {"uplink": "eth0", "rates": {"pods": 1}}}}), "rates"),
        (json!({"domains": {"bl07": {"uplink": "eth0", "lan_ports": {"ca": 5}}}}), "'ca'"),
        (json!({"settings": {"domain": {}}}), "settings"),
        (json!({"podLabels": {"app.kubernetes.io/name": "x"}}), "app.kubernetes.io/name"),
        (json!({"extraEnv": [{"name": "NODE_NAME", "value": "x"}]}), "extraEnv"),
        (json!({"updateStrategy": {"type": "Recreate"}}), "updateStrategy"),
        (json!({"nameOverride": "No"}), "nameOverride"),
        (json!({"pullSecrets": []}), "pullSecrets"),
        (json!({"monitoring": {"podMonitor": {"interval": "often"}}}), "interval"),
        (json!({"test": {"patience": 0}}), "patience"),
    ] {
        let refused = chart("kubeadm", &wrong).expect_err(&wrong.to_string());
        assert!(refused.contains("HelmValuesError") && refused.contains(key), "{wrong}: {refused}");
    }
}

#[test]
fn values_reach_what_they_are_for() {
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "iocast.io/lan", "operator": "Exists"}]},
    ]}}});
    let (taint, env) =
        (json!([{"key": "lan", "operator": "Exists"}]), json!({"name": "IOCAST_LOG", "value": "debug"}));
    let (secret, limits) = (json!([{"name": "registry"}]), json!({"limits": {"memory": "1Gi"}}));
    const SPEC: &str = "/spec/template/spec";
    for (values, pointer, expected) in [
        (json!({"imagePullSecrets": secret}), format!("{SPEC}/imagePullSecrets"), secret.clone()),
        (json!({"nodeSelector": {"a": "b"}}), format!("{SPEC}/nodeSelector/a"), json!("b")),
        (json!({"tolerations": taint}), format!("{SPEC}/tolerations"), taint.clone()),
        (json!({"tolerations": []}), format!("{SPEC}/tolerations"), Value::Null),
        (json!({"affinity": affinity}), format!("{SPEC}/affinity"), affinity.clone()),
        (json!({"priorityClassName": "high"}), format!("{SPEC}/priorityClassName"), json!("high")),
        (json!({"priorityClassName": ""}), format!("{SPEC}/priorityClassName"), Value::Null),
        (
            json!({"updateStrategy": {"type": "OnDelete"}}),
            "/spec/updateStrategy".into(),
            json!({"type": "OnDelete"}),
        ),
        (
            json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1}}}),
            "/spec/updateStrategy/rollingUpdate/maxUnavailable".into(),
            json!(1),
        ),
        (json!({"podAnnotations": {"a": "b"}}), "/spec/template/metadata/annotations/a".into(), json!("b")),
        (json!({"podLabels": {"a": "1"}}), "/spec/template/metadata/labels/a".into(), json!("1")),
        (json!({"commonLabels": {"a": "b"}}), "/spec/template/metadata/labels/a".into(), json!("b")),
        (json!({"extraEnv": [env]}), format!("{SPEC}/containers/0/env/1"), env.clone()),
        (json!({"resources": limits}), format!("{SPEC}/containers/0/resources/limits/memory"), json!("1Gi")),
    ] {
        let objects = chart("kubeadm", &values).unwrap();
        fits(&objects, &values.to_string());
        let found = find(&objects, "DaemonSet").pointer(&pointer).cloned().unwrap_or_default();
        assert_eq!(found, expected, "{values}");
    }
}

#[test]
fn everything_has_the_common_labels_and_the_selector_only_what_lasts() {
    let values = joined(all_on(), json!({"commonLabels": {"team": "controls"}}));
    let objects = release("kubeadm", &values).unwrap();
    for object in &objects {
        let labels = &object["metadata"]["labels"];
        let common = ["instance", "version", "managed-by"].map(|key| format!("app.kubernetes.io/{key}"));
        let found = common.iter().map(|key| labels[key].as_str().unwrap());
        assert!(found.eq(["iocast", VERSION, "Helm"]), "{object}");
        assert_eq!(
            (&labels["helm.sh/chart"], &labels["team"]),
            (&json!(format!("iocast-{VERSION}")), &json!("controls"))
        );
    }
    let set = find(&chart("kubeadm", &values).unwrap(), "DaemonSet").clone();
    assert_eq!(set["spec"]["selector"], json!({"matchLabels": {"app.kubernetes.io/name": "iocast"}}));
}

/// But for the policy, of which a cluster has one.
#[test]
fn another_name_is_that_of_everything() {
    let objects = release(
        "kubeadm",
        &joined(all_on(), json!({"nameOverride": "second", "policy": {"enabled": false}})),
    )
    .unwrap();
    fits(&objects, "another name");
    for name in names(&objects) {
        assert!(name.split_once(' ').unwrap().1.starts_with("second"), "{name}");
    }
    let spec = &find(&objects, "DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(spec["serviceAccountName"], "second");
    assert!(
        list(&spec["volumes"]).contains(&json!({"name": "config", "configMap": {"name": "second-config"}}))
    );
    assert!(strings(&spec["containers"][0]["args"]).contains(&"--page-peers=second-page"));
    let selected = json!({"app.kubernetes.io/name": "second"});
    for (kind, pointer) in [
        ("DaemonSet", "/spec/selector/matchLabels"),
        ("PodMonitor", "/spec/selector/matchLabels"),
        ("Service", "/spec/selector"),
    ] {
        assert_eq!(find(&objects, kind).pointer(pointer), Some(&selected), "{kind}");
    }
}

#[test]
fn the_version_is_the_same_everywhere() {
    for (file, before, times) in [
        ("Cargo.toml", "\nversion = \"", 1),
        ("CHANGELOG.md", "\n## [", 1),
        ("manifests/Containerfile", "iocast-node:", 1),
        ("manifests/helm/iocast/Chart.yaml", "\nversion: ", 1),
        ("manifests/helm/iocast/Chart.yaml", "\nappVersion: ", 1),
        ("manifests/base/daemonset.yaml", "iocast-node:", 1),
        ("manifests/survey/daemonset.yaml", "iocast-node:", 1),
        ("docs/admin.md", "iocast-node:", 2),
        ("docs/migrate.md", "iocast-node:", 1),
    ] {
        let content = text(file);
        let ends = |rest: &&str| rest.starts_with(VERSION) && !rest[VERSION.len()..].starts_with(['.', '-']);
        let right = content.split(before).skip(1).filter(ends).count();
        assert_eq!(right, times, "{file}: {VERSION} after `{before}`: run `release/version.sh {VERSION}`");
    }
    let images =
        ["grep", "-hoE", r"iocast-node:[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?", "--", ":!CHANGELOG.md"];
    let found = lab::program("git", &images).unwrap().current_dir(root()).output().unwrap().stdout;
    let found: BTreeSet<_> = std::str::from_utf8(&found).unwrap().lines().collect();
    assert_eq!(found, BTreeSet::from([&*format!("iocast-node:{VERSION}")]), "all images that the tree names");
}

#[test]
fn helm_finds_nothing_to_mend() {
    for values in [json!({}), all_on(), json!({"domains": {"bl07": {"uplink": "eth0"}}})] {
        let found = python(&["lint", CHART], &values.to_string()).unwrap();
        assert_eq!(found, json!([]), "{values}");
    }
}

#[test]
fn the_notes_say_the_next_commands() {
    let notes = |values: Value| {
        let values = joined(json!({"domains": {"bl07": {"uplink": "eth0"}}}), values).to_string();
        python(&["notes", CHART], &values).unwrap().as_str().unwrap().to_owned()
    };
    let commands = |notes: &str| {
        notes.lines().filter_map(|line| Some(line.strip_prefix("  ")?.to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(
        commands(&notes(json!({"nameOverride": "lan"}))),
        [
            "kubectl -n iocast rollout status daemonset/lan",
            "kubectl -n iocast exec daemonset/lan -- /iocast-node doctor",
            "helm -n iocast test iocast",
            "kubectl iocast -n iocast -l app.kubernetes.io/name=lan doctor",
        ]
    );
    assert_eq!(commands(&notes(json!({})))[3], "kubectl iocast -n iocast doctor");
    assert_eq!(commands(&notes(json!({"uninstall": true}))).len(), 2);
}

#[test]
fn what_helm_test_makes_joins_the_first_domain_and_is_restricted() {
    let hooks = |values: Value| {
        let all = release("kubeadm", &values).unwrap();
        fits(&all, "helm test");
        let is_hook = |object: &Value| object["metadata"]["annotations"]["helm.sh/hook"] == "test";
        all.into_iter().filter(is_hook).collect::<Vec<_>>()
    };
    for (values, domain) in [
        (json!({}), "bl07"),
        (
            json!({"config": "[domain.\"work.shop\"]\nuplink = \"eth0\"\n[domain.a]\nuplink = \"eth1\""}),
            "work.shop",
        ),
        (json!({"domains": {"b": {"uplink": "eth0"}, "a": {"uplink": "eth1"}}}), "a"),
        (json!({"test": {"domain": "other"}}), "other"),
    ] {
        let made = hooks(values);
        let (client, ioc) = (find(&made, "Pod"), &find(&made, "Deployment")["spec"]["template"]);
        for member in [client, ioc] {
            assert_eq!(member["metadata"]["annotations"]["iocast.io/domain"], domain);
            assert_eq!(restricted(&member["spec"]), [""; 0]);
        }
        let weight = |kind: &str| find(&made, kind)["metadata"]["annotations"]["helm.sh/hook-weight"].clone();
        assert_eq!([weight("ConfigMap"), weight("Deployment"), weight("Pod")], ["-2", "-1", "0"]);
        let served = find(&made, "ConfigMap")["data"]["test.db"].as_str().unwrap();
        assert!(served.contains(&format!("\"{}\"", strings(&client["spec"]["containers"][0]["command"])[3])));
    }
    let made = hooks(json!({"test": {"pv": "BL07:NAME"}}));
    assert_eq!(made.len(), 1);
    assert_eq!(strings(&made[0]["spec"]["containers"][0]["command"]), ["caget", "-w", "240", "BL07:NAME"]);
}

/// A key of the values, the comment above it, and its default.
struct Explained {
    path: Vec<String>,
    comment: String,
}

/// The keys that have a comment, in their order.
fn explained(values: &str) -> Vec<Explained> {
    let (mut found, mut path, mut comment) = (vec![], Vec::<String>::new(), vec![]);
    for line in values.lines() {
        let trimmed = line.trim_start();
        let depth = (line.len() - trimmed.len()) / 2;
        if let Some(text) = trimmed.strip_prefix("# ") {
            comment.push(text);
        } else if let Some((key, _)) = trimmed.split_once(':').filter(|_| !comment.is_empty()) {
            path.truncate(depth);
            path.push(key.into());
            found.push(Explained { path: path.clone(), comment: std::mem::take(&mut comment).join(" ") });
        }
    }
    found
}

#[test]
fn the_charts_page_lists_every_value() {
    let source = text(&format!("{CHART}/values.yaml"));
    let defaults = python(&["yaml"], &source).unwrap()[0].clone();
    let keys = explained(&source);
    let mut rows = String::from("| value | default | |\n|---|---|---|\n");
    for Explained { path, comment } in &keys {
        let is_section =
            keys.iter().any(|other| other.path.len() > path.len() && other.path.starts_with(path));
        let default = path.iter().fold(&defaults, |value, key| &value[key]);
        let default = if is_section { String::new() } else { format!("`{default}`") };
        rows += &format!("| `{}` | {default} | {comment} |\n", path.join("."));
    }
    let listed: BTreeSet<_> = keys.iter().map(|key| key.path.join(".")).collect();
    let missing: Vec<_> =
        leaves(&schema()).into_iter().filter(|key| key != "global" && !listed.contains(key)).collect();
    assert_eq!(missing, [""; 0], "values without a comment in values.yaml");
    let page = include_str!("chart.md").replace("VALUES\n", &rows);
    let path = root().join(CHART).join("README.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert_eq!(
        page,
        fs::read_to_string(&path).unwrap_or_default(),
        "UPDATE_GOLDEN=1 writes {} anew",
        path.display()
    );
}

/// The values that the schema knows, as far as it names keys; what `domains`, `settings` and a strategy have is said elsewhere.
fn leaves(schema: &Value) -> Vec<String> {
    let properties = schema["properties"].as_object().unwrap();
    let below = |(key, schema): (&String, &Value)| {
        let open = ["settings", "updateStrategy"].contains(&key.as_str()) || schema["properties"].is_null();
        let inner = if open { vec![] } else { leaves(schema) };
        if inner.is_empty() {
            vec![key.clone()]
        } else {
            inner.iter().map(|leaf| format!("{key}.{leaf}")).collect()
        }
    };
    properties.iter().flat_map(below).collect()
}

#[test]
fn helm_renders_a_chart_that_it_has_packed() {
    let directory = tempfile::tempdir().unwrap();
    let packed = python(&["package", CHART, directory.path().to_str().unwrap()], "").unwrap();
    let values = joined(all_on(), json!({"domains": {"bl07": {"uplink": "eth0"}}}));
    let objects = |chart: &str| {
        normalized(serde_json::from_value(python(&["chart", chart], &values.to_string()).unwrap()).unwrap())
    };
    assert_eq!(
        objects(packed.as_str().unwrap()),
        objects(CHART),
        "links to other manifests are packed as files"
    );
}

#[test]
fn every_distributions_values_work_with_everything_on() {
    for overlay in OVERLAYS {
        fits(&release(overlay, &all_on()).unwrap(), overlay);
        let spec = pod(&chart(overlay, &all_on()).unwrap()).clone();
        let volumes: BTreeMap<_, _> =
            list(&spec["volumes"]).iter().map(|volume| (volume["name"].as_str(), volume)).collect();
        assert!(volumes.contains_key(&Some("page")), "{overlay}");
    }
}
