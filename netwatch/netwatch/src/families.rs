//! What each family of metrics means.

/// The type of a family, by the text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from the daemon's start.
    Counter,
    /// As it is now.
    Gauge,
    /// Quantiles of the last minute.
    Summary,
}

impl Kind {
    /// Its name in the text format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Summary => "summary",
        }
    }
}

/// The type and the help text of a family.
pub fn describe(family: &str) -> (Kind, &'static str) {
    let kind = if family.ends_with("_total") {
        Kind::Counter
    } else if family.ends_with("_microseconds") {
        Kind::Summary
    } else {
        Kind::Gauge
    };
    let name = family.strip_prefix("netwatch_").unwrap_or(family);
    let text = FAMILIES
        .iter()
        .find(|(known, _)| *known == name)
        .map_or(UNDESCRIBED, |(_, text)| *text);
    (kind, text)
}

/// A family that lacks its line below; tests look for it.
const UNDESCRIBED: &str = "Not described";

#[rustfmt::skip]
const FAMILIES: &[(&str, &str)] = &[
    // the engine
    ("inputs_total", "Inputs that the engine handled"),
    ("effects_total", "Effects that the engine asked for"),
    ("verdicts_total", "Incidents that got a verdict"),
    ("incidents_open", "Incidents that are not resolved"),
    ("correlator_dropped_total", "Signals that the correlator dropped because a bound was reached"),
    ("peers", "Peers"),
    ("connections", "Connections"),
    ("tcp_events_total", "Events of connections that the tracker took"),
    ("tcp_events_unknown_total", "Events of connections that the tracker did not know"),
    ("tcp_samples_stale_total", "Samples that were older than what was known"),
    ("tcp_deadlines_unsampled_total", "Deadlines that passed without a sample, so that nothing was concluded"),
    ("ack_overdue_total", "Times that an acknowledgement became overdue"),
    ("accept_failures_total", "Handshakes from peers that failed"),
    ("connections_evicted_total", "Connections that the tracker gave up because there were too many"),
    ("connections_refused_total", "Connections that the tracker refused because there were too many"),
    ("peers_evicted_total", "Peers that the tracker gave up because there were too many"),
    // remediation and routes
    ("plans", "Plans in force"),
    ("routes_installed", "Routes of the plans in force"),
    ("remediation_refused_total", "Times that the planner refused to act"),
    ("kill_switch", "1 while the kill switch is set"),
    ("maintenance", "1 during a maintenance window"),
    ("route_commands_dropped_total", "Commands for routes that were dropped because the executor's queue was full"),
    ("routes_swept_total", "Routes of an earlier run that were removed at the start"),
    // the kernel collector: the way of a record
    ("probe_attached", "1 where a kernel probe is attached, with its hook by the kernel's own word"),
    ("kernel_records_total", "Records that kernel programs wrote, by ring"),
    ("kernel_records_lost_total", "Records lost because the ring was full"),
    ("kernel_records_malformed_total", "Records that could not be read"),
    ("bpf_program_skipped_total", "Runs that the kernel skipped because the program already ran on that CPU"),
    ("bpf_program_runs_total", "Runs of a program while kernel.bpf_stats_enabled is on"),
    ("bpf_program_nanoseconds_total", "Time in a program while kernel.bpf_stats_enabled is on"),
    ("bpf_memory_bytes", "Kernel memory of all programs and maps"),
    ("bpf_program_bytes", "Kernel memory of programs"),
    ("bpf_map_bytes", "Kernel memory of maps"),
    ("socket_table_full_total", "Connections that found no slot in the kernel's table"),
    ("socket_table_slots_taken_total", "Slots taken in the kernel's table"),
    ("socket_table_slots_freed_total", "Slots that kernel programs gave back"),
    ("socket_table_slots_in_use", "Slots in use in the kernel's table"),
    ("socket_table_orphans_total", "Slots taken back because their connection was gone"),
    ("connections_untracked_total", "Connections that the collector did not follow because there were too many"),
    ("connections_found_total", "Connections found by the kernel's own list"),
    ("connections_gone_total", "Connections that the kernel's own list no longer had"),
    ("reconcile_failed_total", "Readings of the kernel's own list that failed or were cut short"),
    ("tcp_sends_total", "Calls that sent on watched connections"),
    ("tcp_segments_total", "Segments received on watched connections"),
    ("collector_delivered_total", "Events that the collector passed on"),
    ("collector_dropped_total", "Events dropped because the engine's queue was full, by kind"),
    ("collector_sweeps_total", "Sweeps of the table of connections"),
    ("collector_heartbeats_total", "Heartbeats from the kernel that were handled"),
    ("collector_stalls_total", "Times that the collector's thread was late by more than a second"),
    ("collector_heartbeat_gaps_total", "Times that the kernel sent no heartbeat for more than a second"),
    ("percentile_series", "Series of durations that are kept"),
    ("percentile_series_evicted_total", "Series given up, the least recently used first, because there were too many"),
    ("percentile_bytes", "Memory of the series"),
    // disks
    ("disk_requests_total", "Requests completed, by disk and operation"),
    ("disk_errors_total", "Requests that failed, by disk and operation"),
    ("disk_bytes_total", "Bytes completed, by disk and operation"),
    ("disk_requests_untimed_total", "Requests that were not timed, by cause"),
    ("disks_unwatched_total", "Times that a disk found no place in the kernel's table"),
    // the watched set
    ("watched_processes_full_total", "Processes that found no place in the kernel's table of watched processes"),
    ("watched_threads_full_total", "Threads that found no place in the kernel's table of watched threads"),
    ("watched_switches_missed_total", "Times that a watched thread left a CPU without having been seen to get it"),
    ("watched_cgroups_full_total", "Cgroups that found no place in the kernel's table of watched cgroups"),
    ("long_waits_dropped_total", "Long waits for a CPU that were not told because there were too many"),
    // calls, one by one
    ("messages_total", "Calls of tcp_sendmsg and tcp_recvmsg that were told of"),
    ("messages_again_total", "Calls that would have waited (EAGAIN), which are no messages"),
    ("messages_untimed_total", "Calls whose time is not known, by cause"),
    ("udp_datagrams_total", "Datagrams of watched threads, by direction"),
    ("udp_sends_unrecorded_total", "Sends not recorded one by one because the thread sends often"),
    ("call_records_total", "Records of single calls that the kernel's programs made"),
    ("call_records_lost_total", "Records of single calls that found no room in the kernel's ring"),
    ("call_records_delivered_total", "Records of single calls that were passed on"),
    ("call_records_dropped_total", "Records of single calls dropped because whoever wanted them was too slow"),
    // durations
    ("collector_delay_microseconds", "From an event in the kernel to its handler, over the last minute"),
    ("peer_rtt_microseconds", "Raw round-trip times of a peer's connections, over the last minute"),
    ("peer_handshake_microseconds", "From SYN to ESTABLISHED of connections to a peer, over the last minute"),
    ("peer_send_microseconds", "Time in tcp_sendmsg for a peer's messages, over the last minute"),
    ("peer_receive_microseconds", "Time in tcp_recvmsg for a peer's messages, over the last minute"),
    ("block_queue_microseconds", "From insertion of a block request to its issue, over the last minute"),
    ("block_service_microseconds", "From issue of a block request to its completion, over the last minute"),
    ("run_queue_microseconds", "Waits of watched threads for a CPU, over the last minute"),
    ("off_cpu_microseconds", "Sleeps of watched threads, over the last minute"),
    // active probes and the host
    ("probes_sent_total", "Active probes sent"),
    ("probes_replies_total", "Answers in time"),
    ("probes_late_replies_total", "Answers that came too late"),
    ("probes_lost_total", "Probes without an answer"),
    ("probes_refused_total", "Probes that the kernel refused to send"),
    ("probes_unmatched_total", "Packets that answered no probe"),
    ("probes_skipped_total", "Probes left out because the prober was late"),
    ("probe_results_dropped_total", "Results dropped because the engine's queue was full"),
    ("probe_packets_dropped_total", "Answers that the kernel dropped because the socket was full"),
    ("suspect_probes_dropped_total", "Probes of suspects that were not sent because too many were asked for"),
    ("host_signals_dropped_total", "Signals of links and timers dropped because the engine's queue was full"),
    ("netlink_restarts_total", "Times that link and neighbour state was read anew"),
    ("timer_lags_total", "Times that the prober's timer was late"),
    // the flight recorder
    ("recorder_records_total", "Inputs and effects of the engine that were recorded"),
    ("recorder_lost_total", "Parts of the record lost because the recorder's queue was full"),
    ("recorder_checkpoints_total", "Copies of the engine's state in the record"),
    ("recorder_errors_total", "Failures to write a recording"),
    ("recorder_memory_bytes", "Memory of what happened lately"),
    ("recordings_total", "Recordings of incidents begun"),
    ("recordings_removed_total", "Recordings removed because there were too many bytes of them"),
    ("recordings_bytes", "Bytes of all recordings on disk"),
    // the pager
    ("pages_queued_total", "Pages that were asked for"),
    ("pages_pending", "Pages that were not accepted yet"),
    ("page_attempts_total", "Attempts to deliver a page"),
    ("page_hedges_total", "Attempts through another egress while one was under way"),
    ("page_failures_total", "Attempts that failed"),
    ("pages_accepted_total", "Pages that the pager accepted"),
    ("pages_refused_total", "Pages that the pager refused for good"),
    ("pages_dropped_total", "Pages dropped because too many were pending"),
    ("pages_not_persisted_total", "Pages that could not be written to the outbox"),
    ("page_outcomes_lost_total", "Outcomes of pages lost because the engine's queue was full"),
    // the journal
    ("journal_written_total", "Entries written to the journal"),
    ("journal_lost_total", "Entries lost because the journal was too slow"),
    ("journal_errors_total", "Errors of the journal's database"),
    ("journal_pruned_total", "Incidents removed from the journal because of their age or number"),
    ("journal_moved_aside_total", "Journals that could not be read and were moved aside"),
    // BGP
    ("bgp_strangers_refused_total", "Connections to the BGP speaker from addresses that are no neighbour's"),
    ("bgp_session_up", "1 while the session is Established, by neighbour"),
    ("bgp_routes", "Routes of a neighbour"),
    ("bgp_rib_bytes", "Memory that tables, attributes, counters and history of the RIB take"),
    ("bgp_rib_limit_bytes", "bgp.memory_limit; 0: none"),
    ("bgp_rib_partial_neighbors", "Neighbours whose tables lack routes for want of memory"),
    ("bgp_rib_attribute_sets", "Different sets of path attributes"),
    ("bgp_rib_history_bytes", "Memory of the change history's ring, part of rib_bytes"),
    ("bgp_rib_history_changes", "Changes in the history"),
    ("bgp_vrps", "VRPs that route origins are validated by; 0: they are not"),
];

/// Whether a counter counts what was lost on the way from the kernel to the engine, or was not seen.
pub fn is_loss(name: &str) -> bool {
    const LOSSES: [&str; 20] = [
        "kernel_records_lost_total",
        "kernel_records_malformed_total",
        "bpf_program_skipped_total",
        "socket_table_full_total",
        "connections_untracked_total",
        "collector_dropped_total",
        "collector_stalls_total",
        "collector_heartbeat_gaps_total",
        "percentile_series_evicted_total",
        "disk_requests_untimed_total",
        "disks_unwatched_total",
        "watched_processes_full_total",
        "watched_threads_full_total",
        "watched_switches_missed_total",
        "watched_cgroups_full_total",
        "long_waits_dropped_total",
        "reconcile_failed_total",
        "messages_untimed_total",
        "call_records_lost_total",
        "call_records_dropped_total",
    ];
    let family = name.split('{').next().unwrap_or(name);
    let family = family.strip_prefix("netwatch_").unwrap_or(family);
    LOSSES.contains(&family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_described_once_and_by_their_kind() {
        for (place, (name, text)) in FAMILIES.iter().enumerate() {
            let later = FAMILIES.iter().skip(place + 1);
            assert!(later.clone().all(|(other, _)| other != name), "{name}");
            assert!(!text.is_empty() && !text.contains('\n'), "{name}");
        }
        assert!(is_loss("netwatch_kernel_records_lost_total{ring=\"bulk\"}"));
        assert!(!is_loss("netwatch_kernel_records_total{ring=\"bulk\"}"));
        assert_eq!(describe("netwatch_peers").0, Kind::Gauge);
        assert_eq!(describe("netwatch_inputs_total").0, Kind::Counter);
        assert_eq!(describe("netwatch_peer_rtt_microseconds").0, Kind::Summary);
        assert_eq!(describe("netwatch_new"), (Kind::Gauge, UNDESCRIBED));
    }
}
