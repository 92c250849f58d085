//! `iocast-bench`: ours beside the alternatives, on this machine, in one run.

mod burst;
mod cpu;
mod net;
mod plot;
mod relay;
mod report;
mod row;
mod rows;
mod scale;
mod stats;
mod tables;
mod world;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use lab::Result;

use crate::{
    report::Report,
    row::{Row, race},
    rows::{
        Settings, agent, circuits, cni, epics, fanout, growth, latency, programs, searches, stream, subnets,
        watching,
    },
    world::World,
};

/// Compares iocast with the alternatives to it.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A first look, in two minutes.
    #[arg(long)]
    quick: bool,
    /// Only these subjects.
    #[arg(long)]
    only: Vec<String>,
}

/// A subject of the run.
struct Subject {
    name: &'static str,
    /// How many pods there must be.
    pods: usize,
    /// Whether a quick run leaves it out.
    thorough: bool,
    rows: for<'a> fn(&'a World, Settings) -> Result<Vec<Row<'a>>>,
}

impl Subject {
    const fn new(
        name: &'static str,
        pods: usize,
        rows: for<'a> fn(&'a World, Settings) -> Result<Vec<Row<'a>>>,
    ) -> Self {
        Self { name, pods, thorough: false, rows }
    }

    const fn thorough(self) -> Self {
        Self { thorough: true, ..self }
    }
}

/// In the order of their number of pods, which only grows; those that leave something behind come late.
const SUBJECTS: [Subject; 38] = [
    Subject::new("size", 0, agent::size_rows),
    Subject::new("latency", 10, latency::rows),
    Subject::new("circuits", 10, circuits::rows),
    Subject::new("unrelated", 10, circuits::unrelated_rows),
    Subject::new("idle", 10, programs::idle_rows),
    Subject::new("programs", 10, programs::rows),
    Subject::new("stream", 10, stream::rows),
    Subject::new("connect", 10, epics::connect_rows),
    Subject::new("updates", 10, epics::update_rows).thorough(),
    Subject::new("updates", 10, epics::old_update_rows).thorough(),
    Subject::new("cni", 10, cni::rows),
    Subject::new("cni", 10, cni::circuit_rows),
    Subject::new("agent", 10, agent::rows),
    Subject::new("watching", 10, watching::rows),
    Subject::new("growth", 10, growth::circuit_rows),
    Subject::new("growth", 10, growth::searcher_rows),
    Subject::new("growth", 10, growth::rate_rows),
    Subject::new("fanout", 10, fanout::all).thorough(),
    Subject::new("searches", 30, searches::rows),
    Subject::new("fanout", 110, fanout::all),
    Subject::new("fanout", 110, fanout::tenth),
    Subject::new("fairness", 110, fanout::fairness_rows),
    Subject::new("bystanders", 110, fanout::bystander_rows).thorough(),
    Subject::new("growth", 110, growth::pod_rows),
    Subject::new("growth", 110, growth::processor_rows),
    Subject::new("reload", 110, agent::reload_rows),
    Subject::new("fanout", 250, fanout::all).thorough(),
    Subject::new("fanout", 250, fanout::tenth).thorough(),
    Subject::new("growth", 250, growth::pod_rows).thorough(),
    Subject::new("fanout", 500, fanout::all).thorough(),
    Subject::new("growth", 500, growth::pod_rows).thorough(),
    Subject::new("cni", 500, cni::rows).thorough(),
    Subject::new("agent", 500, agent::rows).thorough(),
    Subject::new("reload", 500, agent::reload_rows).thorough(),
    Subject::new("growth", 10, growth::domain_rows),
    Subject::new("searches", 30, searches::withheld_rows),
    Subject::new("searches", 30, subnets::rows),
    Subject::new("ports", 10, agent::port_rows),
];
fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("iocast-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything could be measured.
fn run(arguments: &Arguments) -> Result<bool> {
    let settings = Settings { quick: arguments.quick };
    let start = Instant::now();
    let mut world = World::raise()?;
    let mut report = Report::default();
    for subject in SUBJECTS.iter().filter(|subject| wanted(subject, arguments)) {
        if subject.pods > world.pods.len() {
            say(start.elapsed(), &format!("{} pods", subject.pods));
            world.grow(subject.pods)?;
        }
        say(start.elapsed(), subject.name);
        // The others have their turn all the same.
        if let Err(error) = measure(subject, &world, settings, &mut report) {
            report.fail(subject.name, &error);
        }
    }
    report.finish(settings, start.elapsed(), arguments.only.is_empty())
}

fn measure(subject: &Subject, world: &World, settings: Settings, report: &mut Report) -> Result<()> {
    for row in (subject.rows)(world, settings)? {
        report.add(race(row)?);
    }
    Ok(())
}

fn wanted(subject: &Subject, arguments: &Arguments) -> bool {
    let named = arguments.only.is_empty() || arguments.only.iter().any(|name| name == subject.name);
    named && !(arguments.quick && subject.thorough)
}

/// Progress, beside the report.
fn say(elapsed: Duration, what: &str) {
    eprintln!("{:4.0} s  {what}", elapsed.as_secs_f32());
}
