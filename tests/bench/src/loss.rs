//! The rate of events at which something is lost for the first time.

use std::time::Duration;

use lab::sys;

use crate::bench::Bench;
use crate::churn::{Churn, Kind};
use crate::world::{Config, HOST};

/// Connections per second, one step after the other.
const STEPS: [u64; 12] = [
    250, 500, 1_000, 2_000, 4_000, 6_000, 8_000, 12_000, 16_000, 24_000, 32_000, 48_000,
];

/// Raises the rate of short connections until a loss is counted, or until the load itself can no
/// more.
///
/// # Errors
/// The daemon does not start or ends by itself, or interrupted.
pub fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let mut daemon = bench.daemon(HOST, Config::Passive)?;
    // Refused and reset connections are edges of the urgent kind, one after the other.
    let kinds = [Kind::Refused, Kind::Outbound, Kind::Reset, Kind::Refused];
    let churn = Churn::start(&bench.space, &kinds, STEPS[0])?;
    sys::sleep(Duration::from_secs(1))?;
    let step_time = bench.time(3.0, 1.5);
    let mut best = (0.0, 0.0);
    let mut limit = "the highest rate that was tried".to_owned();
    for rate in STEPS {
        churn.set_rate(rate);
        sys::sleep(Duration::from_millis(500))?;
        let (before, begun, attempts) = (daemon.counters()?, sys::now(), churn.done().attempts());
        sys::sleep(step_time)?;
        let (after, attempts) = (daemon.counters()?, churn.done().attempts() - attempts);
        let seconds = (sys::now() - begun) as f64 / 1e9;
        let family = "kernel_records_total";
        let events = (after.sum(family) - before.sum(family)) / seconds;
        let connections = attempts as f64 / seconds;
        let losses = after.losses_since(&before);
        eprintln!("    {connections:>8.0} connections/s {events:>8.0} events/s, lost {losses:?}");
        if !losses.is_empty() {
            let names: Vec<String> = losses
                .iter()
                .map(|(name, lost)| format!("{name} {lost}"))
                .collect();
            limit = format!(
                "at {connections:.0} connections/s, {events:.0} events/s: {}",
                names.join(", ")
            );
            break;
        }
        best = (f64::max(best.0, events), f64::max(best.1, connections));
        if connections < 0.8 * rate as f64 {
            limit = format!("the load, which made {connections:.0} of {rate} connections/s");
            break;
        }
    }
    drop(churn);
    daemon.check()?;
    bench.single("events_per_second_without_loss", "churn", "1/s", best.0);
    bench.single(
        "connections_per_second_without_loss",
        "churn",
        "1/s",
        best.1,
    );
    bench.check(
        "events_per_second_without_loss/churn",
        best.0 > 0.0,
        format!(
            "{:.0} events/s of {:.0} connections/s; limited by {limit}",
            best.0, best.1
        ),
    );
    daemon.stop()
}
