//! The standard's random values: NURand (clause 2.1.6), last names (4.3.2.3), and texts
//! (4.3.2.2, 4.3.2.7).

use rand::Rng;
use rand::rngs::StdRng;

use crate::random::push_alphanumeric;

/// Last names there are.
pub const LAST_NAMES: u32 = 1_000;
/// NURand's constant for last names while loading.
const C_LAST_LOAD: u32 = 100;

/// The constants of NURand, one for each A.
#[derive(Clone, Copy, Debug)]
pub struct NuRand {
    /// For A = 255: last names.
    pub c_last: u32,
    /// For A = 1023: customers.
    pub c_customer: u32,
    /// For A = 8191: items.
    pub c_item: u32,
}

impl NuRand {
    /// Constants for loading.
    pub fn load(rng: &mut StdRng) -> Self {
        Self { c_last: C_LAST_LOAD, ..Self::run(rng) }
    }

    /// Constants for a run. That of last names lies 65 to 119 from the one they were loaded
    /// with, and not 96 or 112 (clause 2.1.6.1).
    pub fn run(rng: &mut StdRng) -> Self {
        let mut delta = rng.random_range(65..=119);
        while delta == 96 || delta == 112 {
            delta = rng.random_range(65..=119);
        }
        Self {
            c_last: C_LAST_LOAD + delta,
            c_customer: rng.random_range(0..=1_023),
            c_item: rng.random_range(0..=8_191),
        }
    }

    /// The number of a last name, below `names`.
    pub fn last_name(&self, rng: &mut StdRng, names: u32) -> u32 {
        nurand(rng, 255, self.c_last, 0, names - 1)
    }

    /// A customer of a district with as many.
    pub fn customer(&self, rng: &mut StdRng, customers: u32) -> u32 {
        nurand(rng, 1_023, self.c_customer, 1, customers)
    }

    /// An item out of as many.
    pub fn item(&self, rng: &mut StdRng, items: u32) -> u32 {
        nurand(rng, 8_191, self.c_item, 1, items)
    }
}

/// NURand(A, x, y) with its constant C.
fn nurand(rng: &mut StdRng, a: u32, c: u32, x: u32, y: u32) -> u32 {
    let either = rng.random_range(0..=a) | rng.random_range(x..=y);
    (either + c) % (y - x + 1) + x
}

/// The last name of a number below [`LAST_NAMES`]: a syllable for each digit.
pub fn last_name(number: u32) -> String {
    const SYLLABLES: [&str; 10] =
        ["BAR", "OUGHT", "ABLE", "PRI", "PRES", "ESE", "ANTI", "CALLY", "ATION", "EING"];
    let digits = [number / 100 % 10, number / 10 % 10, number % 10];
    digits.map(|digit| SYLLABLES[digit as usize]).concat()
}

/// Random digits.
pub fn digits(rng: &mut StdRng, length: usize) -> String {
    (0..length).map(|_| char::from(b'0' + rng.random_range(0..10u8))).collect()
}

/// A ZIP code: four random digits and five ones.
pub fn zip(rng: &mut StdRng) -> String {
    digits(rng, 4) + "11111"
}

/// Two letters.
pub fn state(rng: &mut StdRng) -> String {
    (0..2).map(|_| char::from(b'A' + rng.random_range(0..26u8))).collect()
}

/// 26 to 50 letters; one of ten texts holds "ORIGINAL" somewhere.
pub fn original_data(rng: &mut StdRng) -> String {
    const ORIGINAL: &str = "ORIGINAL";
    let length = rng.random_range(26..=50);
    let mut text = String::with_capacity(length);
    if rng.random_range(0..10) == 0 {
        let before = rng.random_range(0..=length - ORIGINAL.len());
        push_alphanumeric(rng, &mut text, before);
        text.push_str(ORIGINAL);
        push_alphanumeric(rng, &mut text, length - ORIGINAL.len() - before);
    } else {
        push_alphanumeric(rng, &mut text, length);
    }
    text
}

/// Numbers 1 to `count` in random order.
pub fn permutation(rng: &mut StdRng, count: u32) -> Vec<u32> {
    let mut numbers: Vec<u32> = (1..=count).collect();
    for at in (1..numbers.len()).rev() {
        numbers.swap(at, rng.random_range(0..=at));
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Stream, generator};

    #[test]
    fn last_names_are_the_standards() {
        assert_eq!(last_name(371), "PRICALLYOUGHT");
        assert_eq!(last_name(40), "BARPRESBAR");
        assert_eq!(last_name(0), "BARBARBAR");
        assert_eq!(last_name(999), "EINGEINGEING");
    }

    #[test]
    fn nurand_stays_in_its_bounds_and_is_not_uniform() {
        let mut rng = generator(1, Stream::Run);
        let nurand = NuRand::run(&mut rng);
        let mut counts = vec![0u32; 3_001];
        for _ in 0..300_000 {
            counts[nurand.customer(&mut rng, 3_000) as usize] += 1;
        }
        assert_eq!(counts[0], 0);
        counts.remove(0);
        // Numbers whose every bit must come out as zero are almost never drawn.
        let drawn = counts.iter().filter(|count| **count > 0).count();
        assert!(drawn > 2_500, "{drawn}");
        counts.sort_unstable_by(|a, b| b.cmp(a));
        // An OR has more ones than zeros: a tenth of the customers draws far more than a tenth.
        let hottest: u32 = counts[..300].iter().sum();
        assert!(hottest > 100_000, "{hottest}");
    }

    #[test]
    fn nurand_of_few_values_stays_in_their_bounds() {
        let mut rng = generator(2, Stream::Run);
        let nurand = NuRand::load(&mut rng);
        for _ in 0..1_000 {
            assert!((1..=7).contains(&nurand.customer(&mut rng, 7)));
            assert!((1..=7).contains(&nurand.item(&mut rng, 7)));
            assert!(nurand.last_name(&mut rng, 7) < 7);
        }
    }

    #[test]
    fn the_constants_of_last_names_are_apart_as_demanded() {
        for seed in 0..500 {
            let delta = NuRand::run(&mut generator(seed, Stream::Run)).c_last - C_LAST_LOAD;
            assert!((65..=119).contains(&delta) && delta != 96 && delta != 112, "{delta}");
        }
    }

    #[test]
    fn texts_and_orders_are_as_long_as_the_standard_says() {
        let mut rng = generator(3, Stream::Run);
        let texts: Vec<String> = (0..2_000).map(|_| original_data(&mut rng)).collect();
        assert!(texts.iter().all(|text| (26..=50).contains(&text.len())));
        let original = texts.iter().filter(|text| text.contains("ORIGINAL")).count();
        assert!((150..250).contains(&original), "{original}");
        assert!(zip(&mut rng).len() == 9 && state(&mut rng).len() == 2);
        let mut numbers = permutation(&mut rng, 100);
        assert_ne!(numbers, (1..=100).collect::<Vec<_>>());
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    }
}
