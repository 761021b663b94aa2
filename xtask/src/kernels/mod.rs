//! The kernel matrix: the same live tests on several kernels, booted in emulation, and on this
//! machine's own.

mod archive;
mod catalogue;
mod guest;
mod job;
mod machine;
mod modules;
mod packages;
mod programs;
mod verdict;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::report::{Check, Document};
use crate::setup;
use crate::shell::{root, step};
use catalogue::{KERNELS, Kernel, LOADED};
use job::{Job, Outcome};
use machine::Machine;
use packages::Cache;
use programs::TestProgram;

const HOST: &str = "host";
const ALL: &str = "all";

/// Arguments of `cargo xtask kernels`.
#[derive(Args)]
pub struct Kernels {
    /// Which: 5.10, 5.15, 6.1, 6.12, host (this machine's own), all
    #[arg(default_value = ALL)]
    kernels: Vec<String>,
    /// Only tests whose name (file::test) contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Fetch the newest packages again
    #[arg(long)]
    update: bool,
    /// Write results and checks to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Kernels {
    /// Runs everything on every kernel that is asked for, then tells what failed.
    pub fn run(self) -> Result<()> {
        let file = self
            .json
            .as_deref()
            .map(std::path::absolute)
            .transpose()
            .context("cannot tell the current directory")?;
        let mut document = Document::new("kernels");
        if let Err(error) = self.run_into(&mut document) {
            document
                .checks
                .push(Check::new("kernels", false, format!("{error:#}")));
        }
        document.write(file.as_deref())?;
        summarize(&document)
    }

    fn run_into(&self, document: &mut Document) -> Result<()> {
        let wanted = wanted(&self.kernels)?;
        setup::run()?;
        setup::install(&["binutils", "xz-utils"])?;
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root().join("target"), PathBuf::from);
        let cache = Cache::open(&target, self.update)?;
        let tests = programs::tests()?;
        let matrix = Matrix {
            only: self.only.as_deref(),
            named: !self.kernels.iter().any(|name| name == ALL),
            netwatch: programs::netwatch(&target)?,
            cache,
            tests,
        };
        for kernel in wanted {
            let name = kernel.map_or(HOST, |kernel| kernel.name);
            let ran = match kernel {
                Some(kernel) => matrix.guest(kernel, document),
                None => matrix.host(document),
            };
            if let Err(error) = ran {
                let check = Check::new(format!("{name}/kernel"), false, format!("{error:#}"));
                tell(&check);
                document.checks.push(check);
            }
        }
        Ok(())
    }
}

/// `None` stands for this machine's own.
fn wanted(names: &[String]) -> Result<Vec<Option<&'static Kernel>>> {
    let mut wanted = Vec::new();
    for name in names {
        match name.as_str() {
            ALL => {
                wanted.push(None);
                wanted.extend(KERNELS.iter().map(Some));
            }
            HOST => wanted.push(None),
            name => match catalogue::named(name) {
                Some(kernel) => wanted.push(Some(kernel)),
                None => {
                    let known: Vec<_> = KERNELS.iter().map(|kernel| kernel.name).collect();
                    bail!(
                        "there is no kernel {name}; there are {}, {HOST}, {ALL}",
                        known.join(", ")
                    );
                }
            },
        }
    }
    Ok(wanted)
}

struct Matrix<'a> {
    only: Option<&'a str>,
    /// The kernels were named one by one: each must be had.
    named: bool,
    cache: Cache,
    tests: Vec<TestProgram>,
    netwatch: PathBuf,
}

impl Matrix<'_> {
    fn host(&self, document: &mut Document) -> Result<()> {
        let mut jobs = vec![release()];
        jobs.extend(programs::jobs(&self.tests, self.only, |program| {
            program.path.display().to_string()
        }));
        step(&format!(
            "{HOST}: {} tests on this machine's own kernel",
            jobs.len() - 1
        ));
        let mut progress = Progress::new(HOST);
        let outcomes = job::run_here(&jobs, |outcome| progress.told(outcome))?;
        progress.finish();
        collect(HOST, &outcomes, document);
        Ok(())
    }

    fn guest(&self, kernel: &Kernel, document: &mut Document) -> Result<()> {
        let packages = match self.cache.kernel(kernel) {
            Ok(packages) => packages,
            Err(error) if kernel.optional && !self.named => {
                let check = Check::new(
                    format!("{}/kernel", kernel.name),
                    true,
                    format!("SKIPPED: {error:#}"),
                );
                tell(&check);
                document.checks.push(check);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let qemu = self.cache.qemu()?;
        let image = image(&packages)?;
        let modules = modules::of(&packages)?;
        let work = self.cache.folder(&format!("run-{}", kernel.name))?;
        let busybox = self.cache.busybox()?.join("bin/busybox");

        let mut jobs = vec![release()];
        jobs.extend(programs::jobs(&self.tests, self.only, |program| {
            format!("/t/{}", program.name)
        }));
        jobs.push(kernel_log());
        step(&format!(
            "{}: booting, {} tests",
            kernel.name,
            jobs.len() - 2
        ));
        let mut archive = guest::base(&busybox, &modules, LOADED)?;
        self.add_programs(&mut archive, &work)?;
        guest::add_jobs(
            &mut archive,
            &jobs,
            &[
                ("NETWATCH_TEST_DISK", "/dev/vda"),
                ("NETWATCH_TEST_GUEST", "1"),
            ],
        );
        let machine = Machine::Qemu {
            qemu: &qemu,
            kernel: &image,
            options: "quiet",
        };
        let mut progress = Progress::new(kernel.name);
        let boot = machine::boot(&machine, &work, &archive.finish(), &jobs, |outcome| {
            progress.told(outcome);
        })?;
        progress.finish();
        for remark in &boot.remarks {
            step(&format!("{}: {remark}", kernel.name));
        }
        collect(kernel.name, &boot.outcomes, document);
        Ok(())
    }

    fn add_programs(&self, archive: &mut archive::Archive, work: &Path) -> Result<()> {
        let mut programs: BTreeMap<String, PathBuf> = self
            .tests
            .iter()
            .map(|program| (program.name.clone(), program.path.clone()))
            .collect();
        programs.insert("netwatch".to_owned(), self.netwatch.clone());
        let folder = work.join("stripped");
        fs::create_dir_all(&folder)?;
        for (name, path) in programs::stripped(&programs, &folder)? {
            archive.program(&path, format!("/t/{name}"))?;
        }
        for program in ["ip", "tc", "bpftool"] {
            archive.program(&find(program)?, format!("/sbin/{program}"))?;
        }
        for folder in ["/usr/lib/tc", "/lib/tc"].map(Path::new) {
            if folder.is_dir() {
                archive.copy_folder(folder)?;
                break;
            }
        }
        Ok(())
    }
}

fn find(program: &str) -> Result<PathBuf> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("{program} is missing; remedy: `cargo xtask setup`"))
}

fn image(packages: &Path) -> Result<PathBuf> {
    fs::read_dir(packages.join("boot"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        })
        .with_context(|| format!("{} has no kernel", packages.display()))
}

/// Which kernel it is, by its own word.
fn release() -> Job {
    Job {
        name: "kernel".to_owned(),
        limit: 20,
        script: "cat /proc/sys/kernel/osrelease /proc/sys/kernel/version".to_owned(),
    }
}

/// Complaints of the kernel itself.
fn kernel_log() -> Job {
    Job {
        name: "kernel_log".to_owned(),
        limit: 20,
        script:
            "dmesg | grep -E 'BUG:|Oops|WARNING:|general protection|refcount_t' && exit 1\nexit 0"
                .to_owned(),
    }
}

fn collect(kernel: &str, outcomes: &[Outcome], document: &mut Document) {
    let checks: Vec<Check> = outcomes
        .iter()
        .map(|outcome| match outcome.name.as_str() {
            "kernel" => Check::new(
                format!("{kernel}/kernel"),
                outcome.code == Some(0),
                outcome.output.trim().replace('\n', " "),
            ),
            "kernel_log" => Check::new(
                format!("{kernel}/kernel_log"),
                outcome.code == Some(0),
                if outcome.output.is_empty() {
                    "no complaint".to_owned()
                } else {
                    verdict::shortened(&outcome.output)
                },
            ),
            _ => verdict::of_test(kernel, outcome),
        })
        .collect();
    document
        .results
        .extend(verdict::measures(kernel, outcomes, &checks));
    for check in checks.iter().filter(|check| !check.ok) {
        tell(check);
    }
    document.checks.extend(checks);
}

fn tell(check: &Check) {
    let word = if check.ok { "ok" } else { "FAILED" };
    eprintln!("{word} {}: {}", check.name, check.detail);
}

/// A line for each test program as it goes by.
struct Progress<'a> {
    kernel: &'a str,
    program: String,
    counts: [usize; 3],
    seconds: f64,
}

impl<'a> Progress<'a> {
    fn new(kernel: &'a str) -> Self {
        Self {
            kernel,
            program: String::new(),
            counts: [0; 3],
            seconds: 0.0,
        }
    }

    fn told(&mut self, outcome: &Outcome) {
        let Some((program, _)) = outcome.name.split_once("::") else {
            return;
        };
        if program != self.program {
            self.finish();
            self.program = program.to_owned();
        }
        let check = verdict::of_test(self.kernel, outcome);
        let place = match (check.ok, verdict::is_skipped(&check)) {
            (true, false) => 0,
            (true, true) => 1,
            (false, _) => 2,
        };
        if place == 2 {
            eprintln!("    {} failed", check.name);
        }
        self.counts[place] += 1;
        self.seconds += outcome.seconds;
    }

    fn finish(&mut self) {
        if !self.program.is_empty() {
            let [passed, skipped, failed] = self.counts;
            eprintln!(
                "    {}/{}: {passed} passed, {skipped} with skips, {failed} failed ({:.0} s)",
                self.kernel, self.program, self.seconds
            );
        }
        self.program.clear();
        self.counts = [0; 3];
        self.seconds = 0.0;
    }
}

fn summarize(document: &Document) -> Result<()> {
    for check in document
        .checks
        .iter()
        .filter(|check| verdict::is_skipped(check))
    {
        println!("skips: {}: {}", check.name, check.detail);
    }
    for check in &document.checks {
        if check.name.ends_with("/kernel") {
            println!("{}: {}", check.name, check.detail);
        }
    }
    let failed: Vec<&Check> = document.checks.iter().filter(|check| !check.ok).collect();
    for check in &failed {
        println!("failed: {}: {}", check.name, check.detail);
    }
    println!("{} checks, {} failed", document.checks.len(), failed.len());
    if failed.is_empty() {
        Ok(())
    } else {
        bail!(
            "{} of {} checks failed",
            failed.len(),
            document.checks.len()
        )
    }
}
