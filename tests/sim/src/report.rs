//! The report: for people, and as `--json` has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use results::{Check, Document, Measure};

use crate::judge::Judged;

/// Figures of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Reroutes and critical pages that were wrong.
    pub wrong_actions: usize,
    /// Share of actionable partitions that were found, and how many there were.
    pub recall: (f64, usize),
    /// Share of those for which a route was asked for that helps.
    pub rerouted: f64,
    /// Share of first faults with a right verdict at any time, those too that need not be found, and how
    /// many there were.
    pub named: (f64, usize),
    /// Share of worlds with the right classes.
    pub class: f64,
    /// Share of right culprits where BGP tells, and how often it does.
    pub culprit: (f64, usize),
    /// From the fault to the first right verdict: median and 95th percentile, milliseconds.
    pub decision_ms: (f64, f64),
}

fn share(all: usize, good: usize) -> f64 {
    if all == 0 {
        1.0
    } else {
        good as f64 / all as f64
    }
}

impl Figures {
    /// Of these worlds.
    #[must_use]
    pub fn of(worlds: &[Judged]) -> Self {
        let of = |answer: fn(&Judged) -> Option<bool>| {
            let told: Vec<bool> = worlds.iter().filter_map(answer).collect();
            let good = told.iter().filter(|t| **t).count();
            (share(told.len(), good), told.len())
        };
        Self {
            wrong_actions: worlds.iter().map(|w| w.wrong.len()).sum(),
            recall: of(|w| w.found),
            rerouted: of(|w| w.rerouted).0,
            named: of(|w| (!w.kinds.is_empty()).then_some(w.decision_ms.is_some())),
            class: of(|w| Some(w.right)).0,
            culprit: of(|w| w.culprit),
            decision_ms: Measure::of(
                "decision_ms",
                "all",
                "ms",
                worlds.iter().filter_map(|w| w.decision_ms).collect(),
            )
            .map_or((0.0, 0.0), |m| {
                (m.p50.unwrap_or_default(), m.p95.unwrap_or_default())
            }),
        }
    }

    /// One line.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "wrong actions {}, recall {:.2} % of {}, rerouted {:.2} %, named {:.2} % of {}, class {:.2} %, culprit {:.2} % of {}, decision p50 {:.0} ms p95 {:.0} ms",
            self.wrong_actions,
            self.recall.0 * 100.0,
            self.recall.1,
            self.rerouted * 100.0,
            self.named.0 * 100.0,
            self.named.1,
            self.class * 100.0,
            self.culprit.0 * 100.0,
            self.culprit.1,
            self.decision_ms.0,
            self.decision_ms.1,
        )
    }

    /// Something is worse than in others.
    #[must_use]
    pub fn is_worse_than(&self, other: &Self) -> bool {
        self.wrong_actions > other.wrong_actions
            || self.recall.0 < other.recall.0
            || self.rerouted < other.rerouted
            || self.named.0 < other.named.0
            || self.class < other.class
            || self.culprit.0 < other.culprit.0
            || self.decision_ms.0 > other.decision_ms.0
            || self.decision_ms.1 > other.decision_ms.1
    }
}

/// The name that a world's faults have in the matrix.
fn row(world: &Judged) -> String {
    if world.kinds.len() > 1 {
        "two faults".to_owned()
    } else {
        world.fault()
    }
}

/// The report for people.
#[must_use]
pub fn text(worlds: &[Judged], minutes: f64) -> String {
    let mut out = String::new();
    let figures = Figures::of(worlds);
    let _ = writeln!(
        out,
        "{} worlds, {:.0} a minute, {:.1} million inputs",
        worlds.len(),
        worlds.len() as f64 / minutes,
        worlds.iter().map(|w| w.inputs).sum::<u64>() as f64 / 1e6
    );
    let _ = writeln!(out, "{}\n", figures.line());
    matrix(&mut out, worlds);
    times(&mut out, worlds);
    misjudged(&mut out, worlds);
    out
}

fn matrix(out: &mut String, worlds: &[Judged]) {
    let columns: BTreeSet<&str> = worlds.iter().map(|w| w.verdict.as_str()).collect();
    let mut rows: BTreeMap<String, Vec<&Judged>> = BTreeMap::new();
    for world in worlds {
        rows.entry(row(world)).or_default().push(world);
    }
    let _ = write!(out, "{:18}", "fault \\ verdict");
    for column in &columns {
        let _ = write!(out, "{column:>16}");
    }
    let _ = writeln!(out, "{:>9}{:>7}", "right %", "wrong");
    for (name, worlds) in &rows {
        let _ = write!(out, "{name:18}");
        for column in &columns {
            let count = worlds.iter().filter(|w| w.verdict == *column).count();
            let shown = if count == 0 {
                ".".to_owned()
            } else {
                count.to_string()
            };
            let _ = write!(out, "{shown:>16}");
        }
        let right = worlds.iter().filter(|w| w.right).count();
        let wrong: usize = worlds.iter().map(|w| w.wrong.len()).sum();
        let _ = writeln!(out, "{:>9.1}{wrong:>7}", share(worlds.len(), right) * 100.0);
    }
    out.push('\n');
}

fn decisions(worlds: &[Judged]) -> BTreeMap<String, Vec<f64>> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for world in worlds {
        if let (1, Some(ms)) = (world.kinds.len(), world.decision_ms) {
            let case = format!("{}/{}", world.fault(), world.traffic);
            all.entry(case).or_default().push(ms);
        }
    }
    all
}

fn times(out: &mut String, worlds: &[Judged]) {
    let _ = writeln!(
        out,
        "{:32}{:>7}{:>9}{:>9}{:>9}{:>9}",
        "from fault to verdict, ms", "n", "p50", "p95", "p99", "max"
    );
    for (case, samples) in decisions(worlds) {
        if let Some(m) = Measure::of("decision_ms", &case, "ms", samples) {
            let show = |value: Option<f64>| value.map_or(String::new(), |v| format!("{v:.0}"));
            let _ = writeln!(
                out,
                "{case:32}{:>7}{:>9}{:>9}{:>9}{:>9}",
                m.n.unwrap_or_default(),
                show(m.p50),
                show(m.p95),
                show(m.p99),
                show(m.max)
            );
        }
    }
    out.push('\n');
}

fn misjudged(out: &mut String, worlds: &[Judged]) {
    let mut by_row: BTreeMap<(bool, String), Vec<&Judged>> = BTreeMap::new();
    for world in worlds.iter().filter(|w| w.misjudged()) {
        // Wrong actions first.
        let key = (world.wrong.is_empty(), row(world));
        by_row.entry(key).or_default().push(world);
    }
    for worlds in by_row.into_values() {
        for world in worlds {
            let _ = writeln!(
                out,
                "--world {} ({}, {}, {}, {} peers): {}",
                world.seed,
                world.fault(),
                world.traffic,
                world.feed,
                world.peers,
                world
                    .wrong
                    .iter()
                    .map(|w| format!("WRONG {w}"))
                    .chain(world.notes.iter().cloned())
                    .collect::<Vec<_>>()
                    .join("; ")
            );
        }
    }
}

/// Results and checks.
pub fn fill(document: &mut Document, worlds: &[Judged], minutes: f64) {
    let figures = Figures::of(worlds);
    let mut single = |metric: &str, case: &str, unit: &str, value: f64, n: usize| {
        let mut measure = Measure::single(metric, case, unit, value);
        // Three digits are too few for a share.
        measure.value = Some((value * 1e6).round() / 1e6);
        measure.n = Some(n);
        document.results.push(measure);
    };
    let n = worlds.len();
    single("wrong_actions", "all", "", figures.wrong_actions as f64, n);
    single("recall", "all", "share", figures.recall.0, figures.recall.1);
    single(
        "recall",
        "rerouted",
        "share",
        figures.rerouted,
        figures.recall.1,
    );
    single("named", "all", "share", figures.named.0, figures.named.1);
    single("class_accuracy", "all", "share", figures.class, n);
    single(
        "culprit_accuracy",
        "bgp tells",
        "share",
        figures.culprit.0,
        figures.culprit.1,
    );
    let mut rows: BTreeMap<String, Vec<Judged>> = BTreeMap::new();
    for world in worlds {
        rows.entry(row(world)).or_default().push(world.clone());
    }
    for (name, worlds) in &rows {
        let of = Figures::of(worlds);
        single("class_accuracy", name, "share", of.class, worlds.len());
        single(
            "wrong_actions",
            name,
            "",
            of.wrong_actions as f64,
            worlds.len(),
        );
    }
    single("worlds_per_minute", "all", "1/min", n as f64 / minutes, n);
    for (case, samples) in decisions(worlds) {
        document
            .results
            .extend(Measure::of("decision_ms", &case, "ms", samples));
    }
    let seeds = |worlds: Vec<&Judged>| {
        let some: Vec<String> = worlds.iter().take(8).map(|w| w.seed.to_string()).collect();
        some.join(" ")
    };
    let bad = worlds.iter().filter(|w| !w.wrong.is_empty()).collect();
    let lost = worlds.iter().filter(|w| w.found == Some(false)).collect();
    let checks = [
        (
            "wrong_actions",
            figures.wrong_actions == 0,
            format!("{} in {n} worlds; {}", figures.wrong_actions, seeds(bad)),
        ),
        (
            "recall",
            figures.recall.0 >= 0.995,
            format!(
                "{:.3} % of {}, goal 99.5; {}",
                figures.recall.0 * 100.0,
                figures.recall.1,
                seeds(lost)
            ),
        ),
        (
            "class_accuracy",
            figures.class >= 0.97,
            format!("{:.2} % of {n}, goal 97", figures.class * 100.0),
        ),
        (
            "culprit_accuracy",
            figures.culprit.0 >= 0.95,
            format!(
                "{:.2} % of {}, goal 95",
                figures.culprit.0 * 100.0,
                figures.culprit.1
            ),
        ),
    ];
    for (name, ok, detail) in checks {
        document.checks.push(Check::new(name, ok, detail));
    }
}

/// Figures without one kind of evidence, beside those of the same worlds with all of it.
pub fn ablated(document: &mut Document, kind: &str, full: &Figures, figures: &Figures) {
    let case = format!("without {kind}");
    for (metric, unit, value) in [
        ("wrong_actions", "", figures.wrong_actions as f64),
        ("recall", "share", figures.recall.0),
        ("named", "share", figures.named.0),
        ("class_accuracy", "share", figures.class),
        ("culprit_accuracy", "share", figures.culprit.0),
        ("decision_ms", "ms", figures.decision_ms.0),
    ] {
        let mut measure = Measure::single(metric, &case, unit, value);
        measure.value = Some((value * 1e6).round() / 1e6);
        document.results.push(measure);
    }
    document.checks.push(Check::new(
        format!("needs/{kind}"),
        figures.is_worse_than(full),
        figures.line(),
    ));
}
