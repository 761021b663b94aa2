use serde::{Deserialize, Serialize};

/// Error codes of NOTIFICATION (RFC 4271 section 4.5).
pub mod code {
    /// Message Header Error.
    pub const HEADER: u8 = 1;
    /// OPEN Message Error.
    pub const OPEN: u8 = 2;
    /// UPDATE Message Error.
    pub const UPDATE: u8 = 3;
    /// Hold Timer Expired.
    pub const HOLD_TIMER: u8 = 4;
    /// Finite State Machine Error; subcodes of RFC 6608.
    pub const FSM: u8 = 5;
    /// Cease; subcodes of RFC 4486.
    pub const CEASE: u8 = 6;
    /// ROUTE-REFRESH Message Error (RFC 7313).
    pub const ROUTE_REFRESH: u8 = 7;
    /// Send Hold Timer Expired (RFC 9687).
    pub const SEND_HOLD: u8 = 8;
}

/// Subcodes of Cease (RFC 4486).
pub mod cease {
    /// Maximum Number of Prefixes Reached.
    pub const MAX_PREFIXES: u8 = 1;
    /// Administrative Shutdown.
    pub const SHUTDOWN: u8 = 2;
    /// Administrative Reset.
    pub const RESET: u8 = 4;
    /// Connection Rejected.
    pub const REJECTED: u8 = 5;
    /// Connection Collision Resolution.
    pub const COLLISION: u8 = 7;
    /// Hard Reset (RFC 8538).
    pub const HARD_RESET: u8 = 9;
}

/// An error that ends a session with a NOTIFICATION (RFC 4271 section 6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text} (NOTIFICATION {code}/{subcode})")]
pub struct Fault {
    /// Error code.
    pub code: u8,
    /// Error subcode; 0 is unspecific.
    pub subcode: u8,
    /// The data that the RFC asks for.
    pub data: Vec<u8>,
    /// What was wrong, for people; not sent.
    pub text: String,
}

impl Fault {
    pub(crate) fn new(code: u8, subcode: u8, text: impl Into<String>) -> Self {
        Self {
            code,
            subcode,
            data: Vec::new(),
            text: text.into(),
        }
    }

    pub(crate) fn with_data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }
}
