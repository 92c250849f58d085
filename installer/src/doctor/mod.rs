//! `iocast-node doctor`: checks everything that iocast depends on, and says what to do about what is not healthy. It changes
//! nothing.

mod diagnose;
mod facts;

pub(crate) use facts::{Places, fan};

use std::error::Error;

use datapath::printable::message;
use view::doctor::{Finding, Level};

use crate::say::{print, print_json};

/// Prints a line for each check; an error if one of them failed.
pub(crate) fn run(bpffs: &std::path::Path, places: &Places, json: bool) -> Result<(), Box<dyn Error>> {
    let mut findings = diagnose::diagnose(&facts::gather(bpffs, places));
    findings.retain(|finding| !places.no_cni || !["chain", "plugin"].contains(&&*finding.check));
    if json {
        print_json(&findings)?;
    } else {
        print(&findings.iter().map(line).collect::<String>())?;
    }
    match findings.iter().filter(|finding| finding.level == Level::Fail).count() {
        0 => Ok(()),
        1 => Err("1 check failed".into()),
        failed => Err(format!("{failed} checks failed").into()),
    }
}

fn line(Finding { level, check, found, advice }: &Finding) -> String {
    let advice = advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default();
    message(&format!("{:<5} {check:<14} {found}{advice}", level.name())) + "\n"
}
