//! Flapping damped: what breaks again and again must work longer before it counts as healed.

use std::time::Duration;

use events::Timestamp;
use serde::{Deserialize, Serialize};

/// The penalty halves in this time: five minutes, the order of RFC 2439's half-lives.
const HALF_LIFE: Duration = Duration::from_secs(300);
/// The time to heal is doubled so often at most.
const MAX_DOUBLED: u32 = 5;

/// How often an egress healed of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flaps {
    count: u32,
    at: Timestamp,
}

impl Flaps {
    /// An incident of it healed.
    pub fn healed(&mut self, at: Timestamp) {
        self.count = self.left(at).saturating_add(1);
        self.at = at;
    }

    /// How many times longer than usual it must answer to count as healed.
    pub fn patience(&self, now: Timestamp) -> u32 {
        1 << self.left(now).min(MAX_DOUBLED)
    }

    fn left(&self, now: Timestamp) -> u32 {
        let halvings = now.since(self.at).as_secs() / HALF_LIFE.as_secs();
        u32::try_from(halvings)
            .ok()
            .and_then(|n| self.count.checked_shr(n))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn each_heal_doubles_the_patience_and_time_halves_it() {
        let mut flaps = Flaps::default();
        let mut seen = Vec::new();
        for n in 0..8 {
            seen.push(flaps.patience(at(10 * n)));
            flaps.healed(at(10 * n));
        }
        assert_eq!(seen, [1, 2, 4, 8, 16, 32, 32, 32]);
        assert_eq!(flaps.patience(at(70 + 300)), 16);
        assert_eq!(flaps.patience(at(70 + 1200)), 1);
        assert_eq!(flaps.patience(at(1_000_000)), 1);
    }
}
