//! Where the peers are: looks their names up, again and again, on a thread of its own, which alone waits if a look-up hangs. What
//! was found before stays until something newer is known.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use crate::places::{Lost, Place, resolve};

/// Time between two look-ups: with that of a hello, a node that comes or goes is noticed within 5 s.
const PERIOD: Duration = Duration::from_secs(2);

/// By domain.
type Wanted = BTreeMap<String, Vec<Place>>;
/// Likewise.
type Shared = Mutex<BTreeMap<String, Found>>;

/// Looks names up.
pub(super) struct Names {
    wanted: Wanted,
    wants: Sender<Wanted>,
    found: Arc<Shared>,
}

#[derive(Clone, Default)]
struct Found {
    of: Vec<Place>,
    addresses: Vec<SocketAddrV4>,
    lost: Lost,
}

impl Names {
    pub(super) fn start() -> io::Result<Self> {
        let (wants, wanted) = channel();
        let found = Arc::new(Shared::default());
        let names = Self { wanted: Wanted::new(), wants, found: Arc::clone(&found) };
        thread::Builder::new().name("relay-names".into()).spawn(move || run(&wanted, &found))?;
        Ok(names)
    }

    /// Looks these up from now on.
    pub(super) fn want(&mut self, wanted: Wanted) {
        if self.wanted != wanted {
            self.wanted.clone_from(&wanted);
            let _ = self.wants.send(wanted); // it lives as long as we do
        }
    }

    /// What was found of a domain's last, and names that lead nowhere.
    pub(super) fn found(&self, domain: &str) -> (Vec<SocketAddrV4>, Lost) {
        let found = lock(&self.found).get(domain).cloned().unwrap_or_default();
        (found.addresses, found.lost)
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, BTreeMap<String, Found>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(wants: &Receiver<Wanted>, shared: &Shared) {
    let mut wanted = Wanted::new();
    loop {
        let next = if wanted.is_empty() {
            wants.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            wants.recv_timeout(PERIOD)
        };
        match next {
            Ok(next) => wanted = next,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        lock(shared).retain(|domain, _| wanted.contains_key(domain));
        for (domain, places) in &wanted {
            if !lock(shared).contains_key(domain) {
                // Addresses do not wait for names.
                let is_address = |(name, _): &&Place| name.parse::<IpAddr>().is_ok();
                note(shared, domain, &places.iter().filter(is_address).cloned().collect::<Vec<_>>());
            }
            note(shared, domain, places);
        }
    }
}

/// Looks places of a domain up.
fn note(shared: &Shared, domain: &str, places: &[Place]) {
    let (found, lost) = resolve(places);
    let v4 = |address: SocketAddr| match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    };
    let mut addresses: Vec<_> = found.into_iter().filter_map(v4).collect();
    let mut shared = lock(shared);
    if let Some(before) = shared.get(domain).filter(|before| before.of == places && !lost.is_empty()) {
        addresses.extend(&before.addresses); // a name that leads nowhere at the moment may have led to any of them
        addresses.sort();
        addresses.dedup();
    }
    shared.insert(domain.into(), Found { of: places.to_vec(), addresses, lost });
}
