//! The TCP probes on every rung of their ladders.

mod support;

use std::collections::BTreeMap;

use full_stack_probes::{Collector, RungKind, Settings, ladders};

use support::in_namespace;

#[test]
fn loads() {
    in_namespace(|_| {
        for kind in [RungKind::TpBtf, RungKind::Function, RungKind::Kprobe] {
            let force: BTreeMap<_, _> = ladders()
                .into_iter()
                .filter(|(name, _)| name.starts_with("tcp_"))
                .map(|(name, _)| (name, kind))
                .collect();
            match Collector::start(Settings {
                force,
                ..Settings::default()
            }) {
                Ok(collector) => {
                    for report in collector.report() {
                        println!("{kind:?} {report:?}");
                    }
                }
                Err(error) => println!("{kind:?} {error}"),
            }
        }
    });
}
