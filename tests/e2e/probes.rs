//! Probes: `/healthz`, `/readyz` and `/metrics` answer in time whatever other clients do, as a kubelet expects it.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddrV4, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use lab::{Lab, NODE, Options, Process, Result, Topology, turn};
use nix::{
    libc::linger,
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
    },
};

/// What a kubelet grants a probe unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Where the kubelet asks.
const AGENT: &str = "172.23.0.10:9402";
/// How many clients there are beside the probes: more than the agent serves at the same time.
const CLIENTS: usize = 400;
/// How often each probe is tried beside them.
const PROBES: usize = 20;

const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n";
const HEAD: &[u8] = b"POST /metrics HTTP/1.1\r\nHost: node\r\nContent-Length: 1000000\r\n\r\n";

/// Clients that connect again when they are dropped.
#[derive(Clone, Copy)]
struct Crowd {
    name: &'static str,
    /// Whether each has an address of its own.
    hosts: bool,
    /// What each says at once.
    says: &'static [u8],
    /// What each then says byte by byte.
    drips: &'static [u8],
    /// Whether each then says that it has said all.
    half_closes: bool,
    /// Whether they do not stay, but make way for new ones without a pause.
    hurries: bool,
    /// Whether each ends with a reset.
    resets: bool,
}

const SILENT: Crowd = Crowd {
    name: "silent",
    hosts: true,
    says: b"",
    drips: b"",
    half_closes: false,
    hurries: false,
    resets: false,
};

const CROWDS: [Crowd; 11] = [
    Crowd { hosts: false, name: "silent, on one host", ..SILENT },
    SILENT,
    Crowd { name: "a head byte by byte", drips: REQUEST, ..SILENT },
    Crowd { name: "a head without end", says: b"GET / HTTP/1.1\r\nX: ", drips: b"x", ..SILENT },
    Crowd { name: "a body byte by byte", says: HEAD, drips: b"x", ..SILENT },
    Crowd { name: "an answer that nobody reads", says: REQUEST, ..SILENT },
    Crowd { name: "half closed, silent", half_closes: true, ..SILENT },
    Crowd { name: "half a head, half closed", says: b"GET /", half_closes: true, ..SILENT },
    Crowd { name: "silent, ever new ones", hurries: true, ..SILENT },
    Crowd { name: "silent, ever new ones, reset", hurries: true, resets: true, ..SILENT },
    Crowd { name: "requests, ever new ones", says: REQUEST, hurries: true, ..SILENT },
];

impl Crowd {
    /// Comes, and stays until `stop`, on a thread of its own in the node's namespace.
    fn come(self, lab: &Lab, stop: &Arc<AtomicBool>) -> Result<JoinHandle<()>> {
        let (node, stop) = (lab.sandbox.open_netns(NODE)?, Arc::clone(stop));
        Ok(thread::spawn(move || {
            let there = setns(node, CloneFlags::CLONE_NEWNET);
            assert!(there.is_ok(), "{there:?}");
            self.stay(&stop);
        }))
    }

    fn stay(self, stop: &AtomicBool) {
        let mut clients: Vec<TcpStream> = (0..CLIENTS).filter_map(|number| self.client(number)).collect();
        for turn in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let byte = self.drips.get(turn % self.drips.len().max(1));
            for (number, client) in clients.iter_mut().enumerate() {
                let _ = byte.map(|byte| client.write(&[*byte])); // it may be dropped by now
                if self.hurries || is_dropped(client) {
                    self.client(number).into_iter().for_each(|new| *client = new);
                }
            }
            sleep(Duration::from_millis(if self.hurries { 0 } else { 50 }));
        }
    }

    /// The client with this number; none if the agent takes no more at the moment.
    fn client(self, number: usize) -> Option<TcpStream> {
        let host = if self.hosts { number } else { 0 };
        let mut client = connect_from([127, 1, (host / 250) as u8, (host % 250 + 1) as u8]).ok()?;
        client.set_nonblocking(true).ok()?;
        let reset = linger { l_onoff: i32::from(self.resets), l_linger: 0 };
        setsockopt(&client, sockopt::Linger, &reset).ok()?;
        client.write_all(self.says).ok()?;
        if self.half_closes {
            client.shutdown(Shutdown::Write).ok()?;
        }
        Some(client)
    }
}

fn connect_from(address: [u8; 4]) -> nix::Result<TcpStream> {
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let at = |[a, b, c, d]: [u8; 4], port| SockaddrIn::new(a, b, c, d, port);
    bind(socket.as_raw_fd(), &at(address, 0))?;
    connect(socket.as_raw_fd(), &at([127, 0, 0, 1], 9402))?;
    Ok(socket.into())
}

/// Whether the agent has closed the connection; reads nothing.
fn is_dropped(client: &TcpStream) -> bool {
    match client.peek(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn listening(lab: &Lab) -> Result<Process> {
    lab.configure("[domain.lab]\nuplink = \"eth0\"\n")?;
    let mut agent =
        lab.agent_command("run --no-cni --config /run/iocast/config.toml --listen 0.0.0.0:9402")?;
    agent.wait_for("ready agent", Duration::from_secs(30), |output| output.contains("ready"))?;
    Ok(agent)
}

/// What the agent answers to what one client `says`, and then has said all if it half-closes; and how long that takes.
fn ask(lab: &Lab, says: &str, half_closes: bool) -> Result<(String, Duration)> {
    let (address, began) = (AGENT.parse::<SocketAddrV4>(), Instant::now());
    let says = says.to_owned();
    let answer = lab.sandbox.run_in(NODE, move || {
        let address = address.map_err(std::io::Error::other)?;
        let mut stream = TcpStream::connect_timeout(&address.into(), TIMEOUT * 5)?;
        stream.set_read_timeout(Some(TIMEOUT * 5))?;
        stream.write_all(says.as_bytes())?;
        if half_closes {
            stream.shutdown(Shutdown::Write)?;
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    })?;
    Ok((lab::tried("ask the agent", answer)?, began.elapsed()))
}

fn probe(lab: &Lab, path: &str) -> Result<Duration> {
    let (answer, took) = ask(lab, &format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n"), false)?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    Ok(took)
}

#[test]
fn probes_are_answered_in_time_beside_clients_of_every_kind() -> Result<()> {
    turn::take(turn::Kind::Alone);
    let lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    let agent = listening(&lab)?;
    for crowd in CROWDS {
        let stop = Arc::new(AtomicBool::new(false));
        let others = crowd.come(&lab, &stop)?;
        sleep(Duration::from_millis(500)); // they are there by now
        let mut slowest = Duration::ZERO;
        for _ in 0..PROBES {
            for path in ["/healthz", "/readyz", "/metrics"] {
                slowest = slowest.max(probe(&lab, path)?);
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(others.join().is_ok());
        let figure = format!("{:.1} ms", slowest.as_secs_f64() * 1e3);
        lab::report(&format!("slowest probe beside {CLIENTS} clients: {}", crowd.name), &figure);
        assert!(slowest < TIMEOUT, "{}: {slowest:?}", crowd.name);
    }
    assert!(agent.resident()? < 24 * 1024, "{} kB", agent.resident()?);
    Ok(())
}

#[test]
fn a_client_that_says_that_its_request_is_complete_is_answered() -> Result<()> {
    let lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    let _agent = listening(&lab)?;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let (answer, _) = ask(&lab, &format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n"), true)?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let (answer, _) = ask(&lab, &format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000)), false)?;
    assert!(answer.starts_with("HTTP/1.1 4"), "a head that is too long: {answer}");
    Ok(())
}
