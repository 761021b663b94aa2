//! When a connection's counters are worth an event.
//!
//! Pure: what was last told of a connection, its slot as it is now, and the time, give what to tell
//! and whether to look again soon.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ebpf_abi::Slot;
use events::{TcpSample, Timestamp};

use crate::convert;
use crate::half_closed::HalfClosed;

/// How closely connections are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How often those with late data are.
    pub interval: Duration,
    /// Data is late when it is older than `srtt + 4 * mdev` and this.
    pub late: Duration,
    /// While none is late, a sweep comes at most so much after the first moment at which some could
    /// be.
    pub slack: Duration,
}

impl Pace {
    /// Nobody decides before data is older than `srtt + 4 * mdev` and the floor, by a sample that is
    /// at most 25 ms old then. Half of that time is left to acknowledgements, so that healthy
    /// traffic is not told of; of the rest most may pass before the first look.
    pub fn new(interval: Duration, overdue_floor: Duration) -> Self {
        let late = overdue_floor / 2;
        Self {
            interval,
            late,
            slack: (late * 3 / 4).min(3 * interval),
        }
    }

    /// How old data may get before it is late, by `tcp_sock.srtt_us` and `tcp_sock.mdev_us`.
    pub fn patience(&self, srtt_us: u32, mdev_us: u32) -> Duration {
        let micros = u64::from(srtt_us >> 3) + 4 * u64::from(mdev_us >> 2);
        Duration::from_micros(micros) + self.late
    }

    /// Nothing of a slot can be late before this; it is, where that is past.
    pub fn due(&self, slot: &Slot, now: Timestamp) -> Timestamp {
        self.due_of(slot, &convert::sample(slot, now), now)
    }

    /// What is sent from now on is late even later.
    fn due_of(&self, slot: &Slot, sample: &TcpSample, now: Timestamp) -> Timestamp {
        let since = sample.outstanding.map(|outstanding| outstanding.since);
        since.unwrap_or(now) + self.patience(slot.srtt_us, slot.mdev_us)
    }

    /// The age of a slot's oldest unacknowledged byte, if it is late.
    pub fn late_for(&self, slot: &Slot, now: Timestamp) -> Option<Duration> {
        let due = self.due(slot, now);
        (due < now).then(|| now.since(due) + self.patience(slot.srtt_us, slot.mdev_us))
    }
}

/// Connections without late data are told of at most this often, for the sake of the baseline.
const BASELINE: Duration = Duration::from_secs(1);

/// How the sweep remembers one connection.
#[derive(Clone, Debug)]
pub struct Live {
    /// The socket's cookie.
    pub cookie: u64,
    /// Not reported, by configuration.
    pub ignored: bool,
    /// Of a half-closed connection: what programs do not see.
    pub half_closed: HalfClosed,
    /// The peer's address.
    pub peer: IpAddr,
    late: bool,
    told_at: Option<Timestamp>,
    una: u32,
    sent_at: u64,
    received_at: u64,
    sends: u32,
    segments: u32,
}

/// What a look at a slot gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// What to tell.
    pub sample: Option<TcpSample>,
    /// Data is late: look again with the next sweep.
    pub late: bool,
    /// Nothing can be late before this.
    pub due: Timestamp,
    /// Calls that sent since the last look.
    pub sends: u32,
    /// Segments that came in since the last look.
    pub segments: u32,
}

impl Live {
    /// A connection that nothing was told of yet.
    pub fn new(slot: &Slot, ignored: bool) -> Self {
        Self {
            cookie: slot.cookie,
            ignored,
            half_closed: HalfClosed::default(),
            peer: IpAddr::V6(Ipv6Addr::from(slot.remote)).to_canonical(),
            late: false,
            told_at: None,
            una: slot.snd_una,
            sent_at: 0,
            received_at: 0,
            sends: 0,
            segments: 0,
        }
    }

    /// Looks at the slot. A sample is told
    ///
    /// - while the oldest unacknowledged byte is late: in every sweep at first, then every sixteenth
    ///   of its age, and at once when anything moves;
    /// - once more when that is over;
    /// - while somebody is `attentive`, whenever anything moved: what goes on as usual then says
    ///   most;
    /// - else at most once a second, if anything moved: in the first look of a second of the clock,
    ///   so that all connections are told of together.
    pub fn look(&mut self, slot: &Slot, now: Timestamp, pace: Pace, attentive: bool) -> Look {
        let sends = slot.sends.wrapping_sub(self.sends);
        let segments = slot.segments.wrapping_sub(self.segments);
        let moved = self.una != slot.snd_una
            || self.sent_at != slot.sent_at
            || self.received_at != slot.received_at;
        let sample = convert::sample(slot, now);
        let age = sample
            .outstanding
            .map(|outstanding| now.since(outstanding.since));
        let due = pace.due_of(slot, &sample, now);
        let is_late = due < now;
        let quiet_for = self.told_at.map(|at| now.since(at));

        let pause = age.map_or(pace.interval, |age| {
            (age / 16).clamp(pace.interval, BASELINE.max(pace.interval))
        });
        let tell = if is_late {
            !self.late || moved || quiet_for.is_none_or(|quiet| quiet >= pause)
        } else {
            self.late
                || (moved && (attentive || self.told_at.is_none_or(|at| second(at) != second(now))))
        };
        self.sends = slot.sends;
        self.segments = slot.segments;
        if tell {
            self.late = is_late;
            self.told_at = Some(now);
            self.una = slot.snd_una;
            self.sent_at = slot.sent_at;
            self.received_at = slot.received_at;
        }
        Look {
            sample: tell.then_some(sample),
            late: is_late,
            due,
            sends,
            segments,
        }
    }
}

/// The stretch of time that a moment is in, for what is told once in each.
pub fn second(at: Timestamp) -> u128 {
    u128::from(at.as_nanos()) / BASELINE.as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWEEP: Pace = Pace {
        interval: Duration::from_millis(5),
        late: Duration::from_millis(20),
        slack: Duration::from_millis(15),
    };

    #[test]
    fn the_first_look_at_late_data_leaves_time_to_decide() {
        let interval = SWEEP.interval;
        assert_eq!(Pace::new(interval, Duration::from_millis(40)), SWEEP);
        for floor in [5, 20, 40, 1_000].map(Duration::from_millis) {
            let pace = Pace::new(interval, floor);
            assert!(pace.late + pace.slack <= floor * 7 / 8, "{pace:?}");
        }
    }

    fn slot() -> Slot {
        // SAFETY: every field of a slot is a number.
        let mut slot: Slot = unsafe { std::mem::zeroed() };
        slot.cookie = 7;
        slot.srtt_us = 20_000 << 3;
        slot
    }

    fn send(slot: &mut Slot, at_ms: u64, end: u32) {
        let index = usize::from(slot.head) % ebpf_abi::RING;
        slot.ring[index] = (u64::from(end) << 32) | (at_ms * 1_000);
        slot.head = slot.head.wrapping_add(1);
        slot.snd_nxt = end;
        slot.sent_at = at_ms * 1_000_000;
        slot.sends += 1;
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn late_data_is_told_in_every_sweep_and_its_end_at_once() {
        let mut slot = slot();
        slot.mdev_us = 3_000 << 2;
        let mut live = Live::new(&slot, false);
        send(&mut slot, 1_000, 100);
        let first = live.look(&slot, at(1_001), SWEEP, false);
        assert!(first.sample.is_some(), "the first look sets the baseline");
        let almost = live.look(&slot, at(1_052), SWEEP, false);
        assert_eq!((almost.sample, almost.late), (None, false));

        let late = live.look(&slot, at(1_053), SWEEP, false);
        assert_eq!(late.sample.unwrap().outstanding.unwrap().since, at(1_000));
        assert!(late.late);
        assert!(live.look(&slot, at(1_058), SWEEP, false).sample.is_some());
        assert_eq!(live.look(&slot, at(1_059), SWEEP, false).sample, None);

        slot.snd_una = 100;
        let over = live.look(&slot, at(1_060), SWEEP, false);
        assert_eq!(over.sample.unwrap().outstanding, None);
        assert!(!over.late);
        assert_eq!(live.look(&slot, at(1_061), SWEEP, false).sample, None);
    }

    #[test]
    fn sending_again_while_overdue_is_told_at_once() {
        let mut slot = slot();
        let mut live = Live::new(&slot, false);
        send(&mut slot, 1_000, 100);
        assert!(live.look(&slot, at(1_500), SWEEP, false).sample.is_some());
        assert_eq!(
            live.look(&slot, at(1_506), SWEEP, false).sample,
            None,
            "pause of age / 16"
        );
        send(&mut slot, 1_507, 200);
        let told = live.look(&slot, at(1_508), SWEEP, false).sample.unwrap();
        assert_eq!(told.outstanding.unwrap().since, at(1_000));
        assert_eq!(told.sent_at, Some(at(1_507)));
    }

    #[test]
    fn healthy_traffic_is_told_once_a_second() {
        let mut slot = slot();
        let mut live = Live::new(&slot, false);
        let mut told = 0;
        for tick in 0..500u64 {
            let ms = 1_000 + tick * 10;
            send(&mut slot, ms, tick as u32 + 1);
            slot.snd_una = slot.snd_nxt;
            told += u32::from(live.look(&slot, at(ms), SWEEP, false).sample.is_some());
        }
        assert_eq!(told, 5);
    }

    #[test]
    fn who_is_attentive_is_told_of_everything_that_moves() {
        let mut slot = slot();
        let mut live = Live::new(&slot, false);
        let mut told = 0;
        for tick in 0..50u64 {
            let ms = 1_100 + tick * 10;
            if tick % 2 == 0 {
                send(&mut slot, ms, tick as u32 + 1);
                slot.snd_una = slot.snd_nxt;
            }
            let look = live.look(&slot, at(ms), SWEEP, true);
            told += u32::from(look.sample.is_some());
        }
        assert_eq!(told, 25);
    }

    #[test]
    fn nothing_can_be_late_before_it_is_due() {
        let mut slot = slot();
        let mut live = Live::new(&slot, false);
        let empty = live.look(&slot, at(1_000), SWEEP, false);
        assert_eq!(
            empty.due,
            at(1_040),
            "sent at once: 20 ms of round trip and 20 ms"
        );
        assert_eq!(SWEEP.due(&slot, at(1_000)), empty.due);
        send(&mut slot, 1_010, 100);
        let sent = live.look(&slot, at(1_040), SWEEP, false);
        assert_eq!(sent.due, at(1_050));
        assert!(!live.look(&slot, sent.due, SWEEP, false).late);
        let after = sent.due + Duration::from_micros(1);
        assert!(live.look(&slot, after, SWEEP, false).late);
        assert_eq!(SWEEP.late_for(&slot, sent.due), None);
        assert_eq!(SWEEP.late_for(&slot, after), Some(after.since(at(1_010))));
    }

    #[test]
    fn nothing_is_told_while_nothing_moves() {
        let slot = slot();
        let mut live = Live::new(&slot, false);
        for ms in [1_000, 5_000, 50_000] {
            let look = live.look(&slot, at(ms), SWEEP, false);
            assert_eq!((look.sample, look.late), (None, false));
        }
    }
}
