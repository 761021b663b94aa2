//! A connection that takes all the bandwidth there is.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;

/// The transfer. Dropping it ends it.
pub struct Bulk {
    stream: TcpStream,
    threads: Vec<JoinHandle<()>>,
}

impl Bulk {
    /// Sends from `stream` to whoever connected to `listener`, by NewReno (RFC 6582): it fills a
    /// queue until it drops, and every kernel has it. BBR, which may be the default, would not.
    ///
    /// # Errors
    /// The connection cannot be accepted, or its congestion control not be set.
    pub fn start(listener: TcpListener, stream: TcpStream) -> std::io::Result<Self> {
        let (mut sink, _) = listener.accept()?;
        socket2::SockRef::from(&stream).set_tcp_congestion(b"reno")?;
        let mut source = stream.try_clone()?;
        let taking = std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while sink.read(&mut buffer).is_ok_and(|length| length > 0) {}
        });
        let sending = std::thread::spawn(move || {
            let block = [0x5a; 16_384];
            while source.write_all(&block).is_ok() {}
        });
        Ok(Self {
            stream,
            threads: vec![taking, sending],
        })
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        // An abort: what is still buffered would keep the uplink busy.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO));
        let _ = self.stream.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            // Neither can panic.
            let _ = thread.join();
        }
    }
}
