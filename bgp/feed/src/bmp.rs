//! The BMP station (RFC 7854): routers tell their neighbours' tables, which go to the RIB like those
//! of our own sessions.
//!
//! One task for each connection. BMP has no timers and no way back: where the RIB's task is busy the
//! connection is not read, and TCP holds the router back. A connection has one message in memory at
//! most. What cannot be read ends that router's connection, and its routes are stale.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bgp_core::bmp::{BmpFramer, MAX_LENGTH, Statistic};
use bgp_core::{NeighborConfig, Station, StationAction, StationCounts, StationPeer};
use events::{Asn, EgressName, NeighborId, RibView, SessionDownReason, Timestamp};
use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::accept::Acceptor;
use crate::store::{Report, ReportKind};
use crate::transport::{Shared, stopped};

const READ_CHUNK: usize = 64 * 1024;
/// Time between attempts to connect, and for one.
const CONNECT_RETRY: Duration = Duration::from_secs(10);
/// BMP says nothing while nothing happens: TCP has to find out that a router is gone.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Tables that one router may bring into the RIB, those that are gone included.
const MAX_TABLES: usize = 8192;

/// What the station is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BmpSettings {
    /// Where routers connect to.
    pub listen: Vec<SocketAddr>,
    /// The routers; others are refused.
    pub routers: Vec<RouterSettings>,
}

/// A monitored router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterSettings {
    /// The address that it connects from.
    pub address: IpAddr,
    /// Connect to this port of it, instead of waiting for it.
    pub connect: Option<u16>,
    /// The egress that its neighbours' routes stand for.
    pub egress: EgressName,
    /// Neighbours of it that stand for another egress, by address.
    pub peers: BTreeMap<IpAddr, EgressName>,
    /// Tables that go into the RIB.
    pub views: Vec<RibView>,
    /// The most prefixes per family that a table may have; further ones are left out.
    pub max_prefixes: u32,
}

impl RouterSettings {
    fn egress(&self, id: NeighborId) -> &EgressName {
        self.peers.get(&id.address).unwrap_or(&self.egress)
    }
}

/// How a monitored router fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// Its address.
    pub address: IpAddr,
    /// Its connection is up.
    pub connected: bool,
    /// Since when it is as it is.
    pub since: Timestamp,
    /// Its name (sysName).
    pub system_name: Option<String>,
    /// What it is (sysDescr).
    pub system_description: Option<String>,
    /// Its peers that are up.
    pub peers: usize,
    /// Messages in this connection, by type (RFC 7854 section 4.1).
    pub messages: [u64; 8],
    /// Route Monitoring of peers without Peer Up, passed over.
    pub unannounced: u64,
    /// UPDATEs that cannot be read; each ends the table that it is of.
    pub refused: u64,
    /// Why the last connection ended.
    pub last_error: Option<String>,
    /// Its tables, those that are gone included.
    pub tables: Vec<RouterTable>,
    /// The newest Statistics Report of each peer that is up.
    pub statistics: Vec<PeerStatistics>,
}

/// A peer's Statistics Report (RFC 7854 section 4.8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatistics {
    /// The peer's address; unspecified for a Loc-RIB.
    pub address: IpAddr,
    /// Its AS.
    pub asn: Asn,
    /// Its distinguisher; 0 for the global instance.
    pub distinguisher: u64,
    /// Figures, in the router's order.
    pub figures: Vec<Statistic>,
}

/// A table of a monitored router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterTable {
    /// How the RIB calls it.
    pub neighbor: NeighborId,
    /// The neighbour's AS.
    pub asn: Asn,
    /// The egress that its routes stand for.
    pub egress: EgressName,
    /// The router tells of it.
    pub up: bool,
    /// Since when it is as it is.
    pub since: Timestamp,
    /// UPDATEs since the start.
    pub updates: u64,
    /// Attributes in error (RFC 7606), since the start.
    pub attribute_errors: u64,
    /// Why it went down last.
    pub last_error: Option<String>,
    /// Its size in the RIB.
    pub table: bgp_core::TableStatus,
}

/// What the tasks of one router share.
#[derive(Debug)]
pub(crate) struct Router {
    settings: RouterSettings,
    /// The number of its newest connection; older ones end.
    newest: watch::Sender<u64>,
    state: Mutex<RouterState>,
}

#[derive(Debug)]
struct RouterState {
    connected: Option<u64>,
    since: Timestamp,
    system_name: Option<String>,
    system_description: Option<String>,
    peers: usize,
    counts: StationCounts,
    last_error: Option<String>,
    tables: BTreeMap<NeighborId, TableState>,
    statistics: Vec<PeerStatistics>,
}

#[derive(Debug)]
struct TableState {
    asn: Asn,
    up: bool,
    since: Timestamp,
    updates: u64,
    attribute_errors: u64,
    last_error: Option<String>,
}

impl Router {
    pub fn new(settings: RouterSettings, now: Timestamp) -> Self {
        Self {
            settings,
            newest: watch::channel(0).0,
            state: Mutex::new(RouterState {
                connected: None,
                since: now,
                system_name: None,
                system_description: None,
                peers: 0,
                counts: StationCounts::default(),
                last_error: None,
                tables: BTreeMap::new(),
                statistics: Vec::new(),
            }),
        }
    }

    /// Never held across an await.
    fn state(&self) -> MutexGuard<'_, RouterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn status(&self, size: impl Fn(NeighborId) -> bgp_core::TableStatus) -> RouterStatus {
        let state = self.state();
        RouterStatus {
            address: self.settings.address,
            connected: state.connected.is_some(),
            since: state.since,
            system_name: state.system_name.clone(),
            system_description: state.system_description.clone(),
            peers: state.peers,
            messages: state.counts.messages,
            unannounced: state.counts.unannounced,
            refused: state.counts.refused,
            last_error: state.last_error.clone(),
            tables: state
                .tables
                .iter()
                .map(|(id, table)| RouterTable {
                    neighbor: *id,
                    asn: table.asn,
                    egress: self.settings.egress(*id).clone(),
                    up: table.up,
                    since: table.since,
                    updates: table.updates,
                    attribute_errors: table.attribute_errors,
                    last_error: table.last_error.clone(),
                    table: size(*id),
                })
                .collect(),
            statistics: state.statistics.clone(),
        }
    }
}

/// The routers of the settings.
pub(crate) type Routers = Arc<BTreeMap<IpAddr, Arc<Router>>>;

/// Accepts routers until the feed stops.
pub(crate) async fn listen(listener: TcpListener, routers: Routers, shared: Shared) {
    let mut acceptor = Acceptor::new(listener, shared.shutdown.clone(), "BMP");
    while let Some((stream, source)) = acceptor.next().await {
        let address = source.ip().to_canonical();
        if let Some(router) = routers.get(&address) {
            tokio::spawn(run(stream, Arc::clone(router), shared.clone()));
        } else {
            acceptor.refuse(address, "no such bgp.bmp.router is configured");
        }
    }
}

/// Connects to a router, again and again.
pub(crate) async fn connect(router: Arc<Router>, port: u16, shared: Shared) {
    let mut shutdown = shared.shutdown.clone();
    let address = SocketAddr::new(router.settings.address, port);
    loop {
        let opened = tokio::select! {
            () = stopped(&mut shutdown) => return,
            opened = timeout(CONNECT_RETRY, TcpStream::connect(address)) => opened,
        };
        match opened {
            Ok(Ok(stream)) => run(stream, Arc::clone(&router), shared.clone()).await,
            Ok(Err(error)) => {
                router.state().last_error = Some(format!("cannot connect to {address}: {error}"));
            }
            Err(_) => {
                router.state().last_error = Some(format!("cannot connect to {address}: no answer"));
            }
        }
        tokio::select! {
            () = stopped(&mut shutdown) => return,
            () = sleep(CONNECT_RETRY) => {}
        }
    }
}

/// One connection, until it ends.
async fn run(stream: TcpStream, router: Arc<Router>, shared: Shared) {
    let address = router.settings.address;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 4)
        .with_retries(3);
    if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&keepalive) {
        warn!(router = %address, %error, "BMP: no TCP keepalives");
    }
    let id = shared.next_session();
    router.newest.send_replace(id);
    {
        let mut state = router.state();
        state.connected = Some(id);
        state.since = clock::now();
        state.counts = StationCounts::default();
        state.peers = 0;
        state.statistics.clear();
    }
    info!(router = %address, "BMP connection up");
    let mut connection = Connection {
        id,
        station: Station::new(address),
        sessions: BTreeMap::new(),
        shared,
        router,
    };
    let why = connection.read(stream).await;
    warn!(router = %address, reason = why, "BMP connection ended; its routes are stale");
    let actions = connection.station.lost(&why);
    connection.perform(actions).await;
    let mut state = connection.router.state();
    state.last_error = Some(why);
    if state.connected == Some(id) {
        state.connected = None;
        state.since = clock::now();
        state.peers = 0;
        state.statistics.clear();
    }
}

struct Connection {
    id: u64,
    station: Station,
    /// Sessions of the tables that are up.
    sessions: BTreeMap<NeighborId, u64>,
    shared: Shared,
    router: Arc<Router>,
}

impl Connection {
    /// Reads until the end, and says why it ended.
    async fn read(&mut self, mut stream: TcpStream) -> String {
        let mut shutdown = self.shared.shutdown.clone();
        let mut newest = self.router.newest.subscribe();
        let mut framer = BmpFramer::default();
        let mut chunk = vec![0; READ_CHUNK];
        loop {
            let id = self.id;
            let count = tokio::select! {
                () = stopped(&mut shutdown) => return "the feed stops".to_owned(),
                _ = newest.wait_for(|newest| *newest != id) => {
                    return "the router opened a new connection".to_owned();
                }
                count = stream.read(&mut chunk) => count,
            };
            match count {
                Ok(0) => {
                    let terminated = self.station.terminated.take();
                    return terminated.map_or_else(
                        || "the router closed the connection".to_owned(),
                        |text| format!("the router ended it: {text}"),
                    );
                }
                Ok(count) => framer.push(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return error.to_string(),
            }
            loop {
                let handled = match framer.next_frame() {
                    Ok(Some(frame)) => self.station.handle(&frame),
                    Ok(None) => break,
                    Err(error) => Err(error),
                };
                let actions = match handled {
                    Ok(actions) => actions,
                    Err(error) => return format!("what it sends cannot be read: {error}"),
                };
                if !self.perform(actions).await {
                    return "the feed stops".to_owned();
                }
            }
            debug_assert!(framer.pending() <= MAX_LENGTH);
            self.note();
        }
    }

    /// What the connection's state is, for those who ask.
    fn note(&self) {
        let mut state = self.router.state();
        if state.connected == Some(self.id) {
            // Of Statistics Report, Peer Down and Peer Up.
            let of_peers = |counts: &StationCounts| {
                let [_, reports, down, up, ..] = counts.messages;
                (reports, down, up)
            };
            if of_peers(&state.counts) != of_peers(&self.station.counts) {
                let reported = self
                    .station
                    .peers()
                    .filter(|peer| !peer.statistics.is_empty());
                state.statistics = reported.map(PeerStatistics::of).collect();
            }
            state.counts = self.station.counts;
            state.peers = self.station.peers().count();
            state.system_name.clone_from(&self.station.system_name);
            state
                .system_description
                .clone_from(&self.station.system_description);
        }
    }

    /// False: nobody takes it any more.
    async fn perform(&mut self, actions: Vec<StationAction>) -> bool {
        for action in actions {
            for report in self.reports(action, clock::now()) {
                if self.shared.reports.send(report).await.is_err() {
                    return false;
                }
            }
        }
        true
    }

    fn reports(&mut self, action: StationAction, now: Timestamp) -> Vec<Report> {
        let settings = &self.router.settings;
        let id = match &action {
            StationAction::Up(id, _)
            | StationAction::Update(id, _)
            | StationAction::Down(id, _) => *id,
        };
        let events::Learned::Bmp { view, .. } = id.learned else {
            return Vec::new();
        };
        if !settings.views.contains(&view) {
            return Vec::new();
        }
        let mut state = self.router.state();
        if !state.tables.contains_key(&id) && state.tables.len() >= MAX_TABLES {
            state.last_error = Some(format!("more than {MAX_TABLES} tables; {id} is left out"));
            return Vec::new();
        }
        let table = state.tables.entry(id).or_insert_with(|| TableState {
            asn: Asn(0),
            up: false,
            since: now,
            updates: 0,
            attribute_errors: 0,
            last_error: None,
        });
        let report = |session, kind| Report {
            neighbor: id,
            session,
            kind,
        };
        match action {
            StationAction::Up(_, negotiated) => {
                let session = self.shared.next_session();
                self.sessions.insert(id, session);
                (table.asn, table.up, table.since) = (negotiated.asn, true, now);
                let config = NeighborConfig {
                    id,
                    egress: settings.egress(id).clone(),
                    max_prefixes: settings.max_prefixes,
                };
                info!(neighbor = %id, asn = %table.asn, egress = %config.egress, "BMP table up");
                vec![
                    report(session, ReportKind::Add(config)),
                    report(session, ReportKind::Up(negotiated, None, now)),
                ]
            }
            StationAction::Update(_, update) => {
                table.updates += 1;
                let errors = u64::try_from(update.errors.len()).unwrap_or(0);
                table.attribute_errors += errors;
                let session = self.sessions.get(&id).copied();
                session
                    .map(|session| report(session, ReportKind::Update(update, now)))
                    .into_iter()
                    .collect()
            }
            StationAction::Down(_, reason) => {
                let text = describe(&reason);
                warn!(neighbor = %id, reason = text, "BMP table down; its routes are stale");
                (table.up, table.since, table.last_error) = (false, now, Some(text));
                let session = self.sessions.remove(&id);
                session
                    .map(|session| report(session, ReportKind::Down(reason)))
                    .into_iter()
                    .collect()
            }
        }
    }
}

impl PeerStatistics {
    fn of(peer: &StationPeer) -> Self {
        let header = &peer.up.peer;
        Self {
            address: header.address,
            asn: header.asn,
            distinguisher: header.distinguisher,
            figures: peer.statistics.clone(),
        }
    }
}

fn describe(reason: &SessionDownReason) -> String {
    match reason {
        SessionDownReason::ConnectionLost { text } => text.clone(),
        other => crate::neighbor::describe(other),
    }
}
