use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;

use events::{HostSignal, ProbeRequest};
use tokio::sync::{mpsc, oneshot};

use crate::counters::{Counters, Shared};
use crate::path::PathStatus;
use crate::results::ResultSink;
use crate::settings::{Settings, StartError};
use crate::socket::wake_pipe;
use crate::worker::{Command, Sinks, Worker};

/// Requests that may wait for the thread: it takes them within milliseconds.
const COMMANDS: usize = 64;

/// Starts probing.
#[derive(Debug)]
pub struct Prober;

/// A request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the prober's queue is full or its thread is gone; the probes are not sent")]
pub struct NotAccepted;

impl Prober {
    /// Starts the probing thread in the calling thread's network namespace. What a queue has
    /// no room for is dropped and counted; only carrier and neighbour states wait, the newest each.
    ///
    /// # Errors
    /// A socket or the thread could not be made.
    pub fn spawn(
        settings: Settings,
        sink: ResultSink,
        host_sink: mpsc::Sender<HostSignal>,
    ) -> Result<Handle, StartError> {
        let (wake_reader, wake) = wake_pipe().map_err(StartError::Thread)?;
        let (commands, receiver) = std_mpsc::sync_channel(COMMANDS);
        let counters = Arc::new(Shared::default());
        let stop = Arc::new(AtomicBool::new(false));
        let sinks = Sinks {
            results: sink,
            signals: host_sink,
        };
        let worker = Worker::new(
            settings,
            sinks,
            Arc::clone(&counters),
            Arc::clone(&stop),
            receiver,
            wake_reader,
        )?;
        let thread = std::thread::Builder::new()
            .name("netwatch-probe".to_owned())
            .spawn(move || worker.run())
            .map_err(StartError::Thread)?;
        Ok(Handle {
            commands,
            wake,
            counters,
            stop,
            thread: Some(thread),
        })
    }
}

/// The running prober. Dropping it stops it.
#[derive(Debug)]
pub struct Handle {
    commands: std_mpsc::SyncSender<Command>,
    wake: OwnedFd,
    counters: Arc<Shared>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Sends a burst of probes at suspects: `count` (1 to 10) on each path that targets, egresses
    /// and sources make, `spacing` (at least 5 ms) apart. Each probe sent has one result, and a
    /// second one if its answer comes after it was reported lost.
    ///
    /// # Errors
    /// The queue is full; nothing of the request is sent.
    pub fn probe(&self, request: ProbeRequest) -> Result<(), NotAccepted> {
        self.command(Command::Probe(request)).inspect_err(|_| {
            crate::counters::add(&self.counters.suspects_dropped, 1);
        })
    }

    /// The state of every path; empty where the thread does not answer. Cancel-safe.
    pub async fn status(&self) -> Vec<PathStatus> {
        let (reply, answer) = oneshot::channel();
        if self.command(Command::Status(reply)).is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// What was counted since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters.read()
    }

    /// Stops the thread and waits for it: it ends within milliseconds.
    pub fn stop(self) {
        drop(self);
    }

    fn command(&self, command: Command) -> Result<(), NotAccepted> {
        self.commands.try_send(command).map_err(|_| NotAccepted)?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        match nix::unistd::write(&self.wake, &[0]) {
            // A full pipe wakes just as well.
            Ok(_) | Err(nix::Error::EAGAIN) => {}
            Err(error) => {
                let error = io::Error::from(error);
                tracing::warn!(%error, "waking the probing thread");
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the probing thread panicked; please report this as a bug");
        }
    }
}
