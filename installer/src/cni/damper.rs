//! When to give way: two programs that each insist on their version of a file must not keep the runtime reloading it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Writes within [`WINDOW`] that are not a fight yet: installers write more than once while they start.
const MOST: usize = 5;
const WINDOW: Duration = Duration::from_secs(10);
/// How long to leave the file alone in a fight.
pub(super) const PAUSE: Duration = Duration::from_secs(30);

/// Our latest writes, and whether they are a fight.
#[derive(Debug, Default)]
pub(crate) struct Damper {
    latest: VecDeque<Instant>,
    fight: bool,
}

impl Damper {
    /// Whether we may write at `now`.
    pub(crate) fn may_write(&self, now: Instant) -> bool {
        !self.fight || self.rested(now)
    }

    /// Notes that we wrote at `now`.
    pub(crate) fn wrote(&mut self, now: Instant) {
        self.latest.push_back(now);
        if self.latest.len() > MOST {
            let first = self.latest.pop_front();
            self.fight |= first.is_some_and(|first| now.duration_since(first) <= WINDOW);
        }
    }

    /// Notes that at `now` nobody had undone what we wrote: if that lasts, the fight is over.
    pub(crate) fn undisturbed(&mut self, now: Instant) {
        self.fight &= !self.rested(now);
    }

    /// Whether somebody keeps undoing what we write.
    pub(crate) fn is_fight(&self) -> bool {
        self.fight
    }

    fn rested(&self, now: Instant) -> bool {
        self.latest.back().is_none_or(|last| now.duration_since(*last) >= PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of attempts at these seconds.
    fn written(seconds: &[u64]) -> Vec<u64> {
        let (mut damper, start) = (Damper::default(), Instant::now());
        let mut written = vec![];
        for second in seconds {
            let now = start + Duration::from_secs(*second);
            if damper.may_write(now) {
                damper.wrote(now);
                written.push(*second);
            }
        }
        written
    }

    #[test]
    fn a_fight_is_damped_to_a_write_every_30_seconds() {
        let every_second: Vec<_> = (0..70).collect();
        assert_eq!(written(&every_second), [0, 1, 2, 3, 4, 5, 35, 65]);
    }

    #[test]
    fn rewrites_that_are_few_are_never_delayed() {
        let every_three_seconds: Vec<_> = (0..60).step_by(3).collect();
        assert_eq!(written(&every_three_seconds), every_three_seconds);
    }

    #[test]
    fn a_fight_ends_when_a_write_has_lasted() {
        let (mut damper, start) = (Damper::default(), Instant::now());
        (0..6).for_each(|_| damper.wrote(start));
        assert!(damper.is_fight());
        damper.undisturbed(start + Duration::from_secs(29));
        assert!(damper.is_fight() && !damper.may_write(start + Duration::from_secs(29)));
        damper.undisturbed(start + Duration::from_secs(30));
        assert!(!damper.is_fight() && damper.may_write(start + Duration::from_secs(30)));
    }
}
