//! The other agents: where they are, and what they answer.

use std::{
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{AUTHORIZATION, HOST},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    task::{spawn_blocking, spawn_local},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use view::{Answer, Asked};

use super::{
    certificate,
    token::{Channel, Role, Token},
};
use crate::{
    error::Error,
    places::{Found, Place, parse, resolve},
};

/// The header in which an agent proves that it knows the token.
pub(super) const PROOF: &str = "iocast-proof";
/// The header in which it names its node.
pub(super) const NODE: &str = "iocast-node";
/// How long addresses are waited for.
const RESOLUTION: Duration = Duration::from_secs(2);
/// The longest answer that is read, in bytes.
const LONGEST: usize = 8 << 20;

/// The other agents.
pub(super) struct Peers {
    /// Names or addresses, with ports.
    places: Arc<[Place]>,
    tls: Arc<ClientConfig>,
    /// Nodes' names, as they answered before.
    names: Mutex<HashMap<SocketAddr, String>>,
    /// Where they were found last.
    last: Mutex<Found>,
    /// Whether a look-up is on its way: one that hangs, as in a failure of DNS, must not be joined by others.
    looking: Arc<Semaphore>,
}

impl Peers {
    /// Those at `places`, each a name or an address, with a port or at `port`.
    pub(super) fn new(places: &[String], port: u16) -> Result<Self, Error> {
        let places = places.iter().map(|place| parse(place, port)).collect();
        let looking = Arc::new(Semaphore::new(1));
        Ok(Self {
            places,
            tls: certificate::client()?,
            names: Mutex::default(),
            last: Mutex::default(),
            looking,
        })
    }

    /// What all of them answer to `question`, a path and a query; those that do not in `patience` are named with the reason.
    pub(super) async fn ask<A: Answer + 'static>(
        self: &Rc<Self>,
        question: &str,
        token: Rc<Token>,
        patience: Duration,
    ) -> Vec<A> {
        let (addresses, mut answers) = self.find().await;
        let tasks: Vec<_> = addresses
            .into_iter()
            .map(|address| {
                let (peers, token, question) = (Rc::clone(self), Rc::clone(&token), question.to_owned());
                spawn_local(async move { peers.ask_one(address, &question, &token, patience).await })
            })
            .collect();
        for task in tasks {
            answers.extend(task.await.ok());
        }
        answers
    }

    /// Where they are now, but not this node; and an answer for each name that leads nowhere.
    async fn find<A: Answer>(&self) -> (Vec<SocketAddr>, Vec<A>) {
        if self.places.is_empty() {
            return (vec![], vec![]);
        }
        let (found, lost) = self.look_up().await.unwrap_or_else(|| self.remembered());
        let fault = |(name, why)| failed(name, format!("its addresses cannot be found: {why}"));
        (found, lost.into_iter().map(fault).collect())
    }

    /// Looks all places up; none if that takes too long, or an earlier look-up still does.
    async fn look_up(&self) -> Option<Found> {
        let permit = Arc::clone(&self.looking).try_acquire_owned().ok()?;
        let places = Arc::clone(&self.places);
        let look = spawn_blocking(move || {
            let found = resolve(&places);
            drop(permit);
            found
        });
        let found = timeout(RESOLUTION, look).await.ok()?.ok()?;
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&found);
        Some(found)
    }

    /// Where they were before, and that nothing newer is known.
    fn remembered(&self) -> Found {
        let found = self.last.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
        (found, self.places.iter().map(|(name, _)| (name.clone(), "in 2 s".into())).collect())
    }

    async fn ask_one<A: Answer>(
        &self,
        to: SocketAddr,
        question: &str,
        token: &Token,
        patience: Duration,
    ) -> A {
        let asked = timeout(patience, self.exchange(to, question, token)).await;
        let late = || Err(format!("it has not answered in {} s", patience.as_secs()));
        asked.unwrap_or_else(|_| late()).unwrap_or_else(|why| failed(self.name(to), why))
    }

    fn name(&self, of: SocketAddr) -> String {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(&of).cloned().unwrap_or_else(|| of.ip().to_string())
    }

    /// Asks one, which has to prove that it knows the token before it is believed.
    async fn exchange<A: Answer>(&self, to: SocketAddr, question: &str, token: &Token) -> Result<A, String> {
        let (stream, channel) = self.connect(to).await?;
        let response = send(stream, to, question, &token.prove(Role::Asks, &channel, question)).await?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let (proof, node) = (header(PROOF).unwrap_or_default(), header(NODE).unwrap_or_default().to_owned());
        if !token.is_proved(Role::Answers, &channel, question, proof) {
            return Err(match response.status() {
                StatusCode::UNAUTHORIZED => "it has another token".into(),
                status => format!("it does not prove that it knows the token ({status})"),
            });
        }
        if response.status() != StatusCode::OK {
            return Err(format!("it answered {}", response.status()));
        }
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(to, node);
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(|error| format!("its answer is broken: {error}"))?.to_bytes();
        serde_json::from_slice(&body).map_err(|_| "its answer is of another version".into())
    }

    async fn connect(&self, to: SocketAddr) -> Result<(TlsStream<TcpStream>, Channel), String> {
        let stream =
            TcpStream::connect(to).await.map_err(|error| format!("it cannot be reached: {error}"))?;
        let name = ServerName::from(to.ip());
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
        let stream = stream.map_err(|error| format!("no TLS with it: {error}"))?;
        let channel = Channel::of(stream.get_ref().1).ok_or("no TLS with it: no secret")?;
        Ok((stream, channel))
    }
}

async fn send(
    stream: TlsStream<TcpStream>,
    to: SocketAddr,
    question: &str,
    proof: &str,
) -> Result<Response<Incoming>, String> {
    let fault = |error: &dyn std::fmt::Display| format!("it does not answer: {error}");
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| fault(&error))?;
    spawn_local(async { drop(connection.await) }); // ends with what is read of it
    let request = Request::get(question)
        .header(HOST, to.to_string())
        .header(AUTHORIZATION, format!("Iocast {proof}"))
        .body(Empty::<Bytes>::new());
    sender.send_request(request.map_err(|error| fault(&error))?).await.map_err(|error| fault(&error))
}

/// The answer of a node that did not answer.
fn failed<A: Answer>(node: String, why: String) -> A {
    A::nothing(vec![Asked { node, error: Some(why) }])
}
