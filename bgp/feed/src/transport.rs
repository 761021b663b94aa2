//! TCP connections: those that neighbours open, and those that we open.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bgp_core::{Event, Fault, Session, SessionConfig, cease, code, encode_notification};
use events::{NeighborId, Timestamp};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::connection::Connection;
use crate::neighbor::Neighbor;
use crate::store::Report;

/// Time between attempts to connect, before jitter.
pub(crate) const CONNECT_RETRY: Duration = Duration::from_secs(10);
/// Strangers are logged at most that often.
const STRANGER_LOG: Duration = Duration::from_secs(10);
const BACKLOG: i32 = 64;

/// Ends when the feed stops, or its handle is dropped.
pub(crate) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stopped| *stopped).await;
}

/// What every task of the feed shares.
#[derive(Clone)]
pub(crate) struct Shared {
    pub neighbors: Arc<BTreeMap<NeighborId, Arc<Neighbor>>>,
    pub reports: mpsc::Sender<Report>,
    pub shutdown: watch::Receiver<bool>,
    /// The number of the next connection.
    pub next: Arc<AtomicU64>,
    /// Connections from addresses that are no neighbour's.
    pub strangers: Arc<AtomicU64>,
}

impl Shared {
    /// A number that no session or connection had before.
    pub fn next_session(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the feed stops.
pub(crate) async fn listen(listener: TcpListener, shared: Shared) {
    let mut shutdown = shared.shutdown.clone();
    let mut logged: Option<Timestamp> = None;
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut shutdown) => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, source) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the connection is gone already: neither ends the feed.
                warn!(%error, "BGP: accept failed");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let address = source.ip().to_canonical();
        if let Some(neighbor) = shared.neighbors.get(&NeighborId::session(address)) {
            incoming(stream, neighbor, &shared);
        } else {
            let strangers = shared.strangers.fetch_add(1, Ordering::Relaxed) + 1;
            let now = clock::now();
            if logged.is_none_or(|last| now.since(last) >= STRANGER_LOG) {
                logged = Some(now);
                warn!(%address, total = strangers,
                    "BGP connection refused: no such bgp.neighbor is configured");
            }
        }
    }
}

fn incoming(stream: TcpStream, neighbor: &Arc<Neighbor>, shared: &Shared) {
    let mut session = Session::new(SessionConfig {
        passive: true,
        ..neighbor.config.clone()
    });
    session.step(Event::Start, clock::now());
    let id = shared.next.fetch_add(1, Ordering::Relaxed);
    match neighbor.admit(id, false, clock::now()) {
        Ok(stop) => {
            let connection = Connection::new(id, Arc::clone(neighbor), stream, session);
            let (reports, shutdown) = (shared.reports.clone(), shared.shutdown.clone());
            tokio::spawn(connection.run(reports, stop, shutdown));
        }
        Err(refusal) => {
            info!(neighbor = %neighbor.id.address, %refusal, "BGP connection refused");
            let fault = Fault {
                code: code::CEASE,
                subcode: cease::REJECTED,
                data: Vec::new(),
                text: String::new(),
            };
            // A fresh socket takes 21 bytes at once; if not, closing says the same.
            let _ = stream.try_write(&encode_notification(&fault));
        }
    }
}

/// Connects to a neighbour, again and again, while no session with it is established.
pub(crate) async fn connect(neighbor: Arc<Neighbor>, shared: Shared) {
    let mut shutdown = shared.shutdown.clone();
    loop {
        tokio::select! {
            () = stopped(&mut shutdown) => return,
            () = attempt(&neighbor, &shared) => {}
        }
        tokio::select! {
            () = stopped(&mut shutdown) => return,
            () = sleep(jittered(neighbor.config.connect_retry, clock::now())) => {}
        }
    }
}

async fn attempt(neighbor: &Arc<Neighbor>, shared: &Shared) {
    if neighbor.is_established() {
        return;
    }
    let mut session = Session::new(neighbor.config.clone());
    session.step(Event::Start, clock::now());
    let address = SocketAddr::new(neighbor.id.address, neighbor.settings.port);
    let limit = neighbor.config.connect_retry;
    let stream = match timeout(limit, open(neighbor.source, address)).await {
        Ok(Ok(stream)) => stream,
        failed => {
            let text = match failed {
                Ok(Err(error)) => format!("cannot connect to {address}: {error}"),
                _ => format!("cannot connect to {address}: no answer within {limit:?}"),
            };
            debug!(neighbor = %neighbor.id.address, error = text, "BGP");
            session.step(Event::ConnectFailed, clock::now());
            neighbor.failed(text);
            return;
        }
    };
    let id = shared.next.fetch_add(1, Ordering::Relaxed);
    if let Ok(stop) = neighbor.admit(id, true, clock::now()) {
        let connection = Connection::new(id, Arc::clone(neighbor), stream, session);
        let (reports, shutdown) = (shared.reports.clone(), shared.shutdown.clone());
        // A task of its own: it must outlive this one to say goodbye when the feed stops.
        let _ = tokio::spawn(connection.run(reports, stop, shutdown)).await;
    }
}

async fn open(source: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(to).await
}

/// 75 to 100 % of a time (RFC 4271 section 10); the clock's low digits are random enough.
fn jittered(time: Duration, now: Timestamp) -> Duration {
    let percent = 75 + u32::try_from(now.as_nanos() / 1000 % 26).unwrap_or(0);
    time * percent / 100
}

/// Addresses as packets carry them.
pub(crate) fn canonical(addresses: Vec<IpAddr>) -> Vec<events::PeerKey> {
    addresses.into_iter().map(events::PeerKey::of).collect()
}
