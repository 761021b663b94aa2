//! When a page goes out, and what it says.

use events::{
    Asn, EgressName, Evidence, EvidenceSource, IncidentState, PeerKey, RevertReason, Severity,
};

use super::*;

const ONSET: u64 = 10_000;
const VERDICT: u64 = 10_150;

/// A step of a story: at so many milliseconds, this happens.
enum Step {
    Confirmed(Verdict),
    Updated(Verdict),
    Suspected,
    Status(RemediationStatus),
    Timeout,
    Healed,
}
use Step::{Confirmed, Healed, Status, Suspected, Timeout, Updated};

fn ms(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn upstream() -> Verdict {
    Verdict::UpstreamAs {
        egress: EgressName::from("a"),
        asn: Some(Asn(64500)),
    }
}

fn gateway() -> Verdict {
    Verdict::Gateway {
        egress: EgressName::from("a"),
    }
}

fn id() -> IncidentId {
    IncidentId("host-1".to_owned())
}

fn incident(verdict: Option<Verdict>) -> Incident {
    Incident {
        id: id(),
        state: IncidentState::Confirmed,
        onset: ms(ONSET),
        suspected_at: ms(ONSET + 90),
        confirmed_at: verdict.is_some().then(|| ms(VERDICT)),
        resolved_at: None,
        verdict,
        first_evidence: EvidenceSource::Tcp,
        evidence: (0..30)
            .map(|n| Evidence {
                at: ms(ONSET + 90 + n),
                source: EvidenceSource::Tcp,
                text: format!("connection {n} is overdue"),
                weight: Some(2.0),
            })
            .collect(),
        affected: ["203.0.113.7", "2001:db8:5::7"]
            .map(|address| PeerKey(address.parse().expect("address")))
            .to_vec(),
        prefixes: ["203.0.113.0/24", "2001:db8:5::/48"]
            .map(|prefix| prefix.parse().expect("prefix"))
            .to_vec(),
        bgp: events::BgpSummary::default(),
        plan: None,
        time_to_verdict: None,
        dark_by: None,
        cause: None,
        related: Vec::new(),
    }
}

fn bgp() -> BgpSummary {
    BgpSummary {
        text: "2 routes withdrawn 2.0 s after the onset".to_owned(),
        culprit: Some(Asn(64500)),
        withdrawn: 2,
        changed: 0,
    }
}

/// Runs a story, with the engine's timeouts in between; the answer is what went out, and when.
fn run(story: Vec<(u64, Step)>) -> (Pages, Vec<(u64, Page)>) {
    let mut pages = Pages::new(Some(EgressName::from("a")));
    let mut sent = Vec::new();
    for (at, step) in story {
        let mut out = Vec::new();
        while let Some(due) = pages.next_timeout().filter(|due| *due < ms(at)) {
            pages.handle_timeout(due, &mut out);
            assert!(pages.next_timeout().is_none_or(|next| next > due));
        }
        let now = ms(at);
        match step {
            Confirmed(verdict) => pages.conclusion(
                now,
                &Conclusion::Confirmed {
                    incident: incident(Some(verdict)),
                    bgp: BgpSummary::default(),
                },
                &mut out,
            ),
            Updated(verdict) => pages.conclusion(
                now,
                &Conclusion::Updated {
                    incident: incident(Some(verdict)),
                    bgp: bgp(),
                },
                &mut out,
            ),
            Suspected => {
                pages.conclusion(now, &Conclusion::Suspected(incident(None)), &mut out);
            }
            Status(status) => pages.remediation(now, &id(), &status, &mut out),
            Timeout => pages.handle_timeout(now, &mut out),
            Healed => pages.conclusion(
                now,
                &Conclusion::Healed {
                    incident: id(),
                    at: now,
                },
                &mut out,
            ),
        }
        sent.extend(
            out.into_iter()
                .map(|page| (page.at.as_nanos() / 1_000_000, page)),
        );
    }
    (pages, sent)
}

/// Time, action and what was done, of every page.
fn told(story: Vec<(u64, Step)>) -> Vec<(u64, PageAction, String)> {
    let (_, sent) = run(story);
    for (_, page) in &sent {
        assert_eq!(page.incident, id(), "the dedup key never changes");
    }
    sent.into_iter()
        .map(|(at, page)| (at, page.action, page.details.remediation))
        .collect()
}

fn pages_are(story: Vec<(u64, Step)>, expected: &[(u64, PageAction, &str)]) {
    let told = told(story);
    let told: Vec<_> = told
        .iter()
        .map(|(at, a, text)| (*at, *a, &**text))
        .collect();
    assert_eq!(told, expected);
}

use PageAction::{Resolve, Trigger};
use RemediationStatus as S;

const NONE_YET: &str = "none yet: the page did not wait longer";
const HEALED: &str = "reverted: the primary path works again";

#[test]
fn the_first_page_waits_for_the_remediation() {
    for (status, text) in [
        (S::InstalledVerifying, "installed, verifying"),
        (S::Refused("no backup".into()), "refused: no backup"),
        (S::NothingToDo("one peer".into()), "nothing: one peer"),
        (
            S::Planned("1 route".into()),
            "shadow: would install 1 route",
        ),
        (
            S::Reverted(RevertReason::InstallFailed),
            "reverted: a route could not be installed or kept",
        ),
    ] {
        pages_are(
            vec![
                (ONSET + 90, Suspected),
                (VERDICT, Confirmed(upstream())),
                (VERDICT + 5, Status(S::Installing)),
                (VERDICT + 20, Timeout),
                (VERDICT + 30, Status(status)),
                (VERDICT + 1000, Timeout),
            ],
            &[(VERDICT + 30, Trigger, text)],
        );
    }
}

#[test]
fn it_waits_at_most_200_ms_after_the_verdict() {
    pages_are(
        vec![
            (VERDICT, Confirmed(upstream())),
            (VERDICT + 199, Timeout),
            (VERDICT + 5000, Timeout),
        ],
        &[(VERDICT + 200, Trigger, NONE_YET)],
    );
    // A verdict that gets better does not start the patience anew.
    pages_are(
        vec![
            (VERDICT, Confirmed(upstream())),
            (VERDICT + 150, Confirmed(gateway())),
            (VERDICT + 5000, Timeout),
        ],
        &[(VERDICT + 200, Trigger, NONE_YET)],
    );
    pages_are(
        vec![
            (VERDICT, Confirmed(upstream())),
            (VERDICT + 1, Status(S::Installing)),
            (VERDICT + 300, Status(S::InstalledVerifying)),
            (VERDICT + 900, Status(S::Verified)),
        ],
        &[
            (VERDICT + 200, Trigger, "installing"),
            (VERDICT + 900, Trigger, "verified"),
        ],
    );
}

#[test]
fn a_second_trigger_tells_how_it_ended() {
    for (end, text) in [
        (S::Verified, "verified"),
        (
            S::Reverted(RevertReason::NotProgressing),
            "reverted: flows did not progress over the backup",
        ),
    ] {
        pages_are(
            vec![
                (VERDICT, Confirmed(upstream())),
                (VERDICT + 10, Status(S::InstalledVerifying)),
                (VERDICT + 400, Status(S::InstalledVerifying)),
                (VERDICT + 500, Status(end.clone())),
                (VERDICT + 600, Status(end)),
            ],
            &[
                (VERDICT + 10, Trigger, "installed, verifying"),
                (VERDICT + 500, Trigger, text),
            ],
        );
    }
    // Verified first and taken back later: that is news as well.
    pages_are(
        vec![
            (VERDICT, Confirmed(upstream())),
            (VERDICT + 10, Status(S::InstalledVerifying)),
            (VERDICT + 500, Status(S::Verified)),
            (
                VERDICT + 9000,
                Status(S::Reverted(RevertReason::BackupFailed)),
            ),
        ],
        &[
            (VERDICT + 10, Trigger, "installed, verifying"),
            (VERDICT + 500, Trigger, "verified"),
            (VERDICT + 9000, Trigger, "reverted: the backup failed"),
        ],
    );
}

#[test]
fn another_verdict_pages_again_and_late_evidence_alone_does_not() {
    let (_, sent) = run(vec![
        (VERDICT, Confirmed(upstream())),
        (VERDICT + 10, Status(S::InstalledVerifying)),
        (VERDICT + 2000, Updated(upstream())),
        (VERDICT + 3000, Confirmed(gateway())),
        (VERDICT + 4000, Updated(gateway())),
    ]);
    let told: Vec<_> = sent
        .iter()
        .map(|(at, page)| (*at, page.action, page.class.as_str(), page.incident.clone()))
        .collect();
    assert_eq!(
        told,
        [
            (VERDICT + 10, Trigger, "upstream_as", id()),
            (VERDICT + 3000, Trigger, "gateway", id()),
        ]
    );
}

#[test]
fn healed_resolves_after_the_trigger_which_is_never_skipped() {
    pages_are(
        vec![
            (VERDICT, Confirmed(upstream())),
            (VERDICT + 10, Status(S::InstalledVerifying)),
            (VERDICT + 500, Status(S::Verified)),
            (VERDICT + 8000, Healed),
            // The route goes after the hold-down: the alert is closed by then.
            (VERDICT + 9000, Status(S::Reverted(RevertReason::Healed))),
        ],
        &[
            (VERDICT + 10, Trigger, "installed, verifying"),
            (VERDICT + 500, Trigger, "verified"),
            (VERDICT + 8000, Resolve, "verified"),
        ],
    );
    pages_are(
        vec![
            (VERDICT, Confirmed(upstream())),
            (VERDICT + 100, Healed),
            (VERDICT + 1000, Timeout),
        ],
        &[
            (VERDICT + 100, Trigger, NONE_YET),
            (VERDICT + 100, Resolve, NONE_YET),
        ],
    );
    pages_are(
        vec![
            (VERDICT, Confirmed(upstream())),
            (VERDICT + 20, Status(S::Installing)),
            (VERDICT + 90, Status(S::Reverted(RevertReason::Healed))),
            (VERDICT + 100, Healed),
        ],
        &[
            (VERDICT + 90, Trigger, HEALED),
            (VERDICT + 100, Resolve, HEALED),
        ],
    );
}

#[test]
fn a_suspicion_that_came_to_nothing_wakes_nobody() {
    let (pages, sent) = run(vec![
        (ONSET + 90, Suspected),
        (ONSET + 95, Status(S::NothingToDo("no verdict".into()))),
        (VERDICT, Confirmed(Verdict::None)),
        (VERDICT + 5, Status(S::NothingToDo("no fault".into()))),
        (VERDICT + 900, Updated(Verdict::None)),
        (VERDICT + 1000, Healed),
        (VERDICT + 9000, Timeout),
    ]);
    assert_eq!(sent, []);
    assert_eq!(
        pages,
        Pages::new(Some(EgressName::from("a"))),
        "nothing is kept either"
    );
    // Late evidence on an incident that never was worth a page opens none.
    pages_are(
        vec![
            (VERDICT, Updated(upstream())),
            (VERDICT + 500, Status(S::Verified)),
            (VERDICT + 600, Healed),
        ],
        &[],
    );
}

#[test]
fn the_text_tells_the_story() {
    let (pages, sent) = run(vec![
        (VERDICT, Confirmed(upstream())),
        (VERDICT + 5, Updated(upstream())),
        (VERDICT + 10, Status(S::InstalledVerifying)),
        (VERDICT + 5000, Healed),
    ]);
    assert_eq!(pages, Pages::new(Some(EgressName::from("a"))));
    let [(_, trigger), (_, resolve)] = &sent[..] else {
        panic!("{sent:#?}");
    };
    assert_eq!(
        trigger.summary,
        "upstream AS64500 behind a is dark: 2 peers in 2 prefixes affected; remediation: \
         installed, verifying"
    );
    assert_eq!(trigger.severity, Severity::Critical);
    assert_eq!(
        (&*trigger.component, &*trigger.class),
        ("AS64500", "upstream_as")
    );
    assert_eq!((trigger.onset, trigger.at), (ms(ONSET), ms(VERDICT + 10)));
    let details = &trigger.details;
    assert_eq!(details.what_broke, "upstream AS64500 behind a is dark");
    assert_eq!(details.affected_peers, incident(None).affected);
    assert_eq!(details.affected_prefixes, incident(None).prefixes);
    assert_eq!(details.bgp, bgp());
    assert_eq!(details.remediation, "installed, verifying");
    assert_eq!(details.evidence.len(), EVIDENCE_LINES);
    assert_eq!(details.evidence[0], "+0.090 s connection 0 is overdue");
    assert_eq!(
        resolve.summary,
        "healed after 5.150 s: upstream AS64500 behind a is dark"
    );
    assert_eq!(resolve.severity, trigger.severity);
}

/// PagerDuty refuses longer summaries; no verdict may come near.
#[test]
fn every_verdict_has_a_severity_a_component_and_a_short_summary() {
    let egress = || EgressName::from("uplink-a");
    let peer = PeerKey("2001:db8:5::7".parse().expect("address"));
    let prefix = "2001:db8:5::/48".parse().expect("prefix");
    for (verdict, severity, component) in [
        (
            Verdict::LocalLink { egress: egress() },
            Severity::Critical,
            "uplink-a",
        ),
        (
            Verdict::Gateway { egress: egress() },
            Severity::Critical,
            "uplink-a",
        ),
        (
            Verdict::UpstreamAs {
                egress: egress(),
                asn: None,
            },
            Severity::Critical,
            "uplink-a",
        ),
        (upstream(), Severity::Critical, "AS64500"),
        (Verdict::RemoteAs { asn: Asn(1) }, Severity::Error, "AS1"),
        (
            Verdict::Prefix { prefix },
            Severity::Error,
            "2001:db8:5::/48",
        ),
        (
            Verdict::SinglePeer { peer },
            Severity::Warning,
            "2001:db8:5::7",
        ),
        (
            Verdict::ReturnPath {
                egress: Some(egress()),
            },
            Severity::Critical,
            "uplink-a",
        ),
        (
            Verdict::ReturnPath { egress: None },
            Severity::Critical,
            "return path",
        ),
        (Verdict::HostStall, Severity::Warning, "host"),
        (Verdict::TotalIsolation, Severity::Critical, "network"),
    ] {
        let (_, sent) = run(vec![
            (VERDICT, Confirmed(verdict.clone())),
            (VERDICT + 5_000, Timeout),
        ]);
        assert_eq!(sent.len(), 1, "{verdict:?}");
        let page = &sent[0].1;
        assert_eq!((page.severity, &*page.component), (severity, component));
        assert_eq!(page.class, verdict.class());
        assert!(page.summary.starts_with(&verdict.to_string()));
        assert!(page.summary.len() <= 1024);
    }
}

#[test]
fn a_backup_that_nothing_uses_wakes_nobody() {
    let spare = Verdict::Gateway {
        egress: EgressName::from("b"),
    };
    let mut pages = Pages::new(Some(EgressName::from("a")));
    let mut out = Vec::new();
    let mut unused = incident(Some(spare));
    unused.affected.clear();
    let told = |incident: &Incident| Conclusion::Updated {
        incident: incident.clone(),
        bgp: BgpSummary::default(),
    };
    let confirmed = Conclusion::Confirmed {
        incident: unused.clone(),
        bgp: BgpSummary::default(),
    };
    pages.conclusion(ms(VERDICT), &confirmed, &mut out);
    pages.handle_timeout(ms(VERDICT) + PATIENCE, &mut out);
    pages.conclusion(ms(VERDICT + 300), &told(&unused), &mut out);
    let severities: Vec<Severity> = out.iter().map(|page| page.severity).collect();
    assert_eq!(severities, [Severity::Warning]);
    // Flows have moved to it meanwhile: somebody must know now.
    let used = incident(unused.verdict.clone());
    pages.conclusion(ms(VERDICT + 400), &told(&used), &mut out);
    let severities: Vec<Severity> = out.iter().map(|page| page.severity).collect();
    assert_eq!(severities, [Severity::Warning, Severity::Critical]);
}

fn slow(scope: LatencyScope) -> Verdict {
    Verdict::Latency {
        scope,
        cause: events::LatencyCause::OwnUplink,
    }
}

#[test]
fn slowness_is_told_once_it_lasts_and_never_as_critical() {
    let nothing = || Status(S::NothingToDo("nothing is lost".into()));
    let lasting = vec![
        (VERDICT, Confirmed(slow(LatencyScope::All))),
        (VERDICT, nothing()),
        (VERDICT + 30_000, Healed),
    ];
    let (_, sent) = run(lasting);
    let [(first, page), (_, resolve)] = sent.as_slice() else {
        panic!("{sent:?}");
    };
    assert_eq!(*first, VERDICT + 10_000);
    assert_eq!(page.severity, Severity::Warning);
    assert_eq!(resolve.action, Resolve);
    for (scope, until) in [
        (LatencyScope::All, 9_900),
        (
            LatencyScope::Peer {
                peer: incident(None).affected[0],
            },
            60_000,
        ),
    ] {
        let short = vec![
            (VERDICT, Confirmed(slow(scope))),
            (VERDICT, nothing()),
            (VERDICT + until, Healed),
        ];
        let (pages, sent) = run(short);
        assert!(sent.is_empty(), "{sent:?}");
        assert_eq!(pages.next_timeout(), None);
    }
}

#[test]
fn a_short_stall_of_this_host_wakes_nobody() {
    let stalled = || (VERDICT, Confirmed(Verdict::HostStall));
    let nothing = || (VERDICT, Status(S::NothingToDo("the host".into())));
    let times = |story| -> Vec<_> {
        let (pages, sent) = run(story);
        assert_eq!(pages.next_timeout(), None);
        sent.iter().map(|(at, page)| (*at, page.action)).collect()
    };
    let onset = incident(None).onset.as_nanos() / 1_000_000;
    let short = vec![stalled(), nothing(), (onset + 999, Healed)];
    assert_eq!(times(short), []);
    let longer = vec![stalled(), nothing(), (onset + 1_000, Healed)];
    let end = onset + 1_000;
    assert_eq!(times(longer), [(end, Trigger), (end, Resolve)]);
    let lasting = vec![stalled(), nothing(), (VERDICT + 9_000, Healed)];
    let told = [(VERDICT + 4_000, Trigger), (VERDICT + 9_000, Resolve)];
    assert_eq!(times(lasting), told);
    // What the network did as well is told as soon as that is known.
    let worse = vec![
        stalled(),
        nothing(),
        (VERDICT + 300, Updated(upstream())),
        (VERDICT + 300, Status(S::Installing)),
        (VERDICT + 9_000, Healed),
    ];
    let sent = times(worse);
    let told = [(VERDICT + 500, Trigger), (VERDICT + 9_000, Resolve)];
    assert_eq!(sent, told);
}
