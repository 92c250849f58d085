//! What is compared: rows of measures, contenders that take turns, goals.

use lab::Result;
use serde::Serialize;

use crate::stats::Summary;

/// Ours.
pub(crate) const IOCAST: &str = "iocast";
/// The program runs in the node's own network namespace, as with hostNetwork.
pub(crate) const NATIVE: &str = "native";
/// The same traffic on an uplink that has none of our programs.
pub(crate) const WITHOUT: &str = "without";

/// Whether more of something is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Lower,
    Higher,
}

/// What our median must come to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// Times what the named contender has.
    TimesAtMost(&'static str, f64),
    TimesAtLeast(&'static str, f64),
}

/// One number of a trial.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    /// The table that it belongs to.
    pub(crate) section: Section,
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) goals: Vec<Goal>,
}

impl Measure {
    /// One of which less is better.
    pub(crate) fn lower(
        section: Section,
        name: impl Into<String>,
        unit: &'static str,
        goals: &[Goal],
    ) -> Self {
        Self { section, name: name.into(), unit, better: Better::Lower, goals: goals.to_vec() }
    }

    /// One of which more is better.
    pub(crate) fn higher(
        section: Section,
        name: impl Into<String>,
        unit: &'static str,
        goals: &[Goal],
    ) -> Self {
        Self { better: Better::Higher, ..Self::lower(section, name, unit, goals) }
    }
}

/// Measures its contender once: a number for each measure of the row.
pub(crate) type Trial<'a> = Box<dyn FnMut() -> Result<Vec<f64>> + 'a>;

/// What is measured together, by which contenders.
pub(crate) struct Row<'a> {
    pub(crate) measures: Vec<Measure>,
    pub(crate) contenders: Vec<(&'static str, Trial<'a>)>,
    /// How often each contender has its turn.
    pub(crate) repeats: usize,
    /// Whether there is a turn before that does not count.
    pub(crate) warm_up: bool,
}

/// A table of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Section {
    Delivered,
    Cpu,
    Bystanders,
    Latency,
    Connect,
    Tcp,
    Stream,
    Unrelated,
    Programs,
    Updates,
    Cni,
    Reload,
    Growth,
    Size,
}

impl Section {
    /// Its heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Delivered => "Fan-out: copies delivered",
            Self::Cpu => "Fan-out: processor time for each copy",
            Self::Bystanders => "Other pods' datagrams in a storm of searches",
            Self::Latency => "Search to answer",
            Self::Connect => "Time to connect",
            Self::Tcp => "Circuits",
            Self::Stream => "Streams of cameras",
            Self::Unrelated => "Unrelated traffic of the node",
            Self::Programs => "Time in the programs",
            Self::Updates => "Updates",
            Self::Cni => "CNI",
            Self::Reload => "Replacing the programs under load",
            Self::Growth => "Growth",
            Self::Size => "Size",
        }
    }

    /// What it is about.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Delivered => {
                "Searches that arrive at the uplink all at once, as a network card hands them over."
            }
            Self::Cpu => {
                "Everything from the uplink to the return of the blocked receiver's system call, of all processors, divided by the copies that were delivered."
            }
            Self::Bystanders => {
                "Searches and as many datagrams to one pod's own address arrive at once, in turns; how many of the latter that pod receives while all pods listen for searches."
            }
            Self::Latency => {
                "A client on the LAN searches; a server in a pod, one of ten that are there, answers."
            }
            Self::Connect => {
                "From the start of the real client to the last value, with ten softIocPVA, each of them in a pod."
            }
            Self::Tcp => {
                "One circuit from a client on the LAN to a server in a pod; connections one after another."
            }
            Self::Stream => {
                "From a socket on the LAN that sends like a camera to a program in a pod, blocked in its socket."
            }
            Self::Unrelated => {
                "Between a host on the LAN and a process on the node, on the uplink with our programs and on another \
                 of the same node without."
            }
            Self::Programs => "Mean time of a run, as the kernel measures it.",
            Self::Updates => {
                "Values that a client prints which monitors everything ten IOCs have, at 10 Hz each."
            }
            Self::Cni => {
                "Wall time of one plugin, from the start of its process to its end, for the same pod."
            }
            Self::Reload => "Searches while iocast-node starts again and replaces all programs.",
            Self::Growth => "The same with little and with much.",
            Self::Size => "Resident memory, and static binaries.",
        }
    }
}

/// A measure of a row, and what came out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) section: Section,
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) contenders: Vec<Entry>,
    pub(crate) goals: Vec<Judged>,
}

/// A contender's part of an outcome.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) value: Summary,
    /// Ours in relation to it.
    pub(crate) ratio: Summary,
}

/// A goal, and whether it was met.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Judged {
    pub(crate) goal: String,
    /// What its median is judged by.
    pub(crate) found: Option<Summary>,
    pub(crate) met: bool,
}

/// Lets the contenders of a row take turns, and sums up.
pub(crate) fn race(mut row: Row) -> Result<Vec<Outcome>> {
    let mut series = vec![vec![vec![]; row.contenders.len()]; row.measures.len()];
    for turn in 0..row.repeats + usize::from(row.warm_up) {
        for (contender, (_, trial)) in row.contenders.iter_mut().enumerate() {
            let numbers = trial()?;
            if row.warm_up && turn == 0 {
                continue;
            }
            for (series, number) in series.iter_mut().zip(numbers) {
                series[contender].push(number);
            }
        }
    }
    let names: Vec<_> = row.contenders.iter().map(|(name, _)| *name).collect();
    let outcomes = row.measures.iter().zip(series).map(|(measure, series)| {
        let contenders = entries(&names, &series);
        Outcome {
            section: measure.section,
            name: measure.name.clone(),
            unit: measure.unit,
            better: measure.better,
            goals: measure.goals.iter().map(|goal| judge(*goal, &contenders)).collect(),
            contenders,
        }
    });
    Ok(outcomes.collect())
}

fn entries(names: &[&'static str], series: &[Vec<f64>]) -> Vec<Entry> {
    let ours = names.iter().position(|name| *name == IOCAST).unwrap_or(0);
    let entry = |(name, numbers): (&&'static str, &Vec<f64>)| Entry {
        name,
        value: Summary::of(numbers),
        ratio: Summary::of_ratios(&series[ours], numbers),
    };
    names.iter().zip(series).map(entry).collect()
}

/// Whether the goal is met; one beside a contender that took no part is not.
fn judge(goal: Goal, entries: &[Entry]) -> Judged {
    let find = |name: &str| entries.iter().find(|entry| entry.name == name);
    let value = find(IOCAST).map(|entry| entry.value);
    let ratio = |name: &str| find(name).map(|entry| entry.ratio);
    let (goal, found, at_most, limit) = match goal {
        Goal::AtMost(limit) => (format!("≤ {limit}"), value, true, limit),
        Goal::AtLeast(limit) => (format!("≥ {limit}"), value, false, limit),
        Goal::TimesAtMost(name, limit) => (format!("≤ {limit:.2} × {name}"), ratio(name), true, limit),
        Goal::TimesAtLeast(name, limit) => (format!("≥ {limit:.2} × {name}"), ratio(name), false, limit),
    };
    let meets = |found: Summary| if at_most { found.median <= limit } else { found.median >= limit };
    Judged { goal, found, met: found.is_some_and(meets) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(goals: &[Goal], contenders: Vec<(&'static str, Trial<'a>)>) -> Row<'a> {
        let measures = vec![Measure::lower(Section::Tcp, "x", "s", goals)];
        Row { measures, contenders, repeats: 3, warm_up: true }
    }

    #[test]
    fn contenders_take_turns_and_the_first_turn_does_not_count() {
        let turns = std::cell::RefCell::new(vec![]);
        let log = &turns;
        let trial = |name: &'static str| -> Trial {
            Box::new(move || {
                log.borrow_mut().push(name);
                Ok(vec![if log.borrow().len() <= 2 { 1e9 } else { 5.0 }])
            })
        };
        let outcomes = race(row(&[], vec![(IOCAST, trial("a")), (NATIVE, trial("b"))])).unwrap();
        assert_eq!(outcomes[0].contenders[0].value, Summary { min: 5.0, median: 5.0, max: 5.0 });
        drop(outcomes);
        assert_eq!(turns.into_inner(), ["a", "b", "a", "b", "a", "b", "a", "b"]);
    }

    #[test]
    fn a_goal_is_judged_by_our_median() {
        let trial = |number: f64| -> Trial { Box::new(move || Ok(vec![number])) };
        let goals = [
            Goal::AtMost(3.0),
            Goal::AtMost(1.9),
            Goal::TimesAtMost(NATIVE, 0.5),
            Goal::TimesAtLeast(NATIVE, 0.6),
            Goal::TimesAtLeast("absent", 0.1),
        ];
        let outcomes = race(row(&goals, vec![(IOCAST, trial(2.0)), (NATIVE, trial(4.0))])).unwrap();
        let met: Vec<_> = outcomes[0].goals.iter().map(|judged| judged.met).collect();
        assert_eq!(met, [true, false, true, false, false]);
        assert_eq!(outcomes[0].goals[2].goal, "≤ 0.50 × native");
    }
}
