//! The rig: namespaces, links, routers, the internet between them, and what can break.
//!
//! ```text
//!  validator ── wan0 ─── cust0 ── gateway a (BIRD) ── ups0 ─┐
//!  (own addresses on lo)                                    ├─ forwarder ── net0 ── world
//!            └─ wan1 ─── cust0 ── gateway b (BIRD) ── ups0 ─┘
//! ```

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

use crate::bird::{self, Paths, Router};
use crate::bulk::Bulk;
use crate::forwarder::{Action, Forwarder, Rule, UPSTREAM_DEVICE, WORLD_DEVICE};
use crate::hog::Hog;
use crate::monitor::Monitor;
use crate::ns::Space;
use crate::packet::{Packet, Tcp};
use crate::pager::Pager;
use crate::scenario::{Direction, Fault, FaultKind, Scenario, Session, UplinkName};
use crate::sys;
use crate::world::{PAGER_PORT, PEER_PORT, World};

/// The validator's namespace.
pub const VALIDATOR: &str = "v";
/// The namespace of everybody beyond the upstreams.
pub const OUTSIDE: &str = "w";
const GATEWAYS: [&str; 2] = ["a", "b"];
/// Where a bulk upload goes.
const BULK_PORT: u16 = 9;
/// The routing key that the pager knows.
pub const ROUTING_KEY: &str = "1ab0c0de1ab0c0de1ab0c0de1ab0c0de";
const CUSTOMER_DEVICE: &str = "cust0";

/// A rig, up. Dropping it removes everything; fields drop in this order, the namespaces last.
pub struct Rig {
    /// Routers of uplink a and b.
    pub routers: Vec<Router>,
    /// The internet.
    pub forwarder: Forwarder,
    /// The pager.
    pub pager: Pager,
    /// The validator's routes.
    pub monitor: Monitor,
    taps: [Option<Tap>; 2],
    dead: [bool; 2],
    down: [bool; 2],
    hog: Option<Hog>,
    bulk: Option<Bulk>,
    /// The gateway's way out has a queue.
    shaped: [bool; 2],
    session: Session,
    next_rule: u32,
    /// What was drawn.
    pub world: World,
    /// Namespaces and files.
    pub space: Space,
}

/// How a fault's first effect can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A rule of the forwarder: it notes its first packet.
    Rule(u32),
    /// A dead gateway: the first packet at its door that never reached its upstream.
    Gateway(UplinkName),
    /// At this time, to be exact.
    At(u64),
}

impl Rig {
    /// Builds everything.
    ///
    /// # Errors
    /// What could not be made, and why.
    pub fn build(scenario: &Scenario, world: World, keep: bool) -> anyhow::Result<Self> {
        let space = Space::new(&[VALIDATOR, GATEWAYS[0], GATEWAYS[1], OUTSIDE], keep)?;
        for role in [VALIDATOR, GATEWAYS[0], GATEWAYS[1], OUTSIDE] {
            let (filter, forwarding) = match role {
                VALIDATOR => ("2", "0"),
                OUTSIDE => ("0", "0"),
                _ => ("0", "1"),
            };
            let gateway = GATEWAYS.contains(&role);
            let silent = ["0", "1"][usize::from(gateway && scenario.topology.silent_gateways)];
            space.sysctl(
                role,
                &[
                    ("ipv6/conf/all/disable_ipv6", "0"),
                    ("ipv6/conf/default/disable_ipv6", "0"),
                    ("ipv4/conf/all/rp_filter", filter),
                    ("ipv4/conf/default/rp_filter", filter),
                    ("ipv4/ip_forward", forwarding),
                    ("ipv6/conf/all/forwarding", forwarding),
                    ("ipv6/conf/default/accept_dad", "0"),
                    ("ipv6/conf/default/accept_ra", "0"),
                    ("ipv6/conf/default/router_solicitations", "0"),
                    ("ipv6/conf/default/keep_addr_on_down", "1"),
                    ("ipv4/tcp_no_metrics_save", "1"),
                    ("ipv4/icmp_echo_ignore_all", silent),
                    ("ipv6/icmp/echo_ignore_all", silent),
                    // As systemd sets it on Debian: echo sockets for everybody.
                    ("ipv4/ping_group_range", "0 2147483647"),
                ],
            )?;
        }
        let upstreams = [0, 1].map(|n| tun(&space, GATEWAYS[n], UPSTREAM_DEVICE));
        let [first, second] = upstreams;
        let upstreams = [first?, second?];
        let inner = tun(&space, OUTSIDE, WORLD_DEVICE)?;
        let forwarder = Forwarder::start(&world, scenario.topology.loss, upstreams, inner);
        wire(&space, &world)?;

        let listener = space.within(OUTSIDE, || {
            let address = SocketAddr::new(world.pager(), PAGER_PORT);
            TcpListener::bind(address).with_context(|| format!("the pager cannot bind {address}"))
        })?;
        let pager = Pager::start(listener, ROUTING_KEY)?;
        let monitor = Monitor::start(&space, VALIDATOR)?;
        let session = scenario.topology.session;
        let mut routers = Vec::new();
        if scenario.daemon.bgp {
            for (role, uplink) in GATEWAYS.iter().zip(&world.uplinks) {
                let config = bird::config(&world, uplink, session, Paths::Usual);
                routers.push(Router::start(&space, role, &config)?);
            }
        }
        let wants_tap = |name: UplinkName| {
            scenario
                .fault
                .iter()
                .filter(|fault| fault.upstream == Some(name))
                .any(|fault| matches!(fault.kind, FaultKind::GatewayDead | FaultKind::GatewayMute))
        };
        let mut taps = [None, None];
        for name in UplinkName::ALL {
            if wants_tap(name) {
                taps[name.index()] = Some(Tap::start(&space, GATEWAYS[name.index()])?);
            }
        }
        Ok(Self {
            routers,
            forwarder,
            pager,
            monitor,
            taps,
            dead: [false; 2],
            down: [false; 2],
            hog: None,
            bulk: None,
            shaped: [false; 2],
            session,
            next_rule: 0,
            world,
            space,
        })
    }

    /// Makes a fault of the network or of BGP happen. `Some` where packets are concerned.
    ///
    /// # Errors
    /// It cannot be made to happen.
    pub fn apply(&mut self, fault: &Fault) -> anyhow::Result<Option<Cut>> {
        let upstream = fault.upstream;
        let target = match (&fault.target, fault.kind) {
            (None, FaultKind::OriginDead | FaultKind::PrefixDead | FaultKind::PeerDead)
            | (Some(_), _) => Some(self.world.target(fault.kind, fault.target.as_deref())?),
            (None, _) => None,
        };
        let name = upstream.unwrap_or(UplinkName::A);
        let rule = |action, direction| Rule {
            action,
            upstream,
            direction,
            family: fault.family,
            target,
            first_hit: (None, None),
            hits: 0,
        };
        let cut = match fault.kind {
            FaultKind::EgressDark => self.rule(rule(Action::Drop, Some(Direction::Out))),
            FaultKind::InboundDark => self.rule(rule(Action::Drop, Some(Direction::In))),
            FaultKind::OriginDead | FaultKind::PrefixDead | FaultKind::PeerDead => {
                self.rule(rule(Action::Drop, None))
            }
            FaultKind::RttSpike => {
                // Both ways half of it each, one way all of it.
                let ways = if fault.direction.is_some() { 1 } else { 2 };
                let hold = fault.add.map_or(0, |add| add.nanos() / ways);
                self.rule(rule(Action::Delay(hold), fault.direction))
            }
            FaultKind::Loss => {
                let share = fault.share.unwrap_or(0.0);
                self.rule(rule(Action::Lose(share), fault.direction))
            }
            FaultKind::CpuHog => {
                self.hog = Some(Hog::start(fault.threads));
                return Ok(None);
            }
            FaultKind::GatewayDead => {
                self.forwarder.state().mark();
                self.gateway_dead(name, "")?;
                Cut::Gateway(name)
            }
            FaultKind::GatewayMute => {
                self.forwarder.state().mark();
                let neighbors = "meta protocol arp accept; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept;";
                self.gateway_dead(name, neighbors)?;
                Cut::Gateway(name)
            }
            FaultKind::CarrierLost => {
                self.forwarder.state().mark();
                let at = self.space.within(GATEWAYS[name.index()], || {
                    let at = sys::now();
                    sys::link_down(CUSTOMER_DEVICE)?;
                    Ok(at)
                })?;
                self.down[name.index()] = true;
                Cut::At(at)
            }
            FaultKind::BgpWithdraw => {
                self.router(name)?.announce(&self.world, target, false)?;
                return Ok(None);
            }
            FaultKind::BgpPathChange => {
                self.announce(name, Paths::Detour)?;
                return Ok(None);
            }
            FaultKind::BgpOriginChange => {
                let target = self.world.target(fault.kind, fault.target.as_deref())?;
                self.announce(name, Paths::Hijacked(target))?;
                return Ok(None);
            }
            FaultKind::BulkUpload => {
                self.bulk_upload(name)?;
                return Ok(None);
            }
            FaultKind::BgpSessionDown => {
                self.router(name)?.session(false)?;
                return Ok(None);
            }
            FaultKind::PagerFault => {
                let count = fault.count.unwrap_or(u32::MAX);
                self.pager.shared().fault = fault.answer.map(|answer| (answer, count));
                return Ok(None);
            }
            FaultKind::Heal => {
                self.heal()?;
                return Ok(None);
            }
            FaultKind::DaemonKill
            | FaultKind::DaemonStop
            | FaultKind::DaemonContinue
            | FaultKind::ValidatorStop
            | FaultKind::ValidatorContinue
            | FaultKind::ValidatorRestart => return Ok(None),
        };
        Ok(Some(cut))
    }

    fn announce(&self, name: UplinkName, paths: Paths) -> anyhow::Result<()> {
        let config = bird::config(&self.world, self.world.uplink(name), self.session, paths);
        self.router(name)?.reconfigure(&config)
    }

    /// The gateway's way out gets the buffer of a home router, and the validator sends all that it
    /// takes, on one connection.
    fn bulk_upload(&mut self, name: UplinkName) -> anyhow::Result<()> {
        let shape = "qdisc replace dev ups0 root tbf rate 12mbit burst 32kb latency 300ms";
        self.tc(name, shape)?;
        self.shaped[name.index()] = true;
        // The nearest: with little on the way, the queue holds nearly all that is out.
        let (_, peer) = self
            .world
            .peers()
            .filter(|(_, host)| host.address.is_ipv4())
            .min_by_key(|(_, host)| self.world.prefixes[host.prefix].rtt)
            .context("a bulk upload needs a peer with an IPv4 address")?;
        let address = SocketAddr::new(peer.address, BULK_PORT);
        let listener = self
            .space
            .within(OUTSIDE, || Ok(TcpListener::bind(address)?))?;
        let stream = self.space.within(VALIDATOR, || {
            TcpStream::connect_timeout(&address, Duration::from_secs(2))
                .context("the bulk upload's connection")
        })?;
        self.bulk = Some(Bulk::start(listener, stream)?);
        Ok(())
    }

    fn tc(&self, name: UplinkName, words: &str) -> anyhow::Result<()> {
        let role = GATEWAYS[name.index()];
        let mut command = self.space.command(role, Path::new("tc"));
        crate::ns::run(command.args(words.split(' '))).map(drop)
    }

    fn router(&self, name: UplinkName) -> anyhow::Result<&Router> {
        self.routers
            .get(name.index())
            .context("a fault of BGP in a scenario without BGP (`daemon.bgp = false`)")
    }

    fn rule(&mut self, rule: Rule) -> Cut {
        let id = self.next_rule;
        self.next_rule += 1;
        let mut state = self.forwarder.state();
        state.mark();
        state.rules.insert(id, rule);
        Cut::Rule(id)
    }

    /// Drops in the gateway's namespace all that comes in by either device and all that would leave
    /// towards the validator, but for what `except` accepts; the carrier stays.
    fn gateway_dead(&mut self, name: UplinkName, except: &str) -> anyhow::Result<()> {
        let chain = |chain: &str, hook: &str, device: &str| {
            format!(
                "chain {chain} {{ type filter hook {hook} device {device} priority -500; policy drop; {except} }}\n"
            )
        };
        let rules = format!(
            "table netdev dead {{\n{}{}{}}}\n",
            chain("from_customer", "ingress", CUSTOMER_DEVICE),
            chain("to_customer", "egress", CUSTOMER_DEVICE),
            chain("from_upstream", "ingress", UPSTREAM_DEVICE),
        );
        self.nft(name, &rules)?;
        self.dead[name.index()] = true;
        Ok(())
    }

    fn nft(&self, name: UplinkName, rules: &str) -> anyhow::Result<()> {
        let role = GATEWAYS[name.index()];
        let file = self.space.directory().join(format!("{role}.nft"));
        std::fs::write(&file, rules)?;
        crate::ns::run(
            self.space
                .command(role, Path::new("nft"))
                .arg("-f")
                .arg(&file),
        )
        .map(drop)
    }

    /// When a fault swallowed its first packet; `None`: not yet.
    #[must_use]
    pub fn first_hit(&self, cut: Cut) -> Option<u64> {
        match cut {
            Cut::At(at) => Some(at),
            Cut::Rule(id) => self.forwarder.state().rules.get(&id)?.first_hit.1,
            Cut::Gateway(name) => {
                let (last, _) = self.forwarder.state().last_key[name.index()]?;
                self.taps[name.index()].as_ref()?.first_after(last)
            }
        }
    }

    /// Ends every fault of the network and of BGP.
    ///
    /// # Errors
    /// Something cannot be restored.
    pub fn heal(&mut self) -> anyhow::Result<()> {
        self.hog = None;
        self.bulk = None;
        for name in UplinkName::ALL {
            if std::mem::take(&mut self.shaped[name.index()]) {
                self.tc(name, "qdisc del dev ups0 root")?;
            }
        }
        self.forwarder.state().rules.clear();
        for name in UplinkName::ALL {
            if std::mem::take(&mut self.dead[name.index()]) {
                self.nft(name, "delete table netdev dead\n")?;
            }
            if std::mem::take(&mut self.down[name.index()]) {
                // Going down has flushed the gateway's routes.
                self.space.ip_batch(
                    GATEWAYS[name.index()],
                    &gateway_routes(&self.world, name, true),
                )?;
            }
        }
        for (router, uplink) in self.routers.iter().zip(&self.world.uplinks) {
            router.session(true)?;
            let config = bird::config(&self.world, uplink, self.session, Paths::Usual);
            router.reconfigure(&config)?;
            router.announce(&self.world, None, true)?;
        }
        Ok(())
    }
}

fn tun(space: &Space, role: &str, name: &str) -> anyhow::Result<OwnedFd> {
    space.within(role, || {
        sys::open_tun(name)
            .context("cannot open /dev/net/tun: is the kernel module `tun` available?")
    })
}

fn gateway_routes(world: &World, name: UplinkName, again: bool) -> String {
    let uplink = world.uplink(name);
    let verb = if again { "replace" } else { "add" };
    let mut text = String::new();
    let (gateway, link, own) = (uplink.gateway, uplink.link, world.own);
    let _ = write!(
        text,
        "address {verb} {}/24 dev {CUSTOMER_DEVICE}\naddress {verb} {}/64 dev {CUSTOMER_DEVICE} nodad\n\
         link set {CUSTOMER_DEVICE} up\nlink set {UPSTREAM_DEVICE} up\n\
         route {verb} 0.0.0.0/0 dev {UPSTREAM_DEVICE}\nroute {verb} ::/0 dev {UPSTREAM_DEVICE}\n\
         route {verb} {}/32 via {} dev {CUSTOMER_DEVICE}\nroute {verb} {}/128 via {} dev {CUSTOMER_DEVICE}\n",
        gateway.0, gateway.1, own.0, link.0, own.1, link.1,
    );
    text
}

fn wire(space: &Space, world: &World) -> anyhow::Result<()> {
    let mut text = format!(
        "address add {}/32 dev lo\naddress add {}/128 dev lo nodad\n",
        world.own.0, world.own.1
    );
    for (uplink, role) in world.uplinks.iter().zip(GATEWAYS) {
        let interface = uplink.interface;
        let _ = write!(
            text,
            "link add {interface} type veth peer name {CUSTOMER_DEVICE} netns {}\n\
             address add {}/24 dev {interface}\naddress add {}/64 dev {interface} nodad\n\
             link set {interface} up\n",
            space.name(role),
            uplink.link.0,
            uplink.link.1,
        );
    }
    space.ip_batch(VALIDATOR, &text)?;
    for name in UplinkName::ALL {
        space.ip_batch(GATEWAYS[name.index()], &gateway_routes(world, name, false))?;
    }
    let mut text = String::new();
    for (uplink, metric) in world.uplinks.iter().zip([100, 200]) {
        let interface = uplink.interface;
        let _ = write!(
            text,
            "route add 0.0.0.0/0 via {} dev {interface} src {} metric {metric}\n\
             route add ::/0 via {} dev {interface} src {} metric {metric}\n",
            uplink.gateway.0, world.own.0, uplink.gateway.1, world.own.1,
        );
    }
    space.ip_batch(VALIDATOR, &text)?;
    let mut text = format!("link set {WORLD_DEVICE} up\n");
    for host in &world.hosts {
        let (length, flags) = if host.address.is_ipv4() {
            (32, "")
        } else {
            (128, " nodad")
        };
        let _ = writeln!(text, "address add {}/{length} dev lo{flags}", host.address);
    }
    let _ = writeln!(
        text,
        "route add 0.0.0.0/0 dev {WORLD_DEVICE}\nroute add ::/0 dev {WORLD_DEVICE}"
    );
    space.ip_batch(OUTSIDE, &text)
}

/// Sees what arrives at a gateway's door, also what a drop rule swallows right behind it: packet
/// sockets are served before the ingress hook (`__netif_receive_skb_core`).
struct Tap {
    seen: Arc<Mutex<VecDeque<(u64, Tcp)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A few seconds' worth.
const TAP_LIMIT: usize = 20_000;

impl Tap {
    fn start(space: &Space, role: &str) -> anyhow::Result<Self> {
        let socket = space.within(role, || Ok(packet_socket(CUSTOMER_DEVICE)?))?;
        let seen = Arc::new(Mutex::new(VecDeque::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (inner, flag) = (seen.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("lab-tap".to_owned())
            .spawn(move || watch(&socket, &inner, &flag))?;
        Ok(Self {
            seen,
            stop,
            thread: Some(thread),
        })
    }

    /// When the packet after `last` arrived.
    fn first_after(&self, last: Tcp) -> Option<u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let at = seen.iter().rposition(|(_, tcp)| *tcp == last)?;
        seen.get(at + 1).map(|(at, _)| *at)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn packet_socket(device: &str) -> std::io::Result<OwnedFd> {
    const ETH_P_ALL: u16 = 3;
    const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
    let name = std::ffi::CString::new(device)?;
    // SAFETY: the descriptor is owned by nobody else; the address is valid for the call.
    unsafe {
        let fd = sys::check(libc::socket(
            libc::AF_PACKET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            i32::from(ETH_P_ALL.to_be()),
        ))?;
        let fd = OwnedFd::from_raw_fd(fd);
        let on: libc::c_int = 1;
        sys::check(libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        ))?;
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ETH_P_ALL.to_be();
        address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
        sys::check(libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        ))?;
        Ok(fd)
    }
}

fn watch(socket: &OwnedFd, seen: &Mutex<VecDeque<(u64, Tcp)>>, stop: &AtomicBool) {
    let Ok(epoll) = sys::Epoll::new() else { return };
    if epoll.add(socket.as_raw_fd(), libc::EPOLLIN, 0).is_err() {
        return;
    }
    let (mut ready, mut buffer) = (Vec::new(), [0u8; 2_048]);
    while !stop.load(Ordering::Relaxed) {
        if epoll.wait(50_000_000, &mut ready).is_err() {
            return;
        }
        while let Ok(Some(length)) = sys::read(socket.as_raw_fd(), &mut buffer) {
            let at = arrival(socket).unwrap_or_else(sys::now);
            let Some(tcp) = Packet::parse(&buffer[..length])
                .filter(|packet| packet.is_workload(PEER_PORT))
                .and_then(|packet| packet.tcp)
            else {
                continue;
            };
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() >= TAP_LIMIT {
                seen.pop_front();
            }
            seen.push_back((at, tcp));
        }
    }
}

/// When the kernel received the packet that was read last, on the lab's clock.
fn arrival(socket: &OwnedFd) -> Option<u64> {
    const SIOCGSTAMPNS: libc::c_ulong = 0x8907;
    let mut stamp = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut wall = stamp;
    // SAFETY: both calls fill one timespec.
    unsafe {
        sys::check(libc::ioctl(
            socket.as_raw_fd(),
            SIOCGSTAMPNS as _,
            &raw mut stamp,
        ))
        .ok()?;
        libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut wall);
    }
    let nanos = |t: libc::timespec| t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64;
    Some(sys::now().saturating_sub(nanos(wall).saturating_sub(nanos(stamp))))
}
