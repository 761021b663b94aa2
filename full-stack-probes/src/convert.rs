//! From the kernel's records to the vocabulary of events.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ebpf_abi::{Event, EventKind, RetransmitCause, Slot};
use events::{
    ConnectionId, Flow, Outstanding, Owner, RetransmitClass, TcpEvent, TcpEventKind, TcpSample,
    TcpState, Timestamp,
};

/// Types of records.
///
/// # Safety
///
/// Plain numbers: any bytes are a valid value.
pub unsafe trait Record: Copy {}

// SAFETY: numbers and arrays of numbers.
unsafe impl Record for Event {}
// SAFETY: numbers and arrays of numbers.
unsafe impl Record for ebpf_abi::Message {}
// SAFETY: numbers and arrays of numbers.
unsafe impl Record for ebpf_abi::Datagram {}

/// Reads a ring's record; `None` where it has not the record's size.
pub fn parse<T: Record>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: long enough, and any bytes are a valid value.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The event that a record tells; `None` for our own housekeeping and for unknown numbers.
pub fn event(record: &Event) -> Option<TcpEvent> {
    let kind = match EventKind::from_number(record.kind)? {
        EventKind::State => TcpEventKind::StateChanged {
            from: TcpState::from_kernel(record.from)?,
            to: TcpState::from_kernel(record.to)?,
            error: (record.error != 0).then_some(record.error),
            owner: owner(record.owner, &record.comm),
        },
        EventKind::Retransmit => TcpEventKind::Retransmitted {
            class: class(record.cause, record.count),
        },
        EventKind::ResetReceived => TcpEventKind::ResetReceived,
        EventKind::ResetSent => TcpEventKind::ResetSent,
        EventKind::Error if record.error == 0 => return None,
        EventKind::Error => TcpEventKind::Error {
            errno: record.error,
        },
        EventKind::Window => TcpEventKind::Window {
            closed_for: (record.value != 0).then(|| Duration::from_nanos(record.value)),
        },
        EventKind::Adopted => return None,
    };
    Some(TcpEvent {
        at: Timestamp::from_nanos(record.at),
        connection: ConnectionId(record.cookie),
        flow: flow(
            record.local,
            record.local_port,
            record.remote,
            record.remote_port,
        ),
        kind,
    })
}

/// Both ends; IPv4-mapped addresses are made plain.
pub fn flow(local: [u8; 16], local_port: u16, remote: [u8; 16], remote_port: u16) -> Flow {
    let address = |bytes: [u8; 16]| IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical();
    Flow {
        local: SocketAddr::new(address(local), local_port),
        remote: SocketAddr::new(address(remote), remote_port),
    }
}

/// A slot's counters as they are at `now`.
pub fn sample(slot: &Slot, now: Timestamp) -> TcpSample {
    let time = |nanos: u64| (nanos != 0).then(|| Timestamp::from_nanos(nanos));
    TcpSample {
        outstanding: slot.oldest_unacknowledged().map(|micros| Outstanding {
            since: since(micros, now),
        }),
        acked_at: time(slot.acked_at),
        sent_at: time(slot.sent_at),
        received_at: time(slot.received_at),
        srtt: Duration::from_micros(u64::from(slot.srtt_us >> 3)),
        mdev: Duration::from_micros(u64::from(slot.mdev_us >> 2)),
        min_rtt: Duration::from_micros(u64::from(slot.min_rtt_us)),
        last_rtt: (slot.last_rtt_us != 0)
            .then(|| Duration::from_micros(u64::from(slot.last_rtt_us))),
        zero_window: slot.zero_window != 0,
    }
}

/// The full time of a wrapping microsecond clock's reading of the last half hour.
fn since(micros: u32, now: Timestamp) -> Timestamp {
    let now_micros = now.as_nanos() / 1_000;
    let age = (now_micros as u32).wrapping_sub(micros);
    // The kernel may have written after `now` was read.
    let age = if age > u32::MAX / 2 { 0 } else { age };
    Timestamp::from_nanos(now_micros.saturating_sub(u64::from(age)) * 1_000)
}

fn owner(pid: u32, comm: &[u8; 16]) -> Option<Owner> {
    (pid != 0).then(|| Owner {
        pid,
        comm: self::comm(comm),
    })
}

/// A thread's name.
pub fn comm(bytes: &[u8; 16]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// What a call returned: a count, or the errno. The kernel's own ERESTARTSYS stands for EINTR.
pub fn result(number: i32) -> Result<u32, i32> {
    const ERESTARTSYS: i32 = 512;
    u32::try_from(number).map_err(|_| match number.wrapping_neg() {
        ERESTARTSYS => libc::EINTR,
        errno => errno,
    })
}

fn class(cause: u8, count: u32) -> RetransmitClass {
    const TAIL_LOSS_PROBE: u8 = RetransmitCause::TailLossProbe as u8;
    const TIMEOUT: u8 = RetransmitCause::Timeout as u8;
    const FAST: u8 = RetransmitCause::Fast as u8;
    const SYN: u8 = RetransmitCause::Syn as u8;
    const SYN_ACK: u8 = RetransmitCause::SynAck as u8;
    match cause {
        TAIL_LOSS_PROBE => RetransmitClass::TailLossProbe,
        TIMEOUT => RetransmitClass::Timeout {
            count: u8::try_from(count).unwrap_or(u8::MAX),
        },
        FAST => RetransmitClass::Fast,
        SYN => RetransmitClass::Syn,
        SYN_ACK => RetransmitClass::SynAck,
        _ => RetransmitClass::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_wrap_of_the_microsecond_clock() {
        let wrap = u64::from(u32::MAX) + 1;
        let now = Timestamp::from_nanos((wrap + 500) * 1_000);
        let sent = (wrap - 1_000) as u32;
        assert_eq!(now.since(since(sent, now)), Duration::from_micros(1_500));
        assert_eq!(
            since(600, now),
            now,
            "a reading from after now counts as now"
        );
    }

    #[test]
    fn mapped_addresses_become_plain() {
        let mapped = "::ffff:192.0.2.7".parse::<Ipv6Addr>().unwrap().octets();
        let flow = flow(mapped, 1, mapped, 2);
        assert_eq!(flow.remote, "192.0.2.7:2".parse().unwrap());
        assert_eq!(flow.local, "192.0.2.7:1".parse().unwrap());
    }

    #[test]
    fn a_short_record_is_refused() {
        assert!(parse::<Event>(&[0; size_of::<Event>() - 1]).is_none());
        assert!(parse::<Event>(&[0; size_of::<Event>()]).is_some());
    }

    #[test]
    fn results_are_counts_or_errnos() {
        assert_eq!(result(0), Ok(0));
        assert_eq!(result(i32::MAX), Ok(i32::MAX as u32));
        assert_eq!(result(-libc::EPIPE), Err(libc::EPIPE));
        assert_eq!(result(-512), Err(libc::EINTR));
    }
}
