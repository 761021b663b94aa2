//! Incidents that an earlier run left open. Nobody follows them any more, so their story ends at this
//! start and their alerts are resolved; a fault that lasts opens a new incident, and pages, at once.

use std::path::Path;
use std::time::Duration;

use events::{
    Actor, Entry, EntryKind, Incident, IncidentState, Page, PageAction, PageDetails, Severity,
    Timestamp, Verdict,
};
use journal::{Journal, Reader};

/// Open incidents are few; these are the newest in the journal that are looked at.
const LATELY: u32 = 1000;
/// Actions older than this weigh on no budget.
const BUDGETED: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);
const TEXT: &str = "netwatch was restarted and follows this incident no longer; a fault that lasts opens a new one";

/// Ends what was left open, in the journal and at the pager.
pub fn close(journal: &Journal, path: &Path, pager: Option<&paging::Handle>) {
    let left = match Reader::open(path).and_then(|reader| reader.unresolved(LATELY)) {
        Ok(left) => left,
        Err(error) => {
            tracing::warn!(%error, "incidents of an earlier run cannot be looked up");
            return;
        }
    };
    let now = jiff::Timestamp::now();
    for (mut incident, onset) in left {
        tracing::warn!(incident = %incident.id, "left open by an earlier run: closed");
        // The monotonic clock may have begun anew since.
        let age = Duration::try_from(now.duration_since(onset)).unwrap_or_default();
        let at = incident.onset + age;
        let paged = incident
            .verdict
            .as_ref()
            .is_some_and(|verdict| *verdict != Verdict::None);
        if let (true, Some(pager)) = (paged, pager) {
            pager.send(resolve(&incident));
        }
        journal.append(
            Entry {
                incident: incident.id.clone(),
                at,
                received_at: None,
                actor: Actor::Operator,
                kind: EntryKind::Resolved,
                text: TEXT.to_owned(),
                evidence: Vec::new(),
            },
            now,
        );
        incident.state = IncidentState::Resolved;
        incident.resolved_at = Some(at);
        journal.incident(incident, onset);
    }
}

/// What earlier runs acted on lately, by the class of the verdict: the budget of actions
/// must not begin anew with each start.
pub fn actions(path: &Path) -> Vec<(Timestamp, String)> {
    let wall = jiff::Timestamp::now();
    let acted = Reader::open(path).and_then(|reader| reader.planned_since(wall - BUDGETED));
    let now = clock::now();
    let age = |at| Duration::try_from(wall.duration_since(at)).unwrap_or_default();
    match acted {
        Ok(acted) => acted
            .into_iter()
            .map(|(at, class)| (now - age(at), class))
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "what earlier runs acted on cannot be looked up");
            Vec::new()
        }
    }
}

fn resolve(incident: &Incident) -> Page {
    let at = clock::now();
    Page {
        incident: incident.id.clone(),
        action: PageAction::Resolve,
        severity: Severity::Info,
        summary: TEXT.to_owned(),
        component: "netwatch".to_owned(),
        class: incident
            .verdict
            .as_ref()
            .map_or("none", Verdict::class)
            .to_owned(),
        onset: at,
        at,
        details: PageDetails::default(),
    }
}

#[cfg(test)]
mod tests {
    use events::{BgpSummary, EvidenceSource, IncidentId, PlanId};

    use super::*;

    #[test]
    fn what_an_earlier_run_left_open_ends_and_what_had_ended_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let journal = Journal::open(&path).unwrap();
        let hour_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1);
        for (id, resolved_at) in [
            ("open", None),
            ("ended", Some(Timestamp::from_millis(9_000))),
        ] {
            // A clock of another boot: far ahead of now.
            let onset = Timestamp::from_millis(4_000_000_000_000);
            let incident = Incident {
                id: IncidentId(id.to_owned()),
                state: IncidentState::Confirmed,
                onset,
                suspected_at: onset,
                confirmed_at: Some(onset),
                resolved_at: resolved_at.map(|_| onset + Duration::from_secs(5)),
                verdict: Some(Verdict::TotalIsolation),
                first_evidence: EvidenceSource::Probe,
                evidence: Vec::new(),
                affected: Vec::new(),
                prefixes: Vec::new(),
                bgp: BgpSummary::default(),
                plan: None,
                time_to_verdict: None,
                dark_by: None,
                cause: None,
                related: Vec::new(),
            };
            journal.incident(incident, hour_ago);
        }
        let flush = || assert!(journal.flush(Duration::from_secs(5)));
        flush();
        close(&journal, &path, None);
        flush();
        let reader = Reader::open(&path).unwrap();
        assert!(reader.unresolved(LATELY).unwrap().is_empty());
        let lines = reader.incidents(9).unwrap();
        let duration = |id: &str| {
            let line = lines.iter().find(|line| line.id.0 == id).unwrap();
            line.duration_ms.unwrap()
        };
        assert!((3_600_000.0..3_660_000.0).contains(&duration("open")));
        assert!((duration("ended") - 5_000.0).abs() < 1.0);
        let report = reader.report(&IncidentId("open".to_owned())).unwrap();
        let text = report.text(journal::TextStyle {
            color: false,
            width: None,
        });
        assert!(text.contains("restarted"), "{text}");
    }

    #[test]
    fn what_an_earlier_run_acted_on_is_known_with_its_class_and_age() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        assert_eq!(actions(&path), [], "no journal yet");
        let journal = Journal::open(&path).unwrap();
        let entry = |id: &str, kind, minutes: i64| {
            let wall = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
            let entry = Entry {
                incident: IncidentId(id.to_owned()),
                at: Timestamp::from_millis(4_000_000_000_000),
                received_at: None,
                actor: Actor::Planner,
                kind,
                text: String::new(),
                evidence: Vec::new(),
            };
            journal.append(entry, wall);
        };
        let planned = |plan| EntryKind::Planned {
            plan: PlanId(plan),
            routes: Vec::new(),
        };
        let verdict = Verdict::TotalIsolation;
        for (id, minutes) in [("old", 30 * 60), ("one", 40), ("other", 3)] {
            let verdict = verdict.clone();
            entry(id, EntryKind::Verdict { verdict }, minutes);
        }
        entry("old", planned(1), 30 * 60);
        entry("one", planned(2), 40);
        entry("one", planned(3), 39);
        assert!(journal.flush(Duration::from_secs(5)));
        let [(at, class)] = actions(&path).try_into().unwrap();
        assert_eq!(class, "total_isolation");
        let age = clock::now().since(at).as_secs();
        assert!((2_395..2_460).contains(&age), "forty minutes: {age} s");
    }
}
