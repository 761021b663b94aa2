//! `netwatch trace`: the probes' own records, with no daemon.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Done, Host, unprivileged};
use serde_json::Value;

/// Runs a trace to its end while the host is kept busy.
fn trace(host: &Host, arguments: &[&str], busy: impl Fn() + Send) -> Done {
    let child = host
        .command(&[&["trace", "--seconds", "60"], arguments].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("netwatch starts");
    let over = AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        let over = &over;
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                busy();
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        let output = child.wait_with_output();
        over.store(true, Ordering::Relaxed);
        Done::of(output)
    });
    assert_eq!(done.code, Some(0), "{done:#?}");
    done
}

/// All records, and what the last line says.
fn records(done: &Done) -> (Vec<Value>, Value) {
    let mut lines: Vec<Value> = done
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let end = lines.pop().expect("a last line");
    assert_eq!(end["record"], "end", "{end}");
    assert_eq!(end["printed"], lines.len(), "{end}");
    assert!(end["lost"].is_object(), "{end}");
    (lines, end)
}

fn talk(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("listener");
    let mut near = TcpStream::connect(("127.0.0.1", port)).expect("connection");
    let (mut far, _) = listener.accept().expect("accepted");
    near.write_all(b"0123456789").expect("sent");
    far.read_exact(&mut [0; 10]).expect("received");
}

#[test]
fn connections_and_their_messages_are_printed_as_they_come() {
    if unprivileged() {
        return;
    }
    let host = Host::new();
    let net = host.net.handle();
    let busy = || net.inside(|| talk(7101));
    let common = ["--loopback", "--port", "7101", "--json", "--count"];
    let done = trace(&host, &[&["tcp"], &common[..], &["12"]].concat(), busy);
    let (lines, _) = records(&done);
    assert_eq!(lines.len(), 12);
    for line in &lines {
        assert_eq!(line["record"], "tcp", "{line}");
        let ends = [&line["flow"]["local"], &line["flow"]["remote"]];
        let ours = |end: &&Value| end.as_str().is_some_and(|end| end.ends_with(":7101"));
        assert!(ends.iter().any(ours), "{line}");
        assert!(line["time"].as_str().is_some_and(|time| time.contains('T')));
    }
    assert!(
        lines
            .iter()
            .any(|line| line.to_string().contains("established")),
        "{lines:#?}"
    );
    assert!(
        done.stderr
            .contains("tcp_state: tp_btf/inet_sock_set_state")
    );

    let done = trace(&host, &[&["messages"], &common[..], &["4"]].concat(), busy);
    let (lines, _) = records(&done);
    assert_eq!(lines.len(), 4);
    for line in &lines {
        assert_eq!(line["record"], "message", "{line}");
        assert_eq!(line["pid"], std::process::id(), "{line}");
        assert_eq!(line["result"]["Ok"], 10, "{line}");
    }
    for way in ["send", "receive"] {
        assert!(
            lines.iter().any(|line| line["direction"] == way),
            "{lines:#?}"
        );
    }

    let text = trace(
        &host,
        &["--loopback", "--port", "7101", "--count", "3"],
        busy,
    );
    let lines: Vec<&str> = text.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{text:#?}");
    assert!(
        lines[0].contains(" tcp ") && lines[0].contains(":7101"),
        "{text:#?}"
    );
    assert_eq!(lines[3], "3 records; lost: nothing");
}

/// A process of a name of its own that never sleeps, on one CPU with another.
struct Busy(Child);

impl Busy {
    fn new(shell: &std::path::Path) -> Self {
        let child = Command::new("taskset")
            .args(["-c", "0"])
            .arg(shell)
            .args(["-c", "while :; do :; done"])
            .spawn()
            .expect("taskset");
        Self(child)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn waits_for_a_cpu_are_printed_with_who_had_it() {
    if unprivileged() {
        return;
    }
    let host = Host::new();
    let name = format!("nw{}", std::process::id());
    let shell = host.directory.path().join(&name);
    std::os::unix::fs::symlink("/bin/sh", &shell).expect("symlink");
    let _pair = [Busy::new(&shell), Busy::new(&shell)];
    let arguments = ["sched", "--process", &name, "--json", "--count", "2"];
    let (lines, _) = records(&trace(&host, &arguments, || {}));
    for line in lines {
        assert_eq!(line["record"], "sched", "{line}");
        assert_eq!(line["comm"], name, "{line}");
        assert!(line["by_comm"].is_string(), "{line}");
    }
    // Nothing that is asked for happens: it ends in time, and says so.
    let done = host.netwatch(&["trace", "udp", "--process", &name, "--seconds", "1"]);
    assert_eq!(done.ok(), "0 records; lost: nothing\n");
}
