//! Threads of watched processes: what they wait for, read from the programs' table.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use aya::maps::{HashMap, MapData, MapError, Stack};
use ebpf_abi::{Doing, THREAD_BUCKETS, Taker, Thread, WaitRecord, thread_midpoint};
use events::Timestamp;
use serde::{Deserialize, Serialize};

use crate::mapped::Mapped;
use crate::percentiles::{Percentiles, Registry, Series};

/// Long waits kept until somebody asks for them.
const WAITS: usize = 256;

/// Who took a CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preemptor {
    /// Process id; 0: the idle task, which runs instead of a thread whose cgroup has used up its
    /// CPU quota.
    pub pid: u32,
    /// Thread id of the last one.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// How often a thread of that process took the CPU; at most so often where more than four
    /// processes do.
    pub count: u64,
    /// The longest wait that followed.
    pub longest: Duration,
}

/// A thread of a watched process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchedThread {
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// The thread's name.
    pub comm: String,
    /// Times that the CPU was taken from it (the kernel's `nonvoluntary_ctxt_switches`).
    pub preempted: u64,
    /// Times that it gave the CPU away (`voluntary_ctxt_switches`).
    pub voluntary: u64,
    /// Time that it waited for a CPU, in all (the second number of its `schedstat`).
    pub waited: Duration,
    /// Time that it slept.
    pub slept: Duration,
    /// Time that it slept where no signal wakes it: for a disk or a lock in the kernel.
    pub blocked: Duration,
    /// How long it waits for a CPU right now, if it does.
    pub waiting: Option<Duration>,
    /// Its waits for a CPU since it is watched, within 1/16.
    pub run_queue: Percentiles,
    /// Its sleeps of both kinds, within 1/16.
    pub off_cpu: Percentiles,
    /// Who took the CPU last; `longest` is the wait that followed.
    pub last_preemptor: Option<Preemptor>,
    /// Who takes it most often, the most frequent first; four at most.
    pub preemptors: Vec<Preemptor>,
}

/// One wait for a CPU beyond [`Settings::long_wait`](crate::Settings::long_wait).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongWait {
    /// When the thread got a CPU again.
    pub at: Timestamp,
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// The thread's name.
    pub comm: String,
    /// How long it waited.
    pub waited: Duration,
    /// The CPU was taken from it; otherwise it had slept and was woken.
    pub preempted: bool,
    /// Process id of who had the CPU: who took it, else who ran on it last.
    pub by_pid: u32,
    /// Its thread id.
    pub by_tid: u32,
    /// Its name.
    pub by_comm: String,
}

/// The programs' table, mapped.
pub struct Threads {
    entries: Mapped<Thread>,
}

impl Threads {
    /// Maps a table of so many entries.
    pub fn map(map: MapData, count: u32) -> io::Result<Self> {
        let entries = Mapped::map(map, count)?;
        Ok(Self { entries })
    }

    fn tid(&self, index: u32) -> u32 {
        self.entries.get(index).map_or(0, |place| {
            // SAFETY: within the mapping.
            unsafe { (&raw const (*place.as_ptr()).tid).read_volatile() }
        })
    }

    /// A copy of an entry that is in use. The kernel may write meanwhile: every word stands for
    /// itself.
    fn read(&self, index: u32) -> Option<Box<Thread>> {
        let place = self.entries.get(index)?;
        let tid = self.tid(index);
        if tid == 0 {
            return None;
        }
        // SAFETY: within the mapping; an entry is plain numbers, so any bytes are a valid one.
        let copy = Box::new(unsafe { place.read_volatile() });
        fence(Ordering::Acquire);
        (copy.tid == tid && self.tid(index) == tid).then_some(copy)
    }

    fn mark_ended(&self, index: u32) {
        if let Some(place) = self.entries.get(index) {
            // SAFETY: within the mapping.
            unsafe { (&raw mut (*place.as_ptr()).ended).write_volatile(1) };
        }
    }

    fn clear(&self, index: u32) {
        if let Some(place) = self.entries.get(index) {
            // SAFETY: within the mapping, and no thread id leads the programs here any more.
            unsafe { place.as_ptr().write_bytes(0, 1) };
            fence(Ordering::Release);
        }
    }

    /// All threads that live.
    pub fn list(&self) -> Vec<WatchedThread> {
        let now = clock::now();
        (0..self.entries.len())
            .filter_map(|index| self.read(index))
            .filter(|thread| thread.ended == 0)
            .map(|thread| snapshot(&thread, now))
            .collect()
    }
}

/// What the collector's thread keeps of the threads.
pub struct Keeper {
    tids: HashMap<MapData, u32, u32>,
    free: Stack<MapData, u32>,
    accounted: BTreeMap<u32, Accounted>,
}

/// What of an entry is in the percentiles already.
struct Accounted {
    tid: u32,
    switches: u64,
    waits: u64,
    run_queue: Box<[u32; THREAD_BUCKETS]>,
    off_cpu: Box<[u32; THREAD_BUCKETS]>,
}

impl Keeper {
    /// Gives all entries to the programs.
    pub fn new(
        tids: HashMap<MapData, u32, u32>,
        mut free: Stack<MapData, u32>,
        count: u32,
    ) -> Result<Self, MapError> {
        for index in (0..count).rev() {
            free.push(index, 0)?;
        }
        Ok(Self {
            tids,
            free,
            accounted: BTreeMap::new(),
        })
    }

    /// Adds what is new to the percentiles, and empties the entries of threads that ended.
    pub fn account(&mut self, threads: &Threads, registry: &mut Registry) {
        for index in 0..threads.entries.len() {
            let tid = threads.tid(index);
            if tid == 0 {
                continue;
            }
            let Some(thread) = threads.read(index) else {
                continue;
            };
            let accounted = self
                .accounted
                .entry(index)
                .or_insert_with(|| Accounted::none(tid));
            accounted.add(&thread, registry);
            if thread.ended != 0 {
                self.accounted.remove(&index);
                threads.clear(index);
                if let Err(error) = self.free.push(index, 0) {
                    tracing::warn!(%error, "an entry of the table of threads is lost");
                }
            }
        }
    }

    /// Ends the entries of threads whose process is not watched any more; if `thorough`, also of
    /// those that do not exist.
    pub fn reconcile(&mut self, threads: &Threads, watched: &BTreeSet<u32>, thorough: bool) {
        let tids: Vec<(u32, u32)> = self.tids.iter().flatten().collect();
        for (tid, index) in tids {
            let Some(thread) = threads.read(index).filter(|thread| thread.tid == tid) else {
                continue;
            };
            let gone = !watched.contains(&thread.tgid)
                || (thorough && !Path::new(&format!("/proc/{}/task/{tid}", thread.tgid)).exists());
            if gone && self.tids.remove(&tid).is_ok() {
                // Emptied a second from now: by then no program is still at it.
                threads.mark_ended(index);
            }
        }
    }
}

impl Accounted {
    fn none(tid: u32) -> Self {
        Self {
            tid,
            switches: 0,
            waits: 0,
            run_queue: Box::new([0; THREAD_BUCKETS]),
            off_cpu: Box::new([0; THREAD_BUCKETS]),
        }
    }

    fn add(&mut self, thread: &Thread, registry: &mut Registry) {
        if self.tid != thread.tid {
            *self = Self::none(thread.tid);
        }
        let switches = thread.voluntary + thread.preempted;
        if thread.ended == 0 && (self.switches, self.waits) == (switches, thread.waits) {
            return;
        }
        (self.switches, self.waits) = (switches, thread.waits);
        let name = text(&thread.comm);
        let pairs = [
            (
                &mut self.run_queue,
                &thread.run_queue,
                Series::RunQueue {
                    thread: name.clone(),
                },
            ),
            (
                &mut self.off_cpu,
                &thread.off_cpu,
                Series::OffCpu { thread: name },
            ),
        ];
        for (before, now, series) in pairs {
            for (bucket, (before, now)) in (0u32..).zip(before.iter_mut().zip(now)) {
                let count = now.wrapping_sub(*before);
                if count != 0 {
                    *before = *now;
                    registry.record(series.clone(), thread_midpoint(bucket), count.into());
                }
            }
        }
    }
}

/// Long waits that nobody has asked for yet: the newest, a few hundred at most.
#[derive(Debug, Default)]
pub struct LongWaits(VecDeque<LongWait>);

impl LongWaits {
    /// Keeps one. Returns how many gave way.
    pub fn push(&mut self, wait: LongWait) -> u64 {
        let full = self.0.len() >= WAITS;
        if full {
            self.0.pop_front();
        }
        self.0.push_back(wait);
        u64::from(full)
    }

    /// Takes all, the oldest first.
    pub fn take(&mut self) -> Vec<LongWait> {
        self.0.drain(..).collect()
    }
}

/// A record of a long wait; `None` where it is another.
pub fn parse(bytes: &[u8]) -> Option<LongWait> {
    if bytes.len() < size_of::<WaitRecord>()
        || bytes.get(ebpf_abi::KIND_OFFSET) != Some(&WaitRecord::KIND)
    {
        return None;
    }
    // SAFETY: long enough, and a record is plain numbers, so any bytes are a valid one.
    let record = unsafe { bytes.as_ptr().cast::<WaitRecord>().read_unaligned() };
    Some(LongWait {
        at: Timestamp::from_nanos(record.at),
        pid: record.tgid,
        tid: record.tid,
        comm: text(&record.comm),
        waited: Duration::from_nanos(record.waited),
        preempted: record.doing == Doing::Preempted as u8,
        by_pid: record.by_tgid,
        by_tid: record.by_tid,
        by_comm: text(&record.by_comm),
    })
}

fn snapshot(thread: &Thread, now: Timestamp) -> WatchedThread {
    let waits = thread.doing == Doing::Preempted as u8 || thread.doing == Doing::Woken as u8;
    let mut preemptors: Vec<_> = thread
        .takers
        .iter()
        .filter(|taker| taker.count > 0)
        .map(preemptor)
        .collect();
    preemptors.sort_by_key(|taker| std::cmp::Reverse(taker.count));
    WatchedThread {
        pid: thread.tgid,
        tid: thread.tid,
        comm: text(&thread.comm),
        preempted: thread.preempted,
        voluntary: thread.voluntary,
        waited: Duration::from_nanos(thread.waited),
        slept: Duration::from_nanos(thread.slept),
        blocked: Duration::from_nanos(thread.blocked),
        waiting: waits.then(|| now.since(Timestamp::from_nanos(thread.since))),
        run_queue: percentiles(&thread.run_queue, Some(thread.longest), thread.waited),
        off_cpu: percentiles(&thread.off_cpu, None, thread.slept + thread.blocked),
        last_preemptor: (thread.last.count > 0).then(|| preemptor(&thread.last)),
        preemptors,
    }
}

fn preemptor(taker: &Taker) -> Preemptor {
    Preemptor {
        pid: taker.tgid,
        tid: taker.tid,
        comm: text(&taker.comm),
        count: taker.count,
        longest: Duration::from_nanos(taker.longest),
    }
}

/// Percentiles of a thread's histogram; the greatest is the last bucket's middle where it is not
/// known better.
fn percentiles(counts: &[u32; THREAD_BUCKETS], longest: Option<u64>, sum: u64) -> Percentiles {
    let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    let greatest = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
    let max = longest.unwrap_or_else(|| thread_midpoint(greatest as u32));
    let at = |thousandths: u64| {
        // The value that so many are at most, rounded up (nearest rank).
        let rank = (total * thousandths).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in (0u32..).zip(counts) {
            seen += u64::from(*count);
            if seen >= rank {
                return Duration::from_nanos(thread_midpoint(bucket).min(max));
            }
        }
        Duration::ZERO
    };
    Percentiles {
        count: total,
        p50: at(500),
        p90: at(900),
        p99: at(990),
        p999: at(999),
        max: if total == 0 {
            Duration::ZERO
        } else {
            Duration::from_nanos(max)
        },
        total,
        sum: Duration::from_nanos(sum),
    }
}

/// The kernel's name of a task.
fn text(comm: &[u8; 16]) -> String {
    let end = comm
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(comm.len());
    String::from_utf8_lossy(comm.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use ebpf_abi::thread_bucket;

    use super::*;

    #[test]
    fn percentiles_come_from_the_buckets() {
        let mut counts = [0; THREAD_BUCKETS];
        for (nanos, count) in [(10_000u64, 900), (1_000_000, 90), (50_000_000, 10)] {
            counts[thread_bucket(nanos) as usize] += count;
        }
        let found = percentiles(&counts, Some(51_000_000), 0);
        let near = |time: Duration, nanos: u64| {
            let time = u64::try_from(time.as_nanos()).unwrap();
            assert!(time.abs_diff(nanos) * 16 <= nanos, "{time} for {nanos}");
        };
        assert_eq!(found.count, 1000);
        near(found.p50, 10_000);
        near(found.p90, 10_000);
        near(found.p99, 1_000_000);
        near(found.p999, 50_000_000);
        assert_eq!(found.max, Duration::from_millis(51));
        assert_eq!(
            percentiles(&[0; THREAD_BUCKETS], Some(0), 0),
            Percentiles::default()
        );
    }

    #[test]
    fn the_oldest_long_wait_gives_way() {
        let wait = |tid| LongWait {
            at: Timestamp::ZERO,
            pid: 1,
            tid,
            comm: String::new(),
            waited: Duration::ZERO,
            preempted: true,
            by_pid: 0,
            by_tid: 0,
            by_comm: String::new(),
        };
        let mut waits = LongWaits::default();
        let lost: u64 = (0..WAITS as u32 + 3).map(|tid| waits.push(wait(tid))).sum();
        assert_eq!(lost, 3);
        let taken = waits.take();
        assert_eq!(taken.len(), WAITS);
        assert_eq!(taken[0].tid, 3);
        assert!(waits.take().is_empty());
    }
}
