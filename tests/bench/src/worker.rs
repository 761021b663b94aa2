//! A process that comes and goes, and whose threads do: what a validator's process looks like while
//! it restarts.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use crate::churn;
use crate::world::{at, peer};

/// Connections that each process makes.
pub const CONNECTIONS: u64 = 100;
/// Of them, those that are open when it ends.
const OPEN: u64 = 5;

/// Makes [`CONNECTIONS`] connections from short-lived threads, says so, and goes on with threads that
/// come and go until it is killed, for a minute at most.
///
/// # Errors
/// A connection cannot be made.
pub fn run() -> anyhow::Result<()> {
    let mut open = Vec::new();
    for number in 0..CONNECTIONS {
        let thread = std::thread::Builder::new().name(format!("worker-{}", number % 8));
        let stream = thread
            .spawn(move || -> anyhow::Result<TcpStream> {
                let peer = at(peer(number as usize), churn::PORT);
                let mut stream = TcpStream::connect_timeout(&peer, Duration::from_secs(2))?;
                stream.write_all(b"hello")?;
                Ok(stream)
            })?
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        if number >= CONNECTIONS - OPEN {
            open.push(stream);
        }
    }
    println!("ready");
    std::io::stdout().flush()?;
    for _ in 0..600 {
        let threads: Vec<_> = (0..10)
            .filter_map(|number| {
                std::thread::Builder::new()
                    .name(format!("brief-{number}"))
                    .spawn(|| std::thread::sleep(Duration::from_millis(2)))
                    .ok()
            })
            .collect();
        for thread in threads {
            let _ = thread.join();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
