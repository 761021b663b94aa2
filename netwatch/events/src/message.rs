//! What watched processes and ports send and receive, call by call.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ConnectionId, Flow, Timestamp};

/// Which way data went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From this host.
    Send,
    /// To this host.
    Receive,
}

/// One call of `tcp_sendmsg` or `tcp_recvmsg`. Calls that would have waited (EAGAIN) and looks at
/// data that stays (MSG_PEEK) are none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// When the call began; where only its return is seen (`took` is `None` then, and `asked` is
    /// not set), when it returned.
    pub at: Timestamp,
    /// The socket.
    pub connection: ConnectionId,
    /// Its ends.
    pub flow: Flow,
    /// Which way.
    pub direction: Direction,
    /// Bytes, 0 for a receive at the end of the stream; or the errno.
    pub result: Result<u32, i32>,
    /// `result` is what the caller asked to send: what became of it is not seen.
    pub asked: bool,
    /// Time spent in the call, also asleep. `None`: not known.
    pub took: Option<Duration>,
    /// The caller's thread group id.
    pub pid: u32,
    /// The caller's thread id.
    pub tid: u32,
    /// The calling thread's name, 15 bytes at most.
    pub comm: String,
}

/// One datagram that a thread sent which seldom sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagram {
    /// When the send returned, or began where `asked` is set.
    pub at: Timestamp,
    /// The socket.
    pub connection: ConnectionId,
    /// This host's end; its address is unspecified where the socket is not bound to one.
    pub local: SocketAddr,
    /// Where it went. `None`: not known.
    pub remote: Option<SocketAddr>,
    /// Bytes, or the errno.
    pub result: Result<u32, i32>,
    /// `result` is what the caller asked to send: what became of it is not seen.
    pub asked: bool,
    /// The sender's thread group id.
    pub pid: u32,
    /// The sender's thread id.
    pub tid: u32,
    /// The sending thread's name, 15 bytes at most.
    pub comm: String,
}
