//! `iocast-node survey`: which pods have their node's network, what they do with it, and which of them could be members. It
//! only looks: `gather` reads, `judge` and `settings` conclude.

mod facts;
mod gather;
mod judge;
mod options;
mod processes;
#[cfg(test)]
mod sample;
mod settings;
mod sockets;
mod watch;

use std::{error::Error, process::ExitCode};

use view::{Answer as _, Asked, survey::Survey};

pub(crate) use self::options::Options;
use crate::say::{complain, node_name, show};

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
