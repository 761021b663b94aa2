//! Lines about the kernel collector, for `status`, `top` and `doctor`.

use std::collections::BTreeMap;
use std::time::Duration;

use api::{KernelInfo, PeerInfo, PeerState, ProbeInfo, SeriesInfo, ThreadInfo};

use crate::families;

/// Milliseconds, short.
pub fn ms(value: Duration) -> String {
    let millis = value.as_secs_f64() * 1e3;
    if millis < 10.0 {
        format!("{millis:.2}")
    } else if millis < 1_000.0 {
        format!("{millis:.1}")
    } else {
        format!("{millis:.0}")
    }
}

/// Milliseconds, or a dash.
pub fn ms_or_dash(value: Option<Duration>) -> String {
    value.map_or_else(|| "-".to_owned(), ms)
}

/// One probe: its hook and what goes unseen, or why it is off.
pub fn probe(probe: &ProbeInfo) -> String {
    match (&probe.hook, probe.reason.as_str()) {
        (Some(hook), "") => format!("{:<16} {hook}", probe.name),
        (Some(hook), reason) => format!("{:<16} {hook}\n{:<18} {reason}", probe.name, ""),
        (None, reason) => format!(
            "{:<16} {}{reason}",
            probe.name,
            if probe.asked { "OFF: " } else { "off: " }
        ),
    }
}

/// How late records are, and what was lost on the way.
pub fn collector(kernel: &KernelInfo, counters: &BTreeMap<String, u64>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(delay) = kernel
        .percentiles
        .iter()
        .find(|info| info.series == "collector_delay")
    {
        lines.push(format!("delay {} of a record, in ms", quantiles(delay)));
    }
    let lost = losses(counters);
    lines.push(if lost.is_empty() {
        "lost  nothing".to_owned()
    } else {
        format!("LOST  {}", lost.join(", "))
    });
    lines
}

/// Counters of losses that are not 0.
pub fn losses(counters: &BTreeMap<String, u64>) -> Vec<String> {
    counters
        .iter()
        .filter(|(name, value)| **value > 0 && families::is_loss(name))
        .map(|(name, value)| {
            let name = name.strip_prefix("netwatch_").unwrap_or(name);
            format!("{name} {value}")
        })
        .collect()
}

/// The usual quantiles of a series, in milliseconds.
pub fn quantiles(info: &SeriesInfo) -> String {
    format!(
        "p50 {:>7}  p90 {:>7}  p99 {:>7}  p99.9 {:>7}  max {:>7}",
        ms(info.p50),
        ms(info.p90),
        ms(info.p99),
        ms(info.p999),
        ms(info.max)
    )
}

/// A peer's state in a word.
pub fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Down => "down",
        PeerState::Opening => "opening",
        PeerState::Up => "up",
        PeerState::Overdue => "OVERDUE",
    }
}

/// A peer's round-trip times in the last minute.
pub fn rtt<'a>(kernel: &'a KernelInfo, peer: &PeerInfo) -> Option<&'a SeriesInfo> {
    kernel.series("peer_rtt", "peer", &peer.peer.0.to_string())
}

/// Series of that name, the slowest at p99 first.
pub fn slowest<'a>(kernel: &'a KernelInfo, series: &str) -> Vec<&'a SeriesInfo> {
    let mut found: Vec<_> = kernel
        .percentiles
        .iter()
        .filter(|info| info.series == series)
        .collect();
    found.sort_by(|a, b| b.p99.cmp(&a.p99).then_with(|| a.labels.cmp(&b.labels)));
    found
}

/// A series' labels, for people.
pub fn whose(info: &SeriesInfo) -> String {
    let values: Vec<&str> = info.labels.values().map(String::as_str).collect();
    values.join(" ")
}

/// Each disk and operation: what it did, and how long that takes.
pub fn disks(kernel: &KernelInfo) -> Vec<String> {
    let of = |series: &str, disk: &api::DiskInfo| {
        kernel.percentiles.iter().find(|info| {
            info.series == series
                && info.labels.get("device") == Some(&disk.device)
                && info.labels.get("operation") == Some(&disk.operation)
        })
    };
    let pair = |info: Option<&SeriesInfo>| {
        info.map_or_else(
            || format!("{:>7} {:>7}", "-", "-"),
            |info| format!("{:>7} {:>7}", ms(info.p50), ms(info.p99)),
        )
    };
    let lines = kernel.disks.iter().map(|disk| {
        format!(
            "{:<12} {:<8} {:>10} {:>6} {:>9} {} {}",
            disk.device,
            disk.operation,
            disk.completed,
            disk.errors,
            disk.bytes >> 20,
            pair(of("block_queue", disk)),
            pair(of("block_service", disk)),
        )
    });
    let head = format!(
        "{:<12} {:<8} {:>10} {:>6} {:>9} {:>15} {:>15}",
        "disk", "op", "requests", "errors", "MiB", "queue 50% 99%", "service 50% 99%"
    );
    headed(head, lines.collect())
}

/// Watched threads, those that waited longest for a CPU first.
pub fn threads(kernel: &KernelInfo, most: usize) -> Vec<String> {
    let mut found: Vec<&ThreadInfo> = kernel.threads.iter().collect();
    found.sort_by(|a, b| b.waited.cmp(&a.waited).then(a.tid.cmp(&b.tid)));
    let lines = found.into_iter().take(most).map(|thread| {
        let takers: Vec<String> = thread
            .preemptors
            .iter()
            .take(2)
            .map(|by| format!("{} ({})", by.comm, by.count))
            .collect();
        format!(
            "{:<15} {:>7} {:>9} {:>8} {:>8} {:>9} {:>10} {}",
            thread.comm,
            thread.tid,
            ms(thread.waited),
            ms(thread.wait_p99),
            ms(thread.wait_max),
            thread.preempted,
            ms(thread.blocked),
            takers.join(", ")
        )
    });
    let head = format!(
        "{:<15} {:>7} {:>9} {:>8} {:>8} {:>9} {:>10} {}",
        "thread", "tid", "waited", "99%", "max", "preempted", "blocked", "by"
    );
    headed(head, lines.collect())
}

/// Watched threads' UDP traffic, the busiest first.
pub fn udp(kernel: &KernelInfo, most: usize) -> Vec<String> {
    let mut found: Vec<_> = kernel.udp.iter().collect();
    found.sort_by_key(|thread| (std::cmp::Reverse(thread.sent + thread.received), thread.tid));
    let lines = found.into_iter().take(most).map(|thread| {
        format!(
            "{:<15} {:>7} {:>11} {:>8} {:>6} {:>11} {:>8} {:>6}",
            thread.comm,
            thread.tid,
            thread.sent,
            thread.sent_bytes >> 20,
            thread.send_errors,
            thread.received,
            thread.received_bytes >> 20,
            thread.receive_errors
        )
    });
    let head = format!(
        "{:<15} {:>7} {:>11} {:>8} {:>6} {:>11} {:>8} {:>6}",
        "udp thread", "tid", "sent", "MiB", "errors", "received", "MiB", "errors"
    );
    headed(head, lines.collect())
}

fn headed(head: String, mut lines: Vec<String>) -> Vec<String> {
    if !lines.is_empty() {
        lines.insert(0, head);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_short() {
        for (micros, text) in [
            (52, "0.05"),
            (1_234, "1.23"),
            (12_340, "12.3"),
            (2_000_400, "2000"),
        ] {
            assert_eq!(ms(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn what_was_lost_is_named_and_the_rest_is_not() {
        let counters = BTreeMap::from([
            (
                "netwatch_kernel_records_lost_total{ring=\"bulk\"}".to_owned(),
                7,
            ),
            (
                "netwatch_kernel_records_lost_total{ring=\"urgent\"}".to_owned(),
                0,
            ),
            ("netwatch_tcp_events_total".to_owned(), 900),
        ]);
        assert_eq!(
            losses(&counters),
            ["kernel_records_lost_total{ring=\"bulk\"} 7"]
        );
        let lines = collector(&KernelInfo::default(), &counters);
        assert_eq!(lines, ["LOST  kernel_records_lost_total{ring=\"bulk\"} 7"]);
    }

    #[test]
    fn a_probe_that_is_off_against_the_configuration_stands_out() {
        let mut info = ProbeInfo {
            name: "sched".to_owned(),
            reason: "why".to_owned(),
            ..ProbeInfo::default()
        };
        assert!(probe(&info).ends_with(" off: why"));
        info.asked = true;
        assert!(probe(&info).ends_with(" OFF: why"));
        info.hook = Some("tp_btf/x".to_owned());
        assert_eq!(probe(&info).lines().count(), 2);
        info.reason.clear();
        assert!(probe(&info).ends_with(" tp_btf/x"));
    }
}
