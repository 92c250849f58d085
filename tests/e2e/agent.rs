//! The node agent: what it says when something is wrong, and that it leaves the datapath alone when it ends.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use datapath::{Hook, link};
use serde_json::Value;

use lab::{
    Lab, NODE, NOTHING, Options, Result, Topology, WORKSTATION,
    epics::Server,
    monitors::{assert_unbroken, wait_for_values},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn lab() -> Result<Lab> {
    Lab::without_agent(Options::new(Topology::Bridge))
}

/// What the agent says before it gives up.
fn failure(lab: &Lab, line: &str) -> Result<String> {
    let finished = lab.agent_command(line)?.finish()?;
    assert!(!finished.status.success(), "{}", finished.output);
    Ok(finished.output)
}

const RUN: &str = "run --no-cni --config /run/iocast/config.toml";

#[test]
fn an_uplink_is_found_by_a_network_and_by_the_default_route() -> Result<()> {
    let lab = lab()?;
    lab.sandbox.sh(NODE, "ip route add default via 172.23.0.2 dev eth0")?;
    for uplink in ["172.23.0.0/24", "auto"] {
        lab.configure(&format!("[domain.{}]\nuplink = \"{uplink}\"\n", lab::DOMAIN))?;
        lab.agent_command(&format!("{RUN} --once"))?.finish()?.success()?;
        let status = lab.status()?;
        assert_eq!(
            (&status["uplink"], &status["address"]),
            (&"eth0".into(), &"172.23.0.10".into()),
            "{uplink}"
        );
    }
    lab.configure("[domain.bl07]\nuplink = \"10.9.0.0/16\"\n")?;
    let said = lab.agent_command(&format!("{RUN} --once"))?.finish()?.output;
    assert!(said.contains("domain `bl07`: no interface has an address in 10.9.0.0/16"), "{said}");
    Ok(())
}

#[test]
fn two_domains_whose_uplinks_turn_out_to_be_the_same_are_reported() -> Result<()> {
    let lab = lab()?;
    lab.configure("[domain.a]\nuplink = \"eth0\"\n[domain.b]\nuplink = \"172.23.0.0/24\"\n")?;
    let said = lab.agent_command(&format!("{RUN} --once"))?.finish()?.output;
    assert!(said.contains("two domains relay UDP port 5064 on the same uplink"), "{said}");
    Ok(())
}

#[test]
fn an_uplink_that_does_not_exist_is_named_and_taken_when_it_appears() -> Result<()> {
    let lab = lab()?;
    lab.configure("[domain.bl07]\nuplink = \"lan9\"\n")?;
    let mut agent = lab.agent_command(RUN)?;
    agent.wait_for("ready agent", PATIENCE, |output| output.contains("ready"))?;
    let said = agent.output();
    assert!(said.contains("domain `bl07`: there is no interface `lan9` (interfaces: "), "{said}");
    assert!(said.contains("eth0") && said.contains("set `uplink`"), "{said}");
    lab.sandbox.sh(NODE, "ip link set eth0 down")?;
    lab.sandbox.sh(NODE, "ip link set eth0 name lan9")?;
    lab.sandbox.sh(NODE, "ip link set lan9 up")?;
    agent.wait_for("the uplink", PATIENCE, |output| output.contains("resolved: domain `bl07`"))?;
    assert_eq!(lab.status()?["uplink"], "lan9");
    Ok(())
}

#[test]
fn a_new_address_of_the_uplink_is_followed() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    lab.sandbox.sh(NODE, "ip address flush dev eth0")?;
    lab.sandbox.sh(NODE, "ip address add 172.23.0.99/24 broadcast + dev eth0")?;
    std::thread::sleep(Duration::from_secs(3)); // the agent looks every two seconds
    let info = lab.epics_output(WORKSTATION, "cainfo -w 5 A:NAME", &[])?;
    assert!(info.contains("Host:             172.23.0.99:"), "{info}");
    Ok(())
}

/// Those at a former address lead nowhere, and would count for the pod's whole life.
#[test]
fn ports_at_former_addresses_of_the_uplink_are_given_back() -> Result<()> {
    let mut lab = lab()?;
    lab.start_agent_with(&format!("[domain.{}]\nuplink = \"eth0\"\nports_per_pod = 3\n", lab::DOMAIN))?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    for last in 100..104 {
        lab.sandbox.sh(NODE, "ip address flush dev eth0")?;
        lab.sandbox.sh(NODE, &format!("ip address add 172.23.0.{last}/24 broadcast + dev eth0"))?;
        std::thread::sleep(Duration::from_secs(3)); // the agent looks every two seconds
        assert_eq!(lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &[])?, "A\n", "at .{last}");
    }
    let found = lab.state(|state| state.externals().map(|externals| externals.len()))?;
    assert!(found.is_ok_and(|found| found <= 3));
    Ok(())
}

#[test]
fn a_faulty_configuration_is_refused_with_all_its_faults() -> Result<()> {
    let lab = lab()?;
    lab.configure("[domain.a]\nuplink = \"eth0\"\nprotocols = [\"cb\"]\nports = \"9-1\"\n")?;
    let said = failure(&lab, RUN)?;
    assert!(said.contains("/run/iocast/config.toml"), "{said}");
    assert!(said.contains("unknown protocol `cb`") && said.contains("`ports` is `9-1`"), "{said}");
    let said = failure(&lab, "run --no-cni --config /run/iocast/none.toml")?;
    assert!(said.contains("/run/iocast/none.toml") && said.contains("--config"), "{said}");
    Ok(())
}

#[test]
fn the_log_is_for_people_or_an_object_a_line_and_has_levels_by_target() -> Result<()> {
    let lab = lab()?;
    lab.configure("[domain.bl07]\nuplink = \"lan9\\u001b\"\n")?;
    let said = |options: &str| {
        Ok::<_, lab::Error>(lab.agent_command(&format!("{RUN} --once {options}"))?.finish()?.output)
    };
    let text = said("")?;
    let problem = r"domain `bl07`: there is no interface `lan9\u{1b}` (interfaces: ";
    assert!(text.contains(&format!("iocast-node: {problem}")), "{text}");
    assert!(text.lines().all(|line| line.starts_with("iocast-node: ")), "{text}");
    let json = said("--log-format json")?;
    let events: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let keys = |event: &Value| {
        event.as_object().map(|event| event.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
    };
    let found = events.iter().find(|event| event["resolved"] == false).expect(&json);
    assert_eq!(keys(found), ["time", "level", "target", "message", "problem", "resolved"]);
    assert_eq!((&found["level"], &found["target"]), (&"warn".into(), &"datapath".into()));
    assert!(found["problem"].as_str().is_some_and(|text| text.contains("`lan9\u{1b}`")), "{found}");
    let ready = events.iter().find(|event| event["target"] == "agent").expect(&json);
    assert_eq!(keys(ready), ["time", "level", "target", "message"]);
    assert_eq!(said("--log warn,datapath=off")?, "");
    assert!(said("--log none")?.contains("there is no level `none`"));
    Ok(())
}

#[test]
fn a_place_without_a_bpf_file_system_is_refused() -> Result<()> {
    let lab = lab()?;
    lab.configure("[domain.a]\nuplink = \"eth0\"\n")?;
    let said = failure(&lab, &format!("--bpffs /run {RUN}"))?;
    assert!(said.contains("/run is not a BPF file system") && said.contains("mount -t bpf"), "{said}");
    Ok(())
}

#[test]
fn a_user_without_rights_is_told_which_are_needed() -> Result<()> {
    let lab = lab()?;
    lab.configure("[domain.a]\nuplink = \"eth0\"\n")?;
    lab.sandbox.sh(NODE, "chmod 0777 /sys/fs/bpf")?;
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "65534", "--clear-groups", "--inh-caps", "-all"]);
    command.arg(lab::binary("iocast-node")?).args(RUN.split(' '));
    let finished = lab.sandbox.spawn(NODE, command)?.finish()?;
    assert!(!finished.status.success());
    let said = finished.output;
    assert!(said.contains("not permitted") && said.contains("run as root"), "{said}");
    Ok(())
}

#[test]
fn status_without_a_datapath_says_what_is_missing() -> Result<()> {
    let said = failure(&lab()?, "status")?;
    assert!(
        said.contains("the datapath is not loaded") && said.contains("is `iocast-node run` running"),
        "{said}"
    );
    Ok(())
}

#[test]
fn external_ports_are_reserved_on_the_node() -> Result<()> {
    let lab = lab()?;
    lab.sandbox.sh(NODE, "sysctl -q -w net.ipv4.ip_local_reserved_ports=8080")?;
    lab.configure("[domain.a]\nuplink = \"eth0\"\nports = \"50000-50099\"\n")?;
    lab.agent_command(&format!("{RUN} --once"))?.finish()?.success()?;
    let reserved = lab.sandbox.sh(NODE, "sysctl -n net.ipv4.ip_local_reserved_ports")?;
    assert_eq!(reserved.trim(), "8080,50000-50099,65000-65535");
    Ok(())
}

#[test]
fn sigterm_ends_the_agent_and_nothing_else() -> Result<()> {
    let mut lab = Lab::up(Options::new(Topology::Routed))?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    lab.terminate_agent()?;
    let read = lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &[])?;
    assert_eq!(read, "A\n");
    Ok(())
}

#[test]
fn what_a_pod_left_that_vanished_without_del_is_collected() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let pod = lab.pod("ioc-a")?;
    let ioc = lab.ioc(&pod.netns, "A")?;
    lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &[])?;
    ioc.kill();
    lab.sandbox.delete_netns(&pod.netns)?;
    wait_until(|| lab.status().is_ok_and(|status| status["members"] == serde_json::json!([])));
    assert_eq!(lab.leftovers()?, NOTHING);
    Ok(())
}

#[test]
fn an_uplink_without_an_address_for_a_moment_keeps_its_circuits() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    let mut monitor = lab.epics(WORKSTATION, "camonitor A:COUNT", &[])?;
    monitor.wait_for("values", PATIENCE, |output| output.lines().count() > 3)?;
    lab.sandbox.sh(NODE, "ip address flush dev eth0")?;
    std::thread::sleep(Duration::from_secs(3));
    lab.sandbox.sh(NODE, "ip address add 172.23.0.10/24 broadcast + dev eth0")?;
    let seen = monitor.output().lines().count();
    monitor.wait_for("values again", PATIENCE, |output| output.lines().count() > seen + 10)?;
    assert!(!monitor.output().contains("disconnected"), "{}", monitor.output());
    Ok(())
}

#[test]
fn an_agent_that_may_not_look_at_the_programs_of_others_still_comes_first() -> Result<()> {
    let mut lab = Lab::up(Options::new(Topology::Bridge))?;
    let veth = lab.host_veth(&lab.pod("ioc-a")?);
    lab.stop_agent();
    lab.sandbox.sh(NODE, &format!("tc qdisc del dev {veth} clsact"))?;
    let bpffs = std::path::Path::new("/sys/fs/bpf");
    let other = veth.clone();
    // Any TCX program would do as that of somebody else.
    let attached = lab.sandbox.run_in(NODE, move || {
        let device = link::by_name(&other)?.unwrap();
        datapath::attach(bpffs, Hook::FromLan, &device).map(|()| device)
    })?;
    let device = attached.unwrap();
    let mut command = std::process::Command::new("setpriv");
    command.arg(format!("--bounding-set={}", lab::AGENT_CAPABILITIES)).arg(lab::binary("iocast-node")?);
    lab.sandbox.exec(NODE, {
        command.args(RUN.split(' ')).arg("--once");
        command
    })?;
    let found = lab.sandbox.run_in(NODE, move || datapath::occupants(Hook::FromPod, &device))?;
    let names: Vec<_> =
        found.unwrap().unwrap_or_default().into_iter().map(|occupant| occupant.name).collect();
    assert_eq!(names, ["program from_pod", "program from_lan"]);
    Ok(())
}

#[test]
fn a_range_that_changed_gives_pods_ports_of_the_new_one() -> Result<()> {
    let mut lab = Lab::up(Options::new(Topology::Bridge))?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    let read = |lab: &Lab| lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &[]);
    assert_eq!(read(&lab)?, "A\n");
    lab.stop_agent();
    lab.options.ports = (50000, 50099);
    lab.start_agent()?;
    assert_eq!(read(&lab)?, "A\n");
    let ports =
        lab.state(|state| state.externals().map(|all| all.iter().any(|entry| entry.external.port < 50100)))?;
    assert_eq!(ports.ok(), Some(true));
    Ok(())
}

#[test]
fn a_datapath_that_was_loaded_half_is_made_whole() -> Result<()> {
    let mut lab = Lab::up(Options::new(Topology::Bridge))?;
    lab.stop_agent();
    lab.sandbox.run(|| std::fs::remove_file("/sys/fs/bpf/iocast/v4/maps/SEARCHERS")).ok();
    lab.sandbox.run(|| std::fs::remove_file("/sys/fs/bpf/iocast/v4/maps/CIRCUIT_COUNTS")).ok();
    let error = lab.pod("ioc-a").map_err(|error| error.to_string()).err().unwrap_or_default();
    assert!(error.contains("code 11") && error.contains("maps/CIRCUIT_COUNTS is missing"), "{error}");
    lab.start_agent()?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    assert_eq!(lab.epics_output(WORKSTATION, "caget -t -w 5 A:NAME", &[])?, "A\n");
    Ok(())
}

const LISTENING: &str = "run --no-cni --config /run/iocast/config.toml --listen 127.0.0.1:9402";

fn connect(lab: &Lab) -> Result<TcpStream> {
    let stream = lab.sandbox.run_in(NODE, || TcpStream::connect("127.0.0.1:9402"))?;
    lab::tried("connect to the agent", stream)
}

/// What the agent answers over HTTP.
pub(crate) fn ask(lab: &Lab, request: &str) -> Result<String> {
    let mut stream = connect(lab)?;
    let mut answer = String::new();
    lab::tried("ask the agent", write!(stream, "{request} HTTP/1.1\r\nHost: node\r\n\r\n"))?;
    lab::tried("hear the agent", stream.read_to_string(&mut answer))?;
    Ok(answer)
}

#[test]
fn what_begins_to_use_a_pinned_port_is_a_problem_until_it_ends() -> Result<()> {
    const LOOK: Duration = Duration::from_secs(20);
    let lab = lab()?;
    lab.configure("[domain.lab]\nuplink = \"eth0\"\npins = \"9000-9999\"\n")?;
    let mut agent = lab.agent_command(LISTENING)?;
    agent.wait_for("ready agent", PATIENCE, |output| output.contains("ready"))?;
    let service = || lab.sandbox.run_in(NODE, || TcpListener::bind("172.23.0.10:9100"));
    let pin = || lab.pod_with("ioc-a", &[("iocast.io/domain", "lab"), ("iocast.io/ports", "tcp/82=9100")]);
    let there = service()?;
    let refused = pin().map_or_else(|error| error.to_string(), |_| "no refusal".into());
    assert!(refused.contains("a process on the node listens there (172.23.0.10:9100)"), "{refused}");
    drop(there);
    pin()?; // while the service starts anew
    let there = service()?;
    let problem = "pod beamline/ioc-a has pinned tcp/9100, but a process on the node listens there";
    agent.wait_for("the problem", LOOK, |output| output.contains(problem))?;
    assert!(ask(&lab, "GET /metrics")?.contains("\niocast_problems 1\n"));
    drop(there);
    agent.wait_for("its end", LOOK, |output| output.contains(&format!("resolved: {problem}")))?;
    Ok(())
}

#[test]
fn metrics_show_members_ports_and_packets() -> Result<()> {
    let lab = lab()?;
    lab.configure("[domain.lab]\nuplink = \"eth0\"\n")?;
    let mut agent = lab.agent_command(LISTENING)?;
    agent.wait_for("ready agent", PATIENCE, |output| output.contains("ready"))?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    let mut monitor = lab.epics(WORKSTATION, "camonitor A:NAME", &[])?;
    monitor.wait_for("a value", PATIENCE, |output| output.contains("A:NAME"))?;
    let wrong = [("iocast.io/domain", lab::DOMAIN), ("iocast.io/pvs", "A:*")];
    assert!(lab.pod_with("wrong", &wrong).is_err(), "it has a wildcard");
    let answer = ask(&lab, "GET /metrics")?;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.contains("application/openmetrics-text"),
        "{answer}"
    );
    let value = |name: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse::<u64>().ok())
    };
    let packets = |verdict| {
        value(&format!("iocast_packets_total{{domain=\"lab\",protocol=\"ca\",verdict=\"{verdict}\"}}"))
    };
    assert_eq!(value("iocast_members{domain=\"lab\"}"), Some(1), "{answer}");
    assert_eq!(value("iocast_external_ports{domain=\"lab\"}"), Some(1), "{answer}");
    assert_eq!(value("iocast_external_ports_limit{domain=\"lab\"}"), Some(4000), "{answer}");
    assert_eq!(value("iocast_circuits{domain=\"lab\"}"), Some(1), "{answer}");
    assert!(value("iocast_circuits_limit{domain=\"lab\"}") > Some(200_000), "{answer}");
    assert!(value("iocast_conntrack_entries") <= value("iocast_conntrack_limit"), "{answer}");
    assert_eq!(value("iocast_uplink_up{domain=\"lab\",uplink=\"eth0\"}"), Some(1), "{answer}");
    assert_eq!(value("iocast_problems"), Some(0), "{answer}");
    assert_eq!(value("iocast_refused_pods_total{reason=\"invalid\"}"), Some(1), "{answer}");
    assert_eq!(value("iocast_refused_pods_total{reason=\"later\"}"), Some(0), "{answer}");
    assert!(value("iocast_answer_seconds_count{domain=\"lab\",protocol=\"ca\"}") > Some(0), "{answer}");
    assert!(packets("answered") > Some(0) && packets("relayed") > Some(0), "{answer}");
    let resident = agent.resident()?;
    assert!(resident < 24 * 1024, "{resident} kB");
    Ok(())
}

#[test]
fn a_node_whose_uplink_is_missing_is_alive_but_not_ready() -> Result<()> {
    let lab = lab()?;
    lab.configure("[domain.lab]\nuplink = \"lan9\"\n")?;
    let mut agent = lab.agent_command(LISTENING)?;
    agent.wait_for("ready agent", PATIENCE, |output| output.contains("ready"))?;
    assert!(ask(&lab, "GET /healthz")?.starts_with("HTTP/1.1 200"));
    let answer = ask(&lab, "GET /readyz")?;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with("\r\n\r\ndomain `lab`: uplink lan9 is not attached\n"), "{answer}");
    lab.sandbox.sh(NODE, "ip link set eth0 down")?;
    lab.sandbox.sh(NODE, "ip link set eth0 name lan9")?;
    lab.sandbox.sh(NODE, "ip link set lan9 up")?;
    wait_until(|| ask(&lab, "GET /readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")));
    assert!(ask(&lab, "GET /readyz")?.ends_with("\r\n\r\nok\n"));
    Ok(())
}

#[test]
fn clients_that_misbehave_hold_up_nobody() -> Result<()> {
    let lab = lab()?;
    lab.configure("[domain.lab]\nuplink = \"eth0\"\n")?;
    let mut agent = lab.agent_command(LISTENING)?;
    agent.wait_for("ready agent", PATIENCE, |output| output.contains("ready"))?;
    let silent: Vec<_> = (0..8).map(|_| connect(&lab)).collect();
    assert!(silent.iter().all(std::result::Result::is_ok));
    assert!(ask(&lab, "POST /metrics")?.starts_with("HTTP/1.1 405"));
    assert!(ask(&lab, "GET /")?.starts_with("HTTP/1.1 404"));
    assert!(ask(&lab, "rubbish")?.starts_with("HTTP/1.1 400"));
    assert!(ask(&lab, "GET /healthz")?.starts_with("HTTP/1.1 200"));
    Ok(())
}

#[test]
fn an_address_that_is_taken_is_named() -> Result<()> {
    let lab = lab()?;
    lab.configure("[domain.lab]\nuplink = \"eth0\"\n")?;
    let said = failure(&lab, "run --no-cni --config /run/iocast/config.toml --listen 192.0.2.1:9402")?;
    assert!(said.contains("cannot listen on 192.0.2.1:9402") && said.contains("--listen"), "{said}");
    Ok(())
}

#[test]
fn a_configuration_that_changes_is_taken_over_and_a_faulty_one_is_not() -> Result<()> {
    let mut lab = lab()?;
    lab.start_agent()?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc_of(Server::Pvxs, &pod.netns, "A")?;
    let mut monitors = lab.begun_monitors(WORKSTATION, "A:COUNT")?;
    lab.configure("[domain.lab]\nuplink = \"eth0\"\nports = \"9-1\"\nprotocols = [\"cb\"]\n")?;
    lab.wait_for_agent("faults", |said| {
        said.contains("`ports` is `9-1`") && said.contains("unknown protocol `cb`")
    })?;
    lab.configure("[domain.lab]\nuplink = \"eth0\"\n[domain.new]\nuplink = \"eth1\"\n")?;
    lab.wait_for_agent("change", |said| said.contains("has changed: domains lab, new"))?;
    let domains = lab.state(|state| state.domains().map(|domains| domains.len()))?;
    assert_eq!(domains.ok(), Some(2));
    wait_for_values(&mut monitors, PATIENCE)?;
    assert_unbroken(&mut monitors);
    let said = lab.agent_output();
    assert_eq!(
        said.matches("unknown protocol `cb`").count(),
        2,
        "said once, and that it is resolved: {said}"
    );
    Ok(())
}

fn wait_until(test: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !test() && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(50));
    }
}
