//! What the diagnoses of small scope share: which hosts fail lastingly, which are alive, and what the
//! failing ones have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use events::{Asn, PeerKey, Prefix, ProbeSource, ProbeTarget, Timestamp};

use crate::case::{Case, is_wide};
use crate::peers::Peer;
use crate::tally::Failure;
use crate::view::{Families, View};

/// A class of hosts, and how many of them are known to fail or to be alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// All of them, also those of which nothing is known.
    pub members: usize,
    pub alive: usize,
    pub failing: BTreeSet<PeerKey>,
    /// Those that fail, not for long enough yet.
    pub late: usize,
    /// Anchors that fail.
    pub anchors: usize,
    /// Those asked that answered, and those that did not.
    pub answered: usize,
    pub silent: usize,
    /// Of the silent ones, those that answer another way: they do answer probes.
    pub elsewhere: usize,
}

impl Class {
    /// Most of those of which anything is known fail, and it is not one alone.
    ///
    /// `asked`: probes are sent, so that not only old failures speak, which last through TCP's
    /// backoff when all is well again. `doubt`: observations got lost, acknowledgements as well.
    fn fails(&self, asked: bool, doubt: bool) -> bool {
        let failing = self.failing.len() + self.anchors;
        let confirmed = !asked
            || (self.silent >= 1
                && self.silent >= 2 * self.answered
                && (!doubt || self.silent >= 2 || self.elsewhere + self.anchors >= 1));
        !self.failing.is_empty() && failing >= 2 && failing >= 2 * self.alive && confirmed
    }

    /// How well it explains: what fails speaks for it, what is alive against it.
    fn fit(&self) -> isize {
        let signed = |n: usize| isize::try_from(n).unwrap_or(isize::MAX);
        signed(self.failing.len() + self.anchors) - 2 * signed(self.alive)
    }
}

/// What is known of a host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Failing,
    /// It fails, not for long enough yet to say more.
    Late,
    Alive,
    /// It does not fail, and nobody tells of deliveries.
    Presumed,
    Unknown,
}

/// What asking a host gave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Answered,
    Silent,
    /// It does answer another way.
    Elsewhere,
    Not,
}

/// All hosts on an egress, as far as a case of small scope is concerned.
pub struct Scene<'a> {
    /// Failures that have lasted.
    pub failures: Vec<Failure<'a>>,
    states: BTreeMap<PeerKey, (State, Asked)>,
    anchors: Vec<(PeerKey, State)>,
    asked: bool,
    /// Observations got lost.
    doubt: bool,
    /// What built up would have done so by now.
    settled: bool,
    all: All,
}

/// How many of all peers and anchors are known to fail or to be alive.
#[derive(Clone, Copy, Debug, Default)]
struct All {
    failing: usize,
    alive: usize,
    /// Anchors that are alive.
    anchors: usize,
}

impl All {
    fn of(states: impl Iterator<Item = State>, anchors: &[(PeerKey, State)]) -> Self {
        let mut all = Self::default();
        for state in states.chain(anchors.iter().map(|(_, state)| *state)) {
            match state {
                State::Failing | State::Late => all.failing += 1,
                State::Alive | State::Presumed => all.alive += 1,
                State::Unknown => {}
            }
        }
        let alive = anchors.iter().filter(|(_, state)| *state == State::Alive);
        all.anchors = alive.count();
        all
    }
}

/// The scene, once the wait is over and the egress itself is known to be well.
pub fn scene<'a>(view: &View<'a>, case: &Case) -> Option<Scene<'a>> {
    let t = &view.params.thresholds;
    if view.now < case.suspected_at + t.narrow_wait {
        return None;
    }
    let mut failures = view.of_case(case);
    let recovered_at = if case.verdict.as_ref().is_some_and(is_wide) {
        Some(case.well_since?)
    } else {
        case.recovered_at
            .max(others_recovered(view, case, failures.len()))
    };
    if let Some(well_since) = recovered_at {
        // What failed in a wide break tells nothing of a narrow one after it, until it tried again.
        failures.retain(|f| {
            let tried = f.failing.renewed;
            tried > well_since && view.now >= tried + f.failing.limit.max(ANSWER)
        });
    }
    let building: BTreeSet<PeerKey> = failures.iter().map(|f| f.key).collect();
    let persist = if view.is_lossy(&case.egress) {
        LOSSY_PERSIST.max(t.narrow_persist)
    } else {
        t.narrow_persist
    };
    failures.retain(|f| view.now >= f.failing.at + persist);
    let lost = view.lost_in_a_row(&case.egress);
    let (answering, failures): (Vec<_>, Vec<_>) = failures
        .into_iter()
        .partition(|f| answers(view, case, f, lost));
    let newest = failures.iter().map(Failure::surely_dark).max()?;
    let answering: BTreeSet<PeerKey> = answering.iter().map(|f| f.key).collect();
    let failing: BTreeSet<PeerKey> = failures.iter().map(|f| f.key).collect();
    let states: BTreeMap<PeerKey, (State, Asked)> = connected(view, case)
        .map(|(key, peer)| {
            let state = if failing.contains(&key) {
                State::Failing
            } else if answering.contains(&key) {
                State::Alive
            } else if building.contains(&key) {
                State::Late
            } else {
                state_of(view, case, (&key, peer), newest, lost)
            };
            (key, (state, asked(view, case, (&key, peer), lost)))
        })
        .collect();
    let anchors: Vec<(PeerKey, State)> = view
        .anchors(&case.egress, None, case.onset, Families::BOTH)
        .iter()
        .map(|a| {
            let state = if a.window.answered_since(newest) {
                State::Alive
            } else if a.window.misses(view.now) >= t.anchor_misses {
                State::Failing
            } else {
                State::Unknown
            };
            (PeerKey(a.window.target.address()), state)
        })
        .collect();
    let all = All::of(states.values().map(|(state, _)| *state), &anchors);
    let mut began: Vec<Timestamp> = failures.iter().map(|f| f.failing.at).collect();
    began.sort_unstable();
    let settled = began
        .get(began.len() / 2)
        .is_some_and(|middle| view.now >= *middle + SETTLED);
    let scene = Scene {
        failures,
        states,
        anchors,
        all,
        asked: view.params.probes && !case.asked.is_empty(),
        doubt: view.host.doubt(view.now) > 1.0,
        settled,
    };
    scene.egress_well().then_some(scene)
}

/// When others that failed with what is still `failing`, and half as many at least, were well again.
fn others_recovered(view: &View<'_>, case: &Case, failing: usize) -> Option<Timestamp> {
    let mut well: Vec<Timestamp> = connected(view, case)
        .filter(|(key, peer)| case.failed.contains(key) && peer.failure().is_none())
        .filter_map(|(_, peer)| peer.alive_at.filter(|at| *at > case.onset))
        .collect();
    well.sort_unstable();
    let middle = well.get(well.len() / 2).copied();
    middle.filter(|_| well.len() >= 2 && well.len() * 2 >= failing)
}

/// The path to a failing peer answers probes with the flows' source: its application is slow.
/// So many probes in a row may be `lost` on a path that is well.
pub fn answers(view: &View<'_>, case: &Case, failure: &Failure<'_>, lost: usize) -> bool {
    asked_alive(view, case, &failure.key, failure.surely_dark(), lost)
}

fn asked_alive(view: &View<'_>, case: &Case, key: &PeerKey, bound: Timestamp, lost: usize) -> bool {
    view.reach
        .find(&case.egress, ProbeSource::Flow, ProbeTarget::Suspect(key.0))
        .is_some_and(|w| w.answered_since(bound) && w.misses(view.now) <= lost)
}

/// It does not answer this way, and does another way: it answers probes, and this way is dead.
fn asked_dead(view: &View<'_>, case: &Case, key: &PeerKey, bound: Timestamp, lost: usize) -> bool {
    let target = ProbeTarget::Suspect(key.0);
    let here = view.reach.find(&case.egress, ProbeSource::Flow, target);
    if lost > 0 && here.is_some_and(|w| w.misses(view.now) <= lost) {
        return false;
    }
    let answered = |egress| {
        let window = view.reach.find(egress, ProbeSource::Flow, target);
        window.and_then(|w| w.arrived.filter(|_| w.answered_since(bound)))
    };
    if answered(&case.egress).is_some() {
        return false;
    }
    let asked = case.asked.get(&key.0).is_some_and(|at| *at >= bound);
    asked
        && view
            .others(&case.egress)
            .filter_map(answered)
            .any(|at| view.now >= at + OTHER_WAY)
}

/// An answer this way may take so much longer than one another way.
const OTHER_WAY: Duration = Duration::from_millis(200);

fn state_of(
    view: &View<'_>,
    case: &Case,
    (key, peer): (&PeerKey, &Peer),
    bound: Timestamp,
    lost: usize,
) -> State {
    if asked_alive(view, case, key, bound, lost) || peer.delivered.is_some_and(|at| at > bound) {
        State::Alive
    } else if asked_dead(view, case, key, bound, lost) {
        State::Failing
    } else if peer.delivered.is_none() && peer.failure().is_none() {
        State::Presumed
    } else {
        State::Unknown
    }
}

fn asked(view: &View<'_>, case: &Case, (key, peer): (&PeerKey, &Peer), lost: usize) -> Asked {
    let Some(at) = case.asked.get(&key.0) else {
        return Asked::Not;
    };
    let limit = peer.failure().map_or(Duration::ZERO, |f| f.limit);
    let window = view
        .reach
        .find(&case.egress, ProbeSource::Flow, ProbeTarget::Suspect(key.0));
    // The newest word counts: it is asked again and again.
    let silent = match window {
        Some(w) if w.misses(view.now) > lost => true,
        Some(w) if w.answered_since(*at) => return Asked::Answered,
        Some(w) if w.misses(view.now) > 0 => false,
        _ => view.now >= *at + limit.max(ANSWER),
    };
    let target = ProbeTarget::Suspect(key.0);
    let elsewhere = |egress| {
        let window = view.reach.find(egress, ProbeSource::Flow, target);
        window.is_some_and(|w| w.answered_since(*at))
    };
    match silent {
        true if view.others(&case.egress).any(elsewhere) => Asked::Elsewhere,
        true => Asked::Silent,
        false => Asked::Not,
    }
}

/// Under heavy loss connections are silent for so long now and then.
const LOSSY_PERSIST: Duration = Duration::from_secs(5);
/// So long after half of the failures what is still alive stays so.
const SETTLED: Duration = Duration::from_secs(1);
/// So many anchors that answer speak for the egress.
const ANCHORS: usize = 2;
/// So many times as many must be well outside a class as fail there.
const REST: usize = 2;

/// Who was asked answers within this, or its usual limit.
const ANSWER: Duration = Duration::from_millis(250);

impl Scene<'_> {
    /// Something on the egress is alive, or there is but one to tell.
    fn egress_well(&self) -> bool {
        let anchors = self.anchors.iter().any(|(_, state)| *state == State::Alive);
        let peers = self.states.values().any(|(state, _)| {
            *state == State::Alive || (self.anchors.is_empty() && *state == State::Presumed)
        });
        anchors || peers || self.states.len() == 1
    }

    fn count(&self, class: &mut Class, key: PeerKey, state: State, asked: Option<Asked>) {
        class.members += 1;
        let anchor = asked.is_none();
        match asked {
            Some(Asked::Answered) => class.answered += 1,
            Some(Asked::Silent) => class.silent += 1,
            Some(Asked::Elsewhere) => {
                class.silent += 1;
                class.elsewhere += 1;
            }
            _ => {}
        }
        match state {
            State::Alive | State::Presumed => class.alive += 1,
            State::Failing if anchor => class.anchors += 1,
            State::Failing => {
                class.failing.insert(key);
            }
            State::Late => class.late += 1,
            State::Unknown => {}
        }
    }

    /// It is no wider break or delay that shows in a class first, or is still building up: anchors answer,
    /// or one does and most of what is not in the class is well, or something still is after a second.
    pub fn rest_is_well(&self, class: &Class) -> bool {
        let all = &self.all;
        let alive = all.alive.saturating_sub(class.alive);
        let failing = all
            .failing
            .saturating_sub(class.failing.len() + class.late + class.anchors);
        let asked = all.anchors > 0 || self.anchors.is_empty();
        all.anchors >= ANCHORS || self.settled || (asked && failing * REST <= alive)
    }

    /// The AS beyond the upstream that best explains the failures.
    pub fn best_as(&self, view: &View<'_>, case: &Case) -> Option<(Asn, Class)> {
        let mut classes: BTreeMap<Asn, (usize, Class)> = BTreeMap::new();
        let peers = self
            .states
            .iter()
            .map(|(key, (state, asked))| (*key, *state, Some(*asked)));
        let anchors = self.anchors.iter().map(|(key, state)| (*key, *state, None));
        for (key, state, asked) in peers.chain(anchors) {
            let Some(path) = view.routes.path(&key, &case.egress) else {
                continue;
            };
            for (hop, asn) in path.ases.iter().enumerate() {
                // The upstream itself is another diagnosis, unless the peer lives in it.
                if hop == 0 && path.ases.len() > 1 {
                    continue;
                }
                let (depth, class) = classes.entry(*asn).or_default();
                *depth = (*depth).max(hop);
                self.count(class, key, state, asked);
            }
        }
        classes
            .into_iter()
            .filter(|(_, (_, class))| {
                class.fails(self.asked, self.doubt) && self.rest_is_well(class)
            })
            // Best explained, then fewest others, then farthest from us.
            .max_by_key(|(_, (depth, class))| {
                (class.fit(), std::cmp::Reverse(class.members), *depth)
            })
            .map(|(asn, (_, class))| (asn, class))
    }

    /// The prefix with most failures.
    pub fn best_prefix(&self, view: &View<'_>, case: &Case) -> Option<(Prefix, Class)> {
        let mut classes: BTreeMap<Prefix, Class> = BTreeMap::new();
        for (key, (state, asked)) in &self.states {
            let class = classes.entry(view.prefix(key, &case.egress)).or_default();
            self.count(class, *key, *state, Some(*asked));
        }
        classes
            .into_iter()
            .filter(|(_, class)| class.fails(self.asked, self.doubt) && self.rest_is_well(class))
            .max_by_key(|(_, class)| class.fit())
    }
}

/// Something narrower than the egress explains nearly all failures while others are well.
pub fn explained(view: &View<'_>, case: &Case, failures: &[Failure<'_>]) -> bool {
    let population = view.population(&case.egress, Families::BOTH).peers;
    let failing: BTreeSet<PeerKey> = failures.iter().map(|f| f.key).collect();
    let states: BTreeMap<PeerKey, (State, Asked)> = connected(view, case)
        .map(|(key, _)| {
            let state = if failing.contains(&key) {
                State::Failing
            } else {
                State::Alive
            };
            (key, (state, Asked::Not))
        })
        .collect();
    let scene = Scene {
        all: All::of(states.values().map(|(state, _)| *state), &[]),
        failures: failures.to_vec(),
        states,
        anchors: Vec::new(),
        asked: false,
        doubt: false,
        settled: false,
    };
    let covers = |class: &Class| {
        class.failing.len() * 10 >= failures.len() * 9 && population >= class.members + 2
    };
    scene
        .best_as(view, case)
        .is_some_and(|(_, class)| covers(&class))
        || scene
            .best_prefix(view, case)
            .is_some_and(|(_, class)| covers(&class))
}

/// Peers with connections through the case's egress.
fn connected<'a>(
    view: &View<'a>,
    case: &Case,
) -> impl Iterator<Item = (PeerKey, &'a Peer)> + use<'a> {
    let egress = case.egress.clone();
    let default = &view.peers.default;
    view.peers
        .map
        .iter()
        .filter(move |(_, peer)| {
            let on = match peer.failure() {
                Some(failing) => &failing.egress,
                None => peer.egress(default),
            };
            !peer.connections.is_empty() && *on == egress
        })
        .map(|(key, peer)| (*key, peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_observations_get_lost_one_silent_peer_counts_if_it_answers_another_way() {
        let failing = ["203.0.113.7", "203.0.113.8"].map(|a| PeerKey(a.parse().expect("one")));
        let class = Class {
            failing: failing.into(),
            silent: 1,
            ..Class::default()
        };
        assert!(class.fails(true, false));
        assert!(!class.fails(true, true), "it may answer no probes at all");
        let elsewhere = Class {
            elsewhere: 1,
            ..class
        };
        assert!(elsewhere.fails(true, true));
    }
}
