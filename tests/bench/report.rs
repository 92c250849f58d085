//! The report: one table for the terminal and the documentation, the same as JSON, and a plot.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use lab::{Result, tried};
use serde::Serialize;

use crate::{
    plot,
    row::{Judged, Outcome, Section},
    rows::Settings,
    scale,
    stats::{Summary, number},
};

/// Characters: a command line of a thousand names does not help.
const LONGEST_FAILURE: usize = 300;

/// What was measured so far.
#[derive(Default)]
pub(crate) struct Report {
    outcomes: Vec<Outcome>,
    /// What could not be measured, and why.
    failures: Vec<String>,
}

/// The report as JSON.
#[derive(Serialize)]
struct Json<'a> {
    machine: &'a str,
    quick: bool,
    seconds: u64,
    outcomes: &'a [Outcome],
    failures: &'a [String],
}

impl Report {
    pub(crate) fn add(&mut self, outcomes: Vec<Outcome>) {
        self.outcomes.extend(outcomes);
    }

    pub(crate) fn fail(&mut self, subject: &str, error: &lab::Error) {
        let why: String = error.to_string().chars().take(LONGEST_FAILURE).collect();
        let line = format!("- failed: {subject}: {}", why.replace('\n', " "));
        eprintln!("{line}");
        self.failures.push(line + "\n");
    }

    /// Prints the report, and tells whether everything could be measured; a complete one becomes the documentation's, too.
    pub(crate) fn finish(mut self, settings: Settings, took: Duration, complete: bool) -> Result<bool> {
        self.outcomes.sort_by_key(|outcome| outcome.section); // stable: within a section as measured
        let machine = machine();
        let json = Json {
            machine: &machine,
            quick: settings.quick,
            seconds: took.as_secs(),
            outcomes: &self.outcomes,
            failures: &self.failures,
        };
        let text = serde_json::to_string_pretty(&json).unwrap_or_default();
        write(&repository().join("target/bench.json"), &text)?;
        let plots =
            [("bench.svg", plot::goals(&self.outcomes)), ("bench-growth.svg", plot::growth(&self.outcomes))];
        plots.iter().try_for_each(|(name, plot)| write(&repository().join("target").join(name), plot))?;
        let tables = tables(&self.outcomes);
        let verdict = missed(&self.outcomes) + &self.failures.concat();
        println!("{tables}\n{verdict}");
        if complete {
            let kind = if settings.quick { "A quick run (`QUICK=1`)" } else { "A run" };
            let page = format!(
                "{}\n{kind} of {} s on {machine}.\n\n{verdict}\n![How far each goal is met](bench.svg)\n\n\
                 ![What growth costs](bench-growth.svg)\n\n{tables}",
                include_str!("preface.md"),
                took.as_secs(),
            );
            write(&repository().join("docs/bench.md"), &page)?;
            plots.iter().try_for_each(|(name, plot)| write(&repository().join("docs").join(name), plot))?;
        }
        if let Some((page, plot)) = scale::write(&self.outcomes) {
            let of_this = format!("{page}\nCosts measured on {machine}.\n");
            write(&repository().join("docs/scale.md"), &of_this)?;
            write(&repository().join("docs/scale.svg"), &plot)?;
        }
        Ok(self.failures.is_empty())
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn write(path: &Path, content: &str) -> Result<()> {
    tried(format!("write {}", path.display()), fs::write(path, content))
}

/// The machine, and what it was doing.
fn machine() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{}, load {load} at its end", lab::machine())
}

/// The goals that were missed.
fn missed(outcomes: &[Outcome]) -> String {
    let goals = outcomes.iter().flat_map(|outcome| outcome.goals.iter().map(move |goal| (outcome, goal)));
    let (met, missed): (Vec<_>, Vec<_>) = goals.partition(|(_, goal)| goal.met);
    let mut text = format!("Goals: {} met, {} missed.\n", met.len(), missed.len());
    for (outcome, goal) in missed {
        let found = goal.found.map(spread).unwrap_or_default();
        let (title, name) = (outcome.section.title(), outcome.label());
        // Writing to a string cannot fail.
        let _ = writeln!(text, "- missed: {title}, {name}: goal {}, found {found}", goal.goal);
    }
    text
}

fn tables(outcomes: &[Outcome]) -> String {
    let sections = outcomes.chunk_by(|one, other| one.section == other.section);
    sections.map(|outcomes| table(outcomes[0].section, outcomes)).collect::<Vec<_>>().join("\n")
}

/// A section with a column for each contender, and lines of the same width.
fn table(section: Section, outcomes: &[Outcome]) -> String {
    let mut names: Vec<&str> = vec![];
    for entry in outcomes.iter().flat_map(|outcome| &outcome.contenders) {
        if !names.contains(&entry.name) {
            names.push(entry.name);
        }
    }
    let mut rows =
        vec![["".into(), "unit".into()].into_iter().chain(names.iter().map(|name| (*name).into()))];
    let mut lines: Vec<Vec<String>> = rows.drain(..).map(Iterator::collect).collect();
    lines[0].push("goal".into());
    for outcome in outcomes {
        let cell = |name: &&str| {
            let place = outcome.contenders.iter().position(|entry| entry.name == *name);
            place.map(|place| cell(outcome, place)).unwrap_or_default()
        };
        let mut line = vec![outcome.name.clone(), outcome.unit.into()];
        line.extend(names.iter().map(cell));
        line.push(outcome.goals.iter().map(judgement).collect::<Vec<_>>().join("; "));
        lines.push(line);
    }
    format!("## {}\n\n{}\n\n{}", section.title(), section.about(), aligned(&lines))
}

/// Lines of a Markdown table, the first its head.
pub(crate) fn aligned(lines: &[Vec<String>]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} |"));
        text += &format!("|{}\n", cells.collect::<String>());
        if number == 0 {
            let rules = widths.iter().map(|width| format!("{}|", "-".repeat(width + 2)));
            text += &format!("|{}\n", rules.collect::<String>());
        }
    }
    text
}

/// A contender's value, and ours, which is the first's, in relation to it.
fn cell(outcome: &Outcome, place: usize) -> String {
    let entry = &outcome.contenders[place];
    if place == 0 {
        return spread(entry.value);
    }
    format!("{}, ×{}", number(entry.value.median), spread(entry.ratio))
}

/// The median, with the range if there is one.
fn spread(Summary { min, median, max }: Summary) -> String {
    let [min, median, max] = [min, median, max].map(number);
    if min == max { median } else { format!("{median} ({min}–{max})") }
}

fn judgement(judged: &Judged) -> String {
    format!("{}: {}", judged.goal, if judged.met { "met" } else { "**missed**" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Better, Entry, Goal, IOCAST};

    fn outcome(met: bool) -> Outcome {
        let one = Summary { min: 1.0, median: 2.0, max: 3.0 };
        let same = Summary { min: 0.5, median: 0.5, max: 0.5 };
        Outcome {
            section: Section::Latency,
            name: "x".into(),
            unit: "µs",
            better: Better::Lower,
            contenders: vec![
                Entry { name: IOCAST, value: one, ratio: same },
                Entry { name: "native", value: one, ratio: same },
            ],
            goals: vec![Judged { wanted: Goal::AtMost(1.0), goal: "≤ 1".into(), found: Some(one), met }],
        }
    }

    #[test]
    fn a_table_shows_our_range_and_our_ratio_to_others() {
        let table = table(Section::Latency, &[outcome(true)]);
        assert!(table.contains("|   | unit | iocast           | native      | goal     |\n"), "{table}");
        assert!(table.contains("| x | µs   | 2.00 (1.00–3.00) | 2.00, ×0.50 | ≤ 1: met |\n"), "{table}");
    }

    #[test]
    fn a_missed_goal_is_listed_with_what_we_reached() {
        let text = missed(&[outcome(true), outcome(false)]);
        assert!(text.starts_with("Goals: 1 met, 1 missed.\n- missed: "), "{text}");
        assert!(text.ends_with(", x: goal ≤ 1, found 2.00 (1.00–3.00)\n"), "{text}");
    }
}
