//! Pages by the PagerDuty Events API v2, out of a durable outbox and through a partition.
//!
//! A page goes out at once: the request is begun while the outbox writes it to disk, so neither waits
//! for the other, and a page is lost only when the host dies before both. Each egress has an HTTP
//! client of its own, bound to the egress's interface, with a connection that is kept warm and the
//! pager's addresses resolved ahead: when the primary uplink is dead, a page costs one round trip
//! through another. Where an answer does not come soon the same page is sent through the next egress
//! as well; the `dedup_key` is the incident's name on every try, so duplicates are harmless.
//!
//! Within one incident the order of pages is kept; incidents do not wait for each other.
//!
//! | answer | then |
//! |---|---|
//! | 202 | accepted, removed from the outbox |
//! | 400 | never sent again, reported as a permanent failure |
//! | 429 | sent again after `Retry-After`, or after 30 s |
//! | other statuses | 0.2, 0.5, 1, 2 s ... at most 30 s |
//! | none | another egress at once; after all of them 0.2, 0.5, 1, 2 s ... or as soon as an egress comes back |
//!
//! Redirects are not followed: the body carries the routing key.

mod counters;
mod delivery;
mod event;
mod outbox;
mod pager;
mod resolver;
mod settings;
mod transport;

pub use counters::Counters;
pub use pager::{Handle, Pager, TestAttempt, TestReport};
pub use settings::{EgressSettings, Schedule, Secret, Settings, StartError};
pub use transport::EgressStatus;
