//! `iocast-node why`: why a client cannot see a PV. It climbs a ladder of what must be true, and explains the first rung that is
//! broken. The rungs are judged by `ladder` alone, from facts; all else gathers them.

mod ask;
mod connect;
mod domains;
mod facts;
mod frame;
mod gather;
mod ladder;
mod near;
mod pods;
mod report;
mod rung;
mod search;
mod wait;
mod watch;

use std::{
    error::Error,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use abi::Protocol;
use clap::Args;

use self::{report::Report, rung::State};
use crate::{
    absent::Runtime,
    say::{complain, is_coloured, print, print_json},
};

/// The longest name that a search can have, so that it fits into a datagram.
const LONGEST: usize = 1000;

/// What to explain.
#[derive(Args)]
pub(crate) struct Options {
    /// The PV's name, without a field.
    #[arg(value_name = "PV", value_parser = name)]
    pv: String,
    /// The client that does not see it: its address on the LAN. Without it, whoever asks for the PV now.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<Ipv4Addr>,
    /// Only this protocol [default: both].
    #[arg(long, value_name = "ca|pva", value_parser = protocol)]
    protocol: Option<Protocol>,
    /// Ask at once in the client's name, instead of waiting 3 s for the client to ask.
    #[arg(long)]
    ask: bool,
    /// Print JSON: see docs/why.md.
    #[arg(long)]
    json: bool,
    /// Configuration file, for the names of uplinks that are not there.
    #[arg(long, value_name = "FILE", default_value = "/etc/iocast/config.toml")]
    config: PathBuf,
    #[command(flatten)]
    runtime: Runtime,
}

fn name(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("a PV has a name".into()),
        1..=LONGEST => Ok(text.into()),
        _ => Err(format!("no server has a name of more than {LONGEST} bytes")),
    }
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "ca" => Ok(Protocol::Ca),
        "pva" => Ok(Protocol::Pva),
        _ => Err("expected ca or pva".into()),
    }
}

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
    let began = Instant::now();
    let facts = gather::gather(bpffs, options)?;
    let report = Report::new(&facts, began.elapsed());
    if options.json {
        print_json(&report)?;
    } else {
        print(&report.text(is_coloured()))?;
    }
    Ok(report.state)
}
