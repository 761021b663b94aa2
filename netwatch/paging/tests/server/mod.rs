//! An HTTP/1.1 server on loopback that keeps the documented contract of the PagerDuty Events API v2,
//! and breaks it where told.

// Each test binary uses its own part of it.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

pub const KEY: &str = "0123456789abcdef0123456789abcdef";

/// What the server does with a POST.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// By the contract: 202, or 400 for a body that breaks it.
    Contract,
    /// This status, with that `Retry-After`.
    Status(u16, Option<u64>),
    /// Never answer.
    Hang,
    /// Close the connection after the request, without an answer.
    Reset,
    /// Answer by the contract after a while.
    Slow(Duration),
}

/// A POST that came in.
#[derive(Clone, Debug)]
pub struct Received {
    pub at: Instant,
    pub connection: usize,
    pub peer: IpAddr,
    pub status: Option<u16>,
    pub body: Value,
}

impl Received {
    pub fn dedup_key(&self) -> &str {
        self.body["dedup_key"].as_str().unwrap_or_default()
    }
    pub fn action(&self) -> &str {
        self.body["event_action"].as_str().unwrap_or_default()
    }
    pub fn summary(&self) -> &str {
        self.body["payload"]["summary"].as_str().unwrap_or_default()
    }
}

type Rule = Box<dyn Fn(usize, &Value) -> Act + Send>;

#[derive(Default)]
struct State {
    script: VecDeque<Act>,
    rule: Option<Rule>,
    received: Vec<Received>,
    heads: usize,
    connections: usize,
}

#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub async fn start() -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), None)
    }

    pub fn serve(listener: TcpListener, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let server = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
        };
        let state = Arc::clone(&server.state);
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let number = {
                    let mut state = state.lock().unwrap();
                    state.connections += 1;
                    state.connections
                };
                let (state, tls) = (Arc::clone(&state), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => connection(stream, number, peer.ip(), state).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                connection(stream, number, peer.ip(), state).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}/v2/enqueue", self.address)
    }

    /// What is done with the next POSTs; after them the contract holds.
    pub fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.state.lock().unwrap().script = acts.into_iter().collect();
    }

    /// Decides by connection and body, before the script.
    pub fn rule(&self, rule: impl Fn(usize, &Value) -> Act + Send + 'static) {
        self.state.lock().unwrap().rule = Some(Box::new(rule));
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.lock().unwrap().received.clone()
    }

    pub fn accepted(&self) -> Vec<Received> {
        let mut received = self.received();
        received.retain(|post| post.status == Some(202));
        received
    }

    pub fn heads(&self) -> usize {
        self.state.lock().unwrap().heads
    }

    pub fn connections(&self) -> usize {
        self.state.lock().unwrap().connections
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    number: usize,
    peer: IpAddr,
    state: Arc<Mutex<State>>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            match stream.read_line(&mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) if line == "\r\n" => break,
                Ok(_) => head.push(line.trim().to_owned()),
            }
        }
        let length = head
            .iter()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, value)| value.trim().parse().unwrap());
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        if head[0].starts_with("HEAD ") {
            state.lock().unwrap().heads += 1;
            let answer = "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n";
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            continue;
        }
        let json: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let contract = match violation(&head[0], &body, &json) {
            None => (
                202,
                json!({"status": "success", "dedup_key": json["dedup_key"]}),
            ),
            // The key is echoed: a client that logs answers must not log it.
            Some(error) => (
                400,
                json!({"status": "invalid event", "errors": [error, json["routing_key"]]}),
            ),
        };
        let (act, index) = {
            let mut state = state.lock().unwrap();
            let ruled = state.rule.as_ref().map(|rule| rule(number, &json));
            let act = match ruled {
                Some(Act::Contract) | None => state.script.pop_front().unwrap_or(Act::Contract),
                Some(act) => act,
            };
            state.received.push(Received {
                at: Instant::now(),
                connection: number,
                peer,
                status: None,
                body: json,
            });
            (act, state.received.len() - 1)
        };
        let (status, retry_after, body) = match act {
            Act::Contract => (contract.0, None, contract.1),
            Act::Slow(wait) => {
                tokio::time::sleep(wait).await;
                (contract.0, None, contract.1)
            }
            Act::Status(status, retry_after) => (status, retry_after, Value::Null),
            Act::Hang => {
                // Until the client closes.
                let _ = stream.read_u8().await;
                return;
            }
            Act::Reset => return,
        };
        state.lock().unwrap().received[index].status = Some(status);
        let body = body.to_string();
        let retry_after = retry_after.map_or(String::new(), |seconds| {
            format!("Retry-After: {seconds}\r\n")
        });
        let answer = format!(
            "HTTP/1.1 {status} X\r\n{retry_after}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// What the contract forbids about a request.
fn violation(line: &str, raw: &[u8], body: &Value) -> Option<&'static str> {
    let text = |value: &Value| value.as_str().map(|text| text.chars().count());
    if line != "POST /v2/enqueue HTTP/1.1" {
        Some("wrong request line")
    } else if raw.len() > 512_000 {
        Some("body too large")
    } else if body["routing_key"] != KEY {
        Some("routing_key is invalid")
    } else if !text(&body["dedup_key"]).is_some_and(|length| (1..=255).contains(&length)) {
        Some("dedup_key is invalid")
    } else if body["event_action"] == "resolve" {
        None
    } else if body["event_action"] != "trigger" {
        Some("event_action is invalid")
    } else if !text(&body["payload"]["summary"]).is_some_and(|length| (1..=1024).contains(&length))
    {
        Some("payload.summary is invalid")
    } else if text(&body["payload"]["source"]).is_none_or(|length| length == 0) {
        Some("payload.source is invalid")
    } else if !["critical", "error", "warning", "info"]
        .contains(&body["payload"]["severity"].as_str().unwrap_or_default())
    {
        Some("payload.severity is invalid")
    } else if body["payload"]["timestamp"]
        .as_str()
        .is_none_or(|time| time.parse::<jiff::Timestamp>().is_err())
    {
        Some("payload.timestamp is invalid")
    } else {
        None
    }
}
