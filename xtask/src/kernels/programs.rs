//! Builds what is run: every test of `full-stack-probes`, and the daemon.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::job::Job;
use crate::shell::{cargo, output, run, step};

/// Seconds that a single test may take, on an emulated processor that others use too.
const TEST_LIMIT: u32 = 600;

/// A test program with the names of its tests.
#[derive(Debug)]
pub struct TestProgram {
    /// The name of its source file.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    tests: Vec<String>,
}

/// Builds all tests, whatever there is, and copies them to a folder.
pub fn tests(folder: &Path) -> Result<Vec<TestProgram>> {
    step("building the tests of full-stack-probes");
    let built = cargo(&[
        "test",
        "-p",
        "full-stack-probes",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ])
    .stdin(Stdio::null())
    .stderr(Stdio::inherit())
    .output()
    .context("cargo does not start")?;
    if !built.status.success() {
        bail!("the tests of full-stack-probes do not build");
    }
    let text = String::from_utf8_lossy(&built.stdout);
    let mut programs = Vec::new();
    for message in text.lines() {
        let message: Value = serde_json::from_str(message).context("cargo's messages")?;
        if message["profile"]["test"] != true {
            continue;
        }
        let (Some(name), Some(path)) = (
            message["target"]["name"].as_str(),
            message["executable"].as_str(),
        ) else {
            continue;
        };
        let path = stripped(Path::new(path), folder, name)?;
        let list = output(Command::new(&path).args(["--list", "--format", "terse"]))
            .with_context(|| format!("{} does not list its tests", path.display()))?;
        programs.push(TestProgram {
            name: name.to_owned(),
            tests: list
                .lines()
                .filter_map(|line| line.strip_suffix(": test"))
                .map(str::to_owned)
                .collect(),
            path,
        });
    }
    if programs.iter().all(|program| program.tests.is_empty()) {
        bail!("full-stack-probes has no tests");
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

/// A job for each test.
pub fn jobs(programs: &[TestProgram], place: impl Fn(&TestProgram) -> String) -> Vec<Job> {
    let mut jobs = Vec::new();
    for program in programs {
        let path = place(program);
        jobs.extend(program.tests.iter().map(|test| Job {
            name: format!("{}::{test}", program.name),
            limit: TEST_LIMIT,
            script: format!("exec {path} --exact {test} --test-threads=1 --nocapture"),
        }));
    }
    jobs
}

/// Builds the daemon, and copies it to a folder.
pub fn netwatch(target: &Path, folder: &Path) -> Result<PathBuf> {
    step("building netwatch");
    run(&mut cargo(&["build", "-p", "netwatch"]))?;
    let program = target.join("debug/netwatch");
    if !program.is_file() {
        bail!("the build left no {}", program.display());
    }
    stripped(&program, folder, "netwatch")
}

/// A copy without symbols: a fifth of the size, and what is built meanwhile does not change it.
pub fn stripped(program: &Path, folder: &Path, name: &str) -> Result<PathBuf> {
    let copy = folder.join(name);
    run(Command::new("strip").arg("-o").arg(&copy).arg(program))?;
    Ok(copy)
}
