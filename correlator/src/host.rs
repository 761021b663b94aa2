//! The health of this host: links, neighbours, stalls, lost observations.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use events::{EgressName, HostCause, HostSignal, Timestamp};
use serde::{Deserialize, Serialize};

/// What is seen so long after a stall may still come from it.
const AFTER_STALL: Duration = Duration::from_millis(100);
/// Probes in flight when a stall began are lost to it.
const IN_FLIGHT: Duration = Duration::from_millis(400);
/// A request this many times longer than its 99th percentile is news.
const UNUSUAL: u32 = 4;
/// Troubles kept, and for how long.
const MAX_TROUBLES: usize = 32;
const MEMORY: Duration = Duration::from_secs(60);
/// So long after a stall what was held back may still be under way.
const BACKLOG: Duration = Duration::from_secs(1);
/// Lost observations lower confidence for so long.
const DOUBT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Since when there is no carrier.
    pub down_since: Option<Timestamp>,
    /// Since when there is carrier again, if it was ever lost.
    pub up_since: Option<Timestamp>,
    /// Gateways whose neighbour resolution failed, and when.
    pub unresolved: BTreeMap<IpAddr, Timestamp>,
}

/// A stretch of time in which this host saw nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    pub from: Timestamp,
    pub until: Timestamp,
    pub lag: Duration,
    /// Its after-effects were lifted.
    pub over: bool,
}

/// Something of this host took long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trouble {
    pub from: Timestamp,
    pub until: Timestamp,
    pub what: HostCause,
    /// What is usual, where it is known.
    pub usual: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub links: BTreeMap<EgressName, Link>,
    pub stall: Option<Stall>,
    /// Troubles of the last minute, by their end.
    troubles: VecDeque<Trouble>,
    lost_until: Option<Timestamp>,
    pub lost: u64,
}

impl Host {
    /// Takes in a signal; returns a stall if this is the news of one.
    pub fn signal(&mut self, at: Timestamp, signal: &HostSignal, veto: Duration) -> Option<Stall> {
        match signal {
            HostSignal::Carrier { egress, up } => {
                let link = self.links.entry(egress.clone()).or_default();
                if *up {
                    if link.down_since.take().is_some() {
                        link.up_since = Some(at);
                        link.unresolved.clear();
                    }
                } else if link.down_since.is_none() {
                    link.down_since = Some(at);
                    link.up_since = None;
                }
                None
            }
            HostSignal::Neighbor {
                egress,
                gateway,
                reachable,
            } => {
                let link = self.links.entry(egress.clone()).or_default();
                if *reachable {
                    link.unresolved.remove(gateway);
                } else {
                    link.unresolved.entry(*gateway).or_insert(at);
                }
                None
            }
            HostSignal::TimerLag { lag } if *lag > veto => {
                let from = at - *lag;
                let from = match self.stall {
                    // A stall right after another is the same one.
                    Some(old) if !old.over => old.from.min(from),
                    _ => from,
                };
                let stall = Stall {
                    from,
                    until: at + AFTER_STALL,
                    lag: *lag,
                    over: false,
                };
                self.stall = Some(stall);
                Some(stall)
            }
            HostSignal::TimerLag { .. } => None,
            HostSignal::DiskSlow {
                device,
                operation,
                ended_at,
                took,
                usual,
            } => {
                // A disk that is always so is not the news.
                if usual.is_none_or(|usual| *took >= usual * UNUSUAL) {
                    let what = HostCause::Disk {
                        device: device.clone(),
                        operation: *operation,
                        took: *took,
                    };
                    self.trouble(*ended_at, *took, what, *usual);
                }
                None
            }
            HostSignal::RunQueueDelay {
                thread,
                ended_at,
                waited,
                by,
                ..
            } => {
                let what = HostCause::Cpu {
                    thread: thread.clone(),
                    waited: *waited,
                    by: by.clone(),
                };
                self.trouble(*ended_at, *waited, what, None);
                None
            }
            HostSignal::Sending { .. } => None,
            HostSignal::Lost { count, .. } => {
                self.lost = self.lost.saturating_add(*count);
                self.lost_until = Some(at + DOUBT);
                None
            }
        }
    }

    fn trouble(
        &mut self,
        until: Timestamp,
        took: Duration,
        what: HostCause,
        usual: Option<Duration>,
    ) {
        while self.troubles.len() >= MAX_TROUBLES
            || self
                .troubles
                .front()
                .is_some_and(|t| until.since(t.until) > MEMORY)
        {
            self.troubles.pop_front();
        }
        self.troubles.push_back(Trouble {
            from: until - took,
            until,
            what,
            usual,
        });
    }

    /// What took long between two moments.
    pub fn troubles(&self, from: Timestamp, until: Timestamp) -> impl Iterator<Item = &Trouble> {
        self.troubles
            .iter()
            .filter(move |t| t.until >= from && t.from <= until)
    }

    /// What stalled this host between two moments: what took longest, a disk or a thief of the CPU
    /// before the mere fact that the machine stood still.
    pub fn cause(&self, from: Timestamp, until: Timestamp) -> Option<HostCause> {
        let named = self
            .troubles(from, until)
            .max_by_key(|t| t.until.since(t.from));
        let paused = || {
            let stall = self.stall.filter(|s| s.until >= from && s.from <= until)?;
            Some(HostCause::Paused { lag: stall.lag })
        };
        named.map(|t| t.what.clone()).or_else(paused)
    }

    /// From when on probes sent were in flight when the stall began.
    pub fn blind_from(stall: &Stall) -> Timestamp {
        stall.from - IN_FLIGHT
    }

    /// Evidence seen at `at` comes from a stalled observer.
    pub fn vetoed(&self, at: Timestamp) -> bool {
        self.stall
            .is_some_and(|s| !s.over && at >= s.from && at < s.until)
    }

    pub fn down_since(&self, egress: &EgressName) -> Option<Timestamp> {
        self.links.get(egress).and_then(|l| l.down_since)
    }

    /// It stood still a moment ago: what it held back is sent at once, and may fill the uplink's queue.
    pub fn stalled(&self, now: Timestamp) -> bool {
        self.stall.is_some_and(|s| now < s.until + BACKLOG)
    }

    /// By how much thresholds on TCP evidence rise.
    pub fn doubt(&self, now: Timestamp) -> f64 {
        if self.lost_until.is_some_and(|until| now < until) {
            1.5
        } else {
            1.0
        }
    }
}
