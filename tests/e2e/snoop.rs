//! `iocast-node snoop`: what it shows of real searches and answers, and that it leaves nothing behind.

use std::{path::Path, thread::sleep, time::Duration};

use datapath::Events;
use lab::{
    Lab, NATIVE, Options, Process, Result, Topology, WORKSTATION,
    epics::{Client, PATIENCE, Server},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

lab::in_both_topologies! {
    a_search_of_the_lan_its_answer_and_the_answers_latency_are_shown
    a_pods_own_searches_are_shown_with_the_answers_from_pods_and_from_the_lan
    searches_of_both_implementations_of_pv_access_are_matched_to_their_answers
    a_pv_that_nobody_has_is_listed_with_the_client_that_keeps_asking
    filters_leave_what_was_asked_for
}

const NOTHING: [(&str, &str); 0] = [];

/// A snoop that watches by now.
fn snoop(lab: &Lab, options: &str) -> Result<Process> {
    let mut snoop = lab.agent_command(&format!("snoop {options}"))?;
    snoop.wait_for("watcher", PATIENCE, |output| output.contains("watching"))?;
    Ok(snoop)
}

fn signal(process: &Process, signal: Signal) {
    kill(Pid::from_raw(process.id().cast_signed()), signal)
        .unwrap_or_else(|error| panic!("{signal}: {error}"));
}

/// Ends a snoop; the objects that it printed.
fn end(snoop: Process) -> Result<Vec<Value>> {
    sleep(Duration::from_millis(300)); // what happened last is shown by now
    snoop.terminate();
    Ok(objects(&snoop.finish()?.success()?))
}

fn objects(output: &str) -> Vec<Value> {
    let lines = output.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Asks for PVs for a second, from one host; they need not all be there.
fn ask(lab: &Lab, netns: &str, pvs: &str) -> Result<()> {
    lab.epics(netns, &format!("caget -t -w 1 {pvs}"), &NOTHING)?.finish()?;
    Ok(())
}

/// The lines that say this about a PV.
fn lines<'a>(shown: &'a [Value], message: &str, verdict: &str, pv: &str) -> Vec<&'a Value> {
    let pv = Value::from(pv);
    let concerns = |line: &Value| line["pvs"].as_array().is_some_and(|pvs| pvs.contains(&pv));
    shown
        .iter()
        .filter(|line| line["message"] == message && line["verdict"] == verdict && concerns(line))
        .collect()
}

/// The only line that says this about a PV.
fn line<'a>(shown: &'a [Value], message: &str, verdict: &str, pv: &str) -> &'a Value {
    match lines(shown, message, verdict, pv)[..] {
        [line] => line,
        ref other => panic!("{} lines, not one: {message} {verdict} {pv} in {shown:#?}", other.len()),
    }
}

fn is_prompt(answer: &Value) -> bool {
    answer["latency_ms"].as_f64().is_some_and(|latency| 0.0 < latency && latency < 1000.0)
}

fn a_search_of_the_lan_its_answer_and_the_answers_latency_are_shown(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    let mut watching = snoop(&lab, "")?;
    ask(&lab, WORKSTATION, "A:NAME")?;
    let answer = format!(" lab ca reply beamline/ioc-a ({}:5064) -> 172.23.0.2:", pod.address);
    watching.wait_for("answer", PATIENCE, |output| {
        output.lines().any(|line| {
            line.contains(&answer) && line.contains(" answered after ") && line.ends_with(": A:NAME")
        })
    })?;
    let output = watching.output();
    let search = |line: &str| {
        line.contains(" lab ca search 172.23.0.2:") && line.ends_with(" -> 172.23.0.255:5064 relayed: A:NAME")
    };
    assert!(output.lines().any(search), "{output}");
    signal(&watching, Signal::SIGINT);
    let output = watching.finish()?.success()?;
    let last = output.lines().last().unwrap_or_default();
    assert!(last.starts_with("iocast-node: ") && last.ends_with("; 0 events lost"), "{output}");
    assert!(last.contains(" 1 searches, 1 replies, "), "{output}");
    Ok(())
}

fn a_pods_own_searches_are_shown_with_the_answers_from_pods_and_from_the_lan(
    topology: Topology,
) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (server, client) = (lab.pod("ioc-a")?, lab.pod("client")?);
    let _iocs = [lab.ioc(&server.netns, "A")?, lab.ioc(NATIVE, "N")?];
    let watching = snoop(&lab, "--json")?;
    ask(&lab, &client.netns, "A:NAME N:NAME")?;
    let shown = end(watching)?;
    let search = line(&shown, "search", "sent", "N:NAME");
    assert_eq!(search["source_pod"], "beamline/client");
    let of_pod = line(&shown, "reply", "direct", "A:NAME");
    assert_eq!(
        (&of_pod["source_pod"], &of_pod["destination_pod"]),
        (&Value::from("beamline/ioc-a"), &Value::from("beamline/client"))
    );
    let of_lan = line(&shown, "reply", "translated_in", "N:NAME");
    assert_eq!(of_lan["source"], "172.23.0.3:5064");
    assert_eq!(
        (&of_lan["destination"], &of_lan["destination_pod"]),
        (&search["source"], &Value::from("beamline/client"))
    );
    assert!(is_prompt(of_pod) && is_prompt(of_lan), "{of_pod} {of_lan}");
    Ok(())
}

fn searches_of_both_implementations_of_pv_access_are_matched_to_their_answers(
    topology: Topology,
) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (cpp, pvxs, client) = (lab.pod("ioc-cpp")?, lab.pod("ioc-pvxs")?, lab.pod("client")?);
    let _iocs =
        [lab.ioc_of(Server::PvAccessCpp, &cpp.netns, "CPP")?, lab.ioc_of(Server::Pvxs, &pvxs.netns, "PVXS")?];
    for (netns, verdict) in [(WORKSTATION, "answered"), (client.netns.as_str(), "direct")] {
        for program in [Client::PvAccessCpp, Client::Pvxs] {
            let watching = snoop(&lab, "--json --domain lab")?;
            lab.pvget(program, netns, "CPP:NAME PVXS:NAME", &NOTHING)?;
            let shown = end(watching)?;
            for (pv, pod) in [("CPP:NAME", "beamline/ioc-cpp"), ("PVXS:NAME", "beamline/ioc-pvxs")] {
                let answers = lines(&shown, "reply", verdict, pv);
                let expected = |answer: &&Value| {
                    answer["source_pod"] == pod && answer["protocol"] == "pva" && is_prompt(answer)
                };
                assert!(!answers.is_empty() && answers.iter().all(expected), "{program:?} {pv}: {shown:#?}");
            }
        }
    }
    Ok(())
}

fn a_pv_that_nobody_has_is_listed_with_the_client_that_keeps_asking(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (pod, client) = (lab.pod("ioc-a")?, lab.pod("client")?);
    let _iocs = [lab.ioc(&pod.netns, "A")?, lab.ioc(NATIVE, "N")?];
    let pvs = "A:NAME N:NAME NOPE:NAME"; // here, somewhere else on the LAN, nowhere
    let watching = snoop(&lab, "--unanswered --for 6 --json")?;
    let askers =
        [WORKSTATION, &client.netns].map(|netns| lab.epics(netns, &format!("caget -w 4 {pvs}"), &NOTHING));
    for asker in askers {
        asker?.finish()?;
    }
    let output = watching.finish()?.success()?;
    let mut listed: Vec<_> = objects(&output)
        .iter()
        .map(|row| {
            assert!(row["asked"].as_u64() > Some(3) && row["seconds"].as_u64() > Some(2), "{row}");
            [&row["pv"], &row["client"], &row["client_pod"]].map(|value| value.as_str().map(str::to_owned))
        })
        .collect();
    listed.sort();
    let row = |client: &str, pod: Option<&str>| {
        [Some("NOPE:NAME"), Some(client), pod].map(|text| text.map(str::to_owned))
    };
    assert_eq!(listed, [row(&client.address, Some("beamline/client")), row("172.23.0.2", None)], "{output}");
    assert!(output.contains("; 0 events lost"), "{output}");

    let mut watching = snoop(&lab, "--unanswered")?; // to no terminal: now and then, and when it ends
    lab.epics(NATIVE, "caget -w 3 NOPE:NAME", &NOTHING)?.finish()?;
    assert!(watching.is_running());
    watching.terminate();
    let table = watching.finish()?.success()?;
    assert!(
        table.lines().any(|line| line.starts_with("NOPE:NAME  lab     ca        172.23.0.3 ")),
        "{table}"
    );
    Ok(())
}

fn filters_leave_what_was_asked_for(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (a, b) = (lab.pod("ioc-a")?, lab.pod("ioc-b")?);
    let _iocs = [lab.ioc(&a.netns, "A")?, lab.ioc(&b.netns, "B")?];
    let watching = snoop(&lab, "--json --pv *:NAME --client 172.23.0.2/32 --pod ioc-a --domain lab")?;
    ask(&lab, WORKSTATION, "A:NAME A:COUNT B:NAME")?;
    ask(&lab, NATIVE, "A:NAME B:NAME")?;
    let shown = end(watching)?;
    let delivery = line(&shown, "search", "delivered", "A:NAME");
    assert_eq!(delivery["destination_pod"], "beamline/ioc-a");
    assert_eq!(delivery["pvs"].as_array().map(Vec::len), Some(2), "{delivery}");
    let answer = line(&shown, "reply", "answered", "A:NAME");
    assert_eq!(
        (&answer["source_pod"], answer["pvs"].as_array().map(Vec::len)),
        (&Value::from("beamline/ioc-a"), Some(1))
    );
    let keys: Vec<_> = answer.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    assert_eq!(
        keys.join(" "),
        "time domain protocol message source source_pod destination destination_pod pvs verdict latency_ms server_port"
    );
    let external = lab.external_port("ioc-a", "tcp", 5064)?;
    assert_eq!(answer["server_port"].as_u64(), external.map(u64::from), "the port that the client is told");
    assert_eq!(shown.len(), 2, "{shown:#?}");

    let watching = snoop(&lab, "--json --domain other")?;
    ask(&lab, WORKSTATION, "A:NAME")?;
    assert_eq!(end(watching)?, [] as [Value; 0]);
    Ok(())
}

#[test]
fn several_watch_at_once_and_each_sees_all_that_it_asked_for() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    let stuck = snoop(&lab, "--json")?;
    signal(&stuck, Signal::SIGSTOP); // nobody waits for it
    let watching = [snoop(&lab, "--json")?, snoop(&lab, "--json --deliveries")?, snoop(&lab, "--json")?];
    ask(&lab, WORKSTATION, "A:NAME")?;
    let [plain, deliveries, killed] = watching;
    killed.kill();
    ask(&lab, WORKSTATION, "A:COUNT")?;
    let of = |shown: &[Value], verdict: &str| shown.iter().filter(|line| line["verdict"] == verdict).count();
    let shown = end(deliveries)?;
    assert!(of(&shown, "delivered") > 1, "{shown:#?}");
    line(&shown, "reply", "answered", "A:COUNT");
    ask(&lab, WORKSTATION, "A:SETPOINT")?; // the end of one is not that of the others
    let shown = end(plain)?;
    for pv in ["A:NAME", "A:COUNT", "A:SETPOINT"] {
        line(&shown, "search", "relayed", pv);
        line(&shown, "reply", "answered", pv);
    }
    assert_eq!(of(&shown, "delivered"), 0, "{shown:#?}");
    signal(&stuck, Signal::SIGCONT);
    Ok(())
}

#[test]
fn a_snoop_whose_reader_is_gone_or_stuck_ends_by_itself() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let node = lab::binary("iocast-node")?;
    let run = |line: &str| {
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg(line.replace("snoop", &format!("{} snoop", node.display())));
        lab.sandbox.spawn(lab::NODE, command)
    };
    let begin = std::time::Instant::now();
    let closed = run("snoop --json | true; echo over")?.finish()?.success()?;
    assert!(closed.contains("over") && !closed.contains("panicked"), "{closed}");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let limited = run("snoop --for 1 --json > /dev/null; echo over")?.finish()?.success()?;
    assert!(limited.contains("over"), "{limited}");
    let full = run("snoop --for 1 --unanswered > /dev/full; echo code $?")?.finish()?.success()?;
    assert!(
        full.contains("code 1") && full.contains("No space left") && !full.contains("panicked"),
        "{full}"
    );
    Ok(())
}

#[test]
fn a_snoop_that_is_killed_leaves_no_events_behind() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let pod = lab.pod("ioc-a")?;
    let ioc = lab.ioc(&pod.netns, "A")?;
    ioc.kill(); // and with it its beacons
    snoop(&lab, "--deliveries")?.kill();
    sleep(Duration::from_millis(3100)); // it had three seconds left
    assert_eq!(events_while(&lab, None)?, 0);
    assert!(events_while(&lab, Some(Duration::from_secs(5)))? > 0, "there would have been events to see");
    Ok(())
}

/// How many events there are of a search on the LAN, while somebody watches for so long, or nobody does.
fn events_while(lab: &Lab, watch: Option<Duration>) -> Result<usize> {
    let open = || Events::open(Path::new("/sys/fs/bpf")).map_err(|error| error.to_string());
    let mut events = lab.sandbox.run(open).unwrap_or_else(|error| panic!("{error}"));
    if let Some(time) = watch {
        events.watch(time, false).unwrap_or_else(|error| panic!("{error}"));
    }
    ask(lab, WORKSTATION, "A:NAME")?;
    Ok(std::iter::from_fn(|| events.take()).count())
}

#[test]
fn events_that_the_ring_has_no_room_for_are_counted() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    let mut watching = snoop(&lab, "--json")?;
    signal(&watching, Signal::SIGSTOP);
    let socket = lab::udp::Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    let search = lab::ca::search(&["A:NAME"]);
    for _ in 0..abi::EVENT_RING as usize / abi::SHORT {
        socket.send(&search, "172.23.0.255:5064")?;
    }
    signal(&watching, Signal::SIGCONT);
    watching.wait_for("word of lost events", PATIENCE, |output| output.contains(" events lost so far"))?;
    watching.terminate();
    let output = watching.finish()?.success()?;
    let lost = output
        .lines()
        .last()
        .and_then(|line| line.strip_suffix(" events lost")?.rsplit(' ').next()?.parse().ok());
    let shown = objects(&output).iter().filter(|line| line["message"] == "search").count();
    assert!(shown > 1000, "{shown} shown");
    let relayed = usize::try_from(lab.counter("ca", "relayed")?).unwrap_or_default();
    assert_eq!(lost, Some(relayed - shown), "shown and lost together are all {relayed}");
    Ok(())
}
