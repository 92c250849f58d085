//! What happened, on one page.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, Instant},
};

use lab::{Leftovers, NOTHING, monitors::CLIENTS};

use super::{
    PATIENCE,
    gauge::{Gauges, Kind},
    scene::{Subject, Watched},
    trouble::TROUBLES,
};

/// Columns of the table of gauges.
const QUARTERS: usize = 4;

/// All that is noted.
pub(crate) struct Story {
    pub(crate) begin: Instant,
    topology: &'static str,
    /// Of each trouble, in the order of [`TROUBLES`].
    tallies: Vec<Tally>,
    /// Before the first round and after each, and when that was.
    pub(crate) gauges: Vec<(Duration, Gauges)>,
    /// Losses that the trouble at hand does not explain.
    pub(crate) unexplained: Vec<String>,
    /// Clients that had to be started again, and how often.
    stalled: BTreeMap<String, usize>,
    /// What of ours was there when all pods were gone.
    pub(crate) left: Leftovers,
}

/// What came of a trouble.
#[derive(Clone, Default)]
struct Tally {
    times: usize,
    /// What those lost whom it concerns.
    losses: usize,
    /// And the others.
    others: usize,
    /// How long those whom it concerns took to have values again, s: of [`CLIENTS`], and of the camera's.
    took: [Vec<f64>; CLIENTS.len() + 1],
}

impl Story {
    pub(crate) fn new(topology: &'static str) -> Self {
        Self {
            begin: Instant::now(),
            topology,
            tallies: vec![Tally::default(); TROUBLES.len()],
            gauges: vec![],
            unexplained: vec![],
            stalled: BTreeMap::new(),
            left: NOTHING,
        }
    }

    fn clock(&self) -> String {
        let seconds = self.begin.elapsed().as_secs();
        format!("{:3}:{:02}", seconds / 60, seconds % 60)
    }

    /// Notes what a client lost by one of [`TROUBLES`], and how long it took to have values again, if it has any.
    pub(crate) fn note(
        &mut self,
        number: usize,
        watched: &Watched,
        concerned: bool,
        losses: usize,
        took: Option<f64>,
    ) {
        let clock = self.clock();
        let (Watched { subject, client }, trouble) = (watched, TROUBLES[number].name);
        if !concerned && (losses > 0 || took.is_none()) {
            let silent = if took.is_none() { ", and had no value again" } else { "" };
            let what = format!("{client} of {subject} lost something {losses} times{silent}");
            let line = format!("{clock}, {trouble}: {what}");
            println!("        unexplained: {line}");
            self.unexplained.push(line);
        }
        if took.is_none() {
            let line = format!("{trouble}: {client} of {subject}");
            println!("        started again: {clock}, {line}");
            *self.stalled.entry(line).or_default() += 1;
        }
        let column = CLIENTS.iter().position(|name| name == client).unwrap_or(CLIENTS.len());
        let tally = &mut self.tallies[number];
        if concerned {
            tally.losses += losses;
            tally.took[column].extend(took);
        } else {
            tally.others += losses;
        }
    }

    /// Notes that one of [`TROUBLES`] is over, and says so.
    pub(crate) fn told(&mut self, number: usize) {
        println!("{}  {}", self.clock(), TROUBLES[number].name);
        self.tallies[number].times += 1;
    }

    /// Notes that the run could not go on.
    pub(crate) fn fail(&mut self, error: &lab::Error) {
        let line = format!("{}, the run could not go on: {error}", self.clock());
        println!("        {line}");
        self.unexplained.push(line);
    }

    /// Steady gauges that are higher at the end than at the beginning, by more than a tenth.
    pub(crate) fn grown(&self) -> Vec<String> {
        let highest = |part: &[(Duration, Gauges)], which: usize| {
            part.iter().map(|(_, gauges)| gauges.all()[which].2).max().unwrap_or(0)
        };
        let Some((_, any)) = self.gauges.first() else { return vec![] };
        let quarter = self.gauges.len().div_ceil(QUARTERS);
        let (first, last) = (&self.gauges[..quarter], &self.gauges[self.gauges.len() - quarter..]);
        let grew = |(which, (name, kind, _)): (usize, &(&str, Kind, u64))| {
            let (before, after) = (highest(first, which), highest(last, which));
            let limit = match kind {
                Kind::Steady => before + before / 10,
                Kind::UpTo(limit) => *limit,
            };
            (after > limit).then(|| format!("{name}: from {before} to {after}"))
        };
        any.all().iter().enumerate().filter_map(grew).collect()
    }

    pub(crate) fn page(&self) -> String {
        let seconds = self.begin.elapsed().as_secs();
        format!(
            "{}\nA run of {} min {} s in a {} pod network, on {}.\n\n{}\n{}\n{}\n{}",
            include_str!("preface.md"),
            seconds / 60,
            seconds % 60,
            self.topology,
            lab::machine(),
            self.verdict(),
            self.troubles(),
            self.table_of_gauges(),
            self.lists(),
        )
    }

    fn verdict(&self) -> String {
        let says = |good: bool, text: &str| format!("- {}: {text}\n", if good { "yes" } else { "**no**" });
        says(self.unexplained.is_empty(), "every loss is explained by what was just done")
            + &says(self.grown().is_empty(), "nothing grew that must not")
            + &says(self.left == NOTHING, "nothing was left when all pods were gone")
    }

    fn troubles(&self) -> String {
        let mut text =
            String::from("| what was done | times | may concern | lost by these | lost by others |");
        let clients = CLIENTS.iter().copied().chain(["camera"]);
        text += &clients.map(|client| format!(" {client} back after, s |")).collect::<String>();
        text += "\n|---|---|---|---|---|---|---|---|---|\n";
        for (trouble, tally) in TROUBLES.iter().zip(&self.tallies) {
            let Tally { times, losses, others, took } = tally;
            let took: String = took.iter().map(|took| format!(" {} |", spread(took))).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {} | {times} | {} | {losses} | {others} |{took}",
                trouble.name, trouble.explains
            );
        }
        text
    }

    fn table_of_gauges(&self) -> String {
        let last = self.gauges.len().saturating_sub(1);
        let shown: Vec<_> =
            (0..=QUARTERS).filter_map(|part| self.gauges.get(last * part / QUARTERS)).collect();
        let mut text = String::from("| what is there | limit |");
        text += &shown.iter().map(|(at, _)| format!(" {} min |", at.as_secs() / 60)).collect::<String>();
        text += " highest |\n|---|---|---|";
        text += &"---|".repeat(shown.len());
        text += "\n";
        let Some((_, any)) = self.gauges.first() else { return text };
        for (which, (name, kind, _)) in any.all().iter().enumerate() {
            let of = |gauges: &Gauges| gauges.all()[which].2;
            let limit = match kind {
                Kind::Steady => "steady".into(),
                Kind::UpTo(limit) => limit.to_string(),
            };
            let cells: String = shown.iter().map(|(_, gauges)| format!(" {} |", of(gauges))).collect();
            let highest = self.gauges.iter().map(|(_, gauges)| of(gauges)).max().unwrap_or(0);
            let _ = writeln!(text, "| {name} | {limit} |{cells} {highest} |");
        }
        text
    }

    fn lists(&self) -> String {
        let stalled: Vec<_> =
            self.stalled.iter().map(|(line, times)| format!("{line}, {times} times")).collect();
        let again = format!(
            "Clients that ended, or had no value again after {} s, and were started again:",
            PATIENCE.as_secs()
        );
        let left = if self.left == NOTHING { vec![] } else { vec![format!("{:?}", self.left)] };
        [
            ("Lost without an explanation:".into(), &self.unexplained),
            ("Grown:".into(), &self.grown()),
            ("Left when all pods were gone:".into(), &left),
            (again, &stalled),
        ]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(title, list)| {
            let lines: String = list.iter().map(|line| format!("- {}\n", line.trim())).collect();
            format!("{title}\n\n{lines}\n")
        })
        .collect()
    }
}

/// Median and highest of some times.
fn spread(took: &[f64]) -> String {
    let mut sorted = took.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(median), Some(highest)) => format!("{median:.1}, at most {highest:.1}"),
        _ => String::new(),
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ioc(number) => write!(formatter, "the IOC in pod ioc-{number}"),
            Self::Native => write!(formatter, "the IOC on the LAN"),
            Self::Camera => write!(formatter, "the camera"),
        }
    }
}
