//! The RPKI to Router protocol (RFC 8210, version 1; RFC 6810, version 0): PDUs, and a router's side
//! of a session with a cache.

mod client;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use events::{Asn, Prefix};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::validation::Vrp;

pub use client::{RtrClient, RtrStep};

/// The port of the protocol without transport protection (RFC 8210 section 14).
pub const RTR_PORT: u16 = 323;
/// No PDU of ours or of a sane cache is longer; the protocol's own limit is 2^32.
const MAX_LENGTH: usize = 64 * 1024;
const HEADER: usize = 8;

/// Codes of Error Reports (RFC 8210 section 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RtrErrorCode {
    CorruptData,
    InternalError,
    NoDataAvailable,
    InvalidRequest,
    UnsupportedVersion,
    UnsupportedPduType,
    WithdrawalOfUnknown,
    DuplicateAnnouncement,
    UnexpectedVersion,
    /// One that is not registered.
    Other(u16),
}

impl RtrErrorCode {
    const ALL: [Self; 9] = [
        Self::CorruptData,
        Self::InternalError,
        Self::NoDataAvailable,
        Self::InvalidRequest,
        Self::UnsupportedVersion,
        Self::UnsupportedPduType,
        Self::WithdrawalOfUnknown,
        Self::DuplicateAnnouncement,
        Self::UnexpectedVersion,
    ];

    fn from_wire(code: u16) -> Self {
        let known = Self::ALL.get(usize::from(code)).copied();
        known.unwrap_or(Self::Other(code))
    }

    fn to_wire(self) -> u16 {
        match self {
            Self::Other(code) => code,
            known => {
                let place = Self::ALL.iter().position(|code| *code == known);
                place.and_then(|code| u16::try_from(code).ok()).unwrap_or(0)
            }
        }
    }
}

/// Times that a cache sets at the end of its data (RFC 8210 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtrIntervals {
    /// Between two queries.
    pub refresh: Duration,
    /// Between two attempts, where one failed.
    pub retry: Duration,
    /// How long data is used without being confirmed.
    pub expire: Duration,
}

impl Default for RtrIntervals {
    fn default() -> Self {
        Self {
            refresh: Duration::from_hours(1),
            retry: Duration::from_mins(10),
            expire: Duration::from_hours(2),
        }
    }
}

impl RtrIntervals {
    fn from_wire(refresh: u32, retry: u32, expire: u32) -> Self {
        let bounded = |value: u32, low, high| Duration::from_secs(value.clamp(low, high).into());
        Self {
            refresh: bounded(refresh, 1, 86_400),
            retry: bounded(retry, 1, 7_200),
            expire: bounded(expire, 600, 172_800),
        }
    }
}

/// A protocol data unit (RFC 8210 section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RtrPdu {
    SerialNotify {
        session: u16,
        serial: u32,
    },
    SerialQuery {
        session: u16,
        serial: u32,
    },
    ResetQuery,
    CacheResponse {
        session: u16,
    },
    /// An IPv4 or IPv6 prefix.
    Prefix {
        announce: bool,
        vrp: Vrp,
    },
    EndOfData {
        session: u16,
        serial: u32,
        intervals: RtrIntervals,
    },
    CacheReset,
    /// For BGPsec; passed over.
    RouterKey,
    ErrorReport {
        code: RtrErrorCode,
        text: String,
    },
}

/// Bytes that are no PDU, and what to tell the cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("RTR: {text}")]
pub struct RtrError {
    /// What to report.
    pub code: RtrErrorCode,
    /// What is wrong.
    pub text: String,
}

impl RtrError {
    fn new(code: RtrErrorCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

impl RtrPdu {
    /// The first PDU of the bytes, its version and length; `None` where it has not all come yet.
    ///
    /// # Errors
    /// Lengths or fields that no PDU has, an unknown version or type.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, u8, usize)>, RtrError> {
        let corrupt = |text: &str| RtrError::new(RtrErrorCode::CorruptData, text);
        let Some(&[version, kind, high, low, a, b, c, d]) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if version > 1 {
            let text = format!("version {version} is not spoken");
            return Err(RtrError::new(RtrErrorCode::UnsupportedVersion, text));
        }
        if !(HEADER..=MAX_LENGTH).contains(&length) {
            return Err(corrupt("the length of a PDU is impossible"));
        }
        let Some(body) = bytes.get(HEADER..length) else {
            return Ok(None);
        };
        let field = u16::from_be_bytes([high, low]);
        let wrong = || corrupt(&format!("a PDU of type {kind} has length {length}"));
        let serial = || Ok(u32::from_be_bytes(body.try_into().map_err(|_| wrong())?));
        let empty = || body.is_empty().then_some(()).ok_or_else(wrong);
        let pdu = match kind {
            0 => Self::SerialNotify {
                session: field,
                serial: serial()?,
            },
            1 => Self::SerialQuery {
                session: field,
                serial: serial()?,
            },
            2 => empty().map(|()| Self::ResetQuery)?,
            3 => empty().map(|()| Self::CacheResponse { session: field })?,
            4 => {
                let body: &[u8; 12] = body.try_into().map_err(|_| wrong())?;
                let &[flags, length, max, _, a, b, c, d, asn @ ..] = body;
                let prefix = Ipv4Net::new(Ipv4Addr::new(a, b, c, d), length).ok();
                prefix_pdu(flags, prefix.map(Prefix::V4), max, asn)?
            }
            6 => {
                let body: &[u8; 24] = body.try_into().map_err(|_| wrong())?;
                let &[flags, length, max, _, ref rest @ ..] = body;
                let (address, asn) = (rest.first_chunk::<16>(), rest.last_chunk::<4>());
                let (Some(address), Some(asn)) = (address, asn) else {
                    return Err(wrong());
                };
                let prefix = Ipv6Net::new(Ipv6Addr::from(*address), length).ok();
                prefix_pdu(flags, prefix.map(Prefix::V6), max, *asn)?
            }
            7 => {
                let (words, rest) = body.as_chunks::<4>();
                let mut words = words.iter().map(|word| u32::from_be_bytes(*word));
                let (serial, rest) = match (words.next(), rest.is_empty()) {
                    (Some(serial), true) => (serial, words.collect::<Vec<_>>()),
                    _ => return Err(wrong()),
                };
                let intervals = match (version, rest.as_slice()) {
                    (0, []) => RtrIntervals::default(),
                    (1, &[refresh, retry, expire]) => {
                        RtrIntervals::from_wire(refresh, retry, expire)
                    }
                    _ => return Err(wrong()),
                };
                Self::EndOfData {
                    session: field,
                    serial,
                    intervals,
                }
            }
            8 => empty().map(|()| Self::CacheReset)?,
            9 if version == 1 => Self::RouterKey,
            10 => Self::ErrorReport {
                code: RtrErrorCode::from_wire(field),
                text: error_text(body).ok_or_else(wrong)?,
            },
            _ => {
                let text = format!("PDU type {kind} is unknown");
                return Err(RtrError::new(RtrErrorCode::UnsupportedPduType, text));
            }
        };
        Ok(Some((pdu, version, length)))
    }

    /// The bytes of a PDU that a router sends, and of those that a cache does but for Router Keys.
    #[must_use]
    pub fn encode(&self, version: u8) -> Vec<u8> {
        let mut body = Vec::new();
        let (kind, field) = match self {
            Self::SerialNotify { session, serial } => {
                body.extend_from_slice(&serial.to_be_bytes());
                (0, *session)
            }
            Self::SerialQuery { session, serial } => {
                body.extend_from_slice(&serial.to_be_bytes());
                (1, *session)
            }
            Self::ResetQuery => (2, 0),
            Self::CacheResponse { session } => (3, *session),
            Self::Prefix { announce, vrp } => {
                body.extend_from_slice(&[
                    u8::from(*announce),
                    vrp.prefix.prefix_len(),
                    vrp.max_length,
                    0,
                ]);
                let kind = match vrp.prefix {
                    Prefix::V4(prefix) => {
                        body.extend_from_slice(&prefix.network().octets());
                        4
                    }
                    Prefix::V6(prefix) => {
                        body.extend_from_slice(&prefix.network().octets());
                        6
                    }
                };
                body.extend_from_slice(&vrp.asn.0.to_be_bytes());
                (kind, 0)
            }
            Self::EndOfData {
                session,
                serial,
                intervals,
            } => {
                body.extend_from_slice(&serial.to_be_bytes());
                if version > 0 {
                    for time in [intervals.refresh, intervals.retry, intervals.expire] {
                        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
                        body.extend_from_slice(&seconds.to_be_bytes());
                    }
                }
                (7, *session)
            }
            Self::CacheReset => (8, 0),
            Self::RouterKey => (9, 0),
            Self::ErrorReport { code, text } => {
                body.extend_from_slice(&[0; 4]);
                let text: String = text.chars().take(200).collect();
                let length = u32::try_from(text.len()).unwrap_or(0);
                body.extend_from_slice(&length.to_be_bytes());
                body.extend_from_slice(text.as_bytes());
                (10, code.to_wire())
            }
        };
        let mut bytes = vec![version, kind];
        bytes.extend_from_slice(&u16::to_be_bytes(field));
        let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }
}

fn prefix_pdu(
    flags: u8,
    prefix: Option<Prefix>,
    max_length: u8,
    asn: [u8; 4],
) -> Result<RtrPdu, RtrError> {
    let asn = Asn(u32::from_be_bytes(asn));
    let vrp = prefix.and_then(|prefix| Vrp::new(prefix, max_length, asn));
    let text = "a prefix, its length and its longest length do not fit together";
    Ok(RtrPdu::Prefix {
        announce: flags & 1 != 0,
        vrp: vrp.ok_or_else(|| RtrError::new(RtrErrorCode::CorruptData, text))?,
    })
}

/// The text behind the erroneous PDU.
fn error_text(body: &[u8]) -> Option<String> {
    let counted = |bytes: &[u8]| -> Option<(Vec<u8>, Vec<u8>)> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (field, rest) = rest.split_at_checked(length)?;
        Some((field.to_vec(), rest.to_vec()))
    };
    let (_, rest) = counted(body)?;
    let (text, _) = counted(&rest)?;
    let text = String::from_utf8_lossy(&text);
    Some(text.chars().filter(|c| !c.is_control()).take(200).collect())
}

#[cfg(test)]
mod tests;
