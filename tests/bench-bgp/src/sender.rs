//! The replayer: one session, raw bytes, the same for every receiver.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Bytes that are written at once, at most; always whole messages.
const CHUNK: usize = 64 * 1024;

/// An established session.
pub struct Sender {
    stream: Arc<Mutex<TcpStream>>,
    raw: TcpStream,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    /// The receiver ended the session.
    ended: AtomicBool,
    keepalives: AtomicU64,
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    let length = u16::try_from(19 + body.len()).unwrap_or(0);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes
}

fn open(asn: u32, hold: u16, id: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![4];
    let short = u16::try_from(asn).unwrap_or(23456);
    body.extend_from_slice(&short.to_be_bytes());
    body.extend_from_slice(&hold.to_be_bytes());
    body.extend_from_slice(&id.octets());
    // Both families, four-octet AS numbers.
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 65, 4];
    capabilities.extend_from_slice(&asn.to_be_bytes());
    let length = u8::try_from(capabilities.len()).unwrap_or(0);
    body.extend_from_slice(&[length + 2, 2, length]);
    body.extend_from_slice(&capabilities);
    message(1, &body)
}

impl Sender {
    /// Connects and waits until the session is Established. A receiver that is just starting is
    /// tried again.
    pub fn connect(to: SocketAddr, from: Ipv4Addr, asn: u32, hold: u16) -> anyhow::Result<Self> {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match Self::attempt(to, from, asn, hold) {
                Ok(sender) => return Ok(sender),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => lab::sys::sleep(Duration::from_millis(200))?,
            }
        }
    }

    fn attempt(to: SocketAddr, from: Ipv4Addr, asn: u32, hold: u16) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&open(asn, hold, from))?;
        let kind = read(&mut stream)?;
        anyhow::ensure!(
            kind == 1,
            "the receiver answered OPEN with a message of type {kind}"
        );
        stream.write_all(&message(4, &[]))?;
        let kind = read(&mut stream)?;
        anyhow::ensure!(
            kind == 4,
            "the receiver refused the session: message of type {kind}"
        );
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let raw = stream.try_clone()?;
        let state = Arc::new(State::default());
        let reader = {
            let (mut stream, state) = (stream.try_clone()?, Arc::clone(&state));
            std::thread::spawn(move || drain(&mut stream, &state))
        };
        let stream = Arc::new(Mutex::new(stream));
        let keeper = {
            let (stream, state) = (Arc::clone(&stream), Arc::clone(&state));
            let every = Duration::from_secs(u64::from(hold).max(3)) / 3;
            std::thread::spawn(move || keep_alive(&stream, &state, every))
        };
        Ok(Self {
            stream,
            raw,
            state,
            threads: vec![reader, keeper],
        })
    }

    /// Sends whole messages; `offsets` says where each begins.
    pub fn send(&self, bytes: &[u8], offsets: &[usize]) -> anyhow::Result<()> {
        let mut from = 0;
        let mut to = 0;
        for &end in offsets {
            if end - from > CHUNK {
                self.write(bytes.get(from..to).context("offsets")?)?;
                from = to;
            }
            to = end;
        }
        self.write(bytes.get(from..to).context("offsets")?)
    }

    /// Sends one message.
    pub fn write(&self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.state.ended.load(Ordering::Relaxed) {
            bail!("the receiver ended the session");
        }
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(bytes).context("the session is lost")
    }

    /// End-of-RIB of both families.
    pub fn end_of_rib(&self) -> anyhow::Result<()> {
        self.write(&message(2, &[0, 0, 0, 0]))?;
        self.write(&message(2, &[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]))
    }

    /// Ends the session, and every write that waits for the receiver.
    pub fn close(&self) {
        let _ = self.raw.shutdown(Shutdown::Both);
    }

    /// The session is still there.
    pub fn alive(&self) -> bool {
        !self.state.ended.load(Ordering::Relaxed)
    }

    /// KEEPALIVEs of the receiver so far.
    pub fn keepalives(&self) -> u64 {
        self.state.keepalives.load(Ordering::Relaxed)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        self.close();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The next message's type.
fn read(stream: &mut TcpStream) -> anyhow::Result<u8> {
    let mut header = [0; 19];
    stream.read_exact(&mut header)?;
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut body = vec![0; length.saturating_sub(19)];
    stream.read_exact(&mut body)?;
    Ok(header[18])
}

fn drain(stream: &mut TcpStream, state: &State) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while !state.stop.load(Ordering::Relaxed) {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend(chunk.iter().take(count)),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(_) => break,
        }
        while let Some(header) = bytes.first_chunk::<19>() {
            let length = usize::from(u16::from_be_bytes([header[16], header[17]])).max(19);
            if bytes.len() < length {
                break;
            }
            match header[18] {
                4 => state.keepalives.fetch_add(1, Ordering::Relaxed),
                3 => {
                    state.ended.store(true, Ordering::Relaxed);
                    0
                }
                _ => 0,
            };
            bytes.drain(..length);
        }
    }
    state.ended.store(true, Ordering::Relaxed);
}

fn keep_alive(stream: &Mutex<TcpStream>, state: &State, every: Duration) {
    let mut last = Instant::now();
    while !state.stop.load(Ordering::Relaxed) && !state.ended.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        if last.elapsed() >= every {
            last = Instant::now();
            let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            if stream.write_all(&message(4, &[])).is_err() {
                return;
            }
        }
    }
}
