//! A peer's usual round-trip time, and departures from it.

use std::time::Duration;

use events::Timestamp;
use serde::{Deserialize, Serialize};

use crate::RttParams;

/// A peer's baseline. Round-trip times are nanoseconds inside: integers replay exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    nanos: u64,
    measured: u32,
    updated_at: Timestamp,
    streak: u32,
    spiking: bool,
}

/// What a measurement changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Spike { baseline: Duration },
    Normal,
}

impl Baseline {
    /// Takes in one measurement: `raw` of one segment, `smoothed` of the same connection. Both must
    /// leave the baseline, so that neither one delayed acknowledgement (raw) nor the tail of an old
    /// burst (smoothed) makes a spike.
    pub(crate) fn observe(
        &mut self,
        at: Timestamp,
        raw: Duration,
        smoothed: Duration,
        params: &RttParams,
    ) -> Option<Turn> {
        let (raw, smoothed) = (nanos(raw), nanos(smoothed));
        if self.measured < params.warm_up.max(1) {
            self.measured += 1;
            let weight = u64::from(self.measured);
            self.nanos = towards(self.nanos, smoothed, 1, weight);
            self.updated_at = at;
            return None;
        }
        let margin = nanos(params.margin);
        let scaled = (u128::from(self.nanos) * u128::from(params.factor_percent) / 100) as u64;
        let above = scaled.max(self.nanos.saturating_add(margin));
        // Half way back, so that a time at the threshold does not flap.
        let below = self.nanos + (above - self.nanos.min(above)) / 2;
        let contradicts = if self.spiking {
            raw < below && smoothed < below
        } else {
            raw > above && smoothed > above
        };
        self.streak = if contradicts { self.streak + 1 } else { 0 };
        if self.streak >= params.consecutive.max(1) {
            self.streak = 0;
            self.spiking = !self.spiking;
            return Some(if self.spiking {
                Turn::Spike {
                    baseline: Duration::from_nanos(self.nanos),
                }
            } else {
                Turn::Normal
            });
        }
        if !contradicts {
            self.learn(at, smoothed, above, params);
        }
        None
    }

    pub(crate) fn value(&self, params: &RttParams) -> Option<Duration> {
        (self.measured >= params.warm_up.max(1)).then(|| Duration::from_nanos(self.nanos))
    }

    pub(crate) const fn spiking(&self) -> bool {
        self.spiking
    }

    fn learn(&mut self, at: Timestamp, smoothed: u64, above: u64, params: &RttParams) {
        let constant = nanos(if self.spiking {
            params.spike_time_constant
        } else {
            params.time_constant
        })
        .max(8);
        // After a long silence one measurement weighs an eighth at most.
        let elapsed = nanos(at.since(self.updated_at)).min(constant / 8);
        let measured = if self.spiking {
            smoothed
        } else {
            smoothed.min(above)
        };
        self.nanos = towards(self.nanos, measured, elapsed, constant);
        self.updated_at = self.updated_at.max(at);
    }
}

/// From `value` towards `target` by `part / whole` of the distance.
fn towards(value: u64, target: u64, part: u64, whole: u64) -> u64 {
    let share =
        |distance: u64| (u128::from(distance) * u128::from(part) / u128::from(whole.max(1))) as u64;
    if target >= value {
        value + share(target - value)
    } else {
        value - share(value - target)
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    struct World {
        now: u64,
        baseline: Baseline,
        params: RttParams,
    }

    impl World {
        fn warm(rtt: u64) -> Self {
            let mut world = Self {
                now: 0,
                baseline: Baseline::default(),
                params: RttParams::default(),
            };
            for _ in 0..100 {
                assert_eq!(world.see(rtt, rtt), None);
            }
            world
        }

        fn see(&mut self, raw: u64, smoothed: u64) -> Option<Turn> {
            self.now += 50;
            let at = Timestamp::from_millis(self.now);
            self.baseline
                .observe(at, ms(raw), ms(smoothed), &self.params)
        }
    }

    #[test]
    fn a_spike_takes_three_measurements_and_ends_once() {
        let mut world = World::warm(20);
        assert_eq!(world.see(120, 90), None);
        assert_eq!(world.see(120, 100), None);
        assert!(
            matches!(world.see(120, 110), Some(Turn::Spike { baseline }) if baseline == ms(20))
        );
        assert_eq!(world.see(120, 115), None);
        assert_eq!(world.see(20, 60), None, "the smoothed time is still high");
        assert_eq!(world.see(20, 30), None);
        assert_eq!(world.see(20, 25), None);
        assert_eq!(world.see(20, 22), Some(Turn::Normal));
        assert_eq!(world.see(20, 20), None);
    }

    #[test]
    fn delayed_acknowledgements_now_and_then_are_no_spike() {
        let mut world = World::warm(10);
        for _ in 0..100 {
            assert_eq!(world.see(55, 20), None, "raw alone is high");
            assert_eq!(world.see(10, 16), None);
        }
    }

    #[test]
    fn a_spike_is_not_learned_at_once_but_a_lasting_change_is() {
        let mut world = World::warm(20);
        for _ in 0..3 {
            let _ = world.see(200, 200);
        }
        assert!(world.baseline.spiking());
        for _ in 0..20 * 10 {
            let _ = world.see(200, 200);
        }
        let after_10_s = world.baseline.value(&world.params).unwrap();
        assert!(after_10_s < ms(25), "{after_10_s:?}");
        let mut ended = false;
        for _ in 0..20 * 3600 {
            ended |= world.see(200, 200) == Some(Turn::Normal);
        }
        assert!(ended, "the new time became usual");
        assert!(world.baseline.value(&world.params).unwrap() > ms(150));
    }

    #[test]
    fn small_times_need_the_margin_too() {
        let mut world = World::warm(1);
        for _ in 0..50 {
            assert_eq!(world.see(25, 20), None);
        }
    }
}
