//! Upstream AS.
//!
//! Opens when the gateway answers and the network behind it does not: anchors in two ASes or more
//! are dead through this egress, none answers, peers of several origins agree (or every anchor
//! missed several probes), and the backup carries probes with the flows' own source. Without
//! usable anchors the TCP evidence must be strong, spread over origins, shared by nothing narrower
//! than the egress, and old enough. Where no AS is known to name and nearly all who fail are
//! still heard, the verdict is that the way out alone is dead. Closes when anchors in two ASes and the gateway answer for the
//! time to heal; without probes, when the flows progress.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use events::{Asn, EgressName, PeerKey, ProbeSource, ProbeTarget, Timestamp, Verdict};

use super::{Finding, everyone, narrow};
use crate::case::Case;
use crate::routes::Path;
use crate::tally::{Failure, Tally, against, enough_peers};
use crate::view::{Anchor, Families, View, ases};

/// Who sends at all has sent within so long.
const HEARD: Duration = Duration::from_millis(100);
/// Of so many that should fail one at least does, 19 times in 20.
const ENOUGH: usize = 3;
/// How many times longer late answers are waited for where delay is likely.
const PATIENCE: u32 = 3;
/// What recovers shows it within so long, everywhere.
const RECOVERY: Duration = Duration::from_millis(150);

pub fn diagnose(view: &View<'_>, case: &Case) -> Option<Finding> {
    let all = view.of_case(case);
    let failures = of_now(view, case, &all);
    // What answered since any of them speaks against it.
    let bound = view.surely_dark(case, &all)?;
    if !beyond_gateway(view, case, &failures, bound) {
        return None;
    }
    let families = view.families(case, &failures);
    if !link_dark(view, case, bound, families) || !backup_proven(view, case, bound, families) {
        return None;
    }
    if other_undecided(view, case, families, bound) {
        return None;
    }
    let mut affected = everyone(view, case);
    affected.retain(|peer| families.has(peer.0));
    let asn = upstream_of(view, case, &failures, families);
    if let Some(asn) = asn {
        affected.retain(|peer| {
            view.routes
                .path(peer, &case.egress)
                .and_then(|path| path.upstream())
                .is_none_or(|first| first == asn)
        });
    }
    let egress = case.egress.clone();
    let verdict = match other_family(view, case, families, bound) {
        Some(ipv6) => Verdict::AddressFamily { egress, ipv6 },
        // Where an AS can be named that tells more, and is as true.
        None if asn.is_none() && way_in_works(view, &failures, bound) => {
            Verdict::EgressOnly { egress }
        }
        None => Verdict::UpstreamAs { egress, asn },
    };
    Some(Finding { verdict, affected })
}

/// The failures that may be of a break of the whole egress: what failed while anchors answered what
/// was sent later is another story.
pub fn of_now<'a>(view: &View<'a>, case: &Case, all: &[Failure<'a>]) -> Vec<Failure<'a>> {
    let well = [false, true].map(|ipv6| well_until(view, case, Families::only(ipv6)));
    let mut failures = all.to_vec();
    failures.retain(|f| {
        let well = well[usize::from(f.key.0.is_ipv6())];
        well.is_none_or(|well| f.surely_dark() >= well)
    });
    failures
}

/// Anchors of some families, without those that were dark while others answered what was sent later.
fn anchors_of_now<'a>(view: &View<'a>, case: &Case, families: Families) -> Vec<Anchor<'a>> {
    let well = [false, true].map(|ipv6| well_until(view, case, Families::only(ipv6)));
    let mut anchors = view.anchors(&case.egress, None, case.onset, families);
    anchors.retain(|a| {
        let well = well[usize::from(a.window.target.address().is_ipv6())];
        let dark = a.window.dark_since(view.now);
        let dark = dark.map(|at| at + a.window.rtt.unwrap_or_default());
        dark.is_none_or(|dark| well.is_none_or(|well| dark >= well))
    });
    anchors
}

/// By then the egress was well: anchors of two ASes answered what was sent then or later.
fn well_until(view: &View<'_>, case: &Case, families: Families) -> Option<Timestamp> {
    let mut newest: BTreeMap<Asn, Timestamp> = BTreeMap::new();
    for anchor in view.anchors(&case.egress, None, case.onset, families) {
        if let Some(at) = anchor.window.last_reply {
            let newest = newest.entry(anchor.asn).or_insert(at);
            *newest = at.max(*newest);
        }
    }
    let mut newest: Vec<Timestamp> = newest.into_values().collect();
    newest.sort_unstable();
    newest.iter().rev().nth(1).copied()
}

/// An AS beyond the upstream has behind it all that fails and every anchor that is dead, and of the many
/// who are not behind it far fewer fail than would if the egress were broken: it may be that AS alone.
fn narrower(view: &View<'_>, case: &Case, failures: &[Failure<'_>]) -> bool {
    let families = view.families(case, failures);
    let mut common: Option<BTreeSet<Asn>> = None;
    let mut dead: BTreeMap<Asn, usize> = BTreeMap::new();
    for failure in failures {
        for asn in beyond(failure.path) {
            *dead.entry(asn).or_default() += 1;
        }
    }
    for anchor in anchors_of_now(view, case, families) {
        if anchor.window.misses(view.now) == 0 {
            continue;
        }
        let key = PeerKey(anchor.window.target.address());
        let ases: BTreeSet<Asn> = beyond(view.routes.path(&key, &case.egress)).collect();
        common = Some(match common {
            None => ases,
            Some(common) => &common & &ases,
        });
    }
    let common = common.unwrap_or_else(|| dead.keys().copied().collect());
    if takes_other_family(view, case, families, &common) {
        return true;
    }
    // Most of what fails lies behind it.
    let candidates: BTreeMap<Asn, usize> = dead
        .into_iter()
        .filter(|(asn, inside)| common.contains(asn) && inside * 2 > failures.len())
        .collect();
    if candidates.is_empty() {
        return false;
    }
    let mut members: BTreeMap<Asn, usize> = BTreeMap::new();
    let mut all = 0_usize;
    for key in everyone(view, case).iter().filter(|k| families.has(k.0)) {
        all += 1;
        for asn in beyond(view.routes.path(key, &case.egress)) {
            if candidates.contains_key(&asn) {
                *members.entry(asn).or_default() += 1;
            }
        }
    }
    candidates.iter().any(|(asn, inside)| {
        let behind = members.get(asn).copied().unwrap_or(0).max(*inside);
        // So many others would fail.
        let expected = inside * (all.saturating_sub(behind)) / behind;
        expected >= ENOUGH && (failures.len() - inside) * 4 <= expected
    })
}

/// Where one family alone is said to be dead: of the other's anchors some are well, and those that lie
/// behind the same AS are dead, too.
fn takes_other_family(
    view: &View<'_>,
    case: &Case,
    families: Families,
    common: &BTreeSet<Asn>,
) -> bool {
    let other = Families::only(families.v4);
    let anchors = view.anchors(&case.egress, None, case.onset, other);
    let behind = |a: &Anchor<'_>| {
        let key = PeerKey(a.window.target.address());
        beyond(view.routes.path(&key, &case.egress)).any(|asn| common.contains(&asn))
    };
    let misses = |a: &Anchor<'_>| a.window.misses(view.now);
    families.v4 != families.v6
        && anchors.iter().any(|a| misses(a) == 0)
        && anchors
            .iter()
            .any(|a| misses(a) >= view.params.thresholds.anchor_misses && behind(a))
}

/// The ASes of a path beyond the first.
fn beyond(path: Option<&Path>) -> impl Iterator<Item = Asn> {
    path.into_iter()
        .flat_map(|path| path.ases.iter().skip(1).copied())
}

/// Nearly all who no longer acknowledge still send: what they send was not on its way before the break.
fn way_in_works(view: &View<'_>, failures: &[Failure<'_>], bound: Timestamp) -> bool {
    let (mut heard, mut all) = (0_usize, 0_usize);
    for failure in failures {
        let dark = failure.surely_dark().max(bound);
        if view.now < dark + HEARD {
            continue;
        }
        // What came since its packets go another way says nothing of this one.
        let moved = failure.peer.route.as_ref().filter(|r| r.previous.is_some());
        let until = moved.map_or(view.now, |r| r.changed_at);
        let mut connections = failure.peer.connections.values();
        all += 1;
        heard += usize::from(
            connections.any(|c| c.inbound_at.is_some_and(|at| at > dark && at <= until)),
        );
    }
    heard >= 2 && heard * 10 >= all * 9
}

/// One family is dead, and the other's anchors have not told yet.
fn other_undecided(view: &View<'_>, case: &Case, families: Families, bound: Timestamp) -> bool {
    let other = Families::only(families.v4);
    let anchors = view.anchors(&case.egress, None, case.onset, other);
    let told = |a: &Anchor<'_>| a.window.answered_since(bound) || a.window.misses(view.now) > 0;
    families.v4 != families.v6 && !anchors.is_empty() && !anchors.iter().any(told)
}

/// One family is dead, and the other is seen alive: whether the dead one is IPv6.
fn other_family(
    view: &View<'_>,
    case: &Case,
    families: Families,
    bound: Timestamp,
) -> Option<bool> {
    if families.v4 == families.v6 {
        return None;
    }
    let other = Families::only(families.v4);
    let anchors = view.anchors(&case.egress, None, case.onset, other);
    let alive = anchors.iter().any(|a| a.window.answered_since(bound))
        || view.peers.map.iter().any(|(key, peer)| {
            other.has(key.0)
                && *peer.egress(&view.peers.default) == case.egress
                && peer.delivered.is_some_and(|at| at > bound)
        });
    alive.then_some(families.v6)
}

/// The break is behind the gateway and takes everything with it.
pub fn beyond_gateway(
    view: &View<'_>,
    case: &Case,
    failures: &[Failure<'_>],
    bound: Timestamp,
) -> bool {
    let t = &view.params.thresholds;
    let onset = view.onset(failures).unwrap_or(case.onset).max(case.onset);
    if view.now < onset + t.min_dark {
        return false;
    }
    let gateways = view.gateways(&case.egress, case.onset);
    if !gateways.is_empty() && !gateways.iter().any(|w| w.answered_since(bound)) {
        return false;
    }
    let families = view.families(case, failures);
    let anchors = view.anchors(&case.egress, None, case.onset, families);
    if anchors.iter().any(|a| a.window.answered_since(bound)) || view.late_answers(&anchors) {
        return false;
    }
    let known = anchors.len();
    let anchors = anchors_of_now(view, case, families);
    // Where something else fails as well, flows may be its.
    let others = view.of_case(case).len() - failures.len();
    let alone = anchors.len() == known && others * 4 <= failures.len();
    if !delay_excluded(view, case, failures, &anchors, alone) {
        return false;
    }
    // Flows that progress again: it was a delay, or it is over.
    let alive = view.alive_since(&case.egress, bound);
    if alive >= 3 && alive * 4 >= failures.len() {
        return false;
    }
    // Suspects of several prefixes that answer: their applications are slow, not the path.
    let lost = view.lost_in_a_row(&case.egress);
    let answering = failures
        .iter()
        .filter(|f| narrow::answers(view, case, f, lost))
        .count();
    if answering >= 2 {
        return false;
    }
    let alive = if failures.is_empty() {
        view.delivering(&case.egress, bound, families)
    } else {
        view.alive(&case.egress, failures, families)
    };
    let mut tally = view.tally(failures);
    tally.score -= against(alive, t.correlation);
    if alive * 4 > failures.len() {
        return false;
    }
    let doubt = view.host.doubt(view.now);
    if ases(&anchors) < 2 {
        let agrees = anchors
            .iter()
            .all(|a| a.window.misses(view.now) >= t.anchor_misses);
        return agrees && tcp_alone(view, case, failures, &tally);
    }
    let dead = |misses: usize| {
        let dead: Vec<_> = anchors
            .iter()
            .copied()
            .filter(|a| a.window.misses(view.now) >= misses)
            .collect();
        (ases(&dead), dead.len() == anchors.len())
    };
    let strong = tally.score >= t.confirm * doubt && dead(1).0 >= 2;
    let fair = tally.score >= t.suspect * doubt && dead(2).0 >= 2 && dead(1).1;
    let silent = |misses| dead(misses).0 >= 2 && dead(misses).1;
    if !strong && !fair && !silent(t.anchor_misses) {
        return false;
    }
    let population = view.population(&case.egress, families);
    let spread = tally.origins.len() >= population.origins.len().min(t.min_prefixes)
        && tally.prefixes.len() >= population.prefixes.len().min(t.min_prefixes);
    // Connected peers of which none fails speak against it: then anchors of two ASes must miss more.
    let unseen = tally.peers == 0 && population.peers >= t.min_peers;
    let silent = silent(t.anchor_misses) && (!unseen || dead(2 * t.anchor_misses).0 >= 2);
    (((strong || fair) && spread) || silent) && !narrower(view, case, failures)
}

/// Answers that were merely late by the allowance would have come by now, from two anchors or, where
/// nothing else is wrong (`alone`), from three peers.
fn delay_excluded(
    view: &View<'_>,
    case: &Case,
    failures: &[Failure<'_>],
    anchors: &[Anchor<'_>],
    alone: bool,
) -> bool {
    // What was held back, and a queue that grew when the answers stopped, may grow on.
    let patience = if view.host.stalled(view.now) || view.queue_grows(&case.egress) {
        PATIENCE
    } else {
        1
    };
    let allowance = view.params.thresholds.sudden_delay * patience;
    let mut flows: Vec<Timestamp> = failures.iter().map(|f| f.late_by(allowance)).collect();
    let mut anchors: Vec<Timestamp> = anchors
        .iter()
        .filter_map(|a| {
            let dark = a.window.dark_since(view.now)?;
            Some(dark + a.window.rtt.unwrap_or_default() + allowance)
        })
        .collect();
    flows.sort_unstable();
    anchors.sort_unstable();
    let by_flows = flows.get(2).or(flows.last());
    by_flows
        .filter(|_| alone || anchors.len() < 2)
        .into_iter()
        .chain(anchors.get(1))
        .any(|due| view.now >= *due)
}

/// No anchor can be asked: strong evidence, spread, lasting, with no narrower explanation.
fn tcp_alone(view: &View<'_>, case: &Case, failures: &[Failure<'_>], tally: &Tally) -> bool {
    let t = &view.params.thresholds;
    let families = view.families(case, failures);
    let population = view.population(&case.egress, families);
    let needed = enough_peers(population.peers, t.min_peers);
    // Few peers can never reach the full sum; they must then all agree.
    let strong = tally.score >= t.confirm * view.host.doubt(view.now)
        || (population.peers < 9 && tally.peers == population.peers);
    let alive = view.alive_since(&case.egress, case.suspected_at);
    let origins = population.origins.len();
    strong
        && view.now >= case.suspected_at + t.tcp_only_wait
        && tally.peers >= needed
        && tally.peers * 2 >= population.peers
        && alive * 10 <= tally.peers
        && tally.origins.len() >= origins.min(t.min_prefixes)
        && (origins >= 2 || tally.prefixes.len() >= population.prefixes.len().min(2))
        && !narrow::explained(view, case, failures)
}

/// The link's own source gets no answer either: else packets leave, and it is the way back of the
/// flows' source that is dead.
fn link_dark(view: &View<'_>, case: &Case, bound: Timestamp, families: Families) -> bool {
    let link = view.anchors(&case.egress, Some(ProbeSource::Link), case.onset, families);
    let silent: Vec<_> = link
        .iter()
        .copied()
        .filter(|a| a.window.misses(view.now) >= 1)
        .collect();
    !link.iter().any(|a| a.window.answered_since(bound)) && ases(&silent) >= ases(&link).min(2)
}

/// Another egress carries probes, with the flows' own source wherever that ever worked.
fn backup_proven(view: &View<'_>, case: &Case, bound: Timestamp, families: Families) -> bool {
    let mut any = false;
    for other in view.others(&case.egress) {
        any = true;
        if view.host.down_since(other).is_some() {
            continue;
        }
        let flow = view.anchors(other, Some(ProbeSource::Flow), case.onset, families);
        // Its anchors speak for the whole of it, else only who answers there and not here; and it may have
        // died since an answer.
        let alive = |a: &Anchor<'_>| a.window.answered_since(bound) && a.window.current(view.now);
        if !flow.is_empty() && !flow.iter().any(alive) && !only_there(view, case, other, bound) {
            continue;
        }
        if view.answered(other, ProbeSource::Flow, bound, families) {
            // It did not answer before either: then it may be the end of everything, and the first
            // answers of the primary are on their way.
            let silent = flow
                .iter()
                .filter(|a| a.window.silent_between(case.onset, bound + RECOVERY))
                .count();
            if silent * 2 <= flow.len() || view.now >= case.suspected_at + RECOVERY * 3 {
                return true;
            }
            continue;
        }
        if flow.is_empty() && view.answered(other, ProbeSource::Link, bound, families) {
            return true;
        }
    }
    if !any {
        return true;
    }
    // No backup ever answered: the break is named all the same, and nothing will be done.
    view.now >= case.suspected_at + view.params.thresholds.tcp_only_wait
        && view
            .others(&case.egress)
            .all(|other| view.anchors(other, None, case.onset, families).is_empty())
}

/// A suspect answers through another egress and not through the one in question.
fn only_there(view: &View<'_>, case: &Case, other: &EgressName, bound: Timestamp) -> bool {
    view.reach
        .of(other)
        .filter(|w| w.source == ProbeSource::Flow && w.answered_since(bound))
        .filter(|w| matches!(w.target, ProbeTarget::Suspect(_)))
        .filter_map(|w| view.reach.find(&case.egress, w.source, w.target))
        .any(|here| !here.answered_since(bound) && here.misses(view.now) >= 1)
}

/// The AS next to ours that most broken paths share.
fn upstream_of(
    view: &View<'_>,
    case: &Case,
    failures: &[Failure<'_>],
    families: Families,
) -> Option<Asn> {
    let mut votes: BTreeMap<Asn, usize> = BTreeMap::new();
    for failure in failures {
        if let Some(asn) = failure.path.and_then(|p| p.upstream()) {
            *votes.entry(asn).or_default() += 1;
        }
    }
    if votes.is_empty() {
        let anchors = &view.params.anchors;
        for (address, _) in anchors.iter().filter(|(a, _)| families.has(*a)) {
            let path = view.routes.path(&events::PeerKey(*address), &case.egress);
            if let Some(asn) = path.and_then(|p| p.upstream()) {
                *votes.entry(asn).or_default() += 1;
            }
        }
    }
    let all: usize = votes.values().sum();
    let (asn, count) = votes.into_iter().max_by_key(|(_, count)| *count)?;
    (count * 5 >= all * 4).then_some(asn)
}
