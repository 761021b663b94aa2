//! Probes that were sent and not answered yet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use events::Timestamp;

use crate::path::PathKey;

/// How long an answer is still recognised after its probe was sent.
const LATEST: Duration = Duration::from_secs(4);

/// A probe on its way.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) path: PathKey,
    pub(crate) sent_at: Timestamp,
    pub(crate) source: IpAddr,
    /// It was reported lost.
    pub(crate) lost: bool,
    /// When it is lost or, if it is, forgotten.
    due: Timestamp,
}

impl Pending {
    pub(crate) fn new(
        path: PathKey,
        sent_at: Timestamp,
        source: IpAddr,
        patience: Duration,
    ) -> Self {
        Self {
            path,
            sent_at,
            source,
            lost: false,
            due: sent_at + patience,
        }
    }
}

/// All probes on their way, a bounded number.
#[derive(Debug)]
pub(crate) struct Outstanding {
    capacity: usize,
    probes: BTreeMap<u64, Pending>,
    deadlines: BTreeSet<(Timestamp, u64)>,
}

impl Outstanding {
    /// `capacity` must be far below 65,536, so that a sequence number names one probe.
    pub(crate) const fn new(capacity: usize) -> Self {
        Self {
            capacity,
            probes: BTreeMap::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Whether one more than those about to leave may be sent. Makes room by forgetting the oldest
    /// if that one is lost.
    pub(crate) fn has_room(&mut self, leaving: usize) -> bool {
        if self.probes.len() + leaving < self.capacity {
            return true;
        }
        match self.probes.first_key_value() {
            Some((&number, oldest)) if oldest.lost => {
                self.take(number);
                true
            }
            _ => false,
        }
    }

    pub(crate) fn insert(&mut self, number: u64, probe: Pending) {
        self.deadlines.insert((probe.due, number));
        self.probes.insert(number, probe);
    }

    /// When the next deadline passes.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A probe that became lost by `now`.
    pub(crate) fn expire(&mut self, now: Timestamp) -> Option<Pending> {
        while let Some(&(at, number)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, number));
            match self.probes.get_mut(&number) {
                Some(probe) if !probe.lost => {
                    probe.lost = true;
                    probe.due = probe.sent_at + LATEST;
                    self.deadlines.insert((probe.due, number));
                    return Some(probe.clone());
                }
                _ => {
                    self.probes.remove(&number);
                }
            }
        }
        None
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Pending> {
        self.probes.get(&number)
    }

    /// Takes an answered probe out.
    pub(crate) fn take(&mut self, number: u64) -> Option<Pending> {
        let probe = self.probes.remove(&number)?;
        self.deadlines.remove(&(probe.due, number));
        Some(probe)
    }

    /// The number with these low 16 bits that a probe on its way can have.
    pub(crate) fn by_sequence(&self, sequence: u16) -> Option<u64> {
        let newest = *self.probes.last_key_value()?.0;
        let same_era = newest & !0xffff | u64::from(sequence);
        if same_era <= newest {
            Some(same_era)
        } else {
            same_era.checked_sub(0x1_0000)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use events::{ProbeSource, ProbeTarget};

    use super::*;

    fn probe(sent_ms: u64, patience_ms: u64) -> Pending {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let path = PathKey {
            egress: 0,
            target: ProbeTarget::Anchor(address),
            source: ProbeSource::Link,
            flow: None,
        };
        Pending::new(
            path,
            Timestamp::from_millis(sent_ms),
            address,
            Duration::from_millis(patience_ms),
        )
    }

    #[test]
    fn a_probe_is_lost_once_late_for_a_while_and_then_forgotten() {
        let mut all = Outstanding::new(10);
        all.insert(1, probe(0, 100));
        all.insert(2, probe(10, 30));
        assert_eq!(all.next(), Some(Timestamp::from_millis(40)));
        assert!(all.expire(Timestamp::from_millis(39)).is_none());
        assert_eq!(
            all.expire(Timestamp::from_millis(50)).map(|p| p.sent_at),
            Some(Timestamp::from_millis(10))
        );
        assert!(all.expire(Timestamp::from_millis(50)).is_none());
        assert!(all.take(2).is_some_and(|p| p.lost));
        assert!(all.take(2).is_none());
        assert!(all.expire(Timestamp::from_millis(100)).is_some());
        assert!(all.expire(Timestamp::from_millis(4000)).is_none());
        assert!(all.get(1).is_none());
        assert_eq!(all.next(), None);
    }

    #[test]
    fn only_lost_probes_make_room() {
        let mut all = Outstanding::new(2);
        all.insert(1, probe(0, 10));
        all.insert(2, probe(0, 50));
        assert!(!all.has_room(0));
        assert!(all.expire(Timestamp::from_millis(20)).is_some());
        assert!(all.has_room(0));
        assert!(all.get(1).is_none() && all.get(2).is_some());
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut all = Outstanding::new(10);
        assert_eq!(all.by_sequence(0), None);
        all.insert(0xffff, probe(0, 10));
        all.insert(0x1_0001, probe(0, 10));
        assert_eq!(all.by_sequence(0xffff), Some(0xffff));
        assert_eq!(all.by_sequence(1), Some(0x1_0001));
    }
}
