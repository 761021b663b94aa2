//! The kernel's routes that netwatch owns: rtnetlink executor, leases, watchdog process, sweep.
//!
//! ```text
//! planner ─ Effect ─▶ Routes ─▶ executor task ─ rtnetlink ─▶ kernel
//!                                 │   ▲  route, link and rule changes
//!                                 │   └──────────────────────────────┐
//!                  Report ◀───────┤                               kernel
//!                                 └─ leases.json ─▶ watchdog process ─▶ deletes what expired
//! ```
//!
//! One task owns the routes, the leases and the list of watched flows; everything that changes them
//! goes through its queue. The watchdog is another process that outlives the daemon and deletes
//! routes, of the daemon's protocol number only, whose lease was not renewed.

mod executor;
mod files;
mod kernel;
mod kill_switch;
mod lease;
mod rp_filter;
mod watchdog;

pub use executor::{EgressLink, InstallError, OpenError, Report, Routes, Settings, Swept};
pub use kernel::{Kernel, KernelError};
pub use kill_switch::{kill_switch_engaged, watch_kill_switch};
pub use lease::{Lease, LeaseFile, LeaseFileError};
pub use rp_filter::{StrictRpFilter, strict_rp_filter};
pub use watchdog::{
    WatchdogCommand, WatchdogRecord, spawn_watchdog, take_watchdog_log, watchdog_main,
    watchdog_running,
};
