use std::collections::BTreeSet;

use crate::{Config, Mode, RoutingKey};

impl Config {
    /// What is valid but probably not meant, each with its key and consequence. For
    /// `check-config`, `doctor` and the log at start.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut warn = |text: &str| found.push(text.to_owned());
        if !self.tcp.ebpf && (self.watch.has_processes() || !self.watch.consensus_ports.is_empty())
        {
            warn("watch: tcp.ebpf is false, so nothing of it is watched");
        }
        let ports = &self.tcp.ports;
        if !ports.is_empty() && !self.watch.consensus_ports.is_subset(ports) {
            warn(
                "watch.consensus_ports: some are not in tcp.ports; their messages are recorded, their connections are not watched",
            );
        }
        if self.bgp.as_ref().is_some_and(|b| {
            b.neighbors.is_empty() && b.dynamic.is_empty() && b.bmp.is_none() && b.ris.is_none()
        }) {
            warn("bgp: no [[bgp.neighbor]] and no [[bgp.dynamic]], so no router can connect");
        }
        if !self.egress.is_empty() && self.probe.enabled {
            let ases: BTreeSet<u32> = self.probe.anchors.iter().map(|a| a.asn).collect();
            if ases.len() < 3 {
                warn(
                    "probe.anchors: fewer than three different ASes; a dead upstream cannot be told from a dead anchor",
                );
            }
            if self.probe.flow_sources.is_empty() {
                warn(
                    "probe.flow_sources: empty; the way back to the validator's own address is not probed",
                );
            }
        }
        if self.failover.mode == Mode::Act {
            if !self.probe.enabled {
                warn(
                    "probe.enabled: false, so no backup is ever proven and nothing is rerouted although mode is \"act\"",
                );
            }
            if self.failover.prefixes.is_empty() {
                warn(
                    "failover.prefixes: empty, so nothing may be rerouted although mode is \"act\"",
                );
            }
            for source in &self.probe.flow_sources {
                let gateways = self
                    .egress
                    .iter()
                    .filter(|e| e.gateway_for(*source).is_some())
                    .count();
                if gateways < 2 {
                    found.push(format!(
                        "egress: {gateways} of {} have a gateway of the address family of {source}, so its flows cannot be rerouted",
                        self.egress.len()
                    ));
                }
            }
        }
        if let Some(pager) = &self.pager {
            if pager.url.starts_with("http://") {
                found.push(
                    "pager.url: not encrypted, the routing key can be read on the way".to_owned(),
                );
            }
            if matches!(pager.routing_key, RoutingKey::Inline(_)) {
                found.push("pager.routing_key: in the configuration itself; routing_key_file keeps it out of backups and version control".to_owned());
            }
        }
        if let Some(metrics) = self
            .metrics
            .as_ref()
            .filter(|m| !m.listen.ip().is_loopback())
        {
            found.push(format!(
                "metrics.listen: {} can be reached from other hosts",
                metrics.listen
            ));
        }
        found
    }
}
