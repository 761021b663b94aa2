//! What a wake-up costs on this machine by itself: a thread that sleeps and does nothing else. On a
//! virtual machine that is the host's to decide, and changes while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use lab::sys;

/// About as often as the daemon's threads do.
const EVERY: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    wakeups: AtomicU64,
    nanos: AtomicU64,
}

/// The thread. Dropping it ends it.
pub struct Sleeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What it had used at a moment.
#[derive(Clone, Copy)]
pub struct Used {
    wakeups: u64,
    nanos: u64,
}

impl Sleeper {
    /// Starts it.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start() -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("sleeper".into())
            .spawn(move || {
                while !its.stop.load(Ordering::Relaxed) {
                    std::thread::sleep(EVERY);
                    its.wakeups.fetch_add(1, Ordering::Relaxed);
                    its.nanos.store(sys::thread_cpu(), Ordering::Relaxed);
                }
            })
            .context("no thread for the sleeper")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// What it has used.
    pub fn used(&self) -> Used {
        Used {
            wakeups: self.shared.wakeups.load(Ordering::Relaxed),
            nanos: self.shared.nanos.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Used {
    /// Microseconds of CPU time for each wake-up since `before`.
    pub fn micros_each_since(self, before: Self) -> f64 {
        let wakeups = (self.wakeups - before.wakeups).max(1);
        (self.nanos - before.nanos) as f64 / 1e3 / wakeups as f64
    }
}
