//! The BMP station against real FRR and GoBGP and against raw sockets, and RIS Live against a
//! WebSocket server of the test's own. Each test has a network namespace of its own. Needs root.

mod feed;
#[path = "../live/namespace.rs"]
mod namespace;
mod raw;
mod ris;
mod routers;
