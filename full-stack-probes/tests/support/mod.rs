//! Two network namespaces joined by a veth pair, each held by a thread: both are gone when the
//! threads are.

// Each test file uses its part.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use events::{ConnectionId, TcpEvent, TcpEventKind, TcpSample, Timestamp};
use full_stack_probes::{Collector, Handle, Settings};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc::{Receiver, channel};

/// This host's addresses in the tests.
pub const HERE: [&str; 2] = ["10.77.0.1", "fd77::1"];
/// The peer's.
pub const PEER: [&str; 2] = ["10.77.0.2", "fd77::2"];

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Why kernel tests cannot run here, if they cannot.
fn obstacle() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root");
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("no BTF");
    }
    None
}

/// Runs a test in a thread with its own network namespace, or says why it is skipped.
pub fn in_namespace(test: impl FnOnce(&Peer) + Send + 'static) {
    if let Some(reason) = obstacle() {
        println!("SKIPPED: {reason}");
        return;
    }
    let _guard: MutexGuard<'_, ()> = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let peer = Peer::start();
        test(&peer);
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The other namespace.
pub struct Peer {
    jobs: mpsc::Sender<Job>,
}

impl Peer {
    fn start() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(nix::unistd::gettid()).unwrap();
            for job in queue {
                job();
            }
        });
        let peer_thread = started.recv().unwrap().to_string();
        ip("link set lo up");
        ip("link add here type veth peer name there");
        ip("addr add 10.77.0.1/24 dev here");
        ip("addr add fd77::1/64 dev here nodad");
        ip("link set here address 02:00:00:00:00:01");
        ip(&format!("link set there netns {peer_thread}"));
        ip("link set here up");
        let peer = Self { jobs };
        peer.run(|| {
            ip("link set lo up");
            ip("link set there address 02:00:00:00:00:02");
            ip("link set there up");
            for address in ["10.77.0.1", "fd77::1"] {
                ip(&format!(
                    "neigh replace {address} lladdr 02:00:00:00:00:01 dev there"
                ));
            }
        });
        peer.appear();
        for address in PEER {
            ip(&format!(
                "neigh replace {address} lladdr 02:00:00:00:00:02 dev here"
            ));
        }
        peer
    }

    /// Runs something in the peer's namespace and waits for it.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.jobs
            .send(Box::new(move || {
                let _ = done.send(job());
            }))
            .unwrap();
        result.recv().unwrap()
    }

    /// From now on, packets to the peer vanish without a trace.
    pub fn vanish(&self) {
        self.run(|| {
            ip("addr del 10.77.0.2/24 dev there");
            ip("addr del fd77::2/64 dev there");
        });
    }

    /// The opposite of [`Peer::vanish`].
    pub fn appear(&self) {
        self.run(|| {
            ip("addr add 10.77.0.2/24 dev there");
            ip("addr add fd77::2/64 dev there nodad");
        });
    }

    /// A listener in the peer's namespace whose connections are handed over as they come.
    pub fn listen(&self, address: &'static str) -> (SocketAddr, mpsc::Receiver<TcpStream>) {
        let (streams, accepted) = mpsc::channel();
        let address = self.run(move || {
            let listener = TcpListener::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap();
            let address = listener.local_addr().unwrap();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if streams.send(stream).is_err() {
                        return;
                    }
                }
            });
            address
        });
        (address, accepted)
    }
}

/// Runs `ip` in this thread's network namespace.
pub fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A running collector and everything that it told.
pub struct Watch {
    pub handle: Handle,
    receiver: Receiver<Vec<TcpEvent>>,
    pub events: Vec<TcpEvent>,
}

impl Watch {
    pub fn start() -> Self {
        Self::with(Settings::default())
    }

    pub fn with(settings: Settings) -> Self {
        let collector = Collector::start(settings).unwrap();
        for report in collector.report() {
            if report.hook.is_none() && !report.reason.starts_with("not asked for") {
                assert!(report.reason.contains("this kernel has no"), "{report:?}");
                println!("SKIPPED: {}: {}", report.name, report.reason);
            }
        }
        let (sink, receiver) = channel(1024);
        Self {
            handle: collector.spawn(sink).unwrap(),
            receiver,
            events: Vec::new(),
        }
    }

    /// Waits until an event is there, also among those that came before.
    pub fn until(&mut self, what: &str, wanted: impl Fn(&TcpEvent) -> bool) -> TcpEvent {
        self.until_within(what, Duration::from_secs(8), wanted)
    }

    pub fn until_within(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&TcpEvent) -> bool,
    ) -> TcpEvent {
        let end = Instant::now() + limit;
        let mut seen = 0;
        loop {
            if let Some(event) = self.events[seen..].iter().find(|event| wanted(event)) {
                return event.clone();
            }
            seen = self.events.len();
            assert!(Instant::now() < end, "no {what} among {:#?}", self.events);
            self.gather();
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Takes what has come.
    pub fn gather(&mut self) {
        while let Ok(batch) = self.receiver.try_recv() {
            assert!(batch.len() <= 1_000);
            self.events.extend(batch);
        }
    }

    /// The samples of one connection.
    pub fn samples(&mut self, connection: ConnectionId) -> Vec<(Timestamp, TcpSample)> {
        self.gather();
        self.events
            .iter()
            .filter(|event| event.connection == connection)
            .filter_map(|event| match event.kind {
                TcpEventKind::Sample(sample) => Some((event.at, sample)),
                _ => None,
            })
            .collect()
    }
}

/// The socket's cookie (`SO_COOKIE`).
pub fn cookie(socket: &impl AsRawFd) -> ConnectionId {
    const SO_COOKIE: i32 = 57;
    let mut cookie = [0u8; 8];
    let length = option(socket, libc::SOL_SOCKET, SO_COOKIE, &mut cookie);
    assert_eq!(length, 8);
    ConnectionId(u64::from_ne_bytes(cookie))
}

/// This kernel is older.
pub fn older_than(major: u32, minor: u32) -> bool {
    let name = nix::sys::utsname::uname().unwrap();
    let release = name.release().to_str().unwrap();
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap()) < (major, minor)
}

/// A connection, and how it is known from its first event on. To kernels on which programs cannot
/// give a socket its cookie (before 5.12) it is otherwise known by its address at first.
pub fn connect(to: SocketAddr) -> (TcpStream, ConnectionId) {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    if older_than(5, 12) {
        cookie(&socket);
    }
    socket.connect(&to.into()).unwrap();
    let id = cookie(&socket);
    (socket.into(), id)
}

/// `tcpi_rtt`, `tcpi_rttvar` and `tcpi_min_rtt`.
pub fn tcp_info(socket: &impl AsRawFd) -> [Duration; 3] {
    let mut info = [0u8; 256];
    let length = option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info);
    assert!(length >= 152);
    [68, 72, 148].map(|at| {
        let bytes = info[at..at + 4].try_into().unwrap();
        Duration::from_micros(u64::from(u32::from_ne_bytes(bytes)))
    })
}

/// A socket option; returns its length.
pub fn option(socket: &impl AsRawFd, level: i32, option: i32, buffer: &mut [u8]) -> usize {
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: pointer and length describe `buffer`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    length as usize
}

/// Ids of the eBPF programs and links that this process holds.
pub fn held() -> (BTreeSet<u32>, BTreeSet<u32>) {
    let mut programs = BTreeSet::new();
    let mut links = BTreeSet::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let number = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key))
                .and_then(|value| value.trim().parse::<u32>().ok())
        };
        match number("link_id:") {
            Some(link) => links.extend([link]),
            None => programs.extend(number("prog_id:")),
        }
    }
    (programs, links)
}
