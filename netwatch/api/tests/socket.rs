//! Server and client over a real Unix socket.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::{
    BindError, Call, Client, ClientError, DiskInfo, EgressInfo, ErrorCode, KernelInfo, Limits,
    NeighborInfo, Notification, PeerInfo, PeerState, PlanInfo, PreemptorInfo, ProbeInfo,
    ProcessInfo, Publisher, RecordingInfo, Reply, Request, RibReply, RollbackReply, RoutesReply,
    SeriesInfo, Server, ServerCounters, StatusReply, TargetInfo, ThreadInfo, UdpInfo, VersionReply,
};
use events::{
    Actor, Asn, EgressName, Entry, EntryKind, IncidentId, NeighborId, Owner, PeerKey, Plan, PlanId,
    PlanMode, ProbeSource, ProbeTarget, RibRoute, RouteAttributes, RouteSpec, Timestamp,
};
use tokio::sync::{mpsc, oneshot};

struct Daemon {
    _directory: tempfile::TempDir,
    path: PathBuf,
    publisher: Publisher,
    counters: Arc<ServerCounters>,
    stop: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<()>,
}

impl Daemon {
    /// A server whose "engine" answers with `answer`, or hangs up where that is `None`.
    fn start(limits: Limits, answer: fn(Request) -> Option<Reply>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("netwatch.sock");
        let server = Server::bind(&path, limits).unwrap();
        let (publisher, counters) = (server.publisher(), server.counters());
        let (calls, mut called) = mpsc::channel::<Call>(4);
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(server.serve(calls, async {
            let _ = stopped.await;
        }));
        tokio::spawn(async move {
            while let Some(call) = called.recv().await {
                if let Some(reply) = answer(call.request) {
                    let _ = call.reply.send(reply);
                }
            }
        });
        Self {
            _directory: directory,
            path,
            publisher,
            counters,
            stop,
            server,
        }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.path).await.unwrap()
    }
}

fn version() -> Reply {
    Reply::Version(VersionReply {
        version: "1.2.3".to_owned(),
    })
}

fn any(_: Request) -> Option<Reply> {
    Some(version())
}

fn entry(n: u64) -> Notification {
    Notification::Entry(Box::new(Entry {
        incident: IncidentId("i-1".to_owned()),
        at: Timestamp::from_millis(n),
        received_at: None,
        actor: Actor::Correlator,
        kind: EntryKind::Suspected,
        text: "x".repeat(100),
        evidence: Vec::new(),
    }))
}

fn plan() -> Plan {
    Plan {
        id: PlanId(3),
        incident: IncidentId("i-1".to_owned()),
        mode: PlanMode::Act,
        lease: Duration::from_secs(30),
        routes: vec![RouteSpec {
            prefix: "203.0.113.0/24".parse().unwrap(),
            egress: "b".into(),
            interface: "wan1".to_owned(),
            gateway: "192.0.2.5".parse().unwrap(),
            source: "198.51.100.10".parse().unwrap(),
            metric: 10,
            table: 254,
        }],
        rationale: "a more-specific".to_owned(),
    }
}

fn full_status() -> StatusReply {
    let peer = PeerInfo {
        peer: PeerKey("203.0.113.7".parse().unwrap()),
        state: PeerState::Overdue,
        connections: 2,
        overdue: 1,
        opening: 0,
        source: Some("198.51.100.10".parse().unwrap()),
        owner: Some(Owner {
            pid: 1,
            comm: "validator".to_owned(),
        }),
        srtt: Some(Duration::from_micros(20_500)),
        baseline: None,
        rtt_spike: false,
        oldest_unacked: Some(Duration::from_millis(90)),
        retransmits: BTreeMap::from([("fast".to_owned(), 3)]),
        connect_failures: BTreeMap::new(),
        prefix: Some("203.0.113.0/24".parse().unwrap()),
        as_path: vec![Asn(64500), Asn(64501)],
        route: None,
    };
    StatusReply {
        version: "1.2.3".to_owned(),
        host: "val-1".to_owned(),
        pid: 42,
        uptime: Duration::from_millis(1500),
        now: Timestamp::from_millis(99),
        mode: PlanMode::Shadow,
        kill_switch: false,
        probes: vec!["tcp_probe: tp_btf".to_owned()],
        kernel: KernelInfo {
            off: None,
            probes: vec![ProbeInfo {
                name: "tcp_send".to_owned(),
                asked: true,
                hook: Some("tp_btf/sock_send_length".to_owned()),
                rung: Some("tp_btf".to_owned()),
                reason: "unseen: time in the call".to_owned(),
            }],
            percentiles: vec![SeriesInfo {
                series: "peer_rtt".to_owned(),
                labels: BTreeMap::from([("peer".to_owned(), "203.0.113.7".to_owned())]),
                count: 9,
                p50: Duration::from_micros(1_500),
                max: Duration::from_millis(4),
                ..SeriesInfo::default()
            }],
            disks: vec![DiskInfo {
                device: "nvme0n1".to_owned(),
                operation: "write".to_owned(),
                completed: 8,
                errors: 1,
                bytes: 4096,
            }],
            udp: vec![UdpInfo {
                pid: 7,
                sent: 3,
                ..UdpInfo::default()
            }],
            watched: vec![ProcessInfo {
                pid: 7,
                comm: "gaiad".to_owned(),
                why: vec!["unit".to_owned()],
            }],
            threads: vec![ThreadInfo {
                pid: 7,
                tid: 8,
                waited: Duration::from_micros(1_500),
                waiting: Some(Duration::from_millis(2)),
                preemptors: vec![PreemptorInfo::default()],
                ..ThreadInfo::default()
            }],
        },
        counters: BTreeMap::from([("lost_urgent_ring_total".to_owned(), 0)]),
        peers: vec![peer],
        incidents: Vec::new(),
        egresses: vec![EgressInfo {
            name: EgressName::from("a"),
            interface: "wan0".to_owned(),
            carrier: Some(true),
            targets: vec![TargetInfo {
                target: ProbeTarget::Gateway("192.0.2.1".parse().unwrap()),
                source: ProbeSource::Link,
                alive: Some(true),
                rtt: Some(Duration::from_micros(250)),
                sent: 100,
                lost: 1,
            }],
        }],
        neighbors: vec![NeighborInfo {
            neighbor: NeighborId::session("192.0.2.1".parse().unwrap()),
            asn: Asn(211_396),
            egress: EgressName::from("a"),
            state: "Established".to_owned(),
            since: Some(Duration::from_secs(60)),
            ipv4_routes: 8,
            ipv6_routes: 4,
            stale: false,
            partial: true,
            last_error: None,
            session: Some(Box::default()),
        }],
        plans: vec![PlanInfo {
            plan: plan(),
            installed_for: Duration::from_millis(1200),
            lease_left: Duration::from_millis(28_800),
            verified: true,
        }],
        recordings: vec![RecordingInfo {
            incident: "val-1-20260301T220000Z-1".to_owned(),
            path: "/var/lib/netwatch/recordings/val-1-20260301T220000Z-1.nwrec".into(),
            bytes: 70_000,
            open: true,
        }],
    }
}

fn engine(request: Request) -> Option<Reply> {
    Some(match request {
        Request::Status => Reply::Status(Box::new(full_status())),
        Request::Routes => Reply::Routes(RoutesReply {
            plans: full_status().plans,
            ..RoutesReply::default()
        }),
        Request::Rollback { plan } => Reply::Rollback(RollbackReply {
            plans: plan.into_iter().collect(),
        }),
        Request::BgpRib { query, .. } => Reply::BgpRib(RibReply {
            query,
            routes: vec![RibRoute {
                neighbor: NeighborId::session("192.0.2.1".parse().unwrap()),
                egress: EgressName::from("a"),
                path_id: None,
                route: RouteAttributes {
                    prefix: "203.0.113.0/24".parse().unwrap(),
                    as_path: vec![Asn(64500)],
                    next_hop: "192.0.2.1".parse().unwrap(),
                    received_at: Timestamp::ZERO,
                    validation: None,
                },
                stale: false,
            }],
            ..RibReply::default()
        }),
        Request::PageTest => Reply::error(ErrorCode::Unavailable, "no pager is configured"),
        _ => version(),
    })
}

#[tokio::test]
async fn replies_arrive_as_they_were_given() {
    let daemon = Daemon::start(Limits::default(), engine);
    let mut client = daemon.client().await;
    let reply = client.request(&Request::Status).await.unwrap();
    assert_eq!(reply, Reply::Status(Box::new(full_status())));
    let rollback = Request::Rollback {
        plan: Some(PlanId(3)),
    };
    let reply = client.request(&rollback).await.unwrap();
    let plans = vec![PlanId(3)];
    assert_eq!(reply, Reply::Rollback(RollbackReply { plans }));
    let reply = client.request(&Request::Routes).await.unwrap();
    assert!(matches!(reply, Reply::Routes(r) if r.plans[0].plan == plan()));
    let query = Some("203.0.113.7".parse().unwrap());
    let request = Request::BgpRib {
        query,
        at: None,
        neighbor: None,
        limit: None,
        after: None,
    };
    let reply = client.request(&request).await.unwrap();
    assert!(matches!(reply, Reply::BgpRib(r) if r.query == query && r.routes.len() == 1));
    let refused = client.request(&Request::PageTest).await.unwrap_err();
    assert!(
        matches!(refused, ClientError::Refused { code: ErrorCode::Unavailable, ref message } if message == "no pager is configured")
    );
    assert_eq!(daemon.counters.requests.load(Ordering::Relaxed), 5);
    assert_eq!(daemon.counters.errors.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn durations_are_milliseconds_on_the_wire() {
    let json = serde_json::to_value(Reply::Status(Box::new(full_status()))).unwrap();
    assert_eq!(json["reply"], "status");
    assert_eq!(json["uptime_ms"], 1500.0);
    assert_eq!(json["peers"][0]["srtt_ms"], 20.5);
    assert_eq!(json["peers"][0]["baseline_ms"], serde_json::Value::Null);
    assert_eq!(json["peers"][0]["state"], "overdue");
    assert_eq!(json["plans"][0]["lease_left_ms"], 28800.0);
}

/// Writes lines as they are and reads one line for each.
fn talk(path: &std::path::Path, lines: &[&str]) -> Vec<serde_json::Value> {
    let mut stream = UnixStream::connect(path).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut from = BufReader::new(stream.try_clone().unwrap());
    lines
        .iter()
        .map(|line| {
            stream.write_all(line.as_bytes()).unwrap();
            let mut reply = String::new();
            from.read_line(&mut reply).unwrap();
            serde_json::from_str(&reply).unwrap()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_typed_errors_and_the_connection_lives() {
    let daemon = Daemon::start(Limits::default(), any);
    let replies = talk(
        &daemon.path,
        &[
            "not json\n",
            "[1]\n",
            "\n",
            "{\"request\":\"frobnicate\"}\n",
            "{\"request\":\"rollback\",\"plan\":\"all\"}\n",
            "{\"request\":\"rollback\",\"plans\":1}\n",
            "\u{0}\n",
            "{\"request\":\"version\"}\n",
        ],
    );
    let codes: Vec<_> = replies.iter().map(|r| r["code"].as_str()).collect();
    let bad = Some("malformed");
    let unknown = Some("unknown_request");
    assert_eq!(codes, [bad, bad, bad, unknown, bad, bad, bad, None]);
    assert_eq!(replies[7]["version"], "1.2.3");
    let text = replies[3]["message"].as_str().unwrap();
    assert!(
        text.contains("frobnicate") && text.contains("rollback"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_end_is_cut_off() {
    let limits = Limits {
        request_bytes: 1000,
        ..Limits::default()
    };
    let daemon = Daemon::start(limits, any);
    let fits = format!("{{\"request\":\"version\"{}}}\n", " ".repeat(950));
    assert_eq!(talk(&daemon.path, &[&fits])[0]["reply"], "version");
    let long = " ".repeat(1001);
    assert_eq!(talk(&daemon.path, &[&long])[0]["code"], "too_long");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_idle_ones_are_closed() {
    let limits = Limits {
        connections: 2,
        idle: Duration::from_millis(1500),
        ..Limits::default()
    };
    let daemon = Daemon::start(limits, any);
    let (mut one, mut two) = (daemon.client().await, daemon.client().await);
    one.request(&Request::Version).await.unwrap();
    two.request(&Request::Version).await.unwrap();
    let mut three = daemon.client().await;
    let refused = three.request(&Request::Version).await.unwrap_err();
    assert!(
        matches!(
            refused,
            ClientError::Refused {
                code: ErrorCode::Busy,
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(daemon.counters.refused.load(Ordering::Relaxed), 1);

    let mut idle = UnixStream::connect(&daemon.path).unwrap();
    idle.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut said = String::new();
    idle.read_to_string(&mut said).unwrap();
    // Room again, once the first two were idle for too long.
    tokio::time::timeout(Duration::from_secs(10), async {
        while daemon
            .client()
            .await
            .request(&Request::Version)
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_engine_that_does_not_answer_is_told() {
    let daemon = Daemon::start(Limits::default(), |_| None);
    let error = daemon.client().await.request(&Request::Status).await;
    let code = |e: Result<Reply, ClientError>| match e {
        Err(ClientError::Refused { code, .. }) => Some(code),
        _ => None,
    };
    assert_eq!(code(error), Some(ErrorCode::Unavailable));

    // Nobody takes calls: the first waits in the channel until the time is up, the second finds it full.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let limits = Limits {
        answer: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = Server::bind(&path, limits).unwrap();
    let (calls, called) = mpsc::channel(1);
    tokio::spawn(server.serve(calls, std::future::pending()));
    let mut client = Client::connect(&path).await.unwrap();
    let first = client.request(&Request::Status).await;
    assert_eq!(code(first), Some(ErrorCode::TimedOut));
    let second = client.request(&Request::Status).await;
    assert_eq!(code(second), Some(ErrorCode::Busy));
    drop(called);
    let third = client.request(&Request::Status).await;
    assert_eq!(code(third), Some(ErrorCode::Unavailable));
}

#[tokio::test]
async fn subscribers_get_notifications_in_order_until_the_stop() {
    let daemon = Daemon::start(Limits::default(), any);
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(daemon.client().await.subscribe().await.unwrap());
    }
    for n in 0..50 {
        daemon.publisher.publish(&entry(n));
    }
    for stream in &mut streams {
        for n in 0..50 {
            assert_eq!(stream.next().await.unwrap(), Some(entry(n)));
        }
    }
    daemon.stop.send(()).unwrap();
    daemon.server.await.unwrap();
    for stream in &mut streams {
        assert_eq!(stream.next().await.unwrap(), None);
    }
    assert!(!daemon.path.exists(), "the socket is removed at the stop");
}

#[tokio::test]
async fn a_slow_subscriber_is_dropped_and_counted_and_nobody_waits_for_it() {
    let limits = Limits {
        backlog: 16,
        write: Duration::from_millis(200),
        ..Limits::default()
    };
    let daemon = Daemon::start(limits, any);
    let mut slow = daemon.client().await.subscribe().await.unwrap();
    let mut other = daemon.client().await;
    // Far more than the socket's buffer and the backlog hold.
    for n in 0..20_000 {
        daemon.publisher.publish(&entry(n));
        if n % 8 == 0 {
            tokio::task::yield_now().await;
        }
    }
    other.request(&Request::Version).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), async {
        while daemon.counters.lagged.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    let mut got = 0;
    let ended = loop {
        match slow.next().await {
            Ok(Some(notification)) => {
                assert_eq!(notification, entry(got), "in order while it lasts");
                got += 1;
            }
            end => break end,
        }
    };
    assert!(got < 20_000);
    assert!(
        matches!(
            ended,
            Ok(None)
                | Err(ClientError::Refused {
                    code: ErrorCode::Lagged,
                    ..
                })
        ),
        "{ended:?}"
    );
    assert_eq!(daemon.counters.lagged.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_socket_is_private_and_stale_files_are_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("netwatch.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "what a killed daemon leaves");
    let server = Server::bind(&path, Limits::default()).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);

    let second = Server::bind(&path, Limits::default()).unwrap_err();
    assert!(matches!(second, BindError::InUse { .. }), "{second}");
    assert!(path.exists());
    drop(server);
    assert!(!path.exists());

    std::fs::write(&path, "precious").unwrap();
    let third = Server::bind(&path, Limits::default()).unwrap_err();
    assert!(matches!(third, BindError::NotASocket { .. }), "{third}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");

    let nowhere = Server::bind(directory.path().join("no/such"), Limits::default()).unwrap_err();
    assert!(
        nowhere.to_string().contains("host.runtime_dir"),
        "{nowhere}"
    );
}

#[tokio::test]
async fn anothers_socket_in_our_place_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("netwatch.sock");
    let server = Server::bind(&path, Limits::default()).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
}

#[tokio::test]
async fn without_a_daemon_the_client_names_path_and_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("netwatch.sock");
    let error = Client::connect(&path).await.unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    assert!(error.contains("netwatch run"), "{error}");
}

#[tokio::test]
async fn a_stranger_on_the_socket_is_no_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("netwatch.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        for answer in [&b"HTTP/1.1 400 Bad Request\n"[..], b""] {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer)
                .await
                .unwrap();
        }
    });
    let mut client = Client::connect(&path).await.unwrap();
    let error = client.request(&Request::Version).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Unexpected { ref text, .. } if text.starts_with("HTTP")),
        "{error:?}"
    );
    let mut client = Client::connect(&path).await.unwrap();
    let error = client.request(&Request::Version).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Closed { .. } | ClientError::Io { .. }),
        "{error:?}"
    );
}
