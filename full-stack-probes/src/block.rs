//! Disks: which are watched, and what their requests took.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::time::Duration;

use aya::maps::{HashMap, MapData};
use ebpf_abi::{
    BUCKETS, BlockRecord, DISKS, Disk, KIND_BLOCK, OPERATIONS, Requests, device, midpoint,
};
use events::{BlockOperation, BlockRequest, Timestamp};
use serde::Serialize;

use crate::convert;
use crate::mapped::Mapped;
use crate::percentiles::{Registry, Series};

const ORDER: [BlockOperation; OPERATIONS] = [
    BlockOperation::Read,
    BlockOperation::Write,
    BlockOperation::Flush,
    BlockOperation::Discard,
    BlockOperation::Other,
];

/// What was counted of one disk and operation since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskCounters {
    /// The disk, such as `nvme0n1`.
    pub device: String,
    /// What its requests do.
    pub operation: BlockOperation,
    /// Requests completed.
    pub completed: u64,
    /// Those with an error among them.
    pub errors: u64,
    /// Bytes completed.
    pub bytes: u64,
}

struct Known {
    name: String,
    index: u32,
    before: Box<Disk>,
}

/// The disks that programs watch.
pub struct Disks {
    index: HashMap<MapData, u32, u32>,
    table: Mapped<Disk>,
    /// Only these; empty: all.
    only: BTreeSet<String>,
    known: BTreeMap<u32, Known>,
    /// How often a disk found no place.
    pub overflow: u64,
}

impl Disks {
    /// Takes the programs' maps. Nothing is watched before the first [`Disks::scan`].
    pub fn new(
        index: HashMap<MapData, u32, u32>,
        table: MapData,
        only: &[String],
    ) -> io::Result<Self> {
        Ok(Self {
            index,
            table: Mapped::map(table, DISKS)?,
            only: only.iter().cloned().collect(),
            known: BTreeMap::new(),
            overflow: 0,
        })
    }

    /// Finds disks that came since. One that was removed keeps its place: its numbers may come back.
    pub fn scan(&mut self) -> io::Result<()> {
        for entry in fs::read_dir("/sys/block")?.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !self.only.is_empty() && !self.only.contains(&name) {
                continue;
            }
            let Some(number) = fs::read_to_string(entry.path().join("dev"))
                .ok()
                .and_then(|text| number(&text))
            else {
                continue;
            };
            if let Some(known) = self.known.get_mut(&number) {
                known.name = name;
                continue;
            }
            let index = self.known.len() as u32;
            let Some(before) = self.table.read(index) else {
                self.overflow += 1;
                continue;
            };
            self.index
                .insert(number, index, 0)
                .map_err(io::Error::other)?;
            let known = Known {
                name,
                index,
                before: Box::new(before),
            };
            self.known.insert(number, known);
        }
        Ok(())
    }

    /// What a record tells.
    pub fn request(&self, record: &BlockRecord) -> BlockRequest {
        BlockRequest {
            at: Timestamp::from_nanos(record.at),
            device: self.name(record.device),
            operation: ORDER
                .get(usize::from(record.operation))
                .copied()
                .unwrap_or(BlockOperation::Other),
            bytes: record.bytes,
            queue: (record.queue != u64::MAX).then(|| Duration::from_nanos(record.queue)),
            service: Duration::from_nanos(record.service),
            error: errno(record.error),
        }
    }

    /// The name of a disk by its number.
    fn name(&self, device: u32) -> String {
        self.known.get(&device).map_or_else(
            || format!("{}:{}", device >> 20, device & 0xf_ffff),
            |known| known.name.clone(),
        )
    }

    /// Records what completed since the last call.
    pub fn collect(&mut self, registry: &mut Registry) {
        for known in self.known.values_mut() {
            let Some(now) = self.table.get(known.index) else {
                continue;
            };
            for (place, operation) in ORDER.into_iter().enumerate() {
                // SAFETY: within the mapping; the words are read one by one, volatile.
                let requests = unsafe { &raw const (*now.as_ptr()).operations[place] };
                // SAFETY: as above.
                let completed = unsafe { (&raw const (*requests).completed).read_volatile() };
                if completed == known.before.operations[place].completed {
                    continue;
                }
                // SAFETY: as above; any bytes are valid numbers.
                let requests: Requests = unsafe { requests.read_volatile() };
                let before = &mut known.before.operations[place];
                let device = &known.name;
                tell(&before.queue, &requests.queue, |nanos, count| {
                    let device = device.clone();
                    registry.record(Series::BlockQueue { device, operation }, nanos, count);
                });
                tell(&before.service, &requests.service, |nanos, count| {
                    let device = device.clone();
                    registry.record(Series::BlockService { device, operation }, nanos, count);
                });
                *before = requests;
            }
        }
    }

    /// Everything counted since the start, of disks that had requests.
    pub fn counters(&self) -> Vec<DiskCounters> {
        self.known
            .values()
            .flat_map(|known| {
                ORDER
                    .into_iter()
                    .zip(&known.before.operations)
                    .filter(|(_, requests)| requests.completed > 0)
                    .map(|(operation, requests)| DiskCounters {
                        device: known.name.clone(),
                        operation,
                        completed: requests.completed,
                        errors: requests.errors,
                        bytes: requests.bytes,
                    })
            })
            .collect()
    }
}

// SAFETY: plain numbers.
unsafe impl convert::Record for BlockRecord {}

/// A ring's record of a request; `None` for other kinds.
pub fn parse(kind: u8, bytes: &[u8]) -> Option<Option<BlockRecord>> {
    (kind == KIND_BLOCK).then(|| convert::parse(bytes))
}

/// The errno of a request's status: kernels before 5.16 pass it, negative, later ones pass a
/// `blk_status_t` (`block/blk-core.c`, `blk_errors`).
const fn errno(status: i32) -> Option<i32> {
    Some(match status {
        0 => return None,
        errno if errno < 0 => -errno,
        1 => libc::EOPNOTSUPP,
        2 => libc::ETIMEDOUT,
        3 => libc::ENOSPC,
        4 => libc::ENOLINK,
        5 => libc::EREMOTEIO,
        6 => libc::EBADE,
        7 => libc::ENODATA,
        8 => libc::EILSEQ,
        9 => libc::ENOMEM,
        11 => libc::EREMCHG,
        12 => libc::EAGAIN,
        13 => libc::EBUSY,
        _ => libc::EIO,
    })
}

/// The difference of two readings of a histogram, bucket by bucket. Counters may wrap.
fn tell(before: &[u32; BUCKETS], after: &[u32; BUCKETS], mut record: impl FnMut(u64, u64)) {
    for (bucket, (before, after)) in before.iter().zip(after).enumerate() {
        let count = after.wrapping_sub(*before);
        if count > 0 {
            record(midpoint(bucket as u32), u64::from(count));
        }
    }
}

/// A disk's number from `/sys/block/*/dev`: `MAJOR:MINOR`.
fn number(text: &str) -> Option<u32> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(device(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_the_kernel_has_them() {
        assert_eq!(number("8:16\n"), Some((8 << 20) | 16));
        assert_eq!(number("259:0"), Some(259 << 20));
        assert_eq!(number("x:1"), None);
        assert_eq!(number(""), None);
    }

    #[test]
    fn statuses_of_old_and_new_kernels_are_errnos() {
        assert_eq!(errno(0), None);
        assert_eq!(errno(-libc::EIO), Some(libc::EIO));
        assert_eq!(errno(10), Some(libc::EIO));
        assert_eq!(errno(3), Some(libc::ENOSPC));
    }

    #[test]
    fn differences_survive_a_wrap() {
        let mut before = [0; BUCKETS];
        let mut after = [0; BUCKETS];
        before[3] = u32::MAX;
        after[3] = 4;
        after[20] = 7;
        let mut told = Vec::new();
        tell(&before, &after, |nanos, count| told.push((nanos, count)));
        assert_eq!(told, [(midpoint(3), 5), (midpoint(20), 7)]);
    }
}
