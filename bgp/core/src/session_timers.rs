//! The timers of a session (RFC 4271 section 8, RFC 9687).

use std::time::Duration;

use events::Timestamp;
use serde::{Deserialize, Serialize};

use crate::session::Event;

/// A random factor between 0.75 and 1 (RFC 4271 section 10), so that timers of many speakers do
/// not run in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jitter(u32);

impl Jitter {
    /// The factor 1.
    pub const NONE: Self = Self(u32::MAX);

    /// From a random number.
    #[must_use]
    pub const fn new(random: u32) -> Self {
        Self(random)
    }

    /// The time multiplied by the factor.
    #[must_use]
    pub fn of(self, time: Duration) -> Duration {
        let quarter = u64::try_from(time.as_nanos() / 4).unwrap_or(u64::MAX);
        let part = u128::from(quarter) * u128::from(self.0) / u128::from(u32::MAX);
        let kept = Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX));
        time - Duration::from_nanos(quarter) + kept
    }
}

/// When the timers that run expire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunningTimers {
    /// ConnectRetryTimer.
    pub connect_retry: Option<Timestamp>,
    /// HoldTimer.
    pub hold: Option<Timestamp>,
    /// KeepaliveTimer.
    pub keepalive: Option<Timestamp>,
    /// SendHoldTimer (RFC 9687).
    pub send_hold: Option<Timestamp>,
}

/// Deadlines, and the times that two of them are set back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timers {
    connect_retry: Option<Timestamp>,
    hold: Option<(Timestamp, Duration)>,
    keepalive: Option<Timestamp>,
    send_hold: Option<(Timestamp, Duration)>,
}

/// Which event an expiry is, the most urgent first where several are due at once.
static EXPIRIES: [Event; 4] = [
    Event::HoldTimerExpires,
    Event::SendHoldTimerExpires,
    Event::KeepaliveTimerExpires,
    Event::ConnectRetryTimerExpires,
];

impl Timers {
    /// None runs.
    pub const NONE: Self = Self {
        connect_retry: None,
        hold: None,
        keepalive: None,
        send_hold: None,
    };

    pub fn start_connect_retry(&mut self, now: Timestamp, time: Duration, jitter: Jitter) {
        self.connect_retry = Some(now + jitter.of(time));
    }

    /// Zero: it does not run (RFC 4271 section 4.2).
    pub fn start_hold(&mut self, now: Timestamp, time: Duration) {
        self.hold = (!time.is_zero()).then(|| (now + time, time));
    }

    pub fn restart_hold(&mut self, now: Timestamp) {
        if let Some((at, time)) = &mut self.hold {
            *at = now + *time;
        }
    }

    /// A third of the hold time (RFC 4271 section 10).
    pub fn start_keepalive(&mut self, now: Timestamp, hold_time: Duration, jitter: Jitter) {
        self.keepalive = (!hold_time.is_zero()).then(|| now + jitter.of(hold_time / 3));
    }

    pub fn start_send_hold(&mut self, now: Timestamp, time: Duration) {
        self.send_hold = (!time.is_zero()).then(|| (now + time, time));
    }

    pub fn restart_send_hold(&mut self, now: Timestamp) {
        if let Some((at, time)) = &mut self.send_hold {
            *at = now + *time;
        }
    }

    pub const fn stop_connect_retry(&mut self) {
        self.connect_retry = None;
    }

    pub const fn running(&self) -> RunningTimers {
        const fn at(timer: Option<(Timestamp, Duration)>) -> Option<Timestamp> {
            match timer {
                Some((at, _)) => Some(at),
                None => None,
            }
        }
        RunningTimers {
            connect_retry: self.connect_retry,
            hold: at(self.hold),
            keepalive: self.keepalive,
            send_hold: at(self.send_hold),
        }
    }

    /// The first to expire.
    pub fn next(&self) -> Option<(&'static Event, Timestamp)> {
        let running = self.running();
        let deadlines = [
            running.hold,
            running.send_hold,
            running.keepalive,
            running.connect_retry,
        ];
        let pairs = EXPIRIES.iter().zip(deadlines);
        pairs
            .filter_map(|(event, at)| Some((event, at?)))
            .min_by_key(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_between_three_quarters_and_all() {
        let minute = Duration::from_mins(1);
        assert_eq!(Jitter::new(0).of(minute), Duration::from_secs(45));
        assert_eq!(Jitter::NONE.of(minute), minute);
        let half = Jitter::new(u32::MAX / 2).of(minute);
        assert!(half > Duration::from_secs(52) && half < Duration::from_secs(53));
        assert_eq!(Jitter::NONE.of(Duration::ZERO), Duration::ZERO);
    }
}
