//! Generated worlds in virtual time against the pure cores: see `docs/sim.md`.
//!
//! ```text
//!  params, seed ─▶ draw ─▶ topology, fault ─▶ World ◀─▶ engine (tracker, correlator, planner)
//!                                              │ packets: tcp, collector, prober
//!                                              ▼
//!                              truth ─▶ judge ─▶ report
//! ```
//!
//! A world is packets, timers and kernel events; what the engine is told of them is what the
//! collector, the prober, the BGP feed and the routes' adapter would tell. Nothing of a world rests
//! on a real clock.

pub mod adapters;
pub mod benign;
pub mod collector;
pub mod draw;
pub mod explain;
pub mod fault;
pub mod flow;
pub mod judge;
pub mod longrun;
pub mod params;
pub mod prober;
pub mod report;
pub mod run;
pub mod tcp;
pub mod topology;
pub mod truth;
pub mod without;
pub mod world;
