//! Queries, in pieces that do not hold up anything else.

use std::collections::BTreeMap;

use events::{NeighborId, Prefix, RibCursor, RibQuery, RibRoute, Timestamp};

use super::change::first_prefix;
use super::{Neighbor, Rib, facts};
use crate::history::Change;
use crate::nlri::Family;
use crate::table::Entry;

/// A page of routes that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RibRequest {
    /// Which.
    pub query: RibQuery,
    /// Only this neighbour's.
    pub neighbor: Option<NeighborId>,
    /// As they were then; `None`: as they are.
    pub at: Option<Timestamp>,
    /// The most routes of the page.
    pub limit: usize,
    /// Those behind this one: an earlier page's `next`.
    pub after: Option<RibCursor>,
}

/// A page of routes, by neighbour, prefix and path identifier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RibPage {
    /// The routes.
    pub routes: Vec<RibRoute>,
    /// Where the next page begins; `None`: this is the last.
    pub next: Option<RibCursor>,
    /// The time that was asked for is before everything that is remembered: the page is empty, and
    /// the past is known from here on.
    pub known_since: Option<Timestamp>,
    /// Routes of that time were left out for want of memory: what is missing may have been there.
    pub partial: bool,
}

/// A query under way.
#[derive(Debug)]
pub struct RibWalk {
    request: RibRequest,
    /// Routes found, `None` where there was none at the time, by where they are in the answer.
    found: BTreeMap<RibCursor, Option<RibRoute>>,
    /// Everything up to here is in `found`; `None`: everything.
    bound: Option<RibCursor>,
    /// The next entry of the history.
    number: Option<u64>,
    /// Where the walk of the tables goes on; `None`: at its end.
    place: Option<Place>,
    lost: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    neighbor: NeighborId,
    from: Prefix,
    inclusive: bool,
}

impl Rib {
    /// Routes that a query asks for, all at once.
    #[must_use]
    pub fn routes(&self, query: RibQuery, limit: usize) -> Vec<RibRoute> {
        let mut walk = self.walk(RibRequest {
            query,
            neighbor: None,
            at: None,
            limit,
            after: None,
        });
        while !self.advance(&mut walk, usize::MAX) {}
        self.page(walk).routes
    }

    /// Begins a query.
    #[must_use]
    pub fn walk(&self, request: RibRequest) -> RibWalk {
        let request = RibRequest {
            query: match request.query {
                RibQuery::Address(address) => RibQuery::Address(address.to_canonical()),
                RibQuery::Prefix(prefix) => RibQuery::Prefix(prefix.trunc()),
                RibQuery::All => RibQuery::All,
            },
            // Later than now is now.
            at: request.at.filter(|at| *at < self.clock),
            ..request
        };
        let first = match request.neighbor {
            Some(only) => Some(only),
            None => match request.after {
                Some(after) => Some(after.neighbor),
                None => self.ids.keys().next().copied(),
            },
        };
        let place = first.map(|neighbor| match request.after {
            Some(after) if after.neighbor == neighbor => Place {
                neighbor,
                from: after.prefix,
                // Other paths to the same prefix may follow.
                inclusive: true,
            },
            _ => Place {
                neighbor,
                from: start(&request.query),
                inclusive: true,
            },
        });
        RibWalk {
            found: BTreeMap::new(),
            bound: None,
            number: request.at.map(|at| self.history.after(at)),
            place,
            lost: request.at.is_some_and(|at| at < self.history.since()),
            request,
        }
    }

    /// Does about that many steps of a query, each well below a microsecond; true: it is done.
    pub fn advance(&self, walk: &mut RibWalk, steps: usize) -> bool {
        if walk.lost {
            return true;
        }
        let (mut left, done) = self.advance_history(walk, steps);
        if walk.lost {
            return true;
        }
        if !done {
            return false;
        }
        // What changes from here to the next call will be in the history then.
        while let Some(place) = walk.place {
            if left == 0 {
                return false;
            }
            left = self.advance_table(walk, place, left);
        }
        true
    }

    /// What the query found.
    #[must_use]
    pub fn page(&self, walk: RibWalk) -> RibPage {
        if walk.lost {
            return RibPage {
                known_since: Some(self.history.since()),
                ..RibPage::default()
            };
        }
        let mut page = RibPage {
            partial: self.was_partial(walk.request.at),
            ..RibPage::default()
        };
        let mut last = None;
        if let RibQuery::Address(_) = walk.request.query {
            // Of all that contained the address, each neighbour's longest; a whole page.
            let mut best: BTreeMap<NeighborId, u8> = BTreeMap::new();
            let there = walk.found.iter().filter(|(_, route)| route.is_some());
            for (cursor, _) in there {
                let length = best.entry(cursor.neighbor).or_default();
                *length = (*length).max(cursor.prefix.prefix_len());
            }
            let longest = |(cursor, route): (RibCursor, Option<RibRoute>)| {
                let longest = best.get(&cursor.neighbor) == Some(&cursor.prefix.prefix_len());
                route.filter(|_| longest)
            };
            let routes = walk.found.into_iter().filter_map(longest);
            page.routes = routes.take(walk.request.limit).collect();
            return page;
        }
        for (cursor, route) in walk.found {
            if walk.bound.is_some_and(|bound| cursor >= bound) {
                break;
            }
            last = Some(cursor);
            page.routes.extend(route);
        }
        page.next = walk.bound.and(last);
        page
    }

    fn advance_history(&self, walk: &mut RibWalk, steps: usize) -> (usize, bool) {
        let Some(number) = walk.number else {
            return (steps, true);
        };
        let Some(changes) = self.history.from(number) else {
            walk.lost = true;
            return (steps, true);
        };
        let mut seen = 0;
        let mut done = true;
        for change in changes {
            if seen == steps {
                done = false;
                break;
            }
            seen += 1;
            self.undo(walk, change);
        }
        walk.number = Some(number + u64::try_from(seen).unwrap_or(0));
        (steps - seen, done)
    }

    /// The first change of a route after the time that is asked for says what it was then.
    fn undo(&self, walk: &mut RibWalk, change: &Change) {
        let Some(neighbor) = self.neighbors.get(change.neighbor as usize) else {
            return;
        };
        let cursor = RibCursor {
            neighbor: neighbor.config.id,
            prefix: change.prefix,
            path_id: change.path_id,
        };
        if !walk.wants(&cursor) || walk.found.contains_key(&cursor) {
            return;
        }
        let entry = Entry {
            received_at: change.received_at,
            attributes: change.attributes,
            generation: neighbor.generation,
        };
        let route = self.route_then(walk, neighbor, change.prefix, change.path_id, entry);
        walk.add(cursor, route);
    }

    fn advance_table(&self, walk: &mut RibWalk, place: Place, steps: usize) -> usize {
        let Some(neighbor) = self.neighbor(place.neighbor) else {
            walk.place = self.next_neighbor(walk, place.neighbor);
            return steps - 1;
        };
        let mut left = steps;
        let mut end = true;
        let mut last = place.from;
        let routes: Box<dyn Iterator<Item = (Prefix, Entry)>> = match walk.request.query {
            RibQuery::Address(address) => Box::new(neighbor.table.covers(address).into_iter()),
            _ => neighbor.table.iter_from(place.from, place.inclusive),
        };
        for (prefix, entry) in routes {
            if let RibQuery::Prefix(wanted) = &walk.request.query
                && !wanted.contains(&prefix)
            {
                break;
            }
            if walk.is_full(place.neighbor, prefix) {
                walk.place = None;
                return left;
            }
            if left == 0 {
                end = false;
                break;
            }
            left -= 1;
            last = prefix;
            let mut several = false;
            for (id, path) in neighbor.table.paths(&prefix) {
                several = true;
                self.found(walk, neighbor, prefix, Some(id), path);
            }
            if !several {
                self.found(walk, neighbor, prefix, None, entry);
            }
        }
        walk.place = if !end {
            Some(Place {
                from: last,
                inclusive: false,
                ..place
            })
        } else {
            let next_family = matches!(walk.request.query, RibQuery::All)
                && Family::of_prefix(&last) == Family::Ipv4;
            if next_family {
                Some(Place {
                    from: first_prefix(Family::Ipv6),
                    inclusive: true,
                    ..place
                })
            } else {
                self.next_neighbor(walk, place.neighbor)
            }
        };
        left.saturating_sub(1)
    }

    fn found(
        &self,
        walk: &mut RibWalk,
        neighbor: &Neighbor,
        prefix: Prefix,
        path_id: Option<u32>,
        entry: Entry,
    ) {
        let cursor = RibCursor {
            neighbor: neighbor.config.id,
            prefix,
            path_id,
        };
        if walk.wants(&cursor) && !walk.found.contains_key(&cursor) {
            let route = match walk.request.at {
                None => self.decoded(neighbor, prefix, path_id, entry, neighbor.is_stale(entry)),
                Some(_) => self.route_then(walk, neighbor, prefix, path_id, entry),
            };
            walk.add(cursor, route);
        }
    }

    /// The route at the time asked for; `None` where it came only later.
    fn route_then(
        &self,
        walk: &RibWalk,
        neighbor: &Neighbor,
        prefix: Prefix,
        path_id: Option<u32>,
        entry: Entry,
    ) -> Option<RibRoute> {
        let at = walk.request.at?;
        if entry.received_at > at {
            return None;
        }
        let session = neighbor.sessions.iter().rev().find(|(when, _)| *when <= at);
        let stale = session.is_some_and(|(_, up)| !up);
        self.decoded(neighbor, prefix, path_id, entry, stale)
    }

    fn decoded(
        &self,
        neighbor: &Neighbor,
        prefix: Prefix,
        path_id: Option<u32>,
        entry: Entry,
        stale: bool,
    ) -> Option<RibRoute> {
        Some(RibRoute {
            neighbor: neighbor.config.id,
            egress: neighbor.config.egress.clone(),
            path_id,
            route: facts::route(neighbor, &self.vrps, prefix, entry)?,
            stale,
        })
    }

    fn next_neighbor(&self, walk: &RibWalk, after: NeighborId) -> Option<Place> {
        if walk.request.neighbor.is_some() {
            return None;
        }
        let behind = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        let (neighbor, _) = self.ids.range(behind).next()?;
        Some(Place {
            neighbor: *neighbor,
            from: start(&walk.request.query),
            inclusive: true,
        })
    }
}

impl RibWalk {
    fn wants(&self, cursor: &RibCursor) -> bool {
        let request = &self.request;
        request.neighbor.is_none_or(|only| only == cursor.neighbor)
            && request.after.is_none_or(|after| *cursor > after)
            && self.bound.is_none_or(|bound| *cursor < bound)
            && match &request.query {
                RibQuery::All => true,
                RibQuery::Address(address) => cursor.prefix.contains(address),
                RibQuery::Prefix(prefix) => prefix.contains(&cursor.prefix),
            }
    }

    fn add(&mut self, cursor: RibCursor, route: Option<RibRoute>) {
        self.found.insert(cursor, route);
        let all = matches!(self.request.query, RibQuery::Address(_));
        if !all && self.found.len() > self.request.limit.max(1) {
            self.bound = self.found.pop_last().map(|(cursor, _)| cursor);
        }
    }

    /// Nothing from this prefix on has a place on the page.
    fn is_full(&self, neighbor: NeighborId, prefix: Prefix) -> bool {
        let cursor = RibCursor {
            neighbor,
            prefix,
            path_id: None,
        };
        self.bound.is_some_and(|bound| cursor >= bound)
    }
}

fn start(query: &RibQuery) -> Prefix {
    match query {
        RibQuery::All => first_prefix(Family::Ipv4),
        RibQuery::Address(address) => Prefix::from(*address),
        RibQuery::Prefix(prefix) => *prefix,
    }
}
