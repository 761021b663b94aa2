//! The connections that are swept: what is remembered of each, and the sweep through them.
//!
//! Nearly all looks find a connection that is well. So a sweep goes by a short entry for each slot,
//! and such a look costs that and the slot's first cache line; everything else is looked at when
//! data is late, and once a second.

use std::collections::BTreeMap;
use std::time::Duration;

use ebpf_abi::{PLACES, SLOTS, place};
use events::{ConnectionId, TcpEvent, TcpEventKind, Timestamp};

use crate::convert;
use crate::counters::Shared;
use crate::diag::Diag;
use crate::half_closed;
use crate::percentiles::{Registry, Series};
use crate::sweep::{self, Live, Pace};
use crate::table::{TCP_ESTABLISHED, Table};

/// The longest time between two sweeps: edges that do not hurry wait for one.
const LONGEST_SWEEP: Duration = Duration::from_millis(50);
/// Sleep where nothing at all is watched: how late an opening connection may be told of.
const REST: Duration = Duration::from_millis(100);
/// Round-trip times go into the percentiles once a second, together, and when there are so many:
/// one by one each would find its histogram in no cache.
const ROUND_TRIPS: usize = 16_384;

/// Bits of a word.
const WORD: u32 = u64::BITS;

/// What a sweep goes by.
#[derive(Clone, Copy, Default)]
struct Glance {
    cookie: u64,
    /// Nothing of it can be late before this.
    due: Timestamp,
    rtt_us: u32,
    /// Nothing was late at the last look at all of it.
    is_well: bool,
}

/// What a sweep found beside the events.
pub struct Summary {
    /// When the next is due at the latest ...
    pub next: Timestamp,
    /// ... and from when on one may be made if the thread is awake anyway.
    pub early: Timestamp,
    /// Calls that sent, of all that was looked at.
    pub sends: u64,
    /// Segments that came in.
    pub segments: u64,
}

/// The connections that are swept, by slot.
pub struct Swept {
    glances: Box<[Glance]>,
    /// A bit for each slot that is swept.
    taken: [u64; (SLOTS / WORD) as usize],
    live: BTreeMap<u32, Live>,
    /// Slots and their round-trip times in microseconds that are not in the percentiles yet.
    round_trips: Vec<(u32, u32)>,
    second: u128,
}

impl Default for Swept {
    fn default() -> Self {
        Self {
            glances: vec![Glance::default(); SLOTS as usize].into(),
            taken: [0; (SLOTS / WORD) as usize],
            live: BTreeMap::new(),
            round_trips: Vec::new(),
            second: 0,
        }
    }
}

impl Swept {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// The connection that is swept in a slot.
    pub fn cookie(&self, index: u32) -> Option<u64> {
        self.live.get(&index).map(|live| live.cookie)
    }

    /// Begins to sweep a slot, in whose place no other may be swept.
    pub fn insert(&mut self, index: u32, live: Live) {
        let Some(glance) = self.glances.get_mut(index as usize) else {
            return;
        };
        *glance = Glance {
            cookie: live.cookie,
            ..Glance::default()
        };
        if let Some(word) = self.taken.get_mut((index / WORD) as usize) {
            *word |= 1 << (index % WORD);
        }
        self.live.insert(index, live);
    }

    /// Ends it.
    pub fn remove(&mut self, index: u32, shared: &Shared) {
        if self.live.contains_key(&index) {
            self.record(&mut shared.registry());
            self.take(index);
        }
    }

    /// A connection got another key, and with it perhaps another slot.
    pub fn rename(&mut self, from: u64, to: u64, slot: Option<u32>, shared: &Shared) {
        let index = (0..PLACES)
            .map(|step| place(from, step))
            .find(|index| self.cookie(*index) == Some(from));
        let Some(index) = index else { return };
        self.record(&mut shared.registry());
        if let (Some(mut live), Some(slot)) = (self.take(index), slot) {
            live.cookie = to;
            self.insert(slot, live);
        }
    }

    fn take(&mut self, index: u32) -> Option<Live> {
        if let Some(word) = self.taken.get_mut((index / WORD) as usize) {
            *word &= !(1 << (index % WORD));
        }
        self.live.remove(&index)
    }

    /// Takes the round-trip times over into the percentiles of their peers.
    fn record(&mut self, registry: &mut Registry) {
        self.round_trips.sort_unstable_by_key(|(index, _)| *index);
        for of_one in self.round_trips.chunk_by(|(a, _), (b, _)| a == b) {
            let live = of_one.first().and_then(|(index, _)| self.live.get(index));
            if let Some(live) = live.filter(|live| !live.ignored) {
                let nanos = of_one
                    .iter()
                    .map(|(_, micros)| (u64::from(*micros) * 1_000, 1));
                registry.record_all(Series::Rtt { peer: live.peer }, nanos);
            }
        }
        self.round_trips.clear();
    }

    /// Looks at all that may be late by now; at everything while somebody is `attentive`, and once
    /// a second.
    #[expect(clippy::too_many_arguments, reason = "each is another owner's")]
    pub fn sweep(
        &mut self,
        now: Timestamp,
        pace: Pace,
        attentive: bool,
        table: &Table,
        diag: &mut Diag,
        shared: &Shared,
        out: &mut Vec<TcpEvent>,
    ) -> Summary {
        let Pace {
            interval, slack, ..
        } = pace;
        let second = sweep::second(now);
        let is_second_new = second != self.second;
        self.second = second;
        let all = attentive || is_second_new;
        // Those that could be late soon are looked at as well: most turn out to be well until after
        // that, and the next sweep is as far off.
        let soon = now + pace.late;
        let mut next = now
            + if attentive {
                2 * interval
            } else if self.live.is_empty() {
                REST
            } else {
                LONGEST_SWEEP.max(interval)
            };
        // The lines are another CPU's: fetched one after the other, most of a sweep is waiting.
        for index in slots(&self.taken) {
            if all
                || self
                    .glances
                    .get(index as usize)
                    .is_some_and(|g| g.due <= soon)
            {
                table.touch(index);
            }
        }
        let (mut sends, mut segments) = (0, 0);
        let mut vacated = Vec::new();
        for index in slots(&self.taken) {
            let Some(glance) = self.glances.get_mut(index as usize) else {
                continue;
            };
            let due = if all {
                None
            } else if glance.due > soon {
                Some(glance.due)
            } else if glance.is_well {
                glance.look(index, now, pace, table, &mut self.round_trips)
            } else {
                None
            };
            if let Some(due) = due {
                glance.due = due;
                next = next.min(due + slack);
                continue;
            }
            let slot = table
                .read(index)
                .filter(|slot| slot.cookie == glance.cookie);
            let (Some(mut slot), Some(live)) = (slot, self.live.get_mut(&index)) else {
                vacated.push(index);
                continue;
            };
            if half_closed::STATES.contains(&slot.state) && slot.una_base != 0 {
                let copy = slot;
                live.half_closed
                    .correct(&mut slot, now, pace, || half_closed::ask(diag, &copy));
            } else if slot.state != TCP_ESTABLISHED {
                continue;
            }
            glance.measured(index, slot.last_rtt_us, &mut self.round_trips);
            let look = live.look(&slot, now, pace, attentive);
            glance.due = look.due;
            glance.is_well = !look.late;
            sends += u64::from(look.sends);
            segments += u64::from(look.segments);
            next = next.min(if look.late {
                now + interval
            } else {
                look.due + slack
            });
            if let Some(sample) = look.sample.filter(|_| !live.ignored) {
                // The kernel may have written since the sweep began.
                let newest = slot.sent_at.max(slot.received_at);
                out.push(TcpEvent {
                    at: now.max(Timestamp::from_nanos(newest)),
                    connection: ConnectionId(slot.cookie),
                    flow: convert::flow(slot.local, slot.local_port, slot.remote, slot.remote_port),
                    kind: TcpEventKind::Sample(sample),
                });
            }
        }
        if is_second_new || self.round_trips.len() >= ROUND_TRIPS || !vacated.is_empty() {
            self.record(&mut shared.registry());
        }
        for index in vacated {
            self.take(index);
        }
        Summary {
            next,
            // Not with each of many events, and not before something may be late.
            early: (next - slack).max(now + 2 * interval),
            sends,
            segments,
        }
    }
}

impl Glance {
    /// Looks at a connection that was well. `None`: it is to be looked at more closely; else
    /// nothing of it can be late before that time.
    fn look(
        &mut self,
        index: u32,
        now: Timestamp,
        pace: Pace,
        table: &Table,
        round_trips: &mut Vec<(u32, u32)>,
    ) -> Option<Timestamp> {
        let seen = table.glimpse(index, self.cookie)?;
        let due = if seen.is_outstanding {
            let slot = table
                .read(index)
                .filter(|slot| slot.cookie == self.cookie)?;
            Some(pace.due(&slot, now)).filter(|due| *due >= now)?
        } else {
            now + pace.patience(seen.srtt_us, seen.mdev_us)
        };
        self.measured(index, seen.last_rtt_us, round_trips);
        Some(due)
    }

    /// Notes a round-trip time if it is another one than at the last look.
    fn measured(&mut self, index: u32, micros: u32, round_trips: &mut Vec<(u32, u32)>) {
        if micros != 0 && micros != self.rtt_us {
            self.rtt_us = micros;
            round_trips.push((index, micros));
        }
    }
}

/// The slots whose bits are set, in order.
fn slots(taken: &[u64]) -> impl Iterator<Item = u32> + use<'_> {
    (0..)
        .step_by(WORD as usize)
        .zip(taken)
        .flat_map(|(first, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(first + bit)
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_gone_through_in_order() {
        let mut taken = [0; (SLOTS / WORD) as usize];
        for index in [0u32, 1, 63, 64, 200, SLOTS - 1] {
            taken[(index / WORD) as usize] |= 1 << (index % WORD);
        }
        let found: Vec<u32> = slots(&taken).collect();
        assert_eq!(found, [0, 1, 63, 64, 200, SLOTS - 1]);
        assert_eq!(slots(&[u64::MAX; 2]).count(), 128);
    }
}
