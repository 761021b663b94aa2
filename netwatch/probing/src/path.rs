//! A path: through which egress, at whom, with which source.

use std::net::IpAddr;
use std::time::Duration;

use events::{EgressName, ProbeOutcome, ProbeSource, ProbeTarget, Timestamp};

use crate::estimator::Estimator;

/// Names a path. `egress` is the egress's position in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PathKey {
    pub(crate) egress: usize,
    pub(crate) target: ProbeTarget,
    pub(crate) source: ProbeSource,
    /// The source address, where it is the flows'.
    pub(crate) flow: Option<IpAddr>,
}

/// Refusals that follow each other are reported one by one at first ...
const REFUSALS_EACH: u32 = 5;
/// ... and then so often.
const REFUSAL_EVERY: Duration = Duration::from_millis(200);

/// What is known of a path.
#[derive(Clone, Debug, Default)]
pub(crate) struct PathState {
    pub(crate) estimator: Estimator,
    pub(crate) sent: u64,
    pub(crate) last_used: Timestamp,
    pub(crate) last_source: Option<IpAddr>,
    pub(crate) last_outcome: Option<ProbeOutcome>,
    refusals: u32,
    refusal_reported: Timestamp,
}

impl PathState {
    /// Notes a refusal; true where it is to be reported.
    pub(crate) fn refused(&mut self, at: Timestamp) -> bool {
        self.refusals = self.refusals.saturating_add(1);
        let report =
            self.refusals <= REFUSALS_EACH || at.since(self.refusal_reported) >= REFUSAL_EVERY;
        if report {
            self.refusal_reported = at;
        }
        report
    }

    pub(crate) const fn not_refused(&mut self) {
        self.refusals = 0;
    }
}

/// The state of one path, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStatus {
    /// Through which egress.
    pub egress: EgressName,
    /// At whom.
    pub target: ProbeTarget,
    /// With which kind of source address.
    pub source: ProbeSource,
    /// That address, once it is known.
    pub source_address: Option<IpAddr>,
    /// Smoothed round-trip time and its variation, once there was an answer.
    pub rtt: Option<(Duration, Duration)>,
    /// How many probes were sent.
    pub sent: u64,
    /// How many of the latest 64 probes are finished.
    pub finished: u32,
    /// How many of these had no answer in time.
    pub unanswered: u32,
    /// When the last answer came.
    pub last_reply: Option<Timestamp>,
    /// What came of the latest finished probe.
    pub last_outcome: Option<ProbeOutcome>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_a_row_are_reported_at_a_bounded_rate() {
        let mut state = PathState::default();
        let reported = (0..100u64)
            .filter(|n| state.refused(Timestamp::from_millis(n * 20)))
            .count();
        assert_eq!(
            reported,
            5 + 9,
            "five at once, then one each 200 ms of 1.9 s"
        );
        state.not_refused();
        assert!(state.refused(Timestamp::from_millis(2000)));
    }
}
