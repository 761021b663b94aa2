//! The workload: long-lived connections on which both ends send small messages at a steady gap.
//!
//! The validator's end is a process of its own ([`validator_main`]), unrelated to the daemon; it
//! watches what its kernel says was acknowledged. The peers' end is a thread.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::sys;

/// One end's part of the workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Addresses to accept connections on.
    pub listen: Vec<SocketAddr>,
    /// Connections to open: local and remote address.
    pub connect: Vec<(SocketAddr, SocketAddr)>,
    /// Nanoseconds between two messages of a connection.
    pub gap: u64,
    /// Messages are sent only in the first part of each such time of the monotonic clock, which both
    /// ends share: (the time, the part), in nanoseconds.
    #[serde(default)]
    pub burst: Option<(u64, u64)>,
    /// Bytes of a message.
    pub bytes: usize,
    /// `TCP_CONGESTION`.
    pub congestion: String,
    /// Watch what is acknowledged, every so many nanoseconds.
    pub sample: Option<u64>,
    /// How many connections there will be, with accepted ones.
    pub expected: usize,
}

/// What the validator's end tells, one JSON object on a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Told {
    /// All connections are established.
    Up {
        /// How many.
        flows: usize,
    },
    /// A byte written after the marked time was acknowledged: the first on this connection.
    Progress {
        /// The other end.
        remote: IpAddr,
        /// When it was noticed.
        at: u64,
    },
    /// The answer to `dump`.
    Dump {
        /// All connections.
        flows: Vec<FlowSummary>,
        /// CPU time of the process so far, in nanoseconds.
        cpu: u64,
        /// The part of it that watching acknowledgements took.
        watching: u64,
    },
}

/// One connection over a span of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSummary {
    /// The other end.
    pub remote: IpAddr,
    /// The peer opened it.
    pub inbound: bool,
    /// Bytes written and acknowledged since it was opened.
    pub written: u64,
    /// See `written`.
    pub acked: u64,
    /// The longest time without a newly acknowledged byte, in nanoseconds.
    pub longest_gap: u64,
    /// How it ended, if it did.
    pub ended: Option<String>,
}

struct Connection {
    socket: Socket,
    remote: SocketAddr,
    inbound: bool,
    established: bool,
    next: u64,
    written: u64,
    acked: u64,
    /// (time, total) of each write and each observed progress.
    writes: Vec<(u64, u64)>,
    acks: Vec<(u64, u64)>,
    ended: Option<String>,
}

/// Runs one end until told to stop.
pub struct Chatter {
    part: Part,
    epoll: sys::Epoll,
    listeners: Vec<TcpListener>,
    connections: BTreeMap<u64, Connection>,
    retry: Vec<(u64, SocketAddr, SocketAddr)>,
    next_token: u64,
    next_sample: u64,
    watching: u64,
    message: Vec<u8>,
    ready: Vec<(u64, u32)>,
}

const STDIN: u64 = u64::MAX;
const RETRY: u64 = 100_000_000;

impl Chatter {
    /// Listens and begins to connect, in the calling thread's namespace.
    ///
    /// # Errors
    /// A listener cannot be bound.
    pub fn new(part: Part) -> anyhow::Result<Self> {
        let mut chatter = Self {
            epoll: sys::Epoll::new()?,
            listeners: Vec::new(),
            connections: BTreeMap::new(),
            retry: part
                .connect
                .iter()
                .map(|(from, to)| (0, *from, *to))
                .collect(),
            next_token: 1_000,
            next_sample: 0,
            watching: 0,
            message: vec![b'n'; part.bytes],
            ready: Vec::new(),
            part,
        };
        for address in chatter.part.listen.clone() {
            let socket = Socket::new(
                Domain::for_address(address),
                Type::STREAM,
                Some(Protocol::TCP),
            )?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.set_reuse_address(true)?;
            socket
                .set_tcp_congestion(chatter.part.congestion.as_bytes())
                .with_context(|| {
                    format!(
                        "congestion control `{}` is not available",
                        chatter.part.congestion
                    )
                })?;
            socket
                .bind(&SockAddr::from(address))
                .with_context(|| format!("cannot bind {address}"))?;
            socket.listen(256)?;
            socket.set_nonblocking(true)?;
            let listener: TcpListener = socket.into();
            let token = chatter.listeners.len() as u64;
            chatter
                .epoll
                .add(listener.as_raw_fd(), libc::EPOLLIN, token)?;
            chatter.listeners.push(listener);
        }
        Ok(chatter)
    }

    fn up(&self) -> usize {
        self.connections
            .values()
            .filter(|c| c.established && c.ended.is_none())
            .count()
    }

    /// Does what is due and waits for at most `limit` nanoseconds for more.
    fn step(&mut self, limit: u64) -> std::io::Result<bool> {
        let now = sys::now();
        let due: Vec<_> = self.retry.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, from, to) in due {
            if self.open(from, to, now).is_err() {
                self.retry.push((now + RETRY, from, to));
            }
        }
        let mut next = now + limit;
        let rest = self.part.burst.and_then(|(every, talk)| {
            let into = now % every;
            (into >= talk).then(|| now - into + every)
        });
        for (token, connection) in &mut self.connections {
            if !connection.established || connection.ended.is_some() {
                continue;
            }
            if let Some(rest) = rest {
                connection.next = connection.next.max(rest + phase(*token, self.part.gap));
            } else if connection.next <= now {
                connection.send(&self.message, now);
                connection.next += self.part.gap;
                if connection.next <= now {
                    // After a stall: no burst, keep the phase.
                    let missed = (now - connection.next) / self.part.gap + 1;
                    connection.next += missed * self.part.gap;
                }
            }
            next = next.min(connection.next);
        }
        if let Some(every) = self.part.sample {
            if self.next_sample <= now {
                let before = sys::thread_cpu();
                for connection in self.connections.values_mut().filter(|c| c.established) {
                    connection.sample(now);
                }
                self.watching += sys::thread_cpu() - before;
                self.next_sample = now + every;
            }
            next = next.min(self.next_sample);
        }
        let mut ready = std::mem::take(&mut self.ready);
        self.epoll
            .wait(next.saturating_sub(sys::now()), &mut ready)?;
        let mut stdin = false;
        for (token, events) in &ready {
            if *token == STDIN {
                stdin = true;
            } else if *token < 1_000 {
                self.accept(*token as usize)?;
            } else {
                self.drain(*token, *events);
            }
        }
        self.ready = ready;
        Ok(stdin)
    }

    fn open(&mut self, from: SocketAddr, to: SocketAddr, now: u64) -> std::io::Result<()> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_congestion(self.part.congestion.as_bytes())?;
        socket.bind(&SockAddr::from(from))?;
        match socket.connect(&SockAddr::from(to)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        self.insert(socket, to, false, now)
    }

    fn accept(&mut self, listener: usize) -> std::io::Result<()> {
        let now = sys::now();
        loop {
            match self.listeners[listener].accept() {
                Ok((stream, remote)) => {
                    stream.set_nonblocking(true)?;
                    self.insert(stream.into(), remote, true, now)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Ok(()),
            }
        }
    }

    fn insert(
        &mut self,
        socket: Socket,
        remote: SocketAddr,
        inbound: bool,
        now: u64,
    ) -> std::io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        let token = self.next_token;
        self.next_token += 1;
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET | libc::EPOLLRDHUP;
        self.epoll.add(socket.as_raw_fd(), events, token)?;
        self.connections.insert(
            token,
            Connection {
                socket,
                remote,
                inbound,
                established: inbound,
                next: now + phase(token, self.part.gap),
                written: 0,
                acked: 0,
                writes: Vec::new(),
                acks: Vec::new(),
                ended: None,
            },
        );
        Ok(())
    }

    fn drain(&mut self, token: u64, events: u32) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        if !connection.established {
            match connection.socket.take_error() {
                Ok(None) if events & libc::EPOLLOUT as u32 != 0 => connection.established = true,
                Ok(None) => return,
                _ => {
                    let remote = connection.remote;
                    let from = connection
                        .socket
                        .local_addr()
                        .ok()
                        .and_then(|a| a.as_socket());
                    self.connections.remove(&token);
                    if let Some(mut from) = from {
                        from.set_port(0);
                        self.retry.push((sys::now() + RETRY, from, remote));
                    }
                    return;
                }
            }
        }
        let mut buffer = [0u8; 16_384];
        while connection.ended.is_none() {
            match (&connection.socket).read(&mut buffer) {
                Ok(0) => connection.ended = Some("closed by the peer".to_owned()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => connection.ended = Some(error.to_string()),
            }
        }
    }
}

/// Spreads connections over the gap, so that they do not send in step.
fn phase(token: u64, gap: u64) -> u64 {
    token.wrapping_mul(0x9e37_79b9) % gap.max(1)
}

impl Connection {
    fn send(&mut self, message: &[u8], now: u64) {
        match (&self.socket).write(message) {
            Ok(count) => {
                self.written += count as u64;
                self.writes.push((now, self.written));
            }
            // The buffer is full: nothing was acknowledged for long.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.ended = Some(error.to_string()),
        }
    }

    fn sample(&mut self, now: u64) {
        if let Ok(acked) = sys::bytes_acked(self.socket.as_raw_fd())
            && acked > self.acked
        {
            self.acked = acked;
            self.acks.push((now, acked));
        }
    }

    /// The first acknowledgement of a byte written after `mark`. The SYN counts as a byte.
    fn progress_since(&self, mark: u64) -> Option<u64> {
        let before = self.writes.partition_point(|(at, _)| *at <= mark);
        let written = before.checked_sub(1).map_or(0, |last| self.writes[last].1);
        let first = self
            .acks
            .partition_point(|(_, total)| *total <= written + 1);
        self.acks.get(first).map(|(at, _)| *at)
    }

    fn summary(&self, from: u64, to: u64) -> FlowSummary {
        let inside = self
            .acks
            .iter()
            .map(|(at, _)| *at)
            .filter(|at| (from..to).contains(at));
        let (mut last, mut longest) = (from, 0);
        for at in inside.chain([to]) {
            longest = longest.max(at.saturating_sub(last));
            last = at;
        }
        FlowSummary {
            remote: self.remote.ip().to_canonical(),
            inbound: self.inbound,
            written: self.written,
            acked: self.acked,
            longest_gap: longest,
            ended: self.ended.clone(),
        }
    }
}

/// The peers' end, until `stop` is set.
///
/// # Errors
/// A listener cannot be bound, or waiting fails.
pub fn run(part: Part, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut chatter = Chatter::new(part)?;
    while !stop.load(Ordering::Relaxed) {
        chatter.step(50_000_000)?;
        // Nobody asks this end.
        for connection in chatter.connections.values_mut() {
            connection.writes.clear();
        }
    }
    Ok(())
}

/// The validator's end: a process that reads its [`Part`] from a file, speaks [`Told`] on standard
/// output, and obeys `mark TIME` and `dump FROM TO` (nanoseconds) on standard input until that ends.
///
/// # Errors
/// The file is not readable, a listener cannot be bound, or waiting fails.
pub fn validator_main(file: &std::path::Path) -> anyhow::Result<()> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let part: Part = serde_json::from_str(&text)?;
    let expected = part.expected;
    let mut chatter = Chatter::new(part)?;
    sys::precise_timers();
    // SAFETY: standard input is open for the process's life.
    unsafe {
        let flags = libc::fcntl(0, libc::F_GETFL);
        sys::check(libc::fcntl(0, libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    chatter.epoll.add(0, libc::EPOLLIN, STDIN)?;
    let (mut input, mut up) = (Vec::new(), false);
    let mut pending: Option<(u64, Vec<u64>)> = None;
    loop {
        if chatter.step(50_000_000)? {
            let mut buffer = [0u8; 4_096];
            match sys::read(0, &mut buffer)? {
                Some(0) => return Ok(()),
                Some(count) => input.extend_from_slice(&buffer[..count]),
                None => {}
            }
            while let Some(end) = input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = input.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).into_owned();
                let words: Vec<&str> = line.split_whitespace().collect();
                let number = |n: usize| {
                    words
                        .get(n)
                        .and_then(|w| w.parse::<u64>().ok())
                        .unwrap_or(0)
                };
                match words.first().copied() {
                    Some("mark") => {
                        pending = Some((number(1), chatter.connections.keys().copied().collect()));
                    }
                    Some("dump") => tell(&Told::Dump {
                        flows: chatter
                            .connections
                            .values()
                            .map(|connection| connection.summary(number(1), number(2)))
                            .collect(),
                        cpu: sys::thread_cpu(),
                        watching: chatter.watching,
                    })?,
                    _ => anyhow::bail!("not an order: {line}"),
                }
            }
        }
        if !up && chatter.up() >= expected {
            up = true;
            tell(&Told::Up {
                flows: chatter.up(),
            })?;
        }
        if let Some((mark, waiting)) = &mut pending {
            let connections = &chatter.connections;
            let mut found = Vec::new();
            waiting.retain(|token| {
                let Some(connection) = connections.get(token) else {
                    return false;
                };
                match connection.progress_since(*mark) {
                    Some(at) => {
                        found.push((connection.remote.ip().to_canonical(), at));
                        false
                    }
                    None => true,
                }
            });
            for (remote, at) in found {
                tell(&Told::Progress { remote, at })?;
            }
        }
    }
}

fn tell(told: &Told) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(told)?;
    line.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// How often the validator's end looks at what was acknowledged.
pub const SAMPLE: Duration = Duration::from_millis(5);
