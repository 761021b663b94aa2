//! What is kept of one peer.

use std::net::IpAddr;
use std::time::Duration;

use events::{Owner, PeerKey, TcpSample, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Params;
use crate::allowance::Allowance;
use crate::machine::Phase;
use crate::rtt::Baseline;
use crate::status::{FailureCounts, PeerState, PeerStatus, RetransmitCounts};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub opening: u32,
    pub up: u32,
    pub overdue: u32,
    pub source: Option<IpAddr>,
    pub owner: Option<Owner>,
    pub rtt: Option<TcpSample>,
    pub baseline: Baseline,
    /// The newest measurement: when, and the smoothed round-trip time.
    #[serde(default)]
    pub measured: Option<(Timestamp, Duration)>,
    pub allowance: Allowance,
    pub retransmits: RetransmitCounts,
    pub failures: FailureCounts,
    pub overdue_total: u64,
    /// When data was sent of which an acknowledgement is known, by the smoothed round-trip time.
    pub delivered: Option<Timestamp>,
    pub active_at: Timestamp,
}

impl Peer {
    /// A connection went from one phase to another; `None`: it was not, or is no longer, in memory.
    pub(crate) fn moved(&mut self, from: Option<Phase>, to: Option<Phase>) {
        for (phase, sign) in [(from, -1), (to, 1)] {
            let (opening, up, overdue) = match phase {
                None | Some(Phase::Closed) => (0, 0, 0),
                Some(Phase::Opening) => (1, 0, 0),
                Some(Phase::Healthy | Phase::Doubtful | Phase::Closing) => (0, 1, 0),
                Some(Phase::Overdue | Phase::Abandoned) => (0, 1, 1),
            };
            self.opening = self.opening.saturating_add_signed(sign * opening);
            self.up = self.up.saturating_add_signed(sign * up);
            self.overdue = self.overdue.saturating_add_signed(sign * overdue);
        }
    }

    /// No connection needs it.
    pub(crate) const fn idle(&self) -> bool {
        self.opening == 0 && self.up == 0
    }

    pub(crate) fn status(
        &self,
        peer: PeerKey,
        at: Timestamp,
        oldest: Option<Timestamp>,
        params: &Params,
    ) -> PeerStatus {
        PeerStatus {
            peer,
            state: if self.overdue > 0 {
                PeerState::Overdue
            } else if self.up > 0 {
                PeerState::Up
            } else if self.opening > 0 {
                PeerState::Opening
            } else {
                PeerState::Down
            },
            connections: self.up,
            opening: self.opening,
            overdue: self.overdue,
            source: self.source,
            owner: self.owner.clone(),
            srtt: self.rtt.map(|s| s.srtt),
            min_rtt: self.rtt.map(|s| s.min_rtt),
            last_rtt: self.rtt.and_then(|s| s.last_rtt),
            baseline: self.baseline.value(&params.rtt),
            rtt_spike: self.baseline.spiking(),
            ack_allowance: self.allowance.value(at, params),
            oldest_unacked: oldest.map(|since| at.since(since)),
            retransmits: self.retransmits,
            connect_failures: self.failures,
            overdue_total: self.overdue_total,
        }
    }
}
