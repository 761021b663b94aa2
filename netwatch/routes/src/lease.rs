//! The lease file: what the watchdog goes by. Written before routes are, in one step.

use std::io;
use std::path::{Path, PathBuf};

use events::{IncidentId, PlanId, RouteSpec, Timestamp};
use serde::{Deserialize, Serialize};

use crate::files;

const VERSION: u32 = 1;
const MAX_BYTES: u64 = 1 << 20;

/// The routes of one plan, and until when they may stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Which plan.
    pub plan: PlanId,
    /// For which incident.
    pub incident: IncidentId,
    /// On `CLOCK_MONOTONIC`, which all processes of a boot share.
    pub expires_at: Timestamp,
    /// Its routes.
    pub routes: Vec<RouteSpec>,
}

/// All leases of a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseFile {
    version: u32,
    /// Leases of another boot mean nothing: its routes are gone, and its clock.
    boot_id: String,
    /// The leases.
    pub leases: Vec<Lease>,
}

/// Why the lease file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LeaseFileError {
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// It is not what this version writes.
    #[error("{} is not a lease file of this version: {text}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
}

impl LeaseFile {
    /// Leases of this boot.
    #[must_use]
    pub fn new(leases: Vec<Lease>) -> Self {
        Self {
            version: VERSION,
            boot_id: boot_id(),
            leases,
        }
    }

    /// Where it is in a runtime directory.
    #[must_use]
    pub fn path(runtime_dir: &Path) -> PathBuf {
        runtime_dir.join("leases.json")
    }

    /// Writes it in one step, readable by this user alone.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write(&self, runtime_dir: &Path) -> Result<(), LeaseFileError> {
        let path = Self::path(runtime_dir);
        let text = serde_json::to_vec(self).map_err(|e| LeaseFileError::Malformed {
            path: path.clone(),
            text: e.to_string(),
        })?;
        files::write_atomic(&path, &text).map_err(|source| LeaseFileError::Io { path, source })
    }

    /// Reads it; no file is no leases, and so is the file of another boot.
    ///
    /// # Errors
    /// It cannot be read, or is malformed.
    pub fn read(runtime_dir: &Path) -> Result<Self, LeaseFileError> {
        let path = Self::path(runtime_dir);
        let bytes = match files::read_bounded(&path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::new(Vec::new())),
            Err(source) => return Err(LeaseFileError::Io { path, source }),
        };
        let file: Self = serde_json::from_slice(&bytes).map_err(|e| LeaseFileError::Malformed {
            path: path.clone(),
            text: e.to_string(),
        })?;
        if file.version != VERSION {
            return Err(LeaseFileError::Malformed {
                path,
                text: format!("version {}", file.version),
            });
        }
        if file.boot_id != boot_id() {
            return Ok(Self::new(Vec::new()));
        }
        Ok(file)
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
