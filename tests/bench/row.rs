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

/// What our median must come to; we are the first contender of a row.
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
    /// We come first.
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
    WakeUps,
    Drops,
    Fairness,
    Searches,
    Bystanders,
    Latency,
    Connect,
    Tcp,
    Direct,
    Address,
    Stream,
    DirectStream,
    AddressStream,
    Unrelated,
    Idle,
    Programs,
    Updates,
    Cni,
    Reload,
    PodGrowth,
    CircuitGrowth,
    SearcherGrowth,
    DomainGrowth,
    RateGrowth,
    ProcessorGrowth,
    Watching,
    Ports,
    Size,
}

impl Section {
    /// Whether its contenders are numbers: the same with little and with much.
    pub(crate) fn is_growth(self) -> bool {
        self >= Self::PodGrowth && self <= Self::ProcessorGrowth
    }

    /// Its heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Delivered => "Fan-out: copies delivered",
            Self::Cpu => "Fan-out: processor time for each copy",
            Self::WakeUps => "Fan-out: wake-ups for each copy",
            Self::Drops => "Fan-out: packets that found a full queue",
            Self::Fairness => "Fan-out: overload",
            Self::Searches => "Processor time for each search",
            Self::Bystanders => "Other pods' datagrams in a storm of searches",
            Self::Latency => "Search to answer",
            Self::Connect => "Time to connect",
            Self::Tcp => "Circuits",
            Self::Direct => "Circuits of a pod with a LAN address, past the node's stack",
            Self::Address => "Circuits of a pod with a LAN address, through the node's stack",
            Self::Stream => "Streams of cameras",
            Self::DirectStream => "Streams to a pod with a LAN address, past the node's stack",
            Self::AddressStream => "Streams to a pod with a LAN address, through the node's stack",
            Self::Unrelated => "Unrelated traffic of the node",
            Self::Idle => "Time in the programs for a packet that is not theirs",
            Self::Programs => "Time in the programs",
            Self::Updates => "Updates",
            Self::Cni => "CNI",
            Self::Reload => "Replacing the programs under load",
            Self::PodGrowth => "Growth: pods that do not listen",
            Self::CircuitGrowth => "Growth: idle circuits",
            Self::SearcherGrowth => "Growth: searchers that are remembered",
            Self::DomainGrowth => "Growth: domains that are not asked",
            Self::RateGrowth => "Growth: searches a second",
            Self::ProcessorGrowth => "Growth: processors",
            Self::Watching => "Watching",
            Self::Ports => "External ports, and the agent",
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
            Self::WakeUps => "How often a receiver went to sleep, divided by the copies that were delivered.",
            Self::Drops => {
                "Packets a burst that a processor's queue (`net.core.netdev_max_backlog`) had no room for."
            }
            Self::Fairness => {
                "Bursts of three times what a processor's queue holds, one after another for a second: what the pod that \
                 got least received, in relation to the one that got most, and the part of all copies that was delivered."
            }
            Self::Searches => {
                "Searches for a name that nobody has, to 30 softIoc with 100 records each, one in a pod: all copies, receivers, and what the IOCs do to \
                 find out, of all processors, divided by the searches."
            }
            Self::Bystanders => {
                "Searches and as many datagrams to one pod's own address arrive at once, in turns; how many of the latter that pod receives while all pods listen for searches."
            }
            Self::Latency => {
                "A client on the LAN searches; a server in a pod, one of ten that are there, answers. Both on one processor."
            }
            Self::Connect => {
                "From the start of the real client to the last value, with ten softIocPVA, each of them in a pod."
            }
            Self::Tcp => {
                "One circuit from a client on the LAN to a server in a pod; connections one after another. Both on one processor."
            }
            Self::Direct => "The same in a domain with `path = \"direct\"`.",
            Self::Address => "The same beside a pod without iocast, to whose address the LAN has a route.",
            Self::Stream => {
                "From a socket on the LAN that sends like a camera to a program in a pod, blocked in its socket. Rates: each on a processor \
                 of its own; the rest: both on one."
            }
            Self::DirectStream => "The same in a domain with `path = \"direct\"`.",
            Self::AddressStream => {
                "The same beside a pod without iocast, to whose address the LAN has a route."
            }
            Self::Unrelated => {
                "Between a host on the LAN and a process on the node, both on one processor, on the uplink with our programs and on another \
                 of the same node without."
            }
            Self::Idle => "A million runs on one packet, by the kernel's `BPF_PROG_TEST_RUN`.",
            Self::Programs => "Mean time of a run, as the kernel measures it, measuring included.",
            Self::Updates => {
                "Values a second of a client that monitors everything ten IOCs have, at 10 Hz each."
            }
            Self::Cni => {
                "Wall time of one plugin, from the start of its process to its end, for the same pod; and that of /bin/true."
            }
            Self::Reload => "Searches while iocast-node starts again and replaces all programs.",
            Self::PodGrowth => "A domain of so many pods, of which one listens.",
            Self::CircuitGrowth => "So many circuits of other clients, on which nothing is sent.",
            Self::SearcherGrowth => "So many other sockets on the LAN that have searched lately.",
            Self::DomainGrowth => "So many domains with an uplink of their own, of which one is asked.",
            Self::RateGrowth => "Ten pods, of which all listen.",
            Self::ProcessorGrowth => "All pods listen; sender and receivers have so many processors.",
            Self::Watching => {
                "A storm of 25 000 searches a second to ten pods that listen, while `iocast-node top` shows it five times, once, or not at all."
            }
            Self::Ports => {
                "Searches whose answers name ports that were never named before, and what the agent needs."
            }
            Self::Size => "Static binaries.",
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

impl Outcome {
    /// Its name; of what grows, with the level that is judged.
    pub(crate) fn label(&self) -> String {
        match self.contenders.first() {
            Some(most) if self.section.is_growth() => format!("{}, {}", self.name, most.name),
            _ => self.name.clone(),
        }
    }
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
    #[serde(skip)]
    pub(crate) wanted: Goal,
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
    let entry = |(name, numbers): (&&'static str, &Vec<f64>)| Entry {
        name,
        value: Summary::of(numbers),
        ratio: Summary::of_ratios(&series[0], numbers),
    };
    names.iter().zip(series).map(entry).collect()
}

/// Whom a goal is beside: a contender, or a level of what grows.
fn base(name: &str) -> String {
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        format!("that at {name}")
    } else {
        name.into()
    }
}

/// Whether the goal is met; one beside a contender that took no part is not.
fn judge(wanted: Goal, entries: &[Entry]) -> Judged {
    let find = |name: &str| entries.iter().find(|entry| entry.name == name);
    let value = entries.first().map(|entry| entry.value);
    let ratio = |name: &str| find(name).map(|entry| entry.ratio);
    let (goal, found, at_most, limit) = match wanted {
        Goal::AtMost(limit) => (format!("≤ {limit}"), value, true, limit),
        Goal::AtLeast(limit) => (format!("≥ {limit}"), value, false, limit),
        Goal::TimesAtMost(name, limit) => {
            (format!("≤ {limit:.2} × {}", base(name)), ratio(name), true, limit)
        }
        Goal::TimesAtLeast(name, limit) => {
            (format!("≥ {limit:.2} × {}", base(name)), ratio(name), false, limit)
        }
    };
    let meets = |found: Summary| if at_most { found.median <= limit } else { found.median >= limit };
    Judged { wanted, goal, found, met: found.is_some_and(meets) }
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
