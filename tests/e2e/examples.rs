//! What users apply as it is, tried over CRI on a node with containerd: the pods of `helm test`, and the example.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{fs, process::Command};

use lab::{Result, WORKSTATION, cluster::Cluster};
use serde_json::{Value, json};

use super::manifests::{KUBERNETES, faults, find, kustomize, list, release, restricted, root, text};

const VARIANTS: [&str; 5] =
    ["example", "example/deployment", "example/address", "example/camera", "example/gateway"];

/// What IOCs print when they serve.
const SERVING: &str = "iocRun: All initialization complete";

/// A node with an agent that has this configuration.
fn node(config: &str) -> Result<Cluster> {
    let cluster = Cluster::up(1)?;
    cluster.write(0, "/etc/iocast/config.toml", config)?;
    cluster.start_agent(0)?;
    Ok(cluster)
}

/// The objects that run pods, by name.
fn workloads(objects: &[Value]) -> Vec<&Value> {
    objects.iter().filter(|object| !object["spec"]["template"].is_null()).collect()
}

fn template<'a>(objects: &'a [Value], name: &str) -> &'a Value {
    let found = workloads(objects).into_iter().find(|object| object["metadata"]["name"] == name);
    &found.unwrap_or_else(|| panic!("no {name}"))["spec"]["template"]
}

#[test]
fn helm_test_reads_a_pv_from_its_ioc_by_the_domain_of_the_values() -> Result<()> {
    let values = json!({"domains": {"bl07": {"uplink": "eth0", "namespaces": ["beamline"]}}, "test": {"patience": 20}});
    let objects = release("kubeadm", &values).unwrap();
    let is_hook = |object: &&Value| !object["metadata"]["annotations"]["helm.sh/hook"].is_null();
    let (made, stays): (Vec<_>, Vec<_>) = objects.iter().partition(is_hook);
    let made: Vec<_> = made.into_iter().cloned().collect();
    let config = stays.into_iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    let cluster = node(config["data"]["config.toml"].as_str().unwrap())?;
    let ioc = &find(&made, "Deployment")["spec"]["template"];
    let (ioc, _) = cluster.workload(0, "ioc", ioc, &made)?;
    let (client, id) = cluster.workload(0, "client", find(&made, "Pod"), &made)?;
    let code = cluster.exit_code(0, &id)?;
    let log = cluster.log(&client, "client");
    assert!(code == 0 && log.contains("iocast-test:COUNT"), "{code}: {log}");
    assert_eq!(cluster.lab.epics_output(WORKSTATION, "caget -t -w 20 iocast-test:COUNT", &[])?, "1\n");
    cluster.delete(&client)?;
    cluster.delete(&ioc)
}

#[test]
fn every_variant_of_the_example_is_restricted_fits_the_schemas_and_is_never_there_twice() {
    for variant in VARIANTS {
        let objects = kustomize(variant);
        for version in KUBERNETES {
            assert_eq!(faults(&objects, version), [""; 0], "{variant}, Kubernetes {version}");
        }
        let found = workloads(&objects);
        assert!(!found.is_empty(), "{variant}");
        for workload in found {
            let (name, spec) = (&workload["metadata"]["name"], &workload["spec"]["template"]["spec"]);
            assert_eq!(restricted(spec), [""; 0], "{variant}: {name}");
            assert_eq!(spec["shareProcessNamespace"], true, "{variant}: {name} does not end by SIGTERM");
            let image = spec["containers"][0]["image"].as_str().unwrap();
            assert!(image.starts_with("ghcr.io/epics-containers/"), "{variant}: {image} is not public");
            let alone =
                workload["kind"] == "StatefulSet" || workload["spec"]["strategy"]["type"] == "Recreate";
            assert!(alone, "{variant}: {name}");
        }
    }
}

#[test]
fn the_examples_are_all_listed_where_they_are_described() {
    let directory = root().join("manifests/example");
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    found.sort();
    let known: Vec<_> = VARIANTS.iter().filter_map(|variant| variant.strip_prefix("example/")).collect();
    let mut expected = [&known[..], &["ioc"]].concat(); // what all of them have
    expected.sort_unstable();
    assert_eq!(found, expected);
    let document = text("docs/controls.md");
    for name in known {
        assert!(
            document.contains(&format!("`manifests/example/{name}`")),
            "docs/controls.md says nothing of {name}"
        );
    }
}

#[test]
fn the_gateway_takes_the_examples_configuration() {
    let objects = kustomize("example/gateway");
    let map = objects.iter().find(|object| !object["data"]["gateway.json"].is_null()).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), map["data"]["gateway.json"].as_str().unwrap()).unwrap();
    let mut gateway = Command::new("/usr/bin/python3");
    gateway.args(["-m", "p4p.gw", "--test-config"]).arg(file.path());
    let output = lab::output_of(gateway.env("PYTHONPATH", root().join("target/lab/pvxs"))).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let service = objects.iter().find(|object| object["spec"]["type"] == "NodePort").unwrap();
    let port = &list(&service["spec"]["ports"])[0];
    let config: Value = serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap();
    let served = &config["servers"][0]["serverport"];
    assert!(["port", "targetPort", "nodePort"].iter().all(|key| port[*key] == *served), "{port}");
}

#[test]
fn each_ioc_of_the_example_is_read_from_the_lan_in_the_way_it_is_for() -> Result<()> {
    let cluster = node("[domain.bl07]\nuplink = \"eth0\"\naddresses = [\"172.23.0.50\"]\n")?;
    for (variant, name, pv, variables) in [
        ("example", "example-ioc", "EXAMPLE:COUNT", vec![]),
        (
            "example/deployment",
            "deployed-ioc",
            "DEPLOYED:COUNT",
            vec![("EPICS_CA_NAME_SERVERS", "172.23.0.10:65064"), ("EPICS_CA_AUTO_ADDR_LIST", "NO")],
        ),
        (
            "example/address",
            "example-ioc",
            "EXAMPLE:COUNT",
            vec![("EPICS_CA_ADDR_LIST", "172.23.0.50"), ("EPICS_CA_AUTO_ADDR_LIST", "NO")],
        ),
    ] {
        let objects = kustomize(variant);
        let (pod, _) = cluster.workload(0, &format!("{name}-0"), template(&objects, name), &objects)?;
        cluster.wait_for_log(&pod, "ioc", |log| log.contains(SERVING))?;
        let value = cluster.lab.epics_output(WORKSTATION, &format!("caget -t -w 20 {pv}"), &variables)?;
        assert!(value.trim().parse::<f64>().is_ok(), "{variant}: {value}");
        cluster.delete(&pod)?;
    }
    Ok(())
}

#[test]
fn an_ioc_of_the_example_ends_when_it_is_asked_to() -> Result<()> {
    let cluster = node("[domain.bl07]\nuplink = \"eth0\"\n")?;
    let objects = kustomize("example");
    for (shares, signal) in [(true, 15), (false, 9)] {
        let mut template = template(&objects, "example-ioc").clone();
        template["spec"]["shareProcessNamespace"] = shares.into();
        let (pod, id) = cluster.workload(0, "example-ioc-0", &template, &objects)?;
        cluster.wait_for_log(&pod, "ioc", |log| log.contains(SERVING))?;
        cluster.cri(0).stop_container(&id, if shares { 60 } else { 1 })?;
        assert_eq!(cluster.exit_code(0, &id)?, 128 + signal, "shareProcessNamespace: {shares}");
        cluster.delete(&pod)?;
    }
    Ok(())
}
