//! A stand-in for the PagerDuty Events API v2: the documented contract of `/v2/enqueue` and
//! `/v2/change/enqueue`, HTTP/1.1 with keep-alive, and the time at which each request was complete.
//! <https://developer.pagerduty.com/docs/events-api-v2-overview>

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::scenario::PagerAnswer;
use crate::sys;

/// PagerDuty's limit for a request.
const BODY_LIMIT: usize = 512 * 1024;
const REQUESTS_LIMIT: usize = 10_000;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// When its last byte was read.
    pub at: u64,
    /// From where: tells the uplink, or the validator's own address.
    pub from: SocketAddr,
    /// Its path.
    pub path: String,
    /// Its body; null where it was not JSON.
    pub body: Value,
    /// The status it was answered with; `None`: left hanging.
    pub status: Option<u16>,
    /// What was wrong with it.
    pub errors: Vec<String>,
}

impl Request {
    /// An event that was accepted, and which: `trigger`, `acknowledge` or `resolve`.
    #[must_use]
    pub fn accepted(&self) -> Option<&str> {
        (self.status == Some(202) && self.path == "/v2/enqueue")
            .then(|| self.body.get("event_action")?.as_str())
            .flatten()
    }

    /// The body's `dedup_key`.
    #[must_use]
    pub fn dedup_key(&self) -> Option<&str> {
        self.body.get("dedup_key")?.as_str()
    }
}

/// What the pager does, and what it got.
#[derive(Debug, Default)]
pub struct Shared {
    /// All requests, in order of arrival.
    pub requests: Vec<Request>,
    /// How it misbehaves, and for how many requests more.
    pub fault: Option<(PagerAnswer, u32)>,
}

/// The stand-in. Dropping it ends its threads.
pub struct Pager {
    shared: Arc<Mutex<Shared>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pager {
    /// Serves a listener, which belongs to the namespace it was opened in.
    ///
    /// # Errors
    /// The listener cannot be made non-blocking.
    pub fn start(listener: TcpListener, routing_key: &str) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (inner, flag, key) = (shared.clone(), stop.clone(), routing_key.to_owned());
        let thread = std::thread::Builder::new()
            .name("lab-pager".to_owned())
            .spawn(move || accept(&listener, &inner, &flag, &key))?;
        Ok(Self {
            shared,
            stop,
            thread: Some(thread),
        })
    }

    /// What it got.
    pub fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Mutex<Shared>>, stop: &Arc<AtomicBool>, key: &str) {
    let mut threads = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, from)) => {
                let (shared, stop, key) = (shared.clone(), stop.clone(), key.to_owned());
                threads.push(std::thread::spawn(move || {
                    // The other side's end is not the pager's failure.
                    let _ = serve(stream, from, &shared, &stop, &key);
                }));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// One connection: request after request until either side ends it.
fn serve(
    stream: TcpStream,
    from: SocketAddr,
    shared: &Mutex<Shared>,
    stop: &AtomicBool,
    key: &str,
) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(Patient { stream, stop });
    while let Some((method, path, length, close)) = head(&mut reader)? {
        if length > BODY_LIMIT {
            return respond(&mut writer, 413, &json!({"status": "invalid event"}), true);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let at = sys::now();
        let (status, reply) = answer(shared, at, from, &method, path, &body, key);
        match status {
            Some(status) => respond(&mut writer, status, &reply, close)?,
            None => {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        if close {
            break;
        }
    }
    Ok(())
}

/// Reads on through timeouts until told to stop.
struct Patient<'a> {
    stream: TcpStream,
    stop: &'a AtomicBool,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock
                            | std::io::ErrorKind::TimedOut
                            | std::io::ErrorKind::Interrupted
                    ) && !self.stop.load(Ordering::Relaxed) => {}
                other => return other,
            }
        }
    }
}

type Head = (String, String, usize, bool);

/// Request line and headers (RFC 9112); `None` at the end of the connection.
fn head(reader: &mut impl BufRead) -> std::io::Result<Option<Head>> {
    let mut line = String::new();
    if reader.by_ref().take(8_192).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let (mut length, mut close) = (0, false);
    loop {
        let mut line = String::new();
        if reader.by_ref().take(8_192).read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(usize::MAX),
            "connection" => close = value.trim().eq_ignore_ascii_case("close"),
            "transfer-encoding" => length = usize::MAX,
            _ => {}
        }
    }
    Ok(Some((method, path, length, close)))
}

fn answer(
    shared: &Mutex<Shared>,
    at: u64,
    from: SocketAddr,
    method: &str,
    path: String,
    body: &[u8],
    key: &str,
) -> (Option<u16>, Value) {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let mut shared = lock(shared);
    let fault = match &mut shared.fault {
        Some((answer, left)) if *left > 0 => {
            *left -= 1;
            Some(*answer)
        }
        _ => None,
    };
    let known = path == "/v2/enqueue" || path == "/v2/change/enqueue";
    let mut errors = Vec::new();
    let (status, reply) = match fault {
        // A probe of the connection's warmth, not an event.
        _ if method != "POST" || !known => (
            Some(404),
            json!({"status": "not found", "message": "no such resource"}),
        ),
        Some(PagerAnswer::Hang) => (None, Value::Null),
        Some(PagerAnswer::ServerError) => {
            (Some(500), json!({"status": "error", "message": "internal"}))
        }
        Some(PagerAnswer::TooMany) => (
            Some(429),
            json!({"status": "throttle exceeded", "message": "Too many events"}),
        ),
        None => {
            errors = violations(&body, key, path == "/v2/enqueue");
            if errors.is_empty() {
                let dedup = body
                    .get("dedup_key")
                    .cloned()
                    .unwrap_or_else(|| json!(format!("lab-{at}")));
                (
                    Some(202),
                    json!({"status": "success", "message": "Event processed", "dedup_key": dedup}),
                )
            } else {
                (
                    Some(400),
                    json!({"status": "invalid event", "message": "Event object is invalid", "errors": errors}),
                )
            }
        }
    };
    if shared.requests.len() < REQUESTS_LIMIT && known && method == "POST" {
        shared.requests.push(Request {
            at,
            from,
            path,
            body,
            status,
            errors,
        });
    }
    (status, reply)
}

/// What the documented contract refuses.
fn violations(body: &Value, key: &str, event: bool) -> Vec<String> {
    let mut errors = Vec::new();
    let text =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    match text(body, "routing_key") {
        Some(given) if given.len() != 32 => {
            errors.push("'routing_key' must be 32 characters".to_owned())
        }
        Some(given) if given != key => errors.push("'routing_key' is not known".to_owned()),
        Some(_) => {}
        None => errors.push("'routing_key' is missing or blank".to_owned()),
    }
    let action = text(body, "event_action");
    if event {
        match action.as_deref() {
            Some("trigger" | "acknowledge" | "resolve") => {}
            _ => errors.push("'event_action' must be trigger, acknowledge or resolve".to_owned()),
        }
        let dedup = text(body, "dedup_key");
        if dedup
            .as_ref()
            .is_some_and(|dedup| dedup.chars().count() > 255)
        {
            errors.push("'dedup_key' is longer than 255 characters".to_owned());
        }
        if dedup.is_none() && matches!(action.as_deref(), Some("acknowledge" | "resolve")) {
            errors.push("'dedup_key' is missing".to_owned());
        }
    }
    if !event || action.as_deref() == Some("trigger") {
        let payload = body.get("payload").unwrap_or(&Value::Null);
        match text(payload, "summary") {
            Some(summary) if summary.is_empty() || summary.chars().count() > 1024 => {
                errors.push("'payload.summary' must have 1 to 1024 characters".to_owned());
            }
            Some(_) => {}
            None => errors.push("'payload.summary' is missing or blank".to_owned()),
        }
        if event {
            if text(payload, "source").is_none_or(|source| source.is_empty()) {
                errors.push("'payload.source' is missing or blank".to_owned());
            }
            match text(payload, "severity").as_deref() {
                Some("critical" | "error" | "warning" | "info") => {}
                _ => errors
                    .push("'payload.severity' must be critical, error, warning or info".to_owned()),
            }
        }
    }
    errors
}

fn respond(writer: &mut TcpStream, status: u16, body: &Value, close: bool) -> std::io::Result<()> {
    let reason = match status {
        202 => "Accepted",
        400 => "Bad Request",
        404 => "Not Found",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        _ => "Internal Server Error",
    };
    let body = body.to_string();
    let connection = if close { "close" } else { "keep-alive" };
    let reply = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{body}",
        body.len()
    );
    writer.write_all(reply.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn post(address: SocketAddr, path: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(address).expect("connects");
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("writes");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("reads");
        let status = text
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .expect("a status");
        let json = text.split("\r\n\r\n").nth(1).expect("a body");
        (status, serde_json::from_str(json).expect("JSON"))
    }

    #[test]
    fn follows_the_contract_and_misbehaves_on_demand() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("an address");
        let pager = Pager::start(listener, KEY).expect("starts");
        let trigger = json!({
            "routing_key": KEY, "event_action": "trigger", "dedup_key": "d1",
            "payload": {"summary": "s", "source": "v", "severity": "critical"}
        });
        let resolve = json!({"routing_key": KEY, "event_action": "resolve", "dedup_key": "d1"});
        let send = |body: &Value| post(address, "/v2/enqueue", &body.to_string());

        let (status, reply) = send(&trigger);
        assert_eq!((status, reply["dedup_key"].as_str()), (202, Some("d1")));
        assert_eq!(send(&resolve).0, 202);

        for (path, value) in [
            ("/routing_key", json!("short")),
            ("/event_action", json!("shout")),
            ("/dedup_key", json!("x".repeat(256))),
            ("/payload/summary", json!("")),
            ("/payload/source", json!(null)),
            ("/payload/severity", json!("bad")),
        ] {
            let mut broken = trigger.clone();
            *broken.pointer_mut(path).expect("a field") = value;
            assert_eq!(send(&broken).0, 400, "{path}");
        }
        assert_eq!(post(address, "/v2/enqueue", "not json").0, 400);
        assert_eq!(post(address, "/elsewhere", "{}").0, 404);

        pager.shared().fault = Some((PagerAnswer::ServerError, 2));
        assert_eq!(
            [send(&trigger).0, send(&trigger).0, send(&trigger).0],
            [500, 500, 202]
        );

        let accepted: Vec<String> = pager
            .shared()
            .requests
            .iter()
            .filter_map(|request| request.accepted().map(str::to_owned))
            .collect();
        assert_eq!(accepted, ["trigger", "resolve", "trigger"]);
    }
}
