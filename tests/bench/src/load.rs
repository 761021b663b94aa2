//! Busy peers: connections that carry so many messages per second each way.
//!
//! Two threads, one per end. Few wake-ups: what is due within a millisecond is sent at once, then
//! all that came in is read.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
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

/// What one end did.
#[derive(Default)]
pub struct End {
    sent: AtomicU64,
}

/// A snapshot of both ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Messages that the host sent.
    pub host: u64,
    /// Messages that the peers sent.
    pub peers: u64,
}

/// The load. Dropping it ends it.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
    host: Arc<End>,
    peers: Arc<End>,
}

impl Load {
    /// Connects to so many peers, one connection each, and starts to send.
    ///
    /// # Errors
    /// Not all connections come up.
    pub fn start(space: &Space, peers: usize) -> anyhow::Result<Self> {
        let (here, there) = connect(space, peers)?;
        let mut load = Self {
            stop: Arc::default(),
            threads: Vec::new(),
            host: Arc::default(),
            peers: Arc::default(),
        };
        for (streams, end) in [(here, &load.host), (there, &load.peers)] {
            let (stop, end) = (Arc::clone(&load.stop), Arc::clone(end));
            load.threads
                .push(std::thread::spawn(move || run(streams, &end, &stop)));
        }
        Ok(load)
    }

    /// What was done so far.
    pub fn done(&self) -> Done {
        Done {
            host: self.host.sent.load(Ordering::Relaxed),
            peers: self.peers.sent.load(Ordering::Relaxed),
        }
    }

    /// Both ends still run.
    ///
    /// # Errors
    /// Why one does not.
    pub fn check(&mut self) -> anyhow::Result<()> {
        while let Some(at) = self.threads.iter().position(JoinHandle::is_finished) {
            match self.threads.remove(at).join() {
                Ok(result) => result?,
                Err(_) => anyhow::bail!("an end of the load panicked"),
            }
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn connect(space: &Space, peers: usize) -> anyhow::Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let listener = space.within(NEAR, || {
        Ok(TcpListener::bind(at(Ipv4Addr::UNSPECIFIED, PORT))?)
    })?;
    let accept = std::thread::spawn(move || -> anyhow::Result<Vec<TcpStream>> {
        (0..peers).map(|_| Ok(listener.accept()?.0)).collect()
    });
    let here = space.within(HOST, || {
        (0..peers)
            .map(|number| {
                let peer = at(peer(number), PORT);
                TcpStream::connect_timeout(&peer, Duration::from_secs(5))
                    .with_context(|| format!("cannot connect to {peer}"))
            })
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    let there = accept
        .join()
        .map_err(|_| anyhow::anyhow!("accepting panicked"))??;
    Ok((here, there))
}

fn run(streams: Vec<TcpStream>, end: &End, stop: &AtomicBool) -> anyhow::Result<()> {
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
        end.sent.fetch_add(sent, Ordering::Relaxed);
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
