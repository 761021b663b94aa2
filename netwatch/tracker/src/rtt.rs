//! A peer's usual round-trip time, and departures from it.

use std::time::Duration;

use events::Timestamp;
use serde::{Deserialize, Serialize};

use crate::RttParams;

/// Measurements that the baseline is made of.
const KEPT: usize = 32;
/// The newest measurements, of which a new baseline can be made at once.
const RECENT: usize = 8;
/// The standard deviation of normally distributed values over their median absolute deviation, in
/// thousandths.
const SIGMA_PERMILLE: u64 = 1483;

/// A peer's baseline: the median of measurements of the last half minute and their median absolute
/// deviation. Round-trip times are microseconds inside: integers replay exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    /// A ring.
    kept: Vec<u32>,
    next: usize,
    /// A ring of the newest, however close together.
    recent: Vec<u32>,
    recent_next: usize,
    median: u32,
    deviation: u32,
    kept_at: Timestamp,
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
        let (raw, smoothed) = (micros(raw), micros(smoothed));
        put(&mut self.recent, &mut self.recent_next, RECENT, smoothed);
        if !self.warm(params) {
            self.keep(at, smoothed);
            return None;
        }
        let above = self.above(params);
        // Half way back, so that a time at the threshold does not flap.
        let below = self.median + (above - self.median) / 2;
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
                    baseline: self.usual(),
                }
            } else {
                Turn::Normal
            });
        }
        let spacing = if self.spiking {
            params.spike_spacing
        } else {
            params.spacing
        };
        if !contradicts && at.since(self.kept_at) >= spacing {
            self.keep(at, smoothed);
        }
        None
    }

    /// The newest measurements are the baseline from now on: the path is another one.
    pub(crate) fn renew(&mut self, at: Timestamp) -> Option<Turn> {
        self.kept = self.recent.clone();
        self.next = 0;
        self.kept_at = at;
        self.summarise();
        self.streak = 0;
        std::mem::take(&mut self.spiking).then_some(Turn::Normal)
    }

    pub(crate) fn value(&self, params: &RttParams) -> Option<Duration> {
        self.warm(params).then(|| self.usual())
    }

    pub(crate) const fn spiking(&self) -> bool {
        self.spiking
    }

    fn usual(&self) -> Duration {
        Duration::from_micros(self.median.into())
    }

    fn warm(&self, params: &RttParams) -> bool {
        self.kept.len() >= (params.warm_up.max(1) as usize).min(KEPT)
    }

    /// A spike is above this.
    fn above(&self, params: &RttParams) -> u32 {
        let deviation = u64::from(self.deviation) * SIGMA_PERMILLE / 1000;
        let share = u64::from(self.median) * u64::from(params.share_percent) / 100;
        let most = (deviation * u64::from(params.deviations))
            .max(share)
            .max(micros(params.margin).into());
        u32::try_from(u64::from(self.median) + most).unwrap_or(u32::MAX)
    }

    fn keep(&mut self, at: Timestamp, value: u32) {
        put(&mut self.kept, &mut self.next, KEPT, value);
        self.kept_at = at;
        self.summarise();
    }

    fn summarise(&mut self) {
        self.median = middle(self.kept.clone());
        let median = self.median;
        self.deviation = middle(self.kept.iter().map(|v| v.abs_diff(median)).collect());
    }
}

fn put(ring: &mut Vec<u32>, next: &mut usize, length: usize, value: u32) {
    if ring.len() < length {
        ring.push(value);
        return;
    }
    if let Some(place) = ring.get_mut(*next) {
        *place = value;
    }
    *next = (*next + 1) % length;
}

fn middle(mut values: Vec<u32>) -> u32 {
    let half = values.len() / 2;
    if values.is_empty() {
        return 0;
    }
    *values.select_nth_unstable(half).1
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
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
    fn a_path_that_wavers_by_nature_needs_more() {
        let mut world = World::warm(40);
        for n in 0..40 * 20 {
            let rtt = 30 + 40 * (n / 20 % 2);
            assert_eq!(world.see(rtt, rtt), None);
        }
        for _ in 0..10 {
            assert_eq!(world.see(110, 110), None, "six deviations are more");
        }
    }

    #[test]
    fn one_outlier_does_not_move_the_median() {
        let mut world = World::warm(40);
        world.now += 2000;
        let _ = world.see(5000, 5000);
        assert_eq!(world.baseline.value(&world.params), Some(ms(40)));
    }

    #[test]
    fn a_new_path_is_the_baseline_at_once() {
        let mut world = World::warm(20);
        for _ in 0..10 {
            let _ = world.see(120, 120);
        }
        assert!(world.baseline.spiking());
        let at = Timestamp::from_millis(world.now);
        assert_eq!(world.baseline.renew(at), Some(Turn::Normal));
        assert_eq!(world.baseline.value(&world.params), Some(ms(120)));
        for _ in 0..10 {
            assert_eq!(world.see(120, 120), None);
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
