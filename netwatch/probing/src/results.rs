//! The queue of results: what is urgent wakes its reader, what is well waits for it.
//!
//! Some hundred answers a second say no more than that a path is well. A reader that is woken for
//! each of them spends its time on waking. So these wait until it reads for another reason, or
//! something urgent comes, or the oldest of them has waited for [`HOLD`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use events::{ProbeResult, Timestamp};
use tokio::sync::Notify;

/// No result waits for longer than this without its reader being woken.
const HOLD: Duration = Duration::from_secs(1);

/// Makes a queue for at most so many results: more are dropped, and counted by the prober.
#[must_use]
pub fn results(capacity: usize) -> (ResultSink, Results) {
    let shared = Arc::new(Shared {
        capacity,
        queue: Mutex::new(VecDeque::new()),
        wake: Notify::new(),
        closed: AtomicBool::new(false),
    });
    (ResultSink(Arc::clone(&shared)), Results(shared))
}

#[derive(Debug)]
struct Shared {
    capacity: usize,
    queue: Mutex<VecDeque<ProbeResult>>,
    wake: Notify,
    closed: AtomicBool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, VecDeque<ProbeResult>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The prober's end.
#[derive(Debug)]
pub struct ResultSink(Arc<Shared>);

impl ResultSink {
    /// Adds a result; false where there is no room.
    pub(crate) fn push(&self, result: ProbeResult, urgent: bool) -> bool {
        let mut queue = self.0.queue();
        if queue.len() >= self.0.capacity {
            return false;
        }
        queue.push_back(result);
        let half_full = queue.len() * 2 == self.0.capacity;
        drop(queue);
        if urgent || half_full {
            self.0.wake.notify_one();
        }
        true
    }

    /// Wakes the reader if the oldest result has waited for long.
    pub(crate) fn remind(&self, now: Timestamp) {
        let oldest = self.0.queue().front().map(|result| result.sent_at);
        if oldest.is_some_and(|at| now.since(at) >= HOLD) {
            self.0.wake.notify_one();
        }
    }
}

impl Drop for ResultSink {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.wake.notify_one();
    }
}

/// The reader's end.
#[derive(Debug)]
pub struct Results(Arc<Shared>);

impl Results {
    /// The next result, waited for until one is urgent or has waited for long. `None` once the
    /// prober has ended and all its results are read. Cancel-safe.
    pub async fn recv(&mut self) -> Option<ProbeResult> {
        loop {
            let closed = self.0.closed.load(Ordering::Acquire);
            if let Some(result) = self.try_recv() {
                return Some(result);
            }
            if closed {
                return None;
            }
            self.0.wake.notified().await;
        }
    }

    /// The next result that is there, urgent or not.
    pub fn try_recv(&mut self) -> Option<ProbeResult> {
        self.0.queue().pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use events::{EgressName, ProbeOutcome, ProbeSource, ProbeTarget};

    use super::*;

    fn result(ms: u64) -> ProbeResult {
        ProbeResult {
            sent_at: Timestamp::from_millis(ms),
            egress: EgressName::from("a"),
            target: ProbeTarget::Gateway([192, 0, 2, 1].into()),
            source: ProbeSource::Link,
            source_address: [192, 0, 2, 2].into(),
            outcome: ProbeOutcome::Lost,
        }
    }

    /// Whether something wakes a reader that had found nothing.
    fn wakes(act: impl FnOnce(&ResultSink)) -> bool {
        let (sink, mut results) = results(8);
        let mut reading = Box::pin(results.recv());
        let mut context = Context::from_waker(Waker::noop());
        assert!(reading.as_mut().poll(&mut context).is_pending());
        act(&sink);
        matches!(reading.as_mut().poll(&mut context), Poll::Ready(Some(_)))
    }

    #[test]
    fn what_is_urgent_or_old_wakes_and_what_is_well_waits() {
        assert!(wakes(|sink| assert!(sink.push(result(0), true))));
        assert!(!wakes(|sink| assert!(sink.push(result(0), false))));
        assert!(!wakes(|sink| {
            sink.push(result(0), false);
            sink.remind(Timestamp::from_millis(999));
        }));
        assert!(wakes(|sink| {
            sink.push(result(0), false);
            sink.remind(Timestamp::from_millis(1000));
        }));
        assert!(wakes(|sink| {
            for ms in 0..4 {
                sink.push(result(ms), false);
            }
        }));
    }

    #[test]
    fn all_is_read_in_order_and_no_more_than_fits() {
        let (sink, mut results) = results(4);
        let kept = (0..6).filter(|ms| sink.push(result(*ms), false)).count();
        assert_eq!(kept, 4);
        drop(sink);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            for ms in 0..4 {
                assert_eq!(results.recv().await, Some(result(ms)));
            }
            assert_eq!(results.recv().await, None);
        });
    }
}
