//! What a relay in user space can do at best: many datagrams a system call, and the bridge makes the copies.
//!
//! Like all of its kind it sends in its own name, so that answers come back to it; it gives them to the client that asked
//! last, which suffices here.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
};

use lab::{Result, tried};
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, Shutdown, SockaddrIn, recvmmsg, sendmmsg, shutdown,
};

use crate::{
    net::{Listener, at, datagrams},
    world::{SEARCH_PORT, Way, World},
};

/// Datagrams for one system call.
const BATCH: usize = 64;

/// A running relay.
pub(crate) struct Relay {
    outer: Arc<UdpSocket>,
    thread: Option<std::thread::JoinHandle<()>>,
    _answers: Listener,
}

impl Relay {
    pub(crate) fn start(world: &World) -> Result<Self> {
        let (sandbox, host) = (&world.lab.sandbox, Way::Relay.host());
        let everywhere = format!("0.0.0.0:{SEARCH_PORT}");
        let outer = Arc::new(datagrams(sandbox, host, &everywhere, Some(Way::Relay.uplink()))?);
        let inner = datagrams(sandbox, host, &format!("{}:0", Way::Bridge.node()), None)?;
        let client = Arc::new(Mutex::new(None));
        let [forward, back] = [Arc::clone(&outer), Arc::clone(&outer)];
        let (asked, to) = (Arc::clone(&client), tried("clone", inner.try_clone())?);
        let thread = std::thread::spawn(move || {
            let mut buffers = vec![[0; 2048]; BATCH];
            while let Ok(Some(from)) = pass_on(&forward, &to, &mut buffers) {
                *asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
            }
        });
        let answers = Listener::start(inner, move |_, bytes, _| {
            if let Some(client) = *client.lock().unwrap_or_else(PoisonError::into_inner) {
                let _ = back.send_to(bytes, client); // as lossy as the network
            }
        })?;
        Ok(Self { outer, thread: Some(thread), _answers: answers })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = shutdown(self.outer.as_raw_fd(), Shutdown::Both);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Broadcasts to the pods what has come; the last client, or `None` at the end.
fn pass_on(from: &UdpSocket, to: &UdpSocket, buffers: &mut [[u8; 2048]]) -> nix::Result<Option<SocketAddr>> {
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
    let received = recvmmsg(from.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_WAITFORONE, None)?;
    let mut client = None;
    let mut lengths = vec![];
    for message in received {
        lengths.push(message.bytes);
        client = message.address;
    }
    let parts: Vec<_> =
        buffers.iter().zip(&lengths).map(|(buffer, length)| [IoSlice::new(&buffer[..*length])]).collect();
    if lengths.iter().all(|length| *length == 0) {
        return Ok(None);
    }
    let all = SockaddrIn::from(at(Way::Bridge.broadcast(), SEARCH_PORT));
    let targets = vec![Some(all); parts.len()];
    let mut headers = MultiHeaders::preallocate(parts.len(), None);
    let none: [ControlMessage; 0] = [];
    sendmmsg(to.as_raw_fd(), &mut headers, &parts, targets, none, MsgFlags::empty())?;
    Ok(client.map(|address| SocketAddr::from(at(address.ip(), address.port()))))
}
