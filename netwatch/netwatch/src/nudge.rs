//! Making backed-off connections retransmit once their prefixes have another route: which they are
//! is the kernel collector's to say, the messages are the prober's to send.

use std::sync::Arc;

use events::{IncidentId, Outcome, Prefix};
use full_stack_probes::Handle;
use probing::Stalled;
use tokio::sync::mpsc;

/// Connections nudged at once, at most. Each takes a few microseconds of the kernel's time.
const MOST: usize = 1024;

/// Looks and sends on a thread of its own; how it went comes back as an outcome.
pub fn spawn(
    adapters: &tokio::runtime::Handle,
    collector: Option<Arc<Handle>>,
    outcomes: mpsc::Sender<Outcome>,
    incident: IncidentId,
    prefixes: Vec<Prefix>,
) {
    adapters.spawn_blocking(move || {
        let (found, error) = match collector.as_deref() {
            Some(collector) => match backed_off(collector, &prefixes) {
                Ok(found) => (found, None),
                Err(error) => (
                    Vec::new(),
                    Some(format!("sock_diag cannot be asked: {error}")),
                ),
            },
            None => (
                Vec::new(),
                Some("without kernel programs no sequence number is known".to_owned()),
            ),
        };
        // The engine's task has ended with the daemon; nobody waits then.
        let _ = outcomes.blocking_send(outcome(incident, &found, error));
    });
}

fn backed_off(collector: &Handle, prefixes: &[Prefix]) -> std::io::Result<Vec<Stalled>> {
    let found = collector.backed_off(prefixes)?;
    Ok(found
        .iter()
        .map(|one| Stalled {
            local: one.flow.local,
            remote: one.flow.remote,
            unacknowledged: one.unacknowledged,
            doublings: one.doublings,
        })
        .collect())
}

fn outcome(incident: IncidentId, found: &[Stalled], error: Option<String>) -> Outcome {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let now = found.get(..MOST).unwrap_or(found);
    let (nudged, refused) = match probing::nudge(now) {
        Ok(nudged) => (nudged, None),
        Err(error) => (0, Some(format!("the messages cannot be sent: {error}"))),
    };
    Outcome::Nudged {
        incident,
        connections: count(nudged),
        left: count(found.len() - now.len()),
        error: error.or(refused),
    }
}
