//! The tables that a recording leaves behind, and their digest.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;

use bgp_core::{AsPath, Attributes, Family, Nlri, Origin, SegmentKind};
use events::NeighborId;
use sha2::{Digest, Sha256};

#[derive(Debug)]
struct Route {
    attributes: Arc<[u8]>,
    generation: u32,
}

#[derive(Debug, Default)]
struct Table {
    routes: BTreeMap<Nlri, Route>,
    /// Counts sessions.
    generation: u32,
    down: bool,
}

/// How many routes a neighbour's table has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSize {
    /// IPv4 routes; with path identifiers, paths.
    pub ipv4: u64,
    /// IPv6 routes.
    pub ipv6: u64,
    /// Those of both that are what was last known: the session was lost, and the routes did not
    /// come again.
    pub stale: u64,
}

/// Every neighbour's routes, with their path identifiers and all attributes.
///
/// Lost sessions make routes stale, and End-of-RIB of the next session removes those that did not
/// come again (RFC 4724), as in the daemon. There is no clock: without the marker they stay.
#[derive(Debug, Default)]
pub struct Tables {
    tables: BTreeMap<NeighborId, Table>,
    attributes: HashSet<Arc<[u8]>>,
    swept: usize,
}

impl Tables {
    /// Adds or replaces a route.
    pub fn announce(&mut self, neighbor: NeighborId, nlri: Nlri, packed: &Arc<[u8]>) {
        let table = self.tables.entry(neighbor).or_default();
        let route = Route {
            attributes: Arc::clone(packed),
            generation: table.generation,
        };
        table.routes.insert(nlri, route);
    }

    /// Packed attributes, each kept once.
    pub fn intern(&mut self, attributes: &Attributes) -> Arc<[u8]> {
        let packed = attributes.pack();
        if let Some(known) = self.attributes.get(&packed[..]) {
            return Arc::clone(known);
        }
        if self.attributes.len() > 2 * self.swept + 1024 {
            self.attributes.retain(|known| Arc::strong_count(known) > 1);
            self.swept = self.attributes.len();
        }
        let packed: Arc<[u8]> = packed.into();
        self.attributes.insert(Arc::clone(&packed));
        packed
    }

    /// Removes a route.
    pub fn withdraw(&mut self, neighbor: NeighborId, nlri: Nlri) {
        if let Some(table) = self.tables.get_mut(&neighbor) {
            table.routes.remove(&nlri);
        }
    }

    /// A session begins.
    pub fn up(&mut self, neighbor: NeighborId) {
        let table = self.tables.entry(neighbor).or_default();
        table.generation += 1;
        table.down = false;
    }

    /// A session is lost.
    pub fn down(&mut self, neighbor: NeighborId) {
        if let Some(table) = self.tables.get_mut(&neighbor) {
            table.down = true;
        }
    }

    /// All routes of a family have come.
    pub fn end_of_rib(&mut self, neighbor: NeighborId, family: Family) {
        if let Some(table) = self.tables.get_mut(&neighbor) {
            let generation = table.generation;
            table.routes.retain(|nlri, route| {
                route.generation == generation || Family::of_prefix(&nlri.prefix) != family
            });
        }
    }

    /// Neighbours and the sizes of their tables.
    pub fn sizes(&self) -> impl Iterator<Item = (NeighborId, TableSize)> {
        self.tables.iter().map(|(id, table)| {
            let mut size = TableSize::default();
            for (nlri, route) in &table.routes {
                match Family::of_prefix(&nlri.prefix) {
                    Family::Ipv4 => size.ipv4 += 1,
                    Family::Ipv6 => size.ipv6 += 1,
                }
                size.stale += u64::from(table.down || route.generation != table.generation);
            }
            (*id, size)
        })
    }

    /// Writes a line for each route, sorted by their octets: `LC_ALL=C sort` changes nothing.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_lines(&self, out: &mut impl Write) -> io::Result<()> {
        // No neighbour's text with the bar behind it begins another one: sorted by neighbour and
        // then by line is sorted.
        let mut neighbors: Vec<(String, &Table)> = self
            .tables
            .iter()
            .map(|(id, table)| (format!("{id}|"), table))
            .collect();
        neighbors.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, table) in neighbors {
            let mut lines: Vec<String> = table
                .routes
                .iter()
                .filter_map(|(nlri, route)| line(&name, nlri, &route.attributes))
                .collect();
            lines.sort_unstable();
            for line in lines {
                out.write_all(line.as_bytes())?;
            }
        }
        Ok(())
    }

    /// SHA-256 of what [`Self::write_lines`] writes, in hexadecimal: equal tables have equal
    /// digests, in whatever order their routes came.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        // A hash takes everything.
        let _ = self.write_lines(&mut hash);
        hash.finalize()
            .iter()
            .fold(String::with_capacity(64), |mut text, octet| {
                let _ = write!(text, "{octet:02x}");
                text
            })
    }
}

/// `NEIGHBOUR|PREFIX|PATH_ID|ORIGIN|AS_PATH|NEXT_HOP|LINK_LOCAL|OTHERS`, where `-` stands for what is
/// not there; others are `TYPE:FLAGS:VALUE` in hexadecimal, sorted, with spaces between; of the flags
/// only optional, transitive and partial count.
fn line(neighbor: &str, nlri: &Nlri, packed: &[u8]) -> Option<String> {
    let attributes = Attributes::unpack(packed)?;
    let mut line = format!("{neighbor}{}|", nlri.prefix);
    match nlri.path_id {
        Some(id) => write!(line, "{id}"),
        None => write!(line, "-"),
    }
    .ok()?;
    line.push_str(match attributes.origin {
        Origin::Igp => "|igp|",
        Origin::Egp => "|egp|",
        Origin::Incomplete => "|incomplete|",
    });
    path(&attributes.as_path, &mut line);
    write!(line, "|{}|", attributes.next_hop).ok()?;
    match attributes.link_local {
        Some(address) => write!(line, "{address}"),
        None => write!(line, "-"),
    }
    .ok()?;
    let mut others = others(&attributes.other);
    others.sort_unstable();
    line.push('|');
    line.push_str(if others.is_empty() { "-" } else { "" });
    line.push_str(&others.join(" "));
    line.push('\n');
    Some(line)
}

/// Sequences as they are, sets in braces, sequences and sets of confederations in parentheses and
/// brackets.
fn path(path: &AsPath, line: &mut String) {
    if path.0.is_empty() {
        line.push('-');
    }
    for (index, segment) in path.0.iter().enumerate() {
        let (open, between, close) = match segment.kind {
            SegmentKind::Sequence => ("", " ", ""),
            SegmentKind::Set => ("{", ",", "}"),
            SegmentKind::ConfederationSequence => ("(", " ", ")"),
            SegmentKind::ConfederationSet => ("[", ",", "]"),
        };
        if index > 0 {
            line.push(' ');
        }
        let members: Vec<String> = segment
            .members
            .iter()
            .map(|asn| asn.0.to_string())
            .collect();
        line.push_str(open);
        line.push_str(&members.join(between));
        line.push_str(close);
    }
}

fn others(mut bytes: &[u8]) -> Vec<String> {
    let mut others = Vec::new();
    loop {
        let (flags, kind, value, rest) = match *bytes {
            [flags, kind, high, low, ref rest @ ..] if flags & 0x10 != 0 => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                let Some((value, rest)) = rest.split_at_checked(length) else {
                    break;
                };
                (flags, kind, value, rest)
            }
            [flags, kind, length, ref rest @ ..] => {
                let Some((value, rest)) = rest.split_at_checked(length.into()) else {
                    break;
                };
                (flags, kind, value, rest)
            }
            _ => break,
        };
        let mut text = format!("{kind:02x}:{:02x}:", flags & 0xe0);
        for octet in value {
            let _ = write!(text, "{octet:02x}");
        }
        others.push(text);
        bytes = rest;
    }
    others
}

#[cfg(test)]
mod tests {
    use super::*;
    use bgp_core::Segment;
    use events::Asn;

    fn attributes(asn: u32, other: &[u8]) -> Attributes {
        let segment = |kind, members: &[u32]| Segment {
            kind,
            members: members.iter().copied().map(Asn).collect(),
        };
        Attributes {
            origin: Origin::Egp,
            as_path: AsPath(vec![
                segment(SegmentKind::Sequence, &[asn, 2]),
                segment(SegmentKind::Set, &[3, 4]),
            ]),
            next_hop: "192.0.2.1".parse().unwrap(),
            link_local: None,
            other: other.to_vec(),
        }
    }

    fn nlri(prefix: &str, path_id: Option<u32>) -> Nlri {
        Nlri {
            prefix: prefix.parse().unwrap(),
            path_id,
        }
    }

    fn text(tables: &Tables) -> String {
        let mut bytes = Vec::new();
        tables.write_lines(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_digest_is_that_of_sorted_lines_in_any_order_of_arrival() {
        // COMMUNITIES with an extended length, MED.
        let other = [0xd0, 8, 0, 4, 0, 1, 0, 2, 0x80, 4, 4, 0, 0, 0, 5];
        let routes = [
            ("192.0.2.9@mrt", "10.0.0.0/8", None, 7, &other[..]),
            ("192.0.2.9@mrt", "9.0.0.0/8", Some(3), 7, &[]),
            ("192.0.2.10@mrt", "10.0.0.0/8", None, 8, &[]),
        ];
        let mut there = Tables::default();
        let mut back = Tables::default();
        for (neighbor, prefix, id, asn, other) in routes {
            let packed = there.intern(&attributes(asn, other));
            there.announce(neighbor.parse().unwrap(), nlri(prefix, id), &packed);
        }
        for (neighbor, prefix, id, asn, other) in routes.into_iter().rev() {
            let gone = back.intern(&attributes(99, &[]));
            let packed = back.intern(&attributes(asn, other));
            let neighbor = neighbor.parse().unwrap();
            back.announce(neighbor, nlri("11.0.0.0/8", None), &gone);
            back.announce(neighbor, nlri(prefix, id), &gone);
            back.announce(neighbor, nlri(prefix, id), &packed);
            back.withdraw(neighbor, nlri("11.0.0.0/8", None));
        }
        assert_eq!(
            text(&there),
            "192.0.2.10@mrt|10.0.0.0/8|-|egp|8 2 {3,4}|192.0.2.1|-|-\n\
             192.0.2.9@mrt|10.0.0.0/8|-|egp|7 2 {3,4}|192.0.2.1|-|04:80:00000005 08:c0:00010002\n\
             192.0.2.9@mrt|9.0.0.0/8|3|egp|7 2 {3,4}|192.0.2.1|-|-\n"
        );
        let mut lines: Vec<_> = text(&there).lines().map(str::to_owned).collect();
        lines.sort_unstable();
        assert_eq!(lines.join("\n") + "\n", text(&there), "sorted as a whole");
        assert_eq!(there.digest(), back.digest());
        let packed = back.intern(&attributes(1, &[]));
        back.announce(
            "192.0.2.9@mrt".parse().unwrap(),
            nlri("9.0.0.0/8", Some(3)),
            &packed,
        );
        assert_ne!(there.digest(), back.digest());
        assert_eq!(
            Tables::default().digest(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "SHA-256 of nothing"
        );
    }

    #[test]
    fn lost_sessions_make_stale_and_end_of_rib_sorts_out() {
        let id: NeighborId = "192.0.2.9@mrt".parse().unwrap();
        let mut tables = Tables::default();
        let packed = tables.intern(&attributes(1, &[]));
        tables.up(id);
        for prefix in ["10.0.0.0/8", "11.0.0.0/8", "2001:db8::/32"] {
            tables.announce(id, nlri(prefix, None), &packed);
        }
        let size = |tables: &Tables| tables.sizes().next().unwrap().1;
        let of = |ipv4, ipv6, stale| TableSize { ipv4, ipv6, stale };
        assert_eq!(size(&tables), of(2, 1, 0));
        tables.down(id);
        assert_eq!(size(&tables), of(2, 1, 3));
        tables.up(id);
        tables.announce(id, nlri("10.0.0.0/8", None), &packed);
        assert_eq!(size(&tables), of(2, 1, 2));
        tables.end_of_rib(id, Family::Ipv4);
        assert_eq!(size(&tables), of(1, 1, 1));
    }

    #[test]
    fn attributes_that_no_route_has_are_forgotten() {
        let id: NeighborId = "192.0.2.9@mrt".parse().unwrap();
        let mut tables = Tables::default();
        for asn in 1..20_000 {
            let packed = tables.intern(&attributes(asn, &[]));
            tables.announce(id, nlri("10.0.0.0/8", None), &packed);
        }
        assert!(
            tables.attributes.len() < 1100,
            "{}",
            tables.attributes.len()
        );
    }
}
