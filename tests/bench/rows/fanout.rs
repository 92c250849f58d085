//! One datagram to all pods: how many of the copies arrive, what each costs with its receiver's part of it, and what
//! becomes of other pods' datagrams meanwhile.

use std::{
    net::UdpSocket,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lab::{Result, tried};

use super::Settings;
use crate::{
    burst::Burst,
    cpu::{self, Spent},
    net::{DUPLICATES, Listener, QUIET, Tally, datagrams},
    relay::Relay,
    row::{Goal, Measure, NATIVE, Row, Section, Trial},
    stats::sorted,
    world::{SEARCH_PORT, Way, World},
};

/// Copies in a trial, if one burst does not make more.
const COPIES: u64 = 10_000;
/// A trial in which datagrams get lost, and are waited for, has no more bursts after this time.
const ENOUGH: Duration = Duration::from_millis(300);
/// Where the bystander listens.
const BYSTANDER_PORT: u16 = 7000;

/// Receivers blocked in their sockets.
pub(crate) struct Audience {
    tally: Arc<Tally>,
    /// How many each contender has.
    size: usize,
    _listeners: Vec<Listener>,
    _relay: Relay,
}

impl Audience {
    /// One in every `step`th pod, and as many in the namespace of native's node.
    pub(crate) fn gather(world: &World, step: usize) -> Result<Rc<Self>> {
        let tally = Tally::new();
        let places: Vec<_> = (0..world.pods.len()).step_by(step).collect();
        let mut listeners = vec![];
        for number in &places {
            for way in [Way::Iocast, Way::Native] {
                listeners.push(listener(world, way, *number, SEARCH_PORT, &tally)?);
            }
        }
        let relay = Relay::start(world)?;
        Ok(Rc::new(Self { tally, size: places.len(), _listeners: listeners, _relay: relay }))
    }

    /// Lets bursts arrive that hold `count` datagrams for everybody, each when everybody has the one before.
    pub(crate) fn receive(&self, world: &World, way: Way, burst: &Burst, count: usize) -> Result<Received> {
        let copies = (self.size * count) as u64;
        self.count(world, way, copies, |bursts, start| {
            let go_on = bursts * copies < COPIES && start.elapsed() < ENOUGH;
            let arrive = || tried("let a burst arrive", burst.arrive());
            go_on.then(|| self.tally.during(copies, arrive).map(|_| ())).transpose()
        })
    }

    /// Lets bursts of `count` datagrams `arrive` at their own pace, for a while.
    pub(crate) fn receive_paced(
        &self,
        world: &World,
        way: Way,
        count: usize,
        time: Duration,
        arrive: impl Fn() -> Result<()>,
    ) -> Result<Received> {
        self.count(world, way, (self.size * count) as u64, |_, start| {
            (start.elapsed() < time).then(&arrive).transpose()
        })
    }

    /// Counts what becomes of bursts of so many copies, until `burst`, told how many there were and when they began, is none.
    fn count(
        &self,
        world: &World,
        way: Way,
        copies: u64,
        burst: impl Fn(u64, Instant) -> Result<Option<()>>,
    ) -> Result<Received> {
        world.inside(way.host(), || {
            // What is late of the contender before must not be counted here.
            let before = self.tally.total(QUIET);
            let (sleeps, dropped, start, spent) =
                (cpu::sleeps(), cpu::dropped(), Instant::now(), Spent::now());
            let mut bursts = 0;
            while burst(bursts, start)?.is_some() {
                bursts += 1;
            }
            let took = start.elapsed().as_secs_f64();
            let (spent, sleeps) = (spent.elapsed(), cpu::sleeps() - sleeps);
            let received = (self.tally.total(DUPLICATES) - before) as f64;
            Ok(Received {
                delivered: 100.0 * received / (bursts * copies) as f64,
                cost: spent / 1e3 / received,
                wake_ups: sleeps as f64 / received,
                dropped: (cpu::dropped() - dropped) as f64 / bursts as f64,
                speed: received / 1e3 / took,
                bursts,
            })
        })
    }
}

/// What came of a trial.
pub(crate) struct Received {
    /// Share of the copies that arrived, per cent.
    pub(crate) delivered: f64,
    /// Processor time for each, microseconds.
    pub(crate) cost: f64,
    /// How often a thread went to sleep for each.
    wake_ups: f64,
    /// Packets a burst that found a full queue.
    dropped: f64,
    /// Thousands of copies a second.
    pub(crate) speed: f64,
    bursts: u64,
}

fn listener(world: &World, way: Way, number: usize, port: u16, tally: &Arc<Tally>) -> Result<Listener> {
    let tally = Arc::clone(tally);
    Listener::start(socket(world, way, number, port)?, move |_, _, _| tally.add())
}

fn socket(world: &World, way: Way, number: usize, port: u16) -> Result<UdpSocket> {
    datagrams(&world.lab.sandbox, &world.server(way, number), &format!("0.0.0.0:{port}"), None)
}

/// Delivery and its cost where all pods that there are now listen.
pub(crate) fn all(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    rows(world, settings, 1, "all listen")
}

/// The same where one in ten does.
pub(crate) fn tenth(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    rows(world, settings, 10, "10 % listen")
}

fn rows<'a>(world: &'a World, settings: Settings, step: usize, who: &str) -> Result<Vec<Row<'a>>> {
    let (pods, audience) = (world.pods.len(), Audience::gather(world, step)?);
    let bursts = match pods {
        500.. => vec![1, 64, 256],
        250.. => vec![1, 64, 256, 900],
        _ => settings.pick(vec![1, 8, 16, 64, 256], vec![1, 64]),
    };
    let row =
        |count| row(world, settings, &audience, count, &format!("{pods} pods, {who}, burst of {count}"));
    bursts.into_iter().map(row).collect()
}

/// What a copy of a burst may cost. It takes many listeners, or datagrams, to wake each of them once for several; one datagram takes
/// a packet and a wake-up for each, whoever delivers it. Between these a burst may be of any shape: shown, and no goal.
fn goal(listeners: usize, burst: usize) -> &'static [Goal] {
    match burst {
        1 => &[Goal::TimesAtMost("macvlan", 0.75)],
        64.. if listeners >= 110 => &[Goal::TimesAtMost(NATIVE, 1.25)],
        64.. => &[Goal::TimesAtMost(NATIVE, 2.5)],
        _ => &[],
    }
}

fn row<'a>(
    world: &'a World,
    settings: Settings,
    audience: &Rc<Audience>,
    count: usize,
    name: &str,
) -> Result<Row<'a>> {
    let contender = |way: Way| -> Result<(&'static str, Trial<'a>)> {
        let (audience, burst) = (Rc::clone(audience), world.burst(way, count, None)?);
        let trial = move || {
            let received = audience.receive(world, way, &burst, count)?;
            Ok(vec![received.delivered, received.cost, received.wake_ups, received.dropped])
        };
        Ok((way.name(), Box::new(trial)))
    };
    Ok(Row {
        measures: vec![
            Measure::higher(Section::Delivered, name, "%", &[Goal::AtLeast(100.0)]),
            Measure::lower(Section::Cpu, name, "µs", goal(audience.size, count)),
            Measure::lower(Section::WakeUps, name, "", &[]),
            Measure::lower(Section::Drops, name, "packets", &[]),
        ],
        contenders: Way::BROADCAST.into_iter().map(contender).collect::<Result<_>>()?,
        repeats: settings.pick(5, 3),
        warm_up: true,
    })
}

/// What arrives at a pod by unicast while bursts of broadcasts arrive, one for one.
pub(crate) fn bystander_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let (pods, audience) = (world.pods.len(), Audience::gather(world, 1)?);
    let last = pods - 1;
    let tally = Tally::new();
    let listeners = [Way::Iocast, Way::Native].map(|way| listener(world, way, last, BYSTANDER_PORT, &tally));
    let listeners = Rc::new(listeners.into_iter().collect::<Result<Vec<_>>>()?);
    let row = |count: usize| -> Result<Row> {
        let contender = |way: Way| -> Result<(&'static str, Trial)> {
            let burst = world.burst(way, count, Some((last, BYSTANDER_PORT)))?;
            let (audience, tally) = (Rc::clone(&audience), Arc::clone(&tally));
            let listeners = Rc::clone(&listeners);
            let trial = move || {
                let _alive = &listeners;
                let before = tally.total(QUIET);
                let bursts = audience.receive(world, way, &burst, count)?.bursts;
                Ok(vec![100.0 * (tally.total(DUPLICATES) - before) as f64 / (bursts * count as u64) as f64])
            };
            Ok((way.name(), Box::new(trial)))
        };
        let name = format!("{pods} pods, {count} broadcasts and {count} others at once");
        Ok(Row {
            measures: vec![Measure::higher(Section::Bystanders, name, "%", &[Goal::AtLeast(100.0)])],
            contenders: Way::BROADCAST.into_iter().map(contender).collect::<Result<_>>()?,
            repeats: settings.pick(5, 3),
            warm_up: true,
        })
    };
    [16, 64, 256].into_iter().map(row).collect()
}

/// Bursts of three times what a queue holds, for a second: what the worst pod got beside the best.
pub(crate) fn fairness_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let pods = world.pods.len();
    let tally = Tally::new();
    let contender = |way: Way| -> Result<(&'static str, Trial)> {
        let burst = world.burst(way, 3 * QUEUE, None)?;
        let tally = Arc::clone(&tally);
        let trial = move || {
            let (counts, _listeners) = crowd(world, way, &tally)?;
            world.inside(way.host(), || overload(&burst, &tally, &counts, settings.pick(1000, 500)))
        };
        Ok((way.name(), Box::new(trial)))
    };
    let name = |what: &str| format!("{pods} pods, {what}");
    Ok(vec![Row {
        measures: vec![
            Measure::higher(Section::Fairness, name("worst beside best"), "", &[Goal::AtLeast(0.9)]),
            Measure::higher(Section::Fairness, name("delivered"), "%", &[]),
        ],
        contenders: [Way::Iocast, Way::Native, Way::Macvlan]
            .into_iter()
            .map(contender)
            .collect::<Result<_>>()?,
        repeats: 3,
        warm_up: false,
    }])
}

/// Packets that a processor's queue holds, by default (`net.core.netdev_max_backlog`).
const QUEUE: usize = 1000;

/// Receivers that are counted one by one, where all pods of a contender are.
type Crowd = (Arc<Vec<AtomicU64>>, Vec<Listener>);

fn crowd(world: &World, way: Way, tally: &Arc<Tally>) -> Result<Crowd> {
    let counts: Arc<Vec<_>> = Arc::new(world.pods.iter().map(|_| AtomicU64::new(0)).collect());
    let hear = |number: usize| {
        let (counts, tally) = (Arc::clone(&counts), Arc::clone(tally));
        Listener::start(socket(world, way, number, SEARCH_PORT)?, move |_, _, _| {
            counts[number].fetch_add(1, Ordering::Relaxed);
            tally.add();
        })
    };
    let listeners = (0..world.pods.len()).map(hear).collect::<Result<_>>()?;
    Ok((counts, listeners))
}

/// For so many milliseconds: the least count in relation to the largest, and the part of the copies that came, per cent.
fn overload(burst: &Burst, tally: &Tally, counts: &[AtomicU64], milliseconds: u64) -> Result<Vec<f64>> {
    let (start, mut bursts) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(milliseconds) {
        tried("let a burst arrive", burst.arrive())?;
        bursts += 1;
    }
    tally.total(QUIET);
    let counts = sorted(&counts.iter().map(|count| count.load(Ordering::Relaxed) as f64).collect::<Vec<_>>());
    let wanted = (bursts * 3 * QUEUE * counts.len()) as f64;
    let [least, .., most] = counts[..] else { return Ok(vec![f64::NAN; 2]) };
    Ok(vec![least / most, 100.0 * counts.iter().sum::<f64>() / wanted])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_copy_may_cost_depends_on_how_many_a_receiver_gets_at_once() {
        assert!(matches!(goal(110, 1), [Goal::TimesAtMost("macvlan", _)]));
        assert!(matches!(goal(110, 64), [Goal::TimesAtMost(NATIVE, 1.25)]));
        assert!(matches!(goal(11, 256), [Goal::TimesAtMost(NATIVE, 2.5)]));
        assert!(goal(500, 16).is_empty());
    }
}
