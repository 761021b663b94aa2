//! From what was seen to figures and checks.

use results::{Check, Document, Measure};

use crate::block::Seen;
use crate::cases::{Case, GOALS, Goal};
use crate::{bfd, stats};

/// All cuts of one block.
pub struct Cuts {
    /// What was cut.
    pub case: Case,
    /// Whose figures the route and the traffic are, where not netwatch's.
    pub peer: Option<&'static str>,
    /// See [`crate::block::Actor::variant`].
    pub variant: &'static str,
    /// One of each.
    pub seen: Vec<Seen>,
    /// Count cuts during which the rig itself was late or lost packets.
    pub noisy_too: bool,
}

impl Cuts {
    /// The case in results, with the variant.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}{}", self.case.name, self.variant)
    }

    /// The cuts that count.
    pub fn counted(&self) -> impl Iterator<Item = &Seen> {
        self.seen
            .iter()
            .filter(|seen| self.noisy_too || seen.noisy.is_none())
    }

    /// Samples by metric, those of a cut together.
    fn groups(&self) -> Vec<(&'static str, Vec<Vec<f64>>)> {
        let each = |of: &dyn Fn(&Seen) -> Vec<f64>| -> Vec<Vec<f64>> {
            self.counted()
                .map(of)
                .filter(|found| !found.is_empty())
                .collect()
        };
        let one = |of: fn(&Seen) -> Option<f64>| each(&|seen| of(seen).into_iter().collect());
        vec![
            ("cut_to_suspect_ms", one(|seen| seen.suspect)),
            (
                "cut_to_verdict_ms",
                match self.peer {
                    None => one(|seen| seen.verdict),
                    Some(peer) => each(&|seen| {
                        seen.watchers
                            .get(peer)
                            .map_or_else(Vec::new, |(at, _)| at.clone())
                    }),
                },
            ),
            ("cut_to_route_ms", one(|seen| seen.route)),
            (
                "verdict_to_route_ms",
                one(|seen| Some(seen.route? - seen.verdict?)),
            ),
            ("cut_to_page_ms", one(|seen| seen.page)),
            ("cut_to_traffic_ms", each(&|seen| seen.traffic.clone())),
        ]
    }

    fn sorted(&self, metric: &str) -> Vec<f64> {
        let groups = self.groups().into_iter().find(|(name, _)| *name == metric);
        let mut all: Vec<f64> = groups.into_iter().flat_map(|(_, g)| g).flatten().collect();
        all.sort_by(f64::total_cmp);
        all
    }
}

/// A distribution and the ends of its percentiles' 95 % intervals.
fn measures(metric: &str, case: &str, peer: Option<&str>, groups: &[Vec<f64>]) -> Vec<Measure> {
    let mut sorted: Vec<f64> = groups.iter().flatten().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let Some(mut measure) = Measure::of(metric, case, "ms", sorted.clone()) else {
        return Vec::new();
    };
    measure.peer = peer.map(str::to_owned);
    let alone = groups.iter().all(|group| group.len() == 1);
    let interval = stats::SHARES.map(|share| {
        if alone {
            stats::order_interval(&sorted, share)
        } else {
            stats::group_interval(groups, share)
        }
    });
    let ends = |name: &str, end: fn(&stats::Interval) -> Option<f64>| {
        let round = |value: f64| (value * 1_000.0).round() / 1_000.0;
        let [p50, p95, p99] = interval.each_ref().map(|both| end(both).map(round));
        Measure {
            case: format!("{case}/{name}"),
            p50,
            p95,
            p99,
            max: None,
            ..measure.clone()
        }
    };
    let (low, high) = (
        ends("interval_low", |both| both.0),
        ends("interval_high", |both| both.1),
    );
    vec![measure, low, high]
}

/// Adds the figures and checks of all blocks to the document.
pub fn add(document: &mut Document, all: &[Cuts]) {
    for cuts in all {
        figures(document, cuts);
        checks(document, cuts);
    }
    ratios(&mut document.results);
    for goal in GOALS {
        if let Some(cuts) = all.iter().find(|cuts| {
            cuts.peer.is_none()
                && cuts.case.name == goal.case
                && cuts.variant == if goal.nudge { "/nudge" } else { "" }
        }) {
            document.checks.extend(reached(&goal, cuts));
        }
    }
    compare(document, all);
}

fn figures(document: &mut Document, cuts: &Cuts) {
    let case = cuts.name();
    for (metric, groups) in cuts.groups() {
        document
            .results
            .extend(measures(metric, &case, cuts.peer, &groups));
    }
    if cuts.peer.is_some() {
        return;
    }
    let counted: Vec<&Seen> = cuts.counted().collect();
    let names: std::collections::BTreeSet<&'static str> = counted
        .iter()
        .flat_map(|seen| seen.watchers.keys().copied())
        .collect();
    for name in names {
        let looked: Vec<&(Vec<f64>, usize)> = counted
            .iter()
            .filter_map(|seen| seen.watchers.get(name))
            .collect();
        let saw = looked.iter().map(|(at, _)| at).filter(|at| !at.is_empty());
        let groups: Vec<Vec<f64>> = saw.cloned().collect();
        document
            .results
            .extend(measures("cut_to_verdict_ms", &case, Some(name), &groups));
        let mut share = share(
            &case,
            groups.iter().map(Vec::len).sum(),
            looked.iter().map(|(_, of)| of).sum(),
        );
        share.peer = Some(name.to_owned());
        document.results.push(share);
    }
    let found = counted.iter().filter(|seen| seen.verdict.is_some()).count();
    document.results.push(share(&case, found, counted.len()));
}

/// How many of those that looked on detected something at all before the heal.
fn share(case: &str, found: usize, of: usize) -> Measure {
    let mut measure = Measure::single(
        "detected_share",
        case,
        "ratio",
        found as f64 / of.max(1) as f64,
    );
    measure.n = Some(of);
    measure
}

/// What Prometheus with the blackbox exporter would need: its next probe begins after up to 15 s
/// and fails after the exporter's default timeout (scrape timeout 10 s less 0.5 s).
#[must_use]
pub fn blackbox(case: &str) -> Measure {
    let at = |share: f64| Some((15.0 * share + 9.5) * 1_000.0);
    Measure {
        n: None,
        p50: at(0.5),
        p95: at(0.95),
        p99: at(0.99),
        max: at(1.0),
        value: None,
        peer: Some("Prometheus blackbox 15 s (computed)".to_owned()),
        ..Measure::single("cut_to_verdict_ms", case, "ms", 0.0)
    }
}

/// Ours over the best peer's, by the medians.
fn ratios(results: &mut [Measure]) {
    let peers: Vec<(String, String, f64)> = results
        .iter()
        .filter(|m| m.peer.is_some() && !m.case.contains("/interval_"))
        .filter_map(|m| Some((m.metric.clone(), m.case.clone(), m.p50?)))
        .collect();
    for ours in results.iter_mut() {
        let Some(p50) = ours.p50.filter(|_| ours.peer.is_none()) else {
            continue;
        };
        let case = ours.case.trim_end_matches("/nudge").to_owned();
        let best = peers
            .iter()
            .filter(|(metric, of, _)| *metric == ours.metric && *of == case)
            .map(|(.., p50)| *p50)
            .min_by(f64::total_cmp);
        ours.ratio = best.map(|best| (p50 / best * 1_000.0).round() / 1_000.0);
    }
}

fn checks(document: &mut Document, cuts: &Cuts) {
    let case = match cuts.peer {
        Some(peer) => format!("{}/{peer}", cuts.name()),
        None => cuts.name(),
    };
    let all = cuts.seen.len();
    let mut add = |name: &str, ok: bool, detail: String| {
        document
            .checks
            .push(Check::new(format!("{case}/{name}"), ok, detail));
    };
    let noisy = cuts.seen.iter().filter(|s| s.noisy.is_some()).count();
    let why = cuts.seen.iter().find_map(|seen| seen.noisy.clone());
    add(
        "quiet_rig",
        // More are not made up for.
        noisy * 5 <= all,
        format!(
            "{noisy} of {all} cuts on a noisy rig, {}{}",
            if cuts.noisy_too {
                "counted all the same"
            } else {
                "not counted"
            },
            why.map_or_else(String::new, |why| format!("; such as: {why}"))
        ),
    );
    let routed = cuts.seen.iter().filter(|s| s.route.is_some()).count();
    let refused = cuts
        .seen
        .iter()
        .find_map(|seen| seen.refused.clone().filter(|_| seen.route.is_none()))
        .map_or_else(String::new, |why| format!("; such as: {why}"));
    add(
        "rerouted",
        routed == all,
        format!("{routed} of {all} cuts{refused}"),
    );
    let stuck: usize = cuts.seen.iter().map(|seen| seen.stuck).sum();
    let flows: usize = cuts.seen.iter().map(|seen| seen.traffic.len()).sum();
    if flows > 0 {
        add(
            "recovered",
            stuck == 0,
            format!(
                "{stuck} of {flows} connections without progress until the heal; these count with the time until then"
            ),
        );
    }
    if cuts.peer.is_some() {
        return;
    }
    let right = cuts
        .seen
        .iter()
        .filter(|seen| seen.class.as_deref().is_some_and(|c| cuts.case.is_right(c)))
        .count();
    let wrong = cuts
        .seen
        .iter()
        .filter(|seen| !seen.class.as_deref().is_some_and(|c| cuts.case.is_right(c)))
        .map(|seen| seen.class.clone().unwrap_or_else(|| "none".to_owned()))
        .next();
    add(
        "verdict_right",
        right == all,
        format!(
            "{right} of {all} {}{}",
            cuts.case.verdict,
            wrong.map_or_else(String::new, |wrong| format!("; such as: {wrong}"))
        ),
    );
    let paged = cuts.seen.iter().filter(|s| s.page.is_some()).count();
    add("paged", paged == all, format!("{paged} of {all} cuts"));
    if cuts.variant.ends_with("/nudge") {
        let told = cuts.seen.iter().filter(|s| s.nudged.is_some()).count();
        // "12 backed-off connections were made to ..."
        let nudged: usize = cuts
            .seen
            .iter()
            .filter_map(|seen| {
                seen.nudged
                    .as_deref()?
                    .split(' ')
                    .next()?
                    .parse::<usize>()
                    .ok()
            })
            .sum();
        let failed = cuts
            .seen
            .iter()
            .filter_map(|seen| seen.nudged.clone())
            .find(|text| text.contains("failed"));
        add(
            "nudged",
            told == all && failed.is_none() && (nudged > 0 || !cuts.variant.contains("late_route")),
            format!(
                "the timeline of {told} of {all} cuts tells of it, of {nudged} connections in all{}",
                failed.map_or_else(String::new, |text| format!("; {text}"))
            ),
        );
    }
}

fn reached(goal: &Goal, cuts: &Cuts) -> Option<Check> {
    let sorted = cuts.sorted(goal.metric);
    let value = stats::quantile(&sorted, goal.share);
    let percentile = (goal.share * 100.0).round();
    Some(Check::new(
        format!("{}/{}/p{percentile}", cuts.name(), goal.metric),
        value.is_some_and(|value| value <= goal.most),
        match value {
            Some(value) => format!(
                "{value:.1} ms of {} samples, goal {} ms",
                sorted.len(),
                goal.most
            ),
            None => format!("no samples, goal {} ms", goal.most),
        },
    ))
}

/// How far ahead of BFD, and whether BFD sees what it cannot.
fn compare(document: &mut Document, all: &[Cuts]) {
    let median = |cuts: &Cuts| stats::quantile(&cuts.sorted("cut_to_traffic_ms"), 0.5);
    for theirs in all.iter().filter(|cuts| cuts.peer == Some(bfd::BIRD_300)) {
        let ours = all.iter().find(|cuts| {
            cuts.peer.is_none() && cuts.case == theirs.case && cuts.variant.is_empty()
        });
        if let Some((ours, theirs_p50)) = ours.and_then(median).zip(median(theirs)) {
            document.checks.push(Check::new(
                format!("{}/three_times_ahead_of_bfd_300", theirs.case.name),
                ours * 3.0 <= theirs_p50,
                format!("median time to traffic {ours:.1} ms, with BIRD's BFD 300 ms x 3 {theirs_p50:.1} ms"),
            ));
        }
    }
    for cuts in all
        .iter()
        .filter(|cuts| cuts.peer.is_none() && cuts.name() == "upstream-as/gap_50")
    {
        for name in [bfd::BIRD_300, bfd::BIRD_50, bfd::FRR] {
            let looked: Vec<&Seen> = cuts
                .counted()
                .filter(|seen| seen.watchers.contains_key(name))
                .collect();
            if looked.is_empty() {
                continue;
            }
            let saw = looked
                .iter()
                .filter(|seen| !seen.watchers[name].0.is_empty())
                .count();
            let longest = looked.iter().map(|seen| seen.lasted).fold(0.0, f64::max);
            document.checks.push(Check::new(
                format!("{}/works_where_bfd_sees_nothing/{name}", cuts.case.name),
                saw == 0 && looked.iter().all(|seen| seen.route.is_some()),
                format!(
                    "it saw {saw} of {} cuts of up to {longest:.0} ms; netwatch rerouted {}",
                    looked.len(),
                    looked.iter().filter(|seen| seen.route.is_some()).count()
                ),
            ));
        }
    }
}
