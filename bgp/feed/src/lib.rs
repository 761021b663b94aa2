//! BGP sessions on real sockets, driving the pure core.
//!
//! ```text
//!  listener ──┐                             ┌── queries, watched addresses
//!  connector ─┴▶ one task per connection ──▶ RIB's task ──▶ sink (BgpSignal)
//!                (socket, timers, Session)    (Rib, Outbox)
//! ```
//!
//! Every channel is bounded. A sink that is full holds up the RIB's task only: sessions go on reading
//! and keep their timers, and facts that wait are replaced by newer ones. Nothing is ever announced.

mod accept;
pub mod archive;
mod archive_capture;
pub mod archive_replay;
pub mod archive_table;
mod bmp;
mod connection;
mod neighbor;
mod neighbors;
mod protection;
mod ris;
mod rpki;
mod settings;
mod status;
mod store;
mod transport;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bgp_core::SessionConfig;
pub use bgp_core::{
    Capability, Families, HistoryLimits, RibLimits, RibMemory, RibPage, RibRequest, Role, State,
    Vrp, Vrps,
};
pub use bmp::{BmpSettings, PeerStatistics, RouterSettings, RouterStatus, RouterTable};
use events::{Asn, BgpSignal, PeerKey, Prefix, RibQuery, RibRoute, Timestamp};
pub use ris::{RisSettings, RisStatus};
pub use rpki::RpkiSettings;
pub use settings::{
    BGP_PORT, DynamicSettings, NeighborSettings, PeerSettings, Settings, StartError,
};
pub use status::{Counters, LastNotification, NeighborStatus};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::warn;

use neighbor::Neighbor;
pub use neighbor::NoRefresh;
use neighbors::{Dynamic, Neighbors};
use protection::Password;
pub use store::RibStatus;
use store::{Report, Request, Store};
use transport::Shared;

/// Reports of sessions that wait for the RIB's task; each session has a backlog besides.
const REPORTS: usize = 1024;
/// Queries that wait for the RIB's task; more callers wait in line.
const REQUESTS: usize = 16;
/// [`Handle::stop`] takes no longer.
const STOP: Duration = Duration::from_secs(2);

/// A running feed. Dropping it stops the feed too, without waiting.
#[derive(Debug)]
pub struct Handle {
    watched: watch::Sender<Vec<PeerKey>>,
    vrps: watch::Sender<Arc<Vrps>>,
    requests: mpsc::Sender<Request>,
    shutdown: watch::Sender<bool>,
    store: JoinHandle<()>,
    strangers: Arc<AtomicU64>,
    listening: Vec<SocketAddr>,
    bmp_listening: Vec<SocketAddr>,
    routers: bmp::Routers,
    ris: Option<Arc<ris::Client>>,
}

/// What is listened to besides our own sessions.
#[derive(Clone, Debug, Default)]
pub struct Stations {
    /// Monitored routers.
    pub bmp: BmpSettings,
    /// RIS Live.
    pub ris: Option<RisSettings>,
}

/// Starts the feed; its signals go to `sink`. Must be called within a Tokio runtime.
///
/// # Errors
/// A setting that is impossible, or an address that cannot be listened on.
pub fn spawn(settings: Settings, sink: mpsc::Sender<BgpSignal>) -> Result<Handle, StartError> {
    spawn_with(settings, Stations::default(), sink)
}

/// [`spawn`], with monitored routers and RIS Live.
///
/// # Errors
/// Those of [`spawn`].
pub fn spawn_with(
    settings: Settings,
    stations: Stations,
    sink: mpsc::Sender<BgpSignal>,
) -> Result<Handle, StartError> {
    settings.check()?;
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(StartError::Runtime);
    }
    let now = clock::now();
    let neighbors = Arc::new(neighbors(&settings, now)?);
    let listeners = listeners(&settings, &neighbors)?;
    let listening = listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect();

    let (reports, reports_receiver) = mpsc::channel::<Report>(REPORTS);
    let (requests, requests_receiver) = mpsc::channel(REQUESTS);
    let (watched, watched_receiver) = watch::channel(Vec::new());
    let (vrps, vrps_receiver) = watch::channel(Arc::default());
    let (shutdown, shutdown_receiver) = watch::channel(false);
    rpki::spawn(settings.rpki, vrps.clone(), &shutdown_receiver);
    let strangers = Arc::new(AtomicU64::new(0));
    let shared = Shared {
        neighbors: Arc::clone(&neighbors),
        reports,
        shutdown: shutdown_receiver,
        next: Arc::new(AtomicU64::new(1)),
        strangers: Arc::clone(&strangers),
    };
    for listener in listeners {
        tokio::spawn(transport::listen(listener, shared.clone()));
    }
    for neighbor in neighbors.all() {
        if let Some(port) = neighbor.connect_to {
            tokio::spawn(transport::connect(neighbor, port, shared.clone()));
        }
    }
    let mut bmp_listening = Vec::new();
    let routers = routers(&stations.bmp, now);
    if !routers.is_empty() {
        for &address in &stations.bmp.listen {
            let listener = transport::bind(address, std::iter::empty(), false, None)
                .map_err(|source| StartError::Listen { address, source })?;
            bmp_listening.extend(listener.local_addr());
            tokio::spawn(bmp::listen(listener, Arc::clone(&routers), shared.clone()));
        }
    }
    for settings in &stations.bmp.routers {
        if let Some(port) = settings.connect
            && let Some(router) = routers.get(&settings.address.to_canonical())
        {
            tokio::spawn(bmp::connect(Arc::clone(router), port, shared.clone()));
        }
    }
    let ris = stations
        .ris
        .map(|settings| Arc::new(ris::Client::new(settings, now)));
    if let Some(client) = &ris {
        tokio::spawn(ris::run(Arc::clone(client), shared.clone()));
    }
    // Sessions, listeners and connectors alone hold `reports`: when all are gone, the store ends.
    drop(shared);
    let store = Store::new(neighbors, settings.rib).run(
        reports_receiver,
        requests_receiver,
        watched_receiver,
        vrps_receiver,
        sink,
    );
    Ok(Handle {
        watched,
        vrps,
        requests,
        shutdown,
        store: tokio::spawn(store),
        strangers,
        listening,
        bmp_listening,
        routers,
        ris,
    })
}

fn routers(settings: &BmpSettings, now: Timestamp) -> bmp::Routers {
    let router = |settings: &RouterSettings| {
        let mut settings = settings.clone();
        settings.address = settings.address.to_canonical();
        (settings.address, Arc::new(bmp::Router::new(settings, now)))
    };
    Arc::new(settings.routers.iter().map(router).collect())
}

/// The neighbours of the settings, with their keys.
fn neighbors(settings: &Settings, now: Timestamp) -> Result<Neighbors, StartError> {
    let mut known = BTreeMap::new();
    for configured in &settings.neighbors {
        let address = configured.address.to_canonical();
        let peer = configured.peer.clone();
        let config = session_config(settings, &peer, vec![configured.asn]);
        let password = password(&peer, &address)?;
        let same_family = |ip: &IpAddr| ip.is_ipv4() == address.is_ipv4() && !ip.is_unspecified();
        let mut sources = settings.listen.iter().map(SocketAddr::ip);
        let mut neighbor = Neighbor::new(address, peer, config, now);
        neighbor.source = sources.find(same_family);
        neighbor.connect_to = (!configured.passive).then_some(configured.port);
        neighbor.interface.clone_from(&configured.interface);
        neighbor.password = password;
        known.insert(neighbor.id, Arc::new(neighbor));
    }
    let mut dynamic = Vec::new();
    for group in &settings.dynamic {
        dynamic.push(Dynamic {
            settings: group.clone(),
            config: session_config(settings, &group.peer, group.asn.clone()),
            password: password(&group.peer, &group.prefix)?,
        });
    }
    Ok(Neighbors::new(known, dynamic))
}

fn password(peer: &PeerSettings, of: &impl ToString) -> Result<Option<Password>, StartError> {
    let read = |path: &PathBuf| {
        Password::read(path).map_err(|source| StartError::Password {
            neighbor: of.to_string(),
            path: path.clone(),
            source,
        })
    };
    peer.password_file.as_ref().map(read).transpose()
}

fn session_config(settings: &Settings, peer: &PeerSettings, peer_as: Vec<Asn>) -> SessionConfig {
    SessionConfig {
        local_as: settings.local_as,
        router_id: settings.router_id,
        peer_as,
        hold_time: settings.hold_time,
        connect_retry: settings.connect_retry,
        send_hold: settings.send_hold,
        add_path: peer.add_path,
        role: peer.role,
        role_strict: peer.role_strict,
        plain_open: false,
    }
}

fn listeners(settings: &Settings, neighbors: &Neighbors) -> Result<Vec<TcpListener>, StartError> {
    let mut listeners = Vec::new();
    if settings.neighbors.is_empty() && settings.dynamic.is_empty() {
        return Ok(listeners);
    }
    let known = neighbors.all();
    let single = known
        .iter()
        .map(|n| (n.id.address, n.settings.ttl_security));
    let groups = settings.dynamic.iter();
    let groups = groups.map(|group| (group.prefix.network(), group.peer.ttl_security));
    let hops: Vec<(IpAddr, Option<u8>)> = single.chain(groups).collect();
    let max_ttl = hops.iter().any(|(_, hops)| hops.is_some());
    // What comes before a connection is accepted is held to it only where all of a family want it.
    let most = |of: IpAddr| {
        let mut family = hops
            .iter()
            .filter(|(address, _)| address.is_ipv4() == of.is_ipv4());
        family.try_fold(None, |most: Option<u8>, (_, hops)| {
            Some(most.max(Some((*hops)?)))
        })?
    };
    for &address in &settings.listen {
        let single = known
            .iter()
            .filter_map(|n| Some((Prefix::from(n.id.address), n.password.as_ref()?)));
        let keys = single.chain(neighbors.group_keys());
        match transport::bind(address, keys, max_ttl, most(address.ip())) {
            Ok(listener) => listeners.push(listener),
            // A kernel without IPv6 is no reason to do without IPv4.
            Err(error)
                if error.raw_os_error() == Some(libc::EAFNOSUPPORT)
                    && address.ip().is_unspecified() =>
            {
                warn!(%address, %error, "BGP does not listen there");
            }
            Err(source) => return Err(StartError::Listen { address, source }),
        }
    }
    Ok(listeners)
}

impl Handle {
    /// Replaces the watched addresses (peers and anchors). Facts come for those that are new and
    /// for every change; see [`BgpSignal::Fact`].
    pub fn watch(&self, addresses: Vec<IpAddr>) {
        self.watched.send_replace(transport::canonical(addresses));
    }

    /// How the neighbours fare, by address. Empty if the feed has ended.
    pub async fn neighbors(&self) -> Vec<NeighborStatus> {
        let (answer, receiver) = oneshot::channel();
        if self
            .requests
            .send(Request::Neighbors(answer))
            .await
            .is_err()
        {
            return Vec::new();
        }
        receiver.await.unwrap_or_default()
    }

    /// How the monitored routers fare, by address.
    pub async fn routers(&self) -> Vec<RouterStatus> {
        let mut statuses: Vec<RouterStatus> = self
            .routers
            .values()
            .map(|router| router.status(|_| bgp_core::TableStatus::default()))
            .collect();
        let ids = statuses
            .iter()
            .flat_map(|status| status.tables.iter().map(|table| table.neighbor))
            .collect();
        let sizes = self.tables(ids).await;
        let tables = statuses.iter_mut().flat_map(|status| &mut status.tables);
        for (table, size) in tables.zip(sizes) {
            table.table = size;
        }
        statuses
    }

    /// How RIS Live fares, where it is configured.
    pub async fn ris(&self) -> Option<RisStatus> {
        let mut status = self.ris.as_ref()?.status();
        let ids = status.peers.iter().map(|peer| peer.neighbor).collect();
        for (peer, size) in status.peers.iter_mut().zip(self.tables(ids).await) {
            peer.table = size;
        }
        Some(status)
    }

    /// Sizes of tables, in the order asked; none if the feed has ended.
    async fn tables(&self, ids: Vec<events::NeighborId>) -> Vec<bgp_core::TableStatus> {
        let (answer, receiver) = oneshot::channel();
        if ids.is_empty()
            || self
                .requests
                .send(Request::Tables(ids, answer))
                .await
                .is_err()
        {
            return Vec::new();
        }
        receiver.await.unwrap_or_default()
    }

    /// Where routers are listened to; a port 0 in the settings is the real one here.
    #[must_use]
    pub fn bmp_listening(&self) -> &[SocketAddr] {
        &self.bmp_listening
    }

    /// Routes, by neighbour and prefix, at most `limit`. Empty if the feed has ended.
    pub async fn rib(&self, query: RibQuery, limit: usize) -> Vec<RibRoute> {
        let page = self.rib_page(RibRequest {
            query,
            neighbor: None,
            at: None,
            limit,
            after: None,
        });
        page.await.unwrap_or_default().routes
    }

    /// A page of routes. `None` if the feed has ended. The walk is done in pieces, so that it delays
    /// neither sessions nor signals, however large it is.
    pub async fn rib_page(&self, request: RibRequest) -> Option<RibPage> {
        let (answer, receiver) = oneshot::channel();
        self.requests
            .send(Request::Rib(request, answer))
            .await
            .ok()?;
        receiver.await.ok()
    }

    /// Asks a neighbour for its routes (RFC 2918); the families that it is asked for. What is there
    /// stays meanwhile.
    ///
    /// # Errors
    /// Says why it cannot be asked.
    pub async fn refresh(
        &self,
        neighbor: events::NeighborId,
        families: Families,
    ) -> Result<Families, NoRefresh> {
        let (answer, receiver) = oneshot::channel();
        let request = Request::Refresh(neighbor, families, answer);
        let sent = self.requests.send(request).await;
        sent.map_err(|_| NoRefresh::Ended)?;
        receiver.await.map_err(|_| NoRefresh::Ended)?
    }

    /// How the RIB fares. `None` if the feed has ended.
    pub async fn rib_status(&self) -> Option<RibStatus> {
        let (answer, receiver) = oneshot::channel();
        self.requests.send(Request::Status(answer)).await.ok()?;
        receiver.await.ok()
    }

    /// Replaces what origins are validated by; with none, nothing is validated.
    pub fn set_vrps(&self, vrps: Arc<Vrps>) {
        self.vrps.send_replace(vrps);
    }

    /// Connections that came from addresses of no neighbour, and were closed.
    #[must_use]
    pub fn refused_strangers(&self) -> u64 {
        self.strangers.load(Ordering::Relaxed)
    }

    /// The addresses listened on; a port 0 in the settings is the real one here.
    #[must_use]
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Ends every session with Cease/2 (Administrative Shutdown) and waits for that, at most 2 s.
    pub async fn stop(self) {
        self.shutdown.send_replace(true);
        let mut store = self.store;
        if timeout(STOP, &mut store).await.is_err() {
            store.abort();
        }
    }
}
