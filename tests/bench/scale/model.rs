//! The model: who hears which datagram, second by second, for each design of a site. Pure; it knows no costs.

use lab::Dice;

/// Seconds that are looked at.
pub(crate) const TIME: usize = 60;
/// Names in a search, as libca sends them.
pub(crate) const BUNDLE: usize = 20;
/// Part of the names that nobody has: one in so many.
const DEAD: usize = 20;
/// When libca repeats what nobody answered, in seconds after the first search (measured).
const REPEATS: [f64; 6] = [1.0, 3.05, 7.15, 15.3, 31.7, 64.5];
/// The longest time between two searches of libca for a name, in seconds (`EPICS_CA_MAX_SEARCH_PERIOD`).
const LONGEST: f64 = 300.0;
/// How long it takes until all IOCs have been switched on, in seconds.
const POWER_UP: f64 = 30.0;
/// The first beacons of RSRV follow in this time, which doubles up to the second one, in seconds (`EPICS_CAS_BEACON_PERIOD`).
const BEACONS: (f64, f64) = (0.02, 15.0);
/// Names that clients of a subnet look for in their own subnet.
const LOCAL: usize = 100_000;

/// A site.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    pub(crate) subnets: usize,
    /// In each subnet.
    pub(crate) nodes: usize,
    /// IOC pods on each node.
    pub(crate) pods: usize,
}

/// How searches get from subnet to subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Design {
    /// All are on one LAN.
    Flat,
    /// Each node passes on what it hears to all nodes of other subnets.
    Mesh,
    /// A gateway for each subnet, through which all data goes.
    Gateways,
    /// Ours, without prefixes.
    Relay,
    /// Ours, with prefixes of subnets and of pods.
    Prefixes,
}

impl Design {
    pub(crate) const ALL: [Self; 5] = [Self::Flat, Self::Mesh, Self::Gateways, Self::Relay, Self::Prefixes];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat LAN",
            Self::Mesh => "mesh of relays",
            Self::Gateways => "gateways",
            Self::Relay => "iocast",
            Self::Prefixes => "iocast, prefixes",
        }
    }
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    /// An archiver in the first subnet starts, and looks for so many names of all IOCs.
    Archiver { names: usize, sorted: bool },
    /// All IOCs are switched on, while that archiver looks for them.
    PowerUp { names: usize },
    /// Nothing happens: clients in all subnets have looked for PVs that are not there since long ago.
    Dead,
}

/// A datagram that many hear.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Datagram {
    pub(crate) second: usize,
    /// The subnet where it begins.
    pub(crate) origin: usize,
    /// The IOCs whose names are in it; none if it is a beacon, which has no names.
    pub(crate) iocs: Vec<usize>,
    /// How many there are like it.
    pub(crate) count: f64,
}

/// What each subnet and each pod hears, in datagrams a second.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// At a node's link to its LAN: by subnet and second.
    pub(crate) link: Vec<Vec<f64>>,
    /// What its busiest pod, and all pods of a subnet together, are given: by subnet and second.
    pub(crate) pod: Vec<Vec<f64>>,
    pub(crate) pods: Vec<Vec<f64>>,
    /// What crosses at the relaying node of a subnet, in and out.
    pub(crate) crossing: Vec<Vec<f64>>,
}

impl Site {
    pub(crate) fn iocs(&self) -> usize {
        self.subnets * self.iocs_of_subnet()
    }

    fn iocs_of_subnet(&self) -> usize {
        self.nodes * self.pods
    }

    fn subnet(&self, ioc: usize) -> usize {
        ioc / self.iocs_of_subnet()
    }

    /// All datagrams of a scene.
    pub(crate) fn datagrams(&self, scene: Scene) -> Vec<Datagram> {
        match scene {
            Scene::Archiver { names, sorted } => self.archiver(names, sorted),
            Scene::PowerUp { names } => self.power_up(names),
            Scene::Dead => self.dead(),
        }
    }

    /// The IOCs of so many names, spread over all.
    fn owners(&self, names: usize) -> Vec<usize> {
        (0..names).map(|name| name * self.iocs() / names).collect()
    }

    /// All names within the first second, and then again those that nobody has.
    fn archiver(&self, names: usize, sorted: bool) -> Vec<Datagram> {
        let owners = self.owners(names);
        let owners = if sorted { owners } else { Dice(7).shuffled(owners) };
        let mut found = bundles(0, &owners);
        let dead: Vec<_> = owners.iter().copied().step_by(DEAD).collect();
        for second in REPEATS.map(|repeat| repeat as usize).into_iter().filter(|second| *second < TIME) {
            found.extend(bundles(second, &dead));
        }
        found
    }

    /// Each IOC begins at its time. Their beacons let the archiver repeat each second what it has not found yet.
    fn power_up(&self, names: usize) -> Vec<Datagram> {
        let begins = |ioc: usize| POWER_UP * Dice(ioc as u64).below(1000) as f64 / 1000.0;
        let mut found = vec![];
        for ioc in 0..self.iocs() {
            let origin = self.subnet(ioc);
            let beacon = |second| Datagram { second, origin, iocs: vec![], count: 1.0 };
            found.extend(
                beacons().map(|after| (begins(ioc) + after) as usize).filter(|at| *at < TIME).map(beacon),
            );
        }
        let owners = self.owners(names);
        for second in 0..POWER_UP as usize {
            let missing: Vec<_> =
                owners.iter().copied().filter(|ioc| begins(*ioc) >= second as f64).collect();
            found.extend(bundles(second, &missing));
        }
        found
    }

    /// What clients of each subnet repeat for ever: names of their own subnet.
    fn dead(&self) -> Vec<Datagram> {
        let a_second = (LOCAL / DEAD / BUNDLE) as f64 / LONGEST;
        let of_subnet = self.iocs_of_subnet();
        let datagram = |second: usize, origin: usize| {
            let mut dice = Dice((second * self.subnets + origin) as u64);
            let iocs = (0..BUNDLE).map(|_| origin * of_subnet + dice.below(of_subnet)).collect();
            Datagram { second, origin, iocs: distinct(iocs), count: a_second }
        };
        (0..TIME).flat_map(|second| (0..self.subnets).map(move |origin| datagram(second, origin))).collect()
    }

    /// Who hears them.
    pub(crate) fn load(&self, design: Design, datagrams: &[Datagram]) -> Load {
        let zero = || vec![vec![0.0; TIME]; self.subnets];
        let mut load = Load { link: zero(), pod: zero(), pods: zero(), crossing: zero() };
        let mut given = vec![0.0; self.iocs()];
        let mut second = 0;
        for datagram in ordered(datagrams) {
            if datagram.second != second {
                self.close(&mut load, &mut given, second);
                second = datagram.second;
            }
            self.hear(design, datagram, &mut load, &mut given);
        }
        self.close(&mut load, &mut given, second);
        load
    }

    /// The end of a second: what each pod was given.
    fn close(&self, load: &mut Load, given: &mut [f64], second: usize) {
        for (subnet, given) in given.chunks_mut(self.iocs_of_subnet()).enumerate() {
            load.pod[subnet][second] = given.iter().copied().fold(0.0, f64::max);
            load.pods[subnet][second] = given.iter().sum();
            given.fill(0.0);
        }
    }

    fn hear(&self, design: Design, datagram: &Datagram, load: &mut Load, given: &mut [f64]) {
        let Datagram { second, origin, iocs, count } = datagram;
        for subnet in 0..self.subnets {
            let copies = count * self.copies(design, datagram, subnet);
            load.link[subnet][*second] += copies;
            let crossed = if subnet == *origin { 0.0 } else { copies };
            load.crossing[subnet][*second] += crossed;
            load.crossing[*origin][*second] += if design == Design::Flat { 0.0 } else { crossed };
            let pods = &mut given[subnet * self.iocs_of_subnet()..][..self.iocs_of_subnet()];
            if design != Design::Prefixes || iocs.is_empty() {
                pods.iter_mut().for_each(|given| *given += copies);
            }
        }
        if design == Design::Prefixes {
            iocs.iter().for_each(|ioc| given[*ioc] += count);
        }
    }

    /// How often a datagram comes to the LAN of a subnet.
    fn copies(&self, design: Design, datagram: &Datagram, subnet: usize) -> f64 {
        let Datagram { origin, iocs, .. } = datagram;
        match design {
            _ if subnet == *origin => 1.0,
            Design::Flat | Design::Relay => 1.0,
            Design::Mesh => self.nodes as f64,
            // A beacon ends at a gateway, which has beacons of its own.
            Design::Gateways => f64::from(u8::from(!iocs.is_empty())),
            Design::Prefixes => {
                let has = |ioc: &usize| self.subnet(*ioc) == subnet;
                f64::from(u8::from(iocs.is_empty() || iocs.iter().any(has)))
            }
        }
    }
}

/// Searches for the names of these IOCs, in their order.
fn bundles(second: usize, owners: &[usize]) -> Vec<Datagram> {
    let bundle =
        |owners: &[usize]| Datagram { second, origin: 0, iocs: distinct(owners.to_vec()), count: 1.0 };
    owners.chunks(BUNDLE).map(bundle).collect()
}

fn distinct(mut iocs: Vec<usize>) -> Vec<usize> {
    iocs.sort_unstable();
    iocs.dedup();
    iocs
}

fn ordered(datagrams: &[Datagram]) -> Vec<&Datagram> {
    let mut ordered: Vec<_> = datagrams.iter().collect();
    ordered.sort_by_key(|datagram| datagram.second);
    ordered
}

/// When an IOC sends its beacons, in seconds after its start.
fn beacons() -> impl Iterator<Item = f64> {
    let (mut time, mut pause) = (0.0, BEACONS.0);
    std::iter::from_fn(move || {
        let now = time;
        time += pause;
        pause = (2.0 * pause).min(BEACONS.1);
        (now < TIME as f64).then_some(now)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: Site = Site { subnets: 4, nodes: 2, pods: 5 };

    fn total(design: Design, of: impl Fn(&Load) -> &Vec<Vec<f64>>, datagrams: &[Datagram]) -> f64 {
        of(&SITE.load(design, datagrams)).iter().flatten().sum()
    }

    fn search(iocs: &[usize]) -> Datagram {
        Datagram { second: 3, origin: 0, iocs: iocs.to_vec(), count: 1.0 }
    }

    #[test]
    fn a_search_comes_to_whom_the_design_gives_it() {
        // For IOCs of the first and the third subnet.
        let datagrams = [search(&[0, 20, 21])];
        for (design, links, pods, crossings) in [
            (Design::Flat, 4.0, 40.0, 3.0),
            (Design::Mesh, 7.0, 70.0, 12.0),
            (Design::Gateways, 4.0, 40.0, 6.0),
            (Design::Relay, 4.0, 40.0, 6.0),
            (Design::Prefixes, 2.0, 3.0, 2.0),
        ] {
            let found = (
                total(design, |load| &load.link, &datagrams),
                total(design, |load| &load.pods, &datagrams),
                total(design, |load| &load.crossing, &datagrams),
            );
            assert_eq!(found, (links, pods, crossings), "{design:?}");
        }
    }

    #[test]
    fn a_beacon_has_no_names_and_comes_to_all_but_through_a_gateway() {
        let beacon = [search(&[])];
        for (design, links) in [(Design::Flat, 4.0), (Design::Prefixes, 4.0), (Design::Gateways, 1.0)] {
            assert_eq!(total(design, |load| &load.link, &beacon), links, "{design:?}");
        }
        assert_eq!(
            beacons().take(4).map(|time| (time * 100.0).round()).collect::<Vec<_>>(),
            [0.0, 2.0, 6.0, 14.0]
        );
    }

    #[test]
    fn an_archiver_asks_for_all_once_and_for_what_is_dead_again_and_again() {
        let found = SITE.datagrams(Scene::Archiver { names: 4000, sorted: true });
        let at = |second| found.iter().filter(|datagram| datagram.second == second).count();
        assert_eq!([0, 1, 2, 3, 7, 15, 31].map(at), [200, 10, 0, 10, 10, 10, 10]);
        assert!(found.iter().all(|datagram| datagram.iocs.len() <= BUNDLE));
        let mixed = SITE.datagrams(Scene::Archiver { names: 4000, sorted: false });
        let names = |found: &[Datagram]| found.iter().map(|datagram| datagram.iocs.len()).sum::<usize>();
        assert!(names(&mixed) > 2 * names(&found), "the names of a datagram are of many IOCs");
    }

    #[test]
    fn what_is_switched_on_is_found() {
        let found = SITE.datagrams(Scene::PowerUp { names: 4000 });
        let searches = |second| {
            found.iter().filter(|datagram| datagram.second == second && !datagram.iocs.is_empty()).count()
        };
        assert_eq!((searches(0), searches(POWER_UP as usize)), (200, 0));
        assert!(searches(20) < searches(10));
    }
}
