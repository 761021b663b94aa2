//! Medians, quantiles and intervals.

/// The value at this share of sorted samples (nearest rank).
fn rank(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// A quantile by nearest rank.
pub fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    rank(&sorted, share)
}

/// The median; of an even number the mean of the middle two.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => sorted.get(middle).copied(),
        _ => Some((sorted.get(middle - 1)? + sorted.get(middle)?) / 2.0),
    }
}

/// A median with the interval that holds the true one with at least 95 %, by order statistics:
/// no assumption on the distribution. Fewer than six samples give no such interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Median {
    /// The median.
    pub value: f64,
    /// The interval's ends.
    pub interval: Option<(f64, f64)>,
    /// How many samples.
    pub n: usize,
}

impl Median {
    /// Of samples that do not depend on each other.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        // The largest k for which fewer than k of n samples lie below the true median with at most
        // 2.5 %: binomial with share one half.
        let mut below = 0.0;
        let mut term = 0.5f64.powi(n as i32);
        let mut k = 0;
        while k < n / 2 {
            below += term;
            if below > 0.025 {
                break;
            }
            term *= (n - k) as f64 / (k + 1) as f64;
            k += 1;
        }
        let interval = k
            .checked_sub(1)
            .and_then(|index| Some((*sorted.get(index)?, *sorted.get(n - 1 - index)?)));
        Some(Self {
            value: median(samples)?,
            interval,
            n,
        })
    }
}

impl std::fmt::Display for Median {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}", self.value)?;
        match self.interval {
            Some((low, high)) => write!(f, " [{low:.3}, {high:.3}] (n {})", self.n),
            None => write!(f, " (n {}, too few for an interval)", self.n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.99), Some(99.0));
        assert_eq!(quantile(&hundred, 0.5), Some(50.0));
    }

    #[test]
    fn intervals_are_those_of_the_tables() {
        // Order statistics for 95 %: n = 10 -> 2nd and 9th, n = 20 -> 6th and 15th, n = 6 -> all.
        let ends = |n: u32| {
            let samples: Vec<f64> = (1..=n).map(f64::from).collect();
            Median::of(&samples).and_then(|median| median.interval)
        };
        assert_eq!(ends(5), None);
        assert_eq!(ends(6), Some((1.0, 6.0)));
        assert_eq!(ends(10), Some((2.0, 9.0)));
        assert_eq!(ends(20), Some((6.0, 15.0)));
    }
}
