//! Records in their compact form.
//!
//! The inputs that come by the thousand (samples of connections, probes, calls of time) are in
//! [postcard](https://postcard.jamesmunns.com/wire-format)'s encoding, the others and all effects in
//! JSON, whose keys outlive changes of the types.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use events::{
    ConnectionId, Effect, EffectId, EgressName, Flow, Input, ProbeOutcome, ProbeResult,
    ProbeSource, ProbeTarget, Sequenced, TcpEvent, TcpEventKind, TcpSample, Timestamp,
};
use serde::{Deserialize, Serialize};

/// A step of the engine's life.
#[derive(Clone, Debug, PartialEq)]
// Nearly all of them are inputs.
#[allow(clippy::large_enum_variant)]
pub enum Record {
    /// It was fed.
    Input(Sequenced),
    /// It asked for something: the effect's number and its JSON.
    Effect(EffectId, Vec<u8>),
}

/// What is known of a chunk without decoding it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkHead {
    /// The number of its first input.
    pub first: u64,
    /// How many inputs it holds.
    pub inputs: u64,
    /// The engine's time of the input before its first.
    pub from: Timestamp,
    /// The engine's time of its last input.
    pub until: Timestamp,
}

/// Records that follow each other without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// What is known without decoding it.
    pub head: ChunkHead,
    /// The records, encoded.
    pub bytes: Vec<u8>,
}

/// A chunk that cannot be decoded: it was written by another version, or by none.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// A record is not what the format says.
    #[error("record {index} of the chunk with inputs from {first} is malformed: {source}")]
    Record {
        /// Which, counted from zero.
        index: usize,
        /// The chunk's first input.
        first: u64,
        /// How.
        source: postcard::Error,
    },
    /// An input's JSON is none that this version knows.
    #[error("input {sequence} is unknown to this version: {source}")]
    Input {
        /// Its number.
        sequence: u64,
        /// How.
        source: serde_json::Error,
    },
    /// The records are fewer or more than announced.
    #[error("the chunk with inputs from {first} announces {announced} inputs and holds {found}")]
    Count {
        /// The chunk's first input.
        first: u64,
        /// As announced.
        announced: u64,
        /// As found.
        found: u64,
    },
}

/// A record as it is encoded. `after`: nanoseconds since the input before it. New variants go to the
/// end; any other change needs another [`FORMAT`](crate::FORMAT).
#[derive(Serialize, Deserialize)]
enum Wire<'a> {
    Timeout {
        after: u64,
    },
    Sample {
        after: u64,
        at: Timestamp,
        connection: ConnectionId,
        flow: Flow,
        sample: TcpSample,
    },
    Probe {
        after: u64,
        sent_at: Timestamp,
        #[serde(borrow)]
        egress: Cow<'a, str>,
        target: WireTarget,
        source: ProbeSource,
        source_address: IpAddr,
        outcome: WireOutcome,
    },
    Input {
        after: u64,
        json: Cow<'a, [u8]>,
    },
    Effect {
        id: u64,
        json: Cow<'a, [u8]>,
    },
}

#[derive(Serialize, Deserialize)]
enum WireTarget {
    Gateway(IpAddr),
    Anchor(IpAddr),
    Suspect(IpAddr),
}

#[derive(Serialize, Deserialize)]
enum WireOutcome {
    Reply(Duration),
    Lost,
    Refused(i32),
}

impl From<ProbeTarget> for WireTarget {
    fn from(target: ProbeTarget) -> Self {
        match target {
            ProbeTarget::Gateway(address) => Self::Gateway(address),
            ProbeTarget::Anchor(address) => Self::Anchor(address),
            ProbeTarget::Suspect(address) => Self::Suspect(address),
        }
    }
}

impl From<WireTarget> for ProbeTarget {
    fn from(target: WireTarget) -> Self {
        match target {
            WireTarget::Gateway(address) => Self::Gateway(address),
            WireTarget::Anchor(address) => Self::Anchor(address),
            WireTarget::Suspect(address) => Self::Suspect(address),
        }
    }
}

impl From<ProbeOutcome> for WireOutcome {
    fn from(outcome: ProbeOutcome) -> Self {
        match outcome {
            ProbeOutcome::Reply { rtt } => Self::Reply(rtt),
            ProbeOutcome::Lost => Self::Lost,
            ProbeOutcome::Refused { errno } => Self::Refused(errno),
        }
    }
}

impl From<WireOutcome> for ProbeOutcome {
    fn from(outcome: WireOutcome) -> Self {
        match outcome {
            WireOutcome::Reply(rtt) => Self::Reply { rtt },
            WireOutcome::Lost => Self::Lost,
            WireOutcome::Refused(errno) => Self::Refused { errno },
        }
    }
}

/// Encodes records into chunks.
#[derive(Debug)]
pub struct Encoder {
    bytes: Vec<u8>,
    first: u64,
    inputs: u64,
    from: Timestamp,
    until: Timestamp,
}

impl Encoder {
    /// Goes on after an input of that number, at that time of the engine.
    #[must_use]
    pub const fn new(sequence: u64, at: Timestamp) -> Self {
        Self {
            bytes: Vec::new(),
            first: sequence + 1,
            inputs: 0,
            from: at,
            until: at,
        }
    }

    /// An input was handled.
    pub fn input(&mut self, input: &Sequenced) {
        let after = input.at.as_nanos().wrapping_sub(self.until.as_nanos());
        let wire = match &input.input {
            Input::Timeout => Wire::Timeout { after },
            Input::Tcp(TcpEvent {
                at,
                connection,
                flow,
                kind: TcpEventKind::Sample(sample),
            }) => Wire::Sample {
                after,
                at: *at,
                connection: *connection,
                flow: *flow,
                sample: *sample,
            },
            Input::Probe(result) => Wire::Probe {
                after,
                sent_at: result.sent_at,
                egress: Cow::Borrowed(&result.egress.0),
                target: result.target.into(),
                source: result.source,
                source_address: result.source_address,
                outcome: result.outcome.into(),
            },
            other => Wire::Input {
                after,
                json: Cow::Owned(json(other)),
            },
        };
        self.push(&wire);
        self.inputs += 1;
        self.until = input.at;
    }

    /// An effect was polled.
    pub fn effect(&mut self, id: EffectId, effect: &Effect) {
        let json = json(effect);
        self.push(&Wire::Effect {
            id: id.0,
            json: Cow::Owned(json),
        });
    }

    /// Bytes encoded since the last [`take`](Self::take).
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Nothing was encoded since the last [`take`](Self::take).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was encoded since the last call, if anything.
    pub fn take(&mut self) -> Option<Chunk> {
        if self.bytes.is_empty() {
            return None;
        }
        let head = ChunkHead {
            first: self.first,
            inputs: self.inputs,
            from: self.from,
            until: self.until,
        };
        self.first += self.inputs;
        self.inputs = 0;
        self.from = self.until;
        // The next chunk will be about as large.
        let room = Vec::with_capacity(self.bytes.len().min(1 << 16));
        Some(Chunk {
            head,
            bytes: std::mem::replace(&mut self.bytes, room),
        })
    }

    fn push(&mut self, wire: &Wire<'_>) {
        let before = self.bytes.len();
        let bytes = std::mem::take(&mut self.bytes);
        match postcard::to_extend(wire, bytes) {
            Ok(bytes) => self.bytes = bytes,
            // Nothing of ours fails to serialise; a chunk without the record is found out by its count.
            Err(_) => self.bytes = Vec::with_capacity(before),
        }
    }
}

/// The JSON that records and comparisons are made of.
pub(crate) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

impl Chunk {
    /// Its records, in order.
    ///
    /// # Errors
    /// The bytes are no records of this format.
    pub fn records(&self) -> Result<Vec<Record>, ChunkError> {
        let first = self.head.first;
        let mut records = Vec::new();
        let mut rest = self.bytes.as_slice();
        let mut at = self.head.from;
        let mut sequence = first;
        while !rest.is_empty() {
            let (wire, left) = postcard::take_from_bytes::<Wire<'_>>(rest).map_err(|source| {
                ChunkError::Record {
                    index: records.len(),
                    first,
                    source,
                }
            })?;
            rest = left;
            let (after, input) = match wire {
                Wire::Effect { id, json } => {
                    records.push(Record::Effect(EffectId(id), json.into_owned()));
                    continue;
                }
                Wire::Timeout { after } => (after, Input::Timeout),
                Wire::Sample {
                    after,
                    at,
                    connection,
                    flow,
                    sample,
                } => (
                    after,
                    Input::Tcp(TcpEvent {
                        at,
                        connection,
                        flow,
                        kind: TcpEventKind::Sample(sample),
                    }),
                ),
                Wire::Probe {
                    after,
                    sent_at,
                    egress,
                    target,
                    source,
                    source_address,
                    outcome,
                } => (
                    after,
                    Input::Probe(ProbeResult {
                        sent_at,
                        egress: EgressName(egress.into_owned()),
                        target: target.into(),
                        source,
                        source_address,
                        outcome: outcome.into(),
                    }),
                ),
                Wire::Input { after, json } => (
                    after,
                    serde_json::from_slice(&json)
                        .map_err(|source| ChunkError::Input { sequence, source })?,
                ),
            };
            at = Timestamp::from_nanos(at.as_nanos().wrapping_add(after));
            records.push(Record::Input(Sequenced {
                sequence,
                at,
                input,
            }));
            sequence += 1;
        }
        let found = sequence - first;
        if found != self.head.inputs {
            return Err(ChunkError::Count {
                first,
                announced: self.head.inputs,
                found,
            });
        }
        Ok(records)
    }
}
