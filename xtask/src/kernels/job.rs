//! What is run on a kernel, and what comes back.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

/// A shell script with a time limit.
#[derive(Clone, Debug)]
pub struct Job {
    /// The check that it becomes, without the kernel's name.
    pub name: String,
    /// Seconds after which it is killed.
    pub limit: u32,
    /// The script; its exit code decides.
    pub script: String,
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The job's name.
    pub name: String,
    /// Its exit code; `None`: it never ended, because the machine stopped.
    pub code: Option<i32>,
    /// Everything that it printed.
    pub output: String,
    /// How long it took by its kernel's clock.
    pub seconds: f64,
}

/// What 128 + SIGKILL looks like: the limit was reached.
pub const KILLED: i32 = 137;

/// Runs jobs on this machine's own kernel.
pub fn run_here(
    jobs: &[Job],
    environment: &[(&str, &OsStr)],
    mut told: impl FnMut(&Outcome),
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for job in jobs {
        let start = Instant::now();
        let output = Command::new("timeout")
            .args(["-s", "KILL", &job.limit.to_string(), "sh", "-c"])
            .arg(format!("exec 2>&1\n{}", job.script))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .context("`timeout` does not start")?;
        let outcome = Outcome {
            name: job.name.clone(),
            // Killed by its own signal, `timeout` itself has no code.
            code: Some(output.status.code().unwrap_or(KILLED)),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            seconds: start.elapsed().as_secs_f64(),
        };
        told(&outcome);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}
