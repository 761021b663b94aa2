//! The vocabulary of netwatch: what is observed, concluded, asked for and answered.
//!
//! Everything here is plain, serialisable data without behaviour that depends on a clock or on I/O.
//! [`Input`] goes into the engine, [`Effect`] comes out of it; adapters turn the world into the one
//! and carry out the other.

mod bgp;
mod block;
mod conclusion;
mod effect;
mod fib;
mod incident;
mod input;
mod journal;
mod message;
mod page;
mod plan;
mod probe;
mod rib;
mod signal;
mod tcp;
mod time;
mod topology;

pub use bgp::{
    AsScore, BgpSignal, Burst, Learned, LinkScore, NeighborId, NotANeighbor, OriginValidation,
    RibView, RouteAttributes, RouteChange, RouteFact, SessionDownReason,
};
pub use block::{BlockOperation, BlockRequest};
pub use conclusion::Conclusion;
pub use effect::{Effect, EffectId, ProbeRequest};
pub use fib::{FibChange, FibRoute};
pub use incident::{
    Evidence, EvidenceSource, HostCause, Incident, IncidentId, IncidentState, LatencyCause,
    LatencyScope, Verdict,
};
pub use input::{HostSignal, Input, LossStage, OperatorCommand, Outcome, Sequenced};
pub use journal::{Actor, Entry, EntryKind};
pub use message::{Datagram, Direction, Message};
pub use page::{BgpSummary, Page, PageAction, PageDetails, Severity};
pub use plan::{Plan, PlanId, PlanMode, RevertReason, RouteSpec};
pub use probe::{ProbeOutcome, ProbeResult, ProbeSource, ProbeTarget};
pub use rib::{RibCursor, RibQuery, RibQueryError, RibRoute};
pub use signal::{AliveSign, RoundTrip, Signal, SignalKind};
pub use tcp::{
    ConnectFailure, ConnectionId, Flow, Outstanding, Owner, RetransmitClass, TcpEvent,
    TcpEventKind, TcpSample, TcpState,
};
pub use time::Timestamp;
pub use topology::{Asn, EgressName, PeerKey, Prefix};
