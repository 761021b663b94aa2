//! What the kernel tells about TCP: the tracker's input.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{PeerKey, Timestamp};

/// A socket's cookie: unique on a host until it restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionId(pub u64);

/// Both ends of a connection, seen from this host. IPv4-mapped addresses are made plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// This host's end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
}

impl Flow {
    /// The remote host.
    #[must_use]
    pub fn peer(&self) -> PeerKey {
        PeerKey::of(self.remote.ip())
    }
}

/// States of a connection: the kernel's `TCP_*` of `include/net/tcp_states.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum TcpState {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Closed,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    NewSynReceived,
}

impl TcpState {
    /// The state that the kernel numbers so, if it is one.
    #[must_use]
    pub const fn from_kernel(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Closed,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            12 => Self::NewSynReceived,
            _ => return None,
        })
    }
}

/// The process that owns a socket, where it is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Thread group id, as `ps` shows it.
    pub pid: u32,
    /// The thread's name (`comm`), 15 bytes at most.
    pub comm: String,
}

/// One observation of one connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TcpEvent {
    /// When the kernel saw it.
    pub at: Timestamp,
    /// The socket.
    pub connection: ConnectionId,
    /// Its ends.
    pub flow: Flow,
    /// What happened.
    pub kind: TcpEventKind,
}

/// What happened to a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum TcpEventKind {
    /// The socket changed state (`inet_sock_set_state`).
    StateChanged {
        /// State before.
        from: TcpState,
        /// State after.
        to: TcpState,
        /// `sk_err`, or `sk_err_soft` where that is zero, at that moment.
        error: Option<i32>,
        /// Only where the change ran in the owner's context (connect, accept, close).
        owner: Option<Owner>,
    },
    /// The connection existed when the daemon started (sock_diag), or was missed and found later.
    Found {
        /// Its state.
        state: TcpState,
        /// Its owner, by the socket's inode.
        owner: Option<Owner>,
    },
    /// The connection is no longer in the kernel, found by reconciliation.
    Gone,
    /// The kernel retransmitted.
    Retransmitted {
        /// Why.
        class: RetransmitClass,
    },
    /// The peer reset the connection.
    ResetReceived,
    /// This host reset the connection.
    ResetSent,
    /// An error was set on the socket (`inet_sk_error_report`, an errno).
    Error {
        /// The errno.
        errno: i32,
    },
    /// A connection that this host opened is established.
    Handshake {
        /// From the begin of connect() to ESTABLISHED, retransmitted SYNs included.
        took: Duration,
    },
    /// The peer closed its window, or opened it again.
    Window {
        /// How long it was closed; `None`: it closes now.
        closed_for: Option<Duration>,
    },
    /// The socket's counters, read from the kernel's per-socket state.
    Sample(TcpSample),
}

/// A socket's counters at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpSample {
    /// The oldest byte sent and not acknowledged, if there is one.
    pub outstanding: Option<Outstanding>,
    /// When an acknowledgement last covered new data. `None`: not since it is watched.
    pub acked_at: Option<Timestamp>,
    /// When new data or a retransmission last left. `None`: not since it is watched.
    pub sent_at: Option<Timestamp>,
    /// When any segment last came in. `None`: not since it is watched.
    pub received_at: Option<Timestamp>,
    /// Smoothed round-trip time (`srtt_us >> 3`).
    pub srtt: Duration,
    /// Mean deviation of the round-trip time (`mdev_us >> 2`); `tcp_info` calls it `tcpi_rttvar`.
    pub mdev: Duration,
    /// The windowed minimum of the round-trip time.
    pub min_rtt: Duration,
    /// The newest raw round-trip time, if the kernel took one.
    pub last_rtt: Option<Duration>,
    /// The peer's window is closed: silence means nothing.
    pub zero_window: bool,
}

/// Data on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outstanding {
    /// When the oldest unacknowledged byte was first sent.
    pub since: Timestamp,
}

/// Why the kernel sent a segment again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "class")]
pub enum RetransmitClass {
    /// Tail loss probe (RFC 8985).
    TailLossProbe,
    /// Retransmission timeout (RFC 6298): the first, the second, ...
    Timeout {
        /// `icsk_retransmits`, 1 for the first.
        count: u8,
    },
    /// Fast retransmit or SACK recovery.
    Fast,
    /// The SYN of a connection that is being opened.
    Syn,
    /// The SYN-ACK of a connection that a peer opens.
    SynAck,
    /// None of the above.
    Other,
}

/// Why a connection could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectFailure {
    /// The peer answered with RST (ECONNREFUSED).
    Refused,
    /// Nothing came back (ETIMEDOUT).
    TimedOut,
    /// The network said no (EHOSTUNREACH, ENETUNREACH).
    Unreachable,
    /// Reset during the handshake (ECONNRESET).
    Reset,
    /// The application gave up before the handshake ended.
    Cancelled,
    /// Another errno.
    Other(i32),
}
