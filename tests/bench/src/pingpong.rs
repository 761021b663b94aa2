//! Request and response over veth, and a bulk stream: both ends on this host, in two namespaces.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use lab::ns::Space;

use crate::stats;
use crate::world::{HOST, NEAR, at, peer};

const ECHO_PORT: u16 = 8010;
const BULK_PORT: u16 = 8011;
const CHUNK: usize = 128 * 1024;
/// Answers that take longer are no answers.
const PATIENCE: Duration = Duration::from_secs(2);

/// The peer's end. Dropping it ends it.
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Round trips of one block.
#[derive(Clone, Copy, Debug)]
pub struct Trips {
    /// Median in microseconds.
    pub p50: f64,
    /// 99th percentile in microseconds.
    pub p99: f64,
    /// How many.
    pub n: usize,
}

/// The cores that this process may use.
pub fn cores() -> Vec<usize> {
    // SAFETY: the set is valid for its size; all-zero is an empty set.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&set), &raw mut set);
        set
    };
    // SAFETY: the index is below the size of the set.
    (0..libc::CPU_SETSIZE as usize)
        .filter(|core| unsafe { libc::CPU_ISSET(*core, &set) })
        .collect()
}

/// Keeps the calling thread on one core, ahead of ordinary threads: what else the machine does shall
/// not be measured. The kernel leaves ordinary threads a share all the same.
pub fn pin(core: usize) {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: set and parameter are valid for the duration of the calls.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
        libc::sched_setscheduler(0, libc::SCHED_RR, &raw const priority);
    }
}

impl Server {
    /// Echoes on one port and swallows on the other, on one core.
    ///
    /// # Errors
    /// A port is taken.
    pub fn start(space: &Space, core: usize) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for port in [ECHO_PORT, BULK_PORT] {
            let listener = space.within(NEAR, || {
                let listener = TcpListener::bind(at(Ipv4Addr::UNSPECIFIED, port))?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            })?;
            let stop = Arc::clone(&stop);
            threads.push(std::thread::spawn(move || {
                pin(core);
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            // A broken connection shows at the other end.
                            let _ = serve(stream, port == ECHO_PORT);
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(1)),
                    }
                }
            }));
        }
        Ok(Self { stop, threads })
    }
}

fn serve(mut stream: TcpStream, echo: bool) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; if echo { 64 } else { CHUNK }];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        if echo {
            stream.write_all(&buffer[..count])?;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Ping-pong with messages of so many bytes, at most 64, on one core for so long.
///
/// # Errors
/// The connection breaks.
pub fn trips(space: &Space, core: usize, bytes: usize, time: Duration) -> anyhow::Result<Trips> {
    space.within(HOST, || {
        pin(core);
        let mut stream = TcpStream::connect_timeout(&at(peer(0), ECHO_PORT), PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (message, mut answer) = (vec![1; bytes], vec![0; bytes]);
        let warm = Instant::now() + time / 10;
        let mut samples = Vec::with_capacity(1 << 17);
        let mut last = Instant::now();
        let end = warm + time;
        while last < end {
            stream.write_all(&message)?;
            stream.read_exact(&mut answer)?;
            let now = Instant::now();
            if last >= warm {
                samples.push((now - last).as_nanos() as f64 / 1e3);
            }
            last = now;
        }
        let quantile = |share| stats::quantile(&samples, share).context("not one round trip");
        Ok(Trips {
            p50: quantile(0.5)?,
            p99: quantile(0.99)?,
            n: samples.len(),
        })
    })
}

/// Slices of a bulk stream are this long.
const SLICE: Duration = Duration::from_millis(10);

/// Bytes per second of a bulk stream: the median of short slices, so that a stall is no throughput.
///
/// # Errors
/// The connection breaks.
pub fn bulk(space: &Space, core: usize, time: Duration) -> anyhow::Result<f64> {
    space.within(HOST, || {
        pin(core);
        let mut stream = TcpStream::connect_timeout(&at(peer(0), BULK_PORT), PATIENCE)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let chunk = vec![0; CHUNK];
        let warm = Instant::now() + time / 10;
        while Instant::now() < warm {
            stream.write_all(&chunk)?;
        }
        let mut slices = Vec::new();
        let begun = Instant::now();
        let (mut since, mut bytes) = (begun, 0u64);
        while since - begun < time {
            stream.write_all(&chunk)?;
            bytes += CHUNK as u64;
            let now = Instant::now();
            if now - since >= SLICE {
                slices.push(bytes as f64 / (now - since).as_secs_f64());
                (since, bytes) = (now, 0);
            }
        }
        stats::median(&slices).context("not one slice of the bulk stream")
    })
}
