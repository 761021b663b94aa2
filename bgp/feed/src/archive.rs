//! Recordings of routing data: what they are, and their bytes without the compression.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bgp_core::{bmp, capture};
use serde::Serialize;

/// Octets by which a format is recognized.
const HEAD: usize = 64;

/// What a recording is, after decompression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// MRT (RFC 6396).
    Mrt,
    /// A BMP stream as a router sends it (RFC 7854).
    Bmp,
    /// BGP messages one after the other.
    Bgp,
    /// Lines of RIS Live.
    Ris,
    /// Packets with BMP or BGP (the classic pcap format).
    Capture,
}

impl Format {
    /// Recognizes a recording by how it begins; `None`: it is none of them.
    #[must_use]
    pub fn recognize(head: &[u8]) -> Option<Self> {
        if capture::is_capture(head) || head.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
            return Some(Self::Capture);
        }
        if head.starts_with(&[0xff; 16]) {
            return Some(Self::Bgp);
        }
        if head.trim_ascii_start().starts_with(b"{") {
            return Some(Self::Ris);
        }
        if is_bmp(head) {
            return Some(Self::Bmp);
        }
        // Seconds, then one of the types of RFC 6396 section 4; for BGP4MP with a known subtype.
        match *head {
            [
                _,
                _,
                _,
                _,
                0,
                11..=13 | 16 | 17 | 32 | 33 | 48 | 49,
                0,
                0..=12,
                0,
                ..,
            ] => Some(Self::Mrt),
            _ => None,
        }
    }
}

/// Whether a stream begins as BMP does: version, a possible length, a known type. An MRT record
/// would have to be of 1971 or 1972 for that.
#[must_use]
pub fn is_bmp(head: &[u8]) -> bool {
    let [3 | 4, a, b, c, d, 0..=6, ..] = *head else {
        return false;
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    (bmp::HEADER_LENGTH..=bmp::MAX_LENGTH).contains(&length)
}

/// A recording's bytes, decompressed (gzip, bzip2) while they are read.
pub struct Source {
    /// Them.
    pub reader: Box<dyn Read + Send>,
    /// What they begin with.
    pub head: Vec<u8>,
    /// Octets of the file, where that is known.
    pub size: Option<u64>,
    consumed: Arc<AtomicU64>,
}

impl Source {
    /// Opens a file, or standard input for `-`.
    ///
    /// # Errors
    /// It cannot be opened or read.
    pub fn open(path: &Path) -> io::Result<Self> {
        if path.as_os_str() == "-" {
            return Self::of(io::stdin(), None);
        }
        let file = File::open(path)?;
        let size = file.metadata().ok().filter(std::fs::Metadata::is_file);
        Self::of(file, size.map(|metadata| metadata.len()))
    }

    /// Reads from anything.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(raw: impl Read + Send + 'static, size: Option<u64>) -> io::Result<Self> {
        let consumed = Arc::new(AtomicU64::new(0));
        let mut raw = BufReader::with_capacity(
            256 * 1024,
            Counted {
                inner: raw,
                count: Arc::clone(&consumed),
            },
        );
        let magic = head(&mut raw, 4)?;
        let raw = Cursor::new(magic.clone()).chain(raw);
        let mut reader: Box<dyn Read + Send> = match magic[..] {
            [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(raw)),
            [b'B', b'Z', b'h', b'1'..=b'9'] => Box::new(bzip2::read::MultiBzDecoder::new(raw)),
            _ => Box::new(raw),
        };
        let head = head(&mut reader, HEAD)?;
        Ok(Self {
            reader: Box::new(Cursor::new(head.clone()).chain(reader)),
            head,
            size,
            consumed,
        })
    }

    /// Octets read of the file so far, before decompression.
    #[must_use]
    pub fn consumed(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }
}

/// The first octets, less where there are not so many.
fn head(reader: &mut impl Read, count: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let count = u64::try_from(count).unwrap_or(0);
    match reader.take(count).read_to_end(&mut head) {
        // What is damaged later shows later.
        Err(error) if head.is_empty() => Err(error),
        _ => Ok(head),
    }
}

struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count
            .fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn formats_are_recognized_by_how_they_begin() {
        let marker = [&[0xff; 16][..], &[0, 19, 4]].concat();
        let cases: [(&[u8], Option<Format>); 9] = [
            (
                &[0x3d, 0x3c, 0x9f, 0x85, 0, 12, 0, 1, 0, 0, 0, 60],
                Some(Format::Mrt),
            ),
            (
                &[0x54, 0xa4, 0x8f, 0, 0, 17, 0, 4, 0, 0, 0, 60],
                Some(Format::Mrt),
            ),
            (&[3, 0, 0, 0, 32, 4, 0, 1], Some(Format::Bmp)),
            (&[4, 0, 0, 0, 32, 3, 0, 1], Some(Format::Bmp)),
            (&[3, 0, 0, 0, 5, 4], None),
            (&marker, Some(Format::Bgp)),
            (b" {\"type\":\"ris_message\"", Some(Format::Ris)),
            (b"\x0a\x0d\x0d\x0a", Some(Format::Capture)),
            (b"nothing of it", None),
        ];
        for (head, format) in cases {
            assert_eq!(Format::recognize(head), format, "{head:?}");
        }
    }

    #[test]
    fn compression_is_undone_also_in_several_members() {
        let mut gzip = Vec::new();
        let mut bzip = Vec::new();
        for part in [&b"one and "[..], b"two"] {
            let mut encoder = flate2::write::GzEncoder::new(&mut gzip, flate2::Compression::fast());
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap();
            let mut encoder = bzip2::write::BzEncoder::new(&mut bzip, bzip2::Compression::fast());
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap();
        }
        for bytes in [gzip, bzip, b"one and two".to_vec()] {
            let size = u64::try_from(bytes.len()).unwrap();
            let mut source = Source::of(Cursor::new(bytes), Some(size)).unwrap();
            let mut text = String::new();
            source.reader.read_to_string(&mut text).unwrap();
            assert_eq!(text, "one and two");
            assert_eq!(source.head, text.as_bytes());
            assert_eq!(source.consumed(), size);
        }
    }
}
