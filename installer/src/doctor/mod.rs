//! `iocast-node doctor`: looks at all that iocast depends on, and says of each thing whether it is as it should be and
//! what to do if not. It changes nothing.

mod diagnose;
mod facts;
mod finding;

pub(crate) use facts::Places;

use std::error::Error;

use finding::{Finding, Level};

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
