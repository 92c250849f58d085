//! How often something happens, over the last few seconds.

use std::time::Duration;

/// What rates are over.
pub(super) const WINDOW: Duration = Duration::from_secs(5);

/// Counts of this window and the one before; windows are counted from when watching began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    window: u32,
    before: u32,
    now: u32,
}

impl Rate {
    /// Counts so many at this time since watching began.
    pub(super) fn add(&mut self, time: Duration, count: u32) {
        self.go_to(window(time));
        self.now = self.now.saturating_add(count);
    }

    /// How many a second.
    pub(super) fn at(mut self, time: Duration) -> f64 {
        self.go_to(window(time));
        let seconds = WINDOW.as_secs_f64();
        if time < WINDOW {
            return f64::from(self.now) / time.as_secs_f64().max(1.0);
        }
        let passed = time.as_secs_f64() / seconds;
        (f64::from(self.before) * (1.0 - passed.fract()) + f64::from(self.now)) / seconds
    }

    /// Events of two processors may come in another order: what is late counts now.
    fn go_to(&mut self, window: u32) {
        match window.saturating_sub(self.window) {
            0 => return,
            1 => self.before = self.now,
            _ => self.before = 0,
        }
        (self.window, self.now) = (window, 0);
    }
}

fn window(time: Duration) -> u32 {
    (time.as_secs() / WINDOW.as_secs()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_over_the_last_seconds_from_the_first_one_on() {
        let mut rate = Rate::default();
        for tenth in 0..200 {
            let time = Duration::from_millis(100 * tenth);
            rate.add(time, 3);
            let expected = 27.0..=33.5;
            assert!(tenth < 10 || expected.contains(&rate.at(time)), "{tenth}: {}", rate.at(time));
        }
        let later = |seconds: u64| rate.at(Duration::from_secs(20 + seconds));
        assert!((later(1) - 24.0).abs() < 0.1 && later(9) == 0.0, "{} {}", later(1), later(9));
        let mut burst = Rate::default();
        burst.add(Duration::ZERO, 1000);
        assert_eq!(burst.at(Duration::from_millis(1)), 1000.0, "no second has passed");
    }
}
