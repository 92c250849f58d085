//! Searches between the subnets of a domain. Broadcasts end at routers: so one node of a subnet, chosen by hellos, gives what its LAN
//! asks to one node of each other subnet, which says it there as if the searcher had. Answers and circuits go straight.
//!
//! On a thread of its own. While it does not run, only searches between subnets wait: nothing on the node's own LAN depends on it.

mod crossing;
mod envelope;
mod hellos;
mod message;
mod names;
mod report;
mod site;
mod subnet;
mod told;

use std::{
    collections::{HashMap, hash_map::Entry},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};

#[cfg(test)]
pub(crate) use self::report::PeerReport;
use self::{hellos::PERIOD, names::Names, site::Site, told::Told};
pub(crate) use self::{
    report::{Report, State, text},
    told::ask,
};
use crate::{
    ask::wait::wait,
    config::{Config, DomainConfig},
    say::node_name,
};

/// Time between two looks at keys, uplinks and peers, and between two reports.
const LOOK: Duration = Duration::from_secs(1);
/// The longest wait.
const NAP: Duration = Duration::from_millis(100);
/// The same while nothing is wanted.
const IDLE: Duration = Duration::from_secs(3600);
/// Datagrams that are read before anything else gets its turn.
const BATCH: usize = 512;
/// Bytes of the longest datagram.
const LONGEST: usize = 65536;
/// Bytes that may wait for us: some thousand copies.
const ROOM: usize = 4 << 20;

/// The relay, beside the agent's loop.
pub(crate) struct Relay {
    shared: Arc<Mutex<Shared>>,
    wake: UnixStream,
}

#[derive(Default)]
struct Shared {
    /// The domains that have other subnets.
    wanted: Vec<DomainConfig>,
    reports: Vec<Report>,
}

impl Relay {
    /// Begins to relay once it is wanted.
    pub(crate) fn start() -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        wake.set_nonblocking(true)?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let names = Names::start()?;
        let worker = Worker {
            shared: Arc::clone(&shared),
            woken,
            names,
            node: node_name(),
            sites: vec![],
            sockets: HashMap::new(),
            faults: HashMap::new(),
            told: None,
            buffer: vec![0; LONGEST],
        };
        thread::Builder::new().name("relay".into()).spawn(move || worker.run())?;
        Ok(Self { shared, wake })
    }

    /// Relays from now on as `config` says.
    pub(crate) fn want(&self, config: &Config) {
        let wanted: Vec<_> =
            config.domains.iter().filter(|domain| domain.subnets.is_some()).cloned().collect();
        let mut shared = lock(&self.shared);
        if shared.wanted != wanted {
            shared.wanted = wanted;
            let _ = (&self.wake).write(&[0]); // if it does not fit, one is on its way
        }
    }

    /// How it is, by domain.
    pub(crate) fn reports(&self) -> Vec<Report> {
        lock(&self.shared).reports.clone()
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that relays.
struct Worker {
    shared: Arc<Mutex<Shared>>,
    woken: UnixStream,
    names: Names,
    node: String,
    sites: Vec<Site>,
    /// By their ports.
    sockets: HashMap<u16, UdpSocket>,
    /// Why there is none.
    faults: HashMap<u16, String>,
    /// Answers those who ask how it is.
    told: Option<Told>,
    buffer: Vec<u8>,
}

impl Worker {
    fn run(mut self) {
        let (mut greet, mut look) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            if self.is_woken() || now >= look {
                self.look();
                look = now + if self.sites.iter().any(Site::is_waiting) { NAP } else { LOOK };
            }
            if now >= greet {
                self.greet();
                greet = now + PERIOD;
            }
            self.receive();
            self.relay();
            if let Some(told) = &self.told {
                told.answer(|| lock(&self.shared).reports.clone());
            }
            self.wait(greet.min(look));
        }
    }

    fn is_woken(&mut self) -> bool {
        self.woken.read(&mut [0; 64]).is_ok()
    }

    /// Waits for something to do: for as long as nothing is wanted, if that is so.
    fn wait(&self, until: Instant) {
        let mut sources = vec![self.woken.as_fd()];
        sources.extend(self.sockets.values().map(|socket| socket.as_fd()));
        sources.extend(self.sites.iter().filter_map(Site::source));
        sources.extend(self.told.as_ref().map(|told| told.as_fd()));
        let time = until.saturating_duration_since(Instant::now()).min(NAP);
        wait(&sources, if self.sites.is_empty() { IDLE } else { time });
    }

    /// Looks at what is wanted, and at what there is.
    fn look(&mut self) {
        let wanted = lock(&self.shared).wanted.clone();
        self.sites.retain(|site| wanted.iter().any(|domain| domain.name == site.domain.name));
        for domain in wanted {
            let Some(settings) = domain.subnets.clone() else { continue };
            match self.sites.iter_mut().find(|site| site.domain.name == domain.name) {
                Some(site) if site.domain == domain => {}
                Some(site) => site.follow(domain, settings),
                None => self.sites.push(Site::new(domain, settings, self.node.clone())),
            }
        }
        self.open_sockets();
        let places = self.sites.iter().map(|site| (site.domain.name.clone(), site.settings.places()));
        self.names.want(places.collect());
        for site in &mut self.sites {
            let (addresses, lost) = self.names.found(&site.domain.name);
            site.look(&addresses, &lost, self.faults.get(&site.settings.port).cloned());
        }
        self.told = if self.sites.is_empty() { None } else { self.told.take().or_else(|| Told::open().ok()) };
        let reports = self.sites.iter_mut().map(Site::report).collect();
        lock(&self.shared).reports = reports;
    }

    fn open_sockets(&mut self) {
        let ports: Vec<u16> = self.sites.iter().map(|site| site.settings.port).collect();
        self.sockets.retain(|port, _| ports.contains(port));
        self.faults.clear();
        for port in ports {
            let Entry::Vacant(place) = self.sockets.entry(port) else { continue };
            match open_socket(port) {
                Ok(socket) => _ = place.insert(socket),
                Err(error) => {
                    self.faults.insert(port, format!("cannot listen at UDP port {port}: {error}"));
                }
            }
        }
    }

    fn greet(&mut self) {
        for site in &mut self.sites {
            if let Some(socket) = self.sockets.get(&site.settings.port) {
                let _ = send(socket, &site.greet());
            }
        }
    }

    /// Takes what other agents have sent.
    fn receive(&mut self) {
        for (port, socket) in &self.sockets {
            for _ in 0..BATCH {
                let (length, from) = match socket.recv_from(&mut self.buffer) {
                    Ok((length, SocketAddr::V4(from))) => (length, from),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    _ => continue, // of IPv6, or an ICMP error about what we sent
                };
                let datagram = &self.buffer[..length];
                if let Some(site) = addressee(&mut self.sites, *port, from, datagram)
                    && let Some(answer) = site.hear(from, datagram)
                {
                    let _ = send(socket, &[(from, answer)]);
                }
            }
        }
    }

    /// Sends others what has passed the uplinks.
    fn relay(&mut self) {
        for site in &mut self.sites {
            let post = site.take_in();
            let sent = self.sockets.get(&site.settings.port).map_or(0, |socket| send(socket, &post));
            site.count(sent, post.len() - sent);
        }
    }
}

/// The domain that a datagram is for; one for none is counted as foreign by a domain of this port.
fn addressee<'a>(
    sites: &'a mut [Site],
    port: u16,
    from: SocketAddrV4,
    datagram: &[u8],
) -> Option<&'a mut Site> {
    let at_port = |site: &Site| site.settings.port == port;
    let place = sites.iter().position(|site| at_port(site) && site.has_tag(datagram));
    if place.is_none() {
        let blamed = sites.iter().position(|site| at_port(site) && site.has_peer(from));
        let blamed = blamed.or_else(|| sites.iter().position(at_port))?;
        sites[blamed].refuse_foreign();
    }
    sites.get_mut(place?)
}

fn open_socket(port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    socket.set_nonblocking(true)?;
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &ROOM); // without it, it loses more in a storm
    Ok(socket)
}

/// Sends datagrams, and returns how many have left; what has not is lost, as on any network.
fn send(socket: &UdpSocket, post: &[(SocketAddrV4, Vec<u8>)]) -> usize {
    post.iter().filter(|(to, datagram)| socket.send_to(datagram, to).is_ok()).count()
}
