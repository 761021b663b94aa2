//! The programs on this machine's own kernel, with real connections.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use events::{Owner, RetransmitClass, TcpEventKind, TcpState, Timestamp};
use full_stack_probes::{Series, Settings};
use socket2::{Domain, SockAddr, Socket, Type};

use support::{HERE, PEER, Watch, connect, cookie, held, in_namespace, ip, older_than, tcp_info};

fn echo_slowly(mut stream: TcpStream) {
    thread::spawn(move || {
        let mut buffer = [0u8; 64];
        let mut count = 0u64;
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            count += 1;
            // Replies carry the acknowledgement: this is the connection's round-trip time.
            thread::sleep(Duration::from_millis(1 + count % 3));
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    });
}

#[test]
fn a_connection_is_followed_from_connect_to_close_with_the_kernels_own_numbers() {
    in_namespace(|peer| {
        for address in PEER {
            let (server, accepted) = peer.listen(address);
            let mut watch = Watch::start();
            let (mut stream, id) = connect(server);
            let remote = accepted.recv().unwrap();
            let mut pusher = remote.try_clone().unwrap();
            echo_slowly(remote);

            let opened = watch.until("connect", |event| {
                event.connection == id
                    && matches!(
                        event.kind,
                        TcpEventKind::StateChanged {
                            from: TcpState::Closed,
                            to: TcpState::SynSent,
                            ..
                        }
                    )
            });
            let TcpEventKind::StateChanged { owner, error, .. } = opened.kind else {
                unreachable!()
            };
            let Owner { pid, comm } = owner.unwrap();
            assert_eq!(pid, std::process::id());
            assert!(!comm.is_empty());
            assert_eq!(error, None);
            assert_eq!(opened.flow.remote, server);

            let established = watch.until("handshake", |event| {
                event.connection == id
                    && matches!(
                        event.kind,
                        TcpEventKind::StateChanged {
                            from: TcpState::SynSent,
                            to: TcpState::Established,
                            ..
                        }
                    )
            });
            assert_eq!(established.flow.local, stream.local_addr().unwrap());
            assert_eq!(established.flow.remote, server);

            let mut buffer = [0u8; 64];
            for _ in 0..100 {
                stream.write_all(b"0123456789").unwrap();
                stream.read_exact(&mut buffer[..10]).unwrap();
            }
            // Past the pause between two samples; then a segment that acknowledges nothing new
            // shows the programs the numbers as the last acknowledgement left them.
            thread::sleep(Duration::from_millis(1_300));
            let expected = tcp_info(&stream);
            let before = clock::now();
            pusher.write_all(b"x").unwrap();
            let sample = watch.until("sample", |event| {
                event.connection == id
                    && matches!(event.kind, TcpEventKind::Sample(sample)
                        if sample.received_at.is_some_and(|at| at >= before))
            });
            assert_eq!(
                tcp_info(&stream),
                expected,
                "nothing was acknowledged since"
            );
            let TcpEventKind::Sample(sample) = sample.kind else {
                unreachable!()
            };
            assert_eq!([sample.srtt, sample.mdev, sample.min_rtt], expected);
            let mut distinct = expected.to_vec();
            distinct.dedup();
            assert_eq!(distinct.len(), 3, "{expected:?} proves little");
            assert!(expected.iter().all(|time| *time > Duration::ZERO));
            assert!(sample.last_rtt.unwrap() >= sample.min_rtt);
            assert_eq!(sample.outstanding, None);
            assert!(!sample.zero_window);
            let peer = server.ip();
            let rtt = watch
                .handle
                .percentiles()
                .into_iter()
                .find_map(|(series, found)| (series == Series::Rtt { peer }).then_some(found))
                .unwrap();
            // The echo waits 1 to 3 ms; the bucket's middle is within 1/16.
            assert!(rtt.p50 > expected[2] * 15 / 16, "{rtt:?}");
            assert!(rtt.p50 <= rtt.p99 && rtt.p99 <= rtt.max, "{rtt:?}");
            assert!((2..=110).contains(&rtt.count), "{rtt:?}");
            assert!(sample.acked_at.unwrap() < before);
            assert!(sample.sent_at.unwrap() < sample.acked_at.unwrap());

            let local = stream.local_addr().unwrap();
            // A close with unread data would be a reset.
            stream.read_exact(&mut [0]).unwrap();
            drop(stream);
            let closed = watch.until("close", |event| {
                event.connection == id
                    && matches!(
                        event.kind,
                        TcpEventKind::StateChanged {
                            to: TcpState::FinWait1,
                            ..
                        }
                    )
            });
            assert_eq!(closed.flow.local, local);
            drop(pusher);
            let ended = watch.until("end", |event| {
                event.connection == id
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
            let counters = watch.handle.counters();
            assert!(counters.losses().iter().all(|(_, lost)| *lost == 0));
            assert!(
                counters.sends >= 100 && counters.segments >= 100,
                "{counters:?}"
            );
            assert!(watch.handle.memory_bytes() < 12 << 20);
        }
    });
}

#[test]
fn connections_from_before_the_start_are_found_and_then_followed() {
    in_namespace(|peer| {
        let mut streams = Vec::new();
        for address in PEER {
            let (server, accepted) = peer.listen(address);
            let stream = TcpStream::connect(server).unwrap();
            echo_slowly(accepted.recv().unwrap());
            streams.push(stream);
        }
        // A peer that came in over IPv4 to a socket of both families.
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mapped = peer.run(move || TcpStream::connect((HERE[0], port)).unwrap());
        let (accepted, from) = listener.accept().unwrap();
        assert!(from.is_ipv6());

        let mut watch = Watch::start();
        for stream in &mut streams {
            let id = cookie(stream);
            let found = watch.until("find", |event| {
                event.connection == id && matches!(event.kind, TcpEventKind::Found { .. })
            });
            assert_eq!(found.flow.local, stream.local_addr().unwrap());
            assert_eq!(found.flow.remote, stream.peer_addr().unwrap());
            let TcpEventKind::Found { state, owner } = found.kind else {
                unreachable!()
            };
            assert_eq!(state, TcpState::Established);
            assert_eq!(owner.unwrap().pid, std::process::id());

            let before = clock::now();
            stream.write_all(b"hello").unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
            watch.until("sample", |event| {
                event.connection == id
                    && matches!(event.kind, TcpEventKind::Sample(sample)
                        if sample.acked_at.is_some_and(|at| at >= before))
            });
        }
        let id = cookie(&accepted);
        let found = watch.until("find", |event| event.connection == id);
        assert_eq!(found.flow.remote, mapped.local_addr().unwrap());
        assert!(found.flow.local.is_ipv4());
        let finds = watch
            .events
            .iter()
            .filter(|event| matches!(event.kind, TcpEventKind::Found { .. }))
            .count();
        assert_eq!(finds, 3, "each once");
    });
}

#[test]
fn connect_failures_tell_their_causes() {
    in_namespace(|peer| {
        let mut watch = Watch::start();
        let closed_port = peer.run(|| {
            let listener = TcpListener::bind((PEER[0], 0)).unwrap();
            listener.local_addr().unwrap()
        });
        assert!(TcpStream::connect(closed_port).is_err());
        watch.until("refusal", |event| {
            event.flow.remote == closed_port
                && matches!(
                    event.kind,
                    TcpEventKind::StateChanged {
                        from: TcpState::SynSent,
                        to: TcpState::Closed,
                        error: Some(libc::ECONNREFUSED),
                        ..
                    }
                )
        });

        // Nobody answers for this address: resolution fails, the stack says EHOSTUNREACH.
        let nobody: SocketAddr = "10.77.0.99:1".parse().unwrap();
        let unreachable = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        unreachable.set_nonblocking(true).unwrap();
        assert!(unreachable.connect(&SockAddr::from(nobody)).is_err());
        let unreachable_id = cookie(&unreachable);

        peer.vanish();
        let start = |port: u16| {
            let address: SocketAddr = format!("{}:{port}", PEER[0]).parse().unwrap();
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket
                .set_tcp_user_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            socket.set_nonblocking(true).unwrap();
            assert!(socket.connect(&SockAddr::from(address)).is_err());
            socket
        };
        let cancelled = start(101);
        let cancelled_id = cookie(&cancelled);
        let timed_out = start(102);
        let timed_out_id = cookie(&timed_out);
        thread::sleep(Duration::from_millis(50));
        drop(cancelled);
        watch.until("cancellation", |event| {
            event.connection == cancelled_id
                && matches!(
                    event.kind,
                    TcpEventKind::StateChanged {
                        from: TcpState::SynSent,
                        to: TcpState::Closed,
                        error: None,
                        ..
                    }
                )
        });
        watch.until("timeout", |event| {
            event.connection == timed_out_id
                && matches!(
                    event.kind,
                    TcpEventKind::StateChanged {
                        from: TcpState::SynSent,
                        to: TcpState::Closed,
                        error: Some(libc::ETIMEDOUT),
                        ..
                    }
                )
        });
        watch.until("unreachability", |event| {
            event.connection == unreachable_id
                && matches!(
                    event.kind,
                    TcpEventKind::StateChanged {
                        from: TcpState::SynSent,
                        to: TcpState::Closed,
                        error: Some(libc::EHOSTUNREACH),
                        ..
                    }
                )
        });
        watch.gather();
        let syns = watch
            .events
            .iter()
            .filter(|event| {
                event.connection == timed_out_id
                    && event.kind
                        == TcpEventKind::Retransmitted {
                            class: RetransmitClass::Syn,
                        }
            })
            .count();
        assert!((1..=2).contains(&syns), "{syns}");
    });
}

#[test]
fn the_oldest_lost_byte_keeps_its_age_and_the_kernels_retransmissions_their_class() {
    in_namespace(|peer| {
        for address in PEER {
            let (server, accepted) = peer.listen(address);
            let mut watch = Watch::start();
            let mut stream = TcpStream::connect(server).unwrap();
            stream.set_nodelay(true).unwrap();
            let id = cookie(&stream);
            echo_slowly(accepted.recv().unwrap());
            for _ in 0..10 {
                stream.write_all(b"0123456789").unwrap();
                stream.read_exact(&mut [0; 10]).unwrap();
            }

            peer.vanish();
            let first = clock::now();
            stream.write_all(b"lost").unwrap();
            let first_done = clock::now();
            // More writes than the history has entries.
            for _ in 0..40 {
                thread::sleep(Duration::from_millis(20));
                stream.write_all(b"lost as well").unwrap();
            }
            let last = clock::now();
            watch.until("timeout", |event| {
                event.connection == id
                    && matches!(
                        event.kind,
                        TcpEventKind::Retransmitted {
                            class: RetransmitClass::Timeout { count: 2.. }
                        }
                    )
            });

            let overdue: Vec<_> = watch
                .samples(id)
                .into_iter()
                .filter(|(at, sample)| *at > first_done && sample.outstanding.is_some())
                .collect();
            assert!(overdue.len() > 10, "{}", overdue.len());
            let microsecond = Duration::from_micros(1);
            for (_, sample) in &overdue {
                let since = sample.outstanding.unwrap().since;
                assert!(
                    since + microsecond >= first && since <= first_done,
                    "{since} is not between {first} and {first_done}"
                );
            }
            assert!(
                overdue[0].0 < last,
                "the first sample does not wait for the writes to end"
            );
            let newest: Timestamp = overdue.last().unwrap().1.sent_at.unwrap();
            assert!(newest > first_done);

            let classes: Vec<_> = watch
                .events
                .iter()
                .filter(|event| event.connection == id)
                .filter_map(|event| match event.kind {
                    TcpEventKind::Retransmitted { class } => Some(class),
                    _ => None,
                })
                .collect();
            let position = |wanted: RetransmitClass| {
                classes
                    .iter()
                    .position(|class| *class == wanted)
                    .unwrap_or_else(|| panic!("no {wanted:?} among {classes:?}"))
            };
            let probe = position(RetransmitClass::TailLossProbe);
            let one = position(RetransmitClass::Timeout { count: 1 });
            assert!(probe < one, "{classes:?}");
            // The kernel counts a timeout also where the retransmission then fails for a copy that
            // is still on its way through the host: a count may be left out, none comes twice.
            let counts: Vec<_> = classes
                .iter()
                .filter_map(|class| match class {
                    RetransmitClass::Timeout { count } => Some(*count),
                    _ => None,
                })
                .collect();
            assert!(counts.len() > 1 && counts.is_sorted(), "{classes:?}");

            peer.appear();
            let healed = clock::now();
            watch.until("recovery", |event| {
                event.connection == id
                    && event.at > healed
                    && matches!(event.kind, TcpEventKind::Sample(sample)
                        if sample.outstanding.is_none()
                            && sample.acked_at.is_some_and(|at| at > healed))
            });
        }
    });
}

#[test]
fn answers_to_peers_that_are_lost_on_the_way_back_are_told() {
    in_namespace(|peer| {
        let listener = TcpListener::bind((HERE[0], 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut watch = Watch::start();
        // Our frames go to a card that nobody has; the peer's come in.
        ip("neigh replace 10.77.0.2 lladdr 02:00:00:00:00:99 dev here");
        let _connecting = peer.run(move || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            assert!(socket.connect(&SockAddr::from(address)).is_err());
            socket
        });
        let told = watch.until("SYN-ACK", |event| {
            event.kind
                == TcpEventKind::Retransmitted {
                    class: RetransmitClass::SynAck,
                }
        });
        assert_eq!(told.flow.local, address);
        assert_eq!(told.flow.remote.ip().to_string(), PEER[0]);
    });
}

#[test]
fn resets_are_told_by_direction() {
    in_namespace(|peer| {
        let (server, accepted) = peer.listen(PEER[0]);
        let mut watch = Watch::start();
        for ours in [true, false] {
            let stream = Socket::from(TcpStream::connect(server).unwrap());
            let id = cookie(&stream);
            let remote = Socket::from(accepted.recv().unwrap());
            let reset = if ours { &stream } else { &remote };
            reset.set_linger(Some(Duration::ZERO)).unwrap();
            if ours {
                drop(stream);
            } else {
                drop(remote);
            }
            let wanted = if ours {
                TcpEventKind::ResetSent
            } else {
                TcpEventKind::ResetReceived
            };
            watch.until("reset", |event| {
                event.connection == id && event.kind == wanted
            });
        }
    });
}

#[test]
fn only_what_is_asked_for_is_told() {
    in_namespace(|peer| {
        let (wanted, _accepted) = peer.listen(PEER[0]);
        let (other, _accepted) = peer.listen(PEER[0]);
        let (ignored, _accepted) = peer.listen(PEER[1]);
        let local = TcpListener::bind(("127.0.0.1", wanted.port())).unwrap();
        let mut watch = Watch::with(Settings {
            ports: vec![wanted.port(), ignored.port()],
            ignore: vec!["fd77::/64".parse().unwrap()],
            ..Settings::default()
        });
        let _one = TcpStream::connect(local.local_addr().unwrap()).unwrap();
        let _two = TcpStream::connect(other).unwrap();
        let _three = TcpStream::connect(ignored).unwrap();
        let (_last, id) = connect(wanted);
        watch.until("the connection", |event| event.connection == id);
        thread::sleep(Duration::from_millis(100));
        watch.gather();
        assert!(watch.events.iter().all(|event| event.connection == id));
    });
}

#[test]
fn reconciliation_finds_nothing_twice_and_misses_nothing() {
    in_namespace(|peer| {
        let (server, accepted) = peer.listen(PEER[0]);
        let mut watch = Watch::with(Settings {
            reconcile: Duration::from_millis(200),
            ..Settings::default()
        });
        let (_stream, id) = connect(server);
        let _remote = accepted.recv().unwrap();
        watch.until("the connection", |event| event.connection == id);
        // Several reconciliations later it is still there, and never found a second time.
        thread::sleep(Duration::from_millis(700));
        watch.gather();
        // On a busy machine its once-a-second sample may come in between.
        let found: Vec<_> = watch
            .events
            .iter()
            .filter(|event| matches!(event.kind, TcpEventKind::Found { .. } | TcpEventKind::Gone))
            .collect();
        assert!(found.is_empty(), "{found:?}");
        let counters = watch.handle.counters();
        assert_eq!((counters.found, counters.gone), (0, 0));
        assert_eq!(counters.reconcile_failed, 0);
    });
}

#[test]
fn nothing_is_left_behind() {
    in_namespace(|_| {
        let before = held();
        let watch = Watch::start();
        let (programs, links) = held();
        let programs: Vec<_> = programs.difference(&before.0).copied().collect();
        let links: Vec<_> = links.difference(&before.1).copied().collect();
        let reports = watch.handle.report();
        assert_eq!(reports.len(), full_stack_probes::ladders().len());
        let attached = reports.iter().filter(|report| report.hook.is_some());
        assert!(links.len() >= attached.count(), "{links:?} for {reports:?}");
        // The heartbeat is a perf event, which is a link since 5.15.
        let perf_events = usize::from(older_than(5, 15));
        assert_eq!(programs.len(), links.len() + perf_events);
        watch.handle.stop();
        assert_eq!(held(), before);

        let is_gone = || {
            let running: Vec<_> = aya::programs::loaded_programs()
                .flatten()
                .map(|program| program.id())
                .collect();
            let attached: Vec<_> = aya::programs::loaded_links()
                .flatten()
                .map(|link| link.id())
                .collect();
            programs.iter().all(|id| !running.contains(id))
                && links.iter().all(|id| !attached.contains(id))
        };
        // The kernel frees programs after a grace period.
        for _ in 0..100 {
            if is_gone() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("programs {programs:?} or links {links:?} are still there");
    });
}

#[test]
fn heartbeats_measure_the_way_to_user_space() {
    in_namespace(|_| {
        let watch = Watch::start();
        let report = watch
            .handle
            .report()
            .iter()
            .find(|report| report.name == "heartbeat")
            .unwrap();
        // Kernels before 6.6 do not tell the event's name.
        let hook = report.hook.as_deref().unwrap();
        assert!(hook.starts_with("perf_event/cpu-clock"), "{hook}");
        let end = std::time::Instant::now() + Duration::from_secs(8);
        while watch.handle.counters().heartbeats < 15 {
            assert!(
                std::time::Instant::now() < end,
                "{:?}",
                watch.handle.counters()
            );
            thread::sleep(Duration::from_millis(20));
        }
        let delay = watch
            .handle
            .percentiles()
            .into_iter()
            .find_map(|(series, found)| (series == Series::CollectorDelay).then_some(found))
            .unwrap();
        println!("{delay:?}");
        assert!(delay.count >= 15);
        // No record is handled before it is made, and a busy machine is not that busy.
        assert!(delay.p50 > Duration::from_nanos(100), "{delay:?}");
        assert!(delay.p50 < Duration::from_secs(1), "{delay:?}");
        assert!(delay.p50 <= delay.p90 && delay.p90 <= delay.p99 && delay.p99 <= delay.max);
        let counters = watch.handle.counters();
        assert_eq!(counters.malformed, 0);
        assert_eq!(counters.urgent_lost, 0);
        assert!(counters.urgent_records >= counters.heartbeats);
    });
}
