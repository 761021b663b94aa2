//! An incident under investigation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use events::{
    Asn, BgpSummary, EgressName, Evidence, EvidenceSource, HostCause, Incident, IncidentId,
    IncidentState, PeerKey, Prefix, Timestamp, Verdict,
};
use serde::{Deserialize, Serialize};

/// Pieces of evidence kept per incident.
const MAX_EVIDENCE: usize = 64;
/// Related incidents kept per incident.
const MAX_RELATED: usize = 32;
/// Affected peers kept per incident.
const MAX_AFFECTED: usize = 4096;

/// How much points to an AS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blame {
    /// Changed prefixes whose old and new paths differ in it.
    pub prefixes: usize,
    /// Its place on these paths, 0 next to us.
    pub hop: usize,
}

/// An AS link that routes no longer cross.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LostLink {
    /// Its ends, the nearer to us first.
    pub link: (Asn, Asn),
    pub prefixes: BTreeSet<Prefix>,
    /// Watched peers behind it.
    pub peers: BTreeSet<PeerKey>,
}

/// What BGP changes did to the routes of an incident.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BgpTally {
    pub withdrawn: BTreeSet<Prefix>,
    pub changed: BTreeSet<Prefix>,
    pub blamed: BTreeMap<Asn, Blame>,
    /// Changes that took part.
    pub changes: usize,
    pub first_at: Option<Timestamp>,
    pub sessions_lost: usize,
    /// Routes with the same path by another next hop.
    #[serde(default)]
    pub next_hops: usize,
    /// Prefixes whose origin changed or became invalid: the origin before, now, and whether it is
    /// RPKI-invalid.
    #[serde(default)]
    pub hijacked: BTreeMap<Prefix, (Asn, Asn, bool)>,
    /// AS links that old paths crossed and new ones do not.
    #[serde(default)]
    pub links: Vec<LostLink>,
    /// What the whole table says: the most suspect link and AS.
    #[serde(default)]
    pub burst_link: Option<((Asn, Asn), f64)>,
    #[serde(default)]
    pub burst_asn: Option<(Asn, f64)>,
}

/// An open incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    pub number: u64,
    pub id: IncidentId,
    pub egress: EgressName,
    pub onset: Timestamp,
    pub suspected_at: Timestamp,
    pub confirmed_at: Option<Timestamp>,
    pub verdict: Option<Verdict>,
    pub first_evidence: EvidenceSource,
    /// The suspicion is about few peers, not about an egress.
    pub narrow: bool,
    pub evidence: Vec<Evidence>,
    pub affected: BTreeMap<PeerKey, Prefix>,
    /// Peers whose failure was really seen, among the affected.
    pub failed: BTreeSet<PeerKey>,
    pub bgp: BgpTally,
    pub bgp_summary: BgpSummary,
    /// Changes from this number on are not in the journal yet.
    pub bgp_told: u64,
    /// Journal lines written about changes, to bound them.
    pub bgp_lines: usize,
    /// An update is due then.
    pub publish_at: Option<Timestamp>,
    /// Suspects are probed again then.
    pub probe_at: Option<Timestamp>,
    /// By then the break had surely happened.
    pub dark_by: Option<Timestamp>,
    /// Suspects that were asked, and since when.
    pub asked: BTreeMap<IpAddr, Timestamp>,
    /// What stalled this host, where the verdict is that.
    pub cause: Option<HostCause>,
    /// Incidents that overlap in time or cause.
    pub related: Vec<IncidentId>,
    /// The path looks well since.
    pub well_since: Option<Timestamp>,
    /// What broke more widely, before the verdict became narrow, was well again since.
    pub recovered_at: Option<Timestamp>,
    /// Something bad was last seen then.
    pub bad_at: Timestamp,
    /// When the verdict took its present form.
    pub verdict_at: Option<Timestamp>,
    /// Another verdict that would be better, and since when.
    pub rival: Option<(Verdict, Timestamp)>,
}

impl Case {
    /// The incident as others see it.
    pub fn incident(&self) -> Incident {
        Incident {
            id: self.id.clone(),
            state: if self.verdict.is_some() {
                IncidentState::Confirmed
            } else {
                IncidentState::Suspected
            },
            onset: self.onset,
            suspected_at: self.suspected_at,
            confirmed_at: self.confirmed_at,
            resolved_at: None,
            verdict: self.verdict.clone(),
            first_evidence: self.first_evidence,
            evidence: self.evidence.clone(),
            affected: self.affected.keys().copied().collect(),
            prefixes: self
                .affected
                .values()
                .copied()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            bgp: self.bgp_summary.clone(),
            plan: None,
            time_to_verdict: self.confirmed_at.map(|at| at.since(self.onset)),
            dark_by: self.dark_by,
            cause: self.cause.clone(),
            related: self.related.clone(),
        }
    }

    /// Adds evidence; the middle goes first where there is too much, the beginning tells most.
    pub fn add(&mut self, evidence: impl IntoIterator<Item = Evidence>) {
        for piece in evidence {
            if self.evidence.len() >= MAX_EVIDENCE {
                self.evidence.remove(MAX_EVIDENCE / 2);
            }
            self.evidence.push(piece);
        }
    }

    /// Another incident overlaps.
    pub fn relate(&mut self, id: IncidentId) {
        if self.related.len() < MAX_RELATED && !self.related.contains(&id) {
            self.related.push(id);
        }
    }

    /// Adds an affected peer; returns whether it is new.
    pub fn affect(&mut self, peer: PeerKey, prefix: Prefix) -> bool {
        if self.affected.len() >= MAX_AFFECTED {
            return false;
        }
        self.affected.insert(peer, prefix).is_none()
    }

    /// The egress that the verdict names, else the one that the case is about.
    pub fn broken_egress(&self) -> &EgressName {
        self.verdict
            .as_ref()
            .and_then(egress_of)
            .unwrap_or(&self.egress)
    }

    /// The verdict is about a whole egress (or there is none yet and the suspicion is).
    pub fn is_wide(&self) -> bool {
        match &self.verdict {
            None => !self.narrow,
            Some(verdict) => is_wide(verdict),
        }
    }
}

/// Verdicts about a whole egress.
pub fn is_wide(verdict: &Verdict) -> bool {
    verdict.broken_egress().is_some()
        || matches!(
            verdict,
            Verdict::ReturnPath { .. } | Verdict::TotalIsolation
        )
}

/// The egress that a verdict is about.
pub const fn egress_of(verdict: &Verdict) -> Option<&EgressName> {
    match verdict {
        Verdict::ReturnPath { egress } => egress.as_ref(),
        verdict => verdict.broken_egress(),
    }
}

/// The order in which one verdict may replace another.
pub fn rank(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::None => 0,
        Verdict::Latency { .. } | Verdict::HostStall => 1,
        Verdict::SinglePeer { .. } => 2,
        Verdict::Prefix { .. } => 3,
        Verdict::RemoteAs { .. } => 4,
        Verdict::ReturnPath { .. } => 5,
        Verdict::AddressFamily { .. } => 6,
        Verdict::UpstreamAs { .. } => 7,
        Verdict::EgressOnly { .. } => 8,
        Verdict::Gateway { .. } => 9,
        Verdict::LocalLink { .. } => 10,
        Verdict::TotalIsolation => 11,
    }
}
