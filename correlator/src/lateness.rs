//! How often a peer fails while nothing is broken: its base rate.

use std::time::Duration;

use events::Timestamp;
use serde::{Deserialize, Serialize};

/// Remembered for one to two of these.
const WINDOW: Duration = Duration::from_secs(300);
/// What is assumed of a peer before anything is known: 2 % of the time ...
const USUAL_PERMILLE: u64 = 20;
/// ... with the weight of half a minute of observation.
const PRIOR: Duration = Duration::from_secs(30);
/// One failure counts for so long at most: what lasts is no lateness.
const LONGEST: Duration = Duration::from_secs(1);
/// The share of peers that show a break when there is one.
const SHOWN: f64 = 0.98;

/// The share of time that a peer's acknowledgements were overdue without an outage, over a window
/// that slides in two halves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lateness {
    start: Timestamp,
    late: Duration,
    /// The half before: how long it was, and late of it.
    before: (Duration, Duration),
}

impl Lateness {
    pub fn new(at: Timestamp) -> Self {
        Self {
            start: at,
            ..Self::default()
        }
    }

    /// It was late for so long, until `at`.
    pub fn observe(&mut self, at: Timestamp, late: Duration) {
        let age = at.since(self.start);
        if age >= WINDOW {
            self.before = if age < 2 * WINDOW {
                (WINDOW, self.late)
            } else {
                (WINDOW, Duration::ZERO)
            };
            self.start = at;
            self.late = Duration::ZERO;
        }
        self.late += late.min(LONGEST);
    }

    /// The share of time that it is late, at least what is usual: a peer that never was may be so
    /// tomorrow.
    pub fn rate(&self, now: Timestamp) -> f64 {
        let age = now.since(self.start);
        let (seen, late) = if age < WINDOW {
            (age + self.before.0, self.late + self.before.1)
        } else if age < 2 * WINDOW {
            (age, self.late)
        } else {
            (2 * WINDOW, Duration::ZERO)
        };
        let usual = f64::from(USUAL_PERMILLE as u32) / 1000.0;
        let prior = PRIOR.as_secs_f64();
        let share = (late.as_secs_f64() + usual * prior) / (seen.as_secs_f64() + prior);
        share.clamp(usual, 0.9)
    }

    /// What evidence of this peer weighs against that of a usual one: the log-likelihood ratio of
    /// being overdue by a break to being so anyway, over that of a peer with the usual rate.
    pub fn trust(&self, now: Timestamp) -> f64 {
        let usual = f64::from(USUAL_PERMILLE as u32) / 1000.0;
        (SHOWN / self.rate(now)).ln() / (SHOWN / usual).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    /// Late once a second for `late_ms`, until `end`.
    fn peer(late_ms: u64, end: u64) -> Lateness {
        let mut lateness = Lateness::new(at(0));
        for second in 0..end {
            lateness.observe(at(second), Duration::from_millis(late_ms));
        }
        lateness
    }

    #[test]
    fn a_peer_that_is_never_late_is_trusted_fully() {
        assert_eq!(Lateness::new(at(0)).trust(at(0)), 1.0);
        assert_eq!(Lateness::new(at(0)).trust(at(10_000)), 1.0);
    }

    #[test]
    fn one_that_is_late_a_tenth_of_the_time_weighs_less() {
        let lateness = peer(100, 250);
        let rate = lateness.rate(at(250));
        assert!((0.08..0.11).contains(&rate), "{rate}");
        let weight = 3.9 * lateness.trust(at(250));
        assert!((2.1..2.6).contains(&weight), "{weight}");
    }

    #[test]
    fn the_share_is_the_same_across_the_halves_of_the_window_and_forgotten_after_it() {
        let lateness = peer(100, 400);
        let rate = lateness.rate(at(400));
        assert!((0.08..0.11).contains(&rate), "{rate}");
        assert_eq!(lateness.trust(at(20_000)), 1.0);
    }

    #[test]
    fn one_long_failure_is_no_habit() {
        let mut lateness = Lateness::new(at(0));
        lateness.observe(at(290), Duration::from_secs(200));
        assert!(lateness.rate(at(290)) < 0.03);
    }
}
