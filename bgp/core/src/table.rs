//! One neighbour's routes (Adj-RIB-In).

use std::collections::BTreeMap;
use std::net::IpAddr;

use events::{Prefix, Timestamp};
use ipnet::{Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use crate::nlri::Family;

/// One route. Sixteen bytes: there can be a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub received_at: Timestamp,
    /// Id in the arena.
    pub attributes: u32,
    /// The session, counted from 1, in which it was last announced.
    pub generation: u32,
}

/// The best route to each prefix; beside it all paths of a neighbour that sends several (RFC 7911).
#[derive(Debug, Default)]
pub(crate) struct Table {
    v4: PrefixMap<Ipv4Net, Entry>,
    v6: PrefixMap<Ipv6Net, Entry>,
    paths: BTreeMap<(Prefix, u32), Entry>,
    /// The most prefixes that there were, IPv4 and IPv6: the tries keep the memory of those.
    peak: (usize, usize),
    /// Routes of earlier generations are of an earlier session.
    session: u32,
    /// Prefixes and paths of this session.
    prefixes_now: ByFamily,
    paths_now: ByFamily,
}

#[derive(Clone, Copy, Debug, Default)]
struct ByFamily {
    v4: usize,
    v6: usize,
}

impl ByFamily {
    /// An entry takes the place of another; `session` is the first generation that counts.
    fn replace(&mut self, prefix: &Prefix, session: u32, old: Option<Entry>, new: Option<Entry>) {
        let count = match prefix {
            Prefix::V4(_) => &mut self.v4,
            Prefix::V6(_) => &mut self.v6,
        };
        let counts = |entry: Option<Entry>| entry.is_some_and(|entry| entry.generation >= session);
        *count = (*count + usize::from(counts(new))).saturating_sub(usize::from(counts(old)));
    }
}

/// What the standard library's map takes for each path, about: its nodes are two thirds full.
const PATH_BYTES: usize = size_of::<((Prefix, u32), Entry)>() * 3 / 2;

impl Table {
    /// A session begins: what is there is of an earlier one.
    pub fn begin_session(&mut self, generation: u32) {
        self.session = generation;
        (self.prefixes_now, self.paths_now) = Default::default();
    }

    /// Whether an entry is of this session.
    pub const fn is_of_session(&self, entry: Entry) -> bool {
        entry.generation >= self.session
    }

    pub fn get(&self, prefix: &Prefix) -> Option<Entry> {
        match prefix {
            Prefix::V4(prefix) => self.v4.get(prefix).copied(),
            Prefix::V6(prefix) => self.v6.get(prefix).copied(),
        }
    }

    /// Gives back what was there.
    pub fn insert(&mut self, prefix: Prefix, entry: Entry) -> Option<Entry> {
        let old = match prefix {
            Prefix::V4(prefix) => {
                let old = self.v4.insert(prefix, entry);
                self.peak.0 = self.peak.0.max(self.v4.len());
                old
            }
            Prefix::V6(prefix) => {
                let old = self.v6.insert(prefix, entry);
                self.peak.1 = self.peak.1.max(self.v6.len());
                old
            }
        };
        self.prefixes_now
            .replace(&prefix, self.session, old, Some(entry));
        old
    }

    pub fn remove(&mut self, prefix: &Prefix) -> Option<Entry> {
        let old = match prefix {
            Prefix::V4(prefix) => self.v4.remove(prefix),
            Prefix::V6(prefix) => self.v6.remove(prefix),
        };
        self.prefixes_now.replace(prefix, self.session, old, None);
        old
    }

    /// Adds or replaces a path; gives back what was there. The best route is the caller's to set.
    pub fn insert_path(&mut self, prefix: Prefix, id: u32, entry: Entry) -> Option<Entry> {
        let old = self.paths.insert((prefix, id), entry);
        self.paths_now
            .replace(&prefix, self.session, old, Some(entry));
        old
    }

    pub fn remove_path(&mut self, prefix: &Prefix, id: u32) -> Option<Entry> {
        let old = self.paths.remove(&(*prefix, id));
        self.paths_now.replace(prefix, self.session, old, None);
        old
    }

    pub fn path(&self, prefix: &Prefix, id: u32) -> Option<Entry> {
        self.paths.get(&(*prefix, id)).copied()
    }

    /// The paths to a prefix, by identifier. None where the neighbour sends one path only.
    pub fn paths(&self, prefix: &Prefix) -> impl Iterator<Item = (u32, Entry)> + '_ {
        // Most tables have none, and need no search.
        let all =
            (!self.paths.is_empty()).then(|| self.paths.range((*prefix, 0)..=(*prefix, u32::MAX)));
        all.into_iter()
            .flatten()
            .map(|((_, id), entry)| (*id, *entry))
    }

    /// Longest match.
    pub fn covering(&self, address: IpAddr) -> Option<(Prefix, Entry)> {
        match address {
            IpAddr::V4(address) => {
                let (prefix, entry) = self.v4.get_lpm(&Ipv4Net::from(address))?;
                Some((Prefix::V4(prefix), *entry))
            }
            IpAddr::V6(address) => {
                let (prefix, entry) = self.v6.get_lpm(&Ipv6Net::from(address))?;
                Some((Prefix::V6(prefix), *entry))
            }
        }
    }

    /// All that contain an address, the shortest first.
    pub fn covers(&self, address: IpAddr) -> Vec<(Prefix, Entry)> {
        match address {
            IpAddr::V4(address) => {
                let cover = self.v4.cover(&Ipv4Net::from(address));
                cover.map(|(p, entry)| (Prefix::V4(p), *entry)).collect()
            }
            IpAddr::V6(address) => {
                let cover = self.v6.cover(&Ipv6Net::from(address));
                cover.map(|(p, entry)| (Prefix::V6(p), *entry)).collect()
            }
        }
    }

    /// How many prefixes there are.
    pub fn len(&self, family: Family) -> usize {
        match family {
            Family::Ipv4 => self.v4.len(),
            Family::Ipv6 => self.v6.len(),
        }
    }

    /// How many routes of this session there are: prefixes, or paths where there are several to a
    /// prefix.
    pub fn routes_of_session(&self, family: Family) -> usize {
        let (prefixes, paths) = (self.prefixes_now, self.paths_now);
        match family {
            Family::Ipv4 => prefixes.v4.max(paths.v4),
            Family::Ipv6 => prefixes.v6.max(paths.v6),
        }
    }

    /// Bytes of memory that it takes.
    pub fn mem_size(&self) -> usize {
        self.v4.mem_size() + self.v6.mem_size() + self.paths.len() * PATH_BYTES
    }

    /// How much of that new prefixes would take in place of those that went.
    pub fn slack(&self) -> usize {
        let free = |bytes: usize, length: usize, peak: usize| {
            bytes.saturating_mul(peak - length) / peak.max(1)
        };
        free(self.v4.mem_size(), self.v4.len(), self.peak.0)
            + free(self.v6.mem_size(), self.v6.len(), self.peak.1)
    }

    /// Routes of a family in the order of their prefixes, from a prefix on or from the one behind it.
    pub fn iter_from(
        &self,
        from: Prefix,
        inclusive: bool,
    ) -> Box<dyn Iterator<Item = (Prefix, Entry)> + '_> {
        match from {
            Prefix::V4(from) => {
                let iter = self.v4.iter_from(&from, inclusive);
                Box::new(iter.map(|(p, entry)| (Prefix::V4(p), *entry)))
            }
            Prefix::V6(from) => {
                let iter = self.v6.iter_from(&from, inclusive);
                Box::new(iter.map(|(p, entry)| (Prefix::V6(p), *entry)))
            }
        }
    }
}
