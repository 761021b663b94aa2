//! Strict reverse-path filtering (RFC 3704, `net.ipv4.conf.*.rp_filter`) against asymmetric returns.

use std::fs;

/// Replies that come in by this interface would be dropped once the way out is another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "strict rp_filter on {interface} would drop replies that come in there: \
     set net.ipv4.conf.{interface}.rp_filter=2 (loose) and make sure that \
     net.ipv4.conf.all.rp_filter is not 1"
)]
pub struct StrictRpFilter {
    /// The interface.
    pub interface: String,
}

/// Whether the filter is strict on an interface that can carry packets. The kernel takes the larger
/// of `all` and the interface's own value; 1 is strict, 2 is loose. IPv6 has no such filter.
#[must_use]
pub fn strict_rp_filter(interface: &str) -> bool {
    // No carrier, no replies.
    let carrier = fs::read_to_string(format!("/sys/class/net/{interface}/carrier"));
    if carrier.is_ok_and(|text| text.trim() == "0") {
        return false;
    }
    let value = |name: &str| {
        fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"))
            .ok()
            .and_then(|text| text.trim().parse::<u8>().ok())
            .unwrap_or(0)
    };
    value("all").max(value(interface)) == 1
}
