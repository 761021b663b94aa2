//! The collector's thread: drains the rings, sweeps the table, reconciles, and sends batches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ebpf_abi::{Event, EventKind, NO_SLOT, SLOTS, VACANT, WAKE_PAUSE};
use events::{BlockRequest, ConnectionId, Flow, TcpEvent, TcpEventKind, TcpState, Timestamp};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use crate::Settings;
use crate::convert;
use crate::counters::{Shared, add, lock};
use crate::diag::{Diag, Listing};
use crate::heartbeat::{Pause, Pulse};
use crate::kernel::Sources;
use crate::message::Brief;
use crate::percentiles::Series;
use crate::records::{KernelRecord, Outbox, Sinks};
use crate::sweep::{Live, Pace};
use crate::swept::Swept;
use drain::{Others, drain_ring};

mod drain;
mod reconcile;
#[cfg(test)]
mod tests;

/// Events in a batch at most.
const BATCH: usize = 1_000;
/// Records taken from a ring before the sweep gets its turn.
const DRAIN: usize = 1_000;
/// Events other than samples that wait for a full sink, at most.
const WAITING: usize = 10_000;
/// Connections followed at most: as many again may have no slot as have one.
const KNOWN: usize = 4 * SLOTS as usize;
/// How often all of the table is searched for slots that no event told of.
const SCAN: Duration = Duration::from_secs(1);
/// How soon after an event that hurries the rings are looked at again.
const WAKE_AGAIN: Duration = Duration::from_nanos(WAKE_PAUSE);
/// Slow block requests kept for whoever asks.
const SLOW_KEPT: usize = 64;
/// However small the setting is, the host is not kept busy.
const SHORTEST_SWEEP: Duration = Duration::from_millis(1);
const SHORTEST_RECONCILE: Duration = Duration::from_millis(100);
/// Slow block requests are logged at most this often.
const TELL_SLOW: Duration = Duration::from_secs(1);
/// Errors of one kind are logged at most this often.
const LOG_PAUSE: Duration = Duration::from_secs(60);

struct Known {
    flow: Flow,
    since: Timestamp,
}

/// The thread's state.
pub struct Reader {
    sources: Sources,
    settings: Settings,
    diag: Diag,
    sink: Sender<Vec<TcpEvent>>,
    records: Outbox,
    shared: Arc<Shared>,
    stop: OwnedFd,
    known: BTreeMap<u64, Known>,
    swept: Swept,
    /// Known, but not in the kernel's last list.
    unlisted: BTreeSet<u64>,
    out: Vec<TcpEvent>,
    /// Events that woke nobody may wait until then.
    next_drain: Option<Timestamp>,
    next_sweep: Timestamp,
    /// From then on a sweep is made if the thread is awake anyway: it need not wake for one soon.
    early_sweep: Timestamp,
    next_scan: Timestamp,
    next_reconcile: Timestamp,
    logged_at: Option<Timestamp>,
    pulse: Pulse,
    told_slow: Option<Timestamp>,
}

impl Reader {
    pub fn new(
        sources: Sources,
        mut settings: Settings,
        diag: Diag,
        sinks: Sinks,
        shared: Arc<Shared>,
        stop: OwnedFd,
    ) -> Self {
        let now = clock::now();
        settings.sweep = settings.sweep.max(SHORTEST_SWEEP);
        settings.reconcile = settings.reconcile.max(SHORTEST_RECONCILE);
        Self {
            next_drain: None,
            next_sweep: now,
            early_sweep: now,
            next_scan: now,
            next_reconcile: now + settings.reconcile,
            sources,
            settings,
            diag,
            sink: sinks.tcp,
            records: Outbox::new(sinks.records),
            shared,
            stop,
            known: BTreeMap::new(),
            swept: Swept::default(),
            unlisted: BTreeSet::new(),
            out: Vec::new(),
            logged_at: None,
            pulse: Pulse::new(now),
            told_slow: None,
        }
    }

    /// Runs until it is told to stop or the sink is closed.
    pub fn run(mut self, (at, existing): (Timestamp, Listing)) {
        // Values recorded before the first rotation would belong to no window.
        self.shared.registry().rotate(at);
        self.reconcile_with(at, &existing);
        let mut open = self.flush();
        while open && self.wait() {
            let mut records = Vec::new();
            let more = self.drain(DRAIN, &mut records);
            self.apply(&records);

            let now = clock::now();
            self.next_drain = records.iter().any(hurries).then(|| now + WAKE_AGAIN);
            self.shared.registry().rotate(now);
            self.feel_pulse(now);
            if now >= self.next_reconcile {
                self.reconcile(now);
                self.find_disks();
                self.sources.udp.forget_ended();
                self.next_reconcile = clock::now() + self.settings.reconcile;
            }
            if now >= self.next_scan {
                self.scan();
                self.measure_disks();
                self.account();
                self.next_scan = now + SCAN;
            }
            if now >= self.next_sweep.min(self.early_sweep) {
                self.sweep();
            }
            if more {
                self.next_sweep = self.next_sweep.min(now);
            }
            open = self.flush();
            self.records.flush(&self.shared);
        }
    }

    fn find_disks(&mut self) {
        if !self.settings.block {
            return;
        }
        if let Err(error) = self.sources.disks.scan() {
            self.complain("cannot list the disks", &error);
        }
        self.shared
            .disk_overflow
            .store(self.sources.disks.overflow, Ordering::Relaxed);
    }

    fn measure_disks(&mut self) {
        self.sources.disks.collect(&mut self.shared.registry());
        *lock(&self.shared.disks) = self.sources.disks.counters();
    }

    /// Sleeps until something is due. Returns whether to go on.
    fn wait(&mut self) -> bool {
        let due = self.next_sweep.min(self.next_scan).min(self.next_reconcile);
        let due = self.next_drain.map_or(due, |drain| due.min(drain));
        let timeout = TimeSpec::from(due.since(clock::now()));
        let mut fds = [
            PollFd::new(self.sources.urgent.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.sources.bulk.as_fd(), PollFlags::POLLIN),
        ];
        match ppoll(&mut fds, Some(timeout), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                self.complain("cannot wait for events", &error);
                std::thread::sleep(self.settings.sweep);
                return true;
            }
        }
        !fds[1]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLIN))
    }

    /// Takes up to `limit` records from each ring, ordered by time. Returns whether more may wait.
    fn drain(&mut self, limit: usize, records: &mut Vec<Event>) -> bool {
        let mut others = Others {
            whole: self.records.is_wanted(),
            ..Others::default()
        };
        let shared = &self.shared;
        let urgent = drain_ring(
            &mut self.sources.urgent,
            limit,
            records,
            &mut others,
            shared,
        );
        let bulk = drain_ring(&mut self.sources.bulk, limit, records, &mut others, shared);
        self.beat(&others.beats);
        if let Some((processes, _)) = &self.sources.processes {
            for note in std::mem::take(&mut others.notes) {
                add(&self.shared.long_waits_dropped, processes.note(note));
            }
        }
        let blocks = others.blocks.iter().map(|r| self.sources.disks.request(r));
        let blocks: Vec<_> = blocks.collect();
        self.tell_slow(&blocks);
        self.count_messages(&others.messages);
        let blocks = blocks.into_iter().map(KernelRecord::Block);
        for record in others.calls.into_iter().chain(blocks) {
            if !matches!(&record, KernelRecord::Message(message) if self.is_silenced(message.flow.remote.ip()))
            {
                self.records.push(record);
            }
        }
        records.sort_by_key(|record| record.at);
        urgent || bulk
    }

    /// The worst of the block requests that were slow or failed, once a second at most.
    fn tell_slow(&mut self, requests: &[BlockRequest]) {
        let worst = requests
            .iter()
            .max_by_key(|request| (request.error.is_some(), request.service));
        let Some(worst) = worst else { return };
        let mut slow = lock(&self.shared.slow);
        if slow.len() >= SLOW_KEPT {
            slow.pop_front();
        }
        slow.push_back(worst.clone());
        drop(slow);
        let now = clock::now();
        if self.told_slow.is_some_and(|at| now.since(at) < TELL_SLOW) {
            return;
        }
        self.told_slow = Some(now);
        tracing::info!(
            device = worst.device,
            operation = ?worst.operation,
            queue = ?worst.queue,
            service = ?worst.service,
            error = worst.error,
            others = requests.len() - 1,
            "a block request was slow or failed"
        );
    }

    fn count_messages(&mut self, messages: &[Brief]) {
        let mut counted = 0;
        let mut registry = self.shared.registry();
        for message in messages {
            if self.is_silenced(message.peer) {
                continue;
            }
            counted += 1;
            if let Some((series, nanos)) = message.series() {
                registry.record(series, nanos, 1);
            }
        }
        drop(registry);
        add(&self.shared.messages, counted);
    }

    fn is_silenced(&self, peer: IpAddr) -> bool {
        self.settings.ignore.iter().any(|net| net.contains(&peer))
    }

    /// Heartbeats, each with the time of its handling.
    fn beat(&mut self, beats: &[(Timestamp, Timestamp)]) {
        if beats.is_empty() {
            return;
        }
        let mut registry = self.shared.registry();
        for (at, now) in beats {
            let delay = u64::try_from(now.since(*at).as_nanos()).unwrap_or(u64::MAX);
            registry.record(Series::CollectorDelay, delay, 1);
            match self.pulse.beat(*at, *now) {
                Some(Pause::Stalled { for_ }) => {
                    add(&self.shared.stalls, 1);
                    tracing::warn!(
                        ?for_,
                        "the collector stalled; this host is starved of CPU or was stopped"
                    );
                }
                Some(pause) => tracing::info!(?pause, "heartbeats are back"),
                None => {}
            }
        }
        add(&self.shared.heartbeats, beats.len() as u64);
    }

    /// Whether heartbeats are missing although the rings are read.
    fn feel_pulse(&mut self, now: Timestamp) {
        if self.sources.heartbeat
            && let Some(pause) = self.pulse.look(now)
        {
            add(&self.shared.heartbeat_gaps, 1);
            tracing::warn!(
                ?pause,
                "no heartbeat from the kernel; is the first CPU offline, or the urgent ring full?"
            );
        }
    }

    fn apply(&mut self, records: &[Event]) {
        for record in records {
            let flow = convert::flow(
                record.local,
                record.local_port,
                record.remote,
                record.remote_port,
            );
            let at = Timestamp::from_nanos(record.at);
            let kind = EventKind::from_number(record.kind);
            if kind == Some(EventKind::Adopted) && record.value != 0 {
                self.rename(record, at);
            }
            if self.is_ignored(&flow) {
                continue;
            }
            if kind == Some(EventKind::State) && record.to == TCP_CLOSE {
                self.known.remove(&record.cookie);
                self.unwatch(record.slot);
            } else {
                self.follow(record, flow, at);
            }
            self.out.extend(convert::event(record));
            if kind == Some(EventKind::State) && record.value != 0 {
                let peer = flow.remote.ip();
                let mut registry = self.shared.registry();
                registry.record(Series::Handshake { peer }, record.value, 1);
                drop(registry);
                self.out.push(TcpEvent {
                    at,
                    connection: ConnectionId(record.cookie),
                    flow,
                    kind: TcpEventKind::Handshake {
                        took: Duration::from_nanos(record.value),
                    },
                });
            }
        }
    }

    /// A connection was known by its address until it had a cookie. What was counted stays.
    fn rename(&mut self, record: &Event, at: Timestamp) {
        let former = record.value;
        let slot = (record.slot != NO_SLOT).then_some(record.slot);
        self.swept.rename(former, record.cookie, slot, &self.shared);
        self.forget(former, at);
    }

    fn follow(&mut self, record: &Event, flow: Flow, at: Timestamp) {
        let is_new = !self.known.contains_key(&record.cookie);
        let is_adopted = record.kind == EventKind::Adopted as u8;
        if record.kind == EventKind::State as u8 || is_adopted {
            self.know(record.cookie, flow, at);
        }
        if is_adopted
            && is_new
            && let Some(state) = TcpState::from_kernel(record.to)
        {
            add(&self.shared.found, 1);
            self.out.push(TcpEvent {
                at,
                connection: ConnectionId(record.cookie),
                flow,
                kind: TcpEventKind::Found { state, owner: None },
            });
        }
        if record.slot != NO_SLOT {
            self.watch(record.slot);
        }
    }

    fn know(&mut self, cookie: u64, flow: Flow, at: Timestamp) {
        if let Some(known) = self.known.get_mut(&cookie) {
            known.flow = flow;
        } else if self.known.len() < KNOWN {
            self.known.insert(cookie, Known { flow, since: at });
        } else {
            add(&self.shared.untracked, 1);
        }
    }

    /// Begins to sweep a slot, if it is not swept yet.
    fn watch(&mut self, index: u32) {
        let Some(slot) = self.sources.table.read(index) else {
            return;
        };
        if self.swept.cookie(index) == Some(slot.cookie) {
            return;
        }
        // Two CPUs may have taken a slot each for one connection at the same moment: the one that
        // lookups find is kept, the other would look like data that is never acknowledged.
        if self.sources.table.find(slot.cookie) != Some(index) {
            if self.sources.table.release(index, slot.cookie) {
                add(&self.shared.slots_orphaned, 1);
            }
            return;
        }
        let flow = convert::flow(slot.local, slot.local_port, slot.remote, slot.remote_port);
        let ignored = self.is_ignored(&flow);
        if !ignored {
            self.know(slot.cookie, flow, clock::now());
        }
        self.unwatch(index);
        self.swept.insert(index, Live::new(&slot, ignored));
        self.next_sweep = self.next_sweep.min(clock::now() + self.settings.sweep);
    }

    fn unwatch(&mut self, index: u32) {
        self.swept.remove(index, &self.shared);
    }

    /// Looks for slots that no event told of: the ring may have been full.
    fn scan(&mut self) {
        for index in 0..SLOTS {
            let cookie = self.sources.table.key(index);
            if cookie != VACANT && self.swept.cookie(index) != Some(cookie) {
                self.watch(index);
            }
        }
    }

    /// What the watched threads waited for since the last time.
    fn account(&mut self) {
        if let Some((processes, account)) = &mut self.sources.processes {
            processes.account(account, self.shared.registry());
        }
    }

    fn sweep(&mut self) {
        let now = clock::now();
        let found = self.swept.sweep(
            now,
            Pace::new(self.settings.sweep, self.settings.overdue_floor),
            self.shared.attentive(now),
            &self.sources.table,
            &mut self.diag,
            &self.shared,
            &mut self.out,
        );
        self.next_sweep = found.next;
        self.early_sweep = found.early;
        add(&self.shared.sends, found.sends);
        add(&self.shared.segments, found.segments);
        add(&self.shared.sweeps, 1);
        self.shared
            .slots_in_use
            .store(self.swept.len() as u64, Ordering::Relaxed);
    }

    /// Sends what has gathered. Returns whether anyone still listens.
    fn flush(&mut self) -> bool {
        self.out.sort_by_key(|event| event.at);
        while !self.out.is_empty() {
            let rest = self.out.split_off(self.out.len().min(BATCH));
            let batch = std::mem::replace(&mut self.out, rest);
            let length = batch.len() as u64;
            match self.sink.try_send(batch) {
                Ok(()) => add(&self.shared.delivered, length),
                Err(TrySendError::Full(mut batch)) => {
                    batch.append(&mut self.out);
                    self.keep_edges(batch);
                    return true;
                }
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        !self.sink.is_closed()
    }

    /// The sink is full: samples come again, other events wait.
    fn keep_edges(&mut self, mut events: Vec<TcpEvent>) {
        let before = events.len();
        events.retain(|event| !matches!(event.kind, TcpEventKind::Sample(_)));
        add(
            &self.shared.samples_dropped,
            before.saturating_sub(events.len()) as u64,
        );
        let excess = events.len().saturating_sub(WAITING);
        events.drain(..excess);
        add(&self.shared.edges_dropped, excess as u64);
        self.out = events;
        self.next_sweep = self.next_sweep.min(clock::now() + self.settings.sweep);
    }

    fn is_ignored(&self, flow: &Flow) -> bool {
        let remote = flow.remote.ip();
        let peers = &self.settings.peers;
        (!peers.is_empty() && !peers.iter().any(|net| net.contains(&remote)))
            || self.is_silenced(remote)
    }

    /// The programs' own filter, for connections that the kernel lists.
    fn is_watched(&self, flow: &Flow) -> bool {
        let ports = &self.settings.ports;
        let by_port = ports.is_empty()
            || ports.contains(&flow.local.port())
            || ports.contains(&flow.remote.port());
        let remote = flow.remote.ip();
        let is_local = remote.is_loopback() || remote == flow.local.ip();
        let peers = &self.settings.peers;
        let by_peer = peers.is_empty() || peers.iter().any(|net| net.contains(&remote));
        by_peer && by_port && !(self.settings.ignore_loopback && is_local)
    }

    fn complain(&mut self, what: &str, error: &dyn std::error::Error) {
        let now = clock::now();
        if self.logged_at.is_none_or(|at| now.since(at) >= LOG_PAUSE) {
            self.logged_at = Some(now);
            tracing::warn!(%error, "{what}");
        }
    }
}

const TCP_SYN_SENT: u8 = 2;
const TCP_CLOSE: u8 = 7;

/// Whether programs wake the reader for such an event, or would have, had they not just done so.
fn hurries(event: &Event) -> bool {
    match EventKind::from_number(event.kind) {
        Some(EventKind::State) => {
            event.error != 0 || (event.from == TCP_SYN_SENT && event.to == TCP_CLOSE)
        }
        Some(EventKind::Adopted | EventKind::Window) | None => false,
        Some(_) => true,
    }
}
