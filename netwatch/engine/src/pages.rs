//! When to page, and with what: one [`PageFlow`] per incident.
//!
//! The first page waits for the remediation's outcome, at most [`PATIENCE`] after the verdict, and
//! is always sent, even if all is well again by then. A second trigger with the same `dedup_key`
//! says how the remediation ended; a resolve follows when the path works again. Where no route can
//! help, what passes by itself wakes nobody: a stall of this host of less than a second, and
//! round-trip times that rose for less than ten, or to a single peer.

use std::collections::BTreeMap;
use std::time::Duration;

use events::{
    BgpSummary, Conclusion, EgressName, HostCause, Incident, IncidentId, LatencyScope, Page,
    PageAction, PageDetails, Severity, Timestamp, Verdict,
};
use remediation::RemediationStatus;
use serde::{Deserialize, Serialize};

/// How long after the verdict a page may wait for the remediation.
pub const PATIENCE: Duration = Duration::from_millis(200);

/// Slowness that ends within this wakes nobody.
const SLOW_PATIENCE: Duration = Duration::from_secs(10);

/// A stall of this host that was shorter wakes nobody ...
const STALL_TOLD: Duration = Duration::from_secs(1);
/// ... and is over by then: it counts as over when the peers answered for two seconds.
const STALL_PATIENCE: Duration = Duration::from_secs(4);

/// `PageDetails::evidence` holds at most so many lines.
const EVIDENCE_LINES: usize = 20;

/// The pages of all open incidents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pages {
    /// The preferred egress.
    primary: Option<EgressName>,
    flows: BTreeMap<IncidentId, PageFlow>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PageFlow {
    incident: Incident,
    /// The worst that a page said: what heals is closed with the same.
    severity: Severity,
    bgp: BgpSummary,
    remediation: Option<RemediationStatus>,
    /// The first page goes out at this time at the latest; `None`: it has.
    due: Option<Timestamp>,
    /// What the last page said.
    said: Option<Said>,
}

/// What a page said: it is said again when it changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Said {
    verdict: Option<Verdict>,
    cause: Option<HostCause>,
    severity: Severity,
    remediation: Option<RemediationStatus>,
}

impl Pages {
    /// Nothing to page. `primary` is the preferred egress.
    pub const fn new(primary: Option<EgressName>) -> Self {
        Self {
            primary,
            flows: BTreeMap::new(),
        }
    }

    /// A step in an incident's life.
    pub fn conclusion(&mut self, at: Timestamp, conclusion: &Conclusion, out: &mut Vec<Page>) {
        match conclusion {
            Conclusion::Suspected(_) => {}
            Conclusion::Confirmed { incident, bgp } | Conclusion::Updated { incident, bgp } => {
                let worth_waking = incident.verdict.as_ref().is_some_and(pages);
                let severity = severity(incident, self.primary.as_ref());
                let flow = match self.flows.get_mut(&incident.id) {
                    Some(flow) => flow,
                    None if worth_waking && matches!(conclusion, Conclusion::Confirmed { .. }) => {
                        self.flows
                            .entry(incident.id.clone())
                            .or_insert_with(|| PageFlow {
                                incident: incident.clone(),
                                severity,
                                bgp: bgp.clone(),
                                remediation: None,
                                due: Some(at + patience(incident)),
                                said: None,
                            })
                    }
                    None => return,
                };
                if flow.may_pass() && flow.incident.verdict != incident.verdict {
                    // What was said of the other verdict: nothing to be done.
                    flow.remediation = None;
                }
                flow.incident = incident.clone();
                flow.due = flow.due.map(|due| due.min(at + patience(incident)));
                flow.severity = flow.severity.max(severity);
                flow.bgp = bgp.clone();
                flow.page_if_settled(at, out);
            }
            Conclusion::Healed {
                incident,
                at: healed_at,
            } => {
                if let Some(mut flow) = self.flows.remove(incident) {
                    if flow.due.is_some() && flow.passed(*healed_at) {
                        return;
                    }
                    if flow.due.is_some() {
                        flow.trigger(at, out);
                    }
                    out.push(flow.page(at, PageAction::Resolve, Some(*healed_at)));
                }
            }
        }
    }

    /// The remediation of an incident took a step.
    pub fn remediation(
        &mut self,
        at: Timestamp,
        incident: &IncidentId,
        status: &RemediationStatus,
        out: &mut Vec<Page>,
    ) {
        if let Some(flow) = self.flows.get_mut(incident) {
            flow.remediation = Some(status.clone());
            flow.page_if_settled(at, out);
        }
    }

    /// Sends what may wait no longer.
    pub fn handle_timeout(&mut self, at: Timestamp, out: &mut Vec<Page>) {
        for flow in self.flows.values_mut() {
            if flow.due.is_some_and(|due| due <= at) {
                flow.trigger(at, out);
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        self.flows.values().filter_map(|flow| flow.due).min()
    }
}

impl PageFlow {
    /// A page goes out when the remediation's state is worth telling and was not told yet. After
    /// the first page, only an end of the remediation or another verdict is.
    fn page_if_settled(&mut self, at: Timestamp, out: &mut Vec<Page>) {
        let news = match &self.said {
            None => {
                let settled = |r: &RemediationStatus| *r != RemediationStatus::Installing;
                !self.may_pass() && self.remediation.as_ref().is_some_and(settled)
            }
            Some(said) => {
                let ended = self
                    .remediation
                    .as_ref()
                    .is_some_and(RemediationStatus::is_settled);
                said.verdict != self.incident.verdict
                    || said.cause != self.incident.cause
                    || said.severity < self.severity
                    || (ended && said.remediation != self.remediation)
            }
        };
        if news {
            self.trigger(at, out);
        }
    }

    /// No route can help, and it may pass by itself: it can wait.
    const fn may_pass(&self) -> bool {
        matches!(
            self.incident.verdict,
            Some(Verdict::Latency { .. } | Verdict::HostStall)
        )
    }

    /// It passed by itself before anybody had to know.
    fn passed(&self, healed_at: Timestamp) -> bool {
        match self.incident.verdict {
            Some(Verdict::Latency { .. }) => true,
            Some(Verdict::HostStall) => healed_at.since(self.incident.onset) < STALL_TOLD,
            _ => false,
        }
    }

    fn trigger(&mut self, at: Timestamp, out: &mut Vec<Page>) {
        self.due = None;
        self.said = Some(Said {
            verdict: self.incident.verdict.clone(),
            cause: self.incident.cause.clone(),
            severity: self.severity,
            remediation: self.remediation.clone(),
        });
        out.push(self.page(at, PageAction::Trigger, None));
    }

    fn page(&self, at: Timestamp, action: PageAction, healed_at: Option<Timestamp>) -> Page {
        let incident = &self.incident;
        let verdict = incident.verdict.clone().unwrap_or(Verdict::None);
        let remediation = self.remediation.as_ref().map_or_else(
            || "none yet: the page did not wait longer".to_owned(),
            ToString::to_string,
        );
        let broke = match &incident.cause {
            Some(cause) => format!("{verdict}: {cause}"),
            None => verdict.to_string(),
        };
        let summary = match healed_at {
            Some(healed) => format!(
                "healed after {}: {broke}",
                seconds(healed.since(incident.onset))
            ),
            None => format!(
                "{broke}: {} peers in {} prefixes affected; remediation: {remediation}",
                incident.affected.len(),
                incident.prefixes.len(),
            ),
        };
        Page {
            incident: incident.id.clone(),
            action,
            severity: self.severity,
            summary,
            component: component(&verdict),
            class: verdict.class().to_owned(),
            onset: incident.onset,
            at,
            details: PageDetails {
                what_broke: broke,
                affected_peers: incident.affected.clone(),
                affected_prefixes: incident.prefixes.clone(),
                bgp: self.bgp.clone(),
                remediation,
                evidence: incident
                    .evidence
                    .iter()
                    .take(EVIDENCE_LINES)
                    .map(|e| format!("+{} {}", seconds(e.at.since(incident.onset)), e.text))
                    .collect(),
            },
        }
    }
}

/// A suspicion that came to nothing wakes nobody, nor does one slow peer.
const fn pages(verdict: &Verdict) -> bool {
    !matches!(
        verdict,
        Verdict::None
            | Verdict::Latency {
                scope: LatencyScope::Peer { .. },
                ..
            }
    )
}

const fn patience(incident: &Incident) -> Duration {
    match incident.verdict {
        Some(Verdict::Latency { .. }) => SLOW_PATIENCE,
        Some(Verdict::HostStall) => STALL_PATIENCE,
        _ => PATIENCE,
    }
}

/// The break of an egress is critical where it is the preferred one, or flows use it; that of a
/// backup that nothing uses can wait for the morning.
fn severity(incident: &Incident, primary: Option<&EgressName>) -> Severity {
    let verdict = incident.verdict.as_ref().unwrap_or(&Verdict::None);
    let spare = verdict
        .broken_egress()
        .is_some_and(|egress| Some(egress) != primary)
        && incident.affected.is_empty();
    match verdict {
        _ if spare => Severity::Warning,
        Verdict::LocalLink { .. }
        | Verdict::Gateway { .. }
        | Verdict::UpstreamAs { .. }
        | Verdict::AddressFamily { .. }
        | Verdict::EgressOnly { .. }
        | Verdict::ReturnPath { .. }
        | Verdict::TotalIsolation => Severity::Critical,
        Verdict::RemoteAs { .. } | Verdict::Prefix { .. } => Severity::Error,
        Verdict::SinglePeer { .. } | Verdict::HostStall | Verdict::Latency { .. } => {
            Severity::Warning
        }
        Verdict::None => Severity::Info,
    }
}

fn component(verdict: &Verdict) -> String {
    match verdict {
        Verdict::LocalLink { egress }
        | Verdict::Gateway { egress }
        | Verdict::UpstreamAs { egress, asn: None }
        | Verdict::AddressFamily { egress, .. }
        | Verdict::EgressOnly { egress }
        | Verdict::ReturnPath {
            egress: Some(egress),
        } => egress.to_string(),
        Verdict::UpstreamAs { asn: Some(asn), .. } | Verdict::RemoteAs { asn } => asn.to_string(),
        Verdict::Prefix { prefix } => prefix.to_string(),
        Verdict::SinglePeer { peer } => peer.to_string(),
        Verdict::ReturnPath { egress: None } => "return path".to_owned(),
        Verdict::HostStall => "host".to_owned(),
        Verdict::Latency { scope, .. } => scope.to_string(),
        Verdict::TotalIsolation => "network".to_owned(),
        Verdict::None => "none".to_owned(),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests;
