//! The table of `docs/groups.md`: real programs at every place look for each other, in every protocol that uses a group.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    collections::BTreeSet, fmt::Write as _, panic::resume_unwind, path::Path, thread::scope, time::Duration,
};

use lab::{DOMAIN, Lab, NATIVE, Options, Process, Result, Topology};

const PROTOCOLS: [&str; 4] = ["mdns", "ssdp", "ws-discovery", "pva"];
const PATIENCE: Duration = Duration::from_secs(60);
/// The places: what programs there are called, and the row's name.
const PLACES: [(&str, &str); 4] = [
    ("addressed", "a pod with a LAN address"),
    ("plain", "a pod without one"),
    ("lan", "a host of the LAN"),
    ("remote", "a pod of another node"),
];
const ADDRESS: &str = "172.23.0.50";
/// Longer than an announcement takes after it was sent.
const QUIET: Duration = Duration::from_millis(500);

/// Where a program runs.
struct Place {
    netns: String,
    /// The address of its interface.
    own: String,
    /// The address that its server names.
    named: String,
    /// Its address on the LAN, or that of its node.
    on_lan: String,
}

/// What was printed at each place: by who heard announcements, and by who asked.
struct Tried {
    /// What the beacons of each place's server name: inside its node, and outside.
    beacons: Vec<[String; 2]>,
    heard: Vec<String>,
    found: Vec<String>,
}

impl Place {
    fn new(netns: &str, own: &str, named: &str, on_lan: &str) -> Self {
        Self { netns: netns.into(), own: own.into(), named: named.into(), on_lan: on_lan.into() }
    }
}

fn try_all(topology: Topology) -> Result<Tried> {
    let mut lab = Lab::without_agent(Options { nodes: 2, ..Options::new(topology) })?;
    let protocols =
        "protocols = [\"pva\", \"mdns\", \"ssdp\", \"ws-discovery\"]\ngroups = { 5076 = \"224.0.2.3\" }";
    lab.start_agent_with(&format!(
        "[domain.{DOMAIN}]\nuplink = \"eth0\"\naddresses = [\"{ADDRESS}\"]\n{protocols}\n"
    ))?;
    let addressed = lab.pod_at(0, "addressed", Some(ADDRESS))?;
    let (plain, remote) = (lab.pod_on(0, "plain")?, lab.pod_on(1, "remote")?);
    let places = [
        Place::new(&addressed.netns, &addressed.address, ADDRESS, "172.23.0.10"),
        Place::new(&plain.netns, &plain.address, &plain.address, "172.23.0.10"),
        Place::new(NATIVE, "172.23.0.3", "172.23.0.3", "172.23.0.3"),
        Place::new(&remote.netns, &remote.address, &remote.address, "172.23.0.11"),
    ];
    let start = |role: &str| -> Result<Vec<Process>> {
        let run = |(place, (name, _)): (&Place, &(&str, &str))| {
            lab.python(&place.netns, "peer.py", &format!("{role} {name} {} {}", place.own, place.named))
        };
        places.iter().zip(&PLACES).map(run).collect()
    };
    let wait = |processes: &mut [Process], what: &'static str, count: usize| {
        let wait = |process: &mut Process| {
            process.wait_for(what, PATIENCE, |output| output.matches(what).count() == count).map(drop)
        };
        processes.iter_mut().try_for_each(wait)
    };
    let mut hearing = start("hear")?;
    wait(&mut hearing, "ready", PROTOCOLS.len())?;
    let mut serving = start("serve")?;
    wait(&mut serving, "serving", 1)?;
    std::thread::sleep(QUIET);
    let heard = hearing.iter().map(Process::output).collect();
    let beacon = |(place, (name, _)): (&Place, &(&str, &str))| -> Result<[String; 2]> {
        let node = usize::from(*name == "remote");
        let port = lab.external_port_on(node, name, "tcp", 5075)?.unwrap_or(5075);
        Ok([format!("{}:5075", place.own), format!("{}:{port}", place.on_lan)])
    };
    let beacons = places.iter().zip(&PLACES).map(beacon).collect::<Result<_>>()?;
    let mut asking = start("ask")?;
    wait(&mut asking, "asked", 1)?;
    let found = asking.iter().map(Process::output).collect();
    Ok(Tried { beacons, heard, found })
}

impl Tried {
    fn has_heard(&self, protocol: &str, listener: usize, speaker: usize) -> bool {
        let [inside, outside] = &self.beacons[speaker];
        let names = if protocol == "pva" { vec![inside.as_str(), outside] } else { vec![PLACES[speaker].0] };
        let is_it = |line: &str| names.iter().any(|name| line == format!("heard {protocol} {name}"));
        self.heard[listener].lines().any(is_it)
    }

    /// Whether a client found a server, and whether it could connect to it.
    fn has_found(&self, protocol: &str, client: usize, server: usize) -> Option<bool> {
        let start = format!("found {protocol} {} ", PLACES[server].0);
        self.found[client].lines().find_map(|line| line.strip_prefix(&start)).map(|rest| rest == "reached")
    }

    fn table(&self) -> String {
        let mut out = "| | | asks | answers | announces |\n|---|---|---|---|---|\n".to_owned();
        for protocol in PROTOCOLS {
            for (place, (_, name)) in PLACES.iter().enumerate() {
                let asks = cell(place, |other| self.has_found(protocol, place, other));
                let answers = cell(place, |other| self.has_found(protocol, other, place));
                let announces = cell(place, |other| self.has_heard(protocol, other, place).then_some(true));
                let _ = writeln!(out, "| {protocol} | {name} | {asks} | {answers} | {announces} |");
            }
        }
        out
    }
}

/// Which of the other places: all, or those; and which of them without a connection.
fn cell(place: usize, of: impl Fn(usize) -> Option<bool>) -> String {
    let others: Vec<_> = (0..PLACES.len()).filter(|other| *other != place).collect();
    let names =
        |places: &BTreeSet<usize>| places.iter().map(|place| PLACES[*place].1).collect::<Vec<_>>().join(", ");
    let there: BTreeSet<_> = others.iter().copied().filter(|other| of(*other).is_some()).collect();
    let cut_off: BTreeSet<_> = others.iter().copied().filter(|other| of(*other) == Some(false)).collect();
    let who = match there.len() {
        0 => "none".into(),
        count if count == others.len() => "all".into(),
        _ => names(&there),
    };
    if cut_off.is_empty() { who } else { format!("{who}; no connection: {}", names(&cut_off)) }
}

/// UPDATE_GOLDEN=1 writes the page anew.
#[test]
fn real_programs_find_each_other_by_groups_as_the_table_says() -> Result<()> {
    let [bridged, routed] = scope(|scope| {
        Topology::ALL
            .map(|topology| scope.spawn(move || try_all(topology)))
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let (bridged, routed) = (bridged?.table(), routed?.table());
    let text = include_str!("../groups.md").replace("TABLE\n", &bridged);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/groups.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(bridged, routed, "the same in both topologies");
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, recorded, "docs/groups.md differs; UPDATE_GOLDEN=1 writes it anew");
    Ok(())
}
