//! One step of the ladder: something that must be true for a client to see a PV.

use serde::Serialize;

/// Whether it is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    Fail,
    /// Not known.
    Unknown,
}

/// Why it is not, by names that programs may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Cause {
    NoDatapath,
    Uplink,
    Silent,
    OtherPort,
    OffLan,
    Limited,
    NotRelayed,
    NotAnnotated,
    NoMember,
    OtherDomain,
    Loopback,
    Unicast,
    PodPort,
    NotRunning,
    Restarting,
    Mistyped,
    Nobody,
    NoPort,
    NoAnswer,
    Duplicate,
    FirewallPolicy,
    Firewall,
    Refused,
    Unanswered,
    AnswerLost,
    Elsewhere,
    Untried,
}

/// A step, and what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Rung {
    pub(super) rung: &'static str,
    pub(super) state: State,
    pub(super) cause: Option<Cause>,
    /// What was found, as a part of a sentence.
    pub(super) found: String,
    /// What to do about it.
    pub(super) mend: Option<String>,
}

pub(super) fn ok(rung: &'static str, found: impl Into<String>) -> Rung {
    Rung { rung, state: State::Ok, cause: None, found: found.into(), mend: None }
}

pub(super) fn fail(
    rung: &'static str,
    cause: Cause,
    found: impl Into<String>,
    mend: impl Into<String>,
) -> Rung {
    Rung { rung, state: State::Fail, cause: Some(cause), found: found.into(), mend: Some(mend.into()) }
}

/// What could not be found out, because of something before it.
pub(super) fn unknown(rung: &'static str, found: impl Into<String>) -> Rung {
    Rung { rung, state: State::Unknown, cause: None, found: found.into(), mend: None }
}

/// What could not be found out, and what to do for it.
pub(super) fn doubtful(
    rung: &'static str,
    cause: Cause,
    found: impl Into<String>,
    mend: impl Into<String>,
) -> Rung {
    Rung { state: State::Unknown, ..fail(rung, cause, found, mend) }
}
