//! What the daemon tells and takes on its Unix socket.
//!
//! # Protocol
//!
//! Newline-delimited JSON. A client writes a [`Request`] on a line and reads a [`Reply`] on a line,
//! as often as it likes:
//!
//! ```text
//! > {"request":"version"}
//! < {"reply":"version","version":"0.1.0"}
//! > {"request":"frobnicate"}
//! < {"reply":"error","code":"unknown_request","message":"there is no request ..."}
//! > {"request":"subscribe"}
//! < {"reply":"subscribed"}
//! < {"event":"entry", ...}
//! ```
//!
//! Durations in fields named `..._ms` are milliseconds with a fraction. Clients ignore fields that
//! they do not know. The socket is usable by the daemon's user and by root alone.
//!
//! # Wiring
//!
//! The task that owns the state receives [`Call`]s from a bounded channel and answers each through
//! its oneshot. What takes longer (a test page) it hands to another task, together with the oneshot.

mod client;
mod kernel;
mod millis;
mod reply;
mod request;
mod server;
mod wire;

pub use client::{Client, ClientError, Subscription};
pub use kernel::{
    DiskInfo, KernelInfo, PreemptorInfo, ProbeInfo, ProcessInfo, SeriesInfo, ThreadInfo, UdpInfo,
};
pub use reply::{
    EgressInfo, ErrorCode, ErrorReply, IncidentsReply, NeighborInfo, NeighborsReply, Notification,
    NotificationInfo, PageAttempt, PageTestReply, PeerInfo, PeerState, PeerStatisticsInfo,
    PeersReply, PlanInfo, RecordingInfo, RefreshReply, Reply, RibReply, RisInfo, RollbackReply,
    RouterInfo, RoutesReply, SessionInfo, StatisticInfo, StatusReply, TargetInfo, VersionReply,
};
pub use request::{AddressFamily, Request};
pub use server::{BindError, Call, Limits, Publisher, Server, ServerCounters};
