//! Kinds of evidence that can be switched off.

use events::{HostSignal, Input, ProbeSource, ProbeTarget, TcpEventKind};

/// What the engine is not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, clippy::struct_excessive_bools)]
pub struct Without {
    pub tcp: bool,
    pub samples: bool,
    pub tlp_rto: bool,
    pub probes: bool,
    pub gateway_probes: bool,
    pub anchor_probes: bool,
    pub flow_probes: bool,
    pub bursts: bool,
    pub bgp: bool,
    pub host: bool,
    pub carrier: bool,
    pub neighbor: bool,
    pub timer_lag: bool,
}

/// Names of the kinds, and what they are.
pub const KINDS: [(&str, &str); 13] = [
    ("tcp", "samples and retransmissions of connections"),
    ("samples", "the age of unacknowledged data"),
    ("tlp_rto", "the kernel's retransmissions"),
    ("probes", "all probes"),
    ("gateway_probes", "probes of gateways"),
    ("anchor_probes", "probes of anchors"),
    ("flow_probes", "probes with the flows' source"),
    ("bursts", "probes of suspects"),
    ("bgp", "the BGP feed"),
    ("host", "carrier, neighbours, timer lag"),
    ("carrier", "carrier"),
    ("neighbor", "neighbour resolution"),
    ("timer_lag", "timer lag"),
];

impl Without {
    /// Switches a kind off; false where there is none of that name.
    pub fn switch_off(&mut self, kind: &str) -> bool {
        let field = match kind {
            "tcp" => &mut self.tcp,
            "samples" => &mut self.samples,
            "tlp_rto" => &mut self.tlp_rto,
            "probes" => &mut self.probes,
            "gateway_probes" => &mut self.gateway_probes,
            "anchor_probes" => &mut self.anchor_probes,
            "flow_probes" => &mut self.flow_probes,
            "bursts" => &mut self.bursts,
            "bgp" => &mut self.bgp,
            "host" => &mut self.host,
            "carrier" => &mut self.carrier,
            "neighbor" => &mut self.neighbor,
            "timer_lag" => &mut self.timer_lag,
            _ => return false,
        };
        *field = true;
        true
    }

    /// The engine is not told this.
    #[must_use]
    pub const fn hides(&self, input: &Input) -> bool {
        match input {
            Input::Tcp(event) => match event.kind {
                TcpEventKind::Sample(_) => self.tcp || self.samples,
                TcpEventKind::Retransmitted { .. } => self.tcp || self.tlp_rto,
                _ => false,
            },
            Input::Probe(result) => {
                self.probes
                    || (self.flow_probes && matches!(result.source, ProbeSource::Flow))
                    || match result.target {
                        ProbeTarget::Gateway(_) => self.gateway_probes,
                        ProbeTarget::Anchor(_) => self.anchor_probes,
                        ProbeTarget::Suspect(_) => self.bursts,
                    }
            }
            Input::Bgp(_) => self.bgp,
            Input::Host(signal) => {
                self.host
                    || match signal {
                        HostSignal::Carrier { .. } => self.carrier,
                        HostSignal::Neighbor { .. } => self.neighbor,
                        HostSignal::TimerLag { .. } => self.timer_lag,
                        _ => false,
                    }
            }
            Input::Fib(_) | Input::Outcome(_) | Input::Operator(_) | Input::Timeout => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_can_be_switched_off_by_its_name() {
        for (kind, _) in KINDS {
            let mut without = Without::default();
            assert!(without.switch_off(kind), "{kind}");
            assert_ne!(without, Without::default());
        }
        assert!(!Without::default().switch_off("luck"));
    }
}
