//! `--listen`: `/metrics`, `/healthz` and `/readyz` over HTTP, on a read-only thread, so that no client can hold up the
//! agent.

use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use abi::{Protocol, TCP, UDP, Verdict, share};
use datapath::{Hook, State, is_attached, link};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{runtime, sync::Semaphore, task::LocalSet, time::timeout};

use crate::{
    error::Error,
    metrics::{Domain, Domains, Progress, not_alive, not_ready, render},
};

/// Clients served at the same time; more have to wait.
const CLIENTS: usize = 16;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(10);
const PLAIN: &str = "text/plain; charset=utf-8";
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
    let listener = TcpListener::bind(address).map_err(fault)?;
    listener.set_nonblocking(true).map_err(fault)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(fault)?;
    let source = Arc::new(Source { bpffs: bpffs.into(), progress: progress.clone() });
    let serve = move || LocalSet::new().block_on(&runtime, accept(listener, source));
    thread::Builder::new().name("serve".into()).spawn(serve).map_err(fault)?;
    Ok(())
}

async fn accept(listener: TcpListener, source: Arc<Source>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let places = Arc::new(Semaphore::new(CLIENTS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors, for example
            continue;
        };
        let source = Arc::clone(&source);
        tokio::task::spawn_local(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let response = source.answer(request.method(), request.uri().path());
                async { Ok::<_, Infallible>(response) }
            });
            let served =
                http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(client), answer);
            let _ = timeout(PATIENCE, served).await; // a client that disconnects is not an error
            drop(place);
        });
    }
}

/// Where answers come from.
struct Source {
    bpffs: PathBuf,
    progress: SharedProgress,
}

impl Source {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            let mut response =
                response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD are allowed\n".into());
            response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let (age, progress) = self.progress.read();
        match path {
            "/metrics" => {
                let text = render(&progress.unwrap_or_default(), domains(&self.bpffs).ok().as_ref());
                response(StatusCode::OK, OPENMETRICS, text)
            }
            "/healthz" => verdict(not_alive(age).into_iter().collect()),
            "/readyz" => verdict(match (progress, domains(&self.bpffs)) {
                (None, _) => vec!["the first pass is not complete".into()],
                (Some(progress), Ok(domains)) => not_ready(&progress, &domains),
                (_, Err(error)) => vec![error.to_string()],
            }),
            _ => response(
                StatusCode::NOT_FOUND,
                PLAIN,
                "not found: this serves /metrics, /healthz and /readyz\n".into(),
            ),
        }
    }
}

/// 200 without reasons against it, otherwise 503 with a line for each.
fn verdict(reasons: Vec<String>) -> Response<Full<Bytes>> {
    if reasons.is_empty() {
        return response(StatusCode::OK, PLAIN, "ok\n".into());
    }
    let lines = reasons.into_iter().map(|reason| reason + "\n").collect();
    response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, lines)
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

/// The current contents of the maps. They are reopened every time: another agent may have replaced them.
fn domains(bpffs: &Path) -> datapath::Result<Domains> {
    let state = State::open(bpffs)?;
    let (counters, attachments) = (state.counters()?, state.attachments()?);
    let mut found = Domains::new();
    for (number, domain) in state.domains()? {
        let ports = |protocol: u8| state.taken(share::of_domain(number, protocol.into()));
        let counted = counters.iter().filter(|counter| counter.domain == number);
        let counted = counted.map(|counter| {
            Ok((state.protocol_name(counter.protocol)?, counter.verdict.name(), counter.packets))
        });
        // An alert on growth needs to see the 0: a counter that only appears later has not grown.
        let none = Protocol::ALL.iter().filter(|protocol| protocol.described().is_none());
        let none = none.map(|protocol| Ok((protocol.name().into(), Verdict::NoPort.name(), 0)));
        found.insert(
            abi::text(&domain.name).into(),
            Domain {
                uplink_up: is_up(bpffs, domain.uplink)?,
                members: attachments.iter().filter(|(_, attachment)| attachment.domain == number).count(),
                ports: ports(TCP)?.max(ports(UDP)?) as usize,
                ports_limit: domain.ports as usize,
                packets: counted.chain(none).collect::<datapath::Result<_>>()?,
            },
        );
    }
    Ok(found)
}

/// Whether the uplink with this interface index, 0 for none, exists and has our programs attached.
fn is_up(bpffs: &Path, index: u32) -> datapath::Result<bool> {
    let device = if index == 0 { None } else { link::by_index(index)? };
    let Some(device) = device else { return Ok(false) };
    Ok(is_attached(bpffs, Hook::FromLan, &device)? && is_attached(bpffs, Hook::ToLan, &device)?)
}
