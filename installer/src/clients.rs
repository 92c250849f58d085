//! Clients of the agent's servers: none can hold up the agent, which has threads of its own, nor can they hold up each other.
//! All are accepted at once; if there are too many, one has to leave, and none stays long.

use std::{
    cell::Cell,
    collections::HashMap,
    convert::Infallible,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Runtime,
    task::{JoinHandle, spawn_local, yield_now},
    time::{sleep, timeout},
};

/// How many answers may be waited for, for each client that has not asked yet.
const ANSWERS: usize = 4;
/// Connections that the kernel completes before they are accepted: a client beyond them would try again after a second.
const BACKLOG: u32 = 1024;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest head of a request, in bytes; the least that hyper takes.
const LONGEST_HEAD: usize = 8192;
/// The type of a text.
pub(crate) const PLAIN: &str = "text/plain; charset=utf-8";

/// A client that has come.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) address: SocketAddr,
    /// To be set when its request is complete: what is left to do for it does not depend on it.
    pub(crate) has_asked: Rc<Cell<bool>>,
}

/// One that is being served.
struct Served {
    address: IpAddr,
    has_asked: Rc<Cell<bool>>,
    task: JoinHandle<()>,
}

/// Listens at `address`, in `runtime`.
pub(crate) fn listen(runtime: &Runtime, address: SocketAddr) -> io::Result<TcpListener> {
    let _within = runtime.enter();
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves all who come, `most` at the same time.
pub(crate) async fn accept<S>(listener: TcpListener, most: usize, serve: impl Fn(Client) -> S)
where
    S: Future<Output = ()> + 'static,
{
    let mut clients: Vec<Served> = vec![]; // the oldest first
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue, // its client has gone
            Err(_) => {
                sleep(Duration::from_millis(100)).await; // out of descriptors, for example
                continue;
            }
        };
        make_room(&mut clients, most);
        let has_asked = Rc::new(Cell::new(false));
        let served = serve(Client { stream, address, has_asked: Rc::clone(&has_asked) });
        // A client that disconnects is not an error.
        let task = spawn_local(async { drop(timeout(PATIENCE, served).await) });
        clients.push(Served { address: address.ip(), has_asked, task });
        yield_now().await; // or those who come at the same time would drive out one that has asked already
    }
}

/// Drives out one, if there are too many.
fn make_room(clients: &mut Vec<Served>, most: usize) {
    clients.retain(|client| !client.task.is_finished());
    let waiting: Vec<_> = (0..clients.len()).filter(|index| !clients[*index].has_asked.get()).collect();
    let crowded = if waiting.is_empty() { ANSWERS * most } else { most };
    if clients.len() >= crowded {
        let candidates = if waiting.is_empty() { (0..clients.len()).collect() } else { waiting };
        let places: Vec<_> = candidates.iter().map(|index| clients[*index].address).collect();
        clients.remove(candidates[least_deserving(&places)]).task.abort();
    }
}

/// Which of the clients at these addresses has to leave: the oldest of the address that has most of them. So one host cannot
/// drive out another, and of many that connect and say nothing none stays long.
fn least_deserving(clients: &[IpAddr]) -> usize {
    let mut shares = HashMap::<_, usize>::new();
    clients.iter().for_each(|address| *shares.entry(address).or_default() += 1);
    let most = shares.values().max();
    clients.iter().position(|address| shares.get(address) == most).unwrap_or(0)
}

/// Answers one request.
pub(crate) async fn converse<A>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    has_asked: &Cell<bool>,
    answer: impl Fn(Request<Incoming>) -> A,
) where
    A: Future<Output = Response<Full<Bytes>>>,
{
    let answer = service_fn(|request| {
        has_asked.set(true);
        let answered = answer(request);
        async { Ok::<_, Infallible>(answered.await) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .half_close(true) // a client may say that its request is complete
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), answer);
    let _ = served.await;
}

/// A whole answer.
pub(crate) fn response(
    status: StatusCode,
    kind: &'static str,
    text: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
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
