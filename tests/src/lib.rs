//! The lab: namespaces, routers, peers and faults, and what it saw.
