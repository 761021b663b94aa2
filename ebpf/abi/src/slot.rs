/// Slots in the table: connections that can be watched at once. A power of two.
pub const SLOTS: u32 = 4096;

/// Neighbouring slots that share a bucket. A bucket of keys is one cache line.
pub const BUCKET: u32 = 8;

/// Buckets.
pub const BUCKETS_OF_KEYS: u32 = SLOTS / BUCKET;

/// Slots that a connection may have: those of two buckets.
pub const PLACES: u32 = 2 * BUCKET;

/// The key of a slot that is not in use. The kernel's cookies begin at 1.
pub const VACANT: u64 = 0;

/// Keys from here on are addresses of sockets that have no cookie (upper half of the address
/// space); cookies count up from 1.
pub const FIRST_ADDRESS: u64 = 1 << 63;

/// Fibonacci hashing: neighbours are spread evenly.
const fn spread(number: u64) -> u32 {
    (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SLOTS.trailing_zeros())) as u32
}

/// The slot where the search for a key begins.
///
/// The kernel hands out cookies to each CPU in runs of 4,096 (`COOKIE_LOCAL_BATCH`). Connections of
/// one run are neighbours, so that those that were opened together share pages; each run begins
/// elsewhere.
#[inline(always)]
#[must_use]
pub const fn home(key: u64) -> u32 {
    (key as u32).wrapping_add(spread(key >> 12)) & (SLOTS - 1)
}

/// The slot to look at in the `step`th place, for steps below [`PLACES`]: first round and round the
/// bucket of the [`home`]; where that is full, in a bucket that its neighbours do not have.
#[inline(always)]
#[must_use]
pub const fn place(key: u64, step: u32) -> u32 {
    let first = if step < BUCKET {
        home(key)
    } else {
        spread(key)
    };
    (first & !(BUCKET - 1)) | (first.wrapping_add(step) & (BUCKET - 1))
}

/// Entries in a slot's history of transmissions. A power of two.
pub const RING: usize = 16;

/// Whether sequence number `a` comes after `b` (RFC 9293, section 3.4).
#[inline(always)]
#[must_use]
pub const fn seq_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// One transmission: the sequence number after its last byte (high half) and the time it left in
/// wrapping microseconds of `CLOCK_MONOTONIC` (low half), in one word so that readers never see
/// halves of two.
pub type Stamp = u64;

/// The sequence number after the last byte that the stamp covers.
#[inline(always)]
#[must_use]
pub const fn stamp_end(stamp: Stamp) -> u32 {
    (stamp >> 32) as u32
}

/// When the first byte that the stamp covers left.
#[inline(always)]
#[must_use]
pub const fn stamp_micros(stamp: Stamp) -> u32 {
    stamp as u32
}

/// What is known of one connection. Written by kernel programs, read by user space through a
/// shared mapping. The first cache line is what every segment touches, in the second is what
/// hardly changes, then come the transmissions.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The connection's key.
    pub cookie: u64,
    /// When an acknowledgement last covered new data, in nanoseconds; 0: never.
    pub acked_at: u64,
    /// When data last left, in nanoseconds; 0: never.
    pub sent_at: u64,
    /// When a segment last came in, in nanoseconds; 0: never.
    pub received_at: u64,
    /// The highest acknowledged sequence number.
    pub snd_una: u32,
    /// The next sequence number to be sent, as last seen.
    pub snd_nxt: u32,
    /// `tcp_sock.srtt_us`: eight times the smoothed round-trip time in microseconds.
    pub srtt_us: u32,
    /// `tcp_sock.mdev_us`: four times the mean deviation in microseconds (`tcp_info` calls a
    /// quarter of it `tcpi_rttvar`).
    pub mdev_us: u32,
    /// `tcp_sock.rack.rtt_us`: the newest raw round-trip time in microseconds.
    pub last_rtt_us: u32,
    /// Calls that sent; where those cannot be hooked, segments with new data.
    pub sends: u32,
    /// Segments received.
    pub segments: u32,
    /// Not zero once everything is filled in. User space may take a slot for a connection that it
    /// knows; the next program to see the connection fills it.
    pub ready: u8,
    /// The kernel's `TCP_*` state.
    pub state: u8,
    /// Not zero while the peer's window is closed.
    pub zero_window: u8,
    /// Transmissions noted so far; the next goes to `ring[head % RING]`.
    pub head: u8,
    /// This host's address.
    pub local: [u8; 16],
    /// The peer's address.
    pub remote: [u8; 16],
    /// This host's port.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
    /// `snd_una` less `tcp_sock.bytes_acked`: from `tcpi_bytes_acked` follows `snd_una`.
    pub una_base: u32,
    /// When connect() began, in nanoseconds; 0: not seen.
    pub opened_at: u64,
    /// When the peer's window closed, in nanoseconds; 0: it is open.
    pub window_closed_at: u64,
    /// `tcp_sock.rtt_min`: the windowed minimum in microseconds.
    pub min_rtt_us: u32,
    /// Always zero.
    pub reserved: u32,
    /// Transmissions, in no order that matters.
    pub ring: [Stamp; RING],
}

impl Slot {
    /// When the oldest byte that is not acknowledged was sent, in wrapping microseconds.
    #[must_use]
    pub fn oldest_unacknowledged(&self) -> Option<u32> {
        self.ring
            .iter()
            // Blank ones have no time, and may end where bytes of before it was watched do.
            .filter(|stamp| stamp_micros(**stamp) != 0)
            .filter(|stamp| seq_after(stamp_end(**stamp), self.snd_una))
            .min_by_key(|stamp| stamp_end(**stamp).wrapping_sub(self.snd_una))
            .map(|stamp| stamp_micros(*stamp))
    }
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of, size_of};

    use super::*;

    #[test]
    fn layout_has_no_padding() {
        assert_eq!(size_of::<Slot>(), 256);
        assert_eq!(align_of::<Slot>(), 8);
        assert_eq!(offset_of!(Slot, acked_at), 8);
        assert_eq!(offset_of!(Slot, local), 64);
        assert_eq!(offset_of!(Slot, opened_at), 104);
        assert_eq!(offset_of!(Slot, ring), 128);
        assert_eq!(
            offset_of!(Slot, ring) + RING * size_of::<Stamp>(),
            size_of::<Slot>()
        );
    }

    #[test]
    fn sequence_numbers_wrap() {
        assert!(seq_after(1, u32::MAX));
        assert!(!seq_after(u32::MAX, 1));
        assert!(!seq_after(7, 7));
    }

    #[test]
    fn cookies_of_many_cpus_all_find_a_place() {
        for cpus in [1u64, 2, 64] {
            let mut taken = [false; SLOTS as usize];
            let (mut at_home, connections) = (0, u64::from(SLOTS) / 2);
            for number in 0..connections {
                let cookie = (number % cpus) * 4096 + number / cpus + 1;
                let free = (0..PLACES)
                    .map(|step| place(cookie, step))
                    .find(|slot| !taken[*slot as usize])
                    .expect("a place");
                taken[free as usize] = true;
                at_home += u64::from(free == home(cookie));
            }
            assert!(at_home > connections / 2, "{at_home} with {cpus} CPUs");
        }
    }

    #[test]
    fn cookies_of_one_run_are_neighbours() {
        assert_eq!(home(5_000 + 1), (home(5_000) + 1) % SLOTS);
        assert_ne!(home(5_000 + 4_096), home(5_000));
    }

    #[test]
    fn a_search_goes_through_two_whole_buckets() {
        for key in [1, 7, 8, 13, 4_095, 4_096, 123_456_789, u64::MAX - 4_000] {
            let mut seen = [0u8; 2];
            for step in 0..PLACES {
                let (slot, half) = (place(key, step), step / BUCKET);
                assert_eq!(slot / BUCKET, place(key, half * BUCKET) / BUCKET);
                seen[half as usize] |= 1 << (slot % BUCKET);
            }
            assert_eq!(seen, [u8::MAX; 2]);
            assert_eq!(place(key, 0), home(key));
        }
    }

    #[test]
    fn the_oldest_byte_is_the_one_after_the_highest_acknowledged() {
        // SAFETY: every field of a slot is a number.
        let mut slot: Slot = unsafe { core::mem::zeroed() };
        let base = u32::MAX - 5;
        slot.snd_una = base;
        slot.ring = [(u64::from(base) << 32) | 1; RING];
        assert_eq!(slot.oldest_unacknowledged(), None);
        slot.ring[3] = (u64::from(base.wrapping_add(10)) << 32) | 200;
        slot.ring[4] = (u64::from(base.wrapping_add(20)) << 32) | 300;
        assert_eq!(slot.oldest_unacknowledged(), Some(200));
        slot.snd_una = base.wrapping_add(10);
        assert_eq!(slot.oldest_unacknowledged(), Some(300));
        slot.snd_una = base.wrapping_add(20);
        assert_eq!(slot.oldest_unacknowledged(), None);
    }

    #[test]
    fn bytes_on_their_way_when_the_watch_began_keep_their_time() {
        // SAFETY: every field of a slot is a number.
        let mut slot: Slot = unsafe { core::mem::zeroed() };
        let (una, nxt) = (3_000_000_000_u32, 3_000_000_100_u32);
        slot.snd_una = una;
        slot.ring = [u64::from(nxt) << 32; RING];
        // The one entry grew with what was sent since.
        slot.ring[0] = (u64::from(nxt + 50) << 32) | 700;
        assert_eq!(slot.oldest_unacknowledged(), Some(700));
    }
}
