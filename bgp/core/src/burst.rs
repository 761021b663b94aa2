//! Bursts of withdrawals and path changes, and the links that they point to.
//!
//! After SWIFT (Holterbach et al., SIGCOMM 2017). A link's score is the weighted geometric mean of
//! its *withdrawal share* (of the burst's prefixes, those that lost the link) and its *path share* (of
//! the prefixes that had the link, those that lost it), 3 : 1 as in its authors' code: early in a
//! burst the path share of the true link is still small, while its withdrawal share is near 1 from
//! the beginning. A prefix has lost the links of its path before the burst that its path now lacks;
//! links on both paths are no candidates.
//!
//! A burst begins when more prefixes change within ten seconds than [`threshold`]: SWIFT's 1,500
//! for a full table, and in proportion for smaller ones. It ends when hardly any do.

use std::collections::VecDeque;
use std::time::Duration;

use events::{AsScore, Asn, LinkScore, Prefix, Timestamp};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::arena::Arena;
use crate::links::{self, LinkKey};

/// The window over which changes are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// Prefixes of a burst whose paths are remembered. What comes later is counted, not scored.
const MAX_TRACKED: usize = 65_536;
/// A burst that has grown by a quarter is told again, but not more often than that.
const TELL_GROWN: Duration = Duration::from_millis(100);
/// And one that has grown at all.
const TELL: Duration = Duration::from_secs(1);
/// The most links, and the most ASes, of a signal.
const TOLD: usize = 10;
/// Scores below are not told.
const LEAST_SCORE: f64 = 0.1;

/// Prefixes that change within the window when a burst begins, for a table of this many.
const fn threshold(routes: usize) -> usize {
    let share = routes / 800;
    if share < 5 {
        5
    } else if share > 1500 {
        1500
    } else {
        share
    }
}

/// What is known of a burst.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    pub since: Timestamp,
    pub prefixes: u32,
    pub links: Vec<LinkScore>,
    pub ases: Vec<AsScore>,
}

/// Changed prefixes of one neighbour's table, and the burst that they may be.
#[derive(Debug, Default)]
pub(crate) struct Bursts {
    moved: HashMap<Prefix, Moved, FixedState>,
    /// How many of them are not back on a path with all the links that they had.
    away: usize,
    /// Those that began to change within the window, each once.
    recent: VecDeque<(Timestamp, Prefix)>,
    /// How many of the prefixes lost each link and AS.
    lost: HashMap<LinkKey, u32, FixedState>,
    began: Option<Timestamp>,
    beyond: usize,
    told: Option<(Timestamp, usize)>,
    scratch: [Vec<LinkKey>; 2],
}

#[derive(Clone, Copy, Debug)]
struct Moved {
    /// Attributes before, which the arena keeps.
    first: u32,
    /// Attributes now.
    new: Option<u32>,
    at: Timestamp,
}

impl Bursts {
    /// A prefix has another best route, or none. Called for every such change from when the table is
    /// complete, or not at all.
    pub fn changed(
        &mut self,
        arena: &mut Arena,
        prefix: Prefix,
        old: Option<u32>,
        new: Option<u32>,
        now: Timestamp,
    ) {
        if let Some(moved) = self.moved.get(&prefix).copied() {
            // One that is back stays for its time: however often it flaps, it is one prefix.
            self.uncount(arena, &moved);
            self.away += usize::from(self.count(arena, moved.first, new, |count| count + 1));
            self.moved.insert(prefix, Moved { new, ..moved });
            return;
        }
        let Some(first) = old else { return };
        if self.moved.len() >= MAX_TRACKED {
            self.beyond += 1;
            return;
        }
        if self.count(arena, first, new, |count| count + 1) {
            self.away += 1;
            arena.keep(first);
            let at = now;
            self.moved.insert(prefix, Moved { first, new, at });
            self.recent.push_back((now, prefix));
        }
    }

    /// A prefix is no part of it any more.
    pub fn forget(&mut self, arena: &mut Arena, prefix: &Prefix) {
        if let Some(moved) = self.moved.remove(prefix) {
            self.uncount(arena, &moved);
            arena.forget(moved.first);
        }
    }

    fn uncount(&mut self, arena: &Arena, moved: &Moved) {
        let away = self.count(arena, moved.first, moved.new, |count| count - 1);
        self.away -= usize::from(away);
    }

    /// Changes the counts of the links that are lost from the first attributes to the new; false
    /// where none is.
    fn count(
        &mut self,
        arena: &Arena,
        first: u32,
        new: Option<u32>,
        change: impl Fn(u32) -> u32,
    ) -> bool {
        let [before, after] = &mut self.scratch;
        links::of(arena.get(first), before);
        after.clear();
        if let Some(new) = new {
            links::of(arena.get(new), after);
        }
        let mut any = false;
        for key in before.iter() {
            if after.binary_search(key).is_err() {
                any = true;
                let count = self.lost.entry(*key).or_default();
                *count = change(*count);
                if *count == 0 {
                    self.lost.remove(key);
                }
            }
        }
        any
    }

    /// Forgets everything: the table is no longer what it was.
    pub fn clear(&mut self, arena: &mut Arena) {
        for moved in self.moved.values() {
            arena.forget(moved.first);
        }
        *self = Self::default();
    }

    /// Time has passed, or prefixes have changed. A burst that is to be told of.
    pub fn poll(&mut self, arena: &mut Arena, routes: usize, now: Timestamp) -> Option<Report> {
        self.expire(arena, now);
        let threshold = threshold(routes + self.away);
        let since = match self.began {
            Some(since) => since,
            None if self.away >= threshold => {
                let first = self.recent.front().map_or(now, |(at, _)| *at);
                *self.began.insert(first)
            }
            None => return None,
        };
        let prefixes = self.away + self.beyond;
        let over = self.recent.len() <= threshold / 100;
        let tell = match self.told {
            None => true,
            Some((_, told)) if over => prefixes > told,
            Some((at, told)) => {
                (prefixes > told && now.since(at) >= TELL)
                    || (prefixes >= told + told.div_ceil(4) && now.since(at) >= TELL_GROWN)
            }
        };
        let report = tell.then(|| {
            self.told = Some((now, prefixes));
            let (links, ases) = self.scores(arena);
            Report {
                since,
                prefixes: u32::try_from(prefixes).unwrap_or(u32::MAX),
                links,
                ases,
            }
        });
        if over {
            self.clear(arena);
        }
        report
    }

    /// When [`Self::poll`] is due, if nothing changes before.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.began?;
        let end = self.recent.front().map(|(at, _)| *at + WINDOW);
        let grown = self.away + self.beyond;
        let tell = self.told.filter(|(_, told)| grown > *told);
        let tell = tell.map(|(at, _)| at + TELL);
        [end, tell].into_iter().flatten().min()
    }

    /// Bytes of memory that it takes.
    pub fn mem_size(&self) -> usize {
        self.moved.allocation_size()
            + self.lost.allocation_size()
            + self.recent.capacity() * size_of::<(Timestamp, Prefix)>()
    }

    fn expire(&mut self, arena: &mut Arena, now: Timestamp) {
        while let Some(&(at, prefix)) = self.recent.front()
            && now.since(at) >= WINDOW
        {
            self.recent.pop_front();
            if self.began.is_none()
                && let Some(moved) = self.moved.get(&prefix).copied()
                && moved.at == at
            {
                self.uncount(arena, &moved);
                self.moved.remove(&prefix);
                arena.forget(moved.first);
            }
        }
    }

    fn scores(&self, arena: &mut Arena) -> (Vec<LinkScore>, Vec<AsScore>) {
        let remaining = arena.links();
        let all = f64::from(u32::try_from(self.away).unwrap_or(u32::MAX));
        let (mut links, mut ases) = (Vec::new(), Vec::new());
        // Nearly all of the many links are of a few prefixes, and are not looked up: UPDATEs wait.
        let least = all * LEAST_SCORE.powi(4).cbrt();
        let many = self
            .lost
            .iter()
            .filter(|(_, lost)| f64::from(**lost) >= least);
        for (key, &withdrawn) in many {
            let remaining = remaining.get(key).copied().unwrap_or(0);
            let withdrawal_share = f64::from(withdrawn) / all;
            let path_share = f64::from(withdrawn) / (f64::from(withdrawn) + f64::from(remaining));
            let score = (withdrawal_share.powi(3) * path_share).sqrt().sqrt();
            if score < LEAST_SCORE {
                continue;
            }
            match key.link() {
                Some(link) => links.push(LinkScore {
                    link,
                    withdrawn,
                    remaining,
                    score,
                }),
                None => ases.push(AsScore {
                    asn: Asn(key.near),
                    withdrawn,
                    remaining,
                    score,
                }),
            }
        }
        links.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.link.cmp(&b.link)));
        ases.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.asn.cmp(&b.asn)));
        links.truncate(TOLD);
        ases.truncate(TOLD);
        (links, ases)
    }
}

#[cfg(test)]
mod tests;
