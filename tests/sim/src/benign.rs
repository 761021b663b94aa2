//! What disturbs a world and is no fault: nobody may be woken, nothing rerouted. Times are
//! microseconds.

use crate::draw::Draw;
use crate::fault::Standstill;
use crate::params::{Benign, Params};
use crate::topology::Topology;

/// Queueing at an egress: the delay rises, holds and falls.
#[derive(Clone, Copy, Debug)]
pub struct Bloat {
    /// At which egress.
    pub egress: usize,
    /// When it begins to rise.
    pub from: u64,
    /// How long it rises, and falls.
    pub ramp: u64,
    /// How long it stays.
    pub hold: u64,
    /// The most.
    pub delay: u64,
}

impl Bloat {
    /// The delay at a time.
    #[must_use]
    pub fn at(&self, now: u64) -> u64 {
        let share = |part: u64| (self.delay as f64 * part as f64 / self.ramp.max(1) as f64) as u64;
        let Some(age) = now.checked_sub(self.from) else {
            return 0;
        };
        if age < self.ramp {
            share(age)
        } else if age < self.ramp + self.hold {
            self.delay
        } else {
            share((2 * self.ramp + self.hold).saturating_sub(age))
        }
    }
}

/// How a peer ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By RST.
    Reset,
    /// By FIN.
    Fin,
}

/// A peer restarts.
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// Which peer.
    pub peer: usize,
    /// When.
    pub at: u64,
    /// How its connection ends.
    pub ending: Ending,
    /// When it is back.
    pub back: u64,
}

impl Restart {
    /// A restart at `at`, with this ending or either, that takes up to `longest` milliseconds.
    fn draw(draw: &mut Draw, peer: usize, at: u64, ending: Option<Ending>, longest: f64) -> Self {
        let ending = ending.unwrap_or_else(|| {
            if draw.chance(0.5) {
                Ending::Reset
            } else {
                Ending::Fin
            }
        });
        Self {
            peer,
            at,
            ending,
            back: at + micros(draw.log_range([300.0, longest])),
        }
    }
}

/// A change in a neighbour's table that means nothing.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// When.
    pub at: u64,
    /// Of which prefix.
    pub prefix: usize,
    /// At which egress's neighbour.
    pub egress: usize,
    /// Withdrawn; else another path.
    pub withdrawn: bool,
    /// When it is as before.
    pub back: u64,
}

/// Observations are lost.
#[derive(Clone, Copy, Debug)]
pub struct LostEvents {
    /// From then on ...
    pub from: u64,
    /// ... until then.
    pub until: u64,
    /// This share.
    pub share: f64,
}

/// An egress loses packets for a while.
#[derive(Clone, Copy, Debug)]
pub struct LossyTime {
    /// From then on ...
    pub from: u64,
    /// ... until then.
    pub until: u64,
    /// Out, back.
    pub loss: [f64; 2],
}

/// All disturbances of a world.
#[derive(Clone, Debug, Default)]
pub struct Disturbances {
    /// The primary loses packets.
    pub lossy_times: Vec<LossyTime>,
    /// Nobody sends and nothing is probed: what happens meanwhile is of no interest. In order.
    pub asleep: Vec<(u64, u64)>,
    /// Loss by egress: out, back.
    pub wide_loss: Vec<[f64; 2]>,
    /// Loss by peer: out, back.
    pub peer_loss: Vec<[f64; 2]>,
    /// Loss by anchor: out, back.
    pub anchor_loss: Vec<[f64; 2]>,
    /// Mean of the exponential delay on top, by peer and by anchor.
    pub peer_jitter: Vec<f64>,
    /// See `peer_jitter`.
    pub anchor_jitter: Vec<f64>,
    /// How long each peer may wait with an acknowledgement.
    pub delayed_ack: Vec<u64>,
    /// Queueing.
    pub bloats: Vec<Bloat>,
    /// Restarts.
    pub restarts: Vec<Restart>,
    /// Nobody sends from .. until.
    pub pause: Option<(u64, u64)>,
    /// The host or the daemon stands still.
    pub standstills: Vec<Standstill>,
    /// The clock stands still while the world goes on: when, how long.
    pub jumps: Vec<(u64, u64)>,
    /// A timer is late, and nothing else: when, how long.
    pub lags: Vec<(u64, u64)>,
    /// BGP noise.
    pub noise: Vec<Noise>,
    /// A BGP session is lost and comes back: egress, from, until.
    pub flaps: Vec<(usize, u64, u64)>,
    /// Lost observations.
    pub lost: Vec<LostEvents>,
}

/// When things happen in a world.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The warm-up ends, everything runs at full rate.
    pub warm: u64,
    /// The first fault.
    pub fault: u64,
    /// The end.
    pub end: u64,
}

/// Loss out, back, or both.
fn one_sided(draw: &mut Draw, b: &Benign) -> [f64; 2] {
    let loss = draw.log_range(b.loss_share);
    match draw.below(3) {
        0 => [loss, 0.0],
        1 => [0.0, loss],
        _ => [loss / 2.0, loss / 2.0],
    }
}

fn micros(ms: f64) -> u64 {
    (ms * 1e3) as u64
}

impl Disturbances {
    /// Draws them.
    #[must_use]
    pub fn draw(draw: &mut Draw, params: &Params, topology: &Topology, span: Span) -> Self {
        let b = &params.benign;
        let peers = topology.peers.len();
        let mut all = Self {
            wide_loss: vec![[0.0; 2]; topology.egresses.len()],
            peer_loss: vec![[0.0; 2]; peers],
            anchor_loss: vec![[0.0; 2]; topology.anchors.len()],
            peer_jitter: vec![100.0; peers],
            anchor_jitter: vec![100.0; topology.anchors.len()],
            delayed_ack: vec![0; peers],
            ..Self::default()
        };
        all.lossy(draw, b);
        if draw.chance(b.jitter) {
            for mean in all.peer_jitter.iter_mut().chain(&mut all.anchor_jitter) {
                *mean = draw.log_range(b.jitter_ms) * 1e3;
            }
        }
        if draw.chance(b.delayed_ack_worlds) {
            for delay in &mut all.delayed_ack {
                if draw.chance(b.delayed_ack) {
                    *delay = micros(draw.range(b.delayed_ack_ms));
                }
            }
        }
        let anywhere = |draw: &mut Draw| draw.range([span.warm as f64, span.end as f64]) as u64;
        if draw.chance(b.bufferbloat) {
            let delay = micros(draw.log_range(b.bloat_ms));
            all.bloats.push(Bloat {
                egress: 0,
                from: anywhere(draw),
                ramp: (delay as f64 / draw.log_range(b.bloat_slope)) as u64,
                hold: (draw.log_range(b.bloat_hold_s) * 1e6) as u64,
                delay,
            });
        }
        if draw.chance(b.restart) {
            let count = (draw.log_range(b.restart_share) * peers as f64).ceil() as usize;
            let together = draw.chance(0.3).then(|| anywhere(draw));
            for _ in 0..count.min(peers / 2) {
                let at = together.unwrap_or_else(|| anywhere(draw)) + draw.below(20_000) as u64;
                all.restart(draw, at, peers);
            }
        }
        if draw.chance(b.epoch_pause) {
            let until = span.warm + draw.below(400_000) as u64;
            all.pause = Some((until - (b.epoch_pause_s * 1e6) as u64, until));
            let count = (draw.range([0.0, b.epoch_drop]) * peers as f64) as usize;
            for _ in 0..count {
                let at = until + draw.below(300_000) as u64;
                all.restart(draw, at, peers);
            }
        }
        if draw.chance(b.stall) {
            let from = anywhere(draw);
            all.standstills.push(Standstill {
                from,
                until: from + micros(draw.log_range(b.stall_ms)),
                machine: draw.chance(0.5),
            });
        }
        if draw.chance(b.jump) {
            all.jumps
                .push((anywhere(draw), micros(draw.log_range(b.jump_ms))));
        }
        if draw.chance(b.timer_lag) {
            all.lags
                .push((anywhere(draw), micros(draw.log_range(b.timer_lag_ms))));
        }
        if draw.chance(b.bgp_noise) {
            for _ in 0..draw.log_range(b.bgp_noise_events) as usize {
                let at = anywhere(draw);
                all.noise.push(Noise {
                    at,
                    prefix: draw.below(topology.prefixes.len()),
                    egress: draw.below(topology.egresses.len()),
                    withdrawn: draw.chance(0.4),
                    back: at + micros(draw.log_range([20.0, 5_000.0])),
                });
            }
        }
        if draw.chance(b.session_flap) {
            let from = anywhere(draw);
            let until = from + micros(draw.log_range([200.0, 5_000.0]));
            all.flaps
                .push((draw.below(topology.egresses.len()), from, until));
        }
        if draw.chance(b.lost_events) {
            let from = anywhere(draw);
            all.lost.push(LostEvents {
                from,
                until: from + 1_500_000,
                share: draw.range(b.lost_share),
            });
        }
        all
    }

    /// Many disturbances, one after the other, from `from` on for so long; between them all sleep.
    #[must_use]
    pub fn many(
        draw: &mut Draw,
        params: &Params,
        topology: &Topology,
        from: u64,
        lasts: u64,
    ) -> Self {
        let long = &params.long_run;
        // Who the peers are is drawn as in any world; what happens is not.
        let quiet = Span {
            warm: from,
            fault: from,
            end: from,
        };
        let usual = Self::draw(draw, params, topology, quiet);
        let mut all = Self {
            wide_loss: vec![[0.0; 2]; topology.egresses.len()],
            peer_loss: vec![[0.0; 2]; topology.peers.len()],
            anchor_loss: vec![[0.0; 2]; topology.anchors.len()],
            peer_jitter: usual.peer_jitter,
            anchor_jitter: usual.anchor_jitter,
            delayed_ack: usual.delayed_ack,
            ..Self::default()
        };
        let gap = 86_400e6 / long.per_day;
        let mut now = from;
        loop {
            let next = now + draw.exponential(gap) as u64;
            if next + 60_000_000 >= from + lasts {
                all.asleep.push((now, from + lasts));
                return all;
            }
            if next > now {
                all.asleep.push((now, next));
            }
            let begin = next + (long.before_s * 1e6) as u64;
            let end = all.one(draw, params, topology, begin);
            now = end + (long.after_s * 1e6) as u64;
        }
    }

    /// One disturbance, or two at once. Returns its end.
    fn one(&mut self, draw: &mut Draw, params: &Params, topology: &Topology, from: u64) -> u64 {
        let b = &params.benign;
        let l = &params.long_run;
        let peers = topology.peers.len();
        let mut end = from;
        for _ in 0..if draw.chance(l.two_at_once) { 2 } else { 1 } {
            let at = from + draw.below(500_000) as u64;
            let weights = [
                l.loss,
                l.bufferbloat,
                l.restart,
                l.stall,
                l.jump,
                l.timer_lag,
                l.bgp_noise,
                l.session_flap,
                l.lost_events,
                l.pause,
            ];
            let until = match draw.weighted(&weights) {
                0 => {
                    let until = at + (draw.log_range([1.0, 20.0]) * 1e6) as u64;
                    self.lossy_times.push(LossyTime {
                        from: at,
                        until,
                        loss: one_sided(draw, b),
                    });
                    until
                }
                1 => {
                    let delay = micros(draw.log_range(b.bloat_ms));
                    let bloat = Bloat {
                        egress: 0,
                        from: at,
                        ramp: (delay as f64 / draw.log_range(b.bloat_slope)) as u64,
                        hold: (draw.log_range(b.bloat_hold_s) * 1e6) as u64,
                        delay,
                    };
                    self.bloats.push(bloat);
                    at + 2 * bloat.ramp + bloat.hold
                }
                2 => {
                    let count = 1 + draw.below(peers / 3);
                    for _ in 0..count {
                        let at = at + draw.below(1_000_000) as u64;
                        let peer = draw.below(peers);
                        self.restarts
                            .push(Restart::draw(draw, peer, at, None, 3_000.0));
                    }
                    at + 4_000_000
                }
                3 => {
                    let until = at + micros(draw.log_range(b.stall_ms));
                    self.standstills.push(Standstill {
                        from: at,
                        until,
                        machine: draw.chance(0.5),
                    });
                    until
                }
                4 => {
                    self.jumps.push((at, micros(draw.log_range(b.jump_ms))));
                    at
                }
                5 => {
                    self.lags.push((at, micros(draw.log_range(b.timer_lag_ms))));
                    at
                }
                6 => {
                    for _ in 0..draw.log_range(b.bgp_noise_events) as usize {
                        let at = at + draw.below(1_000_000) as u64;
                        self.noise.push(Noise {
                            at,
                            prefix: draw.below(topology.prefixes.len()),
                            egress: draw.below(topology.egresses.len()),
                            withdrawn: draw.chance(0.4),
                            back: at + micros(draw.log_range([20.0, 3_000.0])),
                        });
                    }
                    at + 4_000_000
                }
                7 => {
                    let until = at + micros(draw.log_range([200.0, 5_000.0]));
                    self.flaps
                        .push((draw.below(topology.egresses.len()), at, until));
                    until
                }
                8 => {
                    let until = at + 1_500_000;
                    self.lost.push(LostEvents {
                        from: at,
                        until,
                        share: draw.range(b.lost_share),
                    });
                    until
                }
                _ => {
                    let until = at + (b.epoch_pause_s * 1e6) as u64;
                    self.asleep.push((at, until));
                    let count = (draw.range([0.0, b.epoch_drop]) * peers as f64) as usize;
                    for _ in 0..count {
                        let at = until + draw.below(300_000) as u64;
                        let peer = draw.below(peers);
                        let reset = Some(Ending::Reset);
                        self.restarts
                            .push(Restart::draw(draw, peer, at, reset, 3_000.0));
                    }
                    end = end.max(until + 2_000_000);
                    break;
                }
            };
            end = end.max(until);
        }
        end
    }

    fn lossy(&mut self, draw: &mut Draw, b: &Benign) {
        if !draw.chance(b.loss) {
            return;
        }
        let share = |draw: &mut Draw| one_sided(draw, b);
        if draw.chance(b.loss_wide) {
            self.wide_loss[0] = share(draw);
        } else {
            for loss in self.peer_loss.iter_mut().chain(&mut self.anchor_loss) {
                if draw.chance(0.3) {
                    *loss = share(draw);
                }
            }
        }
    }

    fn restart(&mut self, draw: &mut Draw, at: u64, peers: usize) {
        let peer = draw.below(peers);
        if self.restarts.iter().any(|r| r.peer == peer) {
            return;
        }
        self.restarts
            .push(Restart::draw(draw, peer, at, None, 5_000.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_rises_holds_and_falls() {
        let bloat = Bloat {
            egress: 0,
            from: 1_000,
            ramp: 100,
            hold: 200,
            delay: 50,
        };
        let delays: Vec<u64> = [0, 999, 1_050, 1_100, 1_299, 1_350, 1_400, 2_000]
            .into_iter()
            .map(|now| bloat.at(now))
            .collect();
        assert_eq!(delays, [0, 0, 25, 50, 50, 25, 0, 0]);
    }
}
