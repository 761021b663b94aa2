//! What a run measured and checked: as `--json` writes it, and as people read it.

use std::fmt;
use std::path::Path;
use std::process::{Command, ExitCode};

use serde::Serialize;

/// How a program ends: an error is told on stderr; it and a failed check are a failure.
#[must_use]
pub fn exit_code(result: anyhow::Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A measured quantity.
#[derive(Clone, Debug, Serialize)]
pub struct Measure {
    /// What: `cut_to_page_ms`, ...
    pub metric: String,
    /// Which variant: the scenario.
    pub case: String,
    /// Its unit.
    pub unit: String,
    /// How many samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<usize>,
    /// Quantiles and maximum of the samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    /// See `p50`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95: Option<f64>,
    /// See `p50`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// See `p50`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// A single value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Whose figure it is, where it is not netwatch's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Ours over the best peer's in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

impl Measure {
    /// A distribution; `None` without samples.
    #[must_use]
    pub fn of(metric: &str, case: &str, unit: &str, mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let round = |value: f64| (value * 1_000.0).round() / 1_000.0;
        // Nearest rank.
        let rank = |share: f64| {
            let rank = (share * samples.len() as f64).ceil() as usize;
            samples.get(rank.max(1) - 1).copied().map(round)
        };
        Some(Self {
            metric: metric.to_owned(),
            case: case.to_owned(),
            unit: unit.to_owned(),
            n: Some(samples.len()),
            p50: rank(0.5),
            p95: rank(0.95),
            p99: rank(0.99),
            max: Some(round(*samples.last()?)),
            value: None,
            peer: None,
            ratio: None,
        })
    }

    /// A single value.
    #[must_use]
    pub fn single(metric: &str, case: &str, unit: &str, value: f64) -> Self {
        Self {
            metric: metric.to_owned(),
            case: case.to_owned(),
            unit: unit.to_owned(),
            n: None,
            p50: None,
            p95: None,
            p99: None,
            max: None,
            value: Some((value * 1_000.0).round() / 1_000.0),
            peer: None,
            ratio: None,
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<26} {:<34}", self.metric, self.case)?;
        for (name, value) in [
            ("", self.value),
            (" p50", self.p50),
            (" p99", self.p99),
            (" max", self.max),
        ] {
            if let Some(value) = value {
                write!(f, "{name} {value:.3}")?;
            }
        }
        write!(f, " {}", self.unit)?;
        if let Some(ratio) = self.ratio {
            write!(f, "  ratio {ratio:.3}")?;
        }
        match &self.peer {
            Some(peer) => write!(f, "  ({peer})"),
            None => Ok(()),
        }
    }
}

/// Samples of one quantity in milliseconds; runs of the same scenario add theirs.
#[derive(Clone, Debug)]
pub struct Samples {
    /// What.
    pub metric: String,
    /// Which variant.
    pub case: String,
    /// The samples.
    pub values: Vec<f64>,
}

/// Adds up samples of the same metric and case, in the order in which they first came, into measures.
#[must_use]
pub fn measures(samples: Vec<Samples>) -> Vec<Measure> {
    let mut sums: Vec<Samples> = Vec::new();
    for more in samples {
        match sums
            .iter_mut()
            .find(|sum| sum.metric == more.metric && sum.case == more.case)
        {
            Some(sum) => sum.values.extend(more.values),
            None => sums.push(more),
        }
    }
    sums.into_iter()
        .filter_map(|sum| Measure::of(&sum.metric, &sum.case, "ms", sum.values))
        .collect()
}

/// Makes one check of those with the same name, in the order in which they first came: it holds if
/// each of them does, and tells of the first that does not.
#[must_use]
pub fn merged(checks: Vec<Check>) -> Vec<Check> {
    let mut sums: Vec<(Check, usize, usize)> = Vec::new();
    for check in checks {
        let failed = usize::from(!check.ok);
        match sums.iter_mut().find(|(sum, ..)| sum.name == check.name) {
            Some((sum, all, bad)) => {
                *all += 1;
                *bad += failed;
                if sum.ok && !check.ok {
                    *sum = check;
                }
            }
            None => sums.push((check, 1, failed)),
        }
    }
    sums.into_iter()
        .map(|(mut check, all, bad)| {
            if all > 1 {
                check.detail = format!("{} of {all} runs; {}", all - bad, check.detail);
            }
            check
        })
        .collect()
}

/// Something that was expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// It was so.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
}

impl Check {
    /// A check.
    #[must_use]
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
    /// On which kernel.
    pub kernel: String,
    /// What was measured.
    pub results: Vec<Measure>,
    /// What was expected.
    pub checks: Vec<Check>,
}

impl Document {
    /// An empty document for this commit and kernel.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let commit = Command::new("git")
            .args(["rev-parse", "HEAD"])
            .stderr(std::process::Stdio::null())
            .output()
            .ok()
            .filter(|output| output.status.success())
            .map_or_else(
                || "unknown".to_owned(),
                |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            );
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            name: name.to_owned(),
            commit,
            kernel: kernel.trim().to_owned(),
            results: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// Every check that decides is ok. A noisy rig is reported, and decides nothing.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.checks.iter().all(|check| check.ok || is_noise(check))
    }

    /// Adds a figure, and shows it.
    pub fn add(&mut self, measure: Measure) {
        eprintln!("    {measure}");
        self.results.push(measure);
    }

    /// Adds a check, and shows it.
    pub fn check(&mut self, name: impl Into<String>, ok: bool, detail: impl Into<String>) {
        let check = Check::new(name, ok, detail);
        let outcome = if check.ok { "ok  " } else { "FAIL" };
        eprintln!("  {outcome} {}: {}", check.name, check.detail);
        self.checks.push(check);
    }

    /// Adds what ended the run, if anything did, and writes the file. Whether all checks hold.
    ///
    /// # Errors
    /// What ended the run; the file cannot be written.
    pub fn finish(
        mut self,
        result: anyhow::Result<()>,
        json: Option<&Path>,
    ) -> anyhow::Result<bool> {
        if let Err(error) = &result {
            let check = Check::new("ran", false, format!("{error:#}"));
            self.checks.push(check);
        }
        if let Some(path) = json {
            self.write(path)?;
        }
        result?;
        let failed = self.checks.iter().filter(|check| !check.ok).count();
        eprintln!("{} checks, {failed} failed", self.checks.len());
        Ok(self.ok())
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let part = path.with_extension("part");
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(&part, text)
            .and_then(|()| std::fs::rename(&part, path))
            .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))
    }
}

/// A scenario's `quiet_rig` check.
fn is_noise(check: &Check) -> bool {
    check.name.ends_with("/quiet_rig")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_add_up() {
        let sample = |metric: &str, value: f64| Samples {
            metric: metric.to_owned(),
            case: "c".to_owned(),
            values: vec![value],
        };
        let found = measures(vec![
            sample("a", 3.0),
            sample("b", 9.0),
            sample("a", 1.0),
            sample("a", 2.0),
        ]);
        assert_eq!(found.len(), 2);
        let first = &found[0];
        assert_eq!(
            (first.n, first.p50, first.max),
            (Some(3), Some(2.0), Some(3.0))
        );

        let found = merged(vec![
            Check::new("x", true, "fine"),
            Check::new("y", true, "fine"),
            Check::new("x", false, "broken"),
        ]);
        assert_eq!(found.len(), 2);
        assert!(!found[0].ok && found[0].detail.contains("1 of 2 runs; broken"));
        assert!(found[1].ok && found[1].detail == "fine");
    }
}
