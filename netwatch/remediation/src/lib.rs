//! Pure: from a verdict, route facts and policy to a plan, and the safety check that can refuse any plan.
//!
//! ```text
//! Conclusion ─▶ Remediator ─▶ candidates ─▶ plan ─▶ check ─▶ Effect::Install
//! facts      ─▶ (FIB, BGP,        (what wins          (can refuse
//!                probes, flows)    the FIB)             anything)
//! ```
//!
//! [`Remediator`] is a state machine per incident: wait for proof of a backup, install, judge, renew
//! or revert. It has no clock and does no I/O; the adapter that carries out its effects is `routes`.

mod check;
mod facts;
mod flows;
mod ledger;
mod machine;
mod plan;
mod policy;

pub use check::{Refusal, check};
pub use facts::Facts;
pub use ledger::{Ledger, Proof};
pub use machine::{
    CaseView, Output, PlanView, RemediationStatus, Remediator, RemediatorView, Stage,
};
pub use plan::{Draft, Skipped, draft};
pub use policy::{Anchor, Budget, Egress, Policy};
