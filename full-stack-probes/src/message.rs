//! Messages: the probe, its settings, and its records.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ebpf_abi::{Direction, Message, TOOK_UNKNOWN};
use events::{ConnectionId, Timestamp};

use crate::convert;
use crate::probes::{Attachment, Hook, Probe, Rung, RungKind};
use crate::{Series, Settings};

const SEND: &[&str] = &["sock", "msghdr", ""];
const RECEIVE: &[&str] = &["sock", "msghdr", "", ""];
const LENGTH: &[&str] = &["sock", "", ""];

/// `tcp_sendmsg` and `tcp_recvmsg`.
pub const PROBE: Probe = Probe {
    name: "tcp_message",
    loss: "messages of the declared ports and processes",
    wanted,
    rungs: &[
        Rung {
            kind: RungKind::Function,
            attachments: &[
                Attachment {
                    program: "msg_send_out",
                    hook: Hook::Fexit("tcp_sendmsg"),
                    arguments: SEND,
                },
                Attachment {
                    program: "msg_send_in",
                    hook: Hook::Fentry("tcp_sendmsg"),
                    arguments: SEND,
                },
                Attachment {
                    program: "msg_recv_out",
                    hook: Hook::Fexit("tcp_recvmsg"),
                    arguments: RECEIVE,
                },
                Attachment {
                    program: "msg_recv_in",
                    hook: Hook::Fentry("tcp_recvmsg"),
                    arguments: RECEIVE,
                },
            ],
            loss: "",
        },
        Rung {
            kind: RungKind::Kprobe,
            attachments: &[
                Attachment {
                    program: "msg_send_kp",
                    hook: Hook::Kprobe("tcp_sendmsg"),
                    arguments: SEND,
                },
                Attachment {
                    program: "msg_copied_kp",
                    hook: Hook::Kprobe("tcp_cleanup_rbuf"),
                    arguments: &["sock", ""],
                },
                Attachment {
                    program: "msg_recv_kp",
                    hook: Hook::Kprobe("tcp_recvmsg"),
                    arguments: RECEIVE,
                },
            ],
            loss: "results and duration of sends (bytes are what the caller asked for), errors, \
                   receives at the end of a stream; a receive that gets less than it waits for \
                   is told with the thread's next on that connection; calls while another \
                   kprobe's program runs on that CPU",
        },
        Rung {
            kind: RungKind::TpBtf,
            attachments: &[
                Attachment {
                    program: "msg_send_tp",
                    hook: Hook::TpBtf("sock_send_length"),
                    arguments: LENGTH,
                },
                Attachment {
                    program: "msg_recv_tp",
                    hook: Hook::TpBtf("sock_recv_length"),
                    arguments: LENGTH,
                },
            ],
            loss: "duration of calls: they are seen when they return",
        },
    ],
    fields: &["SK_PROTOCOL", "INET_SPORT"],
};

fn wanted(settings: &Settings) -> bool {
    !settings.watch.consensus_ports.is_empty() || settings.watch.has_processes()
}

/// The direction of a record; `None` where its number makes no sense.
fn direction(record: &Message) -> Option<events::Direction> {
    const SEND: u8 = Direction::Send as u8;
    const RECEIVE: u8 = Direction::Receive as u8;
    match record.direction {
        SEND => Some(events::Direction::Send),
        RECEIVE => Some(events::Direction::Receive),
        _ => None,
    }
}

/// The message that a record tells; `None` where its numbers make no sense.
pub fn message(record: &Message) -> Option<events::Message> {
    Some(events::Message {
        at: Timestamp::from_nanos(record.at),
        connection: ConnectionId(record.cookie),
        flow: convert::flow(
            record.local,
            record.local_port,
            record.remote,
            record.remote_port,
        ),
        direction: direction(record)?,
        result: convert::result(record.result),
        asked: record.asked != 0,
        took: (record.took != TOOK_UNKNOWN).then(|| Duration::from_nanos(record.took)),
        pid: record.pid,
        tid: record.tid,
        comm: convert::comm(&record.comm),
    })
}

/// What is counted of a message, whether or not anybody asks for it whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief {
    /// The peer's address.
    pub peer: IpAddr,
    direction: events::Direction,
    /// Nanoseconds that the call took, where both its ends are seen.
    took: Option<u64>,
}

impl Brief {
    /// `None` where the record's numbers make no sense.
    pub fn of(record: &Message) -> Option<Self> {
        Some(Self {
            peer: IpAddr::V6(Ipv6Addr::from(record.remote)).to_canonical(),
            direction: direction(record)?,
            took: (record.took != TOOK_UNKNOWN).then_some(record.took),
        })
    }

    /// Where the time spent in the call is counted.
    pub fn series(&self) -> Option<(Series, u64)> {
        let peer = self.peer;
        let series = match self.direction {
            events::Direction::Send => Series::Send { peer },
            events::Direction::Receive => Series::Receive { peer },
        };
        Some((series, self.took?))
    }
}
