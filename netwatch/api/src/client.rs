//! The client: one connection, one request at a time.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::wire::{Line, read_line};
use crate::{ErrorCode, Notification, Reply, Request};

/// Longest reply that is taken: thousands of peers in full.
const REPLY_BYTES: usize = 64 * 1024 * 1024;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("cannot reach the daemon at {path}; is it running? start it with `netwatch run`")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The socket belongs to another user.
    #[error("no permission to use {path}; run this command as root or as the daemon's user")]
    Permission {
        /// The socket.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the daemon at {path} broke the connection; its log may say why")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The connection ended before the reply.
    #[error(
        "the daemon at {path} closed the connection without an answer; is it stopping, or are you another user?"
    )]
    Closed {
        /// The socket.
        path: PathBuf,
    },
    /// The reply makes no sense.
    #[error(
        "the daemon at {path} answered {text}; are both of the same version? see `netwatch --version`"
    )]
    Unexpected {
        /// The socket.
        path: PathBuf,
        /// What it said, shortened.
        text: String,
    },
    /// The daemon answered with an error.
    #[error("{message}")]
    Refused {
        /// Its kind.
        code: ErrorCode,
        /// What, where and the remedy.
        message: String,
    },
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon's socket.
    ///
    /// # Errors
    /// [`ClientError::Connect`] or [`ClientError::Permission`].
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref().to_owned();
        match UnixStream::connect(&path).await {
            Ok(stream) => Ok(Self {
                path,
                stream: BufReader::new(stream),
            }),
            Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                Err(ClientError::Permission { path, source })
            }
            Err(source) => Err(ClientError::Connect { path, source }),
        }
    }

    /// Asks, and waits for the answer; the server bounds the wait. A future dropped midway leaves the
    /// connection unusable.
    ///
    /// # Errors
    /// An error reply is [`ClientError::Refused`].
    pub async fn request(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|e| self.io(e.into()))?;
        line.push(b'\n');
        let sent = self.stream.get_mut().write_all(&line).await;
        // A server that refuses says why before it closes: read even when it does not.
        let received = self.receive().await;
        match received {
            Ok(Some(line)) => self.reply(&line),
            Ok(None) => Err(ClientError::Closed {
                path: self.path.clone(),
            }),
            Err(error) => Err(sent.map_or_else(|e| self.io(e), |()| error)),
        }
    }

    /// Turns the connection into a stream of notifications.
    ///
    /// # Errors
    /// As for [`request`](Self::request).
    pub async fn subscribe(mut self) -> Result<Subscription, ClientError> {
        match self.request(&Request::Subscribe).await? {
            Reply::Subscribed => Ok(Subscription(self)),
            other => Err(self.unexpected(format!("{other:?}").as_bytes())),
        }
    }

    async fn receive(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        match read_line(&mut self.stream, REPLY_BYTES).await {
            Ok(Line::Text(line)) => Ok(Some(line)),
            Ok(Line::End) => Ok(None),
            Ok(Line::TooLong) => Err(self.unexpected(b"with more than 64 MiB")),
            Err(source) => Err(self.io(source)),
        }
    }

    fn reply(&self, line: &[u8]) -> Result<Reply, ClientError> {
        match serde_json::from_slice(line) {
            Ok(Reply::Error(error)) => Err(ClientError::Refused {
                code: error.code,
                message: error.message,
            }),
            Ok(reply) => Ok(reply),
            Err(_) => Err(self.unexpected(line)),
        }
    }

    fn io(&self, source: io::Error) -> ClientError {
        ClientError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn unexpected(&self, line: &[u8]) -> ClientError {
        ClientError::Unexpected {
            path: self.path.clone(),
            text: String::from_utf8_lossy(line).chars().take(200).collect(),
        }
    }
}

/// A stream of notifications.
#[derive(Debug)]
pub struct Subscription(Client);

impl Subscription {
    /// The next one. `None`: the daemon stopped.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with [`ErrorCode::Lagged`] ends a stream that was read too slowly.
    pub async fn next(&mut self) -> Result<Option<Notification>, ClientError> {
        let Some(line) = self.0.receive().await? else {
            return Ok(None);
        };
        if let Ok(notification) = serde_json::from_slice(&line) {
            return Ok(Some(notification));
        }
        let other = self.0.reply(&line)?;
        Err(self.0.unexpected(format!("{other:?}").as_bytes()))
    }
}
