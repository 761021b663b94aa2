//! The tracker's signals in the log: what happens to this host's peers.

use std::time::Duration;

use events::{AliveSign, ConnectFailure, Signal, SignalKind, Timestamp};

/// Lines per [`WINDOW`]: a storm of connections must not become a storm of lines.
const LINES: u32 = 50;
const WINDOW: Duration = Duration::from_secs(1);

/// Writes signals to the log, bounded in rate.
#[derive(Debug, Default)]
pub struct Narrator {
    since: Timestamp,
    lines: u32,
    left_out: u64,
}

impl Narrator {
    /// Logs one signal, or counts it where there are too many.
    pub fn tell(&mut self, signal: &Signal) {
        if signal.at.since(self.since) >= WINDOW {
            if self.left_out > 0 {
                tracing::info!(
                    left_out = self.left_out,
                    "more happened to peers than is logged"
                );
            }
            *self = Self {
                since: signal.at,
                lines: 0,
                left_out: 0,
            };
        }
        let peer = signal.peer;
        if self.lines >= LINES {
            self.left_out += 1;
            return;
        }
        self.lines += 1;
        match &signal.kind {
            SignalKind::PeerUp { source } => tracing::info!(%peer, %source, "peer is up"),
            SignalKind::PeerDown => {
                tracing::info!(%peer, "peer is down: its last connection is gone")
            }
            SignalKind::ConnectionUp { connection, source } => {
                tracing::debug!(%peer, connection = connection.0, %source, "connection is up");
            }
            SignalKind::ConnectionDown {
                connection,
                error: Some(errno),
            } => {
                tracing::info!(%peer, connection = connection.0, error = %error(*errno), "connection broke");
            }
            SignalKind::ConnectionDown {
                connection,
                error: None,
            } => {
                tracing::debug!(%peer, connection = connection.0, "connection ended");
            }
            SignalKind::AckOverdue {
                connection,
                since,
                limit,
            } => {
                let age_ms = milliseconds(signal.at.since(*since));
                let limit_ms = milliseconds(*limit);
                tracing::debug!(%peer, connection = connection.0, age_ms, limit_ms, "acknowledgement is overdue");
            }
            SignalKind::Alive { connection, sign } => {
                let sign = match sign {
                    AliveSign::Acknowledged => "new data is acknowledged",
                    AliveSign::Closed => "the peer closed it",
                    AliveSign::ReceivedOnly => "data comes in, ours is not acknowledged",
                };
                tracing::debug!(%peer, connection = connection.0, sign, "connection shows life");
            }
            SignalKind::Transmitted { connection } => {
                tracing::debug!(%peer, connection = connection.0, "overdue connection transmits again");
            }
            SignalKind::Retransmitted { connection, class } => {
                tracing::debug!(%peer, connection = connection.0, ?class, "retransmission");
            }
            SignalKind::ConnectFailed { cause } => {
                tracing::info!(%peer, cause = %failure(*cause), "connection could not be opened");
            }
            SignalKind::SocketError { connection, errno } => {
                tracing::info!(%peer, connection = connection.0, error = %error(*errno), "socket error");
            }
            SignalKind::RttSpike { rtt, baseline } => {
                let (rtt_ms, usual_ms) = (milliseconds(*rtt), milliseconds(*baseline));
                tracing::info!(%peer, rtt_ms, usual_ms, "round-trip time left its baseline");
            }
            SignalKind::RttNormal { rtt } => {
                tracing::info!(%peer, rtt_ms = milliseconds(*rtt), "round-trip time is usual again");
            }
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}

fn error(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}

fn failure(cause: ConnectFailure) -> String {
    match cause {
        ConnectFailure::Refused => "refused".to_owned(),
        ConnectFailure::TimedOut => "timed out".to_owned(),
        ConnectFailure::Unreachable => "unreachable".to_owned(),
        ConnectFailure::Reset => "reset during the handshake".to_owned(),
        ConnectFailure::Cancelled => "cancelled by the application".to_owned(),
        ConnectFailure::Other(errno) => error(errno).to_string(),
    }
}
