use std::collections::BTreeMap;
use std::sync::Arc;

/// Packed attributes, each stored once, however many routes share them.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    ids: BTreeMap<Arc<[u8]>, u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    bytes: Arc<[u8]>,
    references: u32,
}

impl Arena {
    /// The id of these bytes, with `references` more references to it.
    pub fn acquire(&mut self, bytes: &[u8]) -> u32 {
        if let Some(&id) = self.ids.get(bytes) {
            self.retain(id);
            return id;
        }
        let bytes: Arc<[u8]> = bytes.into();
        let slot = Slot {
            bytes: Arc::clone(&bytes),
            references: 1,
        };
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
        self.ids.insert(bytes, id);
        id
    }

    /// One more reference.
    pub fn retain(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(id as usize) {
            slot.references += 1;
        }
    }

    /// One reference less; without any the bytes are forgotten and the id is used again.
    pub fn release(&mut self, id: u32) {
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return;
        };
        slot.references = slot.references.saturating_sub(1);
        if slot.references == 0 {
            let bytes = std::mem::take(&mut slot.bytes);
            self.ids.remove(&bytes);
            self.free.push(id);
        }
    }

    pub fn get(&self, id: u32) -> &[u8] {
        self.slots.get(id as usize).map_or(&[], |slot| &slot.bytes)
    }

    /// How many different attributes there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_share_an_id_until_the_last_reference_goes() {
        let mut arena = Arena::default();
        let a = arena.acquire(b"a");
        assert_eq!(arena.acquire(b"a"), a);
        let b = arena.acquire(b"b");
        assert_ne!(a, b);
        arena.release(a);
        assert_eq!((arena.get(a), arena.len()), (&b"a"[..], 2));
        arena.release(a);
        assert_eq!(arena.len(), 1);
        let c = arena.acquire(b"c");
        assert_eq!(c, a, "the slot is used again");
        assert_eq!((arena.get(b), arena.get(c)), (&b"b"[..], &b"c"[..]));
    }
}
