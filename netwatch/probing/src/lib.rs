//! Active probes pinned to an egress and a source address, and the health of this host.
