//! Threads that spin: what a runaway process on the validator's host does to everybody else there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Spinning threads. Dropping it ends them.
pub struct Hog {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Hog {
    /// Starts so many; by default two for each CPU.
    #[must_use]
    pub fn start(threads: Option<u32>) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let count = threads.map_or(2 * cpus, |n| n as usize);
        let stop = Arc::new(AtomicBool::new(false));
        let spin = |flag: Arc<AtomicBool>| {
            move || {
                while !flag.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }
        };
        Self {
            threads: (0..count)
                .map(|_| std::thread::spawn(spin(stop.clone())))
                .collect(),
            stop,
        }
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot panic.
            let _ = thread.join();
        }
    }
}
