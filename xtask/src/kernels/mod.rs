//! The kernel matrix: the same live tests on several kernels, booted in emulation, and on this
//! machine's own.

mod archive;
mod catalogue;
mod degrade;
mod guest;
mod job;
mod machine;
mod modules;
mod packages;
mod programs;
mod verdict;

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup;
use crate::shell::{root, step};
use archive::Archive;
use catalogue::{KERNELS, Kernel, LOADED};
use degrade::Expected;
use job::{Job, Outcome};
use machine::Machine;
use modules::Module;
use packages::Cache;
use programs::TestProgram;
use results::{Check, Document};

const HOST: &str = "host";
const ALL: &str = "all";
/// Where guests have the daemon.
const NETWATCH: &str = "/t/netwatch";
/// The test that compares offsets.
const OFFSETS: &str = "offsets";
/// The test that also tells what lockdown forbids.
const EACH_HOOK: &str = "matrix::each_hook_of_each_ladder_attaches";
/// The job that leaves the kernel's type information on the disk.
const BTF: &str = "type_information";

/// Arguments of `cargo xtask kernels`.
#[derive(Args)]
pub struct Kernels {
    /// Which: host (this machine's own), 5.4, 5.10, 5.15, 6.1, 6.12, all
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
        if let Some(file) = &file {
            document.write(file)?;
        }
        summarize(&document)
    }

    fn run_into(&self, document: &mut Document) -> Result<()> {
        let wanted = wanted(&self.kernels)?;
        setup::run()?;
        setup::install(&["binutils", "xz-utils"])?;
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root().join("target"), PathBuf::from);
        let cache = Cache::open(&target, self.update)?;
        let programs = cache.folder("programs")?;
        let tests = programs::tests(&programs)?;
        let matrix = Matrix {
            only: self.only.as_deref(),
            named: !self.kernels.iter().any(|name| name == ALL),
            netwatch: degrade::jobs("")
                .iter()
                .any(|job| {
                    self.only
                        .as_ref()
                        .is_none_or(|only| job.name.contains(only))
                })
                .then(|| programs::netwatch(&target, &programs))
                .transpose()?,
            cache,
            tests,
        };
        for kernel in wanted {
            let name = kernel.name();
            let ran = match kernel {
                Wanted::Guest(kernel) => matrix.guest(kernel, document),
                Wanted::Host => matrix.host(document),
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

/// A kernel to run things on.
#[derive(Clone, Copy)]
enum Wanted {
    /// This machine's own.
    Host,
    Guest(&'static Kernel),
}

impl Wanted {
    fn name(self) -> &'static str {
        match self {
            Self::Host => HOST,
            Self::Guest(kernel) => kernel.name,
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        let guests = KERNELS.iter().map(Self::Guest);
        [Self::Host].into_iter().chain(guests)
    }
}

fn wanted(names: &[String]) -> Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    for name in names {
        let before = wanted.len();
        wanted.extend(Wanted::all().filter(|kernel| name == ALL || kernel.name() == name));
        if wanted.len() == before {
            let known: Vec<_> = Wanted::all().map(Wanted::name).collect();
            bail!(
                "there is no kernel {name}; there are {}, {ALL}",
                known.join(", ")
            );
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
    /// Only if one of its jobs is wanted.
    netwatch: Option<PathBuf>,
}

impl Matrix<'_> {
    fn host(&self, document: &mut Document) -> Result<()> {
        let path = |program: &TestProgram| program.path.display().to_string();
        let doctor = self
            .netwatch
            .as_ref()
            .map(|netwatch| degrade::doctor(&netwatch.display().to_string()));
        let tests = programs::jobs(&self.tests, path);
        let jobs = self.chosen(doctor.into_iter().chain(tests));
        step(&format!(
            "{HOST}: {} jobs on this machine's own kernel",
            jobs.len()
        ));
        let mut progress = Progress::new(HOST);
        let outcomes = job::run_here(&jobs, &[], |outcome| progress.told(outcome))?;
        progress.finish();
        collect(HOST, &outcomes, Expected::Works, document);
        Ok(())
    }

    /// A kernel in an emulated machine: all tests, then the daemon under lockdown.
    fn guest(&self, kernel: &Kernel, document: &mut Document) -> Result<()> {
        let name = kernel.name;
        let packages = match self.cache.kernel(kernel) {
            Ok(packages) => packages,
            Err(error) if kernel.optional && !self.named => {
                let detail = format!("SKIPPED: {error:#}");
                let check = Check::new(format!("{name}/kernel"), true, detail);
                tell(&check);
                document.checks.push(check);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let modules = modules::of(&packages)?;
        let qemu = self.cache.qemu()?;
        let image = image(&packages)?;
        let machine = |options| Machine {
            qemu: &qemu,
            kernel: &image,
            options,
        };
        let daemon = degrade::jobs(NETWATCH);
        if !kernel.btf {
            let jobs = self.chosen(daemon);
            let work = self.cache.folder(&format!("run-{name}"))?;
            let outcomes = self.boot(name, &machine("quiet"), &work, &modules, &jobs)?;
            let expected = Expected::Refused("type information", "CONFIG_DEBUG_INFO_BTF");
            collect(name, &outcomes, expected, document);
            return Ok(());
        }
        let tests = programs::jobs(&self.tests, |program| format!("/t/{}", program.name));

        let mut jobs = self.chosen(daemon.iter().chain(&tests).cloned());
        jobs.extend([kernel_log(), type_information()]);
        let work = self.cache.folder(&format!("run-{name}"))?;
        let mut outcomes = self.boot(name, &machine("quiet"), &work, &modules, &jobs)?;
        if let Some(ended) = outcomes.iter().find(|outcome| outcome.name == BTF) {
            let offsets = self.offsets(name, &work, ended)?;
            outcomes.extend(offsets);
        }
        outcomes.retain(|outcome| outcome.name != BTF);
        collect(name, &outcomes, Expected::Works, document);

        let each_hook = tests.into_iter().filter(|job| job.name == EACH_HOOK);
        let jobs = self.chosen(daemon.into_iter().chain(each_hook));
        let name = format!("{name}-lockdown");
        let work = self.cache.folder(&format!("run-{name}"))?;
        let lockdown = machine("quiet lsm=lockdown lockdown=confidentiality");
        let outcomes = self.boot(&name, &lockdown, &work, &modules, &jobs)?;
        collect(&name, &outcomes, Expected::Limited("lockdown"), document);
        Ok(())
    }

    /// The wanted jobs, after one that says which kernel it is.
    fn chosen(&self, jobs: impl IntoIterator<Item = Job>) -> Vec<Job> {
        let wanted = |job: &Job| self.only.is_none_or(|only| job.name.contains(only));
        std::iter::once(release())
            .chain(jobs.into_iter().filter(wanted))
            .collect()
    }

    fn boot(
        &self,
        name: &str,
        machine: &Machine<'_>,
        work: &Path,
        modules: &[Module],
        jobs: &[Job],
    ) -> Result<Vec<Outcome>> {
        step(&format!("{name}: booting, {} jobs", jobs.len()));
        let busybox = self.cache.busybox()?.join("bin/busybox");
        let mut archive = guest::base(&busybox, modules, LOADED)?;
        self.add_programs(&mut archive)?;
        let guest = if machine.options.contains("lockdown") {
            "lockdown"
        } else {
            "full"
        };
        let environment = [
            ("NETWATCH_TEST_DISK", "/dev/vda"),
            ("NETWATCH_TEST_GUEST", guest),
        ];
        guest::add_jobs(&mut archive, jobs, &environment);
        let mut progress = Progress::new(name);
        let boot = machine::boot(machine, work, &archive.finish(), jobs, |outcome| {
            progress.told(outcome);
        })?;
        progress.finish();
        for remark in &boot.remarks {
            step(&format!("{name}: {remark}"));
        }
        Ok(boot.outcomes)
    }

    /// Compares offsets by the type information that a guest has left on its disk.
    fn offsets(&self, name: &str, work: &Path, left: &Outcome) -> Result<Vec<Outcome>> {
        let Ok(length) = left.output.trim().parse::<u64>() else {
            return Ok(vec![Outcome {
                name: format!("{OFFSETS}::unread"),
                ..left.clone()
            }]);
        };
        let file = work.join(name);
        let disk = File::open(machine::disk(work))?;
        std::io::copy(&mut disk.take(length), &mut File::create(&file)?)?;
        let tests = self.tests.iter().filter(|program| program.name == OFFSETS);
        let jobs: Vec<Job> = tests
            .flat_map(|program| {
                let path = program.path.display().to_string();
                programs::jobs(std::slice::from_ref(program), |_| path.clone())
            })
            .map(|job| Job {
                name: format!("{}, outside of the guest", job.name),
                ..job
            })
            .collect();
        job::run_here(&jobs, &[("NETWATCH_TEST_BTF", file.as_os_str())], |_| {})
    }

    fn add_programs(&self, archive: &mut Archive) -> Result<()> {
        if let Some(netwatch) = &self.netwatch {
            archive.program(netwatch, NETWATCH)?;
        }
        for program in &self.tests {
            archive.program(&program.path, format!("/t/{}", program.name))?;
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

/// The kernel's type information goes to the disk, its length is told.
fn type_information() -> Job {
    let file = "/sys/kernel/btf/vmlinux";
    Job {
        name: BTF.to_owned(),
        limit: 60,
        script: format!("dd if={file} of=/dev/vda bs=1M 2>/dev/null && sync && wc -c <{file}"),
    }
}

fn collect(kernel: &str, outcomes: &[Outcome], expected: Expected<'_>, document: &mut Document) {
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
            _ => degrade::check(kernel, outcome, expected)
                .unwrap_or_else(|| verdict::of_test(kernel, outcome)),
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
