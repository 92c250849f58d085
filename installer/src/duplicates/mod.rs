//! PVs that more than one server has. A client gets whichever answers first, so that a value or a setpoint may be that of the other
//! one. Answers carry no names, and those between hosts on the LAN do not pass this node: so names are learnt, and asked for.

mod names;
mod probe;
mod watch;

pub(crate) use watch::{Found, Watch};

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use abi::Protocol;
use clap::Args;
use view::{Answer as _, Asked, Duplicates};

use self::probe::{Memory, Probe};
use crate::{
    allowed::Allowed,
    ask::{name, protocol},
    config::{Config, MOST_RATE},
    say::{complain, node_name, show},
    signals::stop_signals,
    snoop,
};

/// Seconds that names are learnt for, unless the command line says otherwise.
const SECONDS: u64 = 60;
/// Names a second, unless somebody says otherwise.
const RATE: u32 = 20;
/// When names of the command line are asked for again: a datagram may be lost.
const AGAIN: Duration = Duration::from_millis(300);
/// Time between two looks at what has come.
const NAP: Duration = Duration::from_millis(50);

/// What to ask for.
#[derive(Args)]
pub(crate) struct Options {
    /// Ask for these PVs, at once; without any, for all that somebody searches for meanwhile.
    #[arg(value_name = "PV", value_parser = name)]
    pvs: Vec<String>,
    /// How long to learn names from searches, and to ask for them [default: 60, or not at all if PVs are named].
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Names to ask for a second, in each domain [default: as configured, or 20].
    #[arg(long, value_name = "NAMES", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_RATE)))]
    rate: Option<u32>,
    /// What may have a PV beside others: an address, a network or a pod (`namespace/name`), or PVs that begin so (`BL07:*`);
    /// besides what is configured.
    #[arg(long, value_name = "ALLOWED", value_parser = Allowed::parse)]
    allow: Vec<Allowed>,
    /// Only this protocol [default: both].
    #[arg(long, value_name = "ca|pva", value_parser = protocol)]
    protocol: Option<Protocol>,
    /// Print JSON: see docs/duplicates.md.
    #[arg(long)]
    json: bool,
    /// Configuration file, for what is allowed, and for the names of uplinks that are not there.
    #[arg(long, value_name = "FILE", default_value = "/etc/iocast/config.toml")]
    config: PathBuf,
}

/// Shows them; 0 if there are none, 1 if there are some, 2 if they could not be looked for.
pub(crate) fn run(bpffs: &Path, options: &Options) -> ExitCode {
    match look(bpffs, options).and_then(|found| Ok(show(&found, options.json).map(|()| found)?)) {
        Ok(found) => ExitCode::from(u8::from(!found.duplicates.is_empty())),
        Err(error) => {
            complain(error);
            ExitCode::from(2)
        }
    }
}

fn look(bpffs: &Path, options: &Options) -> Result<Duplicates, Box<dyn Error>> {
    let config = Config::read(&options.config).ok();
    let domains = config.as_ref().map(|config| config.domains.as_slice()).unwrap_or_default();
    let configured = config.as_ref().map(|config| config.duplicates.clone()).unwrap_or_default();
    let rate = options.rate.or(Some(configured.rate).filter(|rate| *rate > 0)).unwrap_or(RATE);
    let allowed = [configured.allowed, options.allow.clone()].concat();
    let seconds = options.seconds.or(options.pvs.is_empty().then_some(SECONDS));
    let (stop, memory) = (stop_signals()?, (Memory::default(), seconds.is_some()));
    let mut probe = Probe::begin(bpffs, domains, options.protocol, memory)?;
    let troubles: Vec<_> = probe.troubles().collect();
    if probe.is_mute() {
        let why = if troubles.is_empty() {
            "no domain has searches of CA or PVA".into()
        } else {
            troubles.join("; ")
        };
        return Err(format!("nobody can be asked: {why}").into());
    }
    troubles.iter().for_each(complain);
    probe.ask_for(&options.pvs);
    let end = seconds.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let mut again = (!options.pvs.is_empty()).then(|| Instant::now() + AGAIN);
    loop {
        probe.step(rate)?;
        if again.take_if(|at| Instant::now() >= *at).is_some() {
            probe.ask_again();
        }
        let is_over = seconds.map_or(probe.is_over(), |_| end.is_some_and(|end| Instant::now() >= end));
        if is_over || snoop::wait(&stop, probe.events(), Instant::now() + NAP)? {
            break;
        }
    }
    let found = answer(&probe, &allowed)?;
    probe.end()?;
    Ok(found)
}

/// What has been found so far.
fn answer(probe: &Probe, allowed: &[Allowed]) -> datapath::Result<Duplicates> {
    let (node, (time, names, lost)) = (node_name(), probe.extent()?);
    let mut found = Duplicates::nothing(vec![Asked::answered(&node)]);
    (found.seconds, found.names, found.lost) = (time.as_secs_f64(), names, lost);
    let all = probe.found(&node)?.into_iter();
    let all = all.filter(|duplicate| !allowed.iter().any(|allowed| allowed.has_pv(&duplicate.pv)));
    found.duplicates = all.collect();
    found.leave_out(|server| {
        allowed.iter().any(|allowed| allowed.has_server(*server.address.ip(), server.pod.as_deref()))
    });
    Ok(found)
}
