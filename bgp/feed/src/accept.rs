//! Listening, for sessions and for monitored routers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use events::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use crate::transport::stopped;

/// Strangers are logged at most that often.
const STRANGER_LOG: Duration = Duration::from_secs(10);
/// After a failure: out of descriptors, or the connection is gone already. Neither ends the feed.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections as they come in.
pub(crate) struct Acceptor {
    listener: TcpListener,
    shutdown: watch::Receiver<bool>,
    protocol: &'static str,
    logged: Option<Timestamp>,
}

impl Acceptor {
    pub const fn new(
        listener: TcpListener,
        shutdown: watch::Receiver<bool>,
        protocol: &'static str,
    ) -> Self {
        Self {
            listener,
            shutdown,
            protocol,
            logged: None,
        }
    }

    /// The next; `None` when the feed stops.
    pub async fn next(&mut self) -> Option<(TcpStream, SocketAddr)> {
        loop {
            let accepted = tokio::select! {
                () = stopped(&mut self.shutdown) => return None,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok(accepted) => return Some(accepted),
                Err(error) => {
                    warn!(%error, "{}: accept failed", self.protocol);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Logs now and then that a connection is refused.
    pub fn refuse(&mut self, address: IpAddr, why: &str) {
        let now = clock::now();
        if self
            .logged
            .is_none_or(|last| now.since(last) >= STRANGER_LOG)
        {
            self.logged = Some(now);
            warn!(%address, "{} connection refused: {why}", self.protocol);
        }
    }
}
