//! How late a peer's acknowledgements usually are, beyond what round-trip times explain.

use std::time::Duration;

use events::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Params;
use crate::rtt::nanos;

/// Observations closer together than this are one: a single burst of queueing teaches once.
const SPACING: Duration = Duration::from_secs(1);

/// The third-latest acknowledgement of the last one to two windows, so that it takes three separate
/// occasions to make the detector slower, and they are forgotten again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Allowance {
    window_start: Timestamp,
    current: [u64; 3],
    previous: [u64; 3],
    observed_at: Option<Timestamp>,
}

impl Allowance {
    /// An acknowledgement came `excess` after `srtt + 4 * mdev + floor`. The caller leaves out those
    /// that a retransmission brought about: an outage must not teach patience.
    pub(crate) fn observe(&mut self, at: Timestamp, excess: Duration, params: &Params) {
        if excess.is_zero() || excess > params.allowance_cap {
            return;
        }
        if self
            .observed_at
            .is_some_and(|last| at.since(last) < SPACING)
        {
            return;
        }
        self.rotate(at, params);
        self.observed_at = Some(at);
        // A quarter more, so that the next one of the same kind is not late again by a hair.
        let value = nanos(excess) + nanos(excess) / 4;
        if value > self.current[2] {
            self.current[2] = value;
            self.current.sort_unstable_by(|a, b| b.cmp(a));
        }
    }

    /// What to allow at that time.
    pub(crate) fn value(&self, at: Timestamp, params: &Params) -> Duration {
        let age = at.since(self.window_start);
        let window = params.allowance_window;
        let mut late = [0; 6];
        if age < window * 2 {
            late[..3].copy_from_slice(&self.current);
        }
        if age < window {
            late[3..].copy_from_slice(&self.previous);
        }
        late.sort_unstable_by(|a, b| b.cmp(a));
        Duration::from_nanos(late[2]).min(params.allowance_cap)
    }

    fn rotate(&mut self, at: Timestamp, params: &Params) {
        let age = at.since(self.window_start);
        if age < params.allowance_window {
            return;
        }
        self.previous = if age < params.allowance_window * 2 {
            self.current
        } else {
            [0; 3]
        };
        self.current = [0; 3];
        self.window_start = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn three_occasions_teach_and_time_forgets() {
        let params = Params::default();
        let mut allowance = Allowance::default();
        allowance.observe(at(1000), ms(100), &params);
        allowance.observe(at(1001), ms(100), &params);
        assert_eq!(allowance.value(at(1001), &params), Duration::ZERO);
        allowance.observe(at(1002), ms(80), &params);
        assert_eq!(allowance.value(at(1002), &params), ms(100));
        assert_eq!(allowance.value(at(1500), &params), ms(100));
        assert_eq!(allowance.value(at(1601), &params), Duration::ZERO);
    }

    #[test]
    fn a_burst_teaches_once_and_the_cap_holds() {
        let params = Params::default();
        let mut allowance = Allowance::default();
        for n in 0..100 {
            allowance.observe(Timestamp::from_millis(10_000 + n), ms(150), &params);
        }
        assert_eq!(allowance.value(at(11), &params), Duration::ZERO);
        for n in 0..10 {
            allowance.observe(at(20 + 2 * n), ms(190), &params);
        }
        assert_eq!(allowance.value(at(40), &params), ms(200));
        let before = allowance.clone();
        allowance.observe(at(50), ms(201), &params);
        assert_eq!(
            allowance, before,
            "later than the cap is no delayed acknowledgement"
        );
    }

    #[test]
    fn old_occasions_live_through_one_rotation() {
        let params = Params::default();
        let mut allowance = Allowance::default();
        for n in 0..3 {
            allowance.observe(at(1000 + n), ms(40), &params);
        }
        allowance.observe(at(1301), ms(10), &params);
        assert_eq!(allowance.value(at(1301), &params), ms(50));
        assert_eq!(allowance.value(at(1602), &params), Duration::ZERO);
    }
}
