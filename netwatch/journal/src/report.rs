//! The report: what a person or a tool is told about an incident.

use events::{
    Actor, Asn, Entry, EntryKind, EvidenceSource, Incident, IncidentId, IncidentState, PeerKey,
    PlanId, Prefix, RevertReason, Timestamp, Verdict,
};
use serde::Serialize;

/// The version of the report's JSON: it grows only by new fields.
pub const SCHEMA: &str = "netwatch.report/1";

/// An incident with its timeline. All offsets are milliseconds on the monotonic clock since the
/// incident's onset, to the microsecond.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The summary.
    pub incident: Header,
    /// The timeline, by the time at which things happened.
    pub entries: Vec<Line>,
}

/// An incident in short.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Header {
    /// Its name.
    pub id: IncidentId,
    /// Its stage; `None` where the daemon died before it wrote one.
    pub state: Option<IncidentState>,
    /// The verdict.
    pub verdict: Option<Verdict>,
    /// The verdict's class.
    pub class: Option<&'static str>,
    /// The verdict in words.
    pub title: String,
    /// The AS, egress, prefix or peer at fault.
    pub culprit: Option<String>,
    /// Which kind of evidence came first.
    pub first_evidence: Option<EvidenceSource>,
    /// When it began.
    pub onset: jiff::Timestamp,
    /// From onset to resolution; `None`: not resolved.
    pub duration_ms: Option<f64>,
    /// Peers with failing connections.
    pub affected_peers: Vec<PeerKey>,
    /// Their prefixes.
    pub affected_prefixes: Vec<Prefix>,
    /// What BGP says, one line each.
    pub bgp: Vec<String>,
    /// What was done about it, one line for each plan or refusal.
    pub actions: Vec<String>,
    /// Who was told, one line for each page.
    pub pages: Vec<String>,
    /// The steps of the response.
    pub times: Times,
}

/// When each step was first reached, in milliseconds since the onset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// Suspicion arose.
    pub suspect_ms: Option<f64>,
    /// The first verdict.
    pub verdict_ms: Option<f64>,
    /// The kernel acknowledged the routes.
    pub route_ms: Option<f64>,
    /// Flows progress over them.
    pub verified_ms: Option<f64>,
    /// The first page left this host.
    pub page_ms: Option<f64>,
    /// The pager accepted one.
    pub page_accepted_ms: Option<f64>,
    /// The routes were taken back.
    pub reverted_ms: Option<f64>,
    /// The path works again.
    pub resolved_ms: Option<f64>,
}

/// One line of the timeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// When it happened.
    pub offset_ms: f64,
    /// Since the line before; `None` for the first.
    pub since_previous_ms: Option<f64>,
    /// The same on the wall clock.
    pub wall: jiff::Timestamp,
    /// When the daemon learned of it, where that is later.
    pub received_offset_ms: Option<f64>,
    /// The same on the wall clock.
    pub received_wall: Option<jiff::Timestamp>,
    /// Who did or saw it.
    pub actor: Actor,
    /// What it is.
    pub kind: EntryKind,
    /// One line for people.
    pub text: String,
    /// What it rests on.
    pub evidence: Vec<EvidenceLine>,
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvidenceLine {
    /// When it was observed.
    pub offset_ms: f64,
    /// By what.
    pub source: EvidenceSource,
    /// In words.
    pub text: String,
    /// Its log-likelihood weight in nats, where it took part in a sum.
    pub weight: Option<f64>,
}

/// `at` relative to `origin`, in milliseconds, negative where it is earlier.
pub(crate) fn offset_ms(at: Timestamp, origin: Timestamp) -> f64 {
    let micros = if at >= origin {
        at.since(origin).as_secs_f64() * 1e6
    } else {
        -(origin.since(at).as_secs_f64() * 1e6)
    };
    // Adding zero turns -0 into 0.
    micros.round() / 1e3 + 0.0
}

impl Report {
    /// Puts a report together. `entries` are in order of time, those of the same time in the order in
    /// which they were written.
    pub(crate) fn new(
        id: IncidentId,
        onset_wall: jiff::Timestamp,
        incident: Option<Incident>,
        entries: Vec<(Entry, jiff::Timestamp)>,
    ) -> Self {
        let told = entries
            .iter()
            .find(|(entry, _)| entry.kind == EntryKind::Onset)
            .or_else(|| entries.first());
        let onset = incident
            .as_ref()
            .map(|incident| incident.onset)
            .or_else(|| told.map(|(entry, _)| entry.at))
            .unwrap_or_default();
        // Without a snapshot the journal's onset is only the first entry's time.
        let onset_wall = match (&incident, told) {
            (None, Some((_, wall))) => *wall,
            _ => onset_wall,
        };
        let mut previous = None;
        let mut lines = Vec::with_capacity(entries.len());
        for (entry, wall) in entries {
            let offset = offset_ms(entry.at, onset);
            let received = entry.received_at.filter(|received| *received > entry.at);
            lines.push(Line {
                offset_ms: offset,
                since_previous_ms: previous
                    .replace(entry.at)
                    .map(|previous| offset_ms(entry.at, previous)),
                wall,
                received_offset_ms: received.map(|received| offset_ms(received, onset)),
                received_wall: received
                    .and_then(|received| wall.checked_add(received.since(entry.at)).ok()),
                actor: entry.actor,
                text: if entry.text.is_empty() {
                    default_text(&entry.kind)
                } else {
                    entry.text
                },
                kind: entry.kind,
                evidence: entry
                    .evidence
                    .into_iter()
                    .map(|evidence| EvidenceLine {
                        offset_ms: offset_ms(evidence.at, onset),
                        source: evidence.source,
                        text: evidence.text,
                        weight: evidence.weight,
                    })
                    .collect(),
            });
        }
        Self {
            schema: SCHEMA,
            incident: header(id, onset_wall, onset, incident, &lines),
            entries: lines,
        }
    }

    /// The report as JSON, for tools.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

fn header(
    id: IncidentId,
    onset_wall: jiff::Timestamp,
    onset: Timestamp,
    incident: Option<Incident>,
    lines: &[Line],
) -> Header {
    let verdict = incident
        .as_ref()
        .and_then(|incident| incident.verdict.clone())
        .or_else(|| {
            lines.iter().rev().find_map(|line| match &line.kind {
                EntryKind::Verdict { verdict } => Some(verdict.clone()),
                _ => None,
            })
        });
    let mut times = times(lines);
    let since = |at: Timestamp| offset_ms(at, onset);
    if let Some(incident) = &incident {
        times.suspect_ms = times.suspect_ms.or(Some(since(incident.suspected_at)));
        times.verdict_ms = times.verdict_ms.or(incident.confirmed_at.map(since));
        times.resolved_ms = incident.resolved_at.map(since).or(times.resolved_ms);
    }
    let title = match (&verdict, times.resolved_ms) {
        (Some(verdict), _) => verdict.to_string(),
        (None, None) => "suspicion, no verdict yet".to_owned(),
        (None, Some(_)) => "suspicion that ended without a verdict".to_owned(),
    };
    let mut header = Header {
        id,
        state: incident.as_ref().map(|incident| incident.state),
        class: verdict.as_ref().map(Verdict::class),
        title,
        culprit: verdict.as_ref().and_then(culprit),
        verdict,
        first_evidence: incident.as_ref().map(|incident| incident.first_evidence),
        onset: onset_wall,
        duration_ms: times.resolved_ms,
        affected_peers: Vec::new(),
        affected_prefixes: Vec::new(),
        bgp: bgp(lines),
        actions: actions(lines),
        pages: pages(lines),
        times,
    };
    if let Some(incident) = incident {
        if !incident.bgp.text.is_empty() {
            header.bgp = vec![incident.bgp.text.clone()];
        } else if header.bgp.is_empty() {
            header.bgp = incident
                .evidence
                .iter()
                .filter(|evidence| evidence.source == EvidenceSource::Bgp)
                .map(|evidence| {
                    format!("{} ({})", evidence.text, duration(since(evidence.at), true))
                })
                .collect();
        }
        header.affected_peers = incident.affected;
        header.affected_prefixes = incident.prefixes;
    }
    header
}

fn times(lines: &[Line]) -> Times {
    let mut times = Times::default();
    for line in lines {
        let step = match line.kind {
            EntryKind::Suspected => &mut times.suspect_ms,
            EntryKind::Verdict { .. } => &mut times.verdict_ms,
            EntryKind::Installed { .. } => &mut times.route_ms,
            EntryKind::Verified { .. } => &mut times.verified_ms,
            EntryKind::PageSent { .. } => &mut times.page_ms,
            EntryKind::PageAccepted { .. } => &mut times.page_accepted_ms,
            EntryKind::Reverted { .. } => &mut times.reverted_ms,
            EntryKind::Resolved => &mut times.resolved_ms,
            _ => continue,
        };
        step.get_or_insert(line.offset_ms);
    }
    times
}

fn culprit(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::UpstreamAs { asn: Some(asn), .. } | Verdict::RemoteAs { asn } => {
            Some(Asn::to_string(asn))
        }
        Verdict::LocalLink { egress }
        | Verdict::Gateway { egress }
        | Verdict::UpstreamAs { egress, asn: None }
        | Verdict::AddressFamily { egress, .. }
        | Verdict::EgressOnly { egress }
        | Verdict::ReturnPath {
            egress: Some(egress),
        } => Some(format!("egress {egress}")),
        Verdict::Prefix { prefix } => Some(prefix.to_string()),
        Verdict::SinglePeer { peer } => Some(peer.to_string()),
        Verdict::HostStall => Some("this host".to_owned()),
        Verdict::Latency { scope, .. } => Some(scope.to_string()),
        Verdict::ReturnPath { egress: None } | Verdict::TotalIsolation | Verdict::None => None,
    }
}

/// What BGP said: the last three entries, and how many came before.
fn bgp(lines: &[Line]) -> Vec<String> {
    let told: Vec<String> = lines
        .iter()
        .filter(|line| line.kind == EntryKind::BgpEvidence)
        .map(|line| {
            let heard = line.received_offset_ms.map_or(String::new(), |received| {
                format!(", heard {}", duration(received, true))
            });
            format!("{} ({}{heard})", line.text, duration(line.offset_ms, true))
        })
        .collect();
    let earlier = told.len().saturating_sub(3);
    let mut shown: Vec<String> = told.into_iter().skip(earlier).collect();
    if earlier > 0 {
        shown.insert(0, format!("{earlier} earlier changes, see the timeline"));
    }
    shown
}

fn actions(lines: &[Line]) -> Vec<String> {
    let mut plans: Vec<(PlanId, String)> = Vec::new();
    let mut refusals = Vec::new();
    for line in lines {
        let at = duration(line.offset_ms, true);
        let (plan, step) = match &line.kind {
            EntryKind::Planned { plan, .. } => {
                plans.push((*plan, line.text.clone()));
                continue;
            }
            EntryKind::Refused { .. } => {
                refusals.push(format!("{at}: not rerouted: {}", line.text));
                continue;
            }
            EntryKind::Installed { plan } => (plan, format!("installed {at}")),
            EntryKind::InstallFailed { plan, error } => (plan, format!("failed {at}: {error}")),
            EntryKind::Verified { plan } => (plan, format!("verified {at}")),
            EntryKind::Reverted { plan, reason } => {
                (plan, format!("taken back {at}: {}", reason_text(*reason)))
            }
            _ => continue,
        };
        match plans.iter_mut().find(|(id, _)| id == plan) {
            Some((_, story)) => {
                story.push_str("; ");
                story.push_str(&step);
            }
            None => plans.push((*plan, format!("plan {}: {step}", plan.0))),
        }
    }
    plans
        .into_iter()
        .map(|(_, story)| story)
        .chain(refusals)
        .collect()
}

fn pages(lines: &[Line]) -> Vec<String> {
    lines
        .iter()
        .filter_map(|line| {
            let at = duration(line.offset_ms, true);
            match &line.kind {
                EntryKind::PageAccepted { egress, attempt } => Some(format!(
                    "accepted {at}{}{}",
                    through(egress.as_deref()),
                    tries(*attempt)
                )),
                EntryKind::PageFailed {
                    error,
                    permanent: true,
                    ..
                } => Some(format!("NOT DELIVERED {at}: {error}")),
                _ => None,
            }
        })
        .collect()
}

fn through(egress: Option<&str>) -> String {
    egress.map_or(String::new(), |egress| format!(" through {egress}"))
}

fn tries(attempt: u32) -> String {
    if attempt > 1 {
        format!(" at attempt {attempt}")
    } else {
        String::new()
    }
}

fn default_text(kind: &EntryKind) -> String {
    match kind {
        EntryKind::Verdict { verdict } => verdict.to_string(),
        EntryKind::Planned { plan, routes } => format!("plan {}: {} routes", plan.0, routes.len()),
        EntryKind::Refused { reason } => reason.clone(),
        EntryKind::Installed { plan } | EntryKind::Verified { plan } => format!("plan {}", plan.0),
        EntryKind::InstallFailed { plan, error } => format!("plan {}: {error}", plan.0),
        EntryKind::Reverted { plan, reason } => {
            format!("plan {}: {}", plan.0, reason_text(*reason))
        }
        EntryKind::PageQueued { summary } => summary.clone(),
        EntryKind::PageSent { egress, attempt } | EntryKind::PageAccepted { egress, attempt } => {
            format!("attempt {attempt}{}", through(egress.as_deref()))
        }
        EntryKind::PageFailed { error, attempt, .. } => format!("attempt {attempt}: {error}"),
        EntryKind::Onset
        | EntryKind::FirstEvidence
        | EntryKind::Suspected
        | EntryKind::BgpEvidence
        | EntryKind::Resolved
        | EntryKind::Note => String::new(),
    }
}

fn reason_text(reason: RevertReason) -> &'static str {
    match reason {
        RevertReason::Healed => "the primary path works again",
        RevertReason::NotProgressing => "flows did not progress over it",
        RevertReason::ReturnPath => "the way back is dead",
        RevertReason::BackupFailed => "the backup failed",
        RevertReason::Operator => "an operator asked",
        RevertReason::KillSwitch => "the kill switch is set",
        RevertReason::Stopping => "the daemon stopped",
        RevertReason::LeaseExpired => "the lease ran out (watchdog)",
        RevertReason::InstallFailed => "not all routes could be installed",
        RevertReason::Sweep => "left over from an earlier run",
    }
}

/// Milliseconds for people: "123.4 ms", "12.345 s", "3 min 20 s", "5 h 02 min"; `signed`: with a plus.
pub(crate) fn duration(ms: f64, signed: bool) -> String {
    let sign = match (ms < 0.0, signed) {
        (true, _) => "-",
        (false, true) => "+",
        (false, false) => "",
    };
    let ms = ms.abs();
    let text = if ms < 10_000.0 {
        format!("{ms:.1} ms")
    } else if ms < 600_000.0 {
        format!("{:.3} s", ms / 1e3)
    } else {
        let minutes = (ms / 60_000.0).floor();
        if minutes < 60.0 {
            format!("{minutes} min {:02.0} s", ((ms / 1e3) % 60.0).floor())
        } else {
            format!("{} h {:02} min", (minutes / 60.0).floor(), minutes % 60.0)
        }
    };
    format!("{sign}{text}")
}
