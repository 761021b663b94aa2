//! Connections: who sends when, what becomes of segments, and what the kernel tells of it.

use std::time::Duration;

use events::{TcpEventKind, TcpState};

use crate::benign::Ending;
use crate::collector::Live;
use crate::draw::Draw;
use crate::fault::{End, dies_back, dies_out};
use crate::params::Params;
use crate::tcp::{Ack, Receiver, Sender, Transmit};
use crate::world::{Happening, WARM, World};

/// Blocks come so often ...
const BLOCK: u64 = 2_000_000;
/// ... and for this part of the time everybody talks.
const DUTY: u64 = 800_000;
/// A peer that hears nothing stops sending new data after so many segments.
const DEAF_AFTER: u32 = 10;

/// When messages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// One in twenty seconds.
    Idle,
    /// Blocks of two seconds, 40 % of the time.
    Bursty,
    /// Always, with this gap in microseconds.
    Chatty(u64),
}

impl Pattern {
    /// A short stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Bursty => "bursty",
            Self::Chatty(50_000) => "gap_50",
            Self::Chatty(200_000) => "gap_200",
            Self::Chatty(_) => "gap_1000",
        }
    }
}

/// Who sends when in a world.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Of the world.
    pub pattern: Pattern,
    /// Of each peer: in a large world not all can be talkative.
    pub peers: Vec<Pattern>,
    /// Peers that send to us as well.
    pub inbound: Vec<bool>,
}

impl Traffic {
    /// Draws it.
    #[must_use]
    pub fn draw(draw: &mut Draw, params: &Params, peers: usize) -> Self {
        let t = &params.traffic;
        let weights = [t.idle, t.bursty, t.chatty_50, t.chatty_200, t.chatty_1000];
        let pattern = match draw.weighted(&weights) {
            0 => Pattern::Idle,
            1 => Pattern::Bursty,
            2 => Pattern::Chatty(50_000),
            3 => Pattern::Chatty(200_000),
            _ => Pattern::Chatty(1_000_000),
        };
        let rate = match pattern {
            Pattern::Idle => 0.05,
            Pattern::Bursty => 10.0,
            Pattern::Chatty(gap) => 1e6 / gap as f64,
        };
        let share = (params.world.sends_per_second / (rate * peers as f64)).min(1.0);
        Self {
            pattern,
            peers: (0..peers)
                .map(|_| {
                    if draw.chance(share) {
                        pattern
                    } else {
                        Pattern::Chatty(5_000_000)
                    }
                })
                .collect(),
            inbound: (0..peers).map(|_| draw.chance(t.inbound)).collect(),
        }
    }
}

/// A connection to a peer.
pub(crate) struct Flow {
    pub cookie: u64,
    pub port: u16,
    pub open: bool,
    pub sender: Sender,
    pub receiver: Receiver,
    pub live: Live,
    pub received_at: Option<u64>,
    /// Of the newest packet on its way: packets of a connection stay in order.
    last_out: u64,
    last_back: u64,
    timer_event: u64,
    /// The egress of a route of ours.
    pub rerouted: Option<usize>,
    /// Segments of the peer that our acknowledgement did not reach.
    unheard: u32,
    deaf: u32,
}

impl World {
    pub(crate) fn new_flow(&mut self, peer: usize, settled: bool) -> Flow {
        let host = &self.topology.peers[peer];
        let rtt = host.out[0] + host.back[self.topology.inbound];
        let window = 10 + self.draw.below(20);
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let deviation = if settled { rtt / 20 } else { rtt / 2 };
        Flow {
            cookie,
            port: 20_000 + (cookie % 40_000) as u16,
            open: true,
            sender: Sender::settled(rtt, deviation, window),
            receiver: Receiver::new(self.benign.delayed_ack[peer]),
            live: Live::default(),
            received_at: None,
            last_out: 0,
            last_back: 0,
            timer_event: u64::MAX,
            rerouted: None,
            unheard: 0,
            deaf: 0,
        }
    }

    fn next_message(&mut self, peer: usize) -> u64 {
        let now = self.now;
        let mut next = if now < WARM {
            now + self.draw.range([0.8e6, 1.2e6]) as u64
        } else {
            match self.traffic.peers[peer] {
                Pattern::Idle => now + self.draw.exponential(20e6) as u64 + 1_000,
                Pattern::Bursty => {
                    let next = now + self.draw.range([20e3, 60e3]) as u64;
                    if next % BLOCK < DUTY {
                        next
                    } else {
                        next - next % BLOCK + BLOCK + self.draw.below(100_000) as u64
                    }
                }
                Pattern::Chatty(gap) => now + (gap as f64 * self.draw.range([0.7, 1.3])) as u64,
            }
        };
        if let Some((from, until)) = self.benign.pause
            && (from..until).contains(&next)
        {
            next = until + self.draw.below(300_000) as u64;
        }
        if let Some(until) = self.sleeps(next) {
            next = until + self.draw.below(300_000) as u64;
        }
        next
    }

    pub(crate) fn message(&mut self, peer: usize) {
        let next = self.next_message(peer);
        self.at(next, Happening::Message(peer));
        if !self.flows[peer].open {
            return;
        }
        let mut out = Vec::new();
        self.flows[peer].sender.send(self.now, &mut out);
        self.transmit(peer, &out);
    }

    pub(crate) fn timer(&mut self, peer: usize) {
        self.flows[peer].timer_event = u64::MAX;
        let mut out = Vec::new();
        let now = self.now;
        self.flows[peer].sender.handle_timeout(now, &mut out);
        self.transmit(peer, &out);
    }

    /// The egress that packets to a peer leave by.
    pub(crate) fn way(&self, peer: usize) -> usize {
        self.flows[peer].rerouted.unwrap_or(0)
    }

    fn transmit(&mut self, peer: usize, out: &[Transmit]) {
        for segment in out {
            self.leave(peer, segment.seq);
            if let Some(class) = segment.class {
                self.tcp(peer, TcpEventKind::Retransmitted { class });
            }
        }
        if out.iter().any(|s| s.class.is_some()) {
            self.edge();
        }
        if let Some(at) = self.flows[peer].sender.next_timeout()
            && at < self.flows[peer].timer_event
        {
            self.flows[peer].timer_event = at;
            self.at(at, Happening::Timer(peer));
        }
    }

    fn leave(&mut self, peer: usize, seq: u32) {
        let now = self.now;
        if now >= self.span.fault {
            self.seen.tried[peer].get_or_insert(now);
        }
        let egress = self.way(peer);
        let host = &self.topology.peers[peer];
        let end = End::Peer(peer, host);
        let distance = host.out[egress];
        let loss = self.wide_loss(egress)[0] + self.benign.peer_loss[peer][0];
        if dies_out(&self.cuts, now, egress, &end) || self.draw.chance(loss) {
            return;
        }
        let delay = distance
            + self.draw.exponential(self.benign.peer_jitter[peer]) as u64
            + self.queueing(egress);
        let flow = &mut self.flows[peer];
        flow.last_out = (now + delay).max(flow.last_out + 1);
        let (at, cookie) = (flow.last_out, flow.cookie);
        self.at(at, Happening::Arrive(peer, cookie, seq));
    }

    /// The loss of an egress now: out, back.
    pub(crate) fn wide_loss(&self, egress: usize) -> [f64; 2] {
        let now = self.now;
        let [mut out, mut back] = self.benign.wide_loss[egress];
        if egress == 0 {
            for lossy in &self.benign.lossy_times {
                if lossy.from <= now && now < lossy.until {
                    out += lossy.loss[0];
                    back += lossy.loss[1];
                }
            }
        }
        [out, back]
    }

    /// The delay at an egress's queue now.
    pub(crate) fn queueing(&self, egress: usize) -> u64 {
        self.benign
            .bloats
            .iter()
            .filter(|b| b.egress == egress)
            .map(|b| b.at(self.now))
            .sum()
    }

    fn is(&self, peer: usize, cookie: u64) -> bool {
        self.flows[peer].open && self.flows[peer].cookie == cookie
    }

    pub(crate) fn arrive(&mut self, peer: usize, cookie: u64, seq: u32) {
        if !self.is(peer, cookie) {
            return;
        }
        let now = self.now;
        let receiver = &mut self.flows[peer].receiver;
        match receiver.arrive(now, seq) {
            Some(ack) => self.answer(peer, ack, false),
            None => {
                if let Some(at) = receiver.next_timeout() {
                    self.at(at, Happening::DelayedAck(peer, cookie));
                }
            }
        }
    }

    pub(crate) fn delayed_ack(&mut self, peer: usize, cookie: u64) {
        let receiver = &mut self.flows[peer].receiver;
        if receiver.next_timeout() != Some(self.now) {
            return;
        }
        let ack = receiver.acknowledge();
        if self.is(peer, cookie) {
            self.answer(peer, ack, false);
        }
    }

    /// A packet of the peer leaves it.
    fn answer(&mut self, peer: usize, ack: Ack, data: bool) {
        let now = self.now;
        let inbound = self.topology.inbound;
        let host = &self.topology.peers[peer];
        let end = End::Peer(peer, host);
        let distance = host.back[inbound];
        let loss = self.wide_loss(inbound)[1] + self.benign.peer_loss[peer][1];
        let delay = distance + self.draw.exponential(self.benign.peer_jitter[peer]) as u64;
        let dies = dies_back(&self.cuts, now + delay, inbound, true, &end);
        let flow = &mut self.flows[peer];
        if dies || self.draw.chance(loss) {
            if data {
                flow.unheard += 1;
            }
            return;
        }
        flow.last_back = (now + delay).max(flow.last_back + 1);
        let (at, cookie) = (flow.last_back, flow.cookie);
        self.at(at, Happening::Ack(peer, cookie, Box::new(ack), data));
    }

    pub(crate) fn acknowledged(&mut self, peer: usize, cookie: u64, ack: &Ack, data: bool) {
        if !self.is(peer, cookie) {
            return;
        }
        let now = self.now;
        let egress = self.way(peer);
        let end = End::Peer(peer, &self.topology.peers[peer]);
        let heard = !data || !dies_out(&self.cuts, now, egress, &end);
        let flow = &mut self.flows[peer];
        flow.received_at = Some(now);
        if data {
            flow.unheard = if heard { 0 } else { flow.unheard + 1 };
        }
        let mut out = Vec::new();
        flow.sender.acknowledge(now, ack, &mut out);
        self.transmit(peer, &out);
    }

    pub(crate) fn inbound(&mut self, peer: usize) {
        let next = if self.flows[peer].unheard >= DEAF_AFTER {
            // It retransmits only, and ever more seldom.
            let deaf = &mut self.flows[peer].deaf;
            *deaf = (*deaf + 1).min(7);
            self.now + (250_000 << *deaf)
        } else {
            self.flows[peer].deaf = 0;
            self.next_message(peer)
        };
        self.at(next, Happening::Inbound(peer));
        if self.flows[peer].open {
            let ack = self.flows[peer].receiver.acknowledge();
            self.answer(peer, ack, true);
        }
    }

    /// The peer ends the connection.
    pub(crate) fn restart(&mut self, peer: usize, ending: Ending) {
        const ECONNRESET: i32 = 104;
        let inbound = self.topology.inbound;
        let end = End::Peer(peer, &self.topology.peers[peer]);
        let cut = dies_back(&self.cuts, self.now, inbound, true, &end);
        if cut || !self.flows[peer].open {
            return;
        }
        let changed = |from, to, error| TcpEventKind::StateChanged {
            from,
            to,
            error,
            owner: None,
        };
        match ending {
            Ending::Reset => {
                self.tcp(peer, TcpEventKind::ResetReceived);
                let closed = changed(TcpState::Established, TcpState::Closed, Some(ECONNRESET));
                self.tcp(peer, closed);
            }
            Ending::Fin => {
                self.tcp(
                    peer,
                    changed(TcpState::Established, TcpState::CloseWait, None),
                );
                self.tcp(peer, changed(TcpState::CloseWait, TcpState::LastAck, None));
                self.tcp(peer, changed(TcpState::LastAck, TcpState::Closed, None));
            }
        }
        self.flows[peer].open = false;
    }

    /// A peer that restarted connects again, once packets get through.
    pub(crate) fn back(&mut self, peer: usize) {
        if self.flows[peer].open {
            return;
        }
        let egress = self.way(peer);
        let end = End::Peer(peer, &self.topology.peers[peer]);
        let inbound = self.topology.inbound;
        if dies_out(&self.cuts, self.now, egress, &end)
            || dies_back(&self.cuts, self.now, inbound, true, &end)
        {
            self.at(self.now + 1_000_000, Happening::Back(peer));
            return;
        }
        let rerouted = self.flows[peer].rerouted;
        let mut flow = self.new_flow(peer, false);
        flow.rerouted = rerouted;
        let took = Duration::from_micros(flow.sender.srtt());
        self.flows[peer] = flow;
        let from = if self.draw.chance(0.5) {
            TcpState::SynSent
        } else {
            TcpState::SynReceived
        };
        let changed = |from, to| TcpEventKind::StateChanged {
            from,
            to,
            error: None,
            owner: None,
        };
        self.tcp(peer, changed(TcpState::Closed, from));
        self.tcp(peer, changed(from, TcpState::Established));
        if from == TcpState::SynSent {
            self.tcp(peer, TcpEventKind::Handshake { took });
        }
    }
}
