//! What the kernel collector tells of a connection, and when: the rules of `full-stack-probes`
//! (`sweep.rs`, `reader.rs`), on a modelled socket. Times are microseconds.

use std::time::Duration;

use events::{Outstanding, TcpSample, Timestamp};

use crate::tcp::Sender;

/// Between two sweeps while anything is late.
pub const SWEEP: u64 = 5_000;
/// Healthy connections are looked at so many sweeps late.
pub const HEALTHY: u64 = 3;
/// The longest time between two sweeps.
pub const LONGEST_SWEEP: u64 = 50_000;
/// Healthy connections are told of for so long once something may be broken.
pub const ATTENTION: u64 = 500_000;
/// What is late within this is looked at by each sweep, too.
pub const LATE: u64 = 20_000;
/// Once a second all are looked at.
pub const SECOND: u64 = 1_000_000;

/// A time of the model as the engine knows it.
#[must_use]
pub const fn stamp(micros: u64) -> Timestamp {
    Timestamp::from_nanos(micros * 1_000)
}

/// How the sweep remembers a connection.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Nothing of it can be late before this.
    pub due: u64,
    late: bool,
    told_at: Option<u64>,
    una: u32,
    sent_at: Option<u64>,
    received_at: Option<u64>,
}

/// What a look gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// What to tell.
    pub sample: Option<TcpSample>,
    /// Data is late: look again with the next sweep.
    pub late: bool,
}

impl Live {
    /// Looks at a socket: late data is told of in every sweep at first, then every sixteenth of its
    /// age, and when anything moves; while somebody is `attentive`, whenever anything moves; else
    /// once a second, if anything moved.
    pub fn look(
        &mut self,
        socket: &Sender,
        received_at: Option<u64>,
        now: u64,
        attentive: bool,
    ) -> Look {
        let moved = self.una != socket.una()
            || self.sent_at != socket.sent_at
            || self.received_at != received_at;
        let patience = socket.srtt() + 4 * socket.mdev() + LATE;
        let oldest = socket.oldest();
        let age = oldest.map(|at| now.saturating_sub(at));
        let is_late = age.is_some_and(|age| age > patience);
        self.due = oldest.unwrap_or(now) + patience;
        let pause = age.map_or(SWEEP, |age| (age / 16).clamp(SWEEP, SECOND));
        let quiet = self.told_at.map(|at| now.saturating_sub(at));
        let tell = if is_late {
            !self.late || moved || quiet.is_none_or(|quiet| quiet >= pause)
        } else {
            self.late
                || (moved
                    && (attentive || self.told_at.is_none_or(|at| at / SECOND != now / SECOND)))
        };
        if tell {
            self.late = is_late;
            self.told_at = Some(now);
            self.una = socket.una();
            self.sent_at = socket.sent_at;
            self.received_at = received_at;
        }
        Look {
            sample: tell.then(|| sample(socket, received_at)),
            late: is_late,
        }
    }
}

fn sample(socket: &Sender, received_at: Option<u64>) -> TcpSample {
    TcpSample {
        outstanding: socket.oldest().map(|at| Outstanding { since: stamp(at) }),
        acked_at: socket.acked_at.map(stamp),
        sent_at: socket.sent_at.map(stamp),
        received_at: received_at.map(stamp),
        srtt: Duration::from_micros(socket.srtt()),
        mdev: Duration::from_micros(socket.mdev()),
        min_rtt: Duration::from_micros(socket.min_rtt),
        last_rtt: socket.last_rtt.map(Duration::from_micros),
        zero_window: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::Ack;

    const MS: u64 = 1_000;

    #[test]
    fn late_data_is_told_in_every_sweep_and_its_end_at_once() {
        let mut socket = Sender::settled(20 * MS, 3 * MS, 10);
        let mut live = Live::default();
        socket.send(1_000 * MS, &mut Vec::new());
        assert!(live.look(&socket, None, 1_001 * MS, false).sample.is_some());
        assert_eq!(live.due, 1_052 * MS);
        assert_eq!(live.look(&socket, None, 1_052 * MS, false).sample, None);
        let late = live.look(&socket, None, 1_053 * MS, false);
        assert!(late.late && late.sample.is_some());
        assert!(live.look(&socket, None, 1_058 * MS, false).sample.is_some());
        assert_eq!(live.look(&socket, None, 1_059 * MS, false).sample, None);
        let ack = Ack {
            next: 1,
            sacked: Vec::new(),
        };
        socket.acknowledge(1_060 * MS, &ack, &mut Vec::new());
        let over = live.look(&socket, Some(1_060 * MS), 1_060 * MS, false);
        assert_eq!(over.sample.and_then(|s| s.outstanding), None);
        assert!(over.sample.is_some() && !over.late);
    }

    #[test]
    fn healthy_traffic_is_told_once_a_second() {
        let mut socket = Sender::settled(5 * MS, MS, 10);
        let mut live = Live::default();
        let mut told = 0;
        for n in 0..500u32 {
            let now = (1_000 + u64::from(n) * 10) * MS;
            socket.send(now, &mut Vec::new());
            let next = n + 1;
            let sacked = Vec::new();
            socket.acknowledge(now + MS, &Ack { next, sacked }, &mut Vec::new());
            told += u32::from(
                live.look(&socket, Some(now), now + MS, false)
                    .sample
                    .is_some(),
            );
        }
        assert_eq!(told, 5);
    }
}
