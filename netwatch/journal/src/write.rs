//! The journal's writer.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use events::{Entry, EntryKind, Incident};
use rusqlite::{Connection, ErrorCode, params};
use serde::Serialize;

use crate::schema::{self, Found};

/// Entries that may wait for the thread: an incident makes some tens.
const DEPTH: usize = 4_096;
/// Entries that may wait for the disk while it refuses them.
const BACKLOG: usize = 16_384;
/// Entries of one transaction.
const BATCH: usize = 512;
/// Time between two tries while the disk refuses.
const RETRY: Duration = Duration::from_secs(1);
/// Time between two looks for incidents that are too old.
const PRUNE: Duration = Duration::from_secs(3_600);
/// Damaged files that are kept.
const KEPT_ASIDE: usize = 3;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The most incidents.
    pub incidents: u32,
    /// The greatest age of an incident.
    pub age: Duration,
    /// The greatest size of the file, in bytes.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            incidents: 10_000,
            age: Duration::from_secs(400 * 86_400),
            bytes: 256 << 20,
        }
    }
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A later version wrote it.
    #[error(
        "journal {path:?} has schema {found}, this version knows {known}: run the newer netwatch, or move the file away"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema known.
        known: i64,
    },
    /// It is another program's database.
    #[error(
        "{path:?} is a SQLite database but not a netwatch journal: set another state_dir, or move the file away"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be used.
    #[error("journal {path:?}: {error}; check that its directory exists and is writable")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        error: rusqlite::Error,
    },
    /// The thread cannot be made.
    #[error("no thread for the journal: {0}")]
    Thread(#[from] std::io::Error),
}

/// What the journal counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Entries and snapshots committed.
    pub written: u64,
    /// Entries and snapshots lost: the queue or the backlog was full.
    pub lost: u64,
    /// Transactions that failed.
    pub errors: u64,
    /// Incidents removed by retention.
    pub pruned: u64,
    /// Files moved aside because they were damaged.
    pub moved_aside: u64,
}

#[derive(Debug, Default)]
struct Totals {
    written: AtomicU64,
    lost: AtomicU64,
    errors: AtomicU64,
    pruned: AtomicU64,
    moved_aside: AtomicU64,
}

impl Totals {
    fn add(total: &AtomicU64, count: usize) {
        total.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

enum Record {
    Entry(Box<Entry>, jiff::Timestamp),
    Incident(Box<Incident>, jiff::Timestamp),
}

enum Command {
    Record(Record),
    Flush(Sender<bool>),
}

/// The way to the journal's thread. Dropping it writes what waits, for at most five seconds.
#[derive(Debug)]
pub struct Journal {
    commands: Option<SyncSender<Command>>,
    thread: Option<JoinHandle<()>>,
    totals: Arc<Totals>,
}

impl Journal {
    /// Opens or creates a journal with the default retention. A damaged file is moved aside
    /// (`journal.db.damaged-<time>`) and a new one is made, which is logged.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        Self::open_with(path, Retention::default())
    }

    /// The same with another retention.
    pub fn open_with(path: &Path, retention: Retention) -> Result<Self, JournalError> {
        let totals = Arc::new(Totals::default());
        let connection = open(path, retention, &totals)?;
        let (commands, receiver) = sync_channel(DEPTH);
        let writer = Writer {
            path: path.to_owned(),
            retention,
            totals: Arc::clone(&totals),
            file: identity(path),
            connection: Some(connection),
            backlog: VecDeque::new(),
            broken: None,
        };
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run(&receiver))?;
        Ok(Self {
            commands: Some(commands),
            thread: Some(thread),
            totals,
        })
    }

    /// Appends a line to an incident's timeline; `wall` is the wall-clock time of `entry.at`.
    /// Returns at once; where the queue is full the entry is lost and counted.
    pub fn append(&self, entry: Entry, wall: jiff::Timestamp) {
        self.record(Record::Entry(Box::new(entry), wall));
    }

    /// Keeps an incident as it is now; `wall` is the wall-clock time of its onset.
    pub fn incident(&self, incident: Incident, wall: jiff::Timestamp) {
        self.record(Record::Incident(Box::new(incident), wall));
    }

    fn record(&self, record: Record) {
        let sent = self
            .commands
            .as_ref()
            .is_some_and(|commands| commands.try_send(Command::Record(record)).is_ok());
        if !sent {
            Totals::add(&self.totals.lost, 1);
        }
    }

    /// Waits until everything appended before is committed; false where that took longer than
    /// `within` (at most an hour) or the disk refused it.
    pub fn flush(&self, within: Duration) -> bool {
        let limit = Instant::now() + within.min(PRUNE);
        let (done, written) = channel();
        let Some(commands) = &self.commands else {
            return false;
        };
        let mut command = Command::Flush(done);
        while let Err(error) = commands.try_send(command) {
            match error {
                std::sync::mpsc::TrySendError::Full(back) if Instant::now() < limit => {
                    command = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => return false,
            }
        }
        written
            .recv_timeout(limit.saturating_duration_since(Instant::now()))
            .unwrap_or(false)
    }

    /// Totals since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let get = |total: &AtomicU64| total.load(Ordering::Relaxed);
        Counters {
            written: get(&self.totals.written),
            lost: get(&self.totals.lost),
            errors: get(&self.totals.errors),
            pruned: get(&self.totals.pruned),
            moved_aside: get(&self.totals.moved_aside),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let ended = self.flush(Duration::from_secs(5));
        self.commands = None;
        // A thread that the disk holds in a system call is not waited for.
        if ended && let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Writer {
    path: PathBuf,
    retention: Retention,
    totals: Arc<Totals>,
    /// Device and inode of the file: SQLite would go on writing to one that was removed.
    file: Option<(u64, u64)>,
    /// `None` after damage, until a new file could be made.
    connection: Option<Connection>,
    /// What the disk refused so far, oldest first.
    backlog: VecDeque<Record>,
    /// Since when the disk refuses, and when that was logged.
    broken: Option<(Instant, Instant)>,
}

impl Writer {
    fn run(mut self, commands: &Receiver<Command>) {
        let mut pruned = Instant::now();
        let mut tried = pruned;
        loop {
            let wait = if self.backlog.is_empty() {
                PRUNE
            } else {
                RETRY
            };
            let mut flushes = Vec::new();
            let mut next = match commands.recv_timeout(wait) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut taken = 0;
            while let Some(command) = next {
                match command {
                    Command::Record(record) => {
                        if self.backlog.len() >= BACKLOG {
                            Totals::add(&self.totals.lost, 1);
                        } else {
                            self.backlog.push_back(record);
                        }
                    }
                    Command::Flush(done) => flushes.push(done),
                }
                taken += 1;
                next = (taken < BATCH).then(|| commands.try_recv().ok()).flatten();
            }
            let due = tried.elapsed() >= RETRY;
            let written = if self.broken.is_none() || due || !flushes.is_empty() {
                tried = Instant::now();
                self.write()
            } else {
                false
            };
            for done in flushes {
                let _ = done.send(written);
            }
            if written && pruned.elapsed() >= PRUNE {
                pruned = Instant::now();
                if let Some(connection) = &self.connection {
                    let _ = prune(connection, self.retention, &self.totals);
                }
            }
        }
    }

    /// Commits the backlog; false where the disk refused.
    fn write(&mut self) -> bool {
        if !self.backlog.is_empty()
            && self.connection.is_some()
            && identity(&self.path) != self.file
        {
            tracing::error!(path = ?self.path, "the journal was removed or replaced under way; it is opened anew");
            self.connection = None;
        }
        while !self.backlog.is_empty() {
            let Some(connection) = &mut self.connection else {
                match open(&self.path, self.retention, &self.totals) {
                    Ok(connection) => {
                        self.connection = Some(connection);
                        self.file = identity(&self.path);
                    }
                    Err(error) => {
                        self.refused(&error.to_string());
                        return false;
                    }
                }
                continue;
            };
            let batch = self.backlog.len().min(BATCH);
            match commit(connection, self.backlog.iter().take(batch)) {
                Ok(()) => {
                    self.backlog.drain(..batch);
                    Totals::add(&self.totals.written, batch);
                    if let Some((since, _)) = self.broken.take() {
                        tracing::info!(path = ?self.path, after = ?since.elapsed(), "the journal is written again");
                    }
                }
                Err(error) => {
                    Totals::add(&self.totals.errors, 1);
                    match error.sqlite_error_code() {
                        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                            // Its successor is opened, and this one moved aside, on the next turn.
                            tracing::error!(path = ?self.path, %error, "the journal is damaged");
                            self.connection = None;
                            move_aside(&self.path, &self.totals);
                        }
                        Some(ErrorCode::DiskFull)
                            if prune_oldest(connection, &self.totals).unwrap_or(0) > 0 => {}
                        _ => {
                            self.refused(&error.to_string());
                            return false;
                        }
                    }
                }
            }
        }
        true
    }

    /// Logs a refusal, at most every minute.
    fn refused(&mut self, error: &str) {
        let now = Instant::now();
        let (since, logged) = *self.broken.get_or_insert((now, now));
        if since == now || logged.elapsed() > Duration::from_secs(60) {
            self.broken = Some((since, now));
            tracing::error!(path = ?self.path, error, waiting = self.backlog.len(),
                "the journal cannot be written; entries wait in memory and the daemon goes on");
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.dev(), data.ino()))
}

fn commit<'a>(
    connection: &mut Connection,
    records: impl Iterator<Item = &'a Record> + Clone,
) -> rusqlite::Result<()> {
    let planned = records.clone().any(|record| {
        matches!(record, Record::Entry(entry, _) if matches!(entry.kind, EntryKind::Planned { .. }))
    });
    connection.pragma_update(None, "synchronous", if planned { "FULL" } else { "NORMAL" })?;
    let transaction = connection.transaction()?;
    for record in records {
        match record {
            Record::Entry(entry, wall) => {
                transaction
                    .prepare_cached(
                        "INSERT INTO incident (id, onset_wall) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                    )?
                    .execute(params![entry.incident.0, nanos(*wall)])?;
                transaction
                    .prepare_cached(
                        "INSERT INTO entry (incident, at, wall, body) VALUES (?1, ?2, ?3, ?4)",
                    )?
                    .execute(params![
                        entry.incident.0,
                        i64::try_from(entry.at.as_nanos()).unwrap_or(i64::MAX),
                        nanos(*wall),
                        json(entry)?
                    ])?;
            }
            Record::Incident(incident, wall) => {
                transaction
                    .prepare_cached(
                        "INSERT INTO incident (id, onset_wall, snapshot) VALUES (?1, ?2, ?3)
                         ON CONFLICT DO UPDATE SET onset_wall = ?2, snapshot = ?3",
                    )?
                    .execute(params![incident.id.0, nanos(*wall), json(incident)?])?;
            }
        }
    }
    transaction.commit()
}

fn json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn nanos(wall: jiff::Timestamp) -> i64 {
    i64::try_from(wall.as_nanosecond()).unwrap_or(i64::MAX)
}

/// Opens a journal for writing; a damaged one is moved aside first.
fn open(path: &Path, retention: Retention, totals: &Totals) -> Result<Connection, JournalError> {
    match try_open(path, retention, totals) {
        Err(JournalError::Open { error, .. })
            if matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ) =>
        {
            tracing::error!(?path, %error, "the journal is damaged");
            move_aside(path, totals);
            try_open(path, retention, totals)
        }
        other => other,
    }
}

fn try_open(
    path: &Path,
    retention: Retention,
    totals: &Totals,
) -> Result<Connection, JournalError> {
    let failed = |error| JournalError::Open {
        path: path.to_owned(),
        error,
    };
    let connection = Connection::open(path).map_err(failed)?;
    match schema::examine(&connection).map_err(failed)? {
        Found::Current => {
            let verdict: String = connection
                .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
                .map_err(failed)?;
            if verdict != "ok" {
                return Err(failed(rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
                    Some(verdict),
                )));
            }
        }
        Found::Empty => {}
        Found::Newer(found) => {
            return Err(JournalError::Newer {
                path: path.to_owned(),
                found,
                known: schema::VERSION,
            });
        }
        Found::Foreign => {
            return Err(JournalError::Foreign {
                path: path.to_owned(),
            });
        }
    }
    let prepare = || -> rusqlite::Result<()> {
        connection.busy_timeout(Duration::from_secs(2))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        // KiB: appending needs hardly any.
        connection.pragma_update(None, "cache_size", -256)?;
        if matches!(schema::examine(&connection)?, Found::Empty) {
            schema::create(&connection)?;
        }
        let page: u32 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let pages = (retention.bytes / u64::from(page).max(1)).max(16);
        // The pragma answers with the new limit.
        connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
        prune(&connection, retention, totals)
    };
    prepare().map_err(failed)?;
    Ok(connection)
}

/// Removes incidents beyond the retention's number and age.
fn prune(connection: &Connection, retention: Retention, totals: &Totals) -> rusqlite::Result<()> {
    let oldest = nanos(jiff::Timestamp::now())
        .saturating_sub(i64::try_from(retention.age.as_nanos()).unwrap_or(i64::MAX));
    let removed = connection.execute(
        "DELETE FROM incident WHERE onset_wall < ?1 OR id NOT IN
            (SELECT id FROM incident ORDER BY onset_wall DESC, id DESC LIMIT ?2)",
        params![oldest, retention.incidents],
    )?;
    Totals::add(&totals.pruned, removed);
    Ok(())
}

/// Removes the older half of the incidents, the newest one never.
fn prune_oldest(connection: &Connection, totals: &Totals) -> rusqlite::Result<usize> {
    let removed = connection.execute(
        "DELETE FROM incident WHERE id IN (SELECT id FROM incident ORDER BY onset_wall, id
            LIMIT (SELECT count(*) / 2 FROM incident))",
        [],
    )?;
    if removed > 0 {
        tracing::warn!(
            removed,
            "the journal is full: its oldest incidents are removed"
        );
    }
    Totals::add(&totals.pruned, removed);
    Ok(removed)
}

/// Renames a damaged file with its WAL, and removes the oldest of those kept before.
fn move_aside(path: &Path, totals: &Totals) {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mark = format!(".damaged-{}", jiff::Timestamp::now().as_microsecond());
    let aside = with(&mark);
    match std::fs::rename(path, &aside) {
        Ok(()) => tracing::error!(
            ?path,
            ?aside,
            "the damaged journal was moved aside; a new one begins"
        ),
        Err(error) => tracing::error!(?path, %error, "the damaged journal cannot be moved aside"),
    }
    Totals::add(&totals.moved_aside, 1);
    let _ = std::fs::rename(with("-wal"), with(&format!("{mark}-wal")));
    let _ = std::fs::remove_file(with("-shm"));
    let Some((folder, name)) = path.parent().zip(path.file_name()) else {
        return;
    };
    let prefix = format!("{}.damaged-", name.to_string_lossy());
    let mut kept: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .filter(|path| !path.to_string_lossy().ends_with("-wal"))
        .collect();
    kept.sort();
    let excess = kept.len().saturating_sub(KEPT_ASIDE);
    for old in kept.iter().take(excess) {
        let _ = std::fs::remove_file(old);
        let mut wal = old.as_os_str().to_owned();
        wal.push("-wal");
        let _ = std::fs::remove_file(wal);
    }
}
