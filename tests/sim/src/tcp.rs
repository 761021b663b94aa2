//! A TCP sender and the receiver of its peer, as Linux has them, at the level of messages that fit
//! a segment. Times are microseconds.
//!
//! Sources: `net/ipv4/tcp_input.c` (`tcp_rtt_estimator`, `tcp_rearm_rto`, `tcp_rack_*`),
//! `tcp_output.c` (`tcp_schedule_loss_probe`, `tcp_send_loss_probe`), `tcp_timer.c`; RFC 6298, RFC
//! 8985, RFC 1122 section 4.2.3.2.

use std::collections::{BTreeSet, VecDeque};

use events::RetransmitClass;

/// `TCP_RTO_MIN`.
const RTO_MIN: u64 = 200_000;
/// `TCP_RTO_MAX`.
const RTO_MAX: u64 = 120_000_000;
/// `TCP_TIMEOUT_MIN_US`: two ticks of 1 ms.
const TIMEOUT_MIN: u64 = 2_000;
/// RFC 6298 section 2.1.
const RTO_INITIAL: u64 = 1_000_000;

/// A segment leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Its number.
    pub seq: u32,
    /// Why it leaves again; `None`: for the first time.
    pub class: Option<RetransmitClass>,
}

/// What a segment of the peer says of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// All segments before this have arrived.
    pub next: u32,
    /// And of those behind a hole these.
    pub sacked: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Segment {
    seq: u32,
    /// First sent.
    first: u64,
    /// Last sent.
    last: u64,
    again: bool,
    sacked: bool,
    lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Recovery { until: u32 },
    Loss { until: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    Probe,
    Timeout,
}

/// The sending side.
#[derive(Clone, Debug)]
pub struct Sender {
    out: VecDeque<Segment>,
    next: u32,
    una: u32,
    queued: u32,
    window: usize,
    cwnd: usize,
    /// `srtt_us`: eight times the time.
    srtt8: u64,
    /// `mdev_us`: four times the deviation.
    mdev4: u64,
    mdev_max4: u64,
    rttvar4: u64,
    rtt_seq: u32,
    backoff: u32,
    retransmits: u8,
    state: State,
    probed: Option<u32>,
    timer: Option<(u64, Timer)>,
    reorder: Option<u64>,
    /// Windowed minimum.
    pub min_rtt: u64,
    /// The newest raw round-trip time.
    pub last_rtt: Option<u64>,
    /// When an acknowledgement last covered new data.
    pub acked_at: Option<u64>,
    /// When anything last left.
    pub sent_at: Option<u64>,
}

impl Sender {
    /// A connection whose round-trip time is known.
    #[must_use]
    pub fn settled(rtt: u64, deviation: u64, window: usize) -> Self {
        Self {
            srtt8: rtt * 8,
            mdev4: deviation * 4,
            mdev_max4: RTO_MIN,
            rttvar4: RTO_MIN.max(deviation * 4),
            min_rtt: rtt,
            ..Self::fresh(window)
        }
    }

    /// A connection without a measurement.
    #[must_use]
    pub fn fresh(window: usize) -> Self {
        Self {
            out: VecDeque::new(),
            next: 0,
            una: 0,
            queued: 0,
            window,
            cwnd: window,
            srtt8: 0,
            mdev4: 0,
            mdev_max4: 0,
            rttvar4: 0,
            rtt_seq: 0,
            backoff: 0,
            retransmits: 0,
            state: State::Open,
            probed: None,
            timer: None,
            reorder: None,
            min_rtt: 0,
            last_rtt: None,
            acked_at: None,
            sent_at: None,
        }
    }

    /// Smoothed round-trip time.
    #[must_use]
    pub const fn srtt(&self) -> u64 {
        self.srtt8 >> 3
    }

    /// Mean deviation, as `tcp_info` shows it.
    #[must_use]
    pub const fn mdev(&self) -> u64 {
        self.mdev4 >> 2
    }

    /// The number of the oldest unacknowledged segment.
    #[must_use]
    pub const fn una(&self) -> u32 {
        self.una
    }

    /// When the oldest unacknowledged segment was first sent.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.out.front().map(|s| s.first)
    }

    /// The retransmission timeout now.
    #[must_use]
    pub fn rto(&self) -> u64 {
        let base = if self.srtt8 == 0 {
            RTO_INITIAL
        } else {
            // `__tcp_set_rto`; `tcp_rtt_estimator` keeps `rttvar` at its floor.
            (self.srtt8 >> 3) + self.rttvar4
        };
        (base << self.backoff.min(12)).min(RTO_MAX)
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<u64> {
        [self.timer.map(|(at, _)| at), self.reorder]
            .into_iter()
            .flatten()
            .min()
    }

    /// The application has a message.
    pub fn send(&mut self, now: u64, out: &mut Vec<Transmit>) {
        self.queued = (self.queued + 1).min(1_000);
        self.push(now, out);
    }

    fn in_flight(&self) -> usize {
        self.out.iter().filter(|s| !s.sacked && !s.lost).count()
    }

    fn push(&mut self, now: u64, out: &mut Vec<Transmit>) {
        let mut sent = false;
        while self.queued > 0 && self.in_flight() < self.cwnd {
            let idle = self.out.is_empty();
            self.queued -= 1;
            self.new_segment(now, out);
            if idle && self.timer.is_none() {
                self.timer = Some((now + self.rto(), Timer::Timeout));
            }
            sent = true;
        }
        if sent {
            self.schedule_probe(now, false);
        }
    }

    fn new_segment(&mut self, now: u64, out: &mut Vec<Transmit>) {
        let seq = self.next;
        self.next += 1;
        self.out.push_back(Segment {
            seq,
            first: now,
            last: now,
            again: false,
            sacked: false,
            lost: false,
        });
        self.sent_at = Some(now);
        out.push(Transmit { seq, class: None });
    }

    /// `tcp_schedule_loss_probe`: false where none is due.
    fn schedule_probe(&mut self, now: u64, advancing: bool) -> bool {
        let Some(head) = self.out.front() else {
            return false;
        };
        if self.state != State::Open || self.out.iter().any(|s| s.sacked) {
            return false;
        }
        let mut wait = if self.srtt8 == 0 {
            RTO_INITIAL
        } else {
            let packets = self.out.len();
            (self.srtt8 >> 2) + if packets == 1 { RTO_MIN } else { TIMEOUT_MIN }
        };
        let timeout = if advancing {
            self.rto()
        } else {
            (head.last + self.rto()).saturating_sub(now)
        };
        if timeout > 0 {
            wait = wait.min(timeout);
        }
        self.timer = Some((now + wait, Timer::Probe));
        true
    }

    /// A timer is due.
    pub fn handle_timeout(&mut self, now: u64, out: &mut Vec<Transmit>) {
        if self.reorder.is_some_and(|at| at <= now) {
            self.reorder = None;
            self.detect_lost(now, 0);
            self.recover(now, out);
        }
        let Some((at, timer)) = self.timer else {
            return;
        };
        if at > now {
            return;
        }
        self.timer = None;
        match timer {
            Timer::Probe => self.probe(now, out),
            Timer::Timeout => self.timeout(now, out),
        }
    }

    fn probe(&mut self, now: u64, out: &mut Vec<Transmit>) {
        let Some(head) = self.out.front() else {
            return;
        };
        if self.probed.is_some() {
            let due = (head.last + self.rto()).max(now + 1);
            self.timer = Some((due, Timer::Timeout));
            return;
        }
        if self.queued > 0 {
            self.queued -= 1;
            self.new_segment(now, out);
        } else if let Some(last) = self.out.back_mut() {
            last.last = now;
            last.again = true;
            self.sent_at = Some(now);
            out.push(Transmit {
                seq: last.seq,
                class: Some(RetransmitClass::TailLossProbe),
            });
        }
        self.probed = Some(self.next);
        self.timer = Some((now + self.rto(), Timer::Timeout));
    }

    fn timeout(&mut self, now: u64, out: &mut Vec<Transmit>) {
        if self.out.is_empty() {
            return;
        }
        self.retransmits = self.retransmits.saturating_add(1);
        self.backoff += 1;
        self.cwnd = 1;
        self.probed = None;
        self.reorder = None;
        self.state = State::Loss { until: self.next };
        for segment in &mut self.out {
            segment.lost = !segment.sacked;
        }
        let class = RetransmitClass::Timeout {
            count: self.retransmits,
        };
        self.retransmit_lost(now, class, 1, out);
        self.timer = Some((now + self.rto(), Timer::Timeout));
    }

    fn retransmit_lost(
        &mut self,
        now: u64,
        class: RetransmitClass,
        most: usize,
        out: &mut Vec<Transmit>,
    ) {
        for segment in self.out.iter_mut().filter(|s| s.lost).take(most) {
            segment.lost = false;
            segment.again = true;
            segment.last = now;
            self.sent_at = Some(now);
            out.push(Transmit {
                seq: segment.seq,
                class: Some(class),
            });
        }
    }

    /// A segment of the peer came in.
    pub fn acknowledge(&mut self, now: u64, ack: &Ack, out: &mut Vec<Transmit>) {
        if ack.next < self.una {
            return;
        }
        let mut measured = None;
        let mut original = false;
        let mut acked = 0usize;
        while let Some(head) = self.out.front() {
            if head.seq >= ack.next {
                break;
            }
            if measured.is_none() && !head.again {
                measured = Some(now.saturating_sub(head.first));
            }
            original |= !head.again;
            acked += 1;
            self.out.pop_front();
        }
        let advanced = acked > 0;
        for seq in &ack.sacked {
            if let Some(segment) = self.out.iter_mut().find(|s| s.seq == *seq) {
                segment.sacked = true;
                segment.lost = false;
            }
        }
        if advanced {
            self.una = ack.next;
            self.acked_at = Some(now);
            if let Some(rtt) = measured {
                self.measure(rtt.max(1));
            }
            self.retransmits = 0;
            self.backoff = 0;
            if self.probed.is_some_and(|until| ack.next >= until) {
                self.probed = None;
            }
            self.progress(ack.next, original, acked);
        }
        if !ack.sacked.is_empty() {
            let reorder = self.min_rtt / 4;
            if self.detect_lost(now, reorder) && self.reorder.is_none() {
                self.reorder = Some(now + reorder.max(1_000));
            }
        }
        if advanced {
            if self.out.is_empty() {
                self.timer = None;
                self.reorder = None;
            } else if !self.schedule_probe(now, true) {
                self.timer = Some((now + self.rto(), Timer::Timeout));
            }
        }
        self.recover(now, out);
        self.push(now, out);
    }

    fn progress(&mut self, next: u32, original: bool, acked: usize) {
        match self.state {
            State::Open => {}
            State::Recovery { until } if next >= until => self.state = State::Open,
            State::Recovery { .. } => {}
            // RFC 5682: what was never retransmitted was acknowledged, so nothing was lost.
            State::Loss { until } if next >= until || original => {
                self.state = State::Open;
                self.cwnd = self.window;
                for segment in &mut self.out {
                    segment.lost = false;
                }
            }
            State::Loss { .. } => self.cwnd = (self.cwnd + acked).min(self.window),
        }
        if self.state == State::Open {
            self.cwnd = self.window;
        }
    }

    /// Marks what was sent before something that arrived. Returns whether more may follow later.
    fn detect_lost(&mut self, now: u64, reorder: u64) -> bool {
        let Some(newest) = self.out.iter().filter(|s| s.sacked).map(|s| s.last).max() else {
            return false;
        };
        let mut waiting = false;
        for segment in self.out.iter_mut().filter(|s| !s.sacked && !s.lost) {
            if segment.last < newest {
                if now >= segment.last + (self.srtt8 >> 3) + reorder {
                    segment.lost = true;
                } else {
                    waiting = true;
                }
            }
        }
        waiting
    }

    fn recover(&mut self, now: u64, out: &mut Vec<Transmit>) {
        if !self.out.iter().any(|s| s.lost) {
            return;
        }
        match self.state {
            State::Loss { .. } => {
                let room = self.cwnd.saturating_sub(self.in_flight());
                // The kernel calls it a timeout's while `icsk_retransmits` counts.
                let class = if self.retransmits > 0 {
                    RetransmitClass::Timeout {
                        count: self.retransmits,
                    }
                } else {
                    RetransmitClass::Other
                };
                self.retransmit_lost(now, class, room, out);
            }
            State::Open | State::Recovery { .. } => {
                if self.state == State::Open {
                    self.state = State::Recovery { until: self.next };
                    self.timer = Some((now + self.rto(), Timer::Timeout));
                }
                self.retransmit_lost(now, RetransmitClass::Fast, usize::MAX, out);
            }
        }
    }

    /// `tcp_rtt_estimator`.
    fn measure(&mut self, rtt: u64) {
        self.last_rtt = Some(rtt);
        self.min_rtt = if self.min_rtt == 0 {
            rtt
        } else {
            self.min_rtt.min(rtt)
        };
        if self.srtt8 == 0 {
            self.srtt8 = rtt * 8;
            self.mdev4 = rtt * 2;
            self.rttvar4 = self.mdev4.max(RTO_MIN);
            self.mdev_max4 = self.rttvar4;
            self.rtt_seq = self.next;
            return;
        }
        let old = (self.srtt8 >> 3) as i64;
        let error = rtt as i64 - old;
        self.srtt8 = (self.srtt8 as i64 + error).max(1) as u64;
        let deviation = (self.mdev4 >> 2) as i64;
        let mut delta = error.abs() - deviation;
        if error < 0 && delta > 0 {
            // A falling time raises the deviation eight times more slowly.
            delta >>= 3;
        }
        self.mdev4 = (self.mdev4 as i64 + delta).max(0) as u64;
        if self.mdev4 > self.mdev_max4 {
            self.mdev_max4 = self.mdev4;
            self.rttvar4 = self.rttvar4.max(self.mdev_max4);
        }
        if self.una > self.rtt_seq {
            if self.mdev_max4 < self.rttvar4 {
                self.rttvar4 -= (self.rttvar4 - self.mdev_max4) >> 2;
            }
            self.rtt_seq = self.next;
            self.mdev_max4 = RTO_MIN;
        }
    }
}

/// The receiving side of a peer.
#[derive(Clone, Debug)]
pub struct Receiver {
    next: u32,
    beyond: BTreeSet<u32>,
    pending: u32,
    /// How long it may wait with an acknowledgement; 0: it never does.
    delay: u64,
    due: Option<u64>,
}

impl Receiver {
    /// A peer that acknowledges every second segment at once and a single one after `delay`.
    #[must_use]
    pub const fn new(delay: u64) -> Self {
        Self {
            next: 0,
            beyond: BTreeSet::new(),
            pending: 0,
            delay,
            due: None,
        }
    }

    /// When an acknowledgement goes out by itself.
    #[must_use]
    pub const fn next_timeout(&self) -> Option<u64> {
        self.due
    }

    /// A segment arrived. Returns the acknowledgement, if one leaves at once.
    pub fn arrive(&mut self, now: u64, seq: u32) -> Option<Ack> {
        let hole = !self.beyond.is_empty();
        if seq != self.next {
            if seq > self.next {
                self.beyond.insert(seq);
            }
            return Some(self.acknowledge());
        }
        self.next += 1;
        while self.beyond.remove(&self.next) {
            self.next += 1;
        }
        self.pending += 1;
        if hole || self.delay == 0 || self.pending >= 2 {
            return Some(self.acknowledge());
        }
        self.due = Some(now + self.delay);
        None
    }

    /// What any segment that leaves now says.
    pub fn acknowledge(&mut self) -> Ack {
        self.pending = 0;
        self.due = None;
        Ack {
            next: self.next,
            sacked: self.beyond.iter().copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;

    fn ack(next: u32) -> Ack {
        Ack {
            next,
            sacked: Vec::new(),
        }
    }

    /// Runs the timers until `end` and lists what left: milliseconds, number, class.
    fn run(sender: &mut Sender, end: u64) -> Vec<(u64, u32, Option<RetransmitClass>)> {
        let mut left = Vec::new();
        while let Some(at) = sender.next_timeout().filter(|at| *at <= end) {
            let mut out = Vec::new();
            sender.handle_timeout(at, &mut out);
            left.extend(out.iter().map(|t| (at / MS, t.seq, t.class)));
        }
        left
    }

    #[test]
    fn one_lost_message_is_probed_for_then_timed_out_with_backoff() {
        let mut sender = Sender::settled(20 * MS, MS, 10);
        assert_eq!(sender.rto(), 220 * MS, "srtt + 200 ms");
        sender.send(0, &mut Vec::new());
        // One packet out: 2 * 20 + 200 = 240 ms, but the timeout at 220 ms bounds it: the probe
        // takes its place. Then 220 ms, twice that, four times.
        let class = |count| Some(RetransmitClass::Timeout { count });
        assert_eq!(
            run(&mut sender, 2_000 * MS),
            [
                (220, 0, Some(RetransmitClass::TailLossProbe)),
                (440, 0, class(1)),
                (880, 0, class(2)),
                (1760, 0, class(3)),
            ]
        );
    }

    #[test]
    fn two_lost_messages_are_probed_for_after_two_round_trips() {
        let mut sender = Sender::settled(20 * MS, MS, 10);
        sender.send(0, &mut Vec::new());
        sender.send(5 * MS, &mut Vec::new());
        // 5 + 2 * 20 + 2 = 47 ms: the last one again; then a whole timeout: the first.
        assert_eq!(
            run(&mut sender, 300 * MS),
            [
                (47, 1, Some(RetransmitClass::TailLossProbe)),
                (267, 0, Some(RetransmitClass::Timeout { count: 1 })),
            ]
        );
    }

    #[test]
    fn sending_on_postpones_the_probe_to_the_timeout_of_the_first() {
        let mut sender = Sender::settled(40 * MS, MS, 20);
        let mut left = Vec::new();
        for n in 0..10 {
            let now = n * 50 * MS;
            left.extend(run(&mut sender, now));
            sender.send(now, &mut Vec::new());
        }
        left.extend(run(&mut sender, 600 * MS));
        // 2 * 40 + 2 = 82 ms after the newest message does not come; 240 ms after the first does.
        // Then messages go on postponing the timer, until the last one at 450 ms: 82 ms later the
        // timeout is overdue.
        assert_eq!(
            left,
            [
                (240, 4, Some(RetransmitClass::TailLossProbe)),
                (532, 0, Some(RetransmitClass::Timeout { count: 1 })),
            ]
        );
    }

    #[test]
    fn a_hole_is_retransmitted_after_the_reordering_window() {
        let mut sender = Sender::settled(40 * MS, MS, 20);
        let mut out = Vec::new();
        sender.send(0, &mut out);
        sender.send(10 * MS, &mut out);
        let sack = Ack {
            next: 0,
            sacked: vec![1],
        };
        out.clear();
        sender.acknowledge(50 * MS, &sack, &mut out);
        // Sent 50 ms ago, one round trip and a quarter: lost at once.
        assert_eq!(out[0].class, Some(RetransmitClass::Fast));
        assert_eq!(out[0].seq, 0);
        sender.acknowledge(90 * MS, &ack(2), &mut out);
        assert_eq!((sender.oldest(), sender.next_timeout()), (None, None));
    }

    #[test]
    fn after_a_timeout_new_messages_wait_and_all_is_sent_again() {
        let mut sender = Sender::settled(20 * MS, MS, 10);
        for n in 0..3 {
            sender.send(n * 10 * MS, &mut Vec::new());
        }
        let left = run(&mut sender, 300 * MS);
        assert_eq!(left.last().map(|l| (l.0, l.1)), Some((282, 0)));
        let mut out = Vec::new();
        sender.send(290 * MS, &mut out);
        assert!(out.is_empty(), "one segment may be out");
        sender.acknowledge(302 * MS, &ack(1), &mut out);
        let again: Vec<u32> = out.iter().map(|t| t.seq).collect();
        assert_eq!(again, [1, 2], "slow start: two");
        assert_eq!(out[0].class, Some(RetransmitClass::Other));
        out.clear();
        sender.acknowledge(322 * MS, &ack(3), &mut out);
        assert_eq!(
            out,
            [Transmit {
                seq: 3,
                class: None
            }]
        );
    }

    #[test]
    fn late_acknowledgements_undo_a_timeout() {
        let mut sender = Sender::settled(20 * MS, MS, 10);
        sender.send(0, &mut Vec::new());
        sender.send(10 * MS, &mut Vec::new());
        let _ = run(&mut sender, 280 * MS);
        let mut out = Vec::new();
        sender.acknowledge(290 * MS, &ack(2), &mut out);
        assert!(out.is_empty());
        assert_eq!(sender.state, State::Open);
        // 220 ms with the smoothed time unharmed: both had been sent twice.
        assert_eq!(sender.rto(), 220 * MS);
    }

    #[test]
    fn round_trip_times_are_smoothed_as_in_the_kernel() {
        let mut sender = Sender::fresh(10);
        let mut out = Vec::new();
        sender.send(0, &mut out);
        sender.acknowledge(100 * MS, &ack(1), &mut out);
        assert_eq!((sender.srtt(), sender.mdev()), (100 * MS, 50 * MS));
        sender.send(200 * MS, &mut out);
        sender.acknowledge(380 * MS, &ack(2), &mut out);
        // 100 + 80/8 = 110; mdev 50 + (80 - 50)/4 = 57.5.
        assert_eq!((sender.srtt(), sender.mdev()), (110 * MS, 57_500));
        // rttvar is the greatest deviation of the round, 230 ms as the kernel keeps it.
        assert_eq!(sender.rto(), 110 * MS + 230 * MS);
    }

    #[test]
    fn single_messages_are_acknowledged_late_and_pairs_at_once() {
        let mut peer = Receiver::new(40 * MS);
        assert_eq!(peer.arrive(0, 0), None);
        assert_eq!(peer.next_timeout(), Some(40 * MS));
        assert_eq!(peer.arrive(10 * MS, 1), Some(ack(2)));
        assert_eq!(peer.next_timeout(), None);
        let beyond = peer.arrive(20 * MS, 3);
        assert_eq!(
            beyond,
            Some(Ack {
                next: 2,
                sacked: vec![3]
            }),
            "a hole is told at once"
        );
        assert_eq!(peer.arrive(30 * MS, 2), Some(ack(4)), "and its end");
        assert_eq!(peer.arrive(40 * MS, 1), Some(ack(4)), "and a duplicate");
    }
}
