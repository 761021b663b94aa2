//! Days of benign disturbance: nobody may be woken, nothing rerouted.

use std::collections::BTreeMap;
use std::fmt::Write;

use events::Severity;
use results::{Check, Document, Measure};

use crate::draw::world_seed;
use crate::params::Params;
use crate::run::in_parallel;
use crate::world::{Ran, World};

/// Wrong deeds told in full at most.
const TOLD: usize = 20;

/// What a host's day came to.
struct Day {
    seed: u64,
    disturbances: usize,
    inputs: u64,
    verdicts: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
}

impl Day {
    fn of(seed: u64, ran: &Ran) -> Self {
        let at = |at: u64| {
            let seconds = (at - ran.span.warm) as f64 / 1e6;
            format!("{seconds:.3} s into the day")
        };
        let mut verdicts = BTreeMap::new();
        for said in &ran.seen.said {
            *verdicts.entry(said.verdict.class()).or_default() += 1;
        }
        let pages = ran
            .seen
            .pages
            .iter()
            .filter(|p| p.trigger && p.severity == Severity::Critical)
            .map(|p| format!("critical page {}: {}", at(p.at), p.summary));
        let installed = ran
            .seen
            .installed
            .iter()
            .map(|i| format!("reroute {}: {}", at(i.at), i.routes.join(", ")));
        let b = &ran.benign;
        Self {
            seed,
            disturbances: b.lossy_times.len()
                + b.bloats.len()
                + b.restarts.len()
                + b.standstills.len()
                + b.jumps.len()
                + b.lags.len()
                + b.noise.len()
                + b.flaps.len()
                + b.lost.len(),
            inputs: ran.seen.inputs,
            verdicts,
            wrong: pages.chain(installed).collect(),
        }
    }
}

/// Runs so many host-days and reports; the report is for people.
#[must_use]
pub fn run(params: &Params, days: usize, seed: u64, document: &mut Document) -> String {
    let all = in_parallel(days, "host-days", |index| {
        let seed = world_seed(seed, index as u64);
        Day::of(seed, &World::benign_day(params, seed, false).run())
    });
    let mut out = String::new();
    let disturbances: usize = all.iter().map(|d| d.disturbances).sum();
    let inputs: u64 = all.iter().map(|d| d.inputs).sum();
    let wrong: usize = all.iter().map(|d| d.wrong.len()).sum();
    let _ = writeln!(
        out,
        "{days} host-days, {disturbances} disturbances, {:.1} million inputs, {wrong} wrong actions",
        inputs as f64 / 1e6
    );
    let mut verdicts: BTreeMap<&str, usize> = BTreeMap::new();
    for day in &all {
        for (class, count) in &day.verdicts {
            *verdicts.entry(class).or_default() += count;
        }
    }
    for (class, count) in verdicts {
        let _ = writeln!(out, "  verdict {class}: {count}");
    }
    let told = all
        .iter()
        .flat_map(|day| day.wrong.iter().map(|w| (day.seed, w)));
    for (seed, what) in told.take(TOLD) {
        let _ = writeln!(out, "--benign-day {seed}: {what}");
    }
    let mut measure = Measure::single("wrong_actions", "benign days", "", wrong as f64);
    measure.n = Some(days);
    document.results.push(measure);
    document.checks.push(Check::new(
        "benign_days",
        wrong == 0,
        format!("{wrong} critical pages or reroutes in {days} host-days with {disturbances} disturbances"),
    ));
    out
}
