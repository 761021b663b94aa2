//! The task: commands, leases, and routes that are kept as they should be.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use events::{
    FibChange, FibRoute, Outcome, PeerKey, Plan, PlanId, PlanMode, RevertReason, RouteSpec,
    Timestamp,
};
use futures_util::future::join_all;
use nix::fcntl::Flock;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::{Command, InstallError, Report, Settings};
use crate::kernel::{Kernel, words};
use crate::lease::{Lease, LeaseFile, LeaseFileError};
use crate::rp_filter::{StrictRpFilter, strict_rp_filter};
use crate::watchdog::{daemon_lock, spawn_watchdog, watchdog_running};

/// Flows watched; more are refused, with a warning.
const MAX_WATCHED: usize = 4096;
/// Changes of routes come in bursts: wait for the rest of one.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often leases are looked at, while there are any.
const INTERVAL: Duration = Duration::from_millis(250);
/// How often routes are looked at without a notification. Every change is notified, and a queue of
/// notifications that overflows counts as one: this is for what nobody thought of.
const RESCAN: Duration = Duration::from_secs(30);
/// The patience with the program that permits.
const PERMIT: Duration = Duration::from_millis(500);
/// Look-ups in flight at once.
const LOOKUPS: usize = 64;

pub(super) struct Owned {
    plan: Plan,
    expires_at: Timestamp,
    restored: u32,
}

pub(super) struct Executor {
    pub(super) settings: Settings,
    pub(super) kernel: Kernel,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) plans: BTreeMap<PlanId, Owned>,
    /// What was last reported; `None`: nothing yet.
    pub(super) watched: BTreeMap<(PeerKey, IpAddr), Option<Option<FibRoute>>>,
    pub(super) _lock: Flock<std::fs::File>,
}

impl Executor {
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Command>, changed: Arc<Notify>) {
        let mut leases_at = Instant::now() + INTERVAL;
        let mut rescan_at = Instant::now() + RESCAN;
        // When a scan is due, and the earliest that the next may be: a churning table must not
        // cost more than a tenth of a core.
        let mut scan_at: Option<Instant> = None;
        let mut not_before = Instant::now();
        loop {
            tokio::select! {
                biased;
                command = queue.recv() => match command {
                    Some(Command::Close(done)) => {
                        self.close().await;
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => {
                        if matches!(command, Command::Watch(_)) {
                            scan_at = Some(Instant::now());
                        }
                        self.command(command).await;
                    }
                    None => {
                        self.close().await;
                        return;
                    }
                },
                () = changed.notified() => {
                    let wanted = (Instant::now() + DEBOUNCE).max(not_before);
                    scan_at = Some(scan_at.map_or(wanted, |at| at.min(wanted)));
                }
                () = tokio::time::sleep_until(scan_at.unwrap_or_else(far)), if scan_at.is_some() => {
                    scan_at = None;
                    let started = Instant::now();
                    self.restore().await;
                    if !self.scan().await {
                        scan_at = Some(Instant::now() + INTERVAL);
                    }
                    not_before = Instant::now() + started.elapsed() * 10;
                }
                () = tokio::time::sleep_until(leases_at), if !self.plans.is_empty() => {
                    leases_at = Instant::now() + INTERVAL;
                    self.revive();
                    self.expire(clock::now()).await;
                }
                () = tokio::time::sleep_until(rescan_at) => {
                    rescan_at = Instant::now() + RESCAN;
                    self.revive();
                    scan_at.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    /// Opens the netlink socket again if the one there was is no longer served.
    fn revive(&mut self) {
        if !self.kernel.alive() {
            match Kernel::open(self.settings.protocol) {
                Ok(kernel) => self.kernel = kernel,
                Err(e) => tracing::error!(error = %e, "netlink socket"),
            }
        }
    }

    async fn command(&mut self, command: Command) {
        self.revive();
        match command {
            Command::Install(plan, reply) => {
                let id = plan.id;
                let result = self.install(*plan).await;
                let outcome = match &result {
                    Ok(()) => Outcome::Installed { plan: id },
                    Err(e) => {
                        tracing::warn!(plan = id.0, error = %e, "plan not installed");
                        Outcome::InstallFailed {
                            plan: id,
                            error: e.to_string(),
                        }
                    }
                };
                self.report(outcome).await;
                let _ = reply.send(result);
            }
            Command::Revert(plan, reason, reply) => {
                if self.revert(plan, reason).await {
                    let _ = reply.send(());
                }
            }
            Command::Renew(plan, reply) => {
                let renewed = self.renew(plan).await;
                let _ = reply.send(renewed);
            }
            Command::Watch(flows) => {
                if flows.len() > MAX_WATCHED {
                    tracing::warn!(
                        flows = flows.len(),
                        limit = MAX_WATCHED,
                        "not all are watched"
                    );
                }
                let mut before = std::mem::take(&mut self.watched);
                self.watched = flows
                    .into_iter()
                    .take(MAX_WATCHED)
                    .map(|flow| (flow, before.remove(&flow).unwrap_or(None)))
                    .collect();
            }
            Command::Lookup(peer, source, reply) => {
                let route = self.kernel.lookup(peer, source).await;
                let _ = reply.send(route.map(|route| route.map(|route| self.named(route))));
            }
            Command::Owned(reply) => {
                let _ = reply.send(self.leases());
            }
            Command::Close(_) => {}
        }
    }

    async fn install(&mut self, plan: Plan) -> Result<(), InstallError> {
        if plan.mode == PlanMode::Shadow {
            return Err(InstallError::Shadow(plan.id));
        }
        if self.plans.contains_key(&plan.id) {
            return Ok(());
        }
        self.admit(&plan)?;
        if let Some(program) = &self.settings.permit {
            permitted(program, &plan)
                .await
                .map_err(|why| InstallError::NotPermitted {
                    program: program.clone(),
                    why,
                })?;
        }
        self.ensure_watchdog()?;
        let id = plan.id;
        let expires_at = clock::now() + plan.lease;
        let routes = plan.routes.clone();
        self.plans.insert(
            id,
            Owned {
                plan,
                expires_at,
                restored: 0,
            },
        );
        // The lease comes first: a route without one would outlive a crash between the two.
        let result = match self.write_leases() {
            Ok(()) => self.create(&routes).await,
            Err(e) => Err(e.into()),
        };
        if result.is_ok() {
            self.release_stuck(&routes).await;
        } else {
            self.plans.remove(&id);
            if let Err(e) = self.write_leases() {
                tracing::error!(error = %e, "lease file");
            }
        }
        result
    }

    /// What waits for the neighbours of the egresses that were left would keep its flows stuck.
    async fn release_stuck(&self, routes: &[RouteSpec]) {
        for egress in &self.settings.egresses {
            let used = routes.iter().any(|r| r.interface == egress.interface);
            if used {
                continue;
            }
            match self.kernel.release_unresolved(&egress.interface).await {
                Ok(0) => {}
                Ok(neighbours) => {
                    tracing::info!(egress = %egress.name, neighbours, "gave up unresolved neighbours");
                }
                // The interface may be gone, and its queues with it.
                Err(error) => {
                    tracing::debug!(egress = %egress.name, %error, "neighbours not released")
                }
            }
        }
    }

    /// The executor's own last look, whatever the planner thought.
    fn admit(&self, plan: &Plan) -> Result<(), InstallError> {
        if plan.routes.is_empty() {
            return Err(InstallError::Unsafe("no routes".to_owned()));
        }
        if let Some(route) = plan.routes.iter().find(|r| r.prefix.prefix_len() < 2) {
            return Err(InstallError::Unsafe(format!(
                "{} is a default",
                route.prefix
            )));
        }
        for route in plan.routes.iter().filter(|r| r.prefix.addr().is_ipv4()) {
            let others = self
                .settings
                .egresses
                .iter()
                .filter(|egress| egress.interface != route.interface);
            for egress in others {
                if strict_rp_filter(&egress.interface) {
                    return Err(StrictRpFilter {
                        interface: egress.interface.clone(),
                    }
                    .into());
                }
            }
        }
        Ok(())
    }

    fn ensure_watchdog(&self) -> Result<(), InstallError> {
        let dir = &self.settings.runtime_dir;
        let outcome = match &self.settings.watchdog {
            Some(command) => spawn_watchdog(dir, command).map(|()| true),
            None => watchdog_running(dir),
        };
        match outcome {
            Ok(true) => Ok(()),
            Ok(false) => Err(InstallError::Watchdog(format!(
                "none runs for {}: start `netwatch watchdog`",
                dir.display()
            ))),
            Err(e) => Err(InstallError::Watchdog(e.to_string())),
        }
    }

    /// Creates all routes at once and asks the kernel whether they win; else deletes those that it
    /// created, and no other.
    async fn create(&self, routes: &[RouteSpec]) -> Result<(), InstallError> {
        let results = join_all(routes.iter().map(|route| self.kernel.add(route))).await;
        let mut created = Vec::new();
        let mut failure = None;
        for (route, result) in routes.iter().zip(results) {
            match result {
                Ok(()) => created.push(route),
                Err(e) => {
                    failure.get_or_insert(InstallError::from(e));
                }
            }
        }
        if failure.is_none() {
            failure = join_all(routes.iter().map(|route| self.wins(route)))
                .await
                .into_iter()
                .find_map(Result::err);
        }
        let Some(failure) = failure else {
            return Ok(());
        };
        for route in created {
            if let Err(e) = self.kernel.delete(route).await {
                tracing::error!(error = %e, "roll back");
            }
        }
        Err(failure)
    }

    /// A flow from the route's source into its prefix now leaves by its interface.
    async fn wins(&self, route: &RouteSpec) -> Result<(), InstallError> {
        let peer = self
            .watched
            .keys()
            .map(|(peer, _)| peer.0)
            .find(|peer| route.prefix.contains(peer))
            .or_else(|| route.prefix.hosts().next())
            .unwrap_or(route.prefix.network());
        let found = self.kernel.lookup(peer, route.source).await?;
        match found {
            Some(found) if found.interface == route.interface => Ok(()),
            other => Err(InstallError::DoesNotWin {
                route: words(route),
                peer,
                flow_source: route.source,
                got: other.map_or("nowhere".to_owned(), |f| f.interface),
            }),
        }
    }

    /// Deletes a plan's routes; true when none of them is left. A plan that is not known counts as
    /// taken back.
    async fn revert(&mut self, id: PlanId, reason: RevertReason) -> bool {
        if let Some(owned) = self.plans.get(&id) {
            let mut failed = false;
            for route in &owned.plan.routes {
                if let Err(e) = self.kernel.delete(route).await {
                    tracing::error!(plan = id.0, error = %e, "route not deleted, to be tried again");
                    failed = true;
                }
            }
            if failed {
                // The lease stays: the watchdog deletes what we could not.
                return false;
            }
            self.plans.remove(&id);
            if let Err(e) = self.write_leases() {
                tracing::error!(error = %e, "lease file");
            }
        }
        self.report(Outcome::Reverted { plan: id, reason }).await;
        true
    }

    async fn renew(&mut self, id: PlanId) -> bool {
        let now = clock::now();
        self.expire(now).await;
        let Some(owned) = self.plans.get_mut(&id) else {
            return false;
        };
        owned.expires_at = now + owned.plan.lease;
        if let Err(e) = self
            .write_leases()
            .map_err(InstallError::from)
            .and(self.ensure_watchdog())
        {
            tracing::error!(error = %e, "lease not renewed");
            return false;
        }
        true
    }

    /// Takes back what was not renewed. The watchdog may have done so already, while this process
    /// stood still.
    async fn expire(&mut self, now: Timestamp) {
        let due: Vec<PlanId> = self
            .plans
            .iter()
            .filter(|(_, owned)| owned.expires_at <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.revert(id, RevertReason::LeaseExpired).await;
        }
    }

    /// Puts back routes of ours that another program removed, so often and no more.
    async fn restore(&mut self) {
        if self.plans.is_empty() {
            return;
        }
        self.expire(clock::now()).await;
        let present = match self.kernel.ours().await {
            Ok(present) => present,
            Err(e) => {
                tracing::warn!(error = %e, "cannot see our own routes");
                return;
            }
        };
        let mut outcomes = Vec::new();
        for (id, owned) in &mut self.plans {
            let lost: Vec<RouteSpec> = owned
                .plan
                .routes
                .iter()
                .filter(|r| !present.contains(&(r.prefix, r.table, r.metric)))
                .cloned()
                .collect();
            if lost.is_empty() {
                continue;
            }
            owned.restored += 1;
            let allowed = owned.restored <= self.settings.restore_limit;
            for route in lost {
                let restored = allowed && self.kernel.add(&route).await.is_ok();
                tracing::warn!(plan = id.0, route = %words(&route), restored, "route lost");
                if !restored {
                    owned.plan.routes.retain(|r| *r != route);
                }
                outcomes.push(Outcome::RouteLost {
                    plan: *id,
                    route: words(&route),
                    restored,
                });
            }
        }
        for outcome in outcomes {
            self.report(outcome).await;
        }
    }

    /// Looks all watched flows up and reports those whose route changed; false where the queue of
    /// reports had no room for all.
    async fn scan(&mut self) -> bool {
        let flows: Vec<(PeerKey, IpAddr)> = self.watched.keys().copied().collect();
        for chunk in flows.chunks(LOOKUPS) {
            let kernel = &self.kernel;
            let found = join_all(
                chunk
                    .iter()
                    .map(|(peer, source)| kernel.lookup(peer.0, *source)),
            )
            .await;
            for ((peer, source), result) in chunk.iter().zip(found) {
                let route = match result {
                    Ok(route) => route.map(|route| self.named(route)),
                    Err(e) => {
                        tracing::debug!(peer = %peer, error = %e, "route look-up");
                        None
                    }
                };
                let Some(last) = self.watched.get_mut(&(*peer, *source)) else {
                    continue;
                };
                if last.as_ref() == Some(&route) {
                    continue;
                }
                let change = FibChange {
                    peer: *peer,
                    source: *source,
                    route: route.clone(),
                };
                match self.reports.try_send(Report::Fib(change)) {
                    Ok(()) => *last = Some(route),
                    Err(mpsc::error::TrySendError::Full(_)) => return false,
                    Err(mpsc::error::TrySendError::Closed(_)) => return true,
                }
            }
        }
        true
    }

    async fn close(&mut self) {
        let ids: Vec<PlanId> = self.plans.keys().copied().collect();
        for id in ids {
            self.revert(id, RevertReason::Stopping).await;
        }
        // An empty lease file tells the watchdog to end, and it then removes the file.
        if !watchdog_running(&self.settings.runtime_dir).unwrap_or(false) && self.plans.is_empty() {
            for path in [
                LeaseFile::path(&self.settings.runtime_dir),
                daemon_lock(&self.settings.runtime_dir),
            ] {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn named(&self, mut route: FibRoute) -> FibRoute {
        route.egress = self
            .settings
            .egresses
            .iter()
            .find(|egress| egress.interface == route.interface)
            .map(|egress| egress.name.clone());
        route
    }

    fn leases(&self) -> Vec<Lease> {
        self.plans
            .values()
            .map(|owned| Lease {
                plan: owned.plan.id,
                incident: owned.plan.incident.clone(),
                expires_at: owned.expires_at,
                routes: owned.plan.routes.clone(),
            })
            .collect()
    }

    fn write_leases(&self) -> Result<(), LeaseFileError> {
        LeaseFile::new(self.leases()).write(&self.settings.runtime_dir)
    }

    /// Outcomes are never dropped; the receiver must not wait for this task while it does not read.
    async fn report(&self, outcome: Outcome) {
        let _ = self.reports.send(Report::Outcome(outcome)).await;
    }
}

/// A moment that a disabled branch of the select never comes to.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Asks the operator's program, which may take a lock for a whole fleet. It is killed when it does
/// not answer in time: reverts wait behind it.
async fn permitted(program: &Path, plan: &Plan) -> Result<(), String> {
    let child = tokio::process::Command::new(program)
        .env("NETWATCH_INCIDENT", &plan.incident.0)
        .env("NETWATCH_ROUTES", plan.routes.len().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    match tokio::time::timeout(PERMIT, child).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("not permitted ({status})")),
        Ok(Err(error)) => Err(format!("cannot be run: {error}")),
        Err(_) => Err(format!("no answer within {} ms", PERMIT.as_millis())),
    }
}
