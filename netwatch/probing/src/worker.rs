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

use crate::counters::{Shared, add};
use crate::links::{GROUPS, Links, Step};
use crate::netlink::{Netlink, Received};
use crate::outstanding::{Outstanding, Pending};
use crate::packet::{Answer, Mark};
use crate::path::{PathKey, PathState, PathStatus};
use crate::schedule::Schedule;
use crate::settings::{Settings, StartError};
use crate::socket::{Receiver, Sender};
use crate::suspects::Suspects;

/// Beyond this a late timer is told: the notes on detection take it as the mark of a sick host.
const LAG_TOLD: Duration = Duration::from_millis(50);
const TICK: Duration = Duration::from_millis(20);
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// All anchors together: at most so many probes a second.
const ANCHOR_RATE: u32 = 2000;
/// Four seconds (as long as answers are awaited) of the highest rate but one, and a burst.
const MOST_OUTSTANDING: usize = 8192;
/// Paths to suspects that are remembered for their round-trip times.
const MOST_SUSPECTS: usize = 1024;
/// Packets read from one socket before the timers get their turn.
const BATCH: usize = 512;

pub(crate) enum Command {
    Probe(ProbeRequest),
    Status(oneshot::Sender<Vec<PathStatus>>),
}

/// Where results go.
pub(crate) struct Sinks {
    pub(crate) results: mpsc::Sender<ProbeResult>,
    pub(crate) signals: mpsc::Sender<HostSignal>,
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
    next_tick: Timestamp,
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
            next_tick: now + TICK,
            next_housekeeping: now + HOUSEKEEPING,
            told_loss: 0,
            untold: VecDeque::new(),
        };
        worker.request_dump().map_err(StartError::Netlink)?;
        Ok(worker)
    }

    pub(crate) fn run(mut self) {
        self.next_tick = clock::now() + TICK;
        while !self.stop.load(Ordering::Acquire) {
            let now = clock::now();
            self.tick(now);
            self.obey(now);
            self.read_netlink();
            // What had arrived by `now` is read before anything counts as lost by `now`.
            if self.receive() {
                self.expire(now);
            }
            self.send(clock::now());
            self.wait();
        }
    }

    fn wait(&mut self) {
        let next = [
            Some(self.next_tick),
            self.schedule.next().filter(|_| self.links.ready()),
            self.suspects.next().filter(|_| self.links.ready()),
            self.outstanding.next(),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(self.next_tick);
        let timeout = TimeSpec::from(next.since(clock::now()));
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        if let Some(netlink) = &self.netlink {
            fds.push(PollFd::new(netlink.as_fd(), PollFlags::POLLIN));
        }
        for receiver in &self.receivers {
            fds.push(PollFd::new(receiver.as_fd(), PollFlags::POLLIN));
        }
        match ppoll(&mut fds, Some(timeout), None) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            // Out of memory, and nothing else that can happen here: not in a tight loop.
            Err(_) => std::thread::sleep(TICK),
        }
    }

    fn tick(&mut self, now: Timestamp) {
        if now < self.next_tick {
            return;
        }
        let lag = now.since(self.next_tick);
        if lag > LAG_TOLD {
            add(&self.counters.timer_lags, 1);
            self.tell(HostSignal::TimerLag { lag });
        }
        self.next_tick = now + TICK;
        self.tell_states();
        if now >= self.next_housekeeping {
            self.next_housekeeping = now + HOUSEKEEPING;
            self.keep_house();
        }
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
        for _ in 0..BATCH {
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
        for index in 0..self.receivers.len() {
            let mut read = 0;
            while let Some(receiver) = self.receivers.get_mut(index) {
                match receiver.receive(&self.mark) {
                    Ok(None) => break,
                    Ok(Some((answer, at))) => self.answer(answer, at),
                    Err(error) => {
                        tracing::debug!(%error, "receiving answers to probes");
                        break;
                    }
                }
                read += 1;
                if read == BATCH {
                    dry = false;
                    break;
                }
            }
        }
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
            add(&self.counters.lost, 1);
            self.report(&probe, ProbeOutcome::Lost);
        }
    }

    fn send(&mut self, now: Timestamp) {
        if !self.links.ready() {
            return;
        }
        while let Some((series, missed)) = self.schedule.pop(now) {
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
        let sent_at = clock::now();
        let index = self.links.index(path.egress);
        let state = self.paths.entry(path).or_default();
        state.last_used = sent_at;
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
        let probe = Pending::new(path, sent_at, source, state.estimator.patience());
        let (Some(index), Some(_)) = (index, own) else {
            let errno = if index.is_none() {
                libc::ENODEV
            } else {
                libc::EADDRNOTAVAIL
            };
            return self.refuse(&probe, errno);
        };
        if !self.outstanding.has_room() {
            add(&self.counters.skipped, 1);
            return;
        }
        let Some(sender) = self.senders.get_mut(&(path.egress, target.is_ipv4())) else {
            return self.refuse(&probe, libc::EAFNOSUPPORT);
        };
        let number = self.next_number;
        self.next_number += 1;
        let packet = self.mark.request(number, target);
        match sender.send(index, source, target, &packet) {
            Ok(()) => {
                state.sent += 1;
                add(&self.counters.sent, 1);
                self.outstanding.insert(number, probe);
            }
            Err(error) => self.refuse(&probe, error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    fn refuse(&mut self, probe: &Pending, errno: i32) {
        add(&self.counters.refused, 1);
        let state = self.paths.entry(probe.path).or_default();
        state.estimator.failed();
        if state.refused(probe.sent_at) {
            self.report(probe, ProbeOutcome::Refused { errno });
        }
    }

    fn report(&mut self, probe: &Pending, outcome: ProbeOutcome) {
        if let Some(state) = self.paths.get_mut(&probe.path) {
            state.last_outcome = Some(outcome);
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
        if self.sinks.results.try_send(result).is_err() {
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

/// Whose state a signal tells, if it tells a state.
fn subject(signal: &HostSignal) -> Option<(&EgressName, Option<IpAddr>)> {
    match signal {
        HostSignal::Carrier { egress, .. } => Some((egress, None)),
        HostSignal::Neighbor {
            egress, gateway, ..
        } => Some((egress, Some(*gateway))),
        HostSignal::TimerLag { .. } | HostSignal::Lost { .. } => None,
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
