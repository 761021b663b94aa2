use std::time::Duration;

const UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A duration as people write it: `80ms`, `2s`, `5m`; a whole number and `ns`, `us`, `ms`, `s`, `m` or `h`.
#[must_use]
pub fn read_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, unit) = text.split_at(digits);
    let (_, size) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let nanos = count.parse::<u64>().ok()?.checked_mul(*size)?;
    Some(Duration::from_nanos(nanos))
}

/// Writes a duration as [`read_duration`] reads it, in the largest unit of which it is a multiple.
#[must_use]
pub fn write_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let (unit, size) = UNITS
        .iter()
        .rev()
        .find(|(_, size)| nanos.is_multiple_of(u128::from(*size)))
        .unwrap_or(&UNITS[0]);
    format!("{}{unit}", nanos / u128::from(*size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_whole_number_and_a_unit() {
        for (text, millis) in [
            ("20ms", 20),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(read_duration(text), Some(duration), "{text}");
            assert_eq!(write_duration(duration), text);
        }
        for text in [
            "",
            "20",
            "ms",
            "-1s",
            "1.5s",
            "20 ms",
            "1s500ms",
            "+3s",
            "99999999999999999h",
        ] {
            assert_eq!(read_duration(text), None, "{text}");
        }
    }
}
