//! The watched set, as user space keeps it: it tells the programs what is declared, finds what was
//! there before them, and corrects what they decide by name alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, MapData, MapError};
use ebpf_abi::{Name, NameKind, name, why};
use serde::{Deserialize, Serialize};

use crate::Watch;
use crate::cgroup::{Hierarchy, is_of_unit, is_within};

/// Rounds of a scan, while each still finds new processes.
const ROUNDS: u32 = 4;
/// Attempts to see a process in the same state before and after its entry is written.
const ATTEMPTS: u32 = 4;
/// One reconciliation in so many looks at every process, the others at new ones.
const THOROUGH: u32 = 12;
const COMM: usize = 15;

/// A reason for which a process is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// Its name (`comm`).
    Name,
    /// Its executable.
    Executable,
    /// The systemd unit that it runs in.
    Unit,
    /// Its cgroup, or one above that.
    Cgroup,
}

/// A process that is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchedProcess {
    /// Process id (thread group id).
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Why it is watched: by itself, or as a child that has not executed anything yet. Never empty.
    pub why: Vec<Selector>,
}

/// The maps that the set lives in.
pub struct Maps {
    /// The set.
    pub watched: HashMap<MapData, u32, u32>,
    /// What is declared.
    pub names: HashMap<MapData, Name, u32>,
    /// Watched cgroups.
    pub cgroups: HashMap<MapData, u64, u32>,
}

/// Keeps the set.
pub struct Watcher {
    declared: Watch,
    hierarchy: Option<Hierarchy>,
    maps: Maps,
    /// Every process hook is attached.
    hooked: bool,
    names: BTreeMap<Name, u32>,
    /// Where the declared executables are now.
    resolved: BTreeSet<PathBuf>,
    /// Files (device, inode) that were a declared executable when a process was found in them: they
    /// stay, also once the path leads elsewhere, while a process runs them.
    files: BTreeSet<(u64, u64)>,
    seen: BTreeSet<u32>,
    reconciled: u32,
    /// What does not fit was told.
    warned: bool,
}

/// A process at one moment.
#[derive(PartialEq, Eq)]
struct Seen {
    started: u64,
    comm: Vec<u8>,
    file: Option<(u64, u64)>,
    /// Why it should be watched.
    bits: u32,
    /// Which reasons could not be judged.
    unknown: u32,
}

impl Watcher {
    /// Tells the programs what is declared.
    pub fn new(declared: &Watch, hierarchy: Option<Hierarchy>, maps: Maps) -> Self {
        let mut declared = declared.clone();
        for unit in &mut declared.units {
            if !unit.contains('.') {
                unit.push_str(".service");
            }
        }
        if hierarchy.is_none() && !(declared.units.is_empty() && declared.cgroups.is_empty()) {
            tracing::warn!(
                "units and cgroups cannot be watched: no cgroup hierarchy is mounted; \
                 mount cgroup2 on /sys/fs/cgroup"
            );
        }
        let mut watcher = Self {
            declared,
            hierarchy,
            maps,
            hooked: false,
            names: BTreeMap::new(),
            resolved: BTreeSet::new(),
            files: BTreeSet::new(),
            seen: BTreeSet::new(),
            reconciled: 0,
            warned: false,
        };
        watcher.declare();
        watcher
    }

    /// All hooks are attached, or not: without them processes are looked at more often.
    pub fn set_hooked(&mut self, hooked: bool) {
        self.hooked = hooked;
    }

    /// Looks at all cgroups and processes, after the programs were attached.
    pub fn scan(&mut self) {
        self.walk_cgroups();
        // A parent may have had a child before it was found, and after the child's turn.
        for _ in 0..ROUNDS {
            let pids = processes();
            let new: Vec<u32> = pids.difference(&self.seen).copied().collect();
            if new.is_empty() {
                break;
            }
            self.seen = pids;
            for pid in new {
                self.settle(pid);
            }
        }
    }

    /// Corrects what the programs missed, and forgets what is gone. Returns whether it was a
    /// thorough one.
    pub fn reconcile(&mut self) -> bool {
        self.reconciled = self.reconciled.wrapping_add(1);
        let thorough = !self.hooked || self.reconciled.is_multiple_of(THOROUGH);
        self.declare();
        if thorough {
            self.seen.clear();
        }
        for pid in self.pids() {
            self.settle(pid);
        }
        if thorough {
            self.scan();
        } else {
            let pids = processes();
            let new: Vec<u32> = pids.difference(&self.seen).copied().collect();
            self.seen = pids;
            for pid in new {
                self.settle(pid);
            }
        }
        let used: BTreeSet<_> = self
            .pids()
            .into_iter()
            .filter_map(|pid| file_of(pid).ok())
            .collect();
        self.files.retain(|file| used.contains(file));
        thorough
    }

    /// Judges one process, and writes what comes out.
    pub fn settle(&mut self, pid: u32) {
        for _ in 0..ATTEMPTS {
            let Some(seen) = self.look(pid) else {
                let _ = self.maps.watched.remove(&pid);
                return;
            };
            let held = self.maps.watched.get(&pid, 0).unwrap_or(0);
            let wanted = seen.bits | (held & seen.unknown);
            if wanted == held {
                return;
            }
            let result = if wanted == 0 {
                self.maps.watched.remove(&pid)
            } else {
                self.maps.watched.insert(pid, wanted, 0)
            };
            if let Err(error) = result {
                complain(pid, &error);
            }
            // The programs may have written in between: then the process has changed as well.
            if self.look(pid).as_ref() == Some(&seen) {
                return;
            }
        }
    }

    /// The watched processes.
    pub fn list(&self) -> Vec<WatchedProcess> {
        self.maps
            .watched
            .iter()
            .flatten()
            .filter_map(|(pid, bits)| {
                let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
                Some(WatchedProcess {
                    pid,
                    comm: String::from_utf8_lossy(comm.trim_ascii_end()).into_owned(),
                    why: selectors(bits),
                })
            })
            .collect()
    }

    /// Ids of the watched processes.
    pub fn pids(&self) -> BTreeSet<u32> {
        self.maps.watched.keys().flatten().collect()
    }

    fn look(&mut self, pid: u32) -> Option<Seen> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let (comm, started) = parse_stat(&stat)?;
        let mut seen = Seen {
            started,
            comm: comm.to_vec(),
            file: None,
            bits: 0,
            unknown: 0,
        };
        if self
            .declared
            .processes
            .iter()
            .any(|name| comm_of(name) == comm)
        {
            seen.bits |= why::COMM;
        }
        if !self.declared.executables.is_empty() {
            match file_of(pid) {
                Ok(file) => {
                    seen.file = Some(file);
                    if self.is_declared(pid, file) {
                        self.files.insert(file);
                        seen.bits |= why::EXECUTABLE;
                    }
                }
                // Kernel threads have none.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Without CAP_SYS_PTRACE the name has to do.
                Err(_) => seen.unknown |= why::EXECUTABLE | why::PROVISIONAL,
            }
        }
        seen.bits |= self.cgroup_bits(pid);
        Some(seen)
    }

    fn is_declared(&self, pid: u32, file: (u64, u64)) -> bool {
        if self.files.contains(&file) {
            return true;
        }
        let Ok(link) = fs::read_link(format!("/proc/{pid}/exe")) else {
            return false;
        };
        let bytes = link.as_os_str().as_bytes();
        let path = Path::new(std::ffi::OsStr::from_bytes(
            bytes.strip_suffix(b" (deleted)").unwrap_or(bytes),
        ));
        self.resolved.contains(path)
            || self.declared.executables.iter().any(|declared| {
                declared == path
                    || fs::metadata(declared).is_ok_and(|data| (data.dev(), data.ino()) == file)
            })
    }

    fn cgroup_bits(&self, pid: u32) -> u32 {
        if self.declared.units.is_empty() && self.declared.cgroups.is_empty() {
            return 0;
        }
        let Some(hierarchy) = &self.hierarchy else {
            return 0;
        };
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
            return 0;
        };
        hierarchy
            .of(&text)
            .map_or(0, |path| judge(&self.declared, path))
    }

    /// Writes the names that programs compare with.
    fn declare(&mut self) {
        let mut names = BTreeMap::new();
        let mut unfit = Vec::new();
        let mut add = |kind, text: &[u8], bit| match name(kind, text) {
            Some(name) => *names.entry(name).or_insert(0) |= bit,
            None => unfit.push(String::from_utf8_lossy(text).into_owned()),
        };
        for comm in &self.declared.processes {
            add(NameKind::Comm, comm_of(comm), why::COMM);
        }
        self.resolved.clear();
        for path in &self.declared.executables {
            let bytes = path.as_os_str().as_bytes();
            add(NameKind::Executable, bytes, why::PROVISIONAL);
            let resolved = fs::canonicalize(path).ok();
            for file in [Some(path), resolved.as_ref()].into_iter().flatten() {
                if let Some(last) = file.file_name() {
                    add(NameKind::File, last.as_bytes(), why::PROVISIONAL);
                }
            }
            self.resolved.extend(resolved);
        }
        for path in &self.declared.cgroups {
            let bytes = path.as_os_str().as_bytes();
            add(NameKind::CgroupPath, bytes, why::CGROUP);
        }
        for unit in &self.declared.units {
            add(NameKind::CgroupName, unit.as_bytes(), why::UNIT);
        }
        for gone in self.names.keys().filter(|name| !names.contains_key(*name)) {
            let _ = self.maps.names.remove(gone);
        }
        names.retain(|name, bits| {
            if self.names.get(name) == Some(bits) {
                return true;
            }
            let result = self.maps.names.insert(name, *bits, 0);
            if result.is_err() {
                let text = name.split(|byte| *byte == 0).next().unwrap_or_default();
                unfit.push(String::from_utf8_lossy(text).into_owned());
            }
            result.is_ok()
        });
        if !unfit.is_empty() && !self.warned {
            self.warned = true;
            tracing::warn!(
                names = ?unfit,
                "too long, or too many, for the kernel to compare with: what has these names is \
                 watched some seconds late"
            );
        }
        self.names = names;
    }

    fn walk_cgroups(&mut self) {
        let Some(hierarchy) = &self.hierarchy else {
            return;
        };
        if self.declared.units.is_empty() && self.declared.cgroups.is_empty() {
            return;
        }
        let before: Vec<u64> = self.maps.cgroups.keys().flatten().collect();
        let mut full = None;
        let cgroups = &mut self.maps.cgroups;
        let declared = &self.declared;
        let all = hierarchy.walk(&|path| judge(declared, path), &mut |id, bits| {
            if cgroups.get(&id, 0).ok() != Some(bits)
                && let Err(error) = cgroups.insert(id, bits, 0)
            {
                full = Some(error);
            }
        });
        if let Some(error) = full.filter(|_| !self.warned) {
            self.warned = true;
            tracing::warn!(
                %error,
                "too many cgroups are watched: processes that are moved there are seen late"
            );
        }
        for id in before {
            if all.get(&id).is_none_or(|bits| *bits == 0) {
                let _ = self.maps.cgroups.remove(&id);
            }
        }
    }
}

fn judge(declared: &Watch, path: &str) -> u32 {
    let mut bits = 0;
    if declared
        .cgroups
        .iter()
        .any(|cgroup| is_within(path, cgroup))
    {
        bits |= why::CGROUP;
    }
    if declared.units.iter().any(|unit| is_of_unit(path, unit)) {
        bits |= why::UNIT;
    }
    bits
}

fn selectors(bits: u32) -> Vec<Selector> {
    [
        (why::COMM, Selector::Name),
        (why::EXECUTABLE | why::PROVISIONAL, Selector::Executable),
        (why::UNIT, Selector::Unit),
        (why::CGROUP, Selector::Cgroup),
    ]
    .into_iter()
    .filter(|(bit, _)| bits & bit != 0)
    .map(|(_, selector)| selector)
    .collect()
}

/// A name as the kernel keeps it.
fn comm_of(name: &str) -> &[u8] {
    let bytes = name.as_bytes();
    bytes.get(..COMM).unwrap_or(bytes)
}

fn file_of(pid: u32) -> io::Result<(u64, u64)> {
    let data = fs::metadata(format!("/proc/{pid}/exe"))?;
    Ok((data.dev(), data.ino()))
}

fn processes() -> BTreeSet<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Name and start time (proc_pid_stat(5)); `None` of a process that ended and is not yet waited
/// for.
fn parse_stat(stat: &[u8]) -> Option<(&[u8], u64)> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let comm = stat.get(open + 1..close)?;
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Counted from the state on, which is field 3.
    let threads: u64 = fields.get(17)?.parse().ok()?;
    if matches!(*fields.first()?, "Z" | "X") && threads <= 1 {
        return None;
    }
    Some((comm, fields.get(19)?.parse().ok()?))
}

fn complain(pid: u32, error: &MapError) {
    // A process that ended meanwhile has no entry any more.
    if !matches!(error, MapError::KeyNotFound) {
        tracing::warn!(pid, %error, "the process cannot be watched: too many are");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name_is() {
        let line = |comm: &str, state: &str, threads: u32| {
            format!(
                "7 ({comm}) {state} 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 {threads} 0 4711 1 2"
            )
        };
        for comm in ["sh", "a) R (b", "", "sp ace"] {
            assert_eq!(
                parse_stat(line(comm, "S", 1).as_bytes()),
                Some((comm.as_bytes(), 4711))
            );
        }
        assert_eq!(parse_stat(line("sh", "Z", 1).as_bytes()), None);
        assert!(parse_stat(line("sh", "Z", 3).as_bytes()).is_some());
        assert_eq!(parse_stat(b"7 (sh"), None);
        assert_eq!(parse_stat(b""), None);
        let own = fs::read("/proc/self/stat").unwrap();
        assert!(parse_stat(&own).is_some());
    }

    #[test]
    fn names_are_cut_as_the_kernel_cuts_them() {
        assert_eq!(comm_of("agave-validator"), b"agave-validator");
        assert_eq!(comm_of("agave-validator-2"), b"agave-validator");
        assert_eq!(comm_of("gaiad"), b"gaiad");
    }
}
