//! The adapters' part: probes, routes, the FIB, the BGP feed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use engine::Params as EngineParams;
use events::{
    Asn, BgpSignal, Effect, EgressName, FibChange, FibRoute, Input, NeighborId, Outcome,
    PageAction, PeerKey, Plan, PlanId, PlanMode, ProbeOutcome, ProbeResult, ProbeSource,
    ProbeTarget, RevertReason, RouteAttributes, RouteChange, RouteFact, RouteSpec,
    SessionDownReason,
};

use crate::collector::stamp;
use crate::fault::{Cut, End, FOREVER, Kind, Scope, dies_back, dies_out};
use crate::prober::{self, Path};
use crate::topology::{Host, LOCAL_AS, Topology, allowed, flow_source, link_source};
use crate::without::Without;
use crate::world::{FeedKind, Happening, Installation, Paged, World};

/// A path that was dead this long before an installation may have been when that was decided.
const DEAD_JUST_NOW: [u64; 4] = [0, 100_000, 250_000, 500_000];
/// Nobody can know yet that a path died since: an answer's way and the patience with it.
const ALIVE_JUST_NOW: [u64; 2] = [0, 150_000];
/// What is sent to a dead peer shows it within so long.
const TIME_TO_SHOW: u64 = 500_000;
/// `ENETUNREACH`: what sending on an interface without carrier gives.
const ENETUNREACH: i32 = 101;
/// Routes are taken back within this.
const REVERT_TAKES: u64 = 3_000;

/// The engine as a daemon in act mode has it.
#[must_use]
pub fn engine_params(topology: &Topology, without: Without) -> EngineParams {
    let probes = !without.probes;
    let flow_sources: Vec<IpAddr> = [false, true]
        .into_iter()
        .filter(|v6| topology.families[usize::from(*v6)])
        .map(flow_source)
        .collect();
    let origin = |host: &Host| host.paths.first().and_then(|p| p.last()).copied();
    EngineParams {
        tracker: tracker::Params::default(),
        correlator: correlator::Params {
            run_id: "sim".to_owned(),
            egresses: topology
                .egresses
                .iter()
                .map(|egress| correlator::EgressParams {
                    name: egress.name.clone(),
                    gateways: egress.gateways.clone(),
                })
                .collect(),
            anchors: topology
                .anchors
                .iter()
                .filter_map(|anchor| Some((anchor.address, origin(anchor)?)))
                .collect(),
            flow_sources: flow_sources.clone(),
            local_as: Some(LOCAL_AS),
            probes,
            thresholds: correlator::Thresholds::default(),
        },
        policy: remediation::Policy {
            mode: PlanMode::Act,
            allowed: allowed(),
            max_routes: 1_024,
            probes,
            flow_sources,
            egresses: topology
                .egresses
                .iter()
                .map(|egress| remediation::Egress {
                    name: egress.name.clone(),
                    interface: egress.interface.clone(),
                    gateways: egress.gateways.clone(),
                })
                .collect(),
            anchors: topology
                .anchors
                .iter()
                .map(|anchor| remediation::Anchor {
                    address: anchor.address,
                    asn: origin(anchor),
                })
                .collect(),
            ..remediation::Policy::default()
        },
    }
}

fn end_of<'a>(
    topology: &'a Topology,
    by_address: &BTreeMap<PeerKey, usize>,
    address: IpAddr,
) -> Option<End<'a>> {
    if let Some(peer) = by_address.get(&PeerKey(address)) {
        return Some(End::Peer(*peer, &topology.peers[*peer]));
    }
    let anchor = topology.anchors.iter().find(|a| a.address == address);
    anchor.map(End::Anchor)
}

impl World {
    fn egress_number(&self, name: &EgressName) -> Option<usize> {
        self.topology.egresses.iter().position(|e| e.name == *name)
    }

    /// A probe leaves.
    pub(crate) fn probe(&mut self, number: usize) {
        let now = self.now;
        let path = self.paths[number].clone();
        let (egress, flow) = (path.egress, path.source == ProbeSource::Flow);
        if self.is_down(egress) {
            if self.paths[number].refused(now) {
                let outcome = ProbeOutcome::Refused { errno: ENETUNREACH };
                self.result(&path, now, outcome, true);
            }
            return;
        }
        let gateway = matches!(path.target, ProbeTarget::Gateway(_));
        let address = path.target.address();
        let v6 = address.is_ipv6();
        let end = if gateway {
            Some(End::Gateway { v6 })
        } else {
            end_of(&self.topology, &self.by_address, address)
        };
        let Some(end) = end else {
            return;
        };
        let inbound = if flow { self.topology.inbound } else { egress };
        let (out, back, jitter, loss) = match end {
            End::Gateway { .. } => {
                let near = self.topology.egresses[egress].near;
                (near, near, 200.0, [0.0; 2])
            }
            End::Anchor(host) => {
                let n = self
                    .topology
                    .anchors
                    .iter()
                    .position(|a| a.address == address)
                    .unwrap_or_default();
                let jitter = self.benign.anchor_jitter[n];
                let loss = self.benign.anchor_loss[n];
                (host.out[egress], host.back[inbound], jitter, loss)
            }
            End::Peer(n, host) => {
                let jitter = self.benign.peer_jitter[n];
                let loss = self.benign.peer_loss[n];
                (host.out[egress], host.back[inbound], jitter, loss)
            }
        };
        let queueing = if gateway { 0 } else { self.queueing(egress) };
        let wide = if gateway {
            [0.0; 2]
        } else {
            [self.wide_loss(egress)[0], self.wide_loss(inbound)[1]]
        };
        let lost_out = dies_out(&self.cuts, now, egress, &end);
        let (more_out, more_back) = {
            let draw = &mut self.draw;
            (
                draw.exponential(jitter) as u64,
                draw.exponential(jitter) as u64,
            )
        };
        let rtt = out + more_out + queueing + back + more_back;
        let lost_back = dies_back(&self.cuts, now + rtt, inbound, flow, &end);
        let silent = match end {
            End::Gateway { .. } => self.topology.egresses[egress].silent,
            End::Peer(n, _) => self.silent[n],
            End::Anchor(_) => false,
        };
        let lost =
            silent || self.draw.chance(loss[0] + wide[0]) || self.draw.chance(loss[1] + wide[1]);
        let reply = (!lost && !lost_out && !lost_back).then_some(now + rtt);
        let deadline = now + path.patience();
        if let Some(at) = reply {
            self.at(
                at,
                Happening::Reply {
                    path: number,
                    sent: now,
                },
            );
        }
        if reply.is_none_or(|at| at > deadline) {
            self.at(
                deadline,
                Happening::Deadline {
                    path: number,
                    sent: now,
                    reply,
                },
            );
        }
    }

    /// The kernel knows that the interface has no carrier.
    fn is_down(&self, egress: usize) -> bool {
        self.cuts.iter().any(|cut| {
            cut.scope == Scope::Link(egress) && cut.from <= self.now && self.now < cut.until
        })
    }

    pub(crate) fn reply(&mut self, number: usize, sent: u64) {
        // The kernel stamps an answer when it comes, however late it is read.
        let came = self.now;
        let rtt = came.saturating_sub(sent);
        self.paths[number].replied(rtt);
        let path = self.paths[number].clone();
        let rtt = Duration::from_micros(rtt);
        let urgent = matches!(path.target, ProbeTarget::Suspect(_));
        self.result(&path, sent, ProbeOutcome::Reply { rtt }, urgent);
    }

    pub(crate) fn deadline(&mut self, number: usize, sent: u64, reply: Option<u64>) {
        if reply.is_some_and(|at| at <= self.now) {
            return;
        }
        self.paths[number].lost();
        let path = self.paths[number].clone();
        self.result(&path, sent, ProbeOutcome::Lost, true);
    }

    fn result(&mut self, path: &Path, sent: u64, outcome: ProbeOutcome, urgent: bool) {
        let v6 = path.target.address().is_ipv6();
        let result = ProbeResult {
            sent_at: stamp(sent),
            egress: self.topology.egresses[path.egress].name.clone(),
            target: path.target,
            source: path.source,
            source_address: match path.source {
                ProbeSource::Link => link_source(path.egress, v6),
                ProbeSource::Flow => flow_source(v6),
            },
            outcome,
        };
        self.tell(Input::Probe(result), urgent);
    }

    /// An effect of the engine.
    pub(crate) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Watch { peers } => self.watch(peers),
            Effect::Probe(request) => {
                if self.without.probes || self.without.bursts {
                    return;
                }
                for (at, egress, target, source) in
                    prober::burst(&request, &self.topology, self.now)
                {
                    let key = (egress, target, source == ProbeSource::Flow);
                    let number = match self.suspects.get(&key) {
                        Some(number) => *number,
                        None => {
                            let target = ProbeTarget::Suspect(target);
                            self.paths.push(Path::new(egress, target, source));
                            self.suspects.insert(key, self.paths.len() - 1);
                            self.paths.len() - 1
                        }
                    };
                    self.at(at, Happening::Suspect(number));
                }
            }
            Effect::Install(plan) => self.install(plan),
            Effect::Revert { plan, reason } => {
                self.at(self.now + REVERT_TAKES, Happening::Reverted(plan, reason));
            }
            Effect::Page(page) => self.seen.pages.push(Paged {
                at: self.now,
                incident: page.incident,
                severity: page.severity,
                class: page.class,
                summary: page.summary,
                trigger: page.action == PageAction::Trigger,
            }),
            Effect::Journal(entry) => self.record(entry),
            // The lease outlives the world.
            Effect::RenewLease { .. } | Effect::Nudge { .. } => {}
        }
    }

    fn watch(&mut self, peers: Vec<(PeerKey, Option<IpAddr>)>) {
        for (key, source) in peers {
            if !self.watched.insert(key) {
                continue;
            }
            if source.is_some() {
                let at = self.now + (self.draw.range(self.params.adapter.fib_ms) * 1e3) as u64;
                let change = self.fib(key);
                self.input_at(at, Input::Fib(change));
            }
            if self.feed == FeedKind::None {
                continue;
            }
            let at = self.now + (self.draw.range(self.params.adapter.bgp_fact_ms) * 1e3) as u64;
            for egress in 0..self.topology.egresses.len() {
                if let Some(fact) = self.fact(key, egress) {
                    self.input_at(at, Input::Bgp(BgpSignal::Fact(fact)));
                }
            }
        }
    }

    fn neighbor_of(&self, egress: usize) -> NeighborId {
        NeighborId::session(self.topology.egresses[egress].gateways[0])
    }

    fn attributes(&self, host: &Host, egress: usize, at: u64) -> RouteAttributes {
        RouteAttributes {
            prefix: self.topology.prefixes[host.prefix],
            as_path: host.paths[egress].clone(),
            next_hop: self.topology.egresses[egress].gateways[0],
            received_at: stamp(at),
            validation: None,
        }
    }

    fn fact(&self, key: PeerKey, egress: usize) -> Option<RouteFact> {
        let host = match end_of(&self.topology, &self.by_address, key.0)? {
            End::Anchor(host) | End::Peer(_, host) => host,
            End::Gateway { .. } => return None,
        };
        Some(RouteFact {
            peer: key,
            neighbor: self.neighbor_of(egress),
            egress: self.topology.egresses[egress].name.clone(),
            route: Some(self.attributes(host, egress, self.now)),
            stale: false,
        })
    }

    fn fib(&self, key: PeerKey) -> FibChange {
        let v6 = key.0.is_ipv6();
        let peer = self.by_address.get(&key).copied();
        let ours = peer.and_then(|peer| self.flows[peer].rerouted);
        let egress = ours.unwrap_or(0);
        let host = peer.map(|peer| &self.topology.peers[peer]);
        let of = &self.topology.egresses[egress];
        let wide = if v6 { "::/0" } else { "0.0.0.0/0" };
        let own = host
            .filter(|_| ours.is_some() || self.topology.fib_specific)
            .map(|host| self.topology.prefixes[host.prefix]);
        let prefix = own.or_else(|| wide.parse().ok());
        FibChange {
            peer: key,
            source: flow_source(v6),
            route: prefix.map(|prefix| FibRoute {
                prefix,
                table: 254,
                metric: if ours.is_some() { 50 } else { 100 },
                // RTPROT_STATIC, or RTPROT_BIRD where BGP's routes are installed.
                protocol: match (ours, own) {
                    (Some(_), _) => 198,
                    (None, Some(_)) => 12,
                    (None, None) => 4,
                },
                interface: of.interface.clone(),
                gateway: of.gateways.iter().find(|g| g.is_ipv6() == v6).copied(),
                egress: Some(of.name.clone()),
                ours: ours.is_some(),
            }),
        }
    }

    fn reaches(&self, peer: usize, egress: usize, at: u64) -> bool {
        let host = &self.topology.peers[peer];
        let end = End::Peer(peer, host);
        let inbound = self.topology.inbound;
        !dies_out(&self.cuts, at, egress, &end) && !dies_back(&self.cuts, at, inbound, true, &end)
    }

    /// A fault beyond the upstreams takes it, by whichever egress: on the way there or back.
    fn gone(&self, peer: usize) -> bool {
        let cuts: Vec<Cut> = self.cuts.iter().copied().filter(is_remote).collect();
        let end = End::Peer(peer, &self.topology.peers[peer]);
        dies_back(&cuts, self.now, self.topology.inbound, true, &end)
            || (0..self.topology.egresses.len()).all(|e| dies_out(&cuts, self.now, e, &end))
    }

    fn install(&mut self, plan: Plan) {
        let now = self.now;
        let near: Vec<Cut> = self
            .cuts
            .iter()
            .copied()
            .filter(|c| !is_remote(c))
            .collect();
        let mut seen = Installation {
            at: now,
            plan: plan.id,
            routes: plan
                .routes
                .iter()
                .map(|r| format!("{} via {}", r.prefix, r.egress))
                .collect(),
            moved: Default::default(),
        };
        for peer in 0..self.flows.len() {
            let address = self.topology.peers[peer].address;
            let Some(route) = plan.routes.iter().find(|r| r.prefix.contains(&address)) else {
                continue;
            };
            let Some(egress) = self.egress_number(&route.egress) else {
                continue;
            };
            let old = self.way(peer);
            let dead = DEAD_JUST_NOW
                .iter()
                .any(|ago| !self.reaches(peer, old, now - ago));
            let helped = ALIVE_JUST_NOW
                .iter()
                .any(|ago| self.reaches(peer, egress, now - ago));
            let moved = &mut seen.moved[usize::from(address.is_ipv6())];
            if !helped && self.gone(peer) {
                let tried = self.seen.tried[peer].is_some_and(|at| at + TIME_TO_SHOW <= now);
                let end = End::Peer(peer, &self.topology.peers[peer]);
                moved.gone += 1;
                // Whoever leaves a broken egress is right to.
                moved.excused += usize::from(!tried || dies_out(&near, now, old, &end));
                continue;
            }
            moved.covered += 1;
            moved.dead += usize::from(dead);
            moved.helped += usize::from(helped);
            moved.saved += usize::from(dead && helped);
        }
        self.seen.installed.push(seen);
        let takes = (self.draw.range(self.params.adapter.install_ms) * 1e3) as u64;
        self.at(now + takes, Happening::Installed(plan.id, plan.routes));
    }

    pub(crate) fn installed(&mut self, plan: PlanId, routes: Vec<RouteSpec>) {
        self.plans.insert(plan, routes.clone());
        self.reroute(&routes);
        self.tell(Input::Outcome(Outcome::Installed { plan }), true);
    }

    pub(crate) fn reverted(&mut self, plan: PlanId, reason: RevertReason) {
        let routes = self.plans.remove(&plan).unwrap_or_default();
        self.reroute(&routes);
        self.tell(Input::Outcome(Outcome::Reverted { plan, reason }), true);
    }

    /// Packets that leave from now on go by the routes in force.
    fn reroute(&mut self, touched: &[RouteSpec]) {
        for peer in 0..self.flows.len() {
            let address = self.topology.peers[peer].address;
            if !touched.iter().any(|r| r.prefix.contains(&address)) {
                continue;
            }
            let route = self
                .plans
                .values()
                .flatten()
                .filter(|r| r.prefix.contains(&address))
                .max_by_key(|r| r.prefix.prefix_len());
            let egress = route.and_then(|r| self.egress_number(&r.egress));
            self.flows[peer].rerouted = egress;
            let at = self.now + (self.draw.range(self.params.adapter.fib_ms) * 1e3) as u64;
            let change = self.fib(PeerKey(address));
            self.input_at(at, Input::Fib(change));
        }
    }

    /// BGP sessions, and what becomes of them and of their routes when something breaks.
    pub(crate) fn sessions(&mut self, start: u64) {
        if self.feed == FeedKind::None {
            return;
        }
        for egress in 0..self.topology.egresses.len() {
            let of = &self.topology.egresses[egress];
            let (name, asn) = (of.name.clone(), of.upstream);
            let neighbor = self.neighbor_of(egress);
            let up = BgpSignal::SessionUp {
                neighbor,
                asn,
                egress: name.clone(),
            };
            self.input_at(start, Input::Bgp(up));
            for v6 in [false, true] {
                if self.topology.families[usize::from(v6)] {
                    let end = BgpSignal::EndOfRib { neighbor, ipv6: v6 };
                    self.input_at(start + 1_000, Input::Bgp(end));
                }
            }
            if self.feed == FeedKind::Stale {
                self.session_down(start + 3_000_000, egress);
            }
        }
        if self.feed == FeedKind::Stale {
            return;
        }
        for (egress, from, until) in self.benign.flaps.clone() {
            self.session_down(from, egress);
            let of = &self.topology.egresses[egress];
            let (name, asn) = (of.name.clone(), of.upstream);
            let up = BgpSignal::SessionUp {
                neighbor: self.neighbor_of(egress),
                asn,
                egress: name,
            };
            self.input_at(until, Input::Bgp(up));
            for key in self.addresses() {
                if let Some(fact) = self.fact(key, egress) {
                    self.input_at(until + 50_000, Input::Bgp(BgpSignal::Fact(fact)));
                }
            }
        }
        for fault in self.faults.clone() {
            if fault.kind == Kind::Carrier {
                let at = fault.from + (self.draw.log_range([50.0, 1_000.0]) * 1e3) as u64;
                self.session_down(at, fault.egress);
            }
            for cut in &fault.cuts {
                for egress in 0..self.topology.egresses.len() {
                    self.withdraw(cut.scope, egress, fault.from, fault.until);
                }
            }
        }
    }

    fn session_down(&mut self, at: u64, egress: usize) {
        let text = "the connection was lost".to_owned();
        let down = BgpSignal::SessionDown {
            neighbor: self.neighbor_of(egress),
            egress: self.topology.egresses[egress].name.clone(),
            reason: SessionDownReason::ConnectionLost { text },
        };
        self.input_at(at, Input::Bgp(down));
    }

    fn addresses(&self) -> Vec<PeerKey> {
        let hosts = self.topology.peers.iter().chain(&self.topology.anchors);
        hosts.map(|host| PeerKey(host.address)).collect()
    }

    /// The hosts of each prefix whose route at an egress's neighbour a cut takes.
    fn touched(&self, scope: Scope, egress: usize) -> Vec<(usize, Vec<PeerKey>)> {
        let mut by_prefix: std::collections::BTreeMap<usize, Vec<PeerKey>> =
            std::collections::BTreeMap::new();
        for host in self.topology.peers.iter().chain(&self.topology.anchors) {
            let path = &host.paths[egress];
            let gone = match scope {
                Scope::As(asn) => path.contains(&asn),
                Scope::Edge(near, far) => path.windows(2).any(|p| *p == [near, far]),
                Scope::Prefix(prefix) => host.prefix == prefix,
                Scope::Beyond(e) => e == egress,
                Scope::Link(_) | Scope::Gateway(_) | Scope::Peer(_) | Scope::Inbound => false,
            };
            if gone {
                let key = PeerKey(host.address);
                by_prefix.entry(host.prefix).or_default().push(key);
            }
        }
        by_prefix.into_iter().collect()
    }

    fn withdraw(&mut self, scope: Scope, egress: usize, from: u64, until: u64) {
        let base = from + (self.feed_delay as f64 * self.draw.range([0.8, 1.3])) as u64;
        if base >= until {
            return;
        }
        for (prefix, keys) in self.touched(scope, egress) {
            let at = base + self.draw.below(300_000) as u64;
            self.change(at, prefix, egress, &keys, None);
            if at <= self.span.end {
                self.seen.bgp_told.push(at);
            }
            if until != FOREVER {
                let back = until + self.feed_delay;
                let usual = self.usual(prefix, egress, back);
                self.change(back, prefix, egress, &keys, usual);
            }
        }
    }

    fn host_in(&self, prefix: usize) -> Option<&Host> {
        let mut hosts = self.topology.peers.iter().chain(&self.topology.anchors);
        hosts.find(|host| host.prefix == prefix)
    }

    fn usual(&self, prefix: usize, egress: usize, at: u64) -> Option<RouteAttributes> {
        Some(self.attributes(self.host_in(prefix)?, egress, at))
    }

    /// A route changes; a change back to the usual one has that as its new route.
    fn change(
        &mut self,
        at: u64,
        prefix: usize,
        egress: usize,
        keys: &[PeerKey],
        new: Option<RouteAttributes>,
    ) {
        let usual = self.usual(prefix, egress, at);
        let back = new.as_ref().map(|n| &n.as_path) == usual.as_ref().map(|u| &u.as_path);
        let neighbor = self.neighbor_of(egress);
        let name = self.topology.egresses[egress].name.clone();
        let change = RouteChange {
            neighbor,
            egress: name.clone(),
            prefix: self.topology.prefixes[prefix],
            old: if back { None } else { usual },
            new: new.clone(),
            peers: keys.to_vec(),
        };
        self.input_at(at, Input::Bgp(BgpSignal::Change(change)));
        for key in keys {
            let fact = RouteFact {
                peer: *key,
                neighbor,
                egress: name.clone(),
                route: new.clone(),
                stale: false,
            };
            self.input_at(at, Input::Bgp(BgpSignal::Fact(fact)));
        }
    }

    /// Changes that mean nothing: packets go on as before.
    pub(crate) fn noise(&mut self) {
        if matches!(self.feed, FeedKind::None | FeedKind::Stale) {
            return;
        }
        for noise in self.benign.noise.clone() {
            let keys: Vec<PeerKey> = self
                .topology
                .peers
                .iter()
                .chain(&self.topology.anchors)
                .filter(|host| host.prefix == noise.prefix)
                .map(|host| PeerKey(host.address))
                .collect();
            if keys.is_empty() {
                continue;
            }
            let other = self
                .usual(noise.prefix, noise.egress, noise.at)
                .filter(|_| !noise.withdrawn)
                .map(|mut usual| {
                    usual.as_path.insert(1, Asn(65_900));
                    usual
                });
            self.change(noise.at, noise.prefix, noise.egress, &keys, other);
            let usual = self.usual(noise.prefix, noise.egress, noise.back);
            self.change(noise.back, noise.prefix, noise.egress, &keys, usual);
        }
    }
}

/// The cut lies beyond the upstreams.
fn is_remote(cut: &Cut) -> bool {
    matches!(
        cut.scope,
        Scope::As(_) | Scope::Edge(..) | Scope::Prefix(_) | Scope::Peer(_)
    )
}
