//! Watched processes and their threads: what the collector's thread and its handle share.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError, Stack};
use ebpf_abi::{ExecRecord, KIND_OFFSET, THREADS};

use crate::cgroup::Hierarchy;
use crate::kernel::{StartError, array, map_error, map_fd, take};
use crate::percentiles::Registry;
use crate::sched::{self, Keeper, LongWait, LongWaits, Threads, WatchedThread};
use crate::watch::{Maps, WatchedProcess, Watcher};
use crate::{ProbeReport, Settings};

/// Maps that are as small as can be while no process is declared.
pub const MAPS: [&str; 6] = ["WATCHED", "NAMES", "CGROUPS", "THREADS", "TIDS", "FREE"];

/// Reconciliations are so many accounts apart.
const RECONCILE: u32 = 5;

/// The watched set and the threads.
pub struct Processes {
    watcher: Mutex<Watcher>,
    threads: Threads,
    waits: Mutex<LongWaits>,
}

/// The part that the collector's thread has for itself.
pub struct Account {
    keeper: Keeper,
    accounts: u32,
}

/// A record about processes.
#[derive(Debug, PartialEq, Eq)]
pub enum Note {
    /// A watched thread waited for long.
    Waited(LongWait),
    /// A process executes what may be a watched file.
    Executed {
        /// Its id.
        pid: u32,
    },
}

/// A ring's record, if it is about processes.
pub fn parse(bytes: &[u8]) -> Option<Note> {
    if bytes.len() == size_of::<ExecRecord>() && bytes.get(KIND_OFFSET) == Some(&ExecRecord::KIND) {
        // SAFETY: long enough, and a record is plain numbers, so any bytes are a valid one.
        let record = unsafe { bytes.as_ptr().cast::<ExecRecord>().read_unaligned() };
        return Some(Note::Executed { pid: record.tgid });
    }
    sched::parse(bytes).map(Note::Waited)
}

impl Processes {
    /// Takes over the maps; before the programs are attached.
    pub fn new(
        settings: &Settings,
        hierarchy: Option<Hierarchy>,
        ebpf: &mut Ebpf,
    ) -> Result<(Self, Account, Vec<i32>), StartError> {
        let mut fds = Vec::new();
        let watched = hash(ebpf, "WATCHED", &mut fds)?;
        let names = hash(ebpf, "NAMES", &mut fds)?;
        let cgroups = hash(ebpf, "CGROUPS", &mut fds)?;
        let tids = hash(ebpf, "TIDS", &mut fds)?;
        let free = take(ebpf, "FREE")?;
        fds.extend(map_fd(&free));
        let free: Stack<MapData, u32> =
            Stack::try_from(free).map_err(|error| map_error("FREE", error))?;
        let threads = array(ebpf, "THREADS", &mut fds)?;
        let threads = Threads::map(threads, THREADS).map_err(|error| StartError::Map {
            name: "THREADS",
            reason: error.to_string(),
        })?;
        let keeper = Keeper::new(tids, free, THREADS).map_err(|error| map_error("FREE", error))?;
        let maps = Maps {
            watched,
            names,
            cgroups,
        };
        let processes = Self {
            watcher: Mutex::new(Watcher::new(&settings.watch, hierarchy, maps)),
            threads,
            waits: Mutex::default(),
        };
        let account = Account {
            keeper,
            accounts: 0,
        };
        Ok((processes, account, fds))
    }

    /// Finds what is there; after the programs were attached.
    pub fn scan(&self, settings: &Settings, reports: &[ProbeReport]) {
        let has_cgroups = !(settings.watch.units.is_empty() && settings.watch.cgroups.is_empty());
        let is_hooked = reports
            .iter()
            .filter(|report| report.name.starts_with("watch_"))
            .all(|report| report.hook.is_some() || (report.name == "watch_cgroup" && !has_cgroups));
        if !in_first_namespace() {
            tracing::warn!(
                "process ids here are not the kernel's own, so watched processes are not told \
                 apart; run netwatch in the host's PID namespace (containers: --pid=host)"
            );
        }
        let mut watcher = self.watcher();
        watcher.set_hooked(is_hooked);
        watcher.scan();
    }

    /// Deals with a record. Returns how many older ones gave way.
    pub fn note(&self, note: Note) -> u64 {
        match note {
            Note::Waited(wait) => self.waits().push(wait),
            Note::Executed { pid } => {
                self.watcher().settle(pid);
                0
            }
        }
    }

    /// Once a second: the percentiles, and now and then a reconciliation.
    pub fn account(&self, account: &mut Account, mut registry: MutexGuard<'_, Registry>) {
        account.keeper.account(&self.threads, &mut registry);
        drop(registry);
        account.accounts = account.accounts.wrapping_add(1);
        if account.accounts.is_multiple_of(RECONCILE) {
            let mut watcher = self.watcher();
            let thorough = watcher.reconcile();
            let watched = watcher.pids();
            drop(watcher);
            account.keeper.reconcile(&self.threads, &watched, thorough);
        }
    }

    /// The watched processes.
    pub fn watched(&self) -> Vec<WatchedProcess> {
        self.watcher().list()
    }

    /// Their ids.
    pub fn pids(&self) -> BTreeSet<u32> {
        self.watcher().pids()
    }

    /// Their threads.
    pub fn threads(&self) -> Vec<WatchedThread> {
        self.threads.list()
    }

    /// Long waits since the last call.
    pub fn take_waits(&self) -> Vec<LongWait> {
        self.waits().take()
    }

    fn watcher(&self) -> MutexGuard<'_, Watcher> {
        // What a panic left half done is done again by the next reconciliation.
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waits(&self) -> MutexGuard<'_, LongWaits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this process sees process ids as the programs do.
fn in_first_namespace() -> bool {
    /// `PROC_PID_INIT_INO` of `include/linux/proc_ns.h`.
    const FIRST: u64 = 0xEFFF_FFFC;
    fs::metadata("/proc/self/ns/pid").is_ok_and(|data| data.ino() == FIRST)
}

fn hash<K: aya::Pod, V: aya::Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
    fds: &mut Vec<i32>,
) -> Result<HashMap<MapData, K, V>, StartError> {
    let map = take(ebpf, name)?;
    fds.extend(map_fd(&map));
    HashMap::try_from(map).map_err(|error: MapError| map_error(name, error))
}

#[cfg(test)]
mod tests {
    use ebpf_abi::{Event, WaitRecord};

    use super::*;

    #[test]
    fn records_are_told_apart_by_kind_and_size() {
        let mut exec = [0u8; size_of::<ExecRecord>()];
        exec[KIND_OFFSET] = ExecRecord::KIND;
        exec[12..16].copy_from_slice(&7u32.to_ne_bytes());
        assert_eq!(parse(&exec), Some(Note::Executed { pid: 7 }));
        let mut wait = [0u8; size_of::<WaitRecord>()];
        wait[KIND_OFFSET] = WaitRecord::KIND;
        assert!(matches!(parse(&wait), Some(Note::Waited(_))));
        assert_eq!(parse(&wait[..size_of::<WaitRecord>() - 1]), None);
        assert_eq!(parse(&[0; size_of::<Event>()]), None);
        assert_eq!(parse(&[]), None);
    }
}
