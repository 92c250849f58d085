//! The plugin's place in the chain: kept against a primary plugin's installer that writes its file anew, and given back
//! without a pod that cannot be created or deleted.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use lab::{Conflist, Lab, NODE, Options, Process, Result, Topology, WORKSTATION};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const CONFLIST: &str = "/run/net.d/10-lab.conflist";
const RUN: &str = "run --config /run/iocast/config.toml --cni-conf-dir /run/net.d --cni-bin-dir /run/bin";
const UNINSTALL: &str = "uninstall --cni-conf-dir /run/net.d --cni-bin-dir /run/bin";

/// A lab whose node has the runtime's directories, and the primary plugin's configuration in one of them.
struct Node {
    lab: Lab,
    primary: String,
}

impl Node {
    fn new() -> Result<Self> {
        let lab = Lab::without_agent(Options::new(Topology::Bridge))?;
        let mut conflist = lab.execute(|executor| executor.conflist().0.clone());
        if let Some(plugins) = conflist["plugins"].as_array_mut() {
            plugins.retain(|plugin| plugin["type"] != "iocast");
        }
        let node = Self { lab, primary: conflist.to_string() };
        node.lab.configure("[domain.lab]\nuplink = \"eth0\"\n")?;
        node.lab.sandbox.write("/run/bin/.keep", "")?;
        node.lab.sandbox.write(CONFLIST, node.primary.as_str())?;
        Ok(node)
    }

    fn run(&self) -> Result<Process> {
        let mut agent = self.lab.agent_command(RUN)?;
        agent.wait_for("ready agent", PATIENCE, |output| output.contains("ready"))?;
        Ok(agent)
    }

    fn read(&self, path: &'static str) -> String {
        self.lab.sandbox.run(move || fs::read_to_string(path).unwrap_or_default())
    }

    /// What of the chain in use is ours.
    fn entries(&self) -> usize {
        self.read(CONFLIST).matches("\"iocast\"").count()
    }

    fn exists(&self, path: &'static str) -> bool {
        self.lab.sandbox.run(move || Path::new(path).exists())
    }

    /// Makes the runtime read its configuration.
    fn reload(&self) -> Result<()> {
        let read: Value = serde_json::from_str(&self.read(CONFLIST))
            .map_err(std::io::Error::from)
            .map_err(|source| lab::Error::System { what: format!("parse {CONFLIST}"), source })?;
        self.lab.execute(move |executor| executor.set_conflist(Conflist(read)));
        Ok(())
    }

    /// Writes the primary plugin's configuration anew, in one step, and waits until we are in it again. Returns how long that
    /// took, and all that a runtime could have read meanwhile.
    fn rewrite(&self) -> (Duration, Vec<String>) {
        let primary = self.primary.clone();
        self.lab.sandbox.run(move || {
            let temporary = "/run/net.d/.primary.tmp";
            let _ = fs::write(temporary, &primary);
            let _ = fs::rename(temporary, CONFLIST);
            let (start, mut seen) = (Instant::now(), vec![]);
            while start.elapsed() < PATIENCE {
                let text = fs::read_to_string(CONFLIST).unwrap_or_default();
                let is_in = text.contains("\"iocast\"");
                seen.push(text);
                if is_in {
                    break;
                }
            }
            (start.elapsed(), seen)
        })
    }
}

#[test]
fn a_file_that_is_written_anew_is_chained_again_at_once_and_never_half() -> Result<()> {
    let node = Node::new()?;
    let _agent = node.run()?;
    assert_eq!(node.entries(), 1);
    let mut windows = vec![];
    for _ in 0..4 {
        sleep(Duration::from_millis(300));
        let (window, seen) = node.rewrite();
        assert!(seen.iter().all(|text| serde_json::from_str::<Value>(text).is_ok()), "{seen:?}");
        windows.push(window);
    }
    windows.sort();
    let longest = windows[windows.len() - 1];
    assert!(longest < Duration::from_millis(500), "{windows:?}");
    lab::report("chain-window", &format!("a primary CNI's rewrite is chained again within {longest:.1?}"));
    Ok(())
}

#[test]
fn a_fight_over_the_file_is_damped_and_named() -> Result<()> {
    let node = Node::new()?;
    let mut agent = node.run()?;
    let (mut rewrites, start) = (0, Instant::now());
    while !agent.output().contains("keeps rewriting /run/net.d/10-lab.conflist") && start.elapsed() < PATIENCE
    {
        node.lab.sandbox.write("/run/net.d/.primary.tmp", node.primary.as_str())?;
        node.lab.sandbox.sh(NODE, &format!("mv /run/net.d/.primary.tmp {CONFLIST}"))?;
        rewrites += 1;
        sleep(Duration::from_millis(50));
    }
    let said = agent.output();
    assert!(said.contains("keeps rewriting /run/net.d/10-lab.conflist without iocast"), "{said}");
    assert!((5..20).contains(&rewrites), "{rewrites}");
    node.lab.sandbox.write(CONFLIST, node.primary.as_str())?;
    sleep(Duration::from_secs(3));
    assert_eq!(node.entries(), 0, "left alone for now");
    assert!(agent.is_running());
    Ok(())
}

#[test]
fn a_configuration_that_comes_later_and_from_elsewhere_is_chained() -> Result<()> {
    let node = Node::new()?;
    node.lab.sandbox.sh(NODE, "mv /run/net.d /run/later")?;
    let mut agent = node.run()?;
    agent.wait_for("reason", PATIENCE, |said| {
        said.contains("waiting for the primary CNI: /run/net.d does not exist")
    })?;
    node.lab.sandbox.sh(NODE, "mkdir /run/net.d")?;
    agent.wait_for("reason", PATIENCE, |said| said.contains("/run/net.d has no network configuration"))?;
    node.lab.sandbox.sh(NODE, &format!("mv /run/later/10-lab.conflist {CONFLIST}"))?;
    agent.wait_for("solution", PATIENCE, |said| {
        said.contains("resolved: waiting for the primary CNI: /run/net.d has")
    })?;
    assert_eq!(node.entries(), 1);
    assert_eq!(agent.output().matches("does not exist").count(), 2, "said once, and that it is resolved");
    Ok(())
}

#[test]
fn two_installs_make_one_entry_and_the_end_of_the_agent_none_less() -> Result<()> {
    let node = Node::new()?;
    let install = UNINSTALL.replace("uninstall", "install");
    for _ in 0..2 {
        node.lab.agent_command(&install)?.finish()?.success()?;
        assert_eq!(node.entries(), 1);
    }
    let agent = node.run()?;
    agent.terminate();
    agent.finish()?.success()?;
    assert_eq!(node.entries(), 1);
    assert!(node.exists("/run/bin/iocast"));
    Ok(())
}

#[test]
fn an_install_that_a_malformed_file_makes_useless_fails_and_names_it() -> Result<()> {
    let node = Node::new()?;
    node.lab.sandbox.write("/run/net.d/05-bad.conflist", "{")?;
    let finished = node.lab.agent_command(&UNINSTALL.replace("uninstall", "install"))?.finish()?;
    assert!(!finished.status.success());
    assert!(finished.output.contains("/run/net.d/05-bad.conflist is not a valid"), "{}", finished.output);
    Ok(())
}

#[test]
fn pods_live_through_an_install_and_an_uninstall() -> Result<()> {
    let node = Node::new()?;
    let lab = &node.lab;
    node.reload()?;
    let early = lab.pod("early")?;
    let agent = node.run()?;
    node.reload()?;
    let (member, cached) = (lab.pod("member")?, lab.pod("cached")?);
    let ioc = lab.ioc(&member.netns, "A")?;
    assert_eq!(lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &[])?, "A\n");
    lab.delete_pod(&early)?; // was created before we were there
    agent.kill();
    lab.sandbox.sh(NODE, "rm -r /run/iocast")?;
    let mut uninstall = lab.agent_command(UNINSTALL)?;
    uninstall
        .wait_for("change", PATIENCE, |said| said.contains("removed the plugin from 10-lab.conflist"))?;
    assert_eq!(node.entries(), 0);
    let between = lab.pod("between")?; // by a runtime that has not read it yet
    uninstall.finish()?.success()?;
    lab.delete_pod(&cached)?; // by the chain it was created with, as CRI-O does
    node.reload()?;
    let late = lab.pod("late")?;
    let read = lab.epics_output(WORKSTATION, "caget -t -w 1 A:NAME", &[]);
    assert!(read.is_err(), "no program is on the way any more: {read:?}");
    let filters = lab.sandbox.sh(NODE, &format!("tc filter show dev {} ingress", lab.host_veth(&member)))?;
    assert_eq!(filters, "");
    ioc.kill();
    for pod in [&between, &member, &late] {
        lab.delete_pod(pod)?;
    }
    assert!(node.exists("/run/bin/iocast") && !node.exists("/sys/fs/bpf/iocast"));
    let devices = lab.sandbox.sh(NODE, "ip -o link")?;
    assert!(!devices.contains("iocast"), "{devices}");
    lab.agent_command(&format!("{UNINSTALL} --remove-plugin"))?.finish()?.success()?;
    assert!(!node.exists("/run/bin/iocast"));
    Ok(())
}
