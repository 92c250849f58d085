//! One datagram to all pods: how many of the copies arrive, what each costs with its receiver's part of it, and what
//! becomes of other pods' datagrams meanwhile.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use lab::{Result, tried};

use super::Settings;
use crate::{
    burst::Burst,
    cpu::Spent,
    net::{DUPLICATES, Listener, QUIET, Tally, datagrams},
    relay::Relay,
    row::{Goal, Measure, NATIVE, Row, Section, Trial},
    world::{SEARCH_PORT, Way, World},
};

/// Copies in a trial, if one burst does not make more.
const COPIES: u64 = 10_000;
/// A trial in which datagrams get lost, and are waited for, has no more bursts after this time.
const ENOUGH: Duration = Duration::from_millis(300);
/// Where the bystander listens.
const BYSTANDER_PORT: u16 = 7000;

/// Receivers blocked in their sockets.
struct Audience {
    tally: Arc<Tally>,
    /// How many each contender has.
    size: usize,
    _listeners: Vec<Listener>,
    _relay: Relay,
}

impl Audience {
    /// One in every `step`th pod, and as many in the namespace of native's node.
    fn gather(world: &World, step: usize) -> Result<Rc<Self>> {
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

    /// Lets bursts arrive that hold `count` datagrams for everybody.
    fn receive(&self, world: &World, way: Way, burst: &Burst, count: usize) -> Result<Received> {
        let copies = (self.size * count) as u64;
        world.inside(way.host(), || {
            // What is late of the contender before must not be counted here.
            let (before, start) = (self.tally.total(QUIET), Instant::now());
            let spent = Spent::now();
            let mut bursts = 0;
            while bursts * copies < COPIES && start.elapsed() < ENOUGH {
                let arrive = || tried("let a burst arrive", burst.arrive());
                self.tally.during(copies, arrive)?;
                bursts += 1;
            }
            let spent = spent.elapsed();
            let received = (self.tally.total(DUPLICATES) - before) as f64;
            Ok(Received {
                delivered: 100.0 * received / (bursts * copies) as f64,
                cost: spent / 1e3 / received,
                bursts,
            })
        })
    }
}

/// What came of a trial.
struct Received {
    /// Share of the copies that arrived, per cent.
    delivered: f64,
    /// Processor time for each, microseconds.
    cost: f64,
    bursts: u64,
}

fn listener(world: &World, way: Way, number: usize, port: u16, tally: &Arc<Tally>) -> Result<Listener> {
    let tally = Arc::clone(tally);
    let socket = datagrams(&world.lab.sandbox, &world.server(way, number), &format!("0.0.0.0:{port}"), None)?;
    Listener::start(socket, move |_, _, _| tally.add())
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
    let mut bursts = settings.pick(vec![1, 8, 16, 64, 256], vec![1, 16, 256]);
    if pods >= 250 {
        bursts.push(900);
    }
    let row =
        |count| row(world, settings, &audience, count, &format!("{pods} pods, {who}, burst of {count}"));
    bursts.into_iter().map(row).collect()
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
            Ok(vec![received.delivered, received.cost])
        };
        Ok((way.name(), Box::new(trial)))
    };
    Ok(Row {
        measures: vec![
            Measure::higher(Section::Delivered, name, "%", &[Goal::AtLeast(100.0)]),
            Measure::lower(Section::Cpu, name, "µs", &[Goal::TimesAtMost(NATIVE, 1.0)]),
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
