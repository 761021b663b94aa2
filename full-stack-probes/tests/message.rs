//! Messages, call by call, on every rung that this kernel has.
//!
//! Sockets are asked for their cookies before they are used: kprobes, and all programs before Linux
//! 5.12, cannot make one.

mod recording;
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use events::{ConnectionId, Direction, Message};
use full_stack_probes::{Collector, KernelRecord, RungKind, Series, Settings, Watch as Watched};

use recording::Recording;
use support::{PEER, cookie, in_namespace};

const PROBE: &str = "tcp_message";

struct Recorder {
    recording: Recording,
    messages: Vec<Message>,
}

impl Recorder {
    /// With this rung, or `None` where this kernel has not its hooks.
    fn start(rung: RungKind, watch: Watched) -> Option<Self> {
        let (recording, hooks) = Recording::start(PROBE, rung, watch)?;
        for told in hooks {
            let wanted: &[&str] = match rung {
                RungKind::TpBtf => &["tp_btf/sock_send_length", "tp_btf/sock_recv_length"],
                RungKind::Function => &[
                    "fentry/tcp_sendmsg",
                    "fexit/tcp_sendmsg",
                    "fentry/tcp_recvmsg",
                    "fexit/tcp_recvmsg",
                ],
                _ => &[
                    "kprobe/tcp_sendmsg",
                    "kprobe/tcp_recvmsg",
                    "kprobe/tcp_cleanup_rbuf",
                ],
            };
            assert!(wanted.contains(&told.as_str()), "{told}");
        }
        Some(Self {
            recording,
            messages: Vec::new(),
        })
    }

    fn gather(&mut self) {
        while let Ok(batch) = self.recording.records.try_recv() {
            assert!(batch.len() <= 1_000);
            assert!(batch.is_sorted_by_key(KernelRecord::at));
            for record in batch {
                match record {
                    KernelRecord::Message(message) => self.messages.push(message),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// Waits until there are as many messages, then a while longer for any too many.
    fn until(&mut self, count: usize) -> &[Message] {
        let end = Instant::now() + Duration::from_secs(10);
        while self.messages.len() < count && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
            self.gather();
        }
        thread::sleep(Duration::from_millis(250));
        self.gather();
        self.recording.assert_lossless();
        &self.messages
    }

    fn of(&self, id: ConnectionId, direction: Direction) -> Vec<Result<u32, i32>> {
        self.messages
            .iter()
            .filter(|message| message.connection == id && message.direction == direction)
            .map(|message| message.result)
            .collect()
    }
}

fn on_ports(ports: &[u16]) -> Watched {
    Watched {
        consensus_ports: ports.to_vec(),
        ..Watched::default()
    }
}

const RUNGS: [RungKind; 3] = [RungKind::Function, RungKind::Kprobe, RungKind::TpBtf];

/// What the calls on one connection returned, in their order.
#[derive(Default)]
struct Calls {
    sent: Vec<Result<u32, i32>>,
    received: Vec<Result<u32, i32>>,
}

impl Calls {
    fn send(&mut self, mut stream: &TcpStream, bytes: usize) {
        let result = stream.write(&vec![7; bytes]);
        self.sent.push(told(result));
    }

    fn receive(&mut self, mut stream: &TcpStream, room: usize) -> u32 {
        let result = stream.read(&mut vec![0; room]);
        let count = *result.as_ref().unwrap_or(&0);
        self.received.push(told(result));
        count as u32
    }
}

fn told(result: std::io::Result<usize>) -> Result<u32, i32> {
    result
        .map(|count| u32::try_from(count).unwrap())
        .map_err(|error| error.raw_os_error().unwrap())
}

/// Receives with flags.
fn recv(stream: &TcpStream, room: usize, flags: i32) -> std::io::Result<usize> {
    let mut buffer = vec![0u8; room];
    // SAFETY: pointer and length describe `buffer`.
    let count = unsafe { libc::recv(stream.as_raw_fd(), buffer.as_mut_ptr().cast(), room, flags) };
    usize::try_from(count).map_err(|_| std::io::Error::last_os_error())
}

fn echo(mut stream: TcpStream) {
    thread::spawn(move || {
        let mut buffer = [0u8; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    });
}

#[test]
fn every_call_is_told_once_with_what_it_returned() {
    for rung in RUNGS {
        in_namespace(move |peer| {
            let (quiet, quiet_accepted) = peer.listen(PEER[0]);
            let servers: Vec<_> = PEER.iter().map(|address| peer.listen(address)).collect();
            let ports: Vec<u16> = servers.iter().map(|(server, _)| server.port()).collect();
            let Some(mut recorder) = Recorder::start(rung, on_ports(&ports)) else {
                return;
            };
            let undeclared = TcpStream::connect(quiet).unwrap();
            echo(quiet_accepted.recv().unwrap());
            let mut threads = Vec::new();
            for (index, (server, accepted)) in servers.iter().enumerate() {
                for worker in 0..3usize {
                    let stream = TcpStream::connect(server).unwrap();
                    cookie(&stream);
                    echo(accepted.recv().unwrap());
                    let name = format!("peer{index}worker{worker}");
                    let worker = thread::Builder::new().name(name).spawn(move || {
                        let mut calls = Calls::default();
                        for round in 1..=50usize {
                            let bytes = 100 * worker + round;
                            calls.send(&stream, bytes);
                            // Partial reads: never more than 40 bytes at once.
                            let mut left = bytes as u32;
                            while left > 0 {
                                left -= calls.receive(&stream, 40);
                            }
                        }
                        (stream, calls, nix::unistd::gettid())
                    });
                    threads.push((worker.unwrap(), *server));
                }
            }
            let mut outside = Calls::default();
            for _ in 0..20 {
                outside.send(&undeclared, 9);
                outside.receive(&undeclared, 9);
            }
            let done: Vec<_> = threads
                .into_iter()
                .map(|(worker, server)| (worker.join().unwrap(), server))
                .collect();
            let total: usize = done
                .iter()
                .map(|((_, calls, _), _)| calls.sent.len() + calls.received.len())
                .sum();
            let messages = recorder.until(total).to_vec();
            assert_eq!(messages.len(), total);
            for ((stream, calls, tid), server) in &done {
                let id = cookie(stream);
                assert_eq!(recorder.of(id, Direction::Send), calls.sent);
                assert_eq!(recorder.of(id, Direction::Receive), calls.received);
                for message in messages.iter().filter(|one| one.connection == id) {
                    assert_eq!(message.flow.remote, *server);
                    assert_eq!(message.flow.local, stream.local_addr().unwrap());
                    assert_eq!(message.pid, std::process::id());
                    assert_eq!(message.tid, tid.as_raw() as u32);
                    assert!(message.comm.starts_with("peer"), "{}", message.comm);
                    let is_kprobed_send =
                        rung == RungKind::Kprobe && message.direction == Direction::Send;
                    assert_eq!(message.asked, is_kprobed_send);
                    assert_eq!(
                        message.took.is_some(),
                        rung != RungKind::TpBtf && !is_kprobed_send
                    );
                }
            }
            let counters = recorder.recording.handle.counters();
            assert_eq!(counters.messages, total as u64);
            assert_eq!(counters.messages_unpaired, 0);
            assert_eq!(counters.messages_abandoned, 0);
            assert!(recorder.recording.handle.udp_threads().is_empty());
        });
    }
}

#[test]
fn ends_errors_and_looks_are_told_apart() {
    for rung in RUNGS {
        in_namespace(move |peer| {
            for address in PEER {
                let (server, accepted) = peer.listen(address);
                let Some(mut recorder) = Recorder::start(rung, on_ports(&[server.port()])) else {
                    return;
                };
                let stream = TcpStream::connect(server).unwrap();
                let id = cookie(&stream);
                let mut remote = accepted.recv().unwrap();
                let mut calls = Calls::default();

                // Nothing is there: no message.
                stream.set_nonblocking(true).unwrap();
                let error = (&stream).read(&mut [0; 8]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                stream.set_nonblocking(false).unwrap();

                // A look, then the bytes.
                remote.write_all(&[1; 100]).unwrap();
                assert_eq!(recv(&stream, 60, libc::MSG_PEEK).unwrap(), 60);
                calls.receive(&stream, 200);

                // A call that waits for all, gets some, waits, and gets the rest.
                let rest = thread::spawn(move || {
                    remote.write_all(&[2; 10]).unwrap();
                    thread::sleep(Duration::from_millis(60));
                    remote.write_all(&[3; 20]).unwrap();
                    remote
                });
                let begun = clock::now();
                let all = recv(&stream, 30, libc::MSG_WAITALL);
                let waited = clock::now().since(begun);
                calls.received.push(told(all));
                let remote = rest.join().unwrap();

                // The end of the stream, then sends that the peer refuses.
                drop(remote);
                calls.receive(&stream, 8);
                calls.send(&stream, 11);
                let end = Instant::now() + Duration::from_secs(5);
                while calls.sent.last().unwrap().is_ok() {
                    assert!(Instant::now() < end);
                    thread::sleep(Duration::from_millis(10));
                    calls.send(&stream, 12);
                }
                assert_eq!(*calls.sent.last().unwrap(), Err(libc::EPIPE));
                assert_eq!(calls.received, [Ok(100), Ok(30), Ok(0)]);

                if rung == RungKind::Kprobe {
                    // Neither ends nor errors are seen.
                    calls.received.retain(|result| *result != Ok(0));
                    *calls.sent.last_mut().unwrap() = Ok(12);
                }
                recorder.until(calls.sent.len() + calls.received.len());
                assert_eq!(recorder.of(id, Direction::Send), calls.sent);
                assert_eq!(recorder.of(id, Direction::Receive), calls.received);
                let counters = recorder.recording.handle.counters();
                if rung != RungKind::Kprobe {
                    assert_eq!(counters.messages_again, 1);
                }
                let local = stream.local_addr().unwrap();
                for message in &recorder.messages {
                    assert_eq!(message.flow.local.port(), local.port());
                    assert_eq!(message.flow.remote, server);
                }

                let percentiles = recorder.recording.handle.percentiles();
                let of_peer = |wanted: Series| {
                    percentiles
                        .iter()
                        .find(|(series, _)| *series == wanted)
                        .map(|(_, percentiles)| *percentiles)
                };
                let receives = of_peer(Series::Receive { peer: server.ip() });
                let sends = of_peer(Series::Send { peer: server.ip() });
                if rung == RungKind::TpBtf {
                    assert!(receives.is_none() && sends.is_none());
                    continue;
                }
                let waiting = recorder
                    .messages
                    .iter()
                    .find(|one| one.direction == Direction::Receive && one.result == Ok(30))
                    .unwrap();
                let took = waiting.took.unwrap();
                assert!(took >= Duration::from_millis(60), "{took:?}");
                assert!(took <= waited, "{took:?} of {waited:?}");
                assert!(waiting.at >= begun);
                let receives = receives.unwrap();
                assert_eq!(receives.count, calls.received.len() as u64);
                assert!(receives.max >= Duration::from_millis(60), "{receives:?}");
                assert_eq!(
                    sends.map(|sends| sends.count),
                    (rung == RungKind::Function).then_some(calls.sent.len() as u64)
                );
            }
        });
    }
}

#[test]
fn a_receive_that_gets_less_than_it_waits_for_is_told_with_the_next() {
    in_namespace(|peer| {
        let (server, accepted): (SocketAddr, _) = peer.listen(PEER[0]);
        let Some(mut recorder) = Recorder::start(RungKind::Kprobe, on_ports(&[server.port()]))
        else {
            return;
        };
        let stream = TcpStream::connect(server).unwrap();
        let id = cookie(&stream);
        let mut remote = accepted.recv().unwrap();
        remote.write_all(&[1; 10]).unwrap();
        drop(remote);
        assert_eq!(recv(&stream, 30, libc::MSG_WAITALL).unwrap(), 10);
        assert_eq!(recv(&stream, 30, 0).unwrap(), 0);
        recorder.until(1);
        assert_eq!(recorder.of(id, Direction::Receive), [Ok(10)]);
    });
}

#[test]
fn messages_of_a_watched_process_are_told_on_any_port() {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    for rung in RUNGS {
        for (process, is_watched) in [(name.trim_end().to_owned(), true), ("none".into(), false)] {
            in_namespace(move |peer| {
                let (server, accepted) = peer.listen(PEER[1]);
                let watch = Watched {
                    processes: vec![process],
                    ..Watched::default()
                };
                let Some(mut recorder) = Recorder::start(rung, watch) else {
                    return;
                };
                let stream = TcpStream::connect(server).unwrap();
                let id = cookie(&stream);
                echo(accepted.recv().unwrap());
                let mut calls = Calls::default();
                for bytes in 1..=20 {
                    calls.send(&stream, bytes);
                    let mut left = bytes as u32;
                    while left > 0 {
                        left -= calls.receive(&stream, 64);
                    }
                }
                if is_watched {
                    recorder.until(calls.sent.len() + calls.received.len());
                    assert_eq!(recorder.of(id, Direction::Send), calls.sent);
                    assert_eq!(recorder.of(id, Direction::Receive), calls.received);
                } else {
                    recorder.until(0);
                    assert_eq!(recorder.messages, []);
                }
            });
        }
    }
}

#[test]
fn of_a_flood_every_call_is_told_or_counted_as_lost() {
    const CALLS: u64 = 60_000;
    for rung in RUNGS {
        in_namespace(move |peer| {
            let (server, accepted) = peer.listen(PEER[0]);
            let Some(mut recorder) = Recorder::start(rung, on_ports(&[server.port()])) else {
                return;
            };
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    let mut stream = TcpStream::connect(server).unwrap();
                    let mut remote = accepted.recv().unwrap();
                    thread::spawn(move || std::io::copy(&mut remote, &mut std::io::sink()));
                    thread::spawn(move || {
                        for _ in 0..CALLS {
                            assert_eq!(stream.write(&[1; 8]).unwrap(), 8);
                        }
                    })
                })
                .collect();
            let mut told = 0;
            let mut quiet = Instant::now();
            while quiet.elapsed() < Duration::from_millis(500)
                || workers.iter().any(|worker| !worker.is_finished())
            {
                thread::sleep(Duration::from_millis(5));
                recorder.gather();
                if !recorder.messages.is_empty() {
                    quiet = Instant::now();
                    told += std::mem::take(&mut recorder.messages).len() as u64;
                }
            }
            for worker in workers {
                worker.join().unwrap();
            }
            let counters = recorder.recording.handle.counters();
            println!("{told} told, {} lost", counters.calls_lost);
            assert!(told > 0);
            let accounted = told + counters.calls_lost + counters.records_dropped;
            if rung == RungKind::Kprobe {
                // The kernel skips programs while another runs on that CPU: the report says so.
                assert!((1..=3 * CALLS).contains(&accounted), "{accounted}");
            } else {
                assert_eq!(accounted, 3 * CALLS);
            }
            assert_eq!(counters.messages, told + counters.records_dropped);
        });
    }
}

#[test]
fn without_a_declared_port_or_process_nothing_is_attached() {
    in_namespace(|_| {
        let collector = Collector::start(Settings::default()).unwrap();
        for name in [PROBE, "udp"] {
            let report = collector.report().iter().find(|r| r.name == name).unwrap();
            assert_eq!(report.hook, None);
            assert!(report.reason.contains("not asked for"), "{}", report.reason);
        }
    });
}
