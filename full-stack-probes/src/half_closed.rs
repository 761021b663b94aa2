//! Acknowledgements on half-closed connections.
//!
//! `tcp_probe` and `tcp_rcv_established` see established connections only. Of a connection that is
//! closed on one side, programs note the moment of the change and the FIN; when data or the FIN
//! looks late, and only then, the kernel is asked for that one socket (sock_diag). That costs
//! nothing while all is well, and works on every hook and kernel.

use std::time::Duration;

use ebpf_abi::{FIRST_ADDRESS, Slot, seq_after};
use events::Timestamp;

use crate::convert;
use crate::diag::{Acknowledged, Diag};
use crate::sweep::Pace;

/// States in which what was sent may be on its way, beside ESTABLISHED: FIN_WAIT1, CLOSE_WAIT,
/// LAST_ACK, CLOSING (`include/net/tcp_states.h`).
pub const STATES: [u8; 4] = [4, 8, 9, 11];

/// The least time between two questions about one connection that stays late.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What the kernel answered last.
#[derive(Clone, Copy, Debug, Default)]
pub struct HalfClosed {
    asked_at: Option<Timestamp>,
    answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    una: u32,
    acked_at: Timestamp,
    zero_window: bool,
}

/// What the kernel says about one half-closed connection.
pub fn ask(diag: &mut Diag, slot: &Slot) -> Option<Acknowledged> {
    let flow = convert::flow(slot.local, slot.local_port, slot.remote, slot.remote_port);
    let cookie = (slot.cookie < FIRST_ADDRESS).then_some(slot.cookie);
    diag.acknowledged(&flow, cookie).unwrap_or_else(|error| {
        tracing::debug!(%error, "cannot ask about a half-closed connection");
        None
    })
}

impl HalfClosed {
    /// Corrects a copy of a slot by what the kernel says, which is asked if data looks late and it
    /// was not asked for a while.
    pub fn correct(
        &mut self,
        slot: &mut Slot,
        now: Timestamp,
        pace: Pace,
        ask: impl FnOnce() -> Option<Acknowledged>,
    ) {
        self.apply(slot);
        let Some(age) = pace.late_for(slot, now) else {
            return;
        };
        let pause = (age / 16).clamp(pace.interval, LONGEST_PAUSE.max(pace.interval));
        if self.asked_at.is_some_and(|at| now.since(at) < pause) {
            return;
        }
        self.asked_at = Some(now);
        if let Some(told) = ask() {
            self.answer = Some(Answer {
                una: slot.una_base.wrapping_add(told.bytes as u32),
                acked_at: Timestamp::from_nanos(
                    now.as_nanos()
                        .saturating_sub(u64::try_from(told.ago.as_nanos()).unwrap_or(u64::MAX)),
                ),
                zero_window: told.zero_window,
            });
            self.apply(slot);
        }
    }

    fn apply(&self, slot: &mut Slot) {
        let Some(answer) = self.answer else {
            return;
        };
        slot.zero_window = u8::from(answer.zero_window);
        if seq_after(answer.una, slot.snd_una) {
            slot.snd_una = answer.una;
            slot.acked_at = slot.acked_at.max(answer.acked_at.as_nanos());
            slot.received_at = slot.received_at.max(answer.acked_at.as_nanos());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWEEP: Pace = Pace {
        interval: Duration::from_millis(5),
        late: Duration::from_millis(20),
        slack: Duration::from_millis(15),
    };

    fn slot() -> Slot {
        // SAFETY: every field of a slot is a number.
        let mut slot: Slot = unsafe { std::mem::zeroed() };
        slot.srtt_us = 20_000 << 3;
        slot.una_base = u32::MAX - 10;
        slot.snd_una = 100;
        slot.snd_nxt = 300;
        slot.ring = [u64::from(slot.snd_una) << 32; ebpf_abi::RING];
        slot.ring[0] = (200 << 32) | 1_000_000;
        slot.ring[1] = (300 << 32) | 1_010_000;
        slot
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn told(bytes: u64) -> Option<Acknowledged> {
        Some(Acknowledged {
            bytes,
            ago: Duration::from_millis(10),
            zero_window: false,
        })
    }

    #[test]
    fn the_kernel_is_asked_only_when_data_looks_late_and_not_too_often() {
        let mut half = HalfClosed::default();
        let mut asked = 0;
        for ms in 1_000..1_100 {
            let mut slot = slot();
            half.correct(&mut slot, at(ms), SWEEP, || {
                asked += 1;
                None
            });
        }
        // Late from 1,041 ms on, then once in 5 to 7 ms.
        assert!((9..=14).contains(&asked), "{asked}");
    }

    #[test]
    fn the_answer_says_what_is_acknowledged_and_stays() {
        let mut half = HalfClosed::default();
        let mut first = slot();
        // The base is 11 below zero: 211 bytes end at sequence number 200.
        half.correct(&mut first, at(1_041), SWEEP, || told(211));
        assert_eq!(first.snd_una, 200);
        assert_eq!(first.acked_at, 1_031_000_000);
        assert_eq!(first.oldest_unacknowledged(), Some(1_010_000));
        let mut second = slot();
        half.correct(&mut second, at(1_041), SWEEP, || panic!("asked again"));
        assert_eq!(second.snd_una, 200);
        let mut third = slot();
        half.correct(&mut third, at(1_060), SWEEP, || told(311));
        assert_eq!(third.oldest_unacknowledged(), None);
    }
}
