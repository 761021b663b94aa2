//! Path attributes: the walk over their TLVs, with the error handling of RFC 7606.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::path::AsPath;
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
    /// All others as they came (flags, type, length, value), without those that were discarded.
    pub other: Vec<u8>,
}

impl Attributes {
    /// A compact form to be stored; equal attributes have equal bytes.
    #[must_use]
    pub(crate) fn pack(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(40 + self.other.len());
        match self.next_hop {
            IpAddr::V4(address) => {
                bytes.push(4);
                bytes.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                bytes.push(6);
                bytes.extend_from_slice(&address.octets());
            }
        }
        bytes.push(match self.origin {
            Origin::Igp => 0,
            Origin::Egp => 1,
            Origin::Incomplete => 2,
        });
        let path = self.as_path.encode();
        bytes.extend_from_slice(&u16::try_from(path.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(&path);
        bytes.extend_from_slice(&self.other);
        bytes
    }

    /// The reverse of [`Self::pack`]; `None` for bytes that it did not make.
    pub(crate) fn unpack(bytes: &[u8]) -> Option<Self> {
        let (next_hop, rest) = match bytes.split_first()? {
            (4, rest) => {
                let (octets, rest) = rest.split_first_chunk::<4>()?;
                (IpAddr::from(*octets), rest)
            }
            (6, rest) => {
                let (octets, rest) = rest.split_first_chunk::<16>()?;
                (IpAddr::from(*octets), rest)
            }
            _ => return None,
        };
        let (&[origin, high, low], rest) = rest.split_first_chunk::<3>()?;
        let (path, other) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
        Some(Self {
            origin: origin_from_wire(origin)?,
            as_path: AsPath::decode(path, true).ok()?,
            next_hop,
            other: other.to_vec(),
        })
    }
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
    pub const LARGE_COMMUNITIES: u8 = 32;
    pub const ONLY_TO_CUSTOMER: u8 = 35;
}

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const EXTENDED_LENGTH: u8 = 0x10;

/// What the walk found.
#[derive(Debug, Default)]
pub(crate) struct Walked<'a> {
    pub origin: Option<Origin>,
    pub as_path: Option<AsPath>,
    pub next_hop: Option<Ipv4Addr>,
    pub mp_reach: Option<&'a [u8]>,
    pub mp_unreach: Option<&'a [u8]>,
    pub other: Vec<u8>,
    pub errors: Vec<AttributeError>,
    /// Types seen: an attribute that is malformed is not missing as well.
    pub seen: Vec<u8>,
}

impl Walked<'_> {
    pub fn error(
        &mut self,
        attribute: u8,
        level: ErrorLevel,
        subcode: u8,
        text: impl Into<String>,
    ) {
        self.errors.push(AttributeError {
            attribute,
            level,
            text: text.into(),
            subcode,
        });
    }
}

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

pub(crate) fn walk<'a>(mut bytes: &'a [u8], context: &Context) -> Walked<'a> {
    let mut walked = Walked::default();
    let mut as4_path = None;
    let mut old_aggregator = false;
    while !bytes.is_empty() {
        let Some((tlv, rest)) = split(bytes) else {
            // RFC 7606 section 4: the rest cannot be walked, but the NLRI is found nevertheless.
            walked.error(
                0,
                ErrorLevel::TreatAsWithdraw,
                subcode::LENGTH,
                "the last attribute is longer than the attributes altogether",
            );
            break;
        };
        bytes = rest;
        let Tlv {
            flags,
            kind,
            value,
            whole,
        } = tlv;
        if walked.seen.contains(&kind) {
            let (level, text) = if matches!(kind, kind::MP_REACH | kind::MP_UNREACH) {
                (ErrorLevel::Reset, "appears twice")
            } else {
                (ErrorLevel::Discard, "appears twice; the first counts")
            };
            walked.error(kind, level, subcode::ATTRIBUTE_LIST, text);
            continue;
        }
        walked.seen.push(kind);
        if let Some((level, subcode, text)) = flag_error(kind, flags) {
            walked.error(kind, level, subcode, text);
        }
        match kind {
            kind::AS4_PATH => as4_path = Some(value),
            kind::AGGREGATOR => {
                old_aggregator = !context.four_octet_as
                    && value.len() == 6
                    && value.first_chunk() != Some(&crate::open::AS_TRANS.to_be_bytes());
            }
            _ => {}
        }
        match take(&mut walked, kind, value, context) {
            Ok(Kept::Parsed) => {}
            Ok(Kept::Raw) => walked.other.extend_from_slice(whole),
            Err((level, subcode, text)) => walked.error(kind, level, subcode, text),
        }
    }
    merge_as4(&mut walked, as4_path, old_aggregator, context);
    walked
}

/// One attribute as it came.
struct Tlv<'a> {
    flags: u8,
    kind: u8,
    value: &'a [u8],
    whole: &'a [u8],
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
        | kind::LARGE_COMMUNITIES
        | kind::ONLY_TO_CUSTOMER => OPTIONAL | TRANSITIVE,
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

type TakeError = (ErrorLevel, u8, String);

/// RFC 7606 section 7; large communities: RFC 8092 section 6; OTC: RFC 9234 section 5.
fn take<'a>(
    walked: &mut Walked<'a>,
    kind: u8,
    value: &'a [u8],
    context: &Context,
) -> Result<Kept, TakeError> {
    use ErrorLevel::{Discard, TreatAsWithdraw};
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
            let text = "comes from another AS; it has no meaning there".to_owned();
            Err((Discard, subcode::OPTIONAL, text))
        }
    };
    match kind {
        kind::ORIGIN => {
            let [number] = value else {
                return Err(length(TreatAsWithdraw, value));
            };
            let origin = origin_from_wire(*number).ok_or_else(|| {
                let text = format!("has the undefined value {number}");
                (TreatAsWithdraw, subcode::ORIGIN, text)
            })?;
            walked.origin = Some(origin);
            Ok(Kept::Parsed)
        }
        kind::AS_PATH => {
            let error = |text: &str| (TreatAsWithdraw, subcode::AS_PATH, text.to_owned());
            let path = AsPath::decode(value, context.four_octet_as).map_err(error)?;
            if path.has_confederation() && !context.internal {
                return Err(error("a confederation's segment comes from another AS"));
            }
            walked.as_path = Some(path);
            Ok(Kept::Parsed)
        }
        kind::NEXT_HOP => {
            let octets = <[u8; 4]>::try_from(value).map_err(|_| length(TreatAsWithdraw, value))?;
            let address = Ipv4Addr::from(octets);
            if !is_host(IpAddr::V4(address)) {
                let text = format!("{address} is no host's address");
                return Err((TreatAsWithdraw, subcode::NEXT_HOP, text));
            }
            walked.next_hop = Some(address);
            Ok(Kept::Parsed)
        }
        kind::MED | kind::ONLY_TO_CUSTOMER => exactly(4, TreatAsWithdraw),
        kind::LOCAL_PREF | kind::ORIGINATOR_ID => {
            internal_only()?;
            exactly(4, TreatAsWithdraw)
        }
        kind::CLUSTER_LIST => {
            internal_only()?;
            multiple(4)
        }
        kind::ATOMIC_AGGREGATE => exactly(0, Discard),
        kind::AGGREGATOR => exactly(if context.four_octet_as { 8 } else { 6 }, Discard),
        kind::COMMUNITIES => multiple(4),
        kind::EXTENDED_COMMUNITIES => multiple(8),
        kind::LARGE_COMMUNITIES => multiple(12),
        kind::AS4_AGGREGATOR if !context.four_octet_as => exactly(8, Discard),
        kind::AS4_PATH if !context.four_octet_as => Ok(Kept::Parsed),
        kind::AS4_PATH | kind::AS4_AGGREGATOR => {
            let text = "comes from a speaker of four-octet AS numbers".to_owned();
            Err((Discard, subcode::OPTIONAL, text))
        }
        kind::MP_REACH => {
            walked.mp_reach = Some(value);
            Ok(Kept::Parsed)
        }
        kind::MP_UNREACH => {
            walked.mp_unreach = Some(value);
            Ok(Kept::Parsed)
        }
        _ => Ok(Kept::Raw),
    }
}

fn length(level: ErrorLevel, value: &[u8]) -> TakeError {
    (
        level,
        subcode::LENGTH,
        format!("has length {}", value.len()),
    )
}

fn merge_as4(
    walked: &mut Walked<'_>,
    as4_path: Option<&[u8]>,
    old_aggregator: bool,
    context: &Context,
) {
    let Some(value) = as4_path.filter(|_| !context.four_octet_as) else {
        return;
    };
    match AsPath::decode(value, true) {
        // An old speaker aggregated on the way: both AS4 attributes are void (RFC 6793 4.2.3).
        Ok(_) if old_aggregator => {}
        Ok(as4) => {
            walked.as_path = walked.as_path.take().map(|path| path.merged_with_as4(as4));
        }
        Err(text) => walked.error(kind::AS4_PATH, ErrorLevel::Discard, subcode::AS_PATH, text),
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

/// Whether an address can be that of a next hop (RFC 4271 section 6.3).
pub(crate) fn is_host(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    let nowhere = address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || address == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    !(broadcast || nowhere || address.is_multicast())
}
