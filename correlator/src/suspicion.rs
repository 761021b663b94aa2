//! What raises suspicion and opens a case: passive evidence above a threshold, or probes alone.

use std::collections::BTreeMap;

use events::{EgressName, EvidenceSource, PeerKey, ProbeSource, Timestamp, Verdict};

use crate::case::{Case, is_wide};
use crate::diagnosis::isolation;
use crate::tally::{Failure, against, enough_peers, enough_prefixes, enough_score};
use crate::view::{Anchor, Families, View, ases};

/// Why a case shall be opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Suspicion {
    pub egress: EgressName,
    pub narrow: bool,
    pub source: EvidenceSource,
    pub onset: Timestamp,
    /// When the first piece of evidence was seen.
    pub first_at: Timestamp,
    pub failed: Vec<PeerKey>,
}

/// The first suspicion that no open case covers.
pub fn suspect(view: &View<'_>, cases: &[Case]) -> Option<Suspicion> {
    for egress in view.egresses() {
        let covered = cases
            .iter()
            .any(|c| c.egress == egress && (c.is_wide() || c.verdict.is_none()));
        if covered {
            continue;
        }
        // While the primary is dead, the death of another egress is total isolation: its case.
        let primary = view.params.egresses.first().map(|e| &e.name);
        let isolated_elsewhere = cases.iter().any(|c| {
            c.egress != egress
                && Some(&c.egress) == primary
                && c.is_wide()
                && (c.verdict.is_none() || isolation::dead(view, &c.egress))
        });
        if !isolated_elsewhere
            && let Some(found) = link(view, &egress)
                .or_else(|| gateway(view, &egress))
                .or_else(|| anchors(view, &egress, cases))
        {
            return Some(found);
        }
        if let Some(found) = many_peers(view, &egress).or_else(|| few_peers(view, &egress, cases)) {
            return Some(found);
        }
    }
    None
}

/// The interface or its gateway's neighbour entry is dead.
pub fn links_dark(view: &View<'_>, egress: &EgressName) -> bool {
    view.host.down_since(egress).is_some()
}

fn probes_after(view: &View<'_>, egress: &EgressName, dark: Timestamp) -> bool {
    view.dismissed.get(egress).is_none_or(|at| dark > *at)
}

fn link(view: &View<'_>, egress: &EgressName) -> Option<Suspicion> {
    let link = view.host.links.get(egress)?;
    let at = match link.down_since {
        Some(at) => at,
        None => {
            let at = *link.unresolved.values().min()?;
            let answers = view.reach.of(egress).any(|w| w.answered_since(at));
            if answers || !probes_after(view, egress, at) {
                return None;
            }
            at
        }
    };
    Some(Suspicion {
        egress: egress.clone(),
        narrow: false,
        source: EvidenceSource::Host,
        onset: at,
        first_at: at,
        failed: Vec::new(),
    })
}

fn gateway(view: &View<'_>, egress: &EgressName) -> Option<Suspicion> {
    let t = &view.params.thresholds;
    let gateways = view.gateways(egress, Timestamp::ZERO);
    let dark = gateways
        .iter()
        .filter_map(|w| w.dark_since(view.now))
        .min()?;
    let all = gateways
        .iter()
        .all(|w| w.misses(view.now) >= t.gateway_misses);
    (all && probes_after(view, egress, dark)).then(|| by_probes(egress, dark))
}

fn anchors(view: &View<'_>, egress: &EgressName, cases: &[Case]) -> Option<Suspicion> {
    let t = &view.params.thresholds;
    // An AS that is known to be unreachable takes the anchors behind it along.
    let explained = |a: &Anchor<'_>| {
        let key = PeerKey(a.window.target.address());
        let path = view.routes.path(&key, egress);
        cases.iter().any(|case| {
            matches!(&case.verdict, Some(Verdict::RemoteAs { asn })
                if case.egress == *egress && path.is_some_and(|path| path.ases.contains(asn)))
        })
    };
    let dark: Vec<Anchor<'_>> = view
        .anchors(egress, None, Timestamp::ZERO, Families::BOTH)
        .into_iter()
        .filter(|a| a.window.misses(view.now) >= t.anchor_misses)
        .filter(|a| {
            a.window
                .dark_since(view.now)
                .is_some_and(|at| probes_after(view, egress, at))
        })
        .filter(|a| !explained(a))
        .collect();
    if ases(&dark) < 2 {
        return None;
    }
    let since = dark
        .iter()
        .filter_map(|a| a.window.dark_since(view.now))
        .min()?;
    // Dark for the flows' source alone, and not only here: the primary's case says so once.
    let link_answers = view.answered(egress, ProbeSource::Link, since, Families::BOTH);
    let first = view.params.egresses.first().map(|e| &e.name);
    if link_answers && first != Some(egress) {
        let primary_well = first.is_some_and(|first| {
            let flow = Some(ProbeSource::Flow);
            let anchors = view.anchors(first, flow, Timestamp::ZERO, Families::BOTH);
            !anchors.is_empty() && anchors.iter().all(|a| a.window.misses(view.now) == 0)
        });
        if !primary_well {
            return None;
        }
    }
    Some(by_probes(egress, since))
}

fn by_probes(egress: &EgressName, dark: Timestamp) -> Suspicion {
    Suspicion {
        egress: egress.clone(),
        narrow: false,
        source: EvidenceSource::Probe,
        onset: dark,
        first_at: dark,
        failed: Vec::new(),
    }
}

/// Peers of several prefixes fail together.
fn many_peers(view: &View<'_>, egress: &EgressName) -> Option<Suspicion> {
    let stalled = view.host.stall.is_some_and(|s| !s.over);
    let failures = if stalled {
        view.fresh_with_vetoed(egress)
    } else {
        view.fresh(egress)
    };
    [Families::BOTH, Families::only(false), Families::only(true)]
        .into_iter()
        .find_map(|families| {
            let mut failures = failures.clone();
            failures.retain(|f| families.has(f.key.0));
            together(view, egress, &failures, families)
        })
}

fn together(
    view: &View<'_>,
    egress: &EgressName,
    failures: &[Failure<'_>],
    families: Families,
) -> Option<Suspicion> {
    let t = &view.params.thresholds;
    if failures.len() < 2 {
        return None;
    }
    let mut tally = view.tally(failures);
    // Whoever is alive only lowers it, and counting everybody takes its time.
    if tally.score < enough_score(0, t.suspect) * view.host.doubt(view.now) {
        return None;
    }
    let alive = view.alive(egress, failures, families);
    tally.score -= against(alive, t.correlation);
    if tally.score < enough_score(0, t.suspect) * view.host.doubt(view.now) {
        return None;
    }
    let population = view.population(egress, families);
    let needed = enough_peers(population.peers, t.min_peers);
    let enough = tally.peers >= needed
        && tally.prefixes.len() >= enough_prefixes(population.prefixes.len(), t.min_prefixes)
        && tally.score >= enough_score(needed, t.suspect) * view.host.doubt(view.now);
    if !enough || contradicted(view, egress, failures, families) {
        return None;
    }
    by_peers(view, egress, failures, false)
}

/// Anchors of two ASes answered probes sent after the failures.
fn contradicted(
    view: &View<'_>,
    egress: &EgressName,
    failures: &[Failure<'_>],
    families: Families,
) -> bool {
    let Some(newest) = failures.iter().map(Failure::surely_dark).max() else {
        return false;
    };
    let anchors = view.anchors(egress, None, view.now, families);
    let alive: Vec<Anchor<'_>> = anchors
        .into_iter()
        .filter(|a| a.window.answered_since(newest))
        .collect();
    ases(&alive) >= 2
}

/// Peers of one prefix or origin fail lastingly, or a single one for long.
fn few_peers(view: &View<'_>, egress: &EgressName, cases: &[Case]) -> Option<Suspicion> {
    let t = &view.params.thresholds;
    if cases
        .iter()
        .any(|c| c.egress == *egress && c.verdict.as_ref().is_some_and(is_wide))
    {
        return None;
    }
    let mut failures = view.lasting(egress);
    failures.retain(|f| view.now >= f.failing.at + t.narrow_persist);
    if failures.is_empty() {
        return None;
    }
    let mut groups: BTreeMap<(u8, String), Vec<Failure<'_>>> = BTreeMap::new();
    for failure in &failures {
        let prefix = failure.prefix.to_string();
        groups.entry((0, prefix)).or_default().push(*failure);
        if let Some(asn) = failure.origin {
            groups
                .entry((1, asn.to_string()))
                .or_default()
                .push(*failure);
        }
    }
    let together = groups
        .into_values()
        .filter(|group| group.len() >= 2)
        .filter(|group| view.tally(group).score >= t.suspect * view.host.doubt(view.now))
        .max_by_key(Vec::len);
    if let Some(group) = together {
        return by_peers(view, egress, &group, true);
    }
    let alone = failures
        .iter()
        .find(|f| view.now >= f.failing.at + t.single_persist && f.failing.weight >= 3.9)?;
    by_peers(view, egress, &[*alone], true)
}

fn by_peers(
    view: &View<'_>,
    egress: &EgressName,
    failures: &[Failure<'_>],
    narrow: bool,
) -> Option<Suspicion> {
    let onset = view.onset(failures)?;
    let seen = failures
        .iter()
        .filter(|f| f.failing.since >= onset)
        .map(|f| f.failing.at)
        .min()?;
    Some(Suspicion {
        egress: egress.clone(),
        narrow,
        source: EvidenceSource::Tcp,
        onset,
        first_at: seen,
        failed: failures.iter().map(|f| f.key).collect(),
    })
}
