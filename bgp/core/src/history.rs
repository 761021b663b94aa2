//! What routes were before: a bounded ring of changes.

use std::collections::VecDeque;
use std::time::Duration;

use events::{Prefix, Timestamp};

/// What bounds the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Bytes of the ring. Attributes that only the history remembers are beside them.
    pub bytes: usize,
    /// Age of the oldest change.
    pub age: Duration,
}

impl Default for HistoryLimits {
    /// 16 MiB, one hour.
    fn default() -> Self {
        Self {
            bytes: 16 << 20,
            age: Duration::from_hours(1),
        }
    }
}

/// A route that was replaced or withdrawn. A prefix's first announcement needs no entry: the route
/// itself has its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// When.
    pub at: Timestamp,
    /// When the route that is no more was received.
    pub received_at: Timestamp,
    /// Its attributes in the neighbour's arena, which keeps them.
    pub attributes: u32,
    /// Index of the neighbour.
    pub neighbor: u32,
    pub path_id: Option<u32>,
    pub prefix: Prefix,
}

/// Places beyond the bound: what one UPDATE changes is appended before the oldest go.
const BEYOND: usize = 1024;

/// The ring. Entries are numbered from 0 on, and numbers are never used again.
#[derive(Debug)]
pub(crate) struct History {
    limits: HistoryLimits,
    ring: VecDeque<Change>,
    /// The number of the ring's first entry.
    first: u64,
    /// Everything since then is known.
    since: Timestamp,
}

impl Default for History {
    fn default() -> Self {
        Self::new(HistoryLimits::default(), Timestamp::ZERO)
    }
}

impl History {
    /// An empty one that begins now.
    pub const fn new(limits: HistoryLimits, now: Timestamp) -> Self {
        Self {
            limits,
            ring: VecDeque::new(),
            first: 0,
            since: now,
        }
    }

    /// Appends; not before the last one.
    pub fn push(&mut self, change: Change) {
        if self.ring.len() == self.ring.capacity() {
            // Doubled, but for the last time: the ring itself is to keep to its bound.
            let left = self.most().saturating_sub(self.ring.len());
            let more = self.ring.len().max(64).min(left.max(BEYOND));
            self.ring.reserve_exact(more);
        }
        self.ring.push_back(change);
    }

    /// How many entries are kept.
    const fn most(&self) -> usize {
        self.limits.bytes / size_of::<Change>()
    }

    /// The oldest entry, if it is to go: its attributes are to be forgotten.
    pub fn expired(&mut self, now: Timestamp) -> Option<Change> {
        let oldest = self.ring.front()?;
        if self.ring.len() <= self.most() && now.since(oldest.at) <= self.limits.age {
            return None;
        }
        let gone = self.ring.pop_front()?;
        self.first += 1;
        self.since = gone.at;
        Some(gone)
    }

    /// A neighbour is no more, and its number may be another's soon.
    pub fn disown(&mut self, neighbor: u32) {
        let its = self.ring.iter_mut().filter(|c| c.neighbor == neighbor);
        its.for_each(|change| change.neighbor = u32::MAX);
    }

    /// What a table looked like is known from here on.
    pub const fn since(&self) -> Timestamp {
        self.since
    }

    /// The number of the first entry after `at`.
    pub fn after(&self, at: Timestamp) -> u64 {
        self.first + count(self.ring.partition_point(|change| change.at <= at))
    }

    /// Entries from a number on; `None` where some of them are gone.
    pub fn from(&self, number: u64) -> Option<impl Iterator<Item = &Change>> {
        let skip = usize::try_from(number.checked_sub(self.first)?).ok()?;
        Some(self.ring.range(skip.min(self.ring.len())..))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Bytes of memory that the ring takes.
    pub fn mem_size(&self) -> usize {
        self.ring.capacity() * size_of::<Change>()
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(seconds: u64) -> Change {
        Change {
            at: at(seconds),
            received_at: at(0),
            attributes: 0,
            neighbor: 0,
            path_id: None,
            prefix: "10.0.0.0/8".parse().unwrap(),
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn the_ring_is_bounded_by_bytes_and_age_and_knows_where_it_begins() {
        let limits = HistoryLimits {
            bytes: 3 * size_of::<Change>(),
            age: Duration::from_secs(10),
        };
        let mut history = History::new(limits, at(0));
        for seconds in 1..=3 {
            history.push(change(seconds));
            assert_eq!(history.expired(at(seconds)), None);
        }
        assert_eq!(history.since(), at(0));
        history.push(change(4));
        assert_eq!(history.expired(at(4)), Some(change(1)));
        assert_eq!(history.expired(at(4)), None);
        assert_eq!(history.since(), at(1));
        let times = |number| {
            let changes = history.from(number)?;
            Some(changes.map(|change| change.at).collect::<Vec<_>>())
        };
        assert_eq!(times(0), None, "that one is gone");
        assert_eq!(times(history.after(at(2))).unwrap(), [at(3), at(4)]);
        assert!(times(history.after(at(4))).unwrap().is_empty());
        assert_eq!(history.expired(at(13)), Some(change(2)));
        assert_eq!(history.expired(at(13)), None);
        assert_eq!(history.len(), 2);
    }

    #[test]
    fn what_it_takes_keeps_to_the_bound() {
        let limits = HistoryLimits {
            bytes: 1 << 20,
            age: Duration::from_hours(1),
        };
        let mut history = History::new(limits, at(0));
        for _ in 0..100_000 {
            history.push(change(1));
            while history.expired(at(1)).is_some() {}
        }
        assert!(history.mem_size() <= limits.bytes + BEYOND * size_of::<Change>());
        assert!(history.mem_size() > limits.bytes / 10 * 9);
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Change>() <= 56, "{}", size_of::<Change>());
    }
}
