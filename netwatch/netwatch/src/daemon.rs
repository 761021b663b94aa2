//! The daemon: adapters around one engine task.
//!
//! ```text
//! adapters ──bounded channels──▶ engine task ──effects──▶ adapters
//! socket ──queries────────────▶      │
//! /metrics ◀──── a snapshot, now and then
//! ```
//!
//! The engine task is the only owner of the engine. Whenever something arrives it takes everything
//! that is at hand, tells the engine that time passed, and carries out what the engine asks for. It
//! never waits for an adapter.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use config::Config;
use engine::Engine;
use events::{
    BgpSignal, Effect, EgressName, Entry, EntryKind, HostSignal, IncidentId, Input, LossStage,
    OperatorCommand, Outcome, Prefix, TcpEvent, Timestamp, Verdict,
};
use nix::fcntl::{Flock, FlockArg};
use recorder::Recorder;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::answers::View;
use crate::narrate::Narrator;
use crate::uplinks::Uplinks;
use crate::{leftover, maintenance, metrics, nudge, wiring};

/// Batches from the kernel collector: each at most 1,000 events, sent every few milliseconds.
const TCP_BATCHES: usize = 64;
/// A full table makes some thousand signals for watched peers at once.
const BGP_SIGNALS: usize = 4096;
/// Eight seconds of all probes through two egresses.
const PROBES: usize = 4096;
/// Links and neighbours change rarely.
const HOST_SIGNALS: usize = 256;
/// A page makes two or three.
const OUTCOMES: usize = 256;
/// People and tools.
const QUERIES: usize = 32;
/// A kill switch flips, a maintenance window begins or ends.
const OPERATORS: usize = 16;
/// Healthy connections are told of for so long once something may be broken.
const ATTENTION: Duration = Duration::from_millis(500);
/// How often the collector's losses are looked at.
const LOSSES: Duration = Duration::from_secs(1);
/// No more inputs than this between two calls of `handle_timeout`.
const AT_HAND: u64 = 10_000;
/// Routes must be gone this long after SIGTERM; their leases run out anyway.
const STOP_ROUTES: Duration = Duration::from_secs(3);
/// Everything else ends within this, whatever the disk and the network do. A page that is on its way
/// may take as long; the outbox keeps it for the next start.
const STOP_REST: Duration = Duration::from_secs(3);

/// What adapters send.
struct Inputs {
    tcp: mpsc::Receiver<Vec<TcpEvent>>,
    bgp: mpsc::Receiver<BgpSignal>,
    probe: probing::Results,
    host: mpsc::Receiver<HostSignal>,
    routes: mpsc::Receiver<routes::Report>,
    outcome: mpsc::Receiver<Outcome>,
    operator: mpsc::Receiver<OperatorCommand>,
    query: mpsc::Receiver<api::Call>,
}

/// The running parts.
pub struct Daemon {
    pub(crate) config: Config,
    pub(crate) started: Timestamp,
    pub(crate) engine: Engine,
    /// The adapters' runtime: answers that take time or sockets belong there.
    pub(crate) adapters: tokio::runtime::Handle,
    pub(crate) collector: Option<Arc<full_stack_probes::Handle>>,
    /// Why there is no collector.
    pub(crate) collector_error: Option<String>,
    pub(crate) prober: Option<Arc<probing::Handle>>,
    pub(crate) bgp: Option<Arc<bgp_feed::Handle>>,
    pub(crate) routes: Option<routes::Routes>,
    pub(crate) pager: Option<Arc<paging::Handle>>,
    pub(crate) journal: Option<journal::Journal>,
    pub(crate) recorder: Option<Recorder>,
    /// Where what adapters did comes back to the engine.
    outcomes: mpsc::Sender<Outcome>,
    events: api::Publisher,
    pub(crate) totals: Totals,
    pub(crate) view: View,
    /// No other daemon may write to the same directory.
    _state_lock: Option<Flock<File>>,
    narrator: Narrator,
    uplinks: Uplinks,
    /// Losses told so far, by stage, and when to look again.
    losses: BTreeMap<LossStage, u64>,
    losses_due: Timestamp,
    /// The egress that each open incident blames.
    blamed: BTreeMap<IncidentId, EgressName>,
}

/// What the engine task counts itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Inputs handled.
    pub inputs: u64,
    /// Effects carried out.
    pub effects: u64,
    /// Route commands that found the executor's queue full.
    pub route_commands_dropped: u64,
    /// Incidents that got a verdict.
    pub verdicts: u64,
    /// Times that the planner refused to act.
    pub refused: u64,
    /// Routes that the start found left over and removed.
    pub swept: u64,
}

/// `netwatch run`, from start to SIGTERM.
///
/// The engine's task has this thread to itself: what adapters do on their runtime does not hold it
/// up, and what wakes it wakes no other thread first.
pub fn run(config: Config, adapters: &Runtime) -> Result<()> {
    for warning in config.warnings() {
        tracing::warn!("configuration: {warning}");
    }
    let alone = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let (mut daemon, mut inputs, doors, mut stop) = adapters.block_on(async {
        let stop = stop_signal()?;
        let (daemon, inputs, doors) = Daemon::start(config).await?;
        anyhow::Ok((daemon, inputs, doors, stop))
    })?;
    give_back_memory();
    tracing::info!(
        egresses = daemon.config.egress.len(),
        probes = wiring::probes(&daemon.config),
        ebpf = daemon.collector.is_some(),
        bgp = daemon.bgp.is_some(),
        pager = daemon.pager.is_some(),
        failover = ?daemon.config.failover.mode,
        "netwatch is running"
    );
    alone.block_on(async {
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => break,
                () = daemon.step(&mut inputs) => {}
            }
        }
        tracing::info!("stopping");
        daemon.stop(&mut inputs).await;
    });
    adapters.block_on(doors.close());
    tracing::info!("stopped");
    Ok(())
}

/// The start reads the kernel's type information, far more than is needed afterwards, and malloc
/// keeps what was freed.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: releases what is free; nothing else is touched.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Resolves with SIGTERM or SIGINT.
fn stop_signal() -> Result<oneshot::Receiver<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // Nobody waits any more: the daemon ends anyway.
        let _ = stop.send(());
    });
    Ok(stopped)
}

impl Daemon {
    async fn start(config: Config) -> Result<(Self, Inputs, Doors)> {
        let runtime_dir = RuntimeDir::ready(&config)?;
        let (query, query_rx) = mpsc::channel(QUERIES);
        let mut doors = Doors::open(&config, runtime_dir, query)?;
        match Self::start_parts(config, query_rx, &mut doors).await {
            Ok((daemon, inputs)) => Ok((daemon, inputs, doors)),
            Err(error) => {
                doors.close().await;
                Err(error)
            }
        }
    }

    async fn start_parts(
        config: Config,
        query: mpsc::Receiver<api::Call>,
        doors: &mut Doors,
    ) -> Result<(Self, Inputs)> {
        let started = clock::now();
        let (tcp_tx, tcp) = mpsc::channel(TCP_BATCHES);
        let (bgp_tx, bgp_rx) = mpsc::channel(BGP_SIGNALS);
        let (probe_tx, probe) = probing::results(PROBES);
        let (host_tx, host) = mpsc::channel(HOST_SIGNALS);
        let (outcome_tx, outcome) = mpsc::channel(OUTCOMES);
        let (operator_tx, operator) = mpsc::channel(OPERATORS);

        // What is written to disk comes first: without it an incident leaves no trace.
        let journal = configured(&config)
            .then(|| {
                std::fs::create_dir_all(&config.host.state_dir).with_context(|| {
                    format!(
                        "cannot create host.state_dir {}",
                        config.host.state_dir.display()
                    )
                })?;
                let lock = lock_state(&config.host.state_dir)?;
                anyhow::Ok((journal::Journal::open(&wiring::journal(&config))?, lock))
            })
            .transpose()?;
        let (journal, state_lock) = journal.unzip();
        let pager = config
            .pager
            .as_ref()
            .map(|pager| {
                anyhow::Ok(paging::Pager::start(
                    wiring::pager(&config, pager)?,
                    outcome_tx.clone(),
                )?)
            })
            .transpose()?;
        let pager = pager.map(Arc::new);
        if let Some(journal) = &journal {
            leftover::close(journal, &wiring::journal(&config), pager.as_deref());
        }
        let mut protected = wiring::neighbors(&config);
        protected.extend(wiring::pager_addresses(pager.as_deref()).await);

        let (routes, routes_rx, swept) = if config.egress.is_empty() {
            (None, mpsc::channel(1).1, routes::Swept::default())
        } else {
            let (routes, reports, swept) = routes::Routes::open(wiring::routes(&config)?).await?;
            doors.watchers.push(tokio::spawn(routes::watch_kill_switch(
                config.failover.kill_switch.clone(),
                operator_tx.clone(),
            )));
            (Some(routes), reports, swept)
        };
        if !config.failover.maintenance.is_empty() {
            doors.watchers.push(tokio::spawn(maintenance::watch(
                config.failover.maintenance.clone(),
                operator_tx,
            )));
        }
        let bgp = config
            .bgp
            .as_ref()
            .map(|bgp| bgp_feed::spawn_with(wiring::bgp(bgp), wiring::stations(bgp), bgp_tx))
            .transpose()?;
        if let Some(bgp) = &bgp {
            bgp.watch(
                config
                    .probe
                    .anchors
                    .iter()
                    .map(|anchor| anchor.address)
                    .collect(),
            );
        }
        let bgp = bgp.map(Arc::new);
        let prober = (!config.egress.is_empty())
            .then(|| probing::Prober::spawn(wiring::prober(&config), probe_tx, host_tx))
            .transpose()?
            .map(Arc::new);
        let (collector, collector_error) = collector(&config, &protected, tcp_tx)?;
        let collector = collector.map(Arc::new);

        let mut engine = Engine::new(wiring::engine(&config, &protected, jiff::Timestamp::now()));
        if journal.is_some() {
            for (at, class) in leftover::actions(&wiring::journal(&config)) {
                engine.acted_before(at, class);
            }
        }
        let recorder = (configured(&config) && config.recorder.enabled)
            .then(|| {
                Recorder::start(wiring::recorder(&config), &engine, started)
                    .context("the flight recorder cannot start; free the place it needs, or set recorder.enabled = false")
            })
            .transpose()?;
        let mut daemon = Self {
            engine,
            recorder,
            adapters: tokio::runtime::Handle::current(),
            started,
            collector,
            collector_error,
            prober,
            bgp,
            routes,
            pager,
            journal,
            outcomes: outcome_tx,
            events: doors.events.clone(),
            totals: Totals {
                swept: u64::try_from(swept.routes).unwrap_or(u64::MAX),
                ..Totals::default()
            },
            view: View::default(),
            _state_lock: state_lock,
            narrator: Narrator::default(),
            uplinks: Uplinks::new(&config),
            losses: BTreeMap::new(),
            losses_due: started,
            blamed: BTreeMap::new(),
            config,
        };
        daemon.tell_watchdog_deeds();
        let inputs = Inputs {
            tcp,
            bgp: bgp_rx,
            probe,
            host,
            routes: routes_rx,
            outcome,
            operator,
            query,
        };
        Ok((daemon, inputs))
    }

    /// Waits for something to happen, then deals with everything that is at hand. Cancel-safe:
    /// between the wait and the end there is nothing to wait for.
    async fn step(&mut self, inputs: &mut Inputs) {
        let next = Some(
            self.losses_due
                .min(self.engine.next_timeout().unwrap_or(self.losses_due)),
        );
        tokio::select! {
            biased;
            Some(batch) = inputs.tcp.recv() => self.batch(batch),
            Some(result) = inputs.probe.recv() => self.handle(Input::Probe(result)),
            Some(report) = inputs.routes.recv() => self.report(report),
            Some(outcome) = inputs.outcome.recv() => self.handle(Input::Outcome(outcome)),
            Some(signal) = inputs.host.recv() => self.handle(Input::Host(signal)),
            Some(signal) = inputs.bgp.recv() => self.handle(Input::Bgp(signal)),
            Some(command) = inputs.operator.recv() => self.handle(Input::Operator(command)),
            Some(call) = inputs.query.recv() => self.answer(call),
            () = until(next) => {}
        }
        self.tell_losses();
        self.take_what_is_at_hand(inputs);
        self.handle(Input::Timeout);
        if self.engine.attentive()
            && let Some(collector) = &self.collector
        {
            collector.attend(clock::now() + ATTENTION);
        }
        self.carry_out();
    }

    fn take_what_is_at_hand(&mut self, inputs: &mut Inputs) {
        let most = self.totals.inputs + AT_HAND;
        while self.totals.inputs < most {
            if let Ok(batch) = inputs.tcp.try_recv() {
                self.batch(batch);
            } else if let Some(result) = inputs.probe.try_recv() {
                self.handle(Input::Probe(result));
            } else if let Ok(report) = inputs.routes.try_recv() {
                self.report(report);
            } else if let Ok(outcome) = inputs.outcome.try_recv() {
                self.handle(Input::Outcome(outcome));
            } else if let Ok(signal) = inputs.host.try_recv() {
                self.handle(Input::Host(signal));
            } else if let Ok(signal) = inputs.bgp.try_recv() {
                self.handle(Input::Bgp(signal));
            } else {
                break;
            }
        }
    }

    /// What the collector lost since the last look lowers the detector's confidence.
    fn tell_losses(&mut self) {
        let now = clock::now();
        if now < self.losses_due {
            return;
        }
        for signal in self.uplinks.look(now) {
            self.handle(Input::Host(signal));
        }
        let soon = self.engine.attentive() || !self.blamed.is_empty();
        self.losses_due = now + if soon { LOSSES / 10 } else { LOSSES };
        let Some(collector) = &self.collector else {
            return;
        };
        // One a second of each thread at most; the longest stands for the others.
        let waits = collector.long_waits();
        if let Some(wait) = waits.iter().max_by_key(|wait| wait.waited) {
            tracing::info!(
                thread = wait.comm,
                tid = wait.tid,
                waited = ?wait.waited,
                preempted = wait.preempted,
                by = wait.by_comm,
                by_pid = wait.by_pid,
                others = waits.len() - 1,
                "a watched thread waited for a CPU"
            );
        }
        let delays: Vec<HostSignal> = waits
            .iter()
            .map(|wait| HostSignal::RunQueueDelay {
                thread: wait.comm.clone(),
                pid: wait.pid,
                ended_at: wait.at,
                waited: wait.waited,
                preempted: wait.preempted,
                by: (!wait.by_comm.is_empty()).then(|| wait.by_comm.clone()),
            })
            .chain(
                collector
                    .slow_requests()
                    .into_iter()
                    .map(|(request, usual)| HostSignal::DiskSlow {
                        device: request.device,
                        operation: request.operation,
                        ended_at: request.at,
                        took: request.queue.unwrap_or_default() + request.service,
                        usual,
                    }),
            )
            .collect();
        let losses = collector.losses();
        for signal in delays {
            self.handle(Input::Host(signal));
        }
        for (stage, total) in losses {
            let before = self.losses.insert(stage, total).unwrap_or(0);
            if total > before {
                self.handle(Input::Host(HostSignal::Lost {
                    stage,
                    count: total - before,
                }));
            }
        }
    }

    fn batch(&mut self, batch: Vec<TcpEvent>) {
        for event in batch {
            self.handle(Input::Tcp(event));
        }
    }

    fn report(&mut self, report: routes::Report) {
        self.handle(match report {
            routes::Report::Outcome(outcome) => Input::Outcome(outcome),
            routes::Report::Fib(change) => Input::Fib(change),
        });
    }

    pub(crate) fn handle(&mut self, input: Input) {
        self.totals.inputs += 1;
        self.view.note(&input);
        let sequenced = self.engine.handle(clock::now(), input);
        if let Some(recorder) = &mut self.recorder {
            recorder.input(&sequenced);
        }
    }

    fn carry_out(&mut self) {
        while let Some(signal) = self.engine.poll_signal() {
            self.narrator.tell(&signal);
        }
        let mut told = BTreeSet::new();
        while let Some((id, effect)) = self.engine.poll_effect() {
            self.totals.effects += 1;
            if let Some(recorder) = &mut self.recorder {
                recorder.effect(id, &effect);
            }
            match effect {
                Effect::Probe(request) => {
                    if let Some(prober) = &self.prober
                        && let Err(error) = prober.probe(request)
                    {
                        tracing::warn!(%error, "probes of suspects were not sent");
                    }
                }
                Effect::Watch { ref peers } => {
                    if let Some(bgp) = &self.bgp {
                        let anchors = self
                            .config
                            .probe
                            .anchors
                            .iter()
                            .map(|anchor| anchor.address);
                        bgp.watch(
                            peers
                                .iter()
                                .map(|(peer, _)| peer.0)
                                .chain(anchors)
                                .collect(),
                        );
                    }
                    self.view.keep(peers);
                    self.route_command(&effect);
                }
                Effect::Install(_) | Effect::Revert { .. } | Effect::RenewLease { .. } => {
                    self.route_command(&effect);
                }
                Effect::Nudge {
                    incident, prefixes, ..
                } => nudge::spawn(
                    &self.adapters,
                    self.collector.clone(),
                    self.outcomes.clone(),
                    incident,
                    prefixes,
                ),
                Effect::Page(page) => match &self.pager {
                    Some(pager) => pager.send(page),
                    None => {
                        tracing::warn!(incident = %page.incident, "no pager is configured: {}", page.summary)
                    }
                },
                Effect::Journal(entry) => {
                    told.insert(entry.incident.clone());
                    self.tell(entry);
                }
            }
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.step(&self.engine, clock::now());
        }
        if !told.is_empty() {
            self.snapshots(&told);
        }
    }

    fn route_command(&mut self, effect: &Effect) {
        if let Some(routes) = &self.routes
            && let Err(error) = routes.carry_out(effect)
        {
            self.totals.route_commands_dropped += 1;
            tracing::error!(%error, "a command for the routes was dropped");
        }
    }

    fn tell(&mut self, entry: Entry) {
        tracing::info!(incident = %entry.incident, actor = ?entry.actor, "{}", entry.text);
        match &entry.kind {
            EntryKind::Verdict { verdict } => {
                self.totals.verdicts += 1;
                if let Verdict::LocalLink { egress }
                | Verdict::Gateway { egress }
                | Verdict::UpstreamAs { egress, .. }
                | Verdict::EgressOnly { egress } = verdict
                {
                    self.blame(&entry.incident, egress);
                }
            }
            EntryKind::Refused { .. } => self.totals.refused += 1,
            EntryKind::Resolved => self.absolve(&entry.incident),
            _ => {}
        }
        if let Some(journal) = &self.journal {
            journal.append(entry.clone(), clock::wall(entry.at));
        }
        self.events
            .publish(&api::Notification::Entry(Box::new(entry)));
    }

    /// What the watchdog did while no daemon ran belongs to the incidents' timelines.
    fn tell_watchdog_deeds(&mut self) {
        let records = match routes::take_watchdog_log(&self.config.host.runtime_dir) {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(%error, "the watchdog's log cannot be read");
                return;
            }
        };
        for record in records {
            let text = format!(
                "the lease ran out: {} routes removed{}",
                record.deleted.len(),
                if record.errors.is_empty() {
                    String::new()
                } else {
                    format!("; {}", record.errors.join("; "))
                }
            );
            let (Some(incident), Some(plan)) = (record.incident, record.plan) else {
                tracing::warn!("{text}");
                continue;
            };
            self.tell(Entry {
                incident,
                at: record.at,
                received_at: Some(clock::now()),
                actor: events::Actor::Watchdog,
                kind: EntryKind::Reverted {
                    plan,
                    reason: events::RevertReason::LeaseExpired,
                },
                text,
                evidence: Vec::new(),
            });
        }
    }

    /// The pager avoids an egress while an open incident blames it.
    fn blame(&mut self, incident: &IncidentId, egress: &EgressName) {
        self.blamed.insert(incident.clone(), egress.clone());
        if let Some(pager) = &self.pager {
            pager.egress_health(egress, false);
        }
    }

    fn absolve(&mut self, incident: &IncidentId) {
        if let Some(egress) = self.blamed.remove(incident)
            && !self.blamed.values().any(|blamed| *blamed == egress)
            && let Some(pager) = &self.pager
        {
            pager.egress_health(&egress, true);
        }
    }

    fn snapshots(&self, told: &BTreeSet<IncidentId>) {
        for incident in self
            .incidents()
            .into_iter()
            .filter(|incident| told.contains(&incident.id))
        {
            if let Some(journal) = &self.journal {
                journal.incident(incident.clone(), clock::wall(incident.onset));
            }
            self.events
                .publish(&api::Notification::Incident(Box::new(incident)));
        }
    }

    /// Routes go first, then the sources of inputs, then what tells of it.
    async fn stop(mut self, inputs: &mut Inputs) {
        self.handle(Input::Operator(OperatorCommand::Stop));
        self.carry_out();
        let until = tokio::time::Instant::now() + STOP_ROUTES;
        while !self.engine.remediator().status().plans.is_empty() {
            let stepped = tokio::time::timeout_at(until, self.step(inputs)).await;
            // A step that has always something to do never times out.
            if stepped.is_err() || tokio::time::Instant::now() >= until {
                tracing::error!("routes could not be taken back in time; the watchdog will");
                break;
            }
        }
        let until = tokio::time::Instant::now() + STOP_REST;
        let recorder = self.recorder.take();
        let routes = self.routes.take();
        // Shared only with queries; where one is under way, dropping it ends the feed too.
        let bgp = self.bgp.take().and_then(Arc::into_inner);
        let pager = self.pager.take();
        let prober = self.prober.take();
        let collector = self.collector.take();
        let journal = self.journal.take();
        tokio::join!(
            in_time(
                until,
                "the flight recorder",
                elsewhere(move || {
                    recorder.is_none_or(|recorder| recorder.stop(clock::now(), STOP_REST))
                })
            ),
            in_time(until, "the route executor", async {
                if let Some(routes) = routes {
                    routes.close().await;
                }
                true
            }),
            in_time(until, "the BGP feed", async {
                if let Some(bgp) = bgp {
                    bgp.stop().await;
                }
                true
            }),
            in_time(until, "the pager", async {
                if let Some(pager) = pager {
                    let left = pager.stop(STOP_REST).await;
                    if left > 0 {
                        tracing::warn!(left, "pages stay in the outbox until the next start");
                    }
                }
                true
            }),
            in_time(until, "the prober", dropped(prober)),
            in_time(until, "the collector", dropped(collector)),
            in_time(until, "the journal", dropped(journal)),
        );
    }
}

/// Waits until something has ended, at most until a time.
async fn in_time(until: tokio::time::Instant, what: &str, ended: impl Future<Output = bool>) {
    if !matches!(tokio::time::timeout_at(until, ended).await, Ok(true)) {
        tracing::warn!("{what} did not end in time");
    }
}

/// Drops what waits for its thread as it is dropped.
async fn dropped(value: impl Send + 'static) -> bool {
    let close = move || {
        drop(value);
        true
    };
    elsewhere(close).await
}

/// Runs on a thread of its own what may wait for a disk or for another thread. Whether it is done and
/// said so.
async fn elsewhere(close: impl FnOnce() -> bool + Send + 'static) -> bool {
    let (done, closed) = oneshot::channel();
    let thread = std::thread::Builder::new().name("close".to_owned());
    let spawned = thread.spawn(move || {
        // Nobody waits any more: the daemon ends.
        let _ = done.send(close());
    });
    spawned.is_ok() && closed.await.unwrap_or(false)
}

/// With no configuration nothing is left behind, so nothing is written to disk.
fn configured(config: &Config) -> bool {
    *config != Config::default()
}

/// Two daemons would send each other's pages and mix their journals.
fn lock_state(directory: &Path) -> Result<Flock<File>> {
    let path = directory.join("netwatch.lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        anyhow::anyhow!(
            "another netwatch uses host.state_dir {} ({error}); stop it, or set another one",
            directory.display()
        )
    })
}

/// Kernel programs. Where nothing else is configured the daemon is useless without them; else it
/// goes on with probes and BGP, and says so.
fn collector(
    config: &Config,
    own: &[Prefix],
    sink: mpsc::Sender<Vec<TcpEvent>>,
) -> Result<(Option<full_stack_probes::Handle>, Option<String>)> {
    if !config.tcp.ebpf {
        return Ok((None, Some("tcp.ebpf = false".to_owned())));
    }
    match full_stack_probes::Collector::start(wiring::collector(config, own)) {
        Ok(collector) => Ok((Some(collector.spawn(sink)?), None)),
        Err(error) if config.egress.is_empty() => {
            Err(anyhow::Error::new(error).context("the kernel programs cannot be loaded"))
        }
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::new(error));
            tracing::error!(%error, "no kernel programs: going on with probes and BGP alone");
            Ok((None, Some(error)))
        }
    }
}

async fn until(next: Option<Timestamp>) {
    match next {
        Some(at) => tokio::time::sleep(at.since(clock::now())).await,
        None => std::future::pending().await,
    }
}

/// The ways in from outside: the socket, `/metrics`, the kill switch, maintenance windows.
struct Doors {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    /// Of the kill switch and of maintenance windows: aborted at the end.
    watchers: Vec<JoinHandle<()>>,
    events: api::Publisher,
    _made: RuntimeDir,
}

impl Doors {
    fn open(config: &Config, made: RuntimeDir, calls: mpsc::Sender<api::Call>) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let server = api::Server::bind(wiring::socket(config), wiring::limits(config))?;
        let events = server.publisher();
        let mut tasks = Vec::new();
        if let Some(metrics) = &config.metrics {
            tasks.push(metrics::serve(metrics, calls.clone(), stopped.clone())?);
        }
        tasks.push(tokio::spawn(server.serve(calls, metrics::stop_of(stopped))));
        Ok(Self {
            stop,
            tasks,
            watchers: Vec::new(),
            events,
            _made: made,
        })
    }

    async fn close(self) {
        self.stop.send_replace(true);
        for task in self.watchers {
            task.abort();
        }
        for task in self.tasks {
            if tokio::time::timeout(Duration::from_secs(1), task)
                .await
                .is_err()
            {
                tracing::warn!("a listener did not end in time");
            }
        }
    }
}

/// The runtime directory. Where this run had to make it, dropping this removes it.
struct RuntimeDir {
    made: Option<PathBuf>,
}

impl RuntimeDir {
    fn ready(config: &Config) -> Result<Self> {
        let path = &config.host.runtime_dir;
        if path.is_dir() {
            return Ok(Self { made: None });
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| {
                format!(
                    "cannot create host.runtime_dir {}; run as root, or set another one",
                    path.display()
                )
            })?;
        Ok(Self {
            made: Some(path.clone()),
        })
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        if let Some(made) = &self.made {
            // What others left in it keeps it there.
            let _ = std::fs::remove_dir(made);
        }
    }
}
