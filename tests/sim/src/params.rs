//! What worlds are drawn from.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The shipped parameters, with their documentation.
pub const SHIPPED: &str = include_str!("../params.toml");

/// Lowest and highest.
pub type Range = [f64; 2];

macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: $type),* }
    };
}

table! {
    /// Everything. The shipped file documents each key.
    Params {
        world: WorldParams,
        topology: Topology,
        family: Family,
        traffic: Traffic,
        feed: Feed,
        fault: Faults,
        fault_shape: FaultShape,
        benign: Benign,
        adapter: Adapter,
        long_run: LongRun,
    }
}
table! {
    /// Sizes and durations.
    WorldParams {
        peers: Range,
        egresses_three: f64,
        sends_per_second: f64,
        warm_up_s: f64,
        settle_s: f64,
        observe_s: f64,
    }
}
table! {
    /// ASes, prefixes, distances.
    Topology {
        transit: Range,
        root: f64,
        direct: f64,
        same_path: f64,
        popularity: f64,
        rtt_median_ms: f64,
        rtt_sigma: f64,
        rtt_ms: Range,
        anchors: Range,
        peers_silent: f64,
        gateways_silent: f64,
        fib_specific: f64,
        answers_by_primary: f64,
    }
}
table! {
    /// Address families.
    Family { ipv4: f64, ipv6: f64, both: f64 }
}
table! {
    /// Who sends when.
    Traffic {
        idle: f64,
        bursty: f64,
        chatty_50: f64,
        chatty_200: f64,
        chatty_1000: f64,
        inbound: f64,
        inbound_all: f64,
    }
}
table! {
    /// The BGP feed.
    Feed {
        none: f64,
        prompt: f64,
        late: f64,
        stale: f64,
        prompt_s: Range,
        late_s: Range,
    }
}
table! {
    /// How often which fault.
    Faults {
        none: f64,
        carrier: f64,
        neighbor: f64,
        gateway: f64,
        gateway_mute: f64,
        forwards_nothing: f64,
        upstream: f64,
        remote_as: f64,
        as_edge: f64,
        prefix: f64,
        single_peer: f64,
        egress_only: f64,
        return_path: f64,
        host_stall: f64,
        isolation: f64,
        one_family: f64,
    }
}
table! {
    /// When faults come and go.
    FaultShape {
        second: f64,
        second_after_s: Range,
        backup: f64,
        heals: f64,
        heals_after_s: Range,
        carrier_signal_ms: Range,
        neighbor_signal_s: Range,
        isolation_spread_ms: Range,
        stall_ms: Range,
    }
}
table! {
    /// What is no fault.
    Benign {
        loss: f64,
        loss_share: Range,
        loss_wide: f64,
        jitter: f64,
        jitter_ms: Range,
        bufferbloat: f64,
        bloat_ms: Range,
        bloat_slope: Range,
        bloat_hold_s: Range,
        delayed_ack: f64,
        delayed_ack_worlds: f64,
        delayed_ack_ms: Range,
        restart: f64,
        restart_share: Range,
        epoch_pause: f64,
        epoch_pause_s: f64,
        epoch_drop: f64,
        stall: f64,
        stall_ms: Range,
        jump: f64,
        jump_ms: Range,
        timer_lag: f64,
        timer_lag_ms: Range,
        bgp_noise: f64,
        bgp_noise_events: Range,
        session_flap: f64,
        lost_events: f64,
        lost_share: Range,
    }
}
table! {
    /// Days of benign disturbance.
    LongRun {
        peers: f64,
        gap_ms: f64,
        per_day: f64,
        before_s: f64,
        after_s: f64,
        two_at_once: f64,
        loss: f64,
        bufferbloat: f64,
        restart: f64,
        stall: f64,
        jump: f64,
        timer_lag: f64,
        bgp_noise: f64,
        session_flap: f64,
        lost_events: f64,
        pause: f64,
    }
}
table! {
    /// How fast the daemon's adapters are.
    Adapter { install_ms: Range, fib_ms: Range, bgp_fact_ms: Range }
}

impl Params {
    /// The shipped ones.
    ///
    /// # Errors
    /// None in a tree whose tests pass.
    pub fn shipped() -> Result<Self> {
        Self::with("")
    }

    /// The shipped ones, overridden by a TOML text.
    ///
    /// # Errors
    /// Where the text is no TOML, holds a key that the shipped file does not, or a value of another
    /// type.
    pub fn with(text: &str) -> Result<Self> {
        let mut all: toml::Table = SHIPPED.parse().context("the shipped parameters")?;
        let over: toml::Table = text.parse().context("the parameters are no TOML")?;
        for (section, values) in over {
            let known = all
                .get_mut(&section)
                .and_then(toml::Value::as_table_mut)
                .with_context(|| format!("there is no section [{section}]"))?;
            let toml::Value::Table(values) = values else {
                anyhow::bail!("{section} is a section: write [{section}]");
            };
            for (key, value) in values {
                anyhow::ensure!(
                    known.contains_key(&key),
                    "there is no key {key} in [{section}]; keys: {}",
                    known.keys().cloned().collect::<Vec<_>>().join(", ")
                );
                known.insert(key, value);
            }
        }
        toml::Value::Table(all)
            .try_into()
            .context("a parameter has a wrong type")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_holds_every_key_and_can_be_overridden() {
        let shipped = Params::shipped().expect("shipped");
        let changed = Params::with("[world]\npeers = [3, 3]\n[fault]\nnone = 1").expect("valid");
        assert_eq!(changed.world.peers, [3.0, 3.0]);
        assert_eq!(changed.topology, shipped.topology);
    }

    #[test]
    fn unknown_keys_are_errors_that_name_them() {
        let error = |text| format!("{:#}", Params::with(text).expect_err("unknown"));
        assert!(error("[world]\npeer = 1").contains("no key peer in [world]"));
        assert!(error("[worlds]\npeers = [1, 2]").contains("no section [worlds]"));
        assert!(error("world = 1").contains("[world]"));
        assert!(error("[world]\npeers = 'many'").contains("wrong type"));
    }
}
