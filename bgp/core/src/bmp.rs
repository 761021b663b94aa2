//! BMP (RFC 7854, RFC 8671, RFC 9069) on the wire: a byte stream cut into messages, and what they
//! say.
//!
//! Version 4 (draft-ietf-grow-bmp-tlv) is read as far as routers send it today: its Route Monitoring
//! is a list of TLVs, one of which is the UPDATE.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{Buf, Bytes, BytesMut};
use events::{Asn, RibView};
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::frame::{self, MessageType};
use crate::nlri::Families;
use crate::notification::Notification;
use crate::open::{self, Open};

/// Version, length and type (RFC 7854 section 4.1).
pub const HEADER_LENGTH: usize = 6;
/// Longer messages are refused. The longest that is of use is Peer Up with two OPENs; a Route
/// Mirroring may hold some messages of 65535 octets.
pub const MAX_LENGTH: usize = 1024 * 1024;
/// The per-peer header (RFC 7854 section 4.2).
const PEER_HEADER: usize = 42;
/// TLVs of text that are kept of a message.
const MAX_INFORMATION: usize = 32;
/// Octets that are kept of a text.
const MAX_TEXT: usize = 512;

/// Why a BMP stream cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BmpError(pub(crate) String);

impl BmpError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// One message without its common header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BmpFrame {
    /// 3, or 4 (the draft).
    pub version: u8,
    /// Its type.
    pub kind: u8,
    /// What follows the header.
    pub body: Bytes,
}

/// Cuts a byte stream into messages. Holds at most one incomplete message besides what was pushed.
#[derive(Debug, Default)]
pub struct BmpFramer {
    buffer: BytesMut,
}

impl BmpFramer {
    /// Appends bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes wait for the rest of their message.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole message; `None` until more bytes come.
    ///
    /// # Errors
    /// A header that cannot be, as soon as it is there. The stream cannot be continued after one.
    pub fn next_frame(&mut self) -> Result<Option<BmpFrame>, BmpError> {
        let Some(&version) = self.buffer.first() else {
            return Ok(None);
        };
        if !matches!(version, 3 | 4) {
            return Err(BmpError::new(format!(
                "BMP version {version} is not supported, only 3 (and 4, the draft)"
            )));
        }
        let Some(&[_, a, b, c, d, kind]) = self.buffer.first_chunk::<HEADER_LENGTH>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if !(HEADER_LENGTH..=MAX_LENGTH).contains(&length) {
            return Err(BmpError::new(format!(
                "a BMP message says that it has {length} octets; {HEADER_LENGTH} to {MAX_LENGTH} are possible"
            )));
        }
        if self.buffer.len() < length {
            return Ok(None);
        }
        let mut message = self.buffer.split_to(length);
        message.advance(HEADER_LENGTH);
        Ok(Some(BmpFrame {
            version,
            kind,
            body: message.freeze(),
        }))
    }
}

/// Which instance of the router a message is about (RFC 7854 section 4.2, RFC 9069 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerType {
    /// A peer of the global instance.
    Global,
    /// A peer of a VRF: the distinguisher is its route distinguisher.
    Rd,
    /// A peer of a local instance.
    Local,
    /// The Loc-RIB of an instance.
    LocRib,
}

/// The per-peer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerHeader {
    /// Its instance.
    pub kind: PeerType,
    /// Peer Distinguisher; 0 for the global instance.
    pub distinguisher: u64,
    /// Its address; unspecified for a Loc-RIB.
    pub address: IpAddr,
    /// Its AS.
    pub asn: Asn,
    /// Its BGP identifier.
    pub bgp_id: Ipv4Addr,
    /// Which table.
    pub view: RibView,
    /// AS_PATHs are in two octets (the A flag).
    pub two_octet_as: bool,
    /// The Loc-RIB is filtered (the F flag, RFC 9069).
    pub filtered: bool,
    /// When the router learnt it, in microseconds since 1970; 0: it does not say.
    pub microseconds: u64,
}

impl PeerHeader {
    fn decode(bytes: &[u8; PEER_HEADER]) -> Result<Self, BmpError> {
        let mut cursor = Cursor(bytes);
        let (kind, flags) = (cursor.octet()?, cursor.octet()?);
        let kind = match kind {
            0 => PeerType::Global,
            1 => PeerType::Rd,
            2 => PeerType::Local,
            3 => PeerType::LocRib,
            other => return Err(BmpError::new(format!("peer type {other} is unknown"))),
        };
        let distinguisher = u64::from_be_bytes(cursor.chunk()?);
        let address: [u8; 16] = cursor.chunk()?;
        let asn = Asn(cursor.long()?);
        let bgp_id = Ipv4Addr::from(cursor.chunk::<4>()?);
        let seconds = u64::from(cursor.long()?);
        let microseconds = u64::from(cursor.long()?);
        let loc = kind == PeerType::LocRib;
        let set = |bit: u8| flags & bit != 0;
        let [.., a, b, c, d] = address;
        Ok(Self {
            kind,
            distinguisher,
            // RFC 9069 section 4.2: the Loc-RIB's header has no V, L, A and O; its address is zero.
            address: if !loc && set(0x80) {
                IpAddr::V6(Ipv6Addr::from(address))
            } else {
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            },
            asn,
            bgp_id,
            view: match (loc, set(0x10), set(0x40)) {
                (true, ..) => RibView::Loc,
                (_, false, false) => RibView::InPrePolicy,
                (_, false, true) => RibView::InPostPolicy,
                (_, true, false) => RibView::OutPrePolicy,
                (_, true, true) => RibView::OutPostPolicy,
            },
            two_octet_as: !loc && set(0x20),
            filtered: loc && set(0x80),
            microseconds: seconds * 1_000_000 + microseconds,
        })
    }
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BmpMessage<'a> {
    /// An UPDATE of a peer's table.
    RouteMonitoring(Monitored<'a>),
    /// Figures of a peer.
    Statistics {
        /// Whose.
        peer: PeerHeader,
        /// Them.
        statistics: Vec<Statistic>,
    },
    /// A peer's session ended.
    PeerDown {
        /// Whose.
        peer: PeerHeader,
        /// Why.
        reason: PeerDownReason,
    },
    /// A peer's session is established, or it is told of for the first time.
    PeerUp(Box<PeerUp>),
    /// What the router says of itself.
    Initiation(Vec<Information>),
    /// The router ends its BMP session.
    Termination {
        /// Reason (RFC 7854 section 4.5), where there is one.
        reason: Option<u16>,
        /// What it says besides.
        information: Vec<Information>,
    },
    /// Verbatim messages of a peer (RFC 7854 section 4.7); they are not read.
    RouteMirroring(PeerHeader),
    /// A type that is not known, to be passed over (RFC 7854 section 4.1).
    Unknown(u8),
}

/// An UPDATE that a router tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitored<'a> {
    /// Whose.
    pub peer: PeerHeader,
    /// The body of the UPDATE.
    pub update: &'a [u8],
    /// Families whose NLRI has path identifiers, where the message itself says so (version 4).
    pub add_path: Option<Families>,
    /// The table's name (version 4).
    pub table: Option<String>,
}

/// A peer's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUp {
    /// Whose.
    pub peer: PeerHeader,
    /// The router's address in the session; unspecified for a Loc-RIB.
    pub local_address: IpAddr,
    /// The router's port.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
    /// The OPEN that the router sent.
    pub sent: Open,
    /// The OPEN that it received.
    pub received: Open,
    /// What is said besides.
    pub information: Vec<Information>,
}

/// A TLV of text (RFC 7854 section 4.4, RFC 9069 section 5.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Information {
    /// Free text.
    Text(String),
    /// sysDescr.
    SystemDescription(String),
    /// sysName.
    SystemName(String),
    /// VRF or table name.
    TableName(String),
    /// Any other, by its type.
    Other(u16),
}

/// A figure of a Statistics Report (RFC 7854 section 4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistic {
    /// Its type in the IANA registry.
    pub kind: u16,
    /// AFI and SAFI, for those that are counted by family.
    pub family: Option<(u16, u8)>,
    /// The counter or gauge.
    pub value: u64,
}

impl Statistic {
    /// Its name; `None` for types that are not known.
    #[must_use]
    pub const fn name(&self) -> Option<&'static str> {
        Some(match self.kind {
            0 => "prefixes rejected by inbound policy",
            1 => "duplicate prefix advertisements",
            2 => "duplicate withdraws",
            3 => "updates invalidated due to CLUSTER_LIST loop",
            4 => "updates invalidated due to AS_PATH loop",
            5 => "updates invalidated due to ORIGINATOR_ID",
            6 => "updates invalidated due to AS_CONFED loop",
            7 => "routes in Adj-RIB-In",
            8 => "routes in Loc-RIB",
            9 => "routes in Adj-RIB-In of a family",
            10 => "routes in Loc-RIB of a family",
            11 => "updates subjected to treat-as-withdraw",
            12 => "prefixes subjected to treat-as-withdraw",
            13 => "duplicate updates received",
            14 => "routes in pre-policy Adj-RIB-Out",
            15 => "routes in post-policy Adj-RIB-Out",
            16 => "routes in pre-policy Adj-RIB-Out of a family",
            17 => "routes in post-policy Adj-RIB-Out of a family",
            _ => return None,
        })
    }
}

/// Why a peer's session ended (RFC 7854 section 4.9, RFC 9069 section 5.3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerDownReason {
    /// 1: the router sent a NOTIFICATION.
    #[error("the router sent NOTIFICATION {}/{} ({})", .0.code, .0.subcode, .0.name())]
    LocalNotification(Notification),
    /// 2: the router closed it without one, after this event of its state machine (RFC 4271
    /// section 8.1).
    #[error("the router closed it, FSM event {0}")]
    LocalNoNotification(u16),
    /// 3: the peer sent a NOTIFICATION.
    #[error("the peer sent NOTIFICATION {}/{} ({})", .0.code, .0.subcode, .0.name())]
    RemoteNotification(Notification),
    /// 4: the peer closed it without one.
    #[error("the peer closed it without a NOTIFICATION")]
    RemoteNoNotification,
    /// 5: the router no longer tells of it.
    #[error("the router no longer monitors it")]
    Deconfigured,
    /// 6: the router's own session, with the table's name (RFC 9069).
    #[error("the router's local table ended")]
    LocalSystemClosed,
    /// Any other.
    #[error("reason {0}")]
    Other(u8),
}

/// Decodes a message.
///
/// # Errors
/// A message that is cut off or contradicts itself. Nothing that follows can be trusted.
pub fn decode(frame: &BmpFrame) -> Result<BmpMessage<'_>, BmpError> {
    let name = match frame.kind {
        0 => "Route Monitoring",
        1 => "Statistics Report",
        2 => "Peer Down",
        3 => "Peer Up",
        4 => return Ok(BmpMessage::Initiation(information(&frame.body)?)),
        5 => return termination(&frame.body),
        6 => "Route Mirroring",
        other => return Ok(BmpMessage::Unknown(other)),
    };
    let in_message = |error: BmpError| BmpError::new(format!("{name}: {error}"));
    let (header, rest) = frame
        .body
        .split_first_chunk::<PEER_HEADER>()
        .ok_or_else(|| BmpError::new(format!("{name}: the per-peer header is cut off")))?;
    let peer = PeerHeader::decode(header).map_err(in_message)?;
    match frame.kind {
        0 => monitoring(peer, rest, frame.version),
        1 => statistics(peer, rest),
        2 => peer_down(peer, rest),
        3 => peer_up(peer, rest),
        _ => Ok(BmpMessage::RouteMirroring(peer)),
    }
    .map_err(in_message)
}

fn monitoring(peer: PeerHeader, bytes: &[u8], version: u8) -> Result<BmpMessage<'_>, BmpError> {
    let mut monitored = Monitored {
        peer,
        update: &[],
        add_path: None,
        table: None,
    };
    if version == 3 {
        monitored.update = update(bytes)?;
        return Ok(BmpMessage::RouteMonitoring(monitored));
    }
    // Type, length, and the index of the NLRI that the TLV is about; only 0, all of them, is there
    // for what is read here.
    let mut cursor = Cursor(bytes);
    let mut found = None;
    while !cursor.0.is_empty() {
        let (kind, length, _index) = (cursor.short()?, cursor.short()?, cursor.short()?);
        let value = cursor.take(length.into())?;
        match kind {
            // Stateless parsing: capabilities as in an OPEN.
            1 => monitored.add_path = stateless_add_path(peer, value).or(monitored.add_path),
            3 => monitored.table = Some(text(value)),
            4 if found.is_none() => found = Some(update(value)?),
            4 => return Err(BmpError::new("there are two UPDATEs")),
            _ => {}
        }
    }
    monitored.update = found.ok_or_else(|| BmpError::new("there is no UPDATE"))?;
    Ok(BmpMessage::RouteMonitoring(monitored))
}

/// ADD-PATH as the router has it towards the peer: what it receives is in Adj-RIB-In, what it sends
/// in Adj-RIB-Out.
fn stateless_add_path(peer: PeerHeader, value: &[u8]) -> Option<Families> {
    let [69, length, entries @ ..] = value else {
        return None;
    };
    let entries = entries.get(..usize::from(*length))?;
    let bit = match peer.view {
        RibView::InPrePolicy | RibView::InPostPolicy => 1,
        RibView::OutPrePolicy | RibView::OutPostPolicy => 2,
        RibView::Loc => 3,
    };
    let mut families = Families::NONE;
    for [high, low, safi, mode] in entries.as_chunks::<4>().0 {
        let family = crate::Family::from_wire(u16::from_be_bytes([*high, *low]), *safi);
        if let Some(family) = family
            && mode & bit != 0
        {
            families.insert(family);
        }
    }
    Some(families)
}

/// The body of the one UPDATE that fills `bytes`.
fn update(bytes: &[u8]) -> Result<&[u8], BmpError> {
    match pdu(bytes)? {
        (MessageType::Update, body, []) => Ok(body),
        (MessageType::Update, ..) => Err(BmpError::new("there are octets after the UPDATE")),
        (other, ..) => Err(BmpError::new(format!(
            "there is {other:?} instead of an UPDATE"
        ))),
    }
}

fn pdu(bytes: &[u8]) -> Result<frame::Inner<'_>, BmpError> {
    frame::split(bytes)
        .map_err(|fault: Fault| BmpError::new(format!("the BGP message: {}", fault.text)))?
        .ok_or_else(|| BmpError::new("the BGP message is cut off"))
}

fn statistics(peer: PeerHeader, bytes: &[u8]) -> Result<BmpMessage<'_>, BmpError> {
    let mut cursor = Cursor(bytes);
    let count = cursor.long()?;
    let mut statistics = Vec::new();
    for _ in 0..count {
        let (kind, length) = (cursor.short()?, cursor.short()?);
        let value = cursor.take(length.into())?;
        let (family, value) = match *value {
            [a, b, safi, ref rest @ ..] if rest.len() == 8 => {
                (Some((u16::from_be_bytes([a, b]), safi)), rest)
            }
            _ => (None, value),
        };
        // Other lengths belong to types that are not known.
        if matches!(value.len(), 4 | 8) && statistics.len() < MAX_INFORMATION {
            let value = value
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            statistics.push(Statistic {
                kind,
                family,
                value,
            });
        }
    }
    Ok(BmpMessage::Statistics { peer, statistics })
}

fn peer_down(peer: PeerHeader, bytes: &[u8]) -> Result<BmpMessage<'_>, BmpError> {
    let mut cursor = Cursor(bytes);
    let number = cursor.octet()?;
    let notification = || match pdu(cursor.0)? {
        (MessageType::Notification, body, _) => Notification::decode(body)
            .map_err(|fault| BmpError::new(format!("the NOTIFICATION: {}", fault.text))),
        (other, ..) => Err(BmpError::new(format!(
            "there is {other:?} instead of a NOTIFICATION"
        ))),
    };
    let reason = match number {
        1 => PeerDownReason::LocalNotification(notification()?),
        2 => PeerDownReason::LocalNoNotification(cursor.short()?),
        3 => PeerDownReason::RemoteNotification(notification()?),
        4 => PeerDownReason::RemoteNoNotification,
        5 => PeerDownReason::Deconfigured,
        6 => PeerDownReason::LocalSystemClosed,
        other => PeerDownReason::Other(other),
    };
    Ok(BmpMessage::PeerDown { peer, reason })
}

fn peer_up(peer: PeerHeader, bytes: &[u8]) -> Result<BmpMessage<'_>, BmpError> {
    let mut cursor = Cursor(bytes);
    let address: [u8; 16] = cursor.chunk()?;
    let [.., a, b, c, d] = address;
    let local_address = if peer.address.is_ipv6() {
        IpAddr::V6(Ipv6Addr::from(address))
    } else {
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    let (local_port, remote_port) = (cursor.short()?, cursor.short()?);
    let mut open = || match pdu(cursor.0)? {
        (MessageType::Open, body, rest) => {
            cursor.0 = rest;
            open::decode(body).map_err(|fault| BmpError::new(format!("the OPEN: {}", fault.text)))
        }
        (other, ..) => Err(BmpError::new(format!(
            "there is {other:?} instead of an OPEN"
        ))),
    };
    let (sent, received) = (open()?, open()?);
    Ok(BmpMessage::PeerUp(Box::new(PeerUp {
        peer,
        local_address,
        local_port,
        remote_port,
        sent,
        received,
        information: information(cursor.0)?,
    })))
}

fn termination(bytes: &[u8]) -> Result<BmpMessage<'_>, BmpError> {
    let mut reason = None;
    let mut information = Vec::new();
    tlvs("Termination", bytes, |kind, value| {
        match (kind, value) {
            (0, value) => information.push(Information::Text(text(value))),
            (1, [high, low]) => reason = Some(u16::from_be_bytes([*high, *low])),
            _ => information.push(Information::Other(kind)),
        }
        information.truncate(MAX_INFORMATION);
    })?;
    Ok(BmpMessage::Termination {
        reason,
        information,
    })
}

fn information(bytes: &[u8]) -> Result<Vec<Information>, BmpError> {
    let mut information = Vec::new();
    tlvs("information", bytes, |kind, value| {
        if information.len() < MAX_INFORMATION {
            information.push(match kind {
                0 => Information::Text(text(value)),
                1 => Information::SystemDescription(text(value)),
                2 => Information::SystemName(text(value)),
                3 => Information::TableName(text(value)),
                other => Information::Other(other),
            });
        }
    })?;
    Ok(information)
}

fn tlvs(what: &str, bytes: &[u8], mut each: impl FnMut(u16, &[u8])) -> Result<(), BmpError> {
    let mut cursor = Cursor(bytes);
    while !cursor.0.is_empty() {
        let mut tlv = || {
            let (kind, length) = (cursor.short()?, cursor.short()?);
            Ok((kind, cursor.take(length.into())?))
        };
        let (kind, value) =
            tlv().map_err(|error: BmpError| BmpError::new(format!("{what}: {error}")))?;
        each(kind, value);
    }
    Ok(())
}

/// Text of a router, to be shown and logged: without control characters, and not too long.
fn text(value: &[u8]) -> String {
    let value = value.get(..MAX_TEXT).unwrap_or(value);
    String::from_utf8_lossy(value)
        .chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .collect()
}

/// Octets that are still to be read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BmpError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| BmpError::new("it is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], BmpError> {
        let cut = || BmpError::new("it is cut off");
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or_else(cut)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn octet(&mut self) -> Result<u8, BmpError> {
        self.chunk().map(|[octet]| octet)
    }

    fn short(&mut self) -> Result<u16, BmpError> {
        self.chunk().map(u16::from_be_bytes)
    }

    fn long(&mut self) -> Result<u32, BmpError> {
        self.chunk().map(u32::from_be_bytes)
    }
}
