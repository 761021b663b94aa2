use std::fmt;
use std::path::Path;

/// A value that must not appear in logs: `Debug` and `Display` are redacted, and it is never
/// serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) const fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why a routing key could not be had from its file.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the routing key from {path}: {source}; check `pager.routing_key_file`")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file's content is no routing key.
    #[error(
        "{path} does not hold a routing key: {why}; put the integration's 32-character key into it, alone"
    )]
    Malformed {
        /// Which file.
        path: String,
        /// What is wrong, without the content.
        why: &'static str,
    },
}

/// A routing key of the Events API v2: 32 letters and digits.
pub(crate) fn routing_key(text: &str) -> Result<Secret, &'static str> {
    if text.len() != 32 {
        Err("a routing key has 32 characters")
    } else if !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        Err("a routing key has only letters and digits")
    } else {
        Ok(Secret::new(text.to_owned()))
    }
}

pub(crate) fn routing_key_from(path: &Path) -> Result<Secret, SecretError> {
    let text = std::fs::read_to_string(path).map_err(|source| SecretError::Read {
        path: path.display().to_string(),
        source,
    })?;
    routing_key(text.trim()).map_err(|why| SecretError::Malformed {
        path: path.display().to_string(),
        why,
    })
}
