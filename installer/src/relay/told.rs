//! How `status` and `doctor` learn from the running agent what it knows: at a socket with a name in the node's network namespace, for
//! root alone. An answer is JSON, and ends with the connection.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    time::Duration,
};

use nix::sys::socket::{getsockopt, setsockopt, sockopt, sockopt::PeerCredentials};

use super::report::Report;

/// The socket's name, which is abstract: no file system is needed.
const NAME: &str = "iocast-relay";
/// Those who are answered before anything else gets its turn: whoever shares the network namespace can ask.
const BATCH: usize = 16;
/// Bytes of the longest answer: some thousand peers.
const ROOM: usize = 4 << 20;
/// How long the agent is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers.
pub(super) struct Told(UnixListener);

impl Told {
    pub(super) fn open() -> io::Result<Self> {
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(NAME)?)?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// Answers those who have asked.
    pub(super) fn answer(&self, reports: impl Fn() -> Vec<Report>) {
        for _ in 0..BATCH {
            let Ok((mut client, _)) = self.0.accept() else { return };
            // It never waits: what does not fit into the socket's buffer is cut off.
            if is_root(&client) && client.set_nonblocking(true).is_ok() {
                let _ = setsockopt(&client, sockopt::SndBufForce, &ROOM); // without it, less fits
                let text = serde_json::to_vec(&reports()).unwrap_or_default();
                let _ = client.write_all(&text); // whether or not it still listens
            }
        }
    }
}

impl AsFd for Told {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How it is, as the agent on this node says; none if no agent that relays runs.
pub(crate) fn ask() -> Vec<Report> {
    try_ask().unwrap_or_default()
}

fn try_ask() -> io::Result<Vec<Report>> {
    let mut agent = UnixStream::connect_addr(&SocketAddr::from_abstract_name(NAME)?)?;
    agent.set_read_timeout(Some(PATIENCE))?;
    let mut text = vec![];
    if is_root(&agent) {
        agent.read_to_end(&mut text)?;
    }
    Ok(serde_json::from_slice(&text)?)
}

/// Whether root is at the other end.
fn is_root(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_without_an_end_keeps_nothing_else_from_its_turn() {
        let name = format!("iocast-relay-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let told = Told(UnixListener::bind_addr(&address).unwrap());
        told.0.set_nonblocking(true).unwrap();
        let clients: Vec<_> = (0..=BATCH).map(|_| UnixStream::connect_addr(&address).unwrap()).collect();
        told.answer(Vec::new);
        assert!(told.0.accept().is_ok(), "one still waits of {}", clients.len());
        assert!(told.0.accept().is_err());
    }
}
