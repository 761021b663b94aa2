//! Requests to the kernel's routing table.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use events::{FibRoute, Prefix, RouteSpec};
use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use rtnetlink::Handle;
use tokio::task::AbortHandle;

/// What the kernel said, and of which request.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refused.
    #[error("{request}: {source}")]
    Refused {
        /// The request, in words.
        request: String,
        /// The errno.
        source: io::Error,
    },
    /// The netlink socket is gone or answered out of order.
    #[error("{request}: netlink: {text}")]
    Netlink {
        /// The request, in words.
        request: String,
        /// What went wrong.
        text: String,
    },
    /// An interface of the configuration does not exist.
    #[error("no interface {0}: check the [[egress]] tables of the configuration")]
    NoInterface(String),
}

impl KernelError {
    fn of(request: String, error: rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => Self::Refused {
                request,
                source: message.to_io(),
            },
            other => Self::Netlink {
                request,
                text: other.to_string(),
            },
        }
    }

    /// The kernel's errno, if it answered with one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Netlink { .. } | Self::NoInterface(_) => None,
        }
    }
}

/// The kernel's routing table, as far as one `rtm_protocol` number owns it.
///
/// It belongs to the network namespace of the thread that opened it.
#[derive(Clone, Debug)]
pub struct Kernel {
    handle: Handle,
    protocol: u8,
    /// The task that serves the socket.
    task: AbortHandle,
}

impl Kernel {
    /// Opens a netlink socket and spawns the task that serves it.
    ///
    /// # Errors
    /// The socket could not be opened.
    pub fn open(protocol: u8) -> io::Result<Self> {
        // Strict checking (`NETLINK_GET_STRICT_CHK`) makes the kernel filter dumps by protocol.
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        let task = tokio::spawn(connection).abort_handle();
        Ok(Self {
            handle,
            protocol,
            task,
        })
    }

    /// The socket is still served. It is not after an answer that could not be decoded.
    #[must_use]
    pub fn alive(&self) -> bool {
        !self.task.is_finished()
    }

    /// Creates a route; one that exists with the same prefix and metric is never replaced (EEXIST).
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn add(&self, route: &RouteSpec) -> Result<(), KernelError> {
        let index = interface_index(&route.interface)?;
        let mut message = self.message(route);
        message.attributes.extend([
            RouteAttribute::Oif(index),
            RouteAttribute::Gateway(route.gateway.into()),
            RouteAttribute::PrefSource(route.source.into()),
        ]);
        // `NLM_F_CREATE | NLM_F_EXCL`, the request's default.
        self.handle
            .route()
            .add(message)
            .execute()
            .await
            .map_err(|e| KernelError::of(format!("add {}", words(route)), e))
    }

    /// Deletes a route of ours: the kernel compares the protocol number, so that nobody else's is
    /// touched. One that is gone already is no error; the answer says whether it was there.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn delete(&self, route: &RouteSpec) -> Result<bool, KernelError> {
        let result = self.handle.route().del(self.message(route)).execute().await;
        match result.map_err(|e| KernelError::of(format!("delete {}", words(route)), e)) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.errno(), Some(libc::ESRCH | libc::ENOENT)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Prefix, table and metric of every route with our protocol number.
    ///
    /// # Errors
    /// The dump failed.
    pub async fn ours(&self) -> Result<Vec<(Prefix, u32, u32)>, KernelError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.protocol = RouteProtocol::from(self.protocol);
            let mut dump = std::pin::pin!(self.handle.route().get(request).execute());
            while let Some(message) = dump
                .try_next()
                .await
                .map_err(|e| KernelError::of("dump routes".to_owned(), e))?
            {
                if u8::from(message.header.protocol) == self.protocol
                    && !message.header.flags.contains(RouteFlags::Cloned)
                    && let Some(prefix) = destination(&message)
                {
                    found.push((prefix, table(&message), metric(&message)));
                }
            }
        }
        Ok(found)
    }

    /// Deletes every route with our protocol number; how many there were.
    ///
    /// # Errors
    /// The dump failed, or routes could not be deleted.
    pub async fn sweep(&self) -> Result<usize, KernelError> {
        let mut swept = 0;
        for (prefix, table, metric) in self.ours().await? {
            let any = match prefix {
                Prefix::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                Prefix::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let route = RouteSpec {
                prefix,
                egress: "".into(),
                interface: String::new(),
                gateway: any,
                source: any,
                metric,
                table,
            };
            swept += usize::from(self.delete(&route).await?);
        }
        Ok(swept)
    }

    /// Gives up the unresolved neighbours (NUD_INCOMPLETE) of an interface, and returns how many
    /// there were. Segments that wait for their resolution count as still in this host for TCP
    /// (`skb_still_in_host_queue`): it does not send them again, by whatever route, until the
    /// resolution fails by itself seconds later.
    ///
    /// # Errors
    /// The dump failed. A neighbour that cannot be deleted is skipped: it was resolved meanwhile.
    pub async fn release_unresolved(&self, interface: &str) -> Result<usize, KernelError> {
        let index = interface_index(interface)?;
        let mut released = 0;
        let found: Vec<_> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_filter(|n| {
                let stuck = n.header.state == NeighbourState::Incomplete;
                std::future::ready(stuck && n.header.ifindex == index)
            })
            .try_collect()
            .await
            .map_err(|e| KernelError::of(format!("neighbours of {interface}"), e))?;
        for neighbour in found {
            let deleted = self.handle.neighbours().del(neighbour).execute().await;
            released += usize::from(deleted.is_ok());
        }
        Ok(released)
    }

    /// The route that packets from `source` to `peer` take: RTM_GETROUTE with RTM_F_FIB_MATCH, so
    /// that the entry's own prefix, metric, protocol and table come back. `None`: unreachable.
    /// `egress` is left empty; the caller knows which interface is which egress.
    ///
    /// # Errors
    /// The kernel's refusal, such as for a source that is not an address of this host (EINVAL).
    pub async fn lookup(
        &self,
        peer: IpAddr,
        source: IpAddr,
    ) -> Result<Option<FibRoute>, KernelError> {
        let Some(entry) = self.get(peer, source, true).await? else {
            return Ok(None);
        };
        let Some(prefix) = destination(&entry) else {
            return Ok(None);
        };
        let (mut oif, mut gateway) = next_hop(&entry);
        if oif.is_none() {
            // Several next hops: ask which one this flow's addresses choose.
            if let Some(resolved) = self.get(peer, source, false).await? {
                (oif, gateway) = next_hop(&resolved);
            }
        }
        let Some(interface) = oif.and_then(interface_name) else {
            return Ok(None);
        };
        let protocol = u8::from(entry.header.protocol);
        Ok(Some(FibRoute {
            prefix,
            table: table(&entry),
            metric: metric(&entry),
            protocol,
            interface,
            gateway,
            egress: None,
            ours: protocol == self.protocol,
        }))
    }

    async fn get(
        &self,
        peer: IpAddr,
        source: IpAddr,
        fib_match: bool,
    ) -> Result<Option<RouteMessage>, KernelError> {
        let mut request = RouteMessage::default();
        request.header.address_family = family(peer);
        request.header.destination_prefix_length = Prefix::from(peer).prefix_len();
        request.header.source_prefix_length = Prefix::from(source).prefix_len();
        if peer.is_ipv4() {
            // IPv6 names the table anyway and takes this flag for an error.
            request.header.flags |= RouteFlags::LookupTable;
        }
        if fib_match {
            request.header.flags |= RouteFlags::FibMatch;
        }
        request.attributes = vec![
            RouteAttribute::Destination(peer.into()),
            RouteAttribute::Source(source.into()),
        ];
        let mut answers = std::pin::pin!(self.handle.route().get(request).execute());
        match answers.try_next().await {
            Ok(answer) => {
                Ok(answer
                    .filter(|m| matches!(m.header.kind, RouteType::Unicast | RouteType::Local)))
            }
            Err(e) => {
                let error = KernelError::of(format!("get {peer} from {source}"), e);
                match error.errno() {
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES) => Ok(None),
                    _ => Err(error),
                }
            }
        }
    }

    /// What identifies a route of ours: prefix, table, metric and protocol.
    fn message(&self, route: &RouteSpec) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family(route.prefix.addr());
        message.header.destination_prefix_length = route.prefix.prefix_len();
        message.header.protocol = RouteProtocol::from(self.protocol);
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Destination(route.prefix.network().into()),
            RouteAttribute::Priority(route.metric),
        ];
        match u8::try_from(route.table) {
            Ok(table) => message.header.table = table,
            Err(_) => {
                message.header.table = RouteHeader::RT_TABLE_UNSPEC;
                message.attributes.push(RouteAttribute::Table(route.table));
            }
        }
        message
    }
}

/// A route in words.
pub(crate) fn words(route: &RouteSpec) -> String {
    format!(
        "{} via {} dev {} src {} metric {} table {}",
        route.prefix, route.gateway, route.interface, route.source, route.metric, route.table
    )
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv6() {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

fn address(raw: &RouteAddress) -> Option<IpAddr> {
    match raw {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn destination(message: &RouteMessage) -> Option<Prefix> {
    let network = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(raw) => address(raw),
            _ => None,
        })
        // A default route has no RTA_DST.
        .unwrap_or(if message.header.address_family == AddressFamily::Inet6 {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        });
    Prefix::new(network, message.header.destination_prefix_length)
        .ok()
        .map(|prefix| prefix.trunc())
}

fn table(message: &RouteMessage) -> u32 {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(u32::from(message.header.table))
}

fn metric(message: &RouteMessage) -> u32 {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        })
        .unwrap_or(0)
}

fn next_hop(message: &RouteMessage) -> (Option<u32>, Option<IpAddr>) {
    let (mut oif, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::Gateway(raw) => gateway = address(raw),
            RouteAttribute::Via(netlink_packet_route::route::RouteVia::Inet6(via)) => {
                gateway = Some(IpAddr::V6(*via));
            }
            _ => {}
        }
    }
    (oif, gateway)
}

pub(crate) fn interface_index(name: &str) -> Result<u32, KernelError> {
    nix::net::if_::if_nametoindex(name).map_err(|_| KernelError::NoInterface(name.to_owned()))
}

fn interface_name(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index)
        .ok()
        .and_then(|name| name.into_string().ok())
}
