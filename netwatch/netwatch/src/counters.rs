//! Every counter of the daemon, under the name that `/metrics` and `status` have for it.

use std::collections::BTreeMap;

use full_stack_probes::Handle;

use crate::answers::count;
use crate::daemon::Daemon;
use crate::metrics::labels;

impl Daemon {
    /// All counters of all parts, losses by stage among them.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        let mut add = |name: &str, value: u64| {
            all.insert(format!("netwatch_{name}"), value);
        };
        add("inputs_total", self.totals.inputs);
        add("effects_total", self.totals.effects);
        add("verdicts_total", self.totals.verdicts);
        add(
            "route_commands_dropped_total",
            self.totals.route_commands_dropped,
        );
        add("routes_swept_total", self.totals.swept);
        add(
            "correlator_dropped_total",
            self.engine.correlator().dropped(),
        );

        let tracker = self.engine.tracker().counters();
        add("peers", count(tracker.peers));
        add("connections", count(tracker.connections));
        add("tcp_events_total", tracker.events);
        add("tcp_events_unknown_total", tracker.unknown);
        add("tcp_samples_stale_total", tracker.stale_samples);
        add("tcp_deadlines_unsampled_total", tracker.unsampled_deadlines);
        add("ack_overdue_total", tracker.overdue);
        add("accept_failures_total", tracker.accept_failures);
        add("connections_evicted_total", tracker.connections_evicted);
        add("connections_refused_total", tracker.connections_refused);
        add("peers_evicted_total", tracker.peers_evicted);

        let remediation = self.engine.remediator().status();
        add("plans", count(remediation.plans.len()));
        let routes = remediation.plans.iter().map(|view| view.plan.routes.len());
        add("routes_installed", count(routes.sum()));
        add("remediation_refused_total", self.totals.refused);
        add("kill_switch", u64::from(remediation.kill_switch));
        add("maintenance", u64::from(remediation.maintenance.is_some()));
        let open = self.incidents();
        add(
            "incidents_open",
            count(open.iter().filter(|i| i.resolved_at.is_none()).count()),
        );

        if let Some(collector) = &self.collector {
            of_collector(collector, &mut add);
        }
        if let Some(prober) = &self.prober {
            let p = prober.counters();
            add("probes_sent_total", p.sent);
            add("probes_replies_total", p.replies);
            add("probes_late_replies_total", p.late_replies);
            add("probes_lost_total", p.lost);
            add("probes_refused_total", p.refused);
            add("probes_unmatched_total", p.unmatched);
            add("probes_skipped_total", p.skipped);
            add("probe_results_dropped_total", p.results_dropped);
            add("host_signals_dropped_total", p.signals_dropped);
            add("suspect_probes_dropped_total", p.suspects_dropped);
            add("probe_packets_dropped_total", p.receive_dropped);
            add("netlink_restarts_total", p.netlink_restarts);
            add("timer_lags_total", p.timer_lags);
        }
        if let Some(pager) = &self.pager {
            let p = pager.counters();
            add("pages_queued_total", p.queued);
            add("pages_pending", p.pending);
            add("page_attempts_total", p.attempts);
            add("page_hedges_total", p.hedges);
            add("page_failures_total", p.failures);
            add("pages_accepted_total", p.accepted);
            add("pages_refused_total", p.refused);
            add("pages_dropped_total", p.dropped);
            add("pages_not_persisted_total", p.not_persisted);
            add("page_outcomes_lost_total", p.outcomes_lost);
        }
        if let Some(journal) = &self.journal {
            let j = journal.counters();
            add("journal_written_total", j.written);
            add("journal_lost_total", j.lost);
            add("journal_errors_total", j.errors);
            add("journal_pruned_total", j.pruned);
            add("journal_moved_aside_total", j.moved_aside);
        }
        if let Some(recorder) = &self.recorder {
            let r = recorder.counters();
            add("recorder_records_total", r.records);
            add("recorder_lost_total", r.lost);
            add("recorder_checkpoints_total", r.checkpoints);
            add("recorder_errors_total", r.errors);
            add("recorder_memory_bytes", r.memory);
            add("recordings_total", r.recordings);
            add("recordings_removed_total", r.removed);
            add("recordings_bytes", r.disk);
        }
        if let Some(bgp) = &self.bgp {
            add("bgp_strangers_refused_total", bgp.refused_strangers());
        }
        all
    }
}

/// All counters of the kernel collector.
pub fn of_collector(collector: &Handle, add: &mut dyn FnMut(&str, u64)) {
    let c = collector.counters();
    add("kernel_records_total{ring=\"urgent\"}", c.urgent_records);
    add("kernel_records_total{ring=\"bulk\"}", c.bulk_records);
    add("kernel_records_lost_total{ring=\"urgent\"}", c.urgent_lost);
    add("kernel_records_lost_total{ring=\"bulk\"}", c.bulk_lost);
    add("kernel_records_malformed_total", c.malformed);
    add("socket_table_full_total", c.table_full);
    add("socket_table_slots_taken_total", c.slots_taken);
    add("socket_table_slots_freed_total", c.slots_freed);
    add("socket_table_slots_in_use", c.slots_in_use);
    add("socket_table_orphans_total", c.slots_orphaned);
    add("connections_untracked_total", c.untracked);
    add("tcp_sends_total", c.sends);
    add("tcp_segments_total", c.segments);
    add("collector_delivered_total", c.delivered);
    add(
        "collector_dropped_total{kind=\"sample\"}",
        c.samples_dropped,
    );
    add("collector_dropped_total{kind=\"edge\"}", c.edges_dropped);
    add("collector_sweeps_total", c.sweeps);
    add("connections_found_total", c.found);
    add("connections_gone_total", c.gone);
    add("reconcile_failed_total", c.reconcile_failed);
    add(
        "disk_requests_untimed_total{cause=\"new_disk\"}",
        c.disk_unknown,
    );
    add(
        "disk_requests_untimed_total{cause=\"too_many\"}",
        c.requests_lost,
    );
    add("disks_unwatched_total", c.disk_overflow);
    add("watched_processes_full_total", c.watched_full);
    add("watched_threads_full_total", c.threads_full);
    add("watched_switches_missed_total", c.switches_missed);
    add("watched_cgroups_full_total", c.cgroups_full);
    add("long_waits_dropped_total", c.long_waits_dropped);
    add("messages_total", c.messages);
    add("messages_again_total", c.messages_again);
    add(
        "messages_untimed_total{cause=\"entry_unseen\"}",
        c.messages_unpaired,
    );
    add(
        "messages_untimed_total{cause=\"return_unseen\"}",
        c.messages_abandoned,
    );
    add("udp_datagrams_total{direction=\"send\"}", c.udp_sent);
    add("udp_datagrams_total{direction=\"receive\"}", c.udp_received);
    add("udp_sends_unrecorded_total", c.udp_unrecorded);
    add("call_records_total", c.calls);
    add("call_records_lost_total", c.calls_lost);
    add("call_records_delivered_total", c.records_delivered);
    add("call_records_dropped_total", c.records_dropped);
    add("collector_heartbeats_total", c.heartbeats);
    add("collector_stalls_total", c.stalls);
    add("collector_heartbeat_gaps_total", c.heartbeat_gaps);
    add("percentile_series", c.percentiles.series);
    add("percentile_series_evicted_total", c.percentiles.evicted);
    add("percentile_bytes", c.percentiles.bytes);
    for program in &c.programs {
        let labels = labels([("program", program.name.as_str())]);
        add(
            &format!("bpf_program_skipped_total{labels}"),
            program.skipped,
        );
        if program.calls > 0 {
            add(&format!("bpf_program_runs_total{labels}"), program.calls);
            add(
                &format!("bpf_program_nanoseconds_total{labels}"),
                program.run_time_ns,
            );
        }
    }
    let memory = collector.memory();
    add("bpf_memory_bytes", memory.programs + memory.maps);
    add("bpf_program_bytes", memory.programs);
    add("bpf_map_bytes", memory.maps);
}
