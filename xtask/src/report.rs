//! The file that `--json` writes: what was measured, what was checked, of which commit.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::shell::{command, output};

/// A single measured value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// What.
    pub metric: String,
    /// Which variant: the kernel.
    pub case: String,
    /// Its unit.
    pub unit: String,
    /// The value.
    pub value: f64,
}

/// Something that was expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What: stable, for scripts.
    pub name: String,
    /// It was so.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
}

impl Check {
    /// A check.
    pub fn new(name: impl Into<String>, ok: bool, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ok,
            detail: detail.into(),
        }
    }
}

/// The whole file.
#[derive(Clone, Debug, Serialize)]
pub struct Document {
    /// What was run.
    pub name: String,
    /// Of which commit.
    pub commit: String,
    /// On which kernel: the machine's own.
    pub kernel: String,
    /// What was measured.
    pub results: Vec<Measure>,
    /// What was expected.
    pub checks: Vec<Check>,
}

impl Document {
    /// An empty document for this commit and kernel.
    pub fn new(name: &str) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            name: name.to_owned(),
            commit: output(&mut command("git", &["rev-parse", "HEAD"]))
                .unwrap_or_else(|| "unknown".to_owned()),
            kernel: kernel.trim().to_owned(),
            results: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// Writes it where it is wanted.
    pub fn write(&self, file: Option<&Path>) -> Result<()> {
        let Some(file) = file else {
            return Ok(());
        };
        let text = serde_json::to_string_pretty(self)?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
    }
}
