//! The TCP probes on every rung of their ladders: what is forced is what is attached, and every
//! event and field is as the kernel itself has it.

mod actor;
mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use events::{RetransmitClass, TcpEvent, TcpEventKind, TcpSample, TcpState, Timestamp};
use full_stack_probes::{Collector, RungKind, Settings, Watch as Watched, ladders};
use socket2::{Domain, SockAddr, Socket, Type};

use support::{HERE, PEER, Peer, Watch, cookie, in_namespace, ip, option, tcp_info};

use actor::Actor;

/// Also on an emulated processor that others use too.
const PATIENCE: Duration = Duration::from_secs(30);

/// Set where the machine is an emulated one with a distribution's kernel, which has all kinds of
/// hooks, and netem.
fn has_everything() -> bool {
    std::env::var_os("NETWATCH_TEST_GUEST").is_some()
}

fn is_ours(name: &str) -> bool {
    name.starts_with("tcp_")
        && name != "tcp_message"
        && ladders()
            .iter()
            .any(|(probe, kinds)| *probe == name && kinds.len() > 1)
}

/// Which probes this kernel has on rungs of a kind. Empty: none of them.
fn probes_on(kind: RungKind) -> BTreeMap<&'static str, RungKind> {
    let force: BTreeMap<_, _> = ladders()
        .into_iter()
        .filter(|(name, _)| is_ours(name))
        .map(|(name, _)| (name, kind))
        .collect();
    let collector = Collector::start(Settings {
        force: force.clone(),
        ..Settings::default()
    });
    let mut attached = BTreeMap::new();
    match &collector {
        Ok(collector) => {
            for report in collector.report() {
                if !force.contains_key(report.name) {
                    continue;
                }
                match (&report.hook, report.rung) {
                    (Some(hook), Some(rung)) => {
                        assert_eq!(rung, kind, "{report:?}");
                        assert_kind(hook, kind);
                        println!("{}: {hook}", report.name);
                        attached.insert(report.name, kind);
                    }
                    _ => {
                        let why = report.reason.split(';').next().unwrap_or_default();
                        assert!(
                            report.reason.contains("this kernel has no") || !has_everything(),
                            "{report:?}"
                        );
                        println!("SKIPPED: {} {kind:?}: {why}", report.name);
                    }
                }
            }
        }
        Err(error) => {
            assert!(!has_everything(), "{error}");
            println!("SKIPPED: {kind:?}: {error}");
        }
    }
    attached
}

/// The kernel's own words name hooks of that kind.
fn assert_kind(hook: &str, kind: RungKind) {
    let prefixes: &[&str] = match kind {
        RungKind::TpBtf => &["tp_btf/"],
        RungKind::Function => &["fentry/", "fexit/"],
        _ => &["kprobe/"],
    };
    for part in hook.split(" + ") {
        assert!(prefixes.iter().any(|one| part.starts_with(one)), "{hook}");
    }
}

/// Runs a test on each kind of rung that this kernel has.
fn on(kind: RungKind, test: impl Fn(&Peer, &mut Watch) + Send + 'static) {
    in_namespace(move |peer| {
        let force = probes_on(kind);
        if force.is_empty() {
            return;
        }
        let mut watch = Watch::with(Settings {
            force: force.clone(),
            reconcile: Duration::from_secs(2),
            ..Settings::default()
        });
        for report in watch.handle.report() {
            if let Some(kind) = force.get(report.name) {
                assert_eq!(report.rung, Some(*kind), "{report:?}");
            } else if is_ours(report.name) && report.name != "tcp_error" {
                // Another rung takes over where the kernel has none of this kind.
                assert!(report.hook.is_some(), "{report:?}");
            }
        }
        test(peer, &mut watch);
        watch.gather();
        let counters = watch.handle.counters();
        assert!(
            counters.losses().iter().all(|(_, lost)| *lost == 0),
            "{counters:?}"
        );
    });
}

fn until(watch: &mut Watch, what: &str, wanted: impl Fn(&TcpEvent) -> bool) -> TcpEvent {
    watch.until_within(what, PATIENCE, wanted)
}

fn changes(event: &TcpEvent, from: TcpState, to: TcpState) -> Option<Option<i32>> {
    match event.kind {
        TcpEventKind::StateChanged {
            from: before,
            to: after,
            error,
            ..
        } if (before, after) == (from, to) => Some(error),
        _ => None,
    }
}

fn sample_of(event: &TcpEvent) -> Option<TcpSample> {
    match event.kind {
        TcpEventKind::Sample(sample) => Some(sample),
        _ => None,
    }
}

fn class_of(event: &TcpEvent) -> Option<RetransmitClass> {
    match event.kind {
        TcpEventKind::Retransmitted { class } => Some(class),
        _ => None,
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
    assert!(!has_everything(), "netem {arguments}: {error}");
    false
}

fn echo_slowly(mut stream: TcpStream) {
    thread::spawn(move || {
        let mut buffer = [0u8; 64];
        let mut count = 0u64;
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            count += 1;
            thread::sleep(Duration::from_millis(1 + count % 3));
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    });
}

fn exchange(stream: &mut TcpStream, times: usize) {
    for _ in 0..times {
        stream.write_all(b"0123456789").unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
    }
}

/// From connect() to the end, with the kernel's own numbers.
fn lifecycle(peer: &Peer, watch: &mut Watch) {
    for address in PEER {
        let is_delayed = netem("delay 20ms");
        if !is_delayed {
            println!("SKIPPED: delay: this kernel has no netem");
        }
        let (server, accepted) = peer.listen(address);
        let began = Instant::now();
        let mut stream = TcpStream::connect(server).unwrap();
        let connecting = began.elapsed();
        stream.set_nodelay(true).unwrap();
        let local = stream.local_addr().unwrap();
        let remote = accepted.recv().unwrap();
        let mut pusher = remote.try_clone().unwrap();
        echo_slowly(remote);

        let opened = until(watch, "connect", |event| {
            event.flow.remote == server
                && changes(event, TcpState::Closed, TcpState::SynSent) == Some(None)
        });
        let TcpEventKind::StateChanged { owner, .. } = opened.kind else {
            unreachable!()
        };
        assert_eq!(owner.unwrap().pid, std::process::id());
        let established = until(watch, "ESTABLISHED", |event| {
            event.flow.remote == server
                && changes(event, TcpState::SynSent, TcpState::Established) == Some(None)
        });
        assert_eq!(established.flow.local, local);
        let handshake = until(watch, "handshake", |event| {
            event.flow.remote == server && matches!(event.kind, TcpEventKind::Handshake { .. })
        });
        let TcpEventKind::Handshake { took } = handshake.kind else {
            unreachable!()
        };
        assert_eq!(handshake.flow.local, local);
        assert_eq!(took, established.at.since(opened.at));
        assert!(took > Duration::ZERO && took <= connecting, "{took:?}");
        assert!(!is_delayed || took >= Duration::from_millis(20), "{took:?}");

        exchange(&mut stream, 30);
        // Past the pause between two samples; then a segment that acknowledges nothing new shows
        // the programs the numbers as the last acknowledgement left them.
        thread::sleep(Duration::from_millis(1_500));
        let expected = tcp_info(&stream);
        let before = clock::now();
        pusher.write_all(b"x").unwrap();
        let sampled = until(watch, "sample", |event| {
            event.flow.remote == server
                && sample_of(event)
                    .is_some_and(|sample| sample.received_at.is_some_and(|at| at >= before))
        });
        assert_eq!(tcp_info(&stream), expected, "nothing was acknowledged");
        assert_eq!((sampled.flow.local, sampled.flow.remote), (local, server));
        let sample = sample_of(&sampled).unwrap();
        let found = [sample.srtt, sample.mdev, sample.min_rtt];
        for (name, (found, expected)) in ["srtt", "mdev", "min_rtt"]
            .iter()
            .zip(found.iter().zip(&expected))
        {
            let verdict = if found == expected { "equal" } else { "WRONG" };
            println!("FIELD: {name} {found:?}, tcp_info {expected:?}: {verdict}");
        }
        assert_eq!(found, expected);
        assert!(expected.iter().all(|time| *time > Duration::ZERO));
        assert!(
            expected[0] != expected[1] && expected[1] != expected[2] && expected[0] != expected[2],
            "{expected:?} proves little"
        );
        assert!(sample.last_rtt.unwrap() >= sample.min_rtt);
        assert_eq!(sample.outstanding, None);
        assert!(sample.sent_at.unwrap() < sample.acked_at.unwrap());
        assert!(sample.acked_at.unwrap() < before);

        stream.read_exact(&mut [0]).unwrap();
        drop(stream);
        until(watch, "close", |event| {
            event.flow.remote == server
                && changes(event, TcpState::Established, TcpState::FinWait1) == Some(None)
        });
        drop(pusher);
        let ended = until(watch, "end", |event| {
            event.flow.remote == server
                && matches!(
                    event.kind,
                    TcpEventKind::StateChanged {
                        to: TcpState::Closed,
                        error: None,
                        ..
                    }
                )
        });
        assert_eq!(ended.flow.local, local, "the port is known to the end");
        if is_delayed {
            assert!(netem("delay 0ms"));
        }
    }
    let counters = watch.handle.counters();
    assert!(
        counters.sends >= 40 && counters.segments >= 40,
        "{counters:?}"
    );
}

/// TLP and timeouts of lost data, whose oldest byte keeps its age; SYN; SYN-ACK; fast.
fn retransmissions(peer: &Peer, watch: &mut Watch) {
    let (server, accepted) = peer.listen(PEER[1]);
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_nodelay(true).unwrap();
    echo_slowly(accepted.recv().unwrap());
    exchange(&mut stream, 20);
    peer.vanish();
    let first = clock::now();
    stream.write_all(b"lost").unwrap();
    let first_done = clock::now();
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(20));
        stream.write_all(b"lost as well").unwrap();
    }
    until(watch, "timeout", |event| {
        event.flow.remote == server
            && matches!(
                class_of(event),
                Some(RetransmitClass::Timeout { count: 2.. })
            )
    });
    let classes: Vec<_> = watch
        .events
        .iter()
        .filter(|event| event.flow.remote == server)
        .filter_map(class_of)
        .collect();
    let position = |wanted| classes.iter().position(|class| *class == wanted);
    let probe = position(RetransmitClass::TailLossProbe);
    // A count is left out where a copy of the segment is still on its way through the host: the
    // kernel counts the timeout and sends nothing.
    let timeout = |class: &RetransmitClass| matches!(class, RetransmitClass::Timeout { .. });
    let one = classes.iter().position(timeout);
    let two = classes.iter().rposition(timeout);
    assert!(
        probe.is_some() && probe < one && one <= two && two == Some(classes.len() - 1),
        "{classes:?}: a tail loss probe, then timeouts"
    );
    let overdue: Vec<_> = watch
        .events
        .iter()
        .filter(|event| event.flow.remote == server && event.at > first_done)
        .filter_map(sample_of)
        .filter_map(|sample| sample.outstanding)
        .collect();
    assert!(overdue.len() > 5, "{}", overdue.len());
    let microsecond = Duration::from_micros(1);
    for outstanding in overdue {
        let since = outstanding.since;
        assert!(
            since + microsecond >= first && since <= first_done,
            "{since} is not between {first} and {first_done}"
        );
    }

    let silent: SocketAddr = format!("{}:101", PEER[0]).parse().unwrap();
    let opening = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    opening.set_nonblocking(true).unwrap();
    assert!(opening.connect(&SockAddr::from(silent)).is_err());
    until(watch, "SYN", |event| {
        event.flow.remote == silent && class_of(event) == Some(RetransmitClass::Syn)
    });
    drop(opening);
    peer.appear();
    until(watch, "recovery", |event| {
        event.flow.remote == server
            && event.at > first_done
            && sample_of(event).is_some_and(|sample| sample.outstanding.is_none())
    });
    drop(stream);

    // Our frames go to a card that nobody has; the peer's come in.
    let listener = TcpListener::bind((HERE[0], 0)).unwrap();
    let address = listener.local_addr().unwrap();
    ip("neigh replace 10.77.0.2 lladdr 02:00:00:00:00:99 dev here");
    let connecting = peer.run(move || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        assert!(socket.connect(&SockAddr::from(address)).is_err());
        socket
    });
    let told = until(watch, "SYN-ACK", |event| {
        class_of(event) == Some(RetransmitClass::SynAck)
    });
    assert_eq!(told.flow.local, address);
    assert_eq!(told.flow.remote.ip().to_string(), PEER[0]);
    drop(connecting);
    ip("neigh replace 10.77.0.2 lladdr 02:00:00:00:00:02 dev here");

    if !netem("delay 10ms loss 5%") {
        println!("SKIPPED: fast retransmission: this kernel has no netem");
        return;
    }
    let (server, accepted) = peer.listen(PEER[0]);
    let mut stream = TcpStream::connect(server).unwrap();
    let mut remote = accepted.recv().unwrap();
    let reader = thread::spawn(move || {
        let mut buffer = vec![0u8; 1 << 16];
        while remote.read(&mut buffer).is_ok_and(|length| length > 0) {}
    });
    let end = Instant::now() + PATIENCE;
    let block = vec![7u8; 64 << 10];
    loop {
        stream.write_all(&block).unwrap();
        watch.gather();
        let mut fast = watch.events.iter().filter(|event| {
            event.flow.remote == server && class_of(event) == Some(RetransmitClass::Fast)
        });
        if fast.next().is_some() {
            break;
        }
        assert!(Instant::now() < end, "no fast retransmission");
        thread::sleep(Duration::from_millis(5));
    }
    assert!(netem("delay 0ms"));
    drop(stream);
    reader.join().unwrap();
}

/// What becomes of connect().
fn failures(peer: &Peer, watch: &mut Watch) {
    let failed = |watch: &mut Watch, what: &str, remote: SocketAddr, errno: Option<i32>| {
        until(watch, what, |event| {
            event.flow.remote == remote
                && changes(event, TcpState::SynSent, TcpState::Closed) == Some(errno)
        });
    };
    for address in PEER {
        let closed_port = peer.run(move || {
            let address: std::net::IpAddr = address.parse().unwrap();
            TcpListener::bind((address, 0))
                .unwrap()
                .local_addr()
                .unwrap()
        });
        assert!(TcpStream::connect(closed_port).is_err());
        failed(watch, "refusal", closed_port, Some(libc::ECONNREFUSED));
    }
    let start = |address: &str| {
        let address: SocketAddr = address.parse().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .set_tcp_user_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        socket.set_nonblocking(true).unwrap();
        assert!(socket.connect(&SockAddr::from(address)).is_err());
        (socket, address)
    };
    let no_timeout = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    no_timeout.set_nonblocking(true).unwrap();
    let nobody: SocketAddr = "10.77.0.99:1".parse().unwrap();
    assert!(no_timeout.connect(&SockAddr::from(nobody)).is_err());
    peer.vanish();
    let (cancelled, nothing) = start("10.77.0.2:103");
    let (_timed_out, silent) = start("10.77.0.2:104");
    thread::sleep(Duration::from_millis(50));
    drop(cancelled);
    failed(watch, "cancellation", nothing, None);
    failed(watch, "timeout", silent, Some(libc::ETIMEDOUT));
    failed(watch, "unreachability", nobody, Some(libc::EHOSTUNREACH));
    peer.appear();
}

/// Resets by direction and family, and an error of an established connection.
fn resets_and_errors(peer: &Peer, watch: &mut Watch) {
    for address in PEER {
        let (server, accepted) = peer.listen(address);
        for ours in [true, false] {
            let stream = Socket::from(TcpStream::connect(server).unwrap());
            let local = stream.local_addr().unwrap().as_socket().unwrap();
            let remote = Socket::from(accepted.recv().unwrap());
            let reset = if ours { &stream } else { &remote };
            reset.set_linger(Some(Duration::ZERO)).unwrap();
            let wanted = if ours {
                drop(stream);
                TcpEventKind::ResetSent
            } else {
                drop(remote);
                TcpEventKind::ResetReceived
            };
            let told = until(watch, "reset", |event| {
                event.flow.local == local && event.kind == wanted
            });
            assert_eq!(told.flow.remote, server);
        }
        // A segment to a socket that is closed is answered by a reset of the stack's own.
        let stream = Socket::from(TcpStream::connect(server).unwrap());
        let local = stream.local_addr().unwrap().as_socket().unwrap();
        let mut remote = accepted.recv().unwrap();
        outlive_fin(&stream);
        drop(stream);
        // The peer's acknowledgement of the FIN comes alone.
        thread::sleep(Duration::from_millis(100));
        let _ = remote.write_all(b"to nobody");
        until(watch, "answer", |event| {
            event.flow.local == local && event.kind == TcpEventKind::ResetSent
        });
    }

    let (server, accepted) = peer.listen(PEER[0]);
    let stream = Socket::from(TcpStream::connect(server).unwrap());
    let _remote = accepted.recv().unwrap();
    set_recverr(&stream);
    peer.vanish();
    // A router in the peer's place says that it is unreachable.
    peer.run(|| {
        ip("addr add 10.77.0.3/24 dev there");
        ip("route add unreachable 10.77.0.2/32");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    });
    stream.send(b"refused").unwrap();
    let told = until(watch, "error", |event| {
        event.flow.remote == server
            && event.kind
                == TcpEventKind::Error {
                    errno: libc::EHOSTUNREACH,
                }
    });
    assert_eq!(
        told.flow.local,
        stream.local_addr().unwrap().as_socket().unwrap()
    );
    peer.run(|| {
        ip("route del unreachable 10.77.0.2/32");
        ip("addr del 10.77.0.3/24 dev there");
    });
    stream
        .set_tcp_user_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let _ = stream.take_error();
    stream.send(b"lost").unwrap();
    until(watch, "end", |event| {
        event.flow.remote == server
            && matches!(
                changes(event, TcpState::Established, TcpState::Closed),
                Some(Some(libc::ETIMEDOUT | libc::EHOSTUNREACH))
            )
    });
    peer.appear();
}

/// Errors that ICMP tells are the socket's at once.
fn set_recverr(socket: &Socket) {
    set(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1);
}

/// Once its FIN is acknowledged the socket stays as it is for a minute (`TCP_LINGER2`). By default
/// it becomes a time-wait socket then, of whose resets nothing is told: its end was.
fn outlive_fin(socket: &Socket) {
    set(socket, libc::IPPROTO_TCP, libc::TCP_LINGER2, 120);
}

fn set(socket: &Socket, level: i32, name: i32, value: i32) {
    // SAFETY: pointer and length describe `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
}

/// The edges of a closed window, as `tcpi_snd_wnd` has it.
fn zero_window(peer: &Peer, watch: &mut Watch) {
    let (server, accepted) = peer.listen(PEER[1]);
    let mut stream = TcpStream::connect(server).unwrap();
    let mut remote = accepted.recv().unwrap();
    let began = Instant::now();
    stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut sent = 0usize;
    let block = vec![7u8; 32 << 10];
    while let Ok(length) = stream.write(&block) {
        sent += length;
    }
    let closes = until(watch, "closed window", |event| {
        event.flow.remote == server && event.kind == TcpEventKind::Window { closed_for: None }
    });
    let mut info = [0u8; 256];
    let length = option(&stream, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info);
    if length >= 232 {
        assert_eq!(info[228..232], [0; 4], "tcpi_snd_wnd");
    } else {
        println!("SKIPPED: this kernel's tcp_info has no tcpi_snd_wnd");
    }
    thread::sleep(Duration::from_millis(200));
    let reader = thread::spawn(move || {
        let mut all = vec![0u8; sent];
        remote.read_exact(&mut all).unwrap();
        remote
    });
    let opens = until(watch, "open window", |event| {
        event.flow.remote == server
            && matches!(
                event.kind,
                TcpEventKind::Window {
                    closed_for: Some(_)
                }
            )
    });
    let TcpEventKind::Window {
        closed_for: Some(closed_for),
    } = opens.kind
    else {
        unreachable!()
    };
    // Windows may flap; the last edge before the opening one began it.
    assert!(closed_for > Duration::ZERO && closed_for < began.elapsed());
    assert!(closed_for <= opens.at.since(closes.at));
    drop(reader.join().unwrap());
}

/// Data that is sent when one side is closed already, and FINs, are timed too.
fn half_closed(peer: &Peer, watch: &mut Watch) {
    // The peer closes its side, we go on: CLOSE_WAIT.
    let (server, accepted) = peer.listen(PEER[0]);
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut remote = accepted.recv().unwrap();
    stream.write_all(b"hello").unwrap();
    remote.read_exact(&mut [0; 5]).unwrap();
    remote.shutdown(Shutdown::Write).unwrap();
    until(watch, "CLOSE_WAIT", |event| {
        event.flow.remote == server
            && changes(event, TcpState::Established, TcpState::CloseWait) == Some(None)
    });
    let healthy_from = clock::now();
    for _ in 0..20 {
        stream.write_all(b"healthy").unwrap();
        remote.read_exact(&mut [0; 7]).unwrap();
        thread::sleep(Duration::from_millis(30));
    }
    // The last message has long been acknowledged; the programs saw nothing of that.
    thread::sleep(Duration::from_millis(300));
    let healthy_to = clock::now();
    peer.vanish();
    let first = clock::now();
    stream.write_all(b"lost").unwrap();
    let first_done = clock::now();
    let late = until(watch, "late data in CLOSE_WAIT", |event| {
        event.flow.remote == server
            && event.at > first_done + Duration::from_millis(100)
            && sample_of(event).is_some_and(|sample| sample.outstanding.is_some())
    });
    assert_between(&late, first, first_done);
    for event in &watch.events {
        if event.flow.remote == server
            && (healthy_from..healthy_to).contains(&event.at)
            && let Some(outstanding) = sample_of(event).and_then(|sample| sample.outstanding)
        {
            let age = event.at.since(outstanding.since);
            assert!(age < Duration::from_millis(200), "{age:?} in good health");
        }
    }
    peer.appear();
    until(watch, "recovery in CLOSE_WAIT", |event| {
        event.flow.remote == server
            && event.at > late.at
            && sample_of(event).is_some_and(|sample| sample.outstanding.is_none())
    });

    // We close: LAST_ACK, with a FIN that is lost.
    peer.vanish();
    let first = clock::now();
    drop(stream);
    let first_done = clock::now();
    let late = until(watch, "late FIN in LAST_ACK", |event| {
        event.flow.remote == server
            && event.at > first_done
            && sample_of(event).is_some_and(|sample| sample.outstanding.is_some())
    });
    assert_between(&late, first, first_done);
    peer.appear();
    until(watch, "end", |event| {
        event.flow.remote == server
            && changes(event, TcpState::LastAck, TcpState::Closed) == Some(None)
    });
    drop(remote);

    // We close our side with data on its way: FIN_WAIT1.
    let (server, accepted) = peer.listen(PEER[1]);
    let mut stream = TcpStream::connect(server).unwrap();
    let mut remote = accepted.recv().unwrap();
    stream.write_all(b"hello").unwrap();
    remote.read_exact(&mut [0; 5]).unwrap();
    peer.vanish();
    let first = clock::now();
    stream.write_all(b"lost").unwrap();
    let first_done = clock::now();
    stream.shutdown(Shutdown::Write).unwrap();
    let late = until(watch, "late data in FIN_WAIT1", |event| {
        event.flow.remote == server
            && event.at > first_done + Duration::from_millis(50)
            && sample_of(event).is_some_and(|sample| sample.outstanding.is_some())
    });
    assert_between(&late, first, first_done);
    peer.appear();
    until(watch, "FIN_WAIT2", |event| {
        event.flow.remote == server
            && changes(event, TcpState::FinWait1, TcpState::FinWait2) == Some(None)
    });
}

fn assert_between(event: &TcpEvent, first: Timestamp, last: Timestamp) {
    let since = sample_of(event).unwrap().outstanding.unwrap().since;
    assert!(
        since + Duration::from_micros(1) >= first && since <= last,
        "{since} is not between {first} and {last}"
    );
}

/// A socket that has no cookie may be known by its address; from the first segment after it has
/// one it is known by that, and nothing is known twice.
fn one_identity(peer: &Peer, watch: &mut Watch) {
    let (server, accepted) = peer.listen(PEER[0]);
    let mut stream = TcpStream::connect(server).unwrap();
    echo_slowly(accepted.recv().unwrap());
    exchange(&mut stream, 5);
    let id = cookie(&stream);
    exchange(&mut stream, 5);
    thread::sleep(Duration::from_millis(1_200));
    let before = clock::now();
    exchange(&mut stream, 5);
    until(watch, "sample by cookie", |event| {
        event.connection == id
            && sample_of(event)
                .is_some_and(|sample| sample.received_at.is_some_and(|at| at >= before))
    });
    // Two reconciliations later it is the same one.
    thread::sleep(Duration::from_millis(4_500));
    watch.gather();
    let others: Vec<_> = watch
        .events
        .iter()
        .filter(|event| event.flow.remote == server && event.connection != id)
        .collect();
    if let Some(other) = others.first() {
        println!("known by its address at first: {:?}", other.connection);
        assert_eq!(others.last().unwrap().kind, TcpEventKind::Gone);
        let found = watch.events.iter().filter(|event| {
            event.connection == id && matches!(event.kind, TcpEventKind::Found { .. })
        });
        assert_eq!(found.count(), 1);
    }
    assert!(
        !watch
            .events
            .iter()
            .any(|event| event.connection == id && event.kind == TcpEventKind::Gone)
    );
    drop(stream);
    until(watch, "end", |event| {
        event.connection == id
            && matches!(
                event.kind,
                TcpEventKind::StateChanged {
                    to: TcpState::FinWait1,
                    ..
                }
            )
    });
}

macro_rules! on_each_rung {
    ($($name:ident: $kind:expr, [$($scenario:ident),*];)*) => {
        $(#[test]
        fn $name() {
            on($kind, |peer, watch| {
                $(println!("{}", stringify!($scenario));
                $scenario(peer, watch);)*
            });
        })*
    };
}

on_each_rung! {
    tracepoints_follow_a_connection: RungKind::TpBtf, [lifecycle, one_identity, zero_window];
    tracepoints_tell_losses: RungKind::TpBtf, [retransmissions, half_closed];
    tracepoints_tell_failures: RungKind::TpBtf, [failures, resets_and_errors];
    functions_follow_a_connection: RungKind::Function, [lifecycle, one_identity, zero_window];
    functions_tell_losses: RungKind::Function, [retransmissions, half_closed];
    functions_tell_failures: RungKind::Function, [failures, resets_and_errors];
    kprobes_follow_a_connection: RungKind::Kprobe, [lifecycle, one_identity, zero_window];
    kprobes_tell_losses: RungKind::Kprobe, [retransmissions, half_closed];
    kprobes_tell_failures: RungKind::Kprobe, [failures, resets_and_errors];
}

#[test]
fn only_peers_that_are_asked_for_are_watched() {
    in_namespace(|peer| {
        let (wanted, accepted) = peer.listen(PEER[0]);
        let (other, _accepted) = peer.listen(PEER[1]);
        let _existing = TcpStream::connect(other).unwrap();
        let mut watch = Watch::with(Settings {
            peers: vec![
                "10.77.0.2/31".parse().unwrap(),
                "fd99::/16".parse().unwrap(),
            ],
            ..Settings::default()
        });
        let mut two = TcpStream::connect(other).unwrap();
        two.write_all(b"not watched").unwrap();
        drop(two);
        let mut one = TcpStream::connect(wanted).unwrap();
        echo_slowly(accepted.recv().unwrap());
        exchange(&mut one, 3);
        drop(one);
        until(&mut watch, "end", |event| {
            changes(event, TcpState::Established, TcpState::FinWait1) == Some(None)
        });
        watch.gather();
        assert!(watch.events.iter().all(|event| event.flow.remote == wanted));
        assert_eq!(watch.handle.counters().slots_taken, 1);
    });
}

/// What another process does, told line by line.
#[test]
fn actor() {
    actor::play();
}

#[test]
fn only_connections_of_watched_processes_are_watched() {
    in_namespace(|peer| {
        let mut validator = Actor::spawn("validator-x");
        let mut other = Actor::spawn("somebody-else");
        let (before, accepted_before) = peer.listen(PEER[0]);
        let (server, accepted) = peer.listen(PEER[1]);
        let (foreign, foreign_accepted) = peer.listen(PEER[1]);
        validator.tell(&format!("connect {before}"));
        let mut existing = accepted_before.recv().unwrap();
        other.tell(&format!("connect {foreign}"));
        let mut foreign_existing = foreign_accepted.recv().unwrap();
        let here: SocketAddr = validator
            .tell(&format!("listen [{}]:0", HERE[1]))
            .parse()
            .unwrap();
        let foreign_here: SocketAddr = other
            .tell(&format!("listen [{}]:0", HERE[1]))
            .parse()
            .unwrap();

        let mut watch = Watch::with(Settings {
            watch: Watched {
                processes: vec!["validator-x".to_owned()],
                ..Watched::default()
            },
            ..Settings::default()
        });
        // One that existed before: watched although its process does nothing but receive.
        let found = until(&mut watch, "existing connection", |event| {
            event.flow.remote == before && matches!(event.kind, TcpEventKind::Found { .. })
        });
        let TcpEventKind::Found {
            owner: Some(owner), ..
        } = found.kind
        else {
            panic!("no owner")
        };
        assert_eq!(owner.pid, validator.pid());
        let pushed = clock::now();
        existing.write_all(b"0123456789").unwrap();
        foreign_existing.write_all(b"0123456789").unwrap();
        until(&mut watch, "sample of what it receives", |event| {
            event.flow.remote == before
                && sample_of(event)
                    .is_some_and(|sample| sample.received_at.is_some_and(|at| at >= pushed))
        });

        // From connect() on.
        other.tell(&format!("connect {foreign}"));
        other.tell("send 100");
        let _foreign = foreign_accepted.recv().unwrap();
        validator.tell(&format!("connect {server}"));
        let _remote = accepted.recv().unwrap();
        let opened = until(&mut watch, "connect", |event| {
            event.flow.remote == server
                && changes(event, TcpState::Closed, TcpState::SynSent) == Some(None)
        });
        validator.tell("send 100");
        until(&mut watch, "sample of what it sends", |event| {
            event.connection == opened.connection
                && sample_of(event).is_some_and(|sample| sample.sent_at.is_some())
        });

        // What comes in, from its first segment.
        let _in = peer.run(move || TcpStream::connect(here).unwrap());
        let _foreign_in = peer.run(move || TcpStream::connect(foreign_here).unwrap());
        until(&mut watch, "incoming connection", |event| {
            event.flow.local == here
                && matches!(
                    event.kind,
                    TcpEventKind::StateChanged {
                        to: TcpState::Established,
                        ..
                    }
                )
        });
        // A port that it begins to listen on.
        let later: SocketAddr = validator
            .tell(&format!("listen {}:0", HERE[0]))
            .parse()
            .unwrap();
        let _in_later = peer.run(move || TcpStream::connect(later).unwrap());
        until(&mut watch, "incoming connection on a new port", |event| {
            event.flow.local == later
                && matches!(
                    event.kind,
                    TcpEventKind::StateChanged {
                        to: TcpState::Established,
                        ..
                    }
                )
        });
        watch.gather();
        let stray: Vec<_> = watch
            .events
            .iter()
            .filter(|event| event.flow.remote == foreign || event.flow.local == foreign_here)
            .collect();
        assert!(stray.is_empty(), "{stray:?}");
        assert_eq!(watch.handle.counters().slots_taken, 4);
    });
}
