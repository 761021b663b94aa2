//! The newest minute in memory: frames, as they will be in a file.

use std::collections::VecDeque;
use std::time::Duration;

use events::Timestamp;

use crate::chunk::ChunkHead;

/// An incident is suspected at most so long after its onset, as a rule.
const SLACK: Duration = Duration::from_secs(15);

/// A checkpoint and what followed it, without a gap.
#[derive(Debug)]
struct Segment {
    at: Timestamp,
    frames: Vec<Vec<u8>>,
    bytes: usize,
}

/// Segments that follow each other without a gap, bounded in bytes.
#[derive(Debug)]
pub struct Ring {
    before: Duration,
    limit: usize,
    segments: VecDeque<Segment>,
    bytes: usize,
    /// The number of the newest input; `None`: a checkpoint is needed first.
    newest: Option<u64>,
}

impl Ring {
    /// Keeps what happened in the last `before`, in at most `limit` bytes.
    #[must_use]
    pub const fn new(before: Duration, limit: usize) -> Self {
        Self {
            before,
            limit,
            segments: VecDeque::new(),
            bytes: 0,
            newest: None,
        }
    }

    /// Begins a segment with a checkpoint, taken after the input `sequence`.
    pub fn checkpoint(&mut self, sequence: u64, at: Timestamp, frame: Vec<u8>) {
        if self.newest.is_some_and(|newest| newest != sequence) {
            self.clear();
        }
        self.newest = Some(sequence);
        self.bytes += frame.len();
        self.segments.push_back(Segment {
            at,
            bytes: frame.len(),
            frames: vec![frame],
        });
        self.trim(at);
    }

    /// Adds a chunk. Where it does not follow, everything before it is of no use any more.
    pub fn chunk(&mut self, head: &ChunkHead, frame: Vec<u8>) {
        if self.newest.map(|newest| newest + 1) != Some(head.first) {
            self.clear();
            return;
        }
        let Some(segment) = self.segments.back_mut() else {
            return;
        };
        segment.bytes += frame.len();
        self.bytes += frame.len();
        segment.frames.push(frame);
        self.newest = Some(head.first + head.inputs - 1);
        self.trim(head.until);
    }

    /// A checkpoint would help: there is none, or much has followed it.
    #[must_use]
    pub fn wants_checkpoint(&self) -> bool {
        self.segments
            .back()
            .is_none_or(|segment| segment.bytes > self.limit / 4)
    }

    /// Memory in use.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How far it reaches back.
    #[must_use]
    pub fn since(&self) -> Option<Timestamp> {
        self.segments.front().map(|segment| segment.at)
    }

    /// The frames from the last checkpoint at or before that time on, else all.
    pub fn frames(&self, from: Timestamp) -> impl Iterator<Item = &[u8]> {
        let later = self.segments.partition_point(|segment| segment.at <= from);
        self.segments
            .iter()
            .skip(later.saturating_sub(1))
            .flat_map(|segment| segment.frames.iter().map(Vec::as_slice))
    }

    fn trim(&mut self, now: Timestamp) {
        let old = now - (self.before + SLACK);
        let dispensable =
            |segments: &VecDeque<Segment>| segments.get(1).is_some_and(|s| s.at <= old);
        while dispensable(&self.segments) || self.bytes > self.limit {
            let Some(segment) = self.segments.pop_front() else {
                break;
            };
            self.bytes -= segment.bytes;
        }
        if self.segments.is_empty() {
            self.newest = None;
        }
    }

    fn clear(&mut self) {
        self.segments.clear();
        self.bytes = 0;
        self.newest = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    /// A chunk of `bytes` with the one input `number`, at that second.
    fn chunk(ring: &mut Ring, number: u64, bytes: usize) {
        let head = ChunkHead {
            first: number,
            inputs: 1,
            from: at(number - 1),
            until: at(number),
        };
        ring.chunk(&head, vec![0; bytes]);
    }

    /// One input a second from 1 on, a checkpoint every 30.
    fn run(limit: usize, seconds: u64, bytes: usize) -> Ring {
        let mut ring = Ring::new(BEFORE, limit);
        ring.checkpoint(0, at(0), vec![1; bytes]);
        for second in 1..=seconds {
            chunk(&mut ring, second, bytes);
            if second % 30 == 0 {
                ring.checkpoint(second, at(second), vec![1; bytes]);
            }
            assert!(ring.bytes() <= limit, "at {second} s");
            let held: usize = ring.frames(Timestamp::ZERO).map(<[u8]>::len).sum();
            assert_eq!(held, ring.bytes());
        }
        ring
    }

    #[test]
    fn the_time_asked_for_is_kept_and_not_much_more() {
        let ring = run(1 << 20, 500, 100);
        let age = at(500).since(ring.since().unwrap());
        assert!(age >= BEFORE + SLACK && age <= BEFORE + SLACK + Duration::from_secs(30));
        // From a checkpoint at or before the time that is wanted on.
        let frames: Vec<&[u8]> = ring.frames(at(500) - BEFORE).collect();
        assert_eq!(frames[0][0], 1);
        // The checkpoints at 420, 450 and 480 s, and all since 420 s.
        assert_eq!(frames.len(), 80 + 3);
    }

    #[test]
    fn memory_is_bounded_and_what_is_left_is_newest() {
        let ring = run(10_000, 500, 100);
        assert_eq!(ring.since(), Some(at(420)));
        let ring = run(5_000, 500, 100);
        assert_eq!(ring.since(), Some(at(480)));
        assert!(!ring.wants_checkpoint() || ring.bytes() > 1_250);
        // Not even one segment fits: nothing is kept, and a checkpoint is wanted.
        let ring = run(2_000, 500, 1_500);
        assert!(ring.wants_checkpoint());
        assert_eq!(ring.frames(Timestamp::ZERO).count(), 0);
    }

    #[test]
    fn after_a_gap_only_what_follows_the_next_checkpoint_counts() {
        let mut ring = run(1 << 20, 40, 10);
        chunk(&mut ring, 42, 10);
        assert!(ring.wants_checkpoint());
        assert_eq!(ring.frames(Timestamp::ZERO).count(), 0);
        chunk(&mut ring, 43, 10);
        assert_eq!((ring.bytes(), ring.since()), (0, None));
        ring.checkpoint(43, at(43), vec![1; 10]);
        chunk(&mut ring, 44, 10);
        assert_eq!(ring.frames(Timestamp::ZERO).count(), 2);
        // A checkpoint that does not follow is a beginning of its own.
        ring.checkpoint(99, at(99), vec![1; 10]);
        assert_eq!(ring.frames(Timestamp::ZERO).count(), 1);
        assert_eq!(ring.since(), Some(at(99)));
    }
}
