//! Ranks with Zipf's distribution: the k-th of n is drawn with a probability in proportion to
//! 1 / k^θ. Source: Gray et al., "Quickly Generating Billion-Record Synthetic Databases",
//! SIGMOD 1994, as YCSB does it.

use rand::Rng;
use rand::rngs::StdRng;

/// YCSB's θ.
const THETA: f64 = 0.99;

/// The distribution over a fixed number of ranks.
#[derive(Clone, Copy, Debug)]
pub struct Zipfian {
    ranks: u64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipfian {
    /// Over 0 to `ranks` - 1; takes time in proportion to `ranks`, which is not 0.
    pub fn new(ranks: u64) -> Self {
        let zeta = zeta(ranks);
        Self {
            ranks,
            zeta,
            alpha: 1.0 / (1.0 - THETA),
            eta: (1.0 - (2.0 / ranks as f64).powf(1.0 - THETA)) / (1.0 - zeta_two() / zeta),
        }
    }

    /// Draws a rank; 0 is the most frequent one.
    pub fn draw(&self, rng: &mut StdRng) -> u64 {
        let u: f64 = rng.random();
        let uz = u * self.zeta;
        if uz < 1.0 || self.ranks == 1 {
            return 0;
        }
        if uz < zeta_two() {
            return 1;
        }
        let rank = self.ranks as f64 * (self.eta * u - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.ranks - 1)
    }
}

/// The sum of 1 / k^θ for k from 1 to `ranks`.
fn zeta(ranks: u64) -> f64 {
    (1..=ranks).map(|k| (k as f64).powf(-THETA)).sum()
}

/// The sum of the first two.
fn zeta_two() -> f64 {
    1.0 + 0.5f64.powf(THETA)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Stream, generator};

    #[test]
    fn frequent_ranks_are_as_frequent_as_zipf_says() {
        const DRAWS: u64 = 200_000;
        let (ranks, mut rng) = (1_000, generator(7, Stream::Run));
        let zipfian = Zipfian::new(ranks);
        let mut counts = vec![0u64; ranks as usize];
        for _ in 0..DRAWS {
            counts[zipfian.draw(&mut rng) as usize] += 1;
        }
        let probability = |k: f64| k.powf(-THETA) / zeta(ranks);
        // The first two ranks are exact, the others approximate.
        for (rank, tolerance) in [(0, 0.03), (1, 0.04), (9, 0.25), (99, 0.35)] {
            let expected = DRAWS as f64 * probability(rank as f64 + 1.0);
            let deviation = (counts[rank] as f64 - expected).abs() / expected;
            assert!(deviation < tolerance, "rank {rank}: {} for {expected}", counts[rank]);
        }
        // The hottest hundredth draws 39 of 100.
        let hottest = counts[..10].iter().sum::<u64>() as f64 / DRAWS as f64;
        assert!((0.36..0.42).contains(&hottest), "{hottest}");
        assert!(counts[ranks as usize - 1] < DRAWS / 1_000);
    }

    #[test]
    fn few_ranks_are_drawn_within_their_bounds() {
        let mut rng = generator(7, Stream::Run);
        for ranks in [1, 2, 3] {
            let zipfian = Zipfian::new(ranks);
            let drawn: Vec<u64> = (0..1_000).map(|_| zipfian.draw(&mut rng)).collect();
            assert!(drawn.iter().all(|rank| *rank < ranks), "{ranks}");
            assert!((0..ranks).all(|rank| drawn.contains(&rank)), "{ranks}");
        }
    }
}
