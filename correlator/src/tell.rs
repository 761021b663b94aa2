//! Lines of the timeline, and what BGP adds to them.

use events::{Actor, Conclusion, Entry, EntryKind, Evidence, EvidenceSource, Timestamp};

use crate::case::Case;
use crate::correlator::Output;
use crate::join::{self, Log};
use crate::params::Params;
use crate::routes::Routes;

/// Timeline lines about BGP per incident.
const MAX_BGP_LINES: usize = 24;

/// Tells what BGP says by now.
pub fn publish(
    case: &mut Case,
    log: &Log,
    routes: &Routes,
    params: &Params,
    now: Timestamp,
    out: &mut Vec<Output>,
) {
    case.bgp = join::tally(log, case, params);
    let summary = join::summary(&case.bgp, case, routes, params);
    if summary != case.bgp_summary {
        case.bgp_summary = summary;
        case.add([Evidence {
            at: now,
            source: EvidenceSource::Bgp,
            text: case.bgp_summary.text.clone(),
            weight: None,
        }]);
    }
    tell_bgp(case, log, params, out);
    out.push(Output::Conclusion(Conclusion::Updated {
        incident: case.incident(),
        bgp: case.bgp_summary.clone(),
    }));
}

/// Writes the changes not yet told into the timeline.
pub fn tell_bgp(case: &mut Case, log: &Log, params: &Params, out: &mut Vec<Output>) {
    let mut lines = Vec::new();
    for change in log.of(case, params).filter(|c| c.sequence >= case.bgp_told) {
        if case.bgp_lines + lines.len() >= MAX_BGP_LINES {
            break;
        }
        let mut line = entry(
            case,
            change.at,
            Actor::Bgp,
            EntryKind::BgpEvidence,
            format!(
                "{}, {}",
                join::line(change),
                join::offset(change.at, case.onset)
            ),
            Vec::new(),
        );
        line.received_at = Some(change.told_at);
        lines.push(Output::Journal(line));
    }
    case.bgp_told = log.told();
    case.bgp_lines += lines.len();
    out.extend(lines);
}

pub fn entry(
    case: &Case,
    at: Timestamp,
    actor: Actor,
    kind: EntryKind,
    text: String,
    evidence: Vec<Evidence>,
) -> Entry {
    Entry {
        incident: case.id.clone(),
        at,
        received_at: None,
        actor,
        kind,
        text,
        evidence,
    }
}

pub fn onset_text(source: EvidenceSource) -> String {
    match source {
        EvidenceSource::Tcp => "the oldest byte lost was sent",
        EvidenceSource::Probe => "the first probe lost was sent",
        EvidenceSource::Bgp => "the first route changed",
        EvidenceSource::Host => "the link failed",
    }
    .to_owned()
}

pub const fn first_text(source: EvidenceSource) -> &'static str {
    match source {
        EvidenceSource::Tcp => "the first acknowledgement is overdue",
        EvidenceSource::Probe => "the first of the probes in a row is lost",
        EvidenceSource::Bgp => "a route changed",
        EvidenceSource::Host => "the host reports its link",
    }
}
