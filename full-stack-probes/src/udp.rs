//! Datagrams of watched threads: the probe, its counters, and its records.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use ebpf_abi::Datagram;
use events::{ConnectionId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Settings;
use crate::convert;
use crate::probes::{Attachment, Hook, Probe, Rung, RungKind};

const SEND: &[&str] = &["sock", "msghdr", ""];
const RECEIVE: &[&str] = &["sock", "msghdr", "", ""];
const LENGTH: &[&str] = &["sock", "", ""];

/// `udp_sendmsg`, `udp_recvmsg` and their IPv6 twins.
pub const PROBE: Probe = Probe {
    name: "udp",
    loss: "datagrams of watched threads",
    wanted,
    rungs: &[
        Rung {
            kind: RungKind::Function,
            attachments: &[
                Attachment {
                    program: "udp_send_out",
                    hook: Hook::Fexit("udp_sendmsg"),
                    arguments: SEND,
                },
                Attachment {
                    program: "udp6_send_out",
                    hook: Hook::Fexit("udpv6_sendmsg"),
                    arguments: SEND,
                },
                Attachment {
                    program: "udp_recv_out",
                    hook: Hook::Fexit("udp_recvmsg"),
                    arguments: RECEIVE,
                },
                Attachment {
                    program: "udp6_recv_out",
                    hook: Hook::Fexit("udpv6_recvmsg"),
                    arguments: RECEIVE,
                },
            ],
            loss: "",
        },
        Rung {
            kind: RungKind::Kprobe,
            attachments: &[
                Attachment {
                    program: "udp_send_kp",
                    hook: Hook::Kprobe("udp_sendmsg"),
                    arguments: SEND,
                },
                Attachment {
                    program: "udp6_send_kp",
                    hook: Hook::Kprobe("udpv6_sendmsg"),
                    arguments: SEND,
                },
                Attachment {
                    program: "udp_consumed_kp",
                    hook: Hook::Kprobe("skb_consume_udp"),
                    arguments: &["sock", "sk_buff", ""],
                },
            ],
            loss: "results of sends (bytes are what the caller asked for), errors, calls while \
                   another kprobe's program runs on that CPU",
        },
        Rung {
            kind: RungKind::TpBtf,
            attachments: &[
                Attachment {
                    program: "udp_send_tp",
                    hook: Hook::TpBtf("sock_send_length"),
                    arguments: LENGTH,
                },
                Attachment {
                    program: "udp_recv_tp",
                    hook: Hook::TpBtf("sock_recv_length"),
                    arguments: LENGTH,
                },
            ],
            loss: "destinations of sockets that are not connected",
        },
    ],
    fields: &["SK_PROTOCOL", "MSG_NAME", "MSG_NAMELEN"],
};

fn wanted(settings: &Settings) -> bool {
    settings.watch.has_processes()
}

/// What a watched thread sent and received by UDP since it was first seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpThread {
    /// Thread group id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// The thread's name, 15 bytes at most.
    pub comm: String,
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// Sends that failed, except with EAGAIN.
    pub send_errors: u32,
    /// When it last sent.
    pub sent_at: Option<Timestamp>,
    /// Datagrams received.
    pub received: u64,
    /// Bytes in them.
    pub received_bytes: u64,
    /// Receives that failed, except with EAGAIN.
    pub receive_errors: u32,
    /// When it last received.
    pub received_at: Option<Timestamp>,
}

/// A map's value.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Value(ebpf_abi::UdpThread);

// SAFETY: numbers and an array of numbers.
unsafe impl Pod for Value {}

/// The kernel's counters by thread.
pub struct Threads(HashMap<MapData, u64, Value>);

impl Threads {
    /// Two holders of the map: one for each thread that uses it.
    pub fn pair(map: Map) -> Result<(Self, Self), String> {
        let Map::LruHashMap(first) = map else {
            return Err(format!("is no LRU hash: {map:?}"));
        };
        let fd = first.fd().as_fd().try_clone_to_owned();
        let second = fd
            .map_err(|error| error.to_string())
            .and_then(|fd| MapData::from_fd(fd).map_err(|error| error.to_string()))?;
        let holder = |data| {
            HashMap::try_from(Map::LruHashMap(data))
                .map(Self)
                .map_err(|error: MapError| error.to_string())
        };
        Ok((holder(first)?, holder(second)?))
    }

    /// All threads, by process and thread id. One that is forgotten meanwhile may be missing.
    pub fn read(&self) -> Vec<UdpThread> {
        let mut threads: Vec<_> = self
            .0
            .iter()
            .flatten()
            .map(|(key, value)| thread(key, &value.0))
            .collect();
        threads.sort_by_key(|thread| (thread.pid, thread.tid));
        threads
    }

    /// Forgets threads that have ended. Returns how many.
    pub fn forget_ended(&mut self) -> usize {
        let ended: Vec<u64> = self
            .0
            .keys()
            .flatten()
            .filter(|key| !Path::new(&format!("/proc/{}/task/{}", key >> 32, *key as u32)).exists())
            .collect();
        ended
            .iter()
            .filter(|key| self.0.remove(key).is_ok())
            .count()
    }
}

fn thread(key: u64, value: &ebpf_abi::UdpThread) -> UdpThread {
    let time = |nanos: u64| (nanos != 0).then(|| Timestamp::from_nanos(nanos));
    UdpThread {
        pid: (key >> 32) as u32,
        tid: key as u32,
        comm: convert::comm(&value.comm),
        sent: value.sent,
        sent_bytes: value.sent_bytes,
        send_errors: value.send_errors,
        sent_at: time(value.sent_at),
        received: value.received,
        received_bytes: value.received_bytes,
        receive_errors: value.receive_errors,
        received_at: time(value.received_at),
    }
}

/// The datagram that a record tells.
pub fn datagram(record: &Datagram) -> events::Datagram {
    let flow = convert::flow(
        record.local,
        record.local_port,
        record.remote,
        record.remote_port,
    );
    events::Datagram {
        at: Timestamp::from_nanos(record.at),
        connection: ConnectionId(record.cookie),
        local: flow.local,
        remote: is_known(flow.remote).then_some(flow.remote),
        result: convert::result(record.result),
        asked: record.asked != 0,
        pid: record.pid,
        tid: record.tid,
        comm: convert::comm(&record.comm),
    }
}

fn is_known(address: SocketAddr) -> bool {
    address.port() != 0
        && match address.ip() {
            IpAddr::V4(ip) => !ip.is_unspecified(),
            IpAddr::V6(ip) => !ip.is_unspecified(),
        }
}
