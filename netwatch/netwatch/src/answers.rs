//! What the daemon answers on its socket and on `/metrics`.

use std::collections::BTreeMap;
use std::time::Duration;

use api::{
    AddressFamily, Call, EgressInfo, ErrorCode, IncidentsReply, NeighborInfo, NotificationInfo,
    PageAttempt, PageTestReply, PeerInfo, PeersReply, PlanInfo, RecordingInfo, RefreshReply, Reply,
    Request, RibReply, RollbackReply, RoutesReply, SessionInfo, StatusReply, TargetInfo,
    VersionReply,
};
use events::{
    BgpSignal, EgressName, FibRoute, HostSignal, Incident, IncidentState, Input, NeighborId,
    OperatorCommand, PeerKey, PlanMode, ProbeOutcome, RibQuery, RouteAttributes, Timestamp,
};
use remediation::{RemediationStatus, Stage};
use tokio::sync::oneshot;

use crate::daemon::Daemon;
use crate::{metrics, rib, wiring};

const NO_SPEAKER: &str = "no BGP speaker is configured: add [bgp] to the configuration";

/// Facts that the engine was told, for people.
#[derive(Debug, Default)]
pub struct View {
    routes: BTreeMap<PeerKey, BTreeMap<EgressName, RouteAttributes>>,
    fib: BTreeMap<PeerKey, FibRoute>,
    carrier: BTreeMap<EgressName, bool>,
}

impl View {
    /// Takes note of an input on its way to the engine.
    pub fn note(&mut self, input: &Input) {
        match input {
            Input::Bgp(BgpSignal::Fact(fact)) => {
                let routes = self.routes.entry(fact.peer).or_default();
                match &fact.route {
                    Some(route) => drop(routes.insert(fact.egress.clone(), route.clone())),
                    None => drop(routes.remove(&fact.egress)),
                }
            }
            Input::Fib(change) => match &change.route {
                Some(route) => drop(self.fib.insert(change.peer, route.clone())),
                None => drop(self.fib.remove(&change.peer)),
            },
            Input::Host(HostSignal::Carrier { egress, up }) => {
                self.carrier.insert(egress.clone(), *up);
            }
            _ => {}
        }
    }

    /// Forgets peers that the engine no longer watches.
    pub fn keep(&mut self, watched: &[(PeerKey, Option<std::net::IpAddr>)]) {
        let watched: std::collections::BTreeSet<PeerKey> =
            watched.iter().map(|(peer, _)| *peer).collect();
        self.routes.retain(|peer, _| watched.contains(peer));
        self.fib.retain(|peer, _| watched.contains(peer));
    }
}

impl Daemon {
    /// Answers at once what the engine knows; what others know is fetched by a task of its own.
    pub(crate) fn answer(&mut self, call: Call) {
        let Call { request, reply } = call;
        match request {
            Request::Status => self.status(reply),
            Request::Peers => send(
                reply,
                Reply::Peers(PeersReply {
                    peers: self.peers(),
                }),
            ),
            Request::Incidents => {
                send(
                    reply,
                    Reply::Incidents(IncidentsReply {
                        incidents: self.incidents(),
                    }),
                );
            }
            Request::Routes => send(reply, Reply::Routes(self.routes_reply())),
            Request::Rollback { plan } => {
                let plans: Vec<_> = self
                    .plans()
                    .into_iter()
                    .map(|info| info.plan.id)
                    .filter(|id| plan.is_none_or(|plan| plan == *id))
                    .collect();
                if let Some(plan) = plan.filter(|_| plans.is_empty()) {
                    let message = format!(
                        "no routes of plan {} are installed; see `netwatch failover status`",
                        plan.0
                    );
                    send(reply, Reply::error(ErrorCode::Failed, message));
                } else {
                    self.handle(Input::Operator(OperatorCommand::Rollback { plan }));
                    send(reply, Reply::Rollback(RollbackReply { plans }));
                }
            }
            Request::BgpRib {
                query,
                at,
                neighbor,
                limit,
                after,
            } => {
                let page = rib::Page {
                    at,
                    neighbor,
                    limit,
                    after,
                };
                self.rib(query, page, reply);
            }
            Request::BgpNeighbors => {
                let bgp = self.bgp.clone();
                self.adapters.spawn(async move {
                    let answer = crate::bgp_stations::reply(bgp.as_deref()).await;
                    send(reply, Reply::BgpNeighbors(answer));
                });
            }
            Request::BgpRefresh { neighbor, family } => self.refresh(neighbor, family, reply),
            Request::PageTest => self.page_test(reply),
            Request::Subscribe | Request::Version => {
                send(reply, Reply::Version(VersionReply { version: version() }));
            }
        }
    }

    fn status(&self, reply: oneshot::Sender<Reply>) {
        let remediation = self.engine.remediator().status();
        let mut status = StatusReply {
            version: version(),
            host: wiring::host_name(&self.config),
            pid: std::process::id(),
            uptime: clock::now().since(self.started),
            now: clock::now(),
            mode: remediation.mode,
            kill_switch: remediation.kill_switch,
            probes: Vec::new(),
            kernel: api::KernelInfo::default(),
            counters: self.counters(),
            peers: self.peers(),
            incidents: self.incidents(),
            egresses: self.egresses(),
            neighbors: Vec::new(),
            plans: self.plans(),
            recordings: self.recordings(),
        };
        let (collector, error) = (self.collector.clone(), self.collector_error.clone());
        let (bgp, prober) = (self.bgp.clone(), self.prober.clone());
        self.adapters.spawn(async move {
            let kernel = tokio::task::spawn_blocking(move || {
                crate::kernel::info(collector.as_deref(), error)
            });
            if let Some(bgp) = bgp.as_deref() {
                status.neighbors = neighbors(bgp).await;
            }
            status.kernel = kernel.await.unwrap_or_else(|error| api::KernelInfo {
                off: Some(error.to_string()),
                ..api::KernelInfo::default()
            });
            status.probes = crate::kernel::lines(&status.kernel);
            metrics::count_kernel(&status.kernel, &mut status.counters);
            if let Some(prober) = prober {
                targets(&prober, &mut status.egresses).await;
            }
            if let Some(bgp) = bgp.as_deref() {
                rib::count(bgp, &mut status.counters).await;
            }
            for info in &status.neighbors {
                let labels = metrics::labels([
                    ("neighbor", info.neighbor.to_string().as_str()),
                    ("egress", &info.egress.0),
                ]);
                let up = u64::from(info.state == "Established");
                status
                    .counters
                    .insert(format!("netwatch_bgp_session_up{labels}"), up);
                let routes = info.ipv4_routes + info.ipv6_routes;
                status
                    .counters
                    .insert(format!("netwatch_bgp_routes{labels}"), routes);
            }
            send(reply, Reply::Status(Box::new(status)));
        });
    }

    fn recordings(&self) -> Vec<RecordingInfo> {
        let recorder = self.recorder.iter();
        recorder
            .flat_map(recorder::Recorder::recordings)
            .map(|info| RecordingInfo {
                incident: info.incident,
                path: info.path,
                bytes: info.bytes,
                open: info.open,
            })
            .collect()
    }

    fn rib(&self, query: Option<RibQuery>, page: rib::Page, reply: oneshot::Sender<Reply>) {
        let Some(bgp) = self.bgp.clone() else {
            return send(reply, Reply::error(ErrorCode::Unavailable, NO_SPEAKER));
        };
        self.adapters.spawn(async move {
            let found = match query {
                Some(query) => rib::answer(&bgp, query, page).await,
                None => RibReply {
                    neighbors: neighbors(&bgp).await,
                    ..RibReply::default()
                },
            };
            send(reply, Reply::BgpRib(found));
        });
    }

    fn refresh(
        &self,
        neighbor: NeighborId,
        family: Option<AddressFamily>,
        reply: oneshot::Sender<Reply>,
    ) {
        let Some(bgp) = self.bgp.clone() else {
            return send(reply, Reply::error(ErrorCode::Unavailable, NO_SPEAKER));
        };
        self.adapters.spawn(async move {
            let answer = match bgp.refresh(neighbor, rib::families(family)).await {
                Ok(asked) => Reply::BgpRefresh(RefreshReply {
                    asked: rib::names(asked),
                }),
                Err(why) => Reply::error(ErrorCode::Failed, format!("{neighbor}: {why}")),
            };
            send(reply, answer);
        });
    }

    fn page_test(&self, reply: oneshot::Sender<Reply>) {
        let Some(pager) = self.pager.clone() else {
            let message = "no pager is configured: add [pager] to the configuration";
            return send(reply, Reply::error(ErrorCode::Unavailable, message));
        };
        self.adapters.spawn(async move {
            let answer = match pager.test().await {
                Ok(report) => Reply::PageTest(page_test_reply(report)),
                Err(error) => Reply::error(ErrorCode::Failed, error.to_string()),
            };
            send(reply, answer);
        });
    }

    fn routes_reply(&self) -> RoutesReply {
        let view = self.engine.remediator().status();
        RoutesReply {
            mode: view.mode,
            kill_switch: view.kill_switch,
            maintenance: view.maintenance.clone(),
            plans: self.plans(),
            refusals: view
                .cases
                .iter()
                .filter_map(|case| match &case.status {
                    Some(RemediationStatus::Refused(why)) => {
                        Some(format!("{}: {why}", case.incident))
                    }
                    Some(status @ RemediationStatus::Planned(_)) => {
                        Some(format!("{}: {status}", case.incident))
                    }
                    _ => None,
                })
                .collect(),
        }
    }

    fn plans(&self) -> Vec<PlanInfo> {
        let now = clock::now();
        let view = self.engine.remediator().status();
        view.plans
            .into_iter()
            .map(|plan| {
                let since = match plan.stage {
                    Stage::Installing { since }
                    | Stage::Verifying { since }
                    | Stage::Verified { since } => since,
                    Stage::Reverting { asked, .. } => asked,
                };
                PlanInfo {
                    installed_for: now.since(since),
                    lease_left: (plan.renewed + plan.plan.lease).since(now),
                    verified: matches!(plan.stage, Stage::Verified { .. }),
                    plan: plan.plan,
                }
            })
            .collect()
    }

    /// The correlator's incidents, with what the planner knows of them; the newest first.
    pub(crate) fn incidents(&self) -> Vec<Incident> {
        let view = self.engine.remediator().status();
        let mut incidents = self.engine.correlator().incidents();
        for incident in &mut incidents {
            if let Some(plan) = view
                .plans
                .iter()
                .find(|plan| plan.plan.incident == incident.id)
            {
                incident.plan = Some(plan.plan.id);
                if incident.state == IncidentState::Confirmed && plan.plan.mode == PlanMode::Act {
                    incident.state = match plan.stage {
                        Stage::Verified { .. } => IncidentState::Mitigated,
                        _ => IncidentState::Verifying,
                    };
                }
            }
        }
        incidents.sort_by_key(|incident| std::cmp::Reverse(incident.suspected_at));
        incidents
    }

    fn peers(&self) -> Vec<PeerInfo> {
        self.engine
            .tracker()
            .peers(clock::now())
            .into_iter()
            .map(|status| self.peer(status))
            .collect()
    }

    fn peer(&self, status: tracker::PeerStatus) -> PeerInfo {
        let route = self.view.fib.get(&status.peer).cloned();
        let learned = self.view.routes.get(&status.peer).and_then(|routes| {
            route
                .as_ref()
                .and_then(|route| route.egress.as_ref())
                .and_then(|egress| routes.get(egress))
                .or_else(|| routes.values().next())
        });
        let r = status.retransmits;
        let f = status.connect_failures;
        let named = |pairs: [(&str, u64); 6]| {
            pairs
                .into_iter()
                .map(|(name, count)| (name.to_owned(), count))
                .collect()
        };
        PeerInfo {
            peer: status.peer,
            state: match status.state {
                tracker::PeerState::Down => api::PeerState::Down,
                tracker::PeerState::Opening => api::PeerState::Opening,
                tracker::PeerState::Up => api::PeerState::Up,
                tracker::PeerState::Overdue => api::PeerState::Overdue,
            },
            connections: status.connections,
            overdue: status.overdue,
            opening: status.opening,
            source: status.source,
            owner: status.owner,
            srtt: status.srtt,
            baseline: status.baseline,
            rtt_spike: status.rtt_spike,
            oldest_unacked: status.oldest_unacked,
            retransmits: named([
                ("tail_loss_probe", r.tail_loss_probe),
                ("timeout", r.timeout),
                ("fast", r.fast),
                ("syn", r.syn),
                ("syn_ack", r.syn_ack),
                ("other", r.other),
            ]),
            connect_failures: named([
                ("refused", f.refused),
                ("timed_out", f.timed_out),
                ("unreachable", f.unreachable),
                ("reset", f.reset),
                ("cancelled", f.cancelled),
                ("other", f.other),
            ]),
            prefix: learned.map(|route| route.prefix),
            as_path: learned
                .map(|route| route.as_path.clone())
                .unwrap_or_default(),
            route,
        }
    }

    fn egresses(&self) -> Vec<EgressInfo> {
        self.config
            .egress
            .iter()
            .map(|egress| {
                let name = EgressName(egress.name.clone());
                EgressInfo {
                    carrier: self.view.carrier.get(&name).copied(),
                    targets: Vec::new(),
                    interface: egress.interface.clone(),
                    name,
                }
            })
            .collect()
    }
}

/// A test's report, for people.
pub fn page_test_reply(report: paging::TestReport) -> PageTestReply {
    let attempts = report.attempts.into_iter().map(|attempt| PageAttempt {
        egress: attempt.egress,
        accepted: attempt.accepted,
        detail: format!(
            "{}: {}",
            match attempt.action {
                events::PageAction::Trigger => "trigger",
                events::PageAction::Resolve => "resolve",
            },
            attempt.error.as_deref().unwrap_or("accepted (202)"),
        ),
        took: Duration::from_secs_f64(attempt.elapsed_ms.max(0.0) / 1e3),
    });
    PageTestReply {
        attempts: attempts.collect(),
    }
}

/// Fills in what the prober knows of each path.
async fn targets(prober: &probing::Handle, egresses: &mut [EgressInfo]) {
    for path in prober.status().await {
        let Some(egress) = egresses
            .iter_mut()
            .find(|egress| egress.name == path.egress)
        else {
            continue;
        };
        egress.targets.push(TargetInfo {
            target: path.target,
            source: path.source,
            alive: path
                .last_outcome
                .map(|o| matches!(o, ProbeOutcome::Reply { .. })),
            rtt: path.rtt.map(|(smoothed, _)| smoothed),
            sent: path.sent,
            lost: u64::from(path.unanswered),
        });
    }
}

async fn neighbors(bgp: &bgp_feed::Handle) -> Vec<NeighborInfo> {
    let mut found = sessions(bgp).await;
    let (routers, ris) = (bgp.routers().await, bgp.ris().await);
    found.extend(crate::bgp_stations::tables(&routers, ris.as_ref()));
    found
}

/// Neighbours with sessions of ours.
pub(crate) async fn sessions(bgp: &bgp_feed::Handle) -> Vec<NeighborInfo> {
    let now = clock::now();
    bgp.neighbors()
        .await
        .into_iter()
        .map(|status| NeighborInfo {
            session: Some(Box::new(session(&status, now))),
            neighbor: events::NeighborId::session(status.address),
            asn: status.asn,
            egress: status.egress,
            state: format!("{:?}", status.state),
            since: Some(now.since(status.since)),
            ipv4_routes: count(status.ipv4_prefixes),
            ipv6_routes: count(status.ipv6_prefixes),
            stale: status.stale,
            partial: status.partial,
            last_error: status.last_error,
        })
        .collect()
}

fn session(status: &bgp_feed::NeighborStatus, now: Timestamp) -> SessionInfo {
    let texts = |capabilities: &[bgp_feed::Capability]| {
        let texts = capabilities.iter().map(crate::bgp_text::capability_text);
        texts.collect()
    };
    let counters = status.counters;
    SessionInfo {
        dynamic: status.dynamic,
        passive: status.passive,
        hold_time: status.hold_time,
        local_capabilities: texts(&status.local_capabilities),
        peer_capabilities: texts(&status.peer_capabilities),
        complete: status.complete,
        restarting: status.restarting,
        max_prefixes: status.max_prefixes,
        near_max_prefixes: status.prefixes_warned,
        refused: status.refused.is_some(),
        refused_for: status.refused.flatten(),
        md5: status.md5,
        ttl_security: status.ttl_security,
        sessions: counters.sessions,
        updates: counters.updates,
        route_refreshes: counters.route_refreshes,
        attributes_discarded: counters.attributes_discarded,
        treated_as_withdraw: counters.treated_as_withdraw,
        session_resets: counters.session_resets,
        last_notification: status
            .last_notification
            .as_ref()
            .map(|said| NotificationInfo {
                sent: said.sent,
                code: said.code,
                subcode: said.subcode,
                name: bgp_core::error_name(said.code, said.subcode),
                text: said.text.clone(),
                ago: Some(now.since(said.at)),
            }),
    }
}

/// Where the asker is gone, so is the interest in the answer.
fn send(to: oneshot::Sender<Reply>, reply: Reply) {
    let _ = to.send(reply);
}

pub(crate) fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
