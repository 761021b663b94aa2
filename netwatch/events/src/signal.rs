//! What the tracker concludes about peers: the correlator's TCP evidence.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ConnectFailure, ConnectionId, PeerKey, RetransmitClass, Timestamp};

/// One conclusion about one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// When it became true.
    pub at: Timestamp,
    /// About whom.
    pub peer: PeerKey,
    /// What.
    pub kind: SignalKind,
}

/// How a path showed itself to be alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AliveSign {
    /// New data was acknowledged: both ways work.
    Acknowledged,
    /// The peer sent RST or FIN: its packets reach us.
    Closed,
    /// Data or a retransmission came in while ours stayed unacknowledged: only the way in is proven.
    ReceivedOnly,
}

/// A conclusion of the tracker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum SignalKind {
    /// The peer's first connection is established.
    PeerUp {
        /// This host's address on it.
        source: IpAddr,
    },
    /// The peer's last connection is gone.
    PeerDown,
    /// A connection is established; the peer counts one more.
    ConnectionUp {
        /// Which.
        connection: ConnectionId,
        /// This host's address on it.
        source: IpAddr,
    },
    /// A connection is gone.
    ConnectionDown {
        /// Which.
        connection: ConnectionId,
        /// The errno that ended it, if one did.
        error: Option<i32>,
    },
    /// The oldest unacknowledged byte is older than `srtt + 4 * mdev + 40 ms` and what was learned
    /// of the peer's acknowledgements.
    AckOverdue {
        /// Which connection.
        connection: ConnectionId,
        /// When that byte was sent.
        since: Timestamp,
        /// The limit that its age passed.
        limit: Duration,
    },
    /// A sign of life on a connection that was overdue, had retransmitted or had an error, or an end
    /// that the peer sent.
    Alive {
        /// Which connection.
        connection: ConnectionId,
        /// How.
        sign: AliveSign,
    },
    /// An overdue connection transmitted again (new data or a retransmission).
    Transmitted {
        /// Which connection.
        connection: ConnectionId,
    },
    /// The kernel retransmitted.
    Retransmitted {
        /// Which connection.
        connection: ConnectionId,
        /// Why.
        class: RetransmitClass,
    },
    /// A connection could not be opened.
    ConnectFailed {
        /// Why.
        cause: ConnectFailure,
    },
    /// ICMP or the stack reported an error on an established connection.
    SocketError {
        /// Which connection.
        connection: ConnectionId,
        /// The errno.
        errno: i32,
    },
    /// The round-trip time left its baseline.
    RttSpike {
        /// The round-trip time now.
        rtt: Duration,
        /// What is usual for this peer.
        baseline: Duration,
    },
    /// The round-trip time is back at its baseline.
    RttNormal {
        /// The round-trip time now.
        rtt: Duration,
    },
}

/// How long a peer takes to answer now, and usually.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrip {
    /// Which peer.
    pub peer: PeerKey,
    /// When it was measured last.
    pub at: Timestamp,
    /// The smoothed round-trip time then.
    pub rtt: Duration,
    /// The baseline.
    pub baseline: Duration,
}
