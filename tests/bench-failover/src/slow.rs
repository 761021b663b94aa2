//! What needs seconds: a ping monitor with dpinger's rules, and what applications can ask TCP for.
//!
//! Several of each run side by side with drawn phases, so that a few long cuts give many samples.
//! All are bound to uplink `a`, so that nobody's reroute is in their way.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use lab::rig::{Rig, VALIDATOR};
use lab::rng::Rng;
use lab::sys;
use lab::world::{PEER_PORT, Role};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// dpinger as pfSense and OPNsense run it.
pub const DPINGER: &str = "dpinger 500 ms, 60 s, 20 %";
/// A connection that sends, with `TCP_USER_TIMEOUT` of a second.
pub const USER_TIMEOUT: &str = "TCP_USER_TIMEOUT 1 s";
/// A connection that only receives, with the shortest keepalive that Linux has, three probes.
pub const KEEPALIVE: &str = "keepalive 1 s + 3 x 1 s";
/// In the order in which they are reported.
pub const NAMES: [&str; 3] = [DPINGER, USER_TIMEOUT, KEEPALIVE];

/// Of each kind.
pub const SIDE_BY_SIDE: usize = 20;

const MILLI: u64 = 1_000_000;
const SEND: u64 = 500 * MILLI;
const LOSS: u64 = 2_000 * MILLI;
const ALERT: u64 = 1_000 * MILLI;
/// (time period + loss interval) / send interval.
const SLOTS: usize = 124;
const PERCENT: usize = 20;

/// The rules of dpinger 3: every 500 ms an echo request; one without an answer for 2 s is lost; an
/// alarm when more than 20 whole percent of those decided in the window are, looked at every second.
#[derive(Clone, Debug)]
struct Window {
    /// When each request left, and whether its answer came; the newest at the end.
    sent: VecDeque<(u64, u16, bool)>,
}

impl Window {
    /// A minute of answers: the state of a monitor that has been running for long.
    fn warm(now: u64) -> Self {
        let sent = (1..=SLOTS as u64)
            .rev()
            .map(|n| (now.saturating_sub(n * SEND), 0, true))
            .collect();
        Self { sent }
    }

    fn send(&mut self, at: u64, sequence: u16) {
        self.sent.pop_front();
        self.sent.push_back((at, sequence, false));
    }

    fn answer(&mut self, sequence: u16) {
        let entry = self.sent.iter_mut().rfind(|(_, s, _)| *s == sequence);
        if let Some((_, _, answered)) = entry {
            *answered = true;
        }
    }

    fn alarm(&self, now: u64) -> bool {
        let received = self.sent.iter().filter(|(.., ok)| *ok).count();
        let lost = self
            .sent
            .iter()
            .filter(|(at, _, ok)| !ok && now.saturating_sub(*at) > LOSS)
            .count();
        lost > 0 && lost * 100 / (received + lost) > PERCENT
    }
}

struct Pinger {
    socket: Socket,
    target: Ipv4Addr,
    sequence: u16,
    next_send: u64,
    next_check: u64,
    window: Window,
}

struct Flow {
    name: &'static str,
    stream: Option<Socket>,
    remote: SocketAddr,
    next_send: u64,
}

/// First alarm of each monitor since the last reset: name and time.
type Alarms = Arc<Mutex<Vec<(&'static str, usize, u64)>>>;

/// The monitors, running. Dropping it ends them.
pub struct Slow {
    alarms: Alarms,
    reset: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Slow {
    /// Starts all of them in the validator's namespace.
    ///
    /// # Errors
    /// A socket cannot be opened there.
    pub fn start(rig: &Rig, seed: u64) -> anyhow::Result<Self> {
        let link = rig.world.uplinks[0].link.0;
        let interface = rig.world.uplinks[0].interface;
        let anchors = anchors(rig);
        let mut rng = Rng::new(seed ^ 0x510);
        let space = &rig.space;
        let mut monitors = space.within(VALIDATOR, || {
            Monitors::open(link, interface, &anchors, &mut rng)
        })?;
        let (alarms, reset, stop) = (
            Alarms::default(),
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let (told, again, flag) = (alarms.clone(), reset.clone(), stop.clone());
        let namespace = space.name(VALIDATOR);
        let thread = std::thread::Builder::new()
            .name("bench-slow".to_owned())
            .spawn(move || {
                if let Err(error) = lab::ns::enter(&namespace) {
                    eprintln!("the monitors cannot run: {error:#}");
                    return;
                }
                while !flag.load(Ordering::Relaxed) {
                    if again.swap(false, Ordering::SeqCst) {
                        told.lock().unwrap_or_else(PoisonError::into_inner).clear();
                        monitors.reset(sys::now());
                    }
                    monitors.step(sys::now(), &told);
                    std::thread::sleep(Duration::from_millis(2));
                }
            })?;
        Ok(Self {
            alarms,
            reset,
            stop,
            thread: Some(thread),
        })
    }

    /// Back to the warm state: windows full of answers, connections open, no alarm.
    pub fn reset(&self) {
        self.reset.store(true, Ordering::SeqCst);
    }

    /// When each monitor of a name raised its first alarm after `cut`.
    #[must_use]
    pub fn alarms(&self, name: &str, cut: u64) -> Vec<u64> {
        let alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        alarms
            .iter()
            .filter(|(n, _, at)| *n == name && *at >= cut)
            .map(|(.., at)| *at)
            .collect()
    }

    /// Every monitor has raised its alarm.
    #[must_use]
    pub fn all(&self, cut: u64) -> bool {
        NAMES
            .iter()
            .all(|name| self.alarms(name, cut).len() >= SIDE_BY_SIDE)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// IPv4 addresses out there that answer probes and connections, and are no peers.
#[must_use]
pub fn anchors(rig: &Rig) -> Vec<Ipv4Addr> {
    let hosts = rig.world.hosts.iter();
    hosts
        .filter(|host| host.role == Role::Anchor)
        .filter_map(|host| match host.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect()
}

struct Monitors {
    link: Ipv4Addr,
    interface: &'static str,
    pingers: Vec<Pinger>,
    flows: Vec<Flow>,
}

impl Monitors {
    fn open(
        link: Ipv4Addr,
        interface: &'static str,
        anchors: &[Ipv4Addr],
        rng: &mut Rng,
    ) -> anyhow::Result<Self> {
        let now = sys::now();
        let mut target = || {
            rng.pick(anchors)
                .copied()
                .context("a world without anchors")
        };
        let mut pingers = Vec::new();
        let mut flows = Vec::new();
        for _ in 0..SIDE_BY_SIDE {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4))?;
            socket.set_nonblocking(true)?;
            socket.bind_device(Some(interface.as_bytes()))?;
            socket.bind(&SocketAddr::new(link.into(), 0).into())?;
            pingers.push(Pinger {
                socket,
                target: target()?,
                sequence: 0,
                next_send: 0,
                next_check: 0,
                window: Window::warm(now),
            });
            for name in [USER_TIMEOUT, KEEPALIVE] {
                flows.push(Flow {
                    name,
                    stream: None,
                    remote: SocketAddr::new(target()?.into(), PEER_PORT),
                    next_send: 0,
                });
            }
        }
        for pinger in &mut pingers {
            pinger.next_send = now + rng.range(0, SEND);
            pinger.next_check = now + rng.range(0, ALERT);
        }
        let mut monitors = Self {
            link,
            interface,
            pingers,
            flows,
        };
        for flow in &mut monitors.flows {
            flow.stream = Some(connect(link, interface, flow)?);
        }
        Ok(monitors)
    }

    fn reset(&mut self, now: u64) {
        for pinger in &mut self.pingers {
            pinger.window = Window::warm(now);
        }
        for flow in &mut self.flows {
            if flow.stream.is_none() {
                flow.stream = connect(self.link, self.interface, flow).ok();
            }
        }
    }

    fn step(&mut self, now: u64, alarms: &Alarms) {
        let alarm = |name, nth| {
            let mut alarms = alarms.lock().unwrap_or_else(PoisonError::into_inner);
            if !alarms.iter().any(|(n, i, _)| (*n, *i) == (name, nth)) {
                alarms.push((name, nth, now));
            }
        };
        for (nth, pinger) in self.pingers.iter_mut().enumerate() {
            pinger.step(now);
            if pinger.next_check <= now {
                pinger.next_check += ALERT;
                if pinger.window.alarm(now) {
                    alarm(DPINGER, nth);
                }
            }
        }
        for (nth, flow) in self.flows.iter_mut().enumerate() {
            if flow.failed(now) {
                flow.stream = None;
                alarm(flow.name, nth);
            }
        }
    }
}

impl Pinger {
    fn step(&mut self, now: u64) {
        let mut reply = [0u8; 64];
        // A ping socket is shown the ICMP header first, with its own identifier.
        while let Ok(length) = (&self.socket).read(&mut reply) {
            if length >= 8 && reply[0] == 0 {
                self.window.answer(u16::from_be_bytes([reply[6], reply[7]]));
            }
        }
        if self.next_send <= now {
            self.next_send += SEND;
            self.sequence = self.sequence.wrapping_add(1);
            let [high, low] = self.sequence.to_be_bytes();
            self.window.send(now, self.sequence);
            let to = SocketAddr::new(self.target.into(), 0);
            // One that cannot be sent is lost like any other.
            let _ = self
                .socket
                .send_to(&[8, 0, 0, 0, 0, 0, high, low], &to.into());
        }
    }
}

impl Flow {
    fn failed(&mut self, now: u64) -> bool {
        let Some(stream) = &self.stream else {
            return false;
        };
        let mut stream = stream;
        let mut buffer = [0u8; 4_096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return true,
            }
        }
        if self.name == USER_TIMEOUT && self.next_send <= now {
            self.next_send = now + 50 * MILLI;
            return matches!(stream.write(&[b'n'; 200]), Err(error) if error.kind() != ErrorKind::WouldBlock);
        }
        false
    }
}

fn connect(link: Ipv4Addr, interface: &str, flow: &Flow) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::new(link.into(), 0).into())?;
    if flow.name == USER_TIMEOUT {
        socket.set_tcp_user_timeout(Some(Duration::from_secs(1)))?;
    } else {
        let second = Duration::from_secs(1);
        let keepalive = TcpKeepalive::new()
            .with_time(second)
            .with_interval(second)
            .with_retries(3);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    socket.set_nonblocking(true)?;
    match socket.connect(&flow.remote.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            Err(error).with_context(|| format!("cannot connect to {}", flow.remote))
        }
        _ => Ok(socket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_comes_with_the_26th_loss() {
        let start = 1_000 * SEND;
        let mut window = Window::warm(start);
        let mut alarmed = None;
        for n in 0..60u16 {
            let at = start + u64::from(n) * SEND;
            window.send(at, n + 1);
            if alarmed.is_none() && window.alarm(at + 1) {
                alarmed = Some(n);
            }
        }
        // 26 of 120 decided are 21 %; the 26th was sent after 12.5 s and is lost 2 s later.
        assert_eq!(alarmed, Some(29));
        for n in 0..60 {
            window.answer(n + 1);
        }
        assert!(!window.alarm(start + 60 * SEND));
    }
}
