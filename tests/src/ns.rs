//! Network namespaces: made, entered, and removed whatever happens.
//!
//! A namespace is called `nwlab-<pid>-<start time of that process>-<number>-<role>`, so that what a
//! killed run left behind can be told from what a living one uses.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};

use crate::sys;

const PREFIX: &str = "nwlab-";
const RUN_NETNS: &str = "/run/netns";

/// The namespaces and files of one run. Dropping it removes them.
pub struct Space {
    stem: String,
    roles: Vec<&'static str>,
    directory: PathBuf,
    keep: bool,
}

/// Start time of a living process in clock ticks since boot (fields 3 and 22 of `/proc/PID/stat`).
fn start_time(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The process that a namespace or directory of the lab belongs to still runs.
fn owner_lives(name: &str) -> bool {
    let mut parts = name.trim_start_matches(PREFIX).split('-');
    let pid = parts.next().and_then(|pid| pid.parse().ok());
    let start = parts.next().and_then(|start| start.parse().ok());
    match (pid, start) {
        (Some(pid), Some(start)) => start_time(pid) == Some(start),
        // Not a name of ours: leave it alone.
        _ => true,
    }
}

/// Removes what runs that were killed left behind: their processes, namespaces and files. Returns
/// how many namespaces there were.
pub fn sweep() -> usize {
    let mut swept = 0;
    for name in names_in(Path::new(RUN_NETNS)) {
        if name.starts_with(PREFIX) && !owner_lives(&name) {
            remove(&name);
            swept += 1;
        }
    }
    for name in names_in(&std::env::temp_dir()) {
        let directory = std::env::temp_dir().join(&name);
        if name.starts_with(PREFIX) && !owner_lives(&name) && !directory.join("keep").exists() {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
    swept
}

fn names_in(directory: &Path) -> Vec<String> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

/// Kills what runs in a namespace, by process id, and deletes it.
fn remove(name: &str) {
    for pid in pids(name) {
        // SAFETY: no pointers are involved.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    let _ = Command::new("ip")
        .args(["netns", "delete", name])
        .stderr(Stdio::null())
        .status();
}

fn pids(name: &str) -> Vec<i32> {
    Command::new("ip")
        .args(["netns", "pids", name])
        .output()
        .map(|output| {
            String::from_utf8_lossy(&output.stdout)
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                // Threads of the lab itself live in its namespaces.
                .filter(|pid| *pid != std::process::id() as i32)
                .collect()
        })
        .unwrap_or_default()
}

impl Space {
    /// Makes a namespace for each role, with loopback up, and a directory for files.
    ///
    /// # Errors
    /// Not root, or `ip netns add` fails.
    pub fn new(roles: &[&'static str], keep: bool) -> anyhow::Result<Self> {
        // SAFETY: geteuid cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            bail!("the lab makes network namespaces and needs root: run it as root (sudo)");
        }
        let pid = std::process::id();
        let start = start_time(pid).context("cannot read /proc/self/stat")?;
        static RIGS: AtomicU32 = AtomicU32::new(0);
        let rig = RIGS.fetch_add(1, Ordering::Relaxed);
        let stem = format!("{PREFIX}{pid}-{start}-{rig}");
        let directory = std::env::temp_dir().join(&stem);
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let mut space = Self {
            stem,
            roles: Vec::new(),
            directory,
            keep,
        };
        for role in roles {
            let name = space.name(role);
            run(Command::new("ip").args(["netns", "add", &name]))?;
            space.roles.push(role);
            run(Command::new("ip").args(["-n", &name, "link", "set", "lo", "up"]))?;
        }
        Ok(space)
    }

    /// The full name of a role's namespace.
    #[must_use]
    pub fn name(&self, role: &str) -> String {
        format!("{}-{role}", self.stem)
    }

    /// Where files of this run go.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Moves the calling thread into a role's namespace, for good.
    ///
    /// # Errors
    /// From `open` or `setns`.
    pub fn enter(&self, role: &str) -> anyhow::Result<()> {
        enter(&self.name(role))
    }

    /// Runs `f` on a thread of its own in a role's namespace and waits for it.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `f`'s own error.
    pub fn within<T: Send>(
        &self,
        role: &str,
        f: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter(role)?;
                    f()
                })
                .join()
                .unwrap_or_else(|_| bail!("a thread of the lab panicked"))
        })
    }

    /// Runs lines of `ip` commands in a role's namespace, both families.
    ///
    /// # Errors
    /// The first line that fails, with what `ip` says.
    pub fn ip_batch(&self, role: &str, lines: &str) -> anyhow::Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name(role), "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run `ip` (Debian package iproute2)")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(lines.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "`ip -batch` in {role}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Sets sysctls below `/proc/sys/net` of a role's namespace; absent ones are skipped.
    ///
    /// # Errors
    /// One that exists cannot be set.
    pub fn sysctl(&self, role: &str, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        self.within(role, || {
            for (key, value) in settings {
                let path = Path::new("/proc/sys/net").join(key);
                if path.exists() {
                    std::fs::write(&path, value)
                        .with_context(|| format!("cannot write {}", path.display()))?;
                }
            }
            Ok(())
        })
    }

    /// A command in a role's namespace, with `/sys` of that namespace. It dies with the lab, and a
    /// Ctrl-C at the terminal does not reach it.
    #[must_use]
    pub fn command(&self, role: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name(role)])
            .arg(program)
            .process_group(0);
        // SAFETY: prctl is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                sys::check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)).map(drop)
            });
        }
        command
    }

    /// Keep the files for a look afterwards.
    pub fn keep_files(&mut self) {
        self.keep = true;
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        for role in &self.roles {
            remove(&self.name(role));
        }
        if self.keep {
            let _ = std::fs::write(self.directory.join("keep"), "");
        } else {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// Moves the calling thread into a namespace, for good.
///
/// # Errors
/// From `open` or `setns`.
pub fn enter(name: &str) -> anyhow::Result<()> {
    let path = Path::new(RUN_NETNS).join(name);
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    // SAFETY: no pointers are involved.
    sys::check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) })
        .with_context(|| format!("cannot enter {}", path.display()))?;
    Ok(())
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be run, or it fails: with what it said.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
