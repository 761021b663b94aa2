/// The slot index of an event whose connection has none.
pub const NO_SLOT: u32 = u32::MAX;

/// Where a record has its kind: records of all types begin with `at: u64, kind: u8`.
pub const KIND_OFFSET: usize = 8;

/// Events wake their reader at most once in so many nanoseconds. Whom one woke looks again after so
/// long, for those that did not.
pub const WAKE_PAUSE: u64 = 1_000_000;

/// A [`crate::BlockRecord`].
pub const KIND_BLOCK: u8 = 18;

/// What a record tells. The number gives its type: [`Event`] below 16.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A change of state: `from`, `to`, `error`; owner where it is the caller's context. Where a
    /// handshake that this host began ends well, `value` is how long it took.
    State = 1,
    /// `tcp_retransmit_skb`, `tcp_retransmit_synack`: `cause`, `count`.
    Retransmit = 2,
    /// `tcp_receive_reset`.
    ResetReceived = 3,
    /// `tcp_send_reset`.
    ResetSent = 4,
    /// `inet_sk_error_report`: `error`.
    Error = 5,
    /// A slot was taken for a connection that was not known. Where it was known by another key
    /// before (its address, before it had a cookie), `value` is that.
    Adopted = 6,
    /// The peer closed its window (`value` is 0), or opened it again (`value` is how long it was
    /// closed).
    Window = 7,
}

impl EventKind {
    /// The kind with that number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::State,
            2 => Self::Retransmit,
            3 => Self::ResetReceived,
            4 => Self::ResetSent,
            5 => Self::Error,
            6 => Self::Adopted,
            7 => Self::Window,
            _ => return None,
        })
    }
}

/// Why the kernel sent a segment again.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetransmitCause {
    /// None of the others: acknowledgements that drive retransmissions after a timeout.
    Other = 0,
    /// Tail loss probe.
    TailLossProbe = 1,
    /// Retransmission timeout; `count` is `icsk_retransmits`.
    Timeout = 2,
    /// Recovery by SACK or duplicate acknowledgements.
    Fast = 3,
    /// SYN.
    Syn = 4,
    /// SYN-ACK.
    SynAck = 5,
}

/// One record about a connection. Every record of a ring begins with its time and its kind.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub at: u64,
    /// An [`EventKind`].
    pub kind: u8,
    /// State before.
    pub from: u8,
    /// State after, or the state for events that are no change.
    pub to: u8,
    /// A [`RetransmitCause`].
    pub cause: u8,
    /// `sk_err`, or `sk_err_soft` where that is zero.
    pub error: i32,
    /// What the connection is known by: the socket's cookie, or its address where it has none.
    pub cookie: u64,
    /// Nanoseconds or another key: see [`EventKind`].
    pub value: u64,
    /// This host's address.
    pub local: [u8; 16],
    /// The peer's address.
    pub remote: [u8; 16],
    /// This host's port; 0 while the kernel has not chosen one.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
    /// Thread group id of the owner; 0: not known.
    pub owner: u32,
    /// The connection's slot, or [`NO_SLOT`].
    pub slot: u32,
    /// `icsk_retransmits`.
    pub count: u32,
    /// The owner's `comm`.
    pub comm: [u8; 16],
}

/// [`Heartbeat::kind`].
pub const HEARTBEAT: u8 = 17;

/// A record that measures how long records take to their reader.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub at: u64,
    /// [`HEARTBEAT`].
    pub kind: u8,
    /// Always zero.
    pub reserved: [u8; 7],
}

/// Indices of the per-CPU counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Records lost because the urgent ring was full.
    UrgentLost = 0,
    /// Records lost because the bulk ring was full.
    BulkLost = 1,
    /// Connections not watched because no slot was free.
    TableFull = 2,
    /// Slots taken.
    SlotsTaken = 3,
    /// Slots given back.
    SlotsFreed = 4,
    /// Records put in the urgent ring.
    Urgent = 5,
    /// Records put in the bulk ring.
    Bulk = 6,
    /// Sends and receives that would have waited (EAGAIN): no messages.
    MessageAgain = 7,
    /// Calls whose return was seen and whose entry was not: the time spent is not known.
    MessageUnpaired = 8,
    /// Calls whose entry was seen and whose return was not.
    MessageAbandoned = 9,
    /// Datagrams that watched threads sent.
    UdpSent = 10,
    /// Datagrams that watched threads received.
    UdpReceived = 11,
    /// Sends that were not recorded one by one because the thread sends often.
    UdpUnrecorded = 12,
    /// Requests issued to disks that user space does not know yet.
    DiskUnknown = 13,
    /// Requests not timed because too many were under way.
    RequestsLost = 14,
    /// Processes not watched because the set was full.
    WatchedFull = 15,
    /// Times a thread of a watched process found no room in the table of threads.
    ThreadsFull = 16,
    /// Cgroups not watched because too many are.
    CgroupsFull = 17,
    /// Records of single calls put in the bulk ring.
    Call = 18,
    /// Records of single calls lost because it was full.
    CallLost = 19,
    /// Times a watched thread left a CPU and was not seen to have got it: the kernel did not run the
    /// program.
    SwitchesMissed = 20,
}

impl Counter {
    /// How many there are.
    pub const COUNT: u32 = 21;
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of, size_of};

    use super::*;

    #[test]
    fn layout_has_no_padding() {
        assert_eq!(size_of::<Event>(), 96);
        assert_eq!(align_of::<Event>(), 8);
        assert_eq!(offset_of!(Event, kind), KIND_OFFSET);
        assert_eq!(size_of::<Heartbeat>(), 16);
        assert_eq!(offset_of!(Heartbeat, kind), KIND_OFFSET);
        assert_eq!(offset_of!(Event, error), 12);
        assert_eq!(offset_of!(Event, owner), 68);
        assert_eq!(offset_of!(Event, comm), 80);
    }

    #[test]
    fn kinds_survive_the_ring() {
        for number in 0..=u8::MAX {
            if let Some(kind) = EventKind::from_number(number) {
                assert_eq!(kind as u8, number);
            }
        }
    }
}
