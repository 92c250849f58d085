//! Containers of a real podman, which no CNI plugin creates: members by an OCI hook.

use std::process::Command;

use lab::{
    Lab, NODE, NOTHING, Options, Pod, Process, Result, Topology, WORKSTATION, binary, cluster::wait_until,
    laptop::Laptop,
};

/// What a container asks for.
const MEMBER: &str = "--annotation iocast.io/domain=lab";

fn laptop() -> Result<Laptop> {
    let mut laptop = Laptop::up()?;
    laptop.start_agent()?;
    Ok(laptop)
}

fn caget(lab: &Lab, pv: &str) -> Result<String> {
    lab.epics_output(WORKSTATION, &format!("caget -t -w 20 {pv}"), &[])
}

/// The members, as `namespace/name`.
fn members(lab: &Lab) -> Result<Vec<String>> {
    let status = lab.status()?;
    let members = status["members"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(members.iter().map(|member| text(&member["namespace"]) + "/" + &text(&member["pod"])).collect())
}

#[test]
fn a_container_is_a_member_from_its_start_to_its_end() -> Result<()> {
    let mut laptop = laptop()?;
    laptop.ioc("ioc-a", &format!("{MEMBER} --annotation iocast.io/ports=tcp/5064=65064"), "A")?;
    assert_eq!(caget(&laptop.lab, "A:NAME")?, "A\n");
    assert_eq!(members(&laptop.lab)?, ["podman/ioc-a"]);
    assert_eq!(laptop.lab.external_port("ioc-a", "tcp", 5064)?, Some(65064));
    laptop.podman("run --detach --name other lab.local/epics:1")?;
    assert_eq!(members(&laptop.lab)?, ["podman/ioc-a"], "who does not ask is none");
    let found = laptop.exec(&format!("{} doctor --no-cni", binary("iocast-node")?.display()))?;
    assert!(found.contains("1 of 1 are healthy") && !found.contains("plugin"), "{found}");

    laptop.kill_agent();
    laptop.podman("restart --time 0 ioc-a")?;
    laptop.start_agent()?;
    assert_eq!(caget(&laptop.lab, "A:NAME")?, "A\n");
    assert_eq!(laptop.lab.external_port("ioc-a", "tcp", 5064)?, Some(65064));

    laptop.kill_agent(); // which would collect what the hook leaves
    laptop.podman("stop --time 0 ioc-a")?;
    assert_eq!(members(&laptop.lab)?, [""; 0]);
    assert_eq!(laptop.lab.leftovers()?, NOTHING);
    Ok(())
}

#[test]
fn who_may_not_join_does_not_start_and_is_told_why() -> Result<()> {
    let laptop = laptop()?;
    let other = "macvlan";
    laptop.podman(&format!(
        "network create --driver macvlan --subnet 192.168.7.0/24 --opt parent=eth0 {other}"
    ))?;
    for (options, expected) in [
        (
            "--annotation iocast.io/domain=nowhere",
            "annotation iocast.io/domain: the domain `nowhere` is not configured",
        ),
        ("--annotation iocast.io/address=172.23.0.50", "without iocast.io/domain"),
        (&format!("{MEMBER} --annotation iocast.io/ports=tcp/1=2"), "pods may pin 65000-65535"),
        (&format!("{MEMBER} --annotation iocast.io/address=172.23.0.200"), "the domain gives 172.23.0.32"),
        (&format!("{MEMBER} --network host"), "needs no iocast"),
        (&format!("{MEMBER} --network none"), "needs a bridge network of podman's"),
        (&format!("{MEMBER} --network {other}"), "a device of type macvlan"),
    ] {
        let said = refused(&laptop, options)?;
        assert!(said.contains("iocast: ") && said.contains(expected), "{options}: {said}");
        assert_eq!(laptop.lab.leftovers()?, NOTHING, "{options}");
    }
    Ok(())
}

/// What the hook prints for a container that does not start. crun shows it to nobody, but writes it where it is told.
fn refused(laptop: &Laptop, options: &str) -> Result<String> {
    const SAID: &str = "/run/hook.txt";
    let options = format!("--rm --annotation run.oci.hooks.stderr={SAID} {options}");
    laptop.write(SAID, "")?;
    let failed = laptop.run(&options, "true", "").err().map(|error| error.to_string()).unwrap_or_default();
    assert!(failed.contains("error executing hook `") && failed.contains("/iocast`"), "{options}: {failed}");
    laptop.exec(&format!("cat {SAID}"))
}

#[test]
fn what_is_killed_leaves_nothing() -> Result<()> {
    let laptop = laptop()?;
    laptop.ioc("ioc-a", MEMBER, "A")?;
    let state = laptop.inspect("ioc-a")?["State"].clone();
    for process in ["ConmonPid", "Pid"] {
        laptop.exec(&format!("kill -9 {}", state[process]))?;
    }
    wait_until("a container that is removed", || Ok(laptop.podman("rm --force --time 0 ioc-a").is_ok()))?;
    wait_until("a node without members", || Ok(laptop.lab.leftovers()? == NOTHING))?;
    laptop.ioc("ioc-a", &format!("{MEMBER} --annotation iocast.io/address=172.23.0.50"), "A")?;
    assert_eq!(caget(&laptop.lab, "A:NAME")?, "A\n");
    assert_eq!(laptop.lab.status()?["members"][0]["lan_address"]["standing"], "held");
    Ok(())
}

#[test]
fn a_container_that_runs_already_is_adopted() -> Result<()> {
    let mut laptop = Laptop::up()?;
    laptop.exec("mkdir /run/no-hooks")?;
    let program = "--entrypoint softIoc lab.local/epics:1 -S -m P=A -d /ioc/demo.db";
    laptop.podman(&format!("--hooks-dir /run/no-hooks run --detach --name ioc-a {MEMBER} {program}"))?;
    laptop.start_agent()?;
    wait_until("adoption", || Ok(laptop.agent_output().contains("adopted podman/ioc-a into domain `lab`")))?;
    assert_eq!(caget(&laptop.lab, "A:NAME")?, "A\n");
    laptop.podman("rm --force --time 0 ioc-a")?;
    wait_until("a node without members", || Ok(laptop.lab.leftovers()? == NOTHING))
}

#[test]
fn one_container_of_a_pod_makes_the_pod_a_member() -> Result<()> {
    let laptop = laptop()?;
    laptop.podman("pod create --name pod --infra-image lab.local/epics:1")?;
    laptop.ioc("ioc-a", &format!("--pod pod {MEMBER}"), "A")?;
    laptop.ioc("ioc-b", &format!("--pod pod {MEMBER}"), "B")?;
    assert_eq!(caget(&laptop.lab, "A:NAME")?, "A\n");
    assert_eq!(members(&laptop.lab)?, ["podman/ioc-a"]);
    laptop.podman("rm --force --time 0 ioc-b")?;
    assert_eq!(members(&laptop.lab)?, ["podman/ioc-a"]);
    laptop.podman("pod rm --force --time 0 pod")?;
    wait_until("a node without members", || Ok(laptop.lab.leftovers()? == NOTHING))
}

#[test]
fn rootless_podman_is_refused() -> Result<()> {
    let lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    lab.sandbox
        .write("/run/state", r#"{"id":"a","status":"created","annotations":{"iocast.io/domain":"lab"}}"#)?;
    // Nobody may make a user namespace below another root than that of his mounts: there first, and back.
    let hook = format!(
        "exec nsenter --mount=/proc/self/ns/mnt unshare --user --map-root-user chroot /proc/self/fd/9 {} hook 9</ </run/state",
        binary("iocast")?.display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &hook]);
    let ended = lab.sandbox.spawn(NODE, command)?.finish()?;
    assert!(
        !ended.status.success() && ended.output.contains("start the container as root"),
        "{}",
        ended.output
    );
    Ok(())
}

#[test]
fn a_service_of_compose_is_a_member() -> Result<()> {
    const COMPOSE: &str = r#"
services:
  ioc:
    image: lab.local/epics:1
    entrypoint: softIoc
    command: -S -m P=A -d /ioc/demo.db
    annotations:
      iocast.io/domain: lab
"#;
    let laptop = laptop()?;
    laptop.write("/run/shop/compose.yaml", COMPOSE)?;
    let compose = "/usr/bin/python3 -B /usr/bin/podman-compose --file /run/shop/compose.yaml";
    laptop.exec(&format!("{compose} up --detach"))?;
    assert_eq!(caget(&laptop.lab, "A:NAME")?, "A\n");
    assert_eq!(members(&laptop.lab)?, ["podman/shop_ioc_1"]);
    laptop.exec(&format!("{compose} down --timeout 0"))?;
    assert_eq!(members(&laptop.lab)?, [""; 0]);
    Ok(())
}

/// Two laptops on one LAN, each with a domain of this configuration and an IOC in a pod: `A` on the first, `B` on the second.
fn workshop(domains: [&str; 2]) -> Result<(Lab, [Pod; 2], [Process; 2])> {
    let mut lab = Lab::without_agent(Options { nodes: 2, ..Options::new(Topology::Bridge) })?;
    lab.start_agents_with(&domains.map(|domain| format!("[domain.{domain}")))?;
    let pod = |node, name, domain: &str| {
        let domain = domain.split(']').next().unwrap_or_default();
        lab.create_pod(node, name, &[("iocast.io/domain", domain)])
    };
    let pods = [pod(0, "ioc-a", domains[0])?, pod(1, "ioc-b", domains[1])?];
    let iocs = [lab.ioc(&pods[0].netns, "A")?, lab.ioc(&pods[1].netns, "B")?];
    Ok((lab, pods, iocs))
}

/// Whether somebody finds a PV, which takes as long as it may if he is to, and not long if he is not.
fn finds(lab: &Lab, netns: &str, pv: &str, variables: &[(&str, &str)], expected: bool) -> Result<bool> {
    let wait = if expected { 20 } else { 2 };
    let ended = lab.epics(netns, &format!("caget -t -w {wait} {pv}"), variables)?.finish()?;
    Ok(ended.status.success())
}

#[test]
fn names_of_domains_keep_nobody_apart_on_one_lan() -> Result<()> {
    let (lab, pods, _iocs) = workshop(["one]\nuplink = \"eth0\"", "two]\nuplink = \"eth0\""])?;
    assert!(
        finds(&lab, &pods[0].netns, "B:NAME", &[], true)? && finds(&lab, WORKSTATION, "B:NAME", &[], true)?
    );
    Ok(())
}

#[test]
fn laptops_with_lan_ports_of_their_own_see_only_their_own() -> Result<()> {
    let (lab, pods, _iocs) = workshop([
        "shop]\nuplink = \"eth0\"\nlan_ports = { 5064 = 8101, 5065 = 8201, 5076 = 8301 }",
        "shop]\nuplink = \"eth0\"\nlan_ports = { 5064 = 8102, 5065 = 8202, 5076 = 8302 }",
    ])?;
    const OF_FIRST: &[(&str, &str)] = &[("EPICS_CA_SERVER_PORT", "8101"), ("EPICS_CA_REPEATER_PORT", "8201")];
    const OF_SECOND: &[(&str, &str)] =
        &[("EPICS_CA_SERVER_PORT", "8102"), ("EPICS_CA_REPEATER_PORT", "8202")];
    for (netns, pv, variables, found) in [
        (pods[0].netns.as_str(), "A:NAME", &[][..], true),
        (&pods[0].netns, "B:NAME", &[], false),
        (&pods[1].netns, "B:NAME", &[], true),
        (&pods[1].netns, "A:NAME", &[], false),
        (WORKSTATION, "A:NAME", &[], false),
        (WORKSTATION, "A:NAME", OF_FIRST, true),
        (WORKSTATION, "B:NAME", OF_FIRST, false),
        (WORKSTATION, "B:NAME", OF_SECOND, true),
        (NODE, "A:NAME", OF_FIRST, true),
        (NODE, "B:NAME", OF_FIRST, false),
    ] {
        assert_eq!(finds(&lab, netns, pv, variables, found)?, found, "{pv} from {netns} with {variables:?}");
    }
    Ok(())
}
