//! Pages against a server on loopback: counts, orders and outcomes.

mod server;

use std::io::BufRead;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use authority::Authority;
use events::{EgressName, IncidentId, Outcome, Page, PageAction, PageDetails, Severity, Timestamp};
use paging::{EgressSettings, Handle, Pager, Schedule, Secret, Settings};
use server::{Act, KEY, Server};
use tokio::sync::mpsc;

const LONG: Duration = Duration::from_secs(10);

fn page(incident: &str, action: PageAction, summary: &str) -> Page {
    Page {
        incident: IncidentId(incident.into()),
        action,
        severity: Severity::Critical,
        summary: summary.into(),
        component: "a".into(),
        class: "upstream_as".into(),
        onset: Timestamp::from_millis(1),
        at: Timestamp::from_millis(2),
        details: PageDetails::default(),
    }
}

fn trigger(incident: &str, summary: &str) -> Page {
    page(incident, PageAction::Trigger, summary)
}

/// Short waits, in the proportions of the real ones.
fn settings(server: &Server) -> Settings {
    let ms = Duration::from_millis;
    Settings {
        schedule: Schedule {
            hedge: ms(100),
            answer: ms(2_000),
            backoff: [20, 50, 100, 200].map(ms).to_vec(),
            network_cap: ms(200),
            server_cap: ms(400),
            rate_limited: ms(300),
            rewarm: ms(100),
            ..Schedule::default()
        },
        ..Settings::new(&server.url(), Secret::new(KEY), "val-1")
    }
}

fn egress(name: &str, interface: &str) -> EgressSettings {
    EgressSettings {
        name: EgressName::from(name),
        interface: interface.into(),
    }
}

fn start(settings: Settings) -> (Handle, mpsc::Receiver<Outcome>) {
    let (sender, receiver) = mpsc::channel(1_000);
    (Pager::start(settings, sender).unwrap(), receiver)
}

async fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let limit = tokio::time::Instant::now() + LONG;
    while !done() {
        assert!(tokio::time::Instant::now() < limit, "timeout: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until every client has a warm connection.
async fn warm(handle: &Handle) {
    wait("warm connections", || {
        handle
            .egresses()
            .iter()
            .all(|egress| egress.answered.is_some())
    })
    .await;
}

fn drain(outcomes: &mut mpsc::Receiver<Outcome>) -> Vec<Outcome> {
    std::iter::from_fn(|| outcomes.try_recv().ok()).collect()
}

#[tokio::test]
async fn a_page_goes_out_over_the_warm_connection_and_is_accepted_once() {
    let server = Server::start().await;
    let (handle, mut outcomes) = start(settings(&server));
    warm(&handle).await;
    assert_eq!((server.heads(), server.connections()), (1, 1));
    handle.send(trigger("inc-1", "dark"));
    assert_eq!(handle.stop(LONG).await, 0);
    let received = server.received();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].status, Some(202));
    assert_eq!(received[0].dedup_key(), "inc-1");
    assert_eq!(received[0].connection, 1, "a new connection was opened");
    let incident = IncidentId("inc-1".into());
    assert_eq!(
        drain(&mut outcomes),
        [
            Outcome::PageSent {
                incident: incident.clone(),
                egress: None,
                attempt: 1
            },
            Outcome::PageAccepted {
                incident,
                egress: None,
                attempt: 1
            },
        ]
    );
}

#[tokio::test]
async fn server_errors_are_retried_on_schedule_with_the_same_key_and_in_order() {
    let server = Server::start().await;
    server.script([
        Act::Status(500, None),
        Act::Status(503, None),
        Act::Status(200, None),
        Act::Contract,
    ]);
    let (handle, mut outcomes) = start(settings(&server));
    handle.send(trigger("inc-1", "first"));
    handle.send(trigger("inc-1", "second"));
    handle.send(page("inc-1", PageAction::Resolve, "healed"));
    assert_eq!(handle.stop(LONG).await, 0);
    let received = server.received();
    let told: Vec<_> = received
        .iter()
        .map(|post| (post.action(), post.summary(), post.status.unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("trigger", "first", 500),
            ("trigger", "first", 503),
            ("trigger", "first", 200),
            ("trigger", "first", 202),
            ("trigger", "second", 202),
            ("resolve", "healed", 202),
        ]
    );
    assert!(received.iter().all(|post| post.dedup_key() == "inc-1"));
    for (index, least) in [20, 50, 100].into_iter().enumerate() {
        let gap = received[index + 1].at - received[index].at;
        assert!(gap >= Duration::from_millis(least), "{index}: {gap:?}");
    }
    let failures: Vec<_> = drain(&mut outcomes)
        .into_iter()
        .filter_map(|outcome| match outcome {
            Outcome::PageFailed {
                attempt, permanent, ..
            } => Some((attempt, permanent)),
            _ => None,
        })
        .collect();
    assert_eq!(failures, [(1, false), (2, false), (3, false)]);
    let counters = handle.counters();
    assert_eq!(
        (counters.accepted, counters.failures, counters.pending),
        (3, 3, 0)
    );
}

#[tokio::test]
async fn a_bad_request_is_never_sent_again_and_does_not_hold_up_what_follows() {
    let server = Server::start().await;
    let (handle, mut outcomes) = start(settings(&server));
    // An empty summary breaks the contract.
    handle.send(trigger("inc-1", ""));
    handle.send(trigger("inc-1", "good"));
    assert_eq!(handle.stop(LONG).await, 0);
    let told: Vec<_> = server.received().iter().map(|post| post.status).collect();
    assert_eq!(told, [Some(400), Some(202)]);
    let outcomes = drain(&mut outcomes);
    let Some(Outcome::PageFailed {
        error,
        attempt: 1,
        permanent: true,
        ..
    }) = outcomes.get(1)
    else {
        panic!("{outcomes:?}");
    };
    assert!(error.contains("payload.summary is invalid"), "{error}");
    assert!(
        error.contains("[redacted]") && !error.contains(KEY),
        "{error}"
    );
    assert_eq!(handle.counters().refused, 1);
}

#[tokio::test]
async fn rate_limits_are_waited_out() {
    let server = Server::start().await;
    server.script([Act::Status(429, None), Act::Status(429, Some(1))]);
    let (handle, _outcomes) = start(settings(&server));
    handle.send(trigger("inc-1", "dark"));
    assert_eq!(handle.stop(LONG).await, 0);
    let received = server.received();
    assert_eq!(received.len(), 3);
    assert!(received[1].at - received[0].at >= Duration::from_millis(300));
    assert!(received[2].at - received[1].at >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_stuck_incident_does_not_hold_up_another() {
    let server = Server::start().await;
    server.rule(|_, body| match body["dedup_key"].as_str() {
        Some("stuck") => Act::Status(500, None),
        _ => Act::Contract,
    });
    let (handle, _outcomes) = start(settings(&server));
    handle.send(trigger("stuck", "a"));
    wait("two tries", || server.received().len() >= 2).await;
    for number in 0..20 {
        handle.send(trigger(&format!("inc-{number}"), "b"));
    }
    wait("the others", || server.accepted().len() == 20).await;
    assert_eq!(handle.stop(Duration::from_millis(50)).await, 1);
}

#[tokio::test]
async fn where_an_egress_hangs_the_next_is_used_as_well() {
    let server = Server::start().await;
    let mut settings = settings(&server);
    settings.egresses = vec![egress("a", "lo"), egress("b", "lo")];
    let (handle, mut outcomes) = start(settings);
    warm(&handle).await;
    server.script([Act::Hang]);
    handle.send(trigger("inc-1", "dark"));
    assert_eq!(handle.stop(LONG).await, 0);
    let incident = IncidentId("inc-1".into());
    let sent = |name: &str, attempt| Outcome::PageSent {
        incident: incident.clone(),
        egress: Some(name.into()),
        attempt,
    };
    assert_eq!(
        drain(&mut outcomes),
        [
            sent("a", 1),
            sent("b", 2),
            Outcome::PageAccepted {
                incident: incident.clone(),
                egress: Some("b".into()),
                attempt: 2
            }
        ]
    );
    let received = server.received();
    assert_eq!(received.len(), 2);
    assert_ne!(received[0].connection, received[1].connection);
    assert!(received.iter().all(|post| post.dedup_key() == "inc-1"));
    assert_eq!(handle.counters().hedges, 1);
}

#[tokio::test]
async fn a_broken_egress_costs_no_wait_and_a_dead_one_is_not_asked_first() {
    let server = Server::start().await;
    let mut settings = settings(&server);
    settings.egresses = vec![
        egress("a", "nw-absent0"),
        egress("b", "lo"),
        egress("c", "lo"),
    ];
    // With hedges out of the picture: the next egress must be tried because the first failed.
    settings.schedule.hedge = LONG;
    let (handle, mut outcomes) = start(settings);
    handle.send(trigger("inc-1", "dark"));
    wait("acceptance", || server.accepted().len() == 1).await;
    let told: Vec<_> = drain(&mut outcomes);
    assert!(
        told.iter().any(|outcome| matches!(outcome, Outcome::PageAccepted { egress: Some(name), .. } if name.0 == "b")),
        "{told:?}"
    );
    warm(&handle).await;
    drain(&mut outcomes);
    handle.egress_health(&"b".into(), false);
    handle.send(trigger("inc-2", "dark"));
    assert_eq!(handle.stop(LONG).await, 0);
    // `a` does not answer, `b` is said to be dead: `c` is the best.
    let told = drain(&mut outcomes);
    assert!(
        matches!(&told[..], [Outcome::PageSent { egress: Some(first), .. }, Outcome::PageAccepted { .. }] if first.0 == "c"),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_reset_is_retried_until_the_pager_is_back() {
    let server = Server::start().await;
    let (handle, mut outcomes) = start(settings(&server));
    warm(&handle).await;
    server.script([Act::Reset, Act::Reset]);
    handle.send(trigger("inc-1", "dark"));
    assert_eq!(handle.stop(LONG).await, 0);
    assert_eq!(server.accepted().len(), 1);
    let attempts: Vec<_> = drain(&mut outcomes)
        .into_iter()
        .filter_map(|outcome| match outcome {
            Outcome::PageSent { attempt, .. } => Some(attempt),
            _ => None,
        })
        .collect();
    assert_eq!(
        attempts,
        (1..=u32::try_from(attempts.len()).unwrap()).collect::<Vec<_>>()
    );
}

fn on_disk(mut settings: Settings, folder: &Path) -> Settings {
    settings.outbox = Some(folder.join("outbox.db"));
    settings
}

#[tokio::test]
async fn what_was_not_delivered_is_delivered_after_a_restart_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    server.rule(|_, _| Act::Status(500, None));
    let (handle, _outcomes) = start(on_disk(settings(&server), folder.path()));
    handle.send(trigger("inc-1", "first"));
    handle.send(trigger("inc-2", "other"));
    handle.send(page("inc-1", PageAction::Resolve, "healed"));
    assert_eq!(handle.stop(Duration::from_millis(100)).await, 3);
    assert!(server.accepted().is_empty());

    let server = Server::start().await;
    let (handle, _outcomes) = start(on_disk(settings(&server), folder.path()));
    wait("the outbox", || server.accepted().len() == 3).await;
    handle.send(trigger("inc-3", "new"));
    assert_eq!(handle.stop(LONG).await, 0);
    let received = server.received();
    assert_eq!(received.len(), 4);
    let first: Vec<_> = received
        .iter()
        .filter(|post| post.dedup_key() == "inc-1")
        .map(|post| post.action().to_owned())
        .collect();
    assert_eq!(first, ["trigger", "resolve"]);

    // Nothing is left for a third run.
    let server = Server::start().await;
    let (handle, _outcomes) = start(on_disk(settings(&server), folder.path()));
    warm(&handle).await;
    assert_eq!(handle.counters().queued, 0);
    assert!(server.received().is_empty());
}

#[tokio::test]
async fn without_an_outbox_pages_are_sent_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let absent = folder.path().join("absent");
    let (handle, _outcomes) = start(on_disk(settings(&server), &absent));
    handle.send(trigger("inc-1", "dark"));
    assert_eq!(handle.stop(LONG).await, 0);
    assert_eq!(server.accepted().len(), 1);
    assert_eq!(handle.counters().not_persisted, 1);
}

#[tokio::test]
async fn beyond_the_capacity_the_least_severe_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    server.rule(|_, _| Act::Status(500, None));
    let mut settings = on_disk(settings(&server), folder.path());
    settings.capacity = 3;
    let (handle, mut outcomes) = start(settings);
    for (number, severity) in [
        Severity::Critical,
        Severity::Info,
        Severity::Critical,
        Severity::Warning,
        Severity::Error,
    ]
    .into_iter()
    .enumerate()
    {
        handle.send(Page {
            severity,
            ..trigger(&format!("inc-{number}"), "x")
        });
    }
    assert_eq!(handle.stop(Duration::from_millis(100)).await, 3);
    let dropped: Vec<_> = drain(&mut outcomes)
        .into_iter()
        .filter_map(|outcome| match outcome {
            Outcome::PageFailed {
                incident,
                permanent: true,
                ..
            } => Some(incident.0),
            _ => None,
        })
        .collect();
    assert_eq!(dropped, ["inc-1", "inc-3"]);
    assert_eq!(handle.counters().dropped, 2);
}

#[tokio::test]
async fn a_test_page_opens_and_closes_an_alert_and_tells_by_which_way() {
    let server = Server::start().await;
    let mut settings = settings(&server);
    settings.egresses = vec![egress("a", "nw-absent0"), egress("b", "lo")];
    let (handle, _outcomes) = start(settings);
    let report = handle.test().await.unwrap();
    assert!(report.delivered(), "{report:?}");
    let told: Vec<_> = report
        .attempts
        .iter()
        .map(|attempt| {
            let egress = attempt.egress.as_ref().map(|name| name.0.as_str());
            (egress, attempt.action, attempt.accepted)
        })
        .collect();
    assert_eq!(
        told,
        [
            (Some("a"), PageAction::Trigger, false),
            (Some("b"), PageAction::Trigger, true),
            (None, PageAction::Trigger, true),
            (Some("b"), PageAction::Resolve, true),
        ]
    );
    let received = server.received();
    assert!(
        received
            .iter()
            .all(|post| post.dedup_key() == report.dedup_key)
    );
    assert_eq!(received[0].body["payload"]["severity"], "info");
    let text = report.to_string();
    assert_eq!(text.lines().count(), 4);
    assert!(text.contains("resolve through b: accepted ("), "{text}");
}

#[tokio::test]
async fn bad_settings_are_refused_with_a_remedy() {
    let server = Server::start().await;
    let (sender, _receiver) = mpsc::channel(1);
    let refuse = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings(&server);
        change(&mut settings);
        Pager::start(settings, sender.clone())
            .unwrap_err()
            .to_string()
    };
    assert!(refuse(&|s| s.url = "ftp://x/".into()).contains("pager.url"));
    assert!(refuse(&|s| s.url = "nonsense".into()).contains("pager.url"));
    assert!(refuse(&|s| s.routing_key = Secret::new(" \n")).contains("pager.routing_key"));
    let missing = refuse(&|s| {
        s.url = "https://localhost/".into();
        s.ca_file = Some("/nonexistent.pem".into());
    });
    assert!(missing.contains("pager.ca_file"), "{missing}");
}

#[tokio::test]
async fn the_key_is_in_no_debug_output() {
    let server = Server::start().await;
    let settings = settings(&server);
    assert!(!format!("{settings:?}").contains(KEY));
    let (handle, _outcomes) = start(settings);
    assert!(!format!("{handle:?}").contains(KEY));
}

#[tokio::test]
async fn a_slow_answer_costs_a_duplicate_and_counts_once() {
    let server = Server::start().await;
    let mut settings = settings(&server);
    settings.egresses = vec![egress("a", "lo")];
    let (handle, mut outcomes) = start(settings);
    warm(&handle).await;
    let slow = Duration::from_millis(700);
    server.script([Act::Slow(slow), Act::Slow(slow)]);
    handle.send(trigger("inc-1", "dark"));
    handle.send(page("inc-1", PageAction::Resolve, "healed"));
    assert_eq!(handle.stop(LONG).await, 0);
    let actions: Vec<_> = server
        .received()
        .iter()
        .map(|post| post.action().to_owned())
        .collect();
    assert_eq!(actions, ["trigger", "trigger", "resolve"]);
    let accepted: Vec<_> = drain(&mut outcomes)
        .into_iter()
        .filter(|outcome| matches!(outcome, Outcome::PageAccepted { .. }))
        .collect();
    assert_eq!(accepted.len(), 2);
    assert_eq!(handle.counters().accepted, 2);
}

#[tokio::test]
async fn https_trusts_the_configured_authority_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::generate().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::serve(listener, Some(authority.server.into()));
    // By name: resolution is part of the way.
    let mut settings = settings(&server);
    settings.url = format!("https://localhost:{}/v2/enqueue", server.address.port());
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, authority.pem).unwrap();
    settings.ca_file = Some(ca_file.clone());
    let (handle, _outcomes) = start(settings.clone());
    warm(&handle).await;
    handle.send(trigger("inc-1", "dark"));
    assert_eq!(handle.stop(LONG).await, 0);
    assert_eq!(server.accepted().len(), 1);
    assert!(handle.addresses().contains(&"127.0.0.1".parse().unwrap()));

    std::fs::write(&ca_file, Authority::generate().unwrap().pem).unwrap();
    let (handle, _outcomes) = start(settings);
    let report = handle.test().await.unwrap();
    assert!(!report.delivered());
    let error = report.attempts[0].error.as_deref().unwrap();
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(server.received().len(), 1);
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_key_is_in_no_log_even_where_the_pager_echoes_it() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let server = Server::start().await;
    server.script([Act::Status(500, None), Act::Reset]);
    let (handle, _outcomes) = start(settings(&server));
    handle.send(trigger("inc-1", ""));
    assert_eq!(handle.stop(LONG).await, 0);
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        text.contains("page refused") && text.contains("[redacted]"),
        "{text}"
    );
    assert!(!text.contains(KEY), "{text}");
}

/// Runs as a process of its own, which is killed with a page on its way.
#[tokio::test]
async fn child_pager() {
    let Some(folder) = std::env::var_os("NETWATCH_TEST_OUTBOX") else {
        return;
    };
    let server = Server::start().await;
    server.rule(|_, _| Act::Hang);
    let (handle, _outcomes) = start(on_disk(settings(&server), Path::new(&folder)));
    for number in 0..10 {
        handle.send(trigger(&format!("inc-{number}"), "dark"));
    }
    wait("requests", || server.received().len() >= 10).await;
    // The disk works beside the requests.
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("under way");
    tokio::time::sleep(LONG).await;
}

#[tokio::test]
async fn a_killed_process_leaves_its_pages_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_pager", "--nocapture"])
        .env("NETWATCH_TEST_OUTBOX", folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("under way") {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let server = Server::start().await;
    let (handle, _outcomes) = start(on_disk(settings(&server), folder.path()));
    wait("the outbox", || server.accepted().len() == 10).await;
    assert_eq!(handle.stop(LONG).await, 0);
    assert_eq!(server.received().len(), 10);
}
