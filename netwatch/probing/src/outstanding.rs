//! Probes that were sent and not answered yet.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
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

/// All probes on their way, a bounded number. Numbers count up, so that those on their way lie
/// close together.
#[derive(Debug)]
pub(crate) struct Outstanding {
    capacity: usize,
    /// From the number `first` on, without a gap; the first and the last are on their way.
    probes: VecDeque<Option<Pending>>,
    first: u64,
    count: usize,
    /// Those of probes that were answered meanwhile stay until they come up.
    deadlines: BinaryHeap<Reverse<(Timestamp, u64)>>,
}

impl Outstanding {
    /// `capacity` must be far below 65,536, so that a sequence number names one probe.
    pub(crate) const fn new(capacity: usize) -> Self {
        Self {
            capacity,
            probes: VecDeque::new(),
            first: 0,
            count: 0,
            deadlines: BinaryHeap::new(),
        }
    }

    /// Whether one more than those about to leave may be sent. Makes room by forgetting the oldest
    /// if that one is lost.
    pub(crate) fn has_room(&mut self, leaving: usize) -> bool {
        if self.count + leaving < self.capacity {
            return true;
        }
        match self.probes.front() {
            Some(Some(oldest)) if oldest.lost => {
                self.take(self.first);
                true
            }
            _ => false,
        }
    }

    /// `number` is above all that were taken out, and at most 65,536 above those that were not.
    pub(crate) fn insert(&mut self, number: u64, probe: Pending) {
        if self.probes.is_empty() {
            self.first = number;
        }
        // Probes that leave by several sockets do not leave in the order of their numbers.
        while number < self.first {
            self.first -= 1;
            self.probes.push_front(None);
        }
        let Ok(place) = usize::try_from(number - self.first) else {
            return;
        };
        if place >= self.probes.len() {
            self.probes.resize(place + 1, None);
        }
        self.deadlines.push(Reverse((probe.due, number)));
        if let Some(slot) = self.probes.get_mut(place)
            && slot.replace(probe).is_none()
        {
            self.count += 1;
        }
    }

    /// When the next deadline passes.
    pub(crate) fn next(&mut self) -> Option<Timestamp> {
        while let Some(&Reverse((at, number))) = self.deadlines.peek() {
            if self.get(number).is_some_and(|probe| probe.due == at) {
                return Some(at);
            }
            self.deadlines.pop();
        }
        None
    }

    /// A probe that became lost by `now`.
    pub(crate) fn expire(&mut self, now: Timestamp) -> Option<Pending> {
        while let Some(&Reverse((at, number))) = self.deadlines.peek()
            && at <= now
        {
            self.deadlines.pop();
            let Some(probe) = self.get_mut(number).filter(|probe| probe.due == at) else {
                continue;
            };
            if probe.lost {
                self.take(number);
                continue;
            }
            probe.lost = true;
            probe.due = probe.sent_at + LATEST;
            let lost = probe.clone();
            self.deadlines.push(Reverse((lost.due, number)));
            return Some(lost);
        }
        None
    }

    fn place(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Pending> {
        self.probes.get(self.place(number)?)?.as_ref()
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Pending> {
        let place = self.place(number)?;
        self.probes.get_mut(place)?.as_mut()
    }

    /// Takes an answered probe out.
    pub(crate) fn take(&mut self, number: u64) -> Option<Pending> {
        let place = self.place(number)?;
        let probe = self.probes.get_mut(place)?.take()?;
        self.count -= 1;
        while let Some(None) = self.probes.front() {
            self.probes.pop_front();
            self.first += 1;
        }
        while let Some(None) = self.probes.back() {
            self.probes.pop_back();
        }
        Some(probe)
    }

    /// The number with these low 16 bits that a probe on its way can have.
    pub(crate) fn by_sequence(&self, sequence: u16) -> Option<u64> {
        let newest = self.first + u64::try_from(self.probes.len()).ok()?.checked_sub(1)?;
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
    fn numbers_may_come_in_any_order_and_with_gaps() {
        let mut all = Outstanding::new(10);
        for number in [7, 5, 9] {
            all.insert(number, probe(number, 100));
        }
        assert_eq!(all.count, 3);
        assert!(all.take(6).is_none());
        assert!(
            all.take(5)
                .is_some_and(|p| p.sent_at.as_nanos() == 5_000_000)
        );
        assert_eq!((all.first, all.probes.len()), (7, 3));
        assert_eq!(all.next(), Some(Timestamp::from_millis(107)));
        assert!(all.take(9).is_some() && all.take(7).is_some());
        assert_eq!((all.count, all.probes.len(), all.next()), (0, 0, None));
        all.insert(20, probe(0, 10));
        assert!(all.get(20).is_some() && all.get(5).is_none());
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
