//! How long the programs emit events for somebody who watches: he sets a deadline ahead, and extends it again and again, so that they
//! stop soon after him, however he ends.

use std::time::{Duration, Instant};

/// How far ahead the deadline is set.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
/// How often it is extended.
pub(crate) const RENEWAL: Duration = Duration::from_secs(1);

/// When it was extended last.
#[derive(Debug, Default)]
pub(crate) struct Renewal(Option<Instant>);

impl Renewal {
    /// Whether it is time to, which counts as done then.
    pub(crate) fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|renewed| renewed.elapsed() >= RENEWAL);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}
