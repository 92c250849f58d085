//! `iocast-node survey`: which pods have their node's network, what they do with it, and which of them could be members. It
//! only looks: `gather` reads, `judge` and `settings` conclude.

mod facts;
mod gather;
mod judge;
mod processes;
#[cfg(test)]
mod sample;
mod settings;
mod sockets;
mod watch;

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use view::{Answer as _, Asked, survey::Survey};

use crate::{
    absent::Runtime,
    say::{complain, node_name, show},
};

/// How to look.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long to watch what is sent; 0: not at all.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 5)]
    seconds: u16,
    /// Print JSON: see docs/migrate.md.
    #[arg(long)]
    json: bool,
    /// Configuration file: the domains that pods can join.
    #[arg(long, value_name = "FILE", default_value = "/etc/iocast/config.toml")]
    config: PathBuf,
    /// The interface on the LAN, if no domain is configured [default: that of the default route].
    #[arg(long, value_name = "INTERFACE")]
    uplink: Option<String>,
    #[command(flatten)]
    runtime: Runtime,
}

impl Options {
    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

/// Shows what is there; 0 if all of it can move, 1 if some needs an address or has to stay, 2 if something is not known.
pub(crate) fn run(options: &Options) -> ExitCode {
    match look(options).and_then(|survey| Ok(show(&survey, options.json).map(|()| survey.code())?)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(error);
            ExitCode::from(2)
        }
    }
}

fn look(options: &Options) -> Result<Survey, Box<dyn Error>> {
    let node = node_name();
    let (found, others) = judge::judge(&node, &gather::gather(options)?);
    Ok(Survey { found, others, ..Survey::nothing(vec![Asked::answered(&node)]) })
}
