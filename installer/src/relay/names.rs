//! Where the peers are: looks their names up, again and again, on a thread of its own, which alone waits if a look-up hangs. What
//! was found of a name before stays until something newer is known of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    slice,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use crate::places::{self, Lost, Place, resolve};

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

#[derive(Clone, Debug, Default, PartialEq)]
struct Found {
    addresses: BTreeMap<Place, Vec<SocketAddrV4>>,
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
        let Found { addresses, lost } = lock(&self.found).get(domain).cloned().unwrap_or_default();
        let addresses: BTreeSet<_> = addresses.into_values().flatten().collect();
        (addresses.into_iter().collect(), lost)
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
    let looked = places.iter().map(|place| (place.clone(), resolve(slice::from_ref(place)))).collect();
    let mut shared = lock(shared);
    let before = shared.remove(domain).unwrap_or_default();
    shared.insert(domain.into(), merge(before, looked));
}

/// What is known now: of a name that leads nowhere at the moment, where it led before.
fn merge(mut before: Found, looked: Vec<(Place, places::Found)>) -> Found {
    let v4 = |address: SocketAddr| match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    };
    let mut now = Found::default();
    for (place, (found, lost)) in looked {
        let found = match lost.is_empty() {
            true => found.into_iter().filter_map(v4).collect(),
            false => before.addresses.remove(&place).unwrap_or_default(),
        };
        now.addresses.insert(place, found);
        now.lost.extend(lost);
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_nowhere_leads_to_where_it_did_and_hides_no_change_of_others() {
        let place = |name: &str| (name.to_owned(), 5077);
        let at = |last| SocketAddrV4::new([172, 23, 0, last].into(), 5077);
        let found = |name: &str, last| (place(name), (vec![at(last).into()], vec![]));
        let lost = |name: &str| (place(name), (vec![], vec![(name.to_owned(), "gone".to_owned())]));
        let before = merge(Found::default(), vec![found("a", 1), found("b", 2)]);
        for (looked, expected) in [
            (vec![found("a", 3), found("b", 2)], vec![vec![at(3)], vec![at(2)]]),
            (vec![found("a", 3), lost("b")], vec![vec![at(3)], vec![at(2)]]),
            (vec![lost("a"), lost("b"), lost("c")], vec![vec![at(1)], vec![at(2)], vec![]]),
            (vec![lost("b")], vec![vec![at(2)]]),
        ] {
            let now = merge(before.clone(), looked);
            assert_eq!(now.addresses.into_values().collect::<Vec<_>>(), expected);
        }
    }
}
