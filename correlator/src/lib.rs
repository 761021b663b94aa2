//! The correlator: evidence in, verdicts out.
//!
//! It is told what the tracker, the prober, the BGP feed, the routing table and the host observed,
//! and concludes where a partition is. It has no clock, no I/O and no randomness: time is an
//! argument, the same inputs give the same outputs, and its whole state can be serialised.
//!
//! ```text
//!  Signal ──▶ peers  ─┐
//!  ProbeResult ▶ reach ─┤                    ┌─▶ Conclusion (planner, pages)
//!  HostSignal ▶ host  ─┼─▶ View ─▶ suspicion ─▶ case ─▶ diagnosis ─┼─▶ Journal entries
//!  BgpSignal ─▶ routes ┤    (facts now)              ▲     │         └─▶ ProbeRequest
//!  FibChange ─▶ peers ─┘                             └ heal ┘
//! ```
//!
//! `suspicion` opens a case, one file per diagnosis in `diagnosis` may give it a verdict,
//! `heal` ends it, `join` adds what BGP says, however late. `latency` groups round-trip times that
//! left their baselines; nothing is rerouted for its cases.

mod ask;
mod case;
mod correlator;
mod diagnosis;
mod flap;
mod heal;
mod host;
mod join;
mod late;
mod latency;
mod lateness;
mod life;
mod merge;
mod params;
mod peers;
mod reach;
mod routes;
mod story;
mod suspicion;
mod tally;
mod tell;
mod view;

pub use correlator::{Correlator, Output};
pub use params::{EgressParams, Params, Thresholds};
