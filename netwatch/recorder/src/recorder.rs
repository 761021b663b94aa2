//! The engine task's side: encode, and hand over now and then.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::{Engine, Params};
use events::{Effect, EffectId, EntryKind, IncidentId, Sequenced, Timestamp};

use crate::chunk::{Chunk, Encoder};
use crate::folder::RecordingInfo;
use crate::worker::Worker;

/// Chunks on their way to the worker: a minute of them, while the disk stands still.
const QUEUE: usize = 64;
/// Beginnings and ends of incidents that found the queue full.
const PENDING: usize = 64;
/// A chunk is handed over when it is so large ...
const CHUNK_BYTES: usize = 64 << 10;
/// ... or so old: what a crash loses.
const CHUNK_AGE: Duration = Duration::from_secs(1);
/// From one checkpoint to the next: so much more than asked for is kept at most.
const CHECKPOINT: Duration = Duration::from_secs(30);
/// Checkpoints are never nearer to each other.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(2);

/// What is kept, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The recordings' directory.
    pub directory: PathBuf,
    /// A recording begins so long before its incident's onset.
    pub before: Duration,
    /// Memory for what happened lately, in bytes.
    pub memory: usize,
    /// Bytes of one recording.
    pub recording: u64,
    /// Bytes of all recordings: beyond it the oldest are removed.
    pub total: u64,
}

/// What is sent to the worker.
#[derive(Debug)]
pub(crate) enum Message {
    Chunk(Chunk),
    Checkpoint {
        at: Timestamp,
        engine: Box<Engine>,
    },
    Opened {
        incident: IncidentId,
        onset: Timestamp,
        at: Timestamp,
        wall: jiff::Timestamp,
        params: Box<Params>,
    },
    Ended {
        incident: IncidentId,
        at: Timestamp,
    },
}

/// What both sides count.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub lost: AtomicU64,
    pub checkpoints: AtomicU64,
    pub recordings: AtomicU64,
    pub errors: AtomicU64,
    pub removed: AtomicU64,
    pub memory: AtomicU64,
    pub disk: AtomicU64,
    pub wants_checkpoint: AtomicBool,
    pub list: Mutex<Vec<RecordingInfo>>,
}

/// Counters since the start, and what is in use now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Inputs and effects encoded.
    pub records: u64,
    /// Chunks, checkpoints and incidents that found the queue full.
    pub lost: u64,
    /// Copies of the engine's state.
    pub checkpoints: u64,
    /// Recordings begun.
    pub recordings: u64,
    /// Failures to write.
    pub errors: u64,
    /// Recordings removed because there were too many bytes of them.
    pub removed: u64,
    /// Memory of what happened lately, in bytes.
    pub memory: u64,
    /// Bytes of all recordings on disk.
    pub disk: u64,
}

/// The recorder, as the engine task sees it. No call waits for the disk.
#[derive(Debug)]
pub struct Recorder {
    encoder: Encoder,
    records: u64,
    chunk_since: Timestamp,
    checkpoint_at: Timestamp,
    /// Incidents that began in this step, and their onsets.
    opened: Vec<(IncidentId, Timestamp)>,
    /// Messages that must not be lost.
    pending: VecDeque<Message>,
    shared: Arc<Shared>,
    worker: SyncSender<Message>,
    ended: Receiver<()>,
}

impl Recorder {
    /// Starts the worker. The engine's state now is the first checkpoint.
    ///
    /// # Errors
    /// The directory cannot be made, or no thread.
    pub fn start(settings: Settings, engine: &Engine, at: Timestamp) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (to, from) = sync_channel(QUEUE);
        let (end, ended) = sync_channel(1);
        let worker = Worker::new(settings, Arc::clone(&shared))?;
        std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || {
                worker.run(&from);
                // Nobody waits any more: so be it.
                let _ = end.send(());
            })?;
        let mut recorder = Self {
            encoder: Encoder::new(engine.sequence(), at),
            records: 0,
            chunk_since: at,
            checkpoint_at: at,
            opened: Vec::new(),
            pending: VecDeque::new(),
            shared,
            worker: to,
            ended,
        };
        recorder.checkpoint(engine, at);
        Ok(recorder)
    }

    /// An input was handled.
    pub fn input(&mut self, input: &Sequenced) {
        self.records += 1;
        self.encoder.input(input);
    }

    /// An effect was polled. Incidents begin and end with lines of their timelines.
    pub fn effect(&mut self, id: EffectId, effect: &Effect) {
        self.records += 1;
        self.encoder.effect(id, effect);
        if let Effect::Journal(entry) = effect {
            match entry.kind {
                EntryKind::Onset => self.opened.push((entry.incident.clone(), entry.at)),
                EntryKind::Resolved => self.must(Message::Ended {
                    incident: entry.incident.clone(),
                    at: entry.at,
                }),
                _ => {}
            }
        }
    }

    /// To be called when all effects of a step are polled: hands over what is due.
    pub fn step(&mut self, engine: &Engine, at: Timestamp) {
        for (incident, onset) in std::mem::take(&mut self.opened) {
            self.must(Message::Opened {
                incident,
                onset,
                at,
                wall: clock::wall(at),
                params: Box::new(engine.params()),
            });
        }
        let wanted = at >= self.checkpoint_at + CHECKPOINT
            || (self.shared.wants_checkpoint.load(Ordering::Relaxed)
                && at >= self.checkpoint_at + CHECKPOINT_PAUSE);
        if wanted
            || !self.pending.is_empty()
            || self.encoder.len() >= CHUNK_BYTES
            || at >= self.chunk_since + CHUNK_AGE
        {
            self.hand_over(at);
        }
        if wanted {
            self.checkpoint(engine, at);
        }
    }

    /// Counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            records: self.records,
            lost: of(&self.shared.lost),
            checkpoints: of(&self.shared.checkpoints),
            recordings: of(&self.shared.recordings),
            errors: of(&self.shared.errors),
            removed: of(&self.shared.removed),
            memory: of(&self.shared.memory),
            disk: of(&self.shared.disk),
        }
    }

    /// The recordings on disk, the newest first.
    #[must_use]
    pub fn recordings(&self) -> Vec<RecordingInfo> {
        self.shared
            .list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Closes all recordings. `false`: the disk did not take them within that time.
    pub fn stop(mut self, at: Timestamp, patience: Duration) -> bool {
        self.hand_over(at);
        let Self { worker, ended, .. } = self;
        // The worker ends when it has taken what is in the queue.
        drop(worker);
        ended.recv_timeout(patience).is_ok()
    }

    fn must(&mut self, message: Message) {
        if self.pending.len() < PENDING {
            self.pending.push_back(message);
        } else {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The records first, so that an incident's own beginning is among them.
    fn hand_over(&mut self, at: Timestamp) {
        self.chunk_since = at;
        if let Some(chunk) = self.encoder.take() {
            self.send(Message::Chunk(chunk));
        }
        while let Some(message) = self.pending.pop_front() {
            if let Err(TrySendError::Full(message)) = self.worker.try_send(message) {
                self.pending.push_front(message);
                break;
            }
        }
    }

    fn checkpoint(&mut self, engine: &Engine, at: Timestamp) {
        self.checkpoint_at = at;
        self.shared.checkpoints.fetch_add(1, Ordering::Relaxed);
        self.send(Message::Checkpoint {
            at,
            engine: Box::new(engine.clone()),
        });
    }

    fn send(&self, message: Message) {
        if self.worker.try_send(message).is_err() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            // What follows the gap is of use only from a checkpoint on.
            self.shared.wants_checkpoint.store(true, Ordering::Relaxed);
        }
    }
}
