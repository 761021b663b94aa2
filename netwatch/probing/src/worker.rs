//! The probing thread: sends when due, reads answers, declares losses, watches the host.
//!
//! One thread owns all of it and shares nothing but counters; it never blocks but in `ppoll`.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use events::{
    EgressName, HostSignal, LossStage, ProbeOutcome, ProbeRequest, ProbeResult, ProbeSource,
    ProbeTarget, Timestamp,
};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tokio::sync::{mpsc, oneshot};

use crate::batch::Datagram;
use crate::counters::{Shared, add};
use crate::links::{GROUPS, Links, Step};
use crate::netlink::{Netlink, Received};
use crate::outstanding::{Outstanding, Pending};
use crate::packet::{Answer, Mark};
use crate::path::{PathKey, PathState, PathStatus};
use crate::results::ResultSink;
use crate::schedule::Schedule;
use crate::settings::{Settings, StartError};
use crate::socket::{Receiver, Sender};
use crate::suspects::Suspects;

/// Beyond this a late timer is told: the notes on detection take it as the mark of a sick host.
const LAG_TOLD: Duration = Duration::from_millis(50);
/// The longest time between two ticks ...
const TICK: Duration = Duration::from_millis(20);
/// ... and where nothing is sent: a tick only finds out whether the host stood still.
const IDLE_TICK: Duration = Duration::from_millis(40);
/// However short an interval is, the host is not kept busy.
const SHORTEST_TICK: Duration = Duration::from_millis(1);
/// A deadline that passes so shortly before a tick waits for it: by then the answer has mostly come.
const NEARLY: Duration = Duration::from_millis(5);
/// After a loss, and after a burst was asked for, every answer counts at once for so long ...
const ATTENTION: Duration = Duration::from_secs(3);
/// ... unless the path has not been answered for so long: it is dark, and that is known.
const KNOWN_DARK: Duration = Duration::from_secs(10);
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// All anchors together: at most so many probes a second.
const ANCHOR_RATE: u32 = 2000;
/// Four seconds (as long as answers are awaited) of the highest rate but one, and a burst.
const MOST_OUTSTANDING: usize = 8192;
/// Paths to suspects that are remembered for their round-trip times.
const MOST_SUSPECTS: usize = 1024;
/// Packets read from one socket before the timers get their turn.
const AT_HAND: usize = 512;

pub(crate) enum Command {
    Probe(ProbeRequest),
    Status(oneshot::Sender<Vec<PathStatus>>),
}

/// Where results go.
pub(crate) struct Sinks {
    pub(crate) results: ResultSink,
    pub(crate) signals: mpsc::Sender<HostSignal>,
}

/// A probe that is about to leave.
struct Prepared {
    number: u64,
    path: PathKey,
    patience: Duration,
}

/// When the thread woke last, and who had something to be read.
#[derive(Clone, Copy)]
struct Woken {
    at: Timestamp,
    wake: bool,
    netlink: bool,
}

pub(crate) struct Worker {
    settings: Settings,
    sinks: Sinks,
    counters: Arc<Shared>,
    stop: Arc<AtomicBool>,
    commands: std_mpsc::Receiver<Command>,
    wake: OwnedFd,
    mark: Mark,
    receivers: Vec<Receiver>,
    senders: BTreeMap<(usize, bool), Sender>,
    netlink: Option<Netlink>,
    links: Links,
    schedule: Schedule,
    series: Vec<PathKey>,
    suspects: Suspects,
    suspect_paths: usize,
    paths: BTreeMap<PathKey, PathState>,
    outstanding: Outstanding,
    next_number: u64,
    /// Prepared and not sent yet, by sender.
    prepared: BTreeMap<(usize, bool), (Vec<Prepared>, Vec<Datagram>)>,
    preparing: usize,
    answers: Vec<(Option<Answer>, Timestamp)>,
    tick: Duration,
    next_tick: Timestamp,
    attentive_until: Timestamp,
    woken: Woken,
    next_housekeeping: Timestamp,
    told_loss: u64,
    /// States of links and neighbours that found no room: one per link and gateway.
    untold: VecDeque<HostSignal>,
}

impl Worker {
    /// Opens what the settings need, in the calling thread's network namespace.
    pub(crate) fn new(
        settings: Settings,
        sinks: Sinks,
        counters: Arc<Shared>,
        stop: Arc<AtomicBool>,
        commands: std_mpsc::Receiver<Command>,
        wake: OwnedFd,
    ) -> Result<Self, StartError> {
        let now = clock::now();
        let mark = Mark::random();
        let mut receivers = Vec::new();
        let mut senders = BTreeMap::new();
        let mut netlink = None;
        if !settings.egresses.is_empty() {
            netlink = Some(open_netlink().map_err(StartError::Netlink)?);
            if settings.enabled {
                open_family(true, &settings, &mark, &mut receivers, &mut senders)
                    .map_err(StartError::Socket)?;
                match open_family(false, &settings, &mark, &mut receivers, &mut senders) {
                    // A kernel without IPv6 is no reason not to probe IPv4.
                    Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                    opened => opened.map_err(StartError::Socket)?,
                }
            }
        }
        let tick = tick(&settings);
        let (schedule, series) = plan(&settings, now);
        let mut worker = Self {
            links: Links::new(settings.egresses.clone()),
            settings,
            sinks,
            counters,
            stop,
            commands,
            wake,
            mark,
            receivers,
            senders,
            netlink,
            schedule,
            series,
            suspects: Suspects::default(),
            suspect_paths: 0,
            paths: BTreeMap::new(),
            outstanding: Outstanding::new(MOST_OUTSTANDING),
            next_number: 1,
            prepared: BTreeMap::new(),
            preparing: 0,
            answers: Vec::new(),
            tick,
            next_tick: now + tick,
            attentive_until: now,
            woken: Woken {
                at: now,
                wake: true,
                netlink: true,
            },
            next_housekeeping: now + HOUSEKEEPING,
            told_loss: 0,
            untold: VecDeque::new(),
        };
        worker.request_dump().map_err(StartError::Netlink)?;
        Ok(worker)
    }

    pub(crate) fn run(mut self) {
        self.next_tick = clock::now() + self.tick;
        while !self.stop.load(Ordering::Acquire) {
            let now = clock::now();
            self.woken.at = now;
            let is_tick = self.tick(now);
            if self.woken.wake {
                self.obey(now);
            }
            if self.woken.netlink {
                self.read_netlink();
            }
            // What had arrived by `now` is read before anything counts as lost by `now`.
            if self.receive() {
                self.expire(now);
            }
            self.prepare(now, is_tick);
            self.send();
            if is_tick {
                self.sinks.results.remind(now);
            }
            self.wait();
        }
    }

    fn wait(&mut self) {
        let now = clock::now();
        let attentive = self.attentive();
        let deadline = self
            .outstanding
            .next()
            .filter(|at| attentive || *at + NEARLY < self.next_tick);
        let next = [
            deadline,
            self.suspects.next().filter(|_| self.links.ready()),
            Some(self.next_tick),
        ];
        let next = next.into_iter().flatten().min().unwrap_or(now);
        let timeout = TimeSpec::from(next.since(now));
        let mut fds = Vec::with_capacity(4);
        fds.push(PollFd::new(self.wake.as_fd(), PollFlags::POLLIN));
        if let Some(netlink) = &self.netlink {
            fds.push(PollFd::new(netlink.as_fd(), PollFlags::POLLIN));
        }
        if attentive {
            for receiver in &self.receivers {
                fds.push(PollFd::new(receiver.as_fd(), PollFlags::POLLIN));
            }
        }
        match ppoll(&mut fds, Some(timeout), None) {
            Ok(_) => {
                let any = |fd: Option<&PollFd<'_>>| fd.and_then(PollFd::any).unwrap_or(false);
                self.woken.wake = any(fds.first());
                self.woken.netlink = self.netlink.is_some() && any(fds.get(1));
            }
            Err(nix::Error::EINTR) => {}
            // Out of memory, and nothing else that can happen here: not in a tight loop.
            Err(_) => std::thread::sleep(TICK),
        }
    }

    /// Every answer counts at once from now on, for a while.
    fn attend(&mut self, now: Timestamp) {
        self.attentive_until = self.attentive_until.max(now + ATTENTION);
    }

    fn attend_unless_dark(&mut self, replied: Option<Timestamp>, now: Timestamp) {
        if replied.is_some_and(|at| now.since(at) < KNOWN_DARK) {
            self.attend(now);
        }
    }

    fn attentive(&self) -> bool {
        self.woken.at < self.attentive_until
    }

    /// Whether a tick has come, and what is to be done with one.
    fn tick(&mut self, now: Timestamp) -> bool {
        if now < self.next_tick {
            return false;
        }
        let lag = now.since(self.next_tick);
        if lag > LAG_TOLD {
            add(&self.counters.timer_lags, 1);
            self.tell(HostSignal::TimerLag { lag });
        }
        self.next_tick = if lag < self.tick {
            self.next_tick + self.tick
        } else {
            now + self.tick
        };
        self.tell_states();
        if now >= self.next_housekeeping {
            self.next_housekeeping = now + HOUSEKEEPING;
            self.keep_house();
        }
        true
    }

    fn keep_house(&mut self) {
        let dropped: u64 = self.receivers.iter().map(Receiver::dropped).sum();
        self.counters
            .receive_dropped
            .store(dropped, Ordering::Relaxed);
        let lost = dropped + self.counters.results_dropped.load(Ordering::Relaxed);
        if lost > self.told_loss {
            let count = lost - self.told_loss;
            self.told_loss = lost;
            self.tell(HostSignal::Lost {
                stage: LossStage::Queue,
                count,
            });
        }
        if self.netlink.is_none() && !self.settings.egresses.is_empty() {
            self.restart_netlink();
        }
    }

    fn obey(&mut self, now: Timestamp) {
        let mut bytes = [0; 64];
        while nix::unistd::read(&self.wake, &mut bytes).is_ok_and(|n| n > 0) {}
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Probe(request) => {
                    let dropped = if self.receivers.is_empty() {
                        1
                    } else {
                        self.attend(now);
                        self.suspects.add(&request, &self.settings.egresses, now)
                    };
                    add(&self.counters.suspects_dropped, dropped);
                }
                Command::Status(reply) => {
                    // The one who asked may be gone.
                    let _ = reply.send(self.status());
                }
            }
        }
    }

    fn read_netlink(&mut self) {
        let mut signals = Vec::new();
        let mut broken = false;
        for _ in 0..AT_HAND {
            let Some(netlink) = &mut self.netlink else {
                break;
            };
            match netlink.receive() {
                Ok(Received::Nothing) => break,
                Ok(Received::Overrun) | Err(_) => broken = true,
                Ok(Received::Messages(messages)) => {
                    for message in messages {
                        match self.links.handle(message, &mut signals) {
                            Step::Read => {}
                            Step::Request => broken |= self.request_dump().is_err(),
                            Step::Restart => broken = true,
                        }
                    }
                }
            }
            if broken {
                break;
            }
        }
        for signal in signals {
            self.tell(signal);
        }
        if broken {
            // Opened again by the next housekeeping at the latest, so that a kernel that keeps
            // failing is not asked without pause.
            self.netlink = None;
            self.next_housekeeping = self.next_housekeeping.min(clock::now() + 5 * TICK);
        }
    }

    fn restart_netlink(&mut self) {
        add(&self.counters.netlink_restarts, 1);
        match open_netlink() {
            Ok(netlink) => self.netlink = Some(netlink),
            // What was known stays in use; the next housekeeping tries again.
            Err(error) => {
                tracing::warn!(%error, "cannot watch the network interfaces; trying again");
                return;
            }
        }
        self.links.restart();
        if self.request_dump().is_err() {
            self.netlink = None;
        }
    }

    fn request_dump(&mut self) -> io::Result<()> {
        let Some(netlink) = &self.netlink else {
            return Ok(());
        };
        match self.links.next_dump() {
            Some(request) => netlink.request(request, true),
            None => Ok(()),
        }
    }

    /// Reads answers; true where none is left.
    fn receive(&mut self) -> bool {
        let mut dry = true;
        let mut answers = std::mem::take(&mut self.answers);
        for receiver in &mut self.receivers {
            let first = answers.len();
            loop {
                match receiver.receive(&self.mark, &mut answers) {
                    Ok(false) => break,
                    Ok(true) if answers.len() - first < AT_HAND => {}
                    Ok(true) => {
                        dry = false;
                        break;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "receiving answers to probes");
                        break;
                    }
                }
            }
        }
        for (answer, at) in answers.drain(..) {
            self.answer(answer, at);
        }
        self.answers = answers;
        dry
    }

    fn answer(&mut self, answer: Option<Answer>, at: Timestamp) {
        let known = answer.and_then(|answer| {
            let (number, address) = match answer {
                Answer::Reply { number, from } => (number, from),
                Answer::Refusal {
                    sequence, target, ..
                } => (self.outstanding.by_sequence(sequence)?, target),
            };
            let fits = self.outstanding.get(number)?.path.target.address() == address;
            Some((answer, fits.then(|| self.outstanding.take(number))??))
        });
        let Some((answer, probe)) = known else {
            add(&self.counters.unmatched, 1);
            return;
        };
        match answer {
            Answer::Reply { .. } => {
                let rtt = at.since(probe.sent_at);
                let state = self.paths.entry(probe.path).or_default();
                state.estimator.replied(at, rtt, probe.lost);
                state.not_refused();
                let counter = if probe.lost {
                    &self.counters.late_replies
                } else {
                    &self.counters.replies
                };
                add(counter, 1);
                self.report(&probe, ProbeOutcome::Reply { rtt });
            }
            // It was reported lost: that it is known now why adds nothing.
            Answer::Refusal { .. } if probe.lost => {}
            Answer::Refusal { errno, .. } => self.refuse(&probe, errno),
        }
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some(probe) = self.outstanding.expire(now) {
            let state = self.paths.entry(probe.path).or_default();
            state.estimator.failed();
            state.not_refused();
            let replied = state.estimator.last_reply;
            self.attend_unless_dark(replied, now);
            add(&self.counters.lost, 1);
            self.report(&probe, ProbeOutcome::Lost);
        }
    }

    /// On a tick, what is due until half a tick later: a probe is sent on the tick that is nearest.
    fn prepare(&mut self, now: Timestamp, is_tick: bool) {
        if !self.links.ready() {
            return;
        }
        while is_tick && let Some((series, missed)) = self.schedule.pop(now + self.tick / 2) {
            add(&self.counters.skipped, missed);
            if let Some(path) = self.series.get(series).copied() {
                self.probe(path);
            }
        }
        while let Some(path) = self.suspects.pop(now) {
            self.remember_suspect(path);
            self.probe(path);
        }
    }

    /// Makes room for a suspect's path: the one that was not used for longest goes.
    fn remember_suspect(&mut self, path: PathKey) {
        if self.paths.contains_key(&path) {
            return;
        }
        if self.suspect_paths >= MOST_SUSPECTS {
            let oldest = self
                .paths
                .iter()
                .filter(|(key, _)| matches!(key.target, ProbeTarget::Suspect(_)))
                .min_by_key(|(_, state)| state.last_used)
                .map(|(key, _)| *key);
            if oldest.is_some_and(|key| self.paths.remove(&key).is_some()) {
                self.suspect_paths -= 1;
            }
        }
        self.suspect_paths += 1;
        self.paths.insert(path, PathState::default());
    }

    fn probe(&mut self, path: PathKey) {
        let target = path.target.address();
        let now = clock::now();
        let index = self.links.index(path.egress);
        let state = self.paths.entry(path).or_default();
        state.last_used = now;
        let own = path.flow.or_else(|| self.links.source(index?, target));
        let source = match (own, state.last_source, index) {
            (Some(source), _, _) => {
                state.last_source = Some(source);
                source
            }
            // The interface has no address of this family: nothing to prove.
            (None, None, Some(_)) => return,
            (None, Some(last), _) => last,
            (None, None, None) if target.is_ipv4() => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            (None, None, None) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let patience = state.estimator.patience();
        let (Some(interface), Some(_)) = (index, own) else {
            let errno = if index.is_none() {
                libc::ENODEV
            } else {
                libc::EADDRNOTAVAIL
            };
            return self.refuse(&Pending::new(path, now, source, patience), errno);
        };
        let sender = (path.egress, target.is_ipv4());
        if !self.senders.contains_key(&sender) {
            let probe = Pending::new(path, now, source, patience);
            return self.refuse(&probe, libc::EAFNOSUPPORT);
        }
        if !self.outstanding.has_room(self.preparing) {
            add(&self.counters.skipped, 1);
            return;
        }
        self.preparing += 1;
        let number = self.next_number;
        self.next_number += 1;
        let (probes, datagrams) = self.prepared.entry(sender).or_default();
        probes.push(Prepared {
            number,
            path,
            patience,
        });
        datagrams.push(Datagram {
            interface,
            source,
            target,
            packet: self.mark.request(number, target),
        });
    }

    /// Sends what is prepared, with one system call per egress and family as a rule.
    fn send(&mut self) {
        let mut all = std::mem::take(&mut self.prepared);
        for (key, (probes, datagrams)) in &mut all {
            if let Some(mut sender) = self.senders.remove(key) {
                sender.send(datagrams, |nth, result| {
                    if let (Some(probe), Some(datagram)) = (probes.get(nth), datagrams.get(nth)) {
                        self.sent(probe, datagram.source, result);
                    }
                });
                self.senders.insert(*key, sender);
            }
            probes.clear();
            datagrams.clear();
        }
        self.prepared = all;
        self.preparing = 0;
    }

    fn sent(&mut self, probe: &Prepared, source: IpAddr, result: Result<Timestamp, i32>) {
        let at = result.unwrap_or_else(|_| clock::now());
        let pending = Pending::new(probe.path, at, source, probe.patience);
        match result {
            Ok(_) => {
                if let Some(state) = self.paths.get_mut(&probe.path) {
                    state.sent += 1;
                }
                add(&self.counters.sent, 1);
                self.outstanding.insert(probe.number, pending);
            }
            Err(errno) => self.refuse(&pending, errno),
        }
    }

    fn refuse(&mut self, probe: &Pending, errno: i32) {
        add(&self.counters.refused, 1);
        let state = self.paths.entry(probe.path).or_default();
        state.estimator.failed();
        let replied = state.estimator.last_reply;
        let report = state.refused(probe.sent_at);
        self.attend_unless_dark(replied, probe.sent_at);
        if report {
            self.report(probe, ProbeOutcome::Refused { errno });
        }
    }

    fn report(&mut self, probe: &Pending, outcome: ProbeOutcome) {
        let is_reply = |outcome: &ProbeOutcome| matches!(outcome, ProbeOutcome::Reply { .. });
        let mut urgent = self.attentive() || !is_reply(&outcome);
        if let Some(state) = self.paths.get_mut(&probe.path) {
            let before = state.last_outcome.replace(outcome);
            urgent |= before.is_none_or(|before| !is_reply(&before));
        }
        let Some(egress) = self.settings.egresses.get(probe.path.egress) else {
            return;
        };
        let result = ProbeResult {
            sent_at: probe.sent_at,
            egress: egress.name.clone(),
            target: probe.path.target,
            source: probe.path.source,
            source_address: probe.source,
            outcome,
        };
        if !self.sinks.results.push(result, urgent) {
            add(&self.counters.results_dropped, 1);
        }
    }

    /// A moment that finds no room is dropped and counted; a state waits, the newest of each.
    fn tell(&mut self, signal: HostSignal) {
        match subject(&signal) {
            None => {
                if self.sinks.signals.try_send(signal).is_err() {
                    add(&self.counters.signals_dropped, 1);
                }
            }
            about => {
                if is_broken(&signal) {
                    self.attend(clock::now());
                }
                match self.untold.iter_mut().find(|s| subject(s) == about) {
                    Some(waiting) => *waiting = signal,
                    None => self.untold.push_back(signal),
                }
                self.tell_states();
            }
        }
    }

    fn tell_states(&mut self) {
        while let (Some(signal), Ok(room)) = (self.untold.front(), self.sinks.signals.try_reserve())
        {
            room.send(signal.clone());
            self.untold.pop_front();
        }
    }

    fn status(&self) -> Vec<PathStatus> {
        let of = |(path, state): (&PathKey, &PathState)| {
            let (finished, unanswered) = state.estimator.loss();
            Some(PathStatus {
                egress: self.settings.egresses.get(path.egress)?.name.clone(),
                target: path.target,
                source: path.source,
                source_address: state.last_source,
                rtt: state.estimator.smoothed(),
                sent: state.sent,
                finished,
                unanswered,
                last_reply: state.estimator.last_reply,
                last_outcome: state.last_outcome,
            })
        };
        self.paths.iter().filter_map(of).collect()
    }
}

const fn is_broken(signal: &HostSignal) -> bool {
    matches!(
        signal,
        HostSignal::Carrier { up: false, .. }
            | HostSignal::Neighbor {
                reachable: false,
                ..
            }
    )
}

/// Whose state a signal tells, if it tells a state.
fn subject(signal: &HostSignal) -> Option<(&EgressName, Option<IpAddr>)> {
    match signal {
        HostSignal::Carrier { egress, .. } => Some((egress, None)),
        HostSignal::Neighbor {
            egress, gateway, ..
        } => Some((egress, Some(*gateway))),
        HostSignal::TimerLag { .. }
        | HostSignal::DiskSlow { .. }
        | HostSignal::RunQueueDelay { .. }
        | HostSignal::Sending { .. }
        | HostSignal::Lost { .. } => None,
    }
}

fn open_netlink() -> io::Result<Netlink> {
    Netlink::open(u32::try_from(GROUPS).unwrap_or(0), false)
}

fn open_family(
    v4: bool,
    settings: &Settings,
    mark: &Mark,
    receivers: &mut Vec<Receiver>,
    senders: &mut BTreeMap<(usize, bool), Sender>,
) -> io::Result<()> {
    receivers.push(Receiver::open(v4, mark)?);
    for egress in 0..settings.egresses.len() {
        senders.insert((egress, v4), Sender::open(v4)?);
    }
    Ok(())
}

/// A whole share of the shortest interval, so that this is kept exactly.
fn tick(settings: &Settings) -> Duration {
    let gateways = settings.egresses.iter().any(|of| !of.gateways.is_empty());
    let interval = match settings.enabled {
        true if gateways => settings.gateway_interval.min(settings.anchor_interval),
        true if !settings.egresses.is_empty() => settings.anchor_interval,
        _ => return IDLE_TICK,
    };
    let ticks = interval.as_nanos().div_ceil(TICK.as_nanos()).max(1);
    (interval / u32::try_from(ticks).unwrap_or(u32::MAX)).clamp(SHORTEST_TICK, TICK)
}

/// The always-on series: each egress's gateways from the link's address; each anchor through each
/// egress from the link's and from every flow source of its family.
fn plan(settings: &Settings, now: Timestamp) -> (Schedule, Vec<PathKey>) {
    let mut schedule = Schedule::default();
    let mut series = Vec::new();
    if !settings.enabled {
        return (schedule, series);
    }
    for (egress, of) in settings.egresses.iter().enumerate() {
        series.extend(of.gateways.iter().map(|gateway| PathKey {
            egress,
            target: ProbeTarget::Gateway(*gateway),
            source: ProbeSource::Link,
            flow: None,
        }));
    }
    let gateways = series.len();
    for anchor in &settings.anchors {
        for egress in 0..settings.egresses.len() {
            let flows = settings
                .flow_sources
                .iter()
                .filter(|s| s.is_ipv4() == anchor.is_ipv4());
            let sources = std::iter::once(None).chain(flows.map(|s| Some(*s)));
            series.extend(sources.map(|flow| PathKey {
                egress,
                target: ProbeTarget::Anchor(*anchor),
                source: if flow.is_some() {
                    ProbeSource::Flow
                } else {
                    ProbeSource::Link
                },
                flow,
            }));
        }
    }
    let anchors = series.len() - gateways;
    let least = Duration::from_secs(1) / ANCHOR_RATE * u32::try_from(anchors).unwrap_or(u32::MAX);
    if least > settings.anchor_interval {
        tracing::warn!(
            paths = anchors,
            asked_ms = settings.anchor_interval.as_millis(),
            used_ms = least.as_millis(),
            "too many anchor probes; their interval is stretched"
        );
    }
    schedule.add(now, settings.gateway_interval, gateways);
    schedule.add(now, settings.anchor_interval.max(least), anchors);
    (schedule, series)
}
