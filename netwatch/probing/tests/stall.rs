//! Alone in its process, because it stops it for a while.

use std::process::Command;
use std::time::{Duration, Instant};

use events::HostSignal;
use probing::{Prober, Settings};

#[test]
fn a_process_that_stood_still_says_so() {
    let (sink, _results) = probing::results(16);
    let (host_sink, mut signals) = tokio::sync::mpsc::channel(16);
    let handle = Prober::spawn(Settings::default(), sink, host_sink).unwrap();
    // Once it answers, its thread runs.
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(handle.status());
    let pid = std::process::id();
    let mut stopper = Command::new("sh")
        .args([
            "-c",
            &format!("kill -STOP {pid}; sleep 0.4; kill -CONT {pid}"),
        ])
        .spawn()
        .unwrap();
    stopper.wait().unwrap();
    let start = Instant::now();
    let lag = loop {
        match signals.try_recv() {
            Ok(HostSignal::TimerLag { lag }) if lag > Duration::from_millis(200) => break lag,
            _ => assert!(start.elapsed() < Duration::from_secs(10), "no lag was told"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(lag < Duration::from_secs(30), "{lag:?}");
    assert!(handle.counters().timer_lags > 0);
    handle.stop();
}
