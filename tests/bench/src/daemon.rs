//! The daemon under test: started in a cgroup of its own, asked, stopped, looked at from outside.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use lab::ns::Space;
use lab::sys;
use serde_json::Value;

use crate::bpf::Program;

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    child: Child,
    directory: PathBuf,
    cgroup: Cgroup,
}

impl Daemon {
    /// Starts it in a namespace and waits until it answers.
    ///
    /// # Errors
    /// It cannot be started, or does not answer within 20 s.
    pub fn start(
        space: &Space,
        role: &str,
        binary: &Path,
        config: &str,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let cgroup = Cgroup::new()?;
        for name in ["state", "run"] {
            std::fs::create_dir_all(directory.join(name))?;
        }
        let file = directory.join("netwatch.toml");
        std::fs::write(&file, config)?;
        let log = std::fs::File::create(directory.join("netwatch.log"))?;
        let procs = std::fs::File::options()
            .write(true)
            .open(cgroup.path.join("cgroup.procs"))?;
        let mut command = space.command(role, binary);
        command
            .args(["run", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // SAFETY: write(2) is async-signal-safe; the descriptor outlives the fork.
        unsafe {
            command.pre_exec(move || (&procs).write_all(b"0"));
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut daemon = Self {
            child,
            directory: directory.to_owned(),
            cgroup,
        };
        let end = sys::now() + 20_000_000_000;
        while daemon.status().is_err() {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("the daemon ended at once ({status}):\n{}", daemon.log_end());
            }
            anyhow::ensure!(
                sys::now() < end,
                "the daemon does not answer:\n{}",
                daemon.log_end()
            );
            sys::sleep(Duration::from_millis(20))?;
        }
        Ok(daemon)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What `netwatch status --json` prints.
    ///
    /// # Errors
    /// It does not answer within 5 s.
    pub fn status(&self) -> anyhow::Result<Value> {
        let mut stream = UnixStream::connect(self.directory.join("run/netwatch.sock"))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"{\"request\":\"status\"}\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let status: Value =
            serde_json::from_str(&line).context("the daemon's answer is no JSON")?;
        anyhow::ensure!(
            status["reply"] == "status",
            "the daemon answered {line:.200}"
        );
        Ok(status)
    }

    /// Its counters, named as in `/metrics` without the prefix `netwatch_`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn counters(&self) -> anyhow::Result<Counters> {
        let status = self.status()?;
        let counters = status["counters"]
            .as_object()
            .context("a status without counters")?;
        Ok(Counters(
            counters
                .iter()
                .filter_map(|(name, value)| {
                    let name = name.strip_prefix("netwatch_").unwrap_or(name);
                    Some((name.to_owned(), value.as_f64()?))
                })
                .collect(),
        ))
    }

    /// CPU time of the daemon and all that it started, in microseconds.
    ///
    /// # Errors
    /// The cgroup tells nothing.
    pub fn cpu_micros(&self) -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(self.cgroup.path.join("cpu.stat"))?;
        field(&text, "usage_usec").context("cpu.stat has no usage_usec")
    }

    /// How often its threads left a CPU, waiting or preempted: each came back once before.
    ///
    /// # Errors
    /// The process is gone.
    pub fn switches(&self) -> anyhow::Result<u64> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()))?;
        let of = |task: std::io::Result<std::fs::DirEntry>| {
            // A thread may end meanwhile.
            let text = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            let waits = field(&text, "voluntary_ctxt_switches")?;
            Some(waits + field(&text, "nonvoluntary_ctxt_switches")?)
        };
        Ok(tasks.filter_map(of).sum())
    }

    /// A figure of `/proc/PID/status` in bytes.
    ///
    /// # Errors
    /// The process is gone.
    pub fn memory(&self, key: &str) -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let kilobytes = field(&text, key).with_context(|| format!("no {key} of the daemon"))?;
        Ok(kilobytes * 1024)
    }

    /// Programs, maps and links that it holds.
    ///
    /// # Errors
    /// The process is gone.
    pub fn objects(&self) -> anyhow::Result<Objects> {
        Objects::of(self.pid())
    }

    /// Its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("netwatch.log")).unwrap_or_default()
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// It has not ended.
    ///
    /// # Errors
    /// It has.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the daemon ended by itself ({status}):\n{}", self.log_end()),
        }
    }

    /// SIGTERM, and that it ended cleanly within 10 s.
    ///
    /// # Errors
    /// How it did not.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.check()?;
        // SAFETY: no pointers; the child is not reaped, so its id is still its own.
        unsafe { libc::kill(self.pid() as libc::pid_t, libc::SIGTERM) };
        let end = sys::now() + 10_000_000_000;
        while sys::now() < end {
            if let Some(status) = self.child.try_wait()? {
                anyhow::ensure!(
                    status.success(),
                    "the daemon ended with {status} on SIGTERM"
                );
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("the daemon did not end within 10 s of SIGTERM")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        self.cgroup.remove();
    }
}

/// The number after `key`, with or without a colon, at the start of a line.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()?.trim_end_matches(':') == key)
            .then(|| words.next()?.parse().ok())
            .flatten()
    })
}

/// A cgroup (version 2). CPU time is accounted in every cgroup, without any controller.
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    const PREFIX: &str = "netwatch-bench-";

    fn new() -> anyhow::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        let mount = mounts
            .lines()
            .find_map(|line| {
                let mut words = line.split(' ').skip(1);
                let path = words.next()?;
                (words.next()? == "cgroup2").then(|| PathBuf::from(path))
            })
            .context(
                "no cgroup v2 is mounted; remedy: mount -t cgroup2 none /sys/fs/cgroup/unified",
            )?;
        // What killed runs left behind.
        for entry in std::fs::read_dir(&mount)?.flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let owner = name.strip_prefix(Self::PREFIX);
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = std::fs::remove_dir(entry.path());
            }
        }
        let path = mount.join(format!("{}{}", Self::PREFIX, std::process::id()));
        if let Err(error) = std::fs::create_dir(&path)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(error).with_context(|| format!("cannot make {}", path.display()));
        }
        Ok(Self { path })
    }

    /// Its own children (the watchdog) may take a moment to end.
    fn remove(&self) {
        for attempt in 0..100 {
            if std::fs::remove_dir(&self.path).is_ok() || !self.path.exists() {
                return;
            }
            if attempt == 50 {
                let procs = std::fs::read_to_string(self.path.join("cgroup.procs"));
                for pid in procs
                    .unwrap_or_default()
                    .lines()
                    .filter_map(|pid| pid.parse().ok())
                {
                    // SAFETY: no pointers; what is in the cgroup was started by the daemon.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The daemon's counters.
#[derive(Clone, Debug, Default)]
pub struct Counters(pub BTreeMap<String, f64>);

impl Counters {
    /// One counter, if the daemon has it.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// The sum over all labels of a counter.
    pub fn sum(&self, family: &str) -> f64 {
        self.0
            .iter()
            .filter(|(name, _)| name.split('{').next() == Some(family))
            .map(|(_, value)| value)
            .sum()
    }

    /// Losses of the kernel's and the collector's stages by counter, zeros left out.
    pub fn losses_since(&self, before: &Self) -> Vec<(String, f64)> {
        const FAMILIES: [&str; 5] = [
            "kernel_records_lost_total",
            "kernel_records_malformed_total",
            "socket_table_full_total",
            "connections_untracked_total",
            "collector_dropped_total",
        ];
        self.0
            .iter()
            .filter(|(name, _)| FAMILIES.contains(&name.split('{').next().unwrap_or(name)))
            .map(|(name, value)| (name.clone(), value - before.get(name).unwrap_or(0.0)))
            .filter(|(_, lost)| *lost > 0.0)
            .collect()
    }
}

/// Where a program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A BTF tracepoint.
    Tracepoint(String),
    /// Another tracing hook, by `enum bpf_attach_type`.
    Tracing(u32),
    /// Something else, by the kind of link.
    Other(String),
}

/// A map, as `/proc/PID/fdinfo` shows it.
#[derive(Clone, Debug)]
pub struct Map {
    kind: u64,
    value_size: u64,
    entries: u64,
    memory: u64,
}

impl Map {
    /// Bytes that it would hold with so many possible CPUs, where it holds `self.memory` with `now`.
    pub fn memory_for(&self, now: u64, then: u64) -> u64 {
        // BPF_MAP_TYPE_PERCPU_HASH, _PERCPU_ARRAY, _LRU_PERCPU_HASH, _PERCPU_CGROUP_STORAGE.
        let per_cpu = matches!(self.kind, 5 | 6 | 10 | 21);
        if per_cpu {
            self.memory
                + self.entries * self.value_size.next_multiple_of(8) * then.saturating_sub(now)
        } else {
            self.memory
        }
    }
}

/// Everything of the `bpf` subsystem that a process holds open.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Programs by id with their memory.
    pub programs: BTreeMap<u64, u64>,
    /// Maps by id.
    pub maps: BTreeMap<u64, Map>,
    /// Links by id: program and hook.
    pub links: BTreeMap<u64, (u64, Hook)>,
}

impl Objects {
    /// Of a process.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let mut objects = Self::default();
        for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            if let Ok(text) = std::fs::read_to_string(entry?.path()) {
                objects.add(&text);
            }
        }
        Ok(objects)
    }

    fn add(&mut self, text: &str) {
        let get = |key| field(text, key);
        let program = get("prog_id");
        if let (Some(id), Some(program)) = (get("link_id"), program) {
            let word = |key: &str| {
                text.lines()
                    .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
                    .map(|value| value.trim().to_owned())
            };
            let hook = match (word("tp_name"), get("attach_type")) {
                (Some(name), _) => Hook::Tracepoint(name),
                (None, Some(kind)) => Hook::Tracing(kind as u32),
                (None, None) => Hook::Other(word("link_type").unwrap_or_default()),
            };
            self.links.insert(id, (program, hook));
        } else if let (Some(id), Some(memory)) = (get("map_id"), get("memlock")) {
            let map = Map {
                kind: get("map_type").unwrap_or(0),
                value_size: get("value_size").unwrap_or(0),
                entries: get("max_entries").unwrap_or(0),
                memory,
            };
            self.maps.insert(id, map);
        } else if let (Some(id), Some(memory)) = (program, get("memlock")) {
            self.programs.insert(id, memory);
        }
    }

    /// Bytes of all programs and maps with so many possible CPUs.
    pub fn memory_for(&self, now: u64, then: u64) -> u64 {
        let maps: u64 = self
            .maps
            .values()
            .map(|map| map.memory_for(now, then))
            .sum();
        maps + self.programs.values().sum::<u64>()
    }

    /// How many of it still exist: programs, maps and links of these ids.
    ///
    /// # Errors
    /// bpftool does not tell.
    pub fn living(&self) -> anyhow::Result<usize> {
        let count = |kind: &str, ours: Vec<u64>| -> anyhow::Result<usize> {
            let output = lab::ns::run(Command::new("bpftool").args(["-j", kind, "show"]))?;
            let listed: Value = serde_json::from_str(&output)?;
            let listed = listed.as_array().context("bpftool printed no list")?;
            let ids = listed.iter().filter_map(|item| item["id"].as_u64());
            Ok(ids.filter(|id| ours.contains(id)).count())
        };
        Ok(count("prog", self.programs.keys().copied().collect())?
            + count("map", self.maps.keys().copied().collect())?
            + count("link", self.links.keys().copied().collect())?)
    }
}

/// A program of the daemon's on its hook.
pub struct Attached {
    /// Its name.
    pub name: String,
    /// Where.
    pub hook: Hook,
    /// `enum bpf_prog_type`.
    pub kind: u32,
    /// The BTF id of the hook.
    pub attach_btf_id: u32,
    /// To read its cost.
    pub program: Program,
}

impl Objects {
    /// The programs that are attached.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn attached(&self) -> anyhow::Result<Vec<Attached>> {
        self.links
            .values()
            .map(|(program, hook)| {
                let program = Program::by_id(u32::try_from(*program)?)?;
                let info = program.info()?;
                Ok(Attached {
                    name: info.name,
                    hook: hook.clone(),
                    kind: info.kind,
                    attach_btf_id: info.attach_btf_id,
                    program,
                })
            })
            .collect()
    }
}

/// Possible CPUs of this kernel.
///
/// # Errors
/// `/sys` is not mounted.
pub fn possible_cpus() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    Ok(text
        .trim()
        .split(',')
        .filter_map(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            Some(to.parse::<u64>().ok()? - from.parse::<u64>().ok()? + 1)
        })
        .sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_process_holds() {
        let mut objects = Objects::default();
        objects.add("pos:\t0\nlink_type:\traw_tracepoint\nlink_id:\t9\nprog_tag:\taa\nprog_id:\t4\ntp_name:\ttcp_probe\n");
        objects.add("prog_type:\t26\nmemlock:\t4096\nprog_id:\t4\nrun_cnt:\t0\n");
        objects.add("map_type:\t6\nkey_size:\t4\nvalue_size:\t12\nmax_entries:\t10\nmemlock:\t1000\nmap_id:\t3\n");
        objects.add("map_type:\t2\nkey_size:\t4\nvalue_size:\t12\nmax_entries:\t10\nmemlock:\t500\nmap_id:\t5\n");
        assert_eq!(
            objects.links[&9],
            (4, Hook::Tracepoint("tcp_probe".to_owned()))
        );
        assert_eq!(objects.memory_for(2, 2), 5_596);
        assert_eq!(objects.memory_for(2, 64), 5_596 + 10 * 16 * 62);
    }

    #[test]
    fn losses_are_differences() {
        let counters = |lost| {
            Counters(BTreeMap::from([
                (
                    "kernel_records_lost_total{ring=\"urgent\"}".to_owned(),
                    lost,
                ),
                (
                    "kernel_records_total{ring=\"urgent\"}".to_owned(),
                    10.0 * lost,
                ),
            ]))
        };
        assert!(counters(3.0).losses_since(&counters(3.0)).is_empty());
        let losses = counters(5.0).losses_since(&counters(3.0));
        assert_eq!(losses.len(), 1);
        assert_eq!(losses[0].1, 2.0);
    }
}
