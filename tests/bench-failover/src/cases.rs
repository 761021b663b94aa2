//! What is cut, in which traffic, and what is to be reached (all times in milliseconds).

use std::path::Path;

use anyhow::Context;
use lab::scenario::{Scenario, parse};

/// A fault in a kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// `<fault>/<traffic>`.
    pub name: &'static str,
    /// The verdict that names the fault.
    pub verdict: &'static str,
    /// `kind` of the lab's faults, on uplink `a`, all at once.
    faults: &'static [&'static str],
    /// The uplink that the peers' packets come back by.
    return_via: &'static str,
    /// Keys of `[topology]` that make the traffic.
    traffic: &'static str,
    /// Time between two messages, in milliseconds, where they are steady.
    pub gap: Option<u64>,
    /// BFD and friends watch the same cuts.
    pub watched: bool,
}

const STEADY_50: &str = "send_gap = \"50ms\"";
const STEADY_200: &str = "send_gap = \"200ms\"";
const IDLE: &str = "send_gap = \"60s\"";
/// Two-second blocks with 40 % duty.
const BURSTY: &str = "send_gap = \"50ms\"\nburst = { every = \"2s\", talk = \"800ms\" }";

const UPSTREAM: Case = Case {
    name: "upstream-as/gap_50",
    verdict: "upstream_as",
    faults: &["egress-dark", "inbound-dark"],
    return_via: "b",
    traffic: STEADY_50,
    gap: Some(50),
    watched: true,
};

/// All cases, in the order in which they are run.
pub const CASES: [Case; 7] = [
    UPSTREAM,
    Case {
        name: "upstream-as/gap_200",
        traffic: STEADY_200,
        gap: Some(200),
        watched: false,
        ..UPSTREAM
    },
    Case {
        name: "upstream-as/idle",
        traffic: IDLE,
        gap: None,
        watched: false,
        ..UPSTREAM
    },
    Case {
        name: "upstream-as/bursty",
        traffic: BURSTY,
        gap: None,
        watched: false,
        ..UPSTREAM
    },
    Case {
        name: "gateway/gap_50",
        verdict: "gateway",
        faults: &["gateway-dead"],
        ..UPSTREAM
    },
    Case {
        name: "link/gap_50",
        verdict: "local_link",
        faults: &["carrier-lost"],
        ..UPSTREAM
    },
    Case {
        name: "egress-only/gap_50",
        // Until the detector tells it apart, an upstream that swallows one way only is one that is dark.
        verdict: "egress_only|upstream_as",
        faults: &["egress-dark"],
        return_via: "a",
        watched: false,
        ..UPSTREAM
    },
];

impl Case {
    /// The case of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        CASES.into_iter().find(|case| case.name == name)
    }

    /// The class is the one that the fault has.
    #[must_use]
    pub fn is_right(&self, class: &str) -> bool {
        self.verdict.split('|').any(|right| right == class)
    }

    /// Forty peers in ten prefixes of ten ASes, three of them IPv6. Their round-trip times are the
    /// middles of the tenths of a log-uniform distribution from 11 to 150 ms, as the lab draws them,
    /// with a median of 40 ms. Six of the ASes have an anchor.
    ///
    /// # Errors
    /// The lab does not know a key: its format has changed.
    pub fn scenario(&self, bgp: bool) -> anyhow::Result<Scenario> {
        const RTTS: [(u32, bool); 10] = [
            (12, true),
            (16, false),
            (21, true),
            (27, false),
            (40, true),
            (40, true),
            (60, false),
            (78, true),
            (101, true),
            (132, false),
        ];
        let mut text = format!(
            "description = \"{}\"\nduration = \"1s\"\n[topology]\nreturn_via = \"{}\"\n\
             prefixes_per_origin = 1\npeers_per_prefix = 4\n{}\n",
            self.name, self.return_via, self.traffic
        );
        for (nth, (rtt, anchor)) in RTTS.iter().enumerate() {
            text.push_str(&format!(
                "[[topology.origin]]\nname = \"o{nth}\"\nreturn_via = \"{}\"\nrtt = \"{rtt}ms\"\nanchor = {anchor}\n",
                self.return_via
            ));
            if nth % 4 == 2 || nth == 5 {
                text.push_str(&format!("prefixes = [\"2a0{nth}:db8::/32\"]\n"));
            }
        }
        text.push_str(&format!("[daemon]\nbgp = {bgp}\n"));
        for fault in self.faults {
            text.push_str(&format!(
                "[[fault]]\nat = \"0ms\"\nkind = \"{fault}\"\nupstream = \"a\"\n"
            ));
        }
        parse(&text, Path::new(self.name)).context("the benchmark's own scenario")
    }
}

/// A figure to stay under, of netwatch's samples of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// The case.
    pub case: &'static str,
    /// The metric.
    pub metric: &'static str,
    /// With the nudge.
    pub nudge: bool,
    /// Which percentile.
    pub share: f64,
    /// At most.
    pub most: f64,
}

const fn goal(case: &'static str, metric: &'static str, share: f64, most: f64) -> Goal {
    Goal {
        case,
        metric,
        nudge: false,
        share,
        most,
    }
}

/// The aims.
pub const GOALS: [Goal; 12] = [
    goal("upstream-as/gap_50", "cut_to_verdict_ms", 0.5, 120.0),
    goal("upstream-as/gap_50", "cut_to_verdict_ms", 0.99, 220.0),
    goal("upstream-as/gap_200", "cut_to_verdict_ms", 0.5, 250.0),
    goal("upstream-as/gap_200", "cut_to_verdict_ms", 0.99, 400.0),
    goal("upstream-as/idle", "cut_to_verdict_ms", 0.99, 400.0),
    goal("upstream-as/bursty", "cut_to_verdict_ms", 0.99, 400.0),
    goal("gateway/gap_50", "cut_to_verdict_ms", 0.99, 150.0),
    goal("link/gap_50", "cut_to_verdict_ms", 0.99, 50.0),
    goal("upstream-as/gap_50", "cut_to_route_ms", 0.95, 190.0),
    goal("gateway/gap_50", "cut_to_route_ms", 0.95, 190.0),
    goal("upstream-as/gap_50", "cut_to_traffic_ms", 0.5, 250.0),
    Goal {
        nudge: true,
        ..goal("upstream-as/gap_50", "cut_to_traffic_ms", 0.99, 450.0)
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_a_scenario_with_forty_peers_and_a_median_of_40_ms() {
        for case in CASES {
            let scenario = case.scenario(true).unwrap();
            let world = lab::world::World::draw(&scenario, 1);
            assert_eq!(world.peers().count(), 40, "{}", case.name);
            let mut rtts: Vec<u64> = world
                .peers()
                .map(|(_, host)| world.prefixes[host.prefix].rtt)
                .collect();
            rtts.sort_unstable();
            assert_eq!((rtts[19], rtts[20]), (40_000_000, 40_000_000));
            let ipv6 = world.peers().filter(|(_, h)| h.address.is_ipv6()).count();
            assert_eq!(ipv6, 12, "{}", case.name);
            assert!(GOALS.iter().all(|goal| Case::named(goal.case).is_some()));
        }
    }
}
