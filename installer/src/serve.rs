//! `--listen`: `/metrics`, `/healthz` and `/readyz` over HTTP, and `/duplicates` for this node alone, read-only, on threads of their own, so that no client can hold
//! up the agent.
//!
//! Nor can clients hold up each other. All are accepted at once; if there are too many, one has to leave. The maps are read
//! beside that, at most twice a second, whoever asks how often.

use std::{
    cell::Cell,
    collections::HashMap,
    convert::Infallible,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use abi::{LanAddress, Protocol, TCP, UDP, Verdict, share};
use datapath::{State, printable, printable::json};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::{self, Runtime},
    task::{JoinHandle, LocalSet, spawn_blocking, spawn_local, yield_now},
    time::{sleep, timeout},
};

use crate::{
    addresses::STANDINGS,
    error::Error,
    metrics::{Conntrack, Domain, Domains, Progress, STARTING, not_alive, not_ready, render},
    uplink,
};

/// The most clients at the same time.
const CLIENTS: usize = 256;
/// How many there may be of those that have asked and wait for their answer.
const ANSWERS: usize = 4 * CLIENTS;
/// Connections that the kernel completes before they are accepted: a client beyond them would try again after a second.
const BACKLOG: u32 = 1024;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest head of a request, in bytes; the least that hyper takes.
const LONGEST_HEAD: usize = 8192;
/// How old what was read from the maps may be.
const FRESH: Duration = Duration::from_millis(500);
const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The agent's progress, shared between its loop, which publishes it, and the server.
#[derive(Clone, Debug)]
pub(crate) struct SharedProgress(Arc<Mutex<(Instant, Option<Progress>)>>);

impl SharedProgress {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new((Instant::now(), None))))
    }

    /// Publishes the progress after a pass.
    pub(crate) fn publish(&self, progress: Progress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), Some(progress));
    }

    /// How long ago the last pass was, or the start, and the progress then; none before the first pass.
    fn read(&self) -> (Duration, Option<Progress>) {
        let shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (shared.0.elapsed(), shared.1.clone())
    }
}

/// Serves at `address` until the process ends.
pub(crate) fn start(address: SocketAddr, bpffs: &Path, progress: &SharedProgress) -> Result<(), Error> {
    let fault = |source| Error::Listen { address, source };
    let runtime =
        runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().map_err(fault)?;
    let listener = listen(&runtime, address).map_err(fault)?;
    let source = Arc::new(Source::new(bpffs, progress));
    let serve = move || LocalSet::new().block_on(&runtime, accept(listener, source));
    thread::Builder::new().name("serve".into()).spawn(serve).map_err(fault)?;
    Ok(())
}

fn listen(runtime: &Runtime, address: SocketAddr) -> io::Result<TcpListener> {
    let _within = runtime.enter();
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, source: Arc<Source>) {
    let mut clients: Vec<Client> = vec![]; // the oldest first
    loop {
        let (client, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue, // its client has gone
            Err(_) => {
                sleep(Duration::from_millis(100)).await; // out of descriptors, for example
                continue;
            }
        };
        clients.retain(|client| !client.task.is_finished());
        let waiting: Vec<_> = (0..clients.len()).filter(|index| !clients[*index].has_asked.get()).collect();
        let crowded = if waiting.is_empty() { ANSWERS } else { CLIENTS };
        if clients.len() >= crowded {
            let candidates = if waiting.is_empty() { (0..clients.len()).collect() } else { waiting };
            let places: Vec<_> = candidates.iter().map(|index| clients[*index].address).collect();
            clients.remove(candidates[least_deserving(&places)]).task.abort();
        }
        let has_asked = Rc::new(Cell::new(false));
        let task = spawn_local(serve(client, address.ip(), Arc::clone(&source), Rc::clone(&has_asked)));
        clients.push(Client { address: address.ip(), has_asked, task });
        yield_now().await; // or those who come at the same time would drive out one that has asked already
    }
}

/// A client that is being served.
struct Client {
    address: IpAddr,
    /// Whether its request is complete: what is left to do for it does not depend on it.
    has_asked: Rc<Cell<bool>>,
    task: JoinHandle<()>,
}

/// Which of the clients at these addresses has to leave: the oldest of the address that has most of them. So one host cannot
/// drive out another, and of many that connect and say nothing none stays long.
fn least_deserving(clients: &[IpAddr]) -> usize {
    let mut shares = HashMap::<_, usize>::new();
    clients.iter().for_each(|address| *shares.entry(address).or_default() += 1);
    let most = shares.values().max();
    clients.iter().position(|address| shares.get(address) == most).unwrap_or(0)
}

async fn serve(client: TcpStream, address: IpAddr, source: Arc<Source>, has_asked: Rc<Cell<bool>>) {
    let answer = service_fn(|request: Request<Incoming>| {
        has_asked.set(true);
        let source = Arc::clone(&source);
        async move {
            let path = request.uri().path();
            Ok::<_, Infallible>(source.answer(request.method(), path, address.is_loopback()).await)
        }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .half_close(true) // a client may say that its request is complete
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(client), answer);
    let _ = timeout(PATIENCE, served).await; // a client that disconnects is not an error
}

/// What there is to say about the node.
#[derive(Clone)]
struct View {
    metrics: Bytes,
    /// Why it is not ready.
    reasons: Vec<String>,
}

impl View {
    fn read(bpffs: &Path, progress: Option<Progress>) -> Self {
        let domains = domains(bpffs);
        let lost = datapath::events_lost(bpffs).ok();
        let metrics =
            render(&progress.clone().unwrap_or_default(), domains.as_ref().ok(), conntrack(), lost).into();
        let reasons = match (progress, domains) {
            (None, _) => vec![STARTING.into()],
            (Some(progress), Ok(domains)) => not_ready(&progress, &domains),
            (_, Err(error)) => vec![error.to_string()],
        };
        Self { metrics, reasons }
    }
}

/// Where answers come from.
struct Source {
    bpffs: PathBuf,
    progress: SharedProgress,
    /// What was read last, and when; locked while it is read, so that others who ask meanwhile wait for it.
    last: Arc<tokio::sync::Mutex<Option<(Instant, View)>>>,
}

impl Source {
    fn new(bpffs: &Path, progress: &SharedProgress) -> Self {
        Self { bpffs: bpffs.into(), progress: progress.clone(), last: Arc::default() }
    }

    /// `is_local`: whether it is this node that asks, which may know the names of PVs.
    async fn answer(&self, method: &Method, path: &str, is_local: bool) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            let mut response =
                response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD are allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/metrics" => response(StatusCode::OK, OPENMETRICS, self.view().await.metrics),
            "/healthz" => {
                let (since, progress) = self.progress.read();
                verdict(not_alive(since, progress.as_ref()).as_slice())
            }
            "/readyz" => verdict(&self.view().await.reasons),
            "/duplicates" if is_local => self.duplicates(),
            _ => response(
                StatusCode::NOT_FOUND,
                PLAIN,
                "not found: this serves /metrics, /healthz and /readyz\n",
            ),
        }
    }

    /// What the agent's look for duplicates has found; no content if it does not look.
    fn duplicates(&self) -> Response<Full<Bytes>> {
        let found = self.progress.read().1.and_then(|progress| progress.duplicates);
        let text = found.and_then(|found| serde_json::to_string(&found.duplicates).ok());
        match text {
            Some(text) => response(StatusCode::OK, JSON, json(&text) + "\n"),
            None => response(StatusCode::NO_CONTENT, JSON, ""),
        }
    }

    /// What there is to say now, or was a moment ago.
    async fn view(&self) -> View {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some((read, view)) = &*last
            && read.elapsed() < FRESH
        {
            return view.clone();
        }
        let (now, bpffs, progress) = (Instant::now(), self.bpffs.clone(), self.progress.read().1);
        // The lock goes with the read: whoever asked may be driven out, but what he began is not begun once more.
        match spawn_blocking(move || last.insert((now, View::read(&bpffs, progress))).1.clone()).await {
            Ok(view) => view,
            Err(error) => View { metrics: Bytes::new(), reasons: vec![error.to_string()] }, // it panicked
        }
    }
}

/// 200 without reasons against it, otherwise 503 with a line for each.
fn verdict(reasons: &[String]) -> Response<Full<Bytes>> {
    if reasons.is_empty() {
        return response(StatusCode::OK, PLAIN, "ok\n");
    }
    let lines: String = reasons.iter().map(|reason| printable(reason) + "\n").collect();
    response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, lines)
}

fn response(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The current contents of the maps. They are reopened every time: another agent may have replaced them.
fn domains(bpffs: &Path) -> datapath::Result<Domains> {
    let state = State::open(bpffs)?;
    let (counters, attachments) = (state.counters()?, state.attachments()?);
    let addresses = state.lan_addresses()?;
    let mut found = Domains::new();
    for (number, domain) in state.domains()? {
        let ports = |protocol: u8| state.taken(share::of_domain(number, protocol.into()));
        let counted = counters.iter().filter(|counter| counter.domain == number);
        let counted = counted.map(|counter| {
            Ok((state.protocol_name(counter.protocol)?, counter.verdict.name(), counter.packets))
        });
        // An alert on growth needs to see the 0: a counter that only appears later has not grown.
        let none = Protocol::ALL.iter().filter(|protocol| protocol.described().is_none());
        let none =
            none.map(|protocol| (*protocol, Verdict::NoPort)).chain([(Protocol::Other, Verdict::NoCircuit)]);
        let none = none.map(|(protocol, verdict)| Ok((protocol.name().into(), verdict.name(), 0)));
        found.insert(
            abi::text(&domain.name).into(),
            Domain {
                uplink_trouble: uplink::trouble(bpffs, domain.uplink)?,
                members: attachments.iter().filter(|(_, attachment)| attachment.domain == number).count(),
                ports: ports(TCP)?.max(ports(UDP)?) as usize,
                ports_limit: domain.ports as usize,
                circuits: usize::try_from(state.circuits(number)?).unwrap_or(usize::MAX),
                circuits_limit: domain.circuits as usize,
                addresses: by_standing(number, &addresses),
                packets: counted.chain(none).collect::<datapath::Result<_>>()?,
            },
        );
    }
    Ok(found)
}

/// How many addresses of a domain have each standing.
fn by_standing(domain: u16, addresses: &[(abi::Address, LanAddress)]) -> Vec<(&'static str, usize)> {
    let count = |standing: u16| {
        let have = |entry: &LanAddress| (entry.domain, entry.standing) == (domain, standing);
        addresses.iter().filter(|(_, entry)| have(entry)).count()
    };
    STANDINGS.iter().map(|(standing, name)| (*name, count(*standing))).collect()
}

/// How full the node's conntrack table is; none if there is none.
fn conntrack() -> Option<Conntrack> {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}")).ok()?;
        text.trim().parse().ok()
    };
    Some(Conntrack { entries: read("count")?, limit: read("max")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who has to leave among clients at these addresses, each a digit.
    fn leaves(clients: &str) -> usize {
        let address = |digit: char| IpAddr::from([127, 0, 0, digit as u8]);
        least_deserving(&clients.chars().map(address).collect::<Vec<_>>())
    }

    #[test]
    fn the_oldest_client_of_the_address_that_has_most_leaves() {
        assert_eq!(leaves("1234"), 0, "of many the oldest");
        assert_eq!(leaves("12222"), 1, "never the only one of its host");
        assert_eq!(leaves("2122321"), 0);
        assert_eq!(leaves("331122"), 0, "of equals the oldest");
    }
}
