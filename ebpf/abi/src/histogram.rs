/// Buckets of a histogram: 32 octaves of 16 each, so that every bound is within 1/16 of the value.
/// A power of two: programs mask the index.
pub const BUCKETS: usize = 512;

/// Values up to this fall into the first octave, bucket by bucket of 4 ns.
const FIRST: u32 = 6;
const STEPS: u32 = 4;

/// The bucket of a duration in nanoseconds. Log-linear: exact to 4 ns below 64 ns, else to 1/16;
/// everything from `2^37` ns (137 s) on is in the last bucket.
#[inline(always)]
#[must_use]
pub const fn bucket(nanos: u64) -> u32 {
    if nanos < 1 << FIRST {
        return (nanos >> (FIRST - STEPS)) as u32;
    }
    let exponent = 63 - nanos.leading_zeros();
    let step = ((nanos >> (exponent - STEPS)) & 15) as u32;
    let index = ((exponent - FIRST + 1) << STEPS) | step;
    if index < BUCKETS as u32 {
        index
    } else {
        BUCKETS as u32 - 1
    }
}

/// The least duration in a bucket, in nanoseconds.
#[must_use]
pub const fn lower_bound(bucket: u32) -> u64 {
    let (octave, step) = (bucket >> STEPS, (bucket & 15) as u64);
    if octave == 0 {
        return step << (FIRST - STEPS);
    }
    let exponent = octave - 1 + FIRST;
    (1 << exponent) + (step << (exponent - STEPS))
}

/// What a bucket stands for: its middle, in nanoseconds.
#[must_use]
pub const fn midpoint(bucket: u32) -> u64 {
    let low = lower_bound(bucket);
    low + (lower_bound(bucket + 1) - low) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        let mut value = 0u64;
        while value < 1 << 37 {
            let index = bucket(value);
            assert!(lower_bound(index) <= value, "{value}");
            assert!(value < lower_bound(index + 1), "{value}");
            value += 1 + value / 37;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS as u32 - 1);
        assert_eq!(bucket(0), 0);
    }

    #[test]
    fn midpoints_are_within_a_thirty_second() {
        for index in 16..BUCKETS as u32 {
            let low = lower_bound(index);
            let high = lower_bound(index + 1) - 1;
            let middle = midpoint(index);
            assert!((middle - low) * 32 <= low, "{index}");
            assert!((high - middle) * 32 <= high, "{index}");
        }
    }
}
