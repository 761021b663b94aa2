//! From a verdict to routes: the smallest change that wins the FIB for each flow's source.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use events::{EgressName, FibRoute, Incident, PeerKey, Prefix, RouteSpec, Timestamp, Verdict};

use crate::facts::{Fib, Way};
use crate::flows::Flows;
use crate::{Egress, Facts, Policy, Proof};

/// When a plan is drafted long after the verdict, the path may have healed meanwhile, and answers
/// through the backup may be ahead of those through the primary: the backup's must be this old.
const LATE_PROOF: Duration = Duration::from_millis(600);
/// The primary's probes that count then.
const LATE_WINDOW: Duration = Duration::from_secs(2);
/// Who is asked both ways at once has answered both within so long.
const BOTH: Duration = Duration::from_millis(100);
/// What was lost so long before the egress broke was lost to something else.
const EARLIER: Duration = Duration::from_millis(150);

/// `RT_TABLE_LOCAL`: this host's own addresses.
const TABLE_LOCAL: u32 = 255;

/// Why a peer gets no route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skipped {
    /// Its packets do not take the broken egress, or take a route of ours already.
    NotAffected,
    /// Flow-source probes through the broken egress are answered again.
    PrimaryAnswers,
    /// The kernel's route to it is not known.
    NoFibFact,
    /// Its flows use a source address that is not configured as a flow source.
    ForeignSource(IpAddr),
    /// No other egress has a gateway of its address family and a live link.
    NoBackup,
    /// No flow-source probe has shown yet that a backup works for it.
    Unproven,
    /// Flow-source probes through every backup fail: the way back is dead.
    WayBackDead,
    /// Policy does not allow a route that would win for it.
    NotAllowed(Prefix),
    /// No route can win against the FIB's own entry.
    CannotWin(String),
}

/// What could be done for a verdict, before the safety check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// The routes, in order, without duplicates.
    pub routes: Vec<RouteSpec>,
    /// Peers without a route, by reason.
    pub skipped: BTreeMap<PeerKey, Skipped>,
    /// Why each kind of route is the smallest change that wins, in words.
    pub rationale: BTreeSet<&'static str>,
    /// Peers that the routes cover.
    pub covered: usize,
}

impl Draft {
    /// Some affected peer's proof or FIB route is still to come; where nothing can be routed yet,
    /// any watched peer's.
    #[must_use]
    pub fn undecided(&self, affected: &[PeerKey]) -> bool {
        self.lacks(affected, &[Skipped::Unproven, Skipped::NoFibFact])
    }

    /// What is missing may come about by itself: a proof, a fact, a live backup.
    #[must_use]
    pub fn may_improve(&self, affected: &[PeerKey]) -> bool {
        self.lacks(
            affected,
            &[
                Skipped::Unproven,
                Skipped::NoFibFact,
                Skipped::WayBackDead,
                Skipped::NoBackup,
                Skipped::PrimaryAnswers,
            ],
        )
    }

    fn lacks(&self, affected: &[PeerKey], reasons: &[Skipped]) -> bool {
        self.skipped.iter().any(|(peer, reason)| {
            reasons.contains(reason) && (self.routes.is_empty() || affected.contains(peer))
        })
    }

    /// Why there is no route, in words; the reason that a person can do most about.
    #[must_use]
    pub fn why_nothing(&self) -> Option<String> {
        let has = |wanted: &dyn Fn(&Skipped) -> bool| self.skipped.values().find(|r| wanted(r));
        if has(&|r| *r == Skipped::WayBackDead).is_some() {
            return Some(
                "return path: probes from the flows' source get no answer through any backup"
                    .to_owned(),
            );
        }
        if has(&|r| *r == Skipped::Unproven).is_some() {
            return Some("backup not proven with the flows' source".to_owned());
        }
        if has(&|r| *r == Skipped::NoBackup).is_some() {
            return Some(
                "no backup: every other egress lacks a gateway of the family, or is dead"
                    .to_owned(),
            );
        }
        if let Some(Skipped::NotAllowed(prefix)) = has(&|r| matches!(r, Skipped::NotAllowed(_))) {
            return Some(format!(
                "{prefix} lies in none of failover.prefixes, or overlaps a protected prefix"
            ));
        }
        if let Some(Skipped::CannotWin(text)) = has(&|r| matches!(r, Skipped::CannotWin(_))) {
            return Some(text.clone());
        }
        if let Some(Skipped::ForeignSource(source)) =
            has(&|r| matches!(r, Skipped::ForeignSource(_)))
        {
            return Some(format!(
                "flows use {source}, which is not in probe.flow_sources: no backup can be proven for it"
            ));
        }
        if has(&|r| *r == Skipped::PrimaryAnswers).is_some() {
            return Some("the primary path answers again".to_owned());
        }
        has(&|r| *r == Skipped::NoFibFact).map(|_| "the kernel's routes are not known".to_owned())
    }
}

/// What a verdict gives to reroute.
struct Target<'a> {
    peer: PeerKey,
    source: IpAddr,
    route: Option<&'a FibRoute>,
    broken: Option<EgressName>,
}

/// How old a verdict is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Age {
    /// When it was reached.
    pub decided: Timestamp,
    /// The time now.
    pub now: Timestamp,
    /// It was reached long ago.
    pub late: bool,
}

/// Drafts routes for an incident's verdict; an empty draft for verdicts that permit none.
///
/// With `wide`, a verdict on a whole egress also moves the watched peers that are not known to
/// fail, unless they are seen alive since the onset.
#[must_use]
pub(crate) fn draft_for(
    incident: &Incident,
    policy: &Policy,
    facts: &Facts,
    flows: &Flows,
    wide: bool,
    age: Age,
) -> Draft {
    let mut draft = Draft::default();
    let Some(verdict) = &incident.verdict else {
        return draft;
    };
    let mut peers: BTreeSet<PeerKey> = match verdict {
        Verdict::LocalLink { .. }
        | Verdict::Gateway { .. }
        | Verdict::UpstreamAs { .. }
        | Verdict::AddressFamily { .. }
        | Verdict::EgressOnly { .. } => {
            let affected = incident.affected.iter().copied();
            if wide {
                let others = facts
                    .peers()
                    .filter(|peer| of_families(incident, *peer))
                    .filter(|peer| !flows.alive_since(*peer, incident.onset));
                affected.chain(others).collect()
            } else {
                affected.collect()
            }
        }
        // Those that fail behind it, whether it is their origin or on the way to them.
        Verdict::RemoteAs { asn } => incident
            .affected
            .iter()
            .copied()
            .filter(|peer| facts.may_be_behind(*peer, *asn))
            .collect(),
        Verdict::Prefix { prefix } => incident
            .affected
            .iter()
            .copied()
            .filter(|peer| prefix.contains(&peer.0))
            .collect(),
        Verdict::SinglePeer { .. }
        | Verdict::ReturnPath { .. }
        | Verdict::HostStall
        | Verdict::Latency { .. }
        | Verdict::TotalIsolation
        | Verdict::None => return draft,
    };
    if matches!(verdict, Verdict::AddressFamily { .. }) {
        peers.retain(|peer| of_families(incident, *peer));
    }
    let onset = incident.proof_from();
    let mut routes: BTreeMap<(Prefix, u32), RouteSpec> = BTreeMap::new();
    for peer in peers {
        match target(peer, verdict, facts, policy).and_then(|target| {
            let failed = target.broken.as_ref().is_some_and(|broken| {
                let well = facts.well_until(policy, broken, target.source);
                well.is_some_and(|well| flows.dark_before(peer, well - EARLIER))
            });
            let whole = is_whole(verdict) && !failed;
            route_for(&target, whole, policy, facts, onset, age)
        }) {
            Ok((specs, why)) => {
                for spec in specs {
                    routes.entry((spec.prefix, spec.table)).or_insert(spec);
                }
                draft.rationale.insert(why);
                draft.covered += 1;
            }
            Err(reason) => {
                // A peer that is not known to fail, and would not be moved, need not be explained.
                if incident.affected.contains(&peer) || reason != Skipped::NotAffected {
                    draft.skipped.insert(peer, reason);
                }
            }
        }
    }
    draft.routes = routes.into_values().collect();
    draft
}

/// Drafts routes for an incident from facts alone, without knowledge of flows.
#[must_use]
pub fn draft(incident: &Incident, policy: &Policy, facts: &Facts) -> Draft {
    let age = Age {
        decided: Timestamp::from_nanos(u64::MAX),
        now: incident.onset,
        late: false,
    };
    draft_for(incident, policy, facts, &Flows::default(), true, age)
}

/// What is not known to fail in an address family in which something fails. A verdict on one family
/// leaves the other alone.
fn of_families(incident: &Incident, peer: PeerKey) -> bool {
    match incident.verdict {
        Some(Verdict::AddressFamily { ipv6, .. }) => peer.0.is_ipv6() == ipv6,
        _ => {
            incident.affected.is_empty()
                || incident
                    .affected
                    .iter()
                    .any(|other| other.0.is_ipv6() == peer.0.is_ipv6())
        }
    }
}

fn target<'a>(
    peer: PeerKey,
    verdict: &Verdict,
    facts: &'a Facts,
    policy: &Policy,
) -> Result<Target<'a>, Skipped> {
    let Fib { source, route } = facts.fib_of(peer).ok_or(Skipped::NoFibFact)?;
    if !policy.flow_sources.contains(source) {
        return Err(Skipped::ForeignSource(*source));
    }
    let current = route.as_ref().and_then(|route| route.egress.clone());
    let broken = match verdict.broken_egress() {
        Some(egress) => {
            // Without any route a lost link may have taken it away.
            if route.is_some() && current.as_ref() != Some(egress) {
                return Err(Skipped::NotAffected);
            }
            Some(egress.clone())
        }
        // Without an egress to leave there is none to avoid.
        None if current.is_none() => return Err(Skipped::NotAffected),
        None => current,
    };
    Ok(Target {
        peer,
        source: *source,
        route: route.as_ref(),
        broken,
    })
}

/// The verdict is on a whole egress.
fn is_whole(verdict: &Verdict) -> bool {
    !matches!(verdict, Verdict::RemoteAs { .. } | Verdict::Prefix { .. })
}

/// Where only a part of what lies behind the egress fails (`generic` is false), or the peer failed before
/// it, who is to be moved must be silent here and answer there.
fn route_for(
    target: &Target<'_>,
    generic: bool,
    policy: &Policy,
    facts: &Facts,
    onset: Timestamp,
    Age { decided, now, late }: Age,
) -> Result<(Vec<RouteSpec>, &'static str), Skipped> {
    let ipv6 = target.peer.0.is_ipv6();
    let origin = facts.origin(target.peer.0, policy);
    let way = |egress, onset, until| Way {
        egress,
        source: target.source,
        onset,
        until,
    };
    let whole = Prefix::from(target.peer.0);
    let mut unproven = false;
    if let Some(broken) = &target.broken {
        let prefix = facts.covering(target.peer, broken).unwrap_or(whole);
        let since = onset.max(if late { now - LATE_WINDOW } else { onset });
        let here = way(broken, since, None);
        let answer = |egress, since| facts.anchors_answer(policy, &way(egress, since, None));
        let others = || {
            let names = policy.egresses.iter().map(|egress| &egress.name);
            names.filter(|name| *name != broken)
        };
        // Also where a whole egress is said to be broken: what answers through it is not moved.
        let well = facts.answers_in(&here, prefix)
            || (generic && answer(broken, since.max(decided)))
            || (late && facts.proof(policy, &here, prefix, origin, generic) == Proof::Alive);
        if well {
            return Err(Skipped::PrimaryAnswers);
        }
        // Where no anchor proves a backup long after the verdict, too.
        let narrow = !generic || (late && !others().any(|egress| answer(egress, since)));
        let silent = || {
            let mut ways = others().map(|egress| way(egress, since, None));
            let asked = since.max(decided);
            // Later there was time to lose it again.
            let here = way(broken, if late { asked } else { since }, None);
            ways.any(|there| facts.only_there(&here, &there, prefix, asked, now - BOTH))
        };
        unproven = narrow && !silent();
    }
    let until = late.then_some(now - LATE_PROOF);
    let mut reason = Skipped::NoBackup;
    for egress in &policy.egresses {
        if Some(&egress.name) == target.broken.as_ref() {
            continue;
        }
        let Some(gateway) = egress.gateway(ipv6) else {
            continue;
        };
        if !facts.usable(&egress.name, gateway, onset) {
            continue;
        }
        let covering = facts.covering(target.peer, &egress.name);
        let way = way(&egress.name, onset, until);
        match facts.proof(policy, &way, covering.unwrap_or(whole), origin, generic) {
            Proof::Alive if unproven => reason = Skipped::Unproven,
            Proof::Alive => return choose(target, covering, egress, gateway, policy),
            Proof::Dead if reason != Skipped::Unproven => reason = Skipped::WayBackDead,
            Proof::Dead => {}
            Proof::Untested => reason = Skipped::Unproven,
        }
    }
    Err(reason)
}

/// The covering prefix where policy allows it, else the host; whichever wins the FIB.
fn choose(
    target: &Target<'_>,
    covering: Option<Prefix>,
    egress: &Egress,
    gateway: IpAddr,
    policy: &Policy,
) -> Result<(Vec<RouteSpec>, &'static str), Skipped> {
    let host = Prefix::from(target.peer.0);
    let mut refusal = None;
    for wanted in covering.into_iter().chain([host]) {
        match winning(target, wanted, covering.is_some(), policy) {
            Ok((changes, why)) => {
                if let Some((prefix, _, _)) = changes
                    .iter()
                    .find(|(prefix, _, _)| !permitted(prefix, policy))
                {
                    refusal.get_or_insert(Skipped::NotAllowed(*prefix));
                    continue;
                }
                let specs = changes
                    .into_iter()
                    .map(|(prefix, metric, table)| RouteSpec {
                        prefix,
                        egress: egress.name.clone(),
                        interface: egress.interface.clone(),
                        gateway,
                        source: target.source,
                        metric,
                        table,
                    })
                    .collect();
                return Ok((specs, why));
            }
            Err(reason) => {
                refusal.get_or_insert(reason);
            }
        }
    }
    Err(refusal.unwrap_or(Skipped::NotAllowed(host)))
}

/// Inside an allowed prefix and clear of every protected one.
pub(crate) fn permitted(prefix: &Prefix, policy: &Policy) -> bool {
    policy
        .allowed
        .iter()
        .any(|allowed| allowed.contains(prefix))
        && !protected(policy).any(|p| p.contains(prefix) || prefix.contains(&p))
}

/// What no route may overlap: configured, gateways, and our own addresses.
pub(crate) fn protected(policy: &Policy) -> impl Iterator<Item = Prefix> + '_ {
    let gateways = policy
        .egresses
        .iter()
        .flat_map(|egress| egress.gateways.iter().copied());
    policy.protected.iter().map(Prefix::trunc).chain(
        gateways
            .chain(policy.flow_sources.iter().copied())
            .map(Prefix::from),
    )
}

type Change = (Prefix, u32, u32);

/// Prefixes, metrics and table of routes that win against the FIB's entry for the target.
fn winning(
    target: &Target<'_>,
    wanted: Prefix,
    bgp: bool,
    policy: &Policy,
) -> Result<(Vec<Change>, &'static str), Skipped> {
    let Some(entry) = target.route else {
        return Ok((
            vec![(wanted, policy.metric.max(1), policy.table)],
            "the FIB holds no route: the prefix itself",
        ));
    };
    if entry.table == TABLE_LOCAL || entry.table == 0 {
        return Err(Skipped::CannotWin(format!(
            "the route to {} is in table {}",
            target.peer, entry.table
        )));
    }
    if entry.prefix.prefix_len() < wanted.prefix_len() {
        let why = if bgp && wanted.prefix_len() < wanted.max_prefix_len() {
            "the BGP prefix is more specific than the FIB's entry"
        } else {
            "a host route is more specific than the FIB's entry"
        };
        return Ok((vec![(wanted, policy.metric.max(1), entry.table)], why));
    }
    let held = entry.prefix;
    // A metric of 0 cannot be beaten in IPv4; in IPv6 it stands for 1024 (IP6_RT_PRIO_USER), so
    // that 1 is the lowest there is.
    let lowest = u32::from(held.addr().is_ipv6());
    if entry.metric > lowest {
        let metric = policy.metric.clamp(lowest, entry.metric - 1);
        return Ok((
            vec![(held, metric, entry.table)],
            "the FIB holds that very prefix: the same at a lower metric",
        ));
    }
    match held.subnets(held.prefix_len() + 1) {
        Ok(halves) if held.prefix_len() < held.max_prefix_len() => Ok((
            halves
                .map(|half| (half, policy.metric.max(1), entry.table))
                .collect(),
            "the FIB holds that very prefix at the lowest metric: its two halves",
        )),
        _ => Err(Skipped::CannotWin(format!(
            "the FIB holds {held} at metric {}: nothing is more specific or lower",
            entry.metric
        ))),
    }
}
