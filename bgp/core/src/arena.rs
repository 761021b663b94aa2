//! Interned attributes, and how many routes cross each AS link.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};
use std::hash::BuildHasher;

use crate::links::{self, LinkKey};

/// Sets whose counts may differ from the links'. With more, the oldest are counted, a few at a time:
/// by then most routes have come that share a set.
const UNCOUNTED: usize = 1024;
/// What the allocator adds to each set, about.
const ALLOCATION: usize = 16;

/// Packed attributes, each stored once, however many routes share them.
///
/// A set is kept while a route has it, or while somebody else remembers it (a path that is not the
/// best, the history, a burst). Only routes count for the links.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    index: HashTable<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    hasher: FixedState,
    /// Bytes of all sets.
    bytes: usize,
    links: HashMap<LinkKey, u32, FixedState>,
    /// Sets whose `routes` are no longer what `counted` says; some are there more than once.
    uncounted: VecDeque<u32>,
    scratch: Vec<LinkKey>,
}

#[derive(Debug, Default)]
struct Slot {
    bytes: Box<[u8]>,
    /// Low bits of the bytes' hash.
    hash: u32,
    /// Routes that have the set.
    routes: u32,
    /// Others that remember it.
    kept: u32,
    /// Routes that are counted in `links`.
    counted: u32,
}

impl Arena {
    /// Sets with the same seed hash alike. It should not be known to neighbours, who could choose
    /// attributes that collide.
    pub fn new(seed: u64) -> Self {
        Self {
            hasher: FixedState::with_seed(seed),
            ..Self::default()
        }
    }

    /// The id of these bytes, remembered once more: [`Self::forget`] it.
    pub fn intern(&mut self, bytes: &[u8]) -> u32 {
        #[allow(clippy::cast_possible_truncation)] // Half of the hash is enough.
        let hash = self.hasher.hash_one(bytes) as u32;
        let slots = &self.slots;
        let same = |id: &u32| {
            let slot = slots.get(*id as usize);
            slot.is_some_and(|slot| slot.hash == hash && *slot.bytes == *bytes)
        };
        if let Some(&id) = self.index.find(spread(hash), same) {
            self.keep(id);
            return id;
        }
        let slot = Slot {
            bytes: bytes.into(),
            hash,
            kept: 1,
            ..Slot::default()
        };
        self.bytes += bytes.len() + ALLOCATION;
        let free = self.free.pop();
        let id = match free.and_then(|id| Some((id, self.slots.get_mut(id as usize)?))) {
            Some((id, reused)) => {
                *reused = slot;
                id
            }
            None => {
                self.slots.push(slot);
                // More than 2^32 slots would need terabytes; the prefix limits forbid them.
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let slots = &self.slots;
        self.index.insert_unique(spread(hash), id, |id| {
            spread(slots.get(*id as usize).map_or(0, |slot| slot.hash))
        });
        id
    }

    /// Remembers it once more.
    pub fn keep(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(id as usize) {
            slot.kept += 1;
        }
    }

    /// The reverse of [`Self::keep`].
    pub fn forget(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(id as usize) {
            slot.kept = slot.kept.saturating_sub(1);
            if slot.kept == 0 && slot.routes == 0 {
                self.remove(id);
            }
        }
    }

    /// One more route has it.
    pub fn add_route(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(id as usize) {
            if slot.routes == slot.counted {
                self.uncounted.push_back(id);
            }
            slot.routes += 1;
        }
        self.count_some();
    }

    /// One route less has it.
    pub fn remove_route(&mut self, id: u32) {
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return;
        };
        if slot.routes == slot.counted {
            self.uncounted.push_back(id);
        }
        slot.routes = slot.routes.saturating_sub(1);
        if slot.kept == 0 && slot.routes == 0 {
            self.remove(id);
        }
        self.count_some();
    }

    fn remove(&mut self, id: u32) {
        self.count(id);
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return;
        };
        let found = self
            .index
            .find_entry(spread(slot.hash), |other| *other == id);
        if let Ok(entry) = found {
            entry.remove();
        }
        self.bytes -= slot.bytes.len() + ALLOCATION;
        *slot = Slot::default();
        self.free.push(id);
    }

    pub fn get(&self, id: u32) -> &[u8] {
        self.slots.get(id as usize).map_or(&[], |slot| &slot.bytes)
    }

    /// How many different sets there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes of memory that it takes.
    pub fn mem_size(&self) -> usize {
        self.bytes
            + self.slots.capacity() * size_of::<Slot>()
            + self.index.allocation_size()
            + self.links.allocation_size()
            + (self.free.capacity() + self.uncounted.capacity()) * size_of::<u32>()
    }

    /// How much of that new sets would take in place of those that went.
    pub const fn slack(&self) -> usize {
        self.free.len() * size_of::<Slot>()
    }

    /// How many routes cross each link and each AS, of those that any crosses.
    pub fn links(&mut self) -> &HashMap<LinkKey, u32, FixedState> {
        self.count_all();
        &self.links
    }

    fn count_some(&mut self) {
        // One comes in with each call at most.
        for _ in 0..2 {
            if self.uncounted.len() > UNCOUNTED
                && let Some(id) = self.uncounted.pop_front()
            {
                self.count(id);
            }
        }
    }

    fn count_all(&mut self) {
        while let Some(id) = self.uncounted.pop_front() {
            self.count(id);
        }
    }

    /// Makes the links' counts agree with the routes that have this set.
    fn count(&mut self, id: u32) {
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return;
        };
        let (before, after) = (slot.counted, slot.routes);
        if before == after {
            return;
        }
        slot.counted = after;
        links::of(&slot.bytes, &mut self.scratch);
        for key in &self.scratch {
            let count = self.links.entry(*key).or_default();
            *count = (*count + after).saturating_sub(before);
            if *count == 0 {
                self.links.remove(key);
            }
        }
    }
}

/// A table takes its buckets from the low bits of a hash and its tags from the highest.
fn spread(hash: u32) -> u64 {
    u64::from(hash) | u64::from(hash) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_share_an_id_until_nobody_remembers_them() {
        let mut arena = Arena::new(7);
        let a = arena.intern(b"a");
        assert_eq!(arena.intern(b"a"), a);
        let b = arena.intern(b"b");
        assert_ne!(a, b);
        arena.forget(a);
        assert_eq!((arena.get(a), arena.len()), (&b"a"[..], 2));
        arena.add_route(a);
        arena.forget(a);
        assert_eq!(arena.len(), 2, "a route has it");
        arena.remove_route(a);
        assert_eq!(arena.len(), 1);
        let c = arena.intern(b"c");
        assert_eq!(c, a, "the slot is used again");
        assert_eq!((arena.get(b), arena.get(c)), (&b"b"[..], &b"c"[..]));
    }

    #[test]
    fn links_are_counted_by_routes_and_vanish_with_the_last() {
        let mut arena = Arena::new(7);
        let path = |asns: &[u32]| links::tests::packed(asns);
        let short = arena.intern(&path(&[1, 2]));
        let long = arena.intern(&path(&[1, 2, 2, 3]));
        for _ in 0..5 {
            arena.add_route(short);
        }
        arena.add_route(long);
        let links = |arena: &mut Arena, near, far| {
            let links = arena.links();
            links.get(&LinkKey { near, far }).copied()
        };
        assert_eq!(links(&mut arena, 1, 2), Some(6));
        assert_eq!(links(&mut arena, 2, 3), Some(1));
        assert_eq!(links(&mut arena, 3, 3), Some(1), "the AS itself");
        arena.forget(long);
        arena.remove_route(long);
        assert_eq!(links(&mut arena, 1, 2), Some(5));
        assert_eq!(links(&mut arena, 2, 3), None);
        arena.forget(short);
        for _ in 0..5 {
            arena.remove_route(short);
        }
        assert!(arena.links().is_empty());
        assert_eq!((arena.len(), arena.bytes), (0, 0));
    }
}
