//! TCP streams out of a packet capture (the classic pcap format), as far as BGP and BMP need it.
//!
//! Works on the capture's bytes and allocates only for segments that come out of order.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes that may wait for an earlier segment, by direction; then what is missing is given up.
const OUT_OF_ORDER: usize = 256 * 1024;
/// What a segment costs while it waits, besides its payload.
const WAITING: usize = 64;

/// A capture that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// It is of the newer format.
    #[error(
        "this is a pcapng file; convert it: `editcap -F pcap IN OUT` or `tcpdump -r IN -w OUT`"
    )]
    PcapNg,
    /// It does not begin as a capture does.
    #[error("this is no pcap file")]
    NoCapture,
    /// The link layer is not one of those that are understood.
    #[error("link type {0} is not supported; capture on an Ethernet or `any` interface")]
    LinkType(u32),
    /// A packet's record is longer than the file.
    #[error("packet {packet} at byte {offset} is cut off")]
    CutOff {
        /// Counted from 1.
        packet: usize,
        /// Where its record begins.
        offset: usize,
    },
}

/// Whether bytes begin as a capture does, in either format.
#[must_use]
pub fn is_capture(bytes: &[u8]) -> bool {
    matches!(
        Capture::new(bytes),
        Ok(_) | Err(CaptureError::PcapNg | CaptureError::LinkType(_))
    )
}

/// A segment of TCP with payload, or the one that opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// The packet's number, counted from 1.
    pub packet: usize,
    /// When it was captured, in nanoseconds since 1970.
    pub nanoseconds: u64,
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// SYN is set.
    pub syn: bool,
    /// The payload.
    pub payload: &'a [u8],
}

/// A capture: walk it for its segments. Packets other than TCP are passed over.
#[derive(Clone, Debug)]
pub struct Capture<'a> {
    bytes: &'a [u8],
    offset: usize,
    packet: usize,
    big_endian: bool,
    nanoseconds: bool,
    link: u32,
}

impl<'a> Capture<'a> {
    /// # Errors
    /// Bytes that are no capture, or one of a link layer that is not understood.
    pub fn new(bytes: &'a [u8]) -> Result<Self, CaptureError> {
        let (big_endian, nanoseconds) = match bytes.first_chunk::<4>() {
            Some([0xd4, 0xc3, 0xb2, 0xa1]) => (false, false),
            Some([0xa1, 0xb2, 0xc3, 0xd4]) => (true, false),
            Some([0x4d, 0x3c, 0xb2, 0xa1]) => (false, true),
            Some([0xa1, 0xb2, 0x3c, 0x4d]) => (true, true),
            Some([0x0a, 0x0d, 0x0d, 0x0a]) => return Err(CaptureError::PcapNg),
            _ => return Err(CaptureError::NoCapture),
        };
        let mut capture = Self {
            bytes,
            offset: 24,
            packet: 0,
            big_endian,
            nanoseconds,
            link: 0,
        };
        // The upper bits say whether frames end with a checksum.
        capture.link = capture.word(20).ok_or(CaptureError::NoCapture)? & 0xffff;
        match capture.link {
            0 | 1 | 12 | 14 | 101 | 108 | 113 | 228 | 229 | 276 => Ok(capture),
            other => Err(CaptureError::LinkType(other)),
        }
    }

    fn word(&self, at: usize) -> Option<u32> {
        let octets = *self.bytes.get(at..)?.first_chunk::<4>()?;
        Some(if self.big_endian {
            u32::from_be_bytes(octets)
        } else {
            u32::from_le_bytes(octets)
        })
    }

    fn record(&mut self) -> Option<Result<(u64, &'a [u8]), CaptureError>> {
        if self.offset >= self.bytes.len() {
            return None;
        }
        self.packet += 1;
        let cut = CaptureError::CutOff {
            packet: self.packet,
            offset: self.offset,
        };
        let start = self.offset + 16;
        let read = (|| {
            let seconds = self.word(self.offset)?;
            let fraction = self.word(self.offset + 4)?;
            let length = usize::try_from(self.word(self.offset + 8)?).ok()?;
            let data = self.bytes.get(start..start.checked_add(length)?)?;
            let fraction = u64::from(fraction) * if self.nanoseconds { 1 } else { 1000 };
            Some((u64::from(seconds) * 1_000_000_000 + fraction, data))
        })();
        match read {
            Some((time, data)) => {
                self.offset = start + data.len();
                Some(Ok((time, data)))
            }
            None => {
                self.offset = self.bytes.len();
                Some(Err(cut))
            }
        }
    }
}

impl<'a> Iterator for Capture<'a> {
    type Item = Result<Segment<'a>, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.record()? {
                Err(error) => return Some(Err(error)),
                Ok((nanoseconds, frame)) => {
                    let segment = segment(self.link, frame, self.packet, nanoseconds);
                    if let Some(segment) = segment {
                        return Some(Ok(segment));
                    }
                }
            }
        }
    }
}

/// The TCP segment in a frame; `None` for anything else, fragments included.
fn segment(link: u32, frame: &[u8], packet: usize, nanoseconds: u64) -> Option<Segment<'_>> {
    let ip = match link {
        // BSD loopback, raw IP (four numbers for it), Linux cooked version 1 and 2, Ethernet.
        0 | 108 => frame.get(4..)?,
        12 | 14 | 101 | 228 | 229 => frame,
        113 => frame.get(16..)?,
        276 => frame.get(20..)?,
        _ => {
            let mut at = 12;
            while matches!(frame.get(at..)?, [0x81, 0, ..] | [0x88, 0xa8, ..]) {
                at += 4;
            }
            frame.get(at + 2..)?
        }
    };
    let (from, to, tcp) = match ip.first()? >> 4 {
        4 => {
            let header = ip.first_chunk::<20>()?;
            let &[
                first,
                _,
                high,
                low,
                _,
                _,
                fragment,
                offset,
                _,
                protocol,
                _,
                _,
                ..,
            ] = header;
            let fragmented = fragment & 0x3f != 0 || offset != 0;
            if protocol != 6 || fragmented {
                return None;
            }
            let address = |at: usize| -> Option<IpAddr> {
                Some(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?).into())
            };
            let total = usize::from(u16::from_be_bytes([high, low]));
            let payload = ip.get(..total)?.get(usize::from(first & 15) * 4..)?;
            (address(12)?, address(16)?, payload)
        }
        6 => {
            let header = ip.first_chunk::<40>()?;
            let &[_, _, _, _, high, low, next, ..] = header;
            if next != 6 {
                return None;
            }
            let address = |at: usize| -> Option<IpAddr> {
                Some(Ipv6Addr::from(*ip.get(at..)?.first_chunk::<16>()?).into())
            };
            let total = 40 + usize::from(u16::from_be_bytes([high, low]));
            (address(8)?, address(24)?, ip.get(..total)?.get(40..)?)
        }
        _ => return None,
    };
    let &[a, b, c, d, s1, s2, s3, s4, _, _, _, _, offset, flags, ..] = tcp.first_chunk::<20>()?;
    let payload = tcp.get(usize::from(offset >> 4) * 4..)?;
    let syn = flags & 2 != 0;
    (syn || !payload.is_empty()).then(|| Segment {
        packet,
        nanoseconds,
        from: SocketAddr::new(from, u16::from_be_bytes([a, b])),
        to: SocketAddr::new(to, u16::from_be_bytes([c, d])),
        sequence: u32::from_be_bytes([s1, s2, s3, s4]),
        syn,
        payload,
    })
}

/// One direction of a TCP connection, put in order.
#[derive(Clone, Debug, Default)]
pub struct Direction {
    next: Option<u32>,
    waiting: BTreeMap<u32, Vec<u8>>,
    waiting_bytes: usize,
}

/// What [`Direction::push`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes that follow the earlier ones.
    Bytes(Vec<u8>),
    /// Bytes are missing in the capture; what comes next does not follow the earlier ones.
    Gap,
    /// A connection begins anew on the same ports.
    Opened,
}

impl Direction {
    /// Takes a segment; what can be read now, in order. Bytes that were sent again are left out.
    pub fn push(&mut self, segment: &Segment<'_>) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let mut sequence = segment.sequence;
        if segment.syn {
            *self = Self::default();
            sequence = sequence.wrapping_add(1);
            self.next = Some(sequence);
            chunks.push(Chunk::Opened);
        }
        if segment.payload.is_empty() {
            return chunks;
        }
        let next = *self.next.get_or_insert(sequence);
        if ahead(sequence, next) > 0 {
            self.waiting_bytes += segment.payload.len() + WAITING;
            let repeated = self.waiting.insert(sequence, segment.payload.to_vec());
            self.waiting_bytes -= repeated.map_or(0, |bytes| bytes.len() + WAITING);
            if self.waiting_bytes <= OUT_OF_ORDER {
                return chunks;
            }
            let earliest = self.waiting.keys().min_by_key(|at| ahead(**at, next));
            self.next = earliest.copied();
            chunks.push(Chunk::Gap);
        } else {
            chunks.extend(self.take(sequence, segment.payload));
        }
        while let Some(next) = self.next
            && let Some(&at) = self.waiting.keys().find(|at| ahead(**at, next) <= 0)
            && let Some(bytes) = self.waiting.remove(&at)
        {
            self.waiting_bytes -= bytes.len() + WAITING;
            chunks.extend(self.take(at, &bytes));
        }
        chunks
    }

    fn take(&mut self, sequence: u32, bytes: &[u8]) -> Option<Chunk> {
        let next = self.next?;
        let known = usize::try_from(-ahead(sequence, next)).ok()?;
        let new = bytes.get(known..).filter(|new| !new.is_empty())?;
        self.next = Some(next.wrapping_add(u32::try_from(new.len()).ok()?));
        Some(Chunk::Bytes(new.to_vec()))
    }
}

/// How far a sequence number lies behind another one, in either direction.
fn ahead(sequence: u32, next: u32) -> i64 {
    i64::from(sequence.wrapping_sub(next).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let total = u16::try_from(40 + payload.len()).unwrap().to_be_bytes();
        [
            &[2; 12][..],
            &[8, 0],
            &[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0],
            &[192, 0, 2, 1, 192, 0, 2, 2],
            &[0, 179, 0xc0, 1],
            &sequence.to_be_bytes(),
            &[0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0],
            payload,
            &[0xee; 3], // the frame's padding
        ]
        .concat()
    }

    fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0].to_vec();
        bytes.extend([0; 12]);
        bytes.extend(1_u32.to_le_bytes());
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
            bytes.extend([1, 0, 0, 0, 2, 0, 0, 0]);
            bytes.extend(length);
            bytes.extend(length);
            bytes.extend(frame);
        }
        bytes
    }

    fn stream(frames: &[Vec<u8>]) -> Vec<Chunk> {
        let bytes = capture(frames);
        let mut direction = Direction::default();
        Capture::new(&bytes)
            .unwrap()
            .flat_map(|segment| direction.push(&segment.unwrap()))
            .collect()
    }

    fn text(chunks: &[Chunk]) -> String {
        let text = |chunk: &Chunk| match chunk {
            Chunk::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            Chunk::Gap => "<gap>".to_owned(),
            Chunk::Opened => "<open>".to_owned(),
        };
        chunks.iter().map(text).collect()
    }

    #[test]
    fn segments_have_addresses_time_and_payload() {
        let bytes = capture(&[frame(7, 0x18, b"abc"), frame(10, 0x10, b"")]);
        let segments: Vec<_> = Capture::new(&bytes).unwrap().collect();
        assert_eq!(
            segments,
            [Ok(Segment {
                packet: 1,
                nanoseconds: 1_000_002_000,
                from: "192.0.2.1:179".parse().unwrap(),
                to: "192.0.2.2:49153".parse().unwrap(),
                sequence: 7,
                syn: false,
                payload: b"abc",
            })]
        );
    }

    #[test]
    fn segments_are_put_in_order_and_repeats_left_out() {
        let wrap = u32::MAX - 1;
        let frames = [
            frame(wrap, 0x02, b""),
            frame(wrap.wrapping_add(1), 0x18, b"abc"),
            frame(wrap.wrapping_add(7), 0x18, b"ghi"),
            frame(wrap.wrapping_add(1), 0x18, b"abcd"),
            frame(wrap.wrapping_add(5), 0x18, b"efg"),
            frame(wrap.wrapping_add(2), 0x18, b"bc"),
        ];
        assert_eq!(text(&stream(&frames)), "<open>abcdefghi");
    }

    #[test]
    fn what_the_capture_lacks_is_a_gap() {
        let many = vec![b'x'; 60_000];
        let frames: Vec<_> = (0..6)
            .map(|i| frame(1 + i * 60_000 + u32::from(i > 0), 0x18, &many))
            .collect();
        let chunks = stream(&frames);
        assert_eq!(text(&chunks).replace('x', "").as_str(), "<gap>");
        let bytes: usize = text(&chunks).matches('x').count();
        assert_eq!(bytes, 360_000);
    }

    #[test]
    fn broken_captures_say_what_is_wrong() {
        let error = |bytes: &[u8]| Capture::new(bytes).err();
        assert_eq!(error(b"hello, world"), Some(CaptureError::NoCapture));
        assert_eq!(
            error(&[0xd4, 0xc3, 0xb2, 0xa1, 2]),
            Some(CaptureError::NoCapture)
        );
        assert_eq!(error(&[0x0a, 0x0d, 0x0d, 0x0a]), Some(CaptureError::PcapNg));
        let mut bytes = capture(&[frame(7, 0x18, b"abc")]);
        bytes.truncate(bytes.len() - 1);
        let cut = CaptureError::CutOff {
            packet: 1,
            offset: 24,
        };
        assert_eq!(Capture::new(&bytes).unwrap().next(), Some(Err(cut)));
        bytes[20] = 105;
        assert_eq!(error(&bytes), Some(CaptureError::LinkType(105)));
    }
}
