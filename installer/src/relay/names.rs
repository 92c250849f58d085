//! Where the peers are: looks their names up, again and again, on a thread of its own, which alone waits if a look-up hangs. What
//! was found before stays until something newer is known.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::places::{Lost, Place, resolve};

/// Time between two look-ups: with that of a hello, a node that comes or goes is noticed within 5 s.
const PERIOD: Duration = Duration::from_secs(2);
/// While something has just become wanted.
const SOON: Duration = Duration::from_millis(100);

/// Looks names up.
pub(super) struct Names(Arc<Mutex<Shared>>);

/// By domain.
#[derive(Default)]
struct Shared {
    wanted: BTreeMap<String, Vec<Place>>,
    found: BTreeMap<String, Found>,
}

#[derive(Clone, Default)]
struct Found {
    of: Vec<Place>,
    addresses: Vec<SocketAddrV4>,
    lost: Lost,
}

impl Names {
    pub(super) fn start() -> io::Result<Self> {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let names = Self(Arc::clone(&shared));
        thread::Builder::new().name("relay-names".into()).spawn(move || run(&shared))?;
        Ok(names)
    }

    /// Looks these up from now on.
    pub(super) fn want(&self, wanted: BTreeMap<String, Vec<Place>>) {
        lock(&self.0).wanted = wanted;
    }

    /// What was found of a domain's last, and names that lead nowhere.
    pub(super) fn found(&self, domain: &str) -> (Vec<SocketAddrV4>, Lost) {
        let found = lock(&self.0).found.get(domain).cloned().unwrap_or_default();
        (found.addresses, found.lost)
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(shared: &Mutex<Shared>) {
    loop {
        let wanted = lock(shared).wanted.clone();
        for (domain, places) in &wanted {
            // Addresses first: they do not wait for names.
            let (addresses, names): (Vec<_>, Vec<_>) =
                places.iter().cloned().partition(|(name, _)| name.parse::<std::net::IpAddr>().is_ok());
            note(shared, domain, places, &addresses, true);
            if !names.is_empty() {
                note(shared, domain, places, places, false);
            }
        }
        lock(shared).found.retain(|domain, _| wanted.contains_key(domain));
        let mut waited = Duration::ZERO;
        while waited < PERIOD && lock(shared).wanted == wanted {
            thread::sleep(SOON);
            waited += SOON;
        }
    }
}

/// Looks `some` of a domain's places up; `only_if_new` leaves alone what was found for the same places before.
fn note(shared: &Mutex<Shared>, domain: &str, all: &[Place], some: &[Place], only_if_new: bool) {
    let is_known = lock(shared).found.get(domain).is_some_and(|found| found.of == all);
    if only_if_new && is_known && some.len() < all.len() {
        return;
    }
    let (found, lost) = resolve(some);
    let v4 = |address: SocketAddr| match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    };
    let mut addresses: Vec<_> = found.into_iter().filter_map(v4).collect();
    let mut shared = lock(shared);
    let before = shared.found.get(domain).filter(|_| is_known).cloned().unwrap_or_default();
    if !lost.is_empty() {
        addresses.extend(before.addresses); // a name that leads nowhere at the moment may have led to any of them
        addresses.sort();
        addresses.dedup();
    }
    shared.found.insert(domain.into(), Found { of: all.to_vec(), addresses, lost });
}
