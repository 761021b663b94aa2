//! `[bgp]`: what bounds the RIB, and `[bgp.rpki]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::read::{Report, Section};

const MIB: u64 = 1 << 20;

/// The change history of the RIB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Bytes of the ring.
    pub bytes: usize,
    /// Age of the oldest change.
    pub age: Duration,
}

/// Where Validated ROA Payloads come from: at least one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rpki {
    /// A file, as validators export it: JSON or CSV. It is read again when it changes.
    pub file: Option<PathBuf>,
    /// An RTR cache (RFC 8210).
    pub cache: Option<SocketAddr>,
}

/// A number of bytes: `512MiB`.
struct Size(usize);

impl FromStr for Size {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (number, unit) = [("KiB", 1 << 10), ("MiB", MIB), ("GiB", 1 << 30)]
            .into_iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))
            .ok_or(())?;
        let number: u64 = number.trim_end().parse().map_err(drop)?;
        let bytes = number.checked_mul(unit).ok_or(())?;
        usize::try_from(bytes).map(Self).map_err(drop)
    }
}

/// The value of a key, where it is there and lies within bounds in MiB.
fn size(s: &mut Section<'_>, key: &'static str, low: u64, report: &Report<'_>) -> Option<usize> {
    let item = s.take(key)?;
    let size = item.parsed::<Size>("a size such as \"64MiB\" or \"2GiB\"")?;
    let least = usize::try_from(low * MIB).unwrap_or(0);
    if size.value.0 < least {
        size.problem(report, format!("is too little: at least {low}MiB"));
        return None;
    }
    Some(size.value.0)
}

/// `memory_limit`: tables do with less than this only by leaving out routes.
pub(crate) fn memory_limit(s: &mut Section<'_>, report: &Report<'_>) -> Option<usize> {
    size(s, "memory_limit", 32, report)
}

/// `history` and `history_memory`.
pub(crate) fn history(s: &mut Section<'_>, report: &Report<'_>) -> History {
    let hour = Duration::from_secs(3600);
    let age = s.take("history");
    let age = age.and_then(|item| item.duration(Duration::ZERO..=168 * hour));
    History {
        bytes: size(s, "history_memory", 1, report).unwrap_or(16 << 20),
        age: age.unwrap_or(hour),
    }
}

/// `[bgp.rpki]`.
pub(crate) fn rpki(s: &mut Section<'_>, report: &Report<'_>) -> Option<Rpki> {
    let item = s.take("rpki")?;
    let here = item.at(());
    let mut s = item.section()?;
    let file = s.take("file").and_then(|item| item.text());
    let cache = s.take("cache").and_then(|item| {
        item.parsed("an address with a port, such as \"192.0.2.5:8282\" or \"[2001:db8::5]:8282\"")
    });
    s.finish();
    if file.is_none() && cache.is_none() {
        here.problem(
            report,
            "needs `file` (VRPs as a validator exports them) or `cache` (an RTR server)",
        );
        return None;
    }
    Some(Rpki {
        file: file.map(|file| PathBuf::from(file.value)),
        cache: cache.map(|cache| cache.value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_whole_number_and_a_unit() {
        let size = |text: &str| text.parse::<Size>().map(|size| size.0).ok();
        assert_eq!(size("1KiB"), Some(1024));
        assert_eq!(size("64 MiB"), Some(64 << 20));
        assert_eq!(size("2GiB"), Some(2 << 30));
        for wrong in [
            "64",
            "64MB",
            "-1MiB",
            "1.5GiB",
            "99999999999999999999GiB",
            "",
        ] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }
}
