//! Datagrams of watched threads, on every rung that this kernel has.

mod recording;
mod support;

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use events::Datagram;
use full_stack_probes::{KernelRecord, RungKind, UdpThread, Watch as Watched};

use recording::Recording;
use support::{HERE, PEER, Peer, cookie, in_namespace, older_than};

const PROBE: &str = "udp";
const RUNGS: [RungKind; 3] = [RungKind::Function, RungKind::Kprobe, RungKind::TpBtf];

struct Recorder {
    recording: Recording,
    datagrams: Vec<Datagram>,
}

impl Recorder {
    /// With this rung, or `None` where this kernel has not its hooks.
    fn start(rung: RungKind, process: &str) -> Option<Self> {
        let watch = Watched {
            processes: vec![process.to_owned()],
            ..Watched::default()
        };
        let (recording, hooks) = Recording::start(PROBE, rung, watch)?;
        let wanted: &[&str] = match rung {
            RungKind::TpBtf => &["tp_btf/sock_send_length", "tp_btf/sock_recv_length"],
            RungKind::Function => &[
                "fexit/udp_sendmsg",
                "fexit/udpv6_sendmsg",
                "fexit/udp_recvmsg",
                "fexit/udpv6_recvmsg",
            ],
            _ => &[
                "kprobe/udp_sendmsg",
                "kprobe/udpv6_sendmsg",
                "kprobe/skb_consume_udp",
            ],
        };
        assert_eq!(hooks, wanted);
        Some(Self {
            recording,
            datagrams: Vec::new(),
        })
    }

    /// Everything that comes within a quarter of a second after the last.
    fn gather(&mut self) {
        let mut quiet = Instant::now();
        while quiet.elapsed() < Duration::from_millis(250) {
            thread::sleep(Duration::from_millis(5));
            while let Ok(batch) = self.recording.records.try_recv() {
                for record in batch {
                    if let KernelRecord::Datagram(datagram) = record {
                        quiet = Instant::now();
                        self.datagrams.push(datagram);
                    }
                }
            }
        }
        self.recording.assert_lossless();
    }

    fn thread(&self, tid: u32) -> UdpThread {
        let threads = self.recording.handle.udp_threads();
        let found = threads.iter().find(|thread| thread.tid == tid);
        found
            .unwrap_or_else(|| panic!("no {tid} among {threads:#?}"))
            .clone()
    }

    fn of(&self, tid: u32) -> Vec<&Datagram> {
        let mine = self.datagrams.iter().filter(|one| one.tid == tid);
        mine.collect()
    }
}

/// The name of this process.
fn own_name() -> String {
    fs::read_to_string("/proc/self/comm")
        .unwrap()
        .trim_end()
        .to_owned()
}

/// Runs something in a thread of its own name, and tells its id.
fn named<T: Send + 'static>(name: &str, job: impl FnOnce() -> T + Send + 'static) -> (u32, T) {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || (nix::unistd::gettid().as_raw() as u32, job()))
        .unwrap()
        .join()
        .unwrap()
}

/// A socket in the peer's namespace that counts what comes, until it gets an empty datagram.
fn sink(peer: &Peer, address: &'static str) -> (SocketAddr, mpsc::Receiver<(u64, u64)>) {
    let (counts, counted) = mpsc::channel();
    let address = peer.run(move || {
        let socket = UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let (mut count, mut bytes) = (0, 0);
            while let Ok((length @ 1.., _)) = socket.recv_from(&mut [0; 2048]) {
                count += 1;
                bytes += length as u64;
            }
            let _ = counts.send((count, bytes));
        });
        address
    });
    (address, counted)
}

fn local(family: usize) -> UdpSocket {
    UdpSocket::bind((HERE[family].parse::<IpAddr>().unwrap(), 0)).unwrap()
}

#[test]
fn rare_sends_are_told_one_by_one_with_their_destination() {
    for rung in RUNGS {
        in_namespace(move |peer| {
            let Some(mut recorder) = Recorder::start(rung, &own_name()) else {
                return;
            };
            let sinks: Vec<_> = PEER.iter().map(|address| sink(peer, address)).collect();
            let targets: Vec<SocketAddr> = sinks.iter().map(|(target, _)| *target).collect();
            let begun = clock::now();
            let (tid, (mapped, sent)) = named("solVoteService", move || {
                let mut sent = Vec::new();
                let any = UdpSocket::bind("[::]:0").unwrap();
                let mapped = match targets[0] {
                    SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
                    SocketAddr::V6(_) => unreachable!(),
                };
                let connected_mapped = UdpSocket::bind("[::]:0").unwrap();
                connected_mapped.connect(mapped).unwrap();
                let ids = [cookie(&any), cookie(&connected_mapped)];
                for round in 1..=5usize {
                    let bytes = vec![1; 100 * round];
                    for (family, target) in targets.iter().enumerate() {
                        let open = local(family);
                        // Asked for first: kprobes cannot make one.
                        let id = cookie(&open);
                        open.send_to(&bytes, target).unwrap();
                        sent.push((id, Some(*target), bytes.len(), false));
                        let connected = local(family);
                        let id = cookie(&connected);
                        connected.connect(target).unwrap();
                        connected.send(&bytes).unwrap();
                        sent.push((id, Some(*target), bytes.len(), true));
                    }
                    // Over an IPv6 socket to an IPv4 peer: once, not twice.
                    any.send_to(&bytes, mapped).unwrap();
                    sent.push((ids[0], Some(targets[0]), bytes.len(), false));
                    connected_mapped.send(&bytes).unwrap();
                    sent.push((
                        cookie(&connected_mapped),
                        Some(targets[0]),
                        bytes.len(),
                        true,
                    ));
                }
                for (family, target) in targets.iter().enumerate() {
                    local(family).send_to(&[], target).unwrap();
                }
                (ids[0], sent)
            });
            recorder.gather();
            let arrived: u64 = sinks
                .iter()
                .map(|(_, counted)| counted.recv_timeout(Duration::from_secs(5)).unwrap().0)
                .sum();
            assert_eq!(arrived, sent.len() as u64);
            let told = recorder.of(tid);
            assert_eq!(told.len(), sent.len() + 2);
            assert_eq!(told.last().unwrap().result, Ok(0));
            for (datagram, (id, target, bytes, connected)) in told.iter().zip(&sent) {
                assert_eq!(datagram.connection, *id);
                assert_eq!(datagram.result, Ok(*bytes as u32));
                let is_known = *connected || rung != RungKind::TpBtf;
                // Old kernels leave a dead address in the message where an IPv6 socket sent to
                // an IPv4 one (`udpv6_sendmsg`).
                let is_lost = *id == mapped && rung == RungKind::Function && older_than(5, 16);
                if !is_lost || datagram.remote.is_some() {
                    assert_eq!(datagram.remote, target.filter(|_| is_known));
                }
                assert_eq!(datagram.comm, "solVoteService");
                assert_eq!(datagram.pid, std::process::id());
                assert_eq!(datagram.asked, rung == RungKind::Kprobe);
                assert!(datagram.at > begun);
            }
            assert!(told.is_sorted_by_key(|datagram| datagram.at));
            let thread = recorder.thread(tid);
            let bytes: usize = sent.iter().map(|(_, _, bytes, _)| bytes).sum();
            assert_eq!(thread.comm, "solVoteService");
            assert_eq!(thread.sent, told.len() as u64);
            assert_eq!(thread.sent_bytes, bytes as u64);
            assert_eq!(thread.sent_at, Some(told.last().unwrap().at));
            assert_eq!((thread.received, thread.send_errors), (0, 0));
            assert_eq!(
                recorder.recording.handle.counters().udp_sent,
                told.len() as u64
            );
        });
    }
}

#[test]
fn what_threads_send_and_receive_is_counted() {
    const BURST: u64 = 3_000;
    for rung in RUNGS {
        in_namespace(move |peer| {
            let Some(mut recorder) = Recorder::start(rung, &own_name()) else {
                return;
            };
            for (family, &address) in PEER.iter().enumerate() {
                let (target, counted) = sink(peer, address);
                let (fast, ()) = named("solRetransmit00", move || {
                    let socket = local(family);
                    for _ in 0..BURST {
                        socket.send_to(&[9; 77], target).unwrap();
                    }
                    thread::sleep(Duration::from_millis(100));
                    socket.send_to(&[], target).unwrap();
                });
                counted.recv_timeout(Duration::from_secs(5)).unwrap();

                // The peer sends; this side looks, reads one by one, then many at once.
                let receiver = local(family);
                let here = receiver.local_addr().unwrap();
                peer.run(move || {
                    let socket = UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap();
                    for bytes in 1..=40usize {
                        socket.send_to(&vec![3; bytes], here).unwrap();
                    }
                });
                let (reader, ()) = named("solRcvrShred00", move || {
                    assert_eq!(receiver.peek(&mut [0; 64]).unwrap(), 1);
                    for bytes in 1..=10usize {
                        assert_eq!(receiver.recv(&mut [0; 64]).unwrap(), bytes);
                    }
                    let mut seen = 0;
                    while seen < 30 {
                        seen += receive_many(&receiver);
                    }
                    assert_eq!(seen, 30);
                    receiver.set_nonblocking(true).unwrap();
                    receiver.recv(&mut [0; 64]).unwrap_err();
                });

                // Nobody listens there: the second send tells.
                let (refused, errors) = named("solRepairSvc", move || {
                    let socket = local(family);
                    socket.connect((target.ip(), 9)).unwrap();
                    let mut errors = 0;
                    for _ in 0..6 {
                        errors += u32::from(socket.send(&[5]).is_err());
                        thread::sleep(Duration::from_millis(30));
                    }
                    errors
                });
                assert!(errors > 0);

                recorder.gather();
                let sender = recorder.thread(fast);
                assert_eq!(sender.comm, "solRetransmit00");
                assert_eq!(sender.sent, BURST + 1);
                assert_eq!(sender.sent_bytes, BURST * 77);
                let told = recorder.of(fast).len();
                assert!(
                    (1..=200).contains(&told),
                    "{told} of a thread that sends often"
                );

                let thread = recorder.thread(reader);
                assert_eq!(thread.comm, "solRcvrShred00");
                assert_eq!((thread.received, thread.received_bytes), (40, 820));
                assert_eq!((thread.sent, thread.receive_errors), (0, 0));
                assert!(thread.received_at.unwrap() <= clock::now());

                let thread = recorder.thread(refused);
                let results: Vec<_> = recorder.of(refused).iter().map(|one| one.result).collect();
                if rung == RungKind::Kprobe {
                    assert_eq!(thread.sent, 6);
                    assert_eq!(results, [Ok(1); 6]);
                } else {
                    assert_eq!(thread.send_errors, errors);
                    assert_eq!(thread.sent, u64::from(6 - errors));
                    let failed = results
                        .iter()
                        .filter(|one| **one == Err(libc::ECONNREFUSED));
                    assert_eq!(failed.count(), errors as usize);
                    assert_eq!(results.len(), 6);
                }
            }
            let counters = recorder.recording.handle.counters();
            let threads = recorder.recording.handle.udp_threads();
            let sum = |of: fn(&UdpThread) -> u64| threads.iter().map(of).sum::<u64>();
            assert_eq!(counters.udp_sent, sum(|thread| thread.sent));
            assert_eq!(counters.udp_received, sum(|thread| thread.received));
            let all = counters.udp_sent + sum(|thread| u64::from(thread.send_errors));
            assert_eq!(
                counters.udp_unrecorded + recorder.datagrams.len() as u64,
                all
            );
        });
    }
}

#[test]
fn other_processes_are_left_alone() {
    for rung in RUNGS {
        in_namespace(move |peer| {
            let Some(mut recorder) = Recorder::start(rung, "no-such-process") else {
                return;
            };
            let (target, counted) = sink(peer, PEER[0]);
            let socket = local(0);
            for _ in 0..50 {
                socket.send_to(&[1; 10], target).unwrap();
            }
            socket.send_to(&[], target).unwrap();
            counted.recv_timeout(Duration::from_secs(5)).unwrap();
            recorder.gather();
            assert_eq!(recorder.recording.handle.udp_threads(), []);
            assert_eq!(recorder.datagrams, []);
            assert_eq!(recorder.recording.handle.counters().udp_sent, 0);
        });
    }
}

/// One `recvmmsg` of up to 16 datagrams.
fn receive_many(socket: &UdpSocket) -> usize {
    let mut buffers = [[0u8; 64]; 16];
    let mut parts: Vec<libc::iovec> = buffers
        .iter_mut()
        .map(|buffer| libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: plain numbers and null pointers.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
        .collect();
    // SAFETY: the headers describe buffers that outlive the call.
    let count = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as u32,
            libc::MSG_WAITFORONE,
            std::ptr::null_mut(),
        )
    };
    usize::try_from(count).unwrap()
}
