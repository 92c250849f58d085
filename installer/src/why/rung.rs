//! How the rungs of the ladder are made: something that must be true for a client to see a PV, and whether it is.

use view::why::{Cause, Rung, State};

pub(super) fn ok(rung: &'static str, found: impl Into<String>) -> Rung {
    Rung { rung: rung.into(), state: State::Ok, cause: None, found: found.into(), mend: None }
}

pub(super) fn fail(
    rung: &'static str,
    cause: Cause,
    found: impl Into<String>,
    mend: impl Into<String>,
) -> Rung {
    Rung {
        rung: rung.into(),
        state: State::Fail,
        cause: Some(cause),
        found: found.into(),
        mend: Some(mend.into()),
    }
}

/// What could not be found out, because of something before it.
pub(super) fn unknown(rung: &'static str, found: impl Into<String>) -> Rung {
    Rung { rung: rung.into(), state: State::Unknown, cause: None, found: found.into(), mend: None }
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
