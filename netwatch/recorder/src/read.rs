//! Reading a recording, also one that was cut short or damaged.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

use crate::frame::{FORMAT, FRAME_HEAD, Frame, Header, Kind, MAGIC, MARKER, MAX_PAYLOAD, checksum};

/// No recording is larger.
const MAX_BYTES: u64 = 4 << 30;

/// A file that cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("cannot read {name}: {source}")]
    Io {
        /// The file.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is something else.
    #[error(
        "{name} is no recording of netwatch: it does not begin with a recording's first bytes; recordings are in `recordings` in the state directory"
    )]
    NotARecording {
        /// The file.
        name: String,
    },
    /// It has another format.
    #[error(
        "{name} has format {found}, this netwatch ({}) reads format {FORMAT}: replay it with the version that recorded it",
        env!("CARGO_PKG_VERSION")
    )]
    Format {
        /// The file.
        name: String,
        /// Its format.
        found: u16,
    },
    /// What it is of is not known.
    #[error("{name}: the header is unusable: {why}; nothing of it can be replayed")]
    Header {
        /// The file.
        name: String,
        /// What is wrong.
        why: String,
    },
}

/// Bytes that are no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first byte's place in the file.
    pub from: usize,
    /// The place of the first byte after it.
    pub to: usize,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {} to {}: {}", self.from, self.to, self.why)
    }
}

/// What comes next in a file.
#[derive(Clone, Debug)]
pub enum Part {
    /// A frame.
    Frame(Frame),
    /// Bytes that had to be left out.
    Damage(Damage),
}

/// A recording, frame by frame.
#[derive(Debug)]
pub struct Reader {
    bytes: Vec<u8>,
    at: usize,
    header: Header,
}

impl Reader {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be read, is no recording, has another format, or its header is damaged.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let name = path.display().to_string();
        let read = || {
            let mut bytes = Vec::new();
            let file = std::fs::File::open(path)?;
            file.take(MAX_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Self::new(bytes, &name),
            Err(source) => Err(ReadError::Io { name, source }),
        }
    }

    /// Reads a recording from its bytes. `name` is what errors call it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn new(bytes: Vec<u8>, name: &str) -> Result<Self, ReadError> {
        let name = name.to_owned();
        if bytes.is_empty() || !MAGIC.starts_with(bytes.get(..8).unwrap_or(&bytes)) {
            return Err(ReadError::NotARecording { name });
        }
        let unusable = |why: &str| ReadError::Header {
            name: name.clone(),
            why: why.to_owned(),
        };
        let Some(&[low, high]) = bytes.get(8..10) else {
            return Err(unusable("the file ends before it"));
        };
        let found = u16::from_le_bytes([low, high]);
        if found != FORMAT {
            return Err(ReadError::Format { name, found });
        }
        match frame_at(&bytes, 10) {
            Ok((Frame::Header(header), at)) => Ok(Self {
                bytes,
                at,
                header: *header,
            }),
            Ok(_) => Err(unusable("the first frame is another")),
            Err(why) => Err(unusable(&why)),
        }
    }

    /// What the recording says of itself.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }
}

impl Iterator for Reader {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let from = self.at;
        match frame_at(&self.bytes, from) {
            Ok((frame, end)) => {
                self.at = end;
                Some(Part::Frame(frame))
            }
            Err(why) => {
                self.at = next_frame(&self.bytes, from + 1);
                Some(Part::Damage(Damage {
                    from,
                    to: self.at,
                    why,
                }))
            }
        }
    }
}

/// The frame at a place, and the place after it.
fn frame_at(bytes: &[u8], at: usize) -> Result<(Frame, usize), String> {
    let (kind, payload, end) = raw_frame_at(bytes, at)?;
    let kind = Kind::of(kind).ok_or_else(|| format!("a frame of unknown kind {kind}"))?;
    Ok((Frame::decode(kind, payload)?, end))
}

fn raw_frame_at(bytes: &[u8], at: usize) -> Result<(u8, &[u8], usize), String> {
    let short = || "the file ends in the middle of a frame".to_owned();
    let head = bytes.get(at..at + FRAME_HEAD).ok_or_else(short)?;
    let (marker, rest) = head.split_at(MARKER.len());
    if marker != MARKER {
        return Err("no frame begins here".to_owned());
    }
    let &[kind, l0, l1, l2, l3, c0, c1, c2, c3] = rest else {
        return Err(short());
    };
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let size = length as usize;
    if size > MAX_PAYLOAD {
        return Err(format!("a frame of {size} bytes"));
    }
    let begin = at + FRAME_HEAD;
    let payload = bytes.get(begin..begin + size).ok_or_else(short)?;
    if checksum(kind, length, payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err("the checksum is wrong".to_owned());
    }
    Ok((kind, payload, begin + size))
}

/// The place of the next frame that is whole; the file's end where there is none.
fn next_frame(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(MARKER.len())
        .enumerate()
        .filter(|(_, window)| *window == MARKER)
        .map(|(offset, _)| from + offset)
        .find(|at| raw_frame_at(bytes, *at).is_ok())
        .unwrap_or(bytes.len())
}
