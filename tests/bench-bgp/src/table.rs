//! What is sent: UPDATEs of a generated table, or of a real one from an MRT file.

use std::io::Read;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use bgp_core::{Context as Negotiated, Families, HEADER_LENGTH, decode_update};
use events::Prefix;

/// The longest message without extensions.
const MAX_MESSAGE: usize = 4096;

/// Messages as they go over the wire, and what they lead to.
pub struct Table {
    /// Its name in cases.
    pub name: &'static str,
    /// The sender's AS.
    pub asn: u32,
    /// Whole messages, one after the other.
    pub bytes: Vec<u8>,
    /// Where each message begins, and the end.
    pub offsets: Vec<usize>,
    /// Prefixes in the table when all is received.
    pub prefixes: usize,
}

impl Table {
    fn new(
        name: &'static str,
        asn: u32,
        bytes: Vec<u8>,
        offsets: Vec<usize>,
    ) -> anyhow::Result<Self> {
        let mut table = Self {
            name,
            asn,
            bytes,
            offsets,
            prefixes: 0,
        };
        let mut there = std::collections::HashSet::new();
        for message in table.messages() {
            let update = decode_update(message.get(HEADER_LENGTH..).unwrap_or_default(), &CONTEXT)
                .map_err(|fault| anyhow::anyhow!("an UPDATE of {name} is not valid: {fault:?}"))?;
            for gone in &update.withdrawn {
                there.remove(&gone.prefix);
            }
            there.extend(update.announced.iter().flat_map(|routes| routes.prefixes()));
        }
        table.prefixes = there.len();
        Ok(table)
    }

    /// The messages.
    pub fn messages(&self) -> impl Iterator<Item = &[u8]> {
        self.offsets.windows(2).filter_map(|pair| match pair {
            [from, to] => self.bytes.get(*from..*to),
            _ => None,
        })
    }

    /// Its prefixes' number is what was decoded; the UPDATEs' number.
    pub fn updates(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }
}

/// What a session with the benchmark's sender negotiates.
pub const CONTEXT: Negotiated = Negotiated {
    four_octet_as: true,
    internal: false,
    families: Families::BOTH,
    add_path: Families::NONE,
    extended_next_hop: false,
    otc: None,
};

/// A small generator: the same numbers in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn below32(&mut self, bound: u32) -> u32 {
        u32::try_from(self.below(bound.into())).unwrap_or(0)
    }
}

/// Shares of prefix lengths, in percent, about as in the Internet's table of 2026.
const LENGTHS_V4: [(u8, u64); 9] = [
    (24, 62),
    (23, 10),
    (22, 12),
    (21, 5),
    (20, 5),
    (19, 3),
    (18, 1),
    (17, 1),
    (16, 1),
];
const LENGTHS_V6: [(u8, u64); 6] = [(48, 50), (44, 13), (40, 10), (36, 6), (32, 18), (29, 3)];

fn length(random: &mut Random, shares: &[(u8, u64)]) -> u8 {
    let mut drawn = random.below(100);
    for &(length, share) in shares {
        if drawn < share {
            return length;
        }
        drawn -= share;
    }
    24
}

/// A full table: so many IPv4 and IPv6 prefixes, in groups with the same attributes, 7.3 prefixes
/// per set as in the real feed of 2015, each group in one UPDATE. Groups come in random order, as
/// a router's do that walks its attributes and not its prefixes.
pub fn synthetic(v4: usize, v6: usize, next_hop: Ipv4Addr) -> anyhow::Result<Table> {
    const ASN: u32 = 64500;
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut messages = Vec::new();
    let mut at: u64 = 1 << 24;
    let mut left = v4;
    while left > 0 {
        let size = group(&mut random).min(left);
        left -= size;
        let mut nlri = Vec::new();
        for _ in 0..size {
            let length = length(&mut random, &LENGTHS_V4);
            let step = 1 << (32 - length);
            at = at.next_multiple_of(step);
            // Private, loopback: passed over.
            for (first, last) in [(10 << 24, 11 << 24), (127 << 24, 128 << 24)] {
                if (first..last).contains(&at) {
                    at = last;
                }
            }
            let address = u32::try_from(at).context("the generated table is too large")?;
            anyhow::ensure!(address < 224 << 24, "the generated table is too large");
            push(&mut nlri, length, &address.to_be_bytes());
            at += step;
        }
        let mut attributes = attributes(&mut random, ASN);
        attributes.extend_from_slice(&[0x40, 3, 4]);
        attributes.extend_from_slice(&next_hop.octets());
        messages.push(message(&[], &attributes, &nlri));
    }
    let mut at: u128 = 0x2001 << 112;
    let mut left = v6;
    while left > 0 {
        let size = group(&mut random).min(left);
        left -= size;
        let mut reach = vec![0, 2, 1, 16];
        reach.extend_from_slice(&next_hop.to_ipv6_mapped().octets());
        // 2001:db8::c000:201, which the sender has beside 192.0.2.1.
        reach[4..16].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0]);
        reach.push(0);
        for _ in 0..size {
            let length = length(&mut random, &LENGTHS_V6);
            let step = 1u128 << (128 - length);
            at = at.next_multiple_of(step);
            push(&mut reach, length, &at.to_be_bytes());
            at += step;
        }
        let mut attributes = attributes(&mut random, ASN);
        let size = u16::try_from(reach.len())?.to_be_bytes();
        attributes.extend_from_slice(&[0x90, 14, size[0], size[1]]);
        attributes.extend_from_slice(&reach);
        messages.push(message(&[], &attributes, &[]));
    }
    for place in (1..messages.len()).rev() {
        let other = usize::try_from(random.below(place as u64 + 1))?;
        messages.swap(place, other);
    }
    joined("synthetic", ASN, messages)
}

fn joined(name: &'static str, asn: u32, messages: Vec<Vec<u8>>) -> anyhow::Result<Table> {
    let mut offsets = vec![0];
    let mut bytes = Vec::new();
    for message in messages {
        bytes.extend_from_slice(&message);
        offsets.push(bytes.len());
    }
    Table::new(name, asn, bytes, offsets)
}

/// Geometric with mean 7.3, bounded by what fits into a message.
fn group(random: &mut Random) -> usize {
    let mut size = 1;
    while size < 100 && random.below(1000) >= 137 {
        size += 1;
    }
    size
}

fn push(bytes: &mut Vec<u8>, length: u8, address: &[u8]) {
    bytes.push(length);
    let octets = usize::from(length.div_ceil(8));
    bytes.extend(address.iter().take(octets));
}

/// ORIGIN, AS_PATH of three to six ASes, often communities, seldom others.
fn attributes(random: &mut Random, asn: u32) -> Vec<u8> {
    let mut bytes = vec![0x40, 1, 1, u8::from(random.below(10) == 0) * 2];
    let mut path = vec![asn, 1000 + random.below32(12)];
    for _ in 0..random.below(4) {
        path.push(2000 + random.below32(9000));
    }
    // Below 64500: no path may contain the receivers' AS.
    path.push(20_000 + random.below32(44_000));
    let length = u8::try_from(path.len()).unwrap_or(0);
    bytes.extend_from_slice(&[0x40, 2, 2 + 4 * length, 2, length]);
    for asn in path {
        bytes.extend_from_slice(&asn.to_be_bytes());
    }
    if random.below(4) == 0 {
        bytes.extend_from_slice(&[0x80, 4, 4]);
        bytes.extend_from_slice(&random.below32(200).to_be_bytes());
    }
    let communities = u8::try_from(random.below(6)).unwrap_or(0);
    if communities > 0 {
        bytes.extend_from_slice(&[0xc0, 8, 4 * communities]);
        for _ in 0..communities {
            bytes.extend_from_slice(&(1000 + random.below32(12)).to_be_bytes()[2..]);
            bytes.extend_from_slice(&random.below32(3000).to_be_bytes()[2..]);
        }
    }
    bytes
}

/// An UPDATE.
pub fn message(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = HEADER_LENGTH + 4 + withdrawn.len() + attributes.len() + nlri.len();
    assert!(length <= MAX_MESSAGE, "an UPDATE of {length} bytes");
    let mut bytes = vec![0xff; 16];
    let counted = |bytes: &mut Vec<u8>, field: &[u8]| {
        bytes.extend_from_slice(&u16::try_from(field.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(field);
    };
    bytes.extend_from_slice(&u16::try_from(length).unwrap_or(0).to_be_bytes());
    bytes.push(2);
    counted(&mut bytes, withdrawn);
    counted(&mut bytes, attributes);
    bytes.extend_from_slice(nlri);
    bytes
}

/// An announcement of one IPv4 prefix by a path.
pub fn announcement(prefix: &Prefix, path: &[u32], next_hop: Ipv4Addr) -> Vec<u8> {
    let count = u8::try_from(path.len()).unwrap_or(0);
    let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 2 + 4 * count, 2, count];
    for asn in path {
        attributes.extend_from_slice(&asn.to_be_bytes());
    }
    attributes.extend_from_slice(&[0x40, 3, 4]);
    attributes.extend_from_slice(&next_hop.octets());
    let mut nlri = Vec::new();
    if let Prefix::V4(prefix) = prefix {
        push(&mut nlri, prefix.prefix_len(), &prefix.network().octets());
    }
    message(&[], &attributes, &nlri)
}

/// The UPDATEs of a gzipped MRT file (BGP4MP_ET, four-octet AS numbers), sent by us: NEXT_HOP is
/// replaced by our address.
pub fn real(file: &Path, next_hop: Ipv4Addr) -> anyhow::Result<Table> {
    let mut child = Command::new("gzip")
        .arg("-dc")
        .arg(file)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run gzip")?;
    let mut archive = Vec::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_end(&mut archive)?;
    }
    anyhow::ensure!(child.wait()?.success(), "{} is damaged", file.display());
    let mut rest = archive.as_slice();
    let mut messages = Vec::new();
    let mut asn = None;
    while let Some((header, after)) = rest.split_first_chunk::<12>() {
        let kind = u16::from_be_bytes([header[4], header[5]]);
        let subtype = u16::from_be_bytes([header[6], header[7]]);
        let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        let (record, after) = after
            .split_at_checked(usize::try_from(length)?)
            .context("the MRT file is cut off")?;
        rest = after;
        if (kind, subtype) != (17, 4) {
            continue;
        }
        // Microseconds, both ASes, interface, family, both IPv4 addresses (RFC 6396).
        let Some((peer, message)) = record.split_at_checked(4 + 8 + 4 + 8) else {
            bail!("a BGP4MP record is cut off");
        };
        asn = asn.or(peer
            .get(4..8)
            .and_then(|asn| asn.try_into().ok())
            .map(u32::from_be_bytes));
        if message.get(18) == Some(&2) {
            let mut message = message.to_vec();
            replace_next_hop(&mut message, next_hop);
            messages.push(message);
        }
    }
    joined("real", asn.context("no BGP4MP message")?, messages)
}

fn replace_next_hop(message: &mut [u8], next_hop: Ipv4Addr) {
    let two = |bytes: &[u8], at: usize| {
        let high = bytes.get(at).copied().unwrap_or(0);
        let low = bytes.get(at + 1).copied().unwrap_or(0);
        usize::from(u16::from_be_bytes([high, low]))
    };
    let mut at = HEADER_LENGTH + 2 + two(message, HEADER_LENGTH);
    let end = (at + 2 + two(message, at)).min(message.len());
    at += 2;
    while at + 3 <= end {
        let long = message[at] & 0x10 != 0;
        let (header, length) = if long {
            (4, two(message, at + 2))
        } else {
            (3, usize::from(message[at + 2]))
        };
        if message[at + 1] == 3 && length == 4 && at + header + 4 <= end {
            message[at + header..at + header + 4].copy_from_slice(&next_hop.octets());
        }
        at += header + length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_table_is_valid_and_the_same_each_time() {
        let make = || synthetic(5000, 1000, Ipv4Addr::new(192, 0, 2, 1)).unwrap();
        let table = make();
        assert_eq!(table.prefixes, 6000, "no prefix twice");
        assert_eq!(table.bytes, make().bytes);
        assert!(
            (600..1100).contains(&table.updates()),
            "{}",
            table.updates()
        );
        let prefix = "203.0.113.0/24".parse().unwrap();
        let one = announcement(&prefix, &[1, 2], Ipv4Addr::new(192, 0, 2, 7));
        let mut other = announcement(&prefix, &[1, 2], Ipv4Addr::new(192, 0, 2, 8));
        replace_next_hop(&mut other, Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(one, other);
    }
}
