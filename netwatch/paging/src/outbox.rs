//! Pages on disk until they are accepted: SQLite on a thread of its own.
//!
//! WAL with `synchronous=FULL`: a committed page survives a loss of power. Events are stored without
//! the routing key. The pager's last good addresses are kept here too: a daemon that starts in the
//! middle of a partition may have no name server.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rusqlite::{Connection, ErrorCode, params};

use crate::counters::{Totals, count};
use crate::event::Event;

/// Commands that may wait for the disk: two for each of the default capacity's pages.
const DEPTH: usize = 2_048;
/// `PRAGMA user_version` of the schema below.
const SCHEMA: i64 = 1;

impl OpenError {
    /// A new file would help.
    fn is_damage(&self) -> bool {
        match self {
            Self::Newer(_) => true,
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ),
        }
    }
}

/// A page that waits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    /// Its place in the order of pages.
    pub id: i64,
    pub queued: jiff::Timestamp,
    pub event: Event,
}

enum Command {
    Put(Box<Stored>),
    Remove(i64),
    Addresses(String, Vec<IpAddr>),
    Stop(tokio::sync::oneshot::Sender<()>),
}

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("it has schema {0}, this version knows {SCHEMA}")]
    Newer(i64),
}

/// What an earlier run left.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub pages: Vec<Stored>,
    /// The addresses of the host asked for.
    pub addresses: Vec<IpAddr>,
}

/// The way to the outbox's thread.
#[derive(Debug)]
pub(crate) struct Outbox {
    commands: Option<SyncSender<Command>>,
    /// An outbox was asked for: pages without one are counted.
    wanted: bool,
    totals: Arc<Totals>,
}

impl Outbox {
    /// Opens the outbox and reads what an earlier run left. An unusable file is moved aside; where
    /// even a new one cannot be made, pages live in memory only, which is logged: a full disk must
    /// not keep anyone from being paged.
    pub fn open(path: Option<&Path>, host: &str, totals: &Arc<Totals>) -> (Self, Left) {
        let opened = path.and_then(|path| {
            let mut opened = open(path, host);
            if let Err(error) = &opened
                && error.is_damage()
            {
                let aside = aside(path);
                tracing::error!(?path, %error, ?aside, "the outbox is unusable: moved aside, a new one is made");
                for suffix in ["", "-wal", "-shm"] {
                    let _ = std::fs::rename(with(path, suffix), with(&aside, suffix));
                }
                opened = open(path, host);
            }
            opened
                .inspect_err(|error| {
                    tracing::error!(?path, %error, "no outbox: pages that are not accepted are lost with this process");
                })
                .ok()
        });
        let mut left = Left::default();
        let commands = opened.and_then(|(connection, stored)| {
            left = stored;
            let (sender, receiver) = sync_channel(DEPTH);
            let totals = Arc::clone(totals);
            std::thread::Builder::new()
                .name("outbox".into())
                .spawn(move || run(connection, &receiver, &totals))
                .inspect_err(|error| tracing::error!(%error, "no thread for the outbox"))
                .ok()
                .map(|_| sender)
        });
        let outbox = Self {
            commands,
            wanted: path.is_some(),
            totals: Arc::clone(totals),
        };
        (outbox, left)
    }

    pub fn put(&self, page: Stored) {
        self.command(Command::Put(Box::new(page)));
    }

    pub fn remove(&self, id: i64) {
        self.command(Command::Remove(id));
    }

    pub fn addresses(&self, host: &str, addresses: Vec<IpAddr>) {
        self.command(Command::Addresses(host.to_owned(), addresses));
    }

    fn command(&self, command: Command) {
        let put = matches!(command, Command::Put(_));
        let taken = self
            .commands
            .as_ref()
            .is_some_and(|commands| commands.try_send(command).is_ok());
        if put && self.wanted && !taken {
            count(&self.totals.not_persisted);
        }
    }

    /// Waits until everything is on disk.
    pub async fn stop(&self) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        if let Some(commands) = &self.commands
            && commands.try_send(Command::Stop(sender)).is_ok()
        {
            let _ = receiver.await;
        }
    }
}

fn open(path: &Path, host: &str) -> Result<(Connection, Left), OpenError> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", 4 << 20)?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > SCHEMA {
        return Err(OpenError::Newer(version));
    }
    // Nothing is written to a file that is as it should be: it must open on a full disk.
    if version < SCHEMA {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             CREATE TABLE page (id INTEGER PRIMARY KEY, queued INTEGER NOT NULL, event TEXT NOT NULL) STRICT;
             CREATE TABLE address (host TEXT NOT NULL, address TEXT NOT NULL) STRICT;
             PRAGMA user_version = {SCHEMA};
             COMMIT;"
        ))?;
    }
    let mut left = Left::default();
    {
        let mut statement = connection.prepare("SELECT address FROM address WHERE host = ?1")?;
        let mut rows = statement.query([host])?;
        while let Some(row) = rows.next()? {
            left.addresses
                .extend(row.get::<_, String>(0)?.parse::<IpAddr>());
        }
        let mut statement = connection.prepare("SELECT id, queued, event FROM page ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, queued, event): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            match serde_json::from_str(&event) {
                Ok(event) => left.pages.push(Stored {
                    id,
                    queued: jiff::Timestamp::from_microsecond(queued).unwrap_or_default(),
                    event,
                }),
                Err(error) => {
                    tracing::error!(id, %error, "a page in the outbox is unreadable and is left out");
                }
            }
        }
    }
    Ok((connection, left))
}

fn run(mut connection: Connection, commands: &Receiver<Command>, totals: &Totals) {
    // Removals that failed (a full disk) are tried again with the next batch: a page that stays in
    // the file would be sent again after a restart.
    let mut removals: Vec<i64> = Vec::new();
    while let Ok(first) = commands.recv() {
        let mut puts = Vec::new();
        let mut addresses = None;
        let mut stop = None;
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Put(page) => puts.push(page),
                Command::Remove(id) => removals.push(id),
                Command::Addresses(host, found) => addresses = Some((host, found)),
                Command::Stop(done) => {
                    stop = Some(done);
                    break;
                }
            }
            next = commands.try_recv().ok();
        }
        match write(&mut connection, &puts, &removals, addresses.as_ref()) {
            Ok(()) => removals.clear(),
            Err(error) => {
                tracing::error!(%error, pages = puts.len(), "pages cannot be written to the outbox; they are sent all the same");
                for _ in puts {
                    count(&totals.not_persisted);
                }
                let excess = removals.len().saturating_sub(DEPTH);
                removals.drain(..excess);
            }
        }
        if let Some(done) = stop {
            // Closed before it is said: the next process finds the file free.
            drop(connection);
            let _ = done.send(());
            return;
        }
    }
}

fn write(
    connection: &mut Connection,
    puts: &[Box<Stored>],
    removals: &[i64],
    addresses: Option<&(String, Vec<IpAddr>)>,
) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction()?;
    for page in puts.iter().filter(|page| !removals.contains(&page.id)) {
        let event = serde_json::to_string(&page.event)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        transaction.execute(
            "INSERT OR REPLACE INTO page (id, queued, event) VALUES (?1, ?2, ?3)",
            params![page.id, page.queued.as_microsecond(), event],
        )?;
    }
    for id in removals {
        transaction.execute("DELETE FROM page WHERE id = ?1", [id])?;
    }
    if let Some((host, addresses)) = addresses {
        transaction.execute("DELETE FROM address", [])?;
        for address in addresses {
            transaction.execute(
                "INSERT INTO address (host, address) VALUES (?1, ?2)",
                params![host, address.to_string()],
            )?;
        }
    }
    transaction.commit()
}

fn aside(path: &Path) -> PathBuf {
    with(
        path,
        &format!(".unusable-{}", jiff::Timestamp::now().as_second()),
    )
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Secret, Settings};
    use events::{IncidentId, Page, PageAction, PageDetails, Severity, Timestamp};

    fn page(id: i64) -> Stored {
        let page = Page {
            incident: IncidentId(format!("inc-{id}")),
            action: PageAction::Trigger,
            severity: Severity::Critical,
            summary: String::new(),
            component: String::new(),
            class: String::new(),
            onset: Timestamp::ZERO,
            at: Timestamp::ZERO,
            details: PageDetails::default(),
        };
        let settings = Settings::new("", Secret::new("TOPSECRETKEY"), "host");
        Stored {
            id,
            queued: jiff::Timestamp::from_second(1).unwrap(),
            event: Event::of(&page, jiff::Timestamp::UNIX_EPOCH, &settings),
        }
    }

    #[tokio::test]
    async fn what_is_put_and_not_removed_is_found_again_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.db");
        let totals = Arc::new(Totals::default());
        let (outbox, left) = Outbox::open(Some(&path), "h", &totals);
        assert!(left.pages.is_empty());
        for id in [3, 1, 2] {
            outbox.put(page(id));
        }
        outbox.remove(1);
        let addresses: Vec<IpAddr> =
            vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        outbox.addresses("h", vec!["192.0.2.9".parse().unwrap()]);
        outbox.addresses("h", addresses.clone());
        outbox.stop().await;
        let (_, left) = Outbox::open(Some(&path), "h", &totals);
        assert_eq!(left.pages, [page(2), page(3)]);
        assert_eq!(left.addresses, addresses);
        let bytes = std::fs::read(&path).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("TOPSECRET"));
        assert_eq!(totals.read().not_persisted, 0);
    }

    #[tokio::test]
    async fn an_unusable_file_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.db");
        std::fs::write(&path, vec![b'x'; 10_000]).unwrap();
        let totals = Arc::new(Totals::default());
        let (outbox, left) = Outbox::open(Some(&path), "h", &totals);
        assert!(left.pages.is_empty());
        outbox.put(page(1));
        outbox.stop().await;
        assert_eq!(Outbox::open(Some(&path), "h", &totals).1.pages, [page(1)]);
        let kept = std::fs::read_dir(folder.path())
            .unwrap()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().contains(".unusable-"))
            .count();
        assert_eq!(kept, 1);
    }
}
