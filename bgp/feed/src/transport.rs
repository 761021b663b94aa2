//! TCP connections: those that neighbours open, and those that we open.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bgp_core::{Event, Fault, Jitter, Session, State, cease, code, encode_notification};
use events::Prefix;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::accept::Acceptor;
use crate::connection::Connection;
use crate::neighbor::Neighbor;
use crate::neighbors::{Caller, Neighbors};
use crate::protection::{Password, require_md5, require_ttl, send_max_ttl};
use crate::store::{Report, ReportKind};

const BACKLOG: i32 = 64;

/// Ends when the feed stops, or its handle is dropped.
pub(crate) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stopped| *stopped).await;
}

/// For timers that many speakers must not run in step. A hasher's keys are random.
pub(crate) fn jitter() -> Jitter {
    let random = RandomState::new().build_hasher().finish();
    Jitter::new((random >> 32) as u32)
}

/// What every task of the feed shares.
#[derive(Clone)]
pub(crate) struct Shared {
    pub neighbors: Arc<Neighbors>,
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

/// A socket that listens. `keys`: who must sign connections. `max_ttl`: some neighbour wants
/// packets with TTL 255, those of the handshake too. `hops`: no neighbour may be farther away.
pub(crate) fn bind<'a>(
    address: SocketAddr,
    keys: impl Iterator<Item = (Prefix, &'a Password)>,
    max_ttl: bool,
    hops: Option<u8>,
) -> io::Result<TcpListener> {
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
    for (peers, password) in keys {
        if peers.network().is_ipv4() == address.is_ipv4() {
            require_md5(&socket, peers, password)?;
        }
    }
    if let Some(hops) = hops {
        require_ttl(&socket, address.ip(), hops)?;
    } else if max_ttl {
        send_max_ttl(&socket, address.is_ipv6())?;
    }
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the feed stops.
pub(crate) async fn listen(listener: TcpListener, shared: Shared) {
    let mut acceptor = Acceptor::new(listener, shared.shutdown.clone(), "BGP");
    while let Some((stream, source)) = acceptor.next().await {
        let refusal = match shared.neighbors.caller(source, clock::now()) {
            Caller::Neighbor {
                neighbor,
                forgotten,
            } => {
                if let Some(neighbor) = forgotten {
                    let report = Report {
                        neighbor,
                        session: 0,
                        kind: ReportKind::Forgotten,
                    };
                    if shared.reports.send(report).await.is_err() {
                        return;
                    }
                }
                incoming(stream, &neighbor, &shared);
                continue;
            }
            Caller::TooMany => "as many neighbors are connected as bgp.dynamic.limit allows",
            Caller::Stranger => "no such bgp.neighbor is configured",
        };
        shared.strangers.fetch_add(1, Ordering::Relaxed);
        acceptor.refuse(source.ip().to_canonical(), refusal);
    }
}

fn incoming(stream: TcpStream, neighbor: &Arc<Neighbor>, shared: &Shared) {
    let address = neighbor.id.address;
    if let Some(hops) = neighbor.settings.ttl_security
        && let Err(error) = require_ttl(&stream, address, hops)
    {
        warn!(neighbor = %address, %error, "BGP connection refused");
        neighbor.failed(format!("connection refused: {error}"));
        return;
    }
    let mut session = Session::new(neighbor.session_config());
    session.step(Event::StartPassive, clock::now(), jitter());
    let id = shared.next.fetch_add(1, Ordering::Relaxed);
    match neighbor.admit(id, false, clock::now()) {
        Ok(orders) => {
            let connection = Connection::new(id, Arc::clone(neighbor), stream, session);
            let (reports, shutdown) = (shared.reports.clone(), shared.shutdown.clone());
            tokio::spawn(connection.run(reports, orders, shutdown));
        }
        Err(refusal) => {
            info!(neighbor = %address, %refusal, "BGP connection refused");
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
pub(crate) async fn connect(neighbor: Arc<Neighbor>, port: u16, shared: Shared) {
    let mut shutdown = shared.shutdown.clone();
    loop {
        if !neighbor.rests(clock::now()) {
            tokio::select! {
                () = stopped(&mut shutdown) => return,
                () = attempts(&neighbor, port, &shared) => {}
            }
        }
        tokio::select! {
            () = stopped(&mut shutdown) => return,
            () = sleep(jitter().of(neighbor.config.connect_retry)) => {}
        }
    }
}

/// From a start of the state machine until it is Idle again.
async fn attempts(neighbor: &Arc<Neighbor>, port: u16, shared: &Shared) {
    let mut session = Session::new(neighbor.session_config());
    session.step(Event::Start, clock::now(), jitter());
    loop {
        let deadline = session.deadline();
        let wait = deadline.map_or(Duration::MAX, |at| at.since(clock::now()));
        let event = match session.state() {
            State::Connect => tokio::select! {
                opened = open(neighbor, port) => match opened {
                    Ok(stream) => {
                        session = match run(neighbor, stream, session, shared).await {
                            Some(session) => session,
                            None => return,
                        };
                        continue;
                    }
                    Err(error) => {
                        let address = neighbor.id.address;
                        let text = format!("cannot connect to {address} port {port}: {error}");
                        debug!(neighbor = %address, error = text, "BGP");
                        neighbor.failed(text.clone());
                        Event::TcpConnectionFails { text }
                    }
                },
                () = sleep(wait), if deadline.is_some() => {
                    let time = neighbor.config.connect_retry;
                    neighbor.failed(format!(
                        "cannot connect to {} port {port}: no answer within {time:?}",
                        neighbor.id.address
                    ));
                    Event::ConnectRetryTimerExpires
                }
            },
            State::Active if deadline.is_some() => {
                sleep(wait).await;
                if neighbor.rests(clock::now()) {
                    Event::ManualStop
                } else {
                    Event::ConnectRetryTimerExpires
                }
            }
            _ => return,
        };
        session.step(event, clock::now(), jitter());
    }
}

/// Runs a connection that we opened until it is over. `None`: another one was there first, or the
/// feed stops.
async fn run(
    neighbor: &Arc<Neighbor>,
    stream: TcpStream,
    session: Session,
    shared: &Shared,
) -> Option<Session> {
    let id = shared.next.fetch_add(1, Ordering::Relaxed);
    let orders = neighbor.admit(id, true, clock::now()).ok()?;
    let connection = Connection::new(id, Arc::clone(neighbor), stream, session);
    let (reports, shutdown) = (shared.reports.clone(), shared.shutdown.clone());
    // A task of its own: it must outlive this one to say goodbye when the feed stops.
    tokio::spawn(connection.run(reports, orders, shutdown))
        .await
        .ok()
}

async fn open(neighbor: &Neighbor, port: u16) -> io::Result<TcpStream> {
    let address = neighbor.id.address;
    let (socket, to) = match address {
        IpAddr::V4(_) => (TcpSocket::new_v4()?, SocketAddr::new(address, port)),
        IpAddr::V6(v6) => {
            let scope = match &neighbor.interface {
                Some(name) => nix::net::if_::if_nametoindex(name.as_str())
                    .map_err(|error| io::Error::other(format!("interface {name}: {error}")))?,
                None => 0,
            };
            let to = SocketAddr::V6(SocketAddrV6::new(v6, port, 0, scope));
            (TcpSocket::new_v6()?, to)
        }
    };
    if let Some(password) = &neighbor.password {
        require_md5(&socket, Prefix::from(address), password)?;
    }
    if let Some(hops) = neighbor.settings.ttl_security {
        require_ttl(&socket, address, hops)?;
    }
    if let Some(source) = neighbor.source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(to).await
}

/// Addresses as packets carry them.
pub(crate) fn canonical(addresses: Vec<IpAddr>) -> Vec<events::PeerKey> {
    addresses.into_iter().map(events::PeerKey::of).collect()
}
