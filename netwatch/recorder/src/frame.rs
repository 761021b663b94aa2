//! The file: a prologue, then frames. All integers are little-endian.
//!
//! ```text
//! prologue  89 4e 57 52 45 43 0d 0a   format: u16
//! frame     'N' 'W' 'F' 0x1a   kind: u8   length: u32   CRC-32 of kind, length and payload: u32   payload
//! ```

use std::io;

use engine::{Engine, Params};
use events::{EffectId, IncidentId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::chunk::{Chunk, ChunkHead, json};

/// The format that is written, and the only one that is read.
pub const FORMAT: u16 = 1;

/// The first bytes of every recording.
pub(crate) const MAGIC: [u8; 8] = *b"\x89NWREC\r\n";
/// Where a frame begins: what is damaged is left behind by looking for the next one.
pub(crate) const MARKER: [u8; 4] = *b"NWF\x1a";
/// Marker, kind, length, checksum.
pub(crate) const FRAME_HEAD: usize = 13;
/// No frame's payload is longer.
pub(crate) const MAX_PAYLOAD: usize = 64 << 20;
/// Nor decompresses to more.
const MAX_PLAIN: usize = 512 << 20;
/// Fast, and most of what can be had: records of one moment are much alike.
const LEVEL: i32 = 1;

/// Kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// What the file is: JSON of [`Header`].
    Header = 1,
    /// The engine's state: [`Checkpoint`](Frame::Checkpoint).
    Checkpoint = 2,
    /// Records: [`Chunk`](Frame::Chunk).
    Chunk = 3,
    /// The recording was closed, and why.
    End = 4,
}

impl Kind {
    pub(crate) const fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Header,
            2 => Self::Checkpoint,
            3 => Self::Chunk,
            4 => Self::End,
            _ => return None,
        })
    }
}

/// What a recording says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Of which incident.
    pub incident: IncidentId,
    /// When it began, on the engine's clock.
    pub onset: Timestamp,
    /// When it was suspected, on the engine's clock.
    pub opened_at: Timestamp,
    /// The same moment on the wall clock.
    pub opened_wall: jiff::Timestamp,
    /// The version of netwatch that recorded.
    pub netwatch: String,
    /// What the engine went by.
    pub params: Params,
}

/// A frame, decoded.
#[derive(Clone, Debug)]
pub enum Frame {
    /// What the file is.
    Header(Box<Header>),
    /// The engine's state after the input `sequence`, all its effects polled.
    Checkpoint {
        /// The newest input.
        sequence: u64,
        /// The newest effect.
        effect: EffectId,
        /// When.
        at: Timestamp,
        /// The engine as JSON.
        engine: Vec<u8>,
    },
    /// Records.
    Chunk(Chunk),
    /// The recording was closed: why.
    End(String),
}

#[derive(Serialize, Deserialize)]
struct CheckpointHead {
    sequence: u64,
    effect: EffectId,
    at: Timestamp,
}

/// The file's first bytes.
pub(crate) fn prologue() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_le_bytes());
    bytes
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(FRAME_HEAD + payload.len());
    bytes.extend(MARKER);
    bytes.push(kind as u8);
    bytes.extend(length.to_le_bytes());
    bytes.extend(checksum(kind as u8, length, payload).to_le_bytes());
    bytes.extend(payload);
    bytes
}

pub(crate) fn checksum(kind: u8, length: u32, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[kind]);
    crc.update(&length.to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

pub(crate) fn header(header: &Header) -> Vec<u8> {
    frame(Kind::Header, &json(header))
}

pub(crate) fn end(reason: &str) -> Vec<u8> {
    frame(Kind::End, reason.as_bytes())
}

pub(crate) fn chunk(chunk: &Chunk) -> io::Result<Vec<u8>> {
    with_head(Kind::Chunk, &chunk.head, &chunk.bytes)
}

pub(crate) fn checkpoint(at: Timestamp, engine: &Engine) -> io::Result<Vec<u8>> {
    let head = CheckpointHead {
        sequence: engine.sequence(),
        effect: engine.last_effect(),
        at,
    };
    with_head(Kind::Checkpoint, &head, &json(engine))
}

/// A head in the clear, so that a frame can be put in its place without decompressing it.
fn with_head(kind: Kind, head: &impl Serialize, plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut payload = postcard::to_stdvec(head).map_err(io::Error::other)?;
    payload.extend(zstd::bulk::compress(plain, LEVEL)?);
    if payload.len() > MAX_PAYLOAD {
        return Err(io::Error::other("the frame is too large"));
    }
    Ok(frame(kind, &payload))
}

impl Frame {
    /// Decodes a frame whose checksum is right; the error says in words what is wrong.
    pub(crate) fn decode(kind: Kind, payload: &[u8]) -> Result<Self, String> {
        Ok(match kind {
            Kind::Header => Self::Header(Box::new(
                serde_json::from_slice(payload).map_err(|error| error.to_string())?,
            )),
            Kind::Checkpoint => {
                let (head, plain) = without_head::<CheckpointHead>(payload)?;
                Self::Checkpoint {
                    sequence: head.sequence,
                    effect: head.effect,
                    at: head.at,
                    engine: plain,
                }
            }
            Kind::Chunk => {
                let (head, bytes) = without_head::<ChunkHead>(payload)?;
                Self::Chunk(Chunk { head, bytes })
            }
            Kind::End => Self::End(String::from_utf8_lossy(payload).into_owned()),
        })
    }
}

fn without_head<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<(T, Vec<u8>), String> {
    let (head, rest) =
        postcard::take_from_bytes(payload).map_err(|error| format!("its head: {error}"))?;
    let size = zstd::zstd_safe::get_frame_content_size(rest)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .filter(|size| *size <= MAX_PLAIN)
        .ok_or("its size is unknown or too large")?;
    let plain = zstd::bulk::decompress(rest, size).map_err(|error| error.to_string())?;
    Ok((head, plain))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use events::{
        ConnectionId, EgressName, Flow, Input, Outstanding, ProbeOutcome, ProbeResult, ProbeSource,
        ProbeTarget, Sequenced, TcpEvent, TcpEventKind, TcpSample,
    };

    use super::*;
    use crate::chunk::Encoder;
    use crate::replay::{Options, Replayed, replay};
    use crate::{Part, Reader};

    fn params() -> Params {
        Params {
            tracker: tracker::Params::default(),
            correlator: correlator::Params {
                run_id: "host".to_owned(),
                egresses: Vec::new(),
                anchors: Vec::new(),
                flow_sources: Vec::new(),
                local_as: None,
                probes: false,
                thresholds: correlator::Thresholds::default(),
            },
            policy: remediation::Policy::default(),
        }
    }

    fn begin() -> Vec<u8> {
        let mut bytes = prologue();
        bytes.extend(header(&Header {
            incident: IncidentId("host-1".to_owned()),
            onset: Timestamp::ZERO,
            opened_at: Timestamp::ZERO,
            opened_wall: jiff::Timestamp::UNIX_EPOCH,
            netwatch: "0.0.9".to_owned(),
            params: params(),
        }));
        bytes
    }

    /// Ten seconds of calls of time from there on.
    fn calls(engine: &mut Engine, bytes: &mut Vec<u8>) {
        let from = Timestamp::from_millis(engine.sequence() * 1000);
        let mut encoder = Encoder::new(engine.sequence(), from);
        for second in 1..=10 {
            let at = from + Duration::from_secs(second);
            encoder.input(&engine.handle_timeout(at));
            while let Some((id, effect)) = engine.poll_effect() {
                encoder.effect(id, &effect);
            }
        }
        bytes.extend(chunk(&encoder.take().unwrap()).unwrap());
    }

    fn replayed(bytes: Vec<u8>) -> Replayed {
        replay(Reader::new(bytes, "test").unwrap(), &Options::default())
    }

    #[test]
    fn what_follows_a_damaged_chunk_is_replayed_from_the_next_checkpoint_on() {
        let mut engine = Engine::new(params());
        let mut bytes = begin();
        let first = bytes.len();
        bytes.extend(checkpoint(Timestamp::ZERO, &engine).unwrap());
        let second = bytes.len();
        calls(&mut engine, &mut bytes);
        let third = bytes.len();
        bytes.extend(checkpoint(Timestamp::from_millis(10_000), &engine).unwrap());
        calls(&mut engine, &mut bytes);
        bytes.extend(end("over"));

        let whole = replayed(bytes.clone());
        assert_eq!((whole.inputs, whole.states), (20, 1));
        assert_eq!((&whole.difference, whole.damage.len()), (&None, 0));
        assert_eq!(whole.closed.as_deref(), Some("over"));

        // Each byte from the first checkpoint to the second, bent in turn.
        for place in first..third {
            let mut bent = bytes.clone();
            bent[place] ^= 0x10;
            let done = replayed(bent);
            assert_eq!(done.inputs, 10, "byte {place}");
            assert_eq!(done.difference, None, "byte {place}");
            assert!(!done.damage.is_empty(), "byte {place}");
            assert_eq!(done.closed.as_deref(), Some("over"), "byte {place}");
            let begins = done.span.unwrap().0 == Timestamp::ZERO;
            assert!(!begins || place >= second, "byte {place}");
        }
    }

    #[test]
    fn a_checkpoint_of_another_version_says_why_it_cannot_be_read() {
        let engine = Engine::new(params());
        let mut state = serde_json::to_value(&engine).unwrap();
        state["correlator"].as_object_mut().unwrap().remove("cases");
        let head = CheckpointHead {
            sequence: 0,
            effect: EffectId(0),
            at: Timestamp::ZERO,
        };
        let mut bytes = begin();
        bytes.extend(with_head(Kind::Checkpoint, &head, &json(&state)).unwrap());
        let done = replayed(bytes);
        assert_eq!(done.inputs, 0);
        let why = done.unusable.unwrap();
        for word in [
            "netwatch 0.0.9",
            env!("CARGO_PKG_VERSION"),
            "missing field `cases`",
        ] {
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn another_engines_state_is_a_difference() {
        let mut engine = Engine::new(params());
        let mut bytes = begin();
        bytes.extend(checkpoint(Timestamp::ZERO, &engine).unwrap());
        calls(&mut engine, &mut bytes);
        let mut changed = params();
        changed.tracker.max_peers = 7;
        engine.set_params(changed);
        bytes.extend(checkpoint(Timestamp::from_millis(10_000), &engine).unwrap());
        let done = replayed(bytes);
        let difference = done.difference.unwrap();
        assert_eq!((difference.what, difference.sequence), ("state", 10));
    }

    /// Version 1 of the format, byte for byte. Where this fails, recordings of earlier versions would
    /// be misread: [`FORMAT`] needs another number.
    #[test]
    fn the_encoding_is_the_formats() {
        let address = |host| IpAddr::V4(Ipv4Addr::new(192, 0, 2, host));
        let sample = Input::Tcp(TcpEvent {
            at: Timestamp::from_nanos(1_000),
            connection: ConnectionId(7),
            flow: Flow {
                local: (address(1), 26656).into(),
                remote: (address(2), 300).into(),
            },
            kind: TcpEventKind::Sample(TcpSample {
                outstanding: Some(Outstanding {
                    since: Timestamp::from_nanos(900),
                }),
                acked_at: None,
                sent_at: Some(Timestamp::from_nanos(901)),
                received_at: None,
                srtt: Duration::from_millis(40),
                mdev: Duration::from_millis(2),
                min_rtt: Duration::from_millis(30),
                last_rtt: Some(Duration::from_secs(1)),
                zero_window: true,
            }),
        });
        let probe = Input::Probe(ProbeResult {
            sent_at: Timestamp::from_nanos(5),
            egress: EgressName::from("a"),
            target: ProbeTarget::Suspect(address(3)),
            source: ProbeSource::Flow,
            source_address: address(4),
            outcome: ProbeOutcome::Refused { errno: 113 },
        });
        let mut encoder = Encoder::new(0, Timestamp::ZERO);
        for (sequence, input) in [(1, sample), (2, probe), (3, Input::Timeout)] {
            encoder.input(&Sequenced {
                sequence,
                at: Timestamp::from_nanos(sequence * 128),
                input,
            });
        }
        let hex: String = encoder
            .take()
            .unwrap()
            .bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            concat!(
                "01",
                "8001",
                "e807",
                "07",
                "00c0000201a0d001",
                "00c0000202ac02",
                "018407",
                "00",
                "018507",
                "00",
                "0080b48913",
                "0080897a",
                "008087a70e",
                "010100",
                "01",
                "02",
                "8001",
                "05",
                "0161",
                "0200c0000203",
                "01",
                "00c0000204",
                "02e201",
                "00",
                "8001",
            )
        );
    }

    /// Any bytes whatever: an error or parts, and an end.
    #[test]
    fn no_bytes_make_the_reader_panic_or_run_on() {
        let mut state = 1_u64;
        for length in 0..400 {
            let mut bytes = begin();
            bytes.extend((0..length).map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                // Markers are likely.
                match state >> 60 {
                    byte @ 0..4 => MARKER[byte as usize],
                    _ => (state >> 33) as u8,
                }
            }));
            let parts: Vec<Part> = Reader::new(bytes, "noise").unwrap().collect();
            assert!(parts.len() <= length + 1);
        }
    }
}
