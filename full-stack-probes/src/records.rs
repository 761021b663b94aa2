//! Records of single calls, for whoever wants them one by one.

use ebpf_abi::{DATAGRAM, MESSAGE};
use events::{BlockRequest, Datagram, Message, TcpEvent, Timestamp};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use crate::counters::{Shared, add};
use crate::{convert, message, udp};

/// Records in a batch at most.
const BATCH: usize = 1_000;
/// Records that wait for a full sink, at most.
const WAITING: usize = 10_000;

/// What one call did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelRecord {
    /// A call of `tcp_sendmsg` or `tcp_recvmsg`.
    Message(Message),
    /// A datagram of a thread that seldom sends.
    Datagram(Datagram),
    /// A block request that was slow or failed.
    Block(BlockRequest),
}

impl KernelRecord {
    /// When it was.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Message(message) => message.at,
            Self::Datagram(datagram) => datagram.at,
            Self::Block(request) => request.at,
        }
    }
}

/// Where what is collected goes.
#[derive(Clone, Debug)]
pub struct Sinks {
    /// Connections.
    pub tcp: Sender<Vec<TcpEvent>>,
    /// Records of single calls, in batches of up to 1,000, ordered by time within a batch. Where
    /// nobody asks for them they are only counted.
    pub records: Option<Sender<Vec<KernelRecord>>>,
}

/// A ring's record of one of these kinds; `None` for other kinds.
pub fn parse(kind: u8, bytes: &[u8]) -> Option<Option<KernelRecord>> {
    Some(match kind {
        MESSAGE => convert::parse(bytes)
            .and_then(|record| message::message(&record))
            .map(KernelRecord::Message),
        DATAGRAM => {
            convert::parse(bytes).map(|record| KernelRecord::Datagram(udp::datagram(&record)))
        }
        _ => return None,
    })
}

/// Records on their way to a sink.
pub struct Outbox {
    sink: Option<Sender<Vec<KernelRecord>>>,
    waiting: Vec<KernelRecord>,
}

impl Outbox {
    pub const fn new(sink: Option<Sender<Vec<KernelRecord>>>) -> Self {
        Self {
            sink,
            waiting: Vec::new(),
        }
    }

    /// Whether anybody asks for records.
    pub const fn is_wanted(&self) -> bool {
        self.sink.is_some()
    }

    pub fn push(&mut self, record: KernelRecord) {
        if self.is_wanted() {
            self.waiting.push(record);
        }
    }

    /// Sends what has gathered. Never waits.
    pub fn flush(&mut self, shared: &Shared) {
        let Some(sink) = &self.sink else { return };
        self.waiting.sort_by_key(KernelRecord::at);
        while !self.waiting.is_empty() {
            let rest = self.waiting.split_off(self.waiting.len().min(BATCH));
            let batch = std::mem::replace(&mut self.waiting, rest);
            let length = batch.len() as u64;
            match sink.try_send(batch) {
                Ok(()) => add(&shared.records_delivered, length),
                Err(TrySendError::Full(mut batch)) => {
                    batch.append(&mut self.waiting);
                    let excess = batch.len().saturating_sub(WAITING);
                    batch.drain(..excess);
                    add(&shared.records_dropped, excess as u64);
                    self.waiting = batch;
                    return;
                }
                Err(TrySendError::Closed(_)) => {
                    self.waiting = Vec::new();
                    self.sink = None;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::atomic::Ordering;

    use events::ConnectionId;
    use tokio::sync::mpsc::channel;

    use super::*;

    fn record(at: u64) -> KernelRecord {
        KernelRecord::Datagram(Datagram {
            at: Timestamp::from_nanos(at),
            connection: ConnectionId(1),
            local: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            remote: None,
            result: Ok(1),
            asked: false,
            pid: 1,
            tid: 1,
            comm: String::new(),
        })
    }

    #[test]
    fn a_full_sink_costs_the_oldest_records_and_they_are_counted() {
        let shared = Shared::default();
        let (sink, mut receiver) = channel(1);
        let mut outbox = Outbox::new(Some(sink));
        let total = BATCH + WAITING + 7;
        for at in (0..total as u64).rev() {
            outbox.push(record(at));
        }
        outbox.flush(&shared);
        let mut expected: Vec<u64> = (0..BATCH as u64).collect();
        expected.extend((BATCH + 7) as u64..total as u64);
        let mut seen = Vec::new();
        while let Ok(batch) = receiver.try_recv() {
            assert!(batch.len() <= BATCH);
            seen.extend(batch.iter().map(|record| record.at().as_nanos()));
            outbox.flush(&shared);
        }
        assert_eq!(seen, expected);
        assert_eq!(shared.records_dropped.load(Ordering::Relaxed), 7);
        assert_eq!(
            shared.records_delivered.load(Ordering::Relaxed),
            seen.len() as u64
        );

        drop(receiver);
        outbox.push(record(1));
        outbox.flush(&shared);
        outbox.push(record(2));
        assert!(outbox.waiting.is_empty(), "nobody listens any more");
    }
}
