//! The host's clocks, read at the edges only: pure crates take time as an argument. And durations as
//! people write them.

mod duration;

use events::Timestamp;

pub use duration::{read_duration, write_duration};

/// `CLOCK_MONOTONIC`, the clock of the kernel's own timestamps.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::from_nanos(read(libc::CLOCK_MONOTONIC))
}

/// Wall-clock time of a moment on the monotonic clock, by the offset between the two now.
#[must_use]
pub fn wall(at: Timestamp) -> jiff::Timestamp {
    let offset = i128::from(read(libc::CLOCK_REALTIME)) - i128::from(read(libc::CLOCK_MONOTONIC));
    jiff::Timestamp::from_nanosecond(offset + i128::from(at.as_nanos()))
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// The moment on the monotonic clock of a wall-clock time, by the offset between the two now; the
/// clock's origin for times before it.
#[must_use]
pub fn monotonic(wall: jiff::Timestamp) -> Timestamp {
    let offset = i128::from(read(libc::CLOCK_REALTIME)) - i128::from(read(libc::CLOCK_MONOTONIC));
    let nanos = (wall.as_nanosecond() - offset).max(0);
    Timestamp::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid, writable timespec. Both clocks exist on every Linux, so the call
    // cannot fail; if it did, the zeroed value would be returned.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_of_now_is_the_wall_clock() {
        let before = jiff::Timestamp::now();
        let wall = wall(now());
        let after = jiff::Timestamp::now();
        let slack = jiff::SignedDuration::from_secs(1);
        assert!(wall >= before - slack && wall <= after + slack);
    }

    #[test]
    fn wall_time_leads_back_to_the_moment() {
        let at = now();
        let back = monotonic(wall(at));
        let apart = back.since(at).max(at.since(back));
        assert!(apart < std::time::Duration::from_secs(1));
        assert_eq!(monotonic(jiff::Timestamp::UNIX_EPOCH), Timestamp::ZERO);
    }
}
