//! The age of a connection's oldest unacknowledged byte, against its limit.

use std::time::Duration;

use events::{TcpSample, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Params;

/// What one connection's samples add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AckClock {
    seen_at: Timestamp,
    sample: Option<TcpSample>,
    /// When the oldest unacknowledged byte was sent.
    oldest: Option<Timestamp>,
    /// The clock starts here where that is later: the window was closed until then, or the byte was
    /// overdue already when something before it was acknowledged.
    restarted: Option<Timestamp>,
    retransmitted_at: Option<Timestamp>,
}

/// What a sample shows that the one before it did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// New data was acknowledged then, or nothing is outstanding any more.
    pub acked: Option<Timestamp>,
    /// How much later than `srtt + 4 * mdev + floor` that was, where it was seen to be late and no
    /// retransmission, closed window or restart of the clock blurs it.
    pub excess: Option<Duration>,
    /// A newer transmission.
    pub sent: Option<Timestamp>,
    /// A new round-trip time: raw and smoothed.
    pub measured: Option<(Duration, Duration)>,
}

impl AckClock {
    /// Takes in a sample. `None`: it is older than what is known already.
    pub(crate) fn take(
        &mut self,
        at: Timestamp,
        sample: TcpSample,
        allowance: Duration,
        params: &Params,
    ) -> Option<Progress> {
        if self.sample.is_some() && at < self.seen_at {
            return None;
        }
        let before = self.sample.replace(sample);
        let looked_at = std::mem::replace(&mut self.seen_at, at);
        let mut progress = Progress::default();
        let acked = before.and_then(|b| newer(b.acked_at, sample.acked_at));
        progress.sent = before.and_then(|b| newer(b.sent_at, sample.sent_at));
        progress.measured = (!sample.srtt.is_zero() && (before.is_none() || acked.is_some()))
            .then(|| (sample.last_rtt.unwrap_or(sample.srtt), sample.srtt));
        if let (Some(acked_at), Some(oldest), Some(before)) = (acked, self.oldest, before) {
            let blurred = before.zero_window
                || self.restarted.is_some()
                || self.retransmitted_at.is_some_and(|r| r >= oldest);
            let due = oldest + limit(&before, Duration::ZERO, params);
            // The newest acknowledgement need not be that byte's, unless it was seen to be late.
            progress.excess = (!blurred && before.srtt > Duration::ZERO && looked_at > due)
                .then(|| acked_at.since(due));
        }

        let Some(outstanding) = sample.outstanding else {
            progress.acked = acked.or_else(|| self.oldest.map(|_| at));
            self.oldest = None;
            self.restarted = None;
            return Some(progress);
        };
        progress.acked = acked;
        let since = outstanding.since.min(at);
        self.oldest = Some(match self.oldest {
            // Without an acknowledgement the oldest byte cannot have become younger.
            Some(oldest) if acked.is_none() => oldest.min(since),
            _ => since,
        });
        if let Some(acked_at) = acked {
            let late = acked_at > since + limit(&sample, allowance, params);
            self.restarted = late.then_some(acked_at);
        }
        if sample.zero_window {
            self.restarted = Some(at);
        }
        Some(progress)
    }

    /// The newest acknowledgement known.
    pub(crate) fn acked_at(&self) -> Option<Timestamp> {
        self.sample.as_ref()?.acked_at
    }

    /// The kernel retransmitted then.
    pub(crate) fn retransmitted(&mut self, at: Timestamp) {
        self.retransmitted_at = self.retransmitted_at.max(Some(at));
    }

    /// When the clock of the oldest byte began, and its limit. `None`: nothing is outstanding, or
    /// the peer's window is closed.
    pub(crate) fn running(
        &self,
        allowance: Duration,
        params: &Params,
    ) -> Option<(Timestamp, Duration)> {
        let sample = self.sample.filter(|s| !s.zero_window)?;
        let start = self.oldest?.max(self.restarted.unwrap_or_default());
        Some((start, limit(&sample, allowance, params)))
    }

    /// When the newest sample was taken.
    pub(crate) const fn seen_at(&self) -> Timestamp {
        self.seen_at
    }

    /// When the oldest unacknowledged byte was sent.
    pub(crate) const fn oldest(&self) -> Option<Timestamp> {
        self.oldest
    }

    /// When a segment came in that left after the peer could have seen the byte sent at `start`.
    /// It should have acknowledged that byte: the way in works, the way out may not.
    pub(crate) fn received_since(&self, start: Timestamp) -> Option<Timestamp> {
        let sample = self.sample.as_ref()?;
        let round_trip = sample.srtt + sample.mdev.saturating_mul(4);
        sample.received_at.filter(|r| *r > start + round_trip)
    }
}

fn limit(sample: &TcpSample, allowance: Duration, params: &Params) -> Duration {
    if sample.srtt.is_zero() {
        return params.initial_limit;
    }
    sample
        .srtt
        .saturating_add(sample.mdev.saturating_mul(4))
        .saturating_add(params.overdue_floor)
        .saturating_add(allowance)
}

fn newer(before: Option<Timestamp>, now: Option<Timestamp>) -> Option<Timestamp> {
    now.filter(|_| now > before)
}
