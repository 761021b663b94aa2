//! What was true in a world: which verdicts are right for a fault, whether it can be found, and
//! whether a route helps. It follows from the packets' fate, not from what the faults are called.

use std::collections::{BTreeMap, BTreeSet};

use events::{Asn, Verdict};

use crate::fault::{Cut, End, FOREVER, Fault, Kind, Scope, dies_back, dies_out};
use crate::topology::Topology;
use crate::world::{FeedKind, Ran};

/// Faults shorter than this may be found or not.
const SHORT: u64 = 600_000;
/// A route is asked for where a fault lasts for so long.
const LASTING: u64 = 1_500_000;
/// What was told so long ago could be made use of.
const TOLD: u64 = 300_000;
/// Peers that were sent something so long before the end can show it.
const TIME_TO_TELL: u64 = 1_500_000;

/// A verdict that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// Its class, as [`Verdict::class`] names it.
    pub class: &'static str,
    /// The egress that it names, where it names one.
    pub egress: Option<usize>,
    /// Right until then: what tells more comes later.
    pub until: u64,
}

impl Right {
    const fn always(class: &'static str, egress: Option<usize>) -> Self {
        Self {
            class,
            egress,
            until: FOREVER,
        }
    }
}

/// The truth about one fault.
#[derive(Clone, Debug)]
pub struct Truth {
    /// Which kind.
    pub kind: Kind,
    /// From when ...
    pub from: u64,
    /// ... until when.
    pub until: u64,
    /// Verdicts that are right.
    pub right: Vec<Right>,
    /// It must be found; else silence is right as well.
    pub must: bool,
    /// It justifies a critical page.
    pub critical: bool,
    /// A route helps, and is permitted.
    pub actionable: bool,
    /// Peers whose packets die.
    pub affected: BTreeSet<usize>,
    /// ASes to blame; empty: nobody.
    pub culprits: BTreeSet<Asn>,
    /// BGP told of it in time.
    pub bgp_tells: bool,
}

fn ends(topology: &Topology) -> impl Iterator<Item = End<'_>> {
    let peers = topology.peers.iter().enumerate();
    let anchors = topology.anchors.iter().map(End::Anchor);
    peers.map(|(n, host)| End::Peer(n, host)).chain(anchors)
}

/// A packet with the flows' source gets there by an egress and its answer back.
fn flow_reaches(cuts: &[Cut], topology: &Topology, at: u64, egress: usize, end: &End<'_>) -> bool {
    !dies_out(cuts, at, egress, end) && !dies_back(cuts, at, topology.inbound, true, end)
}

/// Nothing gets through an egress, whatever its source.
fn dark(cuts: &[Cut], topology: &Topology, at: u64, egress: usize) -> bool {
    ends(topology)
        .all(|end| dies_out(cuts, at, egress, &end) || dies_back(cuts, at, egress, false, &end))
}

impl Truth {
    /// The truth about each fault of a world.
    #[must_use]
    pub fn of(ran: &Ran) -> Vec<Self> {
        let cuts: Vec<Cut> = ran.faults.iter().flat_map(|f| f.cuts.clone()).collect();
        ran.faults
            .iter()
            .filter(|fault| fault.kind != Kind::None)
            .map(|fault| Self::one(ran, &cuts, fault))
            .collect()
    }

    /// Other faults hide this one: its paths are dark, or its peers dead, without it.
    fn hidden(ran: &Ran, fault: &Fault, affected: &BTreeSet<usize>) -> bool {
        let topology = &ran.topology;
        let others: Vec<Cut> = ran
            .faults
            .iter()
            .filter(|f| !std::ptr::eq(*f, fault))
            .flat_map(|f| f.cuts.clone())
            .collect();
        if others.is_empty() {
            return false;
        }
        let wide = !matches!(
            fault.kind,
            Kind::RemoteAs | Kind::AsEdge | Kind::Prefix | Kind::SinglePeer
        );
        let egress = if fault.kind == Kind::ReturnPath {
            topology.inbound
        } else {
            fault.egress
        };
        let end = fault.until.min(ran.span.end) - 1;
        let flows_of_all = || {
            topology
                .peers
                .iter()
                .enumerate()
                .all(|(n, host)| !flow_reaches(&others, topology, end, 0, &End::Peer(n, host)))
        };
        if wide {
            let one_way = ends(topology).any(|e| dies_out(&others, end, egress, &e));
            return dark(&others, topology, end, egress) || one_way || flows_of_all();
        }
        // Its flows are dead already, or moved before it could be told.
        let told = fault.from + TIME_TO_TELL;
        let begun = others.iter().map(|c| c.from).filter(|from| *from < told);
        let moved = begun.map(|from| from.max(fault.from)).any(|at| {
            affected.iter().all(|n| {
                let end = End::Peer(*n, &topology.peers[*n]);
                !flow_reaches(&others, topology, at, 0, &end)
            })
        });
        moved
            || ends(topology).any(|e| dies_out(&others, end, 0, &e))
            || flows_of_all()
            || affected.is_empty()
    }

    fn one(ran: &Ran, cuts: &[Cut], fault: &Fault) -> Self {
        let topology = &ran.topology;
        let until = fault.until.min(ran.span.end);
        let lasts = until - fault.from;
        // All parts of it have begun by then.
        let at = fault.from + 250_000.min(lasts.saturating_sub(1));
        let affected: BTreeSet<usize> = topology
            .peers
            .iter()
            .enumerate()
            .filter(|(n, host)| !flow_reaches(&fault.cuts, topology, at, 0, &End::Peer(*n, host)))
            .map(|(n, _)| n)
            .collect();
        let active: BTreeSet<usize> = affected
            .iter()
            .copied()
            .filter(|n| {
                ran.seen.tried[*n]
                    .is_some_and(|tried| tried.max(fault.from) + TIME_TO_TELL <= until)
            })
            .collect();
        let mut truth = Self {
            kind: fault.kind,
            from: fault.from,
            until,
            right: Vec::new(),
            must: lasts >= SHORT,
            critical: true,
            actionable: false,
            culprits: fault.culprit.into_iter().collect(),
            bgp_tells: ran
                .seen
                .bgp_told
                .iter()
                .any(|told| *told >= fault.from && told + TOLD <= until),
            affected,
        };
        truth.must &= !Self::hidden(ran, fault, &truth.affected);
        truth.classes(ran, cuts, fault, at, &active);
        // Half of all peers unreachable is worth waking somebody, whatever it is called.
        truth.critical |= truth.affected.len() * 2 >= topology.peers.len();
        truth.deed(ran, cuts, lasts, at, &active);
        truth
    }

    fn classes(
        &mut self,
        ran: &Ran,
        cuts: &[Cut],
        fault: &Fault,
        at: u64,
        active: &BTreeSet<usize>,
    ) {
        let topology = &ran.topology;
        let egress = Some(fault.egress);
        let silent = topology.egresses[fault.egress].silent;
        let mut right = |class, egress| self.right.push(Right::always(class, egress));
        match fault.kind {
            Kind::None => {}
            Kind::Carrier => right("local_link", egress),
            Kind::Neighbor | Kind::Gateway => {
                // The two differ only in when the kernel says so.
                right("gateway", egress);
                right("local_link", egress);
                // Of a gateway that never answered only the kernel can say that it is gone.
                if silent {
                    let told = fault.unresolved_at().map(|at| at + TOLD);
                    let until = told.filter(|at| *at <= self.until).unwrap_or(FOREVER);
                    let other = (topology.inbound != fault.egress).then_some("egress_only");
                    let classes = std::iter::once("upstream_as").chain(other);
                    self.right.extend(classes.map(|class| Right {
                        class,
                        egress,
                        until,
                    }));
                }
            }
            Kind::GatewayMute if !silent => right("gateway", egress),
            Kind::GatewayMute | Kind::ForwardsNothing | Kind::Upstream | Kind::EgressOnly => {
                right("upstream_as", egress);
                if fault.kind == Kind::ForwardsNothing {
                    right("gateway", egress);
                }
                // Where all that peers send comes in by another egress, nothing tells whether this one
                // is dead both ways.
                if fault.kind == Kind::EgressOnly || topology.inbound != fault.egress {
                    right("egress_only", egress);
                }
            }
            Kind::OneFamily => {
                right("address_family", egress);
                // Of a host with one family it is the whole upstream.
                if topology.families != [true, true] {
                    right("upstream_as", egress);
                    if topology.inbound != fault.egress {
                        right("egress_only", egress);
                    }
                }
            }
            Kind::ReturnPath => right("return_path", None),
            Kind::Isolation => right("total_isolation", None),
            Kind::HostStall => {
                right("host_stall", None);
                self.must = false;
                self.critical = false;
            }
            Kind::RemoteAs | Kind::AsEdge | Kind::Prefix | Kind::SinglePeer => {
                self.critical = false;
                self.narrow(ran, fault, active);
            }
        }
        if self.critical {
            self.wide(topology, cuts, fault, at);
            let end = fault.until.min(ran.span.end) - 1;
            self.wide(topology, cuts, fault, end);
        }
    }

    /// A fault of an egress can look like another, and two of them like isolation.
    fn wide(&mut self, topology: &Topology, cuts: &[Cut], fault: &Fault, at: u64) {
        let all_dark = (0..topology.egresses.len()).all(|e| dark(cuts, topology, at, e));
        if all_dark {
            let class = "total_isolation";
            self.right.push(Right::always(class, None));
        }
        let v6 = fault.cuts.first().and_then(|cut| cut.v6);
        let flows_dead = ends(topology)
            .filter(|end| match end {
                End::Anchor(host) | End::Peer(_, host) => v6.is_none_or(|v6| host.v6() == v6),
                End::Gateway { .. } => false,
            })
            .all(|end| {
                (0..topology.egresses.len()).all(|e| !flow_reaches(cuts, topology, at, e, &end))
            });
        if flows_dead && !all_dark {
            self.right.push(Right::always("return_path", None));
        }
    }

    /// What a few peers have in common, as far as it shows.
    fn narrow(&mut self, ran: &Ran, fault: &Fault, active: &BTreeSet<usize>) {
        let topology = &ran.topology;
        let facts = ran.feed != FeedKind::None;
        let mut prefixes: BTreeMap<usize, usize> = BTreeMap::new();
        for peer in active {
            *prefixes.entry(topology.peers[*peer].prefix).or_default() += 1;
        }
        let members = |prefix: usize| topology.peers.iter().filter(|p| p.prefix == prefix).count();
        let group = |failing: usize, of: usize| failing >= 2 && failing * 2 >= of;
        let by_prefix = prefixes.iter().any(|(p, n)| group(*n, members(*p)));
        // ASes that explain the same peers cannot be told apart.
        let through = |asn: Asn| -> BTreeSet<usize> {
            let peers = topology.peers.iter().enumerate();
            peers
                .filter(|(_, p)| p.paths[0].iter().skip(1).any(|a| *a == asn))
                .map(|(n, _)| n)
                .collect()
        };
        let mut by_as = false;
        if facts {
            let ases: BTreeSet<Asn> = active
                .iter()
                .flat_map(|n| topology.peers[*n].paths[0].iter().skip(1).copied())
                .collect();
            for asn in ases {
                let behind = through(asn);
                by_as |= group(behind.intersection(active).count(), behind.len());
                let same = behind.intersection(&self.affected).count() == self.affected.len()
                    && behind.len() == self.affected.len();
                if same && matches!(fault.kind, Kind::RemoteAs | Kind::AsEdge) {
                    self.culprits.insert(asn);
                }
            }
        }
        if let Some(Scope::Edge(near, _)) = fault.cuts.first().map(|c| c.scope) {
            self.culprits.insert(near);
        }
        let one_prefix = prefixes.len() == 1;
        let remote = matches!(fault.kind, Kind::RemoteAs | Kind::AsEdge);
        let mut right = |class| {
            self.right.push(Right::always(class, None));
        };
        if active.len() <= 2 || fault.kind == Kind::SinglePeer {
            right("single_peer");
        }
        if fault.kind == Kind::Prefix || (remote && (one_prefix || !facts)) {
            right("prefix");
        }
        let origin_shown = |prefix: usize| {
            // Other prefixes of the origin are seen to work.
            let host = topology.peers.iter().find(|p| p.prefix == prefix);
            let origin = host.and_then(|h| h.paths[0].last());
            topology
                .peers
                .iter()
                .any(|p| p.prefix != prefix && p.paths[0].last() == origin)
        };
        let lone =
            fault.kind == Kind::Prefix && prefixes.keys().all(|prefix| !origin_shown(*prefix));
        if remote || lone {
            right("remote_as");
        }
        // Answers die on their own way back: the AS is on no path that we send by.
        let elsewhere = active.iter().any(|n| {
            fault
                .culprit
                .is_some_and(|asn| !topology.peers[*n].paths[0].contains(&asn))
        });
        if elsewhere {
            right("prefix");
            right("single_peer");
            right("return_path");
        }
        self.must &= if fault.kind == Kind::SinglePeer || active.len() == 1 {
            !active.is_empty()
        } else {
            by_prefix || by_as
        };
        // A peer among others of its prefix, or alone in it.
        if fault.kind == Kind::SinglePeer && one_prefix {
            let only = prefixes.keys().all(|prefix| members(*prefix) == 1);
            if only && active.len() == 1 {
                self.right.push(Right::always("prefix", None));
            }
        }
        // Everything that is watched fails: nobody can tell where.
        let anchors_dead = topology.anchors.iter().all(|a| {
            let at = fault.from + 1;
            !flow_reaches(&fault.cuts, topology, at, 0, &End::Anchor(a))
        });
        if anchors_dead || self.affected.len() == topology.peers.len() && !facts {
            self.right.push(Right::always("upstream_as", Some(0)));
        }
        self.critical = anchors_dead;
    }

    fn deed(&mut self, ran: &Ran, cuts: &[Cut], lasts: u64, at: u64, active: &BTreeSet<usize>) {
        let topology = &ran.topology;
        let permitted = !matches!(
            self.kind,
            Kind::None | Kind::SinglePeer | Kind::HostStall | Kind::ReturnPath | Kind::Isolation
        );
        let narrow = matches!(self.kind, Kind::RemoteAs | Kind::AsEdge | Kind::Prefix);
        let concerned = if narrow { active } else { &self.affected };
        let helped = concerned
            .iter()
            .filter(|n| {
                let end = End::Peer(**n, &topology.peers[**n]);
                (1..topology.egresses.len()).any(|e| {
                    [at, ran.span.end - 1]
                        .into_iter()
                        .all(|at| flow_reaches(cuts, topology, at, e, &end))
                })
            })
            .count();
        self.actionable =
            permitted && self.must && lasts >= LASTING && helped >= if narrow { 2 } else { 1 };
    }

    /// A verdict that stands at `at` is right for this fault.
    #[must_use]
    pub fn accepts(&self, verdict: &Verdict, topology: &Topology, at: u64) -> bool {
        self.right.iter().any(|right| {
            right.class == verdict.class()
                && at < right.until
                && right.egress.is_none_or(|wanted| {
                    egress_of(verdict).is_none_or(|name| topology.egresses[wanted].name.0 == name)
                })
        })
    }
}

/// Nothing gets through an egress, of one family at least, at some time of the world.
#[must_use]
pub fn is_dark(ran: &Ran, name: &str) -> bool {
    let cuts = ran.faults.iter().flat_map(|f| &f.cuts);
    let dark: Vec<usize> = cuts
        .filter_map(|cut| match cut.scope {
            Scope::Link(e) | Scope::Gateway(e) | Scope::Beyond(e) => Some(e),
            _ => None,
        })
        .collect();
    dark.iter()
        .any(|e| ran.topology.egresses[*e].name.0 == name)
}

/// The egress that a verdict names.
#[must_use]
pub fn egress_of(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::LocalLink { egress, .. }
        | Verdict::Gateway { egress, .. }
        | Verdict::AddressFamily { egress, .. }
        | Verdict::EgressOnly { egress }
        | Verdict::UpstreamAs { egress, .. } => Some(&egress.0),
        _ => None,
    }
}

/// The AS that a verdict names.
#[must_use]
pub const fn asn_of(verdict: &Verdict) -> Option<Asn> {
    match verdict {
        Verdict::UpstreamAs { asn, .. } => *asn,
        Verdict::RemoteAs { asn, .. } => Some(*asn),
        _ => None,
    }
}
