//! What one path's round trips teach: how long to wait, and how much is lost.

use std::time::Duration;

use events::Timestamp;

/// Patience with a path whose round-trip time is not known, and the most with any.
const LONGEST: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(30);
/// Beyond `srtt + 4 * rttvar`: the host's own scheduling and the far end's.
const SLACK: Duration = Duration::from_millis(15);
/// How many finished probes the loss ratio looks back on.
const WINDOW: u32 = 64;

/// Round-trip time smoothed as in RFC 6298, section 2, and the outcomes of the latest probes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Estimator {
    smoothed: Option<(Duration, Duration)>,
    /// One bit per finished probe, the newest lowest: set where it was answered.
    answered: u64,
    finished: u32,
    pub(crate) last_reply: Option<Timestamp>,
}

impl Estimator {
    /// How long after it was sent a probe counts as lost.
    pub(crate) fn patience(&self) -> Duration {
        self.smoothed.map_or(LONGEST, |(srtt, rttvar)| {
            (srtt + 4 * rttvar + SLACK).clamp(SHORTEST, LONGEST)
        })
    }

    /// A probe was answered. `late`: it had counted as lost, and stays so in the ratio.
    pub(crate) fn replied(&mut self, at: Timestamp, rtt: Duration, late: bool) {
        self.smoothed = Some(match self.smoothed {
            None => (rtt, rtt / 2),
            Some((srtt, rttvar)) => (
                srtt * 7 / 8 + rtt / 8,
                rttvar * 3 / 4 + srtt.abs_diff(rtt) / 4,
            ),
        });
        self.last_reply = self.last_reply.max(Some(at));
        if !late {
            self.finish(true);
        }
    }

    /// A probe was lost or refused.
    pub(crate) fn failed(&mut self) {
        self.finish(false);
    }

    fn finish(&mut self, answered: bool) {
        self.answered = self.answered << 1 | u64::from(answered);
        self.finished = (self.finished + 1).min(WINDOW);
    }

    /// Smoothed round-trip time and its variation.
    pub(crate) const fn smoothed(&self) -> Option<(Duration, Duration)> {
        self.smoothed
    }

    /// Of the latest 64 probes, how many finished and how many of these without an answer.
    pub(crate) fn loss(&self) -> (u32, u32) {
        let mask = u64::MAX >> (WINDOW - self.finished.max(1)).min(63);
        let answered = (self.answered & mask).count_ones().min(self.finished);
        (self.finished, self.finished - answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn patience_is_learned_and_bounded() {
        let mut e = Estimator::default();
        assert_eq!(e.patience(), ms(1000));
        e.replied(Timestamp::ZERO, ms(40), false);
        assert_eq!(e.patience(), ms(40 + 80 + 15));
        for _ in 0..100 {
            e.replied(Timestamp::ZERO, ms(40), false);
        }
        let settled = e.patience();
        assert!(settled >= ms(54) && settled <= ms(57), "{settled:?}");
        for _ in 0..100 {
            e.replied(Timestamp::ZERO, Duration::from_micros(200), false);
        }
        assert_eq!(e.patience(), ms(30));
        for _ in 0..100 {
            e.replied(Timestamp::ZERO, ms(5000), true);
        }
        assert_eq!(e.patience(), ms(1000));
    }

    #[test]
    fn loss_looks_back_on_64_probes() {
        let mut e = Estimator::default();
        assert_eq!(e.loss(), (0, 0));
        e.failed();
        e.replied(Timestamp::ZERO, ms(1), false);
        e.failed();
        assert_eq!(e.loss(), (3, 2));
        e.replied(Timestamp::ZERO, ms(1), true);
        assert_eq!(e.loss(), (3, 2), "a late reply does not undo the loss");
        for _ in 0..64 {
            e.replied(Timestamp::ZERO, ms(1), false);
        }
        assert_eq!(e.loss(), (64, 0));
        for _ in 0..100 {
            e.failed();
        }
        assert_eq!(e.loss(), (64, 64));
    }
}
