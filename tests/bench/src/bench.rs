//! What every measurement needs: the network, the daemon's binary, the document.

use std::path::PathBuf;
use std::time::Duration;

use lab::ns::Space;
use results::{Document, Measure};

use crate::daemon::Daemon;
use crate::stats;
use crate::world::{self, Config};

/// One run of the benchmark.
pub struct Bench {
    /// The network.
    pub space: Space,
    /// The daemon's program.
    pub binary: PathBuf,
    /// Short, for a look; figures are too noisy to be reported.
    pub quick: bool,
    /// What is written.
    pub document: Document,
    started: u32,
}

impl Bench {
    /// Builds the network.
    ///
    /// # Errors
    /// Not root, or `ip` fails.
    pub fn new(name: &str, binary: PathBuf, quick: bool) -> anyhow::Result<Self> {
        lab::ns::sweep();
        Ok(Self {
            space: world::build()?,
            binary,
            quick,
            document: Document::new(name),
            started: 0,
        })
    }

    /// A fresh daemon in a namespace.
    ///
    /// # Errors
    /// It does not start.
    pub fn daemon(&mut self, role: &str, config: Config) -> anyhow::Result<Daemon> {
        self.started += 1;
        let directory = self
            .space
            .directory()
            .join(format!("daemon-{}", self.started));
        std::fs::create_dir_all(&directory)?;
        let text = config.text(&directory);
        Daemon::start(&self.space, role, &self.binary, &text, &directory)
    }

    /// The longer time, or the shorter one of a quick run.
    pub fn time(&self, full: f64, quick: f64) -> Duration {
        Duration::from_secs_f64(if self.quick { quick } else { full })
    }

    /// The larger number, or the smaller one of a quick run.
    pub fn count(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// Adds a single figure.
    pub fn single(&mut self, metric: &str, case: &str, unit: &str, value: f64) {
        self.add(Measure::single(metric, case, unit, value));
    }

    /// Adds a figure.
    pub fn add(&mut self, measure: Measure) {
        self.document.add(measure);
    }

    /// Adds a check.
    pub fn check(&mut self, name: impl Into<String>, ok: bool, detail: impl Into<String>) {
        self.document.check(name, ok, detail);
    }

    /// Adds a check that a figure is at most so much.
    pub fn at_most(&mut self, name: impl Into<String>, figure: f64, limit: f64, what: &str) {
        self.check(
            name,
            figure <= limit,
            format!("{figure:.3} {what}, at most {limit} wanted"),
        );
    }

    /// A measurement whose failure is a failed check, not the end of the others.
    ///
    /// # Errors
    /// Interrupted.
    pub fn part(
        &mut self,
        name: &str,
        run: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        eprintln!("==> {name}");
        if let Err(error) = run(self) {
            anyhow::ensure!(!lab::sys::interrupted(), "interrupted");
            self.check(format!("{name}/measured"), false, format!("{error:#}"));
        }
        Ok(())
    }
}

/// A figure with the spread of its blocks.
pub fn spread(metric: &str, case: &str, unit: &str, value: f64, blocks: &[f64]) -> Measure {
    let round = |value: f64| (value * 1_000.0).round() / 1_000.0;
    let mut measure = Measure::single(metric, case, unit, value);
    measure.n = Some(blocks.len());
    measure.p50 = stats::median(blocks).map(round);
    measure.max = stats::quantile(blocks, 1.0).map(round);
    measure
}
