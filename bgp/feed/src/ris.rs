//! RIS Live (<https://ris-live.ripe.net/manual/>): what RIPE's route collectors hear, by WebSocket.
//!
//! It has changes alone, no tables: what a peer has not said since the subscription is not known, and
//! never taken for withdrawn. When the connection is lost all of it is stale, and becomes fresh
//! prefix by prefix as the peers say it again.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bgp_core::ris::{self, RisMessage, RisPeer};
use bgp_core::{Context, Negotiated, NeighborConfig, TableStatus};
use events::{Asn, EgressName, Learned, NeighborId, Prefix, SessionDownReason, Timestamp};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tracing::{info, warn};

use crate::store::{Report, ReportKind};
use crate::transport::{Shared, stopped};

/// Time for a connection to be there.
const CONNECT: Duration = Duration::from_secs(15);
/// Pauses between attempts, doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// The service is asked whether it is there after so much silence, and given up after as much more.
const SILENCE: Duration = Duration::from_secs(30);
/// Peers whose routes are taken.
const MAX_PEERS: usize = 4096;

/// What is asked of RIS Live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RisSettings {
    /// Where it is: `wss://` or `ws://`.
    pub url: String,
    /// A PEM file of authorities that are trusted besides the host's.
    pub ca_file: Option<PathBuf>,
    /// UPDATEs of these, of their more and their less specifics; empty: of all prefixes.
    pub prefixes: Vec<Prefix>,
    /// The egress that its peers' routes stand for.
    pub egress: EgressName,
    /// The most prefixes per family and peer; further ones are left out.
    pub max_prefixes: u32,
}

/// How RIS Live fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RisStatus {
    /// Where it is.
    pub url: String,
    /// The connection is up.
    pub connected: bool,
    /// Since when it is as it is.
    pub since: Timestamp,
    /// Messages since the start.
    pub messages: u64,
    /// Messages that could not be read.
    pub malformed: u64,
    /// Why the last connection ended, or what could not be read.
    pub last_error: Option<String>,
    /// Peers of the collectors that said something.
    pub peers: Vec<RisPeerStatus>,
}

/// A peer of a collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RisPeerStatus {
    /// How the RIB calls it.
    pub neighbor: NeighborId,
    /// Its AS.
    pub asn: Asn,
    /// The egress that its routes stand for.
    pub egress: EgressName,
    /// The size of what it said.
    pub table: TableStatus,
}

/// What is known of the connection.
#[derive(Debug)]
pub(crate) struct Client {
    settings: RisSettings,
    state: Mutex<ClientState>,
}

#[derive(Debug)]
struct ClientState {
    connected: bool,
    since: Timestamp,
    messages: u64,
    malformed: u64,
    last_error: Option<String>,
    peers: BTreeMap<NeighborId, Asn>,
}

impl Client {
    pub const fn new(settings: RisSettings, now: Timestamp) -> Self {
        Self {
            settings,
            state: Mutex::new(ClientState {
                connected: false,
                since: now,
                messages: 0,
                malformed: 0,
                last_error: None,
                peers: BTreeMap::new(),
            }),
        }
    }

    /// Never held across an await.
    fn state(&self) -> MutexGuard<'_, ClientState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn status(&self) -> RisStatus {
        let state = self.state();
        RisStatus {
            url: self.settings.url.clone(),
            connected: state.connected,
            since: state.since,
            messages: state.messages,
            malformed: state.malformed,
            last_error: state.last_error.clone(),
            peers: state
                .peers
                .iter()
                .map(|(id, asn)| RisPeerStatus {
                    neighbor: *id,
                    asn: *asn,
                    egress: self.settings.egress.clone(),
                    table: TableStatus::default(),
                })
                .collect(),
        }
    }
}

/// Connects, again and again, until the feed stops.
pub(crate) async fn run(client: Arc<Client>, shared: Shared) {
    let mut shutdown = shared.shutdown.clone();
    let mut pause = BACKOFF.0;
    loop {
        let mut session = Session {
            client: Arc::clone(&client),
            shared: shared.clone(),
            sessions: BTreeMap::new(),
        };
        let ended = tokio::select! {
            () = stopped(&mut shutdown) => None,
            ended = session.connect() => Some(ended),
        };
        let heard = !session.sessions.is_empty();
        let why = ended.map_or_else(
            || "the feed stops".to_owned(),
            |ended| match ended {
                Ok(()) => "the service closed the connection".to_owned(),
                Err(error) => error.to_string(),
            },
        );
        {
            let mut state = client.state();
            state.connected = false;
            state.since = clock::now();
            state.last_error = Some(why.clone());
        }
        session.lost(&why).await;
        if *shutdown.borrow() {
            return;
        }
        pause = if heard {
            BACKOFF.0
        } else {
            (pause * 2).min(BACKOFF.1)
        };
        warn!(
            url = client.settings.url,
            reason = why,
            ?pause,
            "RIS Live: trying again"
        );
        tokio::select! {
            () = stopped(&mut shutdown) => return,
            () = sleep(pause) => {}
        }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("bgp.ris.url: {0}")]
    Url(String),
    #[error("bgp.ris.ca_file {0:?}: {1}")]
    Authorities(PathBuf, String),
    #[error("cannot connect to {0}: {1}")]
    Connect(String, std::io::Error),
    #[error("no answer within {CONNECT:?}")]
    TimedOut,
    #[error("WebSocket: {0}")]
    WebSocket(#[from] tokio_tungstenite::tungstenite::Error),
    #[error("the service says: {0}")]
    Refused(String),
    #[error("it says nothing any more")]
    Silent,
    #[error("the feed stops")]
    Stopped,
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

struct Session {
    client: Arc<Client>,
    shared: Shared,
    sessions: BTreeMap<NeighborId, u64>,
}

impl Session {
    async fn connect(&mut self) -> Result<(), Ended> {
        let settings = self.client.settings.clone();
        let request = settings
            .url
            .as_str()
            .into_client_request()
            .map_err(|error| Ended::Url(error.to_string()))?;
        let opened = async {
            let stream = open(&settings, request.uri()).await?;
            let limits = WebSocketConfig::default()
                .max_message_size(Some(ris::MAX_LINE))
                .max_frame_size(Some(ris::MAX_LINE));
            let (mut socket, _) =
                tokio_tungstenite::client_async_with_config(request, stream, Some(limits)).await?;
            let prefixes = settings.prefixes.iter().map(Some);
            let all = settings.prefixes.is_empty().then_some(None);
            for prefix in prefixes.chain(all) {
                let text = Utf8Bytes::from(ris::subscription(prefix));
                socket.send(Message::Text(text)).await?;
            }
            let states = Utf8Bytes::from(ris::peer_state_subscription());
            socket.send(Message::Text(states)).await?;
            Ok::<_, Ended>(socket)
        };
        let mut socket = timeout(CONNECT, opened)
            .await
            .map_err(|_| Ended::TimedOut)??;
        {
            let mut state = self.client.state();
            state.connected = true;
            state.since = clock::now();
        }
        info!(url = settings.url, "RIS Live: connected");
        let mut asked = false;
        loop {
            let message = match timeout(SILENCE, socket.next()).await {
                Err(_) if asked => return Err(Ended::Silent),
                Err(_) => {
                    asked = true;
                    socket
                        .send(Message::Text(Utf8Bytes::from(ris::ping())))
                        .await?;
                    continue;
                }
                Ok(None) => return Ok(()),
                Ok(Some(message)) => message?,
            };
            asked = false;
            match message {
                Message::Text(text) => self.take(text.as_bytes()).await?,
                Message::Binary(bytes) => self.take(&bytes).await?,
                Message::Close(_) => return Ok(()),
                // The library answers pings.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    async fn take(&mut self, line: &[u8]) -> Result<(), Ended> {
        let decoded = ris::decode(line);
        {
            let mut state = self.client.state();
            state.messages += 1;
            if let Err(error) = &decoded {
                state.malformed += 1;
                state.last_error = Some(format!("a message that cannot be read: {error}"));
            }
        }
        match decoded {
            Ok(RisMessage::Update { peer, update }) => {
                let Some((id, session)) = self.session(&peer).await? else {
                    return Ok(());
                };
                self.report(id, session, ReportKind::Update(update, clock::now()))
                    .await
            }
            Ok(RisMessage::PeerState { peer, up: false }) => {
                let id = id(&peer);
                match self.sessions.remove(&id) {
                    Some(session) => {
                        let reason = SessionDownReason::ConnectionLost {
                            text: format!("{} lost its session", peer.host),
                        };
                        self.report(id, session, ReportKind::Down(reason)).await
                    }
                    None => Ok(()),
                }
            }
            Ok(RisMessage::ServiceError(text)) => Err(Ended::Refused(text)),
            Ok(RisMessage::PeerState { .. } | RisMessage::Other(_)) | Err(_) => Ok(()),
        }
    }

    /// The peer's session; it begins with the first that is heard of it.
    async fn session(&mut self, peer: &RisPeer) -> Result<Option<(NeighborId, u64)>, Ended> {
        let id = id(peer);
        if let Some(session) = self.sessions.get(&id) {
            return Ok(Some((id, *session)));
        }
        {
            let mut state = self.client.state();
            if !state.peers.contains_key(&id) && state.peers.len() >= MAX_PEERS {
                state.last_error = Some(format!("more than {MAX_PEERS} peers; {id} is left out"));
                return Ok(None);
            }
            state.peers.insert(id, peer.asn);
        }
        let session = self.shared.next_session();
        self.sessions.insert(id, session);
        let config = NeighborConfig {
            id,
            egress: self.client.settings.egress.clone(),
            max_prefixes: self.client.settings.max_prefixes,
        };
        let negotiated = Negotiated {
            asn: peer.asn,
            router_id: Ipv4Addr::UNSPECIFIED,
            hold_time: Duration::ZERO,
            graceful_restart: true,
            // No families: no table is ever complete.
            context: Context::default(),
        };
        self.report(id, session, ReportKind::Add(config)).await?;
        self.report(id, session, ReportKind::Up(negotiated, None, clock::now()))
            .await?;
        Ok(Some((id, session)))
    }

    async fn lost(mut self, why: &str) {
        for (id, session) in std::mem::take(&mut self.sessions) {
            let reason = SessionDownReason::ConnectionLost {
                text: format!("RIS Live: {why}"),
            };
            if self
                .report(id, session, ReportKind::Down(reason))
                .await
                .is_err()
            {
                return;
            }
        }
    }

    async fn report(&self, id: NeighborId, session: u64, kind: ReportKind) -> Result<(), Ended> {
        let report = Report {
            neighbor: id,
            session,
            kind,
        };
        let sent = self.shared.reports.send(report).await;
        sent.map_err(|_| Ended::Stopped)
    }
}

const fn id(peer: &RisPeer) -> NeighborId {
    NeighborId {
        address: peer.address,
        learned: Learned::RisLive,
    }
}

/// A TCP connection, with TLS for `wss`.
async fn open(
    settings: &RisSettings,
    uri: &tokio_tungstenite::tungstenite::http::Uri,
) -> Result<Box<dyn Wire>, Ended> {
    let tls = match uri.scheme_str() {
        Some("wss") => true,
        Some("ws") => false,
        _ => {
            let text = format!("{} is neither wss:// nor ws://", settings.url);
            return Err(Ended::Url(text));
        }
    };
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let failed = |error| Ended::Connect(format!("{host} port {port}"), error);
    let stream = TcpStream::connect((bare, port)).await.map_err(failed)?;
    if !tls {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(bare.to_owned())
        .map_err(|_| Ended::Url(format!("{bare} is no server's name")))?;
    let connector =
        tokio_rustls::TlsConnector::from(Arc::new(tls_config(settings.ca_file.as_deref())?));
    let stream = connector.connect(name, stream).await.map_err(failed)?;
    Ok(Box::new(stream))
}

/// TLS by the host's authorities, and those of a file.
fn tls_config(ca_file: Option<&Path>) -> Result<rustls::ClientConfig, Ended> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let bad = |error: String| Ended::Authorities(path.to_owned(), error);
        let certificates = CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|e| bad(e.to_string()))?;
            roots.add(certificate).map_err(|e| bad(e.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Ended::Url(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
