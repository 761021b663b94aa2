//! The validator's process, and what it tells.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::chatter::{self, FlowSummary, Part, SAMPLE, Told};
use crate::ns::Space;
use crate::scenario::Topology;
use crate::sys;
use crate::world::{PEER_PORT, Role, World};

/// Both ends of the workload. Dropping it ends them.
pub struct Workload {
    child: Child,
    stdin: Option<ChildStdin>,
    told: Arc<Mutex<Vec<Told>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// How many connections there are.
    pub flows: usize,
}

/// What the validator's process tells on demand.
#[derive(Clone, Debug)]
pub struct Dump {
    /// All connections.
    pub flows: Vec<FlowSummary>,
    /// Its CPU time so far, in nanoseconds.
    pub cpu: u64,
    /// The part of it that watching acknowledgements took.
    pub watching: u64,
}

impl Workload {
    /// Starts both ends and waits until all connections are up.
    ///
    /// # Errors
    /// A process or thread cannot be started, or not all connections come up within 15 s.
    pub fn start(
        space: &Space,
        world: &World,
        topology: &Topology,
        validator: &str,
        outside: &str,
    ) -> anyhow::Result<Self> {
        let (here, there) = parts(world, topology);
        let flows = here.expected;
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, name) = (stop.clone(), space.name(outside));
        let mut threads = vec![
            std::thread::Builder::new()
                .name("lab-peers".to_owned())
                .spawn(move || {
                    let result = crate::ns::enter(&name).and_then(|()| chatter::run(there, &flag));
                    if let Err(error) = result {
                        eprintln!("the peers' end failed: {error:#}");
                    }
                })?,
        ];

        let file = space.directory().join("workload.json");
        std::fs::write(&file, serde_json::to_vec(&here)?)?;
        let mut child = space
            .command(validator, &std::env::current_exe()?)
            .args(["role", "validator"])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the validator's process")?;
        let told = Arc::new(Mutex::new(Vec::new()));
        let stdin = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            let told = told.clone();
            threads.push(std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if let Ok(event) = serde_json::from_str(&line) {
                        told.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(event);
                    }
                }
            }));
        }
        let mut workload = Self {
            child,
            stdin,
            told,
            stop,
            threads,
            flows,
        };
        let end = sys::now() + 15_000_000_000;
        while !workload
            .told()
            .iter()
            .any(|told| matches!(told, Told::Up { .. }))
        {
            if let Some(status) = workload.child.try_wait()? {
                bail!("the validator's process ended at once: {status}");
            }
            if sys::now() > end {
                bail!("not all {flows} connections came up within 15 s");
            }
            sys::sleep(Duration::from_millis(10))?;
        }
        Ok(workload)
    }

    fn told(&self) -> Vec<Told> {
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn order(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self
            .stdin
            .as_mut()
            .context("the validator's process has no input")?;
        stdin.write_all(line.as_bytes())?;
        stdin.flush()?;
        Ok(())
    }

    /// Sends the validator's process a signal.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: no pointers; the child is not reaped before it is dropped, so its id is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// From now on first progress beyond `at` is told for each connection.
    ///
    /// # Errors
    /// The process is gone.
    pub fn mark(&mut self, at: u64) -> anyhow::Result<()> {
        self.order(&format!("mark {at}\n"))
    }

    /// First progress beyond the mark, by peer.
    #[must_use]
    pub fn progress(&self) -> Vec<(IpAddr, u64)> {
        self.told()
            .into_iter()
            .filter_map(|told| match told {
                Told::Progress { remote, at } => Some((remote, at)),
                _ => None,
            })
            .collect()
    }

    /// All connections over a span of time, and what the process cost.
    ///
    /// # Errors
    /// The process does not answer within 3 s.
    pub fn dump(&mut self, from: u64, to: u64) -> anyhow::Result<Dump> {
        self.order(&format!("dump {from} {to}\n"))?;
        let end = sys::now() + 3_000_000_000;
        while sys::now() < end {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = told
                .iter()
                .position(|told| matches!(told, Told::Dump { .. }))
                && let Told::Dump {
                    flows,
                    cpu,
                    watching,
                } = told.remove(at)
            {
                return Ok(Dump {
                    flows,
                    cpu,
                    watching,
                });
            }
            drop(told);
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("the validator's process does not answer")
    }
}

impl Workload {
    /// Both processes end, and new ones make all connections anew.
    ///
    /// # Errors
    /// As of [`Self::start`].
    pub fn restart(
        &mut self,
        space: &Space,
        world: &World,
        topology: &Topology,
        validator: &str,
        outside: &str,
    ) -> anyhow::Result<()> {
        self.end();
        *self = Self::start(space, world, topology, validator, outside)?;
        Ok(())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.end();
    }
}

/// The validator's part and the peers'.
fn parts(world: &World, topology: &Topology) -> (Part, Part) {
    let own = |peer: IpAddr| match peer {
        IpAddr::V4(_) => IpAddr::V4(world.own.0),
        IpAddr::V6(_) => IpAddr::V6(world.own.1),
    };
    let connect = |role: Role| {
        world
            .peers()
            .filter(move |(_, host)| host.role == role)
            .map(|(_, h)| h.address)
    };
    let part = |listen, connect: Vec<_>, sample| Part {
        listen,
        connect,
        gap: topology.send_gap.nanos(),
        burst: topology
            .burst
            .map(|burst| (burst.every.nanos(), burst.talk.nanos())),
        bytes: topology.message_bytes,
        congestion: topology.congestion_control.clone(),
        sample,
        expected: world.peers().count(),
    };
    let here = part(
        vec![
            SocketAddr::new(world.own.0.into(), PEER_PORT),
            SocketAddr::new(world.own.1.into(), PEER_PORT),
        ],
        connect(Role::Peer)
            .map(|peer| {
                (
                    SocketAddr::new(own(peer), 0),
                    SocketAddr::new(peer, PEER_PORT),
                )
            })
            .collect(),
        Some(SAMPLE.as_nanos() as u64),
    );
    let there = part(
        vec![
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PEER_PORT),
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PEER_PORT),
        ],
        connect(Role::InboundPeer)
            .map(|peer| {
                (
                    SocketAddr::new(peer, 0),
                    SocketAddr::new(own(peer), PEER_PORT),
                )
            })
            .collect(),
        None,
    );
    (here, there)
}
