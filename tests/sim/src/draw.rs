//! Random draws: one stream for each world and purpose, the same from the same seed.

use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;

/// A stream of draws. PCG's output for a state is part of its crate's promise.
#[derive(Clone, Debug)]
pub struct Draw(Pcg64);

/// Spreads neighbouring numbers over all bits (the finaliser of SplitMix64).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The seed of one world of a run.
#[must_use]
pub fn world_seed(seed: u64, index: u64) -> u64 {
    mix(mix(seed) ^ index)
}

impl Draw {
    /// A world's stream for one purpose.
    #[must_use]
    pub fn new(world: u64, purpose: u64) -> Self {
        let state = u128::from(mix(world)) << 64 | u128::from(mix(world ^ mix(purpose)));
        Self(Pcg64::new(state, u128::from(purpose)))
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..n`; 0 where `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && self.unit() < p
    }

    /// Uniform between two numbers.
    pub fn range(&mut self, [low, high]: [f64; 2]) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in the logarithm: each factor is as likely as any other of the same size.
    pub fn log_range(&mut self, [low, high]: [f64; 2]) -> f64 {
        low * (high / low).powf(self.unit())
    }

    /// Exponential with a mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// Log-normal: half of the draws lie below the median.
    pub fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        // Box and Muller.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        median * (sigma * radius * (std::f64::consts::TAU * self.unit()).cos()).exp()
    }

    /// The index of a weight, in proportion to the weights; 0 where none is positive.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let sum: f64 = weights.iter().sum();
        let mut at = self.unit() * sum;
        for (index, weight) in weights.iter().enumerate() {
            at -= weight;
            if at < 0.0 {
                return index;
            }
        }
        0
    }

    /// Zipf's law: the rank `k` of `n` with probability in proportion to `1 / (k + 1) ^ exponent`.
    pub fn zipf(&mut self, n: usize, exponent: f64) -> usize {
        let weights: Vec<f64> = (0..n.max(1))
            .map(|k| ((k + 1) as f64).powf(-exponent))
            .collect();
        self.weighted(&weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let take = |world, purpose| {
            let mut draw = Draw::new(world, purpose);
            (0..8).map(|_| draw.below(1 << 30)).collect::<Vec<_>>()
        };
        assert_eq!(take(1, 1), take(1, 1));
        assert_ne!(take(1, 1), take(1, 2));
        assert_ne!(take(1, 1), take(2, 1));
        assert_ne!(world_seed(1, 0), world_seed(0, 1));
    }

    #[test]
    fn draws_follow_their_laws() {
        let mut draw = Draw::new(7, 0);
        let n = 20_000;
        let mean = (0..n).map(|_| draw.exponential(3.0)).sum::<f64>() / f64::from(n);
        assert!((2.8..3.2).contains(&mean), "{mean}");
        let below = (0..n).filter(|_| draw.lognormal(40.0, 0.6) < 40.0).count();
        assert!((9_600..10_400).contains(&below), "{below}");
        let first = (0..n).filter(|_| draw.zipf(10, 1.0) == 0).count();
        // 1 / (1 + 1/2 + ... + 1/10) = 0.341
        assert!((6_400..7_250).contains(&first), "{first}");
        let low = (0..n)
            .filter(|_| draw.log_range([2.0, 1000.0]) < 44.7)
            .count();
        assert!((9_600..10_400).contains(&low), "{low}");
    }
}
