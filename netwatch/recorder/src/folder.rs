//! The directory of recordings.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// What recordings are called: `INCIDENT.nwrec`.
pub const EXTENSION: &str = "nwrec";

/// A recording on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingInfo {
    /// Of which incident, by the file's name.
    pub incident: String,
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// It is still written to.
    pub open: bool,
}

/// The file of an incident. Bytes of its name that could lead elsewhere become `_`.
pub(crate) fn path_of(directory: &Path, incident: &str) -> PathBuf {
    let name: String = incident
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    directory.join(format!("{name}.{EXTENSION}"))
}

/// The recordings in a directory, the newest first. A directory that is missing holds none.
///
/// # Errors
/// The directory cannot be read.
pub fn list(directory: &Path) -> io::Result<Vec<RecordingInfo>> {
    Ok(aged(directory)?.into_iter().map(|(_, info)| info).collect())
}

/// The newest first.
pub(crate) fn aged(directory: &Path) -> io::Result<Vec<(SystemTime, RecordingInfo)>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let (Some(stem), true) = (stem, path.extension().is_some_and(|e| e == EXTENSION)) else {
            continue;
        };
        // Another process may have removed it meanwhile.
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        if !metadata.is_file() {
            continue;
        }
        let info = RecordingInfo {
            incident: stem.to_owned(),
            bytes: metadata.len(),
            open: false,
            path: path.clone(),
        };
        found.push((metadata.modified()?, info));
    }
    found.sort_by(|a, b| (b.0, &b.1.path).cmp(&(a.0, &a.1.path)));
    Ok(found)
}

/// The recording that is meant: a file, an incident's name or a part of it that only one has;
/// without a name the newest.
///
/// # Errors
/// The directory cannot be read, or none or several recordings are meant; in words.
pub fn find(directory: &Path, name: Option<&str>) -> Result<PathBuf, String> {
    if let Some(name) = name
        && Path::new(name).is_file()
    {
        return Ok(PathBuf::from(name));
    }
    let place = directory.display();
    let all = list(directory).map_err(|error| format!("cannot read {place}: {error}"))?;
    let Some(name) = name else {
        return all
            .into_iter()
            .next()
            .map(|info| info.path)
            .ok_or_else(|| format!("there is no recording in {place}"));
    };
    let exact = all.iter().find(|info| info.incident == name);
    let mut partly = all.iter().filter(|info| info.incident.contains(name));
    match (exact, partly.next(), partly.next()) {
        (Some(info), ..) | (None, Some(info), None) => Ok(info.path.clone()),
        (None, None, _) => Err(format!(
            "`{name}` is neither a file nor an incident with a recording in {place}"
        )),
        (None, Some(_), Some(_)) => Err(format!(
            "several recordings in {place} are called like `{name}`: give more of the name"
        )),
    }
}
