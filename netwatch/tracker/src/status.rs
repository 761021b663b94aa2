//! What the tracker knows of its peers, for people and for metrics.

use std::net::IpAddr;
use std::time::Duration;

use events::{ConnectFailure, Owner, PeerKey, RetransmitClass};
use serde::{Deserialize, Serialize};

/// A peer, summed over its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// No connection.
    Down,
    /// Handshakes only.
    Opening,
    /// At least one established connection, none overdue.
    Up,
    /// At least one connection is overdue.
    Overdue,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Who.
    pub peer: PeerKey,
    /// Its state.
    pub state: PeerState,
    /// Established connections, closing ones included.
    pub connections: u32,
    /// Handshakes under way.
    pub opening: u32,
    /// Connections that are overdue.
    pub overdue: u32,
    /// This host's address on the newest connection.
    pub source: Option<IpAddr>,
    /// Who owns the newest connection whose owner is known.
    pub owner: Option<Owner>,
    /// Smoothed round-trip time, by the newest measurement of any connection.
    pub srtt: Option<Duration>,
    /// The kernel's windowed minimum at that moment.
    pub min_rtt: Option<Duration>,
    /// The raw round-trip time of that measurement.
    pub last_rtt: Option<Duration>,
    /// The usual round-trip time, once it is known.
    pub baseline: Option<Duration>,
    /// The round-trip time has left the baseline.
    pub rtt_spike: bool,
    /// What is allowed for delayed acknowledgements beyond the floor.
    pub ack_allowance: Duration,
    /// Age of the oldest unacknowledged byte of all connections.
    pub oldest_unacked: Option<Duration>,
    /// Retransmissions so far.
    pub retransmits: RetransmitCounts,
    /// Failed attempts to connect so far.
    pub connect_failures: FailureCounts,
    /// Times that a connection became overdue.
    pub overdue_total: u64,
}

/// Retransmissions by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RetransmitCounts {
    pub tail_loss_probe: u64,
    pub timeout: u64,
    pub fast: u64,
    pub syn: u64,
    pub syn_ack: u64,
    pub other: u64,
}

impl RetransmitCounts {
    pub(crate) const fn count(&mut self, class: RetransmitClass) {
        let counter = match class {
            RetransmitClass::TailLossProbe => &mut self.tail_loss_probe,
            RetransmitClass::Timeout { .. } => &mut self.timeout,
            RetransmitClass::Fast => &mut self.fast,
            RetransmitClass::Syn => &mut self.syn,
            RetransmitClass::SynAck => &mut self.syn_ack,
            RetransmitClass::Other => &mut self.other,
        };
        *counter += 1;
    }
}

/// Failed attempts to connect by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct FailureCounts {
    pub refused: u64,
    pub timed_out: u64,
    pub unreachable: u64,
    pub reset: u64,
    pub cancelled: u64,
    pub other: u64,
}

impl FailureCounts {
    pub(crate) const fn count(&mut self, cause: ConnectFailure) {
        let counter = match cause {
            ConnectFailure::Refused => &mut self.refused,
            ConnectFailure::TimedOut => &mut self.timed_out,
            ConnectFailure::Unreachable => &mut self.unreachable,
            ConnectFailure::Reset => &mut self.reset,
            ConnectFailure::Cancelled => &mut self.cancelled,
            ConnectFailure::Other(_) => &mut self.other,
        };
        *counter += 1;
    }
}

/// What the tracker did so far, and how full it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Events taken in.
    pub events: u64,
    /// Events about connections that are not known: missed, refused or evicted ones.
    pub unknown: u64,
    /// Samples older than one before them.
    pub stale_samples: u64,
    /// Deadlines that passed while the newest sample was too old to tell: the next one decides.
    pub unsampled_deadlines: u64,
    /// Times that a connection became overdue.
    pub overdue: u64,
    /// Handshakes of peers that failed.
    pub accept_failures: u64,
    /// Connections dropped from memory to make room, ended ones not counted.
    pub connections_evicted: u64,
    /// Connections not watched for want of room.
    pub connections_refused: u64,
    /// Peers without connections dropped from memory to make room.
    pub peers_evicted: u64,
    /// Connections in memory now, ended ones included.
    pub connections: usize,
    /// Peers in memory now.
    pub peers: usize,
}
