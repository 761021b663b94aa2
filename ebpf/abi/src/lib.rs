//! The records that kernel programs and user space share, and the list of kernel fields read.
//!
//! Everything is `repr(C)` without implicit padding; numbers are in host byte order, addresses are
//! IPv6 addresses in network byte order (IPv4 as IPv4-mapped).
#![no_std]

mod block;
mod event;
mod fields;
mod histogram;
mod message;
mod slot;
mod thread;
mod udp;
mod watch;

pub use block::{BlockRecord, DISKS, Disk, OPERATIONS, Operation, REQUESTS, Requests, device};
pub use event::{
    Counter, Event, EventKind, HEARTBEAT, Heartbeat, KIND_BLOCK, KIND_OFFSET, NO_SLOT,
    RetransmitCause, WAKE_PAUSE,
};
pub use fields::ABSENT;
pub use histogram::{BUCKETS, bucket, lower_bound, midpoint};
pub use message::{CALLS, Direction, MESSAGE, Message, TOOK_UNKNOWN};
pub use slot::{
    BUCKET, BUCKETS_OF_KEYS, FIRST_ADDRESS, PLACES, RING, SLOTS, Slot, Stamp, VACANT, home, place,
    seq_after, stamp_end, stamp_micros,
};
pub use thread::{
    Doing, TAKERS, THREAD_BUCKETS, THREADS, Taker, Thread, WaitRecord, thread_bucket,
    thread_midpoint,
};
pub use udp::{DATAGRAM, Datagram, RARE, UDP_THREADS, UdpThread, WINDOW};
pub use watch::{ExecRecord, NAME, Name, NameKind, name, why};
