//! Busy peers: connections that carry so many messages per second each way.
//!
//! One thread for each end. Few wake-ups: what is due within a millisecond is sent at once, then
//! all that came in is read.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use lab::ns::Space;
use lab::sys::{self, Epoll};

use crate::world::{HOST, NEAR, PORT, at, peer};

/// Messages per second of each connection, each way.
pub const RATE: u64 = 20;
/// Their size.
pub const BYTES: usize = 200;

/// Messages that both ends sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// The host.
    pub host: u64,
    /// The peers.
    pub peers: u64,
}

/// The load. Dropping it ends it.
pub struct Load {
    stop: Arc<AtomicBool>,
    host: Option<JoinHandle<anyhow::Result<()>>>,
    sent: Arc<AtomicU64>,
    peers: Peers,
}

impl Load {
    /// Connects to so many peers, one connection each, and starts to send.
    ///
    /// # Errors
    /// Not all connections come up.
    pub fn start(space: &Space, peers: usize) -> anyhow::Result<Self> {
        let mut there = Peers::start(space, peers)?;
        let streams = space.within(HOST, || {
            (0..peers)
                .map(|number| {
                    let peer = at(peer(number), PORT);
                    TcpStream::connect_timeout(&peer, Duration::from_secs(5))
                        .with_context(|| format!("cannot connect to {peer}"))
                })
                .collect::<anyhow::Result<Vec<_>>>()
        })?;
        there.ask()?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let host = {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            std::thread::spawn(move || run(&streams, &sent, &stop))
        };
        Ok(Self {
            stop,
            host: Some(host),
            sent,
            peers: there,
        })
    }

    /// What was done so far.
    ///
    /// # Errors
    /// The peers are gone.
    pub fn done(&mut self) -> anyhow::Result<Done> {
        Ok(Done {
            host: self.sent.load(Ordering::Relaxed),
            peers: self.peers.ask()?,
        })
    }

    /// Both ends still run.
    ///
    /// # Errors
    /// Why one does not.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(host) = self.host.take_if(|host| host.is_finished()) {
            host.join()
                .map_err(|_| anyhow::anyhow!("the host's end of the load panicked"))??;
        }
        self.peers.ask().map(drop)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(host) = self.host.take() {
            let _ = host.join();
        }
    }
}

/// The peers' end: a process of its own, so that it is not the one that is watched.
struct Peers {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Peers {
    /// Returns when it listens.
    fn start(space: &Space, count: usize) -> anyhow::Result<Self> {
        let mut child = space
            .command(NEAR, &std::env::current_exe()?)
            .args(["peers", &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the peers")?;
        let (orders, out) = (child.stdin.take(), child.stdout.take());
        let mut peers = Self {
            child,
            orders,
            answers: BufReader::new(out.context("the peers have no output")?),
        };
        peers.answer()?;
        Ok(peers)
    }

    /// How many messages they sent; waits until all connections are there.
    fn ask(&mut self) -> anyhow::Result<u64> {
        self.orders
            .as_mut()
            .context("the peers are gone")?
            .write_all(b"sent\n")
            .context("the peers are gone")?;
        self.answer()
    }

    fn answer(&mut self) -> anyhow::Result<u64> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        line.trim().parse().context("the peers ended")
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The peers' process: accepts so many connections, then sends on each until its input ends. Each
/// line of input is answered with the number of messages sent.
///
/// # Errors
/// A connection breaks.
pub fn peers_main(count: usize) -> anyhow::Result<()> {
    // SAFETY: the name is a C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"bench-peers".as_ptr()) };
    let listener = TcpListener::bind(at(Ipv4Addr::UNSPECIFIED, PORT))?;
    println!("0");
    let streams = (0..count)
        .map(|_| Ok(listener.accept()?.0))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let sent = Arc::new(AtomicU64::new(0));
    let thread = {
        let sent = Arc::clone(&sent);
        std::thread::spawn(move || run(&streams, &sent, &AtomicBool::new(false)))
    };
    for line in std::io::stdin().lines() {
        line?;
        anyhow::ensure!(!thread.is_finished(), "a connection broke");
        println!("{}", sent.load(Ordering::Relaxed));
    }
    Ok(())
}

fn run(streams: &[TcpStream], total: &AtomicU64, stop: &AtomicBool) -> anyhow::Result<()> {
    const TICK: u64 = 1_000_000;
    sys::precise_timers();
    let epoll = Epoll::new()?;
    for (token, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        epoll.add(stream.as_raw_fd(), libc::EPOLLIN, token as u64)?;
    }
    let message = [0x5a; BYTES];
    let mut buffer = vec![0; 64 * 1024];
    let mut ready = Vec::with_capacity(64);
    let gap = (1_000_000_000 / RATE) as f64 / streams.len() as f64;
    let begun = sys::now();
    let mut number: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        let now = sys::now();
        let due = ((now - begun) as f64 / gap) as u64;
        // After a stall of the whole machine there is no point in making up for it.
        number = number.max(due.saturating_sub(streams.len() as u64));
        let mut sent = 0;
        while number <= due {
            let mut stream = &streams[(number % streams.len() as u64) as usize];
            match stream.write(&message) {
                Ok(_) => sent += 1,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("a busy peer's connection broke"),
            }
            number += 1;
        }
        total.fetch_add(sent, Ordering::Relaxed);
        let next = begun + (number as f64 * gap) as u64;
        let wait = next.saturating_sub(sys::now());
        let mut timeout = wait;
        if gap < TICK as f64 {
            std::thread::sleep(Duration::from_nanos(wait.max(TICK)));
            timeout = 0;
        }
        loop {
            epoll.wait(timeout, &mut ready)?;
            for (token, _) in &ready {
                match (&streams[*token as usize]).read(&mut buffer) {
                    Ok(0) => anyhow::bail!("a busy peer's connection was closed"),
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error).context("a busy peer's connection broke"),
                }
            }
            if ready.len() < 64 {
                break;
            }
            timeout = 0;
        }
    }
    Ok(())
}

/// TCP segments that came in, of a namespace (`InSegs` of RFC 4022, which counts each segment).
///
/// # Errors
/// `/proc` does not tell.
pub fn segments_in(space: &Space, role: &str) -> anyhow::Result<u64> {
    space.within(role, || {
        let text = std::fs::read_to_string("/proc/thread-self/net/snmp")?;
        let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
        let names = lines.next().context("no Tcp in /proc/net/snmp")?;
        let values = lines.next().context("no Tcp in /proc/net/snmp")?;
        names
            .split_whitespace()
            .zip(values.split_whitespace())
            .find(|(name, _)| *name == "InSegs")
            .and_then(|(_, value)| value.parse().ok())
            .context("no InSegs in /proc/net/snmp")
    })
}
