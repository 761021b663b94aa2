//! MRT archives (RFC 6396, RFC 8050): a byte stream cut into records, and what they say.
//!
//! Attributes and messages go through the same strict decoder as those of a session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{Buf, Bytes, BytesMut};
use events::{Asn, Prefix};

use crate::attributes::{self, AttributeError, Attributes, ErrorLevel, kind, subcode};
use crate::frame::{self, MessageType};
use crate::nlri::{Families, Family, Nlri, NlriField};
use crate::path::AsPath;
use crate::update::Context;

/// Timestamp, type, subtype and length (RFC 6396 section 2).
pub const HEADER_LENGTH: usize = 12;
/// Longer records are refused: a table of 65535 peers has 1.6 MB, a prefix of 1000 peers 0.3 MB.
pub const MAX_LENGTH: usize = 16 * 1024 * 1024;

/// What is wrong with an archive, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record at byte {offset}: {text}")]
pub struct MrtError {
    /// Where the record begins, counted from 0, after decompression.
    pub offset: u64,
    /// What is wrong.
    pub text: String,
}

/// One record without its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MrtRecord {
    /// Where it begins.
    pub offset: u64,
    /// Microseconds since 1970.
    pub microseconds: u64,
    /// Type.
    pub kind: u16,
    /// Subtype.
    pub subtype: u16,
    /// What follows the header, without the microseconds of the extended ones.
    pub body: Bytes,
}

/// Cuts a byte stream into records. Holds at most one incomplete record besides what was pushed.
#[derive(Debug, Default)]
pub struct MrtFramer {
    buffer: BytesMut,
    offset: u64,
}

impl MrtFramer {
    /// Appends bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes wait for the rest of their record.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// Where the next record begins.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// It ended within a record.
    pub fn finish(&self) -> Result<(), MrtError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let length = self.header().map(|(length, ..)| length);
        let there = self.buffer.len();
        Err(self.error(match length {
            Some(length) => format!(
                "the archive ends after {there} of its {} octets",
                HEADER_LENGTH + length
            ),
            None => format!("the archive ends after {there} of a header's {HEADER_LENGTH} octets"),
        }))
    }

    fn error(&self, text: String) -> MrtError {
        MrtError {
            offset: self.offset,
            text,
        }
    }

    /// Length, seconds, type and subtype.
    fn header(&self) -> Option<(usize, u32, u16, u16)> {
        let mut header = self.buffer.get(..HEADER_LENGTH)?;
        let (seconds, kind, subtype) = (header.get_u32(), header.get_u16(), header.get_u16());
        let length = usize::try_from(header.get_u32()).unwrap_or(usize::MAX);
        Some((length, seconds, kind, subtype))
    }

    /// The next whole record; `None` until more bytes come.
    ///
    /// # Errors
    /// A length that cannot be. The stream cannot be continued after it.
    pub fn next_record(&mut self) -> Result<Option<MrtRecord>, MrtError> {
        let Some((length, seconds, kind, subtype)) = self.header() else {
            return Ok(None);
        };
        if length > MAX_LENGTH {
            return Err(self.error(format!(
                "it says that it has {length} octets, more than {MAX_LENGTH}; this is no MRT \
                 archive, or it is damaged there"
            )));
        }
        if self.buffer.len() < HEADER_LENGTH + length {
            return Ok(None);
        }
        let mut body = self.buffer.split_to(HEADER_LENGTH + length);
        body.advance(HEADER_LENGTH);
        let mut microseconds = u64::from(seconds) * 1_000_000;
        // RFC 6396 section 3: the extended types begin with microseconds.
        if matches!(kind, BGP4MP_ET | ISIS_ET | OSPFV3_ET) {
            if body.len() < 4 {
                return Err(self.error("its microseconds are cut off".to_owned()));
            }
            microseconds += u64::from(body.get_u32());
        }
        let offset = self.offset;
        self.offset += u64::try_from(HEADER_LENGTH + length).unwrap_or(0);
        Ok(Some(MrtRecord {
            offset,
            microseconds,
            kind,
            subtype,
            body: body.freeze(),
        }))
    }
}

const TABLE_DUMP: u16 = 12;
const TABLE_DUMP_V2: u16 = 13;
const BGP4MP: u16 = 16;
const BGP4MP_ET: u16 = 17;
const ISIS_ET: u16 = 33;
const OSPFV3_ET: u16 = 49;

/// A peer of a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MrtPeer {
    /// Its address.
    pub address: IpAddr,
    /// Its AS.
    pub asn: Asn,
}

/// A route of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MrtRoute {
    /// Whose.
    pub peer: MrtPeer,
    /// To where.
    pub nlri: Nlri,
    /// `None`: an error demands that it counts as withdrawn.
    pub attributes: Option<Attributes>,
    /// Errors in its attributes (RFC 7606).
    pub errors: Vec<AttributeError>,
}

/// A message between the collector and a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MrtMessage<'a> {
    /// The peer.
    pub peer: MrtPeer,
    /// The collector sent it.
    pub local: bool,
    /// Its type.
    pub kind: MessageType,
    /// Its body.
    pub body: &'a [u8],
    /// How an UPDATE is to be read.
    pub context: Context,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MrtContent<'a> {
    /// The peers of the table that follows; so many.
    PeerIndex(usize),
    /// Routes to one prefix.
    Routes(Vec<MrtRoute>),
    /// A message.
    Message(MrtMessage<'a>),
    /// A session changed its state (RFC 4271 section 8.2.2, Idle is 1, Established 6).
    StateChange {
        /// The peer.
        peer: MrtPeer,
        /// From.
        old: u16,
        /// To.
        new: u16,
    },
    /// A record that is of no use here.
    Skipped,
}

/// Reads records; it remembers the peers of a table.
#[derive(Clone, Debug, Default)]
pub struct MrtReader {
    peers: Vec<MrtPeer>,
}

/// Errors inside of a record have no offset yet.
type Read<T> = Result<T, String>;

impl MrtReader {
    /// Decodes a record.
    ///
    /// # Errors
    /// A record that contradicts itself or is cut off. The next one can be read nevertheless.
    pub fn decode<'a>(&mut self, record: &'a MrtRecord) -> Result<MrtContent<'a>, MrtError> {
        let body = &record.body[..];
        match (record.kind, record.subtype) {
            (TABLE_DUMP, 1) => table_dump(body, Family::Ipv4),
            (TABLE_DUMP, 2) => table_dump(body, Family::Ipv6),
            (TABLE_DUMP_V2, 1) => self.peer_index(body),
            (TABLE_DUMP_V2, 2) => self.rib(body, Family::Ipv4, false),
            (TABLE_DUMP_V2, 4) => self.rib(body, Family::Ipv6, false),
            (TABLE_DUMP_V2, 8) => self.rib(body, Family::Ipv4, true),
            (TABLE_DUMP_V2, 10) => self.rib(body, Family::Ipv6, true),
            (BGP4MP | BGP4MP_ET, subtype) => bgp4mp(body, subtype),
            _ => Ok(MrtContent::Skipped),
        }
        .map_err(|text| MrtError {
            offset: record.offset,
            text,
        })
    }

    fn peer_index<'a>(&mut self, mut body: &[u8]) -> Read<MrtContent<'a>> {
        let bytes = &mut body;
        let _collector: [u8; 4] = chunk(bytes)?;
        let name = short(bytes)?;
        take(bytes, name.into())?;
        let count = short(bytes)?;
        let mut peers = Vec::with_capacity(usize::from(count).min(bytes.len() / 11));
        for _ in 0..count {
            let [kind]: [u8; 1] = chunk(bytes)?;
            let _id: [u8; 4] = chunk(bytes)?;
            let address = address(
                bytes,
                if kind & 1 == 0 {
                    Family::Ipv4
                } else {
                    Family::Ipv6
                },
            )?;
            let asn = asn(bytes, kind & 2 != 0)?;
            peers.push(MrtPeer { address, asn });
        }
        self.peers = peers;
        Ok(MrtContent::PeerIndex(self.peers.len()))
    }

    fn rib<'a>(&self, mut body: &[u8], family: Family, add_path: bool) -> Read<MrtContent<'a>> {
        let bytes = &mut body;
        let _sequence: [u8; 4] = chunk(bytes)?;
        let length = *bytes.first().ok_or_else(cut)?;
        let nlri = take(bytes, 1 + usize::from(length.div_ceil(8)))?;
        let prefix = NlriField::check(family, false, nlri)
            .map_err(|error| error.to_string())?
            .iter()
            .next()
            .ok_or_else(cut)?
            .prefix;
        let count = short(bytes)?;
        let mut routes = Vec::with_capacity(usize::from(count).min(bytes.len() / 8));
        for _ in 0..count {
            let index = short(bytes)?;
            let _originated: [u8; 4] = chunk(bytes)?;
            let path_id = if add_path {
                Some(u32::from_be_bytes(chunk(bytes)?))
            } else {
                None
            };
            let length = short(bytes)?;
            let attributes = take(bytes, length.into())?;
            let peer = *self.peers.get(usize::from(index)).ok_or_else(|| {
                format!(
                    "peer {index} of {prefix} is not in the PEER_INDEX_TABLE, which has {}",
                    self.peers.len()
                )
            })?;
            let (attributes, errors) = route_attributes(attributes, family, true);
            routes.push(MrtRoute {
                peer,
                nlri: Nlri { prefix, path_id },
                attributes,
                errors,
            });
        }
        whole(bytes)?;
        Ok(MrtContent::Routes(routes))
    }
}

fn table_dump<'a>(mut body: &[u8], family: Family) -> Read<MrtContent<'a>> {
    let bytes = &mut body;
    let _view_and_sequence: [u8; 4] = chunk(bytes)?;
    let network = address(bytes, family)?;
    let [length, _status]: [u8; 2] = chunk(bytes)?;
    let prefix = Prefix::new(network, length)
        .map_err(|_| format!("{network}/{length} is no prefix"))?
        .trunc();
    let _originated: [u8; 4] = chunk(bytes)?;
    let peer = MrtPeer {
        address: address(bytes, family)?,
        asn: asn(bytes, false)?,
    };
    let length = short(bytes)?;
    let (attributes, errors) = route_attributes(take(bytes, length.into())?, family, false);
    whole(bytes)?;
    Ok(MrtContent::Routes(vec![MrtRoute {
        peer,
        nlri: prefix.into(),
        attributes,
        errors,
    }]))
}

/// Attributes as a table has them. MP_REACH_NLRI has nothing but the next hop (RFC 6396 section
/// 4.3.4), or, as older tools write it, all of its fields: the first octet is 0 only then. Some leave
/// the next hop out (BIRD); the route is in the table nevertheless, its next hop unspecified.
fn route_attributes(
    bytes: &[u8],
    family: Family,
    four_octet_as: bool,
) -> (Option<Attributes>, Vec<AttributeError>) {
    let context = Context {
        four_octet_as,
        // The collector's own AS is not known: nothing is discarded for it.
        internal: true,
        families: Families::BOTH,
        ..Context::default()
    };
    let mut walked = attributes::walk(bytes, &context);
    let own = walked.next_hop.filter(|_| family == Family::Ipv4);
    let mut next_hop = own.map(IpAddr::V4);
    let mut link_local = None;
    if let Some(reach) = walked.mp_reach {
        let hop = match reach.value {
            [0, _, _, length, rest @ ..] | [length, rest @ ..] => {
                rest.get(..usize::from(*length)).unwrap_or_default()
            }
            [] => &[],
        };
        if let Some(octets) = hop.first_chunk::<16>() {
            next_hop = Some(IpAddr::from(*octets));
            link_local = hop
                .get(16..)
                .and_then(<[u8]>::first_chunk::<16>)
                .map(|octets| Ipv6Addr::from(*octets))
                .filter(Ipv6Addr::is_unicast_link_local);
        } else if let Some(octets) = hop.first_chunk::<4>() {
            next_hop = Some(IpAddr::from(*octets));
        }
    }
    let path = walked.as_path.as_deref();
    let path = path.and_then(|path| AsPath::decode(path, true).ok());
    let origin = walked.origin;
    let mut missing = |attribute: u8, absent: bool| {
        if absent && !walked.seen.contains(attribute) {
            let text = "is mandatory and missing";
            let level = ErrorLevel::TreatAsWithdraw;
            walked.error(attribute, level, subcode::MISSING_WELL_KNOWN, &[], text);
        }
    };
    missing(kind::ORIGIN, origin.is_none());
    missing(kind::AS_PATH, path.is_none());
    let sound = walked
        .worst
        .is_none_or(|(level, ..)| level == ErrorLevel::Discard);
    let attributes = || {
        Some(Attributes {
            origin: origin?,
            as_path: path?,
            next_hop: next_hop.unwrap_or(match family {
                Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            }),
            link_local,
            other: walked.other_bytes(),
        })
    };
    let attributes = if sound { attributes() } else { None };
    (attributes, walked.errors)
}

fn bgp4mp(mut body: &[u8], subtype: u16) -> Read<MrtContent<'_>> {
    // RFC 6396 section 4.4, RFC 8050 section 3.
    let (four_octet_as, local, add_path) = match subtype {
        0 | 1 => (false, false, false),
        4 | 5 => (true, false, false),
        6 => (false, true, false),
        7 => (true, true, false),
        8 => (false, false, true),
        9 => (true, false, true),
        10 => (false, true, true),
        11 => (true, true, true),
        _ => return Ok(MrtContent::Skipped),
    };
    let bytes = &mut body;
    let (peer_as, local_as) = (asn(bytes, four_octet_as)?, asn(bytes, four_octet_as)?);
    let _interface: [u8; 2] = chunk(bytes)?;
    let family = match short(bytes)? {
        1 => Family::Ipv4,
        2 => Family::Ipv6,
        other => return Err(format!("address family {other} is unknown")),
    };
    let peer = MrtPeer {
        address: address(bytes, family)?,
        asn: peer_as,
    };
    let _local = address(bytes, family)?;
    if matches!(subtype, 0 | 5) {
        let (old, new) = (short(bytes)?, short(bytes)?);
        return Ok(MrtContent::StateChange { peer, old, new });
    }
    let (kind, body, rest) = frame::split(bytes)
        .map_err(|fault| fault.text)?
        .ok_or_else(|| "the BGP message is cut off".to_owned())?;
    if !rest.is_empty() {
        return Err(format!(
            "there are {} octets after the BGP message",
            rest.len()
        ));
    }
    let mut context = Context {
        four_octet_as,
        internal: peer_as == local_as,
        families: Families::BOTH,
        extended_next_hop: true,
        ..Context::default()
    };
    if add_path {
        context.add_path = Families::BOTH;
    }
    Ok(MrtContent::Message(MrtMessage {
        peer,
        local,
        kind,
        body,
        context,
    }))
}

fn cut() -> String {
    "it is cut off".to_owned()
}

fn whole(bytes: &[u8]) -> Read<()> {
    if bytes.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "there are {} octets after its last field",
            bytes.len()
        ))
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Read<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or_else(cut)?;
    *bytes = rest;
    Ok(taken)
}

fn chunk<const N: usize>(bytes: &mut &[u8]) -> Read<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>().ok_or_else(cut)?;
    *bytes = rest;
    Ok(*taken)
}

fn short(bytes: &mut &[u8]) -> Read<u16> {
    chunk(bytes).map(u16::from_be_bytes)
}

fn asn(bytes: &mut &[u8], four_octets: bool) -> Read<Asn> {
    if four_octets {
        chunk(bytes).map(u32::from_be_bytes).map(Asn)
    } else {
        short(bytes).map(|number| Asn(number.into()))
    }
}

fn address(bytes: &mut &[u8], family: Family) -> Read<IpAddr> {
    match family {
        Family::Ipv4 => Ok(IpAddr::V4(Ipv4Addr::from(chunk::<4>(bytes)?))),
        Family::Ipv6 => Ok(IpAddr::V6(Ipv6Addr::from(chunk::<16>(bytes)?))),
    }
}
