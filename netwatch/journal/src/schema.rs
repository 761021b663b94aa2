//! The tables.
//!
//! Times are nanoseconds: `at` and `received` on the monotonic clock of the run that wrote them,
//! `wall` and `onset_wall` since the Unix epoch. Entries and snapshots are JSON of the `events` types.

use rusqlite::Connection;

/// `PRAGMA user_version`.
pub(crate) const VERSION: i64 = 1;
/// `PRAGMA application_id`: "nwjl".
pub(crate) const APPLICATION: i64 = 0x6e77_6a6c;

const TABLES: &str = "
CREATE TABLE incident (
    id         TEXT PRIMARY KEY,
    onset_wall INTEGER NOT NULL,
    snapshot   TEXT
) STRICT;
CREATE INDEX incident_onset ON incident (onset_wall);
CREATE TABLE entry (
    sequence INTEGER PRIMARY KEY,
    incident TEXT NOT NULL REFERENCES incident (id) ON DELETE CASCADE,
    at       INTEGER NOT NULL,
    wall     INTEGER NOT NULL,
    body     TEXT NOT NULL
) STRICT;
CREATE INDEX entry_incident ON entry (incident, at, sequence);
";

/// What a file is.
#[derive(Debug)]
pub(crate) enum Found {
    /// Ours, of this version.
    Current,
    /// Without a table.
    Empty,
    /// Written by a later version.
    Newer(i64),
    /// Another program's.
    Foreign,
}

pub(crate) fn examine(connection: &Connection) -> rusqlite::Result<Found> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let version = number("PRAGMA user_version")?;
    let application = number("PRAGMA application_id")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    Ok(if tables == 0 && version == 0 {
        Found::Empty
    } else if application != APPLICATION {
        Found::Foreign
    } else if version > VERSION {
        Found::Newer(version)
    } else {
        Found::Current
    })
}

pub(crate) fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {TABLES}
         PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT;"
    ))
}
