//! Durations as scenario files write them: `"250ms"`, `"3s"`, `"1m"`.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// A duration written as a whole number and `ms`, `s` or `m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl Span {
    /// Milliseconds.
    #[must_use]
    pub const fn ms(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// Nanoseconds, the unit of the lab's clock.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0.as_nanos() as u64
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match &text[digits.len()..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            _ => {
                return Err(format!(
                    "`{text}` is not a duration such as \"250ms\", \"3s\" or \"1m\""
                ));
            }
        };
        let number: u64 = digits
            .parse()
            .map_err(|_| format!("`{text}` is not a duration: `{digits}` is not a whole number"))?;
        number
            .checked_mul(unit)
            .filter(|ms| *ms <= 3_600_000)
            .map(Self::ms)
            .ok_or_else(|| format!("`{text}` is more than an hour"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        if ms.is_multiple_of(1_000) {
            write!(f, "{}s", ms / 1_000)
        } else {
            write!(f, "{ms}ms")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units_and_refuses_the_rest() {
        let span = |text: &str| Span::try_from(text.to_owned());
        assert_eq!(span("250ms"), Ok(Span::ms(250)));
        assert_eq!(span("3s"), Ok(Span::ms(3_000)));
        assert_eq!(span("1m"), Ok(Span::ms(60_000)));
        for bad in [
            "",
            "3",
            "s",
            "-1s",
            "1.5s",
            "3 s",
            "3h",
            "99999999999999999999s",
            "61m",
        ] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
