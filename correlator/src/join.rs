//! BGP joined to incidents over a two-sided window, because either may lead.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use events::{
    Asn, BgpSummary, Burst, EgressName, NeighborId, OriginValidation, PeerKey, Prefix,
    RouteAttributes, RouteChange, Timestamp, Verdict,
};
use serde::{Deserialize, Serialize};

use crate::case::{BgpTally, Blame, Case, LostLink};
use crate::params::Params;
use crate::routes::Routes;

/// Changes so long before the onset may belong to it.
const BEFORE: Duration = Duration::from_secs(30);
/// Changes so long after it.
const AFTER: Duration = Duration::from_secs(120);
/// Changes kept.
const MAX_LOGGED: usize = 4096;

/// A change as blame needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    pub sequence: u64,
    /// When the router's message arrived.
    pub at: Timestamp,
    /// When the correlator was told.
    pub told_at: Timestamp,
    pub egress: EgressName,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum What {
    Route {
        prefix: Prefix,
        old: Option<Vec<Asn>>,
        new: Option<Vec<Asn>>,
        peers: Vec<PeerKey>,
        /// The next hop is another one: the new one.
        #[serde(default)]
        next_hop: Option<IpAddr>,
        /// Origin validation finds the new route invalid, and did not before.
        #[serde(default)]
        invalid: bool,
    },
    /// Many routes of the table changed at once: what they had in common.
    Burst {
        neighbor: NeighborId,
        since: Timestamp,
        prefixes: u32,
        /// The most suspect link and AS, each with its score.
        link: Option<((Asn, Asn), f64)>,
        asn: Option<(Asn, f64)>,
        /// The table is not whole: shares are estimates.
        partial: bool,
    },
    SessionLost {
        neighbor: NeighborId,
    },
}

/// The changes of the last minutes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Log {
    entries: VecDeque<Logged>,
    next: u64,
    /// Changes forgotten before their time because there were too many.
    pub dropped: u64,
}

impl Log {
    pub fn change(&mut self, at: Timestamp, change: &RouteChange, routes: &Routes) {
        let event = change
            .new
            .as_ref()
            .map_or(at, |new| new.received_at.min(at));
        let what = What::Route {
            prefix: change.prefix,
            old: change.old.as_ref().map(|r| routes.ases(r)),
            new: change.new.as_ref().map(|r| routes.ases(r)),
            peers: change.peers.clone(),
            next_hop: match (&change.old, &change.new) {
                (Some(old), Some(new)) if old.next_hop != new.next_hop => Some(new.next_hop),
                _ => None,
            },
            invalid: invalid(&change.new) && !invalid(&change.old),
        };
        self.push(at, event, change.egress.clone(), what);
    }

    /// A burst is told again while it grows: the newest word counts.
    pub fn burst(&mut self, at: Timestamp, burst: &Burst) {
        self.entries.retain(|entry| {
            !matches!(&entry.what, What::Burst { neighbor, since, .. }
                if *neighbor == burst.neighbor && *since == burst.since)
        });
        let what = What::Burst {
            neighbor: burst.neighbor,
            since: burst.since,
            prefixes: burst.prefixes,
            link: burst.links.first().map(|link| (link.link, link.score)),
            asn: burst.ases.first().map(|asn| (asn.asn, asn.score)),
            partial: burst.partial,
        };
        self.push(at, burst.since.min(at), burst.egress.clone(), what);
    }

    pub fn session_lost(&mut self, at: Timestamp, egress: &EgressName, neighbor: NeighborId) {
        self.push(at, at, egress.clone(), What::SessionLost { neighbor });
    }

    fn push(&mut self, told_at: Timestamp, at: Timestamp, egress: EgressName, what: What) {
        while self
            .entries
            .front()
            .is_some_and(|e| told_at.since(e.at) > BEFORE + AFTER)
        {
            self.entries.pop_front();
        }
        if self.entries.len() >= MAX_LOGGED {
            self.entries.pop_front();
            self.dropped += 1;
        }
        let sequence = self.next;
        self.next += 1;
        self.entries.push_back(Logged {
            sequence,
            at,
            told_at,
            egress,
            what,
        });
    }

    /// The newest change, if it belongs to the case.
    pub fn newest_of(&self, case: &Case, params: &Params) -> bool {
        self.entries
            .back()
            .is_some_and(|entry| belongs(entry, case, params))
    }

    /// All changes that belong to a case, oldest first.
    pub fn of<'a>(
        &'a self,
        case: &'a Case,
        params: &'a Params,
    ) -> impl Iterator<Item = &'a Logged> {
        self.entries
            .iter()
            .filter(move |entry| belongs(entry, case, params))
    }

    /// Peers whose routes through an egress took another path shortly before a time, or since.
    pub fn rerouted(&self, egress: &EgressName, onset: Timestamp) -> BTreeSet<PeerKey> {
        self.entries
            .iter()
            .filter(|entry| entry.egress == *egress && entry.at + BEFORE >= onset)
            .filter_map(|entry| match &entry.what {
                What::Route {
                    old: Some(_),
                    new: Some(_),
                    peers,
                    ..
                } => Some(peers),
                _ => None,
            })
            .flatten()
            .copied()
            .collect()
    }

    /// Changes told so far.
    pub fn told(&self) -> u64 {
        self.next
    }
}

fn belongs(entry: &Logged, case: &Case, params: &Params) -> bool {
    if entry.at + BEFORE < case.onset || entry.at > case.onset + AFTER {
        return false;
    }
    let same_egress = entry.egress == *case.broken_egress();
    match &entry.what {
        What::SessionLost { .. } => same_egress,
        // Whether it concerns the affected is for their own routes to say.
        What::Burst { .. } => same_egress || !case.is_wide(),
        What::Route {
            prefix,
            old,
            new,
            peers,
            next_hop,
            invalid,
        } => {
            // A new way to somewhere, or the same way told again, broke nothing.
            if !invalid && (old.is_none() || (old == new && next_hop.is_none())) {
                return false;
            }
            let wide = case.is_wide();
            let affected = peers.iter().any(|peer| case.affected.contains_key(peer))
                || case.affected.values().any(|p| p == prefix);
            let anchors = wide
                && params
                    .anchors
                    .iter()
                    .any(|(a, _)| prefix.contains(a) || peers.contains(&PeerKey(*a)));
            (same_egress || !wide) && (affected || anchors)
        }
    }
}

/// Counts what belongs to a case.
pub fn tally(log: &Log, case: &Case, params: &Params) -> BgpTally {
    let mut tally = BgpTally::default();
    let mut blamed: BTreeMap<Asn, (BTreeSet<Prefix>, usize)> = BTreeMap::new();
    let mut links: BTreeMap<(Asn, Asn), LostLink> = BTreeMap::new();
    let mut before: BTreeMap<(&EgressName, Prefix), &Option<Vec<Asn>>> = BTreeMap::new();
    let anchors: BTreeSet<PeerKey> = params.anchors.iter().map(|(a, _)| PeerKey(*a)).collect();
    for entry in log.of(case, params) {
        if !matches!(entry.what, What::Burst { .. }) {
            tally.first_at = Some(tally.first_at.map_or(entry.at, |at| at.min(entry.at)));
        }
        match &entry.what {
            What::SessionLost { .. } => tally.sessions_lost += 1,
            What::Burst { link, asn, .. } => {
                tally.burst_link = *link;
                tally.burst_asn = *asn;
            }
            What::Route {
                prefix,
                old,
                new,
                peers,
                next_hop,
                invalid,
            } => {
                tally.changes += 1;
                // The end of it, where a route is again what it was at first, blames nobody.
                match before.entry((&entry.egress, *prefix)) {
                    Entry::Vacant(first) => drop(first.insert(old)),
                    Entry::Occupied(first) if *first.get() == new => continue,
                    Entry::Occupied(_) => {}
                }
                tally.next_hops += usize::from(next_hop.is_some() && old == new);
                let origin = |path: &Option<Vec<Asn>>| path.as_ref()?.last().copied();
                if let (Some(was), Some(is)) = (origin(old), origin(new))
                    && (was != is || *invalid)
                {
                    tally.hijacked.insert(*prefix, (was, is, *invalid));
                } else if let Some(is) = origin(new).filter(|_| *invalid) {
                    tally.hijacked.insert(*prefix, (is, is, true));
                }
                if new.is_some() {
                    tally.changed.insert(*prefix);
                } else {
                    tally.withdrawn.insert(*prefix);
                }
                // The paths of another egress say that it is not this egress's fault, not whose it is.
                if entry.egress != *case.broken_egress() {
                    continue;
                }
                // Candidates are on the old path xor the new one (PoiRoot, SIGCOMM 2013).
                let old = old.as_deref().unwrap_or_default();
                let new = new.as_deref().unwrap_or_default();
                let crossed: BTreeSet<(Asn, Asn)> = pairs(new).collect();
                for link in pairs(old).filter(|link| !crossed.contains(link)) {
                    let lost = links.entry(link).or_insert_with(|| LostLink {
                        link,
                        prefixes: BTreeSet::new(),
                        peers: BTreeSet::new(),
                    });
                    lost.prefixes.insert(*prefix);
                    let peers = peers.iter().filter(|peer| !anchors.contains(peer));
                    lost.peers.extend(peers);
                }
                let only = |these: &[Asn], those: &[Asn]| -> Vec<(usize, Asn)> {
                    let hops = these.iter().copied().enumerate();
                    hops.filter(|(_, asn)| !those.contains(asn)).collect()
                };
                for (hop, asn) in only(old, new).into_iter().chain(only(new, old)) {
                    let (prefixes, nearest) = blamed
                        .entry(asn)
                        .or_insert_with(|| (BTreeSet::new(), usize::MAX));
                    prefixes.insert(*prefix);
                    *nearest = hop.min(*nearest);
                }
            }
        }
    }
    let withdrawn = tally.withdrawn.clone();
    tally.changed.retain(|prefix| !withdrawn.contains(prefix));
    tally.links = links.into_values().collect();
    tally.blamed = blamed
        .into_iter()
        .map(|(asn, (prefixes, hop))| {
            let blame = Blame {
                prefixes: prefixes.len(),
                hop,
            };
            (asn, blame)
        })
        .collect();
    tally
}

/// The AS that the changes point to: each AS is scored by its share of the changed routes and by
/// the share of its own routes that changed, as a geometric mean weighted 3 to 1 (SWIFT, SIGCOMM
/// 2017). Where several score alike the verdict's own AS wins, then the one nearest to us.
pub fn culprit(tally: &BgpTally, case: &Case, routes: &Routes) -> Option<Asn> {
    let total = tally.withdrawn.len() + tally.changed.len();
    if total == 0 {
        return None;
    }
    // Who now says that it is the origin.
    if tally.hijacked.len() * 2 > total
        && let Some((_, is, _)) = tally.hijacked.values().next()
    {
        return Some(*is);
    }
    let through = routes.through(&case.egress);
    let named = match &case.verdict {
        Some(Verdict::UpstreamAs { asn, .. }) => *asn,
        Some(Verdict::RemoteAs { asn }) => Some(*asn),
        _ => None,
    };
    tally
        .blamed
        .iter()
        .map(|(asn, blame)| {
            let remaining = through
                .iter()
                .filter(|(prefix, path)| {
                    path.ases.contains(asn)
                        && !tally.withdrawn.contains(prefix)
                        && !tally.changed.contains(prefix)
                })
                .count();
            let own = score(blame.prefixes, total, remaining);
            // What the whole table says of it weighs as much as what the watched routes say.
            let table = tally.burst_asn.filter(|(of, _)| of == asn);
            (*asn, blame.hop, table.map_or(own, |(_, all)| all.max(own)))
        })
        .filter(|(_, _, score)| *score >= 0.5)
        .max_by(|(a, near, x), (b, far, y)| {
            x.total_cmp(y)
                .then_with(|| (Some(*a) == named).cmp(&(Some(*b) == named)))
                .then_with(|| far.cmp(near))
                .then_with(|| b.cmp(a))
        })
        .map(|(asn, _, _)| asn)
}

/// How much points to an AS or a link (SWIFT): of `total` changed routes `lost` had it, and
/// `remaining` still do.
fn score(lost: usize, total: usize, remaining: usize) -> f64 {
    #[allow(clippy::cast_precision_loss)] // Far below 2^52.
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    (share(lost, total).powi(3) * share(lost, lost + remaining)).powf(0.25)
}

/// The links of a path, the end nearer to us first.
fn pairs(path: &[Asn]) -> impl Iterator<Item = (Asn, Asn)> {
    path.windows(2).filter_map(|pair| match pair {
        [near, far] => Some((*near, *far)),
        _ => None,
    })
}

fn invalid(route: &Option<RouteAttributes>) -> bool {
    let validation = route.as_ref().and_then(|route| route.validation);
    validation == Some(OriginValidation::Invalid)
}

/// The link beside the culprit that all changed routes lost, if few still cross it: "AS64501 lost its
/// link to AS64510".
fn link<'a>(
    tally: &'a BgpTally,
    case: &Case,
    routes: &Routes,
    culprit: Asn,
) -> Option<&'a LostLink> {
    let total = tally.withdrawn.len() + tally.changed.len();
    let through = routes.through(case.broken_egress());
    let gone = |p: &Prefix| tally.withdrawn.contains(p) || tally.changed.contains(p);
    let scored = tally.links.iter().filter_map(|lost| {
        let (near, far) = lost.link;
        let whole = lost.prefixes.len() == total && (near == culprit || far == culprit);
        let remaining = through
            .iter()
            .filter(|(prefix, path)| {
                pairs(&path.ases).any(|pair| pair == lost.link) && !gone(prefix)
            })
            .count();
        let own = score(lost.prefixes.len(), total, remaining);
        let table = tally.burst_link.filter(|(of, _)| *of == lost.link);
        let score = table.map_or(own, |(_, all)| all.max(own));
        (whole && score >= 0.5).then_some((lost, score))
    });
    scored
        .max_by(|(a, x), (b, y)| x.total_cmp(y).then_with(|| b.link.cmp(&a.link)))
        .map(|(lost, _)| lost)
}

/// What the routers say, in words and numbers.
pub fn summary(tally: &BgpTally, case: &Case, routes: &Routes, params: &Params) -> BgpSummary {
    let culprit = culprit(tally, case, routes);
    let stale = case
        .affected
        .keys()
        .filter(|peer| routes.path(peer, &case.egress).is_some_and(|p| p.stale))
        .count();
    let mut parts = Vec::new();
    let routes_text = |n: usize, verb: &str| {
        let noun = if n == 1 { "route" } else { "routes" };
        format!("{n} {noun} {verb}")
    };
    if !tally.withdrawn.is_empty() {
        parts.push(routes_text(tally.withdrawn.len(), "withdrawn"));
    }
    if !tally.changed.is_empty() {
        parts.push(routes_text(tally.changed.len(), "changed"));
    }
    if tally.next_hops > 0 {
        parts.push(routes_text(tally.next_hops, "with another next hop"));
    }
    if tally.sessions_lost > 0 {
        parts.push("session lost".to_owned());
    } else if stale > 0 {
        parts.push("session lost earlier".to_owned());
    }
    let unchanged = case.affected.iter().filter(|(peer, prefix)| {
        let path = routes.path(peer, case.broken_egress());
        path.is_some_and(|p| !p.stale && !p.withdrawn) && !tally.changed.contains(prefix)
    });
    let unchanged = unchanged.count();
    let against = (unchanged > 0).then(|| {
        format!(
            "the table still has the routes to {unchanged} of {} affected peers unchanged",
            case.affected.len()
        )
    });
    let mut text = match tally.first_at {
        None => "no change so far".to_owned(),
        Some(at) => format!("{}, {}", parts.join(", "), offset(at, case.onset)),
    };
    if tally.first_at.is_none() && stale > 0 {
        text.push_str(" (session lost earlier: paths are stale)");
    }
    if let Some(asn) = culprit {
        text.push_str(&format!("; changes point to {asn}"));
    }
    if let Some(lost) = culprit.and_then(|asn| link(tally, case, routes, asn)) {
        let (near, far) = lost.link;
        let (behind, all) = (lost.peers.len(), routes.peers(case.broken_egress(), params));
        text.push_str(&format!(
            ": {near} lost its link to {far}; {behind} of your {all} peers were behind it"
        ));
    }
    if let Some((prefix, (was, is, invalid))) = tally.hijacked.iter().next() {
        let more = tally.hijacked.len() - 1;
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let how = if was == is {
            format!("announced by {is}")
        } else {
            format!("announced by {is} instead of {was}")
        };
        let rpki = if *invalid { ", RPKI-invalid" } else { "" };
        text.push_str(&format!(
            "; {prefix}{more} {how}{rpki}: this may be a hijack"
        ));
    }
    if let Some(against) = against {
        text.push_str(&format!("; against it: {against}"));
    }
    BgpSummary {
        text,
        culprit,
        withdrawn: tally.withdrawn.len(),
        changed: tally.changed.len(),
    }
}

/// "2.0 s after the onset".
pub fn offset(at: Timestamp, onset: Timestamp) -> String {
    if at >= onset {
        format!("{:.1} s after the onset", at.since(onset).as_secs_f64())
    } else {
        format!("{:.1} s before the onset", onset.since(at).as_secs_f64())
    }
}

/// One line about one change.
pub fn line(entry: &Logged) -> String {
    let path = |ases: &Option<Vec<Asn>>| {
        let names: Vec<String> = ases.iter().flatten().map(Asn::to_string).collect();
        names.join(" ")
    };
    match &entry.what {
        What::SessionLost { neighbor } => format!(
            "BGP session with {} lost: its routes for {} are stale",
            neighbor.address, entry.egress
        ),
        What::Burst {
            neighbor,
            prefixes,
            link,
            asn,
            partial,
            ..
        } => {
            let mut text = format!(
                "{prefixes} routes of {} changed at once on {}",
                neighbor.address, entry.egress
            );
            if let Some(((near, far), score)) = link {
                text.push_str(&format!("; the link {near} {far} scores {score:.2}"));
            }
            if let Some((asn, score)) = asn {
                text.push_str(&format!(", {asn} {score:.2}"));
            }
            if *partial {
                text.push_str(" (estimates: the table is not whole)");
            }
            text
        }
        What::Route {
            prefix,
            old,
            new,
            next_hop: Some(next_hop),
            ..
        } if old == new => format!(
            "{prefix} goes by another next hop on {}: {next_hop}",
            entry.egress
        ),
        What::Route {
            prefix, old, new, ..
        } => match new {
            None => format!("{prefix} withdrawn on {} (was {})", entry.egress, path(old)),
            Some(_) => format!(
                "{prefix} changed on {}: {} instead of {}",
                entry.egress,
                path(new),
                path(old)
            ),
        },
    }
}
