//! `/metrics` in the Prometheus text format: every counter of the daemon, losses among them, and the
//! percentiles of the last minute.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use api::{KernelInfo, SeriesInfo};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::families::{self, Kind};

/// Serves until `stopped` says so. The engine's task is asked for each scrape.
pub fn serve(
    settings: &config::Metrics,
    calls: mpsc::Sender<api::Call>,
    stopped: watch::Receiver<bool>,
) -> Result<JoinHandle<()>> {
    let listen = settings.listen;
    let bind = || -> std::io::Result<tokio::net::TcpListener> {
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    let listener = bind().with_context(|| {
        format!(
            "cannot listen on metrics.listen = {listen}; another program may, or set another port"
        )
    })?;
    let router = Router::new()
        .route("/metrics", get(scrape))
        .with_state((calls, usize::from(settings.series)));
    Ok(tokio::spawn(async move {
        let server = axum::serve(listener, router).with_graceful_shutdown(stop_of(stopped));
        if let Err(error) = server.await {
            tracing::error!(%error, "the metrics listener ended");
        }
    }))
}

/// Completes when the daemon stops.
pub async fn stop_of(mut stopped: watch::Receiver<bool>) {
    // An error means that the daemon is gone.
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn scrape(State((calls, most)): State<(mpsc::Sender<api::Call>, usize)>) -> Response {
    let (reply, answer) = oneshot::channel();
    let call = api::Call {
        request: api::Request::Status,
        reply,
    };
    if calls.try_send(call).is_ok()
        && let Ok(api::Reply::Status(status)) = answer.await
    {
        let kind = [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )];
        return (kind, exposition(&status, most)).into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "the daemon is busy or stopping\n",
    )
        .into_response()
}

/// Everything in the text format. Of each summary at most `most` series are shown, those with most
/// values in the last minute.
fn exposition(status: &api::StatusReply, most: usize) -> String {
    let mut families: BTreeMap<&str, Vec<(&str, u64)>> = BTreeMap::new();
    for (name, value) in &status.counters {
        let family = name.split('{').next().unwrap_or(name);
        families.entry(family).or_default().push((name, *value));
    }
    let mut out = String::new();
    for (family, samples) in families {
        let (kind, text) = families::describe(family);
        // As a summary it has more to tell.
        if kind == Kind::Summary {
            continue;
        }
        begin(&mut out, family, kind.name(), text);
        for (name, value) in samples {
            // Writing to a string does not fail.
            let _ = writeln!(out, "{name} {value}");
        }
    }
    let mut summaries: BTreeMap<&str, Vec<&SeriesInfo>> = BTreeMap::new();
    for info in &status.kernel.percentiles {
        summaries.entry(&info.series).or_default().push(info);
    }
    for (series, mut infos) in summaries {
        let family = format!("netwatch_{series}_microseconds");
        let (kind, text) = families::describe(&family);
        infos.sort_by(|a, b| b.count.cmp(&a.count).then(a.labels.cmp(&b.labels)));
        infos.truncate(most);
        begin(&mut out, &family, kind.name(), text);
        for info in infos {
            summary(&mut out, &family, info);
        }
    }
    out
}

fn begin(out: &mut String, family: &str, kind: &str, text: &str) {
    let _ = writeln!(out, "# HELP {family} {text}\n# TYPE {family} {kind}");
}

fn summary(out: &mut String, family: &str, info: &SeriesInfo) {
    let micros = |value: Duration| value.as_secs_f64() * 1e6;
    let own = info.labels.iter().map(|(name, value)| (&**name, &**value));
    for (quantile, value) in quantiles(info) {
        let labels = labels(own.clone().chain([("quantile", quantile)]));
        let _ = writeln!(out, "{family}{labels} {:.3}", micros(value));
    }
    let labels = labels(own);
    let _ = writeln!(out, "{family}_sum{labels} {:.3}", micros(info.sum));
    let _ = writeln!(out, "{family}_count{labels} {}", info.total);
}

/// The quantiles of the last minute; 1 is the maximum.
fn quantiles(info: &SeriesInfo) -> [(&'static str, Duration); 5] {
    [
        ("0.5", info.p50),
        ("0.9", info.p90),
        ("0.99", info.p99),
        ("0.999", info.p999),
        ("1", info.max),
    ]
}

/// Labels as the text format has them, escaped; nothing where there are none.
pub fn labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in labels {
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(name);
        out.push_str("=\"");
        for letter in value.chars() {
            match letter {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    if !out.is_empty() {
        out.push('}');
    }
    out
}

/// What the collector tells beyond its counters, as counters: for `/metrics` and `status --json`.
pub fn count_kernel(kernel: &KernelInfo, counters: &mut BTreeMap<String, u64>) {
    for probe in &kernel.probes {
        let hook = probe.hook.as_deref().unwrap_or_default();
        let labels = labels([("probe", probe.name.as_str()), ("hook", hook)]);
        let attached = u64::from(probe.hook.is_some());
        counters.insert(format!("netwatch_probe_attached{labels}"), attached);
    }
    for disk in &kernel.disks {
        let labels = labels([
            ("device", disk.device.as_str()),
            ("operation", &disk.operation),
        ]);
        for (name, value) in [
            ("disk_requests_total", disk.completed),
            ("disk_errors_total", disk.errors),
            ("disk_bytes_total", disk.bytes),
        ] {
            counters.insert(format!("netwatch_{name}{labels}"), value);
        }
    }
    if let Some(info) = kernel
        .percentiles
        .iter()
        .find(|info| info.series == "collector_delay")
    {
        for (quantile, value) in quantiles(info) {
            let labels = labels([("quantile", quantile)]);
            counters.insert(
                format!("netwatch_collector_delay_microseconds{labels}"),
                u64::try_from(value.as_micros()).unwrap_or(u64::MAX),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(labels([]), "");
        assert_eq!(
            labels([("a", "b"), ("c", "x\\y\"z\nü")]),
            "{a=\"b\",c=\"x\\\\y\\\"z\\nü\"}"
        );
    }

    #[test]
    fn summaries_show_the_busiest_with_all_quantiles() {
        let peer = |name: &str, count| SeriesInfo {
            series: "peer_rtt".to_owned(),
            labels: BTreeMap::from([("peer".to_owned(), name.to_owned())]),
            count,
            p50: Duration::from_nanos(1_500),
            max: Duration::from_millis(7),
            total: 10 * count,
            sum: Duration::from_secs(1),
            ..SeriesInfo::default()
        };
        let kernel = KernelInfo {
            percentiles: vec![peer("192.0.2.1", 3), peer("192.0.2.2", 9), peer("a\"b", 5)],
            ..KernelInfo::default()
        };
        let mut out = String::new();
        for info in &kernel.percentiles {
            summary(&mut out, "f", info);
        }
        assert!(
            out.contains("f{peer=\"192.0.2.1\",quantile=\"0.5\"} 1.500\n"),
            "{out}"
        );
        assert!(
            out.contains("f{peer=\"192.0.2.2\",quantile=\"1\"} 7000.000\n"),
            "{out}"
        );
        assert!(
            out.contains("f_sum{peer=\"192.0.2.1\"} 1000000.000\n"),
            "{out}"
        );
        assert!(out.contains("f_count{peer=\"a\\\"b\"} 50\n"), "{out}");
        assert_eq!(out.lines().count(), 3 * 7);
    }
}
