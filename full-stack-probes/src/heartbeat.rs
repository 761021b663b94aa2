//! How late records reach their handler, and whether they still do.
//!
//! Pure: the times of heartbeats in the kernel and here give their delay and the pauses.

use std::time::Duration;

use ebpf_abi::{HEARTBEAT, Heartbeat, KIND_OFFSET};
use events::Timestamp;

/// A heartbeat is missing when none was handled for so long. Four are due in this time.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Reads a ring's record; `None` where it is none of a heartbeat.
pub fn parse(bytes: &[u8]) -> Option<Timestamp> {
    if bytes.len() < size_of::<Heartbeat>() || bytes.get(KIND_OFFSET) != Some(&HEARTBEAT) {
        return None;
    }
    let at = bytes.first_chunk::<8>()?;
    Some(Timestamp::from_nanos(u64::from_ne_bytes(*at)))
}

/// Why no heartbeat was handled for longer than [`PATIENCE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// None comes: since when.
    Silent {
        /// How long already.
        for_: Duration,
    },
    /// They are back, and the kernel had sent none: its CPU was offline, or its clock throttled.
    NotSent {
        /// From one heartbeat to the next.
        for_: Duration,
    },
    /// They are back, and the kernel had sent them all along: this thread was late.
    Stalled {
        /// Between two handled heartbeats.
        for_: Duration,
    },
}

/// What is known of the heartbeats.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    sent: Timestamp,
    handled: Timestamp,
    silent: bool,
}

impl Pulse {
    /// Heartbeats are due from now on.
    pub fn new(now: Timestamp) -> Self {
        Self {
            sent: now,
            handled: now,
            silent: false,
        }
    }

    /// A heartbeat that was sent at `at` is handled at `now`. Returns the pause that it ends.
    pub fn beat(&mut self, at: Timestamp, now: Timestamp) -> Option<Pause> {
        let unhandled = now.since(self.handled);
        let unsent = at.since(self.sent);
        *self = Self {
            sent: at,
            handled: now,
            silent: false,
        };
        if unhandled <= PATIENCE {
            return None;
        }
        Some(if unsent > PATIENCE {
            Pause::NotSent { for_: unsent }
        } else {
            Pause::Stalled { for_: unhandled }
        })
    }

    /// Looks, after the rings were drained, whether one is missing. Told once for each pause.
    pub fn look(&mut self, now: Timestamp) -> Option<Pause> {
        let unhandled = now.since(self.handled);
        if self.silent || unhandled <= PATIENCE {
            return None;
        }
        self.silent = true;
        Some(Pause::Silent { for_: unhandled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn only_whole_heartbeats_are_read() {
        let mut bytes = [0u8; 16];
        bytes[..8].copy_from_slice(&77u64.to_ne_bytes());
        assert_eq!(parse(&bytes), None);
        bytes[KIND_OFFSET] = HEARTBEAT;
        assert_eq!(parse(&bytes), Some(Timestamp::from_nanos(77)));
        assert_eq!(parse(&bytes[..15]), None);
    }

    #[test]
    fn regular_heartbeats_are_no_pause() {
        let mut pulse = Pulse::new(at(0));
        for beat in 1..100 {
            assert_eq!(pulse.beat(at(beat * 100), at(beat * 100 + 3)), None);
            assert_eq!(pulse.look(at(beat * 100 + 50)), None);
        }
    }

    #[test]
    fn a_thread_that_was_late_and_a_kernel_that_was_silent_are_told_apart() {
        let mut pulse = Pulse::new(at(0));
        pulse.beat(at(100), at(100));
        // This thread did not run for 3 s; thirty heartbeats wait.
        let for_ = Duration::from_millis(3_100);
        assert_eq!(
            pulse.beat(at(200), at(3_200)),
            Some(Pause::Stalled { for_ })
        );
        for beat in 3..=32 {
            assert_eq!(pulse.beat(at(beat * 100), at(3_200)), None);
        }
        // The kernel sends none for 5 s.
        assert_eq!(pulse.look(at(4_200)), None);
        let for_ = Duration::from_millis(1_001);
        assert_eq!(pulse.look(at(4_201)), Some(Pause::Silent { for_ }));
        assert_eq!(pulse.look(at(8_000)), None, "told once");
        let for_ = Duration::from_millis(5_000);
        assert_eq!(
            pulse.beat(at(8_200), at(8_200)),
            Some(Pause::NotSent { for_ })
        );
        assert_eq!(pulse.look(at(9_000)), None);
    }
}
