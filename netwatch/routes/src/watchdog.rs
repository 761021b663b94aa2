//! The watchdog: a small process that outlives the daemon and deletes routes whose lease expired.
//!
//! Started by the daemon it survives the daemon's death, but a service manager may end it together
//! with the daemon's control group. systemd does so with SIGTERM, upon which it deletes all leased
//! routes at once. Best is a unit of its own (`--stay`), whose control group is another.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use events::{IncidentId, PlanId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::files;
use crate::kernel::{Kernel, words};
use crate::lease::{Lease, LeaseFile};

/// How often leases are looked at.
const INTERVAL: Duration = Duration::from_millis(200);
/// No lease is believed to be longer than this, whatever the file says.
const LONGEST_LEASE: Duration = Duration::from_secs(600);
/// A lease file that stays unreadable for so long hides leases that nobody can renew.
const UNREADABLE_PATIENCE: Duration = Duration::from_secs(10);
const MAX_LOG_BYTES: u64 = 1 << 20;

/// How to start the watchdog: `exe args…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchdogCommand {
    /// The program, usually `/proc/self/exe` of the daemon.
    pub exe: PathBuf,
    /// Its arguments, with which it comes to call [`watchdog_main`].
    pub args: Vec<String>,
}

/// A line of the watchdog's log: what it took back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchdogRecord {
    /// When.
    pub at: Timestamp,
    /// Whose routes; `None`: found by a sweep.
    pub plan: Option<PlanId>,
    /// For which incident.
    pub incident: Option<IncidentId>,
    /// The routes deleted, in words.
    pub deleted: Vec<String>,
    /// What could not be done.
    pub errors: Vec<String>,
}

pub(crate) fn daemon_lock(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("routes.lock")
}

fn own_lock(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("watchdog.lock")
}

fn log_path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("watchdog.log.jsonl")
}

/// Whether a watchdog guards this runtime directory.
///
/// # Errors
/// The lock file cannot be opened.
pub fn watchdog_running(runtime_dir: &Path) -> io::Result<bool> {
    files::locked(&own_lock(runtime_dir))
}

/// Starts the watchdog in a session of its own, a child of init, unless one runs already. It stays
/// in the caller's network namespace.
///
/// # Errors
/// The program could not be started, or did not take its lock within two seconds.
pub fn spawn_watchdog(runtime_dir: &Path, command: &WatchdogCommand) -> io::Result<()> {
    if watchdog_running(runtime_dir)? {
        return Ok(());
    }
    let mut child = Command::new(&command.exe);
    child
        .args(&command.args)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec only `setsid`, `fork` and `_exit` are called, which are
    // async-signal-safe. The second fork makes the watchdog a child of init: it is not waited for,
    // and not in the daemon's process group.
    unsafe {
        child.pre_exec(|| {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            match libc::fork() {
                -1 => Err(io::Error::last_os_error()),
                0 => Ok(()),
                _ => libc::_exit(0),
            }
        });
    }
    child.spawn()?.wait()?;
    for _ in 0..100 {
        if watchdog_running(runtime_dir)? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!(
            "{} did not come up as watchdog of {}",
            command.exe.display(),
            runtime_dir.display()
        ),
    ))
}

/// What the watchdog took back since this was last asked, oldest first.
///
/// # Errors
/// The log cannot be read.
pub fn take_watchdog_log(runtime_dir: &Path) -> io::Result<Vec<WatchdogRecord>> {
    let path = log_path(runtime_dir);
    let taken = path.with_extension("taken");
    match std::fs::rename(&path, &taken) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    }
    let bytes = files::read_bounded(&taken, MAX_LOG_BYTES * 2)?;
    std::fs::remove_file(&taken)?;
    Ok(bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

/// The watchdog's whole life: deletes routes of expired leases, of `protocol` only; ends by itself
/// when the daemon is gone and no lease is left, unless it is to `stay` for the next daemon (as a
/// unit of its own), or on SIGTERM after deleting all leased routes.
#[must_use]
pub fn watchdog_main(runtime_dir: &Path, protocol: u8, stay: bool) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(watch(runtime_dir, protocol, stay)),
        Err(e) => Err(e),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("netwatch watchdog of {}: {e}", runtime_dir.display());
            ExitCode::FAILURE
        }
    }
}

async fn watch(runtime_dir: &Path, protocol: u8, stay: bool) -> io::Result<()> {
    files::make_dir(runtime_dir)?;
    let Some(_lock) = own(runtime_dir).await? else {
        return Ok(());
    };
    let kernel = Kernel::open(protocol)?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut watchdog = Watchdog {
        runtime_dir: runtime_dir.to_owned(),
        kernel,
        leases: BTreeMap::new(),
        stamp: None,
        unreadable_since: None,
    };
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                if !watchdog.kernel.alive() {
                    watchdog.kernel = Kernel::open(protocol)?;
                }
                watchdog.tick(clock::now()).await;
                if !stay
                    && watchdog.leases.is_empty()
                    && watchdog.unreadable_since.is_none()
                    && !files::locked(&daemon_lock(runtime_dir)).unwrap_or(false)
                {
                    // The daemon is gone, and so is all that it left.
                    for path in [
                        LeaseFile::path(runtime_dir),
                        daemon_lock(runtime_dir),
                        own_lock(runtime_dir),
                    ] {
                        let _ = std::fs::remove_file(path);
                    }
                    return Ok(());
                }
            }
            // A terminal's signals are the daemon's business.
            _ = hangup.recv() => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {
                watchdog.read(clock::now());
                watchdog.expire(clock::now(), true).await;
                return Ok(());
            }
        }
    }
}

/// The watchdog's lock. Someone may be asking whether it is held just now: try for a while.
async fn own(runtime_dir: &Path) -> io::Result<Option<nix::fcntl::Flock<std::fs::File>>> {
    for _ in 0..10 {
        if let Some(lock) = files::lock(&own_lock(runtime_dir))? {
            return Ok(Some(lock));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(None)
}

struct Watchdog {
    runtime_dir: PathBuf,
    kernel: Kernel,
    /// Leases that are believed, with the end that is believed.
    leases: BTreeMap<PlanId, Lease>,
    /// Inode, size and modification time of the file that was last read.
    stamp: Option<(u64, u64, i64, i64)>,
    unreadable_since: Option<Timestamp>,
}

impl Watchdog {
    async fn tick(&mut self, now: Timestamp) {
        self.read(now);
        self.expire(now, false).await;
        let unreadable = self
            .unreadable_since
            .is_some_and(|since| now.since(since) >= UNREADABLE_PATIENCE);
        if unreadable && self.leases.is_empty() {
            let swept = self.kernel.sweep().await;
            let (deleted, errors) = match swept {
                Ok(count) => (vec![format!("{count} routes without a lease")], Vec::new()),
                Err(e) => (Vec::new(), vec![e.to_string()]),
            };
            self.log(now, None, deleted, errors);
            self.unreadable_since = None;
        }
    }

    /// Reads the file if it changed. What cannot be read changes nothing that was known.
    fn read(&mut self, now: Timestamp) {
        let path = LeaseFile::path(&self.runtime_dir);
        let stamp = path
            .symlink_metadata()
            .ok()
            .map(|m| (m.ino(), m.size(), m.mtime(), m.mtime_nsec()));
        if stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        if stamp.is_none() {
            // Someone removed it; the daemon only ever empties it. What was leased still expires.
            return;
        }
        match LeaseFile::read(&self.runtime_dir) {
            Ok(file) => {
                self.unreadable_since = None;
                self.leases = file
                    .leases
                    .into_iter()
                    .map(|mut lease| {
                        lease.expires_at = lease.expires_at.min(now + LONGEST_LEASE);
                        (lease.plan, lease)
                    })
                    .collect();
            }
            Err(e) => {
                eprintln!("netwatch watchdog: {e}");
                self.unreadable_since.get_or_insert(now);
            }
        }
    }

    async fn expire(&mut self, now: Timestamp, all: bool) {
        let due: Vec<PlanId> = self
            .leases
            .values()
            .filter(|lease| all || lease.expires_at <= now)
            .map(|lease| lease.plan)
            .collect();
        for plan in due {
            let Some(lease) = self.leases.get(&plan).cloned() else {
                continue;
            };
            let (mut deleted, mut errors) = (Vec::new(), Vec::new());
            for route in &lease.routes {
                match self.kernel.delete(route).await {
                    Ok(true) => deleted.push(words(route)),
                    Ok(false) => {}
                    Err(e) => errors.push(e.to_string()),
                }
            }
            // What could not be deleted is tried again at the next tick.
            if errors.is_empty() {
                self.leases.remove(&plan);
            }
            if !deleted.is_empty() {
                self.log(now, Some(&lease), deleted, errors);
            }
        }
    }

    fn log(&self, at: Timestamp, lease: Option<&Lease>, deleted: Vec<String>, errors: Vec<String>) {
        let record = WatchdogRecord {
            at,
            plan: lease.map(|lease| lease.plan),
            incident: lease.map(|lease| lease.incident.clone()),
            deleted,
            errors,
        };
        if let Err(e) = append(&log_path(&self.runtime_dir), &record) {
            eprintln!("netwatch watchdog: {e}");
        }
    }
}

fn append(path: &Path, record: &WatchdogRecord) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    if file.metadata()?.len() > MAX_LOG_BYTES {
        return Err(io::Error::other("watchdog.log.jsonl is full"));
    }
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    file.write_all(&line)
}
