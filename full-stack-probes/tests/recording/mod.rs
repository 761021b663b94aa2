//! A collector with one probe on one rung, and the records that it delivers.

use std::collections::BTreeMap;

use events::TcpEvent;
use full_stack_probes::{
    Collector, Handle, KernelRecord, RungKind, Settings, Sinks, Watch as Watched,
};
use tokio::sync::mpsc::{Receiver, channel};

/// A running collector. Disks are left out: what they do is no test's.
pub struct Recording {
    pub handle: Handle,
    pub records: Receiver<Vec<KernelRecord>>,
    _tcp: Receiver<Vec<TcpEvent>>,
}

impl Recording {
    /// With this rung of the probe, and the hooks that the kernel tells; `None` where this kernel
    /// has not its hooks.
    pub fn start(
        probe: &'static str,
        rung: RungKind,
        watch: Watched,
    ) -> Option<(Self, Vec<String>)> {
        let settings = Settings {
            watch,
            block: false,
            force: BTreeMap::from([(probe, rung)]),
            ..Settings::default()
        };
        let collector = Collector::start(settings).unwrap();
        let report = collector.report().iter().find(|r| r.name == probe).unwrap();
        let Some(hook) = report.hook.clone() else {
            assert!(!is_refused(&report.reason), "{}", report.reason);
            println!("SKIPPED: {rung:?}: {}", report.reason);
            return None;
        };
        println!("{rung:?}: {hook}");
        assert_eq!(report.rung, Some(rung));
        assert_eq!(report.reason.is_empty(), rung == RungKind::Function);
        // Linux before 6.6 does not tell the names of kprobes: the report says so behind it.
        let hooks = hook
            .split(" + ")
            .map(|told| told.split(' ').next().unwrap().to_owned())
            .collect();
        let (tcp, tcp_receiver) = channel(1024);
        let (sink, records) = channel(1024);
        let handle = collector
            .spawn_with(Sinks {
                tcp,
                records: Some(sink),
            })
            .unwrap();
        let recording = Self {
            handle,
            records,
            _tcp: tcp_receiver,
        };
        Some((recording, hooks))
    }

    /// Nothing was lost on the way.
    pub fn assert_lossless(&self) {
        let counters = self.handle.counters();
        assert_eq!((counters.bulk_lost, counters.calls_lost), (0, 0));
        assert_eq!(counters.malformed, 0);
        assert_eq!(counters.records_dropped, 0);
    }
}

/// Whether the verifier refused a program (EACCES, EINVAL, E2BIG): our fault, not the kernel's.
fn is_refused(reason: &str) -> bool {
    [13, 22, 7]
        .iter()
        .any(|errno| reason.contains(&format!("(os error {errno})")))
}
