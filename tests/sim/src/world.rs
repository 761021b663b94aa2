//! One world: what happens in which order, and the engine in it.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use engine::Engine;
use events::{
    ConnectionId, Entry, EntryKind, Flow as Ends, HostSignal, IncidentId, Input, LossStage,
    PeerKey, PlanId, RevertReason, RouteSpec, Severity, TcpEvent, TcpEventKind, TcpState,
    Timestamp, Verdict,
};

use crate::benign::{Disturbances, Ending, Span};
use crate::collector::{ATTENTION, HEALTHY, LATE, LONGEST_SWEEP, SECOND, SWEEP, stamp};
use crate::draw::Draw;
use crate::fault::{self, Cut, Fault, Standstill};
use crate::flow::{Flow, Traffic};
use crate::params::Params;
use crate::prober::{LAG_TOLD, Path, Series, TICK};
use crate::tcp::Ack;
use crate::topology::{Topology, flow_source};
use crate::without::Without;

/// The warm-up's end.
pub const WARM: u64 = 200_000_000;
/// Between two rounds of the prober during the warm-up.
const COARSE: u64 = 1_000_000;
/// Answers that are well wait for so long at most.
const HOLD: u64 = 1_000_000;
/// Nothing is on its way any more so long after all fell asleep.
const SETTLED: u64 = 5_000_000;
/// Losses are told of this often.
const LOSSES: u64 = 1_000_000;

/// What the BGP feed is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum FeedKind {
    None,
    Prompt,
    Late,
    Stale,
}

impl FeedKind {
    /// A short stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "no-bgp",
            Self::Prompt => "prompt",
            Self::Late => "late",
            Self::Stale => "stale",
        }
    }
}

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// This host has a message for a peer.
    Message(usize),
    /// A segment reaches the peer.
    Arrive(usize, u64, u32),
    /// The peer's delayed acknowledgement is due.
    DelayedAck(usize, u64),
    /// An acknowledgement, or data with one, reaches this host.
    Ack(usize, u64, Box<Ack>, bool),
    /// A timer of the connection.
    Timer(usize),
    /// The peer has a message for this host.
    Inbound(usize),
    Tick,
    Suspect(usize),
    Reply {
        path: usize,
        sent: u64,
    },
    Deadline {
        path: usize,
        sent: u64,
        reply: Option<u64>,
    },
    Sweep,
    Engine,
    Input(Box<Input>),
    Restart(usize, Ending),
    Back(usize),
    Jump(u64),
    Installed(PlanId, Vec<RouteSpec>),
    Reverted(PlanId, RevertReason),
    TellLosses,
    End,
}

impl Happening {
    /// Of the network or of a peer: goes on while this machine stands still.
    const fn is_elsewhere(&self) -> bool {
        matches!(
            self,
            Self::Arrive(..)
                | Self::DelayedAck(..)
                | Self::Inbound(_)
                | Self::Restart(..)
                | Self::Back(_)
                | Self::Jump(_)
                | Self::End
        )
    }

    /// Of the daemon: waits while it is starved.
    const fn is_daemon(&self) -> bool {
        matches!(
            self,
            Self::Tick
                | Self::Suspect(_)
                | Self::Reply { .. }
                | Self::Deadline { .. }
                | Self::Sweep
                | Self::Engine
                | Self::Input(_)
                | Self::Installed(..)
                | Self::Reverted(..)
                | Self::TellLosses
        )
    }
}

struct Due {
    at: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// An installation, and whether it was right.
#[derive(Clone, Debug)]
pub struct Installation {
    /// When it was asked for.
    pub at: u64,
    /// Its plan.
    pub plan: PlanId,
    /// Its routes in words.
    pub routes: Vec<String>,
    /// What it moves: of IPv4, of IPv6.
    pub moved: [Moved; 2],
}

/// What an installation does to the peers of one family.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    /// Connected peers that it moves.
    pub covered: usize,
    /// Of these, those whose old path was dead then or shortly before.
    pub dead: usize,
    /// Of these, those that the new path carries both ways, or did until shortly before.
    pub helped: usize,
    /// Of the dead ones, those that the new path carries.
    pub saved: usize,
    /// Peers, not counted, that another fault had taken from every egress: nothing helps them, and
    /// nothing is lost by moving them.
    pub gone: usize,
    /// Of these, those that nothing was sent to since, so that nobody could know, and those whose old
    /// egress is broken as well.
    pub excused: usize,
}

/// A page.
#[derive(Clone, Debug)]
pub struct Paged {
    /// When.
    pub at: u64,
    /// For which incident.
    pub incident: IncidentId,
    /// How bad.
    pub severity: Severity,
    /// The verdict's class.
    pub class: String,
    /// Its text.
    pub summary: String,
    /// Trigger, else resolve.
    pub trigger: bool,
}

/// A verdict.
#[derive(Clone, Debug)]
pub struct Said {
    /// When.
    pub at: u64,
    /// Of which incident.
    pub incident: IncidentId,
    /// What.
    pub verdict: Verdict,
}

/// What a world showed.
#[derive(Debug, Default)]
pub struct Seen {
    /// Verdicts in order.
    pub said: Vec<Said>,
    /// Pages in order.
    pub pages: Vec<Paged>,
    /// Installations in order.
    pub installed: Vec<Installation>,
    /// The whole journal; empty unless it was asked for.
    pub journal: Vec<Entry>,
    /// Who is to blame, by incident, as BGP tells.
    pub blamed: BTreeMap<IncidentId, events::Asn>,
    /// Changes of BGP that belong to a fault were told at these times.
    pub bgp_told: Vec<u64>,
    /// Inputs of the engine.
    pub inputs: u64,
    /// By peer: when it was first sent something after the first fault.
    pub tried: Vec<Option<u64>>,
}

/// A world that runs.
pub struct World {
    pub(crate) params: Params,
    pub(crate) topology: Topology,
    pub(crate) faults: Vec<Fault>,
    pub(crate) cuts: Vec<Cut>,
    pub(crate) benign: Disturbances,
    pub(crate) span: Span,
    pub(crate) traffic: Traffic,
    /// Peers that answer no probe.
    pub(crate) silent: Vec<bool>,
    pub(crate) feed: FeedKind,
    pub(crate) feed_delay: u64,
    pub(crate) without: Without,
    pub(crate) draw: Draw,
    pub(crate) now: u64,
    due: BinaryHeap<Reverse<Due>>,
    order: u64,
    pub(crate) flows: Vec<Flow>,
    pub(crate) next_cookie: u64,
    pub(crate) by_address: BTreeMap<PeerKey, usize>,
    pub(crate) paths: Vec<Path>,
    pub(crate) suspects: BTreeMap<(usize, std::net::IpAddr, bool), usize>,
    series: Vec<Series>,
    next_tick: u64,
    standstills: Vec<Standstill>,
    next_sweep: u64,
    /// Until then the engine wants to know of everything that moves.
    attend_until: u64,
    early_sweep: u64,
    swept_at: u64,
    pub(crate) engine: Engine,
    engine_event: u64,
    waiting: Vec<Input>,
    waiting_since: u64,
    urgent: bool,
    lost: u64,
    pub(crate) watched: BTreeSet<PeerKey>,
    pub(crate) plans: BTreeMap<PlanId, Vec<RouteSpec>>,
    pub(crate) explain: bool,
    pub(crate) seen: Seen,
}

impl World {
    /// Draws the world of a seed.
    #[must_use]
    pub fn new(params: &Params, seed: u64, without: Without, explain: bool) -> Self {
        let mut draw = Draw::new(seed, 1);
        let topology = Topology::draw(&mut draw, params);
        let mut draw = Draw::new(seed, 2);
        let settle = params.world.settle_s + draw.range([0.0, 2.0]);
        let fault_at = WARM + (settle * 1e6) as u64;
        let faults = fault::draw_all(&mut draw, params, &topology, fault_at);
        let last = faults.iter().map(|f| f.from).max().unwrap_or(fault_at);
        let healed = faults
            .iter()
            .map(|f| f.until)
            .filter(|u| *u != fault::FOREVER);
        let end = healed.fold(last, u64::max);
        let span = Span {
            warm: WARM,
            fault: fault_at,
            end: end + (params.world.observe_s * 1e6) as u64,
        };
        let mut draw = Draw::new(seed, 3);
        let benign = Disturbances::draw(&mut draw, params, &topology, span);
        let mut traffic = Traffic::draw(&mut draw, params, topology.peers.len());
        let f = &params.feed;
        let feed = [
            FeedKind::None,
            FeedKind::Prompt,
            FeedKind::Late,
            FeedKind::Stale,
        ][draw.weighted(&[f.none, f.prompt, f.late, f.stale])];
        let feed_delay = match feed {
            FeedKind::Prompt => draw.log_range(f.prompt_s),
            _ => draw.log_range(f.late_s),
        };
        if draw.chance(params.traffic.inbound_all) {
            traffic.inbound.fill(true);
        }
        Self::build(
            params,
            topology,
            (faults, benign, span),
            (traffic, feed, (feed_delay * 1e6) as u64),
            (seed, without, explain),
        )
    }

    /// A host's day without a fault: many disturbances.
    #[must_use]
    pub fn benign_day(params: &Params, seed: u64, explain: bool) -> Self {
        const DAY: u64 = 86_400_000_000;
        let mut params = params.clone();
        let long = params.long_run.clone();
        params.world.peers = [long.peers; 2];
        let mut draw = Draw::new(seed, 1);
        let topology = Topology::draw(&mut draw, &params);
        let peers = topology.peers.len();
        let mut draw = Draw::new(seed, 3);
        let benign = Disturbances::many(&mut draw, &params, &topology, WARM, DAY);
        let pattern = crate::flow::Pattern::Chatty((long.gap_ms * 1e3) as u64);
        let traffic = Traffic {
            pattern,
            peers: vec![pattern; peers],
            inbound: (0..peers)
                .map(|_| draw.chance(params.traffic.inbound))
                .collect(),
        };
        let span = Span {
            warm: WARM,
            fault: WARM,
            end: WARM + DAY,
        };
        let told = (traffic, FeedKind::Prompt, 0);
        Self::build(
            &params,
            topology,
            (Vec::new(), benign, span),
            told,
            (seed, Without::default(), explain),
        )
    }

    fn build(
        params: &Params,
        topology: Topology,
        (faults, benign, span): (Vec<Fault>, Disturbances, Span),
        (traffic, feed, feed_delay): (Traffic, FeedKind, u64),
        (seed, without, explain): (u64, Without, bool),
    ) -> Self {
        let engine = Engine::new(crate::adapters::engine_params(&topology, without));
        let cuts = faults.iter().flat_map(|f| f.cuts.clone()).collect();
        let mut standstills: Vec<Standstill> = faults.iter().filter_map(|f| f.standstill).collect();
        standstills.extend(&benign.standstills);
        let (paths, series) = crate::prober::plan(&topology, WARM);
        let pause = benign.pause.map_or(0, |(from, until)| until - from);
        let start = WARM - (params.world.warm_up_s * 1e6) as u64 - pause;
        let peers = topology.peers.len();
        let mut draw = Draw::new(seed, 5);
        let silent = (0..peers)
            .map(|_| draw.chance(params.topology.peers_silent))
            .collect();
        let by_address = (0..peers)
            .map(|n| (PeerKey(topology.peers[n].address), n))
            .collect();
        let mut world = Self {
            params: params.clone(),
            faults,
            cuts,
            benign,
            span,
            traffic,
            silent,
            feed,
            feed_delay,
            without,
            draw: Draw::new(seed, 4),
            now: start,
            due: BinaryHeap::new(),
            order: 0,
            flows: Vec::new(),
            next_cookie: 1,
            by_address,
            paths,
            suspects: BTreeMap::new(),
            series,
            next_tick: start,
            standstills,
            next_sweep: start,
            attend_until: 0,
            early_sweep: start,
            swept_at: start,
            engine,
            engine_event: u64::MAX,
            waiting: Vec::new(),
            waiting_since: 0,
            urgent: false,
            lost: 0,
            watched: BTreeSet::new(),
            plans: BTreeMap::new(),
            explain,
            seen: Seen {
                tried: vec![None; peers],
                ..Seen::default()
            },
            topology,
        };
        world.prepare(start);
        world
    }

    fn prepare(&mut self, start: u64) {
        for peer in 0..self.topology.peers.len() {
            let flow = self.new_flow(peer, true);
            self.flows.push(flow);
            self.tcp(
                peer,
                TcpEventKind::Found {
                    state: TcpState::Established,
                    owner: None,
                },
            );
            let first = start + self.draw.below(1_000_000) as u64;
            self.at(first, Happening::Message(peer));
            if self.traffic.inbound[peer] {
                let first = start + self.draw.below(1_000_000) as u64;
                self.at(first, Happening::Inbound(peer));
            }
        }
        self.sessions(start);
        self.at(start, Happening::Tick);
        self.at(start, Happening::Sweep);
        self.at(start, Happening::Engine);
        self.at(self.span.end, Happening::End);
        for restart in self.benign.restarts.clone() {
            self.at(restart.at, Happening::Restart(restart.peer, restart.ending));
            self.at(restart.back, Happening::Back(restart.peer));
        }
        for (at, length) in self.benign.jumps.clone() {
            self.at(at, Happening::Jump(length));
        }
        for (at, lag) in self.benign.lags.clone() {
            let lag = std::time::Duration::from_micros(lag);
            self.input_at(at, Input::Host(HostSignal::TimerLag { lag }));
        }
        let signals: Vec<_> = self.faults.iter().flat_map(|f| f.signals.clone()).collect();
        for (at, signal) in signals {
            self.input_at(at, Input::Host(signal));
        }
        if !self.benign.lost.is_empty() {
            self.at(WARM, Happening::TellLosses);
        }
        self.noise();
    }

    pub(crate) fn at(&mut self, at: u64, what: Happening) {
        self.order += 1;
        self.due.push(Reverse(Due {
            at: at.max(self.now),
            order: self.order,
            what,
        }));
    }

    pub(crate) fn input_at(&mut self, at: u64, input: Input) {
        if at <= self.span.end {
            self.at(at, Happening::Input(Box::new(input)));
        }
    }

    /// Tells the engine. What is not urgent waits until something is.
    pub(crate) fn tell(&mut self, input: Input, urgent: bool) {
        if self.without.hides(&input) {
            return;
        }
        if let Input::Tcp(event) = &input
            && matches!(
                event.kind,
                TcpEventKind::Sample(_) | TcpEventKind::Retransmitted { .. }
            )
            && let Some(lost) = self
                .benign
                .lost
                .iter()
                .find(|l| l.from <= self.now && self.now < l.until)
        {
            let share = lost.share;
            if self.draw.chance(share) {
                self.lost += 1;
                return;
            }
        }
        if self.waiting.is_empty() {
            self.waiting_since = self.now;
        }
        self.waiting.push(input);
        self.urgent |= urgent;
    }

    pub(crate) fn tcp(&mut self, peer: usize, kind: TcpEventKind) {
        let flow = &self.flows[peer];
        let address = self.topology.peers[peer].address;
        let event = TcpEvent {
            at: stamp(self.now),
            connection: ConnectionId(flow.cookie),
            flow: Ends {
                local: (flow_source(address.is_ipv6()), flow.port).into(),
                remote: (address, 26_656).into(),
            },
            kind,
        };
        self.tell(Input::Tcp(event), true);
    }

    /// Runs it to its end.
    #[must_use]
    pub fn run(mut self) -> Ran {
        while let Some(Reverse(due)) = self.due.pop() {
            self.now = due.at;
            if let Some(still) = self.standstill(&due.what) {
                // The prober's thread is not always the first to run again.
                let late = if matches!(due.what, Happening::Tick) && self.draw.chance(0.3) {
                    self.draw.below(3_000) as u64
                } else {
                    0
                };
                self.at(still + late, due.what);
                continue;
            }
            if matches!(due.what, Happening::End) {
                break;
            }
            self.happen(due.what);
            let more = self.due.peek().is_some_and(|next| next.0.at == self.now);
            if !more {
                self.step();
            }
        }
        self.finish()
    }

    fn standstill(&self, what: &Happening) -> Option<u64> {
        let concerned = |s: &&Standstill| {
            s.from <= self.now
                && self.now < s.until
                && if s.machine {
                    !what.is_elsewhere()
                } else {
                    what.is_daemon()
                }
        };
        self.standstills
            .iter()
            .filter(concerned)
            .map(|s| s.until)
            .max()
    }

    /// Until when all sleep, if they do at that time.
    pub(crate) fn sleeps(&self, at: u64) -> Option<u64> {
        let asleep = &self.benign.asleep;
        let next = asleep.partition_point(|(from, _)| *from <= at);
        let (_, until) = asleep.get(next.checked_sub(1)?)?;
        (at < *until).then_some(*until)
    }

    /// Until when all sleep, where nothing is on its way any more.
    fn fast_asleep(&self) -> Option<u64> {
        let until = self.sleeps(self.now.saturating_sub(SETTLED))?;
        (until > self.now).then_some(until)
    }

    fn starved(&self) -> bool {
        self.standstill(&Happening::Engine).is_some()
    }

    /// The engine's task: takes what is at hand, if something wakes it.
    fn step(&mut self) {
        let woken = self.urgent
            || self.engine_event <= self.now
            || (!self.waiting.is_empty() && self.now >= self.waiting_since + HOLD);
        if !woken || self.starved() {
            return;
        }
        self.urgent = false;
        let at = stamp(self.now);
        for input in std::mem::take(&mut self.waiting) {
            self.seen.inputs += 1;
            self.engine.handle(at, input);
        }
        self.engine.handle_timeout(at);
        if self.engine.attentive() {
            self.attend_until = self.now + ATTENTION;
        }
        while let Some((_, effect)) = self.engine.poll_effect() {
            self.carry_out(effect);
        }
        while self.engine.poll_signal().is_some() {}
        if self.engine_event <= self.now {
            self.engine_event = u64::MAX;
        }
        if let Some(next) = self.engine.next_timeout() {
            let mut next = next.as_nanos().div_ceil(1_000).max(self.now + 100);
            // Nothing new can come of the engine's own ticks.
            if let Some(until) = self.fast_asleep() {
                next = next.max(until.min(self.now + SETTLED));
            }
            if next < self.engine_event {
                self.engine_event = next;
                self.at(next, Happening::Engine);
            }
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Message(peer) => self.message(peer),
            Happening::Arrive(peer, cookie, seq) => self.arrive(peer, cookie, seq),
            Happening::DelayedAck(peer, cookie) => self.delayed_ack(peer, cookie),
            Happening::Ack(peer, cookie, ack, data) => self.acknowledged(peer, cookie, &ack, data),
            Happening::Timer(peer) => self.timer(peer),
            Happening::Inbound(peer) => self.inbound(peer),
            Happening::Tick => self.tick(),
            Happening::Suspect(path) => self.probe(path),
            Happening::Reply { path, sent } => self.reply(path, sent),
            Happening::Deadline { path, sent, reply } => self.deadline(path, sent, reply),
            Happening::Sweep => {
                if self.now >= self.next_sweep {
                    self.sweep();
                }
            }
            Happening::Engine => {}
            Happening::Input(input) => self.tell(*input, true),
            Happening::Restart(peer, ending) => self.restart(peer, ending),
            Happening::Back(peer) => self.back(peer),
            Happening::Jump(length) => self.jump(length),
            Happening::Installed(plan, routes) => self.installed(plan, routes),
            Happening::Reverted(plan, reason) => self.reverted(plan, reason),
            Happening::TellLosses => {
                if self.lost > 0 {
                    let count = std::mem::take(&mut self.lost);
                    let stage = LossStage::Queue;
                    self.tell(Input::Host(HostSignal::Lost { stage, count }), true);
                }
                self.at(self.now + LOSSES, Happening::TellLosses);
            }
            Happening::End => {}
        }
    }

    /// An edge came in: the collector looks at all that may be late.
    pub(crate) fn edge(&mut self) {
        if self.now >= self.early_sweep && !self.starved() {
            self.sweep();
        }
    }

    fn sweep(&mut self) {
        let now = self.now;
        let attentive = now < self.attend_until;
        let all = attentive || now / SECOND != self.swept_at / SECOND;
        self.swept_at = now;
        let mut next = now + if attentive { 2 * SWEEP } else { LONGEST_SWEEP };
        let mut told = Vec::new();
        for (peer, flow) in self.flows.iter_mut().enumerate() {
            if !flow.open {
                continue;
            }
            if flow.live.due > now + LATE && !all {
                next = next.min(flow.live.due + SWEEP * HEALTHY);
                continue;
            }
            let look = flow
                .live
                .look(&flow.sender, flow.received_at, now, attentive);
            next = next.min(if look.late {
                now + SWEEP
            } else {
                flow.live.due + SWEEP * HEALTHY
            });
            told.extend(look.sample.map(|sample| (peer, sample)));
        }
        for (peer, sample) in told {
            self.tcp(peer, TcpEventKind::Sample(sample));
        }
        self.next_sweep = next.max(now + 1_000);
        if let Some(until) = self.fast_asleep() {
            self.next_sweep = until;
        }
        self.early_sweep = next.saturating_sub(SWEEP * HEALTHY).max(now + 2 * SWEEP);
        self.at(self.next_sweep, Happening::Sweep);
    }

    fn tick(&mut self) {
        let now = self.now;
        let lag = now.saturating_sub(self.next_tick);
        if lag > LAG_TOLD {
            let lag = std::time::Duration::from_micros(lag);
            self.tell(Input::Host(HostSignal::TimerLag { lag }), true);
        }
        if now < WARM {
            if !self.without.probes {
                for path in 0..self.series.len() {
                    self.probe(path);
                }
            }
            self.next_tick = (now + COARSE).min(WARM);
        } else {
            if !self.without.probes {
                for n in 0..self.series.len() {
                    let series = &mut self.series[n];
                    if series.due > now + TICK / 2 {
                        continue;
                    }
                    let missed = now.saturating_sub(series.due) / series.interval;
                    series.due += series.interval * (missed + 1);
                    let path = series.path;
                    self.probe(path);
                }
            }
            self.next_tick = if lag < TICK {
                self.next_tick + TICK
            } else {
                now + TICK
            };
        }
        if let Some(until) = self.sleeps(self.next_tick) {
            self.next_tick = until;
        }
        self.at(self.next_tick, Happening::Tick);
    }

    /// This host's clock stood still for a while: what was on its way is there.
    fn jump(&mut self, length: u64) {
        let now = self.now;
        let all = std::mem::take(&mut self.due);
        for Reverse(due) in all.into_sorted_vec().into_iter().rev() {
            let elsewhere = matches!(
                due.what,
                Happening::Arrive(..)
                    | Happening::DelayedAck(..)
                    | Happening::Inbound(_)
                    | Happening::Ack(..)
                    | Happening::Reply { .. }
            );
            let near = due.at <= now + length + 1_000_000;
            let at = if elsewhere && near {
                due.at.saturating_sub(length).max(now)
            } else {
                due.at
            };
            self.at(at, due.what);
        }
    }

    pub(crate) fn record(&mut self, entry: Entry) {
        if let EntryKind::Verdict { verdict } = &entry.kind {
            self.seen.said.push(Said {
                at: self.now,
                incident: entry.incident.clone(),
                verdict: verdict.clone(),
            });
        }
        if self.explain {
            self.seen.journal.push(entry);
        }
    }

    fn finish(mut self) -> Ran {
        for incident in self.engine.correlator().incidents() {
            if let Some(asn) = incident.bgp.culprit {
                self.seen.blamed.insert(incident.id, asn);
            }
        }
        Ran {
            topology: self.topology,
            faults: self.faults,
            benign: self.benign,
            span: self.span,
            traffic: self.traffic,
            feed: self.feed,
            seen: self.seen,
        }
    }
}

/// A world that has run.
pub struct Ran {
    /// Its network.
    pub topology: Topology,
    /// What broke.
    pub faults: Vec<Fault>,
    /// What disturbed.
    pub benign: Disturbances,
    /// Its times.
    pub span: Span,
    /// Who sent when.
    pub traffic: Traffic,
    /// Its BGP feed.
    pub feed: FeedKind,
    /// What came out.
    pub seen: Seen,
}

/// A time of the engine in the model's microseconds.
#[must_use]
pub const fn micros(at: Timestamp) -> u64 {
    at.as_nanos() / 1_000
}
