//! The facts at one moment, as suspicion, diagnoses and healing read them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use events::{Asn, EgressName, PeerKey, Prefix, ProbeSource, ProbeTarget, Timestamp, Verdict};
use ipnet::IpNet;

use crate::case::{Case, is_wide};
use crate::host::Host;
use crate::params::Params;
use crate::peers::{FAILING, Peers};
use crate::reach::{Reach, Window};
use crate::routes::Routes;
use crate::tally::{Failure, Population, Tally};

/// What was sent, or should have come, that much after the middle of what was lost was not on its way
/// before the break.
const ON_THE_WAY: Duration = Duration::from_millis(25);

/// Failures older than the others by more than this are another story.
const CLUSTER: Duration = Duration::from_millis(500);

/// Answers that are merely late come again within so long, however fast a queue grows.
const LATE_AGAIN: Duration = Duration::from_millis(500);

/// Loss is what anchors lost within so long, of so many probes at least ...
const LATELY: Duration = Duration::from_secs(1);
const ENOUGH: usize = 20;
/// ... and chance what happens once in so many.
const BY_CHANCE: f64 = 0.05;
const MOST_IN_A_ROW: i32 = 8;
/// Loss is heavy from this share on; a connection that it backed off is silent for so long after it.
const HEAVY: f64 = 0.15;
const BACK_OFF: Duration = Duration::from_secs(5);

/// The facts.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub now: Timestamp,
    pub params: &'a Params,
    pub peers: &'a Peers,
    pub routes: &'a Routes,
    pub reach: &'a Reach,
    pub host: &'a Host,
    /// Per egress: probes dark since before this raised a suspicion that was not borne out.
    pub dismissed: &'a BTreeMap<EgressName, Timestamp>,
    /// Peers of open incidents, and whose they are.
    pub owners: &'a BTreeMap<PeerKey, u64>,
}

/// One anchor as seen through one egress.
#[derive(Clone, Copy)]
pub struct Anchor<'a> {
    pub asn: Asn,
    pub window: &'a Window,
}

/// Address families that an outage touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    pub v4: bool,
    pub v6: bool,
}

impl Families {
    pub const BOTH: Self = Self { v4: true, v6: true };

    /// One family.
    pub const fn only(ipv6: bool) -> Self {
        Self {
            v4: !ipv6,
            v6: ipv6,
        }
    }

    pub fn has(self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}

impl<'a> View<'a> {
    /// The covering prefix of a peer, by BGP, else by the kernel's route, else a /24 or /48.
    pub fn prefix(&self, key: &PeerKey, egress: &EgressName) -> Prefix {
        if let Some(prefix) = self.routes.prefix(key, egress) {
            return prefix;
        }
        let fib = self.peers.map.get(key).and_then(|p| p.route.as_ref());
        match fib {
            Some(route) if route.prefix.prefix_len() > 0 => route.prefix,
            _ => {
                let length = if key.0.is_ipv4() { 24 } else { 48 };
                IpNet::new(key.0, length).map_or_else(|_| IpNet::from(key.0), |net| net.trunc())
            }
        }
    }

    /// What is connected through an egress, of these families.
    pub fn population(&self, egress: &EgressName, families: Families) -> Population {
        let mut all = Population::default();
        for (key, peer) in self.peers.map.iter().filter(|(key, _)| families.has(key.0)) {
            let on = peer
                .failure()
                .map_or_else(|| peer.egress(&self.peers.default), |f| &f.egress);
            if peer.connections.is_empty() || on != egress {
                continue;
            }
            all.connections += peer.connections.len();
            all.peers += 1;
            all.prefixes.insert(self.prefix(key, egress));
            all.origins.extend(self.routes.origin(key, egress));
        }
        all
    }

    /// Egresses to look at: the configured ones and any other that peers use.
    pub fn egresses(&self) -> Vec<EgressName> {
        let mut names: Vec<EgressName> = self
            .params
            .egresses
            .iter()
            .map(|e| e.name.clone())
            .collect();
        let used: BTreeSet<&EgressName> = self
            .peers
            .map
            .values()
            .map(|p| p.egress(&self.peers.default))
            .collect();
        for name in used {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// The configured egresses other than one.
    pub fn others<'b>(
        &self,
        egress: &'b EgressName,
    ) -> impl Iterator<Item = &'a EgressName> + use<'a, 'b> {
        self.params
            .egresses
            .iter()
            .map(|e| &e.name)
            .filter(move |name| *name != egress)
    }

    /// Peers that fail on an egress and for which `keep` holds.
    fn failing(
        &self,
        egress: &EgressName,
        keep: impl Fn(&PeerKey, &crate::peers::Failing) -> bool,
    ) -> Vec<Failure<'a>> {
        self.peers
            .map
            .iter()
            .filter_map(|(key, peer)| {
                let failing = peer.failure()?;
                let here = failing.egress == *egress && failing.weight >= FAILING;
                (here && keep(key, failing)).then(|| Failure {
                    key: *key,
                    peer,
                    failing,
                    weight: failing.weight * peer.lateness.trust(self.now),
                    prefix: self.prefix(key, egress),
                    origin: self.routes.origin(key, egress),
                    path: self.routes.path(key, egress),
                })
            })
            .collect()
    }

    /// Fresh failures that no incident owns and no suspicion has dismissed.
    pub fn fresh(&self, egress: &EgressName) -> Vec<Failure<'a>> {
        let from = self.now - self.params.thresholds.window;
        self.failing(egress, |key, f| {
            !f.vetoed && !f.dismissed && f.at >= from && !self.owners.contains_key(key)
        })
    }

    /// The same, those too that were seen by a stalled observer.
    pub fn fresh_with_vetoed(&self, egress: &EgressName) -> Vec<Failure<'a>> {
        let from = self.now - self.params.thresholds.window;
        self.failing(egress, |key, f| {
            !f.dismissed && f.at >= from && !self.owners.contains_key(key)
        })
    }

    /// Failures however old that no incident owns and no suspicion has dismissed.
    pub fn lasting(&self, egress: &EgressName) -> Vec<Failure<'a>> {
        self.failing(egress, |key, f| {
            !f.vetoed && !f.dismissed && !self.owners.contains_key(key)
        })
    }

    /// The failures that a case is about.
    pub fn of_case(&self, case: &Case) -> Vec<Failure<'a>> {
        let from = case.suspected_at - self.params.thresholds.window;
        let mut failures = self.failing(&case.egress, |key, f| {
            let foreign = self.owners.get(key).is_some_and(|n| *n != case.number);
            let own = self.owners.get(key) == Some(&case.number);
            !f.vetoed && !foreign && (own || (!f.dismissed && f.at >= from))
        });
        let mut times: Vec<Timestamp> = failures.iter().map(|f| f.failing.since).collect();
        times.sort_unstable();
        if times.len() >= 5
            && let Some(median) = times.get(times.len() / 2)
        {
            failures.retain(|f| f.failing.since + CLUSTER >= *median);
        }
        failures
    }

    /// Peers on an egress that had failed and progress again since `bound`.
    pub fn alive_since(&self, egress: &EgressName, bound: Timestamp) -> usize {
        self.peers
            .map
            .values()
            .filter(|p| p.failure().is_none() && p.alive_at.is_some_and(|at| at > bound))
            .filter(|p| p.egress(&self.peers.default) == egress)
            .count()
    }

    /// Peers on an egress that acknowledge what was sent when, by these failures, everything was lost
    /// already: since the middle one's oldest lost byte, and a little. The failing ones themselves
    /// speak by their failures.
    pub fn alive(
        &self,
        egress: &EgressName,
        failures: &[Failure<'_>],
        families: Families,
    ) -> usize {
        let mut sent: Vec<Timestamp> = failures.iter().map(|f| f.failing.since).collect();
        sent.sort_unstable();
        let Some(middle) = sent.get(sent.len() / 2) else {
            return 0;
        };
        self.delivering(egress, *middle, families)
    }

    /// Peers on an egress that acknowledge what was sent a little after a time.
    pub fn delivering(&self, egress: &EgressName, since: Timestamp, families: Families) -> usize {
        let bound = since + ON_THE_WAY;
        self.peers
            .map
            .iter()
            .filter(|(key, _)| families.has(key.0))
            .filter(|(_, p)| p.delivered.is_some_and(|at| at > bound))
            .filter(|(_, p)| p.failure().is_none_or(|f| p.delivered > Some(f.since)))
            // What went another way says nothing of this one.
            .filter(|(_, p)| {
                *p.egress(&self.peers.default) == *egress
                    && p.route.as_ref().is_none_or(|r| {
                        r.previous.is_none() || p.delivered.is_some_and(|at| at > r.changed_at)
                    })
            })
            .count()
    }

    /// Answers of anchors still come although, by the silence of most, none could: they are late, not
    /// lost. What was queued when the path broke comes late as well, and then no more.
    pub fn late_answers(&self, anchors: &[Anchor<'_>]) -> bool {
        let mut dark: Vec<Timestamp> = anchors
            .iter()
            .filter_map(|a| a.window.dark_since(self.now))
            .collect();
        dark.sort_unstable();
        dark.get(dark.len() / 2).is_some_and(|middle| {
            anchors.iter().any(|a| {
                let rtt = a.window.rtt.unwrap_or_default();
                a.window
                    .arrived
                    .is_some_and(|at| at > *middle + rtt + ON_THE_WAY && self.now < at + LATE_AGAIN)
            })
        })
    }

    /// Evidence summed, with correlation capped.
    pub fn tally(&self, failures: &[Failure<'_>]) -> Tally {
        Tally::of(failures, self.params.thresholds.correlation)
    }

    /// Estimate of the onset: the oldest byte lost, leaving out what is older than the others.
    pub fn onset(&self, failures: &[Failure<'_>]) -> Option<Timestamp> {
        let mut times: Vec<Timestamp> = failures.iter().map(|f| f.failing.since).collect();
        times.sort_unstable();
        let median = *times.get(times.len() / 2)?;
        times
            .into_iter()
            .find(|since| *since + Duration::from_millis(250) >= median)
    }

    /// A time at which the break, if it is one, had surely happened: what answers after it
    /// contradicts, what a backup answers after it proves. Outliers are left out.
    pub fn surely_dark(&self, case: &Case, failures: &[Failure<'_>]) -> Option<Timestamp> {
        let mut flows: Vec<Timestamp> = failures.iter().map(Failure::surely_dark).collect();
        flows.sort_unstable();
        let by_flows = if flows.len() >= 5 {
            flows.get((flows.len() / 8).max(2))
        } else {
            flows.last()
        };
        // Answers to the link's own address come back by it: those queued there die before the break.
        let anchors = self.anchors(&case.egress, None, case.onset, Families::BOTH);
        let mut probes: Vec<Timestamp> = self
            .gateways(&case.egress, case.onset)
            .into_iter()
            .chain(anchors.iter().map(|a| a.window))
            .filter_map(|w| Some(w.dark_since(self.now)? + w.rtt.unwrap_or_default()))
            .filter(|at| *at + CLUSTER >= case.onset)
            .collect();
        probes.sort_unstable();
        let by_probes = probes.get((probes.len() / 4).max(1)).or(probes.first());
        match (by_flows, by_probes) {
            (Some(a), Some(b)) => Some(*a.min(b)),
            (a, b) => a.or(b).copied(),
        }
    }

    /// By then what a verdict says had surely happened: what answers probes sent since is a way
    /// around it. Of small scopes, where one failure more or less decides, only what was asked since
    /// the suspicion counts.
    pub fn dark_by(&self, case: &Case, verdict: &Verdict) -> Option<Timestamp> {
        let failures = self.of_case(case);
        match verdict {
            Verdict::LocalLink { egress } => self
                .host
                .down_since(egress)
                .or_else(|| self.surely_dark(case, &failures)),
            Verdict::Gateway { egress } => self
                .gateways(egress, case.onset)
                .iter()
                .filter_map(|w| Some(w.dark_since(self.now)? + w.rtt.unwrap_or_default()))
                .max(),
            verdict if is_wide(verdict) => self.surely_dark(case, &failures),
            _ => failures
                .iter()
                .map(Failure::surely_dark)
                .max()
                .map(|at| at.max(case.suspected_at)),
        }
    }

    /// Families that the failures are in; without failures those of the dark anchors.
    pub fn families(&self, case: &Case, failures: &[Failure<'_>]) -> Families {
        let (mut v4, mut v6) = (0_usize, 0_usize);
        for failure in failures {
            *(if failure.key.0.is_ipv4() {
                &mut v4
            } else {
                &mut v6
            }) += 1;
        }
        if failures.is_empty() {
            for w in self.reach.of(&case.egress) {
                if matches!(w.target, ProbeTarget::Anchor(_)) && w.misses(self.now) >= 2 {
                    let v = w.target.address().is_ipv4();
                    *(if v { &mut v4 } else { &mut v6 }) += 1;
                }
            }
        }
        if v4 + v6 == 0 {
            return Families::BOTH;
        }
        Families {
            v4: v4 * 5 >= v4 + v6,
            v6: v6 * 5 >= v4 + v6,
        }
    }

    /// Anchors through an egress, by the windows that used to be answered around `onset`.
    /// `source` `None`: the flow's source where that is usable, else the link's.
    pub fn anchors(
        &self,
        egress: &EgressName,
        source: Option<ProbeSource>,
        onset: Timestamp,
        families: Families,
    ) -> Vec<Anchor<'a>> {
        self.params
            .anchors
            .iter()
            .filter(|(address, _)| families.has(*address))
            .filter_map(|(address, asn)| {
                let find = |source| {
                    self.reach
                        .find(egress, source, ProbeTarget::Anchor(*address))
                        .filter(|w| w.usable(onset))
                };
                let window = match source {
                    Some(source) => find(source),
                    None => find(ProbeSource::Flow).or_else(|| find(ProbeSource::Link)),
                }?;
                Some(Anchor { asn: *asn, window })
            })
            .collect()
    }

    /// The last answers that anchors gave through an egress took ever longer.
    pub fn queue_grows(&self, egress: &EgressName) -> bool {
        let anchors = self.reach.of(egress);
        let slowed = anchors.filter(|w| matches!(w.target, ProbeTarget::Anchor(_)) && w.slowed());
        slowed.take(2).count() == 2
    }

    /// So many probes in a row may be lost by chance on an egress, as its anchors fare of late.
    pub fn lost_in_a_row(&self, egress: &EgressName) -> usize {
        let loss = self.loss(egress, self.now - LATELY).unwrap_or(0.0);
        (1..MOST_IN_A_ROW)
            .find(|n| loss.powi(*n) <= BY_CHANCE)
            .map_or(MOST_IN_A_ROW, |n| n - 1)
            .unsigned_abs() as usize
    }

    /// So much was lost on an egress a while ago or is now that TCP backs off on whole paths by chance.
    pub fn is_lossy(&self, egress: &EgressName) -> bool {
        [LATELY, BACK_OFF].into_iter().any(|within| {
            self.loss(egress, self.now - within)
                .is_some_and(|loss| loss >= HEAVY)
        })
    }

    /// The share of probes to anchors that is lost since, where enough were sent; what is dark is no
    /// loss.
    fn loss(&self, egress: &EgressName, from: Timestamp) -> Option<f64> {
        let windows = self.reach.of(egress);
        let anchors = windows.filter(|w| {
            matches!(w.target, ProbeTarget::Anchor(_))
                && w.misses(self.now) < self.params.thresholds.anchor_misses
        });
        let (answered, sent) = anchors
            .map(|w| w.tally(from))
            .filter(|(answered, _)| *answered > 0)
            .fold((0, 0), |(a, b), (answered, sent)| (a + answered, b + sent));
        #[allow(clippy::cast_precision_loss)] // Far below 2^52.
        let loss = (sent - answered) as f64 / sent as f64;
        (sent >= ENOUGH).then_some(loss)
    }

    /// Gateways of an egress that used to answer around `onset`.
    pub fn gateways(&self, egress: &EgressName, onset: Timestamp) -> Vec<&'a Window> {
        self.reach
            .of(egress)
            .filter(|w| matches!(w.target, ProbeTarget::Gateway(_)) && w.usable(onset))
            .collect()
    }

    /// An anchor or suspect answered through the egress a probe sent since `bound`.
    pub fn answered(
        &self,
        egress: &'a EgressName,
        source: ProbeSource,
        bound: Timestamp,
        families: Families,
    ) -> bool {
        self.reach.of(egress).any(|w| {
            w.source == source
                && !matches!(w.target, ProbeTarget::Gateway(_))
                && families.has(w.target.address())
                && w.answered_since(bound)
        })
    }
}

/// How many different ASes.
pub fn ases(anchors: &[Anchor<'_>]) -> usize {
    anchors.iter().map(|a| a.asn).collect::<BTreeSet<_>>().len()
}
