//! `iocast-node ready`: asks the running agent whether the node is ready, for a probe that shows what it prints.

use std::{
    error::Error,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{metrics::STARTING, say::print};

/// How long a single question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two questions to an agent that is starting.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where the agent listens, as it was told by --listen.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9402")]
    listen: SocketAddr,
    /// How long to wait for an agent that is still starting.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    wait: u64,
}

/// Prints `ok`; an error with the reasons if the node is not ready.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    loop {
        let answer = ask(options.listen);
        let is_early = begin.elapsed().as_secs() < options.wait;
        match answer {
            Ok((true, _)) => return Ok(print("ok\n")?),
            Ok((false, reasons)) if !(is_early && reasons == STARTING) => return Err(reasons.into()),
            Err(error) if !is_early => {
                return Err(format!("the agent does not answer at {}: {error}", options.listen).into());
            }
            _ => sleep(PAUSE),
        }
    }
}

/// Where a process of this node reaches who listens on `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    address
}

/// Whether the agent says that the node is ready, and why it is not.
fn ask(address: SocketAddr) -> io::Result<(bool, String)> {
    let (status, reasons) = get(address, "/readyz")?;
    match status {
        200 | 503 => Ok((status == 200, reasons)),
        _ => Err(io::Error::other("it is no agent of iocast")),
    }
}

/// What the agent answers at `path`: the status, and the text.
pub(crate) fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let address = reachable(address);
    let mut agent = TcpStream::connect_timeout(&address, PATIENCE)?;
    agent.set_read_timeout(Some(PATIENCE))?;
    write!(agent, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    agent.read_to_string(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::other("it is no agent of iocast"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?;
    Some((status.parse().ok()?, body.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_from_the_answer() {
        let no = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\na\nb\n";
        assert_eq!(parse(no), Some((503, "a\nb".into())));
        assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\nok\n"), Some((200, "ok".into())));
        assert_eq!(parse("SSH-2.0-x"), None);
    }

    #[test]
    fn an_agent_that_listens_everywhere_is_asked_here() {
        assert_eq!(reachable("0.0.0.0:9402".parse().unwrap()).to_string(), "127.0.0.1:9402");
        assert_eq!(reachable("172.23.0.10:1".parse().unwrap()).to_string(), "172.23.0.10:1");
    }
}
