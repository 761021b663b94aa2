//! BGP sessions on real sockets, driving the pure core.
