//! Percentiles and how sure they are.

use lab::rng::Rng;

/// The percentiles that are reported.
pub const SHARES: [f64; 3] = [0.5, 0.95, 0.99];
const RESAMPLES: usize = 1_000;

/// Its ends; `None` where so few samples do not bound it.
pub type Interval = (Option<f64>, Option<f64>);

/// The value at this share of sorted samples (nearest rank).
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The interval that holds the true quantile with at least 95 %, for samples that do not depend on
/// each other: order statistics, whatever the distribution.
#[must_use]
pub fn order_interval(sorted: &[f64], share: f64) -> Interval {
    let n = sorted.len();
    // Of n samples, the number below the true quantile is binomial.
    let (mut low, mut high) = (None, None);
    let mut cumulated = 0.0;
    for k in 0..n {
        // The k-th smallest (from 0) lies above the quantile with probability P(X <= k), and below
        // it with P(X > k).
        cumulated += binomial(n, k, share);
        if cumulated <= 0.025 {
            low = sorted.get(k).copied();
        }
        if high.is_none() && cumulated >= 0.975 {
            high = sorted.get(k).copied();
        }
    }
    (low, high)
}

/// P(X = k) for n draws with probability p.
fn binomial(n: usize, k: usize, p: f64) -> f64 {
    let log_choose: f64 = (0..k)
        .map(|i| ((n - i) as f64).ln() - ((i + 1) as f64).ln())
        .sum();
    (log_choose + k as f64 * p.ln() + (n - k) as f64 * (1.0 - p).ln()).exp()
}

/// The same for samples that come in groups (the connections of a cut): bootstrap over the groups,
/// always the same for the same samples.
#[must_use]
pub fn group_interval(groups: &[Vec<f64>], share: f64) -> Interval {
    if groups.len() < 2 {
        return (None, None);
    }
    let mut rng = Rng::new(groups.len() as u64);
    let mut found: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let mut all: Vec<f64> = (0..groups.len())
                .filter_map(|_| groups.get(rng.range(0, groups.len() as u64) as usize))
                .flatten()
                .copied()
                .collect();
            all.sort_by(f64::total_cmp);
            quantile(&all, share)
        })
        .collect();
    found.sort_by(f64::total_cmp);
    (quantile(&found, 0.025), quantile(&found, 0.975))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_statistics_as_in_the_tables() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        // The median of 100: the 40th and the 61st (Conover, Practical Nonparametric Statistics).
        assert_eq!(order_interval(&sorted, 0.5), (Some(40.0), Some(61.0)));
        // The 99th percentile of 100 has no upper bound: 0.99^100 = 37 %.
        assert_eq!(order_interval(&sorted, 0.99).1, None);
        assert_eq!(order_interval(&[1.0], 0.5), (None, None));
    }

    #[test]
    fn groups_of_the_same_samples_are_sure() {
        let groups = vec![vec![1.0, 2.0, 3.0]; 10];
        assert_eq!(group_interval(&groups, 0.5), (Some(2.0), Some(2.0)));
        let mut groups = groups;
        groups[0] = vec![100.0; 3];
        let (low, high) = group_interval(&groups, 0.99);
        assert!(low < high, "{low:?} {high:?}");
    }
}
