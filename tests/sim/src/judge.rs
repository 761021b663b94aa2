//! What a world's engine said and did, against the truth.

use std::collections::BTreeMap;

use events::{IncidentId, Severity, Verdict};

use crate::fault::Kind;
use crate::truth::{self, Truth, asn_of};
use crate::world::{FeedKind, Ran, Said};

/// A page may still come so long after its cause ended.
const STILL: u64 = 3_000_000;

/// The judgement on one world.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Its seed.
    pub seed: u64,
    /// The kinds of its faults; none: benign.
    pub kinds: Vec<Kind>,
    /// The traffic's name.
    pub traffic: &'static str,
    /// The feed's name.
    pub feed: &'static str,
    /// How many peers.
    pub peers: usize,
    /// The class of the verdict that stands for the first fault, or of the gravest one.
    pub verdict: String,
    /// All verdicts are right, and all that must be found were.
    pub right: bool,
    /// The first fault, if it is actionable: found.
    pub found: Option<bool>,
    /// The same: a route was asked for that saves some of the peers.
    pub rerouted: Option<bool>,
    /// From the first fault to the first right verdict, milliseconds.
    pub decision_ms: Option<f64>,
    /// Where BGP tells of the first fault: the right AS was named.
    pub culprit: Option<bool>,
    /// What should not have been done.
    pub wrong: Vec<String>,
    /// What else is not right.
    pub notes: Vec<String>,
    /// Inputs of the engine.
    pub inputs: u64,
}

impl Judged {
    /// Anything at all is not as it should be.
    #[must_use]
    pub fn misjudged(&self) -> bool {
        !self.right
            || !self.wrong.is_empty()
            || self.found == Some(false)
            || self.culprit == Some(false)
    }

    /// The first fault's name, with the second one's.
    #[must_use]
    pub fn fault(&self) -> String {
        let names: Vec<&str> = self.kinds.iter().map(|k| k.name()).collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join("+")
        }
    }

    /// Judges a world that has run.
    #[must_use]
    pub fn of(seed: u64, ran: &Ran) -> Self {
        let truths = Truth::of(ran);
        let incidents = incidents(ran);
        let mut judged = Self {
            seed,
            kinds: truths.iter().map(|t| t.kind).collect(),
            traffic: ran.traffic.pattern.name(),
            feed: ran.feed.name(),
            peers: ran.topology.peers.len(),
            verdict: "none".to_owned(),
            right: true,
            found: None,
            rerouted: None,
            decision_ms: None,
            culprit: None,
            wrong: Vec::new(),
            notes: Vec::new(),
            inputs: ran.seen.inputs,
        };
        let last = |said: &[&Said]| said.last().map(|s| s.verdict.clone());
        let gravest = incidents
            .values()
            .filter_map(|said| last(said))
            .max_by_key(grade);
        if let Some(verdict) = &gravest {
            judged.verdict = verdict.class().to_owned();
        }
        for (n, truth) in truths.iter().enumerate() {
            judged.fault_judged(ran, truth, &incidents, n == 0);
        }
        judged.spurious(ran, &truths, &incidents);
        judged.deeds(ran);
        judged.pages(ran, &truths);
        judged
    }

    fn fault_judged(
        &mut self,
        ran: &Ran,
        truth: &Truth,
        incidents: &BTreeMap<&IncidentId, Vec<&Said>>,
        first: bool,
    ) {
        let accepts = |said: &Said, at| truth.accepts(&said.verdict, &ran.topology, at);
        let standing = incidents
            .iter()
            .filter_map(|(id, said)| Some((*id, said.last()?)))
            .find(|(_, said)| said.at >= truth.from && accepts(said, ran.span.end));
        let ever = ran
            .seen
            .said
            .iter()
            .find(|said| said.at >= truth.from && accepts(said, said.at));
        if standing.is_none() && truth.must {
            self.right = false;
            self.notes.push(match ever {
                Some(_) => format!("{}: the right verdict did not last", truth.kind),
                None => format!("{}: not found", truth.kind),
            });
        }
        if !first {
            return;
        }
        if let Some((_, said)) = standing {
            self.verdict = said.verdict.class().to_owned();
        }
        self.decision_ms = ever.map(|said| (said.at - truth.from) as f64 / 1e3);
        if truth.actionable {
            self.found = Some(ever.is_some());
            let after = ran.seen.installed.iter().filter(|i| i.at >= truth.from);
            let mut moved = after.flat_map(|i| i.moved);
            self.rerouted = Some(moved.any(|m| m.saved > 0));
        }
        if let Some((id, said)) = standing
            && truth.bgp_tells
            && truth.must
            && !truth.culprits.is_empty()
        {
            let blamed = asn_of(&said.verdict).or(ran.seen.blamed.get(id).copied());
            let right = blamed.is_some_and(|asn| truth.culprits.contains(&asn));
            self.culprit = Some(right);
            if !right {
                let wanted: Vec<String> = truth.culprits.iter().map(ToString::to_string).collect();
                self.notes.push(format!(
                    "blames {}, not {}",
                    blamed.map_or("nobody".to_owned(), |asn| asn.to_string()),
                    wanted.join(" or ")
                ));
            }
        }
    }

    /// Verdicts for which there is no fault.
    fn spurious(
        &mut self,
        ran: &Ran,
        truths: &[Truth],
        incidents: &BTreeMap<&IncidentId, Vec<&Said>>,
    ) {
        let stalled = !ran.benign.standstills.is_empty()
            || !ran.benign.lags.is_empty()
            || !ran.benign.jumps.is_empty();
        for said in incidents.values().filter_map(|said| said.last()) {
            let right = truths
                .iter()
                .any(|truth| truth.accepts(&said.verdict, &ran.topology, ran.span.end));
            // A part of an isolation that the kernel itself told of.
            let told = |name: &events::EgressName| {
                ran.topology
                    .egresses
                    .iter()
                    .position(|e| e.name == *name)
                    .is_some_and(|n| {
                        ran.faults.iter().flat_map(|f| &f.cuts).any(|cut| {
                            cut.scope == crate::fault::Scope::Link(n) && cut.from <= said.at
                        })
                    })
            };
            // Slowness is judged by nobody yet: nothing is done about it.
            let harmless = matches!(said.verdict, Verdict::None | Verdict::Latency { .. })
                || matches!(&said.verdict, Verdict::LocalLink { egress } if told(egress))
                || (stalled && matches!(said.verdict, Verdict::HostStall));
            // Of an egress that is dark there may be an incident of its own.
            let true_of_another =
                truth::egress_of(&said.verdict).is_some_and(|name| truth::is_dark(ran, name));
            // Without BGP nobody can know what a peer alone in its prefix has in common with others.
            let peers = &ran.topology.peers;
            let alone = ran.feed == FeedKind::None
                && matches!(said.verdict, Verdict::SinglePeer { peer } if truths.iter().any(|truth| {
                    truth.affected.iter().any(|n| {
                        let prefix = peers[*n].prefix;
                        peers[*n].address == peer.0
                            && peers.iter().filter(|p| p.prefix == prefix).count() == 1
                    })
                }));
            if !right && !harmless && !true_of_another && !alone {
                self.right = false;
                self.notes.push(format!("says: {}", said.verdict));
            }
        }
    }

    /// A plan is wrong when most of what it moves, of either family, worked, or is not helped, or when
    /// all are known to be gone.
    fn deeds(&mut self, ran: &Ran) {
        for done in &ran.seen.installed {
            let none = done.moved.iter().all(|m| m.covered + m.gone == 0);
            let gone = done.moved.iter().all(|m| m.covered == 0)
                && done.moved.iter().any(|m| m.gone > m.excused);
            for m in done.moved {
                let what = if m.dead * 2 < m.covered || none {
                    "of a path that works"
                } else if m.helped * 2 < m.covered || gone {
                    "that does not help"
                } else {
                    continue;
                };
                self.wrong.push(format!(
                    "reroute {what} at {}: {} peers, {} dead, {} helped",
                    clock(ran, done.at),
                    m.covered,
                    m.dead,
                    m.helped
                ));
                break;
            }
        }
    }

    fn pages(&mut self, ran: &Ran, truths: &[Truth]) {
        for page in &ran.seen.pages {
            if !page.trigger || page.severity != Severity::Critical {
                continue;
            }
            let justified = truths
                .iter()
                .any(|t| t.critical && t.from <= page.at && page.at <= t.until + STILL);
            if !justified {
                self.wrong.push(format!(
                    "critical page at {}: {}",
                    clock(ran, page.at),
                    page.summary
                ));
            }
        }
    }
}

/// A time since the first fault, in words.
#[must_use]
pub fn clock(ran: &Ran, at: u64) -> String {
    format!("{:+.1} ms", (at as f64 - ran.span.fault as f64) / 1e3)
}

fn incidents(ran: &Ran) -> BTreeMap<&IncidentId, Vec<&Said>> {
    let mut all: BTreeMap<&IncidentId, Vec<&Said>> = BTreeMap::new();
    for said in &ran.seen.said {
        all.entry(&said.incident).or_default().push(said);
    }
    all
}

fn grade(verdict: &Verdict) -> usize {
    let order = [
        "none",
        "host_stall",
        "single_peer",
        "prefix",
        "remote_as",
        "return_path",
        "address_family",
        "upstream_as",
        "egress_only",
        "gateway",
        "local_link",
        "total_isolation",
    ];
    let class = verdict.class();
    order.iter().position(|o| *o == class).unwrap_or_default()
}
