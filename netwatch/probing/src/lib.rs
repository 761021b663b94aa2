//! Active probes pinned to an egress and a source address, and the health of this host.
//!
//! One thread sends ICMP echo requests on a schedule and in bursts ([`Handle::probe`]), matches the
//! answers, and reports each as an [`events::ProbeResult`]. It also tells [`events::HostSignal`]s:
//! its own timer's lag, the carrier of every egress's interface, and its gateways' neighbour state.
//!
//! ```text
//!  schedule, suspects ──▶ one bound raw socket per egress and family ──▶ network
//!  ProbeResult ◀── outstanding, estimator ◀── one unbound raw socket per family ◀── network
//!  HostSignal ◀── links ◀── route netlink: links, addresses, neighbours
//! ```
//!
//! Results: `Reply` when an answer came; `Lost` when none came within the path's own deadline,
//! `max(srtt + 4 * rttvar + 15 ms, 30 ms)` and at most 1 s, which is also the patience with a path
//! whose round-trip time is unknown; `Refused` when the kernel or a router said no, at most five in
//! a row and then five a second for each path. A probe reported `Lost` can have a later `Reply`
//! with the same `sent_at`: it taught the path's round-trip time. Round trips end at the kernel's
//! receive timestamp, and what has arrived is read before anything is declared lost, so a delay of
//! this thread is not taken for one of the network.
//!
//! The thread wakes on a fixed tick, sends what is due by then and reads the answers that came since
//! the last one: an answer wakes nobody. It wakes between ticks when a probe's deadline passes.
//! From then on, and after a burst was asked for, it is attentive for a while: it wakes for every
//! answer, and tells every result at once. Else only what is not an answer, and the first answer
//! after that, wakes the reader of [`Results`]; others wait there until it looks, 1 s at most.
//!
//! With no egress no socket is opened and no packet sent; only timer lag is told.

mod batch;
mod check;
mod counters;
mod estimator;
mod links;
mod netlink;
mod nudge;
mod outstanding;
mod packet;
mod path;
mod prober;
mod results;
mod schedule;
mod settings;
mod socket;
mod suspects;
mod worker;

pub use check::{Check, check};
pub use counters::Counters;
pub use nudge::{Stalled, nudge};
pub use path::PathStatus;
pub use prober::{Handle, NotAccepted, Prober};
pub use results::{ResultSink, Results, results};
pub use settings::{EgressSettings, Settings, StartError};
