//! Pure: the TCP state machine per connection, RTT baselines and the ACK-overdue clock.
//!
//! [`Tracker`] takes in [`TcpEvent`](events::TcpEvent)s and the passing of time and tells
//! [`Signal`](events::Signal)s:
//!
//! ```text
//!  handle(at, event) ──▶ machine::step per connection ──▶ per-peer sums ──▶ signals
//!                          ▲                                  ▲
//!  handle_timeout(at) ──▶ deadlines of the ack clock     RTT baseline, allowance
//! ```
//!
//! # Contract
//!
//! - `at` never decreases. Feed all pending events before each
//!   [`handle_timeout`](Tracker::handle_timeout): only then is silence known to be silence.
//! - The collector samples a connection every few milliseconds while its oldest unacknowledged byte
//!   is older than `srtt`, and on progress after that. A deadline that passes without a recent sample
//!   ([`Params::sample_freshness`]) tells nothing, and is not waited for; the next sample brings it
//!   back.
//! - [`SignalKind::AckOverdue`](events::SignalKind::AckOverdue) is told once per episode. An episode
//!   ends with an acknowledgement of new data, nothing being outstanding, the peer's FIN, or the
//!   connection's end. What was still outstanding and overdue at an acknowledgement is timed anew
//!   from it, and `since` is then the acknowledgement's time.
//! - [`SignalKind::Alive`](events::SignalKind::Alive) with `Acknowledged` answers an overdue
//!   acknowledgement, a retransmission or a socket error; a connection without doubt tells nothing.
//! - The whole state can be serialised; restored, it goes on as if nothing had been.

mod ack_clock;
mod allowance;
mod connection;
mod machine;
mod params;
mod peer;
mod rtt;
mod status;
mod tracker;

pub use params::{Params, RttParams};
pub use status::{Counters, FailureCounts, PeerState, PeerStatus, RetransmitCounts};
pub use tracker::Tracker;
