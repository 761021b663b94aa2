//! `netwatch run` with no configuration: it sees everything, and the host does not notice it.

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use common::{Daemon, Done, Host, eventually, program_exists, unprivileged};
use serde_json::Value;

/// A connection from the host to the router's address, and its other end.
fn connection(host: &Host, to: &str) -> (TcpStream, TcpStream) {
    let to: IpAddr = to.parse().expect("address");
    let listener = host
        .router
        .inside(|| TcpListener::bind((to, 7000)))
        .expect("listener");
    let near = host
        .net
        .inside(|| TcpStream::connect((to, 7000)))
        .expect("connection");
    let (far, _) = listener.accept().expect("accepted");
    (near, far)
}

fn exchange((near, far): &mut (TcpStream, TcpStream)) {
    let mut byte = [0];
    near.write_all(b"x").expect("sent");
    far.read_exact(&mut byte).expect("received");
    far.write_all(b"y").expect("sent");
    near.read_exact(&mut byte).expect("received");
}

fn peer(status: &Value, address: &str) -> Option<Value> {
    let peers = status["peers"].as_array()?;
    peers.iter().find(|peer| peer["peer"] == address).cloned()
}

/// All routes of the host, whatever their table.
fn routes(host: &Host) -> String {
    host.net.ip("-4 route show table all") + &host.net.ip("-6 route show table all")
}

/// Packets from the host that arrived at the router since the counters were made, by what they are:
/// resolution of neighbours and addresses, and all the rest.
fn packets(host: &Host) -> (u64, u64) {
    let text = host.router.run("nft", &["-j", "list", "counters"]);
    let listed: Value = serde_json::from_str(&text).expect("JSON");
    let count = |name: &str| {
        let counters = listed["nftables"].as_array().expect("a list").iter();
        counters
            .filter_map(|entry| entry.get("counter"))
            .find(|counter| counter["name"] == name)
            .and_then(|counter| counter["packets"].as_u64())
            .expect("counter")
    };
    (count("resolution"), count("rest"))
}

fn count_packets(host: &Host) {
    host.router.run(
        "nft",
        &["table netdev watch {
            counter resolution {
            }
            counter rest {
            }
            chain in0 {
                type filter hook ingress device \"r0\" priority 0;
                ether type arp counter name \"resolution\" accept
                meta l4proto ipv6-icmp counter name \"resolution\" accept
                counter name \"rest\"
            }
            chain in1 {
                type filter hook ingress device \"r1\" priority 0;
                ether type arp counter name \"resolution\" accept
                meta l4proto ipv6-icmp counter name \"resolution\" accept
                counter name \"rest\"
            }
        }"],
    );
}

#[test]
fn it_sees_the_peers_and_leaves_no_trace() {
    if unprivileged() {
        return;
    }
    let host = Host::new();
    let mut before = connection(&host, "203.0.113.1");
    exchange(&mut before);
    let _ipv6 = connection(&host, "2001:db8:2::1");
    let routes_before = routes(&host);
    count_packets(&host);

    let socket = host.run_dir().join("netwatch/netwatch.sock");
    let mut daemon = host.daemon(&["run"], &socket);
    let programs = daemon.programs();
    assert!(programs.len() >= 5, "{programs:?}\n{}", daemon.log());
    assert!(programs.iter().all(|id| program_exists(*id)));

    // A connection from before the start is known, and is not called new traffic.
    let status = || host.netwatch(&["status", "--json"]).json();
    let known = eventually("the connection from before", || {
        peer(&status(), "203.0.113.1")
    });
    assert_eq!(
        (&known["state"], &known["connections"]),
        (&"up".into(), &1.into())
    );
    assert_eq!(known["source"], "192.0.2.2", "{known:#}");
    let known = peer(&status(), "2001:db8:2::1").expect("the peer by IPv6");
    assert_eq!(known["source"], "2001:db8:2::2", "{known:#}");
    assert_eq!(packets(&host).1, 0, "it sends nothing of its own");

    // So is a later one, its traffic and its end.
    let mut after = connection(&host, "203.0.113.65");
    let sent_by_connecting = packets(&host).1;
    assert!(sent_by_connecting >= 2, "the counters count");
    exchange(&mut after);
    let known = eventually("the new connection with its round-trip time", || {
        peer(&status(), "203.0.113.65").filter(|peer| peer["srtt_ms"].is_number())
    });
    assert_eq!(
        (&known["state"], &known["connections"]),
        (&"up".into(), &1.into())
    );
    assert_eq!(known["owner"]["pid"], std::process::id(), "{known:#}");

    // Idle connections: not one more packet than the test itself makes, while clients ask.
    let idle = packets(&host).1;
    for _ in 0..5 {
        let all = status();
        assert_eq!(all["mode"], "shadow");
        assert_eq!(all["incidents"], serde_json::json!([]));
        assert_eq!(all["plans"], serde_json::json!([]));
        assert!(
            all["probes"]
                .as_array()
                .is_some_and(|probes| probes.len() >= 5)
        );
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let text = host.netwatch(&["status"]).ok();
    assert!(
        text.contains("203.0.113.1 ") && text.contains("in shadow mode"),
        "{text}"
    );
    assert_eq!(packets(&host).1, idle, "it sends nothing of its own");
    let stray = host
        .net
        .inside(|| UdpSocket::bind("192.0.2.2:0"))
        .expect("socket");
    stray.send_to(b"!", "203.0.113.1:9").expect("sent");
    eventually("the stray packet is counted", || {
        (packets(&host).1 == idle + 1).then_some(())
    });

    drop(after);
    eventually("its end", || {
        let status = status();
        peer(&status, "203.0.113.65")
            .is_none_or(|peer| peer["connections"] == 0)
            .then_some(())
    });

    assert_eq!(daemon.terminate(), 0, "{}", daemon.log());
    assert!(daemon.log().contains("stopped"), "{}", daemon.log());
    eventually("no kernel program is left", || {
        programs.iter().all(|id| !program_exists(*id)).then_some(())
    });
    let left = |directory: PathBuf| -> Vec<_> {
        let entries = std::fs::read_dir(directory).expect("directory");
        entries.flatten().map(|entry| entry.path()).collect()
    };
    assert_eq!(left(host.run_dir()), Vec::<PathBuf>::new());
    assert_eq!(left(host.lib_dir()), Vec::<PathBuf>::new());
    assert_eq!(routes(&host), routes_before);
    // The connection did not notice.
    exchange(&mut before);
}

#[test]
fn a_directory_that_was_there_stays() {
    if unprivileged() {
        return;
    }
    let host = Host::new();
    let runtime = host.run_dir().join("netwatch");
    std::fs::create_dir(&runtime).expect("directory");
    std::fs::write(runtime.join("mine"), "x").expect("file");
    let mut daemon = host.daemon(&["run"], &runtime.join("netwatch.sock"));
    assert_eq!(daemon.terminate(), 0);
    let left: Vec<_> = std::fs::read_dir(&runtime)
        .expect("directory")
        .flatten()
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(runtime.join("mine").exists());
}

#[test]
fn interrupt_stops_it_as_well_and_a_killed_one_is_no_obstacle() {
    if unprivileged() {
        return;
    }
    let host = Host::new();
    let socket = host.run_dir().join("netwatch/netwatch.sock");
    drop(host.daemon(&["run"], &socket));
    assert!(socket.exists(), "killed, it could not clean up");
    host.netwatch(&["status"]).fails(&["is it running?"]);
    std::fs::remove_file(&socket).expect("removed, so that waiting for it means something");
    std::os::unix::net::UnixListener::bind(&socket).expect("a socket that nobody answers on");
    let log = host.directory.path();
    let mut daemon = Daemon::spawn(host.command(&["run"]), log);
    eventually("it answers", || {
        (host.netwatch(&["status"]).code == Some(0)).then_some(())
    });
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.pid()).expect("pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("kill");
    assert_eq!(eventually("it ends", || daemon.ended()), 0);
    assert!(!socket.exists());
}

#[test]
fn without_privileges_the_error_names_the_remedy() {
    if unprivileged() {
        return;
    }
    let host = Host::new();
    let powerless = |arguments: &[&str]| {
        let mut command = host.command(arguments);
        let drop_all = || {
            for capability in 0..64 {
                // SAFETY: no pointers are involved. EINVAL ends the list of the kernel's capabilities.
                if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
                    break;
                }
            }
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(drop_all) };
        Done::of(command.output())
    };
    powerless(&["run"]).fails(&[
        "error: ",
        "kernel programs cannot be loaded",
        "CAP_BPF",
        "root",
    ]);
    assert_eq!(
        std::fs::read_dir(host.run_dir())
            .expect("directory")
            .count(),
        0,
        "what it made is gone"
    );
    let doctor = powerless(&["doctor"]);
    assert_eq!(doctor.code, Some(1), "{doctor:#?}");
    assert!(
        doctor.stdout.contains("FAIL") && doctor.stdout.contains("remedy: "),
        "{doctor:#?}"
    );

    // A directory of another user, without the right to write everywhere.
    std::os::unix::fs::chown(host.run_dir(), Some(65534), Some(65534)).expect("chown");
    powerless(&["run"]).fails(&["host.runtime_dir", "/run/netwatch", "run as root"]);
}

#[test]
fn a_second_daemon_is_told_of_the_first() {
    if unprivileged() {
        return;
    }
    let host = Host::new();
    let socket = host.run_dir().join("netwatch/netwatch.sock");
    let mut first = host.daemon(&["run"], &socket);
    host.netwatch(&["run"])
        .fails(&["netwatch.sock", "another netwatch", "runtime_dir"]);
    let status = host.netwatch(&["status", "--json"]).json();
    assert_eq!(status["pid"], first.pid(), "the first goes on");
    assert_eq!(first.terminate(), 0);
}

/// A start that fails half-way takes back what it made.
#[test]
fn a_failed_start_leaves_nothing() {
    if unprivileged() {
        return;
    }
    let host = Host::new();
    let taken: SocketAddr = "127.0.0.1:9464".parse().expect("address");
    let _listener = host
        .net
        .inside(|| TcpListener::bind(taken))
        .expect("listener");
    let config = host.write(
        "metrics.toml",
        &format!("[metrics]\nlisten = \"{taken}\"\n"),
    );
    host.netwatch(&["run", "--config", &config])
        .fails(&["metrics.listen", "127.0.0.1:9464"]);
    let left = std::fs::read_dir(host.run_dir())
        .expect("directory")
        .count();
    assert_eq!(left, 0);
}
