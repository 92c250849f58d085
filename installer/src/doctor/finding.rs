//! The result of a check.

use serde::Serialize;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Works, or may work, but somebody should look.
    Warn,
    /// Does not work.
    Fail,
}

/// What a check found.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// The check.
    pub(super) check: &'static str,
    /// What was found.
    pub(super) found: String,
    /// What to do; null where there is nothing to do.
    pub(super) advice: Option<String>,
}
