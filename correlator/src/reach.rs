//! What probes say: one window of outcomes for each egress, source and target.

use std::collections::VecDeque;
use std::ops::RangeBounds;
use std::time::Duration;

use events::{EgressName, ProbeOutcome, ProbeResult, ProbeSource, ProbeTarget, Timestamp};
use serde::{Deserialize, Serialize};

/// Outcomes kept per window: 3.2 s of a gateway probed every 20 ms, more than the time to heal.
const SHOTS: usize = 160;
/// Windows kept. Suspects are bounded by the probe requests, anchors by the configuration.
const MAX_WINDOWS: usize = 1024;
/// Of the probes of a healthy path so many are lost at least, before anything else is learned.
const USUAL_LOSS: f64 = 0.02;
/// The share of probes that are lost when the path is broken.
const BROKEN_LOSS: f64 = 0.98;
/// So many losses in a row are an outage. At 50 % loss one row in 256 is as long.
const OUTAGE: usize = 8;
/// What is not known yet counts like so many answered probes.
const PRIOR: usize = 20;
/// Probes are not sent on the dot.
const SHORTEST_PAUSE: Duration = Duration::from_millis(40);
/// The last answers of a window are those to what was sent so long before the last.
const OF_LATE: Duration = Duration::from_millis(200);
/// By so much they are slower than all before, if a queue grows.
const SLOWED: Duration = Duration::from_millis(20);
/// A window answered within this before an onset was usable then.
const USUAL: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Shot {
    sent_at: Timestamp,
    /// The round-trip time of the answer, if one came.
    rtt: Option<Duration>,
}

/// Outcomes of the probes of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    pub egress: EgressName,
    pub source: ProbeSource,
    pub target: ProbeTarget,
    /// In the order of sending.
    shots: VecDeque<Shot>,
    /// How many of them were not answered.
    lost: usize,
    /// When the newest probe that was answered was sent.
    pub last_reply: Option<Timestamp>,
    /// When the newest answer came.
    pub arrived: Option<Timestamp>,
    /// When the newest probe that has an outcome was sent.
    pub last_sent: Timestamp,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// The longest round-trip time among the outcomes kept.
    slowest: Duration,
    /// When the first probe was sent that was lost since the last answered one.
    dark: Option<Timestamp>,
}

impl Window {
    /// Unanswered probes since the last answered one, leaving out those whose answer may still
    /// come: where answers have lately been slow, a probe just given up is not missed yet. Where
    /// probes are lost all the time, each counts for less: by the log-likelihood ratio of its loss.
    pub fn misses(&self, now: Timestamp) -> usize {
        let patience = self.slowest + self.slowest / 4;
        let (mut run, mut missed) = (0, 0);
        for shot in self.shots.iter().rev().take_while(|s| s.rtt.is_none()) {
            run += 1;
            missed += usize::from(now >= shot.sent_at + patience);
        }
        if missed == 0 || self.lost <= run {
            return missed;
        }
        let usual = self.lost_singly(run);
        // Far below 2^52.
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        {
            let all = self.shots.len() - run + PRIOR;
            let loss = (usual as f64 / all as f64).clamp(USUAL_LOSS, BROKEN_LOSS);
            let weight = (BROKEN_LOSS / loss).ln() / (BROKEN_LOSS / USUAL_LOSS).ln();
            (missed as f64 * weight) as usize
        }
    }

    /// Losses before the newest `run` of them, without outages: an outage must not teach patience.
    fn lost_singly(&self, run: usize) -> usize {
        let (mut lost, mut row) = (0, 0);
        for shot in self.shots.iter().rev().skip(run) {
            if shot.rtt.is_none() {
                row += 1;
                continue;
            }
            lost += if row < OUTAGE { row } else { 0 };
            row = 0;
        }
        lost
    }

    /// When the first of these left.
    pub fn dark_since(&self, now: Timestamp) -> Option<Timestamp> {
        self.dark.filter(|_| self.misses(now) > 0)
    }

    /// Probes sent in this time were lost, two at least, and none was answered.
    pub fn silent_between(&self, from: Timestamp, until: Timestamp) -> bool {
        let mut within = self
            .shots
            .iter()
            .filter(|s| s.sent_at >= from && s.sent_at < until)
            .peekable();
        let lost = within.clone().count();
        lost >= 2 && within.all(|s| s.rtt.is_none())
    }

    /// A probe sent in this time was answered.
    pub fn answered_between(&self, from: Timestamp, until: Timestamp) -> bool {
        self.shots
            .iter()
            .any(|s| s.rtt.is_some() && s.sent_at >= from && s.sent_at < until)
    }

    /// A probe sent at or after `bound` was answered.
    pub fn answered_since(&self, bound: Timestamp) -> bool {
        self.last_reply.is_some_and(|at| at >= bound)
    }

    /// It used to be answered around `onset`: its silence means something.
    pub fn usable(&self, onset: Timestamp) -> bool {
        self.last_reply.is_some_and(|at| at + USUAL >= onset)
    }

    /// Answered and sent probes among those sent at or after `from`.
    pub fn tally(&self, from: Timestamp) -> (usize, usize) {
        self.shots
            .iter()
            .filter(|s| s.sent_at >= from)
            .fold((0, 0), |(ok, all), s| {
                (ok + usize::from(s.rtt.is_some()), all + 1)
            })
    }

    /// Answers still come, by how often it is asked: three in a row are not missing.
    pub fn current(&self, now: Timestamp) -> bool {
        let mut sent = self.shots.iter().rev().map(|s| s.sent_at);
        let (Some(newest), Some(before)) = (sent.next(), sent.nth(3)) else {
            return self.arrived.is_some();
        };
        let pause = (newest.since(before) / 4).max(SHORTEST_PAUSE);
        self.arrived.is_some_and(|at| now <= at + pause * 3)
    }

    /// The last answers took longer than any before: something filled up when they stopped.
    pub fn slowed(&self) -> bool {
        let Some(last) = self.last_reply else {
            return false;
        };
        let (mut older, mut before, mut of_late) = (0, Duration::ZERO, Duration::ZERO);
        for shot in &self.shots {
            let Some(rtt) = shot.rtt else { continue };
            if shot.sent_at + OF_LATE >= last {
                of_late = of_late.max(rtt);
            } else {
                older += 1;
                before = before.max(rtt);
            }
        }
        older >= PRIOR && of_late > before + SLOWED
    }

    /// The median of the round-trip times of probes sent within a time; of fewer than five there is
    /// none.
    pub fn median_rtt(&self, sent: impl RangeBounds<Timestamp>) -> Option<Duration> {
        let within = self.shots.iter().filter(|s| sent.contains(&s.sent_at));
        let mut times: Vec<Duration> = within.filter_map(|s| s.rtt).collect();
        times.sort_unstable();
        (times.len() >= 5).then(|| times.get(times.len() / 2).copied())?
    }

    /// Answers to what was sent in this time were late by this host's own fault.
    fn forget_delays(&mut self, from: Timestamp, until: Timestamp) {
        let within = |s: &Shot| s.sent_at >= from && s.sent_at < until;
        let outside = self.shots.iter().filter(|s| !within(s));
        let Some(slowest) = outside.filter_map(|s| s.rtt).max() else {
            return;
        };
        for shot in self.shots.iter_mut().filter(|s| within(s)) {
            shot.rtt = shot.rtt.map(|rtt| rtt.min(slowest));
        }
        self.slowest = slowest;
        self.rtt = self.rtt.map(|rtt| rtt.min(slowest));
    }

    /// `blind`: this host stood still meanwhile, how long it took tells nothing.
    fn record(&mut self, sent_at: Timestamp, rtt: Option<Duration>, blind: bool) {
        let came = rtt.map(|rtt| sent_at + rtt);
        let rtt = match rtt {
            Some(rtt) if blind && self.slowest > Duration::ZERO => Some(rtt.min(self.slowest)),
            rtt => rtt,
        };
        if let Some(rtt) = rtt {
            self.last_reply = self.last_reply.max(Some(sent_at));
            self.arrived = self.arrived.max(came);
            self.rtt = Some(self.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
        }
        self.last_sent = self.last_sent.max(sent_at);
        // As a rule it is the newest.
        let place = match self.shots.back() {
            Some(newest) if newest.sent_at < sent_at => self.shots.len(),
            _ => self.shots.partition_point(|s| s.sent_at < sent_at),
        };
        let mut forgotten = None;
        match self.shots.get_mut(place) {
            // A late answer to a probe already given up.
            Some(shot) if shot.sent_at == sent_at => {
                if shot.rtt.is_none() && rtt.is_some() {
                    self.lost = self.lost.saturating_sub(1);
                }
                shot.rtt = shot.rtt.or(rtt);
            }
            _ => {
                self.shots.insert(place, Shot { sent_at, rtt });
                self.lost += usize::from(rtt.is_none());
                if self.shots.len() > SHOTS {
                    forgotten = self.shots.pop_front().and_then(|s| s.rtt);
                    self.lost = self.lost.saturating_sub(usize::from(forgotten.is_none()));
                }
            }
        }
        self.slowest = match forgotten {
            Some(forgotten) if forgotten >= self.slowest => self
                .shots
                .iter()
                .filter_map(|s| s.rtt)
                .max()
                .unwrap_or_default(),
            _ => self.slowest.max(rtt.unwrap_or_default()),
        };
        let first = self
            .shots
            .iter()
            .rev()
            .take_while(|s| s.rtt.is_none())
            .last()
            .map(|s| s.sent_at);
        // The first may be older than the outcomes kept.
        let older = self.dark.filter(|at| Some(*at) > self.last_reply);
        self.dark = first.map(|first| older.map_or(first, |older| older.min(first)));
    }
}

/// All windows, in the order of (egress, source, target).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reach {
    windows: Vec<Window>,
    /// What became of probes sent before this is a stall of our own.
    blind_until: Timestamp,
}

impl Reach {
    /// Takes in a finished probe. Returns whether it was lost.
    pub fn record(&mut self, result: &ProbeResult) -> bool {
        let rtt = match result.outcome {
            ProbeOutcome::Reply { rtt } => Some(rtt),
            ProbeOutcome::Lost | ProbeOutcome::Refused { .. } => None,
        };
        if rtt.is_none() && result.sent_at < self.blind_until {
            return false;
        }
        let key = (&result.egress, result.source, result.target);
        let place = match self
            .windows
            .binary_search_by(|w| (&w.egress, w.source, w.target).cmp(&key))
        {
            Ok(place) => place,
            Err(place) => {
                if self.windows.len() >= MAX_WINDOWS {
                    return rtt.is_none();
                }
                self.windows.insert(
                    place,
                    Window {
                        egress: result.egress.clone(),
                        source: result.source,
                        target: result.target,
                        shots: VecDeque::new(),
                        lost: 0,
                        last_reply: None,
                        arrived: None,
                        last_sent: result.sent_at,
                        rtt: None,
                        slowest: Duration::ZERO,
                        dark: None,
                    },
                );
                place
            }
        };
        if let Some(window) = self.windows.get_mut(place) {
            window.record(result.sent_at, rtt, result.sent_at < self.blind_until);
        }
        rtt.is_none()
    }

    /// This host stood still: losses of probes sent from `from` to `until` mean nothing.
    pub fn blind(&mut self, from: Timestamp, until: Timestamp) {
        self.blind_until = self.blind_until.max(until);
        for window in &mut self.windows {
            window
                .shots
                .retain(|s| s.rtt.is_some() || s.sent_at < from || s.sent_at >= until);
            window.lost = window.shots.iter().filter(|s| s.rtt.is_none()).count();
            window.forget_delays(from, until);
            if window.dark.is_some_and(|at| at >= from) {
                window.dark = None;
            }
        }
    }

    /// The windows of one egress.
    pub fn of<'a, 'b>(
        &'a self,
        egress: &'b EgressName,
    ) -> impl Iterator<Item = &'a Window> + use<'a, 'b> {
        let from = self.windows.partition_point(|w| w.egress < *egress);
        let windows = self.windows.get(from..).unwrap_or_default();
        windows.iter().take_while(move |w| w.egress == *egress)
    }

    /// One window.
    pub fn find(
        &self,
        egress: &EgressName,
        source: ProbeSource,
        target: ProbeTarget,
    ) -> Option<&Window> {
        self.windows
            .binary_search_by(|w| (&w.egress, w.source, w.target).cmp(&(egress, source, target)))
            .ok()
            .and_then(|place| self.windows.get(place))
    }

    /// Forgets suspects not probed since `before`.
    pub fn forget(&mut self, before: Timestamp) {
        self.windows
            .retain(|w| !matches!(w.target, ProbeTarget::Suspect(_)) || w.last_sent >= before);
    }
}
