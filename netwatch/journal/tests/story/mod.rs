//! An incident as the daemon would write it.

use std::time::Duration;

use events::{
    Actor, Asn, EgressName, Entry, EntryKind, Evidence, EvidenceSource, Incident, IncidentId,
    IncidentState, PeerKey, PlanId, RevertReason, RouteSpec, Timestamp, Verdict,
};

pub const ONSET_MS: u64 = 5_000_000;

pub fn at(micros: i64) -> Timestamp {
    let nanos = i64::try_from(ONSET_MS).unwrap() * 1_000_000 + micros * 1_000;
    Timestamp::from_nanos(u64::try_from(nanos).unwrap())
}

pub fn wall(at: Timestamp) -> jiff::Timestamp {
    let onset: jiff::Timestamp = "2026-03-01T02:58:17.250Z".parse().unwrap();
    let shift = i128::from(at.as_nanos()) - i128::from(ONSET_MS) * 1_000_000;
    jiff::Timestamp::from_nanosecond(onset.as_nanosecond() + shift).unwrap()
}

pub fn entry(id: &str, micros: i64, actor: Actor, kind: EntryKind, text: &str) -> Entry {
    Entry {
        incident: IncidentId(id.into()),
        at: at(micros),
        received_at: None,
        actor,
        kind,
        text: text.into(),
        evidence: Vec::new(),
    }
}

pub fn evidence(micros: i64, source: EvidenceSource, text: &str, weight: Option<f64>) -> Evidence {
    Evidence {
        at: at(micros),
        source,
        text: text.into(),
        weight,
    }
}

pub fn verdict() -> Verdict {
    Verdict::UpstreamAs {
        egress: EgressName::from("a"),
        asn: Some(Asn(64501)),
    }
}

pub fn incident(id: &str) -> Incident {
    Incident {
        id: IncidentId(id.into()),
        state: IncidentState::Resolved,
        onset: at(0),
        suspected_at: at(92_400),
        confirmed_at: Some(at(171_900)),
        resolved_at: Some(at(12_345_600)),
        verdict: Some(verdict()),
        first_evidence: EvidenceSource::Tcp,
        evidence: Vec::new(),
        affected: (1..=12)
            .map(|host| PeerKey(format!("203.0.113.{host}").parse().unwrap()))
            .chain([PeerKey("2001:db8:7::5".parse().unwrap())])
            .collect(),
        prefixes: (0..9)
            .map(|net| format!("203.0.{net}.0/24").parse().unwrap())
            .chain(["2001:db8:7::/48".parse().unwrap()])
            .collect(),
        bgp: events::BgpSummary::default(),
        plan: None,
        time_to_verdict: Some(Duration::from_micros(171_900)),
        dark_by: None,
        cause: None,
        related: Vec::new(),
    }
}

/// In the order in which the daemon learns of things: BGP comes late.
pub fn story(id: &str) -> Vec<Entry> {
    let plan = PlanId(1);
    let route = |prefix: &str| RouteSpec {
        prefix: prefix.parse().unwrap(),
        egress: EgressName::from("b"),
        interface: "wan1".into(),
        gateway: "198.51.100.1".parse().unwrap(),
        source: "192.0.2.10".parse().unwrap(),
        metric: 10,
        table: 254,
    };
    let planned = EntryKind::Planned {
        plan,
        routes: vec![route("203.0.0.0/24"), route("203.0.1.0/24")],
    };
    let egress = Some("b".to_owned());
    let mut story = vec![
        entry(
            id,
            0,
            Actor::Tracker,
            EntryKind::Onset,
            "the oldest byte that was never acknowledged left this host",
        ),
        entry(
            id,
            61_030,
            Actor::Tracker,
            EntryKind::FirstEvidence,
            "203.0.113.4 owes an acknowledgement for 61.0 ms, limit 60.8 ms",
        ),
        Entry {
            evidence: vec![
                evidence(
                    92_100,
                    EvidenceSource::Tcp,
                    "12 of 40 connections overdue in 5 of 8 prefixes",
                    Some(11.7),
                ),
                evidence(
                    40_000,
                    EvidenceSource::Probe,
                    "the gateway of a answers",
                    None,
                ),
            ],
            ..entry(
                id,
                92_400,
                Actor::Correlator,
                EntryKind::Suspected,
                "connections through a stopped being acknowledged",
            )
        },
        Entry {
            evidence: vec![evidence(
                170_000,
                EvidenceSource::Probe,
                "anchors in 3 of 3 ASes dead through a, alive through b",
                Some(19.5),
            )],
            ..entry(
                id,
                171_900,
                Actor::Correlator,
                EntryKind::Verdict { verdict: verdict() },
                "",
            )
        },
        entry(
            id,
            172_300,
            Actor::Planner,
            planned,
            "2 routes through b: more-specifics of the default route",
        ),
        entry(
            id,
            178_000,
            Actor::Routes,
            EntryKind::Installed { plan },
            "",
        ),
        // The same moment as the installation: the order of writing decides.
        entry(
            id,
            178_000,
            Actor::Pager,
            EntryKind::PageQueued {
                summary: "upstream AS64501 behind a is dark; installed, verifying".into(),
            },
            "",
        ),
        entry(
            id,
            178_400,
            Actor::Pager,
            EntryKind::PageSent {
                egress: egress.clone(),
                attempt: 1,
            },
            "",
        ),
        entry(
            id,
            224_900,
            Actor::Pager,
            EntryKind::PageFailed {
                error: "the pager answered 500 Internal Server Error: \u{1b}[31moops".into(),
                attempt: 1,
                permanent: false,
            },
            "",
        ),
        entry(
            id,
            425_300,
            Actor::Pager,
            EntryKind::PageSent {
                egress: egress.clone(),
                attempt: 2,
            },
            "",
        ),
        entry(
            id,
            468_000,
            Actor::Pager,
            EntryKind::PageAccepted { egress, attempt: 2 },
            "",
        ),
        entry(
            id,
            512_700,
            Actor::Correlator,
            EntryKind::Verified { plan },
            "21 of 24 connections progress over the new routes",
        ),
    ];
    story.push(Entry {
        received_at: Some(at(2_087_300)),
        ..entry(
            id,
            410_000,
            Actor::Bgp,
            EntryKind::BgpEvidence,
            "12 routes withdrawn by 192.0.2.1, all through AS64501",
        )
    });
    story.push(entry(
        id,
        12_345_600,
        Actor::Correlator,
        EntryKind::Resolved,
        "a carries traffic again for 10 s",
    ));
    story.push(entry(
        id,
        12_350_100,
        Actor::Routes,
        EntryKind::Reverted {
            plan,
            reason: RevertReason::Healed,
        },
        "",
    ));
    story
}
