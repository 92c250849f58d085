//! What a large site would cost: a simulation of who hears what, with the costs that this run has measured.

mod model;
mod page;

use crate::{
    row::{IOCAST, NATIVE, Outcome, Section},
    rows::{
        searches::{self, BURST, IOCS, NAMES, WITHHELD},
        subnets,
    },
};

/// Microseconds of processor time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Costs {
    /// A search for twenty names that an IOC in a pod gets, and has none of: the copy, and what the IOC does with it.
    pod: f64,
    /// The same for an IOC with hostNetwork.
    native: f64,
    /// The same for a node none of whose pods gets it, as they say that they do not have the names.
    withheld: f64,
    /// What crosses, at the relaying node that sends or receives it.
    crossing: f64,
}

/// The page and its picture, if everything that they need was measured.
pub(crate) fn write(outcomes: &[Outcome]) -> Option<(String, String)> {
    let costs = Costs::of(outcomes)?;
    let results = page::simulate(&costs);
    Some((page::page(&costs, &results), page::plot(&results)))
}

impl Costs {
    fn of(outcomes: &[Outcome]) -> Option<Self> {
        let measured = |name: &str, who: &str| {
            let outcome = outcomes
                .iter()
                .find(|outcome| outcome.section == Section::Searches && outcome.name == name)?;
            Some(outcome.contenders.iter().find(|entry| entry.name == who)?.value.median)
        };
        let heard = searches::name(BURST, NAMES.len());
        let of_ioc = |who| Some(measured(&heard, who)? / IOCS as f64);
        Some(Self {
            pod: of_ioc(IOCAST)?,
            native: of_ioc(NATIVE)?,
            withheld: measured(WITHHELD, IOCAST)?,
            crossing: measured(subnets::CROSSING, IOCAST)?,
        })
    }
}
