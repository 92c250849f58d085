//! What it costs to be watched: viewers that look during a storm of searches, and nobody.

use std::{
    rc::Rc,
    thread::sleep,
    time::{Duration, Instant},
};

use lab::{Process, Result, tried};

use super::{Settings, fanout::Audience};
use crate::{
    burst::Burst,
    cpu::{self, Spent},
    row::{Goal, Measure, Row, Section, Trial},
    world::{Way, World},
};

/// Searches a second, in bursts of so many.
const RATE: u32 = 25_000;
const BURST: u32 = 25;
/// Until a viewer has read the maps for the first time.
const BEGINNING: Duration = Duration::from_millis(1500);
/// How many look.
const LEVELS: [(&str, usize); 3] = [("5 viewers", 5), ("1 viewer", 1), ("nobody", 0)];
/// Shares of a processor, per cent, and MB.
const MOST: f64 = 10.0;
const MOST_MEMORY: f64 = 64.0;

/// Ten pods listen.
pub(crate) fn rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let audience = Audience::gather(world, 1)?;
    let contender = |&(name, viewers): &(&'static str, usize)| -> Result<(&'static str, Trial)> {
        let audience = Rc::clone(&audience);
        let burst = world.burst(Way::Iocast, BURST as usize, None)?;
        let time = Duration::from_secs(settings.pick(6, 3));
        Ok((name, Box::new(move || cost(world, &audience, viewers, &burst, time))))
    };
    let measure = |what: &str, unit, goals: &[Goal]| Measure::lower(Section::Watching, what, unit, goals);
    let measures = vec![
        measure("processor time of all viewers", "%", &[Goal::AtMost(MOST * LEVELS[0].1 as f64)]),
        measure("processor time of kernel and receivers", "%", &[]),
        measure("memory of a viewer", "MB", &[Goal::AtMost(MOST_MEMORY)]),
    ];
    let contenders = LEVELS.iter().map(contender).collect::<Result<_>>()?;
    Ok(vec![Row { measures, contenders, repeats: settings.pick(5, 2), warm_up: false }])
}

/// Of the viewers and of the rest, per cent of a processor; MB of the largest viewer.
fn cost(
    world: &World,
    _audience: &Audience,
    viewers: usize,
    burst: &Burst,
    time: Duration,
) -> Result<Vec<f64>> {
    let viewers: Vec<_> =
        (0..viewers).map(|_| world.lab.agent_command("top --json --for 60")).collect::<Result<_>>()?;
    let ids: Vec<_> = viewers.iter().map(Process::id).collect();
    sleep(BEGINNING);
    let [own, others] = world.inside(Way::Iocast.host(), || {
        let (start, before, spent) = (Instant::now(), cpu::of_processes(&ids), Spent::now());
        let (mut sent, pause) = (0, Duration::from_secs(1) * BURST / RATE);
        while start.elapsed() < time {
            sleep((pause * sent).saturating_sub(start.elapsed()));
            tried("let a burst arrive", burst.arrive())?;
            sent += 1;
        }
        let (own, others) = ((cpu::of_processes(&ids) - before) as f64, spent.elapsed());
        Ok([own, others].map(|spent| 100.0 * spent / start.elapsed().as_nanos() as f64))
    })?;
    let memory = viewers.iter().map(Process::resident).collect::<Result<Vec<_>>>()?;
    viewers.iter().for_each(Process::terminate);
    Ok(vec![own, others, memory.into_iter().max().unwrap_or(0) as f64 / 1e3])
}
