//! One HTTP client per egress, each with a warm connection.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use events::EgressName;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use tokio::sync::Notify;

use crate::resolver::{Cached, Resolver};
use crate::settings::{Secret, Settings, StartError};

/// The most of an answer's body that is read.
const ANSWER: usize = 2_048;

/// An egress as the pager sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EgressStatus {
    /// Its name; `None`: the unpinned client.
    pub egress: Option<EgressName>,
    /// The engine holds it to be alive.
    pub alive: bool,
    /// The last request through it was answered; `None`: none has ended yet.
    pub answered: Option<bool>,
    /// The smoothed round trip of its warm connection, in milliseconds.
    pub round_trip_ms: Option<f64>,
}

/// How a request ended.
#[derive(Debug)]
pub(crate) enum Answer {
    Accepted,
    /// 400: it will never be accepted.
    Refused(String),
    /// 429.
    RateLimited(Option<Duration>),
    /// The pager answered with something else.
    Failed(String),
    /// It did not answer.
    Silent(String),
}

#[derive(Debug)]
struct Health {
    alive: bool,
    answered: Option<bool>,
    round_trip: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Target {
    pub egress: Option<EgressName>,
    client: Client,
    health: Mutex<Health>,
    rewarm: Notify,
}

impl Target {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a connection anew: the one before was given up.
    pub fn rewarm(&self) {
        self.rewarm.notify_one();
    }
}

#[derive(Debug)]
pub(crate) struct Transport {
    url: Url,
    key: Secret,
    pub resolver: Arc<Resolver>,
    pub targets: Vec<Arc<Target>>,
    /// Told when an egress may have come back.
    pub recovered: Notify,
}

impl Transport {
    pub fn new(settings: &Settings) -> Result<Self, StartError> {
        let bad = |reason: String| StartError::Url {
            url: settings.url.clone(),
            reason,
        };
        let url = Url::parse(&settings.url).map_err(|error| bad(error.to_string()))?;
        let tls = match url.scheme() {
            "https" => Some(tls(settings)?),
            "http" => {
                tracing::warn!(url = %url, "pages and their routing key are sent in clear: pager.url is not https");
                None
            }
            other => return Err(bad(format!("scheme {other:?} is not http or https"))),
        };
        let host = url.host_str().ok_or_else(|| bad("no host".into()))?;
        let resolver = Arc::new(Resolver::new(host));
        // A name may have addresses of both families: then IPv4's source is the one that is bound.
        let ipv6 = host.starts_with('[');
        let pins = settings
            .egresses
            .iter()
            .map(|egress| (Some(egress.name.clone()), Some(egress.interface.as_str())))
            .chain([(None, None)]);
        let mut targets = Vec::new();
        for (egress, interface) in pins {
            targets.push(Arc::new(Target {
                egress,
                client: client(tls.clone(), &resolver, interface, ipv6)?,
                health: Mutex::new(Health {
                    alive: true,
                    answered: None,
                    round_trip: None,
                }),
                rewarm: Notify::new(),
            }));
        }
        Ok(Self {
            url,
            key: settings.routing_key.clone(),
            resolver,
            targets,
            recovered: Notify::new(),
        })
    }

    pub fn addresses(&self) -> Vec<IpAddr> {
        self.resolver.addresses()
    }

    pub fn status(&self) -> Vec<EgressStatus> {
        self.targets
            .iter()
            .map(|target| {
                let health = target.health();
                EgressStatus {
                    egress: target.egress.clone(),
                    alive: health.alive,
                    answered: health.answered,
                    round_trip_ms: health
                        .round_trip
                        .map(|time| (time.as_secs_f64() * 1e6).round() / 1e3),
                }
            })
            .collect()
    }

    /// The targets, the best first: alive, then answering, then in the configured order.
    pub fn order(&self) -> Vec<Arc<Target>> {
        let mut order = self.targets.clone();
        order.sort_by_key(|target| {
            let health = target.health();
            (!health.alive, health.answered == Some(false))
        });
        order
    }

    /// How long the target's answer is waited for before the next is tried as well.
    pub fn hedge(target: &Target, least: Duration) -> Duration {
        let usual = target.health().round_trip.unwrap_or_default();
        usual.mul_f64(1.5).clamp(least, least.saturating_mul(5))
    }

    pub fn set_alive(&self, egress: &EgressName, alive: bool) {
        for target in &self.targets {
            if target.egress.as_ref() == Some(egress) {
                let was = std::mem::replace(&mut target.health().alive, alive);
                if alive && !was {
                    target.rewarm();
                    self.recovered.notify_waiters();
                }
            }
        }
    }

    /// Posts an event.
    pub async fn post(&self, target: &Target, body: Vec<u8>, within: Duration) -> Answer {
        let request = target
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .timeout(within)
            .body(body)
            .send();
        let response = match request.await {
            Ok(response) => response,
            Err(error) => {
                target.health().answered = Some(false);
                target.rewarm();
                return Answer::Silent(self.key.redact(&explain(error)));
            }
        };
        self.answered(target);
        match response.status() {
            StatusCode::ACCEPTED => {
                // The connection returns to the pool once the body is read; nobody waits for that.
                tokio::spawn(async move {
                    let _ = read(response).await;
                });
                Answer::Accepted
            }
            StatusCode::BAD_REQUEST => Answer::Refused(self.said(response).await),
            StatusCode::TOO_MANY_REQUESTS => {
                let wait = retry_after(&response);
                let _ = read(response).await;
                Answer::RateLimited(wait)
            }
            _ => Answer::Failed(self.said(response).await),
        }
    }

    /// Keeps the target's connection open for as long as the pager lives.
    pub async fn keep_warm(
        self: Arc<Self>,
        target: Arc<Target>,
        interval: Duration,
        retry: Duration,
        within: Duration,
    ) {
        loop {
            let begun = Instant::now();
            let request = target.client.head(self.url.clone()).timeout(within).send();
            let wait = match request.await {
                Ok(response) => {
                    let time = begun.elapsed();
                    let _ = read(response).await;
                    self.answered(&target);
                    let mut health = target.health();
                    // The first request's time has the handshake in it.
                    health.round_trip = Some(match health.round_trip {
                        Some(usual) => (usual * 3 + time) / 4,
                        None => time,
                    });
                    interval
                }
                Err(error) => {
                    let error = explain(error);
                    let was = target.health().answered.replace(false);
                    if was == Some(false) {
                        tracing::debug!(egress = ?target.egress, error, "the pager still does not answer");
                    } else {
                        tracing::warn!(egress = ?target.egress, error,
                            "the pager does not answer through this egress");
                    }
                    retry
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = target.rewarm.notified() => {}
            }
        }
    }

    fn answered(&self, target: &Target) {
        if target.health().answered.replace(true) == Some(false) {
            tracing::info!(egress = ?target.egress, "the pager answers again through this egress");
            self.recovered.notify_waiters();
        }
    }

    async fn said(&self, response: Response) -> String {
        let status = response.status();
        let text = self.key.redact(&read(response).await);
        let text: String = text.trim().chars().take(300).collect();
        if text.is_empty() {
            format!("the pager answered {status}")
        } else {
            format!("the pager answered {status}: {text}")
        }
    }
}

fn client(
    tls: Option<rustls::ClientConfig>,
    resolver: &Arc<Resolver>,
    interface: Option<&str>,
    ipv6: bool,
) -> Result<Client, StartError> {
    let mut builder = Client::builder()
        .user_agent(concat!("netwatch/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .http1_only()
        .connect_timeout(Duration::from_secs(3))
        .pool_idle_timeout(Duration::from_secs(120))
        .pool_max_idle_per_host(2)
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(10))
        .tcp_user_timeout(Duration::from_secs(15))
        .dns_resolver(Arc::new(Cached(Arc::clone(resolver))));
    // A builder without one would look for a crypto provider of the process, and there is none.
    builder = builder.tls_backend_preconfigured(match tls {
        Some(tls) => tls,
        None => config(rustls::RootCertStore::empty())?,
    });
    if let Some(interface) = interface {
        builder = builder.interface(interface);
        // The flows' source may be the routes' preferred one, and its answers may come in elsewhere,
        // where a socket that is bound to this interface does not hear them.
        if let Some(address) = link_address(interface, ipv6) {
            builder = builder.local_address(address);
        }
    }
    builder
        .build()
        .map_err(|error| StartError::Client(explain(error)))
}

/// An interface's own address of one family, as it is at the start.
fn link_address(interface: &str, ipv6: bool) -> Option<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().ok()?;
    addresses
        .filter(|found| found.interface_name == interface)
        .filter_map(|found| {
            let address = found.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .find(|address| match address {
            IpAddr::V4(_) => !ipv6,
            IpAddr::V6(a) => ipv6 && !a.is_unicast_link_local(),
        })
}

fn tls(settings: &Settings) -> Result<rustls::ClientConfig, StartError> {
    let mut roots = rustls::RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    if let Some(path) = &settings.ca_file {
        let bad = |reason: String| StartError::CaFile {
            path: path.clone(),
            reason,
        };
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| bad(error.to_string()))?;
        if certificates.is_empty() {
            return Err(bad("no certificate in it".into()));
        }
        for certificate in certificates {
            roots
                .add(certificate)
                .map_err(|error| bad(error.to_string()))?;
        }
    }
    if roots.is_empty() {
        let reasons: Vec<String> = native.errors.iter().map(ToString::to_string).collect();
        return Err(StartError::NoAuthorities(reasons.join("; ")));
    }
    config(roots)
}

fn config(roots: rustls::RootCertStore) -> Result<rustls::ClientConfig, StartError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::Client(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// The start of an answer's body.
async fn read(mut response: Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER {
            break;
        }
    }
    body.truncate(ANSWER);
    String::from_utf8_lossy(&body).into_owned()
}

/// `Retry-After` in seconds or as an HTTP date (RFC 9110, section 10.2.3).
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?;
    let wait = date.timestamp().duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(wait).unwrap_or_default())
}

/// An error with its causes and without the URL.
fn explain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
