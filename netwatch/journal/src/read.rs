//! Reading, from any process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use events::{Entry, EntryKind, Incident, IncidentId, IncidentState, Verdict};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};
use serde::Serialize;

use crate::report::Report;
use crate::schema::{self, Found};

/// Why a journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no file.
    #[error("no journal at {0:?}: has the daemon run on this host? see [host] state_dir")]
    Absent(PathBuf),
    /// It is not a journal of this version.
    #[error("{0:?} is not a journal that this version can read")]
    Unknown(PathBuf),
    /// No such incident.
    #[error("no incident {0:?} in the journal; `netwatch report --list` shows all")]
    NoIncident(String),
    /// The name's start fits several.
    #[error("{given:?} fits several incidents: {}", fitting.join(", "))]
    Ambiguous {
        /// What was asked for.
        given: String,
        /// What it fits.
        fitting: Vec<String>,
    },
    /// SQLite failed.
    #[error("journal: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// One incident in a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IncidentLine {
    /// Its name.
    pub id: IncidentId,
    /// Its stage; `None` where the daemon died before it wrote one.
    pub state: Option<IncidentState>,
    /// The verdict's class.
    pub class: Option<String>,
    /// The verdict in words.
    pub verdict: Option<String>,
    /// When it began.
    pub onset: jiff::Timestamp,
    /// From onset to resolution, in milliseconds; `None`: not resolved.
    pub duration_ms: Option<f64>,
    /// Peers affected.
    pub affected_peers: usize,
    /// Lines of its timeline.
    pub entries: u64,
}

/// Reads a journal; it changes nothing and may be used while the daemon writes.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
}

impl Reader {
    /// Opens a journal for reading.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        if !path.exists() {
            return Err(ReadError::Absent(path.to_owned()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(path, flags).and_then(|connection| {
            connection.busy_timeout(Duration::from_secs(2))?;
            let found = schema::examine(&connection)?;
            Ok((connection, found))
        });
        let (connection, found) = match opened {
            Ok(opened) => opened,
            Err(error) => immutable(path).ok_or(error)?,
        };
        match found {
            Found::Current | Found::Empty => Ok(Self { connection }),
            Found::Newer(_) | Found::Foreign => Err(ReadError::Unknown(path.to_owned())),
        }
    }

    /// The newest incidents, newest first.
    pub fn incidents(&self, limit: u32) -> Result<Vec<IncidentLine>, ReadError> {
        if self.is_empty()? {
            return Ok(Vec::new());
        }
        let mut statement = self.connection.prepare(
            "SELECT id, onset_wall, snapshot,
                    (SELECT count(*) FROM entry WHERE entry.incident = incident.id)
             FROM incident ORDER BY onset_wall DESC, id DESC LIMIT ?1",
        )?;
        let lines = statement
            .query_map([limit], line)?
            .collect::<Result<_, _>>()?;
        Ok(lines)
    }

    /// The name of the newest incident that was one; where there is none lately, of the newest
    /// suspicion.
    pub fn latest(&self) -> Result<Option<IncidentId>, ReadError> {
        const LATELY: u32 = 100;
        let mut lines = self.incidents(LATELY)?;
        let real = lines.iter().position(|line| {
            let class = line.class.as_deref();
            class.is_some_and(|class| class != Verdict::None.class())
        });
        if lines.is_empty() {
            return Ok(None);
        }
        Ok(Some(lines.swap_remove(real.unwrap_or(0)).id))
    }

    /// The newest incidents that have no end, each with the wall-clock time of its onset.
    pub fn unresolved(&self, limit: u32) -> Result<Vec<(Incident, jiff::Timestamp)>, ReadError> {
        if self.is_empty()? {
            return Ok(Vec::new());
        }
        let mut statement = self.connection.prepare(
            "SELECT snapshot, onset_wall FROM incident WHERE snapshot IS NOT NULL
             ORDER BY onset_wall DESC LIMIT ?1",
        )?;
        let rows = statement.query_map([limit], |row| {
            Ok((row.get::<_, String>(0)?, timestamp(row.get(1)?)))
        })?;
        let mut unresolved = Vec::new();
        for row in rows {
            let (snapshot, onset) = row?;
            unresolved.extend(
                parse(&snapshot)
                    .filter(|incident| incident.resolved_at.is_none())
                    .map(|incident| (incident, onset)),
            );
        }
        Ok(unresolved)
    }

    /// Incidents that routes were planned for since a time: when first, and the verdict's class then.
    pub fn planned_since(
        &self,
        since: jiff::Timestamp,
    ) -> Result<Vec<(jiff::Timestamp, String)>, ReadError> {
        if self.is_empty()? {
            return Ok(Vec::new());
        }
        // An incident's verdict may be older than its plan: all its entries are looked at.
        let mut statement = self.connection.prepare(
            "SELECT incident, wall, body FROM entry WHERE incident IN
                 (SELECT DISTINCT incident FROM entry WHERE wall >= ?1)
             ORDER BY at, sequence",
        )?;
        let since = i64::try_from(since.as_nanosecond()).unwrap_or(i64::MAX);
        let mut rows = statement.query([since])?;
        let mut classes: BTreeMap<String, String> = BTreeMap::new();
        let mut planned: BTreeMap<String, (jiff::Timestamp, String)> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let incident: String = row.get(0)?;
            let wall: i64 = row.get(1)?;
            let Ok(entry) = serde_json::from_str::<Entry>(&row.get::<_, String>(2)?) else {
                continue;
            };
            match entry.kind {
                EntryKind::Verdict { verdict } => {
                    classes.insert(incident, verdict.class().to_owned());
                }
                EntryKind::Planned { .. } => {
                    let class = classes.get(&incident).cloned().unwrap_or_default();
                    planned.entry(incident).or_insert((timestamp(wall), class));
                }
                _ => {}
            }
        }
        let mut planned: Vec<_> = planned.into_values().collect();
        planned.retain(|(wall, _)| wall.as_nanosecond() >= i128::from(since));
        planned.sort();
        Ok(planned)
    }

    /// The incident with that name, or the only one whose name begins so.
    pub fn find(&self, name: &str) -> Result<IncidentId, ReadError> {
        if self.is_empty()? {
            return Err(ReadError::NoIncident(name.to_owned()));
        }
        let mut statement = self.connection.prepare(
            "SELECT id FROM incident WHERE substr(id, 1, length(?1)) = ?1 ORDER BY id = ?1 DESC, id LIMIT 10",
        )?;
        let fitting: Vec<String> = statement
            .query_map([name], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        match fitting.as_slice() {
            [] => Err(ReadError::NoIncident(name.to_owned())),
            [first, rest @ ..] if first == name || rest.is_empty() => Ok(IncidentId(first.clone())),
            _ => Err(ReadError::Ambiguous {
                given: name.to_owned(),
                fitting,
            }),
        }
    }

    /// An incident's report.
    pub fn report(&self, id: &IncidentId) -> Result<Report, ReadError> {
        // One view of the file for both queries.
        let transaction = self.connection.unchecked_transaction()?;
        let row: Option<(i64, Option<String>)> = if self.is_empty()? {
            None
        } else {
            transaction
                .query_row(
                    "SELECT onset_wall, snapshot FROM incident WHERE id = ?1",
                    [&id.0],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?
        };
        let Some((onset_wall, snapshot)) = row else {
            return Err(ReadError::NoIncident(id.0.clone()));
        };
        let mut statement = transaction
            .prepare("SELECT wall, body FROM entry WHERE incident = ?1 ORDER BY at, sequence")?;
        let mut entries: Vec<(Entry, jiff::Timestamp)> = Vec::new();
        let mut rows = statement.query([&id.0])?;
        while let Some(row) = rows.next()? {
            let body: String = row.get(1)?;
            match serde_json::from_str(&body) {
                Ok(entry) => entries.push((entry, timestamp(row.get(0)?))),
                Err(error) => {
                    tracing::warn!(incident = %id, %error, "an entry of the journal is unreadable and is left out");
                }
            }
        }
        Ok(Report::new(
            id.clone(),
            timestamp(onset_wall),
            snapshot.as_deref().and_then(parse),
            entries,
        ))
    }

    fn is_empty(&self) -> Result<bool, ReadError> {
        Ok(matches!(schema::examine(&self.connection)?, Found::Empty))
    }
}

/// SQLite must write beside a WAL database in order to read it. Where it may not, and no WAL is left
/// to be read (the daemon has stopped), the file alone is the truth.
fn immutable(path: &Path) -> Option<(Connection, Found)> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    if Path::new(&wal).exists() {
        return None;
    }
    let escaped: String = path
        .to_str()?
        .chars()
        .map(|c| match c {
            '%' | '?' | '#' => format!("%{:02x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let connection =
        Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags).ok()?;
    let found = schema::examine(&connection).ok()?;
    Some((connection, found))
}

fn line(row: &Row<'_>) -> rusqlite::Result<IncidentLine> {
    let snapshot: Option<String> = row.get(2)?;
    let incident = snapshot.as_deref().and_then(parse);
    let verdict = incident
        .as_ref()
        .and_then(|incident| incident.verdict.as_ref());
    Ok(IncidentLine {
        id: IncidentId(row.get(0)?),
        state: incident.as_ref().map(|incident| incident.state),
        class: verdict.map(|verdict| verdict.class().to_owned()),
        verdict: verdict.map(ToString::to_string),
        onset: timestamp(row.get(1)?),
        duration_ms: incident.as_ref().and_then(|incident| {
            let end = incident.resolved_at?;
            Some(crate::report::offset_ms(end, incident.onset))
        }),
        affected_peers: incident
            .as_ref()
            .map_or(0, |incident| incident.affected.len()),
        entries: row.get::<_, u32>(3)?.into(),
    })
}

fn parse(snapshot: &str) -> Option<Incident> {
    serde_json::from_str(snapshot)
        .inspect_err(|error| tracing::warn!(%error, "a snapshot in the journal is unreadable"))
        .ok()
}

fn timestamp(nanos: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default()
}
