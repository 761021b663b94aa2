use std::process::Command;

/// Addresses on the namespace's loopback.
pub const FEED: &str = "198.51.100.10";
pub const FEED6: &str = "2001:db8:ff::10";
pub const ROUTER: &str = "192.0.2.1";
pub const ROUTER6: &str = "2001:db8:ff::1";
pub const STRANGER: &str = "192.0.2.99";

/// Runs a test on a thread in a new network namespace. Nothing refers to the namespace but that
/// thread and its children, so that it goes away with them, however they end.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("a network namespace needs root");
        ip(&["link", "set", "lo", "up"]);
        for address in [FEED, FEED6, ROUTER, ROUTER6, STRANGER] {
            // Without nodad an IPv6 address is tentative for a moment and cannot be bound.
            ip(&["address", "add", address, "dev", "lo", "nodad"]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}");
}
