//! The internet: a user-space forwarder between the two upstreams' TUN devices and the one behind
//! which all other hosts live. It holds each packet for half of its prefix's round-trip time each
//! way, loses what it shall lose, and knows when each fault swallowed its first packet.
//!
//! ```text
//!  gateway a ── ups0 ─┐                        ┌─ net0 ── world: peers, anchors, pager
//!                     ├─ rules, heap of times ─┤
//!  gateway b ── ups0 ─┘                        └─ back: by link address, else by the origin's choice
//! ```
//!
//! One thread owns the devices and the heap; [`State`] is shared with the runner under a mutex that
//! is taken once per packet.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::packet::{Packet, Tcp};
use crate::rng::Rng;
use crate::scenario::{Direction, Family, UplinkName};
use crate::sys;
use crate::world::{PEER_PORT, Target, World};

/// The TUN device in each gateway's namespace.
pub const UPSTREAM_DEVICE: &str = "ups0";
/// The TUN device in the namespace of everybody else.
pub const WORLD_DEVICE: &str = "net0";

/// Packets held at once; more are dropped and counted. 2,000 packets/s for 150 ms are 300.
const HEAP_LIMIT: usize = 16_384;
const BUFFER: usize = 2_048;

/// What a rule does to packets that match it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// Swallow.
    Drop,
    /// Hold for so many nanoseconds more.
    Delay(u64),
    /// Swallow this share.
    Lose(f64),
}

/// A fault inside the internet.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// Only this upstream.
    pub upstream: Option<UplinkName>,
    /// Only this way.
    pub direction: Option<Direction>,
    /// Only this address family.
    pub family: Option<Family>,
    /// Only these hosts.
    pub target: Option<Target>,
    /// When it first hit a packet of the workload, and any packet.
    pub first_hit: (Option<u64>, Option<u64>),
    /// How many packets it hit.
    pub hits: u64,
}

/// What the forwarder has seen, and what it shall do.
#[derive(Default)]
pub struct State {
    /// Faults in force, by number.
    pub rules: BTreeMap<u32, Rule>,
    /// Since the last [`State::mark`]: when the first workload packet to each host left by each upstream.
    pub first_out: HashMap<(usize, UplinkName), u64>,
    /// When the last workload packet to each host left by each upstream.
    pub last_out: HashMap<(usize, UplinkName), u64>,
    /// The last workload packet that reached each upstream.
    pub last_key: [Option<(Tcp, u64)>; 2],
    /// When packets should have left, and how late they did, in microseconds; the newest at the end.
    pub lateness: Vec<(u64, u32)>,
    /// Packets forwarded.
    pub forwarded: u64,
    /// Packets lost to rules.
    pub dropped: u64,
    /// Packets that nobody out there has an address for.
    pub unroutable: u64,
    /// Packets lost because too many were held, or because a device refused them.
    pub overflowed: u64,
    /// CPU time of the thread in nanoseconds.
    pub cpu: u64,
    /// Why the thread ended, if it did before it was told to.
    pub failed: Option<String>,
}

impl State {
    /// Forgets which upstream packets left by, from now on.
    pub fn mark(&mut self) {
        self.first_out.clear();
    }
}

const LATENESS_LIMIT: usize = 400_000;

/// The forwarder's thread. Dropping it ends the thread.
pub struct Forwarder {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Starts the thread with the two upstreams' devices and the world's.
    #[must_use]
    pub fn start(world: &World, loss: f64, upstreams: [OwnedFd; 2], inner: OwnedFd) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut core = Core {
            hosts: world
                .hosts
                .iter()
                .enumerate()
                .map(|(index, host)| (host.address, index))
                .collect(),
            links: world
                .uplinks
                .iter()
                .flat_map(|uplink| {
                    [
                        uplink.link.0.into(),
                        uplink.link.1.into(),
                        uplink.gateway.0.into(),
                        uplink.gateway.1.into(),
                    ]
                    .map(|address: IpAddr| (address, uplink.name))
                })
                .collect(),
            own: [world.own.0.into(), world.own.1.into()],
            world: world.clone(),
            loss,
            rng: Rng::new(world.seed ^ 0x1055),
            devices: [
                upstreams[0].as_raw_fd(),
                upstreams[1].as_raw_fd(),
                inner.as_raw_fd(),
            ],
            heap: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            order: 0,
            state: state.clone(),
        };
        let flag = stop.clone();
        let thread = std::thread::Builder::new()
            .name("lab-forwarder".to_owned())
            .spawn(move || {
                let devices = (upstreams, inner);
                if let Err(error) = core.run(&flag) {
                    lock(&core.state).failed = Some(error.to_string());
                }
                drop(devices);
            })
            .ok();
        Self {
            state,
            stop,
            thread,
        }
    }

    /// What was seen, and what shall be done.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Core {
    world: World,
    hosts: HashMap<IpAddr, usize>,
    links: HashMap<IpAddr, UplinkName>,
    own: [IpAddr; 2],
    loss: f64,
    rng: Rng,
    /// Upstream a, upstream b, world.
    devices: [i32; 3],
    /// (deadline, order of arrival, device, slot)
    heap: BinaryHeap<Reverse<(u64, u64, usize, usize)>>,
    slots: Vec<Vec<u8>>,
    free: Vec<usize>,
    order: u64,
    state: Arc<Mutex<State>>,
}

const WORLD: usize = 2;

impl Core {
    fn run(&mut self, stop: &AtomicBool) -> std::io::Result<()> {
        sys::precise_timers();
        let epoll = sys::Epoll::new()?;
        for (token, fd) in self.devices.into_iter().enumerate() {
            epoll.add(fd, libc::EPOLLIN, token as u64)?;
        }
        let mut ready = Vec::new();
        let mut buffer = [0u8; BUFFER];
        let mut late = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let timeout = self
                .heap
                .peek()
                .map_or(50_000_000, |Reverse((deadline, ..))| {
                    deadline.saturating_sub(sys::now()).min(50_000_000)
                });
            epoll.wait(timeout, &mut ready)?;
            for (token, _) in &ready {
                // A bound, so that one device cannot starve the heap.
                for _ in 0..64 {
                    // A device that is down gives EIO: nothing to read.
                    match sys::read(self.devices[*token as usize], &mut buffer) {
                        Ok(Some(length)) if length > 0 => {
                            self.accept(*token as usize, &buffer[..length])
                        }
                        _ => break,
                    }
                }
            }
            self.release(&mut late);
            let mut state = lock(&self.state);
            state.cpu = sys::thread_cpu();
            if state.lateness.len() < LATENESS_LIMIT {
                state.lateness.append(&mut late);
            } else {
                late.clear();
            }
        }
        Ok(())
    }

    fn accept(&mut self, device: usize, bytes: &[u8]) {
        let now = sys::now();
        let Some(packet) = Packet::parse(bytes) else {
            return;
        };
        let (direction, remote) = if device == WORLD {
            (Direction::In, packet.source)
        } else {
            (Direction::Out, packet.destination)
        };
        let mut state = lock(&self.state);
        let Some(&host) = self.hosts.get(&remote) else {
            state.unroutable += 1;
            return;
        };
        let upstream = match direction {
            Direction::Out => UplinkName::ALL[device],
            // A link's address belongs to its upstream; the validator's own belongs to nobody's
            // link, and the origin chooses the way.
            Direction::In => match self.links.get(&packet.destination) {
                Some(name) => *name,
                None if self.own.contains(&packet.destination) => self.world.return_via(host),
                None => {
                    state.unroutable += 1;
                    return;
                }
            },
        };
        let workload = packet.is_workload(PEER_PORT);
        let mut hold = self.world.prefixes[self.world.hosts[host].prefix].rtt / 2;
        let mut lost = self.loss > 0.0 && self.rng.unit() < self.loss;
        for rule in state.rules.values_mut() {
            if rule.upstream.is_some_and(|only| only != upstream)
                || rule.direction.is_some_and(|only| only != direction)
                || rule.family.is_some_and(|only| !only.has(remote))
                || rule
                    .target
                    .is_some_and(|only| !self.world.is_in(host, only))
            {
                continue;
            }
            match rule.action {
                Action::Drop => lost = true,
                Action::Delay(more) => hold += more,
                Action::Lose(share) if self.rng.unit() < share => lost = true,
                Action::Lose(_) => continue,
            }
            rule.hits += 1;
            rule.first_hit.1.get_or_insert(now);
            if workload {
                rule.first_hit.0.get_or_insert(now);
            }
        }
        if workload && direction == Direction::Out {
            state.first_out.entry((host, upstream)).or_insert(now);
            state.last_out.insert((host, upstream), now);
            if let Some(tcp) = packet.tcp {
                state.last_key[upstream.index()] = Some((tcp, now));
            }
        }
        if lost {
            state.dropped += 1;
            return;
        }
        if self.heap.len() >= HEAP_LIMIT {
            state.overflowed += 1;
            return;
        }
        state.forwarded += 1;
        drop(state);
        let out = match direction {
            Direction::Out => WORLD,
            Direction::In => upstream.index(),
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Vec::with_capacity(BUFFER));
            self.slots.len() - 1
        });
        self.slots[slot].clear();
        self.slots[slot].extend_from_slice(bytes);
        self.order += 1;
        self.heap.push(Reverse((now + hold, self.order, out, slot)));
    }

    fn release(&mut self, late: &mut Vec<(u64, u32)>) {
        let mut refused = 0;
        while let Some(Reverse((deadline, _, out, slot))) = self.heap.peek().copied() {
            let now = sys::now();
            if deadline > now {
                break;
            }
            self.heap.pop();
            if sys::write(self.devices[out], &self.slots[slot]).is_err() {
                refused += 1;
            }
            let micros = ((now - deadline) / 1_000).min(u64::from(u32::MAX));
            late.push((deadline, micros as u32));
            self.free.push(slot);
        }
        if refused > 0 {
            lock(&self.state).overflowed += refused;
        }
    }
}
