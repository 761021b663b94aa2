//! The executor and the watchdog against a real kernel, in network namespaces (needs root).

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{
    PROTOCOL, SOURCE, SOURCE6, address, child_arguments, child_runtime_dir, eventually,
    in_namespace, ip, ours, plan, settings, sysctl, via_b,
};
use events::{FibChange, OperatorCommand, Outcome, PeerKey, PlanId, PlanMode, RevertReason};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use routes::{
    InstallError, LeaseFile, OpenError, Report, Routes, take_watchdog_log, watchdog_running,
};
use tokio::sync::mpsc::Receiver;

const PEER: &str = "203.0.113.7";
const PEER6: &str = "2001:db8:5::7";

async fn leaves_by(routes: &Routes, peer: &str) -> String {
    let source = if peer.contains(':') { SOURCE6 } else { SOURCE };
    routes
        .lookup(address(peer), address(source))
        .await
        .expect("look-up")
        .expect("a route")
        .interface
}

fn outcomes(reports: &mut Receiver<Report>) -> Vec<Outcome> {
    let mut found = Vec::new();
    while let Ok(report) = reports.try_recv() {
        if let Report::Outcome(outcome) = report {
            found.push(outcome);
        }
    }
    found
}

#[test]
fn a_more_specific_wins_for_the_flows_source_and_goes_on_revert() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (routes, mut reports, _) = Routes::open(settings(dir.path())).await.unwrap();
        assert_eq!(leaves_by(&routes, PEER).await, "wa");
        assert_eq!(leaves_by(&routes, PEER6).await, "wa");

        let wanted = vec![via_b("203.0.113.0/24", 50), via_b("2001:db8:5::/48", 50)];
        routes.install(plan(1, wanted.clone())).await.unwrap();
        // Idempotent.
        routes.install(plan(1, wanted)).await.unwrap();
        assert_eq!(leaves_by(&routes, PEER).await, "wb");
        assert_eq!(leaves_by(&routes, PEER6).await, "wb");
        assert_eq!(leaves_by(&routes, "203.0.114.1").await, "wa");
        assert_eq!(ours(), 2);
        let shown = ip(&format!("route show proto {PROTOCOL}"));
        assert!(shown.contains("src 198.51.100.10"), "{shown}");

        let found = routes
            .lookup(address(PEER), address(SOURCE))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found.prefix, "203.0.113.0/24".parse().unwrap());
        assert_eq!((found.metric, found.table), (50, 254));
        assert!(found.ours);
        assert_eq!(found.egress, Some("b".into()));
        assert_eq!(found.gateway, Some(address("192.0.3.1")));

        routes.revert(PlanId(1), RevertReason::Healed).await;
        routes.revert(PlanId(1), RevertReason::Healed).await;
        assert_eq!(ours(), 0);
        assert_eq!(leaves_by(&routes, PEER).await, "wa");
        assert_eq!(leaves_by(&routes, PEER6).await, "wa");
        assert_eq!(
            outcomes(&mut reports)[..3],
            [
                Outcome::Installed { plan: PlanId(1) },
                Outcome::Installed { plan: PlanId(1) },
                Outcome::Reverted {
                    plan: PlanId(1),
                    reason: RevertReason::Healed
                },
            ]
        );
        routes.close().await;
    });
}

#[test]
fn what_waits_for_the_neighbours_of_the_egress_left_is_given_up() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (routes, _reports, _) = Routes::open(settings(dir.path())).await.unwrap();
        for peer in [PEER, PEER6] {
            let any = if address(peer).is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = std::net::UdpSocket::bind(any).unwrap();
            socket.send_to(b"waits", (address(peer), 9)).unwrap();
        }
        let unresolved = |interface: &str| {
            let shown = ip(&format!("neigh show dev {interface} nud incomplete"));
            shown.lines().count()
        };
        assert_eq!(unresolved("wa"), 2, "both gateways are being asked for");
        ip("neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev wa");

        let wanted = vec![via_b("203.0.113.0/24", 50), via_b("2001:db8:5::/48", 50)];
        routes.install(plan(1, wanted)).await.unwrap();
        assert_eq!(unresolved("wa"), 0);
        let kept = ip("neigh show dev wa nud permanent");
        assert!(kept.contains("192.0.2.77"), "{kept}");
        routes.close().await;
    });
}

#[test]
fn the_same_prefix_wins_at_a_lower_metric_and_never_replaces() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        ip("route add 203.0.113.0/24 via 192.0.2.1 metric 60");
        ip("-6 route add 2001:db8:5::/48 via 2001:db8:a::1");
        let (routes, _reports, _) = Routes::open(settings(dir.path())).await.unwrap();
        let found = routes
            .lookup(address(PEER6), address(SOURCE6))
            .await
            .unwrap()
            .unwrap();
        // IPv6 metric 0 means 1024.
        assert_eq!(found.metric, 1024);
        assert!(!found.ours);

        // Higher: created, not used, so not kept.
        let error = routes
            .install(plan(1, vec![via_b("203.0.113.0/24", 61)]))
            .await
            .unwrap_err();
        assert!(matches!(error, InstallError::DoesNotWin { .. }), "{error}");
        assert_eq!(ours(), 0);
        // Equal: somebody else's stays, and nothing of the plan does.
        let error = routes
            .install(plan(
                2,
                vec![via_b("198.18.0.0/24", 50), via_b("203.0.113.0/24", 60)],
            ))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("203.0.113.0/24"), "{error}");
        assert_eq!(ours(), 0);
        assert_eq!(leaves_by(&routes, PEER).await, "wa");
        // Lower.
        routes
            .install(plan(
                3,
                vec![via_b("203.0.113.0/24", 59), via_b("2001:db8:5::/48", 50)],
            ))
            .await
            .unwrap();
        assert_eq!(leaves_by(&routes, PEER).await, "wb");
        assert_eq!(leaves_by(&routes, PEER6).await, "wb");
        routes.close().await;
        assert_eq!(ours(), 0);
        let left = ip("route show 203.0.113.0/24");
        assert!(left.contains("metric 60"), "{left}");
    });
}

#[test]
fn shadow_plans_defaults_and_empty_plans_are_not_installed() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (routes, _reports, _) = Routes::open(settings(dir.path())).await.unwrap();
        let mut shadow = plan(1, vec![via_b("203.0.113.0/24", 50)]);
        shadow.mode = PlanMode::Shadow;
        assert!(matches!(
            routes.install(shadow).await,
            Err(InstallError::Shadow(_))
        ));
        for (id, specs) in [
            (2, vec![]),
            (3, vec![via_b("0.0.0.0/0", 50)]),
            (4, vec![via_b("128.0.0.0/1", 50)]),
            (5, vec![via_b("::/0", 50)]),
        ] {
            assert!(matches!(
                routes.install(plan(id, specs)).await,
                Err(InstallError::Unsafe(_))
            ));
        }
        assert_eq!(ours(), 0);
        routes.close().await;
    });
}

#[test]
fn strict_rp_filter_where_replies_come_in_is_refused_with_the_remedy() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (routes, _reports, _) = Routes::open(settings(dir.path())).await.unwrap();
        sysctl("net/ipv4/conf/all/rp_filter", "0");
        sysctl("net/ipv4/conf/wa/rp_filter", "1");
        let error = routes
            .install(plan(1, vec![via_b("203.0.113.0/24", 50)]))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("net.ipv4.conf.wa.rp_filter=2"), "{error}");
        assert_eq!(ours(), 0);
        // IPv6 has none.
        routes
            .install(plan(2, vec![via_b("2001:db8:5::/48", 50)]))
            .await
            .unwrap();
        sysctl("net/ipv4/conf/wa/rp_filter", "2");
        routes
            .install(plan(3, vec![via_b("203.0.113.0/24", 50)]))
            .await
            .unwrap();
        routes.close().await;
    });
}

#[test]
fn leftovers_of_ours_are_swept_and_others_are_not() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        ip("route add 203.0.113.0/24 via 192.0.3.1 metric 7 proto 198");
        ip("route add 203.0.113.0/24 via 192.0.3.1 metric 9 proto 199");
        ip("route add 198.18.0.0/24 via 192.0.3.1 table 1234 proto 198");
        ip("-6 route add 2001:db8:5::/48 via 2001:db8:b::1 proto 198");
        let (routes, _reports, swept) = Routes::open(settings(dir.path())).await.unwrap();
        assert_eq!(swept.routes, 3);
        assert_eq!(ours(), 0);
        assert!(ip("route show 203.0.113.0/24").contains("metric 9"));
        // One daemon per runtime directory.
        assert!(matches!(
            Routes::open(settings(dir.path())).await,
            Err(OpenError::Busy(_))
        ));
        routes.close().await;
    });
}

#[test]
fn watched_flows_are_reported_first_and_at_changes_only() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (routes, mut reports, _) = Routes::open(settings(dir.path())).await.unwrap();
        let flows = vec![
            (PeerKey(address(PEER)), address(SOURCE)),
            (PeerKey(address(PEER6)), address(SOURCE6)),
        ];
        routes.watch(flows).await;
        let (first, second) = (next_fib(&mut reports).await, next_fib(&mut reports).await);
        assert_eq!(interface(&first), "wa");
        assert_eq!(interface(&second), "wa");
        assert_ne!(first.peer, second.peer);
        assert_eq!(first.route.unwrap().egress, Some("a".into()));

        // A route that concerns neither changes nothing to report; one that does is.
        ip("route add 198.18.0.0/24 via 192.0.3.1");
        ip("route add 203.0.113.0/24 via 192.0.3.1");
        let change = next_fib(&mut reports).await;
        assert_eq!(change.peer, PeerKey(address(PEER)));
        assert_eq!(interface(&change), "wb");
        // Routes that vanish with their link are not announced by the kernel.
        ip("link set wa down");
        let change = next_fib(&mut reports).await;
        assert_eq!(change.peer, PeerKey(address(PEER6)));
        assert_eq!(interface(&change), "wb");
        assert!(reports.try_recv().is_err());
        routes.close().await;
    });
}

async fn next_fib(reports: &mut Receiver<Report>) -> FibChange {
    loop {
        let report = tokio::time::timeout(Duration::from_secs(20), reports.recv())
            .await
            .expect("a report in time")
            .expect("a report");
        if let Report::Fib(change) = report {
            return change;
        }
    }
}

fn interface(change: &FibChange) -> &str {
    &change.route.as_ref().expect("a route").interface
}

#[test]
fn a_route_removed_by_another_hand_is_put_back_so_often_and_no_more() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (routes, mut reports, _) = Routes::open(settings(dir.path())).await.unwrap();
        routes
            .install(plan(1, vec![via_b("203.0.113.0/24", 50)]))
            .await
            .unwrap();
        let mut seen = Vec::new();
        for expected in [true, true, false] {
            ip("route del 203.0.113.0/24 metric 50");
            loop {
                let report = tokio::time::timeout(Duration::from_secs(20), reports.recv())
                    .await
                    .expect("a report in time")
                    .expect("a report");
                if let Report::Outcome(Outcome::RouteLost { restored, .. }) = report {
                    seen.push(restored);
                    assert_eq!(ours(), usize::from(expected));
                    break;
                }
            }
        }
        assert_eq!(seen, [true, true, false]);
        routes.close().await;
    });
}

#[test]
fn a_lease_that_is_not_renewed_ends_and_one_that_is_stays() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (routes, mut reports, _) = Routes::open(settings(dir.path())).await.unwrap();
        let mut short = plan(1, vec![via_b("203.0.113.0/24", 50)]);
        short.lease = Duration::from_millis(600);
        let mut kept = plan(2, vec![via_b("203.0.112.0/24", 50)]);
        kept.lease = Duration::from_millis(1_500);
        routes.install(short).await.unwrap();
        routes.install(kept).await.unwrap();
        let mode = std::fs::metadata(LeaseFile::path(dir.path())).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        for _ in 0..10 {
            assert!(routes.renew(PlanId(2)).await);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(!routes.renew(PlanId(1)).await);
        assert_eq!(ours(), 1);
        let owned = routes.owned().await;
        assert_eq!(owned.len(), 1);
        assert_eq!(owned[0].plan, PlanId(2));
        assert!(outcomes(&mut reports).contains(&Outcome::Reverted {
            plan: PlanId(1),
            reason: RevertReason::LeaseExpired
        }));
        routes.close().await;
        eventually("the watchdog ends", || {
            !watchdog_running(dir.path()).unwrap()
        })
        .await;
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("watchdog.log"))
            .collect();
        // Asking whether the watchdog runs leaves its lock file.
        assert!(left.iter().all(|name| name == "watchdog.lock"), "{left:?}");
    });
}

#[test]
fn routes_go_within_the_lease_when_the_daemon_is_killed() {
    dies(Signal::SIGKILL);
}

#[test]
fn routes_go_within_the_lease_when_the_daemon_is_stopped() {
    dies(Signal::SIGSTOP);
}

/// A daemon with routes under a lease gets a signal that it cannot handle.
fn dies(signal: Signal) {
    in_namespace(move || async move {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = Reaped(
            Command::new(std::env::current_exe().unwrap())
                .args(child_arguments("daemon_process", dir.path()))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        eventually("the daemon's routes", || ours() == 2).await;
        // It renews: the routes outlive the first lease.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!(ours(), 2);
        assert!(watchdog_running(dir.path()).unwrap());

        kill(Pid::from_raw(daemon.0.id().cast_signed()), signal).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(ours(), 2, "the lease is not over yet");
        eventually("routes gone", || ours() == 0).await;
        let mut taken = Vec::new();
        eventually("the watchdog's word", || {
            taken.extend(take_watchdog_log(dir.path()).unwrap());
            !taken.is_empty()
        })
        .await;
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].plan, Some(PlanId(7)));
        assert_eq!(taken[0].deleted.len(), 2);
        if signal == Signal::SIGSTOP {
            // The daemon still lives: so does its watchdog.
            assert!(watchdog_running(dir.path()).unwrap());
            daemon.0.kill().unwrap();
        }
        daemon.0.wait().unwrap();
        eventually("the watchdog ends", || {
            !watchdog_running(dir.path()).unwrap()
        })
        .await;
    });
}

/// A child that does not outlive its test.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_malicious_or_broken_lease_file_costs_nobody_else_a_route() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (routes, _reports, _) = Routes::open(settings(dir.path())).await.unwrap();
        routes
            .install(plan(1, vec![via_b("203.0.113.0/24", 50)]))
            .await
            .unwrap();
        ip("route add 198.18.0.0/24 via 192.0.2.1 metric 50");
        // Somebody else's routes, the default among them, under a lease that is over.
        let mut lease = routes.owned().await.remove(0);
        lease.plan = PlanId(99);
        lease.expires_at = events::Timestamp::ZERO;
        lease.routes = vec![
            via_b("198.18.0.0/24", 50),
            via_b("0.0.0.0/0", 100),
            via_b("0.0.0.0/0", 200),
        ];
        LeaseFile::new(vec![lease]).write(dir.path()).unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(ip("route show").contains("198.18.0.0/24"));
        assert_eq!(ip("route show default").lines().count(), 2);
        // Half a file.
        std::fs::write(LeaseFile::path(dir.path()), b"{\"version\":1,\"leas").unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(watchdog_running(dir.path()).unwrap());
        routes.close().await;
        assert_eq!(ours(), 0);
        eventually("the watchdog ends", || {
            !watchdog_running(dir.path()).unwrap()
        })
        .await;
    });
}

#[test]
fn a_watchdog_that_is_terminated_takes_leased_routes_along() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        // As a service manager would run it: a child of ours here.
        let mut settings = settings(dir.path());
        let command = settings.watchdog.take().unwrap();
        let mut watchdog = Reaped(
            Command::new(command.exe)
                .args(command.args)
                .arg("stay")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        eventually("the watchdog's lock", || {
            watchdog_running(dir.path()).unwrap()
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(
            watchdog_running(dir.path()).unwrap(),
            "it stays without a daemon"
        );
        settings.restore_limit = 0;
        let (routes, _reports, _) = Routes::open(settings).await.unwrap();
        routes
            .install(plan(1, vec![via_b("203.0.113.0/24", 50)]))
            .await
            .unwrap();
        kill(
            Pid::from_raw(watchdog.0.id().cast_signed()),
            Signal::SIGTERM,
        )
        .unwrap();
        watchdog.0.wait().unwrap();
        assert_eq!(ours(), 0);
        // Without it the lease is not renewed either.
        assert!(!routes.renew(PlanId(1)).await);
        routes.close().await;
    });
}

#[test]
fn the_kill_switch_is_a_file() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("failover.off");
        let (sender, mut commands) = tokio::sync::mpsc::channel(4);
        tokio::spawn(routes::watch_kill_switch(path.clone(), sender));
        for engaged in [true, false, true] {
            if engaged {
                std::fs::write(&path, b"").unwrap();
            } else {
                std::fs::remove_file(&path).unwrap();
            }
            assert_eq!(routes::kill_switch_engaged(&path), engaged);
            let command = tokio::time::timeout(Duration::from_secs(20), commands.recv())
                .await
                .expect("told in time");
            assert_eq!(command, Some(OperatorCommand::KillSwitch { engaged }));
        }
        assert!(!routes::kill_switch_engaged(&dir.path().join("absent")));
    });
}

#[test]
fn the_operators_program_permits_or_not() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
            path
        };
        let environment = "test \"$NETWATCH_INCIDENT $NETWATCH_ROUTES\" = \"test 1\"";
        for (program, refusal) in [
            (script("yes", environment), None),
            (script("no", "exit 3"), Some("exit status: 3")),
            (script("hangs", "sleep 60"), Some("no answer within")),
            (dir.path().join("absent"), Some("cannot be run")),
        ] {
            let mut settings = settings(dir.path());
            settings.permit = Some(program);
            let (routes, _reports, _) = Routes::open(settings).await.unwrap();
            let result = routes
                .install(plan(1, vec![via_b("203.0.113.0/24", 50)]))
                .await;
            match refusal {
                None => assert!(result.is_ok(), "{result:?}"),
                Some(text) => {
                    let error = result.unwrap_err().to_string();
                    assert!(error.contains(text), "{error}");
                }
            }
            assert_eq!(ours(), usize::from(refusal.is_none()));
            routes.close().await;
        }
    });
}

#[test]
fn nothing_is_installed_without_a_watchdog() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path());
        settings.watchdog = None;
        let (routes, _reports, _) = Routes::open(settings).await.unwrap();
        assert!(matches!(
            routes
                .install(plan(1, vec![via_b("203.0.113.0/24", 50)]))
                .await,
            Err(InstallError::Watchdog(_))
        ));
        assert_eq!(ours(), 0);
        routes.close().await;
    });
}

/// Not a test: the watchdog of the tests above, when they start this binary with its arguments.
#[test]
#[ignore = "started by other tests"]
fn watchdog_process() {
    if let Some(dir) = child_runtime_dir() {
        let stay = std::env::args().any(|argument| argument == "stay");
        let _ = routes::watchdog_main(&dir, PROTOCOL, stay);
    }
}

/// Not a test: a daemon with two routes under a lease of two seconds, for a minute.
#[test]
#[ignore = "started by other tests"]
fn daemon_process() {
    if let Some(dir) = child_runtime_dir() {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(daemon(&dir));
    }
}

async fn daemon(dir: &Path) {
    let (routes, _reports, _) = Routes::open(settings(dir)).await.unwrap();
    let mut plan = plan(
        7,
        vec![via_b("203.0.113.0/24", 50), via_b("2001:db8:5::/48", 50)],
    );
    plan.lease = Duration::from_secs(2);
    routes.install(plan).await.unwrap();
    for _ in 0..120 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        routes.renew(PlanId(7)).await;
    }
}
