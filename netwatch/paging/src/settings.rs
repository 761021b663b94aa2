//! What a pager is told at its start.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use events::EgressName;

/// A routing key. Its `Debug` shows nothing of it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a key; surrounding white space (a key file's line end) is removed.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self(key.trim().to_owned())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// A text of others with every occurrence of the key blotted out.
    pub(crate) fn redact(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        text.replace(&self.0, "[redacted]")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// An egress through which pages may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressSettings {
    /// Its configured name.
    pub name: EgressName,
    /// Its interface (`SO_BINDTODEVICE`).
    pub interface: String,
}

/// When what is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Time without an answer after which the next egress is tried as well. Where an egress's usual
    /// round trip is longer, one and a half of that, at most five times this value.
    pub hedge: Duration,
    /// Time without an answer after which a try has failed; doubled with each round of tries.
    pub answer: Duration,
    /// The largest value that `answer` is doubled to.
    pub answer_max: Duration,
    /// Waits between rounds; after the last one it is doubled up to the cap.
    pub backoff: Vec<Duration>,
    /// The cap where no answer came.
    pub network_cap: Duration,
    /// The cap where the pager answered with an error.
    pub server_cap: Duration,
    /// Wait after 429 without a `Retry-After`.
    pub rate_limited: Duration,
    /// The longest `Retry-After` that is believed.
    pub retry_after_max: Duration,
    /// A page that was not accepted for so long is given up.
    pub give_up: Duration,
    /// Time between two requests that keep an idle connection open.
    pub warm: Duration,
    /// Time between two tries to open a connection that is broken.
    pub rewarm: Duration,
    /// Time between two resolutions of the pager's name.
    pub resolve: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            hedge: Duration::from_millis(100),
            answer: Duration::from_secs(3),
            answer_max: Duration::from_secs(15),
            backoff: [200, 500, 1_000, 2_000].map(Duration::from_millis).to_vec(),
            network_cap: Duration::from_secs(5),
            server_cap: Duration::from_secs(30),
            rate_limited: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(300),
            give_up: Duration::from_secs(24 * 3_600),
            warm: Duration::from_secs(20),
            rewarm: Duration::from_secs(2),
            resolve: Duration::from_secs(300),
        }
    }
}

/// What a pager is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where events are posted (`https://events.pagerduty.com/v2/enqueue`).
    pub url: String,
    /// The integration's key.
    pub routing_key: Secret,
    /// The affected system: this host's name.
    pub source: String,
    /// The `client` shown with an alert.
    pub client: String,
    /// A link to it.
    pub client_url: Option<String>,
    /// A PEM file of authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Egresses in order of preference. After them an unpinned client follows the host's own routes;
    /// with none it is the only one.
    pub egresses: Vec<EgressSettings>,
    /// The outbox's database; `None`: in memory only (for a single test page).
    pub outbox: Option<PathBuf>,
    /// The most pages that may wait; beyond that the least severe is dropped.
    pub capacity: usize,
    /// When what is tried again.
    pub schedule: Schedule,
}

impl Settings {
    /// The defaults around the three values that have none.
    #[must_use]
    pub fn new(url: &str, routing_key: Secret, source: &str) -> Self {
        Self {
            url: url.to_owned(),
            routing_key,
            source: source.to_owned(),
            client: "netwatch".to_owned(),
            client_url: None,
            ca_file: None,
            egresses: Vec::new(),
            outbox: None,
            capacity: 1_000,
            schedule: Schedule::default(),
        }
    }
}

/// Why a pager cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The URL cannot be used.
    #[error(
        "pager.url {url:?}: {reason}; expected https://events.pagerduty.com/v2/enqueue or the like"
    )]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no key.
    #[error(
        "pager.routing_key is empty: set it, or routing_key_file, to the Events API v2 integration key"
    )]
    NoRoutingKey,
    /// The extra authorities cannot be read.
    #[error("pager.ca_file {path:?}: {reason}; expected a PEM file with at least one certificate")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system has no authorities and none are configured.
    #[error(
        "no trusted certificate authorities on this host ({0}): install ca-certificates or set pager.ca_file"
    )]
    NoAuthorities(String),
    /// The HTTP client cannot be made.
    #[error("HTTP client for the pager: {0}")]
    Client(String),
    /// There is no tokio runtime.
    #[error("the pager must be started inside a tokio runtime")]
    NoRuntime,
}
