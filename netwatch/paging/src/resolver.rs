//! The pager's addresses, resolved ahead: a name server may be behind the very break that is paged.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The last good addresses of one name, shared by the clients of all egresses.
#[derive(Debug)]
pub(crate) struct Resolver {
    host: String,
    last_good: Mutex<Vec<IpAddr>>,
}

impl Resolver {
    /// `host` is a name, or an address that needs no resolution.
    pub fn new(host: &str) -> Self {
        let literal = host.trim_matches(['[', ']']).parse();
        Self {
            host: host.to_owned(),
            last_good: Mutex::new(literal.into_iter().collect()),
        }
    }

    pub fn addresses(&self) -> Vec<IpAddr> {
        self.last_good
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// Addresses from an earlier run, until better ones are known.
    pub fn remember(&self, addresses: Vec<IpAddr>) {
        let mut last_good = self
            .last_good
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if last_good.is_empty() {
            *last_good = addresses;
        }
    }

    async fn refresh(&self) -> std::io::Result<Vec<IpAddr>> {
        let found: Vec<IpAddr> = tokio::net::lookup_host((self.host.as_str(), 0))
            .await?
            .map(|address| address.ip())
            .collect();
        if found.is_empty() {
            return Err(std::io::Error::other("the name has no address"));
        }
        *self
            .last_good
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = found.clone();
        Ok(found)
    }

    /// Resolves again and again, and has changes saved.
    pub async fn keep_fresh(
        self: Arc<Self>,
        interval: Duration,
        save: impl Fn(&str, Vec<IpAddr>) + Send,
    ) {
        if self.host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            // An address needs no resolution.
            return;
        }
        loop {
            let before = self.addresses();
            let wait = match self.refresh().await {
                Ok(addresses) => {
                    tracing::debug!(host = %self.host, ?addresses, "pager resolved");
                    if addresses != before {
                        save(&self.host, addresses);
                    }
                    interval
                }
                Err(error) => {
                    let known = self.addresses();
                    tracing::warn!(host = %self.host, %error, last_good = ?known,
                        "the pager's name cannot be resolved; its last good addresses stay in use");
                    interval.min(Duration::from_secs(if known.is_empty() { 2 } else { 30 }))
                }
            };
            tokio::time::sleep(wait).await;
        }
    }
}

/// What an HTTP client is given.
#[derive(Clone, Debug)]
pub(crate) struct Cached(pub Arc<Resolver>);

impl Resolve for Cached {
    fn resolve(&self, _: Name) -> Resolving {
        let resolver = Arc::clone(&self.0);
        Box::pin(async move {
            let mut known = resolver.addresses();
            if known.is_empty() {
                known = resolver.refresh().await?;
            }
            let addresses: Addrs =
                Box::new(known.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}
