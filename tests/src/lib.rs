//! The lab: namespaces, routers, peers and faults, and what it saw.
//!
//! [`scenario`] says what is wanted, [`world`] draws who is who, [`rig`] builds it, [`run`] lets it
//! happen and watches, [`judge`] compares with what was expected. What the lab reports, the lab saw.

pub mod bird;
pub mod bulk;
pub mod chatter;
pub mod daemon;
pub mod duration;
pub mod forwarder;
pub mod hog;
pub mod judge;
pub mod monitor;
pub mod narrate;
pub mod ns;
pub mod null;
pub mod packet;
pub mod pager;
pub mod rig;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod sys;
pub mod workload;
pub mod world;
