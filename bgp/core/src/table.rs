//! One neighbour's routes (Adj-RIB-In).

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

#[derive(Debug, Default)]
pub(crate) struct Table {
    v4: PrefixMap<Ipv4Net, Entry>,
    v6: PrefixMap<Ipv6Net, Entry>,
}

impl Table {
    pub fn get(&self, prefix: &Prefix) -> Option<Entry> {
        match prefix {
            Prefix::V4(prefix) => self.v4.get(prefix).copied(),
            Prefix::V6(prefix) => self.v6.get(prefix).copied(),
        }
    }

    pub fn insert(&mut self, prefix: Prefix, entry: Entry) {
        match prefix {
            Prefix::V4(prefix) => self.v4.insert(prefix, entry),
            Prefix::V6(prefix) => self.v6.insert(prefix, entry),
        };
    }

    pub fn remove(&mut self, prefix: &Prefix) -> Option<Entry> {
        match prefix {
            Prefix::V4(prefix) => self.v4.remove(prefix),
            Prefix::V6(prefix) => self.v6.remove(prefix),
        }
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

    pub fn len(&self, family: Family) -> usize {
        match family {
            Family::Ipv4 => self.v4.len(),
            Family::Ipv6 => self.v6.len(),
        }
    }

    /// All routes of a family in the order of their prefixes.
    pub fn iter(&self, family: Family) -> Box<dyn Iterator<Item = (Prefix, Entry)> + '_> {
        match family {
            Family::Ipv4 => Box::new(self.v4.iter().map(|(p, entry)| (Prefix::V4(p), *entry))),
            Family::Ipv6 => Box::new(self.v6.iter().map(|(p, entry)| (Prefix::V6(p), *entry))),
        }
    }

    /// A prefix and its more specifics.
    pub fn within(&self, prefix: &Prefix) -> Box<dyn Iterator<Item = (Prefix, Entry)> + '_> {
        match prefix {
            Prefix::V4(prefix) => Box::new(
                self.v4
                    .children(prefix)
                    .map(|(p, entry)| (Prefix::V4(p), *entry)),
            ),
            Prefix::V6(prefix) => Box::new(
                self.v6
                    .children(prefix)
                    .map(|(p, entry)| (Prefix::V6(p), *entry)),
            ),
        }
    }
}
