//! When each path's next probe is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use events::Timestamp;

/// Periodic series whose probes are spread evenly over their interval.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    due: BinaryHeap<Reverse<(Timestamp, usize)>>,
    intervals: Vec<Duration>,
}

impl Schedule {
    /// Adds series with one interval, phase-shifted against each other.
    pub(crate) fn add(&mut self, start: Timestamp, interval: Duration, count: usize) {
        let share = interval / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let mut due = start;
        for _ in 0..count {
            self.due.push(Reverse((due, self.intervals.len())));
            self.intervals.push(interval);
            due = due + share;
        }
    }

    /// A series whose probe is due by `now`, by its number in the order of adding, and how many of its
    /// probes were missed meanwhile: these are skipped, a standstill is not followed by a burst.
    pub(crate) fn pop(&mut self, now: Timestamp) -> Option<(usize, u64)> {
        let Reverse((at, series)) = *self.due.peek().filter(|Reverse((at, _))| *at <= now)?;
        self.due.pop();
        let interval = self
            .intervals
            .get(series)
            .copied()?
            .max(Duration::from_micros(1));
        let missed = now.since(at).as_nanos() / interval.as_nanos();
        let missed = u64::try_from(missed).unwrap_or(u64::MAX);
        let ahead =
            interval.saturating_mul(u32::try_from(missed.saturating_add(1)).unwrap_or(u32::MAX));
        self.due.push(Reverse((at + ahead, series)));
        Some((series, missed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn series_are_spread_and_keep_their_phase() {
        let mut schedule = Schedule::default();
        schedule.add(at(0), Duration::from_millis(40), 4);
        let mut sent = Vec::new();
        for now in 0..80 {
            while let Some((series, missed)) = schedule.pop(at(now)) {
                assert_eq!(missed, 0);
                sent.push((now, series));
            }
        }
        assert_eq!(
            sent,
            [
                (0, 0),
                (10, 1),
                (20, 2),
                (30, 3),
                (40, 0),
                (50, 1),
                (60, 2),
                (70, 3)
            ]
        );
    }

    #[test]
    fn a_standstill_is_not_followed_by_a_burst() {
        let mut schedule = Schedule::default();
        schedule.add(at(0), Duration::from_millis(20), 1);
        assert_eq!(schedule.pop(at(1005)), Some((0, 50)));
        assert_eq!(schedule.pop(at(1005)), None);
        assert_eq!(schedule.pop(at(1019)), None);
        assert_eq!(schedule.pop(at(1020)), Some((0, 0)));
    }
}
