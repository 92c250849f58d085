//! `iocast-node why`: why a client cannot see a PV. It climbs a ladder of what must be true, and explains the first rung that is
//! broken. The rungs are judged by `ladder` alone, from facts; all else gathers them.

mod connect;
mod facts;
mod gather;
mod ladder;
mod near;
mod options;
mod pods;
mod report;
mod rung;
mod watch;

pub(crate) use options::Options;

use std::{error::Error, path::Path, process::ExitCode, time::Instant};

use view::why::{Report, State};

use self::report::report;
use crate::say::{complain, node_name, show};

/// Explains; 0 if everything is in order, 1 if a rung is broken, 2 if one is not known.
pub(crate) fn run(bpffs: &Path, options: &Options) -> ExitCode {
    match explain(bpffs, options) {
        Ok(State::Ok) => ExitCode::SUCCESS,
        Ok(State::Fail) => ExitCode::from(1),
        Ok(State::Unknown) => ExitCode::from(2),
        Err(error) => {
            complain(error);
            ExitCode::from(2)
        }
    }
}

fn explain(bpffs: &Path, options: &Options) -> Result<State, Box<dyn Error>> {
    let report = look(bpffs, options)?;
    show(&report, options.json)?;
    Ok(report.state)
}

/// The explanation.
pub(crate) fn look(bpffs: &Path, options: &Options) -> Result<Report, Box<dyn Error>> {
    let began = Instant::now();
    let facts = gather::gather(bpffs, options)?;
    Ok(report(node_name(), &facts, began.elapsed()))
}
