//! The server: one task per connection, every one of them bounded.
//!
//! ```text
//!  client ──line──▶ connection task ──Call──▶ the engine's task
//!         ◀─line──        ▲        ◀─oneshot─
//!                         └── broadcast ◀── Publisher::publish (never waits)
//! ```

use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::wire::{Line, read_line};
use crate::{ErrorCode, Notification, Reply, Request};

/// The server's bounds. `Default` gives the values that the daemon uses.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once: 32.
    pub connections: usize,
    /// Longest request in bytes: 64 KiB.
    pub request_bytes: usize,
    /// A connection without a request for so long is closed: 60 s.
    pub idle: Duration,
    /// The engine answers within: 5 s.
    pub answer: Duration,
    /// A test page is answered within: 30 s (it waits for the pager).
    pub page_test: Duration,
    /// A client takes a line within: 5 s.
    pub write: Duration,
    /// Notifications kept for a slow subscriber: 1,024, some incidents' worth.
    pub backlog: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32,
            request_bytes: 64 * 1024,
            idle: Duration::from_secs(60),
            answer: Duration::from_secs(5),
            page_test: Duration::from_secs(30),
            write: Duration::from_secs(5),
            backlog: 1024,
        }
    }
}

/// A request on its way to the task that owns the state. Answer through `reply`; dropping it tells
/// the client that the daemon cannot answer.
#[derive(Debug)]
pub struct Call {
    /// What is asked. Never [`Request::Subscribe`], which the server serves itself.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

/// Sends notifications to all subscribers. Cheap to clone; never waits.
#[derive(Clone, Debug)]
pub struct Publisher(broadcast::Sender<Arc<str>>);

impl Publisher {
    /// Sends one. Without subscribers it costs nothing.
    pub fn publish(&self, notification: &Notification) {
        if self.0.receiver_count() == 0 {
            return;
        }
        match serde_json::to_string(notification) {
            Ok(mut line) => {
                line.push('\n');
                // Fails only when the last subscriber has just left.
                let _ = self.0.send(line.into());
            }
            Err(error) => warn!(%error, "a notification could not be written as JSON"),
        }
    }
}

/// What the server did so far, for metrics.
#[derive(Debug, Default)]
pub struct ServerCounters {
    /// Requests read, bad ones included.
    pub requests: AtomicU64,
    /// Requests answered with an error by the server itself.
    pub errors: AtomicU64,
    /// Connections refused: too many, or another user's.
    pub refused: AtomicU64,
    /// Subscribers dropped because they read too slowly.
    pub lagged: AtomicU64,
}

/// Why the socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon answers there.
    #[error(
        "{path} is in use: another netwatch answers there; stop it, or set another host.runtime_dir"
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is not a socket is in the way.
    #[error("{path} exists and is not a socket; remove it, or set another host.runtime_dir")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The kernel said no.
    #[error(
        "cannot {doing} {path}; check that the directory of host.runtime_dir exists and is writable"
    )]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
}

/// A bound socket. Dropped, it removes the socket's file, if that is still its own.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    file: SocketFile,
    limits: Limits,
    events: Publisher,
    counters: Arc<ServerCounters>,
}

impl Server {
    /// Binds a Unix socket that only this user (and root) can use. The file of a daemon that died is
    /// replaced; one that a daemon answers on is not. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(path: impl Into<PathBuf>, limits: Limits) -> Result<Self, BindError> {
        let path = path.into();
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| BindError::Io {
                doing,
                path,
                source,
            }
        };
        match std::fs::symlink_metadata(&path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(BindError::NotASocket { path });
            }
            Ok(_) => match std::os::unix::net::UnixStream::connect(&path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Ok(_) => return Err(BindError::InUse { path }),
                Err(source) => return Err(io("connect to", &path)(source)),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io("look at", &path)(source)),
        }
        // Made under another name, so that the real one is never there with a wider mode.
        let mut name = path.clone().into_os_string();
        name.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(name);
        let _ = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(io("create", &fresh))?;
        let mut file = SocketFile::new(fresh.clone()).map_err(io("look at", &fresh))?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))
            .map_err(io("set the mode of", &fresh))?;
        std::fs::rename(&fresh, &path).map_err(io("create", &path))?;
        file.path = path;
        Ok(Self {
            listener,
            file,
            events: Publisher(broadcast::Sender::new(limits.backlog.max(1))),
            limits,
            counters: Arc::default(),
        })
    }

    /// For those who have something to tell to subscribers.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        self.events.clone()
    }

    /// For metrics.
    #[must_use]
    pub fn counters(&self) -> Arc<ServerCounters> {
        Arc::clone(&self.counters)
    }

    /// Serves until `stop` completes, then closes all connections and removes the socket.
    ///
    /// Requests go into `calls`; a full channel is answered with [`ErrorCode::Busy`].
    pub async fn serve(self, calls: mpsc::Sender<Call>, stop: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Err(error) = ended {
                        warn!(%error, "an API connection ended badly");
                    }
                }
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.accept(stream, &calls, &mut tasks),
                    Err(error) => {
                        // Out of descriptors, most likely: it passes, or others say so louder.
                        warn!(%error, "cannot accept an API connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        tasks.shutdown().await;
    }

    fn accept(&self, stream: UnixStream, calls: &mpsc::Sender<Call>, tasks: &mut JoinSet<()>) {
        let uid = match stream.peer_cred() {
            Ok(peer) => peer.uid(),
            Err(error) => {
                debug!(%error, "an API client has no credentials");
                return;
            }
        };
        let full = tasks.len() >= self.limits.connections;
        if full || (uid != 0 && uid != self.file.uid) {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            warn!(uid, full, "API connection refused");
            if full {
                refuse(&stream, self.limits.connections);
            }
            return;
        }
        let (from, to) = stream.into_split();
        let connection = Connection {
            from: BufReader::new(from),
            to,
            calls: calls.clone(),
            events: self.events.clone(),
            limits: self.limits.clone(),
            counters: Arc::clone(&self.counters),
        };
        tasks.spawn(async move {
            if let Err(error) = connection.run().await {
                debug!(%error, "API connection closed");
            }
        });
    }
}

/// Says so at once or not at all: no task is spent on those who are too many.
fn refuse(stream: &UnixStream, most: usize) {
    let text = format!("{most} connections are open already; close one, or try again later");
    if let Ok(line) = line_of(&Reply::error(ErrorCode::Busy, text)) {
        let _ = stream.try_write(line.as_bytes());
    }
}

struct Connection {
    from: BufReader<OwnedReadHalf>,
    to: OwnedWriteHalf,
    calls: mpsc::Sender<Call>,
    events: Publisher,
    limits: Limits,
    counters: Arc<ServerCounters>,
}

impl Connection {
    async fn run(mut self) -> io::Result<()> {
        loop {
            let line = read_line(&mut self.from, self.limits.request_bytes);
            let Ok(line) = timeout(self.limits.idle, line).await else {
                return Ok(());
            };
            let line = match line? {
                Line::Text(line) => line,
                Line::End => return Ok(()),
                Line::TooLong => {
                    let most = self.limits.request_bytes;
                    let text = format!("a request is one line of at most {most} bytes");
                    self.counters.requests.fetch_add(1, Ordering::Relaxed);
                    return self.fail(ErrorCode::TooLong, text).await;
                }
            };
            self.counters.requests.fetch_add(1, Ordering::Relaxed);
            match parse(&line) {
                Ok(Request::Subscribe) => return self.stream().await,
                Ok(request) => {
                    let reply = self.ask(request).await;
                    if matches!(reply, Reply::Error(_)) {
                        self.counters.errors.fetch_add(1, Ordering::Relaxed);
                    }
                    self.send(&line_of(&reply)?).await?;
                }
                Err((code, text)) => self.fail(code, text).await?,
            }
        }
    }

    async fn ask(&self, request: Request) -> Reply {
        let patience = match request {
            Request::PageTest => self.limits.page_test,
            _ => self.limits.answer,
        };
        let name = request.name();
        let (reply, answer) = oneshot::channel();
        match self.calls.try_send(Call { request, reply }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Reply::error(ErrorCode::Busy, "too many requests at once; try again");
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                return Reply::error(ErrorCode::Unavailable, "the daemon is stopping");
            }
        }
        match timeout(patience, answer).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Reply::error(
                ErrorCode::Unavailable,
                format!("the daemon cannot answer {name:?} now; its log says why"),
            ),
            Err(_) => Reply::error(
                ErrorCode::TimedOut,
                format!("no answer to {name:?} within {patience:?}; the daemon's log may say why"),
            ),
        }
    }

    /// Sends notifications until the client closes, reads too slowly, or the server ends.
    async fn stream(mut self) -> io::Result<()> {
        let mut events = self.events.0.subscribe();
        self.send(&line_of(&Reply::Subscribed)?).await?;
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                // Whatever a subscriber says, it has only its leaving to tell.
                line = read_line(&mut self.from, self.limits.request_bytes) => match line? {
                    Line::Text(_) => continue,
                    Line::End | Line::TooLong => return Ok(()),
                },
            };
            let slow = match event {
                Ok(line) => {
                    match timeout(self.limits.write, self.to.write_all(line.as_bytes())).await {
                        Ok(written) => {
                            written?;
                            continue;
                        }
                        // Part of a line may have left: nothing sensible can follow it.
                        Err(_) => None,
                    }
                }
                Err(broadcast::error::RecvError::Lagged(lost)) => Some(lost),
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            };
            self.counters.lagged.fetch_add(1, Ordering::Relaxed);
            warn!(
                lost = slow,
                "an API subscriber read too slowly and is dropped"
            );
            if let Some(lost) = slow {
                let text =
                    format!("{lost} notifications were lost: read faster, then subscribe anew");
                self.fail(ErrorCode::Lagged, text).await?;
            }
            return Ok(());
        }
    }

    async fn fail(&mut self, code: ErrorCode, text: String) -> io::Result<()> {
        self.counters.errors.fetch_add(1, Ordering::Relaxed);
        self.send(&line_of(&Reply::error(code, text))?).await
    }

    async fn send(&mut self, line: &str) -> io::Result<()> {
        match timeout(self.limits.write, self.to.write_all(line.as_bytes())).await {
            Ok(written) => written,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client does not read",
            )),
        }
    }
}

fn line_of(reply: &Reply) -> io::Result<String> {
    let mut line = serde_json::to_string(reply)?;
    line.push('\n');
    Ok(line)
}

/// A request from its line; or why it is none, with the remedy.
fn parse(line: &[u8]) -> Result<Request, (ErrorCode, String)> {
    let malformed = |e: serde_json::Error| {
        (
            ErrorCode::Malformed,
            format!("{e}; a request looks like {{\"request\":\"status\"}}"),
        )
    };
    let value: serde_json::Value = serde_json::from_slice(line).map_err(malformed)?;
    if let Some(name) = value.get("request").and_then(|v| v.as_str())
        && !Request::NAMES.contains(&name)
    {
        let name: String = name.chars().take(64).collect();
        let known = Request::NAMES.join(", ");
        return Err((
            ErrorCode::UnknownRequest,
            format!("there is no request {name:?}; there are {known}"),
        ));
    }
    serde_json::from_value(value).map_err(malformed)
}

/// The socket's file, removed with this value.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    uid: u32,
}

impl SocketFile {
    fn new(path: PathBuf) -> io::Result<Self> {
        let found = std::fs::symlink_metadata(&path)?;
        Ok(Self {
            path,
            device: found.dev(),
            inode: found.ino(),
            uid: found.uid(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another daemon may have put its own in this place.
        if let Ok(found) = std::fs::symlink_metadata(&self.path)
            && (found.dev(), found.ino()) == (self.device, self.inode)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
