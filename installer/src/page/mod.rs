//! `--page`: a page for people without kubectl, about all nodes, over TLS, on a thread of its own. Read-only: it shows what can be
//! seen, and never asks clients or servers, or changes anything.
//!
//! Every agent serves the same page, and any of them asks all others ([`peers`]), because the broken node is the one that is
//! asked about. Who may ask is decided in [`gate`].

mod certificate;
mod gate;
mod host;
mod limit;
mod local;
mod peers;
mod question;
mod token;
mod viewer;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    header::{
        ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderMap, HeaderName,
        HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    },
};
use rustls::ServerConfig;
use tokio::{
    runtime,
    sync::{Mutex, Semaphore},
    task::{LocalSet, spawn_blocking},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};
use view::{Answer, Asked as AskedNode};

use self::{
    gate::{Asked, Gate, Refusal},
    host::Hosts,
    local::Local,
    peers::{NODE, PROOF, Peers},
    question::{Question, Scope},
    token::{Channel, Role},
};
use crate::{
    clients::{Client, PLAIN, accept, converse, listen, response},
    error::Error,
    log::PAGE,
    places::own_addresses,
    say::node_name,
};

/// The most clients at the same time: each has some tens of kilobytes of TLS.
const CLIENTS: usize = 64;
/// How many PVs may be asked about at the same time.
const QUESTIONS: usize = 4;
/// How old an answer may be that several get.
const FRESH: Duration = Duration::from_secs(1);
/// How long other nodes are waited for, and longer if they have to look for 3 s.
const PATIENCE: Duration = Duration::from_secs(3);
const LONG_PATIENCE: Duration = Duration::from_secs(5);
const JSON: &str = "application/json";

/// The page's files: path, type, content.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("static/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("static/style.css")),
    ("/script.js", "text/javascript; charset=utf-8", include_str!("static/script.js")),
    ("/icon.svg", "image/svg+xml", include_str!("static/icon.svg")),
];

/// What a browser is told to hold to.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Options of `run` about the page.
#[derive(clap::Args, Debug)]
#[group(id = "page_options")]
pub(crate) struct Options {
    /// Serve a read-only page about all nodes on this address, over TLS: see docs/page.md.
    #[arg(long, value_name = "ADDR:PORT", requires = "page_token")]
    page: Option<SocketAddr>,
    /// File with the token that lets somebody see the page's data.
    #[arg(long, value_name = "FILE", requires = "page")]
    page_token: Option<PathBuf>,
    /// Directory with the page's certificate, tls.crt and tls.key [default: a certificate of its own].
    #[arg(long, value_name = "DIR", requires = "page")]
    page_certificate: Option<PathBuf>,
    /// The other agents: a name with an address for each, such as a headless Service's, or a list of addresses.
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "page")]
    page_peers: Vec<String>,
    /// Names by which browsers reach the page, beside the node's name and address.
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "page")]
    page_host: Vec<String>,
}

/// Serves the page, if it is wanted, until the process ends.
pub(crate) fn start(options: &Options, bpffs: &Path, config: &Path, cri: Option<&Path>) -> Result<(), Error> {
    let (Some(address), Some(token)) = (options.page, &options.page_token) else { return Ok(()) };
    let fault = |source| Error::Listen { address, source };
    let runtime = runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build();
    let runtime = runtime.map_err(fault)?;
    let listener = listen(&runtime, address).map_err(fault)?;
    let (node, peers) = (node_name(), Peers::new(&options.page_peers, address.port())?);
    let gate = Gate::new(token, Hosts::new(&node, &options.page_host));
    if let Err(error) = gate.token() {
        warn!(target: PAGE, "{error}"); // until there is one, nobody sees anything
    }
    let tls = tls(options, &node, address)?;
    let local = Arc::new(Local::new(bpffs, config, cri, node));
    let serve = move || {
        let page = Rc::new(Page::new(gate, local, peers));
        let each = |client| serve(client, TlsAcceptor::from(Arc::clone(&tls)), Rc::clone(&page));
        LocalSet::new().block_on(&runtime, accept(listener, CLIENTS, each));
    };
    thread::Builder::new().name("page".into()).spawn(serve).map_err(fault)?;
    Ok(())
}

/// TLS for the page at `address`; says how to recognize a certificate of its own.
fn tls(options: &Options, node: &str, address: SocketAddr) -> Result<Arc<ServerConfig>, Error> {
    let names = [&[node.to_owned()], options.page_host.as_slice()].concat();
    let (tls, fingerprint) =
        certificate::server(options.page_certificate.as_deref(), &names, &own_addresses())?;
    let with = fingerprint
        .map_or("the given certificate".into(), |print| format!("a certificate of its own, SHA-256 {print}"));
    info!(target: PAGE, "serving the page at {address} with {with}");
    Ok(tls)
}

async fn serve(client: Client, tls: TlsAcceptor, page: Rc<Page>) {
    if !page.gate.lets_in(client.address.ip(), Instant::now()) {
        return;
    }
    let Ok(to) = client.stream.local_addr() else { return };
    let Ok(stream) = tls.accept(client.stream).await else { return };
    let Some(channel) = Channel::of(stream.get_ref().1) else { return };
    let (from, to) = (client.address.ip(), to.ip());
    let answer = |request: Request<Incoming>| {
        let page = Rc::clone(&page);
        async move { page.answer(&request, from, to, &channel).await }
    };
    converse(stream, &client.has_asked, answer).await;
}

/// Where answers come from.
struct Page {
    gate: Gate,
    local: Arc<Local>,
    peers: Rc<Peers>,
    questions: Semaphore,
    /// The last answers to what everybody asks, and when they were given; locked while one is gathered, so that those who ask
    /// meanwhile get the same.
    last: [[Last; 2]; 2],
}

type Last = Mutex<Option<(Instant, Bytes)>>;

impl Page {
    fn new(gate: Gate, local: Arc<Local>, peers: Peers) -> Self {
        Self {
            gate,
            local,
            peers: Rc::new(peers),
            questions: Semaphore::new(QUESTIONS),
            last: Default::default(),
        }
    }

    async fn answer(
        &self,
        request: &Request<Incoming>,
        from: IpAddr,
        to: IpAddr,
        channel: &Channel,
    ) -> Response<Full<Bytes>> {
        let (uri, headers) = (request.uri(), request.headers());
        let question = uri.path_and_query().map_or("/", |question| question.as_str());
        let is_for_data = uri.path().starts_with("/api/");
        let authorization = one(headers, AUTHORIZATION);
        let asked = Asked {
            from,
            to,
            method: request.method(),
            host: host(uri, headers),
            authorization,
            question,
            channel,
            is_for_data,
        };
        let mut response = match self.gate.admit(&asked, Instant::now()) {
            Err(refusal) => refused(refusal),
            Ok(()) if is_for_data => self.data(uri, question, channel).await,
            Ok(()) => file(uri.path()),
        };
        for (name, value) in HEADERS {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }

    /// The answer to somebody who knows the token.
    async fn data(&self, uri: &Uri, question: &str, channel: &Channel) -> Response<Full<Bytes>> {
        let mut response = match Question::read(uri.path(), uri.query().unwrap_or_default()) {
            None => response(StatusCode::NOT_FOUND, PLAIN, "not found\n"),
            Some(Err(wrong)) => response(StatusCode::BAD_REQUEST, PLAIN, wrong + "\n"),
            Some(Ok((asked, scope))) => self.look(asked, scope, question).await,
        };
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let proof = self.gate.token().ok().map(|token| token.prove(Role::Answers, channel, question));
        for (name, value) in [(PROOF, proof), (NODE, Some(self.local.node.clone()))] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
                headers.insert(name, value);
            }
        }
        response
    }

    async fn look(&self, asked: Question, scope: Scope, question: &str) -> Response<Full<Bytes>> {
        let ask = question.replacen("/api/", "/api/node/", 1);
        let body = match asked {
            Question::Members => {
                let gather = async { json(&self.gather(scope, &ask, PATIENCE, Local::members).await) };
                self.shared(0, scope, gather).await
            }
            Question::Seen => {
                let gather = async {
                    let mut seen = self.gather(scope, &ask, PATIENCE, Local::seen).await;
                    if scope == Scope::Cluster {
                        seen.answers.clear(); // only nodes need them, to know what is answered elsewhere
                    }
                    json(&seen)
                };
                self.shared(1, scope, gather).await
            }
            Question::Why { pv, from, protocol } => {
                let Ok(_permit) = self.questions.try_acquire() else {
                    let busy = format!("{QUESTIONS} PVs are being asked about: ask again in some seconds\n");
                    return response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, busy);
                };
                let look = move |local: &Local| local.why(&pv, from, protocol);
                json(&self.gather(scope, &ask, LONG_PATIENCE, look).await)
            }
        };
        response(StatusCode::OK, JSON, body)
    }

    /// What was answered last, if that is not long ago, else what `gather` finds.
    async fn shared(&self, kind: usize, scope: Scope, gather: impl Future<Output = Bytes>) -> Bytes {
        let mut last = self.last[kind][scope as usize].lock().await;
        if let Some((when, body)) = &*last
            && when.elapsed() < FRESH
        {
            return body.clone();
        }
        let body = gather.await;
        *last = Some((Instant::now(), body.clone()));
        body
    }

    /// The answer of this node, or of all of them; a node that cannot tell is named with the reason.
    async fn gather<A: Answer + Send + 'static>(
        &self,
        scope: Scope,
        question: &str,
        patience: Duration,
        look: impl FnOnce(&Local) -> Result<A, String> + Send + 'static,
    ) -> A {
        let local = Arc::clone(&self.local);
        let here = spawn_blocking(move || look(&local));
        let there = match (scope, self.gate.token()) {
            (Scope::Cluster, Ok(token)) => self.peers.ask(question, Rc::new(token), patience).await,
            _ => vec![],
        };
        let here =
            timeout(patience, here).await.unwrap_or_else(|_| Ok(Err("it is too busy to answer".into())));
        let here = here.unwrap_or_else(|error| Err(error.to_string()));
        let failed =
            |error| A::nothing(vec![AskedNode { node: self.local.node.clone(), error: Some(error) }]);
        let mut all = here.unwrap_or_else(failed);
        let merged = spawn_blocking(move || {
            all.merge_all(there);
            all
        });
        merged.await.unwrap_or_else(|error| failed(error.to_string()))
    }
}

fn json(answer: &impl Answer) -> Bytes {
    serde_json::to_vec(answer).unwrap_or_default().into()
}

fn refused(refusal: Refusal) -> Response<Full<Bytes>> {
    let mut response = response(refusal.status(), PLAIN, refusal.text());
    if refusal == Refusal::Method {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    }
    response
}

fn file(path: &str) -> Response<Full<Bytes>> {
    match FILES.iter().find(|(name, ..)| *name == path) {
        Some((_, kind, content)) => {
            let mut response = response(StatusCode::OK, kind, *content);
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        }
        None => response(StatusCode::NOT_FOUND, PLAIN, "not found\n"),
    }
}

/// The name by which the page is asked for.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let named = one(headers, HOST);
    uri.authority().map_or(named, |authority| Some(authority.as_str()))
}

/// A header's value, if it is there once.
fn one(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Colours of the style sheet by name, of one scheme.
    fn colours(block: &str) -> HashMap<&str, [f64; 3]> {
        let pairs = block.lines().filter_map(|line| line.trim().strip_prefix("--")?.split_once(": #"));
        let channel = |hex: &str, at: usize| {
            let value = f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        pairs.map(|(name, hex)| (name, [0, 2, 4].map(|at| channel(hex, at)))).collect()
    }

    /// The contrast of two colours (WCAG 2.2).
    fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
        let light = |[r, g, b]: [f64; 3]| 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
        let (one, other) = (light(one), light(other));
        one.max(other) / one.min(other)
    }

    #[test]
    fn all_text_has_enough_contrast_in_both_schemes() {
        let style = FILES[1].2;
        let (light, dark) = style.split_once("prefers-color-scheme").unwrap();
        for (scheme, block) in [("light", light), ("dark", &dark[..dark.find("* {").unwrap()])] {
            let colours = colours(block);
            for ground in ["ground", "raised", "notice"] {
                for text in ["text", "soft", "accent", "good", "bad", "doubt"] {
                    let found = contrast(colours[text], colours[ground]);
                    assert!(found >= 4.5, "{scheme}: {text} on {ground} has {found:.2}");
                }
            }
            assert!(contrast(colours["on-accent"], colours["accent"]) >= 4.5, "{scheme}");
        }
    }

    #[test]
    fn the_page_puts_in_text_only_and_loads_nothing_from_elsewhere() {
        for (path, _, content) in FILES {
            for wrong in [
                "innerHTML",
                "outerHTML",
                "insertAdjacent",
                "document.write",
                "eval(",
                "http:",
                "https:",
                "style=",
                "onclick",
            ] {
                let found = content.replace("http://www.w3.org/2000/svg", "").contains(wrong);
                assert!(!found, "{path} has {wrong}");
            }
        }
    }
}
