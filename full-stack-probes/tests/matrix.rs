//! What must hold on every kernel: each hook of each ladder attaches, and delay and loss show as
//! the kernel itself counts them.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use events::{ConnectionId, RetransmitClass, TcpEventKind};
use full_stack_probes::{Collector, RungKind, Settings, Watch as Watched, ladders};

use support::{PEER, Watch, cookie, in_namespace, tcp_info};

/// Whether a probe may be off for that reason. `NETWATCH_TEST_GUEST` is set where the machine is an
/// emulated one with a distribution's kernel, which has all kinds of hooks; it is `lockdown` where
/// that forbids some.
fn may_be_off(reason: &str) -> bool {
    let guest = std::env::var("NETWATCH_TEST_GUEST");
    reason.contains("this kernel has no")
        || match guest.as_deref() {
            Ok("lockdown") => reason.contains("kernel lockdown in confidentiality mode forbids it"),
            Ok(_) => false,
            Err(_) => true,
        }
}

/// Sets the queueing discipline of our end. `false`: this kernel has no netem.
fn netem(arguments: &str) -> bool {
    let output = Command::new("tc")
        .args(["qdisc", "replace", "dev", "here", "root", "netem"])
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    if output.status.success() {
        return true;
    }
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("qdisc kind is unknown") && may_be_off(&error),
        "netem {arguments}: {error}"
    );
    println!("SKIPPED: this kernel has no netem");
    false
}

fn echo(mut stream: TcpStream) {
    thread::spawn(move || {
        let mut buffer = [0u8; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    });
}

fn exchange(stream: &mut TcpStream, times: usize) {
    let mut buffer = [0u8; 10];
    for _ in 0..times {
        stream.write_all(b"0123456789").unwrap();
        stream.read_exact(&mut buffer).unwrap();
    }
}

/// `tcpi_unacked` and `tcpi_total_retrans`.
fn unacked_and_retransmitted(stream: &TcpStream) -> (u32, u32) {
    let mut info = [0u8; 104];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: pointer and length describe `info`.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    let number = |at: usize| u32::from_ne_bytes(info[at..at + 4].try_into().unwrap());
    (number(24), number(100))
}

/// The newest sample once nothing is on its way, with `tcp_info` of the same moment.
fn settled(
    watch: &mut Watch,
    stream: &TcpStream,
    pusher: &mut TcpStream,
    id: ConnectionId,
) -> ([Duration; 3], [Duration; 3], Duration) {
    // Past the pause between two samples; then a segment that acknowledges nothing new shows the
    // programs the numbers as the last acknowledgement left them.
    thread::sleep(Duration::from_millis(1_300));
    let expected = tcp_info(stream);
    let before = clock::now();
    pusher.write_all(b"x").unwrap();
    let event = watch.until("sample", |event| {
        event.connection == id
            && matches!(event.kind, TcpEventKind::Sample(sample)
                if sample.received_at.is_some_and(|at| at >= before))
    });
    assert_eq!(tcp_info(stream), expected, "nothing was acknowledged since");
    let TcpEventKind::Sample(sample) = event.kind else {
        unreachable!()
    };
    let mut rest = stream.try_clone().unwrap();
    rest.read_exact(&mut [0]).unwrap();
    (
        [sample.srtt, sample.mdev, sample.min_rtt],
        expected,
        sample.last_rtt.unwrap_or_default(),
    )
}

fn compare(found: [Duration; 3], expected: [Duration; 3]) {
    for (name, (found, expected)) in ["srtt", "mdev", "min_rtt"]
        .iter()
        .zip(found.iter().zip(&expected))
    {
        let verdict = if found == expected { "equal" } else { "WRONG" };
        println!("FIELD: {name} {found:?}, tcp_info {expected:?}: {verdict}");
    }
    assert_eq!(found, expected);
}

#[test]
fn delay_shows_as_it_is() {
    const FIRST: Duration = Duration::from_millis(40);
    const SECOND: Duration = Duration::from_millis(150);
    in_namespace(|peer| {
        if !netem("delay 40ms") {
            return;
        }
        for address in PEER {
            assert!(netem("delay 40ms"));
            let (server, accepted) = peer.listen(address);
            let mut watch = Watch::start();
            let mut stream = TcpStream::connect(server).unwrap();
            stream.set_nodelay(true).unwrap();
            let id = cookie(&stream);
            let remote = accepted.recv().unwrap();
            let mut pusher = remote.try_clone().unwrap();
            echo(remote);

            exchange(&mut stream, 20);
            let (found, expected, last) = settled(&mut watch, &stream, &mut pusher, id);
            compare(found, expected);
            let [srtt, _, min] = found;
            for (name, time) in [("srtt", srtt), ("minimum", min), ("last", last)] {
                assert!(
                    time >= FIRST && time < FIRST * 5 / 2,
                    "{name} is {time:?} with a delay of {FIRST:?}"
                );
            }

            assert!(netem("delay 150ms"));
            exchange(&mut stream, 20);
            let (found, expected, last) = settled(&mut watch, &stream, &mut pusher, id);
            compare(found, expected);
            let [later, _, still] = found;
            assert!(last >= SECOND && last < SECOND * 5 / 2, "{last:?}");
            assert!(later > srtt * 2, "{later:?} after {srtt:?}");
            assert_eq!(still, min, "the minimum is of the last minutes");
            watch.handle.stop();
        }
    });
}

#[test]
fn loss_shows_as_often_as_the_kernel_counts_it() {
    in_namespace(|peer| {
        if !netem("delay 1ms") {
            return;
        }
        let (server, accepted) = peer.listen(PEER[0]);
        let mut watch = Watch::start();
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_nodelay(true).unwrap();
        let id = cookie(&stream);
        let mut remote = accepted.recv().unwrap();
        assert!(netem("delay 1ms loss 20%"));
        const MESSAGES: usize = 300;
        let reader = thread::spawn(move || {
            let mut all = vec![0u8; MESSAGES * 10];
            remote.read_exact(&mut all).unwrap();
            remote
        });
        for _ in 0..MESSAGES {
            stream.write_all(b"0123456789").unwrap();
            thread::sleep(Duration::from_millis(2));
        }
        assert!(netem("delay 1ms"));
        let _remote = reader.join().unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        let total = loop {
            let (unacked, total) = unacked_and_retransmitted(&stream);
            if unacked == 0 {
                break total as usize;
            }
            assert!(
                Instant::now() < end,
                "{unacked} segments are not acknowledged"
            );
            thread::sleep(Duration::from_millis(20));
        };
        let classes = |watch: &mut Watch| {
            watch.gather();
            let mut classes: BTreeMap<String, usize> = BTreeMap::new();
            for event in &watch.events {
                if let TcpEventKind::Retransmitted { class } = event.kind
                    && event.connection == id
                {
                    let class = match class {
                        RetransmitClass::Timeout { .. } => "Timeout".to_owned(),
                        other => format!("{other:?}"),
                    };
                    *classes.entry(class).or_default() += 1;
                }
            }
            classes
        };
        let end = Instant::now() + Duration::from_secs(5);
        while classes(&mut watch).values().sum::<usize>() < total && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        let classes = classes(&mut watch);
        let told: usize = classes.values().sum();
        let verdict = if told == total { "equal" } else { "WRONG" };
        println!("FIELD: retransmissions {told} {classes:?}, tcp_info {total}: {verdict}");
        assert_eq!(told, total, "{classes:?}");
        assert!(
            total > 5,
            "a fifth of {MESSAGES} messages was lost, {total} sent again"
        );
        assert!(
            classes
                .keys()
                .any(|class| class == "Fast" || class == "Timeout"),
            "{classes:?}"
        );
    });
}

#[test]
fn each_hook_of_each_ladder_attaches() {
    in_namespace(|_| {
        let kinds: BTreeSet<RungKind> =
            ladders().into_iter().flat_map(|(_, kinds)| kinds).collect();
        let mut attached = 0;
        for kind in kinds {
            // All probes that have this kind at once: loading takes its time in an emulated machine.
            let force: BTreeMap<_, _> = ladders()
                .into_iter()
                .filter(|(_, kinds)| kinds.contains(&kind))
                .map(|(probe, _)| (probe, kind))
                .collect();
            let collector = Collector::start(Settings {
                watch: Watched {
                    processes: vec!["nobody-has-this".to_owned()],
                    cgroups: vec!["/nowhere".into()],
                    consensus_ports: vec![26656],
                    ..Watched::default()
                },
                force: force.clone(),
                ..Settings::default()
            })
            .unwrap();
            let reports = collector.report();
            for probe in force.keys() {
                let report = reports
                    .iter()
                    .find(|report| report.name == *probe)
                    .unwrap_or_else(|| panic!("no report of {probe}"));
                match (&report.hook, report.rung) {
                    (Some(hook), Some(rung)) => {
                        assert_eq!(rung, kind, "{probe} is on {hook}");
                        println!("{probe} {kind:?}: {hook}");
                        attached += 1;
                    }
                    _ => {
                        assert!(
                            may_be_off(&report.reason),
                            "{probe} {kind:?}: {}",
                            report.reason
                        );
                        println!("SKIPPED: {probe} {kind:?}: {}", report.reason);
                    }
                }
            }
        }
        assert!(attached > 0);
    });
}
