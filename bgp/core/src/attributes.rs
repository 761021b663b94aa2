//! Path attributes: the walk over their TLVs, with the error handling of RFC 7606.
//!
//! The walk borrows; nothing is allocated for attributes without errors, but for an AS_PATH in two
//! octets, which is widened.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use events::Asn;
use serde::{Deserialize, Serialize};

use crate::path::{self, AsPath};
use crate::update::Context;

/// ORIGIN (RFC 4271 section 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Origin {
    Igp,
    Egp,
    Incomplete,
}

/// Attributes of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, with AS4_PATH merged in.
    pub as_path: AsPath,
    /// NEXT_HOP, or the (global) next hop of MP_REACH_NLRI.
    pub next_hop: IpAddr,
    /// The link-local next hop beside the global one (RFC 2545 section 3).
    pub link_local: Option<Ipv6Addr>,
    /// All others as they came (flags, type, length, value), without those that were discarded.
    /// [`crate::attribute_values`] decodes them.
    pub other: Vec<u8>,
}

impl Attributes {
    /// A compact form to be stored; equal attributes have equal bytes.
    #[must_use]
    pub fn pack(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(48 + self.other.len());
        let path = self.as_path.encode();
        pack_head(
            &mut bytes,
            self.next_hop,
            self.link_local,
            self.origin,
            &path,
        );
        bytes.extend_from_slice(&self.other);
        bytes
    }

    /// The reverse of [`Self::pack`]; `None` for bytes that it did not make.
    #[must_use]
    pub fn unpack(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let (next_hop, rest) = match tag {
            4 => {
                let (octets, rest) = rest.split_first_chunk::<4>()?;
                (IpAddr::from(*octets), rest)
            }
            6 | 7 => {
                let (octets, rest) = rest.split_first_chunk::<16>()?;
                (IpAddr::from(*octets), rest)
            }
            _ => return None,
        };
        let (link_local, rest) = if *tag == 7 {
            let (octets, rest) = rest.split_first_chunk::<16>()?;
            (Some(Ipv6Addr::from(*octets)), rest)
        } else {
            (None, rest)
        };
        let (&[origin, a, b, c], rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        let (path, other) = rest.split_at_checked(length)?;
        Some(Self {
            origin: origin_from_wire(origin)?,
            as_path: AsPath::decode(path, true).ok()?,
            next_hop,
            link_local,
            other: other.to_vec(),
        })
    }
}

/// ORIGIN, AS_PATH's value in four octets, and the other attributes, of packed bytes.
pub(crate) fn packed_parts(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let next_hop = match tag {
        4 => 4,
        6 => 16,
        7 => 32,
        _ => return None,
    };
    let (&[origin, a, b, c], rest) = rest.get(next_hop..)?.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
    let (path, other) = rest.split_at_checked(length)?;
    Some((origin, path, other))
}

/// AS_PATH's value in four octets, of packed bytes.
pub(crate) fn packed_path(bytes: &[u8]) -> &[u8] {
    packed_parts(bytes).map_or(&[], |(_, path, _)| path)
}

/// The part of the packed form before the other attributes. A link-local address has its place
/// only beside an IPv6 next hop.
fn pack_head(
    bytes: &mut Vec<u8>,
    next_hop: IpAddr,
    link_local: Option<Ipv6Addr>,
    origin: Origin,
    path: &[u8],
) {
    match next_hop {
        IpAddr::V4(address) => {
            bytes.push(4);
            bytes.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            bytes.push(if link_local.is_some() { 7 } else { 6 });
            bytes.extend_from_slice(&address.octets());
            if let Some(address) = link_local {
                bytes.extend_from_slice(&address.octets());
            }
        }
    }
    bytes.push(match origin {
        Origin::Igp => 0,
        Origin::Egp => 1,
        Origin::Incomplete => 2,
    });
    // Widened from two octets it can be longer than 64 KiB, but never than 16 MiB.
    let [_, length @ ..] = u32::try_from(path.len()).unwrap_or(0).to_be_bytes();
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(path);
}

/// What an error in an UPDATE demands, weakest first (RFC 7606 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorLevel {
    /// The attribute is dropped, the routes stay.
    Discard,
    /// The routes of the UPDATE are withdrawn.
    TreatAsWithdraw,
    /// The session ends.
    Reset,
}

/// An error in an UPDATE that the session outlives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("attribute {attribute}: {text}")]
pub struct AttributeError {
    /// The attribute's type; 0 where the attributes as a whole are meant.
    pub attribute: u8,
    /// What it demands.
    pub level: ErrorLevel,
    /// What is wrong.
    pub text: String,
    /// Subcode of the UPDATE Message Error, should the session end for it.
    pub subcode: u8,
}

pub(crate) mod kind {
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MED: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH: u8 = 14;
    pub const MP_UNREACH: u8 = 15;
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AS4_AGGREGATOR: u8 = 18;
    pub const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
    pub const LARGE_COMMUNITIES: u8 = 32;
    pub const ONLY_TO_CUSTOMER: u8 = 35;
    pub const ATTR_SET: u8 = 128;
}

pub(crate) const OPTIONAL: u8 = 0x80;
pub(crate) const TRANSITIVE: u8 = 0x40;
const EXTENDED_LENGTH: u8 = 0x10;

/// Subcodes of UPDATE Message Error (RFC 4271 section 4.5).
pub(crate) mod subcode {
    pub const ATTRIBUTE_LIST: u8 = 1;
    pub const UNRECOGNIZED_WELL_KNOWN: u8 = 2;
    pub const MISSING_WELL_KNOWN: u8 = 3;
    pub const FLAGS: u8 = 4;
    pub const LENGTH: u8 = 5;
    pub const ORIGIN: u8 = 6;
    pub const NEXT_HOP: u8 = 8;
    pub const OPTIONAL: u8 = 9;
    pub const NETWORK: u8 = 10;
    pub const AS_PATH: u8 = 11;
}

/// A set of attribute types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KindSet([u64; 4]);

impl KindSet {
    /// Adds one; false where it was there.
    pub fn insert(&mut self, kind: u8) -> bool {
        let Some(word) = self.0.get_mut(usize::from(kind >> 6)) else {
            return false;
        };
        let bit = 1 << (kind & 63);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    pub fn remove(&mut self, kind: u8) {
        if let Some(word) = self.0.get_mut(usize::from(kind >> 6)) {
            *word &= !(1 << (kind & 63));
        }
    }

    pub fn contains(&self, kind: u8) -> bool {
        let word = self.0.get(usize::from(kind >> 6));
        word.is_some_and(|word| word & (1 << (kind & 63)) != 0)
    }

    /// Whether it has others than this one.
    pub fn has_other_than(mut self, kind: u8) -> bool {
        self.remove(kind);
        self != Self::default()
    }
}

/// Errors kept for each UPDATE. Further ones count, but are not told: a message of nothing but
/// errors must not cost many times its size.
const MAX_ERRORS: usize = 16;

/// What the walk found.
#[derive(Clone, Debug)]
pub(crate) struct Walked<'a> {
    pub origin: Option<Origin>,
    /// In four octets, AS4_PATH merged in.
    pub as_path: Option<Cow<'a, [u8]>>,
    pub next_hop: Option<Ipv4Addr>,
    pub mp_reach: Option<Tlv<'a>>,
    pub mp_unreach: Option<Tlv<'a>>,
    pub otc: Option<Asn>,
    /// OTC that is to be added (RFC 9234 section 5, rule 3).
    pub added_otc: Option<Asn>,
    pub errors: Vec<AttributeError>,
    /// The first of the strongest errors, and what NOTIFICATION has to quote for it.
    pub worst: Option<(ErrorLevel, u8, &'a [u8])>,
    /// Types seen: an attribute that is malformed is not missing as well.
    pub seen: KindSet,
    /// The last attribute does not end within the field.
    pub overrun: bool,
    /// All attributes.
    bytes: &'a [u8],
    /// Types that belong to [`Self::others`].
    kept: KindSet,
}

impl<'a> Walked<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self {
            origin: None,
            as_path: None,
            next_hop: None,
            mp_reach: None,
            mp_unreach: None,
            otc: None,
            added_otc: None,
            errors: Vec::new(),
            worst: None,
            seen: KindSet([0; 4]),
            overrun: false,
            bytes,
            kept: KindSet([0; 4]),
        }
    }

    /// The attributes that are passed on as they came, in the order of the wire.
    pub fn others(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut left = self.kept;
        Tlvs(self.bytes).filter_map(move |tlv| {
            let wanted = left.contains(tlv.kind);
            left.remove(tlv.kind);
            wanted.then_some(tlv.whole)
        })
    }

    /// OTC that was added, as an attribute.
    pub fn added(&self) -> Option<[u8; 7]> {
        let [a, b, c, d] = self.added_otc?.0.to_be_bytes();
        let kind = kind::ONLY_TO_CUSTOMER;
        Some([OPTIONAL | TRANSITIVE, kind, 4, a, b, c, d])
    }

    pub fn other_bytes(&self) -> Vec<u8> {
        let added = self.added();
        let added = added.iter().map(|bytes| &bytes[..]);
        let parts = || self.others().chain(added.clone());
        let mut bytes = Vec::with_capacity(parts().map(<[u8]>::len).sum());
        parts().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }

    /// What [`Attributes::pack`] gives, without the detour; `None` where a mandatory attribute is
    /// missing.
    pub fn pack_into(
        &self,
        next_hop: IpAddr,
        link_local: Option<Ipv6Addr>,
        bytes: &mut Vec<u8>,
    ) -> Option<()> {
        pack_head(
            bytes,
            next_hop,
            link_local,
            self.origin?,
            self.as_path.as_deref()?,
        );
        self.others().for_each(|part| bytes.extend_from_slice(part));
        if let Some(added) = self.added() {
            bytes.extend_from_slice(&added);
        }
        Some(())
    }

    /// Notes an error; `quote` is the data that NOTIFICATION would have (RFC 4271 section 6.3).
    pub fn error(
        &mut self,
        attribute: u8,
        level: ErrorLevel,
        subcode: u8,
        quote: &'a [u8],
        text: impl Into<String>,
    ) {
        let stronger = self.worst.is_none_or(|(worst, ..)| level > worst);
        if stronger {
            self.worst = Some((level, subcode, quote));
        }
        let error = || AttributeError {
            attribute,
            level,
            text: text.into(),
            subcode,
        };
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error());
        } else if stronger && let Some(last) = self.errors.last_mut() {
            *last = error();
        }
    }
}

pub(crate) fn walk<'a>(bytes: &'a [u8], context: &Context) -> Walked<'a> {
    let mut walked = Walked::new(bytes);
    let mut as4_path = None;
    let mut aggregator = None;
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some((tlv, after)) = split(rest) else {
            // RFC 7606 section 4: the rest cannot be walked, but the NLRI is found nevertheless,
            // unless the routes were in what cannot be walked (section 3 (j)).
            walked.overrun = true;
            let (kind, level, subcode) = match rest {
                [_, kind @ (kind::MP_REACH | kind::MP_UNREACH), ..] => {
                    (*kind, ErrorLevel::Reset, subcode::OPTIONAL)
                }
                _ => (0, ErrorLevel::TreatAsWithdraw, subcode::LENGTH),
            };
            let text = "the last attribute is longer than the attributes altogether";
            walked.error(kind, level, subcode, rest, text);
            break;
        };
        rest = after;
        let kind = tlv.kind;
        if !walked.seen.insert(kind) {
            // RFC 7606 section 3 (g).
            let (level, text) = if matches!(kind, kind::MP_REACH | kind::MP_UNREACH) {
                (ErrorLevel::Reset, "appears twice")
            } else {
                (ErrorLevel::Discard, "appears twice; the first counts")
            };
            walked.error(kind, level, subcode::ATTRIBUTE_LIST, &[], text);
            continue;
        }
        if let Some((level, subcode, text)) = flag_error(kind, tlv.flags) {
            walked.error(kind, level, subcode, tlv.whole, text);
        }
        match kind {
            kind::AS4_PATH => as4_path = Some(tlv),
            kind::AGGREGATOR => aggregator = tlv.value.first_chunk::<2>(),
            _ => {}
        }
        match take(&mut walked, tlv, context) {
            Ok(Kept::Parsed) => {}
            Ok(Kept::Raw) => {
                walked.kept.insert(kind);
            }
            Err((level, subcode, text)) => {
                // RFC 4271 section 6.3: a malformed AS_PATH is not quoted.
                let quote = if kind == kind::AS_PATH {
                    &[]
                } else {
                    tlv.whole
                };
                walked.error(kind, level, subcode, quote, text);
            }
        }
    }
    if !context.four_octet_as {
        merge_as4(&mut walked, as4_path, aggregator);
    }
    walked
}

/// One attribute as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tlv<'a> {
    pub flags: u8,
    pub kind: u8,
    pub value: &'a [u8],
    pub whole: &'a [u8],
}

/// Whole attributes, one after the other; ends where one does not end within the bytes.
#[derive(Clone, Debug)]
pub(crate) struct Tlvs<'a>(pub &'a [u8]);

impl<'a> Iterator for Tlvs<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Tlv<'a>> {
        let (tlv, rest) = split(self.0)?;
        self.0 = rest;
        Some(tlv)
    }
}

/// The first attribute and what follows it; `None` where it does not end within `bytes`.
fn split(bytes: &[u8]) -> Option<(Tlv<'_>, &[u8])> {
    let (flags, kind, length, header) = match *bytes {
        [flags, kind, high, low, ..] if flags & EXTENDED_LENGTH != 0 => {
            (flags, kind, usize::from(u16::from_be_bytes([high, low])), 4)
        }
        [flags, kind, length, ..] if flags & EXTENDED_LENGTH == 0 => {
            (flags, kind, usize::from(length), 3)
        }
        _ => return None,
    };
    let (whole, rest) = bytes.split_at_checked(header + length)?;
    let tlv = Tlv {
        flags,
        kind,
        value: whole.get(header..)?,
        whole,
    };
    Some((tlv, rest))
}

/// RFC 7606 section 3 (c); RFC 4271 section 6.3 for a well-known attribute that is not known.
fn flag_error(kind: u8, flags: u8) -> Option<(ErrorLevel, u8, &'static str)> {
    let expected = match kind {
        kind::ORIGIN
        | kind::AS_PATH
        | kind::NEXT_HOP
        | kind::LOCAL_PREF
        | kind::ATOMIC_AGGREGATE => TRANSITIVE,
        kind::MED
        | kind::ORIGINATOR_ID
        | kind::CLUSTER_LIST
        | kind::MP_REACH
        | kind::MP_UNREACH => OPTIONAL,
        kind::AGGREGATOR
        | kind::COMMUNITIES
        | kind::EXTENDED_COMMUNITIES
        | kind::AS4_PATH
        | kind::AS4_AGGREGATOR
        | kind::IPV6_EXTENDED_COMMUNITIES
        | kind::LARGE_COMMUNITIES
        | kind::ONLY_TO_CUSTOMER
        | kind::ATTR_SET => OPTIONAL | TRANSITIVE,
        _ if flags & OPTIONAL == 0 => {
            return Some((
                ErrorLevel::Reset,
                subcode::UNRECOGNIZED_WELL_KNOWN,
                "is said to be well-known and is not known",
            ));
        }
        _ => return None,
    };
    (flags & (OPTIONAL | TRANSITIVE) != expected).then_some((
        ErrorLevel::TreatAsWithdraw,
        subcode::FLAGS,
        "has the wrong optional or transitive flag",
    ))
}

enum Kept {
    Parsed,
    Raw,
}

type TakeError = (ErrorLevel, u8, Cow<'static, str>);

/// RFC 7606 section 7; large communities: RFC 8092 section 6; OTC: RFC 9234 section 5; AS 0:
/// RFC 7607 section 2.
fn take<'a>(walked: &mut Walked<'a>, tlv: Tlv<'a>, context: &Context) -> Result<Kept, TakeError> {
    use ErrorLevel::{Discard, TreatAsWithdraw};
    let value = tlv.value;
    let multiple = |of: usize| {
        if value.is_empty() || !value.len().is_multiple_of(of) {
            Err(length(TreatAsWithdraw, value))
        } else {
            Ok(Kept::Raw)
        }
    };
    let exactly = |octets: usize, level| {
        if value.len() == octets {
            Ok(Kept::Raw)
        } else {
            Err(length(level, value))
        }
    };
    let internal_only = || {
        if context.internal {
            Ok(())
        } else {
            let text = "comes from another AS; it has no meaning there";
            Err((Discard, subcode::OPTIONAL, text.into()))
        }
    };
    let aggregator = |octets: usize| {
        exactly(octets, Discard)?;
        let asn = value.get(..octets - 4).unwrap_or_default();
        if asn.iter().all(|octet| *octet == 0) {
            return Err((Discard, subcode::OPTIONAL, "has AS 0 (RFC 7607)".into()));
        }
        Ok(Kept::Raw)
    };
    match tlv.kind {
        kind::ORIGIN => {
            let [number] = value else {
                return Err(length(TreatAsWithdraw, value));
            };
            let origin = origin_from_wire(*number).ok_or_else(|| {
                let text = format!("has the undefined value {number}");
                (TreatAsWithdraw, subcode::ORIGIN, text.into())
            })?;
            walked.origin = Some(origin);
            Ok(Kept::Parsed)
        }
        kind::AS_PATH => {
            let error = |text: &'static str| (TreatAsWithdraw, subcode::AS_PATH, text.into());
            let scanned = path::scan(value, context.four_octet_as).map_err(error)?;
            if scanned.confederation && !context.internal {
                return Err(error("a confederation's segment comes from another AS"));
            }
            walked.as_path = Some(if context.four_octet_as {
                Cow::Borrowed(value)
            } else {
                Cow::Owned(path::widened(value))
            });
            Ok(Kept::Parsed)
        }
        kind::NEXT_HOP => {
            let octets = <[u8; 4]>::try_from(value).map_err(|_| length(TreatAsWithdraw, value))?;
            // Whether it is a host's address matters only where there is NLRI that it is for
            // (RFC 4760 section 3).
            walked.next_hop = Some(Ipv4Addr::from(octets));
            Ok(Kept::Parsed)
        }
        kind::MED => exactly(4, TreatAsWithdraw),
        kind::ONLY_TO_CUSTOMER => {
            let octets = <[u8; 4]>::try_from(value).map_err(|_| length(TreatAsWithdraw, value))?;
            walked.otc = Some(Asn(u32::from_be_bytes(octets)));
            Ok(Kept::Raw)
        }
        kind::LOCAL_PREF | kind::ORIGINATOR_ID => {
            internal_only()?;
            exactly(4, TreatAsWithdraw)
        }
        kind::CLUSTER_LIST => {
            internal_only()?;
            multiple(4)
        }
        kind::ATOMIC_AGGREGATE => exactly(0, Discard),
        kind::AGGREGATOR => aggregator(if context.four_octet_as { 8 } else { 6 }),
        kind::COMMUNITIES => multiple(4),
        kind::EXTENDED_COMMUNITIES => multiple(8),
        kind::IPV6_EXTENDED_COMMUNITIES => multiple(20),
        kind::LARGE_COMMUNITIES => multiple(12),
        // Its first four octets are the AS that it comes from (RFC 6368 section 5).
        kind::ATTR_SET if value.len() < 4 => Err(length(TreatAsWithdraw, value)),
        kind::AS4_AGGREGATOR if !context.four_octet_as => aggregator(8),
        kind::AS4_PATH if !context.four_octet_as => Ok(Kept::Parsed),
        kind::AS4_PATH | kind::AS4_AGGREGATOR => {
            let text = "comes from a speaker of four-octet AS numbers";
            Err((Discard, subcode::OPTIONAL, text.into()))
        }
        kind::MP_REACH => {
            walked.mp_reach = Some(tlv);
            Ok(Kept::Parsed)
        }
        kind::MP_UNREACH => {
            walked.mp_unreach = Some(tlv);
            Ok(Kept::Parsed)
        }
        _ => Ok(Kept::Raw),
    }
}

fn length(level: ErrorLevel, value: &[u8]) -> TakeError {
    let text = format!("has length {}", value.len());
    (level, subcode::LENGTH, text.into())
}

/// What a neighbour of two-octet numbers says beside AS_PATH and AGGREGATOR (RFC 6793 sections
/// 4.2.3 and 6).
fn merge_as4<'a>(walked: &mut Walked<'a>, as4_path: Option<Tlv<'a>>, aggregator: Option<&[u8; 2]>) {
    let old_speaker_aggregated = walked.kept.contains(kind::AS4_AGGREGATOR)
        && walked.kept.contains(kind::AGGREGATOR)
        && aggregator.is_some_and(|asn| *asn != crate::open::AS_TRANS.to_be_bytes());
    if old_speaker_aggregated {
        // Both AS4 attributes are void.
        walked.kept.remove(kind::AS4_AGGREGATOR);
        return;
    }
    let Some(tlv) = as4_path else { return };
    let as4 = match tlv.value {
        [] => Err("is too short for an AS number"),
        value => AsPath::decode(value, true),
    };
    match as4 {
        Ok(as4) => {
            let path = walked.as_path.take();
            walked.as_path = path.map(|path| match AsPath::decode(&path, true) {
                Ok(path) => Cow::Owned(path.merged_with_as4(as4).encode()),
                Err(_) => path,
            });
        }
        Err(text) => walked.error(
            kind::AS4_PATH,
            ErrorLevel::Discard,
            subcode::AS_PATH,
            &[],
            text,
        ),
    }
}

const fn origin_from_wire(number: u8) -> Option<Origin> {
    Some(match number {
        0 => Origin::Igp,
        1 => Origin::Egp,
        2 => Origin::Incomplete,
        _ => return None,
    })
}

/// Whether an address can be that of a next hop (RFC 4271 section 6.3): a host's, and not that of
/// every host itself (RFC 1122 section 3.2.1.3).
pub(crate) fn is_host(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    let nowhere = address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || address == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    !(broadcast || nowhere || address.is_multicast() || address.is_loopback())
}
