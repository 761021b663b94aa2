//! What was seen against what was expected.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::Deserialize;

use crate::pager::Request;
use crate::run::Seen;
use crate::scenario::{Culprit, FaultKind, Forbidden, PagePattern, Routes, Scenario, Traffic};
use results::{Check, Samples};

fn ms(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e6
}

impl Seen {
    /// Events that the pager accepted, duplicates of one try left out.
    fn events(&self) -> Vec<(&Request, &str)> {
        let mut bodies = Vec::new();
        self.pages
            .iter()
            .filter_map(|page| Some((page, page.accepted()?)))
            .filter(|(page, _)| {
                let new = !bodies.contains(&&page.body);
                bodies.push(&page.body);
                new
            })
            .collect()
    }

    /// The time of the daemon's first line of a kind after the cut, by its own word.
    fn reported(&self, kind: &str) -> Option<u64> {
        let cut = self.cut?;
        let lines = self.report.as_ref().ok()?;
        lines
            .iter()
            .filter(|line| line.kind == kind && line.at >= cut)
            .find(|line| line.kind != "verdict" || line.verdict.as_deref() != Some("none"))
            .map(|line| line.at)
    }

    fn first_route(&self) -> Option<u64> {
        let cut = self.cut?;
        self.routes
            .iter()
            .find(|event| event.added && event.at >= cut)
            .map(|event| event.at)
    }

    fn first_trigger(&self) -> Option<u64> {
        let cut = self.cut?;
        let mut events = self.events().into_iter();
        events
            .find(|(page, action)| *action == "trigger" && page.at >= cut)
            .map(|(page, _)| page.at)
    }

    /// Progress on affected connections before anything healed.
    fn recovered(&self) -> Vec<u64> {
        let end = self.healed.unwrap_or(self.span.1);
        self.progress
            .values()
            .copied()
            .filter(|at| *at < end)
            .collect()
    }

    /// Routes of the daemon in force at a moment.
    fn in_force(&self, at: u64) -> BTreeSet<IpNet> {
        let mut set = BTreeSet::new();
        for event in self.routes.iter().filter(|event| event.at <= at) {
            if event.added {
                set.insert(event.destination);
            } else {
                set.remove(&event.destination);
            }
        }
        set
    }

    /// When the last of the daemon's routes was gone, after `from`.
    fn gone_at(&self, from: u64) -> Option<u64> {
        if self.in_force(from).is_empty() {
            return Some(from);
        }
        self.routes
            .iter()
            .filter(|event| event.at > from && !event.added)
            .map(|event| event.at)
            .find(|at| self.in_force(*at).is_empty())
    }

    /// All that the pages say, in lower case.
    fn words(&self) -> String {
        let events = self.events();
        let bodies: Vec<String> = events
            .iter()
            .map(|(page, _)| page.body.to_string())
            .collect();
        bodies.join("\n").to_lowercase()
    }

    fn last_class(&self) -> Option<String> {
        let events = self.events();
        let last = events.iter().rfind(|(_, action)| *action == "trigger")?.0;
        Some(last.body.pointer("/payload/class")?.as_str()?.to_owned())
    }

    /// The name that pages must contain.
    fn culprit(&self, scenario: &Scenario, culprit: Culprit) -> String {
        let Some(fault) = scenario.fault.iter().find(|fault| fault.kind.is_cut()) else {
            return String::new();
        };
        let upstream = fault.upstream.map(|name| self.world.uplink(name));
        match culprit {
            Culprit::Upstream => upstream.map_or_else(String::new, |u| format!("AS{}", u.upstream)),
            Culprit::Uplink => upstream.map_or_else(String::new, |u| u.name.name().to_owned()),
            Culprit::Target => self
                .world
                .target(fault.kind, fault.target.as_deref())
                .map(|target| self.world.target_name(target))
                .unwrap_or_default(),
        }
    }

    /// The measured samples of a run; none where the rig was too noisy.
    #[must_use]
    pub fn samples(&self, case: &str) -> Vec<Samples> {
        let Some(cut) = self.cut.filter(|_| self.noise.complaint().is_none()) else {
            return Vec::new();
        };
        let samples = |metric: &str, case: &str, from: u64, times: Vec<u64>| Samples {
            metric: metric.to_owned(),
            case: case.to_owned(),
            values: times.into_iter().map(|at| ms(from, at)).collect(),
        };
        let one = |metric: &str, case: &str, at: Option<u64>| {
            samples(metric, case, cut, at.into_iter().collect())
        };
        let packet = self.rerouted.values().min().copied();
        let verdict = self.reported("verdict");
        let installed = verdict.and(self.first_route()).into_iter().collect();
        vec![
            one("cut_to_suspect_ms", case, self.reported("suspected")),
            one("cut_to_verdict_ms", case, verdict),
            one("cut_to_route_ms", case, self.first_route()),
            one("cut_to_route_ms", &format!("{case}/packet"), packet),
            samples("cut_to_traffic_ms", case, cut, self.recovered()),
            one("cut_to_page_ms", case, self.first_trigger()),
            samples(
                "verdict_to_route_ms",
                case,
                verdict.unwrap_or(cut),
                installed,
            ),
        ]
    }

    /// The checks of a run: one for each expectation.
    #[must_use]
    pub fn checks(&self, scenario: &Scenario) -> Vec<Check> {
        let mut judge = Judge {
            seen: self,
            scenario,
            checks: Vec::new(),
        };
        judge.rig();
        judge.verdict();
        judge.routes();
        judge.traffic();
        judge.pages();
        judge.words_and_severity();
        judge.bounded();
        judge.forbidden();
        judge.end();
        judge.replays();
        judge.checks
    }

    /// The checks of a run in which the lab's own script rerouted.
    #[must_use]
    pub fn self_checks(&self, scenario: &Scenario) -> Vec<Check> {
        let mut judge = Judge {
            seen: self,
            scenario,
            checks: Vec::new(),
        };
        judge.rig();
        if self.cut.is_none() {
            return judge.checks;
        }
        if scenario.fault.iter().any(|fault| fault.kind.drops_all()) {
            let stalled = self
                .flows
                .iter()
                .filter(|flow| self.affected.contains(&flow.remote))
                .filter(|flow| flow.longest_gap > crate::run::SCRIPT_DELAY / 2)
                .count();
            judge.add(
                "stalled",
                stalled == self.affected.len() && stalled > 0,
                format!(
                    "{stalled} of {} affected connections stalled",
                    self.affected.len()
                ),
            );
        }
        if scenario.expect.routes != Some(Routes::Installed) {
            return judge.checks;
        }
        judge.routes_as(Routes::Installed);
        judge.traffic_as(Traffic::Recovers);
        let early = self
            .recovered()
            .iter()
            .filter(|at| self.first_route().is_none_or(|route| **at < route))
            .count();
        judge.add(
            "order",
            early == 0,
            format!("{early} connections progressed before the route was there"),
        );
        judge.gone_within(7_000_000_000);
        judge.checks
    }

    /// The demo's six checks.
    #[must_use]
    pub fn demo_checks(&self, scenario: &Scenario) -> Vec<Check> {
        let mut checks = Vec::new();
        let mut add =
            |name: &str, ok: bool, detail: String| checks.push(Check::new(name, ok, detail));
        let Some(cut) = self.cut else {
            for name in [
                "detected",
                "correlated",
                "rerouted",
                "verified",
                "paged",
                "rolled_back",
            ] {
                add(name, false, "the cut itself never happened".to_owned());
            }
            return checks;
        };
        let since = |at: Option<u64>| {
            at.map_or_else(
                || "never".to_owned(),
                |at| format!("{:.1} ms after the cut", ms(cut, at)),
            )
        };

        let suspected = self.reported("suspected");
        let verdict = self.reported("verdict");
        add(
            "detected",
            suspected.is_some() || verdict.is_some(),
            match &self.report {
                Ok(_) => format!(
                    "suspected {}, verdict {} (the daemon's own times)",
                    since(suspected),
                    since(verdict)
                ),
                Err(error) => error.clone(),
            },
        );
        let culprit = self.culprit(scenario, Culprit::Upstream);
        let class = self.last_class();
        let named = names(&self.words(), &culprit);
        add(
            "correlated",
            named
                && scenario
                    .expect
                    .verdict
                    .as_ref()
                    .is_some_and(|v| v.classes().any(|c| class.as_ref() == Some(c))),
            format!(
                "the pages say {}, and {} {culprit}, the upstream that the seed drew",
                class.as_deref().unwrap_or("nothing"),
                if named { "name" } else { "do not name" }
            ),
        );
        let packet = self.rerouted.values().min().copied();
        add(
            "rerouted",
            packet.is_some() && self.first_route().is_some(),
            format!(
                "route {}; first packet on uplink b {}; {} of {} affected peers",
                since(self.first_route()),
                since(packet),
                self.rerouted.len(),
                self.affected.len()
            ),
        );
        let recovered = self.recovered();
        let triggers = self
            .events()
            .iter()
            .filter(|(_, action)| *action == "trigger")
            .count();
        let said = self.words().contains("verified");
        add(
            "verified",
            enough(recovered.len(), self.affected.len()) && triggers >= 2 && said,
            format!(
                "{} of {} existing connections progressed before the heal; {triggers} triggers, {} \"verified\"",
                recovered.len(),
                self.affected.len(),
                if said { "saying" } else { "none saying" }
            ),
        );
        add(
            "paged",
            self.first_trigger().is_some(),
            format!("first trigger {}", since(self.first_trigger())),
        );
        let resolved = self
            .events()
            .last()
            .filter(|(_, action)| *action == "resolve")
            .map(|(page, _)| page.at);
        let gone = self.healed.and_then(|heal| self.gone_at(heal));
        let installed = self.first_route().is_some();
        let rolled =
            installed && gone.is_some() && self.left.0.is_empty() && self.left.1.is_empty();
        add(
            "rolled_back",
            rolled && resolved.is_some(),
            match (gone, self.healed) {
                _ if !installed => "no route was ever installed".to_owned(),
                (Some(gone), Some(heal)) => format!(
                    "routes gone {:.1} ms after the heal; {}",
                    ms(heal, gone),
                    if resolved.is_some() {
                        "resolved at the pager"
                    } else {
                        "not resolved at the pager"
                    }
                ),
                _ => "routes were still in force at the end".to_owned(),
            },
        );
        checks
    }
}

/// "At least 90 of 100."
fn enough(part: usize, whole: usize) -> bool {
    whole > 0 && part * 10 >= whole * 9
}

/// `name` occurs in `words` and is not the start of a longer number.
fn names(words: &str, name: &str) -> bool {
    let name = name.to_lowercase();
    !name.is_empty()
        && words.match_indices(&name).any(|(at, _)| {
            !words[at + name.len()..].starts_with(|next: char| next.is_ascii_digit())
        })
}

struct Judge<'a> {
    seen: &'a Seen,
    scenario: &'a Scenario,
    checks: Vec<Check>,
}

impl Judge<'_> {
    fn add(&mut self, name: &str, ok: bool, detail: impl Into<String>) {
        let name = format!("{}/{name}", self.scenario.name);
        self.checks.push(Check::new(name, ok, detail));
    }

    /// The lab itself did what it should.
    fn rig(&mut self) {
        let noise = self.seen.noise;
        let complaint = noise.complaint();
        let detail = complaint.as_ref().map_or_else(
            || {
                format!(
                    "packets {:.2} ms late at p99, {:.1} % CPU stolen, the internet took {:.0} % of a core",
                    noise.late_p99_ms, noise.steal_percent, noise.cpu_percent
                )
            },
            |complaint| format!("noisy, so its timings are not reported: {complaint}"),
        );
        self.add("quiet_rig", complaint.is_none(), detail);
        if self.scenario.fault.iter().any(|fault| fault.kind.is_cut()) {
            let cut = self.seen.cut;
            let detail = cut.map_or_else(
                || "no packet was ever lost".to_owned(),
                |_| format!("{} existing connections hit", self.seen.affected.len()),
            );
            self.add("cut", cut.is_some(), detail);
        }
    }

    fn verdict(&mut self) {
        let expect = &self.scenario.expect;
        let seen = self.seen;
        if let Some(wanted) = &expect.verdict {
            let reported = seen.report.as_ref().ok().and_then(|lines| {
                lines
                    .iter()
                    .rfind(|line| line.kind == "verdict")?
                    .verdict
                    .clone()
            });
            let class = seen.last_class().or_else(|| reported.clone());
            let within = match (seen.cut, seen.reported("verdict")) {
                (Some(cut), Some(at)) => {
                    let aim = expect
                        .verdict_within
                        .map_or_else(String::new, |aim| format!(" (aim {aim})"));
                    format!(", {:.0} ms after the cut by its own word{aim}", ms(cut, at))
                }
                _ => String::new(),
            };
            let ok = wanted.classes().any(|wanted| match wanted.as_str() {
                "any" => class.is_some(),
                "none" => class.as_deref().is_none_or(|class| class == "none"),
                wanted => class.as_deref() == Some(wanted),
            });
            let wanted: Vec<&str> = wanted.classes().map(String::as_str).collect();
            let detail = format!(
                "{} (expected {}){within}",
                class.as_deref().unwrap_or("no verdict"),
                wanted.join(" or ")
            );
            self.add("verdict", ok, detail);
        }
        if !expect.verdicts.is_empty() {
            let lines = seen.report.iter().flatten();
            let found: BTreeSet<&str> = lines.filter_map(|line| line.verdict.as_deref()).collect();
            let missing: Vec<&String> = expect
                .verdicts
                .iter()
                .filter(|class| !found.contains(class.as_str()))
                .collect();
            let detail = format!("told: {found:?}, missing: {missing:?}");
            self.add("verdicts", missing.is_empty(), detail);
        }
        if let Some(culprit) = expect.culprit {
            let name = seen.culprit(self.scenario, culprit);
            let words = seen.words();
            let ok = match culprit {
                Culprit::Uplink => {
                    // A letter occurs everywhere: it must be the page's component.
                    seen.events().iter().any(|(page, _)| {
                        page.body
                            .pointer("/payload/component")
                            .and_then(|c| c.as_str())
                            .is_some_and(|c| {
                                c.split(|ch: char| !ch.is_ascii_alphanumeric())
                                    .any(|word| word == name)
                            })
                    })
                }
                _ => names(&words, &name),
            };
            self.add(
                "culprit",
                ok,
                format!(
                    "{name} is {}named in the pages",
                    if ok { "" } else { "not " }
                ),
            );
        }
    }

    fn routes(&mut self) {
        if let Some(routes) = self.scenario.expect.routes {
            self.routes_as(routes);
        }
        if let Some(within) = self.scenario.expect.routes_gone_within {
            self.gone_within(within.nanos());
        }
    }

    fn routes_as(&mut self, routes: Routes) {
        let seen = self.seen;
        let end = seen.released.unwrap_or(seen.span.1);
        let added = seen.routes.iter().filter(|event| event.added).count();
        let kept = seen.in_force(end);
        match routes {
            Routes::Installed => {
                let detail = match (seen.cut, seen.first_route()) {
                    (Some(cut), Some(at)) => format!(
                        "{} in force in the end, the first {:.1} ms after the cut; packets to {} of {} peers on the other uplink",
                        kept.len(),
                        ms(cut, at),
                        seen.rerouted.len(),
                        seen.affected.len()
                    ),
                    _ => "no route was installed".to_owned(),
                };
                self.add(
                    "routes",
                    !kept.is_empty() && !seen.rerouted.is_empty(),
                    detail,
                );
            }
            Routes::NotKept => self.add(
                "routes",
                kept.is_empty() && seen.left.0.is_empty(),
                format!("{added} installed, {} in force in the end", kept.len()),
            ),
            Routes::None => self.add(
                "routes",
                added == 0,
                format!("{added} installed, none expected"),
            ),
        }
    }

    fn gone_within(&mut self, limit: u64) {
        let seen = self.seen;
        let Some(from) = seen.released else { return };
        let had = !seen.in_force(from).is_empty();
        match seen.gone_at(from) {
            Some(gone) if had => {
                let ok = gone - from <= limit && seen.left.0.is_empty();
                self.add(
                    "routes_gone",
                    ok,
                    format!(
                        "after {:.0} ms (limit {:.0} ms)",
                        ms(from, gone),
                        limit as f64 / 1e6
                    ),
                );
            }
            Some(_) => self.add("routes_gone", false, "no route was in force that could go"),
            None => self.add(
                "routes_gone",
                false,
                format!("still in force at the end: {}", seen.left.0.join("; ")),
            ),
        }
    }

    fn traffic(&mut self) {
        if let Some(traffic) = self.scenario.expect.traffic {
            self.traffic_as(traffic);
        }
    }

    fn traffic_as(&mut self, traffic: Traffic) {
        let seen = self.seen;
        let (all, recovered) = (seen.affected.len(), seen.recovered().len());
        match traffic {
            Traffic::Recovers => self.add(
                "traffic",
                enough(recovered, all),
                format!("{recovered} of {all} existing connections progressed before the heal"),
            ),
            Traffic::Stuck => self.add(
                "traffic",
                recovered == 0 && all > 0,
                format!("{recovered} of {all} existing connections progressed before the heal, none expected"),
            ),
            Traffic::Undisturbed => {
                let slow: Vec<String> = seen
                    .flows
                    .iter()
                    .filter(|flow| flow.longest_gap > 1_500_000_000 || flow.ended.is_some())
                    .map(|flow| format!("{} ({:.0} ms)", flow.remote, flow.longest_gap as f64 / 1e6))
                    .collect();
                let detail = if slow.is_empty() {
                    format!("all {} connections kept progressing", seen.flows.len())
                } else {
                    format!("no progress for more than 1.5 s: {}", slow.join(", "))
                };
                self.add("traffic", slow.is_empty() && !seen.flows.is_empty(), detail);
            }
        }
    }

    fn pages(&mut self) {
        let seen = self.seen;
        let events = seen.events();
        let order: Vec<&str> = events.iter().map(|(_, action)| *action).collect();
        if let Some(pattern) = &self.scenario.expect.pages {
            let keys: BTreeSet<_> = events.iter().map(|(page, _)| page.dedup_key()).collect();
            let invalid: Vec<String> = seen
                .pages
                .iter()
                .flat_map(|page| page.errors.clone())
                .collect();
            let ok = matches(pattern, &order) && keys.len() <= 1 && invalid.is_empty();
            let aim = match (
                seen.cut,
                seen.first_trigger(),
                self.scenario.expect.page_within,
            ) {
                (Some(cut), Some(at), Some(aim)) => format!(
                    ", the first {:.0} ms after the cut (aim {aim})",
                    ms(cut, at)
                ),
                (Some(cut), Some(at), None) => {
                    format!(", the first {:.0} ms after the cut", ms(cut, at))
                }
                _ => String::new(),
            };
            let mut detail = format!(
                "[{}] under {} dedup_key(s){aim}",
                order.join(", "),
                keys.len()
            );
            if !invalid.is_empty() {
                detail = format!("{detail}; refused: {}", invalid.join("; "));
            }
            self.add("pages", ok, detail);
        }
        if !self.scenario.expect.page_contains.is_empty() {
            let words = seen.words();
            let missing: Vec<&String> = self
                .scenario
                .expect
                .page_contains
                .iter()
                .filter(|word| !words.contains(&word.to_lowercase()))
                .collect();
            self.add(
                "page_text",
                missing.is_empty(),
                format!("missing: {missing:?}"),
            );
        }
    }

    fn words_and_severity(&mut self) {
        let seen = self.seen;
        let expect = &self.scenario.expect;
        let lines = seen.report.iter().flatten();
        let said: Vec<String> = lines
            .flat_map(|line| std::iter::once(&line.text).chain(&line.evidence))
            .map(|text| text.to_lowercase())
            .collect();
        let missing: Vec<&String> = expect
            .report_contains
            .iter()
            .filter(|words| !said.iter().any(|text| text.contains(&words.to_lowercase())))
            .collect();
        if !expect.report_contains.is_empty() {
            let detail = format!("missing: {missing:?}");
            self.add("report_text", missing.is_empty(), detail);
        }
        if let Some(most) = expect.most_severe {
            let events = seen.events();
            let severities = events.iter().filter_map(|(page, _)| {
                let severity = page.body.pointer("/payload/severity")?;
                crate::scenario::Severity::deserialize(severity).ok()
            });
            let worst = severities.max();
            let detail = format!("worst: {worst:?}, at most {most:?}");
            self.add(
                "most_severe",
                worst.is_none_or(|worst| worst <= most),
                detail,
            );
        }
    }

    /// What flaps must not make the daemon flap.
    fn bounded(&mut self) {
        let seen = self.seen;
        if let Some(most) = self.scenario.expect.most_pages {
            let events = seen.events().len();
            let detail = format!("{events} events at the pager, {most} at most");
            self.add("most_pages", events <= most, detail);
        }
        if let Some(most) = self.scenario.expect.most_installs {
            let lines = seen.report.iter().flatten();
            let installs = lines.filter(|line| line.kind == "installed").count();
            let known = seen.report.is_ok();
            let detail = format!("{installs} plans installed, {most} at most");
            self.add("most_installs", known && installs <= most, detail);
        }
    }

    fn forbidden(&mut self) {
        let seen = self.seen;
        for forbidden in &self.scenario.expect.must_not {
            match forbidden {
                Forbidden::Route => {
                    let added = seen.routes.iter().filter(|event| event.added).count();
                    self.add(
                        "no_route",
                        added == 0,
                        format!("{added} routes were installed"),
                    );
                }
                Forbidden::Page => {
                    let pages = seen.pages.len();
                    self.add(
                        "no_page",
                        pages == 0,
                        format!("{pages} requests at the pager"),
                    );
                }
                Forbidden::Verdict => {
                    let (ok, detail) = match &seen.report {
                        Ok(lines) => {
                            let verdicts: Vec<&str> = lines
                                .iter()
                                .filter_map(|line| line.verdict.as_deref())
                                .filter(|class| *class != "none")
                                .collect();
                            (
                                verdicts.is_empty(),
                                format!("{} verdicts {verdicts:?}", verdicts.len()),
                            )
                        }
                        Err(error) => (false, error.clone()),
                    };
                    self.add("no_verdict", ok, detail);
                }
            }
        }
    }

    /// Every incident was recorded, and decided the same when its recording was replayed.
    fn replays(&mut self) {
        let (ok, detail) = match &self.seen.replays {
            None => return,
            Some(Err(error)) => (false, error.clone()),
            Some(Ok(replays)) => {
                let wrong: Vec<String> = replays
                    .iter()
                    .filter_map(|replay| {
                        Some(format!("{}: {}", replay.incident, replay.wrong.as_ref()?))
                    })
                    .collect();
                let inputs: u64 = replays.iter().map(|replay| replay.inputs).sum();
                let effects: u64 = replays.iter().map(|replay| replay.effects).sum();
                let detail = format!(
                    "{} recordings, {inputs} inputs, {effects} effects, byte for byte the same",
                    replays.len()
                );
                (
                    wrong.is_empty(),
                    if wrong.is_empty() {
                        detail
                    } else {
                        wrong.join("; ")
                    },
                )
            }
        };
        self.add("replay", ok, detail);
    }

    /// The daemon ends cleanly and leaves no route.
    fn end(&mut self) {
        let seen = self.seen;
        if let Some(stopped) = &seen.stopped {
            let (ok, detail) = match stopped {
                Ok(()) => (true, "ended on SIGTERM with status 0".to_owned()),
                Err(error) => (false, error.clone()),
            };
            self.add("clean_stop", ok, detail);
        }
        let killed = seen
            .ordered
            .iter()
            .any(|(kind, _)| *kind == FaultKind::DaemonKill);
        if seen.stopped.is_some() || killed {
            let left = &seen.left.1;
            self.add(
                "no_leftover",
                left.is_empty(),
                format!("{} routes left {left:?}", left.len()),
            );
        }
    }
}

fn matches(pattern: &[PagePattern], events: &[&str]) -> bool {
    let Some((first, rest)) = pattern.split_first() else {
        return events.is_empty();
    };
    let word = if *first == PagePattern::Resolve {
        "resolve"
    } else {
        "trigger"
    };
    let Some((event, others)) = events.split_first() else {
        return false;
    };
    *event == word
        && (matches(rest, others) || (*first == PagePattern::Triggers && matches(pattern, others)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_patterns() {
        use PagePattern::{Resolve, Trigger, Triggers};
        let pattern = [Trigger, Triggers, Resolve];
        assert!(matches(&pattern, &["trigger", "trigger", "resolve"]));
        assert!(matches(
            &pattern,
            &["trigger", "trigger", "trigger", "resolve"]
        ));
        assert!(!matches(&pattern, &["trigger", "resolve"]));
        assert!(!matches(&pattern, &["trigger", "trigger"]));
        assert!(!matches(
            &pattern,
            &["trigger", "trigger", "resolve", "trigger"]
        ));
        assert!(matches(&[], &[]) && !matches(&[], &["trigger"]));
    }

    #[test]
    fn a_name_is_not_the_start_of_a_longer_number() {
        assert!(names("upstream as6450 is dark", "AS6450"));
        assert!(!names("upstream as64500 is dark", "AS6450"));
        assert!(!names("anything", ""));
    }
}
