/// The kind of a [`Datagram`] record.
pub const DATAGRAM: u8 = 20;

/// Threads whose datagrams are counted at once. Where there are more, those that were quiet for the
/// longest are forgotten.
pub const UDP_THREADS: u32 = 1024;

/// Sends per window above which a thread's sends are no longer recorded one by one.
pub const RARE: u32 = 100;

/// The window in which a thread's sends are counted, in nanoseconds.
pub const WINDOW: u64 = 1_000_000_000;

/// What one thread sent and received by UDP. Its key is `pid << 32 | tid`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UdpThread {
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// Datagrams received.
    pub received: u64,
    /// Bytes in them.
    pub received_bytes: u64,
    /// When it last sent, in nanoseconds of `CLOCK_MONOTONIC`; 0: never.
    pub sent_at: u64,
    /// When it last received, in nanoseconds; 0: never.
    pub received_at: u64,
    /// When the current window began, in nanoseconds.
    pub window: u64,
    /// Sends in the current window.
    pub window_sends: u32,
    /// Sends in the window before it; zero where that was empty.
    pub last_sends: u32,
    /// Sends that failed, except with EAGAIN.
    pub send_errors: u32,
    /// Receives that failed, except with EAGAIN.
    pub receive_errors: u32,
    /// The thread's `comm` when it last sent or received first in a window.
    pub comm: [u8; 16],
}

/// One datagram that a thread sent which seldom sends.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    /// `CLOCK_MONOTONIC` in nanoseconds when the send returned (on a kprobe: when it began).
    pub at: u64,
    /// [`DATAGRAM`].
    pub kind: u8,
    /// Not zero where `result` is what the caller asked to send, not what the kernel took.
    pub asked: u8,
    /// Always zero.
    pub reserved: [u8; 2],
    /// Bytes, or an errno as a negative number.
    pub result: i32,
    /// The socket's cookie.
    pub cookie: u64,
    /// This host's address; unspecified where the socket is not bound to one.
    pub local: [u8; 16],
    /// Where it goes; unspecified where that is not known.
    pub remote: [u8; 16],
    /// This host's port.
    pub local_port: u16,
    /// The destination's port; 0 where it is not known.
    pub remote_port: u16,
    /// Thread group id of the sender.
    pub pid: u32,
    /// Thread id of the sender.
    pub tid: u32,
    /// Always zero.
    pub reserved2: u32,
    /// The thread's `comm`.
    pub comm: [u8; 16],
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of, size_of};

    use super::*;

    #[test]
    fn layout_has_no_padding() {
        assert_eq!(size_of::<Datagram>(), 88);
        assert_eq!(offset_of!(Datagram, kind), crate::KIND_OFFSET);
        assert_eq!(offset_of!(Datagram, cookie), 16);
        assert_eq!(offset_of!(Datagram, comm), 72);
        assert_eq!(size_of::<UdpThread>(), 88);
        assert_eq!(align_of::<UdpThread>(), 8);
        assert_eq!(offset_of!(UdpThread, comm), 72);
    }
}
