//! When to back off: two programs that contend for a file must not keep the runtime reloading it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Writes within [`WINDOW`] that are not yet contention: installers write more than once while they start.
const MOST: usize = 5;
const WINDOW: Duration = Duration::from_secs(10);
/// How long to leave the file alone under contention.
pub(super) const PAUSE: Duration = Duration::from_secs(30);

/// Our latest writes, and whether another program contends for the file.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    latest: VecDeque<Instant>,
    contended: bool,
}

impl Backoff {
    /// Whether we may write at `now`.
    pub(crate) fn may_write(&self, now: Instant) -> bool {
        !self.contended || self.rested(now)
    }

    /// Records that we wrote at `now`.
    pub(crate) fn wrote(&mut self, now: Instant) {
        self.latest.push_back(now);
        if self.latest.len() > MOST {
            let first = self.latest.pop_front();
            self.contended |= first.is_some_and(|first| now.duration_since(first) <= WINDOW);
        }
    }

    /// Records that at `now` our last write was intact: if that lasts, the contention is over.
    pub(crate) fn undisturbed(&mut self, now: Instant) {
        self.contended &= !self.rested(now);
    }

    /// Whether another program keeps undoing our writes.
    pub(crate) fn is_contended(&self) -> bool {
        self.contended
    }

    fn rested(&self, now: Instant) -> bool {
        self.latest.back().is_none_or(|last| now.duration_since(*last) >= PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcome of attempts at these seconds.
    fn written(seconds: &[u64]) -> Vec<u64> {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        let mut written = vec![];
        for second in seconds {
            let now = start + Duration::from_secs(*second);
            if backoff.may_write(now) {
                backoff.wrote(now);
                written.push(*second);
            }
        }
        written
    }

    #[test]
    fn contention_is_slowed_down_to_a_write_every_30_seconds() {
        let every_second: Vec<_> = (0..70).collect();
        assert_eq!(written(&every_second), [0, 1, 2, 3, 4, 5, 35, 65]);
    }

    #[test]
    fn rewrites_that_are_few_are_never_delayed() {
        let every_three_seconds: Vec<_> = (0..60).step_by(3).collect();
        assert_eq!(written(&every_three_seconds), every_three_seconds);
    }

    #[test]
    fn contention_ends_when_a_write_has_lasted() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        (0..6).for_each(|_| backoff.wrote(start));
        assert!(backoff.is_contended());
        backoff.undisturbed(start + Duration::from_secs(29));
        assert!(backoff.is_contended() && !backoff.may_write(start + Duration::from_secs(29)));
        backoff.undisturbed(start + Duration::from_secs(30));
        assert!(!backoff.is_contended() && backoff.may_write(start + Duration::from_secs(30)));
    }
}
