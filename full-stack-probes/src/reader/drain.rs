//! What lies in a ring, sorted by what it is about.

use aya::maps::{MapData, RingBuf};
use ebpf_abi::{BlockRecord, Event, KIND_OFFSET, MESSAGE};
use events::Timestamp;

use crate::block;
use crate::convert;
use crate::counters::{Shared, add};
use crate::heartbeat;
use crate::message::Brief;
use crate::processes::{self, Note};
use crate::records::{self, KernelRecord};

/// Records that are not about connections.
#[derive(Default)]
pub(super) struct Others {
    /// Heartbeats, each with the time of its handling.
    pub(super) beats: Vec<(Timestamp, Timestamp)>,
    pub(super) notes: Vec<Note>,
    pub(super) messages: Vec<Brief>,
    /// Whether somebody asks for single calls ...
    pub(super) whole: bool,
    /// ... and these then.
    pub(super) calls: Vec<KernelRecord>,
    pub(super) blocks: Vec<BlockRecord>,
}

pub(super) fn drain_ring(
    ring: &mut RingBuf<MapData>,
    limit: usize,
    records: &mut Vec<Event>,
    others: &mut Others,
    shared: &Shared,
) -> bool {
    for _ in 0..limit {
        let Some(item) = ring.next() else {
            return false;
        };
        if let Some(at) = heartbeat::parse(&item) {
            others.beats.push((at, clock::now()));
            continue;
        }
        if let Some(note) = processes::parse(&item) {
            others.notes.push(note);
            continue;
        }
        let kind = item.get(KIND_OFFSET).copied().unwrap_or_default();
        if let Some(request) = block::parse(kind, &item) {
            match request {
                Some(request) => others.blocks.push(request),
                None => add(&shared.malformed, 1),
            }
            continue;
        }
        if kind == MESSAGE {
            match convert::parse(&item).as_ref().and_then(Brief::of) {
                Some(message) => others.messages.push(message),
                None => add(&shared.malformed, 1),
            }
            if !others.whole {
                continue;
            }
        }
        if let Some(call) = records::parse(kind, &item) {
            match call {
                Some(call) => others.calls.push(call),
                // Of a message it was counted.
                None if kind == MESSAGE => {}
                None => add(&shared.malformed, 1),
            }
            continue;
        }
        match convert::parse(&item) {
            Some(record) => records.push(record),
            None => add(&shared.malformed, 1),
        }
    }
    true
}
