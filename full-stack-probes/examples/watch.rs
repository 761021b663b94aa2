//! Prints what the kernel tells of this host's connections, for some seconds (default: 10).

use std::time::{Duration, Instant};

use full_stack_probes::{Collector, Settings, preflight};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args()
        .nth(1)
        .and_then(|argument| argument.parse().ok())
        .unwrap_or(10);
    for check in preflight() {
        println!("{check:?}");
    }
    let collector = Collector::start(Settings {
        ignore_loopback: false,
        ..Settings::default()
    })?;
    for report in collector.report() {
        println!("{report:?}");
    }
    let (sink, mut events) = tokio::sync::mpsc::channel(64);
    let handle = collector.spawn(sink)?;
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        match events.try_recv() {
            Ok(batch) => batch.iter().for_each(|event| println!("{event:?}")),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    println!("{:#?}", handle.counters());
    println!("{} bytes", handle.memory_bytes());
    handle.stop();
    Ok(())
}
