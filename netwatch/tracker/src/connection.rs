//! What is kept of one connection, and how the kernel's words map to the machine's.

use events::{ConnectFailure, Flow, Owner, PeerKey, TcpState, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ack_clock::AckClock;
use crate::machine::{Happening, Phase};

/// Linux errno values (`include/uapi/asm-generic/errno*.h`).
mod errno {
    pub const EPIPE: i32 = 32;
    pub const ENETUNREACH: i32 = 101;
    pub const ECONNRESET: i32 = 104;
    pub const ETIMEDOUT: i32 = 110;
    pub const ECONNREFUSED: i32 = 111;
    pub const EHOSTUNREACH: i32 = 113;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connection {
    pub flow: Flow,
    pub phase: Phase,
    /// This host opened it.
    pub outgoing: bool,
    pub owner: Option<Owner>,
    pub clock: AckClock,
    /// In the tracker's queue of deadlines.
    pub deadline: Option<Timestamp>,
    pub episode: Option<Episode>,
    /// The newest retransmission or error.
    pub doubted_at: Timestamp,
    /// A RST was told of already.
    pub reset_told: bool,
    pub active_at: Timestamp,
}

/// One time of being overdue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Episode {
    /// Start of the clock that ran out.
    pub start: Timestamp,
    /// When it was told.
    pub told_at: Timestamp,
    /// The newest transmission told.
    pub transmitted_at: Timestamp,
    /// The newest received segment told.
    pub received_at: Option<Timestamp>,
}

impl Connection {
    pub(crate) fn new(at: Timestamp, flow: Flow, outgoing: bool) -> Self {
        Self {
            flow,
            phase: Phase::Opening,
            outgoing,
            owner: None,
            clock: AckClock::default(),
            deadline: None,
            episode: None,
            doubted_at: Timestamp::ZERO,
            reset_told: false,
            active_at: at,
        }
    }

    pub(crate) fn peer(&self) -> PeerKey {
        self.flow.peer()
    }
}

/// What entering a state means, with the errno where the state is CLOSE.
pub(crate) const fn entered(state: TcpState, error: Option<i32>) -> Happening {
    match state {
        TcpState::SynSent | TcpState::SynReceived | TcpState::NewSynReceived => Happening::Opens,
        TcpState::Established => Happening::Establishes,
        TcpState::FinWait1 => Happening::OwnerCloses,
        TcpState::FinWait2 => Happening::FinAcknowledged,
        TcpState::CloseWait | TcpState::Closing | TcpState::TimeWait => Happening::PeerCloses,
        TcpState::LastAck => Happening::AnswersClose,
        TcpState::Closed => match error {
            Some(errno::ECONNRESET | errno::EPIPE) => Happening::EndsByReset,
            _ => Happening::Ends,
        },
        TcpState::Listen => Happening::Listens,
    }
}

/// Why a handshake failed, by what `sk_err` held when SYN_SENT ended (`tcp_reset`, `tcp_write_err`
/// and `tcp_v4_err` set it; a close by the owner sets none).
pub(crate) const fn connect_failure(error: Option<i32>) -> ConnectFailure {
    match error {
        None | Some(0) => ConnectFailure::Cancelled,
        Some(errno::ECONNREFUSED) => ConnectFailure::Refused,
        Some(errno::ETIMEDOUT) => ConnectFailure::TimedOut,
        Some(errno::EHOSTUNREACH | errno::ENETUNREACH) => ConnectFailure::Unreachable,
        Some(errno::ECONNRESET) => ConnectFailure::Reset,
        Some(other) => ConnectFailure::Other(other),
    }
}
