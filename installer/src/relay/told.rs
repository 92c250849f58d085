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

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::report::Report;

/// The socket's name, which is abstract: no file system is needed.
const NAME: &str = "iocast-relay";
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

    /// Answers all who have asked.
    pub(super) fn answer(&self, reports: impl Fn() -> Vec<Report>) {
        while let Ok((mut client, _)) = self.0.accept() {
            // It never waits: what does not fit into the socket's buffer is cut off.
            if is_root(&client) && client.set_nonblocking(true).is_ok() {
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
