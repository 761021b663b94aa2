//! Where VRPs come from: a file that validators write, and an RTR cache.

use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bgp_core::{RtrClient, RtrStep, Vrp, Vrps};
use events::{Asn, Prefix};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::transport::stopped;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// A whole export of 2026 has 60 MB of JSON.
const MAX_FILE: u64 = 512 << 20;
const CONNECT: Duration = Duration::from_secs(10);

/// Where VRPs come from; both, one or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RpkiSettings {
    /// A file as validators export it: JSON (rpki-client, Routinator, StayRTR) or CSV.
    pub file: Option<PathBuf>,
    /// An RTR cache (RFC 8210), over TCP.
    pub cache: Option<SocketAddr>,
}

/// What each source last told.
struct Sources {
    told: Mutex<[Vec<Vrp>; 2]>,
    vrps: watch::Sender<Arc<Vrps>>,
}

#[derive(Clone, Copy)]
enum Source {
    File,
    Cache,
}

impl Sources {
    fn tell(&self, source: Source, vrps: Vec<Vrp>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let [file, cache] = &mut *told;
        match source {
            Source::File => *file = vrps,
            Source::Cache => *cache = vrps,
        }
        let all: Vrps = file.iter().chain(cache.iter()).copied().collect();
        info!(vrps = all.len(), "route origins are validated anew");
        self.vrps.send_replace(Arc::new(all));
    }
}

/// Starts what the settings ask for.
pub(crate) fn spawn(
    settings: RpkiSettings,
    vrps: watch::Sender<Arc<Vrps>>,
    shutdown: &watch::Receiver<bool>,
) {
    let told = Mutex::default();
    let sources = Arc::new(Sources { told, vrps });
    if let Some(file) = settings.file {
        tokio::spawn(watch_file(file, Arc::clone(&sources), shutdown.clone()));
    }
    if let Some(cache) = settings.cache {
        tokio::spawn(follow_cache(cache, sources, shutdown.clone()));
    }
}

async fn watch_file(path: PathBuf, sources: Arc<Sources>, mut shutdown: watch::Receiver<bool>) {
    let mut known = None;
    let mut failed = None;
    loop {
        let state = stamp(&path);
        if state.is_none() || state != known {
            let file = path.clone();
            // Some hundred thousand lines: not between other tasks.
            let read = tokio::task::spawn_blocking(move || read_file(&file)).await;
            match read.map_err(io::Error::other).and_then(|read| read) {
                Ok(vrps) => {
                    known = state;
                    failed = None;
                    sources.tell(Source::File, vrps);
                }
                Err(error) => {
                    known = state;
                    let error = error.to_string();
                    // The same words once: a file may be missing for long.
                    if failed.as_ref() != Some(&error) {
                        warn!(file = %path.display(), error,
                            "cannot read VRPs (bgp.rpki.file); the last good ones stay in use");
                        failed = Some(error);
                    }
                }
            }
        }
        tokio::select! {
            () = stopped(&mut shutdown) => return,
            () = sleep(LOOK) => {}
        }
    }
}

/// Changes when the file does, or another takes its place.
fn stamp(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

fn read_file(path: &Path) -> io::Result<Vec<Vrp>> {
    let mut text = String::new();
    fs::File::open(path)?
        .take(MAX_FILE)
        .read_to_string(&mut text)?;
    parse(&text).map_err(io::Error::other)
}

#[derive(Deserialize)]
struct Export {
    roas: Vec<Roa>,
}

#[derive(Deserialize)]
struct Roa {
    asn: AsNumber,
    prefix: Prefix,
    #[serde(rename = "maxLength")]
    max_length: u8,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AsNumber {
    Number(u32),
    Text(String),
}

/// VRPs of an export, JSON or CSV.
///
/// # Errors
/// It is neither, or an entry is no VRP: what, and where.
fn parse(text: &str) -> Result<Vec<Vrp>, String> {
    if text.trim_start().starts_with('{') {
        let export: Export = serde_json::from_str(text)
            .map_err(|error| format!("no JSON export of a validator: {error}"))?;
        let vrp = |roa: Roa| {
            let asn = match &roa.asn {
                AsNumber::Number(number) => Some(*number),
                AsNumber::Text(text) => as_number(text),
            };
            let vrp = asn.and_then(|asn| Vrp::new(roa.prefix, roa.max_length, Asn(asn)));
            vrp.ok_or_else(|| format!("the entry of {} is no VRP", roa.prefix))
        };
        return export.roas.into_iter().map(vrp).collect();
    }
    let mut vrps = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let header = number == 0 && line.to_ascii_lowercase().contains("prefix");
        if header || line.trim().is_empty() {
            continue;
        }
        let mut fields = line.split(',').map(|field| field.trim().trim_matches('"'));
        let asn = fields.next().and_then(as_number);
        let prefix = fields.next().and_then(|field| field.parse::<Prefix>().ok());
        let length = fields.next().map(str::parse::<u8>);
        let vrp = match (asn, prefix, length) {
            (Some(asn), Some(prefix), Some(Ok(length))) => Vrp::new(prefix, length, Asn(asn)),
            _ => None,
        };
        vrps.push(vrp.ok_or_else(|| {
            format!(
                "line {}: expected ASN,prefix,max length such as AS64496,192.0.2.0/24,24",
                number + 1
            )
        })?);
    }
    if vrps.is_empty() {
        return Err("there is no VRP in it".to_owned());
    }
    Ok(vrps)
}

fn as_number(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("AS").or_else(|| text.strip_prefix("as"));
    digits.unwrap_or(text).parse().ok()
}

async fn follow_cache(
    cache: SocketAddr,
    sources: Arc<Sources>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut client = RtrClient::default();
    let mut failed = None;
    loop {
        let error = tokio::select! {
            () = stopped(&mut shutdown) => return,
            error = talk(cache, &mut client, &sources) => error,
        };
        if failed.as_ref() != Some(&error) {
            warn!(%cache, error, vrps = client.len(),
                "no RTR session (bgp.rpki.cache); VRPs stay in use until they expire");
            failed = Some(error);
        }
        let again = clock::now() + client.disconnected();
        // What is known may expire meanwhile.
        loop {
            let next = client.deadline().map_or(again, |due| due.min(again));
            tokio::select! {
                () = stopped(&mut shutdown) => return,
                () = sleep(next.since(clock::now())) => {}
            }
            if client.timer(clock::now()).changed {
                sources.tell(Source::Cache, Vec::new());
            }
            if clock::now() >= again {
                break;
            }
        }
    }
}

/// One connection, until it ends; why it did.
async fn talk(cache: SocketAddr, client: &mut RtrClient, sources: &Sources) -> String {
    let mut stream = match timeout(CONNECT, TcpStream::connect(cache)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return error.to_string(),
        Err(_) => return "no connection within 10 s".to_owned(),
    };
    let mut chunk = vec![0; 64 * 1024];
    let mut step = client.connected(clock::now());
    loop {
        let RtrStep {
            send,
            close,
            changed,
        } = step;
        if changed {
            sources.tell(Source::Cache, client.all());
        }
        if !send.is_empty() {
            match timeout(CONNECT, stream.write_all(&send)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return "the cache does not read".to_owned(),
            }
        }
        if let Some(why) = close {
            return why;
        }
        let wait = client
            .deadline()
            .map_or(Duration::MAX, |due| due.since(clock::now()));
        step = tokio::select! {
            count = stream.read(&mut chunk) => match count {
                Ok(0) => return "the cache closed the connection".to_owned(),
                Ok(count) => client.receive(chunk.get(..count).unwrap_or_default(), clock::now()),
                Err(error) => return error.to_string(),
            },
            () = sleep(wait) => client.timer(clock::now()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_of_the_usual_validators_are_read() {
        let expected = vec![
            Vrp::new("192.0.2.0/24".parse().unwrap(), 26, Asn(64496)).unwrap(),
            Vrp::new("2001:db8::/32".parse().unwrap(), 48, Asn(64497)).unwrap(),
        ];
        let numbers = r#"{"metadata":{"x":1},"roas":[{"asn":64496,"prefix":"192.0.2.0/24","maxLength":26,"ta":"t","expires":1},{"asn":64497,"prefix":"2001:db8::/32","maxLength":48,"ta":"t"}]}"#;
        let texts = numbers
            .replace("64496", "\"AS64496\"")
            .replace("64497", "\"AS64497\"");
        let csv = "ASN,IP Prefix,Max Length,Trust Anchor,Expires\nAS64496,192.0.2.0/24,26,t,1\n\"AS64497\",\"2001:db8::/32\",\"48\",\"t\"\n";
        for text in [numbers, &texts, csv] {
            assert_eq!(parse(text).unwrap(), expected);
        }
        for (wrong, says) in [
            ("{}", "no JSON export"),
            ("AS1,10.0.0.0/8,7,t", "line 1"),
            ("AS1,10.0.0.0/8,8,t\nAS1,nonsense,8,t", "line 2"),
            ("", "no VRP"),
            (
                r#"{"roas":[{"asn":1,"prefix":"10.0.0.1/8","maxLength":8}]}"#,
                "10.0.0.1/8",
            ),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
