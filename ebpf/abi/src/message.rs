/// The kind of a [`Message`] record.
pub const MESSAGE: u8 = 16;

/// What [`Message::took`] holds where the time spent is not known.
pub const TOOK_UNKNOWN: u64 = u64::MAX;

/// Calls of `tcp_sendmsg` and `tcp_recvmsg` that are followed at once. Where more threads wait, the
/// oldest are forgotten: their records say nothing of the time spent.
pub const CALLS: u32 = 4096;

/// Which way a message went.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From this host.
    Send = 0,
    /// To this host.
    Receive = 1,
}

/// One call that sent or received.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// `CLOCK_MONOTONIC` in nanoseconds when the call began; where only its return is seen, when it
    /// returned.
    pub at: u64,
    /// [`MESSAGE`].
    pub kind: u8,
    /// A [`Direction`].
    pub direction: u8,
    /// Not zero where `result` is what the caller asked to send, not what the kernel took.
    pub asked: u8,
    /// Always zero.
    pub reserved: u8,
    /// Bytes, or an errno as a negative number.
    pub result: i32,
    /// Nanoseconds from entry to exit, or [`TOOK_UNKNOWN`].
    pub took: u64,
    /// The socket's cookie.
    pub cookie: u64,
    /// This host's address.
    pub local: [u8; 16],
    /// The peer's address.
    pub remote: [u8; 16],
    /// This host's port.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
    /// Thread group id of the caller.
    pub pid: u32,
    /// Thread id of the caller.
    pub tid: u32,
    /// Always zero.
    pub reserved2: u32,
    /// The calling thread's `comm`.
    pub comm: [u8; 16],
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of, size_of};

    use super::*;

    #[test]
    fn layout_has_no_padding() {
        assert_eq!(size_of::<Message>(), 96);
        assert_eq!(align_of::<Message>(), 8);
        assert_eq!(offset_of!(Message, kind), crate::KIND_OFFSET);
        assert_eq!(offset_of!(Message, result), 12);
        assert_eq!(offset_of!(Message, local), 32);
        assert_eq!(offset_of!(Message, pid), 68);
        assert_eq!(offset_of!(Message, comm), 80);
    }
}
