//! From the release before to this one while everything goes on: its members, their ports, pins, circuits and streams are taken over, though
//! the maps have another layout. `make upgrade` builds that release from history and runs what is ignored otherwise. And what
//! the agent does about other layouts that it cannot take over.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use lab::{
    DOMAIN, Error, Lab, NATIVE, NODE, NOTHING, Options, Pod, Process, Result, Topology, WORKSTATION,
    epics::{Server, shows},
    monitors::{CLIENTS, Monitor, assert_unbroken, begin, wait_for_values},
    tcp, turn,
};
use socket2::{Domain, Socket, Type};

lab::in_both_topologies! {
    #[ignore = "needs the release before: `make upgrade`"]
    clients_of_the_release_before_notice_nothing
    #[ignore = "needs the release before: `make upgrade`"]
    an_agent_that_is_killed_while_it_takes_over_is_followed_by_one_that_completes_it
}

const PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection is listened to that may have been lost.
const LISTENING: Duration = Duration::from_secs(3);
const PINS: &str = "/sys/fs/bpf/iocast";
/// As both releases understand it.
const CONFIGURATION: &str = "uplink = \"eth0\"\nports = \"61000-64999\"\npins = \"15000-15999\"\n\
                             protocols = [\"ca\", \"pva\", \"gvcp\"]\n";
const RUN: &str = "run --no-cni --config /run/iocast/config.toml";
/// What is pinned for the pod that echoes, and that greets whoever connects.
const ECHO: &str = "172.23.0.10:15777";
const GREETER: &str = "172.23.0.10:15778";
/// What it says.
const GREETING: &[u8] = b"hello";

/// Where the programs of the release before are.
fn former() -> Result<PathBuf> {
    let given = std::env::var_os("IOCAST_FORMER").map(PathBuf::from);
    given.ok_or_else(|| Error::Missing("the release before is not built: run `make upgrade`".into()))
}

/// Who watches what.
#[derive(Clone, Copy)]
enum Watched {
    Pv(&'static str, &'static str),
    /// A camera of this name, by the host or pod.
    Camera(&'static str, &'static str),
}

/// A node of the release before, and all that is watched there.
struct Scene {
    lab: Lab,
    pods: Vec<Pod>,
    monitors: Vec<Monitor>,
    /// What need only run.
    servers: Vec<Process>,
}

impl Scene {
    /// Raises it, and waits until everybody has values.
    fn raise(topology: Topology) -> Result<Self> {
        turn::take(turn::Kind::Alone); // clients of cameras have to keep up
        let mut lab = Lab::without_agent(Options::with_pins(topology))?;
        lab.take_programs_from(Some(&former()?))?;
        lab.start_agent_with(&format!("[domain.{DOMAIN}]\n{CONFIGURATION}"))?;
        let pinned = |pins| [("iocast.io/domain", DOMAIN), ("iocast.io/ports", pins)];
        let pods = vec![
            lab.pod("ioc-a")?,
            lab.pod_with("ioc-b", &pinned("tcp/5064=15064"))?,
            lab.pod_with("echo", &pinned("tcp/7777=15777, tcp/7778=15778"))?,
            lab.pod("camera")?,
            lab.pod("viewer")?,
        ];
        let camera = |netns: &str, name| {
            lab.sandbox.spawn(netns, lab::program("arv-fake-gv-camera-0.8", &["-i", "eth0", "-s", name])?)
        };
        let servers = vec![
            lab.ioc_of(Server::Pvxs, &pods[0].netns, "A")?,
            lab.ioc_of(Server::PvAccessCpp, &pods[1].netns, "B")?,
            camera(&pods[3].netns, "POD")?,
            camera(NATIVE, "LAN")?,
        ];
        tcp::echo(&lab.sandbox, &pods[2].netns, "0.0.0.0:7777")?;
        greet(&lab, &pods[2].netns)?;
        let mut watched = vec![];
        for pv in ["A:COUNT", "B:COUNT"] {
            watched.extend(CLIENTS.map(|client| Watched::Pv(client, pv)));
        }
        watched.extend([Watched::Camera("LAN", "pod-viewer"), Watched::Camera("POD", WORKSTATION)]);
        let mut monitors = watched.iter().map(|watched| watch(&lab, *watched)).collect::<Result<Vec<_>>>()?;
        begin(&mut monitors, |which| watch(&lab, watched[which]))?;
        Ok(Self { lab, pods, monitors, servers })
    }

    /// The external ports of servers, by pod and protocol.
    fn ports(&self) -> Result<BTreeMap<(String, &'static str, u16), u16>> {
        let mut found = BTreeMap::new();
        for pod in &self.pods {
            for (protocol, port) in
                [("tcp", 5064), ("tcp", 5075), ("tcp", 7777), ("tcp", 7778), ("udp", 3956)]
            {
                let external = self.lab.external_port(&pod.name, protocol, port)?;
                found.extend(external.map(|external| ((pod.name.clone(), protocol, port), external)));
            }
        }
        Ok(found)
    }

    /// Whether there is something to take over: the release before may have the present layout.
    fn layouts_differ(&self) -> Result<bool> {
        Ok(pinned(&self.lab)? != [format!("v{}", abi::SCHEMA)])
    }

    /// Asserts that nobody has noticed anything, that all goes on, and that nothing of the release before is left.
    fn assert_taken_over(mut self, ports: &BTreeMap<(String, &'static str, u16), u16>) -> Result<()> {
        wait_for_values(&mut self.monitors, PATIENCE)?;
        assert_unbroken(&mut self.monitors);
        assert_eq!(&self.ports()?, ports);
        for prefix in ["A", "B"] {
            let read = self.lab.epics_output(WORKSTATION, &format!("caget -t -w 5 {prefix}:NAME"), &[])?;
            assert_eq!(read.trim(), prefix);
            let read = self.lab.epics_output(WORKSTATION, &format!("pvget -w 5 {prefix}:NAME"), &[])?;
            assert!(shows(&read, prefix), "{read}");
        }
        assert_eq!(pinned(&self.lab)?, [format!("v{}", abi::SCHEMA)]);
        let new = self.lab.pod("ioc-c")?;
        let ioc = self.lab.ioc(&new.netns, "C")?;
        assert_eq!(self.lab.epics_output(WORKSTATION, "caget -t -w 5 C:NAME", &[])?.trim(), "C");
        drop((self.monitors, self.servers, ioc));
        for pod in self.pods.iter().chain([&new]) {
            self.lab.delete_pod(pod)?;
        }
        assert_eq!(self.lab.leftovers()?, NOTHING);
        Ok(())
    }
}

fn watch(lab: &Lab, watched: Watched) -> Result<Monitor> {
    match watched {
        Watched::Pv(client, pv) => lab.monitor(client, WORKSTATION, pv),
        Watched::Camera(name, netns) => {
            let camera = format!("Aravis-Fake-{name}");
            let line = ["-oL", "/usr/bin/arv-camera-test-0.8", "-n", &camera, "-f", "25"];
            let client = lab.sandbox.spawn(netns, lab::program("stdbuf", &line)?)?;
            Ok(Monitor::new("arv-camera-test", client))
        }
    }
}

/// Lets whoever connects to port 7778 in `netns` be greeted.
fn greet(lab: &Lab, netns: &str) -> Result<()> {
    let listen = lab.sandbox.run_in(netns, || TcpListener::bind("0.0.0.0:7778"))?;
    let listener = lab::tried("listen", listen)?;
    thread::spawn(move || {
        let greeted =
            listener.incoming().flatten().map(|mut client| client.write_all(GREETING).map(|()| client));
        greeted.collect::<Vec<_>>() // they stay open
    });
    Ok(())
}

/// What is pinned: the directories of layouts.
fn pinned(lab: &Lab) -> Result<Vec<String>> {
    let listed = lab.sandbox.sh(NODE, &format!("ls {PINS}"))?;
    Ok(listed.split_whitespace().map(str::to_owned).collect())
}

/// Between two connections.
const PAUSE: Duration = Duration::from_millis(2);
/// How many of the last connections say something each time.
const TALKING: usize = 50;
/// More connections than come about.
const MOST: usize = 3000;

/// A host that connects again and again, talks for a while, and keeps what it has.
struct Newcomers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<TcpStream>>,
    /// What has to be possible in the end.
    last: fn(&TcpStream) -> io::Result<()>,
}

impl Newcomers {
    fn start(lab: &Lab, at: &'static str) -> Result<Self> {
        tcp::raise_descriptors()?;
        // A socket is of the namespace in which it was made, wherever it is connected.
        let make = || {
            (0..MOST).map(|_| Socket::new(Domain::IPV4, Type::STREAM, None)).collect::<io::Result<Vec<_>>>()
        };
        let sockets = lab::tried("make sockets", lab.sandbox.run_in(WORKSTATION, make)?)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (until, to) = (stop.clone(), at.parse::<SocketAddr>().unwrap_or_else(|error| panic!("{error}")));
        let connect = move |socket: Socket| {
            socket.connect_timeout(&to.into(), PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}"));
            TcpStream::from(socket)
        };
        let thread = thread::spawn(move || {
            let mut streams: Vec<TcpStream> = vec![];
            for socket in sockets.into_iter().take_while(|_| !until.load(Ordering::Relaxed)) {
                streams.push(connect(socket));
                for stream in streams.iter_mut().rev().take(if at == ECHO { TALKING } else { 0 }) {
                    let _ = stream.write_all(b"ping"); // whose connection is lost is not heard of in the end
                }
                sleep(PAUSE);
            }
            streams
        });
        let last = if at == ECHO { finish } else { be_greeted };
        Ok(Self { stop, thread, last })
    }

    /// Ends it; how many connections there are, all of which have to work.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let streams = self.thread.join().unwrap_or_else(|_| panic!("a connection was refused"));
        let lost: Vec<_> = (0..)
            .zip(&streams)
            .filter(|(_, stream)| (self.last)(stream).is_err())
            .map(|(number, _)| number)
            .collect();
        assert_eq!(lost, [0; 0], "of {} connections", streams.len());
        streams.len()
    }
}

/// Reads the greeting.
fn be_greeted(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(LISTENING))?;
    stream.read_exact(&mut [0; GREETING.len()])
}

/// Says a last word, and reads up to its echo: what came before may have been echoed although the connection is lost since.
fn finish(mut stream: &TcpStream) -> io::Result<()> {
    let (mut heard, mut part) = (vec![], [0; 4096]);
    stream.set_read_timeout(Some(LISTENING))?;
    stream.write_all(b"over")?;
    while !heard.ends_with(b"over") {
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => heard.extend(&part[..length]),
        }
    }
    Ok(())
}

/// Ends both; how many connections there are.
fn end(newcomers: [Result<Newcomers>; 2]) -> Result<usize> {
    newcomers.into_iter().map(|newcomers| Ok(newcomers?.end())).sum()
}

fn clients_of_the_release_before_notice_nothing(topology: Topology) -> Result<()> {
    let mut scene = Scene::raise(topology)?;
    let ports = scene.ports()?;
    assert!(ports.len() >= 6, "{ports:?}");
    let layouts_differ = scene.layouts_differ()?;
    let newcomers = [ECHO, GREETER].map(|at| Newcomers::start(&scene.lab, at));
    sleep(Duration::from_secs(1));
    scene.lab.terminate_agent()?;
    scene.lab.take_programs_from(None)?;
    scene.lab.start_agent_by(RUN)?;
    sleep(Duration::from_secs(1));
    let said = scene.lab.agent_output();
    let connections = end(newcomers)?;
    let took = said.lines().find(|line| line.contains("took over")).unwrap_or_default();
    assert_eq!(took.contains("took over 5 members"), layouts_differ, "{said}");
    lab::report(
        &format!("from the release before, {topology:?}"),
        &format!(
            "{}; {connections} connections that were opened meanwhile all work",
            if layouts_differ { took.trim_start_matches("iocast-node: ") } else { "the same layout" }
        ),
    );
    scene.assert_taken_over(&ports)
}

fn an_agent_that_is_killed_while_it_takes_over_is_followed_by_one_that_completes_it(
    topology: Topology,
) -> Result<()> {
    let mut scene = Scene::raise(topology)?;
    let (ports, layouts_differ) = (scene.ports()?, scene.layouts_differ()?);
    let newcomers = [ECHO, GREETER].map(|at| Newcomers::start(&scene.lab, at));
    scene.lab.terminate_agent()?;
    scene.lab.take_programs_from(None)?;
    let begun = Instant::now();
    let mut killed = 0;
    for delay in (1..).map(|step| Duration::from_millis(150 * step)) {
        let agent = scene.lab.agent_command(RUN)?;
        sleep(delay);
        let is_ready = agent.output().contains("ready");
        agent.kill();
        if is_ready || begun.elapsed() > PATIENCE {
            break;
        }
        killed += 1;
    }
    assert!(killed > 1 || !layouts_differ, "killed {killed} times");
    scene.lab.start_agent_by(RUN)?;
    sleep(Duration::from_secs(1));
    end(newcomers)?;
    scene.assert_taken_over(&ports)
}

/// What is in `PINS` beside what a present agent has pinned, and what the agent says of it.
fn beside(name: &str) -> Result<(Lab, String)> {
    let lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    lab.configure(&format!("[domain.{DOMAIN}]\nuplink = \"eth0\"\n"))?;
    let directory = Path::new(PINS).join(name);
    let made = lab.sandbox.run(move || fs::create_dir_all(directory));
    lab::tried("make a pin directory", made)?;
    let said = lab.agent_command(&format!("{RUN} --once"))?.finish()?.output;
    Ok((lab, said))
}

#[test]
fn what_a_later_version_has_pinned_is_left_alone_and_the_agent_says_how_to_go_back() -> Result<()> {
    let (lab, said) = beside("v9999")?;
    assert!(said.contains("/sys/fs/bpf/iocast/v9999 is from a later version"), "{said}");
    assert!(said.contains("install it again") && said.contains("`iocast-node uninstall`"), "{said}");
    assert_eq!(pinned(&lab)?, ["v9999"]);
    Ok(())
}

#[test]
fn what_an_earlier_agent_left_without_maps_is_removed() -> Result<()> {
    let (lab, said) = beside("v1")?;
    assert!(said.contains("ready"), "{said}");
    assert_eq!(pinned(&lab)?, [format!("v{}", abi::SCHEMA)]);
    Ok(())
}

#[test]
fn a_layout_that_nobody_has_released_is_named_and_uninstalled_with_the_rest() -> Result<()> {
    let (lab, said) = beside("v2")?;
    assert!(said.contains("ready"), "{said}");
    let doctor = lab.agent_command("doctor --no-cni --config /run/iocast/config.toml")?.finish()?.output;
    assert!(doctor.contains("next to v2"), "{doctor}");
    lab.agent_command("uninstall")?.finish()?.success()?;
    assert!(pinned(&lab).is_err(), "nothing is pinned");
    Ok(())
}
