//! Short connections, at a rate: in order, refused, reset, inbound, given up.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use lab::ns::Space;
use lab::sys;
use socket2::{Domain, Protocol, Socket, Type};

use crate::world::{CLOSED_PORT, HOST, NEAR, OWN, SILENT, at, peer};

/// Both ends listen here.
pub const PORT: u16 = 8020;
/// Peers that are connected to in turn.
const PEERS: usize = 200;

/// How a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The host connects, sends and closes.
    Outbound,
    /// A peer connects, sends and closes.
    Inbound,
    /// The host connects, sends and resets.
    Reset,
    /// Nobody listens.
    Refused,
    /// Nobody answers, and the host gives up.
    Cancelled,
}

/// All kinds.
pub const KINDS: [Kind; 5] = [
    Kind::Outbound,
    Kind::Inbound,
    Kind::Reset,
    Kind::Refused,
    Kind::Cancelled,
];

/// What was done.
#[derive(Default)]
pub struct Totals {
    /// Connections by kind, in the order of [`KINDS`].
    by_kind: [AtomicU64; 5],
    /// Attempts that ended otherwise than they should.
    failed: AtomicU64,
}

/// Connections made so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// By kind, in the order of [`KINDS`].
    pub by_kind: [u64; 5],
    /// Attempts that ended otherwise than they should.
    pub failed: u64,
}

impl Done {
    /// All attempts.
    pub fn attempts(&self) -> u64 {
        self.by_kind.iter().sum::<u64>() + self.failed
    }
}

/// The churn. Dropping it ends it.
pub struct Churn {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    totals: Arc<Totals>,
    rate: Arc<AtomicU64>,
}

impl Churn {
    /// So many connections per second, of these kinds in equal parts.
    ///
    /// # Errors
    /// A port is taken.
    pub fn start(space: &Space, kinds: &[Kind], rate: u64) -> anyhow::Result<Self> {
        let mut churn = Self {
            stop: Arc::default(),
            threads: Vec::new(),
            totals: Arc::default(),
            rate: Arc::new(AtomicU64::new(rate)),
        };
        for role in [HOST, NEAR] {
            let listener = space.within(role, listen)?;
            let stop = Arc::clone(&churn.stop);
            churn
                .threads
                .push(std::thread::spawn(move || accept(&listener, &stop)));
        }
        // A namespace is a thread's: those that connect from the host, and those that connect to it.
        for role in [HOST, NEAR] {
            let mine: Vec<Kind> = kinds
                .iter()
                .copied()
                .filter(|kind| (*kind == Kind::Inbound) == (role == NEAR))
                .collect();
            if mine.is_empty() {
                continue;
            }
            let share = (mine.len() as u64, kinds.len() as u64);
            let namespace = space.name(role);
            let (stop, totals) = (Arc::clone(&churn.stop), Arc::clone(&churn.totals));
            let rate = Arc::clone(&churn.rate);
            churn.threads.push(std::thread::spawn(move || {
                if lab::ns::enter(&namespace).is_ok() {
                    connect(&mine, share, &rate, &totals, &stop);
                }
            }));
        }
        Ok(churn)
    }

    /// From now on so many per second.
    pub fn set_rate(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// What was done so far.
    pub fn done(&self) -> Done {
        Done {
            by_kind: std::array::from_fn(|kind| self.totals.by_kind[kind].load(Ordering::Relaxed)),
            failed: self.totals.failed.load(Ordering::Relaxed),
        }
    }

    /// Ends it and tells what was done in all.
    pub fn finish(mut self) -> Done {
        self.end();
        self.done()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.end();
    }
}

fn listen() -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&at(Ipv4Addr::UNSPECIFIED, PORT).into())?;
    socket.listen(16_384)?;
    // accept(2) inherits it on no system that matters, but wakes up to see whether to stop.
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket.into())
}

/// Reads each connection to its end, so that it is closed in order.
fn accept(listener: &TcpListener, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
            while matches!(stream.read(&mut buffer), Ok(count) if count > 0) {}
        }
    }
}

fn connect(
    kinds: &[Kind],
    (mine, all): (u64, u64),
    rate: &AtomicU64,
    totals: &Totals,
    stop: &AtomicBool,
) {
    sys::precise_timers();
    let mut given_up = std::collections::VecDeque::new();
    let mut owed = 0.0;
    let mut last = sys::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let now = sys::now();
        let rate = (rate.load(Ordering::Relaxed) * mine) as f64 / all as f64;
        owed += (now - last) as f64 / 1e9 * rate;
        // What cannot be kept up with is not made up for.
        owed = owed.min(rate / 20.0);
        last = now;
        while owed >= 1.0 && !stop.load(Ordering::Relaxed) {
            owed -= 1.0;
            let kind = kinds[number % kinds.len()];
            match one(kind, number / kinds.len()) {
                Ok(socket) => {
                    totals.by_kind[kind as usize].fetch_add(1, Ordering::Relaxed);
                    given_up.extend(socket.map(|socket| (sys::now(), socket)));
                }
                Err(_) => {
                    totals.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
            number += 1;
        }
        // An attempt is given up after some milliseconds.
        while given_up
            .front()
            .is_some_and(|(since, _)| sys::now() - since > 20_000_000)
        {
            given_up.pop_front();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One connection; the socket is returned where its end is still to come.
fn one(kind: Kind, number: usize) -> anyhow::Result<Option<Socket>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_write_timeout(Some(Duration::from_secs(1)))?;
    let remote: SocketAddr = match kind {
        Kind::Outbound | Kind::Reset => at(peer(number % PEERS), PORT),
        Kind::Refused => at(peer(number % PEERS), CLOSED_PORT),
        Kind::Cancelled => at(SILENT, PORT),
        Kind::Inbound => {
            socket.bind(&at(peer(number % PEERS), 0).into())?;
            at(OWN, PORT)
        }
    };
    match kind {
        Kind::Refused => {
            let error = socket.connect(&remote.into()).err();
            anyhow::ensure!(
                error.and_then(|error| error.raw_os_error()) == Some(libc::ECONNREFUSED),
                "not refused"
            );
            return Ok(None);
        }
        Kind::Cancelled => {
            socket.set_nonblocking(true)?;
            let error = socket.connect(&remote.into()).err();
            anyhow::ensure!(
                error.and_then(|error| error.raw_os_error()) == Some(libc::EINPROGRESS),
                "not under way"
            );
            return Ok(Some(socket));
        }
        Kind::Reset => socket.set_linger(Some(Duration::ZERO))?,
        Kind::Outbound | Kind::Inbound => {}
    }
    socket
        .connect(&remote.into())
        .with_context(|| format!("cannot connect to {remote}"))?;
    socket.send(&[7; 100])?;
    Ok(None)
}
