//! The worker thread: compresses, keeps the ring, writes the files.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use events::{IncidentId, Timestamp};

use crate::folder::{aged, path_of};
use crate::frame::{self, Header};
use crate::recorder::{Message, Settings, Shared};
use crate::ring::Ring;

/// Routes are taken back and pages answered after an incident's end: that belongs to it.
const AFTER: Duration = Duration::from_secs(15);
/// Recordings written to at once; the correlator has fewer incidents open.
const MAX_OPEN: usize = 16;
/// The name of a file that is not complete yet.
const UNFINISHED: &str = "tmp";

/// Owner of the ring and of all files.
#[derive(Debug)]
pub(crate) struct Worker {
    settings: Settings,
    shared: Arc<Shared>,
    ring: Ring,
    open: Vec<Open>,
    /// Bytes on disk, as far as known.
    total: u64,
}

/// A recording that is written to.
#[derive(Debug)]
struct Open {
    incident: IncidentId,
    path: PathBuf,
    file: File,
    bytes: u64,
    ended_at: Option<Timestamp>,
}

impl Worker {
    pub(crate) fn new(settings: Settings, shared: Arc<Shared>) -> io::Result<Self> {
        let directory = &settings.directory;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| {
                let text = format!("cannot create {}: {error}", directory.display());
                io::Error::new(error.kind(), text)
            })?;
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == UNFINISHED) {
                std::fs::remove_file(path)?;
            }
        }
        let mut worker = Self {
            ring: Ring::new(settings.before, settings.memory),
            settings,
            shared,
            open: Vec::new(),
            total: 0,
        };
        worker.look();
        Ok(worker)
    }

    /// Until nobody is left who could tell anything.
    pub(crate) fn run(mut self, from: &Receiver<Message>) {
        while let Ok(message) = from.recv() {
            if let Err(error) = self.take(message) {
                self.shared.errors.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "the flight recorder cannot write");
            }
            let wanted = self.ring.wants_checkpoint();
            self.shared
                .wants_checkpoint
                .store(wanted, Ordering::Relaxed);
            let memory = u64::try_from(self.ring.bytes()).unwrap_or(u64::MAX);
            self.shared.memory.store(memory, Ordering::Relaxed);
        }
        self.close("the daemon stopped", |_| true);
    }

    fn take(&mut self, message: Message) -> io::Result<()> {
        match message {
            Message::Chunk(chunk) => {
                let bytes = frame::chunk(&chunk)?;
                let appended = self.append(&bytes);
                self.ring.chunk(&chunk.head, bytes);
                let now = chunk.head.until;
                self.close("the incident is over", |open| {
                    open.ended_at.is_some_and(|at| now >= at + AFTER)
                });
                appended
            }
            Message::Checkpoint { at, engine } => {
                let bytes = frame::checkpoint(at, &engine)?;
                let appended = self.append(&bytes);
                self.ring.checkpoint(engine.sequence(), at, bytes);
                appended
            }
            Message::Opened {
                incident,
                onset,
                at,
                wall,
                params,
            } => self.begin(Header {
                incident,
                onset,
                opened_at: at,
                opened_wall: wall,
                netwatch: env!("CARGO_PKG_VERSION").to_owned(),
                params: *params,
            }),
            Message::Ended { incident, at } => {
                for open in self.open.iter_mut().filter(|o| o.incident == incident) {
                    open.ended_at = Some(at);
                }
                Ok(())
            }
        }
    }

    /// The file gets its name only when all that is known already is in it.
    fn begin(&mut self, header: Header) -> io::Result<()> {
        if let Some(first) = self.open.first().map(|open| open.incident.clone())
            && self.open.len() >= MAX_OPEN
        {
            self.close("too many incidents at once", |open| open.incident == first);
        }
        let path = path_of(&self.settings.directory, &header.incident.0);
        let unfinished = path.with_extension(UNFINISHED);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(|error| at(&unfinished, &error))?;
        let mut bytes = frame::prologue();
        bytes.extend(frame::header(&header));
        for frame in self.ring.frames(header.onset - self.settings.before) {
            bytes.extend(frame);
        }
        file.write_all(&bytes)
            .and_then(|()| file.sync_data())
            .and_then(|()| std::fs::rename(&unfinished, &path))
            .map_err(|error| at(&path, &error))?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.total += size;
        self.open.push(Open {
            incident: header.incident,
            path,
            file,
            bytes: size,
            ended_at: None,
        });
        self.shared.recordings.fetch_add(1, Ordering::Relaxed);
        self.keep_within_limits();
        self.look();
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let mut failed = Vec::new();
        let mut result = Ok(());
        for open in &mut self.open {
            if let Err(error) = open.file.write_all(bytes) {
                failed.push(open.incident.clone());
                result = Err(at(&open.path, &error));
            }
            open.bytes += size;
            self.total += size;
        }
        // No frame may follow one that is cut short.
        self.open.retain(|open| !failed.contains(&open.incident));
        self.keep_within_limits();
        result
    }

    fn keep_within_limits(&mut self) {
        let limit = self.settings.recording;
        self.close("the limit recorder.recording_mib is reached", |open| {
            open.bytes >= limit
        });
        if self.total <= self.settings.total {
            return;
        }
        let files = aged(&self.settings.directory).unwrap_or_default();
        self.total = files.iter().map(|(_, info)| info.bytes).sum();
        for (_, info) in files.into_iter().rev() {
            if self.total <= self.settings.total {
                break;
            }
            let open = self.open.iter().any(|open| open.path == info.path);
            if !open && std::fs::remove_file(&info.path).is_ok() {
                self.total -= info.bytes;
                self.shared.removed.fetch_add(1, Ordering::Relaxed);
            }
        }
        if self.total > self.settings.total {
            self.close("the limit recorder.total_mib is reached", |_| true);
        }
        self.look();
    }

    fn close(&mut self, why: &str, which: impl Fn(&Open) -> bool) {
        let mut closed = false;
        self.open.retain_mut(|open| {
            if !which(open) {
                return true;
            }
            closed = true;
            let written = open.file.write_all(&frame::end(why));
            if let Err(error) = written.and_then(|()| open.file.sync_data()) {
                tracing::warn!(error = %at(&open.path, &error), "a recording cannot be closed");
            }
            false
        });
        if closed {
            self.look();
        }
    }

    /// Takes note of what is on disk.
    fn look(&mut self) {
        let Ok(files) = aged(&self.settings.directory) else {
            return;
        };
        let mut list: Vec<_> = files.into_iter().map(|(_, info)| info).collect();
        for info in &mut list {
            info.open = self.open.iter().any(|open| open.path == info.path);
        }
        self.total = list.iter().map(|info| info.bytes).sum();
        self.shared.disk.store(self.total, Ordering::Relaxed);
        *self
            .shared
            .list
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = list;
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
