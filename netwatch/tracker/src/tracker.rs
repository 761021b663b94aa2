use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use events::{
    AliveSign, ConnectionId, Flow, Owner, PeerKey, RetransmitClass, RoundTrip, Signal, SignalKind,
    TcpEvent, TcpEventKind, TcpSample, TcpState, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::Params;
use crate::connection::{Connection, Episode, connect_failure, entered};
use crate::machine::{Act, Happening, Phase, step};
use crate::peer::Peer;
use crate::rtt::Turn;
use crate::status::{Counters, PeerStatus};

/// A retransmission is seen twice, as an event and in the next sample; these are apart by less.
const SAME_TRANSMISSION: Duration = Duration::from_millis(1);

/// After a search for room in vain the next one waits so long: a flood must not cost a search each.
const EVICTION_PAUSE: Duration = Duration::from_secs(1);

/// Connections in, signals out. See the crate's documentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tracker {
    params: Params,
    connections: BTreeMap<ConnectionId, Connection>,
    peers: BTreeMap<PeerKey, Peer>,
    deadlines: BTreeSet<(Timestamp, ConnectionId)>,
    ended: BTreeSet<(Timestamp, ConnectionId)>,
    connections_crowded_until: Timestamp,
    peers_crowded_until: Timestamp,
    counters: Counters,
}

/// What an act needs to know beyond the connection.
#[derive(Clone, Copy, Debug, Default)]
struct Detail {
    error: Option<i32>,
    class: Option<RetransmitClass>,
    deadline: Option<Timestamp>,
}

/// When what was acknowledged last was sent, as far as a sample tells: acknowledgements that were queued
/// come later than a round-trip time.
fn delivered(sample: &TcpSample) -> Option<Timestamp> {
    let usual = sample.acked_at? - sample.srtt;
    let outstanding = sample.outstanding.map(|outstanding| outstanding.since);
    let latest = outstanding.into_iter().chain(sample.sent_at).min();
    Some(latest.map_or(usual, |latest| usual.min(latest)))
}

/// How old the newest sample may be at that time to prove anything.
fn freshness(params: &Params, connection: &Connection, at: Timestamp) -> Duration {
    // The collector looks more rarely at what has been silent for long.
    let age = connection
        .clock
        .oldest()
        .map_or(Duration::ZERO, |oldest| at.since(oldest));
    params.sample_freshness.max(age / 8)
}

/// When a connection's oldest byte becomes overdue. `None`: no sample at hand can tell.
fn due(
    connection: &Connection,
    peers: &BTreeMap<PeerKey, Peer>,
    params: &Params,
    at: Timestamp,
) -> Option<Timestamp> {
    if !matches!(connection.phase, Phase::Healthy | Phase::Doubtful) {
        return None;
    }
    let (start, limit) = connection.clock.running(Duration::ZERO, params)?;
    let seen_at = connection.clock.seen_at();
    // By then this sample tells nothing, and each newer one arms anew.
    let stale =
        |deadline: Timestamp| deadline.since(seen_at) > freshness(params, connection, deadline);
    if stale(start + limit) {
        return None;
    }
    let allowance = peers
        .get(&connection.peer())
        .map_or(Duration::ZERO, |p| p.allowance.value(at, params));
    let deadline = start + limit + allowance;
    (!stale(deadline)).then_some(deadline)
}

impl Tracker {
    /// A tracker that knows nothing yet.
    #[must_use]
    pub fn new(params: Params) -> Self {
        Self {
            params,
            connections: BTreeMap::new(),
            peers: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            ended: BTreeSet::new(),
            connections_crowded_until: Timestamp::ZERO,
            peers_crowded_until: Timestamp::ZERO,
            counters: Counters::default(),
        }
    }

    /// What it goes by.
    #[must_use]
    pub const fn params(&self) -> &Params {
        &self.params
    }

    /// Goes by something else from now on; what was learned stays.
    pub fn set_params(&mut self, params: Params) {
        self.params = params;
    }

    /// Takes in one event. `at` is the engine's time and never decreases; `event.at` is the
    /// kernel's.
    pub fn handle(&mut self, at: Timestamp, event: &TcpEvent, out: &mut Vec<Signal>) {
        self.counters.events += 1;
        let seen_at = event.at.min(at);
        let id = event.connection;
        match &event.kind {
            TcpEventKind::StateChanged {
                from,
                to,
                error,
                owner,
            } => {
                self.state_changed(seen_at, event, (*from, *to), *error, owner.as_ref(), out);
            }
            TcpEventKind::Found { state, owner } => {
                let happening = match entered(*state, None) {
                    Happening::Establishes => Happening::FoundEstablished,
                    Happening::Opens => Happening::Opens,
                    // Found while it closes: nothing is left to watch.
                    _ => return,
                };
                let outgoing = *state == TcpState::SynSent;
                if !self.connections.contains_key(&id) {
                    self.open(seen_at, id, event.flow, outgoing, out);
                } else if happening == Happening::Opens {
                    return;
                }
                self.owned_by(id, owner.as_ref());
                self.apply(seen_at, id, happening, Detail::default(), out);
            }
            TcpEventKind::Gone => self.known(seen_at, id, Happening::Gone, Detail::default(), out),
            TcpEventKind::Retransmitted { class } => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.clock.retransmitted(seen_at);
                }
                let detail = Detail {
                    class: Some(*class),
                    ..Detail::default()
                };
                self.doubted(seen_at, id, Happening::Retransmits, detail, out);
            }
            TcpEventKind::ResetReceived => {
                self.known(
                    seen_at,
                    id,
                    Happening::ResetReceived,
                    Detail::default(),
                    out,
                );
            }
            TcpEventKind::ResetSent => {
                self.known(seen_at, id, Happening::ResetSent, Detail::default(), out);
            }
            TcpEventKind::Error { errno } => {
                let detail = Detail {
                    error: Some(*errno),
                    ..Detail::default()
                };
                self.doubted(seen_at, id, Happening::Error, detail, out);
            }
            // Samples say whether the window is closed.
            TcpEventKind::Handshake { .. } | TcpEventKind::Window { .. } => {}
            TcpEventKind::Sample(sample) => self.sampled(seen_at, id, sample, out),
        }
    }

    /// Time passed. Everything that happened before `at` and is known must have been fed already:
    /// an acknowledgement still in a queue would be called overdue.
    pub fn handle_timeout(&mut self, at: Timestamp, out: &mut Vec<Signal>) {
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > at {
                break;
            }
            self.deadlines.pop_first();
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            connection.deadline = None;
            let fresh = freshness(&self.params, connection, at);
            if at.since(connection.clock.seen_at()) > fresh {
                self.counters.unsampled_deadlines += 1;
                continue;
            }
            let detail = Detail {
                deadline: Some(deadline),
                ..Detail::default()
            };
            self.apply(at, id, Happening::Deadline, detail, out);
            self.received_only(id, out);
        }
        while let Some(&(ended_at, id)) = self.ended.first() {
            if at.since(ended_at) < self.params.closed_linger {
                break;
            }
            self.ended.pop_first();
            self.connections.remove(&id);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called at the latest.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// All peers in memory, by address, as they are at that time.
    #[must_use]
    pub fn peers(&self, at: Timestamp) -> Vec<PeerStatus> {
        let mut oldest: BTreeMap<PeerKey, Timestamp> = BTreeMap::new();
        for connection in self.connections.values() {
            if let (Phase::Healthy | Phase::Doubtful | Phase::Overdue, Some(since)) =
                (connection.phase, connection.clock.oldest())
            {
                let entry = oldest.entry(connection.peer()).or_insert(since);
                *entry = since.min(*entry);
            }
        }
        self.peers
            .iter()
            .map(|(key, peer)| peer.status(*key, at, oldest.get(key).copied(), &self.params))
            .collect()
    }

    /// A peer's path is another one: its newest round-trip times are the baseline from now on.
    pub fn rebase(&mut self, at: Timestamp, peer: PeerKey, out: &mut Vec<Signal>) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        let normal = state.baseline.renew(at);
        if let (Some(Turn::Normal), Some(sample)) = (normal, state.rtt) {
            out.push(Signal {
                at,
                peer,
                kind: SignalKind::RttNormal { rtt: sample.srtt },
            });
        }
    }

    /// Peers with a baseline: what was measured last of each, by address.
    pub fn round_trips(&self) -> impl Iterator<Item = RoundTrip> {
        self.peers.iter().filter_map(|(key, peer)| {
            let (at, rtt) = peer.measured?;
            Some(RoundTrip {
                peer: *key,
                at,
                rtt,
                baseline: peer.baseline.value(&self.params.rtt)?,
            })
        })
    }

    /// When each peer was last sent new data that it acknowledged, by address: the time of the
    /// acknowledgement less the smoothed round-trip time, and not after what was sent last or what is
    /// outstanding.
    pub fn delivered(&self) -> impl Iterator<Item = (PeerKey, Timestamp)> {
        self.peers
            .iter()
            .filter_map(|(key, peer)| Some((*key, peer.delivered?)))
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            connections: self.connections.len(),
            peers: self.peers.len(),
            ..self.counters
        }
    }

    fn state_changed(
        &mut self,
        at: Timestamp,
        event: &TcpEvent,
        (from, to): (TcpState, TcpState),
        error: Option<i32>,
        owner: Option<&Owner>,
        out: &mut Vec<Signal>,
    ) {
        let id = event.connection;
        let happening = entered(to, error);
        let outgoing = to == TcpState::SynSent || from == TcpState::SynSent;
        match self.connections.get(&id).map(|c| c.phase) {
            Some(Phase::Opening) => self.readdress(at, id, event.flow),
            // The same socket is connected anew.
            Some(Phase::Closed)
                if matches!(happening, Happening::Opens | Happening::Establishes) =>
            {
                self.forget(id);
                self.open(at, id, event.flow, outgoing, out);
            }
            Some(_) => {}
            // A passive open enters SYN_RECV before it knows its peer: wait for the next change.
            None if event.flow.remote.port() != 0
                && (matches!(happening, Happening::Opens | Happening::Establishes)
                    || (from == TcpState::SynSent && to == TcpState::Closed)) =>
            {
                self.open(at, id, event.flow, outgoing, out);
            }
            None => {}
        }
        self.owned_by(id, owner);
        let detail = Detail {
            error,
            ..Detail::default()
        };
        self.known(at, id, happening, detail, out);
    }

    fn sampled(
        &mut self,
        at: Timestamp,
        id: ConnectionId,
        sample: &TcpSample,
        out: &mut Vec<Signal>,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else {
            self.counters.unknown += 1;
            return;
        };
        if matches!(connection.phase, Phase::Opening | Phase::Closed) {
            return;
        }
        let key = connection.peer();
        let params = &self.params;
        let mut peer = self.peers.get_mut(&key);
        let allowance = peer
            .as_ref()
            .map_or(Duration::ZERO, |p| p.allowance.value(at, params));
        let Some(progress) = connection.clock.take(at, *sample, allowance, params) else {
            self.counters.stale_samples += 1;
            return;
        };
        connection.active_at = at;
        if let Some(peer) = peer.as_mut() {
            peer.active_at = at;
            peer.delivered = peer.delivered.max(delivered(sample));
            if let Some(excess) = progress.excess {
                peer.allowance.observe(at, excess, params);
            }
            if !sample.srtt.is_zero() {
                peer.rtt = Some(*sample);
            }
            if let Some((raw, smoothed)) = progress.measured {
                peer.measured = Some((at, smoothed));
                let kind = match peer.baseline.observe(at, raw, smoothed, &params.rtt) {
                    Some(Turn::Spike { baseline }) => {
                        Some(SignalKind::RttSpike { rtt: raw, baseline })
                    }
                    Some(Turn::Normal) => Some(SignalKind::RttNormal { rtt: raw }),
                    None => None,
                };
                out.extend(kind.map(|kind| Signal {
                    at,
                    peer: key,
                    kind,
                }));
            }
        }
        // Nothing that a healthy connection shows changes its phase: most samples end here.
        if connection.phase == Phase::Healthy {
            self.rearm(at, id);
            return;
        }
        if let (Some(sent_at), Some(episode)) = (progress.sent, connection.episode)
            && sent_at > episode.transmitted_at + SAME_TRANSMISSION
        {
            self.apply(sent_at, id, Happening::Transmitted, Detail::default(), out);
        }
        match progress.acked {
            // An acknowledgement from before the doubt dispels nothing.
            Some(acked_at)
                if self.phase(id) == Some(Phase::Doubtful)
                    && sample.outstanding.is_some()
                    && self
                        .connections
                        .get(&id)
                        .is_some_and(|c| acked_at <= c.doubted_at) => {}
            Some(acked_at) => {
                let told_at = self.episode(id).map_or(acked_at, |e| e.told_at);
                let at = acked_at.max(told_at);
                self.apply(at, id, Happening::Acknowledged, Detail::default(), out);
            }
            None => self.received_only(id, out),
        }
        self.rearm(at, id);
    }

    /// Tells of a segment that came in on an overdue connection, if there is one to tell of.
    fn received_only(&mut self, id: ConnectionId, out: &mut Vec<Signal>) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let Some(episode) = connection.episode else {
            return;
        };
        let Some(received_at) = connection.clock.received_since(episode.start) else {
            return;
        };
        let interval = self.params.received_only_interval;
        if episode
            .received_at
            .is_none_or(|last| received_at >= last + interval)
        {
            let at = received_at.max(episode.told_at);
            self.apply(at, id, Happening::Received, Detail::default(), out);
            if let Some(episode) = self.episode(id) {
                episode.received_at = Some(received_at);
            }
        }
    }

    /// Puts the connection's deadline into the queue, in place of the one before.
    fn rearm(&mut self, at: Timestamp, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let due = due(connection, &self.peers, &self.params, at);
        if due == connection.deadline {
            return;
        }
        if let Some(deadline) = std::mem::replace(&mut connection.deadline, due) {
            self.deadlines.remove(&(deadline, id));
        }
        if let Some(deadline) = due {
            self.deadlines.insert((deadline, id));
        }
    }

    /// A retransmission or an error. One that arrives after the acknowledgement that answered it is
    /// told together with that.
    fn doubted(
        &mut self,
        at: Timestamp,
        id: ConnectionId,
        happening: Happening,
        detail: Detail,
        out: &mut Vec<Signal>,
    ) {
        self.known(at, id, happening, detail, out);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.doubted_at = connection.doubted_at.max(at);
        if connection.phase == Phase::Doubtful
            && let Some(acked_at) = connection.clock.acked_at()
            && acked_at > connection.doubted_at
        {
            self.apply(
                acked_at,
                id,
                Happening::Acknowledged,
                Detail::default(),
                out,
            );
        }
    }

    fn known(
        &mut self,
        at: Timestamp,
        id: ConnectionId,
        happening: Happening,
        detail: Detail,
        out: &mut Vec<Signal>,
    ) {
        if self.connections.contains_key(&id) {
            self.apply(at, id, happening, detail, out);
        } else if happening != Happening::Listens {
            self.counters.unknown += 1;
        }
    }

    /// One transition and what it tells.
    fn apply(
        &mut self,
        at: Timestamp,
        id: ConnectionId,
        happening: Happening,
        detail: Detail,
        out: &mut Vec<Signal>,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let before = connection.phase;
        let (next, act) = step(before, happening);
        connection.phase = next;
        let key = connection.peer();
        let mut tell = |kind| {
            out.push(Signal {
                at,
                peer: key,
                kind,
            });
        };
        // The peer of an ended connection may have left memory already; of a living one it cannot.
        let mut departed = Peer::default();
        let peer = self.peers.get_mut(&key).unwrap_or(&mut departed);
        peer.moved(Some(before), Some(next));
        peer.active_at = peer.active_at.max(at);

        match act {
            Act::Nothing => {}
            Act::Up => {
                let source = connection.flow.local.ip().to_canonical();
                peer.source = Some(source);
                if connection.owner.is_some() {
                    peer.owner.clone_from(&connection.owner);
                }
                if peer.up == 1 {
                    tell(SignalKind::PeerUp { source });
                }
                tell(SignalKind::ConnectionUp {
                    connection: id,
                    source,
                });
            }
            Act::Down | Act::DownByPeer => {
                if act == Act::DownByPeer && !connection.reset_told {
                    tell(SignalKind::Alive {
                        connection: id,
                        sign: AliveSign::Closed,
                    });
                }
                tell(SignalKind::ConnectionDown {
                    connection: id,
                    error: detail.error,
                });
                if peer.up == 0 {
                    tell(SignalKind::PeerDown);
                }
            }
            Act::Failed if connection.outgoing => {
                let cause = connect_failure(detail.error);
                peer.failures.count(cause);
                tell(SignalKind::ConnectFailed { cause });
            }
            Act::Failed => self.counters.accept_failures += 1,
            Act::Alive(sign) => {
                let repeated = happening == Happening::ResetReceived
                    && std::mem::replace(&mut connection.reset_told, true);
                if !repeated {
                    tell(SignalKind::Alive {
                        connection: id,
                        sign,
                    });
                }
            }
            Act::Retransmitted | Act::RetransmittedOverdue => {
                let class = detail.class.unwrap_or(RetransmitClass::Other);
                peer.retransmits.count(class);
                tell(SignalKind::Retransmitted {
                    connection: id,
                    class,
                });
                if act == Act::RetransmittedOverdue {
                    tell(SignalKind::Transmitted { connection: id });
                }
            }
            Act::Transmitted => tell(SignalKind::Transmitted { connection: id }),
            Act::SocketError => {
                if let Some(errno) = detail.error {
                    tell(SignalKind::SocketError {
                        connection: id,
                        errno,
                    });
                }
            }
            Act::Overdue => {
                let running = connection.clock.running(Duration::ZERO, &self.params);
                if let (Some((since, _)), Some(deadline)) = (running, detail.deadline) {
                    connection.episode = Some(Episode {
                        start: since,
                        told_at: at,
                        transmitted_at: at,
                        received_at: None,
                    });
                    self.counters.overdue += 1;
                    peer.overdue_total += 1;
                    tell(SignalKind::AckOverdue {
                        connection: id,
                        since,
                        limit: deadline.since(since),
                    });
                }
            }
        }
        if matches!(act, Act::RetransmittedOverdue | Act::Transmitted)
            && let Some(episode) = connection.episode.as_mut()
        {
            episode.transmitted_at = episode.transmitted_at.max(at);
        }
        if !matches!(next, Phase::Overdue | Phase::Abandoned) {
            connection.episode = None;
        }
        if !matches!(next, Phase::Healthy | Phase::Doubtful)
            && let Some(deadline) = connection.deadline.take()
        {
            self.deadlines.remove(&(deadline, id));
        }
        if next == Phase::Closed && before != Phase::Closed {
            connection.active_at = at;
            self.ended.insert((at, id));
        }
    }

    fn phase(&self, id: ConnectionId) -> Option<Phase> {
        self.connections.get(&id).map(|c| c.phase)
    }

    fn episode(&mut self, id: ConnectionId) -> Option<&mut Episode> {
        self.connections.get_mut(&id)?.episode.as_mut()
    }

    fn owned_by(&mut self, id: ConnectionId, owner: Option<&Owner>) {
        let (Some(connection), Some(owner)) = (self.connections.get_mut(&id), owner) else {
            return;
        };
        connection.owner = Some(owner.clone());
        if let Some(peer) = self.peers.get_mut(&connection.peer()) {
            peer.owner = Some(owner.clone());
        }
    }

    /// The kernel may know the ends of a connection only after its first state change.
    fn readdress(&mut self, at: Timestamp, id: ConnectionId, flow: Flow) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.flow == flow || flow.remote.port() == 0 {
            return;
        }
        let (old, new) = (connection.peer(), flow.peer());
        if old != new {
            if !self.room_for_peer(at, new) {
                return;
            }
            if let Some(peer) = self.peers.get_mut(&old) {
                peer.moved(Some(Phase::Opening), None);
            }
            let peer = self.peers.entry(new).or_default();
            peer.moved(None, Some(Phase::Opening));
            peer.active_at = at;
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.flow = flow;
        }
    }

    /// Begins to watch a connection, in phase Opening, if there is room.
    fn open(
        &mut self,
        at: Timestamp,
        id: ConnectionId,
        flow: Flow,
        outgoing: bool,
        out: &mut Vec<Signal>,
    ) {
        let key = flow.peer();
        if !self.room_for_connection(at, out) || !self.room_for_peer(at, key) {
            self.counters.connections_refused += 1;
            return;
        }
        self.connections
            .insert(id, Connection::new(at, flow, outgoing));
        let peer = self.peers.entry(key).or_default();
        peer.moved(None, Some(Phase::Opening));
        peer.active_at = at;
    }

    fn forget(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if let Some(deadline) = connection.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        self.ended.remove(&(connection.active_at, id));
        if let Some(peer) = self.peers.get_mut(&connection.peer()) {
            peer.moved(Some(connection.phase), None);
        }
    }

    /// Makes room in batches of a sixteenth, so that a full table costs one search per batch: ended
    /// connections first, then closing, opening, and idle ones; never one with data on its way.
    fn room_for_connection(&mut self, at: Timestamp, out: &mut Vec<Signal>) -> bool {
        let most = self.params.max_connections;
        if self.connections.len() < most {
            return true;
        }
        let batch = most / 16 + 1;
        let ended: Vec<ConnectionId> = self.ended.iter().take(batch).map(|e| e.1).collect();
        for id in &ended {
            self.forget(*id);
        }
        if self.connections.len() < most {
            return true;
        }
        if at < self.connections_crowded_until {
            return false;
        }
        let mut candidates: Vec<(u8, Timestamp, ConnectionId)> = self
            .connections
            .iter()
            .filter_map(|(id, c)| {
                let rank = match c.phase {
                    Phase::Closed => 0,
                    Phase::Closing => 1,
                    Phase::Opening => 2,
                    Phase::Healthy | Phase::Doubtful
                        if c.clock.oldest().is_none()
                            && at.since(c.active_at) >= self.params.idle_after =>
                    {
                        3
                    }
                    Phase::Healthy | Phase::Doubtful | Phase::Overdue | Phase::Abandoned => {
                        return None;
                    }
                };
                Some((rank, c.active_at, *id))
            })
            .collect();
        candidates.sort_unstable();
        for (_, _, id) in candidates.into_iter().take(batch) {
            self.apply(at, id, Happening::Gone, Detail::default(), out);
            self.forget(id);
            self.counters.connections_evicted += 1;
        }
        let room = self.connections.len() < most;
        if !room {
            self.connections_crowded_until = at + EVICTION_PAUSE;
        }
        room
    }

    /// The same for peers: those without connections, the longest silent first.
    fn room_for_peer(&mut self, at: Timestamp, key: PeerKey) -> bool {
        let most = self.params.max_peers;
        if self.peers.len() < most || self.peers.contains_key(&key) {
            return true;
        }
        if at < self.peers_crowded_until {
            return false;
        }
        let mut idle: Vec<(Timestamp, PeerKey)> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.idle())
            .map(|(key, peer)| (peer.active_at, *key))
            .collect();
        idle.sort_unstable();
        for (_, key) in idle.into_iter().take(most / 16 + 1) {
            self.peers.remove(&key);
            self.counters.peers_evicted += 1;
        }
        let room = self.peers.len() < most;
        if !room {
            self.peers_crowded_until = at + EVICTION_PAUSE;
        }
        room
    }
}
