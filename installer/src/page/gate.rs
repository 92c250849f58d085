//! Who may ask for what: every request passes here first.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use hyper::{Method, StatusCode};

use super::{
    host::Hosts,
    limit::Limit,
    token::{Channel, Shown, Token},
};
use crate::error::Error;

/// A request, as far as it matters here.
pub(super) struct Asked<'a> {
    pub(super) from: IpAddr,
    /// The address to which it came.
    pub(super) to: IpAddr,
    pub(super) method: &'a Method,
    pub(super) host: Option<&'a str>,
    pub(super) authorization: Option<&'a str>,
    /// Path and query.
    pub(super) question: &'a str,
    pub(super) channel: &'a Channel,
    /// Whether it is for data, rather than for the page itself, which is the same everywhere.
    pub(super) is_for_data: bool,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Often,
    Method,
    Host,
    NoToken,
    WrongToken,
    Guessing,
    /// There is no token to compare with.
    Broken,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Often | Self::Guessing => StatusCode::TOO_MANY_REQUESTS,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::NoToken | Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::Broken => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Often => "too many requests of this host: wait some seconds\n",
            Self::Guessing => "too many wrong tokens of this host: wait a minute\n",
            Self::Method => "only GET is allowed\n",
            Self::Host => "not the name of this page: see --page-host\n",
            Self::NoToken => "a token is needed: Authorization: Bearer TOKEN\n",
            Self::WrongToken => "the token is wrong\n",
            Self::Broken => "the page's token cannot be read: see the agent's log\n",
        }
    }
}

/// What is checked.
pub(super) struct Gate {
    token: PathBuf,
    hosts: Hosts,
    connections: Mutex<Limit>,
    requests: Mutex<Limit>,
    wrong: Mutex<Limit>,
}

impl Gate {
    /// The token is read when it is needed.
    pub(super) fn new(token: &Path, hosts: Hosts) -> Self {
        // Somebody who looks asks for three files, then once or twice a second.
        let [connections, requests, wrong] = [(120.0, 20.0), (60.0, 10.0), (5.0, 0.1)]
            .map(|(at_once, a_second)| Mutex::new(Limit::new(at_once, a_second)));
        Self { token: token.into(), hosts, connections, requests, wrong }
    }

    pub(super) fn token(&self) -> Result<Token, Error> {
        Token::read(&self.token)
    }

    /// Whether a host may connect: TLS costs more than an answer.
    pub(super) fn lets_in(&self, host: IpAddr, now: Instant) -> bool {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let is_allowed = connections.allows(host, now);
        if is_allowed {
            connections.count(host, now);
        }
        is_allowed
    }

    /// Whether a request may be answered.
    pub(super) fn admit(&self, asked: &Asked<'_>, now: Instant) -> Result<(), Refusal> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if !requests.allows(asked.from, now) {
            return Err(Refusal::Often);
        }
        requests.count(asked.from, now);
        if asked.method != Method::GET {
            return Err(Refusal::Method);
        }
        if !asked.host.is_some_and(|host| self.hosts.allows(host, asked.to)) {
            return Err(Refusal::Host);
        }
        if asked.is_for_data { self.know(asked, now) } else { Ok(()) }
    }

    /// Whether it comes from somebody who knows the token; who guessed wrong too often is not listened to.
    fn know(&self, asked: &Asked<'_>, now: Instant) -> Result<(), Refusal> {
        let Some(shown) = asked.authorization.and_then(Shown::read) else { return Err(Refusal::NoToken) };
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if !wrong.allows(asked.from, now) {
            return Err(Refusal::Guessing);
        }
        let token = self.token().map_err(|_| Refusal::Broken)?;
        if token.is_known(&shown, asked.channel, asked.question) {
            return Ok(());
        }
        wrong.count(asked.from, now);
        Err(Refusal::WrongToken)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn gate() -> (tempfile::TempDir, Gate) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, format!("{TOKEN}\n")).unwrap();
        let gate = Gate::new(&path, Hosts::new("node-1", &[]));
        (directory, gate)
    }

    fn ask(gate: &Gate, request: &str, seconds: u64, start: Instant) -> Result<(), Refusal> {
        let mut words = request.splitn(5, ' ');
        let mut next = || words.next().unwrap();
        let [from, method, host, question] = [next(), next(), next(), next()];
        let asked = Asked {
            from: from.parse().unwrap(),
            to: IpAddr::from([192, 0, 2, 1]),
            method: &method.parse().unwrap(),
            host: Some(host),
            authorization: words.next(),
            question,
            channel: &Channel::default(),
            is_for_data: question.starts_with("/api/"),
        };
        gate.admit(&asked, start + Duration::from_secs(seconds))
    }

    #[test]
    fn each_request_is_answered_or_refused_for_its_first_fault() {
        let ((_directory, gate), start) = (gate(), Instant::now());
        let right = format!("192.0.2.7 GET node-1 /api/seen Bearer {TOKEN}");
        for (request, expected) in [
            ("192.0.2.7 GET node-1 /", Ok(())),
            ("192.0.2.7 GET 192.0.2.1:9443 /", Ok(())),
            ("192.0.2.7 POST node-1 /", Err(Refusal::Method)),
            ("192.0.2.7 OPTIONS node-1 /api/seen", Err(Refusal::Method)),
            ("192.0.2.7 GET evil.example /", Err(Refusal::Host)),
            (&right.replace("node-1", "evil.example"), Err(Refusal::Host)),
            ("192.0.2.7 GET node-1 /api/seen", Err(Refusal::NoToken)),
            ("192.0.2.7 GET node-1 /api/seen Basic x", Err(Refusal::NoToken)),
            ("192.0.2.7 GET node-1 /api/seen Bearer x", Err(Refusal::WrongToken)),
            (&right, Ok(())),
        ] {
            assert_eq!(ask(&gate, request, 0, start), expected, "{request}");
        }
    }

    #[test]
    fn who_guesses_is_not_listened_to_for_a_while_and_nobody_else_is_disturbed() {
        let ((_directory, gate), start) = (gate(), Instant::now());
        let right = format!("192.0.2.7 GET node-1 /api/seen Bearer {TOKEN}");
        let wrong = right.replace(TOKEN, "guess");
        for _ in 0..5 {
            assert_eq!(ask(&gate, &wrong, 0, start), Err(Refusal::WrongToken));
        }
        assert_eq!(ask(&gate, &wrong, 1, start), Err(Refusal::Guessing));
        assert_eq!(ask(&gate, &right, 1, start), Err(Refusal::Guessing), "or it would tell which is right");
        assert_eq!(ask(&gate, &right.replace(".7 ", ".8 "), 1, start), Ok(()));
        assert_eq!(ask(&gate, &right, 11, start), Ok(()));
    }

    #[test]
    fn who_asks_too_often_has_to_wait() {
        let ((_directory, gate), start) = (gate(), Instant::now());
        let asked = (0..100).map(|_| ask(&gate, "192.0.2.7 GET node-1 /", 0, start));
        assert_eq!(asked.filter(Result::is_ok).count(), 60);
        assert_eq!(ask(&gate, "192.0.2.7 GET node-1 /", 0, start), Err(Refusal::Often));
        assert_eq!(ask(&gate, "192.0.2.7 GET node-1 /", 1, start), Ok(()));
    }

    #[test]
    fn a_token_that_changes_counts_at_once_and_without_one_nobody_is_let_in() {
        let ((directory, gate), start) = (gate(), Instant::now());
        let path = directory.path().join("token");
        let ask =
            |token: &str| ask(&gate, &format!("192.0.2.7 GET node-1 /api/seen Bearer {token}"), 0, start);
        let other = TOKEN.replace('0', "1");
        fs::write(&path, &other).unwrap();
        assert_eq!((ask(TOKEN), ask(&other)), (Err(Refusal::WrongToken), Ok(())));
        fs::write(&path, "").unwrap();
        assert_eq!(ask(""), Err(Refusal::Broken));
        fs::remove_file(&path).unwrap();
        assert_eq!(ask(&other), Err(Refusal::Broken));
    }
}
