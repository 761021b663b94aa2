//! Starting, running and stopping collection.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ebpf_abi::Counter;
use events::{BlockRequest, LossStage, TcpEvent, Timestamp};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc::Sender;

use crate::block::DiskCounters;
use crate::counters::{Counters, Shared, lock};
use crate::diag::{Diag, Listing};
use crate::kernel::{Kernel, Memory, Sources, StartError};
use crate::reader::Reader;
use crate::records::Sinks;
use crate::sched::{LongWait, WatchedThread};
use crate::table::View;
use crate::watch::WatchedProcess;
use crate::{Percentiles, ProbeReport, Series, Settings, UdpThread};

/// Programs that are loaded and attached, and the connections that existed then. Everything is
/// released when it is dropped.
pub struct Collector {
    kernel: Kernel,
    sources: Sources,
    settings: Settings,
    diag: Diag,
    existing: (Timestamp, Listing),
}

impl Collector {
    /// Loads and attaches the programs in the network namespace of the calling thread, then lists
    /// the connections that exist.
    ///
    /// # Errors
    ///
    /// Where nothing can be collected at all; a single probe that this kernel does not allow is
    /// off and says so in [`Collector::report`].
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let (kernel, sources) = Kernel::load(&settings)?;
        let mut diag = Diag::open().map_err(StartError::Diag)?;
        let at = clock::now();
        let listing = diag.list(true).unwrap_or_else(|error| {
            tracing::warn!(
                %error,
                "cannot list the connections that exist; load the modules inet_diag and tcp_diag"
            );
            Listing {
                interrupted: true,
                ..Listing::default()
            }
        });
        Ok(Self {
            kernel,
            sources,
            settings,
            diag,
            existing: (at, listing),
        })
    }

    /// What became of each probe.
    #[must_use]
    pub fn report(&self) -> &[ProbeReport] {
        &self.kernel.reports
    }

    /// What was seen and lost so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        counters(&self.kernel, &Shared::default(), true)
    }

    /// Bytes that the kernel charges for programs and maps.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let memory = self.kernel.memory();
        memory.programs + memory.maps
    }

    /// Runs the collector's thread, which sends batches of up to 1,000 events, ordered by time
    /// within a batch, to the sink. It never waits for the sink: see [`Counters`] for what a full
    /// one costs. It ends when the sink is closed, or with the handle.
    ///
    /// # Errors
    ///
    /// Where the thread cannot be made; everything is released then.
    pub fn spawn(self, sink: Sender<Vec<TcpEvent>>) -> Result<Handle, StartError> {
        self.spawn_with(Sinks {
            tcp: sink,
            records: None,
        })
    }

    /// As [`Collector::spawn`], with a sink for records of single calls beside. The end of that
    /// one ends nothing else.
    ///
    /// # Errors
    ///
    /// As [`Collector::spawn`].
    pub fn spawn_with(self, sinks: Sinks) -> Result<Handle, StartError> {
        let shared = Arc::new(Shared::default());
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|error| StartError::Thread(error.into()))?;
        let waker = stop
            .as_fd()
            .try_clone_to_owned()
            .map_err(StartError::Thread)?;
        let table = self.sources.table.view();
        let reader = Reader::new(
            self.sources,
            self.settings,
            self.diag,
            sinks,
            Arc::clone(&shared),
            waker,
        );
        let existing = self.existing;
        let thread = std::thread::Builder::new()
            .name("netwatch-kernel".to_owned())
            .spawn(move || reader.run(existing))
            .map_err(StartError::Thread)?;
        Ok(Handle {
            thread: Some(thread),
            stop,
            shared,
            table,
            kernel: self.kernel,
        })
    }
}

/// A running collector. Dropping it stops the thread and releases programs, maps and links.
pub struct Handle {
    thread: Option<JoinHandle<()>>,
    stop: EventFd,
    shared: Arc<Shared>,
    pub(crate) table: View,
    kernel: Kernel,
}

impl Handle {
    /// What became of each probe.
    #[must_use]
    pub fn report(&self) -> &[ProbeReport] {
        &self.kernel.reports
    }

    /// What was seen and lost so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        counters(&self.kernel, &self.shared, true)
    }

    /// Losses so far that lower the detector's confidence, by stage: cheaper than all counters.
    #[must_use]
    pub fn losses(&self) -> [(LossStage, u64); 4] {
        counters(&self.kernel, &self.shared, false).losses()
    }

    /// The same, programs and maps apart.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.kernel.memory()
    }

    /// Bytes that the kernel charges for programs and maps.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let memory = self.kernel.memory();
        memory.programs + memory.maps
    }

    /// Until then connections are told of whenever they move, not only once a second and when data
    /// is late: who goes on as usual says most about what does not. An earlier wish that lasts
    /// longer stays.
    pub fn attend(&self, until: Timestamp) {
        self.shared
            .attend_until
            .fetch_max(until.as_nanos(), Ordering::Relaxed);
    }

    /// The worst block requests that were slow or failed since the last call, at most 64, each with
    /// the 99th percentile of its disk and operation where enough were seen.
    #[must_use]
    pub fn slow_requests(&self) -> Vec<(BlockRequest, Option<Duration>)> {
        let requests: Vec<BlockRequest> = lock(&self.shared.slow).drain(..).collect();
        let registry = self.shared.registry();
        requests
            .into_iter()
            .map(|request| {
                let usual = registry.of(&Series::BlockService {
                    device: request.device.clone(),
                    operation: request.operation,
                });
                (request, usual.filter(|p| p.count >= 100).map(|p| p.p99))
            })
            .collect()
    }

    /// Requests by disk and operation since the start, as of the last second.
    #[must_use]
    pub fn disks(&self) -> Vec<DiskCounters> {
        lock(&self.shared.disks).clone()
    }

    /// What each watched thread sent and received by UDP, by process and thread id: at most 1,024,
    /// those that were quiet for the longest are forgotten first; ended ones within some seconds.
    #[must_use]
    pub fn udp_threads(&self) -> Vec<UdpThread> {
        self.kernel.udp.read()
    }

    /// What the last minute was like, by peer, disk and thread. Takes some microseconds for each, and
    /// never holds the collector's thread up for long.
    #[must_use]
    pub fn percentiles(&self) -> Vec<(Series, Percentiles)> {
        const AT_ONCE: usize = 32;
        let all: Vec<Series> = {
            let mut registry = self.shared.registry();
            registry.rotate(clock::now());
            registry.names().cloned().collect()
        };
        let mut found = Vec::with_capacity(all.len());
        for some in all.chunks(AT_ONCE) {
            let registry = self.shared.registry();
            found.extend(
                some.iter()
                    .filter_map(|series| Some((series.clone(), registry.of(series)?))),
            );
        }
        found
    }

    /// The processes that are watched, as [`Watch`](crate::Watch) declares them.
    #[must_use]
    pub fn watched(&self) -> Vec<WatchedProcess> {
        let processes = self.kernel.processes.as_ref();
        processes.map_or_else(Vec::new, |processes| processes.watched())
    }

    /// Their threads, as far as they ran since they are watched: what they wait for, and who takes
    /// the CPU from them. Copies some 2 kB for each.
    #[must_use]
    pub fn threads(&self) -> Vec<WatchedThread> {
        let processes = self.kernel.processes.as_ref();
        processes.map_or_else(Vec::new, |processes| processes.threads())
    }

    /// Waits for a CPU that were longer than [`Settings::long_wait`], one a second of each thread
    /// at most, and the last 256 in all; each is told once.
    #[must_use]
    pub fn long_waits(&self) -> Vec<LongWait> {
        let processes = self.kernel.processes.as_ref();
        processes.map_or_else(Vec::new, |processes| processes.take_waits())
    }

    /// The thread runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Stops the thread and releases everything. May wait for one reconciliation, at most some
    /// seconds where the kernel does not answer.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Err(error) = self.stop.write(1) {
            // The thread then ends with its sink; joining it could wait for ever.
            tracing::error!(%error, "cannot wake the collector's thread");
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the collector's thread ended by a panic");
        }
        tracing::debug!(links = self.kernel.links(), "detaching");
    }
}

fn counters(kernel: &Kernel, shared: &Shared, programs: bool) -> Counters {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Counters {
        urgent_records: kernel.counter(Counter::Urgent),
        urgent_lost: kernel.counter(Counter::UrgentLost),
        bulk_records: kernel.counter(Counter::Bulk),
        bulk_lost: kernel.counter(Counter::BulkLost),
        table_full: kernel.counter(Counter::TableFull),
        watched_full: kernel.counter(Counter::WatchedFull),
        threads_full: kernel.counter(Counter::ThreadsFull),
        switches_missed: kernel.counter(Counter::SwitchesMissed),
        cgroups_full: kernel.counter(Counter::CgroupsFull),
        long_waits_dropped: load(&shared.long_waits_dropped),
        slots_taken: kernel.counter(Counter::SlotsTaken) + load(&shared.slots_invited),
        slots_freed: kernel.counter(Counter::SlotsFreed),
        slots_orphaned: load(&shared.slots_orphaned),
        slots_in_use: load(&shared.slots_in_use),
        sends: load(&shared.sends),
        segments: load(&shared.segments),
        malformed: load(&shared.malformed),
        delivered: load(&shared.delivered),
        samples_dropped: load(&shared.samples_dropped),
        edges_dropped: load(&shared.edges_dropped),
        untracked: load(&shared.untracked),
        sweeps: load(&shared.sweeps),
        found: load(&shared.found),
        gone: load(&shared.gone),
        reconcile_failed: load(&shared.reconcile_failed),
        disk_unknown: kernel.counter(Counter::DiskUnknown),
        disk_overflow: load(&shared.disk_overflow),
        requests_lost: kernel.counter(Counter::RequestsLost),
        messages: load(&shared.messages),
        messages_again: kernel.counter(Counter::MessageAgain),
        messages_unpaired: kernel.counter(Counter::MessageUnpaired),
        messages_abandoned: kernel.counter(Counter::MessageAbandoned),
        udp_sent: kernel.counter(Counter::UdpSent),
        udp_received: kernel.counter(Counter::UdpReceived),
        udp_unrecorded: kernel.counter(Counter::UdpUnrecorded),
        calls: kernel.counter(Counter::Call),
        calls_lost: kernel.counter(Counter::CallLost),
        records_delivered: load(&shared.records_delivered),
        records_dropped: load(&shared.records_dropped),
        heartbeats: load(&shared.heartbeats),
        stalls: load(&shared.stalls),
        heartbeat_gaps: load(&shared.heartbeat_gaps),
        percentiles: shared.registry().usage(),
        programs: if programs {
            kernel.program_stats()
        } else {
            Vec::new()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handle_can_be_shared_and_the_collector_moved() {
        fn shared<T: Send + Sync>() {}
        fn moved<T: Send>() {}
        shared::<Handle>();
        moved::<Collector>();
    }
}
