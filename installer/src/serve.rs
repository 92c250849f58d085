//! `--listen`: `/metrics`, `/healthz` and `/readyz` over HTTP, and `/duplicates` for this node alone, read-only, on threads of
//! their own, so that no client can hold up the agent. The maps are read beside that, at most twice a second, whoever asks how
//! often.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
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
    header::{ALLOW, HeaderValue},
};
use tokio::{
    runtime,
    task::{LocalSet, spawn_blocking},
};

use crate::{
    addresses::STANDINGS,
    clients::{Client, PLAIN, accept, converse, listen, response},
    error::Error,
    metrics::{Conntrack, Domain, Domains, Progress, STARTING, not_alive, not_ready, render},
    uplink,
};

/// The most clients at the same time.
const CLIENTS: usize = 256;
/// How old what was read from the maps may be.
const FRESH: Duration = Duration::from_millis(500);
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
    let each = move |client| serve(client, Arc::clone(&source));
    let serve = move || LocalSet::new().block_on(&runtime, accept(listener, CLIENTS, each));
    thread::Builder::new().name("serve".into()).spawn(serve).map_err(fault)?;
    Ok(())
}

async fn serve(client: Client, source: Arc<Source>) {
    let is_local = client.address.ip().is_loopback();
    let answer = |request: Request<Incoming>| {
        let source = Arc::clone(&source);
        async move { source.answer(request.method(), request.uri().path(), is_local).await }
    };
    converse(client.stream, &client.has_asked, answer).await;
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
        let state = State::open(bpffs); // every time: another agent may have replaced the maps
        let refused = state.as_ref().map_or(vec![], |state| state.refused().unwrap_or_default());
        let domains = state.and_then(|state| domains(bpffs, &state));
        let lost = datapath::events_lost(bpffs).ok();
        let metrics =
            render(&progress.clone().unwrap_or_default(), domains.as_ref().ok(), conntrack(), lost, &refused)
                .into();
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

/// The current contents of the maps.
fn domains(bpffs: &Path, state: &State) -> datapath::Result<Domains> {
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
                latencies: state.latencies(number)?,
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
