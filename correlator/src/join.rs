//! BGP joined to incidents over a two-sided window, because either may lead.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use events::{
    Asn, BgpSummary, EgressName, NeighborId, PeerKey, Prefix, RouteChange, Timestamp, Verdict,
};
use serde::{Deserialize, Serialize};

use crate::case::{BgpTally, Blame, Case};
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
        };
        self.push(at, event, change.egress.clone(), what);
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
        What::Route {
            prefix,
            old,
            new,
            peers,
        } => {
            // A new way to somewhere, or the same way told again, broke nothing.
            if old.is_none() || old == new {
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
    for entry in log.of(case, params) {
        tally.first_at = Some(tally.first_at.map_or(entry.at, |at| at.min(entry.at)));
        match &entry.what {
            What::SessionLost { .. } => tally.sessions_lost += 1,
            What::Route {
                prefix, old, new, ..
            } => {
                tally.changes += 1;
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
/// the share of its own routes that changed, as a geometric mean weighted 1 to 3 (SWIFT, SIGCOMM
/// 2017). Where several score alike the verdict's own AS wins, then the one nearest to us.
pub fn culprit(tally: &BgpTally, case: &Case, routes: &Routes) -> Option<Asn> {
    let total = tally.withdrawn.len() + tally.changed.len();
    if total == 0 {
        return None;
    }
    let through = routes.through(&case.egress);
    #[allow(clippy::cast_precision_loss)] // Far below 2^52.
    let share = |part: usize, whole: usize| part as f64 / whole as f64;
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
            let withdrawal_share = share(blame.prefixes, total);
            let path_share = share(blame.prefixes, blame.prefixes + remaining);
            let score = (withdrawal_share * path_share.powi(3)).powf(0.25);
            (*asn, blame.hop, score)
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

/// What the routers say, in words and numbers.
pub fn summary(tally: &BgpTally, case: &Case, routes: &Routes) -> BgpSummary {
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
    if tally.sessions_lost > 0 {
        parts.push("session lost".to_owned());
    } else if stale > 0 {
        parts.push("session lost earlier".to_owned());
    }
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
