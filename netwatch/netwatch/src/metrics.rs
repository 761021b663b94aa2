//! `/metrics` in the Prometheus text format: every counter of the daemon, losses among them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Serves until `stopped` says so. The engine's task is asked for each scrape.
pub fn serve(
    listen: SocketAddr,
    calls: mpsc::Sender<api::Call>,
    stopped: watch::Receiver<bool>,
) -> Result<JoinHandle<()>> {
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
        .with_state(calls);
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

async fn scrape(State(calls): State<mpsc::Sender<api::Call>>) -> Response {
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
        return (kind, exposition(&status)).into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "the daemon is busy or stopping\n",
    )
        .into_response()
}

fn exposition(status: &api::StatusReply) -> String {
    let mut families: BTreeMap<&str, Vec<(&str, u64)>> = BTreeMap::new();
    for (name, value) in &status.counters {
        let family = name.split('{').next().unwrap_or(name);
        families.entry(family).or_default().push((name, *value));
    }
    let mut out = String::new();
    for (family, samples) in families {
        let kind = if family.ends_with("_total") {
            "counter"
        } else {
            "gauge"
        };
        // Writing to a string does not fail.
        let _ = writeln!(out, "# TYPE {family} {kind}");
        for (name, value) in samples {
            let _ = writeln!(out, "{name} {value}");
        }
    }
    out
}
