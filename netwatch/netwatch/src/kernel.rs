//! What the kernel collector tells, in the words of the socket.

use std::collections::BTreeMap;

use api::{
    DiskInfo, KernelInfo, PreemptorInfo, ProbeInfo, ProcessInfo, SeriesInfo, ThreadInfo, UdpInfo,
};
use full_stack_probes::{
    BlockOperation, Handle, Percentiles, ProbeReport, RungKind, Selector, Series, UdpThread,
    WatchedThread,
};

/// What is seen in the kernel, and how well; `error` is why there is no collector. With many peers
/// this takes milliseconds.
pub fn info(collector: Option<&Handle>, error: Option<String>) -> KernelInfo {
    let Some(collector) = collector else {
        return KernelInfo {
            off: error,
            ..KernelInfo::default()
        };
    };
    KernelInfo {
        off: (!collector.is_running())
            .then(|| "the collector's thread ended; see the log".to_owned()),
        probes: collector.report().iter().map(probe).collect(),
        percentiles: collector.percentiles().into_iter().map(series).collect(),
        disks: collector
            .disks()
            .into_iter()
            .map(|disk| DiskInfo {
                device: disk.device,
                operation: operation(disk.operation).to_owned(),
                completed: disk.completed,
                errors: disk.errors,
                bytes: disk.bytes,
            })
            .collect(),
        watched: collector
            .watched()
            .into_iter()
            .map(|process| ProcessInfo {
                pid: process.pid,
                comm: process.comm,
                why: process.why.into_iter().map(selector).collect(),
            })
            .collect(),
        threads: collector.threads().into_iter().map(thread).collect(),
        udp: collector.udp_threads().into_iter().map(udp).collect(),
    }
}

fn selector(selector: Selector) -> String {
    match selector {
        Selector::Name => "name",
        Selector::Executable => "executable",
        Selector::Unit => "unit",
        Selector::Cgroup => "cgroup",
    }
    .to_owned()
}

fn thread(thread: WatchedThread) -> ThreadInfo {
    ThreadInfo {
        pid: thread.pid,
        tid: thread.tid,
        comm: thread.comm,
        preempted: thread.preempted,
        voluntary: thread.voluntary,
        waited: thread.waited,
        slept: thread.slept,
        blocked: thread.blocked,
        waiting: thread.waiting,
        wait_p99: thread.run_queue.p99,
        wait_max: thread.run_queue.max,
        preemptors: thread
            .preemptors
            .into_iter()
            .map(|preemptor| PreemptorInfo {
                pid: preemptor.pid,
                comm: preemptor.comm,
                count: preemptor.count,
                longest: preemptor.longest,
            })
            .collect(),
    }
}

fn udp(thread: UdpThread) -> UdpInfo {
    UdpInfo {
        pid: thread.pid,
        tid: thread.tid,
        comm: thread.comm,
        sent: thread.sent,
        sent_bytes: thread.sent_bytes,
        send_errors: thread.send_errors,
        received: thread.received,
        received_bytes: thread.received_bytes,
        receive_errors: thread.receive_errors,
    }
}

/// One probe's report.
pub fn probe(report: &ProbeReport) -> ProbeInfo {
    ProbeInfo {
        name: report.name.to_owned(),
        asked: report.asked,
        hook: report.hook.clone(),
        rung: report.rung.map(|rung| {
            match rung {
                RungKind::TpBtf => "tp_btf",
                RungKind::Function => "function",
                RungKind::Kprobe => "kprobe",
                RungKind::PerfEvent => "perf_event",
            }
            .to_owned()
        }),
        reason: report.reason.clone(),
    }
}

/// One line for each probe, or why there is none.
pub fn lines(info: &KernelInfo) -> Vec<String> {
    match &info.off {
        Some(why) => vec![format!("all off: {why}")],
        None => info.probes.iter().map(line).collect(),
    }
}

/// One probe in a line.
fn line(probe: &ProbeInfo) -> String {
    match (&probe.hook, probe.reason.as_str()) {
        (Some(hook), "") => format!("{}: {hook}", probe.name),
        (Some(hook), reason) => format!("{}: {hook}; {reason}", probe.name),
        (None, reason) => format!("{}: off: {reason}", probe.name),
    }
}

fn series((series, found): (Series, Percentiles)) -> SeriesInfo {
    let one = |label: &str, value: String| BTreeMap::from([(label.to_owned(), value)]);
    let disk = |device: String, what| {
        BTreeMap::from([
            ("device".to_owned(), device),
            ("operation".to_owned(), operation(what).to_owned()),
        ])
    };
    let (name, labels) = match series {
        Series::Rtt { peer } => ("peer_rtt", one("peer", peer.to_string())),
        Series::Handshake { peer } => ("peer_handshake", one("peer", peer.to_string())),
        Series::Send { peer } => ("peer_send", one("peer", peer.to_string())),
        Series::Receive { peer } => ("peer_receive", one("peer", peer.to_string())),
        Series::BlockQueue { device, operation } => ("block_queue", disk(device, operation)),
        Series::BlockService { device, operation } => ("block_service", disk(device, operation)),
        Series::RunQueue { thread } => ("run_queue", one("thread", thread)),
        Series::OffCpu { thread } => ("off_cpu", one("thread", thread)),
        Series::CollectorDelay => ("collector_delay", BTreeMap::new()),
    };
    SeriesInfo {
        series: name.to_owned(),
        labels,
        count: found.count,
        p50: found.p50,
        p90: found.p90,
        p99: found.p99,
        p999: found.p999,
        max: found.max,
        total: found.total,
        sum: found.sum,
    }
}

/// What a block request does, as a label.
pub fn operation(operation: BlockOperation) -> &'static str {
    match operation {
        BlockOperation::Read => "read",
        BlockOperation::Write => "write",
        BlockOperation::Flush => "flush",
        BlockOperation::Discard => "discard",
        BlockOperation::Other => "other",
    }
}
