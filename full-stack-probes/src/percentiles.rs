//! Percentiles in real time: histograms (hdrhistogram) over a sliding window, per series.
//!
//! The window of a series is a minute: six slices of ten seconds, for peers three of twenty, because
//! there are many of them. A slice is one histogram; they are merged when somebody asks. Buckets are
//! within 1/16 of their values. No clock: [`Registry::rotate`] is told the time.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use events::{BlockOperation, Timestamp};
use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};

/// What all slices are a multiple of.
const TICK: Duration = Duration::from_secs(10);
/// Ticks that a window spans, the running one included.
const WINDOW: u64 = 6;
/// Longer durations count as this in percentiles (137 s, as in the programs' own histograms); the
/// maximum is exact.
const LONGEST: u64 = 1 << 37;
/// One significant digit: 16 buckets to an octave.
const DIGITS: u8 = 1;
/// Series at most. A thousand peers with all that is measured of each.
const SERIES: usize = 4_096;

/// What is measured, and of whom. Every value is a duration in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "series")]
pub enum Series {
    /// Raw round-trip time of a peer's connections.
    Rtt {
        /// The peer.
        peer: IpAddr,
    },
    /// From SYN to ESTABLISHED, of connections that this host opens.
    Handshake {
        /// The peer.
        peer: IpAddr,
    },
    /// Time spent in `tcp_sendmsg`, per message.
    Send {
        /// The peer.
        peer: IpAddr,
    },
    /// Time spent in `tcp_recvmsg`, per message.
    Receive {
        /// The peer.
        peer: IpAddr,
    },
    /// A block request's time from its insertion to its issue to the driver.
    BlockQueue {
        /// The disk, such as `nvme0n1`.
        device: String,
        /// What it does.
        operation: BlockOperation,
    },
    /// A block request's time from its issue to its completion.
    BlockService {
        /// The disk.
        device: String,
        /// What it does.
        operation: BlockOperation,
    },
    /// Time that a watched thread waited for a CPU while runnable.
    RunQueue {
        /// The thread's name (`comm`).
        thread: String,
    },
    /// Time that a watched thread was off the CPU because it slept or blocked.
    OffCpu {
        /// The thread's name (`comm`).
        thread: String,
    },
    /// From a heartbeat in the kernel to its handler here.
    CollectorDelay,
}

impl Series {
    /// The peer that it is of.
    #[must_use]
    pub const fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Rtt { peer }
            | Self::Handshake { peer }
            | Self::Send { peer }
            | Self::Receive { peer } => Some(*peer),
            _ => None,
        }
    }

    /// Ticks in one slice.
    const fn ticks(&self) -> u64 {
        if self.peer().is_some() { 2 } else { 1 }
    }

    /// Durations below 32 of these are told apart to one of these, in nanoseconds.
    const fn unit(&self) -> u64 {
        match self {
            // The kernel measures it in microseconds.
            Self::Rtt { .. } | Self::Handshake { .. } => 256,
            _ => 32,
        }
    }
}

/// What a window's values are like. At the quantiles: within 1/16 of the exact value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Values in the window.
    pub count: u64,
    /// Half of them are at most this.
    pub p50: Duration,
    /// 90 % are at most this.
    pub p90: Duration,
    /// 99 % are at most this.
    pub p99: Duration,
    /// 99.9 % are at most this.
    pub p999: Duration,
    /// The greatest, exactly.
    pub max: Duration,
    /// Values since the series began: after a minute without any it begins anew.
    pub total: u64,
    /// Their sum.
    pub sum: Duration,
}

/// How the registry itself does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Series held.
    pub series: u64,
    /// Series given up, the least recently used first, because there were too many.
    pub evicted: u64,
    /// Bytes held, without what the allocator adds.
    pub bytes: u64,
}

/// All series, [`Registry::new`]'s limit at most.
#[derive(Debug)]
pub struct Registry {
    series: BTreeMap<Series, Window>,
    limit: usize,
    tick: u64,
    /// Grows with every record: tells which series was used last.
    uses: u64,
    evicted: u64,
}

#[derive(Debug, Default)]
struct Window {
    used: u64,
    total: u64,
    sum: u64,
    slices: VecDeque<Slice>,
}

#[derive(Debug)]
struct Slice {
    /// Ticks since the clock's origin, by the slice's length.
    number: u64,
    count: u64,
    max: u64,
    buckets: Buckets,
}

/// Narrow while no bucket can overflow: most slices hold few values.
#[derive(Debug)]
enum Buckets {
    Narrow(Histogram<u16>),
    Wide(Histogram<u32>),
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(SERIES)
    }
}

impl Registry {
    /// A registry of that many series at most; one at least.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            series: BTreeMap::new(),
            limit: limit.max(1),
            tick: 0,
            uses: 0,
            evicted: 0,
        }
    }

    /// Moves the windows on to `now`. What is recorded from here on belongs to this time. Cheap
    /// while the slice is the same; times that go back are ignored.
    pub fn rotate(&mut self, now: Timestamp) {
        let tick = now.as_nanos() / (TICK.as_secs() * 1_000_000_000);
        if tick <= self.tick {
            return;
        }
        self.tick = tick;
        self.series.retain(|series, window| {
            let (current, kept) = (tick / series.ticks(), WINDOW / series.ticks());
            window.slices.retain(|slice| slice.number + kept > current);
            !window.slices.is_empty()
        });
    }

    /// Records `count` values of `nanos`, at the time of the last [`Registry::rotate`].
    pub fn record(&mut self, series: Series, nanos: u64, count: u64) {
        if count != 0 {
            self.record_all(series, [(nanos, count)]);
        }
    }

    /// Records values in nanoseconds, each with how often it came, as [`Registry::record`] does.
    pub fn record_all(&mut self, series: Series, values: impl IntoIterator<Item = (u64, u64)>) {
        if self.series.len() >= self.limit && !self.series.contains_key(&series) {
            self.evict();
        }
        self.uses += 1;
        let (number, unit) = (self.tick / series.ticks(), series.unit());
        let window = self.series.entry(series).or_default();
        window.used = self.uses;
        for (nanos, count) in values {
            window.record(number, unit, nanos, count);
        }
    }

    /// All series, in order.
    pub fn names(&self) -> impl Iterator<Item = &Series> {
        self.series.keys()
    }

    /// What one series' window holds; `None` without any value.
    #[must_use]
    pub fn of(&self, series: &Series) -> Option<Percentiles> {
        self.series.get(series)?.percentiles(series)
    }

    /// How many series there are, were given up, and what they take.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let bytes = self.series.values().map(Window::bytes).sum();
        Usage {
            series: self.series.len() as u64,
            evicted: self.evicted,
            bytes,
        }
    }

    /// Gives up a sixteenth of the series, the least recently used: to look for one at a time would
    /// cost a host with ever new peers a search for each.
    fn evict(&mut self) {
        let count = (self.limit / 16).max(1).min(self.series.len());
        let mut uses: Vec<u64> = self.series.values().map(|window| window.used).collect();
        if count == 0 {
            return;
        }
        let (_, newest, _) = uses.select_nth_unstable(count - 1);
        let newest = *newest;
        let before = self.series.len();
        self.series.retain(|_, window| window.used > newest);
        self.evicted += (before - self.series.len()) as u64;
    }
}

impl Window {
    fn record(&mut self, number: u64, unit: u64, nanos: u64, count: u64) {
        self.total = self.total.saturating_add(count);
        self.sum = self.sum.saturating_add(nanos.saturating_mul(count));
        match self.slices.back_mut() {
            Some(slice) if slice.number == number => slice.record(nanos, count),
            _ => {
                let Some(mut slice) = Slice::new(number, unit, nanos) else {
                    return;
                };
                slice.record(nanos, count);
                self.slices.push_back(slice);
            }
        }
    }

    fn percentiles(&self, series: &Series) -> Option<Percentiles> {
        let count = self.slices.iter().map(|slice| slice.count).sum();
        let max = self.slices.iter().map(|slice| slice.max).max()?;
        let mut merged = histogram::<u64>(series.unit(), max.min(LONGEST))?;
        for slice in &self.slices {
            match &slice.buckets {
                Buckets::Narrow(buckets) => add(&mut merged, buckets),
                Buckets::Wide(buckets) => add(&mut merged, buckets),
            }
        }
        let at = |quantile: f64| {
            let value = merged.median_equivalent(merged.value_at_quantile(quantile));
            Duration::from_nanos(value.min(max))
        };
        Some(Percentiles {
            count,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_nanos(max),
            total: self.total,
            sum: Duration::from_nanos(self.sum),
        })
    }

    fn bytes(&self) -> u64 {
        let slices = self.slices.capacity() * size_of::<Slice>();
        let buckets = self.slices.iter().map(|slice| match &slice.buckets {
            Buckets::Narrow(buckets) => buckets.distinct_values() * size_of::<u16>(),
            Buckets::Wide(buckets) => buckets.distinct_values() * size_of::<u32>(),
        });
        (size_of::<Series>() + size_of::<Self>() + slices + buckets.sum::<usize>()) as u64
    }
}

impl Slice {
    fn new(number: u64, unit: u64, nanos: u64) -> Option<Self> {
        Some(Self {
            number,
            count: 0,
            max: 0,
            buckets: Buckets::Narrow(histogram(unit, nanos.min(LONGEST))?),
        })
    }

    fn record(&mut self, nanos: u64, count: u64) {
        self.count = self.count.saturating_add(count);
        self.max = self.max.max(nanos);
        let nanos = nanos.min(LONGEST);
        if let Buckets::Narrow(narrow) = &self.buckets
            && self.count > u64::from(u16::MAX)
        {
            let mut wide = Histogram::<u32>::new_from(narrow);
            wide.auto(true);
            add(&mut wide, narrow);
            self.buckets = Buckets::Wide(wide);
        }
        // Growing fails only where memory cannot be addressed; the value then is in `count` alone.
        let _ = match &mut self.buckets {
            Buckets::Narrow(buckets) => {
                buckets.record_n(nanos, u16::try_from(count).unwrap_or(u16::MAX))
            }
            Buckets::Wide(buckets) => {
                buckets.record_n(nanos, u32::try_from(count).unwrap_or(u32::MAX))
            }
        };
    }
}

/// A histogram that holds values up to `highest`, and grows.
fn histogram<T: Counter>(unit: u64, highest: u64) -> Option<Histogram<T>> {
    let mut histogram = Histogram::new_with_bounds(unit, highest.max(2 * unit), DIGITS).ok()?;
    histogram.auto(true);
    Some(histogram)
}

/// Adds the counts of one histogram to those of a wider one with the same buckets.
fn add<T: Counter, U: Counter>(to: &mut Histogram<T>, from: &Histogram<U>) {
    for step in from.iter_recorded() {
        if let Some(count) = T::from_u64(step.count_at_value().as_u64()) {
            let _ = to.record_n(step.value_iterated_to(), count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn rtt(last: u32) -> Series {
        Series::Rtt {
            peer: IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + last)),
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    /// Numbers that look random, the same in every run.
    fn noise(seed: u64) -> impl Iterator<Item = u64> {
        std::iter::successors(Some(seed), |last| {
            Some(
                last.wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407),
            )
        })
        .map(|number| number >> 33)
    }

    fn near(found: Duration, exact: u64, what: &str) {
        let found = u64::try_from(found.as_nanos()).unwrap();
        assert!(
            found.abs_diff(exact) * 16 <= exact,
            "{what}: {found} for {exact}"
        );
    }

    /// Against the exact percentiles of the same samples: uniform, with a long tail, all the same.
    #[test]
    fn percentiles_are_within_a_sixteenth_of_the_exact_ones() {
        let uniform: Vec<u64> = noise(1)
            .take(10_000)
            .map(|n| 10_000 + n % 1_000_000)
            .collect();
        let tailed: Vec<u64> = noise(2)
            .take(10_000)
            .map(|n| 20_000_000 + (1_000_000_000 / (1 + n % 5_000)))
            .collect();
        let same = vec![123_456_789; 3];
        for series in [rtt(1), Series::CollectorDelay] {
            for samples in [&uniform, &tailed, &same] {
                let mut registry = Registry::default();
                registry.rotate(at(100));
                for nanos in samples {
                    registry.record(series.clone(), *nanos, 1);
                }
                let mut sorted = samples.clone();
                sorted.sort_unstable();
                let exact = |quantile: f64| {
                    let rank = (quantile * sorted.len() as f64).ceil() as usize;
                    sorted[rank.max(1) - 1]
                };
                let found = registry.of(&series).unwrap();
                assert_eq!(found.count, samples.len() as u64);
                near(found.p50, exact(0.5), "p50");
                near(found.p90, exact(0.9), "p90");
                near(found.p99, exact(0.99), "p99");
                near(found.p999, exact(0.999), "p99.9");
                assert_eq!(found.max, Duration::from_nanos(sorted[sorted.len() - 1]));
            }
        }
    }

    #[test]
    fn the_window_slides_and_what_was_is_forgotten() {
        let mut registry = Registry::default();
        for series in [rtt(1), Series::CollectorDelay] {
            registry.rotate(at(1_000));
            registry.record(series, 1_000_000, 10);
        }
        registry.rotate(at(1_030));
        for series in [rtt(1), Series::CollectorDelay] {
            registry.record(series, 9_000_000, 1);
        }
        let count = |registry: &Registry, series| registry.of(&series).map(|found| found.count);
        registry.rotate(at(1_039));
        assert_eq!(count(&registry, rtt(1)), Some(11));
        registry.rotate(at(1_055));
        assert_eq!(count(&registry, Series::CollectorDelay), Some(11));
        registry.rotate(at(1_060));
        assert_eq!(count(&registry, Series::CollectorDelay), Some(1));
        assert_eq!(count(&registry, rtt(1)), Some(1));
        near(
            registry.of(&rtt(1)).unwrap().p50,
            9_000_000,
            "the newer one is left",
        );

        // A clock that is read in another order changes nothing.
        registry.rotate(at(1_000));
        assert_eq!(count(&registry, rtt(1)), Some(1));
        registry.rotate(at(2_000));
        assert_eq!(registry.names().count(), 0);
        assert_eq!(registry.usage().series, 0);
        assert_eq!(
            registry.usage().evicted,
            0,
            "nothing was given up, it was over"
        );
    }

    #[test]
    fn too_many_series_cost_those_that_were_used_least_recently() {
        let mut registry = Registry::new(32);
        for peer in 0..32 {
            registry.record(rtt(peer), 5_000, 1);
        }
        // The first is in use still.
        registry.record(rtt(0), 5_000, 1);
        registry.record(rtt(32), 5_000, 1);
        let usage = registry.usage();
        assert_eq!((usage.series, usage.evicted), (31, 2));
        assert!(registry.of(&rtt(0)).is_some());
        assert!(registry.of(&rtt(1)).is_none() && registry.of(&rtt(2)).is_none());
        for peer in 100..10_100 {
            registry.record(rtt(peer), 5_000, 1);
        }
        let usage = registry.usage();
        assert!(usage.series <= 32);
        assert_eq!(usage.series + usage.evicted, 10_033);
        let mut least = Registry::new(0);
        least.record(rtt(1), 1, 1);
        least.record(rtt(2), 1, 1);
        assert_eq!(least.usage().series, 1);
        assert!(least.of(&rtt(2)).is_some());
    }

    #[test]
    fn counts_and_values_beyond_the_buckets_stay_true() {
        let mut registry = Registry::default();
        let series = Series::CollectorDelay;
        registry.record(series.clone(), 1_000, 65_535);
        registry.record(series.clone(), 1_000_000, 65_536);
        let found = registry.of(&series).unwrap();
        assert_eq!(found.count, 131_071);
        near(found.p50, 1_000_000, "one more of these than of the others");
        registry.record(series.clone(), 1_000, 10_000_000_000);
        registry.record(series.clone(), u64::MAX, 1);
        registry.record(series.clone(), 0, 1);
        registry.record(series.clone(), 7, 0);
        let found = registry.of(&series).unwrap();
        assert_eq!(found.count, 10_000_131_073);
        near(found.p999, 1_000, "a saturated bucket is still the fullest");
        assert_eq!(found.max, Duration::from_nanos(u64::MAX));
        let alone = Series::RunQueue {
            thread: "t".to_owned(),
        };
        registry.record(alone.clone(), u64::MAX, 1);
        near(
            registry.of(&alone).unwrap().p50,
            LONGEST,
            "the longest that is told apart",
        );
    }

    #[test]
    fn a_thousand_peers_take_two_megabytes() {
        let mut registry = Registry::default();
        for slice in 0..3 {
            registry.rotate(at(1_000 + slice * 20));
            for peer in 0..1_000 {
                for nanos in noise(u64::from(peer)).take(400) {
                    registry.record(rtt(peer), 100_000 + nanos % 300_000_000, 1);
                }
            }
        }
        let usage = registry.usage();
        assert_eq!(usage.series, 1_000);
        assert!(registry.names().all(|series| {
            registry
                .of(series)
                .is_some_and(|found| found.count == 1_200)
        }));
        assert!(
            (100_000..2_500_000).contains(&usage.bytes),
            "{}",
            usage.bytes
        );
    }
}
