//! The message header (RFC 4271 section 4.1): a byte stream cut into messages.

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, code};

/// Marker, length and type.
pub const HEADER_LENGTH: usize = 19;
/// The longest message without the extended message capability (RFC 8654).
pub const MAX_LENGTH: usize = 4096;

/// The longest message with it.
pub const EXTENDED_LENGTH: usize = 65535;

const MARKER: [u8; 16] = [0xff; 16];

/// Types of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum MessageType {
    Open,
    Update,
    Notification,
    Keepalive,
    /// RFC 2918.
    RouteRefresh,
}

impl MessageType {
    /// The type with a number; `None` for others.
    #[must_use]
    pub const fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Open,
            2 => Self::Update,
            3 => Self::Notification,
            4 => Self::Keepalive,
            5 => Self::RouteRefresh,
            _ => return None,
        })
    }

    pub(crate) const fn to_wire(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    /// Shortest and longest legal length of the whole message (RFC 4271 section 4, RFC 8654
    /// section 4). That of ROUTE-REFRESH has an error of its own ([`crate::RouteRefresh`]).
    const fn lengths(self, longest: usize) -> (usize, usize) {
        match self {
            Self::Open => (29, MAX_LENGTH),
            Self::Update => (23, longest),
            Self::Notification => (21, longest),
            Self::Keepalive => (HEADER_LENGTH, HEADER_LENGTH),
            Self::RouteRefresh => (23, longest),
        }
    }
}

/// One message without its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: MessageType,
    /// What follows the header.
    pub body: Bytes,
}

/// Cuts a byte stream into messages. Holds at most one incomplete message besides what was pushed.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: BytesMut,
    extended: bool,
}

impl Framer {
    /// Appends bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes messages up to [`EXTENDED_LENGTH`] from here on: the receiver has the capability
    /// (RFC 8654 section 4). OPEN and KEEPALIVE stay as they are.
    pub const fn extend(&mut self) {
        self.extended = true;
    }

    /// How many bytes wait for the rest of their message.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// Drops what comes before the next marker, and tells how much that was; with `skip` also a
    /// message at the front whose header is wrong. For recordings, which can begin anywhere; a
    /// session ends at the first error.
    pub fn resynchronize(&mut self, skip: bool) -> usize {
        let sound = self.buffer.starts_with(&MARKER);
        let from = match (skip, sound) {
            (false, _) => 0,
            (true, true) => HEADER_LENGTH,
            (true, false) => 1,
        };
        let rest = self.buffer.get(from..).unwrap_or_default();
        let found = rest
            .windows(MARKER.len())
            .position(|window| *window == MARKER);
        // A marker that has only begun stays.
        let begun = || {
            rest.iter()
                .rev()
                .take_while(|octet| **octet == 0xff)
                .count()
        };
        let dropped = match found {
            Some(at) => from + at,
            None => self.buffer.len() - begun().min(MARKER.len() - 1).min(rest.len()),
        };
        self.buffer.advance(dropped);
        dropped
    }

    /// The next whole message; `None` until more bytes come.
    ///
    /// # Errors
    /// A Message Header Error (RFC 4271 section 6.1), as soon as the header shows it. The stream
    /// cannot be continued after one.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Fault> {
        let Some(header) = self.buffer.first_chunk::<HEADER_LENGTH>() else {
            return Ok(None);
        };
        let (length, kind) = check_header(header, self.extended)?;
        if self.buffer.len() < length {
            return Ok(None);
        }
        let mut message = self.buffer.split_to(length);
        message.advance(HEADER_LENGTH);
        Ok(Some(Frame {
            kind,
            body: message.freeze(),
        }))
    }
}

/// Type and body of a message, and what follows it.
pub(crate) type Inner<'a> = (MessageType, &'a [u8], &'a [u8]);

/// The first message of `bytes`, whatever was negotiated about its length, and what follows it; for
/// messages inside of others. `None`: it is cut off.
///
/// # Errors
/// A Message Header Error.
pub(crate) fn split(bytes: &[u8]) -> Result<Option<Inner<'_>>, Fault> {
    let Some(header) = bytes.first_chunk::<HEADER_LENGTH>() else {
        return Ok(None);
    };
    let (length, kind) = check_header(header, true)?;
    let Some((message, rest)) = bytes.split_at_checked(length) else {
        return Ok(None);
    };
    let body = message.get(HEADER_LENGTH..).unwrap_or_default();
    Ok(Some((kind, body, rest)))
}

fn check_header(
    header: &[u8; HEADER_LENGTH],
    extended: bool,
) -> Result<(usize, MessageType), Fault> {
    let [marker @ .., high, low, number] = header;
    if *marker != MARKER {
        return Err(Fault::new(
            code::HEADER,
            1,
            "the message's marker is not all ones",
        ));
    }
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let Some(kind) = MessageType::from_wire(*number) else {
        return Err(
            Fault::new(code::HEADER, 3, format!("message type {number} is unknown"))
                .with_data(&[*number]),
        );
    };
    let (shortest, longest) = kind.lengths(if extended {
        EXTENDED_LENGTH
    } else {
        MAX_LENGTH
    });
    if length < shortest || length > longest {
        return Err(Fault::new(
            code::HEADER,
            2,
            format!("length {length} is impossible for {kind:?} ({shortest} to {longest})"),
        )
        .with_data(&[*high, *low]));
    }
    Ok((length, kind))
}

/// A whole message. `body` must be short enough for [`MAX_LENGTH`]; longer ones are cut.
#[must_use]
pub fn encode(kind: MessageType, body: &[u8]) -> Vec<u8> {
    let body = body.get(..MAX_LENGTH - HEADER_LENGTH).unwrap_or(body);
    let mut message = Vec::with_capacity(HEADER_LENGTH + body.len());
    message.extend_from_slice(&MARKER);
    let length = u16::try_from(HEADER_LENGTH + body.len()).unwrap_or(u16::MAX);
    message.extend_from_slice(&length.to_be_bytes());
    message.push(kind.to_wire());
    message.extend_from_slice(body);
    message
}

/// A NOTIFICATION for a fault.
#[must_use]
pub fn encode_notification(fault: &Fault) -> Vec<u8> {
    let mut body = vec![fault.code, fault.subcode];
    body.extend_from_slice(&fault.data);
    encode(MessageType::Notification, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(marker: u8, length: u16, kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![marker; 16];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn messages_come_out_however_the_stream_is_cut() {
        let mut stream = encode(MessageType::Keepalive, &[]);
        stream.extend(encode(MessageType::Update, &[0, 0, 0, 0]));
        stream.extend(encode(MessageType::Keepalive, &[]));
        for step in 1..stream.len() {
            let mut framer = Framer::default();
            let mut kinds = Vec::new();
            for chunk in stream.chunks(step) {
                framer.push(chunk);
                while let Some(frame) = framer.next_frame().unwrap() {
                    kinds.push((frame.kind, frame.body.len()));
                }
            }
            assert_eq!(
                kinds,
                [
                    (MessageType::Keepalive, 0),
                    (MessageType::Update, 4),
                    (MessageType::Keepalive, 0)
                ],
                "cut every {step} bytes"
            );
        }
    }

    #[test]
    fn header_errors_have_the_code_and_data_of_rfc_4271_section_6_1() {
        let cases: [(&str, Vec<u8>, u8, Vec<u8>); 12] = [
            ("bad marker", raw(0xfe, 19, 4, &[]), 1, vec![]),
            (
                "length below the header",
                raw(0xff, 18, 4, &[]),
                2,
                vec![0, 18],
            ),
            (
                "KEEPALIVE of 20 bytes",
                raw(0xff, 20, 4, &[0]),
                2,
                vec![0, 20],
            ),
            ("OPEN of 28", raw(0xff, 28, 1, &[0; 9]), 2, vec![0, 28]),
            ("UPDATE of 22", raw(0xff, 22, 2, &[0; 3]), 2, vec![0, 22]),
            ("UPDATE of 4097", raw(0xff, 4097, 2, &[]), 2, vec![16, 1]),
            ("NOTIFICATION of 20", raw(0xff, 20, 3, &[0]), 2, vec![0, 20]),
            (
                "NOTIFICATION of 4097",
                raw(0xff, 4097, 3, &[]),
                2,
                vec![16, 1],
            ),
            ("ROUTE-REFRESH of 22", raw(0xff, 22, 5, &[]), 2, vec![0, 22]),
            ("OPEN of 4097", raw(0xff, 4097, 1, &[]), 2, vec![16, 1]),
            ("type 0", raw(0xff, 19, 0, &[]), 3, vec![0]),
            ("type 6", raw(0xff, 19, 6, &[]), 3, vec![6]),
        ];
        for (name, bytes, subcode, data) in cases {
            let mut framer = Framer::default();
            framer.push(&bytes);
            let fault = framer.next_frame().unwrap_err();
            assert_eq!(
                (fault.code, fault.subcode, fault.data),
                (1, subcode, data),
                "{name}"
            );
        }
    }

    #[test]
    fn a_truncated_message_is_waited_for_not_accepted() {
        let mut framer = Framer::default();
        let whole = encode(MessageType::Update, &[0; 40]);
        framer.push(&whole[..whole.len() - 1]);
        assert_eq!(framer.next_frame(), Ok(None));
    }

    /// RFC 8654 section 4: up to 65535 octets, but OPEN and KEEPALIVE stay as they are.
    #[test]
    fn extended_messages_only_once_negotiated() {
        let whole = raw(0xff, u16::MAX, 2, &vec![0; 65535 - 19]);
        let mut framer = Framer::default();
        framer.push(&whole);
        assert_eq!(framer.next_frame().unwrap_err().subcode, 2);
        let mut framer = Framer::default();
        framer.extend();
        framer.push(&whole);
        let frame = framer.next_frame().unwrap().unwrap();
        assert_eq!((frame.kind, frame.body.len()), (MessageType::Update, 65516));
        assert_eq!(framer.pending(), 0);
        for (length, kind) in [(4097, 1), (20, 4), (4097, 4)] {
            let mut framer = Framer::default();
            framer.extend();
            framer.push(&raw(0xff, length, kind, &[]));
            let fault = framer.next_frame().unwrap_err();
            assert_eq!((fault.code, fault.subcode), (1, 2), "{kind} of {length}");
        }
    }

    /// RFC 4271 section 6.1: the marker is looked at first, and an error needs no whole message.
    #[test]
    fn errors_show_as_soon_as_the_header_is_there() {
        let mut framer = Framer::default();
        framer.push(&raw(0, 19, 4, &[])[..18]);
        assert_eq!(framer.next_frame(), Ok(None));
        framer.push(&[4]);
        assert_eq!(framer.next_frame().unwrap_err().subcode, 1);
    }

    #[test]
    fn recordings_are_picked_up_at_the_next_marker() {
        let keepalive = encode(MessageType::Keepalive, &[]);
        let mut framer = Framer::default();
        framer.push(&keepalive[5..]);
        assert_eq!(framer.resynchronize(false), 14);
        framer.push(&keepalive);
        assert_eq!(framer.resynchronize(false), 0);
        assert!(framer.next_frame().unwrap().is_some());
        // KEEPALIVE of 20 octets, then a sound one.
        framer.push(&raw(0xff, 20, 4, &[0]));
        framer.push(&keepalive);
        assert!(framer.next_frame().is_err());
        assert_eq!(framer.resynchronize(true), 20);
        assert!(framer.next_frame().unwrap().is_some());
        assert_eq!(framer.resynchronize(true), 0);
        // A marker that has begun is kept.
        framer.push(&[1, 2, 0xff, 0xff]);
        assert_eq!((framer.resynchronize(true), framer.pending()), (2, 2));
    }
}
