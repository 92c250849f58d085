//! The soak: for an hour, or as long as wanted, everything that goes wrong on a node goes wrong again and again, under the
//! eyes of clients that watch. What they lose must be explained by what was just done, and nothing may grow.

mod attack;
mod gauge;
mod page;
mod scene;
mod trouble;

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use lab::{Dice, NOTHING, Result, monitors::values_within};

use crate::Topology;
use gauge::Gauges;
use page::Story;
use scene::Scene;
use trouble::TROUBLES;

/// How long a client may take to have values again. libca asks a silent server after 30 s only, and holds a lost channel back
/// for 10 s.
const PATIENCE: Duration = Duration::from_secs(90);
/// What is lost late is still put down to its cause.
const SETTLED: Duration = Duration::from_secs(1);

/// How long, and what.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How long; one round is done in any case.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// How pods are connected to the node.
    #[arg(long, value_enum, default_value_t = Topology::Bridge)]
    topology: Topology,
    /// Where to write the report.
    #[arg(long, default_value = "target/soak.md")]
    report: PathBuf,
    /// What decides about the order of troubles, and whom they concern.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs it, writes the report, and tells whether all was well.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let seed = arguments.seed.unwrap_or_else(clock);
    println!("soak of {} min, --seed {seed}: raising a lab", arguments.minutes);
    let mut scene = Scene::raise(arguments.topology.options())?;
    let mut story = Story::new(arguments.topology.name());
    let mut dice = Dice(seed);
    let end = Instant::now() + Duration::from_secs(60 * arguments.minutes);
    // What happened until then is reported all the same.
    if let Err(error) = go_round(&mut scene, &mut dice, &mut story, end) {
        story.fail(&error);
    }
    match scene.empty() {
        Ok(left) => story.left = left,
        Err(error) => story.fail(&error),
    }
    let page = story.page();
    lab::tried("write the report", std::fs::write(&arguments.report, &page))?;
    println!("{page}\nwritten to {}", arguments.report.display());
    Ok(story.is_good())
}

/// Rounds of troubles until `end`, one at least, with a look at the gauges before and after each.
fn go_round(scene: &mut Scene, dice: &mut Dice, story: &mut Story, end: Instant) -> Result<()> {
    story.gauges.push((story.begin.elapsed(), Gauges::read(scene)?));
    for round in 0.. {
        let due = (0..TROUBLES.len()).filter(|number| round % TROUBLES[*number].every == 0);
        for number in dice.shuffled(due.collect()) {
            make(number, scene, dice, story)?;
        }
        story.gauges.push((story.begin.elapsed(), Gauges::read(scene)?));
        if Instant::now() > end {
            break;
        }
    }
    Ok(())
}

/// Makes one of [`TROUBLES`], waits until all clients have values again, and notes what they lost.
fn make(number: usize, scene: &mut Scene, dice: &mut Dice, story: &mut Story) -> Result<()> {
    let before = scene.losses();
    let concerned = (TROUBLES[number].make)(scene, dice)?;
    let took = values_within(scene.monitors(), PATIENCE);
    std::thread::sleep(SETTLED);
    let after = scene.losses();
    for (which, watched) in scene.watched().iter().enumerate() {
        let concerned = concerned.contains(&watched.subject);
        story.note(number, watched, concerned, after[which] - before[which], took[which]);
    }
    story.told(number);
    scene.begin_again(|which| took[which].is_none())
}

impl Story {
    /// Whether every loss is explained, nothing grew and nothing is left.
    fn is_good(&self) -> bool {
        self.unexplained.is_empty() && self.grown().is_empty() && self.left == NOTHING
    }
}
