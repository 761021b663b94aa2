//! The state machine of one connection: every phase against every input, without exceptions.
//!
//! ```text
//!                         Retransmits, Error
//!           Establishes  ┌────────▶ Doubtful ──┐ Deadline
//!  Opening ──────────▶ Healthy ────────────────┴▶ Overdue
//!     │                  │  ▲ ◀─ Acknowledged ─────┤
//!     │ either end closes│                         │ the owner closes
//!     │                  ▼                         ▼
//!     │               Closing ◀─────────────── Abandoned
//!     │                  │     the peer shows      │
//!     └───▶ Closed ◀─────┴─────────────────────────┘
//! ```

use events::AliveSign;
use serde::{Deserialize, Serialize};

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// The handshake is under way.
    Opening,
    /// Established; nothing is overdue.
    Healthy,
    /// Established; the kernel retransmitted or reported an error, and nothing was acknowledged since.
    Doubtful,
    /// Established; the oldest unacknowledged byte is overdue.
    Overdue,
    /// One end sent FIN; acknowledgements are no longer timed, because the kernel's received-segment
    /// hook is silent outside ESTABLISHED.
    Closing,
    /// Its owner closed it while it was overdue.
    Abandoned,
    /// Ended. Kept for a moment so that late observations do not bring it back.
    Closed,
}

/// What can happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Happening {
    /// SYN_SENT or SYN_RECV was entered.
    Opens,
    /// ESTABLISHED was entered.
    Establishes,
    /// Reconciliation found it established.
    FoundEstablished,
    /// FIN_WAIT1: this host sent FIN first.
    OwnerCloses,
    /// FIN_WAIT2: the peer acknowledged our FIN and all before it.
    FinAcknowledged,
    /// CLOSE_WAIT, CLOSING or TIME_WAIT: the peer's FIN came in.
    PeerCloses,
    /// LAST_ACK: this host answered the peer's FIN with its own.
    AnswersClose,
    /// CLOSE.
    Ends,
    /// CLOSE, with the errno of a RST (ECONNRESET, or EPIPE after the peer's FIN).
    EndsByReset,
    /// Reconciliation no longer found it.
    Gone,
    /// LISTEN: not a connection.
    Listens,
    /// RST came in.
    ResetReceived,
    /// RST went out.
    ResetSent,
    /// The kernel retransmitted.
    Retransmits,
    /// An error was set on the socket.
    Error,
    /// A sample shows an acknowledgement of new data, or that nothing is outstanding.
    Acknowledged,
    /// A sample shows a segment that should have acknowledged ours and did not.
    Received,
    /// A sample shows a newer transmission.
    Transmitted,
    /// The oldest unacknowledged byte passed its limit.
    Deadline,
}

/// What a transition tells the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Act {
    /// Nothing.
    Nothing,
    /// A connection is up.
    Up,
    /// A connection that was up is down.
    Down,
    /// The same, and the peer ended it.
    DownByPeer,
    /// The handshake failed.
    Failed,
    /// A sign of life.
    Alive(AliveSign),
    /// The kernel retransmitted.
    Retransmitted,
    /// The kernel retransmitted on an overdue connection.
    RetransmittedOverdue,
    /// An overdue connection transmitted.
    Transmitted,
    /// An error of the socket.
    SocketError,
    /// An acknowledgement is overdue.
    Overdue,
}

/// One transition.
#[must_use]
pub(crate) const fn step(phase: Phase, happening: Happening) -> (Phase, Act) {
    use AliveSign as Sign;
    use Happening as H;
    use Phase as P;
    match (phase, happening) {
        // Opening: nothing is up yet, so nothing can go down; an unexplained end is forgotten.
        (P::Opening, H::Opens | H::ResetSent | H::Error) => (P::Opening, Act::Nothing),
        (P::Opening, H::Establishes | H::FoundEstablished) => (P::Healthy, Act::Up),
        (P::Opening, H::OwnerCloses | H::Ends | H::EndsByReset) => (P::Closed, Act::Failed),
        (P::Opening, H::FinAcknowledged | H::AnswersClose | H::Gone | H::Listens) => {
            (P::Closed, Act::Nothing)
        }
        (P::Opening, H::PeerCloses) => (P::Closed, Act::Alive(Sign::Closed)),
        (P::Opening, H::ResetReceived) => (P::Opening, Act::Alive(Sign::Closed)),
        (P::Opening, H::Retransmits) => (P::Opening, Act::Retransmitted),
        (P::Opening, H::Acknowledged | H::Received | H::Transmitted | H::Deadline) => {
            (P::Opening, Act::Nothing)
        }

        // Healthy: late echoes of the handshake change nothing.
        (P::Healthy, H::Opens | H::Establishes | H::FoundEstablished | H::ResetSent) => {
            (P::Healthy, Act::Nothing)
        }
        (P::Healthy, H::OwnerCloses | H::FinAcknowledged | H::AnswersClose) => {
            (P::Closing, Act::Nothing)
        }
        (P::Healthy, H::PeerCloses) => (P::Closing, Act::Alive(Sign::Closed)),
        (P::Healthy, H::Ends | H::Gone | H::Listens) => (P::Closed, Act::Down),
        (P::Healthy, H::EndsByReset) => (P::Closed, Act::DownByPeer),
        (P::Healthy, H::ResetReceived) => (P::Healthy, Act::Alive(Sign::Closed)),
        (P::Healthy, H::Retransmits) => (P::Doubtful, Act::Retransmitted),
        (P::Healthy, H::Error) => (P::Doubtful, Act::SocketError),
        (P::Healthy, H::Acknowledged | H::Received | H::Transmitted) => (P::Healthy, Act::Nothing),
        (P::Healthy, H::Deadline) => (P::Overdue, Act::Overdue),

        // Doubtful: as healthy, but the next acknowledgement is worth telling.
        (P::Doubtful, H::Opens | H::Establishes | H::FoundEstablished | H::ResetSent) => {
            (P::Doubtful, Act::Nothing)
        }
        (P::Doubtful, H::OwnerCloses | H::AnswersClose) => (P::Closing, Act::Nothing),
        (P::Doubtful, H::FinAcknowledged) => (P::Closing, Act::Alive(Sign::Acknowledged)),
        (P::Doubtful, H::PeerCloses) => (P::Closing, Act::Alive(Sign::Closed)),
        (P::Doubtful, H::Ends | H::Gone | H::Listens) => (P::Closed, Act::Down),
        (P::Doubtful, H::EndsByReset) => (P::Closed, Act::DownByPeer),
        (P::Doubtful, H::ResetReceived) => (P::Doubtful, Act::Alive(Sign::Closed)),
        (P::Doubtful, H::Retransmits) => (P::Doubtful, Act::Retransmitted),
        (P::Doubtful, H::Error) => (P::Doubtful, Act::SocketError),
        (P::Doubtful, H::Acknowledged) => (P::Healthy, Act::Alive(Sign::Acknowledged)),
        (P::Doubtful, H::Received | H::Transmitted) => (P::Doubtful, Act::Nothing),
        (P::Doubtful, H::Deadline) => (P::Overdue, Act::Overdue),

        // Overdue: every sign of life counts.
        (P::Overdue, H::Opens | H::Establishes | H::FoundEstablished | H::ResetSent) => {
            (P::Overdue, Act::Nothing)
        }
        (P::Overdue, H::OwnerCloses | H::AnswersClose) => (P::Abandoned, Act::Nothing),
        (P::Overdue, H::FinAcknowledged) => (P::Closing, Act::Alive(Sign::Acknowledged)),
        (P::Overdue, H::PeerCloses) => (P::Closing, Act::Alive(Sign::Closed)),
        (P::Overdue, H::Ends | H::Gone | H::Listens) => (P::Closed, Act::Down),
        (P::Overdue, H::EndsByReset) => (P::Closed, Act::DownByPeer),
        (P::Overdue, H::ResetReceived) => (P::Overdue, Act::Alive(Sign::Closed)),
        (P::Overdue, H::Retransmits) => (P::Overdue, Act::RetransmittedOverdue),
        (P::Overdue, H::Error) => (P::Overdue, Act::SocketError),
        (P::Overdue, H::Acknowledged) => (P::Healthy, Act::Alive(Sign::Acknowledged)),
        (P::Overdue, H::Received) => (P::Overdue, Act::Alive(Sign::ReceivedOnly)),
        (P::Overdue, H::Transmitted) => (P::Overdue, Act::Transmitted),
        (P::Overdue, H::Deadline) => (P::Overdue, Act::Nothing),

        // Closing: nothing is timed any more.
        (P::Closing, H::Opens | H::Establishes | H::FoundEstablished | H::ResetSent) => {
            (P::Closing, Act::Nothing)
        }
        (P::Closing, H::OwnerCloses | H::AnswersClose) => (P::Closing, Act::Nothing),
        (P::Closing, H::FinAcknowledged) => (P::Closing, Act::Alive(Sign::Acknowledged)),
        (P::Closing, H::PeerCloses) => (P::Closing, Act::Alive(Sign::Closed)),
        (P::Closing, H::Ends | H::Gone | H::Listens) => (P::Closed, Act::Down),
        (P::Closing, H::EndsByReset) => (P::Closed, Act::DownByPeer),
        (P::Closing, H::ResetReceived) => (P::Closing, Act::Alive(Sign::Closed)),
        (P::Closing, H::Retransmits) => (P::Closing, Act::Retransmitted),
        (P::Closing, H::Error) => (P::Closing, Act::SocketError),
        (P::Closing, H::Acknowledged | H::Received | H::Transmitted | H::Deadline) => {
            (P::Closing, Act::Nothing)
        }

        // Abandoned: as overdue, until the peer shows itself; then as closing.
        (P::Abandoned, H::Opens | H::Establishes | H::FoundEstablished | H::ResetSent) => {
            (P::Abandoned, Act::Nothing)
        }
        (P::Abandoned, H::OwnerCloses | H::AnswersClose) => (P::Abandoned, Act::Nothing),
        (P::Abandoned, H::FinAcknowledged | H::Acknowledged) => {
            (P::Closing, Act::Alive(Sign::Acknowledged))
        }
        (P::Abandoned, H::PeerCloses) => (P::Closing, Act::Alive(Sign::Closed)),
        (P::Abandoned, H::Ends | H::Gone | H::Listens) => (P::Closed, Act::Down),
        (P::Abandoned, H::EndsByReset) => (P::Closed, Act::DownByPeer),
        (P::Abandoned, H::ResetReceived) => (P::Abandoned, Act::Alive(Sign::Closed)),
        (P::Abandoned, H::Retransmits) => (P::Abandoned, Act::RetransmittedOverdue),
        (P::Abandoned, H::Error) => (P::Abandoned, Act::SocketError),
        (P::Abandoned, H::Received) => (P::Abandoned, Act::Alive(Sign::ReceivedOnly)),
        (P::Abandoned, H::Transmitted) => (P::Abandoned, Act::Transmitted),
        (P::Abandoned, H::Deadline) => (P::Abandoned, Act::Nothing),

        // Closed: a socket may be connected anew (same cookie); all else is late.
        (P::Closed, H::Opens) => (P::Opening, Act::Nothing),
        (P::Closed, H::Establishes) => (P::Healthy, Act::Up),
        (P::Closed, H::ResetReceived) => (P::Closed, Act::Alive(Sign::Closed)),
        (P::Closed, H::FoundEstablished | H::OwnerCloses | H::FinAcknowledged | H::PeerCloses) => {
            (P::Closed, Act::Nothing)
        }
        (P::Closed, H::AnswersClose | H::Ends | H::EndsByReset | H::Gone | H::Listens) => {
            (P::Closed, Act::Nothing)
        }
        (P::Closed, H::ResetSent | H::Retransmits | H::Error) => (P::Closed, Act::Nothing),
        (P::Closed, H::Acknowledged | H::Received | H::Transmitted | H::Deadline) => {
            (P::Closed, Act::Nothing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 7] = [
        Phase::Opening,
        Phase::Healthy,
        Phase::Doubtful,
        Phase::Overdue,
        Phase::Closing,
        Phase::Abandoned,
        Phase::Closed,
    ];

    const ALL: [Happening; 19] = [
        Happening::Opens,
        Happening::Establishes,
        Happening::FoundEstablished,
        Happening::OwnerCloses,
        Happening::FinAcknowledged,
        Happening::PeerCloses,
        Happening::AnswersClose,
        Happening::Ends,
        Happening::EndsByReset,
        Happening::Gone,
        Happening::Listens,
        Happening::ResetReceived,
        Happening::ResetSent,
        Happening::Retransmits,
        Happening::Error,
        Happening::Acknowledged,
        Happening::Received,
        Happening::Transmitted,
        Happening::Deadline,
    ];

    fn cell(phase: Phase, happening: Happening) -> String {
        let (next, act) = step(phase, happening);
        let next = match next {
            Phase::Opening => "opn",
            Phase::Healthy => "hea",
            Phase::Doubtful => "dbt",
            Phase::Overdue => "ovd",
            Phase::Closing => "cls",
            Phase::Abandoned => "abn",
            Phase::Closed => "end",
        };
        let act = match act {
            Act::Nothing => ".",
            Act::Up => "up",
            Act::Down => "down",
            Act::DownByPeer => "rst",
            Act::Failed => "fail",
            Act::Alive(AliveSign::Acknowledged) => "ack",
            Act::Alive(AliveSign::Closed) => "fin",
            Act::Alive(AliveSign::ReceivedOnly) => "rcv",
            Act::Retransmitted => "rtx",
            Act::RetransmittedOverdue => "rtx!",
            Act::Transmitted => "snt",
            Act::SocketError => "err",
            Act::Overdue => "late",
        };
        format!("{next} {act}")
    }

    #[test]
    fn every_cell_of_the_table() {
        // Rows: ALL. Columns: opening, healthy, doubtful, overdue, closing, abandoned, closed.
        let expected = [
            ("Opens", "opn .|hea .|dbt .|ovd .|cls .|abn .|opn ."),
            ("Establishes", "hea up|hea .|dbt .|ovd .|cls .|abn .|hea up"),
            (
                "FoundEstablished",
                "hea up|hea .|dbt .|ovd .|cls .|abn .|end .",
            ),
            (
                "OwnerCloses",
                "end fail|cls .|cls .|abn .|cls .|abn .|end .",
            ),
            (
                "FinAcknowledged",
                "end .|cls .|cls ack|cls ack|cls ack|cls ack|end .",
            ),
            (
                "PeerCloses",
                "end fin|cls fin|cls fin|cls fin|cls fin|cls fin|end .",
            ),
            ("AnswersClose", "end .|cls .|cls .|abn .|cls .|abn .|end ."),
            (
                "Ends",
                "end fail|end down|end down|end down|end down|end down|end .",
            ),
            (
                "EndsByReset",
                "end fail|end rst|end rst|end rst|end rst|end rst|end .",
            ),
            (
                "Gone",
                "end .|end down|end down|end down|end down|end down|end .",
            ),
            (
                "Listens",
                "end .|end down|end down|end down|end down|end down|end .",
            ),
            (
                "ResetReceived",
                "opn fin|hea fin|dbt fin|ovd fin|cls fin|abn fin|end fin",
            ),
            ("ResetSent", "opn .|hea .|dbt .|ovd .|cls .|abn .|end ."),
            (
                "Retransmits",
                "opn rtx|dbt rtx|dbt rtx|ovd rtx!|cls rtx|abn rtx!|end .",
            ),
            (
                "Error",
                "opn .|dbt err|dbt err|ovd err|cls err|abn err|end .",
            ),
            (
                "Acknowledged",
                "opn .|hea .|hea ack|hea ack|cls .|cls ack|end .",
            ),
            ("Received", "opn .|hea .|dbt .|ovd rcv|cls .|abn rcv|end ."),
            (
                "Transmitted",
                "opn .|hea .|dbt .|ovd snt|cls .|abn snt|end .",
            ),
            (
                "Deadline",
                "opn .|ovd late|ovd late|ovd .|cls .|abn .|end .",
            ),
        ];
        assert_eq!(expected.len(), ALL.len());
        for (happening, (name, row)) in ALL.into_iter().zip(expected) {
            assert_eq!(format!("{happening:?}"), name);
            let got: Vec<String> = PHASES.iter().map(|p| cell(*p, happening)).collect();
            assert_eq!(got.join("|"), row, "{name}");
        }
    }

    #[test]
    fn ups_and_downs_balance_on_every_edge() {
        let up = |p: Phase| !matches!(p, Phase::Opening | Phase::Closed);
        for phase in PHASES {
            for happening in ALL {
                let (next, act) = step(phase, happening);
                let change = i32::from(up(next)) - i32::from(up(phase));
                let said = match act {
                    Act::Up => 1,
                    Act::Down | Act::DownByPeer => -1,
                    _ => 0,
                };
                assert_eq!(change, said, "{phase:?} {happening:?}");
            }
        }
    }
}
