//! Datagrams that this node sends while somebody watches: sockets that are not connected do not tell whom they speak to.

use std::{
    collections::BTreeSet,
    net::SocketAddrV4,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use datapath::{Result, Tap, Whose, link};

use crate::{ask::wait::wait, frame, say::complain, uplink};

/// Kinds of datagrams that are told apart, at most.
const MOST: usize = 65_536;

/// From where to where each was sent in this time.
pub(super) fn watch(time: Duration) -> Result<BTreeSet<(SocketAddrV4, SocketAddrV4)>> {
    let mut found = BTreeSet::new();
    if time.is_zero() {
        return Ok(found);
    }
    let links = uplink::candidates()?.into_iter().filter_map(|name| link::by_name(&name).transpose());
    let taps = links.map(|link| Tap::open(link?.index, &Whose::Us)).collect::<Result<Vec<_>>>()?;
    let sources: Vec<_> = taps.iter().map(Tap::as_fd).collect();
    let began = Instant::now();
    while let Some(left) = time.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        wait(&sources, left);
        for passed in taps.iter().flat_map(|tap| std::iter::from_fn(|| tap.take())) {
            if let (Some((from, to)), true) = (frame::datagram(&passed.bytes), found.len() < MOST) {
                found.insert((from, to));
            }
            if began.elapsed() >= time {
                break;
            }
        }
    }
    if found.len() >= MOST {
        complain(format!(
            "more than {MOST} kinds of datagrams were sent: not all peers of unconnected sockets are known"
        ));
    }
    Ok(found)
}
