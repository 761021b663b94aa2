//! The one task that owns the routes.
//!
//! It takes commands from a bounded queue and reports outcomes and route facts on another. When the
//! last [`Routes`] is dropped it takes everything back and ends. Commands are cancel-safe: one that
//! was queued is carried out whether or not its caller still waits.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use events::{
    Effect, EgressName, FibChange, FibRoute, Outcome, PeerKey, Plan, PlanId, RevertReason,
};
use futures_util::{Stream, StreamExt};
use rtnetlink::MulticastGroup;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::files;
use crate::kernel::{Kernel, KernelError};
use crate::lease::{Lease, LeaseFile, LeaseFileError};
use crate::rp_filter::StrictRpFilter;
use crate::watchdog::{WatchdogCommand, daemon_lock, spawn_watchdog};

mod task;

/// Commands come one per decision of the planner.
const COMMANDS: usize = 256;
/// A first watch list reports every flow at once.
const REPORTS: usize = 4096;
/// After the stream of notifications ended. Until then the periodic scan sees changes.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// An uplink's interface, to name the egress that a route leaves by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressLink {
    /// The egress.
    pub name: EgressName,
    /// Its interface.
    pub interface: String,
}

/// Parameters of [`Routes::open`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// `rtm_protocol` of our routes; 0 to 4 are the kernel's and the administrator's.
    pub protocol: u8,
    /// For the lease file and the locks.
    pub runtime_dir: PathBuf,
    /// The uplinks.
    pub egresses: Vec<EgressLink>,
    /// How often a route that another program removed is put back, per plan.
    pub restore_limit: u32,
    /// A program that is asked before routes are installed; exit code 0 permits them.
    pub permit: Option<PathBuf>,
    /// How to start the watchdog. `None`: one must be running already for anything to be installed.
    pub watchdog: Option<WatchdogCommand>,
}

/// What the executor reports.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// How an effect went, or what became of a plan without one.
    Outcome(Outcome),
    /// The kernel's way to a watched peer, first and at every change.
    Fib(FibChange),
}

/// What the sweep at the start removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Routes with our protocol number.
    pub routes: usize,
}

/// Why the executor could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The protocol number is not ours to use.
    #[error("failover.protocol = {0} belongs to the kernel or the administrator: choose 5 to 255")]
    Protocol(u8),
    /// The runtime directory cannot be used.
    #[error("runtime directory {}: {source}", path.display())]
    RuntimeDir {
        /// Which.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// Another daemon owns the runtime directory.
    #[error("another netwatch runs with runtime directory {}: stop it first", .0.display())]
    Busy(PathBuf),
    /// No netlink socket.
    #[error("netlink: {0}")]
    Netlink(#[source] io::Error),
    /// Leftovers could not be removed.
    #[error("routes left over from an earlier run could not be removed (CAP_NET_ADMIN?): {0}")]
    Sweep(#[source] KernelError),
}

/// Why a plan was not installed. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The plan is a shadow plan.
    #[error("plan {0:?} is a shadow plan: nothing is installed")]
    Shadow(PlanId),
    /// No routes, or a default route: the planner must not ask for these.
    #[error("plan refused: {0}")]
    Unsafe(String),
    /// Replies would be dropped.
    #[error(transparent)]
    RpFilter(#[from] StrictRpFilter),
    /// The configured program did not permit it.
    #[error("failover.permit {}: {why}", program.display())]
    NotPermitted {
        /// The program.
        program: PathBuf,
        /// What it answered, or that it did not.
        why: String,
    },
    /// Without a watchdog no route is safe.
    #[error("no watchdog: {0}")]
    Watchdog(String),
    /// The lease comes before the routes.
    #[error("lease: {0}")]
    Lease(#[from] LeaseFileError),
    /// The kernel refused a route.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel took the route and does not use it.
    #[error("{route} does not win: {peer} from {flow_source} leaves by {got}")]
    DoesNotWin {
        /// The route.
        route: String,
        /// The address asked for.
        peer: IpAddr,
        /// The flows' source.
        flow_source: IpAddr,
        /// Where packets go instead.
        got: String,
    },
    /// The executor has ended.
    #[error("the route executor has ended")]
    Ended,
}

enum Command {
    Install(Box<Plan>, oneshot::Sender<Result<(), InstallError>>),
    Revert(PlanId, RevertReason, oneshot::Sender<()>),
    Renew(PlanId, oneshot::Sender<bool>),
    Watch(Vec<(PeerKey, IpAddr)>),
    Lookup(
        IpAddr,
        IpAddr,
        oneshot::Sender<Result<Option<FibRoute>, KernelError>>,
    ),
    Owned(oneshot::Sender<Vec<Lease>>),
    Close(oneshot::Sender<()>),
}

/// A handle to the executor.
#[derive(Clone, Debug)]
pub struct Routes {
    commands: mpsc::Sender<Command>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

impl Routes {
    /// Takes the runtime directory, removes what an earlier run left, and starts the executor in
    /// the caller's network namespace.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(
        settings: Settings,
    ) -> Result<(Self, mpsc::Receiver<Report>, Swept), OpenError> {
        if settings.protocol <= 4 {
            return Err(OpenError::Protocol(settings.protocol));
        }
        let dir = settings.runtime_dir.clone();
        let runtime_dir = |source| OpenError::RuntimeDir {
            path: dir.clone(),
            source,
        };
        files::make_dir(&dir).map_err(runtime_dir)?;
        let lock = files::lock(&daemon_lock(&dir))
            .map_err(runtime_dir)?
            .ok_or_else(|| OpenError::Busy(dir.clone()))?;
        let kernel = Kernel::open(settings.protocol).map_err(OpenError::Netlink)?;
        let routes = kernel.sweep().await.map_err(OpenError::Sweep)?;
        if routes > 0 {
            tracing::warn!(routes, "removed routes that an earlier run left");
        }
        LeaseFile::new(Vec::new())
            .write(&dir)
            .map_err(|e| runtime_dir(io::Error::other(e.to_string())))?;
        let changed = listen().map_err(OpenError::Netlink)?;
        if let Some(command) = &settings.watchdog {
            // Ahead of the first plan, which must not wait for it. Installing tries again.
            if let Err(e) = spawn_watchdog(&dir, command) {
                tracing::error!(error = %e, "watchdog not started");
            }
        }
        let (commands, queue) = mpsc::channel(COMMANDS);
        let (reports, receiver) = mpsc::channel(REPORTS);
        let executor = task::Executor {
            settings,
            kernel,
            reports,
            plans: BTreeMap::new(),
            watched: BTreeMap::new(),
            _lock: lock,
        };
        tokio::spawn(executor.run(queue, changed));
        Ok((Self { commands }, receiver, Swept { routes }))
    }

    /// Carries out an effect if it is one for routes; how it went comes as a [`Report`]. Never
    /// waits: a full queue is an error for the caller to count.
    ///
    /// # Errors
    /// The queue is full or the executor has ended.
    pub fn carry_out(&self, effect: &Effect) -> Result<(), InstallError> {
        let command = match effect {
            Effect::Install(plan) => Command::Install(Box::new(plan.clone()), oneshot::channel().0),
            Effect::Revert { plan, reason } => {
                Command::Revert(*plan, *reason, oneshot::channel().0)
            }
            Effect::RenewLease { plan } => Command::Renew(*plan, oneshot::channel().0),
            Effect::Watch { peers } => Command::Watch(
                peers
                    .iter()
                    .filter_map(|(peer, source)| source.map(|source| (*peer, source)))
                    .collect(),
            ),
            Effect::Probe(_) | Effect::Nudge { .. } | Effect::Page(_) | Effect::Journal(_) => {
                return Ok(());
            }
        };
        self.commands
            .try_send(command)
            .map_err(|_| InstallError::Ended)
    }

    /// Installs all routes of a plan, or none.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub async fn install(&self, plan: Plan) -> Result<(), InstallError> {
        self.ask(|reply| Command::Install(Box::new(plan), reply))
            .await
            .unwrap_or(Err(InstallError::Ended))
    }

    /// Takes a plan's routes back; one that is not installed is no error.
    pub async fn revert(&self, plan: PlanId, reason: RevertReason) {
        let _ = self.ask(|reply| Command::Revert(plan, reason, reply)).await;
    }

    /// Renews a plan's lease; false if it has none (any more).
    pub async fn renew(&self, plan: PlanId) -> bool {
        self.ask(|reply| Command::Renew(plan, reply))
            .await
            .unwrap_or(false)
    }

    /// Replaces the list of flows (peer and source) whose route is reported.
    pub async fn watch(&self, flows: Vec<(PeerKey, IpAddr)>) {
        let _ = self.commands.send(Command::Watch(flows)).await;
    }

    /// The route of a flow now.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn lookup(
        &self,
        peer: IpAddr,
        source: IpAddr,
    ) -> Result<Option<FibRoute>, KernelError> {
        self.ask(|reply| Command::Lookup(peer, source, reply))
            .await
            .unwrap_or_else(|| {
                Err(KernelError::Netlink {
                    request: format!("get {peer} from {source}"),
                    text: "the route executor has ended".to_owned(),
                })
            })
    }

    /// The plans in force with their leases.
    pub async fn owned(&self) -> Vec<Lease> {
        self.ask(Command::Owned).await.unwrap_or_default()
    }

    /// Takes everything back and ends the executor.
    pub async fn close(self) {
        let _ = self.ask(Command::Close).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// Wakes the executor when routes, rules or links change. Of notifications only the fact is kept.
fn listen() -> io::Result<Arc<Notify>> {
    let mut messages = subscribe()?;
    let changed = Arc::new(Notify::new());
    let notify = Arc::downgrade(&changed);
    tokio::spawn(async move {
        loop {
            while messages.next().await.is_some() {
                match notify.upgrade() {
                    Some(notify) => notify.notify_one(),
                    None => return,
                }
            }
            // The stream ends on a message that cannot be decoded.
            tokio::time::sleep(LISTEN_AGAIN).await;
            match (subscribe(), notify.upgrade()) {
                (_, None) => return,
                (Ok(again), Some(notify)) => {
                    messages = again;
                    notify.notify_one();
                }
                (Err(e), Some(_)) => tracing::warn!(error = %e, "route notifications"),
            }
        }
    });
    Ok(changed)
}

fn subscribe() -> io::Result<impl Stream + Unpin> {
    let (connection, _, messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
        // IPv4 routes that go with their link are not announced one by one.
        MulticastGroup::Link,
    ])?;
    tokio::spawn(connection);
    Ok(messages)
}
