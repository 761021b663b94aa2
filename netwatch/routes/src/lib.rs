//! The kernel's routes that netwatch owns: rtnetlink executor, leases, watchdog process, sweep.
