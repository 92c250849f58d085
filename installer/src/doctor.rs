//! `iocast-node doctor`: looks at all that iocast depends on, and says of each thing whether it is as it should be and
//! what to do if not. It changes nothing.

mod diagnose;
mod facts;

use std::{error::Error, path::PathBuf};

use serde::Serialize;

/// Where to look.
#[derive(clap::Args)]
pub(crate) struct Places {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/iocast/config.toml")]
    config: PathBuf,
    #[command(flatten)]
    cni: crate::cni::Options,
}

/// How it stands with a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Level {
    /// As it should be.
    Ok,
    /// Works, or may work, but somebody should look.
    Warn,
    /// Does not work.
    Fail,
}

/// What a check found.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    /// The check.
    check: &'static str,
    /// What was found.
    found: String,
    /// What to do; null where there is nothing to do.
    advice: Option<String>,
}

/// Prints a line for each check; an error if one of them failed.
pub(crate) fn run(bpffs: &std::path::Path, places: &Places, json: bool) -> Result<(), Box<dyn Error>> {
    let findings = diagnose::diagnose(&facts::gather(bpffs, places));
    if json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        findings.iter().for_each(|finding| println!("{}", line(finding)));
    }
    match findings.iter().filter(|finding| finding.level == Level::Fail).count() {
        0 => Ok(()),
        1 => Err("1 check failed".into()),
        failed => Err(format!("{failed} checks failed").into()),
    }
}

fn line(Finding { level, check, found, advice }: &Finding) -> String {
    let level = match level {
        Level::Ok => "OK",
        Level::Warn => "WARN",
        Level::Fail => "FAIL",
    };
    let advice = advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default();
    format!("{level:<5} {check:<14} {found}{advice}")
}
