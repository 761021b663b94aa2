//! The validator's routing table as its kernel announces changes (rtnetlink multicast), with the
//! time at which each announcement was read.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use ipnet::IpNet;

use crate::ns::Space;
use crate::sys;

/// A route appeared or disappeared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEvent {
    /// When the lab read it.
    pub at: u64,
    /// It appeared.
    pub added: bool,
    /// Destination.
    pub destination: IpNet,
    /// `rtm_protocol`: who installed it.
    pub protocol: u8,
    /// Routing table.
    pub table: u32,
    /// `RTA_PRIORITY`.
    pub metric: u32,
}

/// Listens in a namespace. Dropping it ends the thread.
pub struct Monitor {
    events: Arc<Mutex<Vec<RouteEvent>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Starts to listen in a role's namespace.
    ///
    /// # Errors
    /// The socket cannot be opened there.
    pub fn start(space: &Space, role: &str) -> anyhow::Result<Self> {
        let socket = space.within(role, || Ok(open()?))?;
        let events = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (inner, flag) = (events.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("lab-routes".to_owned())
            .spawn(move || listen(&socket, &inner, &flag))?;
        Ok(Self {
            events,
            stop,
            thread: Some(thread),
        })
    }

    /// What was announced since the start.
    #[must_use]
    pub fn events(&self) -> Vec<RouteEvent> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is owned by nobody else; the address is valid for the call.
    unsafe {
        let fd = sys::check(libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            libc::NETLINK_ROUTE,
        ))?;
        let fd = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = (libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE) as u32;
        sys::check(libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_nl>() as libc::socklen_t,
        ))?;
        Ok(fd)
    }
}

fn listen(socket: &OwnedFd, events: &Mutex<Vec<RouteEvent>>, stop: &AtomicBool) {
    let Ok(epoll) = sys::Epoll::new() else { return };
    if epoll.add(socket.as_raw_fd(), libc::EPOLLIN, 0).is_err() {
        return;
    }
    let (mut ready, mut buffer) = (Vec::new(), vec![0u8; 65_536]);
    while !stop.load(Ordering::Relaxed) {
        if epoll.wait(50_000_000, &mut ready).is_err() {
            return;
        }
        while let Ok(Some(length)) = sys::read(socket.as_raw_fd(), &mut buffer) {
            let found = parse(&buffer[..length], sys::now());
            events
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(found);
            if length == 0 {
                break;
            }
        }
    }
}

/// The route messages of a datagram (rtnetlink(7)).
fn parse(mut bytes: &[u8], at: u64) -> Vec<RouteEvent> {
    let mut events = Vec::new();
    while bytes.len() >= 16 {
        let length = (word(bytes, 0) as usize).clamp(16, bytes.len());
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        if kind == libc::RTM_NEWROUTE || kind == libc::RTM_DELROUTE {
            events.extend(route(&bytes[16..length], kind == libc::RTM_NEWROUTE, at));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    events
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|word| word.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

fn route(bytes: &[u8], added: bool, at: u64) -> Option<RouteEvent> {
    let (family, length) = (*bytes.first()?, *bytes.get(1)?);
    let (mut table, protocol) = (u32::from(*bytes.get(4)?), *bytes.get(5)?);
    let mut address: IpAddr = if i32::from(family) == libc::AF_INET {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let mut metric = 0;
    let mut attributes = bytes.get(12..)?;
    while attributes.len() >= 4 {
        let size = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]))
            .clamp(4, attributes.len());
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]);
        let value = &attributes[4..size];
        if kind == libc::RTA_DST {
            address = match *value {
                [a, b, c, d] => Ipv4Addr::new(a, b, c, d).into(),
                _ => Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into(),
            };
        } else if kind == libc::RTA_TABLE {
            table = word(value, 0);
        } else if kind == libc::RTA_PRIORITY {
            metric = word(value, 0);
        }
        attributes = attributes
            .get(size.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Some(RouteEvent {
        at,
        added,
        destination: IpNet::new(address, length).ok()?,
        protocol,
        table,
        metric,
    })
}
