//! Durations as milliseconds with a fraction: what people and scripts expect of a field `…_ms`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
    (value.as_secs_f64() * 1e3).serialize(to)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let millis = f64::deserialize(from)?;
    Duration::try_from_secs_f64(millis / 1e3).map_err(D::Error::custom)
}

/// The same for a duration that may be unknown.
pub(crate) mod option {
    use super::{Deserialize, Deserializer, Duration, Error, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|d| d.as_secs_f64() * 1e3).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        Option::<f64>::deserialize(from)?
            .map(|millis| Duration::try_from_secs_f64(millis / 1e3).map_err(D::Error::custom))
            .transpose()
    }
}
