//! A validator with uplinks `a` (primary) and `b`, peers in three prefixes of two origins per family.
#![allow(dead_code)]

use std::net::IpAddr;
use std::time::Duration;

use events::{
    AliveSign, Asn, BgpSignal, BgpSummary, Conclusion, ConnectionId, Effect, EntryKind,
    EvidenceSource, FibChange, FibRoute, Incident, IncidentId, IncidentState, NeighborId, Outcome,
    PeerKey, Plan, PlanId, PlanMode, Prefix, ProbeOutcome, ProbeResult, ProbeSource, ProbeTarget,
    RevertReason, RouteAttributes, RouteFact, Signal, SignalKind, Timestamp, Verdict,
};
use remediation::{Anchor, Egress, Output, Policy, RemediationStatus, Remediator};

pub const SOURCE: &str = "198.51.100.10";
pub const SOURCE6: &str = "2001:db8:1::10";
/// Address, covering prefix, origin.
pub const PEERS: [(&str, &str, u32); 6] = [
    ("203.0.113.7", "203.0.113.0/24", 64601),
    ("203.0.113.9", "203.0.113.0/24", 64601),
    ("198.18.7.1", "198.18.0.0/20", 64601),
    ("198.19.1.1", "198.19.0.0/16", 64602),
    ("2001:db8:5::7", "2001:db8:5::/48", 64601),
    ("2001:db8:6::7", "2001:db8:6::/48", 64602),
];
pub const ANCHORS: [(&str, u32); 4] = [
    ("192.88.99.1", 64700),
    ("192.88.98.1", 64701),
    ("2001:db8:99::1", 64700),
    ("2001:db8:98::1", 64701),
];
pub const ONSET: u64 = 10_000;

pub fn ms(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub fn peer(index: usize) -> PeerKey {
    PeerKey(ip(PEERS[index].0))
}

pub fn policy() -> Policy {
    Policy {
        mode: PlanMode::Act,
        allowed: ["203.0.113.0/24", "198.18.0.0/15", "2001:db8::/32"]
            .map(prefix)
            .to_vec(),
        protected: vec![prefix("192.0.2.0/24")],
        flow_sources: vec![ip(SOURCE), ip(SOURCE6)],
        egresses: vec![
            egress("a", "192.0.2.1", "2001:db8:a::1"),
            egress("b", "192.0.3.1", "2001:db8:b::1"),
        ],
        anchors: ANCHORS
            .map(|(address, asn)| Anchor {
                address: ip(address),
                asn: Some(Asn(asn)),
            })
            .to_vec(),
        ..Policy::default()
    }
}

fn egress(name: &str, v4: &str, v6: &str) -> Egress {
    Egress {
        name: name.into(),
        interface: format!("wan-{name}"),
        gateways: vec![ip(v4), ip(v6)],
    }
}

pub fn upstream() -> Verdict {
    Verdict::UpstreamAs {
        egress: "a".into(),
        asn: Some(Asn(64500)),
    }
}

pub struct World {
    pub remediator: Remediator,
    pub now: u64,
    pub out: Vec<Output>,
}

impl World {
    /// Every peer's packets leave by `a`'s default route; BGP knows the covering prefixes.
    pub fn new(policy: Policy) -> Self {
        let mut world = Self::bare(policy);
        for (index, (address, ..)) in PEERS.iter().enumerate() {
            world.fib(index, default_entry(address));
            world.bgp(index, "b");
        }
        world
    }

    pub fn bare(policy: Policy) -> Self {
        Self {
            remediator: Remediator::new(policy),
            now: ONSET - 5_000,
            out: Vec::new(),
        }
    }

    /// Goes on to a time, calling timeouts when they are due.
    pub fn at(&mut self, millis: u64) -> &mut Self {
        let mut calls = 0;
        while let Some(due) = self.remediator.next_timeout() {
            if due > ms(millis) {
                break;
            }
            self.remediator.handle_timeout(due, &mut self.out);
            calls += 1;
            assert!(calls < 10_000, "timeouts without end");
        }
        self.now = millis;
        self
    }

    pub fn fib(&mut self, index: usize, route: Option<FibRoute>) {
        let peer = peer(index);
        let change = FibChange {
            peer,
            source: ip(if peer.0.is_ipv6() { SOURCE6 } else { SOURCE }),
            route,
        };
        self.remediator.fib(ms(self.now), &change, &mut self.out);
    }

    pub fn bgp(&mut self, index: usize, egress: &str) {
        let (_, covering, origin) = PEERS[index];
        let fact = RouteFact {
            peer: peer(index),
            neighbor: NeighborId::session(ip("192.0.3.1")),
            egress: egress.into(),
            route: Some(RouteAttributes {
                prefix: prefix(covering),
                as_path: vec![Asn(64500), Asn(origin)],
                next_hop: ip("192.0.3.1"),
                received_at: ms(self.now),
                validation: None,
            }),
            stale: false,
        };
        self.remediator
            .bgp(ms(self.now), &BgpSignal::Fact(fact), &mut self.out);
    }

    /// A probe that left now.
    pub fn probe(&mut self, egress: &str, target: &str, source: ProbeSource, ok: bool) {
        let address = ip(target);
        let link = match (egress, address.is_ipv6()) {
            ("a", false) => "192.0.2.2",
            ("a", true) => "2001:db8:a::2",
            (_, false) => "192.0.3.2",
            (_, true) => "2001:db8:b::2",
        };
        let flow = if address.is_ipv6() { SOURCE6 } else { SOURCE };
        let result = ProbeResult {
            sent_at: ms(self.now),
            egress: egress.into(),
            target: if ANCHORS.iter().any(|(a, _)| *a == target) {
                ProbeTarget::Anchor(address)
            } else if target.ends_with(".1") && target.starts_with("192.0.")
                || target.starts_with("2001:db8:b::")
            {
                ProbeTarget::Gateway(address)
            } else {
                ProbeTarget::Suspect(address)
            },
            source,
            source_address: ip(match source {
                ProbeSource::Link => link,
                ProbeSource::Flow => flow,
            }),
            outcome: if ok {
                ProbeOutcome::Reply {
                    rtt: Duration::from_millis(5),
                }
            } else {
                ProbeOutcome::Lost
            },
        };
        self.remediator.probe(ms(self.now), &result, &mut self.out);
    }

    /// Every anchor answers the flows' source through `b`, or none does.
    pub fn anchors(&mut self, ok: bool) {
        for (anchor, _) in ANCHORS {
            self.probe("b", anchor, ProbeSource::Flow, ok);
        }
    }

    /// Anchors through `b` every 100 ms up to a time.
    pub fn run(&mut self, until: u64, ok: bool) {
        while self.now < until {
            let next = (self.now + 100).min(until);
            self.at(next);
            self.anchors(ok);
        }
    }

    pub fn signal(&mut self, index: usize, connection: u64, kind: fn(ConnectionId) -> SignalKind) {
        let signal = Signal {
            at: ms(self.now),
            peer: peer(index),
            kind: kind(ConnectionId(connection)),
        };
        self.remediator.signal(ms(self.now), &signal, &mut self.out);
    }

    pub fn confirm(&mut self, id: &str, verdict: Verdict, affected: &[usize]) {
        let incident = incident(id, verdict, affected);
        let conclusion = Conclusion::Confirmed {
            incident,
            bgp: BgpSummary::default(),
        };
        self.remediator
            .conclusion(ms(self.now), &conclusion, &mut self.out);
    }

    pub fn heal(&mut self, id: &str) {
        let conclusion = Conclusion::Healed {
            incident: IncidentId(id.to_owned()),
            at: ms(self.now),
        };
        self.remediator
            .conclusion(ms(self.now), &conclusion, &mut self.out);
    }

    pub fn installed(&mut self, plan: u64) {
        let outcome = Outcome::Installed { plan: PlanId(plan) };
        self.remediator
            .outcome(ms(self.now), &outcome, &mut self.out);
    }

    pub fn reverted(&mut self, plan: u64, reason: RevertReason) {
        let outcome = Outcome::Reverted {
            plan: PlanId(plan),
            reason,
        };
        self.remediator
            .outcome(ms(self.now), &outcome, &mut self.out);
    }

    pub fn installs(&self) -> Vec<&Plan> {
        self.out
            .iter()
            .filter_map(|output| match output {
                Output::Effect(Effect::Install(plan)) => Some(plan),
                _ => None,
            })
            .collect()
    }

    pub fn reverts(&self) -> Vec<(u64, RevertReason)> {
        self.out
            .iter()
            .filter_map(|output| match output {
                Output::Effect(Effect::Revert { plan, reason }) => Some((plan.0, *reason)),
                _ => None,
            })
            .collect()
    }

    pub fn renewals(&self) -> usize {
        self.out
            .iter()
            .filter(|o| matches!(o, Output::Effect(Effect::RenewLease { .. })))
            .count()
    }

    pub fn probes_asked(&self) -> usize {
        self.out
            .iter()
            .filter(|o| matches!(o, Output::Effect(Effect::Probe(_))))
            .count()
    }

    pub fn statuses(&self) -> Vec<RemediationStatus> {
        self.out
            .iter()
            .filter_map(|output| match output {
                Output::Status { status, .. } => Some(status.clone()),
                _ => None,
            })
            .collect()
    }

    pub fn last_status(&self) -> String {
        self.statuses()
            .last()
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    pub fn journal(&self) -> Vec<&EntryKind> {
        self.out
            .iter()
            .filter_map(|output| match output {
                Output::Journal(entry) => Some(&entry.kind),
                _ => None,
            })
            .collect()
    }

    /// Prefix and metric of the newest plan's routes.
    pub fn routes(&self) -> Vec<(String, u32)> {
        self.installs()
            .last()
            .map(|plan| {
                plan.routes
                    .iter()
                    .map(|route| (route.prefix.to_string(), route.metric))
                    .collect()
            })
            .unwrap_or_default()
    }
}

pub fn incident(id: &str, verdict: Verdict, affected: &[usize]) -> Incident {
    Incident {
        id: IncidentId(id.to_owned()),
        state: IncidentState::Confirmed,
        onset: ms(ONSET),
        suspected_at: ms(ONSET + 100),
        confirmed_at: Some(ms(ONSET + 150)),
        resolved_at: None,
        verdict: Some(verdict),
        first_evidence: EvidenceSource::Tcp,
        evidence: Vec::new(),
        affected: affected.iter().map(|index| peer(*index)).collect(),
        prefixes: Vec::new(),
        bgp: BgpSummary::default(),
        plan: None,
        time_to_verdict: None,
        dark_by: None,
        cause: None,
        related: Vec::new(),
    }
}

pub fn default_entry(peer: &str) -> Option<FibRoute> {
    if peer.contains(':') {
        entry("::/0", 1024)
    } else {
        entry("0.0.0.0/0", 100)
    }
}

/// An entry through `a`.
pub fn entry(held: &str, metric: u32) -> Option<FibRoute> {
    Some(FibRoute {
        prefix: prefix(held),
        table: 254,
        metric,
        protocol: 3,
        interface: "wan-a".to_owned(),
        gateway: None,
        egress: Some("a".into()),
        ours: false,
    })
}

pub fn overdue(connection: ConnectionId) -> SignalKind {
    SignalKind::AckOverdue {
        connection,
        since: ms(ONSET),
        limit: Duration::from_millis(80),
    }
}

pub fn transmitted(connection: ConnectionId) -> SignalKind {
    SignalKind::Transmitted { connection }
}

pub fn acknowledged(connection: ConnectionId) -> SignalKind {
    SignalKind::Alive {
        connection,
        sign: AliveSign::Acknowledged,
    }
}
