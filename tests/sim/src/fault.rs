//! What breaks in a world: faults, the cuts that they make, and the fate of packets. Times are
//! microseconds.

use std::fmt;

use events::{Asn, HostSignal};

use crate::draw::Draw;
use crate::params::Params;
use crate::topology::{Host, Topology};

/// Never.
pub const FOREVER: u64 = u64::MAX;

/// Kinds of faults: those of the verdict table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    None,
    Carrier,
    Neighbor,
    Gateway,
    /// The gateway resolves and is silent otherwise.
    GatewayMute,
    /// The gateway answers probes and forwards nothing.
    ForwardsNothing,
    Upstream,
    RemoteAs,
    AsEdge,
    Prefix,
    SinglePeer,
    EgressOnly,
    ReturnPath,
    HostStall,
    Isolation,
    OneFamily,
}

impl Kind {
    /// All of them, in the order of the parameters' weights.
    pub const ALL: [Self; 16] = [
        Self::None,
        Self::Carrier,
        Self::Neighbor,
        Self::Gateway,
        Self::GatewayMute,
        Self::ForwardsNothing,
        Self::Upstream,
        Self::RemoteAs,
        Self::AsEdge,
        Self::Prefix,
        Self::SinglePeer,
        Self::EgressOnly,
        Self::ReturnPath,
        Self::HostStall,
        Self::Isolation,
        Self::OneFamily,
    ];

    /// A short stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Carrier => "carrier",
            Self::Neighbor => "neighbor",
            Self::Gateway => "gateway",
            Self::GatewayMute => "gateway-mute",
            Self::ForwardsNothing => "forwards-nothing",
            Self::Upstream => "upstream-as",
            Self::RemoteAs => "remote-as",
            Self::AsEdge => "as-edge",
            Self::Prefix => "prefix",
            Self::SinglePeer => "single-peer",
            Self::EgressOnly => "egress-only",
            Self::ReturnPath => "return-path",
            Self::HostStall => "host-stall",
            Self::Isolation => "isolation",
            Self::OneFamily => "one-family",
        }
    }

    fn weights(params: &Params) -> [f64; 16] {
        let f = &params.fault;
        [
            f.none,
            f.carrier,
            f.neighbor,
            f.gateway,
            f.gateway_mute,
            f.forwards_nothing,
            f.upstream,
            f.remote_as,
            f.as_edge,
            f.prefix,
            f.single_peer,
            f.egress_only,
            f.return_path,
            f.host_stall,
            f.isolation,
            f.one_family,
        ]
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What of the network a cut takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All that leaves or comes by an egress; the interface knows it.
    Link(usize),
    /// The same, and nobody is told.
    Gateway(usize),
    /// All behind the gateway of an egress.
    Beyond(usize),
    /// Paths through an AS.
    As(Asn),
    /// Paths over an edge between two ASes.
    Edge(Asn, Asn),
    /// A prefix.
    Prefix(usize),
    /// A peer.
    Peer(usize),
    /// Answers to the flows' source.
    Inbound,
}

/// Packets that die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// From then on ...
    pub from: u64,
    /// ... until then.
    pub until: u64,
    /// Where.
    pub scope: Scope,
    /// Those that leave.
    pub out: bool,
    /// Those that come in.
    pub back: bool,
    /// Of IPv6 or of IPv4 only.
    pub v6: Option<bool>,
}

/// Where a packet goes or comes from.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    /// The gateway of the egress.
    Gateway {
        /// Of which family.
        v6: bool,
    },
    /// An anchor, by itself.
    Anchor(&'a Host),
    /// A peer, with its number.
    Peer(usize, &'a Host),
}

impl End<'_> {
    fn v6(&self) -> bool {
        match self {
            Self::Gateway { v6 } => *v6,
            Self::Anchor(host) | Self::Peer(_, host) => host.v6(),
        }
    }

    fn is_behind(&self, scope: Scope, egress: usize) -> bool {
        let host = match self {
            Self::Gateway { .. } => {
                return matches!(scope, Scope::Link(e) | Scope::Gateway(e) if e == egress);
            }
            Self::Anchor(host) | Self::Peer(_, host) => host,
        };
        let path = host.paths.get(egress);
        match scope {
            Scope::Link(e) | Scope::Gateway(e) | Scope::Beyond(e) => e == egress,
            Scope::As(asn) => path.is_some_and(|path| path.contains(&asn)),
            Scope::Edge(near, far) => path.is_some_and(|path| {
                path.windows(2)
                    .any(|pair| matches!(pair, [a, b] if *a == near && *b == far))
            }),
            Scope::Prefix(prefix) => host.prefix == prefix,
            Scope::Peer(peer) => matches!(self, Self::Peer(n, _) if *n == peer),
            Scope::Inbound => false,
        }
    }
}

impl Cut {
    const fn active(&self, at: u64) -> bool {
        self.from <= at && at < self.until
    }

    fn family(&self, end: &End<'_>) -> bool {
        self.v6.is_none_or(|v6| v6 == end.v6())
    }
}

/// A packet that leaves by an egress dies.
#[must_use]
pub fn dies_out(cuts: &[Cut], at: u64, egress: usize, end: &End<'_>) -> bool {
    cuts.iter()
        .any(|cut| cut.out && cut.active(at) && cut.family(end) && end.is_behind(cut.scope, egress))
}

/// A packet that comes in by an egress dies; `flow`: it is addressed to the flows' source.
#[must_use]
pub fn dies_back(cuts: &[Cut], at: u64, egress: usize, flow: bool, end: &End<'_>) -> bool {
    cuts.iter().any(|cut| {
        cut.back
            && cut.active(at)
            && cut.family(end)
            && ((flow && cut.scope == Scope::Inbound) || end.is_behind(cut.scope, egress))
    })
}

/// A stretch of time in which the host, or the daemon alone, does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standstill {
    /// From then on ...
    pub from: u64,
    /// ... until then.
    pub until: u64,
    /// The machine stands still; else the daemon alone is starved.
    pub machine: bool,
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which.
    pub kind: Kind,
    /// Of which egress, where it is an egress's.
    pub egress: usize,
    /// When it begins.
    pub from: u64,
    /// When it ends.
    pub until: u64,
    /// What it cuts.
    pub cuts: Vec<Cut>,
    /// What the kernel tells of it, and when.
    pub signals: Vec<(u64, HostSignal)>,
    /// Of a host that stands still.
    pub standstill: Option<Standstill>,
    /// The AS to blame, or the far end of the edge.
    pub culprit: Option<Asn>,
}

impl Fault {
    /// When the kernel says that a gateway does not resolve.
    #[must_use]
    pub fn unresolved_at(&self) -> Option<u64> {
        self.signals.iter().find_map(|(at, signal)| {
            matches!(
                signal,
                HostSignal::Neighbor {
                    reachable: false,
                    ..
                }
            )
            .then_some(*at)
        })
    }
}

/// Draws one fault of a kind.
#[must_use]
pub fn draw(
    draw: &mut Draw,
    params: &Params,
    topology: &Topology,
    kind: Kind,
    from: u64,
    lasts: u64,
) -> Fault {
    let shape = &params.fault_shape;
    let count = topology.egresses.len();
    let egress = if draw.chance(shape.backup) {
        1 + draw.below(count - 1)
    } else {
        0
    };
    let until = from.saturating_add(lasts);
    let mut fault = Fault {
        kind,
        egress,
        from,
        until,
        cuts: Vec::new(),
        signals: Vec::new(),
        standstill: None,
        culprit: None,
    };
    let both = |scope| Cut {
        from,
        until,
        scope,
        out: true,
        back: true,
        v6: None,
    };
    match kind {
        Kind::None => {}
        Kind::Carrier => carrier(draw, params, topology, &mut fault, egress),
        Kind::Neighbor | Kind::Gateway => {
            fault.cuts.push(both(Scope::Gateway(egress)));
            let mut wait = draw.log_range(shape.neighbor_signal_s) * 1e6;
            if kind == Kind::Gateway {
                // Resolution fails only after the kernel's own probes: DELAY and three tries.
                wait = wait.max(3e6);
            }
            neighbor(topology, &mut fault, egress, from + wait as u64);
        }
        Kind::GatewayMute => fault.cuts.push(both(Scope::Gateway(egress))),
        Kind::ForwardsNothing => fault.cuts.push(both(Scope::Beyond(egress))),
        Kind::Upstream => {
            fault.culprit = Some(topology.egresses[egress].upstream);
            fault.cuts.push(both(Scope::Beyond(egress)));
        }
        Kind::OneFamily => {
            fault.culprit = Some(topology.egresses[egress].upstream);
            let v6 = match topology.families {
                [true, true] => draw.chance(0.6),
                [_, v6] => v6,
            };
            fault.cuts.push(Cut {
                v6: Some(v6),
                ..both(Scope::Beyond(egress))
            });
        }
        Kind::EgressOnly => {
            fault.culprit = Some(topology.egresses[egress].upstream);
            fault.cuts.push(Cut {
                back: false,
                ..both(Scope::Beyond(egress))
            });
        }
        Kind::ReturnPath => fault.cuts.push(Cut {
            out: false,
            ..both(Scope::Inbound)
        }),
        Kind::RemoteAs | Kind::AsEdge => {
            fault.egress = 0;
            // Seen from a peer, so that popular ASes fail as often as they matter.
            let peer = &topology.peers[draw.below(topology.peers.len())];
            let path = &peer.paths[0];
            let far = 1 + draw.below(path.len() - 1);
            fault.culprit = Some(path[far]);
            fault.cuts.push(both(if kind == Kind::RemoteAs {
                Scope::As(path[far])
            } else {
                Scope::Edge(path[far - 1], path[far])
            }));
        }
        Kind::Prefix => {
            fault.egress = 0;
            let peer = &topology.peers[draw.below(topology.peers.len())];
            fault.cuts.push(both(Scope::Prefix(peer.prefix)));
        }
        Kind::SinglePeer => {
            fault.egress = 0;
            fault
                .cuts
                .push(both(Scope::Peer(draw.below(topology.peers.len()))));
        }
        Kind::HostStall => {
            let length = draw.log_range(shape.stall_ms) * 1e3;
            fault.until = from + length as u64;
            fault.standstill = Some(Standstill {
                from,
                until: fault.until,
                machine: draw.chance(0.5),
            });
        }
        Kind::Isolation => {
            fault.egress = 0;
            for egress in 0..count {
                let late = (draw.range(shape.isolation_spread_ms) * 1e3) as u64;
                let late = if egress == 0 { 0 } else { late };
                let cut = Cut {
                    from: from + late,
                    ..both(Scope::Beyond(egress))
                };
                match draw.below(3) {
                    0 => {
                        let mut part = Fault {
                            from: from + late,
                            ..fault.clone()
                        };
                        part.cuts.clear();
                        part.signals.clear();
                        carrier(draw, params, topology, &mut part, egress);
                        fault.cuts.extend(part.cuts);
                        fault.signals.extend(part.signals);
                    }
                    1 => fault.cuts.push(Cut {
                        scope: Scope::Gateway(egress),
                        ..cut
                    }),
                    _ => fault.cuts.push(cut),
                }
            }
        }
    }
    fault
}

fn carrier(
    draw: &mut Draw,
    params: &Params,
    topology: &Topology,
    fault: &mut Fault,
    egress: usize,
) {
    fault.cuts.push(Cut {
        from: fault.from,
        until: fault.until,
        scope: Scope::Link(egress),
        out: true,
        back: true,
        v6: None,
    });
    let after = (draw.range(params.fault_shape.carrier_signal_ms) * 1e3) as u64;
    let name = &topology.egresses[egress].name;
    for (at, up) in [(fault.from, false), (fault.until, true)] {
        if at != FOREVER {
            let egress = name.clone();
            fault
                .signals
                .push((at + after, HostSignal::Carrier { egress, up }));
        }
    }
}

fn neighbor(topology: &Topology, fault: &mut Fault, egress: usize, at: u64) {
    let of = &topology.egresses[egress];
    for gateway in &of.gateways {
        for (at, reachable) in [(at, false), (fault.until.saturating_add(30_000), true)] {
            if (reachable && fault.until != FOREVER) || at < fault.until {
                fault.signals.push((
                    at,
                    HostSignal::Neighbor {
                        egress: of.name.clone(),
                        gateway: *gateway,
                        reachable,
                    },
                ));
            }
        }
    }
    // Nothing failed that ended before the kernel found out.
    if at >= fault.until {
        fault.signals.clear();
    }
}

/// Draws the faults of a world, the first one at `from`.
#[must_use]
pub fn draw_all(draw_: &mut Draw, params: &Params, topology: &Topology, from: u64) -> Vec<Fault> {
    let weights = Kind::weights(params);
    let shape = &params.fault_shape;
    let lasts = |draw: &mut Draw| {
        if draw.chance(shape.heals) {
            (draw.log_range(shape.heals_after_s) * 1e6) as u64
        } else {
            FOREVER
        }
    };
    let kind = Kind::ALL[draw_.weighted(&weights)];
    let first = lasts(draw_);
    let mut faults = vec![draw(draw_, params, topology, kind, from, first)];
    if kind != Kind::None && draw_.chance(shape.second) {
        let mut weights = weights;
        weights[0] = 0.0;
        let kind = Kind::ALL[draw_.weighted(&weights)];
        let at = from + (draw_.range(shape.second_after_s) * 1e6) as u64;
        let second = lasts(draw_);
        faults.push(draw(draw_, params, topology, kind, at, second));
    }
    faults
}
