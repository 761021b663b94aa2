//! Boots a kernel with jobs, in emulation, always with a time limit.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::guest::Reader;
use super::job::{Job, Outcome};

/// No boot lasts longer, whatever it runs.
const LONGEST: Duration = Duration::from_secs(45 * 60);
/// What a boot may take, and a job beyond its own limit.
const PATIENCE: Duration = Duration::from_secs(120);
const DISK_BYTES: u64 = 64 << 20;

/// What a boot left.
#[derive(Debug)]
pub struct Boot {
    /// One for each job.
    pub outcomes: Vec<Outcome>,
    /// Modules that could not be loaded.
    pub remarks: Vec<String>,
}

/// An emulated PC with two processors and a disk.
#[derive(Debug)]
pub struct Machine<'a> {
    /// QEMU's packages, unpacked.
    pub qemu: &'a Path,
    /// The kernel's image.
    pub kernel: &'a Path,
    /// More for its command line.
    pub options: &'a str,
}

/// Boots with an archive that holds these jobs, and collects what becomes of them.
pub fn boot(
    machine: &Machine<'_>,
    work: &Path,
    archive: &[u8],
    jobs: &[Job],
    told: impl FnMut(&Outcome),
) -> Result<Boot> {
    let initrd = work.join("initrd");
    fs::write(&initrd, archive).with_context(|| format!("cannot write {}", initrd.display()))?;
    let files = Files {
        initrd,
        console: work.join("console"),
        results: work.join("results"),
        disk: disk(work),
    };
    File::create(&files.results)?;
    File::create(&files.disk)?.set_len(DISK_BYTES)?;
    let word = word();
    let mut command = machine.command(&files, &word);
    let running = Running(
        command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("{:?} does not start", command.get_program()))?,
    );
    follow(running, &files, Reader::new(jobs, &word), jobs, told)
}

/// The guest's disk, as it was left.
pub fn disk(work: &Path) -> PathBuf {
    work.join("disk")
}

struct Files {
    initrd: PathBuf,
    console: PathBuf,
    results: PathBuf,
    disk: PathBuf,
}

/// A machine that is ended when it is no longer looked at.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn follow(
    mut running: Running,
    files: &Files,
    mut reader: Reader<'_>,
    jobs: &[Job],
    mut told: impl FnMut(&Outcome),
) -> Result<Boot> {
    let start = Instant::now();
    let mut told_of = 0;
    let mut last_news = start;
    let mut results = File::open(&files.results)?;
    let why = loop {
        // Asked first, so that what it told before its end is still read.
        let ended = running.0.try_wait()?;
        let mut news = Vec::new();
        results.read_to_end(&mut news)?;
        if !news.is_empty() {
            last_news = Instant::now();
            reader.feed(&news);
        }
        while let Some(outcome) = reader.outcomes.get(told_of) {
            told(outcome);
            told_of += 1;
        }
        if let Some(status) = ended {
            break format!("the machine stopped ({status})");
        }
        if reader.done && last_news.elapsed() > Duration::from_secs(10) {
            break "the machine did not stop".to_owned();
        }
        let limit = jobs.get(told_of).map_or(0, |job| u64::from(job.limit));
        if last_news.elapsed() > PATIENCE + Duration::from_secs(limit) {
            break "nothing was heard of the machine for too long".to_owned();
        }
        if start.elapsed() > LONGEST {
            break format!("the machine ran for {} minutes", LONGEST.as_secs() / 60);
        }
        thread::sleep(Duration::from_millis(100));
    };
    drop(running);
    let remarks = std::mem::take(&mut reader.remarks);
    let why = if reader.done {
        why
    } else {
        format!("{why}; its last words: {}", last_words(&files.console))
    };
    Ok(Boot {
        outcomes: reader.finish(&why),
        remarks,
    })
}

fn last_words(console: &Path) -> String {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// No output knows it, so none can pass for a marker.
fn word() -> String {
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos());
    format!("{:x}{nanos:x}", std::process::id())
}

impl Machine<'_> {
    /// Software emulation only: a KVM device that opens is no proof that it boots a guest.
    fn command(&self, files: &Files, word: &str) -> Command {
        let Self {
            qemu,
            kernel,
            options,
        } = self;
        let share = qemu.join("usr/share");
        let libraries = [
            "usr/lib/x86_64-linux-gnu",
            "lib/x86_64-linux-gnu",
            "usr/lib/x86_64-linux-gnu/pulseaudio",
        ]
        .map(|folder| qemu.join(folder).display().to_string())
        .join(":");
        let mut command = Command::new(qemu.join("usr/bin/qemu-system-x86_64"));
        command
        .env("LD_LIBRARY_PATH", &libraries)
        .env(
            "QEMU_MODULE_DIR",
            qemu.join("usr/lib/x86_64-linux-gnu/qemu"),
        )
        .arg("-L")
        .arg(share.join("qemu"))
        .arg("-L")
        .arg(share.join("seabios"))
        .args(["-accel", "tcg,thread=multi"])
        .args(["-machine", "q35", "-cpu", "max", "-smp", "2", "-m", "1024"])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-no-reboot", "-serial"])
        .arg(format!("file:{}", files.console.display()))
        .arg("-serial")
        .arg(format!("file:{}", files.results.display()))
        .arg("-drive")
        .arg(format!(
            "file={},format=raw,if=none,id=disk",
            files.disk.display()
        ))
        .args(["-device", "virtio-blk-pci,drive=disk"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(&files.initrd)
        .arg("-append")
        .arg(format!(
            "console=ttyS0 panic=-1 mitigations=off no_timer_check net.ifnames=0 netwatch.word={word} {options}"
        ));
        command
    }
}
